//! What is known of the general registers' values along a block: distances from each other, and constants.

use crate::classify::{Emit, System, writes_ecx};
use crate::frame::{Home, home};
use crate::memory::address_is_64;
use iced_x86::{
    Code, Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register,
};

/// Displacements beyond this do not fit.
pub const FAR: i64 = 1 << 30;

/// A linear address as a sum of guest registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Form {
    /// Base register.
    pub base: Option<u8>,
    /// Index register and log2 of its scale.
    pub index: Option<(u8, u8)>,
    /// What is added; the address, without registers.
    pub displacement: i64,
}

impl Form {
    /// The form of a memory operand, if it is as wide as the mode's (`word` bytes) and not relative to FS or GS.
    pub fn of(i: &Instruction, word: u32) -> Option<Self> {
        if matches!(i.memory_segment(), Register::FS | Register::GS) || address_is_64(i) != (word == 8) {
            return None;
        }
        if i.is_ip_rel_memory_operand() {
            let displacement = i.ip_rel_memory_address() as i64;
            return (i.memory_base() == Register::RIP).then_some(Self { displacement, ..Self::default() });
        }
        let number = |register: Register| register.is_gpr().then(|| register.number() as u8);
        let other = |register: Register| register.is_gpr() && register.size() != word as usize;
        if other(i.memory_base()) || other(i.memory_index()) {
            return None;
        }
        let base = number(i.memory_base());
        let index = number(i.memory_index()).map(|n| (n, i.memory_index_scale().trailing_zeros() as u8));
        Self { base, index, displacement: i.memory_displacement64() as i64 }.fitting(word)
    }

    /// The form, with what of its displacement counts, if that fits.
    fn fitting(self, word: u32) -> Option<Self> {
        let Self { displacement, .. } = self;
        if word == 4 {
            // What a sum has beyond 32 bits does not count.
            let displacement =
                if self.is_constant() { displacement & 0xffff_ffff } else { (displacement as i32).into() };
            return Some(Self { displacement, ..self });
        }
        (!self.is_constant() && displacement.unsigned_abs() < FAR as u64).then_some(self)
    }

    /// No register takes part.
    pub fn is_constant(&self) -> bool {
        self.base.is_none() && self.index.is_none()
    }
}

/// A value that a register had at some time: the register, and how many values it had before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// The register.
    pub register: u8,
    /// Zero at the start of the block.
    pub version: u32,
}

/// How a register came by its value: from another one of its own, by additions and subtractions of a register that does not change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    /// The value at the start of the block, but for a constant.
    pub from: Root,
    /// The register.
    pub by: u8,
}

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Value {
    /// What it is a distance from; `None` of a constant.
    pub root: Option<Root>,
    /// The distance, or the constant.
    pub delta: i64,
}

/// What the registers are at the start of a block, if that is known.
pub type Registers = [Option<u64>; 16];

/// The registers' values, followed through moves and additions of constants.
pub struct Values {
    now: [Value; 16],
    versions: [u32; 16],
    /// Of the present versions.
    walks: [Option<Walk>; 16],
    /// Registers that are known to hold no more than a byte.
    bytes: u16,
}

impl Default for Values {
    fn default() -> Self {
        let start = |n: usize| Value { root: Some(Root { register: n as u8, version: 0 }), delta: 0 };
        Self { now: core::array::from_fn(start), versions: [0; 16], walks: [None; 16], bytes: 0 }
    }
}

impl Values {
    /// Of a register.
    pub fn of(&self, n: u8) -> Value {
        self.now[usize::from(n & 15)]
    }

    /// The value of a register, if the registers were these at the start of the block.
    pub fn known(&self, n: u8, registers: &Registers) -> Option<u64> {
        let Value { root, delta } = self.of(n);
        let root = match root {
            Some(Root { register, version: 0 }) => registers[usize::from(register & 15)]?,
            Some(_) => return None,
            None => 0,
        };
        Some(root.wrapping_add_signed(delta))
    }

    /// Whether a register holds what it held at the start.
    pub fn is_unchanged(&self, n: u8) -> bool {
        self.of(n) == Value { root: Some(Root { register: n, version: 0 }), delta: 0 }
    }

    /// How a value came about, if a register still has it.
    pub fn walk(&self, Root { register, version }: Root) -> Option<Walk> {
        let n = usize::from(register & 15);
        self.walks[n].filter(|_| self.versions[n] == version)
    }

    /// After the addition or subtraction of a register: the walk of the sum.
    fn walked(&self, n: u8, by: u8) -> Option<Walk> {
        let root = self.of(n).root.filter(|_| self.is_unchanged(by))?;
        match self.walk(root) {
            Some(walk) => Some(walk).filter(|walk| walk.by == by),
            None => (root.version == 0).then_some(Walk { from: root, by }),
        }
    }

    /// Whether a register holds no more than a byte.
    pub fn is_byte(&self, n: u8) -> bool {
        self.bytes >> (n & 15) & 1 != 0
    }

    /// The form with constants in place of the registers that hold them, and a base rather than an unscaled index.
    pub fn reduced(&self, form: Form, word: u32) -> Form {
        let constant = |n: u8| Some(self.of(n)).filter(|value| value.root.is_none()).map(|value| value.delta);
        let mut reduced = form;
        if let Some(value) = form.base.and_then(constant) {
            reduced.base = None;
            reduced.displacement = reduced.displacement.wrapping_add(value);
        }
        if let Some((n, scale)) = form.index
            && let Some(value) = constant(n)
        {
            reduced.index = None;
            reduced.displacement = reduced.displacement.wrapping_add(value << scale);
        }
        if let (None, Some((n, 0))) = (reduced.base, reduced.index) {
            (reduced.base, reduced.index) = (Some(n), None);
        }
        // A copy that is at hand rather than one in the frame.
        if let Some(base) = reduced.base
            && let Some((other, by)) = self.pinned_copy(base)
        {
            let displacement = reduced.displacement.wrapping_add(by);
            if displacement.unsigned_abs() < FAR as u64 {
                (reduced.base, reduced.displacement) = (Some(other), displacement);
            }
        }
        if reduced.is_constant() && word == 8 {
            return reduced;
        }
        reduced.fitting(word).unwrap_or(form)
    }

    /// Of a register in the frame, one in a host register that holds the same but for a distance, and that.
    fn pinned_copy(&self, n: u8) -> Option<(u8, i64)> {
        let pinned = |n: u8| matches!(home(n.into()), Home::Host(_));
        let Value { root, delta } = self.of(n);
        let root = root.filter(|_| !pinned(n))?;
        let other = (0..16).find(|&other| pinned(other) && self.of(other).root == Some(root))?;
        Some((other, delta.wrapping_sub(self.of(other).delta)))
    }

    /// A register gets a value that is not known.
    fn forget(&mut self, n: usize) {
        let n = n & 15;
        self.bytes &= !(1 << n);
        self.walks[n] = None;
        self.versions[n] += 1;
        let root = Root { register: n as u8, version: self.versions[n] };
        self.now[n] = Value { root: Some(root), delta: 0 };
    }

    /// A register gets a value that is known.
    fn set(&mut self, n: usize, value: Value) {
        // Far jumps of a pointer would overflow the spans.
        if value.root.is_some() && value.delta.checked_abs().is_none_or(|delta| delta >= FAR << 10) {
            return self.forget(n);
        }
        self.bytes &= !(1 << (n & 15));
        self.now[n & 15] = value;
    }

    /// Follows what an instruction of code whose words have so many bytes does to the registers.
    pub fn follow(
        &mut self,
        i: &Instruction,
        emit: Option<Emit>,
        word: u32,
        factory: &mut InstructionInfoFactory,
    ) {
        let bytes = i64::from(word);
        let register = i.op0_register();
        let n = register.number();
        let whole = register.is_gpr() && register.size() == word as usize;
        if emit == Some(Emit::Same)
            && matches!(i.mnemonic(), Mnemonic::Add | Mnemonic::Sub)
            && i.op0_kind() == OpKind::Register
            && i.op1_kind() == OpKind::Register
            && i.op1_register() != register
            && whole
            && word == 8
        {
            let walk = self.walked(n as u8, i.op1_register().number() as u8);
            self.forget(n);
            self.walks[n] = walk;
            return;
        }
        let moved = |values: &Self, by: i64| {
            let Value { root, delta } = values.now[n & 15];
            Some(Value { root, delta: delta.wrapping_add(by) })
        };
        let known = match (emit, i.mnemonic()) {
            (Some(Emit::Push | Emit::System(System::Pushf) | Emit::Call), _) => {
                return self.move_stack(-bytes);
            }
            (Some(Emit::System(System::Popf)), _) => return self.move_stack(bytes),
            (Some(Emit::Return), _) if i.op_count() == 0 => return self.move_stack(bytes),
            (Some(Emit::Pop), _) if i.op0_kind() == OpKind::Register && n != 4 => {
                self.forget(n);
                return self.move_stack(bytes);
            }
            (Some(Emit::Leave), _) => {
                self.set(4, self.of(5));
                self.forget(5);
                return self.move_stack(bytes);
            }
            (Some(Emit::Same), Mnemonic::Add | Mnemonic::Sub | Mnemonic::Inc | Mnemonic::Dec)
                if word == 8 && register.is_gpr32() =>
            {
                self.narrow_count(i)
            }
            (Some(Emit::Same), Mnemonic::Add) if whole => immediate(i).and_then(|by| moved(self, by)),
            (Some(Emit::Same), Mnemonic::Sub) if whole && immediate(i).is_some() => {
                immediate(i).and_then(|by| moved(self, by.wrapping_neg()))
            }
            (Some(Emit::Same), Mnemonic::Inc) if whole => moved(self, 1),
            (Some(Emit::Same), Mnemonic::Dec) if whole => moved(self, -1),
            (Some(Emit::Same), Mnemonic::Mov) if whole && i.op0_kind() == OpKind::Register => {
                match i.op1_kind() {
                    OpKind::Register => Some(self.of(i.op1_register().number() as u8)),
                    _ => immediate(i).map(|delta| Value { root: None, delta }),
                }
            }
            (Some(Emit::Same), Mnemonic::Mov) if i.code() == Code::Mov_r32_imm32 => {
                Some(Value { root: None, delta: i.immediate32().into() })
            }
            (Some(Emit::Same), Mnemonic::Xor | Mnemonic::Sub)
                if register.is_gpr()
                    && register.size() >= 4
                    && i.op0_kind() == OpKind::Register
                    && i.op1_kind() == OpKind::Register
                    && i.op1_register() == register =>
            {
                Some(Value { root: None, delta: 0 })
            }
            (Some(Emit::Lea), _) if whole => Form::of(i, word).and_then(|form| self.sum(form, word)),
            _ => None,
        };
        if let Some(value) = known {
            return self.set(n, value);
        }
        if let Some(written) = only_operand_0(i, emit) {
            if let Some(n) = written {
                self.forget(n);
                if leaves_byte(i) {
                    self.bytes |= 1 << n;
                }
            }
            return;
        }
        let info = factory.info_options(i, InstructionInfoOptions::NO_MEMORY_USAGE);
        for used in info.used_registers() {
            let writes = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
            if writes && used.register().is_gpr() {
                self.forget(used.register().full_register().number());
            }
        }
    }

    /// The value that a 32-bit count leaves, if the register held a constant.
    fn narrow_count(&self, i: &Instruction) -> Option<Value> {
        let value = self.of(i.op0_register().number() as u8);
        let by = match i.mnemonic() {
            Mnemonic::Inc => 1,
            Mnemonic::Dec => -1,
            Mnemonic::Add => immediate(i)?,
            _ => immediate(i)?.wrapping_neg(),
        };
        let delta = i64::from(value.delta.wrapping_add(by) as u32);
        value.root.is_none().then_some(Value { root: None, delta })
    }

    fn move_stack(&mut self, by: i64) {
        let Value { root, delta } = self.now[4];
        self.set(4, Value { root, delta: delta.wrapping_add(by) });
    }

    /// Follows the instruction before a branch, and says whether that is taken if the registers were these at the start of the
    /// block, as far as is known. In 64-bit code.
    pub fn predict(
        &mut self,
        compared: &Instruction,
        emit: Option<Emit>,
        branch: &Instruction,
        registers: &Registers,
        factory: &mut InstructionInfoFactory,
    ) -> Option<bool> {
        use iced_x86::ConditionCode::{a, ae, b, be, e, g, ge, l, le, ne, ns, s};
        let known = |values: &Self, register: Register| {
            values.known(register.is_gpr().then(|| register.number() as u8)?, registers)
        };
        let size = compared.op0_register().size();
        let compares = compared.mnemonic() == Mnemonic::Cmp;
        let (left, right) = if compares {
            let right = match compared.op1_kind() {
                OpKind::Register => known(self, compared.op1_register()),
                OpKind::Memory => None,
                _ => Some(compared.immediate(1)),
            };
            (known(self, compared.op0_register()), right)
        } else {
            (None, None)
        };
        self.follow(compared, emit, 8, factory);
        // Of other instructions, what they have left is zero or not.
        let counts =
            matches!(compared.mnemonic(), Mnemonic::Add | Mnemonic::Sub | Mnemonic::Inc | Mnemonic::Dec);
        let (left, right) = match branch.condition_code() {
            e | ne | s | ns if counts => (known(self, compared.op0_register())?, 0),
            _ => (left?, right?),
        };
        let shift = match size {
            4 => 32,
            8 => 0,
            _ => return None,
        };
        let (left, right) = (left << shift, right << shift);
        let (signed_left, signed_right) = (left as i64, right as i64);
        Some(match branch.condition_code() {
            e => left == right,
            ne => left != right,
            b => left < right,
            ae => left >= right,
            be => left <= right,
            a => left > right,
            l => signed_left < signed_right,
            ge => signed_left >= signed_right,
            le => signed_left <= signed_right,
            g => signed_left > signed_right,
            s => (signed_left.wrapping_sub(signed_right)) < 0,
            ns => (signed_left.wrapping_sub(signed_right)) >= 0,
            _ => return None,
        })
    }

    /// The value of a sum, if it is that of one register and a constant.
    fn sum(&self, form: Form, word: u32) -> Option<Value> {
        let Form { base, index, displacement } = self.reduced(form, word);
        match (base, index) {
            (None, None) => Some(Value { root: None, delta: displacement }),
            (Some(base), None) => {
                let Value { root, delta } = self.of(base);
                Some(Value { root, delta: delta.wrapping_add(displacement) })
            }
            _ => None,
        }
    }
}

/// The second operand, if it is a constant that is added to a whole register.
fn immediate(i: &Instruction) -> Option<i64> {
    match i.op1_kind() {
        OpKind::Immediate8to64 | OpKind::Immediate32to64 | OpKind::Immediate64 => Some(i.immediate(1) as i64),
        OpKind::Immediate8to32 | OpKind::Immediate32 => Some((i.immediate(1) as i32).into()),
        _ => None,
    }
}

/// Whether the instruction, one of those that write no other general register, leaves no more than a byte in its destination.
fn leaves_byte(i: &Instruction) -> bool {
    let masked = || {
        let immediate = !matches!(i.op1_kind(), OpKind::Register | OpKind::Memory);
        i.mnemonic() == Mnemonic::And && immediate && i.immediate(1) <= 0xff && i.op0_register().size() >= 4
    };
    matches!(i.code(), Code::Movzx_r32_rm8 | Code::Movzx_r64_rm8) || masked()
}

/// For frequent instructions that write at most one general register, their first operand: which one, if any. `None` for
/// all other instructions.
fn only_operand_0(i: &Instruction, emit: Option<Emit>) -> Option<Option<usize>> {
    use Mnemonic::*;
    let operand = || {
        let register = i.op0_register();
        (i.op0_kind() == OpKind::Register && register.is_gpr()).then(|| register.full_register().number())
    };
    match (emit?, i.mnemonic()) {
        (Emit::Nothing | Emit::Jump | Emit::Branch, _) | (Emit::Same, Cmp | Test | Bt) => Some(None),
        (Emit::Vector(_), mnemonic) if writes_ecx(mnemonic) => None,
        (Emit::Vector(_) | Emit::Lea, _) => Some(operand()),
        (
            Emit::Same,
            Mov | Movzx | Movsx | Movsxd | Add | Or | Adc | Sbb | And | Sub | Xor | Inc | Dec | Neg | Not
            | Shl | Shr | Sar,
        ) => Some(operand()),
        _ => None,
    }
}
