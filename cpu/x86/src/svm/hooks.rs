//! SVM's answers to the hooks of [`crate::virt`].

use crate::deliver::Origin;
use crate::fault::Exception;
use crate::mem::{Kind, Privilege};
use crate::nested::Rights;
use crate::state::Shadow;
use crate::task::Switch;
use crate::virt::{CrAccess, Intercept, IoAccess, Moment};
use crate::{Cpu, Insn, Stop};
use ringworld_core::GuestPhys;
use ringworld_mmu::x86::paging::Translation;

impl Cpu {
    pub(crate) fn svm_take_exit(&mut self) {}
    pub(crate) fn svm_intercept(&mut self, _: Intercept, _: &Insn) -> Result<(), Stop> {
        Ok(())
    }
    pub(crate) fn svm_cr_read(&mut self, _: u8, value: u64, _: CrAccess, _: &Insn) -> Result<u64, Stop> {
        Ok(value)
    }
    pub(crate) fn svm_cr_write(
        &mut self,
        _: u8,
        value: u64,
        _: CrAccess,
        _: &Insn,
    ) -> Result<Option<u64>, Stop> {
        Ok(Some(value))
    }
    pub(crate) fn svm_dr(&mut self, _: u8, _: bool, _: u8) -> Result<(), Stop> {
        Ok(())
    }
    pub(crate) fn svm_io(&mut self, _: IoAccess, _: &Insn) -> Result<(), Stop> {
        Ok(())
    }
    pub(crate) fn svm_rdmsr(&mut self, _: u32) -> Result<Option<u64>, Stop> {
        Ok(None)
    }
    pub(crate) fn svm_wrmsr(&mut self, _: u32, _: u64) -> Result<bool, Stop> {
        Ok(false)
    }
    /// Notes an exit for the exception if it is intercepted.
    pub(crate) fn svm_exception(&mut self, _: Exception, _: Origin) -> Option<Stop> {
        None
    }
    pub(crate) fn svm_task_switch(&mut self, _: u16, _: Switch) -> Result<(), Stop> {
        Ok(())
    }
    pub(crate) fn svm_shutdown(&mut self) -> Option<Stop> {
        None
    }
    pub(crate) fn svm_boundary(&mut self, _: Moment, _: Shadow) -> bool {
        false
    }
    pub(crate) fn svm_interrupts_open(&self, flag: bool) -> bool {
        flag
    }
    pub(crate) fn svm_nmis_open(&self, open: bool) -> bool {
        open
    }
    pub(crate) fn svm_init_held(&mut self) -> bool {
        false
    }
    pub(crate) fn svm_iret(&mut self) {
        self.nmi_blocked = false;
    }
    pub(crate) fn svm_tsc(&self, tsc: u64) -> u64 {
        tsc
    }
    pub(crate) fn svm_device_access(&mut self, _: GuestPhys, _: u64, _: usize, _: Kind) -> Result<(), Stop> {
        Ok(())
    }
    pub(crate) fn svm_virtual_read(&mut self, _: GuestPhys, _: &mut [u8]) -> bool {
        false
    }
    pub(crate) fn svm_virtual_write(&mut self, _: GuestPhys, _: &[u8]) -> bool {
        false
    }
    pub(crate) fn svm_page_is_virtual(&self, _: GuestPhys) -> bool {
        false
    }
    pub(crate) fn svm_deadline(&self) -> u64 {
        u64::MAX
    }
    pub(crate) fn svm_walk(
        &mut self,
        linear: u64,
        _: Kind,
        _: Privilege,
    ) -> Result<(Translation, Rights), Stop> {
        Err(self.page_fault(linear, 0))
    }
    pub(crate) fn svm_load_pdptes(&mut self, _: u64) -> Result<(), Stop> {
        Err(self.gp0())
    }
    /// What a snapshot does not hold: derived from the state that was restored.
    pub(crate) fn svm_restored(&mut self) {}
}
