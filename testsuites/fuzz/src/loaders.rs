//! Damaged kernels of every format.

use crate::kernels::{EM_386, EM_X86_64, Kernel, elf, load as segment, multiboot_header, pvh_note, vmlinux};
use crate::random::Random;
use ringworld_core::GuestPhys;
use ringworld_firmware::{
    AcpiConfig, BootFile, BootRequest, Image, Kind, LoadError, MemoryMap, detect, load,
};
use ringworld_mmu::GuestMemory;
use std::sync::Arc;

/// Where headers end in all formats.
const HOT: usize = 0x2d0;

/// A kernel that is sound, or nearly so.
pub fn kernel(random: &mut Random) -> BootFile {
    match random.below(8) {
        0..=2 => {
            let small =
                |random: &mut Random, value: u64| if random.one_in(8) { random.edgy() } else { value };
            Kernel {
                version: random
                    .pick(&[0x0202, 0x0203, 0x0204, 0x0206, 0x0209, 0x020a, 0x020c, 0x020d, 0x020f]),
                setup_sects: random.pick(&[0, 1, 3, 31]),
                payload: random.below(0x400) * 16,
                pref_address: small(random, 0x100_0000),
                alignment: small(random, 0x20_0000) as u32,
                init_size: small(random, 0x80_0000) as u32,
                cmdline_size: small(random, 255) as u32,
                initrd_addr_max: small(random, 0x7fff_ffff) as u32,
                xloadflags: random.pick(&[0, 1, 3, 0x7f]),
                ..Kernel::default()
            }
            .build()
        }
        3 => vmlinux(vec![]),
        4 => vmlinux(vec![pvh_note(0x100_0010)]),
        5 => {
            let header = multiboot_header(random.pick(&[0, 1, 3, 7]), &[]);
            let base = random.pick(&[0x1000, 0x10_0000, 0x40_0000]);
            elf(false, EM_386, base + 12, &[segment(base, base, &header, 0x8000)])
        }
        6 => {
            let segments: Vec<_> = (0..random.below(6))
                .map(|index| {
                    let address =
                        if random.one_in(3) { random.edgy() } else { 0x10_0000 + index as u64 * 0x1000 };
                    let length = random.below(0x400);
                    let memory = if random.one_in(3) { random.edgy() } else { 0x1000 };
                    segment(random.edgy(), address, &random.bytes(length), memory)
                })
                .collect();
            elf(random.one_in(2), EM_X86_64, random.edgy(), &segments)
        }
        _ => {
            let base = random.pick(&[0x10_0000u32, 0x20_0000]);
            let end = if random.one_in(2) { 0 } else { base + random.below(0x1000) as u32 };
            let mut data = multiboot_header(1 << 16, &[base, base, end, random.edgy() as u32, base + 0x20]);
            let length = random.below(0x800);
            data.extend(random.bytes(length));
            BootFile::new("aout", data)
        }
    }
}

/// A way to start a kernel; mostly the one that suits it.
pub fn kind(random: &mut Random) -> Option<Kind> {
    if !random.one_in(4) {
        return None;
    }
    let (segment, offset) = (random.edgy() as u16, random.edgy() as u16);
    let address = random.edgy() as u32;
    Some(random.pick(&[
        Kind::Linux64,
        Kind::Linux32,
        Kind::Pvh,
        Kind::Elf,
        Kind::Multiboot,
        Kind::RawReal { segment, offset },
        Kind::RawProtected(address),
    ]))
}

/// What must hold of everything that loads.
pub fn check(image: &Image, map: &MemoryMap) {
    let regions = map.regions();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for piece in image.pieces() {
        let (start, size) = (piece.address.0, piece.bytes().len() as u64 + piece.zeroes);
        let end = start.checked_add(size).expect("a piece within the address space");
        assert!(
            regions.iter().any(|region| region.base.0 <= start && end <= region.base.0 + region.size),
            "{} at {start:#x}-{end:#x} is not in memory",
            piece.name
        );
        ranges.push((start, end));
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "pieces overlap: {ranges:x?}");
}

/// The outcome's name; an error has to be one line.
pub fn outcome(result: &Result<Image, LoadError>) -> &'static str {
    let error = match result {
        Ok(_) => return "loaded",
        Err(error) => error,
    };
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 4096, "an error that is not one line: {text}");
    match error {
        LoadError::Read { .. } | LoadError::TooLarge { .. } => "unreadable",
        LoadError::Arguments { .. } => "arguments",
        LoadError::NotBootable { .. } => "not bootable",
        LoadError::WrongArchitecture { .. } => "wrong architecture",
        LoadError::Truncated { .. } => "truncated",
        LoadError::Malformed { .. } => "malformed",
        LoadError::Unsupported { .. } => "unsupported",
        LoadError::OutsideRam { .. } => "outside RAM",
        LoadError::Overlap { .. } => "overlap",
        LoadError::NoRoom { .. } => "no room",
        LoadError::CommandLineTooLong { .. } => "command line too long",
        LoadError::ZeroByte { .. } => "zero byte",
        LoadError::AcpiTooLarge { .. } => "too many CPUs",
    }
}

pub fn run(random: &mut Random) -> &'static str {
    let mut kernel = kernel(random);
    random.damage(Arc::make_mut(&mut kernel.data), HOT);
    let pages = if random.one_in(2) { 0x4000 } else { 0x200 + random.below(0x10_0000) as u64 };
    let memory = MemoryMap::pc(pages * 4096).expect("2 MiB to 4 GiB");
    let has_arguments = random.one_in(2);
    let modules = (0..random.pick(&[0, 0, 1, 1, 2, 5]))
        .map(|_| {
            let size = if random.one_in(16) { 1 << 20 } else { random.below(0x3000) };
            let length = if has_arguments { random.below(20) } else { 0 };
            let arguments = random.text(length).replace('\0', "");
            BootFile { arguments, ..BootFile::new("a/module", vec![0x5a; size]) }
        })
        .collect();
    let cpus = if random.one_in(64) { random.below(5000) as u32 } else { 1 + random.below(300) as u32 };
    let acpi =
        AcpiConfig { cpus, serial_ports: random.below(5), hpet: random.one_in(2), vga: false, pci: None };
    // What is detected need not load, but must not fail by itself.
    let _ = detect(&kernel);
    let request = BootRequest {
        kernel,
        kind: kind(random),
        modules,
        command_line: "quiet",
        memory: &memory,
        framebuffer: None,
        acpi,
    };
    let result = load(&request);
    if let Ok(image) = &result {
        check(image, &memory);
        if random.one_in(64) {
            let guest = GuestMemory::new(&memory.regions()).expect("memory for the guest");
            // A large .bss takes its time, and real memory.
            if image.pieces().iter().all(|piece| piece.zeroes < 16 << 20) {
                image.write_to(&guest).expect("pieces are in memory");
                for piece in image.pieces() {
                    let mut bytes = vec![0; piece.bytes().len()];
                    guest.read(GuestPhys(piece.address.0), &mut bytes).expect("pieces are in memory");
                    assert!(bytes == piece.bytes(), "{} was overwritten", piece.name);
                }
            }
        }
    }
    outcome(&result)
}
