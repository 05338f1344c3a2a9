//! What the execution of a VEX or EVEX form must know of its operands, from iced's tables.

use crate::Insn;
use iced_x86::Code;
use std::sync::LazyLock;

/// Sizes of a form, in bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Form {
    /// Vector length: 16, 32 or 64.
    pub length: u8,
    /// The memory operand, when it is not broadcast. 0 if there is none.
    pub memory: u8,
    /// Element of the memory operand; what is broadcast, if the form can broadcast.
    pub element: u8,
    /// EVEX.b with registers is a rounding mode (and not only "suppress all exceptions").
    pub rounds: bool,
}

static FORMS: LazyLock<Vec<Form>> = LazyLock::new(|| Code::values().map(form_of).collect());

fn form_of(code: Code) -> Form {
    let op_code = code.op_code();
    let memory = op_code.memory_size();
    let broadcast = op_code.broadcast_memory_size();
    let element = if broadcast.size() != 0 { broadcast.size() } else { memory.element_size() };
    Form {
        length: 16 << op_code.l().min(2),
        memory: memory.size().min(64) as u8,
        element: element.min(64) as u8,
        rounds: op_code.can_use_rounding_control(),
    }
}

/// The sizes of `i`'s form.
#[inline]
pub fn form(i: &Insn) -> Form {
    FORMS.get(usize::from(i.code)).copied().unwrap_or_default()
}
