//! x87 and MMX instructions on the host's unit: what it holds comes and goes, and the guest's pointers are its own.

use crate::common::*;
use crate::pair::{put, run, stats};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ringworld_x86::control::cr0;
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

/// Loops some of whose instructions raise what is unmasked: the handler sees which one, and what it leaves. Operands come
/// from memory or registers, along two pages; what follows waits, or does not, or clears the exception, or masks it.
#[test]
fn unmasked_exceptions_in_loops() {
    const HANDLER: u64 = 0x1_8000;
    const ROUNDS: u32 = 64;
    // Invalid operation; denormal operand and division by zero; overflow and underflow; precision.
    for unmasked in [0x01, 0x06, 0x18, 0x20] {
        for (n, model) in ["max", "qemu64", "EPYC"].into_iter().enumerate() {
            let rig = run(|| {
                let mut rig = program(model, |a| {
                    let mut again = a.create_label();
                    a.fninit()?;
                    a.mov(r15, DATA)?;
                    a.mov(dword_ptr(r15), 0x37f & !unmasked)?;
                    a.fldcw(word_ptr(r15))?;
                    a.mov(rsi, DATA + 0xf00)?;
                    a.mov(rdi, DATA + 0x8000)?;
                    a.mov(ecx, ROUNDS)?;
                    a.set_label(&mut again)?;
                    a.fld(qword_ptr(rsi))?;
                    a.fdiv(qword_ptr(rsi + 8))?;
                    a.fmul(dword_ptr(rsi + 4))?;
                    a.fld(tbyte_ptr(rsi + 0x100))?;
                    a.faddp(st1, st0)?;
                    a.fnstsw(ax)?;
                    a.add(rbx, rax)?;
                    a.fst(dword_ptr(rdi))?;
                    a.fistp(qword_ptr(rdi + 8))?;
                    match n {
                        0 => a.wait()?,
                        1 => a.fnclex()?,
                        _ => {
                            a.fldcw(word_ptr(rsi + 0x200))?;
                            a.fldcw(word_ptr(r15))?;
                        }
                    }
                    a.pxor(mm1, mm2)?;
                    a.emms()?;
                    a.add(rsi, 8)?;
                    a.add(rdi, 16)?;
                    a.dec(ecx)?;
                    a.jnz(again)?;
                    a.hlt()
                });
                // Numbers large and small, NaNs, zeros, denormals; a control word at every eighth byte of one page.
                for n in 0..0x400_u64 {
                    let kind = match n % 11 {
                        3 => 0,
                        5 => 3,
                        7 => f64::MAX.to_bits() - n,
                        8 => 0x7ff4_0000_0000_0001,
                        9 => f64::MIN_POSITIVE.to_bits() + n,
                        _ => (n as f64 * 1.25 - 77.0).to_bits(),
                    };
                    rig.poke(DATA + 8 * n, kind);
                }
                rig.gate(16, HANDLER, 0xe, 0);
                put(&mut rig, HANDLER, |a| {
                    a.inc(r8d)?;
                    a.fnstenv(ptr(DATA + 0x7000))?;
                    a.mov(rax, qword_ptr(DATA + 0x700c))?;
                    a.add(r9, rax)?;
                    a.mov(rax, qword_ptr(DATA + 0x7014))?;
                    a.xor(r10, rax)?;
                    a.rol(r10, 1)?;
                    a.fnclex()?;
                    a.fldcw(word_ptr(r15))?;
                    a.iretq()
                });
                rig
            });
            let raised = rig.cpu.regs[8];
            assert!(raised > 0 || n == 1, "{model}, {unmasked:#x}");
            let executed = stats(&rig).executed;
            assert!(executed < 7 * raised + 300, "{model}, {unmasked:#x}: {executed}, {raised}");
        }
    }
}
