//! Products with int8 weights, for any [`Dots`]: exact integer sums.
//!
//! Each row of activations becomes codes of up to ±16,256 with a scale of its own (15 bits, fewer
//! where many inputs would overflow the sum). So fine a code costs no fidelity beside the weights':
//! with 8 bits a sentence's cosine falls to 0.997, because a token's few large values set the step
//! for all others. The sum of code times weight fits 32 bits and is the same on every kernel in any
//! order; scales and bias are applied to it in f32. AVX2 and AVX-512 multiply 16 by 16 bits and add
//! pairs (`vpdpwssd`, or `vpmaddwd`), AMX splits a code into two bytes (`amx/integer.rs`).

use super::generic::{Add, Finish, Gelu, Store};
use super::lanes::Lanes;
use super::{Input, Output};
use crate::encoder::weights::{CODES_A_STEP, Linear, Values};

/// A set's integer products.
///
/// # Safety
/// As for [`Lanes`].
pub(super) trait Dots {
    /// Its f32 registers.
    type L: Lanes;
    /// 32-bit sums, two for each of half of the lanes' outputs.
    type I: Copy;
    /// Weights of as many outputs, four inputs each.
    type W: Copy;
    /// Rows of a register block.
    const ROWS: usize;

    unsafe fn zero() -> Self::I;
    /// `2 N` codes from `p`.
    unsafe fn load(p: *const i8) -> Self::W;
    /// Adds the products with the four codes at `x`.
    unsafe fn dot(sum: Self::I, w: Self::W, x: *const i16) -> Self::I;
    /// The outputs of both halves, whole.
    unsafe fn fold(low: Self::I, high: Self::I) -> <Self::L as Lanes>::V;
}

/// Bytes of scratch for the codes and scales of `rows` rows of `inputs` values.
pub(crate) fn codes_scratch(rows: usize, inputs: usize) -> usize {
    let rows = rows.next_multiple_of(16);
    4 * rows + 2 * rows * inputs.next_multiple_of(CODES_A_STEP)
}

/// The greatest code for which `inputs` products with int8 fit 32 bits. At most 127 · 128, which is
/// two bytes of ±127 and a rest.
pub(super) fn levels(inputs: usize) -> f32 {
    (i32::MAX as usize / (127 * inputs)).min(127 * 128) as f32
}

/// What a row's values are multiplied by to be codes, and what a code then stands for.
#[inline(always)]
pub(super) fn row_scale(top: f32, levels: f32) -> (f32, f32) {
    if top > 0.0 { (levels / top, top / levels) } else { (0.0, 0.0) }
}

/// Added to a number below 2^15 in magnitude, leaves its nearest integer in the low bits.
pub(super) const ROUND: f32 = 12_582_912.0;

/// `rows × inputs` activations times int8 weights, `C` registers of columns at a time.
///
/// # Safety
/// As for [`Lanes`]. Lengths are checked here.
#[inline(always)]
pub(super) unsafe fn linear<D: Dots, const C: usize>(
    input: Input<'_, f32>,
    layer: &Linear<'_>,
    output: Output<'_, f32>,
    scratch: &mut [f32],
) {
    let w = &layer.weight;
    let n = w.n;
    let Values::Int8 { codes, scales } = w.values else {
        panic!("product: bf16 weights go another way")
    };
    assert!(input.data.len() >= (input.first + input.rows) * w.inputs, "product: input");
    assert!(w.is_whole(), "product: weights");
    assert!(layer.bias.is_none_or(|b| b.len() == n), "product: bias");
    assert!(n.is_multiple_of(32) && 32 % (C * D::L::N) == 0, "product: whole panels");
    assert!(scratch.len() * 4 >= codes_scratch(input.rows, w.inputs), "product: scratch");
    let len = match &output {
        Output::Store { data, .. } | Output::Gelu { data, .. } => data.len(),
        Output::Add(x) => x.len(),
    };
    assert!(len >= input.rows * n, "product: output is too short");
    let width = w.inputs.next_multiple_of(CODES_A_STEP);
    let (row_scales, rows) = scratch.split_at_mut(input.rows.next_multiple_of(16));
    let rows: &mut [i16] = bytemuck::cast_slice_mut(rows);
    let values = input.data[input.first * w.inputs..].chunks_exact(w.inputs);
    let levels = levels(w.inputs);
    for ((row, scale), values) in rows.chunks_exact_mut(width).zip(&mut *row_scales).zip(values) {
        *scale = quantize(values, levels, row);
    }
    let operands = Operands { rows, row_scales, codes, scales, layer, count: input.rows, width };
    // SAFETY: lengths were asserted, the rest is the caller's promise.
    unsafe {
        match output {
            Output::Store { data, .. } => operands.multiply::<D, _, C>(Store(data.as_mut_ptr(), n)),
            Output::Gelu { data, .. } => operands.multiply::<D, _, C>(Gelu(data.as_mut_ptr(), n)),
            Output::Add(x) => operands.multiply::<D, _, C>(Add(x.as_mut_ptr(), n)),
        }
    }
}

/// Codes of a row, zeros after its end; gives what a code of 1 stands for.
#[inline(always)]
fn quantize(values: &[f32], levels: f32, codes: &mut [i16]) -> f32 {
    // Magnitudes compare as their bits do.
    let top = values.iter().fold(0u32, |top, v| top.max(v.to_bits() & 0x7fff_ffff));
    let (factor, scale) = row_scale(f32::from_bits(top), levels);
    let (codes, rest) = codes.split_at_mut(values.len());
    for (code, v) in codes.iter_mut().zip(values) {
        *code = (v * factor + ROUND).to_bits() as i16;
    }
    rest.fill(0);
    scale
}

struct Operands<'a> {
    /// Codes of activations, `width` a row, and each row's scale.
    rows: &'a [i16],
    row_scales: &'a [f32],
    codes: &'a [i8],
    scales: &'a [f32],
    layer: &'a Linear<'a>,
    count: usize,
    width: usize,
}

impl Operands<'_> {
    #[inline(always)]
    unsafe fn multiply<D: Dots, F: Finish<D::L>, const C: usize>(&self, finish: F) {
        for col in (0..self.layer.weight.n).step_by(C * D::L::N) {
            let mut row = 0;
            while row < self.count {
                let left = self.count - row;
                // SAFETY: rows, columns and inputs lie inside all operands.
                unsafe {
                    row += if D::ROWS >= 6 && left >= 6 {
                        self.block::<D, F, 6, C>(row, col, finish)
                    } else if left >= 3 {
                        self.block::<D, F, 3, C>(row, col, finish)
                    } else {
                        self.block::<D, F, 1, C>(row, col, finish)
                    };
                }
            }
        }
    }

    /// `R` rows by `C` registers of columns, over all inputs. Returns `R`.
    #[inline(always)]
    unsafe fn block<D: Dots, F: Finish<D::L>, const R: usize, const C: usize>(
        &self,
        row: usize,
        col: usize,
        finish: F,
    ) -> usize {
        let w = &self.layer.weight;
        let lanes = D::L::N;
        // SAFETY: `multiply` keeps rows, columns and inputs inside the operands.
        unsafe {
            let panel = ((col / 32) * w.k + w.from) * 32;
            let x = self.rows.as_ptr().add(row * self.width);
            let mut sums = [[[D::zero(); 2]; C]; R];
            for quad in 0..self.width / 4 {
                let at = panel + (quad / 16) * 2048 + (quad % 16) * 64;
                for c in 0..C {
                    let within = col % 32 + c * lanes;
                    let at = self.codes.as_ptr().add(at + (within / 16) * 1024 + 4 * (within % 16));
                    let halves = [D::load(at), D::load(at.add(2 * lanes))];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = x.add(r * self.width + 4 * quad);
                        sums[c][0] = D::dot(sums[c][0], halves[0], x);
                        sums[c][1] = D::dot(sums[c][1], halves[1], x);
                    }
                }
            }
            for c in 0..C {
                let col = col + c * lanes;
                let bias = match self.layer.bias {
                    Some(bias) => D::L::load(bias.as_ptr().add(col)),
                    None => D::L::splat(0.0),
                };
                let scale = D::L::load(self.scales.as_ptr().add(col));
                for (r, sums) in sums.iter().enumerate() {
                    let scale = D::L::mul(scale, D::L::splat(self.row_scales[row + r]));
                    let v = D::fold(sums[c][0], sums[c][1]);
                    finish.put(row + r, col, D::L::mul_add(v, scale, bias));
                }
            }
        }
        R
    }
}

impl Dots for super::lanes::Portable {
    type L = Self;
    type I = [i32; 4];
    type W = [i8; 8];
    const ROWS: usize = 3;

    #[inline(always)]
    unsafe fn zero() -> [i32; 4] {
        [0; 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const i8) -> [i8; 8] {
        // SAFETY: the caller says that eight codes are readable.
        unsafe { p.cast::<[i8; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot(sum: [i32; 4], w: [i8; 8], x: *const i16) -> [i32; 4] {
        // SAFETY: the caller says that four codes are readable.
        let x = unsafe { x.cast::<[i16; 4]>().read_unaligned() };
        let product = |i: usize, j: usize| i32::from(w[i]) * i32::from(x[j]);
        let pair = |i: usize| product(2 * i, 2 * i % 4) + product(2 * i + 1, 2 * i % 4 + 1);
        std::array::from_fn(|i| sum[i].wrapping_add(pair(i)))
    }
    #[inline(always)]
    unsafe fn fold(low: [i32; 4], high: [i32; 4]) -> [f32; 4] {
        let output = |half: [i32; 4], i: usize| half[2 * i].wrapping_add(half[2 * i + 1]) as f32;
        [output(low, 0), output(low, 1), output(high, 0), output(high, 1)]
    }
}
