//! VMCLEAR, VMPTRLD, VMPTRST.

use super::error;
use crate::row::Rows;
use crate::virt::Intercept;
use crate::vmx::controls::{Group, bits::VMCS_SHADOWING};
use crate::vmx::vmcs::{REVISION, SHADOW};
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

impl Cpu {
    /// Writes the current VMCS back to its region; none is current then.
    pub(super) fn release_current_vmcs(&mut self) {
        if let Some(region) = self.virt.vmx.current.take() {
            let vmcs = core::mem::take(&mut self.virt.vmx.vmcs);
            self.vmcs_store(region, &vmcs);
        }
    }
}

fn vmclear(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.vmx_prologue(Intercept::Vmclear, i)?;
    let region: u64 = cpu.load(i)?;
    let result = if cpu.bad_region(region) {
        Err(error::VMCLEAR_ADDRESS)
    } else if region == cpu.virt.vmx.region {
        Err(error::VMCLEAR_VMXON_POINTER)
    } else {
        if cpu.virt.vmx.current == Some(region) {
            cpu.release_current_vmcs();
        }
        cpu.vmcs_set_launched(region, false);
        Ok(())
    };
    cpu.vm_finish(result);
    Ok(())
}

fn vmptrld(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.vmx_prologue(Intercept::Vmptrld, i)?;
    let region: u64 = cpu.load(i)?;
    let shadowing = cpu.model.vmx().has(Group::Secondary, VMCS_SHADOWING);
    let result = if cpu.bad_region(region) {
        Err(error::VMPTRLD_ADDRESS)
    } else if region == cpu.virt.vmx.region {
        Err(error::VMPTRLD_VMXON_POINTER)
    } else {
        let revision = cpu.vmcs_revision(region);
        let shadow = revision & SHADOW != 0;
        if revision & !SHADOW != REVISION || shadow && !shadowing {
            Err(error::VMPTRLD_REVISION)
        } else {
            if cpu.virt.vmx.current != Some(region) {
                cpu.release_current_vmcs();
                cpu.virt.vmx.vmcs = cpu.vmcs_load(region);
                cpu.virt.vmx.current = Some(region);
            }
            Ok(())
        }
    };
    cpu.vm_finish(result);
    Ok(())
}

fn vmptrst(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.vmx_prologue(Intercept::Vmptrst, i)?;
    let pointer = cpu.virt.vmx.current.unwrap_or(u64::MAX);
    cpu.store(i, pointer)?;
    cpu.vm_succeed();
    Ok(())
}

pub(super) fn rows(rows: &mut Rows) {
    rows.add(Code::Vmclear_m64, vmclear);
    rows.add(Code::Vmptrld_m64, vmptrld);
    rows.add(Code::Vmptrst_m64, vmptrst);
}
