//! The kernel that runs in ring 1, and believes to be in ring 0.

use super::ring1::HYPERCALL;
use super::{FAILED, WARM_UP};
use dynasmrt::x86::X86Relocation;
use dynasmrt::{AssemblyOffset, DynamicLabel, DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

pub type Assembler = VecAssembler<X86Relocation>;

/// The kernel's memory.
pub const BASE: u32 = 0x10_0000;
pub const SIZE: u32 = 0x1_0000;
const GDT: u32 = BASE + 0x8000;
const IDT: u32 = BASE + 0x8100;
const VARIABLES: u32 = BASE + 0x9000;
/// Page directories.
pub const ROOTS: [u32; 2] = [BASE + 0xa000, BASE + 0xb000];
pub const RESULTS_NATIVE: u32 = BASE + 0xc000;
pub const RESULTS_RING1: u32 = BASE + 0xc800;
pub const STACK: u32 = BASE + SIZE;
/// Where results go; where the kernel goes after its probes, if not on; entries into the hypervisor.
pub const RESULTS: u32 = VARIABLES;
pub const AFTER: u32 = VARIABLES + 4;
pub const TRAPS: u32 = VARIABLES + 8;
/// Where a probe that cannot be emulated ends.
pub const RECOVERY: u32 = VARIABLES + 12;
pub const RECOVERY_STACK: u32 = VARIABLES + 16;
const BEFORE: u32 = VARIABLES + 20;
const SCRATCH: u32 = VARIABLES + 24;
const HANDLED: u32 = VARIABLES + 32;
const GDT_POINTER: u32 = VARIABLES + 40;
const IDT_POINTER: u32 = VARIABLES + 48;
/// 4 MiB of which one page is mapped at a time, and a page that the address spaces map to different memory.
pub const WINDOW: u32 = 0x80_0000;
pub const DIFFERENT: u32 = 0xc0_0000;
pub const DIFFERENT_FRAME: u32 = 0x140_0000;
pub const PORT: i32 = 0x8100;
pub const MSR: i32 = 0x4b56_4d00;
/// The kernel's selectors.
pub const CODE: u32 = 0x08;
pub const DATA: u32 = 0x10;
const TASK: i32 = 0x18;
const LDT: i32 = 0x20;
/// A descriptor that the kernel writes into its table after LGDT.
const NEW: i32 = 0x28;
const FLAT_DATA: u64 = 0x00cf_9300_0000_ffff;
/// The vector that the kernel handles itself.
pub const VECTOR: u8 = 0x30;
/// What a probe gives that raised a fault.
pub const FAULTED: i32 = 0xfa17;

/// Functions of the hypercall, in EAX.
pub mod function {
    pub const NOTHING: i32 = 0;
    /// Write EBX to the debug-exit port.
    pub const TELL: i32 = 1;
}

/// An instruction that does not trap in ring 1 though it depends on the ring.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// The instruction.
    pub instruction: &'static str,
    /// What its result is.
    pub shows: &'static str,
}

type Code = fn(&mut Assembler);

/// What is to be seen, what comes before, and the instruction; the result is in EAX.
type Row = (&'static str, &'static str, Code, Code);

fn nothing(_: &mut Assembler) {}

/// Pushes a far pointer to `to` in the kernel's code segment.
fn push_far(a: &mut Assembler, to: DynamicLabel) {
    dynasm!(a ; .arch x86 ; push CODE as i32 ; lea eax, [=>to] ; push eax);
}

/// The probes: Robin and Irvine's list, with IRET (Analysis of the Intel Pentium's ability to support a secure virtual
/// machine monitor, 2000).
const PROBES: [Row; 20] = [
    ("SGDT", "base of the kernel's GDT", nothing, |a| {
        dynasm!(a ; .arch x86 ; sgdt [SCRATCH as i32] ; mov eax, [SCRATCH as i32 + 2]);
    }),
    ("SIDT", "base of the kernel's IDT", nothing, |a| {
        dynasm!(a ; .arch x86 ; sidt [SCRATCH as i32] ; mov eax, [SCRATCH as i32 + 2]);
    }),
    ("SLDT", "selector that LLDT has loaded", nothing, |a| {
        dynasm!(a ; .arch x86 ; xor eax, eax ; sldt ax);
    }),
    ("STR", "selector that LTR has loaded", nothing, |a| {
        dynasm!(a ; .arch x86 ; xor eax, eax ; str ax);
    }),
    (
        "SMSW",
        "CR0.TS, which the kernel has set",
        |a| {
            dynasm!(a ; .arch x86 ; mov eax, 0x8001_0019_u32 as i32 ; mov cr0, eax);
        },
        |a| dynasm!(a ; .arch x86 ; xor eax, eax ; smsw ax ; and eax, 8),
    ),
    (
        "PUSHF",
        "IF after CLI",
        |a| dynasm!(a ; .arch x86 ; clts ; cli),
        |a| {
            dynasm!(a ; .arch x86 ; .bytes [0x9c] ; pop eax ; and eax, 0x200);
        },
    ),
    ("POPF", "IOPL after POPF has set it", nothing, |a| {
        dynasm!(a
            ; .arch x86
            ; push DWORD 0x3002 ; .bytes [0x9d] ; .bytes [0x9c] ; pop eax ; and eax, 0x3000
            ; push 2 ; .bytes [0x9d]
        );
    }),
    ("LAR", "access rights of the data segment", nothing, |a| {
        dynasm!(a ; .arch x86 ; mov ecx, DATA as i32 ; lar eax, ecx ; and eax, 0xf0_ff00);
    }),
    ("LSL", "limit of the data segment", nothing, |a| {
        dynasm!(a ; .arch x86 ; mov ecx, DATA as i32 ; lsl eax, ecx);
    }),
    ("VERR", "a new segment can be read", new_descriptor, |a| {
        dynasm!(a ; .arch x86 ; mov ecx, NEW ; xor eax, eax ; verr cx ; setz al);
    }),
    ("VERW", "a new segment can be written", nothing, |a| {
        dynasm!(a ; .arch x86 ; mov ecx, NEW ; xor eax, eax ; verw cx ; setz al);
    }),
    ("MOV to a segment register", "1 after a new segment was loaded", nothing, |a| {
        dynasm!(a
            ; .arch x86
            ; mov eax, NEW ; .bytes [0x8e, 0xc0] ; mov eax, DATA as i32 ; .bytes [0x8e, 0xc0] ; mov eax, 1
        );
    }),
    ("MOV from a segment register", "CS", nothing, |a| {
        dynasm!(a ; .arch x86 ; xor eax, eax ; mov ax, cs);
    }),
    ("PUSH of a segment register", "CS", nothing, |a| {
        dynasm!(a ; .arch x86 ; push cs ; pop eax ; and eax, 0xffff);
    }),
    ("POP to a segment register", "1 after SS was loaded", nothing, |a| {
        dynasm!(a ; .arch x86 ; push DATA as i32 ; pop ss ; mov eax, 1);
    }),
    ("far CALL", "CS on the stack", nothing, |a| {
        let to = a.new_dynamic_label();
        push_far(a, to);
        dynasm!(a ; .arch x86 ; .bytes [0xff, 0x1c, 0x24] ; =>to ; pop eax ; pop eax ; add esp, 8 ; and eax, 0xffff);
    }),
    ("far JMP", "CS after it", nothing, |a| {
        let to = a.new_dynamic_label();
        push_far(a, to);
        dynasm!(a ; .arch x86 ; .bytes [0xff, 0x2c, 0x24] ; =>to ; add esp, 8 ; xor eax, eax ; mov ax, cs);
    }),
    ("INT n", "1 after the kernel's handler", nothing, |a| {
        dynasm!(a
            ; .arch x86
            ; mov DWORD [HANDLED as i32], 0 ; int VECTOR as i8 ; mov eax, [HANDLED as i32]
        );
    }),
    ("far RET", "1 after a return to the kernel's CS", nothing, |a| {
        let to = a.new_dynamic_label();
        push_far(a, to);
        dynasm!(a ; .arch x86 ; .bytes [0xcb] ; =>to ; mov eax, 1);
    }),
    ("IRET", "IOPL after IRET has set it", nothing, |a| {
        let to = a.new_dynamic_label();
        dynasm!(a
            ; .arch x86
            ; push DWORD 0x3002 ; push cs ; lea eax, [=>to] ; push eax ; iretd
            ; =>to
            ; .bytes [0x9c] ; pop eax ; and eax, 0x3000 ; push 2 ; .bytes [0x9d]
        );
    }),
];

/// The kernel adds a segment to its table.
fn new_descriptor(a: &mut Assembler) {
    dynasm!(a
        ; .arch x86
        ; mov DWORD [GDT as i32 + NEW], FLAT_DATA as i32
        ; mov DWORD [GDT as i32 + NEW + 4], (FLAT_DATA >> 32) as i32
    );
}

/// The probes' descriptions.
pub fn probes() -> impl Iterator<Item = Probe> {
    PROBES.iter().map(|&(instruction, shows, ..)| Probe { instruction, shows })
}

/// A loop's text and body. EDI counts, EBP and ESI are the bodies'.
const ROWS: [(&str, Code); 11] = [
    ("a loop that never leaves the guest", nothing),
    ("hypercall", |a| {
        dynasm!(a ; .arch x86 ; mov eax, function::NOTHING ; int HYPERCALL as i8);
    }),
    ("CPUID, which does not trap", |a| {
        dynasm!(a ; .arch x86 ; xor eax, eax ; cpuid);
    }),
    ("OUT to a virtual device", |a| {
        dynasm!(a ; .arch x86 ; mov edx, PORT ; mov eax, edi ; mov esi, eax ; out dx, eax);
    }),
    ("IN from a virtual device", |a| {
        dynasm!(a ; .arch x86 ; mov edx, PORT ; in eax, dx ; not eax ; cmp eax, esi ; jne ->failed);
    }),
    ("WRMSR of a virtual register", |a| {
        dynasm!(a ; .arch x86 ; mov ecx, MSR ; mov eax, edi ; mov esi, eax ; wrmsr);
    }),
    ("RDMSR of a virtual register", |a| {
        dynasm!(a ; .arch x86 ; mov ecx, MSR ; rdmsr ; cmp eax, esi ; jne ->failed);
    }),
    ("HLT", |a| dynasm!(a ; .arch x86 ; hlt)),
    ("CLI and STI", |a| dynasm!(a ; .arch x86 ; cli ; sti)),
    ("MOV to CR3", |a| {
        let difference = (ROOTS[0] ^ ROOTS[1]) as i32;
        dynasm!(a
            ; .arch x86
            ; xor ebp, difference ; mov cr3, ebp ; cmp [DIFFERENT as i32], ebp ; jne ->failed
        );
    }),
    ("write to a page that has to be mapped first", |a| {
        dynasm!(a
            ; .arch x86
            ; inc esi
            ; and esi, 1023
            ; mov eax, esi
            ; shl eax, 12
            ; mov [eax + WINDOW as i32], esi
            ; cmp [eax + WINDOW as i32], esi
            ; jne ->failed
        );
    }),
];

fn tell(a: &mut Assembler, what: u8) {
    dynasm!(a ; .arch x86 ; mov eax, function::TELL ; mov ebx, what.into() ; int HYPERCALL as i8);
}

/// The kernel's places.
pub struct Kernel {
    pub entry: u32,
    pub handler: u32,
    pub rows: Vec<&'static str>,
}

/// The kernel's own tables are loaded, and used where the processor allows that.
fn set_up(a: &mut Assembler) {
    dynasm!(a
        ; .arch x86
        ; mov esp, STACK as i32
        ; mov DWORD [GDT as i32 + NEW], 0
        ; mov DWORD [GDT as i32 + NEW + 4], 0
        // A task that LTR has loaded is busy.
        ; and BYTE [GDT as i32 + TASK + 5], !2
        ; lgdt [GDT_POINTER as i32]
        ; lidt [IDT_POINTER as i32]
        ; mov eax, LDT
        ; lldt ax
        ; mov eax, TASK
        ; ltr ax
    );
    let to = a.new_dynamic_label();
    // In ring 1 the far JMP's selector keeps RPL 1.
    push_far(a, to);
    dynasm!(a
        ; .arch x86
        ; .bytes [0xff, 0x2c, 0x24]
        ; =>to
        ; mov esp, STACK as i32
        ; mov eax, DATA as i32
        ; .bytes [0x8e, 0xd8]
        ; .bytes [0x8e, 0xc0]
        ; xor eax, eax
        ; mov ax, cs
        ; and eax, 3
        ; or eax, DATA as i32
        ; .bytes [0x8e, 0xd0]
    );
}

/// Assembles the kernel.
pub fn kernel(a: &mut Assembler, count: u32) -> Kernel {
    let address = |offset: AssemblyOffset| BASE + offset.0 as u32;
    let handler = address(a.offset());
    dynasm!(a ; .arch x86 ; mov DWORD [HANDLED as i32], 1 ; iretd);
    let entry = address(a.offset());
    set_up(a);
    for (n, (_, _, before, probe)) in PROBES.iter().enumerate() {
        let at = 8 * n as i32;
        let after = a.new_dynamic_label();
        before(a);
        dynasm!(a
            ; .arch x86
            ; lea eax, [=>after]
            ; mov [RECOVERY as i32], eax
            ; mov [RECOVERY_STACK as i32], esp
            ; mov eax, [TRAPS as i32]
            ; mov [BEFORE as i32], eax
        );
        probe(a);
        dynasm!(a
            ; .arch x86
            ; =>after
            ; mov edi, [RESULTS as i32]
            ; mov [edi + at], eax
            ; mov eax, [TRAPS as i32]
            ; sub eax, [BEFORE as i32]
            ; mov [edi + at + 4], eax
        );
    }
    dynasm!(a
        ; .arch x86
        ; mov eax, [AFTER as i32]
        ; test eax, eax
        ; jz >on
        ; jmp eax
        ; on:
        ; mov ebp, ROOTS[0] as i32
        ; mov [DIFFERENT as i32], ebp
        ; mov eax, ROOTS[1] as i32
        ; mov cr3, eax
        ; mov [DIFFERENT as i32], eax
        ; mov cr3, ebp
        ; xor esi, esi
    );
    for (n, (_, body)) in ROWS.iter().enumerate() {
        let repeat = a.new_dynamic_label();
        let over = a.new_dynamic_label();
        let again = a.new_dynamic_label();
        dynasm!(a ; .arch x86 ; mov edi, WARM_UP ; call =>repeat);
        tell(a, 2 * n as u8);
        dynasm!(a ; .arch x86 ; mov edi, count as i32 ; call =>repeat);
        tell(a, 2 * n as u8 + 1);
        dynasm!(a ; .arch x86 ; jmp =>over ; =>repeat ; =>again);
        body(a);
        dynasm!(a ; .arch x86 ; dec edi ; jnz =>again ; ret ; =>over);
    }
    dynasm!(a ; .arch x86 ; ->failed:);
    tell(a, FAILED);
    dynasm!(a ; .arch x86 ; jmp ->failed);
    Kernel { entry, handler, rows: ROWS.iter().map(|(text, _)| *text).collect() }
}

/// The kernel's GDT.
pub fn descriptor(n: u32) -> u64 {
    let system = |base: u32, limit: u64, kind: u64| limit | u64::from(base & 0xff_ffff) << 16 | kind << 40;
    match n {
        1 => 0x00cf_9b00_0000_ffff,
        2 => FLAT_DATA,
        3 => system(VARIABLES + 0x100, 0x67, 0x89),
        4 => system(VARIABLES + 0x200, 7, 0x82),
        _ => 0,
    }
}

/// Puts the kernel's tables into memory.
pub fn tables(mut put: impl FnMut(u32, u64), handler: u32) {
    for n in 0..5 {
        put(GDT + 8 * n, descriptor(n));
    }
    let handler = u64::from(handler);
    put(
        IDT + 8 * u32::from(VECTOR),
        handler & 0xffff | u64::from(CODE) << 16 | 0x8e00 << 32 | (handler >> 16) << 48,
    );
    put(GDT_POINTER, 0x2f | u64::from(GDT) << 16);
    put(IDT_POINTER, (8 * u64::from(VECTOR) + 7) | u64::from(IDT) << 16);
}
