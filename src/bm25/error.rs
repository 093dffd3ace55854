//! What can go wrong in a BM25 index.

use super::analyzer::TextConfigError;
use super::params::ParamsError;
use super::query::QueryError;
use crate::page::{BlockNumber, PageError};

/// An error of a BM25 index.
#[derive(Debug, thiserror::Error)]
pub enum Bm25Error {
    /// The pages could not be read or written, or hold something else than they should.
    #[error(transparent)]
    Page(#[from] PageError),
    /// A page that a scan was about to read has been given to other data meanwhile; the scan has
    /// to start again from the metapage. Happens on a standby only, where vacuum's changes arrive
    /// without waiting for the scan's snapshot.
    #[error("page {0} was recycled during the scan")]
    Recycled(BlockNumber),
    /// The query is not understood.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A text configuration is not understood.
    #[error(transparent)]
    TextConfig(#[from] TextConfigError),
    /// A parameter is out of range.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// A row has another number of columns than the index.
    #[error("the index has {expected} columns, got {got}")]
    Columns { expected: usize, got: usize },
    /// A row is longer than an index entry can be.
    #[error("a row's texts take {got} bytes, at most {max} can be indexed")]
    TooLong { max: usize, got: usize },
    /// The search engine refused; its own words.
    #[error("full text engine: {0}")]
    Engine(String),
}

impl From<tantivy::TantivyError> for Bm25Error {
    fn from(error: tantivy::TantivyError) -> Self {
        Self::Engine(error.to_string())
    }
}
