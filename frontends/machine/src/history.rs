//! The past in memory: snapshots from time to time, each with the pages that have changed since the one before, and every
//! input with its moment. From the nearest snapshot the machine repeats what it did, instruction by instruction.
//!
//! Taking a snapshot flushes the CPUs' TLBs (see `snapshot.rs`), so a repetition flushes them at the same places.

use crate::snapshot::State;
use crate::{HostEvent, Machine, MachineError};
use ringworld_core::{GuestPhys, PAGE_SIZE, VirtualTime};
use ringworld_devices::CharBackend;
use ringworld_mmu::PageBytes;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most snapshots that are kept. Older ones are thinned out.
const MOST: usize = 100;
/// With this few snapshots, the limit of memory does not count any more.
const FEWEST: usize = 4;

const ZERO: PageBytes = [0; PAGE_SIZE as usize];

/// How the past is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryConfig {
    /// Instructions of all CPUs between two snapshots.
    pub interval: u64,
    /// Bytes of memory that the snapshots may take, about.
    pub budget: usize,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { interval: 20_000_000, budget: 1 << 30 }
    }
}

/// What is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryRange {
    /// The instruction count at its beginning.
    pub start: u64,
    /// The highest instruction count that the machine has reached.
    pub end: u64,
    /// Snapshots.
    pub snapshots: usize,
    /// Bytes of memory pages in them.
    pub bytes: usize,
}

struct Checkpoint {
    /// Of all CPUs, and of each.
    instructions: u64,
    cpus: Vec<u64>,
    state: State,
    /// Pages that have changed since the checkpoint before; `None` is a page of zeros.
    pages: HashMap<GuestPhys, Option<Box<PageBytes>>>,
    /// How many inputs the guest had got.
    inputs: usize,
}

/// See the module.
pub(crate) struct History {
    config: HistoryConfig,
    checkpoints: Vec<Checkpoint>,
    /// The checkpoint that the machine passed last.
    base: usize,
    inputs: Vec<(VirtualTime, HostEvent)>,
    /// How many of the inputs the guest has got.
    taken: usize,
    /// The most instructions that were ever reached, and the latest start of a round. Before them, the machine repeats.
    end: u64,
    end_now: VirtualTime,
    /// The count at which the next checkpoint is due.
    due: u64,
}

/// A guest's output, which is not shown again while the machine repeats its past.
pub(crate) struct Mutable {
    pub(crate) inner: Box<dyn CharBackend>,
    pub(crate) muted: Arc<AtomicBool>,
}

impl CharBackend for Mutable {
    fn output(&mut self, bytes: &[u8]) {
        if !self.muted.load(Ordering::Relaxed) {
            self.inner.output(bytes);
        }
    }
}

impl History {
    /// Whether a machine at this moment and instruction count has been there before.
    pub(crate) fn repeats(&self, now: VirtualTime, instructions: u64) -> bool {
        now < self.end_now || instructions < self.end
    }

    /// The moment of the next input that is known, or of the end of what is known.
    pub(crate) fn next_input(&self, now: VirtualTime) -> VirtualTime {
        match self.inputs.get(self.taken) {
            Some((at, _)) => *at,
            None if now < self.end_now => self.end_now,
            None => VirtualTime::NEVER,
        }
    }

    /// Takes the known inputs up to `now`.
    pub(crate) fn take_inputs(&mut self, now: VirtualTime) -> Vec<HostEvent> {
        let rest = self.inputs.get(self.taken..).unwrap_or_default();
        let events: Vec<_> =
            rest.iter().take_while(|(at, _)| *at <= now).map(|(_, event)| event.clone()).collect();
        self.taken += events.len();
        self.end_now = self.end_now.max(now);
        events
    }

    /// Notes an input that has come now.
    pub(crate) fn note_input(&mut self, now: VirtualTime, event: &HostEvent) {
        self.inputs.push((now, event.clone()));
        self.taken = self.inputs.len();
    }

    fn bytes(&self) -> usize {
        let pages = self.checkpoints.iter().flat_map(|checkpoint| checkpoint.pages.values());
        pages.flatten().count() * PAGE_SIZE as usize
    }

    /// A page's contents at a checkpoint.
    fn page(&self, checkpoint: usize, address: GuestPhys) -> &PageBytes {
        let found = self.checkpoints[..=checkpoint].iter().rev().find_map(|c| c.pages.get(&address));
        found.and_then(Option::as_deref).unwrap_or(&ZERO)
    }

    /// Takes out a checkpoint; the next one takes over its pages.
    fn remove(&mut self, index: usize) {
        let removed = self.checkpoints.remove(index);
        if let Some(next) = self.checkpoints.get_mut(index) {
            for (address, page) in removed.pages {
                next.pages.entry(address).or_insert(page);
            }
        }
        if self.base > index {
            self.base -= 1;
        }
    }

    /// Takes out checkpoints where they are closest for their age, until the limits hold.
    fn thin(&mut self) {
        while self.checkpoints.len() > FEWEST
            && (self.checkpoints.len() > MOST || self.bytes() > self.config.budget)
        {
            let counts: Vec<u64> = self.checkpoints.iter().map(|c| c.instructions).collect();
            let last = counts.len() - 1;
            let cost = |index: &usize| {
                let age = counts[last] - counts[*index] + 1;
                (u128::from(counts[index + 1] - counts[index - 1]) << 32) / u128::from(age)
            };
            let Some(index) = (1..last).filter(|index| *index != self.base).min_by_key(cost) else { return };
            self.remove(index);
        }
    }
}

impl Machine {
    /// Remembers the past from now on, so that the machine can go back.
    ///
    /// # Errors
    /// A device whose state cannot be had; a disk whose past is gone once it is written.
    pub fn keep_history(&mut self, config: HistoryConfig) -> Result<(), MachineError> {
        let disks = self.config.drives.iter().map(|drive| &drive.disk);
        if let Some(disk) = disks.into_iter().find(|disk| !disk.snapshot && !disk.read_only) {
            let file = disk.file.display();
            return Err(MachineError::History(format!(
                "{file} would keep what is written, and so has no past: give the drive snapshot=on"
            )));
        }
        let here = self.instructions();
        self.memory.take_dirty();
        let mut pages = HashMap::new();
        let none: Result<(), core::convert::Infallible> = self.memory.visit_pages(|address, page| {
            pages.insert(address, Some(Box::new(*page)));
            Ok(())
        });
        let Ok(()) = none;
        let mut history = History {
            config,
            checkpoints: Vec::new(),
            base: 0,
            inputs: Vec::new(),
            taken: 0,
            end: here,
            end_now: self.now,
            due: here + config.interval.max(1),
        };
        history.checkpoints.push(Checkpoint {
            instructions: here,
            cpus: self.counts(),
            state: self.capture()?,
            pages,
            inputs: 0,
        });
        self.history = Some(history);
        self.muted.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Begins the history anew, if it is kept.
    pub(crate) fn forget_history(&mut self) -> Result<(), MachineError> {
        match self.history.as_ref().map(|history| history.config) {
            Some(config) => self.keep_history(config),
            None => Ok(()),
        }
    }

    /// What is remembered, if anything.
    pub fn history(&self) -> Option<HistoryRange> {
        self.history.as_ref().map(|history| HistoryRange {
            start: history.checkpoints.first().map_or(0, |first| first.instructions),
            end: history.end,
            snapshots: history.checkpoints.len(),
            bytes: history.bytes(),
        })
    }

    fn counts(&self) -> Vec<u64> {
        self.cores.iter().map(|core| core.cpu.icount).collect()
    }

    /// The next instruction count at which the history wants to see the machine.
    pub(crate) fn history_bound(&self) -> Option<u64> {
        let history = self.history.as_ref()?;
        let here = self.instructions();
        if here >= history.end {
            return Some(history.due.max(here + 1));
        }
        let next = history.checkpoints.get(history.base + 1).map(|next| next.instructions);
        Some(next.unwrap_or(u64::MAX).min(history.end))
    }

    /// The machine has stopped at this count.
    pub(crate) fn history_reached(&mut self, here: u64) -> Result<(), MachineError> {
        let Some(history) = &mut self.history else { return Ok(()) };
        if history.checkpoints.get(history.base + 1).is_some_and(|next| next.instructions == here) {
            history.base += 1;
            self.memory.take_dirty();
            self.cores.iter_mut().for_each(|core| core.cpu.flush_everything());
        } else if here >= history.end {
            history.end = here;
            if here >= history.due {
                self.add_checkpoint()?;
            }
        }
        self.update_muting();
        Ok(())
    }

    fn update_muting(&mut self) {
        let here = self.instructions();
        let muted = self.history.as_ref().is_some_and(|history| here < history.end);
        self.muted.store(muted, Ordering::Relaxed);
    }

    /// Adds a checkpoint here, behind the last one.
    fn add_checkpoint(&mut self) -> Result<(), MachineError> {
        let (instructions, cpus) = (self.instructions(), self.counts());
        let state = self.capture()?;
        let dirty = self.memory.take_dirty();
        let page = |address| self.memory.page_bytes(address).filter(|page| *page != ZERO).map(Box::new);
        let pages = dirty.into_iter().map(|address| (address, page(address))).collect();
        if let Some(history) = &mut self.history {
            let inputs = history.taken;
            history.checkpoints.push(Checkpoint { instructions, cpus, state, pages, inputs });
            history.base = history.checkpoints.len() - 1;
            history.due = instructions + history.config.interval.max(1);
            history.thin();
        }
        Ok(())
    }

    /// To be called after somebody has changed the machine's state from outside: what came after is another future.
    ///
    /// # Errors
    /// As [`Machine::keep_history`].
    pub fn changed_from_outside(&mut self) -> Result<(), MachineError> {
        let (here, now) = (self.instructions(), self.now);
        let Some(history) = &mut self.history else { return Ok(()) };
        history.checkpoints.truncate(history.base + 1);
        history.inputs.truncate(history.taken);
        (history.end, history.end_now) = (here, now);
        self.add_checkpoint()?;
        if let Some(history) = &mut self.history
            && let [.., before, _] = &history.checkpoints[..]
            && before.instructions == here
        {
            // Two of one count: the second is what holds.
            let index = history.checkpoints.len() - 2;
            history.remove(index);
        }
        self.update_muting();
        Ok(())
    }

    /// Goes to the last checkpoint that `fits`; false if there is none.
    pub(crate) fn return_to_checkpoint(
        &mut self,
        fits: impl Fn(u64, &[u64]) -> bool,
    ) -> Result<bool, MachineError> {
        let Some(history) = &mut self.history else { return Ok(false) };
        let Some(index) = history.checkpoints.iter().rposition(|c| fits(c.instructions, &c.cpus)) else {
            return Ok(false);
        };
        let mut touched: HashSet<GuestPhys> = self.memory.take_dirty().into_iter().collect();
        let (low, high) = (index.min(history.base), index.max(history.base));
        touched.extend(history.checkpoints[low + 1..=high].iter().flat_map(|c| c.pages.keys()));
        for address in touched {
            self.memory.put_page(address, history.page(index, address));
        }
        self.memory.take_dirty();
        let checkpoint = &history.checkpoints[index];
        (history.base, history.taken) = (index, checkpoint.inputs);
        let state = checkpoint.state.clone();
        self.apply_state(&state)?;
        self.update_muting();
        self.pace_from_now();
        Ok(true)
    }
}
