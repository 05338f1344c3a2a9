//! The state hash of a CPU: its architectural state, without caches and statistics.

use ringworld_core::StateHasher;
use ringworld_x86::Cpu;

/// Adds the CPU's architectural state.
pub(crate) fn add_cpu(cpu: &Cpu, hasher: &mut StateHasher) {
    hasher.add(&cpu.regs[..17]);
    hasher.add(&cpu.flags.get());
    hasher.add(&(cpu.icount, cpu.clock.skipped));
    hasher.add(&(cpu.zmm, cpu.k, cpu.mxcsr, cpu.x87));
    hasher.add(&(cpu.seg, cpu.ldtr, cpu.tr, cpu.gdtr, cpu.idtr));
    hasher.add(&(cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.efer, cpu.xcr0, cpu.pkru));
    hasher.add(&(cpu.pdptes, cpu.dr, &cpu.msrs, &cpu.lapic));
    hasher.add(&(cpu.cpl, cpu.activity, cpu.shadow, cpu.pending_db));
    hasher.add(&(cpu.nmi_blocked, cpu.nmi_pending, cpu.smi_pending, cpu.smm, cpu.intr));
}
