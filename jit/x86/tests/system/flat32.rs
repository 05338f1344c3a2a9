//! 32-bit code with flat segments: what wraps, what the stack does, and segments that stop being flat.

use crate::common::*;
use crate::pair::{put, run, stats};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ringworld_x86::segment::Segment;

/// 32-bit code at CPL 0: in protected mode, or in compatibility mode with something in the registers' upper halves.
fn program(compatibility: bool, f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Rig {
    let mut rig = if compatibility { Rig::long() } else { Rig::protected() };
    rig.gates();
    if compatibility {
        rig.cpu.seg[1] = Segment::from_descriptor(sel::CODE32, 0x00cf_9b00_0000_ffff);
        // All but RSP, which exceptions are delivered by.
        for n in (0..16).filter(|&n| n != 4) {
            rig.cpu.regs[n] |= 0xdead_beef << 32;
        }
        rig.cpu.update_mode();
    }
    // Data that is not flat, and flat but for its base.
    rig.poke(GDT + u64::from(sel::FREE), 0x0040_9320_0000_0fff);
    rig.poke(GDT + u64::from(sel::FREE) + 8, 0x00cf_9320_0000_ffff);
    put(&mut rig, CODE, f);
    rig
}

fn both(f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> [Rig; 2] {
    [false, true].map(|compatibility| run(|| program(compatibility, &f)))
}

/// XLAT off EBX, which wraps, and JECXZ, in 32-bit code, and in 64-bit code with prefixes, where upper halves do not count.
#[test]
fn tables_and_counts_of_32_bits() {
    let body = |a: &mut CodeAssembler| {
        let mut again = a.create_label();
        // With an address-size prefix in 64-bit code. JECXZ leads to HLT, past a jump over it.
        let prefix = usize::from(a.bitness() != 64);
        let xlat = &[0x67, 0xd7][prefix..];
        let jecxz = &[0x67, 0xe3, 2, 0xeb, 1, 0xf4][prefix..];
        a.mov(esi, 30)?;
        a.set_label(&mut again)?;
        a.mov(ebx, (DATA - 5) as u32)?;
        a.lea(eax, dword_ptr(esi + 5))?;
        a.db(xlat)?;
        a.add(edi, eax)?;
        a.mov(ebx, 0xffff_ffff_u32)?;
        a.lea(eax, dword_ptr(esi + 1))?;
        a.db(xlat)?;
        a.add(edi, eax)?;
        a.lea(ecx, dword_ptr(esi - 1))?;
        a.db(jecxz)?;
        a.dec(esi)?;
        a.jmp(again)
    };
    let fill = |mut rig: Rig| {
        for n in 0..32 {
            rig.load(DATA + n, &[3 * n as u8 + 1]);
            rig.load(n, &[5 * n as u8]);
        }
        rig
    };
    let mut rigs: Vec<Rig> =
        [false, true].map(|compatibility| run(|| fill(program(compatibility, body)))).into();
    rigs.push(run(|| {
        let mut rig = Rig::long();
        rig.gates();
        // Upper halves that do not count.
        rig.cpu.regs[3] = u64::MAX;
        put(&mut rig, CODE, body);
        fill(rig)
    }));
    for rig in rigs {
        let all: u32 = (1..=30).map(|n| u32::from(3 * n as u8 + 1) + u32::from(5 * n as u8)).sum();
        assert_eq!((rig.cpu.regs[7] as u32, rig.cpu.regs[6] as u32), (all, 1));
        assert!(stats(&rig).executed < 20, "{}", stats(&rig).executed);
    }
}

/// Sums of registers wrap at 4 GiB, between accesses of one group, too (SDM 1 3.3.4).
#[test]
fn addresses_wrap() {
    for rig in both(|a| {
        a.mov(ebx, 0xffff_fff8_u32)?;
        a.mov(eax, 0x1234_5678)?;
        a.mov(dword_ptr(ebx + (DATA + 0x10)), eax)?;
        a.add(dword_ptr(ebx + (DATA + 0x14)), 7)?;
        a.add(ebx, 0x10)?;
        a.mov(ecx, dword_ptr(ebx + DATA))?;
        a.inc(ebx)?;
        a.mov(edx, dword_ptr(ebx + (DATA + 3)))?;
        a.mov(esi, 0x8000_0000_u32)?;
        a.mov(edi, dword_ptr(ebx + esi * 2 + (DATA - 1)))?;
        a.hlt()
    }) {
        assert_eq!([1, 2, 7].map(|n| rig.cpu.regs[n]), [0x1234_5678, 7, 0x1234_5678]);
    }
}

/// Accesses of all widths over the borders of pages, and reads from the last page below 4 GiB to the first one.
#[test]
fn accesses_reach_into_the_next_page() {
    const LAST: u64 = 0x35_0000;
    for compatibility in [false, true] {
        let rig = run(|| {
            let mut rig = program(compatibility, |a| {
                let mut again = a.create_label();
                a.fninit()?;
                a.mov(ecx, 60)?;
                a.mov(esi, DATA as u32 + 0xff4)?;
                a.mov(edi, 0xffff_fff2_u32)?;
                a.set_label(&mut again)?;
                for pointer in [esi, edi] {
                    a.mov(eax, dword_ptr(pointer))?;
                    a.add(ebx, dword_ptr(pointer + ecx * 2))?;
                    a.adc(bx, word_ptr(pointer + 1))?;
                    a.movsd_2(xmm0, qword_ptr(pointer + 2))?;
                    a.movups(xmm1, xmmword_ptr(pointer - 3))?;
                    a.fld(tbyte_ptr(pointer + 1))?;
                    a.fstp(tbyte_ptr(DATA + 0x5000))?;
                    a.paddb(xmm2, xmm0)?;
                    a.paddw(xmm2, xmm1)?;
                    a.xor(ebx, eax)?;
                }
                a.movups(xmmword_ptr(esi + 0x1000), xmm2)?;
                a.add(dword_ptr(esi + 0xffe), eax)?;
                a.mov(word_ptr(esi + 0x1005), bx)?;
                a.movsd_2(qword_ptr(esi + 0x1001), xmm2)?;
                a.xadd(dword_ptr(esi + 0x1003), edx)?;
                a.add(esi, 1)?;
                a.add(edi, 1)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.hlt()
            });
            if compatibility {
                // The last page.
                let (directory, table) = (TABLES + 0x10_0000, TABLES + 0x11_0000);
                rig.poke(TABLES + 0x1000 + 8 * 3, directory | 7);
                rig.poke(directory + 8 * 511, table | 7);
                rig.poke(table + 8 * 511, LAST | 7);
                // What 64-bit code finds after it.
                rig.poke(TABLES + 0x1000 + 8 * 4, directory | 7);
            }
            for n in 0..0x1000 {
                rig.poke(DATA + 8 * n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                rig.poke(LAST + 8 * (n & 511), n.wrapping_mul(0xd6e8_feb8_6659_fd93));
            }
            rig.cpu.cr4 |= 0x600;
            rig
        });
        if compatibility {
            let executed = stats(&rig).executed;
            assert!(executed < 200, "{executed}");
        }
    }
}

#[test]
fn the_stack_moves_by_four() {
    for rig in both(|a| {
        let mut inner = a.create_label();
        let mut over = a.create_label();
        a.mov(esp, (DATA + 0x1000) as u32)?;
        a.push(0x11)?;
        a.push(esp)?;
        a.mov(dword_ptr(DATA), 0x22)?;
        a.push(dword_ptr(DATA))?;
        a.call(inner)?;
        a.jmp(over)?;
        a.set_label(&mut inner)?;
        a.push(ebp)?;
        a.mov(ebp, esp)?;
        a.sub(esp, 0x20)?;
        a.mov(eax, dword_ptr(ebp + 8))?;
        a.leave()?;
        a.ret()?;
        a.set_label(&mut over)?;
        a.pop(ebx)?;
        a.pop(ecx)?;
        a.stc()?;
        a.pushfd()?;
        a.clc()?;
        a.popfd()?;
        a.setb(dl)?;
        a.dec(ecx)?;
        a.hlt()
    }) {
        let top = DATA + 0x1000;
        assert_eq!([0, 3, 1, 4].map(|n| rig.cpu.regs[n]), [0x22, 0x22, top - 5, top - 4]);
        assert_eq!(rig.cpu.regs[2] & 0xff, 1);
    }
}

/// A group's check has passed before the segment changes; what comes after is checked against its limit.
#[test]
fn segments_that_stop_being_flat_are_checked() {
    for rig in both(|a| {
        a.mov(ebx, DATA as u32)?;
        a.mov(eax, dword_ptr(ebx))?;
        a.mov(eax, dword_ptr(ebx + 4))?;
        a.mov(ecx, u32::from(sel::FREE))?;
        a.mov(ds, ecx)?;
        a.mov(eax, dword_ptr(0xffc))?;
        a.mov(eax, dword_ptr(ebx))?;
        a.hlt()
    }) {
        assert_eq!(rig.cpu.rip(), 0x900e);
    }
}

#[test]
fn fs_has_a_base() {
    for rig in both(|a| {
        a.mov(ecx, u32::from(sel::FREE + 8))?;
        a.mov(fs, ecx)?;
        a.mov(dword_ptr(0x10).fs(), 0x77)?;
        a.mov(ebx, 8)?;
        a.mov(eax, dword_ptr(ebx + 8).fs())?;
        a.mov(edx, dword_ptr(DATA + 0x10))?;
        a.xor(ecx, ecx)?;
        a.mov(fs, ecx)?;
        a.mov(eax, dword_ptr(ebx + 8).fs())?;
        a.hlt()
    }) {
        assert_eq!((rig.cpu.regs[0], rig.cpu.regs[2], rig.cpu.rip()), (0x77, 0x77, 0x900e));
    }
}

/// VZEROUPPER and VZEROALL clear eight registers outside of 64-bit mode (SDM 2C).
#[test]
fn vzeroupper_reaches_eight_registers() {
    for all in [false, true] {
        let rig = run(|| {
            let mut rig = program(true, |a| {
                if all {
                    a.vzeroall()?
                } else {
                    a.vzeroupper()?
                }
                a.hlt()
            });
            rig.cpu.cr4 |= ringworld_x86::control::cr4::OSXSAVE;
            rig.cpu.xcr0 = 7;
            for n in 0..16 {
                (rig.cpu.zmm[n][0], rig.cpu.zmm[n][2]) = (3, 5);
            }
            rig.cpu.update_mode();
            rig
        });
        let low = if all { 0 } else { 3 };
        assert_eq!([0, 7, 8, 15].map(|n| rig.cpu.zmm[n][2]), [0, 0, 5, 5]);
        assert_eq!([0, 7, 8, 15].map(|n| rig.cpu.zmm[n][0]), [low, low, 3, 3]);
        assert!(stats(&rig).executed < 2, "HLT at most");
    }
}
