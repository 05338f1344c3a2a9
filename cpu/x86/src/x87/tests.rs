//! Every x87 encoding against the host's silicon, and what user mode cannot show.

use super::X87;
use crate::decode::{Decoded, decode};
use crate::insn::{REG_RIP, seg};
use crate::segment::Segment;
use crate::{Cpu, Insn, Stop};
use iced_x86::{Code, Decoder, Instruction};
use ringworld_core::GuestPhys;

/// Where the memory operand and the code are.
const OPERAND: u64 = 0x2000;
const CODE: u64 = 0x1000;

/// A CPU in real-address mode, all segments at 0, CR0.NE set. It has the host's pointers: FDP after exceptions only, no selectors.
fn cpu() -> Cpu {
    let mut cpu = crate::testing::cpu("max");
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
    fn comparable((machine, hit): (Machine, bool)) -> (Machine, bool) {
        let mut m = machine;
        m.image[12..16].fill(0);
        m.image[20..24].fill(0);
        m.flags &= 0x8d5;
        // FNSAVE stores ones in the upper halves.
        for at in [2, 6, 10, 26] {
            m.image[at..at + 2].fill(0xff);
        }
        // AMD's processors note opcode and operand of every instruction, ours those of the ones that Intel's note.
        if crate::Silicon::host() == crate::Silicon::Amd {
            m.image[12..26].fill(0);
            return (m, false);
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
        // On AMD's silicon at the smallest normal number, underflow differs with it.
        if crate::Silicon::host() == crate::Silicon::Amd {
            near.0.image[4] ^= (ours.0.image[4] ^ theirs.0.image[4]) & 0x10;
            // Unmasked, it wraps the exponent.
            let smallest = ours.0.image[36] <= 1 && ours.0.image[37] & 0x7f == 0;
            if smallest && ours.0.image[0] & 0x10 == 0 && ours.0.image[4] & 0x10 != theirs.0.image[4] & 0x10 {
                return true;
            }
            // The tags tell denormals.
            near.0.image[8..10].copy_from_slice(&theirs.0.image[8..10]);
        }
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

    fn random_bytes<const N: usize>(random: &mut Random) -> [u8; N] {
        core::array::from_fn(|_| random.bits() as u8)
    }

    /// Runs `code` with rdi and rsi pointing to copies of the two images, and returns them.
    fn native<const A: usize, const B: usize>(
        code: &[u8],
        mut a: [u8; A],
        mut b: [u8; B],
    ) -> ([u8; A], [u8; B]) {
        let mut map = MmapOptions::new().len(4096).map_anon().unwrap();
        map[..code.len()].copy_from_slice(code);
        let map = map.make_exec().unwrap();
        type Function = extern "sysv64" fn(*mut u8, *mut u8);
        // SAFETY: callers pass the code of such a function, which leaves the x87 as FNINIT does and MXCSR as it was.
        unsafe {
            let function: Function = core::mem::transmute(map.as_ptr());
            function(a.as_mut_ptr(), b.as_mut_ptr());
        }
        (a, b)
    }

    /// SDM 1 figure 8-9, and what loading makes of bits that do not exist.
    #[test]
    fn protected_mode_images_agree_with_silicon() {
        if crate::Silicon::host() == crate::Silicon::Amd {
            println!("skipped: AMD's processors save x87's pointers in other ways");
            return;
        }
        let mut cpu = cpu();
        cpu.cr0 |= crate::control::cr0::PE;
        cpu.update_mode();
        let disp = OPERAND.to_le_bytes();
        let at = |prefix: u8, opcode: u8, reg: u8| [prefix, opcode, reg << 3 | 6, disp[0], disp[1]];
        let mut random = Random(99);
        for _ in 0..20_000 {
            let mut image: [u8; 108] = random_bytes(&mut random);
            if random.below(2) == 0 {
                image[0] = 0x7f;
            }
            for slot in image[28..].chunks_exact_mut(10) {
                slot.copy_from_slice(&random.register());
            }
            // frstor [rdi]; fnstenv [rsi]; fnsave [rdi]; fninit; ret
            let code = [0xdd, 0x27, 0xd9, 0x36, 0xdd, 0x37, 0xdb, 0xe3, 0xc3];
            let (saved, environment) = native(&code, image, [0; 28]);
            cpu.x87.initialize();
            cpu.memory.write(GuestPhys(OPERAND), &image).unwrap();
            run(&mut cpu, &at(0x66, 0xdd, 4)).unwrap();
            run(&mut cpu, &at(0x66, 0xd9, 6)).unwrap();
            let mut ours = [0; 28];
            cpu.memory.read(GuestPhys(OPERAND), &mut ours).unwrap();
            assert_eq!(ours, environment);
            run(&mut cpu, &at(0x66, 0xdd, 6)).unwrap();
            let mut ours = [0; 108];
            cpu.memory.read(GuestPhys(OPERAND), &mut ours).unwrap();
            assert_eq!(ours, saved);
            assert_eq!((cpu.x87.control, cpu.x87.status, cpu.x87.valid), (0x37f, 0, 0), "FNSAVE initialises");
        }
    }

    /// The x87 part of SDM 1 table 13-1 without REX.W, and MXCSR.
    #[test]
    fn fxsave_images_agree_with_silicon() {
        if crate::Silicon::host() == crate::Silicon::Amd {
            println!("skipped: AMD's processors save x87's pointers in other ways");
            return;
        }
        #[repr(align(16))]
        struct Aligned([u8; 512]);
        let mut cpu = cpu();
        let disp = OPERAND.to_le_bytes();
        let mut random = Random(7);
        for _ in 0..20_000 {
            let mut image = Aligned(random_bytes(&mut random));
            image.0[24..28].copy_from_slice(&((random.bits() & 0xffff) as u32).to_le_bytes());
            // The host's MXCSR exceptions stay masked.
            image.0[24] |= 0x80;
            image.0[25] |= 0x1f;
            let mut out = Aligned([0xaa; 512]);
            // stmxcsr [rsp-8]; fxrstor [rdi]; fxsave [rsi]; ldmxcsr [rsp-8]; fninit; ret
            let code = [
                0x0f, 0xae, 0x5c, 0x24, 0xf8, 0x0f, 0xae, 0x0f, 0x0f, 0xae, 0x06, 0x0f, 0xae, 0x54, 0x24,
                0xf8, 0xdb, 0xe3, 0xc3,
            ];
            let mut map = MmapOptions::new().len(4096).map_anon().unwrap();
            map[..code.len()].copy_from_slice(&code);
            let map = map.make_exec().unwrap();
            // SAFETY: the code is a function of two pointers to aligned images; it changes XMM registers, of which the
            // convention keeps none, and restores MXCSR.
            unsafe {
                let function: extern "sysv64" fn(*const u8, *mut u8) = core::mem::transmute(map.as_ptr());
                function(image.0.as_ptr(), out.0.as_mut_ptr());
            }
            cpu.memory.write(GuestPhys(OPERAND), &image.0).unwrap();
            run(&mut cpu, &[0x0f, 0xae, 0x0e, disp[0], disp[1]]).unwrap();
            cpu.memory.write(GuestPhys(OPERAND), &[0xaa; 512]).unwrap();
            run(&mut cpu, &[0x0f, 0xae, 0x06, disp[0], disp[1]]).unwrap();
            let mut ours = [0; 512];
            cpu.memory.read(GuestPhys(OPERAND), &mut ours).unwrap();
            // Eight XMM registers outside of 64-bit mode.
            assert_eq!(ours[..288], out.0[..288]);
            assert_eq!(ours[416..], out.0[416..]);
        }
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
                    let theirs = comparable(function.run(&before));
                    let got = comparable(ours(&mut cpu, &insn, &before));
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

/// Real-address mode: pointers are linear addresses (SDM 1 figures 8-10 and 8-12).
#[test]
fn real_mode_environments() {
    let mut cpu = cpu();
    cpu.x87.fip = 0xb_cdef;
    cpu.x87.fdp = 0x5_4321;
    cpu.x87.fop = 0x765;
    let disp = OPERAND.to_le_bytes();
    run(&mut cpu, &[0xd9, 0x36, disp[0], disp[1]]).unwrap();
    let mut words = [0; 14];
    cpu.memory.read(GuestPhys(OPERAND), &mut words).unwrap();
    assert_eq!(words, [0x7f, 3, 0, 0, 0xff, 0xff, 0xef, 0xcd, 0x65, 0xb7, 0x21, 0x43, 0, 0x50]);
    run(&mut cpu, &[0x66, 0xd9, 0x36, disp[0], disp[1]]).unwrap();
    let mut wide = [0; 28];
    cpu.memory.read(GuestPhys(OPERAND), &mut wide).unwrap();
    let word = |n: usize| u32::from_le_bytes(wide[4 * n..4 * n + 4].try_into().unwrap());
    assert_eq!([3, 4, 5, 6].map(word), [0xffff_cdef, 0xb765, 0xffff_4321, 0x5000]);
    for load in [[0xd9, 0x26, disp[0], disp[1], 0x90], [0x66, 0xd9, 0x26, disp[0], disp[1]]] {
        cpu.x87.fip = 0;
        cpu.memory.write(GuestPhys(OPERAND), if load[0] == 0x66 { &wide[..] } else { &words[..] }).unwrap();
        run(&mut cpu, &load).unwrap();
        assert_eq!((cpu.x87.fip, cpu.x87.fdp, cpu.x87.fop), (0xb_cdef, 0x5_4321, 0x765));
    }
}

/// SDM 1 8.6 and 8.3.12: a pending exception stops the instructions that wait, and no others.
#[test]
fn pending_exceptions_and_waiting() {
    let disp = OPERAND.to_le_bytes();
    let memory = |opcode: u8, reg: u8| vec![opcode, reg << 3 | 6, disp[0], disp[1]];
    let waiting = [
        vec![0x9b],
        vec![0xd9, 0xd0],
        vec![0xd9, 0xe8],
        vec![0xd8, 0xc1],
        vec![0xd9, 0xf7],
        memory(0xd9, 5),
        memory(0xd9, 4),
        memory(0xdd, 4),
        memory(0xdd, 3),
        memory(0xdf, 6),
    ];
    let not_waiting = [
        vec![0xdb, 0xe3],
        vec![0xdb, 0xe2],
        vec![0xdf, 0xe0],
        vec![0xdb, 0xe0],
        memory(0xd9, 7),
        memory(0xdd, 7),
        memory(0xd9, 6),
        memory(0xdd, 6),
        vec![0x0f, 0xae, 0x06, disp[0], disp[1]],
        vec![0x0f, 0xae, 0x0e, disp[0], disp[1]],
    ];
    for (code, waits) in waiting.iter().map(|c| (c, true)).chain(not_waiting.iter().map(|c| (c, false))) {
        let mut cpu = cpu();
        run(&mut cpu, &memory(0xd9, 5)).unwrap();
        assert_eq!(cpu.x87.control, 0x40, "memory is zero: everything is unmasked");
        // An empty register: IE with SF, reported by the next instruction that waits.
        run(&mut cpu, &[0xd8, 0xc1]).unwrap();
        assert_eq!(cpu.x87.status, 0x80c1);
        let before = cpu.x87;
        let result = run(&mut cpu, code);
        assert_eq!(result.is_err(), waits, "{code:x?}");
        if waits {
            assert_eq!(cpu.pending.vector, crate::fault::vector::MF, "{code:x?}");
            assert_eq!(cpu.x87, before, "{code:x?}");
        }
    }
}

/// A fault leaves the x87 as it was; #MF comes before the operand is looked at.
#[test]
fn memory_faults() {
    let vector_of = |cpu: &mut Cpu, code: &[u8]| {
        let before = cpu.x87;
        assert!(run(cpu, code).is_err(), "{code:x?}");
        assert_eq!(cpu.x87, before, "{code:x?}");
        cpu.pending.vector
    };
    use crate::fault::vector::{GP, MF};
    let mut cpu = cpu();
    run(&mut cpu, &[0xd9, 0xe8]).unwrap();
    for (opcode, reg) in [(0xdd, 3), (0xdd, 0), (0xdb, 7), (0xdf, 6), (0xdd, 6), (0xd9, 6), (0xdd, 4)] {
        let code = [opcode, reg << 3 | 6, 0xfd, 0xff];
        assert_eq!(vector_of(&mut cpu, &code), GP, "past the limit: {code:x?}");
    }
    assert_eq!(vector_of(&mut cpu, &[0x0f, 0xae, 0x06, 8, 0x20]), GP, "FXSAVE wants 16-byte alignment");
    cpu.memory.write(GuestPhys(OPERAND + 24), &[0, 0, 1, 0]).unwrap();
    assert_eq!(vector_of(&mut cpu, &[0x0f, 0xae, 0x0e, 0, 0x20]), GP, "MXCSR's reserved bits");
    cpu.x87.control = 0x40;
    run(&mut cpu, &[0xd8, 0xc1]).unwrap();
    assert_eq!(vector_of(&mut cpu, &[0xdd, 0x1e, 0xfd, 0xff]), MF);
}

/// Models without CPUID.7.0:EBX[6] and [13] note every memory operand, and selectors (SDM 1 8.1.8).
#[test]
fn pointers_of_older_models() {
    let mut old = crate::testing::cpu("qemu64");
    old.reset();
    old.seg = [Segment::real(0); 6];
    old.seg[seg::CS as usize] = Segment { rights: 0x9b, ..Segment::real(0) };
    old.seg[seg::CS as usize].selector = 8;
    old.seg[seg::DS as usize].selector = 0x10;
    old.update_mode();
    old.x87.initialize();
    let mut new = cpu();
    for (cpu, fdp, selectors) in [(&mut old, OPERAND, (8, 0x10)), (&mut new, 0, (0, 0))] {
        run(cpu, &[0xdd, 0x06, 0, 0x20]).unwrap();
        assert_eq!((cpu.x87.fip, cpu.x87.fdp, (cpu.x87.fcs, cpu.x87.fds)), (CODE, fdp, selectors));
        run(cpu, &[0xd9, 0x3e, 2, 0x20]).unwrap();
        assert_eq!(cpu.x87.fip, CODE, "FNSTCW is a control instruction");
    }
}

/// SDM 1 8.7.2: with CR0.NE clear an exception goes to FERR#, and the processor waits for an interrupt; IGNNE# lets it go on.
#[test]
fn ms_dos_compatibility_mode() {
    use crate::state::Activity;
    use core::sync::atomic::{AtomicU8, Ordering::SeqCst};
    use ringworld_core::{InterruptMessage, IoContext, Platform, PlatformAttention};
    /// Bit 0: IGNNE#; bits 1 and 2: FERR# went low and high.
    #[derive(Default)]
    struct Pins(AtomicU8, PlatformAttention);
    impl Platform for Pins {
        fn mmio_read(&self, _: IoContext, _: GuestPhys, _: &mut [u8]) {}
        fn mmio_write(&self, _: IoContext, _: GuestPhys, _: &[u8]) {}
        fn port_read(&self, _: IoContext, _: u16, _: &mut [u8]) {}
        fn port_write(&self, _: IoContext, _: u16, _: &[u8]) {}
        fn acknowledge(&self, _: IoContext) -> u8 {
            0
        }
        fn send(&self, _: IoContext, _: InterruptMessage) {}
        fn end_of_interrupt(&self, _: IoContext, _: u8) {}
        fn numeric_error(&self, _: IoContext, pending: bool) -> bool {
            self.0.fetch_or(2 << u8::from(pending), SeqCst) & 1 != 0
        }
        fn attention(&self) -> &PlatformAttention {
            &self.1
        }
    }
    let pins = std::sync::Arc::new(Pins::default());
    let mut cpu = cpu();
    cpu.platform = pins.clone();
    cpu.cr0 &= !crate::control::cr0::NE;
    cpu.x87.control = 0x40;
    run(&mut cpu, &[0xd8, 0xc1]).unwrap();
    assert_eq!(pins.0.load(SeqCst), 0, "FERR# comes with the next instruction that waits");
    assert_eq!(run(&mut cpu, &[0x9b]), Err(Stop::Wait));
    assert_eq!((cpu.activity, pins.0.load(SeqCst)), (Activity::Halted, 4));
    pins.0.store(1, SeqCst);
    run(&mut cpu, &[0xd9, 0xe8]).unwrap();
    assert_eq!(pins.0.load(SeqCst), 5);
    run(&mut cpu, &[0xdb, 0xe2]).unwrap();
    assert_eq!(pins.0.load(SeqCst), 7, "FNCLEX takes FERR# away");
}
