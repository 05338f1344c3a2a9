//! Delivery of exceptions and interrupts through the IVT or the IDT (SDM 3A chapter 6).

use crate::control::cr4;
use crate::descriptor::kind;
use crate::fault::vector;
use crate::flags::bits;
use crate::insn::seg;
use crate::segment::{Segment, rights};
use crate::state::{Activity, Shadow, boundary, gpr::*};
use crate::task::Switch;
use crate::{Cpu, Stop};
use serde::{Deserialize, Serialize};

/// Where an event comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// An external interrupt or NMI.
    External,
    /// A fault: RF is set in the saved flags.
    Fault,
    /// A trap or abort detected by hardware (single-step, double fault).
    Trap,
    /// INT1: as a trap.
    Privileged,
    /// INT n: the gate's DPL is checked, IOPL applies in virtual-8086 mode.
    Software,
    /// INT3 and INTO: the gate's DPL is checked.
    SoftwareException,
}

/// An event to deliver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub struct Event {
    /// Vector.
    pub vector: u8,
    /// Error code to push.
    pub error: Option<u32>,
    /// Origin.
    pub origin: Origin,
}

impl Event {
    fn software(&self) -> bool {
        matches!(self.origin, Origin::Software | Origin::SoftwareException)
    }
}

/// Most exceptions in one delivery. Chains that make progress are shorter: a benign one, a contributory one, a page fault, a
/// double fault.
const LONGEST_CHAIN: usize = 16;

/// Classes of exceptions for the double-fault rule (SDM 3A table 6-4).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(vector: u8) -> Class {
    match vector {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP | vector::SX => Class::Contributory,
        vector::PF => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

impl Cpu {
    /// Delivers the exception that an instruction raised; RIP is at the instruction.
    #[cold]
    pub(crate) fn deliver_pending(&mut self) {
        if self.in_shadow != Shadow::MovSs {
            // Data breakpoints that the instruction hit before it faulted: it has not completed, and hits them again.
            // What waits in the shadow of MOV SS stays.
            self.pending_db = 0;
        }
        let origin = match self.pending.vector {
            // Code breakpoints and DR access detection are faults; single-step and data breakpoints never come here.
            vector::DF => Origin::Trap,
            _ => Origin::Fault,
        };
        self.deliver_exception(origin);
    }

    /// Delivers [`Cpu::pending`], turning what goes wrong on the way into double faults and shutdown.
    pub(crate) fn deliver_exception(&mut self, origin: Origin) {
        let mut origin = origin;
        let mut first = Class::Benign;
        // Exceptions on the way to each other's handlers need not end: #AC whose handler has a misaligned stack at level 3.
        // The processor would hang; here the instruction is begun again, so that time goes on.
        for _ in 0..LONGEST_CHAIN {
            let exception = self.pending;
            if self.intercept_exception(exception, origin) {
                return;
            }
            self.counters.exceptions[usize::from(exception.vector & 31)] += 1;
            tracing::trace!(
                target: "ringworld::exception",
                vector = exception.vector, error = exception.error, rip = format_args!("{:#x}", self.rip()),
                payload = format_args!("{:#x}", exception.payload), count = self.icount,
            );
            match exception.vector {
                vector::PF => self.cr2 = exception.payload,
                vector::DB => self.note_debug_exception(exception.payload),
                _ => {}
            }
            let second = class(exception.vector);
            let event = Event { vector: exception.vector, error: exception.error, origin };
            match self.deliver(event) {
                Ok(()) => return,
                Err(Stop::Exit) => return self.take_exit(),
                Err(_) => {}
            }
            // `pending` is what went wrong now.
            let third = class(self.pending.vector);
            let worst = if first == Class::DoubleFault || second == Class::DoubleFault {
                Class::DoubleFault
            } else {
                second
            };
            let serial = !matches!(
                (worst, third),
                (Class::DoubleFault, _)
                    | (Class::Contributory, Class::Contributory)
                    | (Class::PageFault, Class::Contributory | Class::PageFault)
            );
            // A fault that becomes a double or triple fault may be intercepted itself (SDM 3C 26.2).
            if !serial && self.intercept_exception(self.pending, Origin::Fault) {
                return;
            }
            if third == Class::PageFault {
                // CR2 is loaded when the fault is detected, even if it becomes a double fault.
                self.cr2 = self.pending.payload;
            }
            match (worst, third) {
                (Class::DoubleFault, _) => {
                    if self.intercept_shutdown() {
                        return;
                    }
                    tracing::debug!(target: "ringworld::exception", "triple fault at {:#x}", self.rip());
                    self.activity = Activity::Shutdown;
                    self.boundary |= boundary::INACTIVE;
                    self.end_block();
                    return;
                }
                (Class::Contributory, Class::Contributory)
                | (Class::PageFault, Class::Contributory | Class::PageFault) => {
                    // A double fault is not "during event delivery" (SDM 3C 28.2.4).
                    self.virt.vectoring = None;
                    self.pending = crate::fault::Exception { vector: vector::DF, error: Some(0), payload: 0 };
                    origin = Origin::Trap;
                    first = Class::DoubleFault;
                }
                _ => {
                    origin = Origin::Fault;
                    first = worst;
                }
            }
        }
    }

    /// Delivers an external interrupt or NMI; exceptions on the way are delivered instead.
    pub(crate) fn deliver_external(&mut self, vector: u8) {
        tracing::trace!(
            target: "ringworld::interrupt",
            vector, rip = format_args!("{:#x}", self.rip()), count = self.icount,
        );
        if let Err(stop) = self.deliver(Event { vector, error: None, origin: Origin::External }) {
            self.deliver_failed(stop);
        }
    }

    /// INT n, INT3, INTO and INT1: RIP is past the instruction, and stays if delivery succeeds.
    pub(crate) fn software_interrupt(&mut self, vector: u8, origin: Origin) -> Result<(), Stop> {
        let task = self.tr.selector;
        if let Err(stop) = self.deliver(Event { vector, error: None, origin }) {
            if self.tr.selector == task || stop == Stop::Exit {
                return Err(stop);
            }
            // The task switch had been committed: the fault is the new task's (SDM 3A 8.3).
            self.deliver_failed(stop);
        }
        // A pending single-step trap is lost: TF was cleared on the way (SDM 3B 18.3.1.4).
        self.stepping = false;
        Ok(())
    }

    /// After an event could not be delivered: delivers the exception that stopped it, or leaves the guest.
    pub(crate) fn deliver_failed(&mut self, stop: Stop) {
        match stop {
            Stop::Exit => self.take_exit(),
            _ => self.deliver_exception(Origin::Fault),
        }
    }

    /// Delivers one event, or raises what goes wrong.
    pub(crate) fn deliver(&mut self, event: Event) -> Result<(), Stop> {
        // To Intel's processors an exception is as external as an interrupt; AMD's tell by where the event comes from.
        let external = if self.model.is_amd() { event.origin == Origin::External } else { !event.software() };
        self.external = u16::from(external);
        let from = self.rip();
        if self.mode.guest() {
            self.virt.vectoring = Some(event);
        }
        let result = if !self.protected() {
            self.deliver_real(event)
        } else if event.origin == Origin::Software && self.v8086() && self.redirect_vme(event.vector)? {
            Ok(())
        } else {
            self.deliver_protected(event)
        };
        self.external = 0;
        if result.is_ok() {
            self.virt.vectoring = None;
            if self.boundary & boundary::LAST_BRANCH != 0 {
                self.note_event_branch(from);
            }
            self.system_flags_changed();
        }
        result
    }

    fn deliver_real(&mut self, event: Event) -> Result<(), Stop> {
        let at = u64::from(event.vector) * 4;
        if at + 3 > self.idtr.limit.into() {
            return Err(self.gp(u16::from(event.vector) * 8 + 2 + self.external));
        }
        let entry: u32 = self.read_system(self.idtr.base.wrapping_add(at))?;
        self.enter_vector_table(entry, self.flags.get() as u16)
    }

    /// Pushes FLAGS, CS and IP and goes to a real-mode vector.
    fn enter_vector_table(&mut self, entry: u32, image: u16) -> Result<(), Stop> {
        let rsp = self.regs[RSP];
        let (cs, ip) = (self.seg[seg::CS as usize].selector, self.rip() as u16);
        let pushed = self.push(image).and_then(|()| self.push(cs)).and_then(|()| self.push(ip));
        if pushed.is_err() {
            self.regs[RSP] = rsp;
        }
        pushed?;
        let flags = self.flags.get() & !(bits::IF | bits::TF | bits::AC | bits::RF);
        self.flags.set(flags);
        self.seg[seg::CS as usize].load_real((entry >> 16) as u16);
        self.update_fast_segment(seg::CS, false);
        self.set_rip((entry & 0xffff).into());
        Ok(())
    }

    /// INT n in virtual-8086 mode with virtual-mode extensions: true if the TSS's redirection bitmap sent it to the
    /// program's own handler (SDM 3B 21.3.3).
    fn redirect_vme(&mut self, vector: u8) -> Result<bool, Stop> {
        if self.cr4 & cr4::VME == 0 {
            if self.flags.iopl() < 3 {
                return Err(self.gp0());
            }
            return Ok(false);
        }
        let map: u16 = self.read_system(self.tr.base.wrapping_add(0x66))?;
        let byte = u32::from(map).wrapping_sub(32).wrapping_add(u32::from(vector) / 8);
        if map < 32 || byte > self.tr.limit {
            return Err(self.gp0());
        }
        let redirected: u8 = self.read_system(self.tr.base.wrapping_add(byte.into()))?;
        let low_iopl = self.flags.iopl() < 3;
        if redirected >> (vector & 7) & 1 != 0 {
            // The bit says: to the protected-mode handler.
            return if low_iopl { Err(self.gp0()) } else { Ok(false) };
        }
        let entry: u32 = self.read_system(u64::from(vector) * 4)?;
        let flags = self.flags.get();
        if low_iopl {
            let vif_as_if = if flags & bits::VIF != 0 { bits::IF } else { 0 };
            let image = flags & !bits::IF | vif_as_if | bits::IOPL;
            self.enter_vector_table(entry, image as u16)?;
            // VIF is cleared in the place of IF.
            self.flags.set(flags & !(bits::VIF | bits::TF));
        } else {
            self.enter_vector_table(entry, flags as u16)?;
            self.flags.set(flags & !(bits::IF | bits::TF));
        }
        Ok(true)
    }

    fn deliver_protected(&mut self, event: Event) -> Result<(), Stop> {
        let long = self.long_mode();
        let v8086 = self.v8086();
        if v8086 && event.origin == Origin::Software && self.flags.iopl() < 3 {
            return Err(self.gp0());
        }
        let error = u16::from(event.vector) * 8 + 2 + self.external;
        let size = if long { 16 } else { 8 };
        let at = u64::from(event.vector) * size;
        if at + size - 1 > self.idtr.limit.into() {
            return Err(self.gp(error));
        }
        let gate: u64 = self.read_system(self.idtr.base.wrapping_add(at))?;
        let gate_type = (gate >> 40) as u8 & 0x1f;
        let allowed = match gate_type {
            kind::INTERRUPT_GATE32 | kind::TRAP_GATE32 => true,
            kind::TASK_GATE | kind::INTERRUPT_GATE16 | kind::TRAP_GATE16 => !long,
            _ => false,
        };
        let dpl = (gate >> 45) as u8 & 3;
        if !allowed || (event.software() && dpl < self.cpl) {
            return Err(self.gp(error));
        }
        if gate >> 47 & 1 == 0 {
            return Err(self.np(error));
        }
        let selector = (gate >> 16) as u16;
        if gate_type == kind::TASK_GATE {
            let pushed = event.error;
            self.task_by_selector(selector, Switch::Event { error: pushed })?;
            return Ok(());
        }
        let mut offset = gate & 0xffff | gate >> 32 & 0xffff_0000;
        let mut ist = 0;
        if long {
            offset |= self.read_system::<u64>(self.idtr.base.wrapping_add(at + 8))? << 32;
            ist = (gate >> 32) as u32 & 7;
        } else if gate_type & 8 == 0 {
            offset &= 0xffff;
        }
        self.enter_handler(event, selector, offset, ist, gate_type)
    }

    fn enter_handler(
        &mut self,
        event: Event,
        selector: u16,
        offset: u64,
        ist: u32,
        gate_type: u8,
    ) -> Result<(), Stop> {
        let long = self.long_mode();
        let v8086 = self.v8086();
        if selector & 0xfffc == 0 {
            return Err(self.gp(self.external));
        }
        let descriptor = self.descriptor_or_gp(selector)?;
        let segment = descriptor.segment();
        let error = self.selector_error(selector);
        if !segment.is_code() || segment.dpl() > self.cpl || long && (!segment.long() || segment.big()) {
            return Err(self.gp(error));
        }
        if !descriptor.present() {
            return Err(self.np(error));
        }
        let conforming = segment.rights & rights::DC != 0;
        let new_cpl = if conforming { self.cpl } else { segment.dpl() };
        // From virtual-8086 mode only to level 0.
        if v8086 && new_cpl != 0 {
            return Err(self.gp(error));
        }
        // Only faults set RF in the image. It is set already where a repeated string instruction is interrupted, and clear
        // otherwise (SDM 3B 18.3.1.1).
        let rf = if event.origin == Origin::Fault { bits::RF } else { 0 };
        let image = self.flags.get() | rf;
        let old = (self.seg, self.regs[RSP], self.rip(), self.cpl);
        let cs = Segment { rights: segment.rights | rights::ACCESSED, ..segment };
        let switch = new_cpl != self.cpl;
        let (ss, sp) = if long {
            let rsp = if ist != 0 {
                self.tss_stack_pointer(0x1c + 8 * ist)?
            } else if switch {
                self.tss_stack_pointer(4 + 8 * u32::from(new_cpl))?
            } else {
                self.regs[RSP]
            };
            let ss = if switch {
                Self::null_stack(u16::from(new_cpl), new_cpl)
            } else {
                self.seg[seg::SS as usize]
            };
            (ss, rsp & !15)
        } else if switch {
            self.inner_stack(new_cpl)?
        } else {
            (self.seg[seg::SS as usize], self.regs[RSP])
        };
        let reachable = if long { self.is_canonical(offset) } else { offset <= segment.limit.into() };
        if !reachable {
            return Err(self.gp(self.external));
        }
        self.set_accessed(&descriptor)?;
        let frame_ss = long || switch;
        let push_error = event.error.filter(|_| matches!(event.origin, Origin::Fault | Origin::Trap));
        self.on_inner_stack(new_cpl, ss, sp, &cs, |cpu| {
            if long {
                cpu.push_frame::<u64>(&old, image, frame_ss, v8086, push_error)
            } else if gate_type & 8 != 0 {
                cpu.push_frame::<u32>(&old, image, frame_ss, v8086, push_error)
            } else {
                cpu.push_frame::<u16>(&old, image, frame_ss, v8086, push_error)
            }
        })?;
        if v8086 {
            for n in [seg::ES, seg::DS, seg::FS, seg::GS] {
                self.set_segment(n, Segment { unusable: true, ..Segment::default() });
            }
        }
        let mut clear = bits::TF | bits::NT | bits::VM | bits::RF;
        if gate_type & 1 == 0 {
            clear |= bits::IF;
        }
        let flags = self.flags.get() & !clear;
        self.flags.set(flags);
        self.set_rip(offset);
        Ok(())
    }

    fn push_frame<T: super::exec::operand::Int>(
        &mut self,
        old: &([Segment; 6], u64, u64, u8),
        image: u64,
        with_stack: bool,
        v8086: bool,
        error: Option<u32>,
    ) -> Result<(), Stop> {
        let (segments, rsp, rip, _) = old;
        let selector = |n: u8| T::of(segments[n as usize].selector.into());
        if v8086 {
            for n in [seg::GS, seg::FS, seg::DS, seg::ES] {
                self.push(selector(n))?;
            }
        }
        if with_stack {
            self.push(selector(seg::SS))?;
            self.push(T::of(*rsp))?;
        }
        self.push(T::of(image))?;
        self.push(selector(seg::CS))?;
        self.push(T::of(*rip))?;
        match error {
            Some(error) => self.push(T::of(error.into())),
            None => Ok(()),
        }
    }
}
