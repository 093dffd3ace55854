//! Products on AMX tiles: both factors are rounded to bfloat16 and laid out in tiles, then
//! multiplied block by block, 32 by 32, four accumulators fed by two tiles of each factor. Rows are
//! taken a panel at a time, so that a panel of the left factor stays in the second-level cache
//! while all columns pass by it. A right factor that many products share (a layer's weights) is
//! laid out once, as [`Tiles`].
//!
//! A left tile is 16 rows by 32 steps of the inner dimension; a right tile is 16 pairs of steps by
//! 16 columns, a pair's two values side by side (Intel SDM volume 2, `TDPBF16PS`). Edges are filled
//! with zeros, which add nothing.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) use none::{Tiles, is_available, product, product_packed};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use x86::{Tiles, is_available, product, product_packed};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod none {
    use super::super::{Into, Matrix};

    /// No right factor is ever laid out here.
    pub(in crate::training) enum Tiles {}

    impl Tiles {
        pub(in crate::training) fn right(_: Matrix<'_>) -> Tiles {
            unreachable!("no tiles on this architecture");
        }
    }

    pub(in crate::training) fn is_available() -> bool {
        false
    }

    pub(in crate::training) fn product(_: Matrix<'_>, _: Matrix<'_>, _: &mut [f32], _: Into) {
        unreachable!("no tiles on this architecture");
    }

    pub(in crate::training) fn product_packed(
        _: Matrix<'_>,
        tiles: &Tiles,
        _: usize,
        _: &mut [f32],
        _: Into,
    ) {
        match *tiles {}
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86 {
    use super::super::{Into, Matrix};
    use crate::encoder::{Kernel, enter_tiles};
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::cell::RefCell;
    use std::mem::MaybeUninit;

    /// One tile: 16 rows of 64 bytes.
    #[derive(Clone)]
    #[repr(C, align(64))]
    struct Tile([u16; 512]);

    const ZERO: Tile = Tile([0; 512]);

    #[repr(C, align(64))]
    struct Sums([f32; 1024]);

    thread_local! {
        static SCRATCH: RefCell<(Vec<Tile>, Vec<Tile>)> = const { RefCell::new((vec![], vec![])) };
    }

    pub(in crate::training) fn is_available() -> bool {
        Kernel::AmxBf16.is_available()
    }

    /// A right factor, laid out.
    pub(in crate::training) struct Tiles(Vec<Tile>);

    impl Tiles {
        pub(in crate::training) fn right(b: Matrix<'_>) -> Tiles {
            assert!(is_available(), "tiles are laid out where there are any");
            let mut tiles = Vec::new();
            // SAFETY: the CPU has AVX-512, as the assertion says; sizes are checked by `Matrix`.
            unsafe { pack_right(b, &mut tiles) };
            Tiles(tiles)
        }
    }

    pub(in crate::training) fn product(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], into: Into) {
        let _tiles = enter_tiles();
        SCRATCH.with_borrow_mut(|(left, right)| {
            // SAFETY: `enter` made sure of AMX and AVX-512; sizes are checked by `Matrix` and by
            // the public `product`.
            unsafe {
                pack_left(a, left);
                pack_right(b, right);
                multiply(left, right, (a.rows, b.cols, a.cols), out, into);
            }
        });
    }

    /// `b` has `cols` columns and as many rows as `a` has columns.
    pub(in crate::training) fn product_packed(
        a: Matrix<'_>,
        Tiles(right): &Tiles,
        cols: usize,
        out: &mut [f32],
        into: Into,
    ) {
        assert!(
            right.len() >= cols.div_ceil(32) * 2 * a.cols.div_ceil(32),
            "a factor of this size"
        );
        let _tiles = enter_tiles();
        SCRATCH.with_borrow_mut(|(left, _)| {
            // SAFETY: `enter` made sure of AMX and AVX-512; sizes are checked by `Matrix`, by the
            // public `product` and by the assertion.
            unsafe {
                pack_left(a, left);
                multiply(left, right, (a.rows, cols, a.cols), out, into);
            }
        });
    }

    macro_rules! tile_zero {
        ($($t:literal),*) => {
            asm!($(concat!("tilezero tmm", $t),)* options(nomem, nostack, preserves_flags))
        };
    }
    macro_rules! tile_load {
        ($t:literal, $p:expr) => {
            asm!(concat!("tileloadd tmm", $t, ", [{p} + {s}*1]"), p = in(reg) $p,
                 s = in(reg) 64usize, options(nostack, preserves_flags, readonly))
        };
    }
    /// Sums from memory, and back; `$s` bytes from row to row.
    macro_rules! sums_load {
        ($t:literal, $p:expr, $s:expr) => {
            asm!(concat!("tileloadd tmm", $t, ", [{p} + {s}*1]"), p = in(reg) $p,
                 s = in(reg) $s, options(nostack, preserves_flags, readonly))
        };
    }
    macro_rules! sums_store {
        ($t:literal, $p:expr, $s:expr) => {
            asm!(concat!("tilestored [{p} + {s}*1], tmm", $t), p = in(reg) $p,
                 s = in(reg) $s, options(nostack, preserves_flags))
        };
    }
    macro_rules! tile_dot {
        ($c:literal, $a:literal, $b:literal) => {
            asm!(
                concat!("tdpbf16ps tmm", $c, ", tmm", $a, ", tmm", $b),
                options(nomem, nostack, preserves_flags)
            )
        };
    }

    /// Tiles of a panel of the left factor: 512 KiB, a quarter of the second-level cache.
    const PANEL_TILES: usize = 512;

    /// # Safety
    /// Tiles are configured and the CPU has AVX-512; `left` and `right` are packed for the sizes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn multiply(
        left: &[Tile],
        right: &[Tile],
        (m, n, k): (usize, usize, usize),
        out: &mut [f32],
        into: Into,
    ) {
        let steps = k.div_ceil(32);
        let panel = (PANEL_TILES / steps.max(1) * 16).next_multiple_of(32).max(32);
        for first in (0..m).step_by(panel) {
            for col in (0..n).step_by(32) {
                for row in (first..m.min(first + panel)).step_by(32) {
                    // SAFETY: as the caller says; `row` and `col` lie inside.
                    unsafe { block(left, right, (m, n, steps), (row, col), out, into) };
                }
            }
        }
    }

    /// The 32 by 32 results from `row` and `col` on.
    ///
    /// # Safety
    /// As of [`multiply`]; `steps` tiles in a row of tiles, and `row` and `col` inside `out`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn block(
        left: &[Tile],
        right: &[Tile],
        (m, n, steps): (usize, usize, usize),
        (row, col): (usize, usize),
        out: &mut [f32],
        into: Into,
    ) {
        let (a, b) = (&left[row / 16 * steps..], &right[col / 16 * steps..]);
        let (rows, cols) = (32.min(m - row), 32.min(n - col));
        let mut sums: MaybeUninit<Sums> = MaybeUninit::uninit();
        let whole = rows == 32 && cols == 32;
        // A whole block goes straight to its place, an edge by way of `sums`.
        let (p, stride) = match whole {
            true => (out[row * n + col..].as_mut_ptr(), n),
            false => (sums.as_mut_ptr().cast::<f32>(), 32),
        };
        // SAFETY: packing rounds both counts of tile rows up to a pair, `steps` tiles each; a whole
        // block's 32 rows of 32 values lie inside `out`, and `sums` is one block, which the stores
        // fill.
        let sums = unsafe {
            if whole && into == Into::Add {
                sums_load!(0, p, 4 * stride);
                sums_load!(1, p.add(16), 4 * stride);
                sums_load!(2, p.add(16 * stride), 4 * stride);
                sums_load!(3, p.add(16 * stride + 16), 4 * stride);
            } else {
                tile_zero!(0, 1, 2, 3);
            }
            for step in 0..steps {
                tile_load!(4, a.as_ptr().add(step));
                tile_load!(6, b.as_ptr().add(step));
                tile_load!(7, b.as_ptr().add(steps + step));
                tile_load!(5, a.as_ptr().add(steps + step));
                tile_dot!(0, 4, 6);
                tile_dot!(1, 4, 7);
                tile_dot!(2, 5, 6);
                tile_dot!(3, 5, 7);
            }
            sums_store!(0, p, 4 * stride);
            sums_store!(1, p.add(16), 4 * stride);
            sums_store!(2, p.add(16 * stride), 4 * stride);
            sums_store!(3, p.add(16 * stride + 16), 4 * stride);
            if whole {
                return;
            }
            sums.assume_init_ref()
        };
        for i in 0..rows {
            let at = (row + i) * n + col;
            let (to, from) = (&mut out[at..at + cols], &sums.0[32 * i..][..cols]);
            match into {
                Into::Replace => to.copy_from_slice(from),
                Into::Add => to.iter_mut().zip(from).for_each(|(to, from)| *to += from),
            }
        }
    }

    /// Rounds to the nearest bfloat16, ties to even.
    #[inline(always)]
    fn round(x: f32) -> u16 {
        let bits = x.to_bits();
        ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
    }

    /// Makes room for so many tiles. What they held stays: whole tiles are overwritten, and those
    /// at an edge are cleared first.
    fn reserve(tiles: &mut Vec<Tile>, count: usize) {
        if tiles.len() < count {
            tiles.resize(count, ZERO);
        }
    }

    /// Left tiles: for each 16 rows, `ceil(k / 32)` tiles; an even number of tile rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn pack_left(a: Matrix<'_>, tiles: &mut Vec<Tile>) {
        let steps = a.cols.div_ceil(32);
        let count = a.rows.div_ceil(32) * 2 * steps;
        reserve(tiles, count);
        for (at, tile) in tiles[..count].iter_mut().enumerate() {
            let (row, k) = (at / steps * 16, at % steps * 32);
            let rows = 16.min(a.rows.saturating_sub(row));
            let width = 32.min(a.cols - k);
            let whole = rows == 16 && width == 32;
            if !whole {
                tile.0.fill(0);
            }
            if rows == 0 {
                continue;
            }
            if a.col_stride == 1 {
                for i in 0..rows {
                    let from = &a.data[(row + i) * a.row_stride + k..][..width];
                    convert(from, &mut tile.0[32 * i..32 * i + width]);
                }
            } else if whole {
                let mut lines = [_mm512_setzero_si512(); 16];
                for (step, line) in lines.iter_mut().enumerate() {
                    let from = |j: usize| &a.data[(k + j) * a.col_stride + row..][..16];
                    let (low, high) = (from(2 * step), from(2 * step + 1));
                    // SAFETY: both slices have 16 values.
                    let (low, high) =
                        unsafe { (_mm512_loadu_ps(low.as_ptr()), _mm512_loadu_ps(high.as_ptr())) };
                    *line = pairs(low, high);
                }
                turn(&mut lines);
                store(&lines, tile);
            } else {
                for j in 0..width {
                    let from = &a.data[(k + j) * a.col_stride + row..][..rows];
                    for (i, value) in from.iter().enumerate() {
                        tile.0[32 * i + j] = round(*value);
                    }
                }
            }
        }
    }

    /// Right tiles: for each 16 columns, `ceil(k / 32)` tiles; an even number of tile columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn pack_right(b: Matrix<'_>, tiles: &mut Vec<Tile>) {
        let steps = b.rows.div_ceil(32);
        let count = b.cols.div_ceil(32) * 2 * steps;
        reserve(tiles, count);
        for (at, tile) in tiles[..count].iter_mut().enumerate() {
            let (col, k) = (at / steps * 16, at % steps * 32);
            let cols = 16.min(b.cols.saturating_sub(col));
            let depth = 32.min(b.rows - k);
            let whole = cols == 16 && depth == 32;
            if !whole {
                tile.0.fill(0);
            }
            if cols == 0 {
                continue;
            }
            if b.col_stride == 1 && whole {
                for step in 0..16 {
                    let from = |j: usize| &b.data[(k + j) * b.row_stride + col..][..16];
                    let (low, high) = (from(2 * step), from(2 * step + 1));
                    // SAFETY: both slices have 16 values, and a tile 16 rows of 16 words.
                    unsafe {
                        let low = _mm512_loadu_ps(low.as_ptr());
                        let high = _mm512_loadu_ps(high.as_ptr());
                        let words: *mut i32 = tile.0.as_mut_ptr().cast();
                        _mm512_storeu_si512(words.add(16 * step).cast(), pairs(low, high));
                    }
                }
            } else if b.col_stride == 1 {
                for j in 0..depth {
                    let from = &b.data[(k + j) * b.row_stride + col..][..cols];
                    let to = &mut tile.0[j / 2 * 32 + j % 2..];
                    for (i, value) in from.iter().enumerate() {
                        to[2 * i] = round(*value);
                    }
                }
            } else if whole {
                // Consecutive steps are a pair already: a column's words, turned into rows.
                let mut lines = [_mm512_setzero_si512(); 16];
                for (i, line) in lines.iter_mut().enumerate() {
                    *line = rounded(&b.data[(col + i) * b.col_stride + k..][..32]);
                }
                turn(&mut lines);
                store(&lines, tile);
            } else {
                // The same, word by word.
                let mut line = [0u16; 32];
                for i in 0..cols {
                    let from = &b.data[(col + i) * b.col_stride + k..][..depth];
                    line[depth..].fill(0);
                    convert(from, &mut line[..depth]);
                    for (pair, values) in line.as_chunks::<2>().0.iter().enumerate() {
                        tile.0[32 * pair + 2 * i..][..2].copy_from_slice(values);
                    }
                }
            }
        }
    }

    /// Two rows of 16 values as 16 pairs, each rounded to nearest, ties to even.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn pairs(low: __m512, high: __m512) -> __m512i {
        let widen = |x: __m512| -> __m512i {
            // SAFETY: 16 bfloat16 values are 32 bytes, whatever their type's name.
            let rounded: __m256i = unsafe { std::mem::transmute(_mm512_cvtneps_pbh(x)) };
            _mm512_cvtepu16_epi32(rounded)
        };
        _mm512_or_si512(widen(low), _mm512_slli_epi32::<16>(widen(high)))
    }

    /// 32 values as 16 words of two bfloat16 each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn rounded(from: &[f32]) -> __m512i {
        let from: &[f32; 32] = from.try_into().expect("the callers cut 32 values");
        // SAFETY: the array has 32 elements, and 32 bfloat16 values are 64 bytes.
        unsafe {
            let low = _mm512_loadu_ps(from.as_ptr());
            let high = _mm512_loadu_ps(from.as_ptr().add(16));
            std::mem::transmute(_mm512_cvtne2ps_pbh(high, low))
        }
    }

    /// A tile's 16 rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn store(lines: &[__m512i; 16], tile: &mut Tile) {
        for (line, to) in lines.iter().zip(tile.0.as_chunks_mut::<32>().0) {
            // SAFETY: 32 values of 16 bits are 64 bytes.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), *line) };
        }
    }

    /// Transposes 16 by 16 words: within 128 bits by unpacking, then across them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn turn(lines: &mut [__m512i; 16]) {
        let mut other = *lines;
        for i in 0..8 {
            other[2 * i] = _mm512_unpacklo_epi32(lines[2 * i], lines[2 * i + 1]);
            other[2 * i + 1] = _mm512_unpackhi_epi32(lines[2 * i], lines[2 * i + 1]);
        }
        for i in 0..4 {
            let at = 4 * i;
            lines[at] = _mm512_unpacklo_epi64(other[at], other[at + 2]);
            lines[at + 1] = _mm512_unpackhi_epi64(other[at], other[at + 2]);
            lines[at + 2] = _mm512_unpacklo_epi64(other[at + 1], other[at + 3]);
            lines[at + 3] = _mm512_unpackhi_epi64(other[at + 1], other[at + 3]);
        }
        // Line 4 i + j now holds, in its lane l, words 4 i to 4 i + 3 of column 4 l + j.
        for j in 0..4 {
            let (a, b) = (lines[j], lines[4 + j]);
            let (c, d) = (lines[8 + j], lines[12 + j]);
            other[j] = _mm512_shuffle_i32x4::<0x88>(a, b);
            other[4 + j] = _mm512_shuffle_i32x4::<0xdd>(a, b);
            other[8 + j] = _mm512_shuffle_i32x4::<0x88>(c, d);
            other[12 + j] = _mm512_shuffle_i32x4::<0xdd>(c, d);
        }
        for j in 0..4 {
            lines[j] = _mm512_shuffle_i32x4::<0x88>(other[j], other[8 + j]);
            lines[8 + j] = _mm512_shuffle_i32x4::<0xdd>(other[j], other[8 + j]);
            lines[4 + j] = _mm512_shuffle_i32x4::<0x88>(other[4 + j], other[12 + j]);
            lines[12 + j] = _mm512_shuffle_i32x4::<0xdd>(other[4 + j], other[12 + j]);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn convert(from: &[f32], to: &mut [u16]) {
        if from.len() == 32 && to.len() == 32 {
            // SAFETY: `to` has 32 elements of 16 bits.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), rounded(from)) };
            return;
        }
        for (to, from) in to.iter_mut().zip(from) {
            *to = round(*from);
        }
    }
}
