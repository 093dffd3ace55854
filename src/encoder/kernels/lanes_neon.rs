//! [`Lanes`] on 64-bit ARM: 4 lanes of NEON, which every such CPU has.

use super::integer::Dots;
use super::lanes::Lanes;
use std::arch::aarch64::*;

/// Advanced SIMD.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// The same wrapper for each method: one intrinsic, whose target feature is [`Lanes`]' promise.
macro_rules! method {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $ty),*) -> $ret {
            // SAFETY: the CPU has the instruction and pointers are valid, as the trait demands.
            #[allow(unused_unsafe)] // Some of these intrinsics are safe where NEON is baseline.
            unsafe { $body }
        }
    )*};
}

impl Lanes for Neon {
    const N: usize = 4;
    const ROWS: usize = 4;
    type V = float32x4_t;

    method! {
        splat(x: f32) -> float32x4_t = vdupq_n_f32(x);
        load(p: *const f32) -> float32x4_t = vld1q_f32(p);
        store(p: *mut f32, v: float32x4_t) -> () = vst1q_f32(p, v);
        load_bf16_pairs(p: *const u16) -> (float32x4_t, float32x4_t) = {
            let w = vreinterpretq_u32_u16(vld1q_u16(p));
            let odd = vandq_u32(w, vdupq_n_u32(0xffff_0000));
            (vreinterpretq_f32_u32(vshlq_n_u32::<16>(w)), vreinterpretq_f32_u32(odd))
        };
        add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
        min(a: float32x4_t, b: float32x4_t) -> float32x4_t = vminq_f32(a, b);
        max(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmaxq_f32(a, b);
        round(a: float32x4_t) -> float32x4_t = vrndnq_f32(a);
        scale2(a: float32x4_t, n: float32x4_t) -> float32x4_t = {
            let e = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32::<23>(e)))
        };
        sum(a: float32x4_t) -> f32 = vaddvq_f32(a);
        top(a: float32x4_t) -> f32 = vmaxvq_f32(a);
    }
}

impl Dots for Neon {
    type L = Neon;
    type I = int32x4_t;
    type W = int16x8_t;
    const ROWS: usize = 3;

    method! {
        zero() -> int32x4_t = vdupq_n_s32(0);
        load(p: *const i8) -> int16x8_t = vmovl_s8(vld1_s8(p));
        dot(sum: int32x4_t, w: int16x8_t, x: *const i16) -> int32x4_t = {
            // Each of two outputs: four products, added in pairs.
            let x = vld1_s16(x);
            let low = vmull_s16(vget_low_s16(w), x);
            let high = vmull_s16(vget_high_s16(w), x);
            vaddq_s32(sum, vpaddq_s32(low, high))
        };
        fold(low: int32x4_t, high: int32x4_t) -> float32x4_t = vcvtq_f32_s32(vpaddq_s32(low, high));
    }
}
