//! Instructions that may raise the host's floating-point exceptions, or access what is not mapped, and where to go on if they do.

use core::cell::Cell;
use core::ptr;
use std::io;
use std::sync::OnceLock;

/// Translated instructions that may raise SIGFPE or SIGSEGV, by where they are in their arena.
#[derive(Debug)]
pub struct Traps {
    /// Where the arena begins.
    start: usize,
    /// The instruction, and where to go on instead: offsets, in the order of the first.
    places: Vec<(u32, u32)>,
}

thread_local! {
    /// Those of the code that this thread runs.
    static RUNNING: Cell<*const Traps> = const { Cell::new(ptr::null()) };
    /// Of the last of them, what could not be accessed.
    static FAULT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The signals that come here, and what they did before; `None` if that could not be asked.
static BEFORE: OnceLock<Option<[(libc::c_int, libc::sigaction); 2]>> = OnceLock::new();

fn catch(signal: libc::c_int) -> Option<(libc::c_int, libc::sigaction)> {
    // SAFETY: zeros are a valid `sigaction`; `on_signal` is a handler of the kind that SA_SIGINFO says, and does nothing that a
    // handler may not. It needs little of the stack that it interrupts, or of the one for overflows, if there is one.
    unsafe {
        let mut before: libc::sigaction = core::mem::zeroed();
        let mut action = before;
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        (libc::sigaction(signal, &action, &mut before) == 0).then_some((signal, before))
    }
}

impl Traps {
    /// Traps of code that begins at `start`, once the signals come here.
    ///
    /// # Errors
    /// The host gives no signal handler.
    pub fn new(start: usize) -> io::Result<Self> {
        if BEFORE.get_or_init(|| Some([catch(libc::SIGFPE)?, catch(libc::SIGSEGV)?])).is_none() {
            return Err(io::Error::other("SIGFPE and SIGSEGV cannot be handled"));
        }
        Ok(Self { start, places: Vec::new() })
    }

    /// Adds instructions, sorted and beyond those that are there, and where to go on: all offsets from the start.
    pub fn extend(&mut self, places: impl Iterator<Item = (u32, u32)>) {
        self.places.extend(places);
        debug_assert!(self.places.is_sorted());
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.places.clear();
    }

    /// Runs translated code on this thread, whose exceptions these are.
    ///
    /// # Safety
    /// Until `run` returns, `traps` is alive, and changed by this thread alone, outside of translated code.
    pub unsafe fn during<T>(traps: *const Self, run: impl FnOnce() -> T) -> T {
        let before = RUNNING.replace(traps);
        let result = run();
        RUNNING.set(before);
        result
    }

    /// The host address that this thread's last trap could not access, zero if that is not known; `None` if it was arithmetic.
    pub fn take_fault() -> Option<usize> {
        FAULT.take()
    }

    fn find(&self, address: usize) -> Option<usize> {
        let at = u32::try_from(address.checked_sub(self.start)?).ok()?;
        let n = self.places.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        Some(self.start + self.places[n].1 as usize)
    }
}

/// Goes on where the instruction's trap leads; if it has none, the signal comes again to who was there before.
unsafe extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes the interrupted thread's context, and what the signal is about. What interrupts is an instruction of
    // the code that `during` runs, so nothing else is using the traps, which are alive; or no code is running, and there are none.
    unsafe {
        let rip = &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize];
        let traps = RUNNING.try_with(Cell::get).unwrap_or(ptr::null());
        match traps.as_ref().and_then(|traps| traps.find(*rip as usize)) {
            Some(to) => {
                *rip = to as i64;
                // Zero of what is not canonical, or not aligned.
                let address = (signal == libc::SIGSEGV).then(|| (*info).si_addr().addr());
                _ = FAULT.try_with(|fault| fault.set(address));
            }
            None => {
                let before = BEFORE.get().into_iter().flatten().flatten();
                match before.into_iter().find(|(other, _)| *other == signal) {
                    Some((_, before)) => _ = libc::sigaction(signal, before, ptr::null_mut()),
                    None => _ = libc::signal(signal, libc::SIG_DFL),
                }
            }
        }
    }
}
