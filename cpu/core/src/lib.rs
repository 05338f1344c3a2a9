//! What every instruction set and every device shares: address types, virtual time, the event queue, the interface
//! between a CPU and the platform around it, and the state hash.

mod addr;
mod event;
mod fast_map;
mod hash;
mod platform;
mod prefetch;
mod time;

pub use addr::{GuestPhys, GuestVirt, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};
pub use event::{EventKey, EventQueue};
pub use fast_map::{FastHasher, FastMap, hash_by_page};
pub use hash::StateHasher;
pub use platform::{
    CpuId, Delivery, Destination, InterruptMessage, IoContext, NoDevices, Platform, PlatformAttention,
    TriggerMode,
};
pub use prefetch::prefetch;
pub use time::{Clock, VirtualTime};
