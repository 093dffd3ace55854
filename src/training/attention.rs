//! Attention over one text, all heads, with dropout on the probabilities, and its derivative.
//!
//! A text's queries, keys and values are `tokens` rows of `heads · width` columns. Keys (and, in
//! the derivative, values) are transposed per head, so that every inner loop runs over consecutive
//! values: one row of scores, or one head of one token.

use super::dropout::{DropoutKey, factor};
use super::rows::{softmax, softmax_backward, widest};

/// Sizes of an attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Tokens of the text.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Columns of a head.
    pub width: usize,
}

impl AttentionShape {
    fn columns(&self) -> usize {
        self.heads * self.width
    }

    fn check(&self, rows: &[&[f32]], probabilities: &[f32]) {
        assert!(rows.iter().all(|rows| rows.len() == self.tokens * self.columns()));
        assert_eq!(probabilities.len(), self.heads * self.tokens * self.tokens);
    }
}

/// `context = dropout(softmax(q kᵀ / √width)) v`, head by head; `probabilities` (heads, tokens,
/// tokens) are kept as they are before dropout.
///
/// # Panics
/// If lengths do not agree with the shape.
pub fn attention(
    shape: &AttentionShape,
    [q, k, v]: [&[f32]; 3],
    dropout: Option<DropoutKey>,
    probabilities: &mut [f32],
    context: &mut [f32],
) {
    shape.check(&[q, k, v, context], probabilities);
    let &AttentionShape { tokens, width, .. } = shape;
    let mut turned = vec![0.0; tokens * width];
    let mut dropped = vec![0.0; tokens];
    for head in 0..shape.heads {
        let from = head * width;
        transpose(k, shape.columns(), from, width, &mut turned);
        for i in 0..tokens {
            let at = (head * tokens + i) * tokens;
            let row = &mut probabilities[at..at + tokens];
            let one = i * shape.columns() + from;
            combine(&q[one..one + width], &turned, 1.0 / (width as f32).sqrt(), row);
            softmax(row);
            let row = match dropout {
                None => &*row,
                Some(key) => {
                    for (j, (dropped, p)) in dropped.iter_mut().zip(row.iter()).enumerate() {
                        *dropped = p * factor(key, at + j);
                    }
                    &dropped
                }
            };
            let out = &mut context[one..one + width];
            out.fill(0.0);
            gather(row, v, shape.columns(), from, out);
        }
    }
}

/// The gradients of queries, keys and values, which overwrite `grads`, from that of the context.
///
/// # Panics
/// If lengths do not agree with the shape.
pub fn attention_backward(
    shape: &AttentionShape,
    [q, k, v]: [&[f32]; 3],
    dropout: Option<DropoutKey>,
    probabilities: &[f32],
    context: &[f32],
    [grad_q, grad_k, grad_v]: [&mut [f32]; 3],
) {
    shape.check(&[q, k, v, context, grad_q, grad_k, grad_v], probabilities);
    let &AttentionShape { tokens, width, .. } = shape;
    let columns = shape.columns();
    let scale = 1.0 / (width as f32).sqrt();
    grad_q.fill(0.0);
    grad_k.fill(0.0);
    grad_v.fill(0.0);
    let mut turned = vec![0.0; tokens * width];
    let (mut grad, mut dropped) = (vec![0.0; tokens], vec![0.0; tokens]);
    for head in 0..shape.heads {
        let from = head * width;
        transpose(v, columns, from, width, &mut turned);
        for i in 0..tokens {
            let at = (head * tokens + i) * tokens;
            let row = &probabilities[at..at + tokens];
            let one = i * columns + from..i * columns + from + width;
            let out = &context[one.clone()];
            combine(out, &turned, 1.0, &mut grad);
            match dropout {
                None => scatter(row, out, columns, from, grad_v),
                Some(key) => {
                    for j in 0..tokens {
                        let factor = factor(key, at + j);
                        dropped[j] = row[j] * factor;
                        grad[j] *= factor;
                    }
                    scatter(&dropped, out, columns, from, grad_v);
                }
            }
            softmax_backward(row, &mut grad);
            grad.iter_mut().for_each(|grad| *grad *= scale);
            gather(&grad, k, columns, from, &mut grad_q[one.clone()]);
            scatter(&grad, &q[one], columns, from, grad_k);
        }
    }
}

/// One head's columns of all rows, as `width` rows of `tokens`.
fn transpose(x: &[f32], columns: usize, from: usize, width: usize, out: &mut [f32]) {
    let tokens = x.len() / columns;
    for (i, row) in x.chunks_exact(columns).enumerate() {
        for (d, value) in row[from..from + width].iter().enumerate() {
            out[d * tokens + i] = *value;
        }
    }
}

widest! {
    /// `out = scale · Σ_d weights[d] · rows[d]`.
    fn combine(weights: &[f32], rows: &[f32], scale: f32, out: &mut [f32]) {
        let n = out.len();
        out.fill(0.0);
        for (weight, row) in weights.iter().zip(rows.chunks_exact(n)) {
            let weight = weight * scale;
            for (out, x) in out.iter_mut().zip(row) {
                *out += weight * x;
            }
        }
    }
}

widest! {
    /// Adds `Σ_j weights[j] · x[j]` to `out`, one head of every row.
    fn gather(weights: &[f32], x: &[f32], columns: usize, from: usize, out: &mut [f32]) {
        for (weight, row) in weights.iter().zip(x.chunks_exact(columns)) {
            let row = &row[from..from + out.len()];
            for (out, x) in out.iter_mut().zip(row) {
                *out += weight * x;
            }
        }
    }
}

widest! {
    /// Adds `weights[j] · x` to one head of every row j of `out`.
    fn scatter(weights: &[f32], x: &[f32], columns: usize, from: usize, out: &mut [f32]) {
        for (weight, row) in weights.iter().zip(out.chunks_exact_mut(columns)) {
            let row = &mut row[from..from + x.len()];
            for (out, x) in row.iter_mut().zip(x) {
                *out += weight * x;
            }
        }
    }
}
