//! The local APIC.

/// A local APIC.
#[derive(Debug, Default)]
pub struct Lapic {}
