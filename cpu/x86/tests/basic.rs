//! The processor end to end: loops, faults, privilege, self-modifying code.

mod common;
use common::*;
use iced_x86::code_asm::*;
use ringworld_x86::interp::RunEnd;
use ringworld_x86::native::NoNative as Native;

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
fn an_instruction_may_run_from_memory_into_a_device() {
    let mut rig = Rig::long();
    // `or eax, imm8` in the last two bytes of memory; its immediate comes from where nothing answers: all ones.
    let end = 64 << 20;
    rig.load(end - 2, &[0x83, 0xc8]);
    rig.cpu.set_rip(end - 2);
    assert_eq!(rig.run(1), RunEnd::Limit);
    assert_eq!((rig.cpu.regs[0], rig.cpu.rip()), (0xffff_ffff, end + 1));
}
