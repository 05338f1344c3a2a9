//! A hypervisor without hardware's help: a 32-bit kernel runs in ring 1, behind segment limits. What the kernel may not do
//! raises #GP, and is emulated. What it may do, though it shows or needs ring 0, is the matter of the probes: they run
//! first in ring 0 with the kernel's own tables, then in ring 1.

use super::ring1_guest::{self as guest, Assembler, function};
use super::{EXIT_PORT, FAILED};
use crate::BootFile;
use dynasmrt::{AssemblyOffset, DynamicLabel, DynasmApi, DynasmLabelApi, dynasm};

/// The hypervisor's memory: above the guest's segments.
pub const BASE: u32 = 0x100_0000;
const SIZE: u32 = 0x1_0000;
const GDT: u32 = BASE + 0x4000;
const IDT: u32 = BASE + 0x5000;
const TSS: u32 = BASE + 0x6000;
const DIRECTORIES: [u32; 2] = guest::ROOTS;
const WINDOW_TABLE: u32 = BASE + 0xa000;
const STACK: u32 = BASE + SIZE;
const VARIABLES: u32 = BASE + 0x7000;
const GDT_POINTER: u32 = VARIABLES;
const IDT_POINTER: u32 = VARIABLES + 8;
/// The guest's virtual registers, as far as somebody asks for them.
const FLAGS: u32 = VARIABLES + 0x10;
const CR0: u32 = VARIABLES + 0x14;
const CR3: u32 = VARIABLES + 0x18;
const LDTR: u32 = VARIABLES + 0x1c;
const TR: u32 = VARIABLES + 0x20;
const GDTR: u32 = VARIABLES + 0x28;
const IDTR: u32 = VARIABLES + 0x30;
const IO_VALUE: u32 = VARIABLES + 0x38;
const MSR_VALUE: u32 = VARIABLES + 0x40;
const MAPPED: u32 = VARIABLES + 0x48;

/// Selectors: the first six descriptors are copies of the guest's, changed for ring 1.
const SHARED: u32 = 6;
const CODE: i32 = 0x40;
const DATA: i32 = 0x48;
const TASK: i32 = 0x50;
const GDT_LIMIT: u16 = 0x57;
const IDT_LIMIT: u16 = 0x83 * 8 - 1;
/// The vector of hypercalls, and one that the guest wants for itself.
pub const HYPERCALL: u8 = 0x82;

/// Where a trap finds the guest's registers: after PUSHAD, DS and ES.
mod saved {
    pub const EDX: i32 = 28;
    pub const ECX: i32 = 32;
    pub const EBX: i32 = 24;
    pub const EAX: i32 = 36;
    pub const EIP: i32 = 44;
    pub const CS: i32 = 48;
    pub const ESP: i32 = 56;
}

/// Segment registers are loaded by bytes: the assembler takes the wrong direction of MOV.
fn enter_handler(a: &mut Assembler) {
    dynasm!(a
        ; .arch x86
        ; pushad
        ; push ds
        ; push es
        ; mov eax, DATA
        ; .bytes [0x8e, 0xd8]
        ; .bytes [0x8e, 0xc0]
        ; inc DWORD [guest::TRAPS as i32]
    );
}

fn leave_handler(a: &mut Assembler) {
    dynasm!(a
        ; .arch x86
        ; pop es
        ; pop ds
        ; popad
        ; add esp, 4
        ; iretd
    );
}

/// From the loader's state: the hypervisor's tables, paging, and the probes in ring 0.
fn start(a: &mut Assembler, entry: i32, after: DynamicLabel) {
    dynasm!(a
        ; .arch x86
        ; mov esp, STACK as i32
        // No interrupts from the outside.
        ; mov al, -1
        ; out 0x21, al
        ; out 0xa1_u8 as i8, al
        ; mov eax, DIRECTORIES[0] as i32
        ; mov cr3, eax
        ; mov [CR3 as i32], eax
        ; mov eax, cr4
        ; or eax, 0x10
        ; mov cr4, eax
        ; mov eax, cr0
        ; or eax, 0x8001_0000_u32 as i32
        ; mov cr0, eax
        ; mov DWORD [guest::RESULTS as i32], guest::RESULTS_NATIVE as i32
        ; lea eax, [=>after]
        ; mov [guest::AFTER as i32], eax
        ; mov eax, entry
        ; jmp eax
    );
}

/// The hypervisor's own state again, then the guest in ring 1.
fn deprivilege(a: &mut Assembler, entry: i32, after: DynamicLabel) {
    dynasm!(a
        ; .arch x86
        ; =>after
        ; mov esp, STACK as i32
        ; lgdt [GDT_POINTER as i32]
        ; lidt [IDT_POINTER as i32]
        ; push CODE
        ; lea eax, [->reloaded]
        ; push eax
        ; .bytes [0xcb]
        ; ->reloaded:
        ; mov eax, DATA
        ; .bytes [0x8e, 0xd8]
        ; .bytes [0x8e, 0xc0]
        ; .bytes [0x8e, 0xd0]
        ; xor eax, eax
        ; .bytes [0x8e, 0xe0]
        ; .bytes [0x8e, 0xe8]
        ; lldt ax
        ; mov eax, TASK
        ; ltr ax
        ; mov eax, cr0
        ; and eax, !8
        ; mov cr0, eax
        ; mov [CR0 as i32], eax
        ; mov DWORD [guest::RESULTS as i32], guest::RESULTS_RING1 as i32
        ; mov DWORD [guest::AFTER as i32], 0
        ; mov DWORD [guest::TRAPS as i32], 0
        ; push guest::DATA as i32 + 1
        ; push guest::STACK as i32
        // Real interrupts are the hypervisor's, so IF is set whatever the guest wants.
        ; push DWORD 0x202
        ; push guest::CODE as i32 + 1
        ; push entry
        ; mov eax, guest::DATA as i32 + 1
        ; .bytes [0x8e, 0xd8]
        ; .bytes [0x8e, 0xc0]
        ; iretd
    );
}

/// #GP: what the guest may not do itself.
fn general_protection(a: &mut Assembler) -> AssemblyOffset {
    let at = a.offset();
    enter_handler(a);
    dynasm!(a
        ; .arch x86
        ; test BYTE [esp + saved::CS], 3
        ; jz ->fail
        ; mov esi, [esp + saved::EIP]
        ; mov eax, [esi]
        ; mov ebp, 1
        ; cmp al, 0x0f
        ; je >two
        ; cmp al, 0xef_u8 as i8
        ; je >output
        ; cmp al, 0xed_u8 as i8
        ; je >input
        ; cmp al, 0xf4_u8 as i8
        ; je >done
        ; cmp al, 0xfa_u8 as i8
        ; je >clear
        ; cmp al, 0xfb_u8 as i8
        ; jne ->cannot
        ; or DWORD [FLAGS as i32], 0x200
        ; jmp >done
        ; clear:
        ; and DWORD [FLAGS as i32], !0x200
        ; jmp >done
        ; output:
        ; cmp DWORD [esp + saved::EDX], guest::PORT
        ; jne ->fail
        ; mov eax, [esp + saved::EAX]
        ; mov [IO_VALUE as i32], eax
        ; jmp >done
        ; input:
        ; cmp DWORD [esp + saved::EDX], guest::PORT
        ; jne ->fail
        ; mov eax, [IO_VALUE as i32]
        ; not eax
        ; mov [esp + saved::EAX], eax
        ; done:
        ; add [esp + saved::EIP], ebp
        ; ->leave:
    );
    leave_handler(a);
    // Two-byte opcodes: AH is the second byte, then CL the ModRM byte.
    dynasm!(a
        ; .arch x86
        ; two:
        ; mov ebp, 2
        ; mov ecx, eax
        ; shr ecx, 16
        ; cmp ah, 0x30
        ; je >wrmsr
        ; cmp ah, 0x32
        ; je >rdmsr
        ; cmp ah, 0x06
        ; je >clts
        ; mov ebp, 3
        ; cmp ah, 0x22
        ; je >to_control
        ; cmp ah, 0
        ; je >selector
        ; cmp ah, 1
        ; jne ->cannot
        // LGDT and LIDT with an address: ModRM 15, 1d.
        ; mov ebp, 7
        ; mov edx, [esi + 3]
        ; mov eax, [edx]
        ; mov ebx, [edx + 4]
        ; cmp cl, 0x15
        ; je >lgdt
        ; cmp cl, 0x1d
        ; jne ->cannot
        ; mov [IDTR as i32], eax
        ; mov [IDTR as i32 + 4], ebx
        ; jmp <done
        ; lgdt:
        ; mov [GDTR as i32], eax
        ; mov [GDTR as i32 + 4], ebx
        ; mov esi, [edx + 2]
        ; call ->shadow
        ; jmp <done
        // LLDT and LTR of a register: ModRM d0 + n, d8 + n.
        ; selector:
        ; mov edx, ecx
        ; and edx, 7
        ; neg edx
        ; mov eax, [esp + edx * 4 + saved::EAX]
        ; and ecx, 0xf8
        ; cmp cl, 0xd0_u8 as i8
        ; je >lldt
        ; cmp cl, 0xd8_u8 as i8
        ; jne ->cannot
        ; mov [TR as i32], eax
        ; jmp <done
        ; lldt:
        ; mov [LDTR as i32], eax
        ; jmp <done
        // MOV to CR0 (ModRM c0 + n) and CR3 (d8 + n). CR0 stays the hypervisor's.
        ; to_control:
        ; mov edx, ecx
        ; and edx, 7
        ; neg edx
        ; mov eax, [esp + edx * 4 + saved::EAX]
        ; and ecx, 0xf8
        ; cmp cl, 0xc0_u8 as i8
        ; je >cr0
        ; cmp cl, 0xd8_u8 as i8
        ; jne ->cannot
        ; cmp eax, DIRECTORIES[0] as i32
        ; je >known
        ; cmp eax, DIRECTORIES[1] as i32
        ; jne ->fail
        ; known:
        ; mov [CR3 as i32], eax
        ; mov cr3, eax
        ; jmp <done
        ; cr0:
        ; mov [CR0 as i32], eax
        ; jmp <done
        ; clts:
        ; and DWORD [CR0 as i32], !8
        ; jmp <done
        ; wrmsr:
        ; cmp DWORD [esp + saved::ECX], guest::MSR
        ; jne ->fail
        ; mov eax, [esp + saved::EAX]
        ; mov [MSR_VALUE as i32], eax
        ; jmp <done
        ; rdmsr:
        ; cmp DWORD [esp + saved::ECX], guest::MSR
        ; jne ->fail
        ; mov eax, [MSR_VALUE as i32]
        ; mov [esp + saved::EAX], eax
        ; jmp <done
        // What cannot be emulated ends the guest's probe.
        ; ->cannot:
        ; mov DWORD [esp + saved::EAX], guest::FAULTED
        ; mov eax, [guest::RECOVERY as i32]
        ; mov [esp + saved::EIP], eax
        ; mov eax, [guest::RECOVERY_STACK as i32]
        ; mov [esp + saved::ESP], eax
        ; jmp ->leave
    );
    // Copies the guest's descriptors from ESI: ring 1 in place of ring 0, and segments that end below the hypervisor.
    dynasm!(a
        ; .arch x86
        ; ->shadow:
        ; mov edi, GDT as i32
        ; mov ecx, SHARED as i32
        ; next:
        ; mov eax, [esi]
        ; mov edx, [esi + 4]
        ; test dh, 0x10
        ; jz >system
        ; or edx, 0x2000
        ; and edx, !0x000f_0000
        ; mov ax, ((BASE >> 12) - 1) as i16
        ; system:
        ; mov [edi], eax
        ; mov [edi + 4], edx
        ; add esi, 8
        ; add edi, 8
        ; dec ecx
        ; jnz <next
        ; ret
    );
    at
}

/// #PF: one page of the window is mapped at a time.
fn page_fault(a: &mut Assembler) -> AssemblyOffset {
    let at = a.offset();
    enter_handler(a);
    dynasm!(a
        ; .arch x86
        ; mov eax, cr2
        ; mov ecx, eax
        ; sub ecx, guest::WINDOW as i32
        ; shr ecx, 12
        ; cmp ecx, 1024
        ; jae ->fail
        ; mov edx, [MAPPED as i32]
        ; mov DWORD [edx * 4 + WINDOW_TABLE as i32], 0
        ; shl edx, 12
        ; invlpg [edx + guest::WINDOW as i32]
        ; mov [MAPPED as i32], ecx
        ; and eax, -4096
        ; or eax, 0x67
        ; mov [ecx * 4 + WINDOW_TABLE as i32], eax
    );
    leave_handler(a);
    at
}

/// The hypervisor's service, and a gate that the guest takes for its own.
fn services(a: &mut Assembler) -> (AssemblyOffset, AssemblyOffset) {
    let hypercall = a.offset();
    dynasm!(a ; .arch x86 ; push 0);
    enter_handler(a);
    dynasm!(a
        ; .arch x86
        ; mov eax, [esp + saved::EAX]
        ; cmp eax, function::NOTHING
        ; je >done
        ; cmp eax, function::TELL
        ; jne ->fail
        ; mov eax, [esp + saved::EBX]
        ; out EXIT_PORT, al
        ; done:
    );
    leave_handler(a);
    let other = a.offset();
    dynasm!(a ; .arch x86 ; push 0);
    enter_handler(a);
    leave_handler(a);
    (hypercall, other)
}

fn fail(a: &mut Assembler) -> AssemblyOffset {
    let at = a.offset();
    dynasm!(a
        ; .arch x86
        ; ->fail:
        ; mov al, FAILED as i8
        ; out EXIT_PORT, al
        ; jmp ->fail
    );
    at
}

/// Bytes of one part of memory.
struct Part {
    base: u32,
    bytes: Vec<u8>,
}

impl Part {
    fn new(base: u32, size: u32) -> Self {
        Self { base, bytes: vec![0; size as usize] }
    }

    fn put(&mut self, at: u32, bytes: &[u8]) {
        self.bytes[(at - self.base) as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, at: u32, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn double(&mut self, at: u32, value: u32) {
        self.put(at, &value.to_le_bytes());
    }
}

/// An interrupt gate to ring 0, with selector `code`, that level `dpl` may use (SDM 3A figure 7-2).
fn gate(handler: u32, code: u32, dpl: u64) -> u64 {
    let handler = u64::from(handler);
    handler & 0xffff | u64::from(code) << 16 | (0x8e00 | dpl << 13) << 32 | (handler >> 16) << 48
}

/// A limit and a base, as LGDT and LIDT load them.
fn pointer(limit: u16, base: u32) -> u64 {
    u64::from(limit) | u64::from(base) << 16
}

/// An ELF32 file of parts that are loaded where they say, entered at `entry`.
fn file(parts: &[Part], entry: u32) -> BootFile {
    let headers = 52 + 32 * parts.len() as u32;
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([2, 0, 3, 0, 1, 0, 0, 0]);
    for double in [entry, 52, 0, 0] {
        file.extend(double.to_le_bytes());
    }
    for half in [52, 32, parts.len() as u16, 40, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut at = headers;
    for part in parts {
        let size = part.bytes.len() as u32;
        for double in [1, at, part.base, part.base, size, size, 7, 0x1000] {
            file.extend(double.to_le_bytes());
        }
        at += size;
    }
    parts.iter().for_each(|part| file.extend(&part.bytes));
    BootFile::new("ring-1 demonstration", file)
}

/// The kernel, and its rows.
pub fn kernel(count: u32) -> (BootFile, Vec<&'static str>) {
    let mut low = Assembler::new(guest::BASE as usize);
    let kernel = guest::kernel(&mut low, count);
    let low = low.finalize().expect("all labels are defined");
    let mut guest_memory = Part::new(guest::BASE, guest::SIZE);
    guest_memory.put(guest::BASE, &low);
    let mut a = Assembler::new(BASE as usize);
    let after = a.new_dynamic_label();
    start(&mut a, kernel.entry as i32, after);
    deprivilege(&mut a, kernel.entry as i32, after);
    let protection = general_protection(&mut a);
    let page = page_fault(&mut a);
    let (hypercall, other) = services(&mut a);
    let fail = fail(&mut a);
    let code = a.finalize().expect("all labels are defined");
    let address = |offset: AssemblyOffset| BASE + offset.0 as u32;
    let mut memory = Part::new(BASE, SIZE);
    memory.put(BASE, &code);
    for (n, descriptor) in (8..).zip([
        0x00cf_9b00_0000_ffff_u64,
        0x00cf_9300_0000_ffff,
        0x0100_8900_0000_0067 | u64::from(TSS & 0xff_ffff) << 16,
    ]) {
        memory.word(GDT + 8 * n, descriptor);
    }
    for vector in 0..32 {
        memory.word(IDT + 8 * vector, gate(address(fail), CODE as u32, 0));
    }
    for (vector, handler, dpl) in [
        (13, protection, 0),
        (14, page, 0),
        (guest::VECTOR.into(), other, 1),
        (HYPERCALL.into(), hypercall, 1),
    ] {
        memory.word(IDT + 8 * vector, gate(address(handler), CODE as u32, dpl));
    }
    memory.word(GDT_POINTER, pointer(GDT_LIMIT, GDT));
    memory.word(IDT_POINTER, pointer(IDT_LIMIT, IDT));
    memory.double(TSS + 4, STACK);
    memory.double(TSS + 8, DATA as u32);
    // No I/O permission bitmap.
    memory.double(TSS + 0x64, 0x68 << 16);
    // 4-MiB pages for the first 64 MiB, of which the second directory maps one elsewhere; the window's 4-KiB pages.
    for (n, root) in DIRECTORIES.into_iter().enumerate() {
        for page in 0..16_u32 {
            let moved = n == 1 && page == guest::DIFFERENT >> 22;
            let frame = if moved { guest::DIFFERENT_FRAME } else { page << 22 };
            guest_memory.double(root + 4 * page, frame | 0xe7);
        }
        guest_memory.double(root + 4 * (guest::WINDOW >> 22), WINDOW_TABLE | 0x67);
    }
    guest::tables(|at, value| guest_memory.word(at, value), kernel.handler);
    // The guest starts with its own descriptors, as LGDT would shadow them.
    for n in 0..SHARED {
        let descriptor = guest::descriptor(n);
        let shadow = if descriptor >> 44 & 1 == 0 {
            descriptor
        } else {
            descriptor & !0x000f_0000_0000_ffff | 1 << 45 | u64::from((BASE >> 12) - 1)
        };
        memory.word(GDT + 8 * n, shadow);
    }
    (file(&[guest_memory, memory], BASE), kernel.rows)
}
