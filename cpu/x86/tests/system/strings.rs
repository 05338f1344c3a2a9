//! String instructions against what the manual says of one element after the other (SDM 2B, REP), over pages that lie side by
//! side for the guest only, some of them in the same slots of the TLB.

use crate::common::*;
use ringworld_mmu::tlb::TLB_ENTRIES;
use ringworld_x86::flags::bits;

/// Two ranges of pages, and the page after each is not there.
const RANGES: [u64; 2] = [0x4010_0000, 0x4010_0000 + ((TLB_ENTRIES as u64) << 12)];
const PAGES: u64 = 5;
/// Where their bytes are: the first page is the last one.
const FRAMES: u64 = 0x80_0000;
const RSI: usize = 6;
const RDI: usize = 7;

fn frame(linear: u64) -> Option<u64> {
    let range =
        RANGES.iter().position(|start| (start >> 12..(start >> 12) + PAGES).contains(&(linear >> 12)))?;
    let page = (linear - RANGES[range]) >> 12;
    Some(FRAMES + ((range as u64 + 1) * PAGES - 1 - page) * 0x2000 + (linear & 0xfff))
}

fn rig() -> Rig {
    let mut rig = Rig::long().ready();
    let directory = TABLES + 0x10_0000;
    rig.poke(TABLES + 0x1000 + 8, directory | 7);
    for (n, start) in RANGES.into_iter().enumerate() {
        let table = directory + 0x1000 * (n as u64 + 1);
        rig.poke(directory + 8 * (start >> 21 & 511), table | 7);
        for page in 0..PAGES {
            let at = start + (page << 12);
            rig.poke(table + 8 * (at >> 12 & 511), frame(at).expect("a page of the range") | 7);
        }
    }
    rig
}

/// What one instruction is to do.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// Without the bit for more than a byte.
    opcode: u8,
    size: u64,
    prefix: Option<u8>,
    down: bool,
    /// What FS adds to RSI, if there is such a prefix.
    base: Option<u64>,
    si: u64,
    di: u64,
    count: u64,
    al: u8,
}

/// Registers as a case leaves them, and how it ends.
#[derive(Debug, PartialEq)]
struct End {
    si: u64,
    di: u64,
    count: u64,
    ax: u64,
    /// CF, ZF and SF, if it did not fault.
    flags: Option<u64>,
    faults: bool,
}

/// One element after the other.
fn model(case: &Case, memory: &mut dyn FnMut(u64, Option<u8>) -> Option<u8>, flags: u64) -> End {
    let (mut si, mut di, mut count, mut ax) =
        (case.si, case.di, case.count, 0x0101_0101_0101_0101 * u64::from(case.al));
    let mut flags = flags;
    let by = if case.down { case.size.wrapping_neg() } else { case.size };
    let get = |memory: &mut dyn FnMut(u64, Option<u8>) -> Option<u8>, at: u64| {
        (0..case.size).rev().try_fold(0, |value, n| Some(value << 8 | u64::from(memory(at + n, None)?)))
    };
    let mask = u64::MAX >> (64 - 8 * case.size);
    let mut faults = false;
    let (uses_si, uses_di) = (matches!(case.opcode, 0xa4 | 0xa6 | 0xac), case.opcode != 0xac);
    while case.prefix.is_none() || count != 0 {
        let from = si.wrapping_add(case.base.unwrap_or(0));
        let a = if uses_si { get(memory, from) } else { Some(ax & mask) };
        let b = if uses_di { get(memory, di) } else { Some(0) };
        let (Some(a), Some(b)) = (a, b) else {
            faults = true;
            break;
        };
        match case.opcode {
            0xa4 | 0xaa => {
                (0..case.size).for_each(|n| _ = memory(di + n, Some((a >> (8 * n)) as u8)));
            }
            0xac => ax = if case.size == 4 { a } else { ax & !mask | a },
            _ => {
                let sign = a.wrapping_sub(b) >> (8 * case.size - 1) & 1;
                flags = u64::from(a < b) | u64::from(a == b) << 6 | sign << 7;
            }
        }
        si = if uses_si { si.wrapping_add(by) } else { si };
        di = if uses_di { di.wrapping_add(by) } else { di };
        let Some(prefix) = case.prefix else { break };
        count -= 1;
        if matches!(case.opcode, 0xa6 | 0xae) && (flags >> 6 & 1 != 0) == (prefix == 0xf2) {
            break;
        }
    }
    End { si, di, count, ax, flags: (!faults).then_some(flags), faults }
}

#[test]
fn elements_one_after_the_other() {
    let mut random = Random::new(1);
    let mut rig = rig();
    for round in 0..3000 {
        // Few values, so that comparisons go on for a while.
        let dense = random.below(3);
        let mut bytes = vec![0; (2 * PAGES as usize) << 12];
        for byte in &mut bytes {
            *byte = u8::from(dense == 0 || random.below(if dense == 1 { 3000 } else { 20 }) == 0)
                * random.below(256) as u8;
        }
        let at = |linear: u64| {
            frame(linear).map(|frame| ((frame - FRAMES) / 0x2000 * 0x1000 + (frame & 0xfff)) as usize)
        };
        for page in 0..2 * PAGES as usize {
            rig.load(FRAMES + 0x2000 * page as u64, &bytes[page << 12..(page + 1) << 12]);
        }
        let size = 1 << random.below(4);
        let mut place = || {
            let start = RANGES[random.below(2) as usize] + random.below(PAGES << 12);
            if random.below(2) == 0 { start & !7 } else { start }
        };
        let (si, mut di) = (place(), place());
        if random.below(3) == 0 {
            di = si.wrapping_add(random.below(64)).wrapping_sub(32).max(RANGES[0]);
        }
        let opcode = [0xa4, 0xa4, 0xa6, 0xaa, 0xac, 0xae][random.below(6) as usize];
        let prefix = [None, Some(0xf3), Some(0xf3), Some(0xf2)][random.below(4) as usize];
        let base = (random.below(3) == 0).then(|| random.below(0x3000));
        let most = if random.below(4) == 0 { 10_000 } else { 600 };
        let count = random.below(most);
        let case = Case {
            opcode,
            size,
            prefix,
            down: random.below(3) == 0,
            base,
            si: si.wrapping_sub(base.unwrap_or(0)),
            di,
            count,
            al: if dense == 0 { random.below(256) as u8 } else { random.below(2) as u8 },
        };
        let code: Vec<u8> = [
            case.prefix.into_iter().collect(),
            base.iter().map(|_| 0x64).collect(),
            match size {
                2 => vec![0x66],
                8 => vec![0x48],
                _ => vec![],
            },
            vec![opcode | u8::from(size > 1), 0xcd, super::helpers::DONE],
        ]
        .concat();
        let place = CODE + round * 16;
        rig.load(place, &code);
        rig.cpu.activity = ringworld_x86::Activity::Active;
        rig.cpu.set_rip(place);
        rig.cpu.regs[4] = STACK;
        rig.cpu.regs[0] = 0x0101_0101_0101_0101 * u64::from(case.al);
        rig.cpu.regs[1] = case.count;
        rig.cpu.regs[RSI] = case.si;
        rig.cpu.regs[RDI] = case.di;
        rig.cpu.seg[4].base = base.unwrap_or(0);
        rig.cpu.flags.system = if case.down { bits::DF } else { 0 };
        rig.cpu.flags.set_status(0);
        rig.cpu.update_mode();
        let ended = rig.finish();
        let flags = rig.peek(STACK - 24);
        let got = End {
            si: rig.cpu.regs[RSI],
            di: rig.cpu.regs[RDI],
            count: rig.cpu.regs[1],
            ax: rig.cpu.regs[0],
            flags: ended.is_ok().then_some(flags & 0xc1),
            faults: ended.is_err(),
        };
        let mut memory = |linear, value: Option<u8>| {
            let byte = &mut bytes[at(linear)?];
            *byte = value.unwrap_or(*byte);
            Some(*byte)
        };
        let wanted = model(&case, &mut memory, 0);
        assert_eq!(got, wanted, "round {round}: {case:x?}, {ended:x?}");
        for page in 0..2 * PAGES as usize {
            let mut there = vec![0; 0x1000];
            rig.cpu
                .memory
                .read(ringworld_core::GuestPhys(FRAMES + 0x2000 * page as u64), &mut there)
                .expect("in memory");
            let wrong = there.iter().zip(&bytes[page << 12..]).position(|(a, b)| a != b);
            assert_eq!(wrong, None, "round {round}, page {page}: {case:x?}");
        }
    }
}
