//! From a kernel's panic back to its cause, by stock gdb, with four CPUs.

mod common;

use common::{output, ringworld};
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// A process changes a kernel variable, and much later the kernel panics for it, on another CPU or the same.
const SCRIPT: &str = "#!/bin/sh
    mount -t proc proc /proc 2>/dev/null
    grep -w -e panic /proc/kallsyms
    for cpu in 1 2 3; do (i=0; while [ $i -lt 300 ]; do i=$((i+1)); done) & done
    (i=0; while [ $i -lt 50 ]; do i=$((i+1)); done; echo 2 > /proc/sys/vm/panic_on_oom) &
    wait; tail /dev/zero\n";

/// Finds the variable behind `/proc/sys/vm/panic_on_oom` without symbols: the kernel's table of such variables has the name's
/// address beside the variable's.
const FIND: &str = r#"
import struct, gdb
BASE, SIZE = 0xffffffff81e00000, 0x1800000
inferior = gdb.selected_inferior()
def piece(at):
    try:
        return bytes(inferior.read_memory(at, 0x1000))
    except gdb.MemoryError:
        return bytes(0x1000)
image = b"".join(piece(at) for at in range(BASE, BASE + SIZE, 0x1000))
name = BASE + image.index(b"\0panic_on_oom\0") + 1
entry = image.index(struct.pack("<Q", name))
variable = struct.unpack_from("<Q", image, entry + 8)[0]
gdb.execute("set $variable = %#x" % variable)
"#;

#[test]
fn a_panic_is_followed_back_to_the_write_that_caused_it() {
    let has_gdb = Command::new("gdb").args(["-batch", "-ex", "python print(6*7)"]).output();
    let has_gdb = has_gdb.is_ok_and(|output| output.stdout.starts_with(b"42"));
    if !has_gdb || !output(&["guests", "path", "debian"]).status.success() {
        eprintln!("skipped: no gdb with Python, or no guest in the cache (`ringworld guests fetch debian`)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    std::fs::write(path("script"), SCRIPT).unwrap();
    std::fs::write(path("find.py"), FIND).unwrap();
    let script = path("script");
    let machine = ["boot", "debian", "--script", &script, "--smp", "4", "-m", "128", "--append", "nokaslr"];
    let debug = ["--reverse", "--gdb", "0", "--timeout", "600"];
    let mut guest = ringworld(&[&machine[..], &debug].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    // Both outputs are read to their ends, so that the guest never waits for us.
    let (sender, receiver) = channel();
    for mut stream in [
        Box::new(guest.stdout.take().unwrap()) as Box<dyn Read + Send>,
        Box::new(guest.stderr.take().unwrap()),
    ] {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                // The test may be over.
                let _ = sender.send(String::from_utf8_lossy(&buffer[..len]).into_owned());
            }
        });
    }
    let (mut text, start) = (String::new(), Instant::now());
    while !text.contains("---[ end Kernel panic") {
        assert!(start.elapsed() < Duration::from_secs(500), "{text}");
        text += &receiver.recv_timeout(Duration::from_secs(500)).unwrap();
    }
    assert!(text.contains("compulsory panic_on_oom is enabled"), "{text}");
    let word = |end: &str| {
        let line = text.lines().find(|line| line.trim_end().ends_with(end));
        line.and_then(|line| line.split_whitespace().next()).unwrap_or_else(|| panic!("no {end}: {text}"))
    };
    let panic = word(" T panic").to_string();
    let address = text.split("target remote ").nth(1).unwrap().split_whitespace().next().unwrap().to_string();

    let commands = [
        "set pagination off".to_string(),
        "set confirm off".into(),
        "set architecture i386:x86-64".into(),
        format!("target remote {address}"),
        format!("hbreak *0x{panic}"),
        "reverse-continue".into(),
        "p/x $pc".into(),
        "delete".into(),
        format!("source {}", path("find.py")),
        "p *(int*)$variable".into(),
        "watch *(int*)$variable".into(),
        "reverse-continue".into(),
        "p $_thread".into(),
        "stepi".into(),
        "p *(int*)$variable".into(),
        "info threads".into(),
        "kill".into(),
    ];
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch"]).stdin(Stdio::null());
    for command in &commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    for part in [&format!("$1 = 0x{panic}"), "$2 = 2\n", "Old value = 2", "New value = 0", "$4 = 2\n"] {
        assert!(said.contains(part), "no {part:?} in:\n{said}\nconsole:\n{text}");
    }
    guest.wait().unwrap();
}
