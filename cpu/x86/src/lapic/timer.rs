//! The local APIC timer (SDM 3A 12.5.4).

use ringworld_core::VirtualTime;
use serde::{Deserialize, Serialize};

/// The timer's input clock in Hz before the divider: the crystal clock that CPUID leaf 15H reports. One tick is a
/// nanosecond of virtual time.
pub const APIC_TIMER_HZ: u64 = 1_000_000_000;

/// How the time-stamp counter follows from virtual time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct TscClock {
    /// Counts a second.
    pub hz: u64,
    /// The counter at virtual time zero (modulo 2^64).
    pub offset: u64,
}

impl Default for TscClock {
    fn default() -> Self {
        Self { hz: 1_000_000_000, offset: 0 }
    }
}

impl TscClock {
    /// The counter at `now`.
    pub fn at(&self, now: VirtualTime) -> u64 {
        now.ticks(self.hz).wrapping_add(self.offset)
    }

    /// The first moment, from `now` on, at which the counter is not below `value`.
    pub fn reaches(&self, value: u64, now: VirtualTime) -> VirtualTime {
        let missing = value.saturating_sub(self.at(now));
        if missing == 0 {
            return now;
        }
        VirtualTime::of_ticks(now.ticks(self.hz).saturating_add(missing), self.hz.max(1))
    }
}

/// What the timer does with its counts (LVT timer register, bits 18:17).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TimerMode {
    /// Counts down once.
    OneShot,
    /// Reloads itself.
    Periodic,
    /// Waits for IA32_TSC_DEADLINE.
    TscDeadline,
}

/// The counter behind the initial-count, current-count and divide configuration registers, and IA32_TSC_DEADLINE.
#[derive(Clone, Hash, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timer {
    pub(super) initial: u32,
    pub(super) divide: u32,
    pub(super) deadline: u64,
    pub(super) tsc: TscClock,
    /// The count was `count` at `since`.
    count: u32,
    since: VirtualTime,
}

impl Timer {
    /// Power-up state; the time-stamp counter goes on.
    pub(super) fn reset(&mut self) {
        *self = Self { tsc: self.tsc, ..Self::default() };
    }

    /// Clocks for one count: 2, 4, ..., 128, 1.
    fn divisor(&self) -> u64 {
        let code = self.divide & 3 | (self.divide >> 1) & 4;
        if code == 7 { 1 } else { 2 << code }
    }

    /// Counts since `since`.
    fn elapsed(&self, now: VirtualTime) -> u64 {
        now.since(self.since) / self.divisor()
    }

    /// The current-count register; [`Timer::expire`] has been called for `now`.
    pub(super) fn current(&self, now: VirtualTime) -> u32 {
        u64::from(self.count).saturating_sub(self.elapsed(now)) as u32
    }

    /// Writing the initial count starts the timer; zero stops it.
    pub(super) fn start(&mut self, initial: u32, now: VirtualTime) {
        self.initial = initial;
        self.count = initial;
        self.since = now;
    }

    /// Changing the divider keeps the count.
    pub(super) fn set_divide(&mut self, divide: u32, now: VirtualTime) {
        self.count = self.current(now);
        self.since = now;
        self.divide = divide & 0xb;
    }

    /// Switching to or from TSC-deadline mode disarms the timer.
    pub(super) fn disarm(&mut self) {
        self.initial = 0;
        self.count = 0;
        self.deadline = 0;
    }

    /// The moment of the next expiry in `mode`.
    pub(super) fn next(&self, mode: TimerMode, now: VirtualTime) -> VirtualTime {
        match mode {
            TimerMode::TscDeadline if self.deadline == 0 => VirtualTime::NEVER,
            TimerMode::TscDeadline => self.tsc.reaches(self.deadline, now),
            _ if self.count == 0 => VirtualTime::NEVER,
            _ => self.since + u64::from(self.count) * self.divisor(),
        }
    }

    /// Whether the timer has expired by `now`; what follows from that (reload, stop) has then been done.
    pub(super) fn expire(&mut self, mode: TimerMode, now: VirtualTime) -> bool {
        if mode == TimerMode::TscDeadline {
            let due = self.deadline != 0 && self.tsc.at(now) >= self.deadline;
            if due {
                self.deadline = 0;
            }
            return due;
        }
        let elapsed = self.elapsed(now);
        let count = u64::from(self.count);
        if count == 0 || elapsed < count {
            return false;
        }
        if mode == TimerMode::Periodic && self.initial != 0 {
            let initial = u64::from(self.initial);
            let whole = count + (elapsed - count) / initial * initial;
            self.since = self.since + whole.saturating_mul(self.divisor());
            self.count = self.initial;
        } else {
            self.count = 0;
        }
        true
    }
}
