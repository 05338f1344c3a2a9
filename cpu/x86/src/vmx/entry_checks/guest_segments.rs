//! Guest segment registers (SDM 3C 27.3.1.2).

use super::{GUEST, View, VmEntryCheck, checks};
use crate::control::cr0;
use crate::insn::seg::{CS, DS, ES, FS, GS, SS};
use crate::segment::{Segment, rights};
use crate::vmx::state::{LDTR, TR};
use crate::vmx::vmcs::Field;

pub(super) static TABLES: &[&[VmEntryCheck]] = &[SELECTORS, BASES, LIMITS, RIGHTS];

/// Access-rights bits 11:8 and 31:17.
const RESERVED: u64 = 0xfffe_0f00;
/// The access rights of all segments in virtual-8086 mode.
const V8086_RIGHTS: u64 = 0xf3;

fn raw_rights(v: &View<'_>, n: usize) -> u64 {
    v.vmcs.nth(Field::GuestEsAccessRights, n)
}

/// Outside of virtual-8086 mode.
fn usable(v: &View<'_>, n: u8) -> Option<Segment> {
    let segment = v.segment(n.into());
    (!v.v8086() && (n == CS || !segment.unusable)).then_some(segment)
}

/// The limit does not fit the granularity.
fn bad_granularity(segment: &Segment) -> bool {
    let granular = segment.rights & rights::G != 0;
    segment.limit & 0xfff != 0xfff && granular || segment.limit >> 20 != 0 && !granular
}

fn bad_v8086_base(v: &View<'_>, n: u8) -> bool {
    let segment = v.segment(n.into());
    v.v8086() && segment.base != u64::from(segment.selector) << 4
}

fn bad_v8086_limit(v: &View<'_>, n: u8) -> bool {
    v.v8086() && v.segment(n.into()).limit != 0xffff
}

fn bad_v8086_rights(v: &View<'_>, n: u8) -> bool {
    v.v8086() && raw_rights(v, n.into()) != V8086_RIGHTS
}

fn bad_data_type(v: &View<'_>, n: u8) -> bool {
    usable(v, n).is_some_and(|s| s.kind() & 1 == 0 || s.kind() & 8 != 0 && s.kind() & 2 == 0)
}

fn bad_data_dpl(v: &View<'_>, n: u8) -> bool {
    !v.unrestricted() && usable(v, n).is_some_and(|s| s.kind() < 12 && s.dpl() < s.rpl())
}

fn is_system(v: &View<'_>, n: u8) -> bool {
    usable(v, n).is_some_and(|s| s.rights & rights::S == 0)
}

fn not_present(v: &View<'_>, n: u8) -> bool {
    usable(v, n).is_some_and(|s| s.rights & rights::PRESENT == 0)
}

fn bad_reserved(v: &View<'_>, n: u8) -> bool {
    usable(v, n).is_some() && raw_rights(v, n.into()) & RESERVED != 0
}

fn bad_limit(v: &View<'_>, n: u8) -> bool {
    usable(v, n).is_some_and(|s| bad_granularity(&s))
}

fn ldtr(v: &View<'_>) -> Option<Segment> {
    Some(v.segment(LDTR)).filter(|s| !s.unusable)
}

fn cs_type(v: &View<'_>) -> u8 {
    v.segment(CS.into()).kind()
}

static SELECTORS: &[VmEntryCheck] = checks! { "27.3.1.2", GUEST;
    "guest-tr-selector", "TI of TR is 0", |v| v.segment(TR).selector & 4 != 0;
    "guest-ldtr-selector", "TI of a usable LDTR is 0", |v| ldtr(v).is_some_and(|s| s.selector & 4 != 0);
    "guest-ss-rpl", "RPL of SS is that of CS, unless virtual-8086 or unrestricted", |v| !v.v8086() && !v.unrestricted() && v.segment(SS.into()).rpl() != v.segment(CS.into()).rpl();
};

static BASES: &[VmEntryCheck] = checks! { "27.3.1.2", GUEST;
    "guest-es-base-v8086", "in virtual-8086 mode, ES.base is the selector times 16", |v| bad_v8086_base(v, ES);
    "guest-cs-base-v8086", "in virtual-8086 mode, CS.base is the selector times 16", |v| bad_v8086_base(v, CS);
    "guest-ss-base-v8086", "in virtual-8086 mode, SS.base is the selector times 16", |v| bad_v8086_base(v, SS);
    "guest-ds-base-v8086", "in virtual-8086 mode, DS.base is the selector times 16", |v| bad_v8086_base(v, DS);
    "guest-fs-base-v8086", "in virtual-8086 mode, FS.base is the selector times 16", |v| bad_v8086_base(v, FS);
    "guest-gs-base-v8086", "in virtual-8086 mode, GS.base is the selector times 16", |v| bad_v8086_base(v, GS);
    "guest-tr-base", "TR.base is canonical", |v| v.non_canonical(Field::GuestTrBase);
    "guest-fs-base", "FS.base is canonical", |v| v.non_canonical(Field::GuestFsBase);
    "guest-gs-base", "GS.base is canonical", |v| v.non_canonical(Field::GuestGsBase);
    "guest-ldtr-base", "a usable LDTR's base is canonical", |v| ldtr(v).is_some() && v.non_canonical(Field::GuestLdtrBase);
    "guest-cs-base", "bits 63:32 of CS.base are 0", |v| v.get(Field::GuestCsBase) >> 32 != 0;
    "guest-ss-base", "bits 63:32 of a usable SS's base are 0", |v| usable(v, SS).is_some_and(|s| s.base >> 32 != 0);
    "guest-ds-base", "bits 63:32 of a usable DS's base are 0", |v| usable(v, DS).is_some_and(|s| s.base >> 32 != 0);
    "guest-es-base", "bits 63:32 of a usable ES's base are 0", |v| usable(v, ES).is_some_and(|s| s.base >> 32 != 0);
};

static LIMITS: &[VmEntryCheck] = checks! { "27.3.1.2", GUEST;
    "guest-es-limit-v8086", "in virtual-8086 mode, ES.limit is 0xffff", |v| bad_v8086_limit(v, ES);
    "guest-cs-limit-v8086", "in virtual-8086 mode, CS.limit is 0xffff", |v| bad_v8086_limit(v, CS);
    "guest-ss-limit-v8086", "in virtual-8086 mode, SS.limit is 0xffff", |v| bad_v8086_limit(v, SS);
    "guest-ds-limit-v8086", "in virtual-8086 mode, DS.limit is 0xffff", |v| bad_v8086_limit(v, DS);
    "guest-fs-limit-v8086", "in virtual-8086 mode, FS.limit is 0xffff", |v| bad_v8086_limit(v, FS);
    "guest-gs-limit-v8086", "in virtual-8086 mode, GS.limit is 0xffff", |v| bad_v8086_limit(v, GS);
};

static RIGHTS: &[VmEntryCheck] = checks! { "27.3.1.2", GUEST;
    "guest-es-rights-v8086", "in virtual-8086 mode, ES's access rights are 0xf3", |v| bad_v8086_rights(v, ES);
    "guest-cs-rights-v8086", "in virtual-8086 mode, CS's access rights are 0xf3", |v| bad_v8086_rights(v, CS);
    "guest-ss-rights-v8086", "in virtual-8086 mode, SS's access rights are 0xf3", |v| bad_v8086_rights(v, SS);
    "guest-ds-rights-v8086", "in virtual-8086 mode, DS's access rights are 0xf3", |v| bad_v8086_rights(v, DS);
    "guest-fs-rights-v8086", "in virtual-8086 mode, FS's access rights are 0xf3", |v| bad_v8086_rights(v, FS);
    "guest-gs-rights-v8086", "in virtual-8086 mode, GS's access rights are 0xf3", |v| bad_v8086_rights(v, GS);
    "guest-cs-type", "CS is an accessed code segment (or, unrestricted, a read-write data segment)", |v| usable(v, CS).is_some_and(|s| !(matches!(s.kind(), 9 | 11 | 13 | 15) || s.kind() == 3 && v.unrestricted()));
    "guest-ss-type", "a usable SS is an accessed read-write data segment", |v| usable(v, SS).is_some_and(|s| !matches!(s.kind(), 3 | 7));
    "guest-ds-type", "a usable DS is accessed, and readable if it is code", |v| bad_data_type(v, DS);
    "guest-es-type", "a usable ES is accessed, and readable if it is code", |v| bad_data_type(v, ES);
    "guest-fs-type", "a usable FS is accessed, and readable if it is code", |v| bad_data_type(v, FS);
    "guest-gs-type", "a usable GS is accessed, and readable if it is code", |v| bad_data_type(v, GS);
    "guest-es-system", "ES is no system segment", |v| is_system(v, ES);
    "guest-cs-system", "CS is no system segment", |v| is_system(v, CS);
    "guest-ss-system", "SS is no system segment", |v| is_system(v, SS);
    "guest-ds-system", "DS is no system segment", |v| is_system(v, DS);
    "guest-fs-system", "FS is no system segment", |v| is_system(v, FS);
    "guest-gs-system", "GS is no system segment", |v| is_system(v, GS);
    "guest-cs-dpl-data", "CS of type 3 has DPL 0", |v| usable(v, CS).is_some_and(|s| s.kind() == 3 && s.dpl() != 0);
    "guest-cs-dpl", "a non-conforming CS has the DPL of SS", |v| usable(v, CS).is_some_and(|s| matches!(s.kind(), 9 | 11) && s.dpl() != v.segment(SS.into()).dpl());
    "guest-cs-dpl-conforming", "a conforming CS has at most the DPL of SS", |v| usable(v, CS).is_some_and(|s| matches!(s.kind(), 13 | 15) && s.dpl() > v.segment(SS.into()).dpl());
    "guest-ss-dpl-rpl", "SS's DPL is its RPL, unless unrestricted", |v| { let s = v.segment(SS.into()); !v.v8086() && !v.unrestricted() && s.dpl() != s.rpl() };
    "guest-ss-dpl-zero", "SS's DPL is 0 without protection, and with a CS of type 3", |v| !v.v8086() && (v.get(Field::GuestCr0) & cr0::PE == 0 || cs_type(v) == 3) && v.segment(SS.into()).dpl() != 0;
    "guest-ds-dpl", "a usable DS's DPL is not below its RPL, unless conforming or unrestricted", |v| bad_data_dpl(v, DS);
    "guest-es-dpl", "a usable ES's DPL is not below its RPL, unless conforming or unrestricted", |v| bad_data_dpl(v, ES);
    "guest-fs-dpl", "a usable FS's DPL is not below its RPL, unless conforming or unrestricted", |v| bad_data_dpl(v, FS);
    "guest-gs-dpl", "a usable GS's DPL is not below its RPL, unless conforming or unrestricted", |v| bad_data_dpl(v, GS);
    "guest-es-present", "ES is present", |v| not_present(v, ES);
    "guest-cs-present", "CS is present", |v| not_present(v, CS);
    "guest-ss-present", "SS is present", |v| not_present(v, SS);
    "guest-ds-present", "DS is present", |v| not_present(v, DS);
    "guest-fs-present", "FS is present", |v| not_present(v, FS);
    "guest-gs-present", "GS is present", |v| not_present(v, GS);
    "guest-es-reserved", "reserved bits of ES's access rights are 0", |v| bad_reserved(v, ES);
    "guest-cs-reserved", "reserved bits of CS's access rights are 0", |v| bad_reserved(v, CS);
    "guest-ss-reserved", "reserved bits of SS's access rights are 0", |v| bad_reserved(v, SS);
    "guest-ds-reserved", "reserved bits of DS's access rights are 0", |v| bad_reserved(v, DS);
    "guest-fs-reserved", "reserved bits of FS's access rights are 0", |v| bad_reserved(v, FS);
    "guest-gs-reserved", "reserved bits of GS's access rights are 0", |v| bad_reserved(v, GS);
    "guest-cs-l-and-db", "in IA-32e mode, CS does not have L and D/B", |v| v.guest_long() && usable(v, CS).is_some_and(|s| s.long() && s.big());
    "guest-es-granularity", "ES.limit fits its G", |v| bad_limit(v, ES);
    "guest-cs-granularity", "CS.limit fits its G", |v| bad_limit(v, CS);
    "guest-ss-granularity", "SS.limit fits its G", |v| bad_limit(v, SS);
    "guest-ds-granularity", "DS.limit fits its G", |v| bad_limit(v, DS);
    "guest-fs-granularity", "FS.limit fits its G", |v| bad_limit(v, FS);
    "guest-gs-granularity", "GS.limit fits its G", |v| bad_limit(v, GS);
    "guest-tr-type", "TR is a busy TSS (in IA-32e mode, a 64-bit one)", |v| { let kind = v.segment(TR).kind(); kind != 11 && (kind != 3 || v.guest_long()) };
    "guest-tr-system", "TR is a system segment", |v| v.segment(TR).rights & rights::S != 0;
    "guest-tr-present", "TR is present", |v| v.segment(TR).rights & rights::PRESENT == 0;
    "guest-tr-reserved", "reserved bits of TR's access rights are 0", |v| raw_rights(v, TR) & RESERVED != 0;
    "guest-tr-granularity", "TR.limit fits its G", |v| bad_granularity(&v.segment(TR));
    "guest-tr-usable", "TR is usable", |v| v.segment(TR).unusable;
    "guest-ldtr-type", "a usable LDTR is an LDT", |v| ldtr(v).is_some_and(|s| s.kind() != 2);
    "guest-ldtr-system", "a usable LDTR is a system segment", |v| ldtr(v).is_some_and(|s| s.rights & rights::S != 0);
    "guest-ldtr-present", "a usable LDTR is present", |v| ldtr(v).is_some_and(|s| s.rights & rights::PRESENT == 0);
    "guest-ldtr-reserved", "reserved bits of a usable LDTR's access rights are 0", |v| ldtr(v).is_some() && raw_rights(v, LDTR) & RESERVED != 0;
    "guest-ldtr-granularity", "a usable LDTR's limit fits its G", |v| ldtr(v).is_some_and(|s| bad_granularity(&s));
};
