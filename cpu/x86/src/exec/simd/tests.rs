//! Known vectors and restart semantics. Every form is compared with silicon by the differential test (testsuites).

use crate::Cpu;
use crate::control::{cr4, xcr0};
use crate::flags::bits;
use crate::testing::{cpu, long_mode, run};
use ringworld_core::GuestPhys;

/// 64-bit code with all vector state enabled.
fn machine() -> Cpu {
    let mut cpu = cpu("max");
    cpu.xcr0 = xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::AVX512;
    cpu.cr4 |= cr4::OSXSAVE | cr4::OSXMMEXCPT;
    long_mode(&mut cpu);
    cpu
}

fn bytes(text: &str) -> [u64; 8] {
    let mut v = [0; 8];
    for (n, pair) in text.as_bytes().chunks(2).enumerate() {
        let byte = u64::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap();
        v[n / 8] |= byte << (8 * (n % 8));
    }
    v
}

/// FIPS 197 appendix B: the first round's state after the initial AddRoundKey, the first round key, and the second round's start.
#[test]
fn aes_round_of_fips_197() {
    let mut cpu = machine();
    cpu.zmm[1] = bytes("193de3bea0f4e22b9ac68d2ae9f84808");
    cpu.zmm[2] = bytes("a0fafe1788542cb123a339392a6c7605");
    // aesenc xmm1, xmm2
    run(&mut cpu, &[0x66, 0x0f, 0x38, 0xdc, 0xca]).unwrap();
    assert_eq!(cpu.zmm[1], bytes("a49c7ff2689f352b6b5bea43026a5049"));
    // The last rounds have no MixColumns: one undoes the other.
    cpu.zmm[3] = [0; 8];
    let before = cpu.zmm[1];
    // aesenclast xmm1, xmm3; aesdeclast xmm1, xmm3
    run(&mut cpu, &[0x66, 0x0f, 0x38, 0xdd, 0xcb]).unwrap();
    assert_ne!(cpu.zmm[1], before);
    run(&mut cpu, &[0x66, 0x0f, 0x38, 0xdf, 0xcb]).unwrap();
    assert_eq!(cpu.zmm[1], before);
}

/// FIPS 197 appendix A.1: the first expanded words of the AES-128 key.
#[test]
fn aes_key_expansion_of_fips_197() {
    let mut cpu = machine();
    cpu.zmm[1] = bytes("2b7e151628aed2a6abf7158809cf4f3c");
    // aeskeygenassist xmm2, xmm1, 1: the top word is RotWord(SubWord(w3)) xor rcon.
    run(&mut cpu, &[0x66, 0x0f, 0x3a, 0xdf, 0xd1, 1]).unwrap();
    let word = (cpu.zmm[2][1] >> 32) as u32 ^ cpu.zmm[1][0] as u32;
    assert_eq!(word.to_le_bytes(), [0xa0, 0xfa, 0xfe, 0x17]);
}

/// SDM 2B 4.1: equal-any, ranges, each and ordered on "hello".
#[test]
fn string_comparison_aggregations() {
    let text = bytes("68656c6c6f20776f726c640000000000");
    for (needle, imm, index) in [
        ("6f000000000000000000000000000000", 0x00, 4),  // any of "o"
        ("6f77", 0x04, 4),                              // in range o..w
        ("68656c6c6f20776f726c640000000000", 0x18, 16), // first that differs: none
        ("776f72", 0x0c, 6),                            // "wor" in it
        ("6c", 0x40, 9),                                // last "l"
    ] {
        let mut cpu = machine();
        cpu.zmm[1] = bytes(needle);
        cpu.zmm[2] = text;
        // pcmpistri xmm1, xmm2, imm
        run(&mut cpu, &[0x66, 0x0f, 0x3a, 0x63, 0xca, imm]).unwrap();
        assert_eq!(cpu.regs[1], index, "{needle} {imm:#x}");
        assert_eq!(cpu.flags.cf(), index != 16);
        assert!(cpu.flags.zf(), "the text ends within the register");
    }
}

/// SDM 2A 2.4: legacy 128-bit memory operands are aligned; VEX ones need not be, but for the aligned moves.
#[test]
fn alignment_by_encoding() {
    let forms: [(&[u8], Result<(), u8>); 6] = [
        (&[0x0f, 0x28, 0x06], Err(13)),       // movaps xmm0, [rsi]
        (&[0x0f, 0x10, 0x06], Ok(())),        // movups xmm0, [rsi]
        (&[0x66, 0x0f, 0xfc, 0x06], Err(13)), // paddb xmm0, [rsi]
        (&[0xc5, 0xf9, 0xfc, 0x06], Ok(())),  // vpaddb xmm0, xmm0, [rsi]
        (&[0xc5, 0xf9, 0x6f, 0x06], Err(13)), // vmovdqa xmm0, [rsi]
        (&[0xf3, 0x0f, 0x12, 0x06], Err(13)), // movsldup xmm0, [rsi]
    ];
    for (code, expected) in forms {
        let mut cpu = machine();
        cpu.regs[6] = 0x1008;
        assert_eq!(run(&mut cpu, code), expected, "{code:x?}");
    }
}

/// SDM 1 15.6.4: VEX clears the rest of the register, legacy keeps it; masks merge or clear.
#[test]
fn upper_bits_and_masks() {
    let mut cpu = machine();
    cpu.zmm[0] = [1; 8];
    cpu.zmm[1] = [2; 8];
    // paddq xmm0, xmm1
    run(&mut cpu, &[0x66, 0x0f, 0xd4, 0xc1]).unwrap();
    assert_eq!(cpu.zmm[0], [3, 3, 1, 1, 1, 1, 1, 1]);
    cpu.k[1] = 0b0101;
    // vpaddq ymm0{k1}, ymm0, ymm1
    run(&mut cpu, &[0x62, 0xf1, 0xfd, 0x29, 0xd4, 0xc1]).unwrap();
    assert_eq!(cpu.zmm[0], [5, 3, 3, 1, 0, 0, 0, 0]);
    // vpaddq ymm0{k1}{z}, ymm0, ymm1
    run(&mut cpu, &[0x62, 0xf1, 0xfd, 0xa9, 0xd4, 0xc1]).unwrap();
    assert_eq!(cpu.zmm[0], [7, 0, 5, 0, 0, 0, 0, 0]);
}

/// SDM 2C VPGATHERDD: a fault leaves the elements before it done, their mask bits clear.
#[test]
fn gather_stops_at_the_fault() {
    let mut cpu = machine();
    cpu.memory.write(GuestPhys(0x1000), &7u32.to_le_bytes()).unwrap();
    cpu.regs[6] = 0x1000;
    // Indices: 0, then beyond the canonical addresses.
    cpu.zmm[1] = [0, 1 << 62, 0, 0, 0, 0, 0, 0];
    cpu.zmm[2] = [u64::MAX; 8];
    cpu.k[1] = 0b11;
    // vpgatherqq xmm2{k1}, [rsi + xmm1]
    assert_eq!(run(&mut cpu, &[0x62, 0xf2, 0xfd, 0x09, 0x91, 0x14, 0x0e]), Err(13));
    assert_eq!(cpu.zmm[2][..2], [7, u64::MAX]);
    assert_eq!(cpu.k[1], 0b10);
}

/// SDM 1 11.5.3: an unmasked exception sets its flag, raises #XM and leaves the destination alone.
#[test]
fn unmasked_exceptions() {
    let mut cpu = machine();
    cpu.mxcsr = 0x1f80 & !(4 << 7);
    cpu.zmm[0] = [1f64.to_bits(); 8];
    cpu.zmm[1] = [0; 8];
    // divsd xmm0, xmm1
    assert_eq!(run(&mut cpu, &[0xf2, 0x0f, 0x5e, 0xc1]), Err(19));
    assert_eq!(cpu.zmm[0], [1f64.to_bits(); 8]);
    assert_eq!(cpu.mxcsr & 0x3f, 4);
    // Suppressed by {sae}: vdivpd zmm0, zmm0, zmm1 {rn-sae}
    cpu.mxcsr &= !0x3f;
    run(&mut cpu, &[0x62, 0xf1, 0xfd, 0x18, 0x5e, 0xc1]).unwrap();
    assert_eq!(cpu.zmm[0], [f64::INFINITY.to_bits(); 8]);
    assert_eq!(cpu.mxcsr & 0x3f, 0);
}

/// SDM 3A 12.2: MMX instructions clear TOP, tag all registers valid and set exponents to ones; EMMS empties.
#[test]
fn mmx_and_the_x87_state() {
    let mut cpu = machine();
    cpu.x87.status = 3 << 11;
    cpu.x87.valid = 0;
    cpu.regs[0] = 0x1234_5678;
    // movd mm3, eax
    run(&mut cpu, &[0x0f, 0x6e, 0xd8]).unwrap();
    assert_eq!((cpu.x87.significand[3], cpu.x87.exponent[3]), (0x1234_5678, 0xffff));
    assert_eq!((cpu.x87.status >> 11 & 7, cpu.x87.valid), (0, 0xff));
    run(&mut cpu, &[0x0f, 0x77]).unwrap();
    assert_eq!(cpu.x87.valid, 0);
}

/// SDM 2A LDMXCSR: reserved bits.
#[test]
fn ldmxcsr_rejects_reserved_bits() {
    let mut cpu = machine();
    cpu.regs[6] = 0x1000;
    cpu.memory.write(GuestPhys(0x1000), &0x1_0000u32.to_le_bytes()).unwrap();
    assert_eq!(run(&mut cpu, &[0x0f, 0xae, 0x16]), Err(13));
    cpu.memory.write(GuestPhys(0x1000), &0xffc0u32.to_le_bytes()).unwrap();
    run(&mut cpu, &[0x0f, 0xae, 0x16]).unwrap();
    assert_eq!(cpu.mxcsr, 0xffc0);
    assert!(!cpu.flags.has(bits::AC));
}

/// Of #GP and #AC, an access across the end of the canonical addresses raises, as silicon does: #AC without a mask; with
/// one, #GP for a load's lane that is not wholly inside, and for a store's lane that begins outside.
#[test]
fn alignment_and_canonical_addresses_of_masked_operands() {
    use iced_x86::code_asm::*;
    const GP: u8 = 13;
    const AC: u8 = 17;
    type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    use iced_x86::IcedError;
    let cases: &[(&str, Emit, [u8; 2])] = &[
        // With only the first lane active, and with all of them.
        ("vaddsd", |a| a.vaddsd(xmm0, xmm1, qword_ptr(rbx)), [AC, AC]),
        ("vaddsd{k}", |a| a.vaddsd(xmm0.k1(), xmm1, qword_ptr(rbx)), [GP, GP]),
        ("vmovsd{k}", |a| a.vmovsd(xmm0.k1(), qword_ptr(rbx)), [GP, GP]),
        ("vmovsd{k} store", |a| a.vmovsd(qword_ptr(rbx).k1(), xmm0), [AC, AC]),
        ("vpmovzxbw{k}", |a| a.vpmovzxbw(xmm0.k1(), qword_ptr(rbx)), [AC, GP]),
        ("vpmovqb{k} store", |a| a.vpmovqb(qword_ptr(rbx).k1(), zmm0), [AC, GP]),
        ("vcvttps2qq{k}", |a| a.vcvttps2qq(xmm0.k1(), qword_ptr(rbx)), [GP, GP]),
        ("vbroadcastsd", |a| a.vbroadcastsd(zmm0, qword_ptr(rbx)), [AC, AC]),
        ("vbroadcastsd{k}", |a| a.vbroadcastsd(zmm0.k1(), qword_ptr(rbx)), [GP, GP]),
        ("vaddpd bcst", |a| a.vaddpd(xmm0, xmm1, qword_bcst(rbx)), [AC, AC]),
        ("vaddpd bcst{k}", |a| a.vaddpd(xmm0.k1(), xmm1, qword_bcst(rbx)), [GP, GP]),
        ("mov", |a| a.mov(rax, qword_ptr(rbx)), [AC, AC]),
    ];
    for (name, emit, vectors) in cases {
        let mut assembler = CodeAssembler::new(64).unwrap();
        assembler.set_prefer_vex(false);
        emit(&mut assembler).unwrap();
        let code = assembler.assemble(0).unwrap();
        for (mask, vector) in [1, 0xff].into_iter().zip(*vectors) {
            let mut cpu = machine();
            cpu.cpl = 3;
            cpu.cr0 |= crate::control::cr0::AM;
            cpu.flags.set(cpu.flags.get() | bits::AC);
            cpu.update_mode();
            cpu.regs[3] = 0x7fff_ffff_ffff;
            cpu.k[1] = mask;
            assert_eq!(run(&mut cpu, &code), Err(vector), "{name}, mask {mask:#x}");
        }
    }
}
