//! What VMX and SVM have in common: where the processor is (host or guest), and the hooks that the rest of the processor
//! asks. Outside of a guest a hook costs one test of [`Mode::guest`](crate::mode::Mode::guest).
//!
//! An intercepted instruction or event returns [`Stop::Exit`] with the details in the vendor's state; nothing has changed
//! yet. Whoever catches the error calls [`Cpu::stopped`], which leaves the guest.

use crate::deliver::Event;
use crate::fault::Exception;
use crate::insn::Insn;
use crate::state::Shadow;
use crate::svm::Svm;
use crate::task::Switch;
use crate::vmx::Vmx;
use crate::{Cpu, Stop};
use ringworld_core::{GuestPhys, VirtualTime};
use serde::{Deserialize, Serialize};

/// On whose behalf the processor runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub enum Level {
    /// No guest: VMX root operation, SVM host mode, or no virtualisation at all.
    #[default]
    Host,
    /// VMX non-root operation.
    Vmx,
    /// An SVM guest.
    Svm,
}

/// State of virtualisation; the vendors' parts are boxed, so that the processor's hot part stays small.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Virt {
    /// Where the processor is.
    pub level: Level,
    /// SVM's global interrupt flag; always set without SVM.
    pub gif: bool,
    /// Where it was before the SMI, while in system-management mode.
    pub(crate) below_smm: Level,
    /// The event that is being delivered through the guest's IDT.
    pub(crate) vectoring: Option<Event>,
    /// Length of the instruction that asked a hook last.
    pub(crate) length: u8,
    /// VMX.
    pub vmx: Box<Vmx>,
    /// SVM.
    pub svm: Box<Svm>,
}

impl Default for Virt {
    fn default() -> Self {
        Self {
            level: Level::Host,
            gif: true,
            below_smm: Level::Host,
            vectoring: None,
            length: 0,
            vmx: Box::default(),
            svm: Box::default(),
        }
    }
}

/// What an instruction is about to do, after the checks that come before an intercept (SDM 3C 26.1.1; APM 2 15.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Intercept {
    Cpuid,
    Hlt,
    Invd,
    Wbinvd,
    /// The linear address.
    Invlpg(u64),
    Invpcid,
    Rdtsc,
    Rdtscp,
    Rdpid,
    Rdpmc,
    Rdpru,
    Monitor,
    /// Whether the monitor hardware is armed.
    Mwait(bool),
    Pause,
    Rdrand,
    Rdseed,
    Xsetbv,
    /// XSAVES and XRSTORS, with the components asked for.
    Xsaves(u64),
    Xrstors(u64),
    Sgdt,
    Sidt,
    Lgdt,
    Lidt,
    Sldt,
    Str,
    Lldt,
    Ltr,
    Rsm,
    Pushf,
    Popf,
    Iret,
    /// INT n.
    Int(u8),
    /// INT3, INTO, INT1 and BOUND, with their vector: what is intercepted is the exception.
    SoftwareException(u8),
    /// A far transfer or IRET that may switch tasks: only the length is noted.
    FarTransfer,
    /// VMX's instructions executed in a guest.
    Vmcall,
    Vmclear,
    Vmlaunch,
    Vmptrld,
    Vmptrst,
    Vmread,
    Vmresume,
    Vmwrite,
    Vmxoff,
    Vmxon,
    Invept,
    Invvpid,
    /// SVM's.
    Vmmcall,
    Vmrun,
    Vmload,
    Vmsave,
    Stgi,
    Clgi,
    Skinit,
    Invlpga,
}

/// How an instruction accesses a control register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrAccess {
    /// MOV, with the number of the general register.
    Mov(u8),
    /// CLTS.
    Clts,
    /// LMSW with its source operand.
    Lmsw(u16),
    /// SMSW.
    Smsw,
}

/// A port access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoAccess {
    /// First port.
    pub port: u16,
    /// 1, 2 or 4 bytes.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// The port is in the instruction, not in DX.
    pub immediate: bool,
    /// INS or OUTS: segment number of the memory operand and its offset.
    pub string: Option<(u8, u64)>,
}

/// Where between two instructions a hook of [`Cpu::at_boundary`] is called (SDM 3A table 7-2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    /// Before debug traps, and whether or not the processor is active: INIT, SMI, trap-like exits.
    First,
    /// After debug traps, before NMIs: timers.
    Timers,
    /// An NMI is about to be taken.
    Nmi,
    /// After NMIs, before maskable interrupts: NMI and interrupt windows.
    Windows,
    /// A maskable interrupt is about to be acknowledged.
    Interrupt,
    /// After external interrupts: a virtual interrupt may be delivered.
    Virtual,
}

macro_rules! by_level {
    ($cpu:ident, $host:expr, $vmx:ident, $svm:ident ($($argument:expr),*)) => {
        match $cpu.virt.level {
            Level::Host => $host,
            Level::Vmx => $cpu.$vmx($($argument),*),
            Level::Svm => $cpu.$svm($($argument),*),
        }
    };
}

impl Cpu {
    /// Does what an error of an instruction asks for; RIP is at the instruction.
    #[cold]
    pub fn stopped(&mut self, stop: Stop) {
        if stop == Stop::Exit {
            self.pmu_skip();
        }
        // What handles it is not what TF was set for.
        self.stepping = false;
        self.stopped_between(stop);
    }

    /// The same where no instruction has been counted.
    pub(crate) fn stopped_between(&mut self, stop: Stop) {
        match stop {
            Stop::Exception => self.deliver_pending(),
            Stop::Exit => self.take_exit(),
            Stop::Wait => {}
        }
    }

    /// An SMI suspends an SVM guest: system-management mode runs outside of it.
    pub(crate) fn suspend_guest(&mut self) {
        self.virt.below_smm = core::mem::take(&mut self.virt.level);
        self.set_guest_space(None);
    }

    /// RSM goes on with the guest that the SMI has suspended.
    pub(crate) fn resume_guest(&mut self) {
        self.virt.level = core::mem::take(&mut self.virt.below_smm);
        by_level!(self, (), vmx_restored, svm_restored());
    }

    /// INIT ends all virtualisation.
    pub(crate) fn forget_guest(&mut self) {
        self.virt.level = Level::Host;
        self.virt.below_smm = Level::Host;
        self.virt.gif = true;
        self.virt.vectoring = None;
        self.set_guest_space(None);
    }

    /// Leaves the guest for the reason noted with [`Stop::Exit`].
    #[cold]
    pub(crate) fn take_exit(&mut self) {
        self.world_ends();
        by_level!(self, (), vmx_take_exit, svm_take_exit());
        self.world_begins();
        self.virt.vectoring = None;
        self.stepping = false;
        self.end_block();
    }

    /// An instruction that can be intercepted asks here, after its #UD and privilege checks.
    #[inline(always)]
    pub(crate) fn intercept(&mut self, what: Intercept, i: &Insn) -> Result<(), Stop> {
        if self.mode.guest() { self.intercept_in_guest(what, i) } else { Ok(()) }
    }

    #[cold]
    #[inline(never)]
    fn intercept_in_guest(&mut self, what: Intercept, i: &Insn) -> Result<(), Stop> {
        let before = core::mem::replace(&mut self.virt.length, i.len);
        let exit = by_level!(self, Ok(()), vmx_intercept, svm_intercept(what, i));
        if exit.is_ok() {
            // As if nobody had asked: translated code does not, where it knows the answer.
            self.virt.length = before;
        }
        exit
    }

    /// The value that an instruction reads from CR0, CR3, CR4 or CR8 (of which `value` is the real one).
    #[inline(always)]
    pub(crate) fn intercept_cr_read(
        &mut self,
        n: u8,
        value: u64,
        how: CrAccess,
        i: &Insn,
    ) -> Result<u64, Stop> {
        if !self.mode.guest() {
            return Ok(value);
        }
        self.virt.length = i.len;
        by_level!(self, Ok(value), vmx_cr_read, svm_cr_read(n, value, how, i))
    }

    /// The value to be written to CR0, CR3, CR4 or CR8; `None` if the write is done already.
    #[inline(always)]
    pub(crate) fn intercept_cr_write(
        &mut self,
        n: u8,
        value: u64,
        how: CrAccess,
        i: &Insn,
    ) -> Result<Option<u64>, Stop> {
        if !self.mode.guest() {
            return Ok(Some(value));
        }
        self.virt.length = i.len;
        by_level!(self, Ok(Some(value)), vmx_cr_write, svm_cr_write(n, value, how, i))
    }

    /// MOV to or from debug register `n`, from or to general register `register`.
    ///
    /// Exits from VMX come before the checks of CR4.DE and of the privilege (SDM 3C 26.1.3); those from SVM are taken to come
    /// after all, general detection included: it is asked twice, before the checks and when they are done.
    #[inline(always)]
    pub(crate) fn intercept_dr(
        &mut self,
        n: u8,
        write: bool,
        register: u8,
        i: &Insn,
        checked: bool,
    ) -> Result<(), Stop> {
        if !self.mode.guest() || checked != (self.virt.level == Level::Svm) {
            return Ok(());
        }
        self.virt.length = i.len;
        by_level!(self, Ok(()), vmx_dr, svm_dr(n, write, register))
    }

    /// A port access whose permission has been checked.
    #[inline(always)]
    pub(crate) fn intercept_io(&mut self, access: IoAccess, i: &Insn) -> Result<(), Stop> {
        if !self.mode.guest() {
            return Ok(());
        }
        self.virt.length = i.len;
        by_level!(self, Ok(()), vmx_io, svm_io(access, i))
    }

    /// RDMSR: the value if the guest does not read the register itself.
    #[inline(always)]
    pub(crate) fn intercept_rdmsr(&mut self, index: u32, i: &Insn) -> Result<Option<u64>, Stop> {
        if !self.mode.guest() {
            return Ok(None);
        }
        self.virt.length = i.len;
        by_level!(self, Ok(None), vmx_rdmsr, svm_rdmsr(index))
    }

    /// WRMSR: true if the write is done already.
    #[inline(always)]
    pub(crate) fn intercept_wrmsr(&mut self, index: u32, value: u64, i: &Insn) -> Result<bool, Stop> {
        if !self.mode.guest() {
            return Ok(false);
        }
        self.virt.length = i.len;
        by_level!(self, Ok(false), vmx_wrmsr, svm_wrmsr(index, value))
    }

    /// An exception is about to be delivered, or to be made part of a double fault; `virt.vectoring` is the event in whose
    /// delivery it arose. True if the guest was left instead.
    pub(crate) fn intercept_exception(
        &mut self,
        exception: Exception,
        origin: crate::deliver::Origin,
    ) -> bool {
        if !self.mode.guest() {
            return false;
        }
        let stop = by_level!(self, None, vmx_exception, svm_exception(exception, origin));
        if stop.is_some() {
            self.take_exit();
        }
        stop.is_some()
    }

    /// A task switch whose target has been checked.
    pub(crate) fn intercept_task_switch(&mut self, selector: u16, switch: Switch) -> Result<(), Stop> {
        by_level!(self, Ok(()), vmx_task_switch, svm_task_switch(selector, switch))
    }

    /// A triple fault: true if the guest was left instead of shutting down.
    pub(crate) fn intercept_shutdown(&mut self) -> bool {
        let stop = by_level!(self, None, vmx_shutdown, svm_shutdown());
        if stop.is_some() {
            self.take_exit();
        }
        stop.is_some()
    }

    /// Between two instructions: true if something happened (an exit, an event delivered), and all must be looked at
    /// again.
    #[inline]
    pub(crate) fn guest_boundary(&mut self, moment: Moment, shadow: Shadow) -> bool {
        self.mode.guest() && by_level!(self, false, vmx_boundary, svm_boundary(moment, shadow))
    }

    /// Whether the guest must be looked at after each instruction.
    pub(crate) fn guest_steps(&self) -> bool {
        by_level!(self, false, vmx_steps, svm_steps())
    }

    /// Whether a guest that waits goes on for a reason of its own (virtual interrupts, windows).
    pub(crate) fn guest_wakes(&mut self) -> bool {
        by_level!(self, false, vmx_wakes, svm_wakes())
    }

    /// Whether the guest may have to be looked at when it changes its flags, or unblocks NMIs.
    pub(crate) fn guest_waits_for_flags(&self) -> bool {
        by_level!(self, false, vmx_waits_for_flags, svm_waits_for_flags())
    }

    /// Whether PUSHF or POPF may exit.
    pub(crate) fn guest_exits_for_flags(&self) -> bool {
        self.virt.level == Level::Svm && self.svm_intercepts_flags()
    }

    /// A start-up IPI has come for a processor that waits for one: true if it is the guest that waits.
    pub(crate) fn start_up_held(&mut self, page: u8) -> bool {
        by_level!(self, false, vmx_start_up, svm_start_up(page))
    }

    /// Whether maskable interrupts are taken (or intercepted) now, but for shadows.
    pub(crate) fn interrupts_open(&self) -> bool {
        let flag = self.flags.has(crate::flags::bits::IF);
        self.virt.gif && by_level!(self, flag, vmx_interrupts_open, svm_interrupts_open(flag))
    }

    /// Whether NMIs are taken (or intercepted) now, but for shadows.
    pub(crate) fn nmis_open(&self) -> bool {
        let open = !self.nmi_blocked;
        self.virt.gif && by_level!(self, open, vmx_nmis_open, svm_nmis_open(open))
    }

    /// Whether SMIs are taken now.
    pub(crate) fn smis_open(&self) -> bool {
        self.virt.gif && !self.smm
    }

    /// An INIT has come: true if it has to wait, or is discarded.
    pub(crate) fn init_held(&mut self) -> bool {
        by_level!(self, self.vmx_holds_init() || !self.virt.gif, vmx_init_held, svm_init_held())
    }

    /// IRET ends the blocking of NMIs.
    pub(crate) fn iret_unblocks_nmis(&mut self) {
        by_level!(self, self.nmi_blocked = false, vmx_iret, svm_iret());
    }

    /// The time-stamp counter as RDTSC, RDTSCP and RDMSR show it.
    #[inline]
    pub(crate) fn visible_tsc(&mut self) -> u64 {
        let tsc = self.show_tsc();
        self.tsc_in_mode(tsc)
    }

    /// A processor's time-stamp counter, as what runs on it sees it: a guest with its offset and scale.
    #[inline]
    pub(crate) fn tsc_in_mode(&self, tsc: u64) -> u64 {
        if !self.mode.guest() {
            return tsc;
        }
        by_level!(self, tsc, vmx_tsc, svm_tsc(tsc))
    }

    /// Whether RDTSC and RDTSCP do not exit from the guest that runs, if one does, and its counter runs as fast as the
    /// processor's.
    pub(crate) fn tsc_is_linear(&self) -> bool {
        !self.mode.guest() || by_level!(self, true, vmx_tsc_is_linear, svm_tsc_is_linear())
    }

    /// An access that `translate` sent to no memory of the guest's: a page that is virtualised (VMX's APIC-access page).
    /// `linear` is the first byte's address.
    #[inline]
    pub(crate) fn intercept_device_access(
        &mut self,
        address: GuestPhys,
        linear: u64,
        len: usize,
        kind: crate::mem::Kind,
    ) -> Result<(), Stop> {
        if !self.mode.guest() {
            return Ok(());
        }
        by_level!(self, Ok(()), vmx_device_access, svm_device_access(address, linear, len, kind))
    }

    /// Reads a virtualised page; false if `address` is in none.
    pub(crate) fn virtual_read(&mut self, address: GuestPhys, data: &mut [u8]) -> bool {
        self.mode.guest() && by_level!(self, false, vmx_virtual_read, svm_virtual_read(address, data))
    }

    /// Writes a virtualised page; false if `address` is in none.
    pub(crate) fn virtual_write(&mut self, address: GuestPhys, data: &[u8]) -> bool {
        self.mode.guest() && by_level!(self, false, vmx_virtual_write, svm_virtual_write(address, data))
    }

    /// Whether a physical page is virtualised, so that no access may skip the hooks.
    #[inline]
    pub(crate) fn page_is_virtual(&self, address: GuestPhys) -> bool {
        self.mode.guest() && by_level!(self, false, vmx_page_is_virtual, svm_page_is_virtual(address))
    }

    /// The next moment at which a guest's timer ends the run.
    pub(crate) fn guest_deadline(&self) -> VirtualTime {
        by_level!(self, VirtualTime::NEVER, vmx_deadline, svm_deadline())
    }
}
