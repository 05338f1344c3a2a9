//! A gdb server for a [`Machine`]: stock gdb with a kernel's symbols on `target remote`.
//!
//! Breakpoints and watchpoints are the machine's own and leave no trace in the guest. While gdb has the machine stopped, time
//! stands still; a session repeats as it would without gdb.

mod registers;
mod target;

use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError};
use ringworld_machine::{Machine, MachineError, MachineHandle, StopReason};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::Duration;
use target::Debuggee;

/// Room for the longest packet: all registers in hexadecimal.
const PACKET: usize = 0x4000;
/// How often a session looks around while gdb says nothing.
const POLL: Duration = Duration::from_millis(50);

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionEnd {
    /// gdb is gone; the guest goes on.
    Detached,
    /// gdb wants the guest to end.
    Killed,
    /// The guest has ended, or the host wants something else.
    Stopped(StopReason),
}

/// Why a session broke.
#[derive(Debug)]
pub enum SessionError {
    /// The connection.
    Connection(io::Error),
    /// The machine.
    Machine(MachineError),
    /// What gdb sent is no packet of the protocol.
    Protocol(String),
}

impl std::fmt::Display for SessionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connection(error) => write!(f, "the connection with gdb broke: {error}"),
            Self::Machine(error) => error.fmt(f),
            Self::Protocol(error) => write!(f, "gdb sent what is not understood: {error}"),
        }
    }
}

impl std::error::Error for SessionError {}

impl From<GdbStubError<MachineError, io::Error>> for SessionError {
    fn from(error: GdbStubError<MachineError, io::Error>) -> Self {
        if error.is_connection_error() {
            let error = error.into_connection_error().map(|(error, _)| error);
            return Self::Connection(error.unwrap_or_else(|| io::ErrorKind::Other.into()));
        }
        let text = error.to_string();
        error.into_target_error().map_or(Self::Protocol(text), Self::Machine)
    }
}

/// Who has the machine besides gdb.
pub trait Host {
    /// Executes a line of the monitor and returns what it says.
    fn command(&mut self, machine: &mut Machine, line: &str) -> String;

    /// Looks at what has come from elsewhere, if anything has ([`MachineHandle::notify`]). False if gdb has to give the machine
    /// back.
    fn attend(&mut self, machine: &mut Machine) -> bool;
}

/// What an [`Input`] has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// The next byte.
    Byte(u8),
    /// Nothing so far.
    Nothing,
    /// gdb has closed the connection.
    End,
}

/// Where a session's bytes come from.
pub trait Input {
    /// A byte, if one comes within this time.
    fn receive(&mut self, limit: Duration) -> io::Result<Received>;
    /// From now on until the next call here, something that comes (or the end) stops the machine.
    fn watch(&mut self, handle: MachineHandle) -> io::Result<()>;
    /// Ends [`Self::watch`]; true if something has come.
    fn unwatch(&mut self) -> bool;
}

/// gdb at the other end of a TCP connection.
pub struct TcpInput {
    stream: TcpStream,
    bytes: VecDeque<u8>,
    watcher: Option<(JoinHandle<bool>, PipeWriter)>,
}

impl TcpInput {
    /// Takes the reading half.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, bytes: VecDeque::new(), watcher: None }
    }

    /// Reads what is there; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let len = self.stream.read(&mut buffer)?;
        self.bytes.extend(&buffer[..len]);
        Ok(len > 0)
    }
}

/// Waits for the stream (true) or the pipe (false).
fn wait_for_either(stream: &TcpStream, pipe: &PipeReader) -> bool {
    loop {
        let mut descriptors = [PollFd::new(stream, PollFlags::IN), PollFd::new(pipe, PollFlags::IN)];
        match poll(&mut descriptors, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return true,
            Ok(_) => return descriptors[1].revents().is_empty(),
        }
    }
}

impl Input for TcpInput {
    fn receive(&mut self, limit: Duration) -> io::Result<Received> {
        if self.bytes.is_empty() {
            let mut descriptors = [PollFd::new(&self.stream, PollFlags::IN)];
            let limit = Timespec {
                tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: limit.subsec_nanos().into(),
            };
            match poll(&mut descriptors, Some(&limit)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) if !self.fill()? => return Ok(Received::End),
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.bytes.pop_front().map_or(Received::Nothing, Received::Byte))
    }

    fn watch(&mut self, handle: MachineHandle) -> io::Result<()> {
        let (reader, writer) = pipe()?;
        let stream = self.stream.try_clone()?;
        let watcher = std::thread::spawn(move || {
            let came = wait_for_either(&stream, &reader);
            if came {
                handle.stop(StopReason::UserRequest);
            }
            came
        });
        self.watcher = Some((watcher, writer));
        Ok(())
    }

    fn unwatch(&mut self) -> bool {
        let Some((watcher, writer)) = self.watcher.take() else { return false };
        // The other end sees the pipe closed.
        drop(writer);
        watcher.join().unwrap_or(true)
    }
}

/// The writing half: whole packets at once.
struct Output<W> {
    to: W,
    bytes: Vec<u8>,
}

impl<W: Write> Connection for Output<W> {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.bytes.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.write_all(&self.bytes)?;
        self.bytes.clear();
        self.to.flush()
    }
}

/// Serves gdb over a TCP connection until the session ends.
///
/// # Errors
/// A broken connection, or a machine that cannot go on.
pub fn serve_tcp(
    machine: &mut Machine,
    stream: TcpStream,
    host: &mut dyn Host,
) -> Result<SessionEnd, SessionError> {
    // Packets are small, and each is waited for.
    stream.set_nodelay(true).map_err(SessionError::Connection)?;
    let output = stream.try_clone().map_err(SessionError::Connection)?;
    serve(machine, &mut TcpInput::new(stream), output, host)
}

/// Serves gdb until the session ends.
///
/// # Errors
/// As [`serve_tcp`].
pub fn serve(
    machine: &mut Machine,
    input: &mut dyn Input,
    output: impl Write,
    host: &mut dyn Host,
) -> Result<SessionEnd, SessionError> {
    let handle = machine.handle();
    let mut target = Debuggee::new(machine, host);
    let mut buffer = vec![0; PACKET];
    let gdb =
        GdbStub::builder(Output { to: output, bytes: Vec::new() }).with_packet_buffer(&mut buffer).build();
    let gdb = gdb.map_err(|error| SessionError::Protocol(error.to_string()))?;
    let mut gdb = gdb.run_state_machine(&mut target)?;
    let mut last = None;
    loop {
        gdb = match gdb {
            GdbStubStateMachine::Idle(gdb) => match input.receive(POLL).map_err(SessionError::Connection)? {
                Received::End => return Ok(SessionEnd::Detached),
                Received::Byte(byte) => gdb.incoming_data(&mut target, byte)?,
                Received::Nothing => {
                    if let Some(stop) = handle.pending_stop().filter(|stop| *stop != StopReason::UserRequest)
                    {
                        return Ok(SessionEnd::Stopped(stop));
                    }
                    if !target.attend() {
                        return Ok(SessionEnd::Stopped(StopReason::UserRequest));
                    }
                    gdb.into()
                }
            },
            GdbStubStateMachine::Running(gdb) => match input.receive(Duration::ZERO) {
                Err(error) => return Err(SessionError::Connection(error)),
                Ok(Received::End) => return Ok(SessionEnd::Detached),
                Ok(Received::Byte(byte)) => gdb.incoming_data(&mut target, byte)?,
                Ok(Received::Nothing) => {
                    input.watch(handle.clone()).map_err(SessionError::Connection)?;
                    let stop = target.run();
                    let came = input.unwatch();
                    let stop = stop.map_err(SessionError::Machine)?;
                    if came {
                        // The request to stop may be left over. It may also have been another's: who looks around finds out.
                        handle.forget_user_request();
                        handle.notify();
                    }
                    match stop {
                        StopReason::UserRequest if came => gdb.into(),
                        // Somebody else wants something.
                        StopReason::UserRequest if target.attend() => gdb.into(),
                        StopReason::UserRequest | StopReason::Timeout => {
                            return Ok(SessionEnd::Stopped(stop));
                        }
                        _ => {
                            let report = target.report(&stop);
                            last = Some(stop);
                            gdb.report_stop(&mut target, report)?
                        }
                    }
                }
            },
            GdbStubStateMachine::CtrlCInterrupt(gdb) => {
                let report = target.interrupted();
                gdb.interrupt_handled(&mut target, Some(report))?
            }
            GdbStubStateMachine::Disconnected(gdb) => {
                return Ok(match (gdb.get_reason(), last) {
                    (DisconnectReason::Kill, _) => SessionEnd::Killed,
                    (
                        DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_),
                        Some(stop),
                    ) => SessionEnd::Stopped(stop),
                    _ => SessionEnd::Detached,
                });
            }
        };
    }
}
