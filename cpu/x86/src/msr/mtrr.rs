//! Memory-type range registers (SDM 3A 13.11). Memory types have no part in execution; the registers are kept, and
//! refuse what the manual says they refuse.

use crate::{Cpu, Stop};
use serde::{Deserialize, Serialize};

/// Number of variable ranges.
pub(super) const VARIABLE: usize = 8;
/// MSR numbers of the fixed ranges, in order.
pub(super) const FIXED: [u32; 11] =
    [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
/// IA32_MTRRCAP: eight variable ranges, fixed ranges, write-combining.
pub(super) const CAP: u64 = VARIABLE as u64 | 1 << 8 | 1 << 10;
const BASE0: u32 = 0x200;
const DEF_TYPE: u32 = 0x2ff;

/// The registers.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mtrrs {
    /// IA32_MTRR_DEF_TYPE.
    pub def_type: u64,
    /// The fixed ranges, from 64K_00000 to 4K_F8000.
    pub fixed: [u64; FIXED.len()],
    /// Base and mask of the variable ranges.
    pub variable: [[u64; 2]; VARIABLE],
}

impl Mtrrs {
    fn slot(&mut self, index: u32) -> &mut u64 {
        match FIXED.iter().position(|&fixed| fixed == index) {
            Some(n) => &mut self.fixed[n],
            None if index == DEF_TYPE => &mut self.def_type,
            None => {
                let n = index.wrapping_sub(BASE0) as usize;
                &mut self.variable[n / 2 % VARIABLE][n % 2]
            }
        }
    }
}

/// UC, WC, WT, WP, WB.
fn is_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

pub(super) fn read(cpu: &mut Cpu, index: u32) -> Result<u64, Stop> {
    Ok(*cpu.msrs.mtrr.slot(index))
}

pub(super) fn write(cpu: &mut Cpu, index: u32, value: u64) -> Result<(), Stop> {
    let address = u64::MAX >> (64 - cpu.physical_bits()) & !0xfff;
    let valid = match index {
        DEF_TYPE => value & !0xcff == 0 && is_type(value as u8),
        _ if FIXED.contains(&index) => value.to_le_bytes().into_iter().all(is_type),
        _ if index & 1 == 0 => value & !(address | 0xff) == 0 && is_type(value as u8),
        _ => value & !(address | 0x800) == 0,
    };
    if !valid {
        return Err(cpu.gp0());
    }
    *cpu.msrs.mtrr.slot(index) = value;
    Ok(())
}

/// IA32_PAT: types as above and UC- (SDM 3A 13.12.2).
pub(super) fn write_pat(cpu: &mut Cpu, _: u32, value: u64) -> Result<(), Stop> {
    if !value.to_le_bytes().into_iter().all(|kind| is_type(kind) || kind == 7) {
        return Err(cpu.gp0());
    }
    cpu.msrs.pat = value;
    Ok(())
}
