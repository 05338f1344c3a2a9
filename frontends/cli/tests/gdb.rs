//! Stock gdb, scripted, on small guests: registers, memory, breakpoints, watchpoints, steps, threads, and backward.

mod common;

use common::ringworld;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// A loop that counts at 0x500 in steps of 3, for ever.
const COUNTER: &[u8] = &[
    0xc7, 0x06, 0x00, 0x05, 0x00, 0x00, // 7c00: mov word [0x500], 0
    0x83, 0x06, 0x00, 0x05, 0x03, // 7c06: add word [0x500], 3
    0x40, // 7c0b: inc ax
    0xeb, 0xf8, // 7c0c: jmp 7c06
];

fn gdb_is_there() -> bool {
    let there = Command::new("gdb").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("skipped: gdb is not installed");
    }
    there
}

/// A guest that waits for gdb, and the address to connect to.
fn start(folder: &std::path::Path, options: &[&str]) -> (Child, String) {
    let kernel = common::guest(folder, COUNTER);
    let start = ["run", "--kernel", kernel.to_str().unwrap(), "--loader", "raw@0:0x7c00", "--memory", "16M"];
    let gdb = ["--gdb", "0", "--gdb-wait", "--timeout", "120"];
    let mut child = ringworld(&[&start[..], &gdb, options].concat()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().rsplit(' ').next().unwrap().to_string();
    assert!(line.contains("target remote"), "{line}");
    (child, address)
}

/// Runs gdb with these commands; what it prints.
fn gdb(address: &str, commands: &[&str]) -> String {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", "set pagination off", "-ex", "set confirm off"]);
    gdb.args(["-ex", "set architecture i386:x86-64", "-ex", &format!("target remote {address}")]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn gdb_looks_steps_and_stops() {
    if !gdb_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut guest, address) = start(folder.path(), &["--smp", "2"]);
    let text = gdb(
        &address,
        &[
            "info threads",
            "p/x $pc",
            "p/x $cr0",
            "p/x $cs_base",
            "p $zmm31h",
            "break *0x7c0b",
            "continue",
            "p/x $pc",
            "x/1hd 0x500",
            "continue",
            "x/1hd 0x500",
            "stepi",
            "p/x $pc",
            "delete",
            "watch *(short*)0x500",
            "continue",
            "delete",
            "set var $rax = 0x1234",
            "p/x $ax",
            "set var *(short*)0x500 = 100",
            "break *0x7c0b",
            "continue",
            "x/1hd 0x500",
            "monitor phys 0x500 2",
            "monitor info cpus",
            "monitor phys on",
            "x/2xb 0x7c00",
            "kill",
        ],
    );
    has(
        &text,
        &[
            "CPU 0: Active",
            "CPU 1: WaitForSipi",
            "$1 = 0x7c00",
            "Breakpoint 1, 0x0000000000007c0b",
            "0x500:\t3\n",
            "0x500:\t6\n",
            "= 0x7c0c",
            "Old value = 6",
            "New value = 9",
            "= 0x1234",
            "0x500:\t103\n",
            "0000000000000500: 67 00",
            "CPU 0 Active: 16-bit code",
            "physical now",
            "0x7c00:\t0xc7\t0x06",
        ],
    );
    assert_eq!(guest.wait().unwrap().code(), Some(0), "gdb's kill ends the guest");
}

#[test]
fn gdb_goes_back() {
    if !gdb_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut guest, address) = start(folder.path(), &["--smp", "4", "--reverse"]);
    let text = gdb(
        &address,
        &[
            "break *0x7c0b if *(short*)0x500 == 30",
            "continue",
            "delete",
            "x/1hd 0x500",
            "watch *(short*)0x500",
            "reverse-continue",
            "p/x $pc",
            "x/1hd 0x500",
            "delete",
            "reverse-stepi",
            "p/x $pc",
            "break *0x7c0c",
            "reverse-continue",
            "x/1hd 0x500",
            "delete",
            "reverse-continue",
            "p/x $pc",
            "kill",
        ],
    );
    has(
        &text,
        &[
            "0x500:\t30\n",
            "Old value = 30",
            "New value = 27",
            "= 0x7c06",
            "0x500:\t27\n",
            "= 0x7c0c",
            "No more reverse-execution history",
            "= 0x7c00",
        ],
    );
    assert_eq!(guest.wait().unwrap().code(), Some(0));
}

#[test]
fn commands_from_elsewhere_do_not_disturb_gdb() {
    if !gdb_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control");
    let control = format!("unix:{}", socket.display());
    let (mut guest, address) = start(folder.path(), &["--reverse", "--control", &control]);
    let busy = std::thread::spawn(move || {
        let stream = UnixStream::connect(socket).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let (mut to, mut answers) = (stream, 0);
        lines.next();
        // The guest's end is the socket's end.
        while writeln!(to, "{{\"execute\":\"query-cpus\"}}").is_ok()
            && lines.next().is_some_and(|line| line.is_ok())
        {
            answers += 1;
        }
        answers
    });
    let commands = [
        "break *0x7c0b if *(short*)0x500 == 90",
        "continue",
        "delete",
        "watch *(short*)0x500 if *(short*)0x500 == 60",
        "reverse-continue",
        "reverse-stepi",
        "reverse-stepi",
        "p/x $pc",
        "x/1hd 0x500",
        "kill",
    ];
    let text = gdb(&address, &commands);
    has(&text, &["New value = 60", "= 0x7c0b", "0x500:\t60\n"]);
    assert_eq!(guest.wait().unwrap().code(), Some(0));
    assert!(busy.join().unwrap() > 0, "nobody was answered");
}

#[test]
fn gdb_interrupts_detaches_and_comes_again() {
    if !gdb_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut guest, address) = start(folder.path(), &[]);
    // A second thread of gdb's Python could interrupt; a signal to gdb itself does the same.
    let connect = format!("target remote {address}");
    let script = "python import threading,os,signal; threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()";
    let output = Command::new("gdb")
        .args(["-nx", "-batch", "-ex", "set architecture i386:x86-64", "-ex", &connect, "-ex", script])
        .args(["-ex", "continue", "-ex", "p/x $pc", "-ex", "detach"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("SIGINT") {
        has(&text, &["= 0x7c", "detached"]);
    } else {
        eprintln!("gdb without Python: not interrupted");
    }
    let again = gdb(&address, &["x/1hd 0x500", "kill"]);
    has(&again, &["0x500:\t"]);
    assert_eq!(guest.wait().unwrap().code(), Some(0));
}
