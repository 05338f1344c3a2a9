//! The CPU time of processes.

use std::io;

/// CPU seconds of a running process, of all of its threads.
pub fn of_process(pid: u32) -> io::Result<f64> {
    let mut clock = 0;
    // SAFETY: writes the clock's ID to the variable.
    let error = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time to the variable.
    match unsafe { libc::clock_gettime(clock, &mut time) } {
        0 => Ok(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9),
        _ => Err(io::Error::last_os_error()),
    }
}

/// CPU seconds of all children that have been waited for, and of theirs.
pub fn of_children() -> f64 {
    // SAFETY: all zeros is a value of this plain struct.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: writes the variable; cannot fail with these arguments.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) };
    [usage.ru_utime, usage.ru_stime].iter().map(|time| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6).sum()
}
