//! INVEPT and INVVPID (SDM 3C 30.4.3).

use super::error;
use crate::exec::operand::Int;
use crate::row::Rows;
use crate::virt::Intercept;
use crate::vmx::controls::{Group, bits::*};
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

/// Address bits of an EPT pointer: what INVEPT compares.
const EPT_ROOT: u64 = 0x000f_ffff_ffff_f000;

fn invept<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if !cpu.model.vmx().has(Group::EptVpid, EPT_INVEPT) {
        return Err(cpu.ud());
    }
    cpu.vmx_prologue(Intercept::Invept, i)?;
    let kind = T::get(cpu, i.r[0]).zx();
    let capabilities = cpu.model.vmx();
    let supported = match kind {
        1 => capabilities.has(Group::EptVpid, EPT_INVEPT_SINGLE),
        2 => capabilities.has(Group::EptVpid, EPT_INVEPT_ALL),
        _ => false,
    };
    if !supported {
        cpu.vm_fail(error::INVALID_OPERAND);
        return Ok(());
    }
    let [pointer, reserved] = cpu.load::<[u64; 2]>(i)?;
    if reserved != 0 || kind == 1 && cpu.vmx_view().bad_ept_pointer(pointer) {
        cpu.vm_fail(error::INVALID_OPERAND);
        return Ok(());
    }
    let dead = |root: u64| root != 0 && (kind == 2 || (root ^ pointer) & EPT_ROOT == 0);
    cpu.spaces.extended.forget(dead);
    cpu.flush_guests(|tag| dead(tag.root));
    cpu.vm_succeed();
    Ok(())
}

fn invvpid<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if !cpu.model.vmx().has(Group::Secondary, VPID) {
        return Err(cpu.ud());
    }
    cpu.vmx_prologue(Intercept::Invvpid, i)?;
    let kind = T::get(cpu, i.r[0]).zx();
    if kind > 3 {
        cpu.vm_fail(error::INVALID_OPERAND);
        return Ok(());
    }
    let [descriptor, linear] = cpu.load::<[u64; 2]>(i)?;
    let vpid = descriptor as u16;
    let bad = descriptor >> 16 != 0 || kind != 2 && vpid == 0 || kind == 0 && !cpu.is_canonical_max(linear);
    if bad {
        cpu.vm_fail(error::INVALID_OPERAND);
        return Ok(());
    }
    // Individual addresses and global pages may be flushed with all others of the VPID.
    cpu.flush_guests(|tag| tag.id != 0 && (kind == 2 || tag.id == vpid));
    cpu.vm_succeed();
    Ok(())
}

pub(super) fn rows(rows: &mut Rows) {
    rows.add(Code::Invept_r32_m128, invept::<u32>);
    rows.add(Code::Invept_r64_m128, invept::<u64>);
    rows.add(Code::Invvpid_r32_m128, invvpid::<u32>);
    rows.add(Code::Invvpid_r64_m128, invvpid::<u64>);
}
