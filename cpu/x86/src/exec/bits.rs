//! Bit tests, scans and counts; BMI1, BMI2 and ADX.

use super::operand::*;
use crate::row::{Group, Rows};
use crate::{Cpu, Insn, Silicon, Stop, silicon};
use iced_x86::Code;

/// What BT, BTS, BTR and BTC do to the bit.
trait BitOp {
    const WRITES: bool;
    fn run(value: u64, bit: u64) -> u64;
}
struct Bt;
struct Bts;
struct Btr;
struct Btc;
impl BitOp for Bt {
    const WRITES: bool = false;
    fn run(value: u64, _: u64) -> u64 {
        value
    }
}
impl BitOp for Bts {
    const WRITES: bool = true;
    fn run(value: u64, bit: u64) -> u64 {
        value | bit
    }
}
impl BitOp for Btr {
    const WRITES: bool = true;
    fn run(value: u64, bit: u64) -> u64 {
        value & !bit
    }
}
impl BitOp for Btc {
    const WRITES: bool = true;
    fn run(value: u64, bit: u64) -> u64 {
        value ^ bit
    }
}

/// Only CF changes; OF, SF, AF and PF are undefined, and silicon leaves them.
fn bit<O: BitOp, T: Int, D: Place, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let number = S::read::<T>(cpu, i)?.zx() & u64::from(T::BITS - 1);
    if O::WRITES {
        D::modify::<T>(cpu, i, |cpu, value| {
            cpu.flags.set_cf(value.zx() >> number & 1 != 0);
            T::of(O::run(value.zx(), 1 << number))
        })
    } else {
        let value = D::read::<T>(cpu, i)?.zx();
        cpu.flags.set_cf(value >> number & 1 != 0);
        Ok(())
    }
}

/// With a register bit number, the memory operand is a bit string: the number selects the word, too.
fn bit_string<O: BitOp, T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let number = T::get(cpu, i.r[1]).sx() as i64;
    let word = (number >> T::BITS.trailing_zeros()).wrapping_mul(i64::from(T::BITS / 8));
    let offset = cpu.effective_address(i).wrapping_add(word as u64) & i.address_mask();
    let bit = number as u64 & u64::from(T::BITS - 1);
    let value = if O::WRITES {
        let value = cpu.read_for_write::<T>(i.segment(), offset)?.zx();
        cpu.write(i.segment(), offset, T::of(O::run(value, 1 << bit)))?;
        value
    } else {
        cpu.read::<T>(i.segment(), offset)?.zx()
    };
    cpu.flags.set_cf(value >> bit & 1 != 0);
    Ok(())
}

/// A zero source sets ZF and leaves the destination (as AMD documents, and Intel silicon does); the other flags are
/// undefined.
fn scan<T: Int, S: Source, const REVERSE: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = S::read::<T>(cpu, i)?.zx();
    let keeps = cpu.silicon == Silicon::Amd && silicon::scans_keep_flags();
    if value != 0 {
        let n = if REVERSE { 63 - value.leading_zeros() } else { value.trailing_zeros() };
        T::set(cpu, i.r[0], T::of(n.into()));
        if !keeps {
            cpu.set_logic(T::of(n.into()));
        }
    } else if !keeps {
        cpu.set_logic(T::of(0));
    }
    cpu.flags.set_zf_only(value == 0);
    Ok(())
}

fn tzcnt<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = S::read::<T>(cpu, i)?.zx();
    let n = value.trailing_zeros().min(T::BITS);
    set_count(cpu, i, T::of(n.into()), value == 0);
    Ok(())
}

fn lzcnt<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = S::read::<T>(cpu, i)?.zx();
    let n = value.leading_zeros() - (64 - T::BITS);
    set_count(cpu, i, T::of(n.into()), value == 0);
    Ok(())
}

/// CF: the source was zero; ZF from the count; the others are undefined (cleared on silicon, but for OF, which AMD's leaves).
fn set_count<T: Int>(cpu: &mut Cpu, i: &Insn, n: T, cf: bool) {
    T::set(cpu, i.r[0], n);
    let of = cpu.silicon == Silicon::Amd && cpu.flags.of();
    cpu.flags.set_status(u64::from(cf) | u64::from(n.zx() == 0) << 6 | u64::from(of) << 11);
}

fn popcnt<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = S::read::<T>(cpu, i)?.zx();
    T::set(cpu, i.r[0], T::of(value.count_ones().into()));
    cpu.flags.set_status(u64::from(value == 0) << 6);
    Ok(())
}

/// Flags of the BMI1 and BMI2 logic: AF and PF are undefined (cleared on Intel's silicon; on AMD's PF is the result's).
fn set_bmi<T: Int>(cpu: &mut Cpu, r: T) {
    cpu.set_logic(r);
    if cpu.silicon == Silicon::Intel {
        cpu.flags.parity = 1;
    }
}

fn andn<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = S::read::<T>(cpu, i)?.zx();
    let r = T::of(!T::get(cpu, i.r[1]).zx() & b);
    T::set(cpu, i.r[0], r);
    set_bmi(cpu, r);
    Ok(())
}

fn bextr<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = S::read::<T>(cpu, i)?.zx();
    let control = T::get(cpu, i.r[2]).zx();
    let (start, len) = (control & 0xff, control >> 8 & 0xff);
    let shifted = if start < 64 { value >> start } else { 0 };
    let r = T::of(if len < 64 { shifted & ((1 << len) - 1) } else { shifted });
    T::set(cpu, i.r[0], r);
    match cpu.silicon {
        Silicon::Intel => cpu.flags.set_status(u64::from(r.zx() == 0) << 6),
        // SF, AF and PF are undefined.
        Silicon::Amd => {
            cpu.set_logic(r);
            cpu.flags.adjust = 0x10;
            cpu.flags.sign = 0;
        }
    }
    Ok(())
}

/// BLSI, BLSMSK, BLSR: `f` makes the result, CF as given.
#[inline(always)]
fn lowest<T: Int, S: Source>(
    cpu: &mut Cpu,
    i: &Insn,
    f: impl FnOnce(u64) -> u64,
    cf: impl FnOnce(u64) -> bool,
) -> Result<(), Stop> {
    let value = S::read::<T>(cpu, i)?.zx();
    let r = T::of(f(value));
    T::set(cpu, i.r[0], r);
    set_bmi(cpu, r);
    cpu.flags.set_cf(cf(value));
    Ok(())
}

fn blsi<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    lowest::<T, S>(cpu, i, |v| v & v.wrapping_neg(), |v| v != 0)
}

fn blsmsk<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    lowest::<T, S>(cpu, i, |v| v ^ v.wrapping_sub(1), |v| v == 0)
}

fn blsr<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    lowest::<T, S>(cpu, i, |v| v & v.wrapping_sub(1), |v| v == 0)
}

fn bzhi<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = S::read::<T>(cpu, i)?.zx();
    let n = T::get(cpu, i.r[2]).zx() & 0xff;
    let r = T::of(if n < u64::from(T::BITS) { value & ((1 << n) - 1) } else { value });
    T::set(cpu, i.r[0], r);
    set_bmi(cpu, r);
    cpu.flags.set_cf(n >= u64::from(T::BITS));
    Ok(())
}

fn pdep<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut mask = S::read::<T>(cpu, i)?.zx();
    let mut source = T::get(cpu, i.r[1]).zx();
    let mut r = 0;
    while mask != 0 {
        if source & 1 != 0 {
            r |= mask & mask.wrapping_neg();
        }
        source >>= 1;
        mask &= mask - 1;
    }
    T::set(cpu, i.r[0], T::of(r));
    Ok(())
}

fn pext<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut mask = S::read::<T>(cpu, i)?.zx();
    let source = T::get(cpu, i.r[1]).zx();
    let (mut r, mut n) = (0, 0);
    while mask != 0 {
        r |= u64::from(source & mask & mask.wrapping_neg() != 0) << n;
        n += 1;
        mask &= mask - 1;
    }
    T::set(cpu, i.r[0], T::of(r));
    Ok(())
}

fn adcx<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = S::read::<T>(cpu, i)?;
    let sum = u128::from(T::get(cpu, i.r[0]).zx()) + u128::from(b.zx()) + u128::from(cpu.flags.cf());
    T::set(cpu, i.r[0], T::of(sum as u64));
    cpu.flags.set_cf(sum >> T::BITS != 0);
    Ok(())
}

fn adox<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = S::read::<T>(cpu, i)?;
    let sum = u128::from(T::get(cpu, i.r[0]).zx()) + u128::from(b.zx()) + u128::from(cpu.flags.of());
    T::set(cpu, i.r[0], T::of(sum as u64));
    let cf = cpu.flags.cf();
    cpu.flags.set_cf_of(cf, sum >> T::BITS != 0);
    Ok(())
}

/// CRC-32C (polynomial 0x11edc6f41), bit-reflected.
fn crc32<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = S::read::<T>(cpu, i)?.zx();
    let mut crc = cpu.regs[(i.r[0] & 15) as usize] as u32;
    for n in 0..T::BITS / 8 {
        crc ^= (value >> (8 * n)) as u32 & 0xff;
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    cpu.regs[(i.r[0] & 15) as usize] = crc.into();
    Ok(())
}

macro_rules! bit_rows {
    ($rows:ident, $($op:ident: $r16:ident $r32:ident $r64:ident $i16:ident $i32:ident $i64:ident;)*) => {$(
        $rows.add_rm(Code::$r16, bit::<$op, u16, R<0>, R<1>>, bit_string::<$op, u16>);
        $rows.add_rm(Code::$r32, bit::<$op, u32, R<0>, R<1>>, bit_string::<$op, u32>);
        $rows.add_rm(Code::$r64, bit::<$op, u64, R<0>, R<1>>, bit_string::<$op, u64>);
        $rows.add_rm(Code::$i16, bit::<$op, u16, R<0>, Imm>, bit::<$op, u16, Mem, Imm>);
        $rows.add_rm(Code::$i32, bit::<$op, u32, R<0>, Imm>, bit::<$op, u32, Mem, Imm>);
        $rows.add_rm(Code::$i64, bit::<$op, u64, R<0>, Imm>, bit::<$op, u64, Mem, Imm>);
    )*};
}

macro_rules! sized {
    ($rows:ident, $source:literal, $($f:ident: $($c:ident $t:ty),*;)*) => {$($(
        $rows.add_rm(Code::$c, $f::<$t, R<$source>>, $f::<$t, Mem>);
    )*)*};
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    bit_rows! { rows,
        Bt: Bt_rm16_r16 Bt_rm32_r32 Bt_rm64_r64 Bt_rm16_imm8 Bt_rm32_imm8 Bt_rm64_imm8;
        Bts: Bts_rm16_r16 Bts_rm32_r32 Bts_rm64_r64 Bts_rm16_imm8 Bts_rm32_imm8 Bts_rm64_imm8;
        Btr: Btr_rm16_r16 Btr_rm32_r32 Btr_rm64_r64 Btr_rm16_imm8 Btr_rm32_imm8 Btr_rm64_imm8;
        Btc: Btc_rm16_r16 Btc_rm32_r32 Btc_rm64_r64 Btc_rm16_imm8 Btc_rm32_imm8 Btc_rm64_imm8;
    }
    rows.add_rm(Code::Bsf_r16_rm16, scan::<u16, R<1>, false>, scan::<u16, Mem, false>);
    rows.add_rm(Code::Bsf_r32_rm32, scan::<u32, R<1>, false>, scan::<u32, Mem, false>);
    rows.add_rm(Code::Bsf_r64_rm64, scan::<u64, R<1>, false>, scan::<u64, Mem, false>);
    rows.add_rm(Code::Bsr_r16_rm16, scan::<u16, R<1>, true>, scan::<u16, Mem, true>);
    rows.add_rm(Code::Bsr_r32_rm32, scan::<u32, R<1>, true>, scan::<u32, Mem, true>);
    rows.add_rm(Code::Bsr_r64_rm64, scan::<u64, R<1>, true>, scan::<u64, Mem, true>);
    sized! { rows, 1,
        tzcnt: Tzcnt_r16_rm16 u16, Tzcnt_r32_rm32 u32, Tzcnt_r64_rm64 u64;
        lzcnt: Lzcnt_r16_rm16 u16, Lzcnt_r32_rm32 u32, Lzcnt_r64_rm64 u64;
        popcnt: Popcnt_r16_rm16 u16, Popcnt_r32_rm32 u32, Popcnt_r64_rm64 u64;
        adcx: Adcx_r32_rm32 u32, Adcx_r64_rm64 u64;
        adox: Adox_r32_rm32 u32, Adox_r64_rm64 u64;
        crc32: Crc32_r32_rm8 u8, Crc32_r64_rm8 u8, Crc32_r32_rm16 u16, Crc32_r32_rm32 u32, Crc32_r64_rm64 u64;
    }
    rows.group(Group::VexGpr);
    sized! { rows, 1,
        bextr: VEX_Bextr_r32_rm32_r32 u32, VEX_Bextr_r64_rm64_r64 u64;
        blsi: VEX_Blsi_r32_rm32 u32, VEX_Blsi_r64_rm64 u64;
        blsmsk: VEX_Blsmsk_r32_rm32 u32, VEX_Blsmsk_r64_rm64 u64;
        blsr: VEX_Blsr_r32_rm32 u32, VEX_Blsr_r64_rm64 u64;
        bzhi: VEX_Bzhi_r32_rm32_r32 u32, VEX_Bzhi_r64_rm64_r64 u64;
    }
    sized! { rows, 2,
        andn: VEX_Andn_r32_r32_rm32 u32, VEX_Andn_r64_r64_rm64 u64;
        pdep: VEX_Pdep_r32_r32_rm32 u32, VEX_Pdep_r64_r64_rm64 u64;
        pext: VEX_Pext_r32_r32_rm32 u32, VEX_Pext_r64_r64_rm64 u64;
    }
    rows.group(Group::Base);
}
