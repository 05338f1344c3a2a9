//! Executable memory: one memfd, mapped once to write and once to execute (W^X).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Why there is no executable memory.
#[derive(Debug)]
pub struct ArenaError(io::Error);

impl From<io::Error> for ArenaError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl core::fmt::Display for ArenaError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the host gives no executable memory: {}", self.0)
    }
}

impl std::error::Error for ArenaError {}

/// Memory is asked of the host in pieces of this size: a fault of its own for each page of both mappings costs more.
const PIECE: usize = 256 << 10;

/// Code memory that grows from its start and is emptied as a whole. Only what was in use costs host memory.
pub struct Arena {
    write: *mut u8,
    execute: *const u8,
    size: usize,
    used: usize,
    /// So many bytes have memory.
    populated: usize,
}

// SAFETY: the mappings belong to this value alone and are not bound to a thread.
unsafe impl Send for Arena {}

impl Arena {
    /// Reserves `size` bytes (a multiple of the page size).
    ///
    /// # Errors
    /// The host has no memfd, or refuses to map it executable.
    pub fn new(size: usize) -> Result<Self, ArenaError> {
        // Old kernels do not know MFD_EXEC, new ones may warn without it.
        let create = |flags: libc::c_uint| {
            // SAFETY: a system call with a constant, terminated name.
            let fd = unsafe { libc::memfd_create(c"ringworld-code".as_ptr(), flags) };
            if fd < 0 { Err(ArenaError(io::Error::last_os_error())) } else { Ok(fd) }
        };
        let fd = create(libc::MFD_CLOEXEC | libc::MFD_EXEC).or_else(|_| create(libc::MFD_CLOEXEC))?;
        // SAFETY: `fd` is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a system call on our own file.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), size as libc::off_t) } != 0 {
            return Err(ArenaError(io::Error::last_os_error()));
        }
        let map = |protection| {
            // SAFETY: a new shared mapping of our own file, at an address of the kernel's choice.
            let at = unsafe {
                libc::mmap(core::ptr::null_mut(), size, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0)
            };
            if at == libc::MAP_FAILED {
                Err(ArenaError(io::Error::last_os_error()))
            } else {
                Ok(at.cast::<u8>())
            }
        };
        let write = map(libc::PROT_READ | libc::PROT_WRITE)?;
        let execute = map(libc::PROT_READ | libc::PROT_EXEC).inspect_err(|_| {
            // SAFETY: the mapping made above, which nothing refers to.
            unsafe { libc::munmap(write.cast(), size) };
        })?;
        Ok(Self { write, execute, size, used: 0, populated: 0 })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Where the next [`Self::push`] will put its code, as executed.
    pub fn next(&self) -> usize {
        self.execute as usize + self.used
    }

    /// Appends code and returns its address as executed; `None` if there is no room.
    pub fn push(&mut self, code: &[u8]) -> Option<usize> {
        if code.len() + 16 > self.size - self.used {
            return None;
        }
        if self.used + code.len() > self.populated {
            self.populate();
        }
        // SAFETY: the range lies in our writable mapping, as was just checked.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), self.write.add(self.used), code.len()) };
        let at = self.next();
        self.used = (self.used + code.len()).next_multiple_of(16);
        Some(at)
    }

    fn populate(&mut self) {
        let len = PIECE.min(self.size - self.populated);
        // Linux before 5.14 does not know them: then each page has its fault.
        // SAFETY: the range lies in our mappings, whose contents stay as they are.
        unsafe {
            libc::madvise(self.write.add(self.populated).cast(), len, libc::MADV_POPULATE_WRITE);
            let execute = self.execute.add(self.populated).cast_mut();
            libc::madvise(execute.cast(), len, libc::MADV_POPULATE_READ);
        }
        self.populated += len;
    }

    /// Gives back everything after the first `keep` bytes. No code there may be running or be reached again.
    pub fn truncate(&mut self, keep: usize) {
        self.used = keep.min(self.used);
    }

    /// Overwrites code at an address as executed. It must not be running on another thread.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) {
        let offset = at.wrapping_sub(self.execute as usize);
        if offset > self.size || bytes.len() > self.size - offset {
            debug_assert!(false, "a patch outside of the arena");
            return;
        }
        // SAFETY: the range lies in our writable mapping.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.write.add(offset), bytes.len()) };
    }

    /// Reads code at an address as executed.
    pub fn read(&self, at: usize, bytes: &mut [u8]) {
        let offset = at.wrapping_sub(self.execute as usize);
        if offset > self.size || bytes.len() > self.size - offset {
            debug_assert!(false, "a read outside of the arena");
            return;
        }
        // SAFETY: the range lies in our writable mapping.
        unsafe { core::ptr::copy_nonoverlapping(self.write.add(offset), bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Makes the 32-bit relative displacement whose last byte is before `end` lead to `target`.
    pub fn patch_jump(&mut self, end: usize, target: usize) {
        let distance = target.wrapping_sub(end) as i32;
        self.patch(end - 4, &distance.to_le_bytes());
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: our two mappings; nothing executes in them any more, as executing borrows the arena's owner.
        unsafe {
            libc::munmap(self.write.cast(), self.size);
            libc::munmap(self.execute.cast_mut().cast(), self.size);
        }
    }
}
