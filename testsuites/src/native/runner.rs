//! The runner: sets up signals, runs cases, reads frames.

use super::enter::{JUMP, enter, handler, probe};
use super::frame::{Context, Layout, TF};
use super::window::Window;
use crate::case::{Case, Fault, Outcome};
use anyhow::{Result, bail, ensure};
use core::ptr::addr_of_mut;
use std::io::Error;
use std::sync::atomic::{AtomicBool, Ordering};

const STACK_SIZE: usize = 1 << 16;
/// The kernel's HWCAP2_FSGSBASE.
const HWCAP2_FSGSBASE: u64 = 2;
/// Most single steps of one REP-prefixed instruction.
const MAX_STEPS: u32 = 4096;

const DB: u8 = 1;
const PF: u8 = 14;

/// Runs cases natively. There is one a process, as signals and fixed addresses are the process's.
pub struct Native {
    layout: Layout,
    window: Window,
    stack: [u64; 3],
    /// A `ucontext`, then the XSAVE area, both aligned to 64 bytes.
    frame: Vec<Line>,
}

/// 64 bytes at an address that XRSTOR accepts.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Bytes from the start of our frame to its XSAVE area.
const AREA: usize = 512;

/// Takes over a signal; returns what handled it before.
fn handle(signal: libc::c_int) -> Option<libc::sigaction> {
    // SAFETY: all-zero is a valid sigaction. `handler` is async-signal-safe: it calls nothing, and returns to `enter` only while
    // armed.
    unsafe {
        let mut before: libc::sigaction = core::mem::zeroed();
        let mut action = before;
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        (libc::sigaction(signal, &action, &mut before) == 0).then_some(before)
    }
}

impl Native {
    /// Takes over SIGTRAP, SIGBUS and SIGILL of this process, and SIGFPE and SIGSEGV while a case runs.
    pub fn new() -> Result<Self> {
        // SAFETY: reads the auxiliary vector.
        let hwcap2 = unsafe { libc::getauxval(libc::AT_HWCAP2) };
        ensure!(hwcap2 & HWCAP2_FSGSBASE != 0, "the kernel does not enable FSGSBASE");
        ensure!(!TAKEN.swap(true, Ordering::AcqRel), "one native runner a process");
        let window = Window::new()?;
        let memory = Box::leak(vec![0_u64; STACK_SIZE / 8].into_boxed_slice());
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK_SIZE };
        // SAFETY: the stack lives for ever.
        let set = unsafe { libc::sigaltstack(&stack, core::ptr::null_mut()) };
        ensure!(set == 0, "sigaltstack: {}", Error::last_os_error());
        for signal in [libc::SIGTRAP, libc::SIGBUS, libc::SIGILL] {
            ensure!(handle(signal).is_some(), "sigaction: {}", Error::last_os_error());
        }
        // SAFETY: the handler is installed; nothing else uses JUMP, as there is one runner a process.
        let context = unsafe {
            probe();
            &*((*addr_of_mut!(JUMP)).context as *const Context)
        };
        if context.fpstate == 0 {
            bail!("the kernel's signal frames hold no floating-point state");
        }
        // SAFETY: the kernel's frame holds at least the legacy area there, and lies on the alternate stack until the next
        // signal.
        let legacy = unsafe { core::slice::from_raw_parts(context.fpstate as *const u8, 512) };
        let Some(layout) = Layout::of_legacy_area(legacy) else {
            bail!("the kernel's signal frames hold no XSAVE area");
        };
        let frame = vec![Line([0; 64]); (AREA + layout.area_size()).div_ceil(64)];
        let stack = [memory.as_ptr() as u64, 0, STACK_SIZE as u64];
        Ok(Self { layout, window, stack, frame })
    }

    /// Whether the host has AVX-512 state.
    pub fn has_avx512(&self) -> bool {
        self.layout.has_avx512()
    }

    /// A case without the state that the host has not.
    pub fn confined(&self, case: &Case) -> Case {
        let mut case = case.clone();
        self.layout.confine(&mut case.state);
        case
    }

    /// Runs one case.
    pub fn run(&mut self, case: &Case) -> Outcome {
        // The translator wants them otherwise.
        let before = [libc::SIGFPE, libc::SIGSEGV].map(|signal| (signal, handle(signal)));
        let outcome = self.run_handled(case);
        for (signal, before) in before {
            if let Some(before) = before {
                // SAFETY: that is what there was.
                unsafe { libc::sigaction(signal, &before, core::ptr::null_mut()) };
            }
        }
        outcome
    }

    fn run_handled(&mut self, case: &Case) -> Outcome {
        self.window.write_data(&case.window());
        self.window.write_code(case.state.rip, &case.bytes);
        let last = case.state.rip + case.bytes.len() as u64;
        // MOV SS and POP SS delay the single-step trap to after the next instruction: let it be a NOP.
        let inhibits = inhibits_trap(case);
        if inhibits {
            self.window.write_code(last, &[0x90]);
        }
        let area = self.frame.as_mut_ptr() as u64 + AREA as u64;
        let context = Context::for_case(case, area, self.stack);
        let base = self.frame.as_mut_ptr();
        // SAFETY: the vector's elements are plain integers; its length is AREA and the XSAVE area's size at least.
        let bytes =
            unsafe { core::slice::from_raw_parts_mut(base.cast::<u8>(), size_of_val(&self.frame[..])) };
        self.layout.write(&mut bytes[AREA..], &case.state);
        // SAFETY: a Context fits below AREA, and u64-aligned memory is aligned enough for it.
        unsafe { base.cast::<Context>().write(context) };
        let mut state = case.state;
        let mut steps = 1;
        let mut frame = base as u64;
        let fault = loop {
            // SAFETY: one runner a process, so nobody else uses JUMP. The frame is complete (its XSAVE area as the kernel
            // itself lays it out), cases' memory operands are confined to the window and to unmapped addresses by the
            // generator, and TF or a fault brings control back through the handler.
            let (after, bases, selectors) = unsafe {
                let jump = addr_of_mut!(JUMP);
                (*jump).frame = frame;
                (*jump).fs_base = state.fs_base;
                (*jump).gs_base = state.gs_base;
                enter();
                (&*((*jump).context as *const Context), ((*jump).fs_base, (*jump).gs_base), (*jump).selectors)
            };
            (state.fs_base, state.gs_base) = bases;
            after.read(&mut state);
            let [ds, es, fs, gs] = selectors.map(|selector| selector as u16);
            state.selectors = [es, state.selectors[1], state.selectors[2], ds, fs, gs];
            // SAFETY: the kernel's frame has an XSAVE area of this layout; see `new`.
            let area =
                unsafe { core::slice::from_raw_parts(after.fpstate as *const u8, self.layout.area_size()) };
            let vector = after.trap as u8;
            if vector != DB {
                self.layout.read(area, &mut state);
                break Some(Fault {
                    vector,
                    error: after.error as u32,
                    address: if vector == PF { after.cr2 } else { 0 },
                });
            }
            // A REP-prefixed instruction traps after each iteration; a sequence after each instruction.
            let unfinished = case.repeats() && state.rip == case.state.rip || steps < case.steps;
            if !unfinished || steps == MAX_STEPS {
                self.layout.read(area, &mut state);
                break None;
            }
            steps += 1;
            frame = after as *const Context as u64;
        };
        self.window.write_code(case.state.rip, &vec![0; case.bytes.len() + 1]);
        if inhibits && fault.is_none() && state.rip == last + 1 {
            state.rip = last;
        }
        state.rflags &= !TF;
        Outcome { state, fault }
    }

    /// The data window after the last case.
    pub fn window(&self) -> Vec<u8> {
        self.window.data()
    }
}

fn inhibits_trap(case: &Case) -> bool {
    use iced_x86::{Code::*, Register};
    let instruction = &case.instructions()[0];
    let to_ss = instruction.op_count() > 0 && instruction.op_register(0) == Register::SS;
    to_ss && matches!(case.code(), Mov_Sreg_rm16 | Mov_Sreg_r32m16 | Mov_Sreg_r64m16 | Popw_SS | Popd_SS)
}
