//! Memory of the 64-bit programs: where everything lies, page tables, descriptor tables, and the ELF file around it.

use crate::BootFile;

/// The image's first byte, which is its entry point.
pub const BASE: u64 = 0x20_0000;
const END: u64 = 0x25_0000;
/// Page tables of the guest's two address spaces, of the host, and of the second stage: a page each of level 4, 3, 2.
pub const TABLES: [u64; 2] = [0x22_0000, 0x22_3000];
pub const HOST_TABLES: u64 = 0x22_6000;
pub const NESTED_TABLES: u64 = 0x22_9000;
/// The second stage's table of 4-KiB pages, for the window.
pub const WINDOW_TABLE: u64 = 0x22_c000;
pub const GDT: u64 = 0x22_d000;
pub const IDT: u64 = 0x22_e000;
pub const TSS: u64 = 0x22_f000;
pub const VMXON_REGION: u64 = 0x23_0000;
pub const VMCS: u64 = 0x23_1000;
pub const MSR_BITMAP: u64 = 0x23_4000;
pub const VMCB: u64 = 0x23_5000;
pub const HOST_SAVE: u64 = 0x23_6000;
pub const IO_PERMISSIONS: u64 = 0x23_7000;
pub const MSR_PERMISSIONS: u64 = 0x23_a000;
/// Addresses of the handlers, by exit reason or code.
pub const JUMPS: u64 = 0x23_c000;
/// The VMCS's fields: field, capability MSR, value.
pub const FIELDS: u64 = 0x23_d000;
pub const VARIABLES: u64 = 0x23_e000;
pub const HOST_STACK: u64 = 0x24_8000;
pub const GUEST_STACK: u64 = 0x25_0000;
/// The guest's virtual device and register.
pub const IO_VALUE: u64 = VARIABLES;
pub const MSR_VALUE: u64 = VARIABLES + 8;
/// The window's page that is mapped.
pub const MAPPED: u64 = VARIABLES + 16;
/// Operands in memory: addresses for VMXON and VMPTRLD, descriptors for INVEPT, INVVPID, LGDT.
pub const VMXON_POINTER: u64 = VARIABLES + 32;
pub const VMCS_POINTER: u64 = VARIABLES + 40;
pub const EPT_DESCRIPTOR: u64 = VARIABLES + 48;
pub const VPID_DESCRIPTOR: u64 = VARIABLES + 64;
pub const GDT_POINTER: u64 = VARIABLES + 80;
/// 2 MiB of guest-physical memory of which the second stage maps one page at a time.
pub const WINDOW: u64 = 0x0400_0000;
/// A page that the guest's address spaces map to different memory.
pub const DIFFERENT: u64 = 0x0600_0000;
pub const LARGE_PAGE: u64 = 0x20_0000;
/// Selectors: those that the loader starts with.
pub const CODE: u16 = 0x10;
pub const DATA: u16 = 0x18;
pub const TASK: u16 = 0x20;
pub const TABLE_LIMIT: u16 = 0x2f;
pub const IDT_LIMIT: u16 = 0x40 * 16 + 15;
/// The vector that the hypervisor injects.
pub const INJECTED: u8 = 0x40;

/// How table entries look.
#[derive(Clone, Copy)]
pub struct Flags {
    pub table: u64,
    pub page: u64,
}

/// Present, writable, accessed, dirty.
pub const ORDINARY: Flags = Flags { table: 0x23, page: 0xe3 };
/// The same, for AMD's nested tables, whose accesses are user accesses.
pub const NESTED: Flags = Flags { table: 0x27, page: 0xe7 };
/// EPT: read, write, execute; pages are write-back.
pub const EXTENDED: Flags = Flags { table: 7, page: 0xb7 };

/// The image's bytes.
pub struct Image(Vec<u8>);

impl Image {
    /// An image with code at its beginning.
    pub fn new(code: &[u8]) -> Self {
        assert!(code.len() as u64 <= TABLES[0] - BASE, "the program does not fit");
        let mut image = Self(vec![0; (HOST_STACK - BASE) as usize]);
        image.bytes(BASE, code);
        image
    }

    pub fn bytes(&mut self, at: u64, bytes: &[u8]) {
        self.0[(at - BASE) as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    pub fn word(&mut self, at: u64, value: u64) {
        self.bytes(at, &value.to_le_bytes());
    }

    /// Three levels of tables that map the first GiB one to one by 2-MiB pages.
    pub fn identity(&mut self, at: u64, flags: Flags) {
        self.word(at, at + 0x1000 | flags.table);
        self.word(at + 0x1000, at + 0x2000 | flags.table);
        for n in 0..512 {
            self.word(at + 0x2000 + 8 * n, n << 21 | flags.page);
        }
    }

    /// What both extensions' programs need: tables of all kinds, with the guest's interrupt handler.
    pub fn common(&mut self, second: Flags, handler: u64) {
        for tables in TABLES.into_iter().chain([HOST_TABLES]) {
            self.identity(tables, ORDINARY);
        }
        // The guest's second address space maps its page to the next one's memory.
        let entry = TABLES[1] + 0x2000 + 8 * (DIFFERENT / LARGE_PAGE);
        self.word(entry, DIFFERENT + LARGE_PAGE | ORDINARY.page);
        self.identity(NESTED_TABLES, second);
        self.word(NESTED_TABLES + 0x2000 + 8 * (WINDOW / LARGE_PAGE), WINDOW_TABLE | second.table);
        let descriptors = [0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x8b00_0000_0067 | TSS << 16];
        for (n, descriptor) in (2..).zip(descriptors) {
            self.word(GDT + 8 * n, descriptor);
        }
        // An interrupt gate (SDM 3A figure 7-8); its handler lies below 4 GiB.
        let gate = handler & 0xffff | u64::from(CODE) << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        self.word(IDT + 16 * u64::from(INJECTED), gate);
        self.bytes(GDT_POINTER, &TABLE_LIMIT.to_le_bytes());
        self.word(GDT_POINTER + 2, GDT);
    }

    /// The ELF file: one segment, entered at its beginning.
    pub fn file(self, name: &'static str) -> BootFile {
        const HEADERS: u64 = 64 + 56;
        let mut file = Vec::with_capacity(self.0.len() + HEADERS as usize);
        file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        // Executable for x86-64, version 1.
        file.extend([2, 0, 0x3e, 0, 1, 0, 0, 0]);
        for word in [BASE, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        // Flags; sizes of the headers; one program header; no sections.
        for half in [0_u16, 0, 64, 56, 1, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        // To be loaded; may be read, written and executed.
        file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
        for word in [HEADERS, BASE, BASE, self.0.len() as u64, END - BASE, 0x1000] {
            file.extend(word.to_le_bytes());
        }
        file.extend(self.0);
        BootFile::new(name, file)
    }
}
