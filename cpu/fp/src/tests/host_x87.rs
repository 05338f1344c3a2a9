//! x87 arithmetic, remainders, scaling, comparison and constants against the host.

use super::generate::Gen;
use super::x87_silicon::{Expected, agree, image};
use crate::x87::{self, Constant, X87Env};
use crate::{F80, FpFlags, Relation, Rounding};

const CASES: u32 = 100_000;

#[test]
fn arithmetic_agrees() {
    macro_rules! op {
        ($insn:literal, $ours:expr) => {{
            x87!(host, $insn);
            agree($insn, CASES, host, Gen::f80_pair, |e, a, b| Expected::value($ours(e, a, b)));
        }};
    }
    op!("fadd st, st(1)", x87::fadd);
    op!("fsub st, st(1)", x87::fsub);
    op!("fsubr st, st(1)", |e: &mut _, a, b| x87::fsub(e, b, a));
    op!("fmul st, st(1)", x87::fmul);
    op!("fdiv st, st(1)", x87::fdiv);
    op!("fdivr st, st(1)", |e: &mut _, a, b| x87::fdiv(e, b, a));
    op!("fsqrt", |e: &mut _, a, _| x87::fsqrt(e, a));
    op!("frndint", |e: &mut _, a, _| x87::frndint(e, a));
}

#[test]
fn scale_agrees() {
    fn operands(random: &mut Gen) -> (F80, F80) {
        let (a, b) = random.f80_pair();
        let exp = 0x3ffd + random.below(20) as u16;
        let scale = F80 { sig: 1 << 63 | random.fraction(63), sign_exp: exp | b.sign_exp & 0x8000 };
        (a, if random.below(3) == 0 { b } else { scale })
    }
    x87!(host, "fscale");
    agree("fscale", CASES, host, operands, |e, a, b| Expected::value(x87::fscale(e, a, b)));
}

#[test]
fn extract_agrees() {
    x87!(host, "fxtract");
    agree("fxtract", CASES, host, Gen::f80_pair, |e, a, _| {
        let (exponent, significand) = x87::fxtract(e, a);
        Expected { st1: Some(exponent), ..Expected::value(significand) }
    });
}

fn conditions(relation: Relation) -> u16 {
    match relation {
        Relation::Less => 0x100,
        Relation::Equal => 0x4000,
        Relation::Greater => 0,
        Relation::Unordered => 0x4500,
    }
}

#[test]
fn compare_agrees() {
    macro_rules! op {
        ($insn:literal, $signaling:expr, $other:expr) => {{
            x87!(host, $insn);
            agree($insn, CASES, host, Gen::f80_pair, |e, a, b| {
                let relation = x87::compare(e, a, $other(b), $signaling);
                Expected { conditions: conditions(relation), ..Expected::value(a) }
            });
        }};
    }
    op!("fcom st(1)", true, |b| b);
    op!("fucom st(1)", false, |b| b);
    op!("ftst", true, |_| F80::ZERO);
    x87!(fxam, "fxam");
    agree("fxam", CASES, fxam, Gen::f80_pair, |_, a, _| {
        use x87::Examined::*;
        let class = match x87::examine(a) {
            Unsupported => 0,
            Nan => 0x100,
            Normal => 0x400,
            Infinity => 0x500,
            Zero => 0x4000,
            Denormal => 0x4400,
        };
        Expected { conditions: class, c1: Some(a.sign()), ..Expected::value(a) }
    });
}

#[test]
fn remainder_agrees() {
    fn operands(random: &mut Gen) -> (F80, F80) {
        let (a, b) = random.f80_pair();
        // Often a quotient of 0 to 200 bits.
        if random.below(2) == 0 {
            let exp = (b.sign_exp & 0x7fff).saturating_add(random.below(200) as u16).min(0x7ffe);
            return (F80 { sig: a.sig | 1 << 63, sign_exp: exp | a.sign_exp & 0x8000 }, b);
        }
        (a, b)
    }
    macro_rules! op {
        ($insn:literal, $ours:expr) => {{
            x87!(host, $insn);
            agree($insn, CASES, host, operands, |e, a, b| {
                let r = $ours(e, a, b);
                let q = r.quotient.unwrap_or(0) as u16;
                let conditions = (q >> 2 & 1) << 8 | (r.partial as u16) << 10 | (q >> 1 & 1) << 14;
                Expected { conditions, c1: Some(q & 1 != 0), ..Expected::value(r.value) }
            });
        }};
    }
    op!("fprem", x87::fprem);
    op!("fprem1", x87::fprem1);
}

#[test]
fn constants_agree() {
    macro_rules! op {
        ($($insn:literal $constant:ident)*) => {$({
            x87!(host, "fstp st(0)", $insn);
            agree($insn, 200, host, Gen::f80_pair, |e, _, _| {
                e.masks = FpFlags::all();
                Expected::value(Constant::$constant.load(e))
            });
        })*};
    }
    op!("fld1" One "fldl2t" Log2Of10 "fldl2e" Log2OfE "fldpi" Pi "fldlg2" Log10Of2 "fldln2" LnOf2 "fldz" Zero);
}

/// Conversions that store: memory, flags and C1.
#[test]
fn stores_agree() {
    fn operand(random: &mut Gen) -> F80 {
        let a = random.f80();
        // Around the limits of the integers and of the narrow formats.
        let exp = match random.below(4) {
            0 => 0x3ffc + random.below(70) as u16,
            1 => 0x3fff - 127 - 30 + random.below(36) as u16,
            2 => 0x3fff - 1023 - 60 + random.below(66) as u16,
            _ => return a,
        };
        F80 { sig: a.sig | 1 << 63, sign_exp: a.sign_exp & 0x8000 | exp }
    }
    macro_rules! op {
        ($insn:literal, $size:expr, $ours:expr) => {{
            x87!(host, $insn);
            let mut random = Gen::new($size);
            for _ in 0..CASES {
                let fcw = random.fcw(true);
                let a = operand(&mut random);
                let after = host(fcw, image(a), image(F80::ONE));
                let mut env = X87Env::from_control(fcw);
                let mut memory = [0xeeu8; 10];
                let stored = $ours(&mut env, a).to_le_bytes();
                if env.stores_to_memory() {
                    memory[..$size].copy_from_slice(&stored[..$size]);
                } else {
                    env.c1 = false;
                }
                let flags = FpFlags::from_bits_truncate(after.fsw as u8);
                let context = format!("{} {fcw:#x} {a:x?} {env:?} {after:x?}", $insn);
                assert_eq!((memory, env.flags), (after.memory, flags), "{context}");
                assert_eq!(env.c1, after.fsw & 0x200 != 0, "{context}");
            }
        }};
    }
    op!("fst dword ptr [{m}]", 4, x87::to_float::<u32>);
    op!("fst qword ptr [{m}]", 8, x87::to_float::<u64>);
    op!("fist word ptr [{m}]", 2, |e: &mut X87Env, a| x87::to_integer::<i16>(e, a, e.rounding));
    op!("fist dword ptr [{m}]", 4, |e: &mut X87Env, a| x87::to_integer::<i32>(e, a, e.rounding));
    op!("fistp qword ptr [{m}]", 8, |e: &mut X87Env, a| x87::to_integer::<i64>(e, a, e.rounding));
    op!("fisttp dword ptr [{m}]", 4, |e: &mut X87Env, a| x87::to_integer::<i32>(e, a, Rounding::Zero));
    op!("fisttp qword ptr [{m}]", 8, |e: &mut X87Env, a| x87::to_integer::<i64>(e, a, Rounding::Zero));
    op!("fbstp tbyte ptr [{m}]", 10, |e: &mut X87Env, a| {
        let mut wide = [0; 16];
        wide[..10].copy_from_slice(&x87::to_bcd(e, a));
        u128::from_le_bytes(wide)
    });
}

/// Conversions that load; a pseudo-random image serves all.
#[test]
fn loads_agree() {
    macro_rules! op {
        ($insn:literal, $raw:expr, $ours:expr) => {{
            x87!(host, "fstp st(0)", $insn);
            let mut random = Gen::new(5);
            for _ in 0..CASES {
                let raw: u128 = $raw(&mut random);
                let after = host(0x37f, raw.to_le_bytes(), image(F80::ONE));
                let mut env = X87Env::from_control(0x37f);
                let got: F80 = $ours(&mut env, raw);
                let flags = FpFlags::from_bits_truncate(after.fsw as u8);
                let context = format!("{} {raw:#x} {env:?} {after:x?}", $insn);
                // The harness loads the image as F80 first; its flags are cleared.
                assert_eq!((got, env.flags), (after.st[0], flags), "{context}");
            }
        }};
    }
    let integer = |random: &mut Gen| random.fraction(64) as u128;
    op!("fld dword ptr [{a}]", |r: &mut Gen| r.operand::<u32>() as u128, |e: &mut _, a| x87::from_float(
        e, a as u32
    ));
    op!("fld qword ptr [{a}]", |r: &mut Gen| r.operand::<u64>() as u128, |e: &mut _, a| x87::from_float(
        e, a as u64
    ));
    op!("fild word ptr [{a}]", integer, |_: &mut _, a| x87::from_integer(a as i16));
    op!("fild dword ptr [{a}]", integer, |_: &mut _, a| x87::from_integer(a as i32));
    op!("fild qword ptr [{a}]", integer, |_: &mut _, a| x87::from_integer(a as i64));
    let digits = |random: &mut Gen| {
        let digits = (0..random.below(19)).fold(0, |sum, _| sum << 4 | random.below(10) as u128);
        digits | (random.bits() as u128 & 0x80) << 72
    };
    op!("fbld tbyte ptr [{a}]", digits, |_: &mut _, a: u128| {
        x87::from_bcd(a.to_le_bytes()[..10].try_into().unwrap())
    });
}
