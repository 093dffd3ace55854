//! `distilface-train eval`: a model's scores on similarity and on search.
//!
//! Everything is computed by the encoder that serves queries, in the precision of the model's
//! manifest unless another is asked for, so that a score is one that users get.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use distilface_core::encoder::{Context, InputKind, SentenceEncoder, pack_model};
use distilface_core::model::{ModelDir, Precision};
use serde_json::json;

use crate::PACKED_FILE;
use crate::error::Error;
use crate::import::PrecisionArgument;

mod pairs;
mod retrieval;
mod statistics;
mod sts;

#[derive(clap::Args)]
pub struct Arguments {
    /// A model directory, or a packed model
    model: PathBuf,
    /// STS12 to STS16, STS-B and SICK-R: task, subset, split, score, sentence1, sentence2 (TSV, .gz)
    #[arg(long, value_name = "FILE")]
    sts: Option<PathBuf>,
    /// A retrieval set in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/test.tsv; repeatable
    #[arg(long, value_name = "DIR")]
    retrieval: Vec<PathBuf>,
    /// Your own scored pairs: sentence1, sentence2, score (TSV, .gz)
    #[arg(long, value_name = "FILE")]
    pairs: Vec<PathBuf>,
    /// Your own triplets: anchor, positive, negative (TSV, .gz)
    #[arg(long, value_name = "FILE")]
    triplets: Vec<PathBuf>,
    /// Compute with this instead of what the manifest says; needs a model directory
    #[arg(long, value_enum)]
    precision: Option<PrecisionArgument>,
    /// Threads [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// Write the scores to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(arguments: Arguments) -> Result<(), Error> {
    if arguments.sts.is_none()
        && [&arguments.retrieval, &arguments.pairs, &arguments.triplets]
            .iter()
            .all(|l| l.is_empty())
    {
        return Err(Error::missing(
            Path::new("command line"),
            "--sts, --retrieval, --pairs or --triplets",
        ));
    }
    let block = AlignedBlock::new(&read_model(&arguments.model, arguments.precision)?);
    let encoder = SentenceEncoder::from_packed(block.bytes())?;
    let manifest = encoder.manifest();
    println!(
        "{}, revision {}, {:?} on {:?}, cut at {} tokens",
        manifest.name,
        &manifest.revision[..12],
        manifest.precision,
        encoder.encoder().kernel(),
        manifest.max_tokens
    );
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let context = Context::new(arguments.threads.unwrap_or(all).max(1));
    let mut embedder = Embedder { encoder: &encoder, context, truncated: 0, tokens: 0 };

    let mut report = json!({
        "model": manifest.name, "revision": manifest.revision,
        "precision": manifest.precision, "max_tokens": manifest.max_tokens,
    });
    if let Some(path) = &arguments.sts {
        report["sts"] = sts::evaluate(path, &mut embedder)?;
    }
    for path in &arguments.retrieval {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let scores = retrieval::evaluate(path, &mut embedder)?;
        report["retrieval"][name.unwrap_or_default()] = scores;
    }
    for path in &arguments.pairs {
        report["pairs"][path.display().to_string()] = pairs::scored(path, &mut embedder)?;
    }
    for path in &arguments.triplets {
        report["triplets"][path.display().to_string()] = pairs::triplets(path, &mut embedder)?;
    }
    println!("{} tokens embedded, {} texts were cut", embedder.tokens, embedder.truncated);
    if let Some(path) = &arguments.json {
        let text = format!("{report:#}\n");
        std::fs::write(path, text).map_err(|source| Error::io(path, source))?;
    }
    Ok(())
}

/// The packed model of a directory or a file.
fn read_model(path: &Path, precision: Option<PrecisionArgument>) -> Result<Vec<u8>, Error> {
    let packed = if path.is_dir() { path.join(PACKED_FILE) } else { path.to_owned() };
    if path.is_dir() && (precision.is_some() || !packed.exists()) {
        let mut directory = ModelDir::open(path)?;
        if let Some(precision) = precision {
            directory = directory.with_precision(Precision::from(precision));
        }
        return Ok(pack_model(&directory)?);
    }
    if precision.is_some() {
        return Err(Error::missing(path, "a model directory, which --precision packs anew"));
    }
    std::fs::read(&packed).map_err(|source| Error::io(&packed, source))
}

/// A packed model at the alignment that its reader asks for.
struct AlignedBlock {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBlock {
    const ALIGN: usize = distilface_core::model::SECTION_ALIGN;

    fn new(block: &[u8]) -> AlignedBlock {
        let mut bytes = vec![0; block.len() + AlignedBlock::ALIGN];
        let start = bytes.as_ptr().align_offset(AlignedBlock::ALIGN);
        bytes[start..start + block.len()].copy_from_slice(block);
        AlignedBlock { bytes, start, len: block.len() }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

/// The encoder with what it has been used for.
struct Embedder<'e, 'm> {
    encoder: &'e SentenceEncoder<'m>,
    context: Context,
    truncated: usize,
    tokens: usize,
}

/// Texts in a call, between two progress lines.
const CHUNK: usize = 2_048;

impl Embedder<'_, '_> {
    /// Vectors of length 1, one a text; zeros for a blank one, whose similarity to all is 0.
    fn embed(&mut self, what: &str, texts: &[&str], kind: InputKind) -> Result<Vectors, Error> {
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
    fn embed_distinct(&mut self, what: &str, texts: &[&str]) -> Result<Vectors, Error> {
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
struct Vectors {
    values: Vec<f32>,
    dimensions: usize,
}

impl Vectors {
    fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dimensions..(i + 1) * self.dimensions]
    }

    fn len(&self) -> usize {
        self.values.len() / self.dimensions
    }
}

fn normalize(vector: &mut [f32]) {
    let norm = dot(vector, vector).sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
    }
}

/// In double precision: rank correlations hang on close values.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The lines of a text file, plain or gzip, with their numbers from 1.
fn lines(path: &Path) -> Result<impl Iterator<Item = Result<(usize, String), Error>>, Error> {
    let file = File::open(path).map_err(|source| Error::io(path, source))?;
    let reader: Box<dyn BufRead> = match path.extension() {
        Some(extension) if extension == "gz" => {
            Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file)))
        }
        _ => Box::new(BufReader::new(file)),
    };
    let path = path.to_owned();
    Ok(reader.lines().enumerate().map(move |(at, line)| {
        line.map(|line| (at + 1, line)).map_err(|source| Error::io(&path, source))
    }))
}
