//! The stages over f32 activations, for any [`Lanes`]: AVX-512, AVX2, NEON and portable.
//!
//! Activations are row-major. A product runs panel by panel of columns, so that a panel of weights
//! stays in the first cache while all rows pass by it, and each output is one chain of
//! multiply-adds over k from zero up. That chain does not depend on how many rows are blocked
//! together, which is why a text's vector does not depend on its neighbors.

use super::lanes::{Lanes, exp2, gelu};
use super::{Input, Output};
use crate::encoder::weights::{Dims, Embeddings, Linear, Matrix, Norm, Values};
use std::ops::Range;

/// Query rows that pass over the keys together.
const QUERIES: usize = 4;

/// f32 of scratch that [`attention`] needs for texts of up to `longest` tokens.
pub(super) fn attention_scratch(d: &Dims, longest: usize) -> usize {
    longest.next_multiple_of(32) * (d.head_padded + QUERIES)
}

/// What happens to a product's sums, bias added.
pub(super) trait Finish<L: Lanes>: Copy {
    /// # Safety
    /// `row` and `N` columns from `col` lie inside the output; otherwise as for [`Lanes`].
    unsafe fn put(self, row: usize, col: usize, v: L::V);
}

#[derive(Clone, Copy)]
pub(super) struct Store(pub *mut f32, pub usize);
#[derive(Clone, Copy)]
pub(super) struct Gelu(pub *mut f32, pub usize);
#[derive(Clone, Copy)]
pub(super) struct Add(pub *mut f32, pub usize);

impl<L: Lanes> Finish<L> for Store {
    #[inline(always)]
    unsafe fn put(self, row: usize, col: usize, v: L::V) {
        // SAFETY: inside the output, says the caller.
        unsafe { L::store(self.0.add(row * self.1 + col), v) }
    }
}

impl<L: Lanes> Finish<L> for Gelu {
    #[inline(always)]
    unsafe fn put(self, row: usize, col: usize, v: L::V) {
        // SAFETY: inside the output, says the caller.
        unsafe { L::store(self.0.add(row * self.1 + col), gelu::<L>(v)) }
    }
}

impl<L: Lanes> Finish<L> for Add {
    #[inline(always)]
    unsafe fn put(self, row: usize, col: usize, v: L::V) {
        // SAFETY: inside the output, says the caller.
        unsafe {
            let p = self.0.add(row * self.1 + col);
            L::store(p, L::add(L::load(p), v));
        }
    }
}

/// `rows × k` activations times a weight matrix, `C` registers of columns at a time.
///
/// # Safety
/// As for [`Lanes`]. Lengths are checked here.
#[inline(always)]
pub(super) unsafe fn linear<L: Lanes, const C: usize>(
    input: Input<'_, f32>,
    layer: &Linear<'_>,
    output: Output<'_, f32>,
) {
    let w = &layer.weight;
    let (n, k, inputs) = (w.n, w.k, w.inputs);
    assert!(input.data.len() >= (input.first + input.rows) * inputs, "product: input is too short");
    assert!(w.is_whole(), "product: weights");
    let Values::Bf16(tiles) = w.values else { panic!("product: int8 weights go another way") };
    assert!(layer.bias.is_none_or(|b| b.len() == n), "product: bias");
    assert!([n, k, w.from, inputs].iter().all(|s| s.is_multiple_of(32)) && 32 % (C * L::N) == 0);
    let len = match &output {
        Output::Store { data, .. } | Output::Gelu { data, .. } => data.len(),
        Output::Add(x) => x.len(),
    };
    assert!(len >= input.rows * n, "product: output is too short");
    // SAFETY: lengths were asserted, the rest is the caller's promise.
    unsafe {
        match output {
            Output::Store { data, .. } => {
                product::<L, _, C>(input, layer, tiles, Store(data.as_mut_ptr(), n));
            }
            Output::Gelu { data, .. } => {
                product::<L, _, C>(input, layer, tiles, Gelu(data.as_mut_ptr(), n));
            }
            Output::Add(x) => product::<L, _, C>(input, layer, tiles, Add(x.as_mut_ptr(), n)),
        }
    }
}

#[inline(always)]
unsafe fn product<L: Lanes, F: Finish<L>, const C: usize>(
    input: Input<'_, f32>,
    layer: &Linear<'_>,
    tiles: &[u16],
    finish: F,
) {
    let (n, k) = (layer.weight.n, layer.weight.inputs);
    for col in (0..n).step_by(C * L::N) {
        let mut row = 0;
        while row < input.rows {
            let left = input.rows - row;
            // SAFETY: `linear` checked that rows, columns and k lie inside all three operands.
            unsafe {
                let a = input.data.as_ptr().add((input.first + row) * k);
                row += if L::ROWS >= 12 && left >= 12 {
                    block::<L, F, 12, C>(a, layer, tiles, row, col, finish)
                } else if L::ROWS >= 6 && left >= 6 {
                    block::<L, F, 6, C>(a, layer, tiles, row, col, finish)
                } else if left >= 4 {
                    block::<L, F, 4, C>(a, layer, tiles, row, col, finish)
                } else if left >= 2 {
                    block::<L, F, 2, C>(a, layer, tiles, row, col, finish)
                } else {
                    block::<L, F, 1, C>(a, layer, tiles, row, col, finish)
                };
            }
        }
    }
}

/// `R` rows by `C` registers of columns, over all of k. Returns `R`.
#[inline(always)]
unsafe fn block<L: Lanes, F: Finish<L>, const R: usize, const C: usize>(
    a: *const f32,
    layer: &Linear<'_>,
    tiles: &[u16],
    row: usize,
    col: usize,
    finish: F,
) -> usize {
    let Matrix { k: panel_inputs, from, inputs: k, .. } = layer.weight;
    // SAFETY: `product` keeps rows, columns and k inside the operands.
    unsafe {
        let panel = ((col / 32) * panel_inputs + from) * 32;
        let mut acc = [[L::splat(0.0); C]; R];
        for step in 0..k / 32 {
            for pair in 0..16 {
                let at = panel + step * 1024 + pair * 32;
                let mut even = [L::splat(0.0); C];
                let mut odd = [L::splat(0.0); C];
                for c in 0..C {
                    let within = col % 32 + c * L::N;
                    let at = at + (within / 16) * 512 + 2 * (within % 16);
                    (even[c], odd[c]) = L::load_bf16_pairs(tiles.as_ptr().add(at));
                }
                let a = a.add(step * 32 + pair * 2);
                for (r, sums) in acc.iter_mut().enumerate() {
                    let (a0, a1) = (L::splat(*a.add(r * k)), L::splat(*a.add(r * k + 1)));
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = L::mul_add(a0, even[c], *sum);
                        *sum = L::mul_add(a1, odd[c], *sum);
                    }
                }
            }
        }
        for c in 0..C {
            let bias = match layer.bias {
                Some(bias) => L::load(bias.as_ptr().add(col + c * L::N)),
                None => L::splat(0.0),
            };
            for (r, sums) in acc.iter().enumerate() {
                finish.put(row + r, col + c * L::N, L::add(sums[c], bias));
            }
        }
    }
    R
}

/// Self-attention of the text in `span`, all heads, from Q, K and V side by side.
///
/// # Safety
/// As for [`Lanes`]. Lengths are checked here.
#[inline(always)]
pub(super) unsafe fn attention<L: Lanes, const C: usize>(
    qkv: &[f32],
    span: Range<usize>,
    d: &Dims,
    context: &mut [f32],
    scratch: &mut [f32],
) {
    let (len, head, width) = (span.len(), d.head_padded, d.context());
    assert!(qkv.len() >= span.end * 3 * width, "attention: input is too short");
    assert!(context.len() >= span.end * width, "attention: output is too short");
    assert!(scratch.len() >= attention_scratch(d, len), "attention: scratch is too short");
    let padded = len.next_multiple_of(32);
    let (keys, scores) = scratch.split_at_mut(padded * head);
    for h in 0..d.heads {
        let base = span.start * 3 * width + h * head;
        for (j, row) in (0..padded).zip(base / (3 * width)..) {
            for i in 0..head {
                let key = if j < len { qkv[row * 3 * width + width + h * head + i] } else { 0.0 };
                keys[i * padded + j] = key;
            }
        }
        let mut q = 0;
        while q < len {
            let operands = Operands { qkv, keys, base, padded, len };
            let out = (span.start + q) * width + h * head;
            let out = &mut context[out..];
            // SAFETY: lengths were asserted above; a block takes no more queries than are left.
            unsafe {
                q += match len - q {
                    QUERIES.. => attend::<L, QUERIES, C>(operands, q, d, out, scores),
                    2.. => attend::<L, 2, C>(operands, q, d, out, scores),
                    _ => attend::<L, 1, C>(operands, q, d, out, scores),
                };
            }
        }
    }
}

/// One head of one text.
#[derive(Clone, Copy)]
struct Operands<'a> {
    qkv: &'a [f32],
    /// Keys, transposed: `head × padded`.
    keys: &'a [f32],
    /// Where the head's first query lies in `qkv`.
    base: usize,
    padded: usize,
    len: usize,
}

/// `R` queries of one head: scores, softmax, weighted values. Returns `R`.
#[inline(always)]
unsafe fn attend<L: Lanes, const R: usize, const C: usize>(
    o: Operands<'_>,
    q: usize,
    d: &Dims,
    out: &mut [f32],
    scores: &mut [f32],
) -> usize {
    let (head, width) = (d.head_padded, d.context());
    // SAFETY: `attention` checked all lengths; rows are `3 width` apart in `qkv`, `width` in `out`.
    unsafe {
        let queries = o.qkv.as_ptr().add(o.base + q * 3 * width);
        let s = scores.as_mut_ptr();
        for j in (0..o.padded).step_by(C * L::N) {
            let keys = o.keys.as_ptr().add(j);
            let sums = outer::<L, R, C>(queries, 3 * width, keys, o.padded, head);
            for (r, row) in sums.iter().enumerate() {
                for (c, &v) in row.iter().enumerate() {
                    L::store(s.add(r * o.padded + j + c * L::N), v);
                }
            }
        }
        let mut inverse = [0f32; R];
        for (r, inverse) in inverse.iter_mut().enumerate() {
            *inverse = 1.0 / softmax::<L>(s.add(r * o.padded), o.len, o.padded);
        }
        let values = o.qkv.as_ptr().add(o.base + 2 * width);
        for i in (0..head).step_by(C * L::N) {
            let sums = outer::<L, R, C>(s, o.padded, values.add(i), 3 * width, o.len);
            for (r, row) in sums.iter().enumerate() {
                for (c, &v) in row.iter().enumerate() {
                    let at = out.as_mut_ptr().add(r * width + i + c * L::N);
                    L::store(at, L::mul(v, L::splat(inverse[r])));
                }
            }
        }
    }
    R
}

/// Products of `R` rows of `a` with `C` registers of columns of `b`, over `k`.
#[inline(always)]
unsafe fn outer<L: Lanes, const R: usize, const C: usize>(
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    b_stride: usize,
    k: usize,
) -> [[L::V; C]; R] {
    // SAFETY: the callers keep R rows, C registers and k inside both operands.
    unsafe {
        let mut acc = [[L::splat(0.0); C]; R];
        for i in 0..k {
            let mut cols = [L::splat(0.0); C];
            for (c, col) in cols.iter_mut().enumerate() {
                *col = L::load(b.add(i * b_stride + c * L::N));
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let x = L::splat(*a.add(r * a_stride + i));
                for (sum, &col) in row.iter_mut().zip(&cols) {
                    *sum = L::mul_add(x, col, *sum);
                }
            }
        }
        acc
    }
}

/// Turns `len` scores in base-2 logarithms into weights relative to the greatest; gives their sum.
#[inline(always)]
unsafe fn softmax<L: Lanes>(s: *mut f32, len: usize, padded: usize) -> f32 {
    // SAFETY: the row is `padded` long, a multiple of every N.
    unsafe {
        for j in len..padded {
            *s.add(j) = -1e30;
        }
        let mut top = L::load(s);
        for j in (0..padded).step_by(L::N) {
            top = L::max(top, L::load(s.add(j)));
        }
        let top = L::splat(L::top(top));
        let mut sum = L::splat(0.0);
        for j in (0..padded).step_by(L::N) {
            let p = exp2::<L>(L::sub(L::load(s.add(j)), top));
            sum = L::add(sum, p);
            L::store(s.add(j), p);
        }
        L::sum(sum)
    }
}

/// Normalizes one row of `d.hidden` values in place; the padding stays zero.
///
/// # Safety
/// As for [`Lanes`], with `x`, weight and bias of `d.hidden_padded` values.
#[inline(always)]
pub(super) unsafe fn normalize<L: Lanes>(x: *mut f32, norm: &Norm<'_>, d: &Dims) {
    let whole = d.hidden - d.hidden % L::N;
    let inverse = 1.0 / d.hidden as f32;
    // SAFETY: the row and the norm are `hidden_padded` long, a multiple of every N.
    unsafe {
        // The padding is zero, so that it adds nothing to the sum.
        let mut sum = [L::splat(0.0); 2];
        for i in (0..d.hidden_padded).step_by(2 * L::N) {
            sum[0] = L::add(sum[0], L::load(x.add(i)));
            sum[1] = L::add(sum[1], L::load(x.add(i + L::N)));
        }
        let mean = L::sum(L::add(sum[0], sum[1])) * inverse;
        let center = L::splat(mean);
        let mut squares = [L::splat(0.0); 2];
        for i in (0..whole).step_by(L::N) {
            let c = L::sub(L::load(x.add(i)), center);
            let lane = (i / L::N) % 2;
            squares[lane] = L::mul_add(c, c, squares[lane]);
        }
        let mut variance = L::sum(L::add(squares[0], squares[1]));
        for i in whole..d.hidden {
            variance += (*x.add(i) - mean) * (*x.add(i) - mean);
        }
        let factor = L::splat(1.0 / (variance * inverse + d.eps).sqrt());
        for i in (0..d.hidden_padded).step_by(L::N) {
            let c = L::mul(L::sub(L::load(x.add(i)), center), factor);
            let weight = L::load(norm.weight.as_ptr().add(i));
            let bias = L::load(norm.bias.as_ptr().add(i));
            L::store(x.add(i), L::mul_add(c, weight, bias));
        }
    }
}

/// Layer norm of every row of `x` in place, copied to `act`.
///
/// # Safety
/// As for [`Lanes`]. Lengths are checked here.
#[inline(always)]
pub(super) unsafe fn layer_norm<L: Lanes>(
    x: &mut [f32],
    norm: &Norm<'_>,
    d: &Dims,
    act: &mut [f32],
) {
    let width = d.hidden_padded;
    assert!(norm.weight.len() == width && norm.bias.len() == width, "layer norm: weights");
    assert!(x.len().is_multiple_of(width) && act.len() >= x.len(), "layer norm: lengths");
    for (row, out) in x.chunks_exact_mut(width).zip(act.chunks_exact_mut(width)) {
        // SAFETY: both are `hidden_padded` long.
        unsafe { normalize::<L>(row.as_mut_ptr(), norm, d) };
        out.copy_from_slice(row);
    }
}

/// Sums of word and position rows, before the norm. Positions run from 0 in each of `texts`.
#[inline(always)]
pub(super) fn embed(e: &Embeddings<'_>, ids: &[u32], position: usize, x: &mut [f32]) {
    for ((i, &id), row) in ids.iter().enumerate().zip(x.chunks_exact_mut(e.width)) {
        let (codes, scales) = e.word(id as usize);
        let place = e.position(position + i);
        let groups = codes.chunks_exact(32).zip(scales).zip(place.chunks_exact(32));
        for (((codes, &scale), place), out) in groups.zip(row.chunks_exact_mut(32)) {
            let scale = super::lanes::from_bf16(scale);
            for ((o, &c), &p) in out.iter_mut().zip(codes).zip(place) {
                *o = f32::from(c) * scale + p;
            }
        }
    }
}
