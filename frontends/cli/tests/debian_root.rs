//! A whole Debian on our disks and network: made by mmdebstrap, installed on an ext4 disk by the emulator itself, and used
//! as a user would. It takes minutes and Debian's archive, so it runs when asked for:
//!
//! ```sh
//! cargo test --release -p ringworld --test debian_root -- --ignored --nocapture --test-threads 1
//! ```
//!
//! It needs `mmdebstrap` and no root. The file system is kept in cargo's target folder (`tmp/debian-root`) for later runs.

mod common;

use common::debian::{Guest, Kind, copy, debian, is_clean};
use common::{Random, e2fs, stderr};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// What moves over the network in each direction.
const TRANSFER: u64 = 100_000_000;
const KIND: Kind = Kind { name: "debian-root", packages: ",linux-image-cloud-amd64", disk: 1500 << 20 };

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
    let debian = debian(&KIND);
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
    let mut guest = Guest::start(
        &debian,
        &disk,
        interface,
        "1G",
        &["--net", &format!("user,hostfwd=tcp::{forward}-:7777")],
    );
    guest.log_in("ringworld");
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
    let debian = debian(&KIND);
    let folder = tempfile::tempdir().unwrap();
    let disk = copy(&debian.root, folder.path());
    let mut guest = Guest::start(&debian, &disk, interface, "1G", &[]);
    guest.log_in("ringworld");
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
    let mut guest = Guest::start(&debian, &disk, interface, "1G", &[]);
    guest.log_in("ringworld");
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
