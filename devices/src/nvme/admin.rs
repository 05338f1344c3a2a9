//! Admin commands (NVMe 1.4, chapter 5).

use super::identify::{MAX_EVENTS, NAMESPACE, QUEUES};
use super::queues::{Command, CompletionQueue, SubmissionQueue};
use super::{IO_QUEUES, MAX_ENTRIES, Nvme, PAGE, prp, status};
use crate::dma::Dma;
use crate::virtio::scatter;

const DELETE_SQ: u8 = 0x00;
const CREATE_SQ: u8 = 0x01;
const GET_LOG_PAGE: u8 = 0x02;
const DELETE_CQ: u8 = 0x04;
const CREATE_CQ: u8 = 0x05;
const IDENTIFY: u8 = 0x06;
const ABORT: u8 = 0x08;
const SET_FEATURES: u8 = 0x09;
const GET_FEATURES: u8 = 0x0a;
const ASYNC_EVENT: u8 = 0x0c;

/// Features (5.21.1).
const TEMPERATURE: usize = 0x04;
pub(super) const WRITE_CACHE: usize = 0x06;
const NUMBER_OF_QUEUES: usize = 0x07;
const VECTOR_CONFIGURATION: usize = 0x09;
/// Arbitration, power management, temperature, error recovery, write cache, queues, coalescing, vectors, write atomicity,
/// events.
const KNOWN: u32 = 0b1111_1111_0110;
const FEATURES: usize = 12;

/// Values after a reset.
pub(super) fn default_features() -> Vec<u32> {
    let mut features = vec![0; FEATURES];
    features[TEMPERATURE] = 343;
    features[WRITE_CACHE] = 1;
    features[NUMBER_OF_QUEUES] = QUEUES;
    features
}

impl Nvme {
    /// Executes an admin command. `None` completes later, if ever.
    pub(super) fn admin(&mut self, command: &Command, dma: &Dma) -> Result<Option<u32>, u16> {
        if !command.is_plain() {
            return Err(status::INVALID_FIELD);
        }
        match command.opcode() {
            DELETE_SQ => self.delete_submission(command),
            CREATE_SQ => self.create_submission(command),
            GET_LOG_PAGE => self.log_page(command, dma),
            DELETE_CQ => self.delete_completion(command),
            CREATE_CQ => self.create_completion(command),
            IDENTIFY => {
                let data = self.identify(command.dword(10) as u8, command.namespace())?;
                answer(dma, command, &data)
            }
            // Commands are done when they are seen, so that none can be aborted.
            ABORT => Ok(1),
            SET_FEATURES => self.set_feature(command),
            GET_FEATURES => self.get_feature(command),
            ASYNC_EVENT => {
                if self.state.waiting_events.len() >= usize::from(MAX_EVENTS) {
                    return Err(status::TOO_MANY_EVENTS);
                }
                // Nothing happens to this controller of which it would tell.
                self.state.waiting_events.push(command.id());
                return Ok(None);
            }
            _ => Err(status::INVALID_OPCODE),
        }
        .map(Some)
    }

    /// Queue ID and size from dword 10 (5.3, 5.4).
    fn new_queue(command: &Command) -> Result<(usize, u32), u16> {
        let (id, size) = ((command.dword(10) & 0xffff) as usize, (command.dword(10) >> 16) + 1);
        if !(1..=IO_QUEUES).contains(&id) {
            return Err(status::INVALID_QUEUE);
        }
        if !(2..=MAX_ENTRIES).contains(&size) {
            return Err(status::INVALID_SIZE);
        }
        // Physically contiguous, at a page.
        if command.dword(11) & 1 == 0 || !command.prp().0.is_multiple_of(PAGE) {
            return Err(status::INVALID_FIELD);
        }
        Ok((id, size))
    }

    fn create_completion(&mut self, command: &Command) -> Result<u32, u16> {
        let (id, size) = Self::new_queue(command)?;
        let (vector, enabled) = ((command.dword(11) >> 16) as u16, command.dword(11) & 2 != 0);
        if usize::from(vector) > IO_QUEUES {
            return Err(status::INVALID_VECTOR);
        }
        let slot = &mut self.state.completion[id];
        if slot.is_some() {
            return Err(status::INVALID_QUEUE);
        }
        *slot = Some(CompletionQueue::new(command.prp().0, size, enabled.then_some(vector)));
        Ok(0)
    }

    fn create_submission(&mut self, command: &Command) -> Result<u32, u16> {
        let (id, size) = Self::new_queue(command)?;
        let completion = (command.dword(11) >> 16) as u16;
        let target = self.state.completion.get(usize::from(completion));
        if completion == 0 || target.is_none_or(Option::is_none) {
            return Err(status::INVALID_CQ);
        }
        let slot = &mut self.state.submission[id];
        if slot.is_some() {
            return Err(status::INVALID_QUEUE);
        }
        *slot = Some(SubmissionQueue::new(command.prp().0, size, completion));
        Ok(0)
    }

    fn delete_submission(&mut self, command: &Command) -> Result<u32, u16> {
        let id = (command.dword(10) & 0xffff) as usize;
        let slot = self.state.submission.get_mut(id).filter(|_| id != 0);
        slot.and_then(Option::take).map(|_| 0).ok_or(status::INVALID_QUEUE)
    }

    fn delete_completion(&mut self, command: &Command) -> Result<u32, u16> {
        let id = (command.dword(10) & 0xffff) as usize;
        if self.state.submission.iter().flatten().any(|sq| usize::from(sq.completion) == id) && id != 0 {
            return Err(status::INVALID_DELETION);
        }
        let slot = self.state.completion.get_mut(id).filter(|_| id != 0);
        slot.and_then(Option::take).map(|_| 0).ok_or(status::INVALID_QUEUE)
    }

    fn set_feature(&mut self, command: &Command) -> Result<u32, u16> {
        let id = (command.dword(10) & 0xff) as usize;
        if command.dword(10) >> 31 != 0 {
            return Err(status::NOT_SAVEABLE);
        }
        if id >= FEATURES || KNOWN >> id & 1 == 0 {
            return Err(status::INVALID_FIELD);
        }
        let value = command.dword(11);
        match id {
            // What is granted does not depend on what is asked for.
            NUMBER_OF_QUEUES if value & 0xffff == 0xffff || value >> 16 == 0xffff => {
                return Err(status::INVALID_FIELD);
            }
            NUMBER_OF_QUEUES => return Ok(QUEUES),
            VECTOR_CONFIGURATION if (value & 0xffff) as usize > IO_QUEUES => {
                return Err(status::INVALID_FIELD);
            }
            WRITE_CACHE if value & 1 == 0 => _ = self.disk.flush(),
            _ => {}
        }
        self.state.features[id] = value;
        Ok(0)
    }

    fn get_feature(&self, command: &Command) -> Result<u32, u16> {
        let (id, select) = ((command.dword(10) & 0xff) as usize, command.dword(10) >> 8 & 7);
        if id >= FEATURES || KNOWN >> id & 1 == 0 {
            return Err(status::INVALID_FIELD);
        }
        Ok(match select {
            0 => self.state.features[id],
            // Default and saved values; then capabilities: changeable.
            1 | 2 => default_features()[id],
            3 => 4,
            _ => return Err(status::INVALID_FIELD),
        })
    }

    fn log_page(&self, command: &Command, dma: &Dma) -> Result<u32, u16> {
        let len = u64::from(command.dword(10) >> 16) + 1 + (u64::from(command.dword(11) & 0xffff) << 16);
        let (len, offset) = (len * 4, command.qword(12));
        let mut page = vec![0u8; 512];
        match command.dword(10) & 0xff {
            // Errors: none.
            0x01 => page.resize(64, 0),
            // SMART: 20 degrees Celsius, all spare capacity there.
            0x02 => {
                page[1..3].copy_from_slice(&293u16.to_le_bytes());
                page[3] = 100;
                page[4] = 10;
            }
            // Firmware: slot 1 is active.
            0x03 => {
                page[0] = 1;
                page[8..16].copy_from_slice(b"1.0     ");
            }
            _ => return Err(status::INVALID_LOG_PAGE),
        }
        if offset > page.len() as u64 || offset & 3 != 0 {
            return Err(status::INVALID_FIELD);
        }
        let rest = &page[offset as usize..];
        answer(dma, command, &rest[..(len as usize).min(rest.len())])
    }

    /// Whether a command is for the namespace.
    pub(super) fn is_namespace(command: &Command) -> bool {
        command.namespace() == NAMESPACE
    }
}

fn answer(dma: &Dma, command: &Command, data: &[u8]) -> Result<u32, u16> {
    let to = prp::segments(dma, command.prp(), data.len() as u64)?;
    scatter(dma, &to, data).map(|_| 0).map_err(|_| status::DATA_TRANSFER)
}
