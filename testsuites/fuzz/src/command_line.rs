//! What comes from Ringworld's own command line: kernel command lines, module names and arguments through every
//! protocol, and CPU models.

use crate::loaders;
use crate::random::Random;
use ringworld_firmware::{AcpiConfig, BootFile, BootRequest, MemoryMap, load};
use ringworld_x86::model::{CpuidState, Model, models};

pub fn run(random: &mut Random) -> &'static str {
    if random.one_in(4) { cpu_model(random) } else { kernel(random) }
}

/// A CPU model with features, some of them real.
fn cpu_model(random: &mut Random) -> &'static str {
    let names: Vec<&str> = models().map(|(name, _)| name).collect();
    let mut text = random.pick(&names).to_string();
    for _ in 0..random.below(6) {
        text.push(random.pick(&[',', ',', ',', '+']));
        text.push(random.pick(&['+', '-', '+', '-', '=']));
        text.push_str(
            random.pick(&["avx", "sse4.2", "sse4_2", "x2apic", "vmx", "svm", "avx512f", "la57", "pcid", ""]),
        );
    }
    if random.one_in(3) {
        let mut bytes = text.into_bytes();
        random.damage(&mut bytes, 64);
        text = String::from_utf8_lossy(&bytes).into_owned();
    }
    match Model::parse(&text) {
        Ok(model) => {
            // What it shows must be consistent enough to be asked for.
            let state = CpuidState::default();
            for leaf in [0, 1, 7, 0xb, 0xd, 0x8000_0001, random.edgy() as u32] {
                model.cpuid(leaf, random.edgy() as u32, &state);
            }
            "model"
        }
        Err(error) => {
            assert!(
                !error.to_string().contains('\n') || text.contains('\n'),
                "an error that is not one line: {error}"
            );
            "no model"
        }
    }
}

fn kernel(random: &mut Random) -> &'static str {
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
        framebuffer: None,
        acpi: AcpiConfig { cpus: 1, serial_ports: 1, hpet: true, vga: false, pci: None },
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
