//! The x86 page walkers.

pub mod ept;
pub mod paging;
