//! Exit codes (APM 2 appendix C). Codes below 0xc0 are the numbers of their bits in the intercept vectors.

/// EXITCODE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ExitCode(pub u64);

macro_rules! codes {
    ($($name:ident $value:literal;)*) => {
        #[allow(missing_docs)]
        impl ExitCode {
            $(pub const $name: Self = Self($value);)*
        }
        static NAMES: &[(u64, &str)] = &[$(($value, stringify!($name))),*];
    };
}

codes! {
    CR0_READ 0x00;
    CR0_WRITE 0x10;
    DR0_READ 0x20;
    DR0_WRITE 0x30;
    EXCEPTION 0x40;
    INTR 0x60;
    NMI 0x61;
    SMI 0x62;
    INIT 0x63;
    VINTR 0x64;
    CR0_SEL_WRITE 0x65;
    IDTR_READ 0x66;
    GDTR_READ 0x67;
    LDTR_READ 0x68;
    TR_READ 0x69;
    IDTR_WRITE 0x6a;
    GDTR_WRITE 0x6b;
    LDTR_WRITE 0x6c;
    TR_WRITE 0x6d;
    RDTSC 0x6e;
    RDPMC 0x6f;
    PUSHF 0x70;
    POPF 0x71;
    CPUID 0x72;
    RSM 0x73;
    IRET 0x74;
    SWINT 0x75;
    INVD 0x76;
    PAUSE 0x77;
    HLT 0x78;
    INVLPG 0x79;
    INVLPGA 0x7a;
    IOIO 0x7b;
    MSR 0x7c;
    TASK_SWITCH 0x7d;
    FERR_FREEZE 0x7e;
    SHUTDOWN 0x7f;
    VMRUN 0x80;
    VMMCALL 0x81;
    VMLOAD 0x82;
    VMSAVE 0x83;
    STGI 0x84;
    CLGI 0x85;
    SKINIT 0x86;
    RDTSCP 0x87;
    ICEBP 0x88;
    WBINVD 0x89;
    MONITOR 0x8a;
    MWAIT 0x8b;
    MWAIT_CONDITIONAL 0x8c;
    XSETBV 0x8d;
    RDPRU 0x8e;
    INVPCID 0xa2;
    NPF 0x400;
    AVIC_INCOMPLETE_IPI 0x401;
    AVIC_NOACCEL 0x402;
    INVALID 0xffff_ffff_ffff_ffff;
}

impl ExitCode {
    /// The code of an exception's intercept.
    pub const fn exception(vector: u8) -> Self {
        Self(Self::EXCEPTION.0 + (vector & 31) as u64)
    }

    /// The code `n` places after this one: a register's number.
    pub const fn plus(self, n: u8) -> Self {
        Self(self.0 + n as u64)
    }
}

impl core::fmt::Display for ExitCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let code = self.0;
        match code {
            0x00..=0x0f => write!(f, "CR{code}_READ"),
            0x10..=0x1f => write!(f, "CR{}_WRITE", code - 0x10),
            0x20..=0x2f => write!(f, "DR{}_READ", code - 0x20),
            0x30..=0x3f => write!(f, "DR{}_WRITE", code - 0x30),
            0x40..=0x5f => write!(f, "EXCP{}", code - 0x40),
            _ => match NAMES.iter().find(|(value, _)| *value == code) {
                Some((_, name)) => f.write_str(name),
                None => write!(f, "{code:#x}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_names() {
        for (code, name) in [
            (0x3, "CR3_READ"),
            (0x18, "CR8_WRITE"),
            (0x4e, "EXCP14"),
            (0x7f, "SHUTDOWN"),
            (0x400, "NPF"),
            (0x123, "0x123"),
        ] {
            assert_eq!(ExitCode(code).to_string(), name);
        }
        assert_eq!(ExitCode::exception(14), ExitCode(0x4e));
    }
}
