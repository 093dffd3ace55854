//! Cross-encoders: a query and a document read together and given one score.
//!
//! The pair `[CLS] query [SEP] document [SEP]` goes through the encoder, where BERT adds another row
//! to the second text's tokens; the state of `[CLS]` goes through a dense layer, an activation and
//! one output (Nogueira and Cho 2019, "Passage re-ranking with BERT"). A pair that is too long loses
//! tokens from the end of the longer text, as Hugging Face's `longest_first` does it.

use super::sentence::Part;
use super::{Context, EncodeError, SentenceEncoder, TokenBatch};
use crate::model::{Head, HeadActivation, ModelError, Score, Tensors, head_tensors};

/// A head's layers, read in place: `head_tensors` end to end.
pub(super) struct HeadWeights<'m> {
    head: Head,
    hidden: usize,
    values: &'m [f32],
}

/// Why pairs have no scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// The model is a sentence encoder.
    #[error("expected a cross-encoder, got a sentence encoder")]
    NoHead,
    /// The context's hook asked to stop.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// The scores of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// One for each document, higher being better; none where query or document is blank.
    pub scores: Vec<Option<f32>>,
    /// Pairs that were longer than the model takes and were cut.
    pub truncated: usize,
}

impl SentenceEncoder<'_> {
    /// Scores documents against a query. A score does not depend on the other documents.
    ///
    /// # Errors
    /// [`ScoreError::NoHead`], and [`EncodeError::Canceled`] once the context's hook asks for it.
    pub fn score(
        &self,
        query: &str,
        documents: &[&str],
        cx: &mut Context,
    ) -> Result<Scored, ScoreError> {
        let head = self.head().ok_or(ScoreError::NoHead)?;
        if self.tokenizer().is_blank(query) {
            return Ok(Scored { scores: vec![None; documents.len()], truncated: 0 });
        }
        let mut first = Vec::new();
        self.tokenizer().encode(query, self.manifest().max_tokens, &mut first);
        let pairs = self.encode_with(documents, query.len(), cx, &|document, batch, part| {
            self.tokenize_pair(&first, document, batch, part);
        })?;
        let scores = pairs.vectors().map(|state| state.map(|state| head.score(state)));
        Ok(Scored { scores: scores.collect(), truncated: pairs.truncated })
    }

    /// Appends a pair's ids to the batch unless the document is blank; `first` is the query with its
    /// markers.
    fn tokenize_pair(
        &self,
        first: &[u32],
        document: &str,
        batch: &mut TokenBatch,
        part: &mut Part,
    ) {
        let blank = self.tokenizer().is_blank(document);
        part.blank.push(blank);
        if blank {
            part.cut.push(false);
            return;
        }
        let most = self.manifest().max_tokens;
        let mut second = Vec::new();
        // One token more than there is room for tells a text that is cut from one that fits.
        let cut = self.tokenizer().encode(document, most, &mut second).truncated;
        let (query, document) = (&first[1..first.len() - 1], &second[1..second.len() - 1]);
        let (q, d) = longest_first(query.len(), document.len(), most.saturating_sub(3));
        part.cut.push(cut || (q, d) != (query.len(), document.len()));
        let (cls, sep) = (first[0], first[first.len() - 1]);
        let ids = [&[cls], &query[..q], &[sep], &document[..d], &[sep]];
        batch.push_pair(ids.into_iter().flatten().copied(), q + 2);
    }
}

/// Lengths that two texts are cut to, so that they fit into `room` together.
fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    // The shorter one stays whole where the longer one can make up for it.
    let half = room / 2;
    match first <= second {
        true if first <= half => (first, room - first),
        true => (half, room - half),
        false if second <= half => (room - second, second),
        false => (room - half, half),
    }
}

impl<'m> HeadWeights<'m> {
    pub(super) fn from_bytes(
        head: Head,
        hidden: usize,
        bytes: &'m [u8],
    ) -> Result<HeadWeights<'m>, ModelError> {
        let expected: usize =
            head_tensors(hidden).iter().map(|t| t.1.iter().product::<usize>()).sum();
        match bytemuck::try_cast_slice(bytes) {
            Ok(values) if values.len() == expected => Ok(HeadWeights { head, hidden, values }),
            _ => Err(ModelError::Packed {
                expected: "a head of the manifest's width",
                got: format!("{} bytes, not {}", bytes.len(), 4 * expected),
            }),
        }
    }

    pub(super) fn check_finite(&self) -> Result<(), ModelError> {
        match self.values.iter().all(|value| value.is_finite()) {
            true => Ok(()),
            false => Err(ModelError::Packed {
                expected: "finite weights",
                got: "NaN or infinity in the head".to_owned(),
            }),
        }
    }

    /// What is added to the embeddings of a pair's second text.
    pub(super) fn second_text(&self) -> &'m [f32] {
        &self.values[self.values.len() - self.hidden..]
    }

    fn score(&self, state: &[f32]) -> f32 {
        let n = self.hidden;
        let (dense, rest) = self.values.split_at(n * n);
        let (bias, rest) = rest.split_at(n);
        let (out, rest) = rest.split_at(n);
        let mut logit = rest[0];
        for ((row, bias), out) in dense.chunks_exact(n).zip(bias).zip(out) {
            let inner = bias + dot(row, state);
            logit += out
                * match self.head.activation {
                    HeadActivation::Tanh => inner.tanh(),
                    HeadActivation::Relu => inner.max(0.0),
                };
        }
        match self.head.score {
            Score::Logit => logit,
            Score::Sigmoid => 1.0 / (1.0 + (-logit).exp()),
        }
    }
}

/// In lanes, so that the compiler can use vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let (left, right) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in left.zip(right) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// The packed form's `HEAD` section.
pub(super) fn pack_head(hidden: usize, tensors: &dyn Tensors) -> Result<Vec<u8>, ModelError> {
    let mut bytes = Vec::new();
    for (name, shape) in head_tensors(hidden) {
        let values = tensors.tensor(name, &shape)?;
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the rule that Hugging Face states: one token at a time off the longer text.
    #[test]
    fn the_longer_text_loses_tokens_first() {
        for room in 1..12 {
            for first in 0..20 {
                for second in 0..20 {
                    let (q, d) = longest_first(first, second, room);
                    assert!(q <= first && d <= second, "{first} {second} {room}");
                    assert_eq!(q + d, room.min(first + second), "{first} {second} {room}");
                    let balanced =
                        q.abs_diff(d) <= 1 || q == first && q < d || d == second && d < q;
                    assert!(balanced || first + second <= room, "{first} {second} {room}");
                }
            }
        }
    }
}
