//! Makes cases: for one form, a random valid encoding and the state around it.

mod memory;
mod operands;
mod sequence;
mod special;
mod state;
pub mod values;

pub use sequence::{Sequences, generate_sequence};

use crate::case::{CODE, Case, Mode, Patch, State};
use crate::forms::{decoder_options, decodes};
use crate::random::Random;
use iced_x86::{Code, Decoder, Encoder, Instruction, MemorySize, OpCodeInfo};
use values::Flavour;

/// Most attempts at one case before it is given up.
const ATTEMPTS: u32 = 200;

/// The making of one case.
pub struct Builder<'a> {
    random: &'a mut Random,
    mode: Mode,
    info: &'static OpCodeInfo,
    instruction: Instruction,
    state: State,
    patches: Vec<Patch>,
    flavour: Flavour,
    /// Linear address of the memory operand.
    target: Option<u64>,
    /// The instruction is part of a sequence: its memory operand depends on no register.
    in_sequence: bool,
}

/// The modes that a form exists in.
pub fn modes(code: Code) -> impl Iterator<Item = Mode> {
    [Mode::Long64, Mode::Compat32].into_iter().filter(move |&mode| decodes(code, mode))
}

/// Makes a case of `code`. `None` if no valid encoding was found.
pub fn generate(code: Code, random: &mut Random) -> Option<Case> {
    let valid: Vec<_> = modes(code).collect();
    if valid.is_empty() {
        return None;
    }
    let mode = if random.chance(80) { valid[0] } else { random.pick(&valid) };
    (0..ATTEMPTS).find_map(|_| Builder::new(code, mode, random).build())
}

/// What the operands of a form hold.
fn flavour(info: &OpCodeInfo, random: &mut Random) -> Flavour {
    if random.chance(15) {
        return random.pick(&[
            Flavour::Integers,
            Flavour::Float16,
            Flavour::Float32,
            Flavour::Float64,
            Flavour::Bits,
        ]);
    }
    match info.memory_size().info().element_type() {
        MemorySize::Float16 | MemorySize::BFloat16 => Flavour::Float16,
        MemorySize::Float32 => Flavour::Float32,
        MemorySize::Float64 => Flavour::Float64,
        _ if random.chance(30) => Flavour::Bits,
        _ => Flavour::Integers,
    }
}

impl<'a> Builder<'a> {
    fn new(code: Code, mode: Mode, random: &'a mut Random) -> Self {
        let info = code.op_code();
        let flavour = flavour(info, random);
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        let mut builder = Self {
            random,
            mode,
            info,
            instruction,
            state: State::default(),
            patches: Vec::new(),
            flavour,
            target: None,
            in_sequence: false,
        };
        builder.random_state();
        builder
    }

    fn build(mut self) -> Option<Case> {
        self.choose_rip();
        self.build_at()
    }

    /// Builds the instruction at the chosen RIP.
    fn build_at(mut self) -> Option<Case> {
        for n in 0..self.info.op_count() {
            self.operand(n)?;
        }
        self.prefixes();
        self.special();
        let (bytes, decoded) = self.encode()?;
        self.instruction = decoded;
        Some(Case {
            code: self.info.code() as u16,
            mode: self.mode,
            bytes,
            steps: 1,
            state: self.state,
            background: self.random.below(crate::case::BACKGROUNDS.into()) as u8,
            patches: self.patches,
        })
    }

    /// Somewhere in the code pages, now and then across their boundary.
    fn choose_rip(&mut self) {
        self.state.rip = match self.random.below(20) {
            0 => CODE + 0x1000 - self.random.below(16),
            _ => CODE + self.random.below(0x1f00),
        };
    }

    /// Encodes the instruction; `None` if the operands do not go together.
    fn encode(&mut self) -> Option<(Vec<u8>, Instruction)> {
        let mut encoder = Encoder::new(self.mode.bits());
        encoder.set_vex_wig(self.random.below(2) as u32);
        encoder.set_vex_lig(self.random.below(2) as u32);
        encoder.set_evex_wig(self.random.below(2) as u32);
        encoder.set_evex_lig(self.random.below(4) as u32);
        encoder.encode(&self.instruction, self.state.rip).ok()?;
        let bytes = encoder.take_buffer();
        let decoded = Decoder::with_ip(self.mode.bits(), &bytes, self.state.rip, decoder_options()).decode();
        (decoded.code() == self.info.code() && decoded.len() == bytes.len()).then_some((bytes, decoded))
    }

    /// Puts bytes into the data window.
    fn patch(&mut self, address: u64, bytes: Vec<u8>) {
        self.patches.push(Patch { address, bytes });
    }
}
