//! Sketches of links: enough to tell which neighbors are worth a page access.
//!
//! Beside each level-0 link from c to n lie the signs of the first [`BITS`] rotated dimensions of
//! the edge e = n − c, and two numbers of a byte. When c is expanded for a query q, an estimate of
//! the neighbor's distance follows without reading n: ‖q − n‖² = ‖q − c‖² + ‖e‖² − 2⟨q − c, e⟩, where
//! ⟨q − c, e⟩ ≈ ‖e‖² ⟨q − c, s⟩ / ⟨e, s⟩ with s the signs (RaBitQ, Gao & Long 2024, on edges as in
//! SymphonyQG, Gou et al. 2025, but on a part of the dimensions). The estimate's spread is about
//! ‖q − c‖ ‖e‖ / √BITS. A neighbor is queued under the estimate less [`CAUTION`] times that, and its
//! page is read when that is nearer than everything else in the queue; most never are.
//!
//! Bytes: signs (16, the lowest bit first), ‖e‖ in units of 1.5 ‖c‖ / 255, ⟨e, s⟩ relative to its
//! expected value for that length, in units of 1 / 128.

use super::code::{CodeRef, Query, Scorer};
use crate::vector::Kernels;

/// Dimensions with a sign.
pub(crate) const BITS: usize = 128;
/// Bytes of a sketch.
pub(crate) const SKETCH_LEN: usize = BITS / 8 + 2;
/// Spreads that an estimate is taken down by.
const CAUTION: f32 = 1.0;
/// The longest edge that is told apart, relative to the base's length.
const MAX_EDGE: f32 = 1.5;

/// A link's sketch; all zeros on links without one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sketch(pub(crate) [u8; SKETCH_LEN]);

impl Sketch {
    /// Of the edge from `base` to `other`.
    pub(crate) fn new(scorer: &Scorer, base: CodeRef<'_>, other: CodeRef<'_>) -> Self {
        let mut bytes = [0; SKETCH_LEN];
        let kernels = Kernels::get();
        let (to, from) = (&other.codes[..BITS], &base.codes[..BITS]);
        kernels.at_least_i8(to, other.scale, from, base.scale, &mut bytes[..BITS / 8]);
        let magnitudes = kernels.l1_scaled_i8(to, other.scale, from, base.scale);
        let length = scorer.euclidean_squared(base, other).max(0.0).sqrt();
        let expected = expected_magnitudes(base.codes.len()) * length;
        // Where the base is at the origin there is no unit: 255, the longest.
        let in_units = if base.norm > 0.0 { length / (MAX_EDGE * base.norm) } else { 1.0 };
        bytes[BITS / 8] = (in_units * 255.0).round().min(255.0) as u8;
        let relative = if expected > 0.0 { magnitudes / expected } else { 1.0 };
        bytes[BITS / 8 + 1] = (relative * 128.0).round().clamp(1.0, 255.0) as u8;
        Self(bytes)
    }
}

/// Σ |eₖ| over the signed dimensions of an edge of length 1, were its direction random.
fn expected_magnitudes(dims: usize) -> f32 {
    BITS as f32 * (2.0 / (std::f32::consts::PI * dims as f32)).sqrt()
}

/// What a query needs to estimate the distances of one node's neighbors.
pub(crate) struct Estimator {
    kernels: &'static Kernels,
    /// The signed dimensions of q − c, and their sum.
    from_base: Box<[f32; BITS]>,
    sum: f32,
    base_squared: f32,
    edge_unit: f32,
    /// What an edge's length times the signed sum is multiplied by, and its length itself.
    per_product: f32,
    per_spread: f32,
    /// From squared Euclidean distance to the metric's distance.
    factor: f32,
}

impl Default for Estimator {
    fn default() -> Self {
        Self {
            kernels: Kernels::get(),
            from_base: Box::new([0.0; BITS]),
            sum: 0.0,
            base_squared: 0.0,
            edge_unit: 0.0,
            per_product: 0.0,
            per_spread: 0.0,
            factor: 1.0,
        }
    }
}

impl Estimator {
    /// Prepares for the neighbors of `base`, whose distance from the query is `distance`.
    pub(crate) fn prepare(&mut self, query: &Query, base: CodeRef<'_>, distance: f32) {
        self.factor = query.per_euclidean_squared();
        self.base_squared = (distance / self.factor).max(0.0);
        self.edge_unit = MAX_EDGE * base.norm / 255.0;
        self.per_product = 2.0 * 128.0 / expected_magnitudes(base.codes.len());
        self.per_spread = 2.0 * CAUTION * (self.base_squared / BITS as f32).sqrt();
        for ((t, &q), &c) in self.from_base.iter_mut().zip(query.vector()).zip(base.codes) {
            *t = q - base.scale * f32::from(c);
        }
        let mut sums = [0.0; 8];
        for part in self.from_base.as_chunks::<8>().0 {
            sums.iter_mut().zip(part).for_each(|(sum, t)| *sum += t);
        }
        self.sum = sums.iter().sum();
    }

    /// A distance that the neighbor's is seldom below.
    #[inline]
    pub(crate) fn estimate(&self, sketch: &Sketch) -> f32 {
        let [signs @ .., length, relative] = &sketch.0;
        let signed = 2.0 * self.kernels.sum_where(&self.from_base[..], signs) - self.sum;
        let edge = self.edge_unit * f32::from(*length);
        let product = signed * self.per_product / f32::from((*relative).max(1));
        let squared = self.base_squared + edge * (edge - product - self.per_spread);
        let estimate = squared * self.factor;
        if estimate.is_finite() { estimate } else { f32::MIN }
    }
}

#[cfg(test)]
mod tests {
    use super::super::code::Code;
    use super::super::params::HnswParams;
    use super::*;
    use crate::vector::Metric;
    use rand::prelude::*;

    #[test]
    fn few_neighbors_are_nearer_than_their_estimate_and_far_ones_are_told_apart() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut point = |spread: f32, around: &[f32]| -> Vec<f32> {
            around.iter().map(|x| x + spread * rng.random_range(-1f32..1.0)).collect()
        };
        for metric in [Metric::L2, Metric::Cosine] {
            let params = HnswParams::parse(200, metric, 16, 64).expect("valid");
            let scorer = Scorer::new(metric);
            let (mut below, mut far_below, mut told, mut far) = (0, 0, 0, 0);
            for _ in 0..40 {
                let center = point(1.0, &vec![0.2; 200]);
                let query = Query::new(&params, &point(0.5, &center));
                let base = Code::new(&params, &point(0.7, &center));
                let distance = |code: &Code| query.distance(&code.codes, code.scale);
                let mut estimator = Estimator::default();
                estimator.prepare(&query, base.as_ref(), distance(&base));
                let mut warier = Estimator::default();
                warier.prepare(&query, base.as_ref(), distance(&base));
                warier.per_spread *= 1.5 / CAUTION;
                for i in 0..50 {
                    let other =
                        Code::new(&params, &point(if i % 2 == 0 { 0.4 } else { 1.6 }, &center));
                    let sketch = Sketch::new(&scorer, base.as_ref(), other.as_ref());
                    let estimate = estimator.estimate(&sketch);
                    below += u32::from(distance(&other) < estimate);
                    far_below += u32::from(distance(&other) < warier.estimate(&sketch));
                    far += u32::from(i % 2 == 1);
                    told += u32::from(i % 2 == 1 && estimate > distance(&base));
                }
            }
            // A sixth of a normal distribution lies more than one spread below its mean.
            assert!(below < 333, "{metric}: {below} of 2000 are nearer than estimated");
            assert!(far_below < 200, "{metric}: {far_below} of 2000 are 1.5 spreads nearer");
            assert!(told * 2 > far, "{metric}: {told} of {far} far ones told apart");
        }
    }
}
