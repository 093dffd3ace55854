//! `distilface-train`: the command line around the models.
//!
//! `import` turns a sentence-transformers or Hugging Face directory into a DistilFace model
//! directory with its packed form, which the extension compiles in or loads. `eval` scores a model
//! on similarity and on search; `embed` shows its vectors. `train` makes a model of another one and of
//! texts, `average` one of several.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod card;
mod connect;
mod data;
mod embed;
mod embedder;
mod error;
mod eval;
mod hub;
mod import;
mod lines;
mod losses;
mod net;
mod push;
mod report;
mod train;

/// Makes, imports and scores sentence encoders for DistilFace.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Turn a sentence-transformers or Hugging Face model (BERT, MiniLM, DistilBERT), a directory or a
    /// name on the hub, into ours
    Import(import::Arguments),
    /// Score a model: the STS tasks, retrieval, alignment and uniformity, your own pairs
    Eval(eval::Arguments),
    /// Embed the lines of standard input, one JSON array a line (null for a blank line)
    Embed(embed::Arguments),
    /// Load a model into a PostgreSQL database that has the extension
    Push(push::Arguments),
    /// Train a model: contrast, hard negatives, distillation, or a mix of them
    Train(Box<train::Arguments>),
    /// Make one model of several, weight by weight
    Average(train::AverageArguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Import(arguments) => import::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Embed(arguments) => embed::run(arguments),
        Command::Push(arguments) => push::run(arguments),
        Command::Train(arguments) => train::run(*arguments),
        Command::Average(arguments) => train::average(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
