//! Which instruction forms are emitted, and how. All others call their function.

use crate::string::StringOp;
use crate::{gather, host};
use iced_x86::{Code, EncodingKind, FlowControl, Mnemonic, OpCodeOperandKind};
use ringworld_x86::insn::seg;
use ringworld_x86::mode::Mode;
use ringworld_x86::row::{Group, row};
use std::sync::LazyLock;

/// How a form is emitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Emit {
    /// As the same instruction on the guest registers' homes.
    Same,
    /// As the same instruction on vector registers; which of them have to be live.
    Vector(Live),
    /// A gather.
    Gather,
    /// As the same instruction on the host's x87 unit.
    X87(X87),
    /// Not at all: it has no effect here.
    Nothing,
    /// A system instruction.
    System(System),
    /// A string instruction.
    String(StringOp),
    /// BT, BTS, BTR and BTC with the bit's number in a register.
    BitString,
    /// CLFLUSH and its like, which only look whether the line may be read.
    Flush,
    /// DIV and IDIV.
    Divide,
    /// XLAT.
    Table,
    /// PUSHA or PUSHAD.
    PushAll,
    /// POPA or POPAD.
    PopAll,
    /// Segment registers and far transfers.
    Segments(Segments),
    #[allow(missing_docs)]
    Lea,
    #[allow(missing_docs)]
    Push,
    #[allow(missing_docs)]
    Pop,
    #[allow(missing_docs)]
    Enter,
    #[allow(missing_docs)]
    Leave,
    #[allow(missing_docs)]
    Jump,
    #[allow(missing_docs)]
    Branch,
    /// LOOP, LOOPE, LOOPNE and JRCXZ.
    CountedBranch,
    #[allow(missing_docs)]
    Call,
    #[allow(missing_docs)]
    JumpIndirect,
    #[allow(missing_docs)]
    CallIndirect,
    #[allow(missing_docs)]
    Return,
}

/// System instructions that are emitted in place in the usual case.
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    Pause,
    Cli,
    Sti,
    Clac,
    Stac,
    Pushf,
    Popf,
    Swapgs,
    Rdtsc,
    Rdtscp,
    Cld,
    Std,
    Rdpkru,
    /// RDFSBASE, RDGSBASE.
    ReadBase,
    /// WRFSBASE, WRGSBASE.
    WriteBase,
    /// MOV from a segment register.
    Selector,
    /// MOV from a control register.
    FromControl,
    /// LDMXCSR.
    LoadMxcsr,
}

/// What 16-bit code does with segment registers, in real-address and virtual-8086 mode but for pushes; which one (as in [`seg`]).
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segments {
    Load,
    /// LDS and its kin.
    LoadFar(u8),
    Push(u8),
    Pop(u8),
    Jump,
    Call,
    Return,
}

impl Segments {
    fn of(code: Code) -> Option<Self> {
        Some(match code {
            Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 => Self::Load,
            Code::Les_r16_m1616 => Self::LoadFar(seg::ES),
            Code::Lds_r16_m1616 => Self::LoadFar(seg::DS),
            Code::Lfs_r16_m1616 => Self::LoadFar(seg::FS),
            Code::Lgs_r16_m1616 => Self::LoadFar(seg::GS),
            Code::Popw_ES => Self::Pop(seg::ES),
            Code::Popw_DS => Self::Pop(seg::DS),
            Code::Popw_FS => Self::Pop(seg::FS),
            Code::Popw_GS => Self::Pop(seg::GS),
            Code::Jmp_ptr1616 | Code::Jmp_m1616 => Self::Jump,
            Code::Call_ptr1616 | Code::Call_m1616 => Self::Call,
            Code::Retfw | Code::Retfw_imm16 => Self::Return,
            _ => return None,
        })
    }
}

/// x87 and MMX instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum X87 {
    /// The unit's pointers lead to it from then on.
    Points,
    /// They do not.
    Control,
    /// FLDCW.
    LoadControl,
    /// WAIT.
    Wait,
    /// MMX.
    Mmx,
    /// Between MMX and XMM registers.
    MmxAndSse,
}

/// Vector state that has to be in the host's registers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Live {
    /// XMM0–XMM15.
    Sse = 1,
    /// All.
    Full = 2,
}

static TABLE: LazyLock<Vec<Option<Emit>>> = LazyLock::new(|| Code::values().map(classify).collect());

impl Emit {
    /// Whether a block goes on after it although the interpreter's ends.
    pub fn goes_on(self) -> bool {
        use System::{Clac, Popf, Stac, Sti};
        matches!(self, Self::Nothing | Self::System(Sti | Popf | Clac | Stac))
    }
}

/// How a form is emitted in 64- and 32-bit code; `None` if by a call of its function.
pub fn emit_of(code: Code) -> Option<Emit> {
    TABLE[code as usize]
}

/// How a form is emitted in a mode.
pub fn emit_in(code: Code, mode: Mode) -> Option<Emit> {
    if mode.bitness() != 16 {
        return emit_of(code);
    }
    if mode.real_or_v8086()
        && let Some(what) = Segments::of(code)
    {
        return Some(Emit::Segments(what));
    }
    // Those that count in ECX are not what 16-bit code has.
    emit_of_16(code).or_else(|| emit_of(code).filter(|&emit| emit != Emit::CountedBranch))
}

/// How control flow and the stack in words are emitted.
fn emit_of_16(code: Code) -> Option<Emit> {
    Some(match code {
        Code::Jmp_rel8_16 | Code::Jmp_rel16 => Emit::Jump,
        Code::Call_rel16 => Emit::Call,
        Code::Jmp_rm16 => Emit::JumpIndirect,
        Code::Call_rm16 => Emit::CallIndirect,
        Code::Retnw | Code::Retnw_imm16 => Emit::Return,
        Code::Push_r16 | Code::Push_rm16 | Code::Pushw_imm8 | Code::Push_imm16 => Emit::Push,
        Code::Pop_r16 | Code::Pop_rm16 => Emit::Pop,
        Code::Leavew => Emit::Leave,
        Code::Pushw_ES => Emit::Segments(Segments::Push(seg::ES)),
        Code::Pushw_CS => Emit::Segments(Segments::Push(seg::CS)),
        Code::Pushw_SS => Emit::Segments(Segments::Push(seg::SS)),
        Code::Pushw_DS => Emit::Segments(Segments::Push(seg::DS)),
        Code::Pushw_FS => Emit::Segments(Segments::Push(seg::FS)),
        Code::Pushw_GS => Emit::Segments(Segments::Push(seg::GS)),
        Code::Pushfw => Emit::System(System::Pushf),
        Code::Popfw => Emit::System(System::Popf),
        Code::Loop_rel8_16_CX | Code::Loope_rel8_16_CX | Code::Loopne_rel8_16_CX | Code::Jcxz_rel8_16 => {
            Emit::CountedBranch
        }
        _ if code.is_jcc_short_or_near() && code.op_code().operand_size() == 16 => Emit::Branch,
        _ => return None,
    })
}

/// General-register instructions that mean the same on other registers, and touch nothing but operands and flags.
const SAME: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Mov, Movzx, Movsx, Movsxd, Movbe, Bswap, Xchg, Xadd, Cmpxchg, Cmpxchg8b, Cmpxchg16b, Add, Or, Adc,
        Sbb, And, Sub, Xor, Cmp, Test, Inc, Dec, Neg, Not, Imul, Mul, Shl, Sal, Shr, Sar, Rol, Ror, Rcl, Rcr,
        Shld, Shrd, Bt, Bts, Btr, Btc, Bsf, Bsr, Popcnt, Lzcnt, Tzcnt, Cbw, Cwde, Cdqe, Cwd, Cdq, Cqo, Lahf,
        Sahf, Clc, Stc, Cmc, Seto, Setno, Setb, Setae, Sete, Setne, Setbe, Seta, Sets, Setns, Setp, Setnp,
        Setl, Setge, Setle, Setg, Cmovo, Cmovno, Cmovb, Cmovae, Cmove, Cmovne, Cmovbe, Cmova, Cmovs, Cmovns,
        Cmovp, Cmovnp, Cmovl, Cmovge, Cmovle, Cmovg, Andn, Bextr, Blsi, Blsmsk, Blsr, Bzhi, Pdep, Pext, Mulx,
        Rorx, Sarx, Shlx, Shrx, Adcx, Adox, Crc32, Movnti,
    ]
};

/// Forms of these that differ between processors: counts above 16, and the size of the operand in memory.
const SAME_EXCEPT: &[Code] = &[Code::Shld_rm16_r16_CL, Code::Shrd_rm16_r16_CL, Code::Movsxd_r16_rm16];

/// Without effect: one host thread runs all CPUs, and caches are not modelled.
const NOTHING: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Nop,
        Endbr64,
        Endbr32,
        Lfence,
        Sfence,
        Mfence,
        Prefetch,
        Prefetchw,
        Prefetchwt1,
        Prefetchnta,
        Prefetcht0,
        Prefetcht1,
        Prefetcht2,
        Prefetchit0,
        Prefetchit1,
        Cldemote,
        Reservednop,
    ]
};

/// Vector instructions whose results differ between processors, that use memory implicitly, or that are more than one
/// access.
const VECTOR_EXCEPT: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Vrcp14ss,
        Vrcp14ps,
        Vrcp14sd,
        Vrcp14pd,
        Vrsqrt14ss,
        Vrsqrt14ps,
        Vrsqrt14sd,
        Vrsqrt14pd,
        Maskmovdqu,
        Vmaskmovdqu,
    ]
};

/// Vector instructions one of whose registers is MMX's.
const MMX_AND_SSE: &[Mnemonic] = {
    use Mnemonic::*;
    &[Movq2dq, Movdq2q, Cvtpi2ps, Cvtpi2pd, Cvtps2pi, Cvttps2pi, Cvtpd2pi, Cvttpd2pi]
};

/// x87 instructions whose results are the same on all processors.
const X87_POINTS: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Fadd, Faddp, Fiadd, Fsub, Fsubp, Fisub, Fsubr, Fsubrp, Fisubr, Fmul, Fmulp, Fimul, Fdiv, Fdivp,
        Fidiv, Fdivr, Fdivrp, Fidivr, Fld, Fild, Fst, Fstp, Fist, Fistp, Fisttp, Fxch, Fcmovb, Fcmove,
        Fcmovbe, Fcmovu, Fcmovnb, Fcmovne, Fcmovnbe, Fcmovnu, Fld1, Fldl2t, Fldl2e, Fldpi, Fldlg2, Fldln2,
        Fldz, Fchs, Fabs, Fsqrt, Frndint, Fcom, Fcomp, Fcompp, Fucom, Fucomp, Fucompp, Fcomi, Fcomip, Fucomi,
        Fucomip, Ficom, Ficomp, Ftst, Fxam, Fscale, Fprem, Fprem1, Fxtract, Fincstp, Fdecstp, Ffree,
    ]
};

/// What only 32-bit code has.
const ONLY_32: &[Code] = &[
    Code::Jmp_rel8_32,
    Code::Jmp_rel32_32,
    Code::Call_rel32_32,
    Code::Jmp_rm32,
    Code::Call_rm32,
    Code::Retnd,
    Code::Retnd_imm16,
    Code::Push_r32,
    Code::Push_rm32,
    Code::Pushd_imm8,
    Code::Pushd_imm32,
    Code::Pop_r32,
    Code::Pop_rm32,
    Code::Leaved,
    Code::Inc_r16,
    Code::Inc_r32,
    Code::Dec_r16,
    Code::Dec_r32,
    Code::Jo_rel8_32,
    Code::Jno_rel8_32,
    Code::Jb_rel8_32,
    Code::Jae_rel8_32,
    Code::Je_rel8_32,
    Code::Jne_rel8_32,
    Code::Jbe_rel8_32,
    Code::Ja_rel8_32,
    Code::Js_rel8_32,
    Code::Jns_rel8_32,
    Code::Jp_rel8_32,
    Code::Jnp_rel8_32,
    Code::Jl_rel8_32,
    Code::Jge_rel8_32,
    Code::Jle_rel8_32,
    Code::Jg_rel8_32,
    Code::Jo_rel32_32,
    Code::Jno_rel32_32,
    Code::Jb_rel32_32,
    Code::Jae_rel32_32,
    Code::Je_rel32_32,
    Code::Jne_rel32_32,
    Code::Jbe_rel32_32,
    Code::Ja_rel32_32,
    Code::Js_rel32_32,
    Code::Jns_rel32_32,
    Code::Jp_rel32_32,
    Code::Jnp_rel32_32,
    Code::Jl_rel32_32,
    Code::Jge_rel32_32,
    Code::Jle_rel32_32,
    Code::Jg_rel32_32,
];

/// The form that does the same and that a 64-bit host can encode with any register.
pub fn host_form(code: Code) -> Code {
    match code {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_RAX_moffs64 => Code::Mov_r64_rm64,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        Code::Mov_moffs64_RAX => Code::Mov_rm64_r64,
        code => code,
    }
}

fn classify(code: Code) -> Option<Emit> {
    let row = row(code)?;
    let info = code.op_code();
    match code {
        Code::Loop_rel8_64_RCX
        | Code::Loope_rel8_64_RCX
        | Code::Loopne_rel8_64_RCX
        | Code::Jrcxz_rel8_64
        | Code::Jecxz_rel8_64
        | Code::Loop_rel8_32_ECX
        | Code::Loope_rel8_32_ECX
        | Code::Loopne_rel8_32_ECX
        | Code::Jecxz_rel8_32 => return Some(Emit::CountedBranch),
        Code::Pause => return Some(Emit::System(System::Pause)),
        Code::Cli => return Some(Emit::System(System::Cli)),
        Code::Sti => return Some(Emit::System(System::Sti)),
        Code::Clac => return Some(Emit::System(System::Clac)),
        Code::Stac => return Some(Emit::System(System::Stac)),
        Code::Pushfq | Code::Pushfd => return Some(Emit::System(System::Pushf)),
        Code::Popfq | Code::Popfd => return Some(Emit::System(System::Popf)),
        Code::Rdpkru => return Some(Emit::System(System::Rdpkru)),
        Code::Cld => return Some(Emit::System(System::Cld)),
        Code::Std => return Some(Emit::System(System::Std)),
        Code::Xlat_m8 => return Some(Emit::Table),
        Code::Pushaw | Code::Pushad => return Some(Emit::PushAll),
        Code::Popaw | Code::Popad => return Some(Emit::PopAll),
        Code::Enterw_imm16_imm8 | Code::Enterd_imm16_imm8 | Code::Enterq_imm16_imm8 => {
            return Some(Emit::Enter);
        }
        Code::Rdfsbase_r64 | Code::Rdgsbase_r64 => return Some(Emit::System(System::ReadBase)),
        Code::Wrfsbase_r64 | Code::Wrgsbase_r64 => return Some(Emit::System(System::WriteBase)),
        Code::Mov_r64_cr => return Some(Emit::System(System::FromControl)),
        Code::Swapgs => return Some(Emit::System(System::Swapgs)),
        Code::Rdtsc => return Some(Emit::System(System::Rdtsc)),
        Code::Rdtscp => return Some(Emit::System(System::Rdtscp)),
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => {
            return Some(Emit::System(System::Selector));
        }
        Code::Clflush_m8 | Code::Clflushopt_m8 | Code::Clwb_m8 => return Some(Emit::Flush),
        Code::Div_rm8 | Code::Div_rm16 | Code::Div_rm32 | Code::Div_rm64 => return Some(Emit::Divide),
        Code::Idiv_rm8 | Code::Idiv_rm16 | Code::Idiv_rm32 | Code::Idiv_rm64 => return Some(Emit::Divide),
        Code::Serialize => return Some(Emit::Nothing),
        _ if info.mode64() && !row.cpl0 && NOTHING.contains(&code.mnemonic()) => return Some(Emit::Nothing),
        _ => {}
    }
    if !(info.mode64() || ONLY_32.contains(&code))
        || !code.cpuid_features().iter().all(|&feature| host::has(feature))
    {
        return None;
    }
    let mnemonic = code.mnemonic();
    let kinds = info.op_kinds();
    let has = |wanted: &[OpCodeOperandKind]| kinds.iter().any(|kind| wanted.contains(kind));
    if gather::sizes(mnemonic).is_some() {
        return Some(Emit::Gather);
    }
    if has(&[
        OpCodeOperandKind::mem_vsib32x,
        OpCodeOperandKind::mem_vsib32y,
        OpCodeOperandKind::mem_vsib32z,
        OpCodeOperandKind::mem_vsib64x,
        OpCodeOperandKind::mem_vsib64y,
        OpCodeOperandKind::mem_vsib64z,
        OpCodeOperandKind::seg_reg,
        OpCodeOperandKind::cr_reg,
        OpCodeOperandKind::dr_reg,
        OpCodeOperandKind::tr_reg,
    ]) {
        return None;
    }
    match code {
        Code::Fnstcw_m2byte | Code::Fnstsw_m2byte | Code::Fnstsw_AX | Code::Fnclex => {
            return Some(Emit::X87(X87::Control));
        }
        Code::Fldcw_m2byte => return Some(Emit::X87(X87::LoadControl)),
        Code::Wait => return Some(Emit::X87(X87::Wait)),
        _ if row.group == Group::X87 => {
            return X87_POINTS.contains(&mnemonic).then_some(Emit::X87(X87::Points));
        }
        _ if row.group == Group::Mmx => {
            // It stores off RDI.
            return (mnemonic != Mnemonic::Maskmovq).then_some(Emit::X87(X87::Mmx));
        }
        _ => {}
    }
    match code {
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 | Code::Jmp_rel8_32 | Code::Jmp_rel32_32 => {
            return Some(Emit::Jump);
        }
        Code::Call_rel32_64 | Code::Call_rel32_32 => return Some(Emit::Call),
        Code::Jmp_rm64 | Code::Jmp_rm32 => return Some(Emit::JumpIndirect),
        Code::Call_rm64 | Code::Call_rm32 => return Some(Emit::CallIndirect),
        Code::Retnq | Code::Retnq_imm16 | Code::Retnd | Code::Retnd_imm16 => return Some(Emit::Return),
        Code::Push_r64 | Code::Push_rm64 | Code::Pushq_imm8 | Code::Pushq_imm32 => return Some(Emit::Push),
        Code::Push_r32 | Code::Push_rm32 | Code::Pushd_imm8 | Code::Pushd_imm32 => return Some(Emit::Push),
        Code::Pop_r64 | Code::Pop_rm64 | Code::Pop_r32 | Code::Pop_rm32 => return Some(Emit::Pop),
        Code::Leaveq | Code::Leaved => return Some(Emit::Leave),
        Code::Lea_r16_m | Code::Lea_r32_m | Code::Lea_r64_m => return Some(Emit::Lea),
        _ => {}
    }
    if let Some(op) = StringOp::of(code) {
        return Some(Emit::String(op));
    }
    if code.is_jcc_short_or_near() && info.operand_size() != 16 {
        return Some(Emit::Branch);
    }
    let plain =
        code.flow_control() == FlowControl::Next && !row.ends_block && !row.cpl0 && !info.is_privileged();
    if !plain {
        return None;
    }
    if matches!(mnemonic, Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr) {
        return Some(Emit::System(System::LoadMxcsr));
    }
    match row.group {
        Group::Base | Group::VexGpr => {
            // Memory bit strings reach beyond their operand.
            let bit_string = matches!(mnemonic, Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
                && !has(&[OpCodeOperandKind::imm8]);
            if bit_string {
                return Some(Emit::BitString);
            }
            (SAME.contains(&mnemonic) && !SAME_EXCEPT.contains(&code)).then_some(Emit::Same)
        }
        Group::Sse if MMX_AND_SSE.contains(&mnemonic) => Some(Emit::X87(X87::MmxAndSse)),
        Group::Sse | Group::Avx | Group::Avx512 if !VECTOR_EXCEPT.contains(&mnemonic) => {
            let legacy = code.encoding() == EncodingKind::Legacy;
            Some(Emit::Vector(if legacy { Live::Sse } else { Live::Full }))
        }
        _ => None,
    }
}

/// Frequent vector instructions that raise no floating-point exception.
const QUIET: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Movaps, Movups, Movapd, Movupd, Movdqa, Movdqu, Movss, Movsd, Movq, Movd, Movhps, Movlps, Movhpd,
        Movlpd, Movddup, Movhlps, Movlhps, Movmskpd, Movmskps, Movntps, Movntpd, Movntdq, Pmovmskb, Andps,
        Andpd, Andnps, Andnpd, Orps, Orpd, Xorps, Xorpd, Pand, Pandn, Por, Pxor, Shufps, Shufpd, Unpcklps,
        Unpcklpd, Unpckhps, Unpckhpd, Pshufd, Pshufb, Punpcklqdq, Punpckldq, Punpcklbw, Pcmpeqb, Pcmpeqd,
        Paddb, Paddd, Paddq, Psubb, Psubd, Psubq, Pminub, Vmovaps, Vmovups, Vmovapd, Vmovupd, Vmovdqa,
        Vmovdqu, Vmovss, Vmovsd, Vmovq, Vmovd, Vmovhpd, Vmovlpd, Vmovddup, Vmovmskpd, Vmovmskps, Vpmovmskb,
        Vandps, Vandpd, Vandnps, Vandnpd, Vorps, Vorpd, Vxorps, Vxorpd, Vpand, Vpandn, Vpor, Vpxor, Vshufps,
        Vshufpd, Vunpcklps, Vunpcklpd, Vunpckhps, Vunpckhpd, Vpshufd, Vpshufb, Vpcmpeqb, Vpcmpeqd, Vpaddb,
        Vpaddd, Vpaddq, Vpsubb, Vpsubd, Vpsubq, Vpminub, Vperm2f128, Vpermilps, Vpermilpd, Vzeroupper,
        Vzeroall, Stmxcsr, Vstmxcsr,
    ]
};

/// Whether a vector instruction may raise a floating-point exception, as far as is known.
pub fn may_raise(mnemonic: Mnemonic) -> bool {
    !QUIET.contains(&mnemonic)
}

/// Whether it leaves an index in ECX.
pub fn writes_ecx(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(mnemonic, Pcmpistri | Pcmpestri | Pcmpestri64 | Vpcmpistri | Vpcmpestri | Vpcmpestri64)
}

/// The alignment that a memory operand must have, in bytes, if it is checked (SDM 1 10.4.6, 14.9).
pub fn alignment(instruction: &iced_x86::Instruction) -> Option<u32> {
    use Mnemonic::*;
    let size = instruction.memory_size().size() as u32;
    let checked = match instruction.mnemonic() {
        Vmovaps | Vmovapd | Vmovdqa | Vmovdqa32 | Vmovdqa64 | Vmovntps | Vmovntpd | Vmovntdq | Vmovntdqa => {
            true
        }
        Movups | Movupd | Movdqu | Lddqu | Pcmpistri | Pcmpestri | Pcmpestri64 | Pcmpistrm | Pcmpestrm
        | Pcmpestrm64 => false,
        _ => instruction.code().encoding() == EncodingKind::Legacy && size == 16,
    };
    (checked && size >= 16).then_some(size)
}
