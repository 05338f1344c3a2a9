//! The coprocessor error port 0xf0: with it MS-DOS software ends IRQ 13, the interrupt of x87 exceptions (ICH9 data sheet
//! 13.7.4; SDM 1 D.2.1.2).

use crate::device::{Device, DeviceContext, state_methods};

/// A write of any value clears IRQ 13 and lets the processor ignore the exception until it has dealt with it.
#[derive(Debug, Default)]
pub struct CoprocessorError {
    state: (),
}

impl Device for CoprocessorError {
    fn read(&mut self, _offset: u64, data: &mut [u8], _ctx: &mut DeviceContext<'_>) {
        data.fill(0xff);
    }

    fn write(&mut self, _offset: u64, _data: &[u8], ctx: &mut DeviceContext<'_>) {
        ctx.ignore_numeric_error();
    }

    fn reset(&mut self, _ctx: &mut DeviceContext<'_>) {}

    state_methods!(self => self.state);
}
