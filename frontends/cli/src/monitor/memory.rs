//! The monitor's ways to memory: examine, disassemble, walk.

use crate::disassembly::{disassemble, hex};
use ringworld_core::GuestPhys;
use ringworld_machine::{Machine, linear_rip, read_linear};
use ringworld_mmu::x86::paging::{self, Mode};
use ringworld_x86::Cpu;
use std::fmt::Write;

/// The most units that one command shows.
const MAX_COUNT: usize = 4096;

/// How `x` shows memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Format {
    count: usize,
    size: usize,
    kind: char,
}

impl Format {
    fn parse(text: &str) -> Result<Self, String> {
        let mut format = Self { count: 1, size: 4, kind: 'x' };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        if digits > 0 {
            format.count = text[..digits].parse().map_err(|_| "too many".to_string())?;
        }
        for c in text[digits..].chars() {
            match c {
                'b' => format.size = 1,
                'h' => format.size = 2,
                'w' => format.size = 4,
                'g' => format.size = 8,
                'x' | 'd' | 'u' | 'i' => format.kind = c,
                'c' | 's' => (format.kind, format.size) = (c, 1),
                _ => return Err(format!("{c:?}: sizes are b h w g, formats x d u c s i")),
            }
        }
        if format.count > MAX_COUNT {
            return Err(format!("at most {MAX_COUNT}"));
        }
        Ok(format)
    }

    fn unit(self, bytes: &[u8]) -> String {
        let value = bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let unused = 64 - 8 * self.size;
        match self.kind {
            'd' => format!("{}", ((value << unused) as i64) >> unused),
            'u' => format!("{value}"),
            'c' => format!("{:?}", char::from(value as u8)),
            _ => format!("{value:#0width$x}", width = 2 + 2 * self.size),
        }
    }
}

/// `x` and `xp`.
pub fn examine(
    machine: &Machine,
    cpu: usize,
    physical: bool,
    format: &str,
    at: u64,
    out: &mut String,
) -> Result<(), String> {
    let format = Format::parse(format)?;
    let cpu = machine.cpu(cpu).ok_or("there is no such CPU")?;
    let read = |at: u64, len: usize| {
        if !physical {
            return read_linear(cpu, at, len);
        }
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let part =
                machine.read_physical(GuestPhys(at.wrapping_add(bytes.len() as u64)), len - bytes.len());
            if part.is_empty() {
                break;
            }
            bytes.extend(part);
        }
        bytes
    };
    let missing = |at: u64| format!("no memory at {at:#x}");
    match format.kind {
        'i' if physical => {
            let bytes = read(at, format.count * 15);
            show(disassemble(cpu, &bytes, at, at, format.count), out);
        }
        'i' => instructions(cpu, at, format.count, out)?,
        's' => {
            let bytes = read(at, MAX_COUNT);
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            if bytes.is_empty() {
                return Err(missing(at));
            }
            _ = writeln!(out, "{at:016x}: {:?}", String::from_utf8_lossy(&bytes[..end]));
        }
        _ => {
            let bytes = read(at, format.count * format.size);
            let per_line = 16 / format.size;
            let units: Vec<String> = bytes.chunks_exact(format.size).map(|unit| format.unit(unit)).collect();
            for (n, line) in units.chunks(per_line).enumerate() {
                _ = writeln!(out, "{:016x}: {}", at.wrapping_add(16 * n as u64), line.join(" "));
            }
            if units.len() < format.count {
                return Err(missing(at.wrapping_add(bytes.len() as u64)));
            }
        }
    }
    Ok(())
}

fn show(lines: Vec<crate::disassembly::Line>, out: &mut String) {
    for line in lines {
        _ = writeln!(out, "{:016x}: {:<30} {}", line.address, hex(&line.bytes), line.text);
    }
}

/// Disassembles from a linear address on.
pub fn instructions(cpu: &Cpu, at: u64, count: usize, out: &mut String) -> Result<(), String> {
    let bytes = read_linear(cpu, at, count.min(MAX_COUNT) * 15);
    if bytes.is_empty() {
        return Err(format!("no memory at {at:#x}"));
    }
    // The offset in the code segment, for the targets of branches.
    let ip = at.wrapping_sub(linear_rip(cpu)).wrapping_add(cpu.rip());
    show(disassemble(cpu, &bytes, ip, at, count.min(MAX_COUNT)), out);
    Ok(())
}

/// The names of a paging mode's tables, by level.
fn level_name(mode: Mode, level: u8) -> &'static str {
    match (mode, level) {
        (_, 5) => "PML5E",
        (_, 4) => "PML4E",
        (_, 3) => "PDPTE",
        (_, 2) => "PDE",
        _ => "PTE",
    }
}

/// The flags of a paging-structure entry (SDM 3A tables 5-15 to 5-20).
fn entry_flags(entry: u64, maps_page: bool, mode: Mode) -> String {
    let mut names = vec![
        (paging::P, "P"),
        (paging::RW, "RW"),
        (paging::US, "US"),
        (paging::PWT, "PWT"),
        (paging::PCD, "PCD"),
        (paging::A, "A"),
    ];
    if maps_page {
        names.extend([(paging::D, "D"), (paging::G, "G")]);
    }
    names.push((paging::PS, if maps_page { "PS/PAT" } else { "PS" }));
    if mode != Mode::Bits32 {
        names.push((paging::XD, "XD"));
    }
    let mut set: Vec<String> =
        names.into_iter().filter(|(bit, _)| entry & bit != 0).map(|(_, name)| name.to_string()).collect();
    let key = entry >> 59 & 15;
    if maps_page && key != 0 && matches!(mode, Mode::Level4 | Mode::Level5) {
        set.push(format!("key {key}"));
    }
    set.join(" ")
}

/// `walk`: every level, with its entry decoded.
pub fn walk(machine: &Machine, cpu: usize, at: u64, out: &mut String) -> Result<(), String> {
    let cpu = machine.cpu(cpu).ok_or("there is no such CPU")?;
    let (Some(paging), Some(walk)) = (cpu.paging(), machine.walk(cpu, at)) else {
        _ = writeln!(out, "paging is off: {at:#x} is physical");
        return Ok(());
    };
    let mode = paging.format().mode;
    _ = writeln!(out, "{mode:?} paging, CR3 {:#x}", paging.cr3);
    if mode == Mode::Pae {
        let n = (at >> 30) as usize & 3;
        _ = writeln!(out, "  PDPTE register {n}: {:016x}", paging.pdptes[n]);
    }
    let last = walk.steps.len();
    for (n, step) in walk.steps.iter().enumerate() {
        let maps_page = n + 1 == last && walk.result.is_ok();
        let name = level_name(mode, step.level);
        let flags = entry_flags(step.entry, maps_page, mode);
        _ = writeln!(out, "  {name:<5} at {:012x}: {:016x} [{flags}]", step.address.0, step.entry);
    }
    match walk.result {
        Ok(page) => {
            let yes = |set: bool, name: &'static str| if set { name } else { "" };
            _ = writeln!(
                out,
                "{at:#x} -> {:#x}: {} KiB page, {}{}{}{}PAT index {}",
                page.gpa.0,
                (1u64 << page.shift) >> 10,
                if page.user { "user, " } else { "supervisor, " },
                yes(page.writable, "writable, "),
                yes(page.executable, "executable, "),
                yes(page.global, "global, "),
                page.pat_index
            );
        }
        Err(fault) => {
            let why = if fault.error_code & paging::error_code::P == 0 {
                "not present"
            } else {
                "reserved bits or rights"
            };
            _ = writeln!(
                out,
                "{at:#x} -> page fault, error code {:#x}: {why} in the {}",
                fault.error_code,
                level_name(mode, fault.level)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        assert_eq!(Format::parse(""), Ok(Format { count: 1, size: 4, kind: 'x' }));
        assert_eq!(Format::parse("16gx"), Ok(Format { count: 16, size: 8, kind: 'x' }));
        assert_eq!(Format::parse("3i").map(|f| f.kind), Ok('i'));
        for text in ["q", "5000x", "99999999999999999999x"] {
            assert!(Format::parse(text).is_err(), "{text}");
        }
        let unit = |kind, size, bytes: &[u8]| Format { count: 1, size, kind }.unit(bytes);
        assert_eq!(unit('x', 2, &[0x34, 0x12]), "0x1234");
        assert_eq!(unit('d', 1, &[0xff]), "-1");
        assert_eq!(unit('u', 8, &[0xff; 8]), u64::MAX.to_string());
        assert_eq!(unit('c', 1, b"A"), "'A'");
    }

    #[test]
    fn entries_are_named() {
        assert_eq!(entry_flags(0x8000_0000_0000_01e3, true, Mode::Level4), "P RW A D G PS/PAT XD");
        assert_eq!(entry_flags(0x0800_0000_0000_0007, true, Mode::Level5), "P RW US key 1");
        assert_eq!(entry_flags(0x63, false, Mode::Pae), "P RW A");
    }
}
