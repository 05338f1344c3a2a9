//! Hints to the host's caches.

/// Asks the host for what will be read soon.
#[inline(always)]
pub fn prefetch<T>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, of an address that is valid; all such hosts have SSE.
    unsafe {
        core::arch::x86_64::_mm_prefetch(core::ptr::from_ref(at).cast(), core::arch::x86_64::_MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
