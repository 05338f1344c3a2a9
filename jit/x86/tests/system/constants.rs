//! Pointers and stacks at known addresses, anywhere in the linear address space: what a translation knows of them must not be
//! what it takes of them.

use crate::common::*;
use crate::pair::{put, run};
use iced_x86::code_asm::*;

/// Entries of the top-level table that lead to the same memory: linear addresses that fit a displacement, and others.
const AREAS: [u64; 4] = [0, 0x24, 0x106, 0x1ff];

/// An address in the middle of free memory.
fn address(random: &mut Random) -> u64 {
    let area = random.pick(&AREAS);
    let canonical = ((area << 55) as i64 >> 16) as u64;
    let room = random.pick(&[0x40, 0x3000]);
    canonical + DATA + 0x8000 + random.below(room)
}

fn program(seed: u64) -> Rig {
    let mut rig = Rig::long();
    rig.gates();
    for area in AREAS {
        rig.poke(TABLES + 8 * area, (TABLES + 0x1000) | 7);
    }
    for n in 0..0x2000 {
        rig.poke(DATA + 8 * n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    let mut random = Random::new(seed);
    put(&mut rig, CODE, |a| {
        let pointers = [rbx, rsi, rdi, r8, r11, r14];
        let values = [rax, rdx, r9, r10, r15];
        let mut again = a.create_label();
        for pointer in pointers {
            a.mov(pointer, address(&mut random))?;
        }
        a.mov(rsp, address(&mut random))?;
        a.mov(ecx, 30)?;
        a.set_label(&mut again)?;
        a.mov(r12d, 3)?;
        a.mov(rsp, address(&mut random))?;
        for _ in 0..8 + random.below(20) {
            let (pointer, value) = (random.pick(&pointers), random.pick(&values));
            let near = random.below(0x40) as i32 * 4 - 0x40;
            match random.below(14) {
                0 | 1 => a.mov(pointer, address(&mut random))?,
                2 => a.mov(rsp, address(&mut random))?,
                3 | 4 => a.push(value)?,
                5 => a.pop(value)?,
                6 => {
                    a.mov(rbp, address(&mut random))?;
                    a.leave()?;
                }
                7 => a.mov(value, qword_ptr(rsp + near))?,
                8 => a.mov(qword_ptr(rsp + near), value)?,
                9 => a.mov(value, qword_ptr(pointer + near))?,
                10 => a.add(qword_ptr(pointer + near), value)?,
                11 => a.xor(value, qword_ptr(pointer + r12 * 8 + near))?,
                12 => {
                    a.movups(xmm0, xmmword_ptr(pointer + near))?;
                    a.movups(xmmword_ptr(rsp + near), xmm0)?;
                }
                _ => a.lea(pointer, qword_ptr(pointer + near))?,
            }
        }
        // Where it has come to may not be known in the next round.
        for pointer in pointers {
            if random.below(2) == 0 {
                a.mov(pointer, address(&mut random))?;
            } else {
                a.mov(pointer, qword_ptr(DATA + 0x1_0000 + 8 * random.below(8)))?;
            }
        }
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    });
    for n in 0..8 {
        let address = address(&mut random);
        rig.poke(DATA + 0x1_0000 + 8 * n, address);
    }
    rig
}

#[test]
fn known_addresses_anywhere() {
    for seed in 0..30 {
        run(|| program(seed));
    }
}
