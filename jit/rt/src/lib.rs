//! What every translator needs: executable memory, and something to emit into.

mod arena;
mod sink;

pub use arena::{Arena, ArenaError};
pub use sink::Sink;
