//! The machine as gdbstub wants to see it: a thread for each CPU (numbered from 1).

use crate::Host;
use crate::registers::Layout;
use gdbstub::arch::Arch;
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::reverse_exec::{
    ReplayLogPosition, ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps, outputln};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use ringworld_core::GuestPhys;
use ringworld_machine::{Machine, MachineError, RunUntil, StopReason, Watchpoint, read_linear};
use std::num::NonZeroUsize;

/// The most breakpoints, and watchpoints, of a session.
const MOST: usize = 1024;
/// Longest watched range in bytes.
const LONGEST_WATCH: u64 = 1 << 16;

/// x86-64, with registers as bytes: their layout depends on the CPU model.
#[derive(Debug)]
pub(crate) enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = Registers;
    type BreakpointKind = usize;
    type RegId = RegisterNumber;
}

/// The contents of a `g` packet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Registers(Vec<u8>);

impl gdbstub::arch::Registers for Registers {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        // RIP is register 16, after sixteen of eight bytes.
        self.0.get(128..136).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.0.iter().for_each(|byte| write_byte(Some(*byte)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.0 = bytes.to_vec();
        Ok(())
    }
}

/// A register's number in the target description.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RegisterNumber(usize);

impl gdbstub::arch::RegId for RegisterNumber {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        Some((Self(id), None))
    }
}

/// What gdb wants to happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Continue,
    /// An instruction of this CPU.
    Step(usize),
    ReverseContinue,
    ReverseStep(usize),
}

pub(crate) struct Debuggee<'a> {
    pub(crate) machine: &'a mut Machine,
    layout: Layout,
    xml: String,
    breakpoints: Vec<u64>,
    watchpoints: Vec<(Watchpoint, WatchKind)>,
    action: Action,
    /// Memory is read and written by physical addresses.
    physical: bool,
    host: &'a mut dyn Host,
    /// The CPU that the session is about.
    cpu: usize,
}

fn tid(cpu: usize) -> Tid {
    Tid::new(cpu + 1).unwrap_or(Tid::MIN)
}

fn number(tid: Tid) -> usize {
    tid.get() - 1
}

/// EFAULT.
fn fault<E>() -> TargetError<E> {
    TargetError::Errno(14)
}

impl<'a> Debuggee<'a> {
    pub(crate) fn new(machine: &'a mut Machine, host: &'a mut dyn Host) -> Self {
        let layout = machine.cpu(0).map(|cpu| Layout::new(&cpu.model));
        let layout = layout.unwrap_or_else(|| Layout::new(&ringworld_x86::model::Model::default()));
        Self {
            xml: layout.xml(),
            layout,
            breakpoints: Vec::new(),
            watchpoints: Vec::new(),
            action: Action::Continue,
            physical: false,
            host,
            cpu: 0,
            machine,
        }
    }

    /// Looks at what others want; false if the session has to end.
    pub(crate) fn attend(&mut self) -> bool {
        self.host.attend(self.machine)
    }

    /// Does what gdb wanted, until something stops it.
    pub(crate) fn run(&mut self) -> Result<StopReason, MachineError> {
        let until = RunUntil {
            breakpoints: self.breakpoints.clone(),
            watchpoints: self.watchpoints.iter().map(|(point, _)| *point).collect(),
            ..RunUntil::default()
        };
        // A step, or a way back, is not the same when it is begun again in its middle.
        let _held = (self.action != Action::Continue).then(|| self.machine.handle().hold());
        match self.action {
            Action::Continue => self.machine.run(&until),
            Action::Step(cpu) => {
                let count = self.machine.cpu(cpu).map_or(0, |cpu| cpu.icount);
                self.machine
                    .run(&RunUntil { cpu_instructions: Some((cpu, count + 1)), ..RunUntil::default() })
            }
            Action::ReverseContinue => self.machine.reverse_continue(&until),
            Action::ReverseStep(cpu) => self.machine.reverse_step(cpu),
        }
    }

    /// What gdb is told about a stop.
    pub(crate) fn report(&mut self, stop: &StopReason) -> MultiThreadStopReason<u64> {
        if let StopReason::Breakpoint { cpu, .. }
        | StopReason::Watchpoint { cpu, .. }
        | StopReason::TripleFault { cpu, .. } = stop
        {
            self.cpu = *cpu as usize;
        }
        if let Action::Step(cpu) | Action::ReverseStep(cpu) = self.action {
            self.cpu = cpu;
        }
        let here = tid(self.cpu);
        let signal = |signal| MultiThreadStopReason::SignalWithThread { tid: here, signal };
        let past = self.machine.history().is_some();
        match stop {
            StopReason::Breakpoint { .. } => MultiThreadStopReason::SwBreak(here),
            StopReason::Watchpoint { address, .. } => {
                let found = self.watchpoints.iter().find(|(point, _)| point.address == *address);
                let kind = found.map_or(WatchKind::Write, |(_, kind)| *kind);
                MultiThreadStopReason::Watch { tid: here, kind, addr: *address }
            }
            StopReason::InstructionLimit => signal(Signal::SIGTRAP),
            StopReason::HistoryStart => {
                MultiThreadStopReason::ReplayLog { tid: Some(here), pos: ReplayLogPosition::Begin }
            }
            StopReason::TripleFault { .. } | StopReason::Panic => signal(Signal::SIGSEGV),
            // The guest has ended, but its past can be looked at.
            StopReason::PowerOff
            | StopReason::Reset
            | StopReason::Suspend
            | StopReason::GuestExit(_)
            | StopReason::Idle
                if past =>
            {
                MultiThreadStopReason::ReplayLog { tid: Some(here), pos: ReplayLogPosition::End }
            }
            StopReason::GuestExit(code) => MultiThreadStopReason::Exited(*code as u8),
            StopReason::PowerOff | StopReason::Reset | StopReason::Suspend | StopReason::Idle => {
                MultiThreadStopReason::Exited(0)
            }
            StopReason::UserRequest | StopReason::Timeout => signal(Signal::SIGINT),
        }
    }

    /// What gdb is told when it interrupts.
    pub(crate) fn interrupted(&self) -> MultiThreadStopReason<u64> {
        MultiThreadStopReason::SignalWithThread { tid: tid(self.cpu), signal: Signal::SIGINT }
    }

    fn monitor(&mut self, line: &str) -> String {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["phys", "on"] => self.physical = true,
            ["phys", "off"] => self.physical = false,
            ["phys", address, ref rest @ ..] => {
                let parse = |text: &str| {
                    let digits = text.strip_prefix("0x");
                    digits.map_or_else(|| text.parse().ok(), |digits| u64::from_str_radix(digits, 16).ok())
                };
                let length = rest.first().map_or(Some(64), |text| parse(text));
                let (Some(address), Some(length @ 1..=4096)) = (parse(address), length) else {
                    return "monitor phys on|off, or monitor phys ADDRESS [LENGTH] (up to 4096)".into();
                };
                let mut bytes = vec![0; length as usize];
                if self.machine.memory().read(GuestPhys(address), &mut bytes).is_err() {
                    return format!("no memory at {address:#x}");
                }
                let lines = bytes.chunks(16).enumerate().map(|(n, chunk)| {
                    let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
                    format!("{:016x}: {}", address + 16 * n as u64, hex.join(" "))
                });
                return lines.collect::<Vec<_>>().join("\n");
            }
            _ => return self.host.command(self.machine, line),
        }
        let what = if self.physical { "physical" } else { "virtual" };
        format!("memory addresses are {what} now")
    }

    fn add_breakpoint(&mut self, address: u64) -> bool {
        if !self.breakpoints.contains(&address) && self.breakpoints.len() < MOST {
            self.breakpoints.push(address);
        }
        self.breakpoints.contains(&address)
    }

    fn remove_breakpoint(&mut self, address: u64) -> bool {
        let before = self.breakpoints.len();
        self.breakpoints.retain(|other| *other != address);
        self.breakpoints.len() < before
    }
}

impl Target for Debuggee<'_> {
    type Arch = X86;
    type Error = MachineError;

    fn base_ops(&mut self) -> BaseOps<'_, X86, MachineError> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }

    // A breakpoint is no instruction in memory: gdb must ask for it.
    fn guard_rail_implicit_sw_breakpoints(&self) -> bool {
        true
    }
}

impl MultiThreadBase for Debuggee<'_> {
    fn read_registers(&mut self, registers: &mut Registers, tid: Tid) -> TargetResult<(), Self> {
        let cpu = self.machine.cpu(number(tid)).ok_or_else(fault)?;
        registers.0 = self.layout.read_all(cpu);
        Ok(())
    }

    fn write_registers(&mut self, registers: &Registers, tid: Tid) -> TargetResult<(), Self> {
        let mut state = self.machine.cpu(number(tid)).ok_or_else(fault)?.state();
        if !self.layout.write_all(&mut state, &registers.0) {
            return Err(fault());
        }
        self.machine.set_cpu_state(number(tid), &state).map_err(TargetError::Fatal)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let bytes = if self.physical {
            self.machine.read_physical(GuestPhys(start), data.len())
        } else {
            let cpu = self.machine.cpu(number(tid)).ok_or_else(fault)?;
            read_linear(cpu, start, data.len())
        };
        if bytes.is_empty() && !data.is_empty() {
            return Err(fault());
        }
        data[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let cpu = (!self.physical).then_some(number(tid));
        let written = self.machine.poke(cpu, start, data).map_err(TargetError::Fatal)?;
        if written { Ok(()) } else { Err(fault()) }
    }

    fn list_active_threads(&mut self, active: &mut dyn FnMut(Tid)) -> Result<(), MachineError> {
        (0..self.machine.cpus().len()).map(tid).for_each(active);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Debuggee<'_> {
    fn read_register(
        &mut self,
        tid: Tid,
        RegisterNumber(register): RegisterNumber,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let cpu = self.machine.cpu(number(tid)).ok_or_else(fault)?;
        let bytes = self.layout.read_one(cpu, register).ok_or_else(fault)?;
        buf.get_mut(..bytes.len()).ok_or_else(fault)?.copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_register(
        &mut self,
        tid: Tid,
        RegisterNumber(register): RegisterNumber,
        value: &[u8],
    ) -> TargetResult<(), Self> {
        let mut state = self.machine.cpu(number(tid)).ok_or_else(fault)?.state();
        if !self.layout.write_one(&mut state, register, value) {
            return Err(fault());
        }
        self.machine.set_cpu_state(number(tid), &state).map_err(TargetError::Fatal)
    }
}

impl MultiThreadResume for Debuggee<'_> {
    // The machine runs as a whole: its CPUs' order is part of what repeats.
    fn resume(&mut self) -> Result<(), MachineError> {
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), MachineError> {
        self.action = Action::Continue;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, _: Tid, _: Option<Signal>) -> Result<(), MachineError> {
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }

    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, Tid, Self>> {
        if self.machine.history().is_some() { Some(self) } else { None }
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, Tid, Self>> {
        if self.machine.history().is_some() { Some(self) } else { None }
    }
}

impl MultiThreadSingleStep for Debuggee<'_> {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), MachineError> {
        self.action = Action::Step(number(tid).min(self.machine.cpus().len() - 1));
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Debuggee<'_> {
    // gdb asks for it when it steps over a breakpoint. The step ends right behind the instruction; other CPUs run before it
    // only if their turns come first, as they would without gdb.
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), MachineError> {
        Ok(())
    }
}

impl ReverseCont<Tid> for Debuggee<'_> {
    fn reverse_cont(&mut self) -> Result<(), MachineError> {
        self.action = Action::ReverseContinue;
        Ok(())
    }
}

impl ReverseStep<Tid> for Debuggee<'_> {
    fn reverse_step(&mut self, tid: Tid) -> Result<(), MachineError> {
        self.action = Action::ReverseStep(number(tid).min(self.machine.cpus().len() - 1));
        Ok(())
    }
}

impl Breakpoints for Debuggee<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Debuggee<'_> {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.add_breakpoint(address))
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.remove_breakpoint(address))
    }
}

impl HwBreakpoint for Debuggee<'_> {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.add_breakpoint(address))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.remove_breakpoint(address))
    }
}

impl HwWatchpoint for Debuggee<'_> {
    fn add_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        if !(1..=LONGEST_WATCH).contains(&len) || self.watchpoints.len() >= MOST {
            return Ok(false);
        }
        let (read, write) = (kind != WatchKind::Write, kind != WatchKind::Read);
        self.watchpoints.push((Watchpoint { address, len, read, write }, kind));
        Ok(true)
    }

    fn remove_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let same = |(point, other): &(Watchpoint, WatchKind)| {
            point.address == address && point.len == len && *other == kind
        };
        let found = self.watchpoints.iter().position(same);
        found.map(|index| self.watchpoints.remove(index));
        Ok(found.is_some())
    }
}

impl MonitorCmd for Debuggee<'_> {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), MachineError> {
        let line = String::from_utf8_lossy(command).into_owned();
        let text = self.monitor(line.trim());
        if !text.is_empty() {
            outputln!(out, "{}", text.trim_end());
        }
        Ok(())
    }
}

impl TargetDescriptionXmlOverride for Debuggee<'_> {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(fault());
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| self.xml.as_bytes().get(offset..));
        let rest = rest.unwrap_or_default();
        let len = rest.len().min(length).min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

impl ThreadExtraInfo for Debuggee<'_> {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, MachineError> {
        let activity = self.machine.cpu(number(tid)).map(|cpu| cpu.activity);
        let text = activity.map_or(String::new(), |activity| format!("CPU {}: {activity:?}", number(tid)));
        let len = text.len().min(buf.len());
        buf[..len].copy_from_slice(&text.as_bytes()[..len]);
        Ok(len)
    }
}
