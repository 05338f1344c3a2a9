//! What VMRUN checks of the guest's state and controls before it enters (APM 2 15.5.1 and the sections named), as data.
//! If any check fails, VMRUN ends with #VMEXIT(VMEXIT_INVALID).

use super::ExitCode;
use super::inject;
use super::intercept::{intercepts, permission_maps_end};
use super::vmcb::{ControlArea, SaveArea, nested, tlb_control, v_intr};
use crate::control::{cr0, cr4, efer};
use crate::model::{Feature, Model};

/// What the checks look at.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The control area.
    pub control: &'a ControlArea,
    /// The state-save area.
    pub save: &'a SaveArea,
    /// The processor's model.
    pub model: &'a Model,
    /// CR0 of the host.
    pub host_cr0: u64,
}

/// One check.
#[derive(Debug)]
pub struct VmrunCheck {
    /// Short name.
    pub name: &'static str,
    /// What must hold.
    pub text: &'static str,
    /// Section of APM 2.
    pub section: &'static str,
    /// Whether it holds.
    pub holds: fn(&Entry<'_>) -> bool,
}

impl Entry<'_> {
    fn long_mode(&self) -> bool {
        self.save.efer & efer::LME != 0 && self.save.cr0 & cr0::PG != 0
    }
    fn physical(&self, address: u64) -> bool {
        address >> self.model.physical_bits() == 0
    }
    fn nested(&self) -> bool {
        self.control.nested & nested::NP_ENABLE != 0
    }
    fn avic(&self) -> bool {
        self.control.v_intr & v_intr::AVIC_ENABLE != 0
    }
    /// A table's address as the processor uses it: 4-KiB aligned, 52 bits.
    fn table(&self, pointer: u64) -> bool {
        self.physical(pointer & 0x000f_ffff_ffff_f000)
    }
}

macro_rules! checks {
    ($($name:literal $section:literal $text:literal $holds:expr;)*) => {
        /// All checks. Each has a test that violates it.
        pub static CHECKS: &[VmrunCheck] = &[$(VmrunCheck {
            name: $name,
            text: $text,
            section: $section,
            holds: $holds,
        }),*];
    };
}

checks! {
    "efer-svme" "15.5.1" "EFER.SVME is set" |e| e.save.efer & efer::SVME != 0;
    "efer-mbz" "15.5.1" "no bit of EFER is set that the processor does not have"
        |e| e.save.efer & !(e.model.efer_supported() | efer::LMA | efer::SVME) == 0;
    "cr0-nw" "15.5.1" "CR0.NW is set only with CR0.CD" |e| e.save.cr0 & (cr0::CD | cr0::NW) != cr0::NW;
    "cr0-high" "15.5.1" "CR0[63:32] are zero" |e| e.save.cr0 >> 32 == 0;
    "cr3-mbz" "15.5.1" "CR3 has no bit beyond the physical address width" |e| e.physical(e.save.cr3);
    "cr4-mbz" "15.5.1" "no bit of CR4 is set that the processor does not have"
        |e| e.save.cr4 & !e.model.cr4_supported() == 0;
    "dr6-high" "15.5.1" "DR6[63:32] are zero" |e| e.save.dr6 >> 32 == 0;
    "dr7-high" "15.5.1" "DR7[63:32] are zero" |e| e.save.dr7 >> 32 == 0;
    "long-mode-pae" "15.5.1" "with EFER.LME and CR0.PG, CR4.PAE is set"
        |e| !e.long_mode() || e.save.cr4 & cr4::PAE != 0;
    "long-mode-pe" "15.5.1" "with EFER.LME and CR0.PG, CR0.PE is set"
        |e| !e.long_mode() || e.save.cr0 & cr0::PE != 0;
    "long-mode-cs" "15.5.1" "with EFER.LME, CR0.PG and CR4.PAE, CS.L and CS.D are not both set"
        |e| !e.long_mode() || e.save.cr4 & cr4::PAE == 0 || e.save.cs.attributes & 0x600 != 0x600;
    "vmrun-intercept" "15.5.1" "the intercept of VMRUN is set"
        |e| intercepts(&e.control.intercepts, ExitCode::VMRUN);
    "asid" "15.5.1" "the guest's ASID is not zero" |e| e.control.asid != 0;
    "permission-maps" "15.5.1" "IOPM and MSRPM, if used, do not extend to the physical address limit"
        |e| permission_maps_end(e.control).is_none_or(|end| e.physical(end));
    "event-injection" "15.20" "the event to inject can occur in the guest's mode"
        |e| inject::is_legal(e.control.event_injection, e.long_mode() && e.save.cs.attributes & 0x200 != 0);
    "tlb-control" "15.16.2" "TLB_CONTROL is 0, 1, 3 or 7"
        |e| matches!(
            e.control.tlb_control as u8,
            tlb_control::NOTHING | tlb_control::FLUSH_ALL | tlb_control::FLUSH_GUEST
                | tlb_control::FLUSH_GUEST_NON_GLOBAL
        );
    "nested-host-paging" "15.25.3" "nested paging is enabled only while the host pages"
        |e| !e.nested() || e.host_cr0 & cr0::PG != 0;
    "nested-cr3" "15.25.4" "N_CR3, if used, has no bit beyond the physical address width"
        |e| !e.nested() || e.physical(e.control.nested_cr3);
    "nested-pat" "15.25.4" "G_PAT, with nested paging, has only the defined memory types"
        |e| !e.nested() || e.save.g_pat.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7));
    "nested-modes" "15.34" "SEV and SEV-ES, which the processor lacks, are not enabled"
        |e| e.control.nested & (nested::SEV | nested::SEV_ES) == 0;
    "vnmi-intercept" "15.21.10" "virtual NMIs are enabled only if NMIs are intercepted"
        |e| e.control.v_intr & v_intr::NMI_ENABLE == 0
            || !e.model.has(Feature::Vnmi)
            || intercepts(&e.control.intercepts, ExitCode::NMI);
    "avic-backing-page" "15.29.2" "AVIC's backing page, if used, lies below the physical address limit"
        |e| !e.avic() || e.table(e.control.avic_backing_page);
    "avic-tables" "15.29.2" "AVIC's ID tables, if used, lie below the physical address limit"
        |e| !e.avic() || e.table(e.control.avic_logical_table) && e.table(e.control.avic_physical_table);
    "avic-nested" "15.29.2" "AVIC is enabled only with nested paging" |e| !e.avic() || e.nested();
    "x2avic" "15.29.10" "x2AVIC, which the processor lacks, is not enabled"
        |e| e.control.v_intr & v_intr::X2AVIC_ENABLE == 0 || !e.avic();
}

/// The checks that fail.
pub fn failing<'a>(entry: &'a Entry<'a>) -> impl Iterator<Item = &'static VmrunCheck> + 'a {
    CHECKS.iter().filter(|check| !(check.holds)(entry))
}
