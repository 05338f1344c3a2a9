//! What the manuals leave undefined is as on the host's silicon.
//!
//! Translated code runs the host's own instructions, with the host's flags. Both engines have to agree to the last bit, so the
//! functions of instructions give the same, whichever vendor's processor is emulated.

/// Families of processors by what they do with undefined status flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Silicon {
    /// As measured on Golden Cove.
    Intel,
    /// As measured on Zen 4.
    Amd,
}

impl Silicon {
    /// The host's.
    pub fn host() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let id = core::arch::x86_64::__cpuid(0);
            // "AuthenticAMD", "HygonGenuine".
            if matches!(
                (id.ebx, id.edx, id.ecx),
                (0x6874_7541, 0x6974_6e65, 0x444d_4163) | (0x6f67_7948, 0x6e65_476e, 0x656e_6975)
            ) {
                return Self::Amd;
            }
        }
        Self::Intel
    }
}
