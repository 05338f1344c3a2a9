//! The translator of x86 guests to x86-64 hosts.
//!
//! A guest instruction becomes, where it can, the same instruction on the registers' homes; a memory operand becomes
//! address computation, a TLB check, and the same instruction on the host's address. The status flags stay in the host's:
//! nothing that is emitted between guest instructions touches them. Whatever is not plain calls the instruction's own
//! function, so there is no second definition of anything.

// dynasm's macro converts register numbers that are bytes already.
#![allow(clippy::useless_conversion)]

mod blocks;
mod classify;
mod cold;
mod control;
mod emit;
mod frame;
mod framed;
mod gather;
mod group;
mod host;
mod islands;
mod lent;
mod listing;
mod memory;
mod perf_map;
mod real;
mod rounds;
mod segmented;
mod site;
mod split;
mod string;
mod stubs;
mod system;
mod trace;
mod translator;
mod values;
mod window;
mod x87;

pub use classify::{Emit, Live, emit_of};
pub use host::has_avx512 as host_has_avx512;
pub use host::is_enough as host_can_translate;
pub use listing::HostCode;
pub use perf_map::PerfMap;
pub use translator::{JitError, JitOptions, JitStats, Translator};
