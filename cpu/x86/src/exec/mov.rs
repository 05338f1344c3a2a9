//! Data movement: MOV and its kin, conditional moves and sets, exchanges.

use super::operand::*;
use crate::row::Rows;
use crate::state::gpr::*;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

fn mov<T: Int, D: Place, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = S::read::<T>(cpu, i)?;
    D::write(cpu, i, value)
}

fn movzx<T: Int, F: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = S::read::<F>(cpu, i)?;
    T::set(cpu, i.r[0], T::of(value.zx()));
    Ok(())
}

fn movsx<T: Int, F: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = S::read::<F>(cpu, i)?;
    T::set(cpu, i.r[0], T::of(value.sx()));
    Ok(())
}

fn load_moffs<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = cpu.read::<T>(i.segment(), i.imm & i.address_mask())?;
    T::set(cpu, 0, value);
    Ok(())
}

fn store_moffs<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = T::get(cpu, 0);
    cpu.write(i.segment(), i.imm & i.address_mask(), value)
}

fn lea<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let address = cpu.effective_address(i);
    T::set(cpu, i.r[0], T::of(address));
    Ok(())
}

fn xchg<T: Int, D: Place>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let register = i.r[1];
    let new = T::get(cpu, register);
    let mut old = new;
    D::modify::<T>(cpu, i, |_, value| {
        old = value;
        new
    })?;
    T::set(cpu, register, old);
    Ok(())
}

fn xadd<T: Int, D: Place>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let addend = T::get(cpu, i.r[1]);
    if i.has_memory() {
        let mut old = addend;
        D::modify::<T>(cpu, i, |cpu, value| {
            old = value;
            cpu.add(value, addend, false)
        })?;
        T::set(cpu, i.r[1], old);
    } else {
        // The sum is written last: it wins if both operands are the same register.
        let value = T::get(cpu, i.r[0]);
        let sum = cpu.add(value, addend, false);
        T::set(cpu, i.r[1], value);
        T::set(cpu, i.r[0], sum);
    }
    Ok(())
}

fn cmpxchg<T: Int, D: Place>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let accumulator = T::get(cpu, RAX as u8);
    let new = T::get(cpu, i.r[1]);
    let mut found = accumulator;
    // The destination is written in either case (SDM 2A, CMPXCHG); a 32-bit register that does not match keeps its
    // upper half, as silicon does.
    if i.has_memory() {
        D::modify::<T>(cpu, i, |_, old| {
            found = old;
            if old == accumulator { new } else { old }
        })?;
    } else {
        found = T::get(cpu, i.r[0]);
        if found == accumulator {
            T::set(cpu, i.r[0], new);
        }
    }
    cpu.sub(accumulator, found, false);
    if found != accumulator {
        T::set(cpu, RAX as u8, found);
    }
    Ok(())
}

fn cmpxchg8b(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let expected = cpu.regs[RDX] << 32 | cpu.regs[RAX] & 0xffff_ffff;
    let new = cpu.regs[RCX] << 32 | cpu.regs[RBX] & 0xffff_ffff;
    let mut found = 0;
    cpu.modify::<u64>(i, |_, old| {
        found = old;
        if old == expected { new } else { old }
    })?;
    cpu.flags.set_zf_only(found == expected);
    if found != expected {
        cpu.regs[RAX] = found & 0xffff_ffff;
        cpu.regs[RDX] = found >> 32;
    }
    Ok(())
}

fn cmpxchg16b(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let offset = cpu.effective_address(i);
    // Misalignment comes before everything else that the address can raise.
    if cpu.fast[usize::from(i.segment())].base.wrapping_add(offset) & 15 != 0 {
        return Err(cpu.gp0());
    }
    let expected = [cpu.regs[RAX], cpu.regs[RDX]];
    let new = [cpu.regs[RBX], cpu.regs[RCX]];
    let mut found = [0; 2];
    cpu.modify::<[u64; 2]>(i, |_, old| {
        found = old;
        if old == expected { new } else { old }
    })?;
    cpu.flags.set_zf_only(found == expected);
    if found != expected {
        [cpu.regs[RAX], cpu.regs[RDX]] = found;
    }
    Ok(())
}

/// MOVSXD with a 16-bit operand size, which does not extend: AMD reads 32 bits of memory nevertheless.
fn movsxd16(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = if cpu.model.is_amd() { cpu.load::<u32>(i)? as u16 } else { cpu.load(i)? };
    u16::set(cpu, i.r[0], value);
    Ok(())
}

fn bswap32(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = u32::get(cpu, i.r[0]);
    u32::set(cpu, i.r[0], value.swap_bytes());
    Ok(())
}

fn bswap64(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = u64::get(cpu, i.r[0]);
    u64::set(cpu, i.r[0], value.swap_bytes());
    Ok(())
}

/// Undefined by the manual; silicon clears the register's low half.
fn bswap16(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    u16::set(cpu, i.r[0], 0);
    Ok(())
}

fn swap<T: Int>(value: T) -> T {
    T::of(value.zx().swap_bytes() >> (64 - T::BITS))
}

fn movbe_load<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = cpu.load::<T>(i)?;
    T::set(cpu, i.r[0], swap(value));
    Ok(())
}

fn movbe_store<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = swap(T::get(cpu, i.r[1]));
    cpu.store(i, value)
}

fn cmov<T: Int, S: Source, const CC: u8>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    // The source is read, and a 32-bit destination's upper half cleared, whether the condition holds or not.
    let value = S::read::<T>(cpu, i)?;
    let old = T::get(cpu, i.r[0]);
    let new = if cpu.flags.condition(CC) { value } else { old };
    T::set(cpu, i.r[0], new);
    Ok(())
}

fn setcc<D: Place, const CC: u8>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = u8::from(cpu.flags.condition(CC));
    D::write(cpu, i, value)
}

fn cbw(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let value = cpu.regs[RAX] as u8 as i8 as u16;
    u16::set(cpu, RAX as u8, value);
    Ok(())
}

fn cwde(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    cpu.regs[RAX] = u64::from(cpu.regs[RAX] as u16 as i16 as u32);
    Ok(())
}

fn cdqe(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    cpu.regs[RAX] = cpu.regs[RAX] as u32 as i32 as u64;
    Ok(())
}

fn cwd(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let sign = (cpu.regs[RAX] as u16 as i16 >> 15) as u16;
    u16::set(cpu, RDX as u8, sign);
    Ok(())
}

fn cdq(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    cpu.regs[RDX] = u64::from((cpu.regs[RAX] as u32 as i32 >> 31) as u32);
    Ok(())
}

fn cqo(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    cpu.regs[RDX] = (cpu.regs[RAX] as i64 >> 63) as u64;
    Ok(())
}

fn xlat(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let offset = cpu.regs[RBX].wrapping_add(cpu.regs[RAX] & 0xff) & i.address_mask();
    let value = cpu.read::<u8>(i.segment(), offset)?;
    u8::set(cpu, RAX as u8, value);
    Ok(())
}

fn lahf(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let flags = cpu.flags.get() as u8;
    u8::set(cpu, 0x20, flags);
    Ok(())
}

fn sahf(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let of = cpu.flags.of();
    let image = u64::from(u8::get(cpu, 0x20));
    cpu.flags.set_status(image & 0xd5 | u64::from(of) << 11);
    Ok(())
}

fn nop(_: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    Ok(())
}

/// The four sizes of `MOV`-shaped forms.
macro_rules! sized {
    ($rows:ident, $f:ident: $c8:ident $c16:ident $c32:ident $c64:ident, <$($reg:ty),*>, <$($mem:ty),*>) => {
        $rows.add_rm(Code::$c8, $f::<u8, $($reg),*>, $f::<u8, $($mem),*>);
        $rows.add_rm(Code::$c16, $f::<u16, $($reg),*>, $f::<u16, $($mem),*>);
        $rows.add_rm(Code::$c32, $f::<u32, $($reg),*>, $f::<u32, $($mem),*>);
        $rows.add_rm(Code::$c64, $f::<u64, $($reg),*>, $f::<u64, $($mem),*>);
    };
}

macro_rules! conditional {
    ($rows:ident, $($cc:literal: $c16:ident $c32:ident $c64:ident $set:ident;)*) => {$(
        $rows.add_rm(Code::$c16, cmov::<u16, R<1>, $cc>, cmov::<u16, Mem, $cc>);
        $rows.add_rm(Code::$c32, cmov::<u32, R<1>, $cc>, cmov::<u32, Mem, $cc>);
        $rows.add_rm(Code::$c64, cmov::<u64, R<1>, $cc>, cmov::<u64, Mem, $cc>);
        $rows.add_rm(Code::$set, setcc::<R<0>, $cc>, setcc::<Mem, $cc>);
    )*};
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    sized!(rows, mov: Mov_rm8_r8 Mov_rm16_r16 Mov_rm32_r32 Mov_rm64_r64, <R<0>, R<1>>, <Mem, R<1>>);
    sized!(rows, mov: Mov_r8_rm8 Mov_r16_rm16 Mov_r32_rm32 Mov_r64_rm64, <R<0>, R<1>>, <R<0>, Mem>);
    sized!(rows, mov: Mov_rm8_imm8 Mov_rm16_imm16 Mov_rm32_imm32 Mov_rm64_imm32, <R<0>, Imm>, <Mem, Imm>);
    sized!(rows, mov: Mov_r8_imm8 Mov_r16_imm16 Mov_r32_imm32 Mov_r64_imm64, <R<0>, Imm>, <R<0>, Imm>);
    rows.add(Code::Mov_AL_moffs8, load_moffs::<u8>);
    rows.add(Code::Mov_AX_moffs16, load_moffs::<u16>);
    rows.add(Code::Mov_EAX_moffs32, load_moffs::<u32>);
    rows.add(Code::Mov_RAX_moffs64, load_moffs::<u64>);
    rows.add(Code::Mov_moffs8_AL, store_moffs::<u8>);
    rows.add(Code::Mov_moffs16_AX, store_moffs::<u16>);
    rows.add(Code::Mov_moffs32_EAX, store_moffs::<u32>);
    rows.add(Code::Mov_moffs64_RAX, store_moffs::<u64>);

    rows.add_rm(Code::Movzx_r16_rm8, movzx::<u16, u8, R<1>>, movzx::<u16, u8, Mem>);
    rows.add_rm(Code::Movzx_r32_rm8, movzx::<u32, u8, R<1>>, movzx::<u32, u8, Mem>);
    rows.add_rm(Code::Movzx_r64_rm8, movzx::<u64, u8, R<1>>, movzx::<u64, u8, Mem>);
    rows.add_rm(Code::Movzx_r16_rm16, movzx::<u16, u16, R<1>>, movzx::<u16, u16, Mem>);
    rows.add_rm(Code::Movzx_r32_rm16, movzx::<u32, u16, R<1>>, movzx::<u32, u16, Mem>);
    rows.add_rm(Code::Movzx_r64_rm16, movzx::<u64, u16, R<1>>, movzx::<u64, u16, Mem>);
    rows.add_rm(Code::Movsx_r16_rm8, movsx::<u16, u8, R<1>>, movsx::<u16, u8, Mem>);
    rows.add_rm(Code::Movsx_r32_rm8, movsx::<u32, u8, R<1>>, movsx::<u32, u8, Mem>);
    rows.add_rm(Code::Movsx_r64_rm8, movsx::<u64, u8, R<1>>, movsx::<u64, u8, Mem>);
    rows.add_rm(Code::Movsx_r16_rm16, movsx::<u16, u16, R<1>>, movsx::<u16, u16, Mem>);
    rows.add_rm(Code::Movsx_r32_rm16, movsx::<u32, u16, R<1>>, movsx::<u32, u16, Mem>);
    rows.add_rm(Code::Movsx_r64_rm16, movsx::<u64, u16, R<1>>, movsx::<u64, u16, Mem>);
    rows.add_rm(Code::Movsxd_r16_rm16, movsx::<u16, u16, R<1>>, movsxd16);
    rows.add_rm(Code::Movsxd_r32_rm32, movsx::<u32, u32, R<1>>, movsx::<u32, u32, Mem>);
    rows.add_rm(Code::Movsxd_r64_rm32, movsx::<u64, u32, R<1>>, movsx::<u64, u32, Mem>);

    rows.add(Code::Lea_r16_m, lea::<u16>);
    rows.add(Code::Lea_r32_m, lea::<u32>);
    rows.add(Code::Lea_r64_m, lea::<u64>);

    sized!(rows, xchg: Xchg_rm8_r8 Xchg_rm16_r16 Xchg_rm32_r32 Xchg_rm64_r64, <R<0>>, <Mem>);
    rows.add(Code::Xchg_r16_AX, xchg::<u16, R<0>>);
    rows.add(Code::Xchg_r32_EAX, xchg::<u32, R<0>>);
    rows.add(Code::Xchg_r64_RAX, xchg::<u64, R<0>>);
    sized!(rows, xadd: Xadd_rm8_r8 Xadd_rm16_r16 Xadd_rm32_r32 Xadd_rm64_r64, <R<0>>, <Mem>);
    sized!(rows, cmpxchg: Cmpxchg_rm8_r8 Cmpxchg_rm16_r16 Cmpxchg_rm32_r32 Cmpxchg_rm64_r64, <R<0>>, <Mem>);
    rows.add(Code::Cmpxchg8b_m64, cmpxchg8b);
    rows.add(Code::Cmpxchg16b_m128, cmpxchg16b);
    rows.add(Code::Bswap_r16, bswap16);
    rows.add(Code::Bswap_r32, bswap32);
    rows.add(Code::Bswap_r64, bswap64);
    rows.add(Code::Movbe_r16_m16, movbe_load::<u16>);
    rows.add(Code::Movbe_r32_m32, movbe_load::<u32>);
    rows.add(Code::Movbe_r64_m64, movbe_load::<u64>);
    rows.add(Code::Movbe_m16_r16, movbe_store::<u16>);
    rows.add(Code::Movbe_m32_r32, movbe_store::<u32>);
    rows.add(Code::Movbe_m64_r64, movbe_store::<u64>);

    conditional! { rows,
        0: Cmovo_r16_rm16 Cmovo_r32_rm32 Cmovo_r64_rm64 Seto_rm8;
        1: Cmovno_r16_rm16 Cmovno_r32_rm32 Cmovno_r64_rm64 Setno_rm8;
        2: Cmovb_r16_rm16 Cmovb_r32_rm32 Cmovb_r64_rm64 Setb_rm8;
        3: Cmovae_r16_rm16 Cmovae_r32_rm32 Cmovae_r64_rm64 Setae_rm8;
        4: Cmove_r16_rm16 Cmove_r32_rm32 Cmove_r64_rm64 Sete_rm8;
        5: Cmovne_r16_rm16 Cmovne_r32_rm32 Cmovne_r64_rm64 Setne_rm8;
        6: Cmovbe_r16_rm16 Cmovbe_r32_rm32 Cmovbe_r64_rm64 Setbe_rm8;
        7: Cmova_r16_rm16 Cmova_r32_rm32 Cmova_r64_rm64 Seta_rm8;
        8: Cmovs_r16_rm16 Cmovs_r32_rm32 Cmovs_r64_rm64 Sets_rm8;
        9: Cmovns_r16_rm16 Cmovns_r32_rm32 Cmovns_r64_rm64 Setns_rm8;
        10: Cmovp_r16_rm16 Cmovp_r32_rm32 Cmovp_r64_rm64 Setp_rm8;
        11: Cmovnp_r16_rm16 Cmovnp_r32_rm32 Cmovnp_r64_rm64 Setnp_rm8;
        12: Cmovl_r16_rm16 Cmovl_r32_rm32 Cmovl_r64_rm64 Setl_rm8;
        13: Cmovge_r16_rm16 Cmovge_r32_rm32 Cmovge_r64_rm64 Setge_rm8;
        14: Cmovle_r16_rm16 Cmovle_r32_rm32 Cmovle_r64_rm64 Setle_rm8;
        15: Cmovg_r16_rm16 Cmovg_r32_rm32 Cmovg_r64_rm64 Setg_rm8;
    }

    rows.add(Code::Cbw, cbw);
    rows.add(Code::Cwde, cwde);
    rows.add(Code::Cdqe, cdqe);
    rows.add(Code::Cwd, cwd);
    rows.add(Code::Cdq, cdq);
    rows.add(Code::Cqo, cqo);
    rows.add(Code::Xlat_m8, xlat);
    rows.add(Code::Lahf, lahf);
    rows.add(Code::Sahf, sahf);
    for code in [
        Code::Nopw,
        Code::Nopd,
        Code::Nopq,
        Code::Nop_rm16,
        Code::Nop_rm32,
        Code::Nop_rm64,
        Code::Reservednop_rm16_r16_0F0D,
        Code::Reservednop_rm32_r32_0F0D,
        Code::Reservednop_rm64_r64_0F0D,
        Code::Reservednop_rm16_r16_0F18,
        Code::Reservednop_rm32_r32_0F18,
        Code::Reservednop_rm64_r64_0F18,
        Code::Reservednop_rm16_r16_0F19,
        Code::Reservednop_rm32_r32_0F19,
        Code::Reservednop_rm64_r64_0F19,
        Code::Reservednop_rm16_r16_0F1A,
        Code::Reservednop_rm32_r32_0F1A,
        Code::Reservednop_rm64_r64_0F1A,
        Code::Reservednop_rm16_r16_0F1B,
        Code::Reservednop_rm32_r32_0F1B,
        Code::Reservednop_rm64_r64_0F1B,
        Code::Reservednop_rm16_r16_0F1C,
        Code::Reservednop_rm32_r32_0F1C,
        Code::Reservednop_rm64_r64_0F1C,
        Code::Reservednop_rm16_r16_0F1D,
        Code::Reservednop_rm32_r32_0F1D,
        Code::Reservednop_rm64_r64_0F1D,
        Code::Reservednop_rm16_r16_0F1E,
        Code::Reservednop_rm32_r32_0F1E,
        Code::Reservednop_rm64_r64_0F1E,
        Code::Reservednop_rm16_r16_0F1F,
        Code::Reservednop_rm32_r32_0F1F,
        Code::Reservednop_rm64_r64_0F1F,
        Code::Endbr32,
        Code::Endbr64,
    ] {
        rows.add(code, nop);
    }
}
