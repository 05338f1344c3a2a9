//! The cache: manifests with hashes, atomic replacement, one fetch at a time.
//!
//! ```text
//! CACHE/lock                      held while something is fetched or removed
//! CACHE/apt/amd64/                apt's own state
//! CACHE/guests/debian-amd64.json  the manifest; replaced by one rename, last of all
//! CACHE/guests/debian-amd64-*/    the unpacked packages
//! ```

use crate::apt::{Apt, Host, free_space};
use crate::packages::{Package, resolve};
use crate::{Architecture, Guest, GuestError, Progress};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The manifest's format; others are fetched anew.
const FORMAT: u32 = 1;
/// Prefix of folders that a fetch is still working on.
const TEMPORARY: &str = "tmp-";

/// A package that a guest is made of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PackageRecord {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of the package file, in hexadecimal, as the signed archive has it.
    pub sha256: String,
}

/// A file that a guest boots from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its path in the guest's folder.
    pub path: PathBuf,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    guest: Guest,
    architecture: Architecture,
    folder: String,
    packages: Vec<PackageRecord>,
    kernel: FileRecord,
    busybox: Option<FileRecord>,
    #[serde(default)]
    initrd: Option<FileRecord>,
    modules: Option<PathBuf>,
}

/// A guest in the cache. Its files stay as long as no later fetch replaces it twice and the cache is not cleaned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Installed {
    /// Which guest.
    pub guest: Guest,
    /// Its architecture.
    pub architecture: Architecture,
    /// The folder of the unpacked packages.
    pub tree: PathBuf,
    /// The kernel: a bzImage or an arm64 Image.
    pub kernel: PathBuf,
    /// The static busybox, unless there is an initial file system.
    pub busybox: Option<PathBuf>,
    /// The guest's own initial file system.
    pub initrd: Option<PathBuf>,
    /// The folder of the kernel's modules, which is named after the kernel's release.
    pub modules: Option<PathBuf>,
    /// What it was unpacked from.
    pub packages: Vec<PackageRecord>,
}

impl Installed {
    /// The static busybox.
    ///
    /// # Errors
    /// [`GuestError::NoBusybox`] if the guest has an initial file system of its own in its place.
    pub fn busybox(&self) -> Result<&Path, GuestError> {
        self.busybox.as_deref().ok_or_else(|| GuestError::NoBusybox { guest: self.guest.to_string() })
    }
}

/// The cache of guests.
#[derive(Clone, Debug)]
pub struct Guests {
    folder: PathBuf,
    host: Host,
}

impl Guests {
    /// The user's cache: `$RINGWORLD_CACHE`, else `$XDG_CACHE_HOME/ringworld`, else `~/.cache/ringworld`. Nothing is
    /// created yet.
    ///
    /// # Errors
    /// [`GuestError::NoCacheFolder`] when none of them is an absolute path.
    pub fn open() -> Result<Self, GuestError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let absolute = |path: &PathBuf| path.is_absolute();
        let folder = match variable("RINGWORLD_CACHE") {
            Some(folder) => std::path::absolute(folder).ok(),
            // The XDG specification has relative paths ignored.
            None => variable("XDG_CACHE_HOME")
                .filter(absolute)
                .or_else(|| Some(variable("HOME").filter(absolute)?.join(".cache")))
                .map(|folder| folder.join("ringworld")),
        };
        // apt's configuration has the path as a string in quotes.
        let usable = |folder: &PathBuf| folder.to_str().is_some_and(|path| !path.contains(['"', '\n']));
        let folder = folder.filter(usable).ok_or(GuestError::NoCacheFolder)?;
        Ok(Self { folder, host: Host::default() })
    }

    /// The cache's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The guest from the cache, without a network.
    ///
    /// # Errors
    /// [`GuestError::NotFetched`], or [`GuestError::Damaged`] when a file that it boots from is not as it was fetched.
    pub fn installed(&self, guest: Guest, architecture: Architecture) -> Result<Installed, GuestError> {
        let manifest = self.manifest(guest, architecture)?;
        let folder = self.guests().join(&manifest.folder);
        let checked = |record: &FileRecord| {
            let file = folder.join(&record.path);
            let damaged =
                |what: String| GuestError::Damaged { file: file.clone(), what, guest: guest.to_string() };
            match sha256(&file) {
                Ok(hash) if hash == record.sha256 => Ok(file),
                Ok(_) => Err(damaged("its SHA-256 differs".into())),
                Err(error) => Err(damaged(error.to_string())),
            }
        };
        let kernel = checked(&manifest.kernel)?;
        let busybox = manifest.busybox.as_ref().map(checked).transpose()?;
        let initrd = manifest.initrd.as_ref().map(checked).transpose()?;
        let modules = manifest.modules.map(|modules| folder.join(modules));
        let packages = manifest.packages;
        Ok(Installed { guest, architecture, tree: folder, kernel, busybox, initrd, modules, packages })
    }

    /// The guest from the cache if it is there, else from the network.
    pub fn ensure(
        &self,
        guest: Guest,
        architecture: Architecture,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Installed, GuestError> {
        match self.installed(guest, architecture) {
            Err(GuestError::NotFetched { .. }) => self.fetch(guest, architecture, progress),
            result => result,
        }
    }

    /// Fetches the newest version of the guest, unless the cache has it already.
    pub fn fetch(
        &self,
        guest: Guest,
        architecture: Architecture,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Installed, GuestError> {
        let guests = self.guests();
        fs::create_dir_all(&guests).map_err(GuestError::at(&guests))?;
        let _lock = self.lock(progress)?;
        self.remove_folders(|name| name.starts_with(TEMPORARY))?;

        let apt = Apt::new(&self.host, self.folder.join("apt").join(architecture.to_string()), architecture)?;
        let result = self.fetch_by(&apt, guest, architecture, progress);
        apt.drop_caches()?;
        result
    }

    /// As [`Guests::fetch`], with the lock held.
    fn fetch_by(
        &self,
        apt: &Apt,
        guest: Guest,
        architecture: Architecture,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Installed, GuestError> {
        let guests = self.guests();
        apt.update(progress)?;
        let packages = resolve(apt, guest, architecture)?;
        let records: Vec<PackageRecord> = packages.iter().map(PackageRecord::from).collect();
        let before = self.installed(guest, architecture);
        if let Ok(installed) = before
            && installed.packages == records
        {
            return Ok(installed);
        }

        let space = packages.iter().fold(0u64, |sum, package| sum.saturating_add(package.space));
        if free_space(&guests) < space {
            return Err(GuestError::NoSpace { folder: guests });
        }
        let work = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(&guests)
            .map_err(GuestError::at(&guests))?;
        let tree = work.path().join("tree");
        fs::create_dir(&tree).map_err(GuestError::at(&tree))?;
        for package in &packages {
            self.install(apt, package, work.path(), &tree, progress)?;
        }
        let manifest = describe(guest, architecture, records, &packages, &tree)?;
        let previous = self.manifest(guest, architecture).ok().map(|manifest| manifest.folder);
        let folder = guests.join(&manifest.folder);
        if folder.exists() {
            // A damaged one of the same version: out of the way by a rename, removed with the work folder.
            let aside = work.path().join("damaged");
            fs::rename(&folder, &aside).map_err(GuestError::at(&folder))?;
        }
        fs::rename(&tree, &folder).map_err(GuestError::at(&folder))?;
        self.write_manifest(&manifest)?;
        // The previous version stays for a process that is just about to boot it.
        let prefix = format!("{guest}-{architecture}-");
        self.remove_folders(|name| {
            name.starts_with(&prefix) && name != manifest.folder && Some(name) != previous.as_deref()
        })?;
        self.installed(guest, architecture)
    }

    /// What the cache holds, damaged guests with their errors.
    pub fn list(&self) -> Vec<(Guest, Architecture, Result<Installed, GuestError>)> {
        let all = Guest::ALL
            .into_iter()
            .flat_map(|guest| Architecture::ALL.map(|architecture| (guest, architecture)));
        all.map(|(guest, architecture)| (guest, architecture, self.installed(guest, architecture)))
            .filter(|(_, _, installed)| !matches!(installed, Err(GuestError::NotFetched { .. })))
            .collect()
    }

    /// Removes all guests and apt's state.
    pub fn clean(&self) -> Result<(), GuestError> {
        if !self.folder.exists() {
            return Ok(());
        }
        let _lock = self.lock(&mut |_| {})?;
        for part in ["guests", "apt"] {
            remove(&self.folder.join(part))?;
        }
        Ok(())
    }

    fn guests(&self) -> PathBuf {
        self.folder.join("guests")
    }

    fn manifest_path(&self, guest: Guest, architecture: Architecture) -> PathBuf {
        self.guests().join(format!("{guest}-{architecture}.json"))
    }

    fn manifest(&self, guest: Guest, architecture: Architecture) -> Result<Manifest, GuestError> {
        let path = self.manifest_path(guest, architecture);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let (guest, architecture) = (guest.to_string(), architecture.to_string());
                return Err(GuestError::NotFetched { guest, architecture });
            }
            Err(error) => return Err(GuestError::at(path)(error)),
        };
        let damaged =
            |what: String| GuestError::Damaged { file: path.clone(), what, guest: guest.to_string() };
        let manifest: Manifest = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if (manifest.format, manifest.guest, manifest.architecture) != (FORMAT, guest, architecture) {
            return Err(damaged("it is for another guest or version of this program".into()));
        }
        Ok(manifest)
    }

    fn write_manifest(&self, manifest: &Manifest) -> Result<(), GuestError> {
        let (path, guests) = (self.manifest_path(manifest.guest, manifest.architecture), self.guests());
        let mut file = tempfile::NamedTempFile::new_in(&guests).map_err(GuestError::at(&guests))?;
        let text =
            serde_json::to_string_pretty(manifest).map_err(|error| GuestError::at(&path)(error.into()))?;
        file.write_all(text.as_bytes()).map_err(GuestError::at(&path))?;
        file.persist(&path).map_err(|error| GuestError::at(&path)(error.error))?;
        Ok(())
    }

    /// Waits until no other process changes the cache. The lock ends with the file.
    fn lock(&self, progress: &mut dyn FnMut(Progress)) -> Result<File, GuestError> {
        let path = self.folder.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(GuestError::at(&path))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(GuestError::at(path)(error)),
            Err(TryLockError::WouldBlock) => {}
        }
        progress(Progress { step: "waiting for another fetch to end".into(), percent: None });
        file.lock().map_err(GuestError::at(path))?;
        Ok(file)
    }

    /// Removes the folders in `guests` whose names match.
    fn remove_folders(&self, matches: impl Fn(&str) -> bool) -> Result<(), GuestError> {
        let guests = self.guests();
        for entry in fs::read_dir(&guests).map_err(GuestError::at(&guests))? {
            let path = entry.map_err(GuestError::at(&guests))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && matches(name) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Downloads a package, checks its hash and unpacks it into `tree`.
    fn install(
        &self,
        apt: &Apt,
        package: &Package,
        work: &Path,
        tree: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), GuestError> {
        let download = tempfile::tempdir_in(work).map_err(GuestError::at(work))?;
        let exact = format!("{}={}", package.name, package.version);
        let file = apt.download(&exact, download.path(), progress)?;
        let hash = sha256(&file).map_err(GuestError::at(&file))?;
        if hash != package.sha256 {
            let reason = format!("{} came with another SHA-256 than its archive lists", package.name);
            return Err(GuestError::Command { command: "apt-get download".into(), reason });
        }
        progress(Progress { step: format!("unpacking {}", package.name), percent: None });
        self.host.unpack(&file, tree)
    }
}

impl From<&Package> for PackageRecord {
    fn from(package: &Package) -> Self {
        let Package { name, version, sha256, .. } = package.clone();
        Self { name, version, sha256 }
    }
}

/// Finds the files that a guest boots from in its unpacked packages.
fn describe(
    guest: Guest,
    architecture: Architecture,
    records: Vec<PackageRecord>,
    packages: &[Package],
    tree: &Path,
) -> Result<Manifest, GuestError> {
    let kernel_package =
        packages.iter().find(|package| package.is_kernel()).map_or("", |package| &package.name);
    let missing = |what| GuestError::Unexpected { package: kernel_package.into(), what };
    let record = |path: PathBuf| -> Result<FileRecord, GuestError> {
        let file = tree.join(&path);
        Ok(FileRecord { sha256: sha256(&file).map_err(GuestError::at(file))?, path })
    };
    // The folder's name tells versions apart; the manifest has the whole truth.
    let mut hash = Sha256::new();
    records.iter().for_each(|record| hash.update(&record.sha256));
    let folder = format!("{guest}-{architecture}-{}", &hexadecimal(&hash.finalize())[..16]);
    let start = |kernel| Manifest {
        format: FORMAT,
        guest,
        architecture,
        folder,
        packages: records,
        kernel,
        busybox: None,
        initrd: None,
        modules: None,
    };
    if guest == Guest::DebianInstaller {
        let package = packages.first().map_or("", |package| &package.name);
        let release = first_entry(tree, "usr/lib/debian-installer/images", "");
        let images = release
            .map(|release| release.join(format!("{architecture}/text/debian-installer/{architecture}")))
            .filter(|images| tree.join(images).join("linux").is_file());
        let what = "images/*/text/debian-installer/*/linux";
        let images = images.ok_or_else(|| GuestError::Unexpected { package: package.into(), what })?;
        let initrd = record(images.join("initrd.gz"))?;
        return Ok(Manifest { initrd: Some(initrd), ..start(record(images.join("linux"))?) });
    }
    let kernel = first_entry(tree, "boot", "vmlinuz-").ok_or_else(|| missing("boot/vmlinuz"))?;
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(PathBuf::from);
    let busybox = busybox.into_iter().find(|path| tree.join(path).is_file());
    let busybox = busybox
        .ok_or_else(|| GuestError::Unexpected { package: "busybox-static".into(), what: "busybox" })?;
    let modules = ["lib/modules", "usr/lib/modules"].iter().find_map(|folder| first_entry(tree, folder, ""));
    let (kernel, busybox) = (record(kernel)?, record(busybox)?);
    Ok(Manifest { busybox: Some(busybox), modules, ..start(kernel) })
}

/// The first entry, in the order of names, of `tree/folder` whose name begins so; relative to `tree`.
fn first_entry(tree: &Path, folder: &str, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(tree.join(folder)).ok()?.flatten().map(|entry| entry.file_name());
    let names = entries.filter(|name| name.to_str().is_some_and(|name| name.starts_with(prefix)));
    Some(Path::new(folder).join(names.min()?))
}

fn remove(folder: &Path) -> Result<(), GuestError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(GuestError::at(folder)(error)),
        _ => Ok(()),
    }
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hexadecimal(&hash.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
