//! NEON: four floats at a time; int8 products by widening multiplies and pairwise additions.

use std::arch::aarch64::*;

use super::{Isa, Kernels};

type V = float32x4_t;
const LANES: usize = 4;

pub(super) static BASE: Kernels = kernel_table!(Isa::Neon, dot_i8, dot_i8_rows);

row_by_row!(dot_i8_rows, dot_i8, #[target_feature(enable = "neon")]);

float_kernels!(#[target_feature(enable = "neon")]);

padded_tails!(#[target_feature(enable = "neon")]);

#[target_feature(enable = "neon")]
fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    let ((xs, x_tail), (ys, y_tail)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [vdupq_n_s32(0); 2];
    for (x, y) in xs.iter().zip(ys) {
        let (x, y) = (load_bytes(x), load_bytes(y));
        // A product is at most 2¹⁴, so it fits 16 bits.
        sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(x), vget_low_s8(y)));
        sums[1] = vpadalq_s16(sums[1], vmull_high_s8(x, y));
    }
    let tail: i32 = x_tail.iter().zip(y_tail).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum();
    vaddvq_s32(vaddq_s32(sums[0], sums[1])).wrapping_add(tail)
}

#[inline]
#[target_feature(enable = "neon")]
fn load_bytes(x: &[i8; 16]) -> int8x16_t {
    // SAFETY: reads the array's 16 bytes, at any alignment.
    unsafe { vld1q_s8(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> V {
    vdupq_n_f32(0.0)
}

#[inline]
#[target_feature(enable = "neon")]
fn splat(v: f32) -> V {
    vdupq_n_f32(v)
}

#[inline]
#[target_feature(enable = "neon")]
fn load(x: &[f32; LANES]) -> V {
    // SAFETY: reads the array's 4 floats, at any alignment.
    unsafe { vld1q_f32(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_i8(codes: &[i8; LANES]) -> V {
    load(&codes.map(f32::from))
}

#[inline]
#[target_feature(enable = "neon")]
fn add(a: V, b: V) -> V {
    vaddq_f32(a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn add_where(a: V, x: V, bits: u64) -> V {
    let mask = vtstq_u32(vdupq_n_u32(bits as u32), lane_bits());
    vaddq_f32(a, vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), mask)))
}

/// A bit of its own in each lane.
#[inline]
#[target_feature(enable = "neon")]
fn lane_bits() -> uint32x4_t {
    vsetq_lane_u32::<3>(8, vsetq_lane_u32::<2>(4, vsetq_lane_u32::<1>(2, vdupq_n_u32(1))))
}

#[inline]
#[target_feature(enable = "neon")]
fn at_least(a: V, b: V) -> u64 {
    u64::from(vaddvq_u32(vandq_u32(vcgeq_f32(a, b), lane_bits())))
}

#[inline]
#[target_feature(enable = "neon")]
fn sub(a: V, b: V) -> V {
    vsubq_f32(a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn abs(a: V) -> V {
    vabsq_f32(a)
}

#[inline]
#[target_feature(enable = "neon")]
fn fmadd(a: V, b: V, c: V) -> V {
    vfmaq_f32(c, a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn sub_scaled(x: V, scale: V, c: V) -> V {
    vfmsq_f32(x, scale, c)
}

#[inline]
#[target_feature(enable = "neon")]
fn sum(a: V) -> f32 {
    vaddvq_f32(a)
}
