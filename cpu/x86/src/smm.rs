//! System-management mode: SMI delivery and RSM (APM 2 chapter 10; SDM 3C chapter 33).
//!
//! The state-save map is the AMD64 one, which is the map that firmware finds on processors with long mode. There is no
//! I/O-instruction restart. Code can move SMBASE by the map.

use crate::control::{cr0, cr4, efer};
use crate::flags::bits;
use crate::insn::{REG_RIP, seg};
use crate::row::Rows;
use crate::segment::{Segment, rights};
use crate::state::{Activity, Shadow, boundary};
use crate::virt::{Intercept, Level};
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;
use ringworld_core::GuestPhys;

/// Where the save area lies, relative to SMBASE, and its size: 0xfe00 to 0xffff.
const AREA: u64 = 0xfe00;
const AREA_SIZE: usize = 0x200;
/// The entry point's offset from SMBASE.
const ENTRY: u64 = 0x8000;
/// Format 0x64, SMBASE relocation.
const REVISION: u32 = 0x0002_0064;

/// Offsets in the save area of APM 2 table 10-1, minus 0xfe00.
mod map {
    /// ES, CS, SS, DS, FS, GS, 16 bytes each.
    pub const SEGMENTS: usize = 0x00;
    pub const GDTR: usize = 0x60;
    pub const LDTR: usize = 0x70;
    pub const IDTR: usize = 0x80;
    pub const TR: usize = 0x90;
    /// Auto-halt restart: the SMI came while halted; set at RSM, the processor halts again.
    pub const HALT: usize = 0xc9;
    /// NMIs were blocked (bit 0).
    pub const NMI_MASK: usize = 0xca;
    pub const EFER: usize = 0xd0;
    pub const REVISION: usize = 0xfc;
    pub const SMBASE: usize = 0x100;
    pub const CR4: usize = 0x148;
    pub const CR3: usize = 0x150;
    pub const CR0: usize = 0x158;
    pub const DR7: usize = 0x160;
    pub const DR6: usize = 0x168;
    pub const RFLAGS: usize = 0x170;
    pub const RIP: usize = 0x178;
    /// R15 down to R8, then RDI, RSI, RBP, RSP, RBX, RDX, RCX, RAX: the registers in falling order of their numbers.
    pub const R15: usize = 0x180;
}

/// Where a general register is in the map.
const fn register_slot(number: usize) -> usize {
    map::R15 + 8 * (15 - number)
}

/// Marks an attribute word of a segment register that holds no segment (a reserved bit of the map).
const UNUSABLE: u16 = 1 << 15;

/// The save area as bytes.
struct Area([u8; AREA_SIZE]);

impl Area {
    fn get(&self, at: usize) -> u64 {
        self.0[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
    fn set(&mut self, at: usize, value: u64, len: usize) {
        self.0[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    }
    fn set_segment(&mut self, at: usize, s: &Segment) {
        // Attributes in 12 bits: type, S, DPL, P, then AVL, L, D/B, G.
        let attributes = s.rights & 0xff | s.rights >> 4 & 0xf00 | if s.unusable { UNUSABLE } else { 0 };
        self.set(at, s.selector.into(), 2);
        self.set(at + 2, attributes.into(), 2);
        self.set(at + 4, s.limit.into(), 4);
        self.set(at + 8, s.base, 8);
    }
    fn segment(&self, at: usize) -> Segment {
        let words = self.get(at);
        let attributes = (words >> 16) as u16;
        Segment {
            selector: words as u16,
            rights: attributes & 0xff | (attributes & 0xf00) << 4,
            limit: (words >> 32) as u32,
            base: self.get(at + 8),
            unusable: attributes & UNUSABLE != 0,
        }
    }
}

impl Cpu {
    /// Takes an SMI. `halted` says whether it ended HLT.
    pub(crate) fn enter_smm(&mut self, halted: bool) {
        let mut area = Area([0; AREA_SIZE]);
        for (n, segment) in self.seg.iter().enumerate() {
            area.set_segment(map::SEGMENTS + 16 * n, segment);
        }
        area.set_segment(map::LDTR, &self.ldtr);
        area.set_segment(map::TR, &self.tr);
        for (at, table) in [(map::GDTR, self.gdtr), (map::IDTR, self.idtr)] {
            area.set(at + 4, table.limit.into(), 2);
            area.set(at + 8, table.base, 8);
        }
        area.set(map::HALT, halted.into(), 1);
        area.set(map::NMI_MASK, self.nmi_blocked.into(), 1);
        area.set(map::REVISION, REVISION.into(), 4);
        area.set(map::SMBASE, self.msrs.smbase, 4);
        for (at, value) in [
            (map::EFER, self.efer),
            (map::CR4, self.cr4),
            (map::CR3, self.cr3),
            (map::CR0, self.cr0),
            (map::DR7, self.dr[7]),
            (map::DR6, self.dr[6]),
            (map::RFLAGS, self.flags.get()),
            (map::RIP, self.rip()),
        ] {
            area.set(at, value, 8);
        }
        for number in 0..16 {
            area.set(register_slot(number), self.regs[number], 8);
        }
        // Where there is no memory, the state is lost, as on a machine without SMRAM.
        let _ = self.memory.write(self.smm_area(), &area.0);

        // APM 2 10.3.1; SDM 3C table 33-4.
        self.smm = true;
        self.suspend_guest();
        self.nmi_blocked = true;
        self.cr0 &= !(cr0::PE | cr0::EM | cr0::TS | cr0::PG);
        self.cr4 = 0;
        self.efer = 0;
        self.dr[7] = 0x400;
        self.flags.set(0);
        self.regs[REG_RIP as usize] = ENTRY;
        self.cpl = 0;
        let flat =
            Segment { selector: 0, rights: 0x93 | rights::G, limit: u32::MAX, base: 0, unusable: false };
        self.seg = [flat; 6];
        let base = self.msrs.smbase;
        self.seg[seg::CS as usize] =
            Segment { selector: (base >> 4) as u16, rights: 0x9b | rights::G, base, ..flat };
        self.shadow = Shadow::None;
        self.after_mode_switch();
    }

    fn smm_area(&self) -> GuestPhys {
        GuestPhys(self.msrs.smbase.wrapping_add(AREA))
    }

    fn after_mode_switch(&mut self) {
        self.debug_registers_changed();
        self.flush_everything();
        self.update_mode();
        self.boundary |= boundary::INTERRUPT;
    }

    /// Whether the saved registers can be loaded; if not, RSM shuts the processor down (APM 2 10.3.7, SDM 3C 33.4.1.1).
    fn can_resume(&self, area: &Area) -> bool {
        let (c0, c3, c4) = (area.get(map::CR0), area.get(map::CR3), area.get(map::CR4));
        let (e, cs) = (area.get(map::EFER), area.segment(map::SEGMENTS + 16 * seg::CS as usize));
        let on = |value: u64, bit: u64| value & bit != 0;
        let long = on(e, efer::LMA);
        let cr0_bad =
            c0 >> 32 != 0 || on(c0, cr0::PG) && !on(c0, cr0::PE) || on(c0, cr0::NW) && !on(c0, cr0::CD);
        let efer_bad = e & !(efer::LMA | self.model.efer_supported()) != 0
            || long != (on(e, efer::LME) && on(c0, cr0::PG))
            || long && !on(c4, cr4::PAE)
            || long && cs.long() && cs.big();
        !cr0_bad
            && !efer_bad
            && c3 >> self.physical_bits() == 0
            && c4 & !self.model.cr4_supported() == 0
            && (long || !on(c4, cr4::PCIDE))
            && area.get(map::DR6) >> 32 == 0
            && area.get(map::DR7) >> 32 == 0
    }

    fn resume(&mut self) -> Result<(), Stop> {
        let mut area = Area([0xff; AREA_SIZE]);
        let _ = self.memory.read(self.smm_area(), &mut area.0);
        if !self.can_resume(&area) {
            tracing::debug!(target: "ringworld::exception", "RSM of a state that cannot be: shutdown");
            self.suspend(Activity::Shutdown);
            return Ok(());
        }
        for (n, segment) in self.seg.iter_mut().enumerate() {
            *segment = area.segment(map::SEGMENTS + 16 * n);
        }
        self.ldtr = area.segment(map::LDTR);
        self.tr = area.segment(map::TR);
        for (at, table) in [(map::GDTR, &mut self.gdtr), (map::IDTR, &mut self.idtr)] {
            table.limit = (area.get(at) >> 32) as u16;
            table.base = area.get(at + 8);
        }
        self.cr0 = area.get(map::CR0) | cr0::ET;
        self.cr3 = area.get(map::CR3);
        self.cr4 = area.get(map::CR4);
        self.efer = area.get(map::EFER);
        self.dr[6] = area.get(map::DR6) & 0xe00f | 0xffff_0ff0;
        self.dr[7] = area.get(map::DR7) & 0xffff_2bff | 0x400;
        self.flags.set(area.get(map::RFLAGS));
        for number in 0..16 {
            self.regs[number] = area.get(register_slot(number));
        }
        self.set_rip(area.get(map::RIP));
        self.msrs.smbase = area.get(map::SMBASE) & 0xffff_ffff;
        self.nmi_blocked = area.get(map::NMI_MASK) & 1 != 0;
        self.smm = false;
        self.resume_guest();
        // Privilege is that of the stack segment; outside of protected mode it is that of the mode.
        self.cpl = match (self.protected(), self.flags.has(bits::VM)) {
            (false, _) => 0,
            (true, true) => 3,
            (true, false) => self.seg[seg::SS as usize].dpl(),
        };
        self.after_mode_switch();
        if self.cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 && !self.long_mode() {
            let cr3 = self.cr3;
            if self.load_pdptes(cr3).is_err() {
                self.suspend(Activity::Shutdown);
                return Ok(());
            }
            self.update_context();
        }
        if area.get(map::HALT) & 1 != 0 {
            self.suspend(Activity::Halted);
        }
        if core::mem::take(&mut self.init_pending) {
            self.take_init();
        }
        Ok(())
    }
}

/// RSM: #UD outside of system-management mode.
fn rsm(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    // SVM's intercept comes before the check of the mode (APM 2 table 15-7).
    if cpu.smm || cpu.virt.level == Level::Svm {
        cpu.intercept(Intercept::Rsm, i)?;
    }
    if cpu.smm { cpu.resume() } else { Err(cpu.ud()) }
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Rsm, rsm).ends_block();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::gpr;
    use crate::testing::cpu;

    #[test]
    fn an_smi_saves_and_rsm_restores() {
        let mut cpu = cpu("max");
        for n in 0..16 {
            cpu.regs[n] = 0x1111_1111_1111_1111 * n as u64;
        }
        cpu.seg[seg::FS as usize].base = 0xffff_8000_1234_5678;
        cpu.seg[seg::GS as usize].unusable = true;
        cpu.cr0 = 0x8005_0033;
        cpu.cr3 = 0x1000;
        cpu.cr4 = cr4::PAE | cr4::OSFXSR;
        cpu.efer = efer::LME | efer::LMA | efer::SCE;
        cpu.seg[seg::CS as usize].rights = 0x9b | rights::L;
        cpu.flags.set(0x246);
        cpu.set_rip(0xffff_ffff_8100_0000);
        let before = (cpu.regs, cpu.seg, cpu.tr, cpu.gdtr, cpu.flags.get());
        cpu.update_mode();

        cpu.enter_smm(false);
        // APM 2 10.3.1 and table 10-2.
        assert_eq!((cpu.cr0, cpu.cr4, cpu.efer, cpu.dr[7]), (0x0005_0032, 0, 0, 0x400));
        assert_eq!((cpu.rip(), cpu.flags.get()), (0x8000, 2));
        let cs = cpu.seg[seg::CS as usize];
        assert_eq!((cs.selector, cs.base, cs.limit), (0x3000, 0x3_0000, u32::MAX));
        let peek = |cpu: &Cpu, at: u64| {
            let mut bytes = [0; 8];
            cpu.memory.read(GuestPhys(0x3_0000 + at), &mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        };
        // APM 2 table 10-1.
        assert_eq!(peek(&cpu, 0xfff8), before.0[gpr::RAX]);
        assert_eq!(peek(&cpu, 0xff78), 0xffff_ffff_8100_0000);
        assert_eq!(peek(&cpu, 0xfe48), 0xffff_8000_1234_5678);
        assert_eq!(peek(&cpu, 0xfefc) as u32, 0x0002_0064);
        assert_eq!(peek(&cpu, 0xff00) as u32, 0x3_0000);
        assert!(cpu.nmi_blocked && cpu.smm);

        // The handler moves SMBASE.
        cpu.memory.write(GuestPhys(0x3_ff00), &0x4_0000_u32.to_le_bytes()).unwrap();
        cpu.resume().unwrap();
        assert_eq!((cpu.regs, cpu.seg, cpu.tr, cpu.gdtr, cpu.flags.get()), before);
        assert_eq!((cpu.cr0, cpu.cr4), (0x8005_0033, cr4::PAE | cr4::OSFXSR));
        assert_eq!((cpu.efer, cpu.msrs.smbase), (efer::LME | efer::LMA | efer::SCE, 0x4_0000));
        assert!(!cpu.nmi_blocked && !cpu.smm && cpu.long64());
    }

    #[test]
    fn a_halted_processor_halts_again_unless_told_otherwise() {
        // APM 2 10.2.6 (auto-halt restart).
        for again in [true, false] {
            let mut cpu = cpu("max");
            cpu.enter_smm(true);
            cpu.memory.write(GuestPhys(0x3_fec9), &[u8::from(again)]).unwrap();
            cpu.resume().unwrap();
            assert_eq!(cpu.activity == Activity::Halted, again);
        }
    }

    #[test]
    fn impossible_states_shut_down() {
        // APM 2 10.3.7: what RSM checks.
        for (at, value) in [
            (0xff58_u64, 0x8000_0000_u64),
            (0xff58, 0x2000_0011),
            (0xff58, 1 << 32),
            (0xff50, 1 << 60),
            (0xff48, 1 << 31),
            (0xff60, 1 << 32),
            (0xff68, 1 << 32),
            (0xfed0, 1 << 1),
            (0xfed0, efer::LMA),
        ] {
            let mut cpu = cpu("max");
            cpu.enter_smm(false);
            cpu.memory.write(GuestPhys(0x3_0000 + at), &value.to_le_bytes()).unwrap();
            cpu.resume().unwrap();
            assert_eq!(cpu.activity, Activity::Shutdown, "{value:#x} at {at:#x}");
        }
    }

    #[test]
    fn rsm_is_undefined_outside() {
        let mut cpu = cpu("max");
        assert!(rsm(&mut cpu, &crate::decode::invalid()).is_err());
        assert_eq!(cpu.pending.vector, 6);
    }
}
