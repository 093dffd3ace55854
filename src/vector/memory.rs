//! Large arrays that are read here and there, as a graph in memory is: on huge pages, in cache lines.

use std::mem::MaybeUninit;

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// What begins on a cache line: a code that does not is on one line more, and each load of it on two.
#[repr(C, align(64))]
pub(crate) struct Line<T>(pub(crate) T);

/// What lies on lines, in a row.
#[inline]
pub(crate) fn flat<T, const N: usize>(lines: &[Line<[T; N]>]) -> &[T] {
    const { assert!(size_of::<Line<[T; N]>>() == size_of::<[T; N]>(), "whole lines") };
    // SAFETY: a line is its array, without padding before or, as asserted, behind it.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * N) }
}

/// Makes room for `more` elements as [`Vec::reserve`] does, in memory that the kernel is asked to put
/// on huge pages. With pages of 4 KB most jumps miss the table of pages that the CPU keeps.
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
    fn lines_are_aligned_and_read_in_a_row() {
        let mut lines = Vec::new();
        for start in [0u32, 16, 32] {
            reserve(&mut lines, 1);
            lines.push(Line(std::array::from_fn::<u32, 16, _>(|i| start + i as u32)));
        }
        assert_eq!(flat(&lines), (0..48).collect::<Vec<u32>>());
        assert!(lines.as_ptr().addr().is_multiple_of(LINE));
    }

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
