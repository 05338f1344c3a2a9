//! Why a guest cannot be loaded: each error is one line that says what, where and what to do.

use std::io;
use thiserror::Error;

/// Why a guest cannot be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the {what} {name}")]
    Read {
        /// What the file was for.
        what: &'static str,
        /// The path.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is bigger than anything that could be loaded.
    #[error(
        "the {what} {name} is larger than the guest's memory ({limit} bytes): give the guest more memory"
    )]
    TooLarge {
        /// What the file was for.
        what: &'static str,
        /// The path.
        name: String,
        /// The guest's memory, in bytes.
        limit: u64,
    },
    /// Arguments that nobody would get.
    #[error(
        "the module {name} has arguments ({arguments}), but only kernels of multiboot and PVH give modules any: \
         give them to the kernel"
    )]
    Arguments {
        /// The module.
        name: String,
        /// What it was to get.
        arguments: String,
    },
    /// No boot protocol fits the file.
    #[error("{name} is not a kernel that can be booted ({found}): {advice}")]
    NotBootable {
        /// The file.
        name: String,
        /// What it looks like.
        found: String,
        /// What to pass instead.
        advice: &'static str,
    },
    /// A kernel for another processor.
    #[error("{name} is a kernel for {found}, but this machine is an x86-64: pass a kernel built for x86")]
    WrongArchitecture {
        /// The file.
        name: String,
        /// The other architecture.
        found: String,
    },
    /// The file ends before what its header promises.
    #[error(
        "{name} is truncated: its {what} ends at byte {needed}, but the file has {has} bytes; fetch it again"
    )]
    Truncated {
        /// The file.
        name: String,
        /// The part that is cut off.
        what: &'static str,
        /// Where the part would end.
        needed: u64,
        /// The file's size.
        has: u64,
    },
    /// A header field that no loader could follow.
    #[error("{name} is damaged: {what}")]
    Malformed {
        /// The file.
        name: String,
        /// What is wrong, and where.
        what: String,
    },
    /// A protocol version or feature that this loader does not have.
    #[error("{name} {what}")]
    Unsupported {
        /// The file.
        name: String,
        /// What it asks for, and what to do.
        what: String,
    },
    /// A part's place is not RAM.
    #[error(
        "{what} belongs at {start:#x}-{end:#x}, which is not RAM of this guest ({ram} MiB): give it more memory, or \
         load another file"
    )]
    OutsideRam {
        /// The part.
        what: String,
        /// Its first byte.
        start: u64,
        /// The byte after its last.
        end: u64,
        /// The guest's memory, in MiB.
        ram: u64,
    },
    /// Two parts want the same memory.
    #[error(
        "{what} at {start:#x}-{end:#x} overlaps {other} at {other_start:#x}-{other_end:#x}: load one of them elsewhere"
    )]
    Overlap {
        /// The part placed later.
        what: String,
        /// Its first byte.
        start: u64,
        /// The byte after its last.
        end: u64,
        /// The part placed before.
        other: String,
        /// Its first byte.
        other_start: u64,
        /// The byte after its last.
        other_end: u64,
    },
    /// No free RAM is large enough.
    #[error(
        "no room for {what} ({size} bytes) in the guest's {ram} MiB below {limit:#x}: give the guest more memory or \
         a smaller file"
    )]
    NoRoom {
        /// The part.
        what: String,
        /// Its size, in bytes.
        size: u64,
        /// The address that it must end below.
        limit: u64,
        /// The guest's memory, in MiB.
        ram: u64,
    },
    /// The kernel's command line is limited.
    #[error("the kernel command line has {length} bytes, but {name} takes at most {limit}: shorten it")]
    CommandLineTooLong {
        /// The kernel.
        name: String,
        /// The command line's length, in bytes.
        length: usize,
        /// The limit, in bytes, without the terminating zero.
        limit: usize,
    },
    /// A zero byte would end the string early.
    #[error("the {what} contains a zero byte: remove it")]
    ZeroByte {
        /// Which string.
        what: &'static str,
    },
    /// The ACPI tables of so many CPUs do not fit.
    #[error(
        "the ACPI tables of {cpus} CPUs need {size} bytes of the {room} in the BIOS area: use fewer CPUs"
    )]
    AcpiTooLarge {
        /// The number of CPUs.
        cpus: u32,
        /// The tables' size, in bytes.
        size: usize,
        /// The room, in bytes.
        room: usize,
    },
}
