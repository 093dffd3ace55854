//! AVX-512: sixteen floats at a time, tails by masked loads; int8 products by VNNI or by 16-bit
//! multiplies.

use std::arch::x86_64::*;

use super::{Isa, Kernels};

type V = __m512;
const LANES: usize = 16;

pub(super) static VNNI: Kernels = kernel_table!(Isa::Avx512Vnni, dot_i8_vnni, dot_i8_rows_vnni);
pub(super) static BASE: Kernels = kernel_table!(Isa::Avx512, dot_i8, dot_i8_rows);

row_by_row!(dot_i8_rows, dot_i8, #[target_feature(enable = "avx512f,avx512bw")]);

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

/// Four rows at once. The one that all are multiplied with is the signed side, so that Σ b is the same for all.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot_i8_rows_vnni(row: &[i8], rows: &[i8], picks: &[u32], products: &mut [i32]) {
    let lines = row.as_chunks::<64>().0;
    let (bias, ones) = (_mm512_set1_epi8(-128), _mm512_set1_epi8(1));
    let mut sum = _mm512_setzero_si512();
    for line in lines {
        sum = _mm512_dpbusd_epi32(sum, ones, load_bytes(line));
    }
    let offset = _mm512_reduce_add_epi32(sum) << 7;
    let (fours, rest) = picks.as_chunks::<4>();
    let (products, products_rest) = products.as_chunks_mut::<4>();
    for (picks, products) in fours.iter().zip(products) {
        let [a, b, c, d] = *picks;
        let (a, b) = (lines_of(rows, row.len(), a), lines_of(rows, row.len(), b));
        let (c, d) = (lines_of(rows, row.len(), c), lines_of(rows, row.len(), d));
        let mut sums = [_mm512_setzero_si512(); 4];
        for ((((line, a), b), c), d) in lines.iter().zip(a).zip(b).zip(c).zip(d) {
            let line = load_bytes(line);
            for (sum, other) in sums.iter_mut().zip([a, b, c, d]) {
                let other = _mm512_xor_si512(load_bytes(other), bias);
                *sum = _mm512_dpbusd_epi32(*sum, other, line);
            }
        }
        *products = sum_each(sums, offset);
    }
    for (&pick, product) in rest.iter().zip(products_rest) {
        let mut sum = _mm512_setzero_si512();
        for (line, other) in lines.iter().zip(lines_of(rows, row.len(), pick)) {
            let other = _mm512_xor_si512(load_bytes(other), bias);
            sum = _mm512_dpbusd_epi32(sum, other, load_bytes(line));
        }
        *product = _mm512_reduce_add_epi32(sum).wrapping_sub(offset);
    }
}

#[inline(always)]
fn lines_of(rows: &[i8], len: usize, pick: u32) -> &[[i8; 64]] {
    rows[pick as usize * len..][..len].as_chunks::<64>().0
}

/// The four sums of lanes, less `offset`.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_each([a, b, c, d]: [__m512i; 4], offset: i32) -> [i32; 4] {
    let (a, b) = (add_halves(a), add_halves(b));
    let (c, d) = (add_halves(c), add_halves(d));
    let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
    let sums = _mm_sub_epi32(sums, _mm_set1_epi32(offset));
    [
        _mm_extract_epi32::<0>(sums),
        _mm_extract_epi32::<1>(sums),
        _mm_extract_epi32::<2>(sums),
        _mm_extract_epi32::<3>(sums),
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_halves(v: __m512i) -> __m256i {
    _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v))
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
fn at_least(a: V, b: V) -> u64 {
    _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b).into()
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
