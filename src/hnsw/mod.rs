//! HNSW on pages: a navigable small-world graph (Malkov & Yashunin 2018) that a page store holds.
//!
//! - [`Builder`] makes an index from rows in bulk, [`insert`] adds one, [`bulk_delete`] and
//!   [`cleanup`] remove, [`Scan`] finds, [`check`] verifies, [`info`] counts.
//! - A node is a slot of fixed size in a page: an int8 code of the vector, the links on level 0, and
//!   the heap TIDs of its rows (`layout.rs`, `docs/on-disk-format.md`). The exact vector stays in
//!   the table. A scan hands out lower bounds of distances, and whoever has the table rechecks.
//! - A search's cost is the pages that it touches. A bulk build therefore places nodes which link to
//!   each other on one page (`order.rs`), and a search touches a page once (`search.rs`).
//!
//! Invariants, after every committed transaction: links lead to nodes, or carry another generation
//! than the slot they point to and lead nowhere; a heap TID is in the index once; every node can be
//! handed out, by the sweep at least.
//!
//! Locks. The update lock first (`PageStore::lock_updates`), then content locks: shared ones one at a
//! time, exclusive ones within a transaction in ascending page order, so the metapage comes first.
//! No content lock is held while another page is pinned or read.

mod build;
mod candidates;
mod check;
mod code;
mod filter;
mod filtered;
mod graph;
mod insert;
mod keys;
mod layout;
mod order;
mod params;
mod rotate;
mod scan;
mod search;
mod select;
mod sketch;
mod space;
mod table;
mod tag;
mod vacuum;

pub use crate::page::HeapTid;
pub use build::{
    Added, BuildOptions, BuildPhase, BuildStats, Builder, Progress, Quantized, create_empty,
};
pub use check::{CheckReport, IndexInfo, check, each_row, each_tid, info};
pub use filter::{Condition, Filter};
pub use insert::{
    Inserted, insert, insert_known, insert_unplaced, insert_with_attributes, insert_with_key,
};
pub use keys::SourceKey;
pub use layout::FORMAT_VERSION;
pub use params::{
    DEFAULT_EF_CONSTRUCTION, DEFAULT_EF_SEARCH, DEFAULT_M, EF_CONSTRUCTION_RANGE, EF_SEARCH_RANGE,
    HnswParams, M_RANGE, ParamsError, Storage,
};
pub use scan::{
    Filtering, Hit, Iterative, Ranking, Scan, ScanOptions, ScanStats, Turn, UnplacedRows,
};
pub use tag::{MAX_TAG, create_tagged, read_tag, write_tag};
pub use vacuum::{CleanupStats, DeleteStats, bulk_delete, cleanup};

use crate::page::{BlockNumber, PageError, PageStore};

/// What went wrong in an index operation.
#[derive(Debug, thiserror::Error)]
pub enum HnswError {
    /// The parameters are none that an index can have.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// A vector of another length than the index's.
    #[error("expected {expected} dimensions, got {got}")]
    Dims {
        /// The index's.
        expected: usize,
        /// The vector's.
        got: usize,
    },
    /// Filter columns of another length than the index's.
    #[error("expected {expected} bytes of filter columns, got {got}")]
    Attributes {
        /// The index's.
        expected: usize,
        /// The row's.
        got: usize,
    },
    /// An index was to be made where something is already.
    #[error("expected a store without pages, got {page_count}")]
    NotEmpty {
        /// Pages there.
        page_count: BlockNumber,
    },
    /// No more node ids: 2³² slots are in use.
    #[error("the index has no room for more nodes")]
    Full,
    /// The store, or a damaged page.
    #[error(transparent)]
    Page(#[from] PageError),
}

/// The parameters that an index was made with.
///
/// # Errors
/// What the store raises, and a damaged metapage.
pub fn read_params<S: PageStore>(store: &S) -> Result<HnswParams, HnswError> {
    Ok(search::read_meta(store)?.params)
}

fn check_dims(params: &HnswParams, vector: &[f32]) -> Result<(), HnswError> {
    if vector.len() != params.dims() {
        return Err(HnswError::Dims { expected: params.dims(), got: vector.len() });
    }
    Ok(())
}

pub(crate) fn check_attributes(params: &HnswParams, attrs: &[u8]) -> Result<(), HnswError> {
    if attrs.len() != params.attr_len() {
        return Err(HnswError::Attributes { expected: params.attr_len(), got: attrs.len() });
    }
    Ok(())
}
