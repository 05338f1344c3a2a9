//! A host with an identity-mapped page of 2 MiB, and guests of a few instructions.

use super::checks::{CHECKS, Entry, failing};
use super::vmcb::{ControlArea, SAVE_AREA, SaveArea, VmcbSegment, nested, v_intr, virtualization};
use super::{ASIDS, ExitCode};
use crate::Cpu;
use crate::control::{cr0, cr4, efer};
use crate::fault::vector;
use crate::flags::bits;
use crate::interp::{Interpreter, NoObserver};
use crate::snapshot::CpuState;
use crate::state::gpr::*;
use crate::state::{Activity, boundary};
use crate::testing;
use crate::virt::Level;
use core::hash::Hash;
use ringworld_core::{GuestPhys, StateHasher};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const PML4: u64 = 0x1000;
pub(super) const NPT: u64 = 0x4000;
const IDT: u64 = 0xc000;
pub(super) const CODE: u64 = 0x8000;
const HANDLER: u64 = 0x9000;
pub(super) const VMCB: u64 = 0x1_0000;
pub(super) const IOPM: u64 = 0x2_0000;
pub(super) const MSRPM: u64 = 0x2_4000;
const BACKING: u64 = 0x2_8000;
const PHYSICAL_IDS: u64 = 0x2_9000;
const LOGICAL_IDS: u64 = 0x2_a000;
const STACK: u64 = 0x3_0000;
const HOST_RIP: u64 = 0xb000;

/// VMRUN; HLT.
const HOST_CODE: [u8; 4] = [0x0f, 0x01, 0xd8, 0xf4];
const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
const HLT: [u8; 1] = [0xf4];

pub(super) struct Setup {
    pub(super) cpu: Cpu,
    interpreter: Interpreter,
    pub(super) control: ControlArea,
    pub(super) save: SaveArea,
}

fn put(cpu: &Cpu, at: u64, bytes: &[u8]) {
    cpu.memory.write(GuestPhys(at), bytes).unwrap();
}

fn put_u64(cpu: &Cpu, at: u64, value: u64) {
    put(cpu, at, &value.to_le_bytes());
}

/// Four levels at `root`, the next two pages and so on, with one page of 2 MiB.
fn tables(cpu: &Cpu, root: u64) {
    put_u64(cpu, root, root + 0x1000 + 7);
    put_u64(cpu, root + 0x1000, root + 0x2000 + 7);
    put_u64(cpu, root + 0x2000, 0x87);
}

impl Setup {
    /// A host in 64-bit mode, and a VMCB for a guest like it at [`CODE`].
    pub(super) fn new(code: &[u8]) -> Self {
        let mut cpu = testing::cpu("EPYC");
        tables(&cpu, PML4);
        tables(&cpu, NPT);
        put(&cpu, CODE, code);
        // The host halts after VMRUN.
        put(&cpu, HOST_RIP, &HOST_CODE);
        for vector in 0..256_u64 {
            // 64-bit interrupt gates to HLT.
            let gate = (HANDLER + vector) & 0xffff | 8 << 16 | 0x8e00 << 32;
            put_u64(&cpu, IDT + 16 * vector, gate);
            put(&cpu, HANDLER + vector, &HLT);
        }
        testing::long_mode(&mut cpu);
        cpu.cr3 = PML4;
        cpu.cr4 |= cr4::PAE;
        cpu.cr0 |= cr0::PG;
        cpu.efer |= efer::SVME | efer::NXE;
        cpu.set_rip(HOST_RIP);
        cpu.regs[RAX] = VMCB;
        cpu.regs[RSP] = STACK;
        cpu.flush_all();
        cpu.update_mode();
        // GDT: a code segment with selector 8.
        put_u64(&cpu, 0xa008, 0x00af_9b00_0000_ffff);

        let mut control = ControlArea::new_zeroed();
        control.intercepts[4] = 0b11;
        control.asid = 1;
        let mut save = SaveArea::new_zeroed();
        let segment = |selector, attributes| VmcbSegment { selector, attributes, limit: u32::MAX, base: 0 };
        save.cs = segment(8, 0xa9b);
        save.ss = segment(0x10, 0xc93);
        save.ds = segment(0x10, 0xc93);
        save.es = segment(0x10, 0xc93);
        save.gdtr = VmcbSegment { selector: 0, attributes: 0, limit: 0xffff, base: 0xa000 };
        save.idtr = VmcbSegment { selector: 0, attributes: 0, limit: 0xffff, base: IDT };
        save.efer = cpu.efer;
        save.cr0 = cpu.cr0;
        save.cr3 = cpu.cr3;
        save.cr4 = cpu.cr4;
        save.dr6 = 0xffff_0ff0;
        save.dr7 = 0x400;
        save.rflags = 2;
        save.rip = CODE;
        save.rsp = STACK - 0x800;
        save.rax = 0x1234;
        save.g_pat = 0x0007_0406_0007_0406;
        Self { cpu, interpreter: Interpreter::default(), control, save }
    }

    pub(super) fn intercept(&mut self, code: ExitCode) {
        self.control.intercepts[(code.0 >> 5) as usize] |= 1 << (code.0 & 31);
    }

    pub(super) fn nested(&mut self) {
        self.control.nested = nested::NP_ENABLE;
        self.control.nested_cr3 = NPT;
    }

    pub(super) fn avic(&mut self) {
        self.nested();
        self.control.v_intr |= v_intr::AVIC_ENABLE | v_intr::INTR_MASKING;
        self.control.avic_apic_bar = 0x1f_f000;
        self.control.avic_backing_page = BACKING;
        self.control.avic_physical_table = PHYSICAL_IDS | 3;
        self.control.avic_logical_table = LOGICAL_IDS;
    }

    /// Writes the VMCB and runs VMRUN and what follows until the host halts (or the guest does without an intercept).
    pub(super) fn run(&mut self) -> ControlArea {
        put(&self.cpu, VMCB, self.control.as_bytes());
        put(&self.cpu, VMCB + SAVE_AREA, self.save.as_bytes());
        self.cpu.activity = Activity::Active;
        self.cpu.boundary &= !boundary::INACTIVE;
        self.cpu.set_rip(HOST_RIP);
        self.cpu.regs[RAX] = VMCB;
        self.go();
        let mut control = ControlArea::new_zeroed();
        self.cpu.memory.read(GuestPhys(VMCB), control.as_mut_bytes()).unwrap();
        self.cpu.memory.read(GuestPhys(VMCB + SAVE_AREA), self.save.as_mut_bytes()).unwrap();
        control
    }

    fn go(&mut self) {
        for _ in 0..8 {
            let limit = self.cpu.icount + 200;
            self.interpreter.run(&mut self.cpu, limit, &mut NoObserver);
        }
    }
}

#[test]
fn a_guest_runs_and_exits() {
    // APM 2 15.5, 15.6: MOV RBX, RAX; VMMCALL.
    for with_npt in [false, true] {
        let mut setup = Setup::new(&[0x48, 0x89, 0xc3, 0x0f, 0x01, 0xd9]);
        if with_npt {
            setup.nested();
        }
        let exit = setup.run();
        assert_eq!(ExitCode(exit.exit_code), ExitCode::VMMCALL);
        assert_eq!((setup.save.rip, exit.next_rip, setup.save.rax), (CODE + 3, CODE + 6, 0x1234));
        let cpu = &setup.cpu;
        assert_eq!((cpu.regs[RBX], cpu.regs[RAX], cpu.rip()), (0x1234, VMCB, HOST_RIP + 4));
        assert_eq!((cpu.virt.level, cpu.virt.gif, cpu.activity), (Level::Host, false, Activity::Halted));
    }
}

#[test]
fn a_guest_with_pae_paging_uses_the_entries_that_vmrun_loads() {
    // APM 2 15.25.10: VMRUN loads the PDPTEs from CR3; without nested paging the guest walks through them at once.
    let mut setup = Setup::new(&VMMCALL);
    put_u64(&setup.cpu, 0x5_0000, 0x5_1000 + 1);
    put_u64(&setup.cpu, 0x5_1000, 0x83);
    setup.save.cr3 = 0x5_0000;
    setup.save.efer = efer::SVME;
    setup.save.cs.attributes = 0xc9b;
    assert_eq!(ExitCode(setup.run().exit_code), ExitCode::VMMCALL);
}

#[test]
fn every_check_is_violated_alone() {
    type Change = fn(&mut Setup);
    let illegal: &[(&str, Change)] = &[
        ("efer-svme", |s| s.save.efer &= !efer::SVME),
        ("efer-mbz", |s| s.save.efer |= 1 << 20),
        ("cr0-nw", |s| s.save.cr0 = s.save.cr0 & !cr0::CD | cr0::NW),
        ("cr0-high", |s| s.save.cr0 |= 1 << 40),
        ("cr3-mbz", |s| s.save.cr3 |= 1 << 48),
        ("cr4-mbz", |s| s.save.cr4 |= 1 << 31),
        ("dr6-high", |s| s.save.dr6 |= 1 << 32),
        ("dr7-high", |s| s.save.dr7 |= 1 << 63),
        ("long-mode-pae", |s| s.save.cr4 &= !cr4::PAE),
        ("long-mode-pe", |s| s.save.cr0 &= !cr0::PE),
        ("long-mode-cs", |s| s.save.cs.attributes |= 0x600),
        ("vmrun-intercept", |s| s.control.intercepts[4] &= !1),
        ("asid", |s| s.control.asid = 0),
        ("permission-maps", |s| {
            s.intercept(ExitCode::IOIO);
            s.control.iopm_base = (1 << 48) - 0x2000;
        }),
        ("event-injection", |s| s.control.event_injection = 0x8000_0302),
        ("tlb-control", |s| s.control.tlb_control = 2),
        ("nested-host-paging", |s| {
            s.nested();
            // 64-bit mode without paging cannot be, but for this test's sake.
            s.cpu.cr0 &= !cr0::PG;
            s.cpu.update_mode();
        }),
        ("nested-cr3", |s| {
            s.nested();
            s.control.nested_cr3 |= 1 << 50;
        }),
        ("nested-pat", |s| {
            s.nested();
            s.save.g_pat = 2;
        }),
        ("nested-modes", |s| s.control.nested |= nested::SEV),
        ("vnmi-intercept", |s| s.control.v_intr |= v_intr::NMI_ENABLE),
        ("avic-backing-page", |s| {
            s.avic();
            s.control.avic_backing_page |= 1 << 50;
        }),
        ("avic-tables", |s| {
            s.avic();
            s.control.avic_logical_table |= 1 << 50;
        }),
        ("avic-nested", |s| {
            s.avic();
            s.control.nested = 0;
        }),
        ("x2avic", |s| {
            s.avic();
            s.control.v_intr |= v_intr::X2AVIC_ENABLE;
        }),
    ];
    assert_eq!(
        illegal.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        CHECKS.iter().map(|check| check.name).collect::<Vec<_>>()
    );
    for (name, change) in illegal {
        let mut setup = Setup::new(&VMMCALL);
        setup.cpu.model = std::sync::Arc::new(crate::model::Model::parse("EPYC,+vnmi").unwrap());
        change(&mut setup);
        let (control, save) = (setup.control, setup.save);
        let model = setup.cpu.model.clone();
        let entry = Entry { control: &control, save: &save, model: &model, host_cr0: setup.cpu.cr0 };
        assert_eq!(failing(&entry).map(|check| check.name).collect::<Vec<_>>(), [*name]);
        let exit = setup.run();
        assert_eq!(ExitCode(exit.exit_code), ExitCode::INVALID, "{name}");
        assert_eq!((setup.cpu.rip(), setup.cpu.virt.gif), (HOST_RIP + 4, false), "{name}");
    }
}

#[test]
fn instructions_exit_with_their_codes() {
    // APM 2 appendix C and 15.7–15.14: bytes, the vector's bit, EXITCODE, EXITINFO1.
    for (bytes, code, info1) in [
        (&[0x0f, 0xa2][..], ExitCode::CPUID, 0),
        (&[0x0f, 0x31], ExitCode::RDTSC, 0),
        (&[0xf4], ExitCode::HLT, 0),
        (&[0x0f, 0x08], ExitCode::INVD, 0),
        (&[0x0f, 0x09], ExitCode::WBINVD, 0),
        (&[0xf3, 0x90], ExitCode::PAUSE, 0),
        (&[0x0f, 0x01, 0x38], ExitCode::INVLPG, 0x1234),
        (&[0x9c], ExitCode::PUSHF, 0),
        (&[0x9d], ExitCode::POPF, 0),
        (&[0x48, 0xcf], ExitCode::IRET, 0),
        (&[0xcd, 0x80], ExitCode::SWINT, 0x80),
        (&[0xcc], ExitCode::exception(3), 0),
        (&[0xf1], ExitCode::ICEBP, 0),
        (&[0x0f, 0x20, 0xd9], ExitCode::CR0_READ.plus(3), 1 << 63 | 1),
        (&[0x0f, 0x22, 0xe3], ExitCode::CR0_WRITE.plus(4), 1 << 63 | 3),
        (&[0x0f, 0x06], ExitCode::CR0_WRITE, 0),
        (&[0x0f, 0x23, 0xfa], ExitCode::DR0_WRITE.plus(7), 2),
        (&[0x0f, 0x01, 0x00], ExitCode::GDTR_READ, 0),
        (&[0x0f, 0x01, 0x18], ExitCode::IDTR_WRITE, 0),
        (&[0x0f, 0x00, 0xd8], ExitCode::TR_WRITE, 0),
        (&[0x0f, 0xaa], ExitCode::RSM, 0),
        (&[0x0f, 0x32], ExitCode::MSR, 0),
        (&[0x0f, 0x30], ExitCode::MSR, 1),
        (&[0xe4, 0x70], ExitCode::IOIO, 0x70_0011),
        (&[0x66, 0xef], ExitCode::IOIO, 0x20),
        // REP INSB: 64-bit addresses, ES; OUTSD through FS: string, 32 bits.
        (&[0xf3, 0x6c], ExitCode::IOIO, 0x21d),
        (&[0x64, 0x6f], ExitCode::IOIO, 0x1244),
        (&[0x0f, 0x01, 0xd8], ExitCode::VMRUN, 0),
        (&[0x0f, 0x01, 0xda], ExitCode::VMLOAD, 0),
        (&[0x0f, 0x01, 0xdb], ExitCode::VMSAVE, 0),
        (&[0x0f, 0x01, 0xdc], ExitCode::STGI, 0),
        (&[0x0f, 0x01, 0xdd], ExitCode::CLGI, 0),
        (&[0x0f, 0x01, 0xdf], ExitCode::INVLPGA, 0),
        (&[0x0f, 0x0b], ExitCode::exception(6), 0),
    ] {
        let mut setup = Setup::new(bytes);
        setup.intercept(code);
        (setup.control.iopm_base, setup.control.msrpm_base) = (IOPM, MSRPM);
        put(&setup.cpu, IOPM, &[0xff; 0x2000]);
        put(&setup.cpu, MSRPM, &[0xff; 0x2000]);
        setup.cpu.regs[RDX] = 0;
        setup.cpu.regs[RCX] = 0x10;
        let exit = setup.run();
        assert_eq!(ExitCode(exit.exit_code), code, "{bytes:x?}");
        assert_eq!(exit.exit_info1, info1, "{bytes:x?}");
        assert_eq!(setup.save.rip, CODE, "{bytes:x?}");
        let next = if bytes == [0x0f, 0x0b] { 0 } else { CODE + bytes.len() as u64 };
        assert_eq!(exit.next_rip, next, "{bytes:x?}");
    }
}

/// BOUND's exception is the instruction's own, so the address of the next one is known (APM 2 15.7.1).
#[test]
fn bound_exits_with_the_next_address() {
    let mut setup = Setup::new(&[0x62, 0x07]);
    // Compatibility mode; EAX is above both bounds.
    setup.save.cs.attributes = 0xc9b;
    setup.save.rax = 0x1234;
    setup.intercept(ExitCode::exception(5));
    let exit = setup.run();
    assert_eq!(ExitCode(exit.exit_code), ExitCode::exception(5));
    assert_eq!((setup.save.rip, exit.next_rip), (CODE, CODE + 2));
}

/// General detection comes before the intercept of MOV DR.
#[test]
fn general_detection_comes_before_the_intercept() {
    for detect in [false, true] {
        let mut setup = Setup::new(&[0x0f, 0x23, 0xfa]);
        setup.intercept(ExitCode::DR0_WRITE.plus(7));
        setup.intercept(ExitCode::exception(1));
        setup.save.dr7 |= u64::from(detect) << 13;
        let exit = setup.run();
        let expected = if detect { ExitCode::exception(1) } else { ExitCode::DR0_WRITE.plus(7) };
        assert_eq!(ExitCode(exit.exit_code), expected);
    }
}

/// The #GP of a #UD that the IDT does not reach has EXT on Intel's processors only.
#[test]
fn faults_of_deliveries_are_not_external() {
    let mut setup = Setup::new(&[0x0f, 0x0b]);
    setup.intercept(ExitCode::exception(13));
    setup.save.idtr.limit = 0;
    let exit = setup.run();
    assert_eq!((ExitCode(exit.exit_code), exit.exit_info1), (ExitCode::exception(13), 6 << 3 | 2));
}

#[test]
fn permission_maps_let_accesses_through() {
    let mut setup = Setup::new(&[0xe4, 0x70, 0x0f, 0x32, 0x0f, 0x01, 0xd9]);
    setup.intercept(ExitCode::IOIO);
    setup.intercept(ExitCode::MSR);
    (setup.control.iopm_base, setup.control.msrpm_base) = (IOPM, MSRPM);
    setup.cpu.regs[RCX] = 0xc000_0080;
    assert_eq!(ExitCode(setup.run().exit_code), ExitCode::VMMCALL);
    // Out of all ranges of the MSRPM.
    let mut setup = Setup::new(&[0x0f, 0x32]);
    setup.intercept(ExitCode::MSR);
    setup.control.msrpm_base = MSRPM;
    setup.cpu.regs[RCX] = 0x4000_0000;
    assert_eq!(ExitCode(setup.run().exit_code), ExitCode::MSR);
}

#[test]
fn nested_faults_tell_where_they_arose() {
    // APM 2 15.25.6: MOV RAX, [RAX].
    type Change = fn(&Cpu);
    let cases: [(Change, u64, u64); 4] = [
        // The second page of 2 MiB is not mapped by the nested tables.
        (|cpu| put_u64(cpu, PML4 + 0x2008, 0x20_0087), 1 << 32 | 4, 0x20_1234),
        // A table of the guest's there, too: a user write.
        (|cpu| put_u64(cpu, PML4 + 0x2008, 0x40_0007), 1 << 33 | 6, 0x40_0008),
        // A reserved bit of the nested entry.
        (
            |cpu| {
                put_u64(cpu, PML4 + 0x2008, 0x20_0087);
                put_u64(cpu, NPT + 0x2008, 0x20_2087);
            },
            1 << 32 | 0xd,
            0x20_1234,
        ),
        // The guest's own fault.
        (|_| {}, 0, 0x20_1234),
    ];
    for (n, (change, info1, address)) in cases.into_iter().enumerate() {
        let mut setup = Setup::new(&[0x48, 0x8b, 0x00]);
        setup.nested();
        setup.intercept(ExitCode::exception(vector::PF));
        setup.save.rax = 0x20_1234;
        change(&setup.cpu);
        let exit = setup.run();
        let code = if info1 == 0 { ExitCode::exception(vector::PF) } else { ExitCode::NPF };
        assert_eq!(ExitCode(exit.exit_code), code, "{n}");
        assert_eq!((exit.exit_info1, exit.exit_info2), (info1, address), "{n}");
        // Decode assists: the bytes at RIP.
        assert_eq!(exit.fetched[..4], [15, 0x48, 0x8b, 0x00], "{n}");
    }
}

#[test]
fn a_walk_of_both_stages_shows_every_reference() {
    // Three levels each, down to pages of 2 MiB: (3 + 1) * 3 of the nested tables, 3 of the guest's (APM 2 15.25.1).
    let mut setup = Setup::new(&[0xeb, 0xfe]);
    setup.nested();
    setup.run();
    let walk = setup.cpu.inspect_nested(CODE + 5).unwrap();
    assert_eq!(walk.result, Ok(GuestPhys(CODE + 5)));
    let stages: Vec<bool> = walk.references.iter().map(|r| r.stage == ringworld_mmu::Stage::First).collect();
    let level = [false, false, false, true];
    assert_eq!(stages, [level, level, level].concat().into_iter().chain([false; 3]).collect::<Vec<_>>());
    assert_eq!(setup.cpu.inspect_ept(GuestPhys(0x1234)).unwrap().references.len(), 3);
    assert!(setup.cpu.inspect_nested(1 << 30).unwrap().result.is_err());
}

#[test]
fn nested_writes_set_flags_at_both_levels() {
    // MOV [RAX], RAX: dirty flags in both page entries, accessed flags above (APM 2 15.25.5).
    let mut setup = Setup::new(&[0x48, 0x89, 0x00, 0x0f, 0x01, 0xd9]);
    setup.nested();
    setup.save.rax = STACK;
    assert_eq!(ExitCode(setup.run().exit_code), ExitCode::VMMCALL);
    let entry = |at| setup.cpu.memory.read_u64(GuestPhys(at)).unwrap() & 0x60;
    assert_eq!(
        [entry(PML4), entry(PML4 + 0x2000), entry(NPT), entry(NPT + 0x2000)],
        [0x20, 0x60, 0x20, 0x60]
    );
}

#[test]
fn events_are_injected_and_reported_again() {
    // APM 2 15.20: through the IDT, to the handler's HLT.
    for (event, vector, pushed) in [
        (0x8000_0041_u64, 0x41, CODE),
        (0x8000_0202, 2, CODE),
        (0x8000_0306, 6, CODE),
        (0x7777_8000_0b0d, 13, CODE),
        (0x8000_0480, 0x80, CODE + 2),
        (0x8000_0303, 3, CODE + 2),
    ] {
        let mut setup = Setup::new(&[0x90; 4]);
        setup.intercept(ExitCode::HLT);
        setup.control.event_injection = event;
        setup.control.next_rip = CODE + 2;
        let exit = setup.run();
        assert_eq!(
            (ExitCode(exit.exit_code), setup.save.rip),
            (ExitCode::HLT, HANDLER + vector),
            "{event:#x}"
        );
        assert_eq!((exit.exit_int_info, exit.event_injection), (0, 0), "{event:#x}");
        let error = u64::from(event >> 11 & 1 != 0);
        let at = setup.save.rsp + 8 * error;
        assert_eq!(setup.cpu.memory.read_u64(GuestPhys(at)).unwrap(), pushed, "{event:#x}");
        assert_eq!(setup.cpu.nmi_blocked, vector == 2);

        // The stack is gone: the event comes back in EXITINTINFO.
        let mut setup = Setup::new(&[0x90; 4]);
        setup.intercept(ExitCode::exception(14));
        setup.control.event_injection = event;
        setup.control.next_rip = CODE + 2;
        setup.save.rsp = 0x40_0000;
        let exit = setup.run();
        assert_eq!(ExitCode(exit.exit_code), ExitCode::exception(14), "{event:#x}");
        assert_eq!((exit.exit_int_info, setup.save.rip), (event, CODE), "{event:#x}");
    }
}

#[test]
fn a_triple_fault_is_a_shutdown_exit() {
    let mut setup = Setup::new(&[0x0f, 0x0b]);
    setup.intercept(ExitCode::SHUTDOWN);
    setup.save.idtr.limit = 0;
    let exit = setup.run();
    assert_eq!((ExitCode(exit.exit_code), exit.exit_int_info), (ExitCode::SHUTDOWN, 0));
}

#[test]
fn virtual_interrupts_wait_for_if_and_tpr() {
    // APM 2 15.21.4: STI; NOP; NOP; VMMCALL.
    const CODE_STI: [u8; 6] = [0xfb, 0x90, 0x90, 0x0f, 0x01, 0xd9];
    let request = v_intr::IRQ | 8 << v_intr::PRIORITY_SHIFT | 0x85 << v_intr::VECTOR_SHIFT;
    for (flags, window, code, rip) in [
        (request, false, ExitCode::HLT, HANDLER + 0x85),
        (request, true, ExitCode::VINTR, CODE + 2),
        (request | 8, true, ExitCode::VMMCALL, CODE + 3),
        (request | 8 | v_intr::IGNORE_TPR, true, ExitCode::VINTR, CODE + 2),
        (request | v_intr::GIF_ENABLE, true, ExitCode::VMMCALL, CODE + 3),
        (request | v_intr::GIF_ENABLE | v_intr::GIF, true, ExitCode::VINTR, CODE + 2),
    ] {
        let mut setup = Setup::new(&CODE_STI);
        setup.intercept(ExitCode::HLT);
        if window {
            setup.intercept(ExitCode::VINTR);
        }
        setup.control.v_intr = flags | v_intr::INTR_MASKING;
        let exit = setup.run();
        assert_eq!((ExitCode(exit.exit_code), setup.save.rip), (code, rip), "{flags:#x}");
        let taken = code == ExitCode::HLT;
        assert_eq!(exit.v_intr & v_intr::IRQ == 0, taken, "{flags:#x}");
    }
}

#[test]
fn physical_events_exit_and_stay_pending_while_gif_is_clear() {
    // APM 2 15.13, 15.17. An NMI, an SMI, an INIT.
    type Raise = fn(&mut Cpu);
    type Pending = fn(&Cpu) -> bool;
    let cases: [(Raise, Pending, ExitCode); 3] = [
        (|cpu| cpu.nmi_pending = true, |cpu| cpu.nmi_pending, ExitCode::NMI),
        (|cpu| cpu.smi_pending = true, |cpu| cpu.smi_pending, ExitCode::SMI),
        (|cpu| cpu.init_pending = true, |cpu| cpu.init_pending, ExitCode::INIT),
    ];
    for (raise, pending, code) in cases {
        let mut setup = Setup::new(&[0x90, 0x90, 0x0f, 0x01, 0xd9]);
        setup.intercept(code);
        setup.cpu.virt.gif = false;
        raise(&mut setup.cpu);
        let exit = setup.run();
        assert_eq!(ExitCode(exit.exit_code), code);
        assert!(pending(&setup.cpu) && !setup.cpu.virt.gif, "{code}");
        assert_eq!(setup.save.rip, CODE);
    }
}

#[test]
fn a_redirected_init_is_a_security_exception() {
    // APM 2 15.30.1: the guest's own, and one that its hypervisor intercepts.
    for intercepted in [false, true] {
        let mut setup = Setup::new(&[0x90, 0x90, 0x0f, 0x01, 0xd9]);
        setup.intercept(ExitCode::HLT);
        if intercepted {
            setup.intercept(ExitCode::exception(vector::SX));
        }
        setup.cpu.write_msr(0xc001_0114, 2).unwrap();
        setup.cpu.init_pending = true;
        setup.cpu.virt.gif = false;
        let exit = setup.run();
        if intercepted {
            assert_eq!((ExitCode(exit.exit_code), exit.exit_info1), (ExitCode::exception(vector::SX), 1));
        } else {
            assert_eq!((ExitCode(exit.exit_code), setup.save.rip), (ExitCode::HLT, HANDLER + 30));
        }
    }
}

#[test]
fn vmload_and_vmsave_move_the_hidden_state() {
    // APM 3 VMLOAD, VMSAVE: VMLOAD and VMSAVE rAX; bases become canonical.
    let mut setup = Setup::new(&VMMCALL);
    setup.save.fs = VmcbSegment { selector: 0x33, attributes: 0xcf3, limit: 5, base: 0x8000_1234_5678 };
    setup.save.tr = VmcbSegment { selector: 0x40, attributes: 0x8b, limit: 0x67, base: 0x5000 };
    setup.save.kernel_gs_base = 77;
    put(&setup.cpu, VMCB + SAVE_AREA, setup.save.as_bytes());
    setup.cpu.regs[RAX] = VMCB;
    testing::run(&mut setup.cpu, &[0x0f, 0x01, 0xda]).unwrap();
    assert_eq!(setup.cpu.seg[4].base, 0xffff_8000_1234_5678);
    assert_eq!((setup.cpu.tr.base, setup.cpu.msrs.kernel_gs_base), (0x5000, 77));
    put(&setup.cpu, VMCB, &[0; 0x1000]);
    testing::run(&mut setup.cpu, &[0x0f, 0x01, 0xdb]).unwrap();
    let mut saved = [0; 0x298];
    setup.cpu.memory.read(GuestPhys(VMCB + SAVE_AREA), &mut saved).unwrap();
    let saved = SaveArea::read_from_bytes(&saved).unwrap();
    assert_eq!((saved.tr, saved.fs.limit, saved.kernel_gs_base), (setup.save.tr, 5, 77));
    // A misaligned or too large address.
    for address in [VMCB + 8, 1 << 48] {
        setup.cpu.regs[RAX] = address;
        for bytes in [[0x0f, 0x01, 0xd8], [0x0f, 0x01, 0xda], [0x0f, 0x01, 0xdb]] {
            assert_eq!(testing::run(&mut setup.cpu, &bytes), Err(vector::GP));
        }
    }
    // Without EFER.SVME.
    setup.cpu.efer &= !efer::SVME;
    for last in [0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xdf] {
        assert_eq!(testing::run(&mut setup.cpu, &[0x0f, 0x01, last]), Err(vector::UD));
    }
}

#[test]
fn virtual_vmload_takes_guest_addresses() {
    // APM 2 15.33.1: VMLOAD of a page that the nested tables do not map.
    let mut setup = Setup::new(&[0x0f, 0x01, 0xda, 0x0f, 0x01, 0xd9]);
    setup.nested();
    setup.control.virtualization = virtualization::VMLOAD_VMSAVE;
    setup.save.rax = 0x20_0000;
    let exit = setup.run();
    assert_eq!((ExitCode(exit.exit_code), exit.exit_info2), (ExitCode::NPF, 0x20_0400));
    setup.control.virtualization = 0;
    setup.save.rip = CODE;
    assert_eq!(ExitCode(setup.run().exit_code), ExitCode::VMMCALL);
}

#[test]
fn pauses_are_filtered() {
    // APM 2 15.14.4: the fourth PAUSE exits with a count of four, the first without.
    for (count, rip) in [(4, CODE + 6), (0, CODE), (1, CODE)] {
        let mut setup = Setup::new(&[0xf3, 0x90, 0xf3, 0x90, 0xf3, 0x90, 0xf3, 0x90, 0xf4]);
        setup.intercept(ExitCode::PAUSE);
        setup.control.pause_filter_count = count;
        let exit = setup.run();
        assert_eq!((ExitCode(exit.exit_code), setup.save.rip), (ExitCode::PAUSE, rip), "{count}");
    }
}

#[test]
fn time_is_scaled_and_offset() {
    // APM 2 15.30.5: RDTSC.
    let mut setup = Setup::new(&[0x0f, 0x31, 0x0f, 0x01, 0xd9]);
    setup.control.tsc_offset = 1 << 40;
    setup.cpu.write_msr(0xc000_0104, 2 << 32).unwrap();
    assert!(setup.cpu.write_msr(0xc000_0104, 1 << 40).is_err());
    let before = setup.cpu.tsc();
    setup.run();
    let guest = setup.cpu.regs[RDX] << 32 | setup.save.rax;
    assert!((2 * before..2 * before + 2000).contains(&(guest - (1 << 40))), "{guest:#x} {before:#x}");
}

#[test]
fn the_virtual_apic_is_a_page() {
    // APM 2 15.29: MOV [RBX+RCX], EAX; VMMCALL.
    const WRITE: [u8; 6] = [0x89, 0x04, 0x0b, 0x0f, 0x01, 0xd9];
    let after = CODE + 3;
    let valid = 1_u64 << 63;
    for (at, value, code, info, rip) in [
        // TPR is accelerated, SVR exits after the write, the version's write before.
        (0x80, 0x50, ExitCode::VMMCALL, (0, 0), after),
        (0xf0, 0x1ff, ExitCode::AVIC_NOACCEL, (1 << 32 | 0xf0, 0), after),
        (0x30, 1, ExitCode::AVIC_NOACCEL, (1 << 32 | 0x30, 0), CODE),
        // EOI of an edge-triggered and of a level-triggered vector.
        (0xb0, 0, ExitCode::VMMCALL, (0, 0), after),
        // ICR: a self-IPI; an NMI; ID 1, which does not run; ID 2, which is not there; ID 9, out of the table.
        (0x300, 0x4_0077, ExitCode::VMMCALL, (0, 0), after),
        (0x300, 0x400, ExitCode::AVIC_INCOMPLETE_IPI, (0x400, 0), after),
        (0x300, 0x0005, ExitCode::AVIC_INCOMPLETE_IPI, (0x0005, 4 << 32), after),
    ] {
        let mut setup = Setup::new(&WRITE);
        setup.avic();
        put_u64(&setup.cpu, PHYSICAL_IDS, BACKING | valid);
        setup.cpu.regs[RBX] = 0x1f_f000;
        setup.cpu.regs[RCX] = at;
        setup.save.rax = value;
        put(&setup.cpu, BACKING + 0x120, &(1_u32 << 5).to_le_bytes());
        let exit = setup.run();
        assert_eq!((ExitCode(exit.exit_code), setup.save.rip), (code, rip), "{at:#x}");
        if code != ExitCode::VMMCALL {
            assert_eq!((exit.exit_info1, exit.exit_info2), info, "{at:#x}");
        }
        let register = |at: u64| setup.cpu.memory.read_u32(GuestPhys(BACKING + at)).unwrap();
        match at {
            0x80 => assert_eq!((exit.v_intr & 0xff, register(0x80)), (5, 0x50)),
            0xb0 => assert_eq!(register(0x120), 0),
            0x300 if value == 0x4_0077 => assert_eq!(register(0x230), 1 << 0x17),
            _ => {}
        }
    }
    for (high, info2) in [(1_u32 << 24, 1 << 32 | 1), (2 << 24, 2 << 32 | 2), (9 << 24, 2 << 32 | 9)] {
        let mut setup = Setup::new(&WRITE);
        setup.avic();
        put_u64(&setup.cpu, PHYSICAL_IDS + 8, 0x2_b000 | valid);
        setup.cpu.regs[RBX] = 0x1f_f000;
        setup.cpu.regs[RCX] = 0x300;
        setup.save.rax = 0x55;
        put(&setup.cpu, BACKING + 0x310, &high.to_le_bytes());
        let exit = setup.run();
        assert_eq!(ExitCode(exit.exit_code), ExitCode::AVIC_INCOMPLETE_IPI);
        assert_eq!((exit.exit_info1, exit.exit_info2), (u64::from(high) << 32 | 0x55, info2));
        let posted = setup.cpu.memory.read_u32(GuestPhys(0x2_b220)).unwrap();
        assert_eq!(posted != 0, high == 1 << 24);
    }
}

#[test]
fn the_virtual_apic_delivers() {
    // A request in IRR, above the task priority: taken when IF is set. STI; NOP; NOP; VMMCALL.
    for (tpr, code, rip) in [(0_u64, ExitCode::HLT, HANDLER + 0x61), (6, ExitCode::VMMCALL, CODE + 3)] {
        let mut setup = Setup::new(&[0xfb, 0x90, 0x90, 0x0f, 0x01, 0xd9]);
        setup.avic();
        setup.intercept(ExitCode::HLT);
        setup.control.v_intr |= tpr;
        put(&setup.cpu, BACKING + 0x230, &2_u32.to_le_bytes());
        let exit = setup.run();
        assert_eq!((ExitCode(exit.exit_code), setup.save.rip), (code, rip), "{tpr}");
        let register = |at: u64| setup.cpu.memory.read_u32(GuestPhys(BACKING + at)).unwrap();
        let taken = tpr == 0;
        assert_eq!((register(0x230), register(0x130)), (u32::from(!taken) * 2, u32::from(taken) * 2));
    }
}

#[test]
fn a_guest_moves_in_a_snapshot() {
    // The state is taken within the guest; both go on alike.
    let mut setup = Setup::new(&[0xeb, 0xfe]);
    setup.nested();
    setup.run();
    assert_eq!(setup.cpu.virt.level, Level::Svm);
    let state: CpuState = setup.cpu.state();
    let mut other = Setup::new(&[0xeb, 0xfe]);
    other.cpu.set_state(&state);
    let hash = |cpu: &Cpu| {
        let mut hasher = StateHasher::new();
        cpu.state().hash(&mut hasher);
        hasher.digest()
    };
    assert_eq!(hash(&setup.cpu), hash(&other.cpu));
    other.cpu.nmi_pending = true;
    other.cpu.boundary |= boundary::INTERRUPT;
    other.cpu.virt.svm.guest.control.intercepts[3] |= 2;
    other.go();
    assert_eq!((other.cpu.virt.level, other.cpu.rip()), (Level::Host, HOST_RIP + 4));
}

#[test]
fn msrs_of_svm() {
    // APM 2 15.30.
    let mut cpu = testing::cpu("EPYC");
    assert!(cpu.write_msr(0xc001_0117, 0x1234).is_err() && cpu.write_msr(0xc001_0117, 0x5000).is_ok());
    cpu.write_msr(0xc001_0114, 0x18).unwrap();
    assert!(cpu.write_msr(0xc000_0080, efer::SVME).is_err());
    cpu.write_msr(0xc001_0114, 0).unwrap();
    assert_eq!(cpu.read_msr(0xc001_0114).unwrap(), 0x18);
    assert_eq!(cpu.cpuid(0x8000_000a, 0)[..2], [1, ASIDS]);
    assert!(testing::cpu("max").read_msr(0xc001_0114).is_err());
}

/// A xorshift generator: the same numbers in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn no_vmcb_harms_the_host() {
    // States near validity: whatever a guest's control block says, the processor goes on, and a host that comes back is
    // the one that left.
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    let mut setup = Setup::new(&[]);
    let (state, control, save) = (setup.cpu.state(), setup.control, setup.save);
    for round in 0..4000 {
        setup.cpu.set_state(&state);
        (setup.control, setup.save) = (control, save);
        tables(&setup.cpu, PML4);
        tables(&setup.cpu, NPT);
        let mut code = [0_u8; 64];
        code.iter_mut().for_each(|byte| *byte = numbers.next() as u8);
        put(&setup.cpu, CODE, &code);
        put(&setup.cpu, HOST_RIP, &HOST_CODE);
        if round & 1 != 0 {
            setup.nested();
        }
        if round & 2 != 0 {
            setup.avic();
        }
        for intercepts in &mut setup.control.intercepts {
            *intercepts |= numbers.next() as u32 & numbers.next() as u32;
        }
        for _ in 0..numbers.next() % 4 {
            let at = (numbers.next() % 0x698) as usize;
            let byte = 1 << (numbers.next() & 7);
            match at {
                0..0x100 => setup.control.as_mut_bytes()[at] ^= byte,
                0x400.. => setup.save.as_mut_bytes()[at - 0x400] ^= byte,
                _ => {}
            }
        }
        if round % 7 == 0 {
            setup.control.event_injection = numbers.next() & 0xffff_ffff_8000_0fff | 1 << 31;
        }
        put(&setup.cpu, IOPM, &[numbers.next() as u8; 0x3000]);
        let exit = setup.run();
        if setup.cpu.virt.level == Level::Host && exit.exit_code != 0 {
            let flags = setup.cpu.flags.get();
            assert!(setup.cpu.protected() && flags & bits::VM == 0 && setup.cpu.cr3 == PML4, "{round}");
        }
    }
}
