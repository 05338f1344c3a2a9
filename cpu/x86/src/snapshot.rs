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
use ringworld_core::{StateHasher, VirtualTime};
use serde::{Deserialize, Serialize};

/// Writes the state's struct, and both ways between it and [`Cpu`], from one list of the fields that both have.
macro_rules! cpu_state {
    ($($field:ident: $type:ty,)*) => {
        /// Everything of a processor that the guest could ever notice. Two processors of one model with equal states go on
        /// alike. Fields are those of [`Cpu`].
        #[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        #[allow(missing_docs)]
        pub struct CpuState {
            pub general: [u64; 16],
            pub rip: u64,
            pub rflags: u64,
            /// [`ringworld_core::Clock::skipped`].
            pub skipped: u64,
            /// [`ringworld_core::Clock::shown`].
            pub shown: Option<VirtualTime>,
            $(pub $field: $type,)*
        }

        impl Cpu {
            /// The processor's state. Between instructions only.
            pub fn state(&self) -> CpuState {
                let mut state = CpuState {
                    general: core::array::from_fn(|n| self.regs[n]),
                    rip: self.rip(),
                    rflags: self.flags.get(),
                    skipped: self.clock.skipped,
                    shown: self.clock.shown,
                    $($field: self.$field.clone(),)*
                };
                // When the timer was last looked at is no state.
                state.lapic.tick(self.now());
                state
            }

            fn copy_state(&mut self, state: &CpuState) {
                $(self.$field.clone_from(&state.$field);)*
            }
        }
    };
}

cpu_state! {
    icount: u64,
    cpl: u8,
    zmm: [[u64; 8]; 32],
    k: [u64; 8],
    mxcsr: u32,
    x87: X87,
    seg: [Segment; 6],
    ldtr: Segment,
    tr: Segment,
    gdtr: TableRegister,
    idtr: TableRegister,
    cr0: u64,
    cr2: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    xcr0: u64,
    pkru: u32,
    pdptes: [u64; 4],
    dr: [u64; 8],
    msrs: Msrs,
    lapic: Lapic,
    activity: Activity,
    pauses: u8,
    shadow: Shadow,
    pending_db: u64,
    nmi_blocked: bool,
    nmi_pending: bool,
    smi_pending: bool,
    init_pending: bool,
    smm: bool,
    intr: bool,
    monitor: Option<Monitor>,
    virt: crate::virt::Virt,
    random: u64,
}

impl Cpu {
    /// Puts the processor into a state. The model stays, and with it what the guest may do with the state.
    pub fn set_state(&mut self, state: &CpuState) {
        self.copy_state(state);
        self.regs = [0; 32];
        self.regs[gpr::RAX..16].copy_from_slice(&state.general);
        self.regs[REG_RIP as usize] = state.rip;
        self.flags = Flags::RESET;
        self.flags.set(state.rflags);
        self.clock.skipped = state.skipped;
        self.clock.shown = state.shown;
        self.cpl &= 3;
        self.set_guest_space(None);
        self.vmx_restored();
        self.svm_restored();
        // What is derived. Looking at all reasons for a boundary leaves those that hold.
        self.boundary = boundary::INTERRUPT | boundary::TRAP | boundary::SHADOW;
        if self.activity != Activity::Active {
            self.boundary |= boundary::INACTIVE;
        }
        self.debug_registers_changed();
        self.flush_everything();
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
        let changes: [fn(&mut Cpu); 13] = [
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
            |c| c.pauses ^= 1,
        ];
        let before = hash(&cpu("max"));
        for (n, change) in changes.iter().enumerate() {
            let mut cpu = cpu("max");
            change(&mut cpu);
            assert_ne!(hash(&cpu), before, "change {n}");
        }
    }
}
