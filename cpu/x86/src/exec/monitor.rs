//! MONITOR and MWAIT (SDM 2B; SDM 3A 10.10.4).

use crate::mem::{Kind, Privilege};
use crate::msr::misc_enable;
use crate::paging::Target;
use crate::row::Rows;
use crate::state::gpr::{RAX, RCX};
use crate::state::{Activity, Monitor};
use crate::virt::Intercept;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;
use ringworld_core::GuestPhys;
use zerocopy::IntoBytes;

/// Bytes of a monitored line, as CPUID leaf 5 says.
const LINE: u64 = 64;

impl Cpu {
    /// What a line holds now; `None` if it is no memory (then stores to it cannot be seen).
    fn line(&self, address: GuestPhys) -> Option<[u64; 8]> {
        let mut contents = [0; 8];
        self.memory.read(address, contents.as_mut_bytes()).ok()?;
        Some(contents)
    }

    /// Whether the armed line has been written (or none is armed). Other processors and devices write memory without
    /// telling, so the contents are compared: a store that changes nothing wakes nobody.
    pub(crate) fn monitor_triggered(&self) -> bool {
        self.monitor.as_ref().is_none_or(|m| self.line(m.address) != Some(m.contents))
    }

    /// #UD outside of CPL 0, and where software has disabled the instructions.
    fn check_monitor(&mut self) -> Result<(), Stop> {
        let disabled = !self.model.is_amd() && self.msrs.misc_enable & misc_enable::MONITOR == 0;
        if self.cpl != 0 || disabled { Err(self.ud()) } else { Ok(()) }
    }
}

fn monitor(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.check_monitor()?;
    cpu.intercept(Intercept::Monitor, i)?;
    // No extensions are defined.
    if cpu.regs[RCX] as u32 != 0 {
        return Err(cpu.gp0());
    }
    let offset = cpu.regs[RAX] & i.address_mask();
    let linear = cpu.check_segment(i.segment(), offset, 1, Kind::Read)?;
    let target = cpu.translate(linear, Kind::Read, Privilege::Current)?;
    let address = match target {
        Target::Host { index, .. } => match cpu.memory.address_of(index) {
            Some(page) => GuestPhys((page.0 | linear & 0xfff) & !(LINE - 1)),
            None => return Ok(()),
        },
        Target::Device(_) => {
            cpu.monitor = None;
            return Ok(());
        }
    };
    cpu.monitor = cpu.line(address).map(|contents| Monitor { address, contents });
    Ok(())
}

fn mwait(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.check_monitor()?;
    cpu.intercept(Intercept::Mwait(cpu.monitor.is_some()), i)?;
    // Bit 0: interrupts end the wait even while they are masked (CPUID.5:ECX[1]).
    let extensions = cpu.regs[RCX] as u32;
    if extensions & !1 != 0 {
        return Err(cpu.gp0());
    }
    if cpu.monitor_triggered() {
        cpu.monitor = None;
    } else {
        cpu.suspend(Activity::Mwait(extensions & 1 != 0));
    }
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    for code in [Code::Monitorw, Code::Monitord, Code::Monitorq] {
        rows.add(code, monitor);
    }
    rows.add(Code::Mwait, mwait).ends_block();
}
