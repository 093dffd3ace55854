//! What stops a command.

use std::path::Path;

use distilface_core::encoder::EncodeError;
use distilface_core::model::ModelError;

/// Printed as one line, with exit status 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A base or teacher that cannot be trained with.
    #[error("{path}: {source}")]
    Base { path: String, source: ModelError },
    #[error("embedding: {0}")]
    Encode(#[from] EncodeError),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// A data file is not of the form that was asked for.
    #[error("{path}, line {line}: expected {expected}, got {got}")]
    Data { path: String, line: usize, expected: &'static str, got: String },
    #[error("computing with tensors: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A recipe's device is not there.
    #[error(
        "device: expected a CUDA device, got {0}; a program built with `--features cuda` finds one \
         where an NVIDIA driver is, and `--device cpu` trains without"
    )]
    Device(String),
    /// A recipe's value cannot be trained with.
    #[error("{field}: expected {expected}, got {got}")]
    Recipe { field: String, expected: &'static str, got: String },
    /// The server's words, or why there is no connection.
    #[error("database: {}", database_error(.0))]
    Database(#[from] postgres::Error),
    /// A part of a database's address.
    #[error("{parameter} of the database's address: expected {expected}, got {got}")]
    Address { parameter: &'static str, expected: &'static str, got: String },
    /// Training left the numbers; the last checkpoint stays.
    #[error(
        "step {step}: expected a finite {what}, got {got}; a lower rate, a longer warm-up or \
         clipping may help"
    )]
    Diverged { step: usize, what: &'static str, got: f32 },
    /// A run would hold more than there is.
    #[error(
        "memory: expected {:.1} GB free for weights, moments and activations, got {:.1} GB; a \
         smaller batch, cache_above, threads or base needs less",
        .needed / 1e9, .available / 1e9
    )]
    Memory { needed: f64, available: f64 },
    /// A source that is a query gave no rows.
    #[error("{place}: {what}: {}", database_error(source))]
    Query { place: String, what: &'static str, source: postgres::Error },
    /// A file of a model could not be had from the hub.
    #[error(
        "{address}: {got}; a directory with the model's files works without the network, and \
         HF_ENDPOINT names another server"
    )]
    Hub { address: String, got: String },
    /// A data file lacks what the command is for.
    #[error("{path}: expected {expected}, found none")]
    Missing { path: String, expected: &'static str },
}

impl Error {
    pub fn io(path: &Path, source: std::io::Error) -> Error {
        Error::Io { path: path.display().to_string(), source }
    }

    pub fn data(path: &Path, line: usize, expected: &'static str, got: &str) -> Error {
        let got = got.chars().take(80).collect();
        Error::Data { path: path.display().to_string(), line, expected, got }
    }

    pub fn missing(path: &Path, expected: &'static str) -> Error {
        Error::Missing { path: path.display().to_string(), expected }
    }
}

fn database_error(error: &postgres::Error) -> String {
    let Some(said) = error.as_db_error() else {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        return format!("{error}{}", cause.unwrap_or_default());
    };
    let extra = [said.detail(), said.hint()].into_iter().flatten();
    extra.fold(said.message().to_owned(), |all, more| format!("{all}; {more}"))
}
