//! What a decoded block depends on besides its bytes.

use crate::control::{cr0, cr4, efer, xcr0};
use crate::flags::bits;
use crate::insn::seg;
use crate::segment::{Segment, SegmentFast};
use crate::virt::Level;
use crate::{Cpu, row::Group};

/// The mode bits in a block's key. The decoder resolves everything that follows from them (privilege, availability of
/// vector state), so that nothing of it is asked at run time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Mode(pub u32);

impl Mode {
    const CODE32: u32 = 1;
    const CODE64: u32 = 2;
    const CPL3: u32 = 4;
    const CPL12: u32 = 8;
    const V8086: u32 = 16;
    const REAL: u32 = 32;
    const EM: u32 = 64;
    const TS: u32 = 128;
    const MP: u32 = 256;
    const OSFXSR: u32 = 512;
    const AVX: u32 = 1024;
    const AVX512: u32 = 2048;
    const GUEST: u32 = 4096;
    /// 32-bit code whose CS, DS, ES and SS begin at 0 and allow 4 GiB; and FS, GS, which allow as much from any base.
    const FLAT: u32 = 1 << 13;
    const FLAT_FS: u32 = 1 << 14;
    const FLAT_GS: u32 = 1 << 15;
    /// In a guest whose PUSHF or POPF exits.
    const FLAGS_INTERCEPTED: u32 = 1 << 16;
    /// In other 32-bit code, and in 16-bit code: the stack pointer is SP.
    const SMALL_STACK: u32 = 1 << 17;
    const FLATNESS: u32 = Self::FLAT | Self::FLAT_FS | Self::FLAT_GS | Self::SMALL_STACK;

    /// Operand and address size of code: 16, 32 or 64.
    pub const fn bitness(self) -> u32 {
        if self.long64() {
            64
        } else if self.0 & Self::CODE32 != 0 {
            32
        } else {
            16
        }
    }
    /// 64-bit mode.
    #[inline(always)]
    pub const fn long64(self) -> bool {
        self.0 & Self::CODE64 != 0
    }
    /// 32-bit protected or compatibility mode in which no access by way of CS, DS, ES and SS can violate a segment's
    /// limit or rights, and offsets are linear addresses.
    #[inline(always)]
    pub const fn flat32(self) -> bool {
        self.0 & Self::FLAT != 0
    }
    /// 16-bit code, or 32-bit code that is not [flat](Self::flat32): segments have bases and limits.
    #[inline(always)]
    pub const fn segmented(self) -> bool {
        self.0 & (Self::FLAT | Self::CODE64) == 0
    }
    /// In such code: the stack pointer is SP.
    pub const fn small_stack(self) -> bool {
        self.0 & Self::SMALL_STACK != 0
    }
    /// In flat code: whether the same holds for FS or GS (see [`seg`]), but for a base.
    pub const fn flat_but_for_base(self, segment: u8) -> bool {
        match segment {
            seg::FS => self.0 & Self::FLAT_FS != 0,
            seg::GS => self.0 & Self::FLAT_GS != 0,
            _ => false,
        }
    }
    /// The same mode at CPL 0.
    pub const fn supervisor(self) -> Self {
        Self(self.0 & !(Self::CPL3 | Self::CPL12))
    }
    /// CPL is not 0.
    pub const fn unprivileged(self) -> bool {
        self.0 & (Self::CPL3 | Self::CPL12) != 0
    }
    /// In a guest of VMX or SVM: instructions may be intercepted.
    #[inline(always)]
    pub const fn guest(self) -> bool {
        self.0 & Self::GUEST != 0
    }
    /// PUSHF or POPF may exit.
    pub const fn flags_intercepted(self) -> bool {
        self.0 & Self::FLAGS_INTERCEPTED != 0
    }
    /// Real-address mode.
    pub const fn real(self) -> bool {
        self.0 & Self::REAL != 0
    }
    /// Real-address or virtual-8086 mode.
    pub const fn real_or_v8086(self) -> bool {
        self.0 & (Self::REAL | Self::V8086) != 0
    }

    /// What using a group's state raises in this mode: `Some(true)` #UD, `Some(false)` #NM.
    pub fn unavailable(self, group: Group) -> Option<bool> {
        let has = |bit: u32| self.0 & bit != 0;
        let (ud, nm) = match group {
            Group::Base => (false, false),
            Group::X87 => (false, has(Self::EM) || has(Self::TS)),
            Group::Wait => (false, has(Self::MP) && has(Self::TS)),
            Group::Mmx => (has(Self::EM), has(Self::TS)),
            Group::Sse => (has(Self::EM) || !has(Self::OSFXSR), has(Self::TS)),
            Group::Avx => (!has(Self::AVX), has(Self::TS)),
            Group::Avx512 => (!has(Self::AVX512), has(Self::TS)),
            Group::VexGpr => (self.real_or_v8086(), false),
        };
        if ud {
            Some(true)
        } else if nm {
            Some(false)
        } else {
            None
        }
    }
}

impl Cpu {
    /// Recomputes what is derived from control registers, EFER, XCR0, CPL, RFLAGS.VM/AC and the segments. Everything
    /// that changes one of them ends its block and calls this.
    pub fn update_mode(&mut self) {
        self.update_context();
        self.privilege_changed();
    }

    /// The part of [`Self::update_mode`] for changes of CPL, segments, RFLAGS.VM/AC and CR0.TS/EM/MP alone.
    pub(crate) fn privilege_changed(&mut self) {
        let cs = &self.seg[seg::CS as usize];
        let long64 = self.long_mode() && cs.long();
        let protected = self.protected();
        let v8086 = protected && self.flags.has(bits::VM);
        let avx_state = self.cr4 & cr4::OSXSAVE != 0 && protected && !v8086;
        let sse_avx = xcr0::SSE | xcr0::AVX;
        let avx = avx_state && self.xcr0 & sse_avx == sse_avx;
        let avx512 = avx && self.xcr0 & xcr0::AVX512 == xcr0::AVX512;
        let code32 = !long64 && cs.big() && !v8086;
        self.update_fast_segments();
        let mut mode = if !long64 { self.flatness(code32) } else { 0 };
        for (set, bit) in [
            (code32, Mode::CODE32),
            (long64, Mode::CODE64),
            (self.cpl == 3, Mode::CPL3),
            (self.cpl == 1 || self.cpl == 2, Mode::CPL12),
            (v8086, Mode::V8086),
            (!protected, Mode::REAL),
            (self.cr0 & cr0::EM != 0, Mode::EM),
            (self.cr0 & cr0::TS != 0, Mode::TS),
            (self.cr0 & cr0::MP != 0, Mode::MP),
            (self.cr4 & cr4::OSFXSR != 0, Mode::OSFXSR),
            (avx, Mode::AVX),
            (avx512, Mode::AVX512),
            (self.virt.level != Level::Host, Mode::GUEST),
            (self.guest_exits_for_flags(), Mode::FLAGS_INTERCEPTED),
        ] {
            if set {
                mode |= bit;
            }
        }
        self.mode = Mode(mode);
        self.pmu_privilege();
        self.select_context();
        self.end_block();
    }

    /// As [`Self::privilege_changed`], where nothing but the CPL and RFLAGS.AC has changed, in 64-bit mode.
    pub(crate) fn level_changed(&mut self) {
        let level = match self.cpl {
            0 => 0,
            3 => Mode::CPL3,
            _ => Mode::CPL12,
        };
        self.mode = Mode(self.mode.supervisor().0 | level);
        self.pmu_privilege();
        self.select_context();
        self.end_block();
    }

    /// The mode bits that say which segments of 32-bit code in protected mode are flat or whole, and what the stack pointer of
    /// other code is.
    fn flatness(&self, code32: bool) -> u32 {
        let whole = |n: u8| {
            let fast = &self.fast[n as usize];
            fast.read_end >= 1 << 32 && fast.write_end >= 1 << 32
        };
        let (cs, ss) = (&self.seg[seg::CS as usize], &self.seg[seg::SS as usize]);
        let flat = |n: u8| whole(n) && self.fast[n as usize].base == 0;
        let code = code32 && self.protected() && cs.base == 0 && cs.limit == u32::MAX;
        if !(code && ss.big() && [seg::SS, seg::DS, seg::ES].into_iter().all(flat)) {
            return if ss.big() { 0 } else { Mode::SMALL_STACK };
        }
        let other = |n: u8, bit: u32| if whole(n) { bit } else { 0 };
        Mode::FLAT | other(seg::FS, Mode::FLAT_FS) | other(seg::GS, Mode::FLAT_GS)
    }

    /// After one segment register other than CS was loaded: recomputes what follows from it.
    pub(crate) fn segment_changed(&mut self, n: u8) {
        let long64 = self.long64();
        self.update_fast_segment(n, long64);
        if !long64 && self.flatness(self.mode.bitness() == 32) != self.mode.0 & Mode::FLATNESS {
            self.privilege_changed();
        }
    }

    /// Recomputes the fast path's view of all segments.
    pub(crate) fn update_fast_segments(&mut self) {
        let long64 = self.long_mode() && self.seg[seg::CS as usize].long();
        for n in [seg::ES, seg::CS, seg::SS, seg::DS, seg::FS, seg::GS] {
            self.update_fast_segment(n, long64);
        }
        self.fast[seg::FLAT as usize] = SegmentFast::flat(0);
        self.fast[seg::FLAT_SS as usize] = SegmentFast::flat(0);
    }

    /// Recomputes the fast path's view of one segment.
    pub(crate) fn update_fast_segment(&mut self, n: u8, long64: bool) {
        let segment: &Segment = &self.seg[n as usize];
        self.fast[n as usize] = match (long64, n) {
            // Whether other offsets are canonical is up to the slow path.
            (true, seg::FS | seg::GS) if self.model.is_amd() => {
                SegmentFast { read_end: 1 << 47, write_end: 1 << 47, ..SegmentFast::flat(segment.base) }
            }
            (true, seg::FS | seg::GS) => SegmentFast::flat(segment.base),
            (true, _) => SegmentFast::flat(0),
            (false, _) if self.protected() && !self.v8086() => SegmentFast::legacy(segment),
            // Real-address and virtual-8086 mode check the limit, but not whether the type allows the access.
            (false, _) => {
                let end = if segment.expand_down() { 0 } else { u64::from(segment.limit) + 1 };
                SegmentFast { base: segment.base, mask: 0xffff_ffff, read_end: end, write_end: end }
            }
        };
    }

    /// Whether EFER.LMA and paging say that IA-32e mode is active but code is not 64-bit.
    pub fn compatibility_mode(&self) -> bool {
        self.efer & efer::LMA != 0 && !self.long64()
    }
}
