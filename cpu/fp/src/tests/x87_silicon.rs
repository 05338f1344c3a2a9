//! Runs x87 instructions on the host under a given control word.

use super::generate::Gen;
use crate::x87::X87Env;
use crate::{F80, FpFlags};

/// What the silicon left: the registers from the top, each popped one with an empty one after, and the status word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct After {
    pub st: [F80; 2],
    pub memory: [u8; 10],
    pub fsw: u16,
}

/// `fn NAME(fcw, a, b) -> After`: runs the instructions with `b` in ST(1) and `a` in ST(0). `[{a}]` and `[{b}]` are also memory
/// operands, and `[{m}]` one to store to; eax may be used. Pending exceptions are cleared before ST is read.
macro_rules! x87 {
    ($name:ident, $($insn:expr),+) => {
        fn $name(fcw: u16, a: [u8; 16], b: [u8; 16]) -> $crate::tests::x87_silicon::After {
            let mut st = [[0xeeu8; 16]; 2];
            let mut memory = [0xeeu8; 16];
            let mut fsw = 0u16;
            // SAFETY: the x87 registers are declared clobbered, and FNINIT leaves their default state.
            unsafe {
                core::arch::asm!(
                    "fninit", "/* {m} */",
                    "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]",
                    "fnclex", "fldcw word ptr [{fcw}]",
                    $($insn,)+
                    "fnstsw word ptr [{fsw}]", "fnclex",
                    "fldcw word ptr [{plain}]",
                    "fstp tbyte ptr [{st}]", "fstp tbyte ptr [{st} + 16]",
                    "fninit",
                    a = in(reg) &a, b = in(reg) &b, fcw = in(reg) &fcw, fsw = in(reg) &mut fsw,
                    plain = in(reg) &0x37fu16, st = in(reg) &mut st, m = in(reg) &mut memory,
                    out("eax") _,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            let ten = |x: &[u8; 16]| <[u8; 10]>::try_from(&x[..10]).unwrap();
            $crate::tests::x87_silicon::After {
                st: [$crate::F80::from_bytes(ten(&st[0])), $crate::F80::from_bytes(ten(&st[1]))],
                memory: ten(&memory),
                fsw,
            }
        }
    };
}

pub type X87 = fn(u16, [u8; 16], [u8; 16]) -> After;

/// What an operation is to leave, for comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    pub st0: F80,
    /// If the instruction pushes.
    pub st1: Option<F80>,
    /// Bits of C0, C2, C3 in the status word.
    pub conditions: u16,
    /// C1, if it is not `env.c1`.
    pub c1: Option<bool>,
}

impl Expected {
    pub fn value(st0: F80) -> Self {
        Self { st0, st1: None, conditions: 0, c1: None }
    }
}

pub fn image(a: F80) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..10].copy_from_slice(&a.to_bytes());
    bytes
}

/// How operands are made.
pub type Operands = fn(&mut Gen) -> (F80, F80);

/// Runs operations under all control words. Returns how many of `cases` differ, after printing the first ones.
pub fn differences(
    name: &str,
    cases: u32,
    silicon: X87,
    operands: Operands,
    ours: impl Fn(&mut X87Env, F80, F80) -> Expected,
) -> u32 {
    let mut random = Gen::new(name.bytes().fold(7, |h: u64, b| h.wrapping_mul(31) + b as u64));
    let mut failures = 0;
    for _ in 0..cases {
        let fcw = random.fcw(true);
        let (a, b) = operands(&mut random);
        let after = silicon(fcw, image(a), image(b));
        let mut env = X87Env { amd: super::host_is_amd(), ..X87Env::from_control(fcw) };
        let mut expected = ours(&mut env, a, b);
        if !env.stores() {
            expected = Expected { conditions: expected.conditions, c1: Some(false), ..Expected::value(a) };
        }
        let c1 = expected.c1.unwrap_or(env.c1);
        let flags = FpFlags::from_bits_truncate(after.fsw as u8);
        let conditions = after.fsw & 0x4700;
        let want_conditions = expected.conditions | (c1 as u16) << 9;
        let same = after.st[0] == expected.st0
            && expected.st1.is_none_or(|st1| st1 == after.st[1])
            && flags == env.flags
            && conditions == want_conditions;
        if !same {
            failures += 1;
            if failures <= 10 {
                eprintln!(
                    "{name} fcw={fcw:#x} a={a:x?} b={b:x?}\n  ours    {:x?} {:x?} {:?} {want_conditions:#x}\n  silicon {:x?} {:x?} {flags:?} {conditions:#x}",
                    expected.st0, expected.st1, env.flags, after.st[0], after.st[1]
                );
            }
        }
    }
    failures
}

/// As [`differences`], and there must be none.
pub fn agree(
    name: &str,
    cases: u32,
    silicon: X87,
    operands: Operands,
    ours: impl Fn(&mut X87Env, F80, F80) -> Expected,
) {
    let failures = differences(name, cases, silicon, operands, ours);
    assert_eq!(failures, 0, "{name}: {failures} of {cases} differ from silicon");
}
