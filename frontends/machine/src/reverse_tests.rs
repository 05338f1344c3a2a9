use super::*;
use crate::testing::machine;
use crate::{HistoryConfig, HostEvent, MachineConfig, Watchpoint};
use ringworld_core::GuestPhys;
use ringworld_devices::OutputBuffer;

/// The interrupt handler's first instruction, and the one that counts at 0x502.
const HANDLER: u64 = 0x7c54;
const COUNTS: u64 = 0x7c56;

fn plain(seed: u64, cpus: u32) -> (Machine, OutputBuffer) {
    machine(MachineConfig { seed, cpus, ..MachineConfig::default() })
}

/// A machine that keeps its past, with several snapshots in it.
fn reversible(seed: u64, cpus: u32) -> (Machine, OutputBuffer) {
    let (mut machine, output) = plain(seed, cpus);
    machine.keep_history(HistoryConfig { interval: 3_000, ..HistoryConfig::default() }).unwrap();
    (machine, output)
}

fn run(machine: &mut Machine, to: u64) {
    assert_eq!(machine.run(&RunUntil::instructions(to)).unwrap(), StopReason::InstructionLimit);
}

#[test]
fn any_count_can_be_gone_to() {
    for (seed, cpus) in [(1, 1), (0, 1), (1, 3)] {
        let (mut straight, output) = plain(seed, cpus);
        let counts: Vec<u64> = (1..20).map(|n| n * 1_999 - n * n).collect();
        let hashes: Vec<u128> = counts
            .iter()
            .map(|count| {
                run(&mut straight, *count);
                straight.state_hash()
            })
            .collect();
        let text = output.take();
        let (mut machine, output) = reversible(seed, cpus);
        run(&mut machine, counts[18]);
        assert_eq!(machine.state_hash(), hashes[18]);
        for n in [17, 16, 3, 9, 0, 18, 11, 12, 2] {
            assert_eq!(machine.goto(counts[n]).unwrap(), StopReason::InstructionLimit);
            assert_eq!((machine.instructions(), machine.state_hash()), (counts[n], hashes[n]), "{n}");
        }
        run(&mut machine, counts[18]);
        assert_eq!((machine.state_hash(), output.take()), (hashes[18], text), "nothing is shown twice");
        let range = machine.history().unwrap();
        assert_eq!((range.start, range.end), (0, counts[18]));
        assert!(range.snapshots > 10 && range.bytes > 0);
    }
}

#[test]
fn steps_back_are_steps() {
    let (mut machine, _) = reversible(1, 1);
    let mut hashes = Vec::new();
    run(&mut machine, 9_990);
    for count in 9_991..10_020 {
        hashes.push(machine.state_hash());
        run(&mut machine, count);
    }
    while let Some(hash) = hashes.pop() {
        assert_eq!(machine.reverse_step(0).unwrap(), StopReason::InstructionLimit);
        assert_eq!(machine.state_hash(), hash);
    }
    machine.goto(0).unwrap();
    assert_eq!(machine.reverse_step(0).unwrap(), StopReason::HistoryStart);
    assert!(machine.reverse_step(7).is_err());
    let (mut forgetful, _) = plain(1, 1);
    assert!(forgetful.goto(0).unwrap_err().to_string().contains("--reverse"));
}

#[test]
fn back_to_a_breakpoint() {
    for cpus in [1, 2] {
        let (mut machine, _) = reversible(1, cpus);
        let until = RunUntil { breakpoints: vec![HANDLER], ..RunUntil::default() };
        let mut hits = Vec::new();
        for _ in 0..6 {
            let stop = machine.run(&until).unwrap();
            assert_eq!(stop, StopReason::Breakpoint { cpu: 0, address: HANDLER });
            hits.push((machine.instructions(), machine.state_hash()));
        }
        let end = machine.instructions() + 100;
        run(&mut machine, end);
        while let Some(hit) = hits.pop() {
            let stop = machine.reverse_continue(&until).unwrap();
            assert_eq!(stop, StopReason::Breakpoint { cpu: 0, address: HANDLER });
            assert_eq!((machine.instructions(), machine.state_hash()), hit);
            assert_eq!(machine.cpu(0).unwrap().rip(), HANDLER);
        }
        assert_eq!(machine.reverse_continue(&until).unwrap(), StopReason::HistoryStart);
        assert_eq!(machine.instructions(), 0);
    }
}

#[test]
fn back_to_the_last_write() {
    let (mut machine, _) = reversible(1, 2);
    run(&mut machine, 30_000);
    let hash = machine.state_hash();
    let value = |machine: &Machine| machine.memory().read_u16(GuestPhys(0x502)).unwrap();
    let written = value(&machine);
    let watch = Watchpoint { address: 0x502, len: 2, read: false, write: true };
    let until = RunUntil { watchpoints: vec![watch], ..RunUntil::default() };
    for n in 1..4 {
        let stop = machine.reverse_continue(&until).unwrap();
        assert_eq!(stop, StopReason::Watchpoint { cpu: 0, address: 0x502, write: true });
        assert_eq!((machine.cpu(0).unwrap().rip(), value(&machine)), (COUNTS, written - n));
    }
    // Forward, the stop is behind the access; watching leaves no trace.
    let stop = machine.run(&until).unwrap();
    assert_eq!(stop, StopReason::Watchpoint { cpu: 0, address: 0x502, write: true });
    assert_eq!((machine.cpu(0).unwrap().rip(), value(&machine)), (COUNTS + 4, written - 2));
    run(&mut machine, 30_000);
    assert_eq!(machine.state_hash(), hash);
}

#[test]
fn inputs_come_again_and_new_ones_wait() {
    let (mut machine, _) = reversible(1, 1);
    let send = |machine: &Machine, byte| {
        machine.handle().send(HostEvent::Serial { port: 0, bytes: vec![byte] });
    };
    run(&mut machine, 1_500_000);
    let before = machine.state_hash();
    send(&machine, 7);
    run(&mut machine, 3_500_000);
    let with_input = machine.state_hash();
    machine.goto(1_500_000).unwrap();
    assert_eq!(machine.state_hash(), before);
    // This one comes while the machine repeats: it has to wait.
    send(&machine, 9);
    run(&mut machine, 3_500_000);
    assert_eq!(machine.state_hash(), with_input);
    run(&mut machine, 6_000_000);
    let end = machine.state_hash();
    machine.goto(10).unwrap();
    run(&mut machine, 6_000_000);
    assert_eq!(machine.state_hash(), end);
    assert!(machine.history().unwrap().snapshots <= 100, "old ones are thinned out");
}

#[test]
fn a_change_begins_another_future() {
    let (mut machine, _) = reversible(1, 1);
    run(&mut machine, 20_000);
    machine.goto(10_001).unwrap();
    machine.memory().write_u16(GuestPhys(0x502), 0x1000).unwrap();
    machine.changed_from_outside().unwrap();
    assert_eq!(machine.history().unwrap().end, 10_001);
    run(&mut machine, 18_000);
    let hash = machine.state_hash();
    machine.goto(12_345).unwrap();
    assert!(machine.memory().read_u16(GuestPhys(0x502)).unwrap() >= 0x1000);
    run(&mut machine, 18_000);
    assert_eq!(machine.state_hash(), hash);
    machine.goto(9_000).unwrap();
    assert!(machine.memory().read_u16(GuestPhys(0x502)).unwrap() < 0x1000);
}
