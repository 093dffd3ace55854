//! Attention over one text, all heads, with dropout on the probabilities, and its derivative.
//!
//! A text's queries, keys and values are `tokens` rows of `heads · width` columns. Each head is
//! copied out, what is multiplied from the right with its columns filled up with zeros to whole
//! lanes, so that every product is of one form: four rows at a time, sums in registers.

use super::dropout::{DropoutKey, factor};
use super::rows::{LANES, softmax_row, softmax_slope, widest};

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
    forward(shape, q, k, v, dropout, probabilities, context, &mut Scratch::new(shape));
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
    grads: [&mut [f32]; 3],
) {
    let [grad_q, grad_k, grad_v] = &grads;
    shape.check(&[q, k, v, context, grad_q, grad_k, grad_v], probabilities);
    backward(shape, [q, k, v], dropout, probabilities, context, grads, &mut Scratch::new(shape));
}

/// One head's matrices; the second size of each is a whole number of lanes.
struct Scratch {
    /// (width, tokens): what scores are made with.
    turned: Vec<f32>,
    /// (tokens, width)
    rows: [Vec<f32>; 3],
    /// (tokens, tokens)
    scores: Vec<f32>,
    dropped: Vec<f32>,
    /// (tokens, width)
    out: Vec<f32>,
}

impl Scratch {
    fn new(shape: &AttentionShape) -> Scratch {
        let &AttentionShape { tokens, width, .. } = shape;
        let (across, wide) = (tokens.next_multiple_of(LANES), width.next_multiple_of(LANES));
        Scratch {
            turned: vec![0.0; width * across],
            rows: [(); 3].map(|()| vec![0.0; tokens * wide]),
            scores: vec![0.0; tokens * across],
            dropped: vec![0.0; tokens * across],
            out: vec![0.0; tokens * wide],
        }
    }
}

widest! {
    fn forward(
        shape: &AttentionShape,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        dropout: Option<DropoutKey>,
        probabilities: &mut [f32],
        context: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let &AttentionShape { tokens, width, .. } = shape;
        let (across, wide) = (tokens.next_multiple_of(LANES), width.next_multiple_of(LANES));
        let Scratch { turned, rows: [rows, ..], scores, out, .. } = scratch;
        let scale = 1.0 / (width as f32).sqrt();
        for head in 0..shape.heads {
            let place = Head { columns: shape.columns(), from: head * width, width };
            place.turn(k, turned, across);
            let queries = |i: usize, d: usize| q[i * place.columns + place.from + d] * scale;
            small_product([tokens, across, width], queries, turned, scores);
            for i in 0..tokens {
                let at = (head * tokens + i) * tokens;
                let row = &mut scores[i * across..][..tokens];
                softmax_row(row);
                probabilities[at..at + tokens].copy_from_slice(row);
                if let Some(key) = dropout {
                    for (j, p) in row.iter_mut().enumerate() {
                        *p *= factor(key, at + j);
                    }
                }
            }
            place.take(v, rows, wide);
            let weights = |i: usize, j: usize| scores[i * across + j];
            small_product([tokens, wide, tokens], weights, rows, out);
            place.put(out, wide, context);
        }
    }
}

widest! {
    fn backward(
        shape: &AttentionShape,
        [q, k, v]: [&[f32]; 3],
        dropout: Option<DropoutKey>,
        probabilities: &[f32],
        context: &[f32],
        [grad_q, grad_k, grad_v]: [&mut [f32]; 3],
        scratch: &mut Scratch,
    ) {
        let &AttentionShape { tokens, width, .. } = shape;
        let (across, wide) = (tokens.next_multiple_of(LANES), width.next_multiple_of(LANES));
        let Scratch { turned, rows: [queries, keys, outer], scores: grad, dropped, out } = scratch;
        let scale = 1.0 / (width as f32).sqrt();
        for head in 0..shape.heads {
            let place = Head { columns: shape.columns(), from: head * width, width };
            place.turn(v, turned, across);
            place.take(q, queries, wide);
            place.take(k, keys, wide);
            place.take(context, outer, wide);
            // Of the probabilities after dropout, then before it, then of the scores.
            let rows = |i: usize, d: usize| outer[i * wide + d];
            small_product([tokens, across, width], rows, turned, grad);
            for i in 0..tokens {
                let at = (head * tokens + i) * tokens;
                let p = &probabilities[at..at + tokens];
                let (grad, dropped) =
                    (&mut grad[i * across..][..tokens], &mut dropped[i * across..][..tokens]);
                match dropout {
                    None => dropped.copy_from_slice(p),
                    Some(key) => {
                        for j in 0..tokens {
                            let factor = factor(key, at + j);
                            dropped[j] = p[j] * factor;
                            grad[j] *= factor;
                        }
                    }
                }
                softmax_slope(p, grad);
                grad.iter_mut().for_each(|grad| *grad *= scale);
            }
            small_product([tokens, wide, tokens], |i, j| dropped[j * across + i], outer, out);
            place.put(out, wide, grad_v);
            small_product([tokens, wide, tokens], |i, j| grad[i * across + j], keys, out);
            place.put(out, wide, grad_q);
            small_product([tokens, wide, tokens], |i, j| grad[j * across + i], queries, out);
            place.put(out, wide, grad_k);
        }
    }
}

/// One head's columns.
#[derive(Clone, Copy)]
struct Head {
    columns: usize,
    from: usize,
    width: usize,
}

impl Head {
    /// Copies the head's columns of every row, `wide` values from row to row.
    #[inline(always)]
    fn take(self, x: &[f32], out: &mut [f32], wide: usize) {
        for (x, out) in x.chunks_exact(self.columns).zip(out.chunks_exact_mut(wide)) {
            out[..self.width].copy_from_slice(&x[self.from..self.from + self.width]);
        }
    }

    /// The reverse.
    #[inline(always)]
    fn put(self, x: &[f32], wide: usize, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(wide).zip(out.chunks_exact_mut(self.columns)) {
            out[self.from..self.from + self.width].copy_from_slice(&x[..self.width]);
        }
    }

    /// The head's columns as rows, `across` values from row to row.
    #[inline(always)]
    fn turn(self, x: &[f32], out: &mut [f32], across: usize) {
        for (i, row) in x.chunks_exact(self.columns).enumerate() {
            for (d, value) in row[self.from..self.from + self.width].iter().enumerate() {
                out[d * across + i] = *value;
            }
        }
    }
}

/// `out = a · b`, sizes (m, n) = (m, k) · (k, n); n is a whole number of lanes.
#[inline(always)]
fn small_product(
    [m, n, k]: [usize; 3],
    a: impl Fn(usize, usize) -> f32,
    b: &[f32],
    out: &mut [f32],
) {
    let whole = m / 4 * 4;
    for j in (0..n).step_by(LANES) {
        for i in (0..whole).step_by(4) {
            some_rows::<4>([i, j, n, k], &a, b, out);
        }
        for i in whole..m {
            some_rows::<1>([i, j, n, k], &a, b, out);
        }
    }
}

/// Rows from `i` on, one vector of columns from `j` on.
#[inline(always)]
fn some_rows<const ROWS: usize>(
    [i, j, n, k]: [usize; 4],
    a: &impl Fn(usize, usize) -> f32,
    b: &[f32],
    out: &mut [f32],
) {
    let mut sums = [[0.0f32; LANES]; ROWS];
    for (l, b) in b.chunks_exact(n).take(k).enumerate() {
        let b: &[f32; LANES] = b[j..].first_chunk().expect("n is a whole number of lanes");
        for (r, sums) in sums.iter_mut().enumerate() {
            let a = a(i + r, l);
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        out[(i + r) * n + j..][..LANES].copy_from_slice(sums);
    }
}
