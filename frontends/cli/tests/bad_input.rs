//! Each bad input is answered by one line that says what is wrong, and by the right exit code.

mod common;

use common::{output, ringworld, stderr};
use std::fs::{self, File};
use std::process::{Command, Output};

/// One line on standard error with all of `words`, this exit code, and nothing on standard output.
fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("ringworld: "), "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

/// A 64-bit ELF kernel at 1 MiB that exits with code 3.
fn elf() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, values: &[u16]| file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    let word = |file: &mut Vec<u8>, values: &[u64]| file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    let code = common::exit_with(1);
    half(&mut file, &[2, 62, 1, 0]);
    word(&mut file, &[0x10_0078, 64, 0]);
    half(&mut file, &[0, 0, 64, 56, 1, 0, 0, 0]);
    // PT_LOAD, of the whole file.
    half(&mut file, &[1, 0, 7, 0]);
    let size = 0x78 + code.len() as u64;
    word(&mut file, &[0, 0x10_0000, 0x10_0000, size, size, 0x1000]);
    file.extend(code);
    file
}

#[test]
fn what_does_not_exist_is_a_usage_error() {
    let run = |options: &[&str]| output(&[&["run", "--kernel", "/nonexistent/vmlinuz"], options].concat());
    refused(&run(&["--nonsense"]), 2, &["--nonsense"]);
    refused(&run(&["--engine", "magic"]), 2, &["interp"]);
    refused(&run(&["--cpu", "i486dx"]), 2, &["i486dx", "max"]);
    refused(&run(&["--cpu", "max,+warpdrive"]), 2, &["warpdrive"]);
    refused(&run(&["--cpu", "max,-avx=maybe"]), 2, &["avx=maybe"]);
    refused(&run(&["--cpus", "256"]), 2, &["255"]);
    refused(&run(&["-m", "1"]), 2, &["2 MiB"]);
    refused(&run(&["-m", "plenty"]), 2, &["plenty", "512M"]);
    refused(&run(&["--loader", "grub"]), 2, &["grub", "linux64"]);
    refused(&run(&["--trace", "everything"]), 2, &["everything", "insn"]);
    refused(&run(&["--stats", "xml:x"]), 2, &["xml:x", "json:FILE"]);
    refused(&run(&["--timeout", "0"]), 2, &["--timeout"]);
    refused(&output(&["run"]), 2, &["--kernel"]);
    refused(&output(&["boot", "hurd"]), 2, &["hurd", "debian"]);
    refused(&output(&["dance"]), 2, &["dance"]);
}

#[test]
fn kernels_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, data: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, data).unwrap();
        path.to_str().unwrap().to_string()
    };
    let run = |kernel: &str| output(&["run", "--kernel", kernel, "-m", "64M"]);
    refused(&run("/nonexistent/vmlinuz"), 1, &["/nonexistent/vmlinuz", "No such file"]);
    refused(&run(folder.path().to_str().unwrap()), 1, &["kernel", "directory"]);
    refused(&run(&file("empty", b"")), 1, &["empty"]);
    refused(&run(&file("noise", &[0x5a; 5000])), 1, &["noise", "bzImage"]);

    // A bzImage's setup header that promises 30 more sectors and 8 MiB of kernel.
    let mut bzimage = vec![0; 0x400];
    bzimage[0x1f1] = 30;
    bzimage[0x1f4..0x1f8].copy_from_slice(&0x8_0000u32.to_le_bytes());
    bzimage[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    bzimage[0x201] = 0x6a;
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    bzimage[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    // LOADED_HIGH.
    bzimage[0x211] = 1;
    refused(&run(&file("cut", &bzimage)), 1, &["cut", "truncated"]);

    let mut arm = vec![0; 0x1000];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    refused(&run(&file("Image", &arm)), 1, &["Image", "Arm", "x86"]);

    let initrd = folder.path().join("initrd");
    File::create(&initrd).unwrap().set_len(65 << 20).unwrap();
    let kernel = file("noise", &[0x5a; 5000]);
    let big = output(&["run", "--kernel", &kernel, "--initrd", initrd.to_str().unwrap(), "-m", "64M"]);
    refused(&big, 1, &["initrd", "memory"]);
    let missing = output(&["run", "--kernel", &kernel, "--initrd", "/nonexistent/initrd"]);
    refused(&missing, 1, &["initrd", "/nonexistent/initrd"]);
    let missing = output(&["run", "--kernel", &kernel, "--initrd", "/nonexistent/initrd console=hvc0"]);
    refused(&missing, 1, &["cannot read the initrd /nonexistent/initrd:"]);

    // Arguments of modules, of which Linux knows nothing. The file's own name may hold spaces.
    let elf = file("elf", &elf());
    let with = |module: &str| output(&["run", "--kernel", &elf, "--loader", "elf", "--initrd", module]);
    refused(&with(&format!("{kernel} one two")), 1, &["noise", "(one two)", "multiboot"]);
    assert_eq!(with(&file("a module", b"contents")).status.code(), Some(3));
}

#[test]
fn files_that_cannot_be_read_or_written() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = common::guest(folder.path(), &common::exit_with(0));
    let run = |options: &[&str]| {
        let start = ["run", "--kernel", kernel.to_str().unwrap(), "--loader", "raw@0:0x7c00", "-m", "16M"];
        output(&[&start, options].concat())
    };
    refused(&run(&["--record", "/nonexistent/log"]), 1, &["/nonexistent/log"]);
    refused(&run(&["--record", "/dev/full"]), 1, &["recording", "No space left"]);
    refused(&run(&["--replay", "/nonexistent/log"]), 1, &["/nonexistent/log"]);
    let damaged = folder.path().join("damaged");
    fs::write(&damaged, "{\"machine\":{}}\n").unwrap();
    refused(&run(&["--replay", damaged.to_str().unwrap()]), 1, &["damaged", "line 1"]);
    refused(&run(&["--trace", "all", "--trace-file", "/nonexistent/trace"]), 1, &["/nonexistent/trace"]);
    refused(&run(&["--monitor-script", "/nonexistent/script"]), 1, &["/nonexistent/script"]);
    refused(&run(&["--stats", "json:/nonexistent/stats"]), 1, &["/nonexistent/stats"]);
    refused(&run(&["--append", "quiet"]), 1, &["command line"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refused(&run(&["--gdb", &port]), 1, &["gdb", &port, "in use", "another port"]);
    refused(&run(&["--gdb", "host:x"]), 2, &["--gdb", "port"]);
    refused(&run(&["--control", &port]), 1, &["control", &port, "in use"]);
    refused(&run(&["--control", "unix:/nonexistent/x"]), 1, &["control", "/nonexistent/x"]);
    refused(&run(&["--paused"]), 2, &["--control"]);
}

#[test]
fn snapshots_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, data: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, data).unwrap();
        path.to_str().unwrap().to_string()
    };
    let restore = |path: &str| output(&["run", "--restore", path]);
    refused(&restore("/nonexistent/snapshot"), 1, &["/nonexistent/snapshot", "No such file"]);
    refused(&restore(&file("foreign", b"QFI\xfb and more")), 1, &["foreign", "no snapshot of Ringworld"]);
    let whole = folder.path().join("whole");
    let at = format!("1:{}", whole.display());
    let run = common::run(&common::exit_with(1), &["--snapshot-at", &at]);
    assert_eq!(run.status.code(), Some(3), "{}", stderr(&run));
    let bytes = fs::read(&whole).unwrap();
    refused(&restore(&file("cut", &bytes[..bytes.len() - 9])), 1, &["cut", "cut off"]);
    let mut damaged = bytes.clone();
    damaged[bytes.len() - 9] ^= 1;
    refused(&restore(&file("damaged", &damaged)), 1, &["damaged", "checksum"]);
    let mut newer = bytes;
    newer[8] = 99;
    refused(&restore(&file("newer", &newer)), 1, &["newer", "format 99"]);
    let at = common::run(&common::exit_with(1), &["--snapshot-at", "1:/nonexistent/folder/file"]);
    refused(&at, 1, &["/nonexistent/folder/file", "No such file"]);
}

#[test]
fn disks_networks_and_firmware_that_cannot_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = common::guest(folder.path(), &common::exit_with(0));
    let run = |options: &[&str]| {
        let start = ["run", "--kernel", kernel.to_str().unwrap(), "--loader", "raw@0:0x7c00", "-m", "16M"];
        output(&[&start, options].concat())
    };
    let file = |name: &str, data: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, data).unwrap();
        path.to_str().unwrap().to_string()
    };
    let drive = |what: &str| run(&["--drive", what]);
    refused(&drive("file=/nonexistent/disk"), 1, &["/nonexistent/disk", "No such file"]);
    refused(&drive("file=/tmp,if=nvme"), 1, &["/tmp", "directory"]);
    refused(&drive("if=virtio"), 2, &["file="]);
    refused(&drive("file=x,if=floppy"), 2, &["floppy", "virtio"]);
    refused(&drive("file=x,format=vhdx"), 2, &["vhdx", "qcow2"]);
    refused(&drive(&format!("file={}", file("odd", &[0; 1000]))), 1, &["odd", "1000 bytes", "512"]);
    refused(
        &drive(&format!("file={},format=qcow2", file("raw", &[0; 512]))),
        1,
        &["raw", "not in qcow2 format"],
    );
    // A qcow2 header that promises 16 MiB, and a file that ends after it.
    let mut header = vec![0; 512];
    header[..4].copy_from_slice(b"QFI\xfb");
    header[7] = 3;
    header[23] = 16;
    header[28] = 1;
    header[39] = 1;
    header[42] = 3;
    refused(&drive(&format!("file={}", file("cut", &header))), 1, &["cut", "ends before its tables"]);
    let used = file("used", &[0; 512]);
    let lock = File::open(&used).unwrap();
    lock.lock().unwrap();
    refused(&drive(&format!("file={used}")), 1, &["used", "in use"]);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    refused(
        &run(&["--net", &format!("user,hostfwd=tcp::{port}-:22")]),
        1,
        &["cannot listen", &port.to_string()],
    );
    refused(&run(&["--net", "user,hostfwd=tcp:22"]), 2, &["hostfwd=tcp:22", "PORT"]);
    refused(&run(&["--net", "bridge"]), 2, &["bridge", "user"]);
    // Without rights, without the device, or because it is no tap interface.
    refused(&run(&["--net", "tap,ifname=lo"]), 1, &["tap interface lo"]);
    refused(&run(&["--net", "tap"]), 2, &["ifname"]);
    refused(&run(&["--net", "tap,ifname=t,hostfwd=tcp::1-:2"]), 2, &["hostfwd"]);
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = udp.local_addr().unwrap().port();
    refused(
        &run(&["--net", &format!("user,hostfwd=udp::{port}-:53")]),
        1,
        &["cannot listen", &port.to_string(), "in use"],
    );

    refused(&run(&["--share", "/nonexistent/folder"]), 1, &["share", "/nonexistent/folder", "No such file"]);
    refused(&run(&["--share", &file("plain", b"x")]), 1, &["share", "plain", "Not a directory"]);
    refused(&run(&["--share", "/tmp,mode=x"]), 2, &["mode", "readonly"]);
    refused(&run(&["--vsock", "uds=/nonexistent/v"]), 1, &["vsock", "/nonexistent/v", "No such file"]);
    refused(&run(&["--vsock", &format!("uds={}", file("file", b"x"))]), 1, &["vsock", "file", "in use"]);
    refused(&run(&["--vsock", "cid=2,uds=x"]), 2, &["cid=2"]);

    let firmware = |path: &str| output(&["run", "--firmware", path, "-m", "64M"]);
    refused(&firmware("/nonexistent/bios"), 1, &["/nonexistent/bios", "No such file"]);
    refused(&firmware(&file("short", &[0; 1000])), 1, &["short", "1000 bytes", "4 KiB"]);
    refused(&output(&["run", "--firmware", "x", "--kernel", "y"]), 2, &["--kernel"]);
    refused(&run(&["--vga", "cga"]), 2, &["cga", "std"]);
}

/// A cache of its own, so that nothing of the user's is touched.
fn with_cache(arguments: &[&str]) -> (tempfile::TempDir, Command) {
    let cache = tempfile::tempdir().unwrap();
    let mut command = ringworld(arguments);
    command.env("RINGWORLD_CACHE", cache.path());
    (cache, command)
}

#[test]
fn guests_without_apt() {
    for arguments in [&["boot", "debian"][..], &["guests", "fetch", "debian"]] {
        let (cache, mut command) = with_cache(arguments);
        refused(&command.env("PATH", cache.path()).output().unwrap(), 1, &["apt", "--kernel"]);
    }
    let (_cache, mut command) = with_cache(&["guests", "path", "debian"]);
    refused(&command.output().unwrap(), 1, &["debian", "guests fetch"]);
}

/// Whether this host has an apt with sources at all. Elsewhere other errors come first, which other tests see.
fn has_apt() -> bool {
    Command::new("apt-get").arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn guests_without_a_network() {
    if !has_apt() {
        eprintln!("skipped: no apt on this host");
        return;
    }
    // Nothing listens on the discard port.
    let (_cache, mut command) = with_cache(&["guests", "fetch", "debian"]);
    let proxy = "http://127.0.0.1:9";
    let output = command.env("http_proxy", proxy).env("https_proxy", proxy).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn guests_without_disk_space() {
    let mount = |command: &str| {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().to_str().unwrap();
        let script = format!("mount -t tmpfs -o size=64k none {folder} && {command}");
        Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", &script])
            .env("RINGWORLD_CACHE", folder)
            .output()
    };
    if !has_apt() || !mount("true").is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no apt, or no mount in a namespace of its own on this host");
        return;
    }
    let output = mount(&format!("{} guests fetch debian", env!("CARGO_BIN_EXE_ringworld"))).unwrap();
    refused(&output, 1, &["no space left"]);
}
