//! Sequences: 10 to 20 random instructions in a row, which see each other's results.

use super::{ATTEMPTS, Builder, modes};
use crate::case::{CODE, Case, Mode};
use crate::forms::{askable, host_is_intel};
use crate::random::Random;
use crate::undefined::{is_approximate, is_transcendental, undefined};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpCodeOperandKind};
use ringworld_x86::flags::bits;

/// The forms that sequences are made of.
pub struct Sequences {
    forms: Vec<(Code, Mode)>,
}

/// Whether a form can be one of many: it goes on with the next instruction and leaves nothing undefined behind.
fn fits(code: Code) -> bool {
    use Mnemonic::*;
    let info = code.op_code();
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let special = match code.mnemonic() {
        // TF is visible, or changes; selectors differ between kernels; RSP has to stay a stack.
        Pushf | Pushfd | Pushfq | Popf | Popfd | Popfq | Enter | Leave => true,
        // The image depends on which state is in its initial configuration.
        Xsave | Xsave64 | Xsavec | Xsavec64 | Xsaveopt | Xsaveopt64 | Xrstor | Xrstor64 | Fxrstor
        | Fxrstor64 => true,
        // MXCSR and the control word are random enough, and random ones fault.
        Ldmxcsr | Vldmxcsr | Fldcw | Fldenv | Frstor => true,
        Wrfsbase | Wrgsbase | Maskmovq | Maskmovdqu | Vmaskmovdqu | Movdir64b | Bt | Bts | Btr | Btc => true,
        // The answer is the host's, or lost when the next single step goes through the kernel.
        Xgetbv | Les | Lds | Lfs | Lgs | Lss => true,
        // A random register may select a descriptor that only some kernels have.
        Lar | Lsl | Verr | Verw => true,
        // Pointers to the last x87 instruction are not compared.
        Fnstenv | Fstenv | Fnsave | Fsave | Fxsave | Fxsave64 => true,
        mnemonic => is_transcendental(mnemonic) || !host_is_intel() && is_approximate(mnemonic),
    };
    let register_address = info.op_kinds().iter().any(|&kind| {
        use OpCodeOperandKind::*;
        matches!(
            kind,
            seg_rSI
                | es_rDI
                | seg_rDI
                | seg_rBX_al
                | seg_reg
                | es
                | cs
                | ss
                | ds
                | fs
                | gs
                | r16_reg_mem
                | r32_reg_mem
                | r64_reg_mem
                | mem_vsib32x
                | mem_vsib32y
                | mem_vsib32z
                | mem_vsib64x
                | mem_vsib64y
                | mem_vsib64z
        )
    });
    !special
        && !register_address
        && instruction.flow_control() == FlowControl::Next
        && instruction.rflags_undefined() == 0
        && !info.is_privileged()
        && !info.is_stack_instruction()
        && !info.must_be_cpl0()
        && !info.is_input_output()
        && askable(code).is_ok()
}

impl Default for Sequences {
    fn default() -> Self {
        let forms = ringworld_x86::row::implemented()
            .filter(|&code| fits(code))
            .flat_map(|code| modes(code).map(move |mode| (code, mode)))
            .collect();
        Self { forms }
    }
}

/// Makes a sequence.
pub fn generate_sequence(sequences: &Sequences, random: &mut Random) -> Option<Case> {
    let mode = if random.chance(80) { Mode::Long64 } else { Mode::Compat32 };
    let count = 10 + random.below(11);
    let start = CODE + random.below(0x1000);
    let mut case: Option<Case> = None;
    for _ in 0..count {
        let part = (0..ATTEMPTS).find_map(|_| {
            let (code, valid) = random.pick(&sequences.forms);
            if valid != mode {
                return None;
            }
            let rip = start + case.as_ref().map_or(0, |case| case.bytes.len() as u64);
            // Undefined flags may depend on the immediate.
            let part = Builder::new(code, mode, random).build_part(rip)?;
            (undefined(&part).flags == bits::RF).then_some(part)
        })?;
        match &mut case {
            None => case = Some(part),
            Some(case) => {
                case.bytes.extend(part.bytes);
                case.patches.extend(part.patches);
                case.steps += 1;
            }
        }
    }
    case
}

impl Builder<'_> {
    /// Builds an instruction at `rip` that is one of a sequence.
    fn build_part(mut self, rip: u64) -> Option<Case> {
        self.in_sequence = true;
        self.state.rip = rip;
        self.build_at()
    }
}
