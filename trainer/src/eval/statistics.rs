//! Rank correlation, alignment and uniformity.

use crate::embedder::{Vectors, dot};

/// Spearman's rank correlation, ties sharing their mean rank. NaN where a side is constant.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "one value on each side of a pair");
    pearson(&ranks(a), &ranks(b))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let value = values[order[start]];
        let tied = order[start..].iter().take_while(|&&at| values[at] == value).count().max(1);
        let mean = start as f64 + (tied as f64 - 1.0) / 2.0;
        order[start..start + tied].iter().for_each(|&at| ranks[at] = mean);
        start += tied;
    }
    ranks
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        ab += (a - mean_a) * (b - mean_b);
        aa += (a - mean_a).powi(2);
        bb += (b - mean_b).powi(2);
    }
    ab / (aa * bb).sqrt()
}

/// Mean squared distance of the two sides of close pairs (Wang & Isola 2020); lower is better.
pub fn alignment(pairs: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for cosine in pairs {
        // Of vectors of length 1.
        sum += 2.0 - 2.0 * cosine;
        count += 1;
    }
    sum / f64::from(count)
}

/// Logarithm of the mean of exp(−2 d²) over all pairs of vectors (Wang & Isola 2020); lower means
/// that they spread more evenly over the sphere.
pub fn uniformity(vectors: &Vectors) -> f64 {
    let (mut sum, mut count) = (0.0, 0u64);
    for i in 0..vectors.len() {
        for j in 0..i {
            sum += (-2.0 * (2.0 - 2.0 * dot(vectors.row(i), vectors.row(j)))).exp();
            count += 1;
        }
    }
    (sum / count as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spearman_is_scipys() {
        // scipy.stats.spearmanr of the same lists.
        let a = [1.0, 2.0, 2.0, 4.0, 5.5, 5.5, 5.5, 8.0];
        let b = [2.0, 1.0, 4.0, 4.0, 9.0, 3.0, 7.0, 8.0];
        let expected = 0.734_791_9;
        assert!((spearman(&a, &b) - expected).abs() < 1e-6, "{}", spearman(&a, &b));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 21.0]), 1.0);
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
        assert!(spearman(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
    }

    #[test]
    fn alignment_and_uniformity_are_their_definitions() {
        assert!((alignment([1.0, 0.5].into_iter()) - 0.5).abs() < 1e-12);
        let vectors = Vectors { values: vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.0], dimensions: 2 };
        let expected = (((-4f64).exp() * 2.0 + (-8f64).exp()) / 3.0).ln();
        assert!((uniformity(&vectors) - expected).abs() < 1e-12);
    }
}
