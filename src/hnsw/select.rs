//! Which candidates become neighbors: Malkov & Yashunin 2018, Algorithm 4.
//!
//! Candidates come nearest first. One is taken when it is nearer to the base than to every neighbor
//! taken before it, so that the links spread in all directions; places that stay empty are filled
//! with the nearest of those passed over (`keepPrunedConnections`), which the recall at a given
//! number of page reads is better with (figures in the README).

/// Picks at most `max` of `candidates`, which are sorted by their distance to the base, and leaves
/// the picked ones in `picked`, in order. `is_behind(candidate, to_base, picked)` tells whether one of
/// the picked is no farther from the candidate than the base is.
pub(crate) fn select_neighbors<C: Copy>(
    candidates: &[(f32, C)],
    max: usize,
    picked: &mut Vec<C>,
    mut is_behind: impl FnMut(C, f32, &[C]) -> bool,
) {
    picked.clear();
    if candidates.len() <= max {
        picked.extend(candidates.iter().map(|&(_, candidate)| candidate));
        return;
    }
    let mut passed_over = Vec::new();
    for &(to_base, candidate) in candidates {
        if picked.len() == max {
            return;
        }
        if !is_behind(candidate, to_base, picked) {
            picked.push(candidate);
        } else if passed_over.len() < max {
            passed_over.push(candidate);
        }
    }
    let room = max - picked.len();
    picked.extend(passed_over.into_iter().take(room));
}

/// Which of a full list and one more makes way; `candidates` are sorted by their distance to the base.
/// It is the one at `new` where the heuristic would not take it for itself: a link that only fills a place
/// is not worth a write. Otherwise it is the one that [`select_neighbors`] leaves out where there is room
/// for all others, the farthest one passed over, or else the farthest. Computes only the distances that
/// this takes, a fifth of them.
pub(crate) fn makes_way<C: Copy>(
    candidates: &[(f32, C)],
    new: usize,
    distance: impl FnMut(C, C) -> f32,
) -> usize {
    let last = candidates.len().saturating_sub(1);
    let mut picks = Picks { candidates, known: vec![None; candidates.len()], distance };
    if !picks.is_picked(new) {
        return new;
    }
    (0..candidates.len()).rev().find(|&at| !picks.is_picked(at)).unwrap_or(last)
}

struct Picks<'c, C, F> {
    candidates: &'c [(f32, C)],
    known: Vec<Option<bool>>,
    distance: F,
}

impl<C: Copy, F: FnMut(C, C) -> f32> Picks<'_, C, F> {
    /// Whether the candidate is nearer to the base than to every picked one before it.
    fn is_picked(&mut self, at: usize) -> bool {
        if let Some(known) = self.known[at] {
            return known;
        }
        let (to_base, candidate) = self.candidates[at];
        let is_picked = (0..at).all(|other| {
            self.known[other] == Some(false)
                || to_base < (self.distance)(candidate, self.candidates[other].1)
                || !self.is_picked(other)
        });
        self.known[at] = Some(is_picked);
        is_picked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn behind<C: Copy>(distance: impl Fn(C, C) -> f32) -> impl Fn(C, f32, &[C]) -> bool {
        move |candidate, to_base, picked| {
            picked.iter().any(|&other| distance(candidate, other) <= to_base)
        }
    }

    proptest! {
        #[test]
        fn the_new_one_makes_way_or_what_the_selection_leaves_out(
            mut points in prop::collection::vec((-9i32..9, -9i32..9), 2..34),
        ) {
            let length = |x: i32, y: i32| (x * x + y * y) as f32;
            points.sort_unstable_by_key(|&(x, y)| (x * x + y * y, x, y));
            points.dedup();
            let candidates: Vec<(f32, (i32, i32))> =
                points.iter().map(|&(x, y)| (length(x, y), (x, y))).collect();
            let distance = |a: (i32, i32), b: (i32, i32)| length(a.0 - b.0, a.1 - b.1);
            let mut picked = Vec::new();
            select_neighbors(&candidates, candidates.len() - 1, &mut picked, behind(distance));
            // The first is picked for itself.
            let out = makes_way(&candidates, 0, distance);
            prop_assert!(!picked.contains(&candidates[out].1), "{}", out);
            for new in 1..candidates.len() {
                let nearer = candidates[..new].iter();
                let is_free = |other: &(f32, (i32, i32))| {
                    candidates[new].0 < distance(candidates[new].1, other.1)
                };
                let way = makes_way(&candidates, new, distance);
                prop_assert!(way == new || way == out, "{} of {}", way, new);
                if nearer.clone().all(is_free) {
                    prop_assert_eq!(way, out);
                }
            }
        }
    }

    #[test]
    fn a_candidate_behind_a_nearer_one_comes_last() {
        // Points on a line, the base at 0: 2 lies behind 1, −3 on the other side.
        let points = [(1.0, 1.0f32), (2.0, 2.0), (3.0, -3.0)];
        let mut picked = Vec::new();
        select_neighbors(&points, 2, &mut picked, behind(|a: f32, b: f32| (a - b).abs()));
        assert_eq!(picked, [1.0, -3.0]);
    }
}
