//! TCP through the gateway: each of the guest's connections ends at the gateway's stack, and goes on as one of the host's.

use super::{Forward, GATEWAY, NetworkError, Protocol};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::{IpAddress, IpListenEndpoint};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};

/// Bytes of each direction's buffer.
const BUFFER: usize = 1 << 20;
const MAX_CONNECTIONS: usize = 256;
/// The gateway's own ports for connections to the guest.
const FIRST_PORT: u16 = 49_152;

/// A connection of the host that is being opened for the guest.
struct Opening {
    from: SocketAddrV4,
    to: SocketAddrV4,
    stream: TcpStream,
    /// The guest's first segment, which the stack gets when it is known whether there is anybody.
    frame: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    socket: SocketHandle,
    /// The host's side has sent all.
    host_done: bool,
    /// The guest's side has sent all.
    guest_done: bool,
}

/// All connections.
pub(super) struct Tcp {
    listeners: Vec<(TcpListener, SocketAddrV4)>,
    opening: Vec<Opening>,
    connections: Vec<Connection>,
    next_port: u16,
}

fn new_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

/// Starts a connection without waiting for it.
fn start(to: SocketAddrV4) -> std::io::Result<TcpStream> {
    let fd = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    match connect(&fd, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(fd)),
        Err(error) => Err(error.into()),
    }
}

impl Tcp {
    pub(super) fn new(forwards: &[Forward]) -> Result<Self, NetworkError> {
        let mut listeners = Vec::new();
        for forward in forwards.iter().filter(|forward| forward.protocol == Protocol::Tcp) {
            let listener =
                TcpListener::bind(forward.host).map_err(|error| NetworkError::Listen(forward.host, error))?;
            listener.set_nonblocking(true)?;
            listeners.push((listener, forward.guest));
        }
        Ok(Self { listeners, opening: Vec::new(), connections: Vec::new(), next_port: FIRST_PORT })
    }

    /// The guest opens a connection. Frames for the stack are returned: the guest's own, if the connection is there
    /// already, or if it is refused.
    pub(super) fn open(
        &mut self,
        from: SocketAddrV4,
        to: SocketAddrV4,
        frame: Vec<u8>,
        sockets: &SocketSet<'_>,
    ) -> Option<Vec<u8>> {
        let endpoint = |address: SocketAddrV4| (IpAddress::Ipv4(*address.ip()), address.port()).into();
        let exists = self.connections.iter().any(|connection| {
            let socket = sockets.get::<tcp::Socket<'_>>(connection.socket);
            socket.remote_endpoint() == Some(endpoint(from)) && socket.local_endpoint() == Some(endpoint(to))
        });
        if exists {
            return Some(frame);
        }
        if self.opening.iter().any(|opening| (opening.from, opening.to) == (from, to)) {
            return None;
        }
        if self.connections.len() + self.opening.len() >= MAX_CONNECTIONS {
            return Some(frame);
        }
        let target = if *to.ip() == GATEWAY { SocketAddrV4::new(Ipv4Addr::LOCALHOST, to.port()) } else { to };
        match start(target) {
            Ok(stream) => {
                self.opening.push(Opening { from, to, stream, frame });
                None
            }
            // Without a listening socket the stack resets the connection.
            Err(_) => Some(frame),
        }
    }

    /// What to wait for.
    pub(super) fn poll_fds<'a>(&'a self, sockets: &SocketSet<'_>, fds: &mut Vec<PollFd<'a>>) {
        for (listener, _) in &self.listeners {
            fds.push(PollFd::new(listener, PollFlags::IN));
        }
        for opening in &self.opening {
            fds.push(PollFd::new(&opening.stream, PollFlags::OUT));
        }
        for connection in &self.connections {
            let socket = sockets.get::<tcp::Socket<'_>>(connection.socket);
            let mut events = PollFlags::empty();
            if !connection.host_done && socket.can_send() {
                events |= PollFlags::IN;
            }
            if socket.can_recv() {
                events |= PollFlags::OUT;
            }
            // A closed stream would wake for ever.
            if !events.is_empty() {
                fds.push(PollFd::new(&connection.stream, events));
            }
        }
    }

    /// Looks at connections that are being opened, and at forwarded ports; frames for the stack are appended.
    pub(super) fn accept(
        &mut self,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
        frames: &mut Vec<Vec<u8>>,
    ) {
        let mut index = 0;
        while index < self.opening.len() {
            let stream = &self.opening[index].stream;
            let ready = match (stream.take_error(), stream.peer_addr()) {
                (Ok(None), Ok(_)) => Some(true),
                (Ok(None), Err(error)) if error.kind() == ErrorKind::NotConnected => None,
                _ => Some(false),
            };
            let Some(connected) = ready else {
                index += 1;
                continue;
            };
            let Opening { to, stream, frame, .. } = self.opening.swap_remove(index);
            if connected {
                let mut socket = new_socket();
                let local = IpListenEndpoint { addr: Some(IpAddress::Ipv4(*to.ip())), port: to.port() };
                if socket.listen(local).is_ok() {
                    self.add(stream, sockets.add(socket));
                }
            }
            frames.push(frame);
        }
        for index in 0..self.listeners.len() {
            while self.connections.len() < MAX_CONNECTIONS {
                let (listener, guest) = &self.listeners[index];
                let Ok((stream, _)) = listener.accept() else { break };
                if stream.set_nonblocking(true).is_err() {
                    continue;
                }
                let mut socket = new_socket();
                let port = self.next_port;
                self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
                let local = (IpAddress::Ipv4(GATEWAY), port);
                let remote = (IpAddress::Ipv4(*guest.ip()), guest.port());
                if socket.connect(interface.context(), remote, local).is_ok() {
                    self.add(stream, sockets.add(socket));
                }
            }
        }
    }

    fn add(&mut self, stream: TcpStream, socket: SocketHandle) {
        // Without it, small answers wait; a stream without the option works, too.
        let _ = stream.set_nodelay(true);
        self.connections.push(Connection { stream, socket, host_done: false, guest_done: false });
    }

    /// Moves bytes between the stack's sockets and the host's; whether any moved.
    pub(super) fn pump(&mut self, sockets: &mut SocketSet<'static>) -> bool {
        let mut moved = false;
        self.connections.retain_mut(|connection| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(connection.socket);
            moved |= connection.pump(socket);
            let over = socket.state() == tcp::State::Closed
                || (connection.host_done && connection.guest_done && socket.state() == tcp::State::TimeWait);
            if over {
                sockets.remove(connection.socket);
            }
            !over
        });
        moved
    }
}

impl Connection {
    fn pump(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        let mut moved = false;
        while socket.can_recv() {
            let stream = &mut self.stream;
            let mut result = Ok(0);
            let taken = socket.recv(|data| {
                result = stream.write(data);
                (*result.as_ref().unwrap_or(&0), ())
            });
            match (result, taken) {
                (Ok(n), Ok(())) if n > 0 => moved = true,
                (Err(error), _) if error.kind() == ErrorKind::WouldBlock => break,
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                _ => {
                    socket.abort();
                    return true;
                }
            }
        }
        if !self.guest_done && guest_has_closed(socket) && !socket.can_recv() {
            self.guest_done = true;
            // The other side may have closed it already.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        while !self.host_done && socket.can_send() {
            let stream = &mut self.stream;
            let mut result = Ok(0);
            let sent = socket.send(|room| {
                result = stream.read(room);
                (*result.as_ref().unwrap_or(&0), ())
            });
            match (result, sent) {
                (Ok(0), _) => self.host_done = true,
                (Ok(_), Ok(())) => moved = true,
                (Err(error), _) if error.kind() == ErrorKind::WouldBlock => break,
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                _ => {
                    socket.abort();
                    return true;
                }
            }
        }
        // Not before all is sent: in LAST-ACK the stack takes the guest's window updates for duplicates.
        if self.host_done && socket.may_send() && socket.send_queue() == 0 {
            socket.close();
            moved = true;
        }
        moved
    }
}

/// Whether the guest has sent its FIN.
fn guest_has_closed(socket: &tcp::Socket<'_>) -> bool {
    use tcp::State;
    matches!(
        socket.state(),
        State::CloseWait | State::LastAck | State::Closing | State::TimeWait | State::Closed
    )
}
