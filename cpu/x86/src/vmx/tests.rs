//! Entries and exits of a small guest.

use super::controls::bits::*;
use super::entry::sound_vmcs;
use super::vmcs::{Field, REVISION};
use crate::Cpu;
use crate::control::{cr0, cr4, efer};
use crate::interp::{Interpreter, NoObserver};
use crate::state::gpr;
use crate::testing::{cpu, long_mode, run};
use crate::virt::Level;
use ringworld_core::GuestPhys;

const VMXON: u64 = 0x1000;
const VMCS: u64 = 0x2000;
/// Identity-mapped page tables, with 2-MiB pages.
pub(super) const TABLES: u64 = 0x8000;
const HOST_RIP: u64 = 0x4000;
pub(super) const GUEST_RIP: u64 = 0x6000;

fn poke(cpu: &Cpu, at: u64, value: u64) {
    cpu.memory.write_u64(GuestPhys(at), value).unwrap();
}

/// A processor in VMX operation whose current VMCS is sound, for a guest with the host's page tables.
pub(super) fn host() -> Cpu {
    let mut cpu = cpu("max");
    long_mode(&mut cpu);
    poke(&cpu, TABLES, TABLES + 0x1003);
    poke(&cpu, TABLES + 0x1000, TABLES + 0x2003);
    poke(&cpu, TABLES + 0x2000, 0x83);
    cpu.cr3 = TABLES;
    cpu.cr0 = cr0::PE | cr0::NE | cr0::PG | cr0::ET;
    cpu.cr4 |= cr4::VMXE | cr4::PAE;
    cpu.efer = efer::LME | efer::LMA;
    cpu.update_mode();
    cpu.flush_all();
    cpu.msrs.feature_control = 5;
    for region in [VMXON, VMCS] {
        cpu.memory.write_u32(GuestPhys(region), REVISION).unwrap();
    }
    poke(&cpu, 0x100, VMXON);
    poke(&cpu, 0x108, VMCS);
    cpu.regs[gpr::RBX] = 0x100;
    cpu.regs[gpr::RDX] = 0x1234;
    // VMXON [RBX]; VMCLEAR [RBX+8]; VMPTRLD [RBX+8]
    for bytes in [&[0xf3, 0x0f, 0xc7, 0x33][..], &[0x66, 0x0f, 0xc7, 0x73, 8], &[0x0f, 0xc7, 0x73, 8]] {
        assert_eq!(run(&mut cpu, bytes), Ok(()));
        assert!(!cpu.flags.cf() && !cpu.flags.zf());
    }
    let mut vmcs = sound_vmcs(cpu.model.vmx());
    vmcs.set(Field::HostCr3, TABLES);
    vmcs.set(Field::GuestCr3, TABLES);
    vmcs.set(Field::HostRip, HOST_RIP);
    vmcs.set(Field::GuestRip, GUEST_RIP);
    cpu.virt.vmx.vmcs = vmcs;
    cpu
}

pub(super) fn get(cpu: &Cpu, field: Field) -> u64 {
    cpu.virt.vmx.vmcs.get(field)
}

/// Runs the guest until it is left, for at most `most` instructions.
fn guest(cpu: &mut Cpu, code: &[u8], most: u64) {
    cpu.memory.write(GuestPhys(GUEST_RIP), code).unwrap();
    assert_eq!(run(cpu, &[0x0f, 0x01, 0xc2]), Ok(()));
    let mut interpreter = Interpreter::default();
    for _ in 0..most {
        if cpu.virt.level == Level::Host {
            return;
        }
        let limit = cpu.icount + 1;
        interpreter.run(cpu, limit, &mut NoObserver);
    }
}

#[test]
fn instructions_exit_with_their_information() {
    // SDM 3C table 28-1, 28-13, 28-14.
    for (code, primary, reason, qualification, length) in [
        (&[0x0f, 0xa2][..], 0, 10, 0, 2),
        (&[0xf4], HLT_EXITING, 12, 0, 1),
        (&[0x0f, 0x01, 0xc1], 0, 18, 0, 3),
        // OUT 0x80, AL; IN EAX, DX
        (&[0xe6, 0x80], UNCONDITIONAL_IO, 30, 0x80_0040, 2),
        (&[0xed], UNCONDITIONAL_IO, 30, 0x1234_000b, 1),
        // MOV CR3, RCX; MOV RDX, CR3
        (&[0x0f, 0x22, 0xd9], CR3_LOAD_EXITING, 28, 0x103, 3),
        (&[0x0f, 0x20, 0xda], CR3_STORE_EXITING, 28, 0x213, 3),
        // MOV DR7, RAX
        (&[0x0f, 0x23, 0xf8], MOV_DR_EXITING, 29, 7, 3),
        (&[0x0f, 0x32], 0, 31, 0, 2),
        // INVLPG [RBX]
        (&[0x0f, 0x01, 0x3b], INVLPG_EXITING, 14, 0x100, 3),
    ] {
        let mut cpu = host();
        let controls = get(&cpu, Field::PrimaryControls) | u64::from(primary);
        cpu.virt.vmx.vmcs.set(Field::PrimaryControls, controls);
        guest(&mut cpu, code, 4);
        let found = (
            get(&cpu, Field::ExitReason),
            get(&cpu, Field::ExitQualification),
            get(&cpu, Field::ExitInstructionLength),
            get(&cpu, Field::GuestRip),
        );
        assert_eq!(found, (reason, qualification, length, GUEST_RIP), "{code:x?}");
        assert_eq!((cpu.rip(), cpu.virt.level), (HOST_RIP, Level::Host));
    }
}

/// The instruction that exits has not retired.
#[test]
fn an_exit_is_not_counted() {
    for nops in [0, 1, 5] {
        let mut cpu = host();
        // Instructions retired, at all privileges.
        cpu.write_msr(0x186, 0x43_00c0).expect("PERFEVTSEL0");
        cpu.write_msr(0x38f, 1).expect("PERF_GLOBAL_CTRL");
        let before = cpu.icount;
        // NOPs, and CPUID.
        let code = [&[0x90_u8; 5][..nops], &[0x0f, 0xa2]].concat();
        guest(&mut cpu, &code, 8);
        assert_eq!((cpu.virt.level, cpu.icount - before), (Level::Host, nops as u64 + 1));
        // What reads the counter counts as running.
        cpu.icount += 1;
        assert_eq!(cpu.read_msr(0xc1).expect("PMC0"), nops as u64);
    }
}

/// SDM 3C 26.1.3: "MOV-DR exiting" comes before #UD for DR4 with CR4.DE.
#[test]
fn mov_dr_exits_before_its_faults() {
    for (exiting, reason) in [(MOV_DR_EXITING, 29), (0, 0)] {
        let mut cpu = host();
        let controls = get(&cpu, Field::PrimaryControls) | u64::from(exiting);
        cpu.virt.vmx.vmcs.set(Field::PrimaryControls, controls);
        cpu.virt.vmx.vmcs.set(Field::GuestCr4, get(&cpu, Field::GuestCr4) | cr4::DE);
        cpu.virt.vmx.vmcs.set(Field::ExceptionBitmap, 1 << 6);
        // MOV DR4, RAX
        guest(&mut cpu, &[0x0f, 0x23, 0xe0], 4);
        assert_eq!(get(&cpu, Field::ExitReason), reason);
    }
}

/// SDM 3C 26.2: the window opens with RFLAGS.IF, however many instructions later, on either engine's terms: nothing but the
/// flag is looked at.
#[test]
fn an_interrupt_window_opens_with_the_flag() {
    let mut cpu = host();
    let controls = get(&cpu, Field::PrimaryControls) | u64::from(INTERRUPT_WINDOW);
    cpu.virt.vmx.vmcs.set(Field::PrimaryControls, controls);
    // NOP; NOP; STI; NOP; NOP
    guest(&mut cpu, &[0x90, 0x90, 0xfb, 0x90, 0x90], 1);
    assert!(!cpu.vmx_steps() && cpu.virt.level == Level::Vmx);
    let mut interpreter = Interpreter::default();
    let limit = cpu.icount + 10;
    interpreter.run(&mut cpu, limit, &mut NoObserver);
    // One instruction is in STI's shadow.
    assert_eq!((get(&cpu, Field::ExitReason), get(&cpu, Field::GuestRip)), (7, GUEST_RIP + 4));
}

#[test]
fn exceptions_exit_by_the_bitmap() {
    let mut cpu = host();
    cpu.virt.vmx.vmcs.set(Field::ExceptionBitmap, 1 << 14);
    // MOV AL, [0x40000000]: not mapped.
    guest(&mut cpu, &[0xa0, 0, 0, 0, 0x40, 0, 0, 0, 0], 4);
    assert_eq!(get(&cpu, Field::ExitReason), 0);
    assert_eq!(get(&cpu, Field::ExitInterruptionInfo), 0x8000_0b0e);
    assert_eq!(get(&cpu, Field::ExitInterruptionErrorCode), 0);
    assert_eq!((get(&cpu, Field::ExitQualification), cpu.cr2), (0x4000_0000, 0));
    // Without an IDT, an exception that is not intercepted is a triple fault.
    let mut cpu = host();
    guest(&mut cpu, &[0x0f, 0x0b], 4);
    assert_eq!(get(&cpu, Field::ExitReason), 2);
}

#[test]
fn an_injected_event_that_cannot_be_delivered_is_reported() {
    // SDM 3C 28.2.4: the #GP that the missing IDT causes exits, with the injected interrupt as IDT-vectoring information.
    let mut cpu = host();
    cpu.virt.vmx.vmcs.set(Field::ExceptionBitmap, 1 << 13);
    cpu.virt.vmx.vmcs.set(Field::EntryInterruptionInfo, 1 << 31 | 0x40);
    cpu.virt.vmx.vmcs.set(Field::GuestRflags, 0x202);
    guest(&mut cpu, &[0x90], 4);
    assert_eq!(get(&cpu, Field::ExitInterruptionInfo), 0x8000_0b0d);
    assert_eq!(get(&cpu, Field::ExitInterruptionErrorCode), 0x40 * 8 + 3);
    assert_eq!(get(&cpu, Field::IdtVectoringInfo), 0x8000_0040);
    assert_eq!(get(&cpu, Field::EntryInterruptionInfo) >> 31, 0);
}

#[test]
fn failures_have_their_numbers() {
    let launch = |cpu: &mut Cpu| run(cpu, &[0x0f, 0x01, 0xc2]);
    let mut cpu = host();
    cpu.virt.vmx.vmcs.set(Field::PinBasedControls, 0);
    assert_eq!(launch(&mut cpu), Ok(()));
    assert!(cpu.flags.zf() && !cpu.flags.cf());
    assert_eq!(
        (get(&cpu, Field::VmInstructionError), cpu.counters.vmx_failed),
        (7, Some("pin-based-reserved"))
    );
    let mut cpu = host();
    cpu.virt.vmx.vmcs.set(Field::HostCr0, 0);
    assert_eq!((launch(&mut cpu), get(&cpu, Field::VmInstructionError)), (Ok(()), 8));
    // Guest state: an exit.
    let mut cpu = host();
    cpu.virt.vmx.vmcs.set(Field::GuestRflags, 0);
    assert_eq!((launch(&mut cpu), get(&cpu, Field::ExitReason)), (Ok(()), 0x8000_0021));
    assert_eq!(cpu.rip(), HOST_RIP);
    // VMRESUME of what was not launched; VMXON in VMX operation; VMCALL in root operation.
    let mut cpu = host();
    for (bytes, error) in
        [(&[0x0f, 0x01, 0xc3][..], 5), (&[0xf3, 0x0f, 0xc7, 0x33], 15), (&[0x0f, 0x01, 0xc1], 1)]
    {
        cpu.regs[gpr::RBX] = 0x100;
        assert_eq!((run(&mut cpu, bytes), get(&cpu, Field::VmInstructionError)), (Ok(()), error));
    }
}

#[test]
fn the_monitor_trap_flag_and_the_timer_end_the_guest() {
    let mut cpu = host();
    let controls = get(&cpu, Field::PrimaryControls) | u64::from(MONITOR_TRAP_FLAG);
    cpu.virt.vmx.vmcs.set(Field::PrimaryControls, controls);
    guest(&mut cpu, &[0x90, 0x90, 0x90], 8);
    assert_eq!((get(&cpu, Field::ExitReason), get(&cpu, Field::GuestRip)), (37, GUEST_RIP + 1));
    let mut cpu = host();
    let controls = get(&cpu, Field::PinBasedControls) | u64::from(PREEMPTION_TIMER);
    cpu.virt.vmx.vmcs.set(Field::PinBasedControls, controls);
    cpu.virt.vmx.vmcs.set(Field::PreemptionTimerValue, 5);
    // JMP to itself.
    guest(&mut cpu, &[0xeb, 0xfe], 50);
    assert_eq!((get(&cpu, Field::ExitReason), get(&cpu, Field::GuestRip)), (52, GUEST_RIP));
}

#[test]
fn a_guest_survives_a_snapshot() {
    let mut cpu = host();
    guest(&mut cpu, &[0xeb, 0xfe], 3);
    assert_eq!(cpu.virt.level, Level::Vmx);
    let mut other = crate::testing::cpu("max");
    other.set_state(&cpu.state());
    assert_eq!((other.state() == cpu.state(), other.virt.level), (true, Level::Vmx));
    assert!(other.mode.guest());
}

/// What extended page tables have said is kept until INVEPT (SDM 3C 30.4.3.1), or until a violation (SDM 3C 29.4.3.1).
#[test]
fn invept_and_violations_forget_mappings() {
    const ROOT: u64 = 0x4_0000;
    const PAGE: u64 = 0x5_0000;
    const OTHER: u64 = 0x5_1000;
    let mut cpu = host();
    for (at, value) in [(0, ROOT + 0x1007), (0x1000, ROOT + 0x2007), (0x2000, ROOT + 0x3007)] {
        poke(&cpu, ROOT + at, value);
    }
    // Write-back, all rights.
    let map = |cpu: &Cpu, page: u64, to: u64, rights: u64| {
        poke(cpu, ROOT + 0x3000 + (page >> 9), to | 0x30 | rights)
    };
    (0..512).for_each(|n| map(&cpu, n << 12, n << 12, 7));
    poke(&cpu, PAGE, 1);
    poke(&cpu, OTHER, 2);
    for (field, value) in [
        (Field::PrimaryControls, get(&cpu, Field::PrimaryControls) | u64::from(SECONDARY)),
        (Field::SecondaryControls, u64::from(EPT | VPID)),
        (Field::VirtualProcessorId, 1),
        (Field::EptPointer, ROOT | 0x1e),
    ] {
        cpu.virt.vmx.vmcs.set(field, value);
    }
    // MOV RAX, [RBX]; MOV [RBX], RCX; VMCALL
    const CODE: &[u8] = &[0x48, 0x8b, 0x03, 0x48, 0x89, 0x0b, 0x0f, 0x01, 0xc1];
    let enter = |cpu: &mut Cpu| {
        cpu.virt.vmx.vmcs.launched = false;
        cpu.virt.vmx.vmcs.set(Field::GuestRip, GUEST_RIP);
        (cpu.regs[gpr::RBX], cpu.regs[gpr::RCX]) = (PAGE, 3);
        guest(cpu, CODE, 8);
        (get(cpu, Field::ExitReason), cpu.regs[gpr::RAX])
    };
    let invept = |cpu: &mut Cpu| {
        poke(cpu, 0x110, ROOT | 0x1e);
        poke(cpu, 0x118, 0);
        (cpu.regs[gpr::RBX], cpu.regs[gpr::RAX]) = (0x110, 1);
        // INVEPT RAX, [RBX]
        assert_eq!(run(cpu, &[0x66, 0x0f, 0x38, 0x80, 0x03]), Ok(()));
        assert!(!cpu.flags.cf() && !cpu.flags.zf());
    };
    assert_eq!(enter(&mut cpu), (18, 1));
    map(&cpu, PAGE, OTHER, 7);
    invept(&mut cpu);
    assert_eq!(enter(&mut cpu), (18, 2));
    // The page can be read, and is known; a write is a violation. What the page becomes then needs no INVEPT.
    map(&cpu, PAGE, OTHER, 1);
    invept(&mut cpu);
    assert_eq!(enter(&mut cpu), (48, 3));
    poke(&cpu, PAGE, 4);
    map(&cpu, PAGE, PAGE, 7);
    assert_eq!(enter(&mut cpu), (18, 4));
    assert_eq!(cpu.memory.read_u64(GuestPhys(PAGE)), Ok(3));
}
