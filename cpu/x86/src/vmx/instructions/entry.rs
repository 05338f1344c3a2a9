//! VMLAUNCH, VMRESUME, VMFUNC.

use super::error;
use crate::row::Rows;
use crate::state::{Shadow, gpr};
use crate::virt::{Intercept, Level};
use crate::vmx::controls::bits::VM_FUNCTIONS;
use crate::vmx::entry::EntryRefused;
use crate::vmx::reason;
use crate::vmx::vmcs::Field;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;
use ringworld_core::GuestPhys;

fn enter(cpu: &mut Cpu, launch: bool) {
    if cpu.virt.vmx.current.is_none() || cpu.virt.vmx.vmcs.shadow {
        return cpu.vm_fail_invalid();
    }
    if cpu.in_shadow == Shadow::MovSs {
        return cpu.vm_fail(error::ENTRY_BLOCKED_BY_MOV_SS);
    }
    match (launch, cpu.virt.vmx.vmcs.launched) {
        (true, true) => return cpu.vm_fail(error::VMLAUNCH_NOT_CLEAR),
        (false, false) => return cpu.vm_fail(error::VMRESUME_NOT_LAUNCHED),
        _ => {}
    }
    cpu.world_ends();
    if let Err(EntryRefused(error)) = cpu.vmx_enter(launch) {
        cpu.vm_fail(error);
    }
    cpu.world_begins();
}

fn vmlaunch(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.vmx_prologue(Intercept::Vmlaunch, i)?;
    enter(cpu, true);
    Ok(())
}

fn vmresume(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.vmx_prologue(Intercept::Vmresume, i)?;
    enter(cpu, false);
    Ok(())
}

/// VMFUNC (SDM 3C 26.5.6): #UD unless a guest may use VM functions; function 0 switches the EPT pointer.
fn vmfunc(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let vmx = &cpu.virt.vmx;
    let function = cpu.regs[gpr::RAX] as u32;
    if cpu.virt.level != Level::Vmx || !vmx.secondary(VM_FUNCTIONS) || function > 63 {
        return Err(cpu.ud());
    }
    cpu.virt.length = i.len;
    let enabled = vmx.vmcs.get(Field::VmFunctionControls) >> function & 1 != 0;
    let index = cpu.regs[gpr::RCX] as u32;
    if enabled && function == 0 && index < 512 {
        let at = vmx.vmcs.get(Field::EptpListAddress) + 8 * u64::from(index);
        let pointer = cpu.memory.read_u64(GuestPhys(at)).unwrap_or(u64::MAX);
        if !cpu.vmx_view().bad_ept_pointer(pointer) {
            cpu.virt.vmx.vmcs.set(Field::EptPointer, pointer);
            cpu.select_ept();
            cpu.update_context();
            cpu.end_block();
            return Ok(());
        }
    }
    Err(cpu.vmx_exit_by_instruction(reason::VMFUNC, 0))
}

pub(super) fn rows(rows: &mut Rows) {
    rows.add(Code::Vmlaunch, vmlaunch).ends_block();
    rows.add(Code::Vmresume, vmresume).ends_block();
    rows.add(Code::Vmfunc, vmfunc).ends_block();
}
