//! A whole Debian whose QEMU, from Debian's archive, runs Debian on a q35 board with KVM: the inner one boots from a virtio
//! disk, is logged into over its serial console, and reaches the outer one over its virtio network. It takes minutes and
//! Debian's archive, so it runs when asked for:
//!
//! ```sh
//! cargo test --release -p ringworld --test debian_nested -- --ignored --nocapture --test-threads 1
//! ```
//!
//! It needs `mmdebstrap` and no root. The file system is kept in cargo's target folder (`tmp/debian-nested`) for later runs.

mod common;

use common::debian::{Guest, Kind, copy, debian, is_clean};

const KIND: Kind =
    Kind { name: "debian-nested", packages: ",linux-image-cloud-amd64,qemu-system-x86", disk: 3000 << 20 };

/// The inner machine. Its disk is the outer one's second, which stays as it is.
const QEMU: &str = "qemu-system-x86_64 -M q35,accel=kvm -cpu host -m 512 -nographic -nodefaults -serial stdio -no-reboot \
    -kernel /boot/vmlinuz-* -initrd /boot/initrd.img-* \
    -append 'console=ttyS0 root=/dev/vda rw net.ifnames=0 systemd.hostname=inner' \
    -drive file=/dev/vdb,format=raw,if=virtio,snapshot=on -nic user,model=virtio-net-pci";

/// What the outer system serves, and gets back.
const PORTS: [u16; 2] = [7001, 7002];

fn session(options: &[&str]) {
    let debian = debian(&KIND);
    let folder = tempfile::tempdir().unwrap();
    let disk = copy(&debian.root, folder.path());
    let second = format!("file={},if=virtio,format=raw,readonly=on", debian.root.display());
    let options = [&["--drive", &second], options].concat();
    let mut guest = Guest::start(&debian, &disk, "virtio", "2G", &options);
    guest.log_in("ringworld");
    let module = guest.command("modprobe -a kvm_intel kvm_amd 2>/dev/null; lsmod | grep -o '^kvm_[a-z]*'");
    assert!(matches!(module.as_str(), "kvm_intel" | "kvm_amd"), "{module}");
    guest.command("head -c 5000000 /dev/urandom > /tmp/data");
    let sum = guest.command("sha256sum < /tmp/data");
    let [out, back] = PORTS;
    guest.command(&format!(
        "systemd-socket-activate --inetd -a -l 127.0.0.1:{out} cat /tmp/data 2>/dev/null & \
         systemd-socket-activate --inetd -a -l 127.0.0.1:{back} sh -c 'cat > /tmp/back' 2>/dev/null & sleep 1"
    ));
    guest.send(QEMU);
    guest.log_in("inner");
    assert_eq!(guest.command("cat /proc/sys/kernel/hostname; findmnt -no SOURCE /"), "inner\n/dev/vda");
    assert_eq!(guest.command("grep -cw hypervisor /proc/cpuinfo; systemd-detect-virt"), "1\nkvm");
    assert_eq!(guest.command("systemctl is-system-running --wait"), "running");
    let drivers = guest
        .command("basename -a $(readlink -f /sys/class/net/eth0/device/driver /sys/block/vda/device/driver)");
    assert_eq!(drivers, "virtio_net\nvirtio_blk");
    let address = guest.command("ip -4 -brief address show eth0");
    assert!(address.contains("10.0.2.15/24"), "{address}");
    // 10.0.2.2 is the outer system.
    guest.command(&format!(
        "cat < /dev/tcp/10.0.2.2/{out} > /root/data; sync; echo 3 > /proc/sys/vm/drop_caches"
    ));
    assert_eq!(guest.command("sha256sum < /root/data"), sum);
    guest.command(&format!("cat /root/data > /dev/tcp/10.0.2.2/{back}"));
    let log = guest.command("dmesg | grep -E 'WARNING:|BUG:|Oops|Call Trace'");
    assert_eq!(log, "");
    guest.send("poweroff");
    guest.wait_for("reboot: Power down");
    assert_eq!(guest.command("sha256sum < /tmp/back"), sum);
    assert_eq!(guest.command("dmesg | grep -E 'WARNING:|BUG:|Oops|Call Trace'"), "");
    guest.power_off();
    is_clean(&disk);
}

#[test]
#[ignore = "makes a Debian file system: minutes, and Debian's archive"]
fn on_vmx() {
    session(&[]);
}

#[test]
#[ignore = "makes a Debian file system: minutes, and Debian's archive"]
fn on_svm() {
    session(&["--cpu", "EPYC"]);
}
