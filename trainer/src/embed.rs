//! `distilface-train embed`: vectors of lines, to look at or to pipe.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use distilface_core::encoder::{InputKind, SentenceEncoder};
use distilface_core::model::Precision;

use crate::embedder::{AlignedBlock, Embedder, Exact, read_model};
use crate::error::Error;
use crate::import::PrecisionArgument;

#[derive(clap::Args)]
pub struct Arguments {
    /// A model directory, or a packed model
    model: PathBuf,
    /// Put the query prompt before each line, not the passage prompt
    #[arg(long)]
    query: bool,
    /// Compute with this instead of what the manifest says; needs a model directory
    #[arg(long, value_enum)]
    precision: Option<PrecisionArgument>,
}

/// Lines that are embedded together.
const BATCH: usize = 256;

pub fn run(arguments: Arguments) -> Result<(), Error> {
    let precision = arguments.precision.map(Precision::from);
    let (exact, block, encoder);
    let mut embedder = if precision == Some(Precision::F32) {
        exact = Exact::open(&arguments.model, None)?;
        Embedder::exact(&exact)
    } else {
        block = AlignedBlock::new(&read_model(&arguments.model, precision)?);
        encoder = SentenceEncoder::from_packed(block.bytes())?;
        Embedder::new(&encoder, None)
    };
    let kind = if arguments.query { InputKind::Query } else { InputKind::Passage };
    let stdin = |source| Error::io(Path::new("standard input"), source);
    let stdout = |source| Error::io(Path::new("standard output"), source);
    let mut out = std::io::stdout().lock();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        let batch: Vec<String> =
            lines.by_ref().take(BATCH).collect::<Result<_, _>>().map_err(stdin)?;
        if batch.is_empty() {
            return Ok(());
        }
        let texts: Vec<&str> = batch.iter().map(String::as_str).collect();
        for vector in embedder.vectors(&texts, kind)? {
            let json = serde_json::json!(vector);
            writeln!(out, "{json}").map_err(stdout)?;
        }
    }
}
