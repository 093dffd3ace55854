//! `distilface-train eval`: a model's scores on similarity and on search.
//!
//! Everything is computed by the encoder that serves queries, in the precision of the model's
//! manifest unless another is asked for, so that a score is one that users get.

use std::path::{Path, PathBuf};

use distilface_core::encoder::SentenceEncoder;
use distilface_core::model::Precision;
use serde_json::json;

use crate::embedder::{AlignedBlock, Embedder, Exact, read_model};
use crate::error::Error;
use crate::import::PrecisionArgument;

mod pairs;
mod retrieval;
pub mod statistics;
pub mod sts;

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
    let precision = arguments.precision.map(Precision::from);
    let (exact, block, encoder);
    let mut embedder = if precision == Some(Precision::F32) {
        exact = Exact::open(&arguments.model, arguments.threads)?;
        Embedder::exact(&exact)
    } else {
        block = AlignedBlock::new(&read_model(&arguments.model, precision)?);
        encoder = SentenceEncoder::from_packed(block.bytes())?;
        Embedder::new(&encoder, arguments.threads)
    };
    let manifest = embedder.manifest().clone();
    let computed = precision.unwrap_or(manifest.precision);
    println!(
        "{}, revision {}, {computed:?} on {}, cut at {} tokens",
        manifest.name,
        &manifest.revision[..12],
        embedder.kernel(),
        manifest.max_tokens
    );

    let mut report = json!({
        "model": manifest.name, "revision": manifest.revision,
        "precision": computed, "max_tokens": manifest.max_tokens,
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
