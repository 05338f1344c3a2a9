//! An NVM Express controller with one namespace (NVMe base specification 1.4).
//!
//! Registers and doorbells are here, admin commands in `admin`, commands of the I/O queues in `io`, PRPs in `prp`.

mod admin;
mod identify;
mod io;
mod prp;
mod queues;

use crate::StateError;
use crate::device::{le_value, put_le};
use crate::pci::{Bar, ConfigSpace, PciContext, PciDevice, Port};
use crate::storage::Disk;
use crate::storage::LATENCY;
use queues::{Command, CompletionQueue, SubmissionQueue};
use ringworld_core::{GuestPhys, StateHasher, VirtualTime};
use serde::{Deserialize, Serialize};

/// Entries of the largest queue.
const MAX_ENTRIES: u32 = 1024;
/// I/O queues of each kind.
const IO_QUEUES: usize = 16;
const PAGE: u64 = 4096;

/// Controller registers (3.1).
const CAP: u64 = 0x00;
const VS: u64 = 0x08;
const INTMS: u64 = 0x0c;
const INTMC: u64 = 0x10;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;
const REGISTERS: u64 = 0x2000;
const MSIX_TABLE: u32 = 0x2000;
const MSIX_PENDING: u32 = 0x3000;

/// Contiguous queues; 10 s to become ready; the NVM command set; pages of 4 KiB only.
const CAPABILITIES: u64 = (MAX_ENTRIES as u64 - 1) | 1 << 16 | 20 << 24 | 1 << 37;
const VERSION: u32 = 0x0001_0400;
const CC_ENABLE: u32 = 1;
const CSTS_READY: u32 = 1;
const CSTS_FATAL: u32 = 2;
const CSTS_SHUTDOWN_DONE: u32 = 2 << 2;

/// Status codes: type in bits 10:8, code in 7:0 (4.6.1).
mod status {
    pub const SUCCESS: u16 = 0;
    pub const INVALID_OPCODE: u16 = 0x01;
    pub const INVALID_FIELD: u16 = 0x02;
    pub const DATA_TRANSFER: u16 = 0x04;
    pub const INTERNAL: u16 = 0x06;
    pub const INVALID_NAMESPACE: u16 = 0x0b;
    pub const INVALID_PRP: u16 = 0x13;
    pub const OUT_OF_RANGE: u16 = 0x80;
    pub const READ_ONLY: u16 = 0x20;
    pub const INVALID_CQ: u16 = 0x100;
    pub const INVALID_QUEUE: u16 = 0x101;
    pub const INVALID_SIZE: u16 = 0x102;
    pub const TOO_MANY_EVENTS: u16 = 0x105;
    pub const INVALID_VECTOR: u16 = 0x108;
    pub const INVALID_LOG_PAGE: u16 = 0x109;
    pub const INVALID_DELETION: u16 = 0x10c;
    pub const NOT_SAVEABLE: u16 = 0x10d;
}

/// What a command comes to: a value for the completion's first word, or a status.
type Outcome = Result<u32, u16>;

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct State {
    cc: u32,
    csts: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    interrupt_mask: u32,
    /// By queue ID; 0 is the admin queue.
    submission: Vec<Option<SubmissionQueue>>,
    completion: Vec<Option<CompletionQueue>>,
    /// Commands that wait for an event.
    waiting_events: Vec<u16>,
    /// Feature values by feature ID.
    features: Vec<u32>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            cc: 0,
            csts: 0,
            aqa: 0,
            asq: 0,
            acq: 0,
            interrupt_mask: 0,
            submission: vec![None; IO_QUEUES + 1],
            completion: vec![None; IO_QUEUES + 1],
            waiting_events: Vec::new(),
            features: admin::default_features(),
        }
    }
}

/// The controller.
struct Nvme {
    disk: Box<dyn Disk>,
    serial: String,
    state: State,
}

/// An NVMe controller as a PCI function.
pub fn nvme(disk: Box<dyn Disk>, serial: impl Into<String>, port: Port) -> (ConfigSpace, Box<dyn PciDevice>) {
    let config = ConfigSpace::new(0x1b36, 0x0010, 0x01_08_02, 2)
        .subsystem(0x1af4, 0x1100)
        .interrupt_pin()
        .bar(0, Bar::Memory64(0x4000))
        .power_management()
        .express(port)
        .msix(IO_QUEUES as u16 + 1, 0, MSIX_TABLE, MSIX_PENDING)
        .seal();
    (config, Box::new(Nvme { disk, serial: serial.into(), state: State::default() }))
}

impl Nvme {
    fn register(&self, at: u64) -> u64 {
        let state = &self.state;
        match at {
            CAP => CAPABILITIES,
            VS => u64::from(VERSION),
            INTMS | INTMC => state.interrupt_mask.into(),
            CC => state.cc.into(),
            CSTS => state.csts.into(),
            AQA => state.aqa.into(),
            ASQ => state.asq,
            ACQ => state.acq,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, data: &[u8], ctx: &mut PciContext<'_, '_>) {
        let value = le_value(data);
        let state = &mut self.state;
        match (offset, data.len()) {
            (INTMS, 4) => state.interrupt_mask |= value as u32,
            (INTMC, 4) => state.interrupt_mask &= !(value as u32),
            (CC, 4) => self.configure(value as u32, ctx),
            (AQA, 4) => state.aqa = value as u32 & 0x0fff_0fff,
            (ASQ | ACQ, _) | (0x2c | 0x34, 4) => {
                let queue = if offset < ACQ { &mut state.asq } else { &mut state.acq };
                let (shift, mask) = match (offset & 4, data.len()) {
                    (0, 8) => (0, u64::MAX),
                    (0, _) => (0, 0xffff_ffff),
                    _ => (32, 0xffff_ffff << 32),
                };
                *queue = (*queue & !mask | value << shift & mask) & !(PAGE - 1);
            }
            _ => {}
        }
        self.drive_intx(ctx);
    }

    /// A write to CC: enable, disable, shutdown (3.1.5, 7.6.2).
    fn configure(&mut self, value: u32, ctx: &mut PciContext<'_, '_>) {
        let before = core::mem::replace(&mut self.state.cc, value & 0x00ff_fff1);
        if value & CC_ENABLE == 0 {
            if before & CC_ENABLE != 0 {
                let State { aqa, asq, acq, cc, .. } = self.state;
                ctx.schedule(0, VirtualTime::NEVER);
                self.state = State { aqa, asq, acq, cc, ..State::default() };
            }
            return;
        }
        if before & CC_ENABLE == 0 {
            let state = &mut self.state;
            let sizes = ((state.aqa & 0xfff) + 1, (state.aqa >> 16 & 0xfff) + 1);
            // Page size, command set, and the admin queues' sizes have to be what there is.
            let fits = value >> 7 & 0xf == 0
                && value >> 4 & 7 == 0
                && (2..=4096).contains(&sizes.0)
                && (2..=4096).contains(&sizes.1);
            if fits {
                state.submission[0] = Some(SubmissionQueue::new(state.asq, sizes.0, 0));
                state.completion[0] = Some(CompletionQueue::new(state.acq, sizes.1, Some(0)));
                state.csts = CSTS_READY;
            } else {
                state.csts = CSTS_FATAL;
            }
        }
        if value >> 14 & 3 != 0 && before >> 14 & 3 == 0 {
            // An error of the host's disk cannot be told here.
            let _ = self.disk.flush();
            self.state.csts |= CSTS_SHUTDOWN_DONE;
        }
    }

    fn doorbell(&mut self, offset: u64, value: u32, ctx: &mut PciContext<'_, '_>) {
        let (queue, completion) = ((offset / 8) as usize, offset & 4 != 0);
        let known = if completion {
            self.state.completion.get_mut(queue).and_then(Option::as_mut).map(|cq| cq.set_head(value))
        } else {
            self.state.submission.get_mut(queue).and_then(Option::as_mut).map(|sq| sq.set_tail(value))
        };
        // A value outside of the queue is the guest's mistake, and ignored (5.2).
        if known == Some(true) {
            ctx.schedule(0, ctx.now() + LATENCY);
            self.drive_intx(ctx);
        }
    }

    /// Serves what waits in all submission queues, round robin.
    fn serve(&mut self, ctx: &mut PciContext<'_, '_>) {
        let mut budget = self.state.submission.iter().flatten().map(|sq| sq.size).sum::<u32>();
        let mut more = true;
        while more && budget > 0 {
            more = false;
            for queue in 0..self.state.submission.len() {
                more |= self.serve_one(queue, ctx);
                budget = budget.saturating_sub(1);
            }
        }
    }

    /// Serves one command of a queue; whether there was one.
    fn serve_one(&mut self, queue: usize, ctx: &mut PciContext<'_, '_>) -> bool {
        if self.state.csts & (CSTS_READY | CSTS_FATAL) != CSTS_READY {
            return false;
        }
        let Some(sq) = self.state.submission.get(queue).and_then(Option::as_ref) else { return false };
        let target = usize::from(sq.completion);
        let full =
            self.state.completion.get(target).and_then(Option::as_ref).is_none_or(CompletionQueue::is_full);
        if sq.is_empty() || full {
            return false;
        }
        let dma = ctx.dma();
        let mut bytes = [0; 64];
        if dma.read(GuestPhys(sq.head_address()), &mut bytes).is_err() {
            self.state.csts |= CSTS_FATAL;
            return false;
        }
        let Some(sq) = self.state.submission[queue].as_mut() else { return false };
        sq.advance();
        let command = Command::new(bytes);
        let outcome = if queue == 0 { self.admin(&command, &dma) } else { self.io(&command, &dma).map(Some) };
        match outcome {
            Ok(None) => {}
            Ok(Some(value)) => self.complete(queue, &command, value, status::SUCCESS, ctx),
            Err(code) => self.complete(queue, &command, 0, code, ctx),
        }
        true
    }

    fn complete(
        &mut self,
        queue: usize,
        command: &Command,
        value: u32,
        code: u16,
        ctx: &mut PciContext<'_, '_>,
    ) {
        let (head, target) = match self.state.submission.get(queue).and_then(Option::as_ref) {
            Some(sq) => (sq.head as u16, usize::from(sq.completion)),
            None => return,
        };
        let Some(cq) = self.state.completion.get_mut(target).and_then(Option::as_mut) else { return };
        // Do not retry: the same command would fail again.
        let code = if code == status::SUCCESS { 0 } else { code << 1 | 1 << 15 };
        let mut entry = [0; 16];
        entry[..4].copy_from_slice(&value.to_le_bytes());
        entry[8..10].copy_from_slice(&head.to_le_bytes());
        entry[10..12].copy_from_slice(&(queue as u16).to_le_bytes());
        entry[12..14].copy_from_slice(&command.id().to_le_bytes());
        entry[14..16].copy_from_slice(&(code | u16::from(cq.phase)).to_le_bytes());
        let vector = cq.vector;
        if ctx.dma().write(GuestPhys(cq.tail_address()), &entry).is_err() {
            self.state.csts |= CSTS_FATAL;
            return;
        }
        cq.advance();
        match vector {
            Some(vector) if ctx.config.msix_enabled() => _ = ctx.signal(vector),
            _ => self.drive_intx(ctx),
        }
    }

    /// Without MSI-X, the pin is asserted while a queue has completions that software has not seen (7.5.1).
    fn drive_intx(&mut self, ctx: &mut PciContext<'_, '_>) {
        let mask = self.state.interrupt_mask;
        let asks = |cq: &CompletionQueue| {
            cq.vector.is_some_and(|vector| vector < 32 && mask >> vector & 1 == 0) && !cq.is_empty()
        };
        let asserted = self.state.completion.iter().flatten().any(asks);
        ctx.set_intx(asserted);
    }
}

impl PciDevice for Nvme {
    fn read(&mut self, _bar: usize, offset: u64, data: &mut [u8], _ctx: &mut PciContext<'_, '_>) {
        data.fill(0);
        if offset < DOORBELLS {
            let (at, shift) = match offset {
                CAP..VS | ASQ..0x38 => (offset & !7, offset & 7),
                _ => (offset & !3, offset & 3),
            };
            put_le(self.register(at) >> (8 * shift), data);
        }
    }

    fn write(&mut self, _bar: usize, offset: u64, data: &[u8], ctx: &mut PciContext<'_, '_>) {
        match offset {
            0..DOORBELLS => self.write_register(offset, data, ctx),
            DOORBELLS..REGISTERS if data.len() == 4 && offset.is_multiple_of(4) => {
                self.doorbell(offset - DOORBELLS, le_value(data) as u32, ctx);
            }
            _ => {}
        }
    }

    fn timer(&mut self, _timer: u8, ctx: &mut PciContext<'_, '_>) {
        self.serve(ctx);
    }

    fn reset(&mut self, _ctx: &mut PciContext<'_, '_>) {
        self.state = State::default();
    }

    fn hash_state(&self, hasher: &mut StateHasher) {
        hasher.add(&self.state);
        self.disk.hash_state(hasher);
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        Ok(postcard::to_stdvec(&(&self.state, self.disk.save()?))?)
    }

    fn restore(&mut self, image: &[u8]) -> Result<(), StateError> {
        let (state, disk): (State, Vec<u8>) = postcard::from_bytes(image)?;
        let fits = state.submission.len() == IO_QUEUES + 1
            && state.completion.len() == IO_QUEUES + 1
            && state.features.len() == self.state.features.len()
            && state.submission.iter().flatten().all(SubmissionQueue::is_sound)
            && state.completion.iter().flatten().all(CompletionQueue::is_sound);
        if !fits {
            return Err(StateError::OtherBoard("NVMe queues that cannot be".into()));
        }
        self.state = state;
        self.disk.restore(&disk)
    }
}
