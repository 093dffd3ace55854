//! The forward pass of a batch of whole texts on one thread.
//!
//! Rows are the texts' tokens end to end. Per layer: Q, K and V in one product; attention text by
//! text; the output projection added to the residual; layer norm; the feed-forward in slices of
//! rows and of inner columns, so that its activations stay in the second cache and each weight is
//! read once a slice of rows; layer norm. The residual is f32 throughout, activations are what the
//! kernel works with. Every stage treats rows (attention: texts) one by one in an order of its own,
//! so that a vector is the same bits in any company.

use super::batch::TokenBatch;
use super::kernels::{self, Input, Kernel, Output, Stages};
use super::pool::Pool;
use super::weights::Weights;
use crate::model::Pooling;
use std::ops::Range;

/// Columns of the feed-forward's inner layer that are kept at a time.
const INNER: usize = 512;
/// Bytes of residual, activations and inner columns that go through the feed-forward together.
/// More than a second cache of 2 MB: the residual passes through once a slice of inner columns, while
/// half the rows would read all weights twice.
const FEED_FORWARD: usize = 3000 << 10;

/// Why a pass ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

/// What a pass computes with and for.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub weights: &'a Weights<'a>,
    pub pooling: Pooling,
    /// What each id counts in the mean, where they do not count alike.
    pub token_weights: Option<&'a [f32]>,
    pub kernel: Kernel,
    /// Added to the embeddings of a pair's second text.
    pub second_text: Option<&'a [f32]>,
}

impl Pass<'_> {
    /// Computes the pooled vectors of the texts `texts` of `batch`, `dimensions` values each, not
    /// normalized, to `out` in their order. `stop` is asked between stages, every millisecond or
    /// so.
    ///
    /// Every text has 1 to `max_positions` ids below `vocab_size`; the caller has checked them.
    pub(crate) fn run(
        &self,
        batch: &TokenBatch,
        texts: Range<usize>,
        space: &mut Workspace,
        out: &mut [f32],
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<(), Stopped> {
        match self.kernel {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kernel::AmxBf16 => self.run_on(kernels::Amx::enter(), batch, texts, space, out, stop),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => self.run_on(kernels::Avx512::enter(), batch, texts, space, out, stop),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => self.run_on(kernels::Avx2::enter(), batch, texts, space, out, stop),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => self.run_on(kernels::Neon::enter(), batch, texts, space, out, stop),
            #[allow(unreachable_patterns)] // Which kernels remain depends on the target.
            _ => self.run_on(kernels::Portable::enter(), batch, texts, space, out, stop),
        }
    }

    fn run_on<S: Stages>(
        &self,
        stages: S,
        batch: &TokenBatch,
        texts: Range<usize>,
        space: &mut Workspace,
        out: &mut [f32],
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<(), Stopped> {
        let d = self.weights.dims();
        let rows: usize = texts.clone().map(|t| batch.text(t).len()).sum();
        let longest = texts.clone().map(|t| batch.text(t).len()).max().unwrap_or(0);
        assert_eq!(out.len(), texts.len() * d.hidden, "one vector for each text");
        let width = d.hidden_padded;
        let stride = S::stride(rows);
        let inner_width = d.inner_padded.min(INNER);
        let most = (FEED_FORWARD / (6 * width + 2 * inner_width)).max(32);
        let inner_rows = rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(32);
        let inner_stride = S::stride(inner_rows);
        let x = slice::<f32>(&mut space.residual, rows * width);
        let act = slice::<S::Act>(&mut space.act, stride * width.max(d.context()));
        let qkv = slice::<S::Act>(&mut space.qkv, stride * d.qkv());
        let inner = slice::<S::Act>(&mut space.inner, inner_stride * inner_width);
        let most_inputs = width.max(d.context()).max(inner_width);
        let product_scratch = self.weights.product_scratch(rows, most_inputs);
        let scratch = S::attention_scratch(d, longest).max(product_scratch) / 4;
        let scratch = slice::<f32>(&mut space.scratch, scratch);
        let mut check = || if stop() { Err(Stopped) } else { Ok(()) };

        let embeddings = self.weights.embeddings();
        let mut row = 0;
        for t in texts.clone() {
            let ids = batch.text(t);
            stages.embed(&embeddings, ids, &mut x[row * width..][..ids.len() * width]);
            if let (Some(second), Some(added)) = (batch.second(t), self.second_text) {
                let rows = &mut x[(row + second) * width..(row + ids.len()) * width];
                for state in rows.chunks_exact_mut(width) {
                    state.iter_mut().zip(added).for_each(|(x, added)| *x += added);
                }
            }
            row += ids.len();
        }
        stages.layer_norm(x, &embeddings.norm, d, act, stride);
        let lengths = texts.clone().map(|t| batch.text(t).len());
        let ids = texts.clone().map(|t| batch.text(t));
        let mut pool = Pool::new(self.pooling, self.token_weights, d, out);
        pool.add(0, x, ids.clone());

        for index in 0..d.layers {
            check()?;
            let layer = self.weights.layer(index);
            let input = Input { data: &*act, stride, first: 0, rows };
            stages.linear(input, &layer.qkv, Output::Store { data: qkv, stride }, scratch);
            check()?;
            let mut start = 0;
            for len in lengths.clone() {
                stages.attention(qkv, stride, start..start + len, d, act, scratch);
                start += len;
            }
            check()?;
            let input = Input { data: &*act, stride, first: 0, rows };
            stages.linear(input, &layer.out, Output::Add(x), scratch);
            stages.layer_norm(x, &layer.attention_norm, d, act, stride);
            for first in (0..rows).step_by(inner_rows) {
                let rows = inner_rows.min(rows - first);
                for start in (0..d.inner_padded).step_by(INNER) {
                    check()?;
                    let part = start..d.inner_padded.min(start + INNER);
                    let input = Input { data: &*act, stride, first, rows };
                    let up = Output::Gelu { data: &mut *inner, stride: inner_stride };
                    stages.linear(input, &layer.up.outputs(part.clone()), up, scratch);
                    let input = Input { data: &*inner, stride: inner_stride, first: 0, rows };
                    let residual = &mut x[first * width..][..rows * width];
                    let down = Output::Add(residual);
                    stages.linear(input, &layer.down.inputs(part), down, scratch);
                }
            }
            stages.layer_norm(x, &layer.output_norm, d, act, stride);
            pool.add(index + 1, x, ids.clone());
        }
        Ok(())
    }
}

/// Bytes of buffers that a row takes, the inner layer apart, with f32 residual and bf16 activations.
pub(crate) fn row_bytes(weights: &Weights<'_>) -> usize {
    let d = weights.dims();
    let widest = d.hidden_padded.max(d.context());
    4 * d.hidden_padded + 2 * widest + 2 * d.qkv() + weights.product_scratch(16, widest) / 16
}

/// The buffers of a pass, kept between passes and grown to the largest.
#[derive(Default)]
pub(crate) struct Workspace {
    residual: Vec<Line>,
    act: Vec<Line>,
    qkv: Vec<Line>,
    inner: Vec<Line>,
    scratch: Vec<Line>,
}

impl Workspace {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let buffers = [&self.residual, &self.act, &self.qkv, &self.inner, &self.scratch];
        buffers.iter().map(|b| b.capacity() * size_of::<Line>()).sum()
    }
}

/// A cache line, for the alignment.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// The first `len` values of a buffer, which grows if it must. Values are what was there before.
fn slice<T: bytemuck::Pod>(buffer: &mut Vec<Line>, len: usize) -> &mut [T] {
    let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
    if buffer.len() < lines {
        buffer.reserve_exact(lines - buffer.len());
        buffer.resize(lines, Line([0; 64]));
    }
    &mut bytemuck::cast_slice_mut(buffer)[..len]
}
