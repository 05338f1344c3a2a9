//! The state hash: two machines with the same hash are in the same architectural state.

use core::fmt;
use core::hash::{Hash, Hasher};
use xxhash_rust::xxh3::Xxh3;

/// A 128-bit non-cryptographic hash of architectural state. Feed values through [`Hash`] or bytes directly.
#[derive(Clone, Default)]
pub struct StateHasher(Xxh3);

impl StateHasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one value.
    pub fn add<T: Hash + ?Sized>(&mut self, value: &T) {
        value.hash(self);
    }

    /// The hash of everything added so far.
    pub fn digest(&self) -> u128 {
        self.0.digest128()
    }
}

impl Hasher for StateHasher {
    fn finish(&self) -> u64 {
        self.0.digest()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

impl fmt::Debug for StateHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateHasher({:032x})", self.digest())
    }
}
