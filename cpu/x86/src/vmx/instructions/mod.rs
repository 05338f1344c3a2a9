//! VMX's instructions (SDM 3D chapter 32).

mod entry;
mod fields;
mod invalidate;
mod operation;
mod pointers;

use super::vmcs::Field;
use crate::flags::bits;
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};

/// VM-instruction error numbers (SDM 3D 32.4).
#[allow(missing_docs)]
pub mod error {
    pub const VMCALL_IN_ROOT: u32 = 1;
    pub const VMCLEAR_ADDRESS: u32 = 2;
    pub const VMCLEAR_VMXON_POINTER: u32 = 3;
    pub const VMLAUNCH_NOT_CLEAR: u32 = 4;
    pub const VMRESUME_NOT_LAUNCHED: u32 = 5;
    pub const VMPTRLD_ADDRESS: u32 = 9;
    pub const VMPTRLD_VMXON_POINTER: u32 = 10;
    pub const VMPTRLD_REVISION: u32 = 11;
    pub const UNSUPPORTED_FIELD: u32 = 12;
    pub const VMXON_IN_ROOT: u32 = 15;
    pub const ENTRY_BLOCKED_BY_MOV_SS: u32 = 26;
    pub const INVALID_OPERAND: u32 = 28;
}

impl Cpu {
    /// Real-address, virtual-8086 and compatibility mode know no VMX.
    fn vmx_mode(&mut self) -> Result<(), Stop> {
        if self.mode.real_or_v8086() || self.compatibility_mode() { Err(self.ud()) } else { Ok(()) }
    }

    /// What most VMX instructions check first: #UD, the exit from a guest, CPL 0.
    fn vmx_prologue(&mut self, what: crate::virt::Intercept, i: &Insn) -> Result<(), Stop> {
        if !self.virt.vmx.on {
            return Err(self.ud());
        }
        self.vmx_mode()?;
        self.intercept(what, i)?;
        if self.cpl != 0 { Err(self.gp0()) } else { Ok(()) }
    }

    /// VMsucceed.
    fn vm_succeed(&mut self) {
        self.flags.set_status(0);
    }

    /// VMfailInvalid.
    fn vm_fail_invalid(&mut self) {
        self.flags.set_status(bits::CF);
    }

    /// VMfail: VMfailValid with an error number if there is a current VMCS, else VMfailInvalid.
    fn vm_fail(&mut self, error: u32) {
        if self.virt.vmx.current.is_some() {
            self.virt.vmx.vmcs.set(Field::VmInstructionError, error.into());
        } else {
            return self.vm_fail_invalid();
        }
        self.flags.set_status(bits::ZF);
    }

    /// Ends an instruction with what its checks say.
    fn vm_finish(&mut self, result: Result<(), u32>) {
        match result {
            Ok(()) => self.vm_succeed(),
            Err(error) => self.vm_fail(error),
        }
    }

    /// A pointer operand that is no region: not aligned, or beyond MAXPHYADDR.
    fn bad_region(&self, pointer: u64) -> bool {
        pointer & 0xfff != 0 || pointer >> self.physical_bits() != 0
    }
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    operation::rows(rows);
    pointers::rows(rows);
    fields::rows(rows);
    entry::rows(rows);
    invalidate::rows(rows);
}
