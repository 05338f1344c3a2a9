//! Counters, stepping on branches, system-management mode: whole runs.

mod common;
use common::*;
use iced_x86::code_asm::*;
use ringworld_core::VirtualTime;
use ringworld_x86::Activity;
use ringworld_x86::interp::{NoObserver, RunEnd};
use ringworld_x86::native::NoNative as Native;

const BTF: u64 = 2;
const DEBUGCTL: u32 = 0x1d9;

impl Rig {
    fn wrmsr(&mut self, index: u32, value: u64) {
        self.cpu.write_msr(index, value).expect("a register that takes the value");
    }

    /// Runs as a machine does: never past the processor's next timer.
    fn run_with_timers(&mut self, count: u64) {
        let limit = self.cpu.icount + count;
        while self.cpu.icount < limit && self.cpu.activity == Activity::Active {
            if self.cpu.next_timer() <= self.cpu.now() {
                self.cpu.advance_timers();
            }
            let next = match self.cpu.next_timer() {
                VirtualTime::NEVER => limit,
                moment => self.cpu.clock.instructions_at(moment).min(limit),
            };
            self.interpreter.run(&mut self.cpu, next, &mut NoObserver);
        }
    }
}

/// SDM 3B 20.2: a counter that overflows sets its status bit and raises the LVT's interrupt, at the exact instruction.
#[test]
fn a_performance_counter_interrupts_at_its_overflow() {
    let mut rig = Rig::long();
    rig.gates();
    // x2APIC mode, enabled, LVT performance entry with vector 0x1f (the last of the rig's gates).
    rig.wrmsr(0x1b, 0xfee0_0d00);
    rig.wrmsr(0x80f, 0x1ff);
    rig.wrmsr(0x834, 0x1f);
    rig.wrmsr(0xc1, 0xffff_ffff - 999);
    rig.wrmsr(0x186, 0x0053_00c0);
    rig.wrmsr(0x38f, 1);
    rig.cpu.flags.set(0x202);
    rig.assemble(CODE, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.inc(rbx).unwrap();
        a.jmp(again).unwrap();
    });
    let start = rig.cpu.icount;
    rig.run_with_timers(10_000);
    assert_eq!(rig.cpu.activity, Activity::Halted);
    assert_eq!(rig.cpu.rip(), 0x9000 + 0x1f + 1);
    // 1000 instructions of the loop, and the handler's HLT.
    assert_eq!((rig.cpu.icount - start, rig.cpu.regs[3]), (1001, 500));
    assert_eq!(rig.cpu.read_msr(0x38e).ok(), Some(1));
    assert_eq!(rig.cpu.read_msr(0x834).ok(), Some(0x1_001f), "the entry masks itself");
}

/// SDM 3B 18.4.3: with IA32_DEBUGCTL.BTF, TF traps after taken branches only, and the trap clears BTF.
#[test]
fn single_stepping_on_branches() {
    let mut rig = Rig::long();
    rig.gates();
    rig.assemble(CODE, |a| {
        let mut there = a.create_label();
        let mut not_taken = a.create_label();
        a.nop().unwrap();
        a.xor(eax, eax).unwrap();
        a.jnz(not_taken).unwrap();
        a.set_label(&mut not_taken).unwrap();
        a.jmp(there).unwrap();
        a.ud2().unwrap();
        a.set_label(&mut there).unwrap();
        a.nop().unwrap();
    });
    // nop, xor, jnz and jmp take 1, 2, 2 and 2 bytes, ud2 two more.
    rig.cpu.flags.set(0x102);
    rig.wrmsr(DEBUGCTL, BTF);
    assert_eq!(rig.fault(), Some(1));
    assert_eq!(rig.peek(rig.cpu.regs[4]), CODE + 9);
    assert_eq!(rig.cpu.read_msr(DEBUGCTL).ok(), Some(0));
    assert_ne!(rig.cpu.dr[6] & 1 << 14, 0);
}

/// APM 2 chapter 10: an SMI between two instructions, its handler, and back.
#[test]
fn an_smi_is_served_between_instructions() {
    let mut rig = Rig::long();
    rig.assemble(CODE, |a| {
        a.mov(ecx, 3).unwrap();
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(again).unwrap();
        a.hlt().unwrap();
    });
    // At SMBASE + 0x8000, in 16-bit code: mov byte [0x5000], 0x5a; rsm.
    rig.load(0x3_8000, &[0xc6, 0x06, 0x00, 0x50, 0x5a, 0x0f, 0xaa]);
    rig.run(2);
    rig.cpu.smi_pending = true;
    assert_eq!(rig.run(1000), RunEnd::Inactive);
    assert_eq!((rig.peek(0x5000) & 0xff, rig.cpu.regs[1], rig.cpu.counters.smis), (0x5a, 0, 1));
    // mov, three times dec and jnz, hlt, and the handler's two.
    assert_eq!(rig.cpu.icount, 10);
    assert!(rig.cpu.long64() && !rig.cpu.smm);

    // From HLT, and back into it (the auto-halt restart byte).
    rig.cpu.smi_pending = true;
    assert_eq!(rig.run(1000), RunEnd::Inactive);
    assert_eq!((rig.cpu.activity, rig.cpu.counters.smis, rig.cpu.icount), (Activity::Halted, 2, 12));
}

/// Snapshots: a state that is put into another processor goes on alike.
#[test]
fn a_snapshot_goes_on_alike() {
    let run = |rig: &mut Rig| {
        rig.run(500);
        rig.cpu.state()
    };
    let mut one = Rig::long();
    one.assemble(CODE, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.rdtsc().unwrap();
        a.add(rbx, rax).unwrap();
        a.imul_3(rbx, rbx, 1_000_003).unwrap();
        a.jmp(again).unwrap();
    });
    one.run(123);
    let mut bytes = [0; 64];
    one.cpu.memory.read(ringworld_core::GuestPhys(CODE), &mut bytes).expect("in memory");
    let mut other = Rig::long();
    other.load(CODE, &bytes);
    other.cpu.set_state(&one.cpu.state());
    assert_eq!(run(&mut one), run(&mut other));
    assert_eq!(one.cpu.icount, 623);
}
