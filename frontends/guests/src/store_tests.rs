//! The cache with a small apt in shell scripts, and once with the real one.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A host whose apt is a set of scripts; `log` gets a line for each command.
struct FakeHost {
    folder: tempfile::TempDir,
    _serial: MutexGuard<'static, ()>,
}

/// While one test writes a script, another one's child would hold it open, and it could not be run ("text file busy").
static SERIAL: Mutex<()> = Mutex::new(());

const DEBIAN: &str = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n";

impl FakeHost {
    fn new() -> Self {
        let fake = Self {
            folder: tempfile::tempdir().unwrap(),
            _serial: SERIAL.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let path = fake.folder.path();
        for folder in ["bin", "apt/sources.list.d", "cache"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        fs::write(path.join("apt/sources.list.d/debian.sources"), DEBIAN).unwrap();
        fs::write(path.join("os-release"), "ID=debian\nVERSION_CODENAME=bookworm\n").unwrap();
        fake.script(
            "apt-config",
            "echo 'Acquire::http::Proxy \"http://proxy.example\";'; echo 'DPkg::Post-Invoke:: \"rm\";'",
        );
        fake.script(
            "apt-get",
            "echo dlstatus:1:50.0:half; case $2 in download) echo deb-$3 > ${3%=*}.deb;; esac",
        );
        let sum = |name: &str| hexadecimal(&Sha256::digest(format!("deb-{name}=1\n")));
        let show = |name: &str, depends: &str| {
            format!(
                "{name}) printf 'Package: {name}\\nVersion: 1\\nSHA256: {}\\nDepends: {depends}\\n';; ",
                sum(name)
            )
        };
        fake.script(
            "apt-cache",
            &format!(
                "case $3 in {}{}{}{}*) echo 'E: No packages found' >&2; exit 100;; esac",
                show("linux-image-cloud-amd64", "linux-image-6.1.0-1-cloud-amd64 (= 1)"),
                show("linux-image-6.1.0-1-cloud-amd64", "kmod, initramfs-tools"),
                show("busybox-static", ""),
                show("debian-installer-12-netboot-amd64", ""),
            ),
        );
        fake.script(
            "dpkg-deb",
            "cd $3; case $2 in *busybox*) mkdir -p bin; echo b > bin/busybox;; \
             *installer*) at=usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64; \
             mkdir -p $at; echo l > $at/linux; echo i > $at/initrd.gz;; \
             *) mkdir -p boot lib/modules/6.1.0-1; echo k > boot/vmlinuz-6.1.0-1;; esac",
        );
        fake
    }

    fn script(&self, name: &str, body: &str) {
        let path = self.folder.path().join("bin").join(name);
        let log = self.folder.path().join("log");
        fs::write(
            &path,
            format!("#!/bin/sh\nPATH=/usr/bin:/bin\necho {name} \"$*\" >> {}\n{body}\n", log.display()),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        fs::write(self.folder.path().join("log"), "").unwrap();
        log
    }

    fn guests(&self) -> Guests {
        let path = self.folder.path();
        let host = Host {
            etc_apt: path.join("apt"),
            os_release: path.join("os-release"),
            path: Some(path.join("bin")),
        };
        Guests { folder: path.join("cache"), host }
    }

    fn fetch(&self) -> Result<Installed, GuestError> {
        self.guests().fetch(Guest::Debian, Architecture::Amd64, &mut |_| {})
    }

    fn fetch_error(&self) -> String {
        let error = self.fetch().unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }
}

#[test]
fn a_guest_is_fetched_once_and_then_works_offline() {
    let fake = FakeHost::new();
    let guests = fake.guests();
    assert!(matches!(
        guests.installed(Guest::Debian, Architecture::Amd64),
        Err(GuestError::NotFetched { .. })
    ));
    assert!(guests.list().is_empty());
    let mut steps = Vec::new();
    let installed =
        guests.ensure(Guest::Debian, Architecture::Amd64, &mut |progress| steps.push(progress)).unwrap();
    assert_eq!(fs::read_to_string(&installed.kernel).unwrap(), "k\n");
    assert_eq!(fs::read_to_string(installed.busybox().unwrap()).unwrap(), "b\n");
    assert!(installed.modules.as_ref().unwrap().ends_with("lib/modules/6.1.0-1"));
    let names: Vec<&str> = installed.packages.iter().map(|package| &package.name[..]).collect();
    assert_eq!(names, ["linux-image-6.1.0-1-cloud-amd64", "busybox-static"]);
    assert!(steps.iter().any(|progress| progress.percent == Some(50.0)), "{steps:?}");
    let configuration = fs::read_to_string(guests.folder.join("apt/amd64/apt.conf")).unwrap();
    assert!(configuration.contains("http://proxy.example") && !configuration.contains("Post-Invoke"));

    for program in ["apt-get", "apt-cache", "apt-config", "dpkg-deb"] {
        fs::remove_file(fake.folder.path().join("bin").join(program)).unwrap();
    }
    assert_eq!(guests.ensure(Guest::Debian, Architecture::Amd64, &mut |_| {}).unwrap(), installed);
    let list = guests.list();
    assert!(matches!(&list[..], [(Guest::Debian, Architecture::Amd64, Ok(same))] if *same == installed));
    guests.clean().unwrap();
    assert!(guests.list().is_empty());
}

#[test]
fn a_second_fetch_downloads_nothing() {
    let fake = FakeHost::new();
    let first = fake.fetch().unwrap();
    assert!(fake.log().contains("apt-get -qq download busybox-static=1"));
    assert_eq!(fake.fetch().unwrap(), first);
    let log = fake.log();
    assert!(log.contains("update") && !log.contains("download"), "{log}");
}

#[test]
fn damage_is_found_and_a_fetch_repairs_it() {
    let fake = FakeHost::new();
    let installed = fake.fetch().unwrap();
    let check = || fake.guests().ensure(Guest::Debian, Architecture::Amd64, &mut |_| {});
    fs::write(&installed.kernel, "K\n").unwrap();
    let error = check().unwrap_err().to_string();
    assert!(
        error.contains("is damaged (its SHA-256 differs): run `ringworld guests fetch debian`"),
        "{error}"
    );
    assert_eq!(fake.fetch().unwrap(), installed);
    fs::remove_file(installed.busybox().unwrap()).unwrap();
    assert!(matches!(check(), Err(GuestError::Damaged { .. })));
    assert_eq!(fake.fetch().unwrap(), installed);
    fs::write(fake.guests().manifest_path(Guest::Debian, Architecture::Amd64), "{").unwrap();
    assert!(matches!(check(), Err(GuestError::Damaged { .. })));
    assert_eq!(fake.fetch().unwrap(), installed);
    let left: Vec<_> =
        fs::read_dir(fake.guests().guests()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn two_fetches_at_once_are_safe() {
    let fake = FakeHost::new();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| fake.fetch())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(fake.log().matches("download busybox").count(), 1);
}

/// Each failure of apt becomes one line that says what to do.
#[test]
fn failures_have_their_own_errors() {
    let network = "echo \"W: Failed to fetch http://m/InRelease  Could not resolve 'm'\" >&2";
    let unsigned = "echo \"E: The repository 'http://m bookworm InRelease' is not signed.\" >&2; exit 100";
    let full = "echo 'E: Write error - write (28: No space left on device)' >&2; exit 100";
    let other = "echo 'E: Something   else' >&2; exit 100";
    for (script, body, expected) in [
        (
            "apt-get",
            network,
            "cannot fetch from the mirror: Failed to fetch http://m/InRelease Could not resolve 'm'; connect",
        ),
        ("apt-get", unsigned, "apt refuses the mirror's signature: The repository"),
        ("apt-get", full, "no space left for guests in"),
        ("apt-get", other, "apt-get failed: Something else"),
        ("apt-get", "exit 1", "apt-get failed: it gave no reason"),
        (
            "apt-get",
            "case $2 in download) echo wrong > x.deb;; esac",
            "apt-get download failed: linux-image-6.1.0-1-cloud-amd64 came with another SHA-256",
        ),
        ("apt-get", "exit 0", "the package linux-image-6.1.0-1-cloud-amd64=1 holds no package file"),
        (
            "apt-cache",
            "echo 'E: No packages found' >&2; exit 100",
            "the host's archives have none of the packages linux-image-cloud-amd64, linux-image-virtual for amd64",
        ),
        (
            "dpkg-deb",
            "echo 'dpkg-deb: error: x: No space left on device' >&2; exit 2",
            "no space left for guests in",
        ),
        ("dpkg-deb", "exit 0", "the package linux-image-6.1.0-1-cloud-amd64 holds no boot/vmlinuz"),
    ] {
        let fake = FakeHost::new();
        fake.script(script, body);
        let error = fake.fetch_error();
        assert!(error.starts_with(expected), "{script} {body}: {error}");
        assert!(matches!(
            fake.guests().installed(Guest::Debian, Architecture::Amd64),
            Err(GuestError::NotFetched { .. })
        ));
    }
    for program in ["apt-config", "apt-get", "apt-cache", "dpkg-deb"] {
        let fake = FakeHost::new();
        fs::remove_file(fake.folder.path().join("bin").join(program)).unwrap();
        assert!(fake.fetch_error().starts_with(&format!("{program} is not installed")));
    }
}

#[test]
fn a_host_without_distribution_sources_is_told_so() {
    let fake = FakeHost::new();
    fs::remove_file(fake.folder.path().join("apt/sources.list.d/debian.sources")).unwrap();
    assert!(fake.fetch_error().contains("names no Debian or Ubuntu archive"));
}

/// The real thing, where the host has apt and a mirror can be reached.
#[test]
fn the_host_s_apt_fetches_a_bootable_kernel() {
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let guests = Guests { folder: folder.path().into(), host: Host::default() };
    match guests.fetch(Guest::Debian, Architecture::Amd64, &mut |_| {}) {
        Ok(installed) => {
            let kernel = fs::read(&installed.kernel).unwrap();
            assert_eq!(&kernel[0x202..0x206], b"HdrS", "{installed:?}");
            let busybox = fs::read(installed.busybox().unwrap()).unwrap();
            assert_eq!(&busybox[..4], b"\x7fELF");
            assert!(installed.modules.unwrap().is_dir());
        }
        Err(
            error @ (GuestError::NoApt { .. }
            | GuestError::NoSources { .. }
            | GuestError::Network { .. }
            | GuestError::NoPackage { .. }),
        ) => {
            // Past the test runner, which keeps what passing tests print.
            writeln!(std::io::stderr(), "skipped the fetch of a real guest: {error}").unwrap();
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_installer_brings_its_own_file_system() {
    let fake = FakeHost::new();
    let installed = fake.guests().ensure(Guest::DebianInstaller, Architecture::Amd64, &mut |_| {}).unwrap();
    assert_eq!(fs::read_to_string(&installed.kernel).unwrap(), "l\n");
    assert_eq!(fs::read_to_string(installed.initrd.as_ref().unwrap()).unwrap(), "i\n");
    let error = installed.busybox().unwrap_err().to_string();
    assert!(error.contains("debian-installer brings a file system of its own"), "{error}");
}
