//! `distilface-train`: the command line around the models.
//!
//! `import` turns a sentence-transformers or Hugging Face directory into a DistilFace model
//! directory with its packed form, which the extension compiles in or loads.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use distilface_core::encoder;
use distilface_core::model::{self, ImportOptions, ModelDir, ModelError, Precision};

/// Makes and imports sentence encoders for DistilFace.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Turn a sentence-transformers or Hugging Face directory (BERT, MiniLM, DistilBERT) into ours
    Import(ImportArguments),
}

#[derive(clap::Args)]
struct ImportArguments {
    /// The directory with config.json and model.safetensors
    #[arg(value_name = "DIR")]
    source: PathBuf,
    /// The directory to write; it must not be there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The model's name in the database [default: the name of the output directory]
    #[arg(long)]
    name: Option<String>,
    /// Cut texts at so many tokens [default: as the source does]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// What the packed form computes with
    #[arg(long, value_enum, default_value = "bf16")]
    precision: PrecisionArgument,
    /// Where the model comes from, for the record
    #[arg(long)]
    source_note: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum PrecisionArgument {
    F32,
    Bf16,
    Int8,
}

fn main() -> ExitCode {
    let Command::Import(arguments) = Arguments::parse().command;
    match import(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn import(arguments: ImportArguments) -> Result<(), ModelError> {
    let options = ImportOptions {
        name: Some(arguments.name.unwrap_or_else(|| model_name(&arguments.out))),
        max_tokens: arguments.max_tokens,
        precision: match arguments.precision {
            PrecisionArgument::F32 => Precision::F32,
            PrecisionArgument::Bf16 => Precision::Bf16,
            PrecisionArgument::Int8 => Precision::Int8,
        },
        source: arguments.source_note,
    };
    println!("importing {}", arguments.source.display());
    model::import(&arguments.source, &arguments.out, &options, &mut |step| println!("  {step}"))?;
    let opened = ModelDir::open(&arguments.out)?;
    println!("  {} opens and its checksums hold", opened.manifest().name);
    let packed = encoder::pack_model(&opened)?;
    let path = arguments.out.join("model.packed");
    std::fs::write(&path, &packed)
        .map_err(|source| ModelError::Io { path: path.display().to_string(), source })?;
    println!("  {} written, {} bytes", path.display(), packed.len());
    Ok(())
}

/// The output directory's name, without the ending that a build gives it while it is made.
fn model_name(out: &Path) -> String {
    let name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.strip_suffix(".new").unwrap_or(&name).to_lowercase()
}
