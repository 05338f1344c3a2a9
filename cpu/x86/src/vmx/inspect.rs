//! Looking at VMX from outside: for monitors. Nothing here changes anything.

use super::controls::bits::*;
use super::entry_checks::VmEntryCheck;
use super::vmcs::{FIELDS, Field, FieldInfo};
use crate::Cpu;
use crate::nested::SecondStage;
use crate::paging::unpaged;
use core::convert::Infallible;
use ringworld_core::{GuestPhys, GuestVirt};
use ringworld_mmu::x86::ept::{self, Ept, EptAccess, EptFault, EptTranslation, NestedTables};
use ringworld_mmu::x86::paging::{self, Access, AccessKind, WalkFault};
use ringworld_mmu::{Inspector, Reference};

/// What a read would meet.
#[derive(Clone, Debug)]
pub struct NestedWalk {
    /// Every table entry, in order: of the guest's tables (stage 1), and of the extended page tables (stage 2).
    pub references: Vec<Reference>,
    /// The physical address, or what stops the walk.
    pub result: Result<GuestPhys, String>,
}

const READ: EptAccess = EptAccess { read: true, write: false, fetch: false, user: false };

impl Cpu {
    /// The fields that this processor has, with their values in the current VMCS; `None` if there is no current VMCS.
    pub fn vmcs_fields(&self) -> Option<impl Iterator<Item = (&'static FieldInfo, u64)> + '_> {
        self.virt.vmx.current?;
        let capabilities = self.model.vmx();
        let shown = FIELDS.iter().filter(move |info| info.exists(capabilities));
        Some(shown.map(|info| (info, self.virt.vmx.vmcs.get(info.field))))
    }

    /// A field's value at the last VM entry, if there was one since the VMCS became current.
    pub fn vmcs_field_at_entry(&self, field: Field) -> Option<u64> {
        self.virt.vmx.vmcs.at_entry(field)
    }

    /// All checks that a VM entry with the current VMCS would violate now.
    pub fn vm_entry_violations(&self) -> Vec<&'static VmEntryCheck> {
        self.vmx_view().violations()
    }

    /// The extended page tables of the running guest, else of the current VMCS.
    fn inspected_ept(&self) -> Option<Ept> {
        match self.spaces.second_stage {
            Some(SecondStage::Ept(ept)) => Some(ept),
            Some(SecondStage::Npt(_)) => None,
            None => {
                let vmx = &self.virt.vmx;
                let eptp = vmx.vmcs.get(Field::EptPointer);
                (vmx.current.is_some() && vmx.secondary(EPT)).then(|| self.ept_for(eptp))
            }
        }
    }

    /// Walks the extended or nested page tables for a guest-physical address; `None` if there are none.
    pub fn inspect_ept(&self, address: GuestPhys) -> Option<NestedWalk> {
        if let Some(SecondStage::Npt(npt)) = &self.spaces.second_stage {
            return Some(self.svm_inspect_nested(npt, address));
        }
        let ept = self.inspected_ept()?;
        let mut inspector = Inspector::new(&self.memory);
        let result: Result<EptTranslation, EptFault<Infallible>> =
            ept::walk(&ept, address, READ, &mut inspector);
        let result = result.map(|page| page.address).map_err(|fault| describe(&fault));
        Some(NestedWalk { references: inspector.references, result })
    }

    /// Walks both stages for a linear address of the running guest; `None` if none runs, or without a second stage.
    pub fn inspect_nested(&self, linear: u64) -> Option<NestedWalk> {
        if let Some(SecondStage::Npt(npt)) = &self.spaces.second_stage {
            return Some(self.svm_inspect_both(npt, linear));
        }
        let Some(SecondStage::Ept(ept)) = self.spaces.second_stage else { return None };
        let mut inspector = Inspector::new(&self.memory);
        let access = Access { kind: AccessKind::Read, user: false, ac: true };
        let first = match self.spaces.paging {
            None => Ok(unpaged(linear)),
            Some(mut paging) => {
                paging.pkru = 0;
                paging.pkrs = 0;
                let mut tables = NestedTables::new(&ept, &mut inspector);
                paging::walk(&paging, GuestVirt(linear), access, &mut tables)
            }
        };
        let result = match first {
            Ok(page) => {
                let second = ept::walk(&ept, page.gpa, READ, &mut inspector);
                second.map(|page| page.address).map_err(|fault| describe(&fault))
            }
            Err(WalkFault::Page(fault)) => {
                Err(format!("page fault of the guest, error code {:#x}", fault.error_code))
            }
            Err(WalkFault::Table(fault)) => Err(format!("in the guest's tables: {}", describe(&fault))),
        };
        Some(NestedWalk { references: inspector.references, result })
    }
}

fn describe(fault: &EptFault<Infallible>) -> String {
    match fault {
        EptFault::Misconfiguration { address, level, entry } => {
            format!("EPT misconfiguration at {address}, level {level}, entry {entry:#x}")
        }
        EptFault::Violation { address, level, qualification, .. } => {
            format!("EPT violation at {address}, level {level}, qualification {qualification:#x}")
        }
        EptFault::Table(never) => match *never {},
    }
}
