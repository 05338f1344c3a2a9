//! apt's own client with a state of its own (apt.conf(5), apt-get(8)).

use crate::sources::distribution_sources;
use crate::{Architecture, GuestError, Progress};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Options of the host's apt that the private one takes over: how to reach the network, and when lists expire. Not
/// taken: hooks, which would act on the host, and what weakens signatures.
const HOST_OPTIONS: [&str; 9] = [
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::ftp::",
    "Acquire::Retries ",
    "Acquire::ForceIPv",
    "Acquire::Check-Valid-Until ",
    "Acquire::Check-Date ",
    "Acquire::Max-ValidTime",
    "Acquire::Queue-Mode ",
];

/// Less free space than this is none.
const FULL: u64 = 256 << 10;
/// Room for the archives' lists and apt's caches of them.
const LISTS: u64 = 160 << 20;

/// The space on the folder's file system that its user may use, in bytes. What cannot be told is no obstacle.
pub(crate) fn free_space(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The parts of the host that a fetch depends on; tests replace them.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// apt's configuration folder.
    pub(crate) etc_apt: PathBuf,
    /// os-release(5).
    pub(crate) os_release: PathBuf,
    /// PATH for apt and dpkg; `None` for this process's own.
    pub(crate) path: Option<PathBuf>,
}

impl Default for Host {
    fn default() -> Self {
        Self { etc_apt: "/etc/apt".into(), os_release: "/etc/os-release".into(), path: None }
    }
}

impl Host {
    fn command(&self, program: &'static str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").stdin(Stdio::null());
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command
    }

    /// Runs a command to its end and returns its standard output; lines go to `watch` as they come.
    fn run(
        &self,
        program: &'static str,
        folder: &Path,
        set_up: impl FnOnce(&mut Command),
        watch: &mut dyn FnMut(&str),
    ) -> Result<Output, GuestError> {
        let mut command = self.command(program);
        set_up(&mut command);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                GuestError::NoApt { program }
            } else {
                GuestError::Io { path: program.into(), source: error }
            }
        })?;
        let mut errors = child.stderr.take();
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(errors) = &mut errors {
                // What cannot be read is not reported; the exit code still is.
                let _ = errors.read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut text = String::new();
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                // With a full disk apt's download methods wait for ever; while it waits it still reports.
                if free_space(folder) < FULL {
                    // A child that has ended by itself cannot be killed, which is as good.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(GuestError::NoSpace { folder: folder.into() });
                }
                watch(&line);
                text.push_str(&line);
                text.push('\n');
            }
        }
        let status = child.wait().map_err(GuestError::at(program))?;
        let errors = errors.join().unwrap_or_default();
        Ok(Output { command: program, folder: folder.into(), success: status.success(), text, errors })
    }

    /// Unpacks a package into `folder`, which must exist.
    pub(crate) fn unpack(&self, package: &Path, folder: &Path) -> Result<(), GuestError> {
        let arguments: [&OsStr; 3] = ["-x".as_ref(), package.as_ref(), folder.as_ref()];
        self.run("dpkg-deb", folder, |command| _ = command.args(arguments), &mut |_| {})?.checked()?;
        Ok(())
    }
}

/// What a command left.
struct Output {
    command: &'static str,
    folder: PathBuf,
    success: bool,
    text: String,
    errors: String,
}

impl Output {
    /// The output of a command that succeeded; otherwise the error that its messages mean.
    fn checked(self) -> Result<String, GuestError> {
        // Some versions of apt-get update succeed although an archive could not be reached.
        let failed_fetch = self.errors.contains("Failed to fetch");
        if self.success && !failed_fetch {
            return Ok(self.text);
        }
        let message = |line: &str| {
            let line = line.strip_prefix("E: ").or(line.strip_prefix("W: ")).unwrap_or(line);
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let lines = || self.errors.lines().map(str::trim).filter(|line| !line.is_empty());
        let with = |needles: &[&str]| {
            lines().find(|line| needles.iter().any(|needle| line.contains(needle))).map(message)
        };
        let any = || lines().find(|line| line.starts_with("E: ")).or(lines().next_back()).map(message);
        if with(&["No space left", "enough free space", "Disk quota exceeded"]).is_some() {
            return Err(GuestError::NoSpace { folder: self.folder });
        }
        if let Some(reason) =
            with(&["NO_PUBKEY", "GPG error", "is not signed", "BADSIG", "EXPKEYSIG", "not valid yet"])
        {
            return Err(GuestError::Signature { reason });
        }
        if let Some(reason) =
            with(&["Failed to fetch", "Could not resolve", "Could not connect", "Unable to connect"])
        {
            return Err(GuestError::Network { reason });
        }
        let reason = any().unwrap_or_else(|| "it gave no reason".into());
        Err(GuestError::Command { command: self.command.into(), reason })
    }
}

/// apt with a state of its own for one architecture.
pub(crate) struct Apt {
    host: Host,
    folder: PathBuf,
}

impl Apt {
    /// Writes the configuration into `folder`, which keeps the archives' lists between fetches.
    pub(crate) fn new(host: &Host, folder: PathBuf, architecture: Architecture) -> Result<Self, GuestError> {
        let apt = Self { host: host.clone(), folder };
        for part in ["lists/partial", "cache/archives/partial", "state", "log", "sources"] {
            let path = apt.folder.join(part);
            fs::create_dir_all(&path).map_err(GuestError::at(path))?;
        }
        if free_space(&apt.folder) < LISTS {
            return Err(GuestError::NoSpace { folder: apt.folder });
        }
        let os_release = fs::read_to_string(&host.os_release).unwrap_or_default();
        let host_options = apt
            .host
            .run("apt-config", &apt.folder, |command| _ = command.arg("dump"), &mut |_| {})?
            .checked()?;
        apt.write("sources/host.sources", &distribution_sources(&host.etc_apt, &os_release)?)?;
        apt.write("status", "")?;
        apt.write("apt.conf", &configuration(&apt.folder, architecture, &host_options))?;
        Ok(apt)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), GuestError> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(GuestError::at(path))
    }

    fn run(
        &self,
        program: &'static str,
        arguments: &[&str],
        working: &Path,
        watch: &mut dyn FnMut(&str),
    ) -> Result<Output, GuestError> {
        let set_up = |command: &mut Command| {
            command.args(arguments).env("APT_CONFIG", self.folder.join("apt.conf")).current_dir(working);
        };
        self.host.run(program, &self.folder, set_up, watch)
    }

    /// Brings the archives' lists up to date.
    pub(crate) fn update(&self, progress: &mut dyn FnMut(Progress)) -> Result<(), GuestError> {
        let watch = &mut |line: &str| report(progress, "fetching package lists", line);
        self.run("apt-get", &["-qq", "update"], &self.folder, watch)?.checked()?;
        Ok(())
    }

    /// What the archives say of a package's candidate version; nothing if there is no such package.
    pub(crate) fn show(&self, package: &str) -> Result<String, GuestError> {
        let arguments = ["show", "--no-all-versions", package];
        let output = self.run("apt-cache", &arguments, &self.folder, &mut |_| {})?;
        if output.errors.contains("No packages found") { Ok(String::new()) } else { output.checked() }
    }

    /// Downloads the candidate version of a package into an empty folder and returns its file. apt checks it.
    pub(crate) fn download(
        &self,
        package: &str,
        folder: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, GuestError> {
        let watch = &mut |line: &str| report(progress, &format!("fetching {package}"), line);
        self.run("apt-get", &["-qq", "download", package], folder, watch)?.checked()?;
        let is_package = |path: &PathBuf| path.extension() == Some(OsStr::new("deb"));
        let mut entries =
            fs::read_dir(folder).map_err(GuestError::at(folder))?.flatten().map(|entry| entry.path());
        let unexpected = || GuestError::Unexpected { package: package.into(), what: "package file" };
        entries.find(is_package).ok_or_else(unexpected)
    }
}

impl Apt {
    /// Removes what apt can make again from its lists.
    pub(crate) fn drop_caches(&self) -> Result<(), GuestError> {
        let cache = self.folder.join("cache");
        fs::remove_dir_all(&cache).map_err(GuestError::at(cache))
    }
}

/// apt's line `dlstatus:N:PERCENT:TEXT`.
fn report(progress: &mut dyn FnMut(Progress), step: &str, line: &str) {
    let Some(rest) = line.strip_prefix("dlstatus:") else { return };
    let percent = rest.split(':').nth(1).and_then(|percent| percent.parse().ok());
    progress(Progress { step: step.into(), percent });
}

fn configuration(folder: &Path, architecture: Architecture, host_options: &str) -> String {
    // A path in quotes: apt.conf has no escapes in strings, and a quote in a path would end it.
    let path = |part: &str| folder.join(part).display().to_string().replace('"', "");
    // An unreachable mirror is told within a minute, unless the host's own options, which follow, say otherwise.
    let mut text = String::from("Acquire::http::Timeout \"20\";\nAcquire::Retries \"1\";\n");
    for line in host_options.lines() {
        if HOST_OPTIONS.iter().any(|prefix| line.starts_with(prefix)) {
            text += line;
            text += "\n";
        }
    }
    let mut set = |name: &str, value: &str| text += &format!("{name} \"{value}\";\n");
    for (name, part) in [
        ("Dir::Etc::sourceparts", "sources"),
        ("Dir::State", "state"),
        ("Dir::State::lists", "lists"),
        ("Dir::State::status", "status"),
        ("Dir::Cache", "cache"),
        ("Dir::Log", "log"),
    ] {
        set(name, &path(part));
    }
    for name in ["main", "parts", "sourcelist", "preferences", "preferencesparts"] {
        set(&format!("Dir::Etc::{name}"), "/dev/null");
    }
    set("APT::Architecture", &architecture.to_string());
    set("APT::Architectures::", &architecture.to_string());
    // The folder is this user's own: apt's download user could not write to it.
    set("APT::Sandbox::User", "root");
    set("APT::Status-Fd", "1");
    set("Acquire::Languages", "none");
    set("Acquire::GzipIndexes", "true");
    text
}
