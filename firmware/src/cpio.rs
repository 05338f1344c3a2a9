//! A writer for the "newc" cpio format, which Linux unpacks as its initial file system (Linux
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeMap;
use thiserror::Error;

/// Why an archive cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CpioError {
    /// Linux ignores longer names, and a zero byte would end them.
    #[error(
        "the path {0:?} cannot be in an initramfs: a path is relative or absolute, without '.' and '..', and under 4096 bytes"
    )]
    BadPath(String),
    /// The format's sizes have 32 bits.
    #[error("{0} is 4 GiB or larger, which an initramfs cannot hold: leave it out")]
    TooLarge(String),
    /// Something is both a directory and not one.
    #[error("{0} is in the initramfs as a directory and as something else: rename one of them")]
    NotADirectory(String),
}

/// Linux's PATH_MAX, which counts the terminating zero.
const PATH_MAX: usize = 4096;
const HEADER_LENGTH: usize = 110;
const TRAILER: &str = "TRAILER!!!";
/// Archives are padded to whole blocks, as cpio does.
const BLOCK: usize = 512;

/// The file type in a mode.
const S_IFMT: u32 = 0o170_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const PERMISSIONS: u32 = 0o7777;

struct Node {
    mode: u32,
    data: Vec<u8>,
    /// Major and minor number.
    device: (u32, u32),
}

impl Node {
    fn is_directory(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }
}

/// An archive in the making. Entries come out sorted by path, owned by root, with time stamps of zero: the same
/// entries give the same bytes. A later entry replaces an earlier one of the same path.
#[derive(Default)]
pub struct Archive {
    nodes: BTreeMap<String, Node>,
}

impl Archive {
    /// An archive without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory with these permission bits; missing parents follow with 0755.
    pub fn directory(&mut self, path: &str, permissions: u32) -> Result<&mut Self, CpioError> {
        self.add(path, S_IFDIR | permissions & PERMISSIONS, Vec::new(), (0, 0))
    }

    /// Adds a file.
    pub fn file(
        &mut self,
        path: &str,
        permissions: u32,
        data: impl Into<Vec<u8>>,
    ) -> Result<&mut Self, CpioError> {
        self.add(path, S_IFREG | permissions & PERMISSIONS, data.into(), (0, 0))
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<&mut Self, CpioError> {
        if target.is_empty() || target.len() >= PATH_MAX || target.contains('\0') {
            return Err(CpioError::BadPath(target.into()));
        }
        self.add(path, S_IFLNK | 0o777, target.into(), (0, 0))
    }

    /// Adds a character device.
    pub fn character_device(
        &mut self,
        path: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> Result<&mut Self, CpioError> {
        self.add(path, S_IFCHR | permissions & PERMISSIONS, Vec::new(), (major, minor))
    }

    fn add(
        &mut self,
        path: &str,
        mode: u32,
        data: Vec<u8>,
        device: (u32, u32),
    ) -> Result<&mut Self, CpioError> {
        let bad = || CpioError::BadPath(path.into());
        let path = path.strip_prefix('/').unwrap_or(path);
        let component_is_bad =
            |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
        if path.len() >= PATH_MAX || path.split('/').any(component_is_bad) || path == TRAILER {
            return Err(bad());
        }
        if u32::try_from(data.len()).is_err() {
            return Err(CpioError::TooLarge(path.into()));
        }
        for (index, _) in path.match_indices('/') {
            let parent = self.nodes.entry(path[..index].into());
            let parent =
                parent.or_insert_with(|| Node { mode: S_IFDIR | 0o755, data: Vec::new(), device: (0, 0) });
            if !parent.is_directory() {
                return Err(CpioError::NotADirectory(path[..index].into()));
            }
        }
        let node = Node { mode, data, device };
        if !node.is_directory() && self.nodes.get(path).is_some_and(Node::is_directory) {
            return Err(CpioError::NotADirectory(path.into()));
        }
        self.nodes.insert(path.into(), node);
        Ok(self)
    }

    /// The archive's bytes.
    pub fn finish(&self) -> Vec<u8> {
        let sizes = self.nodes.iter().map(|(path, node)| HEADER_LENGTH + path.len() + node.data.len() + 8);
        let mut out = Vec::with_capacity(sizes.sum::<usize>() + BLOCK);
        for (index, (path, node)) in self.nodes.iter().enumerate() {
            write_entry(&mut out, index as u32 + 1, path, node);
        }
        write_entry(&mut out, 0, TRAILER, &Node { mode: 0, data: Vec::new(), device: (0, 0) });
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }
}

/// Writes the header of 13 fields of eight hexadecimal digits, the name and the data, each padded to 4 bytes.
fn write_entry(out: &mut Vec<u8>, inode: u32, path: &str, node: &Node) {
    let links = if node.is_directory() { 2 } else { 1 };
    let (major, minor) = node.device;
    let (size, name_size) = (node.data.len() as u32, path.len() as u32 + 1);
    out.extend_from_slice(b"070701");
    // Inode, mode, user, group, links, time, size, the archive's device, the node's device, name size, checksum.
    for field in [inode, node.mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0] {
        out.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(&node.data);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn sample() -> Archive {
        let mut archive = Archive::new();
        archive.file("/sbin/deep/tool", 0o755, *b"hello").unwrap();
        archive.directory("tmp", 0o1777).unwrap();
        archive.symlink("bin/sh", "busybox").unwrap();
        archive.character_device("dev/console", 0o600, 5, 1).unwrap();
        archive.file("empty", 0o644, *b"").unwrap();
        archive
    }

    /// What GNU cpio lists; `None` without GNU cpio.
    fn list(archive: &[u8]) -> Option<String> {
        let mut child = Command::new("cpio")
            .args(["-tv", "--numeric-uid-gid", "--quiet"])
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        child.stdin.take().unwrap().write_all(archive).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        Some(String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn cpio_reads_what_is_written() {
        let Some(listing) = list(&sample().finish()) else {
            // Past the test runner, which keeps what passing tests print.
            writeln!(std::io::stderr(), "skipped cpio_reads_what_is_written: cpio is not installed").unwrap();
            return;
        };
        let fields: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
        let brief: Vec<(&str, &str)> = fields.iter().map(|line| (line[0], *line.last().unwrap())).collect();
        assert_eq!(
            brief,
            [
                ("drwxr-xr-x", "bin"),
                ("lrwxrwxrwx", "busybox"),
                ("drwxr-xr-x", "dev"),
                ("crw-------", "dev/console"),
                ("-rw-r--r--", "empty"),
                ("drwxr-xr-x", "sbin"),
                ("drwxr-xr-x", "sbin/deep"),
                ("-rwxr-xr-x", "sbin/deep/tool"),
                ("drwxrwxrwt", "tmp"),
            ],
            "{listing}"
        );
        assert!(listing.contains("5,   1"), "{listing}");
    }

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let mut other = Archive::new();
        other.file("empty", 0o600, *b"replaced below").unwrap();
        other.character_device("/dev/console", 0o600, 5, 1).unwrap();
        other.symlink("bin/sh", "busybox").unwrap();
        other.directory("tmp", 0o1777).unwrap();
        other.file("sbin/deep/tool", 0o755, *b"hello").unwrap();
        other.file("empty", 0o644, *b"").unwrap();
        assert_eq!(other.finish(), sample().finish());
    }

    #[test]
    fn headers_follow_the_format() {
        let bytes = sample().finish();
        assert_eq!(bytes.len() % BLOCK, 0);
        assert_eq!(&bytes[..6], b"070701");
        // The first entry is "bin": mode, name size, name.
        assert_eq!(&bytes[14..22], b"000041ED");
        assert_eq!(&bytes[94..102], b"00000004");
        assert_eq!(&bytes[110..114], b"bin\0");
    }

    #[test]
    fn impossible_entries_are_refused() {
        let mut archive = sample();
        for path in ["", "/", "a//b", "a/../b", "./a", "a\0b", "TRAILER!!!", &"x".repeat(4096)] {
            assert!(matches!(archive.file(path, 0o644, *b""), Err(CpioError::BadPath(_))), "{path:?}");
        }
        assert!(matches!(archive.file("empty/file", 0o644, *b""), Err(CpioError::NotADirectory(_))));
        assert!(matches!(archive.file("sbin", 0o644, *b""), Err(CpioError::NotADirectory(_))));
        assert!(matches!(archive.symlink("link", ""), Err(CpioError::BadPath(_))));
    }
}
