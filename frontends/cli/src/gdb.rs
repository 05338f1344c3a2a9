//! `--gdb`: where gdb connects, and when its session gets the machine.

use crate::terminal;
use anyhow::Context;
use ringworld_gdb::{Host, SessionEnd, serve_tcp};
use ringworld_machine::{Machine, MachineHandle};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

/// `[ADDR:]PORT`; the loopback interface unless said otherwise.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text).parse();
    let address = match port {
        Ok(port) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        Err(_) => text.parse().ok(),
    };
    address.ok_or_else(|| "give a port, or ADDRESS:PORT".into())
}

/// Listens for gdb.
pub struct GdbServer {
    connections: Receiver<TcpStream>,
    /// The guest waits for the first connection.
    wait: bool,
}

impl GdbServer {
    /// Begins to listen. A connection stops the machine.
    pub fn listen(address: SocketAddr, wait: bool, handle: MachineHandle) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen for gdb on {address}: choose another port"))?;
        let local = listener.local_addr()?;
        say!("ringworld: gdb: target remote {local}\r\n");
        let (sender, connections) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if sender.send(stream).is_err() {
                    return;
                }
                handle.notify();
            }
        });
        Ok(Self { connections, wait })
    }

    /// gdb, if it has connected.
    pub fn connection(&mut self) -> Option<TcpStream> {
        if std::mem::take(&mut self.wait) {
            self.connections.recv().ok()
        } else {
            self.connections.try_recv().ok()
        }
    }
}

/// Gives the machine to gdb until the session ends. A session that breaks is told, and is as good as one that gdb has ended.
pub fn session(machine: &mut Machine, stream: TcpStream, host: &mut impl Host) -> SessionEnd {
    serve_tcp(machine, stream, host).unwrap_or_else(|error| {
        terminal::restore();
        say_line!("ringworld: {error}");
        SessionEnd::Detached
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, address) in [
            ("1234", "127.0.0.1:1234"),
            (":1234", "127.0.0.1:1234"),
            ("0.0.0.0:5", "0.0.0.0:5"),
            ("[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(parse_address(text), Ok(address.parse().unwrap()), "{text}");
        }
        for text in ["", "x", "70000", "host:1", "1.2.3.4"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
