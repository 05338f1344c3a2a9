//! The state of one logical processor.

use crate::fault::Exception;
use crate::flags::Flags;
use crate::insn::{REG_RIP, seg};
use crate::lapic::Lapic;
use crate::model::Model;
use crate::msr::Msrs;
use crate::paging::{AddressSpaces, ContextKey};
use crate::segment::{Segment, SegmentFast};
use crate::x87::X87;
use ringworld_core::{Clock, CpuId, GuestPhys, IoContext, Platform, VirtualTime};
use ringworld_mmu::GuestMemory;
use ringworld_mmu::tlb::{ContextId, Tlb};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// General registers, in encoding order.
#[allow(missing_docs)]
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
    pub const R9: usize = 9;
    pub const R10: usize = 10;
    pub const R11: usize = 11;
}

/// What the processor is doing (SDM 3C 24.4.2's activity states, and MWAIT).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub enum Activity {
    /// Executing instructions.
    #[default]
    Active,
    /// After HLT.
    Halted,
    /// After MWAIT; with true, an interrupt ends it even while masked.
    Mwait(bool),
    /// After a triple fault.
    Shutdown,
    /// After INIT on an application processor.
    WaitForSipi,
}

/// The line that MONITOR watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub struct Monitor {
    /// Guest-physical address.
    pub address: GuestPhys,
    /// What it held.
    pub contents: [u64; 8],
}

/// A descriptor-table register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub struct TableRegister {
    /// Linear base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// Reasons to look around between blocks; bits of [`Cpu::boundary`].
#[allow(missing_docs)]
pub mod boundary {
    /// Something may be deliverable: look at LAPIC, INTR, NMI, SMI.
    pub const INTERRUPT: u32 = 1;
    /// RFLAGS.TF is set, or debug traps are pending.
    pub const TRAP: u32 = 2;
    /// The last instruction inhibits interrupts (STI) or also debug traps (MOV SS, POP SS).
    pub const SHADOW: u32 = 4;
    /// Not [`crate::Activity::Active`].
    pub const INACTIVE: u32 = 8;
    /// Return to the machine's loop.
    pub const YIELD: u32 = 16;
    /// Instruction breakpoints are enabled in DR7.
    pub const CODE_BREAKPOINTS: u32 = 32;
    /// DEBUGCTL.LBR is set: taken branches are recorded.
    pub const LAST_BRANCH: u32 = 64;
}

/// How the last instruction delays events to after the next one (SDM 3A 6.8.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Shadow {
    /// It does not.
    #[default]
    None,
    /// STI: maskable interrupts. Translated code knows the number.
    Sti = 1,
    /// MOV SS, POP SS: interrupts and debug exceptions.
    MovSs,
}

/// Counters of one CPU, for `--stats`; they are not architectural state.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// Exceptions delivered, by vector.
    pub exceptions: [u64; 32],
    /// External interrupts delivered.
    pub interrupts: u64,
    /// NMIs delivered.
    pub nmis: u64,
    /// SMIs delivered.
    pub smis: u64,
    /// Page walks made (each a software TLB miss that no fault-free shortcut answered).
    pub walks: u64,
    /// Slow memory accesses (TLB miss, page-crossing, device, code page).
    pub slow_accesses: u64,
    /// Accesses to devices.
    pub mmio: u64,
    /// Port accesses.
    pub port_io: u64,
    /// Blocks decoded.
    pub blocks_decoded: u64,
    /// Blocks found stale by a write to their code.
    pub blocks_invalidated: u64,
    /// VM entries (VMX).
    pub vmx_entries: u64,
    /// VM exits by basic reason.
    pub vmx_exits: Vec<u64>,
    /// The check that failed the last VM entry that failed.
    pub vmx_failed: Option<&'static str>,
    /// #VMEXITs of SVM guests, by EXITCODE.
    pub svm_exits: crate::svm::ExitCounts,
    /// Instructions of the host and of guests.
    pub worlds: crate::worlds::Worlds,
}

/// One logical processor. Fields that a snapshot needs are serialised by [`crate::snapshot`]; the rest is derived.
pub struct Cpu {
    /// The 16 general registers, RIP of the *next* instruction, and a zero; see [`crate::insn`].
    pub regs: [u64; 32],
    /// RFLAGS.
    pub flags: Flags,
    /// Whose undefined flags instructions leave.
    pub(crate) silicon: crate::Silicon,
    /// TLB context of the running code.
    pub(crate) context: ContextId,
    /// Segments as the memory fast path wants them, see [`seg`].
    pub(crate) fast: [SegmentFast; 8],
    /// The TLB.
    pub tlb: Tlb<ContextKey>,
    /// Retired instructions, the current one included (REP string instructions count each interruptible part).
    pub icount: u64,
    /// The running block ends before this instruction index. An instruction that must be the last one sets it to 0.
    pub block_end: usize,
    /// Reasons to look around between blocks, see [`boundary`].
    pub boundary: u32,
    /// Not zero if other CPUs run in turn with this one: then repeated PAUSEs end its turn.
    pub company: u64,
    /// PAUSEs since the last one that did.
    pub(crate) pauses: u8,
    /// The last instruction was such a PAUSE: for the machine's loop, which runs next.
    pub paused: bool,
    /// Not zero if, when the last boundary was left, an interrupt, NMI or SMI waited that could not be taken, or
    /// something of a guest's own ([`Cpu::guest_waits_for_flags`]). While it is
    /// zero, nothing happens where the flags open the way for one.
    pub(crate) held: u64,
    /// What the decoder depends on, see [`crate::mode::Mode`].
    pub mode: crate::mode::Mode,
    /// Current privilege level.
    pub cpl: u8,

    /// Vector registers (ZMM), little-endian quadwords.
    pub zmm: [[u64; 8]; 32],
    /// Opmask registers.
    pub k: [u64; 8],
    /// MXCSR.
    pub mxcsr: u32,
    /// x87 state.
    pub x87: X87,

    /// Segment registers, numbered as in [`seg`] (ES to GS).
    pub seg: [Segment; 6],
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: TableRegister,
    /// IDTR.
    pub idtr: TableRegister,
    /// Control registers.
    pub cr0: u64,
    /// Page-fault linear address.
    pub cr2: u64,
    /// Page-table root.
    pub cr3: u64,
    /// See [`crate::control::cr4`].
    pub cr4: u64,
    /// See [`crate::control::efer`].
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// PKRU.
    pub pkru: u32,
    /// The four PDPTE registers of PAE paging (SDM 3A 4.4.1).
    pub pdptes: [u64; 4],
    /// Debug registers (4 and 5 unused).
    pub dr: [u64; 8],
    /// Model-specific registers without a field of their own.
    pub msrs: Msrs,
    /// The local APIC.
    pub lapic: Lapic,
    /// What the processor is doing.
    pub activity: Activity,
    /// Event delay after the last instruction.
    pub shadow: Shadow,
    /// The shadow in which the current instruction runs.
    pub(crate) in_shadow: Shadow,
    /// The current instruction began with TF set.
    pub(crate) stepping: bool,
    /// EXT, the low bit of selector error codes: an event from outside of the program is being delivered.
    pub(crate) external: u16,
    /// Debug traps to be delivered at the next boundary (bits of DR6).
    pub pending_db: u64,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// An NMI waits.
    pub nmi_pending: bool,
    /// An SMI waits.
    pub smi_pending: bool,
    /// An INIT waits for the end of system-management mode.
    pub init_pending: bool,
    /// In system-management mode.
    pub smm: bool,
    /// The 8259's INTR line (as the machine saw it last).
    pub intr: bool,
    /// Virtualisation.
    pub virt: crate::virt::Virt,
    /// The exception that [`crate::Stop::Exception`] speaks of.
    pub pending: Exception,
    /// Derives virtual time from [`Self::icount`].
    pub clock: Clock,

    /// What a debugger watches.
    pub(crate) watches: crate::watch::Watches,
    /// Whether any data breakpoint is enabled (accesses to their pages then take the slow path).
    pub(crate) data_breakpoints: bool,
    /// TLB context numbers and paging parameters.
    pub(crate) spaces: AddressSpaces,
    /// Bumped whenever cached look-ups of code by linear address become stale.
    pub(crate) fetch_generation: u64,
    /// What MONITOR watches, while it is armed.
    pub(crate) monitor: Option<Monitor>,
    /// State of the source of RDRAND and RDSEED.
    pub(crate) random: u64,
    /// Number in the machine.
    pub id: CpuId,
    /// The CPU model: CPUID, feature set, capability MSRs.
    pub model: Arc<Model>,
    /// Guest-physical memory.
    pub memory: Arc<GuestMemory>,
    /// Everything else.
    pub platform: Arc<dyn Platform>,
    /// Statistics.
    pub counters: Counters,
    /// Pages that this CPU has marked as code where there was none, counted as by
    /// [`code_page_epoch`](ringworld_mmu::GuestMemory::code_page_epoch): the rest was marked by others.
    pub(crate) code_pages_marked: u64,
}

impl Cpu {
    /// RIP of the next instruction.
    #[inline(always)]
    pub fn rip(&self) -> u64 {
        self.regs[REG_RIP as usize]
    }

    /// Sets RIP.
    #[inline(always)]
    pub fn set_rip(&mut self, rip: u64) {
        self.regs[REG_RIP as usize] = rip;
    }

    /// The CPU's virtual time.
    #[inline]
    pub fn now(&self) -> VirtualTime {
        self.clock.at(self.icount)
    }

    /// Who and when, for the platform.
    #[inline]
    pub fn io_context(&mut self) -> IoContext {
        IoContext { cpu: self.id, now: self.clock.show(self.icount) }
    }

    /// The running block ends after the current instruction.
    #[inline(always)]
    pub fn end_block(&mut self) {
        self.block_end = 0;
    }

    /// Asks for a return to the machine's loop after the current instruction.
    pub fn yield_to_machine(&mut self) {
        self.boundary |= boundary::YIELD;
        self.end_block();
    }

    /// 64-bit mode (not compatibility mode).
    #[inline(always)]
    pub fn long64(&self) -> bool {
        self.mode.long64()
    }

    /// EFER.LMA.
    #[inline(always)]
    pub fn long_mode(&self) -> bool {
        self.efer & crate::control::efer::LMA != 0
    }

    /// Protected mode (CR0.PE).
    #[inline(always)]
    pub fn protected(&self) -> bool {
        self.cr0 & crate::control::cr0::PE != 0
    }

    /// Virtual-8086 mode.
    #[inline(always)]
    pub fn v8086(&self) -> bool {
        self.flags.has(crate::flags::bits::VM)
    }

    /// Mask of the stack pointer: SS.B or 64-bit mode.
    #[inline(always)]
    pub fn stack_mask(&self) -> u64 {
        if self.long64() {
            u64::MAX
        } else if self.seg[seg::SS as usize].big() {
            0xffff_ffff
        } else {
            0xffff
        }
    }
}
