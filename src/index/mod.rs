//! An index that lives in a directory: vectors under ids, found by nearness, safe across crashes.
//!
//! The same pages as in PostgreSQL (`crate::hnsw`) on a [`FileStore`], beside a second one with the
//! rows: their ids and exact vectors, which searches rerank with.
//!
//! ```
//! use distilface_core::hnsw::HnswParams;
//! use distilface_core::index::Index;
//! use distilface_core::vector::Metric;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = std::env::temp_dir().join(format!("distilface-doc-{}", std::process::id()));
//! # let _ = std::fs::remove_dir_all(&dir);
//! let index = Index::create(&dir, HnswParams::parse(3, Metric::Cosine, 16, 64)?)?;
//! index.add(7, &[1.0, 0.0, 0.2])?;
//! index.add(8, &[0.0, 1.0, 0.1])?;
//! index.sync()?;
//!
//! let nearest = index.search(&[0.9, 0.1, 0.0], 1)?;
//! assert_eq!(nearest[0].id, 7);
//!
//! drop(index);
//! let index = Index::open(&dir)?;
//! index.remove(7)?;
//! assert_eq!(index.search(&[0.9, 0.1, 0.0], 1)?[0].id, 8);
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok(())
//! # }
//! ```
//!
//! Rows may have filter columns, a few bytes that are compared on the way through the graph:
//!
//! ```
//! use distilface_core::hnsw::{Condition, Filter, HnswParams, ScanOptions};
//! use distilface_core::index::Index;
//! use distilface_core::vector::Metric;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = std::env::temp_dir().join(format!("distilface-doc-filter-{}", std::process::id()));
//! # let _ = std::fs::remove_dir_all(&dir);
//! // One column of a byte; the byte before it says that it is not NULL.
//! let params = HnswParams::parse(3, Metric::Cosine, 16, 64)?.with_attr_len(2)?;
//! let index = Index::create(&dir, params)?;
//! index.add_with_attributes(7, &[1.0, 0.0, 0.2], &[1, b'a'])?;
//! index.add_with_attributes(8, &[0.0, 1.0, 0.1], &[1, b'b'])?;
//!
//! let is_b = Condition::new(0, 2, &[(vec![1, b'b'], vec![1, b'b'])]);
//! let filter = Filter::new(vec![is_b]);
//! let nearest = index.search_filtered(&[1.0, 0.0, 0.0], 1, ScanOptions::default(), filter)?;
//! assert_eq!(nearest[0].id, 8);
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `bm25` rows may have texts as well, and searches go by meaning, by words, or by
//! both at once:
//!
//! ```
//! # #[cfg(feature = "bm25")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use distilface_core::bm25::{Bm25Params, Query};
//! use distilface_core::hnsw::HnswParams;
//! use distilface_core::index::{Hybrid, Index};
//! use distilface_core::vector::Metric;
//!
//! # let dir = std::env::temp_dir().join(format!("distilface-doc-hybrid-{}", std::process::id()));
//! # let _ = std::fs::remove_dir_all(&dir);
//! let params = HnswParams::parse(3, Metric::Cosine, 16, 64)?;
//! let index = Index::create_hybrid(&dir, params, &Bm25Params::single("english")?)?;
//! index.add_with_text(1, &[0.9, 0.1, 0.0], "a cat sleeping on the rug")?;
//! index.add_with_text(2, &[0.8, 0.3, 0.1], "two dogs in the yard")?;
//! index.add_with_text(3, &[0.0, 0.2, 0.9], "replace part AB-1234")?;
//! index.sync()?;
//!
//! let by_words = index.search_text(&Query::parse("\"ab 1234\" OR dog")?, 10)?;
//! assert_eq!(by_words.len(), 2);
//! let both = index.search_hybrid(&Hybrid::new(&[1.0, 0.0, 0.0], "part AB-1234"), 2)?;
//! assert_eq!(both[0].id, 3, "in both lists");
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "bm25"))]
//! # fn main() {}
//! ```
//!
//! Changes are seen by searches at once, and durable after [`Index::sync`]. After a crash the index
//! is as it was at some moment since the last sync; [`Index::open`] brings rows and graph in line.
//! An `Index` is used from many threads at once; one process has it open.

mod rows;
#[cfg(feature = "bm25")]
mod text;

#[cfg(feature = "bm25")]
pub use text::{Hybrid, HybridMatch, TextMatch};

use crate::hnsw::{
    self, Added, BuildOptions, Builder, Filter, HeapTid, HnswError, HnswParams, Scan, ScanOptions,
};
use crate::page::{FileStore, PageError, PageStore};
use crate::vector::Metric;
use parking_lot::RwLock;
use rows::{Row, Rows};
use std::path::Path;

/// Removed rows, as a share of all, from which [`Index::remove`] starts a vacuum by itself: 1 in this
/// many.
const VACUUM_SHARE: usize = 5;
/// Removed rows below which it does not.
const VACUUM_MIN: usize = 1000;

/// What went wrong in an index operation.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// There is something in the directory already.
    #[error("{path} is not empty")]
    Exists {
        /// The directory.
        path: String,
    },
    /// The id is there already.
    #[error("id {id} is in the index already")]
    Duplicate {
        /// The id.
        id: u64,
    },
    /// A vector with an infinite or undefined number.
    #[error("dimension {at} of the vector is {got}")]
    NotFinite {
        /// Counted from 0.
        at: usize,
        /// What is there.
        got: f32,
    },
    /// A vector of zeros has no direction.
    #[error("a zero vector has no cosine distance")]
    ZeroVector,
    /// A text for an index that was made without, or a search for one.
    #[error("the index has no text; Index::create_hybrid makes one that has")]
    NoText,
    /// The full text index.
    #[cfg(feature = "bm25")]
    #[error(transparent)]
    Text(crate::bm25::Bm25Error),
    /// The graph.
    #[error(transparent)]
    Hnsw(#[from] HnswError),
    /// The files.
    #[error(transparent)]
    Page(#[from] PageError),
}

/// A row that a search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match {
    /// The id it was added under.
    pub id: u64,
    /// Its exact distance, in the metric's unit.
    pub distance: f64,
}

/// Vectors under ids in a directory.
pub struct Index {
    params: HnswParams,
    graph: FileStore,
    rows: RwLock<Rows>,
    #[cfg(feature = "bm25")]
    texts: Option<text::Texts>,
}

impl Index {
    /// Makes an index without rows in `dir`, which does not exist or is empty.
    ///
    /// # Errors
    /// [`IndexError::Exists`]; what the file system raises.
    pub fn create(dir: &Path, params: HnswParams) -> Result<Self, IndexError> {
        Self::create_with(dir, params, BuildOptions::default(), std::iter::empty())
    }

    /// Makes an index of the rows in bulk: several times as fast as adding them one by one.
    ///
    /// # Errors
    /// As [`Index::create`] and [`Index::add`].
    pub fn create_with<'v>(
        dir: &Path,
        params: HnswParams,
        options: BuildOptions,
        vectors: impl IntoIterator<Item = (u64, &'v [f32])>,
    ) -> Result<Self, IndexError> {
        let rows = vectors.into_iter().map(|(id, vector)| (id, vector, &[][..]));
        Self::create_with_attributes(dir, params, options, rows)
    }

    /// The same with the filter columns of each row, [`HnswParams::attr_len`] bytes.
    ///
    /// # Errors
    /// As [`Index::create`] and [`Index::add_with_attributes`].
    pub fn create_with_attributes<'v>(
        dir: &Path,
        params: HnswParams,
        options: BuildOptions,
        vectors: impl IntoIterator<Item = (u64, &'v [f32], &'v [u8])>,
    ) -> Result<Self, IndexError> {
        std::fs::create_dir_all(dir).map_err(PageError::Io)?;
        let occupied = std::fs::read_dir(dir).map_err(PageError::Io)?.next().is_some();
        if occupied {
            return Err(IndexError::Exists { path: dir.display().to_string() });
        }
        let graph = FileStore::open(&dir.join("graph"))?;
        let mut rows = Rows::create(FileStore::open(&dir.join("rows"))?, &params)?;
        let mut builder = Some(Builder::new(params, options));
        for (id, vector, attrs) in vectors {
            check_vector(&params, vector)?;
            hnsw::check_attributes(&params, attrs)?;
            let row = rows.add(id, vector, attrs)?.ok_or(IndexError::Duplicate { id })?;
            if let Some(mut building) = builder.take() {
                if building.add_with_attributes(vector, attrs, row.tid())? == Added::Kept {
                    builder = Some(building);
                    continue;
                }
                building.finish(&graph, &mut ())?;
            }
            hnsw::insert_with_attributes(&graph, vector, attrs, row.tid())?;
        }
        if let Some(builder) = builder {
            builder.finish(&graph, &mut ())?;
        }
        rows.store().checkpoint()?;
        graph.checkpoint()?;
        Ok(Self {
            params,
            graph,
            rows: RwLock::new(rows),
            #[cfg(feature = "bm25")]
            texts: None,
        })
    }

    /// Opens the index in `dir`, after a crash too.
    ///
    /// # Errors
    /// [`PageError::Io`] where it is missing or another process has it open; damaged files.
    pub fn open(dir: &Path) -> Result<Self, IndexError> {
        if !dir.join("graph").is_file() {
            return Err(PageError::Io(std::io::ErrorKind::NotFound.into()).into());
        }
        let graph = FileStore::open(&dir.join("graph"))?;
        let params = hnsw::info(&graph)?.params;
        let rows = Rows::open(FileStore::open(&dir.join("rows"))?, &params)?;
        let index = Self {
            params,
            graph,
            rows: RwLock::new(rows),
            #[cfg(feature = "bm25")]
            texts: text::Texts::open(dir)?,
        };
        index.reconcile()?;
        Ok(index)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`IndexError::Duplicate`]; [`IndexError::NotFinite`]; [`IndexError::ZeroVector`] with
    /// [`Metric::Cosine`]; [`HnswError::Dims`]; what the files raise.
    pub fn add(&self, id: u64, vector: &[f32]) -> Result<(), IndexError> {
        self.add_row(id, vector, &[], None)
    }

    /// Adds a row with its filter columns, as [`Condition`](hnsw::Condition) compares them.
    ///
    /// # Errors
    /// As [`Index::add`]; [`HnswError::Attributes`] where they are not [`HnswParams::attr_len`] bytes.
    pub fn add_with_attributes(
        &self,
        id: u64,
        vector: &[f32],
        attrs: &[u8],
    ) -> Result<(), IndexError> {
        self.add_row(id, vector, attrs, None)
    }

    fn add_row(
        &self,
        id: u64,
        vector: &[f32],
        attrs: &[u8],
        text: Option<&str>,
    ) -> Result<(), IndexError> {
        check_vector(&self.params, vector)?;
        hnsw::check_attributes(&self.params, attrs)?;
        let row = self.rows.write().add(id, vector, attrs)?.ok_or(IndexError::Duplicate { id })?;
        let added = self.add_text(row, text).and_then(|()| {
            hnsw::insert_with_attributes(&self.graph, vector, attrs, row.tid())?;
            Ok(())
        });
        if added.is_err() {
            self.rows.write().remove(id)?;
        }
        added
    }

    #[cfg(feature = "bm25")]
    fn add_text(&self, row: Row, text: Option<&str>) -> Result<(), IndexError> {
        self.texts.as_ref().map_or(Ok(()), |texts| texts.add(row, text))
    }

    #[cfg(not(feature = "bm25"))]
    fn add_text(&self, _row: Row, _text: Option<&str>) -> Result<(), IndexError> {
        Ok(())
    }

    /// Forgets texts whose rows are gone, durably.
    fn forget_texts(&self, _is_dead: &mut dyn FnMut(HeapTid) -> bool) -> Result<(), IndexError> {
        #[cfg(feature = "bm25")]
        if let Some(texts) = &self.texts {
            texts.forget(_is_dead)?;
        }
        Ok(())
    }

    /// Removes a row; whether it was there. Searches no longer find it; its space is free after
    /// [`Index::vacuum`], which runs by itself when a fifth of the rows is removed ones.
    ///
    /// # Errors
    /// What the files raise.
    pub fn remove(&self, id: u64) -> Result<bool, IndexError> {
        let (removed, waiting, live) = {
            let mut rows = self.rows.write();
            (rows.remove(id)?, rows.removed(), rows.len())
        };
        if waiting >= VACUUM_MIN && waiting * VACUUM_SHARE >= waiting + live {
            self.vacuum()?;
        }
        Ok(removed)
    }

    /// The `k` nearest rows, nearest first, with exact distances.
    ///
    /// # Errors
    /// As [`Index::add`] for the query; damaged files.
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Match>, IndexError> {
        self.search_with(query, k, ScanOptions::default(), |_| true)
    }

    /// The `k` nearest rows of those that `filter` lets through: as many as there are, up to `k`,
    /// unless `options` end the scan before.
    ///
    /// # Errors
    /// As [`Index::search`].
    pub fn search_with(
        &self,
        query: &[f32],
        k: usize,
        options: ScanOptions,
        filter: impl Fn(u64) -> bool,
    ) -> Result<Vec<Match>, IndexError> {
        check_vector(&self.params, query)?;
        self.nearest(Scan::open(&self.graph, query, for_rows(options, k))?, query, k, filter)
    }

    /// The `k` nearest rows whose filter columns pass: as many as there are, up to `k`, unless
    /// `options` end the scan before.
    ///
    /// # Errors
    /// As [`Index::search`]; [`HnswError::Attributes`] where the filter asks for bytes that rows do
    /// not have.
    pub fn search_filtered(
        &self,
        query: &[f32],
        k: usize,
        options: ScanOptions,
        filter: Filter,
    ) -> Result<Vec<Match>, IndexError> {
        check_vector(&self.params, query)?;
        let scan = Scan::open_filtered(&self.graph, query, for_rows(options, k), filter)?;
        self.nearest(scan, query, k, |_| true)
    }

    fn nearest(
        &self,
        mut scan: Scan<'_, FileStore>,
        query: &[f32],
        k: usize,
        filter: impl Fn(u64) -> bool,
    ) -> Result<Vec<Match>, IndexError> {
        let metric = self.params.metric();
        // Sorted nearest first. A row is final when no bound to come can be below its distance.
        let mut nearest: Vec<Match> = Vec::new();
        while k > 0
            && let Some(hit) = scan.next()?
        {
            let is_full = nearest.len() >= k;
            if is_full && nearest[k - 1].distance <= f64::from(hit.lower_bound) {
                break;
            }
            let rows = self.rows.read();
            let Some(id) = rows.id(Row::of(hit.heap_tid)).filter(|&id| filter(id)) else {
                continue;
            };
            let distance = metric.distance(query, &rows.vector(Row::of(hit.heap_tid))?);
            let at = nearest.partition_point(|other| other.distance <= distance);
            nearest.insert(at, Match { id, distance });
            nearest.truncate(k);
        }
        Ok(nearest)
    }

    /// Cuts removed rows out of the graph and frees their space.
    ///
    /// # Errors
    /// What the files raise; the next vacuum goes on.
    pub fn vacuum(&self) -> Result<(), IndexError> {
        let removed = self.rows.read().removed_rows();
        let is_dead = |tid: HeapTid| removed.contains(&Row::of(tid));
        hnsw::bulk_delete(&self.graph, &mut { is_dead })?;
        hnsw::cleanup(&self.graph)?;
        self.forget_texts(&mut |tid| removed.contains(&Row::of(tid)))?;
        // The rows' space is used again only when nothing in the graph can lead there after a crash.
        self.graph.sync()?;
        self.rows.write().free(&removed)?;
        Ok(())
    }

    /// Makes every change up to now durable.
    ///
    /// # Errors
    /// What the file system raises.
    pub fn sync(&self) -> Result<(), IndexError> {
        // A row counts once its text is durable.
        #[cfg(feature = "bm25")]
        if let Some(texts) = &self.texts {
            texts.sync()?;
        }
        self.rows.read().store().sync()?;
        self.graph.sync()?;
        Ok(())
    }

    /// Rows in the index.
    pub fn len(&self) -> usize {
        self.rows.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the index was made with.
    pub fn params(&self) -> &HnswParams {
        &self.params
    }

    /// The vector of a row.
    ///
    /// # Errors
    /// Damaged files.
    pub fn vector(&self, id: u64) -> Result<Option<Vec<f32>>, IndexError> {
        let rows = self.rows.read();
        rows.row(id).map(|row| rows.vector(row)).transpose().map_err(IndexError::from)
    }

    /// The graph's pages, for [`hnsw::check`] and [`hnsw::info`].
    pub fn graph(&self) -> &impl PageStore {
        &self.graph
    }

    /// After a crash one file may be ahead of the other: adds rows that the graph lacks, and cuts
    /// from it what no row stands behind.
    fn reconcile(&self) -> Result<(), IndexError> {
        self.reconcile_texts()?;
        let mut indexed = std::collections::HashSet::new();
        let mut orphans = false;
        {
            let rows = self.rows.read();
            hnsw::each_tid(&self.graph, &mut |tid| {
                orphans |= rows.id(Row::of(tid)).is_none();
                indexed.insert(Row::of(tid));
            })?;
        }
        if orphans {
            let rows = self.rows.read();
            let mut is_dead = |tid: HeapTid| rows.id(Row::of(tid)).is_none();
            hnsw::bulk_delete(&self.graph, &mut is_dead)?;
            hnsw::cleanup(&self.graph)?;
            drop(rows);
            self.graph.sync()?;
            let removed = self.rows.read().removed_rows();
            self.rows.write().free(&removed)?;
        }
        let rows = self.rows.read();
        for row in rows.live_rows().filter(|row| !indexed.contains(row)) {
            let (vector, attrs) = rows.vector_and_attributes(row)?;
            hnsw::insert_with_attributes(&self.graph, &vector, &attrs, row.tid())?;
        }
        Ok(())
    }
}

impl Index {
    /// Takes back rows that a crash left without their text, and forgets texts without a row.
    #[cfg(feature = "bm25")]
    fn reconcile_texts(&self) -> Result<(), IndexError> {
        let Some(texts) = &self.texts else { return Ok(()) };
        let complete = texts.rows()?;
        let torn: Vec<u64> = {
            let rows = self.rows.read();
            let torn = rows.live_rows().filter(|row| !complete.contains(row));
            torn.filter_map(|row| rows.id(row)).collect()
        };
        for id in torn {
            self.rows.write().remove(id)?;
        }
        let rows = self.rows.read();
        if complete.iter().any(|&row| rows.id(row).is_none()) {
            texts.forget(&mut |tid| rows.id(Row::of(tid)).is_none())?;
        }
        Ok(())
    }

    #[cfg(not(feature = "bm25"))]
    fn reconcile_texts(&self) -> Result<(), IndexError> {
        Ok(())
    }
}

/// The options of a scan that `k` rows are asked of.
fn for_rows(options: ScanOptions, k: usize) -> ScanOptions {
    let k = u32::try_from(k).unwrap_or(u32::MAX);
    ScanOptions { expected_rows: options.expected_rows.max(k), ..options }
}

fn check_vector(params: &HnswParams, vector: &[f32]) -> Result<(), IndexError> {
    if vector.len() != params.dims() {
        let (expected, got) = (params.dims(), vector.len());
        return Err(HnswError::Dims { expected, got }.into());
    }
    if let Some((at, &got)) = vector.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        return Err(IndexError::NotFinite { at, got });
    }
    if params.metric() == Metric::Cosine && vector.iter().all(|&value| value == 0.0) {
        return Err(IndexError::ZeroVector);
    }
    Ok(())
}
