//! The MSR-load and MSR-store lists of VM entries and exits (SDM 3C 27.4, 28.4, 28.6).

use super::capability::MSR_LIST_MOST;
use super::vmcs::Field;
use crate::Cpu;
use crate::lapic::ApicMode;
use ringworld_core::GuestPhys;

const IA32_TIME_STAMP_COUNTER: u32 = 0x10;

/// Index, reserved bits and value of an entry.
type Entry = (u32, u32, u64);

impl Cpu {
    fn msr_list_entry(&self, list: u64, n: u64) -> Option<Entry> {
        let at = list.wrapping_add(16 * n);
        let head = self.memory.read_u64(GuestPhys(at)).ok()?;
        let value = self.memory.read_u64(GuestPhys(at.wrapping_add(8))).ok()?;
        Some((head as u32, (head >> 32) as u32, value))
    }

    /// x2APIC registers are not reached by lists in x2APIC mode; nor IA32_SMBASE and IA32_SMM_MONITOR_CTL.
    fn msr_list_excludes(&self, index: u32) -> bool {
        index >> 8 == 8 && self.lapic.mode() == ApicMode::X2Apic || matches!(index, 0x9b | 0x9e)
    }

    /// Loads MSRs; the error is the number of the entry that failed, from 1 on. Lists that are longer than IA32_VMX_MISC
    /// allows fail at the first entry beyond.
    pub(super) fn load_msr_list(&mut self, address: Field, count: Field) -> Result<(), u64> {
        let (list, count) = (self.virt.vmx.vmcs.get(address), self.virt.vmx.vmcs.get(count));
        for n in 0..count {
            let failed = n + 1;
            if n >= MSR_LIST_MOST {
                return Err(failed);
            }
            let (index, reserved, value) = self.msr_list_entry(list, n).ok_or(failed)?;
            if reserved != 0 || self.msr_list_excludes(index) || matches!(index, 0xc000_0100 | 0xc000_0101) {
                return Err(failed);
            }
            self.write_msr(index, value).map_err(|_| failed)?;
        }
        Ok(())
    }

    /// Stores MSRs for a VM exit.
    pub(super) fn store_msr_list(&mut self) -> Result<(), u64> {
        let vmcs = &self.virt.vmx.vmcs;
        let (list, count) = (vmcs.get(Field::ExitMsrStoreAddress), vmcs.get(Field::ExitMsrStoreCount));
        for n in 0..count {
            let failed = n + 1;
            if n >= MSR_LIST_MOST {
                return Err(failed);
            }
            let (index, reserved, _) = self.msr_list_entry(list, n).ok_or(failed)?;
            if reserved != 0 || self.msr_list_excludes(index) {
                return Err(failed);
            }
            // The list's TSC is the processor's own, not the guest's (SDM 3C 28.4).
            let tsc = index == IA32_TIME_STAMP_COUNTER;
            let value = if tsc { self.show_tsc() } else { self.read_msr(index).map_err(|_| failed)? };
            self.write_physical(list.wrapping_add(16 * n + 8), &value.to_le_bytes());
        }
        Ok(())
    }
}
