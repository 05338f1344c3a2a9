//! EVENTINJ and EXITINTINFO (APM 2 15.20, 15.7.2): an event in one quadword.

use crate::deliver::{Event, Origin};
use crate::fault::vector;

/// Fields of the quadword.
#[allow(missing_docs)]
mod bits {
    pub const ERROR_VALID: u64 = 1 << 11;
    pub const VALID: u64 = 1 << 31;
}

/// Types of events.
#[allow(missing_docs)]
mod kind {
    pub const INTR: u64 = 0;
    pub const NMI: u64 = 2;
    pub const EXCEPTION: u64 = 3;
    pub const SOFTWARE: u64 = 4;
}

/// Whether VMRUN accepts the event. `long64` says if the guest is in 64-bit mode.
pub fn is_legal(event: u64, long64: bool) -> bool {
    if event & bits::VALID == 0 {
        return true;
    }
    let number = event as u8;
    match event >> 8 & 7 {
        kind::INTR | kind::NMI | kind::SOFTWARE => true,
        // No exception has vector 2 or one above 31; BOUND does not exist in 64-bit mode.
        kind::EXCEPTION => number != vector::NMI && number < 32 && !(long64 && number == vector::BR),
        _ => false,
    }
}

/// An event to deliver at VMRUN.
#[derive(Clone, Copy, Debug)]
pub struct Injection {
    /// The event.
    pub event: Event,
    /// It is an NMI: others are blocked until IRET.
    pub nmi: bool,
    /// What is pushed is nRIP: the instruction that caused the event is behind (APM 2 15.20).
    pub next_rip: bool,
}

/// The event of EVENTINJ, if there is one.
pub fn injection(quadword: u64) -> Option<Injection> {
    if quadword & bits::VALID == 0 {
        return None;
    }
    let number = quadword as u8;
    let (origin, nmi, next_rip) = match quadword >> 8 & 7 {
        kind::INTR => (Origin::External, false, false),
        kind::NMI => (Origin::External, true, false),
        kind::SOFTWARE => (Origin::Software, false, true),
        _ if matches!(number, vector::BP | vector::OF) => (Origin::SoftwareException, false, true),
        _ if number == vector::DB || number == vector::DF => (Origin::Trap, false, false),
        _ => (Origin::Fault, false, false),
    };
    let error = (quadword & bits::ERROR_VALID != 0).then_some((quadword >> 32) as u32);
    let number = if nmi { vector::NMI } else { number };
    Some(Injection { event: Event { vector: number, error, origin }, nmi, next_rip })
}

/// EXITINTINFO of an event that was being delivered.
pub fn exit_int_info(event: &Event) -> u64 {
    let kind = match event.origin {
        Origin::External if event.vector == vector::NMI => kind::NMI,
        Origin::External => kind::INTR,
        Origin::Software => kind::SOFTWARE,
        Origin::Fault | Origin::Trap | Origin::Privileged | Origin::SoftwareException => kind::EXCEPTION,
    };
    let error = event.error.map_or(0, |code| bits::ERROR_VALID | u64::from(code) << 32);
    bits::VALID | u64::from(event.vector) | kind << 8 | error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_and_illegal_events() {
        // APM 2 15.20.
        for (event, long64, legal) in [
            (0x0000_0302, true, true),
            (0x8000_0302, true, false),
            (0x8000_030d, true, true),
            (0x8000_0320, true, false),
            (0x8000_0305, true, false),
            (0x8000_0305, false, true),
            (0x8000_0130, true, false),
            (0x8000_0500, true, false),
            (0x8000_0480, true, true),
            (0x8000_00ff, true, true),
            (0x8000_0202, true, true),
        ] {
            assert_eq!(is_legal(event, long64), legal, "{event:#x}");
        }
    }

    #[test]
    fn events_come_back_as_they_were_injected() {
        for quadword in [0x8000_0041, 0x8000_0202, 0x8000_0480, 0x1_8000_0b0d, 0x8000_0306, 0x8000_0303] {
            let injection = injection(quadword).unwrap();
            assert_eq!(exit_int_info(&injection.event), quadword, "{quadword:#x}");
        }
        assert!(injection(0x41).is_none());
    }
}
