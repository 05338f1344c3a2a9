//! The assembly that goes into a signal frame and comes back from a signal.

use core::arch::naked_asm;
use core::mem::offset_of;

/// What the two assembly functions share. All fields are eight bytes, so that the handler can run with EFLAGS.AC set.
#[repr(C)]
#[derive(Default)]
pub struct Jump {
    /// 1 while a case runs: signals are the case's.
    pub armed: u64,
    /// The runner's stack pointer, with its callee-saved registers on the stack.
    pub host_rsp: u64,
    /// The runner's FS.base (its thread-local storage).
    pub host_fs: u64,
    /// FS.base of the case, before and after.
    pub fs_base: u64,
    /// GS.base of the case, before and after.
    pub gs_base: u64,
    /// The frame to enter: its `ucontext`.
    pub frame: u64,
    /// The signal.
    pub signal: u64,
    /// The `ucontext` of the signal's frame.
    pub context: u64,
    /// Selectors after: DS, ES, FS, GS.
    pub selectors: [u64; 4],
}

/// The one instance: signals are a process's. Only [`super::runner`] touches it, under its lock.
pub static mut JUMP: Jump = Jump {
    armed: 0,
    host_rsp: 0,
    host_fs: 0,
    fs_base: 0,
    gs_base: 0,
    frame: 0,
    signal: 0,
    context: 0,
    selectors: [0; 4],
};

/// `rt_sigreturn` with the frame of [`JUMP`]; returns when the handler has seen a signal.
///
/// # Safety
/// [`JUMP`]'s frame must be a valid signal frame whose code ends in a signal that [`handler`] handles, on the alternate
/// stack, and must leave the runner's memory alone. FSGSBASE must be enabled.
#[unsafe(naked)]
pub unsafe extern "C" fn enter() {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "lea rdx, [rip + {jump}]",
        "mov [rdx + {host_rsp}], rsp",
        "rdfsbase rax",
        "mov [rdx + {host_fs}], rax",
        "mov qword ptr [rdx + {armed}], 1",
        "mov rax, [rdx + {gs_base}]",
        "wrgsbase rax",
        "mov rsp, [rdx + {frame}]",
        "mov rcx, [rdx + {fs_base}]",
        "wrfsbase rcx",
        "mov eax, 15",
        "syscall",
        "ud2",
        jump = sym JUMP,
        host_rsp = const offset_of!(Jump, host_rsp),
        host_fs = const offset_of!(Jump, host_fs),
        armed = const offset_of!(Jump, armed),
        gs_base = const offset_of!(Jump, gs_base),
        fs_base = const offset_of!(Jump, fs_base),
        frame = const offset_of!(Jump, frame),
    )
}

/// Raises #BP, to see what a frame of this kernel looks like.
///
/// # Safety
/// [`handler`] must be installed for SIGTRAP on an alternate stack.
#[unsafe(naked)]
pub unsafe extern "C" fn probe() {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "lea rdx, [rip + {jump}]",
        "mov [rdx + {host_rsp}], rsp",
        "rdfsbase rax",
        "mov [rdx + {host_fs}], rax",
        "mov qword ptr [rdx + {armed}], 1",
        "int3",
        "ud2",
        jump = sym JUMP,
        host_rsp = const offset_of!(Jump, host_rsp),
        host_fs = const offset_of!(Jump, host_fs),
        armed = const offset_of!(Jump, armed),
    )
}

/// The signal handler: notes where the frame is and returns from [`enter`]. The frame stays on the alternate stack until
/// the next signal. The kernel has reset x87 and MXCSR; FS.base is the case's until restored here. Loading null selectors
/// first undoes a case's MOV to FS or GS.
///
/// # Safety
/// Called by the kernel only.
#[unsafe(naked)]
pub unsafe extern "C" fn handler() {
    naked_asm!(
        "lea rcx, [rip + {jump}]",
        "cmp qword ptr [rcx + {armed}], 1",
        "jne 2f",
        "mov qword ptr [rcx + {armed}], 0",
        "mov eax, edi",
        "mov [rcx + {signal}], rax",
        "mov [rcx + {context}], rdx",
        "rdfsbase rax",
        "mov [rcx + {fs_base}], rax",
        "rdgsbase rax",
        "mov [rcx + {gs_base}], rax",
        "mov eax, ds",
        "mov [rcx + {selectors}], rax",
        "mov eax, es",
        "mov [rcx + {selectors} + 8], rax",
        "mov eax, fs",
        "mov [rcx + {selectors} + 16], rax",
        "mov eax, gs",
        "mov [rcx + {selectors} + 24], rax",
        "xor eax, eax",
        "mov fs, eax",
        "mov gs, eax",
        "mov eax, 0x2b",
        "mov ds, eax",
        "mov es, eax",
        "mov rax, [rcx + {host_fs}]",
        "wrfsbase rax",
        "mov rsp, [rcx + {host_rsp}]",
        "push 2",
        "popfq",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        // Not a case's signal: a bug of the runner. Die of it, with the default action.
        "2:",
        "jmp {stray}",
        jump = sym JUMP,
        stray = sym stray,
        armed = const offset_of!(Jump, armed),
        signal = const offset_of!(Jump, signal),
        context = const offset_of!(Jump, context),
        fs_base = const offset_of!(Jump, fs_base),
        gs_base = const offset_of!(Jump, gs_base),
        host_fs = const offset_of!(Jump, host_fs),
        host_rsp = const offset_of!(Jump, host_rsp),
        selectors = const offset_of!(Jump, selectors),
    )
}

/// Restores the default action of a signal that no case caused; returning repeats the fault.
extern "C" fn stray(signal: i32) {
    // SAFETY: `signal` is async-signal-safe.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}
