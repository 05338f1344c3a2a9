//! What every translator needs: executable memory, and something to emit into.

mod arena;
mod jumps;
mod returns;
mod sink;
mod traps;
mod words;

pub use arena::{Arena, ArenaError};
pub use jumps::{FAR_JUMPS, JUMP_SHIFT, JUMPS, JumpCache};
pub use returns::{RETURN_BITS, ReturnCache};
pub use sink::Sink;
pub use traps::Traps;
