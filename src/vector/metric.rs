//! The four metrics and their names.

use std::{fmt, str::FromStr};

use super::kernels::Kernels;

/// How far apart two vectors are. Less is closer, for every metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Euclidean distance, `<->`.
    L2,
    /// Negative inner product, `<#>`.
    InnerProduct,
    /// 1 − cosine similarity, `<=>`; 0 to 2, NaN when a vector is zero.
    Cosine,
    /// Taxicab distance, `<+>`.
    L1,
}

/// A name or code that stands for no metric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown metric {got}, expected one of l2, ip, cosine, l1")]
pub struct UnknownMetric {
    /// What was there instead, quoted for a name.
    pub got: String,
}

impl Metric {
    /// All metrics, in the order of their codes.
    pub const ALL: [Metric; 4] = [Metric::L2, Metric::InnerProduct, Metric::Cosine, Metric::L1];

    /// The name as in the operator classes: `l2`, `ip`, `cosine`, `l1`.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::L2 => "l2",
            Metric::InnerProduct => "ip",
            Metric::Cosine => "cosine",
            Metric::L1 => "l1",
        }
    }

    /// The number that stands for the metric on disk and in an operator class's support function.
    pub const fn code(self) -> u8 {
        match self {
            Metric::L2 => 1,
            Metric::InnerProduct => 2,
            Metric::Cosine => 3,
            Metric::L1 => 4,
        }
    }

    /// The inverse of [`Metric::code`].
    ///
    /// # Errors
    /// [`UnknownMetric`] for any other number.
    pub fn from_code(code: u8) -> Result<Metric, UnknownMetric> {
        Metric::ALL
            .into_iter()
            .find(|metric| metric.code() == code)
            .ok_or_else(|| UnknownMetric { got: code.to_string() })
    }

    /// The distance that the metric's SQL operator returns.
    ///
    /// Runs in single precision; where that overflows or vanishes, once more in double precision.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn distance(self, a: &[f32], b: &[f32]) -> f64 {
        let kernels = Kernels::get();
        match self {
            Metric::L2 => {
                let squared = kernels.l2_squared(a, b);
                if in_range(squared) {
                    return f64::from(squared).sqrt();
                }
                sum_exactly(a, b, |x, y| (x - y) * (x - y)).sqrt()
            }
            Metric::InnerProduct => {
                let product = kernels.inner_product(a, b);
                if product.is_finite() {
                    // 0 − p and not −p: orthogonal vectors are at 0, not at −0.
                    return 0.0 - f64::from(product);
                }
                0.0 - sum_exactly(a, b, |x, y| x * y)
            }
            Metric::Cosine => {
                let [dot, a_squared, b_squared] = kernels.cosine_terms(a, b);
                if dot.is_finite() && in_range(a_squared) && in_range(b_squared) {
                    return cosine_from_terms(dot.into(), a_squared.into(), b_squared.into());
                }
                cosine_from_terms(
                    sum_exactly(a, b, |x, y| x * y),
                    sum_exactly(a, a, |x, y| x * y),
                    sum_exactly(b, b, |x, y| x * y),
                )
            }
            Metric::L1 => {
                let sum = kernels.l1(a, b);
                if sum.is_finite() {
                    return sum.into();
                }
                sum_exactly(a, b, |x, y| (x - y).abs())
            }
        }
    }
}

/// Whether a sum of squares in single precision neither overflowed nor lost its digits.
fn in_range(squared: f32) -> bool {
    squared.is_finite() && squared >= 1e-30
}

fn sum_exactly(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| term(x.into(), y.into())).sum()
}

/// 1 − dot / (|a| |b|) from the inner product and the squared norms; within 0 to 2 despite rounding,
/// NaN when a norm is 0.
fn cosine_from_terms(dot: f64, a_squared: f64, b_squared: f64) -> f64 {
    // One square root, of a product that double precision holds for any two vectors: of parallel
    // vectors it is exact.
    let similarity = dot / (a_squared * b_squared).sqrt();
    1.0 - similarity.clamp(-1.0, 1.0)
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(name: &str) -> Result<Metric, UnknownMetric> {
        Metric::ALL
            .into_iter()
            .find(|metric| metric.name() == name)
            .ok_or_else(|| UnknownMetric { got: format!("{name:?}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_come_back() {
        for metric in Metric::ALL {
            assert_eq!(metric.name().parse(), Ok(metric));
            assert_eq!(Metric::from_code(metric.code()), Ok(metric));
        }
        assert_eq!(
            "Cosine".parse::<Metric>().unwrap_err().to_string(),
            "unknown metric \"Cosine\", expected one of l2, ip, cosine, l1"
        );
        assert!(Metric::from_code(0).is_err());
    }

    #[test]
    fn distances_are_the_textbook_ones() {
        let (a, b) = ([1.0, 2.0, 3.0], [4.0, 6.0, 3.0]);
        assert_eq!(Metric::L2.distance(&a, &b), 5.0);
        assert_eq!(Metric::InnerProduct.distance(&a, &b), -25.0);
        assert_eq!(Metric::L1.distance(&a, &b), 7.0);
        assert_eq!(Metric::Cosine.distance(&[1.0, 0.0], &[0.0, 2.0]), 1.0);
        assert_eq!(Metric::Cosine.distance(&[1.0, 1.0], &[-3.0, -3.0]), 2.0);
        assert_eq!(Metric::Cosine.distance(&[1.0, 1.0], &[3.0, 3.0]), 0.0);
        assert!(Metric::Cosine.distance(&[0.0, 0.0], &[3.0, 3.0]).is_nan());
        let orthogonal = Metric::InnerProduct.distance(&[1.0, 0.0], &[0.0, 1.0]);
        assert!(orthogonal == 0.0 && orthogonal.is_sign_positive());
    }

    #[test]
    fn values_at_the_ends_of_single_precision_keep_their_distance() {
        let close = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 1e-6, "{got} {want}");
        for scale in [1e-40f32, 1e-30, 1e-20, 1e20, 1e38] {
            let (a, b) = ([scale, 0.0, 0.0], [0.0, scale, scale]);
            let s = f64::from(scale);
            close(Metric::L2.distance(&a, &b), 3f64.sqrt() * s);
            close(Metric::L1.distance(&a, &b), 3.0 * s);
            close(Metric::Cosine.distance(&a, &[scale, scale, 0.0]), 1.0 - 0.5f64.sqrt());
        }
        close(Metric::InnerProduct.distance(&[1e38; 2], &[1e38; 2]), -2e76);
        assert_eq!(Metric::L2.distance(&[f32::MAX], &[f32::MAX]), 0.0);
    }
}
