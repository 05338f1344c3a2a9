//! Going back: to an instruction count, by an instruction, to the last breakpoint or watchpoint.

use crate::{Machine, MachineError, RunUntil, StopReason};

impl Machine {
    fn no_history() -> MachineError {
        MachineError::History("nothing of the past is kept: start with --reverse".into())
    }

    /// Goes to the moment at which this many instructions (of all CPUs) have retired, back or on.
    ///
    /// # Errors
    /// A count before the beginning of what is remembered.
    pub fn goto(&mut self, count: u64) -> Result<StopReason, MachineError> {
        let range = self.history().ok_or_else(Self::no_history)?;
        if count < range.start {
            return Err(MachineError::History(format!("it begins at instruction {}", range.start)));
        }
        let here = self.instructions();
        // A checkpoint on the way saves time.
        self.return_to_checkpoint(|at, _| at <= count && (count < here || at > here))?;
        self.run(&RunUntil::instructions(count))
    }

    /// Goes back by one instruction of a CPU.
    ///
    /// # Errors
    /// No history, or no such CPU.
    pub fn reverse_step(&mut self, cpu: usize) -> Result<StopReason, MachineError> {
        self.history().ok_or_else(Self::no_history)?;
        let count = self.cpu(cpu).map(|cpu| cpu.icount);
        let Some(before) =
            count.ok_or_else(|| MachineError::History(format!("there is no CPU {cpu}")))?.checked_sub(1)
        else {
            return Ok(StopReason::HistoryStart);
        };
        if !self.return_to_checkpoint(|_, cpus| cpus.get(cpu).is_some_and(|count| *count <= before))? {
            self.return_to_checkpoint(|_, _| true)?;
            return self.return_to_start();
        }
        self.run(&RunUntil { cpu_instructions: Some((cpu, before)), ..RunUntil::default() })
    }

    fn return_to_start(&mut self) -> Result<StopReason, MachineError> {
        let start = self.history().map_or(0, |range| range.start);
        self.return_to_checkpoint(|at, _| at <= start)?;
        Ok(StopReason::HistoryStart)
    }

    /// Goes back to the last moment at which a CPU was at one of the breakpoints, or was about to make an access that one
    /// of the watchpoints sees; without one, to the beginning of what is remembered. Limits in `until` do not count.
    ///
    /// # Errors
    /// No history.
    pub fn reverse_continue(&mut self, until: &RunUntil) -> Result<StopReason, MachineError> {
        self.history().ok_or_else(Self::no_history)?;
        let mut end = self.instructions();
        while self.return_to_checkpoint(|at, _| at < end)? {
            let start = self.instructions();
            let mut last = None;
            loop {
                let stop =
                    self.run(&RunUntil { instructions: Some(end), cpu_instructions: None, ..until.clone() })?;
                let here = self.instructions();
                let found = match stop {
                    StopReason::Breakpoint { .. } if here < end => here,
                    // The state before the access is the one to show.
                    StopReason::Watchpoint { .. } if here <= end => here - 1,
                    StopReason::Breakpoint { .. } | StopReason::Watchpoint { .. } => break,
                    StopReason::InstructionLimit => break,
                    other => return Ok(other),
                };
                last = Some((found, stop));
                if here >= end {
                    break;
                }
            }
            if let Some((count, stop)) = last {
                return self.return_to_stop(count, stop, until);
            }
            end = start;
        }
        self.return_to_start()
    }

    /// Goes to a stop that was found.
    fn return_to_stop(
        &mut self,
        count: u64,
        stop: StopReason,
        until: &RunUntil,
    ) -> Result<StopReason, MachineError> {
        match self.goto(count)? {
            StopReason::InstructionLimit => {}
            other => return Ok(other),
        }
        if matches!(stop, StopReason::Breakpoint { .. }) {
            // Delivers the interrupt that may wait before the breakpoint's instruction, and retires nothing.
            let limit = RunUntil { instructions: Some(count + 1), ..until.clone() };
            self.run(&RunUntil { watchpoints: Vec::new(), cpu_instructions: None, ..limit })?;
        }
        Ok(stop)
    }
}

#[cfg(test)]
#[path = "reverse_tests.rs"]
mod tests;
