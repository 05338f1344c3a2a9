//! Vector instructions that use more than vector registers and one place in memory.

use crate::common::*;
use crate::pair::{compare, put, run, stats};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ringworld_x86::control::cr4;

/// A long-mode machine with this code, and numbers from [`DATA`] on.
fn program(f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Rig {
    let mut rig = Rig::long();
    rig.gates();
    for n in 0..0x800 {
        rig.poke(DATA + 8 * n, (n as f64 * 1.25 - 77.0).to_bits());
    }
    put(&mut rig, CODE, f);
    rig
}

/// Gathers of all sizes: whole masks, others, and elements that straddle or are nowhere.
#[test]
fn gathers_are_all_or_nothing() {
    let rig = run(|| {
        let mut rig = program(|a| {
            let mut again = a.create_label();
            a.mov(rsi, DATA + 0xf80)?;
            a.mov(r11, DATA + 0x100)?;
            a.mov(ecx, 24)?;
            a.vmovdqu(ymm1, ymmword_ptr(DATA + 0x2800))?;
            a.set_label(&mut again)?;
            a.vpcmpeqd(ymm2, ymm2, ymm2)?;
            a.vpgatherdd_3(ymm0, ptr(rsi + ymm1 * 4), ymm2)?;
            a.vpcmpeqd(ymm2, ymm2, ymm2)?;
            a.vgatherqpd_3(ymm3, ptr(r11 + ymm1 * 1 + 8), ymm2)?;
            a.vpcmpeqd(xmm2, xmm2, xmm2)?;
            a.vgatherqps_3(xmm4, ptr(rsi + ymm1 * 2), xmm2)?;
            a.vpcmpgtd(ymm2, ymm1, ymm5)?;
            a.vpgatherdq_3(ymm5, ptr(rsi + xmm1 * 8), ymm2)?;
            a.vpxor(ymm1, ymm1, ymmword_ptr(DATA + 0x2820))?;
            a.add(rsi, 7)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        });
        rig.cpu.cr4 |= cr4::OSXSAVE;
        rig.cpu.xcr0 = 7;
        rig.cpu.update_mode();
        for (n, index) in [3_u64, 70 << 32 | 9, 500 << 32, 11 << 32 | 12].into_iter().enumerate() {
            rig.poke(DATA + 0x2800 + 8 * n as u64, index & 0x1ff);
            rig.poke(DATA + 0x2820 + 8 * n as u64, 0x11 * n as u64);
        }
        rig
    });
    assert!(stats(&rig).executed < 100, "{}", stats(&rig).executed);
}

/// The index of PCMPxSTRI is in ECX, with operands that need no alignment.
#[test]
fn string_comparisons_leave_their_index() {
    run(|| {
        program(|a| {
            let mut again = a.create_label();
            a.mov(rsi, DATA + 0xff0 - 40)?;
            a.mov(r8d, 50)?;
            a.mov(eax, 9)?;
            a.mov(edx, 12)?;
            a.movdqu(xmm1, xmmword_ptr(rsi))?;
            a.set_label(&mut again)?;
            a.mov(rcx, !0_u64)?;
            a.pcmpistri(xmm1, xmmword_ptr(rsi), 0)?;
            a.adc(r9, rcx)?;
            a.pcmpestri(xmm1, xmmword_ptr(rsi + 1), 12)?;
            a.adc(r10, rcx)?;
            a.pcmpistrm(xmm1, xmmword_ptr(rsi), 0x40)?;
            a.inc(rsi)?;
            a.dec(r8d)?;
            a.jnz(again)?;
            a.hlt()
        })
    });
}

/// AVX clears what registers have beyond 256 bits (SDM 1 14.1.1), also where the host has no such part; and translated code
/// goes on once there is nothing there.
#[test]
fn avx_clears_what_the_host_may_not_have() {
    let rig = compare(
        || {
            let mut rig = program(|a| {
                a.vpaddd(ymm1, ymm2, ymm3)?;
                a.vmovaps(xmm4, xmm2)?;
                a.vzeroupper()?;
                a.mov(ecx, 20)?;
                let mut again = a.create_label();
                a.set_label(&mut again)?;
                a.vpaddd(ymm1, ymm1, ymm4)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.hlt()
            });
            rig.cpu.cr4 |= cr4::OSXSAVE;
            rig.cpu.xcr0 = 0xe7;
            for n in 0..32 {
                rig.cpu.zmm[n] = [n as u64 + 1; 8];
            }
            rig.cpu.update_mode();
            rig
        },
        200,
    );
    assert_eq!([1, 4, 9].map(|n| rig.cpu.zmm[n][4..] == [0; 4]), [true; 3]);
    assert_eq!(rig.cpu.zmm[17], [18; 8]);
    assert!(stats(&rig).entries > 0, "nothing was translated");
}

/// Structures in an array that lie across a page's end, by two pointers.
#[test]
fn groups_end_where_pages_do() {
    let rig = run(|| {
        program(|a| {
            let (mut outer, mut inner) = (a.create_label(), a.create_label());
            a.mov(rbx, DATA + 0x1000 - 0x68)?;
            a.set_label(&mut outer)?;
            a.mov(rsi, DATA + 0x1000 - 0x68)?;
            a.set_label(&mut inner)?;
            for field in [0, 8, 0x10, 0x18, 0x20] {
                a.mov(rax, qword_ptr(rbx + field))?;
                a.add(qword_ptr(rsi + field), rax)?;
                a.add(rdx, qword_ptr(rsi + field))?;
            }
            a.add(rsi, 0x28)?;
            a.cmp(rsi, (DATA + 0x1000 + 0x60) as i32)?;
            a.jne(inner)?;
            a.add(rbx, 0x28)?;
            a.cmp(rbx, (DATA + 0x1000 + 0x60) as i32)?;
            a.jne(outer)?;
            a.hlt()
        })
    });
    assert_ne!(rig.cpu.regs[2], 0);
}
