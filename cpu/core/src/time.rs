//! Virtual time: counted, not measured. A CPU's retired instructions are its clock.

use core::fmt;
use core::ops::{Add, Sub};
use serde::{Deserialize, Serialize};

/// A moment of the machine's virtual time, in nanoseconds since power-on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct VirtualTime(pub u64);

impl VirtualTime {
    /// No moment of a real run is later.
    pub const NEVER: Self = Self(u64::MAX);

    /// Nanoseconds from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The number of ticks of a counter of `hz` that have passed at this moment (rounded down).
    pub const fn ticks(self, hz: u64) -> u64 {
        if hz == 1_000_000_000 {
            return self.0;
        }
        (self.0 as u128 * hz as u128 / 1_000_000_000) as u64
    }

    /// The first moment at which a counter of `hz` has reached `ticks`; [`Self::NEVER`] when out of range.
    pub const fn of_ticks(ticks: u64, hz: u64) -> Self {
        let ns = (ticks as u128 * 1_000_000_000).div_ceil(hz as u128);
        if ns >= u64::MAX as u128 { Self::NEVER } else { Self(ns as u64) }
    }
}

impl Add<u64> for VirtualTime {
    type Output = Self;
    /// `ns` nanoseconds later (saturating).
    fn add(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
}

impl Sub for VirtualTime {
    type Output = u64;
    fn sub(self, earlier: Self) -> u64 {
        self.since(earlier)
    }
}

impl fmt::Debug for VirtualTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// Derives a CPU's virtual time from its count of retired instructions: one instruction is one nanosecond, plus what
/// was skipped while the CPU was idle or waited for a bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Nanoseconds skipped so far (idle time, time of other CPUs' slices, bus cycles).
    pub skipped: u64,
    /// Those of `skipped` that went by in bus cycles.
    pub bus: u64,
    /// Of several CPUs, whose clocks are not at the same moment: the latest moment that one of them has shown to software or to
    /// a device. None shows an earlier one after that.
    pub shown: Option<VirtualTime>,
}

impl Clock {
    /// The moment at which `instructions` have retired.
    #[inline(always)]
    pub const fn at(&self, instructions: u64) -> VirtualTime {
        VirtualTime(instructions.wrapping_add(self.skipped))
    }

    /// The moment to show when `instructions` have retired, which is noted.
    #[inline]
    pub fn show(&mut self, instructions: u64) -> VirtualTime {
        let now = self.at(instructions);
        match &mut self.shown {
            Some(shown) => {
                *shown = now.max(*shown);
                *shown
            }
            None => now,
        }
    }

    /// Moves the clock forward, so that `instructions` is reached at `moment`. Never moves it back.
    pub fn skip_to(&mut self, moment: VirtualTime, instructions: u64) {
        let now = self.at(instructions);
        self.skipped = self.skipped.wrapping_add(moment.since(now));
    }

    /// A bus cycle of `ns` nanoseconds: no instruction retires meanwhile.
    pub const fn bus_cycle(&mut self, ns: u64) {
        self.skipped = self.skipped.wrapping_add(ns);
        self.bus = self.bus.wrapping_add(ns);
    }

    /// The instruction count at which `moment` is reached, if nothing more is skipped.
    pub const fn instructions_at(&self, moment: VirtualTime) -> u64 {
        if moment.0 == u64::MAX { u64::MAX } else { moment.0.saturating_sub(self.skipped) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_round_trip() {
        for hz in [32_768, 1_193_182, 3_579_545, 1_000_000_000] {
            for ticks in [0, 1, 2, 65_535, 10_000_019] {
                let at = VirtualTime::of_ticks(ticks, hz);
                assert_eq!(at.ticks(hz), ticks, "{hz} Hz, {ticks} ticks");
                if at.0 > 0 {
                    assert!(VirtualTime(at.0 - 1).ticks(hz) < ticks);
                }
            }
        }
        assert_eq!(VirtualTime::of_ticks(u64::MAX, 1), VirtualTime::NEVER);
    }

    #[test]
    fn the_clock_skips_forward_only() {
        let mut clock = Clock::default();
        clock.skip_to(VirtualTime(500), 100);
        assert_eq!(clock.at(100), VirtualTime(500));
        clock.skip_to(VirtualTime(50), 100);
        assert_eq!(clock.at(101), VirtualTime(501));
        assert_eq!(clock.instructions_at(VirtualTime(600)), 200);
        clock.bus_cycle(40);
        assert_eq!(
            (clock.at(101), clock.instructions_at(VirtualTime(600)), clock.bus),
            (VirtualTime(541), 160, 40)
        );
    }
}
