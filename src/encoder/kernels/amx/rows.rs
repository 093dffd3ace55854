//! Row by row: embedding and layer norm.

use super::store_bf16;
use crate::encoder::kernels::from_bf16;
use crate::encoder::weights::{Dims, Embeddings, Norm};
use std::arch::x86_64::*;

/// Layer norm of rows in place, and rounded to panels. Two rows at a time, since a row by itself
/// is mostly waiting for its sums.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn norm_rows(
    x: &mut [f32],
    norm: &Norm<'_>,
    d: &Dims,
    act: &mut [u16],
    stride: usize,
) {
    let width = d.hidden_padded;
    let rows = x.len() / width;
    for row in (0..rows - rows % 2).step_by(2) {
        // SAFETY: two rows of x and of act are there, the norm is `hidden_padded` long.
        unsafe {
            let x = x.as_mut_ptr().add(row * width);
            norm_block::<2>(x, norm, d, act.as_mut_ptr().add(row * 32), stride);
        }
    }
    if rows % 2 == 1 {
        // SAFETY: the last row, as above.
        unsafe {
            let x = x.as_mut_ptr().add((rows - 1) * width);
            norm_block::<1>(x, norm, d, act.as_mut_ptr().add((rows - 1) * 32), stride);
        }
    }
}

#[inline(always)]
unsafe fn norm_block<const R: usize>(
    x: *mut f32,
    norm: &Norm<'_>,
    d: &Dims,
    act: *mut u16,
    stride: usize,
) {
    let width = d.hidden_padded;
    // SAFETY: `norm_rows` passes R whole rows; widths are multiples of 32.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for i in (0..width).step_by(32) {
            for (r, sums) in sums.iter_mut().enumerate() {
                let at = x.add(r * width + i);
                sums[0] = _mm512_add_ps(sums[0], _mm512_loadu_ps(at));
                sums[1] = _mm512_add_ps(sums[1], _mm512_loadu_ps(at.add(16)));
            }
        }
        let count = d.hidden as f32;
        let center =
            sums.map(|s| _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(s[0], s[1])) / count));
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for i in (0..width).step_by(32) {
            // Lanes past the width are padding, which is zero and not a deviation.
            let left = (d.hidden - i).min(32);
            let mask = u32::MAX >> (32 - left);
            for (r, sums) in sums.iter_mut().enumerate() {
                let at = x.add(r * width + i);
                let lo = _mm512_maskz_sub_ps(mask as u16, _mm512_loadu_ps(at), center[r]);
                let hi = _mm512_loadu_ps(at.add(16));
                let hi = _mm512_maskz_sub_ps((mask >> 16) as u16, hi, center[r]);
                sums[0] = _mm512_fmadd_ps(lo, lo, sums[0]);
                sums[1] = _mm512_fmadd_ps(hi, hi, sums[1]);
            }
        }
        let factor = sums.map(|s| {
            let variance = _mm512_reduce_add_ps(_mm512_add_ps(s[0], s[1])) / count;
            _mm512_set1_ps(1.0 / (variance + d.eps).sqrt())
        });
        for i in (0..width).step_by(32) {
            let load = |p: &[f32]| (_mm512_loadu_ps(&p[i]), _mm512_loadu_ps(&p[i + 16]));
            let (weight, bias) = (load(norm.weight), load(norm.bias));
            for r in 0..R {
                let at = x.add(r * width + i);
                let scaled = |x, weight, bias| {
                    let c = _mm512_mul_ps(_mm512_sub_ps(x, center[r]), factor[r]);
                    _mm512_fmadd_ps(c, weight, bias)
                };
                let lo = scaled(_mm512_loadu_ps(at), weight.0, bias.0);
                let hi = scaled(_mm512_loadu_ps(at.add(16)), weight.1, bias.1);
                _mm512_storeu_ps(at, lo);
                _mm512_storeu_ps(at.add(16), hi);
                store_bf16(act.add(i * stride + r * 32), lo, hi);
            }
        }
    }
}

/// Word plus position rows. The rows of the words to come are asked for ahead of time: they lie
/// anywhere in a table larger than the caches.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn embed_rows(e: &Embeddings<'_>, ids: &[u32], x: &mut [f32]) {
    const AHEAD: usize = 4;
    for (i, (&id, row)) in ids.iter().zip(x.chunks_exact_mut(e.width)).enumerate() {
        if let Some(&id) = ids.get(i + AHEAD) {
            let (codes, scales) = e.word(id as usize);
            for line in codes.chunks(64) {
                _mm_prefetch::<_MM_HINT_T0>(line.as_ptr());
            }
            _mm_prefetch::<_MM_HINT_T0>(scales.as_ptr().cast());
        }
        let (codes, scales) = e.word(id as usize);
        let groups = codes.as_chunks::<32>().0.iter().zip(scales);
        let rows = row.as_chunks_mut::<32>().0.iter_mut().zip(e.position(i).as_chunks::<32>().0);
        for ((codes, &scale), (out, place)) in groups.zip(rows) {
            let scale = _mm512_set1_ps(from_bf16(scale));
            // SAFETY: each is an array of 32.
            unsafe {
                for half in [0, 16] {
                    let codes = _mm_loadu_si128(codes.as_ptr().add(half).cast());
                    let word = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
                    let place = _mm512_loadu_ps(place.as_ptr().add(half));
                    _mm512_storeu_ps(
                        out.as_mut_ptr().add(half),
                        _mm512_fmadd_ps(word, scale, place),
                    );
                }
            }
        }
    }
}
