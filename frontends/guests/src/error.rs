//! Why there is no guest: each error is one line that says what, where and what to do.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a guest cannot be had.
#[derive(Debug, Error)]
pub enum GuestError {
    /// There is no such guest.
    #[error("there is no guest {name:?}; there are: {names}")]
    UnknownGuest {
        /// The name asked for.
        name: String,
        /// The names there are.
        names: String,
    },
    /// The host has no apt.
    #[error(
        "{program} is not installed, and guests come by Debian's apt: boot files of your own with --kernel and --initrd"
    )]
    NoApt {
        /// The program that is missing.
        program: &'static str,
    },
    /// The host's apt has no distribution archive.
    #[error(
        "{folder} names no Debian or Ubuntu archive to fetch guests from: add one, or boot files of your own with \
         --kernel and --initrd"
    )]
    NoSources {
        /// apt's configuration folder.
        folder: PathBuf,
    },
    /// The archives have no such package.
    #[error(
        "the host's archives have none of the packages {packages} for {architecture}: boot files of your own with \
         --kernel and --initrd"
    )]
    NoPackage {
        /// The packages tried.
        packages: String,
        /// For which architecture.
        architecture: String,
    },
    /// A mirror cannot be reached.
    #[error(
        "cannot fetch from the mirror: {reason}; connect to the network and try again (a guest fetched once works offline)"
    )]
    Network {
        /// What apt said.
        reason: String,
    },
    /// apt does not trust what it got.
    #[error("apt refuses the mirror's signature: {reason}; check the host's keyrings and clock")]
    Signature {
        /// What apt said.
        reason: String,
    },
    /// The file system is full.
    #[error("no space left for guests in {folder}: free some, or name another folder by RINGWORLD_CACHE")]
    NoSpace {
        /// The cache folder.
        folder: PathBuf,
    },
    /// A script needs a guest with busybox.
    #[error("{guest} brings a file system of its own and runs no scripts: take another guest")]
    NoBusybox {
        /// The guest's name.
        guest: String,
    },
    /// Another failure of apt or dpkg.
    #[error("{command} failed: {reason}")]
    Command {
        /// What was run.
        command: String,
        /// What it said.
        reason: String,
    },
    /// A package without the file that it is fetched for.
    #[error(
        "the package {package} holds no {what}: report this, and boot files of your own with --kernel and --initrd"
    )]
    Unexpected {
        /// The package.
        package: String,
        /// What was looked for.
        what: &'static str,
    },
    /// The guest is not in the cache.
    #[error("the guest {guest} ({architecture}) is not fetched yet: run `ringworld guests fetch {guest}`")]
    NotFetched {
        /// The guest.
        guest: String,
        /// Its architecture.
        architecture: String,
    },
    /// A file of the cache is not as it was fetched.
    #[error(
        "{file} in the guest cache is damaged ({what}): run `ringworld guests fetch {guest}` to replace it"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: String,
        /// The guest that it belongs to.
        guest: String,
    },
    /// There is no place for the cache.
    #[error("no folder for guests: set RINGWORLD_CACHE or HOME to an absolute path")]
    NoCacheFolder,
    /// An error of the file system.
    #[error("{path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl GuestError {
    /// For `map_err`: an I/O error at `path`; a full disk becomes [`GuestError::NoSpace`].
    pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { folder: path },
            _ => Self::Io { path, source },
        }
    }
}
