//! The way from the host to a running machine: one queue for everything that comes from outside, and requests to stop.

use crate::StopReason;
use ringworld_core::PlatformAttention;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Something from outside that the guest can notice. There is no other way in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HostEvent {
    /// Bytes for a serial port (0 is COM1).
    Serial {
        /// The port.
        port: usize,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Ethernet frames for a network card.
    Network {
        /// The card.
        port: usize,
        /// The frames.
        frames: Vec<Frame>,
    },
    /// A reply of a shared folder's server.
    Share {
        /// The share.
        port: usize,
        /// The reply, with the number of its request; nothing if all requests are forgotten.
        reply: Frame,
    },
    /// A packet for the guest's sockets; nothing if all connections are gone.
    Socket {
        /// The packet.
        packet: Frame,
    },
    /// The host wants this many 4 KiB pages in the memory balloon.
    Balloon {
        /// The pages.
        pages: u32,
    },
    /// Keys of the keyboard going down (true) or up: each its set 1 code, with bit 7 set if 0xe0 comes before.
    Keys {
        /// The keys in their order.
        keys: Vec<(u8, bool)>,
    },
    /// Somebody presses the power button.
    PowerButton,
    /// A non-maskable interrupt at every CPU's LINT1.
    Nmi,
    /// The reset button.
    Reset,
}

/// An Ethernet frame; hexadecimal in a recording.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame(pub Vec<u8>);

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Serialize for Frame {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        serializer
            .serialize_str(&digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Frame {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom("a frame is an even number of hexadecimal digits");
        let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
        let digits = digits.filter(|digits| digits.len() % 2 == 0).ok_or_else(wrong)?;
        Ok(Self(digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()))
    }
}

#[derive(Default)]
struct State {
    events: VecDeque<HostEvent>,
    stop: Option<StopReason>,
    /// Somebody outside wants the machine's thread to look.
    notified: bool,
    /// How many [`Held`] there are.
    held: usize,
    /// No more events will come.
    closed: bool,
}

impl State {
    /// Whether nothing has come for the machine.
    fn is_quiet(&self) -> bool {
        self.events.is_empty() && self.stop.is_none() && (!self.notified || self.held > 0)
    }
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    attention: PlatformAttention,
}

/// Reaches a machine from other threads, also while it runs.
#[derive(Clone)]
pub struct MachineHandle(Arc<Shared>);

/// A command is being executed; see [`MachineHandle::hold`].
pub struct Held(MachineHandle);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().held -= 1;
    }
}

impl MachineHandle {
    pub(crate) fn new(attention: PlatformAttention) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), wake: Condvar::new(), attention }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.0.attention.raise();
        self.0.wake.notify_all();
    }

    /// Sends an event. The machine takes it at its next scheduling round.
    pub fn send(&self, event: HostEvent) {
        self.change(|state| state.events.push_back(event));
    }

    /// Ends the run soon, for this reason. The first one wins, but a user's request gives way to any other reason.
    pub fn stop(&self, reason: StopReason) {
        self.change(|state| {
            if state.stop.as_ref().is_none_or(|old| *old == StopReason::UserRequest) {
                state.stop = Some(reason);
            }
        });
    }

    /// Ends the run soon as by a user's request, so that the machine's thread looks at what has come for it. It may have looked
    /// by then: who gets the stop must look, and go on if there is nothing. A run in the middle of a command is left alone
    /// ([`Self::hold`]); the next one ends.
    pub fn notify(&self) {
        self.change(|state| state.notified = true);
    }

    /// Until the result is dropped, [`Self::notify`] ends no run.
    pub fn hold(&self) -> Held {
        self.lock().held += 1;
        Held(self.clone())
    }

    /// Tells that nobody will send anything any more: a guest that waits for nothing else then ends its run.
    pub fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// How many events wait to be taken.
    pub(crate) fn backlog(&self) -> usize {
        self.lock().events.len()
    }

    /// Forgets a user's request to stop that the machine has not seen yet.
    pub fn forget_user_request(&self) {
        _ = self.lock().stop.take_if(|stop| *stop == StopReason::UserRequest);
    }

    /// The request to stop that the machine has not seen yet.
    pub fn pending_stop(&self) -> Option<StopReason> {
        self.lock().stop.clone()
    }

    pub(crate) fn take_stop(&self) -> Option<StopReason> {
        let mut state = self.lock();
        state.stop.take().or_else(|| {
            let notified = state.held == 0 && std::mem::take(&mut state.notified);
            notified.then_some(StopReason::UserRequest)
        })
    }

    pub(crate) fn take_events(&self) -> VecDeque<HostEvent> {
        core::mem::take(&mut self.lock().events)
    }

    /// Whether nothing waits and nothing will come.
    pub(crate) fn is_closed(&self) -> bool {
        let state = self.lock();
        state.closed && state.is_quiet()
    }

    /// Waits until something has come, at most for `limit`; without a limit, also until nothing can come any more.
    pub(crate) fn wait(&self, limit: Option<Duration>) {
        let state = self.lock();
        let quiet = |state: &mut State| state.is_quiet();
        match limit {
            // A result says only whether time was up; the caller looks at the clock itself.
            Some(limit) => drop(self.0.wake.wait_timeout_while(state, limit, quiet)),
            None => drop(self.0.wake.wait_while(state, |state| quiet(state) && !state.closed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_wins_and_attention_is_raised() {
        let attention = PlatformAttention::default();
        let handle = MachineHandle::new(attention.clone());
        handle.stop(StopReason::UserRequest);
        handle.stop(StopReason::Timeout);
        handle.stop(StopReason::PowerOff);
        handle.stop(StopReason::UserRequest);
        assert!(attention.is_raised());
        handle.forget_user_request();
        assert_eq!(handle.take_stop(), Some(StopReason::Timeout));
        assert_eq!(handle.take_stop(), None);
        handle.stop(StopReason::UserRequest);
        handle.forget_user_request();
        assert_eq!(handle.take_stop(), None);
    }

    #[test]
    fn notifications_wait_for_the_end_of_a_command() {
        let handle = MachineHandle::new(PlatformAttention::default());
        let held = handle.hold();
        handle.notify();
        assert_eq!(handle.take_stop(), None);
        handle.stop(StopReason::Timeout);
        assert_eq!(handle.take_stop(), Some(StopReason::Timeout));
        drop(held);
        assert_eq!(handle.take_stop(), Some(StopReason::UserRequest));
        assert_eq!(handle.take_stop(), None);
    }

    #[test]
    fn frames_are_hexadecimal() {
        let event = HostEvent::Network { port: 1, frames: vec![Frame(vec![0, 0x1f, 0xff])] };
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.contains("001fff"), "{text}");
        assert_eq!(serde_json::from_str::<HostEvent>(&text).unwrap(), event);
        assert!(serde_json::from_str::<HostEvent>(&text.replace("001fff", "001ff")).is_err());
    }

    #[test]
    fn waiting_ends_when_something_comes() {
        let handle = MachineHandle::new(PlatformAttention::default());
        let other = handle.clone();
        let sender = std::thread::spawn(move || other.send(HostEvent::PowerButton));
        handle.wait(None);
        sender.join().unwrap();
        assert_eq!(handle.take_events(), [HostEvent::PowerButton]);
        handle.close();
        assert!(handle.is_closed());
        handle.wait(None);
        // A timed wait lasts its time, closed or not.
        let start = std::time::Instant::now();
        handle.wait(Some(Duration::from_millis(20)));
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
