//! Far transfers between segments and privilege levels: JMP, CALL, call gates, RET, IRET (SDM 3A 5.8).

use crate::common::*;
use crate::helpers::*;

/// Free descriptors: a gate (two of them in IA-32e mode), code, stack.
const GATE: u16 = sel::FREE;
const CODE_SEL: u16 = sel::FREE + 0x10;
const STACK_SEL: u16 = sel::FREE + 0x18;
/// Where tested transfers lead: to [`DONE`].
const TARGET: u32 = 0x1_8000;
/// Flags nibbles of a 32-bit and a 64-bit code segment with 4-KiB granularity.
const D32: u8 = 0xc;
const L64: u8 = 0xa;

fn flat(access: u8, flags: u8) -> u64 {
    descriptor(0, 0xf_ffff, access, flags)
}

fn rig(long: bool, cpl: u8) -> Rig {
    let mut rig = if long { Rig::long() } else { Rig::protected() }.ready();
    rig.load(TARGET.into(), &[0xcd, DONE]);
    if cpl == 3 { rig.user() } else { rig }
}

/// `jmp far` or `call far` through the pointer at [`DATA`], of the full operand size.
fn through_memory(long: bool, call: bool) -> Vec<u8> {
    let mut code = match (long, call) {
        (false, false) => vec![0xff, 0x2d],
        (false, true) => vec![0xff, 0x1d],
        (true, false) => vec![0x48, 0xff, 0x2c, 0x25],
        (true, true) => vec![0x48, 0xff, 0x1c, 0x25],
    };
    code.extend((DATA as u32).to_le_bytes());
    code
}

fn set_pointer(rig: &mut Rig, selector: u16, offset: u64) {
    if rig.cpu.long_mode() {
        rig.poke(DATA, offset);
        rig.poke(DATA + 8, selector.into());
    } else {
        rig.poke(DATA, u64::from(selector) << 32 | offset);
    }
}

/// SDM 2A JMP and CALL, protected mode: direct far transfers.
#[test]
fn direct_far_transfers_are_checked() {
    let c = u32::from(CODE_SEL);
    // Long mode, CPL, selector, access and flags at CODE_SEL, result; the new CS has RPL = CPL.
    let table: &[(bool, u8, u16, u8, u8, Cause)] = &[
        (false, 0, 0, 0x9b, D32, gp(0)),
        (false, 0, 3, 0x9b, D32, gp(0)),
        (false, 0, 0x1000, 0x9b, D32, gp(0x1000)),
        (false, 0, CODE_SEL, 0x9b, D32, None),
        (false, 0, CODE_SEL, 0x99, D32, None),
        (false, 0, CODE_SEL, 0x9a, D32, None),
        (false, 0, CODE_SEL, 0x93, D32, gp(c)),
        (false, 0, CODE_SEL | 3, 0x9b, D32, gp(c)),
        (false, 0, CODE_SEL | 3, 0xfb, D32, gp(c)),
        (false, 0, CODE_SEL, 0xfb, D32, gp(c)),
        (false, 3, CODE_SEL | 3, 0xfb, D32, None),
        (false, 3, CODE_SEL, 0xfb, D32, None),
        (false, 3, CODE_SEL | 3, 0x9b, D32, gp(c)),
        (false, 3, CODE_SEL | 3, 0xdb, D32, gp(c)),
        // Conforming: DPL at or below CPL, RPL free.
        (false, 3, CODE_SEL | 3, 0x9f, D32, None),
        (false, 3, CODE_SEL, 0xdf, D32, None),
        (false, 0, CODE_SEL | 3, 0x9f, D32, None),
        (false, 0, CODE_SEL, 0xff, D32, gp(c)),
        // Present comes last.
        (false, 0, CODE_SEL, 0x1b, D32, np(c)),
        (false, 3, CODE_SEL | 3, 0x1b, D32, gp(c)),
        // System descriptors that are no gates to code.
        (false, 0, CODE_SEL, 0x82, 0, gp(c)),
        (false, 0, CODE_SEL, 0x8e, 0, gp(c)),
        (false, 0, CODE_SEL, 0x80, 0, gp(c)),
        // IA-32e mode: L and D together are refused; L alone is 64-bit, D alone compatibility mode.
        (true, 0, CODE_SEL, 0x9b, L64, None),
        (true, 0, CODE_SEL, 0x9b, 0xe, gp(c)),
        (true, 0, CODE_SEL, 0x1b, 0xe, gp(c)),
        (true, 0, CODE_SEL, 0x1b, L64, np(c)),
        (true, 0, CODE_SEL, 0x9b, D32, None),
        (true, 0, CODE_SEL, 0x8b, D32, gp(c)),
        (true, 0, CODE_SEL, 0x89, D32, gp(c)),
        (true, 0, CODE_SEL, 0x85, D32, gp(c)),
        (true, 0, CODE_SEL, 0x84, D32, gp(c)),
    ];
    for &(long, cpl, selector, access, flags, expected) in table {
        for call in [false, true] {
            let mut rig = rig(long, cpl);
            rig.set_gdt(CODE_SEL, flat(access, flags));
            set_pointer(&mut rig, selector, TARGET.into());
            let (old_cs, old_sp) = (rig.cpu.seg[1].selector, rig.cpu.regs[4]);
            let code = through_memory(long, call);
            let result = rig.bytes(&code);
            let what = format!("{long} {cpl} {selector:#x} {access:#x} {flags:#x} {call}");
            assert_eq!(cause(result), expected, "{what}");
            let Err(frame) = result else {
                let done = rig.frame(DONE);
                assert_eq!(done.cs, selector & !3 | u16::from(cpl), "{what}");
                assert_eq!(done.ip, u64::from(TARGET) + 2, "{what}");
                let size = if long { 8 } else { 4 };
                if call {
                    let mask = u64::MAX >> (64 - 8 * size);
                    assert_eq!(rig.peek(old_sp - 2 * size) & mask, CODE + code.len() as u64, "{what}");
                    assert_eq!(rig.peek(old_sp - size) & mask, old_cs.into(), "{what}");
                }
                if cpl == 3 || long {
                    assert_eq!(done.sp, if call { old_sp - 2 * size } else { old_sp }, "{what}");
                }
                continue;
            };
            assert_eq!(frame.ip, CODE, "{what}");
            if cpl == 3 || long {
                assert_eq!(frame.sp, old_sp, "{what}");
            }
        }
    }
}

/// SDM 2A JMP: the offset must be in the new segment, or canonical.
#[test]
fn far_targets() {
    let mut r = rig(false, 0);
    r.set_gdt(CODE_SEL, descriptor(0, TARGET - 1, 0x9b, 4));
    set_pointer(&mut r, CODE_SEL, TARGET.into());
    assert_eq!(cause(r.bytes(&through_memory(false, false))), gp(0));
    let mut r = rig(true, 0);
    set_pointer(&mut r, sel::CODE64, 1 << 47);
    assert_eq!(cause(r.bytes(&through_memory(true, false))), gp(0));
    // 64-bit mode has no direct far pointer.
    for opcode in [0xea, 0x9a] {
        assert_eq!(cause(rig(true, 0).bytes(&[opcode, 0, 0, 0, 0, 8, 0])), UD);
    }
    // To compatibility mode and on: 32-bit code.
    let mut r = rig(true, 0);
    set_pointer(&mut r, sel::CODE32, TARGET.into());
    r.load(TARGET.into(), &[0x48, 0x90, 0xcd, DONE]);
    r.cpu.regs[0] = 5;
    assert_eq!(cause(r.bytes(&through_memory(true, false))), None);
    assert_eq!(r.cpu.regs[0], 4, "48 is DEC EAX there, no prefix");
    assert_eq!(r.frame(DONE).cs, sel::CODE32);
}

/// The stack of level 1, from the TSS.
const STACK1: u64 = STACK - 0x8000;

fn set_stack1(rig: &mut Rig, selector: u16, esp: u64) {
    rig.poke(TSS + 12, esp | u64::from(selector) << 32);
}

/// The pieces of a call through a gate from level 3 to level 1 (so that faults have a sound stack of level 0).
fn gate_rig(kind: u8) -> Rig {
    let mut rig = rig(false, 3);
    rig.set_gdt(GATE, gate(CODE_SEL, TARGET, 0xe0 | kind, 2));
    rig.set_gdt(CODE_SEL, flat(0xbb, D32));
    rig.set_gdt(STACK_SEL, flat(0xb3, D32));
    set_stack1(&mut rig, STACK_SEL | 1, STACK1);
    if kind == 4 {
        rig.set_gdt(GATE, gate(CODE_SEL, 0x8000, 0xe4, 2));
        rig.set_gdt(CODE_SEL, descriptor(0x1_0000, 0xf_ffff, 0xbb, D32));
    }
    rig
}

fn call_gate(rig: &mut Rig, selector: u16) -> Result<(), Frame> {
    let [low, high] = selector.to_le_bytes();
    // push 11111111h; push 22222222h; call far: the offset is ignored.
    rig.bytes(&[
        0x68, 0x11, 0x11, 0x11, 0x11, 0x68, 0x22, 0x22, 0x22, 0x22, 0x9a, 0xef, 0xbe, 0xad, 0xde, low, high,
    ])
}

/// SDM 3A 5.8.3–5.8.5: a gate to an inner level switches stacks and copies parameters.
#[test]
fn call_gate_to_inner_level() {
    let mut rig = gate_rig(12);
    let user_sp = rig.cpu.regs[4] - 8;
    let returns = CODE + 17;
    assert_eq!(cause(call_gate(&mut rig, GATE | 3)), None);
    let words: Vec<u32> = (0..6).map(|n| rig.peek32(STACK1 - 24 + 4 * n)).collect();
    let expected =
        [returns as u32, sel::CODE32_3.into(), 0x2222_2222, 0x1111_1111, user_sp as u32, sel::DATA3.into()];
    assert_eq!(words, expected);
    let done = rig.frame(DONE);
    assert_eq!((done.cs, done.ss, done.sp), (CODE_SEL | 1, STACK_SEL | 1, STACK1 - 24));

    // A 16-bit gate: 16-bit words, a 16-bit offset.
    let mut rig = gate_rig(4);
    let user_sp = rig.cpu.regs[4] - 8;
    assert_eq!(cause(call_gate(&mut rig, GATE | 3)), None);
    let words: Vec<u16> = (0..6).map(|n| rig.peek16(STACK1 - 12 + 2 * n)).collect();
    assert_eq!(words, [returns as u16, sel::CODE32_3, 0x2222, 0x2222, user_sp as u16, sel::DATA3]);
    assert_eq!(rig.frame(DONE).ip, 0x8002);
}

/// SDM 2A CALL, 3A 5.8.4–5.8.5: everything that a call through a gate may find wrong.
#[test]
fn call_gate_faults() {
    let (g, c, s) = (u32::from(GATE), u32::from(CODE_SEL), u32::from(STACK_SEL));
    type Break = fn(&mut Rig);
    let table: &[(&str, Cause, Break)] = &[
        ("nothing", None, |_| ()),
        ("gate's DPL below CPL", gp(g), |r| r.set_gdt(GATE, gate(CODE_SEL, TARGET, 0x8c, 0))),
        ("gate's DPL below RPL", gp(g), |r| r.set_gdt(GATE, gate(CODE_SEL, TARGET, 0xcc, 0))),
        ("gate not present", np(g), |r| r.set_gdt(GATE, gate(CODE_SEL, TARGET, 0x6c, 0))),
        ("DPL before present", gp(g), |r| r.set_gdt(GATE, gate(CODE_SEL, TARGET, 0x0c, 0))),
        ("null code segment", gp(0), |r| r.set_gdt(GATE, gate(3, TARGET, 0xec, 0))),
        ("code beyond the GDT", gp(0x1000), |r| r.set_gdt(GATE, gate(0x1000, TARGET, 0xec, 0))),
        ("code in no LDT", gp(c | 4), |r| r.set_gdt(GATE, gate(CODE_SEL | 4, TARGET, 0xec, 0))),
        ("target is data", gp(c), |r| r.set_gdt(CODE_SEL, flat(0xb3, D32))),
        ("target is a TSS", gp(c), |r| r.set_gdt(CODE_SEL, flat(0xa9, D32))),
        ("code not present", np(c), |r| r.set_gdt(CODE_SEL, flat(0x3b, D32))),
        ("offset beyond the code's limit", gp(0), |r| {
            r.set_gdt(CODE_SEL, descriptor(0, TARGET - 1, 0xbb, 4));
        }),
        ("TSS too small", ts(sel::TSS as u32), |r| r.cpu.tr.limit = 16),
        ("TSS just large enough", None, |r| r.cpu.tr.limit = 17),
        ("SS1 null", ts(0), |r| set_stack1(r, 0, STACK1)),
        ("SS1 null with RPL", ts(0), |r| set_stack1(r, 1, STACK1)),
        ("SS1 beyond the GDT", ts(0x1000), |r| set_stack1(r, 0x1001, STACK1)),
        ("SS1's RPL", ts(s), |r| set_stack1(r, STACK_SEL, STACK1)),
        ("SS1's DPL", ts(s), |r| r.set_gdt(STACK_SEL, flat(0x93, D32))),
        ("SS1 read-only", ts(s), |r| r.set_gdt(STACK_SEL, flat(0xb1, D32))),
        ("SS1 is code", ts(s), |r| r.set_gdt(STACK_SEL, flat(0xbb, D32))),
        ("SS1 not present", sf(s), |r| r.set_gdt(STACK_SEL, flat(0x33, D32))),
        ("SS1's RPL before present", ts(s), |r| {
            r.set_gdt(STACK_SEL, flat(0x33, D32));
            set_stack1(r, STACK_SEL, STACK1);
        }),
        ("the stack before the offset", ts(0), |r| {
            set_stack1(r, 0, STACK1);
            r.set_gdt(CODE_SEL, descriptor(0, TARGET - 1, 0xbb, 4));
        }),
        ("no room for the frame", sf(s), |r| {
            r.set_gdt(STACK_SEL, descriptor(0, 0xfff, 0xb7, 4));
            set_stack1(r, STACK_SEL | 1, 0x1014);
        }),
        ("just room for the frame", None, |r| {
            r.set_gdt(STACK_SEL, descriptor(0, 0x5fff, 0xb7, 4));
            set_stack1(r, STACK_SEL | 1, 0x6018);
        }),
        ("parameters beyond the old stack", sf(0), |r| {
            let sp = r.cpu.regs[4] as u32;
            r.force(2, sel::DATA3, descriptor(0, sp - 5, 0xf3, 4));
        }),
    ];
    for &(what, expected, spoil) in table {
        let mut rig = gate_rig(12);
        spoil(&mut rig);
        let sp = rig.cpu.regs[4];
        let code: Vec<u8> = if what.starts_with("parameters") {
            vec![0x9a, 0, 0, 0, 0, GATE as u8 | 3, 0]
        } else {
            vec![0x50, 0x50, 0x9a, 0, 0, 0, 0, GATE as u8 | 3, 0]
        };
        let pushed = if code.len() == 9 { 8 } else { 0 };
        if pushed == 0 {
            rig.cpu.regs[4] -= 4;
        }
        let sp = if pushed == 0 { sp - 4 } else { sp - pushed };
        let result = rig.bytes(&code);
        assert_eq!(cause(result), expected, "{what}");
        if let Err(frame) = result {
            let at = CODE + if pushed == 0 { 0 } else { 2 };
            assert_eq!((frame.ip, frame.cs, frame.sp), (at, sel::CODE32_3, sp), "{what}");
        }
    }
}

/// A gate to the same level, and to conforming code, pushes CS:EIP only; JMP through a gate pushes nothing.
#[test]
fn gates_without_change_of_level() {
    let c = u32::from(CODE_SEL);
    // CPL, access of the code, JMP, result.
    for (cpl, access, jump, expected) in [
        (0, 0x9b, false, None),
        (0, 0x9b, true, None),
        (3, 0xfb, false, None),
        (3, 0xfb, true, None),
        (3, 0x9f, false, None),
        (3, 0x9f, true, None),
        (0, 0xfb, false, gp(c)),
        (0, 0xfb, true, gp(c)),
        (3, 0x9b, true, gp(c)),
        (3, 0x1f, true, np(c)),
    ] {
        let mut rig = rig(false, cpl);
        rig.set_gdt(GATE, gate(CODE_SEL, TARGET, 0xec, 5));
        rig.set_gdt(CODE_SEL, flat(access, D32));
        set_pointer(&mut rig, GATE | u16::from(cpl), 0);
        let sp = rig.cpu.regs[4];
        let code = through_memory(false, !jump);
        assert_eq!(cause(rig.bytes(&code)), expected, "{cpl} {access:#x} {jump}");
        if expected.is_none() {
            let done = rig.frame(DONE);
            assert_eq!(done.cs, CODE_SEL | u16::from(cpl));
            let pushed = if jump { 0 } else { 8 };
            let now = if cpl == 3 { done.sp } else { rig.cpu.regs[4] + 12 };
            assert_eq!(now, sp - pushed, "{cpl} {access:#x} {jump}");
            if !jump {
                assert_eq!(rig.peek32(sp - 8), CODE as u32 + code.len() as u32);
            }
        }
    }
}

/// SDM 3A 5.8.3.1: 64-bit call gates are 16 bytes, lead to 64-bit code only, copy no parameters and load a null SS.
#[test]
fn call_gate_64() {
    let (g, c) = (u32::from(GATE), u32::from(CODE_SEL));
    // Access of the gate, its upper half, access and flags of the code, result.
    for (access, upper, code, flags, expected) in [
        (0xec, 0, 0x9b, L64, None),
        (0xec, 0, 0x9b, D32, gp(c)),
        (0xec, 0, 0x9b, 0xe, gp(c)),
        (0xec, 0, 0x1b, L64, np(c)),
        (0x6c, 0, 0x9b, L64, np(g)),
        (0x8c, 0, 0x9b, L64, gp(g)),
        (0xe4, 0, 0x9b, L64, gp(g)),
        (0xec, 0x0c00_0000_0000, 0x9b, L64, gp(g)),
        (0xec, 0x8000, 0x9b, L64, gp(0)),
    ] {
        let mut rig = rig(true, 3);
        rig.set_gdt(GATE, gate(CODE_SEL, TARGET, access, 2));
        rig.set_gdt(GATE + 8, upper);
        rig.set_gdt(CODE_SEL, flat(code, flags));
        set_pointer(&mut rig, GATE | 3, 0);
        let sp = rig.cpu.regs[4];
        let code = through_memory(true, true);
        assert_eq!(cause(rig.bytes(&code)), expected, "{access:#x} {upper:#x} {flags:#x}");
        if expected.is_none() {
            let words: Vec<u64> = (0..4).map(|n| rig.peek(STACK - 32 + 8 * n)).collect();
            assert_eq!(words, [CODE + code.len() as u64, sel::CODE64_3.into(), sp, sel::DATA3.into()]);
            let done = rig.frame(DONE);
            assert_eq!((done.cs, done.sp, done.ss), (CODE_SEL, STACK - 32, 0));
        }
    }
}

/// What RETF and IRET pop, from the top: EIP, CS, (EFLAGS,) ESP, SS.
fn push_return(rig: &mut Rig, iret: bool, cs: u16, ip: u32, stack: Option<(u16, u32)>, between: u64) {
    let mut words = vec![ip, cs.into()];
    if iret {
        words.push(rig.cpu.flags.get() as u32);
    }
    words.extend((0..between / 4).map(|_| 0xdead_dead));
    if let Some((ss, esp)) = stack {
        words.extend([esp, ss.into()]);
    }
    let bottom = rig.cpu.regs[4] - 4 * words.len() as u64;
    for (n, word) in words.into_iter().enumerate() {
        rig.poke32(bottom + 4 * n as u64, word);
    }
    rig.cpu.regs[4] = bottom;
}

/// SDM 2B RET, 2A IRET: checks of the code and stack segments that are returned to.
#[test]
fn returns_are_checked() {
    let (c, s) = (u32::from(CODE_SEL), u32::from(STACK_SEL));
    // CPL, CS, its access, SS, its access, offset, result.
    let table: &[(u8, u16, u8, u16, u8, u32, Cause)] = &[
        (0, 0, 0x9b, 0, 0, TARGET, gp(0)),
        (0, 2, 0x9b, 0, 0, TARGET, gp(0)),
        (0, 0x1000, 0x9b, 0, 0, TARGET, gp(0x1000)),
        (0, CODE_SEL, 0x93, 0, 0, TARGET, gp(c)),
        (0, CODE_SEL, 0x8c, 0, 0, TARGET, gp(c)),
        (0, CODE_SEL, 0x9b, 0, 0, TARGET, None),
        (0, CODE_SEL, 0x9f, 0, 0, TARGET, None),
        (0, CODE_SEL, 0xfb, 0, 0, TARGET, gp(c)),
        (0, CODE_SEL, 0x1b, 0, 0, TARGET, np(c)),
        (0, CODE_SEL, 0x7b, 0, 0, TARGET, gp(c)),
        (0, CODE_SEL | 3, 0x9b, STACK_SEL | 3, 0xf3, TARGET, gp(c)),
        (0, CODE_SEL | 1, 0xff, STACK_SEL | 1, 0xb3, TARGET, gp(c)),
        (3, CODE_SEL | 2, 0xdb, 0, 0, TARGET, gp(c)),
        (3, CODE_SEL, 0x9f, 0, 0, TARGET, gp(c)),
        (3, CODE_SEL | 3, 0xfb, 0, 0, TARGET, None),
        (3, CODE_SEL | 3, 0x9f, 0, 0, TARGET, None),
        // To level 3.
        (0, CODE_SEL | 3, 0xfb, STACK_SEL | 3, 0xf3, TARGET, None),
        (0, CODE_SEL | 3, 0x9f, STACK_SEL | 3, 0xf3, TARGET, None),
        (0, CODE_SEL | 3, 0x7b, STACK_SEL | 3, 0xf3, TARGET, np(c)),
        (0, CODE_SEL | 3, 0xfb, 0, 0xf3, TARGET, gp(0)),
        (0, CODE_SEL | 3, 0xfb, 3, 0xf3, TARGET, gp(0)),
        (0, CODE_SEL | 3, 0xfb, 0x1003, 0xf3, TARGET, gp(0x1000)),
        (0, CODE_SEL | 3, 0xfb, STACK_SEL, 0xf3, TARGET, gp(s)),
        (0, CODE_SEL | 3, 0xfb, STACK_SEL | 3, 0x93, TARGET, gp(s)),
        (0, CODE_SEL | 3, 0xfb, STACK_SEL | 3, 0xf1, TARGET, gp(s)),
        (0, CODE_SEL | 3, 0xfb, STACK_SEL | 3, 0xfb, TARGET, gp(s)),
        (0, CODE_SEL | 3, 0xfb, STACK_SEL | 3, 0x73, TARGET, sf(s)),
        (0, CODE_SEL | 3, 0xfb, STACK_SEL | 3, 0x13, TARGET, gp(s)),
        // The offset comes last.
        (0, CODE_SEL, 0x9b, 0, 0, 0x20_0000, gp(0)),
        (0, CODE_SEL | 3, 0xfb, STACK_SEL | 3, 0xf3, 0x20_0000, gp(0)),
        (0, CODE_SEL | 3, 0xfb, STACK_SEL, 0xf3, 0x20_0000, gp(s)),
    ];
    for &(cpl, cs, access, stack, stack_access, ip, expected) in table {
        for iret in [false, true] {
            let mut rig = rig(false, cpl);
            rig.set_gdt(CODE_SEL, descriptor(0, 0x1_ffff, access, 4));
            rig.set_gdt(STACK_SEL, flat(stack_access, D32));
            let before = rig.cpu.regs[4];
            let outer = stack_access != 0;
            push_return(&mut rig, iret, cs, ip, outer.then_some((stack, 0x5_0000)), 0);
            let top = rig.cpu.regs[4];
            let result = rig.bytes(&[if iret { 0xcf } else { 0xcb }]);
            let what = format!("{cpl} {cs:#x} {access:#x} {stack:#x} {stack_access:#x} {ip:#x} {iret}");
            assert_eq!(cause(result), expected, "{what}");
            if let Err(frame) = result {
                assert_eq!(frame.ip, CODE, "{what}");
                if cpl == 0 {
                    assert_eq!(rig.cpu.regs[4], top - 16, "{what}: nothing popped");
                }
            } else {
                let done = rig.frame(DONE);
                assert_eq!((done.cs, done.ip), (cs, u64::from(TARGET) + 2), "{what}");
                if outer {
                    assert_eq!((done.ss, done.sp), (stack, 0x5_0000), "{what}");
                } else if cpl == 3 {
                    assert_eq!(done.sp, before, "{what}");
                }
            }
        }
    }
}

/// SDM 2B RET: to an outer level, RETF n releases parameters on both stacks, and data segments that the outer level may
/// not use become null.
#[test]
fn return_to_outer_level_releases_and_nulls() {
    for iret in [false, true] {
        let mut rig = rig(false, 0);
        rig.set_gdt(STACK_SEL, flat(0x9f, D32));
        rig.force(0, sel::DATA3, flat(0xf3, D32));
        rig.force(3, sel::DATA0, flat(0x93, D32));
        rig.force(4, STACK_SEL, flat(0x9f, D32)); // conforming code stays
        rig.force(5, sel::CODE32, flat(0x9b, D32));
        let between = if iret { 0 } else { 8 };
        push_return(&mut rig, iret, sel::CODE32_3, TARGET, Some((sel::DATA3, 0x5_0000)), between);
        let code: &[u8] = if iret { &[0xcf] } else { &[0xca, 8, 0] };
        assert_eq!(cause(rig.bytes(code)), None);
        let done = rig.frame(DONE);
        assert_eq!((done.sp, done.ss, done.cs), (0x5_0000 + between, sel::DATA3, sel::CODE32_3));
        let unusable: Vec<bool> = [0, 3, 4, 5].map(|n: usize| rig.cpu.seg[n].unusable).into();
        assert_eq!(unusable, [false, true, false, true], "ES, DS, FS, GS");
        assert_eq!((rig.cpu.seg[3].selector, rig.cpu.seg[5].selector), (0, 0));
    }
    // A null selector loses its RPL; the base stays.
    let mut null = rig(false, 0);
    (null.cpu.seg[4].selector, null.cpu.seg[4].base, null.cpu.seg[4].unusable) = (3, 0x1234, true);
    push_return(&mut null, true, sel::CODE32_3, TARGET, Some((sel::DATA3, 0x5_0000)), 0);
    assert_eq!(cause(null.bytes(&[0xcf])), None);
    assert_eq!((null.cpu.seg[4].selector, null.cpu.seg[4].base), (0, 0x1234));
    // On the same level, n is added once.
    let mut rig = rig(false, 3);
    let sp = rig.cpu.regs[4];
    push_return(&mut rig, false, sel::CODE32_3, TARGET, None, 0);
    assert_eq!(cause(rig.bytes(&[0xca, 8, 0])), None);
    assert_eq!(rig.frame(DONE).sp, sp + 8);
}

/// SDM 2A IRET: in 64-bit mode SS:RSP is always popped, and SS may be null below level 3.
#[test]
fn iret_64() {
    // SS, CS, result.
    for (stack, cs, expected) in [
        (sel::DATA0, sel::CODE64, None),
        (0, sel::CODE64, None),
        (sel::DATA3, sel::CODE64_3, None),
        (sel::DATA3, sel::CODE32_3, None),
        (3, sel::CODE64_3, gp(0)),
        (0, sel::CODE32, gp(0)),
        (sel::DATA3, sel::CODE64, gp(0x28)),
        (sel::DATA0, sel::CODE64_3, gp(0x10)),
    ] {
        let mut rig = rig(true, 0);
        rig.cpu.regs[4] -= 40;
        for (n, word) in [TARGET.into(), cs.into(), 2, 0x5_0008, stack.into()].into_iter().enumerate() {
            rig.poke(rig.cpu.regs[4] + 8 * n as u64, word);
        }
        assert_eq!(cause(rig.bytes(&[0x48, 0xcf])), expected, "{stack:#x} {cs:#x}");
        if expected.is_none() {
            let done = rig.frame(DONE);
            assert_eq!((done.ss, done.sp, done.cs), (stack, 0x5_0008, cs));
        }
    }
    // Not canonical, and NT: #GP(0).
    for (ip, nt) in [(1 << 47, 0), (TARGET.into(), 1 << 14)] {
        let mut rig = rig(true, 0);
        rig.cpu.regs[4] -= 40;
        for (n, word) in [ip, sel::CODE64.into(), 2, 0x5_0008, 0].into_iter().enumerate() {
            rig.poke(rig.cpu.regs[4] + 8 * n as u64, word);
        }
        rig.cpu.flags.set(2 | nt);
        assert_eq!(cause(rig.bytes(&[0x48, 0xcf])), gp(0));
    }
}

/// SDM 2A IRET: which flags a level may change.
#[test]
fn flags_that_iret_may_change() {
    const IF: u64 = 1 << 9;
    const IOPL: u64 = 3 << 12;
    const NT: u64 = 1 << 14;
    const AC: u64 = 1 << 18;
    const VIF: u64 = 1 << 19;
    const VIP: u64 = 1 << 20;
    const ID: u64 = 1 << 21;
    let all = 0x0cd5 | IF | IOPL | NT | AC | VIF | VIP | ID;
    // CPL, flags before, flags that arrive of all set ones.
    for (cpl, before, after) in
        [(0, 2, all | 2), (3, 2, all & !(IF | IOPL | VIF | VIP) | 2), (3, 2 | IOPL, all & !(VIF | VIP) | 2)]
    {
        let mut rig = rig(false, cpl);
        rig.cpu.flags.set(all | 2);
        let cs = if cpl == 3 { sel::CODE32_3 } else { sel::CODE32 };
        push_return(&mut rig, true, cs, TARGET, None, 0);
        rig.cpu.flags.set(before);
        assert_eq!(cause(rig.bytes(&[0xcf])), None);
        assert_eq!(rig.frame(DONE).flags & !0x1_0000, after, "{cpl} {before:#x}");
    }
    // And none set clears what it may.
    for (cpl, before, after) in [(0, all, 2), (3, all, IOPL | VIF | VIP | 2)] {
        let mut rig = rig(false, cpl);
        rig.cpu.flags.set(2);
        let cs = if cpl == 3 { sel::CODE32_3 } else { sel::CODE32 };
        push_return(&mut rig, true, cs, TARGET, None, 0);
        rig.cpu.flags.set(before & !NT);
        assert_eq!(cause(rig.bytes(&[0xcf])), None);
        assert_eq!(rig.frame(DONE).flags, after, "{cpl}");
    }
}
