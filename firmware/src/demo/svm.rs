//! The hypervisor that uses SVM (APM 2 chapter 15).

use super::Extension;
use super::guest::guest;
use super::handlers::{self, Assembler, Targets};
use super::image::{self, Image};
use crate::BootFile;
use dynasmrt::{AssemblyOffset, DynasmApi, DynasmLabelApi, dynasm};

const EFER: i32 = 0xc000_0080_u32 as i32;
const VM_HSAVE_PA: i32 = 0xc001_0117_u32 as i32;
const SVME: i32 = 1 << 12;
/// PE, ET, NE, WP, PG; PAE; LME, LMA, SVME.
const CR0: u64 = 0x8001_0031;
const CR4: u64 = 0x20;
const GUEST_EFER: u64 = 0x1500;

/// Places in the VMCB (APM 2 appendix B).
mod vmcb {
    use super::image::VMCB;
    pub const INTERCEPT_CR: i32 = VMCB as i32;
    pub const TLB_CONTROL: i32 = VMCB as i32 + 0x5c;
    pub const EXIT_CODE: i32 = VMCB as i32 + 0x70;
    pub const EXIT_INFO_1: i32 = VMCB as i32 + 0x78;
    pub const EXIT_INFO_2: i32 = VMCB as i32 + 0x80;
    pub const EVENT_INJECTION: i32 = VMCB as i32 + 0xa8;
    pub const NEXT_RIP: i32 = VMCB as i32 + 0xc8;
    pub const CR3: i32 = VMCB as i32 + 0x550;
    pub const RIP: i32 = VMCB as i32 + 0x578;
    pub const RAX: i32 = VMCB as i32 + 0x5f8;
}

const NESTED_PAGE_FAULT: i32 = 0x400;
/// The bit of CR3 writes among the CR intercepts.
const CR3_WRITE: i32 = 1 << 19;
/// TLB_CONTROL: this guest's translations.
const FLUSH_GUEST: i32 = 3;

/// The VMCB: offset, number of bytes, value.
fn fields(guest_rip: u64) -> Vec<(u64, usize, u64)> {
    let mut fields = vec![
        // CPUID, HLT, IOIO, MSR, shutdown; VMRUN, VMMCALL.
        (0x0c, 4, 1 << 18 | 1 << 24 | 1 << 27 | 1 << 28 | 1 << 31),
        (0x10, 4, 1 << 0 | 1 << 1),
        (0x40, 8, image::IO_PERMISSIONS),
        (0x48, 8, image::MSR_PERMISSIONS),
        // ASID; nested paging.
        (0x58, 4, 1),
        (0x90, 8, 1),
        (0xb0, 8, image::NESTED_TABLES),
        // GDTR, IDTR: limit and base.
        (0x464, 4, image::TABLE_LIMIT.into()),
        (0x468, 8, image::GDT),
        (0x484, 4, image::IDT_LIMIT.into()),
        (0x488, 8, image::IDT),
        // TR.
        (0x490, 8, 0x67 << 32 | 0x8b << 16 | u64::from(image::TASK)),
        (0x498, 8, image::TSS),
        (0x4d0, 8, GUEST_EFER),
        (0x548, 8, CR4),
        (0x550, 8, image::TABLES[0]),
        (0x558, 8, CR0),
        (0x560, 8, 0x400),
        (0x568, 8, 0xffff_0ff0),
        // RFLAGS with IF.
        (0x570, 8, 0x202),
        (0x578, 8, guest_rip),
        (0x668, 8, 0x0007_0406_0007_0406),
    ];
    // ES, CS, SS, DS, FS, GS.
    for n in 0..6 {
        let (selector, attributes) = if n == 1 { (image::CODE, 0xa9b) } else { (image::DATA, 0xc93) };
        fields.push((0x400 + 16 * n, 8, 0xffff_ffff << 32 | attributes << 16 | u64::from(selector)));
    }
    fields
}

fn vmload(a: &mut Assembler) {
    dynasm!(a ; .arch x64 ; .bytes [0x0f, 0x01, 0xda]);
}

fn vmrun(a: &mut Assembler) {
    dynasm!(a ; .arch x64 ; .bytes [0x0f, 0x01, 0xd8]);
}

fn vmsave(a: &mut Assembler) {
    dynasm!(a ; .arch x64 ; .bytes [0x0f, 0x01, 0xdb]);
}

/// From the loader's state into the guest, and every exit's way.
fn run(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; mov esp, image::HOST_STACK as i32
        ; mov eax, image::HOST_TABLES as i32
        ; mov cr3, rax
        ; lgdt [image::GDT_POINTER as i32]
        ; mov ecx, EFER
        ; rdmsr
        ; or eax, SVME
        ; wrmsr
        ; mov ecx, VM_HSAVE_PA
        ; mov eax, image::HOST_SAVE as i32
        ; xor edx, edx
        ; wrmsr
        ; sub esp, 128
        ; jmp ->enter
        ; =>to.skip
        ; mov rax, [vmcb::NEXT_RIP]
        ; mov [vmcb::RIP], rax
        ; ->enter:
        ; mov rax, [rsp + handlers::RAX]
        ; mov [vmcb::RAX], rax
    );
    handlers::restore(a);
    dynasm!(a ; .arch x64 ; mov eax, image::VMCB as i32);
    vmload(a);
    vmrun(a);
    vmsave(a);
    handlers::save(a);
    dynasm!(a
        ; .arch x64
        ; mov rax, [vmcb::RAX]
        ; mov [rsp + handlers::RAX], rax
        ; mov DWORD [vmcb::TLB_CONTROL], 0
        ; mov rcx, [vmcb::EXIT_CODE]
        ; cmp rcx, NESTED_PAGE_FAULT
        ; je ->fault
        ; cmp rcx, 256
        ; jae =>to.fail
        ; jmp QWORD [rcx * 8 + image::JUMPS as i32]
    );
}

fn io(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; mov ecx, [vmcb::EXIT_INFO_1]
        ; mov edx, ecx
        ; shr edx, 16
        ; bt ecx, 0
    );
    handlers::io(a, to);
}

fn msr(a: &mut Assembler, to: &Targets) {
    dynasm!(a ; .arch x64 ; cmp DWORD [vmcb::EXIT_INFO_1], 0 ; je ->rdmsr);
    handlers::wrmsr(a, to);
    dynasm!(a ; .arch x64 ; ->rdmsr:);
    handlers::rdmsr(a, to);
}

/// With decode assists, EXITINFO1 has the register's number. RSP's place among the saved registers holds the host's.
fn move_to_cr3(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; mov rcx, [vmcb::EXIT_INFO_1]
        ; bt rcx, 63
        ; jnc =>to.fail
        ; and ecx, 15
        ; mov rax, [rsp + rcx * 8]
        ; mov [vmcb::CR3], rax
        ; mov DWORD [vmcb::TLB_CONTROL], FLUSH_GUEST
        ; jmp =>to.skip
    );
}

fn page_fault(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; ->fault:
        ; mov rax, [vmcb::EXIT_INFO_2]
    );
    handlers::map_window(a, to, 0x67);
    dynasm!(a
        ; .arch x64
        ; mov DWORD [vmcb::TLB_CONTROL], FLUSH_GUEST
        ; jmp ->enter
    );
}

fn functions(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; =>to.intercept
        ; or DWORD [vmcb::INTERCEPT_CR], CR3_WRITE
        ; jmp =>to.skip
        ; =>to.interrupt
        ; mov eax, (1 << 31 | u32::from(image::INJECTED)) as i32
        ; mov [vmcb::EVENT_INJECTION], rax
        ; jmp =>to.skip
    );
}

/// The kernel, and its rows.
pub fn kernel(count: u32) -> (BootFile, Vec<&'static str>) {
    let mut a = Assembler::new(image::BASE as usize);
    let mut label = || a.new_dynamic_label();
    let to = Targets { skip: label(), fail: label(), intercept: label(), interrupt: label() };
    run(&mut a, &to);
    let mut jumps = vec![(0..256, a.offset())];
    handlers::fail(&mut a, &to);
    type Handler = fn(&mut Assembler, &Targets);
    let table: [(u64, Handler); 6] = [
        (0x13, move_to_cr3),
        (0x72, handlers::cpuid),
        (0x78, |a, to| dynasm!(a ; .arch x64 ; jmp =>to.skip)),
        (0x7b, io),
        (0x7c, msr),
        (0x81, handlers::hypercall),
    ];
    for (code, handler) in table {
        jumps.push((code..code + 1, a.offset()));
        handler(&mut a, &to);
    }
    page_fault(&mut a, &to);
    functions(&mut a, &to);
    let guest = guest(&mut a, Extension::Svm, count);
    let code = a.finalize().expect("all labels are defined");
    let address = |offset: AssemblyOffset| image::BASE + offset.0 as u64;
    let mut image = Image::new(&code);
    image.common(image::NESTED, address(guest.handler));
    for (codes, handler) in jumps {
        codes.for_each(|code| image.word(image::JUMPS + 8 * code, address(handler)));
    }
    for (offset, size, value) in fields(address(guest.entry)) {
        image.bytes(image::VMCB + offset, &value.to_le_bytes()[..size]);
    }
    image.bytes(image::IO_PERMISSIONS, &[0xff; 0x3000]);
    image.bytes(image::MSR_PERMISSIONS, &[0xff; 0x2000]);
    (image.file("SVM demonstration"), guest.rows)
}
