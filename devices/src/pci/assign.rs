//! What firmware does with PCI before it starts an operating system: bus numbers, addresses, interrupt lines. A guest
//! that is loaded without firmware finds this done.

use super::config_space::{Bar, COMMAND_IO, COMMAND_MASTER, COMMAND_MEMORY, register::*};
use super::host::{MEMORY32_WINDOW, PciHost};
use super::{chipset, interrupt_line};

/// The IRQs of PIRQA to PIRQD, and again of E to H.
const IRQS: [u8; 4] = [10, 10, 11, 11];
/// Where I/O ports of functions begin: above those of the board.
const FIRST_PORT: u64 = 0xc000;
/// The granularity of a bridge's windows.
const MEMORY_WINDOW: u64 = 1 << 20;
const PORT_WINDOW: u64 = 1 << 12;

/// The next free addresses.
struct Free {
    memory: u64,
    port: u64,
}

impl PciHost {
    /// Configures everything behind the root complex.
    pub(crate) fn assign(&mut self) {
        self.enable_ecam();
        chipset::open_shadow(&mut self.functions[0].config);
        for register in chipset::PIRQ {
            self.functions[1].config.put(register, 4, u32::from_le_bytes(IRQS).into());
        }
        let mut free = Free { memory: MEMORY32_WINDOW.start, port: FIRST_PORT };
        // The largest first, so that little is lost between them.
        self.assign_bus(None, &mut free);
        let ports: Vec<usize> =
            (0..self.functions.len()).filter(|&f| self.functions[f].config.is_bridge()).collect();
        for (bus, port) in (1u64..).zip(ports) {
            free.memory = free.memory.next_multiple_of(MEMORY_WINDOW);
            free.port = free.port.next_multiple_of(PORT_WINDOW);
            let (memory, io) = (free.memory, free.port);
            self.assign_bus(Some(port), &mut free);
            free.memory = free.memory.next_multiple_of(MEMORY_WINDOW);
            free.port = free.port.next_multiple_of(PORT_WINDOW);
            let config = &mut self.functions[port].config;
            config.put(SECONDARY_BUS, 2, bus | bus << 8);
            // A window whose base is above its limit is closed.
            let window = |start: u64, end: u64, shift: u32| {
                if end > start { (start >> shift, (end - 1) >> shift) } else { (0xfff0, 0) }
            };
            let (base, limit) = window(memory, free.memory, 16);
            config.write(MEMORY_BASE, &(base as u16).to_le_bytes());
            config.write(MEMORY_LIMIT, &(limit as u16).to_le_bytes());
            config.write(PREFETCHABLE_BASE, &[0xf0, 0xff, 0, 0]);
            let (base, limit) = window(io, free.port, 8);
            config.write(IO_BASE, &[base as u8, limit as u8]);
            config.write(COMMAND, &(COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER).to_le_bytes());
        }
        self.map();
    }

    fn assign_bus(&mut self, parent: Option<usize>, free: &mut Free) {
        let mut bars: Vec<(usize, usize, Bar)> = Vec::new();
        for (index, function) in self.functions.iter().enumerate().filter(|(_, f)| f.parent == parent) {
            bars.extend((0..6).filter_map(|bar| Some((index, bar, function.config.bar_kind(bar)?))));
        }
        bars.sort_by_key(|(_, _, kind)| core::cmp::Reverse(kind.size()));
        for (function, bar, kind) in bars {
            let next = if matches!(kind, Bar::Io(_)) { &mut free.port } else { &mut free.memory };
            let address = next.next_multiple_of(kind.size());
            *next = address + kind.size();
            self.functions[function].config.set_bar_address(bar, address);
        }
        for index in 0..self.functions.len() {
            let slot = parent.map_or(self.functions[index].devfn, |port| self.functions[port].devfn) >> 3;
            let function = &mut self.functions[index];
            if function.parent != parent {
                continue;
            }
            let pin = function.config.get(INTERRUPT_PIN, 1) as u8;
            if pin != 0 {
                let irq = IRQS[usize::from(interrupt_line(slot, pin)) % 4];
                function.config.put(INTERRUPT_LINE, 1, irq.into());
            }
            if (0..6).any(|bar| function.config.bar_kind(bar).is_some()) {
                function.config.write(COMMAND, &(COMMAND_IO | COMMAND_MEMORY).to_le_bytes());
            }
        }
    }
}
