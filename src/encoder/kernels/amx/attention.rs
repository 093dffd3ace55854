//! Attention of one head: 16 queries at a time against all keys.
//!
//! Scores are computed transposed, S = K·Qᵀ, so that a query is a lane: the softmax runs down the
//! lanes, and its weights are at once the second operand of Oᵀ = Vᵀ·Pᵀ. Where |q|·|k| bounds all
//! scores of 16 queries by [`SAFE`], as it nearly always does, one pass over blocks of 32 keys does
//! everything and keeps nothing of the text's length but Vᵀ; elsewhere the greatest score of each
//! query is found first, over one strip of 16 queries. Which way is taken depends on the text alone.
//! Weights are relative to the greatest or to 2^0, summed in f32, and divided out at the end.

use super::{pair, tile_dot, tile_load, tile_store, tile_zero, transpose};
use crate::encoder::weights::Dims;
use std::arch::asm;
use std::arch::x86_64::*;

/// One head of one text; `q`, `k`, `v` and `out` are at the text's first row.
pub(super) struct Head {
    pub q: *const u16,
    pub k: *const u16,
    pub v: *const u16,
    pub out: *mut u16,
    /// From one panel to the next.
    pub panel: usize,
    /// Panels of a head.
    pub panels: usize,
    pub len: usize,
}

/// Where the attention's tiles lie in its scratch, in f32.
pub(super) struct Tiles {
    /// Vᵀ: for each 32 keys, each 16 of the head's columns: a tile.
    values: usize,
    /// Qᵀ of 16 queries.
    queries: usize,
    /// Scores of 16 queries, transposed: a row for each key.
    scores: usize,
    /// Weights of 16 queries in bf16, transposed, pairs of keys together.
    weights: usize,
    /// Output of 16 queries, transposed.
    output: usize,
    pub total: usize,
}

/// f32 in a tile.
const TILE: usize = 256;

impl Tiles {
    pub fn new(d: &Dims, len: usize) -> Tiles {
        let columns = d.head_padded / 16;
        let values = 0;
        let queries = values + columns * len.div_ceil(32) * TILE;
        let scores = queries + columns / 2 * TILE;
        let weights = scores + len.next_multiple_of(32).max(64) / 16 * TILE;
        let output = weights + len.div_ceil(32).max(2) * TILE;
        Tiles { values, queries, scores, weights, output, total: output + columns * TILE }
    }
}

/// Scores whose magnitude cannot pass this, in base-2 logarithms, need no maximum taken away: their
/// powers of two, and a sum of a million of them, are f32 with their full precision.
const SAFE: f32 = 100.0;

/// Attention of one head.
///
/// # Safety
/// AVX-512 with BF16, tiles configured; pointers as [`Head`] and [`Tiles`] say.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn attend(h: &Head, tiles: &Tiles, scratch: *mut f32) {
    // SAFETY: `attention` checked that the head's rows and the scratch are there.
    unsafe {
        pack_values(h, scratch.add(tiles.values));
        let key_bound = key_bound(h);
        for query in (0..h.len).step_by(16) {
            let queries = 16.min(h.len - query);
            let norms = pack_queries(h, query, queries, scratch.add(tiles.queries));
            let bounded = norms * key_bound <= SAFE * SAFE;
            let sum = match h.panels {
                1 if bounded => one_pass::<1>(h, tiles, scratch),
                2 if bounded => one_pass::<2>(h, tiles, scratch),
                _ => two_passes(h, tiles, scratch),
            };
            let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), sum);
            for panel in 0..h.panels {
                let sums = scratch.add(tiles.output + panel * 2 * TILE);
                let mut rows = [_mm512_setzero_si512(); 16];
                for (i, row) in rows.iter_mut().enumerate() {
                    let even = _mm512_mul_ps(_mm512_load_ps(sums.add(32 * i)), inverse);
                    let odd = _mm512_mul_ps(_mm512_load_ps(sums.add(32 * i + 16)), inverse);
                    *row = pair(even, odd);
                }
                transpose(&mut rows);
                let out = h.out.add(panel * h.panel + query * 32);
                for (i, row) in rows.iter().enumerate().take(queries) {
                    _mm512_storeu_si512(out.add(32 * i).cast(), *row);
                }
            }
        }
    }
}

/// Scores, weights and output of 16 queries, block by block of 32 keys, for heads of `P` panels.
/// Gives the sums of weights; the output, Oᵀ, is left in the scratch.
///
/// Tiles and vectors work on different blocks: the scores of the next one and the output of the
/// last one are under way while the weights of this one are made.
#[inline(always)]
unsafe fn one_pass<const P: usize>(h: &Head, tiles: &Tiles, scratch: *mut f32) -> __m512 {
    // SAFETY: as for `attend`; the scratch holds scores and weights of two blocks and more.
    unsafe {
        let blocks = h.len.div_ceil(32);
        let scores = |block: usize| scratch.add(tiles.scores + (block % 2) * 2 * TILE);
        let weights = |block: usize| scratch.add(tiles.weights + (block % 2) * TILE);
        let queries = scratch.add(tiles.queries);
        let mut sums = [_mm512_setzero_ps(); 4];
        if P == 1 {
            tile_zero!(0, 1);
        } else {
            tile_zero!(0, 1, 2, 3);
        }
        score_block::<P>(h, queries, 0, scores(0));
        for block in 0..blocks {
            if block + 1 < blocks {
                score_block::<P>(h, queries, block + 1, scores(block + 1));
            }
            let keys = 32.min(h.len - block * 32);
            weigh(keys, scores(block), weights(block), &mut sums);
            if block > 0 {
                add_values::<P>(scratch.add(tiles.values), block - 1, weights(block - 1));
            }
        }
        add_values::<P>(scratch.add(tiles.values), blocks - 1, weights(blocks - 1));
        let out = scratch.add(tiles.output);
        tile_store!(0, out, 64usize);
        tile_store!(1, out.add(TILE), 64usize);
        if P == 2 {
            tile_store!(2, out.add(2 * TILE), 64usize);
            tile_store!(3, out.add(3 * TILE), 64usize);
        }
        _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]))
    }
}

/// Scores of a block of 32 keys. Keys past the text come out as whatever follows it.
#[inline(always)]
unsafe fn score_block<const P: usize>(
    h: &Head,
    queries: *const f32,
    block: usize,
    scores: *mut f32,
) {
    // SAFETY: a tile of keys may reach 15 rows past the text, which `attention` asserted are there.
    unsafe {
        let keys = h.k.add(block * 32 * 32);
        tile_zero!(4);
        tile_load!(6, queries);
        tile_load!(5, keys);
        tile_dot!(4, 5, 6);
        if P == 2 {
            tile_load!(7, queries.add(TILE));
            tile_load!(5, keys.add(h.panel));
            tile_dot!(4, 5, 7);
        }
        tile_store!(4, scores, 64usize);
        if h.len > block * 32 + 16 {
            let keys = keys.add(16 * 32);
            tile_zero!(4);
            tile_load!(5, keys);
            tile_dot!(4, 5, 6);
            if P == 2 {
                tile_load!(5, keys.add(h.panel));
                tile_dot!(4, 5, 7);
            }
            tile_store!(4, scores.add(TILE), 64usize);
        }
    }
}

/// Adds a block's values, weighted, to the output's accumulators.
#[inline(always)]
unsafe fn add_values<const P: usize>(values: *const f32, block: usize, weights: *const f32) {
    // SAFETY: the scratch has the block's tiles.
    unsafe {
        let values = values.add(block * P * 2 * TILE);
        tile_load!(7, weights);
        tile_load!(5, values);
        tile_dot!(0, 5, 7);
        tile_load!(6, values.add(TILE));
        tile_dot!(1, 6, 7);
        if P == 2 {
            tile_load!(5, values.add(2 * TILE));
            tile_dot!(2, 5, 7);
            tile_load!(6, values.add(3 * TILE));
            tile_dot!(3, 6, 7);
        }
    }
}

/// Scores of up to 32 keys to weights in bf16, pairs of keys together, zeros after the last.
#[inline(always)]
unsafe fn weigh(keys: usize, scores: *const f32, weights: *mut f32, sums: &mut [__m512; 4]) {
    // SAFETY: both are tiles of the scratch: 32 rows of scores, 16 of weights.
    unsafe {
        let row = |key: usize| _mm512_load_ps(scores.add(16 * key));
        let put = |pair, w: __m512i| _mm512_store_si512(weights.add(16 * pair).cast(), w);
        let whole = keys - keys % 4;
        for key in (0..whole).step_by(4) {
            let mut p = [_mm512_setzero_ps(); 4];
            for i in 0..4 {
                p[i] = exp2(row(key + i));
                sums[i] = _mm512_add_ps(sums[i], p[i]);
            }
            put(key / 2, pair(p[0], p[1]));
            put(key / 2 + 1, pair(p[2], p[3]));
        }
        if whole == 32 {
            return;
        }
        let mut p = [_mm512_setzero_ps(); 4];
        for i in 0..keys - whole {
            p[i] = exp2(row(whole + i));
            sums[i] = _mm512_add_ps(sums[i], p[i]);
        }
        put(whole / 2, pair(p[0], p[1]));
        put(whole / 2 + 1, pair(p[2], p[3]));
        for pair in whole / 2 + 2..16 {
            put(pair, _mm512_setzero_si512());
        }
    }
}

/// As [`one_pass`], for scores of any size: all of them first, then their greatest is taken away.
#[inline(always)]
unsafe fn two_passes(h: &Head, tiles: &Tiles, scratch: *mut f32) -> __m512 {
    // SAFETY: as for `attend`.
    unsafe {
        let (scores, weights) = (scratch.add(tiles.scores), scratch.add(tiles.weights));
        for block in 0..h.len.div_ceil(16) {
            let keys = h.k.add(block * 16 * 32);
            tile_zero!(0);
            for panel in 0..h.panels {
                tile_load!(5, keys.add(panel * h.panel));
                tile_load!(7, scratch.add(tiles.queries + panel * TILE));
                tile_dot!(0, 5, 7);
            }
            tile_store!(0, scores.add(block * TILE), 64usize);
        }
        let mut top = _mm512_load_ps(scores);
        for key in 1..h.len {
            top = _mm512_max_ps(top, _mm512_load_ps(scores.add(16 * key)));
        }
        for key in 0..h.len {
            let at = scores.add(16 * key);
            _mm512_store_ps(at, _mm512_sub_ps(_mm512_load_ps(at), top));
        }
        let mut sums = [_mm512_setzero_ps(); 4];
        let blocks = h.len.div_ceil(32);
        for block in 0..blocks {
            let keys = 32.min(h.len - block * 32);
            let (scores, weights) = (scores.add(block * 2 * TILE), weights.add(block * TILE));
            weigh(keys, scores, weights, &mut sums);
        }
        for panel in 0..h.panels {
            tile_zero!(0, 1);
            for block in 0..blocks {
                let at = (block * h.panels + panel) * 2 * TILE;
                let values = scratch.add(tiles.values + at);
                tile_load!(6, weights.add(block * TILE));
                tile_load!(4, values);
                tile_load!(5, values.add(TILE));
                tile_dot!(0, 4, 6);
                tile_dot!(1, 5, 6);
            }
            let out = scratch.add(tiles.output + panel * 2 * TILE);
            tile_store!(0, out, 64usize);
            tile_store!(1, out.add(TILE), 64usize);
        }
        _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]))
    }
}

/// At least the greatest squared length of a key: the sum over lanes of the greatest share.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn key_bound(h: &Head) -> f32 {
    let mut bound = 0.0;
    for panel in 0..h.panels {
        let mut top = _mm512_setzero_ps();
        for row in 0..h.len {
            // SAFETY: the row is inside the head's panel.
            let k = unsafe { _mm512_loadu_si512(h.k.add(panel * h.panel + 32 * row).cast()) };
            top = _mm512_max_ps(top, squares(_mm512_setzero_ps(), k));
        }
        bound += _mm512_reduce_add_ps(top);
    }
    bound
}

/// Adds the squares of each lane's pair of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn squares(sum: __m512, pairs: __m512i) -> __m512 {
    // SAFETY: both types are 64 bytes of plain data.
    let pairs: __m512bh = unsafe { std::mem::transmute(pairs) };
    _mm512_dpbf16_ps(sum, pairs, pairs)
}

/// Vᵀ in tiles: row d of a tile holds its 32 keys' values, keys in pairs. Missing keys are zero.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_values(h: &Head, out: *mut f32) {
    let mut low = [0i16; 32];
    let mut high = [0i16; 32];
    for i in 0..16 {
        (low[2 * i], low[2 * i + 1]) = (i as i16, 32 + i as i16);
        (high[2 * i], high[2 * i + 1]) = (16 + i as i16, 48 + i as i16);
    }
    // SAFETY: rows below `len` are inside the panel, the scratch has the tiles.
    unsafe {
        let low = _mm512_loadu_si512(low.as_ptr().cast());
        let high = _mm512_loadu_si512(high.as_ptr().cast());
        for block in 0..h.len.div_ceil(32) {
            for panel in 0..h.panels {
                let rows = h.v.add(panel * h.panel + block * 32 * 32);
                let left = h.len - block * 32;
                let load = |i: usize| {
                    if i < left {
                        _mm512_loadu_si512(rows.add(32 * i).cast())
                    } else {
                        _mm512_setzero_si512()
                    }
                };
                let mut first = [_mm512_setzero_si512(); 16];
                let mut second = first;
                for i in 0..16 {
                    let (even, odd) = (load(2 * i), load(2 * i + 1));
                    first[i] = _mm512_permutex2var_epi16(even, low, odd);
                    second[i] = _mm512_permutex2var_epi16(even, high, odd);
                }
                transpose(&mut first);
                transpose(&mut second);
                let out = out.add((block * h.panels + panel) * 2 * TILE);
                for i in 0..16 {
                    _mm512_store_si512(out.add(16 * i).cast(), first[i]);
                    _mm512_store_si512(out.add(TILE + 16 * i).cast(), second[i]);
                }
            }
        }
    }
}

/// Qᵀ in tiles, a column for each query. Missing queries are zero. Gives the greatest squared
/// length of a query.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pack_queries(h: &Head, query: usize, queries: usize, out: *mut f32) -> f32 {
    let mut norms = _mm512_setzero_ps();
    // SAFETY: `queries` rows from `query` are inside the panel, the scratch has the tiles.
    unsafe {
        for panel in 0..h.panels {
            let rows = h.q.add(panel * h.panel + query * 32);
            let mut q = [_mm512_setzero_si512(); 16];
            for (i, q) in q.iter_mut().enumerate().take(queries) {
                *q = _mm512_loadu_si512(rows.add(32 * i).cast());
            }
            transpose(&mut q);
            for (i, q) in q.iter().enumerate() {
                norms = squares(norms, *q);
                _mm512_store_si512(out.add(panel * TILE + 16 * i).cast(), *q);
            }
        }
    }
    _mm512_reduce_max_ps(norms)
}

/// 2^x for weights that are rounded to bf16: relative error below 8e-5, zero under 2^-150.
#[inline(always)]
unsafe fn exp2(x: __m512) -> __m512 {
    // SAFETY: the callers' CPU has AVX-512.
    unsafe {
        let splat = |v| _mm512_set1_ps(v);
        // x less its floor; the scaling below takes the floor itself.
        let f = _mm512_reduce_ps::<0b0001>(x);
        let mut p = splat(7.802_452e-2);
        p = _mm512_fmadd_ps(p, f, splat(2.260_671_7e-1));
        p = _mm512_fmadd_ps(p, f, splat(6.958_335e-1));
        p = _mm512_fmadd_ps(p, f, splat(9.999_252e-1));
        _mm512_scalef_ps(p, x)
    }
}
