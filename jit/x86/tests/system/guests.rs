//! What translated code of guests does in place, and exits show.

use crate::common::*;
use crate::pair::{put, run, stats};
use iced_x86::code_asm::*;
use iced_x86::{Code, IcedError};
use ringworld_x86::control::efer;
use ringworld_x86::model::Model;
use std::sync::Arc;

const VMCB: u64 = 0x3_0000;
const NESTED_TABLES: u64 = 0x4_0000;
const GUEST: u64 = 0x5_0000;
/// Where the guest returns to.
const AFTER: u64 = 0x5_1000;
/// A stack that nested paging does not map, and one that it does.
const MISSING: u64 = 0x60_0100;
const THERE: u64 = 0x80_0100;
const ROUNDS: u64 = 8;
const HSAVE: u64 = 0xc001_0117;
const TSC_OFFSET: u64 = 0x1234_5678_9abc;

/// Offsets in the VMCB (APM 2 appendix B).
mod at {
    pub const INTERCEPTS_3: u64 = 0x10;
    pub const TSC_OFFSET: u64 = 0x50;
    pub const ASID: u64 = 0x58;
    pub const SHADOW: u64 = 0x68;
    pub const EXITCODE: u64 = 0x70;
    pub const NESTED: u64 = 0x90;
    pub const N_CR3: u64 = 0xb0;
    pub const ES: u64 = 0x400;
    pub const CS: u64 = 0x410;
    pub const EFER: u64 = 0x4d0;
    pub const CR4: u64 = 0x548;
    pub const CR3: u64 = 0x550;
    pub const CR0: u64 = 0x558;
    pub const DR7: u64 = 0x560;
    pub const DR6: u64 = 0x568;
    pub const RFLAGS: u64 = 0x570;
    pub const RIP: u64 = 0x578;
    pub const RSP: u64 = 0x5d8;
}

type Part = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// A host that runs a guest again and again: in turn with a stack that is there and without, and with interrupts off and on.
/// It keeps exit code and interrupt shadow of each round.
fn host(guest: Part) -> Rig {
    let mut rig = Rig::long();
    rig.cpu.model = Arc::new(Model::as_if_complete("EPYC"));
    rig.cpu.efer |= efer::SVME;
    rig.cpu.update_mode();
    // VMRUN, VMMCALL.
    rig.poke(VMCB + at::INTERCEPTS_3, 3);
    rig.poke(VMCB + at::TSC_OFFSET, TSC_OFFSET);
    rig.poke(VMCB + at::ASID, 1);
    rig.poke(VMCB + at::NESTED, 1);
    rig.poke(VMCB + at::N_CR3, NESTED_TABLES);
    for n in 0..4 {
        rig.poke(VMCB + at::ES + 16 * n, 0xffff_ffff << 32 | 0x0c93 << 16 | u64::from(sel::DATA0));
    }
    rig.poke(VMCB + at::CS, 0xffff_ffff << 32 | 0x0a9b << 16 | u64::from(sel::CODE64));
    let registers = [
        (at::EFER, rig.cpu.efer),
        (at::CR4, rig.cpu.cr4),
        (at::CR3, rig.cpu.cr3),
        (at::CR0, rig.cpu.cr0),
        (at::DR7, 0x400),
        (at::DR6, 0xffff_0ff0),
    ];
    for (at, value) in registers {
        rig.poke(VMCB + at, value);
    }
    rig.poke(NESTED_TABLES, (NESTED_TABLES + 0x1000) | 7);
    rig.poke(NESTED_TABLES + 0x1000, (NESTED_TABLES + 0x2000) | 7);
    for n in 0..8 {
        rig.poke(NESTED_TABLES + 0x2000 + 8 * n, (n << 21) | if n == MISSING >> 21 { 0 } else { 0x87 });
    }
    rig.poke(THERE, AFTER);
    rig.poke(THERE + 8, AFTER);
    put(&mut rig, GUEST, guest);
    put(&mut rig, AFTER, |a| {
        a.rdtsc()?;
        a.vmmcall()
    });
    put(&mut rig, CODE, |a| {
        let mut again = a.create_label();
        a.mov(ecx, HSAVE as u32)?;
        a.mov(eax, 0x7_0000)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(rbx, ROUNDS)?;
        a.set_label(&mut again)?;
        a.mov(qword_ptr(VMCB + at::RIP), GUEST as i32)?;
        a.mov(rax, MISSING)?;
        a.mov(rcx, THERE)?;
        a.test(bl, 1)?;
        a.cmovne(rax, rcx)?;
        a.mov(qword_ptr(VMCB + at::RSP), rax)?;
        // IF is bit 9.
        a.mov(eax, ebx)?;
        a.and(eax, 2)?;
        a.shl(eax, 8)?;
        a.or(eax, 2)?;
        a.mov(qword_ptr(VMCB + at::RFLAGS), rax)?;
        a.mov(eax, VMCB as u32)?;
        a.vmrun()?;
        a.mov(rax, qword_ptr(VMCB + at::EXITCODE))?;
        a.mov(rcx, qword_ptr(VMCB + at::SHADOW))?;
        a.mov(dword_ptr(rbx * 8 + DATA), eax)?;
        a.mov(dword_ptr(rbx * 8 + (DATA + 4)), ecx)?;
        a.dec(rbx)?;
        a.jne(again)?;
        a.hlt()
    });
    rig
}

/// An exit in the shadow of STI says so (APM 2 15.21.5); there is a shadow only if STI has set IF.
#[test]
fn an_exit_of_the_instruction_after_sti_shows_the_shadow() {
    let guests: &[Part] = &[
        |a| {
            a.sti()?;
            a.ret()
        },
        // One check for both accesses.
        |a| {
            a.sti()?;
            a.pop(rcx)?;
            a.ret()
        },
        |a| {
            a.sti()?;
            a.call(AFTER)
        },
        |a| {
            a.mov(ecx, AFTER as u32)?;
            a.sti()?;
            a.call(rcx)
        },
        |a| {
            a.sti()?;
            a.jmp(qword_ptr(rsp))
        },
        |a| {
            a.sti()?;
            a.mov(rcx, qword_ptr(rsp))?;
            a.jmp(rcx)
        },
    ];
    for (which, &guest) in guests.iter().enumerate() {
        let rig = run(|| host(guest));
        for round in 1..=ROUNDS {
            let (there, interrupts_were_on) = (round & 1 != 0, round & 2 != 0);
            let code = if there { 0x81 } else { 0x400 };
            let shadow = u64::from(!there && !interrupts_were_on);
            assert_eq!(rig.peek(DATA + 8 * round), code | shadow << 32, "guest {which}, round {round}");
        }
        let by_function = stats(&rig).by_code;
        assert_eq!(by_function[Code::Sti as usize], 0, "STI is in place");
        assert_eq!(by_function[Code::Rdtsc as usize], 0, "RDTSC is in place");
    }
}
