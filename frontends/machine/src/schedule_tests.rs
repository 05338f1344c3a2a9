use super::UNHEARD_EVENTS;
use crate::{Backends, HostEvent, Loader, Machine, MachineConfig, RunUntil, Source, StopReason};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ringworld_core::GuestPhys;
use ringworld_devices::OutputBuffer;
use ringworld_firmware::BootFile;
use ringworld_x86::Activity;

const LOCK: u32 = 0x500;
/// The last time-stamp, and the last count of the power-management timer.
const LAST: u32 = 0x508;
const TIMER: u32 = 0x510;
/// How often they went back.
const BACK: u32 = 0x514;
/// Rounds of each CPU.
const ROUNDS: u32 = 0x520;
const EACH: u32 = 1000;
/// Where the other CPU starts.
const START: u32 = 0x7000;
const CODE: u32 = 0x7c00;
/// The power-management timer's port.
const PM_TIMER: u32 = 0x608;

/// CPU 0 wakes CPU 1; both read the clocks under a lock, and count when they show an earlier moment than before.
fn clocks() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(16)?;
    let mut both = a.create_label();
    let mut second = a.create_label();
    a.cli()?;
    a.xor(si, si)?;
    a.mov(ds, si)?;
    // IA32_APIC_BASE.BSP.
    a.mov(ecx, 0x1b)?;
    a.rdmsr()?;
    a.test(eax, 0x100)?;
    a.jz(second)?;
    // JMP 0000:CODE.
    a.mov(byte_ptr(si + START), 0xea)?;
    a.mov(word_ptr(si + START + 1), CODE)?;
    a.mov(word_ptr(si + START + 3), 0)?;
    a.mov(ebx, ROUNDS)?;
    // x2APIC mode; INIT and start-up to all others.
    a.or(eax, 0xc00)?;
    a.wrmsr()?;
    a.mov(ecx, 0x830)?;
    a.xor(edx, edx)?;
    for command in [0xc_4500, 0xc_4600 | START >> 12] {
        a.mov(eax, command)?;
        a.wrmsr()?;
    }
    a.jmp(both)?;
    a.set_label(&mut second)?;
    a.mov(ebx, ROUNDS + 4)?;
    a.set_label(&mut both)?;
    a.pause()?;
    a.mov(cl, 1)?;
    a.xchg(byte_ptr(si + LOCK), cl)?;
    a.test(cl, cl)?;
    a.jnz(both)?;
    a.rdtsc()?;
    let mut later = a.create_label();
    let mut back = a.create_label();
    let mut shown = a.create_label();
    a.cmp(edx, dword_ptr(si + LAST + 4))?;
    a.ja(later)?;
    a.jb(back)?;
    a.cmp(eax, dword_ptr(si + LAST))?;
    a.jae(later)?;
    a.set_label(&mut back)?;
    a.inc(dword_ptr(si + BACK))?;
    a.set_label(&mut later)?;
    a.mov(dword_ptr(si + LAST), eax)?;
    a.mov(dword_ptr(si + LAST + 4), edx)?;
    a.mov(dx, PM_TIMER)?;
    a.in_(eax, dx)?;
    a.cmp(eax, dword_ptr(si + TIMER))?;
    a.jae(shown)?;
    a.inc(dword_ptr(si + BACK))?;
    a.set_label(&mut shown)?;
    a.mov(dword_ptr(si + TIMER), eax)?;
    a.mov(byte_ptr(si + LOCK), 0)?;
    a.inc(dword_ptr(bx))?;
    a.cmp(dword_ptr(bx), EACH)?;
    a.jb(both)?;
    let mut done = a.create_label();
    a.set_label(&mut done)?;
    a.jmp(done)?;
    a.assemble(CODE.into())
}

/// No CPU shows a moment before one that another CPU has shown, whoever's turn it is.
#[test]
fn time_goes_forward_across_cpus() {
    for cpus in [1, 2] {
        let config = MachineConfig {
            cpus,
            kernel: Source::Memory(BootFile::new("guest", clocks().unwrap())),
            loader: Loader::RawReal(0, CODE as u16),
            memory: 16 << 20,
            ..MachineConfig::default()
        };
        let mut machine = Machine::new(config, Backends::default()).unwrap();
        let end = machine.run(&RunUntil::instructions(1_000_000)).unwrap();
        assert_eq!(end, StopReason::InstructionLimit, "with {cpus} CPUs");
        let word = |at: u32| {
            let bytes = machine.read_physical(GuestPhys(at.into()), 4);
            u32::from_le_bytes(bytes.try_into().unwrap())
        };
        let rounds = [word(ROUNDS), word(ROUNDS + 4)];
        assert_eq!(rounds, [EACH, if cpus == 2 { EACH } else { 0 }]);
        assert!(word(TIMER) > 0);
        assert_eq!(word(BACK), 0, "times that a clock went back with {cpus} CPUs");
    }
}

/// Where COM1's interrupt leads.
const HANDLER: u16 = 0x7d00;

/// Waits for a byte on COM1; the timer goes on, and nobody hears it.
fn listener() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(16)?;
    let mut again = a.create_label();
    a.cli()?;
    a.xor(ax, ax)?;
    a.mov(ds, ax)?;
    a.mov(ss, ax)?;
    a.mov(sp, START as i32)?;
    // IRQ 4 is vector 12.
    a.mov(si, ax)?;
    a.mov(word_ptr(si + 12 * 4), i32::from(HANDLER))?;
    a.mov(word_ptr(si + 12 * 4 + 2), ax)?;
    // 8259: vectors from 8 on, IRQ 4 alone. Timer: mode 2. COM1: the interrupt for what has come.
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 8),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xef),
        (0x43, 0x34),
        (0x40, 0xff),
        (0x40, 0xff),
        (0x3fb, 3),
        (0x3f9, 1),
        (0x3fc, 0xb),
    ] {
        a.mov(dx, port)?;
        a.mov(al, value)?;
        a.out(dx, al)?;
    }
    a.sti()?;
    a.set_label(&mut again)?;
    a.hlt()?;
    a.jmp(again)?;
    let mut code = a.assemble(CODE.into())?;
    code.resize(usize::from(HANDLER) - CODE as usize, 0x90);
    let mut a = CodeAssembler::new(16)?;
    a.hlt()?;
    code.extend(a.assemble(HANDLER.into())?);
    Ok(code)
}

/// A machine that has waited for ever for nothing but a masked timer still hears what is typed.
#[test]
fn the_dead_hear() {
    let config = MachineConfig {
        kernel: Source::Memory(BootFile::new("guest", listener().unwrap())),
        loader: Loader::RawReal(0, CODE as u16),
        memory: 16 << 20,
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(config, Backends::console(OutputBuffer::default())).unwrap();
    // To the HLT: what comes before, three instructions for each port, and STI.
    let end = machine.run(&RunUntil::instructions(8 + 3 * 11 + 2)).unwrap();
    assert_eq!(end, StopReason::InstructionLimit);
    assert_eq!(machine.cpu(0).unwrap().activity, Activity::Halted);
    machine.unheard_events = UNHEARD_EVENTS;
    machine.handle().send(HostEvent::Serial { port: 0, bytes: b"x".to_vec() });
    machine.handle().close();
    let until = RunUntil { breakpoints: vec![HANDLER.into()], ..RunUntil::default() };
    let end = machine.run(&until).unwrap();
    assert_eq!(end, StopReason::Breakpoint { cpu: 0, address: HANDLER.into() });
}
