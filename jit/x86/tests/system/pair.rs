//! The same program on both engines.

use crate::Native;
use crate::common::*;
use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use ringworld_core::GuestPhys;
use ringworld_jit_x86::JitStats;
use ringworld_x86::Activity;

/// Bytes of memory that are compared.
const COMPARED: usize = 4 << 20;

/// Assembles code at `at`.
pub fn put(rig: &mut Rig, at: u64, f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
    rig.assemble(at, |a| f(a).expect("encodable"));
}

fn memory(rig: &Rig) -> Vec<u8> {
    let mut bytes = vec![0; COMPARED];
    rig.cpu.memory.read(GuestPhys(0), &mut bytes).expect("in memory");
    bytes
}

fn same(translated: &Rig, interpreted: &Rig, with_memory: bool, what: &str) {
    assert_eq!(translated.cpu.state(), interpreted.cpu.state(), "{what}");
    if !with_memory {
        return;
    }
    let (a, b) = (memory(translated), memory(interpreted));
    if let Some(at) = (0..COMPARED).find(|&at| a[at] != b[at]) {
        panic!("{what}: memory at {at:#x}: translated {:#x}, interpreted {:#x}", a[at], b[at]);
    }
}

/// Runs what `prepare` makes until it halts, on the translator with all block lengths and with stops in between, and
/// compares with the interpreter at each stop (memory at each sixteenth); returns the translator's machine at the end.
pub fn run(prepare: impl Fn() -> Rig) -> Rig {
    each(prepare, 100_000, |translated, step, what| {
        assert_eq!(translated.cpu.activity, Activity::Halted, "{what}: at {:#x}", translated.cpu.rip());
        assert!(step != 100_000 || stats(translated).entries > 0, "{what}: nothing was translated");
    })
}

/// The same for a program that need not halt, after so many instructions at the latest.
pub fn compare(prepare: impl Fn() -> Rig, most: u64) -> Rig {
    each(prepare, most, |_, _, _| {})
}

fn each(prepare: impl Fn() -> Rig, most: u64, check: impl Fn(&Rig, u64, &str)) -> Rig {
    let mut last = None;
    // (block length, instructions between stops, short jumps, windows): stops cut blocks at every place.
    for (max_block, step, short, windows) in [
        (64, 100_000, true, false),
        (64, 100_000, false, false),
        (64, 1, true, false),
        (64, 3, false, false),
        (7, 5, true, false),
        (1, 100_000, false, false),
        (2, 7, true, false),
        (64, 100_000, true, true),
        (64, 100_000, false, true),
        (64, 5, true, true),
        (5, 33, true, true),
    ] {
        let what =
            format!("blocks of {max_block}, stops after {step}, short jumps: {short}, windows: {windows}");
        let mut translated = prepare();
        translated.native = Native::with(1 << 20, max_block, short, if windows { 0 } else { 4 });
        let mut interpreted = prepare();
        interpreted.native = Native(None);
        let (mut run, mut stops) = (0, 0);
        while interpreted.cpu.activity == Activity::Active && run < most {
            let step = step.min(most);
            interpreted.run(step);
            translated.run(step);
            run += step;
            stops += 1;
            same(&translated, &interpreted, stops % 16 == 0, &what);
        }
        same(&translated, &interpreted, true, &what);
        check(&translated, step, &what);
        last.get_or_insert(translated);
    }
    last.expect("there was a run")
}

/// What the translator of a machine has done.
pub fn stats(rig: &Rig) -> JitStats {
    rig.native.0.as_ref().map(|translator| translator.stats.clone()).unwrap_or_default()
}
