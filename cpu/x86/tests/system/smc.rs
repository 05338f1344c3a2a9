//! Self-modifying and cross-modifying code (SDM 3A 9.1.3, in older editions 8.1.3): on one processor a store to an
//! instruction is seen by its next execution, through whatever address it was made.

use crate::common::*;
use iced_x86::code_asm::*;
use ringworld_x86::Activity;

fn halted(rig: &mut Rig) {
    rig.run(10_000);
    assert_eq!(rig.cpu.activity, Activity::Halted, "at {:#x}", rig.cpu.rip());
}

/// A store to an instruction further down the same block.
#[test]
fn ahead_in_the_same_block() {
    for distance in [1, 2, 5, 60, 200] {
        let mut rig = Rig::long();
        rig.put(CODE, |a| {
            let mut target = a.create_label();
            a.lea(rdi, ptr(target))?;
            a.mov(byte_ptr(rdi + 1), 7)?;
            for _ in 1..distance {
                a.nop()?;
            }
            a.set_label(&mut target)?;
            a.mov(eax, 1)?;
            a.hlt()
        });
        halted(&mut rig);
        assert_eq!(rig.cpu.regs[0], 7, "{distance}");
    }
}

/// A loop that rewrites its own body counts right, however often it has run before.
#[test]
fn a_loop_rewrites_itself() {
    let mut rig = Rig::long();
    rig.put(CODE, |a| {
        let mut again = a.create_label();
        let mut target = a.create_label();
        a.xor(ebx, ebx)?;
        a.mov(ecx, 100)?;
        a.lea(rdi, ptr(target))?;
        a.set_label(&mut again)?;
        a.mov(dword_ptr(rdi + 1), ecx)?;
        a.set_label(&mut target)?;
        a.mov(eax, 0)?;
        a.add(ebx, eax)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    });
    halted(&mut rig);
    assert_eq!(rig.cpu.regs[3], 5050);
    assert_eq!(rig.cpu.icount, 3 + 500 + 1);
}

/// Code behind RIP, another function, and code that was jumped to before: every kind of store.
#[test]
fn every_kind_of_store() {
    // Stores AL (DL new immediate) over the immediate of `mov eax, 1` at RDI.
    type Store = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    let stores: &[(&str, Store)] = &[
        ("mov", |a| a.mov(byte_ptr(rdi + 1), dl)),
        ("movs", |a| {
            a.mov(rsi, DATA)?;
            a.mov(byte_ptr(rsi), dl)?;
            a.inc(rdi)?;
            a.movsb()?;
            a.sub(rdi, 2)
        }),
        ("rep movs", |a| {
            // All 6 bytes of `mov eax, imm32; ret`.
            a.mov(rsi, DATA)?;
            a.mov(rax, 0xc300_0000_00b8_u64)?;
            a.mov(qword_ptr(rsi), rax)?;
            a.mov(byte_ptr(rsi + 1), dl)?;
            a.mov(ecx, 6)?;
            a.rep().movsb()?;
            a.sub(rdi, 6)
        }),
        ("rep stos", |a| {
            a.mov(eax, edx)?;
            a.mov(ecx, 1)?;
            a.inc(rdi)?;
            a.rep().stosb()?;
            a.sub(rdi, 2)
        }),
        ("xchg", |a| {
            a.mov(eax, edx)?;
            a.xchg(byte_ptr(rdi + 1), al)
        }),
        ("lock cmpxchg", |a| {
            a.mov(al, byte_ptr(rdi + 1))?;
            a.lock().cmpxchg(byte_ptr(rdi + 1), dl)
        }),
        ("add", |a| {
            a.mov(byte_ptr(rdi + 1), 0)?;
            a.add(byte_ptr(rdi + 1), dl)
        }),
        ("push", |a| {
            a.mov(rbp, rsp)?;
            a.lea(rsp, qword_ptr(rdi + 8))?;
            a.mov(rax, qword_ptr(rdi))?;
            a.mov(ah, dl)?;
            a.push(rax)?;
            a.mov(rsp, rbp)
        }),
        ("movups", |a| {
            a.movups(xmm0, xmmword_ptr(rdi))?;
            a.pinsrw(xmm1, edx, 0)?;
            a.mov(rsi, DATA)?;
            a.movups(xmmword_ptr(rsi), xmm0)?;
            a.mov(byte_ptr(rsi + 1), dl)?;
            a.movups(xmm0, xmmword_ptr(rsi))?;
            a.movups(xmmword_ptr(rdi), xmm0)
        }),
    ];
    for &(what, store) in stores {
        for same_page in [true, false] {
            let mut rig = Rig::long();
            let function = if same_page { CODE + 0x800 } else { CODE + 0x5000 };
            rig.load(function, &[0xb8, 1, 0, 0, 0, 0xc3]);
            rig.put(CODE, |a| {
                a.xor(ebx, ebx)?;
                for value in [2, 3, 4] {
                    a.mov(rdi, function)?;
                    a.call(rdi)?;
                    a.add(ebx, eax)?;
                    a.mov(edx, value)?;
                    a.mov(rdi, function)?;
                    store(a)?;
                }
                a.mov(rdi, function)?;
                a.call(rdi)?;
                a.add(ebx, eax)?;
                a.hlt()
            });
            halted(&mut rig);
            assert_eq!(rig.cpu.regs[3], 1 + 2 + 3 + 4, "{what} {same_page}");
        }
    }
}

/// A store through another linear address of the same physical page.
#[test]
fn through_another_mapping() {
    let mut rig = Rig::long();
    let alias = 0x2000_0000;
    rig.poke(TABLES + 0x2000 + 8 * (alias >> 21), 0x87);
    let function = CODE + 0x1000;
    rig.load(function, &[0xb8, 1, 0, 0, 0, 0xc3]);
    rig.put(CODE, |a| {
        a.mov(rdi, function)?;
        a.mov(rsi, alias + function)?;
        // The alias is in the TLB, writable, before the code is decoded.
        a.mov(byte_ptr(rsi + 0x100), 0)?;
        a.call(rdi)?;
        a.mov(ebx, eax)?;
        a.mov(byte_ptr(rsi + 1), 2)?;
        a.call(rdi)?;
        a.add(ebx, eax)?;
        // The code runs at the alias, and is changed at its own address.
        a.call(rsi)?;
        a.mov(byte_ptr(rdi + 1), 3)?;
        a.call(rsi)?;
        a.add(ebx, eax)?;
        a.call(rdi)?;
        a.add(ebx, eax)?;
        a.hlt()
    });
    halted(&mut rig);
    assert_eq!(rig.cpu.regs[3], 1 + 2 + 3 + 3);
}

/// An instruction across two pages, of which either half changes.
#[test]
fn across_a_page_boundary() {
    for into in 1..5 {
        let mut rig = Rig::long();
        let start = CODE + 0x2000 - into;
        rig.load(start, &[0xb8, 0, 0, 0, 0, 0xc3]);
        rig.put(CODE, |a| {
            a.mov(rdi, start)?;
            a.call(rdi)?;
            a.mov(ebx, eax)?;
            for n in 1..5 {
                a.mov(byte_ptr(rdi + n), n)?;
                a.call(rdi)?;
                a.add(ebx, eax)?;
            }
            a.hlt()
        });
        halted(&mut rig);
        let expected = (0x01_u32 + 0x0201 + 0x03_0201).wrapping_add(0x0403_0201);
        assert_eq!(rig.cpu.regs[3], u64::from(expected), "{into}");
    }
}

/// What has taken the place of an instruction that reached into the next page, and does not, needs no next page.
#[test]
fn a_page_that_is_not_reached_any_more() {
    const PAGE: u64 = 0x4010_0000;
    const FRAME: u64 = 0x30_0000;
    let mut rig = Rig::long();
    let (directory, table) = (TABLES + 0x10_0000, TABLES + 0x11_0000);
    rig.poke(TABLES + 0x1000 + 8, directory | 7);
    rig.poke(directory, table | 7);
    let entry = table + 8 * (PAGE >> 12 & 511);
    rig.poke(entry, FRAME | 7);
    rig.poke(entry + 8, (FRAME + 0x1000) | 7);
    let function = PAGE + 0xffd;
    rig.load(FRAME + 0xffd, &[0xb8, 1, 2, 3, 4, 0xc3]);
    rig.put(CODE, |a| {
        a.mov(rdi, function)?;
        a.call(rdi)?;
        a.mov(ebx, eax)?;
        // XOR EAX, EAX and RET.
        a.mov(word_ptr(rdi), 0xc031)?;
        a.mov(byte_ptr(rdi + 2), 0xc3)?;
        a.mov(qword_ptr(entry + 8), 0)?;
        a.invlpg(ptr(PAGE + 0x1000))?;
        a.call(rdi)?;
        a.hlt()
    });
    halted(&mut rig);
    assert_eq!((rig.cpu.regs[3], rig.cpu.regs[0]), (0x0403_0201, 0));
}

/// A store that crosses from data into code.
#[test]
fn a_store_across_pages_into_code() {
    let mut rig = Rig::long();
    let function = CODE + 0x2000;
    rig.load(function, &[0xb0, 1, 0xc3]);
    rig.put(CODE, |a| {
        a.mov(rdi, function)?;
        a.call(rdi)?;
        a.mov(dword_ptr(rdi - 2), 0x07b0_0000)?;
        a.call(rdi)?;
        a.hlt()
    });
    halted(&mut rig);
    assert_eq!(rig.cpu.regs[0] & 0xff, 7);
}

/// A generator of code: writes functions one after the other, in place, and runs each.
#[test]
fn code_generation() {
    let mut rig = Rig::long();
    rig.put(CODE, |a| {
        let mut again = a.create_label();
        a.xor(ebx, ebx)?;
        a.mov(ecx, 200)?;
        a.set_label(&mut again)?;
        // mov eax, ecx (as an immediate); ret
        a.mov(rdi, DATA)?;
        a.mov(byte_ptr(rdi), 0xb8_u32 as i32)?;
        a.mov(dword_ptr(rdi + 1), ecx)?;
        a.mov(byte_ptr(rdi + 5), 0xc3_u32 as i32)?;
        a.call(rdi)?;
        a.add(rbx, rax)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    });
    halted(&mut rig);
    assert_eq!(rig.cpu.regs[3], 20_100);
}

/// REP MOVS that overwrites the code after it, in the same block.
#[test]
fn a_string_move_over_what_follows() {
    for count in [1, 2, 40, 200] {
        let mut rig = Rig::long();
        rig.load(DATA, &[0x90; 256]);
        rig.load(DATA + count - 1, &[0xf4]);
        rig.put(CODE, |a| {
            a.mov(esi, DATA as u32)?;
            a.mov(edi, CODE as u32 + 17)?;
            a.mov(ecx, count as u32)?;
            a.rep().movsb()?;
            for _ in 0..4 {
                a.ud2()?;
            }
            a.hlt()
        });
        halted(&mut rig);
        assert_eq!((rig.cpu.rip(), rig.cpu.regs[1]), (CODE + 17 + count, 0), "{count}");
    }
}

/// Code in memory that a device (here: the test) has written since it ran last.
#[test]
fn changed_from_outside() {
    let mut rig = Rig::long();
    for value in 1..20_u8 {
        rig.load(CODE, &[0xb0, value, 0xf4]);
        rig.cpu.activity = Activity::Active;
        rig.cpu.set_rip(CODE);
        halted(&mut rig);
        assert_eq!(rig.cpu.regs[0] as u8, value);
    }
}

/// The same bytes in another mode are other instructions: blocks do not mix (48h is DEC EAX, or REX.W).
#[test]
fn modes_do_not_share_code() {
    for _ in 0..2 {
        let mut rig = Rig::long();
        rig.load(CODE, &[0x48, 0x40, 0x90, 0xf4]);
        rig.cpu.regs[0] = 10;
        halted(&mut rig);
        assert_eq!(rig.cpu.regs[0], 10, "48 40 90: two REX prefixes and a NOP");
        rig.force(1, sel::CODE32, 0x00cf_9b00_0000_ffff);
        rig.cpu.activity = Activity::Active;
        rig.cpu.set_rip(CODE);
        rig.run(1);
        assert_eq!(rig.cpu.regs[0], 9, "DEC EAX");
        rig.run(1);
        assert_eq!(rig.cpu.regs[0], 10, "INC EAX");
    }
}
