//! A server of 9P2000.L: what each message does. Linux Documentation/filesystems/9p.rst; the messages are those of
//! diod's protocol.md and Plan 9's intro(5).

use super::folder::{Changes, FilePath, Folder, checked, number, read_directory};
use super::wire::{Fields, HEADER, Qid, Reply, message, request};
use rustix::fs::{FileType, OFlags, Stat, fstat};
use rustix::io::{Errno, pread, pwrite};
use std::collections::HashMap;
use std::fs::File;

const VERSION: &[u8] = b"9P2000.L";
/// The largest message: Linux's virtio transport has at most 125 pages.
pub(super) const MAX_MESSAGE: u32 = 512 << 10;
/// Names of files that a client may hold, and how many of them opened: what it can make the host keep.
const MAX_FIDS: usize = 16 << 10;
const MAX_OPEN: usize = 512;
/// The most names of one walk (P9_MAXWELEM).
const MAX_WALK: u16 = 16;

/// Qid types.
const QID_DIRECTORY: u8 = 0x80;
const QID_SYMLINK: u8 = 0x02;
/// Attributes of a reply: all but birth time, generation and data version.
const BASIC_ATTRIBUTES: u64 = 0x7ff;
/// Flags of [`request::SETATTR`].
const SET_MODE: u32 = 1;
const SET_UID: u32 = 2;
const SET_GID: u32 = 4;
const SET_SIZE: u32 = 8;
const SET_ATIME: u32 = 0x10;
const SET_MTIME: u32 = 0x20;
const SET_ATIME_VALUE: u32 = 0x80;
const SET_MTIME_VALUE: u32 = 0x100;
/// Of [`request::UNLINKAT`].
const REMOVE_DIRECTORY: u32 = 0x200;
/// Of [`request::GETLOCK`]: nobody holds a lock.
const UNLOCKED: u8 = 2;
/// The file system's type as `statfs` shows it.
const V9FS_MAGIC: u32 = 0x0102_1997;

struct Fid {
    path: FilePath,
    file: Option<File>,
}

/// One client's session.
pub(super) struct Server {
    folder: Folder,
    read_only: bool,
    fids: HashMap<u32, Fid>,
    max_message: u32,
}

fn qid(stat: &Stat) -> Qid {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => QID_DIRECTORY,
        FileType::Symlink => QID_SYMLINK,
        _ => 0,
    };
    let version = (stat.st_mtime as u32).rotate_left(16) ^ stat.st_mtime_nsec as u32;
    Qid { kind, version, path: number(stat.st_dev, stat.st_ino) }
}

/// Access mode and truncation; appending is the client's business, which gives an offset with each write.
fn open_flags(flags: u32) -> OFlags {
    OFlags::from_bits_retain(flags) & (OFlags::ACCMODE | OFlags::TRUNC)
}

impl Server {
    pub(super) fn new(folder: Folder, read_only: bool) -> Self {
        Self { folder, read_only, fids: HashMap::new(), max_message: MAX_MESSAGE }
    }

    /// Answers a request; an empty answer to one that is none.
    pub(super) fn answer(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Some((kind, tag, fields)) = Fields::new(bytes) else { return Vec::new() };
        let result = self.serve(kind, fields);
        message(kind, tag, result)
    }

    fn serve(&mut self, kind: u8, mut fields: Fields<'_>) -> Result<Reply, Errno> {
        let changes = [
            request::LCREATE,
            request::SYMLINK,
            request::MKNOD,
            request::RENAME,
            request::SETATTR,
            request::WRITE,
            request::REMOVE,
            request::LINK,
            request::MKDIR,
            request::RENAMEAT,
            request::UNLINKAT,
        ];
        if self.read_only && changes.contains(&kind) {
            // A removed fid is gone, also if the file is not.
            if kind == request::REMOVE {
                self.fids.remove(&fields.u32()?);
            }
            return Err(Errno::ROFS);
        }
        let fields = &mut fields;
        match kind {
            request::VERSION => self.version(fields),
            request::ATTACH => self.attach(fields),
            // Requests are served one after the other: the old one is done.
            request::FLUSH => Ok(Reply::default()),
            request::WALK => self.walk(fields),
            request::LOPEN => self.open(fields),
            request::LCREATE => self.create(fields),
            request::READ => self.read(fields),
            request::WRITE => self.write(fields),
            request::READDIR => self.readdir(fields),
            request::CLUNK => self.fids.remove(&fields.u32()?).map(|_| Reply::default()).ok_or(Errno::BADF),
            request::REMOVE => self.remove(fields),
            request::GETATTR => self.getattr(fields),
            request::SETATTR => self.setattr(fields),
            request::STATFS => self.statfs(fields),
            request::READLINK => {
                let target = self.folder.read_symlink(&self.fid(fields.u32()?)?.path)?;
                Ok(Reply::default().string(&target))
            }
            request::SYMLINK => {
                let path = self.new_entry(fields)?;
                self.folder.make_symlink(&path, fields.string()?)?;
                self.made(&path)
            }
            request::MKDIR => {
                let path = self.new_entry(fields)?;
                self.folder.make_directory(&path, fields.u32()?)?;
                self.made(&path)
            }
            // Pipes and devices on the host are not the guest's to make; a file is.
            request::MKNOD => {
                let path = self.new_entry(fields)?;
                let mode = fields.u32()?;
                if FileType::from_raw_mode(mode) != FileType::RegularFile {
                    return Err(Errno::PERM);
                }
                self.folder.create(&path, OFlags::WRONLY | OFlags::EXCL, mode)?;
                self.made(&path)
            }
            request::LINK => {
                let directory = self.fid(fields.u32()?)?.path.clone();
                let from = self.fid(fields.u32()?)?.path.clone();
                self.folder.link(&from, &directory.child(checked(fields.string()?)?)?)?;
                Ok(Reply::default())
            }
            request::RENAME => {
                let from = self.fid(fields.u32()?)?.path.clone();
                let to = self.new_entry(fields)?;
                self.rename(&from, &to)
            }
            request::RENAMEAT => {
                let from = self.new_entry(fields)?;
                let to = self.new_entry(fields)?;
                self.rename(&from, &to)
            }
            request::UNLINKAT => {
                let path = self.new_entry(fields)?;
                self.folder.remove(&path, fields.u32()? & REMOVE_DIRECTORY != 0)?;
                Ok(Reply::default())
            }
            request::FSYNC => {
                let fid = self.fid(fields.u32()?)?;
                fid.file.as_ref().ok_or(Errno::BADF)?.sync_all().map_err(errno)?;
                Ok(Reply::default())
            }
            // The guest is the only one that locks: its own kernel keeps the locks.
            request::LOCK => self.fid(fields.u32()?).map(|_| Reply::default().u8(0)),
            request::GETLOCK => {
                self.fid(fields.u32()?)?;
                let (_, start, length) = (fields.u8()?, fields.u64()?, fields.u64()?);
                let (process, client) = (fields.u32()?, fields.string()?);
                Ok(Reply::default().u8(UNLOCKED).u64(start).u64(length).u32(process).string(client))
            }
            // Authentication and extended attributes among them.
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    fn fid(&self, number: u32) -> Result<&Fid, Errno> {
        self.fids.get(&number).ok_or(Errno::BADF)
    }

    /// Gives a path a number of the client's.
    fn add(&mut self, number: u32, path: FilePath) -> Result<(), Errno> {
        if self.fids.len() >= MAX_FIDS {
            return Err(Errno::MFILE);
        }
        self.fids.insert(number, Fid { path, file: None });
        Ok(())
    }

    /// A directory's fid and a name: the path of that entry.
    fn new_entry(&self, fields: &mut Fields<'_>) -> Result<FilePath, Errno> {
        let directory = self.fid(fields.u32()?)?;
        directory.path.child(checked(fields.string()?)?)
    }

    fn made(&self, path: &FilePath) -> Result<Reply, Errno> {
        Ok(Reply::default().qid(qid(&self.folder.stat(path)?)))
    }

    fn version(&mut self, fields: &mut Fields<'_>) -> Result<Reply, Errno> {
        let (size, version) = (fields.u32()?, fields.string()?);
        // A new session.
        self.fids.clear();
        self.max_message = size.clamp(4096, MAX_MESSAGE);
        let version = if version == VERSION { VERSION } else { b"unknown" };
        Ok(Reply::default().u32(size.min(MAX_MESSAGE)).string(version))
    }

    fn attach(&mut self, fields: &mut Fields<'_>) -> Result<Reply, Errno> {
        let number = fields.u32()?;
        if self.fids.contains_key(&number) {
            return Err(Errno::BADF);
        }
        let root = FilePath::default();
        let stat = self.folder.stat(&root)?;
        self.add(number, root)?;
        Ok(Reply::default().qid(qid(&stat)))
    }

    fn walk(&mut self, fields: &mut Fields<'_>) -> Result<Reply, Errno> {
        let (from, to, count) = (fields.u32()?, fields.u32()?, fields.u16()?);
        let mut path = self.fid(from)?.path.clone();
        if count > MAX_WALK || (from != to && self.fids.contains_key(&to)) {
            return Err(Errno::INVAL);
        }
        let mut qids = Vec::new();
        for step in 0..count {
            let next = fields.string().and_then(|name| path.step(name));
            match next.and_then(|next| Ok((self.folder.stat(&next)?, next))) {
                Ok((stat, next)) => {
                    qids.push(qid(&stat));
                    path = next;
                }
                // The first name must be there; else the client learns how far it got.
                Err(errno) if step == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        if qids.len() == usize::from(count) {
            self.add(to, path)?;
        }
        Ok(qids.iter().fold(Reply::default().u16(qids.len() as u16), |reply, qid| reply.qid(*qid)))
    }

    fn open_count(&self) -> usize {
        self.fids.values().filter(|fid| fid.file.is_some()).count()
    }

    fn open(&mut self, fields: &mut Fields<'_>) -> Result<Reply, Errno> {
        let (number, flags) = (fields.u32()?, open_flags(fields.u32()?));
        if self.read_only && flags != OFlags::RDONLY {
            return Err(Errno::ROFS);
        }
        if self.open_count() >= MAX_OPEN {
            return Err(Errno::NFILE);
        }
        let fid = self.fids.get_mut(&number).ok_or(Errno::BADF)?;
        let file = self.folder.open_file(&fid.path, flags)?;
        let stat = fstat(&file)?;
        fid.file = Some(file);
        // No unit of input and output: the message's size bounds it.
        Ok(Reply::default().qid(qid(&stat)).u32(0))
    }

    fn create(&mut self, fields: &mut Fields<'_>) -> Result<Reply, Errno> {
        let number = fields.u32()?;
        let path = self.fid(number)?.path.child(checked(fields.string()?)?)?;
        let flags = fields.u32()?;
        let mode = fields.u32()?;
        if self.open_count() >= MAX_OPEN {
            return Err(Errno::NFILE);
        }
        let exclusive = OFlags::from_bits_retain(flags) & OFlags::EXCL;
        let file = self.folder.create(&path, open_flags(flags) | exclusive, mode)?;
        let stat = fstat(&file)?;
        // The directory's fid becomes the file's.
        self.fids.insert(number, Fid { path, file: Some(file) });
        Ok(Reply::default().qid(qid(&stat)).u32(0))
    }

    /// The most data of one message besides `fields` bytes of fields.
    fn room(&self, fields: usize) -> usize {
        (self.max_message as usize).saturating_sub(HEADER + fields)
    }

    fn read(&mut self, fields: &mut Fields<'_>) -> Result<Reply, Errno> {
        let (number, offset, count) = (fields.u32()?, fields.u64()?, fields.u32()?);
        let file = self.fid(number)?.file.as_ref().ok_or(Errno::BADF)?;
        let mut data = vec![0; (count as usize).min(self.room(4))];
        let len = pread(file, &mut data[..], offset)?;
        Ok(Reply::default().u32(len as u32).bytes(&data[..len]))
    }

    fn write(&mut self, fields: &mut Fields<'_>) -> Result<Reply, Errno> {
        let (number, offset, count) = (fields.u32()?, fields.u64()?, fields.u32()?);
        let file = self.fid(number)?.file.as_ref().ok_or(Errno::BADF)?;
        let len = pwrite(file, fields.bytes(count as usize)?, offset)?;
        Ok(Reply::default().u32(len as u32))
    }

    fn readdir(&mut self, fields: &mut Fields<'_>) -> Result<Reply, Errno> {
        let (number, offset, count) = (fields.u32()?, fields.u64()?, fields.u32()?);
        let file = self.fid(number)?.file.as_ref().ok_or(Errno::BADF)?;
        let room = (count as usize).min(self.room(4));
        let device = fstat(file)?.st_dev;
        let mut entries = Reply::default();
        read_directory(file, offset, |entry| {
            let kind = match entry.kind {
                FileType::Directory => QID_DIRECTORY,
                FileType::Symlink => QID_SYMLINK,
                _ => 0,
            };
            let qid = Qid { kind, version: 0, path: self::number(device, entry.number) };
            // The client takes the kind as dirent's type: 4 for directories, 10 for links, 8 for files.
            let kind = match entry.kind {
                FileType::Directory => 4,
                FileType::Symlink => 10,
                FileType::RegularFile => 8,
                _ => 0,
            };
            if entries.len() + 13 + 8 + 1 + 2 + entry.name.len() > room {
                return false;
            }
            entries = core::mem::take(&mut entries).qid(qid).u64(entry.next).u8(kind).string(&entry.name);
            true
        })?;
        Ok(Reply::default().u32(entries.len() as u32).bytes(entries.fields()))
    }

    fn remove(&mut self, fields: &mut Fields<'_>) -> Result<Reply, Errno> {
        let fid = self.fids.remove(&fields.u32()?).ok_or(Errno::BADF)?;
        if fid.path.is_root() {
            return Err(Errno::BUSY);
        }
        let directory = FileType::from_raw_mode(self.folder.stat(&fid.path)?.st_mode) == FileType::Directory;
        self.folder.remove(&fid.path, directory)?;
        Ok(Reply::default())
    }

    fn rename(&mut self, from: &FilePath, to: &FilePath) -> Result<Reply, Errno> {
        if from.is_root() {
            return Err(Errno::BUSY);
        }
        self.folder.rename(from, to)?;
        // The client goes on with the fids that it has.
        for fid in self.fids.values_mut() {
            if let Some(path) = fid.path.moved(from, to) {
                fid.path = path;
            }
        }
        Ok(Reply::default())
    }

    fn stat(&self, number: u32) -> Result<Stat, Errno> {
        let fid = self.fid(number)?;
        // An open file may have lost its name.
        match &fid.file {
            Some(file) => fstat(file),
            None => self.folder.stat(&fid.path),
        }
    }

    fn getattr(&mut self, fields: &mut Fields<'_>) -> Result<Reply, Errno> {
        let stat = self.stat(fields.u32()?)?;
        let reply = Reply::default()
            .u64(BASIC_ATTRIBUTES)
            .qid(qid(&stat))
            .u32(stat.st_mode)
            .u32(stat.st_uid)
            .u32(stat.st_gid)
            .u64(stat.st_nlink)
            .u64(stat.st_rdev)
            .u64(stat.st_size as u64)
            .u64(stat.st_blksize as u64)
            .u64(stat.st_blocks as u64);
        let times = [
            (stat.st_atime, stat.st_atime_nsec),
            (stat.st_mtime, stat.st_mtime_nsec),
            (stat.st_ctime, stat.st_ctime_nsec),
            (0, 0),
        ];
        let reply = times
            .iter()
            .fold(reply, |reply, (seconds, nanoseconds)| reply.u64(*seconds as u64).u64(*nanoseconds));
        Ok(reply.u64(0).u64(0))
    }

    fn setattr(&mut self, fields: &mut Fields<'_>) -> Result<Reply, Errno> {
        let (number, valid) = (fields.u32()?, fields.u32()?);
        let (mode, uid, gid, size) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u64()?);
        let access = (fields.u64()?, fields.u64()?);
        let modification = (fields.u64()?, fields.u64()?);
        let time = |set, to, value| (valid & set != 0).then(|| (valid & to != 0).then_some(value));
        let changes = Changes {
            mode: (valid & SET_MODE != 0).then_some(mode),
            owner: ((valid & SET_UID != 0).then_some(uid), (valid & SET_GID != 0).then_some(gid)),
            size: (valid & SET_SIZE != 0).then_some(size),
            times: (time(SET_ATIME, SET_ATIME_VALUE, access), time(SET_MTIME, SET_MTIME_VALUE, modification)),
        };
        self.folder.change(&self.fid(number)?.path, &changes)?;
        Ok(Reply::default())
    }

    fn statfs(&mut self, fields: &mut Fields<'_>) -> Result<Reply, Errno> {
        let stat = self.folder.statfs(&self.fid(fields.u32()?)?.path)?;
        Ok(Reply::default()
            .u32(V9FS_MAGIC)
            .u32(stat.f_bsize as u32)
            .u64(stat.f_blocks)
            .u64(stat.f_bfree)
            .u64(stat.f_bavail)
            .u64(stat.f_files)
            .u64(stat.f_ffree)
            .u64(stat.f_fsid)
            .u32(stat.f_namemax as u32))
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
