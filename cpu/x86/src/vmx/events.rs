//! What happens to a guest between two instructions (SDM 3C 26.2, 26.5, 27.7).

use super::controls::bits::*;
use super::exit::{Exit, interruption};
use super::reason;
use crate::Cpu;
use crate::flags::bits;
use crate::state::{Activity, Shadow};
use crate::virt::{Level, Moment};

impl Cpu {
    /// Looks at everything that is due at one moment of a boundary; true if something happened.
    pub(crate) fn vmx_boundary(&mut self, moment: Moment, shadow: Shadow) -> bool {
        let exit = match moment {
            Moment::First => self.vmx_first(),
            Moment::Timers => self.vmx_timer(),
            Moment::Windows => self.vmx_windows(shadow),
            Moment::Nmi => {
                if !self.virt.vmx.pin(NMI_EXITING) {
                    return false;
                }
                self.nmi_pending = false;
                Some(Exit { interruption: Some((interruption(2, 2, false), 0)), ..Exit::default() })
            }
            Moment::Interrupt => match self.vmx_external_interrupt() {
                Ok(exit) => exit,
                // Handled as a posted interrupt.
                Err(()) => return true,
            },
            Moment::Virtual => return self.deliver_virtual_interrupt(),
        };
        let Some(exit) = exit else { return false };
        // The state before an event that wakes the processor is what is saved (SDM 3C 28.3.4).
        let activity = Some(exit.activity.unwrap_or(self.virt.vmx.activity_before));
        let stop = self.vmx_exit(Exit { activity, ..exit });
        self.stopped_between(stop);
        true
    }

    /// INIT, SIPI, trap-like exits, the monitor trap flag.
    fn vmx_first(&mut self) -> Option<Exit> {
        self.virt.vmx.activity_before = self.activity;
        if self.init_pending && !self.smm && self.activity != Activity::WaitForSipi {
            self.init_pending = false;
            return Some(Exit { reason: reason::INIT, ..Exit::default() });
        }
        if let Some(page) = self.virt.vmx.sipi.take() {
            return Some(Exit { reason: reason::SIPI, qualification: page.into(), ..Exit::default() });
        }
        if let Some(exit) = self.virt.vmx.trap_exit.take() {
            return Some(exit);
        }
        let due = self.virt.vmx.mtf_from.is_some_and(|from| from != self.icount);
        due.then(|| Exit { reason: reason::MONITOR_TRAP_FLAG, ..Exit::default() })
    }

    fn vmx_timer(&mut self) -> Option<Exit> {
        // In the shutdown and wait-for-SIPI states the timer counts, but does not exit in the latter.
        let exits = self.preemption_timer_expired() && self.activity != Activity::WaitForSipi;
        exits.then(|| Exit { reason: reason::PREEMPTION_TIMER, ..Exit::default() })
    }

    fn vmx_nmi_window_open(&self, shadow: Shadow) -> bool {
        let vmx = &self.virt.vmx;
        vmx.primary(NMI_WINDOW) && !vmx.virtual_nmi_blocked && shadow == Shadow::None
    }

    fn vmx_interrupt_window_open(&self, shadow: Shadow) -> bool {
        self.virt.vmx.primary(INTERRUPT_WINDOW) && self.flags.has(bits::IF) && shadow == Shadow::None
    }

    fn vmx_windows(&mut self, shadow: Shadow) -> Option<Exit> {
        let exit = |reason| Some(Exit { reason, ..Exit::default() });
        if self.vmx_nmi_window_open(shadow) {
            exit(reason::NMI_WINDOW)
        } else if self.vmx_interrupt_window_open(shadow) {
            exit(reason::INTERRUPT_WINDOW)
        } else {
            None
        }
    }

    /// An external interrupt waits. `Err` if it was a posted-interrupt notification.
    fn vmx_external_interrupt(&mut self) -> Result<Option<Exit>, ()> {
        let vmx = &self.virt.vmx;
        if !vmx.pin(EXTERNAL_INTERRUPT_EXITING) {
            return Ok(None);
        }
        let mut exit = Exit { reason: reason::EXTERNAL_INTERRUPT, ..Exit::default() };
        if vmx.exit_control(ACKNOWLEDGE_INTERRUPT) {
            let Some(vector) = self.acknowledge_interrupt() else { return Ok(None) };
            if self.take_posted_notification(vector) {
                return Err(());
            }
            exit.interruption = Some((interruption(vector, 0, false), 0));
        }
        self.counters.interrupts += 1;
        Ok(Some(exit))
    }

    /// Interrupts are intercepted whatever RFLAGS.IF says.
    pub(crate) fn vmx_interrupts_open(&self, flag: bool) -> bool {
        self.virt.vmx.pin(EXTERNAL_INTERRUPT_EXITING) || flag
    }

    /// NMIs that exit are blocked only by a real NMI's handling.
    pub(crate) fn vmx_nmis_open(&self, open: bool) -> bool {
        open
    }

    /// With the monitor trap flag, or while something waits to be noticed, each instruction is followed by a look.
    pub(crate) fn vmx_steps(&self) -> bool {
        let vmx = &self.virt.vmx;
        vmx.mtf_from.is_some() || vmx.trap_exit.is_some()
    }

    /// A halted guest goes on for windows, timers and virtual interrupts.
    pub(crate) fn vmx_wakes(&mut self) -> bool {
        self.preemption_timer_expired()
            || self.vmx_nmi_window_open(Shadow::None)
            || self.vmx_interrupt_window_open(Shadow::None)
            || self.virtual_interrupt_waits()
    }

    /// A window, or a virtual interrupt.
    pub(crate) fn vmx_waits_for_flags(&self) -> bool {
        let vmx = &self.virt.vmx;
        vmx.primary(INTERRUPT_WINDOW) || vmx.primary(NMI_WINDOW) || self.virtual_interrupt_pends()
    }

    /// A start-up IPI exits from the wait-for-SIPI state.
    pub(crate) fn vmx_start_up(&mut self, page: u8) -> bool {
        self.virt.vmx.sipi = Some(page);
        true
    }

    /// VMX operation blocks INIT; in a guest it exits at the next boundary (SDM 3C 24.8, 26.2).
    pub(crate) fn vmx_init_held(&mut self) -> bool {
        true
    }

    /// VMX root operation blocks INIT.
    pub(crate) fn vmx_holds_init(&self) -> bool {
        self.virt.vmx.on && self.virt.level == Level::Host
    }
}
