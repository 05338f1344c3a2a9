//! The input log: everything that came from outside, with the moments at which the guest got it, as lines of JSON.
//!
//! The first line describes the machine, the last one (if the recording ended orderly) its end.

use crate::{HostEvent, MachineConfig, MachineError, StopReason};
use ringworld_core::VirtualTime;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{BufRead, Read, Write};

const FORMAT: u32 = 1;
/// Longest line that is looked at; an event of one queue entry is far shorter.
const MAX_LINE: usize = 16 << 20;

/// What must be equal for a recording to replay.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecordingHeader {
    format: u32,
    /// The CPU model as configured.
    pub cpu: String,
    /// The number of CPUs.
    pub cpus: u32,
    /// RAM in bytes.
    pub memory: u64,
    /// The clock at power-on.
    pub rtc_start: u64,
    /// The seed of random numbers.
    pub seed: u64,
    slice: u64,
    debug_exit: Option<u16>,
    cpu_test: bool,
    reboot: bool,
    triple_fault_resets: bool,
    /// Disks, networks and graphics, without the files' names.
    #[serde(default)]
    devices: String,
    /// Hash of all that the loader put into memory, in hexadecimal.
    image: String,
}

impl RecordingHeader {
    pub(crate) fn new(config: &MachineConfig, image: u128) -> Self {
        Self {
            format: FORMAT,
            cpu: config.cpu.clone(),
            cpus: config.cpus,
            memory: config.memory,
            rtc_start: config.rtc_start,
            seed: config.seed,
            slice: config.slice,
            debug_exit: config.debug_exit,
            cpu_test: config.cpu_test,
            reboot: config.reboot,
            triple_fault_resets: config.triple_fault_resets,
            devices: crate::peripherals::describe(config),
            image: format!("{image:032x}"),
        }
    }

    /// The first thing in which `self` (recorded) and `now` differ.
    fn difference(&self, now: &Self) -> Option<String> {
        let differs = |name: &str, old: &dyn std::fmt::Display, new: &dyn std::fmt::Display| {
            let (old, new) = (old.to_string(), new.to_string());
            (old != new).then(|| format!("{name} was {old}, now it is {new}"))
        };
        let exit = |port: Option<u16>| port.map_or("none".into(), |port| format!("{port:#x}"));
        differs("the CPU model", &self.cpu, &now.cpu)
            .or_else(|| differs("the number of CPUs", &self.cpus, &now.cpus))
            .or_else(|| differs("memory", &self.memory, &now.memory))
            .or_else(|| differs("the clock's start", &self.rtc_start, &now.rtc_start))
            .or_else(|| differs("the seed", &self.seed, &now.seed))
            .or_else(|| differs("the CPUs' slice", &self.slice, &now.slice))
            .or_else(|| differs("the debug-exit port", &exit(self.debug_exit), &exit(now.debug_exit)))
            .or_else(|| differs("the CPU test device", &self.cpu_test, &now.cpu_test))
            .or_else(|| differs("restart on reset", &self.reboot, &now.reboot))
            .or_else(|| differs("reset on triple fault", &self.triple_fault_resets, &now.triple_fault_resets))
            .or_else(|| differs("the devices", &self.devices, &now.devices))
            .or_else(|| differs("the image of kernel, initrd and command line", &self.image, &now.image))
    }
}

/// How a recording ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecordingEnd {
    /// Why.
    pub stop: StopReason,
    /// Virtual time.
    pub at: VirtualTime,
    /// Instructions of all CPUs.
    pub instructions: u64,
    /// The state hash, in hexadecimal.
    pub state: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Machine(RecordingHeader),
    Event(Timed),
    End(RecordingEnd),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Timed {
    at: VirtualTime,
    /// Instructions of all CPUs: a check on the replay.
    instructions: u64,
    event: HostEvent,
}

/// A recording that was read, for [`crate::Machine::replay`].
#[derive(Clone, Debug)]
pub struct Recording {
    /// What was recorded.
    pub header: RecordingHeader,
    events: VecDeque<Timed>,
    /// How it ended; `None` if the recording was cut off.
    pub end: Option<RecordingEnd>,
}

impl Recording {
    /// Reads a recording.
    pub fn read(mut from: impl BufRead) -> Result<Self, MachineError> {
        let mut header = None;
        let mut events = VecDeque::new();
        let mut number = 0;
        loop {
            let damaged = |why: String| MachineError::Recording(format!("line {}: {why}", number + 1));
            let mut line = Vec::new();
            let read = from.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line);
            if read.map_err(|error| damaged(error.to_string()))? == 0 {
                break;
            }
            match (serde_json::from_slice(&line).map_err(|error| damaged(error.to_string()))?, &header) {
                (Line::Machine(new), None) if new.format == FORMAT => header = Some(new),
                (Line::Event(event), Some(_)) => events.push_back(event),
                (Line::End(end), Some(header)) => {
                    return Ok(Self { header: header.clone(), events, end: Some(end) });
                }
                _ => return Err(damaged("not the first line of a recording of this version".into())),
            }
            number += 1;
        }
        let header = header.ok_or_else(|| MachineError::Recording("it is empty".into()))?;
        Ok(Self { header, events, end: None })
    }

    /// Checks that this machine is the recorded one.
    pub(crate) fn check(&self, now: &RecordingHeader) -> Result<(), MachineError> {
        match self.header.difference(now) {
            None => Ok(()),
            Some(difference) => {
                Err(MachineError::Recording(format!("{difference}: use the recorded machine")))
            }
        }
    }

    /// Leaves out what a machine has got already, which is at this moment.
    pub(crate) fn skip(&mut self, events: u64, now: VirtualTime) -> Result<(), MachineError> {
        let events = usize::try_from(events).unwrap_or(usize::MAX);
        let fits =
            events <= self.events.len() && self.events.iter().take(events).all(|event| event.at <= now);
        if !fits || self.events.get(events).is_some_and(|event| event.at < now) {
            return Err(MachineError::Recording(
                "the snapshot is of another run: use one of the recorded run".into(),
            ));
        }
        self.events.drain(..events);
        Ok(())
    }

    /// The moment of the next event, or of the end if the guest did not find it itself.
    pub(crate) fn next(&self) -> VirtualTime {
        let end = self.end.as_ref().filter(|end| end.stop.is_from_host());
        let end = end.map_or(VirtualTime::NEVER, |end| end.at);
        self.events.front().map_or(end, |event| event.at)
    }

    /// Takes the next event if its moment has come.
    pub(crate) fn take(
        &mut self,
        now: VirtualTime,
        instructions: u64,
    ) -> Result<Option<HostEvent>, MachineError> {
        let Some(event) = self.events.pop_front_if(|event| event.at <= now) else { return Ok(None) };
        if (event.at, event.instructions) != (now, instructions) {
            return Err(MachineError::Diverged {
                recorded: format!("an event at instruction {} ({:?})", event.instructions, event.at),
                replayed: format!("instruction {instructions} ({now:?})"),
            });
        }
        Ok(Some(event.event))
    }

    /// The host's reason to stop, once the replay is where the recording was stopped from outside.
    pub(crate) fn ends(&self, now: VirtualTime) -> Option<StopReason> {
        let end = self.end.as_ref().filter(|_| self.events.is_empty())?;
        (end.stop.is_from_host() && end.at <= now).then(|| end.stop.clone())
    }
}

/// Writes a recording.
pub(crate) struct Recorder(Box<dyn Write + Send>);

impl Recorder {
    pub(crate) fn new(to: Box<dyn Write + Send>, header: RecordingHeader) -> Result<Self, MachineError> {
        let mut recorder = Self(to);
        recorder.line(&Line::Machine(header))?;
        Ok(recorder)
    }

    fn line(&mut self, line: &Line) -> Result<(), MachineError> {
        let mut text =
            serde_json::to_vec(line).map_err(|error| MachineError::Recording(error.to_string()))?;
        text.push(b'\n');
        let written = self.0.write_all(&text).and_then(|()| self.0.flush());
        written.map_err(|error| MachineError::Recording(format!("cannot write: {error}")))
    }

    pub(crate) fn event(
        &mut self,
        at: VirtualTime,
        instructions: u64,
        event: &HostEvent,
    ) -> Result<(), MachineError> {
        self.line(&Line::Event(Timed { at, instructions, event: event.clone() }))
    }

    pub(crate) fn end(&mut self, end: RecordingEnd) -> Result<(), MachineError> {
        self.line(&Line::End(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(data)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn header() -> RecordingHeader {
        RecordingHeader::new(&MachineConfig::default(), 7)
    }

    #[test]
    fn a_recording_reads_back() {
        let sink = Sink::default();
        let mut recorder = Recorder::new(Box::new(sink.clone()), header()).unwrap();
        let event = HostEvent::Serial { port: 0, bytes: b"ls\n".to_vec() };
        recorder.event(VirtualTime(50), 40, &event).unwrap();
        recorder.event(VirtualTime(50), 40, &HostEvent::Nmi).unwrap();
        let end = RecordingEnd {
            stop: StopReason::UserRequest,
            at: VirtualTime(90),
            instructions: 60,
            state: "0".into(),
        };
        recorder.end(end.clone()).unwrap();
        let text = sink.0.lock().unwrap().clone();
        let mut recording = Recording::read(&text[..]).unwrap();
        recording.check(&header()).unwrap();
        assert_eq!(recording.next(), VirtualTime(50));
        assert_eq!(recording.take(VirtualTime(49), 40).unwrap(), None);
        for (events, at, rest) in [(0, 50, 2), (1, 50, 1), (2, 50, 0), (2, 70, 0)] {
            let mut later = recording.clone();
            later.skip(events, VirtualTime(at)).unwrap();
            assert_eq!(later.events.len(), rest);
        }
        for (events, at) in [(3, 80), (u64::MAX, 80), (1, 49), (1, 51)] {
            assert!(recording.clone().skip(events, VirtualTime(at)).is_err(), "{events} at {at}");
        }
        assert_eq!(recording.take(VirtualTime(50), 40).unwrap(), Some(event));
        assert_eq!(recording.ends(VirtualTime(100)), None);
        assert!(matches!(recording.take(VirtualTime(50), 41), Err(MachineError::Diverged { .. })));
        assert_eq!((recording.next(), recording.ends(VirtualTime(89))), (VirtualTime(90), None));
        assert_eq!(recording.ends(VirtualTime(90)), Some(StopReason::UserRequest));
        assert_eq!(recording.end, Some(end));
    }

    #[test]
    fn another_machine_and_damage_are_told() {
        let other = RecordingHeader::new(&MachineConfig { cpus: 2, ..MachineConfig::default() }, 7);
        let text = serde_json::to_string(&Line::Machine(header())).unwrap();
        let recording = Recording::read(text.as_bytes()).unwrap();
        let error = recording.check(&other).unwrap_err().to_string();
        assert!(error.contains("number of CPUs was 1, now it is 2"), "{error}");
        for text in ["", "{}\n", "\u{0}\n", "{\"event\":{}}\n"] {
            assert!(matches!(Recording::read(text.as_bytes()), Err(MachineError::Recording(_))), "{text:?}");
        }
    }
}
