//! Debian's own drivers with the devices: virtio (on packed rings), disks through the emulator's death, shared folders,
//! sockets.

mod common;

use common::{e2fs, fetched, image, ringworld, stderr};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// `boot` with a script that runs in the guest.
fn boot(folder: &Path, guest: &str, script: &str, options: &[&str]) -> Command {
    let path = folder.join("script");
    fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
    let start = ["boot", guest, "--timeout", "1200", "--script", path.to_str().unwrap()];
    ringworld(&[&start, options].concat())
}

/// The guest's output after it has switched off.
fn output(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    for word in ["WARNING", "Oops", "BUG:", "Call Trace", "I/O error", "EXT4-fs error"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    text
}

/// An empty qcow2 image: header, refcount table and block, mapping table (QEMU docs/interop/qcow2.txt).
fn qcow2(folder: &Path, size: u64) -> String {
    const CLUSTER: usize = 1 << 16;
    let mut image = vec![0u8; CLUSTER * 4];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &16u32.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &(3 * CLUSTER as u64).to_be_bytes());
    put(48, &(CLUSTER as u64).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
    (0..4).for_each(|cluster| put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes()));
    let path = folder.join("disk.qcow2");
    fs::write(&path, image).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn console_entropy_and_balloon() {
    if !fetched("debian") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let monitor = folder.path().join("monitor");
    // Of 1 GiB.
    fs::write(&monitor, "balloon 400\ncontinue\n").unwrap();
    let script = r#"
echo console $(tty) $(cut -d' ' -f1 /proc/consoles)
for device in /sys/bus/virtio/devices/*; do
    echo driver $(basename $(readlink $device/driver)) packed $(cut -c35 $device/features)
done
echo entropy $(cat /sys/class/misc/hw_random/rng_current) $(dd if=/dev/hwrng bs=4096 count=4 2>/dev/null | wc -c)
while [ $(awk '/MemFree/ { print $2 }' /proc/meminfo) -gt 420000 ]; do sleep 1; done
echo ballooned
"#;
    let options = [
        "--console",
        "virtio",
        "--device",
        "virtio-rng,virtio-balloon",
        "--monitor-script",
        monitor.to_str().unwrap(),
    ];
    let text = output(boot(folder.path(), "debian", script, &options).output().unwrap());
    for line in [
        "console /dev/hvc0 hvc0",
        "driver virtio_console packed 1",
        "driver virtio_rng packed 1",
        "driver virtio_balloon packed 1",
        "entropy virtio_rng.0 16384",
        "ballooned",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
}

/// Files that a guest has synced are whole after the emulator is killed, on a raw disk and on a qcow2 image.
#[test]
fn killed_in_the_middle_of_writes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let raw = image(folder, "raw", 24 << 20);
    let qcow2 = qcow2(folder, 24 << 20);
    let Some(made) = e2fs(&["mke2fs", "-q", "-t", "ext4", &raw]).filter(|_| fetched("debian")) else {
        eprintln!("skipped: no mke2fs");
        return;
    };
    assert!(made.status.success(), "{}", stderr(&made));
    let drives = ["--drive", &format!("file={raw}"), "--drive", &format!("file={qcow2}")];
    let script = r#"
dd if=/dev/vda of=/dev/vdb bs=1M 2>/dev/null
mkdir /a /b
mount -t ext4 /dev/vda /a && mount -t ext4 /dev/vdb /b || exit 1
n=0
while true; do
    n=$((n+1))
    for disk in /a /b; do seq $n $((n+9999)) > $disk/$((n%100)); done
    sync
    echo "synced $n"
    for disk in /a /b; do seq $n 20000 > $disk/noise; done
done
"#;
    let mut child = boot(folder, "debian", script, &drives).stdout(Stdio::piped()).spawn().unwrap();
    let mut last = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        if let Some(n) = line.trim().strip_prefix("synced ").and_then(|n| n.parse::<u32>().ok()) {
            last = n;
            if n == 30 {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert!(last >= 30, "the guest has stopped early, after {last}");
    // Where the last whole line is not known to be the last sync, later ones can only have overwritten the oldest files.
    let script = format!(
        r#"
mkdir /a /b
mount -t ext4 /dev/vda /a && mount -t ext4 /dev/vdb /b || exit 1
for disk in /a /b; do
    good=0
    for n in $(seq {first} {last}); do
        [ "$(md5sum < $disk/$((n%100)))" = "$(seq $n $((n+9999)) | md5sum)" ] && good=$((good+1))
    done
    echo "$disk: $good of 20"
    echo later > $disk/later
done
umount /a /b
"#,
        first = last - 19
    );
    let text = output(boot(folder, "debian", &script, &drives).output().unwrap());
    assert!(text.contains("/a: 20 of 20") && text.contains("/b: 20 of 20"), "{text}");
    let check = e2fs(&["e2fsck", "-f", "-n", &raw]).unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let script = "dd if=/dev/vda of=/dev/vdb bs=1M 2>/dev/null\n";
    let copy = image(folder, "copy", 24 << 20);
    let drives = ["--drive", &format!("file={qcow2},readonly=on"), "--drive", &format!("file={copy}")];
    output(boot(folder, "debian", script, &drives).output().unwrap());
    let check = e2fs(&["e2fsck", "-f", "-n", &copy]).unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

/// Debian's installer and other text consoles: the framebuffer shows what the console says.
#[test]
fn a_console_on_the_framebuffer() {
    if !fetched("debian-full") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("screen.png");
    // The console is the screen.
    let script = "cat /proc/fb > /dev/ttyS0; seq 100; sleep 1\n";
    let options = ["--vga", "std", "--append", "console=tty0", "--screendump", picture.to_str().unwrap()];
    let text = output(boot(folder.path(), "debian-full", script, &options).output().unwrap());
    assert!(text.contains("0 VESA VGA"), "{text}");
    let decoder = png::Decoder::new(BufReader::new(fs::File::open(&picture).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (1024, 768));
    let lit = pixels.iter().filter(|byte| **byte > 0x80).count();
    assert!(lit > 10_000, "{lit} bright bytes");
}

/// A folder shared by 9P, and connections both ways over a virtio socket.
#[test]
fn shared_folders_and_sockets() {
    if !fetched("debian-full") {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let shared = temporary.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/vsock.c");
    let built = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()))
        .args(["-O1", "-static", "-o"])
        .args([&shared.join("vsock"), &source])
        .output();
    if !built.as_ref().is_ok_and(|built| built.status.success()) {
        eprintln!("skipped: no C compiler: {built:?}");
        return;
    }
    let contents: Vec<u8> = (0..3_000_000u32).map(|i| (i * i >> 7) as u8).collect();
    fs::write(shared.join("big"), &contents).unwrap();
    fs::write(temporary.path().join("outside"), "secret").unwrap();
    std::os::unix::fs::symlink("../outside", shared.join("link")).unwrap();

    let path = temporary.path().join("v");
    let listener = UnixListener::bind(temporary.path().join("v_1234")).unwrap();
    let connect = path.clone();
    let host = std::thread::spawn(move || -> String {
        let (mut stream, _) = listener.accept().unwrap();
        let mut data = Vec::new();
        stream.read_to_end(&mut data).unwrap();
        let right = data.iter().enumerate().all(|(i, byte)| *byte == (i * 7) as u8);
        write!(stream, "{} bytes, right: {right}", data.len()).unwrap();
        drop(stream);
        let mut stream = UnixStream::connect(connect).unwrap();
        stream.write_all(b"CONNECT 52\n").unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("OK "), "{line}");
        stream.get_mut().write_all(b"guest").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let script = r#"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=131072 share /mnt || exit 1
cp /mnt/big /tmp/big
mkdir -p /mnt/folder/deeper
cp /tmp/big /mnt/folder/copy
mv /mnt/folder/copy /mnt/folder/deeper/moved
echo line > /mnt/folder/a; ln -s a /mnt/folder/l; echo more >> /mnt/folder/l; chmod 640 /mnt/folder/a
ln /mnt/folder/a /mnt/folder/hard
touch /mnt/folder/gone; rm /mnt/folder/gone
echo "link: $(cat /mnt/link 2>/dev/null || echo out of reach)"
echo "listed: $(ls /mnt/folder | tr '\n' ' ')"
# The file system is on the host's side, as is its root.
echo "up: $(ls /mnt/../mnt/.. | grep -c outside)"
/mnt/vsock
umount /mnt
mount -t 9p -o trans=virtio,version=9p2000.L fixed /mnt
touch /mnt/new || echo "fixed: $(cat /mnt/folder/a | tr '\n' ' ')"
"#;
    let share = shared.to_str().unwrap();
    let options = [
        "--share",
        share,
        "--share",
        &format!("{share},tag=fixed,readonly=on"),
        "--vsock",
        &format!("uds={},cid=5", path.display()),
    ];
    let text = output(boot(temporary.path(), "debian-full", script, &options).output().unwrap());
    for line in [
        "link: out of reach",
        "listed: a deeper hard l ",
        "up: 0",
        "the host says: 1048576 bytes, right: true",
        "fixed: line more ",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    assert_eq!(host.join().unwrap(), "hello guest");
    assert!(fs::read(shared.join("folder/deeper/moved")).unwrap() == contents);
    assert_eq!(fs::read_to_string(shared.join("folder/hard")).unwrap(), "line\nmore\n");
    assert!(!shared.join("new").exists());
}

/// A gateway to ping, data both ways through it, a forwarded port.
#[test]
fn a_network() {
    if !fetched("debian") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..4_000_000u32).map(|i| (i.wrapping_mul(i) >> 9) as u8).collect();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut to, _) = listener.accept().unwrap();
        to.write_all(&data).unwrap();
        drop(to);
        let mut back = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut back).unwrap();
        back == data
    });
    // A port that is free now; nobody else is likely to take it meanwhile.
    let forward = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let script = format!(
        "ip link set eth0 up\nudhcpc -q -n -i eth0 -s /bin/true\nip addr add 10.0.2.15/24 dev eth0\n\
         ping -c 3 10.0.2.2\nnc 10.0.2.2 {port} </dev/null >/tmp/data\nwc -c /tmp/data\n\
         nc 10.0.2.2 {port} </tmp/data\necho waiting\necho hello | nc -l -p 7777\n"
    );
    let net = format!("user,hostfwd=tcp::{forward}-:7777");
    let mut child =
        boot(folder.path(), "debian", &script, &["--net", &net]).stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    while !text.contains("waiting\r\n") {
        assert!(lines.read_line(&mut text).unwrap() > 0, "{text}");
    }
    // The guest listens soon; until then it resets connections.
    let start = Instant::now();
    let mut answer = String::new();
    while !answer.contains("hello") && start.elapsed() < Duration::from_secs(200) {
        answer.clear();
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", forward)) {
            let _ = stream.read_to_string(&mut answer);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(answer, "hello\n");
    lines.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{text}");
    assert!(server.join().unwrap(), "other data came back: {text}");
    for line in ["lease of 10.0.2.15 obtained", "3 packets received, 0% packet loss", "4000000 /tmp/data"] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
}
