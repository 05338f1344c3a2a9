//! Real-time mode: virtual time never runs ahead of the host's clock.

use ringworld_core::VirtualTime;
use std::time::{Duration, Instant};

/// Being this far ahead is not worth a sleep, in nanoseconds.
const TOLERANCE: u64 = 500_000;

/// Relates virtual time to the host's clock. A guest that computes runs behind it (one instruction takes more than a
/// nanosecond); the lag is forgotten, so that a guest's sleep lasts as long as it says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    anchor: Instant,
    /// The virtual time at the anchor.
    start: VirtualTime,
}

impl Pace {
    /// Virtual time `now` is the host's present.
    pub(crate) fn new(now: VirtualTime) -> Self {
        Self { anchor: Instant::now(), start: now }
    }

    /// The host's present as virtual time.
    fn present(&self) -> VirtualTime {
        self.start + u64::try_from(self.anchor.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// How long to wait before virtual time `now` may go on.
    pub(crate) fn ahead(&mut self, now: VirtualTime) -> Option<Duration> {
        let present = self.present();
        if now < present {
            *self = Self::new(now);
        }
        Some(now.since(present)).filter(|&ahead| ahead > TOLERANCE).map(Duration::from_nanos)
    }

    /// How long an idle guest sleeps until `target`; `None` means for ever.
    pub(crate) fn until(&self, target: VirtualTime) -> Option<Duration> {
        (target != VirtualTime::NEVER).then(|| Duration::from_nanos(target.since(self.present())))
    }

    /// Where an idle guest that was to sleep from `now` to `target` is by the host's clock.
    pub(crate) fn reached(&self, now: VirtualTime, target: VirtualTime) -> VirtualTime {
        self.present().clamp(now, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_forgotten_and_a_lead_is_waited_for() {
        let start = VirtualTime(1_000_000_000);
        let mut pace = Pace::new(start);
        assert!(pace.ahead(start + 60_000_000_000).is_some_and(|wait| wait > Duration::from_secs(50)));
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(pace.ahead(start), None);
        // A sleep of ten seconds from here on ends in ten seconds.
        assert!(pace.until(start + 10_000_000_000).is_some_and(|wait| wait > Duration::from_millis(9_990)));
        assert_eq!(pace.until(VirtualTime::NEVER), None);
        assert_eq!(pace.reached(start, start), start);
        assert!(pace.reached(start, VirtualTime::NEVER) < start + 5_000_000_000);
    }
}
