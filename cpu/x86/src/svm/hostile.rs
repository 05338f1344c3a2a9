//! Random VMCBs near validity, with random nested page tables and structures at the edge of memory, as with VMX.

use super::tests::{CODE, IOPM, MSRPM, NPT, Setup, VMCB};
use crate::testing::{Random, states};
use ringworld_core::GuestPhys;
use zerocopy::IntoBytes;

/// Nested page tables: those that map all memory, and free pages.
const TABLES: [u64; 5] = [NPT, NPT + 0x1000, NPT + 0x2000, 0x4_0000, 0x4_1000];

fn entries(setup: &Setup, random: &mut Random) {
    let poke = |at: u64, value: u64| setup.cpu.memory.write_u64(GuestPhys(at), value).unwrap();
    if random.once_in(2) {
        poke(NPT + 0x2000, 0x4_0000 | 7);
        for n in 0..512 {
            poke(0x4_0000 + 8 * n, n << 12 | 7);
        }
    }
    for _ in 0..random.below(6) {
        let slot = if random.once_in(2) { random.below(4) } else { random.below(512) };
        poke(random.of(&TABLES) + 8 * slot, random.table_entry(&TABLES));
    }
}

fn controls(setup: &mut Setup, random: &mut Random) {
    for word in &mut setup.control.intercepts {
        *word |= (random.bits() & random.bits()) as u32;
    }
    match random.below(3) {
        0 => {}
        1 => setup.nested(),
        _ => setup.avic(),
    }
    let control = &mut setup.control;
    control.iopm_base = if random.once_in(2) { IOPM } else { random.address() };
    control.msrpm_base = if random.once_in(2) { MSRPM } else { random.address() };
    if random.once_in(3) {
        control.avic_backing_page = random.address();
        control.avic_physical_table = random.address() | random.below(0x200);
        control.avic_logical_table = random.address();
    }
    if random.once_in(3) {
        control.v_intr ^= random.bits() & random.bits();
        control.event_injection = (random.bits() & 0xffff_ffff_8000_0fff) | random.below(2) << 31;
        control.virtualization = random.below(4);
        control.pause_filter_count = random.below(4) as u16;
    }
    control.tlb_control = random.of(&[0, 0, 1, 3, 7]);
}

/// Changes words of what the VMCB holds.
fn mutate(setup: &mut Setup, random: &mut Random) {
    for _ in 0..random.below(4) {
        let bytes = if random.once_in(2) { setup.control.as_mut_bytes() } else { setup.save.as_mut_bytes() };
        let at = random.below(bytes.len() as u64 / 8) as usize * 8;
        let old = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let new = match random.below(4) {
            0 => random.bits(),
            1 => random.address(),
            _ => old ^ 1 << random.below(64),
        };
        bytes[at..at + 8].copy_from_slice(&new.to_le_bytes());
    }
}

#[test]
fn random_states_near_validity_do_no_harm() {
    let count = states(400);
    let mut exits = 0;
    for seed in 0..count {
        let mut random = Random(seed);
        let mut setup = Setup::new(&random.code());
        if !random.once_in(4) {
            controls(&mut setup, &mut random);
        }
        entries(&setup, &mut random);
        for _ in 0..3 {
            mutate(&mut setup, &mut random);
            let exit = setup.run();
            setup.save.rip = if random.once_in(4) { CODE } else { exit.next_rip };
        }
        exits += setup.cpu.counters.svm_exits.iter().map(|(_, count)| count).sum::<u64>();
        // The VMCB is where it was, and nothing else is checked: that is what the test is about.
        assert!(setup.cpu.memory.read_u64(GuestPhys(VMCB)).is_ok());
    }
    assert!(exits > count / 10, "{exits} exits");
}
