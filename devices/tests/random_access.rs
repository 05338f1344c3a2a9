//! Random accesses to every device: nothing panics or hangs, two boards that see the same do the same, and a board that
//! is saved and restored on the way goes on the same.

use proptest::prelude::*;
use ringworld_core::{
    CpuId, Delivery, Destination, GuestPhys, InterruptMessage, IoContext, Platform, StateHasher, TriggerMode,
    VirtualTime,
};
use ringworld_devices::{
    Board, BoardConfig, CPU_TEST_MEMORY, CmosConfig, FwCfgConfig, HPET_BASE, HostInput, IOAPIC_BASE,
    OutputBuffer,
};

#[derive(Clone, Debug)]
enum Step {
    In { port: u16, len: usize },
    Out { port: u16, value: u32, len: usize },
    Read { addr: u64, len: usize },
    Write { addr: u64, value: u64, len: usize },
    Pass { ns: u64 },
    ToNextEvent,
    Acknowledge,
    EndOfInterrupt { vector: u8 },
    Send { vector: u8 },
    Input { to: HostInput, bytes: Vec<u8> },
    Reset,
    SaveAndRestore,
}

/// The ports of all devices, and some of none.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        Just(0x20..0x22),
        Just(0xa0..0xa2),
        Just(0x4d0..0x4d2),
        Just(0x40..0x44),
        Just(0x60..0x65),
        Just(0x70..0x74),
        Just(0x3f8..0x400),
        Just(0x2f8..0x300),
        Just(0x00..0x10),
        Just(0x80..0x93),
        Just(0xb2..0xb4),
        Just(0xc0..0xe0),
        Just(0xe0..0xea),
        Just(0x510..0x512),
        Just(0x600..0x640),
        Just(0xcf8..0xd00),
        Just(0x2000..0x2018),
        Just(0x0..0xffff),
    ]
    .prop_flat_map(|range: std::ops::Range<u16>| range)
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        IOAPIC_BASE.0..IOAPIC_BASE.0 + 0x50,
        HPET_BASE.0..HPET_BASE.0 + 0x160,
        prop::sample::select(vec![0x00u64, 0x10, 0x40]).prop_map(|offset| IOAPIC_BASE.0 + offset),
        prop::sample::select(vec![0x10u64, 0x20, 0xf0, 0x100, 0x108, 0x120, 0x128])
            .prop_map(|offset| HPET_BASE.0 + offset),
        CPU_TEST_MEMORY.0 - 8..CPU_TEST_MEMORY.0 + 0x1_0008,
        any::<u64>(),
    ]
}

/// Values with few bits set reach more states than evenly random ones.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0u64..0x200, (0u32..64).prop_map(|bit| 1 << bit)]
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop::sample::select(vec![1usize, 1, 1, 2, 4]);
    let wide = prop::sample::select(vec![1usize, 2, 4, 4, 4, 8, 8, 64]);
    let input = prop_oneof![
        (0usize..3).prop_map(HostInput::Serial),
        Just(HostInput::Keyboard),
        Just(HostInput::Mouse),
        Just(HostInput::PowerButton)
    ];
    prop_oneof![
        8 => (port(), len.clone()).prop_map(|(port, len)| Step::In { port, len }),
        16 => (port(), value(), len).prop_map(|(port, value, len)| Step::Out { port, value: value as u32, len }),
        3 => (address(), wide.clone()).prop_map(|(addr, len)| Step::Read { addr, len }),
        6 => (address(), value(), wide).prop_map(|(addr, value, len)| Step::Write { addr, value, len }),
        3 => prop_oneof![0u64..1000, 0u64..300_000, 0u64..30_000_000].prop_map(|ns| Step::Pass { ns }),
        2 => Just(Step::ToNextEvent),
        2 => Just(Step::Acknowledge),
        1 => any::<u8>().prop_map(|vector| Step::EndOfInterrupt { vector }),
        1 => any::<u8>().prop_map(|vector| Step::Send { vector }),
        1 => (input, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(to, bytes)| Step::Input { to, bytes }),
        1 => prop::bool::weighted(0.1).prop_map(|reset| if reset { Step::Reset } else { Step::SaveAndRestore }),
    ]
}

fn board() -> Board {
    let board = Board::new(BoardConfig {
        cmos: CmosConfig { start_time: 1_700_000_000, low_memory: 1 << 30, high_memory: 0, cpus: 2 },
        serial: vec![Box::new(OutputBuffer::default()), Box::new(OutputBuffer::default())],
        debug_console: Some(Box::new(OutputBuffer::default())),
        debug_exit: Some(0xf4),
        fw_cfg: FwCfgConfig { files: vec![("etc/file".into(), vec![1; 100])], ..FwCfgConfig::default() },
        cpu_test: true,
        ..BoardConfig::default()
    });
    board.unwrap()
}

fn hash(board: &Board) -> u128 {
    let mut hasher = StateHasher::new();
    board.hash_state(&mut hasher);
    hasher.digest()
}

/// Does the steps; what the guest and the machine see of them.
fn run(steps: &[Step], restores: bool) -> Vec<u64> {
    let mut board = board();
    let mut now = 0;
    let mut seen = Vec::new();
    for step in steps {
        now += 7;
        let ctx = IoContext { cpu: CpuId(now as u32 & 1), now: VirtualTime(now) };
        board.advance(ctx.now);
        let mut data = [0; 64];
        match step {
            Step::In { port, len } => board.port_read(ctx, *port, &mut data[..*len]),
            Step::Out { port, value, len } => board.port_write(ctx, *port, &value.to_le_bytes()[..*len]),
            Step::Read { addr, len } => board.mmio_read(ctx, GuestPhys(*addr), &mut data[..*len]),
            Step::Write { addr, value, len } => {
                data[..8].copy_from_slice(&value.to_le_bytes());
                board.mmio_write(ctx, GuestPhys(*addr), &data[..*len]);
            }
            Step::Pass { ns } => {
                now += ns;
                board.advance(VirtualTime(now));
            }
            Step::ToNextEvent => {
                // Not beyond what `Pass` covers: an event may be hours away.
                now = board.next_event().0.clamp(now, now + 30_000_000);
                board.advance(VirtualTime(now));
            }
            Step::Acknowledge => seen.push(board.acknowledge(ctx).into()),
            Step::EndOfInterrupt { vector } => board.end_of_interrupt(ctx, *vector),
            Step::Send { vector } => board.send(
                ctx,
                InterruptMessage {
                    source: Some(ctx.cpu),
                    destination: Destination::All,
                    delivery: Delivery::Fixed,
                    vector: *vector,
                    trigger: TriggerMode::Edge,
                    assert: true,
                },
            ),
            Step::Input { to, bytes } => board.input(*to, bytes, ctx.now),
            Step::Reset => board.reset(ctx.now),
            Step::SaveAndRestore if restores => {
                let image = board.save().unwrap();
                board = self::board();
                board.restore(&image).unwrap();
            }
            Step::SaveAndRestore => {}
        }
        seen.extend(data.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())));
        seen.push(board.intr().into());
        seen.extend(board.take_messages().iter().map(|message| u64::from(message.vector)));
        if let Some(request) = board.take_power_request() {
            seen.push(format!("{request:?}").len() as u64);
        }
        assert!(board.next_event() > VirtualTime(now), "an event is always ahead");
    }
    seen.push(hash(&board) as u64);
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_accesses_are_harmless_and_deterministic(steps in prop::collection::vec(step(), 1..300)) {
        prop_assert_eq!(run(&steps, false), run(&steps, false));
    }

    #[test]
    fn a_snapshot_on_the_way_changes_nothing(steps in prop::collection::vec(step(), 1..200)) {
        prop_assert_eq!(run(&steps, false), run(&steps, true));
    }

    #[test]
    fn damaged_snapshots_are_harmless(
        steps in prop::collection::vec(step(), 1..100),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let source = board();
        for step in &steps {
            if let Step::Out { port, value, len } = step {
                let ctx = IoContext { cpu: CpuId(0), now: VirtualTime(1000) };
                source.port_write(ctx, *port, &value.to_le_bytes()[..*len]);
            }
        }
        let mut image = source.save().unwrap();
        for (at, byte) in damage {
            let at = at.index(image.len());
            image[at] = byte;
        }
        let target = board();
        // Whether it is taken or refused, the board must stay usable.
        let _ = target.restore(&image);
        let ctx = IoContext { cpu: CpuId(0), now: VirtualTime(1_000_000) };
        for step in &steps {
            match step {
                Step::In { port, len } => target.port_read(ctx, *port, &mut [0; 4][..*len]),
                Step::Out { port, value, len } => target.port_write(ctx, *port, &value.to_le_bytes()[..*len]),
                _ => {}
            }
        }
        target.reset(VirtualTime(2_000_000));
    }
}
