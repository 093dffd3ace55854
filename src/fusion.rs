//! Fusing ranked lists: several searches over the same rows become one list.
//!
//! [`reciprocal_rank`] (Cormack, Clarke & Büttcher, SIGIR 2009) looks at ranks only, so the lists'
//! scores need not be comparable: a row's score is the sum of `weight / (k + rank)` over the lists
//! that have it, ranks counted from 1, `k` usually 60. [`normalized`] looks at the scores instead,
//! moved to 0…1 within each list. Both order equal scores by the row's key, so the result depends
//! on the lists alone.

use std::collections::HashMap;
use std::hash::Hash;

/// `k` of the paper.
pub const RRF_K: u32 = 60;

/// A row of a fused list.
#[derive(Debug, Clone, PartialEq)]
pub struct Fused<K> {
    pub key: K,
    pub score: f64,
    /// Its rank in each list, counted from 1; nothing where the list does not have it.
    pub ranks: Vec<Option<u32>>,
}

/// A ranked list and what it counts.
#[derive(Debug, Clone, Copy)]
pub struct Leg<'a, K> {
    /// Best first; a key that occurs twice counts at its better place.
    pub hits: &'a [(K, f32)],
    pub weight: f32,
}

/// Fuses lists by reciprocal ranks.
pub fn reciprocal_rank<K: Copy + Eq + Hash + Ord>(
    legs: &[Leg<'_, K>],
    rrf_k: u32,
) -> Vec<Fused<K>> {
    fuse(legs, |leg, rank, _| f64::from(leg.weight) / (f64::from(rrf_k) + f64::from(rank)))
}

/// Fuses lists by scores, each list's moved to 0 (its worst) … 1 (its best); a list of equal
/// scores counts 1 throughout.
pub fn normalized<K: Copy + Eq + Hash + Ord>(legs: &[Leg<'_, K>]) -> Vec<Fused<K>> {
    fuse(legs, |leg, _, score| {
        let (mut worst, mut best) = (f32::INFINITY, f32::NEG_INFINITY);
        for &(_, score) in leg.hits {
            worst = worst.min(score);
            best = best.max(score);
        }
        let share = if best > worst { (score - worst) / (best - worst) } else { 1.0 };
        f64::from(leg.weight) * f64::from(share)
    })
}

fn fuse<'a, K: Copy + Eq + Hash + Ord>(
    legs: &[Leg<'a, K>],
    contribution: impl Fn(&Leg<'a, K>, u32, f32) -> f64,
) -> Vec<Fused<K>> {
    let mut rows: HashMap<K, Fused<K>> = HashMap::new();
    for (number, leg) in legs.iter().enumerate() {
        for (rank, &(key, score)) in (1..).zip(leg.hits) {
            let row = rows.entry(key).or_insert_with(|| Fused {
                key,
                score: 0.0,
                ranks: vec![None; legs.len()],
            });
            if row.ranks[number].is_none() {
                row.ranks[number] = Some(rank);
                row.score += contribution(leg, rank, score);
            }
        }
    }
    let mut fused: Vec<Fused<K>> = rows.into_values().collect();
    fused.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.key.cmp(&b.key)));
    fused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rrf_sums_the_reciprocals_of_the_ranks() {
        let (a, b) = ([(7, 0.9), (3, 0.8)], [(3, 12.0), (5, 11.0)]);
        let legs = [Leg { hits: &a, weight: 1.0 }, Leg { hits: &b, weight: 2.0 }];
        let fused = reciprocal_rank(&legs, RRF_K);
        let keys: Vec<i32> = fused.iter().map(|row| row.key).collect();
        assert_eq!(keys, [3, 5, 7]);
        assert!((fused[0].score - (1.0 / 62.0 + 2.0 / 61.0)).abs() < 1e-12);
        assert_eq!(fused[0].ranks, [Some(2), Some(1)]);
        assert_eq!(fused[2].ranks, [Some(1), None]);
    }

    #[test]
    fn ties_are_ordered_by_key_whatever_the_order_of_the_lists() {
        let (a, b) = ([(9, 1.0), (2, 0.5)], [(4, 8.0), (1, 7.0)]);
        let legs = [Leg { hits: &a, weight: 1.0 }, Leg { hits: &b, weight: 1.0 }];
        let turned = [legs[1], legs[0]];
        let keys = |legs: &[Leg<'_, i32>]| {
            reciprocal_rank(legs, RRF_K).into_iter().map(|row| row.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(&legs), [4, 9, 1, 2]);
        assert_eq!(keys(&legs), keys(&turned));
    }

    #[test]
    fn normalized_scores_span_zero_to_one_in_each_list() {
        let (a, b) = ([(1, 10.0), (2, 5.0), (3, 0.0)], [(3, 0.7)]);
        let legs = [Leg { hits: &a, weight: 1.0 }, Leg { hits: &b, weight: 0.4 }];
        let fused = normalized(&legs);
        let rows: Vec<(i32, f64)> = fused.iter().map(|row| (row.key, row.score)).collect();
        assert_eq!(rows[0], (1, 1.0));
        assert_eq!(rows[1], (2, 0.5));
        assert_eq!(rows[2].0, 3);
        assert!((rows[2].1 - 0.4).abs() < 1e-6);
        assert!(normalized::<i32>(&[]).is_empty());
    }
}
