//! Guest registers that live in the frame as memory operands: most instructions can take one from there.

use iced_x86::{Code, EncodingKind, Instruction, Mnemonic, OpAccess, OpCodeOperandKind, OpKind, Register};
use std::sync::LazyLock;

/// By form with the register second (`ADD rm64, r64`): the form with the memory operand second (`ADD r64, rm64`).
static REVERSED: LazyLock<Vec<Code>> = LazyLock::new(|| {
    use OpCodeOperandKind::{
        r8_or_mem, r8_reg, r16_or_mem, r16_reg, r32_or_mem, r32_reg, r64_or_mem, r64_reg,
    };
    let mut reversed = vec![Code::INVALID; Code::values().len()];
    let pairs = [(r8_or_mem, r8_reg), (r16_or_mem, r16_reg), (r32_or_mem, r32_reg), (r64_or_mem, r64_reg)];
    let plain = |mnemonic| {
        use Mnemonic::{Adc, Add, And, Cmp, Mov, Or, Sbb, Sub, Xor};
        matches!(mnemonic, Adc | Add | And | Cmp | Mov | Or | Sbb | Sub | Xor)
    };
    let forms = || Code::values().filter(|code| plain(code.mnemonic()) && code.op_code().op_count() == 2);
    for code in forms() {
        for (memory, register) in pairs {
            if code.op_code().op_kinds() == [memory, register] {
                let other = forms().find(|other| {
                    other.mnemonic() == code.mnemonic() && other.op_code().op_kinds() == [register, memory]
                });
                reversed[code as usize] = other.unwrap_or_default();
            }
        }
    }
    reversed
});

/// Whether a register operand may be memory of its own size.
fn may_be_memory(code: Code, n: u32, register: Register) -> bool {
    use OpCodeOperandKind::{r8_or_mem, r16_or_mem, r32_or_mem, r64_or_mem};
    let info = code.op_code();
    matches!(info.op_kind(n), r8_or_mem | r16_or_mem | r32_or_mem | r64_or_mem)
        && info.memory_size().size() == register.size()
}

/// Makes one of the operands that live in the frame (their displacements from RSP are in `framed`) a memory operand, if the
/// instruction then does the same. It has no memory operand yet.
pub fn take_from_memory(
    i: &mut Instruction,
    framed: &mut [Option<(usize, i32)>; 4],
    accesses: &[OpAccess; 4],
) {
    // With a memory operand, these are locked, write both operands, or reach beyond one; EVEX has no embedded rounding then.
    let other = matches!(
        i.mnemonic(),
        Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    ) || i.code().encoding() == EncodingKind::EVEX;
    // XOR and SUB of a register and itself: the value does not matter, but has to be the same.
    let idiom = framed.iter().zip(accesses).any(|(at, access)| at.is_some() && *access == OpAccess::None);
    if other || idiom {
        return;
    }
    if framed[0].is_none()
        && framed[1].is_some()
        && i.op0_kind() == OpKind::Register
        && REVERSED[i.code() as usize] != Code::INVALID
    {
        let operands = (i.op0_register(), i.op1_register());
        i.set_code(REVERSED[i.code() as usize]);
        i.set_op0_register(operands.0);
        i.set_op1_register(operands.1);
    }
    for n in 0..i.op_count() {
        let Some((_, at)) = framed.get(n as usize).copied().flatten() else { continue };
        let register = i.op_register(n);
        let reads = matches!(accesses[n as usize], OpAccess::Read | OpAccess::CondRead);
        // A 32-bit register's upper half is cleared.
        if !may_be_memory(i.code(), n, register) || !reads && register.size() == 4 {
            continue;
        }
        i.set_op_kind(n, OpKind::Memory);
        i.set_memory_base(Register::RSP);
        i.set_memory_index(Register::None);
        i.set_memory_displacement64(at as u64);
        i.set_memory_displ_size(1);
        framed[n as usize] = None;
        return;
    }
}

/// Whether the old value of a destination does not matter.
pub fn is_overwritten(i: &Instruction, register: Register, access: OpAccess) -> bool {
    use Mnemonic::{
        Andn, Bextr, Blsi, Blsmsk, Blsr, Bzhi, Imul, Lzcnt, Mov, Movsx, Movsxd, Movzx, Mulx, Pdep, Pext,
        Popcnt, Rorx, Sarx, Shlx, Shrx, Sub, Tzcnt, Xor,
    };
    // Not everything that iced calls written is written without being read (CRC32), or always (BSF).
    let plain = matches!(
        i.mnemonic(),
        Andn | Bextr
            | Blsi
            | Blsmsk
            | Blsr
            | Bzhi
            | Imul
            | Lzcnt
            | Mov
            | Movsx
            | Movsxd
            | Movzx
            | Mulx
            | Pdep
            | Pext
            | Popcnt
            | Rorx
            | Sarx
            | Shlx
            | Shrx
            | Sub
            | Tzcnt
            | Xor
    );
    plain && matches!(access, OpAccess::Write | OpAccess::None) && register.size() >= 4
}
