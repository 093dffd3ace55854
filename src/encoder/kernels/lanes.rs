//! A register of f32 lanes, and the functions of one variable that the encoder needs on it.
//!
//! [`Lanes`] is the small set of vector operations that every stage is written in; one type per
//! instruction set implements it, so that a stage is one generic function and not four copies.
//! All of it is `#[inline(always)]`: the instructions are only right inside a function that enables
//! their target feature, which the `stages!` macro of the parent module makes for each set.

/// A vector of `N` f32 lanes of one instruction set.
///
/// # Safety
/// Every method may execute instructions of that set: callers must run on a CPU that has it, and
/// pointers must be valid for the lanes that the method names. Loads and stores are unaligned.
pub(crate) trait Lanes: Copy {
    /// Lanes in a register; divides 16.
    const N: usize;
    /// Rows of a register block in matrix products.
    const ROWS: usize;
    /// The register.
    type V: Copy;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// `N` values from `p`.
    unsafe fn load(p: *const f32) -> Self::V;
    /// `N` values to `p`.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// `2 N` bf16 from `p`: those at even and those at odd places, widened.
    unsafe fn load_bf16_pairs(p: *const u16) -> (Self::V, Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`; fused where the set has it.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `a · 2^n` for integral `n` of -126 to 127.
    unsafe fn scale2(a: Self::V, n: Self::V) -> Self::V;
    /// Sum of the lanes, in one fixed order.
    unsafe fn sum(a: Self::V) -> f32;
    /// Greatest lane.
    unsafe fn top(a: Self::V) -> f32;
}

/// 2^x for x ≤ 0, relative error below 3e-6; arguments under -126 give 2^-126.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn exp2<L: Lanes>(x: L::V) -> L::V {
    // Minimax polynomial of degree 4 for 2^f, f in [-0.5, 0.5].
    const P: [f32; 5] = [0.999_999_3, 0.693_121_8, 0.240_247_45, 0.055_917_863, 0.009_570_102];
    // SAFETY: the caller's promise is the same as ours.
    unsafe {
        let x = L::max(x, L::splat(-126.0));
        let n = L::round(x);
        let f = L::sub(x, n);
        let mut p = L::splat(P[4]);
        p = L::mul_add(p, f, L::splat(P[3]));
        p = L::mul_add(p, f, L::splat(P[2]));
        p = L::mul_add(p, f, L::splat(P[1]));
        p = L::mul_add(p, f, L::splat(P[0]));
        L::scale2(p, n)
    }
}

/// x·Φ(x), the exact GELU's approximation: absolute error below 2.5e-6 for |x| ≤ 5 and below
/// 1.5e-6·|x| outside.
///
/// Φ is ½ + c·P(s) with c = x clamped to ±5 and s = 2c²/25 - 1; P is a minimax polynomial of degree
/// 11 for the weighted error x·(Φ - Φ̂), written in s because powers of c² would cancel.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn gelu<L: Lanes>(x: L::V) -> L::V {
    const P: [f32; 12] = [
        1.413_637_5e-1,
        -7.029_823e-2,
        5.152_54e-2,
        -4.039_198_5e-2,
        3.135_672e-2,
        -2.362_494_3e-2,
        1.691_015_8e-2,
        -1.016_548_6e-2,
        5.113_236_5e-3,
        -3.886_830_7e-3,
        3.194_473e-3,
        -1.096_374_5e-3,
    ];
    // SAFETY: the caller's promise is the same as ours.
    unsafe {
        let c = L::max(L::min(x, L::splat(5.0)), L::splat(-5.0));
        let s = L::mul_add(L::mul(c, c), L::splat(0.08), L::splat(-1.0));
        let mut p = L::splat(P[11]);
        let mut i = 11;
        while i > 0 {
            i -= 1;
            p = L::mul_add(p, s, L::splat(P[i]));
        }
        L::mul(x, L::mul_add(c, p, L::splat(0.5)))
    }
}

/// bf16 of `x`, nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return ((bits >> 16) | 0x40) as u16;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// The f32 that a bf16 stands for.
#[inline(always)]
pub(crate) fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Four lanes in plain Rust, the twin that every instruction set is tested against.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Lanes for Portable {
    const N: usize = 4;
    const ROWS: usize = 4;
    type V = [f32; 4];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: the caller says that four values are readable.
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: the caller says that four values are writable.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u16) -> (Self::V, Self::V) {
        // SAFETY: the caller says that eight values are readable.
        let w = unsafe { p.cast::<[u16; 8]>().read_unaligned() };
        ([0, 2, 4, 6].map(|i| from_bf16(w[i])), [1, 3, 5, 7].map(|i| from_bf16(w[i])))
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `f32::mul_add`: without the instruction that is a call into libm per lane.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // Adding and taking away 1.5·2^23 rounds to an integer for |x| < 2^22.
        a.map(|x| (x + 12_582_912.0) - 12_582_912.0)
    }
    #[inline(always)]
    unsafe fn scale2(a: Self::V, n: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * f32::from_bits(((n[i] as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    unsafe fn top(a: Self::V) -> f32 {
        a[0].max(a[1]).max(a[2].max(a[3]))
    }
}
