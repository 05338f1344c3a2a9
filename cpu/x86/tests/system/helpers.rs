//! What the tests share: descriptors, exception frames, and running a few instructions to their end.

use crate::common::*;
use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use ringworld_x86::Activity;
use ringworld_x86::segment::Segment;

/// The vector with which tested code says that it is done: a gate for all levels, to a `hlt`.
pub const DONE: u8 = 0x30;

/// An exception as vector and error code (0 if there is none); `None` if nothing was raised.
pub type Cause = Option<(u8, u32)>;

/// #TS.
pub const fn ts(error: u32) -> Cause {
    Some((10, error))
}
/// #NP.
pub const fn np(error: u32) -> Cause {
    Some((11, error))
}
/// #SS (stack fault).
pub const fn sf(error: u32) -> Cause {
    Some((12, error))
}
/// #GP.
pub const fn gp(error: u32) -> Cause {
    Some((13, error))
}
/// #PF.
pub const fn pf(error: u32) -> Cause {
    Some((14, error))
}
/// #UD.
pub const UD: Cause = Some((6, 0));
/// #AC(0).
pub const AC: Cause = Some((17, 0));

/// A segment descriptor (SDM 3A figure 3-8). `access` is P, DPL, S and type; `flags` is G 8, D/B 4, L 2, AVL 1.
pub const fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    (limit & 0xffff) as u64
        | ((base & 0xff_ffff) as u64) << 16
        | (access as u64) << 40
        | ((limit >> 16 & 15) as u64) << 48
        | (flags as u64) << 52
        | ((base >> 24) as u64) << 56
}

/// A call, interrupt, trap or task gate (SDM 3A figures 5-8 and 6-2); `count` is the parameter count.
pub const fn gate(selector: u16, offset: u32, access: u8, count: u8) -> u64 {
    (offset & 0xffff) as u64
        | (selector as u64) << 16
        | (count as u64) << 32
        | (access as u64) << 40
        | ((offset >> 16) as u64) << 48
}

/// What an event pushed, as its handler finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Which handler it is.
    pub vector: u8,
    /// The error code.
    pub error: Option<u32>,
    pub ip: u64,
    pub cs: u16,
    pub flags: u64,
    /// Meaningless if the handler runs on the same stack in 32-bit mode.
    pub sp: u64,
    pub ss: u16,
}

impl Frame {
    /// Vector and error code.
    pub fn cause(&self) -> (u8, u32) {
        (self.vector, self.error.unwrap_or(0))
    }
}

/// The cause of a result.
pub fn cause(result: Result<(), Frame>) -> Cause {
    result.err().map(|frame| frame.cause())
}

/// Whether an exception pushes an error code (SDM 3A table 6-1).
fn has_error(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

impl Rig {
    /// Adds gates for all exceptions, and [`DONE`]'s.
    pub fn ready(mut self) -> Self {
        self.gates();
        self.gate(DONE, 0x9000 + u64::from(DONE), 14, 3);
        self.load(0x9000 + u64::from(DONE), &[0xf4]);
        self
    }

    /// Real-address mode with an interrupt vector table of the same handlers.
    pub fn ready_real() -> Self {
        let mut rig = Self::real();
        for vector in 0..64_u64 {
            rig.load(4 * vector, &(0x9000 + vector as u32).to_le_bytes());
        }
        rig.load(0x9000, &[0xf4; 64]);
        rig
    }

    /// Writes a descriptor into the GDT.
    pub fn set_gdt(&mut self, selector: u16, descriptor: u64) {
        self.poke(GDT + u64::from(selector & 0xfff8), descriptor);
    }

    /// Puts a segment into a register without any check.
    pub fn force(&mut self, n: usize, selector: u16, descriptor: u64) {
        self.cpu.seg[n] = Segment::from_descriptor(selector, descriptor);
        self.cpu.update_mode();
    }

    /// Reads 4 bytes.
    pub fn peek32(&self, at: u64) -> u32 {
        self.peek(at) as u32
    }

    /// Reads 2 bytes.
    pub fn peek16(&self, at: u64) -> u16 {
        self.peek(at) as u16
    }

    /// Writes 4 bytes.
    pub fn poke32(&mut self, at: u64, value: u32) {
        self.load(at, &value.to_le_bytes());
    }

    /// Assembles code for the present mode at a linear address.
    pub fn put(&mut self, at: u64, f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
        self.assemble(at, |a| f(a).expect("valid instructions"));
    }

    /// The frame on the stack of handler `vector`.
    pub fn frame(&self, vector: u8) -> Frame {
        let size = if self.cpu.long_mode() { 8 } else { 4 };
        let mut at = self.cpu.seg[2].base + (self.cpu.regs[4] & self.cpu.stack_mask());
        let mut next = || {
            let value = self.peek(at);
            at += size;
            if size == 8 { value } else { value & 0xffff_ffff }
        };
        let error = has_error(vector).then(|| next() as u32);
        Frame { vector, error, ip: next(), cs: next() as u16, flags: next(), sp: next(), ss: next() as u16 }
    }

    /// Runs until a handler halts: [`DONE`]'s is `Ok`.
    pub fn finish(&mut self) -> Result<(), Frame> {
        self.run(10_000);
        let rip = self.cpu.rip();
        assert_eq!(self.cpu.activity, Activity::Halted, "at {rip:#x}");
        match rip.wrapping_sub(0x9001) {
            0x30 => Ok(()),
            vector @ ..0x20 => Err(self.frame(vector as u8)),
            _ => panic!("halted at {rip:#x}"),
        }
    }

    /// Runs bytes of code at RIP, ended by [`DONE`].
    pub fn bytes(&mut self, code: &[u8]) -> Result<(), Frame> {
        let at = self.cpu.seg[1].base + self.cpu.rip();
        let code: Vec<u8> = code.iter().copied().chain([0xcd, DONE]).collect();
        self.load(at, &code);
        self.finish()
    }
}
