//! Debian's Xen by multiboot, with a Debian of two CPUs as its first domain, which starts two more on a disk that it
//! serves: a paravirtual one and one that runs on VMX or SVM. It takes minutes and Debian's archive, so it runs when
//! asked for:
//!
//! ```sh
//! cargo test --release -p ringworld --test xen -- --ignored --nocapture --test-threads 1
//! ```
//!
//! It needs `mmdebstrap` and `gunzip`, and no root. The file system is kept in cargo's target folder (`tmp/xen`) for later runs.

mod common;

use common::debian::{Guest, Kind, copy, debian, is_clean};
use common::ringworld;
use std::fs::File;
use std::process::Command;

/// The kernel for virtual machines cannot be a first domain.
const KIND: Kind = Kind {
    name: "xen",
    packages: ",linux-image-amd64,xen-hypervisor-4.17-amd64,xen-utils-4.17",
    disk: 3000 << 20,
};

/// The configuration of a domain on the first one's second disk, which stays as it is.
fn domain(kind: &str) -> String {
    format!(
        "name=\"{kind}\";type=\"{kind}\";memory=512;vcpus=2;kernel=\"/root/kernel\";ramdisk=\"/root/initrd\";\
         cmdline=\"console=hvc0 root=/dev/xvda rw systemd.hostname={kind}\";\
         disk=[\"phy:/dev/vdb,xvda,w\"];on_poweroff=\"destroy\";on_crash=\"destroy\""
    )
}

fn session(model: &str) {
    let debian = debian(&KIND);
    let folder = tempfile::tempdir().unwrap();
    let disk = copy(&debian.root, folder.path());
    let packed = debian.kernel.with_file_name("xen-4.17-amd64.gz");
    let xen = folder.path().join("xen");
    let unpacked = Command::new("gunzip").arg("-c").arg(packed).stdout(File::create(&xen).unwrap()).status();
    assert!(unpacked.unwrap().success());
    let mut guest = Guest::spawn(
        ringworld(&["run", "--memory", "2G", "--cpus", "2", "--time", "real", "--cpu", model])
            .args(["--kernel", xen.to_str().unwrap()])
            .args(["--append", "console=com1 com1=115200,8n1 dom0_mem=1G,max:1G noreboot"])
            .args([
                "--initrd",
                &format!("{} console=hvc0 root=/dev/vda rw net.ifnames=0", debian.kernel.display()),
            ])
            .args(["--initrd", debian.initrd.to_str().unwrap()])
            .args(["--drive", &format!("file={},if=virtio,format=raw", disk.display())])
            .args(["--drive", &format!("file={},if=virtio,format=raw,snapshot=on", debian.root.display())]),
    );
    guest.log_in("ringworld");
    assert_eq!(guest.command("nproc; cat /sys/hypervisor/type /proc/xen/capabilities"), "2\nxen\ncontrol_d");
    // Xen's own opinion of the clock and of the processor.
    assert_eq!(guest.command("xl dmesg | grep -E 'warp|unstable|[Pp]anic|BUG'"), "");
    let capabilities = guest.command("xl info | grep -E 'virt_caps|xen_caps'");
    assert!(capabilities.contains("hvm-3.0-x86_64") && capabilities.contains("hap"), "{capabilities}");
    guest.command("cp /boot/vmlinuz-* /root/kernel; cp /boot/initrd.img-* /root/initrd");
    for kind in ["pv", "pvh"] {
        guest.command(&format!("echo '{}' > /root/domain", domain(kind)));
        guest.send("xl create -c /root/domain; echo console clo''sed");
        guest.log_in(kind);
        assert_eq!(
            guest.command("nproc; cat /sys/hypervisor/type; findmnt -no SOURCE /"),
            "2\nxen\n/dev/xvda"
        );
        assert_eq!(guest.command("systemctl is-system-running --wait"), "running");
        assert_eq!(guest.command("cat /sys/hypervisor/guest_type").to_lowercase(), kind);
        guest.command("head -c 20000000 /dev/urandom > /root/data; sync");
        let sum = guest.command("sha256sum < /root/data");
        guest.command("echo 3 > /proc/sys/vm/drop_caches");
        assert_eq!(guest.command("sha256sum < /root/data"), sum);
        assert_eq!(guest.command("dmesg | grep -E 'WARNING:|BUG:|Oops|Call Trace|TSC warp'"), "");
        guest.send("poweroff");
        guest.wait_for("console closed");
        let gone =
            format!("timeout 60 sh -c 'while xl domid {kind}; do sleep 1; done' >/dev/null 2>&1; echo $?");
        assert_eq!(guest.command(&gone), "0");
    }
    assert_eq!(guest.command("dmesg | grep -E 'WARNING:|BUG:|Oops|Call Trace|TSC warp'"), "");
    guest.power_off();
    is_clean(&disk);
}

#[test]
#[ignore = "makes a Debian file system: minutes, and Debian's archive"]
fn on_vmx() {
    session("max");
}

#[test]
#[ignore = "makes a Debian file system: minutes, and Debian's archive"]
fn on_svm() {
    session("EPYC");
}
