//! Loops over memory: groups that move, registers that are lent, ways out in the middle, and accesses that reach into the next
//! page.

use crate::common::*;
use crate::pair::{put, run, stats};
use iced_x86::code_asm::*;
use iced_x86::{Code, IcedError};

/// A long-mode machine with this code.
fn program(f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Rig {
    let mut rig = Rig::long();
    for n in 0..0x800 {
        rig.poke(DATA + 8 * n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    put(&mut rig, CODE, f);
    rig
}

/// Three arrays off registers that move, one off an index; a way out in the middle is taken now and then, and all arrays
/// reach new pages at different rounds, two of them with accesses that straddle.
#[test]
fn arrays_cross_pages_at_their_own_rounds() {
    let rig = run(|| {
        program(|a| {
            let (mut again, mut other, mut outer) = (a.create_label(), a.create_label(), a.create_label());
            a.mov(r8d, 2)?;
            a.set_label(&mut outer)?;
            a.mov(rsi, DATA + 0xf03)?;
            a.mov(rdi, DATA + 0x1f80)?;
            a.mov(rbx, DATA + 0x2400)?;
            a.xor(edx, edx)?;
            a.set_label(&mut again)?;
            a.mov(rax, qword_ptr(rsi))?;
            a.add(qword_ptr(rdi + 4), rax)?;
            a.xor(rax, qword_ptr(rbx + rdx * 8 + 16))?;
            a.mov(dword_ptr(rbx + rdx * 8), eax)?;
            a.add(r9, rax)?;
            a.add(rsi, 8)?;
            a.add(rdi, 16)?;
            a.inc(rdx)?;
            a.test(al, 0x1f)?;
            a.je(other)?;
            a.cmp(rdx, 100)?;
            a.jne(again)?;
            a.dec(r8)?;
            a.jne(outer)?;
            a.hlt()?;
            a.set_label(&mut other)?;
            // What the loop does not use is itself again.
            a.lea(rbp, ptr(rbp + r12 + 1))?;
            a.lea(r12, ptr(r12 + rbp * 2))?;
            a.lea(r13, ptr(r13 + r12))?;
            a.cmp(rdx, 100)?;
            a.jb(again)?;
            a.dec(r8)?;
            a.jne(outer)?;
            a.hlt()
        })
    });
    assert_eq!((rig.cpu.regs[8], rig.cpu.regs[2]), (0, 100));
    assert_ne!(rig.cpu.regs[13], 0);
}

/// Downwards, and by steps that are no powers of two.
#[test]
fn arrays_are_walked_downwards_and_by_odd_steps() {
    for (up, down) in [(24, 8), (40, 72), (2040, 2056), (4096, 4), (1, 3000)] {
        let rig = run(|| {
            program(|a| {
                let mut again = a.create_label();
                a.mov(rsi, DATA)?;
                a.mov(rdi, DATA + 0x1_0000)?;
                a.mov(ecx, 20)?;
                a.set_label(&mut again)?;
                a.mov(rax, qword_ptr(rsi + 5))?;
                a.lea(rbx, ptr(rbx + rax * 2))?;
                a.mov(dword_ptr(rsi), ebx)?;
                a.add(qword_ptr(rdi - 4), rbx)?;
                a.add(rsi, up)?;
                a.sub(rdi, down)?;
                a.dec(rcx)?;
                a.jne(again)?;
                a.hlt()
            })
        });
        assert_eq!(rig.cpu.regs[6], DATA + 20 * up as u64);
    }
}

/// Base and index that move far, against each other.
#[test]
fn registers_move_far_and_back() {
    const FAR: i32 = 0x3fff_0000;
    let rig = run(|| {
        program(|a| {
            let mut again = a.create_label();
            a.mov(rsi, DATA)?;
            a.mov(r10, rsi)?;
            a.xor(edx, edx)?;
            a.mov(ecx, 30)?;
            a.set_label(&mut again)?;
            a.lea(rsi, ptr(rsi + FAR))?;
            a.lea(rdx, ptr(rdx - FAR))?;
            a.lea(rsi, ptr(rsi + FAR))?;
            a.lea(rdx, ptr(rdx - FAR))?;
            a.lea(rsi, ptr(rsi + FAR))?;
            a.lea(rdx, ptr(rdx - FAR))?;
            a.mov(rax, qword_ptr(rsi + rdx + 8))?;
            a.add(qword_ptr(rsi + rdx), rax)?;
            a.sub(rsi, FAR)?;
            a.sub(rsi, FAR)?;
            a.sub(rsi, FAR)?;
            a.add(rbx, qword_ptr(r10 + 16))?;
            a.xor(qword_ptr(rsi + 24), rbx)?;
            a.add(rdx, FAR)?;
            a.add(rdx, FAR)?;
            a.add(rdx, FAR)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.hlt()
        })
    });
    assert_eq!((rig.cpu.regs[6], rig.cpu.regs[2]), (DATA, 0));
}

/// A loop of three rounds in one, with a count that a constant starts and one that the registers tell.
#[test]
fn short_loops_in_loops_have_all_their_rounds() {
    let rig = run(|| {
        program(|a| {
            let (mut outer, mut one, mut two) = (a.create_label(), a.create_label(), a.create_label());
            a.mov(rbx, DATA)?;
            a.mov(r15, DATA + 0x4000)?;
            a.mov(r14d, 40)?;
            a.set_label(&mut outer)?;
            a.xor(edx, edx)?;
            a.set_label(&mut one)?;
            a.mov(rax, qword_ptr(rbx + rdx))?;
            a.add(rdx, 8)?;
            a.add(qword_ptr(r15 + rdx - 8), rax)?;
            a.cmp(rdx, 24)?;
            a.jne(one)?;
            a.mov(r10, rbx)?;
            a.lea(r11, ptr(rbx + 24))?;
            a.set_label(&mut two)?;
            a.mov(eax, dword_ptr(r10 + 4))?;
            a.add(r10, 8)?;
            a.sub(dword_ptr(r10 - 8), eax)?;
            a.cmp(r11, r10)?;
            a.jne(two)?;
            a.add(rbx, 0x68)?;
            a.dec(r14)?;
            a.jne(outer)?;
            a.hlt()
        })
    });
    assert_eq!(rig.cpu.regs[3], DATA + 40 * 0x68);
}

/// Vectors that reach into the next page are read and written in place once both pages are known; what the other page holds
/// stays.
#[test]
fn vectors_reach_into_the_next_page() {
    let wide = std::is_x86_feature_detected!("avx");
    let rig = run(|| {
        program(|a| {
            let (mut again, mut next) = (a.create_label(), a.create_label());
            if wide {
                a.mov(rax, cr4)?;
                a.or(rax, 1 << 18)?;
                a.mov(cr4, rax)?;
                a.xor(ecx, ecx)?;
                a.xor(edx, edx)?;
                a.mov(eax, 7)?;
                a.xsetbv()?;
            }
            a.mov(ebx, 8)?;
            a.set_label(&mut again)?;
            a.mov(rdi, DATA + 0xfd1)?;
            a.mov(rsi, 0x2000_u64)?;
            a.mov(ecx, 16)?;
            a.set_label(&mut next)?;
            a.movups(xmm0, xmmword_ptr(rdi + 7))?;
            a.movdqu(xmm1, xmmword_ptr(rdi + rsi))?;
            a.pxor(xmm0, xmm1)?;
            a.movdqu(xmmword_ptr(rdi + rsi), xmm0)?;
            if wide {
                a.vpxor(xmm2, xmm0, xmmword_ptr(rdi + 9))?;
                a.vmovups(ymm3, ymmword_ptr(rdi + rsi - 20))?;
                a.vmovups(ymmword_ptr(rdi - 1), ymm3)?;
                a.vzeroupper()?;
            }
            a.add(rdi, 3)?;
            a.dec(rcx)?;
            a.jne(next)?;
            a.dec(rbx)?;
            a.jne(again)?;
            a.hlt()
        })
    });
    let stats = stats(&rig);
    for code in [Code::Movups_xmm_xmmm128, Code::Movdqu_xmmm128_xmm, Code::VEX_Vmovups_ymmm256_ymm] {
        let count = stats.by_code[code as usize];
        // There are dozens of such accesses.
        assert!(count < 12, "{code:?} was run by its function {count} times");
    }
}
