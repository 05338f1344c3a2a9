//! The way of interrupt messages to the CPUs' local interrupt controllers.

use crate::machine::Core;
use ringworld_core::{Delivery, Destination, InterruptMessage, VirtualTime};
use ringworld_x86::Cpu;
use ringworld_x86::state::{Activity, boundary};

/// The moment of the CPU's own next timer event.
pub(crate) fn next_timer(_cpu: &Cpu) -> VirtualTime {
    VirtualTime::NEVER
}

/// Brings the CPU's own timers to its present.
pub(crate) fn advance_timer(_cpu: &mut Cpu) {}

/// Delivers a message to every CPU that it is for.
pub(crate) fn deliver(cores: &mut [Core], message: InterruptMessage) {
    for core in cores.iter_mut().filter(|core| is_for(&core.cpu, message)) {
        accept(&mut core.cpu, message);
    }
}

fn is_for(cpu: &Cpu, message: InterruptMessage) -> bool {
    match message.destination {
        Destination::Physical(id) => id == cpu.id.0 || id == 0xff || id == u32::MAX,
        Destination::Logical(_) => false,
        Destination::Own => message.source == Some(cpu.id),
        Destination::All => true,
        Destination::Others => message.source != Some(cpu.id),
    }
}

fn accept(cpu: &mut Cpu, message: InterruptMessage) {
    match message.delivery {
        Delivery::Nmi => cpu.nmi_pending = true,
        Delivery::Smi => cpu.smi_pending = true,
        Delivery::Init => init(cpu),
        Delivery::StartUp if cpu.activity == Activity::WaitForSipi => start(cpu, message.vector),
        _ => {}
    }
    cpu.boundary |= boundary::INTERRUPT;
}

/// INIT: the bootstrap processor goes to the reset vector, the others wait for a start-up IPI (SDM 3A 10.4.2).
pub(crate) fn init(cpu: &mut Cpu) {
    cpu.init();
    if cpu.id.0 != 0 {
        cpu.activity = Activity::WaitForSipi;
    }
}

/// Start-up IPI: real mode at `vector`000 (SDM 3A 10.4.3).
fn start(cpu: &mut Cpu, vector: u8) {
    let cs = &mut cpu.seg[usize::from(ringworld_x86::insn::seg::CS)];
    cs.selector = u16::from(vector) << 8;
    cs.base = u64::from(vector) << 12;
    cpu.set_rip(0);
    cpu.activity = Activity::Active;
    cpu.update_mode();
}
