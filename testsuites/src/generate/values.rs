//! Interesting numbers.

use crate::random::Random;

/// A 64-bit integer: corners of all widths, small numbers, sparse and dense bits.
pub fn integer(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.below(3).wrapping_sub(1),
        1 => random.below(256),
        2 => {
            let width = random.pick(&[7, 8, 15, 16, 31, 32, 63]);
            (1_u64 << width).wrapping_add(random.below(3)).wrapping_sub(1)
        }
        3 => !(1_u64 << random.below(64)),
        4 => 1 << random.below(64),
        5 => random.bits() & random.bits() & random.bits(),
        6 => {
            // The same corner in each byte, word or doubleword.
            let lane =
                random.pick(&[0_u64, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000]);
            if lane > 0xffff {
                lane | lane << 32
            } else if lane > 0xff {
                lane * 0x0001_0001_0001_0001
            } else {
                lane * 0x0101_0101_0101_0101
            }
        }
        _ => random.bits(),
    }
}

/// Exponent and fraction bits of the floating-point formats that lie in memory without an explicit integer bit.
const FORMATS: [(u32, u32); 4] = [(5, 10), (8, 7), (8, 23), (11, 52)];

fn float(random: &mut Random, exponent_bits: u32, fraction_bits: u32) -> u64 {
    let top = (1_u64 << exponent_bits) - 1;
    let bias = top >> 1;
    let ones = (1_u64 << fraction_bits) - 1;
    let fraction = match random.below(6) {
        0 => 0,
        1 => ones,
        2 => 1 << random.below(fraction_bits.into()),
        3 => ones & !(ones >> random.below(fraction_bits.into())),
        4 => ones & (1 + random.below(3)),
        _ => random.bits() & ones,
    };
    let exponent = match random.below(12) {
        0 => 0,
        1 => top,
        2 => 1,
        3 => top - 1,
        4 => random.below(top),
        // Where conversions to integers of 8 to 64 bits overflow.
        5 => bias + random.pick(&[6, 7, 8, 15, 16, 30, 31, 32, 62, 63, 64]).min(bias),
        // Near one: sums cancel, products are in range.
        6..9 => bias - 2 + random.below(5),
        // Half a unit, and below it.
        9 => bias - u64::from(fraction_bits).min(bias) + random.below(3),
        _ => (bias / 2 + random.below(bias)).min(top - 1),
    };
    let special_fraction = exponent == 0 && random.chance(40) || exponent == top && random.chance(40);
    (random.bits() & 1) << (exponent_bits + fraction_bits)
        | exponent << fraction_bits
        | if special_fraction { 0 } else { fraction }
}

/// A number in IEEE format of `SIZE` bytes: 2 (half or bfloat16), 4 or 8.
pub fn float_of(random: &mut Random, size: usize) -> u64 {
    let (exponent, fraction) = match size {
        2 => FORMATS[random.below(2) as usize],
        4 => FORMATS[2],
        _ => FORMATS[3],
    };
    float(random, exponent, fraction)
}

/// Eight bytes of numbers of `SIZE` bytes each.
pub fn floats<const SIZE: usize>(random: &mut Random) -> [u8; 8] {
    let mut bytes = [0; 8];
    for part in bytes.chunks_mut(SIZE) {
        part.copy_from_slice(&float_of(random, SIZE).to_le_bytes()[..SIZE]);
    }
    bytes
}

/// A double-extended number, unsupported encodings included: significand, and sign with exponent.
pub fn extended(random: &mut Random) -> (u64, u16) {
    let number = float(random, 15, 48);
    let sign_exponent = (number >> 48) as u16;
    let mut significand = match random.below(6) {
        0 => 0,
        1 => u64::MAX >> random.below(64),
        2 => u64::MAX << random.below(64),
        3 => 1 << random.below(64),
        _ => random.bits(),
    };
    let exponent = sign_exponent & 0x7fff;
    match random.below(20) {
        // Pseudo-denormals, unnormals, pseudo-infinities and pseudo-NaNs.
        0 => {}
        _ if exponent == 0 => significand &= u64::MAX >> 1,
        _ => significand |= 1 << 63,
    }
    if exponent == 0x7fff && random.chance(30) {
        significand = 1 << 63;
    }
    if exponent == 0 && random.chance(60) {
        significand = 0;
    }
    (significand, sign_exponent)
}

/// A packed BCD number of ten bytes; now and then with digits that are none.
pub fn bcd(random: &mut Random) -> [u8; 10] {
    core::array::from_fn(|n| match n {
        9 => random.pick(&[0, 0x80, 0, 0x80, 0x7f]),
        _ if random.chance(2) => random.bits() as u8,
        _ => (random.below(10) << 4 | random.below(10)) as u8,
    })
}

/// What a vector register or memory operand holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// Integers.
    Integers,
    /// Half-precision or bfloat16 numbers.
    Float16,
    /// Single-precision numbers.
    Float32,
    /// Double-precision numbers.
    Float64,
    /// Random bits.
    Bits,
}

/// Eight bytes of a flavour.
pub fn quad(random: &mut Random, flavour: Flavour) -> u64 {
    match flavour {
        Flavour::Integers => integer(random),
        Flavour::Float16 => u64::from_le_bytes(floats::<2>(random)),
        Flavour::Float32 => u64::from_le_bytes(floats::<4>(random)),
        Flavour::Float64 => u64::from_le_bytes(floats::<8>(random)),
        Flavour::Bits => random.bits(),
    }
}
