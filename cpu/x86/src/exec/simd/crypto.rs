//! AES, carry-less multiplication, SHA and Galois-field instructions.

use super::block::load_sha;
use super::block::{BlockOp, block_ops, lane_ops};
use super::table;
use super::vector::Block;
use crate::row::{Group, Rows};
use crate::{Cpu, Insn, Stop};
use iced_x86::{Code, Mnemonic as M};

/// Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197, 4.2).
const fn gf_mul(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product) = (a, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ (a >> 7) * 0x1b;
        b >>= 1;
    }
    product
}

/// Inverses in that field; 0 is its own.
const INVERSE: [u8; 256] = {
    let mut table = [0; 256];
    let mut n = 1;
    while n < 256 {
        // x^254 is 1/x.
        let (mut power, mut m) = (1, 0);
        while m < 254 {
            power = gf_mul(power, n as u8);
            m += 1;
        }
        table[n] = power;
        n += 1;
    }
    table
};

/// FIPS 197, 5.1.1.
const SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let x = INVERSE[n];
        let turned = x.rotate_left(1) ^ x.rotate_left(2) ^ x.rotate_left(3) ^ x.rotate_left(4);
        table[n] = x ^ turned ^ 0x63;
        n += 1;
    }
    table
};

const INVERSE_SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        table[SBOX[n] as usize] = n as u8;
        n += 1;
    }
    table
};

/// Products by the coefficients of MixColumns and its inverse.
const fn multiples(by: u8) -> [u8; 256] {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        table[n] = gf_mul(n as u8, by);
        n += 1;
    }
    table
}
const BY_2: [u8; 256] = multiples(2);
const BY_9: [u8; 256] = multiples(9);
const BY_11: [u8; 256] = multiples(11);
const BY_13: [u8; 256] = multiples(13);
const BY_14: [u8; 256] = multiples(14);

/// SubBytes and ShiftRows.
fn sub_shift(a: [u8; 16]) -> [u8; 16] {
    core::array::from_fn(|n| SBOX[usize::from(a[(n + 4 * (n % 4)) % 16])])
}

fn inverse_sub_shift(a: [u8; 16]) -> [u8; 16] {
    core::array::from_fn(|n| INVERSE_SBOX[usize::from(a[(n + 12 * (n % 4)) % 16])])
}

fn mix_columns(a: [u8; 16]) -> [u8; 16] {
    core::array::from_fn(|n| {
        let at = |k: usize| a[n / 4 * 4 + (n + k) % 4];
        BY_2[usize::from(at(0) ^ at(1))] ^ at(1) ^ at(2) ^ at(3)
    })
}

fn inverse_mix_columns(a: [u8; 16]) -> [u8; 16] {
    core::array::from_fn(|n| {
        let at = |k: usize| usize::from(a[n / 4 * 4 + (n + k) % 4]);
        BY_14[at(0)] ^ BY_11[at(1)] ^ BY_13[at(2)] ^ BY_9[at(3)]
    })
}

fn xor(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
    core::array::from_fn(|n| a[n] ^ b[n])
}

fn sub_word(x: u32) -> u32 {
    u32::from_le_bytes(x.to_le_bytes().map(|byte| SBOX[usize::from(byte)]))
}

fn carryless(a: u64, b: u64) -> u128 {
    (0..64).fold(0, |sum, n| if b >> n & 1 != 0 { sum ^ u128::from(a) << n } else { sum })
}

/// One round of SHA-1 (FIPS 180-4, 6.1.2); `e` and the round's word and constant are in `addend`.
fn sha1_round([a, b, c, d]: [u32; 4], f: u8, addend: u32) -> [u32; 4] {
    let mixed = match f {
        0 => (b & c) ^ (!b & d),
        2 => (b & c) ^ (b & d) ^ (c & d),
        _ => b ^ c ^ d,
    };
    [mixed.wrapping_add(a.rotate_left(5)).wrapping_add(addend), a, b.rotate_left(30), c]
}

const SHA1_K: [u32; 4] = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6];

fn sigma0(x: u32) -> u32 {
    x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3
}

fn sigma1(x: u32) -> u32 {
    x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10
}

block_ops! {
    Aesenc: u8, |a, b, _i| xor(mix_columns(sub_shift(a)), b);
    Aesenclast: u8, |a, b, _i| xor(sub_shift(a), b);
    Aesdec: u8, |a, b, _i| xor(inverse_mix_columns(inverse_sub_shift(a)), b);
    Aesdeclast: u8, |a, b, _i| xor(inverse_sub_shift(a), b);
    Aesimc: u8 [UNARY = true], |_a, b, _i| inverse_mix_columns(b);
    Aeskeygenassist: u32 [UNARY = true], |_a, b, imm| {
        let (x1, x3) = (sub_word(b[1]), sub_word(b[3]));
        [x1, x1.rotate_right(8) ^ u32::from(imm), x3, x3.rotate_right(8) ^ u32::from(imm)]
    };
    Pclmulqdq: u64, |a, b, imm| {
        let product = carryless(a[usize::from(imm & 1)], b[usize::from(imm >> 4 & 1)]);
        [product as u64, (product >> 64) as u64]
    };
    Sha1nexte: u32 [SHA = true], |a, b, _i| [b[0], b[1], b[2], b[3].wrapping_add(a[3].rotate_left(30))];
    Sha1msg1: u32 [SHA = true], |a, b, _i| [b[2] ^ a[0], b[3] ^ a[1], a[0] ^ a[2], a[1] ^ a[3]];
    Sha1msg2: u32 [SHA = true], |a, b, _i| {
        let w16 = (a[3] ^ b[2]).rotate_left(1);
        let (w17, w18) = ((a[2] ^ b[1]).rotate_left(1), (a[1] ^ b[0]).rotate_left(1));
        [(a[0] ^ w16).rotate_left(1), w18, w17, w16]
    };
    Sha1rnds4: u32 [SHA = true], |a, b, imm| {
        let f = imm & 3;
        let mut state = [a[3], a[2], a[1], a[0]];
        // The first round's E is part of the word that SHA1NEXTE made.
        let mut e = 0;
        for word in [b[3], b[2], b[1], b[0]] {
            let next_e = state[3];
            state = sha1_round(state, f, word.wrapping_add(e).wrapping_add(SHA1_K[usize::from(f)]));
            e = next_e;
        }
        [state[3], state[2], state[1], state[0]]
    };
    Sha256msg1: u32 [SHA = true], |a, b, _i| {
        let next = [a[1], a[2], a[3], b[0]];
        core::array::from_fn::<u32, 4, _>(|n| a[n].wrapping_add(sigma0(next[n])))
    };
    Sha256msg2: u32 [SHA = true], |a, b, _i| {
        let w16 = a[0].wrapping_add(sigma1(b[2]));
        let w17 = a[1].wrapping_add(sigma1(b[3]));
        [w16, w17, a[2].wrapping_add(sigma1(w16)), a[3].wrapping_add(sigma1(w17))]
    };
}

/// SHA256RNDS2: two rounds with the words and constants in XMM0 (FIPS 180-4, 6.2.2).
fn sha256rnds2(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = if i.has_memory() { load_sha(cpu, i)? } else { low(cpu, i.r[1]) };
    let a = low(cpu, i.r[0]);
    let words = low(cpu, 0)[0];
    let (a, b): ([u32; 4], [u32; 4]) = (zerocopy::transmute!(a), zerocopy::transmute!(b));
    let [mut f, mut e, mut bb, mut aa] = b;
    let [mut h, mut g, mut d, mut c] = a;
    for word in [words as u32, (words >> 32) as u32] {
        let sum1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let t1 = ((e & f) ^ (!e & g)).wrapping_add(sum1).wrapping_add(word).wrapping_add(h);
        let sum0 = aa.rotate_right(2) ^ aa.rotate_right(13) ^ aa.rotate_right(22);
        let t2 = ((aa & bb) ^ (aa & c) ^ (bb & c)).wrapping_add(sum0);
        (h, g, f, e) = (g, f, e, d.wrapping_add(t1));
        (d, c, bb, aa) = (c, bb, aa, t1.wrapping_add(t2));
    }
    let result: Block = zerocopy::transmute!([f, e, bb, aa]);
    cpu.zmm[usize::from(i.r[0] & 31)][..2].copy_from_slice(&result);
    Ok(())
}

fn low(cpu: &Cpu, n: u8) -> Block {
    let v = &cpu.zmm[usize::from(n & 31)];
    [v[0], v[1]]
}

/// Each byte of `x` by the 8x8 bit matrix in the quadword of its place, plus `imm` (SDM 2A GF2P8AFFINEQB).
fn affine(x: [u8; 16], matrices: [u8; 16], imm: u8) -> [u8; 16] {
    core::array::from_fn(|n| {
        let matrix = &matrices[n / 8 * 8..n / 8 * 8 + 8];
        (0..8).fold(imm, |sum, bit| sum ^ (((matrix[7 - bit] & x[n]).count_ones() & 1) as u8) << bit)
    })
}

lane_ops! {
    Gf2p8mulb: u8, |a, b, _i| gf_mul(a, b);
}

block_ops! {
    Gf2p8affineqb: u8 [ELEMENT = 1, SOURCE = 1, SUPPRESSES = false], |a, b, imm| affine(a, b, imm);
    Gf2p8affineinvqb: u8 [ELEMENT = 1, SOURCE = 1, SUPPRESSES = false], |a, b, imm| {
        affine(a.map(|x| INVERSE[usize::from(x)]), b, imm)
    };
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    use table::block;
    block::<Aesenc>(rows, &[M::Aesenc, M::Vaesenc]);
    block::<Aesenclast>(rows, &[M::Aesenclast, M::Vaesenclast]);
    block::<Aesdec>(rows, &[M::Aesdec, M::Vaesdec]);
    block::<Aesdeclast>(rows, &[M::Aesdeclast, M::Vaesdeclast]);
    block::<Aesimc>(rows, &[M::Aesimc, M::Vaesimc]);
    block::<Aeskeygenassist>(rows, &[M::Aeskeygenassist, M::Vaeskeygenassist]);
    block::<Pclmulqdq>(rows, &[M::Pclmulqdq, M::Vpclmulqdq]);
    block::<Sha1nexte>(rows, &[M::Sha1nexte]);
    block::<Sha1msg1>(rows, &[M::Sha1msg1]);
    block::<Sha1msg2>(rows, &[M::Sha1msg2]);
    block::<Sha1rnds4>(rows, &[M::Sha1rnds4]);
    block::<Sha256msg1>(rows, &[M::Sha256msg1]);
    block::<Sha256msg2>(rows, &[M::Sha256msg2]);
    rows.group(Group::Sse);
    rows.add(Code::Sha256rnds2_xmm_xmmm128, sha256rnds2);
    block::<Gf2p8mulb>(rows, &[M::Gf2p8mulb, M::Vgf2p8mulb]);
    block::<Gf2p8affineqb>(rows, &[M::Gf2p8affineqb, M::Vgf2p8affineqb]);
    block::<Gf2p8affineinvqb>(rows, &[M::Gf2p8affineinvqb, M::Vgf2p8affineinvqb]);
}
