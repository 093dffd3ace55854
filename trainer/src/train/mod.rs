//! `distilface-train train`: contrastive fine-tuning and distillation; `average`: weights of
//! several runs made into one model.
//!
//! `config` is the recipe, `batch` what a step sees, `backend` where it is computed, `engine` the passes
//! on threads, `optimizer` the step, `pca` a teacher's reduction, `narrow` a student's, `sif` tokens' weights in a mean, `memory` whether it all fits,
//! `checkpoint` what outlives a kill, `run` the loop, `output` the model directory.

mod average;
mod backend;
mod batch;
mod checkpoint;
pub mod config;
mod dev;
pub mod engine;
mod memory;
mod narrow;
mod optimizer;
pub mod output;
pub mod pca;
mod run;
mod sif;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::import::{PoolingArgument, beside, open_base};
use config::{Preset, RunConfig, TrainDevice};
use run::Run;

pub use average::{AverageArguments, average};
pub use run::{METRICS, Trained};

#[derive(clap::Args)]
pub struct Arguments {
    /// A recipe in TOML
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    config: Option<PathBuf>,
    /// A paper's setting, on the sentences of --data
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Sentences for a preset (text, TSV, JSONL, with .gz; Parquet)
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Sentences for a preset from a database, postgres://…, with --query
    #[arg(long, value_name = "ADDRESS", requires = "query", conflicts_with = "data")]
    from: Option<PathBuf>,
    /// A query whose one column is a text
    #[arg(long, value_name = "SQL", requires = "from")]
    query: Option<String>,
    /// Take only rows of --data with one of these in the first column
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Option<Vec<String>>,
    /// The model directory to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Checkpoint, metrics and report; a run that was killed goes on from here [default: OUT.run]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Directory of the model to start from
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// STS file whose STS-B dev pairs are scored
    #[arg(long, value_name = "FILE")]
    dev: Option<PathBuf>,
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long)]
    steps: Option<usize>,
    /// Peak learning rate
    #[arg(long)]
    rate: Option<f32>,
    /// Rows of every source's batch
    #[arg(long)]
    batch: Option<usize>,
    #[arg(long, value_enum)]
    pooling: Option<PoolingArgument>,
    /// Part of the result: sums are made in another order with another number
    #[arg(long)]
    threads: Option<usize>,
    /// Where the encoder's passes run
    #[arg(long, value_enum)]
    device: Option<TrainDevice>,
    /// Steps between checkpoints
    #[arg(long)]
    checkpoint_every: Option<usize>,
    /// Write the weights in f32 instead of bfloat16
    #[arg(long)]
    full_weights: bool,
}

impl Arguments {
    fn recipe(&self) -> Result<RunConfig, Error> {
        let data = self.data.as_ref().or(self.from.as_ref());
        let mut config = match (&self.config, self.preset, data) {
            (Some(path), ..) => RunConfig::read(path)?,
            (None, Some(preset), Some(data)) => preset.config(data.clone(), self.only.clone()),
            _ => {
                let expected = "--config, or --preset with --data or --from";
                return Err(Error::missing(Path::new("command line"), expected));
            }
        };
        for source in &mut config.sources {
            source.query = self.query.clone().or(source.query.take());
        }
        let set = |to: &mut PathBuf, from: &Option<PathBuf>| {
            if let Some(from) = from {
                to.clone_from(from);
            }
        };
        set(&mut config.base, &self.base);
        config.dev = self.dev.clone().or(config.dev);
        config.seed = self.seed.unwrap_or(config.seed);
        config.steps = self.steps.unwrap_or(config.steps);
        config.rate = self.rate.unwrap_or(config.rate);
        config.pooling = self.pooling.map(Into::into).or(config.pooling);
        config.threads = self.threads.unwrap_or(config.threads);
        config.device = self.device.unwrap_or(config.device);
        config.checkpoint_every = self.checkpoint_every.unwrap_or(config.checkpoint_every);
        for source in &mut config.sources {
            source.batch = self.batch.unwrap_or(source.batch);
        }
        Ok(config)
    }
}

/// Trains, or goes on training, and writes the model directory.
pub fn run(arguments: Arguments) -> Result<(), Error> {
    let config = arguments.recipe()?;
    let directory = arguments.run.clone().unwrap_or_else(|| beside(&arguments.out, ".run"));
    output::check_new(&arguments.out)?;
    distilface_core::training::keep_freed_memory();
    let run = Run::open(&config, &directory)?;
    if run.steps_done() > 0 {
        println!("going on after step {}", run.steps_done());
    }
    let trained = run.run()?;
    for (source, read) in config.sources.iter().zip(&trained.reads) {
        println!(
            "{}: {} rows of {} lines ({} of other sources, {} duplicates, {} malformed)",
            source.place(),
            read.kept,
            read.lines,
            read.filtered,
            read.duplicates,
            read.malformed
        );
        if !read.malformed_lines.is_empty() {
            println!("  the first malformed lines: {:?}", read.malformed_lines);
        }
    }
    let base = open_base(&config.base)?;
    let name = Some(config.name.clone()).filter(|name| !name.is_empty());
    let form = output::Form { dims: config.dims.clone(), full_weights: arguments.full_weights };
    let written = output::write(&arguments.out, name, &base, &trained.network, &form)?;
    println!(
        "{} written in {:.0} s of training, revision {}",
        arguments.out.display(),
        trained.seconds,
        &written.revision[..12]
    );
    let scores =
        crate::report::write(&directory, &config, &trained, &base, &arguments.out, &written)?;
    let base = base.manifest();
    crate::card::write(&arguments.out, &config, &trained, base, &written, scores.as_ref())?;
    println!("{} shows the run", directory.join("report.html").display());
    Ok(())
}
