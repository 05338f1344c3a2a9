//! Linux's `boot_params`, the "zero page" (Linux Documentation/arch/x86/zero-page.rst and boot.rst).

use crate::image::{Contents, Placer};
use crate::{BootFile, Framebuffer, LoadError, MemoryMap};
use ringworld_core::{GuestPhys, PAGE_SIZE};

/// Offsets in the zero page; those of the setup header are also the offsets in a bzImage file.
pub(crate) mod offset {
    pub const ACPI_RSDP: usize = 0x070;
    pub const EXT_RAMDISK_IMAGE: usize = 0x0c0;
    pub const EXT_RAMDISK_SIZE: usize = 0x0c4;
    pub const E820_ENTRIES: usize = 0x1e8;
    /// Also the setup header's start.
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const SYSSIZE: usize = 0x1f4;
    pub const VID_MODE: usize = 0x1fa;
    pub const BOOT_FLAG: usize = 0x1fe;
    pub const JUMP: usize = 0x200;
    pub const HEADER: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const INITRD_ADDR_MAX: usize = 0x22c;
    pub const KERNEL_ALIGNMENT: usize = 0x230;
    pub const RELOCATABLE_KERNEL: usize = 0x234;
    pub const XLOADFLAGS: usize = 0x236;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
    pub const E820_TABLE: usize = 0x2d0;
}

/// `screen_info`.
mod screen {
    pub const IS_VGA: usize = 0x0f;
    pub const WIDTH: usize = 0x12;
    pub const HEIGHT: usize = 0x14;
    pub const DEPTH: usize = 0x16;
    pub const BASE: usize = 0x18;
    pub const SIZE: usize = 0x1c;
    pub const LINE_LENGTH: usize = 0x24;
    pub const RED_SIZE: usize = 0x26;
    pub const PAGES: usize = 0x32;
    /// A VESA linear framebuffer.
    pub const LINEAR: u8 = 0x23;
}

/// The setup header must not reach into the E820 table.
pub(crate) const HEADER_END_MAX: usize = offset::E820_TABLE;
/// The size of an E820 entry: address, length, type.
const E820_ENTRY: usize = 20;
/// The room for E820 entries (`E820_MAX_ENTRIES_ZEROPAGE`).
const E820_MAX: usize = 128;
/// "Undefined" loader: no number is assigned to this one.
const LOADER_UNDEFINED: u8 = 0xff;
/// "Normal" video mode.
const VIDEO_NORMAL: u16 = 0xffff;

/// The zero page in the making.
pub(crate) struct BootParams(Vec<u8>);

impl BootParams {
    /// An empty zero page whose setup header is `header`, as it stands in a file from 0x1F1 on.
    pub(crate) fn new(header: &[u8]) -> Self {
        let mut page = vec![0; PAGE_SIZE as usize];
        let length = header.len().min(HEADER_END_MAX - offset::SETUP_SECTS);
        page[offset::SETUP_SECTS..][..length].copy_from_slice(&header[..length]);
        Self(page)
    }

    pub(crate) fn set8(&mut self, offset: usize, value: u8) {
        self.0[offset] = value;
    }

    pub(crate) fn set16(&mut self, offset: usize, value: u16) {
        self.0[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn set32(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn set64(&mut self, offset: usize, value: u64) {
        self.0[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// What every loader fills in, whatever the kernel's version: its own type, the video mode, the command line, the
    /// memory map, the ACPI tables' root.
    pub(crate) fn common(&mut self, map: &MemoryMap, command_line: GuestPhys, rsdp: GuestPhys) {
        self.set8(offset::TYPE_OF_LOADER, LOADER_UNDEFINED);
        self.set16(offset::VID_MODE, VIDEO_NORMAL);
        // Structures lie below 4 GiB.
        self.set32(offset::CMD_LINE_PTR, command_line.0 as u32);
        self.set64(offset::ACPI_RSDP, rsdp.0);
        let ranges = &map.ranges()[..map.ranges().len().min(E820_MAX)];
        self.set8(offset::E820_ENTRIES, ranges.len() as u8);
        for (index, range) in ranges.iter().enumerate() {
            let entry = offset::E820_TABLE + index * E820_ENTRY;
            self.set64(entry, range.start.0);
            self.set64(entry + 8, range.length);
            self.set32(entry + 16, range.usage as u32);
        }
    }

    /// The screen as `screen_info` (the zero page's first bytes; include/uapi/linux/screen_info.h).
    pub(crate) fn screen(&mut self, framebuffer: Option<Framebuffer>) {
        let Some(Framebuffer { base, size, width, height }) = framebuffer else { return };
        self.set8(screen::IS_VGA, screen::LINEAR);
        self.set16(screen::WIDTH, width);
        self.set16(screen::HEIGHT, height);
        self.set16(screen::DEPTH, 32);
        self.set32(screen::BASE, base);
        // In units of 64 KiB.
        self.set32(screen::SIZE, size >> 16);
        self.set16(screen::LINE_LENGTH, width.saturating_mul(4));
        // Size and position of red, green, blue, and what is reserved.
        for (n, value) in [8, 16, 8, 8, 8, 0, 8, 24].into_iter().enumerate() {
            self.set8(screen::RED_SIZE + n, value);
        }
        self.set16(screen::PAGES, 1);
    }

    /// Where the initrd is, if there is one.
    pub(crate) fn initrd(&mut self, initrd: Option<(GuestPhys, u64)>) {
        let Some((address, size)) = initrd else { return };
        self.set32(offset::RAMDISK_IMAGE, address.0 as u32);
        self.set32(offset::RAMDISK_SIZE, size as u32);
        self.set32(offset::EXT_RAMDISK_IMAGE, (address.0 >> 32) as u32);
        self.set32(offset::EXT_RAMDISK_SIZE, (size >> 32) as u32);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Places the command line, refusing one above the kernel's limit (in bytes, without the terminating zero).
pub(crate) fn place_command_line(
    placer: &mut Placer,
    kernel: &BootFile,
    command_line: &str,
    limit: usize,
) -> Result<GuestPhys, LoadError> {
    if command_line.len() > limit {
        let (name, length) = (kernel.name.clone(), command_line.len());
        return Err(LoadError::CommandLineTooLong { name, length, limit });
    }
    let mut bytes = command_line.as_bytes().to_vec();
    bytes.push(0);
    placer.structure("command line", bytes.len(), |_| bytes)
}

/// Places the modules as one initrd, as high as possible, ending at or below `limit`; Linux unpacks archives that
/// follow each other at multiples of 4 bytes.
pub(crate) fn place_initrd(
    placer: &mut Placer,
    modules: &[BootFile],
    limit: u64,
) -> Result<Option<(GuestPhys, u64)>, LoadError> {
    if let Some(module) = modules.iter().find(|module| !module.arguments.is_empty()) {
        return Err(LoadError::Arguments { name: module.name.clone(), arguments: module.arguments.clone() });
    }
    let (name, contents) = match modules {
        [] => return Ok(None),
        [initrd] => (format!("initrd {}", initrd.name), Contents::from(&initrd.data)),
        many => {
            let mut joined = Vec::new();
            for module in many {
                joined.resize(joined.len().next_multiple_of(4), 0);
                joined.extend_from_slice(&module.data);
            }
            (format!("initrd of {} files", many.len()), Contents::from(joined))
        }
    };
    let size = contents.len() as u64;
    if size == 0 {
        return Ok(None);
    }
    let address = placer.highest(&name, size, PAGE_SIZE, 1 << 20..limit)?;
    Ok(Some((placer.at(name, address, contents, 0, size)?, size)))
}
