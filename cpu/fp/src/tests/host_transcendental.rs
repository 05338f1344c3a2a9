//! The transcendental instructions against the host. Silicon is not correctly rounded: Intel promises an error below one unit in the last
//! place (SDM 1 8.3.10). So the last bit may differ in a small share of cases, which the tests bound.

use super::generate::Gen;
use super::x87_silicon::{After, image};
use crate::x87::{self, X87Env};
use crate::{F80, FpFlags};

/// Distance in units of the last place, far for different signs or kinds.
fn ulps(a: F80, b: F80) -> u64 {
    if a == b {
        return 0;
    }
    let key = |x: F80| ((x.sign_exp & 0x7fff) as i128) << 63 | (x.sig & !(1 << 63)) as i128;
    if a.sign() != b.sign() {
        u64::MAX
    } else {
        (key(a) - key(b)).unsigned_abs().min(u64::MAX as u128) as u64
    }
}

/// Runs `cases`; nothing may differ by more than one unit, and no more than `permille` of the results at all. Flags and C2 must agree.
fn close(
    name: &str,
    cases: u32,
    permille: u32,
    silicon: fn(u16, [u8; 16], [u8; 16]) -> After,
    operands: fn(&mut Gen) -> (F80, F80),
    ours: impl Fn(&mut X87Env, F80, F80) -> Option<(F80, Option<F80>)>,
) {
    let mut random = Gen::new(name.len() as u64 + 3);
    let (mut off_by_one, mut wrong, mut c1_differs) = (0, 0, 0);
    for _ in 0..cases {
        let fcw = random.fcw(false) | 0x300;
        let (a, b) = operands(&mut random);
        let after = silicon(fcw, image(a), image(b));
        let mut env = X87Env::from_control(fcw);
        let result = ours(&mut env, a, b);
        let c2 = result.is_none();
        let (first, second) = result.unwrap_or((a, None));
        let distance = ulps(first, after.st[0]).max(second.map_or(0, |second| ulps(second, after.st[1])));
        let flags = FpFlags::from_bits_truncate(after.fsw as u8);
        off_by_one += (distance == 1) as u32;
        c1_differs += (distance == 0 && env.c1 != (after.fsw & 0x200 != 0)) as u32;
        // Results that differ in the last bit may be on both sides of the smallest normal number (seen on AMD's silicon).
        let smallest = |ours: F80, theirs: F80| ours.sign_exp & 0x7fff <= 1 && theirs.sign_exp & 0x7fff <= 1;
        let edge = super::host_is_amd()
            && (smallest(first, after.st[0]) || second.is_some_and(|second| smallest(second, after.st[1])));
        let compared = if edge { !FpFlags::UE } else { FpFlags::all() };
        if distance > 1 || (flags ^ env.flags).intersects(compared) || c2 != (after.fsw & 0x400 != 0) {
            wrong += 1;
            if wrong <= 10 {
                eprintln!(
                    "{name} fcw={fcw:#x} a={a:x?} b={b:x?}\n  ours    {first:x?} {second:x?} {:?} c2={c2}\n  silicon {:x?} {:x?} {flags:?} {:#x}",
                    env.flags, after.st[0], after.st[1], after.fsw
                );
            }
        }
    }
    println!("{name}: of {cases}, {off_by_one} differ by one unit, C1 alone in {c1_differs}");
    assert_eq!(wrong, 0, "{name}");
    assert!(
        off_by_one * 1000 <= cases * permille,
        "{name}: {off_by_one} of {cases} differ in the last place"
    );
}

const CASES: u32 = 50_000;

fn any(random: &mut Gen) -> (F80, F80) {
    random.f80_pair()
}

/// Numbers in (-1, 1), small ones too.
fn fractions(random: &mut Gen) -> (F80, F80) {
    let (a, b) = random.f80_pair();
    let exp = 0x3ffe - random.below(80) as u16;
    (F80 { sig: a.sig | 1 << 63, sign_exp: a.sign_exp & 0x8000 | exp }, b)
}

/// Angles up to 2^63, many close to multiples of pi/2.
fn angles(random: &mut Gen) -> (F80, F80) {
    let (a, b) = random.f80_pair();
    let exp = 0x3fff - 10 + random.below(76) as u16;
    match random.below(3) {
        0 => {
            let limit = 1 << random.below(30);
            let multiple = x87::from_integer(random.below(limit) as i64);
            let mut env = X87Env::from_control(0x37f);
            let half_pi = F80 { sig: 0xc90f_daa2_2168_c235, sign_exp: 0x3fff };
            let product = x87::fmul(&mut env, multiple, half_pi);
            (F80 { sig: product.sig.wrapping_add(random.below(3)), ..product }, b)
        }
        1 => (F80 { sig: a.sig | 1 << 63, sign_exp: a.sign_exp & 0x8000 | exp }, b),
        _ => (a, b),
    }
}

#[test]
fn exponential_close() {
    x87!(host, "f2xm1");
    close("f2xm1", CASES, 100, host, fractions, |e, a, _| Some((x87::f2xm1(e, a), None)));
}

#[test]
fn logarithm_close() {
    x87!(host, "fyl2x");
    close("fyl2x", CASES, 100, host, any, |e, a, b| Some((x87::fyl2x(e, a, b), None)));
    x87!(plus_one, "fyl2xp1");
    fn near(random: &mut Gen) -> (F80, F80) {
        let (a, b) = fractions(random);
        // Below 1 - sqrt(1/2) = 0.2929.
        let sig = if a.sign_exp & 0x7fff >= 0x3ffd { 1 << 63 | a.sig >> 8 } else { a.sig };
        (F80 { sig, sign_exp: if a.sign_exp & 0x7fff == 0x3ffe { a.sign_exp - 1 } else { a.sign_exp } }, b)
    }
    close("fyl2xp1", CASES, 100, plus_one, near, |e, a, b| Some((x87::fyl2xp1(e, a, b), None)));
}

#[test]
fn trigonometric_close() {
    x87!(fsin, "fsin");
    close("fsin", CASES, 100, fsin, angles, |e, a, _| x87::fsin(e, a).map(|x| (x, None)));
    x87!(fcos, "fcos");
    close("fcos", CASES, 100, fcos, angles, |e, a, _| x87::fcos(e, a).map(|x| (x, None)));
    x87!(fsincos, "fsincos");
    close("fsincos", CASES, 100, fsincos, angles, |e, a, _| x87::fsincos(e, a).map(|(s, c)| (c, Some(s))));
    x87!(fptan, "fptan");
    close("fptan", CASES, 100, fptan, angles, |e, a, _| x87::fptan(e, a).map(|(t, one)| (one, Some(t))));
}

#[test]
fn arc_tangent_close() {
    x87!(host, "fpatan");
    close("fpatan", CASES, 100, host, any, |e, a, b| Some((x87::fpatan(e, a, b), None)));
}
