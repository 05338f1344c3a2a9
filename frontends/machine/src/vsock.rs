//! The host's side of the guest's sockets: each port of the host is a UNIX socket.
//!
//! A guest that connects to port P of the host (context ID 2) reaches whoever listens on `PATH_P`. Who connects to `PATH`
//! and says `CONNECT P\n` reaches the guest's port P, and hears `OK N\n` first, with its own port N. This is Firecracker's
//! protocol (its docs/vsock.md). Packets are those of virtio 1.2, 5.10.6.

use crate::{HostEvent, MachineHandle};
use ringworld_devices::virtio::{SocketBackend, VSOCK_HEADER, VSOCK_MAX_DATA};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

/// The host's context ID.
const HOST_CID: u64 = 2;
/// Packets that may wait for the thread; more make the machine wait.
const MAX_PACKETS: usize = 256;
const MAX_CONNECTIONS: usize = 256;
/// Bytes of a direction that may be under way: what the guest may send ahead, and what is sent ahead to it.
const WINDOW: u32 = 256 << 10;
/// The host's ports for connections to the guest.
const FIRST_PORT: u32 = 1 << 30;
/// The longest `CONNECT` line.
const MAX_LINE: usize = 32;

const STREAM: u16 = 1;
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const SHUTDOWN: u16 = 4;
const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const CREDIT_REQUEST: u16 = 7;
/// Flags of [`SHUTDOWN`]: the sender receives no more, sends no more.
const NO_RECEIVE: u32 = 1;
const NO_SEND: u32 = 2;

/// The guest's socket device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vsock {
    /// The guest's context ID, 3 or more.
    pub cid: u32,
    /// The path of the host's UNIX socket, and the beginning of those of the host's ports.
    pub path: PathBuf,
}

/// Sockets cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {} for --vsock: {}", .0.display(), .1)]
pub struct VsockError(PathBuf, std::io::Error);

struct GuestSide {
    packets: SyncSender<Vec<u8>>,
    wake: PipeWriter,
    /// The machine repeats its past: the host has seen these packets.
    muted: Arc<AtomicBool>,
}

impl SocketBackend for GuestSide {
    fn transmit(&mut self, packet: Vec<u8>) {
        // Waits for the thread if need be: streams lose nothing. Nobody is there in a replay.
        if !self.muted.load(Ordering::Relaxed) && self.packets.send(packet).is_ok() {
            let _ = self.wake.write(&[1]);
        }
    }
}

/// Sockets that nobody uses yet.
pub(crate) struct Prepared {
    cid: u64,
    path: PathBuf,
    listener: UnixListener,
    packets: Receiver<Vec<u8>>,
    wake: PipeReader,
}

/// Listens on a path, also if an earlier machine has left its socket there.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
            let refused =
                UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
            if !is_socket || !refused {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }
}

/// Makes the device's side, and the one that [`Prepared::start`] runs.
pub(crate) fn prepare(
    vsock: &Vsock,
    muted: Arc<AtomicBool>,
) -> Result<(Box<dyn SocketBackend>, Prepared), VsockError> {
    let failed = |error| VsockError(vsock.path.clone(), error);
    let listener = listen(&vsock.path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let (sender, packets) = sync_channel(MAX_PACKETS);
    let (wake, waker) = std::io::pipe().map_err(failed)?;
    for end in [rustix::fd::AsFd::as_fd(&wake), rustix::fd::AsFd::as_fd(&waker)] {
        rustix::io::ioctl_fionbio(end, true).map_err(|errno| failed(errno.into()))?;
    }
    let prepared = Prepared { cid: vsock.cid.into(), path: vsock.path.clone(), listener, packets, wake };
    Ok((Box::new(GuestSide { packets: sender, wake: waker, muted }), prepared))
}

impl Prepared {
    /// Works for as long as the device exists.
    pub(crate) fn start(self, handle: MachineHandle) {
        std::thread::spawn(move || {
            let send = |packet: Vec<u8>| handle.send(HostEvent::Socket { packet: packet.into() });
            // The connections of a snapshot's machine are gone.
            send(Vec::new());
            let mut host = Host {
                cid: self.cid,
                path: self.path.clone(),
                connections: BTreeMap::new(),
                greeting: Vec::new(),
                next_port: FIRST_PORT,
                send,
            };
            host.run(&self);
            let _ = std::fs::remove_file(&self.path);
        });
    }
}

/// A packet's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Header {
    source: (u64, u32),
    target: (u64, u32),
    len: u32,
    kind: u16,
    op: u16,
    flags: u32,
    buffer: u32,
    forwarded: u32,
}

impl Header {
    fn parse(packet: &[u8]) -> Option<(Self, &[u8])> {
        let (header, data) = packet.split_at_checked(VSOCK_HEADER)?;
        let long =
            |at: usize| header[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let word = |at: usize| long(at) as u32;
        let parsed = Self {
            source: (long(0), word(16)),
            target: (long(8), word(20)),
            len: word(24),
            kind: word(28) as u16,
            op: (word(28) >> 16) as u16,
            flags: word(32),
            buffer: word(36),
            forwarded: long(36).wrapping_shr(32) as u32,
        };
        let data = data.get(..parsed.len as usize)?;
        Some((parsed, data))
    }

    fn packet(&self, data: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(VSOCK_HEADER + data.len());
        packet.extend(self.source.0.to_le_bytes());
        packet.extend(self.target.0.to_le_bytes());
        packet.extend(self.source.1.to_le_bytes());
        packet.extend(self.target.1.to_le_bytes());
        packet.extend((data.len() as u32).to_le_bytes());
        packet.extend(STREAM.to_le_bytes());
        packet.extend(self.op.to_le_bytes());
        packet.extend(self.flags.to_le_bytes());
        packet.extend(self.buffer.to_le_bytes());
        packet.extend(self.forwarded.to_le_bytes());
        packet.extend_from_slice(data);
        packet
    }
}

struct Connection {
    stream: UnixStream,
    /// Both sides have agreed.
    open: bool,
    /// The host's side connected, and is told when the guest has accepted.
    greets: bool,
    /// From the guest, for the host.
    pending: VecDeque<u8>,
    /// Bytes from the guest that the host has taken, and the count that the guest knows of.
    forwarded: u32,
    told: u32,
    /// Bytes sent to the guest; its buffer, and how many of them it has taken.
    sent: u32,
    peer_buffer: u32,
    peer_forwarded: u32,
    /// The guest sends no more, receives no more.
    guest_done: bool,
    guest_deaf: bool,
    /// The host's side has sent all.
    host_done: bool,
}

impl Connection {
    fn new(stream: UnixStream, greets: bool) -> Self {
        Self {
            stream,
            open: false,
            greets,
            pending: VecDeque::new(),
            forwarded: 0,
            told: 0,
            sent: 0,
            peer_buffer: 0,
            peer_forwarded: 0,
            guest_done: false,
            guest_deaf: false,
            host_done: false,
        }
    }

    /// How many bytes the guest takes now.
    fn credit(&self) -> usize {
        let under_way = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_buffer.min(WINDOW).saturating_sub(under_way) as usize
    }

    fn wants_to_read(&self) -> bool {
        self.open && !self.host_done && !self.guest_deaf && self.credit() > 0
    }
}

struct Host<F> {
    cid: u64,
    path: PathBuf,
    /// By the guest's port and the host's.
    connections: BTreeMap<(u32, u32), Connection>,
    /// Who has not said yet where to.
    greeting: Vec<(UnixStream, Vec<u8>)>,
    next_port: u32,
    send: F,
}

impl<F: FnMut(Vec<u8>)> Host<F> {
    fn run(&mut self, from: &Prepared) {
        loop {
            let mut bytes = [0; 4096];
            while matches!((&from.wake).read(&mut bytes), Ok(n) if n == bytes.len()) {}
            loop {
                match from.packets.try_recv() {
                    Ok(packet) => self.packet(&packet),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.accept(&from.listener);
            self.greet();
            let moved = self.pump();
            if moved {
                continue;
            }
            let mut fds = vec![PollFd::new(&from.wake, PollFlags::IN)];
            if self.connections.len() + self.greeting.len() < MAX_CONNECTIONS {
                fds.push(PollFd::new(&from.listener, PollFlags::IN));
            }
            fds.extend(self.greeting.iter().map(|(stream, _)| PollFd::new(stream, PollFlags::IN)));
            for connection in self.connections.values() {
                let mut events = PollFlags::empty();
                if connection.wants_to_read() {
                    events |= PollFlags::IN;
                }
                if !connection.pending.is_empty() {
                    events |= PollFlags::OUT;
                }
                if !events.is_empty() {
                    fds.push(PollFd::new(&connection.stream, events));
                }
            }
            // Interrupted or not, everything is looked at again.
            let _ = poll(&mut fds, None);
        }
    }

    /// Sends a packet of a connection (guest's port, host's port) to the guest.
    fn send(&mut self, key: (u32, u32), op: u16, flags: u32, data: &[u8]) {
        let mut forwarded = 0;
        if let Some(connection) = self.connections.get_mut(&key) {
            forwarded = connection.forwarded;
            connection.told = forwarded;
        }
        let header = Header {
            source: (HOST_CID, key.1),
            target: (self.cid, key.0),
            op,
            flags,
            buffer: WINDOW,
            forwarded,
            ..Header::default()
        };
        (self.send)(header.packet(data));
    }

    /// Ends a connection at once.
    fn reset(&mut self, key: (u32, u32)) {
        self.connections.remove(&key);
        self.send(key, RST, 0, &[]);
    }

    /// Takes a packet of the guest's.
    fn packet(&mut self, packet: &[u8]) {
        let Some((header, data)) = Header::parse(packet) else { return };
        let key = (header.source.1, header.target.1);
        if header.kind != STREAM || header.source.0 != self.cid || header.target.0 != HOST_CID {
            if header.op != RST {
                // The answer comes from where the packet went.
                let (source, target) = (header.target, header.source);
                (self.send)(Header { source, target, op: RST, ..Header::default() }.packet(&[]));
            }
            return;
        }
        if header.op == REQUEST {
            self.requested(key, &header);
            return;
        }
        let Some(connection) = self.connections.get_mut(&key) else {
            if header.op != RST {
                self.reset(key);
            }
            return;
        };
        (connection.peer_buffer, connection.peer_forwarded) = (header.buffer, header.forwarded);
        match header.op {
            RESPONSE if connection.greets && !connection.open => {
                connection.open = true;
                let _ = connection.stream.write(format!("OK {}\n", key.1).as_bytes());
            }
            RW if connection.open && !connection.guest_done => {
                connection.pending.extend(data);
                if connection.pending.len() > WINDOW as usize {
                    // More than the credit that it got.
                    self.reset(key);
                }
            }
            CREDIT_UPDATE => {}
            CREDIT_REQUEST => self.send(key, CREDIT_UPDATE, 0, &[]),
            SHUTDOWN => {
                connection.guest_done |= header.flags & NO_SEND != 0;
                connection.guest_deaf |= header.flags & NO_RECEIVE != 0;
            }
            RST => _ = self.connections.remove(&key),
            _ => self.reset(key),
        }
    }

    /// The guest wants to connect to a port of the host.
    fn requested(&mut self, key: (u32, u32), header: &Header) {
        let full = self.connections.len() + self.greeting.len() >= MAX_CONNECTIONS;
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{}", key.1));
        let stream = || -> std::io::Result<UnixStream> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            connect(&socket, &SocketAddrUnix::new(Path::new(&path))?)?;
            Ok(socket.into())
        };
        if full || self.connections.contains_key(&key) {
            self.reset(key);
            return;
        }
        let Ok(stream) = stream() else {
            self.reset(key);
            return;
        };
        let mut connection = Connection::new(stream, false);
        (connection.peer_buffer, connection.peer_forwarded) = (header.buffer, header.forwarded);
        connection.open = true;
        self.connections.insert(key, connection);
        self.send(key, RESPONSE, 0, &[]);
    }

    fn accept(&mut self, listener: &UnixListener) {
        while self.connections.len() + self.greeting.len() < MAX_CONNECTIONS {
            let Ok((stream, _)) = listener.accept() else { return };
            if stream.set_nonblocking(true).is_ok() {
                self.greeting.push((stream, Vec::new()));
            }
        }
    }

    /// Reads `CONNECT` lines, byte for byte: what follows is the guest's.
    fn greet(&mut self) {
        let mut index = 0;
        while index < self.greeting.len() {
            let (stream, line) = &mut self.greeting[index];
            let mut byte = [0];
            let port = match stream.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => Some(port(line)),
                Ok(1) if line.len() < MAX_LINE => {
                    line.push(byte[0]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // Closed, or too long for a line.
                _ => Some(None),
            };
            let Some(port) = port else {
                index += 1;
                continue;
            };
            let (stream, _) = self.greeting.swap_remove(index);
            let Some(port) = port else { continue };
            let mut key = (port, self.next_port);
            while self.connections.contains_key(&key) {
                key.1 = key.1.checked_add(1).unwrap_or(FIRST_PORT);
            }
            self.next_port = key.1.checked_add(1).unwrap_or(FIRST_PORT);
            self.connections.insert(key, Connection::new(stream, true));
            self.send(key, REQUEST, 0, &[]);
        }
    }

    /// Moves bytes between the host's sockets and the guest; whether any moved.
    fn pump(&mut self) -> bool {
        let mut moved = false;
        let keys: Vec<_> = self.connections.keys().copied().collect();
        for key in keys {
            moved |= self.pump_one(key);
        }
        moved
    }

    fn pump_one(&mut self, key: (u32, u32)) -> bool {
        let Some(connection) = self.connections.get_mut(&key) else { return false };
        let mut moved = false;
        while !connection.pending.is_empty() {
            match connection.stream.write(connection.pending.as_slices().0) {
                Ok(len @ 1..) => {
                    connection.pending.drain(..len);
                    connection.forwarded = connection.forwarded.wrapping_add(len as u32);
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => {
                    self.reset(key);
                    return true;
                }
            }
        }
        if connection.guest_done && connection.pending.is_empty() {
            if connection.guest_deaf {
                self.reset(key);
                return true;
            }
            // The other side may have closed it already.
            let _ = connection.stream.shutdown(Shutdown::Write);
        }
        let mut data = Vec::new();
        let mut ended = false;
        if connection.wants_to_read() {
            data.resize(connection.credit().min(VSOCK_MAX_DATA), 0);
            match connection.stream.read(&mut data) {
                Ok(0) => (ended, connection.host_done) = (true, true),
                Ok(len) => {
                    data.truncate(len);
                    connection.sent = connection.sent.wrapping_add(len as u32);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    data.clear();
                }
                Err(_) => {
                    self.reset(key);
                    return true;
                }
            }
        }
        // The guest learns of room before it has used up half of its credit.
        let update = connection.forwarded.wrapping_sub(connection.told) >= WINDOW / 4;
        if ended {
            self.send(key, SHUTDOWN, NO_SEND, &[]);
        } else if !data.is_empty() {
            self.send(key, RW, 0, &data);
        } else if update {
            self.send(key, CREDIT_UPDATE, 0, &[]);
        } else {
            return moved;
        }
        true
    }
}

/// The port of a `CONNECT` line.
fn port(line: &[u8]) -> Option<u32> {
    std::str::from_utf8(line).ok()?.trim_end_matches('\r').strip_prefix("CONNECT ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: u64 = 3;

    type Packets = std::sync::mpsc::Receiver<Vec<u8>>;

    fn host(path: &Path) -> (Host<impl FnMut(Vec<u8>) + use<>>, Packets) {
        let (sender, packets) = std::sync::mpsc::channel();
        let send = move |packet| _ = sender.send(packet);
        let host = Host {
            cid: CID,
            path: path.into(),
            connections: BTreeMap::new(),
            greeting: Vec::new(),
            next_port: FIRST_PORT,
            send,
        };
        (host, packets)
    }

    fn from_guest(op: u16, ports: (u32, u32), data: &[u8]) -> Vec<u8> {
        let header = Header {
            source: (CID, ports.0),
            target: (HOST_CID, ports.1),
            op,
            buffer: 100_000,
            ..Header::default()
        };
        header.packet(data)
    }

    #[test]
    fn a_guest_connects_and_its_credit_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        let listener = UnixListener::bind(folder.path().join("v_80")).unwrap();
        let (mut host, packets) = host(&path);
        let op =
            |bytes: Vec<u8>| Header::parse(&bytes).map(|(header, data)| (header.op, data.to_vec())).unwrap();
        host.packet(&from_guest(REQUEST, (1000, 80), &[]));
        assert_eq!(op(packets.try_recv().unwrap()).0, RESPONSE);
        let (mut stream, _) = listener.accept().unwrap();
        host.packet(&from_guest(RW, (1000, 80), b"hello"));
        host.pump();
        let mut data = [0; 5];
        stream.read_exact(&mut data).unwrap();
        assert_eq!(&data, b"hello");
        stream.write_all(b"answer").unwrap();
        host.pump();
        assert_eq!(op(packets.try_recv().unwrap()), (RW, b"answer".to_vec()));
        // More than the credit ends it; so does a port where nobody listens, and a packet of no connection.
        let flood = vec![0; VSOCK_MAX_DATA];
        (0..=WINDOW as usize / VSOCK_MAX_DATA).for_each(|_| host.packet(&from_guest(RW, (1000, 80), &flood)));
        assert_eq!(op(packets.try_recv().unwrap()).0, RST);
        assert!(host.connections.is_empty());
        host.packet(&from_guest(REQUEST, (1000, 81), &[]));
        assert_eq!(op(packets.try_recv().unwrap()).0, RST);
        host.packet(&from_guest(RW, (5, 6), b"x"));
        assert_eq!(op(packets.try_recv().unwrap()).0, RST);
        host.packet(&from_guest(RST, (5, 6), &[]));
        assert!(packets.try_recv().is_err());
    }

    #[test]
    fn the_host_connects() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        let listener = listen(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        let (mut host, packets) = host(&path);
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"CONNECT 52\nearly").unwrap();
        host.accept(&listener);
        host.greet();
        let request = packets.try_recv().unwrap();
        let (header, _) = Header::parse(&request).unwrap();
        assert_eq!((header.op, header.target), (REQUEST, (CID, 52)));
        assert!(!host.pump());
        host.packet(&from_guest(RESPONSE, (52, header.source.1), &[]));
        host.pump();
        let (_, data) = (0, packets.try_recv().unwrap());
        assert!(data.ends_with(b"early"));
        let mut line = [0; 14];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"OK 1073741824\n");
        drop(stream);
        host.pump();
        let end = packets.try_recv().unwrap();
        assert_eq!(Header::parse(&end).unwrap().0.op, SHUTDOWN);
        // A socket that nobody listens on any more is taken over.
        drop(listener);
        listen(&path).unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        assert!(listen(&folder.path().join("file")).is_err());
    }

    #[test]
    fn noise_is_survived() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        let (mut host, _packets) = host(&path);
        let mut state = 1u64;
        for len in 0..200 {
            let noise: Vec<u8> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8 & 7
                })
                .collect();
            host.packet(&noise);
            host.pump();
        }
        for line in ["CONNECT", "CONNECT x", "connect 1", "CONNECT -1", "CONNECT 4294967296"] {
            assert_eq!(port(line.as_bytes()), None, "{line}");
        }
    }
}
