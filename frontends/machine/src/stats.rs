//! What a run has done, in numbers.

use iced_x86::Code;
use ringworld_devices::{BoardCounters, RegionCounters};
use ringworld_jit_x86::JitStats;
use ringworld_x86::state::Counters;
use serde::Serialize;

/// Counters of a machine since it was built.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// Instructions of all CPUs.
    pub instructions: u64,
    /// Virtual time in nanoseconds.
    pub virtual_ns: u64,
    /// Resets that restarted the guest.
    pub resets: u64,
    /// Each CPU.
    pub cpus: Vec<CpuStats>,
    /// What the translators have done.
    pub translator: Option<TranslatorStats>,
    /// Accesses to I/O ports, by region.
    pub ports: Vec<RegionStats>,
    /// Accesses to memory-mapped registers, by region.
    pub mmio: Vec<RegionStats>,
    /// Bytes of port accesses that nothing answered.
    pub unclaimed_ports: u64,
    /// Bytes of memory accesses that nothing answered.
    pub unclaimed_memory: u64,
}

/// What the translators of all CPUs have done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TranslatorStats {
    /// Blocks translated.
    pub blocks: u64,
    /// Guest instructions translated.
    pub instructions: u64,
    /// Their bytes.
    pub guest_bytes: u64,
    /// Host bytes emitted for them.
    pub host_bytes: u64,
    /// Host time spent translating, in nanoseconds.
    pub nanoseconds: u64,
    /// Blocks that were stale.
    pub invalidated: u64,
    /// Times that all code was forgotten.
    pub flushes: u64,
    /// Entries into translated code from the run loop.
    pub entries: u64,
    /// Blocks that access memory in windows.
    pub windowed: u64,
    /// Their accesses to pages that were not shown there.
    pub window_faults: u64,
    /// Instructions that translated code ran by their function.
    pub executed: u64,
    /// The forms of these, most frequent first.
    pub executed_forms: Vec<(String, u64)>,
}

impl TranslatorStats {
    pub(crate) fn sum<'a>(all: impl Iterator<Item = &'a JitStats>) -> Option<Self> {
        let mut sum: Option<Self> = None;
        let mut forms = Vec::new();
        for one in all {
            let sum = sum.get_or_insert_default();
            sum.blocks += one.blocks;
            sum.instructions += one.instructions;
            sum.guest_bytes += one.guest_bytes;
            sum.host_bytes += one.host_bytes;
            sum.nanoseconds += one.nanoseconds;
            sum.invalidated += one.invalidated;
            sum.flushes += one.flushes;
            sum.entries += one.entries;
            sum.windowed += one.windowed;
            sum.window_faults += one.window_faults;
            sum.executed += one.executed;
            forms.resize(one.by_code.len(), 0);
            forms.iter_mut().zip(&one.by_code).for_each(|(sum, count)| *sum += count);
        }
        if let Some(sum) = &mut sum {
            sum.executed_forms = Code::values()
                .zip(forms)
                .filter(|(_, count)| *count > 0)
                .map(|(code, count)| (format!("{code:?}"), count))
                .collect();
            sum.executed_forms.sort_by_key(|(_, count)| core::cmp::Reverse(*count));
        }
        sum
    }
}

/// Counters of one CPU.
#[derive(Clone, Debug, Serialize)]
pub struct CpuStats {
    /// Retired instructions.
    pub instructions: u64,
    /// Nanoseconds of virtual time in which it did not compute.
    pub idle_ns: u64,
    /// What its engine counted.
    #[serde(flatten)]
    pub counters: Counters,
}

/// Accesses to one device region, as the device sees them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RegionStats {
    /// The region's name.
    pub name: &'static str,
    /// Its first port or address.
    pub base: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl From<&RegionCounters> for RegionStats {
    fn from(c: &RegionCounters) -> Self {
        Self { name: c.name, base: c.base, len: c.len, reads: c.reads, writes: c.writes }
    }
}

/// The regions that were used at all.
pub(crate) fn used(regions: &[RegionCounters]) -> Vec<RegionStats> {
    regions.iter().filter(|c| c.reads + c.writes > 0).map(RegionStats::from).collect()
}

impl Stats {
    /// Exceptions by vector, over all CPUs.
    pub fn exceptions(&self) -> [u64; 32] {
        let mut sum = [0; 32];
        for cpu in &self.cpus {
            for (sum, count) in sum.iter_mut().zip(cpu.counters.exceptions) {
                *sum += count;
            }
        }
        sum
    }

    /// One of the CPUs' counters, over all CPUs.
    pub fn total(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.cpus.iter().map(|cpu| counter(&cpu.counters)).sum()
    }

    pub(crate) fn with_board(mut self, board: &BoardCounters) -> Self {
        self.ports = used(&board.ports);
        self.mmio = used(&board.memory);
        self.unclaimed_ports = board.unclaimed_ports;
        self.unclaimed_memory = board.unclaimed_memory;
        self
    }
}
