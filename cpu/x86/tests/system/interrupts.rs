//! Interrupts and exceptions: gates, frames, error codes, double faults, NMI, shadows (SDM 3A chapter 6).

use crate::common::*;
use crate::helpers::*;
use iced_x86::code_asm::dword_ptr;
use ringworld_x86::Activity;
use ringworld_x86::lapic::ApicMode;

const F: u16 = sel::FREE;
const IF: u64 = 1 << 9;
const TF: u64 = 1 << 8;
const NT: u64 = 1 << 14;
const RF: u64 = 1 << 16;
/// Vector used for gates under test.
const V: u8 = 0x40;
/// Its handler: to [`DONE`].
const HANDLER: u32 = 0x1_8000;

fn rig(long: bool, cpl: u8) -> Rig {
    let mut rig = if long { Rig::long() } else { Rig::protected() }.ready();
    rig.load(HANDLER.into(), &[0xcd, DONE]);
    if cpl == 3 { rig.user() } else { rig }
}

/// Writes an IDT entry; `upper` is the second half in IA-32e mode.
fn set_idt(rig: &mut Rig, vector: u8, low: u64, upper: u64) {
    if rig.cpu.long_mode() {
        rig.poke(IDT + 16 * u64::from(vector), low);
        rig.poke(IDT + 16 * u64::from(vector) + 8, upper);
    } else {
        rig.poke(IDT + 8 * u64::from(vector), low);
    }
}

/// SDM 3A 21.1.4: real-address mode pushes FLAGS, CS, IP and clears IF, TF and AC.
#[test]
fn real_mode_vectors() {
    let mut rig = Rig::ready_real();
    rig.load(4 * 0x21, &[0x34, 0x12, 0x00, 0x20]);
    rig.load(0x2_1234, &[0xf4]);
    rig.load(CODE, &[0xcd, 0x21]);
    rig.cpu.flags.set(0x4_0a97 | IF);
    rig.run(5);
    assert_eq!((rig.cpu.seg[1].selector, rig.cpu.rip()), (0x2000, 0x1235));
    assert_eq!(rig.cpu.seg[1].base, 0x2_0000);
    assert_eq!(rig.cpu.regs[4], 0x8000 - 6);
    assert_eq!([0, 2, 4].map(|n| rig.peek16(0x7ffa + n)), [2, 0x1000, 0x0a97 | IF as u16]);
    assert_eq!(rig.cpu.flags.get() & (IF | TF | 1 << 18), 0);
    // Back: IRET takes all 16 bits.
    let mut rig = Rig::ready_real();
    rig.load(CODE, &[0xcf]);
    rig.load(CODE + 0x100, &[0xf4]);
    rig.cpu.regs[4] = 0x7ffa;
    rig.load(0x7ffa, &[0x00, 0x01, 0x00, 0x10, 0xd5, 0x7e]);
    rig.run(1);
    assert_eq!((rig.cpu.rip(), rig.cpu.regs[4], rig.cpu.flags.get()), (0x100, 0x8000, 0x7ed7));
    // Faults push the address of the instruction, and no error code.
    let mut rig = Rig::ready_real();
    rig.load(CODE, &[0x90, 0xf7, 0xf1]);
    rig.cpu.regs[1] = 0;
    assert_eq!(rig.fault(), Some(0));
    assert_eq!((rig.cpu.regs[4], rig.peek16(0x7ffa)), (0x7ffa, 1));
    // A vector beyond the IDT's limit: #GP; if that is beyond, too: #DF; if that is: shutdown.
    for (limit, expected) in
        [(4 * 0x21 - 1, Some(13)), (4 * 0x21 + 2, Some(13)), (13 * 4 + 2, Some(8)), (8 * 4 + 2, None)]
    {
        let mut rig = Rig::ready_real();
        rig.load(CODE, &[0xcd, 0x21]);
        rig.cpu.idtr.limit = limit;
        assert_eq!(rig.fault(), expected, "{limit:#x}");
        assert_eq!(rig.cpu.activity == Activity::Shutdown, expected.is_none());
    }
    // The table may be elsewhere (SDM 3A 21.1.4).
    let mut rig = Rig::ready_real();
    rig.load(DATA + 4 * 0x21, &[0x30, 0x90, 0, 0]);
    rig.cpu.idtr.base = DATA;
    rig.load(CODE, &[0xcd, 0x21]);
    rig.run(3);
    assert_eq!(rig.cpu.rip(), 0x9031);
}

/// SDM 3A 6.11, 6.12.1, 2A INT n: gates and what they point to.
#[test]
fn gates_are_checked() {
    let f = u32::from(F);
    let v = u32::from(V) * 8 + 2;
    let (d32, l64) = (0xc, 0xa);
    let code = |access, flags| descriptor(0, 0xf_ffff, access, flags);
    let good = code(0x9b, d32);
    let good64 = code(0x9b, l64);
    // Long mode, CPL, access of the gate, its selector, its offset, the code segment at FREE, result.
    let table: &[(bool, u8, u8, u16, u64, u64, Cause)] = &[
        (false, 0, 0x8e, F, HANDLER as u64, good, None),
        (false, 0, 0x8f, F, HANDLER as u64, good, None),
        (false, 0, 0x86, F, 0x8000, descriptor(0x1_0000, 0xffff, 0x9b, 4), None),
        (false, 0, 0x87, F, 0x8000, descriptor(0x1_0000, 0xffff, 0x9b, 4), None),
        (false, 0, 0x8c, F, HANDLER as u64, good, gp(v)),
        (false, 0, 0x84, F, HANDLER as u64, good, gp(v)),
        (false, 0, 0x80, F, HANDLER as u64, good, gp(v)),
        (false, 0, 0x89, F, HANDLER as u64, good, gp(v)),
        (false, 0, 0x9e, F, HANDLER as u64, good, gp(v)),
        (false, 0, 0x0e, F, HANDLER as u64, good, np(v)),
        (false, 0, 0x0c, F, HANDLER as u64, good, gp(v)),
        (false, 3, 0x8e, F, HANDLER as u64, good, gp(v)),
        (false, 3, 0xce, F, HANDLER as u64, good, gp(v)),
        (false, 3, 0x0e, F, HANDLER as u64, good, gp(v)),
        (false, 3, 0xee, F, HANDLER as u64, good, None),
        (false, 3, 0x6e, F, HANDLER as u64, good, np(v)),
        (false, 3, 0xee, F, HANDLER as u64, code(0xfb, d32), None),
        (false, 3, 0xee, F, HANDLER as u64, code(0x9f, d32), None),
        // RPL in the gate is not looked at.
        (false, 3, 0xee, F | 3, HANDLER as u64, good, None),
        (false, 0, 0x8e, 0, HANDLER as u64, good, gp(0)),
        (false, 0, 0x8e, 3, HANDLER as u64, good, gp(0)),
        (false, 0, 0x8e, 0x1000, HANDLER as u64, good, gp(0x1000)),
        (false, 0, 0x8e, F | 4, HANDLER as u64, good, gp(f | 4)),
        (false, 0, 0x8e, F, HANDLER as u64, code(0x93, d32), gp(f)),
        (false, 0, 0x8e, F, HANDLER as u64, code(0x8c, d32), gp(f)),
        (false, 0, 0x8e, F, HANDLER as u64, code(0xfb, d32), gp(f)),
        (false, 0, 0x8e, F, HANDLER as u64, code(0xff, d32), gp(f)),
        (false, 0, 0x8e, F, HANDLER as u64, code(0x1b, d32), np(f)),
        (false, 0, 0x8e, F, HANDLER as u64, code(0x7b, d32), gp(f)),
        (false, 0, 0x8e, F, HANDLER as u64, descriptor(0, HANDLER - 1, 0x9b, 4), gp(0)),
        // IA-32e mode: 64-bit gates to 64-bit code only.
        (true, 0, 0x8e, F, HANDLER as u64, good64, None),
        (true, 0, 0x8f, F, HANDLER as u64, good64, None),
        (true, 0, 0x86, F, HANDLER as u64, good64, gp(v)),
        (true, 0, 0x87, F, HANDLER as u64, good64, gp(v)),
        (true, 0, 0x85, F, HANDLER as u64, good64, gp(v)),
        (true, 0, 0x8e, F, HANDLER as u64, good, gp(f)),
        (true, 0, 0x8e, F, HANDLER as u64, code(0x9b, 0xe), gp(f)),
        (true, 0, 0x8e, F, HANDLER as u64, code(0x1b, l64), np(f)),
        (true, 0, 0x8e, F, 1 << 47, good64, gp(0)),
        (true, 3, 0x8e, F, HANDLER as u64, good64, gp(v)),
        (true, 3, 0xee, F, HANDLER as u64, good64, None),
        (true, 3, 0xee, F, HANDLER as u64, code(0xfb, l64), None),
    ];
    for &(long, cpl, access, selector, offset, code, expected) in table {
        let mut rig = rig(long, cpl);
        rig.set_gdt(F, code);
        set_idt(&mut rig, V, gate(selector, offset as u32, access, 0), offset >> 32);
        let result = rig.bytes(&[0xcd, V]);
        let what = format!("{long} {cpl} {access:#x} {selector:#x} {offset:#x} {code:#x}");
        assert_eq!(cause(result), expected, "{what}");
        if let Err(frame) = result {
            assert_eq!(frame.ip, CODE, "{what}: a fault of INT n is at the INT");
        }
    }
    // Beyond the IDT's limit.
    for (long, limit) in [(false, 8 * 0x40 + 6), (true, 16 * 0x40 + 14)] {
        let mut rig = rig(long, 0);
        rig.cpu.idtr.limit = limit;
        assert_eq!(cause(rig.bytes(&[0xcd, V])), gp(v));
    }
}

/// SDM 3A 6.13: EXT is set where an exception arises while another one is delivered, and exceptions do not look at DPL.
#[test]
fn ext_bit() {
    for (cpl, access, selector, code, expected) in [
        (0, 0x0e, F, 0x9b, np(6 * 8 + 3)),
        (0, 0x8c, F, 0x9b, gp(6 * 8 + 3)),
        (0, 0x8e, 0, 0x9b, gp(1)),
        (0, 0x8e, F, 0x93, gp(F as u32 | 1)),
        (0, 0x8e, F, 0x1b, np(F as u32 | 1)),
        (3, 0x8e, F, 0x9b, None),
    ] {
        let mut rig = rig(false, cpl);
        rig.set_gdt(F, descriptor(0, 0xf_ffff, code, 0xc));
        set_idt(&mut rig, 6, gate(selector, HANDLER, access, 0), 0);
        assert_eq!(cause(rig.bytes(&[0x0f, 0x0b])), expected, "{access:#x} {selector:#x} {code:#x}");
    }
    // INT n is no external event; INT1 is (SDM 2A INT n: EXT). INT3's and INTO's gates are checked as INT n's.
    for (code, vector, expected) in [
        (&[0xcd, 1][..], 1, np(8 + 2)),
        (&[0xf1], 1, np(8 + 3)),
        (&[0xcc], 3, np(3 * 8 + 2)),
        (&[0xcd, 3], 3, np(3 * 8 + 2)),
    ] {
        let mut rig = rig(false, 0);
        set_idt(&mut rig, vector, gate(F, HANDLER, 0x0e, 0), 0);
        assert_eq!(cause(rig.bytes(code)), expected, "{code:x?}");
    }
    for (code, expected) in [(&[0xcc][..], gp(3 * 8 + 2)), (&[0xf1], Some((1, 0)))] {
        let mut rig = rig(false, 3);
        rig.gate(3, 0x9003, 14, 0);
        assert_eq!(cause(rig.bytes(code)), expected, "{code:x?} at level 3 with DPL 0");
    }
}

/// SDM 3A table 6-1, 6.5: each exception's vector, class (fault: at the instruction; trap: after it) and error code; RF is
/// set in the flags that a fault saves, and only there (SDM 3B 18.3.1.1).
#[test]
fn vectors_and_classes() {
    // Code for 32-bit mode at level 3 (ECX 0, flags with OF set), vector, error code, offset of the saved IP, fault.
    let table: &[(&[u8], u8, Option<u32>, u64, bool)] = &[
        (&[0xf7, 0xf1], 0, None, 0, true),
        (&[0xcc], 3, None, 1, false),
        (&[0xcd, 3], 3, None, 2, false),
        (&[0xce], 4, None, 1, false),
        (&[0x62, 0x0d, 0x00, 0x00, 0x20, 0x00], 5, None, 0, true),
        (&[0x0f, 0x0b], 6, None, 0, true),
        (&[0x0f, 0xff, 0xc0], 6, None, 0, true),
        (&[0xf0, 0x90], 6, None, 0, true),
        (&[0xf4], 13, Some(0), 0, true),
        (&[0xfa], 13, Some(0), 0, true),
        (&[0x8e, 0xd8], 13, Some(0x50), 0, true),
        (&[0xf1], 1, None, 1, false),
        (&[0xcd, 0x0d], 13, Some(13 * 8 + 2), 0, true),
        (&[0x0f, 0x20, 0xc0], 13, Some(0), 0, true),
    ];
    for &(code, vector, error, offset, fault) in table {
        let mut rig = rig(false, 3);
        rig.cpu.regs[1] = 0;
        rig.cpu.regs[0] = 0x53;
        rig.poke(DATA, 1 | 2 << 32); // bounds of BOUND
        rig.cpu.flags.set(0x802);
        let frame = rig.bytes(code).expect_err("an exception");
        assert_eq!((frame.vector, frame.error, frame.ip), (vector, error, CODE + offset), "{code:x?}");
        assert_eq!(frame.flags, 0x802 | if fault { RF } else { 0 }, "{code:x?}");
        assert_eq!(
            (frame.cs, frame.ss, frame.sp),
            (sel::CODE32_3, sel::DATA3, STACK - 0x1_0000),
            "{code:x?}"
        );
    }
    // BOUND reads both bounds before it compares: the second one's fault comes before #BR.
    let mut cut = rig(false, 3);
    cut.poke(DATA, 1 | 2 << 32);
    cut.cpu.regs[1] = 0;
    cut.cpu.seg[3].limit = DATA as u32 + 3;
    cut.cpu.update_mode();
    let frame = cut.bytes(&[0x62, 0x0d, 0x00, 0x00, 0x20, 0x00]).expect_err("an exception");
    assert_eq!((frame.vector, frame.error, frame.ip), (13, Some(0), CODE));
    // INTO with OF clear is nothing.
    assert_eq!(cause(rig(false, 3).bytes(&[0xce])), None);
}

/// SDM 3A 6.12.1.3: an interrupt gate clears IF, a trap gate does not; both clear TF, NT, RF (and VM).
#[test]
fn flags_in_the_handler() {
    for long in [false, true] {
        for (access, keeps_if) in [(0x8e, false), (0x8f, true)] {
            let mut rig = rig(long, 0);
            let selector = if long { sel::CODE64 } else { sel::CODE32 };
            set_idt(&mut rig, V, gate(selector, HANDLER, access, 0), 0);
            // The handler halts at once, so that its flags can be seen.
            rig.load(HANDLER.into(), &[0xf4]);
            rig.cpu.flags.set(2 | IF | NT | 1 << 21);
            rig.load(CODE, &[0xcd, V]);
            rig.run(5);
            assert_eq!(rig.cpu.flags.get(), 2 | 1 << 21 | if keeps_if { IF } else { 0 });
            assert_eq!(rig.frame(V).flags, 2 | IF | NT | 1 << 21);
        }
    }
}

/// SDM 3A 6.12.1.2: the stack of the inner level comes from the TSS.
#[test]
fn inner_stack_comes_from_the_tss() {
    // A handler at level 1, so that faults still find the stack of level 0.
    let stack = F + 8;
    type Break = fn(&mut Rig);
    let table: &[(&str, Cause, Break)] = &[
        ("nothing", None, |_| ()),
        ("TSS too small", ts(sel::TSS as u32), |r| r.cpu.tr.limit = 16),
        ("null", ts(0), |r| r.poke(TSS + 12, STACK - 0x8000)),
        ("beyond the GDT", ts(0x1000), |r| r.poke(TSS + 12, 0x1001 << 32 | 0x7_0000)),
        ("RPL", ts(F as u32 + 8), |r| r.poke(TSS + 12, u64::from(F + 8) << 32 | 0x7_0000)),
        ("DPL", ts(F as u32 + 8), |r| r.set_gdt(F + 8, descriptor(0, 0xf_ffff, 0x93, 0xc))),
        ("read-only", ts(F as u32 + 8), |r| r.set_gdt(F + 8, descriptor(0, 0xf_ffff, 0xb1, 0xc))),
        ("not present", sf(F as u32 + 8), |r| r.set_gdt(F + 8, descriptor(0, 0xf_ffff, 0x33, 0xc))),
        ("no room", sf(F as u32 + 8), |r| {
            r.set_gdt(F + 8, descriptor(0, 0xfff, 0xb7, 4));
            r.poke(TSS + 12, u64::from(F + 9) << 32 | 0x1010);
        }),
        ("offset after the stack", ts(0), |r| {
            r.set_gdt(F, descriptor(0, 0xff, 0xbb, 4));
            r.poke(TSS + 12, STACK - 0x8000);
        }),
        ("offset", gp(0), |r| r.set_gdt(F, descriptor(0, 0xff, 0xbb, 4))),
    ];
    for &(what, expected, spoil) in table {
        // INT n, and the same by an exception: then EXT is set.
        for exception in [false, true] {
            let mut rig = rig(false, 3);
            rig.set_gdt(F, descriptor(0, 0xf_ffff, 0xbb, 0xc));
            rig.set_gdt(stack, descriptor(0, 0xf_ffff, 0xb3, 0xc));
            rig.poke(TSS + 12, u64::from(stack | 1) << 32 | 0x7_0000);
            set_idt(&mut rig, 6, gate(F, HANDLER, 0xee, 0), 0);
            spoil(&mut rig);
            let sp = rig.cpu.regs[4];
            let result = rig.bytes(if exception { &[0x0f, 0x0b] } else { &[0xcd, 6] });
            let expected = expected.map(|(vector, error)| (vector, error | u32::from(exception)));
            assert_eq!(cause(result), expected, "{what} {exception}");
            match result {
                Ok(()) => {
                    let done = rig.frame(DONE);
                    assert_eq!((done.cs, done.ss, done.sp), (F | 1, stack | 1, 0x7_0000 - 20), "{what}");
                    let words: Vec<u32> = (0..5).map(|n| rig.peek32(0x7_0000 - 20 + 4 * n)).collect();
                    let ip = CODE as u32 + if exception { 0 } else { 2 };
                    let flags = if exception { 2 | RF as u32 } else { 2 };
                    assert_eq!(words, [ip, sel::CODE32_3.into(), flags, sp as u32, sel::DATA3.into()]);
                }
                Err(frame) => assert_eq!((frame.ip, frame.sp, frame.cs), (CODE, sp, sel::CODE32_3), "{what}"),
            }
        }
    }
}

/// 16-bit gates push words (SDM 3A 6.12.1).
#[test]
fn sixteen_bit_gate_frames() {
    for cpl in [0, 3] {
        let mut rig = rig(false, cpl);
        rig.set_gdt(F, descriptor(0, 0xf_ffff, 0x9b, 0xc));
        set_idt(&mut rig, 13, gate(F, 0x9030, 0xe6, 0), 0);
        let sp = rig.cpu.regs[4];
        rig.cpu.regs[0] = 0x1000;
        rig.load(CODE, &[0x8e, 0xd8]); // #GP(1000h)
        rig.run(5);
        assert_eq!(rig.cpu.rip(), 0x9031);
        let size = if cpl == 3 { 12 } else { 8 };
        assert_eq!(rig.cpu.regs[4], STACK - size);
        let words: Vec<u16> = (0..size / 2).map(|n| rig.peek16(STACK - size + 2 * n)).collect();
        let cs = if cpl == 3 { sel::CODE32_3 } else { sel::CODE32 };
        assert_eq!(words[..4], [0x1000, CODE as u16, cs, 2]);
        if cpl == 3 {
            assert_eq!(words[4..], [sp as u16, sel::DATA3]);
        }
    }
}

/// On the same stack, a frame that does not fit raises #SS with EXT only (SDM 2A INT n, intra-privilege).
#[test]
fn no_room_on_the_same_stack() {
    let mut rig = rig(false, 0);
    rig.force(2, sel::DATA0, descriptor(0, 0x6_ffff, 0x97, 4));
    rig.cpu.regs[4] = 0x7_0008;
    // #SS goes to a handler at a task's own stack in real systems; here its error code is seen in the double fault's
    // cause: both are contributory only if the first is. INT n is not: #SS(0) is delivered, which has no room either.
    rig.load(CODE, &[0xcd, V]);
    assert_eq!(rig.fault(), None);
    assert_eq!(rig.cpu.activity, Activity::Shutdown);
    assert_eq!(rig.cpu.regs[4], 0x7_0008);
}

/// SDM 3A 6.14.2–6.14.5: 64-bit frames are aligned, always hold SS:RSP, and come on the stack that the gate's IST names.
#[test]
fn stacks_in_64_bit_mode() {
    // CPL, RSP before, IST, RSP of the handler after 5 pushes.
    for (cpl, rsp, ist, after) in [
        (0, 0x5_0000, 0, 0x5_0000 - 40),
        (0, 0x5_0007, 0, 0x5_0000 - 40),
        (0, 0x5_0008, 0, 0x5_0000 - 40),
        (0, 0x5_000f, 0, 0x5_0000 - 40),
        (0, 0x5_0008, 1, 0x6_0000 - 40),
        (0, 0x5_0008, 7, 0x6_6000 - 40),
        (3, 0x5_0008, 0, STACK - 40),
        (3, 0x5_0008, 3, 0x6_2000 - 40),
    ] {
        let mut rig = rig(true, cpl);
        for n in 0..7 {
            // IST entries need not be aligned either.
            rig.poke(TSS + 0x24 + 8 * n, 0x6_0009 + 0x1000 * n);
        }
        set_idt(&mut rig, V, gate(sel::CODE64, 0x9030, 0xee, ist), 0);
        rig.cpu.regs[4] = rsp;
        rig.load(CODE, &[0xcd, V]);
        rig.run(5);
        assert_eq!((rig.cpu.rip(), rig.cpu.regs[4]), (0x9031, after), "{cpl} {rsp:#x} {ist}");
        let frame = rig.frame(V);
        let (cs, ss) = if cpl == 3 { (sel::CODE64_3, sel::DATA3) } else { (sel::CODE64, sel::DATA0) };
        assert_eq!((frame.ip, frame.cs, frame.sp, frame.ss), (CODE + 2, cs, rsp, ss));
        // A change of level loads a null SS whose RPL is the new CPL.
        assert_eq!(rig.cpu.seg[2].selector, if cpl == 3 { 0 } else { sel::DATA0 });
    }
    // Beyond the TSS, and not canonical.
    type Break = fn(&mut Rig);
    let table: &[(u8, Cause, Break)] = &[
        (1, ts(sel::TSS as u32), |r| r.cpu.tr.limit = 0x2a),
        (1, None, |r| r.cpu.tr.limit = 0x2b),
        (1, sf(0), |r| r.poke(TSS + 0x24, 1 << 47)),
    ];
    for &(ist, expected, spoil) in table {
        let mut rig = rig(true, 0);
        rig.poke(TSS + 0x24, 0x6_0000);
        set_idt(&mut rig, V, gate(sel::CODE64, HANDLER, 0xee, ist), 0);
        spoil(&mut rig);
        assert_eq!(cause(rig.bytes(&[0xcd, V])), expected);
    }
    // A stack pointer that is not canonical on the same level: #SS(0), on an IST stack.
    let mut rig = rig(true, 0);
    rig.poke(TSS + 0x24, 0x6_0000);
    set_idt(&mut rig, 12, gate(sel::CODE64, 0x900c, 0x8e, 1), 0);
    set_idt(&mut rig, V, gate(sel::CODE64, HANDLER, 0xee, 0), 0);
    rig.cpu.regs[4] = 0x8000_0000_0000_0000;
    assert_eq!(cause(rig.bytes(&[0xcd, V])), sf(0));
}

/// From compatibility mode, handlers run in 64-bit mode (SDM 3A 6.14.1).
#[test]
fn interrupts_in_compatibility_mode() {
    let mut rig = rig(true, 3);
    rig.force(1, sel::CODE32_3, descriptor(0, 0xf_ffff, 0xfb, 0xc));
    let sp = rig.cpu.regs[4];
    let frame = rig.bytes(&[0x0f, 0x0b]).expect_err("#UD");
    assert_eq!((frame.cause(), frame.ip, frame.cs), ((6, 0), CODE, sel::CODE32_3));
    assert_eq!((frame.sp, frame.ss), (sp, sel::DATA3));
    assert!(rig.cpu.long64());
}

/// SDM 3A table 6-5: which pairs of exceptions make a double fault, which are handled one after the other.
#[test]
fn double_fault_pairs() {
    const BAD_STACK: u64 = 0x7000_0000; // not mapped
    const BENIGN: u8 = 6;
    const CONTRIBUTORY: u8 = 13;
    const PAGE: u8 = 14;
    let df = Some((8, 0));
    // First exception, what goes wrong in its delivery (gate not present, or stack not mapped), result.
    let table = [
        (BENIGN, false, np(6 * 8 + 3)),
        (BENIGN, true, pf(2)),
        (CONTRIBUTORY, false, df),
        (CONTRIBUTORY, true, pf(2)),
        (PAGE, false, df),
        (PAGE, true, df),
    ];
    for (first, stack, expected) in table {
        for spoil_double in [false, true] {
            let mut rig = rig(true, 0);
            rig.poke(TSS + 0x24, 0x6_0000); // IST1: sound
            rig.poke(TSS + 0x2c, BAD_STACK); // IST2
            for vector in [8, 11, 13, 14] {
                set_idt(&mut rig, vector, gate(sel::CODE64, 0x9000 + u32::from(vector), 0x8e, 1), 0);
            }
            let present = if stack { 0x8e } else { 0x0e };
            set_idt(
                &mut rig,
                first,
                gate(sel::CODE64, 0x9000 + u32::from(first), present, if stack { 2 } else { 1 }),
                0,
            );
            // The page fault that delivery meets must not be the gate that was spoiled.
            if spoil_double {
                set_idt(&mut rig, 8, gate(sel::CODE64, 0x9008, 0x0e, 1), 0);
            }
            rig.cpu.regs[0] = 0x1000;
            rig.cpu.regs[3] = 0x4000_1234;
            let code: &[u8] = match first {
                BENIGN => &[0x0f, 0x0b],
                CONTRIBUTORY => &[0x8e, 0xd8],
                _ => &[0x8b, 0x03],
            };
            rig.load(CODE, code);
            let arrived = rig.fault();
            if expected == df && spoil_double {
                assert_eq!((arrived, rig.cpu.activity), (None, Activity::Shutdown), "{first} {stack}");
                continue;
            }
            let frame = rig.frame(arrived.unwrap_or_else(|| panic!("{first} {stack}")));
            assert_eq!(Some(frame.cause()), expected, "{first} {stack}");
            if expected != df {
                assert_eq!(frame.ip, CODE, "{first} {stack}");
            }
            // CR2 holds the address of the last page fault, even of one that became a double fault.
            match (first, stack) {
                (PAGE, false) => assert_eq!(rig.cpu.cr2, 0x4000_1234),
                (_, true) => assert_eq!(rig.cpu.cr2, BAD_STACK - 8),
                _ => {}
            }
        }
    }
}

/// Handlers for counting: `inc dword [counter]; iret`.
fn counting_handler(rig: &mut Rig, at: u64, counter: u64) {
    rig.put(at, |a| {
        a.inc(dword_ptr(counter as u32))?;
        if a.bitness() == 64 { a.iretq() } else { a.iretd() }
    });
}

/// SDM 3A 6.7.1: an NMI blocks further ones until IRET, even an IRET that faults.
#[test]
fn nmi_blocking() {
    let mut rig = rig(false, 0);
    rig.gate(2, 0xa000, 14, 0);
    rig.put(0xa000, |a| {
        a.inc(dword_ptr(DATA as u32))?;
        a.nop()?;
        a.iretd()
    });
    rig.put(CODE, |a| {
        a.nop()?;
        a.hlt()
    });
    rig.cpu.nmi_pending = true;
    rig.run(1);
    assert_eq!((rig.cpu.rip(), rig.peek32(DATA)), (0xa006, 1));
    rig.cpu.nmi_pending = true;
    rig.run(1);
    assert_eq!((rig.cpu.rip(), rig.peek32(DATA)), (0xa007, 1), "blocked");
    rig.run(2);
    assert_eq!((rig.cpu.rip(), rig.peek32(DATA)), (0xa006, 2), "after IRET at once");
    rig.run(10);
    assert_eq!((rig.cpu.rip(), rig.cpu.activity), (CODE + 2, Activity::Halted));
    // HLT ends by an NMI, whatever IF is.
    rig.cpu.nmi_pending = true;
    rig.run(3);
    assert_eq!((rig.cpu.rip(), rig.peek32(DATA)), (CODE + 2, 3));
    // A faulting IRET unblocks.
    let mut rig = Rig::protected().ready();
    rig.cpu.nmi_blocked = true;
    rig.cpu.regs[4] -= 12;
    rig.poke32(STACK - 12 + 4, 0x1000);
    rig.load(CODE, &[0xcf]);
    assert_eq!(rig.fault(), Some(13));
    assert!(!rig.cpu.nmi_blocked);
}

/// A rig whose local APIC is off, so that INTR reaches the core: vector FFh, counted at [`DATA`].
fn interrupt_rig() -> Rig {
    let mut rig = rig(false, 0);
    let base = rig.cpu.read_msr(0x1b).expect("IA32_APIC_BASE");
    rig.cpu.write_msr(0x1b, base & !(1 << 11)).expect("IA32_APIC_BASE");
    assert_eq!(rig.cpu.lapic.mode(), ApicMode::Disabled);
    rig.gate(0xff, 0xa000, 14, 0);
    counting_handler(&mut rig, 0xa000, DATA);
    rig
}

/// SDM 3A 6.8.3, 2B STI and MOV: interrupts wait until after the instruction after STI and MOV SS.
#[test]
fn shadows() {
    // Code, IF before; the instruction count after which the interrupt's handler begins, and the saved IP's offset.
    let table: &[(&str, &[u8], bool, u64, u64)] = &[
        ("enabled", &[0x90, 0x90], true, 0, 0),
        ("STI", &[0xfb, 0x90, 0x90], false, 2, 2),
        ("STI while enabled", &[0x90, 0xfb, 0x90], true, 0, 0),
        ("POPF", &[0x68, 2, 2, 0, 0, 0x9d, 0x90], false, 2, 6),
        ("STI, MOV SS", &[0xfb, 0x8e, 0xd0, 0x90], false, 2, 3),
        ("STI, CLI, STI", &[0xfb, 0xfa, 0xfb, 0x90, 0x90], false, 4, 4),
        ("STI, HLT", &[0xfb, 0xf4, 0x90], false, 2, 2),
    ];
    for &(what, code, enabled, count, offset) in table {
        let mut rig = interrupt_rig();
        rig.cpu.flags.set(if enabled { 2 | IF } else { 2 });
        rig.cpu.regs[0] = sel::DATA0.into();
        rig.cpu.intr = true;
        rig.load(CODE, code);
        let start = rig.cpu.icount;
        while rig.cpu.rip() != 0xa006 {
            assert!(rig.cpu.icount < start + 20, "{what}");
            rig.run(1);
        }
        assert_eq!(rig.cpu.icount - start, count + 1, "{what}");
        let frame = rig.frame(0xff);
        assert_eq!((frame.ip, frame.flags & IF), (CODE + offset, IF), "{what}");
        assert_eq!(frame.flags & RF, 0, "{what}");
    }
    // MOV SS and POP SS hold an NMI and an interrupt that arrive with them.
    for (code, offset) in [(&[0x8e, 0xd0, 0x90, 0x90][..], 3), (&[0x50, 0x17, 0x90, 0x90], 3)] {
        for nmi in [false, true] {
            let mut rig = interrupt_rig();
            rig.gate(2, 0xa000, 14, 0);
            rig.cpu.flags.set(2 | IF);
            rig.cpu.regs[0] = sel::DATA0.into();
            rig.load(CODE, code);
            rig.run(if code[0] == 0x50 { 2 } else { 1 });
            rig.cpu.intr = !nmi;
            rig.cpu.nmi_pending = nmi;
            rig.run(2);
            assert_eq!(rig.cpu.rip(), 0xa006);
            assert_eq!(rig.frame(0xff).ip, CODE + offset);
        }
    }
}

/// HLT (SDM 2A): waits for an interrupt that is enabled; the saved IP is after it.
#[test]
fn hlt_waits() {
    for enabled in [false, true] {
        let mut rig = interrupt_rig();
        rig.cpu.flags.set(if enabled { 2 | IF } else { 2 });
        rig.load(CODE, &[0xf4, 0x90]);
        rig.run(10);
        assert_eq!((rig.cpu.rip(), rig.cpu.activity), (CODE + 1, Activity::Halted));
        rig.cpu.intr = true;
        rig.run(1);
        if enabled {
            assert_eq!((rig.cpu.rip(), rig.frame(0xff).ip), (0xa006, CODE + 1));
        } else {
            assert_eq!((rig.cpu.rip(), rig.cpu.activity), (CODE + 1, Activity::Halted));
        }
    }
}

/// SDM 2B REP: an interrupt between iterations saves the address of the instruction, its progress, and RF (SDM 3B
/// 18.3.1.1).
#[test]
fn interrupt_within_a_repeated_instruction() {
    let mut rig = interrupt_rig();
    // Long enough for several parts.
    const COUNT: u64 = 9000;
    rig.put(CODE, |a| a.rep().lodsb());
    rig.cpu.regs[6] = DATA;
    rig.cpu.regs[1] = COUNT;
    rig.cpu.flags.set(2 | IF);
    rig.run(1);
    let left = rig.cpu.regs[1];
    assert!(left > 0 && left < COUNT, "{left}");
    assert_eq!(rig.cpu.regs[6], DATA + COUNT - left);
    rig.cpu.intr = true;
    rig.run(1);
    let frame = rig.frame(0xff);
    assert_eq!((rig.cpu.rip(), frame.ip, frame.flags & RF), (0xa006, CODE, RF));
    // It goes on afterwards, to its end.
    rig.load(CODE + 2, &[0xcd, DONE]);
    assert_eq!(cause(rig.finish()), None);
    assert_eq!((rig.cpu.regs[1], rig.cpu.regs[6]), (0, DATA + COUNT));
    assert_eq!(rig.frame(DONE).flags & RF, 0);
}

/// SDM 3A 6.15 #NM, 2.5: CR0.TS, EM and MP.
#[test]
fn device_not_available() {
    const NM: Cause = Some((7, 0));
    let (mp, em, ts) = (2, 4, 8);
    let (fnop, wait, movups, emms) =
        (&[0xd9, 0xd0][..], &[0x9b][..], &[0x0f, 0x10, 0xc1][..], &[0x0f, 0x77][..]);
    for (cr0, code, expected) in [
        (0, fnop, None),
        (ts, fnop, NM),
        (em, fnop, NM),
        (mp, wait, None),
        (ts, wait, None),
        (ts | mp, wait, NM),
        (em, wait, None),
        (0, movups, None),
        (ts, movups, NM),
        (em, movups, UD),
        (em | ts, movups, UD),
        (em, emms, UD),
        (ts, emms, NM),
    ] {
        let mut rig = rig(false, 0);
        rig.cpu.cr0 |= cr0;
        rig.cpu.update_mode();
        assert_eq!(cause(rig.bytes(code)), expected, "{cr0:#x} {code:x?}");
    }
}

/// SDM 3A table 6-2: of what waits at one boundary, the debug trap comes first, then NMI, then the interrupt, and the next
/// instruction's breakpoint last. Each is taken on top of the one before, at the first instruction of its handler.
#[test]
fn priorities_between_instructions() {
    const DEBUG: u8 = 1;
    const NMI: u8 = 2;
    const INTR: u8 = 0xff;
    // What waits; the events in the order in which they are taken, as far as gates leave IF set.
    for (waiting, order) in [
        (&[DEBUG, NMI][..], &[DEBUG, NMI][..]),
        (&[NMI, INTR], &[NMI, INTR]),
        (&[DEBUG, INTR], &[DEBUG, INTR]),
        (&[DEBUG, NMI, INTR], &[DEBUG, NMI, INTR]),
    ] {
        let mut rig = interrupt_rig();
        let handler = |vector: u8| 0xb000 + 0x10 * u32::from(vector);
        for vector in [DEBUG, NMI, INTR] {
            // Trap gates leave IF set.
            set_idt(&mut rig, vector, gate(sel::CODE32, handler(vector), 0x8f, 0), 0);
            rig.load(handler(vector).into(), &[0xf4]);
        }
        rig.cpu.flags.set(2 | IF | if waiting.contains(&DEBUG) { TF } else { 0 });
        rig.load(CODE, &[0x90, 0x90]);
        if waiting.contains(&DEBUG) {
            rig.run(1);
        }
        rig.cpu.nmi_pending = waiting.contains(&NMI);
        rig.cpu.intr = waiting.contains(&INTR);
        rig.run(1);
        let last = order[order.len() - 1];
        assert_eq!(rig.cpu.rip(), u64::from(handler(last)) + 1, "{waiting:?}");
        // The return addresses, from the top of the stack.
        let mut at = rig.cpu.regs[4];
        for &below in order[..order.len() - 1].iter().rev() {
            assert_eq!(rig.peek32(at), handler(below), "{waiting:?}");
            at += 12;
        }
        assert_eq!(u64::from(rig.peek32(at)), CODE + u64::from(waiting.contains(&DEBUG)), "{waiting:?}");
    }
    // An instruction's breakpoint waits for the interrupt's handler.
    let mut rig = interrupt_rig();
    rig.cpu.flags.set(2);
    rig.cpu.regs[0] = CODE + 0x100;
    rig.cpu.regs[1] = 1;
    // mov dr0, eax; mov dr7, ecx; popf (with IF); jmp CODE + 100h
    rig.load(CODE, &[0x0f, 0x23, 0xc0, 0x0f, 0x23, 0xf9, 0x9d, 0xe9, 0xf4, 0, 0, 0]);
    rig.cpu.regs[4] -= 4;
    rig.poke32(rig.cpu.regs[4], 2 | IF as u32);
    rig.load(CODE + 0x100, &[0x90, 0xcd, DONE]);
    rig.run(4);
    assert_eq!(rig.cpu.rip(), CODE + 0x100);
    rig.cpu.intr = true;
    let frame = rig.finish().expect_err("#DB");
    assert_eq!((frame.vector, frame.ip, rig.peek32(DATA)), (1, CODE + 0x100, 1));
}
