//! Bulk build: codes and graph in memory, linked by many threads, then written page by page.
//!
//! [`Builder::add`] quantizes and keeps a row; [`Builder::finish`] links all of them
//! (see `graph.rs`), places them (`order.rs`) and writes pages in that order, while workers fill the next ones. The calling
//! thread alone touches the store and the progress callbacks; workers only compute. The metapage that makes the
//! pages part of the index is written last, so a build that fails leaves an empty index.
//!
//! Rows whose codes are equal share a node.

use super::HnswError;
use super::code::{Code, Scorer};
use super::graph::{Graph, MAX_NODES, Scratch, draw_level, mix};
use super::keys;
use super::layout::{
    Entry, Layout, Link, METAPAGE, Meta, NIL, NodeInit, PageMut, write_attributes,
};
use super::order::{SlotUse, place_nodes};
use super::params::{HnswParams, Storage};
use super::sketch::Sketch;
use super::tag;
use crate::page::{
    BlockNumber, HeapTid, MAX_TXN_PAGES, PAGE_CONTENT, PageError, PageStore, PageTxn,
};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::Thread;
use std::time::Duration;

/// Vectors for which it is worth while to start a thread.
const MIN_SHARE: usize = 256;
/// Pages that a thread fills in one go.
const FILL_PAGES: usize = 32;
/// How often that may be done before the calling thread has written what was filled first.
const FILLS_AHEAD: usize = 2;
/// How often the calling thread looks up while workers link.
const POLL: Duration = Duration::from_millis(20);

/// How a build runs.
#[derive(Debug, Clone, Copy)]
pub struct BuildOptions {
    /// Threads that link nodes. With 1 the calling thread does it, and the result is the same each
    /// time; with more it differs a little from run to run.
    pub threads: usize,
    /// Bytes that the build may hold; `maintenance_work_mem` in PostgreSQL.
    pub memory_limit: usize,
    /// Seed of the node levels.
    pub seed: u64,
}

impl Default for BuildOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads, memory_limit: usize::MAX, seed: 0 }
    }
}

/// A row's vector as the index keeps it, see [`Builder::quantize`].
#[derive(Debug, Clone)]
pub struct Quantized(Code);

/// What became of an added row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Added {
    /// It is part of the build.
    Kept,
    /// It is not: the memory limit is reached. Call [`Builder::finish`], then [`super::insert`] this
    /// row and those after it.
    MemoryFull,
}

/// What a build is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildPhase {
    /// Linking nodes in memory; counted in nodes.
    Linking,
    /// Choosing pages for nodes; not counted.
    Placing,
    /// Writing pages; counted in pages.
    Writing,
}

/// Callbacks of [`Builder::finish`], all on the calling thread.
pub trait Progress {
    /// `done` of `total` of the phase is behind us.
    fn report(&mut self, phase: BuildPhase, done: u64, total: u64) {
        let _ = (phase, done, total);
    }

    /// Called right before worker threads start: a PostgreSQL backend blocks all signals here, so
    /// that the workers inherit the mask.
    fn before_spawn(&mut self) {}

    /// Called right after they started.
    fn after_spawn(&mut self) {}
}

/// Reports nothing.
impl Progress for () {}

/// What a build made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildStats {
    /// Nodes; rows with equal codes share one.
    pub nodes: u64,
    /// Rows.
    pub rows: u64,
    /// Pages, the metapage included.
    pub pages: u64,
}

/// Gathers rows for a bulk build.
pub struct Builder {
    params: HnswParams,
    options: BuildOptions,
    graph: Graph,
    tids: Vec<HeapTid>,
    /// The nodes' filter columns, as many bytes for each.
    attrs: Vec<u8>,
    /// Heap TIDs of rows that joined an earlier row's node.
    more_tids: HashMap<u32, Vec<HeapTid>>,
    /// Rows without a place in the graph.
    unplaced: Vec<HeapTid>,
    /// Hashes of rows' sources, with the rows' nodes.
    keys: Vec<(u64, u32)>,
    /// The first node with a code's hash.
    by_hash: HashMap<u64, u32>,
    rows: u64,
    bytes: usize,
}

impl Builder {
    /// A build with no rows yet.
    pub fn new(params: HnswParams, options: BuildOptions) -> Self {
        Self {
            params,
            options,
            graph: Graph::new(params),
            tids: Vec::new(),
            attrs: Vec::new(),
            more_tids: HashMap::new(),
            unplaced: Vec::new(),
            keys: Vec::new(),
            by_hash: HashMap::new(),
            rows: 0,
            bytes: 0,
        }
    }

    /// Adds a row. `vector` holds finite numbers; for [`crate::vector::Metric::Cosine`] it is not
    /// all zeros (such rows have no direction and stay out of the index, as in pgvector).
    ///
    /// # Errors
    /// [`HnswError::Dims`] where the length is not the index's, [`HnswError::Attributes`] where the
    /// index has filter columns.
    pub fn add(&mut self, vector: &[f32], tid: HeapTid) -> Result<Added, HnswError> {
        self.add_with_attributes(vector, &[], tid)
    }

    /// Adds a row with its filter columns, encoded as [`super::Filter`] compares them.
    ///
    /// # Errors
    /// [`HnswError::Dims`] and [`HnswError::Attributes`] where a length is not the index's.
    pub fn add_with_attributes(
        &mut self,
        vector: &[f32],
        attrs: &[u8],
        tid: HeapTid,
    ) -> Result<Added, HnswError> {
        super::check_dims(&self.params, vector)?;
        self.add_row(&Code::new(&self.params, vector), attrs, tid, None)
    }

    /// Adds a row whose vector was made from a source with the hash `key`, for
    /// [`super::insert_known`].
    ///
    /// # Errors
    /// As [`Builder::add_with_attributes`].
    pub fn add_with_key(
        &mut self,
        vector: &[f32],
        attrs: &[u8],
        tid: HeapTid,
        key: u64,
    ) -> Result<Added, HnswError> {
        super::check_dims(&self.params, vector)?;
        self.add_row(&Code::new(&self.params, vector), attrs, tid, Some(key))
    }

    /// Quantizes the vectors of a batch of rows, on as many threads as asked.
    ///
    /// # Errors
    /// [`HnswError::Dims`] where a length is not the index's.
    pub fn quantize(
        &self,
        vectors: &[Option<&[f32]>],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Option<Quantized>>, HnswError> {
        let share = vectors.len().div_ceil(self.options.threads.max(1)).max(MIN_SHARE);
        let quantize = |vectors: &[Option<&[f32]>]| -> Result<Vec<_>, HnswError> {
            let one = |vector: &Option<&[f32]>| {
                let Some(vector) = vector else { return Ok(None) };
                super::check_dims(&self.params, vector)?;
                Ok(Some(Quantized(Code::new(&self.params, vector))))
            };
            vectors.iter().map(one).collect()
        };
        let (own, others) = vectors.split_at(share.min(vectors.len()));
        std::thread::scope(|scope| {
            let quantize = &quantize;
            progress.before_spawn();
            let workers: Vec<_> =
                others.chunks(share).map(|part| scope.spawn(move || quantize(part))).collect();
            progress.after_spawn();
            let mut all = quantize(own)?;
            for worker in workers {
                match worker.join() {
                    Ok(part) => all.extend(part?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(all)
        })
    }

    /// [`Builder::add_with_key`] by the quantized vector.
    ///
    /// # Errors
    /// [`HnswError::Attributes`] where the length is not the index's.
    pub fn add_quantized(
        &mut self,
        vector: &Quantized,
        attrs: &[u8],
        tid: HeapTid,
        key: u64,
    ) -> Result<Added, HnswError> {
        self.add_row(&vector.0, attrs, tid, Some(key))
    }

    fn add_row(
        &mut self,
        code: &Code,
        attrs: &[u8],
        tid: HeapTid,
        key: Option<u64>,
    ) -> Result<Added, HnswError> {
        super::check_attributes(&self.params, attrs)?;
        // A vector that doubles holds old and new at once: half of the limit is for the growth.
        let node_bytes =
            Graph::bytes_per_node(&self.params) + size_of::<HeapTid>() + 24 + attrs.len();
        let scratch = self.options.threads.max(1) * self.graph.len() * 2;
        let is_full = self.bytes + node_bytes + scratch > self.options.memory_limit
            || self.graph.len() >= MAX_NODES;
        if is_full && self.rows > 0 {
            return Ok(Added::MemoryFull);
        }
        self.rows += 1;
        let hash = hash_row(code, attrs);
        if let Some(&node) = self.by_hash.get(&hash) {
            let same = self.graph.code(node);
            if same.scale.to_bits() == code.scale.to_bits()
                && same.codes == &*code.codes
                && self.node_attrs(node) == attrs
            {
                self.graph.widen_error(node, code.error);
                self.more_tids.entry(node).or_default().push(tid);
                self.bytes += size_of::<HeapTid>() * 2;
                self.add_key(key, node);
                return Ok(Added::Kept);
            }
        }
        let number = self.graph.len() as u64;
        let level = draw_level(self.options.seed, number, self.params.m())
            .min(Layout::new(&self.params).max_level());
        let node = self.graph.push(code, level);
        self.by_hash.entry(hash).or_insert(node);
        self.tids.push(tid);
        self.attrs.extend_from_slice(attrs);
        self.bytes += node_bytes;
        self.add_key(key, node);
        Ok(Added::Kept)
    }

    fn add_key(&mut self, key: Option<u64>, node: u32) {
        // Rows with one source follow each other's nodes; the table is to have each once.
        if let Some(key) = key
            && self.keys.last() != Some(&(key, node))
        {
            self.keys.push((key, node));
            self.bytes += 2 * size_of::<(u64, u32)>();
        }
    }

    fn node_attrs(&self, node: u32) -> &[u8] {
        let len = self.params.attr_len();
        &self.attrs[node as usize * len..][..len]
    }

    /// Adds a row that no distance places: a NULL, or a zero vector under cosine. See
    /// [`super::insert_unplaced`].
    pub fn add_unplaced(&mut self, tid: HeapTid) -> Added {
        if self.bytes + 2 * size_of::<HeapTid>() > self.options.memory_limit && self.rows > 0 {
            return Added::MemoryFull;
        }
        self.unplaced.push(tid);
        self.rows += 1;
        self.bytes += 2 * size_of::<HeapTid>();
        Added::Kept
    }

    /// Rows added so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Links the rows and writes the index to `store`, which has no pages yet.
    ///
    /// # Errors
    /// [`HnswError::NotEmpty`] where it has some; what the store or an interrupt raises.
    pub fn finish<S: PageStore>(
        self,
        store: &S,
        progress: &mut dyn Progress,
    ) -> Result<BuildStats, HnswError> {
        create_with(store, self.params, self.options.seed, b"")?;
        store.failpoint("build has an empty index")?;
        self.link(store, progress)?;
        store.failpoint("build linked its nodes")?;
        progress.report(BuildPhase::Placing, 0, 0);
        let layout = Layout::new(&self.params);
        let slots = place_nodes(&self.graph, &layout, &mut || store.check_interrupts())?;
        let pages = self.write(store, &layout, slots, progress)?;
        Ok(BuildStats { nodes: self.graph.len() as u64, rows: self.rows, pages })
    }

    fn link<S: PageStore>(&self, store: &S, progress: &mut dyn Progress) -> Result<(), PageError> {
        let graph = &self.graph;
        // A list is trimmed when no link can be added any more, hence two rounds.
        self.for_all(store, progress, |node, scratch| graph.insert(node, scratch))?;
        self.for_all(store, progress, |node, scratch| graph.trim(node, scratch))?;
        graph.connect(&mut Scratch::default(), &mut || store.check_interrupts())
    }

    /// Runs `work` on every node, on as many threads as asked.
    fn for_all<S: PageStore>(
        &self,
        store: &S,
        progress: &mut dyn Progress,
        work: impl Fn(u32, &mut Scratch) + Sync,
    ) -> Result<(), PageError> {
        let total = self.graph.len();
        if self.options.threads <= 1 {
            let mut scratch = Scratch::default();
            for node in 0..total {
                if node % 128 == 0 {
                    progress.report(BuildPhase::Linking, node as u64, total as u64);
                    store.check_interrupts()?;
                }
                work(node as u32, &mut scratch);
            }
            return Ok(());
        }
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let at_work = AtomicUsize::new(self.options.threads);
        let leader = std::thread::current();
        let work_all = || {
            let _leaving = Leaving { at_work: &at_work, leader: &leader };
            let mut scratch = Scratch::default();
            while !stop.load(Ordering::Relaxed) {
                let node = next.fetch_add(1, Ordering::Relaxed);
                if node >= total {
                    return;
                }
                work(node as u32, &mut scratch);
            }
        };
        std::thread::scope(|scope| {
            // Also when a callback unwinds: the scope waits for its threads.
            let stop_workers = StopOnDrop(&stop);
            progress.before_spawn();
            for _ in 0..self.options.threads {
                scope.spawn(work_all);
            }
            progress.after_spawn();
            while at_work.load(Ordering::Acquire) > 0 {
                let done = next.load(Ordering::Relaxed).min(total);
                progress.report(BuildPhase::Linking, done as u64, total as u64);
                store.check_interrupts()?;
                std::thread::park_timeout(POLL);
            }
            drop(stop_workers);
            Ok(())
        })
    }

    fn write<S: PageStore>(
        &self,
        store: &S,
        layout: &Layout,
        slots: Vec<SlotUse>,
        progress: &mut dyn Progress,
    ) -> Result<u64, HnswError> {
        let plan = Plan::new(self, layout, slots)?;
        let mut pages: Vec<PlannedPage<'_>> = Vec::new();
        for (page, slots) in plan.slots.chunks(layout.slots_per_page()).enumerate() {
            if layout.group_pages() > 0 && page.is_multiple_of(layout.group_pages()) {
                let start = page * layout.slots_per_page();
                let end = (start + layout.group_slots()).min(plan.slots.len());
                pages.push(PlannedPage::Attributes(&plan.slots[start..end]));
            }
            pages.push(PlannedPage::Nodes(slots));
        }
        let total = pages.len() as u64;
        let mut written = 0;
        let mut tail = NIL;
        let write_some = |pages: &[PlannedPage<'_>],
                          filled: Vec<Box<[u8]>>,
                          progress: &mut dyn Progress| {
            for (group, contents) in pages.chunks(MAX_TXN_PAGES).zip(filled.chunks(MAX_TXN_PAGES)) {
                store.check_interrupts()?;
                progress.report(BuildPhase::Writing, written, total);
                let mut txn = store.begin()?;
                for (page, content) in group.iter().zip(contents) {
                    let blkno = txn.extend()?;
                    written += 1;
                    debug_assert_eq!(u64::from(blkno), written, "the store had no pages");
                    txn.page(blkno)?.copy_from_slice(content);
                    if matches!(page, PlannedPage::Nodes(_)) {
                        tail = blkno;
                    }
                }
                txn.commit()?;
                store.failpoint("build wrote pages")?;
            }
            Ok(())
        };
        self.fill_all(layout, &plan, &pages, progress, write_some)?;
        progress.report(BuildPhase::Writing, total, total);
        store.failpoint("build writes its metapage")?;
        let mut meta = Meta::new(self.params, self.options.seed);
        meta.entry = self.graph.entry().map(|(node, level)| Entry {
            id: plan.node_ids[node as usize],
            generation: 0,
            level,
        });
        meta.tail = tail;
        meta.page_end = written as u32 + 1;
        meta.nodes = self.graph.len() as u32;
        meta.unplaced = plan.posting_ids.get(&NIL).copied().unwrap_or(NIL);
        if !self.keys.is_empty() {
            let ids = self.keys.iter().map(|&(key, node)| (key, plan.node_ids[node as usize]));
            keys::write_all(store, layout, &mut meta, ids.collect())?;
        }
        let mut txn = store.begin()?;
        meta.write(txn.page(METAPAGE)?);
        txn.commit()?;
        Ok(meta.page_end.into())
    }

    /// Fills all pages after the metapage on as many threads as asked, and hands them to `write` in their
    /// order, on the calling thread.
    fn fill_all(
        &self,
        layout: &Layout,
        plan: &Plan,
        pages: &[PlannedPage<'_>],
        progress: &mut dyn Progress,
        mut write: impl FnMut(
            &[PlannedPage<'_>],
            Vec<Box<[u8]>>,
            &mut dyn Progress,
        ) -> Result<(), PageError>,
    ) -> Result<(), PageError> {
        let fill = |pages: &[PlannedPage<'_>], first: BlockNumber| {
            let fill_one = |(page, blkno): (&PlannedPage<'_>, BlockNumber)| {
                let mut bytes = vec![0; PAGE_CONTENT].into_boxed_slice();
                match page {
                    PlannedPage::Attributes(slots) => {
                        self.fill_attributes(layout, slots, &mut bytes);
                    }
                    PlannedPage::Nodes(slots) => {
                        let page = PageMut::format(layout, blkno, &mut bytes);
                        self.fill_page(layout, plan, slots, page)?;
                    }
                }
                Ok(bytes)
            };
            pages.iter().zip(first..).map(fill_one).collect::<Result<Vec<_>, PageError>>()
        };
        let parts = pages.chunks(FILL_PAGES).zip((METAPAGE + 1..).step_by(FILL_PAGES));
        let threads = self.options.threads.min(pages.len().div_ceil(FILL_PAGES));
        if threads <= 1 {
            return parts
                .into_iter()
                .try_for_each(|(pages, first)| write(pages, fill(pages, first)?, progress));
        }
        std::thread::scope(|scope| {
            let fill = &fill;
            progress.before_spawn();
            let workers: Vec<_> = (0..threads)
                .map(|worker| {
                    let own = parts.clone().skip(worker).step_by(threads);
                    let (filled, receiver) = mpsc::sync_channel(FILLS_AHEAD);
                    scope.spawn(move || {
                        for (pages, first) in own {
                            // Nobody receives where writing has failed.
                            if filled.send(fill(pages, first)).is_err() {
                                return;
                            }
                        }
                    });
                    receiver
                })
                .collect();
            progress.after_spawn();
            for ((pages, _), worker) in parts.zip(workers.iter().cycle()) {
                // Nobody sends where the worker has panicked; the scope passes that on.
                let Ok(filled) = worker.recv() else { break };
                write(pages, filled?, progress)?;
            }
            Ok(())
        })
    }

    fn fill_attributes(&self, layout: &Layout, slots: &[PlannedSlot], bytes: &mut [u8]) {
        for (place, slot) in slots.iter().enumerate() {
            if let PlannedSlot::Placed(SlotUse::Node(node)) = *slot {
                write_attributes(layout, bytes, place, self.node_attrs(node));
            }
        }
    }

    fn fill_page(
        &self,
        layout: &Layout,
        plan: &Plan,
        slots: &[PlannedSlot],
        mut page: PageMut<'_>,
    ) -> Result<(), PageError> {
        let scorer = Scorer::new(self.params.link_metric());
        let links_of = |node, level| -> Vec<Link> {
            let base = self.graph.code(node);
            let to_link = |other: u32| {
                let mut link = Link::new(plan.node_ids[other as usize], 0);
                if layout.storage() == Storage::Sketched && level == 0 {
                    link.sketch = Sketch::new(&scorer, base, self.graph.code(other));
                }
                link
            };
            self.graph.links(node, level).map(to_link).collect()
        };
        for (at, slot) in slots.iter().enumerate() {
            let mut out = page.slot(at)?;
            match *slot {
                PlannedSlot::Placed(SlotUse::Node(node)) => {
                    let code = self.graph.code(node);
                    out.init_node(&NodeInit {
                        level: self.graph.level(node),
                        tid: self.tids[node as usize],
                        upper: plan.upper_id(node, 0),
                        posting: plan.posting_ids.get(&node).copied().unwrap_or(NIL),
                        scale: code.scale,
                        norm: code.norm,
                        error: self.graph.error(node),
                        codes: code.codes,
                    });
                    out.set_links(&links_of(node, 0));
                }
                PlannedSlot::Placed(SlotUse::Upper { node, part }) => {
                    let per_slot = layout.levels_per_slot();
                    let first = usize::from(part) * per_slot + 1;
                    let last = (first + per_slot - 1).min(self.graph.level(node).into());
                    let count = last + 1 - first;
                    let (first, count) = (first as u8, count as u8);
                    let owner = plan.node_ids[node as usize];
                    out.init_upper(owner, plan.upper_id(node, part + 1), first, count);
                    for level in first..first + count {
                        out.set_upper_links(level, &links_of(node, level));
                    }
                }
                PlannedSlot::Posting { node, part, next } => {
                    let per_slot = layout.tids_per_slot();
                    let tids = match node {
                        NIL => &self.unplaced[..],
                        _ => self.more_tids.get(&node).map_or(&[][..], |tids| tids),
                    };
                    let owner = plan.node_ids.get(node as usize).copied().unwrap_or(NIL);
                    let start = part * per_slot;
                    let end = (start + per_slot).min(tids.len());
                    out.init_posting(owner, next);
                    out.set_tids(&tids[start..end]);
                }
            }
        }
        Ok(())
    }
}

/// Makes an index without rows in a store without pages.
///
/// # Errors
/// [`HnswError::NotEmpty`] where it has some; what the store raises.
pub fn create_empty<S: PageStore>(store: &S, params: HnswParams) -> Result<(), HnswError> {
    create_with(store, params, 0, b"")
}

/// With a seed of the node levels and a tag.
pub(super) fn create_with<S: PageStore>(
    store: &S,
    params: HnswParams,
    seed: u64,
    tag: &[u8],
) -> Result<(), HnswError> {
    let page_count = store.page_count()?;
    if page_count != 0 {
        return Err(HnswError::NotEmpty { page_count });
    }
    let mut txn = store.begin()?;
    let blkno = txn.extend()?;
    let page = txn.page(blkno)?;
    Meta::new(params, seed).write(page);
    tag::put(page, tag);
    txn.commit()?;
    Ok(())
}

/// Tells workers to stop when the thread that waits for them leaves.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Tells the thread that waits for the workers when one leaves, by a panic too.
struct Leaving<'a> {
    at_work: &'a AtomicUsize,
    leader: &'a Thread,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.at_work.fetch_sub(1, Ordering::Release);
        self.leader.unpark();
    }
}

/// A page with everything known that its bytes need.
enum PlannedPage<'p> {
    Nodes(&'p [PlannedSlot]),
    /// The attributes of the nodes in these slots.
    Attributes(&'p [PlannedSlot]),
}

/// A slot with everything known that its bytes need.
#[derive(Clone, Copy)]
enum PlannedSlot {
    Placed(SlotUse),
    /// The `part`-th posting slot of a node, or of the rows without one where that is [`NIL`].
    Posting {
        node: u32,
        part: usize,
        next: u32,
    },
}

/// Where every node, upper slot and posting slot goes.
struct Plan {
    slots: Vec<PlannedSlot>,
    node_ids: Vec<u32>,
    upper_ids: HashMap<(u32, u8), u32>,
    posting_ids: HashMap<u32, u32>,
}

impl Plan {
    fn new(builder: &Builder, layout: &Layout, placed: Vec<SlotUse>) -> Result<Self, HnswError> {
        let mut node_ids = vec![NIL; builder.graph.len()];
        let mut upper_ids = HashMap::new();
        for (position, slot) in placed.iter().enumerate() {
            let id = slot_id(position)?;
            match *slot {
                SlotUse::Node(node) => node_ids[node as usize] = id,
                SlotUse::Upper { node, part } => {
                    upper_ids.insert((node, part), id);
                }
            }
        }
        let mut slots: Vec<PlannedSlot> = placed.into_iter().map(PlannedSlot::Placed).collect();
        let mut posting_ids = HashMap::new();
        let mut lists: Vec<(u32, &[HeapTid])> =
            builder.more_tids.iter().map(|(&node, tids)| (node, &tids[..])).collect();
        lists.sort_unstable_by_key(|&(node, _)| node_ids[node as usize]);
        if !builder.unplaced.is_empty() {
            lists.push((NIL, &builder.unplaced));
        }
        for (node, tids) in lists {
            posting_ids.insert(node, slot_id(slots.len())?);
            let parts = tids.len().div_ceil(layout.tids_per_slot());
            for part in 0..parts {
                let last = part + 1 == parts;
                let next = if last { NIL } else { slot_id(slots.len() + 1)? };
                slots.push(PlannedSlot::Posting { node, part, next });
            }
        }
        Ok(Self { slots, node_ids, upper_ids, posting_ids })
    }

    fn upper_id(&self, node: u32, part: u8) -> u32 {
        self.upper_ids.get(&(node, part)).copied().unwrap_or(NIL)
    }
}

/// Ids count slots from the first node page on.
fn slot_id(position: usize) -> Result<u32, HnswError> {
    u32::try_from(position).ok().filter(|&id| id != NIL).ok_or(HnswError::Full)
}

fn hash_row(code: &Code, attrs: &[u8]) -> u64 {
    let start = mix(code.scale.to_bits().into());
    let codes: &[u8] = bytemuck::cast_slice(&code.codes);
    codes.chunks(8).chain(attrs.chunks(8)).fold(start, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}
