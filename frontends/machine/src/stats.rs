//! What a run has done, in numbers.

use ringworld_devices::{BoardCounters, RegionCounters};
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
    /// Accesses to I/O ports, by region.
    pub ports: Vec<RegionStats>,
    /// Accesses to memory-mapped registers, by region.
    pub mmio: Vec<RegionStats>,
    /// Bytes of port accesses that nothing answered.
    pub unclaimed_ports: u64,
    /// Bytes of memory accesses that nothing answered.
    pub unclaimed_memory: u64,
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
