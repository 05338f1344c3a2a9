//! The registers, by memory (xAPIC, SDM 3A table 12-1) and by MSR (x2APIC, SDM 3A table 12-6).

use super::lvt::MASKED;
use super::{
    Accepted, ApicFault, ApicMode, ESR_REGISTER, Effects, Lapic, LocalSource, SVR_ENABLE, SVR_SUPPRESS_EOI,
};
use ringworld_core::VirtualTime;

/// Register numbers: the MMIO offset divided by 16, or the MSR minus 0x800.
const ID: u32 = 0x02;
const VERSION: u32 = 0x03;
const TPR: u32 = 0x08;
const APR: u32 = 0x09;
const PPR: u32 = 0x0a;
const EOI: u32 = 0x0b;
const RRD: u32 = 0x0c;
const LDR: u32 = 0x0d;
const DFR: u32 = 0x0e;
const SVR: u32 = 0x0f;
const ISR: u32 = 0x10;
const TMR: u32 = 0x18;
const IRR: u32 = 0x20;
const ESR: u32 = 0x28;
const ICR: u32 = 0x30;
const ICR_HIGH: u32 = 0x31;
const INITIAL_COUNT: u32 = 0x38;
const CURRENT_COUNT: u32 = 0x39;
const DIVIDE: u32 = 0x3e;
const SELF_IPI: u32 = 0x3f;

/// The first MSR of the x2APIC's range.
const MSR_BASE: u32 = 0x800;
/// Bits of the ICR's low half that software sets; bit 12 (delivery status) is always idle.
const ICR_WRITABLE: u64 = 0x000c_cfff;
/// Bits of the ICR that #GP in x2APIC mode.
const ICR_RESERVED: u64 = 0xfff3_2000;
/// Bits of the divide configuration register.
const DIVIDE_WRITABLE: u32 = 0xb;

impl Lapic {
    fn version(&self) -> u32 {
        let entries = if self.config.cmci { 6 } else { 5 };
        0x14 | entries << 16 | u32::from(self.config.suppress_eoi_broadcast) << 24
    }

    fn svr_writable(&self) -> u32 {
        // Vector, enable, focus check (without function from the Pentium 4 on).
        0x3ff | if self.config.suppress_eoi_broadcast { SVR_SUPPRESS_EOI } else { 0 }
    }

    /// The entry of the vector table at `register`, if this APIC has it.
    fn lvt_at(&self, register: u32) -> Option<LocalSource> {
        LocalSource::of_register(register).filter(|&source| source != LocalSource::Cmci || self.config.cmci)
    }

    /// A register that is the same in both modes; `None` where there is none to be read.
    fn read_common(&self, register: u32, now: VirtualTime) -> Option<u32> {
        Some(match register {
            VERSION => self.version(),
            TPR => u32::from(self.tpr),
            PPR => u32::from(self.ppr()),
            LDR => self.logical_id(),
            SVR => self.svr,
            ISR..TMR => self.isr.register(register - ISR),
            TMR..IRR => self.tmr.register(register - TMR),
            IRR..ESR => self.irr.register(register - IRR),
            ESR => self.esr,
            INITIAL_COUNT => self.timer.initial,
            CURRENT_COUNT => self.timer.current(now),
            DIVIDE => self.timer.divide,
            _ => self.lvt[self.lvt_at(register)? as usize],
        })
    }

    /// Writes a register that is the same in both modes, leaving out bits that do not exist. `None` where there is none
    /// to be written.
    fn write_common(&mut self, register: u32, value: u32, now: VirtualTime) -> Option<Effects> {
        let mut effects = Effects::default();
        match register {
            TPR => self.tpr = value as u8,
            EOI => effects.eoi = self.end_of_interrupt(),
            SVR => {
                self.svr = value & self.svr_writable();
                if value & SVR_ENABLE == 0 {
                    self.lvt.iter_mut().for_each(|entry| *entry |= MASKED);
                }
            }
            ESR => self.esr = core::mem::take(&mut self.errors),
            INITIAL_COUNT if self.timer_mode() != super::TimerMode::TscDeadline => {
                self.timer.start(value, now)
            }
            INITIAL_COUNT => {}
            DIVIDE => self.timer.set_divide(value & DIVIDE_WRITABLE, now),
            _ => effects.local = self.write_lvt(self.lvt_at(register)?, value),
        }
        Some(effects)
    }

    /// Reads the APIC's page at `offset` (xAPIC mode). Each register is the first four of 16 bytes; what lies between
    /// reads as zero. A register that does not exist is an error in the ESR.
    pub fn mmio_read(&mut self, offset: u64, data: &mut [u8], now: VirtualTime) -> Accepted {
        self.tick(now);
        let mut local = Accepted::No;
        let mut loaded = None;
        for (i, to) in data.iter_mut().enumerate() {
            let at = (offset.wrapping_add(i as u64) & 0xfff) as u32;
            let register = at >> 4;
            if loaded.is_none_or(|(number, _)| number != register) {
                let value = self.read_mmio_register(register, now).unwrap_or_else(|| {
                    local = self.error(ESR_REGISTER);
                    0
                });
                loaded = Some((register, value));
            }
            let value = loaded.map_or(0, |(_, value)| value);
            *to = value.to_le_bytes().get(at as usize & 15).copied().unwrap_or(0);
        }
        local
    }

    fn read_mmio_register(&self, register: u32, now: VirtualTime) -> Option<u32> {
        Some(match register {
            ID => u32::from(self.id) << 24,
            APR => u32::from(self.arbitration_priority()),
            RRD => 0,
            EOI => 0,
            DFR => self.dfr,
            ICR => self.icr as u32,
            ICR_HIGH => (self.icr >> 32) as u32,
            _ => return self.read_common(register, now),
        })
    }

    /// Writes the APIC's page at `offset` (xAPIC mode). Registers take aligned writes of at least four bytes, of which
    /// the first four count; SDM 3A 12.4.1 leaves others undefined, here they do nothing.
    pub fn mmio_write(&mut self, offset: u64, data: &[u8], now: VirtualTime) -> Effects {
        self.tick(now);
        let Some(&bytes) = data.first_chunk().filter(|_| offset & 15 == 0) else { return Effects::default() };
        let value = u32::from_le_bytes(bytes);
        let register = (offset & 0xfff) as u32 >> 4;
        let mut effects = Effects::default();
        match register {
            ID => self.id = (value >> 24) as u8,
            LDR => self.ldr = value & 0xff00_0000,
            DFR => self.dfr = value | 0x0fff_ffff,
            ICR => {
                self.icr = self.icr & !0xffff_ffff | u64::from(value) & ICR_WRITABLE;
                effects = self.send();
            }
            ICR_HIGH => self.icr = self.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
            // Writes to read-only registers are lost.
            VERSION | APR | PPR | RRD | CURRENT_COUNT | ISR..ESR => {}
            _ => match self.write_common(register, value, now) {
                Some(done) => effects = done,
                None => effects.local = self.error(ESR_REGISTER),
            },
        }
        effects
    }

    /// RDMSR of 0x800 to 0x8ff.
    pub fn msr_read(&mut self, msr: u32, now: VirtualTime) -> Result<u64, ApicFault> {
        if self.mode() != ApicMode::X2Apic {
            return Err(ApicFault);
        }
        self.tick(now);
        match msr.wrapping_sub(MSR_BASE) {
            ID => Ok(u64::from(self.config.id)),
            ICR => Ok(self.icr),
            register => self.read_common(register, now).map(u64::from).ok_or(ApicFault),
        }
    }

    /// WRMSR of 0x800 to 0x8ff. Reserved bits, read-only and missing registers are faults (SDM 3A 12.12.1.3).
    pub fn msr_write(&mut self, msr: u32, value: u64, now: VirtualTime) -> Result<Effects, ApicFault> {
        let register = msr.wrapping_sub(MSR_BASE);
        if self.mode() != ApicMode::X2Apic {
            return Err(ApicFault);
        }
        let allowed = match register {
            TPR | SELF_IPI => 0xff,
            EOI | ESR => 0,
            SVR => u64::from(self.svr_writable()),
            ICR => !ICR_RESERVED,
            INITIAL_COUNT => 0xffff_ffff,
            DIVIDE => u64::from(DIVIDE_WRITABLE),
            _ => {
                let source = self.lvt_at(register).ok_or(ApicFault)?;
                u64::from(source.allowed(self.config.tsc_deadline))
            }
        };
        if value & !allowed != 0 {
            return Err(ApicFault);
        }
        self.tick(now);
        match register {
            SELF_IPI => Ok(self.send_self(value as u8)),
            ICR => {
                self.icr = value & (0xffff_ffff_0000_0000 | ICR_WRITABLE);
                Ok(self.send())
            }
            _ => self.write_common(register, value as u32, now).ok_or(ApicFault),
        }
    }
}
