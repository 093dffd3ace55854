//! [`Dots`] on x86: `vpmaddwd` of AVX2 and AVX-512, `vpdpwssd` where there is VNNI.

use super::integer::{Dots, linear};
use super::lanes_x86;
use super::{Codes, Input, Output};
use crate::encoder::weights::Linear;
use std::arch::x86_64::*;

/// AVX-512 F, BW, DQ, VL.
pub(super) struct Avx512;
/// The same with AVX-512 VNNI.
struct Vnni512;
/// AVX2 and FMA.
pub(super) struct Avx2;
/// The same with AVX-VNNI.
struct Vnni256;

macro_rules! dots {
    ($name:ident, $lanes:ty, $rows:literal, $sum:ty, $zero:expr, $load:expr, $dot:expr, $fold:expr) => {
        impl Dots for $name {
            type L = $lanes;
            type I = $sum;
            type W = $sum;
            const ROWS: usize = $rows;

            #[inline(always)]
            unsafe fn zero() -> $sum {
                // SAFETY: the CPU has the instruction, as the trait demands.
                unsafe { $zero() }
            }
            #[inline(always)]
            unsafe fn load(p: *const i8) -> $sum {
                // SAFETY: the CPU has the instruction and the codes are readable, as the trait demands.
                unsafe { $load(p) }
            }
            #[inline(always)]
            unsafe fn dot(sum: $sum, w: $sum, x: *const i16) -> $sum {
                // SAFETY: the CPU has the instruction and the codes are readable, as the trait demands.
                unsafe { $dot(sum, w, x.cast::<i64>().read_unaligned()) }
            }
            #[inline(always)]
            unsafe fn fold(low: $sum, high: $sum) -> <$lanes as super::lanes::Lanes>::V {
                // SAFETY: the CPU has the instruction, as the trait demands.
                unsafe { $fold(low, high) }
            }
        }
    };
}

macro_rules! load_512 {
    () => {
        |p: *const i8| _mm512_cvtepi8_epi16(_mm256_loadu_si256(p.cast()))
    };
}
macro_rules! fold_512 {
    () => {
        |low, high| {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            let even = _mm512_permutex2var_epi32(low, even, high);
            let odd = _mm512_permutex2var_epi32(low, odd, high);
            _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd))
        }
    };
}
macro_rules! load_256 {
    () => {
        |p: *const i8| _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast()))
    };
}
macro_rules! fold_256 {
    () => {
        |low, high| {
            let sums = _mm256_hadd_epi32(low, high);
            _mm256_cvtepi32_ps(_mm256_permute4x64_epi64::<0b11_01_10_00>(sums))
        }
    };
}

dots!(
    Avx512,
    lanes_x86::Avx512,
    6,
    __m512i,
    _mm512_setzero_si512,
    load_512!(),
    |sum, w, x| _mm512_add_epi32(sum, _mm512_madd_epi16(w, _mm512_set1_epi64(x))),
    fold_512!()
);
dots!(
    Vnni512,
    lanes_x86::Avx512,
    6,
    __m512i,
    _mm512_setzero_si512,
    load_512!(),
    |sum, w, x| _mm512_dpwssd_epi32(sum, w, _mm512_set1_epi64(x)),
    fold_512!()
);
dots!(
    Avx2,
    lanes_x86::Avx2,
    3,
    __m256i,
    _mm256_setzero_si256,
    load_256!(),
    |sum, w, x| _mm256_add_epi32(sum, _mm256_madd_epi16(w, _mm256_set1_epi64x(x))),
    fold_256!()
);
dots!(
    Vnni256,
    lanes_x86::Avx2,
    3,
    __m256i,
    _mm256_setzero_si256,
    load_256!(),
    |sum, w, x| _mm256_dpwssd_avx_epi32(sum, w, _mm256_set1_epi64x(x)),
    fold_256!()
);

/// Products by AVX-512 VNNI, if this CPU has it.
pub(super) fn vnni512() -> Option<Codes> {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn by_set(
        input: Input<'_, f32>,
        layer: &Linear<'_>,
        output: Output<'_, f32>,
        scratch: &mut [f32],
    ) {
        // SAFETY: compiled for the set; the code checks lengths.
        unsafe { linear::<Vnni512, 2>(input, layer, output, scratch) }
    }
    is_x86_feature_detected!("avx512vnni").then_some(by_set as Codes)
}

/// Products by AVX-VNNI, if this CPU has it.
pub(super) fn vnni256() -> Option<Codes> {
    #[target_feature(enable = "avx2,fma,avxvnni")]
    unsafe fn by_set(
        input: Input<'_, f32>,
        layer: &Linear<'_>,
        output: Output<'_, f32>,
        scratch: &mut [f32],
    ) {
        // SAFETY: compiled for the set; the code checks lengths.
        unsafe { linear::<Vnni256, 2>(input, layer, output, scratch) }
    }
    is_x86_feature_detected!("avxvnni").then_some(by_set as Codes)
}

/// Every set that this CPU has, by name.
#[cfg(test)]
pub(super) fn available() -> Vec<(&'static str, Codes)> {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn plain_512(
        input: Input<'_, f32>,
        layer: &Linear<'_>,
        output: Output<'_, f32>,
        scratch: &mut [f32],
    ) {
        // SAFETY: compiled for the set; the code checks lengths.
        unsafe { linear::<Avx512, 2>(input, layer, output, scratch) }
    }
    #[target_feature(enable = "avx2,fma")]
    unsafe fn plain_256(
        input: Input<'_, f32>,
        layer: &Linear<'_>,
        output: Output<'_, f32>,
        scratch: &mut [f32],
    ) {
        // SAFETY: compiled for the set; the code checks lengths.
        unsafe { linear::<Avx2, 2>(input, layer, output, scratch) }
    }
    let has_512 = super::Kernel::Avx512.is_available();
    let has_256 = super::Kernel::Avx2.is_available();
    let sets = [
        ("AVX-512", has_512.then_some(plain_512 as Codes)),
        ("AVX-512 VNNI", has_512.then(vnni512).flatten()),
        ("AVX2", has_256.then_some(plain_256 as Codes)),
        ("AVX-VNNI", has_256.then(vnni256).flatten()),
    ];
    sets.into_iter().filter_map(|(name, set)| Some((name, set?))).collect()
}
