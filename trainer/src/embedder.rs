//! A packed model at work on many texts.

use std::collections::HashMap;
use std::path::Path;

use distilface_core::encoder::{Context, InputKind, SentenceEncoder, pack_model};
use distilface_core::model::{ModelDir, Precision};

use crate::PACKED_FILE;
use crate::error::Error;

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

/// The encoder with what it has been used for.
pub struct Embedder<'e, 'm> {
    encoder: &'e SentenceEncoder<'m>,
    context: Context,
    /// Texts that were cut.
    pub truncated: usize,
    /// Tokens that were computed.
    pub tokens: usize,
}

/// Texts in a call, between two progress lines.
const CHUNK: usize = 2_048;

impl<'e, 'm> Embedder<'e, 'm> {
    /// With that many threads, or as many as there are cores.
    pub fn new(encoder: &'e SentenceEncoder<'m>, threads: Option<usize>) -> Embedder<'e, 'm> {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let context = Context::new(threads.unwrap_or(all).max(1));
        Embedder { encoder, context, truncated: 0, tokens: 0 }
    }

    /// Vectors of length 1, one a text; zeros for a blank one, whose similarity to all is 0.
    pub fn embed(&mut self, what: &str, texts: &[&str], kind: InputKind) -> Result<Vectors, Error> {
        let dimensions = self.encoder.manifest().dimensions;
        let mut values = Vec::with_capacity(texts.len() * dimensions);
        let mut done = 0;
        for chunk in texts.chunks(CHUNK) {
            let embedded = self.encoder.embed(chunk, kind, &mut self.context)?;
            self.truncated += embedded.truncated;
            self.tokens += embedded.tokens;
            for vector in embedded.vectors() {
                let start = values.len();
                match vector {
                    Some(vector) => values.extend_from_slice(vector),
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
