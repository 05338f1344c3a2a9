//! Debug exceptions: single-stepping, breakpoints, the debug registers (SDM 3B chapter 18; in older editions 17).

use crate::common::*;
use crate::helpers::*;
use ringworld_x86::Activity;
use ringworld_x86::interp::RunEnd;
use ringworld_x86::model::Model;
use std::sync::Arc;

const TF: u64 = 1 << 8;
const RF: u64 = 1 << 16;
/// DR6 with no condition.
const NONE: u64 = 0xffff_0ff0;
const BD: u64 = 1 << 13;
const BS: u64 = 1 << 14;
const DE: u64 = 8;

fn rig(long: bool) -> Rig {
    let mut rig = if long { Rig::long() } else { Rig::protected() }.ready();
    rig.cpu.regs[..8].copy_from_slice(&[0x10, 3, 0, DATA, STACK - 256, 0, DATA, DATA + 0x100]);
    rig
}

/// Sets DR7 and DR0 by way of the instructions.
fn set_breakpoint(rig: &mut Rig, address: u64, dr7: u64) {
    let at = rig.cpu.rip();
    rig.cpu.regs[8] = 0;
    let saved = (rig.cpu.regs[0], rig.cpu.regs[1], rig.cpu.flags);
    rig.cpu.regs[0] = address;
    rig.cpu.regs[1] = dr7;
    rig.cpu.flags.set(2);
    rig.cpu.set_rip(0xe000);
    rig.load(0xe000, &[0x0f, 0x23, 0xc0, 0x0f, 0x23, 0xf9]);
    rig.run(2);
    assert_eq!(rig.cpu.rip(), 0xe006);
    (rig.cpu.regs[0], rig.cpu.regs[1], rig.cpu.flags) = saved;
    rig.cpu.set_rip(at);
}

/// SDM 3B 18.3.1.4: where the single-step trap comes, for each kind of instruction.
#[test]
fn single_step() {
    // 64-bit mode, code, TF at its start, where the trap is.
    let table: &[(&str, bool, &[u8], bool, u64)] = &[
        ("NOP", false, &[0x90, 0x90], true, 1),
        ("JMP", false, &[0xeb, 3, 0x90, 0x90, 0x90, 0x90], true, 5),
        ("Jcc not taken", false, &[0x75, 3, 0x90], true, 2),
        ("a load", false, &[0x8b, 0x03, 0x90], true, 2),
        ("CALL", false, &[0xe8, 2, 0, 0, 0, 0x90, 0x90, 0x90], true, 7),
        ("POPF that sets TF", false, &[0x68, 2, 1, 0, 0, 0x9d, 0x90, 0x90], false, 7),
        ("MOV SS and the next", false, &[0x8e, 0xd0, 0x90, 0x90], true, 3),
        ("POP SS and the next", false, &[0x58, 0x17, 0x90, 0x90], true, 1),
        ("one iteration of REP", false, &[0xf3, 0xa4, 0x90], true, 0),
        ("PUSHF", false, &[0x9c, 0x90], true, 1),
        ("CPUID", true, &[0x0f, 0xa2, 0x90], true, 2),
        ("HLT", true, &[0xf4, 0x90], true, 1),
        ("STI", true, &[0xfb, 0x90, 0x90], true, 1),
    ];
    for &(what, long, code, stepping, offset) in table {
        let mut rig = rig(long);
        rig.cpu.flags.set(2 | 0x40 | if stepping { TF } else { 0 });
        let frame = rig.bytes(code).expect_err(what);
        assert_eq!((frame.vector, frame.ip), (1, CODE + offset), "{what}");
        assert_eq!(frame.flags & TF, TF, "{what}");
        assert_eq!(rig.cpu.dr[6], NONE | BS, "{what}");
        assert_eq!(rig.cpu.flags.get() & TF, 0, "{what}: not in the handler");
        if what.contains("REP") {
            assert_eq!((rig.cpu.regs[1], frame.flags & RF), (2, RF), "{what}: RF in the middle");
        } else {
            assert_eq!(frame.flags & RF, 0, "{what}");
        }
        if what == "PUSHF" {
            assert_eq!(u64::from(rig.peek32(STACK - 256 - 4)) & TF, TF, "{what}");
        }
    }
}

/// POPF and IRET that clear TF are followed by a last trap: TF was set at their start.
#[test]
fn the_last_step() {
    for code in [&[0x9d, 0x90][..], &[0xcf, 0x90]] {
        let mut rig = rig(false);
        let sp = rig.cpu.regs[4];
        let words = if code[0] == 0x9d { [2, 0, 0] } else { [CODE as u32 + 1, u32::from(sel::CODE32), 2] };
        for (n, word) in words.into_iter().enumerate() {
            rig.poke32(sp + 4 * n as u64, word);
        }
        rig.cpu.flags.set(2 | TF);
        let frame = rig.bytes(code).expect_err("#DB");
        assert_eq!((frame.vector, frame.ip, frame.flags & TF), (1, CODE + 1, 0), "{code:x?}");
    }
}

/// Software interrupts and faults clear TF on the way: no trap for them (SDM 3B 18.3.1.4).
#[test]
fn events_end_single_stepping() {
    for (code, vector, ip) in [
        (&[0xcd, 0x06][..], 6, 2),
        (&[0xcc], 3, 1),
        (&[0x0f, 0x0b], 6, 0),
        (&[0xf1], 1, 1),
        (&[0x8e, 0xd0, 0xcc], 3, 3),
    ] {
        let mut rig = rig(false);
        rig.cpu.flags.set(2 | TF);
        let frame = rig.bytes(code).expect_err("an event");
        assert_eq!((frame.vector, frame.ip, frame.flags & TF), (vector, CODE + ip, TF), "{code:x?}");
        // INT1 leaves DR6 alone; so does everything else here.
        assert_eq!(rig.cpu.dr[6], NONE, "{code:x?}");
    }
}

/// IRET that sets TF: the trap comes after the instruction that it returns to (SDM 2A IRET, 3B 18.3.1.4).
#[test]
fn iret_begins_stepping() {
    let mut rig = rig(false);
    let sp = rig.cpu.regs[4];
    for (n, word) in [CODE as u32 + 0x100, sel::CODE32.into(), 2 | TF as u32].into_iter().enumerate() {
        rig.poke32(sp + 4 * n as u64, word);
    }
    rig.load(CODE + 0x100, &[0x90, 0x90]);
    let frame = rig.bytes(&[0xcf]).expect_err("#DB");
    assert_eq!((frame.vector, frame.ip, rig.cpu.dr[6]), (1, CODE + 0x101, NONE | BS));
}

/// SYSCALL's trap depends on TF after FMASK; SYSRET's TF traps at once; SYSENTER does not clear TF.
#[test]
fn stepping_over_system_calls() {
    const FMASK: u32 = 0xc000_0084;
    for (mask, traps) in [(TF, false), (0, true)] {
        let mut rig = rig(true);
        rig.cpu.write_msr(0xc000_0081, u64::from(sel::CODE64) << 32).expect("STAR");
        rig.cpu.write_msr(0xc000_0082, CODE + 0x100).expect("LSTAR");
        rig.cpu.write_msr(FMASK, mask).expect("FMASK");
        rig.load(CODE + 0x100, &[0xcd, DONE]);
        rig.cpu.flags.set(2 | TF);
        let result = rig.bytes(&[0x0f, 0x05]);
        assert_eq!(
            result.map_err(|frame| (frame.vector, frame.ip)),
            if traps { Err((1, CODE + 0x100)) } else { Ok(()) }
        );
        assert_eq!(rig.cpu.regs[11], 2 | TF);
    }
    let mut rig = rig(true);
    // STAR gives CS 23h and SS 1Bh: no descriptors are read.
    rig.cpu.write_msr(0xc000_0081, 0x13 << 48).expect("STAR");
    rig.cpu.regs[1] = CODE + 0x100;
    rig.cpu.regs[11] = 2 | TF;
    rig.load(CODE + 0x100, &[0x90, 0x90]);
    let frame = rig.bytes(&[0x48, 0x0f, 0x07]).expect_err("#DB");
    assert_eq!((frame.vector, frame.ip, frame.cs, frame.ss), (1, CODE + 0x100, 0x23, 0x1b));
    assert_eq!(rig.cpu.dr[6], NONE | BS);
    let mut rig = self::rig(true);
    for (index, value) in [(0x174, u64::from(sel::CODE64)), (0x175, STACK - 64), (0x176, CODE + 0x100)] {
        rig.cpu.write_msr(index, value).expect("SYSENTER's registers");
    }
    rig.cpu.flags.set(2 | TF);
    let frame = rig.bytes(&[0x0f, 0x34]).expect_err("#DB");
    assert_eq!((frame.vector, frame.ip, frame.flags & TF), (1, CODE + 0x100, TF));
}

/// SDM 3B 18.3.1.1: instruction breakpoints are faults, before everything else of the instruction; RF holds them off.
#[test]
fn instruction_breakpoints() {
    // DR7, code, address, expected.
    for (dr7, code, offset, hit) in [
        (1, &[0x90, 0x90, 0x90][..], 1, true),
        (2, &[0x90, 0x90, 0x90], 1, true),
        (0, &[0x90, 0x90, 0x90], 1, false),
        (4, &[0x90, 0x90, 0x90], 1, false),
        // Not the first byte of an instruction.
        (1, &[0x90, 0xb0, 5, 0x90], 2, false),
        // Before the instruction's own fault.
        (1, &[0x90, 0x0f, 0x0b], 1, true),
        // Not after MOV SS.
        (1, &[0x66, 0x8e, 0xd0, 0x90, 0x90], 3, false),
        (1, &[0xfa, 0xfb, 0x90, 0x90], 2, true),
    ] {
        for long in [false, true] {
            let mut rig = rig(long);
            set_breakpoint(&mut rig, CODE + offset, dr7);
            let result = rig.bytes(code);
            if !hit {
                assert_eq!(cause(result), None, "{dr7} {code:x?}");
                continue;
            }
            let frame = result.expect_err("#DB");
            assert_eq!((frame.vector, frame.ip, frame.flags & RF), (1, CODE + offset, 0), "{dr7} {code:x?}");
            assert_eq!(rig.cpu.dr[6], NONE | 1);
        }
    }
    // But on AMD's processors.
    for code in [&[0x66, 0x8e, 0xd0, 0x90, 0x90], &[0x66, 0x8e, 0xd0, 0x40, 0x90]] {
        let mut rig = rig(false);
        rig.cpu.model = Arc::new(Model::as_if_complete("EPYC"));
        set_breakpoint(&mut rig, CODE + 3, 1);
        let frame = rig.bytes(code).expect_err("#DB");
        assert_eq!((frame.vector, frame.ip, rig.cpu.dr[6] & 0xf), (1, CODE + 3, 1), "{code:x?}");
    }
    // IRET with RF goes past the breakpoint, once.
    let mut rig = rig(false);
    set_breakpoint(&mut rig, CODE + 1, 1);
    let frame = rig.bytes(&[0x90, 0x40, 0xeb, 0xfd]).expect_err("#DB");
    assert_eq!(frame.vector, 1);
    let sp = rig.cpu.regs[4];
    rig.poke32(sp + 8, (frame.flags | RF) as u32);
    rig.load(0xf000, &[0xcf]);
    rig.cpu.set_rip(0xf000);
    rig.cpu.activity = Activity::Active;
    let again = rig.finish().expect_err("#DB");
    assert_eq!((again.vector, again.ip, rig.cpu.regs[0]), (1, CODE + 1, 0x11));
}

/// SDM 3B 18.2.4, 18.3.1.2: data breakpoints are traps; which accesses touch them.
#[test]
fn data_breakpoints() {
    // DR0 offset, R/W, LEN, access offset, access size, write, hit.
    let table = [
        (0, 1, 0, 0, 1, true, true),
        (0, 1, 0, 0, 1, false, false),
        (0, 3, 0, 0, 1, false, true),
        (0, 3, 0, 0, 1, true, true),
        (0, 0, 0, 0, 1, false, false),
        (1, 1, 0, 0, 1, true, false),
        (1, 1, 0, 0, 4, true, true),
        (3, 1, 0, 0, 4, true, true),
        (4, 1, 0, 0, 4, true, false),
        (0, 1, 1, 1, 1, true, true),
        (0, 1, 1, 2, 1, true, false),
        (0, 1, 3, 3, 1, true, true),
        (0, 1, 3, 4, 1, true, false),
        // The address is aligned to its length.
        (3, 1, 3, 0, 1, true, true),
        (3, 1, 3, 4, 1, true, false),
        (0, 1, 2, 7, 1, true, true),
        (0, 1, 2, 8, 1, true, false),
        (6, 1, 1, 4, 4, true, true),
        (8, 1, 3, 4, 4, true, false),
        // Across a page.
        (0xfff, 1, 0, 0xffe, 4, true, true),
        (0x1000, 1, 0, 0xffe, 4, true, true),
        (0x1002, 3, 0, 0xffe, 4, false, false),
    ];
    for (at, rw, len, offset, size, write, hit) in table {
        for warm in [false, true] {
            let mut rig = rig(true);
            let mut code = match (size, write) {
                (1, true) => vec![0x88, 0x83],
                (1, false) => vec![0x8a, 0x83],
                (_, true) => vec![0x89, 0x83],
                (_, false) => vec![0x8b, 0x83],
            };
            code.extend(u32::to_le_bytes(offset));
            if warm {
                // Translations from before the breakpoint do not hide it.
                rig.load(CODE, &code);
                rig.run(1);
                rig.cpu.set_rip(CODE);
            }
            set_breakpoint(&mut rig, DATA + at, 1 | rw << 16 | len << 18);
            let result = rig.bytes(&code);
            let what = format!("{at:#x} {rw} {len} {offset:#x} {size} {write}");
            assert_eq!(cause(result).is_some(), hit, "{what}");
            if let Err(frame) = result {
                assert_eq!((frame.vector, frame.ip), (1, CODE + 6), "{what}: after the instruction");
                assert_eq!(rig.cpu.dr[6], NONE | 1, "{what}");
                if write {
                    assert_eq!(rig.peek(DATA + u64::from(offset)) & 0xff, 0x10, "{what}: it was written");
                }
            }
        }
    }
    // The stack counts, too; and a breakpoint with TF sets both bits.
    let mut rig = rig(true);
    let sp = rig.cpu.regs[4];
    set_breakpoint(&mut rig, sp - 8, 1 | 1 << 16 | 2 << 18);
    rig.cpu.flags.set(2 | TF);
    let frame = rig.bytes(&[0x50, 0x90]).expect_err("#DB");
    assert_eq!((frame.vector, frame.ip, rig.cpu.dr[6]), (1, CODE + 1, NONE | BS | 1));
    // A repeated instruction stops after the iteration, with RF (SDM 3B 18.3.1.2, 18.3.1.1).
    let mut rig = self::rig(true);
    set_breakpoint(&mut rig, DATA + 0x101, 1 | 1 << 16);
    let frame = rig.bytes(&[0xf3, 0xa4]).expect_err("#DB");
    assert_eq!((frame.vector, frame.ip, frame.flags & RF), (1, CODE, RF));
    assert_eq!((rig.cpu.regs[1], rig.cpu.regs[7]), (1, DATA + 0x102));
    // So it does when it goes on with RF, where RF wants a look already.
    let mut rig = self::rig(true);
    set_breakpoint(&mut rig, DATA + 0x104, 1 | 1 << 16);
    rig.cpu.regs[1] = 9;
    rig.cpu.flags.set(2 | RF);
    let frame = rig.bytes(&[0xf3, 0xa4]).expect_err("#DB");
    assert_eq!((frame.vector, frame.ip, frame.flags & RF), (1, CODE, RF));
    assert_eq!((rig.cpu.regs[1], rig.cpu.regs[7]), (4, DATA + 0x105));
    // An instruction that faults after its first access has not completed: the fault is delivered, no trap.
    let mut rig = self::rig(true);
    set_breakpoint(&mut rig, DATA, 1 | 3 << 16);
    rig.cpu.regs[7] = 1 << 47;
    let frame = rig.bytes(&[0xa4, 0x90]).expect_err("#GP");
    assert_eq!((frame.vector, frame.ip, rig.cpu.dr[6]), (13, CODE, NONE));
}

/// SDM 3A 6.8.3: what MOV SS has found is reported after the next instruction; if that is INT n, at its handler.
#[test]
fn mov_ss_holds_data_breakpoints() {
    for (code, ip) in [
        (&[0x8e, 0x13, 0x90, 0x90][..], CODE + 3),
        (&[0x8e, 0x13, 0xcc, 0x90], 0x9003),
        (&[0x8e, 0x13, 0xcd, 6], 0x9006),
    ] {
        let mut rig = rig(true);
        rig.poke(DATA, sel::DATA0.into());
        set_breakpoint(&mut rig, DATA, 1 | 3 << 16);
        let frame = rig.bytes(code).expect_err("#DB");
        assert_eq!((frame.vector, frame.ip, rig.cpu.dr[6]), (1, ip, NONE | 1), "{code:x?}");
    }
}

/// SDM 3B 18.3.1.3: I/O breakpoints, with CR4.DE.
#[test]
fn port_breakpoints() {
    // CR4.DE, DR0, LEN, port, hit.
    for (de, at, len, port, hit) in [
        (true, 0x80, 0, 0x80, true),
        (false, 0x80, 0, 0x80, false),
        (true, 0x81, 0, 0x80, false),
        (true, 0x80, 1, 0x81, true),
        (true, 0x80, 3, 0x83, true),
        (true, 0x80, 3, 0x84, false),
    ] {
        for code in [[0xe4, port], [0xe6, port]] {
            let mut rig = rig(true);
            rig.cpu.cr4 |= if de { DE } else { 0 };
            set_breakpoint(&mut rig, at, 1 | 2 << 16 | len << 18);
            let result = rig.bytes(&code);
            assert_eq!(cause(result).is_some(), hit, "{de} {at:#x} {len} {port:#x}");
            if let Err(frame) = result {
                assert_eq!((frame.vector, frame.ip, rig.cpu.dr[6]), (1, CODE + 2, NONE | 1));
            }
        }
    }
    // A 4-byte access that reaches the port.
    let mut rig = rig(true);
    rig.cpu.cr4 |= DE;
    set_breakpoint(&mut rig, 0x83, 1 | 2 << 16);
    assert_eq!(cause(rig.bytes(&[0xe5, 0x80])), Some((1, 0)));
}

/// SDM 3B 18.2: writing and reading the registers.
#[test]
fn debug_register_access() {
    // CR4.DE, level, code, result. MOV from DR4 to EAX; MOV to DR7...
    let de = DE;
    let db = Some((1, 0));
    let table: &[(u64, u8, u64, &[u8], Cause)] = &[
        (0, 0, 0, &[0x0f, 0x21, 0xe0], None),
        (de, 0, 0, &[0x0f, 0x21, 0xe0], UD),
        (de, 0, 0, &[0x0f, 0x23, 0xe8], UD),
        (0, 3, 0, &[0x0f, 0x21, 0xc0], gp(0)),
        (0, 3, 0, &[0x0f, 0x23, 0xc0], gp(0)),
        (de, 3, 0, &[0x0f, 0x21, 0xe0], UD),
        // DR8 does not exist.
        (0, 0, 0, &[0x44, 0x0f, 0x21, 0xc0], UD),
        // General detect (SDM 3B 18.2.4), after the privilege.
        (0, 0, 1 << 13, &[0x0f, 0x21, 0xc0], db),
        (0, 0, 1 << 13, &[0x0f, 0x23, 0xf8], db),
        (0, 3, 1 << 13, &[0x0f, 0x21, 0xc0], gp(0)),
    ];
    for &(cr4, cpl, dr7, code, expected) in table {
        let mut rig = rig(true);
        set_breakpoint(&mut rig, 0, dr7);
        rig.cpu.cr4 |= cr4;
        let mut rig = if cpl == 3 { rig.user() } else { rig };
        let result = rig.bytes(code);
        assert_eq!(cause(result), expected, "{cr4:#x} {cpl} {dr7:#x} {code:x?}");
        if expected == db {
            let frame = result.unwrap_err();
            assert_eq!((frame.ip, frame.flags & RF), (CODE, RF), "a fault");
            assert_eq!((rig.cpu.dr[6], rig.cpu.dr[7]), (NONE | BD, 0x400), "GD is cleared");
        }
    }
    // Values: register, written, read.
    for (n, value, expected) in [
        (0, 0x1234_5678_9abc_def0, Some(0x1234_5678_9abc_def0)),
        (3, u64::MAX, Some(u64::MAX)),
        (6, 0, Some(NONE)),
        (6, 0xffff_ffff, Some(NONE | 0xe00f)),
        (6, 1 << 32, None),
        (7, 0xffff_dfff, Some(0xffff_07ff)),
        (7, 0, Some(0x400)),
        (7, 1 << 32, None),
        // DR4 and DR5 stand for DR6 and DR7 without CR4.DE.
        (4, 0xf, Some(NONE | 0xf)),
        (5, 3, Some(0x403)),
    ] {
        let mut rig = rig(true);
        rig.cpu.regs[0] = value;
        let result = rig.bytes(&[0x0f, 0x23, 0xc0 | n << 3, 0x0f, 0x21, 0xc1 | n << 3]);
        match expected {
            Some(expected) => assert_eq!((cause(result), rig.cpu.regs[1]), (None, expected), "DR{n}"),
            None => assert_eq!(cause(result), gp(0), "DR{n} {value:#x}"),
        }
    }
    // In 32-bit mode the upper halves stay out of it.
    let mut rig = rig(false);
    rig.cpu.regs[0] = 0xffff_ffff;
    assert_eq!(cause(rig.bytes(&[0x0f, 0x23, 0xd8, 0x0f, 0x21, 0xd9])), None);
    assert_eq!(rig.cpu.regs[1], 0xffff_ffff);
}

/// SDM 3B 18.2.3: B0–B3 are those of the last exception, the other bits of DR6 stay until software clears them.
#[test]
fn dr6_accumulates() {
    let mut rig = rig(true);
    rig.cpu.dr[6] = NONE | BS | 0xf;
    set_breakpoint(&mut rig, CODE, 1);
    let frame = rig.bytes(&[0x90]).expect_err("#DB");
    assert_eq!((frame.vector, rig.cpu.dr[6]), (1, NONE | BS | 1));
}

/// A guest that the processor would hang on does not hang its host: #DB whose handler begins at a breakpoint, or whose frame
/// hits one, on a stack that does not run out.
#[test]
fn debug_exceptions_without_end() {
    let ist_rig = || {
        let mut rig = rig(true);
        rig.poke(TSS + 0x24, STACK);
        let entry = rig.peek(IDT + 16) | 1 << 32;
        rig.poke(IDT + 16, entry);
        rig
    };
    let mut rig = ist_rig();
    rig.cpu.dr[1] = CODE;
    set_breakpoint(&mut rig, 0x9001, 5);
    assert_eq!(rig.run(1000), RunEnd::Limit);
    assert_eq!((rig.cpu.rip(), rig.cpu.regs[4]), (0x9001, STACK - 40));
    let mut rig = ist_rig();
    set_breakpoint(&mut rig, STACK - 8, 1 | 1 << 16 | 2 << 18);
    rig.cpu.regs[3] = STACK - 8;
    rig.load(CODE, &[0x89, 0x03]);
    assert_eq!(rig.run(1000), RunEnd::Limit);
    assert_eq!((rig.cpu.rip(), rig.cpu.regs[4], rig.peek(STACK - 40)), (0x9001, STACK - 40, 0x9001));
}
