//! Folders of the host that the guest mounts by 9P over virtio. Requests are served in a thread of their own; replies come
//! back through the machine's one queue of inputs, and so into recordings.

mod folder;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use crate::{HostEvent, MachineHandle};
use folder::Folder;
use ringworld_devices::virtio::ShareBackend;
use serde::{Deserialize, Serialize};
use server::Server;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Requests that may wait; more make the machine wait.
const MAX_REQUESTS: usize = 256;

/// A folder that the guest can mount: `mount -t 9p -o trans=virtio,version=9p2000.L TAG /mnt`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Share {
    /// The folder.
    pub folder: PathBuf,
    /// What the guest calls it.
    pub tag: String,
    /// Nothing in it can be changed.
    pub read_only: bool,
}

/// A folder cannot be shared.
#[derive(Debug, thiserror::Error)]
#[error("cannot share {}: {}", .0.display(), .1)]
pub struct ShareError(PathBuf, std::io::Error);

/// The machine's end.
struct GuestSide {
    requests: SyncSender<(u32, Vec<u8>)>,
    /// The machine repeats its past: the server has seen these requests.
    muted: Arc<AtomicBool>,
}

impl ShareBackend for GuestSide {
    fn request(&mut self, number: u32, request: Vec<u8>) {
        if !self.muted.load(Ordering::Relaxed) {
            // Waits for the server if need be: a lost request would never be answered. Without a server, as in a
            // replay, answers come from the recording.
            let _ = self.requests.send((number, request));
        }
    }
}

/// A server that has not begun to work.
pub(crate) struct Prepared {
    server: Server,
    requests: Receiver<(u32, Vec<u8>)>,
}

/// Makes the device's side, and the one that [`Prepared::start`] runs.
pub(crate) fn prepare(
    share: &Share,
    muted: Arc<AtomicBool>,
) -> Result<(Box<dyn ShareBackend>, Prepared), ShareError> {
    let folder = Folder::open(&share.folder).map_err(|error| ShareError(share.folder.clone(), error))?;
    let (sender, requests) = sync_channel(MAX_REQUESTS);
    let prepared = Prepared { server: Server::new(folder, share.read_only), requests };
    Ok((Box::new(GuestSide { requests: sender, muted }), prepared))
}

impl Prepared {
    /// Serves for as long as the device exists. Replies go to share `port`.
    pub(crate) fn start(mut self, port: usize, handle: MachineHandle) {
        std::thread::spawn(move || {
            let reply = |reply: Vec<u8>| handle.send(HostEvent::Share { port, reply: reply.into() });
            // Of requests that a snapshot's machine had made, nobody knows any more.
            reply(Vec::new());
            while let Ok((number, request)) = self.requests.recv() {
                let mut bytes = number.to_le_bytes().to_vec();
                bytes.extend(self.server.answer(&request));
                reply(bytes);
            }
        });
    }
}
