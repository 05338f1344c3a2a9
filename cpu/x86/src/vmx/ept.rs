//! A guest's memory: extended page tables, page-modification logging, tags (SDM 3C chapter 29).

use super::controls::{Group, bits::*};
use super::exit::Exit;
use super::reason;
use super::vmcs::Field;
use crate::deliver::Origin;
use crate::mem::{Kind, Privilege};
use crate::nested::{GuestTag, Rights, SecondStage};
use crate::paging::unpaged;
use crate::{Cpu, Stop};
use ringworld_core::{GuestPhys, GuestVirt};
use ringworld_mmu::x86::ept::{self, Ept, EptAccess, EptFault, NestedTables};
use ringworld_mmu::x86::paging::{self, AccessKind, PdpteFault, Translation, WalkFault, load_pdptes};
use ringworld_mmu::{EntryWidth, Reference, TableReader};
use ringworld_mmu::{GuestMemory, PhysicalTables};

/// The guest-linear address is valid; the access was to its translation, not to a paging structure.
const LINEAR_VALID: u64 = 1 << 7;
const FINAL_ACCESS: u64 = 1 << 8;

/// The page-modification log was full.
#[derive(Debug)]
struct LogFull;

/// Tables in physical memory, with the page-modification log.
struct LoggedTables<'a> {
    memory: &'a GuestMemory,
    /// Log address and index.
    log: Option<(u64, &'a mut u16)>,
}

impl TableReader for LoggedTables<'_> {
    type Fault = LogFull;

    fn read(&mut self, address: GuestPhys, width: EntryWidth) -> Result<u64, LogFull> {
        Ok(PhysicalTables(self.memory).read(address, width).unwrap_or(0))
    }

    fn compare_exchange(
        &mut self,
        address: GuestPhys,
        width: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<u64, LogFull> {
        Ok(PhysicalTables(self.memory).compare_exchange(address, width, old, new).unwrap_or(0))
    }

    /// SDM 3C 29.3.6: before an accessed or dirty flag is set, there must be room; a new dirty flag is logged.
    fn flags_change(&mut self, address: GuestPhys, dirty: bool) -> Result<(), LogFull> {
        let Some((log, index)) = &mut self.log else { return Ok(()) };
        if **index > 511 {
            return Err(LogFull);
        }
        if dirty {
            let entry = address.0 & !0xfff;
            let _ = self.memory.write(GuestPhys(*log + 8 * u64::from(**index)), &entry.to_le_bytes());
            **index = index.wrapping_sub(1);
        }
        Ok(())
    }

    fn reference(&mut self, _: Reference) {}
}

impl Cpu {
    /// Selects the present VMCS's tag and second stage.
    pub(super) fn select_ept(&mut self) {
        let vmx = &self.virt.vmx;
        let id = if vmx.secondary(VPID) { vmx.vmcs.get(Field::VirtualProcessorId) as u16 } else { 0 };
        let ept = vmx.secondary(EPT).then(|| self.ept_for(vmx.vmcs.get(Field::EptPointer)));
        let mode = vmx.secondary(MODE_BASED_EXECUTE);
        // Bit 11 of an EPT pointer is reserved: here it keeps translations with and without mode-based control apart.
        let root = ept.map_or(0, |ept| ept.eptp | u64::from(mode) << 11);
        self.set_guest_space(Some((GuestTag { id, root }, ept.map(SecondStage::Ept))));
    }

    /// The walker's parameters for an EPT pointer under the present VMCS.
    pub(super) fn ept_for(&self, eptp: u64) -> Ept {
        let capabilities = self.model.vmx();
        Ept {
            eptp,
            execute_only: capabilities.has(Group::EptVpid, EPT_EXECUTE_ONLY),
            mode_based_execute: self.virt.vmx.secondary(MODE_BASED_EXECUTE),
            pages_1g: capabilities.has(Group::EptVpid, EPT_PAGES_1G),
            max_phys_bits: self.model.physical_bits(),
        }
    }

    /// Translates through both stages.
    pub(crate) fn vmx_walk(
        &mut self,
        linear: u64,
        kind: Kind,
        who: Privilege,
    ) -> Result<(Translation, Rights), Stop> {
        let Some(SecondStage::Ept(ept)) = self.spaces.second_stage else {
            return Err(self.page_fault(linear, 0));
        };
        let access = self.access(kind, who);
        let paging = self.spaces.paging;
        let root = self.spaces.guest.map_or(0, |tag| tag.root);
        let known = paging.as_ref().and_then(|paging| self.known_page(paging, linear, access));
        self.counters.walks += u64::from(known.is_none());
        let log = self.page_log();
        let mut index = self.virt.vmx.vmcs.get(Field::PmlIndex) as u16;
        let mut tables = LoggedTables { memory: &self.memory, log: log.map(|log| (log, &mut index)) };
        let cache = &mut self.spaces.extended;
        let first = match (&paging, known) {
            (None, _) => Ok(unpaged(linear)),
            (_, Some(page)) => Ok(page),
            (Some(paging), None) => {
                let mut tables = NestedTables::cached(&ept, &mut tables, (cache, root));
                paging::walk(paging, GuestVirt(linear), access, &mut tables)
            }
        };
        let found = first.as_ref().ok().copied().filter(|_| paging.is_some());
        // Only a page of the guest's own can be a user-mode address.
        let user = match (&paging, &first) {
            (Some(_), Ok(page)) => page.user,
            (None, _) => access.user,
            _ => false,
        };
        let ept_access = EptAccess {
            read: access.kind == AccessKind::Read,
            write: access.kind == AccessKind::Write,
            fetch: access.kind == AccessKind::Fetch,
            user,
        };
        let both = match first {
            Ok(page) => {
                // A log wants to know of a dirty flag that software has cleared, even if it has not flushed.
                let second = if log.is_some() && ept_access.write {
                    ept::walk(&ept, page.gpa, ept_access, &mut tables)
                } else {
                    ept::walk_cached(&ept, (cache, root), page.gpa, ept_access, &mut tables)
                };
                match second {
                    Ok(second) => Ok((page, second)),
                    Err(fault) => Err(Ok((fault, FINAL_ACCESS, page.gpa))),
                }
            }
            Err(WalkFault::Page(fault)) => Err(Err(fault.error_code)),
            Err(WalkFault::Table(fault)) => Err(Ok((fault, 0, GuestPhys(0)))),
        };
        if let (Some(page), None) = (found, known) {
            self.keep_page(linear, &page);
        }
        if log.is_some() {
            self.virt.vmx.vmcs.set(Field::PmlIndex, index.into());
        }
        match both {
            Ok((page, second)) => {
                let combined = Translation {
                    gpa: second.address,
                    // What INVLPG flushes is the guest's page.
                    dirty: page.dirty && second.dirty,
                    ..page
                };
                let rights =
                    Rights { read: second.rights & ept::READ != 0, write: second.rights & ept::WRITE != 0 };
                Ok((combined, rights))
            }
            Err(Err(error_code)) => Err(self.page_fault(linear, error_code)),
            Err(Ok((fault, last, address))) => {
                Err(self.ept_exit(fault, Some(linear), LINEAR_VALID | last, address))
            }
        }
    }

    /// The log's address, while page-modification logging is on.
    fn page_log(&self) -> Option<u64> {
        let vmx = &self.virt.vmx;
        vmx.secondary(PML).then(|| vmx.vmcs.get(Field::PmlAddress))
    }

    /// The exit for a second-stage fault (SDM 3C table 28-7).
    fn ept_exit(
        &mut self,
        fault: EptFault<LogFull>,
        linear: Option<u64>,
        bits: u64,
        last: GuestPhys,
    ) -> Stop {
        // RF is saved set, unless the access belongs to the delivery of an event that would not push it set (SDM 3C 28.3.3).
        let rf = self.virt.vectoring.is_none_or(|event| event.origin == Origin::Fault);
        let exit = Exit { linear, rf, ..Exit::default() };
        self.vmx_exit(match fault {
            EptFault::Violation { address, qualification, .. } => Exit {
                reason: reason::EPT_VIOLATION,
                qualification: qualification | bits,
                physical: Some(address.0),
                ..exit
            },
            EptFault::Misconfiguration { address, .. } => {
                Exit { reason: reason::EPT_MISCONFIGURATION, physical: Some(address.0), ..exit }
            }
            EptFault::Table(LogFull) => Exit { reason: reason::PML_FULL, physical: Some(last.0), ..exit },
        })
    }

    /// PDPTEs through the second stage; a violation has no linear address (SDM 3C table 28-7, note 1).
    pub(crate) fn vmx_load_pdptes(&mut self, cr3: u64) -> Result<(), Stop> {
        let Some(SecondStage::Ept(ept)) = self.spaces.second_stage else { return Err(self.gp0()) };
        let bits = self.physical_bits();
        // A load of PDPTEs is a read, also with accessed and dirty flags.
        let read = Ept { eptp: ept.eptp & !(1 << 6), ..ept };
        let mut tables = LoggedTables { memory: &self.memory, log: None };
        match load_pdptes(cr3, bits, &mut NestedTables::new(&read, &mut tables)) {
            Ok(pdptes) => {
                self.pdptes = pdptes;
                Ok(())
            }
            Err(PdpteFault::Reserved { .. }) => Err(self.gp0()),
            Err(PdpteFault::Table(fault)) => Err(self.ept_exit(fault, None, 0, GuestPhys(cr3))),
        }
    }
}
