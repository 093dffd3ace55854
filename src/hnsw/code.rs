//! int8 codes of vectors, distances between them, and lower bounds of the true distance.
//!
//! A vector x is kept as x̂ = s·c with integer codes c in −127 … 127 and a scale s, plus ‖x̂‖ and a
//! bound e ≥ ‖x − x̂‖ (the sum of |xᵢ − x̂ᵢ| for [`Metric::L1`]). For [`Metric::Cosine`] x is scaled to
//! length 1 first. A search ranks by the distance d̂ between the query q (not quantized) and x̂; what
//! it hands out is a bound that no exact distance falls below:
//!
//! - L2: ‖q − x‖ ≥ ‖q − x̂‖ − e, the triangle inequality; L1 likewise.
//! - Inner product and cosine: s is refitted so that x − x̂ is orthogonal to x̂. Then
//!   ⟨q, x⟩ = ⟨q, x̂⟩ + ⟨q⊥, x − x̂⟩ with q⊥ the part of q orthogonal to x̂, and by Cauchy–Schwarz
//!   −⟨q, x⟩ ≥ −⟨q, x̂⟩ − ‖q⊥‖ e.
//!
//! [`SLACK`] covers the rounding of the kernels on both sides, here and in the operator that the
//! exact distance comes from.

use super::layout::SlotView;
use super::params::{HnswParams, Storage};
use super::rotate::{ROUNDING, rotate};
use super::scan::Ranking;
use crate::vector::{Kernels, Loops, Metric, codes_i8, errors_i8, widest};

/// Relative rounding that a bound leaves room for: thrice what a kernel may be off by, since an
/// exact cosine distance has three kernels' results in it, and the estimate one more.
const SLACK: f32 = 6e-5;

/// A quantized vector.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Code {
    pub(crate) codes: Box<[i8]>,
    pub(crate) scale: f32,
    pub(crate) norm: f32,
    pub(crate) error: f32,
}

impl Code {
    /// Quantizes a vector of finite numbers.
    pub(crate) fn new(params: &HnswParams, vector: &[f32]) -> Self {
        widest(Quantize { params, vector })
    }

    pub(crate) fn as_ref(&self) -> CodeRef<'_> {
        CodeRef { codes: &self.codes, scale: self.scale, norm: self.norm }
    }

    /// Whether two rows can share a node: the codes stand for one and the same vector.
    pub(crate) fn same_point(&self, slot: &SlotView<'_>) -> bool {
        self.scale.to_bits() == slot.scale().to_bits() && *self.codes == *slot.codes()
    }
}

struct Quantize<'a> {
    params: &'a HnswParams,
    vector: &'a [f32],
}

impl Loops for Quantize<'_> {
    type Output = Code;

    #[inline(always)]
    fn run(self) -> Code {
        let Self { params, vector } = self;
        let x = Prepare { params, vector }.run();
        let mut codes = vec![0; x.len()].into_boxed_slice();
        let scale = codes_i8(&x, &mut codes);
        let squares = Kernels::get().dot_i8(&codes, &codes);
        let (scale, error) = match params.metric() {
            Metric::L1 => (scale, errors_i8(&x, &codes, scale)[1]),
            _ if squares == 0 => (scale, errors_i8(&x, &codes, scale)[0]),
            _ => refit(&x, &codes, squares),
        };
        let norm = (f64::from(scale) * f64::from(squares).sqrt()) as f32;
        let error = error + rotation_error(params, norm + error);
        Code { codes, scale, norm, error }
    }
}

/// The vector that is quantized or compared: of length 1 for cosine, rotated where there are
/// sketches.
struct Prepare<'a> {
    params: &'a HnswParams,
    vector: &'a [f32],
}

impl Loops for Prepare<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run(self) -> Vec<f32> {
        let mut x = match self.params.metric() {
            Metric::Cosine => normalize(self.vector),
            _ => self.vector.to_vec(),
        };
        if self.params.storage() == Storage::Sketched {
            rotate(&mut x);
        }
        x
    }
}

/// What rotating a vector of that length may be off by.
fn rotation_error(params: &HnswParams, length: f32) -> f32 {
    match params.storage() {
        Storage::Sketched => length * ROUNDING,
        Storage::Plain => 0.0,
    }
}

/// Length 1, in double precision: the squares of single-precision numbers may overflow.
#[inline(always)]
fn normalize(vector: &[f32]) -> Vec<f32> {
    let norm = crate::vector::norm(vector);
    let inverse = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    vector.iter().map(|&v| (f64::from(v) * inverse) as f32).collect()
}

/// The scale that makes x − s·c orthogonal to c, and the length of that difference, rounded up.
#[inline(always)]
fn refit(x: &[f32], codes: &[i8], squares: i32) -> (f32, f32) {
    let dot = sum_pairs(x, codes, |v, c| v * c);
    let scale = (dot / f64::from(squares)) as f32;
    let squared = sum_pairs(x, codes, |v, c| {
        let difference = v - f64::from(scale) * c;
        difference * difference
    });
    let error = squared.sqrt();
    (scale, if error == 0.0 { 0.0 } else { ((error * (1.0 + 1e-9)) as f32).next_up() })
}

/// Sums over number and code, in double precision; eight sums, or else each addition waits for the one before.
#[inline(always)]
fn sum_pairs(x: &[f32], codes: &[i8], term: impl Fn(f64, f64) -> f64) -> f64 {
    let ((xs, x_tail), (cs, c_tail)) = (x.as_chunks::<8>(), codes.as_chunks::<8>());
    let mut sums = [0f64; 8];
    for (xs, cs) in xs.iter().zip(cs) {
        for ((sum, &v), &c) in sums.iter_mut().zip(xs).zip(cs) {
            *sum += term(f64::from(v), f64::from(c));
        }
    }
    for ((sum, &v), &c) in sums.iter_mut().zip(x_tail).zip(c_tail) {
        *sum += term(f64::from(v), f64::from(c));
    }
    sums.iter().sum()
}

/// A quantized vector that lies elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct CodeRef<'a> {
    pub(crate) codes: &'a [i8],
    pub(crate) scale: f32,
    pub(crate) norm: f32,
}

impl<'a> CodeRef<'a> {
    pub(crate) fn of_slot(slot: &SlotView<'a>) -> Self {
        Self { codes: slot.codes(), scale: slot.scale(), norm: slot.norm() }
    }
}

/// Distances for one metric, to compare by: squared for L2, never NaN.
#[derive(Clone, Copy)]
pub(crate) struct Scorer {
    metric: Metric,
    kernels: &'static Kernels,
}

impl Scorer {
    pub(crate) fn new(metric: Metric) -> Self {
        Self { metric, kernels: Kernels::get() }
    }

    /// Squared Euclidean distance between the vectors that two codes stand for.
    pub(crate) fn euclidean_squared(&self, a: CodeRef<'_>, b: CodeRef<'_>) -> f32 {
        let product = a.scale * b.scale * self.kernels.dot_i8(a.codes, b.codes) as f32;
        finite(a.norm * a.norm + b.norm * b.norm - 2.0 * product)
    }

    /// Between two codes.
    #[inline]
    pub(crate) fn distance(&self, a: CodeRef<'_>, b: CodeRef<'_>) -> f32 {
        match self.metric {
            Metric::L1 => finite(self.kernels.l1_scaled_i8(a.codes, a.scale, b.codes, b.scale)),
            _ => self.of_product(self.kernels.dot_i8(a.codes, b.codes), a, b),
        }
    }

    /// From a row of codes to `picks` of `rows`, as [`Kernels::dot_i8_rows`] takes them; `code` gives their codes.
    #[inline(always)]
    pub(crate) fn distances<'c, const MAX: usize>(
        &self,
        row: &[i8],
        a: CodeRef<'_>,
        rows: &[i8],
        picks: &[u32],
        code: impl Fn(u32) -> CodeRef<'c>,
    ) -> [f32; MAX] {
        let mut distances = [0.0; MAX];
        let mut products = [0; MAX];
        if self.metric != Metric::L1 {
            self.kernels.dot_i8_rows(row, rows, picks, &mut products[..picks.len()]);
        }
        for ((distance, product), &pick) in distances.iter_mut().zip(products).zip(picks) {
            let b = code(pick);
            *distance = match self.metric {
                Metric::L1 => self.distance(a, b),
                _ => self.of_product(product, a, b),
            };
        }
        distances
    }

    /// The distance of two vectors whose codes have that inner product; no metric's that needs more.
    #[inline]
    fn of_product(&self, product: i32, a: CodeRef<'_>, b: CodeRef<'_>) -> f32 {
        let product = a.scale * b.scale * product as f32;
        finite(match self.metric {
            Metric::L2 => a.norm * a.norm + b.norm * b.norm - 2.0 * product,
            Metric::Cosine => 1.0 - product,
            _ => -product,
        })
    }
}

/// A comparison needs a number: overflow, and whatever a damaged page holds, counts as far away.
#[inline]
fn finite(distance: f32) -> f32 {
    if distance.is_finite() { distance } else { f32::MAX }
}

/// A query, ready to be compared with many slots.
pub(crate) struct Query {
    scorer: Scorer,
    vector: Box<[f32]>,
    norm: f32,
    /// What rotating it may be off by.
    error: f32,
    ranking: Ranking,
}

impl Query {
    /// `vector` holds finite numbers.
    pub(crate) fn new(params: &HnswParams, vector: &[f32]) -> Self {
        let vector = widest(Prepare { params, vector });
        let norm = (crate::vector::norm(&vector) as f32).next_up();
        let error = rotation_error(params, norm);
        Self {
            scorer: Scorer::new(params.metric()),
            vector: vector.into(),
            norm,
            error,
            ranking: Ranking::LowerBound,
        }
    }

    /// What [`Query::lower_bound`] gives.
    pub(crate) fn ranked_by(self, ranking: Ranking) -> Self {
        Self { ranking, ..self }
    }

    /// To find a new node's neighbors with, by [`HnswParams::link_metric`].
    pub(crate) fn for_links(params: &HnswParams, vector: &[f32]) -> Self {
        let query = Self::new(params, vector);
        Self { scorer: Scorer::new(params.link_metric()), ..query }
    }

    /// The same, with the vector that a code stands for.
    pub(crate) fn of_code(params: &HnswParams, code: &Code) -> Self {
        let vector = code.codes.iter().map(|&c| code.scale * f32::from(c)).collect();
        Self {
            scorer: Scorer::new(params.link_metric()),
            vector,
            norm: code.norm.next_up(),
            error: 0.0,
            ranking: Ranking::LowerBound,
        }
    }

    pub(crate) fn vector(&self) -> &[f32] {
        &self.vector
    }

    /// The metric's distance, as compared by, for each unit of squared Euclidean distance.
    pub(crate) fn per_euclidean_squared(&self) -> f32 {
        if self.scorer.metric == Metric::Cosine { 0.5 } else { 1.0 }
    }

    /// The slot's distance, to rank by; squared for L2.
    #[inline]
    pub(crate) fn score(&self, slot: &SlotView<'_>) -> f32 {
        self.distance(slot.codes(), slot.scale())
    }

    #[inline]
    pub(crate) fn distance(&self, codes: &[i8], scale: f32) -> f32 {
        let kernels = self.scorer.kernels;
        finite(match self.scorer.metric {
            Metric::L2 => kernels.l2_squared_f32_i8(&self.vector, codes, scale),
            Metric::L1 => kernels.l1_f32_i8(&self.vector, codes, scale),
            Metric::Cosine => 1.0 - scale * kernels.dot_f32_i8(&self.vector, codes),
            _ => -(scale * kernels.dot_f32_i8(&self.vector, codes)),
        })
    }

    /// No more than the exact distance, as the metric's operator gives it, of a vector whose code has
    /// that norm and error and is at `distance`; by [`Ranking::Codes`] the code's own distance.
    pub(crate) fn lower_bound(&self, distance: f32, norm: f32, error: f32) -> f32 {
        if self.ranking == Ranking::Codes {
            return match self.scorer.metric {
                Metric::L2 => distance.sqrt(),
                Metric::Cosine => distance.max(0.0),
                _ => distance,
            };
        }
        let error = error + self.error;
        let across = |product: f32| {
            let along = if norm > 0.0 { product / norm } else { 0.0 };
            let squared = self.norm * self.norm * (1.0 + SLACK) - along * along;
            let margin = squared.max(0.0).sqrt() * error * (1.0 + SLACK);
            margin + SLACK * self.norm * (norm + error)
        };
        let (bound, none) = match self.scorer.metric {
            Metric::L2 => ((distance.sqrt() * (1.0 - SLACK) - error * (1.0 + SLACK)).max(0.0), 0.0),
            Metric::L1 => ((distance * (1.0 - SLACK) - error * (1.0 + SLACK)).max(0.0), 0.0),
            // The product is rounded once more here; the slack has room for that.
            Metric::Cosine => ((distance - across(1.0 - distance)).max(0.0), 0.0),
            _ => (distance - across(-distance), f32::NEG_INFINITY),
        };
        // Where single precision overflowed there is no bound but the metric's own.
        if bound.is_finite() && distance < f32::MAX { bound } else { none }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lower_bound(metric: Metric, query: &[f32], x: &[f32]) -> f32 {
        let params = HnswParams::parse(x.len(), metric, 2, 8).expect("valid");
        let code = Code::new(&params, x);
        let query = Query::new(&params, query);
        query.lower_bound(query.distance(&code.codes, code.scale), code.norm, code.error)
    }

    proptest! {
        /// The executor raises an error where an exact distance is below what the index gave.
        #[test]
        fn bounds_hold_for_every_metric(
            pairs in prop::collection::vec((-1f32..1.0, -1f32..1.0), 1..500),
            scale in -12i32..12,
            nearness in 0f32..1.0,
        ) {
            let factor = 10f32.powi(scale);
            let q: Vec<f32> = pairs.iter().map(|p| p.0 * factor).collect();
            let x: Vec<f32> =
                pairs.iter().map(|p| (p.1 * nearness + p.0 * (1.0 - nearness)) * factor).collect();
            for metric in Metric::ALL {
                let exact = metric.distance(&q, &x);
                let bound = f64::from(lower_bound(metric, &q, &x));
                prop_assert!(exact.is_nan() || bound <= exact, "{metric}: {bound} > {exact}");
            }
        }
    }

    #[test]
    fn bounds_hold_for_equal_vectors_and_at_the_ends_of_single_precision() {
        for size in [1e-44f32, 1e-30, 1e-12, 1.0, 1e15, 1e30, 3e38] {
            let x = [size, -size / 3.0, size / 7.0, 0.0];
            let y = [-size, size / 2.0, 0.0, size / 5.0];
            for metric in Metric::ALL {
                for other in [&x, &y] {
                    let bound = f64::from(lower_bound(metric, &x, other));
                    let exact = metric.distance(&x, other);
                    assert!(exact.is_nan() || bound <= exact, "{metric} {size}: {bound} > {exact}");
                }
            }
        }
    }
}
