//! The control socket: commands, answers, and what goes wrong.

mod common;

use common::client::Client;
use common::ringworld;
use serde_json::json;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Echoes COM1 until a `q` comes, and counts at 0x500 meanwhile.
const GUEST: &[u8] = &[
    0xff, 0x06, 0x00, 0x05, // again: inc word [0x500]
    0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf4, // mov dx, 0x3fd; in al, dx; test al, 1; jz again
    0xba, 0xf8, 0x03, 0xec, 0xee, 0x3c, b'q', 0x75,
    0xeb, // mov dx, 0x3f8; in; out; cmp al, 'q'; jne again
    0xb0, 0x01, 0xe6, 0xf4, // mov al, 1; out 0xf4, al
];

fn start(folder: &Path, options: &[&str]) -> (Child, Client) {
    let kernel = common::guest(folder, GUEST);
    let socket = folder.join("socket");
    let control = format!("unix:{}", socket.display());
    let start = ["run", "--kernel", kernel.to_str().unwrap(), "--loader", "raw@0:0x7c00", "--memory", "16M"];
    let child = ringworld(&[&start[..], &["--control", &control, "--timeout", "60"], options].concat())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    (child, Client::connect(&socket))
}

#[test]
fn a_machine_is_controlled() {
    let folder = tempfile::tempdir().unwrap();
    let (child, mut client) = start(folder.path(), &["--paused"]);
    let status = client.call("query-status", json!({}));
    assert_eq!((&status["status"], &status["instructions"]), (&"paused".into(), &0.into()));
    client.call("cont", json!({}));
    std::thread::sleep(Duration::from_millis(100));
    client.call("stop", json!({}));
    let stopped = client.call("query-status", json!({}));
    assert!(stopped["instructions"].as_u64().unwrap() > 0 && stopped["running"] == false);
    let snapshot = folder.path().join("snapshot");
    let file = json!({ "file": snapshot.to_str().unwrap() });
    let hash = client.call("query-hash", json!({}));
    client.call("snapshot-save", file.clone());
    let count = client.call("memory-read", json!({ "address": 0x500, "size": 2 }));
    client.call("cont", json!({}));
    std::thread::sleep(Duration::from_millis(50));
    client.call("stop", json!({}));
    assert_ne!(client.call("query-hash", json!({})), hash);
    client.call("snapshot-load", file);
    assert_eq!(client.call("query-hash", json!({})), hash);
    assert_eq!(client.call("memory-read", json!({ "address": 0x500, "size": 2, "cpu": 0 })), count);
    assert_eq!(client.call("query-cpus", json!({}))[0]["activity"], "Active");
    assert_eq!(client.call("query-registers", json!({ "cpu": 0 }))["cr0"], 0x10);
    let monitor = client.call("human-monitor-command", json!({ "command-line": "xp/1bx 7c00" }));
    assert!(monitor.as_str().unwrap().contains("0xff"), "{monitor}");
    client.call("inject-nmi", json!({}));
    client.call("send-key", json!({ "keys": [0x1e, 0xc8] }));

    client.fails("dance", json!({}), "no command");
    client.fails("query-registers", json!({ "cpu": 9 }), "no CPU 9");
    client.fails("snapshot-load", json!({ "file": "/nonexistent/file" }), "No such file");
    client.fails("memory-read", json!({ "address": 0 }), "size");
    client.fails("send-key", json!({ "keys": [0] }), "1 to 255");
    client.fails("goto", json!({ "instructions": 1 }), "--reverse");
    assert!(client.raw("{nonsense")["error"]["desc"].as_str().unwrap().contains("no command"));
    assert!(client.raw("{\"execute\": \"stop\", \"more\": 1}").get("error").is_some());

    client.call("serial-write", json!({ "data": "hello q" }));
    client.call("cont", json!({}));
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(3), &b"hello q"[..]));
    assert!(!folder.path().join("socket").exists(), "the socket goes with its machine");
}

#[test]
fn quit_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, mut client) = start(folder.path(), &["--reverse"]);
    client.call("stop", json!({}));
    client.call("goto", json!({ "instructions": 100 }));
    assert_eq!(client.call("query-status", json!({}))["instructions"], 100);
    let mut second = Client::connect(&folder.path().join("socket"));
    second.call("quit", json!({}));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
