//! Sentences to vectors: a packed model, its tokenizer and its encoder behind one call.

use super::context::{Context, Desk, Done, Stop};
use super::cross::{HeadWeights, pack_head};
use super::model::{Encoder, Normalization};
use super::weights::{Weights, pack_weights};
use super::{EncodeError, Kernel, TokenBatch};
use crate::model::{
    HEAD, MANIFEST, Manifest, ModelDir, ModelError, Packed, PackedWriter, TOKEN_WEIGHTS, Tensors,
    VOCABULARY, WEIGHTS, check_token_weights,
};
use crate::text::{Counted, Tokenizer};

/// A text's role in a search; picks the prompt that is put before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputKind {
    /// What is found.
    Passage,
    /// What is searched for.
    Query,
}

/// A packed model, ready to embed. Shared freely between threads; opening copies no weights.
pub struct SentenceEncoder<'m> {
    manifest: Manifest,
    tokenizer: Tokenizer<'m>,
    encoder: Encoder<'m>,
    head: Option<HeadWeights<'m>>,
}

/// The vectors of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// Vectors of the texts that are not blank, end to end.
    values: Vec<f32>,
    /// For each text the number of its vector in `values`.
    place: Vec<Option<usize>>,
    dimensions: usize,
    /// For each text whether it was longer than the model takes and was cut.
    cut: Vec<bool>,
    /// How many were.
    pub truncated: usize,
    /// Tokens that were computed.
    pub tokens: usize,
}

impl Embedded {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.place.len()
    }

    /// Whether there were no texts.
    pub fn is_empty(&self) -> bool {
        self.place.is_empty()
    }

    /// The vector of text `i`; none for a text without any token (empty, white space), which has
    /// no direction.
    ///
    /// # Panics
    /// If there is no text `i`.
    pub fn vector(&self, i: usize) -> Option<&[f32]> {
        self.place[i].map(|at| &self.values[at * self.dimensions..][..self.dimensions])
    }

    /// Whether text `i` was longer than the model takes and was cut.
    ///
    /// # Panics
    /// If there is no text `i`.
    pub fn is_cut(&self, i: usize) -> bool {
        self.cut[i]
    }

    /// All vectors in the texts' order.
    pub fn vectors(&self) -> impl ExactSizeIterator<Item = Option<&[f32]>> {
        (0..self.len()).map(|i| self.vector(i))
    }

    /// The parts of a call, end to end.
    fn of(parts: Vec<Part>, dimensions: usize) -> Embedded {
        let texts = parts.iter().map(|part| part.blank.len()).sum();
        let mut all = Embedded {
            values: Vec::with_capacity(texts * dimensions),
            place: Vec::with_capacity(texts),
            dimensions,
            cut: Vec::with_capacity(texts),
            truncated: 0,
            tokens: 0,
        };
        let mut next = 0;
        for part in parts {
            all.values.extend_from_slice(&part.values);
            all.truncated += part.cut.iter().filter(|&&cut| cut).count();
            all.cut.extend(part.cut);
            all.tokens += part.tokens;
            for blank in part.blank {
                all.place.push((!blank).then_some(next));
                next += usize::from(!blank);
            }
        }
        all
    }
}

impl<'m> SentenceEncoder<'m> {
    /// Opens a packed model in place; `bytes` lies at a multiple of 64.
    ///
    /// # Errors
    /// What [`Packed::open`], its sections and [`Weights::from_bytes`] say, and
    /// [`ModelError::Packed`] where the sections do not fit together.
    pub fn from_packed(bytes: &'m [u8]) -> Result<SentenceEncoder<'m>, ModelError> {
        let packed = Packed::open(bytes)?;
        let manifest = packed.manifest()?;
        let tokenizer = packed.tokenizer()?;
        let weights = Weights::from_bytes(packed.section(WEIGHTS)?)?;
        let bad = |expected, got| Err(ModelError::Packed { expected, got });
        if weights.config() != manifest.encoder {
            return bad("weights of the manifest's sizes", format!("{:?}", weights.config()));
        }
        if tokenizer.id_bound() > weights.vocab_size() {
            let got = format!("ids below {}", tokenizer.id_bound());
            return bad("a row for each token id", got);
        }
        let normalization =
            if manifest.normalize { Normalization::L2 } else { Normalization::None };
        let mut encoder = Encoder::new(weights, manifest.pooling, normalization);
        if manifest.token_weights {
            let values = packed.section(TOKEN_WEIGHTS)?;
            let Ok(values) = bytemuck::try_cast_slice(values) else {
                return bad("token weights of 4 bytes", format!("{} bytes", values.len()));
            };
            check_token_weights(values, manifest.encoder.vocab_size)?;
            encoder = encoder.with_token_weights(values);
        }
        let head = match manifest.head {
            None => None,
            Some(head) => {
                let values = packed.section(HEAD)?;
                Some(HeadWeights::from_bytes(head, manifest.encoder.hidden, values)?)
            }
        };
        if let Some(head) = &head {
            encoder = encoder.with_second_text(head.second_text());
        }
        Ok(SentenceEncoder { manifest, tokenizer, encoder, head })
    }

    /// Opens a packed model that a stranger made: the block is compared with its sha256 and every
    /// weight with infinity. Reads everything.
    ///
    /// # Errors
    /// As [`from_packed`](Self::from_packed), [`Packed::verify`] and [`Weights::check_finite`].
    pub fn verify_packed(bytes: &'m [u8]) -> Result<SentenceEncoder<'m>, ModelError> {
        Packed::open(bytes)?.verify()?;
        let model = SentenceEncoder::from_packed(bytes)?;
        model.encoder.weights().check_finite()?;
        if let Some(head) = &model.head {
            head.check_finite()?;
        }
        Ok(model)
    }

    /// The same on another kernel, if the CPU has it.
    pub fn with_kernel(self, kernel: Kernel) -> Option<SentenceEncoder<'m>> {
        Some(SentenceEncoder { encoder: self.encoder.with_kernel(kernel)?, ..self })
    }

    /// What the model is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer<'m> {
        &self.tokenizer
    }

    /// What scores pairs, in a cross-encoder.
    pub(super) fn head(&self) -> Option<&HeadWeights<'m>> {
        self.head.as_ref()
    }

    /// Its encoder, for callers that have ids.
    pub fn encoder(&self) -> &Encoder<'m> {
        &self.encoder
    }

    /// Embeds texts. A vector does not depend on the other texts, their order, or the threads.
    ///
    /// # Errors
    /// [`EncodeError::Canceled`] once the context's hook asks for it.
    pub fn embed(
        &self,
        texts: &[&str],
        input: InputKind,
        cx: &mut Context,
    ) -> Result<Embedded, EncodeError> {
        self.encode_with(texts, 0, cx, &|text, batch, part| self.tokenize(text, input, batch, part))
    }

    /// Embeds texts on another device, in groups of up to `max_batch_tokens` tokens with their padding.
    ///
    /// # Errors
    /// As [`Reference::encode`](super::Reference::encode).
    #[cfg(feature = "candle")]
    pub fn embed_on(
        &self,
        device: &super::Reference,
        texts: &[&str],
        input: InputKind,
        max_batch_tokens: usize,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Embedded, super::ReferenceError> {
        let (mut batch, mut part) = (TokenBatch::new(), Part::default());
        for text in texts {
            self.tokenize(text, input, &mut batch, &mut part);
        }
        part.tokens = batch.tokens();
        part.values = device.encode(&batch, max_batch_tokens, stop)?;
        Ok(Embedded::of(vec![part], self.manifest.dimensions))
    }

    /// Encodes what `tokenize` makes of each text, of about `more` bytes more than the text has.
    pub(super) fn encode_with(
        &self,
        texts: &[&str],
        more: usize,
        cx: &mut Context,
        tokenize: &(dyn Fn(&str, &mut TokenBatch, &mut Part) + Sync),
    ) -> Result<Embedded, EncodeError> {
        let most = self.manifest.max_tokens;
        // About four bytes a token: only the shares of threads and the size of passes hang on it.
        let guess: Vec<usize> =
            texts.iter().map(|t| ((t.len() + more) / 4 + 2).min(most)).collect();
        let units = self.encoder.plan(&guess, cx);
        let asked = cx.max_batch_tokens();
        let encode = |unit: usize, desk: &mut Desk, stop: &mut Stop<'_>| {
            let Desk { batch, .. } = desk;
            batch.clear();
            let mut part = Part::default();
            for (i, text) in texts[units[unit].clone()].iter().enumerate() {
                // A text is at most `most` tokens of reading, so that this is often enough.
                if i % 64 == 63 && stop() {
                    return Err(EncodeError::Canceled);
                }
                tokenize(text, batch, &mut part);
            }
            part.tokens = batch.tokens();
            let batch = std::mem::take(batch);
            let all = 0..batch.len();
            let result = self.encoder.run(&batch, all, asked, desk, &mut part.values, stop);
            desk.batch = batch;
            result.map(|()| part)
        };
        let count = |part: &Part| Done { texts: part.blank.len(), tokens: part.tokens };
        let parts = cx.run(units.len(), encode, count)?;
        Ok(Embedded::of(parts, self.manifest.dimensions))
    }

    /// Most tokens that a text may have to be read whole, `[CLS]` and `[SEP]` included: what the prompt
    /// leaves of the model's length.
    pub fn longest_text(&self, input: InputKind) -> usize {
        let prompt = match self.tokenizer.count(self.prompt(input), &mut || false) {
            Counted::Tokens(tokens) => usize::try_from(tokens).unwrap_or(usize::MAX),
            Counted::Interrupted => unreachable!("nothing asks it to stop"),
        };
        // An empty one counts [CLS] and [SEP] as well.
        self.manifest.max_tokens.saturating_sub(prompt - 2)
    }

    fn prompt(&self, input: InputKind) -> &str {
        match input {
            InputKind::Passage => &self.manifest.prompts.passage,
            InputKind::Query => &self.manifest.prompts.query,
        }
    }

    /// Appends a text's ids to the batch unless it is blank.
    fn tokenize(&self, text: &str, input: InputKind, batch: &mut TokenBatch, part: &mut Part) {
        let prompt = self.prompt(input);
        let blank = self.tokenizer.is_blank(text);
        part.blank.push(blank);
        if blank {
            part.cut.push(false);
            return;
        }
        let most = self.manifest.max_tokens;
        let encoded = batch.push_with(|ids| {
            if prompt.is_empty() {
                self.tokenizer.encode(text, most, ids)
            } else {
                self.tokenizer.encode(&format!("{prompt}{text}"), most, ids)
            }
        });
        part.cut.push(encoded.truncated);
    }
}

/// What comes of one unit of texts.
#[derive(Default)]
pub(super) struct Part {
    values: Vec<f32>,
    pub(super) blank: Vec<bool>,
    pub(super) cut: Vec<bool>,
    tokens: usize,
}

/// Packs a model directory into the one block that [`SentenceEncoder::from_packed`] opens.
///
/// # Errors
/// What the directory's tensors and vocabulary say, and [`ModelError::Unsupported`] for a precision
/// that cannot be packed.
pub fn pack_model(directory: &ModelDir) -> Result<Vec<u8>, ModelError> {
    pack_model_with(directory, directory)
}

/// The same with the directory's tensors seen through `tensors`, which may stop the packing by an
/// error of its own, or watch it.
///
/// # Errors
/// As [`pack_model`], and what `tensors` says.
pub fn pack_model_with(directory: &ModelDir, tensors: &dyn Tensors) -> Result<Vec<u8>, ModelError> {
    let manifest = directory.manifest();
    let mut writer = PackedWriter::new();
    writer.section(MANIFEST, manifest.to_json());
    writer.section(VOCABULARY, directory.vocab_blob()?);
    let weights = pack_weights(&manifest.encoder, tensors, manifest.precision)?;
    writer.section(WEIGHTS, weights);
    if let Some(weights) = directory.token_weights() {
        writer.section(TOKEN_WEIGHTS, bytemuck::cast_slice(weights).to_vec());
    }
    if manifest.head.is_some() {
        writer.section(HEAD, pack_head(manifest.encoder.hidden, tensors)?);
    }
    Ok(writer.finish())
}
