//! The hypervisor that uses VMX (SDM 3C chapters 24 to 31).

use super::Extension;
use super::guest::guest;
use super::handlers::{self, Assembler, Targets};
use super::image::{self, Image};
use crate::BootFile;
use dynasmrt::{AssemblyOffset, DynasmApi, DynasmLabelApi, dynasm};

/// Capability MSRs that say which bits a field of controls must and may have.
mod capability {
    pub const PIN: u32 = 0x48d;
    pub const PRIMARY: u32 = 0x48e;
    pub const EXIT: u32 = 0x48f;
    pub const ENTRY: u32 = 0x490;
    pub const SECONDARY: u32 = 0x48b;
}

const FEATURE_CONTROL: i32 = 0x3a;
const VMX_BASIC: i32 = 0x480;
/// PE, ET, NE, WP, PG; PAE, VMXE.
const CR0: u64 = 0x8001_0031;
const CR4: u64 = 0x2020;
const CR3_LOAD_EXITING: i32 = 1 << 15;

/// Fields that handlers use.
mod field {
    pub const PRIMARY: i32 = 0x4002;
    pub const ENTRY_INTERRUPTION: i32 = 0x4016;
    pub const EXIT_REASON: i32 = 0x4402;
    pub const INSTRUCTION_LENGTH: i32 = 0x440c;
    pub const QUALIFICATION: i32 = 0x6400;
    pub const PHYSICAL: i32 = 0x2400;
    pub const GUEST_CR3: i32 = 0x6802;
    pub const GUEST_RIP: i32 = 0x681e;
}

/// All fields that matter: encoding, capability MSR or 0, value.
fn fields(host_rip: u64, guest_rip: u64) -> Vec<(u32, u32, u64)> {
    let mut fields = vec![
        // HLT, CR3-load and unconditional I/O exiting; MSR bitmaps; secondary controls. CR3-load exiting comes later.
        (0x4000, capability::PIN, 0),
        (0x4002, capability::PRIMARY, 1 << 7 | 1 << 24 | 1 << 28 | 1 << 31),
        // EPT, VPID.
        (0x401e, capability::SECONDARY, 1 << 1 | 1 << 5),
        // A 64-bit host; a 64-bit guest.
        (0x400c, capability::EXIT, 1 << 9),
        (0x4012, capability::ENTRY, 1 << 9),
        (0x0000, 0, 1),
        (0x2004, 0, image::MSR_BITMAP),
        // Write-back, four levels.
        (0x201a, 0, image::NESTED_TABLES | 3 << 3 | 6),
        (0x2800, 0, u64::MAX),
        (0x6c00, 0, CR0),
        (0x6c02, 0, image::HOST_TABLES),
        (0x6c04, 0, CR4),
        (0x6c0a, 0, image::TSS),
        (0x6c0c, 0, image::GDT),
        (0x6c0e, 0, image::IDT),
        (0x6c14, 0, image::HOST_STACK),
        (0x6c16, 0, host_rip),
        (0x0c02, 0, image::CODE.into()),
        (0x0c0c, 0, image::TASK.into()),
        (0x6800, 0, CR0),
        (0x6802, 0, image::TABLES[0]),
        (0x6804, 0, CR4),
        (0x6000, 0, 0),
        (0x6002, 0, 1 << 13),
        // RFLAGS with IF.
        (0x6820, 0, 0x202),
        (0x681e, 0, guest_rip),
        (0x681a, 0, 0x400),
        // GDTR, IDTR.
        (0x6816, 0, image::GDT),
        (0x4810, 0, image::TABLE_LIMIT.into()),
        (0x6818, 0, image::IDT),
        (0x4812, 0, image::IDT_LIMIT.into()),
        // CS.
        (0x0802, 0, image::CODE.into()),
        (0x4802, 0, 0xffff_ffff),
        (0x4816, 0, 0xa09b),
        // LDTR, unusable; TR.
        (0x4820, 0, 0x1_0000),
        (0x080e, 0, image::TASK.into()),
        (0x480e, 0, 0x67),
        (0x4822, 0, 0x8b),
        (0x6814, 0, image::TSS),
    ];
    // ES, SS, DS, FS, GS.
    for n in [0, 2, 3, 4, 5] {
        fields.push((0x0800 + 2 * n, 0, image::DATA.into()));
        fields.push((0x4800 + 2 * n, 0, 0xffff_ffff));
        fields.push((0x4814 + 2 * n, 0, 0xc093));
        fields.push((0x0c00 + 2 * n, 0, image::DATA.into()));
    }
    fields
}

/// From the loader's state into VMX operation, with the VMCS filled.
fn start(a: &mut Assembler, to: &Targets, fields: usize) {
    let end = image::FIELDS as i32 + 16 * fields as i32;
    dynasm!(a
        ; .arch x64
        ; mov esp, image::HOST_STACK as i32
        ; mov eax, image::HOST_TABLES as i32
        ; mov cr3, rax
        ; lgdt [image::GDT_POINTER as i32]
        ; mov ecx, FEATURE_CONTROL
        ; rdmsr
        ; test al, 1
        ; jnz >locked
        ; or eax, 5
        ; wrmsr
        ; locked:
        ; mov eax, CR0 as i32
        ; mov cr0, rax
        ; mov eax, CR4 as i32
        ; mov cr4, rax
        ; mov ecx, VMX_BASIC
        ; rdmsr
        ; mov [image::VMXON_REGION as i32], eax
        ; mov [image::VMCS as i32], eax
        ; vmxon [image::VMXON_POINTER as i32]
        ; jbe =>to.fail
        ; vmclear [image::VMCS_POINTER as i32]
        ; jbe =>to.fail
        ; vmptrld [image::VMCS_POINTER as i32]
        ; jbe =>to.fail
        ; mov esi, image::FIELDS as i32
        ; next:
        ; mov edi, [rsi]
        ; mov rbx, [rsi + 8]
        ; mov ecx, [rsi + 4]
        ; test ecx, ecx
        ; jz >plain
        ; rdmsr
        ; or ebx, eax
        ; and ebx, edx
        ; plain:
        ; vmwrite rdi, rbx
        ; jbe =>to.fail
        ; add esi, 16
        ; cmp esi, end
        ; jb <next
        ; vmlaunch
        ; jmp =>to.fail
    );
}

/// Where exits arrive, and the way back.
fn exits(a: &mut Assembler, to: &Targets) -> AssemblyOffset {
    let host_rip = a.offset();
    handlers::save(a);
    dynasm!(a
        ; .arch x64
        ; mov eax, field::EXIT_REASON
        ; vmread rcx, rax
        ; cmp ecx, 64
        ; jae =>to.fail
        ; jmp QWORD [rcx * 8 + image::JUMPS as i32]
        ; =>to.skip
        ; mov eax, field::GUEST_RIP
        ; vmread rbx, rax
        ; mov ecx, field::INSTRUCTION_LENGTH
        ; vmread rdx, rcx
        ; add rbx, rdx
        ; vmwrite rax, rbx
        ; ->enter:
    );
    handlers::restore(a);
    dynasm!(a ; .arch x64 ; vmresume ; jmp =>to.fail);
    host_rip
}

fn io(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; mov eax, field::QUALIFICATION
        ; vmread rdx, rax
        ; mov ecx, edx
        ; shr edx, 16
        ; bt ecx, 3
    );
    handlers::io(a, to);
}

fn move_to_cr3(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; mov eax, field::QUALIFICATION
        ; vmread rcx, rax
        ; mov edx, ecx
        ; and edx, 0x3f
        ; cmp edx, 3
        ; jne =>to.fail
        ; shr ecx, 8
        ; and ecx, 15
        ; mov rbx, [rsp + rcx * 8]
        ; mov eax, field::GUEST_CR3
        ; vmwrite rax, rbx
        // The processor has not forgotten the other address space's translations: all but global ones of this VPID.
        ; mov eax, 3
        ; invvpid rax, [image::VPID_DESCRIPTOR as i32]
        ; jbe =>to.fail
        ; jmp =>to.skip
    );
}

fn violation(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; mov eax, field::PHYSICAL
        ; vmread rax, rax
    );
    handlers::map_window(a, to, 0x37);
    dynasm!(a
        ; .arch x64
        ; mov eax, 1
        ; invept rax, [image::EPT_DESCRIPTOR as i32]
        ; jbe =>to.fail
        ; jmp ->enter
    );
}

fn functions(a: &mut Assembler, to: &Targets) {
    dynasm!(a
        ; .arch x64
        ; =>to.intercept
        ; mov eax, field::PRIMARY
        ; vmread rcx, rax
        ; or ecx, CR3_LOAD_EXITING
        ; vmwrite rax, rcx
        ; jmp =>to.skip
        ; =>to.interrupt
        ; mov eax, field::ENTRY_INTERRUPTION
        ; mov ecx, (1 << 31 | u32::from(image::INJECTED)) as i32
        ; vmwrite rax, rcx
        ; jmp =>to.skip
    );
}

/// The kernel, and its rows.
pub fn kernel(count: u32) -> (BootFile, Vec<&'static str>) {
    let mut a = Assembler::new(image::BASE as usize);
    let mut label = || a.new_dynamic_label();
    let to = Targets { skip: label(), fail: label(), intercept: label(), interrupt: label() };
    start(&mut a, &to, fields(0, 0).len());
    let host_rip = exits(&mut a, &to);
    let mut jumps = vec![(0..64, a.offset())];
    handlers::fail(&mut a, &to);
    type Handler = fn(&mut Assembler, &Targets);
    let table: [(u64, Handler); 8] = [
        (10, handlers::cpuid),
        (12, |a, to| dynasm!(a ; .arch x64 ; jmp =>to.skip)),
        (18, handlers::hypercall),
        (28, move_to_cr3),
        (30, io),
        (31, handlers::rdmsr),
        (32, handlers::wrmsr),
        (48, violation),
    ];
    for (reason, handler) in table {
        jumps.push((reason..reason + 1, a.offset()));
        handler(&mut a, &to);
    }
    functions(&mut a, &to);
    let guest = guest(&mut a, Extension::Vmx, count);
    let code = a.finalize().expect("all labels are defined");
    let address = |offset: AssemblyOffset| image::BASE + offset.0 as u64;
    let mut image = Image::new(&code);
    image.common(image::EXTENDED, address(guest.handler));
    for (reasons, handler) in jumps {
        reasons.for_each(|reason| image.word(image::JUMPS + 8 * reason, address(handler)));
    }
    for (n, (field, capability, value)) in (0..).zip(fields(address(host_rip), address(guest.entry))) {
        image.word(image::FIELDS + 16 * n, u64::from(field) | u64::from(capability) << 32);
        image.word(image::FIELDS + 16 * n + 8, value);
    }
    image.word(image::VMXON_POINTER, image::VMXON_REGION);
    image.word(image::VMCS_POINTER, image::VMCS);
    image.word(image::EPT_DESCRIPTOR, image::NESTED_TABLES | 3 << 3 | 6);
    image.word(image::VPID_DESCRIPTOR, 1);
    (image.file("VMX demonstration"), guest.rows)
}
