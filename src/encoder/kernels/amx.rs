//! The stages on AMX tiles, in bf16, with AVX-512 around them.
//!
//! Activations lie in panels of 32 columns: panel p holds columns 32p to 32p + 31 of all rows, 64
//! bytes a row, so that any 16 consecutive rows of a panel are one tile load from consecutive lines
//! and a head's queries, keys and values are contiguous. The number of rows kept is an odd multiple
//! of 16, which spreads a row's panels over the cache's sets; it leaves room for a tile to read
//! past the last row.
//!
//! A product's block is 32 by 32: four accumulators fed by two tiles of activations and two of
//! weights. While a block's tiles multiply, AVX-512 finishes the block before it (bias, GELU,
//! rounding, stores), a few rows after each step: the two units work side by side.
//!
//! Linux grants tiles per process on request (`arch_prctl`); they are configured when an [`Amx`]
//! is made and released when it is dropped, so that code outside never sees them in use.
//! Instructions: Intel SDM volume 2, `TDPBF16PS`, `TILELOADD`; the weights' order: [`Matrix`].
//!
//! [`Matrix`]: crate::encoder::weights::Matrix

use super::lanes::{Lanes, exp2, gelu};
use super::lanes_x86::Avx512;
use super::{Input, Kernel, Output, Stages, generic};
use crate::encoder::weights::{Dims, Embeddings, Linear, Norm};
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;

/// Whether the CPU has AMX bf16 and AVX-512 BF16 and Linux lets this process use tiles.
pub(super) fn is_available() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        const TILE_AND_BF16: u32 = 1 << 24 | 1 << 22;
        if !is_x86_feature_detected!("avx512bf16") || __cpuid(0).eax < 7 {
            return false;
        }
        if __cpuid_count(7, 0).edx & TILE_AND_BF16 != TILE_AND_BF16 {
            return false;
        }
        // SAFETY: the call takes two integers and changes nothing but this process's permission.
        let granted =
            unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) };
        granted == 0
    })
}

/// This thread's tiles, eight of 16 rows by 64 bytes, until dropped.
pub(crate) struct Amx(PhantomData<*const ()>);

#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const _: () = assert!(size_of::<TileConfig>() == 64);

impl Drop for Amx {
    fn drop(&mut self) {
        // SAFETY: AMX is there, `enter` made sure; no tile is in use between the stages.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

macro_rules! tile_zero {
    ($($t:literal),*) => {
        asm!($(concat!("tilezero tmm", $t),)* options(nomem, nostack, preserves_flags))
    };
}
macro_rules! tile_load {
    ($t:literal, $p:expr) => {
        asm!(concat!("tileloadd tmm", $t, ", [{p} + {s}*1]"), p = in(reg) $p, s = in(reg) 64usize,
             options(nostack, preserves_flags, readonly))
    };
}
macro_rules! tile_store {
    ($t:literal, $p:expr, $stride:expr) => {
        asm!(concat!("tilestored [{p} + {s}*1], tmm", $t), p = in(reg) $p, s = in(reg) $stride,
             options(nostack, preserves_flags))
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

impl Stages for Amx {
    type Act = u16;

    fn enter() -> Amx {
        assert!(Kernel::AmxBf16.is_available(), "the CPU lacks AMX");
        let mut config = TileConfig {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(16);
        // SAFETY: AMX is there and permitted; the configuration is palette 1's greatest.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, preserves_flags, readonly));
        }
        Amx(PhantomData)
    }

    fn stride(rows: usize) -> usize {
        let tiles = rows.div_ceil(16) + 1;
        16 * (tiles | 1)
    }

    fn attention_scratch(d: &Dims, longest: usize) -> usize {
        4 * Tiles::new(d, longest).total
    }

    fn embed(&self, e: &Embeddings<'_>, ids: &[u32], x: &mut [f32]) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn inner(e: &Embeddings<'_>, ids: &[u32], x: &mut [f32]) {
            generic::embed(e, ids, 0, x);
        }
        // SAFETY: `enter` made `self`, so that the CPU has AVX-512.
        unsafe { inner(e, ids, x) }
    }

    fn linear(&self, input: Input<'_, u16>, layer: &Linear<'_>, output: Output<'_, u16>) {
        let (n, k) = (layer.weight.n, layer.weight.k);
        assert!(n.is_multiple_of(32) && k.is_multiple_of(32), "product: whole tiles");
        // Tiles are read whole: up to 15 rows past the last.
        let tail = (input.first + input.rows).next_multiple_of(16).max(input.first + 16);
        assert!(input.first.is_multiple_of(16) && input.stride >= tail, "product: rows");
        assert!(input.data.len() >= input.stride * k, "product: input is too short");
        assert!(layer.weight.tiles.len() == n * k && layer.bias.len() == n, "product: weights");
        match &output {
            Output::Store { data, stride } | Output::Gelu { data, stride } => {
                assert!(*stride >= input.rows && data.len() >= stride * n, "product: output");
            }
            Output::Add(x) => assert!(x.len() >= input.rows * n, "product: output is too short"),
        }
        // SAFETY: `enter` made `self`: AVX-512 is there and tiles are configured. Lengths were
        // asserted.
        unsafe {
            match output {
                Output::Store { data, stride } => {
                    product(input, layer, Store(data.as_mut_ptr(), stride));
                }
                Output::Gelu { data, stride } => {
                    product(input, layer, Gelu(data.as_mut_ptr(), stride));
                }
                Output::Add(x) => product(input, layer, Add(x.as_mut_ptr(), n)),
            }
        }
    }

    fn attention(
        &self,
        qkv: &[u16],
        stride: usize,
        span: Range<usize>,
        d: &Dims,
        context: &mut [u16],
        scratch: &mut [f32],
    ) {
        assert!(!span.is_empty() && stride >= span.end + 15, "attention: rows");
        assert!(qkv.len() >= stride * d.qkv(), "attention: input is too short");
        assert!(context.len() >= stride * d.context(), "attention: output is too short");
        let tiles = Tiles::new(d, span.len());
        assert!(scratch.len() >= tiles.total, "attention: scratch is too short");
        let panels = d.head_padded / 32;
        for head in 0..d.heads {
            let panel = |part: usize| (part * d.heads + head) * panels * stride * 32;
            let at = span.start * 32;
            // SAFETY: `enter` made `self`; a head's panels lie inside `qkv` and `context`, both
            // `stride` rows long, and the scratch has room for `tiles`.
            unsafe {
                let q = qkv.as_ptr();
                let operands = Head {
                    q: q.add(panel(0) + at),
                    k: q.add(panel(1) + at),
                    v: q.add(panel(2) + at),
                    out: context.as_mut_ptr().add(panel(0) + at),
                    panel: stride * 32,
                    panels,
                    len: span.len(),
                };
                attend(&operands, &tiles, scratch.as_mut_ptr());
            }
        }
    }

    fn layer_norm(&self, x: &mut [f32], norm: &Norm<'_>, d: &Dims, act: &mut [u16], stride: usize) {
        let width = d.hidden_padded;
        assert!(norm.weight.len() == width && norm.bias.len() == width, "layer norm: weights");
        assert!(x.len().is_multiple_of(width) && x.len() / width <= stride, "layer norm: rows");
        assert!(act.len() >= stride * width, "layer norm: output is too short");
        // SAFETY: `enter` made `self`, so that the CPU has the set; lengths were asserted.
        unsafe { norm_rows(x, norm, d, act, stride) }
    }
}

/// What happens to 32 columns of a row of sums, bias added.
trait Finish: Copy {
    /// # Safety
    /// The row and the panel lie inside the output; the CPU has AVX-512 with BF16.
    unsafe fn put(self, row: usize, panel: usize, lo: __m512, hi: __m512);
}

#[derive(Clone, Copy)]
struct Store(*mut u16, usize);
#[derive(Clone, Copy)]
struct Gelu(*mut u16, usize);
#[derive(Clone, Copy)]
struct Add(*mut f32, usize);

impl Finish for Store {
    #[inline(always)]
    unsafe fn put(self, row: usize, panel: usize, lo: __m512, hi: __m512) {
        // SAFETY: inside the output, says the caller.
        unsafe { store_bf16(self.0.add((panel * self.1 + row) * 32), lo, hi) }
    }
}

impl Finish for Gelu {
    #[inline(always)]
    unsafe fn put(self, row: usize, panel: usize, lo: __m512, hi: __m512) {
        // SAFETY: inside the output, says the caller.
        unsafe {
            let (lo, hi) = (gelu::<Avx512>(lo), gelu::<Avx512>(hi));
            store_bf16(self.0.add((panel * self.1 + row) * 32), lo, hi);
        }
    }
}

impl Finish for Add {
    #[inline(always)]
    unsafe fn put(self, row: usize, panel: usize, lo: __m512, hi: __m512) {
        // SAFETY: inside the output, says the caller.
        unsafe {
            let p = self.0.add(row * self.1 + panel * 32);
            _mm512_storeu_ps(p, _mm512_add_ps(_mm512_loadu_ps(p), lo));
            _mm512_storeu_ps(p.add(16), _mm512_add_ps(_mm512_loadu_ps(p.add(16)), hi));
        }
    }
}

#[inline(always)]
unsafe fn store_bf16(p: *mut u16, lo: __m512, hi: __m512) {
    // SAFETY: 32 values are writable at `p` and the CPU has AVX-512 BF16, say the callers.
    unsafe {
        let rounded: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(hi, lo));
        _mm512_storeu_si512(p.cast(), rounded);
    }
}

/// Sums of a block of 32 rows by 32 columns.
#[repr(C, align(64))]
struct Sums([f32; 1024]);

/// A block whose sums wait to be finished.
struct Pending<F> {
    sums: *const f32,
    row: usize,
    rows: usize,
    panel: usize,
    lo: __m512,
    hi: __m512,
    done: usize,
    finish: F,
}

impl<F: Finish> Pending<F> {
    /// Finishes up to `most` rows.
    #[inline(always)]
    unsafe fn advance(&mut self, most: usize) {
        let end = self.rows.min(self.done + most);
        while self.done < end {
            // SAFETY: `product` made the block from rows and a panel inside the output.
            unsafe {
                let at = self.sums.add(self.done * 32);
                let lo = _mm512_add_ps(_mm512_load_ps(at), self.lo);
                let hi = _mm512_add_ps(_mm512_load_ps(at.add(16)), self.hi);
                self.finish.put(self.row + self.done, self.panel, lo, hi);
            }
            self.done += 1;
        }
    }
}

/// Activations times weights, block by block down each panel.
///
/// # Safety
/// AVX-512 with BF16, tiles configured; operands as `linear` asserts.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn product<F: Finish>(input: Input<'_, u16>, layer: &Linear<'_>, finish: F) {
    let steps = layer.weight.k / 32;
    let rows_a_step = 32usize.div_ceil(steps);
    let panel_stride = input.stride * 32;
    let mut sums = [const { Sums([0.0; 1024]) }; 2];
    let mut which = 0;
    let mut pending = Pending {
        sums: sums[1].0.as_ptr(),
        row: 0,
        rows: 0,
        panel: 0,
        lo: _mm512_setzero_ps(),
        hi: _mm512_setzero_ps(),
        done: 0,
        finish,
    };
    for panel in 0..layer.weight.n / 32 {
        for row in (0..input.rows).step_by(32) {
            let rows = 32.min(input.rows - row);
            // SAFETY: `linear` asserted that all rows, panels and steps lie inside the operands; a
            // tile of activations may reach past `rows`, never past `stride`.
            unsafe {
                let mut a = input.data.as_ptr().add((input.first + row) * 32);
                let mut b = layer.weight.tiles.as_ptr().add(panel * steps * 1024);
                let out = sums[which].0.as_mut_ptr();
                if rows > 16 {
                    tile_zero!(0, 1, 2, 3);
                    for _ in 0..steps {
                        tile_load!(4, a);
                        tile_load!(6, b);
                        tile_load!(7, b.add(512));
                        tile_load!(5, a.add(512));
                        tile_dot!(0, 4, 6);
                        tile_dot!(1, 4, 7);
                        tile_dot!(2, 5, 6);
                        tile_dot!(3, 5, 7);
                        pending.advance(rows_a_step);
                        a = a.add(panel_stride);
                        b = b.add(1024);
                    }
                    pending.advance(32);
                    tile_store!(0, out, 128usize);
                    tile_store!(1, out.add(16), 128usize);
                    tile_store!(2, out.add(512), 128usize);
                    tile_store!(3, out.add(528), 128usize);
                } else {
                    tile_zero!(0, 1);
                    for _ in 0..steps {
                        tile_load!(4, a);
                        tile_load!(6, b);
                        tile_load!(7, b.add(512));
                        tile_dot!(0, 4, 6);
                        tile_dot!(1, 4, 7);
                        pending.advance(rows_a_step);
                        a = a.add(panel_stride);
                        b = b.add(1024);
                    }
                    pending.advance(32);
                    tile_store!(0, out, 128usize);
                    tile_store!(1, out.add(16), 128usize);
                }
                let bias = layer.bias.as_ptr().add(panel * 32);
                pending = Pending {
                    sums: out,
                    row,
                    rows,
                    panel,
                    lo: _mm512_loadu_ps(bias),
                    hi: _mm512_loadu_ps(bias.add(16)),
                    done: 0,
                    finish,
                };
            }
            which ^= 1;
        }
    }
    // SAFETY: the last block, as above.
    unsafe { pending.advance(32) }
}

/// One head of one text; `q`, `k`, `v` and `out` are at the text's first row.
struct Head {
    q: *const u16,
    k: *const u16,
    v: *const u16,
    out: *mut u16,
    /// From one panel to the next.
    panel: usize,
    /// Panels of a head.
    panels: usize,
    len: usize,
}

/// Where the attention's tiles lie in its scratch, in f32.
struct Tiles {
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
    total: usize,
}

/// f32 in a tile.
const TILE: usize = 256;

impl Tiles {
    fn new(d: &Dims, len: usize) -> Tiles {
        let columns = d.head_padded / 16;
        let values = 0;
        let queries = values + columns * len.div_ceil(32) * TILE;
        let scores = queries + columns / 2 * TILE;
        let weights = scores + len.div_ceil(16) * TILE;
        let output = weights + len.div_ceil(32) * TILE;
        Tiles { values, queries, scores, weights, output, total: output + columns * TILE }
    }
}

/// Attention of one head: 16 queries at a time against all keys.
///
/// Scores are computed transposed, S = K·Qᵀ, so that a query is a lane: the softmax runs down the
/// lanes, and its weights are at once the second operand of Oᵀ = Vᵀ·Pᵀ.
///
/// # Safety
/// AVX-512 with BF16, tiles configured; pointers as [`Head`] and [`Tiles`] say.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn attend(h: &Head, tiles: &Tiles, scratch: *mut f32) {
    // SAFETY: `attention` checked that the head's rows and the scratch are there.
    unsafe {
        pack_values(h, scratch.add(tiles.values));
        for query in (0..h.len).step_by(16) {
            let queries = 16.min(h.len - query);
            pack_queries(h, query, queries, scratch.add(tiles.queries));
            score(h, scratch.add(tiles.queries), scratch.add(tiles.scores));
            let sum = softmax(h.len, scratch.add(tiles.scores), scratch.add(tiles.weights));
            let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), sum);
            let blocks = h.len.div_ceil(32);
            let weights = scratch.add(tiles.weights);
            for panel in 0..h.panels {
                let out = scratch.add(tiles.output);
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
                tile_store!(0, out, 64usize);
                tile_store!(1, out.add(TILE), 64usize);
                let mut lo = [_mm512_setzero_si512(); 16];
                let mut hi = lo;
                for i in 0..16 {
                    let scaled = _mm512_mul_ps(_mm512_load_ps(out.add(16 * i)), inverse);
                    lo[i] = _mm512_castps_si512(scaled);
                    let scaled = _mm512_mul_ps(_mm512_load_ps(out.add(TILE + 16 * i)), inverse);
                    hi[i] = _mm512_castps_si512(scaled);
                }
                transpose(&mut lo);
                transpose(&mut hi);
                let out = h.out.add(panel * h.panel + query * 32);
                for i in 0..queries {
                    let (lo, hi) = (_mm512_castsi512_ps(lo[i]), _mm512_castsi512_ps(hi[i]));
                    store_bf16(out.add(32 * i), lo, hi);
                }
            }
        }
    }
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

/// Qᵀ in tiles, a column for each query. Missing queries are zero.
#[target_feature(enable = "avx512f")]
unsafe fn pack_queries(h: &Head, query: usize, queries: usize, out: *mut f32) {
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
                _mm512_store_si512(out.add(panel * TILE + 16 * i).cast(), *q);
            }
        }
    }
}

/// Scores of all keys, 16 queries wide. Keys past the text come out as whatever follows it.
#[inline(always)]
unsafe fn score(h: &Head, queries: *const f32, scores: *mut f32) {
    // SAFETY: a tile of keys may reach 15 rows past the text, which `attention` asserted are there.
    unsafe {
        tile_load!(6, queries);
        if h.panels == 1 {
            for block in 0..h.len.div_ceil(16) {
                tile_zero!(0);
                tile_load!(4, h.k.add(block * 16 * 32));
                tile_dot!(0, 4, 6);
                tile_store!(0, scores.add(block * TILE), 64usize);
            }
            return;
        }
        for block in 0..h.len.div_ceil(16) {
            let keys = h.k.add(block * 16 * 32);
            tile_zero!(0);
            tile_load!(4, keys);
            tile_dot!(0, 4, 6);
            for panel in 1..h.panels {
                tile_load!(5, keys.add(panel * h.panel));
                tile_load!(7, queries.add(panel * TILE));
                tile_dot!(0, 5, 7);
            }
            tile_store!(0, scores.add(block * TILE), 64usize);
        }
    }
}

/// Scores in base-2 logarithms to bf16 weights relative to each query's greatest; gives the sums.
/// Weights of keys past the text are zero up to the next 32.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn softmax(len: usize, scores: *const f32, weights: *mut f32) -> __m512 {
    let mut order = [0i16; 32];
    for i in 0..16 {
        (order[2 * i], order[2 * i + 1]) = (i as i16, 16 + i as i16);
    }
    // SAFETY: `len` rows of scores and `len / 32` tiles of weights are in the scratch.
    unsafe {
        let order = _mm512_loadu_si512(order.as_ptr().cast());
        let row = |key: usize| _mm512_load_ps(scores.add(16 * key));
        let mut top = [row(0); 4];
        let whole = len - len % 4;
        for key in (0..whole).step_by(4) {
            for (i, top) in top.iter_mut().enumerate() {
                *top = _mm512_max_ps(*top, row(key + i));
            }
        }
        for key in whole..len {
            top[0] = _mm512_max_ps(top[0], row(key));
        }
        let top = _mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3]));
        let mut sums = [_mm512_setzero_ps(); 4];
        let put = |pair: usize, even: __m512, odd: __m512| {
            let rounded: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(odd, even));
            let paired = _mm512_permutexvar_epi16(order, rounded);
            _mm512_store_si512(weights.add(16 * pair).cast(), paired);
        };
        for key in (0..whole).step_by(4) {
            let mut p = [_mm512_setzero_ps(); 4];
            for i in 0..4 {
                p[i] = exp2::<Avx512>(_mm512_sub_ps(row(key + i), top));
                sums[i] = _mm512_add_ps(sums[i], p[i]);
            }
            put(key / 2, p[0], p[1]);
            put(key / 2 + 1, p[2], p[3]);
        }
        let mut p = [_mm512_setzero_ps(); 4];
        for key in whole..len {
            let i = key - whole;
            p[i] = exp2::<Avx512>(_mm512_sub_ps(row(key), top));
            sums[i] = _mm512_add_ps(sums[i], p[i]);
        }
        let mut pair = whole / 2;
        for i in (0..len - whole).step_by(2) {
            put(pair, p[i], p[i + 1]);
            pair += 1;
        }
        for pair in pair..len.next_multiple_of(32) / 2 {
            _mm512_store_si512(weights.add(16 * pair).cast(), _mm512_setzero_si512());
        }
        _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]))
    }
}

/// Transposes 16 rows of 16 dwords.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(r: &mut [__m512i; 16]) {
    let mut t = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..4 {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for i in 0..4 {
        t[i] = _mm512_shuffle_i32x4::<0x88>(r[i], r[i + 4]);
        t[i + 4] = _mm512_shuffle_i32x4::<0xdd>(r[i], r[i + 4]);
        t[i + 8] = _mm512_shuffle_i32x4::<0x88>(r[i + 8], r[i + 12]);
        t[i + 12] = _mm512_shuffle_i32x4::<0xdd>(r[i + 8], r[i + 12]);
    }
    for i in 0..4 {
        r[i] = _mm512_shuffle_i32x4::<0x88>(t[i], t[i + 8]);
        r[i + 4] = _mm512_shuffle_i32x4::<0x88>(t[i + 4], t[i + 12]);
        r[i + 8] = _mm512_shuffle_i32x4::<0xdd>(t[i], t[i + 8]);
        r[i + 12] = _mm512_shuffle_i32x4::<0xdd>(t[i + 4], t[i + 12]);
    }
}

/// Layer norm of rows in place, and rounded to panels.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn norm_rows(x: &mut [f32], norm: &Norm<'_>, d: &Dims, act: &mut [u16], stride: usize) {
    for (row, values) in x.chunks_exact_mut(d.hidden_padded).enumerate() {
        // SAFETY: a row and the norm are `hidden_padded` long; `act` has `stride` rows a panel.
        unsafe {
            generic::normalize::<Avx512>(values.as_mut_ptr(), norm, d);
            for (panel, values) in values.chunks_exact(32).enumerate() {
                let (lo, hi) = (values.as_ptr(), values.as_ptr().add(16));
                let out = act.as_mut_ptr().add((panel * stride + row) * 32);
                store_bf16(out, Avx512::load(lo), Avx512::load(hi));
            }
        }
    }
}
