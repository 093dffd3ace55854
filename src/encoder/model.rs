//! The encoder from token ids to vectors.

use std::ops::Range;

use super::context::{Context, Desk, Done, Stop};
use super::forward::{Pass, row_bytes};
use super::kernels::Kernel;
use super::pool::l2_normalize;
use super::weights::Weights;
use super::{EncodeError, TokenBatch};
use crate::model::Pooling;

/// Whether vectors are scaled to length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalization {
    /// As pooled.
    None,
    /// To Euclidean length 1.
    L2,
}

/// Bytes of a thread's buffers that the number of tokens of a pass is chosen for, so that two
/// threads stay below 16 MB.
const SPACE: usize = 6 << 20;
/// Tokens below which a second thread does not pay for its start.
const WORTH_A_THREAD: usize = 64;

/// Weights and pooling; shared freely between threads.
#[derive(Clone, Copy)]
pub struct Encoder<'m> {
    weights: Weights<'m>,
    pooling: Pooling,
    normalization: Normalization,
    kernel: Kernel,
    second_text: Option<&'m [f32]>,
    token_weights: Option<&'m [f32]>,
}

impl<'m> Encoder<'m> {
    /// An encoder on the best kernel of this CPU.
    pub fn new(
        weights: Weights<'m>,
        pooling: Pooling,
        normalization: Normalization,
    ) -> Encoder<'m> {
        Encoder {
            weights,
            pooling,
            normalization,
            kernel: Kernel::best(),
            second_text: None,
            token_weights: None,
        }
    }

    /// The same on another kernel, if the CPU has it.
    pub fn with_kernel(self, kernel: Kernel) -> Option<Encoder<'m>> {
        kernel.is_available().then_some(Encoder { kernel, ..self })
    }

    /// The same, for pairs whose second text has this added to its embeddings.
    pub(crate) fn with_second_text(self, added: &'m [f32]) -> Encoder<'m> {
        Encoder { second_text: Some(added), ..self }
    }

    /// The same, its mean weighing each token by the weight of its id; there is one above 0 for
    /// every id, as [`check_token_weights`](crate::model::check_token_weights) asks.
    pub fn with_token_weights(self, weights: &'m [f32]) -> Encoder<'m> {
        assert_eq!(weights.len(), self.weights.vocab_size(), "a weight for every id");
        Encoder { token_weights: Some(weights), ..self }
    }

    /// What each id counts in the mean, where they do not count alike.
    pub fn token_weights(&self) -> Option<&'m [f32]> {
        self.token_weights
    }

    /// What it runs on.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// The weights' view.
    pub fn weights(&self) -> &Weights<'m> {
        &self.weights
    }

    /// The vectors of a batch, [`Weights::dimensions`] values for each text in order.
    ///
    /// # Errors
    /// [`EncodeError`] for an empty text, one of more than [`Weights::max_positions`] tokens, an id
    /// that the vocabulary does not have, or a cancel.
    pub fn encode(&self, batch: &TokenBatch, cx: &mut Context) -> Result<Vec<f32>, EncodeError> {
        for text in 0..batch.len() {
            let (most, rows) = (self.weights.max_positions(), self.weights.vocab_size());
            check_ids(text, batch.text(text), most, rows)?;
        }
        let lengths: Vec<usize> = (0..batch.len()).map(|t| batch.text(t).len()).collect();
        let units = self.plan(&lengths, cx);
        let asked = cx.max_batch_tokens();
        let encode = |unit: usize, desk: &mut Desk, stop: &mut Stop<'_>| {
            let mut out = Vec::new();
            self.run(batch, units[unit].clone(), asked, desk, &mut out, stop)?;
            let tokens = lengths[units[unit].clone()].iter().sum();
            Ok((out, Done { texts: units[unit].len(), tokens }))
        };
        let parts = cx.run(units.len(), encode, |&(_, done)| done)?;
        let vectors: Vec<Vec<f32>> = parts.into_iter().map(|(vectors, _)| vectors).collect();
        Ok(vectors.concat())
    }

    /// Groups texts of these lengths in tokens, known or guessed, into units: consecutive texts of
    /// about equal sums, as many as keep all threads busy.
    pub(crate) fn plan(&self, lengths: &[usize], cx: &Context) -> Vec<Range<usize>> {
        let total: usize = lengths.iter().sum();
        let mut units = total.div_ceil(self.pass_tokens(cx.max_batch_tokens()));
        if total >= WORTH_A_THREAD * cx.threads() {
            units = units.next_multiple_of(cx.threads());
        }
        group(lengths.iter().copied(), units, usize::MAX)
    }

    /// Encodes the texts `texts` of `batch`, checked before, in passes of about `asked` tokens at most,
    /// and appends their vectors to `out`.
    pub(crate) fn run(
        &self,
        batch: &TokenBatch,
        texts: Range<usize>,
        asked: usize,
        desk: &mut Desk,
        out: &mut Vec<f32>,
        stop: &mut Stop<'_>,
    ) -> Result<(), EncodeError> {
        let width = self.weights.dimensions();
        let planned = self.pass_tokens(asked);
        // A quarter more, so that a wrong guess of a length does not leave a rest; what is still more goes
        // in passes of about equal size, since each of them reads all weights.
        let most = planned * 5 / 4;
        let lengths = texts.clone().map(|t| batch.span(t).len());
        let tokens: usize = lengths.clone().sum();
        let passes = if tokens <= most { 1 } else { tokens.div_ceil(planned) };
        for part in group(lengths, passes, most) {
            let part = texts.start + part.start..texts.start + part.end;
            let at = out.len();
            out.resize(at + part.len() * width, 0.0);
            let pass = Pass {
                weights: &self.weights,
                pooling: self.pooling,
                token_weights: self.token_weights,
                kernel: self.kernel,
                second_text: self.second_text,
            };
            pass.run(batch, part, &mut desk.space, &mut out[at..], stop)
                .map_err(|_| EncodeError::Canceled)?;
        }
        if self.normalization == Normalization::L2 {
            out.chunks_exact_mut(width).for_each(l2_normalize);
        }
        Ok(())
    }

    /// Tokens of a pass: what is asked for, less where a token takes much space.
    fn pass_tokens(&self, asked: usize) -> usize {
        asked.min(SPACE / row_bytes(&self.weights)).max(32)
    }
}

/// Consecutive texts of these lengths in about as many groups, of about equal sums and of none above
/// `most` but a single text's.
fn group(
    lengths: impl Iterator<Item = usize> + Clone,
    groups: usize,
    most: usize,
) -> Vec<Range<usize>> {
    let target = lengths.clone().sum::<usize>().div_ceil(groups.max(1)).max(1);
    let mut plan: Vec<Range<usize>> = Vec::with_capacity(groups);
    let (mut before, mut held, mut last) = (0, 0, usize::MAX);
    for (text, len) in lengths.enumerate() {
        let place = (before + len / 2) / target;
        before += len;
        match plan.last_mut() {
            Some(range) if place == last && held + len <= most => {
                range.end = text + 1;
                held += len;
            }
            _ => {
                plan.push(text..text + 1);
                held = len;
            }
        }
        last = place;
    }
    plan
}

/// Whether a text of these ids can be encoded by a model of `most` positions and `rows` words.
pub(crate) fn check_ids(
    text: usize,
    ids: &[u32],
    most: usize,
    rows: usize,
) -> Result<(), EncodeError> {
    let got = ids.len();
    if got == 0 {
        return Err(EncodeError::Empty { text });
    }
    if got > most {
        return Err(EncodeError::TooLong { text, most, got });
    }
    match ids.iter().find(|&&id| id as usize >= rows) {
        Some(&id) => Err(EncodeError::UnknownToken { text, id, rows }),
        None => Ok(()),
    }
}
