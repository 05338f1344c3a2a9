//! Multiboot 1 (Multiboot Specification 0.6.96).

use crate::bzimage::enter_protected;
use crate::elf::{Elf, is_elf};
use crate::image::{Contents, Placer};
use crate::memory_map::EBDA;
use crate::{BootFile, BootRequest, Entry, LoadError, Registers};
use ringworld_core::PAGE_SIZE;

/// The header lies in the first bytes of the file, aligned to 4 (3.1).
const SEARCH: usize = 8192;
const MAGIC: u32 = 0x1bad_b002;
const HEADER_2_SEARCH: usize = 32768;
const HEADER_2_MAGIC: u32 = 0xe852_50d6;
/// In EAX at the entry (3.2).
const LOADER_MAGIC: u64 = 0x2bad_b002;

/// Header flags (3.1.2): requirements in bits 15:0, of which modules on page boundaries, memory information and a
/// video mode are known; the address fields are valid.
const REQUIREMENTS: u32 = 0xffff;
const KNOWN_REQUIREMENTS: u32 = 0b111;
const ADDRESS_FIELDS: u32 = 1 << 16;

/// Flags of the information (3.3): memory, command line, modules, memory map, loader name.
const INFO_FLAGS: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// Up to the APM table and the VBE fields, which are absent.
const INFO_SIZE: usize = 88;
const MODULE_SIZE: usize = 16;
/// An entry of the memory map with its size field, which does not count itself.
const MEMORY_SIZE: usize = 24;
const LOADER_NAME: &[u8] = b"ringworld\0";
const MIB: u64 = 1 << 20;

/// The header: its place in the file and its fields.
struct Header {
    offset: usize,
    flags: u32,
    /// header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr.
    addresses: Option<[u32; 5]>,
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The first header whose checksum is right.
fn find_header(data: &[u8]) -> Option<Header> {
    (0..SEARCH.min(data.len())).step_by(4).find_map(|offset| {
        let [magic, flags, checksum] = [0, 4, 8].map(|field| word(data, offset + field));
        let (flags, checksum) = (flags?, checksum?);
        if magic? != MAGIC || MAGIC.wrapping_add(flags).wrapping_add(checksum) != 0 || offset + 12 > SEARCH {
            return None;
        }
        let field = |index: usize| word(data, offset + 12 + index * 4);
        let addresses = match flags & ADDRESS_FIELDS {
            0 => None,
            _ => Some([field(0)?, field(1)?, field(2)?, field(3)?, field(4)?]),
        };
        Some(Header { offset, flags, addresses })
    })
}

/// Whether a kernel has a multiboot header, and is in a format that it can be loaded from.
pub(crate) fn has_header(data: &[u8]) -> bool {
    find_header(data).is_some_and(|header| header.addresses.is_some() || is_elf(data))
}

/// Whether there is a multiboot 2 header for i386.
pub(crate) fn has_header_2(data: &[u8]) -> bool {
    (0..HEADER_2_SEARCH.min(data.len())).step_by(8).any(|at| {
        let [magic, architecture, length, checksum] =
            [0, 4, 8, 12].map(|field| word(data, at + field).unwrap_or(1));
        magic == HEADER_2_MAGIC && architecture == 0 && magic.wrapping_add(length).wrapping_add(checksum) == 0
    })
}

/// Loads the kernel by the header's address fields (3.1.3). Returns its end and the entry point.
fn place_by_addresses(
    placer: &mut Placer,
    kernel: &BootFile,
    offset: usize,
    addresses: [u32; 5],
) -> Result<(u64, u64), LoadError> {
    let [header, load, load_end, bss_end, entry] = addresses.map(u64::from);
    let malformed = |what: String| LoadError::Malformed { name: kernel.name.clone(), what };
    let has = kernel.data.len() as u64;
    let start =
        header.checked_sub(load).and_then(|before| (offset as u64).checked_sub(before)).ok_or_else(|| {
            malformed(format!(
                "its multiboot header at {header:#x} lies before its load_addr {load:#x} or its file"
            ))
        })?;
    // "If load_end_addr is zero, the text and data segments occupy the whole file; if bss_end_addr is zero, there is no
    // bss segment."
    let length = match load_end {
        0 => has - start,
        end => end.checked_sub(load).ok_or_else(|| {
            malformed(format!("its multiboot load_end_addr {end:#x} is below its load_addr {load:#x}"))
        })?,
    };
    if start + length > has {
        let (name, needed) = (kernel.name.clone(), start + length);
        return Err(LoadError::Truncated { name, what: "multiboot load area", needed, has });
    }
    let end = load + length;
    let zeroes = match bss_end {
        0 => 0,
        bss_end => bss_end.checked_sub(end).ok_or_else(|| {
            malformed(format!(
                "its multiboot bss_end_addr {bss_end:#x} is below the load area's end {end:#x}"
            ))
        })?,
    };
    let contents = Contents::part(&kernel.data, start as usize..(start + length) as usize);
    placer.at(format!("kernel {}", kernel.name), load, contents, zeroes, 0)?;
    Ok((end + zeroes, entry))
}

/// Loads a multiboot kernel with its modules.
pub(crate) fn load(placer: &mut Placer, request: &BootRequest) -> Result<Entry, LoadError> {
    let kernel = &request.kernel;
    let unsupported = |what: String| LoadError::Unsupported { name: kernel.name.clone(), what };
    let header = find_header(&kernel.data).ok_or_else(|| {
        unsupported("has no multiboot header in its first 8192 bytes: start it by another protocol".into())
    })?;
    let unknown = header.flags & REQUIREMENTS & !KNOWN_REQUIREMENTS;
    if unknown != 0 {
        return Err(unsupported(format!("asks for unknown multiboot features (flags {unknown:#x})")));
    }
    let (end, entry) = match header.addresses {
        Some(addresses) => place_by_addresses(placer, kernel, header.offset, addresses)?,
        None if is_elf(&kernel.data) => {
            let elf = Elf::parse(kernel)?;
            (elf.place(placer)?, elf.physical_entry()?)
        }
        None => {
            return Err(unsupported("has a multiboot header without addresses, and is no ELF file".into()));
        }
    };

    let mut modules = Vec::new();
    for module in &request.modules {
        // After the kernel, where small kernels map memory anyway.
        let what = format!("module {}", module.name);
        let size = module.data.len() as u64;
        let start = placer.lowest(&what, size.max(1), PAGE_SIZE, end.max(MIB)..1 << 32)?;
        placer.at(what, start, (&module.data).into(), 0, size.max(1))?;
        modules.push((start, start + size, guest_line(module, &module.arguments)));
    }
    let line = guest_line(kernel, request.command_line);
    let map = placer.map();

    // One structure: information, modules, memory map, then the strings.
    let modules_at = INFO_SIZE;
    let memory_at = modules_at + modules.len() * MODULE_SIZE;
    let strings_at = memory_at + map.ranges().len() * MEMORY_SIZE;
    let strings = LOADER_NAME.len() + line.len() + modules.iter().map(|module| module.2.len()).sum::<usize>();
    let upper = (map.low_ram_end().0 - MIB) >> 10;
    let info = placer.structure("multiboot information", strings_at + strings, |base| {
        let base = base.0 as u32;
        let mut bytes = vec![0; strings_at];
        let string = |bytes: &mut Vec<u8>, text: &[u8]| {
            let address = base + bytes.len() as u32;
            bytes.extend_from_slice(text);
            address
        };
        let loader = string(&mut bytes, LOADER_NAME);
        let line = string(&mut bytes, &line);
        let put = |bytes: &mut Vec<u8>, at: usize, value: u32| {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes())
        };
        for (index, (start, end, line)) in modules.iter().enumerate() {
            let line = string(&mut bytes, line);
            let at = modules_at + index * MODULE_SIZE;
            // Below 4 GiB, as placed.
            put(&mut bytes, at, *start as u32);
            put(&mut bytes, at + 4, *end as u32);
            put(&mut bytes, at + 8, line);
        }
        for (index, range) in map.ranges().iter().enumerate() {
            let at = memory_at + index * MEMORY_SIZE;
            put(&mut bytes, at, MEMORY_SIZE as u32 - 4);
            bytes[at + 4..at + 12].copy_from_slice(&range.start.0.to_le_bytes());
            bytes[at + 12..at + 20].copy_from_slice(&range.length.to_le_bytes());
            put(&mut bytes, at + 20, range.usage as u32);
        }
        for (at, value) in [
            (0, INFO_FLAGS),
            // Memory from 0 and from 1 MiB, in KiB.
            (4, (EBDA >> 10) as u32),
            (8, upper as u32),
            (16, line),
            (20, modules.len() as u32),
            (24, base + modules_at as u32),
            (44, (strings_at - memory_at) as u32),
            (48, base + memory_at as u32),
            (64, loader),
        ] {
            put(&mut bytes, at, value);
        }
        bytes
    })?;
    enter_protected(placer, entry, Registers { rax: LOADER_MAGIC, rbx: info.0, ..Registers::default() })
}

/// A command line as multiboot has it: the file's name without its folder, then the arguments.
fn guest_line(file: &BootFile, arguments: &str) -> Vec<u8> {
    let separator = if arguments.is_empty() { "" } else { " " };
    format!("{}{separator}{arguments}\0", file.base_name()).into_bytes()
}
