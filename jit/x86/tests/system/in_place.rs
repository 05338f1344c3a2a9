//! Instructions that are emitted in place for one case only, and all their others.

use crate::common::*;
use crate::pair::{put, run, stats};
use iced_x86::code_asm::*;
use ringworld_x86::control::cr4;

/// 64-bit code at CPL 3, or at CPL 0.
fn machine(user: bool) -> Rig {
    let mut rig = if user { Rig::long().user() } else { Rig::long() };
    rig.gates();
    rig.cpu.cr4 |= cr4::FSGSBASE;
    rig.cpu.update_mode();
    rig
}

/// POPFQ of what changes status flags alone, of DF, AC and ID, and of IF and IOPL, which CPL 3 may not change.
#[test]
fn flags_are_popped_at_level_3() {
    for changed in [0, 0x8d5, 0x400, 0x4_0000, 0x20_0000, 0x200, 0x3000, 0x4000, 0x3600] {
        for user in [false, true] {
            let rig = run(|| {
                let mut rig = machine(user);
                put(&mut rig, CODE, |a| {
                    let mut again = a.create_label();
                    a.mov(ecx, 4)?;
                    a.set_label(&mut again)?;
                    a.pushfq()?;
                    a.xor(qword_ptr(rsp), changed)?;
                    a.popfq()?;
                    a.pushfq()?;
                    a.pop(rax)?;
                    a.mov(qword_ptr(DATA + 8), rax)?;
                    a.dec(ecx)?;
                    a.jne(again)?;
                    // At CPL 3 that is an exception.
                    a.hlt()
                });
                rig
            });
            let pushed = rig.peek(DATA + 8);
            let kept = if user { changed as u64 & 0x3200 } else { 0 };
            assert_eq!(pushed & kept, 0, "{changed:#x} {user}");
        }
    }
}

/// Bases that are canonical and not, XLAT near a page's end, MULX into two registers of the frame, STD.
#[test]
fn bases_tables_and_products() {
    for base in [DATA, DATA - 0x10, 0x7fff_ffff_ffff, 0x8000_0000_0000, u64::MAX, 1 << 63] {
        for allowed in [true, false] {
            let rig = run(|| {
                let mut rig = machine(true);
                if !allowed {
                    rig.cpu.cr4 &= !cr4::FSGSBASE;
                }
                rig.load(DATA, &core::array::from_fn::<u8, 0x2000, _>(|n| (n as u8).wrapping_mul(7)));
                put(&mut rig, CODE, |a| {
                    let mut again = a.create_label();
                    a.mov(esi, DATA as u32)?;
                    a.mov(ebx, (DATA + 0xf80) as u32)?;
                    a.mov(ecx, 3)?;
                    a.set_label(&mut again)?;
                    a.mov(edx, 0x1234_5677)?;
                    a.mulx(r14, r15, qword_ptr(rsi + 0x10))?;
                    a.mulx(r11, r10, qword_ptr(rsi + rcx * 8 + 0xff0))?;
                    a.mulx(r10d, r14d, dword_ptr(rsi + 0x40))?;
                    a.add(r15, r14)?;
                    a.mov(eax, 0x90)?;
                    a.add(eax, ecx)?;
                    a.xlatb()?;
                    a.add(r15, rax)?;
                    a.mov(al, 0x10)?;
                    a.xlatb()?;
                    a.mov(edi, (DATA + 0x100) as u32)?;
                    a.std()?;
                    a.stosb()?;
                    a.cld()?;
                    a.stosb()?;
                    a.rdfsbase(r12)?;
                    a.mov(r8, base)?;
                    a.wrgsbase(r8)?;
                    a.rdgsbase(r11)?;
                    a.mov(r11, base)?;
                    a.wrfsbase(r11)?;
                    a.rdfsbase(r9)?;
                    a.dec(ecx)?;
                    a.jne(again)?;
                    a.mov(al, byte_ptr(0x20).gs())?;
                    a.hlt()
                });
                rig
            });
            let canonical = (base as i64) << 16 >> 16 == base as i64;
            if allowed && canonical {
                assert_eq!([9, 11].map(|n| rig.cpu.regs[n]), [base; 2]);
            }
            assert!(stats(&rig).blocks > 0);
        }
    }
}

/// MULX of memory into one register twice, and into two, wherever they live.
#[test]
fn mulx_into_one_register() {
    for registers in [[r10, r10], [r11, r11], [r14, r14], [r15, r15], [r10, r15], [rax, r11], [r14, rbx]] {
        run(|| {
            let mut rig = Rig::long();
            rig.gates();
            for n in 0..16 {
                rig.poke(DATA + 8 * n, 0x0123_4567_89ab_cdef_u64.rotate_left(7 * n as u32));
            }
            put(&mut rig, CODE, |a| {
                let mut again = a.create_label();
                a.mov(rdi, DATA)?;
                a.mov(ecx, 12)?;
                a.set_label(&mut again)?;
                a.mov(registers[0], 0x1234_5678_9abc_u64)?;
                a.mov(edx, 3)?;
                a.mulx(registers[0], registers[1], qword_ptr(rdi + 8))?;
                a.add(rsi, registers[0])?;
                a.mulx(registers[1], registers[0], qword_ptr(rdi + rcx * 8))?;
                a.add(rsi, registers[1])?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.hlt()
            });
            rig
        });
    }
}
