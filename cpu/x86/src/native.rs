//! What an engine that runs translated code needs of the CPU, beside [`crate::interp`]'s loop.

use crate::Cpu;
use crate::interp::{RunEnd, mark};
use crate::mem::{Kind, Privilege};
use crate::paging::Target;
use crate::state::boundary;

/// Runs code natively where it can; the interpreter does the rest.
pub trait Native {
    /// Runs from RIP on while `cpu.icount` is below `limit`, if there is translated code. The CPU has nothing to look at
    /// before the next instruction. False if nothing was done.
    fn run(&mut self, cpu: &mut Cpu, limit: u64) -> bool;

    /// Code that was marked in [`ringworld_mmu::GuestMemory`] has been overwritten since the last call.
    fn code_changed(&mut self, cpu: &mut Cpu);
}

/// Has no translated code.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNative;

impl Native for NoNative {
    #[inline(always)]
    fn run(&mut self, _: &mut Cpu, _: u64) -> bool {
        false
    }
    #[inline(always)]
    fn code_changed(&mut self, _: &mut Cpu) {}
}

/// A page that code is fetched from.
#[derive(Clone, Copy, Debug)]
pub struct CodePage {
    /// Guest-physical address of the page.
    pub physical: u64,
    /// Its tracking index in guest memory.
    pub index: usize,
    /// Host address of the byte asked for.
    pub pointer: *const u8,
}

/// Where in [`Cpu`] translated code finds what it reads and writes by itself, in bytes.
#[allow(missing_docs)]
pub mod offset {
    use crate::Cpu;
    use crate::segment::{Segment, SegmentFast};
    use core::mem::offset_of;
    /// RFLAGS without the status flags.
    pub const SYSTEM_FLAGS: i32 = offset_of!(Cpu, flags.system) as i32;
    /// Not zero if an interrupt waits that cannot be taken yet.
    pub const HELD: i32 = offset_of!(Cpu, held) as i32;
    /// [`crate::state::Shadow`] of the instruction that runs, as exits of guests show it: a byte.
    pub const IN_SHADOW: i32 = offset_of!(Cpu, in_shadow) as i32;
    /// Not zero if PAUSE ends the turn.
    pub const COMPANY: i32 = offset_of!(Cpu, company) as i32;
    /// CR0 to CR4; 0 for CR1.
    pub const CONTROL: [i32; 5] = [
        offset_of!(Cpu, cr0) as i32,
        0,
        offset_of!(Cpu, cr2) as i32,
        offset_of!(Cpu, cr3) as i32,
        offset_of!(Cpu, cr4) as i32,
    ];
    pub const PKRU: i32 = offset_of!(Cpu, pkru) as i32;
    pub const KERNEL_GS_BASE: i32 = offset_of!(Cpu, msrs.kernel_gs_base) as i32;
    pub const TSC_AUX: i32 = offset_of!(Cpu, msrs.tsc_aux) as i32;
    /// The base of a segment register, and as addresses use it.
    pub const fn base(segment: u8) -> [i32; 2] {
        let n = segment as usize;
        [
            (offset_of!(Cpu, seg) + n * size_of::<Segment>() + offset_of!(Segment, base)) as i32,
            (offset_of!(Cpu, fast) + n * size_of::<SegmentFast>() + offset_of!(SegmentFast, base)) as i32,
        ]
    }
    /// The other parts of a segment register.
    pub struct Parts {
        /// A word.
        pub selector: i32,
        /// A word.
        pub rights: i32,
        /// A doubleword.
        pub limit: i32,
        /// A byte.
        pub unusable: i32,
    }
    pub const fn segment(segment: u8) -> Parts {
        let at = offset_of!(Cpu, seg) + segment as usize * size_of::<Segment>();
        Parts {
            selector: (at + offset_of!(Segment, selector)) as i32,
            rights: (at + offset_of!(Segment, rights)) as i32,
            limit: (at + offset_of!(Segment, limit)) as i32,
            unusable: (at + offset_of!(Segment, unusable)) as i32,
        }
    }
}

impl Cpu {
    /// If RDTSC and RDTSCP may be executed and show the instruction count plus a constant: the constant. It changes only where a
    /// block ends.
    #[inline]
    pub fn tsc_distance(&self) -> Option<u64> {
        let allowed = self.cpl == 0 || self.cr4 & crate::control::cr4::TSD == 0;
        let linear = self.clock.shown.is_none() && self.tsc_is_linear();
        (allowed && linear).then(|| self.tsc_in_mode(self.tsc()).wrapping_sub(self.icount))
    }

    /// Fetches from the page of `linear` as an instruction there would; `None` if that raises an exception (which the
    /// interpreter will deliver) or the page is not memory.
    pub fn code_page(&mut self, linear: u64) -> Option<CodePage> {
        if !self.is_canonical(linear) {
            return None;
        }
        match self.translate(linear, Kind::Fetch, Privilege::Current).ok()? {
            Target::Host { pointer, index, .. } => Some(CodePage {
                physical: self.tlb.fetched_page(linear),
                index,
                pointer: pointer.cast_const(),
            }),
            Target::Device(_) => None,
        }
    }

    /// The same if the TLB knows the page: nothing is walked, so the guest cannot tell.
    pub fn known_code_page(&mut self, linear: u64) -> Option<CodePage> {
        self.tlb.has_fetched(linear).then(|| self.code_page(linear))?
    }

    /// The quadword at a linear address, if the TLB knows its page.
    pub fn known_quad(&self, linear: u64) -> Option<u64> {
        let pointer = self.tlb.current().read_pointer(linear, 8)?;
        // SAFETY: a matching read tag means that the page is mapped guest RAM and that the access stays in it; any bytes are
        // a quadword.
        Some(unsafe { pointer.cast::<u64>().read_unaligned() })
    }

    /// The instruction that a shadow was for is over.
    #[inline]
    pub fn end_shadow(&mut self) {
        self.in_shadow = crate::state::Shadow::None;
    }

    /// Marks bytes as code before they are read: writes to them are noticed from now on.
    pub fn mark_code(&mut self, page: &CodePage, offset: u32, len: u32) {
        mark(self, page.index, offset, len);
    }

    /// Looks at what is to be looked at before the next instruction, if that is only whether an interrupt is to be taken.
    /// Says whether nothing is left to look at.
    pub fn look_for_interrupts(&mut self) -> bool {
        if self.boundary != boundary::INTERRUPT {
            return self.boundary == 0;
        }
        match self.at_boundary() {
            None => self.boundary == 0,
            Some(RunEnd::Attention) => {
                self.boundary |= boundary::YIELD;
                false
            }
            Some(_) => false,
        }
    }

    /// Base of a segment (as in [`crate::insn::seg`]) for addresses.
    #[inline(always)]
    pub fn address_base(&self, segment: u8) -> u64 {
        self.fast[usize::from(segment & 7)].base
    }

    /// Outside of 64-bit mode: what a segment, for reads and for writes, lacks to 4 GiB that are allowed from offset 0 on without a
    /// further look.
    #[inline(always)]
    pub fn lacks(&self, segment: u8) -> [u64; 2] {
        let fast = &self.fast[usize::from(segment & 7)];
        [(1_u64 << 32).saturating_sub(fast.read_end), (1_u64 << 32).saturating_sub(fast.write_end)]
    }
}
