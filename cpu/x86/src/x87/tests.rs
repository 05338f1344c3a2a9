//! Every x87 encoding against the host's silicon, and what user mode cannot show.

use super::X87;
use crate::decode::{Decoded, decode};
use crate::insn::{REG_RIP, seg};
use crate::model::Model;
use crate::segment::Segment;
use crate::{Cpu, Insn, Stop};
use iced_x86::{Code, Decoder, Instruction};
use ringworld_core::*;
use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind};
use std::sync::Arc;

/// Where the memory operand and the code are.
const OPERAND: u64 = 0x2000;
const CODE: u64 = 0x1000;

/// No devices.
#[derive(Default)]
struct Nothing(PlatformAttention);

impl Platform for Nothing {
    fn mmio_read(&self, _: IoContext, _: GuestPhys, _: &mut [u8]) {}
    fn mmio_write(&self, _: IoContext, _: GuestPhys, _: &[u8]) {}
    fn port_read(&self, _: IoContext, _: u16, _: &mut [u8]) {}
    fn port_write(&self, _: IoContext, _: u16, _: &[u8]) {}
    fn acknowledge(&self, _: IoContext) -> u8 {
        0
    }
    fn send(&self, _: IoContext, _: InterruptMessage) {}
    fn end_of_interrupt(&self, _: IoContext, _: u8) {}
    fn attention(&self) -> &PlatformAttention {
        &self.0
    }
}

/// A CPU in real-address mode, all segments at 0, CR0.NE set.
fn cpu() -> Cpu {
    let region = MemoryRegion { base: GuestPhys(0), size: 1 << 20, kind: RegionKind::Ram };
    let memory = Arc::new(GuestMemory::new(&[region]).unwrap());
    let mut cpu = Cpu::new(CpuId(0), Arc::new(Model::default()), memory, Arc::new(Nothing::default()));
    cpu.reset();
    cpu.seg = [Segment::real(0); 6];
    cpu.seg[seg::CS as usize] = Segment { rights: 0x9b, ..Segment::real(0) };
    cpu.cr0 |= crate::control::cr0::NE;
    cpu.update_mode();
    cpu.x87.initialize();
    cpu
}

/// Decodes `bytes` as 16-bit code at [`CODE`] and leaves RIP after them.
fn instruction(cpu: &mut Cpu, bytes: &[u8]) -> Insn {
    let mut padded = [0x90; 15];
    padded[..bytes.len()].copy_from_slice(bytes);
    let mut decoder = Decoder::with_ip(16, &padded, CODE, cpu.model.decoder_options());
    let Decoded::Instruction(insn, _) =
        decode(&mut decoder, &mut Instruction::default(), cpu.mode, &cpu.model)
    else {
        panic!("{bytes:x?} is too short");
    };
    cpu.memory.write(GuestPhys(CODE), bytes).unwrap();
    cpu.regs[REG_RIP as usize] = CODE + u64::from(insn.len);
    insn
}

fn run(cpu: &mut Cpu, bytes: &[u8]) -> Result<(), Stop> {
    let insn = instruction(cpu, bytes);
    (insn.exec)(cpu, &insn)
}

#[cfg(target_arch = "x86_64")]
mod silicon {
    use super::super::fsw;
    use super::*;
    use memmap2::{Mmap, MmapOptions};

    /// What an instruction works on: the 32-bit protected-mode FSAVE image, memory, RAX, RFLAGS.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Machine {
        pub image: [u8; 108],
        pub memory: [u8; 16],
        pub rax: u64,
        pub flags: u64,
    }

    /// The native instruction as a function of image, memory operand, flags and where to leave RAX and RFLAGS.
    pub struct Native(Mmap);

    impl Native {
        /// `bytes`: an instruction whose memory operand, if any, is [rsi].
        pub fn new(bytes: &[u8]) -> Self {
            // frstor [rdi]; xor eax, eax; push rdx; popfq
            let mut code = vec![0xdd, 0x27, 0x31, 0xc0, 0x52, 0x9d];
            code.extend_from_slice(bytes);
            // mov [rcx], rax; pushfq; pop rax; mov [rcx + 8], rax; fnsave [rdi]; fninit; ret
            code.extend_from_slice(&[0x48, 0x89, 0x01, 0x9c, 0x58, 0x48, 0x89, 0x41, 0x08, 0xdd, 0x37]);
            code.extend_from_slice(&[0xdb, 0xe3, 0xc3]);
            let mut map = MmapOptions::new().len(4096).map_anon().unwrap();
            map[..code.len()].copy_from_slice(&code);
            Self(map.make_exec().unwrap())
        }

        /// Returns the machine after the instruction, and whether FDP points to the memory operand.
        pub fn run(&self, before: &Machine) -> (Machine, bool) {
            let mut after = before.clone();
            let mut out = [0u64; 2];
            type Function = extern "sysv64" fn(*mut u8, *mut u8, u64, *mut u64);
            // SAFETY: the code above is such a function; it only touches what it is given, and leaves the x87 as FNINIT does,
            // which is the state that callers expect.
            unsafe {
                let function: Function = core::mem::transmute(self.0.as_ptr());
                function(after.image.as_mut_ptr(), after.memory.as_mut_ptr(), before.flags, out.as_mut_ptr());
            }
            [after.rax, after.flags] = out;
            let fdp = u32::from_le_bytes(after.image[20..24].try_into().unwrap());
            let hit = fdp == after.memory.as_ptr() as u32;
            (after, hit)
        }
    }

    pub struct Random(pub u64);
    impl Random {
        pub fn bits(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }
        pub fn below(&mut self, n: u64) -> u64 {
            (self.bits() >> 20) % n
        }
        fn register(&mut self) -> [u8; 10] {
            let fraction = match self.below(5) {
                0 => 0,
                1 => u64::MAX >> 1,
                2 => 1 << self.below(63),
                3 => self.bits() & u64::MAX << 40,
                _ => self.bits(),
            };
            let (exp, integer) = match self.below(16) {
                0 => (0, 0),
                1 => (0x7fff, 1 << 63),
                2 => (self.bits() & 0x7fff, self.bits() & 1 << 63),
                3 => (1, 1 << 63),
                4 => (0x7ffe, 1 << 63),
                5 => (0x3fff + self.below(70), 1 << 63),
                6 => (0x3fff - self.below(70), 1 << 63),
                _ => (0x3ffc + self.below(7), 1 << 63),
            };
            let sign = self.bits() & 0x8000;
            let mut bytes = [0; 10];
            bytes[..8].copy_from_slice(&(fraction & u64::MAX >> 1 | integer).to_le_bytes());
            bytes[8..].copy_from_slice(&((exp | sign) as u16).to_le_bytes());
            bytes
        }
        /// A state without a pending exception. `fop` and `fdp` are marks to see changes by.
        pub fn machine(&mut self) -> Machine {
            let masks = if self.below(3) == 0 { self.bits() & 0x3f } else { 0x3f };
            let control = (self.bits() & 0xf00 | masks | 0x40) as u16;
            let sticky = if self.below(2) == 0 { self.bits() & masks } else { 0 };
            let status = (self.bits() & 0x7f40 | sticky) as u16;
            let tags = if self.below(3) == 0 { self.bits() as u16 } else { 0 };
            let mut image = [0; 108];
            image[..2].copy_from_slice(&control.to_le_bytes());
            image[4..6].copy_from_slice(&status.to_le_bytes());
            image[8..10].copy_from_slice(&tags.to_le_bytes());
            image[18..20].copy_from_slice(&0x123u16.to_le_bytes());
            image[20..24].copy_from_slice(&0x456u32.to_le_bytes());
            for slot in image[28..].chunks_exact_mut(10) {
                slot.copy_from_slice(&self.register());
            }
            let mut memory = [0; 16];
            match self.below(4) {
                0 => memory[..10].copy_from_slice(&self.register()),
                1 => memory[..4].copy_from_slice(&(self.below(4) as f32 * 0.75 - 1.0).to_le_bytes()),
                2 => memory[..8].copy_from_slice(&(self.below(4) as f64 * 1e-310).to_le_bytes()),
                _ => memory.fill(self.bits() as u8 & 0x77),
            }
            Machine { image, memory, rax: 0, flags: self.bits() & 0x8d5 | 2 }
        }
    }

    /// The same instruction, as this crate runs it.
    fn ours(cpu: &mut Cpu, insn: &Insn, before: &Machine) -> (Machine, bool) {
        cpu.x87 = X87::default();
        load(&mut cpu.x87, &before.image);
        cpu.memory.write(GuestPhys(OPERAND), &before.memory).unwrap();
        cpu.flags.set(before.flags);
        cpu.regs[0] = 0;
        cpu.regs[REG_RIP as usize] = CODE + u64::from(insn.len);
        (insn.exec)(cpu, insn).unwrap();
        let mut after = before.clone();
        cpu.memory.read(GuestPhys(OPERAND), &mut after.memory).unwrap();
        after.rax = cpu.regs[0];
        after.flags = cpu.flags.get();
        let hit = cpu.x87.fdp == OPERAND;
        save(&cpu.x87, &mut after.image);
        (after, hit)
    }

    /// The image by the crate's own instructions would test them with themselves: these follow figure 8-9 of SDM 1 plainly.
    fn load(x87: &mut X87, image: &[u8; 108]) {
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        x87.control = word(0);
        x87.status = word(4);
        x87.fop = word(18);
        x87.fdp = word(20).into();
        for n in 0..8 {
            let physical = (usize::from(x87.top()) + n) & 7;
            let at = 28 + 10 * n;
            x87.significand[physical] = u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
            x87.exponent[physical] = word(at + 8);
            x87.valid |= u8::from(word(8) >> (2 * n) & 3 != 3) << n;
        }
    }

    fn save(x87: &X87, image: &mut [u8; 108]) {
        let mut put = |at: usize, value: u16| image[at..at + 2].copy_from_slice(&value.to_le_bytes());
        put(0, x87.control);
        put(4, x87.status);
        put(8, x87.tag_word());
        put(18, x87.fop);
        for n in 0..8 {
            let physical = (usize::from(x87.top()) + n) & 7;
            for word in 0..4 {
                put(28 + 10 * n + 2 * word, (x87.significand[physical] >> (16 * word)) as u16);
            }
            put(28 + 10 * n + 8, x87.exponent[physical]);
        }
    }

    fn transcendental(code: Code) -> bool {
        use Code::*;
        matches!(code, F2xm1 | Fyl2x | Fyl2xp1 | Fsin | Fcos | Fsincos | Fptan | Fpatan)
    }

    /// FIP and the FDP that is compared apart are cleared.
    fn comparable((machine, hit): (Machine, bool), code: Code) -> (Machine, bool) {
        let mut m = machine;
        m.image[12..16].fill(0);
        m.image[20..24].fill(0);
        m.flags &= 0x8d5;
        // FNSAVE stores ones in the upper halves.
        for at in [2, 6, 10, 26] {
            m.image[at..at + 2].fill(0xff);
        }
        (m, hit)
    }

    /// Transcendental results may differ by one unit in the last place, as cpu/fp says, and then in C1.
    fn agree(ours: &(Machine, bool), theirs: &(Machine, bool), code: Code) -> bool {
        if ours == theirs || !transcendental(code) {
            return ours == theirs;
        }
        let mut near = ours.clone();
        near.0.image[5] ^= (ours.0.image[5] ^ theirs.0.image[5]) & (fsw::C1 >> 8) as u8;
        for at in (28..108).step_by(10) {
            let value = |image: &[u8; 108]| {
                let mut bytes = [0; 16];
                bytes[..10].copy_from_slice(&image[at..at + 10]);
                // Sign and magnitude with the integer bit taken out: neighbours differ by 1.
                let bits = u128::from_le_bytes(bytes);
                (bits >> 64 << 63 | bits & (u128::MAX >> 65)) as i128
            };
            if (value(&ours.0.image) - value(&theirs.0.image)).abs() == 1 {
                near.0.image[at..at + 10].copy_from_slice(&theirs.0.image[at..at + 10]);
            }
        }
        near == *theirs
    }

    fn summary((m, hit): &(Machine, bool)) -> String {
        let word = |at: usize| u16::from_le_bytes([m.image[at], m.image[at + 1]]);
        let st = |n: usize| u64::from_le_bytes(m.image[28 + 10 * n..36 + 10 * n].try_into().unwrap());
        let registers =
            (0..8).map(|n| format!("{:04x}:{:016x}", word(36 + 10 * n), st(n))).collect::<Vec<_>>();
        format!(
            "fcw {:04x} fsw {:04x} ftw {:04x} fop {:03x} fdp {hit} flags {:x} rax {:x} memory {:x?} st {}",
            word(0),
            word(4),
            word(8),
            word(18),
            m.flags,
            m.rax,
            m.memory,
            registers.join(" ")
        )
    }

    fn excluded(code: Code) -> bool {
        use Code::*;
        // Images are compared by their own tests; the operand is larger than `Machine::memory`.
        matches!(
            code,
            Fnstenv_m28byte
                | Fldenv_m28byte
                | Fnsave_m108byte
                | Frstor_m108byte
                | Fnstenv_m14byte
                | Fldenv_m14byte
                | Fnsave_m94byte
                | Frstor_m94byte
        )
    }

    /// All 2,048 register forms and 64 memory forms.
    #[test]
    fn every_encoding_agrees_with_silicon() {
        let mut cpu = cpu();
        let mut random = Random(0x1234_5678_9abc_def1);
        let mut forms = 0;
        let mut failures = Vec::new();
        for opcode in 0xd8..=0xdfu8 {
            for modrm in (0..8).map(|reg| reg << 3 | 6).chain(0xc0..=0xffu8) {
                let native = [opcode, modrm];
                let disp = OPERAND.to_le_bytes();
                let bytes =
                    if modrm < 0xc0 { vec![opcode, modrm, disp[0], disp[1]] } else { native.to_vec() };
                let insn = instruction(&mut cpu, &bytes);
                let code = insn.code();
                if code == Code::INVALID || excluded(code) {
                    continue;
                }
                forms += 1;
                let function = Native::new(&native);
                let mut bad = 0;
                for _ in 0..2000 {
                    let before = random.machine();
                    let theirs = comparable(function.run(&before), code);
                    let got = comparable(ours(&mut cpu, &insn, &before), code);
                    if !agree(&got, &theirs, code) {
                        bad += 1;
                        if bad == 1 {
                            failures.push(format!(
                                "{code:?} {native:x?}\n before  {}\n ours    {}\n silicon {}",
                                summary(&(before, false)),
                                summary(&got),
                                summary(&theirs)
                            ));
                        }
                    }
                }
                if bad > 0 {
                    failures.push(format!("{code:?} {native:x?}: {bad} of 2000"));
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(forms > 450, "{forms} forms only");
    }
}
