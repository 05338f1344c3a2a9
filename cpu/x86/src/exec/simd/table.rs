//! Rows by mnemonic: an operation is named once, and all encodings of its mnemonics that exist become rows.

use super::block::{self, BlockOp};
use super::plumbing::{self, Operate};
use crate::insn::Exec;
use crate::row::{Group, Rows};
use iced_x86::{Code, EncodingKind, Mnemonic, OpCodeOperandKind};
use std::collections::HashMap;
use std::sync::LazyLock;

static BY_MNEMONIC: LazyLock<HashMap<Mnemonic, Vec<Code>>> = LazyLock::new(|| {
    let mut map: HashMap<Mnemonic, Vec<Code>> = HashMap::new();
    for code in Code::values().filter(|code| code.op_code().is_instruction()) {
        map.entry(code.mnemonic()).or_default().push(code);
    }
    map
});

/// How a form is encoded, as far as vector rows differ by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Legacy with MMX registers only.
    Mmx,
    /// Legacy with an XMM register.
    Legacy,
    /// VEX.
    Vex,
    /// EVEX.
    Evex,
    /// Not ours (XOP, 3DNow!, general registers).
    Other,
}

impl Kind {
    /// The kind of a form.
    pub fn of(code: Code) -> Self {
        let op_code = code.op_code();
        let any = |wanted: fn(OpCodeOperandKind) -> bool| op_code.op_kinds().iter().copied().any(wanted);
        match op_code.encoding() {
            EncodingKind::VEX => Self::Vex,
            EncodingKind::EVEX => Self::Evex,
            EncodingKind::Legacy if any(is_xmm) => Self::Legacy,
            EncodingKind::Legacy if any(is_mm) => Self::Mmx,
            _ => Self::Other,
        }
    }

    /// The state that forms of this kind need.
    pub fn group(self) -> Group {
        match self {
            Self::Mmx => Group::Mmx,
            Self::Legacy => Group::Sse,
            Self::Vex => Group::Avx,
            Self::Evex => Group::Avx512,
            Self::Other => Group::Base,
        }
    }
}

fn is_xmm(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as K;
    matches!(kind, K::xmm_reg | K::xmm_rm | K::xmm_or_mem)
}

/// Whether an operand is an MMX register (or memory in its place).
pub fn is_mm(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as K;
    matches!(kind, K::mm_reg | K::mm_rm | K::mm_or_mem)
}

/// The forms of a mnemonic.
pub fn forms(mnemonic: Mnemonic) -> &'static [Code] {
    BY_MNEMONIC.get(&mnemonic).map_or(&[], Vec::as_slice)
}

/// Adds one form, in the group of its encoding.
pub fn add(rows: &mut Rows, code: Code, register: Exec, memory: Exec) {
    rows.group(Kind::of(code).group());
    rows.add_rm(code, register, memory);
}

/// Adds all SSE, VEX and EVEX forms of some mnemonics, with one function.
pub fn add_all(rows: &mut Rows, exec: Exec, mnemonics: &[Mnemonic]) {
    for &mnemonic in mnemonics {
        for &code in forms(mnemonic) {
            if matches!(Kind::of(code), Kind::Legacy | Kind::Vex | Kind::Evex) {
                add(rows, code, exec, exec);
            }
        }
    }
}

/// Adds all SSE, VEX and EVEX forms of an operation.
pub fn operation<O: Operate>(rows: &mut Rows, mnemonics: &[Mnemonic]) {
    add_all(rows, plumbing::exec_of::<O>(), mnemonics);
}

/// Whether a form's last operand is an immediate byte.
pub fn has_immediate(code: Code) -> bool {
    code.op_code().op_kinds().contains(&OpCodeOperandKind::imm8)
}

/// Adds all forms of a block operation, MMX ones included if it works on 64 bits as on 128.
pub fn block<O: BlockOp>(rows: &mut Rows, mnemonics: &[Mnemonic]) {
    block_if::<O>(rows, mnemonics, |_| true);
}

/// Adds the forms of a block operation that `wanted` accepts.
pub fn block_if<O: BlockOp>(rows: &mut Rows, mnemonics: &[Mnemonic], wanted: fn(Code) -> bool) {
    for &mnemonic in mnemonics {
        for &code in forms(mnemonic).iter().filter(|&&code| wanted(code)) {
            match Kind::of(code) {
                Kind::Mmx if O::MMX => add(rows, code, block::mmx::<O>, block::mmx::<O>),
                Kind::Legacy => add(rows, code, block::legacy_register::<O>, block::legacy_memory::<O>),
                Kind::Vex | Kind::Evex => {
                    let exec = plumbing::exec_of::<block::Whole<O>>();
                    add(rows, code, exec, exec);
                }
                _ => {}
            }
        }
    }
}
