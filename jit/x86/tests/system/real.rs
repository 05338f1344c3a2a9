//! Segment registers and far transfers in real-address and virtual-8086 mode, and all registers and frames
//! on the stack.

use crate::common::*;
use crate::pair::{compare, put, run, stats};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ringworld_x86::flags::bits;
use ringworld_x86::segment::Segment;

/// Where DS and ES lead.
const DATA16: u64 = 0x3_0000;
/// A second code segment, and the offset of its function.
const OTHER: (u16, u16) = (0x2345, 0x123);

type Program<'a> = &'a dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Real-address mode, or virtual-8086 mode, with a stack at 2001:8000.
fn machine(v8086: bool) -> Rig {
    let mut rig = if v8086 { Rig::protected() } else { Rig::ready_real() };
    if v8086 {
        rig.gates();
        rig.cpu.flags.set(rig.cpu.flags.get() | bits::VM | bits::IOPL);
        rig.cpu.cpl = 3;
    }
    let of = |selector| if v8086 { Segment::v8086(selector) } else { Segment::real(selector) };
    for n in [0, 3, 4, 5] {
        rig.cpu.seg[n] = of((DATA16 >> 4) as u16);
    }
    rig.cpu.seg[1] = Segment { rights: if v8086 { 0xf3 } else { 0x9b }, ..of((CODE >> 4) as u16) };
    rig.cpu.seg[2] = of(0x2001);
    rig.cpu.set_rip(0);
    for n in 0..8 {
        rig.cpu.regs[n] = 0xabcd_0000;
    }
    rig.cpu.regs[4] = 0xabcd_8000;
    rig.cpu.update_mode();
    rig
}

/// A loop of 300 rounds, in both modes; few of its instructions are run by their function.
fn rounds(body: Program, prepare: &dyn Fn(&mut Rig)) -> [Rig; 2] {
    [false, true].map(|v8086| {
        let rig = compare(
            || {
                let mut rig = machine(v8086);
                put(&mut rig, CODE, |a| {
                    let mut again = a.create_label();
                    a.mov(bp, 300)?;
                    a.set_label(&mut again)?;
                    body(a)?;
                    a.dec(bp)?;
                    a.jne(again)?;
                    // JMP to itself.
                    a.db(&[0xeb, 0xfe])
                });
                prepare(&mut rig);
                rig
            },
            20_000,
        );
        let stats = stats(&rig);
        assert!(stats.entries > 0 && stats.executed < 100, "{} by their function", stats.executed);
        rig
    })
}

/// MOV, LES and its kin, PUSH and POP.
#[test]
fn segment_registers() {
    let rigs = rounds(
        &|a| {
            a.mov(ax, 0x3100)?;
            a.mov(es, ax)?;
            a.inc(word_ptr(8).es())?;
            a.mov(fs, word_ptr(0x10))?;
            a.add(ax, word_ptr(0x8).fs())?;
            a.les(bx, dword_ptr(0x20))?;
            a.add(word_ptr(bx).es(), 3)?;
            a.push(es)?;
            a.push(ds)?;
            a.pop(gs)?;
            a.lds(si, dword_ptr(0x20))?;
            a.mov(cx, ds)?;
            a.pop(ds)?;
            a.mov(dx, word_ptr(si))?;
            a.push(gs)?;
            a.pop(ds)?;
            a.mov(di, ds)
        },
        &|rig| {
            rig.load(DATA16 + 0x10, &[0, 0x31]);
            rig.load(DATA16 + 0x20, &[0x34, 0x12, 0x00, 0x32]);
        },
    );
    for rig in rigs {
        let word = |at: u64| rig.peek(at) & 0xffff;
        assert_eq!((word(0x3_1008), word(0x3_3234)), (300, 900));
        assert_eq!((rig.cpu.seg[0].selector, rig.cpu.seg[5].base), (0x3200, DATA16));
        assert_eq!((rig.cpu.regs[1] & 0xffff, rig.cpu.regs[2] & 0xffff), (0x3200, 900));
    }
}

/// Calls, jumps and returns to another segment, by constants and by memory.
#[test]
fn far_transfers() {
    let rigs = rounds(
        &|a| {
            a.push(7)?;
            a.db(&[0x9a, OTHER.1 as u8, (OTHER.1 >> 8) as u8, OTHER.0 as u8, (OTHER.0 >> 8) as u8])?;
            a.push(9)?;
            // CALL FAR [20h]
            a.db(&[0xff, 0x1e, 0x20, 0x00])?;
            // PUSH CS; CALL over the jump that follows the return.
            a.push(cs)?;
            a.db(&[0xe8, 2, 0, 0xeb, 1, 0xcb])
        },
        &|rig| {
            let other = u64::from(OTHER.0) * 16 + u64::from(OTHER.1);
            rig.load(
                DATA16 + 0x20,
                &[OTHER.1 as u8, (OTHER.1 >> 8) as u8, OTHER.0 as u8, (OTHER.0 >> 8) as u8],
            );
            // ADD BX,[SP+4] by way of SI; JMP FAR to 2100:0345, where RETF 2 is.
            rig.load(other, &[0x89, 0xe6, 0x36, 0x03, 0x5c, 0x04, 0xea, 0x45, 0x03, 0x00, 0x21]);
            rig.load(0x2_1345, &[0xca, 2, 0]);
        },
    );
    for rig in rigs {
        assert_eq!((rig.cpu.regs[3] & 0xffff, rig.cpu.regs[4]), (300 * 16 & 0xffff, 0xabcd_8000));
        assert_eq!(rig.cpu.seg[1].base, CODE);
    }
}

/// A segment keeps its limit when it is loaded in real-address mode, and an unusable one becomes usable.
#[test]
fn what_loads_keep() {
    let rig = run(|| {
        let mut rig = machine(false);
        rig.cpu.seg[3].limit = u32::MAX;
        rig.cpu.seg[0].unusable = true;
        rig.cpu.update_mode();
        put(&mut rig, CODE, |a| {
            a.mov(ax, 0x3000)?;
            a.mov(ds, ax)?;
            a.mov(es, ax)?;
            a.mov(ebx, 0x2_0000)?;
            a.mov(dword_ptr(ebx), 0x1234_5678)?;
            a.mov(cx, word_ptr(0).es())?;
            a.hlt()
        });
        rig
    });
    assert_eq!((rig.peek(0x5_0000) as u32, rig.cpu.seg[0].unusable), (0x1234_5678, false));
}

/// PUSHA, POPA and far calls with a stack pointer that wraps between two words, in segments that end there and that do not.
#[test]
fn stack_pointers_wrap_between_words() {
    for (top, limit, base) in [
        (8, u32::MAX, 0x2_0010),
        (2, u32::MAX, 0x2_0010),
        (0xfff8, u32::MAX, 0x2_0010),
        (8, u32::MAX, 0x2_0000),
        (8, 0xffff, 0x2_0010),
        (0x8003, 0xffff, 0x2_0ff0),
        (0x8008, 0xffff, 0x2_0ff0),
    ] {
        for word in [true, false] {
            compare(
                || {
                    let mut rig = machine(false);
                    rig.cpu.seg[2] = Segment { limit, base, ..Segment::real(0x2001) };
                    rig.cpu.update_mode();
                    put(&mut rig, CODE, |a| {
                        a.mov(cx, 60)?;
                        let mut again = a.create_label();
                        a.set_label(&mut again)?;
                        a.mov(sp, top)?;
                        a.add(ax, 0x1357)?;
                        a.mov(di, ax)?;
                        if word {
                            a.pusha()?
                        } else {
                            a.pushad()?
                        }
                        a.mov(si, cx)?;
                        a.xor(bx, 0x55)?;
                        if word {
                            a.popa()?
                        } else {
                            a.popad()?
                        }
                        a.mov(sp, top)?;
                        a.push(cs)?;
                        a.db(&[0xe8, 2, 0, 0xeb, 1, 0xcb])?;
                        a.dec(cx)?;
                        a.jne(again)?;
                        a.hlt()
                    });
                    rig
                },
                2000,
            );
        }
    }
}

/// PUSHAD and POPAD in flat 32-bit code.
#[test]
fn all_registers_of_flat_code() {
    let rig = run(|| {
        let mut rig = Rig::protected();
        rig.cpu.regs[4] = 0x3_0000;
        put(&mut rig, CODE, |a| {
            let mut again = a.create_label();
            a.mov(ebp, 100)?;
            a.set_label(&mut again)?;
            a.add(eax, 0x1234_5678)?;
            a.pushad()?;
            a.mov(edi, dword_ptr(esp + 28))?;
            a.add(dword_ptr(esp + 16), edi)?;
            a.popad()?;
            a.dec(ebp)?;
            a.jne(again)?;
            a.hlt()
        });
        rig
    });
    assert!(stats(&rig).executed < 20);
    assert_eq!(
        rig.cpu.regs[3] as u32,
        (1..=100_u32).fold(0, |sum, n| u32::wrapping_add(sum, n.wrapping_mul(0x1234_5678)))
    );
}

/// ENTER and LEAVE in 16-, 32- and 64-bit code, of words and more, with stacks whose frames cross pages and wrap around.
#[test]
fn frames_of_functions() {
    for (bits, top) in [
        (16, 0x8800),
        (16, 0x8004),
        (16, 0x10),
        (32, 0x3_0800),
        (32, 0x3_0014),
        (64, 0x3_0800),
        (64, 0x3_0008),
    ] {
        for (prefixed, size, level) in
            [(false, 0, 0), (false, 24, 0), (true, 10, 0), (false, 8, 1), (true, 6, 3), (false, 1500, 0)]
        {
            let rig = compare(
                || {
                    let mut rig = match bits {
                        16 => machine(false),
                        32 => Rig::protected(),
                        _ => Rig::long(),
                    };
                    rig.cpu.regs[4] = if bits == 16 { 0x7000_0000 | top } else { top };
                    put(&mut rig, CODE, |a| {
                        let mut again = a.create_label();
                        a.mov(di, 90)?;
                        a.set_label(&mut again)?;
                        a.add(bp, 0x7)?;
                        let (low, high) = (size as u8, (size >> 8) as u8);
                        if prefixed {
                            a.db(&[0x66])?;
                        }
                        a.db(&[0xc8, low, high, level])?;
                        a.xor(ax, bp)?;
                        if prefixed {
                            a.db(&[0x66])?;
                        }
                        a.db(&[0xc9])?;
                        a.dec(di)?;
                        a.jne(again)?;
                        a.hlt()
                    });
                    rig
                },
                2000,
            );
            // LEAVE of words stays with its function in other than 16-bit code.
            let in_place = level == 0 && size < 1024 && top & 0xfff == 0x800 && (bits == 16 || !prefixed);
            let executed = stats(&rig).executed;
            assert!(!in_place || executed < 20, "{bits} {top:#x} {prefixed} {size}: {executed}");
        }
    }
}
