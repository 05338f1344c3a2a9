//! One x87 instruction's environment: pending exceptions before it, raised ones after it, and the pointers.

use super::fsw;
use crate::control::cr0;
use crate::insn::{REG_RIP, seg};
use crate::mem::Kind;
use crate::model::Feature;
use crate::{Activity, Cpu, Insn, Stop};
use ringworld_fp::FpFlags;
use ringworld_fp::x87::X87Env;

/// Bytes of the longest instruction.
const MOST_BYTES: u64 = 15;

/// An x87 instruction under way.
pub(super) struct Operation {
    pub env: X87Env,
    stack_fault: bool,
}

impl Operation {
    /// A source register is empty (SDM 1 8.5.1.1).
    pub fn underflow(&mut self) {
        self.env.flags |= FpFlags::IE;
        self.env.c1 = false;
        self.stack_fault = true;
    }

    /// The register to push into is not empty.
    pub fn overflow(&mut self) {
        self.underflow();
        self.env.c1 = true;
    }
}

impl Cpu {
    /// Before an x87 instruction that waits, and before MMX instructions: reports a pending unmasked exception.
    #[inline]
    pub(crate) fn x87_wait(&mut self) -> Result<(), Stop> {
        if self.x87.status & fsw::ES == 0 { Ok(()) } else { self.x87_pending() }
    }

    #[cold]
    fn x87_pending(&mut self) -> Result<(), Stop> {
        if self.cr0 & cr0::NE != 0 {
            return Err(self.mf());
        }
        // The MS-DOS way: FERR#, and the processor freezes until an interrupt comes or IGNNE# lets it go on (SDM 1 8.7.2).
        self.x87.ferr = true;
        let ignne = self.platform.clone().numeric_error(self.io_context(), true);
        self.after_io();
        if ignne {
            return Ok(());
        }
        self.suspend(Activity::Halted);
        Err(Stop::Wait)
    }

    /// Begins an instruction that is not a control instruction.
    pub(super) fn x87_begin(&mut self) -> Result<Operation, Stop> {
        self.x87_wait()?;
        let env = X87Env { amd: self.model.is_amd(), ..X87Env::from_control(self.x87.control) };
        Ok(Operation { env, stack_fault: false })
    }

    /// Ends it: exceptions, C1 and the pointers. The results are stored already, as ST(n) may be numbered anew.
    pub(super) fn x87_end(&mut self, i: &Insn, operation: Operation) {
        let Operation { env, stack_fault } = operation;
        let x87 = &mut self.x87;
        let set = u16::from(env.flags.bits())
            | if stack_fault { fsw::SF } else { 0 }
            | if env.c1 { fsw::C1 } else { 0 };
        x87.status = x87.status & !fsw::C1 | set;
        let fip = self.regs[REG_RIP as usize].wrapping_sub(i.len.into());
        self.x87.fip = if self.long64() { fip } else { fip & 0xffff_ffff };
        let selectors = !self.model.has(Feature::ZeroFcsFds);
        if selectors {
            self.x87.fcs = self.seg[seg::CS as usize].selector;
        }
        let unmasked = !env.masks.contains(env.flags);
        if i.has_memory() && (unmasked || !self.model.has(Feature::FdpExceptionOnly)) {
            self.x87.fdp = self.effective_address(i);
            if selectors {
                let n = match i.segment() {
                    seg::FLAT => seg::DS,
                    seg::FLAT_SS => seg::SS,
                    n => n,
                };
                self.x87.fds = self.seg[usize::from(n)].selector;
            }
        }
        if unmasked {
            self.x87_unmasked();
        }
    }

    /// After x87 state was loaded or initialised: FERR# follows ES, and selectors that this model does not keep are zero.
    pub(crate) fn x87_loaded(&mut self) {
        if self.x87.ferr && self.x87.status & fsw::ES == 0 {
            self.x87.ferr = false;
            self.platform.clone().numeric_error(self.io_context(), false);
            self.after_io();
        }
        if self.model.has(Feature::ZeroFcsFds) {
            (self.x87.fcs, self.x87.fds) = (0, 0);
        }
    }

    /// After the instruction at FIP has raised an unmasked exception: the error summary, and its opcode.
    #[cold]
    pub fn x87_unmasked(&mut self) {
        self.x87.summarize();
        if let Some(fop) = self.x87_opcode() {
            self.x87.fop = fop;
        }
    }

    /// The low three bits of the first opcode byte of the instruction at FIP, and its ModRM byte (SDM 1 8.1.9), read again from
    /// the code.
    fn x87_opcode(&mut self) -> Option<u16> {
        let mut byte = |n: u64| {
            let mut byte = [0];
            let linear = self.check_segment(seg::CS, self.x87.fip.wrapping_add(n), 1, Kind::Fetch).ok()?;
            self.fetch_bytes(linear, &mut byte).ok()?;
            Some(byte[0])
        };
        for n in 0..MOST_BYTES - 1 {
            let escape = byte(n)?;
            if escape & 0xf8 == 0xd8 {
                return Some(u16::from(escape & 7) << 8 | u16::from(byte(n + 1)?));
            }
        }
        None
    }
}
