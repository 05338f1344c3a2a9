//! The state hash: everything that decides what the processor does next, without caches and statistics.

use crate::Cpu;
use core::hash::Hash;
use ringworld_core::StateHasher;

impl Cpu {
    /// Adds the processor's state to `hasher`.
    pub fn hash_state(&self, hasher: &mut StateHasher) {
        hasher.add(&self.regs[..17]);
        hasher.add(&self.flags.get());
        hasher.add(&(self.icount, self.clock.skipped, self.random));
        hasher.add(&(self.zmm, self.k, self.mxcsr, self.x87));
        hasher.add(&(self.seg, self.ldtr, self.tr, self.gdtr, self.idtr));
        hasher.add(&(self.cr0, self.cr2, self.cr3, self.cr4, self.efer, self.xcr0, self.pkru));
        hasher.add(&(self.pdptes, self.dr));
        self.msrs.hash(hasher);
        self.lapic.hash(hasher);
        hasher.add(&(self.cpl, self.activity, self.shadow, self.pending_db, self.monitor));
        hasher.add(&(self.nmi_blocked, self.nmi_pending, self.smi_pending, self.init_pending, self.smm, self.intr));
    }
}
