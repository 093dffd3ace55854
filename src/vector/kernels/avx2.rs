//! AVX2 with FMA: eight floats at a time; int8 products by AVX-VNNI or by 16-bit multiplies.

use std::arch::x86_64::*;

use super::{Isa, Kernels};

type V = __m256;
const LANES: usize = 8;

pub(super) static VNNI: Kernels = kernel_table!(Isa::Avx2Vnni, dot_i8_vnni, dot_i8_rows_vnni);
pub(super) static BASE: Kernels = kernel_table!(Isa::Avx2, dot_i8, dot_i8_rows);

row_by_row!(dot_i8_rows_vnni, dot_i8_vnni, #[target_feature(enable = "avx2,avxvnni")]);
row_by_row!(dot_i8_rows, dot_i8, #[target_feature(enable = "avx2")]);

float_kernels!(#[target_feature(enable = "avx2,fma")]);

padded_tails!(#[target_feature(enable = "avx2,fma")]);

/// `vpdpbusd` multiplies unsigned by signed bytes, hence Σ a b = Σ (a + 128) b − 128 Σ b.
#[target_feature(enable = "avx2,avxvnni")]
fn dot_i8_vnni(a: &[i8], b: &[i8]) -> i32 {
    let ((xs, x_tail), (ys, y_tail)) = (a.as_chunks::<32>(), b.as_chunks::<32>());
    let (bias, ones) = (_mm256_set1_epi8(-128), _mm256_set1_epi8(1));
    let ((x2, x_rest), (y2, y_rest)) = (xs.as_chunks::<2>(), ys.as_chunks::<2>());
    let mut products = [_mm256_setzero_si256(); 2];
    let mut offsets = [_mm256_setzero_si256(); 2];
    for (x, y) in x2.iter().zip(y2) {
        for i in 0..2 {
            let y = load_bytes(&y[i]);
            let x = _mm256_xor_si256(load_bytes(&x[i]), bias);
            products[i] = _mm256_dpbusd_avx_epi32(products[i], x, y);
            offsets[i] = _mm256_dpbusd_avx_epi32(offsets[i], ones, y);
        }
    }
    for (x, y) in x_rest.iter().zip(y_rest) {
        let y = load_bytes(y);
        let x = _mm256_xor_si256(load_bytes(x), bias);
        products[0] = _mm256_dpbusd_avx_epi32(products[0], x, y);
        offsets[0] = _mm256_dpbusd_avx_epi32(offsets[0], ones, y);
    }
    let product = _mm256_add_epi32(products[0], products[1]);
    let offset = _mm256_add_epi32(offsets[0], offsets[1]);
    let whole = sum_i32(_mm256_sub_epi32(product, _mm256_slli_epi32::<7>(offset)));
    whole.wrapping_add(dot_i8_tail(x_tail, y_tail))
}

#[target_feature(enable = "avx2")]
fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    let ((xs, x_tail), (ys, y_tail)) = (a.as_chunks::<32>(), b.as_chunks::<32>());
    let mut sums = [_mm256_setzero_si256(); 2];
    for (x, y) in xs.iter().zip(ys) {
        for (sum, half) in sums.iter_mut().zip([0, 16]) {
            let x = _mm256_cvtepi8_epi16(load_half(x, half));
            let y = _mm256_cvtepi8_epi16(load_half(y, half));
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, y));
        }
    }
    sum_i32(_mm256_add_epi32(sums[0], sums[1])).wrapping_add(dot_i8_tail(x_tail, y_tail))
}

#[inline]
fn dot_i8_tail(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum()
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_bytes(x: &[i8; 32]) -> __m256i {
    // SAFETY: reads the array's 32 bytes, at any alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

/// Bytes `start` to `start + 16`.
#[inline]
#[target_feature(enable = "avx2")]
fn load_half(x: &[i8; 32], start: usize) -> __m128i {
    let half = &x[start..start + 16];
    // SAFETY: reads the slice's 16 bytes, at any alignment.
    unsafe { _mm_loadu_si128(half.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_i32(v: __m256i) -> i32 {
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v));
    _mm_cvtsi128_si32(v)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn zero() -> V {
    _mm256_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn splat(v: f32) -> V {
    _mm256_set1_ps(v)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(x: &[f32; LANES]) -> V {
    // SAFETY: reads the array's 8 floats, at any alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load_i8(codes: &[i8; LANES]) -> V {
    // SAFETY: reads the array's 8 bytes, at any alignment.
    let bytes = unsafe { _mm_loadl_epi64(codes.as_ptr().cast()) };
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn add(a: V, b: V) -> V {
    _mm256_add_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_where(a: V, x: V, bits: u64) -> V {
    let lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    let set = _mm256_and_si256(_mm256_set1_epi32(bits as i32), lane);
    let mask = _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane));
    _mm256_add_ps(a, _mm256_and_ps(x, mask))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn at_least(a: V, b: V) -> u64 {
    let bits = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b));
    u64::from(bits as u32)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn sub(a: V, b: V) -> V {
    _mm256_sub_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn abs(a: V) -> V {
    _mm256_andnot_ps(_mm256_set1_ps(-0.0), a)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn fmadd(a: V, b: V, c: V) -> V {
    _mm256_fmadd_ps(a, b, c)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn sub_scaled(x: V, scale: V, c: V) -> V {
    _mm256_fnmadd_ps(scale, c, x)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum(a: V) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    let v = _mm_add_ss(v, _mm_shuffle_ps::<1>(v, v));
    _mm_cvtss_f32(v)
}
