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

/// One site.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Why.
    pub kind: Kind,
    /// The instruction to run, for `Exec` and `ExecLast`.
    pub insn: *const Insn,
    /// RIP of that instruction; else where to go on.
    pub rip: u64,
    /// What to give back to the budget when the block is left here, the site's own instruction not included.
    pub refund: u32,
    /// The block that it belongs to.
    pub block: u32,
    /// `Link`: the end of the jump's displacement.
    pub patch: usize,
    /// `Link`: the block that the jump leads to; `u32::MAX` for none.
    pub target: u32,
    /// `Link` to another page: the end of the displacement that holds the negated fetch token.
    pub token: usize,
    /// `Link`: where the jump leads while it is not linked.
    pub unlinked: usize,
}
