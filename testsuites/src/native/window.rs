//! The memory that cases run in and on: fixed addresses, guard pages around, and a second mapping to fill it through.

use crate::case::{CODE, CODE_SIZE, DATA, DATA_SIZE, WRITABLE};
use anyhow::{Context, Result, ensure};
use std::io::Error;

/// One memfd, mapped at the cases' addresses with the cases' permissions, and once more for the runner.
pub struct Window {
    alias: *mut u8,
}

const GUARD: usize = 0x1_0000;

fn map(address: u64, size: usize, protection: i32, flags: i32, fd: i32, offset: usize) -> Result<*mut u8> {
    // SAFETY: without MAP_FIXED (or with it, over our own reservation) mmap touches no existing mapping.
    let at = unsafe { libc::mmap(address as *mut _, size, protection, flags, fd, offset as i64) };
    ensure!(at != libc::MAP_FAILED, "mmap at {address:#x}: {}", Error::last_os_error());
    Ok(at.cast())
}

impl Window {
    /// Maps everything.
    pub fn new() -> Result<Self> {
        // SAFETY: a plain system call with a constant name.
        let fd = unsafe { libc::memfd_create(c"ringworld-diff".as_ptr(), libc::MFD_CLOEXEC) };
        ensure!(fd >= 0, "memfd_create: {}", Error::last_os_error());
        // SAFETY: `fd` is ours.
        let sized = unsafe { libc::ftruncate(fd, (CODE_SIZE + DATA_SIZE) as i64) };
        ensure!(sized == 0, "ftruncate: {}", Error::last_os_error());
        let shared = libc::MAP_SHARED | libc::MAP_POPULATE;
        for (base, size) in [(CODE, CODE_SIZE), (DATA, DATA_SIZE)] {
            let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            map(base - GUARD as u64, size + 2 * GUARD, libc::PROT_NONE, reserve, -1, 0)
                .context("the cases' addresses are taken")?;
        }
        let fixed = shared | libc::MAP_FIXED;
        map(CODE, CODE_SIZE, libc::PROT_READ | libc::PROT_EXEC, fixed, fd, 0)?;
        map(DATA, WRITABLE, libc::PROT_READ | libc::PROT_WRITE, fixed, fd, CODE_SIZE)?;
        map(DATA + WRITABLE as u64, DATA_SIZE - WRITABLE, libc::PROT_READ, fixed, fd, CODE_SIZE + WRITABLE)?;
        let alias = map(0, CODE_SIZE + DATA_SIZE, libc::PROT_READ | libc::PROT_WRITE, shared, fd, 0)?;
        // SAFETY: the mappings keep the file alive.
        unsafe { libc::close(fd) };
        Ok(Self { alias })
    }

    /// Puts bytes at `address` of the code pages; they must fit.
    pub fn write_code(&mut self, address: u64, bytes: &[u8]) {
        let offset = (address - CODE) as usize;
        assert!(offset + bytes.len() <= CODE_SIZE);
        // SAFETY: within the alias mapping, checked above; it is only accessed through this pointer.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.alias.add(offset), bytes.len()) };
    }

    /// Fills the data window.
    pub fn write_data(&mut self, bytes: &[u8]) {
        assert_eq!(bytes.len(), DATA_SIZE);
        // SAFETY: as in `write_code`: the data follow the code in the file.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.alias.add(CODE_SIZE), DATA_SIZE) };
    }

    /// The contents of the data window.
    pub fn data(&self) -> Vec<u8> {
        // SAFETY: as in `write_data`; no case runs meanwhile, so nothing else writes.
        unsafe { core::slice::from_raw_parts(self.alias.add(CODE_SIZE), DATA_SIZE) }.to_vec()
    }
}
