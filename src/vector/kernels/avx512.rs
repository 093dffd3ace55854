//! AVX-512: sixteen floats at a time, tails by masked loads; int8 products by VNNI or by 16-bit
//! multiplies.

use std::arch::x86_64::*;

use super::{Isa, Kernels};

type V = __m512;
const LANES: usize = 16;

pub(super) static VNNI: Kernels = kernel_table!(Isa::Avx512Vnni, dot_i8_vnni);
pub(super) static BASE: Kernels = kernel_table!(Isa::Avx512, dot_i8);

float_kernels!(#[target_feature(enable = "avx512f,avx512bw")]);

/// `vpdpbusd` multiplies unsigned by signed bytes, hence Σ a b = Σ (a + 128) b − 128 Σ b.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot_i8_vnni(a: &[i8], b: &[i8]) -> i32 {
    let ((xs, x_tail), (ys, y_tail)) = (a.as_chunks::<64>(), b.as_chunks::<64>());
    let (bias, ones) = (_mm512_set1_epi8(-128), _mm512_set1_epi8(1));
    let ((x2, x_rest), (y2, y_rest)) = (xs.as_chunks::<2>(), ys.as_chunks::<2>());
    let mut products = [_mm512_setzero_si512(); 2];
    let mut offsets = [_mm512_setzero_si512(); 2];
    for (x, y) in x2.iter().zip(y2) {
        for i in 0..2 {
            let y = load_bytes(&y[i]);
            let x = _mm512_xor_si512(load_bytes(&x[i]), bias);
            products[i] = _mm512_dpbusd_epi32(products[i], x, y);
            offsets[i] = _mm512_dpbusd_epi32(offsets[i], ones, y);
        }
    }
    for (x, y) in x_rest.iter().zip(y_rest) {
        let y = load_bytes(y);
        let x = _mm512_xor_si512(load_bytes(x), bias);
        products[0] = _mm512_dpbusd_epi32(products[0], x, y);
        offsets[0] = _mm512_dpbusd_epi32(offsets[0], ones, y);
    }
    if !x_tail.is_empty() {
        // Lanes past the end are 128 × 0.
        let y = load_bytes_tail(y_tail);
        let x = _mm512_xor_si512(load_bytes_tail(x_tail), bias);
        products[1] = _mm512_dpbusd_epi32(products[1], x, y);
        offsets[1] = _mm512_dpbusd_epi32(offsets[1], ones, y);
    }
    let product = _mm512_add_epi32(products[0], products[1]);
    let offset = _mm512_add_epi32(offsets[0], offsets[1]);
    _mm512_reduce_add_epi32(_mm512_sub_epi32(product, _mm512_slli_epi32::<7>(offset)))
}

#[target_feature(enable = "avx512f,avx512bw")]
fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    let ((xs, x_tail), (ys, y_tail)) = (a.as_chunks::<64>(), b.as_chunks::<64>());
    let mut sums = [_mm512_setzero_si512(); 2];
    for (x, y) in xs.iter().zip(ys) {
        sums = multiply_wide(sums, load_bytes(x), load_bytes(y));
    }
    if !x_tail.is_empty() {
        sums = multiply_wide(sums, load_bytes_tail(x_tail), load_bytes_tail(y_tail));
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn multiply_wide(sums: [__m512i; 2], x: __m512i, y: __m512i) -> [__m512i; 2] {
    let x_low = _mm512_cvtepi8_epi16(_mm512_castsi512_si256(x));
    let y_low = _mm512_cvtepi8_epi16(_mm512_castsi512_si256(y));
    let x_high = _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64::<1>(x));
    let y_high = _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64::<1>(y));
    [
        _mm512_add_epi32(sums[0], _mm512_madd_epi16(x_low, y_low)),
        _mm512_add_epi32(sums[1], _mm512_madd_epi16(x_high, y_high)),
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_bytes(x: &[i8; 64]) -> __m512i {
    // SAFETY: reads the array's 64 bytes, at any alignment.
    unsafe { _mm512_loadu_epi32(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_bytes_tail(tail: &[i8]) -> __m512i {
    let mask = (1u64 << (tail.len() & 63)) - 1;
    // SAFETY: the mask's bits, hence the bytes read, are below the slice's length.
    unsafe { _mm512_maskz_loadu_epi8(mask, tail.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn zero() -> V {
    _mm512_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(v: f32) -> V {
    _mm512_set1_ps(v)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[f32; LANES]) -> V {
    // SAFETY: reads the array's 16 floats, at any alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_tail(tail: &[f32]) -> V {
    let mask = (1u16 << (tail.len() & 15)) - 1;
    // SAFETY: the mask's bits, hence the floats read, are below the slice's length.
    unsafe { _mm512_maskz_loadu_ps(mask, tail.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_i8(codes: &[i8; LANES]) -> V {
    // SAFETY: reads the array's 16 bytes, at any alignment.
    let bytes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_i8_tail(tail: &[i8]) -> V {
    let mut padded = [0i8; LANES];
    padded[..tail.len()].copy_from_slice(tail);
    load_i8(&padded)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: V, b: V) -> V {
    _mm512_add_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_where(a: V, x: V, bits: u64) -> V {
    _mm512_mask_add_ps(a, bits as u16, a, x)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sub(a: V, b: V) -> V {
    _mm512_sub_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn abs(a: V) -> V {
    _mm512_abs_ps(a)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn fmadd(a: V, b: V, c: V) -> V {
    _mm512_fmadd_ps(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sub_scaled(x: V, scale: V, c: V) -> V {
    _mm512_fnmadd_ps(scale, c, x)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sum(a: V) -> f32 {
    _mm512_reduce_add_ps(a)
}
