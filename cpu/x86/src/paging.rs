//! The CPU's side of address translation: paging parameters from the control registers, TLB contexts, and the slow path's
//! translation of one page.

use crate::control::{cr0, cr4, efer};
use crate::flags::bits;
use crate::mem::{Kind, Privilege};
use crate::nested::{GuestTag, Rights, SecondStage};
use crate::state::boundary;
use crate::svm::npt::NptCache;
use crate::{Cpu, Stop};
use core::convert::Infallible;
use ringworld_core::{FastMap, GuestPhys, GuestVirt, PAGE_MASK};
use ringworld_mmu::tlb::{ContextId, TlbEntry, TlbKind};
use ringworld_mmu::x86::ept::EptCache;
use ringworld_mmu::x86::page_cache::PageCache;
use ringworld_mmu::x86::paging::{
    self, Access, AccessKind, EntryFormat, Mode, Paging, Translation, WalkFault, load_pdptes,
};
use ringworld_mmu::{Inspector, PhysicalTables};

/// Where an access goes.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Memory: the byte's host address, its page's tracking index, and whether writes are dropped.
    Host {
        /// The byte.
        pointer: *mut u8,
        /// Index of the page in the memory's tracking arrays.
        index: usize,
        /// Read-only memory.
        rom: bool,
    },
    /// A device, or nothing.
    Device(GuestPhys),
}

/// What a TLB context stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ContextKey {
    /// Number of the address space (a PCID's present incarnation); 0 while paging is off.
    space: u64,
    /// CR0, CR4, EFER bits that take part, and the user bit.
    control: u32,
    pkru: u32,
    pkrs: u32,
    /// [`crate::mode::Mode`]: fetch tokens depend on it.
    mode: u32,
}

impl core::fmt::Display for ContextKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let privilege = match (self.control & USER != 0, self.control & AC != 0) {
            (true, _) => "user",
            (_, true) => "supervisor with AC",
            _ => "supervisor",
        };
        write!(f, "space {}, {privilege}", self.space)
    }
}

/// Bits of [`ContextKey::control`] besides the walker's parameters.
const USER: u32 = 1 << 9;
const AC: u32 = 1 << 10;

/// See [`Cpu::code_stamp`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct CodeStamp {
    pub(crate) mode: u32,
    pub(crate) context: u64,
    pub(crate) generation: u64,
}

/// Numbers address spaces and contexts, and keeps the walker's parameters.
#[derive(Debug)]
pub struct AddressSpaces {
    /// The present incarnation of each PCID of the host and of each guest.
    spaces: FastMap<(Option<GuestTag>, u16), u64>,
    next_space: u64,
    /// The contexts of the present address space: supervisor, supervisor with EFLAGS.AC, user.
    keys: [ContextKey; 3],
    /// What the TLB answered for them, and for the processor's own accesses, last: mode, context and its incarnation (0: not asked).
    known: [(u32, ContextId, u64); 4],
    /// `None` while paging is off.
    pub(crate) paging: Option<Paging>,
    /// The guest that runs; `None` in the host.
    pub(crate) guest: Option<GuestTag>,
    /// The guest's second stage of translation.
    pub(crate) second_stage: Option<SecondStage>,
    /// The number of the address space of global pages; 0 without them.
    global: u64,
    /// What walks of first-stage tables have found.
    pages: PageCache,
    /// What extended page tables have said.
    pub(crate) extended: EptCache,
    /// What nested page tables have said.
    pub(crate) nested: NptCache,
    /// The second stage of the last guest that had one, and whether there was another one before.
    last_root: u64,
    several_roots: bool,
}

impl Default for AddressSpaces {
    fn default() -> Self {
        Self {
            spaces: FastMap::default(),
            next_space: 1,
            keys: [ContextKey::default(); 3],
            known: [(0, ContextId::default(), 0); 4],
            paging: None,
            guest: None,
            second_stage: None,
            global: 0,
            pages: PageCache::default(),
            extended: EptCache::default(),
            nested: NptCache::default(),
            last_root: 0,
            several_roots: false,
        }
    }
}

/// In the place of a PCID: a guest without paging.
const NO_PAGING: u16 = 0xffff;
/// In the place of a PCID: the global pages of a VPID or ASID.
const GLOBAL_PAGES: u16 = 0xfffe;

/// Address spaces that are numbered at once. When there are more, all are numbered anew, as if each had been flushed.
const MOST_SPACES: usize = 1024;

/// The VPID or ASID of a guest; the host has 0.
fn id(tag: Option<GuestTag>) -> u16 {
    tag.map_or(0, |tag| tag.id)
}

impl AddressSpaces {
    fn space(&mut self, pcid: u16) -> u64 {
        if let Some(&space) = self.spaces.get(&(self.guest, pcid)) {
            return space;
        }
        if self.spaces.len() >= MOST_SPACES {
            self.spaces.clear();
        }
        self.next_space += 1;
        self.spaces.insert((self.guest, pcid), self.next_space);
        self.next_space
    }

    /// Notices whether guests have more than one second stage.
    pub(crate) fn note_root(&mut self) {
        if let Some(root) = self.guest.map(|tag| tag.root).filter(|&root| root != 0) {
            self.several_roots |= self.last_root != 0 && self.last_root != root;
            self.last_root = root;
        }
    }

    /// Whether the running guest's VPID or ASID may have translations under other second stages, too: what a guest flushes is
    /// flushed under all of them (SDM 3C 30.4.3.1).
    fn has_siblings(&self) -> bool {
        self.several_roots && self.guest.is_some()
    }
}

/// The translation of an address without paging.
pub(crate) fn unpaged(linear: u64) -> Translation {
    Translation {
        gpa: GuestPhys(linear & 0xffff_ffff),
        shift: 12,
        writable: true,
        user: true,
        executable: true,
        dirty: true,
        global: false,
        pat_index: 0,
        key: 0,
    }
}

impl Cpu {
    /// CR4.PCIDE: the current PCID, else 0.
    pub fn pcid(&self) -> u16 {
        if self.cr4 & cr4::PCIDE != 0 { self.cr3 as u16 & 0xfff } else { 0 }
    }

    /// MAXPHYADDR.
    pub fn physical_bits(&self) -> u8 {
        self.model.physical_bits()
    }

    /// Recomputes the walker's parameters and selects the contexts, after anything that they depend on has changed.
    pub(crate) fn update_context(&mut self) {
        if self.cr0 & cr0::PG == 0 {
            self.spaces.paging = None;
        } else {
            self.update_paging();
        }
        self.number_contexts();
        self.select_context();
    }

    /// The walker's parameters while paging is on.
    fn update_paging(&mut self) {
        let mode = match (self.long_mode(), self.cr4 & cr4::PAE != 0) {
            (true, _) if self.cr4 & cr4::LA57 != 0 => Mode::Level5,
            (true, _) => Mode::Level4,
            (false, true) => Mode::Pae,
            (false, false) => Mode::Bits32,
        };
        let format = EntryFormat {
            mode,
            nxe: self.efer & efer::NXE != 0,
            pse: self.cr4 & cr4::PSE != 0,
            pse36: self.model.has_pse36(),
            pages_1g: self.model.has_pages_1g(),
            max_phys_bits: self.physical_bits(),
            amd: self.model.is_amd(),
        };
        // The bits that a format reserves are not worked out again.
        if self.spaces.paging.as_ref().is_none_or(|known| known.format() != format) {
            self.spaces.paging = None;
        }
        let long = self.long_mode();
        let paging = self.spaces.paging.get_or_insert_with(|| Paging::new(format));
        paging.cr3 = self.cr3;
        paging.pdptes = self.pdptes;
        paging.wp = self.cr0 & cr0::WP != 0;
        paging.smep = self.cr4 & cr4::SMEP != 0;
        paging.smap = self.cr4 & cr4::SMAP != 0;
        paging.pge = self.cr4 & cr4::PGE != 0;
        paging.pkru = if long && self.cr4 & cr4::PKE != 0 { self.pkru } else { 0 };
        paging.pkrs = if long && self.cr4 & cr4::PKS != 0 { self.msrs.pkrs as u32 } else { 0 };
    }

    /// Numbers the contexts of the present address space: supervisor, supervisor with EFLAGS.AC, user.
    fn number_contexts(&mut self) {
        let (space, control, pkru, pkrs) = match &self.spaces.paging {
            None if self.spaces.guest.is_some() => (self.spaces.space(NO_PAGING), 1 << 11, 0, 0),
            None => (0, 0, 0, 0),
            Some(p) => {
                let (wp, smep, smap, pkru, pkrs) = (p.wp, p.smep, p.smap, p.pkru, p.pkrs);
                let nxe = p.format().nxe;
                let mode = p.format().mode as u32;
                let pcid = self.pcid();
                let pse = self.cr4 & cr4::PSE != 0;
                let control = mode
                    | u32::from(wp) << 3
                    | u32::from(smep) << 4
                    | u32::from(smap) << 5
                    | u32::from(nxe) << 6
                    | u32::from(pse) << 7;
                (self.spaces.space(pcid), control | 1 << 8, pkru, pkrs)
            }
        };
        let global = self.spaces.paging.is_some_and(|paging| paging.pge);
        self.spaces.global = if global { self.spaces.space(GLOBAL_PAGES) } else { 0 };
        // Without paging there is one context; without SMAP, EFLAGS.AC changes nothing.
        let user = if space != 0 { USER } else { 0 };
        let ac = if self.spaces.paging.is_some_and(|p| p.smap) { AC } else { 0 };
        self.spaces.known = [(0, ContextId::default(), 0); 4];
        self.spaces.keys = [control, control | ac, control | user].map(|control| ContextKey {
            space,
            control,
            pkru,
            pkrs,
            mode: 0,
        });
    }

    /// Selects the TLB context for the present privilege and EFLAGS.AC.
    #[inline]
    pub(crate) fn select_context(&mut self) {
        let which = if self.cpl == 3 { 2 } else { usize::from(self.flags.has(bits::AC)) };
        self.context = match self.known_context(which) {
            Some(context) => context,
            None => {
                let key = ContextKey { mode: self.mode.0, ..self.spaces.keys[which] };
                let context = self.tlb.context(&key);
                self.spaces.known[which] = (self.mode.0, context, self.tlb.incarnation(context));
                context
            }
        };
        // Alignment checks are made in the slow path.
        self.tlb.select(self.context, self.alignment_checked());
    }

    /// A context of the present address space, if it has been asked for in this mode and not been replaced since.
    #[inline]
    fn known_context(&self, which: usize) -> Option<ContextId> {
        self.known_in(which, self.mode.0)
    }

    #[inline]
    fn known_in(&self, which: usize, mode: u32) -> Option<ContextId> {
        let (known, context, incarnation) = self.spaces.known[which];
        let same = incarnation != 0 && known == mode && self.tlb.incarnation(context) == incarnation;
        same.then_some(context)
    }

    /// The context of the processor's own accesses: a supervisor's, whatever EFLAGS.AC is.
    pub(crate) fn implicit_context(&mut self) -> ContextId {
        let mode = self.mode.supervisor().0;
        self.known_in(3, mode).unwrap_or_else(|| {
            let context = self.tlb.context(&ContextKey { mode, ..self.spaces.keys[0] });
            self.spaces.known[3] = (mode, context, self.tlb.incarnation(context));
            context
        })
    }

    /// For supervisor code of the present address space, with EFLAGS.AC clear and set: the TLB arrays that translated code
    /// may change to by itself; zero where [`Self::select_context`] has to be asked.
    #[inline]
    pub fn supervisor_arrays(&self) -> [u64; 2] {
        if self.cpl != 0 {
            return [0; 2];
        }
        let arrays = |which| {
            let context = self.known_context(which)?;
            self.tlb.selectable(context).map(|arrays| arrays as u64)
        };
        [arrays(0).unwrap_or(0), arrays(1).unwrap_or(0)]
    }

    /// After translated code has changed EFLAGS.AC and the arrays that it uses by itself.
    pub fn arrays_changed(&mut self) {
        self.select_context();
    }

    /// Forgets the address spaces that `which` chooses, and their translations. [`Self::update_context`] has to follow.
    pub(crate) fn forget_spaces(&mut self, which: impl Fn((Option<GuestTag>, u16)) -> bool) {
        let mut dead = Vec::new();
        self.spaces.spaces.retain(|&key, &mut space| {
            let forget = which(key);
            if forget {
                dead.push(space);
            }
            !forget
        });
        self.tlb.retire(|key| dead.contains(&key.space));
    }

    /// Forgets the translations of all PCIDs of the host, or of the running guest's VPID or ASID, global pages included (SDM
    /// 3A 5.10.4.1, 3C 30.4.3.1). [`Self::update_context`] has to follow.
    pub(crate) fn forget_all(&mut self) {
        let running = id(self.spaces.guest);
        self.forget_spaces(|(tag, _)| id(tag) == running);
        self.end_block();
    }

    /// The same, at once (INVPCID type 2).
    pub fn flush_all(&mut self) {
        self.forget_all();
        self.update_context();
    }

    /// Forgets all that was ever translated, for whomever: what a TLB may keep must not show (reset, snapshots), or depends on
    /// what has changed (the local APIC's address).
    pub fn flush_everything(&mut self) {
        self.tlb.forget();
        self.spaces.spaces.clear();
        self.spaces.extended.forget(|_| true);
        self.spaces.nested.forget(|_| true);
        self.drop_code_lookups();
        self.update_context();
    }

    /// Flushes one PCID's translations, except for global pages.
    pub fn flush_pcid(&mut self, pcid: u16) {
        if self.spaces.has_siblings() {
            let running = id(self.spaces.guest);
            self.forget_spaces(|(tag, of)| of == pcid && id(tag) == running);
        } else if let Some(&old) = self.spaces.spaces.get(&(self.spaces.guest, pcid)) {
            self.spaces.next_space += 1;
            let space = self.spaces.next_space;
            self.spaces.spaces.insert((self.spaces.guest, pcid), space);
            self.tlb.drop_local(|key| (key.space == old).then_some(ContextKey { space, ..*key }));
        }
        self.update_context();
    }

    /// Flushes the translations of all PCIDs, which INVPCID type 3 asks for but for global pages.
    pub fn flush_non_global(&mut self) {
        self.flush_all();
    }

    /// INVLPG: flushes one page in the current PCID, and its global translations in all.
    pub fn flush_page(&mut self, linear: u64) {
        self.spaces.pages.remove(linear);
        let space = self.spaces.keys[0].space;
        let code = if self.spaces.has_siblings() {
            let (running, pcid) = (id(self.spaces.guest), self.pcid());
            let siblings = self.spaces_of(|(tag, of)| of == pcid && id(tag) == running);
            self.tlb.flush_page(GuestVirt(linear), |key| key.space == space || siblings.contains(&key.space))
        } else {
            self.tlb.flush_page(GuestVirt(linear), |key| key.space == space)
        };
        if code {
            self.drop_code_lookups();
        }
    }

    /// The numbers of the address spaces that `which` chooses.
    fn spaces_of(&self, which: impl Fn((Option<GuestTag>, u16)) -> bool) -> Vec<u64> {
        self.spaces.spaces.iter().filter(|(key, _)| which(**key)).map(|(_, &space)| space).collect()
    }

    /// What an earlier walk of the first stage has found, if the access needs no other one: it is allowed, and has no flag to
    /// set.
    pub(crate) fn known_page(&self, paging: &Paging, linear: u64, access: Access) -> Option<Translation> {
        let ContextKey { space, control, .. } = self.spaces.keys[0];
        let page = self.spaces.pages.get([space, self.spaces.global], control, linear)?;
        let serves = page.dirty || access.kind != AccessKind::Write;
        (serves && paging.denies(&page, access).is_none()).then_some(page)
    }

    /// Keeps what a walk of the first stage has found.
    pub(crate) fn keep_page(&mut self, linear: u64, page: &Translation) {
        let ContextKey { space, control, .. } = self.spaces.keys[0];
        let space = if page.global { self.spaces.global } else { space };
        self.spaces.pages.insert(space, control, linear, *page);
    }

    /// A page fault, or a fault of the second stage, invalidates what the address space knows of the page (SDM 3A 5.10.4.1, 3C
    /// 29.4.3.1).
    fn forget_faulting(&mut self, linear: u64) {
        self.spaces.pages.remove(linear);
        let space = self.spaces.keys[0].space;
        if self.tlb.forget_page(GuestVirt(linear), |key| key.space == space) {
            self.drop_code_lookups();
        }
    }

    /// INVLPGA: flushes one page in all address spaces of the guests that `which` chooses.
    pub(crate) fn flush_guest_page(&mut self, linear: u64, which: impl Fn(GuestTag) -> bool) {
        self.spaces.pages.remove(linear);
        let spaces = self.spaces_of(|(tag, _)| tag.is_some_and(&which));
        if self.tlb.flush_page(GuestVirt(linear), |key| spaces.contains(&key.space)) {
            self.drop_code_lookups();
        }
    }

    /// Forgets which block is at which linear address.
    pub(crate) fn drop_code_lookups(&mut self) {
        self.fetch_generation += 1;
        self.end_block();
    }

    /// The linear address of the next instruction.
    #[inline(always)]
    pub(crate) fn code_linear(&self) -> u64 {
        let cs = &self.fast[crate::insn::seg::CS as usize];
        cs.base.wrapping_add(self.regs[crate::insn::REG_RIP as usize]) & cs.mask
    }

    /// What, besides the linear address, selects the block to run: mode, context, and how often look-ups were dropped.
    #[inline(always)]
    pub(crate) fn code_stamp(&self) -> CodeStamp {
        CodeStamp {
            mode: self.mode.0,
            context: self.tlb.incarnation(self.context),
            generation: self.fetch_generation,
        }
    }

    /// The bytes from RIP to the end of the code segment, outside of 64-bit mode; zero beyond it.
    pub(crate) fn code_bytes_left(&self) -> u64 {
        let limit = u64::from(self.seg[crate::insn::seg::CS as usize].limit);
        (limit + 1).saturating_sub(self.rip())
    }

    /// The bytes from RIP to the end of the code segment; raises what an instruction fetch would raise there.
    pub(crate) fn code_room(&mut self) -> Result<u64, Stop> {
        if self.long64() {
            return if self.is_canonical(self.rip()) { Ok(u64::MAX) } else { Err(self.gp0()) };
        }
        // Outside of 64-bit mode RIP has 32 bits.
        let rip = self.rip() & 0xffff_ffff;
        self.set_rip(rip);
        match self.code_bytes_left() {
            0 => Err(self.gp0()),
            left => Ok(left),
        }
    }

    /// Translates one page's worth of an access, entering it into the TLB; raises #PF.
    pub(crate) fn translate(&mut self, linear: u64, kind: Kind, who: Privilege) -> Result<Target, Stop> {
        let context = match who {
            Privilege::Current => self.context,
            Privilege::Implicit => self.implicit_context(),
        };
        let tlb_kind = match kind {
            Kind::Read => TlbKind::Read,
            Kind::Write => TlbKind::Write,
            Kind::Fetch => TlbKind::Fetch,
        };
        if let Some(page) = self.tlb.find(context, linear, tlb_kind) {
            return Ok(self.target(GuestPhys(page | linear & PAGE_MASK), kind));
        }
        if kind == Kind::Write
            && let Some(page) = self.tlb.find_tracked(context, linear)
        {
            let target = self.target(GuestPhys(page | linear & PAGE_MASK), kind);
            // A page that holds no code any more gets its write tag back.
            if let Target::Host { index, .. } = target
                && self.memory.is_code(index)
            {
                return Ok(target);
            }
        }
        let (page, rights) = match self.walk(linear, kind, who) {
            Ok(walked) => walked,
            Err(stop) => {
                self.forget_faulting(linear);
                return Err(stop);
            }
        };
        let target = self.target(page.gpa, kind);
        // A pointer for writes only stays out of the TLB, where one pointer serves all kinds.
        if let Target::Host { pointer, index, rom } = target
            && !(kind == Kind::Write && self.memory.is_split(page.gpa))
        {
            self.enter(linear, kind, who, context, (&page, rights), (pointer, index, rom));
        }
        Ok(target)
    }

    fn target(&self, gpa: GuestPhys, kind: Kind) -> Target {
        if self.lapic_claims(gpa) || self.page_is_virtual(gpa) {
            return Target::Device(gpa);
        }
        let page = if kind == Kind::Write { self.memory.page_to_write(gpa) } else { self.memory.page(gpa) };
        match page {
            Some(page) => Target::Host {
                pointer: page.ptr.wrapping_add(gpa.page_offset() as usize),
                index: page.index,
                rom: page.rom,
            },
            None => Target::Device(gpa),
        }
    }

    /// Walks the tables for an access.
    fn walk(&mut self, linear: u64, kind: Kind, who: Privilege) -> Result<(Translation, Rights), Stop> {
        if self.spaces.second_stage.is_some() {
            return self.walk_nested(linear, kind, who);
        }
        let Some(paging) = &self.spaces.paging else {
            return Ok((unpaged(linear), Rights::ALL));
        };
        let access = self.access(kind, who);
        if let Some(page) = self.known_page(paging, linear, access) {
            return Ok((page, Rights::ALL));
        }
        self.counters.walks += 1;
        match paging::walk(paging, GuestVirt(linear), access, &mut PhysicalTables(&self.memory)) {
            Ok(page) => {
                self.keep_page(linear, &page);
                Ok((page, Rights::ALL))
            }
            Err(WalkFault::Page(fault)) => Err(self.page_fault(linear, fault.error_code)),
            Err(WalkFault::Table(never)) => match never {},
        }
    }

    pub(crate) fn access(&self, kind: Kind, who: Privilege) -> Access {
        let current = who == Privilege::Current;
        Access {
            kind: match kind {
                Kind::Read => AccessKind::Read,
                Kind::Write => AccessKind::Write,
                Kind::Fetch => AccessKind::Fetch,
            },
            user: current && self.cpl == 3,
            ac: current && self.flags.has(bits::AC),
        }
    }

    /// Enters a translation, with the tags that later accesses may use without looking.
    fn enter(
        &mut self,
        linear: u64,
        kind: Kind,
        who: Privilege,
        context: ContextId,
        (page, rights): (&Translation, Rights),
        (pointer, index, rom): (*mut u8, usize, bool),
    ) {
        let base = linear & !PAGE_MASK;
        let watched = self.data_breakpoints && self.page_is_watched(base);
        let allowed = |cpu: &Self, kind| match &cpu.spaces.paging {
            Some(paging) => paging.denies(page, cpu.access(kind, who)).is_none(),
            None => true,
        };
        let readable = !watched && rights.read && (kind == Kind::Read || allowed(self, Kind::Read));
        // The dirty flag must be set in the tables, and the write path may not skip code or read-only memory.
        let tracked = !watched
            && !rom
            && page.dirty
            && rights.write
            && (kind == Kind::Write || allowed(self, Kind::Write));
        let writable = tracked && !self.memory.is_code(index);
        if writable {
            self.memory.set_dirty(index);
        }
        let entry = TlbEntry {
            read: readable,
            write: writable,
            fetch: kind == Kind::Fetch,
            host: (pointer as usize).wrapping_sub((linear & PAGE_MASK) as usize),
            physical_page: page.gpa.page().0,
            page_shift: page.shift,
            mode: self.mode.0,
            global: page.global && self.cr4 & cr4::PGE != 0,
            tracked,
        };
        self.tlb.insert(context, linear, entry);
    }

    /// Reads bytes of code without caching them (device memory, the end of a segment).
    pub(crate) fn fetch_bytes(&mut self, linear: u64, data: &mut [u8]) -> Result<(), Stop> {
        match self.translate(linear, Kind::Fetch, Privilege::Current)? {
            Target::Host { pointer, .. } => {
                let room = (PAGE_MASK + 1 - (linear & PAGE_MASK)) as usize;
                let len = data.len().min(room);
                // SAFETY: `pointer` is the host address of a byte in a mapped guest page; `len` bytes stay in the page.
                unsafe { core::ptr::copy_nonoverlapping(pointer, data.as_mut_ptr(), len) };
            }
            Target::Device(address) => {
                let platform = self.platform.clone();
                platform.mmio_read(self.io_context(), address, data);
                self.boundary |= boundary::INTERRUPT;
            }
        }
        Ok(())
    }

    /// Loads the PDPTE registers for PAE paging (SDM 3A 4.4.1): #GP(0) on reserved bits.
    pub(crate) fn load_pdptes(&mut self, cr3: u64) -> Result<(), Stop> {
        if self.spaces.second_stage.is_some() {
            return self.load_pdptes_nested(cr3);
        }
        let loaded: Result<_, paging::PdpteFault<Infallible>> =
            load_pdptes(cr3, self.physical_bits(), &mut PhysicalTables(&self.memory));
        match loaded {
            Ok(pdptes) => {
                self.pdptes = pdptes;
                Ok(())
            }
            Err(_) => Err(self.gp0()),
        }
    }

    /// Translates an address as the running code would read it, without any side effect; for monitors and debuggers.
    pub fn debug_translate(&self, linear: u64) -> Option<GuestPhys> {
        let access = Access { kind: AccessKind::Read, user: false, ac: true };
        if let Some(SecondStage::Npt(_)) = &self.spaces.second_stage {
            return self.svm_debug_translate(linear, access);
        }
        if let Some(SecondStage::Ept(_)) = &self.spaces.second_stage {
            return self.inspect_nested(linear).and_then(|walk| walk.result.ok());
        }
        let Some(paging) = &self.spaces.paging else { return Some(GuestPhys(linear & 0xffff_ffff)) };
        let mut paging = *paging;
        paging.pkru = 0;
        paging.pkrs = 0;
        paging::walk(&paging, GuestVirt(linear), access, &mut Inspector::new(&self.memory))
            .ok()
            .map(|page| page.gpa)
    }

    /// The walker's parameters; `None` while paging is off. For a monitor's own walk.
    pub fn paging(&self) -> Option<&Paging> {
        self.spaces.paging.as_ref()
    }
}
