//! Synthetic kernels for tests and fuzzing.

#![allow(dead_code, missing_docs, reason = "each user takes a part; the fields are the formats' own")]

use ringworld_firmware::BootFile;

/// The setup header's fields that tests change.
pub struct Kernel {
    pub version: u16,
    pub setup_sects: u8,
    pub payload: usize,
    pub pref_address: u64,
    pub alignment: u32,
    pub init_size: u32,
    pub cmdline_size: u32,
    pub initrd_addr_max: u32,
    pub xloadflags: u16,
    pub loadflags: u8,
    pub header_end: usize,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            version: 0x020f,
            setup_sects: 3,
            payload: 0x3000,
            pref_address: 0x100_0000,
            alignment: 0x20_0000,
            init_size: 0x80_0000,
            cmdline_size: 2047,
            initrd_addr_max: 0x7fff_ffff,
            xloadflags: 3,
            loadflags: 1,
            header_end: 0x26c,
        }
    }
}

impl Kernel {
    pub fn build(&self) -> BootFile {
        let setup = (usize::from(if self.setup_sects == 0 { 4 } else { self.setup_sects }) + 1) * 512;
        let mut file = vec![0u8; setup];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        // A field before the header and one behind it must not get into the zero page.
        put(0x1ef, &[0xee, 0xee]);
        put(self.header_end, &[0xee]);
        put(0x1f1, &[self.setup_sects]);
        put(0x1f4, &((self.payload / 16) as u32).to_le_bytes());
        put(0x1fe, &[0x55, 0xaa, 0xeb, (self.header_end - 0x202) as u8]);
        put(0x202, b"HdrS");
        put(0x206, &self.version.to_le_bytes());
        put(0x211, &[self.loadflags]);
        put(0x22c, &self.initrd_addr_max.to_le_bytes());
        put(0x230, &self.alignment.to_le_bytes());
        put(0x234, &[1]);
        put(0x236, &self.xloadflags.to_le_bytes());
        put(0x238, &self.cmdline_size.to_le_bytes());
        put(0x258, &self.pref_address.to_le_bytes());
        put(0x260, &self.init_size.to_le_bytes());
        file.extend((0..self.payload).map(|index| index as u8));
        BootFile::new("vmlinuz", file)
    }
}

pub const EM_386: u16 = 3;
pub const EM_X86_64: u16 = 62;
pub const EM_AARCH64: u16 = 183;
pub const PT_LOAD: u32 = 1;
pub const PT_NOTE: u32 = 4;

pub struct Segment {
    pub kind: u32,
    pub virt: u64,
    pub phys: u64,
    pub data: Vec<u8>,
    pub memory: u64,
}

pub fn load(virt: u64, phys: u64, data: &[u8], memory: u64) -> Segment {
    Segment { kind: PT_LOAD, virt, phys, data: data.to_vec(), memory }
}

/// An ELF file of these segments.
pub fn elf(is_64: bool, machine: u16, entry: u64, segments: &[Segment]) -> BootFile {
    let word = |value: u64| value.to_le_bytes()[..if is_64 { 8 } else { 4 }].to_vec();
    let (header_size, entry_size) = if is_64 { (64, 56) } else { (52, 32) };
    let mut file = vec![0x7f, b'E', b'L', b'F', if is_64 { 2 } else { 1 }, 1, 1];
    file.resize(16, 0);
    file.extend(2u16.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend([word(entry), word(header_size), word(0)].concat());
    file.extend(0u32.to_le_bytes());
    for half in [header_size as u16, entry_size, segments.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = header_size + u64::from(entry_size) * segments.len() as u64;
    for segment in segments {
        let size = segment.data.len() as u64;
        let (flags, align) = (7u32.to_le_bytes(), word(4));
        let places =
            [word(offset), word(segment.virt), word(segment.phys), word(size), word(segment.memory)].concat();
        file.extend(segment.kind.to_le_bytes());
        if is_64 {
            file.extend([&flags[..], &places, &align].concat());
        } else {
            file.extend([&places[..], &flags, &align].concat());
        }
        offset += size;
    }
    segments.iter().for_each(|segment| file.extend(&segment.data));
    BootFile::new("/boot/kernel", file)
}

/// The note by which a kernel names its PVH entry point.
pub fn pvh_note(entry: u32) -> Segment {
    let mut data = Vec::new();
    // Another note comes first; its name and descriptor are padded.
    for (name, kind, bytes) in
        [(&b"GNU\0\0"[..], 3u32, &[1u8, 2, 3][..]), (b"Xen\0", 18, &entry.to_le_bytes())]
    {
        data.extend((name.len() as u32).to_le_bytes());
        data.extend((bytes.len() as u32).to_le_bytes());
        data.extend(kind.to_le_bytes());
        for part in [name, bytes] {
            data.extend(part);
            data.resize(data.len().next_multiple_of(4), 0);
        }
    }
    let memory = data.len() as u64;
    Segment { kind: PT_NOTE, virt: 0, phys: 0, data, memory }
}

pub fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let checksum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    [0x1bad_b002, flags, checksum].iter().chain(addresses).flat_map(|word| word.to_le_bytes()).collect()
}

/// An ELF64 kernel as Linux links it: virtual addresses high, a physical entry point.
pub fn vmlinux(notes: Vec<Segment>) -> BootFile {
    let mut segments = vec![
        load(0xffff_ffff_8100_0000, 0x100_0000, b"text", 0x1000),
        load(0, 0x100_2000, b"percpu", 0x1000),
    ];
    segments.extend(notes);
    elf(true, EM_X86_64, 0x100_0002, &segments)
}
