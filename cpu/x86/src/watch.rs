//! What a debugger watches from outside: stops before instructions, and accesses to memory. The guest cannot notice it.

use crate::Cpu;
use crate::mem::Kind;
use crate::state::{Shadow, boundary};

/// Memory that a debugger watches, at a linear address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watchpoint {
    /// The first byte.
    pub address: u64,
    /// Its length in bytes, at least 1.
    pub len: u64,
    /// Whether reads count.
    pub read: bool,
    /// Whether writes count.
    pub write: bool,
}

impl Watchpoint {
    fn touches(&self, start: u64, len: u64) -> bool {
        start.wrapping_sub(self.address) < self.len || self.address.wrapping_sub(start) < len
    }
}

/// An access to watched memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatchHit {
    /// What was watched.
    pub watchpoint: Watchpoint,
    /// Whether the access was a write.
    pub write: bool,
}

/// The debugger's part of a CPU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watches {
    points: Vec<Watchpoint>,
    hit: Option<WatchHit>,
}

impl Watches {
    pub(crate) fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Whether something in the page at `page` is watched.
    pub(crate) fn in_page(&self, page: u64) -> bool {
        self.points.iter().any(|point| point.touches(page, 0x1000))
    }
}

impl Cpu {
    /// Watches these places and no others. Accesses to their pages become slow.
    pub fn set_watchpoints(&mut self, points: &[Watchpoint]) {
        if *points != self.watches.points {
            self.watches = Watches { points: points.into(), hit: None };
            self.debug_registers_changed();
        }
    }

    /// Whether watched memory has been accessed; who breaks (see [`crate::interp::Observer`]) then ends the run.
    pub fn watch_is_hit(&self) -> bool {
        self.watches.hit.is_some()
    }

    /// The first access to watched memory since the last call. The run ends behind the instruction that made it.
    pub fn take_watch_hit(&mut self) -> Option<WatchHit> {
        self.watches.hit.take()
    }

    /// Notes an access for the debugger.
    pub(crate) fn check_watchpoints(&mut self, linear: u64, len: u64, kind: Kind) {
        let write = kind == Kind::Write;
        let wanted = |point: &&Watchpoint| if write { point.write } else { point.read && kind == Kind::Read };
        let touched = self.watches.points.iter().filter(wanted).find(|point| point.touches(linear, len));
        let Some(&watchpoint) = touched else { return };
        self.watches.hit.get_or_insert(WatchHit { watchpoint, write });
        // The boundary stays as it is: a part of a REP instruction must end where it ends without a debugger.
        self.end_block();
    }

    /// Undoes what looking at the boundary has done, where the run ends before the instruction after all.
    pub(crate) fn look_again(&mut self) {
        self.shadow = self.in_shadow;
        self.boundary |= boundary::INTERRUPT | boundary::TRAP;
        if self.shadow != Shadow::None {
            self.boundary |= boundary::SHADOW;
        }
    }
}
