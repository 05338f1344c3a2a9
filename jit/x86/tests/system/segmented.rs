//! Segmented code: offsets that wrap or reach beyond their segment, code segments with any base and limit, stacks of either width.

use crate::common::*;
use crate::pair::{compare, put, run};
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

/// 32-bit code in a segment with a base and a limit, data in DS that allow 1000h bytes, a stack of 32 bits or of 16.
fn based(small_stack: bool, f: Program) -> Rig {
    let mut rig = Rig::protected();
    rig.gates();
    rig.cpu.seg[1] = Segment::from_descriptor(sel::CODE32, 0x0040_9b00_0000_00ff | CODE << 16);
    for n in [0, 3, 4, 5] {
        rig.cpu.seg[n] = Segment::from_descriptor(sel::DATA0, 0x0040_9300_0000_0fff | DATA16 << 16);
    }
    let big = if small_stack { 0 } else { 1 << 54 };
    rig.cpu.seg[2] = Segment::from_descriptor(sel::DATA0, 0x0000_9300_0000_ffff | 0x2_0010 << 16 | big);
    for n in 0..8 {
        rig.cpu.regs[n] = 0;
    }
    rig.cpu.regs[4] = if small_stack { 0xabcd_8000 } else { 0x8000 };
    rig.cpu.set_rip(0);
    rig.cpu.update_mode();
    put(&mut rig, CODE, f);
    rig
}

/// What a fault's handler finds, or none that there was.
fn vector(rig: &Rig) -> Option<u64> {
    rig.cpu.rip().checked_sub(0x9001).filter(|&vector| vector < 32)
}

#[test]
fn limits_hold_to_the_byte() {
    let programs: [(Program, Option<u64>); 10] = [
        (&|a| a.mov(dword_ptr(0xffc), eax), None),
        (&|a| a.mov(dword_ptr(0xffd), eax), Some(13)),
        (&|a| a.mov(al, byte_ptr(ecx + 0xfff)), None),
        (&|a| a.mov(al, byte_ptr(ecx + 0x1000)), Some(13)),
        (&|a| a.add(word_ptr(ecx - 1), ax), Some(13)),
        (&|a| a.mov(ax, word_ptr(bx - 1)), Some(13)),
        (&|a| a.movups(xmm0, xmmword_ptr(0xff0)), None),
        (&|a| a.movups(xmm0, xmmword_ptr(0xff1)), Some(13)),
        (&|a| a.mov(dword_ptr(0).cs(), eax), Some(13)),
        (&|a| a.mov(eax, dword_ptr(0xfc).cs()), None),
    ];
    for (program, expected) in programs {
        for small_stack in [false, true] {
            let rig = run(|| {
                based(small_stack, &|a| {
                    program(a)?;
                    a.mov(dx, 1)?;
                    a.hlt()
                })
            });
            assert_eq!(vector(&rig), expected);
        }
    }
    // No segment, one that cannot be written, one that grows down, and one that wraps.
    let down = Segment::from_descriptor(sel::DATA0, 0x0040_9700_0000_0fff | DATA16 << 16);
    let read_only = Segment::from_descriptor(sel::DATA0, 0x0040_9100_0000_0fff | DATA16 << 16);
    let high = Segment::from_descriptor(sel::DATA0, 0xffcf_93ff_ff00_ffff);
    let cases: [(Segment, Program, Option<u64>); 7] = [
        (Segment { unusable: true, ..read_only }, &|a| a.mov(eax, dword_ptr(0x10).es()), Some(13)),
        (read_only, &|a| a.mov(eax, dword_ptr(0x10).es()), None),
        (read_only, &|a| a.mov(dword_ptr(0x10).es(), eax), Some(13)),
        (down, &|a| a.mov(eax, dword_ptr(0xfff).es()), Some(13)),
        (down, &|a| a.mov(eax, dword_ptr(0x1000).es()), None),
        (high, &|a| a.mov(eax, dword_ptr(0x3_0100).es()), None),
        (high, &|a| a.mov(eax, dword_ptr(0xfe).es()), None),
    ];
    for (segment, program, expected) in cases {
        let rig = run(|| {
            let mut rig = based(false, &|a| {
                program(a)?;
                a.mov(dx, 1)?;
                a.hlt()
            });
            rig.load(DATA16, &[0x5a; 0x200]);
            rig.cpu.seg[0] = segment;
            rig.cpu.update_mode();
            rig
        });
        assert_eq!(vector(&rig), expected);
    }
}

/// Code that comes to its segment's end, or jumps beyond it, faults there (SDM 2A, JMP and Jcc).
#[test]
fn code_ends_with_its_segment() {
    for (jump, taken) in [(None, false), (Some(0x100_i32), true), (Some(0x100), false), (Some(0xf0), true)] {
        let rig = run(|| {
            let mut rig = based(false, &|a| a.hlt());
            // NOPs to the end; before them a branch that is taken or not.
            rig.load(CODE, &[0x90; 0x100]);
            rig.load(CODE + 0x100, &[0xf4]);
            if let Some(to) = jump {
                let mut code = vec![0x0f, if taken { 0x84 } else { 0x85 }];
                code.extend((to - 8).to_le_bytes());
                rig.load(CODE, &[0x31, 0xc0]);
                rig.load(CODE + 2, &code);
            }
            rig
        });
        assert_eq!(vector(&rig), Some(13));
        // The address that was pushed.
        let pushed = rig.peek(0x2_0010 + rig.cpu.regs[4] + 4) & 0xffff_ffff;
        assert_eq!(pushed, if jump == Some(0x100) && taken { 2 } else { 0x100 });
    }
}

/// What compilers make for 16-bit code: doublewords on the stack, addresses of 32 bits (`gcc -m16`).
#[test]
fn words_and_doublewords_mix() {
    for rig in both(&|a| {
        let mut function = a.create_label();
        let mut over = a.create_label();
        a.mov(esp, 0x8000)?;
        a.db(&[0x66, 0x68, 0x78, 0x56, 0x34, 0x12])?;
        a.db(&[0x66, 0x6a, 0xff])?;
        a.pop(eax)?;
        a.pop(ebx)?;
        a.push(esp)?;
        a.pop(ecx)?;
        a.push(ebx)?;
        a.push(bx)?;
        a.mov(esi, 0x100)?;
        a.mov(dword_ptr(esi + esi * 2), ebx)?;
        a.push(dword_ptr(esi + 0x200))?;
        a.pop(edi)?;
        a.lea(edx, ptr(bx + si + 0x7000))?;
        a.lea(ebp, ptr(esi + esi * 8 + 0x12345))?;
        a.add(edi, ebp)?;
        a.jmp(over)?;
        a.set_label(&mut function)?;
        a.push(ebp)?;
        a.mov(ebp, esp)?;
        a.sub(esp, 0x10)?;
        // LEAVE and RET of doublewords.
        a.db(&[0x66, 0xc9, 0x66, 0xc3])?;
        a.set_label(&mut over)?;
        // CALL by a doubleword, back over the function and itself.
        a.db(&[0x66, 0xe8])?;
        a.db(&(-19_i32).to_le_bytes())?;
        a.hlt()
    }) {
        assert_eq!(rig.cpu.activity, Activity::Halted);
        assert_eq!([0, 1].map(|n| rig.cpu.regs[n]), [0xffff_ffff, 0x8000]);
        assert_eq!(rig.cpu.regs[2], (0x5678 + 0x100 + 0x7000) & 0xffff);
        assert_eq!(rig.cpu.regs[7], 0x1234_5678 + 0x900 + 0x12345);
        assert_eq!(rig.cpu.regs[4], 0x8000 - 6);
    }
}

/// Indirect jumps, calls and returns beyond the end of a code segment, to code that another one of the same base has run.
#[test]
fn targets_beyond_the_code_segment() {
    const TARGET: u32 = CODE as u32 + 0x2000;
    for way in 0..5 {
        let rig = run(|| {
            let mut rig = Rig::protected();
            rig.gates();
            // One that ends before the target, and one that does not.
            const LARGER: u16 = sel::FREE + 8;
            rig.poke(GDT + u64::from(sel::FREE), 0x0041_9b00_0000_1fff);
            rig.poke(GDT + u64::from(LARGER), 0x0041_9b00_0000_ffff);
            rig.load(TARGET.into(), &[0x46, 0xc3]);
            rig.load(u64::from(TARGET) - 1, &[0x90]);
            put(&mut rig, CODE, |a| {
                a.push(i32::from(LARGER))?;
                a.push(CODE as i32 + 0x80)?;
                a.retf()
            });
            put(&mut rig, CODE + 0x80, |a| {
                let mut again = a.create_label();
                a.mov(ecx, 40)?;
                a.mov(eax, TARGET)?;
                a.set_label(&mut again)?;
                a.call(eax)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.mov(ecx, 40)?;
                a.push(i32::from(sel::FREE))?;
                a.push(CODE as i32 + 0x100)?;
                a.retf()
            });
            put(&mut rig, CODE + 0x100, |a| {
                let mut again = a.create_label();
                a.set_label(&mut again)?;
                a.mov(eax, CODE as u32 + 0x200)?;
                // At the last round, the target, or the byte before it.
                a.mov(ebx, TARGET - u32::from(way == 4))?;
                a.cmp(ecx, 1)?;
                a.cmove(eax, ebx)?;
                match way {
                    0 | 4 => a.call(eax)?,
                    1 => {
                        a.push(CODE as i32 + 0x300)?;
                        a.jmp(eax)?;
                    }
                    2 => {
                        a.push(CODE as i32 + 0x300)?;
                        a.push(eax)?;
                        a.ret()?;
                    }
                    _ => {
                        a.mov(dword_ptr(DATA as i32), eax)?;
                        a.call(dword_ptr(DATA as i32))?;
                    }
                }
                a.dec(ecx)?;
                a.jnz(again)?;
                a.hlt()
            });
            rig.load(CODE + 0x200, &[0x47, 0xc3]);
            put(&mut rig, CODE + 0x300, |a| {
                a.dec(ecx)?;
                a.mov(eax, CODE as u32 + 0x100)?;
                a.jmp(eax)
            });
            rig
        });
        let [count, runs] = [rig.cpu.regs[1], rig.cpu.regs[6]];
        assert_eq!((rig.cpu.rip(), count, runs), (0x9000 + 13 + 1, 1, 40), "way {way}: #GP at the end");
    }
}
