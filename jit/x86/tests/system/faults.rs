//! Faults, MXCSR, indirect branches, and code memory that overflows.

use crate::Native;
use crate::common::*;
use crate::pair::{put, run, stats};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ringworld_x86::Activity;
use ringworld_x86::model::Model;
use std::sync::Arc;

type Part = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Handlers that halt, for all exceptions, on a stack of their own (IST1); the code runs from [`CODE`].
fn program(f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Rig {
    let mut rig = Rig::long();
    rig.gates();
    rig.poke(TSS + 0x24, STACK - 0x2000);
    for vector in 0..32 {
        let gate = rig.peek(IDT + 16 * vector);
        rig.poke(IDT + 16 * vector, gate | 1 << 32);
    }
    put(&mut rig, CODE, f);
    rig
}

/// AMD's processors want what is added to the base of GS to be canonical, even if the TLB knows the sum.
#[test]
fn offsets_that_are_not_canonical() {
    const HALF: u64 = 1 << 47;
    let parts: [Part; 5] = [
        |a| a.mov(rax, qword_ptr(rbx).gs()),
        |a| a.add(qword_ptr(rbx).gs(), rax),
        |a| a.movhps(xmm0, qword_ptr(rbx).gs()),
        |a| a.btc(qword_ptr(rbx).gs(), rcx),
        |a| a.push(qword_ptr(rbx).gs()),
    ];
    let cases = [
        (HALF.wrapping_neg(), DATA + HALF, true),
        (DATA.wrapping_sub(HALF), HALF - 4, true),
        (DATA.wrapping_sub(HALF), HALF - 8, false),
        (DATA + 8, 8_u64.wrapping_neg(), false),
    ];
    for (n, part) in parts.iter().enumerate() {
        for (base, offset, faults) in cases {
            // Intel's do not.
            for amd in if n == 0 { 0..2 } else { 1..2 } {
                let rig = run(|| {
                    let mut rig = program(|a| {
                        // The TLB knows the page, for writes, too.
                        a.mov(qword_ptr(DATA), 5)?;
                        a.mov(qword_ptr(DATA - 8), 7)?;
                        a.mov(rdx, qword_ptr(DATA))?;
                        part(a)?;
                        a.hlt()
                    });
                    if amd == 1 {
                        rig.cpu.model = Arc::new(Model::as_if_complete("EPYC"));
                    }
                    rig.cpu.seg[5].base = base;
                    rig.cpu.cr4 |= 0x600;
                    (rig.cpu.regs[1], rig.cpu.regs[3]) = (0, offset);
                    rig.cpu.update_mode();
                    rig
                });
                let vector = (0x9001..0x9021).contains(&rig.cpu.rip()).then(|| rig.cpu.rip() - 0x9001);
                assert_eq!(vector, (amd == 1 && faults).then_some(13), "{n} {base:x} {offset:x} {amd}");
            }
        }
    }
}

/// An access of which only the second page is missing does nothing at all.
#[test]
fn an_access_into_a_missing_page_writes_nothing() {
    // The rig maps one GiB.
    const LAST: u64 = (1 << 30) - 4;
    let stores: &[Part] = &[
        |a| a.mov(qword_ptr(rdi), rax),
        |a| a.add(qword_ptr(rdi), rax),
        |a| a.movups(xmmword_ptr(rdi), xmm0),
        |a| a.xchg(qword_ptr(rdi), rax),
    ];
    for store in stores {
        let rig = run(|| {
            program(|a| {
                a.mov(rdi, LAST)?;
                a.mov(rax, -1_i64)?;
                a.movq(xmm0, rax)?;
                store(a)?;
                a.hlt()
            })
        });
        assert_eq!((rig.cpu.rip(), rig.cpu.cr2, rig.cpu.regs[0]), (0x900f, 1 << 30, u64::MAX));
    }
}

/// A constant that no displacement holds is part of the address all the same: it is not canonical here.
#[test]
fn far_constants_stay_in_addresses() {
    let rig = run(|| {
        program(|a| {
            a.mov(rax, i64::MIN)?;
            a.mov(rcx, DATA / 8)?;
            // Then this one is not known.
            a.ror(rcx, 0)?;
            a.mov(rdx, qword_ptr(rax + rcx * 8))?;
            a.mov(rbx, qword_ptr(rax + rcx * 8 + 8))?;
            a.hlt()
        })
    });
    assert_eq!(rig.cpu.rip(), 0x900e);
}

/// What ends blocks, or is translated, is invalid all the same where the model lacks it.
#[test]
fn instructions_of_other_models_are_invalid() {
    const HANDLER: u64 = 0x1_8000;
    for (model, code, invalid) in [
        ("Nehalem", [0x0f, 0x01, 0xca], true),
        ("Haswell", [0x0f, 0x01, 0xcb], true),
        ("Haswell", [0x0f, 0x01, 0xe8], true),
        ("EPYC", [0x0f, 0x01, 0xe8], true),
        ("EPYC", [0x0f, 0x01, 0xcb], false),
        ("max", [0x0f, 0x01, 0xe8], false),
    ] {
        let rig = run(|| {
            let mut rig = program(|a| {
                let mut again = a.create_label();
                a.mov(ecx, 100)?;
                a.set_label(&mut again)?;
                a.db(&code)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.hlt()
            });
            rig.cpu.model = Arc::new(Model::parse(model).expect("a model"));
            rig.gate(6, HANDLER, 0xe, 0);
            put(&mut rig, HANDLER, |a| {
                a.inc(r8d)?;
                a.add(qword_ptr(rsp), 3)?;
                a.iretq()
            });
            rig
        });
        assert_eq!(rig.cpu.regs[8], if invalid { 100 } else { 0 }, "{model} {code:x?}");
    }
}

/// The handler of a fault under TF is not stepped: its repeated string is one instruction.
#[test]
fn handlers_of_stepped_faults_are_not_stepped() {
    const HANDLERS: [u64; 2] = [0x1_8000, 0x1_9000];
    let rig = run(|| {
        let mut rig = program(|a| {
            a.pushfq()?;
            a.or(dword_ptr(rsp), 0x100)?;
            a.popfq()?;
            a.nop()?;
            a.ud2()
        });
        rig.gate(1, HANDLERS[0], 0xe, 0);
        put(&mut rig, HANDLERS[0], |a| {
            a.inc(r8d)?;
            a.iretq()
        });
        rig.gate(6, HANDLERS[1], 0xe, 0);
        put(&mut rig, HANDLERS[1], |a| {
            a.mov(rsi, DATA)?;
            a.mov(rdi, DATA + 0x1000)?;
            a.mov(ecx, 20)?;
            a.rep().movsq()?;
            a.hlt()
        });
        rig
    });
    // One trap after the NOP; the string does not count 20 times.
    assert_eq!((rig.cpu.regs[8], rig.cpu.icount), (1, 4 + 2 + 1 + 5));
}

/// SDM 1 11.5: with an exception unmasked in MXCSR the instruction that causes it faults (#XM), and no other does.
#[test]
fn unmasked_exceptions_fault_at_their_instruction() {
    for masked in [true, false] {
        let rig = run(|| {
            program(|a| {
                a.mov(r15, DATA)?;
                a.mov(dword_ptr(r15), if masked { 0x1f80 } else { 0x1d80 })?;
                a.ldmxcsr(dword_ptr(r15))?;
                a.mov(eax, 0x3f80_0000)?;
                a.movd(xmm0, eax)?;
                a.pxor(xmm1, xmm1)?;
                a.addss(xmm0, xmm0)?;
                a.movaps(xmm2, xmm0)?;
                a.divss(xmm0, xmm1)?;
                a.stmxcsr(dword_ptr(r15 + 4))?;
                a.mov(ebx, 1)?;
                a.hlt()
            })
        });
        let (reached, mxcsr) = (rig.cpu.regs[3], rig.cpu.mxcsr);
        if masked {
            assert_eq!((reached, mxcsr & 0x3f, rig.cpu.zmm[0][0] as u32), (1, 4, 0x7f80_0000));
        } else {
            assert_eq!((reached, mxcsr & 0x3f, rig.cpu.zmm[0][0] as u32), (0, 4, 0x4000_0000));
            assert_eq!(rig.cpu.rip(), 0x9001 + 19);
        }
    }
}

/// MXCSR's flags and rounding are the guest's, and come back.
#[test]
fn rounding_and_flags_of_mxcsr_are_the_guests() {
    for (rounding, third) in [(0, 0x3eaa_aaab_u32), (1, 0x3eaa_aaaa), (2, 0x3eaa_aaab), (3, 0x3eaa_aaaa)] {
        let rig = run(|| {
            program(|a| {
                a.mov(r15, DATA)?;
                a.mov(dword_ptr(r15), 0x1f80 | rounding << 13)?;
                a.ldmxcsr(dword_ptr(r15))?;
                a.mov(eax, 1)?;
                a.mov(ecx, 3)?;
                a.cvtsi2ss(xmm0, eax)?;
                a.cvtsi2ss(xmm1, ecx)?;
                a.divss(xmm0, xmm1)?;
                a.movd(ebx, xmm0)?;
                a.hlt()
            })
        });
        assert_eq!(rig.cpu.regs[3] as u32, third, "rounding {rounding}");
        assert_eq!(rig.cpu.mxcsr, 0x1fa0 | (rounding as u32) << 13);
    }
}

/// The operand of a push comes from a page that is not in the TLB: its function does it all, and the pushes and pops after
/// it, which share the stack's check, go on.
#[test]
fn a_push_from_a_new_page_leaves_the_stacks_check_valid() {
    let rig = run(|| {
        program(|a| {
            let mut again = a.create_label();
            a.mov(r15, DATA)?;
            a.mov(ecx, 64)?;
            a.xor(ebx, ebx)?;
            a.set_label(&mut again)?;
            a.push(qword_ptr(r15))?;
            a.push(rcx)?;
            a.pop(rax)?;
            a.add(rbx, rax)?;
            a.pop(rax)?;
            a.add(r15, 4096)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        })
    });
    assert_eq!(rig.cpu.regs[3], 64 * 65 / 2);
}

/// Pops to memory: off each kind of address, into a page that is missing, off the stack pointer; narrow divisions that
/// overflow or not; lines that are flushed.
#[test]
fn pops_to_memory_and_narrow_divisions() {
    let rig = run(|| {
        program(|a| {
            let mut again = a.create_label();
            a.mov(r15, DATA)?;
            a.mov(ecx, 40)?;
            a.set_label(&mut again)?;
            a.push(rcx)?;
            a.pop(qword_ptr(r15 + rcx * 8))?;
            a.push(qword_ptr(r15 + rcx * 8))?;
            a.push(rcx)?;
            a.pop(qword_ptr(rsp))?;
            a.pop(qword_ptr(r15 + 0xffc))?;
            a.clflush(byte_ptr(r15 + rcx))?;
            a.lea(eax, ptr(rcx + 200))?;
            a.div(cl)?;
            a.add(r8, rax)?;
            a.mov(ax, cx)?;
            a.xor(edx, edx)?;
            a.div(word_ptr(r15 + rcx * 8))?;
            a.add(r8, rdx)?;
            a.add(r15, 113)?;
            a.dec(ecx)?;
            a.cmp(ecx, 1)?;
            a.ja(again)?;
            a.push(7)?;
            a.mov(rdi, 1_u64 << 30)?;
            a.pop(qword_ptr(rdi))?;
            a.hlt()
        })
    });
    // The last pop faults.
    assert_eq!(rig.cpu.cr2, 1 << 30);
}

/// A loop of divisions of all widths, some of which raise an exception, whose handler passes over them or halves the dividend: divisors
/// are in the loop's registers, in the frame's, and in memory by groups, each in turn unaligned and over the borders of pages.
#[test]
fn divisions_that_overflow_in_loops() {
    const HANDLER: u64 = 0x1_8000;
    for (by, skip) in [(0, false), (3, false), (0, true), (5, true)] {
        let from = DATA + 0x10 + by;
        let rig = run(|| {
            let mut rig = program(|a| {
                let mut again = a.create_label();
                a.mov(r14, from)?;
                a.mov(edi, 80)?;
                a.set_label(&mut again)?;
                // Quotients beyond 32 bits, or by zero.
                a.mov(rdx, qword_ptr(r14))?;
                a.mov(eax, edi)?;
                a.push(rdi)?;
                a.div(qword_ptr(r14 + 8))?;
                a.pop(rdi)?;
                a.add(r9, rax)?;
                a.mov(r11, qword_ptr(r14 + 8))?;
                a.lea(rax, ptr(rdx + rdi))?;
                a.cqo()?;
                a.stc()?;
                a.idiv(r11)?;
                a.adc(r9, rdx)?;
                a.mov(eax, i32::MIN)?;
                a.cdq()?;
                a.mov(ecx, dword_ptr(r14))?;
                a.idiv(ecx)?;
                a.sbb(r9, rax)?;
                a.mov(eax, edi)?;
                a.cwd()?;
                a.idiv(word_ptr(r14 + 8))?;
                a.add(r9d, edx)?;
                a.movzx(eax, di)?;
                a.mov(ch, cl)?;
                a.div(ch)?;
                a.mov(ebx, eax)?;
                a.movsx(eax, al)?;
                a.idiv(bh)?;
                a.add(r9d, eax)?;
                a.add(r14, 16)?;
                a.inc(r10)?;
                a.dec(edi)?;
                a.jnz(again)?;
                a.hlt()
            });
            for n in 0..80 {
                let (high, divisor) = match n % 11 {
                    3 => (5 + n, 5 + n),
                    7 => (n, 0),
                    8 => (u64::MAX, u64::MAX),
                    _ => (n, 0x1_0003 * n + 7),
                };
                rig.poke(from + 16 * n, high);
                rig.poke(from + 16 * n + 8, divisor);
            }
            rig.gate(0, HANDLER, 0xe, 0);
            put(&mut rig, HANDLER, |a| {
                let mut wide = a.create_label();
                let mut done = a.create_label();
                a.inc(r8d)?;
                a.push(rcx)?;
                a.mov(rcx, qword_ptr(rsp + 8))?;
                a.add(r9, qword_ptr(rcx))?;
                if !skip {
                    // Once all dividends are 0, divisors still may be.
                    a.shr(rdx, 1)?;
                    a.shr(eax, 1)?;
                    a.test(eax, eax)?;
                    a.jnz(done)?;
                }
                // F7 or F6 behind prefixes; with a displacement or without one.
                a.cmp(byte_ptr(rcx), 0xf0)?;
                a.jae(wide)?;
                a.inc(rcx)?;
                a.set_label(&mut wide)?;
                a.movzx(ebx, byte_ptr(rcx + 1))?;
                a.shr(ebx, 6)?;
                a.lea(rcx, ptr(rcx + rbx + 2))?;
                a.cmp(ebx, 3)?;
                a.jne(done)?;
                a.sub(rcx, 3)?;
                a.set_label(&mut done)?;
                a.mov(qword_ptr(rsp + 8), rcx)?;
                a.pop(rcx)?;
                a.iretq()
            });
            rig
        });
        assert!(rig.cpu.regs[8] > 30, "{} errors by {by}", rig.cpu.regs[8]);
        assert_eq!(rig.cpu.regs[10], 80, "by {by}");
        // The divisions that raise no error are none of them.
        let (executed, errors) = (stats(&rig).executed, rig.cpu.regs[8]);
        assert!(executed < 2 * errors + 80, "{executed} by their function, {errors} errors");
    }
}

/// A table of jumps and calls through registers and memory, returns, and a return to elsewhere than the call.
#[test]
fn indirect_branches_find_their_code() {
    let rig = run(|| {
        program(|a| {
            let mut again = a.create_label();
            let mut targets: Vec<_> = (0..8).map(|_| a.create_label()).collect();
            let mut odd = a.create_label();
            let mut join = a.create_label();
            a.mov(r15, DATA)?;
            for (n, target) in targets.iter().enumerate() {
                a.lea(rax, ptr(*target))?;
                a.mov(qword_ptr(r15 + 8 * n as i32), rax)?;
            }
            a.xor(ebx, ebx)?;
            a.mov(ecx, 64)?;
            a.set_label(&mut again)?;
            a.mov(eax, ecx)?;
            a.and(eax, 7)?;
            a.jmp(qword_ptr(r15 + rax * 8))?;
            for (n, target) in targets.iter_mut().enumerate() {
                a.set_label(target)?;
                a.add(ebx, n as i32)?;
                if n % 2 == 1 {
                    a.call(odd)?;
                }
                a.jmp(join)?;
            }
            a.set_label(&mut odd)?;
            // Returns somewhere else.
            a.lea(rdx, ptr(join))?;
            a.mov(qword_ptr(rsp), rdx)?;
            a.ret()?;
            a.set_label(&mut join)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        })
    });
    assert_eq!(rig.cpu.regs[3], 8 * 28);
}

/// Code memory that overflows is given up, and the guest goes on; links into forgotten code are gone.
#[test]
fn a_guest_with_more_code_than_the_arena_runs_on() {
    const FUNCTIONS: u64 = 3000;
    let prepare = || {
        let mut rig = Rig::long();
        rig.gates();
        put(&mut rig, CODE, |a| {
            let (mut round, mut call) = (a.create_label(), a.create_label());
            a.mov(ebx, 3)?;
            a.set_label(&mut round)?;
            a.mov(r14, DATA)?;
            a.mov(ecx, FUNCTIONS as i32)?;
            a.set_label(&mut call)?;
            a.call(r14)?;
            a.add(r14, 64)?;
            a.dec(ecx)?;
            a.jnz(call)?;
            a.dec(ebx)?;
            a.jnz(round)?;
            a.hlt()
        });
        for n in 0..FUNCTIONS {
            put(&mut rig, DATA + 64 * n, |a| {
                a.add(rax, n as i32)?;
                a.rol(rax, 7)?;
                a.mov(qword_ptr(rsp - 64), rax)?;
                a.ret()
            });
        }
        rig
    };
    let (mut small, mut interpreted) = (prepare(), prepare());
    small.native = Native::with(64 << 10, 64, true, 4);
    interpreted.native = Native(None);
    for rig in [&mut small, &mut interpreted] {
        rig.run(1_000_000);
        assert_eq!(rig.cpu.activity, Activity::Halted);
    }
    assert_eq!(small.cpu.state(), interpreted.cpu.state());
    let stats = stats(&small);
    assert!(stats.flushes > 10 && stats.blocks > 3 * FUNCTIONS, "{stats:?}");
    let used: usize =
        small.native.0.iter().flat_map(|native| native.host_code()).map(|block| block.code.len()).sum();
    assert!(used <= 64 << 10, "{used}");
}

/// Tables that are read by a byte as the index, at all places in pages, one of which is missing: checked as a whole or one by
/// one, the same bytes are read, and the same access faults. The index is also more than a byte, in between.
#[test]
fn tables_are_read_by_bytes() {
    const TABLE: u64 = 0x31_0000;
    const HOLE: u64 = 0x4000_1000;
    for (at, index, expected) in [
        (HOLE - 0x400, 0xff, None),
        (HOLE - 0x3fc, 0xfe, None),
        (HOLE - 0x3fc, 0xff, Some(HOLE)),
        (HOLE - 4, 0, None),
    ] {
        let rig = run(|| {
            let mut rig = program(|a| {
                let mut again = a.create_label();
                a.xor(ebp, ebp)?;
                a.mov(r8, at)?;
                a.mov(r9, DATA)?;
                a.mov(ecx, 40)?;
                a.xor(ebx, ebx)?;
                a.set_label(&mut again)?;
                a.mov(eax, ecx)?;
                a.sub(eax, 1)?;
                // The first rounds stay at the start.
                a.shr(eax, 5)?;
                a.not(eax)?;
                a.and(eax, index)?;
                a.cmp(ecx, 2)?;
                a.cmovne(eax, ebp)?;
                a.movzx(eax, al)?;
                a.add(ebx, dword_ptr(r8 + rax * 4))?;
                a.add(rax, 0x100)?;
                a.add(ebx, dword_ptr(r9 + rax * 4 - 0x400))?;
                a.and(eax, 0x7f)?;
                a.mov(dword_ptr(r9 + rax * 8), ebx)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.hlt()
            });
            // One page before the hole.
            rig.poke(TABLES + 0x1008, (TABLE + 0x1000) | 7);
            rig.poke(TABLE + 0x1000, TABLE | 7);
            rig.poke(TABLE, 0x30_0000 | 7);
            for n in 0..0x200 {
                rig.poke(0x30_0000 + 8 * n, 0x0123_4567_89ab_cdef_u64.rotate_left(n as u32));
            }
            rig
        });
        assert_eq!((rig.cpu.cr2 != 0).then_some(rig.cpu.cr2), expected, "{at:#x}, {index:#x}");
    }
}

/// Accesses of one page before and after WRPKRU takes it away, and in a loop.
#[test]
fn protection_keys_change_between_accesses() {
    for (taken, loops) in [(4_u32, false), (8, false), (4, true), (8, true)] {
        let rig = run(|| {
            let mut rig = Rig::long();
            rig.gates();
            // Key 1 for the page of 2 MiB.
            let entry = TABLES + 0x2000 + 8 * (DATA >> 21);
            let old = rig.peek(entry);
            rig.poke(entry, old | 1 << 59);
            put(&mut rig, CODE, |a| {
                let mut again = a.create_label();
                a.mov(r9, DATA)?;
                a.xor(esi, esi)?;
                a.mov(edi, if loops { 20 } else { 1 })?;
                a.set_label(&mut again)?;
                a.add(rbx, qword_ptr(r9))?;
                a.add(rbx, qword_ptr(r9 + 8))?;
                a.mov(qword_ptr(r9 + 24), rbx)?;
                a.xor(ecx, ecx)?;
                a.xor(edx, edx)?;
                a.xor(eax, eax)?;
                a.cmp(edi, 1)?;
                a.mov(r8d, taken)?;
                a.cmove(eax, r8d)?;
                a.wrpkru()?;
                a.add(rbx, qword_ptr(r9 + 16))?;
                a.mov(qword_ptr(r9 + 32), rbx)?;
                a.inc(esi)?;
                a.dec(edi)?;
                a.jnz(again)?;
                a.hlt()
            });
            rig.cpu.cr4 |= ringworld_x86::control::cr4::PKE;
            rig.cpu.flush_all();
            rig
        });
        assert_eq!(rig.cpu.rip(), 0x9000 + 14 + 1, "a page fault");
    }
}
