//! Disk and network: how many bytes a second a guest moves through its virtio devices, in each emulator.

use crate::emulator::{Emulator, Guest};
use crate::report::{median, problems};
use anyhow::{Context, Result};
use ringworld_firmware::Initramfs;
use ringworld_guests::{Driver, Installed};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

/// A row: its name, what runs in the guest and prints what it counted (it moves `$n` times [`PIECE`] MiB), and how many
/// times that is with a scale of 1.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    script: &'static str,
    work: u64,
}

const ROWS: [Row; 4] = [
    Row {
        name: "blk-read",
        script: "while [ $n -gt 0 ]; do dd if=/dev/vda of=/dev/null bs=1M iflag=direct; n=$((n-1)); done 2>&1 | grep -c '^64+0.*out'",
        work: 16,
    },
    Row {
        name: "blk-write",
        script: "while [ $n -gt 0 ]; do dd if=/dev/zero of=/dev/vda bs=1M count=64 oflag=direct; n=$((n-1)); done 2>&1 | grep -c '^64+0.*out'",
        work: 16,
    },
    Row {
        name: "tcp-get",
        script: "while [ $n -gt 0 ]; do nc $host $get </dev/null >/tmp/got; stat -c %s /tmp/got; n=$((n-1)); done | grep -c '^67108864$'",
        work: 2,
    },
    Row {
        name: "tcp-put",
        script: "while [ $n -gt 0 ]; do dd if=/dev/zero bs=1M count=64 2>/dev/null | nc $host $put; n=$((n-1)); done | grep -c '^67108864$'",
        work: 2,
    },
];

/// MiB of the disk, and of each transfer.
const PIECE: u64 = 64;
const MIB: usize = 1 << 20;

/// The names of the rows.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name)
}

/// The devices of a guest.
#[derive(Debug)]
pub struct Devices {
    /// The disk's image.
    pub disk: PathBuf,
}

/// What one emulator did.
#[derive(Debug, Serialize)]
pub struct Line {
    /// The row.
    pub name: &'static str,
    /// MiB a second: the median of all runs.
    pub speed: BTreeMap<Emulator, f64>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The rows.
    pub lines: Vec<Line>,
    /// What went wrong.
    pub problems: Vec<String>,
}

/// What is measured, with what.
pub struct Plan<'a> {
    /// The guest's kernel, busybox and modules.
    pub installed: &'a Installed,
    /// Only these rows; all if empty.
    pub only: &'a [String],
    /// Multiplies the work.
    pub scale: f64,
    /// How many times everything runs.
    pub runs: u16,
}

/// Runs all rows in all emulators.
pub fn run(
    plan: &Plan<'_>,
    emulators: &BTreeMap<Emulator, (PathBuf, String)>,
    guest: Guest,
) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    // Not sparse: holes are read faster than data.
    fs::write(&disk, vec![0x5a; PIECE as usize * MIB])?;
    let devices = Devices { disk };
    let (get, put) = (serve(send)?, serve(receive)?);
    let work = |row: &Row| ((row.work as f64 * plan.scale) as u64).max(1);
    let rows: Vec<Row> = ROWS
        .into_iter()
        .filter(|row| plan.only.is_empty() || plan.only.iter().any(|name| name == row.name))
        .collect();
    let mut script = format!(
        "#!/bin/sh\ndmesg -n 1\nip link set eth0 up\nip addr add 10.0.2.15/24 dev eth0\nhost=10.0.2.2 get={get} put={put}\n"
    );
    for row in &rows {
        script += &format!(
            "n={}; echo '@begin {name}'; s=$({})\necho \"@end {name} $s\"\n",
            work(row),
            row.script,
            name = row.name
        );
    }
    let initrd = folder.path().join("initrd");
    fs::write(&initrd, initramfs(plan.installed, &script)?)?;
    let guest = Guest { initrd: &initrd, devices: Some(&devices), ..guest };

    let mut speeds: BTreeMap<(&str, Emulator), Vec<f64>> = BTreeMap::new();
    let mut problems = Vec::new();
    for round in 1..=plan.runs {
        for (emulator, (binary, _)) in emulators {
            crate::progress(&format!("round {round} of {}: {}", plan.runs, emulator.name()));
            let run = emulator.run(binary, &guest)?;
            problems
                .extend(run.failure.map(|failure| format!("{}, run {round}: {failure}", emulator.name())));
            for row in &rows {
                match run.costs.programs.get(row.name) {
                    Some((seconds, count)) if *count == work(row).to_string() => {
                        let speed = (work(row) * PIECE) as f64 / seconds;
                        speeds.entry((row.name, *emulator)).or_default().push(speed);
                    }
                    other => problems.push(format!(
                        "{}, {}: {}",
                        emulator.name(),
                        row.name,
                        other.map_or("did not run".into(), |(_, count)| format!(
                            "only {count} transfers were whole"
                        ))
                    )),
                }
            }
        }
    }
    crate::progress("");
    let line = |row: &Row| Line {
        name: row.name,
        speed: emulators
            .keys()
            .filter_map(|emulator| Some((*emulator, median(speeds.get(&(row.name, *emulator))?)?)))
            .collect(),
    };
    Ok(Report { lines: rows.iter().map(line).collect(), problems })
}

fn initramfs(installed: &Installed, script: &str) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut initramfs = Initramfs::new(read(installed.busybox()?)?)?;
    for (file, data) in installed.drivers(&[Driver::Virtio, Driver::Block, Driver::Network])? {
        initramfs.module(&file, data)?;
    }
    initramfs.script(script)?;
    Ok(initramfs.finish())
}

/// A server of its own on the loopback interface, for as long as the process lives: its port.
fn serve(each: fn(TcpStream)) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        listener.incoming().flatten().for_each(|stream| drop(std::thread::spawn(move || each(stream))))
    });
    Ok(port)
}

fn send(mut stream: TcpStream) {
    let data = vec![0x5a; MIB];
    for _ in 0..PIECE {
        // The guest sees that something is missing.
        if stream.write_all(&data).is_err() {
            return;
        }
    }
}

/// Takes all, and says how much it was.
fn receive(mut stream: TcpStream) {
    let mut data = vec![0; MIB];
    let mut count = 0;
    while let Ok(len @ 1..) = stream.read(&mut data) {
        count += len;
    }
    let _ = writeln!(stream, "{count}");
}

impl Report {
    /// A table for people.
    pub fn text(&self) -> String {
        let mut out = format!("\n{:<14}", "MiB/s");
        let emulators: Vec<Emulator> =
            self.lines.iter().flat_map(|line| line.speed.keys().copied()).collect();
        let emulators: std::collections::BTreeSet<Emulator> = emulators.into_iter().collect();
        for emulator in &emulators {
            _ = write!(out, "{:>14}", emulator.name());
        }
        let both = [Emulator::Ringworld, Emulator::Qemu].iter().all(|emulator| emulators.contains(emulator));
        out += if both { "         ratio\n" } else { "\n" };
        for line in &self.lines {
            _ = write!(out, "  {:<12}", line.name);
            for emulator in &emulators {
                match line.speed.get(emulator) {
                    Some(speed) => _ = write!(out, "{speed:>14.1}"),
                    None => _ = write!(out, "{:>14}", "-"),
                }
            }
            if let (Some(own), Some(other)) =
                (line.speed.get(&Emulator::Ringworld), line.speed.get(&Emulator::Qemu))
            {
                _ = write!(out, "{:>13.2}x", own / other);
            }
            out.push('\n');
        }
        problems(&mut out, &self.problems);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_send_and_count() {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, serve(send).unwrap())).unwrap();
        let mut data = Vec::new();
        stream.read_to_end(&mut data).unwrap();
        assert_eq!(data.len(), PIECE as usize * MIB);
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, serve(receive).unwrap())).unwrap();
        stream.write_all(&data[..100_000]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "100000\n");
    }

    #[test]
    fn the_table_has_ratios() {
        let speed = BTreeMap::from([(Emulator::Ringworld, 300.0), (Emulator::Qemu, 200.0)]);
        let report = Report { lines: vec![Line { name: "blk-read", speed }], problems: vec!["none".into()] };
        let text = report.text();
        assert!(text.contains("1.50x") && text.contains("problem: none"), "{text}");
    }
}
