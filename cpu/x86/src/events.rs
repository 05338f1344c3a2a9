//! What happens between instructions: traps, interrupts, activity.

use crate::Cpu;
use crate::interp::RunEnd;

impl Cpu {
    /// Looks at everything in [`Cpu::boundary`]; says if the run has to end.
    #[cold]
    pub(crate) fn at_boundary(&mut self) -> Option<RunEnd> {
        None
    }
    pub(crate) fn before_single_step(&mut self) -> bool {
        false
    }
    pub(crate) fn after_single_step(&mut self) {}
    pub(crate) fn check_data_breakpoints(&mut self, _linear: u64, _len: u64, _kind: crate::mem::Kind) {}
    pub(crate) fn page_is_watched(&self, _page: u64) -> bool {
        false
    }
}
