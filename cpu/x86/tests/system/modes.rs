//! What depends on the mode: system calls, segment bases, address widths, canonical addresses, prefixes, instruction
//! length, alignment checks, port permissions.

use crate::common::*;
use crate::helpers::*;
use ringworld_x86::control::{cr0, cr4};
use ringworld_x86::interp::RunEnd;
use ringworld_x86::model::Model;
use ringworld_x86::segment::rights;
use std::sync::Arc;

const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const FMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const SYSENTER: [u32; 3] = [0x174, 0x175, 0x176];
const TARGET: u64 = 0x1_8000;
const BAD: u64 = 1 << 47;

fn rig(long: bool, cpl: u8) -> Rig {
    let mut rig = if long { Rig::long() } else { Rig::protected() }.ready();
    rig.load(TARGET, &[0xcd, DONE]);
    if cpl == 3 { rig.user() } else { rig }
}

fn set(rig: &mut Rig, index: u32, value: u64) {
    rig.cpu.write_msr(index, value).expect("a register and value that exist");
}

/// Makes a long rig's code segment one of compatibility mode.
fn compatibility(mut rig: Rig) -> Rig {
    let dpl = u64::from(rig.cpu.cpl) << 45;
    let selector = if rig.cpu.cpl == 3 { sel::CODE32_3 } else { sel::CODE32 };
    rig.force(1, selector, 0x00cf_9b00_0000_ffff | dpl);
    rig
}

/// SDM 2B SYSCALL: the state that it makes.
#[test]
fn syscall() {
    let mut r = rig(true, 3);
    // RPL bits in STAR: CS drops them, SS is CS + 8 as it stands.
    set(&mut r, STAR, 0x0b << 32);
    set(&mut r, LSTAR, TARGET);
    set(&mut r, FMASK, 0x4_0600);
    r.cpu.flags.set(0x4_0e97);
    let sp = r.cpu.regs[4];
    r.load(CODE, &[0x0f, 0x05]);
    r.run(1);
    assert_eq!((r.cpu.rip(), r.cpu.regs[1], r.cpu.regs[11], r.cpu.regs[4]), (TARGET, CODE + 2, 0x4_0e97, sp));
    assert_eq!(r.cpu.flags.get(), 0x4_0e97 & !0x4_0600);
    assert_eq!((r.cpu.seg[1].selector, r.cpu.seg[2].selector, r.cpu.cpl), (0x08, 0x13, 0));
    let cs = rights::G | rights::L | rights::PRESENT | rights::S | 0xb;
    let ss = rights::G | rights::DB | rights::PRESENT | rights::S | 0x3;
    assert_eq!((r.cpu.seg[1].rights, r.cpu.seg[2].rights), (cs, ss));
    assert_eq!((r.cpu.seg[1].limit, r.cpu.seg[2].limit, r.cpu.seg[2].base), (u32::MAX, u32::MAX, 0));
    // #UD without SCE, and (on Intel) outside of 64-bit mode.
    let mut r = rig(true, 3);
    r.cpu.efer &= !1;
    assert_eq!(cause(r.bytes(&[0x0f, 0x05])), UD);
    assert_eq!(cause(compatibility(rig(true, 3)).bytes(&[0x0f, 0x05])), UD);
    assert_eq!(cause(rig(false, 3).bytes(&[0x0f, 0x05])), UD);
}

/// SDM 2B SYSRET.
#[test]
fn sysret() {
    for wide in [true, false] {
        let mut r = rig(true, 0);
        set(&mut r, STAR, 0x20 << 48);
        r.cpu.regs[1] = TARGET | if wide { 0 } else { 1 << 40 };
        r.cpu.regs[11] = !(1 << 8);
        r.load(CODE, if wide { &[0x48, 0x0f, 0x07] } else { &[0x0f, 0x07] });
        r.run(1);
        assert_eq!((r.cpu.rip(), r.cpu.cpl, r.cpu.mode.bitness()), (TARGET, 3, if wide { 64 } else { 32 }));
        assert_eq!(r.cpu.seg[1].selector, if wide { 0x33 } else { 0x23 });
        assert_eq!(r.cpu.seg[2].selector, 0x2b);
        assert_eq!((r.cpu.seg[1].dpl(), r.cpu.seg[2].dpl()), (3, 3));
        assert_eq!(r.cpu.flags.get(), 0x003c_7ed7 & !(1 << 16), "RF and VM are cleared");
    }
    let mut r = rig(true, 0);
    r.cpu.regs[1] = BAD;
    assert_eq!(cause(r.bytes(&[0x48, 0x0f, 0x07])), gp(0), "at level 0, before anything changes");
    assert_eq!(r.cpu.cpl, 0);
    assert_eq!(cause(rig(true, 3).bytes(&[0x48, 0x0f, 0x07])), gp(0));
    assert_eq!(cause(rig(false, 0).bytes(&[0x0f, 0x07])), UD);
    assert_eq!(cause(compatibility(rig(true, 0)).bytes(&[0x0f, 0x07])), UD);
}

/// SDM 2B SYSENTER and SYSEXIT.
#[test]
fn sysenter_and_sysexit() {
    for (long, cpl) in [(false, 3), (true, 3), (false, 0), (true, 0)] {
        let mut r = rig(long, cpl);
        for (index, value) in SYSENTER.into_iter().zip([0x1b, 0x7_0000, TARGET]) {
            set(&mut r, index, value);
        }
        r.cpu.flags.set(0x202);
        r.load(CODE, &[0x0f, 0x34]);
        r.run(1);
        assert_eq!((r.cpu.rip(), r.cpu.regs[4], r.cpu.cpl, r.cpu.flags.get()), (TARGET, 0x7_0000, 0, 2));
        assert_eq!((r.cpu.seg[1].selector, r.cpu.seg[2].selector), (0x18, 0x20));
        assert_eq!(r.cpu.mode.bitness(), if long { 64 } else { 32 });
    }
    // Back: offsets 16 and 24, or 32 and 40 with REX.W.
    for (long, code, cs, ss, bits) in [
        (false, &[0x0f, 0x35][..], 0x2b, 0x33, 32),
        (true, &[0x0f, 0x35], 0x2b, 0x33, 32),
        (true, &[0x48, 0x0f, 0x35], 0x3b, 0x43, 64),
    ] {
        let mut r = rig(long, 0);
        set(&mut r, SYSENTER[0], 0x18);
        let high = if bits == 32 && long { 1 << 40 } else { 0 };
        r.cpu.regs[2] = TARGET | high;
        r.cpu.regs[1] = 0x6_0000 | high;
        r.load(CODE, code);
        r.run(1);
        assert_eq!((r.cpu.rip(), r.cpu.regs[4], r.cpu.cpl), (TARGET, 0x6_0000, 3), "{long} {bits}");
        assert_eq!((r.cpu.seg[1].selector, r.cpu.seg[2].selector), (cs, ss));
        assert_eq!(r.cpu.mode.bitness(), bits);
    }
    // Faults.
    for (long, cpl, cs, code, rdx, rcx) in [
        (false, 3, 0, &[0x0f, 0x34][..], 0, 0),
        (false, 3, 3, &[0x0f, 0x34], 0, 0),
        (true, 3, 0, &[0x0f, 0x34], 0, 0),
        (false, 0, 0, &[0x0f, 0x35], 0, 0),
        (false, 3, 0x18, &[0x0f, 0x35], 0, 0),
        (true, 0, 0x18, &[0x48, 0x0f, 0x35], BAD, 0),
        (true, 0, 0x18, &[0x48, 0x0f, 0x35], 0, BAD),
    ] {
        let mut r = rig(long, cpl);
        set(&mut r, SYSENTER[0], cs);
        r.cpu.regs[1] = rcx;
        r.cpu.regs[2] = rdx;
        assert_eq!(cause(r.bytes(code)), gp(0), "{long} {cpl} {cs:#x} {code:x?}");
    }
    let mut r = Rig::ready_real();
    r.load(CODE, &[0x0f, 0x34]);
    assert_eq!(r.fault(), Some(13), "real-address mode");
}

/// AMD's processors want what is added to the base of FS or GS to be canonical, up to its last byte, as well as the sum.
#[test]
fn offsets_off_segment_bases() {
    const HALF: u64 = 1 << 47;
    // The base, RBX, and whether AMD's raise #GP(0).
    let cases = [
        (HALF.wrapping_neg(), DATA + HALF, true),
        (DATA.wrapping_sub(HALF), HALF - 4, true),
        (DATA.wrapping_sub(HALF), HALF - 8, false),
        (DATA + 8, 8_u64.wrapping_neg(), false),
        (DATA - 8, 8, false),
    ];
    for (base, offset, faults) in cases {
        for amd in [false, true] {
            // MOV RAX, GS:[RBX]; MOV GS:[RBX], RAX; BT GS:[RBX], RCX; MOV RAX, GS:[constant].
            let constant = [&[0x65, 0x48, 0xa1][..], &offset.to_le_bytes()].concat();
            for code in [
                &[0x65, 0x48, 0x8b, 0x03][..],
                &[0x65, 0x48, 0x89, 0x03],
                &[0x65, 0x48, 0x0f, 0xa3, 0x0b],
                &constant,
            ] {
                let mut r = rig(true, 0);
                if amd {
                    r.cpu.model = Arc::new(Model::as_if_complete("EPYC"));
                }
                r.cpu.update_mode();
                set(&mut r, GS_BASE, base);
                (r.cpu.regs[1], r.cpu.regs[3]) = (0, offset);
                let expected = (amd && faults).then_some((13, 0));
                assert_eq!(cause(r.bytes(code)), expected, "{base:x} {offset:x} {amd} {code:x?}");
            }
        }
    }
}

/// SDM 1 3.4.2.1, 3A 3.2.4: in 64-bit mode only FS and GS have bases; other override prefixes do nothing.
#[test]
fn segment_bases_in_64_bit_mode() {
    for (prefix, at) in [
        (None, DATA),
        (Some(0x26), DATA),
        (Some(0x2e), DATA),
        (Some(0x36), DATA),
        (Some(0x3e), DATA),
        (Some(0x64), DATA + 0x1000),
        (Some(0x65), DATA + 0x2000),
    ] {
        let mut r = rig(true, 0);
        for n in 0..6 {
            // Bases and limits that would show; null segments do no harm.
            let base = r.cpu.seg[n].base;
            r.cpu.seg[n].base = if n == 1 { base } else { 0x50_0000 };
            r.cpu.seg[n].unusable = n != 1;
        }
        r.cpu.update_mode();
        set(&mut r, FS_BASE, 0x1000);
        set(&mut r, GS_BASE, 0x2000);
        for n in 0..3 {
            r.poke32(DATA + 0x1000 * n, n as u32 + 1);
        }
        r.cpu.regs[3] = DATA;
        let code: Vec<u8> = prefix.into_iter().chain([0x8b, 0x03]).collect();
        assert_eq!(cause(r.bytes(&code)), None);
        assert_eq!(r.cpu.regs[0], (at - DATA) / 0x1000 + 1, "{prefix:x?}");
    }
    // SWAPGS; FSGSBASE's instructions, their enable and their operands.
    let mut r = rig(true, 0);
    set(&mut r, GS_BASE, 1);
    set(&mut r, KERNEL_GS_BASE, u64::MAX);
    assert_eq!(cause(r.bytes(&[0x0f, 0x01, 0xf8])), None);
    assert_eq!((r.cpu.read_msr(GS_BASE), r.cpu.read_msr(KERNEL_GS_BASE)), (Ok(u64::MAX), Ok(1)));
    assert_eq!(cause(rig(true, 3).bytes(&[0x0f, 0x01, 0xf8])), gp(0));
    assert_eq!(cause(rig(false, 0).bytes(&[0x0f, 0x01, 0xf8])), UD);
    for (enabled, code, value, expected) in [
        (true, &[0xf3, 0x48, 0x0f, 0xae, 0xd0][..], u64::MAX, None),
        (true, &[0xf3, 0x48, 0x0f, 0xae, 0xd0], BAD, gp(0)),
        (true, &[0xf3, 0x0f, 0xae, 0xd0], BAD, None),
        (false, &[0xf3, 0x48, 0x0f, 0xae, 0xd0], 0, UD),
        (false, &[0xf3, 0x48, 0x0f, 0xae, 0xc0], 0, UD),
    ] {
        let mut r = rig(true, 3);
        r.cpu.cr4 |= if enabled { cr4::FSGSBASE } else { 0 };
        r.cpu.regs[0] = value;
        assert_eq!(cause(r.bytes(code)), expected, "{enabled} {code:x?} {value:#x}");
        if expected.is_none() {
            assert_eq!(r.cpu.seg[4].base, if code.len() == 5 { value } else { value & 0xffff_ffff });
        }
    }
    assert_eq!(cause(compatibility(rig(true, 3)).bytes(&[0xf3, 0x0f, 0xae, 0xd0])), UD);
}

/// SDM 1 3.3.7.1: addresses that are not canonical raise #SS by way of RSP and RBP, #GP(0) otherwise; overrides that
/// 64-bit mode ignores do not change that.
#[test]
fn canonical_addresses() {
    // Code with the address in RBX (or RSP, RBP), result.
    for (code, expected) in [
        (&[0x8b, 0x03][..], gp(0)),
        (&[0x89, 0x03], gp(0)),
        (&[0x8b, 0x45, 0x00], sf(0)),
        (&[0x8b, 0x04, 0x24], sf(0)),
        (&[0x36, 0x8b, 0x03], gp(0)),
        (&[0x3e, 0x8b, 0x45, 0x00], sf(0)),
        (&[0x65, 0x8b, 0x45, 0x00], gp(0)),
        (&[0x41, 0x8b, 0x45, 0x00], gp(0)), // [r13]
        (&[0x41, 0x8b, 0x04, 0x24], gp(0)), // [r12]
        (&[0x50], sf(0)),
        (&[0x58], sf(0)),
        (&[0xc3], sf(0)),
        (&[0xc9], sf(0)),
        (&[0xe8, 0, 0, 0, 0], sf(0)),
        (&[0x9c], sf(0)),
        (&[0x67, 0x8b, 0x03], None), // EBX
        (&[0x48, 0x8d, 0x03], None), // LEA
    ] {
        let mut r = rig(true, 0);
        // Faults need a stack.
        r.poke(TSS + 0x24, STACK);
        for vector in [12, 13, DONE] {
            let at = 16 * u64::from(vector);
            let entry = r.peek(IDT + at) | 1 << 32;
            r.poke(IDT + at, entry);
        }
        for n in [3, 4, 5, 12, 13] {
            r.cpu.regs[n] = BAD | DATA;
        }
        assert_eq!(cause(r.bytes(code)), expected, "{code:x?}");
    }
    // An operand that reaches over the edge, from either side.
    for (address, expected) in
        [(BAD - 4, pf(0)), (BAD - 3, gp(0)), (BAD.wrapping_neg(), pf(0)), (BAD.wrapping_neg() - 1, gp(0))]
    {
        let mut r = rig(true, 0);
        r.cpu.regs[3] = address;
        assert_eq!(cause(r.bytes(&[0x8b, 0x03])), expected, "{address:#x}");
    }
    // Branches: the fault is the branch's on Intel (SDM 2A JMP, CALL, 2B RET).
    for (code, start) in [(&[0xff, 0xe3][..], 0), (&[0xff, 0xd3], 0), (&[0x53, 0xc3], 1), (&[0xff, 0x23], 0)]
    {
        let mut r = rig(true, 0);
        r.poke(DATA, BAD);
        r.cpu.regs[3] = if code[1] == 0x23 { DATA } else { BAD };
        let frame = r.bytes(code).expect_err("a target that is not canonical");
        assert_eq!((frame.cause(), frame.ip), ((13, 0), CODE + start), "{code:x?}");
    }
}

/// SDM 1 3.3.7: 32-bit address size in 64-bit mode, and effective addresses in 32-bit and compatibility mode, wrap.
#[test]
fn addresses_wrap() {
    for (long, code) in [(false, &[0x8b, 0x43, 0x10][..]), (true, &[0x67, 0x8b, 0x43, 0x10])] {
        let mut r = rig(long, 0);
        r.poke32(DATA, 0xfeed);
        r.cpu.regs[3] = (DATA - 0x10) & 0xffff_ffff;
        assert_eq!(cause(r.bytes(code)), None);
        assert_eq!(r.cpu.regs[0], 0xfeed);
        let mut r = rig(long, 0);
        r.poke32(0x8, 0xfeed);
        r.cpu.regs[3] = 0xffff_fff8;
        assert_eq!(cause(r.bytes(code)), None);
        assert_eq!(r.cpu.regs[0], 0xfeed, "{long}: FFFFFFF8h + 10h");
    }
    // Base and offset: the linear address has 32 bits outside of 64-bit mode.
    for mode in [false, true] {
        let mut r = if mode { compatibility(rig(true, 0)) } else { rig(false, 0) };
        r.force(3, sel::FREE, descriptor(0xffff_f000, 0xf_ffff, 0x93, 0xc));
        r.poke32(DATA, 0xfeed);
        r.cpu.regs[3] = DATA + 0x1000;
        assert_eq!(cause(r.bytes(&[0x8b, 0x03])), None);
        assert_eq!(r.cpu.regs[0], 0xfeed);
    }
    // 16-bit addressing wraps at 64 KiB.
    let mut r = rig(false, 0);
    r.poke32(0x8, 0xbeef);
    r.cpu.regs[3] = 0xfff8;
    assert_eq!(cause(r.bytes(&[0x67, 0x8b, 0x47, 0x10])), None);
    assert_eq!(r.cpu.regs[0], 0xbeef);
}

/// SDM 2A LOCK: which forms take the prefix.
#[test]
fn lock_prefix() {
    for (code, expected) in [
        (&[0xf0, 0x01, 0x03][..], None),
        (&[0xf0, 0x0f, 0xb1, 0x03], None),
        (&[0xf0, 0x0f, 0xc1, 0x03], None),
        (&[0xf0, 0x0f, 0xc7, 0x0b], None),
        (&[0xf0, 0xff, 0x03], None),
        (&[0xf0, 0xf7, 0x13], None),
        (&[0xf0, 0x87, 0x03], None),
        (&[0xf0, 0x0f, 0xab, 0x03], None),
        (&[0xf0, 0x01, 0xc3], UD),
        (&[0xf0, 0x03, 0x03], UD),
        (&[0xf0, 0x8b, 0x03], UD),
        (&[0xf0, 0x89, 0x03], UD),
        (&[0xf0, 0x39, 0x03], UD),
        (&[0xf0, 0x0f, 0xa3, 0x03], UD),
        (&[0xf0, 0x90], UD),
        (&[0xf0, 0xd1, 0x03], UD),
        (&[0xf0, 0x50], UD),
        (&[0xf0, 0xf3, 0xa4], UD),
        (&[0xf0, 0x0f, 0x05], UD),
    ] {
        let mut r = rig(true, 0);
        r.cpu.regs[3] = DATA;
        assert_eq!(cause(r.bytes(code)), expected, "{code:x?}");
    }
}

/// SDM 2A 2.3.11: more than 15 bytes raise #GP(0); that comes before #UD, and bytes beyond are not fetched.
#[test]
fn instruction_length() {
    for (prefixes, expected) in [(13, None), (14, gp(0)), (15, gp(0)), (40, gp(0))] {
        // 66h prefixes on a two-byte NOP.
        let mut code = vec![0x66; prefixes];
        code.extend([0x8b, 0xc0]);
        assert_eq!(cause(rig(true, 0).bytes(&code)), expected, "{prefixes}");
        // At the end of a page, with the next one missing: 15 bytes decide.
        let mut r = rig(true, 0);
        r.poke(TABLES + 0x2000 + 8, 0);
        r.cpu.flush_all();
        let start = 0x20_0000 - 15;
        r.load(start, &code[..15.min(code.len())]);
        r.cpu.set_rip(start);
        if prefixes >= 15 {
            let frame = r.finish().expect_err("too long");
            assert_eq!((frame.cause(), frame.ip), ((13, 0), start), "{prefixes}");
        }
    }
}

/// #AC (SDM 3A 6.15): at level 3, with CR0.AM and EFLAGS.AC; the error code is 0.
#[test]
fn alignment_check() {
    const FLAG: u64 = 1 << 18;
    // Level, CR0.AM, EFLAGS.AC, code with the address in EBX, address, result.
    for (cpl, am, ac, code, address, expected) in [
        (3, cr0::AM, FLAG, &[0x8b, 0x03][..], DATA + 1, AC),
        (3, cr0::AM, FLAG, &[0x8b, 0x03], DATA + 2, AC),
        (3, cr0::AM, FLAG, &[0x8b, 0x03], DATA + 4, None),
        (3, cr0::AM, FLAG, &[0x89, 0x03], DATA + 1, AC),
        (3, cr0::AM, FLAG, &[0x01, 0x03], DATA + 3, AC),
        (3, cr0::AM, FLAG, &[0x66, 0x8b, 0x03], DATA + 1, AC),
        (3, cr0::AM, FLAG, &[0x66, 0x8b, 0x03], DATA + 2, None),
        (3, cr0::AM, FLAG, &[0x8a, 0x03], DATA + 1, None),
        (3, cr0::AM, FLAG, &[0x8b, 0x03], DATA + 0xffe, AC),
        (3, 0, FLAG, &[0x8b, 0x03], DATA + 1, None),
        (3, cr0::AM, 0, &[0x8b, 0x03], DATA + 1, None),
        (0, cr0::AM, FLAG, &[0x8b, 0x03], DATA + 1, None),
        // The stack.
        (3, cr0::AM, FLAG, &[0x89, 0xdc, 0x50], DATA + 1, AC),
    ] {
        for long in [false, true] {
            let mut r = rig(long, cpl);
            r.cpu.cr0 |= am;
            r.cpu.update_mode();
            r.cpu.regs[3] = address;
            // By POPF, which must take effect at once.
            let sp = r.cpu.regs[4];
            r.poke(sp, ac | 2);
            let mut bytes = vec![0x9d];
            bytes.extend(code);
            let result = r.bytes(&bytes);
            assert_eq!(cause(result), expected, "{cpl} {am:#x} {ac:#x} {code:x?} {address:#x} {long}");
        }
    }
}

/// SDM 1 19.5: IOPL, and the I/O permission bitmap with its limit.
#[test]
fn port_permission() {
    // Level, IOPL, I/O map base, TSS limit, port, size, result. The map refuses ports 8, 0Fh and 17h.
    let base = 0x68_u16;
    let table = [
        (0, 0, 0, 0x67, 0x10, 1, None),
        (3, 3, 0, 0x67, 0x10, 1, None),
        (3, 2, 0xffff, 0x67, 0x10, 1, gp(0)),
        (3, 0, base, 0x2000, 0x07, 1, None),
        (3, 0, base, 0x2000, 0x08, 1, gp(0)),
        (3, 0, base, 0x2000, 0x07, 2, gp(0)),
        (3, 0, base, 0x2000, 0x04, 4, None),
        (3, 0, base, 0x2000, 0x05, 4, gp(0)),
        (3, 0, base, 0x2000, 0x0f, 1, gp(0)),
        (3, 0, base, 0x2000, 0x0e, 1, None),
        (3, 0, base, 0x2000, 0x0e, 2, gp(0)),
        (3, 0, base, 0x2000, 0x14, 4, gp(0)),
        (3, 0, base, 0x2000, 0x18, 4, None),
        // Two bytes of the map are read: both must be within the limit.
        (3, 0, base, 0x6a, 0x10, 1, gp(0)),
        (3, 0, base, 0x6b, 0x10, 1, None),
        (3, 0, base, 0x6b, 0x18, 1, gp(0)),
        (3, 0, base, 0x6b, 0x20, 1, gp(0)),
    ];
    for (cpl, iopl, map, limit, port, size, expected) in table {
        for long in [false, true] {
            for out in [false, true] {
                let mut r = rig(long, cpl);
                let offset = r.peek(TSS + 0x60) & 0xffff_ffff;
                r.poke(TSS + 0x60, offset | u64::from(map) << 48);
                r.cpu.tr.limit = limit;
                r.load(TSS + 0x68, &[0; 64]);
                r.load(TSS + 0x69, &[0x81, 0x80]);
                r.cpu.flags.set(2 | iopl << 12);
                let mut code = vec![];
                if size == 2 {
                    code.push(0x66);
                }
                code.push(0xe4 | if size > 1 { 1 } else { 0 } | if out { 2 } else { 0 });
                code.push(port);
                let what = format!("{cpl} {iopl} {map:#x} {limit:#x} {port:#x} {size} {long} {out}");
                assert_eq!(cause(r.bytes(&code)), expected, "{what}");
            }
        }
    }
    // A 16-bit TSS has no map.
    let mut r = rig(false, 3);
    r.cpu.tr.rights = 0x83;
    r.cpu.tr.limit = 0x2000;
    r.load(TSS + 2, &[0x00, 0x60, 0x10, 0x00]); // SP0, SS0
    assert_eq!(cause(r.bytes(&[0xe4, 0x10])), gp(0));
}

/// UMIP (SDM 3A 2.5): SGDT, SIDT, SLDT, STR and SMSW above level 0.
#[test]
fn user_mode_instruction_prevention() {
    for code in [
        &[0x0f, 0x01, 0x03][..],
        &[0x0f, 0x01, 0x0b],
        &[0x0f, 0x00, 0xc0],
        &[0x0f, 0x00, 0xc8],
        &[0x0f, 0x01, 0xe0],
    ] {
        for (cpl, umip, expected) in [(3, 0, None), (3, cr4::UMIP, gp(0)), (0, cr4::UMIP, None)] {
            let mut r = rig(true, cpl);
            r.cpu.cr4 |= umip;
            r.cpu.regs[3] = DATA;
            assert_eq!(cause(r.bytes(code)), expected, "{code:x?} {cpl} {umip:#x}");
        }
    }
}

/// Privileged instructions at levels 1 to 3 (SDM 3A 5.9).
#[test]
fn privileged_instructions() {
    let table: &[&[u8]] = &[
        &[0x0f, 0x01, 0x13],
        &[0x0f, 0x01, 0x1b],
        &[0x0f, 0x00, 0xd0],
        &[0x0f, 0x00, 0xd8],
        &[0x0f, 0x22, 0xc0],
        &[0x0f, 0x20, 0xd8],
        &[0x0f, 0x01, 0xf0],
        &[0x0f, 0x06],
        &[0x0f, 0x23, 0xc0],
        &[0x0f, 0x21, 0xc0],
        &[0x0f, 0x08],
        &[0x0f, 0x09],
        &[0x0f, 0x01, 0x3b],
        &[0x0f, 0x32],
        &[0x0f, 0x30],
        &[0xf4],
        &[0x44, 0x0f, 0x22, 0xc0],
    ];
    for &code in table {
        for cpl in [1, 2, 3] {
            let mut r = rig(true, 3);
            r.cpu.cpl = cpl;
            r.cpu.seg[1].selector = sel::CODE64 | u16::from(cpl);
            r.cpu.seg[1].rights = r.cpu.seg[1].rights & !0x60 | u16::from(cpl) << 5;
            r.cpu.update_mode();
            r.cpu.regs[3] = DATA;
            assert_eq!(cause(r.bytes(code)), gp(0), "{code:x?} {cpl}");
        }
    }
}

/// A guest that the processor would hang on does not hang its host: #AC whose handler at level 3 finds the stack misaligned.
#[test]
fn alignment_checks_without_end() {
    let mut r = rig(false, 3);
    r.cpu.cr0 |= cr0::AM;
    r.cpu.update_mode();
    r.poke(IDT + 8 * 17, gate(sel::CODE32_3, 0x9011, 0xee, 0));
    r.cpu.flags.set(2 | 1 << 18);
    r.cpu.regs[4] -= 1;
    r.load(CODE, &[0x50]);
    r.cpu.update_mode();
    assert_eq!(r.run(1000), RunEnd::Limit);
    assert_eq!(r.cpu.rip(), CODE);
}
