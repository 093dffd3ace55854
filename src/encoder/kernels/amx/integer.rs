//! Products with int8 weights: activations in two bytes, sums by `tdpbssd`.
//!
//! A code of 15 bits (`kernels::integer`) is 128 times one byte plus another. Both bytes of 16 rows
//! are two tiles, which meet the same weights: four tiles of sums, as a block of 32 rows has in bf16,
//! at the same rate of products and half the bytes of weights.

use super::product::{Finish, Numbers, Operands, bias, multiply, step};
use crate::encoder::kernels::Input;
use crate::encoder::kernels::integer::{ROUND, levels, row_scale};
use crate::encoder::weights::{CODES_A_STEP, Linear};
use std::arch::asm;
use std::arch::x86_64::*;

/// Activations times int8 weights; `scratch` is as long as `codes_scratch` says.
///
/// # Safety
/// AVX-512 with BF16, tiles configured; operands as `linear` asserts.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn product<F: Finish>(
    input: Input<'_, u16>,
    codes: &[i8],
    scales: &[f32],
    layer: &Linear<'_>,
    scratch: &mut [f32],
    finish: F,
) {
    let w = &layer.weight;
    let steps = w.inputs.div_ceil(CODES_A_STEP);
    let (row_scales, tiles) = scratch.split_at_mut(input.rows.next_multiple_of(16));
    let tiles: &mut [i8] = bytemuck::cast_slice_mut(tiles);
    // SAFETY: `linear` asserted that rows, panels and steps lie inside the operands.
    unsafe {
        quantize(input, w.inputs, tiles, row_scales);
        let operands = Operands {
            a: tiles.as_ptr().cast(),
            block: steps * 2048,
            step: 2048,
            rows: input.rows,
            b: codes[w.from * 32..].as_ptr().cast(),
            panel: w.k * 32,
            panels: w.n / 32,
            steps,
        };
        let numbers = Codes { layer, scales, row_scales: row_scales.as_ptr() };
        multiply(&operands, 0, numbers, finish);
    }
}

/// Bytes by bytes.
#[derive(Clone, Copy)]
struct Codes<'a> {
    layer: &'a Linear<'a>,
    scales: &'a [f32],
    row_scales: *const f32,
}

#[derive(Clone, Copy)]
struct Affine {
    scale: [__m512; 2],
    bias: [__m512; 2],
}

impl Numbers for Codes<'_> {
    const ROWS: usize = 16;
    type Affine = Affine;

    #[inline(always)]
    unsafe fn affine(&self, panel: usize) -> Affine {
        let scales = &self.scales[panel * 32..][..32];
        // SAFETY: 16 values from each half of 32; the panel and the CPU are the caller's promise.
        unsafe {
            let scale =
                [_mm512_loadu_ps(scales.as_ptr()), _mm512_loadu_ps(scales.as_ptr().add(16))];
            Affine { scale, bias: bias(self.layer, panel) }
        }
    }

    #[inline(always)]
    unsafe fn results(
        &self,
        sums: *const f32,
        first: usize,
        row: usize,
        affine: &Affine,
    ) -> (__m512, __m512) {
        // SAFETY: the row is in the block, the block in the input, say the callers.
        unsafe {
            let at = sums.add(row * 32).cast::<__m512i>();
            let row_scale = _mm512_set1_ps(*self.row_scales.add(first + row));
            let half = |i: usize| {
                // 16 rows further are the sums of the low bytes.
                let high = _mm512_slli_epi32::<7>(_mm512_load_si512(at.add(i)));
                let sum = _mm512_add_epi32(high, _mm512_load_si512(at.add(32 + i)));
                let scale = _mm512_mul_ps(affine.scale[i], row_scale);
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, affine.bias[i])
            };
            (half(0), half(1))
        }
    }

    #[inline(always)]
    unsafe fn step<const TALL: bool, const NEAR: bool>(a: *const u8, b: *const u8) {
        // SAFETY: the caller's promise is the same as ours.
        unsafe {
            if NEAR {
                step!("tdpbssd", TALL, "tileloadd", a, b)
            } else {
                step!("tdpbssd", TALL, "tileloaddt1", a, b)
            }
        }
    }
}

/// Rows to tiles of codes: for each 16 rows and each step of 64 inputs, high bytes, then low ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn quantize(input: Input<'_, u16>, inputs: usize, tiles: &mut [i8], row_scales: &mut [f32]) {
    let levels = levels(inputs);
    let steps = inputs.div_ceil(CODES_A_STEP);
    let panels = inputs / 32;
    for (row, scale) in row_scales.iter_mut().enumerate().take(input.rows) {
        // SAFETY: the row is inside the input's panels, its codes inside the tiles: 2 KB for each
        // step of 16 rows.
        unsafe {
            let line = |panel: usize| {
                let at = (panel * input.stride + input.first + row) * 32;
                _mm512_loadu_si512(input.data.as_ptr().add(at).cast())
            };
            let mut top = _mm512_setzero_si512();
            for panel in 0..panels {
                // Magnitudes compare as their bits do.
                let magnitude = _mm512_and_si512(line(panel), _mm512_set1_epi16(0x7fff));
                top = _mm512_max_epu16(top, magnitude);
            }
            let top = _mm512_max_epu32(
                _mm512_slli_epi32::<16>(top),
                _mm512_and_si512(top, _mm512_set1_epi32(0xffff_0000_u32 as i32)),
            );
            let top = f32::from_bits(_mm512_reduce_max_epu32(top));
            let (factor, unit) = row_scale(top, levels);
            *scale = unit;
            let factor = _mm512_set1_ps(factor);
            let nearest = |x: __m512i| {
                let x = _mm512_mul_ps(_mm512_castsi512_ps(x), factor);
                _mm512_castps_si512(_mm512_add_ps(x, _mm512_set1_ps(ROUND)))
            };
            let out = tiles.as_mut_ptr().add((row / 16) * steps * 2048 + (row % 16) * 64);
            for panel in 0..panels {
                let values = line(panel);
                let even = nearest(_mm512_slli_epi32::<16>(values));
                let odd =
                    nearest(_mm512_and_si512(values, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
                let codes =
                    _mm512_mask_blend_epi16(0xaaaa_aaaa, even, _mm512_slli_epi32::<16>(odd));
                let rounded = _mm512_add_epi16(codes, _mm512_set1_epi16(64));
                let high = _mm512_srai_epi16::<7>(rounded);
                let low = _mm512_sub_epi16(codes, _mm512_slli_epi16::<7>(high));
                let out = out.add(panel / 2 * 2048 + panel % 2 * 32);
                _mm256_storeu_si256(out.cast(), _mm512_cvtepi16_epi8(high));
                _mm256_storeu_si256(out.add(1024).cast(), _mm512_cvtepi16_epi8(low));
            }
            if panels % 2 == 1 {
                let out = out.add(panels / 2 * 2048 + 32);
                _mm256_storeu_si256(out.cast(), _mm256_setzero_si256());
                _mm256_storeu_si256(out.add(1024).cast(), _mm256_setzero_si256());
            }
        }
    }
}
