//! Debian's two kernels at many CPU counts: modules, a reboot, a power-off, and no complaint in the kernel's log.
//!
//! Takes minutes: `cargo test --release -p ringworld --test kernels -- --ignored --nocapture`.

mod common;

use common::{output, stderr};
use std::fs;
use std::process::Command;
use std::time::Instant;

/// What the guest does each time that it comes up: the first time it reboots, the second time it powers off. The disk remembers.
const SCRIPT: &str = "#!/bin/sh
boot=$(head -c 5 /dev/vda)
echo \"RUN $boot cpus $(grep -c ^processor /proc/cpuinfo) modules $(($(lsmod | wc -l) - 1))\"
for module in virtio_pci virtio_blk virtio_net virtio_balloon; do
    [ -e /sys/module/$module ] && echo \"LOADED $module\"
done
echo \"SUM $(sha256sum < /dev/vdb)\"
dmesg -r | grep '^<[0-4]>' | sed 's/^/LOG /'
[ \"$boot\" = again ] || { printf again > /dev/vda; sync; reboot -f; }
";

/// What the kernel says as a warning although nothing is wrong, each with its reason.
const HARMLESS: &[&str] = &[
    // The PMU counts instructions and cycles only and says so (CPUID.0AH:EBX).
    "core: CPUID marked event:",
];
/// What no kernel may say at any level.
const BAD: &[&str] = &[
    "WARNING",
    "Oops",
    "BUG:",
    "unchecked MSR",
    "Call Trace",
    "soft lockup",
    "rcu_sched",
    "rcu: INFO",
    "segfault",
];

/// Boots, reboots, powers off; what is wrong.
fn complaints(guest: &str, cpus: u32) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, contents: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_string()
    };
    let script = file("script", SCRIPT.as_bytes());
    let state = file("state.img", b"first");
    fs::OpenOptions::new().write(true).open(&state).unwrap().set_len(1 << 20).unwrap();
    let data: Vec<u8> = (0..1 << 22).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let data = file("data.img", &data);
    let sum = Command::new("sha256sum").stdin(fs::File::open(&data).unwrap()).output().unwrap().stdout;
    let sum = format!("SUM {}", String::from_utf8_lossy(&sum).trim());
    let (state, data) = (
        format!("file={state},if=virtio,format=raw"),
        format!("file={data},if=virtio,format=raw,readonly=on"),
    );
    let cpus_text = cpus.to_string();
    let output = output(&[
        "boot",
        guest,
        "--time",
        "deterministic",
        "--timeout",
        "3000",
        "--cpus",
        &cpus_text,
        "--script",
        &script,
        "--drive",
        &state,
        "--drive",
        &data,
        "--net",
        "user",
        "--device",
        "virtio-rng,virtio-balloon",
    ]);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut wrong = Vec::new();
    if output.status.code() != Some(0) {
        wrong.push(format!("exit code {:?}: {}", output.status.code(), stderr(&output)));
    }
    for expected in ["reboot: Restarting system", "reboot: Power down"] {
        if text.matches(expected).count() != 1 {
            wrong.push(format!("not once: {expected}"));
        }
    }
    if text.matches(&sum).count() != 2 {
        wrong.push("the disk reads wrong".into());
    }
    for boot in ["first", "again"] {
        if !text.contains(&format!("RUN {boot} cpus {cpus} modules ")) {
            wrong.push(format!("no boot with {cpus} CPUs: {boot}"));
        }
    }
    for module in ["virtio_pci", "virtio_blk", "virtio_net", "virtio_balloon"] {
        if text.matches(&format!("LOADED {module}")).count() != 2 {
            wrong.push(format!("not loaded in both boots: {module}"));
        }
    }
    for line in text.lines() {
        let warning = line.contains("LOG <") && !HARMLESS.iter().any(|harmless| line.contains(harmless));
        if warning || BAD.iter().any(|bad| line.contains(bad)) {
            wrong.push(line.to_string());
        }
    }
    wrong
}

#[test]
#[ignore = "takes minutes; needs Debian's kernels"]
fn kernels_boot_reboot_and_power_off_at_many_cpu_counts() {
    let mut failed = 0;
    for guest in ["debian", "debian-full"] {
        if !output(&["guests", "fetch", guest]).status.success() {
            eprintln!("skipped: {guest} is not in the cache, and cannot be fetched");
            continue;
        }
        for cpus in [1, 2, 4, 16, 64] {
            let begin = Instant::now();
            let wrong = complaints(guest, cpus);
            let verdict = if wrong.is_empty() { "well" } else { "WRONG" };
            eprintln!("{guest:<12} {cpus:>2} CPUs: {verdict} ({:.0} s)", begin.elapsed().as_secs_f64());
            for line in &wrong {
                eprintln!("    {line}");
            }
            failed += usize::from(!wrong.is_empty());
        }
    }
    assert_eq!(failed, 0, "kernels that complain");
}
