//! The x86 page walkers.

pub mod ept;
pub mod page_cache;
pub mod paging;
