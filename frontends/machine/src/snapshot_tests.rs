use super::*;
use crate::testing::machine;
use crate::{RunUntil, StopReason};
use ringworld_devices::OutputBuffer;

fn config(seed: u64, cpus: u32) -> MachineConfig {
    MachineConfig { seed, cpus, ..MachineConfig::default() }
}

fn run(machine: &mut Machine, to: u64) {
    assert_eq!(machine.run(&RunUntil::instructions(to)).unwrap(), StopReason::InstructionLimit);
}

fn restored(snapshot: &Snapshot) -> (Machine, OutputBuffer) {
    let output = OutputBuffer::default();
    let read = Snapshot::parse(&snapshot.to_bytes().unwrap()).unwrap();
    (Machine::from_snapshot(&read, Backends::console(output.clone()), |_| ()).unwrap(), output)
}

#[test]
fn a_machine_goes_on_from_any_instruction() {
    const END: u64 = 60_000;
    for (seed, cpus) in [(0, 1), (1, 1), (1, 3)] {
        let (mut whole, output) = machine(config(seed, cpus));
        run(&mut whole, END);
        let (hash, text) = (whole.state_hash(), output.take());
        assert!(text.len() > 10, "{} interrupts", text.len());
        let (mut first, first_output) = machine(config(seed, cpus));
        let mut before = Vec::new();
        for n in 1..=25 {
            // No multiple of anything.
            run(&mut first, n * 2_311 - n * n);
            before.extend(first_output.take());
            let snapshot = first.snapshot().unwrap();
            assert_eq!(snapshot.header().instructions, first.instructions());
            let (mut second, second_output) = restored(&snapshot);
            assert_eq!(first.state_hash(), second.state_hash(), "seed {seed}, save point {n}");
            run(&mut second, END);
            assert_eq!(second.state_hash(), hash, "seed {seed}, save point {n}");
            assert_eq!([&before[..], &second_output.take()].concat(), text, "seed {seed}, save point {n}");
        }
    }
}

#[test]
fn the_same_machine_goes_back() {
    let (mut machine, output) = machine(config(1, 2));
    run(&mut machine, 10_000);
    let snapshot = machine.snapshot().unwrap();
    output.take();
    run(&mut machine, 30_000);
    let (hash, text) = (machine.state_hash(), output.take());
    machine.load_snapshot(&snapshot).unwrap();
    assert_eq!(machine.instructions(), 10_000);
    run(&mut machine, 30_000);
    assert_eq!((machine.state_hash(), output.take()), (hash, text));
    // A reset finds the image.
    machine.handle().send(crate::HostEvent::Reset);
    run(&mut machine, 31_000);
    let other = Machine::from_snapshot(&snapshot, Backends::default(), |_| ());
    assert!(other.is_err_and(|error| error.to_string().contains("device")), "it has no serial port");
}

#[test]
fn files_that_are_no_snapshots_are_told() {
    let (mut machine, _) = machine(config(1, 1));
    run(&mut machine, 1_000);
    let snapshot = machine.snapshot().unwrap();
    let bytes = snapshot.to_bytes().unwrap();
    let told = |bytes: &[u8], wanted: &str| {
        let error = Snapshot::parse(bytes).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(wanted) && !error.contains('\n'), "{wanted}: {error}");
    };
    told(b"", "no snapshot");
    told(b"\x7fELF....", "no snapshot");
    for cut in [8, 15, START, bytes.len() / 2, bytes.len() - 1] {
        told(&bytes[..cut], "cut off");
    }
    for at in (START..bytes.len()).step_by(bytes.len() / 40) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        told(&damaged, "damaged");
    }
    told(&[&bytes[..], b"x"].concat(), "damaged");
    let mut newer = bytes.clone();
    newer[8] += 1;
    told(&newer, &format!("format {}", super::VERSION + 1));

    let (mut other, _) = crate::testing::machine(config(1, 2));
    let error = other.load_snapshot(&snapshot).unwrap_err().to_string();
    assert!(error.contains("its cpus was 1, now it is 2"), "{error}");
    let folder = std::env::temp_dir().join(format!("ringworld-snapshot-{}", std::process::id()));
    snapshot.write(&folder).unwrap();
    assert_eq!(Snapshot::open(&folder).unwrap().to_bytes().unwrap(), bytes);
    fs::remove_file(&folder).unwrap();
    assert!(snapshot.write(Path::new("/nonexistent/x")).unwrap_err().to_string().contains("cannot write"));
}
