//! Ports for whoever debugs a guest: debug consoles (0xe9, 0x402), the debug-exit port, pvpanic.

use crate::device::{Device, DeviceContext, le_value, state_methods};
use crate::fabric::PowerRequest;
use crate::uart::CharBackend;

/// A port that prints what is written and identifies itself when read (0xe9, as Bochs has it: reads 0xe9).
pub struct DebugConsole {
    backend: Box<dyn CharBackend>,
    state: (),
}

impl DebugConsole {
    /// A console that feeds `backend`.
    pub fn new(backend: Box<dyn CharBackend>) -> Self {
        Self { backend, state: () }
    }
}

impl Device for DebugConsole {
    fn read(&mut self, _offset: u64, data: &mut [u8], _ctx: &mut DeviceContext<'_>) {
        // Firmware looks for this value at 0x402, too.
        data.fill(0xe9);
    }

    fn write(&mut self, _offset: u64, data: &[u8], _ctx: &mut DeviceContext<'_>) {
        self.backend.output(data);
    }

    fn reset(&mut self, _ctx: &mut DeviceContext<'_>) {}

    state_methods!(self => self.state);
}

/// The debug-exit port: a write of `v` ends the run with exit code `v << 1 | 1`.
#[derive(Debug, Default)]
pub struct DebugExit {
    state: (),
}

impl Device for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8], _ctx: &mut DeviceContext<'_>) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        ctx.power(PowerRequest::Exit((le_value(data) as u32) << 1 | 1));
    }

    fn reset(&mut self, _ctx: &mut DeviceContext<'_>) {}

    state_methods!(self => self.state);
}

/// pvpanic: the guest says that it has crashed.
#[derive(Debug, Default)]
pub struct PvPanic {
    state: (),
}

/// Events of pvpanic: panicked, crash kernel loaded.
const PANICKED: u8 = 1;
const CRASH_LOADED: u8 = 2;

impl Device for PvPanic {
    fn read(&mut self, _offset: u64, data: &mut [u8], _ctx: &mut DeviceContext<'_>) {
        data.fill(PANICKED | CRASH_LOADED);
    }

    fn write(&mut self, _offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        // A loaded crash kernel deals with the crash itself: the guest goes on.
        if le_value(data) as u8 & PANICKED != 0 {
            ctx.power(PowerRequest::Panicked);
        }
    }

    fn reset(&mut self, _ctx: &mut DeviceContext<'_>) {}

    state_methods!(self => self.state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Bench;
    use std::sync::{Arc, Mutex};

    #[test]
    fn the_exit_code_is_odd() {
        for (size, value, code) in [(1, 0, 1), (1, 0x10, 0x21), (4, 0x8000_0001, 3), (2, 0xffff, 0x1_ffff)] {
            let mut bench = Bench::new(DebugExit::default());
            bench.write_n(0, size, value);
            assert_eq!(bench.fabric.take_power(), Some(PowerRequest::Exit(code)));
        }
    }

    #[test]
    fn the_console_prints() {
        let sent = Arc::new(Mutex::new(Vec::<u8>::new()));
        let sink = Arc::clone(&sent);
        let mut bench =
            Bench::new(DebugConsole::new(Box::new(move |bytes: &[u8]| sink.lock().unwrap().extend(bytes))));
        bench.write(0, b'!');
        assert_eq!(bench.read(0), 0xe9);
        assert_eq!(*sent.lock().unwrap(), b"!");
    }

    #[test]
    fn panics_are_reported() {
        let mut bench = Bench::new(PvPanic::default());
        assert_eq!(bench.read(0), 3);
        bench.write(0, 2);
        assert_eq!(bench.fabric.take_power(), None);
        bench.write(0, 1);
        assert_eq!(bench.fabric.take_power(), Some(PowerRequest::Panicked));
    }
}
