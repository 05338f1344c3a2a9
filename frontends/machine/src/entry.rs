//! The CPUs' state when firmware and boot loader hand over.

use ringworld_core::GuestPhys;
use ringworld_firmware::{Entry, Segment as BootSegment};
use ringworld_x86::Cpu;
use ringworld_x86::insn::seg;
use ringworld_x86::model::Feature;
use ringworld_x86::segment::Segment;
use ringworld_x86::state::{TableRegister, gpr};
use ringworld_x86::vmx::capability::feature_control;

/// Where the hole for devices below 4 GiB starts, and its size.
const DEVICE_HOLE: u64 = 0x8000_0000;
const DEVICE_HOLE_SIZE: u64 = 0x8000_0000;

/// Memory types (SDM 3A 12.3.1).
const UNCACHEABLE: u64 = 0;
const WRITE_PROTECTED: u64 = 5;
const WRITE_BACK: u64 = 6;

/// SMBASE of the first CPU; those of the others follow downwards. Entry points (at 0x8000) and save areas (from 0xfe00 to
/// 0xffff) lie in the BIOS's memory, between its tables and its vectors.
const SMBASE: u64 = 0xe_f000;
const SMBASE_STRIDE: u64 = 0x200;
/// So many CPUs have room there.
const SMBASES: u32 = 32;
/// An SMI has no business here.
const SMI_HANDLER: [u8; 2] = [0x0f, 0xaa];

/// Moves SMBASE from where the operating system's memory is, and leaves a handler that returns (APM 2 10.3.2).
fn smi_handler(cpu: &mut Cpu) {
    if cpu.id.0 < SMBASES {
        let base = SMBASE - SMBASE_STRIDE * u64::from(cpu.id.0);
        if cpu.memory.write(GuestPhys(base + 0x8000), &SMI_HANDLER).is_ok() {
            cpu.msrs.smbase = base;
        }
    }
}

/// IA32_FEATURE_CONTROL as firmware leaves it: locked, with VMX outside of SMX operation (SDM 3C 24.7).
pub(crate) const FEATURE_CONTROL: u64 = feature_control::LOCK | feature_control::VMX;

/// What firmware leaves in every CPU, as the manual asks of it (SDM 3A 12.11, MP specification 1.4, 3.6.2.2): memory
/// types, a local APIC in virtual wire mode, a handler of SMIs, and the x87 FPU as FNINIT leaves it: after RESET its registers count as full
/// and its exceptions are unmasked (SDM 3A table 10-1).
pub(crate) fn firmware_state(cpu: &mut Cpu) {
    cpu.lapic.set_virtual_wire_mode();
    smi_handler(cpu);
    cpu.x87.control = 0x37f;
    cpu.x87.valid = 0;
    if cpu.model.has(Feature::Vmx) {
        cpu.msrs.feature_control = FEATURE_CONTROL;
    }
    if !cpu.model.has(Feature::Mtrr) {
        return;
    }
    let physical = u64::MAX >> (64 - u32::from(cpu.physical_bits()));
    let all = |kind: u64| kind * 0x0101_0101_0101_0101;
    let mtrr = &mut cpu.msrs.mtrr;
    // Fixed ranges: conventional memory, the VGA window, what is the BIOS's.
    mtrr.fixed[..2].fill(all(WRITE_BACK));
    mtrr.fixed[2] = all(UNCACHEABLE);
    mtrr.fixed[3..].fill(all(WRITE_PROTECTED));
    mtrr.variable[0] = [DEVICE_HOLE | UNCACHEABLE, physical & !(DEVICE_HOLE_SIZE - 1) | 1 << 11];
    // Both kinds of ranges enabled; everything else is memory.
    mtrr.def_type = 1 << 11 | 1 << 10 | WRITE_BACK;
}

/// Applies `entry` to a CPU that has just been reset.
pub(crate) fn apply(entry: &Entry, cpu: &mut Cpu) {
    let segment = |from: BootSegment| Segment {
        selector: from.selector,
        rights: from.rights,
        limit: from.limit,
        base: from.base,
        unusable: false,
    };
    for n in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
        cpu.seg[usize::from(n)] = segment(entry.segments.data);
    }
    cpu.seg[usize::from(seg::CS)] = segment(entry.segments.cs);
    cpu.tr = segment(entry.segments.tr);
    cpu.gdtr = TableRegister { base: entry.gdt.base, limit: entry.gdt.limit };
    cpu.idtr = TableRegister { base: entry.idt.base, limit: entry.idt.limit };
    cpu.regs = [0; 32];
    cpu.regs[gpr::RAX] = entry.registers.rax;
    cpu.regs[gpr::RBX] = entry.registers.rbx;
    cpu.regs[gpr::RSI] = entry.registers.rsi;
    cpu.regs[gpr::RSP] = entry.registers.rsp;
    cpu.set_rip(entry.rip);
    cpu.flags.set(entry.rflags());
    cpu.cr0 = entry.cr0();
    cpu.cr3 = entry.cr3();
    cpu.cr4 = entry.cr4();
    cpu.efer = entry.efer();
    cpu.flush_everything();
    cpu.update_mode();
}
