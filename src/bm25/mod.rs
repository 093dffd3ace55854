//! Full text search: a BM25 index on pages, with tantivy's segments.
//!
//! A segment is what tantivy's single-threaded writer makes in memory, cut into pages of a
//! [`PageStore`](crate::page::PageStore) and immutable from then on. New rows go to a pending list
//! ([`pending`]), one page write each; every scan reads the list as one more segment, made in
//! memory. [`maintain`] turns the list into a segment past a limit, merges segments of a size (eight
//! at a time, so that a row is rewritten about log₈ N times), and lets vacuum mark rows dead and
//! rewrite segments with many of them. [`view`] is what a scan sees, [`search`] how it finds rows,
//! [`row`] how a row's texts alone are scored, [`query`] what may be asked.
//!
//! Invariants: a page is written once between being allocated and being freed, but for the pending
//! list's last page, the dead lists and the lists of free pages; the metapage alone says what
//! belongs to the index; every transaction leaves a valid index; a page number is always followed
//! together with the serial number of the owner expected there. `README.md` beside this file says
//! which locks are taken and why it is safe; `docs/on-disk-format.md` draws the bytes.
//!
//! Scores are tantivy's, Robertson & Zaragoza 2009, with `k1` and `b` of the index.

mod alloc;
pub mod analyzer;
mod check;
mod engine;
mod error;
mod highlight;
mod layout;
mod maintain;
mod params;
mod pending;
pub mod query;
mod row;
mod search;
mod segment;
mod statistics;
mod view;
mod weight;

#[cfg(test)]
mod tests;

pub use crate::page::HeapTid;
pub use analyzer::{Term, TextConfig, TextConfigError, tokenize};
pub use check::{CheckReport, check};
pub use error::Bm25Error;
pub use highlight::{Highlight, highlight};
pub use layout::FORMAT_VERSION;
pub use maintain::{
    Builder, MergeExtent, PENDING_LIMIT, VacuumStats, bulk_delete, cleanup, create, insert, merge,
    set_constants,
};
pub use params::{Bm25Params, Column, DEFAULT_B, DEFAULT_K1, MAX_COLUMNS, ParamsError};
pub use pending::MAX_ROW_BYTES;
pub use query::{Query, QueryError};
pub use search::{FIRST_BATCH, Hit, Prepared, RankedScan, Scope, TextScorer, Unranked};
pub use statistics::Together;
pub use view::{DEFAULT_CACHE_BYTES, View};
