//! Disk images in files: raw, and qcow2 by the imago crate.

use super::overlay::Overlay;
use super::{Disk, SECTOR};
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How a file holds a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ImageFormat {
    /// The disk's bytes.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

impl FromStr for ImageFormat {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            _ => Err(()),
        }
    }
}

/// Which disk, and how.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskOptions {
    /// The image.
    pub file: PathBuf,
    /// Its format; `None` looks at the file.
    pub format: Option<ImageFormat>,
    /// The guest cannot write.
    pub read_only: bool,
    /// Writes stay in memory.
    pub snapshot: bool,
}

impl DiskOptions {
    /// A disk that can be written.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), format: None, read_only: false, snapshot: false }
    }
}

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be opened.
    #[error("cannot open the disk image {0}: {1}")]
    Open(PathBuf, io::Error),
    /// Somebody else has it.
    #[error(
        "the disk image {0} is in use by another process: stop that one, or use snapshot=on or readonly=on with both"
    )]
    Locked(PathBuf),
    /// It is not in the format that was said.
    #[error("the disk image {0} is not in qcow2 format: leave out format=, or say format=raw")]
    NotQcow2(PathBuf),
    /// No sectors.
    #[error("the disk image {0} has {1} bytes, which is not a multiple of 512 above zero")]
    Size(PathBuf, u64),
    /// The image says that it is larger than it is.
    #[error("the disk image {0} is damaged or cut off: {1}")]
    Damaged(PathBuf, String),
}

const QCOW2_MAGIC: &[u8; 4] = b"QFI\xfb";

/// Opens a disk image.
///
/// # Errors
/// Why it cannot be had, in one line.
pub fn open_disk(options: &DiskOptions) -> Result<Box<dyn Disk>, DiskError> {
    let path = &options.file;
    let write = !options.read_only && !options.snapshot;
    let failed = |error| DiskError::Open(path.clone(), error);
    let file = OpenOptions::new().read(true).write(write).open(path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(failed(io::Error::other("it is neither a file nor a block device")));
    }
    let locked = if write { file.try_lock() } else { file.try_lock_shared() };
    match locked {
        Err(TryLockError::WouldBlock) => return Err(DiskError::Locked(path.clone())),
        // A file system without locks: as it was before there were any.
        Ok(()) | Err(TryLockError::Error(_)) => {}
    }
    let mut magic = [0; 4];
    let is_qcow2 = file.read_exact_at(&mut magic, 0).is_ok() && &magic == QCOW2_MAGIC;
    let disk: Box<dyn Disk> = match options.format {
        Some(ImageFormat::Qcow2) if !is_qcow2 => return Err(DiskError::NotQcow2(path.clone())),
        Some(ImageFormat::Raw) => Box::new(Raw::new(file, write).map_err(failed)?),
        None if !is_qcow2 => Box::new(Raw::new(file, write).map_err(failed)?),
        _ => Box::new(Cow::open(path, file, write)?),
    };
    let size = disk.size();
    if size == 0 || !size.is_multiple_of(SECTOR) {
        return Err(DiskError::Size(path.clone(), size));
    }
    Ok(if options.snapshot { Box::new(Overlay::new(disk)) } else { disk })
}

/// A file that holds the disk's bytes.
struct Raw {
    file: File,
    size: u64,
    write: bool,
}

impl Raw {
    fn new(file: File, write: bool) -> io::Result<Self> {
        // Block devices have no length, but an end.
        let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
        Ok(Self { file, size, write })
    }
}

impl Disk for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        !self.write
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_zeroes(&mut self, offset: u64, len: u64) -> io::Result<()> {
        if fallocate(&self.file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, offset, len).is_ok()
        {
            return Ok(());
        }
        let zeroes = vec![0; len.min(1 << 20) as usize];
        let mut done = 0;
        while done < len {
            let take = (len - done).min(zeroes.len() as u64);
            self.file.write_all_at(&zeroes[..take as usize], offset + done)?;
            done += take;
        }
        Ok(())
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        // A file system without holes keeps the contents, which is right, too.
        let _ = fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len);
        Ok(())
    }
}

/// A qcow2 image.
struct Cow {
    access: FormatAccess<imago::file::File>,
    write: bool,
    /// Holds the lock.
    _file: File,
}

impl Cow {
    fn open(path: &Path, file: File, write: bool) -> Result<Self, DiskError> {
        let damaged =
            |error: io::Error| DiskError::Damaged(path.into(), error.to_string().replace('\n', " "));
        let checked = check_header(&file).and_then(|()| if write { check_counts(&file) } else { Ok(()) });
        checked.map_err(|what| DiskError::Damaged(path.into(), what.into()))?;
        let image = Qcow2::<imago::file::File>::builder_path(path)
            .write(write)
            .open(PermissiveImplicitOpenGate::default())
            .map_err(damaged)?;
        Ok(Self { access: FormatAccess::new(image), write, _file: file })
    }
}

/// Looks at the header's fields that size tables, before anything is allocated by them (docs/interop/qcow2.txt).
fn check_header(file: &File) -> Result<(), &'static str> {
    let mut header = [0; 72];
    file.read_exact_at(&mut header, 0).map_err(|_| "its header is cut off")?;
    let end = file.metadata().map_err(|_| "its size is unknown")?.len();
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    let (version, cluster_bits, size) = (word(4), word(20), long(24));
    let (l1_entries, l1_offset, refcounts) = (u64::from(word(36)), long(40), long(48));
    if !(2..=3).contains(&version) {
        return Err("its version is neither 2 nor 3");
    }
    if !(9..=21).contains(&cluster_bits) {
        return Err("its clusters have a size that cannot be");
    }
    if word(32) != 0 {
        return Err("it is encrypted, which is not supported");
    }
    let cluster = 1u64 << cluster_bits;
    let per_l1 = cluster * (cluster / 8);
    if l1_entries < size.div_ceil(per_l1) || l1_entries > (32 << 20) / 8 {
        return Err("its table of mappings does not fit its size");
    }
    let inside = |start: u64, len: u64| start.checked_add(len).is_some_and(|last| last <= end);
    if !inside(l1_offset, l1_entries * 8) || !inside(refcounts, u64::from(word(56)) * cluster) {
        return Err("the file ends before its tables do");
    }
    Ok(())
}

/// Looks whether every cluster of the file has a place for its reference count, as in all images that a sound program has
/// made: the library would make missing tables one inside of the other, as deep as there are holes.
fn check_counts(file: &File) -> Result<(), &'static str> {
    let mut header = [0; 104];
    // Version 2 has no more than 72 bytes, and counts of 16 bits.
    let _ = file.read_at(&mut header, 0).map_err(|_| "its header cannot be read")?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let end = file.metadata().map_err(|_| "its size is unknown")?.len();
    let (cluster, order) = (1u64 << word(20), if word(4) == 2 { 4 } else { word(96) });
    if order > 6 {
        return Err("its reference counts have a size that cannot be");
    }
    let covered = cluster * (cluster * 8 >> order);
    let blocks = end.div_ceil(covered) as usize;
    let table_at = u64::from(word(48)) << 32 | u64::from(word(52));
    if blocks as u64 * 8 > u64::from(word(56)) * cluster {
        return Err("its reference counts do not cover the file");
    }
    let mut table = vec![0; blocks * 8];
    file.read_exact_at(&mut table, table_at).map_err(|_| "the file ends before its tables do")?;
    for entry in table.chunks_exact(8) {
        let at = entry.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        if at == 0 || !at.is_multiple_of(cluster) || at >= end {
            return Err("its reference counts do not cover the file");
        }
    }
    Ok(())
}

impl Disk for Cow {
    fn size(&self) -> u64 {
        self.access.size()
    }

    fn is_read_only(&self) -> bool {
        !self.write
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.access.read(data, offset)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.access.write(data, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.access.flush()?;
        self.access.sync()
    }

    fn write_zeroes(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.access.write_zeroes(offset, len)
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.access.discard_to_any(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(contents: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), contents).unwrap();
        file
    }

    fn error(options: &DiskOptions) -> String {
        open_disk(options).err().unwrap().to_string()
    }

    #[test]
    fn a_raw_disk() {
        let image = file(&[7; 4096]);
        let mut disk = open_disk(&DiskOptions::new(image.path())).unwrap();
        disk.write(512, &[1; 512]).unwrap();
        disk.write_zeroes(1024, 512).unwrap();
        disk.discard(2048, 512).unwrap();
        disk.flush().unwrap();
        let mut data = [0; 1536];
        disk.read(0, &mut data).unwrap();
        assert!(data[..512] == [7; 512] && data[512..1024] == [1; 512] && data[1024..] == [0; 512]);
        assert!(error(&DiskOptions::new(image.path())).contains("in use"));
        drop(disk);
        let options = DiskOptions { read_only: true, ..DiskOptions::new(image.path()) };
        let (first, second) = (open_disk(&options).unwrap(), open_disk(&options).unwrap());
        assert!(first.is_read_only() && second.is_read_only());
    }

    #[test]
    fn images_that_are_none() {
        assert!(error(&DiskOptions::new("/nonexistent/disk")).contains("No such file"));
        assert!(error(&DiskOptions::new("/")).contains("directory"));
        assert!(error(&DiskOptions::new(file(&[]).path())).contains("0 bytes"));
        assert!(error(&DiskOptions::new(file(&[0; 513]).path())).contains("513 bytes"));
        let raw = file(&[0; 512]);
        let options = DiskOptions { format: Some(ImageFormat::Qcow2), ..DiskOptions::new(raw.path()) };
        assert!(error(&options).contains("not in qcow2 format"));
        let mut header = vec![0; 512];
        header[..4].copy_from_slice(QCOW2_MAGIC);
        header[7] = 3;
        header[23] = 16;
        header[24] = 0x7f;
        assert!(error(&DiskOptions::new(file(&header).path())).contains("table of mappings"));
        header[24] = 0;
        header[28] = 1;
        header[39] = 1;
        header[42] = 1;
        assert!(error(&DiskOptions::new(file(&header).path())).contains("ends before"));
        // A sound image but for its table of reference counts, which is empty.
        let mut image = vec![0; 4 << 16];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, QCOW2_MAGIC);
        for (at, value) in [
            (4, 3u32),
            (20, 16),
            (28, 1 << 20),
            (36, 1),
            (44, 3 << 16),
            (52, 1 << 16),
            (56, 1),
            (96, 4),
            (100, 104),
        ] {
            put(at, &value.to_be_bytes());
        }
        assert!(error(&DiskOptions::new(file(&image).path())).contains("do not cover"));
        let options = |image: &tempfile::NamedTempFile| DiskOptions {
            read_only: true,
            ..DiskOptions::new(image.path())
        };
        assert!(open_disk(&options(&file(&image))).is_ok());
    }
}
