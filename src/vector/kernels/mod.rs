//! Distance kernels for one pair of vectors, chosen once by what the CPU has.
//!
//! [`Kernels`] is a table of functions, one table per instruction set. [`Kernels::get`] gives the
//! best one that runs here; a loop over many pairs fetches it once. Each instruction set's module
//! names its vector type and a dozen primitives, and the macro `float_kernels!` makes the kernels
//! of them, so that all sets run the same algorithm: blocks of 1,024 numbers, in each four running vectors
//! of sums, then a masked or zero-padded tail. Zeros add nothing to any of the sums.
//!
//! Single-precision results differ from the exact value by at most [`TOLERANCE`] × Σ |terms|, hence
//! between two instruction sets by at most twice that. [`Kernels::dot_i8`] is exact.
//!
//! The kernels are plain safe functions that see slices; what makes them unsafe to call is only that
//! the CPU must have their instructions. The tables' constructors are where that is checked.

use std::sync::OnceLock;

#[macro_use]
mod generic;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

/// Bound of a single-precision kernel's error, relative to the sum of its terms' absolute values,
/// for vectors of up to [`super::MAX_DIMS`] dimensions.
pub const TOLERANCE: f64 = 1e-5;

/// Elements that are summed before the sum is added to those of the blocks before. One running sum over
/// [`super::MAX_DIMS`] equal terms would be off by more than [`TOLERANCE`], its roundings all going the
/// same way; here no sum has more than 128 terms to a lane and 16 blocks.
const BLOCK: usize = 1024;

/// An instruction set that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512 F, BW, VL and VNNI (Ice Lake, Zen 4 and later).
    Avx512Vnni,
    /// AVX-512 F and BW (Skylake-SP, Cascade Lake without VNNI).
    Avx512,
    /// AVX2, FMA and AVX-VNNI (Alder Lake and later, Zen 5).
    Avx2Vnni,
    /// AVX2 and FMA (Haswell, Zen and later).
    Avx2,
    /// AArch64's baseline.
    Neon,
    /// Plain Rust, any CPU.
    Scalar,
}

type FloatPair = unsafe fn(&[f32], &[f32]) -> f32;
type DotRows = unsafe fn(&[i8], &[i8], &[u32], &mut [i32]);

/// The kernels of one instruction set. Every method panics when its two lengths differ.
#[derive(Debug)]
pub struct Kernels {
    isa: Isa,
    l2_squared: FloatPair,
    inner_product: FloatPair,
    l1: FloatPair,
    cosine_terms: unsafe fn(&[f32], &[f32]) -> [f32; 3],
    dot_i8: unsafe fn(&[i8], &[i8]) -> i32,
    dot_i8_rows: DotRows,
    dot_f32_i8: unsafe fn(&[f32], &[i8]) -> f32,
    l2_squared_f32_i8: unsafe fn(&[f32], &[i8], f32) -> f32,
    l1_f32_i8: unsafe fn(&[f32], &[i8], f32) -> f32,
    l1_scaled_i8: unsafe fn(&[i8], f32, &[i8], f32) -> f32,
    sum_where: unsafe fn(&[f32], &[u8]) -> f32,
    at_least_i8: unsafe fn(&[i8], f32, &[i8], f32, &mut [u8]),
}

impl Kernels {
    /// The kernels for this CPU.
    #[inline]
    pub fn get() -> &'static Kernels {
        static BEST: OnceLock<&'static Kernels> = OnceLock::new();
        BEST.get_or_init(|| Kernels::available()[0])
    }

    /// All kernels that run on this CPU, best first; the last ones are the scalar ones. For tests
    /// and benches.
    pub fn available() -> Vec<&'static Kernels> {
        let mut tables: Vec<&'static Kernels> = Vec::new();
        // Miri interprets no vendor intrinsics.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512bw") {
                if has!("avx512vl") && has!("avx512vnni") {
                    tables.push(&avx512::VNNI);
                }
                tables.push(&avx512::BASE);
            }
            if has!("avx2") && has!("fma") {
                if has!("avxvnni") {
                    tables.push(&avx2::VNNI);
                }
                tables.push(&avx2::BASE);
            }
        }
        #[cfg(all(target_arch = "aarch64", not(miri)))]
        tables.push(&neon::BASE);
        tables.push(&scalar::BASE);
        tables
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Σ (aᵢ − bᵢ)².
    #[inline]
    pub fn l2_squared(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "vectors of one length");
        // SAFETY: `available` gave out this table because the CPU has its instructions.
        unsafe { (self.l2_squared)(a, b) }
    }

    /// Σ aᵢ bᵢ.
    #[inline]
    pub fn inner_product(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "vectors of one length");
        // SAFETY: `available` gave out this table because the CPU has its instructions.
        unsafe { (self.inner_product)(a, b) }
    }

    /// Σ |aᵢ − bᵢ|.
    #[inline]
    pub fn l1(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "vectors of one length");
        // SAFETY: `available` gave out this table because the CPU has its instructions.
        unsafe { (self.l1)(a, b) }
    }

    /// Σ aᵢ bᵢ, Σ aᵢ² and Σ bᵢ² in one pass.
    #[inline]
    pub fn cosine_terms(&self, a: &[f32], b: &[f32]) -> [f32; 3] {
        assert_eq!(a.len(), b.len(), "vectors of one length");
        // SAFETY: `available` gave out this table because the CPU has its instructions.
        unsafe { (self.cosine_terms)(a, b) }
    }

    /// 1 − cosine similarity, 0 to 2; NaN when a vector is zero (or its square underflows).
    #[inline]
    pub fn cosine_distance(&self, a: &[f32], b: &[f32]) -> f32 {
        let [dot, a_squared, b_squared] = self.cosine_terms(a, b);
        1.0 - (dot / (a_squared.sqrt() * b_squared.sqrt())).clamp(-1.0, 1.0)
    }

    /// Euclidean norm in single precision; [`super::norm`] is the exact one.
    #[inline]
    pub fn norm(&self, a: &[f32]) -> f32 {
        self.inner_product(a, a).sqrt()
    }

    /// Σ aᵢ bᵢ, exact for up to 131,071 dimensions.
    #[inline]
    pub fn dot_i8(&self, a: &[i8], b: &[i8]) -> i32 {
        assert_eq!(a.len(), b.len(), "vectors of one length");
        // SAFETY: `available` gave out this table because the CPU has its instructions.
        unsafe { (self.dot_i8)(a, b) }
    }

    /// [`Kernels::dot_i8`] of `row` and each of the `picks` of `rows`, which lie one after the other, as long
    /// as `row`: a multiple of 64.
    ///
    /// # Panics
    /// Also where a pick is none of the rows.
    #[inline]
    pub fn dot_i8_rows(&self, row: &[i8], rows: &[i8], picks: &[u32], products: &mut [i32]) {
        assert_eq!(picks.len(), products.len(), "a product for each pick");
        assert!(row.len().is_multiple_of(64), "whole lines");
        // SAFETY: `available` gave out this table because the CPU has its instructions.
        unsafe { (self.dot_i8_rows)(row, rows, picks, products) }
    }

    /// Σ xᵢ cᵢ; times the codes' scale it is the inner product with the vector they stand for.
    #[inline]
    pub fn dot_f32_i8(&self, x: &[f32], codes: &[i8]) -> f32 {
        assert_eq!(x.len(), codes.len(), "vectors of one length");
        // SAFETY: `available` gave out this table because the CPU has its instructions.
        unsafe { (self.dot_f32_i8)(x, codes) }
    }

    /// Σ (xᵢ − s cᵢ)².
    #[inline]
    pub fn l2_squared_f32_i8(&self, x: &[f32], codes: &[i8], scale: f32) -> f32 {
        assert_eq!(x.len(), codes.len(), "vectors of one length");
        // SAFETY: `available` gave out this table because the CPU has its instructions.
        unsafe { (self.l2_squared_f32_i8)(x, codes, scale) }
    }

    /// Σ |xᵢ − s cᵢ|.
    #[inline]
    pub fn l1_f32_i8(&self, x: &[f32], codes: &[i8], scale: f32) -> f32 {
        assert_eq!(x.len(), codes.len(), "vectors of one length");
        // SAFETY: `available` gave out this table because the CPU has its instructions.
        unsafe { (self.l1_f32_i8)(x, codes, scale) }
    }

    /// Σ |s aᵢ − t bᵢ|.
    #[inline]
    pub fn l1_scaled_i8(&self, a: &[i8], scale_a: f32, b: &[i8], scale_b: f32) -> f32 {
        assert_eq!(a.len(), b.len(), "vectors of one length");
        // SAFETY: `available` gave out this table because the CPU has its instructions.
        unsafe { (self.l1_scaled_i8)(a, scale_a, b, scale_b) }
    }

    /// Σ xᵢ over the i whose bit is set, the lowest bit of a byte first; a multiple of 64 of them.
    #[inline]
    pub fn sum_where(&self, x: &[f32], bits: &[u8]) -> f32 {
        assert!(x.len() == 8 * bits.len() && x.len().is_multiple_of(64), "a bit for each number");
        // SAFETY: `available` gave out this table because the CPU has its instructions.
        unsafe { (self.sum_where)(x, bits) }
    }

    /// Sets the bits of the i with s aᵢ ≥ t bᵢ and clears the others, the lowest bit of a byte first; a multiple
    /// of 64 of them. The products are rounded to single precision.
    #[inline]
    pub fn at_least_i8(&self, a: &[i8], scale_a: f32, b: &[i8], scale_b: f32, bits: &mut [u8]) {
        assert_eq!(a.len(), b.len(), "vectors of one length");
        assert!(a.len() == 8 * bits.len() && a.len().is_multiple_of(64), "a bit for each number");
        // SAFETY: `available` gave out this table because the CPU has its instructions.
        unsafe { (self.at_least_i8)(a, scale_a, b, scale_b, bits) }
    }
}

#[cfg(test)]
mod tests;
