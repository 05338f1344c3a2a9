//! Loads synthetic ELF kernels: by their entry points, by PVH and by multiboot.

mod common;

use common::kernels::{
    EM_386, EM_AARCH64, EM_X86_64, Segment, elf, load, multiboot_header, pvh_note, vmlinux,
};
use common::{MIB, check_placement, try_load};
use proptest::prelude::*;
use ringworld_firmware::{BootFile, Kind, LoadError, Mode, detect};

#[test]
fn a_plain_elf64_kernel_gets_boot_params() {
    let kernel = vmlinux(vec![]);
    assert_eq!(detect(&kernel).unwrap(), Kind::Elf);
    let guest = try_load(kernel, 64 * MIB, &[100], "quiet", None).unwrap();
    let entry = guest.image.entry.unwrap();
    assert!(matches!(entry.mode, Mode::Long64 { .. }));
    assert_eq!(entry.rip, 0x100_0002);
    assert_eq!(guest.read(0x100_0000, 6), *b"text\0\0");
    assert_eq!(guest.read(0x100_2000, 6), *b"percpu");
    let page = entry.registers.rsi;
    assert_eq!(
        (guest.read(page + 0x1fe, 2), guest.read(page + 0x202, 4)),
        (vec![0x55, 0xaa], b"HdrS".to_vec())
    );
    assert_eq!(guest.string(guest.u32(page + 0x228)), "quiet");
    assert_eq!(guest.u32(page + 0x21c), 100);
}

#[test]
fn a_virtual_entry_point_is_translated() {
    let kernel = elf(false, EM_386, 0xc010_0004, &[load(0xc010_0000, 0x10_0000, b"code", 16)]);
    let guest = try_load(kernel, 64 * MIB, &[], "", None).unwrap();
    assert_eq!(
        (guest.image.entry.unwrap().mode, guest.image.entry.unwrap().rip),
        (Mode::Protected32, 0x10_0004)
    );
}

/// Xen docs/misc/pvh.pandoc: EBX holds hvm_start_info; its fields as in start_info.h.
#[test]
fn pvh_start_info_is_complete() {
    let kernel = vmlinux(vec![pvh_note(0x100_0010)]);
    assert_eq!(detect(&kernel).unwrap(), Kind::Pvh);
    let guest = try_load(kernel, 5 << 30, &[100, 7], "console=ttyS0", None).unwrap();
    let entry = guest.image.entry.unwrap();
    assert_eq!((entry.mode, entry.rip), (Mode::Protected32, 0x100_0010));
    let info = entry.registers.rbx;
    assert_eq!((guest.u32(info), guest.u32(info + 4), guest.u32(info + 8)), (0x336e_c578, 1, 0));
    assert_eq!(guest.u32(info + 12), 2, "nr_modules");
    let modules = guest.u64(info + 16);
    assert_eq!((guest.u64(modules + 8), guest.u64(modules + 40)), (100, 7));
    assert_eq!(guest.read(guest.u64(modules), 2), [0xab, 0xab]);
    assert_eq!(guest.string(guest.u64(modules + 16)), "-x 1");
    assert_eq!(guest.string(guest.u64(info + 24)), "console=ttyS0");
    assert_eq!(guest.read(guest.u64(info + 32), 8), *b"RSD PTR ");
    let (map, entries) = (guest.u64(info + 40), guest.u32(info + 48));
    let last = map + (entries - 1) * 24;
    assert_eq!((guest.u64(map), guest.u64(map + 8), guest.u32(map + 16)), (0, 0x9_fc00, 1));
    assert_eq!((guest.u64(last), guest.u64(last + 8), guest.u32(last + 16)), (4 << 30, 3 << 30, 1));
    let plain = vmlinux(vec![]);
    assert!(matches!(
        try_load(plain, 64 * MIB, &[], "", Some(Kind::Pvh)),
        Err(LoadError::Unsupported { .. })
    ));
}

/// Multiboot 0.6.96, 3.2 and 3.3, as bare-metal test suites use it: ELF32, flags 0, load address 4 MiB.
#[test]
fn multiboot_information_is_complete() {
    let header = multiboot_header(0, &[]);
    let kernel = elf(false, EM_386, 0x40_000c, &[load(0x40_0000, 0x40_0000, &header, 0x8000)]);
    assert_eq!(detect(&kernel).unwrap(), Kind::Multiboot);
    let guest = try_load(kernel, 512 * MIB, &[100, 7], "arg1 arg2", None).unwrap();
    let entry = guest.image.entry.unwrap();
    assert_eq!((entry.mode, entry.rip, entry.registers.rax), (Mode::Protected32, 0x40_000c, 0x2bad_b002));
    let info = entry.registers.rbx;
    assert_eq!(guest.u32(info), 0b10_0100_1101);
    assert_eq!((guest.u32(info + 4), guest.u32(info + 8)), (639, 511 * 1024));
    assert_eq!(guest.string(guest.u32(info + 16)), "kernel arg1 arg2");
    assert_eq!(guest.u32(info + 20), 2);
    let modules = guest.u32(info + 24);
    // Behind the kernel's memory, on page boundaries.
    assert_eq!((guest.u32(modules), guest.u32(modules + 4)), (0x40_8000, 0x40_8064));
    assert_eq!((guest.u32(modules + 16), guest.u32(modules + 20)), (0x40_9000, 0x40_9007));
    assert_eq!(guest.string(guest.u32(modules + 8)), "initrd -x 1");
    assert_eq!(guest.string(guest.u32(info + 64)), "ringworld");
    let (length, map) = (guest.u32(info + 44), guest.u32(info + 48));
    let mut ram = Vec::new();
    let mut at = map;
    while at < map + length {
        if guest.u32(at + 20) == 1 {
            ram.push((guest.u64(at + 4), guest.u64(at + 12)));
        }
        at += guest.u32(at) + 4;
    }
    assert_eq!(ram, [(0, 0x9_fc00), (MIB, 511 * MIB)]);
}

/// 3.1.3: the address fields win over the file's format.
#[test]
fn multiboot_address_fields_place_the_file() {
    let fields = [0x20_0010, 0x20_0000, 0x20_0040, 0x20_1000, 0x20_0020];
    let mut file = vec![0x11; 16];
    file.extend(multiboot_header(1 << 16, &fields));
    file.resize(0x100, 0x22);
    let kernel = BootFile::new("aout", file);
    assert_eq!(detect(&kernel).unwrap(), Kind::Multiboot);
    let guest = try_load(kernel.clone(), 64 * MIB, &[], "", None).unwrap();
    assert_eq!(guest.image.entry.unwrap().rip, 0x20_0020);
    assert_eq!((guest.read(0x20_0000, 1), guest.read(0x20_003f, 2)), (vec![0x11], vec![0x22, 0]));
    assert_eq!(guest.read(0x20_0fff, 1), [0]);
    let wrong = |index: usize, value: u32| {
        let mut file = kernel.data.to_vec();
        file[16 + 12 + index * 4..][..4].copy_from_slice(&value.to_le_bytes());
        try_load(BootFile::new("aout", file), 64 * MIB, &[], "", None).err().unwrap().to_string()
    };
    for (index, value, expected) in [
        (
            1,
            0x20_0011,
            "aout is damaged: its multiboot header at 0x200010 lies before its load_addr 0x200011",
        ),
        (
            0,
            0x20_0011,
            "aout is damaged: its multiboot header at 0x200011 lies before its load_addr 0x200000",
        ),
        (2, 0x1f_ffff, "aout is damaged: its multiboot load_end_addr 0x1fffff is below"),
        (2, 0x20_0101, "aout is truncated: its multiboot load area ends at byte 257, but the file has 256"),
        (3, 0x20_003f, "aout is damaged: its multiboot bss_end_addr 0x20003f is below"),
        (3, 0xffff_ffff, "kernel aout belongs at 0x200000-0xffffffff, which is not RAM"),
    ] {
        let error = wrong(index, value);
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn plain_binaries_go_where_they_are_told() {
    let file = || BootFile::new("boot.bin", vec![0x90; 512]);
    let kind = Some(Kind::RawReal { segment: 0x7c0, offset: 0 });
    let guest = try_load(file(), 2 * MIB, &[], "", kind).unwrap();
    let entry = guest.image.entry.unwrap();
    assert_eq!((entry.mode, entry.rip, entry.segments.cs.base), (Mode::Real16, 0, 0x7c00));
    assert_eq!(guest.read(0x7c00, 1), [0x90]);
    // Every vector leads to an IRET (0xcf).
    let vector = guest.u32(0x13 * 4);
    assert_eq!(guest.read((vector >> 16 << 4) + (vector & 0xffff), 1), [0xcf]);
    let guest = try_load(file(), 2 * MIB, &[], "", Some(Kind::RawProtected(0x10_0000))).unwrap();
    assert_eq!(
        (guest.image.entry.unwrap().mode, guest.image.entry.unwrap().rip),
        (Mode::Protected32, 0x10_0000)
    );
    for (modules, line, kind, expected) in [
        (
            &[1usize][..],
            "",
            Kind::RawProtected(0x10_0000),
            "boot.bin is loaded as a plain binary, which gets no initrd",
        ),
        (&[], "x", Kind::RawProtected(0x10_0000), "boot.bin is loaded as a plain binary"),
        (
            &[],
            "",
            Kind::RawProtected(0xa_0000),
            "binary boot.bin belongs at 0xa0000-0xa0200, which is not RAM",
        ),
        (&[], "", Kind::RawReal { segment: 0xffff, offset: 0xffff }, ""),
    ] {
        let result = try_load(file(), 2 * MIB, modules, line, Some(kind));
        match result {
            Ok(_) => assert_eq!(expected, ""),
            Err(error) => assert!(!expected.is_empty() && error.to_string().starts_with(expected), "{error}"),
        }
    }
}

#[test]
fn errors_say_what_and_where() {
    let one = |entry, segment| elf(true, EM_X86_64, entry, &[segment]);
    let good = || load(MIB, MIB, b"code", 4);
    let object = {
        let mut data = one(MIB, good()).data.to_vec();
        data[16] = 1;
        BootFile::new("x.o", data)
    };
    let cut = |length: usize| BootFile::new("cut", one(MIB, good()).data[..length].to_vec());
    let program = elf(
        true,
        EM_X86_64,
        MIB,
        &[good(), Segment { kind: 3, virt: 0, phys: 0, data: b"/lib/ld.so\0".to_vec(), memory: 11 }],
    );
    let overlapping = elf(true, EM_X86_64, MIB, &[good(), load(0, MIB + 3, b"x", 1)]);
    for (kernel, expected) in [
        (
            elf(true, EM_AARCH64, 0, &[]),
            "/boot/kernel is a kernel for 64-bit Arm, but this machine is an x86-64",
        ),
        (elf(true, 21, 0, &[]), "/boot/kernel is a kernel for ELF machine 21 (PPC64)"),
        (elf(true, EM_386, 0, &[]), "/boot/kernel is damaged: its ELF header has an impossible class"),
        (elf(true, EM_X86_64, 0, &[]), "/boot/kernel is damaged: it has 0 loadable ELF segments"),
        (object, "x.o is not a kernel that can be booted (an ELF file that is not executable)"),
        (cut(10), "cut is truncated: its ELF header"),
        (cut(50), "cut is truncated: its ELF header ends at byte 64, but the file has 50"),
        (cut(100), "cut is truncated: its ELF program header table ends at byte 120"),
        (cut(122), "cut is truncated: its ELF segment ends at byte 124, but the file has 122"),
        (program, "/boot/kernel is not a kernel that can be booted (a program for an operating system)"),
        (one(5, good()), "/boot/kernel is damaged: its entry point 0x5 is in none of its segments"),
        (
            one(MIB, load(MIB, MIB, b"code", 3)),
            "/boot/kernel is damaged: its ELF segment 0 is larger in the file",
        ),
        (
            one(MIB, load(MIB, MIB, b"code", u64::MAX)),
            "segment 0 of kernel /boot/kernel belongs at 0x100000-0xff",
        ),
        (
            one(MIB, load(MIB, 63 * MIB, b"code", 2 * MIB)),
            "segment 0 of kernel /boot/kernel belongs at 0x3f00000-0x4100000, which is not RAM of this guest (64 MiB)",
        ),
        (
            overlapping,
            "segment 1 of kernel /boot/kernel at 0x100003-0x100004 overlaps segment 0 of kernel /boot/kernel at 0x100000-0x100004",
        ),
    ] {
        let error = try_load(kernel, 64 * MIB, &[], "", None).err().expect(expected).to_string();
        assert!(error.starts_with(expected) && !error.contains('\n'), "{error}\nexpected {expected}");
    }
}

proptest! {
    /// No file makes a loader panic, and what is placed is inside of memory and apart.
    #[test]
    fn damaged_kernels_never_panic(
        base in 0usize..4,
        changes in prop::collection::vec((0usize..0x120, any::<u8>()), 0..16),
        cut in 0usize..0x400,
        kind in prop::sample::select(vec![None, Some(Kind::Pvh), Some(Kind::Elf), Some(Kind::Multiboot)]),
    ) {
        let kernel = match base {
            0 => vmlinux(vec![]),
            1 => vmlinux(vec![pvh_note(0x100_0010)]),
            2 => elf(false, EM_386, 0x40_0000, &[load(0x40_0000, 0x40_0000, &multiboot_header(0, &[]), 0x8000)]),
            _ => BootFile::new("aout", multiboot_header(1 << 16, &[0x20_0000, 0x20_0000, 0, 0x20_1000, 0x20_0020])),
        };
        let mut data = kernel.data.to_vec();
        for (at, value) in changes {
            let length = data.len();
            data[at % length] = value;
        }
        if cut < data.len() && cut % 2 == 0 {
            data.truncate(cut);
        }
        if let Ok(guest) = try_load(BootFile::new("k", data), 64 * MIB, &[5000], "quiet", kind) {
            check_placement(&guest, 64 * MIB);
        }
    }
}
