//! The x86 page walkers.

pub mod paging;
