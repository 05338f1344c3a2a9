//! The run loop: rounds of all CPUs, bounded by events, in virtual time.
//!
//! A round starts at one moment for all CPUs. Each CPU has its turn, in the order of their numbers: it runs (or idles)
//! until its own clock is at the round's end. Inputs from outside enter between rounds only. All bounds follow from the
//! guest's state, so the same inputs at the same moments give the same run; whether the host interrupts a turn
//! (attention) changes nothing.

use crate::inspect::linear_rip;
use crate::interrupts;
use crate::machine::Machine;
use crate::{HostEvent, MachineError, RunUntil, StopReason};
use ringworld_core::{Platform, VirtualTime};
use ringworld_devices::{HostInput, PowerRequest, key_event};
use ringworld_x86::interp::{NoObserver, Observer, RunEnd};
use ringworld_x86::state::Activity;
use ringworld_x86::watch::WatchHit;
use ringworld_x86::{Cpu, Insn};

/// The length of a single CPU's rounds in nanoseconds: how late it notices inputs.
const SINGLE_SLICE: u64 = 1_000_000;
/// The same with devices whose other side is a thread that waits for answers.
const OUTSIDE_SLICE: u64 = 100_000;

/// After how many events in a row that woke no CPU the machine counts as dead. A timer whose interrupt is masked everywhere can go
/// on for ever; no guest waits through this many of its events for something else.
const UNHEARD_EVENTS: u32 = 10_000_000;

/// What ends a loop: a reason to stop, or a failure.
enum Break {
    Stop(StopReason),
    Error(MachineError),
}

impl From<StopReason> for Break {
    fn from(stop: StopReason) -> Self {
        Self::Stop(stop)
    }
}

impl From<MachineError> for Break {
    fn from(error: MachineError) -> Self {
        Self::Error(error)
    }
}

/// Stops before instructions at these linear addresses.
struct Breakpoints<'a, O> {
    inner: &'a mut O,
    addresses: &'a [u64],
    /// The instruction count at which the run has just stopped.
    skip: Option<u64>,
}

impl<O: Observer> Observer for Breakpoints<'_, O> {
    const INSTRUCTIONS: bool = O::INSTRUCTIONS;
    const BREAKS: bool = true;

    fn instruction(&mut self, cpu: &Cpu, insn: &Insn) {
        self.inner.instruction(cpu, insn);
    }

    fn breaks(&mut self, cpu: &Cpu) -> bool {
        self.addresses.contains(&linear_rip(cpu)) && self.skip != Some(cpu.icount)
    }
}

impl Machine {
    /// Runs the machine. It can be called again after every stop; a stopped guest (power-off, triple fault) stays so.
    ///
    /// # Errors
    /// A reset that fails, a recording that cannot be written, a replay that diverges.
    pub fn run(&mut self, until: &RunUntil) -> Result<StopReason, MachineError> {
        self.run_observed(until, &mut NoObserver)
    }

    /// As [`Machine::run`], with an observer of the CPUs.
    pub fn run_observed<O: Observer>(
        &mut self,
        until: &RunUntil,
        observer: &mut O,
    ) -> Result<StopReason, MachineError> {
        self.start_outside();
        for core in &mut self.cores {
            core.cpu.set_watchpoints(&until.watchpoints);
            if let Some(translator) = &mut core.translator {
                translator.set_breakpoints(&mut core.cpu, &until.breakpoints);
            }
        }
        if self.history.is_none() {
            return self.run_on(until, observer);
        }
        loop {
            let bound = self.history_bound();
            let limit = [until.instructions, bound].into_iter().flatten().min();
            let stop = self.run_on(&RunUntil { instructions: limit, ..until.clone() }, observer)?;
            let here = self.instructions();
            let there = stop == StopReason::InstructionLimit && bound.is_some_and(|bound| here >= bound);
            self.history_reached(here)?;
            if !there || until.instructions.is_some_and(|limit| here >= limit) || self.at_cpu_count(until) {
                return Ok(stop);
            }
        }
    }

    /// Whether a CPU's limit is what ended the run.
    fn at_cpu_count(&self, until: &RunUntil) -> bool {
        until.cpu_instructions.is_some_and(|(number, count)| {
            self.cores.get(number).is_some_and(|core| core.cpu.icount >= count)
        })
    }

    /// As [`Machine::run_observed`], without a thought of the history.
    fn run_on<O: Observer>(
        &mut self,
        until: &RunUntil,
        observer: &mut O,
    ) -> Result<StopReason, MachineError> {
        loop {
            let step = if self.turn >= self.cores.len() {
                self.begin_round(until)
            } else {
                self.take_turn(until, observer)
            };
            match step {
                Ok(()) => {}
                Err(Break::Stop(reason)) => return Ok(reason),
                Err(Break::Error(error)) => return Err(error),
            }
        }
    }

    /// Ends the old round; inputs, idling; bounds of the next round.
    fn begin_round(&mut self, until: &RunUntil) -> Result<(), Break> {
        self.now = self.now.max(self.round_end);
        for core in &mut self.cores {
            core.cpu.clock.skip_to(self.now, core.cpu.icount);
        }
        if let Some(reason) = self.handle.take_stop() {
            return Err(reason.into());
        }
        self.take_inputs()?;
        self.settle()?;
        if self.left(until) == Some(0) {
            return Err(StopReason::InstructionLimit.into());
        }
        if let Some(reason) = self.replay.as_ref().and_then(|replay| replay.ends(self.now)) {
            return Err(reason.into());
        }
        let timers = self.cores.iter().map(|core| core.cpu.next_timer());
        let next = timers.chain([self.board.next_event(), self.next_replayed()]).min();
        let next = next.unwrap_or(VirtualTime::NEVER).max(self.now + 1);
        if self.is_idle() {
            self.unheard_events = self.unheard_events.saturating_add(1).min(UNHEARD_EVENTS);
            self.round_end = self.idle_until(next)?;
        } else {
            self.unheard_events = 0;
            let slice = match (self.cores.len(), self.outside.is_empty()) {
                (1, true) => SINGLE_SLICE,
                (1, false) => OUTSIDE_SLICE,
                _ => self.config.slice,
            };
            self.round_end = next.min(self.now + slice);
            if !self.repeats()
                && let Some(ahead) = self.pace.as_mut().and_then(|pace| pace.ahead(self.now))
            {
                self.handle.wait(Some(ahead));
            }
        }
        self.turn = 0;
        Ok(())
    }

    /// Whether the machine is in its past.
    fn repeats(&self) -> bool {
        self.history.as_ref().is_some_and(|history| history.repeats(self.now, self.instructions()))
    }

    /// Whether no CPU has anything to do before the next event.
    fn is_idle(&mut self) -> bool {
        self.cores.iter_mut().all(|core| {
            // Looks at what is pending, without running anything.
            core.cpu.activity != Activity::Active
                && core.interpreter.run(&mut core.cpu, 0, &mut NoObserver) == RunEnd::Inactive
                && core.cpu.activity != Activity::Shutdown
        })
    }

    /// Until when the idle machine skips; sleeps in real-time mode, and when only the host can wake it.
    fn idle_until(&mut self, next: VirtualTime) -> Result<VirtualTime, Break> {
        if self.repeats() {
            return Ok(next);
        }
        let dead = self.unheard_events == UNHEARD_EVENTS && self.next_replayed() == VirtualTime::NEVER;
        let never = dead || next == VirtualTime::NEVER;
        if let Some(pace) = &self.pace {
            if never && self.handle.is_closed() {
                return Err(self.for_ever().into());
            }
            self.handle.wait(pace.until(next));
            return Ok(pace.reached(self.now, next));
        }
        if !never {
            return Ok(next);
        }
        if self.replay.is_some() || self.handle.is_closed() {
            return Err(self.for_ever().into());
        }
        self.handle.wait(None);
        Ok(self.now)
    }

    /// Nothing will ever happen.
    fn for_ever(&self) -> StopReason {
        if self.suspended { StopReason::Suspend } else { StopReason::Idle }
    }

    /// The turn of one CPU, up to the end of the round.
    fn take_turn<O: Observer>(&mut self, until: &RunUntil, observer: &mut O) -> Result<(), Break> {
        if let [_, _, ..] = &self.cores[..] {
            let shown = self.cores.iter().filter_map(|core| core.cpu.clock.shown).max();
            if let Some(core) = self.cores.get_mut(self.turn) {
                core.cpu.clock.shown = Some(shown.unwrap_or_default());
            }
        }
        loop {
            if self.board.attention().is_raised() {
                self.settle()?;
            }
            let left = self.left(until);
            let (turn, round_end) = (self.turn, self.round_end);
            let Some(core) = self.cores.get_mut(turn) else { return Ok(()) };
            let cpu = &mut core.cpu;
            if cpu.activity == Activity::Shutdown {
                if self.config.triple_fault_resets {
                    return Ok(self.reset()?);
                }
                return Err(StopReason::TripleFault { cpu: cpu.id.0, rip: cpu.rip() }.into());
            }
            let now = cpu.now();
            if cpu.next_timer() <= now {
                cpu.advance_timers();
            }
            let event = self.board.next_event();
            if event <= now {
                self.board.advance(now);
                self.settle()?;
                continue;
            }
            if now >= round_end {
                self.turn += 1;
                return Ok(());
            }
            if left == Some(0) {
                return Err(StopReason::InstructionLimit.into());
            }
            let stop_at = round_end.min(event).min(cpu.next_timer());
            let mut limit = cpu.clock.instructions_at(stop_at);
            limit = limit.min(cpu.icount.saturating_add(left.unwrap_or(u64::MAX)));
            if let Some((_, count)) = until.cpu_instructions.filter(|(number, _)| *number == turn) {
                if cpu.icount >= count {
                    return Err(StopReason::InstructionLimit.into());
                }
                limit = limit.min(count);
            }
            let end = if until.breakpoints.is_empty() && until.watchpoints.is_empty() {
                core.run(limit, observer)
            } else {
                let skip = self.at_breakpoint.filter(|(number, _)| *number == turn).map(|(_, count)| count);
                core.run(limit, &mut Breakpoints { inner: observer, addresses: &until.breakpoints, skip })
            };
            let cpu = &mut core.cpu;
            if std::mem::take(&mut cpu.paused) {
                // What it waits for is another CPU's turn. Otherwise a lock that is free only for a moment, always at the same
                // place in the round, would stay another's for ever.
                cpu.clock.skip_to(stop_at, cpu.icount);
            }
            if end == RunEnd::Break {
                self.at_breakpoint = Some((turn, cpu.icount));
                return Err(StopReason::Breakpoint { cpu: cpu.id.0, address: linear_rip(cpu) }.into());
            }
            if !until.watchpoints.is_empty()
                && let Some(WatchHit { watchpoint, write }) = cpu.take_watch_hit()
            {
                return Err(
                    StopReason::Watchpoint { cpu: cpu.id.0, address: watchpoint.address, write }.into()
                );
            }
            if end == RunEnd::Inactive
                && cpu.activity != Activity::Shutdown
                && !self.board.attention().is_raised()
            {
                cpu.clock.skip_to(stop_at, cpu.icount);
            }
        }
    }

    /// Instructions left until the limit.
    fn left(&self, until: &RunUntil) -> Option<u64> {
        until.instructions.map(|limit| limit.saturating_sub(self.instructions()))
    }

    fn next_replayed(&self) -> VirtualTime {
        let replayed = self.replay.as_ref().map_or(VirtualTime::NEVER, |replay| replay.next());
        replayed.min(self.history.as_ref().map_or(VirtualTime::NEVER, |history| history.next_input(self.now)))
    }

    /// Gives the guest what has come from outside.
    fn take_inputs(&mut self) -> Result<(), Break> {
        let instructions = self.instructions();
        if let Some(history) = &mut self.history {
            // What comes from outside now waits until the past is over.
            let repeats = history.repeats(self.now, instructions);
            let events = history.take_inputs(self.now);
            events.iter().try_for_each(|event| self.apply(event))?;
            if repeats {
                return Ok(());
            }
        }
        let live = self.handle.take_events();
        if let Some(replay) = &mut self.replay {
            let mut events = Vec::new();
            while let Some(event) = replay.take(self.now, instructions)? {
                if let Some(history) = &mut self.history {
                    history.note_input(self.now, &event);
                }
                events.push(event);
            }
            return events.iter().try_for_each(|event| self.apply(event));
        }
        for event in live {
            if let Some(recorder) = &mut self.recorder {
                recorder.event(self.now, instructions, &event)?;
            }
            if let Some(history) = &mut self.history {
                history.note_input(self.now, &event);
            }
            self.apply(&event)?;
        }
        Ok(())
    }

    fn apply(&mut self, event: &HostEvent) -> Result<(), Break> {
        self.inputs += 1;
        // What comes may take time to arrive, such as a character on its line.
        self.unheard_events = 0;
        match event {
            HostEvent::Serial { port: 0, bytes } if self.console.is_some() => {
                let slot = self.console.unwrap_or_default();
                self.board.input(HostInput::Pci(slot), bytes, self.now);
            }
            HostEvent::Serial { port, bytes } => self.board.input(HostInput::Serial(*port), bytes, self.now),
            HostEvent::Network { port, frames } => {
                if let Some(&slot) = self.outside.networks.get(*port) {
                    for frame in frames {
                        self.board.input(HostInput::Pci(slot), &frame.0, self.now);
                    }
                }
            }
            HostEvent::Share { port, reply } => {
                if let Some(&slot) = self.outside.shares.get(*port) {
                    self.board.input(HostInput::Pci(slot), &reply.0, self.now);
                }
            }
            HostEvent::Socket { packet } => {
                if let Some(slot) = self.outside.socket {
                    self.board.input(HostInput::Pci(slot), &packet.0, self.now);
                }
            }
            HostEvent::Balloon { pages } => {
                if let Some(slot) = self.outside.balloon {
                    self.board.input(HostInput::Pci(slot), &pages.to_le_bytes(), self.now);
                }
            }
            HostEvent::Keys { keys } => {
                // A key of code 0 does not exist: it would be taken for the mouse.
                let keys = keys.iter().filter(|(key, _)| *key != 0);
                let bytes: Vec<u8> = keys.flat_map(|(key, down)| key_event(*key, *down)).collect();
                self.board.input(HostInput::Keyboard, &bytes, self.now);
            }
            HostEvent::PowerButton => self.board.input(HostInput::PowerButton, &[], self.now),
            // Bit 7 of port 0x70 cuts the button off.
            HostEvent::Nmi if self.board.nmi_masked() => {}
            HostEvent::Nmi => interrupts::pulse_lint1(&mut self.cores),
            HostEvent::Reset => self.reset()?,
        }
        Ok(())
    }

    /// Brings everything to where it belongs that the board has for the outside: interrupts, INTR, power requests.
    fn settle(&mut self) -> Result<(), Break> {
        self.board.attention().take();
        self.look_at_shadow();
        for message in self.board.take_messages() {
            interrupts::deliver(&mut self.cores, message);
        }
        interrupts::drive_intr(&mut self.cores, self.board.intr());
        match self.board.take_power_request() {
            None => Ok(()),
            Some(PowerRequest::Init) if self.image.entry.is_none() => {
                interrupts::init_all(&mut self.cores);
                Ok(())
            }
            // After INIT# the CPUs would run firmware, which starts the guest again; there is none in between.
            Some(PowerRequest::Reset | PowerRequest::Init) if self.config.reboot => Ok(self.reset()?),
            Some(PowerRequest::Reset | PowerRequest::Init) => Err(StopReason::Reset.into()),
            Some(PowerRequest::PowerOff) => Err(StopReason::PowerOff.into()),
            Some(PowerRequest::Suspend) => {
                self.suspend();
                Ok(())
            }
            Some(PowerRequest::Wake) => Ok(self.wake()?),
            Some(PowerRequest::Exit(code)) => Err(StopReason::GuestExit(code).into()),
            Some(PowerRequest::Panicked) => Err(StopReason::Panic.into()),
        }
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
