//! Intercept vectors and permission maps, and what EXITINFO1 and EXITINFO2 say of an intercepted access.

use super::vmcb::ControlArea;
use super::{Exit, ExitCode};
use crate::control::cr0;
use crate::fault::vector;
use crate::virt::{CrAccess, Intercept, IoAccess};
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;
use ringworld_core::GuestPhys;

const PAGE: u64 = 0x1000;

/// Whether the vectors intercept what exits with this code.
pub(super) fn intercepts(vectors: &[u32; 6], code: ExitCode) -> bool {
    vectors.get((code.0 >> 5) as usize).is_some_and(|word| word >> (code.0 & 31) & 1 != 0)
}

/// Where the permission maps in use end: MSRPM has two pages, IOPM two and a byte, for accesses that leave the last port.
pub(super) fn permission_maps_end(control: &ControlArea) -> Option<u64> {
    let end = |used: ExitCode, base: u64, size: u64| {
        intercepts(&control.intercepts, used).then(|| (base & !(PAGE - 1)).saturating_add(size))
    };
    let msr = end(ExitCode::MSR, control.msrpm_base, 2 * PAGE);
    let io = end(ExitCode::IOIO, control.iopm_base, 2 * PAGE + 1);
    msr.max(io)
}

/// The bit number of an MSR's read permission in the MSRPM (APM 2 15.11); `None` for an MSR that is always intercepted.
pub(super) fn msrpm_bit(msr: u32) -> Option<u32> {
    let range = match msr >> 13 {
        0 => 0,
        0x6_0000 => 1,
        0x6_0008 => 2,
        _ => return None,
    };
    Some(range * 0x4000 + (msr & 0x1fff) * 2)
}

/// EXITINFO1 of a port access (APM 2 15.10.2).
pub(super) fn io_info(access: &IoAccess, i: &Insn) -> u64 {
    let string = access.string.is_some();
    let repeated = i.prefixes & (crate::insn::prefix::REP | crate::insn::prefix::REPNE) != 0;
    // A16, A32 and A64 tell a string instruction's address size; the segment is that of OUTS; INS has ES.
    let address = if string { u64::from(i.address_bytes()) >> 1 } else { 0 };
    let segment = access.string.filter(|_| !access.input).map_or(0, |(segment, _)| match segment {
        crate::insn::seg::FLAT => u64::from(crate::insn::seg::DS),
        crate::insn::seg::FLAT_SS => u64::from(crate::insn::seg::SS),
        n => u64::from(n),
    });
    u64::from(access.input)
        | u64::from(string) << 2
        | u64::from(string && repeated) << 3
        | u64::from(access.size) << 4
        | address << 7
        | segment << 10
        | u64::from(access.port) << 16
}

impl Cpu {
    /// Whether the running guest is to exit with this code.
    pub(super) fn svm_intercepts(&self, code: ExitCode) -> bool {
        intercepts(&self.virt.svm.guest.control.intercepts, code)
    }

    /// Notes an exit.
    pub(super) fn svm_note(&mut self, code: ExitCode, info1: u64, info2: u64) -> Stop {
        self.virt.svm.exit = Exit { code: code.0, info1, info2, next_rip: 0, bytes: false };
        Stop::Exit
    }

    /// Notes the exit of an instruction: RIP is past it.
    pub(super) fn svm_note_instruction(&mut self, code: ExitCode, info1: u64, info2: u64) -> Stop {
        self.virt.svm.exit = Exit { code: code.0, info1, info2, next_rip: self.rip(), bytes: false };
        Stop::Exit
    }

    /// An instruction's exit, if it is intercepted.
    fn svm_unless(&mut self, code: ExitCode, info1: u64) -> Result<(), Stop> {
        if self.svm_intercepts(code) { Err(self.svm_note_instruction(code, info1, 0)) } else { Ok(()) }
    }

    pub(crate) fn svm_intercept(&mut self, what: Intercept, i: &Insn) -> Result<(), Stop> {
        let code = match what {
            Intercept::Cpuid => ExitCode::CPUID,
            Intercept::Hlt => ExitCode::HLT,
            Intercept::Invd => ExitCode::INVD,
            Intercept::Wbinvd => ExitCode::WBINVD,
            Intercept::Invlpg(linear) => return self.svm_unless(ExitCode::INVLPG, linear),
            Intercept::Invpcid => ExitCode::INVPCID,
            Intercept::Rdtsc => ExitCode::RDTSC,
            Intercept::Rdtscp => ExitCode::RDTSCP,
            Intercept::Rdpmc => ExitCode::RDPMC,
            Intercept::Rdpru => ExitCode::RDPRU,
            Intercept::Monitor => ExitCode::MONITOR,
            Intercept::Mwait(true) if !self.svm_intercepts(ExitCode::MWAIT) => ExitCode::MWAIT_CONDITIONAL,
            Intercept::Mwait(_) => ExitCode::MWAIT,
            Intercept::Pause => return self.svm_pause(),
            Intercept::Xsetbv => ExitCode::XSETBV,
            Intercept::Sgdt => ExitCode::GDTR_READ,
            Intercept::Sidt => ExitCode::IDTR_READ,
            Intercept::Lgdt => ExitCode::GDTR_WRITE,
            Intercept::Lidt => ExitCode::IDTR_WRITE,
            Intercept::Sldt => ExitCode::LDTR_READ,
            Intercept::Str => ExitCode::TR_READ,
            Intercept::Lldt => ExitCode::LDTR_WRITE,
            Intercept::Ltr => ExitCode::TR_WRITE,
            Intercept::Rsm => ExitCode::RSM,
            Intercept::Pushf => ExitCode::PUSHF,
            Intercept::Popf => ExitCode::POPF,
            Intercept::Iret => ExitCode::IRET,
            Intercept::Int(vector) => return self.svm_unless(ExitCode::SWINT, vector.into()),
            Intercept::SoftwareException(_) => return self.svm_software_exception(i),
            Intercept::Vmmcall => ExitCode::VMMCALL,
            Intercept::Vmrun => ExitCode::VMRUN,
            Intercept::Vmload => ExitCode::VMLOAD,
            Intercept::Vmsave => ExitCode::VMSAVE,
            Intercept::Stgi => ExitCode::STGI,
            Intercept::Clgi => ExitCode::CLGI,
            Intercept::Skinit => ExitCode::SKINIT,
            Intercept::Invlpga => ExitCode::INVLPGA,
            _ => return Ok(()),
        };
        self.svm_unless(code, 0)
    }

    /// INT3, INTO, INT1 and BOUND exit as instructions: nRIP is known, RIP is at the instruction (APM 2 15.7.1).
    fn svm_software_exception(&mut self, i: &Insn) -> Result<(), Stop> {
        match i.code() {
            Code::Int3 => self.svm_unless(ExitCode::exception(vector::BP), 0),
            Code::Bound_r16_m1616 | Code::Bound_r32_m3232 => {
                self.svm_unless(ExitCode::exception(vector::BR), 0)
            }
            Code::Into => self.svm_unless(ExitCode::exception(vector::OF), 0),
            Code::Int1 => {
                self.svm_unless(ExitCode::ICEBP, 0)?;
                self.svm_unless(ExitCode::exception(vector::DB), 0)
            }
            _ => Ok(()),
        }
    }

    /// PAUSE: exits when the filter's counter is used up (APM 2 15.14.4). The counter starts again if the last PAUSE is
    /// longer ago than the threshold.
    fn svm_pause(&mut self) -> Result<(), Stop> {
        if !self.svm_intercepts(ExitCode::PAUSE) {
            return Ok(());
        }
        let now = self.tsc();
        let guest = &mut self.virt.svm.guest;
        let since = now.wrapping_sub(guest.last_pause);
        guest.last_pause = now;
        let threshold = u64::from(guest.control.pause_filter_threshold);
        if threshold != 0 && since > threshold {
            guest.pauses = guest.control.pause_filter_count;
        }
        if guest.pauses > 1 {
            guest.pauses -= 1;
            return Ok(());
        }
        Err(self.svm_note_instruction(ExitCode::PAUSE, 0, 0))
    }

    pub(crate) fn svm_cr_read(&mut self, n: u8, value: u64, how: CrAccess, _: &Insn) -> Result<u64, Stop> {
        self.svm_unless(ExitCode::CR0_READ.plus(n), cr_info(how))?;
        if n == 8 && self.svm_virtual_tpr() {
            return Ok(self.virt.svm.guest.control.v_intr & 0xf);
        }
        Ok(value)
    }

    pub(crate) fn svm_cr_write(
        &mut self,
        n: u8,
        value: u64,
        how: CrAccess,
        _: &Insn,
    ) -> Result<Option<u64>, Stop> {
        self.svm_unless(ExitCode::CR0_WRITE.plus(n), cr_info(how))?;
        // Selective: writes by MOV that change another bit than TS and MP, and all by LMSW (APM 2 15.8.1).
        let selective = match how {
            CrAccess::Mov(_) => (value ^ self.cr0) & !(cr0::TS | cr0::MP) != 0,
            CrAccess::Lmsw(_) => true,
            CrAccess::Clts | CrAccess::Smsw => false,
        };
        if n == 0 && selective {
            self.svm_unless(ExitCode::CR0_SEL_WRITE, cr_info(how))?;
        }
        if n == 8 && self.svm_virtual_tpr() {
            self.svm_set_virtual_tpr(value as u8);
            return Ok(None);
        }
        Ok(Some(value))
    }

    pub(crate) fn svm_dr(&mut self, n: u8, write: bool, register: u8) -> Result<(), Stop> {
        let first = if write { ExitCode::DR0_WRITE } else { ExitCode::DR0_READ };
        self.svm_unless(first.plus(n), u64::from(register & 0xf))
    }

    pub(crate) fn svm_io(&mut self, access: IoAccess, i: &Insn) -> Result<(), Stop> {
        if !self.svm_intercepts(ExitCode::IOIO) {
            return Ok(());
        }
        // One bit a port, of the map's page and the one after it.
        let base = self.virt.svm.guest.control.iopm_base & !(PAGE - 1);
        let at = GuestPhys(base.wrapping_add(u64::from(access.port) / 8));
        let mut bytes = [0xff; 2];
        let _ = self.memory.read(at, &mut bytes);
        let wanted = ((1_u16 << access.size) - 1) << (access.port & 7);
        if u16::from_le_bytes(bytes) & wanted == 0 {
            return Ok(());
        }
        let next = self.rip();
        Err(self.svm_note_instruction(ExitCode::IOIO, io_info(&access, i), next))
    }

    /// Whether the guest's access to an MSR exits.
    fn svm_intercepts_msr(&self, index: u32, write: bool) -> bool {
        if !self.svm_intercepts(ExitCode::MSR) {
            return false;
        }
        let Some(bit) = msrpm_bit(index) else { return true };
        let bit = bit + u32::from(write);
        let base = self.virt.svm.guest.control.msrpm_base & !(PAGE - 1);
        let mut byte = [0xff];
        let _ = self.memory.read(GuestPhys(base.wrapping_add(u64::from(bit / 8))), &mut byte);
        byte[0] >> (bit & 7) & 1 != 0
    }

    pub(crate) fn svm_rdmsr(&mut self, index: u32) -> Result<Option<u64>, Stop> {
        if self.svm_intercepts_msr(index, false) {
            return Err(self.svm_note_instruction(ExitCode::MSR, 0, 0));
        }
        Ok(None)
    }

    pub(crate) fn svm_wrmsr(&mut self, index: u32, _: u64) -> Result<bool, Stop> {
        if self.svm_intercepts_msr(index, true) {
            return Err(self.svm_note_instruction(ExitCode::MSR, 1, 0));
        }
        Ok(false)
    }
}

/// EXITINFO1 of an access to a control register (APM 2 15.8.1): the general register of a MOV.
fn cr_info(how: CrAccess) -> u64 {
    match how {
        CrAccess::Mov(register) => 1 << 63 | u64::from(register & 0xf),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn msrs_have_their_bits() {
        // APM 2 15.11: three ranges of 8,192 MSRs, 2 KiB each.
        for (msr, bit) in [
            (0, Some(0)),
            (0x1fff, Some(0x3ffe)),
            (0x2000, None),
            (0xbfff_ffff, None),
            (0xc000_0000, Some(0x4000)),
            (0xc000_0080, Some(0x4100)),
            (0xc000_2000, None),
            (0xc001_0000, Some(0x8000)),
            (0xc001_1fff, Some(0xbffe)),
            (0xc001_2000, None),
            (u32::MAX, None),
        ] {
            assert_eq!(msrpm_bit(msr), bit, "{msr:#x}");
        }
    }

    #[test]
    fn vectors_are_indexed_by_exit_code() {
        let mut vectors = [0; 6];
        vectors[4] = 1;
        assert!(intercepts(&vectors, ExitCode::VMRUN) && !intercepts(&vectors, ExitCode::VMMCALL));
        assert!(!intercepts(&[u32::MAX; 6], ExitCode::NPF) && !intercepts(&[u32::MAX; 6], ExitCode::INVALID));
    }

    #[test]
    fn unused_maps_have_no_end() {
        let mut control = ControlArea::new_zeroed();
        control.iopm_base = u64::MAX;
        assert_eq!(permission_maps_end(&control), None);
        control.intercepts[3] = 1 << 28;
        control.msrpm_base = 0x1fff;
        assert_eq!(permission_maps_end(&control), Some(0x3000));
    }
}
