//! Task switches (SDM 3A chapter 8; in older editions chapter 7).

use crate::common::*;
use crate::helpers::*;
use ringworld_x86::control::{cr0, cr4};

/// The other task's TSS descriptor, and a task gate to it.
const OTHER: u16 = sel::FREE;
const GATE: u16 = sel::FREE + 8;
/// A free descriptor for what a table wants in it.
const SPARE: u16 = sel::FREE + 16;
/// The other task's TSS, code and stack.
const OTHER_TSS: u64 = 0x5000;
const OTHER_CODE: u64 = 0x1_8000;
const OTHER_STACK: u64 = 0x6_0000;
const V: u8 = 0x40;
const NT: u64 = 1 << 14;
const TS: u64 = 8;
const BUSY: u64 = 2 << 40;

/// Offsets in the 32-bit TSS (SDM 3A figure 8-2).
mod tss {
    pub const EIP: u64 = 0x20;
    pub const EFLAGS: u64 = 0x24;
    pub const EAX: u64 = 0x28;
    pub const ES: u64 = 0x48;
    pub const CS: u64 = 0x4c;
    pub const SS: u64 = 0x50;
    pub const DS: u64 = 0x54;
    pub const LDT: u64 = 0x60;
    pub const TRAP: u64 = 0x64;
}

/// A rig with another 32-bit task that would run at `cpl`.
fn rig(cpl: u8) -> Rig {
    let mut rig = Rig::protected().ready();
    rig.set_gdt(OTHER, descriptor(OTHER_TSS as u32, 0x67, 0x89, 0));
    rig.set_gdt(GATE, gate(OTHER, 0, 0xe5, 0));
    rig.poke(IDT + 8 * u64::from(V), gate(OTHER, 0, 0xe5, 0));
    let (cs, data) = if cpl == 3 { (sel::CODE32_3, sel::DATA3) } else { (sel::CODE32, sel::DATA0) };
    rig.poke(OTHER_TSS + 4, (STACK - 0x1000) | u64::from(sel::DATA0) << 32);
    rig.poke32(OTHER_TSS + tss::EIP, OTHER_CODE as u32);
    rig.poke32(OTHER_TSS + tss::EFLAGS, 0x0ad6);
    for n in 0..8 {
        rig.poke32(OTHER_TSS + tss::EAX + 4 * n, 0x1000_0000 * n as u32 + 1);
    }
    rig.poke32(OTHER_TSS + tss::EAX + 16, OTHER_STACK as u32);
    for n in 0..6 {
        rig.poke32(OTHER_TSS + tss::ES + 4 * n, data.into());
    }
    rig.poke32(OTHER_TSS + tss::CS, cs.into());
    rig.poke(OTHER_TSS + tss::LDT, 0x0068_0000_0000_0000);
    rig.load(OTHER_CODE, &[0xcd, DONE]);
    rig.cpu.regs[..8].copy_from_slice(&[0xa0, 0xa1, 0xa2, 0xa3, STACK - 64, 0xa5, 0xa6, 0xa7]);
    // The current TSS is busy, as LTR leaves it.
    rig.poke(GDT + u64::from(sel::TSS), rig.peek(GDT + u64::from(sel::TSS)) | BUSY);
    rig
}

fn busy(rig: &Rig, selector: u16) -> bool {
    rig.peek(GDT + u64::from(selector)) & BUSY != 0
}

/// How the switch is asked for.
#[derive(Clone, Copy, PartialEq, Debug)]
enum By {
    Jump(u16),
    Call(u16),
    Int,
}

impl By {
    fn code(self) -> Vec<u8> {
        match self {
            Self::Jump(selector) => vec![0xea, 1, 2, 3, 4, selector as u8, (selector >> 8) as u8],
            Self::Call(selector) => vec![0x9a, 1, 2, 3, 4, selector as u8, (selector >> 8) as u8],
            Self::Int => vec![0xcd, V],
        }
    }
}

/// SDM 3A 8.3 and table 8-2: what is saved, loaded, marked busy and linked.
#[test]
fn switches_save_and_load() {
    for by in [By::Jump(OTHER), By::Jump(GATE), By::Call(OTHER), By::Call(GATE), By::Int] {
        let mut rig = rig(0);
        rig.cpu.flags.set(0x202 | 1);
        rig.cpu.dr[7] = 0x7ff;
        let code = by.code();
        rig.load(CODE, &code);
        rig.run(1);
        let links = !matches!(by, By::Jump(_));
        // The old task's state.
        assert_eq!(rig.peek32(TSS + tss::EIP), (CODE + code.len() as u64) as u32, "{by:?}");
        assert_eq!(rig.peek32(TSS + tss::EFLAGS), 0x203, "{by:?}");
        let registers: Vec<u32> = (0..8).map(|n| rig.peek32(TSS + tss::EAX + 4 * n)).collect();
        assert_eq!(registers, [0xa0, 0xa1, 0xa2, 0xa3, STACK as u32 - 64, 0xa5, 0xa6, 0xa7]);
        let selectors: Vec<u16> = (0..6).map(|n| rig.peek16(TSS + tss::ES + 4 * n)).collect();
        assert_eq!(selectors, [0x10, 0x18, 0x10, 0x10, 0x10, 0x10]);
        // The new one's.
        assert_eq!(rig.cpu.rip(), OTHER_CODE);
        assert_eq!(rig.cpu.flags.get(), 0x0ad6 | if links { NT } else { 0 }, "{by:?}");
        let expected: Vec<u64> =
            (0..8).map(|n| if n == 4 { OTHER_STACK } else { 0x1000_0000 * n + 1 }).collect();
        assert_eq!(rig.cpu.regs[..8], expected);
        assert_eq!(rig.cpu.tr.selector, OTHER);
        assert_eq!(rig.cpu.tr.base, OTHER_TSS);
        assert_ne!(rig.cpu.cr0 & TS, 0, "SDM 3A 2.5");
        assert_eq!(rig.cpu.dr[7], 0x7ff & !0x155, "local breakpoints end with the task (SDM 3B 18.2.4)");
        // Busy bits and the link.
        assert_eq!((busy(&rig, sel::TSS), busy(&rig, OTHER)), (links, true), "{by:?}");
        if links {
            assert_eq!(rig.peek16(OTHER_TSS), sel::TSS, "{by:?}");
        }
        assert_eq!(cause(rig.finish()), None, "{by:?}");
    }
}

/// SDM 3A 8.4: IRET with NT goes back along the link.
#[test]
fn iret_returns_to_the_linked_task() {
    for by in [By::Call(GATE), By::Int] {
        let mut rig = rig(0);
        let mut code = by.code();
        code.extend([0xcd, DONE]);
        rig.load(CODE, &code);
        // The other task changes EBX and comes back; its own EIP is then after IRET.
        rig.load(OTHER_CODE, &[0xbb, 5, 0, 0, 0, 0xcf]);
        rig.cpu.flags.set(0x202);
        rig.run(2);
        rig.cpu.cr0 &= !TS;
        rig.run(1);
        assert_eq!(rig.cpu.rip(), CODE + code.len() as u64 - 2);
        assert_eq!((rig.cpu.tr.selector, rig.cpu.flags.get()), (sel::TSS, 0x202));
        assert_eq!(rig.cpu.regs[3], 0xa3);
        assert_eq!(rig.peek32(OTHER_TSS + tss::EIP), OTHER_CODE as u32 + 6);
        assert_eq!(u64::from(rig.peek32(OTHER_TSS + tss::EFLAGS)) & NT, 0, "NT is clear in the image");
        assert_eq!((busy(&rig, sel::TSS), busy(&rig, OTHER)), (true, false));
        assert_ne!(rig.cpu.cr0 & TS, 0);
        assert_eq!(cause(rig.finish()), None);
    }
}

/// SDM 3A 8.6: 16-bit tasks.
#[test]
fn sixteen_bit_tasks() {
    let mut rig = rig(0);
    rig.set_gdt(OTHER, descriptor(OTHER_TSS as u32, 0x2b, 0x81, 0));
    rig.set_gdt(SPARE, descriptor(0x1_0000, 0xffff, 0x9b, 0));
    let words: [u16; 22] = [
        0,
        0,
        0,
        0,
        0,
        0,
        0, // link, stacks
        0x8000,
        0x0a02, // IP, FLAGS
        1,
        2,
        3,
        4,
        0x6000,
        6,
        7,
        8, // AX, CX, DX, BX, SP, BP, SI, DI
        sel::DATA0,
        SPARE,
        sel::DATA0,
        sel::DATA0, // ES, CS, SS, DS
        0,
    ];
    for (n, word) in words.into_iter().enumerate() {
        rig.load(OTHER_TSS + 2 * n as u64, &word.to_le_bytes());
    }
    rig.load(CODE, &By::Call(OTHER).code());
    // In the other task: iret, 16 bits.
    rig.load(OTHER_CODE, &[0xcf]);
    rig.run(1);
    assert_eq!((rig.cpu.rip(), rig.cpu.seg[1].base, rig.cpu.mode.bitness()), (0x8000, 0x1_0000, 16));
    let registers: Vec<u64> = rig.cpu.regs[..8].iter().map(|r| r & 0xffff).collect();
    assert_eq!(registers, [1, 2, 3, 4, 0x6000, 6, 7, 8]);
    assert_eq!(rig.cpu.flags.get(), 0x0a02 | NT);
    assert!(rig.cpu.seg[4].unusable && rig.cpu.seg[5].unusable, "FS and GS are null");
    assert_eq!(rig.peek16(OTHER_TSS), sel::TSS);
    rig.run(1);
    assert_eq!((rig.cpu.rip(), rig.cpu.tr.selector, rig.cpu.mode.bitness()), (CODE + 7, sel::TSS, 32));
    assert_eq!(rig.peek16(OTHER_TSS + 14), 0x8001);
    // A 16-bit TSS ends at 2Bh.
    let mut rig = self::rig(0);
    rig.set_gdt(OTHER, descriptor(OTHER_TSS as u32, 0x2a, 0x81, 0));
    assert_eq!(cause(rig.bytes(&By::Jump(OTHER).code())), ts(OTHER.into()));
}

/// SDM 3A 8.3, table 8-1: what is checked before anything changes.
#[test]
fn faults_before_the_switch_leave_the_old_task() {
    let (o, g) = (u32::from(OTHER), u32::from(GATE));
    type Break = fn(&mut Rig);
    let other = |access, limit| descriptor(OTHER_TSS as u32, limit, access, 0);
    const LDT: u16 = OTHER | 4;
    // Level, way, result, and what is wrong.
    let table: &[(u8, By, Cause, Break)] = &[
        (0, By::Jump(OTHER), gp(o), |r| r.set_gdt(OTHER, descriptor(OTHER_TSS as u32, 0x67, 0x8b, 0))),
        (0, By::Jump(OTHER), np(o), |r| r.set_gdt(OTHER, descriptor(OTHER_TSS as u32, 0x67, 0x09, 0))),
        (0, By::Jump(OTHER), ts(o), |r| r.set_gdt(OTHER, descriptor(OTHER_TSS as u32, 0x66, 0x89, 0))),
        (0, By::Call(OTHER), ts(o), |r| r.set_gdt(OTHER, descriptor(OTHER_TSS as u32, 0x66, 0x89, 0))),
        (0, By::Jump(OTHER | 1), gp(o), |_| ()),
        (3, By::Jump(OTHER), gp(o), |_| ()),
        (3, By::Call(OTHER), gp(o), |_| ()),
        (0, By::Jump(LDT), gp(o | 4), |_| ()),
        (3, By::Jump(GATE | 3), gp(g), |r| r.set_gdt(GATE, gate(OTHER, 0, 0x85, 0))),
        (0, By::Jump(GATE), np(g), |r| r.set_gdt(GATE, gate(OTHER, 0, 0x65, 0))),
        (0, By::Jump(GATE), gp(0), |r| r.set_gdt(GATE, gate(0, 0, 0xe5, 0))),
        (0, By::Jump(GATE), gp(o | 4), |r| r.set_gdt(GATE, gate(OTHER | 4, 0, 0xe5, 0))),
        (0, By::Jump(GATE), gp(0x1000), |r| r.set_gdt(GATE, gate(0x1000, 0, 0xe5, 0))),
        (0, By::Jump(GATE), gp(0x10), |r| r.set_gdt(GATE, gate(sel::DATA0, 0, 0xe5, 0))),
        (0, By::Jump(GATE), gp(o), |r| r.set_gdt(OTHER, descriptor(OTHER_TSS as u32, 0x67, 0x8b, 0))),
        (0, By::Jump(GATE), np(o), |r| r.set_gdt(OTHER, descriptor(OTHER_TSS as u32, 0x67, 0x09, 0))),
        (0, By::Int, gp(o), |r| r.set_gdt(OTHER, descriptor(OTHER_TSS as u32, 0x67, 0x8b, 0))),
        (0, By::Int, np(o), |r| r.set_gdt(OTHER, descriptor(OTHER_TSS as u32, 0x67, 0x09, 0))),
        (0, By::Int, np(8 * V as u32 + 2), |r| r.poke(IDT + 8 * V as u64, gate(OTHER, 0, 0x65, 0))),
        (3, By::Int, gp(8 * V as u32 + 2), |r| r.poke(IDT + 8 * V as u64, gate(OTHER, 0, 0x85, 0))),
    ];
    for (n, &(cpl, by, expected, spoil)) in table.iter().enumerate() {
        let mut rig = if cpl == 3 { rig(0).user() } else { rig(0) };
        spoil(&mut rig);
        let descriptors = [sel::TSS, OTHER].map(|s| rig.peek(GDT + u64::from(s)));
        let result = rig.bytes(&by.code());
        assert_eq!(cause(result), expected, "{n} {by:?}");
        assert_eq!(result.map_err(|frame| frame.ip), Err(CODE), "{n} {by:?}");
        assert_eq!((rig.cpu.tr.selector, rig.cpu.cr0 & TS), (sel::TSS, 0), "{n} {by:?}");
        assert_eq!([sel::TSS, OTHER].map(|s| rig.peek(GDT + u64::from(s))), descriptors, "{n} {by:?}");
    }
    // IRET: the link must name a busy TSS in the GDT.
    for (link, descriptor, expected) in [
        (0, other(0x8b, 0x67), ts(0)),
        (OTHER | 4, other(0x8b, 0x67), ts(o | 4)),
        (0x1000, other(0x8b, 0x67), ts(0x1000)),
        (OTHER, other(0x89, 0x67), ts(o)),
        (OTHER, other(0x93, 0x67), ts(o)),
        (OTHER, other(0x0b, 0x67), np(o)),
        (OTHER, other(0x8b, 0x66), ts(o)),
        (OTHER, other(0x8b, 0x67), None),
    ] {
        let mut rig = rig(0);
        rig.set_gdt(OTHER, descriptor);
        rig.load(TSS, &u16::to_le_bytes(link));
        rig.cpu.flags.set(2 | NT);
        assert_eq!(cause(rig.bytes(&[0xcf])), expected, "{link:#x} {descriptor:#x}");
        if expected.is_none() {
            assert_eq!((busy(&rig, sel::TSS), busy(&rig, OTHER)), (false, true));
        }
    }
}

/// SDM 3A 8.3: faults while the new task's segments are loaded belong to the new task, at its first instruction.
#[test]
fn faults_after_the_switch_belong_to_the_new_task() {
    const D32: u8 = 0xc;
    let s = u32::from(SPARE);
    // Field, selector put there, descriptor at SPARE, error.
    let spare = SPARE | 3;
    let flat = |access| descriptor(0, 0xf_ffff, access, D32);
    let table = [
        (tss::LDT, SPARE, descriptor(0, 7, 0x92, 0), ts(s)),
        (tss::LDT, SPARE, descriptor(0, 7, 0x02, 0), ts(s)),
        (tss::LDT, SPARE | 4, descriptor(0, 7, 0x82, 0), ts(s | 4)),
        (tss::LDT, 0x1000, 0, ts(0x1000)),
        (tss::LDT, SPARE, descriptor(0, 7, 0x82, 0), None),
        (tss::CS, 3, 0, ts(0)),
        (tss::CS, 0x1003, 0, ts(0x1000)),
        (tss::CS, spare, flat(0xf3), ts(s)),
        (tss::CS, spare, flat(0x9b), ts(s)),
        (tss::CS, spare, flat(0xff), None),
        (tss::CS, spare, flat(0x9f), None),
        (tss::CS, spare, flat(0x7b), np(s)),
        (tss::CS, spare, descriptor(0, 0xfff, 0xfb, 4), gp(0)),
        (tss::SS, 3, 0, ts(0)),
        (tss::SS, 0x1003, 0, ts(0x1000)),
        (tss::SS, SPARE, flat(0xf3), ts(s)),
        (tss::SS, spare, flat(0x93), ts(s)),
        (tss::SS, spare, flat(0xf1), ts(s)),
        (tss::SS, spare, flat(0xfb), ts(s)),
        (tss::SS, spare, flat(0x73), sf(s)),
        (tss::SS, spare, flat(0xf3), None),
        (tss::DS, 3, 0, None),
        (tss::DS, 0x1003, 0, ts(0x1000)),
        (tss::DS, spare, flat(0xf9), ts(s)),
        (tss::DS, spare, flat(0x82), ts(s)),
        (tss::DS, spare, flat(0x93), ts(s)),
        (tss::DS, spare, flat(0x73), np(s)),
        (tss::ES, spare, flat(0x73), np(s)),
        (tss::DS, spare, flat(0xf1), None),
    ];
    for (field, selector, descriptor, expected) in table {
        for by in [By::Jump(OTHER), By::Call(GATE), By::Int] {
            let mut rig = rig(3);
            rig.set_gdt(SPARE, descriptor);
            rig.load(OTHER_TSS + field, &selector.to_le_bytes());
            let result = rig.bytes(&by.code());
            let what = format!("{field:#x} {selector:#x} {descriptor:#x} {by:?}");
            assert_eq!(cause(result), expected, "{what}");
            assert_eq!((rig.cpu.tr.selector, busy(&rig, OTHER)), (OTHER, true), "{what}");
            let after = CODE + by.code().len() as u64;
            assert_eq!(rig.peek32(TSS + tss::EIP), after as u32, "{what}");
            if let Err(frame) = result {
                assert_eq!((frame.ip, frame.sp), (OTHER_CODE, OTHER_STACK), "{what}");
                let cs = if field == tss::CS { selector } else { sel::CODE32_3 };
                assert_eq!(frame.cs, cs, "{what}");
            }
        }
    }
}

/// SDM 3A 6.12.2: an exception through a task gate pushes its error code on the new task's stack.
#[test]
fn exception_through_a_task_gate() {
    for wide in [true, false] {
        let mut rig = rig(0);
        if !wide {
            rig.set_gdt(OTHER, descriptor(OTHER_TSS as u32, 0x2b, 0x81, 0));
            for (at, word) in [
                (14, OTHER_CODE as u16),
                (16, 2),
                (26, 0x6000),
                (34, 0x10),
                (36, SPARE),
                (38, 0x10),
                (40, 0x10),
                (42, 0),
            ] {
                rig.load(OTHER_TSS + at, &u16::to_le_bytes(word));
            }
            rig.set_gdt(SPARE, descriptor(0x1_0000, 0xffff, 0x9b, 4));
        }
        rig.poke(IDT + 8 * 13, gate(OTHER, 0, 0x85, 0));
        rig.cpu.regs[0] = 0x1234;
        rig.load(CODE, &[0x8e, 0xd8]); // #GP(1234h)
        rig.load(OTHER_CODE, &[0xf4]);
        rig.run(5);
        assert_eq!(rig.cpu.tr.selector, OTHER);
        let stack = if wide { OTHER_STACK - 4 } else { 0x6000 - 2 };
        assert_eq!(rig.cpu.regs[4] & if wide { u64::MAX } else { 0xffff }, stack);
        if wide {
            assert_eq!(rig.peek32(stack), 0x1234);
        }
        assert_eq!(rig.peek32(TSS + tss::EIP), CODE as u32, "the fault's instruction");
    }
    // The double fault's own task is the reason that task gates live: a bad stack, and a sound task.
    let mut rig = rig(0);
    rig.poke(IDT + 8 * 8, gate(OTHER, 0, 0x85, 0));
    rig.force(2, sel::DATA0, descriptor(0, 0xfff, 0x93, 4));
    rig.load(CODE, &[0x50]);
    assert_eq!(cause(rig.finish()), None);
    assert_eq!((rig.cpu.tr.selector, rig.peek16(OTHER_TSS)), (OTHER, sel::TSS));
    assert_eq!(rig.peek32(OTHER_STACK - 4), 0, "#DF's error code");
}

/// SDM 3A 8.2.1, 3B 18.3.1.5: the T flag raises #DB before the new task's first instruction.
#[test]
fn debug_trap_flag() {
    let mut rig = rig(0);
    rig.poke32(OTHER_TSS + tss::TRAP, 0x0068_0001);
    let frame = rig.bytes(&By::Jump(OTHER).code()).expect_err("#DB");
    assert_eq!((frame.vector, frame.ip), (1, OTHER_CODE));
    assert_eq!(rig.cpu.dr[6], 0xffff_8ff0);
}

/// SDM 3A 8.3: there is no task switching in IA-32e mode.
#[test]
fn no_tasks_in_ia_32e_mode() {
    for (access, expected) in [(0x89, gp(OTHER.into())), (0x85, gp(OTHER.into()))] {
        let mut rig = Rig::long().ready();
        rig.set_gdt(OTHER, gate(sel::TSS, 0, access, 0));
        rig.poke(DATA, u64::from(OTHER) << 32);
        // jmp far [DATA]
        assert_eq!(cause(rig.bytes(&[0xff, 0x2c, 0x25, 0, 0, 0x20, 0])), expected);
    }
}

/// A task in virtual-8086 mode (SDM 3B 21.2.5).
#[test]
fn task_in_virtual_8086_mode() {
    let mut rig = rig(0);
    rig.poke32(OTHER_TSS + tss::EFLAGS, 0x2_0002 | 3 << 12);
    for n in 0..6 {
        rig.poke32(OTHER_TSS + tss::ES + 4 * n, 0x1000 + n as u32);
    }
    rig.poke32(OTHER_TSS + tss::EIP, 0x8000);
    rig.poke32(OTHER_TSS + tss::CS, 0x1000);
    rig.load(CODE, &By::Jump(OTHER).code());
    rig.run(1);
    assert!(rig.cpu.v8086() && rig.cpu.cpl == 3);
    assert_eq!((rig.cpu.rip(), rig.cpu.seg[1].base, rig.cpu.seg[3].base), (0x8000, 0x1_0000, 0x1_0030));
    assert_eq!(cause(rig.finish()), None);
    assert_eq!(rig.frame(DONE).cs, 0x1000);
}

/// SDM 3A 8.3, 4.10.4: CR3 comes from a 32-bit TSS while paging is on, PDPTEs with it.
#[test]
fn page_tables_of_the_new_task() {
    const OTHER_TABLES: u64 = 0x12_0000;
    const PROBE: u64 = 0x100_0000;
    // 32-bit paging with 4-MiB pages: the same but for one page.
    let mut rig = rig(0);
    for (tables, frame) in [(TABLES, 0x80_0000), (OTHER_TABLES, 0xc0_0000)] {
        rig.poke32(tables, 0x87);
        rig.poke32(tables + 4 * (PROBE >> 22), frame | 0x87);
        rig.poke32(frame.into(), frame);
    }
    rig.poke32(OTHER_TSS + 0x1c, OTHER_TABLES as u32);
    rig.cpu.cr4 |= cr4::PSE;
    rig.cpu.cr3 = TABLES;
    rig.cpu.cr0 |= cr0::PG;
    rig.cpu.update_mode();
    rig.cpu.flush_all();
    // mov ebx, [PROBE]; jmp to the task; there: mov ecx, [PROBE].
    let mut code = vec![0x8b, 0x1d, 0, 0, 0, 1];
    code.extend(By::Jump(OTHER).code());
    rig.load(CODE, &code);
    rig.load(OTHER_CODE, &[0x8b, 0x0d, 0, 0, 0, 1, 0xcd, DONE]);
    rig.run(1);
    assert_eq!(rig.cpu.regs[3], 0x80_0000);
    assert_eq!(cause(rig.finish()), None);
    assert_eq!((rig.cpu.regs[1], rig.cpu.cr3), (0xc0_0000, OTHER_TABLES));
    // PAE: reserved bits in a PDPTE are the new task's #GP(0), and CR3 stays.
    for (entry, expected) in [(0, None), (2, gp(0))] {
        // At level 3, so that the fault has a stack.
        let mut rig = self::rig(3);
        for tables in [TABLES, OTHER_TABLES] {
            rig.poke(tables, (tables + 0x1000) | 1);
            rig.poke(tables + 0x1000, 0x87);
        }
        rig.poke(OTHER_TABLES, (OTHER_TABLES + 0x1000) | 1 | entry);
        rig.poke32(OTHER_TSS + 0x1c, OTHER_TABLES as u32);
        rig.cpu.cr4 |= cr4::PAE;
        rig.cpu.cr3 = TABLES;
        rig.cpu.pdptes = [rig.peek(TABLES), 0, 0, 0];
        rig.cpu.cr0 |= cr0::PG;
        rig.cpu.update_mode();
        rig.cpu.flush_all();
        let result = rig.bytes(&By::Jump(OTHER).code());
        assert_eq!(cause(result), expected, "{entry}");
        assert_eq!(rig.cpu.cr3, if expected.is_none() { OTHER_TABLES } else { TABLES });
        if let Err(frame) = result {
            assert_eq!((frame.ip, rig.cpu.tr.selector), (OTHER_CODE, OTHER));
        }
    }
}
