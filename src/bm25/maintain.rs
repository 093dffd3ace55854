//! Everything that changes an index: making it, inserting, turning pending rows into segments,
//! merging segments, vacuum.
//!
//! One at a time holds the maintenance lock and rearranges segments; inserts go on beside it. New
//! pages are written first, each in a transaction of its own and referred to by nothing; one
//! transaction on the metapage then puts the new segment in the old ones' place. So after a crash at
//! any point the index is the old one or the new one, and at worst has lost pages, which the next
//! vacuum's sweep finds.
//!
//! Lock order: maintenance lock, update lock, metapage, pending or free page, new page.

use super::alloc::{self, mapped_blocks, write_map};
use super::engine::{self, MemorySegment, PageDirectory, SMALL_BUDGET, SegmentBuilder};
use super::error::Bm25Error;
use super::layout::{
    FreeChain, Header, Kind, Link, MAX_SEGMENTS, METAPAGE, Meta, NIL, SegmentEntry,
};
use super::params::Bm25Params;
use super::pending;
use super::segment::{Part, SegmentMap, write_segment};
use crate::page::{BlockNumber, HeapTid, LockMode, PageError, PagePin, PageStore, PageTxn, Wait};
use std::sync::Arc;
use tantivy::directory::OwnedBytes;
use tantivy::fastfield::AliveBitSet;

/// Pages of the pending list past which an insert merges it, 512 KiB.
pub const PENDING_LIMIT: u32 = 64;
/// Segments of about the same size that are merged into one.
const FAN_IN: usize = 8;
/// Documents of the smallest size class.
const SMALLEST_TIER: u32 = 1024;
/// Documents that an insert's own merge touches at most; larger segments wait for vacuum.
const INSERT_MERGE_DOCS: u64 = 1 << 16;
/// Bytes of segments that are merged at once; the result is made in memory.
const MERGE_BYTES: u64 = 1 << 30;
/// A segment of which this share (one in …) is dead is rewritten by vacuum.
const DEAD_SHARE: u32 = 10;

/// Makes an empty index in an empty store.
///
/// # Errors
/// [`Bm25Error::Page`] where a page cannot be written.
pub fn create<S: PageStore>(store: &S, params: &Bm25Params) -> Result<(), Bm25Error> {
    let mut txn = store.begin()?;
    let metapage = txn.extend()?;
    let blkno = txn.extend()?;
    if (metapage, blkno) != (METAPAGE, 1) {
        return Err(PageError::Corrupt {
            blkno: metapage,
            offno: 0,
            expected: "an empty store",
            got: format!("{metapage} pages"),
        }
        .into());
    }
    let first = Link { blkno, owner: 1 };
    Header::new(Kind::Pending, first.owner, 0).seal(txn.page(blkno)?);
    let meta = Meta {
        params: params.clone(),
        version: 1,
        next_serial: 2,
        pending_head: first,
        pending_tail: first,
        pending_pages: 1,
        segments: Vec::new(),
        chains: Vec::new(),
    };
    meta.write(txn.page(METAPAGE)?);
    Ok(txn.commit()?)
}

/// Changes `k1` and `b`, which takes no rebuild.
///
/// # Errors
/// [`Bm25Error::Params`] where they are out of range.
pub fn set_constants<S: PageStore>(store: &S, k1: f32, b: f32) -> Result<(), Bm25Error> {
    let mut txn = store.begin()?;
    let mut meta = Meta::parse(txn.page(METAPAGE)?)?;
    meta.params = meta.params.with_constants(k1, b)?;
    meta.version += 1;
    meta.write(txn.page(METAPAGE)?);
    Ok(txn.commit()?)
}

/// Inserts a row, one text or NULL a column: one page write, and now and then a merge of what has
/// piled up.
///
/// # Errors
/// [`Bm25Error::TooLong`] for a row of more than [`super::MAX_ROW_BYTES`]; [`Bm25Error::Page`].
pub fn insert<S: PageStore + Send + Sync + 'static>(
    store: &Arc<S>,
    texts: &[Option<&str>],
    tid: HeapTid,
) -> Result<(), Bm25Error> {
    let pages = {
        let _lock = store.lock_updates(LockMode::Shared)?;
        store.failpoint("text insert begins")?;
        let pages = pending::append(&**store, texts, tid)?;
        store.failpoint("text insert wrote its row")?;
        pages
    };
    if pages > PENDING_LIMIT
        && let Some(_lock) = store.lock_maintenance(Wait::No)?
    {
        merge_pending_locked(store)?;
        merge_tiers(store, INSERT_MERGE_DOCS)?;
    }
    Ok(())
}

/// Merges the pending list and, where `all` segments are asked for, everything into one segment
/// without dead rows.
///
/// # Errors
/// [`Bm25Error::Page`] where a page is damaged or cannot be written.
pub fn merge<S: PageStore + Send + Sync + 'static>(
    store: &Arc<S>,
    extent: MergeExtent,
) -> Result<(), Bm25Error> {
    let _lock = store.lock_maintenance(Wait::Yes)?;
    merge_pending_locked(store)?;
    match extent {
        MergeExtent::Pending => merge_tiers(store, u64::MAX),
        MergeExtent::Everything => {
            let segments = Meta::load(&**store)?.segments;
            let whole = segments.len() == 1 && segments[0].dead == 0;
            if segments.is_empty() || whole { Ok(()) } else { merge_segments(store, &segments) }
        }
    }
}

/// How far [`merge`] goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeExtent {
    /// The pending list, and segments of which there are many of one size.
    Pending,
    /// Everything into one segment.
    Everything,
}

/// What a vacuum did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VacuumStats {
    /// Rows found dead.
    pub removed: u64,
    /// Rows left.
    pub kept: u64,
    /// Pages that a crash had left unused and that are free again.
    pub recovered_pages: u64,
    /// Pages that wait to be used again.
    pub free_pages: u64,
}

/// Forgets the rows that `is_dead` names.
///
/// # Errors
/// [`Bm25Error::Page`] where a page is damaged or cannot be written.
pub fn bulk_delete<S: PageStore + Send + Sync + 'static>(
    store: &Arc<S>,
    is_dead: &mut dyn FnMut(HeapTid) -> bool,
) -> Result<VacuumStats, Bm25Error> {
    let _lock = store.lock_maintenance(Wait::Yes)?;
    store.failpoint("text vacuum begins")?;
    // Waits out inserts that began before and still hold a row; later ones are of living rows.
    drop(store.lock_updates(LockMode::Exclusive)?);
    store.failpoint("text vacuum waited for inserts")?;
    merge_pending_locked(store)?;
    store.failpoint("text vacuum merged the pending rows")?;
    let mut stats = VacuumStats::default();
    for entry in Meta::load(&**store)?.segments {
        store.check_interrupts()?;
        let map = SegmentMap::load(&**store, entry)?;
        let bits = map.dead_bits(&**store)?;
        let mut dead = Vec::new();
        for (doc, tid) in (0..).zip(map.tids(&**store)?) {
            if bits.as_ref().is_some_and(|bits| bits.contains(doc)) {
                continue;
            }
            if is_dead(tid) {
                dead.push(doc);
            } else {
                stats.kept += 1;
            }
        }
        stats.removed += u64::from(map.mark_dead(&**store, &dead)?);
        store.failpoint("text vacuum marked dead rows")?;
    }
    Ok(stats)
}

/// Ends a vacuum: merges the pending list, rewrites segments with many dead rows, merges small
/// segments, recovers pages that a crash left unused.
///
/// # Errors
/// [`Bm25Error::Page`] where a page is damaged or cannot be written.
pub fn cleanup<S: PageStore + Send + Sync + 'static>(
    store: &Arc<S>,
) -> Result<VacuumStats, Bm25Error> {
    let _lock = store.lock_maintenance(Wait::Yes)?;
    store.failpoint("text cleanup begins")?;
    merge_pending_locked(store)?;
    for entry in Meta::load(&**store)?.segments {
        if entry.dead > 0 && entry.dead >= entry.docs.div_ceil(DEAD_SHARE) {
            merge_segments(store, &[entry])?;
        }
    }
    merge_tiers(store, u64::MAX)?;
    store.failpoint("text cleanup merged segments")?;
    let recovered_pages = sweep(store)?;
    store.failpoint("text cleanup swept")?;
    let meta = Meta::load(&**store)?;
    Ok(VacuumStats {
        removed: 0,
        kept: meta.segments.iter().map(|entry| u64::from(entry.docs - entry.dead)).sum(),
        recovered_pages,
        free_pages: meta.chains.iter().map(|chain| u64::from(chain.pages)).sum(),
    })
}

/// Turns the pending list into a segment.
fn merge_pending_locked<S: PageStore + Send + Sync + 'static>(
    store: &Arc<S>,
) -> Result<(), Bm25Error> {
    let Some(until) = pending::close(&**store)? else { return Ok(()) };
    store.failpoint("the pending list is closed")?;
    let meta = Meta::load(&**store)?;
    let pending = pending::read(&**store, &meta, pending::Extent::Before(until))?;
    if meta.segments.len() == MAX_SEGMENTS {
        merge_smallest(store)?;
    }
    let entry = if pending.rows.is_empty() {
        None
    } else {
        let mut builder = SegmentBuilder::new(&meta.params, SMALL_BUDGET)?;
        for row in &pending.rows {
            builder.add(row.texts.iter().map(Option::as_deref), row.tid)?;
        }
        Some(write_memory(&**store, &builder.finish()?)?)
    };
    store.failpoint("the pending rows are a segment")?;
    let owner = draw_serial(&**store)?;
    let (head, tail, pages) = write_map(&**store, owner, &pending.blocks, &[])?;
    alloc::make_room(&**store, 1)?;
    store.failpoint("the pending pages are listed")?;
    let mut txn = store.begin()?;
    let mut meta = Meta::parse(txn.page(METAPAGE)?)?;
    let freed = pending.blocks.len() as u32;
    meta.pending_head = until;
    meta.pending_pages = meta.pending_pages.saturating_sub(freed).max(1);
    meta.segments.extend(entry);
    let pages = pages.saturating_add(freed);
    meta.chains.push(FreeChain { head, tail, pages, stamp: store.reuse_stamp() });
    meta.version += 1;
    meta.write(txn.page(METAPAGE)?);
    Ok(txn.commit()?)
}

fn draw_serial<S: PageStore>(store: &S) -> Result<u64, Bm25Error> {
    let mut txn = store.begin()?;
    let mut meta = Meta::parse(txn.page(METAPAGE)?)?;
    let serial = meta.draw_serial();
    meta.write(txn.page(METAPAGE)?);
    txn.commit()?;
    Ok(serial)
}

fn write_memory<S: PageStore>(
    store: &S,
    segment: &MemorySegment,
) -> Result<SegmentEntry, Bm25Error> {
    let id = draw_serial(store)?;
    let files = [
        segment.file(Part::Terms)?,
        segment.file(Part::Postings)?,
        segment.file(Part::Positions)?,
        segment.file(Part::FieldNorms)?,
        segment.file(Part::FastFields)?,
    ];
    write_segment(store, id, files.each_ref().map(OwnedBytes::as_slice), &segment.tids)
}

/// Merges where [`FAN_IN`] segments are of one size class, until none are; segments that would
/// give more than `max_docs` documents are left alone.
fn merge_tiers<S: PageStore + Send + Sync + 'static>(
    store: &Arc<S>,
    max_docs: u64,
) -> Result<(), Bm25Error> {
    loop {
        store.check_interrupts()?;
        let segments = Meta::load(&**store)?.segments;
        let mut picked = None;
        for tier in 0..16 {
            let of_tier: Vec<SegmentEntry> = segments
                .iter()
                .copied()
                .filter(|entry| tier_of(entry.docs) == tier)
                .take(FAN_IN)
                .collect();
            let docs: u64 = of_tier.iter().map(|entry| u64::from(entry.docs)).sum();
            let bytes: u64 = of_tier.iter().map(|entry| entry.bytes).sum();
            if of_tier.len() == FAN_IN && docs <= max_docs && bytes <= MERGE_BYTES {
                picked = Some(of_tier);
                break;
            }
        }
        match picked {
            Some(segments) => merge_segments(store, &segments)?,
            None if segments.len() > MAX_SEGMENTS - FAN_IN => merge_smallest(store)?,
            None => return Ok(()),
        }
    }
}

fn tier_of(docs: u32) -> u32 {
    (docs / SMALLEST_TIER).checked_ilog(FAN_IN as u32).map_or(0, |log| log + 1)
}

/// Merges the smallest segments, whatever their size: the metapage is full.
fn merge_smallest<S: PageStore + Send + Sync + 'static>(store: &Arc<S>) -> Result<(), Bm25Error> {
    let mut segments = Meta::load(&**store)?.segments;
    let order: Vec<u64> = segments.iter().map(|entry| entry.id).collect();
    segments.sort_by_key(|entry| entry.docs);
    segments.truncate(FAN_IN);
    segments.sort_by_key(|entry| order.iter().position(|&id| id == entry.id));
    merge_segments(store, &segments)
}

/// Puts one segment without dead rows in the place of several.
fn merge_segments<S: PageStore + Send + Sync + 'static>(
    store: &Arc<S>,
    entries: &[SegmentEntry],
) -> Result<(), Bm25Error> {
    let params = Meta::load(&**store)?.params;
    let mut old = Vec::new();
    let (mut living, mut alive, mut tids) = (Vec::new(), Vec::new(), Vec::new());
    for &entry in entries {
        let map = Arc::new(SegmentMap::load(&**store, entry)?);
        old.push(Arc::clone(&map));
        if entry.dead == entry.docs {
            continue;
        }
        let bits = map.dead_bits(&**store)?;
        for (doc, tid) in (0..).zip(map.tids(&**store)?) {
            if bits.as_ref().is_none_or(|bits| !bits.contains(doc)) {
                tids.push(tid);
            }
        }
        alive.push(match bits {
            Some(bits) => Some(alive_bit_set(entry.docs, |doc| !bits.contains(doc))?),
            None => None,
        });
        living.push(map);
    }
    let entry = if tids.is_empty() {
        None
    } else {
        let directory = PageDirectory::new(Arc::clone(store), &params, &living, None, 0)?;
        let index = directory.open(&params)?;
        let merged = engine::merge(&directory, &index, alive, tids)?;
        store.check_interrupts()?;
        Some(write_memory(&**store, &merged)?)
    };
    store.failpoint("a merged segment is written")?;
    alloc::make_room(&**store, old.len())?;
    let mut txn = store.begin()?;
    let mut meta = Meta::parse(txn.page(METAPAGE)?)?;
    let at = meta.segments.iter().position(|known| known.id == entries[0].id).unwrap_or(0);
    meta.segments.retain(|known| entries.iter().all(|gone| gone.id != known.id));
    if let Some(entry) = entry {
        meta.segments.insert(at.min(meta.segments.len()), entry);
    }
    for map in old {
        let (Some(&head), Some(&tail)) = (map.map_pages.first(), map.map_pages.last()) else {
            continue;
        };
        let pages = map.blocks().count() + map.map_pages.len();
        let stamp = store.reuse_stamp();
        meta.chains.push(FreeChain { head, tail, pages: pages as u32, stamp });
    }
    meta.version += 1;
    meta.write(txn.page(METAPAGE)?);
    txn.commit()?;
    Ok(store.failpoint("a merged segment took its place")?)
}

fn alive_bit_set(docs: u32, lives: impl Fn(u32) -> bool) -> Result<AliveBitSet, Bm25Error> {
    let mut bits = tantivy::BitSet::with_max_value(docs);
    for doc in (0..docs).filter(|&doc| lives(doc)) {
        bits.insert(doc);
    }
    let mut bytes = Vec::new();
    tantivy::fastfield::write_alive_bitset(&bits, &mut bytes)
        .map_err(|error| Bm25Error::Engine(error.to_string()))?;
    Ok(AliveBitSet::open(OwnedBytes::new(bytes)))
}

/// Every page that something refers to, as a bit a page.
pub(crate) fn pages_in_use<S: PageStore>(
    store: &S,
    meta: &Meta,
    page_count: BlockNumber,
    note: &mut dyn FnMut(BlockNumber, &'static str),
) -> Result<(), Bm25Error> {
    note(METAPAGE, "metapage");
    for blkno in pending::read(store, meta, pending::Extent::Whole)?.blocks {
        note(blkno, "pending list");
    }
    for &entry in &meta.segments {
        let map = SegmentMap::load(store, entry)?;
        for &blkno in &map.map_pages {
            note(blkno, "segment map");
        }
        for blkno in map.blocks() {
            note(blkno, "segment");
        }
    }
    for chain in &meta.chains {
        let (mut at, mut walked) = (chain.head, 0);
        loop {
            let pin = store.pin(at)?;
            let guard = pin.lock_shared();
            let header = Header::read(at, &guard)?;
            walked += 1;
            let blkno = at;
            let bad = |expected, got| PageError::Corrupt { blkno, offno: 0, expected, got };
            if header.kind != Kind::Map {
                return Err(bad("a list of free pages", format!("{:?}", header.kind)).into());
            }
            if walked > page_count {
                return Err(bad("each page once", "a cycle".to_owned()).into());
            }
            note(at, "list of free pages");
            for blkno in mapped_blocks(at, &header, header.payload(&guard), page_count)? {
                note(blkno, "free");
            }
            if at == chain.tail {
                break;
            }
            at = header.next;
            if at == NIL {
                return Err(bad("the chain's next page", "its end".to_owned()).into());
            }
        }
    }
    Ok(())
}

/// Finds the pages that nothing refers to, left by a crash or an error between a segment's pages
/// and its entry, and frees them.
fn sweep<S: PageStore>(store: &Arc<S>) -> Result<u64, Bm25Error> {
    let lost: Vec<BlockNumber> = {
        // No insert is under way, so no page is in use that nothing refers to yet.
        let _lock = store.lock_updates(LockMode::Exclusive)?;
        let meta = Meta::load(&**store)?;
        let page_count = store.page_count()?;
        let mut used = vec![false; page_count as usize];
        pages_in_use(&**store, &meta, page_count, &mut |blkno, _| {
            if let Some(used) = used.get_mut(blkno as usize) {
                *used = true;
            }
        })?;
        (0..page_count).filter(|&blkno| !used[blkno as usize]).collect()
    };
    if lost.is_empty() {
        return Ok(0);
    }
    let owner = draw_serial(&**store)?;
    let (head, tail, pages) = write_map(&**store, owner, &lost, &[])?;
    alloc::make_room(&**store, 1)?;
    let mut txn = store.begin()?;
    let mut meta = Meta::parse(txn.page(METAPAGE)?)?;
    let pages = pages.saturating_add(lost.len() as u32);
    meta.chains.push(FreeChain { head, tail, pages, stamp: store.reuse_stamp() });
    meta.write(txn.page(METAPAGE)?);
    txn.commit()?;
    Ok(lost.len() as u64)
}

/// Fills a new index from many rows: segments as large as the memory allows, merged into one at
/// the end.
pub struct Builder<S> {
    store: Arc<S>,
    params: Bm25Params,
    memory_limit: usize,
    segment: SegmentBuilder,
    rows: u64,
}

/// Memory that a builder has at least.
const MIN_BUILD_MEMORY: usize = 16 << 20;

impl<S: PageStore + Send + Sync + 'static> Builder<S> {
    /// Makes an empty index in an empty store and starts to fill it. `memory_limit` is in bytes.
    ///
    /// # Errors
    /// As for [`create`].
    pub fn new(store: Arc<S>, params: Bm25Params, memory_limit: usize) -> Result<Self, Bm25Error> {
        create(&*store, &params)?;
        store.failpoint("text build has an empty index")?;
        let memory_limit = memory_limit.max(MIN_BUILD_MEMORY);
        let segment = SegmentBuilder::new(&params, memory_limit / 2)?;
        Ok(Self { store, params, memory_limit, segment, rows: 0 })
    }

    /// Adds a row, one text or NULL a column.
    ///
    /// # Errors
    /// [`Bm25Error::Page`] where a segment had to be written and could not be.
    pub fn add(&mut self, texts: &[Option<&str>], tid: HeapTid) -> Result<(), Bm25Error> {
        let expected = self.params.columns().len();
        if texts.len() != expected {
            return Err(Bm25Error::Columns { expected, got: texts.len() });
        }
        self.segment.add(texts.iter().copied(), tid)?;
        self.rows += 1;
        if self.segment.len().is_multiple_of(256) && self.segment.memory() > self.memory_limit {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Bm25Error> {
        let fresh = SegmentBuilder::new(&self.params, self.memory_limit / 2)?;
        let full = std::mem::replace(&mut self.segment, fresh);
        if full.len() == 0 {
            return Ok(());
        }
        if Meta::load(&*self.store)?.segments.len() == MAX_SEGMENTS {
            merge_smallest(&self.store)?;
        }
        let entry = write_memory(&*self.store, &full.finish()?)?;
        self.store.failpoint("text build wrote a segment")?;
        let mut txn = self.store.begin()?;
        let mut meta = Meta::parse(txn.page(METAPAGE)?)?;
        meta.segments.push(entry);
        meta.version += 1;
        meta.write(txn.page(METAPAGE)?);
        Ok(txn.commit()?)
    }

    /// Writes what is left and returns the number of rows.
    ///
    /// # Errors
    /// As for [`Builder::add`].
    pub fn finish(mut self) -> Result<u64, Bm25Error> {
        self.flush()?;
        self.store.failpoint("text build wrote all segments")?;
        let segments = Meta::load(&*self.store)?.segments;
        let bytes: u64 = segments.iter().map(|entry| entry.bytes).sum();
        if segments.len() > 1 && bytes <= MERGE_BYTES.max(self.memory_limit as u64) {
            merge_segments(&self.store, &segments)?;
        }
        Ok(self.rows)
    }
}
