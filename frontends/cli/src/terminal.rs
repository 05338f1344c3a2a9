//! The terminal's raw mode, and its end in every case.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::PoisonError;

/// What the terminal was before raw mode; `None` while it is as it was.
static BEFORE: Mutex<Option<libc::termios>> = Mutex::new(None);

/// Whether a person is at the console: both ends are a terminal.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Hands every key to the guest: no echo, no lines, no signals.
pub fn raw() {
    let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    if before.is_some() {
        return;
    }
    // SAFETY: all-zero bytes are a valid `termios`.
    let mut mode: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: `mode` is valid for the call to fill.
    if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &mut mode) } != 0 {
        return;
    }
    let saved = mode;
    // SAFETY: `mode` is a valid `termios` for the call to change.
    unsafe { libc::cfmakeraw(&mut mode) };
    // SAFETY: as above; the file descriptor is standard input.
    if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, &mode) } == 0 {
        *before = Some(saved);
    }
}

/// Gives the terminal back as it was.
pub fn restore() {
    if let Some(mode) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // SAFETY: `mode` came from tcgetattr.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, &mode) };
    }
}

/// Gives the terminal back before a panic's message.
pub fn restore_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        usual(info);
    }));
}

/// For commands that print lists: who reads only a part of one gets no error.
pub fn end_at_closed_pipe() {
    // SAFETY: the default action of a signal; no handler is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
