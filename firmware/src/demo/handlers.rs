//! What the hypervisor does about exits in the same way with both extensions. The guest's registers lie at RSP, in the order
//! of their numbers; a handler goes on at `skip`, which moves the guest past its instruction.

use super::EXIT_PORT;
use super::image::{IO_VALUE, MAPPED, MSR_VALUE, WINDOW, WINDOW_TABLE};
use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

pub type Assembler = VecAssembler<X64Relocation>;

/// The guest's device, and its register.
pub const PORT: i32 = 0x8100;
pub const MSR: i32 = 0x4b56_4d00;
/// The CPUID leaf by which hypervisors tell their name, and the name.
pub const LEAF: i32 = 0x4000_0000;
pub const NAME: [i32; 3] =
    [i32::from_le_bytes(*b"Ring"), i32::from_le_bytes(*b"worl"), i32::from_le_bytes(*b"d   ")];
/// Functions of the hypercall, in EAX; EBX is the operand.
pub mod function {
    pub const NOTHING: i32 = 0;
    /// Write EBX to the debug-exit port.
    pub const TELL: i32 = 1;
    /// Whether MOV to CR3 is intercepted.
    pub const INTERCEPT_CR3: i32 = 2;
    /// Inject an interrupt.
    pub const INTERRUPT: i32 = 3;
}

/// Offsets of saved registers.
pub const RAX: i32 = 0;
pub const RCX: i32 = 8;
pub const RDX: i32 = 16;
pub const RBX: i32 = 24;

/// Labels that a program's own part defines.
pub struct Targets {
    /// Moves the guest past its instruction and enters it.
    pub skip: DynamicLabel,
    /// Gives up.
    pub fail: DynamicLabel,
    /// Function [`function::INTERCEPT_CR3`].
    pub intercept: DynamicLabel,
    /// Function [`function::INTERRUPT`].
    pub interrupt: DynamicLabel,
}

/// Saves the guest's registers.
pub fn save(a: &mut Assembler) {
    dynasm!(a
        ; .arch x64
        ; push r15; push r14; push r13; push r12; push r11; push r10; push r9; push r8
        ; push rdi; push rsi; push rbp; push rsp; push rbx; push rdx; push rcx; push rax
    );
}

/// Loads them; flags change.
pub fn restore(a: &mut Assembler) {
    dynasm!(a
        ; .arch x64
        ; pop rax; pop rcx; pop rdx; pop rbx; add rsp, 8; pop rbp; pop rsi; pop rdi
        ; pop r8; pop r9; pop r10; pop r11; pop r12; pop r13; pop r14; pop r15
    );
}

/// CPUID: a name at the hypervisors' leaf; elsewhere what the processor says, but for virtualisation extensions.
pub fn cpuid(a: &mut Assembler, to: &Targets) {
    let [first, second, third] = NAME;
    dynasm!(a
        ; .arch x64
        ; mov eax, [rsp + RAX]
        ; mov ecx, [rsp + RCX]
        ; mov esi, eax
        ; cmp eax, LEAF
        ; je >name
        ; cpuid
        ; cmp esi, 1
        ; jne >extended
        ; and ecx, !(1 << 5)
        ; extended:
        ; cmp esi, 0x8000_0001_u32 as i32
        ; jne >done
        ; and ecx, !(1 << 2)
        ; jmp >done
        ; name:
        ; mov ebx, first
        ; mov ecx, second
        ; mov edx, third
        ; done:
        ; mov [rsp + RAX], rax
        ; mov [rsp + RCX], rcx
        ; mov [rsp + RDX], rdx
        ; mov [rsp + RBX], rbx
        ; jmp =>to.skip
    );
}

/// A port access; EDX is the port, and CF is set for IN. The device gives back the inverse of what it was given.
pub fn io(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; jc >input
        ; cmp edx, PORT
        ; jne =>to.fail
        ; mov eax, [rsp + RAX]
        ; mov [IO_VALUE as i32], eax
        ; jmp =>to.skip
        ; input:
        ; cmp edx, PORT
        ; jne =>to.fail
        ; mov eax, [IO_VALUE as i32]
        ; not eax
        ; mov [rsp + RAX], rax
        ; jmp =>to.skip
    );
}

/// RDMSR.
pub fn rdmsr(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; cmp DWORD [rsp + RCX], MSR
        ; jne =>to.fail
        ; mov eax, [MSR_VALUE as i32]
        ; mov edx, [MSR_VALUE as i32 + 4]
        ; mov [rsp + RAX], rax
        ; mov [rsp + RDX], rdx
        ; jmp =>to.skip
    );
}

/// WRMSR.
pub fn wrmsr(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; cmp DWORD [rsp + RCX], MSR
        ; jne =>to.fail
        ; mov eax, [rsp + RAX]
        ; mov edx, [rsp + RDX]
        ; mov [MSR_VALUE as i32], eax
        ; mov [MSR_VALUE as i32 + 4], edx
        ; jmp =>to.skip
    );
}

/// The hypercall.
pub fn hypercall(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; mov eax, [rsp + RAX]
        ; cmp eax, function::NOTHING
        ; je =>to.skip
        ; cmp eax, function::INTERCEPT_CR3
        ; je =>to.intercept
        ; cmp eax, function::INTERRUPT
        ; je =>to.interrupt
        ; cmp eax, function::TELL
        ; jne =>to.fail
        ; mov eax, [rsp + RBX]
        ; out EXIT_PORT, al
        ; jmp =>to.skip
    );
}

/// Tells that the program has failed, for ever.
pub fn fail(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; =>to.fail
        ; mov al, super::FAILED as i8
        ; out EXIT_PORT, al
        ; jmp =>to.fail
    );
}

/// The guest touched the page at the guest-physical address in RAX: the window's other page goes, this one comes with `rights`.
pub fn map_window(a: &mut Assembler, to: &Targets, rights: i32) {
    dynasm!(a
        ; .arch x64
        ; mov ecx, eax
        ; sub ecx, WINDOW as i32
        ; shr ecx, 12
        ; cmp ecx, 512
        ; jae =>to.fail
        ; mov edx, [MAPPED as i32]
        ; mov QWORD [rdx * 8 + WINDOW_TABLE as i32], 0
        ; mov [MAPPED as i32], ecx
        ; and eax, -4096
        ; or eax, rights
        ; mov [rcx * 8 + WINDOW_TABLE as i32], rax
    );
}
