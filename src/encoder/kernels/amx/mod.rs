//! The stages on AMX tiles, in bf16, with AVX-512 around them.
//!
//! Activations lie in panels of 32 columns: panel p holds columns 32p to 32p + 31 of all rows, 64
//! bytes a row, so that any 16 consecutive rows of a panel are one tile load from consecutive lines
//! and a head's queries, keys and values are contiguous. The number of rows kept is an odd multiple
//! of 16, which spreads a row's panels over the cache's sets; it leaves room for a tile to read
//! past the last row.
//!
//! Tiles and vectors are two units that work side by side, if the code lets them: while a block's
//! tiles multiply, AVX-512 finishes the block before it, in products (`product`) and in attention
//! (`attention`).
//!
//! Linux grants tiles per process on request (`arch_prctl`); they are configured when an [`Amx`]
//! is made and released when it is dropped, so that code outside never sees them in use.
//! Instructions: Intel SDM volume 2, `TDPBF16PS`, `TILELOADD`; the weights' order: [`Matrix`].
//!
//! [`Matrix`]: crate::encoder::weights::Matrix

use super::{Input, Kernel, Output, Stages};
use crate::encoder::kernels::codes_scratch;
use crate::encoder::weights::{Dims, Embeddings, Linear, Norm, Values};
use attention::{Head, Tiles, attend};
use product::{Add, Finish, Gelu, Store, product};
use rows::{embed_rows, norm_rows};
mod attention;
mod integer;
mod product;
mod rows;

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;

/// Whether the CPU has AMX bf16 and int8 and AVX-512 BF16 and Linux lets this process use tiles.
pub(super) fn is_available() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        const TILE_BF16_AND_INT8: u32 = 1 << 24 | 1 << 22 | 1 << 25;
        if !is_x86_feature_detected!("avx512bf16") || __cpuid(0).eax < 7 {
            return false;
        }
        if __cpuid_count(7, 0).edx & TILE_BF16_AND_INT8 != TILE_BF16_AND_INT8 {
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

use {tile_dot, tile_load, tile_store, tile_zero};

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
        assert_eq!(x.len(), ids.len() * e.width, "embedding: a row for each token");
        // SAFETY: `enter` made `self`, so that the CPU has AVX-512.
        unsafe { embed_rows(e, ids, x) }
    }

    fn linear(
        &self,
        input: Input<'_, u16>,
        layer: &Linear<'_>,
        output: Output<'_, u16>,
        scratch: &mut [f32],
    ) {
        let w = &layer.weight;
        let n = w.n;
        let whole = [n, w.k, w.from, w.inputs].iter().all(|s| s.is_multiple_of(32));
        assert!(whole && w.inputs > 0, "product: whole tiles");
        // Tiles are read whole: up to 15 rows past the last.
        let tail = (input.first + input.rows).next_multiple_of(16).max(input.first + 16);
        assert!(input.first.is_multiple_of(16) && input.stride >= tail, "product: rows");
        assert!(input.data.len() >= input.stride * w.inputs, "product: input is too short");
        assert!(w.is_whole(), "product: weights");
        assert!(layer.bias.is_none_or(|b| b.len() == n), "product: bias");
        match &output {
            Output::Store { data, stride } | Output::Gelu { data, stride } => {
                assert!(*stride >= input.rows && data.len() >= stride * n, "product: output");
            }
            Output::Add(x) => assert!(x.len() >= input.rows * n, "product: output is too short"),
        }
        if matches!(w.values, Values::Int8 { .. }) {
            let needed = codes_scratch(input.rows, w.inputs);
            assert!(scratch.len() * 4 >= needed, "product: scratch is too short");
        }
        // SAFETY: `enter` made `self`: AVX-512 is there and tiles are configured. Lengths were
        // asserted.
        unsafe {
            match output {
                Output::Store { data, stride } => {
                    finish_by(input, layer, scratch, Store(data.as_mut_ptr(), stride));
                }
                Output::Gelu { data, stride } => {
                    finish_by(input, layer, scratch, Gelu(data.as_mut_ptr(), stride));
                }
                Output::Add(x) => finish_by(input, layer, scratch, Add(x.as_mut_ptr(), n)),
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

/// A product by the weights' numbers.
///
/// # Safety
/// As for [`product`].
unsafe fn finish_by<F: Finish>(
    input: Input<'_, u16>,
    layer: &Linear<'_>,
    scratch: &mut [f32],
    finish: F,
) {
    // SAFETY: the caller's promise is the same as ours.
    unsafe {
        match layer.weight.values {
            Values::Bf16(tiles) => product(input, tiles, layer, finish),
            Values::Int8 { codes, scales } => {
                integer::product(input, codes, scales, layer, scratch, finish);
            }
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

/// Both rounded to bf16, in turns: the first in the low halves.
#[inline(always)]
unsafe fn pair(even: __m512, odd: __m512) -> __m512i {
    // SAFETY: the callers' CPU has AVX-512 BW.
    unsafe {
        let half = _mm512_set1_epi32(0x8000);
        let even = _mm512_add_epi32(_mm512_castps_si512(even), half);
        let odd = _mm512_add_epi32(_mm512_castps_si512(odd), half);
        _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(even), odd)
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
