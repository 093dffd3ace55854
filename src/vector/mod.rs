//! Dense vectors: metrics, distance kernels, the int8 quantizer and the external forms.
//!
//! A vector is a `&[f32]` of 1 to [`MAX_DIMS`] finite numbers; this module stores nothing. The
//! kernels in [`kernels`] exist once for each instruction set (AVX-512, AVX2, NEON, scalar), and a
//! process chooses among them once, by what its CPU reports. All of them keep the same contract:
//! a result differs from the exact value by at most [`kernels::TOLERANCE`] times the sum of the
//! absolute values of the terms, and the integer kernel is exact. They run on slices of any
//! alignment and any length, including 0, without an allocation.
//!
//! [`literal`] and [`binary`] read pgvector's text and binary forms as pure functions, so that the
//! fuzz targets reach them without PostgreSQL.
//!
//! [`Metric::distance`] is what a user sees (the square root taken, overflow of single precision
//! repaired in double); an index that only compares should call the kernels.

pub mod binary;
mod invalid;
pub mod kernels;
pub mod literal;
pub(crate) mod memory;
mod metric;
mod prefetch;
mod quantize;
mod widest;

pub use invalid::{InvalidVector, check, check_dims};
pub use kernels::Kernels;
pub use metric::{Metric, UnknownMetric};
pub use prefetch::{prefetch, prefetch_at};
pub use quantize::{I8Params, QuantizedI8, quantize_i8};
pub(crate) use quantize::{codes_i8, errors_i8};
pub(crate) use widest::{Loops, widest};

/// Most dimensions a vector has: 64,000 bytes of floats.
pub const MAX_DIMS: usize = 16_000;

/// Euclidean norm, accumulated in double precision.
#[inline]
pub fn norm(x: &[f32]) -> f64 {
    // Eight independent sums, or else each addition waits for the one before it.
    let mut sums = [0f64; 8];
    let (chunks, tail) = x.as_chunks::<8>();
    for chunk in chunks {
        for (sum, &v) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(v) * f64::from(v);
        }
    }
    for (sum, &v) in sums.iter_mut().zip(tail) {
        *sum += f64::from(v) * f64::from(v);
    }
    sums.iter().sum::<f64>().sqrt()
}

/// Scales `x` to length 1 in place. A zero vector stays as it is.
pub fn l2_normalize(x: &mut [f32]) {
    let norm = norm(x);
    if norm > 0.0 {
        for v in x {
            *v = (f64::from(*v) / norm) as f32;
        }
    }
}

/// The value of an IEEE half-precision number, as in pgvector's `halfvec`; exact.
pub fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half >> 15) << 31;
    let exponent = u32::from(half >> 10) & 0x1f;
    let fraction = u32::from(half) & 0x3ff;
    match exponent {
        // Subnormal: fraction × 2⁻²⁴, which single precision holds as a normal number.
        0 => {
            let magnitude = fraction as f32 * f32::from_bits(0x3380_0000);
            f32::from_bits(magnitude.to_bits() | sign)
        }
        0x1f => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_exactly() {
        for bits in (0..=u16::MAX).step_by(if cfg!(miri) { 97 } else { 1 }) {
            let exponent = i32::from(bits >> 10 & 0x1f);
            let fraction = f64::from(bits & 0x3ff);
            let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
            let got = f16_to_f32(bits);
            if exponent == 31 {
                assert!(if fraction == 0.0 {
                    got == sign as f32 * f32::INFINITY
                } else {
                    got.is_nan()
                });
                continue;
            }
            let want = match exponent {
                0 => sign * fraction / 1024.0 * 2f64.powi(-14),
                _ => sign * (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
            };
            assert_eq!(f64::from(got), want, "half {bits:#06x}");
            assert_eq!(got.is_sign_negative(), sign < 0.0, "half {bits:#06x}");
        }
    }

    #[test]
    fn norm_and_normalize_hold_at_the_ends_of_single_precision() {
        assert_eq!(norm(&[3.0, 4.0]), 5.0);
        assert_eq!(norm(&[]), 0.0);
        assert!((norm(&[f32::MAX; 100]) / (10.0 * f64::from(f32::MAX)) - 1.0).abs() < 1e-12);
        for scale in [1e-45f32, 1e-30, 1.0, 1e38] {
            let mut x = [scale, -scale, scale, -scale];
            l2_normalize(&mut x);
            assert_eq!(x, [0.5, -0.5, 0.5, -0.5], "scale {scale}");
        }
        let mut zero = [0.0; 3];
        l2_normalize(&mut zero);
        assert_eq!(zero, [0.0; 3]);
    }
}
