//! The VMX-preemption timer (SDM 3C 26.5.1) and the time-stamp counter of a guest (SDM 3C 26.3, 25.6.5).

use super::capability::TIMER_SHIFT;
use super::controls::bits::*;
use super::vmcs::Field;
use crate::Cpu;
use ringworld_core::VirtualTime;

impl Cpu {
    /// Starts the timer at VM entry, if it is active. It counts when bit [`TIMER_SHIFT`] of the TSC changes; a count of the
    /// TSC is a nanosecond.
    pub(super) fn start_preemption_timer(&mut self) {
        let vmx = &self.virt.vmx;
        let (now, tsc) = (self.now(), self.tsc());
        self.virt.vmx.timer_deadline = vmx.pin(PREEMPTION_TIMER).then(|| {
            let ticks = vmx.vmcs.get(Field::PreemptionTimerValue);
            let end =
                if ticks == 0 { tsc } else { (tsc >> TIMER_SHIFT).saturating_add(ticks) << TIMER_SHIFT };
            now.0.saturating_add(end.saturating_sub(tsc))
        });
        if self.virt.vmx.timer_deadline.is_some() {
            // The run has to end there.
            self.yield_to_machine();
        }
    }

    /// The timer has reached zero.
    pub(super) fn preemption_timer_expired(&self) -> bool {
        self.virt.vmx.timer_deadline.is_some_and(|deadline| deadline <= self.now().0)
    }

    /// What is left of the timer.
    pub(super) fn preemption_timer_value(&self) -> u64 {
        let Some(deadline) = self.virt.vmx.timer_deadline else {
            return self.virt.vmx.vmcs.get(Field::PreemptionTimerValue);
        };
        let tsc = self.tsc();
        let end = tsc.saturating_add(deadline.saturating_sub(self.now().0));
        ((end >> TIMER_SHIFT) - (tsc >> TIMER_SHIFT)) & 0xffff_ffff
    }

    /// The time-stamp counter that a guest sees.
    pub(crate) fn vmx_tsc(&self, tsc: u64) -> u64 {
        let vmx = &self.virt.vmx;
        if !vmx.primary(TSC_OFFSETTING) {
            return tsc;
        }
        let scaled = if vmx.secondary(TSC_SCALING) {
            (u128::from(tsc) * u128::from(vmx.vmcs.get(Field::TscMultiplier)) >> 48) as u64
        } else {
            tsc
        };
        scaled.wrapping_add(vmx.vmcs.get(Field::TscOffset))
    }

    pub(crate) fn vmx_tsc_is_linear(&self) -> bool {
        let vmx = &self.virt.vmx;
        let scaled = vmx.primary(TSC_OFFSETTING)
            && vmx.secondary(TSC_SCALING)
            && vmx.vmcs.get(Field::TscMultiplier) != 1 << 48;
        !vmx.primary(RDTSC_EXITING) && vmx.secondary(RDTSCP) && !scaled
    }

    /// The moment at which the timer ends the run; once it is past, the next boundary sees it.
    pub(crate) fn vmx_deadline(&self) -> VirtualTime {
        let ahead = self.virt.vmx.timer_deadline.filter(|&deadline| deadline > self.now().0);
        ahead.map_or(VirtualTime::NEVER, VirtualTime)
    }
}
