//! A recorded boot of Debian with four CPUs, a disk and a network: its replay, and snapshots of it that are restored in new
//! processes, go on to the same end.

mod common;

use common::{output, ringworld, stderr};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

/// How many points of the run are saved; the environment may ask for more.
fn save_points() -> u64 {
    std::env::var("RINGWORLD_SAVE_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Bytes without a pattern.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Gives this to whoever connects; the port.
fn serve(data: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // The request is read so that closing does not reset the connection.
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", data.len());
            let _ = stream.write_all(&data);
        }
    });
    port
}

fn end(output: &Output, json: &Path) -> serde_json::Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap()
}

#[test]
fn a_recorded_boot_repeats_from_its_start_and_from_its_snapshots() {
    if !output(&["guests", "path", "debian"]).status.success() {
        eprintln!("skipped: no guest in the cache (`ringworld guests fetch debian`)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_string();
    let port = serve(noise(200_000));
    fs::write(path("disk"), noise(2 << 20)).unwrap();
    let script = format!(
        "#!/bin/sh
        for cpu in 1 2 3; do (i=0; while [ $i -lt 200 ]; do i=$((i+1)); done) & done
        dd if=/dev/vda of=/tmp/x bs=64k count=8; sha256sum /tmp/x
        dd if=/tmp/x of=/dev/vda bs=64k seek=16 conv=fsync
        ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0
        wget -q -O - http://10.0.2.2:{port}/ | wc -c; echo again > /dev/vda
        ping -c 2 10.0.2.2; wait\n"
    );
    fs::write(path("script"), script).unwrap();
    let (script, drive) = (text("script"), format!("file={},if=virtio,format=raw,snapshot=on", text("disk")));
    let run = |json: &str, options: &[&str]| {
        let guest = ["boot", "debian", "--script", &script, "--smp", "4", "-m", "256", "--drive", &drive];
        let target = format!("json:{}", text(json));
        let common = ["--net", "user", "--timeout", "600", "--stats", &target];
        ringworld(&[&guest[..], &common, options].concat()).output().unwrap()
    };

    let output = run("recorded", &["--record", &text("log")]);
    let recorded = end(&output, &path("recorded"));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["200000\r\n", "2 packets received", "reboot: Power down"] {
        assert!(shown.contains(part), "no {part:?} in:\n{shown}");
    }
    let instructions = recorded["instructions"].as_u64().unwrap();

    // Points spread by a generator, so that they fall anywhere inside of a round; a replay saves at all of them.
    let random = noise(8 * save_points() as usize);
    let points =
        random.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()) % instructions);
    let points: Vec<(u64, String)> = points.map(|at| (at, text(&format!("snapshot-{at}")))).collect();
    let save: Vec<String> = points.iter().map(|(at, file)| format!("--snapshot-at={at}:{file}")).collect();
    let log = text("log");
    let replay: Vec<&str> = ["--replay", &log].into_iter().chain(save.iter().map(String::as_str)).collect();
    let output = run("replayed", &replay);
    assert!(stderr(&output).contains("the replay's end is the recorded one"), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), shown, "the replay's console");
    assert_eq!(end(&output, &path("replayed"))["state_hash"], recorded["state_hash"]);

    for (at, file) in &points {
        let target = format!("json:{}", text("restored"));
        let output = common::output(&["run", "--restore", file, "--replay", &log, "--stats", &target]);
        assert!(stderr(&output).contains("end is the recorded one"), "{at}: {}", stderr(&output));
        let restored = end(&output, &path("restored"));
        for key in ["instructions", "virtual_ns", "state_hash"] {
            assert_eq!(restored[key], recorded[key], "{key} from instruction {at}");
        }
        fs::remove_file(file).unwrap();
    }
    let wrong = common::output(&["run", "--restore", &text("log")]);
    assert!(stderr(&wrong).contains("no snapshot of Ringworld"), "{}", stderr(&wrong));
}
