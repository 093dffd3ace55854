//! A hint to the CPU's caches.

/// Bytes that a cache loads at once.
const LINE: usize = 64;

/// Asks for `bytes` to be brought into the cache; reads nothing.
#[inline]
pub fn prefetch<T>(bytes: &[T]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for at in (0..size_of_val(bytes)).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch faults on no address, and this one is inside the slice.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast::<i8>().add(at)) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (bytes, LINE);
}
