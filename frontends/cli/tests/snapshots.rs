//! Snapshots of a Debian boot, restored in new processes, go on to the same end.

mod common;

use common::{output, stderr};
use ringworld_firmware::Initramfs;
use std::fs;
use std::path::Path;

fn stats(path: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// How many points of the boot are tried; the environment may ask for more.
fn save_points() -> u64 {
    std::env::var("RINGWORLD_SAVE_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

#[test]
fn a_boot_goes_on_from_its_snapshots() {
    let paths = output(&["guests", "path", "debian"]);
    if !paths.status.success() {
        eprintln!("skipped: no guest in the cache (`ringworld guests fetch debian`)");
        return;
    }
    let paths = String::from_utf8_lossy(&paths.stdout).into_owned();
    let file = |what: &str| paths.lines().find_map(|line| line.strip_prefix(what)).unwrap().trim();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    // Not `ringworld boot`: the guest is to get no input.
    let mut initrd = Initramfs::new(fs::read(file("busybox")).unwrap()).unwrap();
    initrd.script("#!/bin/sh\nfor i in 1 2 3; do echo $i | sha256sum; done\n").unwrap();
    fs::write(path("initrd"), initrd.finish()).unwrap();
    let (kernel, initrd) = (file("kernel"), path("initrd"));
    let start = [
        "run",
        "--kernel",
        kernel,
        "--initrd",
        &initrd,
        "--append",
        "console=ttyS0",
        "--smp",
        "2",
        "-m",
        "512",
    ];
    let boot = |json: &str| {
        let target = format!("json:{}", path(json));
        let output = output(&[&start[..], &["--stats", &target]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        (String::from_utf8_lossy(&output.stdout).into_owned(), stats(Path::new(&path(json))))
    };
    let (text, whole) = boot("whole");
    let total = whole["instructions"].as_u64().unwrap();
    // Points spread by a generator, so that they fall anywhere inside of a round.
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for point in 0..save_points() {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = seed % total;
        let file = path("snapshot");
        let limit = (at + 1).to_string();
        // The first part ends right behind the save point.
        let save = format!("{at}:{file}");
        let saved = output(&[&start[..], &["--max-instructions", &limit, "--snapshot-at", &save]].concat());
        assert_eq!(saved.status.code(), Some(72), "{}", stderr(&saved));
        let target = format!("json:{}", path("restored"));
        let restored = output(&["run", "--restore", &file, "--stats", &target]);
        assert_eq!(restored.status.code(), Some(0), "point {point}: {}", stderr(&restored));
        let end = stats(Path::new(&path("restored")));
        for key in ["instructions", "virtual_ns", "state_hash"] {
            assert_eq!(end[key], whole[key], "{key} from instruction {at}");
        }
        let both = String::from_utf8_lossy(&saved.stdout) + String::from_utf8_lossy(&restored.stdout);
        assert!(both.len().abs_diff(text.len()) <= 1, "the console's text from instruction {at}");
    }
}
