//! The wires between the board and the CPUs' local interrupt controllers.

use crate::machine::Core;
use ringworld_core::{Delivery, Destination, InterruptMessage, TriggerMode};
use ringworld_x86::lapic::arbitrate;

/// Delivers a message to every CPU that it is for; a lowest-priority one to the CPU that wins the arbitration.
pub(crate) fn deliver(cores: &mut [Core], message: InterruptMessage) {
    if message.delivery == Delivery::LowestPriority {
        if let Some(chosen) = arbitrate(cores.iter().map(|core| &core.cpu.lapic), &message) {
            accept(&mut cores[chosen], &message);
        }
        return;
    }
    cores.iter_mut().for_each(|core| accept(core, &message));
}

fn accept(core: &mut Core, message: &InterruptMessage) {
    let accepted = core.cpu.lapic.accept(message);
    core.cpu.accept(accepted);
}

/// The 8259's INTR is wired to the first CPU's LINT0.
pub(crate) fn drive_intr(cores: &mut [Core], level: bool) {
    if let Some(core) = cores.first_mut() {
        core.cpu.intr = level;
        let accepted = core.cpu.lapic.set_lint(false, level);
        core.cpu.accept(accepted);
    }
}

/// The NMI button is wired to all CPUs' LINT1.
pub(crate) fn pulse_lint1(cores: &mut [Core]) {
    for core in cores {
        for level in [true, false] {
            let accepted = core.cpu.lapic.set_lint(true, level);
            core.cpu.accept(accepted);
        }
    }
}

/// The chipset pulses INIT#, which is wired to all CPUs.
pub(crate) fn init_all(cores: &mut [Core]) {
    let message = InterruptMessage {
        source: None,
        destination: Destination::All,
        delivery: Delivery::Init,
        vector: 0,
        trigger: TriggerMode::Edge,
        assert: true,
    };
    deliver(cores, message);
}
