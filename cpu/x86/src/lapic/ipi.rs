//! Interrupt messages: sending by the ICR, matching a destination, accepting (SDM 3A 12.6, 12.8).

use super::{Accepted, ApicMode, ESR_RECEIVE_VECTOR, ESR_SEND_VECTOR, Effects, Lapic};
use ringworld_core::{Delivery, Destination, InterruptMessage, TriggerMode};

/// Physical and logical destination of a broadcast in x2APIC mode.
const X2APIC_BROADCAST: u32 = 0xffff_ffff;
/// The same in xAPIC mode, and of messages of an I/O APIC or MSIs in either.
const XAPIC_BROADCAST: u32 = 0xff;

const ICR_LOGICAL: u64 = 1 << 11;
const ICR_LEVEL_ASSERT: u64 = 1 << 14;
const ICR_TRIGGER_LEVEL: u64 = 1 << 15;

impl Lapic {
    /// A write of the ICR's low half (xAPIC) or of all of it (x2APIC): sends.
    pub(super) fn send(&mut self) -> Effects {
        let icr = self.icr;
        let destination = match self.mode() {
            ApicMode::X2Apic => (icr >> 32) as u32,
            // One value for all modes, so that CPUs in x2APIC mode hear a broadcast, too.
            _ if icr >> 56 == u64::from(XAPIC_BROADCAST) => X2APIC_BROADCAST,
            _ => (icr >> 56) as u32,
        };
        let delivery = match icr >> 8 & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            2 => Delivery::Smi,
            4 => Delivery::Nmi,
            // "INIT level de-assert" does nothing from the Pentium 4 on.
            5 if icr & (ICR_TRIGGER_LEVEL | ICR_LEVEL_ASSERT) == ICR_TRIGGER_LEVEL => {
                return Effects::default();
            }
            5 => Delivery::Init,
            6 => Delivery::StartUp,
            _ => return Effects::default(),
        };
        let message = InterruptMessage {
            source: Some(self.config.cpu),
            destination: match icr >> 18 & 3 {
                0 if icr & ICR_LOGICAL != 0 => Destination::Logical(destination),
                0 => Destination::Physical(destination),
                1 => Destination::Own,
                2 => Destination::All,
                _ => Destination::Others,
            },
            delivery,
            vector: icr as u8,
            // "IPIs are edge triggered": the trigger mode matters for INIT de-assert only.
            trigger: TriggerMode::Edge,
            assert: true,
        };
        let vectored = matches!(delivery, Delivery::Fixed | Delivery::LowestPriority);
        if vectored && message.vector < 16 {
            return Effects { local: self.error(ESR_SEND_VECTOR), ..Effects::default() };
        }
        if message.destination == Destination::Own {
            return Effects { local: self.accept(&message), ..Effects::default() };
        }
        Effects { ipi: Some(message), ..Effects::default() }
    }

    /// The SELF IPI register of x2APIC mode (SDM 3A 12.12.11).
    pub(super) fn send_self(&mut self, vector: u8) -> Effects {
        let local = if vector < 16 {
            self.error(ESR_SEND_VECTOR)
        } else {
            self.accept_fixed(vector, TriggerMode::Edge)
        };
        Effects { local, ..Effects::default() }
    }

    /// Whether `message` is for this local APIC (SDM 3A 12.6.2, 12.12.10).
    pub fn matches(&self, message: &InterruptMessage) -> bool {
        let own = message.source == Some(self.config.cpu);
        let broadcast = |destination: u32| {
            destination == X2APIC_BROADCAST
                || destination == XAPIC_BROADCAST
                    && (self.mode() == ApicMode::XApic || message.source.is_none())
        };
        self.enabled()
            && match message.destination {
                Destination::Own => own,
                Destination::All => true,
                Destination::Others => !own,
                Destination::Physical(id) => id == self.physical_id() || broadcast(id),
                Destination::Logical(mda) => broadcast(mda) || self.matches_logical(mda),
            }
    }

    fn matches_logical(&self, mda: u32) -> bool {
        let ldr = self.logical_id();
        match self.mode() {
            ApicMode::Disabled => false,
            ApicMode::X2Apic => mda >> 16 == ldr >> 16 && mda & ldr & 0xffff != 0,
            // Eight bits, in the flat or the cluster model.
            ApicMode::XApic if mda > 0xff => false,
            ApicMode::XApic if self.dfr >> 28 == 0xf => mda & ldr >> 24 != 0,
            ApicMode::XApic => mda >> 4 == ldr >> 28 && mda & (ldr >> 24) & 0xf != 0,
        }
    }

    /// Takes `message` if it is for this local APIC. A lowest-priority message must come here only for the APIC that
    /// [`arbitrate`] has chosen.
    pub fn accept(&mut self, message: &InterruptMessage) -> Accepted {
        if !message.assert || !self.matches(message) {
            return Accepted::No;
        }
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => self.accept_fixed(message.vector, message.trigger),
            Delivery::Smi => Accepted::Smi,
            Delivery::Nmi => Accepted::Nmi,
            Delivery::Init => Accepted::Init,
            Delivery::StartUp => Accepted::StartUp(message.vector),
            Delivery::ExtInt if self.software_enabled() => Accepted::ExtInt,
            Delivery::ExtInt => Accepted::No,
            // Nothing is requested here; the processor looks around.
            Delivery::Doorbell => Accepted::Interrupt,
        }
    }

    /// Puts a vector into IRR and its trigger mode into TMR (SDM 3A 12.8.4).
    pub(super) fn accept_fixed(&mut self, vector: u8, trigger: TriggerMode) -> Accepted {
        if !self.software_enabled() {
            return Accepted::No;
        }
        if vector < 16 {
            return self.error(ESR_RECEIVE_VECTOR);
        }
        self.irr.set(vector, true);
        self.tmr.set(vector, trigger == TriggerMode::Level);
        Accepted::Interrupt
    }

    /// The priority that counts in an arbitration: the lower, the more willing (SDM 3A 12.6.2.4).
    pub fn arbitration_priority(&self) -> u8 {
        let class = |vector: Option<u8>| vector.unwrap_or(0) & 0xf0;
        let tpr = self.tpr;
        let busy = class(self.irr.highest()).max(class(self.isr.highest()));
        if tpr & 0xf0 >= busy { tpr } else { busy }
    }
}

/// The position in `lapics` of the one that gets a lowest-priority `message`: of those that match and are enabled by
/// software, the first with the lowest priority. Any other message goes to all that match.
pub fn arbitrate<'a>(
    lapics: impl IntoIterator<Item = &'a Lapic>,
    message: &InterruptMessage,
) -> Option<usize> {
    lapics
        .into_iter()
        .enumerate()
        .filter(|(_, lapic)| lapic.software_enabled() && lapic.matches(message))
        .min_by_key(|(_, lapic)| lapic.arbitration_priority())
        .map(|(position, _)| position)
}
