//! What connects the devices: interrupt lines and the two interrupt controllers behind them, pending events, power
//! requests.

use crate::ioapic::{IoApic, PINS};
use crate::pic::PicPair;
use ringworld_core::{
    CpuId, Delivery, Destination, EventKey, EventQueue, InterruptMessage, PlatformAttention, StateHasher,
    TriggerMode, VirtualTime,
};
use ringworld_mmu::GuestMemory;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A change of the machine's power state that a device asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum PowerRequest {
    /// Soft off (ACPI S5).
    PowerOff,
    /// Hard reset of the whole machine.
    Reset,
    /// INIT# to all CPUs: they start at the reset vector; memory and devices stay as they are.
    Init,
    /// Suspend to memory (ACPI S3).
    Suspend,
    /// The end of a suspension.
    Wake,
    /// End of the run with this exit code (debug-exit device).
    Exit(u32),
    /// The guest says that it has crashed (pvpanic).
    Panicked,
}

/// ISA IRQ 0 reaches the IOAPIC at input 2; input 0 gets the 8259's output (ACPI 5.2.12.5, MP 1.4 chapter 4.3.4).
const TIMER_PIN: u8 = 2;

/// The way of x87 exceptions under MS-DOS: FERR# latches IRQ 13, and a write to port 0xf0 clears that and asserts IGNNE# until
/// FERR# goes away (SDM 1 D.2, ICH9 data sheet 5.8.6).
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
struct NumericError {
    ferr: bool,
    ignne: bool,
    irq: bool,
}

/// The line of x87 exceptions.
const NUMERIC_ERROR_IRQ: u8 = 13;

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct State {
    pic: PicPair,
    ioapic: IoApic,
    /// Per line: which devices assert it, one bit each.
    sources: [u64; PINS],
    /// IRQs of the 8259 that PCI interrupts are routed to, one bit each.
    pic_lines: u16,
    messages: Vec<InterruptMessage>,
    power: Option<PowerRequest>,
    nmi_masked: bool,
    /// The clock's alarm has gone off, and the ACPI hardware has not been told yet.
    alarm: bool,
    numeric_error: NumericError,
    /// The device (HPET) that has taken over IRQ 0 and 8.
    legacy_replacement: Option<u32>,
}

/// The connections between the devices and the outside.
#[derive(Clone, Debug)]
pub(crate) struct Fabric {
    state: State,
    events: EventQueue,
    /// The earliest event that the machine's loop knows about.
    horizon: VirtualTime,
    intr_seen: bool,
    pub(crate) attention: PlatformAttention,
    /// What bus masters reach.
    pub(crate) memory: Option<Arc<GuestMemory>>,
}

impl Default for Fabric {
    fn default() -> Self {
        Self {
            state: State {
                pic: PicPair::default(),
                ioapic: IoApic::default(),
                sources: [0; PINS],
                pic_lines: 0,
                messages: Vec::new(),
                power: None,
                nmi_masked: false,
                alarm: false,
                numeric_error: NumericError::default(),
                legacy_replacement: None,
            },
            events: EventQueue::default(),
            horizon: VirtualTime::NEVER,
            intr_seen: false,
            attention: PlatformAttention::default(),
            memory: None,
        }
    }
}

impl Fabric {
    /// The most devices that can drive interrupt lines.
    pub(crate) const MAX_OWNERS: u32 = 64;

    /// Back to power-on; the attention flag and memory stay the same objects.
    pub(crate) fn reset(&mut self) {
        let memory = self.memory.take();
        *self = Self { attention: self.attention.clone(), memory, ..Self::default() };
    }

    pub(crate) fn set_irq(&mut self, owner: u32, line: u8, asserted: bool) {
        let Some(sources) = self.state.sources.get_mut(usize::from(line)) else { return };
        let bit = 1u64 << (owner % Self::MAX_OWNERS);
        *sources = if asserted { *sources | bit } else { *sources & !bit };
        self.drive(line);
    }

    /// PCI interrupts assert or release an IRQ of the 8259, which does not reach the I/O APIC that way.
    pub(crate) fn set_pic_irq(&mut self, irq: u8, asserted: bool) {
        let bit = 1u16 << (irq & 15);
        let before = self.state.pic_lines;
        self.state.pic_lines = if asserted { before | bit } else { before & !bit };
        if self.state.pic_lines != before {
            self.drive(irq & 15);
        }
    }

    /// A device's write of `data` to `address`, if that is an interrupt message (SDM 3A 12.11); false if not.
    pub(crate) fn message(&mut self, address: u64, data: u32) -> bool {
        if address >> 20 != 0xfee {
            return false;
        }
        let destination = (address >> 12 & 0xff) as u32;
        let delivery = match data >> 8 & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            2 => Delivery::Smi,
            4 => Delivery::Nmi,
            5 => Delivery::Init,
            7 => Delivery::ExtInt,
            // Reserved: nothing takes it.
            _ => return true,
        };
        let level = data & 1 << 15 != 0;
        self.send(InterruptMessage {
            source: None,
            // Destination mode counts only with the redirection hint, which chipsets do not look at.
            destination: if address & 4 != 0 {
                Destination::Logical(destination)
            } else {
                Destination::Physical(destination)
            },
            delivery,
            vector: data as u8,
            trigger: if level { TriggerMode::Level } else { TriggerMode::Edge },
            assert: !level || data & 1 << 14 != 0,
        });
        true
    }

    /// Whether any device asserts `line`.
    pub(crate) fn irq(&self, line: u8) -> bool {
        let asserted = self.state.sources.get(usize::from(line)).copied().unwrap_or(0);
        match self.state.legacy_replacement {
            Some(owner) if line == 0 || line == 8 => asserted & (1 << (owner % Self::MAX_OWNERS)) != 0,
            _ => asserted != 0 || (line == NUMERIC_ERROR_IRQ && self.state.numeric_error.irq),
        }
    }

    /// FERR# changes, or is looked at again; returns IGNNE#.
    pub(crate) fn numeric_error(&mut self, ferr: bool) -> bool {
        let state = &mut self.state.numeric_error;
        state.irq |= ferr && !state.ferr;
        state.ignne &= ferr;
        state.ferr = ferr;
        let ignne = state.ignne;
        self.drive(NUMERIC_ERROR_IRQ);
        ignne
    }

    /// A write to port 0xf0.
    pub(crate) fn ignore_numeric_error(&mut self) {
        let state = &mut self.state.numeric_error;
        state.irq = false;
        state.ignne = state.ferr;
        self.drive(NUMERIC_ERROR_IRQ);
    }

    /// Brings a line's level to the inputs that it is wired to.
    fn drive(&mut self, line: u8) {
        let level = self.irq(line);
        if line < 16 {
            self.state.pic.set_line(line, level || self.state.pic_lines >> line & 1 != 0);
        }
        match line {
            0 => self.set_pin(TIMER_PIN, level),
            // The cascade has no wire to the IOAPIC.
            2 => {}
            _ => self.set_pin(line, level),
        }
        self.pic_changed();
    }

    fn set_pin(&mut self, pin: u8, asserted: bool) {
        let message = self.state.ioapic.set_pin(pin, asserted);
        self.deliver(message);
    }

    /// To be called after anything that may have changed the 8259's output.
    fn pic_changed(&mut self) {
        let intr = self.state.pic.intr();
        if intr != self.intr_seen {
            self.intr_seen = intr;
            self.attention.raise();
            self.set_pin(0, intr);
        }
    }

    fn deliver(&mut self, message: Option<InterruptMessage>) {
        if let Some(message) = message {
            self.send(message);
        }
    }

    /// Queues a message for the local interrupt controllers. Equal messages that wait already are merged, as the
    /// controllers would.
    pub(crate) fn send(&mut self, message: InterruptMessage) {
        if !self.state.messages.contains(&message) {
            self.state.messages.push(message);
        }
        self.attention.raise();
    }

    pub(crate) fn raise_alarm(&mut self) {
        self.state.alarm = true;
    }

    pub(crate) fn take_alarm(&mut self) -> bool {
        core::mem::take(&mut self.state.alarm)
    }

    pub(crate) fn raise_smi(&mut self) {
        self.send(InterruptMessage {
            source: None,
            destination: Destination::All,
            delivery: Delivery::Smi,
            vector: 0,
            trigger: TriggerMode::Edge,
            assert: true,
        });
    }

    pub(crate) fn take_messages(&mut self) -> Vec<InterruptMessage> {
        core::mem::take(&mut self.state.messages)
    }

    pub(crate) fn intr(&self) -> bool {
        self.state.pic.intr()
    }

    pub(crate) fn acknowledge(&mut self) -> u8 {
        let vector = self.state.pic.acknowledge();
        self.pic_changed();
        vector
    }

    pub(crate) fn pic_read(&mut self, offset: u64) -> u8 {
        let value = self.state.pic.read(offset);
        self.pic_changed();
        value
    }

    pub(crate) fn pic_write(&mut self, offset: u64, value: u8) {
        self.state.pic.write(offset, value);
        self.pic_changed();
    }

    pub(crate) fn ioapic_read(&mut self, offset: u64, data: &mut [u8]) {
        self.state.ioapic.read(offset, data);
    }

    pub(crate) fn ioapic_write(&mut self, offset: u64, data: &[u8]) {
        for message in self.state.ioapic.write(offset, data) {
            self.send(message);
        }
    }

    pub(crate) fn end_of_interrupt(&mut self, vector: u8) {
        for message in self.state.ioapic.end_of_interrupt(vector) {
            self.send(message);
        }
    }

    /// The IOAPIC, to look at.
    pub(crate) fn ioapic(&self) -> &IoApic {
        &self.state.ioapic
    }

    /// The 8259 pair, to look at.
    pub(crate) fn pic(&self) -> &PicPair {
        &self.state.pic
    }

    pub(crate) fn schedule(&mut self, owner: u32, timer: u32, at: VirtualTime) {
        self.events.schedule(EventKey { owner, timer }, at);
        if self.events.next() < self.horizon {
            self.attention.raise();
        }
    }

    /// The next event, as told to the machine's loop: from now on, an earlier one raises the attention flag.
    pub(crate) fn next_event(&mut self) -> VirtualTime {
        self.horizon = self.events.next();
        self.horizon
    }

    pub(crate) fn pop_due(&mut self, now: VirtualTime) -> Option<(VirtualTime, EventKey)> {
        self.events.pop_due(now)
    }

    /// Only the first request counts until it is taken: nothing that the guest does after it matters.
    pub(crate) fn request_power(&mut self, request: PowerRequest) {
        self.state.power.get_or_insert(request);
        self.attention.raise();
    }

    pub(crate) fn take_power(&mut self) -> Option<PowerRequest> {
        self.state.power.take()
    }

    pub(crate) fn mask_nmi(&mut self, masked: bool) {
        if self.state.nmi_masked != masked {
            self.state.nmi_masked = masked;
            self.attention.raise();
        }
    }

    pub(crate) fn nmi_masked(&self) -> bool {
        self.state.nmi_masked
    }

    pub(crate) fn set_legacy_replacement(&mut self, owner: u32, on: bool) {
        self.state.legacy_replacement = on.then_some(owner);
        self.drive(0);
        self.drive(8);
    }

    pub(crate) fn hash_state(&self, hasher: &mut StateHasher) {
        hasher.add(&self.state);
        hasher.add(&self.pending_events());
    }

    /// The pending events in their order.
    fn pending_events(&self) -> Vec<(VirtualTime, EventKey)> {
        let mut events = self.events.clone();
        core::iter::from_fn(|| events.pop_due(VirtualTime::NEVER)).collect()
    }

    pub(crate) fn save(&self) -> Result<Vec<u8>, crate::StateError> {
        Ok(postcard::to_stdvec(&(&self.state, self.pending_events()))?)
    }

    pub(crate) fn restore(&mut self, image: &[u8]) -> Result<(), crate::StateError> {
        let (state, events): (State, Vec<(VirtualTime, EventKey)>) = postcard::from_bytes(image)?;
        self.state = state;
        self.events = EventQueue::default();
        for (at, key) in events {
            self.events.schedule(key, at);
        }
        self.horizon = VirtualTime::NEVER;
        self.intr_seen = self.state.pic.intr();
        self.attention.raise();
        Ok(())
    }
}

/// The CPU that is named as the accessing one when none is.
pub(crate) const NO_CPU: CpuId = CpuId(0);
