//! Paging as instructions see it (SDM 3A chapter 4; in newer editions 5): permissions, accessed and dirty bits, page-fault
//! error codes, what the TLB may and may not remember, and the modes.

use crate::common::*;
use crate::helpers::*;
use ringworld_x86::Activity;
use ringworld_x86::control::{cr0 as c0, cr4 as c4};

/// A linear page under test, mapped by a 4-KiB page table of its own.
const PAGE: u64 = 0x40_0000;
/// Its page table, and a second page directory pointer table.
const TABLE: u64 = 0x11_0000;
/// Physical pages that it may map to.
const FRAME: u64 = 0x80_0000;
const FRAME2: u64 = 0x80_1000;
const EFER: u32 = 0xc000_0080;

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;

/// 64-bit mode with [`PAGE`] (and the 2 MiB around it) in 4-KiB pages, all user-writable, mapped to themselves but for
/// the first, which maps to [`FRAME`].
fn rig() -> Rig {
    let mut rig = Rig::long().ready();
    for n in 0..512 {
        rig.poke(TABLE + 8 * n, (PAGE + n * 0x1000) | P | W | U);
    }
    rig.poke(TABLES + 0x2000 + 8 * (PAGE >> 21), TABLE | P | W | U);
    map(&mut rig, FRAME | P | W | U);
    rig.cpu.regs[3] = PAGE;
    rig
}

/// Changes [`PAGE`]'s entry, without telling the TLB.
fn map(rig: &mut Rig, entry: u64) {
    rig.poke(TABLE, entry);
}

const READ: &[u8] = &[0x8b, 0x03];
const WRITE: &[u8] = &[0x89, 0x03];
/// `jmp rbx`.
const FETCH: &[u8] = &[0xff, 0xe3];
/// `ret` at the page leads back.
fn fetchable(rig: &mut Rig) {
    rig.load(FRAME, &[0xcd, DONE]);
}

/// SDM 3A 4.6, 4.7: who may do what, and the error code of what is refused.
#[test]
fn permissions() {
    const WP: u64 = c0::WP;
    const SMEP: u64 = c4::SMEP;
    const SMAP: u64 = c4::SMAP;
    const AC: u64 = 1 << 18;
    // Entry, CPL, CR0.WP, CR4, EFLAGS.AC, access, result.
    let table: &[(u64, u8, u64, u64, u64, &[u8], Cause)] = &[
        // Not present.
        (0, 0, WP, 0, 0, READ, pf(0)),
        (0, 0, WP, 0, 0, WRITE, pf(2)),
        (0, 0, WP, 0, 0, FETCH, pf(0x10)),
        (0, 3, WP, 0, 0, READ, pf(4)),
        (0, 3, WP, 0, 0, WRITE, pf(6)),
        (0, 3, WP, 0, 0, FETCH, pf(0x14)),
        // Supervisor pages.
        (P | W, 0, WP, 0, 0, READ, None),
        (P | W, 0, WP, 0, 0, WRITE, None),
        (P | W, 0, WP, 0, 0, FETCH, None),
        (P | W, 3, WP, 0, 0, READ, pf(5)),
        (P | W, 3, WP, 0, 0, WRITE, pf(7)),
        (P | W, 3, WP, 0, 0, FETCH, pf(0x15)),
        // Read-only pages.
        (P | U, 3, WP, 0, 0, READ, None),
        (P | U, 3, WP, 0, 0, WRITE, pf(7)),
        (P | U, 3, 0, 0, 0, WRITE, pf(7)),
        (P | U, 0, WP, 0, 0, WRITE, pf(3)),
        (P | U, 0, 0, 0, 0, WRITE, None),
        (P, 0, WP, 0, 0, WRITE, pf(3)),
        (P, 0, 0, 0, 0, WRITE, None),
        // NX.
        (P | W | U | NX, 0, WP, 0, 0, READ, None),
        (P | W | U | NX, 0, WP, 0, 0, FETCH, pf(0x11)),
        (P | W | U | NX, 3, WP, 0, 0, FETCH, pf(0x15)),
        // SMEP: the supervisor runs no user page.
        (P | W | U, 0, WP, SMEP, 0, FETCH, pf(0x11)),
        (P | W | U, 0, WP, SMEP, 0, READ, None),
        (P | W | U, 3, WP, SMEP, 0, FETCH, None),
        (P | W, 0, WP, SMEP, 0, FETCH, None),
        // SMAP: nor touches its data, unless AC says so.
        (P | W | U, 0, WP, SMAP, 0, READ, pf(1)),
        (P | W | U, 0, WP, SMAP, 0, WRITE, pf(3)),
        (P | W | U, 0, WP, SMAP, AC, READ, None),
        (P | W | U, 0, WP, SMAP, AC, WRITE, None),
        (P | U, 0, WP, SMAP, AC, WRITE, pf(3)),
        (P | W | U, 0, WP, SMAP, 0, FETCH, None),
        (P | W | U, 3, WP, SMAP, 0, READ, None),
        (P | W, 0, WP, SMAP, 0, READ, None),
        // Reserved bits: physical-address bits beyond MAXPHYADDR.
        (P | W | U | 1 << 51, 0, WP, 0, 0, READ, pf(9)),
        (P | W | U | 1 << 51, 3, WP, 0, 0, WRITE, pf(0xf)),
        (P | W | U | 1 << 51, 0, WP, 0, 0, FETCH, pf(0x19)),
    ];
    for &(entry, cpl, cr0, cr4, ac, code, expected) in table {
        // Cold, and with the translation in the TLB before the mode is entered, where a read may put it there.
        for warm in [false, true] {
            let mut rig = rig();
            fetchable(&mut rig);
            map(&mut rig, if entry == 0 { 0 } else { entry | FRAME });
            if warm && entry & P != 0 && entry >> 51 & 1 == 0 {
                rig.load(CODE, READ);
                rig.run(1);
                assert_eq!(rig.cpu.rip(), CODE + 2);
            }
            // The tables' other pages are user pages: SMEP and SMAP must not meet them.
            if cpl == 0 && cr4 != 0 {
                for n in 0..512 {
                    let at = TABLES + 0x2000 + 8 * n;
                    let value = rig.peek(at) & !(if n == PAGE >> 21 { 0 } else { U });
                    rig.poke(at, value);
                }
                rig.cpu.flush_all();
            }
            rig.cpu.cr0 = rig.cpu.cr0 & !c0::WP | cr0;
            rig.cpu.cr4 |= cr4;
            rig.cpu.flags.set(2 | ac);
            let mut rig = if cpl == 3 { rig.user() } else { rig };
            rig.cpu.set_rip(CODE);
            rig.cpu.update_mode();
            let what = format!("{entry:#x} {cpl} {cr0:#x} {cr4:#x} {ac:#x} {code:x?} {warm}");
            if cpl == 3 && cr4 != 0 {
                // Handlers in user pages could not run.
                rig.load(CODE, code);
                rig.load(FRAME, &[0x90]);
                rig.run(if code == FETCH { 2 } else { 1 });
                let arrived = if code == FETCH { PAGE + 1 } else { CODE + code.len() as u64 };
                assert_eq!((rig.cpu.rip(), rig.cpu.cpl), (arrived, 3), "{what}");
                continue;
            }
            let result = rig.bytes(code);
            assert_eq!(cause(result), expected, "{what}");
            if let Err(frame) = result {
                assert_eq!(rig.cpu.cr2, PAGE, "{what}");
                assert_eq!(frame.ip, if code == FETCH { PAGE } else { CODE }, "{what}");
            }
        }
    }
}

/// SDM 3A 4.8: A is set by any access, D by a write, in every entry on the way and only there.
#[test]
fn accessed_and_dirty() {
    for (code, leaf) in [(READ, A), (WRITE, A | D), (FETCH, A)] {
        let mut rig = rig();
        fetchable(&mut rig);
        assert_eq!(cause(rig.bytes(code)), None);
        assert_eq!(rig.peek(TABLE), FRAME | P | W | U | leaf, "{code:x?}");
        assert_eq!(rig.peek(TABLES + 0x2000 + 8 * (PAGE >> 21)), TABLE | P | W | U | A);
        assert_eq!(rig.peek(TABLE + 8), (PAGE + 0x1000) | P | W | U, "the neighbour is untouched");
    }
    // A write after a read of the same page sets D then.
    let mut rig = rig();
    assert_eq!(cause(rig.bytes(&[0x8b, 0x03, 0x89, 0x03])), None);
    assert_eq!(rig.peek(TABLE) & (A | D), A | D);
    // A refused access leaves the leaf alone.
    let mut rig = self::rig();
    map(&mut rig, FRAME | P);
    assert_eq!(cause(rig.bytes(WRITE)), pf(3));
    assert_eq!(rig.peek(TABLE) & D, 0);
    // A read-modify-write that faults on the write half does so before it reads.
    assert_eq!(rig.peek(FRAME), 0);
}

/// SDM 3A 4.10.4: after INVLPG, a write of CR3, INVPCID and so on nothing stale is used; without them it may be, but must be
/// the old or the new translation.
#[test]
fn invalidation() {
    type Flush = &'static [u8];
    let cr3: Flush = &[0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8];
    let invlpg: Flush = &[0x0f, 0x01, 0x3b];
    let invlpg_inside: Flush = &[0x0f, 0x01, 0x7b, 0x7f];
    // invpcid rdi, [r14]: RDI is the type.
    let invpcid: Flush = &[0x66, 0x41, 0x0f, 0x38, 0x82, 0x3e];
    let cr4: Flush = &[0x0f, 0x20, 0xe0, 0x0f, 0xba, 0xf8, 7, 0x0f, 0x22, 0xe0]; // btc eax, 7
    // Flush, type, global page; whether the new entry must be seen.
    let table: &[(Flush, u64, u64, bool)] = &[
        (&[], 0, 0, false),
        (cr3, 0, 0, true),
        (invlpg, 0, 0, true),
        (invlpg, 0, G, true),
        (invlpg_inside, 0, 0, true),
        (invpcid, 0, 0, true),
        (invpcid, 1, 0, true),
        (invpcid, 2, 0, true),
        (invpcid, 2, G, true),
        (invpcid, 3, 0, true),
        (cr4, 0, 0, true),
        (cr4, 0, G, true),
    ];
    for &(flush, kind, global, must) in table {
        for access in [READ, WRITE, FETCH] {
            let mut rig = rig();
            rig.cpu.cr4 |= c4::PGE;
            rig.cpu.update_mode();
            map(&mut rig, FRAME | P | W | U | global);
            rig.cpu.regs[14] = DATA;
            rig.poke(DATA, 0);
            rig.poke(DATA + 8, PAGE);
            rig.cpu.regs[7] = kind;
            // Use the page: code there jumps back through R15.
            rig.load(FRAME, &[0xb9, 1, 0, 0, 0, 0x41, 0xff, 0xe7]);
            rig.load(FRAME2, &[0xb9, 2, 0, 0, 0, 0x41, 0xff, 0xe7]);
            rig.cpu.regs[15] = CODE + 0x100;
            rig.load(CODE, access);
            rig.load(CODE + 2, &[0x41, 0xff, 0xe7]);
            rig.load(CODE + 0x100, &[0xf4]);
            rig.run(10);
            assert_eq!(rig.cpu.activity, Activity::Halted);
            // Change the mapping, flush, and use it again.
            rig.cpu.activity = Activity::Active;
            map(&mut rig, FRAME2 | P | W | U | global);
            rig.load(CODE + 0x200, flush);
            let at = CODE + 0x200 + flush.len() as u64;
            rig.load(at, access);
            rig.load(at + 2, &[0x41, 0xff, 0xe7]);
            rig.cpu.set_rip(CODE + 0x200);
            rig.cpu.regs[0] = 0x5555;
            rig.run(10);
            assert_eq!(rig.cpu.activity, Activity::Halted, "{flush:x?}");
            if must {
                let new = match access {
                    READ => rig.cpu.regs[0] as u32 == rig.peek32(FRAME2),
                    WRITE => rig.peek32(FRAME2) == rig.cpu.regs[0] as u32,
                    _ => rig.cpu.regs[1] == 2,
                };
                assert!(new, "{flush:x?} {kind} {global:#x} {access:x?}");
            }
        }
    }
}

/// INVLPG forgets code that was found by its linear address, also when other invalidations came between.
#[test]
fn invlpg_forgets_code() {
    let mut rig = rig();
    // Small pages only: large ones would have everything forgotten.
    for n in 0..512 {
        rig.poke(0x12_0000 + 8 * n, (0x1000 * n) | P | W | U);
    }
    rig.poke(TABLES + 0x2000, 0x12_0000 | P | W | U);
    rig.cpu.flush_all();
    // Both pages end in `jmp r15`.
    rig.load(FRAME, &[0xb9, 1, 0, 0, 0, 0x41, 0xff, 0xe7]);
    rig.load(FRAME2, &[0xb9, 2, 0, 0, 0, 0x41, 0xff, 0xe7]);
    rig.cpu.regs[15] = CODE + 0x100;
    rig.load(CODE + 0x100, &[0xf4]);
    rig.load(CODE, FETCH);
    rig.load(CODE + 0x40, &[0x0f, 0x01, 0x7b, 0x00, 0xff, 0xe3]); // invlpg [rbx]; jmp rbx
    rig.load(CODE + 0x80, &[0x0f, 0x01, 0x38, 0xff, 0xe3]); // invlpg [rax]; jmp rbx
    let go = |rig: &mut Rig, at| {
        rig.cpu.activity = Activity::Active;
        rig.cpu.set_rip(at);
        rig.run(20);
        assert_eq!(rig.cpu.activity, Activity::Halted);
        rig.cpu.regs[1]
    };
    assert_eq!(go(&mut rig, CODE), 1);
    // Another page, from which code ran as well, is invalidated; then this page's code runs again from the TLB.
    rig.cpu.regs[0] = CODE;
    assert_eq!(go(&mut rig, CODE + 0x80), 1);
    map(&mut rig, FRAME2 | P | W | U);
    assert_eq!(go(&mut rig, CODE + 0x40), 2);
}

/// SDM 3A 4.10.2.4: global pages survive writes of CR3, or do not; PCIDs keep their translations apart.
#[test]
fn process_context_identifiers() {
    use iced_x86::code_asm::*;
    let mut rig = rig();
    rig.cpu.cr4 |= c4::PCIDE;
    rig.cpu.update_mode();
    // A second address space, PCID 5, in which PAGE maps to FRAME2.
    let other = 0x12_0000;
    for n in 0..512 {
        rig.poke(other + 8 * n, rig.peek(TABLES + 8 * n));
        rig.poke(other + 0x1000 + 8 * n, rig.peek(TABLES + 0x1000 + 8 * n));
        rig.poke(other + 0x2000 + 8 * n, rig.peek(TABLES + 0x2000 + 8 * n));
    }
    rig.poke(other, (other + 0x1000) | P | W | U);
    rig.poke(other + 0x1000, (other + 0x2000) | P | W | U);
    rig.poke(other + 0x2000 + 8 * (PAGE >> 21), (other + 0x3000) | P | W | U);
    rig.poke(other + 0x3000, FRAME2 | P | W | U);
    rig.poke32(FRAME, 1);
    rig.poke32(FRAME2, 2);
    let keep = 1 << 63;
    rig.put(CODE, |a| {
        a.mov(rsi, TABLES | keep)?;
        a.mov(rdi, (other | 5) | keep)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.mov(cr3, rdi)?;
        a.mov(ecx, dword_ptr(rbx))?;
        a.mov(cr3, rsi)?;
        a.mov(edx, dword_ptr(rbx))?;
        a.mov(cr3, rdi)?;
        a.mov(r8d, dword_ptr(rbx))?;
        a.mov(r9, cr3)?;
        a.hlt()
    });
    rig.run(20);
    assert_eq!([0, 1, 2, 8].map(|n: usize| rig.cpu.regs[n]), [1, 2, 1, 2]);
    assert_eq!(rig.cpu.regs[9], other | 5, "bit 63 is not stored");
    // INVPCID's types for another PCID: its translation is gone when it comes back without a flush.
    for (kind, linear) in [(0, PAGE), (1, 0), (2, 0), (3, 0)] {
        let mut rig = self::rig();
        rig.cpu.cr4 |= c4::PCIDE;
        rig.cpu.update_mode();
        rig.poke32(FRAME, 1);
        rig.poke32(FRAME2, 2);
        rig.poke(DATA, 0);
        rig.poke(DATA + 8, linear);
        rig.put(CODE, |a| {
            a.mov(eax, dword_ptr(rbx))?;
            a.mov(rsi, keep | TABLES | 7)?;
            a.mov(cr3, rsi)?;
            a.mov(eax, dword_ptr(rbx))?;
            a.mov(r14, DATA)?;
            a.mov(rdi, kind as u64)?;
            a.mov(qword_ptr(TABLE as i32), r13)?;
            a.invpcid(rdi, xmmword_ptr(r14))?;
            a.mov(rsi, keep | TABLES)?;
            a.mov(cr3, rsi)?;
            a.mov(ecx, dword_ptr(rbx))?;
            a.hlt()
        });
        rig.cpu.regs[13] = FRAME2 | P | W | U;
        rig.run(30);
        assert_eq!(rig.cpu.activity, Activity::Halted);
        assert_eq!(rig.cpu.regs[1], 2, "type {kind}");
    }
}

/// SDM 2A INVPCID, INVLPG: what is refused.
#[test]
fn invpcid_and_invlpg_operands() {
    // CR4.PCIDE, type, descriptor, linear address, result.
    for (pcide, kind, descriptor, linear, expected) in [
        (0, 0, 0, PAGE, None),
        (0, 0, 1, PAGE, gp(0)),
        (c4::PCIDE, 0, 1, PAGE, None),
        (c4::PCIDE, 0, 0x1000, PAGE, gp(0)),
        (c4::PCIDE, 1, 1 << 63, 0, gp(0)),
        (c4::PCIDE, 2, 0x1000, 0, gp(0)),
        (0, 1, 1, 0, gp(0)),
        (0, 2, 1, 0, None),
        // Canonical for the widest mode that the processor has, whatever CR4.LA57 is.
        (0, 0, 0, 1 << 56, gp(0)),
        (0, 1, 0, 1 << 56, None),
        (0, 4, 0, 0, gp(0)),
        (0, u64::MAX, 0, 0, gp(0)),
    ] {
        let mut rig = rig();
        rig.cpu.cr4 |= pcide;
        rig.cpu.update_mode();
        rig.poke(DATA, descriptor);
        rig.poke(DATA + 8, linear);
        rig.cpu.regs[14] = DATA;
        rig.cpu.regs[7] = kind;
        let code = [0x66, 0x41, 0x0f, 0x38, 0x82, 0x3e];
        assert_eq!(cause(rig.bytes(&code)), expected, "{pcide:#x} {kind} {descriptor:#x} {linear:#x}");
        let mut user = self::rig().user();
        assert_eq!(cause(user.bytes(&code)), gp(0));
    }
    let mut rig = rig();
    rig.cpu.regs[3] = 1 << 47;
    assert_eq!(cause(rig.bytes(&[0x0f, 0x01, 0x3b])), None, "INVLPG of no address is a NOP");
    assert_eq!(cause(self::rig().bytes(&[0x0f, 0x01, 0xf9, 0x90])), None, "RDTSCP, not INVLPG of a register");
    assert_eq!(cause(self::rig().user().bytes(&[0x0f, 0x01, 0x3b])), gp(0));
}

/// Accesses across a page boundary: both pages are checked before any byte moves; CR2 names the page at fault.
#[test]
fn accesses_across_pages() {
    // Offset of the access, size, entries of the two pages, result, CR2.
    let (good, none, ro) = (P | W | U, 0, P | U);
    for (first, second, expected, cr2) in [
        (good, good, None, 0),
        (none, good, pf(2), PAGE + 0x1ffe),
        (good, none, pf(2), PAGE + 0x2000),
        (none, none, pf(2), PAGE + 0x1ffe),
        (good, ro, pf(3), PAGE + 0x2000),
        (ro, good, pf(3), PAGE + 0x1ffe),
    ] {
        // mov [rbx], eax; add [rbx], eax; push from [rbx]; movups.
        for code in [&[0x89, 0x03][..], &[0x01, 0x03], &[0x0f, 0x11, 0x03], &[0xf0, 0x0f, 0xc1, 0x03]] {
            let mut rig = rig();
            // Not contiguous in memory.
            rig.poke(TABLE + 8, if first == 0 { 0 } else { FRAME | first });
            rig.poke(TABLE + 16, if second == 0 { 0 } else { (FRAME + 0x5000) | second });
            rig.cpu.regs[3] = PAGE + 0x1ffe;
            rig.cpu.regs[0] = 0x4433_2211;
            rig.cpu.zmm[0][0] = 0x8877_6655_4433_2211;
            let what = format!("{first} {second} {code:x?}");
            assert_eq!(cause(rig.bytes(code)), expected, "{what}");
            let halves = (rig.peek16(FRAME + 0xffe), rig.peek16(FRAME + 0x5000));
            if expected.is_none() {
                assert_eq!(halves, (0x2211, 0x4433), "{what}");
            } else {
                assert_eq!((halves, rig.cpu.cr2), ((0, 0), cr2), "{what}");
            }
        }
    }
}

/// An instruction across a page boundary is fetched from both pages; if the second is missing, CR2 is its first byte, and
/// an instruction that ends at the boundary does not touch it (SDM 3A 4.7).
#[test]
fn fetches_across_pages() {
    // Code that ends `beyond` bytes into the next page.
    for (code, beyond, faults) in [
        (&[0xb8, 1, 2, 3, 4][..], 0, false),
        (&[0xb8, 1, 2, 3, 4], 1, true),
        (&[0xb8, 1, 2, 3, 4], 4, true),
        (&[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8], 9, true),
        (&[0x66, 0x90], 1, true),
        // Undefined whatever follows: #UD, not #PF.
        (&[0x0f, 0x0b], 0, false),
    ] {
        for present in [true, false] {
            let mut rig = rig();
            rig.poke(TABLE + 8, FRAME | P | W | U);
            rig.poke(TABLE + 16, if present { (FRAME + 0x5000) | P | W | U } else { 0 });
            let start = PAGE + 0x2000 + beyond - code.len() as u64;
            let first = code.len() - beyond as usize;
            rig.load(FRAME + 0x1000 - first as u64, &code[..first]);
            let rest: Vec<u8> = code[first..].iter().copied().chain([0xcd, DONE]).collect();
            rig.load(FRAME + 0x5000, &rest);
            rig.cpu.set_rip(start);
            let result = rig.finish();
            let what = format!("{code:x?} {beyond} {present}");
            if code == [0x0f, 0x0b] {
                assert_eq!(cause(result), UD, "{what}");
            } else if present {
                assert_eq!(cause(result), None, "{what}");
                if code[0] == 0xb8 {
                    assert_eq!(rig.cpu.regs[0], 0x0403_0201, "{what}");
                }
            } else {
                let frame = result.expect_err("#PF");
                let at = if faults { start } else { PAGE + 0x2000 };
                assert_eq!((frame.cause(), frame.ip, rig.cpu.cr2), ((14, 0x10), at, PAGE + 0x2000), "{what}");
            }
        }
    }
}

/// Page sizes (SDM 3A tables 4-2, 4-3): 2 MiB and 1 GiB, their reserved bits; 4 MiB and PSE-36 in 32-bit paging.
#[test]
fn large_pages() {
    for (level, base, reserved) in [(0x2000 + 8 * 2, 0x80_0000_u64, 1_u64 << 13), (0x1000 + 8, 0, 1 << 29)] {
        let mut rig = rig();
        let linear = if level == 0x1008 { 0x4000_0000 } else { PAGE };
        rig.poke(TABLES + level, base | PS | P | W | U);
        rig.poke32(base + 0x12_3450, 0xfeed);
        rig.cpu.regs[3] = linear + 0x12_3450;
        assert_eq!(cause(rig.bytes(&[0x8b, 0x03, 0x89, 0x43, 0x04])), None);
        assert_eq!((rig.cpu.regs[0], rig.peek32(base + 0x12_3454)), (0xfeed, 0xfeed));
        assert_eq!(rig.peek(TABLES + level) & (A | D), A | D);
        let mut rig = self::rig();
        rig.poke(TABLES + level, base | PS | P | W | U | reserved);
        rig.cpu.regs[3] = linear;
        assert_eq!(cause(rig.bytes(READ)), pf(9));
    }
    // PS in a PML4 entry is reserved.
    let mut rig = rig();
    rig.poke(TABLES + 8, 0x20_0000 | PS | P | W | U);
    rig.cpu.regs[3] = 1 << 39;
    assert_eq!(cause(rig.bytes(READ)), pf(9));
    // 32-bit paging: a 4-MiB page, or with CR4.PSE clear a page table.
    for pse in [true, false] {
        let mut rig = Rig::protected().ready();
        for n in 0..16 {
            rig.poke32(TABLES + 4 * n, (n << 22) as u32 | 0x87);
        }
        // Bit 7 without PSE: a page table at that address.
        rig.poke32(TABLES + 4 * 4, 0x0010_1087);
        rig.poke32(0x10_1000 + 4 * 0x10, 0x0020_0007);
        if !pse {
            for n in 0..1024 {
                rig.poke32(0x11_0000 + 4 * n, (n << 12) as u32 | 7);
            }
            rig.poke32(TABLES, 0x0011_0007);
        } else {
            rig.poke32(TABLES + 4 * 4, 0x0080_0087);
        }
        rig.poke32(0x20_0000, 0xaaaa);
        rig.poke32(0x81_0000, 0xbbbb);
        rig.cpu.cr3 = TABLES;
        rig.cpu.cr4 |= if pse { c4::PSE } else { 0 };
        rig.cpu.cr0 |= c0::PG;
        rig.cpu.update_mode();
        rig.cpu.flush_all();
        rig.cpu.regs[3] = 0x0101_0000;
        assert_eq!(cause(rig.bytes(READ)), None);
        assert_eq!(rig.cpu.regs[0], if pse { 0xbbbb } else { 0xaaaa });
    }
}

/// PAE paging: the PDPTE registers are loaded by MOV to CR3 and not read again (SDM 3A 4.4.1).
#[test]
fn pdpte_registers() {
    use iced_x86::code_asm::*;
    let build = || {
        let mut rig = Rig::protected().ready();
        for n in 0..4 {
            rig.poke(TABLES + 0x20 + 8 * n, (TABLES + 0x1000 * (n + 1)) | P);
            for k in 0..512 {
                rig.poke(TABLES + 0x1000 * (n + 1) + 8 * k, (k << 21) | PS | P | W | U);
            }
        }
        rig.cpu.cr4 |= c4::PAE;
        rig.cpu.cr0 |= c0::PG;
        rig.cpu.regs[0] = TABLES + 0x20; // 32-byte aligned
        rig
    };
    let mov_cr3 = [0x0f, 0x22, 0xd8];
    // Reserved bits: #GP(0) at MOV to CR3, if the entry is present.
    for (entry, expected) in [
        ((TABLES + 0x2000) | P, None),
        ((TABLES + 0x2000) | P | W, gp(0)),
        ((TABLES + 0x2000) | P | U, gp(0)),
        ((TABLES + 0x2000) | P | 1 << 8, gp(0)),
        ((TABLES + 0x2000) | P | 1 << 63, gp(0)),
        ((TABLES + 0x2000) | P | 0x18, None),
        (1 << 63 | 6, None),
    ] {
        let mut rig = build();
        rig.poke(TABLES + 0x28, entry);
        rig.cpu.cr0 &= !c0::PG;
        rig.cpu.update_mode();
        rig.put(CODE, |a| {
            a.mov(cr3, eax)?;
            a.mov(ecx, cr0)?;
            a.or(ecx, 0x8000_0000_u32 as i32)?;
            a.mov(cr0, ecx)?;
            a.int(u32::from(DONE))
        });
        assert_eq!(cause(rig.finish()), expected, "{entry:#x}: at CR0.PG");
        if expected.is_some() {
            assert_eq!(rig.cpu.cr0 & c0::PG, 0);
            continue;
        }
        let mut rig = build();
        rig.poke(TABLES + 0x28, entry);
        rig.cpu.cr3 = TABLES + 0x20;
        rig.cpu.pdptes = [0, 1, 2, 3].map(|n| rig.peek(TABLES + 0x20 + 8 * n));
        rig.cpu.update_mode();
        assert_eq!(cause(rig.bytes(&mov_cr3)), expected, "{entry:#x}");
    }
    // Not read again.
    let mut rig = build();
    rig.cpu.cr3 = TABLES + 0x20;
    rig.cpu.pdptes = [0, 1, 2, 3].map(|n| rig.peek(TABLES + 0x20 + 8 * n));
    rig.cpu.update_mode();
    rig.poke(TABLES + 0x28, 0);
    rig.poke32(DATA, 0xfeed);
    rig.cpu.regs[3] = 0x4000_0000 + DATA;
    assert_eq!(cause(rig.bytes(&[0x0f, 0x01, 0x3b, 0x8b, 0x0b])), None);
    assert_eq!(rig.cpu.regs[1], 0xfeed);
    let mut rig = build();
    rig.cpu.cr3 = TABLES + 0x20;
    rig.cpu.pdptes = [0, 1, 2, 3].map(|n| rig.peek(TABLES + 0x20 + 8 * n));
    rig.cpu.update_mode();
    rig.poke(TABLES + 0x28, 0);
    rig.cpu.regs[3] = 0x4000_0000 + DATA;
    assert_eq!(cause(rig.bytes(&[0x0f, 0x22, 0xd8, 0x8b, 0x0b])), pf(0));
}

/// Protection keys for user and supervisor pages (SDM 3A 4.6.2).
#[test]
fn protection_keys() {
    // Entry, CPL, PKRU or PKRS for key 3, CR0.WP, access, result.
    let user = P | W | U;
    let supervisor = P | W;
    for (entry, cpl, rights, wp, code, expected) in [
        (user, 3, 0, c0::WP, READ, None),
        (user, 3, 1, c0::WP, READ, pf(0x25)),
        (user, 3, 1, c0::WP, WRITE, pf(0x27)),
        (user, 3, 2, c0::WP, READ, None),
        (user, 3, 2, c0::WP, WRITE, pf(0x27)),
        (user, 3, 3, c0::WP, FETCH, None),
        // The supervisor at a user page: PKRU, and WD only with WP.
        (user, 0, 1, c0::WP, READ, pf(0x21)),
        (user, 0, 2, c0::WP, WRITE, pf(0x23)),
        (user, 0, 2, 0, WRITE, None),
        (user, 0, 1, 0, WRITE, pf(0x23)),
        // A supervisor page: PKRS.
        (supervisor, 0, 1, c0::WP, READ, pf(0x21)),
        (supervisor, 0, 2, c0::WP, WRITE, pf(0x23)),
        (supervisor, 0, 2, c0::WP, READ, None),
        (supervisor, 0, 2, 0, WRITE, None),
        (supervisor, 0, 3, c0::WP, FETCH, None),
    ] {
        for other in [false, true] {
            let mut rig = rig();
            fetchable(&mut rig);
            rig.cpu.cr4 |= c4::PKE | c4::PKS;
            rig.cpu.cr0 = rig.cpu.cr0 & !c0::WP | wp;
            map(&mut rig, FRAME | entry | 3 << 59);
            // Key 3, or another one, which changes nothing.
            let value = rights << if other { 8 } else { 6 };
            if entry & U != 0 {
                rig.cpu.pkru = value as u32;
            } else {
                rig.cpu.msrs.pkrs = value;
            }
            rig.cpu.update_mode();
            let mut rig = if cpl == 3 { rig.user() } else { rig };
            let expected = if other { None } else { expected };
            assert_eq!(
                cause(rig.bytes(code)),
                expected,
                "{entry:#x} {cpl} {rights} {wp:#x} {code:x?} {other}"
            );
        }
    }
}

/// SDM 2B MOV to control registers, 3A 2.5, 4.1.2: what raises #GP(0).
#[test]
fn control_register_checks() {
    // Long mode, register, value from the present one, result.
    type Change = fn(u64) -> u64;
    let table: &[(bool, u8, Change, Cause)] = &[
        (false, 0, |v| v, None),
        (false, 0, |v| v & !c0::PE | c0::PG, gp(0)),
        (false, 0, |v| v | c0::NW, gp(0)),
        (false, 0, |v| v | c0::NW | c0::CD, None),
        (false, 0, |v| v | c0::CD, None),
        (true, 0, |v| v | 1 << 32, gp(0)),
        (true, 0, |v| v & !c0::PG, gp(0)),
        (true, 0, |v| v & !c0::PE, gp(0)),
        (true, 0, |v| v & !c0::WP, None),
        (true, 3, |v| v | 1 << 63, gp(0)),
        (true, 3, |v| v | 1 << 52, gp(0)),
        (true, 3, |v| v | 0x18, None),
        (true, 4, |v| v & !c4::PAE, gp(0)),
        (true, 4, |v| v | c4::LA57, gp(0)),
        (true, 4, |v| v | c4::PCIDE, None),
        (false, 4, |v| v | c4::PCIDE, gp(0)),
        (false, 4, |v| v | c4::PAE, None),
        (true, 4, |v| v | 1 << 31, gp(0)),
        (true, 4, |v| v | 1 << 63, gp(0)),
        (true, 4, |v| v | 1 << 15, gp(0)),
        (true, 4, |v| v | c4::VMXE, None),
        (true, 8, |_| 15, None),
        (true, 8, |_| 16, gp(0)),
    ];
    for (n, &(long, register, change, expected)) in table.iter().enumerate() {
        let mut rig = if long { Rig::long() } else { Rig::protected() }.ready();
        let now = match register {
            0 => rig.cpu.cr0,
            3 => rig.cpu.cr3,
            4 => rig.cpu.cr4,
            _ => 0,
        };
        rig.cpu.regs[0] = change(now);
        let code: &[u8] = match register {
            8 => &[0x44, 0x0f, 0x22, 0xc0],
            3 => &[0x0f, 0x22, 0xd8],
            4 => &[0x0f, 0x22, 0xe0],
            _ => &[0x0f, 0x22, 0xc0],
        };
        assert_eq!(cause(rig.bytes(code)), expected, "row {n}");
    }
    // PCIDE needs CR3[11:0] to be 0, and keeps PG on.
    let mut rig = Rig::long().ready();
    rig.cpu.cr3 |= 0x18;
    rig.cpu.regs[0] = rig.cpu.cr4 | c4::PCIDE;
    assert_eq!(cause(rig.bytes(&[0x0f, 0x22, 0xe0])), gp(0));
    // EFER: LME is fixed while paging is on; reserved bits.
    for (value, expected) in
        [(0xd01, None), (0xd00, None), (0xc01, gp(0)), (0xd01 | 1 << 1, gp(0)), (0xd01 | 1 << 40, gp(0))]
    {
        let mut rig = Rig::long().ready();
        rig.cpu.regs[0] = value & 0xffff_ffff;
        rig.cpu.regs[2] = value >> 32;
        rig.cpu.regs[1] = EFER.into();
        assert_eq!(cause(rig.bytes(&[0x0f, 0x30])), expected, "{value:#x}");
    }
    // Activating IA-32e mode: PAE, 32-bit code and a 32-bit TSS (SDM 3A 10.8.5).
    for (pae, code_l, tss16, expected) in [
        (true, false, false, None),
        (false, false, false, gp(0)),
        (true, true, false, gp(0)),
        (true, false, true, gp(0)),
    ] {
        let mut rig = Rig::protected().ready();
        rig.cpu.cr4 |= if pae { c4::PAE } else { 0 };
        rig.cpu.efer |= 1 << 8;
        if code_l {
            rig.force(1, sel::CODE64, 0x00ef_9b00_0000_ffff & !(1 << 54) | 1 << 54);
        }
        rig.cpu.tr.rights = if tss16 { 0x83 } else { 0x8b };
        rig.cpu.regs[0] = rig.cpu.cr0 | c0::PG;
        rig.load(CODE, &[0x0f, 0x22, 0xc0]);
        rig.run(1);
        let active = rig.cpu.efer & 1 << 10 != 0;
        assert_eq!(active, expected.is_none(), "{pae} {code_l} {tss16}");
    }
}

/// Real-address mode to protected to 64-bit mode and all the way back (SDM 3A 10.8.5, 10.9).
#[test]
fn through_all_modes_and_back() {
    use iced_x86::code_asm::*;
    let mut rig = Rig::real();
    let mut scratch = Rig::long();
    // The long rig's tables in this rig's memory.
    for at in (TABLES..TABLES + 0x3000).step_by(8) {
        rig.poke(at, scratch.peek(at));
    }
    for at in (GDT..GDT + 0x48).step_by(8) {
        rig.poke(at, scratch.peek(at));
    }
    rig.poke(GDT + 0x48, descriptor(0x1_0000, 0xffff, 0x9b, 0));
    rig.poke(GDT + 0x50, descriptor(0, 0xffff, 0x93, 0));
    rig.poke(DATA, 0x2000_0fff);
    scratch.cpu.set_rip(0);
    rig.load(0x1_0f00, &[0xff, 0x0f, 0x00, 0x20, 0, 0]); // GDTR: limit FFFh, base 2000h
    // 16-bit: to protected mode.
    rig.put(CODE, |a| {
        a.mov(ax, 0x1000)?;
        a.mov(ds, ax)?;
        a.lgdt(fword_ptr(0xf00))?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        a.db(&[0x66, 0xea, 0x00, 0x11, 0x01, 0x00, 0x18, 0x00]) // jmp 18h:11100h
    });
    let code32 = |mut a: CodeAssembler, at: u64| a.assemble(at).expect("code");
    let mut a = CodeAssembler::new(32).expect("32");
    (|| {
        a.mov(ax, 0x10)?;
        a.mov(ds, ax)?;
        a.mov(ss, ax)?;
        a.mov(eax, cr4)?;
        a.or(eax, 0x20)?;
        a.mov(cr4, eax)?;
        a.mov(eax, TABLES as u32)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, EFER)?;
        a.mov(eax, 0x100)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000_u32 as i32)?;
        a.mov(cr0, eax)?;
        a.db(&[0xea, 0x00, 0x12, 0x01, 0x00, 0x08, 0x00]) // jmp 08h:11200h
    })()
    .expect("code");
    let bytes = code32(a, 0x1_1100);
    rig.load(0x1_1100, &bytes);
    // 64-bit: proves itself, and leaves by a far return to compatibility mode.
    let mut a = CodeAssembler::new(64).expect("64");
    (|| {
        a.mov(rbx, 0x1234_5678_9abc_def0_u64)?;
        a.mov(rsp, 0x7_0000_u64)?;
        a.push(0x18)?;
        a.push(0x1_1300)?;
        a.db(&[0x48, 0xcb]) // retfq
    })()
    .expect("code");
    let bytes = code32(a, 0x1_1200);
    rig.load(0x1_1200, &bytes);
    // Compatibility mode: paging off, to a 16-bit segment, to real-address mode.
    let mut a = CodeAssembler::new(32).expect("32");
    (|| {
        a.mov(eax, cr0)?;
        a.and(eax, 0x7fff_ffff)?;
        a.mov(cr0, eax)?;
        a.mov(ecx, EFER)?;
        a.rdmsr()?;
        a.mov(esi, eax)?;
        a.db(&[0xea, 0x00, 0x14, 0x00, 0x00, 0x48, 0x00]) // jmp 48h:1400h
    })()
    .expect("code");
    let bytes = code32(a, 0x1_1300);
    rig.load(0x1_1300, &bytes);
    let mut a = CodeAssembler::new(16).expect("16");
    (|| {
        a.mov(ax, 0x50)?;
        a.mov(ds, ax)?;
        a.mov(eax, cr0)?;
        a.and(al, 0xfe)?;
        a.mov(cr0, eax)?;
        a.db(&[0xea, 0x00, 0x15, 0x00, 0x10]) // jmp 1000h:1500h
    })()
    .expect("code");
    let bytes = code32(a, 0x1400);
    rig.load(0x1_1400, &bytes);
    rig.load(0x1_1500, &[0xf4]);
    rig.run(200);
    assert_eq!((rig.cpu.activity, rig.cpu.rip()), (Activity::Halted, 0x1501), "{:#x}", rig.cpu.rip());
    assert_eq!((rig.cpu.seg[1].selector, rig.cpu.seg[1].base), (0x1000, 0x1_0000));
    assert_eq!(rig.cpu.cr0 & (c0::PE | c0::PG), 0);
    assert_eq!(rig.cpu.regs[6], 0x100, "LMA went with PG, LME stays");
    assert_eq!(rig.cpu.regs[3], 0x1234_5678_9abc_def0);
    assert_eq!(rig.cpu.mode.bitness(), 16);
}

/// Five-level paging (SDM 3A 4.5): 57-bit addresses, and what is canonical.
#[test]
fn five_levels() {
    let mut rig = rig();
    rig.poke(0x13_0000, TABLES | P | W | U);
    rig.poke(0x13_0000 + 8 * 3, 0x13_1000 | P | W | U);
    rig.poke(0x13_1000, 0x13_2000 | P | W | U);
    rig.poke(0x13_2000, PS | P | W | U);
    rig.cpu.cr3 = 0x13_0000;
    rig.cpu.cr4 |= c4::LA57;
    rig.cpu.update_mode();
    rig.cpu.flush_all();
    rig.poke32(DATA, 0xfeed);
    rig.cpu.regs[3] = (3 << 48) + DATA;
    assert_eq!(cause(rig.bytes(READ)), None);
    assert_eq!(rig.cpu.regs[0], 0xfeed);
    for (address, expected) in [
        (1 << 56, gp(0)),
        (1 << 55, pf(0)),
        (u64::MAX << 56, pf(0)),
        (1 << 48, pf(0)),
        (u64::MAX << 47, pf(0)),
    ] {
        let mut rig = self::rig();
        rig.poke(0x13_0000, TABLES | P | W | U);
        rig.cpu.cr3 = 0x13_0000;
        rig.cpu.cr4 |= c4::LA57;
        rig.cpu.update_mode();
        rig.cpu.flush_all();
        rig.cpu.regs[3] = address;
        assert_eq!(cause(rig.bytes(READ)), expected, "{address:#x}");
    }
}

/// Accesses to descriptor tables and the TSS are the supervisor's, whatever the CPL (SDM 3A 4.6): user code can load
/// segments from supervisor pages, and SMAP refuses tables in user pages even with AC set.
#[test]
fn implicit_supervisor_accesses() {
    for (entry, smap, expected) in
        [(P | W, 0, None), (P | W, c4::SMAP, None), (P | W | U, 0, None), (P | W | U, c4::SMAP, pf(1))]
    {
        let mut rig = rig();
        // The LDT lies in the page under test; all else is the supervisor's or the user's as needed.
        map(&mut rig, FRAME | entry);
        rig.poke(FRAME, 0);
        rig.poke(FRAME + 8, descriptor(0, 0xf_ffff, 0xf3, 0xc));
        rig.set_gdt(sel::FREE, descriptor(PAGE as u32, 0xff, 0x82, 0));
        rig.set_gdt(sel::FREE + 8, 0);
        rig.cpu.regs[0] = sel::FREE.into();
        rig.load(CODE, &[0x0f, 0x00, 0xd0]);
        rig.run(1);
        // Code and stack of level 3 in the low 2 MiB, which stay user pages; tables there are read as well, so SMAP would
        // refuse those, too: move everything but the LDT to supervisor pages by an alias at 512 MiB.
        let alias = 0x2000_0000;
        rig.poke(TABLES + 0x2000 + 8 * (alias >> 21), PS | P | W);
        rig.cpu.gdtr.base += alias;
        rig.cpu.idtr.base += alias;
        rig.cpu.tr.base += alias;
        rig.poke(TSS + 4, alias + STACK);
        for vector in [13, 14, DONE] {
            rig.gate(vector, alias + 0x9000 + u64::from(vector), 14, 3);
        }
        let low = rig.peek(IDT + 16 * 14);
        assert_ne!(low, 0);
        rig.cpu.cr4 |= smap;
        let mut rig = rig.user();
        rig.cpu.flags.set(2 | 1 << 18);
        rig.cpu.regs[0] = 0xf;
        rig.load(CODE + 3, &[0x8e, 0xd8, 0xcd, DONE]);
        rig.run(50);
        let vector = rig.cpu.rip().wrapping_sub(alias + 0x9001);
        assert_eq!(rig.cpu.activity, Activity::Halted, "{:#x}", rig.cpu.rip());
        let arrived = if vector == u64::from(DONE) { None } else { Some(vector as u8) };
        assert_eq!(arrived, expected.map(|(vector, _)| vector), "{entry:#x} {smap:#x}");
        if expected.is_some() {
            assert_eq!(rig.peek(STACK - 48) as u32, 1);
            assert_eq!(rig.cpu.cr2, PAGE + 8);
        }
    }
}

/// A page fault forgets what the TLB knows of its page (SDM 3A 4.10.4.1): the next access finds what the tables say then.
#[test]
fn page_faults_forget_the_page() {
    let mut rig = rig();
    rig.cpu.cr0 |= c0::WP;
    rig.cpu.update_mode();
    rig.poke32(FRAME, 1);
    rig.poke32(FRAME2, 2);
    let run = |rig: &mut Rig, code| {
        rig.cpu.activity = Activity::Active;
        rig.cpu.set_rip(CODE);
        cause(rig.bytes(code))
    };
    map(&mut rig, FRAME | P | U);
    assert_eq!(run(&mut rig, READ), None);
    assert_eq!(rig.cpu.regs[0], 1);
    assert_eq!(run(&mut rig, WRITE), pf(3));
    map(&mut rig, FRAME2 | P | U);
    assert_eq!(run(&mut rig, READ), None);
    assert_eq!(rig.cpu.regs[0], 2);
}
