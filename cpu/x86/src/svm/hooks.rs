//! SVM's answers to the hooks of [`crate::virt`] about events: exceptions, interrupts, task switches, time.

use super::vmcb::v_intr;
use super::{Exit, ExitCode};
use crate::deliver::Origin;
use crate::fault::{Exception, vector};
use crate::flags::bits;
use crate::mem::Kind;
use crate::model::Feature;
use crate::state::{Activity, Shadow, boundary};
use crate::task::Switch;
use crate::virt::{Level, Moment};
use crate::{Cpu, Stop};
use ringworld_core::{GuestPhys, VirtualTime};

impl Cpu {
    fn v_intr(&self) -> u64 {
        self.virt.svm.guest.control.v_intr
    }

    /// V_INTR_MASKING: RFLAGS.IF and CR8 of the guest are about virtual interrupts only.
    fn svm_masks_interrupts(&self) -> bool {
        self.v_intr() & v_intr::INTR_MASKING != 0
    }

    /// Whether CR8 is V_TPR.
    pub(super) fn svm_virtual_tpr(&self) -> bool {
        self.svm_masks_interrupts() || self.avic_active()
    }

    /// Writes V_TPR: CR8 holds the priority class.
    pub(super) fn svm_set_virtual_tpr(&mut self, class: u8) {
        let flags = &mut self.virt.svm.guest.control.v_intr;
        *flags = *flags & !v_intr::TPR | u64::from(class & 0xf);
        if self.avic_active() {
            self.avic_set_tpr(class);
        }
        self.boundary |= boundary::INTERRUPT;
        self.end_block();
    }

    /// Whether NMIs are virtual (APM 2 15.21.10).
    fn svm_virtual_nmi(&self) -> bool {
        self.v_intr() & v_intr::NMI_ENABLE != 0 && self.model.has(Feature::Vnmi)
    }

    /// The virtual interrupt flag; set unless it is in use.
    fn svm_guest_gif(&self) -> bool {
        self.v_intr() & v_intr::GIF_ENABLE == 0
            || !self.model.has(Feature::Vgif)
            || self.v_intr() & v_intr::GIF != 0
    }

    /// Whether a virtual interrupt would be taken, but for shadows (APM 2 15.21.4).
    fn svm_virtual_interrupt(&self) -> bool {
        let flags = self.v_intr();
        if !(self.virt.gif && self.svm_guest_gif() && self.flags.has(bits::IF)) {
            return false;
        }
        if self.avic_active() {
            // V_IRQ and what belongs to it are not used.
            return self.avic_pending().is_some();
        }
        flags & v_intr::IRQ != 0
            && (flags & v_intr::IGNORE_TPR != 0
                || flags >> v_intr::PRIORITY_SHIFT & 0xf > flags & v_intr::TPR & 0xf)
    }

    /// An NMI that was injected blocks others until IRET.
    pub(super) fn svm_note_injected_nmi(&mut self) {
        if self.svm_virtual_nmi() {
            self.virt.svm.guest.control.v_intr |= v_intr::NMI_MASK;
        } else {
            self.nmi_blocked = true;
        }
    }

    /// Notes an exit for the exception if it is intercepted.
    pub(crate) fn svm_exception(&mut self, exception: Exception, _: Origin) -> Option<Stop> {
        let code = ExitCode::exception(exception.vector);
        if !self.svm_intercepts(code) {
            return None;
        }
        let error = u64::from(exception.error.unwrap_or(0));
        let (info1, info2, bytes) = match exception.vector {
            vector::PF => {
                // Of an instruction that could be fetched.
                let fetch = exception.error.is_some_and(|error| error & 1 << 4 != 0);
                (error, exception.payload, !fetch)
            }
            vector::DB => {
                // DR6 and DR7 are as the handler would see them (APM 2 15.12.2).
                self.note_debug_exception(exception.payload);
                (0, 0, false)
            }
            _ => (error, 0, false),
        };
        self.virt.svm.exit = Exit { code: code.0, info1, info2, next_rip: 0, bytes };
        Some(Stop::Exit)
    }

    /// APM 2 15.14.1.
    pub(crate) fn svm_task_switch(&mut self, selector: u16, switch: Switch) -> Result<(), Stop> {
        if !self.svm_intercepts(ExitCode::TASK_SWITCH) {
            return Ok(());
        }
        let reason = match switch {
            Switch::Return => 1 << 36,
            Switch::Jump => 1 << 38,
            Switch::Call | Switch::Event { error: None } => 0,
            Switch::Event { error: Some(error) } => 1 << 44 | u64::from(error),
        };
        let resume = u64::from(self.flags.has(bits::RF)) << 48;
        // An event's delivery is no instruction.
        let exit = match switch {
            Switch::Event { .. } => self.svm_note(ExitCode::TASK_SWITCH, selector.into(), reason | resume),
            _ => self.svm_note_instruction(ExitCode::TASK_SWITCH, selector.into(), reason | resume),
        };
        Err(exit)
    }

    pub(crate) fn svm_shutdown(&mut self) -> Option<Stop> {
        let intercepted = self.svm_intercepts(ExitCode::SHUTDOWN);
        intercepted.then(|| self.svm_note(ExitCode::SHUTDOWN, 0, 0))
    }

    /// Leaves the guest between two instructions.
    fn svm_leave_at_boundary(&mut self, code: ExitCode) -> bool {
        let _ = self.svm_note(code, 0, 0);
        self.take_exit();
        true
    }

    /// What happens to a guest between two instructions (APM 2 15.13, 15.21).
    pub(crate) fn svm_boundary(&mut self, moment: Moment, shadow: Shadow) -> bool {
        match moment {
            Moment::First => {
                if let Some(exit) = self.virt.svm.trap.take() {
                    self.virt.svm.exit = exit;
                    self.take_exit();
                    return true;
                }
                if self.init_pending && self.virt.gif && !self.smm {
                    if self.svm_intercepts(ExitCode::INIT) {
                        return self.svm_leave_at_boundary(ExitCode::INIT);
                    }
                    self.init_pending = false;
                    self.take_init();
                    return true;
                }
                if self.smi_pending && self.smis_open() && self.svm_intercepts(ExitCode::SMI) {
                    // The SMI stays pending.
                    return self.svm_leave_at_boundary(ExitCode::SMI);
                }
                let virtual_event = self.svm_virtual_interrupt() || self.svm_takes_virtual_nmi();
                if self.activity == Activity::Halted && virtual_event {
                    self.activity = Activity::Active;
                    self.boundary &= !boundary::INACTIVE;
                }
                false
            }
            Moment::Timers => false,
            Moment::Windows => {
                if shadow == Shadow::None && self.svm_takes_virtual_nmi() {
                    let flags = &mut self.virt.svm.guest.control.v_intr;
                    *flags = *flags & !v_intr::NMI_PENDING | v_intr::NMI_MASK;
                    self.counters.nmis += 1;
                    self.deliver_external(vector::NMI);
                    return true;
                }
                false
            }
            Moment::Nmi => self.svm_intercepts(ExitCode::NMI) && self.svm_leave_at_boundary(ExitCode::NMI),
            Moment::Interrupt => {
                self.svm_intercepts(ExitCode::INTR) && self.svm_leave_at_boundary(ExitCode::INTR)
            }
            Moment::Virtual => {
                if shadow != Shadow::None || !self.svm_virtual_interrupt() {
                    return false;
                }
                if self.avic_active() {
                    let Some(vector) = self.avic_pending() else { return false };
                    self.avic_acknowledge(vector);
                    self.counters.interrupts += 1;
                    self.deliver_external(vector);
                    return true;
                }
                if self.svm_intercepts(ExitCode::VINTR) {
                    return self.svm_leave_at_boundary(ExitCode::VINTR);
                }
                let vector = (self.v_intr() >> v_intr::VECTOR_SHIFT) as u8;
                self.virt.svm.guest.control.v_intr &= !v_intr::IRQ;
                self.counters.interrupts += 1;
                self.deliver_external(vector);
                true
            }
        }
    }

    fn svm_takes_virtual_nmi(&self) -> bool {
        self.svm_virtual_nmi()
            && self.v_intr() & (v_intr::NMI_PENDING | v_intr::NMI_MASK) == v_intr::NMI_PENDING
            && self.svm_guest_gif()
    }

    /// Physical interrupts: masked by the host's IF if the guest's is virtual.
    pub(crate) fn svm_interrupts_open(&self, flag: bool) -> bool {
        if self.svm_masks_interrupts() { self.virt.svm.host.rflags & bits::IF != 0 } else { flag }
    }

    pub(crate) fn svm_nmis_open(&self, open: bool) -> bool {
        open
    }

    /// INIT waits for the boundary at which it may be intercepted.
    pub(crate) fn svm_init_held(&mut self) -> bool {
        true
    }

    pub(crate) fn svm_iret(&mut self) {
        if self.svm_virtual_nmi() {
            self.virt.svm.guest.control.v_intr &= !v_intr::NMI_MASK;
            self.boundary |= boundary::INTERRUPT;
        } else {
            self.nmi_blocked = false;
        }
    }

    /// TSC_RATIO and TSC_OFFSET (APM 2 15.30.5).
    pub(crate) fn svm_tsc(&self, tsc: u64) -> u64 {
        let svm = &self.virt.svm;
        let scaled = (u128::from(tsc) * u128::from(svm.tsc_ratio) >> 32) as u64;
        scaled.wrapping_add(svm.guest.control.tsc_offset)
    }

    pub(crate) fn svm_tsc_is_linear(&self) -> bool {
        let intercepted = self.svm_intercepts(ExitCode::RDTSC) || self.svm_intercepts(ExitCode::RDTSCP);
        !intercepted && self.virt.svm.tsc_ratio == 1 << 32
    }

    pub(crate) fn svm_device_access(
        &mut self,
        address: GuestPhys,
        _: u64,
        len: usize,
        kind: Kind,
    ) -> Result<(), Stop> {
        if self.avic_is_page(address) { self.avic_check(address, len, kind) } else { Ok(()) }
    }
    pub(crate) fn svm_virtual_read(&mut self, address: GuestPhys, data: &mut [u8]) -> bool {
        self.avic_page_read(address, data)
    }
    pub(crate) fn svm_virtual_write(&mut self, address: GuestPhys, data: &[u8]) -> bool {
        self.avic_page_write(address, data)
    }
    pub(crate) fn svm_page_is_virtual(&self, address: GuestPhys) -> bool {
        self.avic_is_page(address)
    }
    pub(crate) fn svm_deadline(&self) -> VirtualTime {
        VirtualTime::NEVER
    }
    pub(crate) fn svm_steps(&self) -> bool {
        false
    }
    pub(crate) fn svm_wakes(&mut self) -> bool {
        false
    }
    /// A virtual interrupt; with AVIC, one may come from elsewhere.
    pub(crate) fn svm_waits_for_flags(&self) -> bool {
        self.avic_active() || self.v_intr() & (v_intr::IRQ | v_intr::NMI_PENDING) != 0
    }
    pub(crate) fn svm_intercepts_flags(&self) -> bool {
        self.svm_intercepts(ExitCode::PUSHF) || self.svm_intercepts(ExitCode::POPF)
    }
    pub(crate) fn svm_start_up(&mut self, _: u8) -> bool {
        false
    }

    /// What a snapshot does not hold: derived from the state that was restored.
    pub(crate) fn svm_restored(&mut self) {
        if self.virt.level == Level::Svm {
            self.load_guest_space();
        }
    }
}
