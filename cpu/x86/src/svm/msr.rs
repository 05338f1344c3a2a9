//! SVM's model-specific registers (APM 2 15.30).

use crate::deliver::Origin;
use crate::fault::vector;
use crate::state::{Activity, boundary};
use crate::{Cpu, Stop};

/// VM_CR: DPD, R_INIT, DIS_A20M, LOCK, SVMDIS.
const VM_CR_WRITABLE: u64 = 0x1f;
const REDIRECT_INIT: u64 = 1 << 1;
const LOCK: u64 = 1 << 3;
const SVM_DISABLE: u64 = 1 << 4;
/// TSC_RATIO has 8 bits of integer and 32 of fraction.
const TSC_RATIO_BITS: u64 = (1 << 40) - 1;

impl Cpu {
    /// VM_CR.R_INIT makes an INIT that is not intercepted a security exception (APM 2 15.30.1): true if it did.
    pub(crate) fn svm_redirect_init(&mut self) -> bool {
        if self.virt.svm.vm_cr & REDIRECT_INIT == 0 {
            return false;
        }
        self.activity = Activity::Active;
        self.boundary &= !boundary::INACTIVE;
        // #SX's only error code: a redirected INIT (APM 2 8.2.22).
        let _ = self.raise(vector::SX, Some(1));
        self.deliver_exception(Origin::Trap);
        true
    }

    /// Whether EFER.SVME can be set.
    pub(crate) fn svm_disabled(&self) -> bool {
        self.virt.svm.vm_cr & SVM_DISABLE != 0
    }
}

pub(crate) fn read_vm_cr(cpu: &mut Cpu, _: u32) -> Result<u64, Stop> {
    Ok(cpu.virt.svm.vm_cr)
}

/// While LOCK is set, LOCK and SVMDIS do not change (APM 2 15.30.1).
pub(crate) fn write_vm_cr(cpu: &mut Cpu, _: u32, value: u64) -> Result<(), Stop> {
    use crate::control::efer::SVME;
    let old = cpu.virt.svm.vm_cr;
    let fixed = if old & LOCK != 0 { LOCK | SVM_DISABLE } else { 0 };
    let value = value & !fixed | old & fixed;
    if value & !VM_CR_WRITABLE != 0 || value & SVM_DISABLE != 0 && cpu.efer & SVME != 0 {
        return Err(cpu.gp0());
    }
    cpu.virt.svm.vm_cr = value;
    Ok(())
}

pub(crate) fn read_hsave(cpu: &mut Cpu, _: u32) -> Result<u64, Stop> {
    Ok(cpu.virt.svm.hsave_pa)
}

pub(crate) fn write_hsave(cpu: &mut Cpu, _: u32, value: u64) -> Result<(), Stop> {
    if value & 0xfff != 0 || value >> cpu.physical_bits() != 0 {
        return Err(cpu.gp0());
    }
    cpu.virt.svm.hsave_pa = value;
    Ok(())
}

/// The doorbell: write-only.
pub(crate) fn write_doorbell(cpu: &mut Cpu, _: u32, value: u64) -> Result<(), Stop> {
    if value >> 32 != 0 {
        return Err(cpu.gp0());
    }
    cpu.ring_doorbell(value as u32);
    Ok(())
}

pub(crate) fn read_tsc_ratio(cpu: &mut Cpu, _: u32) -> Result<u64, Stop> {
    Ok(cpu.virt.svm.tsc_ratio)
}

pub(crate) fn write_tsc_ratio(cpu: &mut Cpu, _: u32, value: u64) -> Result<(), Stop> {
    if value & !TSC_RATIO_BITS != 0 {
        return Err(cpu.gp0());
    }
    cpu.virt.svm.tsc_ratio = value;
    Ok(())
}
