//! A whole Debian on our disks and network: made by mmdebstrap, installed on an ext4 disk by the emulator itself, and used
//! as a user would. It takes minutes and Debian's archive, so it runs when asked for:
//!
//! ```sh
//! cargo test --release -p ringworld --test debian_root -- --ignored --nocapture --test-threads 1
//! ```
//!
//! It needs `mmdebstrap` and no root. The file system is kept in cargo's target folder (`tmp/debian-root`) for later runs.

mod common;

use common::{Random, e2fs, image, ringworld, stderr};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What moves over the network in each direction.
const TRANSFER: u64 = 100_000_000;
/// The size of the disk.
const DISK: u64 = 1500 << 20;
/// After this nothing more is expected. A loaded host boots in a minute.
const PATIENCE: Duration = Duration::from_secs(900);
const PACKAGES: &str = "systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,ifupdown,isc-dhcp-client,\
                        iproute2,iputils-ping,kmod,e2fsprogs,login,passwd,zstd";

/// Debian's file system, kernel and initrd.
struct Debian {
    root: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
}

/// The file in `folder` whose name begins so.
fn named(folder: &Path, prefix: &str) -> PathBuf {
    let mut entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    found.unwrap_or_else(|| panic!("no {prefix}* in {}", folder.display()))
}

fn succeeds(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}: is it installed?"));
    assert!(status.success(), "{command:?}: {status}");
}

/// Makes the file system, or finds it.
fn debian() -> Debian {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-root");
    let root = folder.join("root.ext4");
    if !root.exists() {
        fs::create_dir_all(&folder).unwrap();
        let tar = folder.join("root.tar");
        let hook = |command: &str| format!("--customize-hook={command}");
        let interfaces = r"auto lo\niface lo inet loopback\nallow-hotplug eth0\niface eth0 inet dhcp\n";
        succeeds(
            Command::new("mmdebstrap")
                .args(["--variant=minbase", "--include", PACKAGES])
                .arg(hook(r#"echo root:root | chroot "$1" chpasswd"#))
                .arg(hook(r#"echo ringworld > "$1/etc/hostname""#))
                .arg(hook(&format!(r#"printf "{interfaces}" > "$1/etc/network/interfaces""#)))
                .arg("bookworm")
                .arg(&tar),
        );
        succeeds(
            Command::new("tar").arg("-C").arg(&folder).arg("-xf").arg(&tar).args(["--wildcards", "./boot/*"]),
        );
        // Files get their owners and device nodes by a root who is one: the guest's.
        let disk = image(&folder, "root.new", DISK);
        let made =
            e2fs(&["mke2fs", "-q", "-t", "ext4", "-L", "root", &disk]).expect("mke2fs is not installed");
        assert!(made.status.success(), "{}", stderr(&made));
        let script = folder.join("script");
        let install = "mount -t ext4 /dev/vdb /mnt && tar -xf /dev/vda -C /mnt --numeric-owner && echo IN-PLACE\n\
                       umount /mnt\n";
        fs::write(&script, format!("#!/bin/sh\n{install}")).unwrap();
        let output = ringworld(&["boot", "debian", "--memory", "1G", "--script", script.to_str().unwrap()])
            .args(["--drive", &format!("file={},readonly=on,format=raw", tar.display())])
            .args(["--drive", &format!("file={disk},format=raw")])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("IN-PLACE"), "{text}{}", stderr(&output));
        is_clean(Path::new(&disk));
        fs::remove_file(tar).unwrap();
        fs::rename(disk, &root).unwrap();
    }
    let boot = folder.join("boot");
    Debian { root, kernel: named(&boot, "vmlinuz-"), initrd: named(&boot, "initrd.img-") }
}

/// e2fsck finds nothing to repair, the journal included.
fn is_clean(disk: &Path) {
    let check = e2fs(&["e2fsck", "-f", "-n", disk.to_str().unwrap()]).unwrap();
    assert!(check.status.success(), "{}{}", String::from_utf8_lossy(&check.stdout), stderr(&check));
}

/// A disk of its own for a test.
fn copy(from: &Path, folder: &Path) -> PathBuf {
    let to = folder.join("disk.ext4");
    succeeds(Command::new("cp").arg("--sparse=always").arg(from).arg(&to));
    to
}

/// A running guest with its console.
struct Guest {
    child: Child,
    keys: ChildStdin,
    text: Arc<Mutex<String>>,
    /// What has been looked at.
    seen: usize,
    commands: usize,
}

impl Guest {
    fn start(debian: &Debian, disk: &Path, interface: &str, options: &[&str]) -> Self {
        let device = if interface == "nvme" { "nvme0n1" } else { "vda" };
        let mut child = ringworld(&["run", "--memory", "1G", "--cpus", "2", "--time", "real"])
            .args(["--kernel", debian.kernel.to_str().unwrap(), "--initrd", debian.initrd.to_str().unwrap()])
            .args(["--append", &format!("console=ttyS0 root=/dev/{device} rw net.ifnames=0")])
            .args(["--drive", &format!("file={},if={interface},format=raw", disk.display())])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (keys, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let text = Arc::new(Mutex::new(String::new()));
        let to = text.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, keys, text, seen: 0, commands: 0 }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Waits for the words, and returns what came before them since the last time.
    fn wait_for(&mut self, words: &str) -> String {
        let start = Instant::now();
        loop {
            let text = self.text();
            if let Some(at) = text[self.seen..].find(words) {
                let before = text[self.seen..][..at].to_string();
                self.seen += at + words.len();
                return before;
            }
            let end = self.child.try_wait().unwrap();
            if end.is_some() || start.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("no {words:?} (the emulator: {end:?}):\n{text}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn send(&mut self, line: &str) {
        self.keys.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn log_in(&mut self) {
        self.wait_for("ringworld login:");
        self.send("root");
        self.wait_for("Password:");
        // getty throws away what is typed before it has switched the echo off.
        std::thread::sleep(Duration::from_secs(1));
        self.send("root");
        self.wait_for("root@ringworld");
        // Only output that is asked for.
        self.command("dmesg -n 1; stty -echo; PS1=");
    }

    /// What a command prints.
    fn command(&mut self, line: &str) -> String {
        self.commands += 1;
        let number = self.commands;
        // The echo of the command does not have the words that end its output.
        self.send(&format!("echo BE''GIN-{number}; {line}; echo; echo EN''D-{number}"));
        self.wait_for(&format!("BEGIN-{number}\r\n"));
        let output = self.wait_for(&format!("END-{number}\r\n")).replace('\r', "");
        println!("# {line}\n{}", output.trim());
        output.trim().to_string()
    }

    fn power_off(mut self) {
        self.send("poweroff");
        self.wait_for("reboot: Power down");
        let status = self.child.wait().unwrap();
        let text = self.text();
        assert!(status.success(), "{status}: {text}");
        for word in
            ["Oops", "BUG:", "Call Trace", "I/O error", "EXT4-fs error", "Failed to start", "unchecked MSR"]
        {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end: whether it is [`TRANSFER`] bytes of this seed.
fn receives(mut stream: TcpStream, seed: u64) -> bool {
    let (mut expected, mut bytes, mut count) = (Random(seed), vec![0; 1 << 16], 0);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return count == TRANSFER,
            Ok(len) => {
                count += len as u64;
                if bytes[..len].iter().any(|byte| *byte != expected.byte()) {
                    return false;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

fn sends(mut stream: TcpStream, seed: u64) {
    let mut random = Random(seed);
    let data: Vec<u8> = (0..TRANSFER).map(|_| random.byte()).collect();
    stream.write_all(&data).unwrap();
}

/// Boots to a login, uses the network both ways, fills the disk, switches off.
fn session(interface: &str) {
    let debian = debian();
    let folder = tempfile::tempdir().unwrap();
    let disk = copy(&debian.root, folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        sends(listener.accept().unwrap().0, 1);
        receives(listener.accept().unwrap().0, 1)
    });
    // A port that is free now; nobody else is likely to take it meanwhile.
    let forward = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut guest =
        Guest::start(&debian, &disk, interface, &["--net", &format!("user,hostfwd=tcp::{forward}-:7777")]);
    guest.log_in();
    assert_eq!(guest.command("systemctl is-system-running --wait"), "running");
    assert_eq!(guest.command("systemctl --failed --no-legend --plain"), "");
    let address = guest.command("ip -4 -brief address show eth0; ip route; cat /etc/resolv.conf");
    assert!(address.contains("10.0.2.15/24"), "{address}");
    assert!(address.contains("default via 10.0.2.2") && address.contains("nameserver 10.0.2.3"), "{address}");
    let leases = guest.command("cat /var/lib/dhcp/dhclient.eth0.leases");
    assert!(leases.contains("fixed-address 10.0.2.15"), "{leases}");
    let ping = guest.command("ping -c 3 10.0.2.2");
    assert!(ping.contains(" 0% packet loss"), "{ping}");

    guest.command(&format!("cat < /dev/tcp/10.0.2.2/{port} > /root/big; sync; stat -c %s /root/big"));
    let sum = guest.command("sha256sum < /root/big");
    guest.command(&format!("cat /root/big > /dev/tcp/10.0.2.2/{port}"));
    assert!(server.join().unwrap(), "other bytes came back");

    // By the forwarded port: to the guest, and from it. Each connection is a process's standard input and output.
    let serve =
        |what: &str| format!("systemd-socket-activate --inetd -a -l 7777 {what} 2>/tmp/serve & sleep 1");
    guest.command(&serve("/bin/sh -c 'cat > /root/second; sync; touch /root/done'"));
    sends(TcpStream::connect(("127.0.0.1", forward)).unwrap(), 1);
    guest.command("while [ ! -e /root/done ]; do sleep 0.1; done; kill %1; wait");
    assert_eq!(guest.command("sha256sum < /root/second"), sum);
    guest.command("echo 3 > /proc/sys/vm/drop_caches");
    guest.command(&serve("cat /root/second"));
    assert!(receives(TcpStream::connect(("127.0.0.1", forward)).unwrap(), 1), "the guest serves other bytes");
    guest.command("kill %1; wait; fstrim -v /; journalctl -p warning --no-pager -q | tail -30");
    guest.power_off();
    is_clean(&disk);
}

#[test]
#[ignore = "makes a Debian file system: minutes, and Debian's archive"]
fn on_virtio_blk() {
    session("virtio");
}

#[test]
#[ignore = "makes a Debian file system: minutes, and Debian's archive"]
fn on_nvme() {
    session("nvme");
}

/// The emulator is killed while the guest writes: what was synced is whole, and the file system comes back by its journal.
fn killed(interface: &str) {
    let debian = debian();
    let folder = tempfile::tempdir().unwrap();
    let disk = copy(&debian.root, folder.path());
    let mut guest = Guest::start(&debian, &disk, interface, &[]);
    guest.log_in();
    let sum = guest.command("sha256sum < /bin/bash");
    guest.send("for i in $(seq 1 1000); do cp /bin/bash /root/x$i; [ $((i%10)) = 0 ] && sync && echo SYN''CED-$i; done");
    guest.wait_for("SYNCED-80\r\n");
    // Somewhere among the writes after it.
    std::thread::sleep(Duration::from_millis(300));
    guest.child.kill().unwrap();
    guest.child.wait().unwrap();
    drop(guest);
    // Replays the journal; that it then finds more to repair would be its exit code 4.
    let check = e2fs(&["e2fsck", "-f", "-p", disk.to_str().unwrap()]).unwrap();
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    println!("{text}");
    assert!(matches!(check.status.code(), Some(0 | 1)), "{text}{}", stderr(&check));
    is_clean(&disk);
    let mut guest = Guest::start(&debian, &disk, interface, &[]);
    guest.log_in();
    assert_eq!(guest.command("for i in $(seq 1 80); do sha256sum < /root/x$i; done | sort -u"), sum);
    assert_eq!(guest.command("systemctl --failed --no-legend --plain"), "");
    guest.power_off();
    is_clean(&disk);
}

#[test]
#[ignore = "makes a Debian file system: minutes, and Debian's archive"]
fn killed_on_virtio_blk() {
    killed("virtio");
}

#[test]
#[ignore = "makes a Debian file system: minutes, and Debian's archive"]
fn killed_on_nvme() {
    killed("nvme");
}
