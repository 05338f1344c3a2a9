//! The file by which `perf` names translated code: `/tmp/perf-PID.map`, a line for each block with its host address, its
//! length and the guest's RIP, as in perf's jit-interface.txt.

use std::fs::{File, OpenOptions};
use std::io::{self, LineWriter, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Names of translated code for `perf report`, and for others who read its maps.
pub struct PerfMap(Mutex<LineWriter<File>>);

impl PerfMap {
    /// Where `perf` looks for this process's map.
    pub fn path() -> PathBuf {
        PathBuf::from(format!("/tmp/perf-{}.map", std::process::id()))
    }

    /// Makes the file anew. What another process with this number left is removed; a link is not followed.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create() -> io::Result<Self> {
        let path = Self::path();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(Self(Mutex::new(LineWriter::new(file))))
    }

    /// Adds `length` bytes of code at `start`, translated from guest code at `rip`. After the code arena was emptied, later
    /// lines replace earlier ones, as `perf` takes them. A full disk loses names, not the run.
    pub fn add(&self, start: usize, length: usize, rip: u64) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writeln!(file, "{start:x} {length:x} guest:{rip:#x}") {
            tracing::debug!(target: "jit", "perf map: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PerfMap;

    /// Start and size in hexadecimal without 0x, and the name: what perf reads.
    #[test]
    fn lines_are_perfs() {
        let map = PerfMap::create().unwrap();
        map.add(0x7f00_1234, 0x56, 0xffff_ffff_8100_0000);
        let text = std::fs::read_to_string(PerfMap::path());
        std::fs::remove_file(PerfMap::path()).unwrap();
        assert_eq!(text.unwrap(), "7f001234 56 guest:0xffffffff81000000\n");
    }
}
