//! How many instructions the host and each guest have run, and how much of the host's time that took: for statistics.

use crate::Cpu;
use crate::virt::Level;
use core::time::Duration;
use serde::Serialize;
use std::time::Instant;

/// Guests that are counted one by one; further ones are counted together.
const MOST_GUESTS: usize = 64;

/// What was spent in one world.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Share {
    /// Times that it was entered.
    pub entries: u64,
    /// Instructions that it retired.
    pub instructions: u64,
    /// Time of the emulator's host, if it is measured.
    pub time: Duration,
}

impl Share {
    /// Adds another processor's share.
    pub fn add(&mut self, other: &Self) {
        self.entries += other.entries;
        self.instructions += other.instructions;
        self.time += other.time;
    }
}

/// Where a processor's instructions and time went. Not architectural state: nothing that a guest sees depends on it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Worlds {
    /// Outside of guests.
    pub host: Share,
    /// Guests, by the physical address of their VMCS or VMCB.
    pub guests: Vec<(u64, Share)>,
    /// Guests beyond the first 64.
    pub others: Share,
    /// VM entries and exits themselves. They have no instructions of their own.
    pub switches: Share,
    /// Whether the host's time is measured.
    pub timed: bool,
    /// Since when: the instruction count, and the time.
    #[serde(skip)]
    since: (u64, Option<Instant>),
    #[serde(skip)]
    present: Present,
}

/// Whose share grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Present {
    #[default]
    Host,
    Guest(u64),
    Switch,
}

impl Worlds {
    /// Measures the host's time from now on.
    pub fn start_timing(&mut self) {
        self.timed = true;
        self.since.1 = Some(Instant::now());
    }

    fn share(&mut self, of: Present) -> &mut Share {
        let address = match of {
            Present::Host => return &mut self.host,
            Present::Switch => return &mut self.switches,
            Present::Guest(address) => address,
        };
        match self.guests.iter().position(|(other, _)| *other == address) {
            Some(n) => &mut self.guests[n].1,
            None if self.guests.len() < MOST_GUESTS => {
                self.guests.push((address, Share::default()));
                &mut self.guests.last_mut().expect("just pushed").1
            }
            None => &mut self.others,
        }
    }

    /// Ends the present share and begins another.
    fn change(&mut self, to: Present, icount: u64) {
        let now = self.timed.then(Instant::now);
        let (from, began) = core::mem::replace(&mut self.since, (icount, now));
        let time = began.zip(now).map_or(Duration::ZERO, |(began, now)| now.saturating_duration_since(began));
        let share = self.share(self.present);
        share.instructions += icount.saturating_sub(from);
        share.time += time;
        if self.present != to {
            self.present = to;
            self.share(to).entries += 1;
        }
    }

    /// All shares up to an instruction count: what runs at present included.
    pub fn until(&self, icount: u64) -> Self {
        let mut worlds = self.clone();
        worlds.change(worlds.present, icount);
        worlds
    }
}

impl Cpu {
    /// A VM entry or exit begins.
    pub(crate) fn world_ends(&mut self) {
        self.counters.worlds.change(Present::Switch, self.icount);
    }

    /// A VM entry or exit is done, or has failed.
    pub(crate) fn world_begins(&mut self) {
        let present = match self.virt.level {
            Level::Host => Present::Host,
            Level::Vmx => Present::Guest(self.virt.vmx.current.unwrap_or(u64::MAX)),
            Level::Svm => Present::Guest(self.virt.svm.guest.vmcb.0),
        };
        self.counters.worlds.change(present, self.icount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_has_its_world() {
        let mut worlds = Worlds::default();
        for (to, icount) in [
            (Present::Switch, 10),
            (Present::Guest(0x1000), 10),
            (Present::Switch, 25),
            (Present::Host, 25),
            (Present::Switch, 27),
            (Present::Guest(0x2000), 27),
        ] {
            worlds.change(to, icount);
        }
        let worlds = worlds.until(30);
        assert_eq!((worlds.host.instructions, worlds.host.entries), (12, 1));
        let guests: Vec<_> = worlds.guests.iter().map(|(at, share)| (*at, share.instructions)).collect();
        assert_eq!(guests, [(0x1000, 15), (0x2000, 3)]);
        assert_eq!((worlds.switches.instructions, worlds.switches.entries), (0, 3));
    }

    #[test]
    fn the_list_of_guests_is_bounded() {
        let mut worlds = Worlds::default();
        for n in 0..100 {
            worlds.change(Present::Guest(n), n);
        }
        assert_eq!((worlds.guests.len(), worlds.others.entries), (MOST_GUESTS, 36));
    }
}
