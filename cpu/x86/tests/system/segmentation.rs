//! Segment registers and segment-level protection (SDM 3A 3.4, 3.5, 5.2–5.7).

use crate::common::*;
use crate::helpers::*;
use iced_x86::code_asm::*;
use ringworld_x86::Activity;

const F: u16 = sel::FREE;
const SS: usize = 2;

/// How a segment register is loaded with the selector in AX.
#[derive(Clone, Copy, Debug)]
enum By {
    Mov,
    Pop,
    Pointer,
}

/// 32-bit code that loads segment register `n` from AX, or from the far pointer at [`DATA`].
fn loader(n: usize, by: By) -> Vec<u8> {
    match by {
        By::Mov => vec![0x8e, 0xc0 | (n as u8) << 3],
        By::Pop => match n {
            0 => vec![0x07],
            2 => vec![0x17],
            3 => vec![0x1f],
            4 => vec![0x0f, 0xa1],
            _ => vec![0x0f, 0xa9],
        },
        By::Pointer => {
            let mut code = match n {
                0 => vec![0xc4],
                2 => vec![0x0f, 0xb2],
                3 => vec![0xc5],
                4 => vec![0x0f, 0xb4],
                _ => vec![0x0f, 0xb5],
            };
            code.push(0x15); // EDX
            code.extend((DATA as u32).to_le_bytes());
            code
        }
    }
}

fn at_level(cpl: u8) -> Rig {
    let rig = Rig::protected().ready();
    if cpl == 3 { rig.user() } else { rig }
}

/// SDM 2B MOV, POP, 2A LDS/LES/LFS/LGS/LSS: protected-mode exceptions.
#[test]
fn loads_of_segment_registers_are_checked() {
    let none = 0;
    let f = u32::from(F);
    // CPL, selector, access byte at FREE, result for a data segment register, result for SS.
    let table: &[(u8, u16, u8, Cause, Cause)] = &[
        (0, 0, none, None, gp(0)),
        (0, 3, none, None, gp(0)),
        (3, 3, none, None, gp(0)),
        // Beyond the GDT's limit; in an LDT when there is none.
        (0, 0x1000, none, gp(0x1000), gp(0x1000)),
        (0, 0xffff, none, gp(0xfffc), gp(0xfffc)),
        (0, F | 4, 0x93, gp(f | 4), gp(f | 4)),
        // Data: writable, read-only, expand-down.
        (0, F, 0x93, None, None),
        (0, F, 0x91, None, gp(f)),
        (0, F, 0x97, None, None),
        (0, F, 0x95, None, gp(f)),
        // Code: execute-only, readable, conforming.
        (0, F, 0x99, gp(f), gp(f)),
        (0, F, 0x9b, None, gp(f)),
        (0, F, 0x9d, gp(f), gp(f)),
        (0, F, 0x9f, None, gp(f)),
        // System descriptors, all types.
        (0, F, 0x82, gp(f), gp(f)),
        (0, F, 0x89, gp(f), gp(f)),
        (0, F, 0x8c, gp(f), gp(f)),
        (0, F, 0x80, gp(f), gp(f)),
        // DPL and RPL.
        (0, F, 0xf3, None, gp(f)),
        (0, F | 3, 0xf3, None, gp(f)),
        (0, F | 1, 0x93, gp(f), gp(f)),
        (0, F | 3, 0xb3, gp(f), gp(f)),
        (3, F, 0x93, gp(f), gp(f)),
        (3, F, 0xf3, None, gp(f)),
        (3, F | 3, 0xf3, None, None),
        (3, F | 3, 0xd3, gp(f), gp(f)),
        (3, F | 3, 0x9b, gp(f), gp(f)),
        // Conforming code may be read at any level.
        (3, F | 3, 0x9f, None, gp(f)),
        // Not present: after type and privilege.
        (0, F, 0x13, np(f), sf(f)),
        (0, F, 0x1f, np(f), gp(f)),
        (0, F, 0x19, gp(f), gp(f)),
        (3, F | 3, 0x13, gp(f), gp(f)),
        (3, F | 3, 0x73, np(f), sf(f)),
    ];
    for &(cpl, selector, access, data, stack) in table {
        for n in [0, SS, 3, 4, 5] {
            for by in [By::Mov, By::Pop, By::Pointer] {
                let mut rig = at_level(cpl);
                let limit = if access & 0x1c == 0x14 { 0 } else { 0xf_ffff };
                rig.set_gdt(F, descriptor(0, limit, access, 0xc));
                rig.cpu.regs[0] = selector.into();
                rig.poke(DATA, u64::from(selector) << 32 | 0x1234_5678);
                rig.cpu.regs[2] = 0;
                let before = (rig.cpu.seg[n], rig.cpu.regs[4]);
                let mut code = if matches!(by, By::Pop) { vec![0x50] } else { vec![] };
                let start = CODE + code.len() as u64;
                code.extend(loader(n, by));
                let expected = if n == SS { stack } else { data };
                let result = rig.bytes(&code);
                let what = format!("{cpl} {selector:#x} {access:#x} into {n} by {by:?}");
                assert_eq!(cause(result), expected, "{what}");
                let Err(frame) = result else {
                    if n != SS {
                        assert_eq!(rig.cpu.seg[n].selector, selector, "{what}");
                        assert_eq!(rig.cpu.seg[n].unusable, selector & 0xfffc == 0, "{what}");
                    }
                    if matches!(by, By::Pointer) {
                        assert_eq!(rig.cpu.regs[2], 0x1234_5678, "{what}");
                    }
                    continue;
                };
                assert_eq!(frame.ip, start, "{what}");
                assert_eq!(rig.cpu.regs[2], 0, "{what}");
                if n != SS {
                    assert_eq!(rig.cpu.seg[n], before.0, "{what}");
                }
                if cpl == 3 {
                    let pushed = if matches!(by, By::Pop) { 4 } else { 0 };
                    assert_eq!(frame.sp, before.1 - pushed, "POP leaves ESP: {what}");
                }
            }
        }
    }
}

/// SDM 3A 3.4.5.1: the accessed bit is set by a successful load.
#[test]
fn loads_set_the_accessed_bit() {
    for (access, after) in
        [(0x92, 0x93), (0x90, 0x91), (0x9a, 0x9b), (0x96, 0x97), (0x98, 0x98), (0x12, 0x12)]
    {
        let mut rig = Rig::protected().ready();
        rig.set_gdt(F, descriptor(0, 0xf_ffff, access, 0xc));
        rig.cpu.regs[0] = F.into();
        let _ = rig.bytes(&loader(0, By::Mov));
        assert_eq!(rig.peek(GDT + u64::from(F)) >> 40 & 0xff, after, "{access:#x}");
    }
}

/// An LDT's descriptors (SDM 3A 3.5.1), and LLDT's checks (SDM 2A LLDT).
#[test]
fn ldt() {
    let f = u32::from(F);
    for (selector, access, expected) in [
        (F, 0x82, None),
        (F | 3, 0x82, None),
        (0, 0x82, None),
        (F | 4, 0x82, gp(f | 4)),
        (0x1000, 0x82, gp(0x1000)),
        (F, 0x89, gp(f)),
        (F, 0x92, gp(f)),
        (F, 0x02, np(f)),
        (F, 0x09, gp(f)),
    ] {
        let mut rig = Rig::protected().ready();
        rig.set_gdt(F, descriptor(DATA as u32, 0x17, access, 0));
        rig.cpu.regs[0] = selector.into();
        assert_eq!(cause(rig.bytes(&[0x0f, 0x00, 0xd0])), expected, "{selector:#x} {access:#x}");
    }
    // Within and beyond the LDT's limit.
    for (selector, expected) in [(0x0c, None), (0x14, None), (0x1c, gp(0x1c))] {
        let mut rig = Rig::protected().ready();
        rig.set_gdt(F, descriptor(DATA as u32, 0x17, 0x82, 0));
        for n in 0..4 {
            rig.poke(DATA + 8 * n, descriptor(0x1000, 0xf_ffff, 0x93, 0xc));
        }
        rig.cpu.regs[0] = F.into();
        rig.cpu.regs[1] = selector;
        assert_eq!(cause(rig.bytes(&[0x0f, 0x00, 0xd0, 0x8e, 0xd9])), expected, "{selector:#x}");
        if expected.is_none() {
            assert_eq!(rig.cpu.seg[3].base, 0x1000);
        }
    }
    // Privileged, and absent from real-address mode.
    let mut rig = at_level(3);
    assert_eq!(cause(rig.bytes(&[0x0f, 0x00, 0xd0])), gp(0));
    let mut rig = Rig::ready_real();
    rig.load(CODE, &[0x0f, 0x00, 0xd0]);
    assert_eq!(rig.fault(), Some(6));
}

/// SDM 3A 5.3: limits of reads and writes at each size, up and down.
#[test]
fn limits() {
    let up = descriptor(0x1_0000, 0xfff, 0x93, 4);
    let pages = descriptor(0x1_0000, 1, 0x93, 0xc);
    let down32 = descriptor(0x1_0000, 0xfff, 0x97, 4);
    let down16 = descriptor(0x1_0000, 0xfff, 0x97, 0);
    // Descriptor, offset, size, allowed.
    let table = [
        (up, 0, 4, true),
        (up, 0xfff, 1, true),
        (up, 0xfff, 2, false),
        (up, 0xffe, 2, true),
        (up, 0xffc, 4, true),
        (up, 0xffd, 4, false),
        (up, 0xff0, 16, true),
        (up, 0xff1, 16, false),
        (up, 0x1000, 1, false),
        (up, 0xffff_ffff, 1, false),
        (up, 0xffff_ffff, 2, false),
        (pages, 0x1fff, 1, true),
        (pages, 0x2000, 1, false),
        (pages, 0x1ffc, 4, true),
        (pages, 0x1ffe, 4, false),
        (down32, 0xfff, 1, false),
        (down32, 0xffe, 4, false),
        (down32, 0x1000, 4, true),
        (down32, 0x2_0000, 4, true),
        (down32, 0xffff_fffc, 4, true),
        (down32, 0xffff_fffe, 4, false),
        (down16, 0x1000, 1, true),
        (down16, 0xfffc, 4, true),
        (down16, 0xfffd, 4, false),
        (down16, 0x1_0000, 1, false),
    ];
    for (descriptor, offset, size, allowed) in table {
        for write in [false, true] {
            for (segment, prefix) in [(3, 0x3e), (SS, 0x36), (4, 0x64)] {
                let mut rig = Rig::protected().ready();
                rig.force(segment, F, descriptor);
                // mov [ebx]: 8, 16, 32 bits; movups.
                let mut code = vec![prefix];
                code.extend(match (size, write) {
                    (1, false) => vec![0x8a, 0x03],
                    (1, true) => vec![0x88, 0x03],
                    (2, false) => vec![0x66, 0x8b, 0x03],
                    (2, true) => vec![0x66, 0x89, 0x03],
                    (4, false) => vec![0x8b, 0x03],
                    (4, true) => vec![0x89, 0x03],
                    (_, false) => vec![0x0f, 0x10, 0x03],
                    (_, true) => vec![0x0f, 0x11, 0x03],
                });
                rig.cpu.regs[3] = offset;
                rig.load(CODE, &code);
                rig.load(CODE + code.len() as u64, &[0xf4]);
                rig.run(1);
                let done = rig.cpu.rip() == CODE + code.len() as u64;
                assert_eq!(done, allowed, "{descriptor:#x} {offset:#x} {size} {write} {segment}");
                let vector = if segment == SS { 12 } else { 13 };
                if !allowed && segment != SS {
                    assert_eq!(rig.fault(), Some(vector));
                    assert_eq!(rig.frame(vector).error, Some(0));
                }
            }
        }
    }
}

/// SDM 3A 5.5: what a segment's type forbids.
#[test]
fn types_of_access() {
    // Segment register to use, its descriptor, 32-bit code, expected.
    let (read, write) = (0x8b, 0x89);
    let table: &[(usize, u64, u8, Cause)] = &[
        (3, descriptor(0, 0xf_ffff, 0x91, 0xc), read, None),
        (3, descriptor(0, 0xf_ffff, 0x91, 0xc), write, gp(0)),
        (3, descriptor(0, 0xf_ffff, 0x93, 0xc), write, None),
        (3, descriptor(0, 0xf_ffff, 0x9b, 0xc), read, None),
        (3, descriptor(0, 0xf_ffff, 0x9b, 0xc), write, gp(0)),
        (1, descriptor(0, 0xf_ffff, 0x9b, 0xc), read, None),
        (1, descriptor(0, 0xf_ffff, 0x9b, 0xc), write, gp(0)),
        (1, descriptor(0, 0xf_ffff, 0x99, 0xc), read, gp(0)),
        (1, descriptor(0, 0xf_ffff, 0x99, 0xc), write, gp(0)),
        (1, descriptor(0, 0xf_ffff, 0x9d, 0xc), read, gp(0)),
    ];
    for &(segment, d, opcode, expected) in table {
        let mut rig = Rig::protected().ready();
        rig.force(segment, F, d);
        rig.set_gdt(F, d);
        rig.cpu.regs[3] = DATA;
        let prefix = if segment == 1 { 0x2e } else { 0x3e };
        assert_eq!(cause(rig.bytes(&[prefix, opcode, 0x03])), expected, "{segment} {d:#x} {opcode:#x}");
    }
    // A null segment register faults at use (SDM 3A 3.4.2).
    for (segment, prefix) in [(0, 0x26), (3, 0x3e), (4, 0x64), (5, 0x65)] {
        let mut rig = Rig::protected().ready();
        rig.cpu.regs[0] = 0;
        rig.cpu.regs[3] = DATA;
        let mut code = loader(segment, By::Mov);
        code.extend([prefix, 0x8b, 0x03]);
        let result = rig.bytes(&code);
        assert_eq!(cause(result), gp(0));
        assert_eq!(result.unwrap_err().ip, CODE + 2);
    }
}

/// SDM 3A 21.1.1: real-address mode keeps limits that protected mode has loaded.
#[test]
fn unreal_mode() {
    let mut rig = Rig::real();
    rig.set_gdt(8, descriptor(0, 0xf_ffff, 0x93, 0xc));
    rig.cpu.gdtr.base = GDT;
    rig.cpu.gdtr.limit = 0xf;
    rig.poke(DATA, 0xfeed_f00d);
    rig.put(CODE, |a| {
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        a.mov(bx, 8)?;
        a.mov(ds, bx)?;
        a.and(al, 0xfe)?;
        a.mov(cr0, eax)?;
        a.mov(bx, 0x1000)?;
        a.mov(ds, bx)?;
        a.mov(edi, (DATA - 0x1_0000) as u32)?;
        a.mov(edx, dword_ptr(edi))?;
        a.hlt()
    });
    rig.run(20);
    assert_eq!(rig.cpu.regs[2], 0xfeed_f00d);
    assert_eq!(rig.cpu.seg[3].limit, u32::MAX);
    // And without, offsets end at 64 KiB: #GP, or #SS on the stack (SDM 3A 21.1.4).
    for (code, vector) in [(&[0x67, 0x8a, 0x07][..], 13), (&[0x36, 0x67, 0x8a, 0x07], 12)] {
        let mut rig = Rig::ready_real();
        rig.cpu.regs[7] = 0x1_0000;
        rig.load(CODE, code);
        assert_eq!(rig.fault(), Some(vector));
    }
    let mut rig = Rig::ready_real();
    rig.cpu.regs[3] = 0xffff;
    rig.load(CODE, &[0x8b, 0x07]);
    assert_eq!(rig.fault(), Some(13), "a word at FFFFh");
}

/// SDM 3A 5.3: the code segment's limit, for fetches and for branches.
#[test]
fn code_limit() {
    let limited = descriptor(0, 0x1_0010, 0x9b, 4);
    // Code at an address, where it faults.
    let table: &[(u64, &[u8], u64)] = &[
        // jmp near and short beyond: at the branch.
        (CODE, &[0xe9, 0x0c, 0, 0, 0], CODE),
        (CODE, &[0xeb, 0x0f], CODE),
        (CODE, &[0xe9, 0xf0, 0xff, 0xfe, 0xff], CODE), // to -11
        // Falls through the end: at the first byte beyond.
        (CODE + 0x10, &[0x90, 0x90], CODE + 0x11),
        // An instruction across the limit: at its start.
        (CODE + 0xf, &[0x66, 0x90, 0x90], CODE + 0x11),
        (CODE + 0x10, &[0xb8, 1, 2, 3, 4], CODE + 0x10),
        (CODE + 0xe, &[0xb8, 1, 2, 3, 4], CODE + 0xe),
        // call, ret and jmp through a register.
        (CODE, &[0xe8, 0x0c, 0, 0, 0], CODE),
        (CODE, &[0xff, 0xe1], CODE),
        (CODE, &[0xff, 0xd1], CODE),
        (CODE, &[0x51, 0xc3], CODE + 1),
        // A branch not taken does not care.
        (CODE + 0xe, &[0x75, 0x7f, 0x90], CODE + 0x11),
    ];
    for &(at, code, ip) in table {
        let mut rig = Rig::protected().ready();
        rig.force(1, sel::CODE32, limited);
        rig.cpu.set_rip(at);
        rig.cpu.regs[1] = 0x1_0011;
        rig.cpu.flags.set(0x42);
        rig.load(at, code);
        let frame = rig.finish().expect_err("beyond the limit");
        assert_eq!((frame.cause(), frame.ip), ((13, 0), ip), "{at:#x} {code:x?}");
    }
    // The last byte may be used.
    let mut rig = Rig::protected().ready();
    rig.force(1, sel::CODE32, limited);
    assert_eq!(cause(rig.bytes(&[0x90; 15])), None);
}

/// SDM 1 6.2.3: SS.B selects SP or ESP; SP wraps in 64 KiB, and the upper half of ESP stays.
#[test]
fn sixteen_bit_stack() {
    let mut rig = Rig::protected();
    rig.force(SS, F, descriptor(0x3_0000, 0xffff, 0x93, 0));
    rig.cpu.regs[4] = 0xabcd_0002;
    rig.cpu.regs[0] = 0x1122_3344;
    rig.load(CODE, &[0x66, 0x50, 0x50, 0x58, 0x66, 0x58]);
    rig.run(2);
    assert_eq!(rig.cpu.regs[4], 0xabcd_fffc);
    assert_eq!(rig.peek32(0x3_fffc), 0x1122_3344);
    assert_eq!(rig.peek16(0x3_0000), 0x3344);
    rig.run(2);
    assert_eq!(rig.cpu.regs[4], 0xabcd_0002);
    // A push that would cross the end of the segment: #SS(0).
    let mut rig = Rig::protected().ready();
    rig.force(SS, F, descriptor(0x3_0000, 0xffff, 0x93, 0));
    rig.cpu.regs[4] = 2;
    rig.load(CODE, &[0x50]);
    rig.run(1);
    assert_eq!(
        (rig.cpu.regs[4], rig.cpu.activity),
        (2, Activity::Shutdown),
        "#SS, #DF and the end for want of stack"
    );
}

/// SDM 2A, ENTER: the frame's address is all of ESP (or SP, by operand size), though a 16-bit stack moves only SP.
#[test]
fn enter_on_a_sixteen_bit_stack() {
    // Code; the pushed and the final frame pointer; the size of what is pushed.
    let table: [(&[u8], u32, u32, u32); 2] =
        [(&[0xc8, 8, 0, 2], 0xabcd_fffc, 0xabcd_fffc, 4), (&[0x66, 0xc8, 8, 0, 2], 0xfffe, 0x1234_fffe, 2)];
    for (code, pushed, frame, size) in table {
        let mut rig = Rig::protected();
        rig.force(SS, F, descriptor(0x3_0000, 0xffff, 0x93, 0));
        rig.cpu.regs[4] = 0xabcd_0000;
        rig.cpu.regs[5] = 0x1234_8000;
        rig.load(CODE, code);
        rig.run(1);
        // The old frame pointer, the display's one entry, the new frame pointer, and eight bytes.
        assert_eq!(rig.cpu.regs[4], 0xabcd_0000 | u64::from(0x1_0000 - 3 * size - 8));
        assert_eq!(rig.cpu.regs[5], u64::from(frame));
        let at = 0x4_0000 - 3 * u64::from(size);
        let found = if size == 4 { rig.peek32(at) } else { rig.peek16(at).into() };
        assert_eq!(found, pushed);
    }
}

/// SDM 3A 5.4.1.1: a null SS in 64-bit mode, below level 3 and with RPL equal to CPL.
#[test]
fn null_stack_segment_in_64_bit_mode() {
    for (cpl, selector, expected) in
        [(0, 0, None), (0, 1, gp(0)), (0, 3, gp(0)), (3, 3, gp(0)), (3, 0, gp(0))]
    {
        let rig = Rig::long().ready();
        let mut rig = if cpl == 3 { rig.user() } else { rig };
        rig.cpu.regs[0] = selector;
        rig.cpu.regs[4] -= 64;
        assert_eq!(cause(rig.bytes(&[0x8e, 0xd0, 0x50, 0x58])), expected, "{cpl} {selector}");
    }
}

/// LAR, LSL, VERR and VERW (SDM 2A, 2B): ZF says whether the selector is visible, nothing faults.
#[test]
fn selector_queries() {
    // CPL, selector, descriptor, LAR, LSL, VERR, VERW.
    let d = |access, flags| descriptor(0x1234_5678, 0xf_1234, access, flags);
    let table: &[(u8, u16, u64, [bool; 4])] = &[
        (0, 0, d(0x93, 4), [false; 4]),
        (0, 0x1000, d(0x93, 4), [false; 4]),
        (0, F, d(0x93, 4), [true; 4]),
        (0, F, d(0x91, 4), [true, true, true, false]),
        (0, F, d(0x99, 4), [true, true, false, false]),
        (0, F, d(0x9b, 4), [true, true, true, false]),
        (0, F, d(0x9f, 4), [true, true, true, false]),
        // Not present does not matter.
        (0, F, d(0x13, 4), [true; 4]),
        // Privilege: both CPL and RPL, but for conforming code.
        (3, F, d(0x93, 4), [false; 4]),
        (0, F | 3, d(0x93, 4), [false; 4]),
        (3, F | 3, d(0xf3, 4), [true; 4]),
        (3, F | 3, d(0x9f, 4), [true, true, true, false]),
        (3, F | 3, d(0x9b, 4), [false; 4]),
        // System descriptors.
        (0, F, d(0x81, 0), [true, true, false, false]),
        (0, F, d(0x82, 0), [true, true, false, false]),
        (0, F, d(0x83, 0), [true, true, false, false]),
        (0, F, d(0x84, 0), [true, false, false, false]),
        (0, F, d(0x85, 0), [true, false, false, false]),
        (0, F, d(0x86, 0), [false; 4]),
        (0, F, d(0x87, 0), [false; 4]),
        (0, F, d(0x88, 0), [false; 4]),
        (0, F, d(0x89, 0), [true, true, false, false]),
        (0, F, d(0x8a, 0), [false; 4]),
        (0, F, d(0x8b, 0), [true, true, false, false]),
        (0, F, d(0x8c, 0), [true, false, false, false]),
        (0, F, d(0x8d, 0), [false; 4]),
        (0, F, d(0x8e, 0), [false; 4]),
        (0, F, d(0x8f, 0), [false; 4]),
        (3, F | 3, d(0x89, 0), [false; 4]),
    ];
    let ops: [&[u8]; 4] = [&[0x0f, 0x02, 0xd0], &[0x0f, 0x03, 0xd0], &[0x0f, 0, 0xe0], &[0x0f, 0, 0xe8]];
    for &(cpl, selector, descriptor, zf) in table {
        for (n, (op, zf)) in ops.into_iter().zip(zf).enumerate() {
            for before in [false, true] {
                let mut rig = at_level(cpl);
                rig.set_gdt(F, descriptor);
                rig.cpu.regs[0] = selector.into();
                rig.cpu.regs[2] = 0x5555_5555;
                rig.cpu.flags.set(if before { 0x42 } else { 2 });
                assert_eq!(cause(rig.bytes(op)), None);
                assert_eq!(rig.cpu.flags.zf(), zf, "{cpl} {selector:#x} {descriptor:#x} {n}");
                let result = match (n, zf) {
                    (0, true) => descriptor >> 32 & 0xff_ff00,
                    (1, true) => 0xf_1234,
                    _ => 0x5555_5555,
                };
                // LAR leaves bits 16-19 undefined.
                let defined = if (n, zf) == (0, true) { 0xf0_ff00 } else { u64::MAX };
                assert_eq!(rig.cpu.regs[2] & defined, result & defined);
            }
        }
    }
    // Granularity in LSL.
    let mut rig = at_level(0);
    rig.set_gdt(F, descriptor(0, 0x12345, 0x93, 0xc));
    rig.cpu.regs[0] = F.into();
    assert_eq!(cause(rig.bytes(ops[1])), None);
    assert_eq!(rig.cpu.regs[2], 0x1234_5fff);
    // #UD in real-address mode.
    for op in ops {
        let mut rig = Rig::ready_real();
        rig.load(CODE, op);
        assert_eq!(rig.fault(), Some(6));
    }
    // IA-32e mode knows no 16-bit system types (SDM 2A table 3-53).
    for (access, lar) in
        [(0x81, false), (0x83, false), (0x84, false), (0x85, false), (0x89, true), (0x8c, true)]
    {
        let mut rig = Rig::long().ready();
        rig.set_gdt(F, d(access, 0));
        rig.cpu.regs[0] = F.into();
        assert_eq!(cause(rig.bytes(ops[0])), None);
        assert_eq!(rig.cpu.flags.zf(), lar, "{access:#x}");
    }
}

/// SDM 2A ARPL.
#[test]
fn arpl() {
    for (to, from, result, zf) in [
        (0x10, 0x3, 0x13, true),
        (0x13, 0x10, 0x13, false),
        (0x12, 0x22, 0x12, false),
        (0x11, 0x22, 0x12, true),
    ] {
        let mut rig = at_level(3);
        rig.cpu.regs[0] = to;
        rig.cpu.regs[1] = from;
        assert_eq!(cause(rig.bytes(&[0x63, 0xc8])), None);
        assert_eq!((rig.cpu.regs[0], rig.cpu.flags.zf()), (result, zf));
    }
    let mut rig = Rig::ready_real();
    rig.load(CODE, &[0x63, 0xc8]);
    assert_eq!(rig.fault(), Some(6));
}

/// LTR (SDM 2A LTR): checks, and the busy bit.
#[test]
fn load_task_register() {
    let f = u32::from(F);
    for (long, selector, access, expected) in [
        (false, F, 0x89, None),
        (false, F, 0x81, None),
        (false, 0, 0x89, gp(0)),
        (false, F | 4, 0x89, gp(f | 4)),
        (false, 0x1000, 0x89, gp(0x1000)),
        (false, F, 0x8b, gp(f)),
        (false, F, 0x82, gp(f)),
        (false, F, 0x93, gp(f)),
        (false, F, 0x09, np(f)),
        (true, F, 0x89, None),
        (true, F, 0x81, gp(f)),
        (true, F, 0x8b, gp(f)),
        (true, F, 0x09, np(f)),
        (true, 0xff8, 0x89, gp(0xff8)), // the upper half is beyond the limit
    ] {
        let mut rig = if long { Rig::long() } else { Rig::protected() }.ready();
        rig.set_gdt(F, descriptor(0x1000, 0x67, access, 0));
        rig.set_gdt(0xff8, descriptor(0x1000, 0x67, access, 0));
        rig.set_gdt(F + 8, 1);
        rig.cpu.regs[0] = selector.into();
        assert_eq!(cause(rig.bytes(&[0x0f, 0x00, 0xd8])), expected, "{long} {selector:#x} {access:#x}");
        if expected.is_none() {
            assert_eq!(rig.cpu.tr.selector, selector);
            assert_eq!(rig.cpu.tr.base, if long { 0x1_0000_1000 } else { 0x1000 });
            assert_eq!(rig.peek(GDT + u64::from(F)) >> 40 & 0xff, u64::from(access | 2));
        }
    }
    let mut rig = at_level(3);
    assert_eq!(cause(rig.bytes(&[0x0f, 0x00, 0xd8])), gp(0));
}
