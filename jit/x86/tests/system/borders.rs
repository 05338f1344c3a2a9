//! Loops whose accesses come over the borders of pages that lie side by side in memory, or do not, or are not there.

use crate::common::*;
use crate::pair::{put, run};
use iced_x86::code_asm::*;

/// Where the loops' pages are, and how many.
const PAGES: u64 = 0x4010_0000;
const COUNT: u64 = 12;
/// Their frames.
const FRAMES: u64 = 0x30_0000;

fn program(seed: u64) -> Rig {
    let mut rig = Rig::long();
    rig.gates();
    let mut random = Random::new(seed);
    let (directory, table) = (TABLES + 0x10_0000, TABLES + 0x11_0000);
    rig.poke(TABLES + 0x1000 + 8, directory | 7);
    rig.poke(directory, table | 7);
    // Most pages follow each other; some runs are elsewhere, twice, or only readable; one may not be there.
    let mut frame = random.below(COUNT);
    let nowhere = random.below(4 * COUNT);
    let mut known = Vec::new();
    for page in 0..COUNT {
        frame = if random.below(3) == 0 { random.below(COUNT) } else { (frame + 1) % COUNT };
        let rights = if random.below(20) == 0 { 5 } else { 7 };
        let entry = if page == nowhere { 0 } else { (FRAMES + (frame << 12)) | rights };
        rig.poke(table + 8 * ((PAGES >> 12 & 511) + page), entry);
        if entry != 0 && random.below(8) != 0 {
            known.push((PAGES + (page << 12), rights == 7));
        }
    }
    for n in 0..COUNT << 9 {
        rig.poke(FRAMES + 8 * n, (n as f64 * 0.75 - 100.0).to_bits());
    }
    put(&mut rig, CODE, |a| {
        let pointers = [rsi, rdi, r8, r14];
        let mut again = a.create_label();
        // Most are in the TLB before.
        for (page, writable) in known {
            a.mov(eax, dword_ptr(page))?;
            if writable {
                a.mov(dword_ptr(page), eax)?;
            }
        }
        let size = random.pick(&[1, 4, 8, 16, 24]);
        for pointer in pointers {
            let start = PAGES + 0x800 + random.below((COUNT - 2) << 12);
            a.mov(pointer, if random.below(2) == 0 { start & !15 } else { start })?;
        }
        let index = random.below(2) == 0;
        a.xor(r9d, r9d)?;
        a.mov(ecx, 40 + random.below(160) as i32)?;
        a.set_label(&mut again)?;
        for _ in 0..2 + random.below(6) {
            let pointer = random.pick(&pointers);
            let near = random.below(6) as i32 * 8 - 16;
            let place = if index && random.below(2) == 0 { pointer + r9 * 8 } else { pointer + near };
            match random.below(11) {
                0 => a.mov(rax, qword_ptr(place))?,
                1 => a.mov(qword_ptr(place), rdx)?,
                2 => a.add(rdx, qword_ptr(place))?,
                3 => a.add(dword_ptr(place), eax)?,
                4 => a.xor(r15w, word_ptr(place))?,
                5 => a.movups(xmm0, xmmword_ptr(place))?,
                6 => a.movups(xmmword_ptr(place), xmm1)?,
                7 => a.movsd_2(xmm1, qword_ptr(place))?,
                8 => a.addsd(xmm0, qword_ptr(place))?,
                9 => a.movsd_2(qword_ptr(place), xmm0)?,
                _ => a.adc(r10, qword_ptr(place))?,
            }
        }
        for pointer in pointers {
            match random.below(4) {
                0 => {}
                1 => a.sub(pointer, size)?,
                _ => a.add(pointer, size)?,
            }
        }
        if index {
            a.inc(r9)?;
        }
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    });
    rig.cpu.cr4 |= 0x600;
    rig
}

#[test]
fn loops_over_the_borders_of_pages() {
    for seed in 0..25 {
        run(|| program(seed));
    }
}
