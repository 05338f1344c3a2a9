//! Address spaces as types: an address of one space cannot be passed where another is meant.

use core::fmt;
use serde::{Deserialize, Serialize};

/// log2 of the smallest page of both guest architectures (4 KiB).
pub const PAGE_SHIFT: u32 = 12;
/// The smallest page, in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Masks the offset within a 4 KiB page.
pub const PAGE_MASK: u64 = PAGE_SIZE - 1;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `bytes` further on, wrapping at 2^64.
            #[inline(always)]
            pub const fn offset(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// The offset within the 4 KiB page.
            #[inline(always)]
            pub const fn page_offset(self) -> u64 {
                self.0 & PAGE_MASK
            }

            /// The address of the 4 KiB page that holds this address.
            #[inline(always)]
            pub const fn page(self) -> Self {
                Self(self.0 & !PAGE_MASK)
            }

            /// The 4 KiB page (frame) number.
            #[inline(always)]
            pub const fn page_number(self) -> u64 {
                self.0 >> PAGE_SHIFT
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A guest-physical address (of the level that the walker serves: L1's physical memory, an L2's "physical" memory).
    GuestPhys
}
address! {
    /// A guest-linear (x86) or guest-virtual (Arm) address.
    GuestVirt
}
