//! Loads synthetic bzImages and checks what Linux's Documentation/arch/x86/boot.rst asks of a loader.

mod common;

use common::kernels::Kernel;
use common::{MIB, check_placement, try_load};
use proptest::prelude::*;
use ringworld_firmware::{BootFile, Kind, LoadError, MemoryMap, Mode, Usage, detect};

#[test]
fn the_64_bit_protocol_is_followed() {
    let kernel = Kernel::default();
    let guest = try_load(kernel.build(), 256 * MIB, &[5000], "console=ttyS0", None).unwrap();
    let entry = guest.image.entry.unwrap();
    // "The entry point is the kernel's load address + 0x200; %rsi holds the base address of boot_params."
    assert_eq!(entry.rip, 0x100_0200);
    assert!(matches!(entry.mode, Mode::Long64 { .. }));
    assert_eq!(guest.read(0x100_0000, 4), [0, 1, 2, 3]);
    let page = entry.registers.rsi;
    // The header is copied from 0x1f1 to its end and nothing beside it; the sentinel at 0x1ef stays zero.
    assert_eq!(guest.read(page + 0x1ef, 2), [0, 0]);
    assert_eq!(guest.read(page + 0x202, 6), *b"HdrS\x0f\x02");
    assert_eq!(guest.read(page + 0x26c, 1), [0]);
    assert_eq!(guest.read(page + 0x210, 1), [0xff], "type_of_loader");
    assert_eq!(guest.u32(page + 0x214), 0x100_0000, "code32_start");
    assert_eq!(guest.u64(page + 0x070), 0xe_0000, "acpi_rsdp_addr");
    assert_eq!(guest.read(guest.u32(page + 0x228), 14), *b"console=ttyS0\0");
    // As high as possible: "0x7fffffff" is above this guest's memory.
    assert_eq!((guest.u32(page + 0x218), guest.u32(page + 0x21c)), (256 * MIB - 0x2000, 5000));
    assert_eq!((guest.u32(page + 0xc0), guest.u32(page + 0xc4)), (0, 0));
    let entries = guest.read(page + 0x1e8, 1)[0];
    let memory = MemoryMap::pc(256 * MIB).unwrap();
    assert_eq!(usize::from(entries), memory.ranges().len());
    for (index, range) in memory.ranges().iter().enumerate() {
        let at = page + 0x2d0 + 20 * index as u64;
        assert_eq!((guest.u64(at), guest.u64(at + 8)), (range.start.0, range.length));
        assert_eq!(guest.u32(at + 16) == 1, range.usage == Usage::Ram);
    }
}

#[test]
fn the_32_bit_protocol_is_followed() {
    let kernel = Kernel { version: 0x020b, xloadflags: 0, ..Kernel::default() };
    assert_eq!(detect(&kernel.build()).unwrap(), Kind::Linux32);
    let guest = try_load(kernel.build(), 64 * MIB, &[], "", None).unwrap();
    let entry = guest.image.entry.unwrap();
    assert_eq!((entry.mode, entry.rip), (Mode::Protected32, 0x100_0000));
    // "CS must be __BOOT_CS, DS, ES, SS __BOOT_DS; %esi the address of boot_params; %ebp, %edi, %ebx zero."
    assert_eq!((entry.segments.cs.selector, entry.segments.data.selector), (0x10, 0x18));
    assert_eq!((entry.registers.rbx, entry.cr0() & 0x8000_0000, entry.rflags() & 0x200), (0, 0, 0));
    assert_eq!(guest.read(entry.registers.rsi + 0x202, 4), *b"HdrS");
    assert!(matches!(
        try_load(kernel.build(), 64 * MIB, &[], "", Some(Kind::Linux64)),
        Err(LoadError::Unsupported { .. })
    ));
}

#[test]
fn a_kernel_without_pref_address_loads_at_1_mib() {
    let kernel = Kernel { version: 0x0209, setup_sects: 0, header_end: 0x258, ..Kernel::default() };
    let guest = try_load(kernel.build(), 64 * MIB, &[], "", None).unwrap();
    assert_eq!(guest.image.entry.unwrap().rip, 0x10_0000);
    assert_eq!(guest.read(0x10_0000, 4), [0, 1, 2, 3]);
}

#[test]
fn the_initrd_keeps_below_its_limit_and_away_from_the_kernel() {
    let kernel = Kernel { initrd_addr_max: 0x1ff_ffff, init_size: 0x80_0000, ..Kernel::default() };
    let guest = try_load(kernel.build(), 256 * MIB, &[4096], "", None).unwrap();
    assert_eq!(guest.u32(guest.image.entry.unwrap().registers.rsi + 0x218), 0x1ff_f000);
    // 8 MiB are free above the kernel's init_size and 15 below it.
    let guest = try_load(kernel.build(), 256 * MIB, &[9 << 20], "", None).unwrap();
    assert_eq!(guest.u32(guest.image.entry.unwrap().registers.rsi + 0x218), 0x100_0000 - 9 * MIB);
}

#[test]
fn several_initrds_become_one() {
    let guest = try_load(Kernel::default().build(), 64 * MIB, &[5, 7], "", None).unwrap();
    let page = guest.image.entry.unwrap().registers.rsi;
    assert_eq!(guest.u32(page + 0x21c), 15);
    assert_eq!(guest.read(guest.u32(page + 0x218), 10), [0xab, 0xab, 0xab, 0xab, 0xab, 0, 0, 0, 0xab, 0xab]);
}

/// Each wrong input gives the error that names it.
#[test]
fn errors_say_what_and_where() {
    let plain = || Kernel::default().build();
    let cut = |length: usize| BootFile::new("vmlinuz", plain().data[..length].to_vec());
    let odd = Kernel { alignment: 3, ..Kernel::default() }.build();
    let old = Kernel { version: 0x0201, ..Kernel::default() }.build();
    let low = Kernel { loadflags: 0, ..Kernel::default() }.build();
    let short = Kernel { header_end: 0x240, ..Kernel::default() }.build();
    let long_line = "x".repeat(2048);
    for (kernel, ram, initrd, line, expected) in [
        (
            plain(),
            8,
            0,
            "",
            "kernel vmlinuz belongs at 0x1000000-0x1800000, which is not RAM of this guest (8 MiB)",
        ),
        (
            plain(),
            64,
            64 << 20,
            "",
            "no room for initrd /some where/initrd (67108864 bytes) in the guest's 64 MiB",
        ),
        (
            plain(),
            64,
            0,
            &long_line[..],
            "the kernel command line has 2048 bytes, but vmlinuz takes at most 2047",
        ),
        (plain(), 64, 0, "a\0b", "the kernel command line contains a zero byte"),
        (
            cut(0x2800),
            64,
            0,
            "",
            "vmlinuz is truncated: its protected-mode kernel ends at byte 14336, but the file has 10240",
        ),
        (cut(0x208), 64, 0, "", "vmlinuz is truncated: its setup header ends at byte 529"),
        (cut(0x260), 64, 0, "", "vmlinuz is truncated: its setup header"),
        (odd, 64, 0, "", "vmlinuz is damaged: its kernel_alignment is 0x3, not a power of two"),
        (old, 64, 0, "", "vmlinuz has boot protocol 2.01; 2.02 (Linux 2.4) or newer is needed"),
        (low, 64, 0, "", "vmlinuz is a zImage"),
        (short, 64, 0, "", "vmlinuz is damaged: its setup header ends at 0x240"),
        (
            BootFile::new("f", b"\x1f\x8b\x08".to_vec()),
            64,
            0,
            "",
            "f is not a kernel that can be booted (gzip data)",
        ),
        (BootFile::new("f", vec![]), 64, 0, "", "f is not a kernel that can be booted (an empty file)"),
        (BootFile::new("f", vec![7; 1000]), 64, 0, "", "f is not a kernel that can be booted (unknown data)"),
    ] {
        let initrd: &[usize] = if initrd == 0 { &[] } else { &[initrd] };
        let error = try_load(kernel, ram * MIB, initrd, line, None).err().expect(expected).to_string();
        assert!(error.starts_with(expected) && !error.contains('\n'), "{error}\nexpected {expected}");
    }
    let mut arm = vec![0; 4096];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let error = try_load(BootFile::new("Image", arm), 64 * MIB, &[], "", None).err().unwrap().to_string();
    assert!(error.starts_with("Image is a kernel for 64-bit Arm"), "{error}");
}

proptest! {
    /// No file makes the loader panic, and what it places is inside of memory and apart.
    #[test]
    fn damaged_kernels_never_panic(
        changes in prop::collection::vec((0usize..0x300, any::<u8>()), 0..24),
        length in 0usize..0x4000,
        ram in 512u64..0x40_0000,
        initrd in 0usize..100_000,
        kind in prop::sample::select(vec![None, Some(Kind::Linux32), Some(Kind::Linux64)]),
    ) {
        let mut data = Kernel::default().build().data.to_vec();
        for (at, value) in changes {
            if let Some(byte) = data.get_mut(0x1f1 + at % 0x80) { *byte = value; }
        }
        data.truncate(length.max(1));
        if let Ok(guest) = try_load(BootFile::new("k", data), ram * 4096, &[initrd], "quiet", kind) {
            check_placement(&guest, ram * 4096);
        }
    }
}
