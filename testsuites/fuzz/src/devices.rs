//! Device registers: a guest of several CPUs that reads and writes them at random, with interrupts on. It must neither
//! panic nor hang the machine, and two runs must end in the same state.

use crate::random::Random;
use ringworld_machine::{Backends, BootFile, Loader, Machine, MachineConfig, RunUntil, Source, StopReason};

const BASE: u32 = 0x10_0000;
/// Offsets in the image: the interrupt handler, the IDT, IDTR's contents.
const HANDLER: usize = 0x6000;
const IDT: usize = 0x7000;
const IDTR: usize = 0x7800;
const IMAGE: usize = 0x8000;
const LIMIT: u64 = 20_000;

/// The ports of the board, with their neighbours.
const PORTS: [(u16, u16); 22] = [
    (0x20, 2),
    (0x40, 4),
    (0x60, 1),
    (0x61, 1),
    (0x64, 1),
    (0x70, 4),
    (0x92, 1),
    (0xa0, 2),
    (0xb2, 2),
    (0xe0, 12),
    (0x2f8, 8),
    (0x3f8, 8),
    (0x402, 1),
    (0x4d0, 2),
    (0x505, 1),
    (0x510, 12),
    (0x600, 64),
    (0xcf8, 8),
    (0x2000, 24),
    (0xf4, 4),
    (0x80, 1),
    (0xfff0, 16),
];
/// The memory of the board: I/O APIC, HPET, local APIC, and what is beside them.
const MEMORY: [(u32, u32); 6] = [
    (0xfec0_0000, 0x44),
    (0xfed0_0000, 0x400),
    (0xfee0_0000, 0x400),
    (0xff00_0000, 0x1_0010),
    (0xa_0000, 0x100),
    (0xc000_0000, 0x100),
];

/// A program that talks to devices for ever.
fn image(random: &mut Random) -> Vec<u8> {
    let mut code = vec![0xbc];
    code.extend((BASE - 0x1000).to_le_bytes());
    code.extend([0x0f, 0x01, 0x1d]);
    code.extend((BASE + IDTR as u32).to_le_bytes());
    code.push(0xfb);
    let start = code.len();
    while code.len() < HANDLER - 64 {
        access(random, &mut code);
    }
    code.push(0xe9);
    let back = start as i32 - (code.len() as i32 + 4);
    code.extend(back.to_le_bytes());

    code.resize(HANDLER, 0x90);
    // PUSH EAX; MOV AL, 20h; OUT 20h; OUT A0h; MOV dword [FEE000B0h], EAX; POP EAX; IRET.
    code.extend([0x50, 0xb0, 0x20, 0xe6, 0x20, 0xe6, 0xa0, 0xa3, 0xb0, 0x00, 0xe0, 0xfe, 0x58, 0xcf]);
    code.resize(IDT, 0);
    let handler = u64::from(BASE) + HANDLER as u64;
    let gate = (handler & 0xffff) | 0x10 << 16 | 0x8e << 40 | (handler >> 16) << 48;
    code.extend(gate.to_le_bytes().repeat(256));
    code.resize(IDTR, 0);
    code.extend(0x7ffu16.to_le_bytes());
    code.extend((BASE + IDT as u32).to_le_bytes());
    code.resize(IMAGE, 0);
    code
}

/// Appends an access to a device, or a short wait.
fn access(random: &mut Random, code: &mut Vec<u8>) {
    let value = random.edgy() as u32;
    match random.below(16) {
        0..=9 => {
            let (first, count) = random.pick(&PORTS);
            let port = first.wrapping_add(random.below(usize::from(count)) as u16);
            // MOV DX; MOV EAX; OUT or IN with 8, 16 or 32 bits.
            code.extend([0x66, 0xba]);
            code.extend(port.to_le_bytes());
            code.push(0xb8);
            code.extend(value.to_le_bytes());
            code.extend(random.pick::<&[u8]>(&[
                &[0xee],
                &[0xee],
                &[0xec],
                &[0x66, 0xef],
                &[0x66, 0xed],
                &[0xef],
                &[0xed],
            ]));
        }
        10..=13 => {
            let (base, size) = random.pick(&MEMORY);
            let aligned = if random.one_in(8) { 0 } else { 3 };
            let address = base + (random.below(size as usize) as u32 & !aligned);
            code.push(0xb8);
            code.extend(value.to_le_bytes());
            // MOV to or from memory: EAX, AX, AL.
            code.extend(random.pick::<&[u8]>(&[&[0xa3], &[0xa3], &[0xa1], &[0x66, 0xa3], &[0xa2], &[0xa0]]));
            code.extend(address.to_le_bytes());
        }
        14 => {
            // A loop of some thousand instructions, so that timers go by: MOV ECX; LOOP.
            code.push(0xb9);
            code.extend((random.below(2000) as u32 + 1).to_le_bytes());
            code.extend([0xe2, 0xfe]);
        }
        _ => code.push(random.pick(&[0xfb, 0xfa, 0xf4, 0x90])),
    }
}

/// What two runs must agree in.
type End = (u64, u128, StopReason);

fn execute(image: &[u8], cpus: u32, slice: u64) -> Result<End, String> {
    let config = MachineConfig {
        cpus,
        memory: 2 << 20,
        kernel: Source::Memory(BootFile::new("devices", image.to_vec())),
        loader: Loader::RawProtected(BASE),
        cpu_test: true,
        debug_exit: None,
        reboot: true,
        slice,
        ..MachineConfig::default()
    };
    let backends =
        Backends { serial: vec![Box::new(|_: &[u8]| {}), Box::new(|_: &[u8]| {})], debug_console: None };
    let mut machine = Machine::new(config, backends).map_err(|error| error.to_string())?;
    // No input will come.
    machine.handle().close();
    let stop = machine.run(&RunUntil::instructions(LIMIT)).map_err(|error| error.to_string())?;
    Ok((machine.instructions(), machine.state_hash(), stop))
}

pub fn run(random: &mut Random) -> &'static str {
    let image = image(random);
    let cpus = random.pick(&[1, 1, 2, 3]);
    let slice = random.pick(&[100, 1000, 10_000]);
    let first = execute(&image, cpus, slice);
    if random.one_in(4) {
        let second = execute(&image, cpus, slice);
        assert!(first == second, "two runs differ: {first:x?} and {second:x?}");
    }
    match first {
        Ok((_, _, StopReason::PowerOff)) => "power off",
        Ok((_, _, StopReason::Suspend)) => "suspended",
        Ok((_, _, StopReason::GuestExit(_))) => "exit",
        Ok((_, _, StopReason::TripleFault { .. })) => "triple fault",
        Ok((_, _, StopReason::Panic)) => "guest panic",
        Ok((_, _, StopReason::InstructionLimit)) => "ran to the end",
        Ok((_, _, StopReason::Idle)) => "idle",
        Ok(_) => "stopped",
        Err(error) => panic!("the machine failed: {error}"),
    }
}
