//! VMXON, VMXOFF, VMCALL.

use super::error;
use crate::control::cr4;
use crate::row::Rows;
use crate::virt::{Intercept, Level};
use crate::vmx::capability::{CR0_FIXED0, feature_control};
use crate::vmx::vmcs::REVISION;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

impl Cpu {
    /// In VMX operation, CR0 and CR4 have fixed bits (SDM 3C 24.8); an unrestricted guest is free in PE and PG.
    pub(crate) fn vmx_allows_cr0(&self, value: u64) -> bool {
        use crate::control::cr0;
        use crate::vmx::controls::bits::UNRESTRICTED_GUEST;
        let vmx = &self.virt.vmx;
        let free = self.virt.level == Level::Vmx && vmx.secondary(UNRESTRICTED_GUEST);
        let fixed = if free { CR0_FIXED0 & !(cr0::PE | cr0::PG) } else { CR0_FIXED0 };
        !vmx.on || self.smm || value & fixed == fixed
    }

    /// As [`Self::vmx_allows_cr0`].
    pub(crate) fn vmx_allows_cr4(&self, value: u64) -> bool {
        !self.virt.vmx.on || self.smm || value & cr4::VMXE != 0
    }

    /// Leaves VMX operation.
    fn vmx_off(&mut self) {
        self.release_current_vmcs();
        self.virt.vmx.on = false;
        if self.init_pending && !self.smm {
            // INIT was blocked. RIP and all else are those of INIT from here on.
            self.init_pending = false;
            self.take_init();
        }
    }
}

fn vmxon(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if cpu.cr4 & cr4::VMXE == 0 {
        return Err(cpu.ud());
    }
    cpu.vmx_mode()?;
    if cpu.virt.vmx.on {
        cpu.intercept(Intercept::Vmxon, i)?;
        if cpu.cpl != 0 {
            return Err(cpu.gp0());
        }
        cpu.vm_fail(error::VMXON_IN_ROOT);
        return Ok(());
    }
    let enabled = feature_control::LOCK | feature_control::VMX;
    let allowed = cpu.cpl == 0
        && !cpu.smm
        && cpu.cr0 & CR0_FIXED0 == CR0_FIXED0
        && cpu.msrs.feature_control & enabled == enabled;
    if !allowed {
        return Err(cpu.gp0());
    }
    let region: u64 = cpu.load(i)?;
    if cpu.bad_region(region) || cpu.vmcs_revision(region) != REVISION {
        cpu.vm_fail_invalid();
        return Ok(());
    }
    let vmx = &mut cpu.virt.vmx;
    vmx.on = true;
    vmx.region = region;
    vmx.current = None;
    cpu.vm_succeed();
    Ok(())
}

fn vmxoff(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.vmx_prologue(Intercept::Vmxoff, i)?;
    cpu.vm_succeed();
    cpu.vmx_off();
    cpu.end_block();
    Ok(())
}

fn vmcall(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if !cpu.virt.vmx.on {
        return Err(cpu.ud());
    }
    cpu.intercept(Intercept::Vmcall, i)?;
    cpu.vmx_mode()?;
    if cpu.cpl != 0 {
        return Err(cpu.gp0());
    }
    cpu.vm_fail(error::VMCALL_IN_ROOT);
    Ok(())
}

pub(super) fn rows(rows: &mut Rows) {
    rows.add(Code::Vmxon_m64, vmxon).ends_block();
    rows.add(Code::Vmxoff, vmxoff).ends_block();
    rows.add(Code::Vmcall, vmcall).ends_block();
}
