//! Returns that do not lead to where the call of the same stack pointer said.

use crate::common::*;
use crate::pair::{put, run, stats};
use iced_x86::code_asm::*;

const OTHER: u64 = 0x30_0000;

/// The code after a call is another one when its function returns.
#[test]
fn the_code_after_a_call_is_overwritten_by_the_callee() {
    let rig = run(|| {
        let mut rig = Rig::long();
        rig.gates();
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            a.xor(ebx, ebx)?;
            a.mov(ecx, 20)?;
            a.set_label(&mut again)?;
            a.call(OTHER)?;
            a.add(ebx, 1000)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        });
        put(&mut rig, OTHER, |a| {
            a.mov(rdx, qword_ptr(rsp))?;
            a.mov(dword_ptr(rdx + 2), ecx)?;
            a.ret()
        });
        rig
    });
    assert_eq!(rig.cpu.regs[3], 210);
}

/// Two stacks take turns: each return leads to where the other one was left.
#[test]
fn a_function_takes_another_stack() {
    const STACKS: u64 = 0x38_0000;
    let rig = run(|| {
        let mut rig = Rig::long();
        rig.gates();
        // Switches to the stack in RSI, and keeps the old one in RDI.
        put(&mut rig, OTHER, |a| {
            a.push(rbx)?;
            a.mov(rdi, rsp)?;
            a.mov(rsp, rsi)?;
            a.mov(rsi, rdi)?;
            a.pop(rbx)?;
            a.ret()
        });
        put(&mut rig, OTHER + 0x100, |a| {
            let mut again = a.create_label();
            a.mov(ebx, 1)?;
            a.set_label(&mut again)?;
            a.add(r8, rbx)?;
            a.inc(ebx)?;
            a.call(OTHER)?;
            a.jmp(again)
        });
        rig.poke(STACKS + 8, OTHER + 0x100);
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            a.mov(esi, STACKS as u32)?;
            a.mov(ebx, 30)?;
            a.set_label(&mut again)?;
            a.call(OTHER)?;
            a.dec(ebx)?;
            a.jnz(again)?;
            a.hlt()
        });
        rig
    });
    assert_eq!(rig.cpu.regs[8], 30 * 31 / 2);
    assert!(stats(&rig).executed < 50, "{}", stats(&rig).executed);
}

/// A function that the block goes on with returns elsewhere now and then; around it LOOP, and JRCXZ and LOOPNE.
#[test]
fn a_return_skips_its_caller() {
    let rig = run(|| {
        let mut rig = Rig::long();
        rig.gates();
        put(&mut rig, OTHER, |a| {
            let mut usual = a.create_label();
            a.test(cl, 3)?;
            a.jnz(usual)?;
            a.add(qword_ptr(rsp), 6)?;
            a.set_label(&mut usual)?;
            a.ret()
        });
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            a.xor(ebx, ebx)?;
            a.mov(ecx, 60)?;
            a.set_label(&mut again)?;
            a.call(OTHER)?;
            // Six bytes.
            a.add(ebx, 1000)?;
            a.inc(ebx)?;
            a.loop_(again)?;
            a.xor(ecx, ecx)?;
            let mut zero = a.create_label();
            a.jrcxz(zero)?;
            a.ud2()?;
            a.set_label(&mut zero)?;
            a.mov(ecx, 5)?;
            let mut count = a.create_label();
            a.set_label(&mut count)?;
            a.cmp(ecx, 3)?;
            a.loopne(count)?;
            a.hlt()
        });
        rig
    });
    assert_eq!((rig.cpu.regs[3], rig.cpu.regs[1]), (45 * 1000 + 60, 2));
}

/// The page that a function returns to is another one than the page that it was called from.
#[test]
fn the_page_of_the_caller_is_mapped_elsewhere_by_the_callee() {
    let rig = run(|| {
        let mut rig = Rig::long();
        rig.gates();
        let window = 0x4000_0000_u64;
        rig.poke(TABLES + 0x1008, 0x31_1000 | 7);
        rig.poke(0x31_1000, 0x31_0000 | 7);
        rig.poke(0x31_0000, 0x32_0000 | 7);
        for (page, add) in [(0x32_0000, 1), (0x32_1000, 100)] {
            put(&mut rig, page, |a| {
                a.mov(rax, OTHER)?;
                a.call(rax)?;
                a.add(ebx, add)?;
                a.ret()
            });
        }
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            a.xor(ebx, ebx)?;
            a.mov(ecx, 7)?;
            a.mov(r12, window)?;
            a.set_label(&mut again)?;
            a.call(r12)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        });
        // The other page each time.
        put(&mut rig, OTHER, |a| {
            a.mov(rdx, 0x31_0000_u64)?;
            a.xor(dword_ptr(rdx), 0x1000)?;
            a.invlpg(byte_ptr(r12))?;
            a.ret()
        });
        rig
    });
    assert_eq!(rig.cpu.regs[3], 4 * 100 + 3);
}

/// Stacks that share a slot, a stack pointer that is not aligned, and functions left without returning.
#[test]
fn stacks_are_switched_and_returns_skipped() {
    let rig = run(|| {
        let mut rig = Rig::long();
        rig.gates();
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            a.xor(ebx, ebx)?;
            a.mov(ecx, 12)?;
            a.set_label(&mut again)?;
            // The next stack: as deep, or between two slots.
            a.lea(rbp, ptr(rsp))?;
            a.lea(rsp, ptr(rsp - 0x8000 + 3))?;
            a.call(OTHER)?;
            a.add(ebx, 1)?;
            a.call(OTHER + 0x100)?;
            a.add(ebx, 10)?;
            a.lea(rsp, ptr(rbp))?;
            a.call(OTHER + 0x100)?;
            a.add(ebx, 100)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        });
        put(&mut rig, OTHER, |a| {
            // Calls on, and returns to the caller's caller.
            a.call(OTHER + 0x200)?;
            a.hlt()
        });
        put(&mut rig, OTHER + 0x100, |a| a.ret());
        put(&mut rig, OTHER + 0x200, |a| {
            a.add(rsp, 8)?;
            a.ret()
        });
        rig
    });
    assert_eq!(rig.cpu.regs[3], 12 * 111);
}

/// A return to address 0, which is what empty slots are about.
#[test]
fn a_return_to_address_zero() {
    let rig = run(|| {
        let mut rig = Rig::long();
        rig.gates();
        put(&mut rig, CODE, |a| {
            a.mov(ebx, 1)?;
            a.push(0)?;
            a.ret()
        });
        put(&mut rig, 0, |a| {
            a.add(ebx, 1)?;
            a.hlt()
        });
        rig
    });
    assert_eq!(rig.cpu.regs[3], 2);
}

/// Pushes and pops in a row, with other instructions between them that see the stack pointer or leave the block.
#[test]
fn pushes_and_pops_in_a_row() {
    let rig = run(|| {
        let mut rig = Rig::long();
        rig.gates();
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            let mut framed = a.create_label();
            let mut skip = a.create_label();
            a.mov(r13d, 25)?;
            a.xor(r12d, r12d)?;
            a.set_label(&mut again)?;
            a.push(rbp)?;
            a.mov(rbp, r13)?;
            a.push(r14)?;
            a.push(5)?;
            a.lea(rbx, qword_ptr(rsp + 8))?;
            a.push(rsp)?;
            a.push(rbx)?;
            a.pop(rdx)?;
            a.pop(r15)?;
            a.add(r12, rdx)?;
            a.sub(r12, r15)?;
            // A call of a function in the middle of a row.
            a.push(r15)?;
            a.push(r13)?;
            a.cpuid()?;
            a.pop(rsi)?;
            a.pop(r15)?;
            a.add(r12, rsi)?;
            // A branch that is taken now and then.
            a.push(r12)?;
            a.push(qword_ptr(rsp + 8))?;
            a.test(r13d, 7)?;
            a.jnz(skip)?;
            a.pop(rax)?;
            a.push(r13)?;
            a.set_label(&mut skip)?;
            a.pop(rax)?;
            a.pop(r12)?;
            a.add(r12, rax)?;
            a.mov(rdi, r12)?;
            a.call(framed)?;
            a.add(r12, rax)?;
            a.pop(rax)?;
            a.pop(r14)?;
            a.pop(rbp)?;
            a.dec(r13d)?;
            a.jnz(again)?;
            // The stack pointer from the stack.
            a.push(rsp)?;
            a.push(r12)?;
            a.pop(rax)?;
            a.pop(rsp)?;
            a.hlt()?;
            a.set_label(&mut framed)?;
            a.push(rbp)?;
            a.mov(rbp, rsp)?;
            a.sub(rsp, 0x20)?;
            a.mov(qword_ptr(rbp - 8), rdi)?;
            a.push(r13)?;
            a.push(rdi)?;
            a.pop(rax)?;
            a.and(rax, qword_ptr(rbp - 8))?;
            a.leave()?;
            a.ret()
        });
        rig
    });
    assert_ne!(rig.cpu.regs[12], 0);
}

/// Returns of a call at the end of the lower half of the address space: #GP at the return, with the stack pointer as it was.
#[test]
fn the_lower_half_ends_behind_a_call() {
    const CALL: u64 = (1 << 47) - 5;
    const FUNCTION: u64 = CALL - 0x800;
    const HANDLER: u64 = 0x1_8000;
    let rig = run(|| {
        let mut rig = Rig::long();
        rig.gates();
        rig.gate(13, HANDLER, 0xe, 0);
        // The last 2 MiB of the lower half are those of the data.
        let last = |table: u64| TABLES + table + 8 * 511;
        rig.poke(TABLES + 8 * 255, (TABLES + 0x1000) | 7);
        rig.poke(last(0x1000), (TABLES + 0x2000) | 7);
        rig.poke(last(0x2000), DATA | 0x87);
        let at = |linear: u64| DATA | linear & 0x1f_ffff;
        rig.load(at(CALL), &[0xe8, 0xfb, 0xf7, 0xff, 0xff]);
        rig.load(at(FUNCTION), &[0xff, 0xc3, 0xc3]);
        put(&mut rig, CODE, |a| {
            a.mov(ecx, 40)?;
            a.mov(rax, CALL)?;
            a.jmp(rax)
        });
        put(&mut rig, HANDLER, |a| {
            let mut done = a.create_label();
            // RIP and RSP in the frame behind the error code.
            a.add(r10, qword_ptr(rsp + 8))?;
            a.add(r11, qword_ptr(rsp + 32))?;
            a.mov(rsp, STACK)?;
            a.dec(ecx)?;
            a.jz(done)?;
            a.mov(rax, CALL)?;
            a.jmp(rax)?;
            a.set_label(&mut done)?;
            a.hlt()
        });
        rig
    });
    let registers = [3, 10, 11].map(|n: usize| rig.cpu.regs[n]);
    assert_eq!(registers, [40, 40_u64.wrapping_mul(FUNCTION + 2), 40 * (STACK - 8)]);
}

/// Functions, tails that are jumped to, and their returns at one place of many pages, which take turns in the near table of the jump cache:
/// the far one knows them.
#[test]
fn functions_at_one_place_of_many_pages() {
    const FUNCTIONS: u64 = 0x40_0000;
    const COUNT: u64 = 40;
    let rig = run(|| {
        let mut rig = Rig::long();
        rig.gates();
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            a.xor(ebx, ebx)?;
            a.mov(ecx, 12 * COUNT as i32)?;
            a.mov(esi, DATA as i32)?;
            a.xor(edi, edi)?;
            a.set_label(&mut again)?;
            a.call(qword_ptr(rsi + rdi * 8))?;
            a.add(edi, 7)?;
            a.mov(eax, edi)?;
            a.sub(eax, COUNT as i32)?;
            a.cmovae(edi, eax)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        });
        for n in 0..COUNT {
            let at = FUNCTIONS + (n << 16) + 0x120;
            put(&mut rig, at, |a| {
                a.add(ebx, n as i32)?;
                a.mov(rdx, at + 0x80)?;
                a.jmp(rdx)
            });
            put(&mut rig, at + 0x80, |a| {
                a.add(ebx, 1)?;
                a.ret()
            });
            rig.poke(DATA + 8 * n, at);
        }
        rig
    });
    let calls = 12 * COUNT;
    assert_eq!(rig.cpu.regs[3], 12 * (COUNT * (COUNT - 1) / 2) + calls);
    let executed = stats(&rig).executed;
    assert!(executed < calls / 4, "{executed} by their function");
}
