//! Ports that reset the CPU: the reset control register 0xcf9 and system control port A (0x92).
//!
//! ICH9 data sheet 13.7.5 (RST_CNT) and 13.7.3 (PORT92).

use crate::device::{Device, DeviceContext, le_value, state_methods};
use crate::fabric::PowerRequest;
use serde::{Deserialize, Serialize};

/// RST_CNT at offset 1 of ports 0xcf8 to 0xcff. The other ports are PCI's configuration mechanism (see `pci::host`).
#[derive(Debug, Default)]
pub struct ResetControl {
    state: u8,
}

const SYS_RST: u8 = 1 << 1;
const RST_CPU: u8 = 1 << 2;
const FULL_RST: u8 = 1 << 3;

impl Device for ResetControl {
    fn read(&mut self, offset: u64, data: &mut [u8], _ctx: &mut DeviceContext<'_>) {
        if let (1, [byte]) = (offset, data) {
            *byte = self.state & !RST_CPU;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        if let (1, &[value]) = (offset, data) {
            let rising = value & !self.state & RST_CPU != 0;
            self.state = value & (SYS_RST | RST_CPU | FULL_RST);
            if rising {
                ctx.power(if value & SYS_RST != 0 { PowerRequest::Reset } else { PowerRequest::Init });
            }
        }
    }

    fn reset(&mut self, _ctx: &mut DeviceContext<'_>) {
        self.state = 0;
    }

    state_methods!(self => self.state);
}

/// Port 0x92: bit 0 pulses INIT#. Bit 1, the A20 gate, keeps what is written and gates nothing: processors since Haswell
/// have no A20M# (SDM 3A 22.20), address line 20 is always open.
#[derive(Debug, Default)]
pub struct Port92 {
    state: Port92State,
}

#[derive(Clone, Hash, Debug, Default, Serialize, Deserialize)]
struct Port92State {
    value: u8,
}

const INIT_NOW: u8 = 1;
const ALT_A20_GATE: u8 = 2;

impl Device for Port92 {
    fn read(&mut self, _offset: u64, data: &mut [u8], _ctx: &mut DeviceContext<'_>) {
        data.fill(self.state.value);
    }

    fn write(&mut self, _offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        let value = le_value(data) as u8 & (INIT_NOW | ALT_A20_GATE);
        let rising = value & !self.state.value & INIT_NOW != 0;
        self.state.value = value;
        if rising {
            ctx.power(PowerRequest::Init);
        }
    }

    fn reset(&mut self, _ctx: &mut DeviceContext<'_>) {
        self.state.value = 0;
    }

    state_methods!(self => self.state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Bench;

    #[test]
    fn rst_cpu_acts_on_its_rising_edge() {
        for (writes, expected) in [
            (&[0x02u8, 0x06][..], Some(PowerRequest::Reset)),
            (&[0x06], Some(PowerRequest::Reset)),
            (&[0x00, 0x04], Some(PowerRequest::Init)),
            (&[0x0e], Some(PowerRequest::Reset)),
            (&[0x0a], None),
        ] {
            let mut bench = Bench::new(ResetControl::default());
            for &value in writes {
                bench.write(1, value);
            }
            assert_eq!(bench.fabric.take_power(), expected, "{writes:x?}");
        }
    }

    #[test]
    fn port_92() {
        let mut bench = Bench::new(Port92::default());
        bench.write(0, 2);
        assert_eq!(bench.read(0), 2);
        assert_eq!(bench.fabric.take_power(), None);
        bench.write(0, 3);
        assert_eq!(bench.fabric.take_power(), Some(PowerRequest::Init));
        bench.write(0, 3);
        assert_eq!(bench.fabric.take_power(), None, "only a rising edge");
    }
}
