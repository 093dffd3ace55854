//! The text half of an embedded index: a full text index (`crate::bm25`) in a third file, whose heap
//! TIDs are the rows' places.
//!
//! A row's text is kept by the full text index alone. So it is written before the row counts: a row
//! that a crash left without its text was never synced and is taken back on opening, and a row's place
//! is given to another row only after its text is forgotten durably.

use super::{Index, IndexError, Match};
use crate::bm25::{self, Bm25Error, Bm25Params, HeapTid, Prepared, Query, RankedScan, Scope, View};
use crate::fusion::{Leg, RRF_K, reciprocal_rank};
use crate::hnsw::{BuildOptions, HnswParams};
use crate::index::rows::Row;
use crate::page::FileStore;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Bytes of segments that searches keep in memory beside the pages.
const CACHE_BYTES: usize = 32 << 20;
/// Times that a search starts over when a merge uses pages under it again.
const ATTEMPTS: usize = 8;
/// What the text is called in queries: `text:word`.
const SCOPE: Scope<'static> = Scope { names: &["text"], defaults: &[0] };

/// The full text index and the view that the last search read.
pub(super) struct Texts {
    store: Arc<FileStore>,
    view: Mutex<Option<Arc<View<FileStore>>>>,
}

/// A row that a text search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextMatch {
    /// The id it was added under.
    pub id: u64,
    /// BM25, higher is better.
    pub score: f32,
}

/// A query by meaning and by words at once.
#[derive(Debug, Clone, Copy)]
pub struct Hybrid<'q> {
    /// The query's embedding.
    pub vector: &'q [f32],
    /// The query as typed; see [`Query::lenient`].
    pub text: &'q str,
    /// Best rows of each list that are fused.
    pub candidates: usize,
    /// What the lists count, that of the vectors first.
    pub weights: [f32; 2],
    /// `k` of reciprocal rank fusion.
    pub rrf_k: u32,
}

impl<'q> Hybrid<'q> {
    /// A query with 200 candidates, equal weights and `k` 60.
    pub fn new(vector: &'q [f32], text: &'q str) -> Self {
        Self { vector, text, candidates: 200, weights: [1.0, 1.0], rrf_k: RRF_K }
    }
}

/// A row that a hybrid search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HybridMatch {
    /// The id it was added under.
    pub id: u64,
    /// The fused score, higher is better.
    pub score: f64,
    /// Its rank by nearness, counted from 1, where it is a candidate there.
    pub vector_rank: Option<u32>,
    /// Its rank by words.
    pub text_rank: Option<u32>,
}

impl Texts {
    pub(super) fn create(dir: &Path, params: &Bm25Params) -> Result<Self, IndexError> {
        let store = FileStore::open(&dir.join("text"))?;
        bm25::create(&store, params)?;
        store.checkpoint()?;
        Ok(Self { store: Arc::new(store), view: Mutex::new(None) })
    }

    /// Opens the text half where the index has one.
    pub(super) fn open(dir: &Path) -> Result<Option<Self>, IndexError> {
        if !dir.join("text").is_file() {
            return Ok(None);
        }
        let store = Arc::new(FileStore::open(&dir.join("text"))?);
        Ok(Some(Self { store, view: Mutex::new(None) }))
    }

    /// Adds a row's text; a row without one is noted too, so that it is known to be complete.
    pub(super) fn add(&self, row: Row, text: Option<&str>) -> Result<(), IndexError> {
        Ok(bm25::insert(&self.store, &[text], row.tid())?)
    }

    /// Forgets the rows that `is_dead` names.
    pub(super) fn forget(
        &self,
        is_dead: &mut dyn FnMut(HeapTid) -> bool,
    ) -> Result<(), IndexError> {
        bm25::bulk_delete(&self.store, is_dead)?;
        bm25::cleanup(&self.store)?;
        Ok(self.store.sync()?)
    }

    pub(super) fn sync(&self) -> Result<(), IndexError> {
        Ok(self.store.sync()?)
    }

    /// Every row that the index has, with its text or without.
    pub(super) fn rows(&self) -> Result<HashSet<Row>, IndexError> {
        let view = self.view()?;
        let prepared = Prepared::new(&view, &Query::everything(), SCOPE)?;
        let mut rows = HashSet::new();
        view.matches(&prepared, &mut |tid| {
            rows.insert(Row::of(tid));
        })?;
        Ok(rows)
    }

    fn view(&self) -> Result<Arc<View<FileStore>>, Bm25Error> {
        let mut kept = self.view.lock();
        let fresh = match &*kept {
            Some(view) => view.renew()?.map(Arc::new),
            None => Some(Arc::new(View::open(Arc::clone(&self.store), CACHE_BYTES)?)),
        };
        if let Some(fresh) = fresh {
            *kept = Some(fresh);
        }
        Ok(Arc::clone(kept.as_ref().expect("it was just put there")))
    }

    fn search(
        &self,
        query: &Query,
        k: usize,
        id: &impl Fn(Row) -> Option<u64>,
    ) -> Result<Vec<TextMatch>, Bm25Error> {
        let view = self.view()?;
        let prepared = Prepared::new(&view, query, SCOPE)?;
        let mut scan = RankedScan::new(view, &prepared, k, None)?;
        let mut found = Vec::new();
        while found.len() < k
            && let Some(hit) = scan.next()?
        {
            if let Some(id) = id(Row::of(hit.tid)) {
                found.push(TextMatch { id, score: hit.score });
            }
        }
        Ok(found)
    }
}

impl Index {
    /// Makes an index without rows in `dir` whose rows have a text as well: one column, cut into terms
    /// and scored as `text` says.
    ///
    /// # Errors
    /// As [`Index::create`]; [`Bm25Error::Columns`] where `text` has several columns.
    pub fn create_hybrid(
        dir: &Path,
        params: HnswParams,
        text: &Bm25Params,
    ) -> Result<Self, IndexError> {
        if text.columns().len() != 1 {
            return Err(Bm25Error::Columns { expected: 1, got: text.columns().len() }.into());
        }
        let mut index =
            Self::create_with(dir, params, BuildOptions::default(), std::iter::empty())?;
        index.texts = Some(Texts::create(dir, text)?);
        Ok(index)
    }

    /// Adds a row with a text.
    ///
    /// # Errors
    /// As [`Index::add`]; [`IndexError::NoText`] where the index was made without text.
    pub fn add_with_text(&self, id: u64, vector: &[f32], text: &str) -> Result<(), IndexError> {
        if self.texts.is_none() {
            return Err(IndexError::NoText);
        }
        self.add_row(id, vector, &[], Some(text))
    }

    /// The `k` best rows for a query, best first; the query language is [`Query`]'s.
    ///
    /// # Errors
    /// [`IndexError::NoText`]; [`Bm25Error::Query`] where the query names another column than `text`;
    /// damaged files.
    pub fn search_text(&self, query: &Query, k: usize) -> Result<Vec<TextMatch>, IndexError> {
        let texts = self.texts.as_ref().ok_or(IndexError::NoText)?;
        let id = |row: Row| self.rows.read().id(row);
        let mut attempt = 1;
        loop {
            match texts.search(query, k, &id) {
                Err(Bm25Error::Recycled(_)) if attempt < ATTEMPTS => attempt += 1,
                result => return Ok(result?),
            }
        }
    }

    /// The `k` best rows by nearness and by words: two lists, fused by reciprocal ranks. Rows of equal
    /// scores come in the order of their ids.
    ///
    /// # Errors
    /// As [`Index::search`] and [`Index::search_text`].
    pub fn search_hybrid(
        &self,
        query: &Hybrid<'_>,
        k: usize,
    ) -> Result<Vec<HybridMatch>, IndexError> {
        let candidates = query.candidates.max(k);
        let near = self.search(query.vector, candidates)?;
        let near: Vec<(u64, f32)> =
            near.into_iter().map(|Match { id, distance }| (id, -distance as f32)).collect();
        let lexical = self.search_text(&Query::lenient(query.text, SCOPE.names), candidates)?;
        let lexical: Vec<(u64, f32)> =
            lexical.into_iter().map(|TextMatch { id, score }| (id, score)).collect();
        let legs = [
            Leg { hits: &near, weight: query.weights[0] },
            Leg { hits: &lexical, weight: query.weights[1] },
        ];
        let fused = reciprocal_rank(&legs, query.rrf_k);
        Ok(fused
            .into_iter()
            .take(k)
            .map(|row| HybridMatch {
                id: row.key,
                score: row.score,
                vector_rank: row.ranks[0],
                text_rank: row.ranks[1],
            })
            .collect())
    }

    /// The full text index's pages, for [`bm25::check`].
    pub fn text(&self) -> Option<&Arc<FileStore>> {
        self.texts.as_ref().map(|texts| &texts.store)
    }
}

impl From<Bm25Error> for IndexError {
    fn from(error: Bm25Error) -> Self {
        match error {
            Bm25Error::Page(error) => Self::Page(error),
            error => Self::Text(error),
        }
    }
}
