//! 9P2000.L on the wire: little-endian numbers, and strings after their 16-bit lengths.

use rustix::io::Errno;

/// Message types of requests; a reply's is one more.
pub(super) mod request {
    #![allow(missing_docs, reason = "the messages' own names")]
    pub const STATFS: u8 = 8;
    pub const LOPEN: u8 = 12;
    pub const LCREATE: u8 = 14;
    pub const SYMLINK: u8 = 16;
    pub const MKNOD: u8 = 18;
    pub const RENAME: u8 = 20;
    pub const READLINK: u8 = 22;
    pub const GETATTR: u8 = 24;
    pub const SETATTR: u8 = 26;
    pub const READDIR: u8 = 40;
    pub const FSYNC: u8 = 50;
    pub const LOCK: u8 = 52;
    pub const GETLOCK: u8 = 54;
    pub const LINK: u8 = 70;
    pub const MKDIR: u8 = 72;
    pub const RENAMEAT: u8 = 74;
    pub const UNLINKAT: u8 = 76;
    pub const VERSION: u8 = 100;
    pub const ATTACH: u8 = 104;
    pub const FLUSH: u8 = 108;
    pub const WALK: u8 = 110;
    pub const READ: u8 = 116;
    pub const WRITE: u8 = 118;
    pub const CLUNK: u8 = 120;
    pub const REMOVE: u8 = 122;
}

/// The reply of a request that fails.
const RLERROR: u8 = 7;
/// Bytes of size, type and tag.
pub(super) const HEADER: usize = 7;

/// The fields of a request.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Type, tag and fields of a request; `None` if it is too short for an answer.
    pub(super) fn new(request: &'a [u8]) -> Option<(u8, u16, Self)> {
        let (header, fields) = request.split_at_checked(HEADER)?;
        Some((header[4], u16::from_le_bytes([header[5], header[6]]), Self(fields)))
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Errno::PROTO)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        self.bytes(N)?.try_into().map_err(|_| Errno::PROTO)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Errno> {
        self.number().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Errno> {
        self.number().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Errno> {
        self.number().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Errno> {
        self.number().map(u64::from_le_bytes)
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Errno> {
        let len = self.u16()?;
        self.bytes(len.into())
    }
}

/// What a file is to the client: type, version, number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Qid {
    pub(super) kind: u8,
    pub(super) version: u32,
    pub(super) path: u64,
}

/// A reply in the making.
#[derive(Default)]
pub(super) struct Reply(Vec<u8>);

impl Reply {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn qid(self, qid: Qid) -> Self {
        self.u8(qid.kind).u32(qid.version).u64(qid.path)
    }

    /// A string of at most 65,535 bytes.
    pub(super) fn string(self, text: &[u8]) -> Self {
        let text = &text[..text.len().min(usize::from(u16::MAX))];
        self.u16(text.len() as u16).bytes(text)
    }

    /// The fields without a header.
    pub(super) fn fields(&self) -> &[u8] {
        &self.0
    }
}

/// The whole message that answers a request.
pub(super) fn message(kind: u8, tag: u16, result: Result<Reply, Errno>) -> Vec<u8> {
    let (kind, fields) = match result {
        Ok(reply) => (kind.wrapping_add(1), reply.0),
        Err(errno) => (RLERROR, (errno.raw_os_error() as u32).to_le_bytes().to_vec()),
    };
    let mut message = ((HEADER + fields.len()) as u32).to_le_bytes().to_vec();
    message.push(kind);
    message.extend(tag.to_le_bytes());
    message.extend(fields);
    message
}
