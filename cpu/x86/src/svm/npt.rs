//! Nested paging (APM 2 15.25): guest-physical to physical addresses by tables of the ordinary format.
//!
//! All accesses are user accesses to the nested tables, and those to the guest's own tables are writes as well, so that
//! the guest's accessed and dirty flags can be set. A fault of a nested walk is an exit.

use super::{Exit, ExitCode};
use crate::mem::{Kind, Privilege};
use crate::nested::GuestTag;
use crate::nested::{Rights, SecondStage};
use crate::paging::unpaged;
use crate::vmx::inspect::NestedWalk;
use crate::{Cpu, Stop};
use ringworld_core::{GuestPhys, GuestVirt};
use ringworld_mmu::x86::paging::{
    self, Access, AccessKind, Mode, PageFault, Paging, Translation, WalkFault, error_code, pdpte_is_malformed,
};
use ringworld_mmu::{
    EntryWidth, GuestPhysicalCache, Inspector, PhysicalTables, Reference, Stage, TableReader,
};

/// A nested page fault: the guest-physical address, and the error code of the nested walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NestedFault {
    address: GuestPhys,
    error_code: u32,
}

/// EXITINFO1 bit 32: the fault arose for the guest's final address.
const FINAL: u64 = 1 << 32;
/// EXITINFO1 bit 33: the fault arose on the way through the guest's tables.
const TABLES: u64 = 1 << 33;

/// Reads the nested tables, and tells of its references as those of the second stage.
struct SecondStageTables<'a, R>(&'a mut R);

impl<R: TableReader> TableReader for SecondStageTables<'_, R> {
    type Fault = R::Fault;
    fn read(&mut self, address: GuestPhys, width: EntryWidth) -> Result<u64, R::Fault> {
        self.0.read(address, width)
    }
    fn compare_exchange(
        &mut self,
        at: GuestPhys,
        w: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<u64, R::Fault> {
        self.0.compare_exchange(at, w, old, new)
    }
    fn reference(&mut self, reference: Reference) {
        self.0.reference(Reference { stage: Stage::Second, ..reference });
    }
}

/// Translates a guest-physical address.
pub(crate) fn walk_second_stage<R: TableReader>(
    npt: &Paging,
    address: GuestPhys,
    kind: AccessKind,
    tables: &mut R,
) -> Result<Translation, WalkFault<R::Fault>> {
    let access = Access { kind, user: true, ac: false };
    let reader = &mut SecondStageTables(tables);
    // A legacy host's tables translate 32 bits.
    if matches!(npt.format().mode, Mode::Bits32 | Mode::Pae) && address.0 >> 32 != 0 {
        let bits = if kind == AccessKind::Write { error_code::W } else { 0 } | error_code::U;
        return Err(WalkFault::Page(PageFault { error_code: bits, level: 0 }));
    }
    if npt.format().mode == Mode::Pae {
        let mut npt = *npt;
        load_pdpte(&mut npt, address.0, access, reader)?;
        return paging::walk(&npt, GuestVirt(address.0), access, reader);
    }
    paging::walk(npt, GuestVirt(address.0), access, reader)
}

/// Translations of guest-physical pages, by the guest's tag.
pub(crate) type NptCache = GuestPhysicalCache<GuestTag, Translation>;

/// As [`walk_second_stage`], with what is kept of a guest.
fn walk_cached<R: TableReader>(
    npt: &Paging,
    cache: Option<(&mut NptCache, GuestTag)>,
    address: GuestPhys,
    kind: AccessKind,
    tables: &mut R,
) -> Result<Translation, WalkFault<R::Fault>> {
    let Some((cache, tag)) = cache else { return walk_second_stage(npt, address, kind, tables) };
    let page = address.page().0;
    let serves = |known: &&Translation| {
        npt.denies(known, Access { kind, user: true, ac: false }).is_none()
            && (known.dirty || kind != AccessKind::Write)
    };
    if let Some(known) = cache.get(tag, page).filter(serves) {
        return Ok(Translation { gpa: GuestPhys(known.gpa.0 | address.page_offset()), ..*known });
    }
    let walked = walk_second_stage(npt, address, kind, tables);
    match &walked {
        Ok(found) => cache.insert(tag, page, Translation { gpa: found.gpa.page(), ..*found }),
        Err(_) => cache.remove(tag, page),
    }
    walked
}

/// With nested paging, PDPTEs are part of the walk (APM 2 15.25.10): loads the one that `address` needs.
fn load_pdpte<R: TableReader>(
    paging: &mut Paging,
    address: u64,
    access: Access,
    tables: &mut R,
) -> Result<(), WalkFault<R::Fault>> {
    let index = (address >> 30) as usize & 3;
    let at = GuestPhys((paging.cr3 & 0xffff_ffe0) + 8 * index as u64);
    let entry = tables.read(at, EntryWidth::Eight).map_err(WalkFault::Table)?;
    tables.reference(Reference { stage: Stage::First, level: 3, address: at, entry });
    if pdpte_is_malformed(entry, paging.format().max_phys_bits) {
        let access_bits = match access.kind {
            AccessKind::Read => 0,
            AccessKind::Write => error_code::W,
            AccessKind::Fetch if paging.format().nxe || paging.smep => error_code::I,
            AccessKind::Fetch => 0,
        } | if access.user { error_code::U } else { 0 };
        let error_code = error_code::P | error_code::RSVD | access_bits;
        return Err(WalkFault::Page(PageFault { error_code, level: 3 }));
    }
    paging.pdptes[index] = entry;
    Ok(())
}

/// The guest's tables behind nested tables.
struct GuestTables<'a, R> {
    npt: &'a Paging,
    tables: &'a mut R,
    cache: Option<(&'a mut NptCache, GuestTag)>,
    /// The entry read last, translated.
    last: Option<(GuestPhys, GuestPhys)>,
}

impl<R: TableReader<Fault = core::convert::Infallible>> GuestTables<'_, R> {
    fn translate(&mut self, address: GuestPhys) -> Result<GuestPhys, NestedFault> {
        if let Some((last, translation)) = self.last
            && last == address
        {
            return Ok(translation);
        }
        let cache = self.cache.as_mut().map(|(cache, tag)| (&mut **cache, *tag));
        match walk_cached(self.npt, cache, address, AccessKind::Write, self.tables) {
            Ok(page) => {
                self.last = Some((address, page.gpa));
                Ok(page.gpa)
            }
            Err(WalkFault::Page(fault)) => Err(NestedFault { address, error_code: fault.error_code }),
            Err(WalkFault::Table(never)) => match never {},
        }
    }
}

impl<R: TableReader<Fault = core::convert::Infallible>> TableReader for GuestTables<'_, R> {
    type Fault = NestedFault;
    fn read(&mut self, address: GuestPhys, width: EntryWidth) -> Result<u64, NestedFault> {
        self.last = None;
        let at = self.translate(address)?;
        let Ok(entry) = self.tables.read(at, width);
        Ok(entry)
    }
    fn compare_exchange(
        &mut self,
        address: GuestPhys,
        width: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<u64, NestedFault> {
        let at = self.translate(address)?;
        let Ok(found) = self.tables.compare_exchange(at, width, old, new);
        Ok(found)
    }
    fn reference(&mut self, reference: Reference) {
        self.tables.reference(reference);
    }
}

/// Why an address has no translation in a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GuestFault {
    /// The guest's own page fault.
    Page(PageFault),
    /// An exit; true if a table of the guest's could not be reached.
    Nested(NestedFault, bool),
}

/// Translates a linear address by the guest's own tables. `paging` is the guest's; `None` while it does not page.
fn walk_first_stage<R: TableReader<Fault = core::convert::Infallible>>(
    paging: Option<&Paging>,
    npt: &Paging,
    cache: Option<(&mut NptCache, GuestTag)>,
    (linear, access): (u64, Access),
    tables: &mut R,
) -> Result<Translation, GuestFault> {
    let Some(paging) = paging else { return Ok(unpaged(linear)) };
    let mut tables = GuestTables { npt, tables, cache, last: None };
    let walked = if paging.format().mode == Mode::Pae {
        let mut paging = *paging;
        load_pdpte(&mut paging, linear, access, &mut tables)
            .and_then(|()| paging::walk(&paging, GuestVirt(linear), access, &mut tables))
    } else {
        paging::walk(paging, GuestVirt(linear), access, &mut tables)
    };
    walked.map_err(|fault| match fault {
        WalkFault::Page(fault) => GuestFault::Page(fault),
        WalkFault::Table(fault) => GuestFault::Nested(fault, true),
    })
}

/// What the second stage makes of the first one's translation: with the physical address, what it allows, and the guest-physical
/// address.
fn add_second_stage<R: TableReader<Fault = core::convert::Infallible>>(
    first: Translation,
    npt: &Paging,
    cache: Option<(&mut NptCache, GuestTag)>,
    kind: AccessKind,
    tables: &mut R,
) -> Result<(Translation, Rights, GuestPhys), GuestFault> {
    match walk_cached(npt, cache, first.gpa, kind, tables) {
        Ok(second) => {
            let dirty = first.dirty && second.dirty;
            let rights = Rights { read: true, write: second.writable };
            Ok((Translation { gpa: second.gpa, dirty, ..first }, rights, first.gpa))
        }
        Err(WalkFault::Page(fault)) => {
            let fault = NestedFault { address: first.gpa, error_code: fault.error_code };
            Err(GuestFault::Nested(fault, false))
        }
        Err(WalkFault::Table(never)) => match never {},
    }
}

/// Both stages, with nothing kept.
fn walk_both(
    paging: Option<&Paging>,
    npt: &Paging,
    (linear, access): (u64, Access),
    tables: &mut Inspector<'_>,
) -> Result<GuestPhys, GuestFault> {
    let first = walk_first_stage(paging, npt, None, (linear, access), tables)?;
    add_second_stage(first, npt, None, access.kind, tables).map(|(page, ..)| page.gpa)
}

impl Cpu {
    /// Translates an address of the running guest.
    pub(crate) fn svm_walk(
        &mut self,
        linear: u64,
        kind: Kind,
        who: Privilege,
    ) -> Result<(Translation, Rights), Stop> {
        let Some(SecondStage::Npt(npt)) = self.spaces.second_stage else {
            return Err(self.page_fault(linear, 0));
        };
        let access = self.access(kind, who);
        let paging = self.spaces.paging;
        let known = paging.as_ref().and_then(|paging| self.known_page(paging, linear, access));
        self.counters.walks += u64::from(known.is_none());
        let tables = &mut PhysicalTables(&self.memory);
        let mut cache = self.spaces.guest.map(|tag| (&mut self.spaces.nested, tag));
        let first = match known {
            Some(page) => Ok(page),
            None => {
                let cache = cache.as_mut().map(|(cache, tag)| (&mut **cache, *tag));
                walk_first_stage(paging.as_ref(), &npt, cache, (linear, access), tables)
            }
        };
        let found = first.as_ref().ok().copied().filter(|_| paging.is_some() && known.is_none());
        let both = first.and_then(|first| add_second_stage(first, &npt, cache, access.kind, tables));
        if let Some(page) = found {
            self.keep_page(linear, &page);
        }
        match both {
            Ok((page, rights, address)) => {
                let gpa = self.avic_redirect(address).unwrap_or(page.gpa);
                Ok((Translation { gpa, ..page }, rights))
            }
            Err(GuestFault::Page(fault)) => Err(self.page_fault(linear, fault.error_code)),
            Err(GuestFault::Nested(fault, in_tables)) => {
                let place = if in_tables { TABLES } else { FINAL };
                self.virt.svm.exit = Exit {
                    code: ExitCode::NPF.0,
                    info1: u64::from(fault.error_code) | place,
                    info2: fault.address.0,
                    next_rip: 0,
                    bytes: kind != Kind::Fetch,
                };
                Err(Stop::Exit)
            }
        }
    }

    /// Translates a guest-physical address for VMLOAD and VMSAVE.
    pub(super) fn svm_nested_address(&mut self, at: GuestPhys, kind: AccessKind) -> Result<GuestPhys, Stop> {
        let Some(SecondStage::Npt(npt)) = &self.spaces.second_stage else { return Ok(at) };
        match walk_second_stage(npt, at, kind, &mut PhysicalTables(&self.memory)) {
            Ok(page) => Ok(page.gpa),
            Err(WalkFault::Page(fault)) => {
                let info1 = u64::from(fault.error_code) | FINAL;
                Err(self.svm_note(ExitCode::NPF, info1, at.0))
            }
            Err(WalkFault::Table(never)) => match never {},
        }
    }

    /// Where the running guest would read, without any side effect.
    pub(crate) fn svm_debug_translate(&self, linear: u64, access: Access) -> Option<GuestPhys> {
        let Some(SecondStage::Npt(npt)) = &self.spaces.second_stage else { return None };
        let paging = self.spaces.paging.map(|mut paging| {
            (paging.pkru, paging.pkrs) = (0, 0);
            paging
        });
        let tables = &mut Inspector::new(&self.memory);
        walk_both(paging.as_ref(), npt, (linear, access), tables).ok()
    }

    /// What a read of a guest-physical address would meet in the nested tables.
    pub(crate) fn svm_inspect_nested(&self, npt: &Paging, address: GuestPhys) -> NestedWalk {
        let mut inspector = Inspector::new(&self.memory);
        let result = match walk_second_stage(npt, address, AccessKind::Read, &mut inspector) {
            Ok(page) => Ok(page.gpa),
            Err(WalkFault::Page(fault)) => {
                Err(format!("nested page fault, error code {:#x}", fault.error_code))
            }
            Err(WalkFault::Table(never)) => match never {},
        };
        NestedWalk { references: inspector.references, result }
    }

    /// What a read of a linear address would meet in both stages.
    pub(crate) fn svm_inspect_both(&self, npt: &Paging, linear: u64) -> NestedWalk {
        let paging = self.spaces.paging.map(|mut paging| {
            (paging.pkru, paging.pkrs) = (0, 0);
            paging
        });
        let access = Access { kind: AccessKind::Read, user: false, ac: true };
        let mut inspector = Inspector::new(&self.memory);
        let result = match walk_both(paging.as_ref(), npt, (linear, access), &mut inspector) {
            Ok(address) => Ok(address),
            Err(GuestFault::Page(fault)) => {
                Err(format!("page fault of the guest, error code {:#x}", fault.error_code))
            }
            Err(GuestFault::Nested(fault, in_tables)) => Err(format!(
                "{}nested page fault at {}, error code {:#x}",
                if in_tables { "in the guest's tables: " } else { "" },
                fault.address,
                fault.error_code
            )),
        };
        NestedWalk { references: inspector.references, result }
    }

    /// A guest's PDPTEs are read by walks.
    pub(crate) fn svm_load_pdptes(&mut self, _: u64) -> Result<(), Stop> {
        Ok(())
    }
}
