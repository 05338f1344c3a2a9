//! Memory access by instructions: the inline fast path, and the slow path that checks everything.
//!
//! The fast path asks two things: does the segment's limit allow the offset, and does the TLB entry of the linear
//! address match. Whatever is not plain (page crossing, devices, code pages, watchpoints, alignment checks, faults) makes
//! one of them fail, and the slow path decides.

use crate::control::cr0;
use crate::flags::bits;
use crate::insn::{Insn, seg};
use crate::paging::Target;
use crate::{Cpu, Stop};
use ringworld_core::{GuestPhys, PAGE_MASK};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A value that can be loaded and stored: plain old data of 1 to 64 bytes.
pub trait MemValue: Copy + FromBytes + IntoBytes + Immutable {
    /// Size in bytes.
    const SIZE: u64 = size_of::<Self>() as u64;
}
impl<T: Copy + FromBytes + IntoBytes + Immutable> MemValue for T {}

/// Kind of a data access or fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Data read.
    Read,
    /// Data write (also the read half of a read-modify-write).
    Write,
    /// Instruction fetch.
    Fetch,
}

/// On whose behalf memory is accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// The running code's.
    Current,
    /// The processor's own (descriptor tables, TSS): supervisor, SMAP not overridden by EFLAGS.AC (SDM 3A 4.6).
    Implicit,
}

/// What an access to a device's memory takes, in nanoseconds: about a round trip on PCI Express. Guests calibrate clocks by
/// reading one device for as long as another says.
const MMIO_NS: u64 = 250;

impl Cpu {
    #[inline(always)]
    fn fast_pointer<T: MemValue>(&self, segment: u8, offset: u64, kind: Kind) -> Option<*mut u8> {
        self.fast_range(segment, offset, T::SIZE, kind)
    }

    /// The same for `size` (1 to 4096) bytes.
    #[inline(always)]
    pub(crate) fn fast_range(&self, segment: u8, offset: u64, size: u64, kind: Kind) -> Option<*mut u8> {
        let fast = &self.fast[(segment & 7) as usize];
        let linear = fast.base.wrapping_add(offset) & fast.mask;
        let end = if kind == Kind::Write { fast.write_end } else { fast.read_end };
        if offset.wrapping_add(size) > end {
            return None;
        }
        let arrays = self.tlb.current();
        if kind == Kind::Write {
            arrays.write_pointer(linear, size)
        } else {
            arrays.read_pointer(linear, size)
        }
    }

    /// Reads from `offset` in a segment.
    #[inline(always)]
    pub fn read<T: MemValue>(&mut self, segment: u8, offset: u64) -> Result<T, Stop> {
        if let Some(pointer) = self.fast_pointer::<T>(segment, offset, Kind::Read) {
            // SAFETY: a matching read tag means that the page is mapped guest RAM and that the access stays in it. Guest
            // memory is only ever accessed through raw pointers, and T is valid for any bytes.
            return Ok(unsafe { pointer.cast::<T>().read_unaligned() });
        }
        self.read_slow(segment, offset)
    }

    /// Writes to `offset` in a segment.
    #[inline(always)]
    pub fn write<T: MemValue>(&mut self, segment: u8, offset: u64, value: T) -> Result<(), Stop> {
        if let Some(pointer) = self.fast_pointer::<T>(segment, offset, Kind::Write) {
            // SAFETY: as in `read`, with a write tag: the page is RAM, dirty already, and holds no decoded code.
            unsafe { pointer.cast::<T>().write_unaligned(value) };
            return Ok(());
        }
        self.write_slow(segment, offset, value)
    }

    /// Reads, for a write to the same place that follows: faults as the write would.
    #[inline(always)]
    pub fn read_for_write<T: MemValue>(&mut self, segment: u8, offset: u64) -> Result<T, Stop> {
        if let Some(pointer) = self.fast_pointer::<T>(segment, offset, Kind::Write) {
            // SAFETY: as in `read`: a page with a write tag is mapped guest RAM.
            return Ok(unsafe { pointer.cast::<T>().read_unaligned() });
        }
        self.read_for_write_slow(segment, offset)
    }

    /// Loads the memory operand.
    #[inline(always)]
    pub fn load<T: MemValue>(&mut self, i: &Insn) -> Result<T, Stop> {
        self.read(i.segment(), self.effective_address(i))
    }

    /// Stores to the memory operand.
    #[inline(always)]
    pub fn store<T: MemValue>(&mut self, i: &Insn, value: T) -> Result<(), Stop> {
        self.write(i.segment(), self.effective_address(i), value)
    }

    /// Reads, modifies and writes the memory operand: faults before `modify` runs.
    #[inline(always)]
    pub fn modify<T: MemValue>(
        &mut self,
        i: &Insn,
        modify: impl FnOnce(&mut Self, T) -> T,
    ) -> Result<(), Stop> {
        let offset = self.effective_address(i);
        let old = self.read_for_write(i.segment(), offset)?;
        let new = modify(self, old);
        self.write(i.segment(), offset, new)
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: MemValue>(&mut self, segment: u8, offset: u64) -> Result<T, Stop> {
        let mut value = [0; 64];
        let bytes = &mut value[..size_of::<T>()];
        let linear = self.check_operand(segment, offset, T::SIZE, Kind::Read)?;
        self.access_linear(linear, Kind::Read, Privilege::Current, AccessBytes::Read(bytes))?;
        Ok(T::read_from_bytes(&value[..size_of::<T>()]).unwrap_or(T::new_zeroed()))
    }

    #[cold]
    #[inline(never)]
    fn read_for_write_slow<T: MemValue>(&mut self, segment: u8, offset: u64) -> Result<T, Stop> {
        let mut value = [0; 64];
        let bytes = &mut value[..size_of::<T>()];
        let linear = self.check_operand(segment, offset, T::SIZE, Kind::Write)?;
        self.access_linear(linear, Kind::Write, Privilege::Current, AccessBytes::Read(bytes))?;
        Ok(T::read_from_bytes(&value[..size_of::<T>()]).unwrap_or(T::new_zeroed()))
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: MemValue>(&mut self, segment: u8, offset: u64, value: T) -> Result<(), Stop> {
        let linear = self.check_operand(segment, offset, T::SIZE, Kind::Write)?;
        self.access_linear(linear, Kind::Write, Privilege::Current, AccessBytes::Write(value.as_bytes()))
    }

    /// Reads `data.len()` (at most 4096) bytes; any size, slower than [`Self::read`].
    pub fn read_bytes(&mut self, segment: u8, offset: u64, data: &mut [u8]) -> Result<(), Stop> {
        if let Some(pointer) = self.fast_range(segment, offset, data.len() as u64, Kind::Read) {
            // SAFETY: a matching read tag means that the page is mapped guest RAM and that the access stays in it; guest memory
            // is never borrowed.
            unsafe { core::ptr::copy_nonoverlapping(pointer, data.as_mut_ptr(), data.len()) };
            return Ok(());
        }
        let linear = self.check_segment(segment, offset, data.len() as u64, Kind::Read)?;
        self.access_linear(linear, Kind::Read, Privilege::Current, AccessBytes::Read(data))
    }

    /// Writes `data.len()` (at most 4096) bytes; any size. Nothing is written if any byte faults.
    pub fn write_bytes(&mut self, segment: u8, offset: u64, data: &[u8]) -> Result<(), Stop> {
        if let Some(pointer) = self.fast_range(segment, offset, data.len() as u64, Kind::Write) {
            // SAFETY: as in `read_bytes`, with a write tag: the page is RAM, dirty already, and holds no decoded code.
            unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), pointer, data.len()) };
            return Ok(());
        }
        let linear = self.check_segment(segment, offset, data.len() as u64, Kind::Write)?;
        self.access_linear(linear, Kind::Write, Privilege::Current, AccessBytes::Write(data))
    }

    /// Checks that `len` (1 to 4096) bytes could be accessed; raises what the access would raise.
    pub fn probe(&mut self, segment: u8, offset: u64, len: u64, kind: Kind) -> Result<(), Stop> {
        if kind != Kind::Fetch && self.fast_range(segment, offset, len, kind).is_some() {
            return Ok(());
        }
        let linear = self.check_segment(segment, offset, len, kind)?;
        let misaligned = self.alignment_checked() && linear & self.alignment_mask(len) != 0;
        if misaligned && self.model.is_amd() {
            return Err(self.ac());
        }
        self.translate(linear, kind, Privilege::Current)?;
        if misaligned {
            return Err(self.ac());
        }
        self.probe_linear(linear, len, kind)
    }

    /// The page faults of an access to `len` (1 to 4096) bytes.
    pub(crate) fn probe_linear(&mut self, linear: u64, len: u64, kind: Kind) -> Result<(), Stop> {
        self.translate(linear, kind, Privilege::Current)?;
        let last = linear.wrapping_add(len - 1) & self.operand_mask();
        if (linear ^ last) & !PAGE_MASK != 0 {
            self.translate(last & !PAGE_MASK, kind, Privilege::Current)?;
        }
        Ok(())
    }

    /// Reads a structure of the processor's own (descriptor, TSS field) at a linear address.
    pub fn read_system<T: MemValue>(&mut self, linear: u64) -> Result<T, Stop> {
        let linear = linear & self.linear_mask();
        let context = self.implicit_context();
        if let Some(pointer) = self.tlb.of(context).read_pointer(linear, T::SIZE) {
            // SAFETY: as in `read`.
            return Ok(unsafe { pointer.cast::<T>().read_unaligned() });
        }
        let mut value = [0; 64];
        self.access_linear(
            linear,
            Kind::Read,
            Privilege::Implicit,
            AccessBytes::Read(&mut value[..size_of::<T>()]),
        )?;
        Ok(T::read_from_bytes(&value[..size_of::<T>()]).unwrap_or(T::new_zeroed()))
    }

    /// Writes a structure of the processor's own at a linear address.
    pub fn write_system<T: MemValue>(&mut self, linear: u64, value: T) -> Result<(), Stop> {
        let linear = linear & self.linear_mask();
        self.access_linear(linear, Kind::Write, Privilege::Implicit, AccessBytes::Write(value.as_bytes()))
    }

    /// Width of linear addresses: 64 bits while IA-32e mode is active (system structures), else 32.
    #[inline]
    pub(crate) fn linear_mask(&self) -> u64 {
        if self.long_mode() { u64::MAX } else { 0xffff_ffff }
    }

    /// Width of the linear addresses of operands: compatibility mode wraps at 4 GiB, too.
    #[inline]
    fn operand_mask(&self) -> u64 {
        if self.long64() { u64::MAX } else { 0xffff_ffff }
    }

    /// Whether `linear` is canonical under the present paging mode (48 or 57 bits).
    #[inline]
    pub fn is_canonical(&self, linear: u64) -> bool {
        let unused = if self.cr4 & crate::control::cr4::LA57 != 0 { 7 } else { 16 };
        ((linear as i64) << unused >> unused) as u64 == linear
    }

    fn check_operand(&mut self, segment: u8, offset: u64, size: u64, kind: Kind) -> Result<u64, Stop> {
        let mask = if self.alignment_checked() { self.alignment_mask(size) } else { 0 };
        let aligned = mask == 0;
        // Intel: alignment comes before a canonical address's successor that is not.
        let checked = if aligned || !self.long64() || self.model.is_amd() { size } else { 1 };
        let linear = self.check_segment(segment, offset, checked, kind)?;
        if linear & mask != 0 {
            return Err(self.ac());
        }
        if checked < size {
            self.check_segment(segment, offset, size, kind)?;
        }
        Ok(linear)
    }

    /// Whether `linear` is canonical for the widest paging mode that the processor has: the check of descriptor-table
    /// bases, INVPCID and most MSRs, whatever CR4.LA57 says (SDM 1 3.3.7.1).
    pub fn is_canonical_max(&self, linear: u64) -> bool {
        let unused = 64 - u32::from(self.model.linear_bits());
        ((linear as i64) << unused >> unused) as u64 == linear
    }

    /// Alignment checking is on: CR0.AM, EFLAGS.AC and CPL 3 (SDM 3A 6.15, #AC).
    #[inline]
    pub fn alignment_checked(&self) -> bool {
        self.cpl == 3 && self.cr0 & cr0::AM != 0 && self.flags.has(bits::AC)
    }

    /// The address bits that alignment checking wants to be zero. Intel checks operands of up to 8 bytes; AMD those of vector
    /// instructions, too, of which none asks for more than 16 bytes (APM 1 4.6.1, APM 2 8.2.18). x87 and XSAVE know their own rules.
    fn alignment_mask(&self, size: u64) -> u64 {
        match size {
            _ if !size.is_power_of_two() => 0,
            ..=8 => size - 1,
            16..=64 if self.model.is_amd() => 15,
            _ => 0,
        }
    }

    /// Segment-level checks of an access (SDM 3A 5.3–5.5): returns the linear address.
    pub fn check_segment(&mut self, segment: u8, offset: u64, size: u64, kind: Kind) -> Result<u64, Stop> {
        let n = segment & 7;
        let stack = n == seg::SS || n == seg::FLAT_SS;
        let fault = |cpu: &mut Self| if stack { cpu.ss(0) } else { cpu.gp(0) };
        if self.long64() {
            let linear = self.fast[n as usize].base.wrapping_add(offset);
            let is_canonical =
                |at: u64| self.is_canonical(at) && self.is_canonical(at.wrapping_add(size - 1));
            // AMD's silicon looks at what is added to the base, too (measured on Zen 3).
            let based = matches!(n, seg::FS | seg::GS) && self.model.is_amd();
            if !is_canonical(linear) || based && !is_canonical(offset) {
                return Err(fault(self));
            }
            return Ok(linear);
        }
        let s = self.seg[(n % 6) as usize];
        let allowed = if self.mode.real_or_v8086() {
            true
        } else {
            !s.unusable
                && match kind {
                    Kind::Read => s.readable(),
                    Kind::Write => s.writable(),
                    Kind::Fetch => true,
                }
        };
        // Whether an access may wrap around a 4-GiB segment is the processor's choice (SDM 3A 5.3): Intel's may, AMD's not.
        let wraps = offset.wrapping_add(size) > 1 << 32 && self.model.is_amd();
        if !allowed || wraps || !s.contains(offset, size) {
            return Err(fault(self));
        }
        Ok(s.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Accesses up to 4096 bytes at a linear address. All pages are translated before the first byte moves.
    fn access_linear(
        &mut self,
        linear: u64,
        kind: Kind,
        who: Privilege,
        mut bytes: AccessBytes<'_>,
    ) -> Result<(), Stop> {
        self.counters.slow_accesses += 1;
        let len = bytes.len();
        if len == 0 {
            return Ok(());
        }
        let in_first = ((PAGE_MASK + 1 - (linear & PAGE_MASK)) as usize).min(len);
        if in_first < len
            && who == Privilege::Current
            && self.access_across(linear, kind, in_first, &mut bytes)
        {
            return Ok(());
        }
        let first = self.translate(linear, kind, who)?;
        let second = if in_first < len {
            let mask = if who == Privilege::Current { self.operand_mask() } else { self.linear_mask() };
            let next = linear.wrapping_add(in_first as u64) & mask;
            Some(self.translate(next, kind, who)?)
        } else {
            None
        };
        if let Target::Device(address) = first {
            self.intercept_device_access(address, linear, len, kind)?;
        }
        if self.data_breakpoints {
            self.check_data_breakpoints(linear, len as u64, kind);
        }
        self.move_bytes(first, bytes.part(0, in_first));
        if let Some(second) = second {
            self.move_bytes(second, bytes.part(in_first, len));
        }
        Ok(())
    }

    /// An access of which `in_first` bytes are in its first page, if the fast path may access both pages; says if it did.
    fn access_across(
        &mut self,
        linear: u64,
        kind: Kind,
        in_first: usize,
        bytes: &mut AccessBytes<'_>,
    ) -> bool {
        let next = linear.wrapping_add(in_first as u64) & self.operand_mask();
        let (arrays, rest) = (self.tlb.current(), (bytes.len() - in_first) as u64);
        let pointers = match kind {
            Kind::Write => (arrays.write_pointer(linear, in_first as u64), arrays.write_pointer(next, rest)),
            _ => (arrays.read_pointer(linear, in_first as u64), arrays.read_pointer(next, rest)),
        };
        let (Some(first), Some(second)) = pointers else { return false };
        // SAFETY: matching tags mean that each part lies in a page of mapped guest RAM, and with write tags in one that is dirty
        // already and holds no decoded code; guest memory is never borrowed.
        unsafe {
            match bytes {
                AccessBytes::Read(data) => {
                    core::ptr::copy_nonoverlapping(first, data.as_mut_ptr(), in_first);
                    core::ptr::copy_nonoverlapping(
                        second,
                        data.as_mut_ptr().add(in_first),
                        data.len() - in_first,
                    );
                }
                AccessBytes::Write(data) => {
                    core::ptr::copy_nonoverlapping(data.as_ptr(), first, in_first);
                    core::ptr::copy_nonoverlapping(
                        data.as_ptr().add(in_first),
                        second,
                        data.len() - in_first,
                    );
                }
            }
        }
        true
    }

    fn move_bytes(&mut self, target: Target, bytes: AccessBytes<'_>) {
        match (target, bytes) {
            (Target::Host { pointer, .. }, AccessBytes::Read(data)) => {
                // SAFETY: `translate` returned a pointer into mapped guest RAM, and `access_linear` keeps each part within
                // its page. Guest memory is never borrowed, so the ranges cannot overlap.
                unsafe { core::ptr::copy_nonoverlapping(pointer, data.as_mut_ptr(), data.len()) };
            }
            (Target::Host { pointer, index, rom }, AccessBytes::Write(data)) => {
                if rom {
                    return;
                }
                // SAFETY: as above.
                unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), pointer, data.len()) };
                self.memory.set_dirty(index);
                if self.memory.note_write(index, (pointer as usize as u32) & 0xfff, data.len() as u32) {
                    // Decoded code changed: what follows in this block may be it.
                    self.end_block();
                }
            }
            (Target::Device(address), AccessBytes::Read(data)) => self.device_read(address, data),
            (Target::Device(address), AccessBytes::Write(data)) => self.device_write(address, data),
        }
    }

    fn device_read(&mut self, address: GuestPhys, data: &mut [u8]) {
        self.counters.mmio += 1;
        self.end_block();
        if self.virtual_read(address, data) || self.lapic_read(address, data) {
            return;
        }
        let platform = self.platform.clone();
        for (n, part) in data.chunks_mut(64).enumerate() {
            platform.mmio_read(self.io_context(), address.offset(64 * n as u64), part);
        }
        self.device_cycle(MMIO_NS);
    }

    fn device_write(&mut self, address: GuestPhys, data: &[u8]) {
        self.counters.mmio += 1;
        self.end_block();
        if self.virtual_write(address, data) || self.lapic_write(address, data) {
            return;
        }
        let platform = self.platform.clone();
        for (n, part) in data.chunks(64).enumerate() {
            platform.mmio_write(self.io_context(), address.offset(64 * n as u64), part);
        }
        self.device_cycle(MMIO_NS);
    }

    /// The time of a device's answer. The machine's loop runs next: what is due has come nearer by more than one instruction.
    pub(crate) fn device_cycle(&mut self, ns: u64) {
        self.clock.bus_cycle(ns);
        self.yield_to_machine();
    }

    /// After the platform was touched: if it wants attention, this instruction is the last before the machine's loop.
    pub(crate) fn after_io(&mut self) {
        if self.platform.attention().is_raised() {
            self.yield_to_machine();
        }
    }
}

/// The bytes of a slow access.
enum AccessBytes<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl AccessBytes<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(data) => data.len(),
            Self::Write(data) => data.len(),
        }
    }

    fn part(&mut self, from: usize, to: usize) -> AccessBytes<'_> {
        match self {
            Self::Read(data) => AccessBytes::Read(&mut data[from..to]),
            Self::Write(data) => AccessBytes::Write(&data[from..to]),
        }
    }
}
