//! A set of interrupt vectors: IRR, ISR and TMR (SDM 3A 12.8.4).

use serde::{Deserialize, Serialize};

/// 256 bits, one for each vector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct VectorSet([u64; 4]);

impl VectorSet {
    fn place(vector: u8) -> (usize, u64) {
        (usize::from(vector / 64), 1 << (vector % 64))
    }

    /// Whether `vector` is in the set.
    pub fn contains(&self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        self.0[word] & bit != 0
    }

    /// Puts `vector` in (true) or takes it out.
    pub fn set(&mut self, vector: u8, member: bool) {
        let (word, bit) = Self::place(vector);
        if member {
            self.0[word] |= bit;
        } else {
            self.0[word] &= !bit;
        }
    }

    /// The highest vector in the set.
    pub fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&word| word != 0)?;
        Some((word as u32 * 64 + 63 - self.0[word].leading_zeros()) as u8)
    }

    /// The 32-bit register number `index` (0 to 7) as software reads it.
    pub fn register(&self, index: u32) -> u32 {
        (self.0[index as usize / 2 % 4] >> (32 * (index & 1))) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_kept_one_by_one() {
        let mut set = VectorSet::default();
        assert_eq!(set.highest(), None);
        for vector in [0, 31, 32, 63, 64, 255, 128] {
            set.set(vector, true);
        }
        assert_eq!(set.highest(), Some(255));
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 6, 7].map(|i| set.register(i)),
            [0x8000_0001, 0x8000_0001, 1, 0, 1, 0, 0, 1 << 31]
        );
        set.set(255, false);
        assert!(!set.contains(255) && set.contains(128));
        assert_eq!(set.highest(), Some(128));
    }
}
