//! Accesses that reach from one page into the next.
//!
//! Unaligned arrays have one every few dozen accesses. If both pages are in the TLB, a stub copies what is on either side of the
//! border side by side into the frame, where the instruction does its access; of a write, another one copies it back.

use crate::emit::Emitter;
use crate::frame::at;
use crate::memory::{HOST, READ, WRITE};
use crate::stubs::{jrcxz, land8, near};
use dynasmrt::{DynasmApi, dynasm};
use ringworld_core::PAGE_SIZE;
use ringworld_jit_rt::Sink;

/// Bytes of the accesses.
const SIZES: [i32; 3] = [16, 32, 64];

/// Offsets of the stubs, by the accesses' size.
#[derive(Clone, Copy, Debug, Default)]
pub struct SplitStubs {
    /// For what is only read; in code with 32-bit addresses, which wrap around.
    read: [[usize; 3]; 2],
    /// For what is written, too.
    write: [[usize; 3]; 2],
    /// After the access.
    put_back: [usize; 3],
}

impl SplitStubs {
    /// What the stub at this offset is called.
    pub fn name(&self, stub: usize) -> Option<&'static str> {
        let Self { read, write, put_back } = self;
        let named = [
            (read.as_flattened(), "split-read"),
            (write.as_flattened(), "split-write"),
            (put_back, "split-put-back"),
        ];
        named.into_iter().find(|(stubs, _)| stubs.contains(&stub)).map(|(_, name)| name)
    }
}

/// Such an access.
#[derive(Debug)]
pub struct Split {
    /// Which of the stubs.
    class: usize,
    write: bool,
    /// Where the access is: a host register and a displacement, beside RCX.
    base: u8,
    displacement: i32,
    /// Offsets of the instruction, and of what follows it.
    code: (usize, usize),
}

impl Split {
    /// An access of `size` bytes at [base + RCX + displacement] by the host's instruction between two offsets.
    pub fn new(size: usize, write: bool, base: u8, displacement: i32, code: (usize, usize)) -> Option<Self> {
        // Of what is smaller than a vector, the stub copies more than is needed.
        let class = match size {
            2..16 => 0,
            _ => SIZES.iter().position(|&one| one as usize == size)?,
        };
        Some(Self { class, write, base, displacement, code })
    }
}

/// Emits the stubs.
pub fn emit(s: &mut Sink) -> SplitStubs {
    SplitStubs {
        read: [false, true].map(|narrow| SIZES.map(|size| bring_together(s, size, READ, narrow))),
        write: [false, true].map(|narrow| SIZES.map(|size| bring_together(s, size, WRITE, narrow))),
        put_back: SIZES.map(|size| put_back(s, size)),
    }
}

/// Of the frame, in a stub: one return address is on the stack.
const fn own(at: i32) -> i32 {
    at + 8
}

/// Copies the `size` last bytes of the page of R14, and the `size` first ones of the page of the access's last byte, into the
/// frame, and leaves what R14 lacks to the access's copy in RCX; or zero, if not both pages may be accessed.
fn bring_together(s: &mut Sink, size: i32, tags: i32, narrow: bool) -> usize {
    // Whether the page of R14 may be accessed: zero in RCX.
    let look = |s: &mut Sink| {
        dynasm!(s
            ; .arch x64
            ; pext rcx, r14, [rsp + own(at::INDEX_MASK)]
            ; mov rcx, [r15 + rcx * 8 + tags]
            ; lea rcx, [rcx + r14]
            ; shrx rcx, rcx, r15
            ; lea rcx, [rcx - 1]
        );
    };
    // The start of the host page of R14, in RCX.
    let page = |s: &mut Sink| {
        dynasm!(s
            ; .arch x64
            ; pext rcx, r14, [rsp + own(at::INDEX_MASK)]
            ; mov rcx, [r15 + rcx * 8 + HOST]
            ; lea rcx, [rcx + r14]
            ; shrx rcx, rcx, r15
            ; shlx rcx, rcx, r15
        );
    };
    let fail = s.len();
    dynasm!(s ; .arch x64 ; mov r14, [rsp + own(at::SPLIT_LINEAR)] ; mov ecx, 0 ; ret);
    let back = |s: &mut Sink| {
        let end = near(s, 0);
        s.patch_i32(end - 4, fail as i32 - end as i32);
    };
    let start = s.len();
    dynasm!(s ; .arch x64 ; mov [rsp + own(at::SPLIT_LINEAR)], r14);
    look(s);
    let first = jrcxz(s);
    back(s);
    land8(s, first);
    page(s);
    dynasm!(s
        ; .arch x64
        ; lea rcx, [rcx + PAGE_SIZE as i32 - size]
        ; mov [rsp + own(at::SPLIT_PAGES)], rcx
    );
    if narrow {
        dynasm!(s ; .arch x64 ; lea r14d, [r14 + size - 1]);
    } else {
        dynasm!(s ; .arch x64 ; lea r14, [r14 + size - 1]);
    }
    look(s);
    let second = jrcxz(s);
    back(s);
    land8(s, second);
    page(s);
    dynasm!(s
        ; .arch x64
        ; mov [rsp + own(at::SPLIT_PAGES) + 8], rcx
        ; mov r14, [rsp + own(at::SPLIT_LINEAR)]
    );
    copy(s, size, true);
    // Where the page of R14 would begin if it ended in the middle of the copy.
    let origin = own(at::SPLIT_COPY) + size - PAGE_SIZE as i32;
    dynasm!(s
        ; .arch x64
        ; shrx rcx, r14, r15
        ; shlx rcx, rcx, r15
        ; not rcx
        ; lea rcx, [rsp + rcx + origin + 1]
        ; ret
    );
    start
}

/// Copies everything back.
fn put_back(s: &mut Sink, size: i32) -> usize {
    let start = s.len();
    copy(s, size, false);
    dynasm!(s ; .arch x64 ; ret);
    start
}

/// Copies `size` bytes of each page into the frame, or back: by a general register, as SSE instructions between AVX's are slow.
fn copy(s: &mut Sink, size: i32, together: bool) {
    dynasm!(s ; .arch x64 ; mov [rsp + own(at::SPLIT_RAX)], rax);
    for n in 0..2 {
        dynasm!(s ; .arch x64 ; mov rcx, [rsp + own(at::SPLIT_PAGES) + 8 * n]);
        for at in (0..size).step_by(8) {
            let copy = own(at::SPLIT_COPY) + n * size + at;
            if together {
                dynasm!(s ; .arch x64 ; mov rax, [rcx + at] ; mov [rsp + copy], rax);
            } else {
                dynasm!(s ; .arch x64 ; mov rax, [rsp + copy] ; mov [rcx + at], rax);
            }
        }
    }
    dynasm!(s ; .arch x64 ; mov rax, [rsp + own(at::SPLIT_RAX)]);
}

impl Emitter<'_> {
    /// Does an access that reaches into another page, and goes on at `resume`; falls through if that is not to be had.
    pub(crate) fn split(&mut self, split: &Split, resume: usize) {
        let Split { class, write, base, displacement, code } = *split;
        if base != 14 {
            self.lea_base(14, true, base, displacement);
        }
        let stubs = self.stubs.split;
        let stubs = if write { stubs.write } else { stubs.read };
        self.call_stub(stubs[usize::from(self.narrow())][class]);
        let fail = jrcxz(self.s);
        if write {
            self.s.buffer().extend_from_within(code.0..code.1);
            self.call_stub(self.stubs.split.put_back[class]);
            self.jump_back(resume);
        } else {
            self.jump_back(code.0);
        }
        land8(self.s, fail);
    }
}
