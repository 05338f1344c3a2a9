//! The PVH direct boot protocol (Xen docs/misc/pvh.pandoc; the structures are in Xen's
//! public/arch-x86/hvm/start_info.h).

use crate::boot_params::place_command_line;
use crate::bzimage::enter_protected;
use crate::elf::Elf;
use crate::image::Placer;
use crate::{BootRequest, Entry, LoadError, Registers};
use ringworld_core::{GuestPhys, PAGE_SIZE};

/// The note's name and its type, XEN_ELFNOTE_PHYS32_ENTRY.
const NOTE_NAME: &[u8] = b"Xen\0";
const PHYS32_ENTRY: u32 = 18;
/// XEN_HVM_START_MAGIC_VALUE.
const START_MAGIC: u32 = 0x336e_c578;
/// The version with a memory map.
const START_VERSION: u32 = 1;
/// The sizes of hvm_start_info, hvm_modlist_entry and hvm_memmap_table_entry, in bytes.
const START_INFO_SIZE: usize = 56;
const MODULE_SIZE: usize = 32;
const MEMORY_SIZE: usize = 24;
/// The protocol has no limit; a page is more than any kernel takes.
const COMMAND_LINE_MAX: usize = PAGE_SIZE as usize - 1;

/// The 32-bit entry point, if the kernel has one.
pub(crate) fn entry_point(elf: &Elf) -> Option<u64> {
    match elf.note(NOTE_NAME, PHYS32_ENTRY)? {
        // The note has the size of a pointer of its own ELF class.
        narrow if narrow.len() == 4 => Some(u32::from_le_bytes(narrow.try_into().ok()?).into()),
        wide => Some(u64::from_le_bytes(wide.get(..8)?.try_into().ok()?)).filter(|entry| *entry < 1 << 32),
    }
}

/// Loads an ELF kernel by its PVH entry point.
pub(crate) fn load(placer: &mut Placer, request: &BootRequest, rsdp: GuestPhys) -> Result<Entry, LoadError> {
    let kernel = &request.kernel;
    let elf = Elf::parse(kernel)?;
    let entry = entry_point(&elf).ok_or_else(|| {
        let what =
            "has no PVH entry point (the ELF note XEN_ELFNOTE_PHYS32_ENTRY): build it with CONFIG_PVH".into();
        LoadError::Unsupported { name: kernel.name.clone(), what }
    })?;
    elf.place(placer)?;
    let command_line = place_command_line(placer, kernel, request.command_line, COMMAND_LINE_MAX)?;

    let mut modules = Vec::with_capacity(request.modules.len() * MODULE_SIZE);
    for module in &request.modules {
        let size = module.data.len() as u64;
        let what = format!("module {}", module.name);
        let address = placer.highest(&what, size.max(1), PAGE_SIZE, 1 << 20..1 << 32)?;
        placer.at(what, address, (&module.data).into(), 0, 0)?;
        let line = place_module_line(placer, &module.arguments)?;
        modules.extend([address, size, line, 0].iter().flat_map(|field| field.to_le_bytes()));
    }
    let memory: Vec<u8> = placer
        .map()
        .ranges()
        .iter()
        .flat_map(|range| [range.start.0, range.length, range.usage as u64])
        .flat_map(u64::to_le_bytes)
        .collect();
    // Start info, memory map and module list follow each other.
    let size = START_INFO_SIZE + memory.len() + modules.len();
    let info = placer.structure("PVH start info", size, |base| {
        let memory_at = base.0 + START_INFO_SIZE as u64;
        let modules_at = if modules.is_empty() { 0 } else { memory_at + memory.len() as u64 };
        let mut info = Vec::with_capacity(size);
        let flags = 0;
        for field in [START_MAGIC, START_VERSION, flags, (modules.len() / MODULE_SIZE) as u32] {
            info.extend(field.to_le_bytes());
        }
        for field in [modules_at, command_line.0, rsdp.0, memory_at] {
            info.extend(field.to_le_bytes());
        }
        info.extend(((memory.len() / MEMORY_SIZE) as u32).to_le_bytes());
        info.resize(START_INFO_SIZE, 0);
        info.extend(memory);
        info.extend(modules);
        info
    })?;
    enter_protected(placer, entry, Registers { rbx: info.0, ..Registers::default() })
}

/// Places a module's command line; 0 when it has none.
fn place_module_line(placer: &mut Placer, line: &str) -> Result<u64, LoadError> {
    if line.is_empty() {
        return Ok(0);
    }
    let bytes = [line.as_bytes(), &[0]].concat();
    Ok(placer.structure("module command line", bytes.len(), |_| bytes)?.0)
}
