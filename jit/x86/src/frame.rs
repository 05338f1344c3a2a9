//! The frame that translated code runs on, and where the guest's registers live meanwhile.
//!
//! The host's RSP points to a [`Frame`]; R15 to the TLB's arrays of the running context, plus [`TLB_BIAS`]; RCX and R14 are
//! scratch; the status flags are the guest's own. Twelve guest registers live in host registers, mostly the same ones; the
//! four that compilers use least live in the frame.

use crate::x87::X87Frame;
use iced_x86::Register;
use ringworld_x86::Cpu;

/// The low six bits of R15: SHRX by R15 shifts by twelve, without a register for the count and without touching the flags.
pub const TLB_BIAS: i32 = 12;

/// Registers that may be lent at a time.
pub const LENT: usize = 4;

/// What translated code keeps beside the registers. The first fields are within reach of 8-bit displacements.
#[repr(C)]
pub struct Frame {
    /// The complement of the instructions left, which is negative; blocks add their length on entry.
    pub taken: i64,
    /// Guest R10, R11, R14, R15.
    pub homes: [u64; 4],
    /// The bits of a linear address that select a TLB slot.
    pub index_mask: u64,
    /// Where the bits of an address that select a jump-cache pair go in the pair's offset.
    pub jump_mask: u64,
    /// Not zero while the vector registers hold the guest's XMM registers.
    pub sse_live: u64,
    /// Not zero while they hold all of its vector state.
    pub full_live: u64,
    /// Scratch of one instruction.
    pub scratch: [u64; 2],
    /// Host addresses minus linear addresses of groups of accesses.
    pub groups: [u64; crate::group::SLOTS],
    /// The linear address of an access that reaches into another page, and where the last bytes of its page and the first ones of
    /// the other are in the host's memory.
    pub split: [u64; 3],
    /// RAX meanwhile (the second one is free).
    pub split_rax: [u64; 2],
    /// These bytes.
    pub split_copy: [u64; 16],
    /// Guest registers whose host registers a loop has been lent.
    pub lent: [u64; LENT],
    /// So many of the lowest bits are set as a loop may have rounds, this one included, without a look at its groups.
    pub rounds: u64,
    /// All bits but the lowest: what PEXT shifts by one with.
    pub but_lowest: u64,
    /// By the log2 of bytes, from [`crate::rounds::FINEST`] on: the bits of an offset in a page that count these.
    pub page_masks: [u64; 6],
    /// So many of the lowest bits are set as a page has of these.
    pub page_units: [u64; 6],
    /// FS and GS base.
    pub bases: [u64; 2],
    /// By log2(alignment) − 4: what must be zero of an offset in a page for an aligned access.
    pub align_masks: [u64; 3],
    /// By log2(alignment) − 4: what must be zero of an address for an aligned access.
    pub low_masks: [u64; 3],
    /// Status flags for LAHF/SETO: SF, ZF, AF, PF, CF in bits 8–15, OF in bit 0.
    pub flags: u64,
    /// R15.
    pub tlb: u64,
    /// Where to go on after a call of an instruction's function in the middle of a block.
    pub resume: u64,
    /// Vector state to be loaded before that: 0 none, 1 XMM, 2 all.
    pub reload: u64,
    /// The CPU that runs.
    pub cpu: *mut Cpu,
    /// `cpu.icount` at which the budget is zero.
    pub limit: u64,
    /// The translator.
    pub translator: *mut crate::Translator,
    /// MXCSR of the host.
    pub host_mxcsr: u64,
    /// All bits but IF; all bits but AC; see [`crate::system::POPF_OTHERS`]; DF; IF; all bits but DF; `POPF_OTHERS` and IF; CR4.FSGSBASE.
    pub flag_masks: [u64; 8],
    /// What R15 becomes when EFLAGS.AC is cleared and set, or zero: by the instruction's function.
    pub arrays: [u64; 2],
    /// Not zero if R15 has been changed since translated code was entered.
    pub moved: u64,
    /// The time-stamp counter when the budget is zero.
    pub tsc: u64,
    /// Whether it may be read.
    pub tsc_known: u64,
    /// Zero if PKRU may be read; else 1 << 32.
    pub no_pku: u64,
    /// The bits of a stack pointer that select a slot of the return cache.
    pub return_bits: u64,
    /// In segmented code: the code segment, see [`CodeSegment`](crate::segmented::CodeSegment).
    pub code_segment: u64,
    /// The segments' bases, in the order of their numbers.
    pub segments: [u64; 6],
    /// What they lack to 8 GiB, if they end at 4 GiB or earlier, for reads and for writes.
    pub lacks: [[u64; 2]; 6],
    /// Bits that make 1 of the sum of that and an offset which is allowed.
    pub beyond: u64,
    /// Bits that an offset beyond 64 KiB has.
    pub beyond_word: u64,
    /// The x87 unit.
    pub x87: X87Frame,
    /// Not zero while the host's vector unit cannot run as the guest's.
    pub unfit: u64,
    /// As `jump_mask`, of an address's CRC and the far table.
    pub far_jump_mask: u64,
    /// The bits of an address that say which chunk it is in, see [`crate::window`].
    pub chunk_bits: u64,
    /// See [`crate::window`].
    pub step_bits: u64,
    /// The negated base of the host's GS; 1 if that is not known.
    pub minus_gs: u64,
}

impl Frame {
    /// Instructions left, of what the frame was made for.
    pub fn budget(&self) -> i64 {
        !self.taken
    }

    /// The instruction count that blocks have come to.
    pub fn icount(&self) -> u64 {
        self.limit.wrapping_sub(self.budget() as u64)
    }
}

/// Displacements from RSP.
#[allow(missing_docs)]
pub mod at {
    use super::{Frame, X87Frame};
    use core::mem::offset_of;
    pub const CPU: i32 = offset_of!(Frame, cpu) as i32;
    pub const TAKEN: i32 = offset_of!(Frame, taken) as i32;
    pub const INDEX_MASK: i32 = offset_of!(Frame, index_mask) as i32;
    pub const JUMP_MASK: i32 = offset_of!(Frame, jump_mask) as i32;
    pub const SSE_LIVE: i32 = offset_of!(Frame, sse_live) as i32;
    pub const FULL_LIVE: i32 = offset_of!(Frame, full_live) as i32;
    pub const BASES: i32 = offset_of!(Frame, bases) as i32;
    pub const TARGET: i32 = offset_of!(Frame, scratch) as i32;
    pub const CODE: i32 = offset_of!(Frame, scratch) as i32 + 8;
    pub const ALIGN: i32 = offset_of!(Frame, align_masks) as i32;
    pub const GROUPS: i32 = offset_of!(Frame, groups) as i32;
    pub const SPLIT_LINEAR: i32 = offset_of!(Frame, split) as i32;
    pub const SPLIT_PAGES: i32 = offset_of!(Frame, split) as i32 + 8;
    pub const SPLIT_RAX: i32 = offset_of!(Frame, split_rax) as i32;
    pub const SPLIT_COPY: i32 = offset_of!(Frame, split_copy) as i32;
    pub const LENT: i32 = offset_of!(Frame, lent) as i32;
    pub const ROUNDS: i32 = offset_of!(Frame, rounds) as i32;
    pub const BUT_LOWEST: i32 = offset_of!(Frame, but_lowest) as i32;
    pub const PAGE_UNITS: i32 = offset_of!(Frame, page_units) as i32;
    pub const PAGE_MASKS: i32 = offset_of!(Frame, page_masks) as i32;
    pub const LOW: i32 = offset_of!(Frame, low_masks) as i32;
    pub const FAR_JUMP_MASK: i32 = offset_of!(Frame, far_jump_mask) as i32;
    pub const FLAGS: i32 = offset_of!(Frame, flags) as i32;
    pub const TLB: i32 = offset_of!(Frame, tlb) as i32;
    pub const RESUME: i32 = offset_of!(Frame, resume) as i32;
    pub const RELOAD: i32 = offset_of!(Frame, reload) as i32;
    pub const HOST_MXCSR: i32 = offset_of!(Frame, host_mxcsr) as i32;
    pub const UNFIT: i32 = offset_of!(Frame, unfit) as i32;
    pub const NOT_IF: i32 = offset_of!(Frame, flag_masks) as i32;
    pub const NOT_AC: i32 = offset_of!(Frame, flag_masks) as i32 + 8;
    pub const POPF_OTHERS: i32 = offset_of!(Frame, flag_masks) as i32 + 16;
    pub const DF: i32 = offset_of!(Frame, flag_masks) as i32 + 24;
    pub const IF: i32 = offset_of!(Frame, flag_masks) as i32 + 32;
    pub const NOT_DF: i32 = offset_of!(Frame, flag_masks) as i32 + 40;
    pub const POPF_ALL: i32 = offset_of!(Frame, flag_masks) as i32 + 48;
    pub const FSGSBASE: i32 = offset_of!(Frame, flag_masks) as i32 + 56;
    pub const ARRAYS: i32 = offset_of!(Frame, arrays) as i32;
    pub const MOVED: i32 = offset_of!(Frame, moved) as i32;
    pub const TSC: i32 = offset_of!(Frame, tsc) as i32;
    pub const NO_PKU: i32 = offset_of!(Frame, no_pku) as i32;
    pub const CODE_SEGMENT: i32 = offset_of!(Frame, code_segment) as i32;
    pub const SEGMENTS: i32 = offset_of!(Frame, segments) as i32;
    pub const LACKS: i32 = offset_of!(Frame, lacks) as i32;
    pub const BEYOND_WORD: i32 = offset_of!(Frame, beyond_word) as i32;
    pub const BEYOND: i32 = offset_of!(Frame, beyond) as i32;
    pub const RETURN_BITS: i32 = offset_of!(Frame, return_bits) as i32;
    const X87: i32 = offset_of!(Frame, x87) as i32;
    pub const X87_LIVE: i32 = X87 + offset_of!(X87Frame, live) as i32;
    pub const X87_RELOAD: i32 = X87 + offset_of!(X87Frame, reload) as i32;
    pub const X87_IMAGE: i32 = X87 + offset_of!(X87Frame, image) as i32;
    pub const X87_FIP: i32 = X87 + offset_of!(X87Frame, fip) as i32;
    pub const X87_RAN: i32 = X87 + offset_of!(X87Frame, ran) as i32;
    pub const X87_FDP: i32 = X87 + offset_of!(X87Frame, fdp) as i32;
    pub const X87_FDS: i32 = X87 + offset_of!(X87Frame, fds) as i32;
    pub const X87_MASKS: i32 = X87 + offset_of!(X87Frame, masks) as i32;
    pub const CHUNK_BITS: i32 = offset_of!(Frame, chunk_bits) as i32;
    pub const STEP_BITS: i32 = offset_of!(Frame, step_bits) as i32;
    pub const MINUS_GS: i32 = offset_of!(Frame, minus_gs) as i32;
    pub const TSC_KNOWN: i32 = offset_of!(Frame, tsc_known) as i32;
}

/// What is reached by 8-bit displacements (`at::X as i8`), and the homes, which lie between.
const SHORT: [i32; 7] =
    [at::TAKEN, at::INDEX_MASK, at::JUMP_MASK, at::SSE_LIVE, at::FULL_LIVE, at::TARGET, at::CODE];

const _: () = {
    let mut n = 0;
    while n < SHORT.len() {
        assert!(SHORT[n] <= i8::MAX as i32, "within reach of 8-bit displacements");
        n += 1;
    }
    let last_home = core::mem::offset_of!(Frame, homes) + 8 * 3;
    assert!(last_home <= i8::MAX as usize, "within reach of 8-bit displacements");
};

/// Where a guest register lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    /// In the host register of this number.
    Host(u8),
    /// In the frame, at this displacement from RSP.
    Frame(i32),
}

/// Home of a guest general register.
pub const fn home(guest: usize) -> Home {
    const fn frame(n: i32) -> Home {
        Home::Frame(core::mem::offset_of!(Frame, homes) as i32 + 8 * n)
    }
    match guest & 15 {
        1 => Home::Host(GUEST_RCX),
        4 => Home::Host(11),
        10 => frame(0),
        11 => frame(1),
        14 => frame(2),
        15 => frame(3),
        n => Home::Host(n as u8),
    }
}

/// Host register of guest RCX.
pub const GUEST_RCX: u8 = 10;

/// The guest registers that live in host registers: (guest, host).
pub fn pinned() -> impl Iterator<Item = (usize, u8)> {
    (0..16).filter_map(|guest| match home(guest) {
        Home::Host(host) => Some((guest, host)),
        Home::Frame(_) => None,
    })
}

/// The guest registers that live in the frame: (guest, displacement from RSP).
pub fn framed() -> impl Iterator<Item = (usize, i32)> {
    (0..16).filter_map(|guest| match home(guest) {
        Home::Frame(at) => Some((guest, at)),
        Home::Host(_) => None,
    })
}

/// The part of a general register that `like` is, of register `number`; AH, BH and DH stay what they are.
pub fn sized(like: Register, number: u8) -> Register {
    let base = if like.is_gpr64() {
        Register::RAX
    } else if like.is_gpr32() {
        Register::EAX
    } else if like.is_gpr16() {
        Register::AX
    } else {
        // iced numbers AL to BL, AH to BH, SPL to R15L.
        return match number {
            0..4 => Register::AL + u32::from(number),
            n => Register::SPL + u32::from(n - 4),
        };
    };
    base + u32::from(number)
}

/// Whether a register is AH, CH, DH or BH.
pub fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}
