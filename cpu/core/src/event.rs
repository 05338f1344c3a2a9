//! The queue of things that will happen at a known virtual time.

use crate::VirtualTime;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Whose event: a device's (or CPU's) number and one of its timers. A key has at most one pending moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct EventKey {
    /// The owner, as the machine numbered it.
    pub owner: u32,
    /// The owner's own number for this timer.
    pub timer: u32,
}

/// Pending events in the order in which they fire: by time, then by key, so that the order never depends on the
/// order of scheduling.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct EventQueue {
    order: BTreeMap<(VirtualTime, EventKey), ()>,
    moments: HashMap<EventKey, VirtualTime>,
}

impl EventQueue {
    /// Schedules (or moves) `key` to `at`; [`VirtualTime::NEVER`] cancels it.
    pub fn schedule(&mut self, key: EventKey, at: VirtualTime) {
        self.cancel(key);
        if at != VirtualTime::NEVER {
            self.order.insert((at, key), ());
            self.moments.insert(key, at);
        }
    }

    /// Forgets `key`.
    pub fn cancel(&mut self, key: EventKey) {
        if let Some(at) = self.moments.remove(&key) {
            self.order.remove(&(at, key));
        }
    }

    /// The moment of the next event; [`VirtualTime::NEVER`] if there is none.
    pub fn next(&self) -> VirtualTime {
        self.order.first_key_value().map_or(VirtualTime::NEVER, |((at, _), ())| *at)
    }

    /// Takes the next event that is due at `now`.
    pub fn pop_due(&mut self, now: VirtualTime) -> Option<(VirtualTime, EventKey)> {
        let (&(at, key), ()) = self.order.first_key_value()?;
        if at > now {
            return None;
        }
        self.cancel(key);
        Some((at, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_fire_by_time_then_key() {
        let key = |owner| EventKey { owner, timer: 0 };
        let mut queue = EventQueue::default();
        queue.schedule(key(2), VirtualTime(10));
        queue.schedule(key(1), VirtualTime(10));
        queue.schedule(key(3), VirtualTime(5));
        queue.schedule(key(3), VirtualTime(20));
        assert_eq!(queue.next(), VirtualTime(10));
        assert_eq!(queue.pop_due(VirtualTime(9)), None);
        assert_eq!(queue.pop_due(VirtualTime(30)), Some((VirtualTime(10), key(1))));
        assert_eq!(queue.pop_due(VirtualTime(30)), Some((VirtualTime(10), key(2))));
        queue.cancel(key(3));
        assert_eq!(queue.next(), VirtualTime::NEVER);
    }
}
