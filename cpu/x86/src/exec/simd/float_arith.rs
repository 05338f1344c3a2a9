//! Floating-point arithmetic, packed and scalar; fused multiply-add.

use super::float::{Alternating, Element, Float, element};
use super::plumbing::{Operate, Operation, Ops};
use super::table;
use crate::row::Rows;
use crate::silicon::{self, Silicon};
use core::marker::PhantomData;
use iced_x86::Mnemonic as M;
use ringworld_fp::{self as fp, FmaNegate, FpEnv};

/// Defines element operations: `Name(sources) [constants], |env, d, a, b, imm| result;`.
macro_rules! elements {
    ($($name:ident($sources:literal) $([$($const:ident = $value:expr),*])?,
        |$env:ident, $d:ident, $a:ident, $b:ident, $imm:ident| $body:expr;)*) => {$(
        struct $name;
        impl Element for $name {
            const SOURCES: u8 = $sources;
            $($(const $const: bool = $value;)*)?
            #[inline]
            fn run<F: Float>($env: &mut FpEnv, $d: F, $a: F, $b: F, $imm: u8) -> F {
                $body
            }
        }
    )*};
}

elements! {
    Add(2), |env, _d, a, b, _i| fp::add(env, a, b);
    Sub(2), |env, _d, a, b, _i| fp::sub(env, a, b);
    Mul(2), |env, _d, a, b, _i| fp::mul(env, a, b);
    Div(2), |env, _d, a, b, _i| fp::div(env, a, b);
    Min(2), |env, _d, a, b, _i| fp::min(env, a, b);
    Max(2), |env, _d, a, b, _i| fp::max(env, a, b);
    Sqrt(1), |env, _d, _a, b, _i| fp::sqrt(env, b);
    Round(1), |env, _d, _a, b, imm| fp::rndscale(env, b, imm & 15);
    RndScale(1), |env, _d, _a, b, imm| fp::rndscale(env, b, imm);
    Reduce(1), |env, _d, _a, b, imm| fp::reduce(env, b, imm);
    GetExp(1), |env, _d, _a, b, _i| fp::getexp(env, b);
    GetMant(1), |env, _d, _a, b, imm| fp::getmant(env, b, imm);
    Range(2), |env, _d, a, b, imm| fp::range(env, a, b, imm);
    ScaleF(2), |env, _d, a, b, _i| fp::scalef(env, a, b);
    Rcp14(1) [REPORTS = false], |env, _d, _a, b, _i| fp::rcp14(env, b);
    Rsqrt14(1) [REPORTS = false], |env, _d, _a, b, _i| fp::rsqrt14(env, b);
    Rcp(1) [REPORTS = false], |_env, _d, _a, b, _i| F::from_bits(silicon::rcp(b.to_bits() as u32).into());
    Rsqrt(1) [REPORTS = false], |_env, _d, _a, b, _i| F::from_bits(silicon::rsqrt(b.to_bits() as u32).into());
    FixupImm(3) [UPPER_FROM_A = true], |env, d, a, b, imm| fp::fixupimm(env, d, a, b.to_bits() as u32, imm);
}

/// Kinds of [`Fma`].
const MADD: u8 = 0;
const MSUB: u8 = 1;
const NMADD: u8 = 2;
const NMSUB: u8 = 3;

/// Fused multiply-add with operand order `ORDER` (132, 213 or 231) of a kind.
struct Fma<const ORDER: u8, const KIND: u8>;

impl<const ORDER: u8, const KIND: u8> Element for Fma<ORDER, KIND> {
    const SOURCES: u8 = 3;
    #[inline]
    fn run<F: Float>(env: &mut FpEnv, d: F, a: F, b: F, _: u8) -> F {
        let (x, y, z) = match ORDER {
            132 => (d, b, a),
            213 => (a, d, b),
            _ => (a, b, d),
        };
        let negate = FmaNegate { product: KIND & NMADD != 0, addend: KIND & MSUB != 0 };
        fp::fma(env, x, y, z, negate)
    }
}

/// HADDPS and kin: sums (or differences) of adjacent elements, of the first source and then of the second, in each block.
struct Horizontal<E, F>(PhantomData<(E, F)>);

impl<E: Element, F: Float> Operate for Horizontal<E, F> {
    const OPERATION: Operation = Operation::binary(horizontal::<E, F>).float();
}

fn horizontal<E: Element, F: Float>(o: &mut Ops) {
    let in_block = 16 / size_of::<F>();
    for n in 0..o.bytes.min(64) / size_of::<F>() {
        let (block, n_in) = (n / in_block * in_block, n % in_block);
        let source = if n_in < in_block / 2 { &o.a } else { &o.b };
        let first = block + 2 * n_in % in_block;
        let (x, y) = (F::lanes(source)[first], F::lanes(source)[first + 1]);
        F::lanes_mut(&mut o.d)[n] = E::run(&mut o.env, x, x, y, 0);
    }
}

/// DPPS, DPPD: products selected by imm bits 7:4, their sum to the elements selected by bits 3:0, in each block. The sum is
/// made of pairs, each step rounded (SDM 2A DPPS).
struct Dot<F>(PhantomData<F>);

impl<F: Float> Operate for Dot<F> {
    const OPERATION: Operation = Operation::binary(dot::<F>).float();
}

fn dot<F: Float>(o: &mut Ops) {
    let in_block = 16 / size_of::<F>();
    let lanes = o.bytes.min(64) / size_of::<F>();
    let mut products = [F::from_bits(0); 16];
    for n in (0..lanes).filter(|n| o.imm >> (4 + n % in_block) & 1 != 0) {
        products[n] = fp::mul(&mut o.env, F::lanes(&o.a)[n], F::lanes(&o.b)[n]);
    }
    let mut sums = products;
    let amd = Silicon::host() == Silicon::Amd;
    let mut width = 1;
    while width < in_block {
        if !o.step() {
            return;
        }
        // On Intel's silicon each lane adds on its own: which of two NaNs it gets depends on the order of the operands. On AMD's
        // the lower lane is the first operand.
        let before = sums;
        for n in 0..lanes {
            let (own, other) = (before[n], before[n ^ width]);
            let swapped = if amd { n & width != 0 } else { width == 1 && in_block == 4 };
            let (x, y) = if swapped { (other, own) } else { (own, other) };
            sums[n] = fp::add(&mut o.env, x, y);
        }
        width *= 2;
    }
    for n in (0..lanes).filter(|n| o.imm >> (n % in_block) & 1 != 0) {
        F::lanes_mut(&mut o.d)[n] = sums[n];
    }
}

macro_rules! fma_rows {
    ($rows:ident, $($kind:ident $order:literal: $ps:ident $pd:ident $ss:ident $sd:ident;)*) => {$(
        element::<Fma<$order, $kind>>($rows, &[M::$ps], &[M::$pd], &[M::$ss], &[M::$sd]);
    )*};
}

macro_rules! alternating_rows {
    ($rows:ident, $($order:literal: $add_sub_ps:ident $add_sub_pd:ident $sub_add_ps:ident $sub_add_pd:ident;)*) => {$(
        table::operation::<Alternating<Fma<$order, MSUB>, Fma<$order, MADD>, u32>>($rows, &[M::$add_sub_ps]);
        table::operation::<Alternating<Fma<$order, MSUB>, Fma<$order, MADD>, u64>>($rows, &[M::$add_sub_pd]);
        table::operation::<Alternating<Fma<$order, MADD>, Fma<$order, MSUB>, u32>>($rows, &[M::$sub_add_ps]);
        table::operation::<Alternating<Fma<$order, MADD>, Fma<$order, MSUB>, u64>>($rows, &[M::$sub_add_pd]);
    )*};
}

macro_rules! element_rows {
    ($rows:ident, $($op:ident: [$($ps:ident)*] [$($pd:ident)*] [$($ss:ident)*] [$($sd:ident)*];)*) => {$(
        element::<$op>($rows, &[$(M::$ps),*], &[$(M::$pd),*], &[$(M::$ss),*], &[$(M::$sd),*]);
    )*};
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    element_rows! { rows,
        Add: [Addps Vaddps] [Addpd Vaddpd] [Addss Vaddss] [Addsd Vaddsd];
        Sub: [Subps Vsubps] [Subpd Vsubpd] [Subss Vsubss] [Subsd Vsubsd];
        Mul: [Mulps Vmulps] [Mulpd Vmulpd] [Mulss Vmulss] [Mulsd Vmulsd];
        Div: [Divps Vdivps] [Divpd Vdivpd] [Divss Vdivss] [Divsd Vdivsd];
        Min: [Minps Vminps] [Minpd Vminpd] [Minss Vminss] [Minsd Vminsd];
        Max: [Maxps Vmaxps] [Maxpd Vmaxpd] [Maxss Vmaxss] [Maxsd Vmaxsd];
        Sqrt: [Sqrtps Vsqrtps] [Sqrtpd Vsqrtpd] [Sqrtss Vsqrtss] [Sqrtsd Vsqrtsd];
        Round: [Roundps Vroundps] [Roundpd Vroundpd] [Roundss Vroundss] [Roundsd Vroundsd];
        RndScale: [Vrndscaleps] [Vrndscalepd] [Vrndscaless] [Vrndscalesd];
        Reduce: [Vreduceps] [Vreducepd] [Vreducess] [Vreducesd];
        GetExp: [Vgetexpps] [Vgetexppd] [Vgetexpss] [Vgetexpsd];
        GetMant: [Vgetmantps] [Vgetmantpd] [Vgetmantss] [Vgetmantsd];
        Range: [Vrangeps] [Vrangepd] [Vrangess] [Vrangesd];
        ScaleF: [Vscalefps] [Vscalefpd] [Vscalefss] [Vscalefsd];
        Rcp14: [Vrcp14ps] [Vrcp14pd] [Vrcp14ss] [Vrcp14sd];
        Rsqrt14: [Vrsqrt14ps] [Vrsqrt14pd] [Vrsqrt14ss] [Vrsqrt14sd];
        FixupImm: [Vfixupimmps] [Vfixupimmpd] [Vfixupimmss] [Vfixupimmsd];
        Rcp: [Rcpps Vrcpps] [] [Rcpss Vrcpss] [];
        Rsqrt: [Rsqrtps Vrsqrtps] [] [Rsqrtss Vrsqrtss] [];
    }
    fma_rows! { rows,
        MADD 132: Vfmadd132ps Vfmadd132pd Vfmadd132ss Vfmadd132sd;
        MADD 213: Vfmadd213ps Vfmadd213pd Vfmadd213ss Vfmadd213sd;
        MADD 231: Vfmadd231ps Vfmadd231pd Vfmadd231ss Vfmadd231sd;
        MSUB 132: Vfmsub132ps Vfmsub132pd Vfmsub132ss Vfmsub132sd;
        MSUB 213: Vfmsub213ps Vfmsub213pd Vfmsub213ss Vfmsub213sd;
        MSUB 231: Vfmsub231ps Vfmsub231pd Vfmsub231ss Vfmsub231sd;
        NMADD 132: Vfnmadd132ps Vfnmadd132pd Vfnmadd132ss Vfnmadd132sd;
        NMADD 213: Vfnmadd213ps Vfnmadd213pd Vfnmadd213ss Vfnmadd213sd;
        NMADD 231: Vfnmadd231ps Vfnmadd231pd Vfnmadd231ss Vfnmadd231sd;
        NMSUB 132: Vfnmsub132ps Vfnmsub132pd Vfnmsub132ss Vfnmsub132sd;
        NMSUB 213: Vfnmsub213ps Vfnmsub213pd Vfnmsub213ss Vfnmsub213sd;
        NMSUB 231: Vfnmsub231ps Vfnmsub231pd Vfnmsub231ss Vfnmsub231sd;
    }
    alternating_rows! { rows,
        132: Vfmaddsub132ps Vfmaddsub132pd Vfmsubadd132ps Vfmsubadd132pd;
        213: Vfmaddsub213ps Vfmaddsub213pd Vfmsubadd213ps Vfmsubadd213pd;
        231: Vfmaddsub231ps Vfmaddsub231pd Vfmsubadd231ps Vfmsubadd231pd;
    }
    table::operation::<Alternating<Sub, Add, u32>>(rows, &[M::Addsubps, M::Vaddsubps]);
    table::operation::<Alternating<Sub, Add, u64>>(rows, &[M::Addsubpd, M::Vaddsubpd]);
    table::operation::<Horizontal<Add, u32>>(rows, &[M::Haddps, M::Vhaddps]);
    table::operation::<Horizontal<Add, u64>>(rows, &[M::Haddpd, M::Vhaddpd]);
    table::operation::<Horizontal<Sub, u32>>(rows, &[M::Hsubps, M::Vhsubps]);
    table::operation::<Horizontal<Sub, u64>>(rows, &[M::Hsubpd, M::Vhsubpd]);
    table::operation::<Dot<u32>>(rows, &[M::Dpps, M::Vdpps]);
    table::operation::<Dot<u64>>(rows, &[M::Dppd, M::Vdppd]);
}
