//! Architectural performance monitoring, version 2 (SDM 3B 20.2): four general counters and three fixed ones.
//! On AMD models, the four counters that all of them have (APM 2 13.2.1), without global control.
//!
//! One instruction takes one cycle here, so all events that exist (instructions retired, core cycles, reference cycles)
//! count the same thing: instructions. Counters are not touched while code runs; [`Cpu::pmu_sync`] brings them to the
//! present whenever somebody looks, or what they count by changes (privilege, controls).

use crate::control::efer;
use crate::lapic::LocalSource;
use crate::{Cpu, Stop};
use serde::{Deserialize, Serialize};

const GENERAL: usize = 4;
const FIXED: usize = 3;
const WIDTH: u32 = 48;
const VALUE: u64 = (1 << WIDTH) - 1;

/// IA32_PERF_CAPABILITIES: full-width writes of the general counters.
pub(crate) const CAPABILITIES: u64 = 1 << 13;

const FIXED_CTR_CTRL: u32 = 0x38d;
const GLOBAL_STATUS: u32 = 0x38e;
const GLOBAL_CTRL: u32 = 0x38f;
const GLOBAL_OVF_CTRL: u32 = 0x390;
const PERFEVTSEL0: u32 = 0x186;
const FIXED_CTR0: u32 = 0x309;
const PMC0: u32 = 0xc1;
const A_PMC0: u32 = 0x4c1;
const AMD_PERFEVTSEL0: u32 = 0xc001_0000;
const AMD_PERFCTR0: u32 = 0xc001_0004;

/// Bits of GLOBAL_CTRL and GLOBAL_STATUS that stand for counters.
pub(crate) const ALL_COUNTERS: u64 = ((1 << GENERAL) - 1) | ((1 << FIXED) - 1) << 32;

mod evtsel {
    pub const USR: u64 = 1 << 16;
    pub const OS: u64 = 1 << 17;
    pub const EDGE: u64 = 1 << 18;
    pub const INT: u64 = 1 << 20;
    pub const ANY_THREAD: u64 = 1 << 21;
    pub const EN: u64 = 1 << 22;
    pub const INV: u64 = 1 << 23;
    /// AMD: the lower half but pin control and a reserved bit, the event's upper bits, and the two below.
    pub const AMD: u64 = 0x30f_ffd7_ffff;
    /// AMD: while EFER.SVME is set, in guests only, in the host only; both are as none.
    pub const GUEST_ONLY: u64 = 1 << 40;
    pub const HOST_ONLY: u64 = 1 << 41;
}

/// CPUID leaf 0xA: the events without instructions retired, core and reference cycles are unavailable.
pub(crate) fn cpuid_leaf() -> [u32; 4] {
    let eax = 2 | (GENERAL as u32) << 8 | WIDTH << 16 | 7 << 24;
    [eax, 0b111_1000, 0, FIXED as u32 | WIDTH << 5]
}

/// The counters and their controls.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pmu {
    /// General counters, then fixed ones, as of `synced`.
    counters: [u64; GENERAL + FIXED],
    event_select: [u64; GENERAL],
    fixed_control: u64,
    global_control: u64,
    global_status: u64,
    /// The instruction count up to which events are counted.
    synced: u64,
    /// Whether the instructions since then run at CPL 0.
    supervisor: bool,
    /// Whether they run in a guest, on AMD models while EFER.SVME is set.
    guest: Option<bool>,
    /// Something counts.
    active: bool,
    /// Something counts at one privilege, in a guest or in the host, and not at the other.
    by_privilege: bool,
    /// Events have AMD's numbers.
    amd: bool,
}

impl Pmu {
    /// The state after RESET: all general counters enabled globally (SDM 3B 20.2.2), none locally.
    pub fn at_reset(amd: bool) -> Self {
        Self { global_control: (1 << GENERAL) - 1, supervisor: true, amd, ..Self::default() }
    }

    /// Events that counter `n` sees for each instruction at the present privilege: 0 or 1.
    fn rate(&self, n: usize) -> u64 {
        let global = if n < GENERAL { n } else { 32 + n - GENERAL };
        if self.global_control >> global & 1 == 0 {
            return 0;
        }
        if n >= GENERAL {
            let enable = self.fixed_control >> (4 * (n - GENERAL)) & 3;
            return if self.supervisor { enable & 1 } else { enable >> 1 };
        }
        let select = self.event_select[n];
        let privilege = if self.supervisor { evtsel::OS } else { evtsel::USR };
        let elsewhere = match self.guest {
            Some(true) => evtsel::HOST_ONLY,
            Some(false) => evtsel::GUEST_ONLY,
            None => 0,
        };
        if self.amd && select & (evtsel::GUEST_ONLY | evtsel::HOST_ONLY) == elsewhere && elsewhere != 0 {
            return 0;
        }
        let known = match (self.amd, select & 0xf_0000_ffff) {
            // Unhalted core cycles, instructions retired, unhalted reference cycles.
            (false, event) => matches!(event, 0x003c | 0x00c0 | 0x013c),
            // Cycles not in halt, retired instructions.
            (true, event) => matches!(event, 0x0076 | 0x00c0),
        };
        // One event a cycle: with a threshold, "at least one" holds always and "at least two" never.
        let threshold = select >> 24 & 0xff;
        let counts = match (threshold, select & evtsel::INV != 0) {
            (0, _) => true,
            (threshold, inverted) => (threshold == 1) != inverted,
        };
        let edge = select & evtsel::EDGE != 0;
        u64::from(known && counts && !edge && select & evtsel::EN != 0 && select & privilege != 0)
    }

    fn interrupts(&self, n: usize) -> bool {
        if n < GENERAL {
            self.event_select[n] & evtsel::INT != 0
        } else {
            self.fixed_control >> (4 * (n - GENERAL) + 3) & 1 != 0
        }
    }

    /// Counts up to instruction `now`. Returns whether a counter that overflowed asks for an interrupt.
    fn advance(&mut self, now: u64) -> bool {
        let events = now.wrapping_sub(self.synced);
        self.synced = now;
        let mut interrupt = false;
        for n in 0..self.counters.len() {
            let sum = self.counters[n].wrapping_add(events.wrapping_mul(self.rate(n)));
            self.counters[n] = sum & VALUE;
            if sum > VALUE {
                self.global_status |= 1 << if n < GENERAL { n } else { 32 + n - GENERAL };
                interrupt |= self.interrupts(n);
            }
        }
        interrupt
    }

    /// Recomputes what the controls say as a whole.
    fn controls_changed(&mut self) {
        let now = (self.supervisor, self.guest);
        let mut rates = [0; 6];
        let worlds = [None, Some(false), Some(true)];
        let moments = worlds.into_iter().flat_map(|guest| [(true, guest), (false, guest)]);
        for (rates, moment) in rates.iter_mut().zip(moments) {
            (self.supervisor, self.guest) = moment;
            *rates = (0..self.counters.len()).map(|n| self.rate(n) << n).sum::<u64>();
        }
        (self.supervisor, self.guest) = now;
        self.active = rates != [0; 6];
        self.by_privilege = rates.iter().any(|&rate| rate != rates[0]);
    }

    /// Instructions until a counter overflows and interrupts.
    fn until_interrupt(&self) -> Option<u64> {
        (0..self.counters.len())
            .filter(|&n| self.interrupts(n) && self.rate(n) != 0)
            .map(|n| VALUE.wrapping_sub(self.counters[n]).wrapping_add(1))
            .min()
    }
}

impl Cpu {
    /// Brings the counters to instruction `now`, and takes note of the privilege of what follows. Overflows raise the
    /// performance-monitoring interrupt.
    fn pmu_advance(&mut self, now: u64) {
        let interrupt = self.msrs.pmu.advance(now);
        self.msrs.pmu.supervisor = self.cpl == 0;
        self.msrs.pmu.guest = self.pmu_guest();
        if interrupt {
            let accepted = self.lapic.trigger(LocalSource::Performance);
            self.accept(accepted);
        }
    }

    /// See [`Pmu::guest`].
    #[inline]
    fn pmu_guest(&self) -> Option<bool> {
        (self.msrs.pmu.amd && self.efer & efer::SVME != 0).then(|| self.mode.guest())
    }

    /// To be called when the privilege level may have changed, or a guest has been entered or left.
    #[inline]
    pub(crate) fn pmu_privilege(&mut self) {
        let pmu = &self.msrs.pmu;
        if pmu.by_privilege && (pmu.supervisor != (self.cpl == 0) || pmu.guest != self.pmu_guest()) {
            self.pmu_sync();
        }
    }

    /// Brings the counters to the present; [`Cpu::pmu_deadline`] wants it.
    #[cold]
    pub(crate) fn pmu_sync(&mut self) {
        let before = self.pmu_deadline();
        self.pmu_advance(self.icount);
        if self.pmu_deadline() < before {
            // The machine's loop does not know of this moment.
            self.yield_to_machine();
        }
    }

    /// The instruction that has been counted last left a guest: it has not retired (SDM 3B 20.2.1.2).
    pub(crate) fn pmu_skip(&mut self) {
        if self.msrs.pmu.active && self.msrs.pmu.synced < self.icount {
            self.pmu_advance(self.icount - 1);
            self.msrs.pmu.synced = self.icount;
        }
    }

    /// The instruction count at which a counter overflows and interrupts, if the privilege level stays as it is.
    pub(crate) fn pmu_deadline(&self) -> u64 {
        let pmu = &self.msrs.pmu;
        match pmu.active {
            true => pmu.until_interrupt().map_or(u64::MAX, |events| pmu.synced.saturating_add(events)),
            false => u64::MAX,
        }
    }

    /// RDPMC (SDM 2B): bit 30 of ECX selects the fixed counters.
    pub(crate) fn read_pmc(&mut self, ecx: u32) -> Result<u64, Stop> {
        let n = match ecx {
            0..4 => ecx as usize,
            0x4000_0000..=0x4000_0002 => GENERAL + (ecx & 3) as usize,
            _ => return Err(self.gp0()),
        };
        let amd = self.model.is_amd();
        if !amd && !self.model.has(crate::model::Feature::Pmu) || amd && n >= GENERAL {
            return Err(self.gp0());
        }
        // The reading instruction itself has not retired.
        self.pmu_advance(self.icount.wrapping_sub(1));
        Ok(self.msrs.pmu.counters[n])
    }
}

fn counter(index: u32) -> usize {
    let n = match index {
        AMD_PERFCTR0.. => (index - AMD_PERFCTR0) as usize,
        FIXED_CTR0.. if index < A_PMC0 => GENERAL + (index - FIXED_CTR0) as usize,
        A_PMC0.. => (index - A_PMC0) as usize,
        _ => index.wrapping_sub(PMC0) as usize,
    };
    n % (GENERAL + FIXED)
}

pub(crate) fn read_counter(cpu: &mut Cpu, index: u32) -> Result<u64, Stop> {
    cpu.pmu_advance(cpu.icount.wrapping_sub(1));
    Ok(cpu.msrs.pmu.counters[counter(index)])
}

pub(crate) fn write_counter(cpu: &mut Cpu, index: u32, value: u64) -> Result<(), Stop> {
    // The general counters' old addresses take 32 bits and extend the sign (SDM 3B 20.2.8).
    let value = match index {
        AMD_PERFCTR0.. => value & VALUE,
        A_PMC0.. | FIXED_CTR0.. if value & !VALUE != 0 => return Err(cpu.gp0()),
        A_PMC0.. | FIXED_CTR0.. => value,
        _ => value as u32 as i32 as u64 & VALUE,
    };
    cpu.pmu_advance(cpu.icount);
    cpu.msrs.pmu.counters[counter(index)] = value;
    cpu.yield_to_machine();
    Ok(())
}

pub(crate) fn read_control(cpu: &mut Cpu, index: u32) -> Result<u64, Stop> {
    cpu.pmu_advance(cpu.icount.wrapping_sub(1));
    let pmu = &cpu.msrs.pmu;
    Ok(match index {
        FIXED_CTR_CTRL => pmu.fixed_control,
        GLOBAL_STATUS => pmu.global_status,
        GLOBAL_CTRL => pmu.global_control,
        GLOBAL_OVF_CTRL => 0,
        _ => pmu.event_select[event_select(index)],
    })
}

fn event_select(index: u32) -> usize {
    let first = if index >= AMD_PERFEVTSEL0 { AMD_PERFEVTSEL0 } else { PERFEVTSEL0 };
    index.wrapping_sub(first) as usize % GENERAL
}

pub(crate) fn write_control(cpu: &mut Cpu, index: u32, value: u64) -> Result<(), Stop> {
    /// No AnyThread: that is version 3.
    const FIXED_WRITABLE: u64 = 0xbbb;
    /// Overflow of the DS buffer and "condition changed", which do not happen.
    const OTHER_STATUS: u64 = 3 << 62;
    let writable = match index {
        FIXED_CTR_CTRL => FIXED_WRITABLE,
        GLOBAL_CTRL => ALL_COUNTERS,
        GLOBAL_OVF_CTRL => ALL_COUNTERS | OTHER_STATUS,
        // Read-only in version 2.
        GLOBAL_STATUS => return Err(cpu.gp0()),
        AMD_PERFEVTSEL0.. => u64::MAX,
        _ => 0xffff_ffff & !evtsel::ANY_THREAD,
    };
    if value & !writable != 0 {
        return Err(cpu.gp0());
    }
    cpu.pmu_advance(cpu.icount);
    let pmu = &mut cpu.msrs.pmu;
    match index {
        FIXED_CTR_CTRL => pmu.fixed_control = value,
        GLOBAL_CTRL => pmu.global_control = value,
        GLOBAL_OVF_CTRL => pmu.global_status &= !value,
        AMD_PERFEVTSEL0.. => pmu.event_select[event_select(index)] = value & evtsel::AMD,
        _ => pmu.event_select[event_select(index)] = value,
    }
    pmu.controls_changed();
    cpu.yield_to_machine();
    Ok(())
}
