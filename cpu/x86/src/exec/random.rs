//! RDRAND and RDSEED, from a deterministic generator: the same machine draws the same numbers in every run.

use super::operand::Int;
use crate::flags::bits;
use crate::row::Rows;
use crate::virt::Intercept;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

impl Cpu {
    /// Starts the processor's source of random numbers anew. Processors with different numbers draw differently.
    pub fn seed_random(&mut self, seed: u64) {
        self.random = seed ^ u64::from(self.id.0).wrapping_mul(0xd134_2543_de82_ef95);
    }

    /// The next 64 bits, by SplitMix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// There is always a number: CF is set, the other status flags are cleared.
fn draw<T: Int, const SEED: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(if SEED { Intercept::Rdseed } else { Intercept::Rdrand }, i)?;
    let value = T::of(cpu.random());
    T::set(cpu, i.r[0], value);
    cpu.flags.set_status(bits::CF);
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Rdrand_r16, draw::<u16, false>);
    rows.add(Code::Rdrand_r32, draw::<u32, false>);
    rows.add(Code::Rdrand_r64, draw::<u64, false>);
    rows.add(Code::Rdseed_r16, draw::<u16, true>);
    rows.add(Code::Rdseed_r32, draw::<u32, true>);
    rows.add(Code::Rdseed_r64, draw::<u64, true>);
}
