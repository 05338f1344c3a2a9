//! A Debian file system made by mmdebstrap, and a console to the guest that uses it.

use super::{e2fs, image, ringworld, stderr};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// After this nothing more is expected. A loaded host boots in a minute.
const PATIENCE: Duration = Duration::from_secs(900);
const PACKAGES: &str = "systemd-sysv,udev,dbus,initramfs-tools,ifupdown,isc-dhcp-client,\
                        iproute2,iputils-ping,kmod,e2fsprogs,login,passwd,zstd";

/// Debian's file system, kernel and initrd.
pub struct Debian {
    pub root: PathBuf,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

/// Which one.
pub struct Kind {
    /// The folder in cargo's target folder (`tmp`) that keeps it.
    pub name: &'static str,
    /// The kernel's package and others besides the usual ones, each after a comma.
    pub packages: &'static str,
    /// The size of the disk.
    pub disk: u64,
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
pub fn debian(kind: &Kind) -> Debian {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(kind.name);
    let root = folder.join("root.ext4");
    if !root.exists() {
        fs::create_dir_all(&folder).unwrap();
        let tar = folder.join("root.tar");
        let hook = |command: &str| format!("--customize-hook={command}");
        let interfaces = r"auto lo\niface lo inet loopback\nallow-hotplug eth0\niface eth0 inet dhcp\n";
        succeeds(
            Command::new("mmdebstrap")
                .args(["--variant=minbase", "--include", &format!("{PACKAGES}{}", kind.packages)])
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
        let disk = image(&folder, "root.new", kind.disk);
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
pub fn is_clean(disk: &Path) {
    let check = e2fs(&["e2fsck", "-f", "-n", disk.to_str().unwrap()]).unwrap();
    assert!(check.status.success(), "{}{}", String::from_utf8_lossy(&check.stdout), stderr(&check));
}

/// A disk of its own for a test.
pub fn copy(from: &Path, folder: &Path) -> PathBuf {
    let to = folder.join("disk.ext4");
    succeeds(Command::new("cp").arg("--sparse=always").arg(from).arg(&to));
    to
}

/// A running guest with its console.
pub struct Guest {
    pub child: Child,
    keys: ChildStdin,
    text: Arc<Mutex<String>>,
    /// What has been looked at.
    seen: usize,
    commands: usize,
}

impl Guest {
    pub fn start(debian: &Debian, disk: &Path, interface: &str, memory: &str, options: &[&str]) -> Self {
        let device = if interface == "nvme" { "nvme0n1" } else { "vda" };
        let mut command = ringworld(&["run", "--memory", memory, "--cpus", "2", "--time", "real"]);
        command
            .args(["--kernel", debian.kernel.to_str().unwrap(), "--initrd", debian.initrd.to_str().unwrap()])
            .args(["--append", &format!("console=ttyS0 root=/dev/{device} rw net.ifnames=0")])
            .args(["--drive", &format!("file={},if={interface},format=raw", disk.display())])
            .args(options);
        Self::spawn(&mut command)
    }

    /// A guest with a console of its own, whatever it is.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
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

    pub fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Waits for the words, and returns what came before them since the last time.
    pub fn wait_for(&mut self, words: &str) -> String {
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

    pub fn send(&mut self, line: &str) {
        self.keys.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Logs in on the console of the system with this name.
    pub fn log_in(&mut self, host: &str) {
        self.wait_for(&format!("{host} login:"));
        self.send("root");
        self.wait_for("Password:");
        // getty throws away what is typed before it has switched the echo off.
        std::thread::sleep(Duration::from_secs(1));
        self.send("root");
        self.wait_for(&format!("root@{host}"));
        // Only output that is asked for.
        self.command("dmesg -n 1; stty -echo; PS1=");
    }

    /// What a command prints.
    pub fn command(&mut self, line: &str) -> String {
        self.commands += 1;
        let number = self.commands;
        // The echo of the command does not have the words that end its output.
        self.send(&format!("echo BE''GIN-{number}; {line}; echo; echo EN''D-{number}"));
        // Each terminal on the way adds a CR at the end of a line.
        self.wait_for(&format!("BEGIN-{number}\r"));
        let output = self.wait_for(&format!("END-{number}\r")).replace('\r', "");
        println!("# {line}\n{}", output.trim());
        output.trim().to_string()
    }

    pub fn power_off(mut self) {
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
