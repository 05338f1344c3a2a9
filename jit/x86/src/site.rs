//! Sites: the places where translated code leaves for Rust.

use ringworld_x86::Insn;

/// Why a site leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An instruction runs by its function; the block goes on after it.
    Exec,
    /// An instruction runs by its function and is the last of its block.
    ExecLast,
    /// A jump that is not linked (any more); `rip` is its target.
    Link,
    /// As `Link`, to a translation without groups of memory accesses.
    LinkUngrouped,
    /// The block is longer than the budget.
    Budget,
    /// The block's page is not known to be here.
    Page,
    /// The block is stale.
    Stale,
}

/// One site, as it is emitted. Offsets are from the start of the block's code.
#[derive(Clone, Copy, Debug)]
pub struct Draft {
    /// Why.
    pub kind: Kind,
    /// RIP of the instruction to run, or where to go on.
    pub rip: u64,
    /// The instruction's number in the block.
    pub n: u32,
    /// What to give back to the budget when the block is left here, the site's own instruction not included.
    pub refund: u32,
    /// Links: the end of the jump's displacement.
    pub patch: u32,
    /// Links to another page: the end of the displacement that holds the negated fetch token.
    pub token: u32,
}

/// One site, as it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Why.
    pub kind: Kind,
    /// [`Draft::refund`]; blocks are short.
    pub refund: u8,
    /// The block that it belongs to.
    pub block: u32,
    /// Its number among the [`Run`]s or among the [`Link`]s, if it is one.
    pub detail: u32,
}

/// An instruction to run by its function.
#[derive(Clone, Copy)]
pub struct Run {
    /// The instruction.
    pub insn: Insn,
    /// Its address.
    pub rip: u64,
}

/// A jump to a known address. Offsets are from the start of the arena.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The address.
    pub rip: u64,
    /// The end of the jump's displacement.
    pub patch: u32,
    /// The block that the jump leads to; `u32::MAX` for none.
    pub target: u32,
    /// To another page: the end of the displacement that holds the negated fetch token, else 0.
    pub token: u32,
    /// Where the jump leads while it is not linked; 0 if that has not been looked at yet.
    pub unlinked: u32,
}
