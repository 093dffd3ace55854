//! The allocator's habits.

/// Asks the allocator to keep what is freed for the next step, instead of giving it back to the
/// system: a training step allocates the same hundreds of megabytes again, and faulting them in
/// anew costs a tenth of its time. All threads share one arena, whose memory is never unmapped; an
/// arena of a thread's own is made of heaps that are. Does nothing where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: these set three numbers of the allocator, which reads them under its own lock.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        }
    }
}
