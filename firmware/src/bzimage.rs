//! Linux's bzImage by the 64-bit and the 32-bit boot protocol (Linux Documentation/arch/x86/boot.rst).

use crate::boot_params::{BootParams, HEADER_END_MAX, offset, place_command_line, place_initrd};
use crate::entry::flat_gdt;
use crate::image::{Contents, Placer};
use crate::page_tables::{IDENTITY_SIZE, identity_4gib};
use crate::{BootFile, BootRequest, Entry, Kind, LoadError, Mode, Registers};
use ringworld_core::{GuestPhys, PAGE_SIZE};

pub(crate) const HEADER_MAGIC_OFFSET: usize = offset::HEADER;
pub(crate) const BOOT_FLAG_OFFSET: usize = offset::BOOT_FLAG;

const SECTOR: u64 = 512;
/// A bzImage without `pref_address` is linked to run here.
const HIGH_LOAD_ADDRESS: u64 = 0x10_0000;
/// `loadflags`: the protected-mode part goes to 1 MiB, not to 64 KiB.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry point at 0x200.
const XLF_KERNEL_64: u16 = 1;
/// `xloadflags`: kernel, boot_params, command line and initrd may be above 4 GiB.
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
/// The 64-bit entry point's offset in the protected-mode part.
const ENTRY_64: u64 = 0x200;
/// The initrd's end before protocol 2.03 ("assume 0x37FFFFFF").
const OLD_INITRD_MAX: u64 = 0x37ff_ffff;
/// The command line's limit before protocol 2.06.
const OLD_COMMAND_LINE_MAX: usize = 255;

/// The setup header, checked against the file.
struct Header<'a> {
    file: &'a BootFile,
    /// The protocol version, major in the high byte.
    version: u16,
    /// The setup header's end in the file.
    end: usize,
}

impl<'a> Header<'a> {
    fn new(file: &'a BootFile) -> Result<Self, LoadError> {
        let data = &file.data[..];
        let truncated = |needed: usize| LoadError::Truncated {
            name: file.name.clone(),
            what: "setup header",
            needed: needed as u64,
            has: data.len() as u64,
        };
        if data.len() < offset::LOADFLAGS {
            return Err(truncated(offset::LOADFLAGS));
        }
        if data[offset::HEADER..][..4] != *b"HdrS" || data[offset::BOOT_FLAG..][..2] != [0x55, 0xaa] {
            let (found, advice) = ("it lacks the setup header's HdrS magic".into(), "pass a bzImage");
            return Err(LoadError::NotBootable { name: file.name.clone(), found, advice });
        }
        // "The end of setup header can be calculated as 0x0202 + byte value at offset 0x0201."
        let end = offset::HEADER + usize::from(data[offset::JUMP + 1]);
        if data.len() < end.max(HEADER_END_MAX) {
            return Err(truncated(end.max(HEADER_END_MAX)));
        }
        let version = u16::from_le_bytes([data[offset::VERSION], data[offset::VERSION + 1]]);
        let header = Self { file, version, end };
        // Old kernels end their header where their version's fields end; a field of the version must be inside.
        let last_field = match version {
            0x020a.. => offset::INIT_SIZE + 4,
            0x0206.. => offset::CMDLINE_SIZE + 4,
            0x0205.. => offset::RELOCATABLE_KERNEL + 1,
            0x0203.. => offset::INITRD_ADDR_MAX + 4,
            0x0202.. => offset::CMD_LINE_PTR + 4,
            _ => {
                let what = format!(
                    "has boot protocol {}.{:02}; 2.02 (Linux 2.4) or newer is needed",
                    version >> 8,
                    version & 0xff
                );
                return Err(LoadError::Unsupported { name: file.name.clone(), what });
            }
        };
        if end < last_field || end > HEADER_END_MAX {
            return Err(header.malformed(format!(
                "its setup header ends at {end:#x}, which is impossible for its version"
            )));
        }
        if header.u8(offset::LOADFLAGS) & LOADED_HIGH == 0 {
            let what = "is a zImage, which loads below 640 KiB: pass a bzImage".into();
            return Err(LoadError::Unsupported { name: file.name.clone(), what });
        }
        Ok(header)
    }

    fn malformed(&self, what: String) -> LoadError {
        LoadError::Malformed { name: self.file.name.clone(), what }
    }

    // Fields lie before HEADER_END_MAX, which the file has.
    fn u8(&self, offset: usize) -> u8 {
        self.file.data[offset]
    }

    fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.u8(offset), self.u8(offset + 1)])
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from(self.u16(offset)) | u32::from(self.u16(offset + 2)) << 16
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from(self.u32(offset)) | u64::from(self.u32(offset + 4)) << 32
    }

    fn xloadflags(&self) -> u16 {
        if self.version >= 0x020c { self.u16(offset::XLOADFLAGS) } else { 0 }
    }

    /// Where the protected-mode part lies in the file.
    fn payload(&self) -> Result<core::ops::Range<usize>, LoadError> {
        // "If the setup_sects field contains 0, the real value is 4"; the boot sector comes before.
        let sectors = match self.u8(offset::SETUP_SECTS) {
            0 => 4,
            sectors => u64::from(sectors),
        };
        let start = (sectors + 1) * SECTOR;
        let has = self.file.data.len() as u64;
        // The size is reliable from protocol 2.04 on, in 16-byte paragraphs.
        let end =
            if self.version >= 0x0204 { start + u64::from(self.u32(offset::SYSSIZE)) * 16 } else { has };
        if end > has.next_multiple_of(16) || start >= has {
            let (name, what) = (self.file.name.clone(), "protected-mode kernel");
            return Err(LoadError::Truncated { name, what, needed: end.max(start + 1), has });
        }
        Ok(start as usize..end.min(has) as usize)
    }

    /// Where the kernel runs, and how much memory it needs from there.
    fn place(&self) -> Result<(u64, u64), LoadError> {
        if self.version < 0x020a {
            return Ok((HIGH_LOAD_ADDRESS, 0));
        }
        // A kernel of this version wants to be at pref_address, relocatable or not, and a relocatable one at a multiple
        // of its alignment. Lower is of no use: it would move itself up to pref_address.
        let address = self.u64(offset::PREF_ADDRESS);
        let alignment = u64::from(self.u32(offset::KERNEL_ALIGNMENT));
        if self.u8(offset::RELOCATABLE_KERNEL) != 0 {
            if !alignment.is_power_of_two() {
                return Err(
                    self.malformed(format!("its kernel_alignment is {alignment:#x}, not a power of two"))
                );
            }
            if address & (alignment - 1) != 0 {
                return Err(self.malformed(format!(
                    "its pref_address {address:#x} is not a multiple of its kernel_alignment {alignment:#x}"
                )));
            }
        }
        Ok((address, self.u32(offset::INIT_SIZE).into()))
    }

    fn command_line_max(&self) -> usize {
        if self.version >= 0x0206 { self.u32(offset::CMDLINE_SIZE) as usize } else { OLD_COMMAND_LINE_MAX }
    }

    /// The address that the initrd must end at or below.
    fn initrd_limit(&self) -> u64 {
        let last =
            if self.version >= 0x0203 { self.u32(offset::INITRD_ADDR_MAX).into() } else { OLD_INITRD_MAX };
        last + 1
    }
}

/// The newest protocol that the kernel has.
pub(crate) fn best_protocol(kernel: &BootFile) -> Result<Kind, LoadError> {
    let header = Header::new(kernel)?;
    Ok(if header.xloadflags() & XLF_KERNEL_64 != 0 { Kind::Linux64 } else { Kind::Linux32 })
}

/// Loads a bzImage with its initrd and command line.
pub(crate) fn load(
    placer: &mut Placer,
    request: &BootRequest,
    kind: Kind,
    rsdp: GuestPhys,
) -> Result<Entry, LoadError> {
    let kernel = &request.kernel;
    let header = Header::new(kernel)?;
    let long = kind == Kind::Linux64;
    if long && header.xloadflags() & XLF_KERNEL_64 == 0 {
        let what = "has no 64-bit entry point (XLF_KERNEL_64): start it by the 32-bit boot protocol".into();
        return Err(LoadError::Unsupported { name: kernel.name.clone(), what });
    }
    let payload = header.payload()?;
    let (address, footprint) = header.place()?;
    if address >= 1 << 32 {
        return Err(header.malformed(format!("its pref_address {address:#x} is not below 4 GiB")));
    }
    placer.at(
        format!("kernel {}", kernel.name),
        address,
        Contents::part(&kernel.data, payload),
        0,
        footprint,
    )?;

    let command_line = place_command_line(placer, kernel, request.command_line, header.command_line_max())?;
    let limit = header.initrd_limit();
    let initrd = match place_initrd(placer, &request.modules, limit) {
        Err(LoadError::NoRoom { .. }) if long && header.xloadflags() & XLF_CAN_BE_LOADED_ABOVE_4G != 0 => {
            place_initrd(placer, &request.modules, u64::MAX)
        }
        placed => placed,
    }?;
    let mut params = BootParams::new(&kernel.data[offset::SETUP_SECTS..header.end]);
    params.common(placer.map(), command_line, rsdp);
    params.screen(request.framebuffer);
    params.initrd(initrd);
    params.set32(offset::CODE32_START, address as u32);
    let zero_page = placer.structure("boot_params", PAGE_SIZE as usize, |_| params.into_bytes())?;
    let registers = Registers { rsi: zero_page.0, ..Registers::default() };
    if long {
        enter_long(placer, address + ENTRY_64, registers)
    } else {
        enter_protected(placer, address, registers)
    }
}

/// Flat 32-bit protected mode at `rip`.
pub(crate) fn enter_protected(
    placer: &mut Placer,
    rip: u64,
    registers: Registers,
) -> Result<Entry, LoadError> {
    let mode = Mode::Protected32;
    let gdt = flat_gdt(mode);
    let gdt = placer.structure("GDT", gdt.len(), |_| gdt)?;
    Ok(Entry::flat(mode, gdt, rip, registers))
}

/// 64-bit mode at `rip` with the first 4 GiB mapped one to one.
pub(crate) fn enter_long(placer: &mut Placer, rip: u64, registers: Registers) -> Result<Entry, LoadError> {
    let cr3 = placer.structure("page tables", IDENTITY_SIZE, identity_4gib)?;
    let mode = Mode::Long64 { cr3 };
    let gdt = flat_gdt(mode);
    let gdt = placer.structure("GDT", gdt.len(), |_| gdt)?;
    Ok(Entry::flat(mode, gdt, rip, registers))
}
