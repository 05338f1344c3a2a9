//! Debian's kernel boots to busybox and powers off, twice the same, on one CPU and on two.

mod common;

use common::{ringworld, stderr};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Once;

/// Whether the guest is in the user's cache, or can be fetched.
fn fetched() -> bool {
    static FETCH: Once = Once::new();
    FETCH.call_once(|| {
        if !has_guest() {
            let fetch = common::output(&["guests", "fetch", "debian"]);
            eprint!("{}", stderr(&fetch));
        }
    });
    if !has_guest() {
        eprintln!("skipped: no guest in the cache, and none can be fetched");
    }
    has_guest()
}

fn has_guest() -> bool {
    common::output(&["guests", "path", "debian"]).status.success()
}

/// Boots with this script on a pipe; the counters go to `stats`.
fn boot(script: &str, stats: &Path, options: &[&str]) -> Output {
    let target = format!("json:{}", stats.display());
    let start = ["boot", "debian", "--timeout", "1200", "--stats", &target];
    let mut child = ringworld(&[&start, options].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn two_boots_are_one() {
    if !fetched() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\necho sum $((6 * 7))\nwc -l < /proc/cpuinfo > /dev/null\n").unwrap();
    let run = |name: &str| {
        let stats = folder.path().join(name);
        let output = boot("", &stats, &["--script", script.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        (String::from_utf8_lossy(&output.stdout).into_owned(), json(&stats))
    };
    let (text, stats) = run("first");
    assert!(text.contains("RINGWORLD-USERSPACE") && text.contains("sum 42"), "{text}");
    assert!(text.contains("reboot: Power down"), "{text}");
    for word in ["WARNING", "Oops", "unchecked MSR", "BUG:", "Call Trace"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    assert_eq!(stats["stop"], "PowerOff");
    let (again_text, again) = run("second");
    assert_eq!(text, again_text);
    for key in ["instructions", "virtual_ns", "state_hash"] {
        assert_eq!(stats[key], again[key], "{key}");
    }
}

#[test]
fn two_cpus_work_and_a_session_replays() {
    if !fetched() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (stats, log) = (folder.path().join("stats"), folder.path().join("log"));
    let log = log.to_str().unwrap();
    let script = "echo cpus $(grep -c ^processor /proc/cpuinfo)\n";
    let output = boot(script, &stats, &["--smp", "2", "--record", log]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("cpus 2"), "{text}");
    let replay_stats = folder.path().join("replay");
    let replayed = boot("", &replay_stats, &["--smp", "2", "--replay", log]);
    assert!(stderr(&replayed).contains("the replay's end is the recorded one"), "{}", stderr(&replayed));
    assert_eq!(output.stdout, replayed.stdout);
    assert_eq!(json(&stats)["state_hash"], json(&replay_stats)["state_hash"]);
}

/// Interpreter and translator, compared as they go, to the guest's power-off.
fn engines_agree(cpus: &str) {
    if !fetched() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\nsha256sum /bin/busybox | gzip | gunzip\n").unwrap();
    let script = script.to_str().unwrap();
    let output = common::output(&["lockstep", "--", "boot", "debian", "--cpus", cpus, "--script", script]);
    let text = String::from_utf8_lossy(&output.stdout);
    if stderr(&output).contains("BMI2") {
        eprintln!("skipped: {}", stderr(&output));
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("no difference") && text.contains("PowerOff"), "{text}");
}

#[test]
fn engines_agree_over_a_boot() {
    engines_agree("1");
}

#[test]
fn engines_agree_over_a_boot_of_four_cpus() {
    engines_agree("4");
}
