//! Random programs of 16-bit and 32-bit code in segments with bases and limits.

use crate::common::*;
use crate::pair::{compare, stats};
use ringworld_x86::flags::bits;
use ringworld_x86::segment::Segment;

/// A linear congruential generator; the upper half is the better one.
pub struct Random {
    state: u64,
    /// The code is of 32 bits.
    code32: bool,
}

impl Random {
    /// For 64-bit code.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, code32: false }
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.state >> 32) * u64::from(n) >> 32) as u32
    }

    /// One of several values.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }

    /// Prefixes, the opcode and an operand in memory or a register, with any addressing and segment.
    fn on_memory(&mut self, opcode: &[u8], field: Option<u8>, registers: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.below(4) == 0 {
            bytes.push(self.pick(&[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65]));
        }
        if self.below(8) == 0 {
            bytes.push(0x66);
        }
        if self.below(16) == 0 {
            bytes.push(0x67);
        }
        bytes.extend(opcode);
        let mode = self.below(if registers { 4 } else { 3 }) as u8;
        let field = field.unwrap_or(self.below(8) as u8);
        // Not the forms with an SIB byte of 32-bit addresses: their length would be another.
        let rm = self.pick(&[0, 1, 2, 3, 5, 6, 7]);
        bytes.push(mode << 6 | field << 3 | rm);
        let long = bytes.contains(&0x67) != self.code32 && mode != 3;
        let displacement = match (mode, rm) {
            (0, 5) if long => 4,
            (0, 6) if !long => 2,
            (1, _) => 1,
            (2, _) if long => 4,
            (2, _) => 2,
            _ => 0,
        };
        for _ in 0..displacement {
            bytes.push(self.pick(&[0, 0, 1, 0x7f, 0x80, 0xff, 0x42]));
        }
        bytes
    }

    /// An instruction that goes on with the next one, if it does not fault.
    fn instruction(&mut self) -> Vec<u8> {
        let register = self.below(8) as u8;
        // The opcode, the register's field if that is not any, and whether the operand may be a register.
        let prefix: &[u8] = if self.below(4) == 0 { &[0x66] } else { &[] };
        let after = |bytes: &[u8]| [prefix, bytes].concat();
        let (opcode, field, registers): (&[u8], Option<u8>, bool) = match self.below(26) {
            0..6 => (&[self.pick(&[0, 1, 2, 3]) | register * 8], None, true),
            6 => (&[0x88 | register & 3], None, true),
            7 => (&[0x8d], None, false),
            8 => (&[0xff], Some(self.pick(&[0, 1, 6])), true),
            9 => {
                let second =
                    self.pick(&[0xb6, 0xb7, 0xbe, 0xbf, 0xaf, 0xb0, 0xb1, 0xc0, 0xc1, 0xa3, 0xbc, 0x45]);
                (&[0x0f, second], None, true)
            }
            10 => (&[self.pick(&[0xd0, 0xd1, 0xd2, 0xd3])], Some(register & 5), true),
            11 => (&[self.pick(&[0xf6, 0xf7])], Some(self.pick(&[2, 3, 4, 5, 6])), true),
            12 => return after(&[0x50 | register]),
            13 => return after(&[0x58 | register]),
            14 => return after(&[0x40 | register | self.below(2) as u8 * 8]),
            15 => {
                let mut bytes =
                    vec![0xb8 | register, self.pick(&[0, 1, 0xff, 0xfe, 0x80]), self.pick(&[0, 0xff, 0x7f])];
                if self.code32 {
                    let upper = self.pick(&[0, 0, 0xff]);
                    bytes.extend([upper; 2]);
                }
                return bytes;
            }
            16 => return after(&[0x6a, self.below(256) as u8]),
            17 => {
                // String instructions, PUSHA, POPA, PUSHF, POPF, LEAVE, segments pushed, CBW, CWD.
                let opcode = self.pick(&[
                    0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0x60, 0x61, 0x9c, 0x9d, 0xc9, 0x06, 0x1e, 0x16, 0x98,
                    0x99, 0xfa, 0xfc,
                ]);
                return after(&[opcode]);
            }
            // MOV to ES, DS, FS or GS from a register; a constant to memory.
            18 => return vec![0x8e, 0xc0 | self.pick(&[0, 3, 4, 5]) << 3 | register],
            19 => {
                let (low, high) = (self.below(256) as u8, self.pick(&[0, 1, 0xff, 0x80]));
                let upper: &[u8] = if self.code32 { &[0, 0] } else { &[] };
                let rm = if self.code32 { 5 } else { 6 };
                return [&[0xc6, rm, low, high], upper, &[register]].concat();
            }
            // Strings, of a few elements (MOV CL, constant; MOV CH, 0), now and then of as many as there happen to be, backwards.
            20 | 21 => {
                let mut bytes = vec![0xb1, self.below(20) as u8];
                if self.below(4) != 0 {
                    bytes.extend([0xb5, 0]);
                }
                for prefixes in
                    [&[0x66][..], &[0x67], &[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65], &[0xf2, 0xf3, 0xf3, 0xf3]]
                {
                    if self.below(3) == 0 {
                        bytes.push(self.pick(prefixes));
                    }
                }
                if self.below(16) == 0 {
                    bytes.insert(0, self.pick(&[0xfc, 0xfd]));
                }
                bytes.push(self.pick(&[0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]));
                return bytes;
            }
            // Loads and stores of floating point, and their constants.
            22 => (&[self.pick(&[0xd9, 0xdd])], Some(self.pick(&[0, 2, 3, 7])), false),
            // POP and PUSH of segment registers.
            23 => {
                let opcode: &[u8] = self.pick(&[
                    &[0x07],
                    &[0x1f],
                    &[0x17],
                    &[0x0f, 0xa1],
                    &[0x0f, 0xa9],
                    &[0x0e],
                    &[0x0f, 0xa0],
                    &[0x0f, 0xa8],
                ]);
                return after(opcode);
            }
            // LES, LDS, LFS, LGS, MOV to ES, DS, FS or GS.
            24 => match self.below(3) {
                0 => (&[self.pick(&[0xc4, 0xc5])], None, false),
                1 => (&[0x0f, self.pick(&[0xb4, 0xb5])], None, false),
                _ => (&[0x8e], Some(self.pick(&[0, 3, 4, 5])), true),
            },
            // MOVUPS, MOVAPS.
            _ => (&[0x0f, self.pick(&[0x10, 0x11, 0x28, 0x29])], None, false),
        };
        self.on_memory(opcode, field, registers)
    }

    /// Instructions with branches forward, calls, and a loop around all of it.
    fn program(&mut self) -> Vec<u8> {
        let body: Vec<Vec<u8>> = (0..12).map(|_| self.instruction()).collect();
        let mut bytes = Vec::new();
        for (n, instruction) in body.iter().enumerate() {
            let next = body.get(n + 1).map_or(0, Vec::len) as u8;
            match self.below(10) {
                // Over the next instruction.
                0 => bytes.extend([0x70 | self.below(16) as u8, instruction.len() as u8]),
                1 => bytes.extend([self.pick(&[0xe0, 0xe1, 0xe2, 0xe3]), instruction.len() as u8]),
                // Into a function of one instruction, which a jump leads around.
                2 if next != 0 => {
                    // Both by doublewords in 16-bit code, now and then.
                    let prefix: &[u8] = if !self.code32 && self.below(2) == 0 { &[0x66] } else { &[] };
                    let upper: &[u8] = if self.code32 || !prefix.is_empty() { &[0, 0] } else { &[] };
                    let over = (instruction.len() + prefix.len() + 1) as u8;
                    // Which may be a far one.
                    let (push, ret): (&[u8], _) =
                        if self.below(3) == 0 { (&[0x0e], 0xcb) } else { (&[], 0xc3) };
                    let push = if push.is_empty() { vec![] } else { [prefix, push].concat() };
                    let call = [prefix, &[0xe8, 2, 0], upper, &[0xeb, over]].concat();
                    bytes.extend([&push, &call[..], instruction, prefix, &[ret]].concat());
                    continue;
                }
                _ => {}
            }
            bytes.extend(instruction);
        }
        // DEC BYTE FS:[300h]; JNZ to the start; HLT.
        if self.code32 {
            bytes.extend([0x64, 0xfe, 0x0d, 0x00, 0x03, 0, 0, 0x0f, 0x85]);
            let back = -(bytes.len() as i32 + 4);
            bytes.extend(back.to_le_bytes());
        } else {
            bytes.extend([0x64, 0xfe, 0x0e, 0x00, 0x03, 0x0f, 0x85]);
            let back = -(bytes.len() as i16 + 2);
            bytes.extend(back.to_le_bytes());
        }
        bytes.push(0xf4);
        bytes
    }
}

/// Where FS leads.
const COUNTER: u64 = 0x5_0000;

/// A segment of protected mode: of any kind, base and limit.
fn segment(random: &mut Random) -> Segment {
    let kind = random.pick(&[0x93, 0x93, 0x93, 0x93, 0x91, 0x97, 0x9b]);
    let big = random.pick(&[0, 0x4000]);
    Segment {
        selector: sel::DATA0,
        rights: kind | big,
        limit: random.pick(&[u32::MAX, u32::MAX, 0xffff, 0x1_ffff, 0x8123, 0xfffe, 0xfff]),
        base: random.pick(&[0, 0x2_0000, 0x2_0010, 0x2_fff1, 0x3_8000, 0xffff_f000]),
        unusable: random.below(16) == 0,
    }
}

/// Real-address and virtual-8086 mode; or protected mode with code of 16 or 32 bits, with descriptors that segment registers can be
/// loaded with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum In {
    Real,
    V8086,
    Protected,
}

fn machine(random: &mut Random, mode: In, registers: &[u64; 8]) -> Rig {
    let mut rig = if mode == In::Real { Rig::real() } else { Rig::protected() };
    if mode == In::V8086 {
        rig.gates();
        rig.cpu.flags.set(rig.cpu.flags.get() | bits::VM | bits::IOPL);
        rig.cpu.cpl = 3;
    }
    let protected = mode == In::Protected;
    let real = if mode == In::V8086 { Segment::v8086 } else { Segment::real };
    if protected {
        rig.gates();
        for n in 0..4 {
            let Segment { rights, limit, base, .. } = segment(random);
            let limit = u64::from(if limit > 0xf_ffff { limit >> 12 } else { limit });
            let granular = u64::from(limit > 0x2_0000) << 55;
            let low = limit & 0xffff | (limit >> 16) << 48 | base << 16 & 0xff_ffff_0000 | base >> 24 << 56;
            rig.poke(
                GDT + u64::from(sel::FREE) + 8 * n,
                low | u64::from(rights & 0xff) << 40 | granular | u64::from(rights >> 14) << 54,
            );
        }
    }
    rig.cpu.cr4 |= ringworld_x86::control::cr4::OSFXSR;
    for n in [0, 2, 3, 5] {
        let base = random.pick(&[0x2000, 0x2001, 0x2fff, 0x1010, 0x3800, 0x0ff0]);
        rig.cpu.seg[n] = if protected { segment(random) } else { real(base) };
    }
    // A stack that can be written, mostly.
    if protected && random.below(8) != 0 {
        rig.cpu.seg[2].rights = rig.cpu.seg[2].rights & 0x4000 | 0x93;
        rig.cpu.seg[2].unusable = false;
    }
    rig.cpu.seg[4] = real((COUNTER >> 4) as u16);
    rig.load(COUNTER + 0x300, &[3]);
    rig.cpu.regs[..8].copy_from_slice(registers);
    rig
}

#[test]
fn random_programs() {
    let (mut entries, mut instructions) = (0, 0);
    for seed in 1..=300 {
        let mut random = Random { state: seed, code32: seed % 2 == 0 };
        let program = random.program();
        let registers: [u64; 8] = core::array::from_fn(|_| {
            let low = random.pick(&[0, 1, 0xffff, 0xfffe, 0x8000, 0x7fff, 0x1234, 0x0ffe, 0x48, 0x50, 0x58]);
            let upper = if random.below(4) == 0 { u64::from(random.below(u32::MAX)) << 16 } else { 0 };
            upper & 0xffff_0000 | low
        });
        let mode = match random.below(4) {
            _ if random.code32 => In::Protected,
            0 => In::Real,
            1 => In::V8086,
            _ => In::Protected,
        };
        // With a page's end in the code, sometimes, and in segments that begin somewhere.
        let at = random.pick(&[CODE, 0x1_0ff0, 0x1_0fd8]);
        let base = random.pick(&[0, 1, 0x10, 0x123, 0xff0]);
        let limit =
            random.pick(&[u32::MAX, u32::MAX, 0xffff, 0x1000, base as u32 + program.len() as u32 - 2]);
        let (state, code32) = (random.state, random.code32);
        let rig = compare(
            || {
                // The same each time.
                let mut random = Random { state, code32 };
                let mut rig = machine(&mut random, mode, &registers);
                rig.load(at, &program);
                if mode == In::Protected {
                    let big = if random.code32 { 0x4000 } else { 0 };
                    let cs = Segment {
                        selector: sel::CODE32,
                        rights: 0x9b | big,
                        limit,
                        base: at - base,
                        unusable: false,
                    };
                    rig.cpu.seg[1] = cs;
                    rig.cpu.set_rip(base);
                } else {
                    rig.cpu.seg[1] = match mode {
                        In::V8086 => Segment::v8086(0xff2),
                        _ => Segment { rights: 0x9b, ..Segment::real(0xff2) },
                    };
                    rig.cpu.set_rip(at - 0xff20);
                }
                rig.cpu.update_mode();
                rig
            },
            120,
        );
        entries += stats(&rig).entries;
        instructions += rig.cpu.icount;
    }
    assert!(entries > 200 && instructions > 5000, "{entries} {instructions}");
}
