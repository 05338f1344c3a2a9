//! Instructions that may raise the host's floating-point exceptions, and where to go on if they do.

use core::cell::Cell;
use core::ptr;
use std::io;
use std::sync::OnceLock;

/// Translated instructions that may raise SIGFPE, by where they are in their arena.
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
}

/// What SIGFPE did before; `None` if it could not be asked.
static BEFORE: OnceLock<Option<libc::sigaction>> = OnceLock::new();

impl Traps {
    /// Traps of code that begins at `start`, once SIGFPE comes here.
    ///
    /// # Errors
    /// The host gives no signal handler.
    pub fn new(start: usize) -> io::Result<Self> {
        let before = BEFORE.get_or_init(|| {
            // SAFETY: zeros are a valid `sigaction`; `on_fpe` is a handler of the kind that SA_SIGINFO says, and does nothing that
            // a handler may not.
            unsafe {
                let mut before: libc::sigaction = core::mem::zeroed();
                let mut action = before;
                action.sa_sigaction = on_fpe as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                (libc::sigaction(libc::SIGFPE, &action, &mut before) == 0).then_some(before)
            }
        });
        if before.is_none() {
            return Err(io::Error::other("SIGFPE cannot be handled"));
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

    fn find(&self, address: usize) -> Option<usize> {
        let at = u32::try_from(address.checked_sub(self.start)?).ok()?;
        let n = self.places.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        Some(self.start + self.places[n].1 as usize)
    }
}

/// SIGFPE: goes on where the instruction's trap leads; if it has none, it comes again to who was there before.
unsafe extern "C" fn on_fpe(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes the interrupted thread's context. What interrupts is an instruction of the code that `during`
    // runs, so nothing else is using the traps, which are alive; or no code is running, and there are none.
    unsafe {
        let rip = &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize];
        let traps = RUNNING.try_with(Cell::get).unwrap_or(ptr::null());
        match traps.as_ref().and_then(|traps| traps.find(*rip as usize)) {
            Some(to) => *rip = to as i64,
            None => match BEFORE.get() {
                Some(Some(before)) => _ = libc::sigaction(libc::SIGFPE, before, ptr::null_mut()),
                _ => _ = libc::signal(libc::SIGFPE, libc::SIG_DFL),
            },
        }
    }
}
