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

/// While an exception is unmasked, integer code is translated, and vector instructions are the interpreter's, wherever blocks come to
/// them; some raise the exception, whose handler masks it for a while.
#[test]
fn unmasked_exceptions() {
    const HANDLER: u64 = 0x1_8000;
    let rig = run(|| {
        let mut rig = program(|a| {
            let mut again = a.create_label();
            let mut vectors = a.create_label();
            let mut next = a.create_label();
            a.mov(rdi, DATA)?;
            a.mov(dword_ptr(rdi), 0x1d80)?; // Division by zero is unmasked.
            a.ldmxcsr(dword_ptr(rdi))?;
            a.xor(ebx, ebx)?;
            a.xor(r8d, r8d)?;
            a.mov(ecx, 60)?;
            a.set_label(&mut again)?;
            a.mov(eax, ecx)?;
            a.imul_2(eax, ebx)?;
            a.push(rax)?;
            a.add(ebx, 3)?;
            a.pop(rdx)?;
            a.test(cl, 3)?;
            a.jz(vectors)?;
            a.xor(ebx, edx)?;
            a.jmp(next)?;
            a.set_label(&mut vectors)?;
            a.add(r9, rbx)?;
            a.cvtsi2sd(xmm0, ecx)?;
            a.mov(edx, ecx)?;
            a.and(edx, 8)?;
            a.cvtsi2sd(xmm1, edx)?;
            a.divsd(xmm0, xmm1)?;
            a.addsd(xmm2, xmm0)?;
            a.inc(r10)?;
            a.set_label(&mut next)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.stmxcsr(dword_ptr(rdi + 4))?;
            a.hlt()
        });
        rig.gate(19, HANDLER, 0xe, 0);
        put(&mut rig, HANDLER, |a| {
            // Masks division by zero at each second time, until the next exception that is none.
            a.inc(r8d)?;
            a.xor(dword_ptr(rdi), 0x200)?;
            a.ldmxcsr(dword_ptr(rdi))?;
            a.mov(edx, 1)?;
            a.cvtsi2sd(xmm1, edx)?;
            a.iretq()
        });
        rig.cpu.cr4 |= 0x600;
        rig
    });
    assert!(rig.cpu.regs[8] != 0, "no exception was raised");
}

/// A loop over arrays some of whose divisions raise an exception, whose handler changes the divisor: the loop's registers are
/// where loops keep them, and the accesses go by groups, each in turn unaligned and over the borders of pages.
#[test]
fn exceptions_in_loops() {
    const HANDLER: u64 = 0x1_8000;
    const DIVISORS: u64 = DATA + 0x1_0000;
    for (packed, by) in [(false, 0), (false, 3), (true, 0), (true, 5)] {
        let (from, divisors) = (DATA + 0x10 + by, DIVISORS + by);
        let rig = run(|| {
            let mut rig = program(|a| {
                let mut again = a.create_label();
                // Division by zero is unmasked.
                a.mov(rdi, DATA)?;
                a.mov(dword_ptr(rdi), 0x1d80)?;
                a.ldmxcsr(dword_ptr(rdi))?;
                a.mov(r14, from)?;
                a.mov(r15, divisors)?;
                a.mov(r11d, 300)?;
                a.set_label(&mut again)?;
                if packed {
                    a.movupd(xmm0, xmmword_ptr(r14))?;
                    a.movupd(xmm1, xmmword_ptr(r15))?;
                    a.divpd(xmm0, xmm1)?;
                    a.addpd(xmm2, xmm0)?;
                    a.movupd(xmmword_ptr(r14), xmm0)?;
                } else {
                    a.movsd_2(xmm0, qword_ptr(r14))?;
                    a.addsd(xmm0, qword_ptr(r14 + 8))?;
                    a.divsd(xmm0, qword_ptr(r15))?;
                    a.movsd_2(qword_ptr(r14), xmm0)?;
                    a.addsd(xmm2, xmm0)?;
                }
                a.add(r14, 16)?;
                a.add(r15, 16)?;
                a.inc(r10)?;
                a.dec(r11d)?;
                a.jnz(again)?;
                a.hlt()
            });
            for n in 0..300 {
                let zero = n % 7 == 5;
                rig.poke(from + 16 * n, (1.0 + n as f64).to_bits());
                rig.poke(from + 16 * n + 8, 2.5_f64.to_bits());
                rig.poke(divisors + 16 * n, if zero { 0 } else { 3_f64.to_bits() });
                rig.poke(divisors + 16 * n + 8, 1.5_f64.to_bits());
            }
            rig.gate(19, HANDLER, 0xe, 0);
            put(&mut rig, HANDLER, |a| {
                a.inc(r8d)?;
                a.mov(rax, 2_f64.to_bits())?;
                a.mov(qword_ptr(r15), rax)?;
                // A packed division has its divisors already.
                a.movupd(xmm1, xmmword_ptr(r15))?;
                a.iretq()
            });
            rig.cpu.cr4 |= 0x600;
            rig
        });
        let raised = (0..300).filter(|n| n % 7 == 5).count() as u64;
        assert_eq!((rig.cpu.regs[8], rig.cpu.regs[10]), (raised, 300), "packed {packed}, by {by}");
        let executed = stats(&rig).executed;
        assert!(executed < 3 * raised, "{executed}: the loop is translated");
    }
}
