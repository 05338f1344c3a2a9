//! The processor end to end: loops, faults, privilege, self-modifying code.

mod common;
use common::*;
use iced_x86::code_asm::*;
use ringworld_x86::interp::RunEnd;

#[test]
fn a_loop_runs_and_counts_exactly() {
    let mut rig = Rig::long();
    rig.assemble(CODE, |a| {
        let mut again = a.create_label();
        a.xor(eax, eax).unwrap();
        a.mov(ecx, 1000).unwrap();
        a.set_label(&mut again).unwrap();
        a.add(eax, ecx).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(again).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(rig.run(1_000_000), RunEnd::Inactive);
    assert_eq!(rig.cpu.regs[0], 500_500);
    assert_eq!(rig.cpu.icount, 2 + 3000 + 1);
}

/// The machine asks with a limit of zero whether a processor is idle.
#[test]
fn an_inactive_processor_says_so_without_a_budget() {
    let mut rig = Rig::long();
    rig.gates();
    rig.assemble(CODE, |a| a.hlt().unwrap());
    assert_eq!(rig.run(0), RunEnd::Limit);
    assert_eq!(rig.run(1), RunEnd::Inactive);
    assert_eq!(rig.run(0), RunEnd::Inactive);
    rig.cpu.nmi_pending = true;
    assert_eq!(rig.run(0), RunEnd::Limit);
    assert_eq!(rig.cpu.icount, 1);
}

#[test]
fn speed() {
    let mut rig = Rig::long();
    rig.assemble(CODE, |a| {
        let mut again = a.create_label();
        let mut f = a.create_label();
        let mut skip = a.create_label();
        a.mov(rdi, DATA).unwrap();
        a.xor(eax, eax).unwrap();
        a.mov(ecx, 10_000_000).unwrap();
        a.set_label(&mut again).unwrap();
        a.mov(edx, ecx).unwrap();
        a.and(edx, 0xfff).unwrap();
        a.add(eax, dword_ptr(rdi + rdx * 4)).unwrap();
        a.mov(dword_ptr(rdi + rdx * 4), eax).unwrap();
        a.test(eax, 1).unwrap();
        a.jz(skip).unwrap();
        a.call(f).unwrap();
        a.set_label(&mut skip).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(again).unwrap();
        a.hlt().unwrap();
        a.set_label(&mut f).unwrap();
        a.push(rbx).unwrap();
        a.lea(rbx, qword_ptr(rax + rdx)).unwrap();
        a.xor(rax, rbx).unwrap();
        a.pop(rbx).unwrap();
        a.ret().unwrap();
    });
    let t = std::time::Instant::now();
    assert_eq!(rig.run(1_000_000_000), RunEnd::Inactive);
    let s = t.elapsed().as_secs_f64();
    println!("{} insns {:.1} MIPS", rig.cpu.icount, rig.cpu.icount as f64 / s / 1e6);
}
