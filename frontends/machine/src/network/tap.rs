//! A network interface of the host's kernel (Linux Documentation/networking/tuntap.rst).

use super::NetworkError;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{PipeReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Receiver, TryRecvError};

const DEVICE: &str = "/dev/net/tun";
/// The longest frame that may come: Ethernet's header and the longest packet.
const MAX_FRAME: usize = 14 + 65_535;
/// The most frames that go to the machine at once.
const BATCH: usize = 64;

/// An interface that nobody reads yet.
pub(super) struct Tap(File);

impl Tap {
    /// Opens the interface of this name, or makes it, if that is allowed.
    pub(super) fn open(name: &str) -> Result<Self, NetworkError> {
        let failed = |error: std::io::Error| {
            let advice = match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::PERM | Errno::ACCESS) => {
                    format!(": let somebody who may do it run `ip tuntap add {name} mode tap user $USER`")
                }
                Some(Errno::BUSY) => ": somebody else uses it".into(),
                Some(Errno::INVAL) => ": it is no tap interface, or one with several queues".into(),
                _ => String::new(),
            };
            NetworkError::Tap(name.into(), error, advice)
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open(DEVICE).map_err(|error| {
            NetworkError::Tap(
                name.into(),
                std::io::Error::new(error.kind(), format!("{DEVICE}: {error}")),
                String::new(),
            )
        })?;
        // SAFETY: all zeros is a value of this plain struct.
        let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
        // The last byte of the name stays zero.
        for (to, byte) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
            *to = byte as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the request is what this call takes, and lives as long as the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) } < 0 {
            return Err(failed(std::io::Error::last_os_error()));
        }
        Ok(Self(file))
    }

    /// Carries frames both ways until the guest's card is gone.
    pub(super) fn run(
        mut self,
        frames: &Receiver<Vec<u8>>,
        mut wake: PipeReader,
        mut send: impl FnMut(Vec<Vec<u8>>),
    ) {
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            let mut bytes = [0; 4096];
            while matches!(wake.read(&mut bytes), Ok(n) if n == bytes.len()) {}
            loop {
                match frames.try_recv() {
                    // What the interface does not take (it may be down) is lost, as on a wire.
                    Ok(frame) => drop(self.0.write(&frame)),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let mut batch = Vec::new();
            while batch.len() < BATCH
                && let Ok(len @ 1..) = self.0.read(&mut buffer)
            {
                batch.push(buffer[..len].to_vec());
            }
            if batch.is_empty() {
                let mut fds = [PollFd::new(&wake, PollFlags::IN), PollFd::new(&self.0, PollFlags::IN)];
                // Interrupted or not, both are looked at again.
                let _ = poll(&mut fds, None);
                if fds[1].revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
                    // The interface was removed: the card has no link partner any more.
                    return;
                }
            } else {
                send(batch);
            }
        }
    }
}
