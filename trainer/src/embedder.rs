//! A packed model at work on many texts.

use std::collections::HashMap;
use std::path::Path;

use distilface_core::encoder::{Context, InputKind, SentenceEncoder, pack_model};
use distilface_core::model::{Manifest, ModelDir, PACKED_FILE, Precision};
use distilface_core::text::Tokenizer;
use distilface_core::training::Products;

use crate::error::Error;
use crate::net::Network;
use crate::train::engine::Engine;

/// The packed model of a directory or a file.
pub fn read_model(path: &Path, precision: Option<Precision>) -> Result<Vec<u8>, Error> {
    let packed = if path.is_dir() { path.join(PACKED_FILE) } else { path.to_owned() };
    if path.is_dir() && (precision.is_some() || !packed.exists()) {
        let mut directory = ModelDir::open(path)?;
        if let Some(precision) = precision {
            directory = directory.with_precision(precision);
        }
        return Ok(pack_model(&directory)?);
    }
    if precision.is_some() {
        return Err(Error::missing(path, "a model directory, which --precision packs anew"));
    }
    std::fs::read(&packed).map_err(|source| Error::io(&packed, source))
}

/// A packed model at the alignment that its reader asks for.
pub struct AlignedBlock {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBlock {
    const ALIGN: usize = distilface_core::model::SECTION_ALIGN;

    pub fn new(block: &[u8]) -> AlignedBlock {
        let mut bytes = vec![0; block.len() + AlignedBlock::ALIGN];
        let start = bytes.as_ptr().align_offset(AlignedBlock::ALIGN);
        bytes[start..start + block.len()].copy_from_slice(block);
        AlignedBlock { bytes, start, len: block.len() }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

/// A model directory computed in f32 throughout, by the trainer's own network: what packed forms,
/// which are bf16 or int8, are compared with.
pub struct Exact {
    manifest: Manifest,
    vocabulary: Vec<u8>,
    network: Network,
    engine: Engine,
}

/// Tokens of one pass of one thread in f32.
const PASS_TOKENS: usize = 512;

impl Exact {
    /// Opens a directory; with that many threads, or as many as there are cores.
    ///
    /// # Errors
    /// Where it is no model directory.
    pub fn open(path: &Path, threads: Option<usize>) -> Result<Exact, Error> {
        let directory = ModelDir::open(path)?;
        let manifest = directory.manifest().clone();
        let network = Network::new(&directory, None, Products::F32)?;
        let engine = Engine::new(threads_or_all(threads), PASS_TOKENS, 0);
        Ok(Exact { vocabulary: directory.vocab_blob()?, manifest, network, engine })
    }
}

fn threads_or_all(threads: Option<usize>) -> usize {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    threads.unwrap_or(all).max(1)
}

/// A model with what it has been used for.
pub struct Embedder<'e, 'm> {
    form: Form<'e, 'm>,
    /// Texts that were cut.
    pub truncated: usize,
    /// Tokens that were computed.
    pub tokens: usize,
}

enum Form<'e, 'm> {
    Packed(&'e SentenceEncoder<'m>, Context),
    Exact(&'e Exact),
}

/// Texts in a call, between two progress lines.
const CHUNK: usize = 2_048;

impl<'e, 'm> Embedder<'e, 'm> {
    /// With that many threads, or as many as there are cores.
    pub fn new(encoder: &'e SentenceEncoder<'m>, threads: Option<usize>) -> Embedder<'e, 'm> {
        let context = Context::new(threads_or_all(threads));
        Embedder { form: Form::Packed(encoder, context), truncated: 0, tokens: 0 }
    }

    /// In f32.
    pub fn exact(exact: &'e Exact) -> Embedder<'e, 'm> {
        Embedder { form: Form::Exact(exact), truncated: 0, tokens: 0 }
    }

    pub fn manifest(&self) -> &Manifest {
        match &self.form {
            Form::Packed(encoder, _) => encoder.manifest(),
            Form::Exact(exact) => &exact.manifest,
        }
    }

    /// What it is computed with.
    pub fn kernel(&self) -> String {
        match &self.form {
            Form::Packed(encoder, _) => format!("{:?}", encoder.encoder().kernel()),
            Form::Exact(_) => "the trainer's f32 products".to_owned(),
        }
    }

    /// Vectors as the model gives them; none for a blank text.
    pub fn vectors(
        &mut self,
        texts: &[&str],
        kind: InputKind,
    ) -> Result<Vec<Option<Vec<f32>>>, Error> {
        match &mut self.form {
            Form::Packed(encoder, context) => {
                let embedded = encoder.embed(texts, kind, context)?;
                self.truncated += embedded.truncated;
                self.tokens += embedded.tokens;
                Ok(embedded.vectors().map(|vector| vector.map(<[f32]>::to_vec)).collect())
            }
            Form::Exact(exact) => {
                let manifest = &exact.manifest;
                let tokenizer = Tokenizer::view(&exact.vocabulary);
                let tokenizer = tokenizer.map_err(|error| Error::Model(error.into()))?;
                let prompt = match kind {
                    InputKind::Passage => &manifest.prompts.passage,
                    InputKind::Query => &manifest.prompts.query,
                };
                let mut ids = Vec::new();
                for text in texts.iter().filter(|text| !tokenizer.is_blank(text)) {
                    let mut own = Vec::new();
                    let text = format!("{prompt}{text}");
                    let encoded = tokenizer.encode(&text, manifest.max_tokens, &mut own);
                    self.truncated += usize::from(encoded.truncated);
                    self.tokens += own.len();
                    ids.push(own);
                }
                let values = exact.engine.vectors(&exact.network, &ids);
                let mut rows = values.chunks_exact(manifest.dimensions).map(|row| {
                    let mut row = row.to_vec();
                    if manifest.normalize {
                        normalize(&mut row);
                    }
                    row
                });
                let vector =
                    |text: &&str| if tokenizer.is_blank(text) { None } else { rows.next() };
                Ok(texts.iter().map(vector).collect())
            }
        }
    }

    /// Vectors of length 1, one a text; zeros for a blank one, whose similarity to all is 0.
    pub fn embed(&mut self, what: &str, texts: &[&str], kind: InputKind) -> Result<Vectors, Error> {
        let dimensions = self.manifest().dimensions;
        let mut values = Vec::with_capacity(texts.len() * dimensions);
        let mut done = 0;
        for chunk in texts.chunks(CHUNK) {
            for vector in self.vectors(chunk, kind)? {
                let start = values.len();
                match vector {
                    Some(vector) => values.extend_from_slice(&vector),
                    None => values.resize(start + dimensions, 0.0),
                }
                normalize(&mut values[start..]);
            }
            done += chunk.len();
            eprint!("\r{what}: {done} of {} texts", texts.len());
        }
        eprintln!();
        Ok(Vectors { values, dimensions })
    }

    /// The same, each text that stands more than once embedded once.
    pub fn embed_distinct(&mut self, what: &str, texts: &[&str]) -> Result<Vectors, Error> {
        let mut place = HashMap::new();
        let mut distinct = Vec::new();
        for text in texts {
            place.entry(*text).or_insert_with(|| {
                distinct.push(*text);
                distinct.len() - 1
            });
        }
        let vectors = self.embed(what, &distinct, InputKind::Passage)?;
        let dimensions = vectors.dimensions;
        let values = texts.iter().flat_map(|text| vectors.row(place[text]).iter().copied());
        Ok(Vectors { values: values.collect(), dimensions })
    }
}

/// Vectors end to end.
pub struct Vectors {
    pub values: Vec<f32>,
    pub dimensions: usize,
}

impl Vectors {
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dimensions..(i + 1) * self.dimensions]
    }

    pub fn len(&self) -> usize {
        self.values.len() / self.dimensions
    }
}

pub fn normalize(vector: &mut [f32]) {
    let norm = dot(vector, vector).sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
    }
}

/// In double precision: rank correlations hang on close values.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
