//! VMREAD and VMWRITE, and in a guest, VMCS shadowing (SDM 3C 25.10).

use super::error;
use crate::exec::operand::Int;
use crate::row::Rows;
use crate::virt::{Intercept, Level};
use crate::vmx::controls::bits::VMCS_SHADOWING;
use crate::vmx::vmcs::{Field, FieldInfo, find};
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

/// Which VMCS an access goes to.
#[derive(Clone, Copy)]
enum Target {
    Current,
    /// The one that the link pointer names.
    Shadow(u64),
}

impl Cpu {
    /// Whether VMREAD or VMWRITE of a field goes to the shadow VMCS instead of exiting.
    fn shadows(&self, encoding: u64, bitmap: Field) -> bool {
        let vmx = &self.virt.vmx;
        vmx.secondary(VMCS_SHADOWING)
            && encoding >> 15 == 0
            && !self.bitmap_bit(vmx.vmcs.get(bitmap), encoding)
    }

    /// The checks before an access; `None` if it has failed.
    fn field_access(
        &mut self,
        what: Intercept,
        encoding: u64,
        i: &Insn,
    ) -> Result<Option<(Target, &'static FieldInfo, bool)>, Stop> {
        if !self.virt.vmx.on {
            return Err(self.ud());
        }
        self.vmx_mode()?;
        let in_guest = self.virt.level == Level::Vmx;
        let bitmap = if what == Intercept::Vmread { Field::VmreadBitmap } else { Field::VmwriteBitmap };
        if in_guest && !self.shadows(encoding, bitmap) {
            self.intercept(what, i)?;
        }
        if self.cpl != 0 {
            return Err(self.gp0());
        }
        let target = if in_guest {
            match self.virt.vmx.vmcs.get(Field::VmcsLinkPointer) {
                u64::MAX => None,
                link => Some(Target::Shadow(link)),
            }
        } else {
            self.virt.vmx.current.map(|_| Target::Current)
        };
        let Some(target) = target else {
            self.vm_fail_invalid();
            return Ok(None);
        };
        let found = u32::try_from(encoding).ok().and_then(find);
        match found.filter(|(info, _)| info.exists(self.model.vmx())) {
            Some((info, high)) => Ok(Some((target, info, high))),
            None => {
                self.vm_fail(error::UNSUPPORTED_FIELD);
                Ok(None)
            }
        }
    }

    fn field_value(&self, target: Target, info: &FieldInfo) -> u64 {
        match target {
            Target::Current => self.virt.vmx.vmcs.get(info.field),
            Target::Shadow(region) => self.vmcs_peek(region, info),
        }
    }
}

fn vmread<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let encoding = T::get(cpu, i.r[1]).zx();
    let Some((target, info, high)) = cpu.field_access(Intercept::Vmread, encoding, i)? else { return Ok(()) };
    let value = cpu.field_value(target, info);
    let value = T::of(if high { value >> 32 } else { value });
    if i.has_memory() {
        cpu.store(i, value)?;
    } else {
        T::set(cpu, i.r[0], value);
    }
    cpu.vm_succeed();
    Ok(())
}

fn vmwrite<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let encoding = T::get(cpu, i.r[0]).zx();
    let Some((target, info, high)) = cpu.field_access(Intercept::Vmwrite, encoding, i)? else {
        return Ok(());
    };
    let value = if i.has_memory() { cpu.load::<T>(i)?.zx() } else { T::get(cpu, i.r[1]).zx() };
    let old = cpu.field_value(target, info);
    // A 32-bit write of a 64-bit field clears its high half (SDM 3D, VMWRITE).
    let new = if high { old & 0xffff_ffff | value << 32 } else { value };
    match target {
        Target::Current => cpu.virt.vmx.vmcs.set(info.field, new),
        Target::Shadow(region) => cpu.vmcs_poke(region, info, new),
    }
    cpu.vm_succeed();
    Ok(())
}

pub(super) fn rows(rows: &mut Rows) {
    rows.add(Code::Vmread_rm32_r32, vmread::<u32>);
    rows.add(Code::Vmread_rm64_r64, vmread::<u64>);
    rows.add(Code::Vmwrite_r32_rm32, vmwrite::<u32>);
    rows.add(Code::Vmwrite_r64_rm64, vmwrite::<u64>);
}
