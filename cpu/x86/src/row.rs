//! The table of instruction rows: one row a form, keyed by `iced_x86::Code`.
//!
//! A row names the one function that *is* the instruction, and what the decoder and the engines must know of it. What
//! iced's tables know (operands, flags read and written, CPUID features, valid modes) is derived from them.

use crate::insn::Exec;
use iced_x86::Code;
use std::sync::LazyLock;

/// Which state an instruction needs enabled, and so which #UD or #NM comes before anything else that it could raise
/// (SDM 3A 2.5, 2.6, 13.1; SDM 2A 2.4–2.8 exception types).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Group {
    /// No vector or x87 state.
    #[default]
    Base,
    /// #NM if CR0.EM or CR0.TS.
    X87,
    /// WAIT/FWAIT: #NM if CR0.MP and CR0.TS.
    Wait,
    /// #UD if CR0.EM, #NM if CR0.TS.
    Mmx,
    /// Legacy SSE: #UD if CR0.EM or not CR4.OSFXSR, #NM if CR0.TS.
    Sse,
    /// VEX-encoded vector: #UD outside of protected mode or unless CR4.OSXSAVE and XCR0[2:1] = 3, #NM if CR0.TS.
    Avx,
    /// EVEX-encoded, and VEX-encoded opmask instructions: as AVX, and XCR0[7:5] = 7.
    Avx512,
    /// VEX-encoded general-register instructions (BMI): #UD outside of protected mode.
    VexGpr,
}

/// One instruction form.
#[derive(Clone, Copy)]
pub struct Row {
    /// Runs the form with registers only.
    pub register: Exec,
    /// Runs the form with a memory operand.
    pub memory: Exec,
    /// State that must be enabled.
    pub group: Group,
    /// The instruction may change what comes next (control flow, mode, interrupt window): it is the last of its block.
    pub ends_block: bool,
    /// #GP(0) unless CPL is 0.
    pub cpl0: bool,
}

/// The rows under construction; each family's `rows` function adds its own.
pub struct Rows {
    rows: Vec<Option<Row>>,
    group: Group,
}

impl Rows {
    /// The following rows belong to `group`.
    pub fn group(&mut self, group: Group) {
        self.group = group;
    }

    /// Adds a row whose function serves register and memory operands alike (it asks [`crate::Insn::has_memory`]).
    pub fn add(&mut self, code: Code, exec: Exec) -> &mut Row {
        self.add_rm(code, exec, exec)
    }

    /// Adds a row with one function for the register and one for the memory form.
    ///
    /// # Panics
    /// If the form has a row already (a mistake in the tables, found by any test that builds them).
    pub fn add_rm(&mut self, code: Code, register: Exec, memory: Exec) -> &mut Row {
        let slot = &mut self.rows[code as usize];
        assert!(slot.is_none(), "two rows for {code:?}");
        slot.insert(Row { register, memory, group: self.group, ends_block: false, cpl0: false })
    }
}

impl Row {
    /// Marks the row as the last of its block.
    pub fn ends_block(&mut self) -> &mut Self {
        self.ends_block = true;
        self
    }

    /// Marks the row as privileged.
    pub fn cpl0(&mut self) -> &mut Self {
        self.cpl0 = true;
        self
    }
}

static ROWS: LazyLock<Vec<Option<Row>>> = LazyLock::new(|| {
    let mut rows = Rows { rows: vec![None; Code::values().len()], group: Group::Base };
    crate::exec::rows(&mut rows);
    rows.rows
});

/// The row of a form; `None` if it is not implemented.
pub fn row(code: Code) -> Option<&'static Row> {
    ROWS[code as usize].as_ref()
}

/// All implemented forms.
pub fn implemented() -> impl Iterator<Item = Code> {
    Code::values().filter(|&code| row(code).is_some())
}
