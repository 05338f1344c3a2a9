//! A test case: one instruction, the state before it, and what came of it.

use crate::forms::decoder_options;
use crate::random::Random;
use iced_x86::{Code, Decoder, FastFormatter, Instruction};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// Linear address of the code pages. All addresses fit a sign-extended 32-bit displacement.
pub const CODE: u64 = 0x1000_0000;
/// Bytes of executable memory at [`CODE`]; the pages around it are not mapped.
pub const CODE_SIZE: usize = 0x2000;
/// Linear address of the data window; the pages around it are not mapped.
pub const DATA: u64 = 0x2000_0000;
/// Bytes of the data window.
pub const DATA_SIZE: usize = 0x3000;
/// The first bytes of the data window are writable, the rest is read-only.
pub const WRITABLE: usize = 0x2000;

/// CS of 64-bit user code under Linux, whose segments the emulated processor copies.
pub const CS64: u16 = 0x33;
/// CS of 32-bit user code.
pub const CS32: u16 = 0x23;
/// SS, DS and ES.
pub const DATA_SELECTOR: u16 = 0x2b;

/// In which mode a case runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// 64-bit mode, CPL 3.
    Long64,
    /// Compatibility mode, CPL 3, flat 32-bit segments.
    Compat32,
}

impl Mode {
    /// The segment selectors before a case.
    pub const fn selectors(self) -> [u16; 6] {
        let cs = match self {
            Self::Long64 => CS64,
            Self::Compat32 => CS32,
        };
        [DATA_SELECTOR, cs, DATA_SELECTOR, DATA_SELECTOR, 0, 0]
    }

    /// 64 or 32.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Long64 => 64,
            Self::Compat32 => 32,
        }
    }
}

/// x87 state, as FXSAVE orders it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct X87State {
    /// Control word.
    pub control: u16,
    /// Status word.
    pub status: u16,
    /// Abridged tag word: bit n is set if physical register n is not empty.
    pub valid: u8,
    /// Last opcode.
    pub fop: u16,
    /// Last instruction pointer.
    pub fip: u64,
    /// Last data pointer.
    pub fdp: u64,
    /// ST(0) to ST(7): significand, and sign with exponent.
    pub st: [(u64, u16); 8],
}

/// Everything that a user-mode instruction can see or change, but for memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// General registers in encoding order.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// Segment selectors in encoding order: ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
    /// FS.base.
    pub fs_base: u64,
    /// GS.base.
    pub gs_base: u64,
    /// Vector registers.
    pub zmm: [[u64; 8]; 32],
    /// Opmask registers.
    pub k: [u64; 8],
    /// MXCSR.
    pub mxcsr: u32,
    /// x87 and MMX.
    pub x87: X87State,
}

/// Bytes put into the data window.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Patch {
    /// Linear address.
    pub address: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// One test case.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Case {
    /// `iced_x86::Code` of the form.
    pub code: u16,
    /// Mode.
    pub mode: Mode,
    /// The instruction's bytes, at `state.rip`. (A sequence of several if `steps` says so.)
    pub bytes: Vec<u8>,
    /// Instructions to run.
    pub steps: u32,
    /// State before.
    pub state: State,
    /// Which of the [`background`]s fills the data window.
    pub background: u8,
    /// Changes to the background.
    pub patches: Vec<Patch>,
}

/// An exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// Vector.
    pub vector: u8,
    /// Error code; 0 for vectors that have none.
    pub error: u32,
    /// #PF: CR2, else 0.
    pub address: u64,
}

/// What came of a case. The runner that made it holds the memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// State after.
    pub state: State,
    /// The exception, if the instruction did not complete.
    pub fault: Option<Fault>,
}

/// How many backgrounds there are.
pub const BACKGROUNDS: u8 = 4;

static FILLS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    (0..BACKGROUNDS)
        .map(|kind| {
            let mut random = Random::new(u64::from(kind));
            let mut bytes = Vec::with_capacity(DATA_SIZE);
            while bytes.len() < DATA_SIZE {
                bytes.extend(match kind {
                    0 => random.bits().to_le_bytes(),
                    1 => crate::generate::values::floats::<4>(&mut random),
                    2 => crate::generate::values::floats::<8>(&mut random),
                    _ => crate::generate::values::integer(&mut random).to_le_bytes(),
                });
            }
            bytes
        })
        .collect()
});

/// The contents of the data window before patches.
pub fn background(kind: u8) -> &'static [u8] {
    &FILLS[usize::from(kind % BACKGROUNDS)]
}

impl Case {
    /// The form.
    pub fn code(&self) -> Code {
        Code::try_from(usize::from(self.code)).unwrap_or(Code::INVALID)
    }

    /// The data window before the instruction.
    pub fn window(&self) -> Vec<u8> {
        let mut window = background(self.background).to_vec();
        for patch in &self.patches {
            for (n, &byte) in patch.bytes.iter().enumerate() {
                let offset = patch.address.wrapping_add(n as u64).wrapping_sub(DATA);
                if let Some(slot) = usize::try_from(offset).ok().and_then(|offset| window.get_mut(offset)) {
                    *slot = byte;
                }
            }
        }
        window
    }

    /// The decoded instructions.
    pub fn instructions(&self) -> Vec<Instruction> {
        let mut decoder = Decoder::with_ip(self.mode.bits(), &self.bytes, self.state.rip, decoder_options());
        (0..self.steps).map(|_| decoder.decode()).collect()
    }

    /// Whether the instruction runs again until its REP prefix is satisfied.
    pub fn repeats(&self) -> bool {
        use iced_x86::OpKind::*;
        let string = |i: &Instruction| {
            (0..i.op_count()).any(|n| {
                let kind = i.op_kind(n);
                matches!(
                    kind,
                    MemorySegSI | MemorySegESI | MemorySegRSI | MemoryESDI | MemoryESEDI | MemoryESRDI
                )
            })
        };
        self.steps == 1
            && self.instructions().iter().any(|i| (i.has_rep_prefix() || i.has_repne_prefix()) && string(i))
    }

    /// The disassembly.
    pub fn text(&self) -> String {
        let mut formatter = FastFormatter::new();
        let mut text = String::new();
        for instruction in self.instructions() {
            if !text.is_empty() {
                text.push_str("; ");
            }
            formatter.format(&instruction, &mut text);
        }
        text
    }
}
