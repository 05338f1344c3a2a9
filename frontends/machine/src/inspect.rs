//! Looking at memory and translations without changing anything.

use crate::{Machine, MachineError};
use core::convert::Infallible;
use ringworld_core::{GuestPhys, GuestVirt, PAGE_SIZE};
use ringworld_mmu::x86::paging::{Access, AccessKind, PageFault, Translation, WalkFault, walk};
use ringworld_mmu::{GuestMemory, Inspector, Reference};
use ringworld_x86::Cpu;
use ringworld_x86::insn::seg;
use ringworld_x86::snapshot::CpuState;

/// A page walk, every level of it.
#[derive(Clone, Debug)]
pub struct PageWalk {
    /// The entries read, from the root down.
    pub steps: Vec<Reference>,
    /// The page, or why there is none.
    pub result: Result<Translation, PageFault>,
}

impl Machine {
    /// Walks a CPU's page tables as a supervisor's read would, with protection keys and SMAP out of the way; `None` while
    /// paging is off.
    pub fn walk(&self, cpu: &Cpu, linear: u64) -> Option<PageWalk> {
        let mut paging = *cpu.paging()?;
        (paging.pkru, paging.pkrs) = (0, 0);
        let access = Access { kind: AccessKind::Read, user: false, ac: true };
        let mut inspector = Inspector::new(&self.memory);
        let result = match walk(&paging, GuestVirt(linear), access, &mut inspector) {
            Ok(page) => Ok(page),
            Err(WalkFault::Page(fault)) => Err(fault),
            Err(WalkFault::<Infallible>::Table(never)) => match never {},
        };
        Some(PageWalk { steps: inspector.references, result })
    }

    /// Puts a CPU into a state, for a debugger.
    ///
    /// # Errors
    /// As [`Machine::changed_from_outside`].
    pub fn set_cpu_state(&mut self, cpu: usize, state: &CpuState) -> Result<(), MachineError> {
        if let Some(core) = self.cores.get_mut(cpu) {
            core.cpu.set_state(state);
        }
        self.changed_from_outside()
    }

    /// Writes to memory, for a debugger: at a linear address of a CPU, or at a physical one. False (and nothing is written)
    /// unless there is memory for all of it.
    ///
    /// # Errors
    /// As [`Machine::changed_from_outside`].
    pub fn poke(&mut self, cpu: Option<usize>, address: u64, bytes: &[u8]) -> Result<bool, MachineError> {
        let mut parts = Vec::new();
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let physical = match cpu {
                None => Some(GuestPhys(at)),
                Some(cpu) => self.cpu(cpu).and_then(|cpu| cpu.debug_translate(at)),
            };
            let Some(physical) = physical.filter(|at| self.memory.page(*at).is_some()) else {
                return Ok(false);
            };
            let len = (bytes.len() - done).min((PAGE_SIZE - physical.page_offset()) as usize);
            parts.push((physical, done..done + len));
            done += len;
        }
        for (physical, range) in parts {
            // There is memory: it was looked up above.
            let _ = self.memory.write(physical, &bytes[range]);
        }
        self.changed_from_outside()?;
        Ok(true)
    }

    /// Reads memory at a guest-physical address, up to the end of its page; nothing where no memory is.
    pub fn read_physical(&self, address: GuestPhys, len: usize) -> Vec<u8> {
        read_page(&self.memory, address, len)
    }
}

fn read_page(memory: &GuestMemory, address: GuestPhys, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.min((PAGE_SIZE - address.page_offset()) as usize)];
    match memory.read(address, &mut bytes) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

/// Reads memory at a CPU's linear address: as many bytes as are there.
pub fn read_linear(cpu: &Cpu, linear: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let at = linear.wrapping_add(bytes.len() as u64);
        let Some(physical) = cpu.debug_translate(at) else { break };
        let part = read_page(&cpu.memory, physical, len - bytes.len());
        if part.is_empty() {
            break;
        }
        bytes.extend(part);
    }
    bytes
}

/// The linear address of the CPU's next instruction.
pub fn linear_rip(cpu: &Cpu) -> u64 {
    if cpu.long64() {
        cpu.rip()
    } else {
        cpu.seg[usize::from(seg::CS)].base.wrapping_add(cpu.rip()) & 0xffff_ffff
    }
}
