//! 16-bit code: offsets that wrap or reach beyond their segment, code segments with any base, and random programs.

use crate::common::*;
use crate::pair::{compare, put, run, stats};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ringworld_x86::Activity;
use ringworld_x86::segment::Segment;

/// Where DS leads.
const DATA16: u64 = 0x3_0000;

type Program<'a> = &'a dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Real-address mode, or protected mode with 16-bit code; data in DS, the stack in SS, something else in the registers' upper
/// halves.
fn machine(protected: bool) -> Rig {
    let mut rig = if protected { Rig::protected() } else { Rig::ready_real() };
    if protected {
        rig.gates();
        rig.cpu.seg[1] = Segment::from_descriptor(sel::CODE32, 0x0000_9b00_0000_ffff | CODE << 16);
        for n in [0, 2, 3, 4, 5] {
            let base = if n == 2 { 0x2_0010 } else { DATA16 };
            rig.cpu.seg[n] = Segment::from_descriptor(sel::DATA0, 0x0000_9300_0000_ffff | base << 16);
        }
        rig.cpu.set_rip(0);
    } else {
        for n in [0, 3, 4, 5] {
            rig.cpu.seg[n] = Segment::real((DATA16 >> 4) as u16);
        }
        rig.cpu.seg[2] = Segment::real(0x2001);
    }
    for n in 0..8 {
        rig.cpu.regs[n] = 0xabcd_0000;
    }
    rig.cpu.regs[4] = 0xabcd_8000;
    rig.cpu.update_mode();
    rig
}

fn both(f: Program) -> [Rig; 2] {
    [false, true].map(|protected| {
        run(|| {
            let mut rig = machine(protected);
            put(&mut rig, CODE, f);
            rig
        })
    })
}

/// Sums of registers wrap at 64 KiB (SDM 1 3.3.5).
#[test]
fn addresses_wrap() {
    for rig in both(&|a| {
        a.mov(bx, 0xfff8)?;
        a.mov(si, 0x18)?;
        a.mov(word_ptr(bx + si), 0x1234)?;
        a.add(byte_ptr(bx + 0x18), 1)?;
        a.mov(bp, 0xffff)?;
        a.mov(byte_ptr(bp + 1), 0x55)?;
        a.mov(dl, byte_ptr(0).ss())?;
        a.mov(di, word_ptr(0x10))?;
        a.lea(cx, ptr(bx + si + 0x7fff))?;
        a.hlt()
    }) {
        let low = |n: usize| rig.cpu.regs[n] & 0xffff;
        assert_eq!((low(7), low(2), low(1)), (0x1235, 0x55, 0x800f));
        assert_eq!(rig.cpu.regs[7] >> 16, 0xabcd);
    }
}

/// A word at FFFFh faults (SDM 3A 21.1.4): the operand's, what is pushed, and what is popped.
#[test]
fn what_reaches_beyond_faults() {
    let programs: [(Program, u64); 6] = [
        (&|a| a.mov(ax, word_ptr(0xffff)), 13),
        (&|a| a.mov(eax, dword_ptr(0xfffe)), 13),
        (&|a| a.add(word_ptr(bx - 1), ax), 13),
        (&|a| a.push(word_ptr(bx - 1)), 13),
        (&|a| a.mov(word_ptr(bp - 1), ax), 12),
        (&|a| a.call(word_ptr(bx - 1)), 13),
    ];
    for (program, vector) in programs {
        for rig in both(&|a| {
            a.mov(bx, 0)?;
            a.mov(bp, 0)?;
            program(a)?;
            a.mov(dx, 1)?;
            a.hlt()
        }) {
            assert_eq!(rig.cpu.rip(), 0x9001 + vector);
        }
    }
    // Below 2 there is no room for an exception, either.
    for (pop, activity) in [(true, Activity::Halted), (false, Activity::Shutdown)] {
        let rig = compare(
            || {
                let mut rig = machine(true);
                put(&mut rig, CODE, |a| {
                    a.mov(sp, if pop { 0xffff } else { 1 })?;
                    if pop { a.pop(ax) } else { a.push(ax) }?;
                    a.hlt()
                });
                rig
            },
            10,
        );
        assert_eq!(rig.cpu.activity, activity);
    }
}

/// The stack pointer is SP: it wraps, and what is above it stays.
#[test]
fn the_stack_moves_by_two() {
    for rig in both(&|a| {
        let mut inner = a.create_label();
        let mut over = a.create_label();
        a.mov(sp, 2)?;
        a.push(0x11)?;
        a.push(sp)?;
        a.mov(word_ptr(0), 0x22)?;
        a.push(word_ptr(0))?;
        a.call(inner)?;
        a.jmp(over)?;
        a.set_label(&mut inner)?;
        a.push(bp)?;
        a.mov(bp, sp)?;
        a.sub(sp, 0x20)?;
        a.mov(ax, word_ptr(bp + 4))?;
        a.leave()?;
        a.ret_1(2)?;
        a.set_label(&mut over)?;
        a.pop(bx)?;
        a.pop(cx)?;
        a.push(bx)?;
        a.pop(sp)?;
        a.hlt()
    }) {
        let low = |n: usize| rig.cpu.regs[n] & 0xffff;
        assert_eq!([0, 3, 1].map(low), [0x22, 0, 0x11]);
        assert_eq!(rig.cpu.regs[4], 0xabcd_0000);
    }
}

/// Offsets of code wrap, too: a branch over the end of the segment (SDM 2A, Jcc, operand size 16).
#[test]
fn code_wraps() {
    for rig in both(&|a| {
        let mut back = a.create_label();
        let mut over = a.create_label();
        a.mov(cx, 5)?;
        a.set_label(&mut back)?;
        a.add(ax, 3)?;
        a.loop_(back)?;
        a.jcxz(over)?;
        a.inc(ax)?;
        a.set_label(&mut over)?;
        a.hlt()
    }) {
        assert_eq!((rig.cpu.regs[0] & 0xffff, rig.cpu.regs[1]), (15, 0xabcd_0000));
    }
    let rig = run(|| {
        let mut rig = machine(false);
        // JMP from FFFDh to 10h, at the end of the code segment; INC AX; JNZ by a word, backwards over offset 0.
        rig.load(CODE, &[0xe9, 0xfa, 0xff]);
        rig.load(CODE + 0xfffd, &[0xe9, 0x10, 0x00]);
        rig.load(CODE + 0x10, &[0x40, 0x0f, 0x85, 0xe8, 0xff, 0xf4]);
        rig.cpu.regs[0] = 0xfffd;
        rig
    });
    assert_eq!(rig.cpu.regs[0] & 0xffff, 0);
}

/// The same code by two bases: offsets are pushed.
#[test]
fn code_segments_overlap() {
    let rig = run(|| {
        let mut rig = machine(false);
        // MOV SI, 20h; CALL 1000:0040; CALL 0FFE:0060; DEC SI; JNZ; HLT.
        rig.load(
            CODE,
            &[0xbe, 0x20, 0, 0x9a, 0x40, 0, 0, 0x10, 0x9a, 0x60, 0, 0xfe, 0x0f, 0x4e, 0x75, 0xf3, 0xf4],
        );
        // CALL to the instruction after the next; RETF; POP AX; PUSH AX; ADD DX, AX; RET.
        rig.load(CODE + 0x40, &[0xe8, 0x01, 0x00, 0xcb, 0x58, 0x50, 0x01, 0xc2, 0xc3]);
        rig
    });
    assert_eq!(rig.cpu.regs[2] & 0xffff, 0x20 * (0x43 + 0x63));
}

/// Segments are loaded in the middle of blocks; one that is too short is looked at from then on.
#[test]
fn segments_change() {
    let rig = run(|| {
        let mut rig = machine(false);
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            a.mov(cx, 0x10)?;
            a.set_label(&mut again)?;
            a.mov(ds, cx)?;
            a.add(word_ptr(bx + 0x7f00), cx)?;
            a.mov(es, cx)?;
            a.add(ax, word_ptr(bx + 0x7f00).es())?;
            a.push(cs)?;
            a.pop(ds)?;
            a.add(ax, word_ptr(0))?;
            a.mov(word_ptr(0x3f0).cs(), ax)?;
            a.loop_(again)?;
            a.hlt()
        });
        rig
    });
    assert!(rig.cpu.regs[0] & 0xffff != 0);
    let rig = run(|| {
        let mut rig = machine(true);
        rig.poke(GDT + u64::from(sel::FREE), 0x0000_9300_0000_0fff | DATA16 << 16);
        put(&mut rig, CODE, |a| {
            a.mov(bx, 0x1000)?;
            a.mov(ax, word_ptr(bx))?;
            a.mov(cx, i32::from(sel::FREE))?;
            a.mov(ds, cx)?;
            a.mov(ax, word_ptr(bx - 2))?;
            a.mov(ax, word_ptr(bx))?;
            a.hlt()
        });
        rig
    });
    assert_eq!(rig.cpu.rip(), 0x900e);
}

/// Code of protected mode cannot be written, and is written in real-address mode.
#[test]
fn code_is_written_in_real_mode_only() {
    let [real, protected] = both(&|a| {
        a.mov(ax, word_ptr(0x100).cs())?;
        a.inc(ax)?;
        a.mov(word_ptr(0x100).cs(), ax)?;
        a.hlt()
    });
    assert_eq!(real.peek(CODE + 0x100) & 0xffff, 1);
    assert_eq!(protected.cpu.rip(), 0x900e);
}

/// A linear congruential generator; the upper half is the better one.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 32) * u64::from(n) >> 32) as u32
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
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
        let long = bytes.contains(&0x67) && mode != 3;
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
        let (opcode, field, registers): (&[u8], Option<u8>, bool) = match self.below(20) {
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
            12 => return vec![0x50 | register],
            13 => return vec![0x58 | register],
            14 => return vec![0x40 | register | self.below(2) as u8 * 8],
            15 => {
                return vec![
                    0xb8 | register,
                    self.pick(&[0, 1, 0xff, 0xfe, 0x80]),
                    self.pick(&[0, 0xff, 0x7f]),
                ];
            }
            16 => return vec![0x6a, self.below(256) as u8],
            17 => {
                // String instructions, PUSHA, POPA, PUSHF, LEAVE, segments pushed, CBW, CWD.
                return vec![self.pick(&[
                    0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0x60, 0x61, 0x9c, 0xc9, 0x06, 0x1e, 0x16, 0x98, 0x99,
                ])];
            }
            // MOV to ES, DS, FS or GS from a register; a constant to memory.
            18 => return vec![0x8e, 0xc0 | self.pick(&[0, 3, 4, 5]) << 3 | register],
            _ => return vec![0xc6, 0x06, self.below(256) as u8, self.pick(&[0, 1, 0xff, 0x80]), register],
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
                    bytes.extend([0xe8, 2, 0, 0xeb, instruction.len() as u8 + 1]);
                    bytes.extend(instruction);
                    bytes.push(0xc3);
                    continue;
                }
                _ => {}
            }
            bytes.extend(instruction);
        }
        // DEC BYTE CS:[300h]; JNZ to the start; HLT. In protected mode, the first faults.
        bytes.extend([0x2e, 0xfe, 0x0e, 0x00, 0x03, 0x0f, 0x85]);
        let back = -(bytes.len() as i16 + 2);
        bytes.extend(back.to_le_bytes());
        bytes.push(0xf4);
        bytes
    }
}

#[test]
fn random_programs() {
    let mut entries = 0;
    for seed in 1..=120 {
        let mut random = Random(seed);
        let program = random.program();
        let bases: [u16; 6] =
            core::array::from_fn(|_| random.pick(&[0x2000, 0x2001, 0x2fff, 0x1010, 0x3800, 0x0ff0]));
        let registers: [u64; 8] = core::array::from_fn(|_| {
            let low = random.pick(&[0, 1, 0xffff, 0xfffe, 0x8000, 0x7fff, 0x1234, 0x0ffe, 0x0fff]);
            u64::from(random.below(u32::MAX)) << 16 & 0xffff_0000 | low
        });
        let kind = random.below(4);
        let rig = compare(
            || {
                let mut rig = machine(kind == 3);
                rig.load(CODE, &program);
                rig.load(CODE + 0x300, &[3]);
                rig.cpu.regs[..8].copy_from_slice(&registers);
                if kind != 3 {
                    for n in [0, 2, 3, 4, 5] {
                        rig.cpu.seg[n] = Segment::real(bases[n]);
                    }
                }
                if kind == 2 {
                    // By another base, with a page's end in the code.
                    rig.cpu.seg[1] = Segment { rights: 0x9b, ..Segment::real(0xff2) };
                    rig.load(0x1_0ff0, &program);
                    rig.load(0xff20 + 0x300, &[3]);
                    rig.cpu.set_rip(0x1_0ff0 - 0xff20);
                }
                rig.cpu.update_mode();
                rig
            },
            150,
        );
        entries += stats(&rig).entries;
    }
    assert!(entries > 100, "{entries}");
}
