//! What a guest's instructions and exceptions ask (SDM 3C chapter 26).

use super::controls::bits::*;
use super::exit::{Exit, interruption};
use super::exit_info::Registers;
use super::reason;
use super::vmcs::Field;
use crate::control::cr0;
use crate::deliver::Origin;
use crate::fault::{Exception, vector};
use crate::insn::{Insn, prefix, seg};
use crate::task::Switch;
use crate::virt::{CrAccess, Intercept, IoAccess};
use crate::{Cpu, Stop};
use ringworld_core::GuestPhys;

/// Operand size of an instruction in the encoding of table 28-13: 0, 1, 2 for 16, 32, 64 bits.
fn operand_size(i: &Insn) -> u32 {
    match i.code().op_code().operand_size() {
        16 => 0,
        64 => 2,
        _ => 1,
    }
}

impl Cpu {
    pub(crate) fn vmx_intercept(&mut self, what: Intercept, i: &Insn) -> Result<(), Stop> {
        let vmx = &self.virt.vmx;
        let primary = |bit| vmx.primary(bit);
        let secondary = |bit| vmx.secondary(bit);
        let plain = |on: bool, reason: u16| on.then_some((reason, 0));
        let both = Registers { first: Some(i.r[0]), second: Some(i.r[1]) };
        let exit = match what {
            Intercept::Cpuid => Some((reason::CPUID, 0)),
            Intercept::Hlt => plain(primary(HLT_EXITING), reason::HLT),
            Intercept::Invd => Some((reason::INVD, 0)),
            Intercept::Wbinvd => plain(secondary(WBINVD_EXITING), reason::WBINVD),
            Intercept::Invlpg(linear) => primary(INVLPG_EXITING).then_some((reason::INVLPG, linear)),
            Intercept::Rdtsc => plain(primary(RDTSC_EXITING), reason::RDTSC),
            Intercept::Rdpmc => plain(primary(RDPMC_EXITING), reason::RDPMC),
            Intercept::Rdtscp | Intercept::Rdpid if !secondary(RDTSCP) => return Err(self.ud()),
            Intercept::Rdtscp => plain(primary(RDTSC_EXITING), reason::RDTSCP),
            Intercept::Monitor => plain(primary(MONITOR_EXITING), reason::MONITOR),
            Intercept::Mwait(armed) => primary(MWAIT_EXITING).then_some((reason::MWAIT, armed.into())),
            Intercept::Pause => return self.vmx_pause(),
            Intercept::Xsetbv => Some((reason::XSETBV, 0)),
            Intercept::Vmcall => Some((reason::VMCALL, 0)),
            Intercept::Vmlaunch => Some((reason::VMLAUNCH, 0)),
            Intercept::Vmresume => Some((reason::VMRESUME, 0)),
            Intercept::Vmxoff => Some((reason::VMXOFF, 0)),
            Intercept::Invpcid if !secondary(INVPCID) => return Err(self.ud()),
            Intercept::Invpcid if primary(INVLPG_EXITING) => {
                let registers = Registers { first: None, second: Some(i.r[0]) };
                return Err(self.vmx_exit_with_operands(reason::INVPCID, i, registers, 0));
            }
            Intercept::Invept | Intercept::Invvpid => {
                let reason = if what == Intercept::Invept { reason::INVEPT } else { reason::INVVPID };
                let registers = Registers { first: None, second: Some(i.r[0]) };
                return Err(self.vmx_exit_with_operands(reason, i, registers, 0));
            }
            Intercept::Vmclear | Intercept::Vmptrld | Intercept::Vmptrst | Intercept::Vmxon => {
                let reason = match what {
                    Intercept::Vmclear => reason::VMCLEAR,
                    Intercept::Vmptrld => reason::VMPTRLD,
                    Intercept::Vmptrst => reason::VMPTRST,
                    _ => reason::VMXON,
                };
                return Err(self.vmx_exit_with_operands(reason, i, Registers::default(), 0));
            }
            Intercept::Vmread => {
                let first = (!i.has_memory()).then_some(i.r[0]);
                let registers = Registers { first, second: Some(i.r[1]) };
                return Err(self.vmx_exit_with_operands(reason::VMREAD, i, registers, 0));
            }
            Intercept::Vmwrite => {
                let first = (!i.has_memory()).then_some(i.r[1]);
                let registers = Registers { first, second: Some(i.r[0]) };
                return Err(self.vmx_exit_with_operands(reason::VMWRITE, i, registers, 0));
            }
            Intercept::Rdrand | Intercept::Rdseed => {
                let (bit, reason) = match what {
                    Intercept::Rdrand => (RDRAND_EXITING, reason::RDRAND),
                    _ => (RDSEED_EXITING, reason::RDSEED),
                };
                if !secondary(bit) {
                    return Ok(());
                }
                let info = u32::from(both.first.unwrap_or(0) & 15) << 3 | operand_size(i) << 11;
                return Err(self.vmx_exit(Exit {
                    reason,
                    instruction_info: Some(info),
                    instruction: true,
                    ..Exit::default()
                }));
            }
            Intercept::Xsaves(_) | Intercept::Xrstors(_) if !secondary(XSAVES) => return Err(self.ud()),
            Intercept::Xsaves(mask) | Intercept::Xrstors(mask) => {
                if mask & vmx.vmcs.get(Field::XssExitingBitmap) == 0 {
                    return Ok(());
                }
                let saves = matches!(what, Intercept::Xsaves(_));
                let reason = if saves { reason::XSAVES } else { reason::XRSTORS };
                return Err(self.vmx_exit_with_operands(reason, i, Registers::default(), 0));
            }
            Intercept::Sgdt | Intercept::Sidt | Intercept::Lgdt | Intercept::Lidt => {
                if !secondary(DESCRIPTOR_TABLE_EXITING) {
                    return Ok(());
                }
                let identity = match what {
                    Intercept::Sgdt => 0,
                    Intercept::Sidt => 1,
                    Intercept::Lgdt => 2,
                    _ => 3,
                };
                let wide = u32::from(operand_size(i) != 0);
                let more = wide << 11 | identity << 28;
                return Err(self.vmx_exit_with_operands(reason::GDTR_IDTR, i, Registers::default(), more));
            }
            Intercept::Sldt | Intercept::Str | Intercept::Lldt | Intercept::Ltr => {
                if !secondary(DESCRIPTOR_TABLE_EXITING) {
                    return Ok(());
                }
                let identity = match what {
                    Intercept::Sldt => 0,
                    Intercept::Str => 1,
                    Intercept::Lldt => 2,
                    _ => 3,
                };
                let registers = Registers { first: (!i.has_memory()).then_some(i.r[0]), second: None };
                return Err(self.vmx_exit_with_operands(reason::LDTR_TR, i, registers, identity << 28));
            }
            // A hardware exception as any other.
            Intercept::SoftwareException(vector::BR) => None,
            Intercept::SoftwareException(vector) => {
                return self.vmx_software_exception(vector);
            }
            // No dual-monitor treatment: RSM in SMM is as ever.
            Intercept::Rsm
            | Intercept::Rdpid
            | Intercept::Invpcid
            | Intercept::Rdpru
            | Intercept::Pushf
            | Intercept::Popf
            | Intercept::Iret
            | Intercept::Int(_)
            | Intercept::FarTransfer => None,
            // AMD's instructions are not decoded on processors with VMX.
            Intercept::Vmmcall
            | Intercept::Vmrun
            | Intercept::Vmload
            | Intercept::Vmsave
            | Intercept::Stgi
            | Intercept::Clgi
            | Intercept::Skinit
            | Intercept::Invlpga => None,
        };
        match exit {
            Some((reason, qualification)) => Err(self.vmx_exit_by_instruction(reason, qualification)),
            None => Ok(()),
        }
    }

    /// PAUSE: exits always, or in a tight loop at CPL 0 (SDM 3C 26.1.3).
    fn vmx_pause(&mut self) -> Result<(), Stop> {
        let vmx = &self.virt.vmx;
        if vmx.primary(PAUSE_EXITING) {
            return Err(self.vmx_exit_by_instruction(reason::PAUSE, 0));
        }
        if !vmx.secondary(PAUSE_LOOP_EXITING) || self.cpl != 0 {
            return Ok(());
        }
        let now = self.tsc();
        let (first, last) = vmx.pause_loop;
        if last == 0 || now.wrapping_sub(last) > vmx.vmcs.get(Field::PleGap) {
            self.virt.vmx.pause_loop = (now, now);
            return Ok(());
        }
        let exits = now.wrapping_sub(first) > vmx.vmcs.get(Field::PleWindow);
        self.virt.vmx.pause_loop.1 = now;
        if exits { Err(self.vmx_exit_by_instruction(reason::PAUSE, 0)) } else { Ok(()) }
    }

    /// Guest/host mask and read shadow of CR0 or CR4.
    fn vmx_shadow(&self, n: u8) -> (u64, u64) {
        let vmcs = &self.virt.vmx.vmcs;
        if n == 0 {
            (vmcs.get(Field::Cr0Mask), vmcs.get(Field::Cr0Shadow))
        } else {
            (vmcs.get(Field::Cr4Mask), vmcs.get(Field::Cr4Shadow))
        }
    }

    pub(crate) fn vmx_cr_read(&mut self, n: u8, value: u64, how: CrAccess, _: &Insn) -> Result<u64, Stop> {
        let register = if let CrAccess::Mov(register) = how { u64::from(register & 15) << 8 } else { 0 };
        let qualification = u64::from(n) | 1 << 4 | register;
        let vmx = &self.virt.vmx;
        match n {
            0 | 4 => {
                let (mask, shadow) = self.vmx_shadow(n);
                Ok(value & !mask | shadow & mask)
            }
            3 if vmx.primary(CR3_STORE_EXITING) => {
                Err(self.vmx_exit_by_instruction(reason::CR_ACCESS, qualification))
            }
            8 if vmx.primary(CR8_STORE_EXITING) => {
                Err(self.vmx_exit_by_instruction(reason::CR_ACCESS, qualification))
            }
            8 if vmx.primary(TPR_SHADOW) => Ok(u64::from(self.virtual_tpr() >> 4)),
            _ => Ok(value),
        }
    }

    pub(crate) fn vmx_cr_write(
        &mut self,
        n: u8,
        value: u64,
        how: CrAccess,
        i: &Insn,
    ) -> Result<Option<u64>, Stop> {
        match (n, how) {
            (0, CrAccess::Clts) => {
                let (mask, shadow) = self.vmx_shadow(0);
                match (mask & cr0::TS != 0, shadow & cr0::TS != 0) {
                    (true, true) => Err(self.vmx_exit_by_instruction(reason::CR_ACCESS, 2 << 4)),
                    (true, false) => Ok(None),
                    (false, _) => Ok(Some(value)),
                }
            }
            (0, CrAccess::Lmsw(source)) => {
                let (mask, shadow) = self.vmx_shadow(0);
                let source = u64::from(source);
                let sets_pe = mask & !shadow & source & cr0::PE != 0;
                let changes = mask & (shadow ^ source) & (cr0::MP | cr0::EM | cr0::TS) != 0;
                if sets_pe || changes {
                    let memory = i.has_memory();
                    let linear = memory.then(|| {
                        let fast = &self.fast[usize::from(i.segment())];
                        fast.base.wrapping_add(self.effective_address(i)) & fast.mask
                    });
                    return Err(self.vmx_exit(Exit {
                        reason: reason::CR_ACCESS,
                        qualification: 3 << 4 | u64::from(memory) << 6 | source << 16,
                        linear,
                        instruction: true,
                        ..Exit::default()
                    }));
                }
                Ok(Some(value & !mask | self.cr0 & mask))
            }
            (0 | 4, _) => {
                let (mask, shadow) = self.vmx_shadow(n);
                if mask & (value ^ shadow) != 0 {
                    return Err(self.vmx_mov_to_cr(n, how));
                }
                let real = if n == 0 { self.cr0 } else { self.cr4 };
                Ok(Some(value & !mask | real & mask))
            }
            (3, _) if self.virt.vmx.primary(CR3_LOAD_EXITING) => {
                let vmcs = &self.virt.vmx.vmcs;
                let count = vmcs.get(Field::Cr3TargetCount) as usize;
                if (0..count.min(4)).any(|n| vmcs.nth(Field::Cr3Target0, n) == value) {
                    return Ok(Some(value));
                }
                Err(self.vmx_mov_to_cr(n, how))
            }
            (8, _) if self.virt.vmx.primary(CR8_LOAD_EXITING) => Err(self.vmx_mov_to_cr(n, how)),
            (8, _) if self.virt.vmx.primary(TPR_SHADOW) => {
                if value > 15 {
                    return Err(self.gp0());
                }
                self.write_virtual_tpr((value << 4) as u8);
                Ok(None)
            }
            _ => Ok(Some(value)),
        }
    }

    fn vmx_mov_to_cr(&mut self, n: u8, how: CrAccess) -> Stop {
        let register = if let CrAccess::Mov(register) = how { u64::from(register & 15) << 8 } else { 0 };
        self.vmx_exit_by_instruction(reason::CR_ACCESS, u64::from(n) | register)
    }

    pub(crate) fn vmx_dr(&mut self, n: u8, write: bool, register: u8) -> Result<(), Stop> {
        if !self.virt.vmx.primary(MOV_DR_EXITING) {
            return Ok(());
        }
        let qualification = u64::from(n) | u64::from(!write) << 4 | u64::from(register & 15) << 8;
        Err(self.vmx_exit_by_instruction(reason::MOV_DR, qualification))
    }

    pub(crate) fn vmx_io(&mut self, access: IoAccess, i: &Insn) -> Result<(), Stop> {
        let vmx = &self.virt.vmx;
        let exits = if vmx.primary(IO_BITMAPS) {
            let last = u32::from(access.port) + u32::from(access.size) - 1;
            // An access that wraps around the end of the port space exits (SDM 3C 25.6.4).
            last > 0xffff || (u32::from(access.port)..=last).any(|port| self.io_bitmap_bit(port as u16))
        } else {
            vmx.primary(UNCONDITIONAL_IO)
        };
        if !exits {
            return Ok(());
        }
        let repeats = i.prefixes & (prefix::REP | prefix::REPNE) != 0;
        let mut exit = Exit {
            reason: reason::IO,
            qualification: u64::from(access.size - 1)
                | u64::from(access.input) << 3
                | u64::from(access.string.is_some()) << 4
                | u64::from(repeats && access.string.is_some()) << 5
                | u64::from(access.immediate) << 6
                | u64::from(access.port) << 16,
            instruction: true,
            ..Exit::default()
        };
        if let Some((segment, offset)) = access.string {
            let fast = &self.fast[usize::from(segment & 7)];
            exit.linear = Some(fast.base.wrapping_add(offset) & fast.mask);
            let number = if segment == seg::FLAT { seg::DS } else { segment };
            let number = if access.input { seg::ES } else { number };
            let size = i.address_bytes().trailing_zeros() - 1;
            exit.instruction_info = Some(size << 7 | u32::from(number) << 15);
        }
        Err(self.vmx_exit(exit))
    }

    /// A port's bit in the I/O bitmaps. Where no memory is, bits read as ones.
    fn io_bitmap_bit(&self, port: u16) -> bool {
        let field = if port < 0x8000 { Field::IoBitmapA } else { Field::IoBitmapB };
        self.bitmap_bit(self.virt.vmx.vmcs.get(field), u64::from(port & 0x7fff))
    }

    /// A bit of a bitmap in physical memory.
    pub(super) fn bitmap_bit(&self, bitmap: u64, bit: u64) -> bool {
        let mut byte = [0xff];
        let _ = self.memory.read(GuestPhys(bitmap.wrapping_add(bit / 8)), &mut byte);
        byte[0] >> (bit & 7) & 1 != 0
    }

    /// Whether RDMSR or WRMSR exits (SDM 3C 25.6.9).
    fn vmx_msr_exits(&self, index: u32, write: bool) -> bool {
        let vmx = &self.virt.vmx;
        if !vmx.primary(MSR_BITMAPS) {
            return true;
        }
        let part = match index {
            0..=0x1fff => 0,
            0xc000_0000..=0xc000_1fff => 1024,
            _ => return true,
        } + if write { 2048 } else { 0 };
        self.bitmap_bit(vmx.vmcs.get(Field::MsrBitmap) + part, u64::from(index & 0x1fff))
    }

    pub(crate) fn vmx_rdmsr(&mut self, index: u32) -> Result<Option<u64>, Stop> {
        if self.vmx_msr_exits(index, false) {
            return Err(self.vmx_exit_by_instruction(reason::RDMSR, 0));
        }
        Ok(self.read_virtual_x2apic(index))
    }

    pub(crate) fn vmx_wrmsr(&mut self, index: u32, value: u64) -> Result<bool, Stop> {
        if self.vmx_msr_exits(index, true) {
            return Err(self.vmx_exit_by_instruction(reason::WRMSR, 0));
        }
        self.write_virtual_x2apic(index, value)
    }

    /// Whether the exception bitmap makes an exception exit (SDM 3C 26.2).
    fn vmx_exception_exits(&self, vector: u8, error: Option<u32>) -> bool {
        let vmcs = &self.virt.vmx.vmcs;
        let bit = vmcs.get32(Field::ExceptionBitmap) >> (vector & 31) & 1 != 0;
        if vector != vector::PF {
            return bit;
        }
        let mask = vmcs.get32(Field::PageFaultErrorMask);
        let matched = error.unwrap_or(0) & mask == vmcs.get32(Field::PageFaultErrorMatch);
        bit == matched
    }

    pub(crate) fn vmx_exception(&mut self, exception: Exception, origin: Origin) -> Option<Stop> {
        if !self.vmx_exception_exits(exception.vector, exception.error) {
            return None;
        }
        // Real mode knows no error codes.
        let error = exception.error.filter(|_| self.protected());
        let info = interruption(exception.vector, 3, error.is_some());
        let qualification = match exception.vector {
            vector::PF | vector::DB => exception.payload,
            _ => 0,
        };
        let traps = origin == Origin::Trap;
        Some(self.vmx_exit(Exit {
            qualification,
            interruption: Some((info, error.unwrap_or(0))),
            rf: !traps && exception.vector != vector::DF,
            ..Exit::default()
        }))
    }

    /// INT3, INTO and INT1.
    fn vmx_software_exception(&mut self, vector: u8) -> Result<(), Stop> {
        if !self.vmx_exception_exits(vector, None) {
            return Ok(());
        }
        let kind = if vector == vector::DB { 5 } else { 6 };
        Err(self.vmx_exit(Exit {
            interruption: Some((interruption(vector, kind, false), 0)),
            instruction: true,
            ..Exit::default()
        }))
    }

    pub(crate) fn vmx_task_switch(&mut self, selector: u16, switch: Switch) -> Result<(), Stop> {
        let source = match switch {
            Switch::Call => 0,
            Switch::Return => 1,
            Switch::Jump => 2,
            Switch::Event { .. } => 3,
        };
        let instruction = self.virt.vectoring.is_none();
        Err(self.vmx_exit(Exit {
            reason: reason::TASK_SWITCH,
            qualification: u64::from(selector) | source << 30,
            instruction,
            // The old task would get it so (SDM 3C 28.3.3).
            rf: self.virt.vectoring.is_some_and(|event| event.origin == Origin::Fault),
            ..Exit::default()
        }))
    }

    pub(crate) fn vmx_shutdown(&mut self) -> Option<Stop> {
        self.virt.vectoring = None;
        Some(self.vmx_exit(Exit { reason: reason::TRIPLE_FAULT, ..Exit::default() }))
    }

    /// IRET: with virtual NMIs, their blocking ends; with NMI exiting alone, nothing changes (SDM 3C 26.3).
    pub(crate) fn vmx_iret(&mut self) {
        let vmx = &mut self.virt.vmx;
        let blocked = if vmx.pin(VIRTUAL_NMIS) {
            &mut vmx.virtual_nmi_blocked
        } else if vmx.pin(NMI_EXITING) {
            return;
        } else {
            &mut self.nmi_blocked
        };
        if core::mem::take(blocked) {
            vmx.iret_unblocked = self.icount;
        }
        self.boundary |= crate::state::boundary::INTERRUPT;
        self.end_block();
    }

    /// What a snapshot does not hold.
    pub(crate) fn vmx_restored(&mut self) {
        if self.virt.level == crate::virt::Level::Vmx {
            self.select_ept();
        }
    }
}
