//! CPUID, MSR access, time, random numbers, protection keys, MONITOR, cache control: who may, and what happens.

use crate::control::cr4;
use crate::mem::MemValue;
use crate::msr::misc_enable;
use crate::state::gpr::{RAX, RBX, RCX, RDI, RDX};
use crate::testing::{cpu, long_mode, run};
use crate::{Activity, Cpu};
use ringworld_core::GuestPhys;

const CPUID: [u8; 2] = [0x0f, 0xa2];
const RDMSR: [u8; 2] = [0x0f, 0x32];
const WRMSR: [u8; 2] = [0x0f, 0x30];
const RDTSC: [u8; 2] = [0x0f, 0x31];
const RDTSCP: [u8; 3] = [0x0f, 0x01, 0xf9];
const RDPMC: [u8; 2] = [0x0f, 0x33];
const RDPID_RAX: [u8; 4] = [0xf3, 0x0f, 0xc7, 0xf8];
const RDPKRU: [u8; 3] = [0x0f, 0x01, 0xee];
const WRPKRU: [u8; 3] = [0x0f, 0x01, 0xef];
const MONITOR: [u8; 3] = [0x0f, 0x01, 0xc8];
const MWAIT: [u8; 3] = [0x0f, 0x01, 0xc9];
const WBINVD: [u8; 2] = [0x0f, 0x09];
const RDRAND_EAX: [u8; 3] = [0x0f, 0xc7, 0xf0];
const RDSEED_AX: [u8; 4] = [0x66, 0x0f, 0xc7, 0xf8];

fn machine() -> Cpu {
    let mut cpu = cpu("max");
    long_mode(&mut cpu);
    cpu
}

fn at_cpl(cpu: &mut Cpu, cpl: u8) {
    cpu.cpl = cpl;
    cpu.update_mode();
}

fn peek<T: MemValue>(cpu: &Cpu, at: u64) -> T {
    let mut value = T::new_zeroed();
    let mut bytes = vec![0; size_of::<T>()];
    cpu.memory.read(GuestPhys(at), &mut bytes).unwrap();
    if let Ok(read) = T::read_from_bytes(&bytes) {
        value = read;
    }
    value
}

#[test]
fn privileged_instructions() {
    // SDM 2: #GP(0) at CPL 3; RDTSC by CR4.TSD, RDPMC by CR4.PCE; CPUID only with CPUID faulting.
    let mut cpu = machine();
    type Case<'a> = (&'a [u8], u64, u64, Result<(), u8>);
    let cases: &[Case<'_>] = &[
        (&RDMSR, 0, 0x10, Err(13)),
        (&WRMSR, 0, 0x10, Err(13)),
        (&WBINVD, 0, 0, Err(13)),
        (&RDTSC, 0, 0, Ok(())),
        (&RDTSC, cr4::TSD, 0, Err(13)),
        (&RDTSCP, cr4::TSD, 0, Err(13)),
        (&RDTSCP, 0, 0, Ok(())),
        (&RDPID_RAX, cr4::TSD, 0, Ok(())),
        (&RDPMC, 0, 0, Err(13)),
        (&RDPMC, cr4::PCE, 0, Ok(())),
        (&RDPMC, cr4::PCE, 9, Err(13)),
        (&CPUID, 0, 0, Ok(())),
        (&MONITOR, 0, 0, Err(6)),
        (&MWAIT, 0, 0, Err(6)),
    ];
    let plain = cpu.cr4;
    for (code, extra, rcx, wanted) in cases {
        cpu.cr4 = plain | extra;
        at_cpl(&mut cpu, 3);
        cpu.regs[RCX] = *rcx;
        assert_eq!(run(&mut cpu, code), *wanted, "{code:x?} with CR4 {extra:#x}, RCX {rcx:#x}");
    }
    cpu.msrs.misc_features_enables = 1;
    assert_eq!(run(&mut cpu, &CPUID), Err(13));
    at_cpl(&mut cpu, 0);
    assert_eq!(run(&mut cpu, &CPUID), Ok(()));
}

#[test]
fn results_clear_the_upper_halves() {
    let mut cpu = machine();
    cpu.icount = 0x1_2345_6789;
    cpu.msrs.tsc_aux = 7;
    cpu.regs[..16].fill(u64::MAX);
    run(&mut cpu, &RDTSCP).unwrap();
    assert_eq!((cpu.regs[RDX], cpu.regs[RAX], cpu.regs[RCX]), (1, 0x2345_6789, 7));
    cpu.regs[..16].fill(u64::MAX);
    run(&mut cpu, &RDPID_RAX).unwrap();
    assert_eq!(cpu.regs[RAX], 7);
    cpu.regs[RAX] = 0xffff_ffff_0000_0000;
    run(&mut cpu, &CPUID).unwrap();
    assert!([RAX, RBX, RCX, RDX].iter().all(|&r| cpu.regs[r] >> 32 == 0));
    cpu.regs[RCX] = 0xffff_ffff_c000_0102;
    cpu.regs[RAX] = 0xaaaa_aaaa_1111_2222;
    cpu.regs[RDX] = 0xbbbb_bbbb_0000_0033;
    run(&mut cpu, &WRMSR).unwrap();
    assert_eq!(cpu.msrs.kernel_gs_base, 0x33_1111_2222);
    run(&mut cpu, &RDMSR).unwrap();
    assert_eq!((cpu.regs[RAX], cpu.regs[RDX]), (0x1111_2222, 0x33));
}

#[test]
fn random_numbers_repeat_from_their_seed() {
    let draw = |seed| {
        let mut cpu = machine();
        cpu.seed_random(seed);
        cpu.flags.set(0x8d4);
        cpu.regs[RAX] = u64::MAX;
        run(&mut cpu, &RDRAND_EAX).unwrap();
        // SDM 2B RDRAND: CF is 1; OF, SF, ZF, AF and PF are 0.
        assert_eq!(cpu.flags.status(), 1);
        let first = cpu.regs[RAX];
        run(&mut cpu, &RDSEED_AX).unwrap();
        assert_eq!(cpu.regs[RAX] >> 16, first >> 16, "a 16-bit destination");
        (first, cpu.regs[RAX])
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1).0, draw(2).0);
    assert_eq!(draw(1).0 >> 32, 0);
}

#[test]
fn protection_key_register() {
    // SDM 2B RDPKRU, WRPKRU.
    let mut cpu = machine();
    assert_eq!((run(&mut cpu, &RDPKRU), run(&mut cpu, &WRPKRU)), (Err(6), Err(6)));
    cpu.cr4 |= cr4::PKE;
    at_cpl(&mut cpu, 3);
    (cpu.regs[RAX], cpu.regs[RCX], cpu.regs[RDX]) = (0x5555_5554, 0, 0);
    run(&mut cpu, &WRPKRU).unwrap();
    cpu.regs[RDX] = 1;
    assert_eq!(run(&mut cpu, &WRPKRU), Err(13));
    run(&mut cpu, &RDPKRU).unwrap();
    assert_eq!((cpu.regs[RAX], cpu.regs[RDX]), (0x5555_5554, 0));
    cpu.regs[RCX] = 1;
    assert_eq!((run(&mut cpu, &RDPKRU), run(&mut cpu, &WRPKRU)), (Err(13), Err(13)));
}

#[test]
fn mwait_waits_until_the_line_changes() {
    let mut cpu = machine();
    cpu.regs[RAX] = 0x1010;
    cpu.regs[RCX] = 0;
    cpu.regs[RDX] = 0;
    // Nothing is armed: MWAIT does nothing.
    run(&mut cpu, &MWAIT).unwrap();
    assert_eq!(cpu.activity, Activity::Active);
    run(&mut cpu, &MONITOR).unwrap();
    run(&mut cpu, &MWAIT).unwrap();
    assert_eq!(cpu.activity, Activity::Mwait(false));
    assert!(!cpu.monitor_triggered());
    cpu.memory.write(GuestPhys(0x1040), &[1]).unwrap();
    assert!(!cpu.monitor_triggered(), "the next line");
    cpu.memory.write(GuestPhys(0x103f), &[1]).unwrap();
    assert!(cpu.monitor_triggered());
    // A write between MONITOR and MWAIT.
    cpu.activity = Activity::Active;
    run(&mut cpu, &MONITOR).unwrap();
    cpu.memory.write(GuestPhys(0x1000), &[9]).unwrap();
    run(&mut cpu, &MWAIT).unwrap();
    assert_eq!(cpu.activity, Activity::Active);
    // Extensions: MONITOR has none, MWAIT has "break on masked interrupts".
    run(&mut cpu, &MONITOR).unwrap();
    cpu.regs[RCX] = 1;
    assert_eq!(run(&mut cpu, &MONITOR), Err(13));
    run(&mut cpu, &MWAIT).unwrap();
    assert_eq!(cpu.activity, Activity::Mwait(true));
    cpu.regs[RCX] = 2;
    assert_eq!(run(&mut cpu, &MWAIT), Err(13));
    cpu.msrs.misc_enable &= !misc_enable::MONITOR;
    cpu.regs[RCX] = 0;
    assert_eq!((run(&mut cpu, &MONITOR), run(&mut cpu, &MWAIT)), (Err(6), Err(6)));
}

#[test]
fn cache_lines_and_direct_stores() {
    let mut cpu = machine();
    let not_canonical = 0x8000_0000_0000_0000;
    cpu.regs[RBX] = not_canonical;
    // CLFLUSH, CLFLUSHOPT, CLWB [rbx] fault as loads do; PREFETCHT0 and CLDEMOTE do not.
    for code in [&[0x0f, 0xae, 0x3b][..], &[0x66, 0x0f, 0xae, 0x3b], &[0x66, 0x0f, 0xae, 0x33]] {
        assert_eq!(run(&mut cpu, code), Err(13), "{code:x?}");
    }
    for code in [&[0x0f, 0x18, 0x0b][..], &[0x0f, 0x1c, 0x03]] {
        assert_eq!(run(&mut cpu, code), Ok(()), "{code:x?}");
    }
    // MOVDIR64B rdi, [rbx]: the destination is aligned to 64 bytes.
    let source: [u64; 8] = core::array::from_fn(|n| n as u64 + 5);
    for (n, quad) in source.iter().enumerate() {
        cpu.memory.write(GuestPhys(0x2008 + 8 * n as u64), &quad.to_le_bytes()).unwrap();
    }
    cpu.regs[RBX] = 0x2008;
    cpu.regs[RDI] = 0x3020;
    let movdir64b = [0x66, 0x0f, 0x38, 0xf8, 0x3b];
    assert_eq!(run(&mut cpu, &movdir64b), Err(13));
    cpu.regs[RDI] = 0x3040;
    assert_eq!(run(&mut cpu, &movdir64b), Ok(()));
    assert_eq!(peek::<[u64; 8]>(&cpu, 0x3040), source);
    // MOVDIRI [rbx], eax; MOVNTI [rbx], rax.
    cpu.regs[RAX] = 0x1122_3344_5566_7788;
    run(&mut cpu, &[0x0f, 0x38, 0xf9, 0x03]).unwrap();
    assert_eq!(peek::<u64>(&cpu, 0x2008), 0x5566_7788);
    run(&mut cpu, &[0x48, 0x0f, 0xc3, 0x03]).unwrap();
    assert_eq!(peek::<u64>(&cpu, 0x2008), 0x1122_3344_5566_7788);
}
