//! Guest physical memory and the ways to it: dirty and code tracking, the page walkers.

mod memory;

pub use memory::{
    GuestMemory, HostPage, MemoryError, MemoryRegion, PageFlags, RegionKind, SUB_BLOCK_SIZE, Unbacked,
};
