//! x87 and MMX instructions on the host's unit: what it holds comes and goes, and the guest's pointers are its own.

use crate::common::*;
use crate::pair::{put, run, stats};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ringworld_x86::control::{cr0, cr4};
use ringworld_x86::model::Model;
use std::sync::Arc;

/// A long-mode machine of a model with this code.
fn program(model: &str, f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Rig {
    let mut rig = Rig::long();
    // Handlers that halt, for all exceptions.
    rig.gates();
    rig.cpu.cr0 |= cr0::NE;
    rig.cpu.model = Arc::new(Model::parse(model).expect("a model"));
    for n in 0..0x800 {
        rig.poke(DATA + 8 * n, (n as f64 * 1.25 - 77.0).to_bits());
    }
    put(&mut rig, CODE, f);
    rig
}

/// Operands of all kinds along two pages, one that straddles; a function in between; the environment at the end.
#[test]
fn loops_leave_what_the_functions_leave() {
    for model in ["max", "qemu64", "EPYC"] {
        let rig = run(|| {
            program(model, |a| {
                let (mut again, mut below) = (a.create_label(), a.create_label());
                a.fninit()?;
                a.mov(rsi, DATA + 0xf00)?;
                a.mov(rdi, DATA + 0x2000)?;
                a.mov(ecx, 40)?;
                a.fldz()?;
                a.set_label(&mut again)?;
                a.fld(qword_ptr(rsi))?;
                a.fmul(dword_ptr(rsi + 4))?;
                a.fild(word_ptr(rsi + 2))?;
                a.faddp(st1, st0)?;
                a.fcomi(st0, st1)?;
                a.jb(below)?;
                a.fsqrt()?;
                a.set_label(&mut below)?;
                a.fadd_2(st1, st0)?;
                a.fnstsw(ax)?;
                a.mov(word_ptr(rdi + 10), ax)?;
                a.fstp(tbyte_ptr(rdi))?;
                a.test(ecx, 7)?;
                let mut plain = a.create_label();
                a.jnz(plain)?;
                a.fscale()?;
                a.fnstenv(ptr(rdi + 0x800))?;
                a.set_label(&mut plain)?;
                a.add(rsi, 13)?;
                a.add(rdi, 16)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.fxsave(ptr(DATA + 0x3000))?;
                a.fxsave64(ptr(DATA + 0x3400))?;
                a.hlt()
            })
        });
        assert!(stats(&rig).executed < 2000, "{model}: {}", stats(&rig).executed);
    }
}

/// An exception that the control word comes to unmask in the middle of a block: #MF at the next instruction that waits.
#[test]
fn unmasked_exceptions_wait_for_the_next_instruction() {
    for (control, reached) in [(0x37f, 1), (0x37b, 0)] {
        let rig = run(|| {
            program("max", |a| {
                a.fninit()?;
                a.mov(r15, DATA)?;
                a.mov(dword_ptr(r15), control)?;
                a.xor(ebx, ebx)?;
                a.fld1()?;
                a.fldz()?;
                a.fldcw(word_ptr(r15))?;
                a.fdivp(st1, st0)?;
                a.fnstsw(word_ptr(r15 + 8))?;
                a.wait()?;
                a.mov(ebx, 1)?;
                a.hlt()
            })
        });
        assert_eq!((rig.cpu.regs[3], rig.cpu.x87.status & 0x3f), (reached, 4));
    }
}

/// Rounding and precision of one control word after the other.
#[test]
fn control_words_round_as_they_say() {
    for control in [0x37f, 0x77f, 0xb7f, 0xf7f, 0x07f, 0x27f, 0xe7f] {
        run(|| {
            program("max", |a| {
                let mut again = a.create_label();
                a.fninit()?;
                a.mov(r15, DATA)?;
                a.mov(rdi, DATA + 0x1ff0)?;
                a.mov(ecx, 12)?;
                a.set_label(&mut again)?;
                a.fnstcw(word_ptr(r15 + 2))?;
                a.mov(word_ptr(r15), control)?;
                a.fldcw(word_ptr(r15))?;
                a.fld1()?;
                a.fld(qword_ptr(r15 + rcx * 8))?;
                a.fdivp(st1, st0)?;
                a.fld(st0)?;
                a.frndint()?;
                a.fistp(qword_ptr(rdi))?;
                a.fldcw(word_ptr(r15 + 2))?;
                a.fstp(tbyte_ptr(rdi + 8))?;
                a.add(rdi, 18)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.hlt()
            })
        });
    }
}

/// MMX registers are the x87 unit's; what is on its stack then, and after EMMS.
#[test]
fn mmx_and_x87_share_their_registers() {
    let rig = run(|| {
        program("max", |a| {
            let mut again = a.create_label();
            a.fninit()?;
            a.mov(rsi, DATA + 0xfc0)?;
            a.mov(ecx, 30)?;
            a.set_label(&mut again)?;
            a.fld(qword_ptr(rsi))?;
            a.fldpi()?;
            a.movq(mm3, qword_ptr(rsi + 3))?;
            a.paddw(mm3, qword_ptr(rsi + 8))?;
            a.pxor(mm1, mm3)?;
            a.pmovmskb(eax, mm1)?;
            a.add(ebx, eax)?;
            a.movq(qword_ptr(rsi), mm1)?;
            a.movd(edx, mm3)?;
            a.fnstsw(word_ptr(rsi + 0x1000))?;
            a.emms()?;
            a.fld(tbyte_ptr(rsi + 1))?;
            a.fstp(qword_ptr(rsi + 0x1008))?;
            a.add(rsi, 5)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        })
    });
    assert!(stats(&rig).executed < 1000, "{}", stats(&rig).executed);
}

/// Gathers of all sizes: whole masks, others, and elements that straddle or are nowhere.
#[test]
fn gathers_are_all_or_nothing() {
    let rig = run(|| {
        let mut rig = program("max", |a| {
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
        program("max", |a| {
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
