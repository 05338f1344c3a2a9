//! What disks are made of: raw files, qcow2 images, and overlays in memory over either.

mod image;
mod overlay;

pub use image::{DiskError, DiskOptions, ImageFormat, open_disk};

use crate::StateError;
use ringworld_core::StateHasher;
use std::io;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// Virtual time from a request to its completion, in nanoseconds: a fast disk's. What waits then is served at once.
pub const LATENCY: u64 = 20_000;

/// A disk's contents. Offsets and lengths are in bytes and inside of the disk.
pub trait Disk: Send {
    /// Its size in bytes, a multiple of [`SECTOR`].
    fn size(&self) -> u64;

    /// Whether it cannot be written.
    fn is_read_only(&self) -> bool;

    /// Reads `data.len()` bytes at `offset`.
    ///
    /// # Errors
    /// What the host says.
    fn read(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// What the host says.
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes everything written so far survive a crash of the host.
    ///
    /// # Errors
    /// What the host says.
    fn flush(&mut self) -> io::Result<()>;

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// What the host says.
    fn write_zeroes(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Tells that a range's contents are not needed; it reads as anything that was there, or zeroes.
    ///
    /// # Errors
    /// What the host says.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Adds to `hasher` what is kept in memory and not in a file.
    fn hash_state(&self, hasher: &mut StateHasher) {
        let _ = hasher;
    }

    /// What is kept in memory and not in a file, as bytes.
    ///
    /// # Errors
    /// It cannot be encoded.
    fn save(&self) -> Result<Vec<u8>, StateError> {
        Ok(Vec::new())
    }

    /// Takes over what [`Disk::save`] wrote.
    ///
    /// # Errors
    /// The bytes are not that.
    fn restore(&mut self, image: &[u8]) -> Result<(), StateError> {
        let _ = image;
        Ok(())
    }
}

/// Whether a request is inside of a disk of `size` bytes.
pub fn is_inside(size: u64, offset: u64, len: u64) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= size)
}
