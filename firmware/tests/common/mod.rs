//! What the tests of all loaders share.

#![allow(dead_code, reason = "each test uses a part")]

pub mod kernels;

use ringworld_firmware::{
    AcpiConfig, BootFile, BootRequest, Image, Kind, LoadError, MemoryMap, detect, load,
};

pub const MIB: u64 = 1 << 20;

/// Guest memory as far as pieces fill it.
pub struct Guest {
    pub image: Image,
}

impl Guest {
    /// The piece's bytes at an address; it must hold them all.
    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let piece = self.image.pieces().iter().find(|piece| {
            let size = piece.bytes().len() as u64 + piece.zeroes;
            (piece.address.0..piece.address.0 + size).contains(&address)
        });
        let piece = piece.unwrap_or_else(|| panic!("nothing at {address:#x}"));
        let mut bytes = piece.bytes().to_vec();
        bytes.resize(bytes.len() + piece.zeroes as usize, 0);
        bytes[(address - piece.address.0) as usize..][..length].to_vec()
    }

    pub fn u32(&self, address: u64) -> u64 {
        u32::from_le_bytes(self.read(address, 4).try_into().unwrap()).into()
    }

    pub fn u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.read(address, 8).try_into().unwrap())
    }

    pub fn string(&self, address: u64) -> String {
        let bytes = (address..).map(|at| self.read(at, 1)[0]).take_while(|byte| *byte != 0);
        String::from_utf8(bytes.collect()).unwrap()
    }
}

/// Loads a kernel with modules of these sizes, with arguments if its protocol has any, into a guest with `ram` bytes.
pub fn try_load(
    kernel: BootFile,
    ram: u64,
    modules: &[usize],
    command_line: &str,
    kind: Option<Kind>,
) -> Result<Guest, LoadError> {
    let memory = MemoryMap::pc(ram).unwrap();
    let kind = kind.or_else(|| detect(&kernel).ok());
    let has_arguments = matches!(kind, Some(Kind::Multiboot | Kind::Pvh));
    let module = |&size: &usize| BootFile {
        arguments: if has_arguments { "-x 1".into() } else { String::new() },
        ..BootFile::new("/some where/initrd", vec![0xab; size])
    };
    let modules = modules.iter().map(module).collect();
    let acpi = AcpiConfig { cpus: 2, serial_ports: 1, hpet: false, vga: false, pci: None };
    let request =
        BootRequest { kernel, kind, modules, command_line, memory: &memory, framebuffer: None, acpi };
    load(&request).map(|image| Guest { image })
}

/// Everything that is placed is in memory and apart.
pub fn check_placement(guest: &Guest, ram: u64) {
    let ends = guest
        .image
        .pieces()
        .iter()
        .map(|piece| (piece.address.0, piece.address.0 + piece.bytes().len() as u64 + piece.zeroes));
    let mut ends: Vec<(u64, u64)> = ends.collect();
    ends.sort();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ends:x?}");
    let regions = MemoryMap::pc(ram).unwrap().regions();
    for (start, end) in ends {
        assert!(regions.iter().any(|region| region.base.0 <= start && end <= region.base.0 + region.size));
    }
}
