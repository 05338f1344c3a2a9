//! Runs cases on the host's CPU, in this process.
//!
//! A signal frame that never was (`rt_sigreturn` with a frame of our own making) loads the whole user state with TF set;
//! one instruction later the kernel saves the whole state again in a real frame and calls the handler, which leaves by
//! restoring the runner's registers. So one case costs one system call and one signal.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod enter;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod frame;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod runner;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod window;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use runner::Native;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod absent;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use absent::Native;
