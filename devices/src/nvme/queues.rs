//! Submission and completion queues (NVMe 1.4, 4.1, 4.2, 4.6).

use serde::{Deserialize, Serialize};

/// Bytes of their entries.
const SUBMISSION_ENTRY: u64 = 64;
const COMPLETION_ENTRY: u64 = 16;

/// A command: 64 bytes.
pub(super) struct Command([u8; 64]);

impl Command {
    pub(super) fn new(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The opcode.
    pub(super) fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// Whether it uses PRPs and is not fused.
    pub(super) fn is_plain(&self) -> bool {
        self.0[1] & 0xc3 == 0
    }

    /// The command identifier.
    pub(super) fn id(&self) -> u16 {
        u16::from_le_bytes([self.0[2], self.0[3]])
    }

    /// The namespace.
    pub(super) fn namespace(&self) -> u32 {
        self.dword(1)
    }

    /// Command dword `n`.
    pub(super) fn dword(&self, n: usize) -> u32 {
        let at = 4 * (n & 15);
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    /// Dwords `n` and `n + 1`.
    pub(super) fn qword(&self, n: usize) -> u64 {
        u64::from(self.dword(n + 1)) << 32 | u64::from(self.dword(n))
    }

    /// PRP entries 1 and 2.
    pub(super) fn prp(&self) -> (u64, u64) {
        (self.qword(6), self.qword(8))
    }
}

/// A submission queue.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct SubmissionQueue {
    base: u64,
    pub(super) size: u32,
    pub(super) head: u32,
    tail: u32,
    /// The completion queue's ID.
    pub(super) completion: u16,
}

impl SubmissionQueue {
    pub(super) fn new(base: u64, size: u32, completion: u16) -> Self {
        Self { base, size, head: 0, tail: 0, completion }
    }

    pub(super) fn is_sound(&self) -> bool {
        (1..=4096).contains(&self.size) && self.head < self.size && self.tail < self.size
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    pub(super) fn set_tail(&mut self, tail: u32) -> bool {
        let fits = tail < self.size;
        if fits {
            self.tail = tail;
        }
        fits
    }

    pub(super) fn head_address(&self) -> u64 {
        self.base.wrapping_add(u64::from(self.head) * SUBMISSION_ENTRY)
    }

    pub(super) fn advance(&mut self) {
        self.head = (self.head + 1) % self.size;
    }
}

/// A completion queue.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct CompletionQueue {
    base: u64,
    size: u32,
    head: u32,
    tail: u32,
    /// The phase tag of the next entry.
    pub(super) phase: bool,
    /// The interrupt vector, if it interrupts.
    pub(super) vector: Option<u16>,
}

impl CompletionQueue {
    pub(super) fn new(base: u64, size: u32, vector: Option<u16>) -> Self {
        Self { base, size, head: 0, tail: 0, phase: true, vector }
    }

    pub(super) fn is_sound(&self) -> bool {
        (1..=4096).contains(&self.size) && self.head < self.size && self.tail < self.size
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    pub(super) fn is_full(&self) -> bool {
        (self.tail + 1) % self.size == self.head
    }

    pub(super) fn set_head(&mut self, head: u32) -> bool {
        let fits = head < self.size;
        if fits {
            self.head = head;
        }
        fits
    }

    pub(super) fn tail_address(&self) -> u64 {
        self.base.wrapping_add(u64::from(self.tail) * COMPLETION_ENTRY)
    }

    pub(super) fn advance(&mut self) {
        self.tail += 1;
        if self.tail == self.size {
            (self.tail, self.phase) = (0, !self.phase);
        }
    }
}
