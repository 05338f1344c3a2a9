//! `--control`: a socket that takes commands as lines of JSON, in QEMU's manner (`docs/control.md`).
//!
//! Each connection has a thread, which reads lines. The machine's thread executes the commands between two runs.

use crate::monitor::Monitor;
use crate::screen;
use anyhow::Context;
use ringworld_core::GuestPhys;
use ringworld_machine::{HostEvent, Machine, MachineHandle, Snapshot, StopReason, read_linear};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Longest line of a command.
const MAX_LINE: u64 = 1 << 20;
/// How often a paused machine looks whether the user wants something.
const POLL: Duration = Duration::from_millis(50);
/// How long a client may take to accept an answer.
const PATIENCE: Duration = Duration::from_millis(200);
/// The most memory that one command reads.
const MAX_MEMORY: usize = 1 << 16;

/// Where the socket is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlAddress {
    /// A UNIX socket.
    Unix(PathBuf),
    /// TCP; the loopback interface unless said otherwise.
    Tcp(SocketAddr),
}

impl FromStr for ControlAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("give unix:PATH or [ADDRESS:]PORT".into()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => crate::gdb::parse_address(text)
                .map(Self::Tcp)
                .map_err(|_| "give unix:PATH or [ADDRESS:]PORT".into()),
        }
    }
}

/// A command as it comes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    execute: String,
    #[serde(default)]
    arguments: Value,
    #[serde(default)]
    id: Value,
}

/// A command that waits for the machine's thread.
struct Request {
    line: Line,
    reply: Sender<Value>,
    /// Ends when the answer has been written, or the connection is gone.
    written: Receiver<()>,
}

/// What a command leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// Nothing further.
    Stay,
    /// The machine stops, or goes on.
    Paused(bool),
    /// The end.
    Quit,
}

/// The socket of one run.
pub struct Control {
    requests: Receiver<Request>,
    paused: bool,
    /// The socket's file, which goes with it.
    path: Option<PathBuf>,
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Somebody may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// An answer.
fn answer(id: &Value, result: Result<Value, String>) -> Value {
    let mut answer = match result {
        Ok(value) => json!({ "return": value }),
        Err(text) => json!({ "error": { "class": "GenericError", "desc": text } }),
    };
    if !id.is_null() {
        answer["id"] = id.clone();
    }
    answer
}

/// Reads commands from a connection until its end, and writes the answers.
fn talk(
    from: impl Read,
    mut to: impl Write,
    requests: &Sender<Request>,
    handle: &MachineHandle,
) -> Option<()> {
    let mut from = BufReader::new(from);
    let mut say = |value: &Value| writeln!(to, "{value}").and_then(|()| to.flush()).ok();
    say(&json!({ "ringworld": { "version": env!("CARGO_PKG_VERSION"), "capabilities": [] } }))?;
    loop {
        let mut line = Vec::new();
        let len = from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).ok()?;
        if len == 0 {
            return None;
        }
        if line.last() != Some(&b'\n') && len as u64 == MAX_LINE {
            return say(&answer(&Value::Null, Err("the line is too long".into())));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        // Dropped when the answer is out.
        let (_writing, written) = channel();
        let reply = match serde_json::from_slice::<Line>(&line) {
            Err(error) => answer(&Value::Null, Err(format!("this is no command: {error}"))),
            Ok(line) => {
                let (sender, receiver) = channel();
                requests.send(Request { line, reply: sender, written }).ok()?;
                // The machine looks at the queue when it has stopped.
                handle.notify();
                receiver.recv().ok()?
            }
        };
        say(&reply)?;
    }
}

impl Control {
    /// Begins to listen.
    pub fn listen(address: &ControlAddress, paused: bool, handle: MachineHandle) -> anyhow::Result<Self> {
        let (sender, requests) = channel();
        let mut control = Self { requests, paused, path: None };
        match address {
            ControlAddress::Unix(path) => {
                let listener = UnixListener::bind(path).with_context(|| {
                    format!("cannot listen for control on {}: remove it or choose another", path.display())
                })?;
                control.path = Some(path.clone());
                let clone = |stream: &UnixStream| stream.try_clone().ok();
                std::thread::spawn(move || {
                    listener.incoming().flatten().for_each(|stream| spawn(stream, clone, &sender, &handle));
                });
            }
            ControlAddress::Tcp(address) => {
                let listener = TcpListener::bind(address).with_context(|| {
                    format!("cannot listen for control on {address}: choose another port")
                })?;
                say!("ringworld: control: {}\r\n", listener.local_addr()?);
                let clone = |stream: &TcpStream| stream.try_clone().ok();
                std::thread::spawn(move || {
                    listener.incoming().flatten().for_each(|stream| spawn(stream, clone, &sender, &handle));
                });
            }
        }
        Ok(control)
    }

    /// Executes what waits; while the machine is paused, waits for more, unless its time is up or `wanted` says that the user
    /// wants something. True if the run is to end.
    pub fn serve(&mut self, machine: &mut Machine, monitor: &mut Monitor, wanted: impl Fn() -> bool) -> bool {
        let handle = machine.handle();
        loop {
            let Request { line, reply, written } =
                match self.requests.recv_timeout(if self.paused { POLL } else { Duration::ZERO }) {
                    Ok(request) => request,
                    Err(_) if !self.paused => return false,
                    Err(_) if wanted() || handle.pending_stop().is_some() => return false,
                    Err(_) => continue,
                };
            let held = handle.hold();
            let (result, outcome) =
                match execute(&line.execute, &line.arguments, machine, monitor, self.paused) {
                    Ok((value, outcome)) => (Ok(value), outcome),
                    Err(text) => (Err(text), Outcome::Stay),
                };
            drop(held);
            if let Outcome::Paused(paused) = outcome {
                self.paused = paused;
            }
            // Who asked may be gone.
            let _ = reply.send(answer(&line.id, result));
            // The answer goes out before the machine goes on, whose guest may end the process. Who does not read waits no one.
            let _ = written.recv_timeout(PATIENCE);
            if outcome == Outcome::Quit {
                return true;
            }
        }
    }
}

fn spawn<S: Read + Write + Send + 'static>(
    stream: S,
    clone: impl Fn(&S) -> Option<S>,
    requests: &Sender<Request>,
    handle: &MachineHandle,
) {
    let (requests, handle) = (requests.clone(), handle.clone());
    let Some(to) = clone(&stream) else { return };
    std::thread::spawn(move || talk(stream, to, &requests, &handle));
}

fn argument<'a>(arguments: &'a Value, name: &str) -> Result<&'a Value, String> {
    arguments.get(name).ok_or_else(|| format!("the argument {name:?} is missing"))
}

fn text<'a>(arguments: &'a Value, name: &str) -> Result<&'a str, String> {
    argument(arguments, name)?.as_str().ok_or_else(|| format!("the argument {name:?} is no text"))
}

fn number(arguments: &Value, name: &str) -> Result<u64, String> {
    argument(arguments, name)?.as_u64().ok_or_else(|| format!("the argument {name:?} is no number from 0 on"))
}

/// A number that may be left out.
fn number_or(arguments: &Value, name: &str, default: u64) -> Result<u64, String> {
    if arguments.get(name).is_none() { Ok(default) } else { number(arguments, name) }
}

/// Executes one command.
fn execute(
    command: &str,
    arguments: &Value,
    machine: &mut Machine,
    monitor: &mut Monitor,
    paused: bool,
) -> Result<(Value, Outcome), String> {
    let mut outcome = Outcome::Stay;
    let send = |event| machine.handle().send(event);
    let value = match command {
        "qmp_capabilities" => json!({}),
        "query-status" => json!({
            "status": if paused { "paused" } else { "running" },
            "running": !paused,
            "instructions": machine.instructions(),
            "virtual-ns": machine.now().0,
        }),
        "query-cpus" => machine
            .cpus()
            .map(|cpu| {
                json!({
                    "cpu": cpu.id.0,
                    "activity": format!("{:?}", cpu.activity),
                    "instructions": cpu.icount,
                    "rip": format!("{:#x}", cpu.rip()),
                })
            })
            .collect(),
        "query-registers" => {
            let number = number_or(arguments, "cpu", 0)? as usize;
            let cpu = machine.cpu(number).ok_or_else(|| format!("there is no CPU {number}"))?;
            serde_json::to_value(cpu.state()).map_err(|error| error.to_string())?
        }
        "query-hash" => json!(format!("{:032x}", machine.state_hash())),
        "stop" => {
            outcome = Outcome::Paused(true);
            json!({})
        }
        "cont" | "start" => {
            outcome = Outcome::Paused(false);
            json!({})
        }
        "snapshot-save" => {
            let path = Path::new(text(arguments, "file")?);
            machine
                .snapshot()
                .and_then(|snapshot| snapshot.write(path))
                .map_err(|error| error.to_string())?;
            json!({ "instructions": machine.instructions() })
        }
        "snapshot-load" => {
            let path = Path::new(text(arguments, "file")?);
            let loaded = Snapshot::open(path).and_then(|snapshot| machine.load_snapshot(&snapshot));
            loaded.map_err(|error| error.to_string())?;
            json!({ "instructions": machine.instructions() })
        }
        "screendump" => {
            screen::dump(machine, Path::new(text(arguments, "file")?))
                .map_err(|error| format!("{error:#}"))?;
            json!({})
        }
        "memory-read" => {
            let address = number(arguments, "address")?;
            let size = number(arguments, "size")? as usize;
            if size > MAX_MEMORY {
                return Err(format!("at most {MAX_MEMORY} bytes at once"));
            }
            let bytes = match arguments.get("cpu") {
                None => {
                    let mut bytes = vec![0; size];
                    let read = machine.memory().read(GuestPhys(address), &mut bytes);
                    read.map_err(|error| error.to_string())?;
                    bytes
                }
                Some(_) => {
                    let cpu =
                        machine.cpu(number(arguments, "cpu")? as usize).ok_or("there is no such CPU")?;
                    read_linear(cpu, address, size)
                }
            };
            json!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        "send-key" => {
            let keys = argument(arguments, "keys")?.as_array().ok_or("the keys are a list of set 1 codes")?;
            let code = |key: &Value| key.as_u64().filter(|key| (1..=255).contains(key)).map(|key| key as u8);
            let keys = keys.iter().map(code).collect::<Option<Vec<u8>>>();
            let keys = keys.ok_or("a key is its set 1 code, 1 to 255 (bit 7: after 0xe0)")?;
            let down = keys.iter().map(|key| (*key, true));
            let up = keys.iter().rev().map(|key| (*key, false));
            send(HostEvent::Keys { keys: down.chain(up).collect() });
            json!({})
        }
        "serial-write" => {
            let port = number_or(arguments, "port", 0)? as usize;
            send(HostEvent::Serial { port, bytes: text(arguments, "data")?.as_bytes().to_vec() });
            json!({})
        }
        "balloon" => {
            if !machine.balloon(number(arguments, "value")?) {
                return Err(crate::monitor::NO_BALLOON.into());
            }
            json!({})
        }
        "inject-nmi" => {
            send(HostEvent::Nmi);
            json!({})
        }
        "system_powerdown" => {
            send(HostEvent::PowerButton);
            json!({})
        }
        "system_reset" => {
            send(HostEvent::Reset);
            json!({})
        }
        "goto" => {
            let count = number(arguments, "instructions")?;
            let mut stop = machine.goto(count).map_err(|error| error.to_string())?;
            if stop == StopReason::UserRequest {
                // That was this command's own call for the machine's thread.
                stop = machine.goto(count).map_err(|error| error.to_string())?;
            }
            json!({ "stop": stop, "instructions": machine.instructions() })
        }
        "human-monitor-command" => json!(monitor.remote(machine, text(arguments, "command-line")?)),
        "quit" => {
            outcome = Outcome::Quit;
            json!({})
        }
        _ => return Err(format!("there is no command {command:?}")),
    };
    Ok((value, outcome))
}

/// Executes lines as if they came over a connection, for the fuzzer.
pub fn fuzz(machine: &mut Machine, bytes: &[u8]) -> usize {
    let mut monitor = Monitor::default();
    let lines =
        bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    lines.filter(|line| execute(&line.execute, &line.arguments, machine, &mut monitor, true).is_ok()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!("unix:/a/b".parse(), Ok(ControlAddress::Unix("/a/b".into())));
        assert_eq!("99".parse(), Ok(ControlAddress::Tcp("127.0.0.1:99".parse().unwrap())));
        for text in ["", "unix:", "x:y"] {
            assert!(text.parse::<ControlAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn answers_carry_their_identity() {
        assert_eq!(answer(&json!(7), Ok(json!({}))).to_string(), r#"{"id":7,"return":{}}"#);
        let error = answer(&Value::Null, Err("no".into())).to_string();
        assert_eq!(error, r#"{"error":{"class":"GenericError","desc":"no"}}"#);
    }
}
