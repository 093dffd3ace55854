//! A consistent view of an index, which scans read: its segments and, as one more segment in
//! memory, the rows of its pending list.
//!
//! A view is taken from the metapage once and stays valid while its snapshot lives, whatever is
//! merged or vacuumed meanwhile: segments are immutable, and their pages are given to others only
//! after every snapshot that may need them is gone. On a standby that last rule does not hold; a
//! page that is not the segment's any more gives [`Bm25Error::Recycled`], and the scan starts over
//! from a new view.

use super::engine::{MemorySegment, PageDirectory, SMALL_BUDGET, SegmentBuilder};
use super::error::Bm25Error;
use super::layout::{Meta, MetaMark};
use super::params::Bm25Params;
use super::pending::{self, Extent, TailMark};
use super::segment::{DeadBits, SegmentMap};
use crate::page::{HeapTid, PageStore};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use tantivy::tokenizer::TextAnalyzer;
use tantivy::{ReloadPolicy, Searcher};

/// Bytes of segments that a view keeps in memory unless told otherwise.
pub const DEFAULT_CACHE_BYTES: usize = 64 << 20;

/// Times that a view is tried again when pages are recycled under it.
const ATTEMPTS: usize = 8;

/// An index as it was at one moment.
pub struct View<S> {
    pub(crate) store: Arc<S>,
    pub(crate) params: Bm25Params,
    pub(crate) searcher: Searcher,
    pub(crate) segments: Vec<ViewSegment>,
    directory: PageDirectory<S>,
    /// The columns' analyzers, to be cloned: some take longer to make than a search.
    analyzers: Vec<TextAnalyzer>,
    lengths: Arc<Lengths>,
    mark: MetaMark,
    tail: TailMark,
}

/// The shortest and the longest text of a segment's column, each as tantivy's byte: by the segment's
/// serial number and the column.
type Lengths = Mutex<HashMap<(u64, usize), RangeInclusive<u8>>>;

/// Where a segment's heap TIDs come from.
pub(crate) enum ViewSegment {
    Pages { map: Arc<SegmentMap>, dead: Option<DeadBits> },
    Memory(Arc<MemorySegment>),
}

impl<S: PageStore + Send + Sync + 'static> View<S> {
    /// Takes a view of the index. `cache_bytes` bounds what it keeps of the segments in memory.
    ///
    /// # Errors
    /// [`Bm25Error::Page`] where a page is damaged or cannot be read.
    pub fn open(store: Arc<S>, cache_bytes: usize) -> Result<Self, Bm25Error> {
        Self::take(&store, cache_bytes, None)
    }

    /// A new view where the index has changed, which keeps what this one has read of the segments
    /// that are still there; nothing where this one still holds.
    ///
    /// # Errors
    /// As for [`View::open`].
    pub fn renew(&self) -> Result<Option<Self>, Bm25Error> {
        if self.is_current()? {
            return Ok(None);
        }
        Self::take(&self.store, 0, Some(self)).map(Some)
    }

    /// Whether the index has not changed since.
    ///
    /// # Errors
    /// As for [`View::open`].
    pub fn is_current(&self) -> Result<bool, Bm25Error> {
        Ok(MetaMark::read(&*self.store)? == self.mark && self.tail.still_holds(&*self.store)?)
    }

    fn take(store: &Arc<S>, cache_bytes: usize, old: Option<&Self>) -> Result<Self, Bm25Error> {
        let mut attempt = 1;
        loop {
            match Self::try_take(store, cache_bytes, old) {
                Err(Bm25Error::Recycled(_)) if attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    fn try_take(store: &Arc<S>, cache_bytes: usize, old: Option<&Self>) -> Result<Self, Bm25Error> {
        let (meta, mark) = Meta::load_marked(&**store)?;
        let tail = TailMark::read(&**store, &meta)?;
        let known: HashMap<u64, &Arc<SegmentMap>> = old
            .iter()
            .flat_map(|view| &view.segments)
            .filter_map(|segment| match segment {
                ViewSegment::Pages { map, .. } => Some((map.entry.id, map)),
                ViewSegment::Memory(_) => None,
            })
            .collect();
        let mut segments = Vec::new();
        let mut maps = Vec::new();
        for &entry in &meta.segments {
            let map = match known.get(&entry.id) {
                Some(map) if map.entry == entry => Arc::clone(map),
                _ => Arc::new(SegmentMap::load(&**store, entry)?),
            };
            let dead = map.dead_bits(&**store)?;
            maps.push(Arc::clone(&map));
            segments.push(ViewSegment::Pages { map, dead });
        }
        let rows = pending::read(&**store, &meta, Extent::Whole)?.rows;
        let memory = if rows.is_empty() {
            None
        } else {
            let mut builder = SegmentBuilder::new(&meta.params, SMALL_BUDGET)?;
            for row in &rows {
                builder.add(row.texts.iter().map(Option::as_deref), row.tid)?;
            }
            Some(Arc::new(builder.finish()?))
        };
        if let Some(memory) = &memory {
            segments.push(ViewSegment::Memory(Arc::clone(memory)));
        }
        let directory = match old {
            Some(old) => old.directory.with_segments(&meta.params, &maps, memory)?,
            None => {
                PageDirectory::new(Arc::clone(store), &meta.params, &maps, memory, cache_bytes)?
            }
        };
        let index = directory.open(&meta.params)?;
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .doc_store_cache_num_blocks(0)
            .try_into()
            .map_err(|error| directory.explain(error))?;
        let analyzers = match old {
            Some(old) if old.params.columns() == meta.params.columns() => old.analyzers.clone(),
            _ => meta.params.columns().iter().map(|column| column.config.analyzer()).collect(),
        };
        Ok(Self {
            store: Arc::clone(store),
            params: meta.params,
            searcher: reader.searcher(),
            segments,
            directory,
            analyzers,
            lengths: old.map_or_else(Arc::default, |old| Arc::clone(&old.lengths)),
            mark,
            tail,
        })
    }

    /// The index's parameters.
    pub fn params(&self) -> &Bm25Params {
        &self.params
    }

    /// Documents in the view, those included that vacuum found dead and no merge has dropped.
    pub fn docs(&self) -> u64 {
        self.searcher.segment_readers().iter().map(|reader| u64::from(reader.max_doc())).sum()
    }

    /// Segments, and rows of the pending list.
    pub fn shape(&self) -> (usize, usize) {
        let pending = self
            .segments
            .iter()
            .map(|segment| match segment {
                ViewSegment::Memory(memory) => memory.tids.len(),
                ViewSegment::Pages { .. } => 0,
            })
            .sum();
        (self.segments.len() - usize::from(pending > 0), pending)
    }

    /// Turns an error of tantivy's into what caused it.
    pub(crate) fn explain(&self, error: tantivy::TantivyError) -> Bm25Error {
        self.directory.explain(error)
    }

    /// The columns' analyzers.
    pub(crate) fn analyzers(&self) -> &[TextAnalyzer] {
        &self.analyzers
    }

    /// The lengths of a segment's texts in a column, as tantivy's bytes.
    pub(crate) fn lengths(
        &self,
        segment: usize,
        column: usize,
    ) -> Result<RangeInclusive<u8>, Bm25Error> {
        let key = match &self.segments[segment] {
            ViewSegment::Pages { map, .. } => Some((map.entry.id, column)),
            ViewSegment::Memory(_) => None,
        };
        let mut known = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lengths) = key.and_then(|key| known.get(&key)) {
            return Ok(lengths.clone());
        }
        let reader = self.searcher.segment_reader(segment as u32);
        let norms = reader
            .get_fieldnorms_reader(self.params.fields()[column])
            .map_err(|error| self.explain(error))?;
        let ids = (0..reader.max_doc()).map(|doc| norms.fieldnorm_id(doc));
        // A text of no term has no score.
        let (shortest, longest) = ids
            .filter(|&id| id > 0)
            .fold((u8::MAX, 0), |(least, most), id| (id.min(least), id.max(most)));
        let lengths = shortest..=longest;
        if let Some(key) = key {
            known.insert(key, lengths.clone());
        }
        Ok(lengths)
    }

    /// The heap TID of a document.
    pub(crate) fn tid(&self, segment: usize, doc: u32) -> Result<HeapTid, Bm25Error> {
        match &self.segments[segment] {
            ViewSegment::Pages { map, .. } => self.directory.tid(map, doc),
            ViewSegment::Memory(memory) => Ok(memory.tids[doc as usize]),
        }
    }

    /// The heap TIDs of all documents of a segment.
    pub(crate) fn tids(&self, segment: usize) -> Result<Vec<HeapTid>, Bm25Error> {
        match &self.segments[segment] {
            ViewSegment::Pages { map, .. } => map.tids(&*self.store),
            ViewSegment::Memory(memory) => Ok(memory.tids.clone()),
        }
    }

    /// The dead documents of a segment.
    pub(crate) fn dead(&self, segment: usize) -> Option<&DeadBits> {
        match &self.segments[segment] {
            ViewSegment::Pages { dead, .. } => dead.as_ref(),
            ViewSegment::Memory(_) => None,
        }
    }
}
