//! Delivery of exceptions and interrupts.
use crate::Cpu;

impl Cpu {
    pub(crate) fn deliver_pending(&mut self) {}
}
