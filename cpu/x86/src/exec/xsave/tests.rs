//! The XSAVE family, against SDM 1 chapter 13.

use super::*;
use crate::state::gpr::{RAX, RBX, RDX};
use crate::testing::{cpu, long_mode, run};
use ringworld_core::GuestPhys;

const AREA_AT: u64 = 0x1000;
const XGETBV: [u8; 3] = [0x0f, 0x01, 0xd0];
const XSETBV: [u8; 3] = [0x0f, 0x01, 0xd1];
/// With [rbx].
const XSAVE: [u8; 3] = [0x0f, 0xae, 0x23];
const XSAVE64: [u8; 4] = [0x48, 0x0f, 0xae, 0x23];
const XSAVEOPT: [u8; 3] = [0x0f, 0xae, 0x33];
const XSAVEC: [u8; 3] = [0x0f, 0xc7, 0x23];
const XSAVES: [u8; 3] = [0x0f, 0xc7, 0x2b];
const XRSTOR: [u8; 3] = [0x0f, 0xae, 0x2b];
const XRSTORS: [u8; 3] = [0x0f, 0xc7, 0x1b];

/// 64-bit mode, all of XCR0 enabled, RBX at the area, EDX:EAX all ones.
fn ready() -> Cpu {
    let mut cpu = cpu("max");
    long_mode(&mut cpu);
    cpu.cr4 |= cr4::OSXSAVE;
    cpu.x87 = X87::INITIAL;
    cpu.xcr0 = cpu.model.xcr0_supported();
    cpu.regs[RBX] = AREA_AT;
    select(&mut cpu, u64::MAX);
    cpu.update_mode();
    cpu
}

fn select(cpu: &mut Cpu, mask: u64) {
    cpu.set_edx_eax(mask);
}

fn peek(cpu: &Cpu, at: u64) -> u64 {
    let mut bytes = [0; 8];
    cpu.memory.read(GuestPhys(AREA_AT + at), &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn poke(cpu: &Cpu, at: u64, value: u64) {
    cpu.memory.write(GuestPhys(AREA_AT + at), &value.to_le_bytes()).unwrap();
}

/// A state with something in every component.
fn fill(cpu: &mut Cpu) {
    for (n, register) in cpu.zmm.iter_mut().enumerate() {
        for (m, quad) in register.iter_mut().enumerate() {
            *quad = 0x100 * n as u64 + m as u64 + 1;
        }
    }
    cpu.k = core::array::from_fn(|n| n as u64 + 1);
    cpu.pkru = 0x5555_5554;
    cpu.mxcsr = 0x1fa0;
    cpu.x87.control = 0x27f;
    cpu.x87.significand[2] = 0x8000_0000_0000_0001;
    cpu.x87.valid = 4;
}

#[test]
fn xcr0_takes_only_what_makes_sense() {
    // SDM 1 13.3; SDM 2C XSETBV.
    let mut cpu = ready();
    for (value, ok) in [
        (0x1, true),
        (0x3, true),
        (0x7, true),
        (0xe7, true),
        (0x2e7, true),
        (0x203, true),
        (0x0, false),
        (0x2, false),
        (0x5, false),
        (0xe3, false),
        (0x27, false),
        (0x9, false),
        (1 << 63 | 1, false),
    ] {
        select(&mut cpu, value);
        cpu.regs[RCX] = 0;
        assert_eq!(run(&mut cpu, &XSETBV), if ok { Ok(()) } else { Err(13) }, "{value:#x}");
        if ok {
            run(&mut cpu, &XGETBV).unwrap();
            assert_eq!(cpu.edx_eax(), value);
        }
    }
    cpu.regs[RCX] = 2;
    assert_eq!((run(&mut cpu, &XSETBV), run(&mut cpu, &XGETBV)), (Err(13), Err(13)));
    cpu.regs[RCX] = 0;
    select(&mut cpu, 1);
    cpu.cpl = 3;
    cpu.update_mode();
    assert_eq!((run(&mut cpu, &XSETBV), run(&mut cpu, &XGETBV)), (Err(13), Ok(())));
    cpu.cr4 &= !cr4::OSXSAVE;
    assert_eq!((run(&mut cpu, &XSETBV), run(&mut cpu, &XGETBV)), (Err(6), Err(6)));
}

#[test]
fn xgetbv_1_shows_what_is_in_use() {
    // SDM 1 13.2, 13.6.
    let mut cpu = ready();
    cpu.regs[RCX] = 1;
    run(&mut cpu, &XGETBV).unwrap();
    assert_eq!(cpu.edx_eax(), 0);
    fill(&mut cpu);
    run(&mut cpu, &XGETBV).unwrap();
    assert_eq!(cpu.edx_eax(), 0x2e7);
    cpu.zmm = [[0; 8]; 32];
    cpu.zmm[3][2] = 1;
    run(&mut cpu, &XGETBV).unwrap();
    assert_eq!(cpu.edx_eax(), 0x225);
}

#[test]
fn every_format_brings_everything_back() {
    for (save, restore) in [
        (&XSAVE[..], &XRSTOR),
        (&XSAVE64, &XRSTOR),
        (&XSAVEOPT, &XRSTOR),
        (&XSAVEC, &XRSTOR),
        (&XSAVES, &XRSTORS),
    ] {
        let mut cpu = ready();
        fill(&mut cpu);
        let wanted = (cpu.zmm, cpu.k, cpu.pkru, cpu.mxcsr, cpu.x87);
        run(&mut cpu, save).unwrap();
        (cpu.zmm, cpu.k, cpu.pkru, cpu.mxcsr) = ([[9; 8]; 32], [9; 8], 9, 0x1f80);
        cpu.x87 = X87::INITIAL;
        run(&mut cpu, restore).unwrap();
        assert_eq!((cpu.zmm, cpu.k, cpu.pkru, cpu.mxcsr, cpu.x87), wanted, "{save:x?}");
    }
}

#[test]
fn layouts() {
    // SDM 1 13.4: standard offsets; compacted ones follow each other.
    let mut cpu = ready();
    fill(&mut cpu);
    run(&mut cpu, &XSAVE).unwrap();
    assert_eq!((peek(&cpu, 512), peek(&cpu, 520)), (0x2e7, 0));
    for (at, value) in
        [(0, 0x4_0000_027f_u64), (24, 0xffff_0000_1fa0), (160, 1), (576, 3), (1088, 1), (1152, 5)]
    {
        let mask = if at == 0 { 0xffff_0000_ffff } else { u64::MAX };
        let value = if at == 0 { value & mask } else { value };
        assert_eq!(peek(&cpu, at) & mask, value, "{at}");
    }
    assert_eq!((peek(&cpu, 1664), peek(&cpu, 2688)), (0x1001, 0x5555_5554));
    select(&mut cpu, 0x2a2);
    run(&mut cpu, &XSAVEC).unwrap();
    assert_eq!((peek(&cpu, 512), peek(&cpu, 520)), (0x2a2, 1 << 63 | 0x2a2));
    // Opmask at 576, Hi16_ZMM at 640, PKRU at 1664.
    assert_eq!((peek(&cpu, 576), peek(&cpu, 640), peek(&cpu, 1664)), (1, 0x1001, 0x5555_5554));
}

#[test]
fn components_in_their_initial_configuration() {
    let mut cpu = ready();
    fill(&mut cpu);
    for n in 0..16 {
        cpu.zmm[n][2..4].fill(0);
    }
    poke(&cpu, 512, 1 << 2 | 1 << 9);
    poke(&cpu, 576, 0xdead);
    select(&mut cpu, 0x6);
    run(&mut cpu, &XSAVEOPT).unwrap();
    // XSTATE_BV: bit 9 is not asked for and stays, bit 2 is asked for and not in use; its memory is left alone.
    assert_eq!((peek(&cpu, 512), peek(&cpu, 576)), (0x202, 0xdead));
    run(&mut cpu, &XSAVE).unwrap();
    assert_eq!((peek(&cpu, 512), peek(&cpu, 576)), (0x202, 0));

    // Restoring a component whose bit is clear initialises it; MXCSR comes from memory in the standard format.
    poke(&cpu, 512, 0);
    poke(&cpu, 24, 0x1fc0);
    select(&mut cpu, 0x46);
    run(&mut cpu, &XRSTOR).unwrap();
    assert!(cpu.zmm[0] == [0; 8] && cpu.zmm[16][0] == 0x1001 && cpu.k[0] == 1);
    assert_eq!(cpu.mxcsr, 0x1fc0);
    // In the compacted format it is initialised with SSE state.
    poke(&cpu, 520, 1 << 63 | 2);
    run(&mut cpu, &XRSTOR).unwrap();
    assert_eq!(cpu.mxcsr, 0x1f80);
}

#[test]
fn mxcsr_alone_makes_compacted_formats_save_sse() {
    // SDM 2C XSAVEC: "IF MXCSR != 1F80H AND RFBM[1]: TO_BE_SAVED[1] = 1".
    let mut cpu = ready();
    cpu.mxcsr = 0x1fa0;
    run(&mut cpu, &XSAVEC).unwrap();
    assert_eq!(peek(&cpu, 512), 2);
    assert_eq!(peek(&cpu, 24) as u32, 0x1fa0);
}

#[test]
fn headers_that_make_no_sense_are_faults() {
    // SDM 1 13.8.1, 13.12.
    type Case<'a> = (&'a [u8], [u64; 3], u64, Result<(), u8>);
    let cases: &[Case<'_>] = &[
        (&XRSTOR, [0x2e7, 0, 0], 0x1f80, Ok(())),
        (&XRSTOR, [0x8, 0, 0], 0x1f80, Err(13)),
        (&XRSTOR, [0, 1, 0], 0x1f80, Err(13)),
        (&XRSTOR, [0, 0, 1], 0x1f80, Err(13)),
        (&XRSTOR, [0, 0, 0], 0x1_0000, Err(13)),
        (&XRSTOR, [3, 1 << 63 | 7, 0], 0x1f80, Ok(())),
        (&XRSTOR, [4, 1 << 63 | 3, 0], 0x1f80, Err(13)),
        (&XRSTOR, [0, 1 << 63 | 8, 0], 0x1f80, Err(13)),
        (&XRSTOR, [0, 1 << 63, 1], 0x1f80, Err(13)),
        (&XRSTOR, [0, 1 << 63 | 2, 0], 0x1_0000, Ok(())),
        (&XRSTORS, [3, 1 << 63 | 3, 0], 0x1f80, Ok(())),
        (&XRSTORS, [3, 0, 0], 0x1f80, Err(13)),
    ];
    for (code, header, mxcsr, wanted) in cases {
        let mut cpu = ready();
        for (n, quad) in header.iter().enumerate() {
            poke(&cpu, 512 + 8 * n as u64, *quad);
        }
        poke(&cpu, 24, *mxcsr);
        let before = cpu.zmm;
        assert_eq!(run(&mut cpu, code), *wanted, "{code:x?} {header:x?} {mxcsr:#x}");
        assert!(wanted.is_ok() || cpu.zmm == before);
    }
}

#[test]
fn who_may_and_where() {
    let mut cpu = ready();
    cpu.regs[RBX] = AREA_AT + 32;
    assert_eq!((run(&mut cpu, &XSAVE), run(&mut cpu, &XRSTOR)), (Err(13), Err(13)), "alignment");
    cpu.regs[RBX] = AREA_AT;
    cpu.cpl = 3;
    cpu.update_mode();
    assert_eq!((run(&mut cpu, &XSAVES), run(&mut cpu, &XRSTORS)), (Err(13), Err(13)));
    assert_eq!(run(&mut cpu, &XSAVE), Ok(()));
    cpu.cr0 |= cr0::TS;
    assert_eq!((run(&mut cpu, &XSAVE), run(&mut cpu, &XRSTOR)), (Err(7), Err(7)));
    cpu.cr4 &= !cr4::OSXSAVE;
    assert_eq!((run(&mut cpu, &XSAVE), run(&mut cpu, &XRSTOR)), (Err(6), Err(6)));
    assert_eq!((cpu.regs[RAX], cpu.regs[RDX]), (0xffff_ffff, 0xffff_ffff));
}

#[test]
fn outside_of_64_bit_mode_there_are_eight_registers() {
    // SDM 1 13.5.2, 13.5.6.
    let mut cpu = ready();
    fill(&mut cpu);
    cpu.efer = 0;
    cpu.seg[3].limit = 0xffff_ffff;
    cpu.update_mode();
    assert_eq!(cpu.mode.bitness(), 16);
    poke(&cpu, 160 + 8 * 16, 0xdead);
    // With an address-size prefix: [ebx].
    run(&mut cpu, &[0x67, 0x0f, 0xae, 0x23]).unwrap();
    assert_eq!((peek(&cpu, 160 + 7 * 16), peek(&cpu, 160 + 8 * 16)), (0x701, 0xdead));
    assert_eq!(peek(&cpu, 512), 0x267, "Hi16_ZMM counts as initial");
    cpu.zmm = [[7; 8]; 32];
    run(&mut cpu, &[0x67, 0x0f, 0xae, 0x2b]).unwrap();
    assert_eq!((cpu.zmm[7][0], cpu.zmm[8], cpu.zmm[16]), (0x701, [7; 8], [7; 8]));
}
