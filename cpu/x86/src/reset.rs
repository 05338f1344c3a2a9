//! Power-up, reset and INIT (SDM 3A table 10-1).

use crate::control::cr0;
use crate::fault::Exception;
use crate::flags::Flags;
use crate::insn::{REG_RIP, seg};
use crate::mode::Mode;
use crate::model::Model;
use crate::msr::Msrs;
use crate::paging::AddressSpaces;
use crate::segment::{Segment, SegmentFast};
use crate::state::{Activity, Counters, Shadow, TableRegister, gpr};
use crate::timers::lapic_for;
use crate::x87::X87;
use crate::{Cpu, state::boundary};
use ringworld_core::{Clock, CpuId, Platform};
use ringworld_mmu::GuestMemory;
use ringworld_mmu::tlb::{ContextId, Tlb};
use std::sync::Arc;

impl Cpu {
    /// A processor after power-up.
    pub fn new(id: CpuId, model: Arc<Model>, memory: Arc<GuestMemory>, platform: Arc<dyn Platform>) -> Self {
        let mut cpu = Self {
            regs: [0; 32],
            flags: Flags::RESET,
            silicon: crate::Silicon::host(),
            context: ContextId::default(),
            fast: [SegmentFast::flat(0); 8],
            tlb: Tlb::default(),
            icount: 0,
            block_end: 0,
            boundary: 0,
            company: 0,
            pauses: 0,
            paused: false,
            held: 1,
            mode: Mode::default(),
            cpl: 0,
            zmm: [[0; 8]; 32],
            k: [0; 8],
            mxcsr: 0,
            x87: X87::default(),
            seg: [Segment::default(); 6],
            ldtr: Segment::default(),
            tr: Segment::default(),
            gdtr: TableRegister::default(),
            idtr: TableRegister::default(),
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 0,
            pkru: 0,
            pdptes: [0; 4],
            dr: [0; 8],
            msrs: Msrs::default(),
            lapic: lapic_for(&model, id),
            activity: Activity::Active,
            shadow: Shadow::None,
            in_shadow: Shadow::None,
            external: 0,
            stepping: false,
            pending_db: 0,
            nmi_blocked: false,
            nmi_pending: false,
            smi_pending: false,
            init_pending: false,
            smm: false,
            intr: false,
            virt: crate::virt::Virt::default(),
            pending: Exception::default(),
            clock: Clock::default(),
            watches: Default::default(),
            data_breakpoints: false,
            spaces: AddressSpaces::default(),
            fetch_generation: 0,
            monitor: None,
            random: 0,
            id,
            model,
            memory,
            platform,
            counters: Counters::default(),
            code_pages_marked: 0,
        };
        cpu.seed_random(0);
        cpu.reset();
        cpu
    }

    /// Power-up or RESET. The clock goes on.
    pub fn reset(&mut self) {
        self.init_common();
        self.cr0 = cr0::CD | cr0::NW | cr0::ET;
        self.zmm = [[0; 8]; 32];
        self.k = [0; 8];
        self.mxcsr = 0x1f80;
        self.x87 = X87 { control: 0x40, valid: 0xff, ..X87::default() };
        self.xcr0 = crate::control::xcr0::X87;
        self.pkru = 0;
        self.virt = crate::virt::Virt::default();
        self.set_guest_space(None);
        self.msrs = Msrs::at_reset(&self.model);
        self.lapic.reset();
        self.set_tsc_offset(self.now().0.wrapping_neg());
        self.flush_everything();
        self.update_mode();
    }

    /// What reset and INIT have in common.
    fn init_common(&mut self) {
        self.regs = [0; 32];
        self.regs[gpr::RDX] = u64::from(self.model.signature());
        self.regs[REG_RIP as usize] = 0xfff0;
        self.flags = Flags::RESET;
        self.cpl = 0;
        self.seg = [Segment::real(0); 6];
        self.seg[seg::CS as usize] =
            Segment { selector: 0xf000, rights: 0x9b, limit: 0xffff, base: 0xffff_0000, unusable: false };
        self.ldtr = Segment { rights: 0x82, limit: 0xffff, ..Segment::default() };
        self.tr = Segment { rights: 0x8b, limit: 0xffff, ..Segment::default() };
        self.gdtr = TableRegister { base: 0, limit: 0xffff };
        self.idtr = TableRegister { base: 0, limit: 0xffff };
        self.cr2 = 0;
        self.cr3 = 0;
        self.cr4 = 0;
        self.efer = 0;
        self.pdptes = [0; 4];
        self.dr = [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400];
        self.data_breakpoints = !self.watches.is_empty();
        self.activity = Activity::Active;
        self.shadow = Shadow::None;
        self.in_shadow = Shadow::None;
        self.external = 0;
        self.pending_db = 0;
        self.nmi_blocked = false;
        self.nmi_pending = false;
        self.smi_pending = false;
        self.init_pending = false;
        self.smm = false;
        self.monitor = None;
        self.boundary = boundary::INTERRUPT;
    }

    /// INIT (SDM 3A table 10-1): as reset, but caches, vector and x87 state, MSRs and most of CR0.CD/NW stay.
    pub fn init(&mut self) {
        let cache_bits = self.cr0 & (cr0::CD | cr0::NW);
        self.forget_guest();
        self.init_common();
        self.cr0 = cache_bits | cr0::ET;
        self.flush_everything();
        self.update_mode();
    }
}
