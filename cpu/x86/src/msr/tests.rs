//! RDMSR and WRMSR, register by register.

use super::*;
use crate::testing::cpu;

/// Writes that succeed, with what is read then; `None` stands for #GP(0).
fn check(cpu: &mut Cpu, cases: &[(u32, u64, Option<u64>)]) {
    for &(index, value, wanted) in cases {
        let before = cpu.read_msr(index).ok();
        let written = cpu.write_msr(index, value);
        match wanted {
            Some(wanted) => {
                assert!(written.is_ok(), "{index:#x} refuses {value:#x}");
                assert_eq!(cpu.read_msr(index).ok(), Some(wanted), "{index:#x} after {value:#x}");
            }
            None => {
                assert!(written.is_err(), "{index:#x} accepts {value:#x}");
                assert_eq!((cpu.pending.vector, cpu.pending.error), (13, Some(0)));
                assert_eq!(cpu.read_msr(index).ok(), before, "{index:#x} changed by a refused write");
            }
        }
    }
}

/// The upper half of IA32_FMASK.
#[test]
fn masks_of_flags() {
    check(&mut cpu("max"), &[(0xc000_0084, u64::MAX, Some(0xffff_ffff)), (0xc000_0084, 0x700, Some(0x700))]);
    check(&mut cpu("EPYC"), &[(0xc000_0084, 0x4_0600, Some(0x4_0600)), (0xc000_0084, 1 << 32, None)]);
}

#[test]
fn plain_registers_and_their_reserved_bits() {
    let mut cpu = cpu("max");
    let canonical = 0xffff_8000_0000_0000;
    let not_canonical = 0x4000_0000_0000_0000;
    check(
        &mut cpu,
        &[
            // SDM 4 2.1: the segments' bases and the entry points hold canonical addresses.
            (0xc000_0100, canonical, Some(canonical)),
            (0xc000_0100, not_canonical, None),
            (0xc000_0101, not_canonical, None),
            (0xc000_0102, 5, Some(5)),
            (0xc000_0102, not_canonical, None),
            // SDM 3A 13.12.2: PAT entries 2 and 3 do not exist, nor do 8 and more.
            (0x277, 0x0007_0406_0106_0005, Some(0x0007_0406_0106_0005)),
            (0x277, 2, None),
            (0x277, 0x0300_0000_0000_0000, None),
            (0x277, 8, None),
            // SDM 3A 13.11.2: MTRRs.
            (0x2ff, 0xc06, Some(0xc06)),
            (0x2ff, 0x1c06, None),
            (0x2ff, 0xc02, None),
            (0x200, 0x8000_0006, Some(0x8000_0006)),
            (0x200, 0x8000_0106, None),
            (0x200, 1 << 50, None),
            (0x201, 0xff_8000_0800, Some(0xff_8000_0800)),
            (0x201, 0x1ff_8000_0800, None),
            (0x201, 0x400, None),
            (0x250, 0x0606_0606_0606_0606, Some(0x0606_0606_0606_0606)),
            (0x26f, 0x0606_0606_0606_0602, None),
            (0xfe, 0, None),
            // SDM 3B 17.3.2.2: status registers can be cleared.
            (0x401, 0, Some(0)),
            (0x401, 1, None),
            (0x40c, u64::MAX, Some(u64::MAX)),
            (0x427, 5, Some(5)),
            (0x428, 0, None),
            (0x179, 0, None),
            // Nothing is there.
            (0x480, 0, None),
            (0xc001_0010, 0, None),
            (0xdead_beef, 0, None),
        ],
    );
}

#[test]
fn efer_keeps_lma_and_refuses_lme_while_paging() {
    // SDM 3A 2.2.1, 10.8.5: LMA is read-only; changing LME while CR0.PG is set is #GP.
    let mut cpu = cpu("max");
    check(
        &mut cpu,
        &[(0xc000_0080, 0x400, Some(0)), (0xc000_0080, 1 << 1, None), (0xc000_0080, 1 << 12, None)],
    );
    cpu.cr0 |= crate::control::cr0::PG;
    let before = cpu.efer;
    assert!(cpu.write_msr(0xc000_0080, before ^ 0x100).is_err());
    assert_eq!(cpu.efer, before);
}

#[test]
fn tsc_and_its_adjustment_move_together() {
    // SDM 3B 18.17.3.
    let mut cpu = cpu("max");
    cpu.icount = 1000;
    assert_eq!(cpu.read_msr(0x10).ok(), Some(1000));
    cpu.write_msr(0x10, 5000).unwrap();
    assert_eq!((cpu.read_msr(0x10).ok(), cpu.read_msr(0x3b).ok()), (Some(5000), Some(4000)));
    cpu.write_msr(0x3b, 0).unwrap();
    cpu.icount += 7;
    assert_eq!(cpu.read_msr(0x10).ok(), Some(1007));
}

#[test]
fn performance_counters_count_instructions() {
    let mut cpu = cpu("max");
    // Instructions retired at CPL 0, interrupting; fixed counter 0 at CPL 3.
    cpu.write_msr(0xc1, 0xffff_fff0).unwrap();
    assert_eq!(cpu.read_msr(0xc1).ok(), Some(0xffff_ffff_fff0));
    cpu.write_msr(0x186, 0x0052_00c0).unwrap();
    cpu.write_msr(0x38d, 2).unwrap();
    cpu.write_msr(0x38f, 1 << 32 | 1).unwrap();
    assert_eq!(cpu.pmu_deadline(), cpu.icount + 16);
    cpu.icount += 11;
    assert_eq!(cpu.read_msr(0xc1).ok(), Some(0xffff_ffff_fffa), "the reader itself has not retired");
    cpu.icount += 7;
    cpu.pmu_sync();
    assert_eq!(cpu.read_msr(0x38e).ok(), Some(1));
    cpu.write_msr(0x390, 1).unwrap();
    assert_eq!(cpu.read_msr(0x38e).ok(), Some(0));
    assert_eq!(cpu.read_msr(0x309).ok(), Some(0));
    cpu.cpl = 3;
    cpu.pmu_privilege();
    cpu.icount += 5;
    cpu.cpl = 0;
    cpu.pmu_privilege();
    assert_eq!(cpu.read_msr(0x309).ok(), Some(5));
    assert!(cpu.read_pmc(4).is_err() && cpu.read_pmc(0x4000_0000).is_ok());
}

/// APM 2 13.2.1: GuestOnly and HostOnly count while EFER.SVME is set.
#[test]
fn performance_counters_tell_the_host_from_guests() {
    let mut cpu = cpu("EPYC");
    // Instructions retired, everywhere, and then in the host only, in guests only, and both.
    for (n, only) in [(0, 0), (1, 2), (2, 1), (3, 3_u64)] {
        cpu.write_msr(0xc001_0000 + n, only << 40 | 0x0043_00c0).unwrap();
    }
    let counts = |cpu: &mut Cpu| {
        cpu.icount += 10;
        let counts = [0, 1, 2, 3].map(|n| cpu.read_msr(0xc001_0004 + n).unwrap_or(0));
        (0..4).for_each(|n| cpu.write_msr(0xc001_0004 + n, 0).unwrap());
        counts.map(|count| count > 0)
    };
    assert_eq!(counts(&mut cpu), [true; 4], "EFER.SVME is clear");
    cpu.efer |= crate::control::efer::SVME;
    cpu.update_mode();
    assert_eq!(counts(&mut cpu), [true, true, false, true]);
    cpu.virt.level = crate::virt::Level::Svm;
    cpu.update_mode();
    assert_eq!(counts(&mut cpu), [true, false, true, true]);
}

#[test]
fn models_have_their_vendors_registers() {
    let mut epyc = cpu("EPYC");
    check(
        &mut epyc,
        &[
            (0xc001_0015, 1 << 24, Some(1 << 24)),
            (0xc001_1029, 2, Some(2)),
            (0x1a0, 0, None),
            (0x1fc, 0, None),
        ],
    );
    let mut intel = cpu("Skylake-Server");
    check(
        &mut intel,
        &[
            (0xc001_0015, 0, None),
            (0x3a, 7, None),
            (0x3a, 5, Some(5)),
            (0x3a, 5, None),
            (0x1a0, 0x1801, Some(0x1881)),
            (0x1fc, 2, Some(2)),
        ],
    );
}

#[test]
fn amd_counters() {
    // APM 2 13.2.1: no global control; event C0h is retired instructions, 76h cycles.
    let mut cpu = cpu("EPYC");
    cpu.write_msr(0xc001_0004, 0).unwrap();
    cpu.write_msr(0xc001_0000, 0x0042_00c0).unwrap();
    cpu.icount += 10;
    assert_eq!(cpu.read_pmc(0).ok(), Some(9));
    assert!(cpu.read_pmc(0x4000_0000).is_err() && cpu.read_msr(0x38f).is_err());
}
