//! Tells two outcomes apart.

use crate::case::{CS32, Case, DATA, Fault, Mode, Outcome};
use crate::forms::host_is_intel;
use crate::undefined::{Undefined, in_parts, undefined};
use iced_x86::Register;
use std::fmt::Write;

const GPR: [&str; 16] = [
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14",
    "R15",
];

/// The differences between what the host and the emulator made of a case; empty if they agree.
pub fn differences(
    case: &Case,
    (host, host_memory): (&Outcome, &[u8]),
    (ours, our_memory): (&Outcome, &[u8]),
) -> Vec<String> {
    let mut out = Vec::new();
    let undefined = undefined(case);
    let mut host_memory = host_memory;
    if both_fault(host, ours) && in_parts(case) {
        // In which order the parts are accessed, and what was written before a fault, is not architectural.
        host_memory = our_memory;
    } else if !same_fault(host.fault, ours.fault)
        && !wraps(case, host.fault, ours.fault)
        && !offset_not_canonical(case, host.fault, ours.fault)
    {
        out.push(format!("fault: host {}, ours {}", fault(host.fault), fault(ours.fault)));
    }
    let (a, b) = (&host.state, &ours.state);
    let mut word = |name: &str, a: u64, b: u64| {
        if a != b {
            out.push(format!("{name}: host {a:#x}, ours {b:#x}"));
        }
    };
    let after = if a.selectors[1] == CS32 { Mode::Compat32 } else { case.mode };
    let registers = if case.mode == Mode::Long64 { 16 } else { 8 };
    let width = if after == Mode::Long64 { u64::MAX } else { 0xffff_ffff };
    for (n, name) in GPR.into_iter().enumerate().take(registers) {
        word(name, a.gpr[n] & width, b.gpr[n] & width);
    }
    word("RIP", a.rip & width, b.rip & width);
    let defined = !undefined.flags;
    word("RFLAGS", a.rflags & defined, b.rflags & defined);
    for (n, name) in ["ES", "CS", "SS", "DS", "FS", "GS"].into_iter().enumerate() {
        // A null selector's RPL is lost on the kernel's way back to user mode (SDM 2A, IRET).
        let visible = |selector: u16| u64::from(if selector < 4 { 0 } else { selector });
        word(name, visible(a.selectors[n]), visible(b.selectors[n]));
    }
    word("FS.base", a.fs_base, b.fs_base);
    word("GS.base", a.gs_base, b.gs_base);
    word("MXCSR", a.mxcsr.into(), b.mxcsr.into());
    for n in 0..8 {
        word(&format!("K{n}"), a.k[n], b.k[n]);
    }
    for n in 0..32 {
        if a.zmm[n] != b.zmm[n] && !(undefined.approximate && near(&a.zmm[n], &b.zmm[n])) {
            out.push(format!("ZMM{n}: host {}, ours {}", vector(&a.zmm[n]), vector(&b.zmm[n])));
        }
    }
    x87(case, host, ours, undefined, &mut out);
    if host_memory != our_memory {
        out.push(memory(host_memory, our_memory));
    }
    out
}

fn x87(case: &Case, host: &Outcome, ours: &Outcome, undefined: Undefined, out: &mut Vec<String>) {
    let (a, b) = (&host.state.x87, &ours.state.x87);
    if a.control != b.control {
        out.push(format!("FCW: host {:#06x}, ours {:#06x}", a.control, b.control));
    }
    // After a transcendental, C1 (rounded up) depends on the digits that are not exact.
    // At the smallest normal number, so does underflow.
    let smallest = (0..2).any(|n| a.st[n].1 & 0x7fff <= 1 && b.st[n].1 & 0x7fff <= 1);
    let status = match (undefined.x87_ulps > 0, smallest) {
        (true, true) => !0x210,
        (true, false) => !0x200,
        _ => !0,
    };
    if (a.status ^ b.status) & status != 0 {
        out.push(format!("FSW: host {:#06x}, ours {:#06x}", a.status, b.status));
    }
    if a.valid != b.valid {
        out.push(format!("FTW: host {:#04x}, ours {:#04x}", a.valid, b.valid));
    }
    for n in 0..8 {
        // Normal numbers in order: neighbours may have different exponents.
        let place = |(significand, exponent): (u64, u16)| {
            u128::from(exponent & 0x7fff) << 63 | u128::from(significand & !(1 << 63))
        };
        let near = |a: (u64, u16), b: (u64, u16)| {
            (a.1 ^ b.1) & 0x8000 == 0 && place(a).abs_diff(place(b)) <= undefined.x87_ulps.into()
        };
        if a.st[n] != b.st[n] && !near(a.st[n], b.st[n]) {
            let before = case.state.x87.st[n];
            out.push(format!(
                "ST{n}: host {:04x}:{:016x}, ours {:04x}:{:016x} (before {:04x}:{:016x})",
                a.st[n].1, a.st[n].0, b.st[n].1, b.st[n].0, before.1, before.0
            ));
        }
    }
}

fn same_fault(host: Option<Fault>, ours: Option<Fault>) -> bool {
    match (host, ours) {
        (Some(a), Some(b)) => {
            // Linux reports every fault on an address that is not user space's as a protection fault
            // (`sanitize_error_code`; user space ends one page below the canonical half).
            let blur = u32::from(a.vector == 14 && a.address >= 0x7fff_ffff_f000);
            a.vector == b.vector && a.error | blur == b.error | blur && a.address == b.address
        }
        (a, b) => a == b,
    }
}

/// An access that wraps around the end of a 4-GiB segment may or may not be found to violate its limit (SDM 3A 5.3).
fn wraps(case: &Case, host: Option<Fault>, ours: Option<Fault>) -> bool {
    let (Some(host), Some(ours)) = (host, ours) else { return false };
    let at_end = host.vector == 14 && host.address >> 6 == 0xffff_ffff >> 6;
    case.mode == Mode::Compat32 && at_end && matches!(ours.vector, 12 | 13)
}

/// The host runs with TF: of a gather that an element stops after others it reports the trap in the fault's place, and is at the
/// instruction still (SDM 2C VPGATHERDD). A machine runs without.
pub fn trap_before_fault(case: &Case, host: &Outcome, ours: &Outcome) -> bool {
    let stopped = host.fault.is_none() && ours.fault.is_some() && host.state.rip == case.state.rip;
    stopped && case.instructions().iter().any(|i| i.is_vsib())
}

/// AMD's processors want the offset to be canonical, too, not only its sum with FS's or GS's base, which is what the manuals say
/// (APM 2 5.3.1, SDM 1 3.3.7.1).
fn offset_not_canonical(case: &Case, host: Option<Fault>, ours: Option<Fault>) -> bool {
    let (Some(host), Some(ours)) = (host, ours) else { return false };
    let canonical = |address: u64| (address << 16) as i64 >> 16 == address as i64;
    let based = case.instructions().iter().any(|i| match i.memory_segment() {
        Register::FS => !canonical(ours.address.wrapping_sub(case.state.fs_base)),
        Register::GS => !canonical(ours.address.wrapping_sub(case.state.gs_base)),
        _ => false,
    });
    !host_is_intel() && case.mode == Mode::Long64 && host.vector == 13 && ours.vector == 14 && based
}

/// Whether the elements are no farther from each other than the errors of two approximations.
fn near(a: &[u64; 8], b: &[u64; 8]) -> bool {
    let elements = |quad: u64| [f32::from_bits(quad as u32), f32::from_bits((quad >> 32) as u32)];
    a.iter().zip(b).all(|(&a, &b)| {
        elements(a).into_iter().zip(elements(b)).all(|(a, b)| {
            let distance = (f64::from(a) - f64::from(b)).abs();
            a.to_bits() == b.to_bits() || distance <= 2.0 * 1.5 / 4096.0 * f64::from(a.abs())
        })
    })
}

fn both_fault(host: &Outcome, ours: &Outcome) -> bool {
    host.fault.is_some() && ours.fault.is_some()
}

fn fault(fault: Option<Fault>) -> String {
    match fault {
        None => "none".into(),
        Some(Fault { vector: 14, error, address }) => format!("#PF({error:#x}) at {address:#x}"),
        Some(Fault { vector, error, .. }) => format!("vector {vector} ({error:#x})"),
    }
}

fn vector(quads: &[u64; 8]) -> String {
    quads.iter().rev().map(|quad| format!("{quad:016x}")).collect::<Vec<_>>().join("_")
}

fn memory(host: &[u8], ours: &[u8]) -> String {
    let mut text = "memory:".to_string();
    let differing = (0..host.len()).filter(|&n| host[n] != ours[n]);
    for n in differing.clone().take(16) {
        let _ = write!(text, " [{:#x}] host {:02x}, ours {:02x};", DATA + n as u64, host[n], ours[n]);
    }
    let _ = write!(text, " {} bytes in all", differing.count());
    text
}
