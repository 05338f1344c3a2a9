//! Sites: the places where translated code leaves for Rust. A number after the call says why, and what it is about.

use ringworld_x86::Insn;

/// Why a site leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An instruction runs by its function; the block goes on after it.
    Exec,
    /// An instruction runs by its function and is the last of its block.
    ExecLast,
    /// A jump that is not linked (any more).
    Link,
    /// As `Link`, to a translation whose groups of memory accesses end where pages do.
    LinkByPage,
    /// The same, but by other registers.
    LinkByOtherPage,
    /// As `Link`, to a translation without groups of memory accesses.
    LinkUngrouped,
    /// The block is longer than the budget.
    Budget,
    /// The block's page is not known to be here.
    Page,
    /// The block is stale.
    Stale,
    /// A return to address 0 (what empty slots of the return cache lead to).
    Null,
    /// As `Exec`, of an instruction after which the host's x87 unit has to hold the guest's state; if it cannot, the
    /// instruction is the last of its block.
    ExecX87,
    /// Vector state was to be made live and cannot be; of which instruction is known by the host address that the stub was to
    /// go back to.
    Unfit,
    /// As `Exec`, of an access that was not to be had in a window.
    ExecWindow,
    /// A block whose window is not open, see [`crate::window`].
    Window,
}

const KINDS: [Kind; 14] = {
    use Kind::*;
    [
        Exec,
        ExecLast,
        Link,
        LinkByPage,
        LinkByOtherPage,
        LinkUngrouped,
        Budget,
        Page,
        Stale,
        Null,
        ExecX87,
        Unfit,
        ExecWindow,
        Window,
    ]
};

/// Bits of a site's number that say what it is about: a [`Run`], a [`Link`], or a block.
const INDEX_BITS: u32 = 28;
/// So many of each can be numbered.
pub const MOST: usize = 1 << INDEX_BITS;

/// Bytes of what follows the LEA of a refund: a store of RCX to the frame, and a near jump.
pub const REFUND: usize = 10;

/// A site, as the number after its call in translated code has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// Why.
    pub kind: Kind,
    /// Number of the [`Run`], of the [`Link`], or of the block.
    pub index: u32,
}

impl Site {
    /// The number.
    pub const fn number(self) -> u32 {
        (self.kind as u32) << INDEX_BITS | self.index
    }

    /// The site of a number.
    pub fn of(number: u32) -> Self {
        let kind = KINDS.get((number >> INDEX_BITS) as usize).copied().unwrap_or(Kind::Stale);
        Self { kind, index: number & (MOST as u32 - 1) }
    }
}

/// Where vector state is made live.
#[derive(Clone, Copy)]
pub struct Need {
    /// The end of the stub's call, from the start of the block's code or of the arena.
    pub at: u32,
    /// The address of the instruction that needs it.
    pub rip: u64,
    /// Instructions of the block from this one on.
    pub rest: u8,
}

/// An instruction to run by its function, as it is emitted.
#[derive(Clone, Copy, Debug)]
pub struct RunDraft {
    /// Its number in the block.
    pub n: u32,
    /// See [`Run`].
    pub rip: u64,
    /// See [`Run`].
    pub refund: u8,
}

/// An instruction to run by its function.
#[derive(Clone, Copy)]
pub struct Run {
    /// The instruction.
    pub insn: Insn,
    /// Its address.
    pub rip: u64,
    /// What to give back to the budget when the block is left after it.
    pub refund: u8,
}

/// A jump to a known address, as it is emitted. Offsets are from the start of the block's code.
#[derive(Clone, Copy, Debug)]
pub struct LinkDraft {
    /// The address.
    pub rip: u64,
    /// What its way out of the block gives back to the budget. If that is not zero, the displacement of the LEA that does so
    /// ends [`REFUND`] bytes before the jump's.
    pub refund: u8,
    /// The end of the jump's displacement.
    pub patch: u32,
    /// To another page: the end of the displacement that holds the negated fetch token, else 0.
    pub token: u32,
    /// It leads to where a block checks its page.
    pub checked: bool,
}

/// A jump to a known address (or, of a return address, the LEA of where its code is). Offsets are from the start of the arena.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The address.
    pub rip: u64,
    /// The block that it is in.
    pub block: u32,
    /// See [`LinkDraft`].
    pub refund: u8,
    /// The end of the jump's displacement.
    pub patch: u32,
    /// The block that the jump leads to; `u32::MAX` for none.
    pub target: u32,
    /// To another page: the end of the displacement that holds the negated fetch token, else 0.
    pub token: u32,
    /// Where the jump leads while it is not linked; 0 if that has not been looked at yet.
    pub unlinked: u32,
    /// It leads to where a block checks its page.
    pub checked: bool,
    /// Its block's jumps are short: the token is compared with one more.
    pub short: bool,
}
