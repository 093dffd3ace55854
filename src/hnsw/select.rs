//! Which candidates become neighbors: Malkov & Yashunin 2018, Algorithm 4.
//!
//! Candidates come nearest first. One is taken when it is nearer to the base than to every neighbor
//! taken before it, so that the links spread in all directions; places that stay empty are filled
//! with the nearest of those passed over (`keepPrunedConnections`), which the recall at a given
//! number of page reads is better with (figures in the README).

/// Picks at most `max` of `candidates`, which are sorted by their distance to the base, and leaves
/// the picked ones in `picked`, in order. `distance(a, b)` is the distance between two candidates.
pub(crate) fn select_neighbors<C: Copy>(
    candidates: &[(f32, C)],
    max: usize,
    picked: &mut Vec<C>,
    mut distance: impl FnMut(C, C) -> f32,
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
        if picked.iter().all(|&other| to_base < distance(candidate, other)) {
            picked.push(candidate);
        } else if passed_over.len() < max {
            passed_over.push(candidate);
        }
    }
    let room = max - picked.len();
    picked.extend(passed_over.into_iter().take(room));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_behind_a_nearer_one_comes_last() {
        // Points on a line, the base at 0: 2 lies behind 1, −3 on the other side.
        let points = [(1.0, 1.0f32), (2.0, 2.0), (3.0, -3.0)];
        let mut picked = Vec::new();
        select_neighbors(&points, 2, &mut picked, |a, b| (a - b).abs());
        assert_eq!(picked, [1.0, -3.0]);
    }
}
