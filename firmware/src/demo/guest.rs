//! The 64-bit guest: a loop for each thing that may leave it.

use super::handlers::{Assembler, LEAF, MSR, NAME, PORT, function};
use super::image::{DIFFERENT, GUEST_STACK, LARGE_PAGE, TABLES, WINDOW};
use super::{Extension, FAILED, WARM_UP};
use dynasmrt::{AssemblyOffset, DynasmApi, DynasmLabelApi, dynasm};

/// Where the guest starts, and its interrupt handler.
pub struct Guest {
    pub entry: AssemblyOffset,
    pub handler: AssemblyOffset,
    pub rows: Vec<&'static str>,
}

fn hypercall(a: &mut Assembler, extension: Extension) {
    match extension {
        Extension::Vmx => dynasm!(a ; .arch x64 ; vmcall),
        Extension::Svm => dynasm!(a ; .arch x64 ; vmmcall),
    }
}

/// One row: its text, and the loop's body. R12 counts; R13, R14 and R15 are the bodies'. A body that sees something wrong
/// goes to `failed`.
type Row = (&'static str, fn(&mut Assembler, Extension));

const ROWS: [Row; 12] = [
    ("a loop that never leaves the guest", |_, _| {}),
    ("hypercall", |a, extension| {
        dynasm!(a ; .arch x64 ; mov eax, function::NOTHING);
        hypercall(a, extension);
    }),
    ("CPUID", |a, _| {
        dynasm!(a ; .arch x64 ; mov eax, LEAF ; cpuid ; cmp ebx, NAME[0] ; jne ->failed);
    }),
    ("OUT to a virtual device", |a, _| {
        dynasm!(a ; .arch x64 ; mov edx, PORT ; mov eax, r12d ; mov r14d, eax ; out dx, eax);
    }),
    ("IN from a virtual device", |a, _| {
        dynasm!(a ; .arch x64 ; mov edx, PORT ; in eax, dx ; not eax ; cmp eax, r14d ; jne ->failed);
    }),
    ("WRMSR of a virtual register", |a, _| {
        dynasm!(a ; .arch x64 ; mov ecx, MSR ; mov eax, r12d ; mov r14d, eax ; xor edx, edx ; wrmsr);
    }),
    ("RDMSR of a virtual register", |a, _| {
        dynasm!(a ; .arch x64 ; mov ecx, MSR ; rdmsr ; cmp eax, r14d ; jne ->failed);
    }),
    ("HLT", |a, _| dynasm!(a ; .arch x64 ; hlt)),
    ("MOV to CR3, not intercepted", |a, _| switch_address_space(a)),
    ("MOV to CR3, intercepted", |a, _| switch_address_space(a)),
    ("write to a page that has to be mapped first", |a, _| {
        dynasm!(a
            ; .arch x64
            ; inc r13d
            ; and r13d, 511
            ; mov eax, r13d
            ; shl eax, 12
            ; mov [rax + WINDOW as i32], r13
            ; cmp [rax + WINDOW as i32], r13
            ; jne ->failed
        );
    }),
    ("hypercall, answered by an interrupt", |a, extension| {
        dynasm!(a ; .arch x64 ; lea r15, [r14 + 1] ; mov eax, function::INTERRUPT);
        hypercall(a, extension);
        dynasm!(a ; .arch x64 ; cmp r14, r15 ; jne ->failed);
    }),
];

/// The row from which on MOV to CR3 is intercepted.
const INTERCEPTED: usize = 9;

/// Each address space's page holds the address of its tables.
fn switch_address_space(a: &mut Assembler) {
    let difference = (TABLES[0] ^ TABLES[1]) as i32;
    dynasm!(a
        ; .arch x64
        ; xor r15, difference
        ; mov cr3, r15
        ; cmp [DIFFERENT as i32], r15
        ; jne ->failed
    );
}

fn tell(a: &mut Assembler, extension: Extension, what: u8) {
    dynasm!(a ; .arch x64 ; mov eax, function::TELL ; mov ebx, what.into());
    hypercall(a, extension);
}

/// Assembles the guest.
pub fn guest(a: &mut Assembler, extension: Extension, count: u32) -> Guest {
    let handler = a.offset();
    dynasm!(a ; .arch x64 ; inc r14 ; iretq);
    let entry = a.offset();
    dynasm!(a
        ; .arch x64
        ; mov rsp, GUEST_STACK as i32
        ; mov r15d, TABLES[0] as i32
        ; mov [DIFFERENT as i32], r15
        ; mov eax, TABLES[1] as i32
        ; mov [(DIFFERENT + LARGE_PAGE) as i32], rax
        ; xor r13d, r13d
    );
    for (n, (_, body)) in ROWS.iter().enumerate() {
        if n == INTERCEPTED {
            dynasm!(a ; .arch x64 ; mov eax, function::INTERCEPT_CR3 ; mov ebx, 1);
            hypercall(a, extension);
        }
        let repeat = a.new_dynamic_label();
        let over = a.new_dynamic_label();
        dynasm!(a ; .arch x64 ; mov r12d, WARM_UP ; call =>repeat);
        tell(a, extension, 2 * n as u8);
        dynasm!(a ; .arch x64 ; mov r12d, count as i32 ; call =>repeat);
        tell(a, extension, 2 * n as u8 + 1);
        dynasm!(a ; .arch x64 ; jmp =>over ; .align 16 ; =>repeat);
        let again = a.new_dynamic_label();
        dynasm!(a ; .arch x64 ; =>again);
        body(a, extension);
        dynasm!(a ; .arch x64 ; dec r12d ; jnz =>again ; ret ; =>over);
    }
    dynasm!(a ; .arch x64 ; ->failed:);
    tell(a, extension, FAILED);
    dynasm!(a ; .arch x64 ; jmp ->failed);
    Guest { entry, handler, rows: ROWS.iter().map(|(text, _)| *text).collect() }
}
