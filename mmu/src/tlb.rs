//! The software TLB: per context, a direct-mapped array that both engines look up inline.
//!
//! A *context* stands for everything that a translation depends on besides the linear address: address space (PCID, VPID,
//! EPTP, ASID), privilege class, and the control bits that change permissions. Each has arrays of its own
//! ([`Translations`]), so that changing any of these selects other arrays and flushes nothing. Flushing an address space
//! gives it a new context; the old one's arrays are cleared when they are needed again, in proportion to what they hold.
//!
//! The arrays hold *tags*: `linear + read[slot]` is 4096 plus the offset in the page if the entry matches, and 8192 at least
//! if it does not. Shifted by twelve, that is 1 or something else, which translated code can test by LOOP, without touching
//! the flags.

use crate::window::{CHUNKS, Opened};
use core::hash::Hash;
use core::ptr::NonNull;
use ringworld_core::{FastMap, GuestVirt, PAGE_MASK};
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};

/// Entries of a context; a power of two.
pub const TLB_ENTRIES: usize = 16384;
/// Contexts that are kept at once.
const CONTEXTS: usize = 64;
/// How many contexts are found without hashing their keys.
const RECENT: usize = 4;
/// Tokens that are found without hashing what they stand for.
const RECENT_TOKENS: usize = 256;
/// Entries of the index of pages by writer; a power of two.
const WRITERS: usize = 1 << 16;

/// The slot of a linear address.
#[inline(always)]
pub(crate) const fn slot(linear: u64) -> usize {
    (linear >> 12) as usize & (TLB_ENTRIES - 1)
}

/// The tag of a linear page.
const fn tag(page: u64) -> u64 {
    (PAGE_MASK + 1).wrapping_sub(page)
}

/// The linear page of a tag.
const fn page(tag: u64) -> u64 {
    // It is its own inverse.
    (PAGE_MASK + 1).wrapping_sub(tag)
}

/// What `read` and `write` hold in `slot` when nothing matches: zero, the tag of page 1, or, near that page, where an access might
/// end in it, the tag of a page that belongs half an array away.
const fn no_page(slot: usize) -> u64 {
    if is_near_zero(slot) { tag((slot as u64 ^ TLB_ENTRIES as u64 / 2) << 12) } else { 0 }
}

/// The first slot of the last pages from which an access may end in page 1: string instructions look as far ahead as 4,096 elements
/// reach, also from the last pages to the first ones.
const LAST_PAGES: usize = TLB_ENTRIES - 16;

/// Whether an access that begins at a page of this slot may end in page 1.
const fn is_near_zero(slot: usize) -> bool {
    slot < 2 || slot >= LAST_PAGES
}

/// Empties all slots.
fn clear_tags(tags: &mut [u64; TLB_ENTRIES]) {
    tags.fill(0);
    near_zero().for_each(|n| tags[n] = no_page(n));
}

fn near_zero() -> impl Iterator<Item = usize> {
    (LAST_PAGES..TLB_ENTRIES).chain(0..2)
}

/// One context's translations. Everything outside of this crate only reads the arrays.
#[repr(C, align(64))]
pub struct Translations {
    /// Tag of the linear page for reads.
    pub read: [u64; TLB_ENTRIES],
    /// Tag of the linear page for writes: the page is writable, marked dirty, and holds no decoded code.
    pub write: [u64; TLB_ENTRIES],
    /// Host address minus linear address (wrapping).
    pub host: [u64; TLB_ENTRIES],
    /// For pages that code was fetched from, the number of linear page, guest-physical page and mode, see
    /// [`Tlb::fetch_token`]; 0 for others. Translated code asks it whether a jump to another page still leads to the
    /// code that it was linked to.
    pub fetch: [u32; TLB_ENTRIES],
    /// Guest-physical page of the data entry, and in the low bits page size as log2 and [`GLOBAL`].
    pub(crate) physical: [u64; TLB_ENTRIES],
    /// Tag of the linear page of the fetch entry, which is independent of the data entry in the same slot.
    fetch_page: [u64; TLB_ENTRIES],
    /// As `physical`, for fetches.
    fetch_physical: [u64; TLB_ENTRIES],
    /// Slots that have been filled since the arrays were cleared; meaningless once it is full.
    used: Vec<u16>,
    /// Those of them that were filled with pages that are not global.
    local: Vec<u16>,
    /// A global page has been entered since.
    has_global: bool,
    /// The pages of more than 4 KiB that were entered: number and size as log2.
    large: FastMap<(u64, u8), ()>,
    /// The one of them that was entered last.
    last_large: (u64, u8),
    /// The first and the last byte of all of them.
    large_range: (u64, u64),
    /// All writes are in the slow path if this is not the TLB's.
    pub(crate) write_epoch: u64,
    /// By chunk (see [`crate::window`]), what a window's host addresses are minus linear ones; zero without one.
    pub windows: [u64; CHUNKS],
    pub(crate) opened: Option<Box<Opened>>,
}

/// In [`Translations::physical`]: the page is global.
const GLOBAL: u64 = 1 << 8;
/// In the same place: the tables allow writes, and their dirty flag is set. Without a write tag it is only tracking that wants
/// to see them.
const TRACKED: u64 = 1 << 9;
/// In the same place, the page size.
const SHIFT: u64 = 0x3f;

/// Longest journal of filled slots.
const JOURNAL: usize = TLB_ENTRIES / 4;

impl Translations {
    fn new() -> Box<Self> {
        let layout = Layout::new::<Self>();
        // SAFETY: the memory is of this type's size and alignment and is owned by nobody else; zeros are valid for all fields but
        // the four that are written; `Box` frees what the global allocator gave. Zeroed memory of this size costs nothing
        // until it is touched, and most contexts are small.
        let mut new = unsafe {
            let raw = alloc_zeroed(layout).cast::<Self>();
            if raw.is_null() {
                handle_alloc_error(layout);
            }
            (&raw mut (*raw).used).write(Vec::with_capacity(JOURNAL));
            (&raw mut (*raw).local).write(Vec::with_capacity(JOURNAL));
            (&raw mut (*raw).large).write(FastMap::default());
            (&raw mut (*raw).opened).write(None);
            Box::from_raw(raw)
        };
        near_zero().for_each(|n| new.clear_slot(n));
        new.large_range = (u64::MAX, 0);
        new
    }

    /// The page of a slot is about to change.
    #[inline]
    fn drop_from_window(&mut self, n: usize) {
        if let Some(opened) = self.opened.as_mut().filter(|opened| opened.has(n)) {
            opened.drop_page(n, page(self.read[n]));
        }
    }

    /// Many are.
    #[inline]
    fn drop_all_from_window(&mut self) {
        if let Some(opened) = &mut self.opened {
            opened.drop_pages();
        }
    }

    fn clear(&mut self) {
        self.drop_all_from_window();
        if self.used.len() < JOURNAL {
            let mut used = core::mem::take(&mut self.used);
            used.drain(..).for_each(|n| self.clear_slot(usize::from(n)));
            self.used = used;
        } else {
            [&mut self.read, &mut self.write, &mut self.fetch_page].into_iter().for_each(clear_tags);
            self.fetch.fill(0);
        }
        self.used.clear();
        self.local.clear();
        self.has_global = false;
        self.large.clear();
        self.last_large = (0, 0);
        self.large_range = (u64::MAX, 0);
    }

    /// Clears all but global pages.
    fn clear_local(&mut self) {
        if !self.has_global {
            return self.clear();
        }
        self.drop_all_from_window();
        if self.local.len() < JOURNAL {
            let mut local = core::mem::take(&mut self.local);
            local.drain(..).for_each(|n| self.clear_local_slot(usize::from(n)));
            self.local = local;
        } else {
            (0..TLB_ENTRIES).for_each(|n| self.clear_local_slot(n));
            self.local.clear();
        }
    }

    fn clear_local_slot(&mut self, n: usize) {
        if self.physical[n] & GLOBAL == 0 {
            self.read[n] = no_page(n);
            self.write[n] = no_page(n);
        }
        if self.fetch_physical[n] & GLOBAL == 0 {
            self.clear_fetch(n);
        }
    }

    /// Drops all writes.
    fn clear_writes(&mut self) {
        self.drop_all_from_window();
        if self.used.len() < JOURNAL {
            self.used.iter().for_each(|&n| self.write[usize::from(n)] = no_page(n.into()));
        } else {
            clear_tags(&mut self.write);
        }
    }

    /// Drops the writes of the pages whose place among the writers is `at`.
    fn drop_writes(&mut self, at: usize, epoch: u64) {
        if self.write_epoch != epoch {
            return;
        }
        self.drop_all_from_window();
        let Self { write, physical, used, .. } = self;
        let mut drop = |n: usize| {
            if (physical[n] >> 12) as usize & (WRITERS - 1) == at {
                write[n] = no_page(n);
            }
        };
        if used.len() < JOURNAL {
            used.iter().for_each(|&n| drop(usize::from(n)));
        } else {
            (0..TLB_ENTRIES).for_each(drop);
        }
    }

    fn clear_slot(&mut self, n: usize) {
        self.drop_from_window(n);
        self.read[n] = no_page(n);
        self.write[n] = no_page(n);
        self.clear_fetch(n);
    }

    fn clear_fetch(&mut self, n: usize) {
        self.fetch_page[n] = no_page(n);
        self.fetch[n] = 0;
    }

    /// Clears the large page that covers `linear`, if one was entered; says whether code was fetched from it.
    fn clear_covering(&mut self, linear: u64) -> bool {
        if !(self.large_range.0..=self.large_range.1).contains(&linear) {
            return false;
        }
        self.last_large = (0, 0);
        // The sizes of large pages (SDM 3A 4.2, table 4-1).
        let covering =
            [21, 22, 30].into_iter().any(|shift| self.large.remove(&(linear >> shift, shift)).is_some());
        covering && self.clear_large(linear)
    }

    /// Clears all slots of the large pages that cover `linear`; says whether code was fetched from any.
    fn clear_large(&mut self, linear: u64) -> bool {
        let mut code = false;
        let covers = |n: usize, tag: u64, physical: u64| {
            let shift = physical & SHIFT;
            tag != no_page(n) && shift > 12 && page(tag) >> shift == linear >> shift
        };
        for n in 0..TLB_ENTRIES {
            let physical = self.physical[n];
            if covers(n, self.read[n], physical) || covers(n, self.write[n], physical) {
                self.drop_from_window(n);
                self.read[n] = no_page(n);
                self.write[n] = no_page(n);
            }
            if covers(n, self.fetch_page[n], self.fetch_physical[n]) {
                code = true;
                self.clear_fetch(n);
            }
        }
        code
    }

    /// Whether `tag`, of `linear`'s slot in [`Self::read`] or [`Self::write`], matches an access of `size` bytes that stays
    /// in its page.
    #[inline(always)]
    pub const fn matches(tag: u64, linear: u64, size: u64) -> bool {
        linear.wrapping_add(tag).wrapping_add(size - 1) >> 12 == 1
    }

    /// The slot's host address if a read of `size` bytes may take it.
    #[inline(always)]
    pub fn read_pointer(&self, linear: u64, size: u64) -> Option<*mut u8> {
        let n = slot(linear);
        Self::matches(self.read[n], linear, size).then(|| self.host[n].wrapping_add(linear) as *mut u8)
    }

    /// The slot's host address if a write of `size` bytes may take it.
    #[inline(always)]
    pub fn write_pointer(&self, linear: u64, size: u64) -> Option<*mut u8> {
        let n = slot(linear);
        Self::matches(self.write[n], linear, size).then(|| self.host[n].wrapping_add(linear) as *mut u8)
    }
}

/// What is entered for a page.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlbEntry {
    /// Reads may skip the slow path.
    pub read: bool,
    /// Writes may skip it.
    pub write: bool,
    /// Code was fetched from the page.
    pub fetch: bool,
    /// Host address of the page.
    pub host: usize,
    /// Guest-physical page.
    pub physical_page: u64,
    /// Page size as log2.
    pub page_shift: u8,
    /// The page is global: it is in every address space.
    pub global: bool,
    /// Nothing but tracking of writes may stand in the way of one: [`Tlb::find_tracked`] finds the page.
    pub tracked: bool,
    /// What translated code depends on besides its page (a fetch only).
    pub mode: u32,
}

/// Kind of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlbKind {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// A context's number: it says which arrays hold it. Numbers are used again; [`Tlb::incarnation`] says for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContextId(u16);

/// Linear page, guest-physical page, mode.
type TokenKey = (u64, u64, u32);

/// Which context may write a page without the slow path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    None,
    One { context: u16, slot: u16 },
    Many,
}

/// All contexts of a CPU, by their keys.
pub struct Tlb<K> {
    contexts: Vec<NonNull<Translations>>,
    keys: Vec<Option<K>>,
    incarnations: Vec<u64>,
    by_key: FastMap<K, ContextId>,
    /// The contexts that were asked for last.
    recent: [Option<(K, ContextId)>; RECENT],
    next_recent: usize,
    /// The next to be taken for a new key.
    hand: usize,
    next_incarnation: u64,
    current: NonNull<Translations>,
    current_id: ContextId,
    /// Matches nothing: for accesses that all must take the slow path.
    barred: NonNull<Translations>,
    writers: Box<[Writer]>,
    /// Entries of `writers` that may not be [`Writer::None`]; meaningless once it is full.
    used_writers: Vec<u32>,
    pub(crate) write_epoch: u64,
    tokens: FastMap<TokenKey, u32>,
    /// Tokens asked for lately, by linear page.
    recent_tokens: Box<[(TokenKey, u32); RECENT_TOKENS]>,
}

// SAFETY: the pointers are to boxes that this value owns alone.
unsafe impl<K: Send> Send for Tlb<K> {}

impl<K> Drop for Tlb<K> {
    fn drop(&mut self) {
        for arrays in self.contexts.drain(..).chain([self.barred]) {
            // SAFETY: each came from `Box::leak` and is dropped once, here.
            drop(unsafe { Box::from_raw(arrays.as_ptr()) });
        }
    }
}

impl<K: Eq + Hash + Clone> Default for Tlb<K> {
    fn default() -> Self {
        let barred = NonNull::from(Box::leak(Translations::new()));
        Self {
            contexts: Vec::new(),
            keys: Vec::new(),
            incarnations: Vec::new(),
            by_key: FastMap::default(),
            recent: [const { None }; RECENT],
            next_recent: 0,
            hand: 0,
            next_incarnation: 1,
            current: barred,
            current_id: ContextId(u16::MAX),
            barred,
            writers: vec![Writer::None; WRITERS].into_boxed_slice(),
            used_writers: Vec::with_capacity(JOURNAL),
            write_epoch: 0,
            tokens: FastMap::default(),
            recent_tokens: Box::new([((0, 0, 0), 0); RECENT_TOKENS]),
        }
    }
}

impl<K: Eq + Hash + Clone> Tlb<K> {
    /// The arrays that accesses use now.
    #[inline(always)]
    pub fn current(&self) -> &Translations {
        // SAFETY: `current` points to one of the boxes that this value owns; nothing mutates them while `self` is borrowed.
        unsafe { self.current.as_ref() }
    }

    /// The arrays of a context.
    pub fn of(&self, context: ContextId) -> &Translations {
        // SAFETY: as in `current`.
        unsafe { self.contexts[usize::from(context.0)].as_ref() }
    }

    /// The address of the arrays that accesses use now, for translated code. It stays valid as long as the TLB lives.
    pub fn current_pointer(&self) -> *const Translations {
        self.current.as_ptr()
    }

    /// The arrays that accesses use now, if these do not all take the slow path.
    pub(crate) fn current_mut(&mut self) -> Option<&mut Translations> {
        if self.current == self.barred {
            return None;
        }
        // SAFETY: as in `current`, and `self` is borrowed mutably for as long as the result.
        Some(unsafe { self.current.as_mut() })
    }

    /// All other arrays.
    pub(crate) fn others_mut(&mut self) -> impl Iterator<Item = &mut Translations> {
        let current = self.current;
        // SAFETY: as in `current_mut`, and no two of them are the same.
        self.contexts
            .iter_mut()
            .filter(move |other| **other != current)
            .map(|other| unsafe { other.as_mut() })
    }

    fn arrays(&mut self, context: ContextId) -> &mut Translations {
        // SAFETY: as in `current`, and `self` is borrowed mutably for as long as the result.
        unsafe { self.contexts[usize::from(context.0)].as_mut() }
    }

    /// The context of a key. A new one may replace an old one.
    pub fn context(&mut self, key: &K) -> ContextId {
        for recent in &self.recent {
            if let Some((known, id)) = recent
                && known == key
            {
                return *id;
            }
        }
        let id = self.find_context(key);
        self.recent[self.next_recent] = Some((key.clone(), id));
        self.next_recent = (self.next_recent + 1) % RECENT;
        id
    }

    fn find_context(&mut self, key: &K) -> ContextId {
        if let Some(&id) = self.by_key.get(key) {
            return id;
        }
        let free =
            self.keys.iter().position(Option::is_none).filter(|&n| n != usize::from(self.current_id.0));
        let id = if let Some(free) = free {
            ContextId(free as u16)
        } else if self.contexts.len() < CONTEXTS {
            self.contexts.push(NonNull::from(Box::leak(Translations::new())));
            self.keys.push(None);
            self.incarnations.push(0);
            ContextId(self.contexts.len() as u16 - 1)
        } else {
            if self.hand == usize::from(self.current_id.0) {
                self.hand = (self.hand + 1) % CONTEXTS;
            }
            let id = ContextId(self.hand as u16);
            self.hand = (self.hand + 1) % CONTEXTS;
            id
        };
        let n = usize::from(id.0);
        if let Some(old) = self.keys[n].replace(key.clone()) {
            self.by_key.remove(&old);
            self.recent = [const { None }; RECENT];
            self.arrays(id).close_window();
            self.arrays(id).clear();
        }
        self.by_key.insert(key.clone(), id);
        self.incarnations[n] = self.next_incarnation;
        self.next_incarnation += 1;
        id
    }

    /// Makes accesses use a context's arrays, or none that matches.
    pub fn select(&mut self, context: ContextId, barred: bool) {
        self.current_id = context;
        let epoch = self.write_epoch;
        let arrays = self.arrays(context);
        if arrays.write_epoch != epoch {
            arrays.write_epoch = epoch;
            arrays.clear_writes();
        }
        self.current = if barred { self.barred } else { self.contexts[usize::from(context.0)] };
    }

    /// The arrays of a context that [`Self::select`] would select as they are.
    #[inline]
    pub fn selectable(&self, context: ContextId) -> Option<*const Translations> {
        let arrays = *self.contexts.get(usize::from(context.0))?;
        // SAFETY: as in `current`.
        (unsafe { arrays.as_ref() }.write_epoch == self.write_epoch).then_some(arrays.as_ptr().cast_const())
    }

    /// A number that no other key and no earlier use of the same arrays has had.
    pub fn incarnation(&self, context: ContextId) -> u64 {
        self.incarnations[usize::from(context.0)]
    }

    /// The guest-physical page of an entry that matches `linear` for this kind of access.
    pub fn find(&mut self, context: ContextId, linear: u64, kind: TlbKind) -> Option<u64> {
        let arrays = self.arrays(context);
        let n = slot(linear);
        let (tag, physical) = match kind {
            TlbKind::Read => (arrays.read[n], arrays.physical[n]),
            TlbKind::Write => (arrays.write[n], arrays.physical[n]),
            TlbKind::Fetch => (arrays.fetch_page[n], arrays.fetch_physical[n]),
        };
        Translations::matches(tag, linear, 1).then_some(physical & !PAGE_MASK)
    }

    /// The guest-physical page for a write that only has to be tracked ([`TlbEntry::tracked`]).
    pub fn find_tracked(&mut self, context: ContextId, linear: u64) -> Option<u64> {
        let arrays = self.arrays(context);
        let n = slot(linear);
        let physical = arrays.physical[n];
        (physical & TRACKED != 0 && Translations::matches(arrays.read[n], linear, 1))
            .then_some(physical & !PAGE_MASK)
    }

    /// The guest-physical page of the current context's fetch entry for `linear`, meaningful after a fetch.
    pub fn fetched_page(&mut self, linear: u64) -> u64 {
        let id = self.current_id;
        self.arrays(id).fetch_physical[slot(linear)] & !PAGE_MASK
    }

    /// Whether a fetch from `linear` in the current context finds its page here.
    pub fn has_fetched(&mut self, linear: u64) -> bool {
        let id = self.current_id;
        Translations::matches(self.arrays(id).fetch_page[slot(linear)], linear, 1)
    }

    /// The number of the triple (linear page, guest-physical page, mode).
    pub fn fetch_token(&mut self, linear_page: u64, physical_page: u64, mode: u32) -> u32 {
        let triple = (linear_page, physical_page, mode);
        let recent = &mut self.recent_tokens[(linear_page >> 12) as usize % RECENT_TOKENS];
        if recent.0 != triple || recent.1 == 0 {
            let next = self.tokens.len() as u32 + 1;
            *recent = (triple, *self.tokens.entry(triple).or_insert(next));
        }
        recent.1
    }

    /// How many tokens there are; a translator forgets all its code, and calls [`Self::forget_tokens`], when it is too many.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Forgets all tokens and translations: no code that was linked by a token may be left.
    pub fn forget_tokens(&mut self) {
        self.flush();
        self.tokens.clear();
        self.recent_tokens.fill(((0, 0, 0), 0));
    }

    /// Enters a translation. Kinds of access that the slot already allows for the same page are kept.
    pub fn insert(&mut self, context: ContextId, linear: u64, entry: TlbEntry) {
        let page = linear & !PAGE_MASK;
        let token = if entry.fetch { self.fetch_token(page, entry.physical_page, entry.mode) } else { 0 };
        let epoch = self.write_epoch;
        let n = slot(linear);
        let arrays = self.arrays(context);
        let host = (entry.host as u64).wrapping_sub(page);
        let tag = tag(page);
        let physical =
            entry.physical_page | u64::from(entry.page_shift) | if entry.global { GLOBAL } else { 0 };
        let tracked = if entry.tracked { TRACKED } else { 0 };
        let same = arrays.host[n] == host
            && arrays.physical[n] & !TRACKED == physical
            && (arrays.read[n] == tag || arrays.write[n] == tag);
        if !same && (entry.read || entry.write) {
            arrays.drop_from_window(n);
            arrays.read[n] = no_page(n);
            arrays.write[n] = no_page(n);
            arrays.host[n] = host;
            arrays.physical[n] = physical;
        }
        if entry.read || entry.write {
            // Every data entry of a page knows all that the tables say at its time; a later one may have set the dirty flag.
            arrays.physical[n] = physical | tracked;
        }
        if entry.read {
            arrays.read[n] = tag;
        }
        let write = entry.write && arrays.write_epoch == epoch;
        if write {
            arrays.write[n] = tag;
        }
        if token != 0 {
            if arrays.fetch[n] != token {
                arrays.clear_fetch(n);
            }
            arrays.fetch[n] = token;
            arrays.fetch_page[n] = tag;
            arrays.fetch_physical[n] = physical;
        }
        if entry.page_shift > 12 {
            let large = (linear >> entry.page_shift, entry.page_shift);
            if arrays.last_large != large {
                arrays.last_large = large;
                arrays.large.insert(large, ());
                let first = linear >> entry.page_shift << entry.page_shift;
                let (from, to) = arrays.large_range;
                arrays.large_range = (from.min(first), to.max(first | ((1 << entry.page_shift) - 1)));
            }
        }
        if arrays.used.len() < JOURNAL {
            arrays.used.push(n as u16);
        }
        if entry.global {
            arrays.has_global = true;
        } else if arrays.local.len() < JOURNAL {
            arrays.local.push(n as u16);
        }
        if write {
            self.note_writer(entry.physical_page, context.0, n as u16);
        }
    }

    fn clear_writers(&mut self) {
        if self.used_writers.len() < JOURNAL {
            for at in self.used_writers.drain(..) {
                self.writers[at as usize] = Writer::None;
            }
        } else {
            self.writers.fill(Writer::None);
        }
        self.used_writers.clear();
    }

    fn note_writer(&mut self, physical_page: u64, context: u16, slot: u16) {
        let at = (physical_page >> 12) as usize & (WRITERS - 1);
        let new = Writer::One { context, slot };
        if self.writers[at] == Writer::None && self.used_writers.len() < JOURNAL {
            self.used_writers.push(at as u32);
        }
        self.writers[at] = match self.writers[at] {
            Writer::None => new,
            same if same == new => same,
            _ => Writer::Many,
        };
    }

    /// Drops every entry of every context; the contexts keep their numbers.
    pub fn flush(&mut self) {
        for n in 0..self.contexts.len() {
            self.arrays(ContextId(n as u16)).clear();
        }
        self.clear_writers();
    }

    /// Drops the contexts whose keys will not come again.
    pub fn retire(&mut self, dead: impl Fn(&K) -> bool) {
        for n in 0..self.contexts.len() {
            if let Some(key) = self.keys[n].take_if(|key| dead(key)) {
                self.by_key.remove(&key);
                self.recent = [const { None }; RECENT];
                let arrays = self.arrays(ContextId(n as u16));
                arrays.close_window();
                arrays.clear();
            }
        }
    }

    /// Drops all but global pages of the contexts that `renamed` gives another key, under which they live on.
    pub fn drop_local(&mut self, renamed: impl Fn(&K) -> Option<K>) {
        for n in 0..self.contexts.len() {
            let Some((old, new)) = self.keys[n].as_ref().and_then(|old| Some((old.clone(), renamed(old)?)))
            else {
                continue;
            };
            let id = ContextId(n as u16);
            self.arrays(id).clear_local();
            self.by_key.remove(&old);
            self.by_key.insert(new.clone(), id);
            self.keys[n] = Some(new);
            self.incarnations[n] = self.next_incarnation;
            self.next_incarnation += 1;
            self.recent = [const { None }; RECENT];
        }
    }

    /// Drops every entry and forgets all keys.
    pub fn forget(&mut self) {
        self.flush();
        self.recent = [const { None }; RECENT];
        self.by_key.clear();
        self.keys.fill(None);
    }

    /// Drops the page of `linear`, whole large pages included, in the contexts that `here` chooses, and where it is global
    /// in all others (SDM 3A 4.10.4.1). Says whether code was fetched from it in any.
    pub fn flush_page(&mut self, linear: GuestVirt, here: impl Fn(&K) -> bool) -> bool {
        let n = slot(linear.0);
        let mut code = false;
        for context in 0..self.contexts.len() {
            let Some(key) = &self.keys[context] else { continue };
            let here = here(key);
            let arrays = self.arrays(ContextId(context as u16));
            if here || (arrays.physical[n] | arrays.fetch_physical[n]) & GLOBAL != 0 {
                code |= arrays.fetch[n] != 0;
                arrays.clear_slot(n);
            }
            code |= arrays.clear_covering(linear.0);
        }
        code
    }

    /// Drops the page of `linear`, whole large pages included, in the contexts that `here` chooses only. Says whether code was
    /// fetched from it in any.
    pub fn forget_page(&mut self, linear: GuestVirt, here: impl Fn(&K) -> bool) -> bool {
        let n = slot(linear.0);
        let tag = tag(linear.0 & !PAGE_MASK);
        let mut code = false;
        for context in 0..self.contexts.len() {
            if self.keys[context].as_ref().is_some_and(&here) {
                let arrays = self.arrays(ContextId(context as u16));
                // The usual page that faults is not there, and another one of this slot may be.
                if [arrays.read[n], arrays.write[n], arrays.fetch_page[n]].contains(&tag) {
                    code |= arrays.fetch[n] != 0;
                    arrays.clear_slot(n);
                }
                code |= arrays.clear_covering(linear.0);
            }
        }
        code
    }

    /// Sends writes of a guest-physical page to the slow path, because the page now holds decoded code.
    pub fn drop_writes(&mut self, physical_page: u64) {
        let at = (physical_page >> 12) as usize & (WRITERS - 1);
        match self.writers[at] {
            Writer::None => return,
            Writer::One { context, slot } => {
                let arrays = self.arrays(ContextId(context));
                arrays.drop_from_window(slot.into());
                arrays.write[usize::from(slot)] = no_page(slot.into());
            }
            Writer::Many => {
                // Arrays without a key, or of an earlier epoch, hold no writes.
                let epoch = self.write_epoch;
                for context in 0..self.contexts.len() {
                    if self.keys[context].is_some() {
                        self.arrays(ContextId(context as u16)).drop_writes(at, epoch);
                    }
                }
            }
        }
        self.writers[at] = Writer::None;
    }

    /// Sends all writes to the slow path (dirty tracking was reset, or another CPU decoded code).
    pub fn drop_all_writes(&mut self) {
        self.write_epoch += 1;
        self.clear_writers();
        if usize::from(self.current_id.0) < self.contexts.len() {
            let epoch = self.write_epoch;
            let id = self.current_id;
            let arrays = self.arrays(id);
            arrays.write_epoch = epoch;
            arrays.clear_writes();
        }
    }

    /// The live data entries of all contexts, for a monitor.
    pub fn iter(&self) -> impl Iterator<Item = LiveEntry<'_, K>> {
        let epoch = self.write_epoch;
        self.contexts.iter().zip(&self.keys).flat_map(move |(arrays, key)| {
            // SAFETY: as in `current`.
            let arrays = unsafe { arrays.as_ref() };
            (0..TLB_ENTRIES).filter_map(move |n| {
                let of = |tag: u64| (tag != no_page(n)).then(|| page(tag));
                let (read, write) = (of(arrays.read[n]), of(arrays.write[n]));
                let physical = arrays.physical[n];
                Some(LiveEntry {
                    key: key.as_ref()?,
                    linear_page: read.or(write)?,
                    read: read.is_some(),
                    write: write.is_some() && arrays.write_epoch == epoch,
                    physical_page: physical & !PAGE_MASK,
                    page_shift: (physical & SHIFT) as u8,
                })
            })
        })
    }
}

/// An entry as a monitor shows it.
#[derive(Clone, Copy, Debug)]
pub struct LiveEntry<'a, K> {
    /// The context.
    pub key: &'a K,
    /// Linear page.
    pub linear_page: u64,
    /// Reads need no look.
    pub read: bool,
    /// Writes need no look.
    pub write: bool,
    /// Guest-physical page.
    pub physical_page: u64,
    /// Page size as log2.
    pub page_shift: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(read: bool, write: bool, fetch: bool) -> TlbEntry {
        TlbEntry {
            read,
            write,
            fetch,
            host: 0x7000,
            physical_page: 0x9000,
            page_shift: 12,
            global: false,
            tracked: false,
            mode: 0,
        }
    }

    const READ: TlbKind = TlbKind::Read;
    const WRITE: TlbKind = TlbKind::Write;
    const FETCH: TlbKind = TlbKind::Fetch;

    #[test]
    fn an_empty_slot_matches_nothing() {
        let arrays = Translations::new();
        let near_zero = (0..20).flat_map(|page| [page << 12, 0xfff | page << 12]);
        let linear = near_zero.flat_map(|linear| [linear, !linear]);
        for linear in linear.chain([0x7ff000, 0x800000, 1 << 47, u64::MAX - 0x7f_ffff, 1 << 63]) {
            // The last is what 4,095 elements of 8 bytes take.
            for size in [1, 8, 64, 4096, 0x7ff8] {
                assert_eq!(arrays.read_pointer(linear, size), None, "{linear:#x}");
            }
        }
    }

    #[test]
    fn entries_merge_per_kind_and_flush_by_page() {
        let mut tlb = Tlb::<u32>::default();
        let (one, two) = (tlb.context(&1), tlb.context(&2));
        tlb.insert(one, 0x5000, entry(true, false, false));
        tlb.insert(one, 0x5000, entry(false, false, true));
        assert_eq!(tlb.find(one, 0x5123, READ), Some(0x9000));
        assert_eq!(tlb.find(one, 0x5123, FETCH), Some(0x9000));
        assert_eq!(tlb.find(one, 0x5123, WRITE), None);
        assert_eq!(tlb.find(two, 0x5123, READ), None);
        tlb.insert(two, 0x5000, entry(true, true, false));
        tlb.select(two, false);
        assert_eq!(tlb.current().write_pointer(0x5ff8, 8), Some(0x7ff8 as *mut u8));
        assert_eq!(tlb.current().write_pointer(0x5ff9, 8), None, "leaves the page");
        assert!(tlb.flush_page(GuestVirt(0x5fff), |_| true), "code was fetched");
        assert_eq!(tlb.iter().count(), 0);
    }

    #[test]
    fn code_pages_lose_their_write_tags_wherever_they_are() {
        let mut tlb = Tlb::<u32>::default();
        let (one, two) = (tlb.context(&1), tlb.context(&2));
        tlb.insert(one, 0x5000, entry(true, true, false));
        tlb.drop_writes(0x9000);
        assert_eq!(tlb.find(one, 0x5000, WRITE), None);
        assert_eq!(tlb.find(one, 0x5000, READ), Some(0x9000));
        tlb.insert(one, 0x5000, entry(true, true, false));
        tlb.insert(two, 0x8000, entry(true, true, false));
        tlb.drop_writes(0x9000);
        assert_eq!((tlb.find(one, 0x5000, WRITE), tlb.find(two, 0x8000, WRITE)), (None, None));
        tlb.insert(one, 0x5000, entry(true, true, false));
        tlb.drop_all_writes();
        tlb.select(one, false);
        assert_eq!(tlb.find(one, 0x5000, WRITE), None);
    }

    #[test]
    fn tracked_writes_are_found_while_the_page_is_readable() {
        let mut tlb = Tlb::<u32>::default();
        let one = tlb.context(&1);
        tlb.insert(one, 0x5000, entry(true, false, false));
        assert_eq!(tlb.find_tracked(one, 0x5123), None);
        tlb.insert(one, 0x5000, TlbEntry { tracked: true, ..entry(true, false, false) });
        assert_eq!(tlb.find_tracked(one, 0x5123), Some(0x9000));
        assert_eq!((tlb.find(one, 0x5123, WRITE), tlb.find_tracked(one, 0x80_5123)), (None, None));
        tlb.flush_page(GuestVirt(0x5000), |_| true);
        assert_eq!(tlb.find_tracked(one, 0x5123), None);
    }

    #[test]
    fn invlpg_drops_a_whole_large_page() {
        let mut tlb = Tlb::<u32>::default();
        let one = tlb.context(&1);
        for page in [0x20_0000_u64, 0x20_1000, 0x3f_f000, 0x40_0000] {
            tlb.insert(
                one,
                page,
                TlbEntry { physical_page: page, page_shift: 21, ..entry(true, false, false) },
            );
        }
        tlb.flush_page(GuestVirt(0x2a_0000), |_| true);
        let left: Vec<u64> = tlb.iter().map(|e| e.linear_page).collect();
        assert_eq!(left, [0x40_0000]);
    }

    #[test]
    fn only_global_pages_leave_other_spaces() {
        let mut tlb = Tlb::<u32>::default();
        let (one, two) = (tlb.context(&1), tlb.context(&2));
        for (page, global) in [(0x5000, false), (0x6000, true)] {
            for context in [one, two] {
                tlb.insert(context, page, TlbEntry { global, ..entry(true, false, false) });
            }
            tlb.flush_page(GuestVirt(page), |key| *key == 1);
            assert_eq!(tlb.find(one, page, READ), None);
            assert_eq!(tlb.find(two, page, READ).is_none(), global);
        }
        tlb.retire(|key| *key == 2);
        assert_eq!(tlb.iter().count(), 0);
        assert_eq!(tlb.context(&3), two, "its arrays are free");
    }

    #[test]
    fn global_pages_outlive_their_space() {
        for more in [0, JOURNAL as u64] {
            let mut tlb = Tlb::<u32>::default();
            let (one, other) = (tlb.context(&1), tlb.context(&9));
            tlb.insert(other, 0x5000, entry(true, true, true));
            for (page, global) in [(0x5000, false), (0x6000, true), (0x40_0000, true)] {
                let page_shift = if page == 0x40_0000 { 21 } else { 12 };
                tlb.insert(one, page, TlbEntry { global, page_shift, ..entry(true, true, true) });
            }
            // One slot with data that is global and code that is not.
            tlb.insert(one, 0x7000, TlbEntry { global: true, ..entry(true, true, false) });
            tlb.insert(one, 0x7000, entry(false, false, true));
            for n in 0..more {
                tlb.insert(one, 0x10_0000 + (n << 12), entry(true, true, true));
            }
            let incarnation = tlb.incarnation(one);
            tlb.drop_local(|key| (*key == 1).then_some(2));
            assert_ne!(tlb.incarnation(one), incarnation);
            assert_eq!(tlb.context(&2), one);
            for kind in [READ, WRITE, FETCH] {
                assert_eq!(tlb.find(one, 0x5000, kind), None);
                assert_eq!(tlb.find(one, 0x6000, kind), Some(0x9000));
                assert_eq!(tlb.find(one, 0x7000, kind).is_some(), kind != FETCH);
                assert_eq!(tlb.find(other, 0x5000, kind), Some(0x9000));
            }
            // What stays is still known as used, and as a large page.
            tlb.flush_page(GuestVirt(0x5f_f000), |key| *key == 2);
            assert_eq!(tlb.find(one, 0x40_0000, READ), None);
            tlb.retire(|key| *key == 2);
            assert_eq!(tlb.iter().count(), 1);
            assert_ne!(tlb.context(&1), other);
        }
    }

    #[test]
    fn contexts_are_used_again_and_forget_what_they_held() {
        let mut tlb = Tlb::<u32>::default();
        let first = tlb.context(&0);
        tlb.insert(first, 0x5000, entry(true, true, true));
        tlb.select(first, false);
        let incarnation = tlb.incarnation(first);
        for key in 1..=CONTEXTS as u32 {
            let id = tlb.context(&key);
            tlb.select(id, false);
        }
        let again = (0..=CONTEXTS as u32).filter(|key| tlb.by_key.get(key) == Some(&first)).count();
        assert_eq!(again, 1, "the first arrays belong to another key now");
        assert_ne!(tlb.incarnation(first), incarnation);
        assert_eq!(tlb.find(first, 0x5000, READ), None);
    }
}
