//! The monitor's view of VMX: the current VMCS, VM entries that fail, and walks through extended page tables.

use ringworld_core::GuestPhys;
use ringworld_machine::Machine;
use ringworld_x86::virt::Level;
use ringworld_x86::vmx::inspect::NestedWalk;
use ringworld_x86::vmx::reason;
use ringworld_x86::vmx::vmcs::Field;
use std::fmt::Write;

/// `vmcs`: every field of the current VMCS, and what has changed since the last VM entry with it.
pub fn vmcs(machine: &Machine, cpu: usize, out: &mut String) -> Result<(), String> {
    let cpu = machine.cpu(cpu).ok_or("there is no such CPU")?;
    let fields = cpu.vmcs_fields().ok_or("there is no current VMCS")?;
    let vmx = &cpu.virt.vmx;
    let place = if cpu.virt.level == Level::Vmx { "its guest runs" } else { "the host runs" };
    let launched = if vmx.vmcs.launched { "launched" } else { "clear" };
    _ = writeln!(out, "VMCS at {:#x}, {launched}; {place}", vmx.current.unwrap_or(0));
    for (info, value) in fields {
        let changed = cpu.vmcs_field_at_entry(info.field).filter(|old| *old != value);
        let changed = changed.map_or_else(String::new, |old| format!("  (was {old:#x} at the last entry)"));
        _ = writeln!(out, "{:04x} {:<36} {value:#x}{changed}", info.encoding, info.name);
    }
    let last = vmx.vmcs.get(Field::ExitReason) as u32;
    let failed = if last & reason::ENTRY_FAILURE != 0 { " (VM entry failed)" } else { "" };
    _ = writeln!(out, "last exit: {}{failed}", reason::name(last as u16));
    Ok(())
}

/// `why-failed`: the check that failed the last VM entry that failed, and all that the current VMCS violates.
pub fn why_failed(machine: &Machine, cpu: usize, out: &mut String) -> Result<(), String> {
    let cpu = machine.cpu(cpu).ok_or("there is no such CPU")?;
    match cpu.counters.vmx_failed {
        Some(name) => _ = writeln!(out, "the last VM entry that failed: {name}"),
        None => out.push_str("no VM entry has failed\n"),
    }
    if cpu.virt.vmx.current.is_none() {
        return Ok(());
    }
    for check in cpu.vm_entry_violations() {
        let (name, text, section) = (check.name, check.text, check.section);
        _ = writeln!(out, "violated now: {name} (SDM 3C {section}): {text}");
    }
    Ok(())
}

/// `ept ADDR`: the walk of a guest-physical address.
pub fn ept(machine: &Machine, cpu: usize, at: u64, out: &mut String) -> Result<(), String> {
    let cpu = machine.cpu(cpu).ok_or("there is no such CPU")?;
    show(&cpu.inspect_ept(GuestPhys(at)).ok_or("there are no extended or nested page tables")?, at, out);
    Ok(())
}

/// `walk2d ADDR`: every reference of the two-dimensional walk of a linear address.
pub fn walk2d(machine: &Machine, cpu: usize, at: u64, out: &mut String) -> Result<(), String> {
    let cpu = machine.cpu(cpu).ok_or("there is no such CPU")?;
    show(&cpu.inspect_nested(at).ok_or("no guest with extended or nested page tables runs")?, at, out);
    Ok(())
}

fn show(walk: &NestedWalk, at: u64, out: &mut String) {
    for (n, reference) in (1..).zip(&walk.references) {
        let (stage, level) = (reference.stage, reference.level);
        _ = writeln!(
            out,
            "{n:>3}  {:<7} level {level} at {:012x}: {:016x}",
            if stage == ringworld_mmu::Stage::First { "guest" } else { "  nested" },
            reference.address.0,
            reference.entry
        );
    }
    match &walk.result {
        Ok(physical) => {
            _ = writeln!(out, "{at:#x} -> {:#x}, {} references", physical.0, walk.references.len())
        }
        Err(why) => _ = writeln!(out, "{at:#x}: {why}"),
    }
}
