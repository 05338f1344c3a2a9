//! Kernel command lines, module names and arguments through every protocol.

use crate::loaders;
use crate::random::Random;
use ringworld_firmware::{AcpiConfig, BootFile, BootRequest, MemoryMap, load};

pub fn run(random: &mut Random) -> &'static str {
    let kernel = loaders::kernel(random);
    let length = match random.below(4) {
        0 => random.below(20),
        1 => random.pick(&[254, 255, 256, 2046, 2047, 2048, 4094, 4095, 4096]),
        _ => random.below(6000),
    };
    let text = if random.one_in(3) { random.text(length) } else { "x".repeat(length) };
    let arguments = random.text(length / 64);
    let name = random.text(20);
    let module = BootFile { arguments, ..BootFile::new(name, vec![1; 100]) };
    let memory = MemoryMap::pc(64 << 20).expect("64 MiB");
    let request = BootRequest {
        kernel,
        kind: loaders::kind(random),
        modules: vec![module],
        command_line: &text,
        memory: &memory,
        acpi: AcpiConfig { cpus: 1, serial_ports: 1, hpet: true },
    };
    let result = load(&request);
    if let Ok(image) = &result {
        loaders::check(image, &memory);
        assert!(!text.contains('\0'));
        // The guest gets the whole line, ended by a zero.
        let line = [text.as_bytes(), &[0]].concat();
        let holds = |bytes: &[u8]| bytes.windows(line.len()).any(|window| window == line);
        assert!(image.pieces().iter().any(|piece| holds(piece.bytes())), "the command line is in no piece");
        return "loaded";
    }

    match result {
        Err(error) if error.to_string().is_empty() => "",
        _ => "refused",
    }
}
