//! Faults leave the state from which the instruction or event can be begun again (SDM 3A 6.6): nothing half done is seen.

use crate::common::*;
use crate::helpers::*;
use ringworld_x86::control::cr0;

/// A mapped page, followed by one that is not.
const PAGE: u64 = 0x40_0000;
const HOLE: u64 = PAGE + 0x1000;
const TABLE: u64 = 0x11_0000;
const RF: u64 = 1 << 16;
const FLAGS: u64 = 0x8d7;

/// 64-bit mode whose page faults come on a stack of their own.
fn rig() -> Rig {
    let mut rig = Rig::long().ready();
    for n in 0..512 {
        rig.poke(TABLE + 8 * n, if n == 1 { 0 } else { (PAGE + 0x1000 * n) | 7 });
    }
    rig.poke(TABLES + 0x2000 + 8 * (PAGE >> 21), TABLE | 7);
    rig.poke(TSS + 0x24, STACK);
    for vector in [8, 13, 14, DONE] {
        let at = IDT + 16 * u64::from(vector);
        let entry = rig.peek(at) | 1 << 32;
        rig.poke(at, entry);
    }
    rig.gate(0x40, 0x9030, 14, 0);
    rig.cpu.flags.set(FLAGS);
    rig
}

/// RAX to RDI before each row.
fn registers() -> [u64; 8] {
    [0x1111, 2, 0x3333, PAGE + 0x800, PAGE + 0x800, PAGE + 0x800, PAGE + 0x800, PAGE + 0x900]
}

/// Each instruction with one of its accesses in the hole: no register, flag or segment changes.
#[test]
fn instructions_that_fault_change_nothing() {
    const RBX: usize = 3;
    const RSP: usize = 4;
    const RBP: usize = 5;
    const RSI: usize = 6;
    const RDI: usize = 7;
    // Code, the register that leads into the hole and its value, the error code.
    let table: &[(&[u8], usize, u64, u32)] = &[
        (&[0x50], RSP, HOLE + 0x800, 2),
        (&[0xff, 0x33], RBX, HOLE, 0),
        (&[0xff, 0x33], RSP, HOLE + 8, 2),
        (&[0x58], RSP, HOLE, 0),
        (&[0x5c], RSP, HOLE, 0),
        (&[0x8f, 0x03], RBX, HOLE, 2),
        (&[0x8f, 0x03], RSP, HOLE, 0),
        (&[0xe8, 0, 0, 0, 0], RSP, HOLE + 8, 2),
        (&[0xff, 0x13], RBX, HOLE, 0),
        (&[0xff, 0x13], RSP, HOLE + 8, 2),
        (&[0xc3], RSP, HOLE, 0),
        (&[0xc2, 8, 0], RSP, HOLE, 0),
        (&[0x48, 0xcb], RSP, HOLE - 8, 0),
        (&[0x48, 0xcf], RSP, HOLE - 8, 0),
        (&[0x48, 0xcf], RSP, HOLE - 24, 0),
        (&[0x48, 0xcf], RSP, HOLE - 32, 0),
        (&[0xcd, 0x40], RSP, HOLE + 0x10, 2),
        (&[0xcc], RSP, HOLE + 0x10, 2),
        (&[0xc8, 0x10, 0, 0], RSP, HOLE + 8, 2),
        (&[0xc8, 0x10, 0, 3], RBP, HOLE + 8, 0),
        (&[0xc8, 0x00, 0x08, 0], RSP, HOLE + 0x1008, 2),
        (&[0xc9], RBP, HOLE, 0),
        (&[0x9c], RSP, HOLE + 8, 2),
        (&[0x9d], RSP, HOLE, 0),
        (&[0x0f, 0xa1], RSP, HOLE, 0),
        (&[0xa4], RSI, HOLE, 0),
        (&[0xa4], RDI, HOLE, 2),
        (&[0xaa], RDI, HOLE, 2),
        (&[0xac], RSI, HOLE, 0),
        (&[0xa6], RDI, HOLE, 0),
        (&[0xae], RDI, HOLE, 0),
        (&[0x87, 0x03], RBX, HOLE, 2),
        (&[0x01, 0x03], RBX, HOLE, 2),
        (&[0x01, 0x03], RBX, HOLE - 2, 2),
        (&[0x03, 0x03], RBX, HOLE, 0),
        (&[0x39, 0x03], RBX, HOLE, 0),
        (&[0xf7, 0x1b], RBX, HOLE, 2),
        (&[0xff, 0x03], RBX, HOLE, 2),
        (&[0xd1, 0x23], RBX, HOLE, 2),
        (&[0x0f, 0xb1, 0x0b], RBX, HOLE, 2),
        (&[0x0f, 0xc1, 0x0b], RBX, HOLE, 2),
        (&[0x0f, 0xc7, 0x0b], RBX, HOLE, 2),
        (&[0x48, 0x0f, 0xc7, 0x0b], RBX, HOLE, 2),
        (&[0x0f, 0xbb, 0x03], RBX, HOLE - 0x200, 2),
        (&[0xf7, 0x23], RBX, HOLE, 0),
        (&[0xf7, 0x33], RBX, HOLE, 0),
        (&[0x0f, 0xb2, 0x03], RBX, HOLE - 4, 0),
        (&[0x0f, 0xb4, 0x03], RBX, HOLE - 4, 0),
        (&[0x8e, 0x1b], RBX, HOLE, 0),
        (&[0x0f, 0x01, 0x13], RBX, HOLE - 2, 0),
        (&[0x0f, 0x01, 0x13], RBX, HOLE - 6, 0),
        (&[0x0f, 0x01, 0x03], RBX, HOLE - 2, 2),
        (&[0xff, 0x2b], RBX, HOLE - 4, 0),
        (&[0xff, 0x1b], RBX, HOLE - 4, 0),
        (&[0x6c], RDI, HOLE, 2),
        (&[0x6e], RSI, HOLE, 0),
        (&[0x0f, 0x10, 0x03], RBX, HOLE - 8, 0),
        (&[0xdd, 0x03], RBX, HOLE - 4, 0),
    ];
    for &(code, register, value, error) in table {
        let mut rig = rig();
        rig.cpu.regs[..8].copy_from_slice(&registers());
        rig.cpu.regs[register] = value;
        // What BTC finds: bit 1000h of RBX's base.
        if code == [0x0f, 0xbb, 0x03] {
            rig.cpu.regs[0] = 0x1000;
        }
        // What IRET finds, as far as it gets: a good code segment.
        if code == [0x48, 0xcf] && value + 8 < HOLE {
            rig.poke(value + 8, sel::CODE64.into());
        }
        let before = (rig.cpu.regs, rig.cpu.seg.map(|s| s.selector), rig.cpu.gdtr, rig.cpu.zmm);
        let page = rig.peek(HOLE - 8);
        let result = rig.bytes(code);
        let what = format!("{code:x?} {register} {value:#x}");
        let frame = result.expect_err(&what);
        assert_eq!((Some(frame.cause()), frame.ip), (pf(error), CODE), "{what}");
        assert_eq!(rig.cpu.cr2 >> 12, HOLE >> 12, "{what}");
        let mut after = rig.cpu.regs;
        after[4] = frame.sp;
        assert_eq!(after[..16], before.0[..16], "{what}");
        assert_eq!(frame.flags & !RF, FLAGS, "{what}");
        assert_eq!((frame.cs, frame.ss), (sel::CODE64, sel::DATA0), "{what}");
        let data = [0, 3, 4, 5].map(|n: usize| rig.cpu.seg[n].selector);
        assert_eq!(data, [0, 3, 4, 5].map(|n: usize| before.1[n]), "{what}");
        assert_eq!((rig.cpu.gdtr, rig.cpu.zmm), (before.2, before.3), "{what}");
        if code[0] != 0x0f || code[1] != 0x01 {
            // (SGDT may have written its first part.)
            assert_eq!(rig.peek(HOLE - 8), page, "{what}: memory");
        }
    }
}

/// Repeated string instructions stop where they fault, with their registers at the element (SDM 2B REP).
#[test]
fn repeated_instructions_stop_at_the_fault() {
    // Code, element size, whether RSI and RDI take part.
    for (code, size, source, target) in [
        (&[0xf3, 0xa4][..], 1, true, true),
        (&[0xf3, 0xa5], 4, true, true),
        (&[0xf3, 0x48, 0xa5], 8, true, true),
        (&[0xf3, 0xaa], 1, false, true),
        (&[0xf3, 0xab], 4, false, true),
        (&[0xf3, 0xac], 1, true, false),
        (&[0xf3, 0xa6], 1, true, true),
        (&[0xf2, 0xae], 1, false, true),
        (&[0xf3, 0x6c], 1, false, true),
        (&[0xf3, 0x6e], 1, true, false),
    ] {
        for hole_is_target in [false, true] {
            if hole_is_target && !target || !hole_is_target && !source {
                continue;
            }
            let mut rig = rig();
            let start = HOLE - 8 * size;
            rig.cpu.regs[0] = 0x55;
            rig.cpu.regs[1] = 100;
            rig.cpu.regs[6] = if hole_is_target { DATA } else { start };
            rig.cpu.regs[7] = if hole_is_target { start } else { DATA };
            let before = rig.cpu.regs;
            let frame = rig.bytes(code).expect_err("#PF");
            let what = format!("{code:x?} {hole_is_target}");
            assert_eq!((frame.vector, frame.ip, rig.cpu.cr2), (14, CODE, HOLE), "{what}");
            assert_eq!(rig.cpu.regs[1], 92, "{what}");
            let moved = |yes: bool, n: usize| if yes { before[n] + 8 * size } else { before[n] };
            assert_eq!((rig.cpu.regs[6], rig.cpu.regs[7]), (moved(source, 6), moved(target, 7)), "{what}");
        }
    }
}

/// An event whose frame cannot be pushed leaves the interrupted program's stack, level and segments as they were.
#[test]
fn deliveries_that_fault_change_nothing() {
    let mut rig = rig().user();
    rig.poke(TSS + 4, HOLE + 0x10);
    let sp = rig.cpu.regs[4];
    // #UD has no stack: #PF, which has one.
    let frame = rig.bytes(&[0x0f, 0x0b]).expect_err("#PF");
    assert_eq!((frame.cause(), rig.cpu.cr2), ((14, 2), HOLE + 8));
    assert_eq!((frame.ip, frame.cs, frame.sp, frame.ss), (CODE, sel::CODE64_3, sp, sel::DATA3));
    assert_eq!(frame.flags & !RF, FLAGS);
    // #PF on #PF: a double fault, with the same frame.
    let mut rig = self::rig().user();
    rig.poke(TSS + 4, HOLE + 0x10);
    let entry = rig.peek(IDT + 16 * 14) & !(7 << 32);
    rig.poke(IDT + 16 * 14, entry);
    let sp = rig.cpu.regs[4];
    rig.cpu.regs[3] = HOLE + 0x123;
    let frame = rig.bytes(&[0x8b, 0x03]).expect_err("#DF");
    assert_eq!((frame.cause(), rig.cpu.cr2), ((8, 0), HOLE + 8));
    assert_eq!((frame.ip, frame.cs, frame.sp, frame.ss), (CODE, sel::CODE64_3, sp, sel::DATA3));
}

/// Descriptor tables, the IDT and the TSS in pages that fault: #PF of the supervisor, whoever runs (SDM 3A 4.6, 4.7).
#[test]
fn tables_in_pages_that_fault() {
    type Move = fn(&mut Rig);
    // Code at level 3 (AX holds a selector), what lies in the hole, the error code, CR2.
    let table: &[(&str, &[u8], Move, u32, u64)] = &[
        ("GDT", &[0x8e, 0xd8], |r| r.cpu.gdtr.base = HOLE - 0x40, 0, HOLE + 8),
        ("IDT", &[0xcd, 0x40], |r| r.cpu.idtr.base = HOLE - 16 * 0x40, 0, HOLE),
        ("I/O bitmap", &[0xe4, 0x10], |r| r.cpu.tr.base = HOLE - 0x66, 0, HOLE),
    ];
    for &(what, code, spoil, error, cr2) in table {
        let mut rig = rig().user();
        rig.cpu.regs[0] = 0x4b;
        // The tables' images, so that the rest of them works from the mapped part: the IDT and GDT of the fault itself.
        for at in (0..0x1000).step_by(8) {
            let (gdt, idt) = (rig.peek(GDT + at), rig.peek(IDT + at));
            match what {
                "GDT" if at < 0x40 => rig.poke(HOLE - 0x40 + at, gdt),
                "IDT" if at < 16 * 0x40 => rig.poke(HOLE - 16 * 0x40 + at, idt),
                _ => {}
            }
        }
        spoil(&mut rig);
        if what == "I/O bitmap" {
            // The fault's own delivery finds its stack in the part that is mapped.
            rig.poke(rig.cpu.tr.base + 0x24, STACK);
        }
        let frame = rig.bytes(code).expect_err(what);
        assert_eq!((frame.cause(), rig.cpu.cr2), ((14, error), cr2), "{what}");
        assert_eq!((frame.ip, frame.cs), (CODE, sel::CODE64_3), "{what}");
    }
    // The accessed bit in a read-only page: a write, refused with CR0.WP, and not made without need.
    for (access, wp, expected) in [(0xf2, cr0::WP, pf(3)), (0xf3, cr0::WP, None), (0xf2, 0, None)] {
        let mut rig = rig();
        rig.cpu.cr0 = rig.cpu.cr0 & !cr0::WP | wp;
        for at in (0..0x100).step_by(8) {
            let value = rig.peek(GDT + at);
            rig.poke(PAGE + at, value);
        }
        rig.poke(PAGE + u64::from(sel::FREE), descriptor(0, 0xf_ffff, access, 0xc));
        rig.poke(TABLE, PAGE | 1);
        rig.cpu.gdtr.base = PAGE;
        rig.cpu.flush_all();
        rig.cpu.update_mode();
        rig.cpu.regs[0] = sel::FREE.into();
        assert_eq!(cause(rig.bytes(&[0x8e, 0xd8])), expected, "{access:#x} {wp:#x}");
        if expected.is_some() {
            assert_eq!((rig.cpu.cr2, rig.cpu.seg[3].selector), (PAGE + u64::from(sel::FREE) + 5, sel::DATA0));
        }
    }
}

/// After software clears A or D and invalidates, the processor sets them again (SDM 3A 4.8).
#[test]
fn accessed_and_dirty_again() {
    for (code, bits) in [(&[0x8b, 0x03][..], 0x20), (&[0x89, 0x03], 0x60)] {
        let mut rig = rig();
        rig.cpu.regs[3] = PAGE;
        rig.load(CODE, code);
        rig.run(1);
        assert_eq!(rig.peek(TABLE) & 0x60, bits);
        rig.poke(TABLE, PAGE | 7);
        let mut again = vec![0x0f, 0x01, 0x3b];
        again.extend(code);
        assert_eq!(cause(rig.bytes(&again)), None);
        assert_eq!(rig.peek(TABLE) & 0x60, bits, "{code:x?}");
    }
}

/// Without EFER.NXE, bit 63 of an entry is reserved (SDM 3A 4.5.4); without CR4.PKE the protection key is ignored.
#[test]
fn bits_that_modes_define() {
    for (nxe, entry, expected) in [
        (true, 1 << 63, None),
        (false, 1 << 63, pf(9)),
        (true, 0xf << 59, None),
        (true, 0x7f << 52, None),
        (true, 0xe00, None),
        (true, 0x98, None),
    ] {
        let mut rig = rig();
        rig.cpu.efer = rig.cpu.efer & !(1 << 11) | u64::from(nxe) << 11;
        rig.cpu.update_mode();
        rig.poke(TABLE, PAGE | 7 | entry);
        rig.cpu.regs[3] = PAGE;
        assert_eq!(cause(rig.bytes(&[0x8b, 0x03])), expected, "{nxe} {entry:#x}");
    }
}

/// String moves and fills in both directions do what they do element by element, however the ranges overlap and wherever
/// pages end.
#[test]
fn strings_go_both_ways() {
    const COUNT: u64 = 700;
    for (down, opcode, size) in
        [(false, 0xa4, 1), (true, 0xa4, 1), (true, 0xa5, 4), (true, 0xaa, 1), (true, 0xab, 4)]
    {
        for gap in [-3000_i64, -9, -4, 0, 3, 8, 1111, 3000] {
            let base = 0x2345_u64;
            let from = base + if down { size * (COUNT - 1) } else { 0 };
            let to = from.wrapping_add_signed(gap);
            let mut expected: Vec<u8> = (0..0x4000_u32).map(|n| (n * 37 >> 3) as u8).collect();
            let mut rig = Rig::long();
            rig.load(DATA, &expected);
            rig.load(CODE, &[if down { 0xfd } else { 0xfc }, 0xf3, opcode, 0xf4]);
            (rig.cpu.regs[1], rig.cpu.regs[6], rig.cpu.regs[7]) = (COUNT, DATA + from, DATA + to);
            rig.cpu.regs[0] = 0x8765_4321;
            for n in 0..COUNT {
                let by = if down { (n * size).wrapping_neg() } else { n * size };
                let (from, to) = (from.wrapping_add(by) as usize, to.wrapping_add(by) as usize);
                let element = if opcode < 0xa8 {
                    expected[from..from + size as usize].to_vec()
                } else {
                    0x8765_4321_u32.to_le_bytes()[..size as usize].to_vec()
                };
                expected[to..to + size as usize].copy_from_slice(&element);
            }
            rig.run(COUNT + 10);
            let mut found = vec![0; expected.len()];
            rig.cpu.memory.read(ringworld_core::GuestPhys(DATA), &mut found).expect("in memory");
            assert!(found == expected, "{opcode:#x}, down: {down}, gap {gap}");
            assert_eq!(
                (rig.cpu.regs[1], rig.cpu.regs[7]),
                (0, if down { DATA + to - COUNT * size } else { DATA + to + COUNT * size })
            );
        }
    }
}
