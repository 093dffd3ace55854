//! A hint to the CPU's caches.

use super::memory::LINE;

/// Asks for `bytes` to be brought into the cache; reads nothing.
#[inline]
pub fn prefetch<T>(bytes: &[T]) {
    prefetch_at(bytes.as_ptr().cast(), size_of_val(bytes));
}

/// Asks for `len` bytes from `start` on to be brought into the cache. It reads nothing, so that any
/// address will do, also one that others write to.
#[inline]
pub fn prefetch_at(start: *const u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for at in (0..len).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (start, len, LINE);
}
