//! The registers that gdb sees: one table from which the target description, the `g` packet and single accesses follow.
//!
//! Names, order and features are those of gdb's manual (G.5.5, "x86 Features"); what gdb does not know is in a feature of our
//! own.

use ringworld_x86::Cpu;
use ringworld_x86::model::{Feature, Model};
use ringworld_x86::snapshot::CpuState;
use std::fmt::Write;

/// What a register is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Id {
    /// A general register in the processor's numbering.
    General(usize),
    Rip,
    Flags,
    Selector(usize),
    Base(usize),
    Limit(usize),
    St(usize),
    /// x87 control, status, tag words, then FCS, FIP, FDS, FDP, FOP.
    X87(usize),
    /// Quadwords of a ZMM register: number, first, count.
    Vector(usize, usize, usize),
    Mxcsr,
    Mask(usize),
    Pkru,
    KernelGsBase,
    /// CR0, CR2, CR3, CR4.
    Control(usize),
    Cr8,
    Efer,
    Xcr0,
    Debug(usize),
    GdtBase,
    GdtLimit,
    IdtBase,
    IdtLimit,
    Ldtr,
    Tr,
    TrBase,
    Instructions,
}

struct Register {
    name: String,
    bits: usize,
    kind: &'static str,
    id: Id,
}

/// A model's registers.
pub(crate) struct Layout {
    registers: Vec<Register>,
    /// Where features begin: index of the first register, name, and types that they need.
    features: Vec<(usize, &'static str, &'static str)>,
}

const VECTOR_TYPES: &str = "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>\
<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>\
<vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>\
<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>\
<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>\
<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>";
const FLAG_TYPES: &str = "<flags id=\"i386_eflags\" size=\"4\"><field name=\"CF\" start=\"0\" end=\"0\"/>\
<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"AF\" start=\"4\" end=\"4\"/><field name=\"ZF\" start=\"6\" end=\"6\"/>\
<field name=\"SF\" start=\"7\" end=\"7\"/><field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" end=\"9\"/>\
<field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"OF\" start=\"11\" end=\"11\"/><field name=\"NT\" start=\"14\" end=\"14\"/>\
<field name=\"RF\" start=\"16\" end=\"16\"/><field name=\"VM\" start=\"17\" end=\"17\"/><field name=\"AC\" start=\"18\" end=\"18\"/>\
</flags>";
const YMM_TYPES: &str = "<vector id=\"v2ui128\" type=\"uint128\" count=\"2\"/>";

/// Segment registers in gdb's order: CS, SS, DS, ES, FS, GS as [`ringworld_x86::insn::seg`] numbers them.
const SEGMENTS: [(&str, usize); 6] = [("cs", 1), ("ss", 2), ("ds", 3), ("es", 0), ("fs", 4), ("gs", 5)];

impl Layout {
    pub(crate) fn new(model: &Model) -> Self {
        let mut layout = Self { registers: Vec::new(), features: Vec::new() };
        layout.feature("org.gnu.gdb.i386.core", FLAG_TYPES);
        let names = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"];
        for (name, number) in names.into_iter().zip([0, 3, 1, 2, 6, 7, 5, 4]) {
            let kind = if matches!(number, 4 | 5) { "data_ptr" } else { "int64" };
            layout.add(name, 64, kind, Id::General(number));
        }
        for number in 8..16 {
            layout.add(format!("r{number}"), 64, "int64", Id::General(number));
        }
        layout.add("rip", 64, "code_ptr", Id::Rip);
        layout.add("eflags", 32, "i386_eflags", Id::Flags);
        for (name, number) in SEGMENTS {
            layout.add(name, 32, "int32", Id::Selector(number));
        }
        for number in 0..8 {
            layout.add(format!("st{number}"), 80, "i387_ext", Id::St(number));
        }
        let names = ["fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"];
        for (number, name) in names.into_iter().enumerate() {
            layout.add(name, 32, "int", Id::X87(number));
        }
        layout.feature("org.gnu.gdb.i386.sse", VECTOR_TYPES);
        for number in 0..16 {
            layout.add(format!("xmm{number}"), 128, "vec128", Id::Vector(number, 0, 2));
        }
        layout.add("mxcsr", 32, "int32", Id::Mxcsr);
        layout.feature("org.gnu.gdb.i386.segments", "");
        layout.add("fs_base", 64, "int64", Id::Base(4));
        layout.add("gs_base", 64, "int64", Id::Base(5));
        if model.has(Feature::Avx) {
            layout.feature("org.gnu.gdb.i386.avx", "");
            for number in 0..16 {
                layout.add(format!("ymm{number}h"), 128, "uint128", Id::Vector(number, 2, 2));
            }
        }
        if model.has(Feature::Avx512f) {
            layout.feature("org.gnu.gdb.i386.avx512", YMM_TYPES);
            for number in 16..32 {
                layout.add(format!("xmm{number}"), 128, "uint128", Id::Vector(number, 0, 2));
            }
            for number in 16..32 {
                layout.add(format!("ymm{number}h"), 128, "uint128", Id::Vector(number, 2, 2));
            }
            for number in 0..8 {
                layout.add(format!("k{number}"), 64, "uint64", Id::Mask(number));
            }
            for number in 0..32 {
                layout.add(format!("zmm{number}h"), 256, "v2ui128", Id::Vector(number, 4, 4));
            }
        }
        if model.has(Feature::Pku) {
            layout.feature("org.gnu.gdb.i386.pkeys", "");
            layout.add("pkru", 32, "int32", Id::Pkru);
        }
        layout.feature("org.ringworld.x86.system", "");
        for (name, id) in [
            ("k_gs_base", Id::KernelGsBase),
            ("cr0", Id::Control(0)),
            ("cr2", Id::Control(2)),
            ("cr3", Id::Control(3)),
            ("cr4", Id::Control(4)),
            ("cr8", Id::Cr8),
            ("efer", Id::Efer),
            ("xcr0", Id::Xcr0),
            ("gdt_base", Id::GdtBase),
            ("gdt_limit", Id::GdtLimit),
            ("idt_base", Id::IdtBase),
            ("idt_limit", Id::IdtLimit),
            ("ldtr", Id::Ldtr),
            ("tr", Id::Tr),
            ("tr_base", Id::TrBase),
            ("instructions", Id::Instructions),
        ] {
            layout.add(name, 64, "int64", id);
        }
        for number in [0, 1, 2, 3, 6, 7] {
            layout.add(format!("dr{number}"), 64, "int64", Id::Debug(number));
        }
        for (name, number) in SEGMENTS {
            layout.add(format!("{name}_limit"), 64, "int64", Id::Limit(number));
            if number < 4 {
                layout.add(format!("{name}_base"), 64, "int64", Id::Base(number));
            }
        }
        layout
    }

    fn feature(&mut self, name: &'static str, types: &'static str) {
        self.features.push((self.registers.len(), name, types));
    }

    fn add(&mut self, name: impl Into<String>, bits: usize, kind: &'static str, id: Id) {
        self.registers.push(Register { name: name.into(), bits, kind, id });
    }

    /// The target description.
    pub(crate) fn xml(&self) -> String {
        let mut xml = "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>\
                       <architecture>i386:x86-64</architecture>"
            .to_string();
        for (n, (start, name, types)) in self.features.iter().enumerate() {
            let end = self.features.get(n + 1).map_or(self.registers.len(), |next| next.0);
            let _ = write!(xml, "<feature name=\"{name}\">{types}");
            for Register { name, bits, kind, .. } in &self.registers[*start..end] {
                let _ = write!(xml, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>");
            }
            xml.push_str("</feature>");
        }
        xml + "</target>"
    }

    /// All registers, as the `g` packet has them.
    pub(crate) fn read_all(&self, cpu: &Cpu) -> Vec<u8> {
        let state = cpu.state();
        self.registers.iter().flat_map(|register| read(register, &state)).collect()
    }

    /// One register; `None` if there is none of this number.
    pub(crate) fn read_one(&self, cpu: &Cpu, number: usize) -> Option<Vec<u8>> {
        self.registers.get(number).map(|register| read(register, &cpu.state()))
    }

    /// Puts the bytes of a `G` packet into a state: the registers that differ. False if they are too few.
    pub(crate) fn write_all(&self, state: &mut CpuState, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        self.registers.iter().all(|register| {
            let Some((value, tail)) = rest.split_at_checked(register.bits / 8) else { return false };
            rest = tail;
            if value != read(register, state) {
                // What cannot be changed stays.
                write(register, state, value);
            }
            true
        })
    }

    /// Changes one register; false for one that there is not or that cannot be changed.
    pub(crate) fn write_one(&self, state: &mut CpuState, number: usize, value: &[u8]) -> bool {
        self.registers.get(number).is_some_and(|register| {
            value.len() >= register.bits / 8 && write(register, state, &value[..register.bits / 8])
        })
    }
}

/// The base that is added to RIP: zero in 64-bit mode, so that gdb always sees linear addresses.
fn code_base(state: &CpuState) -> u64 {
    let cs = &state.seg[1];
    // IA-32e mode (EFER.LMA) with CS.L.
    if state.efer & 1 << 10 != 0 && cs.rights & 1 << 13 != 0 { 0 } else { cs.base }
}

fn read(register: &Register, state: &CpuState) -> Vec<u8> {
    let physical = |n: usize| (usize::from(state.x87.status >> 11 & 7) + n) & 7;
    let value = match register.id {
        Id::St(n) => {
            let n = physical(n);
            let mut bytes = state.x87.significand[n].to_le_bytes().to_vec();
            bytes.extend(state.x87.exponent[n].to_le_bytes());
            return bytes;
        }
        Id::Vector(n, first, count) => {
            return state.zmm[n][first..first + count].iter().flat_map(|word| word.to_le_bytes()).collect();
        }
        Id::General(n) => state.general[n],
        Id::Rip => {
            let base = code_base(state);
            if base == 0 { state.rip } else { state.rip.wrapping_add(base) & 0xffff_ffff }
        }
        Id::Flags => state.rflags,
        Id::Selector(n) => state.seg[n].selector.into(),
        Id::Base(n) => state.seg[n].base,
        Id::Limit(n) => state.seg[n].limit.into(),
        Id::X87(0) => state.x87.control.into(),
        Id::X87(1) => state.x87.status.into(),
        Id::X87(2) => state.x87.tag_word().into(),
        Id::X87(3) => state.x87.fcs.into(),
        Id::X87(4) => state.x87.fip,
        Id::X87(5) => state.x87.fds.into(),
        Id::X87(6) => state.x87.fdp,
        Id::X87(_) => state.x87.fop.into(),
        Id::Mxcsr => state.mxcsr.into(),
        Id::Mask(n) => state.k[n],
        Id::Pkru => state.pkru.into(),
        Id::KernelGsBase => state.msrs.kernel_gs_base,
        Id::Control(0) => state.cr0,
        Id::Control(2) => state.cr2,
        Id::Control(3) => state.cr3,
        Id::Control(_) => state.cr4,
        Id::Cr8 => state.lapic.cr8().into(),
        Id::Efer => state.efer,
        Id::Xcr0 => state.xcr0,
        Id::Debug(n) => state.dr[n],
        Id::GdtBase => state.gdtr.base,
        Id::GdtLimit => state.gdtr.limit.into(),
        Id::IdtBase => state.idtr.base,
        Id::IdtLimit => state.idtr.limit.into(),
        Id::Ldtr => state.ldtr.selector.into(),
        Id::Tr => state.tr.selector.into(),
        Id::TrBase => state.tr.base,
        Id::Instructions => state.icount,
    };
    value.to_le_bytes()[..register.bits / 8].to_vec()
}

/// False for registers that a debugger cannot change: those whose change alone would leave a state that no program can make.
fn write(register: &Register, state: &mut CpuState, bytes: &[u8]) -> bool {
    let word = |at: usize| {
        let mut word = [0; 8];
        let part = bytes.get(8 * at..).unwrap_or_default();
        let len = part.len().min(8);
        word[..len].copy_from_slice(&part[..len]);
        u64::from_le_bytes(word)
    };
    let value = word(0);
    match register.id {
        Id::St(n) => {
            let n = (usize::from(state.x87.status >> 11 & 7) + n) & 7;
            state.x87.significand[n] = value;
            state.x87.exponent[n] = word(1) as u16;
        }
        Id::Vector(n, first, count) => (0..count).for_each(|k| state.zmm[n][first + k] = word(k)),
        Id::General(n) => state.general[n] = value,
        Id::Rip => state.rip = value.wrapping_sub(code_base(state)),
        // VM changes the mode; bits that do not exist stay as they are.
        Id::Flags => state.rflags = state.rflags & !0x5_7fd5 | value & 0x5_7fd5,
        Id::Base(n @ 4..) => state.seg[n].base = value,
        Id::X87(0) => state.x87.control = value as u16,
        Id::X87(1) => state.x87.status = value as u16,
        Id::Mxcsr => state.mxcsr = value as u32 & 0xffff,
        Id::Mask(n) => state.k[n] = value,
        Id::Pkru => state.pkru = value as u32,
        Id::KernelGsBase => state.msrs.kernel_gs_base = value,
        Id::Control(2) => state.cr2 = value,
        Id::Debug(n @ 0..4) => state.dr[n] = value,
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_follows_the_model() {
        let xml = |model: &str| Layout::new(&Model::parse(model).unwrap()).xml();
        let max = xml("max");
        for part in ["fs_base", "zmm31h", "k7", "cr3", "ymm0h", "pkru", "st7", "mxcsr", "dr7"] {
            assert!(max.contains(&format!("name=\"{part}\"")), "{part}");
        }
        let small = xml("qemu64");
        assert!(!small.contains("ymm0h") && !small.contains("zmm0h") && small.contains("xmm15"));
        let layout = Layout::new(&Model::parse("max").unwrap());
        // gdb knows these by their numbers too.
        for (number, name) in [(0, "rax"), (7, "rsp"), (16, "rip"), (17, "eflags"), (24, "st0"), (40, "xmm0")]
        {
            assert_eq!(layout.registers[number].name, name);
        }
    }
}
