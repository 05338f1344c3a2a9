//! Host-state area and address-space size (SDM 3C 27.2.2 to 27.2.4).

use super::{HOST, View, VmEntryCheck, bad_pat, checks};
use crate::control::{cr4, efer};
use crate::model::Model;
use crate::vmx::capability::CR0_FIXED0;
use crate::vmx::controls::bits::*;
use crate::vmx::vmcs::Field;

pub(super) static TABLES: &[&[VmEntryCheck]] = &[REGISTERS, SEGMENTS, SIZE];

/// Bits of IA32_PERF_GLOBAL_CTRL that exist.
pub(super) fn perf_global_ctrl(_: &Model) -> u64 {
    crate::pmu::ALL_COUNTERS
}

/// EFER of host or guest: reserved bits.
pub(super) fn bad_efer(v: &View<'_>, value: u64) -> bool {
    value & !(v.model.efer_supported() | efer::LMA) != 0
}

static REGISTERS: &[VmEntryCheck] = checks! { "27.2.2", HOST;
    "host-cr0", "host CR0 sets the bits that VMX operation fixes",
        |v| !v.get(Field::HostCr0) & CR0_FIXED0 != 0 || v.get(Field::HostCr0) >> 32 != 0;
    "host-cr4", "host CR4 sets and clears the bits that VMX operation fixes",
        |v| {
            let value = v.get(Field::HostCr4);
            value & cr4::VMXE == 0 || value & !v.model.cr4_supported() != 0
        };
    "host-cr3", "host CR3 is within the physical-address width",
        |v| v.beyond_physical(v.get(Field::HostCr3));
    "host-sysenter-esp", "host IA32_SYSENTER_ESP is canonical", |v| v.non_canonical(Field::HostSysenterEsp);
    "host-sysenter-eip", "host IA32_SYSENTER_EIP is canonical", |v| v.non_canonical(Field::HostSysenterEip);
    "host-perf-global-ctrl", "reserved bits of host IA32_PERF_GLOBAL_CTRL are 0",
        |v| v.exit(HOST_PERF_GLOBAL_CTRL) && v.get(Field::HostPerfGlobalCtrl) & !perf_global_ctrl(v.model) != 0;
    "host-pat", "each byte of host IA32_PAT is a memory type",
        |v| v.exit(HOST_PAT) && bad_pat(v.get(Field::HostPat));
    "host-efer-reserved", "reserved bits of host IA32_EFER are 0",
        |v| v.exit(HOST_EFER) && bad_efer(v, v.get(Field::HostEfer));
    "host-efer-lma", "LMA and LME of host IA32_EFER are as the host address-space size",
        |v| v.exit(HOST_EFER) && {
            let value = v.get(Field::HostEfer);
            (value & efer::LMA != 0) != v.host_long() || (value & efer::LME != 0) != v.host_long()
        };
    "host-pkrs", "bits 63:32 of host IA32_PKRS are 0",
        |v| v.exit(HOST_PKRS) && v.get(Field::HostPkrs) >> 32 != 0;
};

fn bad_selector(v: &View<'_>, field: Field) -> bool {
    v.get(field) & 7 != 0
}

static SEGMENTS: &[VmEntryCheck] = checks! { "27.2.3", HOST;
    "host-es-selector", "TI and RPL of host ES are 0", |v| bad_selector(v, Field::HostEsSelector);
    "host-cs-selector", "TI and RPL of host CS are 0", |v| bad_selector(v, Field::HostCsSelector);
    "host-ss-selector", "TI and RPL of host SS are 0", |v| bad_selector(v, Field::HostSsSelector);
    "host-ds-selector", "TI and RPL of host DS are 0", |v| bad_selector(v, Field::HostDsSelector);
    "host-fs-selector", "TI and RPL of host FS are 0", |v| bad_selector(v, Field::HostFsSelector);
    "host-gs-selector", "TI and RPL of host GS are 0", |v| bad_selector(v, Field::HostGsSelector);
    "host-tr-selector", "TI and RPL of host TR are 0", |v| bad_selector(v, Field::HostTrSelector);
    "host-cs-null", "host CS is not null", |v| v.get(Field::HostCsSelector) == 0;
    "host-tr-null", "host TR is not null", |v| v.get(Field::HostTrSelector) == 0;
    "host-ss-null", "host SS is not null outside of a 64-bit host",
        |v| !v.host_long() && v.get(Field::HostSsSelector) == 0;
    "host-fs-base", "host FS.base is canonical", |v| v.non_canonical(Field::HostFsBase);
    "host-gs-base", "host GS.base is canonical", |v| v.non_canonical(Field::HostGsBase);
    "host-gdtr-base", "host GDTR.base is canonical", |v| v.non_canonical(Field::HostGdtrBase);
    "host-idtr-base", "host IDTR.base is canonical", |v| v.non_canonical(Field::HostIdtrBase);
    "host-tr-base", "host TR.base is canonical", |v| v.non_canonical(Field::HostTrBase);
};

static SIZE: &[VmEntryCheck] = checks! { "27.2.4", HOST;
    "legacy-host-long-guest", "outside of IA-32e mode, there is no IA-32e-mode guest",
        |v| !v.long && v.guest_long();
    "host-size-at-entry", "the host address-space size is IA-32e mode if and only if VM entry is made in it",
        |v| v.long != v.host_long();
    "small-host-long-guest", "without a 64-bit host, there is no IA-32e-mode guest",
        |v| v.long && !v.host_long() && v.guest_long();
    "small-host-pcide", "without a 64-bit host, host CR4.PCIDE is 0",
        |v| !v.host_long() && v.get(Field::HostCr4) & cr4::PCIDE != 0;
    "small-host-rip", "without a 64-bit host, bits 63:32 of host RIP are 0",
        |v| !v.host_long() && v.get(Field::HostRip) >> 32 != 0;
    "long-host-pae", "with a 64-bit host, host CR4.PAE is 1",
        |v| v.host_long() && v.get(Field::HostCr4) & cr4::PAE == 0;
    "long-host-rip", "with a 64-bit host, host RIP is canonical",
        |v| v.host_long() && v.non_canonical(Field::HostRip);
};
