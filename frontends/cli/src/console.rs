//! The serial console on standard input and output.
//!
//! On a terminal, a thread reads keys and looks for the escape key; the same thread hands lines to the monitor. When
//! standard input is something else, there are no escapes: a file is read before the guest starts, so that the run
//! depends on nothing else; a pipe is read as it comes.

use crate::terminal;
use ringworld_machine::{HostEvent, MachineHandle, StopReason};
use std::fs::File;
use std::io::{Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Ctrl-A.
const ESCAPE: u8 = 1;
/// The most that is read from a file on standard input.
const MAX_FILE: u64 = 16 << 20;
/// The Linux device number of /dev/null.
const NULL_DEVICE: u64 = 0x103;

/// What Ctrl-A h shows.
pub const KEYS: &str = "\
Ctrl-A x       leave the emulator\r
Ctrl-A c       the monitor (`continue` comes back)\r
Ctrl-A h       this list\r
Ctrl-A Ctrl-A  a Ctrl-A for the guest\r
";

/// Why the user (or the host) wants the run to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// Ctrl-A x.
    Leave,
    /// Ctrl-A c.
    Monitor,
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// Nobody reads standard output.
    OutputClosed,
}

/// What a sequence of keys means.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Key {
    Guest(Vec<u8>),
    Leave,
    Monitor,
    List,
}

/// The escape key's state.
#[derive(Default)]
struct Escapes {
    pending: bool,
}

impl Escapes {
    fn keys(&mut self, bytes: &[u8]) -> Vec<Key> {
        let mut keys = Vec::new();
        for &byte in bytes {
            let key = match (self.pending, byte) {
                (false, ESCAPE) => {
                    self.pending = true;
                    continue;
                }
                (true, b'x' | b'X') => Key::Leave,
                (true, b'c' | b'C') => Key::Monitor,
                (true, b'h' | b'H' | b'?') => Key::List,
                // Whatever else follows Ctrl-A, the guest gets it; Ctrl-A itself once.
                (_, byte) => Key::Guest(vec![byte]),
            };
            self.pending = false;
            match (keys.last_mut(), key) {
                (Some(Key::Guest(last)), Key::Guest(new)) => last.extend(new),
                (_, key) => keys.push(key),
            }
        }
        keys
    }
}

/// Input that waits for the guest to be ready.
#[derive(Default)]
struct Gate {
    open: bool,
    ended: bool,
    held: Vec<u8>,
}

struct Shared {
    handle: OnceLock<MachineHandle>,
    want: Mutex<Option<Want>>,
    gate: Mutex<Gate>,
    /// What the guest gets after the end of standard input.
    farewell: &'static [u8],
    /// Keys go to the monitor.
    in_monitor: AtomicBool,
    interactive: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn send(&self, bytes: Vec<u8>) {
        if let Some(handle) = self.handle.get()
            && !bytes.is_empty()
        {
            handle.send(HostEvent::Serial { port: 0, bytes });
        }
    }

    fn want(&self, want: Want) {
        *lock(&self.want) = Some(want);
        if let Some(handle) = self.handle.get() {
            handle.stop(StopReason::UserRequest);
        }
    }

    /// Changes what waits at the gate and lets through what may pass.
    fn pass(&self, change: impl FnOnce(&mut Gate)) {
        let mut gate = lock(&self.gate);
        change(&mut gate);
        if !gate.open {
            return;
        }
        let mut bytes = std::mem::take(&mut gate.held);
        if gate.ended {
            bytes.extend(self.farewell);
        }
        self.send(bytes);
        if gate.ended
            && let Some(handle) = self.handle.get()
        {
            handle.close();
        }
    }
}

/// The console of one run.
#[derive(Clone)]
pub struct Console(Arc<Shared>);

impl Console {
    /// A console. Input waits until [`ConsoleOutput`] has seen `ready`, if given; `farewell` follows the input's end.
    pub fn new(ready: Option<&'static str>, farewell: &'static str) -> (Self, ConsoleOutput) {
        let interactive = terminal::is_interactive();
        let ready = ready.filter(|_| !interactive);
        let console = Self(Arc::new(Shared {
            handle: OnceLock::new(),
            want: Mutex::default(),
            gate: Mutex::new(Gate { open: ready.is_none(), ..Gate::default() }),
            farewell: farewell.as_bytes(),
            in_monitor: AtomicBool::new(false),
            interactive,
        }));
        let output =
            ConsoleOutput { shared: console.0.clone(), ready: ready.map(str::as_bytes), tail: Vec::new() };
        (console, output)
    }

    /// Whether a person is at the console.
    pub fn interactive(&self) -> bool {
        self.0.interactive
    }

    /// Connects the console with a machine, and what the monitor reads. With `input` false, standard input is left alone
    /// (a replay).
    pub fn start(&self, handle: MachineHandle, input: bool) -> anyhow::Result<Receiver<Vec<u8>>> {
        let (sender, lines) = channel();
        // Only set here, and once.
        let _ = self.0.handle.set(handle);
        let shared = self.0.clone();
        ctrlc::set_handler(move || {
            // A second signal, or one at the monitor's prompt, does not wait for the machine.
            if shared.in_monitor.load(Ordering::Relaxed) || *lock(&shared.want) == Some(Want::Signal) {
                terminal::restore();
                std::process::exit(crate::exit::SIGNAL);
            }
            shared.want(Want::Signal);
        })?;
        if self.0.interactive {
            terminal::raw();
            let shared = self.0.clone();
            std::thread::spawn(move || read_keys(&shared, &sender));
        } else if !input {
            self.0.pass(|gate| gate.ended = true);
        } else if let Some(bytes) = read_whole_file()? {
            self.0.pass(|gate| (gate.held, gate.ended) = (bytes, true));
        } else {
            let shared = self.0.clone();
            std::thread::spawn(move || {
                read_all(|bytes| shared.pass(|gate| gate.held.extend(bytes)));
                shared.pass(|gate| gate.ended = true);
            });
        }
        Ok(lines)
    }

    /// Whether the run is to end.
    pub fn has_want(&self) -> bool {
        lock(&self.0.want).is_some()
    }

    /// Takes the reason why the run was to end.
    pub fn take_want(&self) -> Option<Want> {
        lock(&self.0.want).take()
    }

    /// Gives the terminal to the monitor (true) or to the guest.
    pub fn monitor(&self, on: bool) {
        self.0.in_monitor.store(on, Ordering::Relaxed);
        if !self.0.interactive {
            return;
        }
        if on { terminal::restore() } else { terminal::raw() }
    }
}

/// Standard input without a buffer between.
fn standard_input() -> ManuallyDrop<File> {
    // SAFETY: the descriptor is open for as long as the process lives, and never closed here.
    ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDIN_FILENO) })
}

/// The contents, if standard input is a file (or /dev/null), and so all there at once.
fn read_whole_file() -> anyhow::Result<Option<Vec<u8>>> {
    let input = standard_input();
    let Ok(metadata) = input.metadata() else { return Ok(Some(Vec::new())) };
    let kind = metadata.file_type();
    let null = kind.is_char_device() && metadata.rdev() == NULL_DEVICE;
    if !kind.is_file() && !null {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    (&*input).take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    anyhow::ensure!(bytes.len() as u64 <= MAX_FILE, "standard input is larger than 16 MiB: use a pipe");
    Ok(Some(bytes))
}

/// Reads standard input to its end.
fn read_all(mut take: impl FnMut(&[u8])) {
    let mut input = standard_input();
    let mut buffer = [0; 4096];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => take(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn read_keys(shared: &Shared, lines: &Sender<Vec<u8>>) {
    let mut escapes = Escapes::default();
    read_all(|bytes| {
        if shared.in_monitor.load(Ordering::Relaxed) {
            // Without a receiver the program is about to end.
            let _ = lines.send(bytes.to_vec());
            return;
        }
        for key in escapes.keys(bytes) {
            match key {
                Key::Guest(bytes) => shared.pass(|gate| gate.held.extend(bytes)),
                Key::Leave => shared.want(Want::Leave),
                Key::Monitor => shared.want(Want::Monitor),
                Key::List => say!("\r\n{KEYS}"),
            }
        }
    });
    shared.pass(|gate| gate.ended = true);
}

/// Standard output as a serial port's other end.
pub struct ConsoleOutput {
    shared: Arc<Shared>,
    /// Opens the gate when it has been seen.
    ready: Option<&'static [u8]>,
    /// The last bytes seen, while `ready` is looked for.
    tail: Vec<u8>,
}

impl ringworld_machine::CharBackend for ConsoleOutput {
    fn output(&mut self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
            self.shared.want(Want::OutputClosed);
        }
        if let Some(ready) = self.ready {
            self.tail.extend(bytes);
            if self.tail.windows(ready.len()).any(|window| window == ready) {
                self.ready = None;
                self.tail = Vec::new();
                self.shared.pass(|gate| gate.open = true);
            } else {
                let excess = self.tail.len().saturating_sub(ready.len());
                self.tail.drain(..excess);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_keys() {
        let guest = |text: &[u8]| Key::Guest(text.to_vec());
        let mut escapes = Escapes::default();
        assert_eq!(escapes.keys(b"ls\r"), [guest(b"ls\r")]);
        assert_eq!(escapes.keys(b"a\x01x"), [guest(b"a"), Key::Leave]);
        assert_eq!(escapes.keys(b"\x01"), []);
        assert_eq!(escapes.keys(b"cb"), [Key::Monitor, guest(b"b")]);
        assert_eq!(escapes.keys(b"\x01\x01\x01h"), [guest(b"\x01"), Key::List]);
        assert_eq!(escapes.keys(b"\x01qx\x03"), [guest(b"qx\x03")]);
    }

    #[test]
    fn input_waits_for_the_marker_and_ends_with_the_farewell() {
        let (console, mut output) = Console::new(Some("ready"), "exit\n");
        console.0.pass(|gate| (gate.held, gate.ended) = (b"ls\n".to_vec(), true));
        let held = || lock(&console.0.gate).held.clone();
        use ringworld_machine::CharBackend;
        for part in ["not re", "ad", "rea"] {
            output.output(part.as_bytes());
            assert_eq!(held(), b"ls\n");
        }
        output.output(b"dy");
        assert_eq!(held(), b"");
        assert!(lock(&console.0.gate).open);
    }
}
