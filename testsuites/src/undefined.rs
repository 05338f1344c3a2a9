//! What the manuals leave undefined, and what differs between processors: the only differences that are forgiven.

use crate::case::Case;
use crate::forms::host_is_intel;
use iced_x86::{Code, Instruction, Mnemonic, OpKind, RflagsBits};
use ringworld_x86::flags::bits;

/// What not to compare after a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Undefined {
    /// Flags.
    pub flags: u64,
    /// x87: how far the results may be from each other, in units in the last place.
    pub x87_ulps: u64,
    /// Elements of the first operand are approximations, the same on processors of one vendor only.
    pub approximate: bool,
}

/// What is undefined after `case`.
pub fn undefined(case: &Case) -> Undefined {
    // RF is set in the image that a fault saves, and cleared by the instruction (SDM 3A 18.3.1.1).
    let mut result = Undefined { flags: bits::RF, ..Undefined::default() };
    for instruction in case.instructions() {
        result.flags |= flags(&instruction);
        if is_transcendental(instruction.mnemonic()) {
            result.x87_ulps = 1;
        }
        result.approximate |= !host_is_intel() && is_approximate(instruction.mnemonic());
    }
    result
}

/// Undefined flags: the instruction's page in SDM 2, "Flags Affected", as in iced's tables.
fn flags(instruction: &Instruction) -> u64 {
    // "The OF flag is undefined except for 1-bit rotates" (SDM 2B, RCL); a count that is a multiple of the rotated width
    // is not one of them.
    let rotate = matches!(instruction.mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr);
    let more = rotate && instruction.op1_kind() == OpKind::Immediate8 && instruction.immediate8() & 31 > 1;
    if shifts_too_far(instruction) {
        return bits::STATUS;
    }
    let undefined = instruction.rflags_undefined();
    [
        (RflagsBits::CF, bits::CF),
        (RflagsBits::PF, bits::PF),
        (RflagsBits::AF, bits::AF),
        (RflagsBits::ZF, bits::ZF),
        (RflagsBits::SF, bits::SF),
        (RflagsBits::OF, bits::OF),
    ]
    .into_iter()
    .filter_map(|(theirs, ours)| (undefined & theirs != 0).then_some(ours))
    .sum::<u64>()
        | if more { bits::OF } else { 0 }
}

/// "If a count is greater than the operand size, the result is undefined", and so are the flags (SDM 2B SHLD; APM 3 SHLD). The
/// count is 5 bits, so that is 16-bit operands.
fn shifts_too_far(instruction: &Instruction) -> bool {
    use Code::*;
    match instruction.code() {
        Shld_rm16_r16_imm8 | Shrd_rm16_r16_imm8 => instruction.immediate8() & 31 > 16,
        Shld_rm16_r16_CL | Shrd_rm16_r16_CL => true,
        _ => false,
    }
}

/// RCPPS, RSQRTPS and kin: the relative error is at most 1.5 * 2^-12 (SDM 2B RCPPS; APM 4 RCPPS), and else each vendor's own.
pub fn is_approximate(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(mnemonic, Rcpps | Rcpss | Rsqrtps | Rsqrtss | Vrcpps | Vrcpss | Vrsqrtps | Vrsqrtss)
}

/// Instructions that access memory in several parts. When one of the parts faults, the order of the parts shows.
pub fn in_parts(case: &Case) -> bool {
    use Mnemonic::*;
    let mnemonic = case.code().mnemonic();
    matches!(
        mnemonic,
        Pusha
            | Pushad
            | Popa
            | Popad
            | Bound
            | Enter
            | Retf
            | Iret
            | Iretd
            | Iretq
            | Fsave
            | Fnsave
            | Frstor
            | Fstenv
            | Fnstenv
            | Fldenv
            | Fxsave
            | Fxsave64
            | Fxrstor
            | Fxrstor64
            | Xsave
            | Xsave64
            | Xsavec
            | Xsavec64
            | Xsaveopt
            | Xsaveopt64
            | Xrstor
            | Xrstor64
    ) || mnemonic == Call && case.code().op_code().memory_size().size() > 8
}

/// x87 instructions whose results are exact to 1 ulp only (SDM 1 8.3.10).
pub fn is_transcendental(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(mnemonic, F2xm1 | Fyl2x | Fyl2xp1 | Fptan | Fpatan | Fsin | Fcos | Fsincos)
}
