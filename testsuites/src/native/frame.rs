//! The kernel's signal frame: `ucontext`, `sigcontext` and the XSAVE area (Linux `asm/sigcontext.h`; SDM 1 13.4).

use crate::case::{Case, State, X87State};
use core::arch::x86_64::__cpuid_count;

/// `struct ucontext` up to the signal mask.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Context {
    flags: u64,
    link: u64,
    stack: [u64; 3],
    /// R8–R15, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP.
    gpr: [u64; 16],
    /// RIP.
    pub rip: u64,
    rflags: u64,
    selectors: [u16; 4],
    /// Error code of the last exception.
    pub error: u64,
    /// Its vector.
    pub trap: u64,
    oldmask: u64,
    /// CR2 of the last page fault.
    pub cr2: u64,
    /// Address of the XSAVE area.
    pub fpstate: u64,
    reserved: [u64; 8],
    mask: u64,
}

/// Encoding order of the registers in [`Context::gpr`].
const ORDER: [usize; 16] = [8, 9, 10, 11, 12, 13, 14, 15, 7, 6, 5, 3, 2, 0, 1, 4];

/// UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS.
const CONTEXT_FLAGS: u64 = 7;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;

const LEGACY_SIZE: usize = 512;
const SW_BYTES: usize = 464;
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;
const XSTATE_BV: usize = 512;

/// Components in XCR0 numbering.
const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;
const OPMASK: u64 = 1 << 5;
const ZMM_HI256: u64 = 1 << 6;
const HI16_ZMM: u64 = 1 << 7;

/// Where the components are in the standard (not compacted) format, which the kernel uses for signal frames.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Components that the kernel saves.
    pub features: u64,
    /// Bytes of the XSAVE area.
    size: usize,
    avx: usize,
    opmask: usize,
    zmm_hi256: usize,
    hi16_zmm: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

impl Layout {
    /// Reads the layout from a frame that the kernel made (its software-reserved bytes) and from CPUID leaf 0DH.
    /// `None` if the kernel's frames hold no XSAVE area.
    pub fn of_legacy_area(area: &[u8]) -> Option<Self> {
        if u32_at(area, SW_BYTES) != MAGIC1 {
            return None;
        }
        let offset = |component| __cpuid_count(0xd, component).ebx as usize;
        Some(Self {
            features: u64_at(area, SW_BYTES + 8),
            size: u32_at(area, SW_BYTES + 16) as usize,
            avx: offset(2),
            opmask: offset(5),
            zmm_hi256: offset(6),
            hi16_zmm: offset(7),
        })
    }

    /// Bytes of the XSAVE area with its end marker.
    pub fn area_size(&self) -> usize {
        self.size + 4
    }

    fn has(&self, component: u64) -> bool {
        self.features & component == component
    }

    /// Whether the host has 32 registers of 512 bits.
    pub fn has_avx512(&self) -> bool {
        self.has(AVX | OPMASK | ZMM_HI256 | HI16_ZMM)
    }

    /// Makes zero of the state that the host has not.
    pub fn confine(&self, state: &mut State) {
        let components = [(AVX, 16, 2..4), (ZMM_HI256, 16, 4..8), (HI16_ZMM, 32, 0..8)];
        for (component, end, quads) in components.into_iter().filter(|(component, ..)| !self.has(*component))
        {
            let begin = if component == HI16_ZMM { 16 } else { 0 };
            for register in &mut state.zmm[begin..end] {
                register[quads.clone()].fill(0);
            }
        }
        if !self.has(OPMASK) {
            state.k = [0; 8];
        }
    }

    /// Fills an XSAVE area.
    pub fn write(&self, area: &mut [u8], state: &State) {
        area[..LEGACY_SIZE + 64].fill(0);
        let x87 = &state.x87;
        put(area, 0, &x87.control.to_le_bytes());
        put(area, 2, &x87.status.to_le_bytes());
        area[4] = x87.valid;
        put(area, 6, &x87.fop.to_le_bytes());
        put(area, 8, &x87.fip.to_le_bytes());
        put(area, 16, &x87.fdp.to_le_bytes());
        put(area, MXCSR, &state.mxcsr.to_le_bytes());
        for (n, (significand, exponent)) in x87.st.iter().enumerate() {
            put(area, ST + 16 * n, &significand.to_le_bytes());
            put(area, ST + 16 * n + 8, &exponent.to_le_bytes());
        }
        let mut quads = |at: usize, quads: &[u64]| {
            for (n, quad) in quads.iter().enumerate() {
                put(area, at + 8 * n, &quad.to_le_bytes());
            }
        };
        for n in 0..16 {
            quads(XMM + 16 * n, &state.zmm[n][..2]);
            if self.has(AVX) {
                quads(self.avx + 16 * n, &state.zmm[n][2..4]);
            }
            if self.has_avx512() {
                quads(self.zmm_hi256 + 32 * n, &state.zmm[n][4..]);
                quads(self.hi16_zmm + 64 * n, &state.zmm[16 + n]);
            }
        }
        if self.has_avx512() {
            quads(self.opmask, &state.k);
        }
        put(area, SW_BYTES, &MAGIC1.to_le_bytes());
        put(area, SW_BYTES + 4, &(self.area_size() as u32).to_le_bytes());
        put(area, SW_BYTES + 8, &self.features.to_le_bytes());
        put(area, SW_BYTES + 16, &(self.size as u32).to_le_bytes());
        let ours = X87 | SSE | AVX | OPMASK | ZMM_HI256 | HI16_ZMM;
        put(area, XSTATE_BV, &(self.features & ours).to_le_bytes());
        put(area, self.size, &MAGIC2.to_le_bytes());
    }

    /// Reads an XSAVE area. Components in their initial configuration may be absent from it (SDM 1 13.6).
    pub fn read(&self, area: &[u8], state: &mut State) {
        let present = u64_at(area, XSTATE_BV);
        state.mxcsr = u32_at(area, MXCSR);
        state.x87 = X87State { control: 0x37f, ..X87State::default() };
        if present & X87 != 0 {
            state.x87 = X87State {
                control: u16_at(area, 0),
                status: u16_at(area, 2),
                valid: area[4],
                fop: u16_at(area, 6),
                fip: u64_at(area, 8),
                fdp: u64_at(area, 16),
                st: core::array::from_fn(|n| (u64_at(area, ST + 16 * n), u16_at(area, ST + 16 * n + 8))),
            };
        }
        state.zmm = [[0; 8]; 32];
        let read = |component: u64, at: usize, to: &mut [u64]| {
            if present & component != 0 {
                for (n, quad) in to.iter_mut().enumerate() {
                    *quad = u64_at(area, at + 8 * n);
                }
            }
        };
        for n in 0..16 {
            read(SSE, XMM + 16 * n, &mut state.zmm[n][..2]);
            read(AVX, self.avx + 16 * n, &mut state.zmm[n][2..4]);
            read(ZMM_HI256, self.zmm_hi256 + 32 * n, &mut state.zmm[n][4..]);
            read(HI16_ZMM, self.hi16_zmm + 64 * n, &mut state.zmm[16 + n]);
        }
        state.k = [0; 8];
        read(OPMASK, self.opmask, &mut state.k);
    }
}

impl Context {
    /// The context that enters `case` with TF set; `area` is the address of its XSAVE area and `stack` the alternate stack.
    pub fn for_case(case: &Case, area: u64, stack: [u64; 3]) -> Self {
        let state = &case.state;
        let [_, cs, ss, ..] = state.selectors;
        Self {
            flags: CONTEXT_FLAGS,
            link: 0,
            stack,
            gpr: ORDER.map(|n| state.gpr[n]),
            rip: state.rip,
            rflags: state.rflags | TF,
            selectors: [cs, 0, 0, ss],
            error: 0,
            trap: 0,
            oldmask: 0,
            cr2: 0,
            fpstate: area,
            reserved: [0; 8],
            mask: 0,
        }
    }

    /// The general registers, RIP and RFLAGS after a case.
    pub fn read(&self, state: &mut State) {
        for (value, n) in self.gpr.iter().zip(ORDER) {
            state.gpr[n] = *value;
        }
        state.rip = self.rip;
        state.rflags = self.rflags;
        state.selectors[1] = self.selectors[0];
        state.selectors[2] = self.selectors[3];
    }
}

/// RFLAGS.TF.
pub const TF: u64 = 1 << 8;
