//! `README.md` of a model directory: the model card, as the hub and sentence-transformers read it.
//!
//! It says what the recipe says: sources with the licence that the recipe states for each, none
//! guessed; and what was measured: STS scores where the recipe has `dev`, and how far the packed
//! forms' vectors are from those of f32.

use std::fmt::Write;
use std::path::Path;

use distilface_core::encoder::{InputKind, SentenceEncoder};
use distilface_core::model::{Manifest, Precision};
use serde_json::Value;

use crate::embedder::{AlignedBlock, Embedder, Exact, Vectors, dot, read_model};
use crate::error::Error;
use crate::eval::sts;
use crate::report::StsScores;
use crate::train::Trained;
use crate::train::config::RunConfig;

/// Texts that the fidelity of the packed forms is measured on.
const TEXTS: usize = 500;

/// Writes the card of a finished run.
///
/// # Errors
/// Where the model cannot be read back, or the card not be written.
pub fn write(
    out: &Path,
    config: &RunConfig,
    trained: &Trained,
    base: &Manifest,
    own: &Manifest,
    scores: Option<&StsScores>,
) -> Result<(), Error> {
    let mut card = head(own, config.license.as_deref());
    let _ = writeln!(
        card,
        "Trained by distilface-train from {} (revision {}): {} steps, {} layers, {} dimensions, \
         pooling {}.{}\n\n## Data\n\n| source | rows | loss | license |\n|---|---|---|---|",
        base.name,
        &base.revision[..12],
        config.steps,
        own.encoder.layers,
        own.dimensions,
        own.pooling.as_str(),
        own.source.as_ref().map_or(String::new(), |source| format!(" Source: {source}.")),
    );
    for (source, read) in config.sources.iter().zip(&trained.reads) {
        let place = source.place();
        let name = place.rsplit('/').next().unwrap_or(&place);
        let only = source.only.as_ref().map_or(String::new(), |x| format!(" ({})", x.join(", ")));
        let license = source.license.as_deref().unwrap_or("not stated");
        let _ = writeln!(card, "| {name}{only} | {} | {:?} | {license} |", read.kept, source.loss);
    }
    if let Some(StsScores { base: before, own: after }) = scores {
        card.push_str(
            "\n## Scores\n\nSpearman × 100 of cosines, all subsets of a year together.\n\n",
        );
        card.push_str("| task | base | this model |\n|---|---|---|\n");
        let mut row = |name: &str, before: &Value, after: &Value| {
            if let (Some(before), Some(after)) = (before.as_f64(), after.as_f64()) {
                let _ = writeln!(card, "| {name} | {before:.2} | {after:.2} |");
            }
        };
        for (task, _) in sts::TASKS {
            let score = |all: &Value| all["tasks"][task]["spearman"].clone();
            row(task, &score(before), &score(after));
        }
        row("mean of five (STS12–15, STS-B)", &before["five"], &after["five"]);
        row("mean of seven", &before["seven"], &after["seven"]);
    }
    card.push_str(&fidelity(out, &trained.sample)?);
    save(out, &card)
}

/// Writes the card of an average.
///
/// # Errors
/// Where the card cannot be written.
pub fn write_average(out: &Path, own: &Manifest, parts: &[(String, f32)]) -> Result<(), Error> {
    let mut card = head(own, None);
    card.push_str("Weights averaged by distilface-train:\n\n| model | share |\n|---|---|\n");
    for (name, share) in parts {
        let _ = writeln!(card, "| {name} | {share} |");
    }
    save(out, &card)
}

fn save(out: &Path, card: &str) -> Result<(), Error> {
    let path = out.join("README.md");
    std::fs::write(&path, card).map_err(|source| Error::io(&path, source))
}

fn head(own: &Manifest, license: Option<&str>) -> String {
    // YAML takes a JSON string as it is.
    let license = license.map_or(String::new(), |x| format!("license: {}\n", Value::from(x)));
    format!(
        "---\n{license}library_name: sentence-transformers\npipeline_tag: sentence-similarity\n\
         tags:\n- sentence-transformers\n- feature-extraction\n- distilface\n---\n# {}\n\n",
        own.name
    )
}

/// How close the vectors of each packed form are to those of f32, on texts of the training data.
fn fidelity(out: &Path, sample: &[String]) -> Result<String, Error> {
    let texts: Vec<&str> = sample.iter().take(TEXTS).map(String::as_str).collect();
    let embed = |precision: Precision| -> Result<(Vectors, usize), Error> {
        let packed = read_model(out, Some(precision))?;
        let block = AlignedBlock::new(&packed);
        let encoder = SentenceEncoder::from_packed(block.bytes())?;
        let what = format!("fidelity, {precision:?}");
        Ok((Embedder::new(&encoder, None).embed(&what, &texts, InputKind::Passage)?, packed.len()))
    };
    let exact = Exact::open(out, None)?;
    let exact = Embedder::exact(&exact).embed("fidelity, f32", &texts, InputKind::Passage)?;
    let mut table = format!(
        "\n## Packed forms\n\nCosine to the vectors of f32, {} training texts.\n\n\
         | form | MB | mean | least |\n|---|---|---|---|\n",
        texts.len()
    );
    for precision in [Precision::Bf16, Precision::Int8] {
        let (vectors, size) = embed(precision)?;
        let cosines: Vec<f64> =
            (0..texts.len()).map(|at| dot(exact.row(at), vectors.row(at))).collect();
        let mean = cosines.iter().sum::<f64>() / cosines.len().max(1) as f64;
        let least = cosines.iter().copied().fold(1.0, f64::min);
        let size = size as f64 / 1e6;
        let _ = writeln!(table, "| {precision:?} | {size:.1} | {mean:.5} | {least:.5} |");
    }
    Ok(table)
}
