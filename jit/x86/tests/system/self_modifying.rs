//! Code that changes while it has been translated: by stores, and by changes of its mapping.

use crate::common::*;
use crate::pair::{put, run, stats};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Fills with `mov eax, value; ret`.
fn returns(a: &mut CodeAssembler, value: i32) -> Result<(), IcedError> {
    a.mov(eax, value)?;
    a.ret()
}

/// A store to an instruction further down the same block is seen by it (SDM 3A 9.1.3).
#[test]
fn a_store_ahead_in_the_same_block() {
    for distance in [0, 1, 7, 40] {
        let rig = run(|| {
            let mut rig = Rig::long();
            rig.gates();
            put(&mut rig, CODE, |a| {
                let mut again = a.create_label();
                let mut target = a.create_label();
                a.mov(ecx, 20)?;
                a.xor(ebx, ebx)?;
                a.lea(rdi, ptr(target))?;
                a.set_label(&mut again)?;
                a.mov(dword_ptr(rdi + 1), ecx)?;
                for _ in 0..distance {
                    a.inc(r10)?;
                }
                a.set_label(&mut target)?;
                a.mov(eax, 1000)?;
                a.add(ebx, eax)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.hlt()
            });
            rig
        });
        assert_eq!(rig.cpu.regs[3], 210, "{distance}");
    }
}

/// A store to data beside code, on the same page, changes nothing and does not throw the code away.
#[test]
fn data_on_a_page_of_code() {
    let rig = run(|| {
        let mut rig = Rig::long();
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            a.mov(ecx, 500)?;
            a.mov(r8, CODE + 0x800)?;
            a.set_label(&mut again)?;
            a.add(dword_ptr(r8), ecx)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        });
        rig
    });
    assert_eq!(rig.peek(CODE + 0x800) as u32, 500 * 501 / 2);
    assert!(stats(&rig).invalidated == 0, "{:?}", stats(&rig));
}

/// An instruction that reaches into the next page sees stores to either part.
#[test]
fn an_instruction_across_pages_is_overwritten() {
    // `mov eax, imm32` begins this far before the end of its page.
    for before in 1..5 {
        let rig = run(|| {
            let mut rig = Rig::long();
            let target = CODE + 0x1000 - before;
            put(&mut rig, target, |a| returns(a, 5));
            put(&mut rig, CODE, |a| {
                let mut again = a.create_label();
                a.mov(r12, target)?;
                a.xor(ebx, ebx)?;
                a.mov(ecx, 10)?;
                a.set_label(&mut again)?;
                a.call(r12)?;
                a.add(ebx, eax)?;
                a.mov(byte_ptr(r12 + 1), cl)?;
                a.call(r12)?;
                a.add(ebx, eax)?;
                a.mov(byte_ptr(r12 + 4), 1)?;
                a.call(r12)?;
                a.add(rbx, rax)?;
                a.mov(dword_ptr(r12 + 1), 5)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.hlt()
            });
            rig
        });
        let sum: u64 = (1..=10).map(|n| 5 + n + (n | 1 << 24)).sum();
        assert_eq!(rig.cpu.regs[3], sum, "{before}");
    }
}

/// Linear address of a page that is mapped in two ways.
const WINDOW: u64 = 0x4000_0000;
const TABLE: u64 = TABLES + 0x8000;
const FIRST: u64 = 0x30_0000;
const SECOND: u64 = 0x30_2000;

/// A window of two 4-KiB pages at [`WINDOW`] onto [`FIRST`]; functions at both places return 1 and 2.
fn window(across: bool) -> Rig {
    let mut rig = Rig::long();
    rig.poke(TABLES + 0x1008, (TABLE + 0x1000) | 7);
    rig.poke(TABLE + 0x1000, TABLE | 7);
    for page in 0..2 {
        rig.poke(TABLE + 8 * page, FIRST + 0x1000 * page + 7);
    }
    let offset = if across { 0xfff } else { 0x100 };
    put(&mut rig, FIRST + offset, |a| returns(a, 1));
    put(&mut rig, SECOND + offset, |a| returns(a, 2));
    rig
}

/// Code that loses its permission to run faults where it goes on, though it had been translated and linked.
#[test]
fn code_that_is_taken_away_faults() {
    let rig = run(|| {
        let mut rig = window(false);
        rig.gates();
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            a.mov(r13, TABLE)?;
            a.mov(ecx, 3)?;
            a.set_label(&mut again)?;
            a.call(WINDOW + 0x100)?;
            a.add(ebx, eax)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            // No-execute.
            a.bts(qword_ptr(r13), 63)?;
            a.mov(rdx, WINDOW)?;
            a.invlpg(byte_ptr(rdx))?;
            a.jmp(again)
        });
        rig
    });
    assert_eq!((rig.cpu.rip(), rig.cpu.cr2, rig.cpu.regs[3]), (0x900f, WINDOW + 0x100, 3));
}

/// A compiler in the guest: the same place gets new code again and again, written in small stores, some of it the same.
#[test]
fn code_is_generated_again_and_again() {
    let rig = run(|| {
        let mut rig = Rig::long();
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            a.mov(rdi, DATA)?;
            a.mov(ecx, 100)?;
            a.xor(ebx, ebx)?;
            a.set_label(&mut again)?;
            // mov eax, ecx & 3; ret
            a.mov(byte_ptr(rdi), 0xb8)?;
            a.mov(edx, ecx)?;
            a.and(edx, 3)?;
            a.mov(dword_ptr(rdi + 1), edx)?;
            a.mov(byte_ptr(rdi + 5), 0xc3)?;
            a.call(rdi)?;
            a.add(ebx, eax)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        });
        rig
    });
    assert_eq!(rig.cpu.regs[3], 150);
}

/// Code that branches forward lead to is overwritten, a few times and so often that it is not watched any more.
#[test]
fn code_that_branches_lead_to_is_overwritten() {
    for every in [1, 8] {
        let rounds = 150_u32;
        let rig = run(|| {
            let mut rig = Rig::long();
            rig.gates();
            put(&mut rig, CODE, |a| {
                let mut again = a.create_label();
                let mut next = a.create_label();
                let mut odd = a.create_label();
                a.mov(ecx, rounds)?;
                a.xor(ebx, ebx)?;
                a.lea(rdi, ptr(odd))?;
                a.set_label(&mut again)?;
                a.test(ecx, 1)?;
                a.jnz(odd)?;
                a.inc(r8)?;
                a.set_label(&mut next)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.hlt()?;
                a.set_label(&mut odd)?;
                a.mov(eax, 1000)?;
                a.add(ebx, eax)?;
                a.test(ecx, 2 * every - 2)?;
                a.jnz(next)?;
                a.mov(dword_ptr(rdi + 1), ecx)?;
                a.jmp(next)
            });
            rig
        });
        let (mut sum, mut value) = (0_u32, 1000);
        for round in (1..=rounds).rev().filter(|round| round % 2 == 1) {
            sum = sum.wrapping_add(value);
            if round & (2 * every as u32 - 2) == 0 {
                value = round;
            }
        }
        assert_eq!(rig.cpu.regs[3] as u32, sum, "every {every}");
    }
}

/// A loop whose data straddles pages, so that it goes on in a translation without whole groups, and lies beside code, too, which is
/// written often for a while: afterwards all of it is run again.
#[test]
fn code_beside_data_and_data_across_pages() {
    let rig = run(|| {
        let mut rig = Rig::long();
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            let mut next = a.create_label();
            a.mov(rdi, DATA + 0xff0)?;
            a.mov(rsi, CODE + 0x800)?;
            a.mov(ecx, 2000)?;
            a.set_label(&mut again)?;
            a.mov(rax, qword_ptr(rdi))?;
            a.add(rax, qword_ptr(rdi + 8))?;
            a.inc(rax)?;
            a.add(qword_ptr(rdi + 0x18), rax)?;
            a.cmp(ecx, 1900)?;
            a.jb(next)?;
            a.mov(dword_ptr(rsi), ecx)?;
            a.set_label(&mut next)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        });
        rig
    });
    assert_eq!((rig.peek(DATA + 0x1008), rig.peek(CODE + 0x800) as u32), (2000, 1900));
    assert!(stats(&rig).entries < 400, "{:?}", stats(&rig));
}
