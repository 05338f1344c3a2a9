//! The monitor's `info`.

use ringworld_core::VirtualTime;
use ringworld_machine::Machine;
use ringworld_x86::Cpu;
use ringworld_x86::lapic::ApicMode;
use ringworld_x86::state::TableRegister;
use std::fmt::Write;

/// The general registers' names, in encoding order.
pub const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

const TOPICS: &str = "info registers|cpus|tlb|lapic|ioapic|pic|mem|stats";

/// RFLAGS bits with names, from the top down.
const FLAGS: [(u32, &str); 16] = [
    (21, "ID"),
    (20, "VIP"),
    (19, "VIF"),
    (18, "AC"),
    (17, "VM"),
    (16, "RF"),
    (14, "NT"),
    (11, "OF"),
    (10, "DF"),
    (9, "IF"),
    (8, "TF"),
    (7, "SF"),
    (6, "ZF"),
    (4, "AF"),
    (2, "PF"),
    (0, "CF"),
];

/// Writes into a string, which cannot fail.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => { _ = writeln!($out, $($arg)*) };
}

/// Shows one topic.
pub fn info(machine: &Machine, cpu: usize, topic: &str, out: &mut String) -> Result<(), String> {
    let selected = machine.cpu(cpu).ok_or("there is no such CPU")?;
    match topic {
        "registers" | "r" | "reg" => registers(selected, out),
        "cpus" => cpus(machine, out),
        "tlb" => tlb(selected, out),
        "lapic" => lapic(selected, out),
        "ioapic" => ioapic(machine, out),
        "pic" => pic(machine, out),
        "mem" => memory(machine, out),
        "stats" => out.push_str(&crate::stats::counters(&machine.stats())),
        _ => return Err(TOPICS.into()),
    }
    Ok(())
}

fn registers(cpu: &Cpu, out: &mut String) {
    for row in 0..4 {
        let names = GPR.iter().zip(&cpu.regs).skip(4 * row).take(4);
        line!(
            out,
            "{}",
            names.map(|(name, value)| format!("{name:>3} {value:016x}")).collect::<Vec<_>>().join("  ")
        );
    }
    let flags = cpu.flags.get();
    let names: Vec<&str> =
        FLAGS.iter().filter(|(bit, _)| flags >> bit & 1 != 0).map(|(_, name)| *name).collect();
    line!(
        out,
        "rip {:016x}  rflags {flags:08x} [{}] IOPL {} CPL {}",
        cpu.rip(),
        names.join(" "),
        cpu.flags.iopl(),
        cpu.cpl
    );
    for (name, s) in ["es", "cs", "ss", "ds", "fs", "gs"]
        .into_iter()
        .zip(&cpu.seg)
        .chain([("ldtr", &cpu.ldtr), ("tr", &cpu.tr)])
    {
        let unusable = if s.unusable { " unusable" } else { "" };
        line!(
            out,
            "{name:<4} {:04x} base {:016x} limit {:08x} rights {:04x}{unusable}",
            s.selector,
            s.base,
            s.limit,
            s.rights
        );
    }
    for (name, TableRegister { base, limit }) in [("gdtr", cpu.gdtr), ("idtr", cpu.idtr)] {
        line!(out, "{name} base {base:016x} limit {limit:04x}");
    }
    line!(out, "cr0 {:08x}  cr2 {:016x}  cr3 {:016x}  cr4 {:08x}", cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4);
    line!(out, "efer {:x}  xcr0 {:x}  pkru {:x}  mxcsr {:x}", cpu.efer, cpu.xcr0, cpu.pkru, cpu.mxcsr);
    let dr = cpu.dr;
    line!(
        out,
        "dr0 {:x}  dr1 {:x}  dr2 {:x}  dr3 {:x}  dr6 {:x}  dr7 {:x}",
        dr[0],
        dr[1],
        dr[2],
        dr[3],
        dr[6],
        dr[7]
    );
}

fn cpus(machine: &Machine, out: &mut String) {
    for cpu in machine.cpus() {
        let smm = if cpu.smm { " SMM" } else { "" };
        line!(
            out,
            "CPU {} {:?}{smm}: {}-bit code, CPL {}, rip {:#x}, {} instructions, {:?}",
            cpu.id.0,
            cpu.activity,
            cpu.mode.bitness(),
            cpu.cpl,
            cpu.rip(),
            cpu.icount,
            cpu.now()
        );
    }
}

fn tlb(cpu: &Cpu, out: &mut String) {
    let mut entries: Vec<_> = cpu.tlb.iter().collect();
    entries.sort_by_key(|entry| entry.linear_page);
    for entry in &entries {
        let kind = |yes, letter| if yes { letter } else { '-' };
        line!(
            out,
            "{:016x} -> {:012x} {}{} page {}K in {}",
            entry.linear_page,
            entry.physical_page,
            kind(entry.read, 'r'),
            kind(entry.write, 'w'),
            (1u64 << entry.page_shift) >> 10,
            entry.key
        );
    }
    line!(out, "{} entries", entries.len());
}

/// The local APIC's registers (SDM 3A table 12-1) by their offset in its page.
const APIC_REGISTERS: [(&str, u32); 16] = [
    ("ID", 0x20),
    ("version", 0x30),
    ("TPR", 0x80),
    ("PPR", 0xa0),
    ("LDR", 0xd0),
    ("SVR", 0xf0),
    ("ESR", 0x280),
    ("ICR", 0x300),
    ("LVT timer", 0x320),
    ("LVT thermal", 0x330),
    ("LVT counter", 0x340),
    ("LVT LINT0", 0x350),
    ("LVT LINT1", 0x360),
    ("LVT error", 0x370),
    ("initial count", 0x380),
    ("current count", 0x390),
];

fn lapic(cpu: &Cpu, out: &mut String) {
    let now = cpu.now();
    // A copy: reading can bring the timer up to date.
    let mut apic = cpu.lapic.clone();
    line!(out, "{:?} at {:#x}, ID {:#x}", apic.mode(), apic.base() & !0xfff, apic.physical_id());
    for row in APIC_REGISTERS.chunks(4) {
        let registers = row.iter().map(|(name, offset)| {
            let value = if apic.mode() == ApicMode::X2Apic {
                apic.msr_read(0x800 + offset / 16, now).unwrap_or(0)
            } else {
                let mut bytes = [0; 4];
                apic.mmio_read(u64::from(*offset), &mut bytes, now);
                u32::from_le_bytes(bytes).into()
            };
            format!("{name:>13} {value:08x}")
        });
        line!(out, "{}", registers.collect::<Vec<_>>().join(" "));
    }
    for (name, set) in [("waiting (IRR)", apic.irr()), ("in service (ISR)", apic.isr())] {
        let vectors = (0..=255).filter(|vector| set.contains(*vector)).map(|vector| format!("{vector:02x}"));
        line!(out, "{name}: {}", vectors.collect::<Vec<_>>().join(" "));
    }
    let next = apic.next_timer(now);
    if next == VirtualTime::NEVER {
        line!(out, "no timer interrupt ahead");
    } else {
        line!(out, "timer interrupt in {} ns; TSC deadline {:#x}", next.since(now), apic.tsc_deadline(now));
    }
}

fn ioapic(machine: &Machine, out: &mut String) {
    const DELIVERY: [&str; 8] = ["fixed", "lowest", "SMI", "(3)", "NMI", "INIT", "(6)", "ExtINT"];
    for (pin, entry) in machine.board().interrupt_controllers().0.into_iter().enumerate() {
        let bit =
            |n: u32, set: &'static str, clear: &'static str| if entry >> n & 1 != 0 { set } else { clear };
        line!(
            out,
            "pin {pin:>2}: vector {:02x} {} to {} {:#x}, {}, {}{}{}{}",
            entry & 0xff,
            DELIVERY[(entry >> 8 & 7) as usize],
            bit(11, "logical", "physical"),
            entry >> 56,
            bit(15, "level", "edge"),
            bit(13, "low", "high"),
            bit(16, ", masked", ""),
            bit(12, ", pending", ""),
            bit(14, ", remote IRR", "")
        );
    }
}

fn pic(machine: &Machine, out: &mut String) {
    let chips = machine.board().interrupt_controllers().1;
    for (name, (irr, isr, imr)) in ["master", "slave"].into_iter().zip(chips) {
        line!(out, "{name:<6} IRR {irr:08b} ISR {isr:08b} IMR {imr:08b}");
    }
    line!(out, "INTR {}", if machine.board().intr() { "asserted" } else { "not asserted" });
}

fn memory(machine: &Machine, out: &mut String) {
    for region in machine.memory().regions() {
        let last = region.base.0 + (region.size - 1);
        line!(out, "{:012x}-{last:012x} {:?} {} KiB", region.base.0, region.kind, region.size >> 10);
    }
    for region in machine.board().counters().memory {
        line!(out, "{:012x}-{:012x} {}", region.base, region.base + (region.len - 1), region.name);
    }
}
