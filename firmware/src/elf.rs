//! ELF kernels: their segments, and the entry of those that follow no other protocol.
//!
//! Such a kernel starts as Linux's own `vmlinux` does inside of a bzImage: an ELF64 file in 64-bit mode with the first
//! 4 GiB mapped one to one, an ELF32 file in flat 32-bit protected mode; (R|E)SI points to `boot_params`.

use crate::boot_params::{BootParams, offset, place_command_line, place_initrd};
use crate::image::{Contents, Placer};
use crate::{BootFile, BootRequest, Entry, Kind, LoadError, Registers, bzimage, multiboot, pvh};
use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{self, Header};
use goblin::elf::program_header::{PT_INTERP, PT_LOAD, PT_NOTE, ProgramHeader};
use ringworld_core::{GuestPhys, PAGE_SIZE};

/// No kernel has more, and each is compared with all others.
const MAX_SEGMENTS: usize = 128;
/// The boot protocol version that a kernel without a setup header is told.
const PROTOCOL_VERSION: u16 = 0x020f;
/// `loadflags`: loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// Linux's COMMAND_LINE_SIZE on x86, less the terminating zero.
pub(crate) const COMMAND_LINE_MAX: usize = 2047;

/// An ELF file for x86, its headers parsed.
pub(crate) struct Elf<'a> {
    file: &'a BootFile,
    pub(crate) is_64: bool,
    entry: u64,
    segments: Vec<ProgramHeader>,
}

/// Whether the file claims to be ELF.
pub(crate) fn is_elf(data: &[u8]) -> bool {
    data.starts_with(header::ELFMAG)
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(file: &'a BootFile) -> Result<Self, LoadError> {
        let data = &file.data[..];
        let name = || file.name.clone();
        let malformed = |what: String| LoadError::Malformed { name: name(), what };
        // The machine comes first: a big-endian or foreign file is better named than called damaged.
        let byte = |at: usize| data.get(at).copied().unwrap_or(0);
        let little = byte(header::EI_DATA) == header::ELFDATA2LSB;
        let machine = [byte(0x12), byte(0x13)];
        let machine = if little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
        let is_64 = match (byte(header::EI_CLASS), machine) {
            (header::ELFCLASS64, header::EM_X86_64) => true,
            (header::ELFCLASS32, header::EM_386 | header::EM_X86_64) => false,
            (_, header::EM_386 | header::EM_X86_64) => {
                return Err(malformed("its ELF header has an impossible class".into()));
            }
            _ if data.len() < 0x14 => {
                let (needed, has) = (0x34, data.len() as u64);
                return Err(LoadError::Truncated { name: name(), what: "ELF header", needed, has });
            }
            _ => {
                let found = match machine {
                    header::EM_AARCH64 => "64-bit Arm".into(),
                    header::EM_ARM => "32-bit Arm".into(),
                    header::EM_RISCV => "RISC-V".into(),
                    other => format!("ELF machine {other} ({})", header::machine_to_str(other)),
                };
                return Err(LoadError::WrongArchitecture { name: name(), found });
            }
        };
        let header_size =
            if is_64 { header::header64::SIZEOF_EHDR } else { header::header32::SIZEOF_EHDR } as u64;
        let truncated =
            |what, needed| LoadError::Truncated { name: name(), what, needed, has: data.len() as u64 };
        if (data.len() as u64) < header_size {
            return Err(truncated("ELF header", header_size));
        }
        let parsed: Header = goblin::elf::Elf::parse_header(data)
            .map_err(|error| malformed(format!("its ELF header: {error}")))?;
        if !little || !matches!(parsed.e_type, header::ET_EXEC | header::ET_DYN) {
            let (found, advice) = ("an ELF file that is not executable".into(), "pass the linked kernel");
            return Err(LoadError::NotBootable { name: name(), found, advice });
        }
        let container = if is_64 { Container::Big } else { Container::Little };
        let context = Ctx::new(container, Endian::Little);
        let count = usize::from(parsed.e_phnum);
        let table_end = parsed.e_phoff.saturating_add((count * ProgramHeader::size(context)) as u64);
        if table_end > data.len() as u64 {
            return Err(truncated("ELF program header table", table_end));
        }
        let segments = ProgramHeader::parse(data, parsed.e_phoff as usize, count, context)
            .map_err(|error| malformed(format!("its ELF program headers: {error}")))?;
        Ok(Self { file, is_64, entry: parsed.e_entry, segments })
    }

    fn loadable(&self) -> impl Iterator<Item = &ProgramHeader> {
        self.segments.iter().filter(|segment| segment.p_type == PT_LOAD && segment.p_memsz > 0)
    }

    /// Places the segments at their physical addresses. Returns the end of the highest.
    pub(crate) fn place(&self, placer: &mut Placer) -> Result<u64, LoadError> {
        let name = &self.file.name;
        let malformed = |what: String| LoadError::Malformed { name: name.clone(), what };
        let count = self.loadable().count();
        if !(1..=MAX_SEGMENTS).contains(&count) {
            return Err(malformed(format!("it has {count} loadable ELF segments, not 1 to {MAX_SEGMENTS}")));
        }
        let mut end = 0;
        for (index, segment) in self.loadable().enumerate() {
            let has = self.file.data.len() as u64;
            let needed = segment.p_offset.saturating_add(segment.p_filesz);
            if needed > has {
                return Err(LoadError::Truncated { name: name.clone(), what: "ELF segment", needed, has });
            }
            let Some(zeroes) = segment.p_memsz.checked_sub(segment.p_filesz) else {
                return Err(malformed(format!(
                    "its ELF segment {index} is larger in the file than in memory"
                )));
            };
            let contents = Contents::part(&self.file.data, segment.p_offset as usize..needed as usize);
            let what = format!("segment {index} of kernel {name}");
            placer.at(what, segment.p_paddr, contents, zeroes, 0)?;
            end = end.max(segment.p_paddr.saturating_add(segment.p_memsz));
        }
        Ok(end)
    }

    /// The entry point's physical address: kernels that are linked at virtual addresses may give either.
    pub(crate) fn physical_entry(&self) -> Result<u64, LoadError> {
        let holds = |start: u64, segment: &ProgramHeader| {
            self.entry.checked_sub(start).is_some_and(|offset| offset < segment.p_memsz)
        };
        let by_virtual = self.loadable().find(|segment| holds(segment.p_vaddr, segment));
        let by_physical = self.loadable().find(|segment| holds(segment.p_paddr, segment));
        let entry = match (by_virtual, by_physical) {
            (Some(segment), _) => segment.p_paddr.wrapping_add(self.entry - segment.p_vaddr),
            (None, Some(_)) => self.entry,
            (None, None) => u64::MAX,
        };
        if entry >= 1 << 32 {
            let what = format!("its entry point {:#x} is in none of its segments below 4 GiB", self.entry);
            return Err(LoadError::Malformed { name: self.file.name.clone(), what });
        }
        Ok(entry)
    }

    /// The descriptor of the first note with this name and type (ELF gABI, "Note Section").
    pub(crate) fn note(&self, name: &[u8], kind: u32) -> Option<&'a [u8]> {
        let notes = self.segments.iter().filter(|segment| segment.p_type == PT_NOTE);
        notes
            .filter_map(|segment| {
                let start = usize::try_from(segment.p_offset).ok()?;
                let end = start.checked_add(usize::try_from(segment.p_filesz).ok()?)?;
                find_note(self.file.data.get(start..end)?, name, kind)
            })
            .next()
    }
}

fn find_note<'a>(mut notes: &'a [u8], name: &[u8], kind: u32) -> Option<&'a [u8]> {
    loop {
        let word = |at: usize| Some(u32::from_le_bytes(notes.get(at..at + 4)?.try_into().ok()?));
        let (name_size, size, found) = (word(0)? as usize, word(4)? as usize, word(8)?);
        // Names and descriptors are padded to 4 bytes.
        let descriptor = 12usize.checked_add(name_size.checked_next_multiple_of(4)?)?;
        let bytes = notes.get(descriptor..descriptor.checked_add(size)?)?;
        if found == kind && notes.get(12..12 + name_size)? == name {
            return Some(bytes);
        }
        notes = notes.get(descriptor + size.checked_next_multiple_of(4)?..)?;
    }
}

/// The protocol that an ELF kernel offers.
pub(crate) fn best_protocol(kernel: &BootFile) -> Result<Kind, LoadError> {
    let elf = Elf::parse(kernel)?;
    if multiboot::has_header(&kernel.data) {
        return Ok(Kind::Multiboot);
    }
    if pvh::entry_point(&elf).is_some() {
        return Ok(Kind::Pvh);
    }
    let name = kernel.name.clone();
    if elf.segments.iter().any(|segment| segment.p_type == PT_INTERP) {
        let (found, advice) = ("a program for an operating system".into(), "pass a kernel");
        return Err(LoadError::NotBootable { name, found, advice });
    }
    if multiboot::has_header_2(&kernel.data) {
        let what = "is a multiboot 2 kernel: pass one with a multiboot 1 header or a PVH entry point".into();
        return Err(LoadError::Unsupported { name, what });
    }
    Ok(Kind::Elf)
}

/// Loads an ELF kernel that takes Linux's `boot_params`.
pub(crate) fn load(placer: &mut Placer, request: &BootRequest, rsdp: GuestPhys) -> Result<Entry, LoadError> {
    let elf = Elf::parse(&request.kernel)?;
    elf.place(placer)?;
    let entry = elf.physical_entry()?;
    let command_line = place_command_line(placer, &request.kernel, request.command_line, COMMAND_LINE_MAX)?;
    let initrd = place_initrd(placer, &request.modules, 1 << 32)?;
    let mut params = BootParams::new(&[]);
    params.common(placer.map(), command_line, rsdp);
    params.screen(request.framebuffer);
    params.initrd(initrd);
    params.set16(offset::BOOT_FLAG, 0xaa55);
    params.set32(offset::HEADER, u32::from_le_bytes(*b"HdrS"));
    params.set16(offset::VERSION, PROTOCOL_VERSION);
    params.set8(offset::LOADFLAGS, LOADED_HIGH);
    params.set32(offset::CMDLINE_SIZE, COMMAND_LINE_MAX as u32);
    let page = placer.structure("boot_params", PAGE_SIZE as usize, |_| params.into_bytes())?;
    let registers = Registers { rsi: page.0, ..Registers::default() };
    if elf.is_64 {
        bzimage::enter_long(placer, entry, registers)
    } else {
        bzimage::enter_protected(placer, entry, registers)
    }
}
