//! Machine-check banks (SDM 3B 17.3). Nothing fails here, but software finds the banks and can clear them.

use crate::{Cpu, Stop};
use serde::{Deserialize, Serialize};

/// Number of banks: what virtual processors commonly have. Xen wants bank 4 on AMD's without asking.
pub(super) const BANKS: usize = 10;
/// IA32_MCG_CAP: the banks, and IA32_MCG_CTL is present.
pub(super) const CAP: u64 = BANKS as u64 | 1 << 8;
/// IA32_MC0_CTL.
pub(super) const FIRST: u32 = 0x400;
/// The last bank's IA32_MCi_MISC.
pub(super) const LAST: u32 = FIRST + 4 * BANKS as u32 - 1;

/// One bank.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq, Serialize, Deserialize)]
pub struct McBank {
    /// IA32_MCi_CTL, STATUS, ADDR and MISC.
    pub registers: [u64; 4],
}

fn slot(cpu: &mut Cpu, index: u32) -> &mut u64 {
    let n = index.wrapping_sub(FIRST) as usize;
    &mut cpu.msrs.mc_banks[n / 4 % BANKS].registers[n % 4]
}

pub(super) fn read(cpu: &mut Cpu, index: u32) -> Result<u64, Stop> {
    Ok(*slot(cpu, index))
}

pub(super) fn write(cpu: &mut Cpu, index: u32, value: u64) -> Result<(), Stop> {
    // CTL takes all errors or none (SDM 3B 17.3.2.1); AMD's takes any (APM 2 9.3.2.1). STATUS can only be cleared (SDM 3B
    // 17.3.2.2), unless AMD's HWCR.McStatusWrEn lets software simulate errors (APM 2 9.3.2.2). ADDR and MISC take anything, as virtual processors have it.
    let simulating = cpu.model.is_amd() && cpu.msrs.hwcr & super::special::MC_STATUS_WRITE != 0;
    let refused = match index & 3 {
        0 => !cpu.model.is_amd() && value != 0 && value != u64::MAX,
        1 => value != 0 && !simulating,
        _ => false,
    };
    if refused {
        return Err(cpu.gp0());
    }
    *slot(cpu, index) = value;
    Ok(())
}
