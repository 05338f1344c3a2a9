//! From files to an image: which boot protocol a kernel speaks, and the errors of those that speak none.

use crate::image::Placer;
use crate::{
    AcpiConfig, Image, LoadError, MemoryMap, acpi, bios_data, bzimage, elf, mp_table, multiboot, pvh, raw,
};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// A file to load, with the name that errors and the guest see.
#[derive(Clone, Debug)]
pub struct BootFile {
    /// Its path, for errors; multiboot gives the guest the name without its folder.
    pub name: String,
    /// Its contents.
    pub data: Arc<Vec<u8>>,
    /// A boot module's own command line (multiboot, PVH).
    pub arguments: String,
}

impl BootFile {
    /// A file with these contents.
    pub fn new(name: impl Into<String>, data: Vec<u8>) -> Self {
        Self { name: name.into(), data: Arc::new(data), arguments: String::new() }
    }

    /// The name without its folder.
    pub(crate) fn base_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// Reads a file that is to be loaded as `what` ("kernel", "initrd") into a guest that has `limit` bytes of memory.
///
/// A file that grows, a pipe or a device is cut off with an error at `limit`, so it cannot exhaust the host.
pub fn read_file(what: &'static str, path: &Path, limit: u64) -> Result<BootFile, LoadError> {
    let name = path.display().to_string();
    let read = || -> std::io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        let mut data = Vec::new();
        data.try_reserve_exact(metadata.len().min(limit).saturating_add(1) as usize)
            .map_err(|_| std::io::ErrorKind::OutOfMemory)?;
        file.take(limit.saturating_add(1)).read_to_end(&mut data)?;
        Ok(data)
    };
    match read() {
        Ok(data) if data.len() as u64 > limit => Err(LoadError::TooLarge { what, name, limit }),
        Ok(data) => Ok(BootFile::new(name, data)),
        Err(source) => Err(LoadError::Read { what, name, source }),
    }
}

/// How a guest starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A Linux bzImage by the 64-bit boot protocol.
    Linux64,
    /// A Linux bzImage by the 32-bit boot protocol.
    Linux32,
    /// An ELF kernel by the PVH entry point.
    Pvh,
    /// An ELF kernel at its entry point, with Linux's `boot_params` in RSI.
    Elf,
    /// A multiboot 1 kernel.
    Multiboot,
    /// A plain binary in real mode, loaded to `segment:offset` and entered there. [`detect`] never says so.
    RawReal {
        /// CS.
        segment: u16,
        /// IP.
        offset: u16,
    },
    /// A plain binary in flat 32-bit protected mode, loaded to this address and entered there. [`detect`] never says
    /// so.
    RawProtected(u32),
}

/// A linear framebuffer of 32 bits a pixel, blue in the lowest byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Framebuffer {
    /// Its first byte, below 4 GiB.
    pub base: u32,
    /// The memory's size in bytes.
    pub size: u32,
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// What to load.
#[derive(Clone, Debug)]
pub struct BootRequest<'a> {
    /// The kernel.
    pub kernel: BootFile,
    /// How it starts; `None` asks [`detect`].
    pub kind: Option<Kind>,
    /// The initrd, or several boot modules.
    pub modules: Vec<BootFile>,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// The guest's memory.
    pub memory: &'a MemoryMap,
    /// The board that the ACPI tables describe.
    pub acpi: AcpiConfig,
    /// The screen that is set up, if there is a graphics card.
    pub framebuffer: Option<Framebuffer>,
}

/// Loads a guest: what its firmware and boot loader would leave in memory, and the state of its first CPU.
///
/// # Errors
/// A kernel that cannot be started in this memory; the error's text says why in one line.
pub fn load(request: &BootRequest) -> Result<Image, LoadError> {
    if request.command_line.contains('\0') {
        return Err(LoadError::ZeroByte { what: "kernel command line" });
    }
    if request.modules.iter().any(|module| module.arguments.contains('\0')) {
        return Err(LoadError::ZeroByte { what: "command line of a module" });
    }
    let kind = match request.kind {
        Some(kind) => kind,
        None => detect(&request.kernel)?,
    };
    let mut placer = Placer::new(request.memory);
    let rsdp = acpi::place(&mut placer, &request.acpi)?;
    let entry = match kind {
        Kind::Linux64 | Kind::Linux32 => bzimage::load(&mut placer, request, kind, rsdp),
        Kind::Pvh => pvh::load(&mut placer, request, rsdp),
        Kind::Elf => elf::load(&mut placer, request, rsdp),
        Kind::Multiboot => multiboot::load(&mut placer, request),
        Kind::RawReal { segment, offset } => raw::real(&mut placer, request, segment, offset),
        Kind::RawProtected(address) => raw::protected(&mut placer, request, address),
    }?;
    bios_data::place(&mut placer, request.acpi.serial_ports, request.acpi.cpus);
    mp_table::place(&mut placer, &request.acpi);
    Ok(placer.finish(entry))
}

/// Which boot protocol suits the kernel, from its magic numbers.
///
/// # Errors
/// [`LoadError::NotBootable`] and [`LoadError::WrongArchitecture`], with a name for what the file is instead.
pub fn detect(kernel: &BootFile) -> Result<Kind, LoadError> {
    let data = &kernel.data[..];
    let at = |offset: usize, magic: &[u8]| data.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let name = kernel.name.clone();
    if at(bzimage::HEADER_MAGIC_OFFSET, b"HdrS") && at(bzimage::BOOT_FLAG_OFFSET, &[0x55, 0xaa]) {
        return bzimage::best_protocol(kernel);
    }
    if elf::is_elf(data) {
        return elf::best_protocol(kernel);
    }
    if multiboot::has_header(data) {
        return Ok(Kind::Multiboot);
    }
    // Linux Documentation/arch/arm64/booting.rst and arch/riscv/boot-image-header.rst.
    for (offset, magic, found) in [
        (0x38, b"ARM\x64".as_slice(), "64-bit Arm (an arm64 Image)"),
        (0x38, b"RSC\x05".as_slice(), "RISC-V"),
        (0x24, &[0x18, 0x28, 0x6f, 0x01], "32-bit Arm (a zImage)"),
    ] {
        if at(offset, magic) {
            return Err(LoadError::WrongArchitecture { name, found: found.into() });
        }
    }
    let (found, advice) = if data.is_empty() {
        ("an empty file", "fetch it again")
    } else if at(0, &[0x1f, 0x8b]) {
        ("gzip data", "unpack it with gunzip first")
    } else if at(0, &[0x28, 0xb5, 0x2f, 0xfd]) {
        ("zstd data", "unpack it with unzstd first")
    } else if at(0, b"\xfd7zXZ\0") {
        ("xz data", "unpack it with unxz first")
    } else if at(0, b"070701") || at(0, b"070702") {
        ("a cpio archive", "pass it as the initrd")
    } else if at(4, b"zimg") {
        ("an EFI zboot image", "pass the kernel's bzImage")
    } else if at(0, b"MZ") {
        ("an EFI or DOS program", "pass the kernel's bzImage")
    } else if at(0, b"!<arch>\n") {
        ("a Debian package or library archive", "pass the vmlinuz inside of it")
    } else if at(0x8001, b"CD001") {
        ("a CD image", "pass the kernel inside of it")
    } else if at(0x1fe, &[0x55, 0xaa]) {
        ("a boot sector or disk image", "pass a kernel")
    } else {
        ("unknown data", "pass a bzImage, an ELF or a multiboot kernel")
    };
    Err(LoadError::NotBootable { name, found: found.into(), advice })
}
