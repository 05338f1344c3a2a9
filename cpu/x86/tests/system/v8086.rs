//! Virtual-8086 mode, its extensions (VME), and protected-mode virtual interrupts (SDM 3B chapter 21).

use crate::common::*;
use crate::helpers::*;
use ringworld_x86::control::cr4;

const IF: u64 = 1 << 9;
const TF: u64 = 1 << 8;
const NT: u64 = 1 << 14;
const VM: u64 = 1 << 17;
const AC: u64 = 1 << 18;
const VIF: u64 = 1 << 19;
const VIP: u64 = 1 << 20;
const RF: u64 = 1 << 16;
const IOPL3: u64 = 3 << 12;

/// Real-mode segments of the task.
const ES: u16 = 0x1100;
const CS: u16 = 0x1000;
const SS: u16 = 0x7000;
const DS: u16 = 0x1300;
const FS: u16 = 0x1400;
const GS: u16 = 0x1500;
const SP: u64 = 0x8000;
/// The stack in linear memory.
const TOP: u64 = ((SS as u64) << 4) + SP;

/// Enters virtual-8086 mode by IRET, as a monitor does (SDM 3B 21.2.5), with `flags` besides VM. Stops at [`CODE`].
fn rig(flags: u64, cr4: u64) -> Rig {
    let mut rig = Rig::protected().ready();
    rig.cpu.cr4 |= cr4;
    rig.cpu.update_mode();
    // The TSS's I/O map base leaves room for the redirection bitmap; both are all zeros.
    rig.cpu.tr.limit = 0x200;
    rig.poke(TSS + 0x64, 0x0088_0000);
    let frame = [
        0,
        u32::from(CS),
        (flags | VM | 2) as u32,
        SP as u32,
        SS.into(),
        ES.into(),
        DS.into(),
        FS.into(),
        GS.into(),
    ];
    rig.cpu.regs[4] = STACK - 36;
    for (n, word) in frame.into_iter().enumerate() {
        rig.poke32(STACK - 36 + 4 * n as u64, word);
    }
    rig.load(0xe000, &[0xcf]);
    rig.cpu.set_rip(0xe000);
    rig.run(1);
    assert!(rig.cpu.v8086() && rig.cpu.cpl == 3);
    rig
}

/// SDM 3B 21.2.5: IRET loads all segments as real-address mode would, with 64-KiB limits at level 3.
#[test]
fn entry() {
    let rig = rig(IF | IOPL3, 0);
    assert_eq!((rig.cpu.rip(), rig.cpu.regs[4]), (0, SP));
    for (n, selector) in [ES, CS, SS, DS, FS, GS].into_iter().enumerate() {
        let s = rig.cpu.seg[n];
        assert_eq!((s.selector, s.base, s.limit, s.dpl()), (selector, u64::from(selector) << 4, 0xffff, 3));
    }
    assert_eq!(rig.cpu.flags.get(), VM | IF | IOPL3 | 2);
    assert_eq!(rig.cpu.mode.bitness(), 16);
    // An IP beyond 64 KiB: #GP(0) in protected mode.
    let mut rig = Rig::protected().ready();
    rig.cpu.regs[4] = STACK - 36;
    for (n, word) in [0x1_0000, u32::from(CS), (VM | 2) as u32, 0, 0, 0, 0, 0, 0].into_iter().enumerate() {
        rig.poke32(STACK - 36 + 4 * n as u64, word);
    }
    assert_eq!(cause(rig.bytes(&[0xcf])), gp(0));
    // Above level 0, IRET ignores VM.
    let mut rig = Rig::protected().ready().user();
    let sp = rig.cpu.regs[4];
    for (n, word) in [0xe000, u32::from(sel::CODE32_3), (VM | 2) as u32].into_iter().enumerate() {
        rig.poke32(sp + 4 * n as u64, word);
    }
    rig.load(0xe000, &[0xcd, DONE]);
    assert_eq!(cause(rig.bytes(&[0xcf])), None);
    assert_eq!(rig.frame(DONE).flags & VM, 0);
}

/// SDM 3B 21.3.1: interrupts and exceptions push the data segments, too, and null them; the way back restores all.
#[test]
fn events_leave_to_level_0() {
    for wide in [true, false] {
        let mut rig = rig(IF | IOPL3 | AC, 0);
        if !wide {
            // A 16-bit gate pushes words.
            rig.poke(IDT + 8 * 6, gate(sel::CODE32, 0x9006, 0x86, 0));
        }
        rig.load(CODE, &[0x90, 0x0f, 0x0b]);
        rig.run(5);
        assert_eq!(rig.cpu.rip(), 0x9007);
        let size = if wide { 4 } else { 2 };
        let words: Vec<u32> = (0..9)
            .map(|n| rig.peek32(STACK - 9 * size + size * n) & if wide { u32::MAX } else { 0xffff })
            .collect();
        let flags = (IF | IOPL3 | AC | VM | RF | 2) as u32 & if wide { u32::MAX } else { 0xffff };
        let segments = [SS, ES, DS, FS, GS].map(u32::from);
        assert_eq!(words[..4], [1, CS.into(), flags, SP as u32]);
        assert_eq!(words[4..], segments);
        assert_eq!((rig.cpu.cpl, rig.cpu.regs[4]), (0, STACK - 9 * size));
        assert!(
            [0, 3, 4, 5].iter().all(|&n: &usize| rig.cpu.seg[n].unusable && rig.cpu.seg[n].selector == 0)
        );
        assert_eq!(rig.cpu.flags.get() & (VM | IF | TF | NT | RF), 0);
        assert_eq!(rig.cpu.seg[2].selector, sel::DATA0);
    }
    // With an error code.
    let mut rig = rig(IOPL3, 0);
    let frame = {
        rig.load(CODE, &[0xf4]);
        rig.finish().expect_err("HLT is privileged")
    };
    assert_eq!((frame.cause(), frame.ip, frame.cs, frame.sp, frame.ss), ((13, 0), 0, CS, SP, SS));
    // The handler must be at level 0: #GP(selector).
    for access in [0xbb, 0xfb, 0x9f] {
        let mut rig = self::rig(IOPL3, 0);
        rig.set_gdt(sel::FREE, descriptor(0, 0xf_ffff, access, 0xc));
        rig.poke(IDT + 8 * 0x40, gate(sel::FREE, 0x9030, 0xee, 0));
        assert_eq!(cause(rig.bytes(&[0xcd, 0x40])), gp(sel::FREE.into()), "{access:#x}");
    }
}

/// SDM 3B 21.2.7: what IOPL guards, and what is refused or undefined in any case.
#[test]
fn sensitive_instructions() {
    // Code, result with IOPL 0, result with IOPL 3.
    let table: &[(&[u8], Cause, Cause)] = &[
        (&[0xfa], gp(0), None),
        (&[0xfb], gp(0), None),
        (&[0x9c], gp(0), None),
        (&[0x9d], gp(0), None),
        (&[0x66, 0x9c], gp(0), None),
        (&[0x66, 0x9d], gp(0), None),
        (&[0xcd, DONE], gp(0), None),
        // INT3 and INTO do not look at IOPL.
        (&[0xcc], Some((3, 0)), Some((3, 0))),
        // Ports by the bitmap alone.
        (&[0xe4, 0x10], None, None),
        (&[0xe4, 0x08], gp(0), gp(0)),
        // Privileged.
        (&[0xf4], gp(0), gp(0)),
        (&[0x0f, 0x20, 0xc0], gp(0), gp(0)),
        (&[0x0f, 0x06], gp(0), gp(0)),
        (&[0x0f, 0x01, 0x16, 0, 0], gp(0), gp(0)),
        (&[0x0f, 0x09], gp(0), gp(0)),
        // Not recognised.
        (&[0x0f, 0x00, 0xd0], UD, UD),
        (&[0x0f, 0x00, 0xc0], UD, UD),
        (&[0x0f, 0x02, 0xc0], UD, UD),
        (&[0x0f, 0x00, 0xe0], UD, UD),
        (&[0x63, 0xc0], UD, UD),
        // Harmless.
        (&[0x0f, 0x01, 0xe0], None, None),
        (&[0x8e, 0xd8], None, None),
        (&[0x66, 0xb8, 1, 2, 3, 4], None, None),
    ];
    for &(code, low, high) in table {
        for (iopl, expected) in [(0, low), (IOPL3, high)] {
            let mut rig = rig(iopl, 0);
            // Port 8 is refused by the map.
            rig.poke(TSS + 0x88, 0x100);
            rig.load(TOP, &[0; 8]);
            let ends_itself = code[0] == 0xcd;
            // INT needs IOPL 3; INT3 does not: the end of what succeeds with IOPL 0.
            rig.poke(IDT + 8 * 3, gate(sel::CODE32, 0x9003, 0xee, 0));
            rig.load(CODE, code);
            let end = code.len() as u64;
            rig.load(CODE + end, &[0xcc]);
            let result = rig.finish();
            let what = format!("{code:x?} {iopl:#x}");
            match expected {
                None if ends_itself => assert_eq!(cause(result), None, "{what}"),
                None => {
                    let frame = result.expect_err("INT3");
                    assert_eq!((frame.vector, frame.ip), (3, end + 1), "{what}");
                }
                Some(_) => assert_eq!(cause(result), expected, "{what}"),
            }
        }
    }
}

/// SDM 3B 21.2.7: with IOPL 3, POPF and IRET change IF, but never IOPL, VM, VIF and VIP.
#[test]
fn flags_with_iopl_3() {
    for code in [&[0x66, 0x9d][..], &[0x66, 0xcf]] {
        for before in [IOPL3, IOPL3 | IF] {
            let mut rig = rig(before, 0);
            let image = 0x003f_7ed5 & !(TF | IOPL3 | if before & IF != 0 { IF } else { 0 });
            if code[1] == 0x9d {
                rig.poke32(TOP, image as u32);
            } else {
                rig.poke32(TOP, 2);
                rig.poke32(TOP + 4, CS.into());
                rig.poke32(TOP + 8, image as u32);
            }
            rig.load(CODE, code);
            rig.run(1);
            let kept = VM | VIF | VIP | IOPL3 | RF;
            let after = rig.cpu.flags.get();
            assert_eq!(after & !RF, image & !kept | VM | IOPL3 | 2, "{code:x?} {before:#x}");
            assert_eq!(rig.cpu.rip(), 2);
        }
    }
}

/// SDM 3B table 21-2: the six ways of INT n.
#[test]
fn software_interrupts() {
    // VME, IOPL, the vector's bit in the redirection bitmap; how it ends.
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum End {
        Monitor,
        Fault,
        /// FLAGS pushed, flags after.
        Program(u64, u64),
    }
    let table = [
        (0, IOPL3, 0, End::Monitor),
        (0, IOPL3, 1, End::Monitor),
        (0, 0, 0, End::Fault),
        (0, 1 << 12, 1, End::Fault),
        (cr4::VME, 0, 1, End::Fault),
        (cr4::VME, 2 << 12, 1, End::Fault),
        (cr4::VME, IOPL3, 1, End::Monitor),
        (cr4::VME, IOPL3 | IF | NT, 0, End::Program(IOPL3 | IF | NT | 2, VM | IOPL3 | NT | 2)),
        (cr4::VME, IF, 0, End::Program(IOPL3 | 2, VM | IF | 2)),
        (cr4::VME, IF | VIF, 0, End::Program(IOPL3 | IF | 2, VM | IF | 2)),
        (cr4::VME, VIF | 1 << 12, 0, End::Program(IOPL3 | IF | 2, VM | 1 << 12 | 2)),
    ];
    const VECTOR: u8 = 0x43;
    for (vme, flags, bit, end) in table {
        let mut rig = rig(flags, vme);
        rig.poke(IDT + 8 * u64::from(VECTOR), gate(sel::CODE32, 0x9030, 0xee, 0));
        rig.load(TSS + 0x68 + u64::from(VECTOR / 8), &[(bit << (VECTOR % 8)) as u8]);
        // The program's own handler.
        rig.poke32(4 * u64::from(VECTOR), 0x1600_0020);
        rig.load(CODE, &[0xcd, VECTOR]);
        rig.run(1);
        let what = format!("{vme} {flags:#x} {bit}");
        match end {
            End::Monitor => assert_eq!((rig.cpu.rip(), rig.cpu.cpl), (0x9030, 0), "{what}"),
            End::Fault => assert_eq!((rig.cpu.rip(), rig.cpu.cpl), (0x900d, 0), "{what}"),
            End::Program(pushed, after) => {
                assert_eq!((rig.cpu.rip(), rig.cpu.seg[1].selector), (0x20, 0x1600), "{what}");
                assert_eq!(rig.cpu.regs[4], SP - 6, "{what}");
                let words = [0, 2, 4].map(|n| rig.peek16(TOP - 6 + n));
                assert_eq!(words, [2, CS, pushed as u16], "{what}");
                assert_eq!(rig.cpu.flags.get(), after, "{what}");
            }
        }
    }
    // INT3 is not redirected; neither is an exception.
    let mut rig = rig(IOPL3, cr4::VME);
    rig.poke(IDT + 8 * 3, gate(sel::CODE32, 0x9003, 0xee, 0));
    rig.load(CODE, &[0xcc]);
    assert_eq!(cause(rig.finish()), Some((3, 0)));
    // The gate's DPL is checked.
    let mut rig = self::rig(IOPL3, 0);
    rig.poke(IDT + 8 * 0x40, gate(sel::CODE32, 0x9030, 0x8e, 0));
    assert_eq!(cause(rig.bytes(&[0xcd, 0x40])), gp(0x202));
}

/// SDM 3B 21.3.3: CLI, STI, PUSHF, POPF and IRET on VIF with VME; 32-bit forms fault.
#[test]
fn virtual_interrupt_flag_in_virtual_8086_mode() {
    // Code, flags before, image on the stack; flags after (or the fault), FLAGS pushed.
    let table: &[(&[u8], u64, u16, Result<u64, Cause>, Option<u64>)] = &[
        (&[0xfa], VIF | IF, 0, Ok(IF), None),
        (&[0xfb], IF, 0, Ok(IF | VIF), None),
        (&[0xfb], IF | VIP, 0, Err(gp(0)), None),
        (&[0xfa], IF | VIP | VIF, 0, Ok(IF | VIP), None),
        (&[0x9c], IF, 0, Ok(IF), Some(IOPL3 | 2)),
        (&[0x9c], IF | VIF, 0, Ok(IF | VIF), Some(IOPL3 | IF | 2)),
        (&[0x66, 0x9c], IF, 0, Err(gp(0)), None),
        (&[0x9d], IF, IF as u16, Ok(IF | VIF), None),
        (&[0x9d], IF | VIF, 0, Ok(IF), None),
        (&[0x9d], IF | VIP, IF as u16, Err(gp(0)), None),
        (&[0x9d], IF | VIP, 0, Ok(IF | VIP), None),
        (&[0x9d], IF, TF as u16, Err(gp(0)), None),
        (&[0x9d], IF, 0x30d5, Ok(IF | 0xd5), None),
        (&[0x66, 0x9d], IF, 0, Err(gp(0)), None),
        (&[0x66, 0xcf], IF, 0, Err(gp(0)), None),
    ];
    for &(code, before, image, after, pushed) in table {
        let mut rig = rig(before, cr4::VME);
        rig.load(TOP, &image.to_le_bytes());
        rig.load(CODE, code);
        rig.run(1);
        let what = format!("{code:x?} {before:#x} {image:#x}");
        match after {
            Ok(flags) => {
                assert_eq!(rig.cpu.flags.get(), flags | VM | 2, "{what}");
                assert_eq!(rig.cpu.rip(), code.len() as u64, "{what}");
            }
            Err(expected) => {
                let frame = rig.finish().expect_err("a fault");
                assert_eq!((Some(frame.cause()), frame.ip, frame.sp), (expected, 0, SP), "{what}");
            }
        }
        if let Some(pushed) = pushed {
            assert_eq!(u64::from(rig.peek16(TOP - 2)), pushed, "{what}");
        }
    }
    // IRET.
    for (before, image, after) in [
        (IF, IF, Ok(IF | VIF)),
        (IF | VIF, 0, Ok(IF)),
        (IF | VIP, IF, Err(())),
        (IF, TF, Err(())),
        (IF, 0x7000 | 1, Ok(IF | NT | 1)),
    ] {
        let mut rig = rig(before, cr4::VME);
        for (n, word) in [0x40, CS, image as u16].into_iter().enumerate() {
            rig.load(TOP + 2 * n as u64, &word.to_le_bytes());
        }
        rig.load(CODE, &[0xcf]);
        rig.run(1);
        match after {
            Ok(flags) => assert_eq!((rig.cpu.rip(), rig.cpu.flags.get()), (0x40, flags | VM | 2)),
            Err(()) => assert_eq!(rig.cpu.rip(), 0x900d),
        }
    }
}

/// SDM 3B 21.4: with PVI, CLI and STI at level 3 act on VIF.
#[test]
fn protected_mode_virtual_interrupts() {
    // CR4, flags, code, flags after or #GP(0).
    for (control, before, code, after) in [
        (0, 0, 0xfa, None),
        (0, 0, 0xfb, None),
        (0, IOPL3 | IF, 0xfa, Some(IOPL3)),
        (cr4::PVI, VIF, 0xfa, Some(0)),
        (cr4::PVI, 0, 0xfb, Some(VIF)),
        (cr4::PVI, VIP, 0xfb, None),
        (cr4::PVI, VIP | VIF, 0xfa, Some(VIP)),
        (cr4::PVI, IOPL3 | IF | VIF, 0xfa, Some(IOPL3 | VIF)),
        (cr4::VME, 0, 0xfa, None),
    ] {
        let mut rig = Rig::protected().ready().user();
        rig.cpu.cr4 |= control;
        rig.cpu.update_mode();
        rig.cpu.flags.set(before | 2);
        let result = rig.bytes(&[code]);
        let what = format!("{control} {before:#x} {code:#x}");
        match after {
            Some(flags) => {
                assert_eq!(cause(result), None, "{what}");
                assert_eq!(rig.frame(DONE).flags, flags | 2, "{what}");
            }
            None => assert_eq!(cause(result), gp(0), "{what}"),
        }
    }
}

/// Far transfers and segment loads work as on an 8086 (SDM 3B 21.2.1), with 64-KiB limits.
#[test]
fn segments() {
    let mut rig = rig(IOPL3, 0);
    rig.load(CODE, &[0x8e, 0xd8, 0xea, 0x34, 0x12, 0x00, 0x20]);
    rig.cpu.regs[0] = 0xf123;
    rig.run(2);
    assert_eq!((rig.cpu.seg[3].base, rig.cpu.seg[3].limit), (0xf_1230, 0xffff));
    assert_eq!((rig.cpu.rip(), rig.cpu.seg[1].base), (0x1234, 0x2_0000));
    for (code, expected) in
        [(&[0x67, 0x8b, 0x03][..], gp(0)), (&[0x36, 0x67, 0x8b, 0x03], sf(0)), (&[0x67, 0x8a, 0x03], None)]
    {
        let mut rig = self::rig(IOPL3, 0);
        rig.cpu.regs[3] = 0xffff;
        assert_eq!(cause(rig.bytes(code)), expected, "{code:x?}");
    }
}
