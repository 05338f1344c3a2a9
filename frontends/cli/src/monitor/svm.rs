//! The monitor's view of SVM: a VMCB with its fields decoded.

use ringworld_core::GuestPhys;
use ringworld_machine::Machine;
use ringworld_x86::svm::ExitCode;
use ringworld_x86::svm::checks::{Entry, failing};
use ringworld_x86::svm::vmcb::{CONTROL_SIZE, ControlArea, FIELDS, Field, SAVE_AREA, SAVE_SIZE, SaveArea};
use ringworld_x86::virt::Level;
use std::fmt::Write;
use zerocopy::FromBytes;

/// Bytes of a VMCB that have a meaning.
const SIZE: usize = SAVE_AREA as usize + SAVE_SIZE;

/// `vmcb [ADDR]`: the VMCB at a physical address, or that of the last VMRUN.
pub fn vmcb(machine: &Machine, cpu: usize, at: Option<u64>, out: &mut String) -> Result<(), String> {
    let cpu = machine.cpu(cpu).ok_or("there is no such CPU")?;
    let at = at.map_or(cpu.virt.svm.guest.vmcb, GuestPhys);
    if at.0 == 0 {
        return Err("no VMRUN so far; give a physical address".into());
    }
    let bytes = machine.read_physical(at, SIZE);
    if bytes.len() < SIZE {
        return Err(format!("no VMCB fits at {:#x}", at.0));
    }
    let place = if cpu.virt.level == Level::Svm { "the guest runs" } else { "the host runs" };
    let _ = writeln!(out, "VMCB at {:#x}; {place}, GIF {}", at.0, u8::from(cpu.virt.gif));
    for field in FIELDS {
        let _ = writeln!(out, "{:03x} {:<52} {}", field.offset, field.name, value(field, &bytes));
    }
    let control = ControlArea::read_from_bytes(&bytes[..CONTROL_SIZE]).map_err(|error| error.to_string())?;
    let save = SaveArea::read_from_bytes(&bytes[SAVE_AREA as usize..]).map_err(|error| error.to_string())?;
    let _ = writeln!(out, "intercepts: {}", intercepts(&control).join(" "));
    let _ = writeln!(out, "exit: {}", ExitCode(control.exit_code));
    let entry = Entry { control: &control, save: &save, model: &cpu.model, host_cr0: cpu.cr0 };
    for check in failing(&entry) {
        let _ = writeln!(out, "VMRUN would fail: {} ({}, APM 2 {})", check.name, check.text, check.section);
    }
    Ok(())
}

/// The exit codes that are intercepted.
fn intercepts(control: &ControlArea) -> Vec<String> {
    (0..192_u64)
        .filter(|code| control.intercepts[(code >> 5) as usize] >> (code & 31) & 1 != 0)
        .map(|code| ExitCode(code).to_string())
        .collect()
}

/// A field's bytes as one number, a segment register as its four.
fn value(field: &Field, bytes: &[u8]) -> String {
    let at = usize::from(field.offset);
    let number = |from: usize, len: usize| {
        bytes[from..from + len].iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    };
    match usize::from(field.size) {
        len @ 1..=8 => format!("{:#x}", number(at, len)),
        16 if field.offset >= SAVE_AREA as u16 => format!(
            "selector {:04x} attributes {:03x} limit {:08x} base {:016x}",
            number(at, 2),
            number(at + 2, 2),
            number(at + 4, 4),
            number(at + 8, 8)
        ),
        len => bytes[at..at + len].chunks(4).map(word).collect::<Vec<_>>().join(" "),
    }
}

fn word(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}
