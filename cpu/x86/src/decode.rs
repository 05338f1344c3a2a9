//! From bytes to [`Insn`]: iced decodes, the row table says what runs, the mode decides what is available.

use crate::insn::{Insn, REG_RIP, REG_ZERO, prefix, seg};
use crate::mode::Mode;
use crate::model::{Feature, Model};
use crate::row::{Row, row};
use crate::{Cpu, Stop};
use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Instruction, OpKind, Register, RoundingControl};

/// What the decoder found at an address.
pub enum Decoded {
    /// An instruction, and whether it is the last of its block.
    Instruction(Insn, bool),
    /// The bytes end before the instruction does.
    NeedMore,
}

/// Decoder options of a CPU model: instructions that the model lacks are not decoded as such.
pub fn options(model: &Model) -> u32 {
    let mut options = 0;
    if !model.decodes(Code::Wbnoinvd) {
        options |= DecoderOptions::NO_WBNOINVD;
    }
    if !model.has(Feature::LahfLm) {
        options |= DecoderOptions::NO_LAHF_SAHF_64;
    }
    if !model.decodes(Code::Tzcnt_r32_rm32) {
        options |= DecoderOptions::NO_MPFX_0FBC;
    }
    if !model.decodes(Code::Lzcnt_r32_rm32) {
        options |= DecoderOptions::NO_MPFX_0FBD;
    }
    if model.is_amd() {
        options |= DecoderOptions::AMD;
    }
    options
}

/// Decodes the next instruction of `decoder`. Whatever cannot run in `mode` on `model` becomes an instruction that raises
/// what the processor would raise, with the code of what is invalid.
pub fn decode(decoder: &mut Decoder<'_>, scratch: &mut Instruction, mode: Mode, model: &Model) -> Decoded {
    let start = decoder.position();
    let available = decoder.max_position() - start;
    decoder.decode_out(scratch);
    if scratch.is_invalid() {
        return match decoder.last_error() {
            DecoderError::NoMoreBytes if available < 15 => Decoded::NeedMore,
            // More than 15 bytes: #GP(0) (SDM 3A 6.15).
            DecoderError::NoMoreBytes => Decoded::Instruction(raising(raise_gp0, 15), true),
            _ if too_long(decoder, start, available) => Decoded::Instruction(raising(raise_gp0, 15), true),
            _ => Decoded::Instruction(raising(raise_ud, 1), true),
        };
    }
    let code = scratch.code();
    let Some(row) = row(code).filter(|_| model.decodes(code)) else {
        return Decoded::Instruction(raising(raise_ud, scratch.len() as u8), true);
    };
    let insn = lower(scratch, row, mode);
    let barred = match mode.unavailable(row.group) {
        Some(true) => Some(raise_ud as crate::Exec),
        Some(false) => Some(raise_nm as crate::Exec),
        None if row.cpl0 && mode.unprivileged() => Some(raise_gp0 as crate::Exec),
        None => None,
    };
    match barred {
        Some(exec) => Decoded::Instruction(Insn { exec, code: Code::INVALID as u16, ..insn }, true),
        None => Decoded::Instruction(insn, row.ends_block),
    }
}

/// Whether the bytes at `start` are 15 prefixes and opcode bytes that do not end: iced calls that invalid.
fn too_long(decoder: &mut Decoder<'_>, start: usize, available: usize) -> bool {
    if available < 15 || decoder.set_position(start).is_err() {
        return false;
    }
    let mut probe = Instruction::default();
    decoder.decode_out(&mut probe);
    decoder.position() - start >= 15
}

/// A placeholder that raises #UD.
pub fn invalid() -> Insn {
    raising(raise_ud, 1)
}

fn raising(exec: crate::Exec, len: u8) -> Insn {
    Insn {
        exec,
        imm: 0,
        disp: 0,
        code: Code::INVALID as u16,
        len,
        mem: 0,
        r: [0; 4],
        base: REG_ZERO,
        index: REG_ZERO,
        prefixes: 0,
        evex: 0,
    }
}

fn raise_ud(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    Err(cpu.ud())
}

fn raise_nm(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    Err(cpu.nm())
}

fn raise_gp0(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    Err(cpu.gp0())
}

/// The number that an [`Insn`] holds for a register.
pub fn register_number(register: Register) -> u8 {
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => {
            0x20 | (register as u8 - Register::AH as u8)
        }
        Register::RIP | Register::EIP => REG_RIP,
        Register::None => REG_ZERO,
        // iced numbers all 20 byte registers in one row.
        _ if register.is_gpr8() => register.full_register().number() as u8,
        _ => register.number() as u8,
    }
}

fn segment_number(register: Register, base: Register, mode: Mode) -> u8 {
    let stack_base = matches!(base, Register::RSP | Register::RBP | Register::ESP | Register::EBP);
    match (register, mode.long64()) {
        (Register::FS, _) => seg::FS,
        (Register::GS, _) => seg::GS,
        // Other overrides are null prefixes (SDM 1 3.7.4).
        (_, true) if stack_base => seg::FLAT_SS,
        (_, true) => seg::FLAT,
        (Register::ES, _) => seg::ES,
        (Register::CS, _) => seg::CS,
        (Register::SS, _) => seg::SS,
        _ => seg::DS,
    }
}

/// Address size of a memory operand: 0 for 16 bits, 1 for 32, 2 for 64.
fn address_size(i: &Instruction, kind: OpKind, mode: Mode) -> u8 {
    let by_register = |r: Register| match r.size() {
        2 => Some(0),
        4 => Some(1),
        8 => Some(2),
        _ => None,
    };
    match kind {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => 0,
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => 1,
        OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => 2,
        _ => by_register(i.memory_base())
            .or_else(|| if i.is_vsib() { None } else { by_register(i.memory_index()) })
            .unwrap_or(match i.memory_displ_size() {
                2 => 0,
                4 => 1,
                8 => 2,
                _ => match mode.bitness() {
                    64 => 2,
                    32 => 1,
                    _ => 0,
                },
            }),
    }
}

fn lower(i: &Instruction, row: &Row, mode: Mode) -> Insn {
    let mut insn = Insn { len: i.len() as u8, code: i.code() as u16, ..raising(row.register, 0) };
    insn.len = i.len() as u8;
    if let Some(size) = implicit_rax_address(i.code()) {
        let segment = i.segment_prefix();
        let segment = if segment == Register::None { Register::DS } else { segment };
        insn.mem = segment_number(segment, Register::None, mode) | size << 5;
    }
    let mut immediates = 0;
    for n in 0..i.op_count() {
        let kind = i.op_kind(n);
        match kind {
            OpKind::Register => {
                let number = register_number(i.op_register(n));
                if let Some(slot) = insn.r.get_mut(n as usize) {
                    *slot = number;
                } else {
                    insn.imm |= u64::from(number) << 32;
                }
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                insn.imm = i.near_branch_target().wrapping_sub(i.next_ip());
            }
            OpKind::FarBranch16 => {
                insn.imm = u64::from(i.far_branch16()) | u64::from(i.far_branch_selector()) << 32;
            }
            OpKind::FarBranch32 => {
                insn.imm = u64::from(i.far_branch32()) | u64::from(i.far_branch_selector()) << 32;
            }
            OpKind::Immediate8_2nd => insn.imm = insn.imm & 0xffff_ffff | u64::from(i.immediate8_2nd()) << 32,
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => {
                insn.imm |= i.immediate(n) << (32 * immediates);
                immediates += 1;
            }
            _ => lower_memory(&mut insn, i, kind, row, mode),
        }
    }
    if i.has_rep_prefix() {
        insn.prefixes |= prefix::REP;
    }
    if i.has_repne_prefix() {
        insn.prefixes |= prefix::REPNE;
    }
    if i.has_lock_prefix() {
        insn.prefixes |= prefix::LOCK;
    }
    if !matches!(i.code().encoding(), iced_x86::EncodingKind::Legacy) {
        insn.prefixes |= prefix::VEX;
    }
    let widest = (0..i.op_count()).map(|n| i.op_register(n)).chain([i.memory_index()]);
    let length = widest.map(|r| if r.is_zmm() { 2 } else { u8::from(r.is_ymm()) }).max().unwrap_or(0);
    insn.prefixes |= length << prefix::LENGTH_SHIFT;
    let rounding = i.rounding_control();
    insn.evex = if i.has_op_mask() { i.op_mask().number() as u8 } else { 0 }
        | u8::from(i.zeroing_masking()) << 3
        | u8::from(i.is_broadcast() || rounding != RoundingControl::None || i.suppress_all_exceptions()) << 4;
    if rounding != RoundingControl::None {
        insn.evex |= ((rounding as u8) - (RoundingControl::RoundToNearest as u8)) << 5;
    }
    insn
}

fn lower_memory(insn: &mut Insn, i: &Instruction, kind: OpKind, row: &Row, mode: Mode) {
    insn.exec = row.memory;
    insn.prefixes |= prefix::MEMORY;
    let mut size = address_size(i, kind, mode);
    let segment = segment_number(i.memory_segment(), i.memory_base(), mode);
    if kind != OpKind::Memory {
        // String operands: the function knows its registers; ES:DI ones ignore this segment.
        insn.mem = segment | size << 5;
        return;
    }
    insn.base = register_number(i.memory_base());
    insn.index = register_number(i.memory_index());
    insn.disp = i.memory_displacement64() as i32;
    if i.is_ip_rel_memory_operand() {
        insn.disp = i.ip_rel_memory_address().wrapping_sub(i.next_ip()) as i32;
        size = if i.memory_base() == Register::EIP { 1 } else { 2 };
    }
    if is_moffs(i.code()) {
        insn.imm = i.memory_displacement64();
    }
    let scale = i.memory_index_scale().trailing_zeros() as u8;
    insn.mem = segment | scale << 3 | size << 5;
}

/// The address size of instructions whose operand is the memory at rAX, which no operand of iced's speaks of.
fn implicit_rax_address(code: Code) -> Option<u8> {
    match code {
        Code::Monitorw | Code::Clzerow => Some(0),
        Code::Monitord | Code::Clzerod => Some(1),
        Code::Monitorq | Code::Clzeroq => Some(2),
        _ => None,
    }
}

/// MOV between the accumulator and an absolute offset, which may have 64 bits.
fn is_moffs(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        Mov_AL_moffs8
            | Mov_AX_moffs16
            | Mov_EAX_moffs32
            | Mov_RAX_moffs64
            | Mov_moffs8_AL
            | Mov_moffs16_AX
            | Mov_moffs32_EAX
            | Mov_moffs64_RAX
    )
}
