//! Large arrays on large pages.
//!
//! A search of the graph in memory jumps from place to place: with pages of 4 KB most jumps miss the
//! table of pages that the CPU keeps, and waiting for that takes a tenth of a build.

use std::mem::MaybeUninit;

/// Makes room for `more` elements as [`Vec::reserve`] does, in memory that the kernel is asked to put
/// on huge pages.
pub(crate) fn reserve<T>(vec: &mut Vec<T>, more: usize) {
    if vec.capacity() - vec.len() >= more {
        return;
    }
    let capacity = (vec.len() + more).max(2 * vec.capacity());
    let mut larger = Vec::with_capacity(capacity);
    advise(larger.spare_capacity_mut());
    larger.append(vec);
    *vec = larger;
}

/// Advice only: without it, or where the kernel has no huge pages left, the memory is as any other.
fn advise<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        let range = memory.as_mut_ptr_range();
        let start = range.start.addr().next_multiple_of(HUGE);
        let end = range.end.addr() / HUGE * HUGE;
        if start < end {
            let start = range.start.with_addr(start).cast();
            // SAFETY: the whole pages between lie within the slice, and the advice changes no content.
            unsafe { libc::madvise(start, end - start.addr(), libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_keeps_what_it_holds_when_it_grows() {
        let mut numbers = Vec::new();
        for i in 0..3_000_000u32 {
            reserve(&mut numbers, 1);
            numbers.push(i);
        }
        assert!(numbers.iter().zip(0..).all(|(&number, i)| number == i));
        assert!(numbers.capacity() < 2 * 3_000_000, "it doubles");
    }
}
