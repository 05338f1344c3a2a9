//! The monitor: a prompt to look inside the stopped machine.

mod memory;
mod show;
mod svm;
mod vmx;

use crate::trace::parse_address;
use anyhow::Context;
use ringworld_machine::{HostEvent, Machine, MachineError, RunUntil, Snapshot, StopReason, Watchpoint};
use ringworld_x86::Cpu;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc::Receiver;

const HELP: &str = "\
info registers|cpus|tlb|lapic|ioapic|pic|mem|stats
x/FMT ADDR       memory at a linear address; FMT: count, size b h w g, format x d u c s i (instructions)
xp/FMT ADDR      memory at a physical address
disas [ADDR] [N] N instructions from ADDR (or RIP) on
vmcs             the current VMCS; `why-failed` names the check that failed a VM entry
ept ADDR, walk2d ADDR
                 the walk of a guest-physical address, or of a guest's linear address through both stages
vmcb [ADDR]      the VMCB of the last VMRUN, or at a physical address
walk ADDR        the page walk of a linear address, every level of it
cpu N            the CPU that the commands are about
step [N]         N instructions
break ADDR       stop before the instruction at a linear address; `break` lists, `delete [ADDR]` removes
watch ADDR [LEN] [r|w|rw]
                 stop behind an instruction that accesses memory; `watch` lists, `unwatch [ADDR]` removes
continue         go on
reverse-step [N], reverse-continue, goto COUNT, info history
                 back by N instructions of the CPU, to the last breakpoint or watchpoint, or to an instruction count (with
                 --reverse)
nmi, reset       what the buttons do, then go on with `continue`
snapshot save FILE, snapshot load FILE
                 the whole machine to a file; back to what a file holds
screendump FILE  what the graphics card shows, as PNG
balloon MIB      asks the guest by its balloon to keep this much memory
hash             the hash of the machine's state
quit             leave the emulator
Addresses are hexadecimal, or registers ($rip, $rsp), or sums of both ($rsp+8).
";

/// What is said where a balloon would be needed.
pub const NO_BALLOON: &str = "the machine has no balloon: start it with --device virtio-balloon";
/// The most instructions of one `step` that are shown.
const MAX_STEPS: u64 = 10_000;

/// What a command leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The next command.
    Stay,
    /// Back to the guest.
    Continue,
    /// The end.
    Quit,
}

/// The monitor of one run.
#[derive(Default)]
pub struct Monitor {
    cpu: usize,
    breakpoints: Vec<u64>,
    watchpoints: Vec<Watchpoint>,
    script: VecDeque<String>,
    keys: Option<Receiver<Vec<u8>>>,
    typed: Vec<u8>,
}

impl Monitor {
    /// A monitor that reads its first commands from a file.
    pub fn new(script: Option<&Path>) -> anyhow::Result<Self> {
        let mut monitor = Self::default();
        if let Some(path) = script {
            let text = std::fs::read_to_string(path);
            let text = text.with_context(|| format!("cannot read the monitor script {}", path.display()))?;
            monitor.script = text.lines().map(String::from).collect();
        }
        Ok(monitor)
    }

    /// Further commands come from a person.
    pub fn keys(&mut self, keys: Option<Receiver<Vec<u8>>>) {
        self.keys = keys;
    }

    /// Whether commands wait.
    pub fn has_script(&self) -> bool {
        !self.script.is_empty()
    }

    /// Where to stop.
    pub fn until(&self) -> RunUntil {
        RunUntil {
            breakpoints: self.breakpoints.clone(),
            watchpoints: self.watchpoints.clone(),
            ..RunUntil::default()
        }
    }

    /// The next line: from the script, else from a person, else `continue`.
    fn line(&mut self) -> String {
        if let Some(line) = self.script.pop_front() {
            say_line!("(ringworld) {line}");
            return line;
        }
        let Some(keys) = &self.keys else { return "continue".into() };
        say!("(ringworld) ");
        loop {
            if let Some(end) = self.typed.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.typed.drain(..=end).collect();
                return String::from_utf8_lossy(&line).into_owned();
            }
            match keys.recv() {
                Ok(bytes) => self.typed.extend(bytes),
                // The end of input.
                Err(_) => return "quit".into(),
            }
        }
    }

    /// Reads and executes commands until one leaves the monitor.
    pub fn prompt(&mut self, machine: &mut Machine) -> anyhow::Result<Outcome> {
        loop {
            let line = self.line();
            let mut out = String::new();
            let outcome = self.command(machine, line.trim(), &mut out)?;
            say!("{out}");
            if outcome != Outcome::Stay {
                return Ok(outcome);
            }
        }
    }

    /// Executes a command that comes from gdb; what it prints.
    pub fn remote(&mut self, machine: &mut Machine, line: &str) -> String {
        let mut out = String::new();
        match self.command(machine, line, &mut out) {
            Ok(Outcome::Stay) => out,
            Ok(Outcome::Continue | Outcome::Quit) => "gdb has commands of its own for that".into(),
            Err(error) => format!("{error:#}"),
        }
    }

    /// Executes one command.
    fn command(&mut self, machine: &mut Machine, line: &str, out: &mut String) -> anyhow::Result<Outcome> {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let mut outcome = Outcome::Stay;
        let done = match word {
            "" => Ok(()),
            "help" | "h" | "?" => {
                out.push_str(HELP);
                Ok(())
            }
            "c" | "cont" | "continue" => {
                outcome = Outcome::Continue;
                Ok(())
            }
            "q" | "quit" => {
                outcome = Outcome::Quit;
                Ok(())
            }
            "cpu" => self.select(machine, rest),
            "i" | "info" if rest == "history" => history(machine, out),
            "i" | "info" => show::info(machine, self.cpu, rest, out),
            "walk" => self.address(machine, rest).and_then(|at| memory::walk(machine, self.cpu, at, out)),
            "vmcs" => vmx::vmcs(machine, self.cpu, out),
            "why-failed" => vmx::why_failed(machine, self.cpu, out),
            "ept" => self.address(machine, rest).and_then(|at| vmx::ept(machine, self.cpu, at, out)),
            "walk2d" => self.address(machine, rest).and_then(|at| vmx::walk2d(machine, self.cpu, at, out)),
            "vmcb" if rest.is_empty() => svm::vmcb(machine, self.cpu, None, out),
            "vmcb" => self.address(machine, rest).and_then(|at| svm::vmcb(machine, self.cpu, Some(at), out)),
            "disas" => self.disassemble(machine, rest, out),
            "s" | "step" => return self.step(machine, rest, out),
            "rs" | "reverse-step" => self.reverse_step(machine, rest, out),
            "rc" | "reverse-continue" => machine
                .reverse_continue(&self.until())
                .map_err(text)
                .and_then(|stop| self.stopped(machine, &stop, out)),
            "goto" => crate::args::parse_count(rest)
                .and_then(|count| machine.goto(count).map_err(text))
                .and_then(|stop| self.stopped(machine, &stop, out)),
            "watch" => self.watch(machine, rest, out),
            "unwatch" => self.unwatch(machine, rest),
            "b" | "break" => self.set_breakpoint(machine, rest, out),
            "delete" => self.delete_breakpoint(machine, rest),
            "snapshot" => snapshot(machine, rest, out),
            "screendump" if rest.is_empty() => Err("screendump FILE".into()),
            "screendump" => {
                crate::screen::dump(machine, Path::new(rest)).map_err(|error| format!("{error:#}"))
            }
            "hash" => {
                out.push_str(&format!("{:032x}\n", machine.state_hash()));
                Ok(())
            }
            "balloon" => match rest.parse::<u64>().ok().and_then(|mib| mib.checked_mul(1 << 20)) {
                Some(size) if machine.balloon(size) => Ok(()),
                Some(_) => Err(NO_BALLOON.into()),
                None => Err("balloon MIB: the memory that the guest is to keep".into()),
            },
            "nmi" => {
                machine.handle().send(HostEvent::Nmi);
                Ok(())
            }
            "reset" => {
                machine.handle().send(HostEvent::Reset);
                Ok(())
            }
            _ => match word.split_once('/').unwrap_or((word, "")) {
                (kind @ ("x" | "xp"), format) => self
                    .address(machine, rest)
                    .and_then(|at| memory::examine(machine, self.cpu, kind == "xp", format, at, out)),
                _ => Err(format!("{word}: no such command; `help` lists them")),
            },
        };
        if let Err(error) = done {
            out.push_str(&error);
            out.push('\n');
        }
        Ok(outcome)
    }

    fn select(&mut self, machine: &Machine, rest: &str) -> Result<(), String> {
        let number = rest.parse().ok().filter(|n| machine.cpu(*n).is_some());
        self.cpu = number.ok_or_else(|| format!("give a CPU from 0 to {}", machine.cpus().len() - 1))?;
        Ok(())
    }

    /// An address: hexadecimal numbers and registers, with + and - between.
    fn address(&self, machine: &Machine, text: &str) -> Result<u64, String> {
        let cpu = machine.cpu(self.cpu).ok_or("there is no such CPU")?;
        let mut value = 0u64;
        let mut rest = text;
        let mut negative = false;
        loop {
            let end = rest.find(['+', '-']).unwrap_or(rest.len());
            let term = rest[..end].trim();
            let number = register(cpu, term).or_else(|| parse_address(term));
            let number = number.ok_or_else(|| format!("{term:?} is no address"))?;
            value = if negative { value.wrapping_sub(number) } else { value.wrapping_add(number) };
            if end == rest.len() {
                return Ok(value);
            }
            negative = rest.as_bytes()[end] == b'-';
            rest = &rest[end + 1..];
        }
    }

    fn disassemble(&self, machine: &Machine, rest: &str, out: &mut String) -> Result<(), String> {
        let (at, count) = rest.split_once(char::is_whitespace).unwrap_or((rest, "10"));
        let count = count.trim().parse().map_err(|_| "give the number of instructions")?;
        let cpu = machine.cpu(self.cpu).ok_or("there is no such CPU")?;
        let at = if at.is_empty() { ringworld_machine::linear_rip(cpu) } else { self.address(machine, at)? };
        memory::instructions(cpu, at, count, out)
    }

    fn step(&self, machine: &mut Machine, rest: &str, out: &mut String) -> anyhow::Result<Outcome> {
        let count = if rest.is_empty() { Ok(1) } else { rest.parse() };
        let Ok(count @ 1..=MAX_STEPS) = count else {
            out.push_str(&format!("give a number of instructions from 1 to {MAX_STEPS}\n"));
            return Ok(Outcome::Stay);
        };
        for _ in 0..count {
            let stop = machine.run(&RunUntil::instructions(machine.instructions() + 1))?;
            if stop != StopReason::InstructionLimit {
                out.push_str(&format!("{stop:?}\n"));
                break;
            }
            if let Some(cpu) = machine.cpu(self.cpu) {
                // What cannot be read is not shown.
                let _ = memory::instructions(cpu, ringworld_machine::linear_rip(cpu), 1, out);
            }
        }
        Ok(Outcome::Stay)
    }

    fn reverse_step(&self, machine: &mut Machine, rest: &str, out: &mut String) -> Result<(), String> {
        let count = if rest.is_empty() { Ok(1) } else { rest.parse() };
        let count = count.ok().filter(|count| (1..=MAX_STEPS).contains(count));
        let count = count.ok_or_else(|| format!("give a number of instructions from 1 to {MAX_STEPS}"))?;
        for _ in 0..count {
            let stop = machine.reverse_step(self.cpu).map_err(text)?;
            self.stopped(machine, &stop, out)?;
            if stop != StopReason::InstructionLimit {
                break;
            }
        }
        Ok(())
    }

    /// Tells where the machine is now.
    fn stopped(&self, machine: &Machine, stop: &StopReason, out: &mut String) -> Result<(), String> {
        match describe(stop) {
            Some(text) => out.push_str(&format!("{text}, at instruction {}\n", machine.instructions())),
            None => out.push_str(&format!("at instruction {}\n", machine.instructions())),
        }
        if let Some(cpu) = machine.cpu(self.cpu) {
            // What cannot be read is not shown.
            let _ = memory::instructions(cpu, ringworld_machine::linear_rip(cpu), 1, out);
        }
        Ok(())
    }

    fn watch(&mut self, machine: &Machine, rest: &str, out: &mut String) -> Result<(), String> {
        if rest.is_empty() {
            for Watchpoint { address, len, read, write } in &self.watchpoints {
                let kind = format!("{}{}", if *read { "r" } else { "" }, if *write { "w" } else { "" });
                out.push_str(&format!("{address:#x} {len} {kind}\n"));
            }
            return Ok(());
        }
        let mut words = rest.split_whitespace();
        let address = self.address(machine, words.next().unwrap_or_default())?;
        let (mut len, mut read, mut write) = (8, false, true);
        for word in words {
            match word {
                "r" => (read, write) = (true, false),
                "w" => (read, write) = (false, true),
                "rw" => (read, write) = (true, true),
                _ => {
                    len = word
                        .parse()
                        .ok()
                        .filter(|len| (1..=4096).contains(len))
                        .ok_or("give a length from 1 to 4096, or r, w or rw")?
                }
            }
        }
        self.watchpoints.retain(|point| point.address != address);
        self.watchpoints.push(Watchpoint { address, len, read, write });
        Ok(())
    }

    fn unwatch(&mut self, machine: &Machine, rest: &str) -> Result<(), String> {
        if rest.is_empty() {
            self.watchpoints.clear();
            return Ok(());
        }
        let at = self.address(machine, rest)?;
        self.watchpoints.retain(|point| point.address != at);
        Ok(())
    }

    fn set_breakpoint(&mut self, machine: &Machine, rest: &str, out: &mut String) -> Result<(), String> {
        if rest.is_empty() {
            out.extend(self.breakpoints.iter().map(|at| format!("{at:#x}\n")));
            return Ok(());
        }
        let at = self.address(machine, rest)?;
        if !self.breakpoints.contains(&at) {
            self.breakpoints.push(at);
        }
        Ok(())
    }

    fn delete_breakpoint(&mut self, machine: &Machine, rest: &str) -> Result<(), String> {
        if rest.is_empty() {
            self.breakpoints.clear();
            return Ok(());
        }
        let at = self.address(machine, rest)?;
        self.breakpoints.retain(|breakpoint| *breakpoint != at);
        Ok(())
    }
}

fn text(error: MachineError) -> String {
    error.to_string()
}

/// What a person is told about a stop that leads to the monitor.
pub fn describe(stop: &StopReason) -> Option<String> {
    Some(match stop {
        StopReason::Breakpoint { cpu, address } => format!("breakpoint at {address:#x} on CPU {cpu}"),
        StopReason::Watchpoint { cpu, address, write } => {
            let access = if *write { "write to" } else { "read of" };
            format!("{access} the watchpoint at {address:#x} on CPU {cpu}")
        }
        StopReason::HistoryStart => "the history begins here".into(),
        _ => return None,
    })
}

/// `info history`.
fn history(machine: &Machine, out: &mut String) -> Result<(), String> {
    let range = machine.history().ok_or("nothing of the past is kept: start with --reverse")?;
    out.push_str(&format!(
        "instructions {} to {}, now {}; {} snapshots, {} MiB\n",
        range.start,
        range.end,
        machine.instructions(),
        range.snapshots,
        range.bytes >> 20
    ));
    Ok(())
}

/// `snapshot save FILE` and `snapshot load FILE`.
fn snapshot(machine: &mut Machine, rest: &str, out: &mut String) -> Result<(), String> {
    let path = |file: &str| Path::new(file.trim()).to_path_buf();
    let done = match rest.split_once(char::is_whitespace) {
        Some(("save", file)) => machine.snapshot().and_then(|snapshot| snapshot.write(&path(file))),
        Some(("load", file)) => {
            Snapshot::open(&path(file)).and_then(|snapshot| machine.load_snapshot(&snapshot))
        }
        _ => return Err("give `save FILE` or `load FILE`".into()),
    };
    done.map_err(|error| error.to_string())?;
    out.push_str(&format!("at instruction {}\n", machine.instructions()));
    Ok(())
}

/// The value of a register by its name, with or without `$`.
fn register(cpu: &Cpu, name: &str) -> Option<u64> {
    let name = name.strip_prefix('$').unwrap_or(name);
    Some(match name {
        "rip" | "pc" => cpu.rip(),
        "cr2" => cpu.cr2,
        "cr3" => cpu.cr3 & 0x000f_ffff_ffff_f000,
        "gdtr" => cpu.gdtr.base,
        "idtr" => cpu.idtr.base,
        _ => return show::GPR.iter().position(|gpr| *gpr == name).map(|n| cpu.regs[n]),
    })
}
