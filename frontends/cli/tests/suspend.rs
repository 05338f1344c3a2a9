//! Debian suspends to memory (ACPI S3) and wakes: by the clock's alarm, by the power button, by a key.

mod common;

use common::client::Client;
use common::{fetched, image, ringworld, stderr};
use serde_json::json;
use std::fs;
use std::io::Read;
use std::process::Stdio;

/// Four CPUs, a disk, a network card; twice in a row. Memory, disk and time go on.
#[test]
fn the_alarm_wakes() {
    if !fetched("debian") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (disk, script) = (image(folder.path(), "disk", 16 << 20), folder.path().join("script"));
    let text = r#"#!/bin/sh
ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0
head -c 8000000 /dev/urandom > /tmp/data
dd if=/tmp/data of=/dev/vda bs=1M 2>/dev/null
sync
before=$(md5sum < /tmp/data)
for n in 1 2; do
    asleep=$(date +%s)
    echo +1000 > /sys/class/rtc/rtc0/wakealarm
    echo mem > /sys/power/state || exit
    slept=$(($(date +%s) - asleep))
    [ $slept -ge 999 ] && [ $slept -le 1003 ] && echo "SLEPT $n"
    [ "$(md5sum < /tmp/data)" = "$before" ] && echo "MEMORY $n"
    echo 3 > /proc/sys/vm/drop_caches
    [ "$(head -c 8000000 /dev/vda | md5sum)" = "$before" ] && echo "DISK $n"
    ping -c 1 10.0.2.2 > /dev/null && echo "NETWORK $n"
    echo "CPUS $n $(grep -c ^processor /proc/cpuinfo)"
done
dmesg | grep -c 'Waking up from system sleep state S3'
"#;
    fs::write(&script, text).unwrap();
    let options =
        ["boot", "debian", "--smp", "4", "--net", "user", "--time", "deterministic", "--timeout", "900"];
    let drive = format!("file={disk},if=virtio,format=raw");
    let output =
        ringworld(&[&options[..], &["--drive", &drive, "--script", script.to_str().unwrap()]].concat())
            .output()
            .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    for line in ["SLEPT", "MEMORY", "DISK", "NETWORK", "CPUS"] {
        for n in ["1", "2"] {
            assert!(text.contains(&format!("{line} {n}")), "no {line} {n}: {text}");
        }
    }
    assert!(text.contains("CPUS 2 4\r\n2\r\n"), "{text}");
    for word in ["WARNING", "Oops", "BUG:", "Call Trace", "I/O error", "clocksource: timekeeping watchdog"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
}

#[test]
fn the_power_button_and_keys_wake() {
    if !fetched("debian") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (socket, script) = (folder.path().join("socket"), folder.path().join("script"));
    let text = "#!/bin/sh\nfor n in 1 2 3; do echo SLEEPS; echo mem > /sys/power/state; echo AWAKE; done\n";
    fs::write(&script, text).unwrap();
    let control = format!("unix:{}", socket.display());
    let options = ["boot", "debian", "--smp", "2", "--time", "deterministic", "--timeout", "900"];
    let more = ["--script", script.to_str().unwrap(), "--control", &control];
    let mut child = ringworld(&[&options[..], &more].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut client = Client::connect(&socket);
    // Nothing can be said to a serial console that sleeps: the input stays open for nothing.
    let input = child.stdin.take();
    let mut output = child.stdout.take().unwrap();
    let mut text = String::new();
    let mut wait_for = |word: &str, count: usize| {
        let mut bytes = [0; 4096];
        while text.matches(word).count() < count {
            let len = output.read(&mut bytes).unwrap();
            assert!(len > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
    };
    let wakes: [(&str, serde_json::Value); 3] = [
        ("system_powerdown", json!({})),
        ("send-key", json!({ "keys": [0x39] })),
        ("system_powerdown", json!({})),
    ];
    for (n, (command, arguments)) in wakes.into_iter().enumerate() {
        wait_for("SLEEPS\r\n", n + 1);
        // All CPUs wait for a start: nothing runs any more, but for the first one, which went to sleep with the machine.
        while client
            .call("query-cpus", json!({}))
            .as_array()
            .unwrap()
            .iter()
            .any(|cpu| cpu["activity"] != "WaitForSipi")
        {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        client.call(command, arguments);
        wait_for("AWAKE\r\n", n + 1);
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}
