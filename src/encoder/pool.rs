//! Pooling: token states to one vector.
//!
//! A mean may weigh its tokens: each counts by the weight of its id, divided by the sum over the
//! text (Arora, Liang, Ma 2017 weigh by frequency so).

use super::weights::Dims;
use crate::model::Pooling;

/// Sums up a batch's states as they come, state 0 being the embedding output and state n layer n's.
pub(crate) struct Pool<'a> {
    pooling: Pooling,
    token_weights: Option<&'a [f32]>,
    d: &'a Dims,
    out: &'a mut [f32],
}

impl<'a> Pool<'a> {
    /// `out` has `d.hidden` values for each text, `token_weights` one for each id.
    pub(crate) fn new(
        pooling: Pooling,
        token_weights: Option<&'a [f32]>,
        d: &'a Dims,
        out: &'a mut [f32],
    ) -> Pool<'a> {
        out.fill(0.0);
        Pool { pooling, token_weights, d, out }
    }

    /// Takes in state `state` of texts of these ids, whose rows lie end to end in `x`.
    pub(crate) fn add<'t>(
        &mut self,
        state: usize,
        x: &[f32],
        texts: impl Iterator<Item = &'t [u32]>,
    ) {
        let Some(share) = self.pooling.share(state, self.d.layers) else { return };
        let width = self.d.hidden_padded;
        let mut start = 0;
        for (ids, sum) in texts.zip(self.out.chunks_exact_mut(self.d.hidden)) {
            let rows = &x[start * width..][..ids.len() * width];
            start += ids.len();
            if self.pooling == Pooling::Cls {
                sum.copy_from_slice(&rows[..sum.len()]);
                continue;
            }
            let factor = share / total_weight(self.token_weights, ids);
            for (row, &id) in rows.chunks_exact(width).zip(ids) {
                let factor = self.token_weights.map_or(factor, |all| factor * all[id as usize]);
                for (s, v) in sum.iter_mut().zip(row) {
                    *s += v * factor;
                }
            }
        }
    }
}

/// What the tokens of a text weigh together.
pub(crate) fn total_weight(token_weights: Option<&[f32]>, ids: &[u32]) -> f32 {
    match token_weights {
        None => ids.len() as f32,
        Some(all) => ids.iter().map(|&id| all[id as usize]).sum(),
    }
}

/// Scales a vector to length 1. A zero vector stays one.
pub(crate) fn l2_normalize(v: &mut [f32]) {
    let sum: f64 = v.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    if sum > 0.0 {
        let factor = (1.0 / sum.sqrt()) as f32;
        v.iter_mut().for_each(|x| *x *= factor);
    }
}
