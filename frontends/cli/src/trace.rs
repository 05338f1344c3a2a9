//! `--trace`: what to trace, which part of it, and how it is written.
//!
//! The parts of the machine say what they do by `tracing` events under the targets `ringworld::*`. Instructions come from
//! an [`Observer`] that is compiled into an interpreter of its own, so that a run without it pays nothing.

use crate::args::parse_count;
use crate::disassembly::{disassemble, hex};
use ringworld_machine::Observer;
use ringworld_x86::{Cpu, Insn};
use std::fmt::{self, Write as _};
use std::io::Write;
use std::ops::Range;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// The names on the command line and their targets.
const TARGETS: [(&str, &str); 7] = [
    ("insn", "ringworld::insn"),
    ("exception", "ringworld::exception"),
    ("interrupt", "ringworld::interrupt"),
    ("io", "ringworld::io"),
    ("mmio", "ringworld::mmio"),
    ("svm", "ringworld::svm"),
    ("vmx", "ringworld::vmx"),
];

/// Whether events are written now: false outside of the range of instruction counts.
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Where events are written. Static, because the process's end must find it, whichever way that comes.
static OUT: Mutex<Option<Box<dyn Write + Send>>> = Mutex::new(None);

fn out() -> MutexGuard<'static, Option<Box<dyn Write + Send>>> {
    OUT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is still in a buffer goes to the file. Nobody hears of what fails now.
extern "C" fn flush() {
    if let Some(out) = out().as_mut() {
        let _ = out.flush();
    }
}

/// What to trace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TraceSpec {
    /// Targets, in the order given.
    targets: Vec<&'static str>,
    /// Only events at these addresses: of instructions, ports or memory. Empty: all.
    addresses: Vec<Range<u64>>,
    /// Only while this many instructions have retired.
    count: Option<Range<u64>>,
}

impl TraceSpec {
    /// Whether instructions are traced.
    pub fn instructions(&self) -> bool {
        self.targets.contains(&"ringworld::insn")
    }

    /// Whether to trace once `instructions` have retired, and the count at which that changes.
    pub fn phase(&self, instructions: u64) -> (bool, Option<u64>) {
        match &self.count {
            None => (true, None),
            Some(range) if instructions < range.start => (false, Some(range.start)),
            Some(range) if instructions < range.end => (true, Some(range.end)),
            Some(_) => (false, None),
        }
    }

    fn wants_address(&self, address: u64) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|range| range.contains(&address))
    }

    /// Writes traced events to `out` from now on, whenever [`set_active`].
    pub fn install(&self, out: Box<dyn Write + Send>) -> anyhow::Result<()> {
        *self::out() = Some(out);
        // SAFETY: the function has the type that is asked for and does not unwind: errors are dropped, and a poisoned lock
        // is taken.
        if unsafe { libc::atexit(flush) } != 0 {
            anyhow::bail!(
                "the host has no room for one more function at the process's end: trace to standard error"
            );
        }
        let layer = TraceLayer { spec: self.clone() };
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;
        Ok(())
    }
}

/// Switches the writing of events on or off.
pub fn set_active(active: bool) {
    ACTIVE.store(active, Ordering::Relaxed);
}

fn parse_range(text: &str, number: impl Fn(&str) -> Option<u64>) -> Option<Range<u64>> {
    let (from, to) = text.split_once("..")?;
    let from = if from.is_empty() { 0 } else { number(from)? };
    let to = if to.is_empty() { u64::MAX } else { number(to)? };
    (from < to).then_some(from..to)
}

/// A hexadecimal address, with or without 0x.
pub fn parse_address(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text).replace('_', "");
    if digits.starts_with('+') { None } else { u64::from_str_radix(&digits, 16).ok() }
}

impl FromStr for TraceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut spec = Self::default();
        for part in text.split(',') {
            if let Some(range) = part.strip_prefix("addr=") {
                let range = parse_range(range, parse_address);
                let range =
                    range.ok_or_else(|| format!("{part:?}: give addresses like addr=0x1000..0x2000"))?;
                spec.addresses.push(range);
            } else if let Some(range) = part.strip_prefix("count=") {
                let range = parse_range(range, |number| parse_count(number).ok());
                let range = range.ok_or_else(|| format!("{part:?}: give counts like count=1M..2M"))?;
                if spec.count.replace(range).is_some() {
                    return Err("give one count range".into());
                }
            } else if part == "all" {
                spec.targets.extend(TARGETS.map(|(_, target)| target));
            } else {
                let found = TARGETS.iter().find(|(name, _)| *name == part);
                let names = || TARGETS.map(|(name, _)| name).join(", ");
                let (_, target) =
                    found.ok_or_else(|| format!("{part:?} cannot be traced; give {} or all", names()))?;
                spec.targets.push(target);
            }
        }
        if spec.targets.is_empty() {
            return Err(
                "name something to trace: insn, exception, interrupt, io, mmio, svm, vmx or all".into()
            );
        }
        Ok(spec)
    }
}

/// Writes the wanted events, one a line.
struct TraceLayer {
    spec: TraceSpec,
}

impl<S: Subscriber> Layer<S> for TraceLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let wanted = self.spec.targets.contains(&metadata.target());
        if wanted { Interest::sometimes() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        ACTIVE.load(Ordering::Relaxed) && self.spec.targets.contains(&metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        let mut line = Line { text: String::new(), address: None };
        event.record(&mut line);
        if line.address.is_some_and(|address| !self.spec.wants_address(address)) {
            return;
        }
        let name = target.rsplit("::").next().unwrap_or(target);
        // A trace that cannot be written must not end the run that it watches.
        if let Some(out) = out().as_mut() {
            let _ = writeln!(out, "{name}{}", line.text);
        }
    }
}

struct Line {
    text: String,
    address: Option<u64>,
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if matches!(field.name(), "addr" | "port" | "rip") {
            // Of several addresses, the first one is what the event is about.
            self.address.get_or_insert(value);
            let _ = write!(self.text, " {}={value:#x}", field.name());
        } else {
            let _ = write!(self.text, " {}={value}", field.name());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "rip"
            && let Some(address) = parse_address(&format!("{value:?}"))
        {
            return self.record_u64(field, address);
        }
        let _ = match field.name() {
            "message" => write!(self.text, " {value:?}"),
            name => write!(self.text, " {name}={value:?}"),
        };
    }
}

/// Traces instructions, disassembled.
pub struct InstructionTracer<'a>(pub &'a TraceSpec);

impl Observer for InstructionTracer<'_> {
    const INSTRUCTIONS: bool = true;

    fn instruction(&mut self, cpu: &Cpu, insn: &Insn) {
        let linear = ringworld_machine::linear_rip(cpu);
        if !self.0.wants_address(linear) {
            return;
        }
        let bytes = ringworld_machine::read_linear(cpu, linear, usize::from(insn.len));
        let line = disassemble(cpu, &bytes, cpu.rip(), linear, 1).pop();
        let text = line.map_or_else(|| "(bad)".into(), |line| line.text);
        let (cpu, count) = (cpu.id.0, cpu.icount);
        tracing::trace!(target: "ringworld::insn", cpu, count, rip = linear, "{:<30} {text}", hex(&bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications_are_understood() {
        let spec: TraceSpec = "insn,io,addr=0x1000..2000,addr=f000..,count=1M..".parse().unwrap();
        assert!(spec.instructions());
        assert_eq!(spec.targets, ["ringworld::insn", "ringworld::io"]);
        for (address, wanted) in [(0xfff, false), (0x1000, true), (0x2000, false), (0xffff_0000, true)] {
            assert_eq!(spec.wants_address(address), wanted, "{address:#x}");
        }
        assert_eq!(spec.phase(5), (false, Some(1_000_000)));
        assert_eq!(spec.phase(1_000_000), (true, Some(u64::MAX)));
        assert_eq!("all".parse::<TraceSpec>().unwrap().targets.len(), TARGETS.len());
        for text in
            ["", "count=1..2", "insn,", "insn,addr=5", "insn,addr=2..1", "io,count=1..2,count=3..4", "x=1"]
        {
            assert!(text.parse::<TraceSpec>().is_err(), "{text}");
        }
    }
}
