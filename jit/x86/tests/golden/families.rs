//! The samples: instructions in several shapes, and idioms.

use iced_x86::code_asm::*;
use iced_x86::{
    Code, EncodingKind, IcedError, Instruction, MemoryOperand, Mnemonic, OpCodeOperandKind, Register,
};
use ringworld_jit_x86::emit_of;

/// Where samples start in the guest.
pub const START: u64 = 0x1_0000;

type Idiom = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// A family: one file.
pub struct Family {
    /// The file's name.
    pub name: &'static str,
    /// Of the guest's code: 32 or 64.
    pub bits: u32,
    /// Whether the host can run what is emitted.
    pub host_has: fn() -> bool,
    /// Instructions: all emitted 32- and 64-bit forms of these, in all shapes.
    mnemonics: &'static [Mnemonic],
    /// Sequences.
    idioms: &'static [Idiom],
}

fn always() -> bool {
    true
}

/// How registers and memory operands are chosen.
#[derive(Clone, Copy)]
enum Shape {
    /// Registers that live in the host's.
    Pinned,
    /// Registers that live in the frame.
    Framed,
    /// Base and displacement.
    Base,
    /// Base, index, and a register from the frame.
    Index,
    /// RIP-relative.
    Relative,
    /// GS with an absolute address.
    Segment,
}

const SHAPES: [Shape; 6] =
    [Shape::Pinned, Shape::Framed, Shape::Base, Shape::Index, Shape::Relative, Shape::Segment];

/// The code of all samples of a family.
pub fn samples(family: &Family) -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    for code in Code::values() {
        if !family.mnemonics.contains(&code.mnemonic()) || emit_of(code).is_none() {
            continue;
        }
        let info = code.op_code();
        // The same mnemonics have longer forms on some hosts.
        let evex = info.encoding() == EncodingKind::EVEX;
        if family.name == "avx" && evex || family.name == "evex" && !evex {
            continue;
        }
        // One width of the general forms says enough, but for narrow ones that need care.
        let scalar = info.operand_size() == 64 || family.name != "arithmetic" || info.operand_size() == 0;
        if !scalar {
            continue;
        }
        let memory = info.op_kinds().iter().any(|&kind| is_memory(kind));
        for shape in SHAPES {
            let wants_memory = !matches!(shape, Shape::Pinned | Shape::Framed);
            if wants_memory && !memory {
                continue;
            }
            if matches!(shape, Shape::Framed) && !info.op_kinds().iter().any(|&kind| is_general(kind)) {
                continue;
            }
            // Vector forms: one shape of memory.
            let vector = family.mnemonics.len() > 12 && !matches!(shape, Shape::Pinned | Shape::Base);
            if vector && matches!(family.name, "sse" | "avx" | "evex" | "avx512") {
                continue;
            }
            if let Some(bytes) = instruction(code, shape).and_then(|instruction| encode(&instruction)) {
                samples.push(bytes);
            }
        }
    }
    for idiom in family.idioms {
        let mut a = CodeAssembler::new(family.bits).expect("a valid width");
        idiom(&mut a).expect("encodable");
        samples.push(a.assemble(START).expect("encodable"));
    }
    samples
}

fn encode(instruction: &Instruction) -> Option<Vec<u8>> {
    let mut encoder = iced_x86::Encoder::new(64);
    encoder.encode(instruction, START).ok()?;
    Some(encoder.take_buffer())
}

fn is_memory(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind::*;
    matches!(
        kind,
        mem | r8_or_mem | r16_or_mem | r32_or_mem | r64_or_mem | xmm_or_mem | ymm_or_mem | zmm_or_mem
    )
}

fn is_general(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind::*;
    matches!(
        kind,
        r8_or_mem
            | r16_or_mem
            | r32_or_mem
            | r64_or_mem
            | r8_reg
            | r16_reg
            | r32_reg
            | r64_reg
            | r32_vvvv
            | r64_vvvv
            | r32_opcode
            | r64_opcode
            | r16_opcode
            | r8_opcode
            | r32_rm
            | r64_rm
    )
}

/// An instruction of a shape.
fn instruction(code: Code, shape: Shape) -> Option<Instruction> {
    use OpCodeOperandKind::*;
    let info = code.op_code();
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let framed = matches!(shape, Shape::Framed | Shape::Index);
    let wants_memory = !matches!(shape, Shape::Pinned | Shape::Framed);
    for n in 0..info.op_count() {
        let kind = info.op_kind(n);
        // RDX, RBX, RSI; or R10, R11, R14.
        let number = if framed { [10, 11, 14][n as usize % 3] } else { [2, 3, 6][n as usize % 3] };
        let low = if framed {
            Register::R10L + number - 10
        } else {
            [Register::DL, Register::BL, Register::SIL][n as usize % 3]
        };
        if wants_memory && is_memory(kind) {
            let operand = match shape {
                Shape::Base => MemoryOperand::with_base_displ(Register::RBX, 16),
                Shape::Index => {
                    MemoryOperand::with_base_index_scale_displ_size(Register::R14, Register::RCX, 8, -64, 1)
                }
                Shape::Relative => MemoryOperand::with_base_displ(Register::RIP, START as i64 + 0x1230),
                _ => MemoryOperand::new(Register::None, Register::None, 1, 0x28, 4, false, Register::GS),
            };
            instruction.set_op_kind(n, iced_x86::OpKind::Memory);
            instruction.set_memory_base(operand.base);
            instruction.set_memory_index(operand.index);
            instruction.set_memory_index_scale(operand.scale);
            instruction.set_memory_displacement64(operand.displacement as u64);
            instruction.set_memory_displ_size(operand.displ_size);
            instruction.set_segment_prefix(operand.segment_prefix);
            continue;
        }
        match kind {
            r8_or_mem | r8_reg | r8_opcode => instruction.set_op_register(n, low),
            r16_or_mem | r16_reg | r16_rm | r16_opcode => {
                instruction.set_op_register(n, Register::AX + number)
            }
            r32_or_mem | r32_reg | r32_rm | r32_opcode | r32_vvvv => {
                instruction.set_op_register(n, Register::EAX + number);
            }
            r64_or_mem | r64_reg | r64_rm | r64_opcode | r64_vvvv => {
                instruction.set_op_register(n, Register::RAX + number);
            }
            xmm_reg | xmm_rm | xmm_vvvv | xmm_or_mem => instruction.set_op_register(n, Register::XMM1 + n),
            ymm_reg | ymm_rm | ymm_vvvv | ymm_or_mem => instruction.set_op_register(n, Register::YMM1 + n),
            zmm_reg | zmm_rm | zmm_vvvv | zmm_or_mem => instruction.set_op_register(n, Register::ZMM1 + n),
            k_reg | k_rm | k_vvvv => instruction.set_op_register(n, Register::K1 + n),
            al => instruction.set_op_register(n, Register::AL),
            cl => instruction.set_op_register(n, Register::CL),
            ax => instruction.set_op_register(n, Register::AX),
            eax => instruction.set_op_register(n, Register::EAX),
            rax => instruction.set_op_register(n, Register::RAX),
            imm8 => immediate(&mut instruction, n, iced_x86::OpKind::Immediate8),
            imm8_const_1 => {
                instruction.set_op_kind(n, iced_x86::OpKind::Immediate8);
                instruction.set_immediate8(1);
            }
            imm8sex16 => immediate(&mut instruction, n, iced_x86::OpKind::Immediate8to16),
            imm8sex32 => immediate(&mut instruction, n, iced_x86::OpKind::Immediate8to32),
            imm8sex64 => immediate(&mut instruction, n, iced_x86::OpKind::Immediate8to64),
            imm16 => immediate(&mut instruction, n, iced_x86::OpKind::Immediate16),
            imm32 => immediate(&mut instruction, n, iced_x86::OpKind::Immediate32),
            imm32sex64 => immediate(&mut instruction, n, iced_x86::OpKind::Immediate32to64),
            imm64 => immediate(&mut instruction, n, iced_x86::OpKind::Immediate64),
            _ => return Option::None,
        }
    }
    Some(instruction)
}

fn immediate(instruction: &mut Instruction, n: u32, kind: iced_x86::OpKind) {
    instruction.set_op_kind(n, kind);
    instruction.set_immediate_u64(n, 5);
}

/// Of AVX; some have EVEX forms, too.
const AVX: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Vpcmpistri,
        Vmovdqu,
        Vmovaps,
        Vaddps,
        Vmulsd,
        Vpaddd,
        Vpshufb,
        Vpand,
        Vfmadd213pd,
        Vbroadcastss,
        Vzeroupper,
        Vzeroall,
        Vpmovmskb,
        Vextracti128,
        Vperm2i128,
    ]
};

/// All families.
pub const FAMILIES: &[Family] = {
    use Mnemonic::*;
    &[
        Family {
            name: "arithmetic",
            bits: 64,
            host_has: always,
            mnemonics: &[
                Add, Adc, Sbb, Sub, And, Or, Xor, Cmp, Test, Inc, Dec, Neg, Not, Imul, Mul, Xadd, Cmpxchg,
                Xchg,
            ],
            idioms: &[
                |a| a.add(al, ah),
                |a| a.add(byte_ptr(rbx), dh),
                |a| a.mov(ch, al),
                |a| a.test(ch, 2),
                |a| a.movzx(ecx, ah),
                |a| a.mov(byte_ptr(rbx), ch),
                |a| a.cmp(r10w, 7),
                |a| a.lock().add(dword_ptr(rdi), 1),
                |a| a.lock().cmpxchg(qword_ptr(rdi), r11),
                |a| a.lock().cmpxchg8b(qword_ptr(rdi)),
                |a| a.lock().cmpxchg16b(xmmword_ptr(rbx + rcx)),
                |a| {
                    a.add(rax, rbx)?;
                    a.adc(rdx, rcx)?;
                    a.sbb(r10, r10)
                },
                |a| {
                    a.cqo()?;
                    a.idiv(rbx)
                },
            ],
        },
        Family {
            name: "moves",
            bits: 64,
            host_has: always,
            mnemonics: &[Movzx, Movsxd, Lea, Bswap, Cmove, Sete, Movbe, Movnti],
            idioms: &[
                |a| a.mov(rax, rbx),
                |a| a.mov(rcx, rsp),
                |a| a.mov(r10, r11),
                |a| a.mov(eax, 0),
                |a| a.mov(r15, 0x1234_5678_9abc_def0_u64),
                |a| a.mov(rax, qword_ptr(rdi + 8)),
                |a| a.mov(r14, qword_ptr(r15)),
                |a| a.mov(qword_ptr(rdi + 8), rax),
                |a| a.mov(dword_ptr(rdi), 7),
                |a| a.mov(byte_ptr(rdi + rcx), al),
                |a| a.mov(eax, dword_ptr(edi + 4)),
                |a| a.mov(rax, qword_ptr(0x28).fs()),
                |a| a.mov(rax, qword_ptr(rdi + 8).gs()),
                |a| a.lea(rax, ptr(rdi + rsi * 4 + 100)),
                |a| a.lea(r10, ptr(START + 100)),
                |a| a.lea(cx, ptr(rdi + 1)),
            ],
        },
        Family {
            name: "shifts",
            bits: 64,
            host_has: always,
            mnemonics: &[Shl, Sar, Rol, Rcr, Shld, Bt, Bsf, Lzcnt, Popcnt],
            idioms: &[|a| a.shl(r15d, cl), |a| a.shl(ecx, cl), |a| a.sar(qword_ptr(r10), cl)],
        },
        Family {
            name: "bmi",
            bits: 64,
            host_has: always,
            mnemonics: &[Andn, Bextr, Blsr, Bzhi, Pdep, Mulx, Rorx, Sarx, Adcx, Crc32],
            idioms: &[],
        },
        Family {
            name: "x87-and-mmx",
            bits: 64,
            host_has: always,
            mnemonics: &[Fadd, Fld, Fistp, Fcomi, Fnstsw, Fldcw, Wait, Fsin, Paddb, Movd, Emms],
            idioms: &[
                // A polynomial, and a comparison.
                |a| {
                    a.fld(tbyte_ptr(rdi))?;
                    a.fld(st0)?;
                    a.fmul(qword_ptr(rdi + 16))?;
                    a.fadd(qword_ptr(rdi + 24))?;
                    a.fmulp(st1, st0)?;
                    a.fcomi(st0, st1)?;
                    a.jp(START + 0x40)
                },
                // A conversion to an integer.
                |a| {
                    a.fldcw(word_ptr(rsp + 12))?;
                    a.fistp(qword_ptr(rsp))?;
                    a.fldcw(word_ptr(rsp + 14))
                },
            ],
        },
        Family {
            name: "stack-and-branches",
            bits: 64,
            host_has: always,
            mnemonics: &[],
            idioms: &[
                |a| a.push(rax),
                |a| a.push(r10),
                |a| a.push(rsp),
                |a| a.push(5),
                |a| a.push(qword_ptr(rdi)),
                |a| a.pop(rbx),
                |a| a.pop(r11),
                |a| a.pop(rsp),
                |a| a.pop(qword_ptr(rdi)),
                |a| a.leave(),
                |a| a.ret(),
                |a| a.ret_1(16),
                |a| a.call(START + 0x40),
                |a| a.call(START + 0x4000),
                |a| a.call(rax),
                |a| a.call(qword_ptr(rbx + 8)),
                |a| a.jmp(START + 0x40),
                |a| a.jmp(START + 0x4000),
                |a| a.jmp(r11),
                |a| a.jmp(qword_ptr(START + 64)),
                |a| a.jne(START + 0x40),
                |a| a.jae(START + 0x4000),
                |a| a.loop_(START),
                |a| a.jrcxz(START + 8),
            ],
        },
        Family {
            name: "idioms",
            bits: 64,
            host_has: always,
            mnemonics: &[],
            idioms: &[
                // A function's beginning and end.
                |a| {
                    a.push(rbp)?;
                    a.mov(rbp, rsp)?;
                    a.push(rbx)?;
                    a.sub(rsp, 24)
                },
                |a| {
                    a.add(rsp, 24)?;
                    a.pop(rbx)?;
                    a.pop(rbp)?;
                    a.ret()
                },
                // Stack protector.
                |a| {
                    a.mov(rax, qword_ptr(0x28).fs())?;
                    a.mov(qword_ptr(rsp + 8), rax)?;
                    a.xor(eax, eax)
                },
                // A table, looked up by bytes.
                |a| {
                    a.movzx(eax, dl)?;
                    a.xor(ebx, dword_ptr(r8 + rax * 4))?;
                    a.and(ecx, 0x7f)?;
                    a.xor(ebx, dword_ptr(r8 + rcx * 4))
                },
                // Compare and branch.
                |a| {
                    a.cmp(rax, qword_ptr(rdi))?;
                    a.jb(START + 0x80)
                },
                |a| {
                    a.test(eax, eax)?;
                    a.jz(START + 0x80)
                },
                |a| {
                    a.dec(ecx)?;
                    a.jnz(START)
                },
                // A list.
                |a| {
                    a.mov(rax, qword_ptr(rax + 8))?;
                    a.test(rax, rax)?;
                    a.jnz(START)
                },
                // Fields of one structure.
                |a| {
                    a.mov(eax, dword_ptr(rdi))?;
                    a.add(eax, dword_ptr(rdi + 4))?;
                    a.add(eax, dword_ptr(rdi + 8))?;
                    a.mov(dword_ptr(rdi + 12), eax)
                },
                // Strings and system instructions are calls.
                |a| a.rep().movsb(),
                |a| a.stosq(),
                |a| a.cpuid(),
                |a| a.syscall(),
                // System instructions in place, at level 0.
                |a| a.pushfq(),
                |a| a.popfq(),
                |a| a.cli(),
                |a| {
                    a.sti()?;
                    a.add(eax, ecx)
                },
                |a| a.stac(),
                |a| a.clac(),
                |a| a.swapgs(),
                |a| a.rdtsc(),
                |a| a.rdtscp(),
                |a| a.mov(eax, fs),
                |a| a.bts(qword_ptr(rdi), rax),
                |a| a.bt(dword_ptr(rdi), eax),
                |a| a.div(rcx),
                |a| a.idiv(dword_ptr(rdi)),
                |a| a.ud2(),
                |a| a.hlt(),
                // Of no effect.
                |a| a.nop(),
                |a| a.endbr64(),
                |a| a.mfence(),
                |a| a.pause(),
                // One group: copies, and an index that is a constant.
                |a| {
                    a.mov(r10, rdi)?;
                    a.lea(rsi, ptr(rdi + 16))?;
                    a.xor(r8d, r8d)?;
                    a.mov(rax, qword_ptr(rdi + r8))?;
                    a.add(r8, 8)?;
                    a.add(rax, qword_ptr(rdi + r8))?;
                    a.add(rax, qword_ptr(r10 + 24))?;
                    a.mov(qword_ptr(rsi), rax)
                },
                // Two groups off registers in the frame, in turns.
                |a| {
                    a.mov(rax, qword_ptr(r14 + r10 * 8))?;
                    a.mov(rdx, qword_ptr(r15))?;
                    a.mov(qword_ptr(r14 + r10 * 8 + 8), rdx)?;
                    a.mov(qword_ptr(r15 + 8), rax)
                },
                // A loop over two arrays with one index.
                |a| {
                    let mut again = a.create_label();
                    a.set_label(&mut again)?;
                    a.mov(eax, dword_ptr(r10 + rdx * 4))?;
                    a.add(dword_ptr(rsi + rdx * 4), eax)?;
                    a.inc(rdx)?;
                    a.cmp(rdx, r8)?;
                    a.jne(again)
                },
                // Vector state is loaded once a block.
                |a| {
                    a.movups(xmm0, xmmword_ptr(rdi))?;
                    a.paddd(xmm0, xmm1)?;
                    a.movups(xmmword_ptr(rdi), xmm0)
                },
            ],
        },
        Family {
            name: "flat32",
            bits: 32,
            host_has: always,
            mnemonics: &[],
            idioms: &[
                |a| a.add(eax, dword_ptr(ebx + 8)),
                |a| a.mov(ecx, dword_ptr(esp + 4)),
                |a| a.mov(byte_ptr(edi + ecx), al),
                |a| a.mov(edx, dword_ptr(ebx + ecx * 4 - 0x8000_0000_u32 as i32)),
                |a| a.mov(eax, dword_ptr(0x1_2340)),
                |a| a.mov(byte_ptr(0xffff_8000_u32), al),
                |a| a.add(dword_ptr(0x1_2340), 5),
                |a| a.mov(eax, dword_ptr(ebx).fs()),
                |a| a.mov(ecx, dword_ptr(0x14).gs()),
                |a| a.mov(eax, dword_ptr(ebx).cs()),
                |a| a.mov(eax, dword_ptr(bx + si)),
                |a| a.mov(dl, ch),
                |a| a.mov(dl, ah),
                |a| a.inc(ecx),
                |a| a.dec(ax),
                |a| a.lea(eax, ptr(ebx + esi * 4 + 100)),
                |a| a.lea(edx, ptr(0xffff_8000_u32)),
                |a| a.lea(cx, ptr(edi + 1)),
                |a| a.push(eax),
                |a| a.push(esp),
                |a| a.push(5),
                |a| a.push(dword_ptr(edi)),
                |a| a.pop(ebx),
                |a| a.pop(esp),
                |a| a.pop(dword_ptr(edi)),
                |a| a.push(ax),
                |a| a.pushad(),
                |a| a.db(&[0xc8, 20, 0, 0]),
                |a| a.leave(),
                |a| a.ret(),
                |a| a.ret_1(16),
                |a| a.call(START + 0x40),
                |a| a.call(START + 0x4000),
                |a| a.call(eax),
                |a| a.call(dword_ptr(ebx + 8)),
                |a| a.jmp(START + 0x4000),
                |a| a.jmp(ecx),
                |a| a.jmp(dword_ptr(START + 64)),
                |a| a.jne(START + 0x40),
                |a| a.jae(START + 0x4000),
                |a| a.pushfd(),
                |a| a.popfd(),
                |a| a.cli(),
                |a| a.mov(eax, ds),
                |a| a.mov(ds, eax),
                |a| a.bts(dword_ptr(edi), eax),
                |a| a.div(dword_ptr(edi)),
                |a| a.paddd(xmm0, xmmword_ptr(esi + 16)),
                |a| a.iretd(),
                // A function's beginning and end.
                |a| {
                    a.push(ebp)?;
                    a.mov(ebp, esp)?;
                    a.push(ebx)?;
                    a.sub(esp, 20)?;
                    a.mov(eax, dword_ptr(ebp + 8))
                },
                |a| {
                    a.add(esp, 20)?;
                    a.pop(ebx)?;
                    a.pop(ebp)?;
                    a.ret()
                },
                // Fields of one structure.
                |a| {
                    a.mov(eax, dword_ptr(edi))?;
                    a.add(eax, dword_ptr(edi + 4))?;
                    a.mov(dword_ptr(edi + 12), eax)
                },
            ],
        },
        Family {
            name: "real",
            bits: 16,
            host_has: || true,
            mnemonics: &[],
            idioms: &[
                |a| a.mov(ax, word_ptr(bx + si)),
                |a| a.mov(byte_ptr(di + 7).es(), al),
                |a| a.push(ax),
                |a| a.pop(cx),
                |a| a.mov(es, ax),
                |a| a.mov(ds, word_ptr(0x10)),
                |a| a.les(bx, dword_ptr(si + 4)),
                |a| a.push(ds),
                |a| a.pop(es),
                |a| a.pusha(),
                |a| a.popa(),
                |a| a.db(&[0xc8, 6, 0, 0]),
                |a| a.db(&[0x9a, 0x34, 0x12, 0x00, 0x20]),
                |a| a.db(&[0xff, 0x2f]),
                |a| a.retf(),
                |a| a.loop_(START),
            ],
        },
        Family {
            name: "sse",
            bits: 64,
            host_has: || std::is_x86_feature_detected!("sse4.2"),
            mnemonics: &[
                Movups, Movaps, Movd, Movq, Movss, Movsd, Addps, Mulsd, Divss, Sqrtpd, Cvtsi2sd, Cvttsd2si,
                Ucomisd, Pshufb, Paddd, Pmulld, Pxor, Pshufd, Pinsrw, Ptest, Movmskps,
            ],
            idioms: &[
                |a| a.movntdq(xmmword_ptr(rdi), xmm3),
                |a| a.cvtsi2sd(xmm0, r10),
                |a| a.stmxcsr(dword_ptr(rdi)),
                |a| a.ldmxcsr(dword_ptr(rdi)),
            ],
        },
        Family {
            name: "avx",
            bits: 64,
            host_has: || std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"),
            mnemonics: AVX,
            idioms: &[|a| a.vmovd(r10d, xmm3), |a| a.vpabsb(ymm1, ymmword_ptr(rsp))],
        },
        Family {
            name: "evex",
            bits: 64,
            host_has: || {
                std::is_x86_feature_detected!("avx512bw") && std::is_x86_feature_detected!("avx512vl")
            },
            mnemonics: AVX,
            idioms: &[],
        },
        Family {
            name: "avx512",
            bits: 64,
            host_has: || {
                std::is_x86_feature_detected!("avx512f")
                    && std::is_x86_feature_detected!("avx512bw")
                    && std::is_x86_feature_detected!("avx512dq")
                    && std::is_x86_feature_detected!("avx512vl")
            },
            mnemonics: &[
                Vmovdqu64,
                Vmovdqu8,
                Vpternlogd,
                Vpaddq,
                Kmovq,
                Kandw,
                Kortestd,
                Vpcmpub,
                Vpermi2d,
                Vcompressps,
                Vpmovm2b,
                Vrndscaleps,
                Vpsraq,
            ],
            idioms: &[
                |a| a.vaddps(zmm1.k1().z(), zmm2, zmm3),
                |a| a.vaddpd(zmm1, zmm2, zmm3.rd_sae()),
                |a| a.vmovdqu32(zmmword_ptr(rdi).k2(), zmm31),
            ],
        },
    ]
};
