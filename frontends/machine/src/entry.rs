//! Puts a CPU into the state that a boot protocol asks for.

use ringworld_firmware::{Entry, Segment as BootSegment};
use ringworld_x86::Cpu;
use ringworld_x86::insn::seg;
use ringworld_x86::segment::Segment;
use ringworld_x86::state::{TableRegister, gpr};

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
    cpu.flush_all();
    cpu.update_mode();
}
