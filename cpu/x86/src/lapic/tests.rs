//! Tests of the local APIC; sections are those of SDM 3A chapter 12 (order number 325462-080 and later).

use super::*;
use ringworld_core::{Delivery, Destination, GuestPhys, TriggerMode};

const T0: VirtualTime = VirtualTime(0);

fn config(id: u32) -> LapicConfig {
    LapicConfig { cpu: CpuId(id), id, bsp: id == 0, suppress_eoi_broadcast: true, ..LapicConfig::default() }
}

/// An APIC enabled by software, in xAPIC mode.
fn xapic(id: u32) -> Lapic {
    let mut lapic = Lapic::new(config(id));
    write(&mut lapic, 0xf0, 0x1ff);
    lapic
}

fn x2apic(id: u32) -> Lapic {
    let mut lapic = xapic(id);
    lapic.set_base(lapic.base() | APIC_BASE_X2APIC, T0).unwrap();
    lapic
}

fn write(lapic: &mut Lapic, offset: u64, value: u32) -> Effects {
    lapic.mmio_write(offset, &value.to_le_bytes(), T0)
}

fn write_at(lapic: &mut Lapic, now: u64, offset: u64, value: u32) -> Effects {
    lapic.mmio_write(offset, &value.to_le_bytes(), VirtualTime(now))
}

fn read_at(lapic: &mut Lapic, now: u64, offset: u64) -> u32 {
    let mut data = [0xaa; 4];
    lapic.mmio_read(offset, &mut data, VirtualTime(now));
    u32::from_le_bytes(data)
}

fn read(lapic: &mut Lapic, offset: u64) -> u32 {
    read_at(lapic, 0, offset)
}

fn message(destination: Destination, delivery: Delivery, vector: u8) -> InterruptMessage {
    InterruptMessage {
        source: Some(CpuId(7)),
        destination,
        delivery,
        vector,
        trigger: TriggerMode::Edge,
        assert: true,
    }
}

fn fixed(vector: u8) -> InterruptMessage {
    message(Destination::All, Delivery::Fixed, vector)
}

/// 12.4.7.1
#[test]
fn state_after_power_up() {
    let mut lapic = Lapic::new(LapicConfig { bsp: true, ..config(3) });
    assert_eq!(lapic.base(), 0xfee0_0900);
    for (offset, expected) in [
        (0x20, 3 << 24),
        (0x30, 0x0105_0014),
        (0x80, 0),
        (0xa0, 0),
        (0xd0, 0),
        (0xe0, 0xffff_ffff),
        (0xf0, 0xff),
        (0x100, 0),
        (0x270, 0),
        (0x280, 0),
        (0x300, 0),
        (0x310, 0),
        (0x320, 0x1_0000),
        (0x330, 0x1_0000),
        (0x340, 0x1_0000),
        (0x350, 0x1_0000),
        (0x360, 0x1_0000),
        (0x370, 0x1_0000),
        (0x380, 0),
        (0x390, 0),
        (0x3e0, 0),
    ] {
        assert_eq!(read(&mut lapic, offset), expected, "register {offset:#x}");
    }
    assert!(!lapic.software_enabled());
    assert_eq!(lapic.accept(&fixed(0x40)), Accepted::No, "12.4.7.2: disabled by software");
    assert_eq!(lapic.accept(&message(Destination::All, Delivery::Nmi, 0)), Accepted::Nmi);
    write(&mut lapic, 0x320, 0x20);
    assert_eq!(read(&mut lapic, 0x320), 0x1_0020, "mask bits stay set");
}

/// 12.4.1: aligned 32-bit accesses; anything else does no harm
#[test]
fn odd_mmio_accesses() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x80, 0x35);
    let mut wide = [0xaa; 20];
    lapic.mmio_read(0x80, &mut wide, T0);
    assert_eq!(wide[..6], [0x35, 0, 0, 0, 0, 0]);
    lapic.mmio_write(0x81, &[1, 2, 3, 4], T0);
    lapic.mmio_write(0x80, &[0x77], T0);
    lapic.mmio_write(0x80, &[], T0);
    assert_eq!(read(&mut lapic, 0x80), 0x35);
    lapic.mmio_write(0x80, &[0x44, 0, 0, 0, 9, 9, 9, 9], T0);
    assert_eq!(read(&mut lapic, 0x80), 0x44);
    assert_eq!(lapic.esr | lapic.errors, 0);
}

/// 12.12.5.1, figure 12-26
#[test]
fn modes_and_their_transitions() {
    let x2 = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
    for (from, to, legal) in [
        (0, 0, true),
        (0, APIC_BASE_ENABLE, true),
        (0, x2, false),
        (0, APIC_BASE_X2APIC, false),
        (APIC_BASE_ENABLE, 0, true),
        (APIC_BASE_ENABLE, x2, true),
        (APIC_BASE_ENABLE, APIC_BASE_X2APIC, false),
        (x2, 0, true),
        (x2, APIC_BASE_ENABLE, false),
        (x2, APIC_BASE_X2APIC, false),
        (x2, x2, true),
    ] {
        let mut lapic = xapic(0);
        if from == x2 {
            lapic.set_base(APIC_BASE_DEFAULT | x2, T0).unwrap();
        } else {
            lapic.set_base(APIC_BASE_DEFAULT | from, T0).unwrap();
        }
        assert_eq!(lapic.set_base(APIC_BASE_DEFAULT | to, T0).is_ok(), legal, "{from:#x} to {to:#x}");
        let expected = if legal { to } else { from };
        assert_eq!(lapic.base(), APIC_BASE_DEFAULT | expected);
    }
    let mut plain = Lapic::new(LapicConfig { x2apic: false, ..config(0) });
    assert!(plain.set_base(APIC_BASE_DEFAULT | x2, T0).is_err(), "EXTD is reserved without x2APIC");
}

/// 12.4.4: reserved bits; relocation
#[test]
fn the_base_register() {
    let mut lapic = xapic(0);
    for bit in [0, 7, 9, 46, 52, 63] {
        assert!(lapic.set_base(lapic.base() | 1 << bit, T0).is_err(), "bit {bit}");
    }
    assert!(lapic.claims(GuestPhys(0xfee0_0ff0)) && !lapic.claims(GuestPhys(0xfee0_1000)));
    lapic.set_base(0x2000_fed4_0900, T0).unwrap();
    assert!(lapic.claims(GuestPhys(0x2000_fed4_0030)) && !lapic.claims(GuestPhys(0xfee0_0030)));
    lapic.set_base(lapic.base() | APIC_BASE_X2APIC, T0).unwrap();
    assert!(!lapic.claims(GuestPhys(0x2000_fed4_0030)), "12.12.2: no memory interface in x2APIC mode");
}

/// 12.4.3: a globally disabled APIC loses its state; CR8 works on
#[test]
fn global_disable() {
    let mut lapic = xapic(5);
    write(&mut lapic, 0x20, 9 << 24);
    write(&mut lapic, 0xd0, 0xff00_0000);
    lapic.accept(&fixed(0x40));
    assert_eq!(lapic.pending_vector(), Some(0x40));
    lapic.set_base(APIC_BASE_DEFAULT, T0).unwrap();
    assert_eq!(lapic.pending_vector(), None);
    assert_eq!(lapic.accept(&message(Destination::All, Delivery::Nmi, 0)), Accepted::No);
    assert!(lapic.ext_int_enabled(), "INTR reaches the processor");
    lapic.set_cr8(0xa);
    assert_eq!(lapic.cr8(), 0xa);
    assert!(lapic.msr_read(0x802, T0).is_err());
    lapic.set_base(APIC_BASE_DEFAULT | APIC_BASE_ENABLE, T0).unwrap();
    for (offset, expected) in [(0x20, 5 << 24), (0x80, 0xa0), (0xd0, 0), (0xf0, 0xff)] {
        assert_eq!(read(&mut lapic, offset), expected, "register {offset:#x}");
    }
    assert!(!lapic.ext_int_enabled());
}

/// 12.8.3, 12.8.4: IRR, ISR, priorities, EOI
#[test]
fn interrupts_nest_by_priority_class() {
    let mut lapic = xapic(0);
    for vector in [0x41, 0x4f, 0x53] {
        assert_eq!(lapic.accept(&fixed(vector)), Accepted::Interrupt);
    }
    assert_eq!(read(&mut lapic, 0x220), 0x0008_8002);
    assert_eq!(lapic.acknowledge(T0), 0x53);
    assert_eq!(lapic.ppr(), 0x50);
    assert_eq!(lapic.pending_vector(), None);
    lapic.accept(&fixed(0x5f));
    assert_eq!(lapic.pending_vector(), None, "the same class does not interrupt");
    lapic.accept(&fixed(0x60));
    assert_eq!(lapic.acknowledge(T0), 0x60);
    for expected in [0x5f, 0x4f, 0x41] {
        write(&mut lapic, 0xb0, 0);
        if expected == 0x5f {
            write(&mut lapic, 0xb0, 0);
        }
        assert_eq!(lapic.acknowledge(T0), expected);
    }
    assert_eq!(lapic.acknowledge(T0), 0xff, "spurious");
    assert_eq!(lapic.isr().highest(), Some(0x41), "which is not in service");
}

/// 12.8.3.1: TPR, PPR; 12.8.6: CR8
#[test]
fn task_priority() {
    for (tpr, serving, ppr) in
        [(0x3f, None, 0x3f), (0x3f, Some(0x35), 0x3f), (0x3f, Some(0x41), 0x40), (0, None, 0)]
    {
        let mut lapic = xapic(0);
        if let Some(vector) = serving {
            lapic.accept(&fixed(vector));
            lapic.acknowledge(T0);
        }
        write(&mut lapic, 0x80, tpr);
        assert_eq!(read(&mut lapic, 0xa0), ppr, "TPR {tpr:#x}, in service {serving:x?}");
        assert_eq!(u32::from(lapic.cr8()), tpr >> 4);
    }
    let mut lapic = xapic(0);
    lapic.accept(&fixed(0x38));
    lapic.set_cr8(3);
    assert_eq!(lapic.pending_vector(), None);
    assert_eq!(read(&mut lapic, 0x80), 0x30);
    lapic.set_cr8(2);
    assert_eq!(lapic.pending_vector(), Some(0x38));
}

/// 12.8.4 (TMR), 12.8.5 (EOI broadcast, its suppression)
#[test]
fn level_interrupts_broadcast_their_eoi() {
    let mut lapic = xapic(0);
    let level = InterruptMessage { trigger: TriggerMode::Level, ..fixed(0x79) };
    for (message, svr, eoi, tmr) in [
        (fixed(0x79), 0x1ff, None, 0),
        (level, 0x1ff, Some(0x79), 1 << 25),
        (level, 0x11ff, None, 1 << 25),
        (fixed(0x79), 0x1ff, None, 0),
    ] {
        write(&mut lapic, 0xf0, svr);
        lapic.accept(&message);
        assert_eq!(read(&mut lapic, 0x1b0), tmr);
        assert_eq!(lapic.acknowledge(T0), 0x79);
        assert_eq!(write(&mut lapic, 0xb0, 0).eoi, eoi);
    }
    assert_eq!(write(&mut lapic, 0xb0, 0).eoi, None, "nothing is in service");
    let mut plain = Lapic::new(LapicConfig { suppress_eoi_broadcast: false, ..config(0) });
    write(&mut plain, 0xf0, 0x11ff);
    assert_eq!((read(&mut plain, 0xf0), read(&mut plain, 0x30) >> 24), (0x1ff, 0), "only where advertised");
}

/// 12.6.1: the ICR
#[test]
fn the_interrupt_command_register() {
    let mut lapic = xapic(2);
    let from = |destination, delivery, vector| {
        Some(InterruptMessage { source: Some(CpuId(2)), ..message(destination, delivery, vector) })
    };
    let all = 0xffff_ffff;
    for (high, low, expected) in [
        (0x0300_0000, 0x0000_4031, from(Destination::Physical(3), Delivery::Fixed, 0x31)),
        (0xff00_0000, 0x0000_4031, from(Destination::Physical(all), Delivery::Fixed, 0x31)),
        (0x0500_0000, 0x0000_4831, from(Destination::Logical(5), Delivery::Fixed, 0x31)),
        (0x0500_0000, 0x0000_4931, from(Destination::Logical(5), Delivery::LowestPriority, 0x31)),
        (0, 0x0008_4031, from(Destination::All, Delivery::Fixed, 0x31)),
        (0, 0x000c_4031, from(Destination::Others, Delivery::Fixed, 0x31)),
        (0, 0x0000_0031, from(Destination::Physical(0), Delivery::Fixed, 0x31)),
        (0, 0x0000_c031, from(Destination::Physical(0), Delivery::Fixed, 0x31)),
        (0x0100_0000, 0x0000_0200, from(Destination::Physical(1), Delivery::Smi, 0)),
        (0x0100_0000, 0x0000_0400, from(Destination::Physical(1), Delivery::Nmi, 0)),
        (0x0100_0000, 0x0000_4500, from(Destination::Physical(1), Delivery::Init, 0)),
        (0x0100_0000, 0x0000_c500, from(Destination::Physical(1), Delivery::Init, 0)),
        (0x0100_0000, 0x0000_8500, None),
        (0x0100_0000, 0x0000_4608, from(Destination::Physical(1), Delivery::StartUp, 8)),
        (0x0100_0000, 0x0000_4331, None),
        (0x0100_0000, 0x0000_4731, None),
    ] {
        write(&mut lapic, 0x310, high);
        assert_eq!(write(&mut lapic, 0x300, low).ipi, expected, "{high:#x}:{low:#x}");
        assert_eq!((read(&mut lapic, 0x310), read(&mut lapic, 0x300)), (high, low));
    }
    assert_eq!(write(&mut lapic, 0x300, 0x0004_00f1).local, Accepted::Interrupt, "self");
    assert_eq!(lapic.pending_vector(), Some(0xf1));
    assert_eq!(write(&mut lapic, 0x300, 0x0004_0400).local, Accepted::Nmi);
}

/// 12.6.2: physical and logical destinations
#[test]
fn destinations() {
    let mut flat = xapic(3);
    write(&mut flat, 0xd0, 0x0500_0000);
    let mut cluster = xapic(3);
    write(&mut cluster, 0xe0, 0);
    write(&mut cluster, 0xd0, 0x2500_0000);
    let x2 = x2apic(0x23);
    for (what, lapic, destination, expected) in [
        ("physical", &flat, Destination::Physical(3), true),
        ("physical", &flat, Destination::Physical(4), false),
        ("physical", &flat, Destination::Physical(0x103), false),
        ("physical", &flat, Destination::Physical(0xff), true),
        ("physical", &flat, Destination::Physical(0xffff_ffff), true),
        ("flat", &flat, Destination::Logical(4), true),
        ("flat", &flat, Destination::Logical(0xfa), false),
        ("flat", &flat, Destination::Logical(0xff), true),
        ("cluster", &cluster, Destination::Logical(0x21), true),
        ("cluster", &cluster, Destination::Logical(0x2a), false),
        ("cluster", &cluster, Destination::Logical(0x15), false),
        ("cluster", &cluster, Destination::Logical(0xff), true),
        ("x2APIC", &x2, Destination::Physical(0x23), true),
        ("x2APIC", &x2, Destination::Physical(0xff), false),
        ("x2APIC", &x2, Destination::Physical(0xffff_ffff), true),
        ("x2APIC", &x2, Destination::Logical(0x0002_0008), true),
        ("x2APIC", &x2, Destination::Logical(0x0002_0007), false),
        ("x2APIC", &x2, Destination::Logical(0x0001_0008), false),
        ("x2APIC", &x2, Destination::Logical(0xffff_ffff), true),
        ("shorthand", &x2, Destination::All, true),
        ("shorthand", &x2, Destination::Others, true),
        ("shorthand", &x2, Destination::Own, false),
    ] {
        assert_eq!(
            lapic.matches(&message(destination, Delivery::Fixed, 0x40)),
            expected,
            "{what} {destination:?}"
        );
    }
    let device =
        InterruptMessage { source: None, ..message(Destination::Physical(0xff), Delivery::Fixed, 0x40) };
    assert!(x2.matches(&device), "an I/O APIC has eight destination bits");
    let own =
        InterruptMessage { source: Some(CpuId(0x23)), ..message(Destination::Others, Delivery::Fixed, 0x40) };
    assert!(!x2.matches(&own));
}

/// 12.6.2.4: lowest-priority arbitration
#[test]
fn the_lowest_priority_wins() {
    let mut lapics = [xapic(0), xapic(1), xapic(2), Lapic::new(config(3))];
    let lowest = message(Destination::Physical(0xff), Delivery::LowestPriority, 0x40);
    assert_eq!(arbitrate(&lapics, &lowest), Some(0), "of equals, the first");
    lapics[0].set_cr8(4);
    lapics[1].accept(&fixed(0x33));
    assert_eq!(arbitrate(&lapics, &lowest), Some(2));
    lapics[2].accept(&fixed(0x55));
    lapics[2].acknowledge(T0);
    assert_eq!(arbitrate(&lapics, &lowest), Some(1));
    let nobody = message(Destination::Physical(9), Delivery::LowestPriority, 0x40);
    assert_eq!(arbitrate(&lapics, &nobody), None);
}

/// 12.5.3: errors
#[test]
fn the_error_status_register() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x370, 0xfe);
    assert_eq!(
        write(&mut lapic, 0x300, 0x0008_400f),
        Effects { local: Accepted::Interrupt, ..Effects::default() }
    );
    assert_eq!(lapic.acknowledge(T0), 0xfe);
    write(&mut lapic, 0xb0, 0);
    assert_eq!(read(&mut lapic, 0x280), 0, "not before it is written");
    assert_eq!(lapic.accept(&fixed(0x0f)), Accepted::No, "one interrupt until the ESR is written");
    write(&mut lapic, 0x280, 0);
    assert_eq!(read(&mut lapic, 0x280), 0x60, "send and receive illegal vector");
    assert_eq!(lapic.accept(&fixed(0)), Accepted::Interrupt, "armed again");
    write(&mut lapic, 0x280, 0);
    assert_eq!(read(&mut lapic, 0x280), 0x40);
    for offset in [0x000, 0x040, 0x290, 0x3f0, 0xff0] {
        write(&mut lapic, 0x280, 0);
        read(&mut lapic, offset);
        write(&mut lapic, 0x280, 0);
        assert_eq!(read(&mut lapic, 0x280), 0x80, "register {offset:#x} does not exist");
        write(&mut lapic, offset, 0);
        write(&mut lapic, 0x280, 0);
        assert_eq!(read(&mut lapic, 0x280), 0x80, "register {offset:#x} does not exist");
    }
}

/// 12.12.1.2, table 12-6: which MSRs can be read and written
#[test]
fn x2apic_registers() {
    for msr in 0x800..0x900 {
        let mut lapic = x2apic(0x1_0023);
        let readable = matches!(
            msr, 0x802 | 0x803 | 0x808 | 0x80a | 0x80d | 0x80f..=0x828 | 0x830 | 0x832..=0x839 | 0x83e
        );
        assert_eq!(lapic.msr_read(msr, T0).is_ok(), readable, "read {msr:#x}");
        let writable = matches!(msr, 0x808 | 0x80b | 0x80f | 0x828 | 0x830 | 0x832..=0x838 | 0x83e | 0x83f);
        assert_eq!(lapic.msr_write(msr, 0, T0).is_ok(), writable, "write {msr:#x}");
        assert!(xapic(0).msr_read(msr, T0).is_err() && xapic(0).msr_write(msr, 0, T0).is_err());
    }
    let mut lapic = x2apic(0x1_0023);
    assert_eq!(lapic.msr_read(0x802, T0), Ok(0x1_0023));
    assert_eq!(lapic.msr_read(0x80d, T0), Ok(0x1002_0008), "12.12.10.2: the LDR follows from the ID");
    let mut with_cmci = Lapic::new(LapicConfig { cmci: true, ..config(0) });
    assert_eq!(read(&mut with_cmci, 0x30) >> 16 & 0xff, 6);
    assert_eq!(read(&mut with_cmci, 0x2f0), 0x1_0000);
}

/// 12.12.1.3: reserved bits
#[test]
fn x2apic_reserved_bits() {
    for (msr, allowed) in [
        (0x808, 0xff),
        (0x80b, 0),
        (0x80f, 0x13ff),
        (0x828, 0),
        (0x830, 0xffff_ffff_000c_dfff),
        (0x832, 0x0007_10ff),
        (0x833, 0x0001_17ff),
        (0x834, 0x0001_17ff),
        (0x835, 0x0001_f7ff),
        (0x836, 0x0001_f7ff),
        (0x837, 0x0001_10ff),
        (0x838, 0xffff_ffff),
        (0x83e, 0xb),
        (0x83f, 0xff),
    ] {
        for bit in 0..64 {
            let result = x2apic(0).msr_write(msr, 1 << bit, T0);
            assert_eq!(result.is_ok(), allowed >> bit & 1 != 0u64, "MSR {msr:#x} bit {bit}");
        }
    }
}

/// 12.12.9, 12.12.11: the 64-bit ICR, SELF IPI
#[test]
fn x2apic_interprocessor_interrupts() {
    let mut lapic = x2apic(1);
    let ipi = lapic.msr_write(0x830, 0x0002_0008_0000_4831, T0).unwrap().ipi.unwrap();
    assert_eq!(ipi.destination, Destination::Logical(0x2_0008));
    assert_eq!(lapic.msr_read(0x830, T0), Ok(0x0002_0008_0000_4831));
    assert_eq!(lapic.msr_write(0x83f, 0xf1, T0).unwrap().local, Accepted::Interrupt);
    assert_eq!(lapic.acknowledge(T0), 0xf1);
    lapic.msr_write(0x80b, 0, T0).unwrap();
    assert_eq!(lapic.isr().highest(), None);
    lapic.msr_write(0x83f, 0x0f, T0).unwrap();
    lapic.msr_write(0x828, 0, T0).unwrap();
    assert_eq!(lapic.msr_read(0x828, T0), Ok(0x20));
}

/// 12.5.4: one-shot and periodic mode, divider
#[test]
fn the_timer_counts_down() {
    for (divide, divisor) in [(0xb, 1), (0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xa, 128)] {
        let mut lapic = xapic(0);
        write(&mut lapic, 0x320, 0xee);
        write(&mut lapic, 0x3e0, divide);
        write_at(&mut lapic, 1000, 0x380, 100);
        assert_eq!(lapic.next_timer(VirtualTime(1000)), VirtualTime(1000 + 100 * divisor));
        assert_eq!(read_at(&mut lapic, 1000 + 40 * divisor, 0x390), 60);
        assert!(!lapic.tick(VirtualTime(1000 + 100 * divisor - 1)));
        assert!(lapic.tick(VirtualTime(1000 + 100 * divisor)));
        assert_eq!(lapic.pending_vector(), Some(0xee));
        assert_eq!(read_at(&mut lapic, 1_000_000, 0x390), 0);
        assert_eq!(lapic.next_timer(VirtualTime(1_000_000)), VirtualTime::NEVER);
    }
}

#[test]
fn the_periodic_timer_reloads() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x3e0, 0xb);
    write(&mut lapic, 0x320, 0x2_00ee);
    write(&mut lapic, 0x380, 1000);
    assert!(lapic.tick(VirtualTime(1000)));
    assert_eq!(lapic.next_timer(VirtualTime(1000)), VirtualTime::NEVER, "one more would merge");
    assert_eq!(lapic.acknowledge(VirtualTime(1500)), 0xee);
    write_at(&mut lapic, 1500, 0xb0, 0);
    assert_eq!(lapic.next_timer(VirtualTime(1500)), VirtualTime(2000));
    assert!(lapic.tick(VirtualTime(1_000_000_300)));
    assert_eq!(lapic.acknowledge(VirtualTime(1_000_000_300)), 0xee);
    assert_eq!(read_at(&mut lapic, 1_000_000_300, 0x390), 700);
    assert_eq!(lapic.next_timer(VirtualTime(1_000_000_300)), VirtualTime(1_000_001_000));
    write_at(&mut lapic, 1_000_000_300, 0x320, 0x3_00ee);
    assert_eq!(lapic.next_timer(VirtualTime(1_000_000_300)), VirtualTime::NEVER, "masked");
    write_at(&mut lapic, 1_000_001_500, 0x320, 0x2_00ee);
    assert!(!lapic.tick(VirtualTime(1_000_001_500)), "what expired while masked is gone");
    write_at(&mut lapic, 1_000_001_500, 0x380, 0);
    assert_eq!(lapic.next_timer(VirtualTime(1_000_001_500)), VirtualTime::NEVER, "12.5.4: zero stops");
}

/// 12.5.4: changes on the way
#[test]
fn timer_mode_and_divider_changes_keep_the_count() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x3e0, 0xb);
    write(&mut lapic, 0x320, 0xee);
    write(&mut lapic, 0x380, 1000);
    write_at(&mut lapic, 600, 0x320, 0x2_00ee);
    assert_eq!((read_at(&mut lapic, 700, 0x390), read_at(&mut lapic, 700, 0x380)), (300, 1000));
    assert_eq!(read_at(&mut lapic, 1100, 0x390), 900, "now periodic");
    write_at(&mut lapic, 1100, 0x320, 0xee);
    write_at(&mut lapic, 1100, 0x3e0, 0);
    assert_eq!(read_at(&mut lapic, 1300, 0x390), 800);
    assert_eq!(read_at(&mut lapic, 2900, 0x390), 0);
    write_at(&mut lapic, 3000, 0x320, 0x2_00ee);
    assert_eq!(read_at(&mut lapic, 3100, 0x390), 0, "an expired count stays expired");
}

/// 12.5.4.1
#[test]
fn tsc_deadline_mode() {
    let mut lapic = x2apic(0);
    lapic.set_tsc_clock(TscClock { hz: 2_000_000_000, offset: 1_000_000 });
    lapic.set_tsc_deadline(5_000_000, T0);
    assert_eq!(lapic.tsc_deadline(T0), 0, "ignored in other modes");
    lapic.msr_write(0x832, 0x4_00ef, T0).unwrap();
    lapic.set_tsc_deadline(5_000_001, T0);
    assert_eq!(lapic.tsc_deadline(T0), 5_000_001);
    assert_eq!(lapic.next_timer(T0), VirtualTime(2_000_001));
    lapic.msr_write(0x838, 77, T0).unwrap();
    assert_eq!(
        (lapic.msr_read(0x838, T0), lapic.msr_read(0x839, T0)),
        (Ok(0), Ok(0)),
        "the count is ignored"
    );
    lapic.set_tsc_clock(TscClock { hz: 2_000_000_000, offset: 3_000_000 });
    assert_eq!(lapic.next_timer(T0), VirtualTime(1_000_001), "the TSC was written");
    assert!(!lapic.tick(VirtualTime(1_000_000)));
    assert!(lapic.tick(VirtualTime(1_000_001)));
    assert_eq!(lapic.tsc_deadline(VirtualTime(1_000_001)), 0, "cleared by the expiry");
    lapic.acknowledge(VirtualTime(1_000_001));
    lapic.msr_write(0x80b, 0, VirtualTime(1_000_001)).unwrap();
    lapic.set_tsc_deadline(1, VirtualTime(1_000_002));
    assert_eq!(lapic.pending_vector(), Some(0xef), "a moment in the past fires at once");
    lapic.set_tsc_deadline(u64::MAX, VirtualTime(1_000_003));
    lapic.msr_write(0x832, 0xef, VirtualTime(1_000_004)).unwrap();
    lapic.msr_write(0x832, 0x4_00ef, VirtualTime(1_000_005)).unwrap();
    assert_eq!(lapic.tsc_deadline(VirtualTime(1_000_006)), 0, "a change of mode disarms");
    let mut plain = Lapic::new(LapicConfig { tsc_deadline: false, ..config(0) });
    write(&mut plain, 0x320, 0x7_00ef);
    assert_eq!(read(&mut plain, 0x320), 0x3_00ef, "bit 18 is reserved without it");
}

/// 12.5.1: the local vector table
#[test]
fn local_interrupts() {
    let mut lapic = xapic(0);
    for (offset, source) in [(0x330, LocalSource::Thermal), (0x340, LocalSource::Performance)] {
        for (entry, expected) in [
            (0x0_0040, Accepted::Interrupt),
            (0x1_0040, Accepted::No),
            (0x0_0200, Accepted::Smi),
            (0x0_0400, Accepted::Nmi),
            (0x0_0500, Accepted::No),
            (0x0_0700, Accepted::No),
        ] {
            write(&mut lapic, offset, entry);
            assert_eq!(lapic.trigger(source), expected, "{source:?} {entry:#x}");
        }
    }
    write(&mut lapic, 0x340, 0x400);
    lapic.trigger(LocalSource::Performance);
    assert_eq!(read(&mut lapic, 0x340), 0x1_0400, "a performance interrupt masks itself");
    write(&mut lapic, 0x360, 0x400);
    assert_eq!(lapic.set_lint(true, true), Accepted::Nmi);
    assert_eq!(lapic.set_lint(true, true), Accepted::No);
    write(&mut lapic, 0xf0, 0xff);
    assert_eq!(read(&mut lapic, 0x360), 0x1_0400, "12.4.7.2: software disable masks all");
}

#[test]
fn level_triggered_lint_pins() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x350, 0x8050);
    assert_eq!(lapic.set_lint(false, true), Accepted::Interrupt);
    assert_eq!(read(&mut lapic, 0x350), 0xc050, "remote IRR");
    assert_eq!(lapic.acknowledge(T0), 0x50);
    write(&mut lapic, 0xb0, 0);
    assert_eq!(lapic.acknowledge(T0), 0x50, "the pin is still active");
    lapic.set_lint(false, false);
    write(&mut lapic, 0xb0, 0);
    assert_eq!(read(&mut lapic, 0x350), 0x8050);
    assert_eq!(lapic.pending_vector(), None);
    write(&mut lapic, 0x350, 0x1_8050);
    lapic.set_lint(false, true);
    assert_eq!(lapic.pending_vector(), None);
    write(&mut lapic, 0x350, 0x8050);
    assert_eq!(lapic.pending_vector(), Some(0x50), "unmasking an active level");
}

/// MP specification 3.6.2.2, virtual wire mode
#[test]
fn virtual_wire_mode() {
    for (id, expected) in [(0, true), (1, false)] {
        let mut lapic = Lapic::new(config(id));
        assert!(!lapic.ext_int_enabled());
        lapic.set_virtual_wire_mode();
        assert_eq!(lapic.ext_int_enabled(), expected, "CPU {id}");
        assert_eq!(lapic.set_lint(false, true), Accepted::No, "ExtINT: the line itself is the request");
    }
}

/// 12.4.7.3
#[test]
fn init_keeps_the_id_and_the_mode() {
    let mut lapic = xapic(4);
    write(&mut lapic, 0x20, 9 << 24);
    lapic.accept(&fixed(0x40));
    lapic.init();
    assert_eq!(
        (read(&mut lapic, 0x20), read(&mut lapic, 0xf0), lapic.irr().highest()),
        (9 << 24, 0xff, None)
    );
    let mut lapic = x2apic(4);
    lapic.init();
    assert_eq!(lapic.mode(), ApicMode::X2Apic);
    lapic.reset();
    assert_eq!(lapic.mode(), ApicMode::XApic);
}

/// Whatever a guest writes: no panic, time goes forward, and two APICs that see the same are the same.
#[test]
fn random_accesses_are_harmless_and_deterministic() {
    for seed in 1..400u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut lapics = [xapic(seed as u32 & 0x3f), xapic(seed as u32 & 0x3f)];
        let mut now = VirtualTime(0);
        for _ in 0..300 {
            let (kind, place, bits) = (next() % 12, next(), next());
            // Values with few bits set, values of 32 bits, any.
            let value = [1 << (bits & 63), bits >> 32, bits, bits & 0xff][(place >> 60) as usize & 3];
            now = if kind == 11 { lapics[0].next_timer(now).min(now + 1_000_000) } else { now + bits % 3000 };
            for lapic in &mut lapics {
                match kind {
                    0..4 => {
                        lapic.mmio_write(place & 0xff0, &(value as u32).to_le_bytes(), now);
                    }
                    4 => {
                        lapic.mmio_write(place & 0xfff, &[7; 64][..(value & 63) as usize], now);
                    }
                    5 => {
                        lapic.mmio_read(place & 0xfff, &mut [0; 64][..(value & 63) as usize], now);
                    }
                    6 => {
                        let _ = lapic.msr_write(0x800 + (place as u32 & 0x3f), value, now);
                    }
                    7 => {
                        let _ = lapic.set_base(APIC_BASE_DEFAULT | value & 0xf00, now);
                    }
                    8 => lapic.set_tsc_deadline(value, now),
                    9 => {
                        lapic.accept(&message(Destination::All, Delivery::Fixed, value as u8));
                        lapic.set_lint(place & 1 != 0, value & 1 != 0);
                    }
                    10 => {
                        lapic.acknowledge(now);
                    }
                    _ => {}
                }
                lapic.tick(now);
                assert!(lapic.next_timer(now) > now, "seed {seed}");
                if let Some(vector) = lapic.pending_vector() {
                    assert!(vector >= 16 && vector & 0xf0 > lapic.ppr() & 0xf0, "seed {seed}");
                }
            }
            assert_eq!(lapics[0], lapics[1], "seed {seed}");
        }
    }
}
