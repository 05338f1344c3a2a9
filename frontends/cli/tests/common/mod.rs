//! What the tests of the command share: running it, and small guests in machine code.
#![allow(dead_code, reason = "each test program uses a part")]

pub mod client;
pub mod debian;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

/// The command, with nothing on standard input.
pub fn ringworld(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringworld"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the command to its end.
pub fn output(arguments: &[&str]) -> Output {
    ringworld(arguments).output().unwrap()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Writes a guest that starts in real mode at 0000:7c00.
pub fn guest(folder: &Path, code: &[u8]) -> PathBuf {
    let path = folder.join("guest.bin");
    std::fs::write(&path, code).unwrap();
    path
}

/// Runs such a guest, with more options.
pub fn run(code: &[u8], options: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let kernel = guest(folder.path(), code);
    let kernel = kernel.to_str().unwrap();
    let start = ["run", "--kernel", kernel, "--loader", "raw@0:0x7c00", "--memory", "16M"];
    output(&[&start, options].concat())
}

/// `out 0xf4, al` with AL = `value`: exit code `value * 2 + 1`.
pub fn exit_with(value: u8) -> Vec<u8> {
    vec![0xb0, value, 0xe6, 0xf4]
}

/// Prints a text on COM1.
pub fn print(text: &str) -> Vec<u8> {
    // mov dx, 0x3f8; for each character: mov al, c; out dx, al
    let mut code = vec![0xba, 0xf8, 0x03];
    code.extend(text.bytes().flat_map(|byte| [0xb0, byte, 0xee]));
    code
}

/// Echoes COM1's characters until a `q` comes, then exits with code 3.
pub fn echo() -> Vec<u8> {
    vec![
        0xba, 0xfd, 0x03, // again: mov dx, 0x3fd
        0xec, // wait: in al, dx
        0xa8, 0x01, // test al, 1
        0x74, 0xfb, // jz wait
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xec, // in al, dx
        0xee, // out dx, al
        0x3c, b'q', // cmp al, 'q'
        0x75, 0xef, // jne again
        0xb0, 0x01, 0xe6, 0xf4, // mov al, 1; out 0xf4, al
    ]
}

/// Whether the guest is in the user's cache, or can be fetched.
pub fn fetched(guest: &str) -> bool {
    static FETCH: Mutex<()> = Mutex::new(());
    let _one = FETCH.lock();
    let has_guest = || output(&["guests", "path", guest]).status.success();
    if !has_guest() {
        eprint!("{}", stderr(&output(&["guests", "fetch", guest])));
    }
    if !has_guest() {
        eprintln!("skipped: no guest in the cache, and none can be fetched");
    }
    has_guest()
}

/// An empty file of this many bytes.
pub fn image(folder: &Path, name: &str, size: u64) -> String {
    let path = folder.join(name);
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    path.to_str().unwrap().into()
}

/// The tools of ext4, which every Debian has; `None` elsewhere.
pub fn e2fs(arguments: &[&str]) -> Option<Output> {
    let (tool, arguments) = arguments.split_first()?;
    let found = ["/sbin", "/usr/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(tool))
        .find(|path| path.exists())?;
    Some(Command::new(found).args(arguments).output().unwrap())
}

/// Bytes that look random (xorshift64).
pub struct Random(pub u64);

impl Random {
    /// The next one.
    pub fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 24) as u8
    }
}
