//! Files of the shared folder, by paths from its root. No path leaves it: each one is resolved by the kernel beneath the
//! root's descriptor, without following symbolic links (`openat2(2)`).

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dev, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat, Timespec, Timestamps, Uid, fstat,
    linkat, mkdirat, open, openat2, readlinkat, renameat, symlinkat, unlinkat, utimensat,
};
use rustix::fs::{Gid, chownat};
use rustix::io::Errno;
use std::fs::File;
use std::mem::MaybeUninit;
use std::path::Path;

/// The longest path from the root.
const MAX_PATH: usize = 4095;
/// Permission bits that a guest may set: no set-user-ID and set-group-ID programs appear on the host.
const PERMISSIONS: u32 = 0o1777;

/// A path from the root: names that are no `.` and no `..`, with slashes between; the root is empty.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct FilePath(Vec<u8>);

/// Whether a directory can have an entry of this name.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

/// A name for a new or existing entry.
pub(super) fn checked(name: &[u8]) -> Result<&[u8], Errno> {
    if is_name(name) { Ok(name) } else { Err(Errno::INVAL) }
}

impl FilePath {
    /// The entry of this name, or for `..` the parent; the root's parent is the root.
    pub(super) fn step(&self, name: &[u8]) -> Result<Self, Errno> {
        match name {
            b"." => Ok(self.clone()),
            b".." => Ok(self.parent()),
            _ => self.child(name),
        }
    }

    pub(super) fn child(&self, name: &[u8]) -> Result<Self, Errno> {
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(checked(name).map_err(|_| Errno::NOENT)?);
        if path.len() > MAX_PATH { Err(Errno::NAMETOOLONG) } else { Ok(Self(path)) }
    }

    pub(super) fn parent(&self) -> Self {
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Self(self.0[..end].to_vec())
    }

    pub(super) fn name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Where this is after `from` (itself, or a folder around it) has become `to`.
    pub(super) fn moved(&self, from: &Self, to: &Self) -> Option<Self> {
        let rest = self.0.strip_prefix(&from.0[..])?;
        let inside = rest.is_empty() || rest[0] == b'/';
        (inside && !from.is_root()).then(|| Self([&to.0[..], rest].concat()))
    }
}

/// The folder.
pub(super) struct Folder {
    root: OwnedFd,
}

/// What a change of attributes sets.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) mode: Option<u32>,
    pub(super) owner: (Option<u32>, Option<u32>),
    pub(super) size: Option<u64>,
    /// Access and modification.
    pub(super) times: (Option<NewTime>, Option<NewTime>),
}

/// A time to set: seconds and nanoseconds, or the present.
pub(super) type NewTime = Option<(u64, u64)>;

/// One entry of a directory.
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: FileType,
    pub(super) number: u64,
    /// Where reading goes on after it.
    pub(super) next: u64,
}

impl Folder {
    /// Opens the folder, and sees that the kernel can keep paths beneath it.
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let root = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let folder = Self { root };
        folder.path(&FilePath::default()).map_err(|errno| match errno {
            Errno::NOSYS => std::io::Error::other("sharing needs Linux 5.6 or later"),
            other => other.into(),
        })?;
        Ok(folder)
    }

    fn resolve(&self, path: &FilePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_root() { b"." } else { &path.0[..] };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        // The kernel gives up if something is renamed meanwhile.
        for _ in 0..64 {
            match openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// A descriptor that names the file, whatever it is.
    pub(super) fn path(&self, path: &FilePath) -> Result<OwnedFd, Errno> {
        self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    fn directory(&self, path: &FilePath) -> Result<OwnedFd, Errno> {
        self.resolve(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    pub(super) fn stat(&self, path: &FilePath) -> Result<Stat, Errno> {
        fstat(self.path(path)?)
    }

    /// Opens a file or a directory. Anything else is nothing that a guest has to reach: pipes and devices of the host.
    pub(super) fn open_file(&self, path: &FilePath, flags: OFlags) -> Result<File, Errno> {
        let named = self.path(path)?;
        match FileType::from_raw_mode(fstat(&named)?.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory if flags & OFlags::ACCMODE == OFlags::RDONLY => {}
            FileType::Directory => return Err(Errno::ISDIR),
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::ACCESS),
        }
        reopen(&named, flags).map(File::from)
    }

    pub(super) fn create(&self, path: &FilePath, flags: OFlags, mode: u32) -> Result<File, Errno> {
        let parent = self.directory(&path.parent())?;
        let flags = flags | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = openat2(&parent, path.name(), flags, permissions(mode), resolve)?;
        match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(File::from(file)),
            _ => Err(Errno::ACCESS),
        }
    }

    pub(super) fn make_directory(&self, path: &FilePath, mode: u32) -> Result<(), Errno> {
        mkdirat(self.directory(&path.parent())?, path.name(), permissions(mode))
    }

    pub(super) fn make_symlink(&self, path: &FilePath, target: &[u8]) -> Result<(), Errno> {
        symlinkat(target, self.directory(&path.parent())?, path.name())
    }

    pub(super) fn read_symlink(&self, path: &FilePath) -> Result<Vec<u8>, Errno> {
        Ok(readlinkat(self.path(path)?, c"", Vec::new())?.into_bytes())
    }

    pub(super) fn link(&self, from: &FilePath, to: &FilePath) -> Result<(), Errno> {
        let (source, target) = (self.directory(&from.parent())?, self.directory(&to.parent())?);
        linkat(source, from.name(), target, to.name(), AtFlags::empty())
    }

    pub(super) fn rename(&self, from: &FilePath, to: &FilePath) -> Result<(), Errno> {
        let (source, target) = (self.directory(&from.parent())?, self.directory(&to.parent())?);
        renameat(source, from.name(), target, to.name())
    }

    pub(super) fn remove(&self, path: &FilePath, directory: bool) -> Result<(), Errno> {
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        unlinkat(self.directory(&path.parent())?, path.name(), flags)
    }

    pub(super) fn change(&self, path: &FilePath, changes: &Changes) -> Result<(), Errno> {
        let named = self.path(path)?;
        let kind = FileType::from_raw_mode(fstat(&named)?.st_mode);
        if let Some(mode) = changes.mode {
            if kind == FileType::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            rustix::fs::chmod(proc_path(&named), permissions(mode))?;
        }
        if let (owner, group) = changes.owner
            && (owner.is_some() || group.is_some())
        {
            let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
            chownat(&named, c"", owner, group, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(size) = changes.size {
            if kind != FileType::RegularFile {
                return Err(Errno::INVAL);
            }
            rustix::fs::ftruncate(reopen(&named, OFlags::WRONLY)?, size)?;
        }
        if let (access, modification) = changes.times
            && (access.is_some() || modification.is_some())
        {
            let time = |time: Option<Option<(u64, u64)>>| match time {
                None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ },
                Some(None) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW as _ },
                Some(Some((seconds, nanoseconds))) => {
                    Timespec { tv_sec: seconds as i64, tv_nsec: (nanoseconds % 1_000_000_000) as _ }
                }
            };
            let times = Timestamps { last_access: time(access), last_modification: time(modification) };
            utimensat(&named, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    /// The size of the whole file system, and what is free.
    pub(super) fn statfs(&self, path: &FilePath) -> Result<rustix::fs::StatVfs, Errno> {
        rustix::fs::fstatvfs(self.path(path)?)
    }
}

/// Entries of an open directory from `offset` on, as long as `each` takes them.
pub(super) fn read_directory(
    file: &File,
    offset: u64,
    mut each: impl FnMut(Entry) -> bool,
) -> Result<(), Errno> {
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(offset))?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
    let mut entries = RawDir::new(file.as_fd(), &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let entry = Entry {
            name: entry.file_name().to_bytes().to_vec(),
            kind: entry.file_type(),
            number: entry.ino(),
            next: entry.next_entry_cookie(),
        };
        if !each(entry) {
            break;
        }
    }
    Ok(())
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & PERMISSIONS)
}

/// The very file that a descriptor names, by the kernel's own link to it.
fn proc_path(named: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", named.as_raw_fd())
}

fn reopen(named: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    open(proc_path(named), flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::empty())
}

/// A number for a file that is unique in the share, also with several file systems inside.
pub(super) fn number(device: Dev, inode: u64) -> u64 {
    inode ^ device.rotate_left(40)
}
