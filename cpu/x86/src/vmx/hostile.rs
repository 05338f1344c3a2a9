//! Random VMCSs near validity, with random extended page tables and structures at the edge of memory: whatever a hypervisor and
//! its guest write there must not harm the emulator. `RINGWORLD_STATES=100000 cargo test --release hostile` is the campaign.

use super::controls::{Group, bits::*};
use super::tests::{GUEST_RIP, TABLES, get, host};
use super::vmcs::{FIELDS, Field};
use crate::Cpu;
use crate::interp::{Interpreter, NoObserver};
use crate::testing::{Random, run, states};
use crate::virt::Level;
use ringworld_core::GuestPhys;

/// Eight pages of extended page tables, the first three of which map all memory.
const EPT: u64 = 0x10_000;
const EPT_TABLES: [u64; 8] = {
    let mut tables = [EPT; 8];
    let mut n = 0;
    while n < 8 {
        tables[n] += 0x1000 * n as u64;
        n += 1;
    }
    tables
};
/// Fields that hold the address of a structure.
const ADDRESSES: &[Field] = &[
    Field::IoBitmapA,
    Field::IoBitmapB,
    Field::MsrBitmap,
    Field::VirtualApicAddress,
    Field::ApicAccessAddress,
    Field::PmlAddress,
    Field::PostedInterruptDescriptor,
    Field::EptpListAddress,
    Field::VmreadBitmap,
    Field::VmwriteBitmap,
    Field::VirtualizationExceptionAddress,
    Field::VmcsLinkPointer,
    Field::ExitMsrStoreAddress,
    Field::ExitMsrLoadAddress,
    Field::EntryMsrLoadAddress,
];

fn set(cpu: &mut Cpu, field: Field, value: u64) {
    cpu.virt.vmx.vmcs.set(field, value);
}

/// Random controls of those that the processor allows.
fn controls(cpu: &mut Cpu, random: &mut Random) {
    for (group, field, of_use) in [
        (Group::Pin, Field::PinBasedControls, u32::MAX),
        (Group::Primary, Field::PrimaryControls, u32::MAX),
        (Group::Secondary, Field::SecondaryControls, u32::MAX),
    ] {
        let allowed = cpu.model.vmx().allowed(group) & of_use;
        let few = random.bits() & random.bits();
        let value = get(cpu, field) | u64::from(allowed) & few;
        set(cpu, field, value);
    }
    if !random.once_in(4) {
        let primary = get(cpu, Field::PrimaryControls) | u64::from(SECONDARY);
        set(cpu, Field::PrimaryControls, primary);
        let secondary = get(cpu, Field::SecondaryControls) | u64::from(super::controls::bits::EPT);
        set(cpu, Field::SecondaryControls, secondary);
    }
    set(cpu, Field::VirtualProcessorId, random.below(3));
    set(cpu, Field::EptPointer, EPT | 3 << 3 | 6 | random.below(2) << 6);
    set(cpu, Field::PmlIndex, random.below(600));
    set(cpu, Field::VmFunctionControls, random.below(2));
    set(cpu, Field::TscMultiplier, random.bits() >> random.below(64));
    for &field in ADDRESSES {
        let link = field == Field::VmcsLinkPointer;
        if !link || random.once_in(8) {
            let address = random.address();
            set(cpu, field, address);
        }
    }
}

fn entries(cpu: &Cpu, random: &mut Random) {
    let poke = |at: u64, value: u64| cpu.memory.write_u64(GuestPhys(at), value).unwrap();
    poke(EPT, EPT + 0x1000 | 7);
    poke(EPT + 0x1000, EPT + 0x2000 | 7);
    poke(EPT + 0x2000, 0xb7);
    if random.once_in(2) {
        // 4-KiB pages, which leave room for harm.
        poke(EPT + 0x2000, EPT + 0x3000 | 7);
        for n in 0..512 {
            poke(EPT + 0x3000 + 8 * n, n << 12 | 0x37);
        }
    }
    for _ in 0..random.below(6) {
        let table = random.of(&EPT_TABLES);
        let slot = if random.once_in(2) { random.below(4) } else { random.below(512) };
        poke(table + 8 * slot, random.table_entry(&EPT_TABLES));
    }
    if random.once_in(4) {
        let guest: Vec<u64> = (0..3).map(|n| TABLES + 0x1000 * n).collect();
        poke(random.of(&guest) + 8 * random.below(4), random.table_entry(&guest));
    }
}

fn mutate(cpu: &mut Cpu, random: &mut Random, most: u64) {
    for _ in 0..random.below(most) {
        let info = &FIELDS[random.below(FIELDS.len() as u64) as usize];
        let old = get(cpu, info.field);
        let new = match random.below(5) {
            0 => random.bits(),
            1 => random.below(0x20_0000),
            2 => random.address(),
            _ => old ^ 1 << random.below(64),
        };
        set(cpu, info.field, new);
    }
}

/// Runs at most `most` instructions, or until the guest is left and a little longer.
fn go(cpu: &mut Cpu, interpreter: &mut Interpreter, most: u64) {
    for _ in 0..most {
        let limit = cpu.icount + 1;
        interpreter.run(cpu, limit, &mut NoObserver);
        if cpu.virt.level == Level::Host {
            break;
        }
    }
    let limit = cpu.icount + 3;
    interpreter.run(cpu, limit, &mut NoObserver);
}

#[test]
fn random_states_near_validity_do_no_harm() {
    let count = states(400);
    let (mut entered, mut exits) = (0, 0);
    for seed in 0..count {
        let mut random = Random(seed);
        let mut cpu = host();
        let code = random.code();
        cpu.memory.write(GuestPhys(GUEST_RIP), &code).unwrap();
        if !random.once_in(4) {
            controls(&mut cpu, &mut random);
        }
        entries(&cpu, &mut random);
        mutate(&mut cpu, &mut random, 4);
        let mut interpreter = Interpreter::default();
        // VMLAUNCH, then VMRESUME with changes. A broken host may get an exception for it.
        let _ = run(&mut cpu, &[0x0f, 0x01, 0xc2]);
        for _ in 0..3 {
            go(&mut cpu, &mut interpreter, 60);
            if cpu.virt.level == Level::Host && cpu.virt.vmx.vmcs.launched {
                let next = get(&cpu, Field::GuestRip).wrapping_add(get(&cpu, Field::ExitInstructionLength));
                set(&mut cpu, Field::GuestRip, next);
                mutate(&mut cpu, &mut random, 2);
                // Checks that are not made again would find nothing.
                let view = cpu.vmx_view();
                let first = view.violations().first().map(|check| check.name);
                assert_eq!(view.first_violation().map(|check| check.name), first);
                let _ = run(&mut cpu, &[0x0f, 0x01, 0xc3]);
            }
        }
        entered += u64::from(cpu.virt.vmx.vmcs.launched);
        exits += cpu.counters.vmx_exits.iter().sum::<u64>();
    }
    assert!(entered > count / 20 && exits > count / 10, "{entered} entered, {exits} exits");
}
