//! Benchmarks in a guest: an emulator's process, and its CPU time whenever the guest says something.

use crate::cpu_time;
use crate::markers::Costs;
use crate::programs::output;
use anyhow::{Context, Result, ensure};
use ringworld_firmware::USERSPACE_MARKER;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The kernel's command line.
pub const APPEND: &str = "console=ttyS0 quiet panic=-1";
/// What it has besides where a distribution starts from a disk.
const FROM_DISK: &str = " root=/dev/vda rw net.ifnames=0";

/// Whose guest it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Emulator {
    Ringworld,
    Qemu,
    Bochs,
}

/// What to boot, and how.
#[derive(Debug)]
pub struct Guest<'a> {
    /// The bzImage, or a multiboot kernel.
    pub kernel: &'a Path,
    /// The initramfs; none if empty.
    pub initrd: &'a Path,
    /// RAM in MiB.
    pub memory: u32,
    /// More options for `ringworld run`.
    pub ringworld_options: &'a [String],
    /// A disk and a network card. What is measured then is elapsed time, in place of CPU time, but for `login`.
    pub devices: Option<&'a crate::io::Devices>,
    /// The disk has a distribution: what is measured is the CPU time to its login prompt, where it ends.
    pub login: bool,
    /// A guest that is not done after this time is stopped.
    pub timeout: Duration,
}

impl<'a> Guest<'a> {
    fn initrd_option(&self, name: &'a str) -> impl Iterator<Item = &'a OsStr> {
        let has_one = !self.initrd.as_os_str().is_empty();
        [OsStr::new(name), self.initrd.as_os_str()].into_iter().filter(move |_| has_one)
    }

    fn append(&self) -> String {
        APPEND.to_owned() + if self.login { FROM_DISK } else { "" }
    }

    /// Whether a line of output says that the system is up. A login prompt ends no line: the one before it has the terminal.
    fn is_up(&self, line: &str) -> bool {
        if self.login {
            line.contains("GNU/Linux") && line.trim_end().ends_with(" ttyS0")
        } else {
            line.contains(USERSPACE_MARKER)
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// What the benchmarks cost.
    pub costs: Costs,
    /// CPU seconds of the whole process, from its start to its end.
    pub seconds: f64,
    /// Why it ended early.
    pub failure: Option<String>,
}

/// The arguments with which Ringworld runs a guest.
fn run_guest(command: &mut Command, guest: &Guest) {
    command.arg("run").arg("--kernel").arg(guest.kernel).args(guest.initrd_option("--initrd"));
    command.args(["--append", &guest.append(), "--memory", &format!("{}M", guest.memory)]);
    command.args(guest.ringworld_options);
}

/// Ringworld comparing its engines over a guest.
pub fn lockstep(binary: &Path, guest: &Guest) -> Command {
    let mut command = Command::new(binary);
    command.args(["lockstep", "--"]);
    run_guest(&mut command, guest);
    command
}

impl Emulator {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ringworld => "ringworld",
            Self::Qemu => "qemu",
            Self::Bochs => "bochs",
        }
    }

    /// The first line of what it says about its version; an error if it is not there.
    pub fn version(self, binary: &Path) -> Result<String> {
        let argument = if self == Self::Bochs { "--help" } else { "--version" };
        let all = Command::new(binary)
            .arg(argument)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{} is not installed ({})", self.name(), binary.display()))?;
        // Bochs says it in its banner, and on the other stream.
        let text = [all.stdout, all.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()));
        Ok(line.unwrap_or("unknown version").trim().to_owned())
    }

    fn command(self, binary: &Path, guest: &Guest, folder: &Path) -> Result<Command> {
        let mut command = Command::new(binary);
        match self {
            Self::Ringworld => {
                run_guest(&mut command, guest);
                if let Some(devices) = guest.devices {
                    command.args(["--drive", &drive(&devices.disk), "--net", "user"]);
                }
            }
            Self::Qemu => {
                command.args(["-accel", "tcg", "-cpu", "max", "-m", &guest.memory.to_string()]);
                command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
                command.args(["-serial", "stdio", "-append", &guest.append()]);
                command.arg("-kernel").arg(guest.kernel).args(guest.initrd_option("-initrd"));
                if let Some(devices) = guest.devices {
                    command.args(["-drive", &drive(&devices.disk), "-nic", "user,model=virtio-net-pci"]);
                }
            }
            Self::Bochs => {
                ensure!(guest.devices.is_none(), "Bochs has no virtio devices");
                command.args(["-q", "-f"]).arg(crate::bochs::prepare(guest, folder)?).current_dir(folder);
            }
        }
        Ok(command)
    }

    /// Boots the guest and measures what it does until it switches off.
    pub fn run(self, binary: &Path, guest: &Guest) -> Result<Run> {
        let folder = tempfile::tempdir()?;
        let errors = folder.path().join("errors");
        let mut command = self.command(binary, guest, folder.path())?;
        command.stdin(Stdio::null()).stderr(File::create(&errors)?);
        if self == Self::Bochs {
            // Builds with a debugger wait for the command to continue; others do not read it.
            let commands = folder.path().join("commands");
            std::fs::write(&commands, "c\n")?;
            command.stdin(File::open(commands)?);
        }
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let console = child.stdout.take().context("no standard output")?;
        let mut run = watch(Stopped(child), console, guest)?;
        if let Some(failure) = &mut run.failure {
            let text = std::fs::read(&errors).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            if let Some(last) = text.trim_end().lines().last() {
                *failure = format!("{failure}: {last}");
            }
        }
        Ok(run)
    }
}

/// A child that does not outlive this.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A virtio disk, in the words of Ringworld and of QEMU.
fn drive(disk: &Path) -> String {
    format!("file={},if=virtio,format=raw", disk.display().to_string().replace(',', ",,"))
}

fn watch(mut child: Stopped, console: ChildStdout, guest: &Guest) -> Result<Run> {
    let children = cpu_time::of_children();
    let (pid, begin, timeout) = (child.0.id(), Instant::now(), guest.timeout);
    let elapsed = guest.devices.is_some() && !guest.login;
    let (sender, lines) = mpsc::channel();
    // The thread samples the clock at once; it ends with the console, which ends with the child.
    std::thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let seconds = if elapsed { Ok(begin.elapsed().as_secs_f64()) } else { cpu_time::of_process(pid) };
            let message = (String::from_utf8_lossy(&line).into_owned(), seconds);
            if sender.send(message).is_err() {
                return;
            }
            line.clear();
        }
    });
    let deadline = Instant::now() + timeout;
    let mut costs = Costs::default();
    let mut failure = None;
    let mut last = String::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            // A process that has just ended has no clock, and no marker is its last line.
            Ok((line, Ok(seconds))) => {
                costs.line(&line, seconds, guest.is_up(&line));
                last = line;
                if guest.login && costs.boot.is_some() {
                    break;
                }
            }
            Ok((_, Err(_))) => (),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                failure = Some(format!("stopped after {} s", timeout.as_secs()));
                break;
            }
        }
    }
    if failure.is_none() && costs.boot.is_none() {
        failure = Some(format!("{}, without reaching user space", child.0.wait()?));
    } else if failure.is_none() && costs.running().is_some() {
        failure = Some(child.0.wait()?.to_string());
    }
    if let Some(failure) = &mut failure {
        if let Some(name) = costs.running() {
            *failure += &format!(", in {name}");
        }
        *failure += &format!(", after the line {:?}", last.trim_end());
    }
    drop(child);
    Ok(Run { costs, seconds: cpu_time::of_children() - children, failure })
}

/// Where the emulator is: `given`, or for Ringworld beside this program, else by `$PATH`.
pub fn binary(emulator: Emulator, given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        ensure!(given.is_file(), "{} is not there", given.display());
        return Ok(given.into());
    }
    Ok(match emulator {
        Emulator::Ringworld => {
            let path = std::env::current_exe()?.with_file_name("ringworld");
            ensure!(path.is_file(), "{} is not there: cargo build --release first", path.display());
            path
        }
        Emulator::Qemu => "qemu-system-x86_64".into(),
        Emulator::Bochs => "bochs".into(),
    })
}

/// The host's kernel.
pub fn host_kernel() -> String {
    output(Command::new("uname").args(["-srm"]))
        .map_or_else(|_| "unknown".into(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A run of a shell script in an emulator's place.
    fn run(script: &str, timeout: u64) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("emulator");
        std::fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&binary, PermissionsExt::from_mode(0o755)).unwrap();
        let guest = Guest {
            kernel: Path::new("kernel"),
            initrd: Path::new("initrd"),
            memory: 64,
            ringworld_options: &["--engine=none".into()],
            devices: None,
            login: false,
            timeout: Duration::from_secs(timeout),
        };
        // Another test's fork may hold the script open for writing for a moment ("text file busy").
        loop {
            match Emulator::Ringworld.run(&binary, &guest) {
                Err(error) if error.to_string().contains("busy") => continue,
                result => return result.unwrap(),
            }
        }
    }

    #[test]
    fn cpu_time_is_counted_between_markers() {
        let busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
        let run = run(
            &format!(
                "echo {USERSPACE_MARKER}; echo @begin sleep; sleep 0.3; echo @end sleep 1\n\
                 echo @begin busy; {busy}; echo @end busy \"$*\" | tr ' ' _ | sed 's/@end_busy_/@end busy /'; sleep 0.1"
            ),
            60,
        );
        assert_eq!(run.failure, None);
        let (idle, _) = &run.costs.programs["sleep"];
        let (busy, arguments) = &run.costs.programs["busy"];
        assert!(idle < busy && *busy > 0.001, "{idle} {busy}");
        assert!(arguments.starts_with("run_--kernel_kernel_--initrd_initrd_"), "{arguments}");
        assert!(arguments.ends_with("_--memory_64M_--engine=none"), "{arguments}");
    }

    #[test]
    fn failures_have_reasons() {
        let failure = |script, timeout| run(script, timeout).failure.unwrap();
        let early = failure("echo no such kernel >&2; exit 3", 60);
        assert!(early.contains("exit status: 3") && early.contains("no such kernel"), "{early}");
        let crash = failure("echo RINGWORLD-USERSPACE; echo @begin jit; echo oh no >&2; exit 101", 60);
        assert!(crash.contains("101, in jit") && crash.contains("oh no"), "{crash}");
        let late = failure("echo RINGWORLD-USERSPACE; echo @begin sieve; exec sleep 60", 1);
        assert!(late.contains("stopped after 1 s, in sieve"), "{late}");
    }
}
