//! `distilface-train import`: another's model directory into ours, with its packed form; one of ours
//! is copied.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use distilface_core::encoder::pack_model;
use distilface_core::model::{
    self, ImportOptions, MANIFEST_FILE, MAX_MANIFEST, Manifest, ModelDir, ModelError, PACKED_FILE,
    Pooling, Precision,
};

use crate::error::Error;
use crate::hub::{Hub, is_model_id};
use crate::train::output;

#[derive(clap::Args)]
pub struct Arguments {
    /// The directory with config.json and model.safetensors, one of ours, or a model of the hub:
    /// OWNER/NAME
    #[arg(value_name = "DIR")]
    source: PathBuf,
    /// Branch, tag or commit of a model of the hub
    #[arg(long, value_name = "REVISION", default_value = "main")]
    revision: String,
    /// The directory to write; it must not be there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The model's name in the database [default: the name of the output directory]
    #[arg(long)]
    name: Option<String>,
    /// Cut texts at so many tokens [default: as the source does]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// How token states become a vector [default: as the source says]
    #[arg(long, value_enum)]
    pooling: Option<PoolingArgument>,
    /// What the packed form computes with [default: bf16, or as a model of ours says]
    #[arg(long, value_enum)]
    precision: Option<PrecisionArgument>,
    /// Where the model comes from, for the record
    #[arg(long, value_name = "TEXT")]
    source_note: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum PrecisionArgument {
    F32,
    Bf16,
    Int8,
}

impl From<PrecisionArgument> for Precision {
    fn from(argument: PrecisionArgument) -> Precision {
        match argument {
            PrecisionArgument::F32 => Precision::F32,
            PrecisionArgument::Bf16 => Precision::Bf16,
            PrecisionArgument::Int8 => Precision::Int8,
        }
    }
}

/// The last three are means over layers and then over tokens.
#[derive(Clone, Copy, ValueEnum)]
pub enum PoolingArgument {
    Cls,
    Mean,
    MeanFirstLast,
    #[value(name = "mean-last2")]
    MeanLast2,
    #[value(name = "mean-last4")]
    MeanLast4,
}

impl From<PoolingArgument> for Pooling {
    fn from(argument: PoolingArgument) -> Pooling {
        match argument {
            PoolingArgument::Cls => Pooling::Cls,
            PoolingArgument::Mean => Pooling::Mean,
            PoolingArgument::MeanFirstLast => Pooling::MeanFirstLast,
            PoolingArgument::MeanLast2 => Pooling::MeanLast2,
            PoolingArgument::MeanLast4 => Pooling::MeanLast4,
        }
    }
}

pub fn run(arguments: Arguments) -> Result<(), Error> {
    let options = ImportOptions {
        name: Some(arguments.name.unwrap_or_else(|| model_name(&arguments.out))),
        max_tokens: arguments.max_tokens,
        pooling: arguments.pooling.map(Pooling::from),
        precision: arguments.precision.map(Precision::from),
        source: arguments.source_note,
    };
    println!("importing {}", arguments.source.display());
    let named = arguments.source.to_str().filter(|name| is_model_id(name));
    match named.filter(|_| !arguments.source.exists()) {
        None => import(&arguments.source, &arguments.out, &options)?,
        Some(name) => {
            output::check_new(&arguments.out)?;
            let directory = beside(&arguments.out, ".download");
            let options = ImportOptions {
                source: options.source.or_else(|| Some(format!("{name}@{}", arguments.revision))),
                ..options
            };
            Hub::from_environment().download(name, &arguments.revision, &directory)?;
            import(&directory, &arguments.out, &options)?;
            std::fs::remove_dir_all(&directory).map_err(|e| Error::io(&directory, e))?;
        }
    }
    // What was written is packed as it will be read, with every checksum compared.
    let packed = pack_model(&ModelDir::open(&arguments.out)?)?;
    let path = arguments.out.join(PACKED_FILE);
    std::fs::write(&path, &packed).map_err(|source| Error::io(&path, source))?;
    println!("  {} written, {:.1} MB", path.display(), packed.len() as f64 / 1e6);
    Ok(())
}

/// A model to train from, average or learn from: a directory of ours, or another's as it lies.
///
/// # Errors
/// [`Error::Base`] for what cannot be imported, and for a cross-encoder.
pub fn open_base(path: &Path) -> Result<ModelDir, Error> {
    let wrong = |source| Error::Base { path: path.display().to_string(), source };
    let base = model::open_any(path, &ImportOptions::default(), &mut |_| {}).map_err(wrong)?;
    if base.manifest().head.is_some() {
        return Err(wrong(ModelError::Unsupported {
            part: "architecture",
            expected: "a sentence encoder",
            got: "a cross-encoder".to_owned(),
        }));
    }
    Ok(base)
}

/// The manifest of a directory, if it is one of ours.
///
/// # Errors
/// Where it cannot be read or is none.
pub fn manifest(directory: &Path) -> Result<Option<Manifest>, Error> {
    let path = directory.join(MANIFEST_FILE);
    let io = |source| Error::io(&path, source);
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    let mut json = Vec::new();
    file.take(MAX_MANIFEST as u64 + 1).read_to_end(&mut json).map_err(io)?;
    Ok(Some(Manifest::from_json(&json)?))
}

fn import(source: &Path, out: &Path, options: &ImportOptions) -> Result<(), Error> {
    model::import(source, out, options, &mut |step| println!("  {step}"))?;
    Ok(())
}

/// A path whose name has an ending more.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The output directory's name, without the ending that a build gives it while it is made.
fn model_name(out: &Path) -> String {
    let name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.strip_suffix(".new").unwrap_or(&name).to_lowercase()
}
