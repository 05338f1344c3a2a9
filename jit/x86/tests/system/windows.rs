//! Accesses in windows: by the guest's own addresses, to pages that come and go.

use crate::Native;
use crate::common::*;
use crate::pair::{put, run, stats};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Bytes of a chunk, of which a window shows one.
const CHUNK: u64 = 1 << 40;
/// A page table of 4-KiB pages for the 2 MiB from here.
const PAGES: u64 = 0x60_0000;
const TABLE: u64 = TABLES + 0x8000;
const FRAMES: u64 = 0x30_0000;

/// Long mode; the first GiB is in two chunks, and [`PAGES`] in pages of 4 KiB.
fn program(f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Rig {
    let mut rig = Rig::long();
    rig.gates();
    rig.poke(TABLES + 8 * 2, (TABLES + 0x1000) | 7);
    rig.poke(TABLES + 0x2000 + 8 * (PAGES >> 21), TABLE | 7);
    for n in 0..512 {
        rig.poke(TABLE + 8 * n, (FRAMES + (n % 16 << 12)) | 7);
    }
    for n in 0..0x2000 {
        rig.poke(FRAMES + 8 * n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    put(&mut rig, CODE, f);
    rig
}

/// Blocks have windows, and pages get into them, if the host lets programs set GS.
#[test]
fn they_are_used() {
    let mut rig = program(|a| {
        let mut again = a.create_label();
        a.mov(esi, PAGES as u32)?;
        a.mov(ecx, 1000)?;
        a.set_label(&mut again)?;
        a.add(rax, qword_ptr(rsi + 8))?;
        a.mov(qword_ptr(rsi + 0x1000), rax)?;
        a.add(rsi, 24)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    });
    rig.native = Native::with(1 << 20, 64, true, 0);
    rig.run(100_000);
    let stats = stats(&rig);
    // SAFETY: reads what the kernel has said at the start.
    let allowed = unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 != 0;
    assert_eq!((stats.windowed != 0, stats.window_faults >= 7), (allowed, allowed), "{stats:?}");
    assert!(stats.window_faults < 100, "pages stay: {}", stats.window_faults);
}

/// A page of the loop gets another frame, with INVLPG and without, becomes read-only and is written, is gone and comes back.
#[test]
fn pages_change() {
    // (what is put into the table, whether INVLPG follows)
    for (entry, invalidates) in [
        (FRAMES + 0x5000 + 7, true),
        (FRAMES + 0x5000 + 7, false),
        (FRAMES + 0x1000 + 5, true),
        (0, true),
        (FRAMES + 0x1000 + 3, true),
    ] {
        for write_protect in [true, false] {
            run(|| {
                let mut rig = program(|a| {
                    let (mut again, mut outer) = (a.create_label(), a.create_label());
                    a.mov(r8d, 6)?;
                    a.set_label(&mut outer)?;
                    a.mov(esi, PAGES as u32 + 0xf00)?;
                    a.mov(ecx, 40)?;
                    a.set_label(&mut again)?;
                    a.add(rax, qword_ptr(rsi + 5))?;
                    a.xor(qword_ptr(rsi), rax)?;
                    a.add(rsi, 13)?;
                    a.dec(ecx)?;
                    a.jne(again)?;
                    a.mov(r9, entry)?;
                    a.xchg(qword_ptr(TABLE + 8), r9)?;
                    if invalidates {
                        a.invlpg(ptr(PAGES + 0x1000))?;
                    }
                    a.dec(r8d)?;
                    a.jne(outer)?;
                    a.hlt()
                });
                if !write_protect {
                    rig.cpu.cr0 &= !(1 << 16);
                    rig.cpu.update_mode();
                }
                rig
            });
        }
    }
}

/// Pages that share a slot of the TLB, turn by turn, and more of them than that has slots.
#[test]
fn pages_displace_each_other() {
    run(|| {
        program(|a| {
            let mut again = a.create_label();
            a.mov(esi, 0x40_0000)?;
            a.mov(ecx, 300)?;
            a.set_label(&mut again)?;
            a.add(rax, qword_ptr(rsi))?;
            a.add(rax, qword_ptr(rsi + 0x400_0000))?;
            a.mov(qword_ptr(rsi + 8), rax)?;
            a.mov(rbx, qword_ptr(rsi + 0x800_0000))?;
            a.add(rsi, 0x80)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.hlt()
        })
    });
}

/// A pointer that goes from one chunk to the other and back, another one that runs over the end of a chunk, and addresses that are
/// not canonical, or have all upper bits set.
#[test]
fn pointers_leave_their_chunk() {
    for (first, step) in [
        (PAGES, CHUNK),
        (CHUNK + PAGES, CHUNK.wrapping_neg()),
        (CHUNK + 0x40, 0x10_u64.wrapping_neg()),
        (PAGES, 0x2_0000_0000_0000),
        (PAGES, 1 << 62),
        (PAGES + 7, 0xffff_8000_0000_0000),
        (CHUNK - 24, 8),
        (0x40, 0x10_u64.wrapping_neg()),
    ] {
        run(|| {
            program(|a| {
                let mut again = a.create_label();
                a.mov(rdx, step)?;
                a.mov(rbx, PAGES)?;
                a.mov(rsi, first)?;
                a.mov(ecx, 12)?;
                a.set_label(&mut again)?;
                a.add(rax, qword_ptr(rsi))?;
                a.mov(dword_ptr(rsi + 0x10), eax)?;
                a.xor(rax, qword_ptr(rbx + rcx * 8))?;
                a.add(rsi, rdx)?;
                a.neg(rdx)?;
                a.dec(ecx)?;
                a.jne(again)?;
                a.add(rsi, rdx)?;
                a.mov(rax, qword_ptr(rsi))?;
                a.hlt()
            })
        });
    }
}

/// Operands that want alignment, divisors of zero, and frames of registers that live in memory, in loops.
#[test]
fn instructions_fault_in_windows() {
    type Part = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let parts: [Part; 8] = [
        |a| a.movaps(xmm1, xmmword_ptr(rsi)),
        |a| a.addps(xmm1, xmmword_ptr(r10 + rcx * 4)),
        |a| a.vmovdqa(ymmword_ptr(rsi), ymm1),
        |a| a.div(qword_ptr(r10 + r11 * 8)),
        |a| a.mulx(r10, r11, qword_ptr(r14 + r15 * 2)),
        |a| a.vmaskmovps(ymm3, ymm4, ymmword_ptr(rsi - 16)),
        |a| a.cmpxchg16b(xmmword_ptr(r10)),
        |a| a.shld(word_ptr(rsi + r11), bx, cl),
    ];
    for part in parts {
        run(|| {
            let mut rig = program(|a| {
                let mut again = a.create_label();
                a.mov(esi, PAGES as u32 + 0xe00)?;
                a.mov(r10d, PAGES as u32 + 0x2000)?;
                a.mov(r14d, PAGES as u32 + 0x3ff0)?;
                a.xor(r11d, r11d)?;
                a.xor(r15d, r15d)?;
                a.vpcmpeqd(xmm4, xmm4, xmm4)?;
                a.mov(ecx, 60)?;
                a.set_label(&mut again)?;
                a.mov(ebx, ecx)?;
                a.xor(edx, edx)?;
                part(a)?;
                a.inc(qword_ptr(r10 + 0x100))?;
                a.lea(rsi, ptr(rsi + 16))?;
                a.dec(ecx)?;
                a.jne(again)?;
                a.hlt()
            });
            rig.cpu.cr4 |= ringworld_x86::control::cr4::OSXSAVE;
            rig.cpu.xcr0 = 7;
            rig.poke(FRAMES + 0x2000, 0);
            // One page is not there.
            rig.poke(TABLE + 8, 0);
            rig.cpu.update_mode();
            rig
        });
    }
}

/// Gathers over pages of which some come when they are asked for; the handler sees what has been read before.
#[test]
fn gathers_fault_in_the_middle() {
    const HANDLER: u64 = CODE + 0x800;
    let rig = run(|| {
        let mut rig = program(|a| {
            let mut again = a.create_label();
            a.mov(esi, PAGES as u32 + 0x1800)?;
            a.mov(ecx, 30)?;
            a.set_label(&mut again)?;
            a.vpcmpeqd(ymm2, ymm2, ymm2)?;
            a.vmovdqu(ymm1, ymmword_ptr(DATA))?;
            a.vpgatherdd_3(ymm3, ptr(rsi + ymm1 * 4 - 0x800), ymm2)?;
            a.vpaddd(ymm4, ymm4, ymm3)?;
            a.vmovdqu(ymm2, ymmword_ptr(DATA + 0x40))?;
            a.vpgatherdq_3(ymm3, ptr(rsi + xmm1 * 8), ymm2)?;
            a.vpaddq(ymm5, ymm5, ymm3)?;
            // What is beyond the destination is cleared when the first element is there, or at the end.
            a.vmovdqu(ymm6, ymmword_ptr(DATA))?;
            a.vpcmpeqd(xmm2, xmm2, xmm2)?;
            a.vpgatherdd_3(xmm6, ptr(rsi + xmm1 * 4), xmm2)?;
            a.vpaddd(ymm4, ymm4, ymm6)?;
            a.add(rsi, 0x84)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.hlt()
        });
        put(&mut rig, HANDLER, |a| {
            a.push(rax)?;
            a.push(rbx)?;
            a.vmovdqu(ymmword_ptr(DATA + 0x100), ymm3)?;
            a.vmovdqu(ymmword_ptr(DATA + 0x120), ymm2)?;
            a.inc(dword_ptr(DATA + 0x140))?;
            a.mov(rbx, cr2)?;
            a.shr(rbx, 12)?;
            a.and(ebx, 0x1ff)?;
            a.mov(rax, qword_ptr(rbx * 8 + TABLE as i32))?;
            a.or(rax, 1)?;
            a.mov(qword_ptr(rbx * 8 + TABLE as i32), rax)?;
            a.pop(rbx)?;
            a.pop(rax)?;
            a.add(rsp, 8)?;
            a.iretq()
        });
        rig.gate(14, HANDLER, 0xe, 0);
        rig.cpu.cr4 |= ringworld_x86::control::cr4::OSXSAVE;
        rig.cpu.xcr0 = 7;
        let indices = [3_u32, 0x500, 0x7ff, 0x900, 0xc01, 1, 0x1100, 0x13ff];
        rig.load(DATA, &indices.map(u32::to_le_bytes).concat());
        rig.load(DATA + 0x40, &[[0xff; 8], [0; 8], [0x80; 8], [0xff; 8]].concat());
        for n in 0..16 {
            rig.poke(TABLE + 8 * n, (FRAMES + (n << 12)) | 6);
        }
        rig.cpu.update_mode();
        rig
    });
    assert!(rig.peek(DATA + 0x140) > 4, "pages were missing");
}

/// A loop that writes beside its own code, and to code that it calls.
#[test]
fn code_lives_in_the_page() {
    run(|| {
        program(|a| {
            let (mut again, mut function, mut start) = (a.create_label(), a.create_label(), a.create_label());
            a.jmp(start)?;
            a.set_label(&mut function)?;
            a.mov(edx, 1)?;
            a.ret()?;
            a.set_label(&mut start)?;
            a.lea(rdi, ptr(function))?;
            a.mov(ecx, 200)?;
            a.set_label(&mut again)?;
            a.mov(dword_ptr(rdi + 0x900), ecx)?;
            a.mov(eax, ecx)?;
            a.shr(eax, 3)?;
            a.mov(byte_ptr(rdi + 1), al)?;
            a.call(function)?;
            a.add(rbx, rdx)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.hlt()
        })
    });
}

/// Pointers and an index that move by registers: by little, by more than a loop's window is good for, by what changes in the loop; and
/// a copy of one of them.
#[test]
fn pointers_move_by_registers() {
    for step in [8, 24, 0x1008, 0x3ff8, 0x4000, 0x8_0000, 8_u64.wrapping_neg(), 1 << 40] {
        for changes in [false, true] {
            run(|| {
                let mut rig = program(|a| {
                    let mut again = a.create_label();
                    a.mov(r8, step)?;
                    a.mov(r10, step)?;
                    a.mov(ebx, 0x100_0000)?;
                    a.mov(esi, 0x200_0000)?;
                    a.mov(r14d, 0x300_0000)?;
                    a.xor(ebp, ebp)?;
                    a.mov(ecx, 25)?;
                    a.set_label(&mut again)?;
                    a.add(rax, qword_ptr(rbx + rbp))?;
                    a.add(rbp, r8)?;
                    a.mov(rdx, rsi)?;
                    a.xor(rax, qword_ptr(rbx + rbp * 8 + 8))?;
                    a.mov(qword_ptr(rsi), rax)?;
                    a.sub(rdx, r8)?;
                    a.mov(dword_ptr(rdx + 0x40), eax)?;
                    a.sub(rsi, r8)?;
                    a.add(rsi, 16)?;
                    a.add(r14, r10)?;
                    a.add(qword_ptr(r14), rcx)?;
                    if changes {
                        a.lea(r8, ptr(r8 + r8 * 2))?;
                    }
                    a.dec(ecx)?;
                    a.jne(again)?;
                    a.hlt()
                });
                // The pages beyond memory are where others are.
                for n in 0..512 {
                    rig.poke(TABLES + 0x2000 + 8 * n, ((n % 2 + 2) << 21) | 0x87);
                }
                for n in [0, 1] {
                    rig.poke(TABLES + 0x2000 + 8 * n, (n << 21) | 0x87);
                }
                rig
            });
        }
    }
}
