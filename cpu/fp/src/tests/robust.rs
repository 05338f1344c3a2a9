//! Any bits are operands: nothing panics, whatever the guest asks. (Tests run with overflow checks.)

use super::generate::Gen;
use crate::x87::{self, X87Env};
use crate::*;

fn sse<F: Format>(random: &mut Gen) {
    let mut env = FpEnv::from_mxcsr(random.bits() as u32);
    let e = &mut env;
    let [a, b, c] =
        [(); 3].map(|()| if random.below(2) == 0 { random.operand() } else { F::from_bits(random.bits()) });
    let imm = random.bits() as u8;
    let rounding = Rounding::from_rc(imm.into());
    add(e, a, b);
    sub(e, a, b);
    mul(e, a, b);
    div(e, a, b);
    sqrt(e, a);
    fma(e, a, b, c, FmaNegate { product: imm & 1 != 0, addend: imm & 2 != 0 });
    min(e, a, b);
    max(e, a, b);
    compare(e, a, b, imm & 1 != 0);
    compare_predicate(e, a, b, imm);
    range(e, a, b, imm);
    convert::<F, u16>(e, a);
    convert::<F, u32>(e, a);
    convert::<F, u64>(e, a);
    to_integer::<F, i16>(e, a, rounding);
    to_integer::<F, u32>(e, a, rounding);
    to_integer::<F, i64>(e, a, rounding);
    to_integer::<F, u64>(e, a, rounding);
    from_integer::<i64, F>(e, a.to_bits() as i64);
    from_integer::<u64, F>(e, a.to_bits());
    rndscale(e, a, imm);
    reduce(e, a, imm);
    getexp(e, a);
    getmant(e, a, imm);
    scalef(e, a, b);
    fpclass(e, a, imm);
    fixupimm(e, a, b, random.bits() as u32, imm);
    e.outcome();
}

#[test]
fn sse_takes_any_operand() {
    let mut random = Gen::new(1);
    for _ in 0..100_000 {
        sse::<u16>(&mut random);
        sse::<u32>(&mut random);
        sse::<u64>(&mut random);
        let e = FpEnv::from_mxcsr(random.bits() as u32);
        rcp14(&e, random.bits() as u32);
        rcp14(&e, random.bits());
        rsqrt14(&e, random.bits() as u32);
        rsqrt14(&e, random.bits());
        rcp(random.bits() as u32);
        rsqrt(random.bits() as u32);
        let mut env = FpEnv::from_mxcsr(random.bits() as u32);
        half_to_single(&mut env, random.bits() as u16);
        single_to_half(&mut env, random.bits() as u32, Rounding::Up);
    }
}

#[test]
fn x87_takes_any_operand() {
    let mut random = Gen::new(2);
    for _ in 0..30_000 {
        let (mut a, mut b) = random.f80_pair();
        if random.below(2) == 0 {
            a = F80 { sig: random.bits(), sign_exp: random.bits() as u16 };
        }
        if random.below(2) == 0 {
            b = F80 { sig: random.bits(), sign_exp: random.bits() as u16 };
        }
        let mut env = X87Env::from_control(random.bits() as u16);
        let e = &mut env;
        x87::fadd(e, a, b);
        x87::fsub(e, a, b);
        x87::fmul(e, a, b);
        x87::fdiv(e, a, b);
        x87::fsqrt(e, a);
        x87::fprem(e, a, b);
        x87::fprem1(e, a, b);
        x87::fscale(e, a, b);
        x87::fxtract(e, a);
        x87::frndint(e, a);
        x87::f2xm1(e, a);
        x87::fyl2x(e, a, b);
        x87::fyl2xp1(e, a, b);
        x87::fsin(e, a);
        x87::fcos(e, a);
        x87::fsincos(e, a);
        x87::fptan(e, a);
        x87::fpatan(e, a, b);
        x87::compare(e, a, b, true);
        x87::examine(a);
        x87::to_bcd(e, a);
        x87::from_bcd(core::array::from_fn(|_| random.bits() as u8));
        x87::to_float::<u32>(e, a);
        x87::to_float::<u64>(e, a);
        x87::to_integer::<i16>(e, a, e.rounding);
        x87::to_integer::<i64>(e, a, e.rounding);
        x87::with_float(e, a, random.bits() as u32, x87::fadd);
        a.to_f64();
    }
}
