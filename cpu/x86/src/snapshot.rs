//! The architectural state of a processor in one piece: for snapshots, and for the state hash.

use crate::flags::Flags;
use crate::insn::REG_RIP;
use crate::lapic::Lapic;
use crate::msr::Msrs;
use crate::segment::Segment;
use crate::state::{Activity, Monitor, Shadow, TableRegister, boundary};
use crate::x87::X87;
use crate::{Cpu, state::gpr};
use core::hash::Hash;
use ringworld_core::StateHasher;
use serde::{Deserialize, Serialize};

/// Everything of a processor that the guest could ever notice. Two processors of one model with equal states go on
/// alike. Fields are those of [`Cpu`].
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CpuState {
    pub general: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub icount: u64,
    /// [`ringworld_core::Clock::skipped`].
    pub skipped: u64,
    pub cpl: u8,
    pub zmm: [[u64; 8]; 32],
    pub k: [u64; 8],
    pub mxcsr: u32,
    pub x87: X87,
    pub seg: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableRegister,
    pub idtr: TableRegister,
    /// CR0, CR2, CR3, CR4.
    pub control: [u64; 4],
    pub efer: u64,
    pub xcr0: u64,
    pub pkru: u32,
    pub pdptes: [u64; 4],
    pub dr: [u64; 8],
    pub msrs: Msrs,
    pub lapic: Lapic,
    pub activity: Activity,
    pub shadow: Shadow,
    pub pending_db: u64,
    pub nmi_blocked: bool,
    pub nmi_pending: bool,
    pub smi_pending: bool,
    pub init_pending: bool,
    pub smm: bool,
    pub intr: bool,
    pub monitor: Option<Monitor>,
    pub virt: crate::virt::Virt,
    pub random: u64,
}

impl Cpu {
    /// The processor's state. Between instructions only.
    pub fn state(&self) -> CpuState {
        // When the timer was last looked at is no state.
        let mut lapic = self.lapic.clone();
        lapic.tick(self.now());
        CpuState {
            general: core::array::from_fn(|n| self.regs[n]),
            rip: self.rip(),
            rflags: self.flags.get(),
            icount: self.icount,
            skipped: self.clock.skipped,
            cpl: self.cpl,
            zmm: self.zmm,
            k: self.k,
            mxcsr: self.mxcsr,
            x87: self.x87,
            seg: self.seg,
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            control: [self.cr0, self.cr2, self.cr3, self.cr4],
            efer: self.efer,
            xcr0: self.xcr0,
            pkru: self.pkru,
            pdptes: self.pdptes,
            dr: self.dr,
            msrs: self.msrs.clone(),
            lapic,
            activity: self.activity,
            shadow: self.shadow,
            pending_db: self.pending_db,
            nmi_blocked: self.nmi_blocked,
            nmi_pending: self.nmi_pending,
            smi_pending: self.smi_pending,
            init_pending: self.init_pending,
            smm: self.smm,
            intr: self.intr,
            monitor: self.monitor,
            virt: self.virt.clone(),
            random: self.random,
        }
    }

    /// Puts the processor into a state. The model stays, and with it what the guest may do with the state.
    pub fn set_state(&mut self, state: &CpuState) {
        self.regs = [0; 32];
        self.regs[gpr::RAX..16].copy_from_slice(&state.general);
        self.regs[REG_RIP as usize] = state.rip;
        self.flags = Flags::RESET;
        self.flags.set(state.rflags);
        self.icount = state.icount;
        self.clock.skipped = state.skipped;
        self.cpl = state.cpl & 3;
        self.zmm = state.zmm;
        self.k = state.k;
        self.mxcsr = state.mxcsr;
        self.x87 = state.x87;
        self.seg = state.seg;
        self.ldtr = state.ldtr;
        self.tr = state.tr;
        self.gdtr = state.gdtr;
        self.idtr = state.idtr;
        [self.cr0, self.cr2, self.cr3, self.cr4] = state.control;
        self.efer = state.efer;
        self.xcr0 = state.xcr0;
        self.pkru = state.pkru;
        self.pdptes = state.pdptes;
        self.dr = state.dr;
        self.msrs = state.msrs.clone();
        self.lapic = state.lapic.clone();
        self.activity = state.activity;
        self.shadow = state.shadow;
        self.pending_db = state.pending_db;
        self.nmi_blocked = state.nmi_blocked;
        self.nmi_pending = state.nmi_pending;
        self.smi_pending = state.smi_pending;
        self.init_pending = state.init_pending;
        self.smm = state.smm;
        self.intr = state.intr;
        self.monitor = state.monitor;
        self.virt = state.virt.clone();
        self.set_guest_space(None);
        self.vmx_restored();
        self.svm_restored();
        self.random = state.random;
        // What is derived. Looking at all reasons for a boundary leaves those that hold.
        self.boundary = boundary::INTERRUPT | boundary::TRAP | boundary::SHADOW;
        if self.activity != Activity::Active {
            self.boundary |= boundary::INACTIVE;
        }
        self.debug_registers_changed();
        self.flush_all();
        self.update_mode();
    }

    /// Adds the architectural state to a hash.
    pub fn hash_state(&self, hasher: &mut StateHasher) {
        self.state().hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cpu;

    fn hash(cpu: &Cpu) -> u128 {
        let mut hasher = StateHasher::new();
        cpu.hash_state(&mut hasher);
        hasher.digest()
    }

    #[test]
    fn a_state_moves_to_another_processor() {
        let mut one = cpu("max");
        one.regs[5] = 77;
        one.flags.set(0x8d7);
        one.zmm[31][7] = 3;
        one.cr0 |= 1;
        one.icount = 1234;
        one.activity = Activity::Halted;
        one.write_msr(0xc000_0082, 0x1234).unwrap();
        one.write_msr(0x1b, 0xfee0_0d00).unwrap();
        one.update_mode();
        let mut other = cpu("max");
        assert_ne!(hash(&one), hash(&other));
        other.set_state(&one.state());
        assert_eq!(hash(&one), hash(&other));
        assert_eq!(one.state(), other.state());
        assert_eq!((other.mode, other.boundary & boundary::INACTIVE), (one.mode, boundary::INACTIVE));
    }

    #[test]
    fn every_part_of_the_state_is_in_the_hash() {
        let changes: [fn(&mut Cpu); 12] = [
            |c| c.regs[0] ^= 1,
            |c| c.set_rip(1),
            |c| c.flags.set(0x42),
            |c| c.k[7] = 1,
            |c| c.x87.significand[3] = 1,
            |c| c.seg[4].base = 8,
            |c| c.cr2 = 1,
            |c| c.dr[3] = 1,
            |c| c.msrs.mtrr.fixed[2] = 6,
            |c| c.lapic.set_cr8(3),
            |c| c.nmi_pending = true,
            |c| c.random ^= 1,
        ];
        let before = hash(&cpu("max"));
        for (n, change) in changes.iter().enumerate() {
            let mut cpu = cpu("max");
            change(&mut cpu);
            assert_ne!(hash(&cpu), before, "change {n}");
        }
    }
}
