//! Guest physical memory and the ways to it: dirty and code tracking, the page walkers.

mod contents;
mod guest_physical;
mod memory;
mod shadow;
mod share;
mod tables;
pub mod tlb;
pub mod window;
pub mod x86;

pub use contents::PageBytes;
pub use guest_physical::GuestPhysicalCache;
pub use memory::{
    GuestMemory, HostPage, MemoryError, MemoryRegion, PageFlags, RegionKind, SUB_BLOCK_SIZE, Unbacked,
    sub_blocks,
};
pub use shadow::SHADOW;
pub use tables::{EntryWidth, Inspector, PhysicalTables, Reference, Stage, TableReader};
