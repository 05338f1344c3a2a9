//! System instructions that are frequent in kernels, and others that need registers of their own, emitted in place.
//!
//! What they change in the processor's state they change in [`ringworld_x86::Cpu`] itself. Whatever is not the usual case
//! (an interrupt waits, other system flags change) calls the instruction's function.

use crate::classify::{Live, System};
use crate::emit::{Emitter, Unsupported, access_of};
use crate::frame::{GUEST_RCX, Home, at, home};
use crate::memory::{Access, address_is_64};
use crate::site::Kind;
use crate::translator::MASKS;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};
use ringworld_x86::flags::bits;
use ringworld_x86::insn::seg;
use ringworld_x86::native::offset;

/// System flags that POPFQ may change at CPL 0 and that change more than whether interrupts are taken.
pub const POPF_OTHERS: u64 = bits::TF | bits::DF | bits::NT | bits::AC | bits::ID | bits::IOPL;

impl Emitter<'_> {
    /// Clears or sets one system flag, without touching the status flags. `others` is the slot of a mask of all other bits.
    fn system_flag(&mut self, others: i32, set: u64) {
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, [rsp + at::CPU]
            ; mov r14, [rcx + offset::SYSTEM_FLAGS]
            ; pext r14, r14, [rsp + others]
            ; pdep r14, r14, [rsp + others]
        );
        if set != 0 {
            dynasm!(self.s ; .arch x64 ; lea r14, [r14 + set as i32]);
        }
        dynasm!(self.s ; .arch x64 ; mov [rcx + offset::SYSTEM_FLAGS], r14);
    }

    fn unless_held(&mut self) -> usize {
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, [rsp + at::CPU]
            ; mov rcx, [rcx + offset::HELD]
        );
        self.unless_rcx_zero()
    }

    /// Level 0. CLI, STI, CLAC, STAC and SWAPGS do not exit from guests.
    fn is_supervisor(&self) -> Result<(), Unsupported> {
        if self.mode.unprivileged() { Err(Unsupported) } else { Ok(()) }
    }

    fn is_not_intercepted(&self) -> Result<(), Unsupported> {
        if self.mode.guest() { Err(Unsupported) } else { Ok(()) }
    }

    fn flags_are_not_intercepted(&self) -> Result<(), Unsupported> {
        if self.mode.flags_intercepted() { Err(Unsupported) } else { Ok(()) }
    }

    pub(crate) fn system(&mut self, i: &Instruction, what: System) -> Result<(), Unsupported> {
        self.held = None;
        match what {
            System::Pause => self.pause()?,
            System::Cli => self.cli()?,
            System::Sti => self.sti()?,
            System::Clac => self.access_check(false)?,
            System::Stac => self.access_check(true)?,
            System::Pushf => self.pushf()?,
            System::Popf => self.popf()?,
            System::Swapgs => self.swapgs()?,
            System::Rdtsc => self.rdtsc(false)?,
            System::Rdtscp => self.rdtsc(true)?,
            System::Selector => self.selector(i)?,
            System::Cld => self.system_flag(at::NOT_DF, 0),
            System::Std => self.system_flag(at::NOT_DF, bits::DF),
            System::ReadBase => self.read_base(i)?,
            System::WriteBase => self.write_base(i)?,
            System::Rdpkru => self.rdpkru(),
            System::FromControl => self.control_register(i)?,
            System::LoadMxcsr => self.load_mxcsr(i)?,
        }
        self.held = None;
        Ok(())
    }

    /// LDMXCSR of a value that leaves all exceptions masked, and sets nothing else that vector code would have to know of.
    fn load_mxcsr(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        self.need(Live::Sse);
        let fixed = self.address(i);
        let slow = self.check(access_of(i, OpAccess::Read, fixed)?);
        let mask = MASKS | 0xffff_0000;
        let masked = (1 << MASKS.count_ones()) - 1;
        dynasm!(self.s
            ; .arch x64
            ; mov r14d, [rcx + r14]
            ; mov ecx, mask as i32
            ; pext ecx, r14d, ecx
            ; lea rcx, [rcx + self.unit() - masked]
        );
        let other = self.unless_unit();
        dynasm!(self.s
            ; .arch x64
            ; mov [BYTE rsp + (at::TARGET as i8)], r14d
            ; ldmxcsr [rsp + at::TARGET]
        );
        self.slow(&[slow, other], Kind::Exec);
        Ok(())
    }

    /// Does nothing if no other CPU waits for its turn.
    fn pause(&mut self) -> Result<(), Unsupported> {
        self.is_not_intercepted()?;
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, [rsp + at::CPU]
            ; mov rcx, [rcx + offset::COMPANY]
        );
        let slow = self.unless_rcx_zero();
        self.slow(&[slow], Kind::Exec);
        Ok(())
    }

    fn cli(&mut self) -> Result<(), Unsupported> {
        self.is_supervisor()?;
        self.system_flag(at::NOT_IF, 0);
        Ok(())
    }

    /// If no interrupt waits, the shadow after STI changes nothing for an instruction that does not look at it; but exits of
    /// guests show it.
    fn sti(&mut self) -> Result<(), Unsupported> {
        self.is_supervisor()?;
        if !self.next_is_plain && !self.next_may_exit {
            return Err(Unsupported);
        }
        let slow = self.unless_held();
        if !self.next_is_plain {
            // There is one if IF was clear.
            dynasm!(self.s
                ; .arch x64
                ; mov rcx, [rsp + at::CPU]
                ; mov r14, [rcx + offset::SYSTEM_FLAGS]
                ; not r14
                ; pext r14, r14, [rsp + at::IF]
                ; mov [rcx + offset::IN_SHADOW], r14b
            );
            self.in_shadow = true;
        }
        self.system_flag(at::NOT_IF, bits::IF);
        self.slow(&[slow], Kind::Exec);
        Ok(())
    }

    /// The instruction after STI is over, and did not exit.
    pub(crate) fn end_shadow(&mut self) {
        if core::mem::take(&mut self.in_shadow) {
            self.held_r14 = None;
            dynasm!(self.s ; .arch x64 ; mov r14, [rsp + at::CPU] ; mov BYTE [r14 + offset::IN_SHADOW], 0);
        }
    }

    /// CLAC, STAC.
    fn access_check(&mut self, set: bool) -> Result<(), Unsupported> {
        self.is_supervisor()?;
        let arrays = at::ARRAYS + if set { 8 } else { 0 };
        dynasm!(self.s ; .arch x64 ; mov rcx, [rsp + arrays]);
        let slow = self.if_rcx_zero();
        dynasm!(self.s ; .arch x64 ; mov r15, rcx ; mov [rsp + at::MOVED], rcx);
        self.system_flag(at::NOT_AC, if set { bits::AC } else { 0 });
        self.slow(&[slow], Kind::Exec);
        // What has been checked was checked for other arrays.
        self.established = 0;
        Ok(())
    }

    /// PUSHFQ, PUSHFD, PUSHF. In virtual-8086 mode they look at IOPL.
    fn pushf(&mut self) -> Result<(), Unsupported> {
        self.flags_are_not_intercepted()?;
        if self.mode.real_or_v8086() {
            self.is_supervisor()?;
        }
        dynasm!(self.s
            ; .arch x64
            ; mov r14, rax
            ; lahf
            ; seto al
            ; movzx ecx, ah
            ; movzx eax, al
            // OF from bit 0 to bit 11.
            ; rorx eax, eax, 21
            // Bit 1 is in both images.
            ; lea ecx, [rcx + rax - 2]
            ; mov rax, r14
            ; mov r14, [rsp + at::CPU]
            ; mov r14, [r14 + offset::SYSTEM_FLAGS]
            ; lea r14, [r14 + rcx]
            ; mov [BYTE rsp + (at::TARGET as i8)], r14
        );
        let slow = self.stack(-self.step(), true);
        self.push_target();
        self.move_stack(-self.step());
        if let Some(slow) = slow {
            self.slow(&[slow], Kind::Exec);
        }
        Ok(())
    }

    /// POPFQ, POPFD, POPF. Outside of level 0, where it is not to change any system flag.
    fn popf(&mut self) -> Result<(), Unsupported> {
        let user = self.mode.unprivileged();
        if self.mode.real_or_v8086() {
            self.is_supervisor()?;
        }
        self.flags_are_not_intercepted()?;
        let mut slow = Vec::with_capacity(3);
        slow.extend(self.stack(0, false));
        self.load_top();
        dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at::TARGET as i8)], r14);
        if !user {
            slow.push(self.unless_held());
        }
        let others = if user { at::POPF_ALL } else { at::POPF_OTHERS };
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, [rsp + at::CPU]
            ; mov rcx, [rcx + offset::SYSTEM_FLAGS]
            ; pext rcx, rcx, [rsp + others]
            ; pext r14, r14, [rsp + others]
            ; not rcx
            ; lea rcx, [rcx + r14 + 1]
        );
        slow.push(self.unless_rcx_zero());
        // From here on the old status flags are not needed.
        if !user {
            dynasm!(self.s
                ; .arch x64
                ; mov rcx, [rsp + at::CPU]
                ; mov r14, [BYTE rsp + (at::TARGET as i8)]
                ; and r14d, bits::IF as i32
                ; and DWORD [rcx + offset::SYSTEM_FLAGS], !(bits::IF as i32)
                ; or [rcx + offset::SYSTEM_FLAGS], r14
            );
        }
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, rax
            ; mov eax, [BYTE rsp + (at::TARGET as i8)]
            ; mov r14d, eax
            ; shr r14d, 11
            ; and r14d, 1
            ; shl eax, 8
            ; or eax, r14d
            ; add al, 0x7f
            ; sahf
            ; mov rax, rcx
        );
        self.move_stack(self.step());
        self.slow(&slow, Kind::Exec);
        Ok(())
    }

    /// Calls the function unless CR4 allows RDFSBASE and its like.
    fn unless_bases_allowed(&mut self) -> usize {
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, [rsp + at::CPU]
            ; mov rcx, [rcx + offset::CONTROL[4]]
            ; pext rcx, rcx, [rsp + at::FSGSBASE]
        );
        self.if_rcx_zero()
    }

    /// RDFSBASE, RDGSBASE.
    fn read_base(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let at = at::BASES + if i.mnemonic() == Mnemonic::Rdgsbase { 8 } else { 0 };
        let slow = self.unless_bases_allowed();
        match home(i.op0_register().number()) {
            Home::Host(host) => dynasm!(self.s ; .arch x64 ; mov Rq(host), [rsp + at]),
            Home::Frame(home) => {
                self.held_r14 = None;
                dynasm!(self.s ; .arch x64 ; mov r14, [rsp + at] ; mov [BYTE rsp + (home as i8)], r14);
            }
        }
        self.slow(&[slow], Kind::Exec);
        Ok(())
    }

    /// WRFSBASE, WRGSBASE of what is canonical with 4-level paging.
    fn write_base(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let (n, segment) = if i.mnemonic() == Mnemonic::Wrgsbase { (8, seg::GS) } else { (0, seg::FS) };
        let allowed = self.unless_bases_allowed();
        self.held_r14 = None;
        let value = self.value(i.op0_register().number(), 14);
        // The upper bits are all zeros, or all ones.
        dynasm!(self.s
            ; .arch x64
            ; mov ecx, 47
            ; sarx rcx, Rq(value), rcx
            ; lea rcx, [rcx + 1]
            ; pext rcx, rcx, [rsp + at::BUT_LOWEST]
        );
        let other = self.unless_rcx_zero();
        let [register, fast] = offset::base(segment);
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, [rsp + at::CPU]
            ; mov [rcx + register], Rq(value)
            ; mov [rcx + fast], Rq(value)
            ; mov [rsp + at::BASES + n], Rq(value)
        );
        self.slow(&[allowed, other], Kind::Exec);
        Ok(())
    }

    /// XLAT with flat segments: AL is the index of a byte off RBX, or EBX.
    pub(crate) fn table(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let based = matches!(i.memory_segment(), Register::FS | Register::GS);
        if self.segmented() || based || !matches!(i.memory_base(), Register::RBX | Register::EBX) {
            return Err(Unsupported);
        }
        let Home::Host(base) = home(Register::RBX.number()) else { return Err(Unsupported) };
        dynasm!(self.s ; .arch x64 ; movzx r14d, al);
        self.lea(14, i.memory_base() == Register::RBX, Some(base), 14, 0, 0);
        let slow = self.check(Access { size: 1, write: false, alignment: None, fixed: None });
        dynasm!(self.s ; .arch x64 ; mov al, [rcx + r14]);
        self.slow(&[slow], Kind::Exec);
        Ok(())
    }

    fn swapgs(&mut self) -> Result<(), Unsupported> {
        self.is_supervisor()?;
        let [register, fast] = offset::base(seg::GS);
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, [rsp + at::CPU]
            ; mov r14, [rcx + offset::KERNEL_GS_BASE]
            ; mov [rcx + register], r14
            ; mov [rcx + fast], r14
            ; mov [BYTE rsp + (at::TARGET as i8)], r14
            ; mov r14, [rsp + at::BASES + 8]
            ; mov [rcx + offset::KERNEL_GS_BASE], r14
            ; mov r14, [BYTE rsp + (at::TARGET as i8)]
            ; mov [rsp + at::BASES + 8], r14
        );
        Ok(())
    }

    /// RDTSC, RDTSCP: the counter is the instruction count plus a constant.
    fn rdtsc(&mut self, with_aux: bool) -> Result<(), Unsupported> {
        dynasm!(self.s ; .arch x64 ; mov rcx, [rsp + at::TSC_KNOWN]);
        let slow = self.if_rcx_zero();
        // What blocks have taken counts up; this one's instructions to come are in it.
        let ahead = 1 - (self.count - self.n) as i32;
        dynasm!(self.s
            ; .arch x64
            ; mov r14, [BYTE rsp + (at::TAKEN as i8)]
            ; mov rcx, [rsp + at::TSC]
            ; lea rcx, [rcx + r14 + ahead]
            ; mov eax, ecx
            ; rorx rdx, rcx, 32
            ; mov edx, edx
        );
        if with_aux {
            dynasm!(self.s
                ; .arch x64
                ; mov rcx, [rsp + at::CPU]
                ; mov Rq(GUEST_RCX), [rcx + offset::TSC_AUX]
            );
        }
        self.slow(&[slow], Kind::Exec);
        Ok(())
    }

    fn rdpkru(&mut self) {
        // ECX has to be zero.
        dynasm!(self.s
            ; .arch x64
            ; mov r14d, Rd(GUEST_RCX)
            ; mov rcx, [rsp + at::NO_PKU]
            ; lea rcx, [rcx + r14]
        );
        let slow = self.unless_rcx_zero();
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, [rsp + at::CPU]
            ; mov eax, [rcx + offset::PKRU]
            ; mov edx, 0
        );
        self.slow(&[slow], Kind::Exec);
    }

    /// MOV from CR0, CR2, CR3 or CR4.
    fn control_register(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        self.is_supervisor()?;
        self.is_not_intercepted()?;
        let Some(&from) = offset::CONTROL.get(i.op1_register().number()).filter(|&&at| at != 0) else {
            return Err(Unsupported);
        };
        let Home::Host(host) = home(i.op0_register().number()) else { return Err(Unsupported) };
        dynasm!(self.s ; .arch x64 ; mov rcx, [rsp + at::CPU] ; mov Rq(host), [rcx + from]);
        Ok(())
    }

    /// The selector of a segment register, to a general register.
    fn selector(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let (to, from) = (i.op0_register(), i.op1_register());
        if i.op0_kind() != OpKind::Register {
            return Err(Unsupported);
        }
        let Home::Host(host) = home(to.full_register().number()) else { return Err(Unsupported) };
        let n = match from {
            Register::ES => seg::ES,
            Register::CS => seg::CS,
            Register::SS => seg::SS,
            Register::DS => seg::DS,
            Register::FS => seg::FS,
            Register::GS => seg::GS,
            _ => return Err(Unsupported),
        };
        let selector = offset::segment(n).selector;
        dynasm!(self.s ; .arch x64 ; mov rcx, [rsp + at::CPU]);
        if to.is_gpr16() {
            dynasm!(self.s ; .arch x64 ; mov Rw(host), [rcx + selector]);
        } else {
            dynasm!(self.s ; .arch x64 ; movzx Rd(host), WORD [rcx + selector]);
        }
        Ok(())
    }

    /// BT and its kin with a register as bit offset: in memory, it reaches beyond the operand (SDM 2A 3.1.1.9).
    pub(crate) fn bit_string(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        self.held = None;
        let narrow = self.narrow();
        if !narrow && !address_is_64(i) {
            return Err(Unsupported);
        }
        let register = i.op1_register();
        let (shift, wide) = match register.size() {
            8 => (6, true),
            4 => (5, false),
            _ => return Err(Unsupported),
        };
        let Home::Host(bit) = home(register.full_register().number()) else { return Err(Unsupported) };
        if self.checks_offsets && matches!(i.memory_segment(), Register::FS | Register::GS) {
            return Err(Unsupported);
        }
        if let Some(fixed) = self.address(i) {
            self.constant(14, fixed);
        }
        dynasm!(self.s ; .arch x64 ; mov ecx, shift);
        if wide {
            dynasm!(self.s ; .arch x64 ; sarx rcx, Rq(bit), rcx ; lea r14, [r14 + rcx * 8]);
        } else if narrow {
            dynasm!(self.s ; .arch x64 ; sarx ecx, Rd(bit), ecx ; lea r14d, [r14 + rcx * 4]);
        } else {
            dynasm!(self.s
                ; .arch x64
                ; sarx ecx, Rd(bit), ecx
                ; movsxd rcx, ecx
                ; lea r14, [r14 + rcx * 4]
            );
        }
        let write = i.mnemonic() != Mnemonic::Bt;
        let size = if wide { 8 } else { 4 };
        let slow = self.check(Access { size, write, alignment: None, fixed: None });
        dynasm!(self.s ; .arch x64 ; lea r14, [rcx + r14]);
        if wide {
            dynasm!(self.s ; .arch x64 ; mov rcx, [r14]);
        } else {
            dynasm!(self.s ; .arch x64 ; mov ecx, [r14]);
        }
        match (i.mnemonic(), wide) {
            (Mnemonic::Bt, true) => dynasm!(self.s ; .arch x64 ; bt rcx, Rq(bit)),
            (Mnemonic::Bt, false) => dynasm!(self.s ; .arch x64 ; bt ecx, Rd(bit)),
            (Mnemonic::Bts, true) => dynasm!(self.s ; .arch x64 ; bts rcx, Rq(bit)),
            (Mnemonic::Bts, false) => dynasm!(self.s ; .arch x64 ; bts ecx, Rd(bit)),
            (Mnemonic::Btr, true) => dynasm!(self.s ; .arch x64 ; btr rcx, Rq(bit)),
            (Mnemonic::Btr, false) => dynasm!(self.s ; .arch x64 ; btr ecx, Rd(bit)),
            (_, true) => dynasm!(self.s ; .arch x64 ; btc rcx, Rq(bit)),
            (_, false) => dynasm!(self.s ; .arch x64 ; btc ecx, Rd(bit)),
        }
        match (write, wide) {
            (false, _) => {}
            (true, true) => dynasm!(self.s ; .arch x64 ; mov [r14], rcx),
            (true, false) => dynasm!(self.s ; .arch x64 ; mov [r14], ecx),
        }
        self.slow(&[slow], Kind::Exec);
        Ok(())
    }
}
