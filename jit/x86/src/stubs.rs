//! The fixed pieces of code: into translated code, out of it to Rust and back, and the vector state's load and save.

use crate::frame::{Frame, at, framed, pinned};
use crate::site::{Kind, Site};
use crate::split::{self, SplitStubs};
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use ringworld_jit_rt::Sink;
use ringworld_x86::Cpu;

/// Offsets of the stubs from the arena's start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stubs {
    /// `extern "sysv64" fn(&mut Start)`.
    pub enter: usize,
    /// Called by translated code, with a site's number after the call: see [`crate::site`].
    pub leave_at_site: usize,
    /// Loads the XMM registers. Called where they are not live.
    pub load_sse: usize,
    /// Loads all vector state.
    pub load_full: usize,
    /// Looks R14 up in a jump cache, of the machine itself or of a guest: its code in RCX, or zero.
    pub look_up: [usize; 2],
    /// What a return to address 0 leads to.
    pub null: usize,
    /// For accesses that reach into another page.
    pub split: SplitStubs,
}

/// What `enter` is given.
#[repr(C)]
pub struct Start {
    /// Fills the frame in.
    pub prepare: extern "sysv64" fn(*mut Frame, *mut Start),
    /// Where to start.
    pub code: usize,
    /// See [`Frame`].
    pub cpu: *mut Cpu,
    /// See [`Frame`].
    pub translator: *mut crate::Translator,
    /// See [`Frame`].
    pub limit: u64,
    /// See [`Frame`].
    pub unfit: u64,
}

/// Size on the stack; with the return address and six saved registers a multiple of 16, plus 8.
const FRAME_BYTES: i32 = (size_of::<Frame>().next_multiple_of(16) + 8) as i32;

const REGS: i32 = offset_of!(Cpu, regs) as i32;
const ZMM: i32 = offset_of!(Cpu, zmm) as i32;
const K: i32 = offset_of!(Cpu, k) as i32;
const MXCSR: i32 = offset_of!(Cpu, mxcsr) as i32;

/// Emits all stubs. `dispatch` is the Rust function behind [`Stubs::leave_at_site`]; `jumps` are the addresses of the jump caches' near
/// and far tables.
pub fn emit(s: &mut Sink, vector_bytes: usize, dispatch: usize, jumps: [(i32, usize); 2]) -> Stubs {
    let enter = s.len();
    dynasm!(s
        ; .arch x64
        ; push rbx
        ; push rbp
        ; push r12
        ; push r13
        ; push r14
        ; push r15
        ; sub rsp, FRAME_BYTES
        ; mov rbx, rdi
        ; mov rsi, rdi
        ; mov rdi, rsp
        ; call QWORD [rbx + offset_of!(Start, prepare) as i32]
        ; mov rax, [rbx + offset_of!(Start, code) as i32]
    );
    let resume = s.len();
    // RAX: where to go.
    dynasm!(s
        ; .arch x64
        ; mov r14, rax
        ; mov rcx, [rsp + at::CPU]
        ; mov r15, [rsp + at::TLB]
    );
    for (guest, home) in framed() {
        dynasm!(s
            ; .arch x64
            ; mov rax, [rcx + REGS + 8 * guest as i32]
            ; mov [rsp + home], rax
        );
    }
    dynasm!(s
        ; .arch x64
        ; mov eax, [rsp + at::FLAGS]
        // OF from bit 0, the others from AH.
        ; add al, 0x7f
        ; sahf
    );
    for (guest, host) in pinned() {
        dynasm!(s ; .arch x64 ; mov Rq(host), [rcx + REGS + 8 * guest as i32]);
    }
    dynasm!(s ; .arch x64 ; jmp r14);

    let load_sse = s.len();
    let sse_unfit = unless_fit(s);
    if vector_bytes > 16 {
        dynasm!(s ; .arch x64 ; vzeroupper);
    }
    // One return address is on the stack.
    dynasm!(s ; .arch x64 ; mov rcx, [rsp + at::CPU + 8] ; ldmxcsr [rcx + MXCSR]);
    for n in 0..16 {
        dynasm!(s ; .arch x64 ; movups Rx(n), [rcx + ZMM + 64 * i32::from(n)]);
    }
    dynasm!(s ; .arch x64 ; mov BYTE [rsp + at::SSE_LIVE + 8], 1 ; ret);

    let load_full = s.len();
    let full_unfit = unless_fit(s);
    dynasm!(s ; .arch x64 ; mov rcx, [rsp + at::SSE_LIVE + 8]);
    let not_live = jrcxz(s);
    let live = near(s, 0);
    land8(s, not_live);
    let skip = near(s, 0);
    s.land(live);
    dynasm!(s ; .arch x64 ; mov rcx, [rsp + at::CPU + 8]);
    store_sse(s);
    s.land(skip);
    dynasm!(s ; .arch x64 ; mov rcx, [rsp + at::CPU + 8] ; ldmxcsr [rcx + MXCSR]);
    if vector_bytes > 16 {
        // Loading zeros into the upper halves would make them dirty, and every change between SSE and AVX instructions
        // slow: load them only if there is anything in them.
        any_upper(s);
        let clean = jrcxz(s);
        let dirty = near(s, 0);
        land8(s, clean);
        dynasm!(s ; .arch x64 ; mov rcx, [rsp + at::CPU + 8] ; vzeroupper);
        for n in 0..16 {
            dynasm!(s ; .arch x64 ; movups Rx(n), [rcx + ZMM + 64 * i32::from(n)]);
        }
        let loaded = near(s, 0);
        s.land(dirty);
        dynasm!(s ; .arch x64 ; mov rcx, [rsp + at::CPU + 8]);
        low(s, vector_bytes, true);
        s.land(loaded);
    } else {
        low(s, vector_bytes, true);
    }
    high(s, vector_bytes, true);
    dynasm!(s
        ; .arch x64
        ; mov BYTE [rsp + at::SSE_LIVE + 8], 1
        ; mov BYTE [rsp + at::FULL_LIVE + 8], 1
        ; ret
    );

    let leave_at_site = s.len();
    dynasm!(s
        ; .arch x64
        ; pop rcx
        ; mov r14d, [rcx]
        ; lea rcx, [rcx + 4]
        ; mov [rsp + at::RESUME], rcx
        ; mov rcx, [rsp + at::CPU]
    );
    for (guest, host) in pinned() {
        dynasm!(s ; .arch x64 ; mov [rcx + REGS + 8 * guest as i32], Rq(host));
    }
    dynasm!(s
        ; .arch x64
        ; lahf
        ; seto al
        ; movzx eax, ax
        ; mov [rsp + at::FLAGS], rax
        ; cmp BYTE [rsp + at::X87_LIVE], 0
    );
    let no_x87 = near(s, 0x84);
    dynasm!(s
        ; .arch x64
        ; fnsave [rsp + at::X87_IMAGE]
        ; mov BYTE [rsp + at::X87_LIVE], 0
        ; mov BYTE [rsp + at::X87_RELOAD], 1
    );
    s.land(no_x87);
    for (guest, home) in framed() {
        dynasm!(s
            ; .arch x64
            ; mov rax, [rsp + home]
            ; mov [rcx + REGS + 8 * guest as i32], rax
        );
    }
    dynasm!(s
        ; .arch x64
        ; xor eax, eax
        ; cmp BYTE [rsp + at::SSE_LIVE], 0
    );
    let clean = near(s, 0x84);
    dynasm!(s ; .arch x64 ; cmp BYTE [rsp + at::FULL_LIVE], 0);
    let only_sse = near(s, 0x84);
    low(s, vector_bytes, false);
    high(s, vector_bytes, false);
    dynasm!(s
        ; .arch x64
        ; stmxcsr [rcx + MXCSR]
        ; mov eax, 2
    );
    let saved = near(s, 0);
    s.land(only_sse);
    store_sse(s);
    dynasm!(s ; .arch x64 ; mov eax, 1);
    s.land(saved);
    if vector_bytes > 16 {
        dynasm!(s ; .arch x64 ; vzeroupper);
    }
    dynasm!(s
        ; .arch x64
        ; ldmxcsr [rsp + at::HOST_MXCSR]
        ; mov BYTE [rsp + at::SSE_LIVE], 0
        ; mov BYTE [rsp + at::FULL_LIVE], 0
    );
    s.land(clean);
    dynasm!(s
        ; .arch x64
        ; mov [rsp + at::RELOAD], rax
        ; mov rdi, rsp
        ; mov esi, r14d
        ; mov rax, QWORD dispatch as i64
        ; call rax
        ; test rax, rax
    );
    let out = near(s, 0x84);
    dynasm!(s ; .arch x64 ; mov r14, rax ; cmp BYTE [rsp + at::RELOAD], 0);
    let no_reload = near(s, 0x84);
    dynasm!(s ; .arch x64 ; cmp BYTE [rsp + at::RELOAD], 1);
    let not_sse = near(s, 0x85);
    call(s, load_sse);
    let loaded = near(s, 0);
    s.land(not_sse);
    call(s, load_full);
    s.land(loaded);
    s.land(no_reload);
    dynasm!(s ; .arch x64 ; cmp BYTE [rsp + at::X87_RELOAD], 0);
    let no_x87 = near(s, 0x84);
    dynasm!(s
        ; .arch x64
        ; frstor [rsp + at::X87_IMAGE]
        ; mov BYTE [rsp + at::X87_LIVE], 1
        ; mov BYTE [rsp + at::X87_RELOAD], 0
    );
    s.land(no_x87);
    dynasm!(s ; .arch x64 ; mov rax, r14);
    let again = near(s, 0);
    let distance = resume as i32 - again as i32;
    s.patch_i32(again - 4, distance);
    s.land(out);
    dynasm!(s
        ; .arch x64
        ; add rsp, FRAME_BYTES
        ; pop r15
        ; pop r14
        ; pop r13
        ; pop r12
        ; pop rbp
        ; pop rbx
        ; ret
    );
    let look_up = jumps.map(|(jumps, far)| {
        let start = s.len();
        // One return address is on the stack.
        dynasm!(s
            ; .arch x64
            ; pdep rcx, r14, [rsp + at::JUMP_MASK + 8]
            ; mov rcx, [rcx + jumps]
            ; lea rcx, [rcx + r14]
        );
        let near = jrcxz(s);
        dynasm!(s
            ; .arch x64
            ; mov ecx, 0
            ; crc32 rcx, r14
            ; pdep rcx, rcx, [rsp + at::FAR_JUMP_MASK + 8]
            ; push r14
            ; mov r14, QWORD far as i64
            ; lea rcx, [rcx + r14]
            ; mov r14, [rsp]
            ; push rcx
            ; mov rcx, [rcx]
            ; lea rcx, [rcx + r14]
        );
        let hit = jrcxz(s);
        dynasm!(s ; .arch x64 ; lea rsp, [rsp + 16] ; mov ecx, 0 ; ret);
        land8(s, hit);
        dynasm!(s ; .arch x64 ; pop rcx ; lea rsp, [rsp + 8] ; mov rcx, [rcx + 8] ; ret);
        land8(s, near);
        dynasm!(s
            ; .arch x64
            ; pdep rcx, r14, [rsp + at::JUMP_MASK + 8]
            ; mov rcx, [rcx + jumps + 8]
            ; ret
        );
        start
    });
    let null = s.len();
    call(s, leave_at_site);
    s.extend(Site { kind: Kind::Null, index: 0 }.number().to_le_bytes());
    s.land(sse_unfit);
    s.land(full_unfit);
    // Where the load was to go back to says which instruction wanted it.
    dynasm!(s ; .arch x64 ; pop rcx ; mov [BYTE rsp + (at::TARGET as i8)], rcx);
    call(s, leave_at_site);
    s.extend(Site { kind: Kind::Unfit, index: 0 }.number().to_le_bytes());
    let split = split::emit(s);
    Stubs { enter, leave_at_site, load_sse, load_full, look_up, null, split }
}

/// The jump of a stub that is taken if the guest's vector state cannot be the host's.
fn unless_fit(s: &mut Sink) -> usize {
    // One return address is on the stack.
    dynasm!(s ; .arch x64 ; mov rcx, [rsp + at::UNFIT + 8]);
    let fit = jrcxz(s);
    let unfit = near(s, 0);
    land8(s, fit);
    unfit
}

/// Stores the XMM registers and MXCSR to the CPU at RCX.
fn store_sse(s: &mut Sink) {
    for n in 0..16 {
        dynasm!(s ; .arch x64 ; movups [rcx + ZMM + 64 * i32::from(n)], Rx(n));
    }
    dynasm!(s ; .arch x64 ; stmxcsr [rcx + MXCSR]);
}

/// Leaves something other than zero in RCX if registers 0 to 15 of the CPU at RCX have anything above their lowest 128
/// bits. Does not touch the flags.
fn any_upper(s: &mut Sink) {
    dynasm!(s ; .arch x64 ; vxorps xmm0, xmm0, xmm0 ; vxorps xmm1, xmm1, xmm1);
    for n in 0..16 {
        let at = ZMM + 64 * n;
        dynasm!(s ; .arch x64 ; vorps ymm0, ymm0, [rcx + at + 16] ; vorps ymm1, ymm1, [rcx + at + 32]);
    }
    dynasm!(s
        ; .arch x64
        ; vorps ymm0, ymm0, ymm1
        ; vextractf128 xmm1, ymm0, 1
        ; vorps xmm0, xmm0, xmm1
        ; vpsrldq xmm1, xmm0, 8
        ; vpor xmm0, xmm0, xmm1
        ; vmovq rcx, xmm0
    );
}

/// VMOVUPS ZMMn from or to the CPU at RCX; dynasm knows no EVEX.
fn move_zmm(s: &mut Sink, n: u8, load: bool) {
    let p0 = 0x61 | (!n & 8) << 4 | (!n & 16);
    s.extend([0x62, p0, 0x7c, 0x48, if load { 0x10 } else { 0x11 }, 0x81 | (n & 7) << 3]);
    s.extend((ZMM + 64 * i32::from(n)).to_le_bytes());
}

/// Loads or stores vector registers 0 to 15, as wide as they are.
fn low(s: &mut Sink, vector_bytes: usize, load: bool) {
    for n in 0..16_u8 {
        let at = ZMM + 64 * i32::from(n);
        match (vector_bytes, load) {
            (64, _) => move_zmm(s, n, load),
            (32, true) => dynasm!(s ; .arch x64 ; vmovups Ry(n), [rcx + at]),
            (32, false) => dynasm!(s ; .arch x64 ; vmovups [rcx + at], Ry(n)),
            (_, true) => dynasm!(s ; .arch x64 ; movups Rx(n), [rcx + at]),
            (_, false) => dynasm!(s ; .arch x64 ; movups [rcx + at], Rx(n)),
        }
    }
}

/// Loads or stores what only AVX-512 has.
fn high(s: &mut Sink, vector_bytes: usize, load: bool) {
    if vector_bytes < 64 {
        return;
    }
    for n in 16..32 {
        move_zmm(s, n, load);
    }
    for n in 0..8_u8 {
        // KMOVQ kn, [RCX + disp32] and back.
        s.extend([0xc4, 0xe1, 0xf8, if load { 0x90 } else { 0x91 }, 0x81 | n << 3]);
        s.extend((K + 8 * i32::from(n)).to_le_bytes());
    }
}

/// JRCXZ to be landed by [`land8`].
pub fn jrcxz(s: &mut Sink) -> usize {
    s.extend([0xe3, 0]);
    s.len()
}

/// Lands a [`jrcxz`] here; the distance has to fit (it does where it is used for up to 127 bytes).
pub fn land8(s: &mut Sink, end: usize) {
    let distance = s.len() - end;
    debug_assert!(distance < 128, "{distance}");
    if let Some(place) = s.buffer().get_mut(end - 1) {
        *place = distance as u8;
    }
}

/// A near jump (0) or conditional jump (second opcode byte), to be landed; returns the end of its displacement.
pub fn near(s: &mut Sink, condition: u8) -> usize {
    if condition == 0 {
        s.extend([0xe9]);
    } else {
        s.extend([0x0f, condition]);
    }
    s.extend([0; 4]);
    s.len()
}

fn call(s: &mut Sink, target: usize) {
    s.extend([0xe8, 0, 0, 0, 0]);
    let end = s.len();
    s.patch_i32(end - 4, target as i32 - end as i32);
}
