//! Gathers whose mask says that all elements are wanted: element by element, by general registers.
//!
//! Nothing is changed before all elements have been read, so where one cannot be read, or the mask says otherwise, the
//! instruction's function does it all.

use crate::classify::Live;
use crate::emit::{Emitter, Unsupported};
use crate::frame::{at, sized};
use crate::group::Member;
use crate::host;
use crate::islands::CHECK;
use crate::memory::{Access, address_is_64};
use crate::site::Kind;
use crate::values::Form;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Code, EncodingKind, Instruction, MemoryOperand, Mnemonic, Register};

/// Where the indices are, and the elements.
const INDICES: i32 = at::SPLIT_COPY;
const ELEMENTS: i32 = at::SPLIT_COPY + 64;

/// The address of what an index of zero reads, if all indices, of 32 bits, reach less than 16 GiB from there, and what the host has done
/// when an element cannot be read is what the instruction's function would have: elements beyond it have not been read, and the
/// destination, whose rest models clear at different times, has none.
pub fn base_of(i: &Instruction) -> Option<Form> {
    let whole =
        i.code().encoding() == EncodingKind::VEX && i.op0_register().is_ymm() && host::vector_bytes() == 32;
    let near = whole && host::reads_in_order() && sizes(i.mnemonic()).is_some_and(|(index, _)| index == 4);
    let segment = matches!(i.memory_segment(), Register::FS | Register::GS);
    let based = i.memory_base().is_gpr64() && !segment && near;
    based.then(|| Form {
        base: Some(i.memory_base().number() as u8),
        index: None,
        displacement: (i.memory_displacement64() as i32).into(),
    })
}

/// Bytes of an index and of an element.
pub fn sizes(mnemonic: Mnemonic) -> Option<(usize, usize)> {
    use Mnemonic::*;
    Some(match mnemonic {
        Vpgatherdd | Vgatherdps => (4, 4),
        Vpgatherdq | Vgatherdpd => (4, 8),
        Vpgatherqd | Vgatherqps => (8, 4),
        Vpgatherqq | Vgatherqpd => (8, 8),
        _ => return None,
    })
}

impl Emitter<'_> {
    pub(crate) fn gather(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let (index_size, size) = sizes(i.mnemonic()).ok_or(Unsupported)?;
        let evex = i.code().encoding() == EncodingKind::EVEX;
        let (to, index) = (i.op0_register(), i.memory_index());
        let segment = matches!(i.memory_segment(), Register::FS | Register::GS);
        let mask = if evex { i.op_mask() } else { i.op2_register() };
        let others = [index.full_register(), mask.full_register()];
        let distinct = !others.contains(&to.full_register()) && others[0] != others[1];
        if self.narrow() || segment || !address_is_64(i) || !distinct || mask == Register::None {
            return Err(Unsupported);
        }
        // The wider of the two is as wide as the instruction.
        let lanes = if index_size > size { index.size() / index_size } else { to.size() / size };
        self.need(Live::Full);
        if let Some(member) = self.groups.member(self.accesses().operand) {
            return self.gather_in_window(i, member);
        }
        self.let_go();
        self.move_vector(index.number(), lanes * index_size, INDICES, true)?;
        let all = (1_i32 << lanes) - 1;
        let n = mask.number() as u32;
        let (code, mask_bits) = match (evex, size) {
            (true, _) => (Code::VEX_Kmovw_r32_kr, mask),
            (_, 4) if lanes > 4 => (Code::VEX_Vmovmskps_r32_ymm, Register::YMM0 + n),
            (_, 4) => (Code::VEX_Vmovmskps_r32_xmm, Register::XMM0 + n),
            (_, _) if lanes > 2 => (Code::VEX_Vmovmskpd_r32_ymm, Register::YMM0 + n),
            _ => (Code::VEX_Vmovmskpd_r32_xmm, Register::XMM0 + n),
        };
        let bits = Instruction::with2(code, Register::ECX, mask_bits).map_err(|_| Unsupported)?;
        self.encode(&bits)?;
        dynasm!(self.s
            ; .arch x64
            ; mov r14d, all
            ; pext ecx, ecx, r14d
            ; lea rcx, [rcx + self.unit() - all]
        );
        let mut slow = vec![self.unless_unit()];
        let base = (i.memory_base() != Register::None).then(|| i.memory_base().number());
        let scale = i.memory_index_scale().trailing_zeros() as u8;
        for n in 0..lanes {
            let index = INDICES + (n * index_size) as i32;
            self.keep_in_reach(CHECK);
            if index_size == 4 {
                dynasm!(self.s ; .arch x64 ; movsxd rcx, DWORD [rsp + index]);
            } else {
                dynasm!(self.s ; .arch x64 ; mov rcx, [rsp + index]);
            }
            let base = base.map(|base| self.value(base, 14));
            self.lea(14, true, base, 1, scale, i.memory_displacement64() as i32);
            let access = Access { size: size as u32, write: false, alignment: None, fixed: None };
            slow.push(self.check(access));
            let element = ELEMENTS + (n * size) as i32;
            if size == 4 {
                dynasm!(self.s ; .arch x64 ; mov r14d, [rcx + r14] ; mov [rsp + element], r14d);
            } else {
                dynasm!(self.s ; .arch x64 ; mov r14, [rcx + r14] ; mov [rsp + element], r14);
            }
        }
        self.move_vector(to.number(), lanes * size, ELEMENTS, false)?;
        if evex {
            let clear = Instruction::with3(Code::VEX_Kxorw_kr_kr_kr, mask, mask, mask);
            self.encode(&clear.map_err(|_| Unsupported)?)?;
        } else {
            dynasm!(self.s ; .arch x64 ; vpxor Rx(n as u8), Rx(n as u8), Rx(n as u8));
        }
        self.let_go();
        self.slow(&slow, Kind::Exec);
        Ok(())
    }

    /// The same instruction, with what is at its base in the window, and all that its indices reach near enough.
    fn gather_in_window(&mut self, i: &Instruction, member: Member) -> Result<(), Unsupported> {
        let place = self.window_place(member)?;
        let mut i = *i;
        i.set_memory_base(sized(Register::RAX, place.base.ok_or(Unsupported)?));
        i.set_segment_prefix(Register::GS);
        self.encode(&i)?;
        // What has been read when an element cannot be read is there, and no longer in the mask: its function reads the rest.
        self.trap_to(Kind::ExecWindow);
        Ok(())
    }

    /// Stores so many bytes of a vector register in the frame, or loads them; the register has zeros beyond them then.
    fn move_vector(&mut self, n: usize, bytes: usize, at: i32, store: bool) -> Result<(), Unsupported> {
        let memory = MemoryOperand::with_base_displ(Register::RSP, at.into());
        let high = n >= 16;
        let (load, stored, first) = match bytes {
            64 => {
                (Code::EVEX_Vmovdqu64_zmm_k1z_zmmm512, Code::EVEX_Vmovdqu64_zmmm512_k1z_zmm, Register::ZMM0)
            }
            32 if high => {
                (Code::EVEX_Vmovdqu64_ymm_k1z_ymmm256, Code::EVEX_Vmovdqu64_ymmm256_k1z_ymm, Register::YMM0)
            }
            32 => (Code::VEX_Vmovdqu_ymm_ymmm256, Code::VEX_Vmovdqu_ymmm256_ymm, Register::YMM0),
            16 if high => {
                (Code::EVEX_Vmovdqu64_xmm_k1z_xmmm128, Code::EVEX_Vmovdqu64_xmmm128_k1z_xmm, Register::XMM0)
            }
            16 => (Code::VEX_Vmovdqu_xmm_xmmm128, Code::VEX_Vmovdqu_xmmm128_xmm, Register::XMM0),
            8 if high => (Code::EVEX_Vmovq_xmm_xmmm64, Code::EVEX_Vmovq_xmmm64_xmm, Register::XMM0),
            8 => (Code::VEX_Vmovq_xmm_xmmm64, Code::VEX_Vmovq_xmmm64_xmm, Register::XMM0),
            _ => return Err(Unsupported),
        };
        let register = first + n as u32;
        let made = if store {
            Instruction::with2(stored, memory, register)
        } else {
            Instruction::with2(load, register, memory)
        };
        self.encode(&made.map_err(|_| Unsupported)?)
    }
}
