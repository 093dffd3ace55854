//! Best-first search over pages: Malkov & Yashunin 2018, Algorithm 2, for scans and inserts.
//!
//! Cost is counted in page accesses, so a [`Reader`] holds on to the pages it pinned, and an expansion
//! scores its unvisited neighbors page by page, each page under one shared lock. Scoring under the lock
//! instead of copying first keeps a lock for under a microsecond: a code's distance takes about as long
//! as copying the code would. What the front of the queue will read is prefetched from where its page
//! was seen last, without a pin.
//!
//! Neither pins nor locks outlive a call from outside.

use super::code::{CodeRef, Query};
use super::filter::Matches;
use super::layout::{
    Entry, Layout, Link, MAX_LEVEL, MAX_SLOTS, METAPAGE, Meta, NIL, PageView, SlotState, SlotView,
    read_attributes,
};
use super::params::Storage;
use super::sketch::Estimator;
use super::table::Table;
use crate::page::{BlockNumber, HeapTid, PageError, PagePin, PageStore};
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

/// Expansions between two looks for interrupts.
const INTERRUPT_INTERVAL: u32 = 16;
/// Most slots that a chain of upper or posting slots visits before it counts as a cycle.
pub(crate) const MAX_CHAIN: usize = 1 << 22;

/// Pages that a scan keeps pinned. A backend has eight places for pins that it finds without a hash
/// table, and the executor needs some.
const SCAN_PINS: usize = 6;
/// Candidates at the front of the queue that are prefetched, and pages that were prefetched last.
const FETCHED_AHEAD: usize = 3;
const FETCHED: usize = 8;

/// Reads the metapage.
pub(crate) fn read_meta<S: PageStore>(store: &S) -> Result<Meta, PageError> {
    let pin = store.pin(METAPAGE)?;
    let guard = pin.lock_shared();
    Meta::read(&guard)
}

/// Pages that an operation has looked at.
pub(crate) struct Reader<'s, S: PageStore> {
    pub(crate) store: &'s S,
    pub(crate) layout: Layout,
    pages: Vec<CachedPage<'s, S>>,
    /// Where in `pages` a page is.
    places: Table<u32>,
    marks: Table<Marks>,
    /// Places of the pages that are pinned, in the order of their pinning.
    pinned: VecDeque<u32>,
    max_pins: usize,
    accesses: u64,
    wanted: Vec<BlockNumber>,
    /// Pages prefetched last, the next one to be overwritten at `fetches % FETCHED`.
    fetched: [BlockNumber; FETCHED],
    fetches: usize,
}

struct CachedPage<'s, S: PageStore + 's> {
    blkno: BlockNumber,
    pin: Option<S::Pin<'s>>,
}

/// What happened to 32 slots of a page.
#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    /// Slots that links led to or that were scored.
    visited: u32,
    /// Slots that were scored.
    scored: u32,
}

impl<'s, S: PageStore> Reader<'s, S> {
    pub(crate) fn new(store: &'s S, layout: Layout) -> Self {
        Self {
            store,
            layout,
            pages: Vec::with_capacity(256),
            places: Table::with_capacity(512),
            marks: Table::with_capacity(2048),
            pinned: VecDeque::new(),
            max_pins: store.pin_budget().max(1),
            accesses: 0,
            wanted: Vec::new(),
            fetched: [METAPAGE; FETCHED],
            fetches: 0,
        }
    }

    /// For a scan, which comes back to few of its pages.
    pub(crate) fn for_scan(store: &'s S, layout: Layout) -> Self {
        let reader = Self::new(store, layout);
        Self { max_pins: reader.max_pins.min(SCAN_PINS), ..reader }
    }

    /// Pages pinned so far, each time counted: buffer accesses in PostgreSQL.
    pub(crate) fn accesses(&self) -> u64 {
        self.accesses
    }

    /// Lets go of every page; what was visited stays known.
    pub(crate) fn release_pins(&mut self) {
        for at in self.pinned.drain(..) {
            self.pages[at as usize].pin = None;
        }
    }

    /// Forgets what was visited.
    pub(crate) fn forget_visited(&mut self) {
        self.marks.clear();
    }

    /// Marks every slot of the page as scored; gives what was marked before.
    pub(crate) fn score_rest(&mut self, blkno: BlockNumber) -> [u32; MAX_SLOTS / 32] {
        let mut before = [0; MAX_SLOTS / 32];
        let parts = self.layout.slots_per_page().div_ceil(32);
        for (part, before) in before.iter_mut().enumerate().take(parts) {
            let all = Marks { visited: u32::MAX, scored: u32::MAX };
            *before = std::mem::replace(self.marks.entry(mark_key(blkno, part)), all).scored;
        }
        before
    }

    /// Marks the slot; whether it was not marked before.
    #[inline]
    pub(crate) fn visit(&mut self, id: u32) -> bool {
        let (blkno, slot) = self.layout.place_of(id);
        let word = &mut self.marks.entry(mark_key(blkno, slot / 32)).visited;
        let fresh = *word >> (slot % 32) & 1 == 0;
        *word |= 1 << (slot % 32);
        fresh
    }

    /// Marks the slot as scored; whether it was not before.
    #[inline]
    fn score(&mut self, id: u32) -> bool {
        let (blkno, slot) = self.layout.place_of(id);
        let word = &mut self.marks.entry(mark_key(blkno, slot / 32)).scored;
        let fresh = *word >> (slot % 32) & 1 == 0;
        *word |= 1 << (slot % 32);
        fresh
    }

    /// Whether the slot was scored.
    pub(crate) fn is_scored(&self, blkno: BlockNumber, slot: usize) -> bool {
        let marks = self.marks.get(mark_key(blkno, slot / 32));
        marks.is_some_and(|marks| marks.scored >> (slot % 32) & 1 == 1)
    }

    #[inline]
    fn entry(&mut self, blkno: BlockNumber) -> usize {
        // One more than the place: 0 stands for a page not seen yet.
        let at = self.places.entry(u64::from(blkno) + 1);
        if *at == 0 {
            self.pages.push(CachedPage { blkno, pin: None });
            *at = self.pages.len() as u32;
        }
        *at as usize - 1
    }

    fn pin(&mut self, blkno: BlockNumber) -> Result<usize, PageError> {
        let at = self.entry(blkno);
        if self.pages[at].pin.is_none() {
            if self.pinned.len() >= self.max_pins
                && let Some(oldest) = self.pinned.pop_front()
            {
                self.pages[oldest as usize].pin = None;
            }
            self.pages[at].pin = Some(self.store.pin(blkno)?);
            self.pinned.push_back(at as u32);
            self.accesses += 1;
        }
        Ok(at)
    }

    /// Brings what the candidate's step will read into the CPU's cache, where its page was seen before.
    fn fetch(&mut self, candidate: &Candidate) {
        let (blkno, slot) = self.layout.place_of(candidate.id());
        match candidate.step {
            Step::Score if self.fetched.contains(&blkno) || self.is_scored(blkno, slot) => {}
            Step::Score => {
                self.fetched[self.fetches % FETCHED] = blkno;
                self.fetches += 1;
                self.layout.prefetch_codes(self.store.last_address(blkno));
            }
            Step::Expand => self.layout.prefetch_links(self.store.last_address(blkno), slot),
        }
    }

    /// Tells the store which pages scoring the links, sorted by id, will pin.
    fn prefetch(&mut self, links: &[Link]) {
        self.wanted.clear();
        for link in links {
            let blkno = self.layout.block_of(link.id);
            if self.wanted.last() != Some(&blkno) {
                let at = self.entry(blkno);
                if self.pages[at].pin.is_none() {
                    self.wanted.push(blkno);
                }
            }
        }
        if self.wanted.len() > 1 {
            self.store.prefetch(&self.wanted);
        }
    }

    /// Shows `read` the node page under its shared lock.
    #[inline]
    pub(crate) fn page<R>(
        &mut self,
        blkno: BlockNumber,
        read: impl FnOnce(&PageView<'_>) -> Result<R, PageError>,
    ) -> Result<R, PageError> {
        let at = self.pin(blkno)?;
        let page = &self.pages[at];
        let guard = page.pin.as_ref().expect("pinned above").lock_shared();
        read(&PageView::new(&self.layout, page.blkno, &guard)?)
    }

    /// As [`Reader::page`]; `None` for a page that no committed write has filled.
    pub(crate) fn page_if_filled<R>(
        &mut self,
        blkno: BlockNumber,
        read: impl FnOnce(&PageView<'_>) -> Result<R, PageError>,
    ) -> Result<Option<R>, PageError> {
        let at = self.pin(blkno)?;
        let page = &self.pages[at];
        let guard = page.pin.as_ref().expect("pinned above").lock_shared();
        PageView::new_if_filled(&self.layout, page.blkno, &guard)?
            .map(|view| read(&view))
            .transpose()
    }

    /// Shows `read` the attributes of a group's nodes, in the order of their ids; nothing where none
    /// was written yet.
    pub(crate) fn attributes<R>(
        &mut self,
        group: u32,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, PageError> {
        let blkno = self.layout.attribute_page(group);
        let at = self.pin(blkno)?;
        let guard = self.pages[at].pin.as_ref().expect("pinned above").lock_shared();
        Ok(read(read_attributes(&self.layout, blkno, &guard)?))
    }

    /// Shows `read` the slot under its page's shared lock.
    #[inline]
    pub(crate) fn slot<R>(
        &mut self,
        id: u32,
        read: impl FnOnce(&SlotView<'_>) -> R,
    ) -> Result<R, PageError> {
        let slot = self.layout.slot_of(id);
        self.page(self.layout.block_of(id), |page| Ok(read(&page.slot(slot)?)))
    }

    /// The links of a node on `level`; `None` where the slot is no longer that node.
    pub(crate) fn links(
        &mut self,
        node: Link,
        level: u8,
        links: &mut Vec<Link>,
    ) -> Result<Option<()>, PageError> {
        links.clear();
        let head = self.slot(node.id, |slot| {
            if !slot.state().is_node() || slot.generation() != node.generation {
                return None;
            }
            if level == 0 {
                links.extend(slot.links());
            }
            Some(slot.upper())
        })?;
        let Some(upper) = head else { return Ok(None) };
        if level == 0 {
            return Ok(Some(()));
        }
        match self.upper_slot(node.id, upper, level)? {
            Some(place) => self.slot(place, |slot| links.extend(slot.upper_links(level)))?,
            // The node is of a lower level: whoever linked to it here meant a former one.
            None => return Ok(None),
        }
        Ok(Some(()))
    }

    /// The slot with the links of `level` in the chain of upper slots that starts at `next`.
    pub(crate) fn upper_slot(
        &mut self,
        owner: u32,
        mut next: u32,
        level: u8,
    ) -> Result<Option<u32>, PageError> {
        for _ in 0..=MAX_LEVEL {
            if next == NIL {
                return Ok(None);
            }
            let here = next;
            let (holds, after) = self.slot(here, |slot| {
                if slot.state() != SlotState::Upper || slot.owner() != owner {
                    return (false, NIL);
                }
                (slot.holds_level(level), slot.next())
            })?;
            if holds {
                return Ok(Some(here));
            }
            next = after;
        }
        Err(self.chain_without_end(owner))
    }

    /// The heap TIDs of the posting chain that starts at `next`.
    pub(crate) fn posting_tids(
        &mut self,
        owner: u32,
        mut next: u32,
        tids: &mut Vec<HeapTid>,
    ) -> Result<(), PageError> {
        for _ in 0..MAX_CHAIN {
            if next == NIL {
                return Ok(());
            }
            next = self.posting_slot(owner, next, tids)?;
        }
        Err(self.chain_without_end(owner))
    }

    /// Adds one posting slot's heap TIDs; gives the next slot of its chain.
    pub(crate) fn posting_slot(
        &mut self,
        owner: u32,
        place: u32,
        tids: &mut Vec<HeapTid>,
    ) -> Result<u32, PageError> {
        self.slot(place, |slot| {
            if slot.state() != SlotState::Posting || slot.owner() != owner {
                return NIL;
            }
            tids.extend(slot.tids());
            slot.next()
        })
    }

    fn chain_without_end(&self, id: u32) -> PageError {
        PageError::Corrupt {
            blkno: self.layout.block_of(id),
            offno: self.layout.slot_of(id) as u16,
            expected: "a chain of slots that ends",
            got: format!("more than {MAX_CHAIN} slots"),
        }
    }
}

/// The key of a page's marks for slots `32 part` and on; never 0.
#[inline]
fn mark_key(blkno: BlockNumber, part: usize) -> u64 {
    (u64::from(blkno) << 3 | part as u64) + 1
}

/// A node that a search has scored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) distance: f32,
    /// Known from [`Found::bound`] on.
    pub(crate) lower_bound: f32,
    /// What that takes besides the distance.
    pub(crate) norm: f32,
    pub(crate) error: f32,
    pub(crate) id: u32,
    /// The first slot with more heap TIDs, or [`NIL`].
    pub(crate) posting: u32,
    pub(crate) tid: Option<HeapTid>,
    pub(crate) generation: u8,
    pub(crate) live: bool,
}

impl Found {
    pub(crate) fn new(id: u32, slot: &SlotView<'_>, distance: f32) -> Self {
        Self {
            distance,
            lower_bound: f32::NEG_INFINITY,
            norm: slot.norm(),
            error: slot.error(),
            id,
            posting: slot.posting(),
            tid: slot.tid(),
            generation: slot.generation(),
            live: slot.state() == SlotState::Live,
        }
    }

    pub(crate) fn node(&self) -> Link {
        Link::new(self.id, self.generation)
    }

    /// Computes the lower bound, which only rows that are handed out need.
    pub(crate) fn bound(&mut self, query: &Query) {
        self.lower_bound = query.lower_bound(self.distance, self.norm, self.error);
    }

    fn by_distance(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.id.cmp(&other.id))
    }
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.by_distance(other).is_eq()
    }
}

impl Eq for Found {}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Found {
    fn cmp(&self, other: &Self) -> Ordering {
        self.by_distance(other)
    }
}

/// What happens to nodes that did not make it into the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Discarded {
    /// They are forgotten: the search will not go on.
    Forget,
    /// They are kept, so that the search can go on.
    Keep,
}

/// A best-first search on one level, which can go on after it has stopped.
pub(crate) struct Search {
    /// To be expanded, or first to be scored.
    queue: BinaryHeap<Reverse<Candidate>>,
    /// The nearest live nodes not handed out, farthest first.
    window: Vec<Found>,
    discarded: Discarded,
    /// Live nodes that nearer ones pushed out of the window.
    evicted: BinaryHeap<Reverse<Found>>,
    /// Scored nodes that were too far for window and queue.
    far: Vec<Found>,
    /// Nodes whose estimate was too far for the queue.
    far_estimated: Vec<Candidate>,
    /// The nearest node scored, dead ones too.
    nearest: Option<Found>,
    visited: u64,
    since_interrupt: u32,
    links: Vec<Link>,
    scored: Vec<Found>,
    estimator: Estimator,
    /// Which nodes a scan wants; the others are passed through, as dead ones are.
    pub(crate) matches: Option<Matches>,
    /// Page accesses of the reader after which a run ends.
    pub(crate) max_accesses: u64,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// Its distance, or an estimate of it, as a number that orders alike, above its id: what a queue
    /// compares most is one integer.
    key: u64,
    generation: u8,
    step: Step,
}

/// What is next for a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Its distance is an estimate from a sketch: its page is read when its turn comes.
    Score,
    /// Its distance is known: its neighbors are looked at when its turn comes.
    Expand,
}

impl Candidate {
    fn scored(found: &Found) -> Self {
        Self::new(found.distance, found.id, found.generation, Step::Expand)
    }

    fn estimated(distance: f32, id: u32, generation: u8) -> Self {
        Self::new(distance, id, generation, Step::Score)
    }

    #[inline]
    fn new(distance: f32, id: u32, generation: u8, step: Step) -> Self {
        Self { key: u64::from(ascending(distance)) << 32 | u64::from(id), generation, step }
    }

    #[inline]
    fn id(&self) -> u32 {
        self.key as u32
    }

    #[inline]
    fn distance(&self) -> f32 {
        let bits = (self.key >> 32) as u32;
        f32::from_bits(if bits >> 31 == 1 { bits ^ 1 << 31 } else { !bits })
    }
}

/// A number's bits as an integer that orders as [`f32::total_cmp`] does.
#[inline]
fn ascending(number: f32) -> u32 {
    let bits = number.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

impl Ord for Candidate {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl PartialOrd for Candidate {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }

    #[inline]
    fn lt(&self, other: &Self) -> bool {
        self.key < other.key
    }

    #[inline]
    fn le(&self, other: &Self) -> bool {
        self.key <= other.key
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Candidate {}

impl Search {
    pub(crate) fn new(discarded: Discarded) -> Self {
        Self {
            queue: BinaryHeap::new(),
            window: Vec::new(),
            discarded,
            evicted: BinaryHeap::new(),
            far: Vec::new(),
            far_estimated: Vec::new(),
            nearest: None,
            visited: 0,
            since_interrupt: 0,
            links: Vec::new(),
            scored: Vec::new(),
            estimator: Estimator::default(),
            matches: None,
            max_accesses: u64::MAX,
        }
    }

    /// Nodes scored so far, on all levels.
    pub(crate) fn visited(&self) -> u64 {
        self.visited
    }

    /// The nearest live nodes not handed out, farthest first.
    pub(crate) fn window(&mut self) -> &mut Vec<Found> {
        &mut self.window
    }

    /// Whether every node that can be reached was scored.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.queue.is_empty() && self.far.is_empty() && self.far_estimated.is_empty()
    }

    /// Whether live nodes wait outside the window.
    pub(crate) fn has_evicted(&self) -> bool {
        !self.evicted.is_empty()
    }

    /// From the entry point down to level 0, greedily above `to_level`: the node to start from on
    /// `to_level` is scored. An empty index scores nothing.
    pub(crate) fn descend<S: PageStore>(
        &mut self,
        reader: &mut Reader<'_, S>,
        query: &Query,
        entry: Entry,
        to_level: u8,
    ) -> Result<(), PageError> {
        let start = Link::new(entry.id, entry.generation);
        self.score_links(reader, query, vec![start])?;
        self.consider_scored(1);
        for level in (to_level + 1..=entry.level).rev() {
            self.run(reader, query, level, 1)?;
            self.restart(reader, 1);
        }
        Ok(())
    }

    /// Starts over on another level from the `keep` nearest nodes.
    pub(crate) fn restart<S: PageStore>(&mut self, reader: &mut Reader<'_, S>, keep: usize) {
        reader.forget_visited();
        self.queue.clear();
        self.evicted.clear();
        self.far.clear();
        self.far_estimated.clear();
        if self.window.is_empty() {
            self.window.extend(self.nearest);
        }
        let surplus = self.window.len().saturating_sub(keep);
        self.window.drain(..surplus);
        for found in &self.window {
            reader.visit(found.id);
            reader.score(found.id);
            self.queue.push(Reverse(Candidate::scored(found)));
        }
        self.window.retain(|found| found.live);
    }

    /// Expands the nearest candidates until none of them is nearer than the `ef` nearest live nodes.
    pub(crate) fn run<S: PageStore>(
        &mut self,
        reader: &mut Reader<'_, S>,
        query: &Query,
        level: u8,
        ef: usize,
    ) -> Result<(), PageError> {
        while let Some(&Reverse(candidate)) = self.queue.peek() {
            if self.window.len() >= ef && candidate.distance() > self.window[0].distance
                || reader.accesses() > self.max_accesses
            {
                return Ok(());
            }
            self.queue.pop();
            // What comes next, unless something nearer turns up, is fetched meanwhile: the first of a
            // heap and the two below it.
            for Reverse(next) in self.queue.as_slice().iter().take(FETCHED_AHEAD) {
                reader.fetch(next);
            }
            self.since_interrupt += 1;
            if self.since_interrupt >= INTERRUPT_INTERVAL {
                self.since_interrupt = 0;
                reader.store.check_interrupts()?;
            }
            match candidate.step {
                Step::Score => self.score_page(reader, query, level, &candidate)?,
                Step::Expand => self.expand(reader, query, level, ef, &candidate)?,
            }
            if level == 0
                && let Some(matches) = &mut self.matches
            {
                for found in &mut self.scored {
                    found.live = found.live && matches.contains(reader, found.id)?;
                }
            }
            self.consider_scored(ef);
        }
        Ok(())
    }

    /// Scores a node's neighbors, or estimates their distances where links have sketches.
    fn expand<S: PageStore>(
        &mut self,
        reader: &mut Reader<'_, S>,
        query: &Query,
        level: u8,
        ef: usize,
        candidate: &Candidate,
    ) -> Result<(), PageError> {
        self.scored.clear();
        let node = Link::new(candidate.id(), candidate.generation);
        let mut links = std::mem::take(&mut self.links);
        if level > 0 || reader.layout.storage() == Storage::Plain {
            if reader.links(node, level, &mut links)?.is_some() {
                links = self.score_links(reader, query, links)?;
            }
            self.links = links;
            return Ok(());
        }
        links.clear();
        let estimator = &mut self.estimator;
        reader.slot(node.id, |slot| {
            if slot.state().is_node() && slot.generation() == node.generation {
                estimator.prepare(query, CodeRef::of_slot(slot), candidate.distance());
                links.extend(slot.links());
            }
        })?;
        let worst = if self.window.len() >= ef { self.window[0].distance } else { f32::INFINITY };
        for link in &links {
            if !reader.visit(link.id) {
                continue;
            }
            let estimate = self.estimator.estimate(&link.sketch);
            let candidate = Candidate::estimated(estimate, link.id, link.generation);
            if estimate < worst {
                self.queue.push(Reverse(candidate));
            } else if self.discarded == Discarded::Keep {
                self.far_estimated.push(candidate);
            }
        }
        self.links = links;
        Ok(())
    }

    /// Scores all nodes on a candidate's page: reading the page cost more than scoring them does,
    /// and nodes share a page because they are near to each other.
    fn score_page<S: PageStore>(
        &mut self,
        reader: &mut Reader<'_, S>,
        query: &Query,
        level: u8,
        candidate: &Candidate,
    ) -> Result<(), PageError> {
        self.scored.clear();
        let layout = reader.layout;
        let blkno = layout.block_of(candidate.id());
        if reader.is_scored(blkno, layout.slot_of(candidate.id())) {
            return Ok(());
        }
        let scored_before = reader.score_rest(blkno);
        reader.page(blkno, |page| {
            (0..layout.slots_per_page()).for_each(|at| page.prefetch(at));
            for slot in page.slots() {
                let (at, slot) = slot?;
                if scored_before[at / 32] >> (at % 32) & 1 == 0
                    && slot.state().is_node()
                    && slot.level() >= level
                    && let Some(id) = layout.id(blkno, at)
                {
                    self.scored.push(Found::new(id, &slot, query.score(&slot)));
                }
            }
            Ok(())
        })?;
        self.visited += self.scored.len() as u64;
        Ok(())
    }

    /// Makes everything discarded part of the search again and fills the window up to `ef`.
    pub(crate) fn widen(&mut self, ef: usize) {
        self.window.sort_unstable_by(|a, b| b.cmp(a));
        for found in std::mem::take(&mut self.far) {
            self.queue.push(Reverse(Candidate::scored(&found)));
            if found.live {
                self.evicted.push(Reverse(found));
            }
        }
        self.queue.extend(self.far_estimated.drain(..).map(Reverse));
        while self.window.len() < ef
            && let Some(Reverse(found)) = self.evicted.pop()
        {
            insert_sorted(&mut self.window, found);
        }
    }

    /// Moves every live node that was scored into the window, for a search that ends here.
    pub(crate) fn gather_all(&mut self) {
        self.window.extend(self.evicted.drain().map(|Reverse(found)| found));
        self.window.extend(self.far.drain(..).filter(|found| found.live));
        self.far_estimated.clear();
        self.queue.clear();
    }

    /// Adds nodes that were found by other means than links.
    pub(crate) fn add(&mut self, found: impl Iterator<Item = Found>) {
        let before = self.window.len();
        self.window.extend(found);
        self.visited += (self.window.len() - before) as u64;
    }

    /// Scores the links not visited yet, page by page, into `self.scored`; gives the vector back.
    fn score_links<S: PageStore>(
        &mut self,
        reader: &mut Reader<'_, S>,
        query: &Query,
        mut links: Vec<Link>,
    ) -> Result<Vec<Link>, PageError> {
        self.scored.clear();
        links.retain(|link| reader.visit(link.id));
        links.sort_unstable_by_key(|link| link.id);
        reader.prefetch(&links);
        let layout = reader.layout;
        for group in links.chunk_by(|a, b| layout.block_of(a.id) == layout.block_of(b.id)) {
            let blkno = layout.block_of(group[0].id);
            for link in group {
                reader.score(link.id);
            }
            reader.page(blkno, |page| {
                for link in group {
                    page.prefetch(layout.slot_of(link.id));
                }
                for link in group {
                    let slot = page.slot(layout.slot_of(link.id))?;
                    if slot.state().is_node() && slot.generation() == link.generation {
                        self.scored.push(Found::new(link.id, &slot, query.score(&slot)));
                    }
                }
                Ok(())
            })?;
        }
        self.visited += self.scored.len() as u64;
        Ok(links)
    }

    fn consider_scored(&mut self, ef: usize) {
        for found in &self.scored {
            if self.nearest.is_none_or(|nearest| *found < nearest) {
                self.nearest = Some(*found);
            }
            let full = self.window.len() >= ef;
            if full && found.distance >= self.window[0].distance {
                if self.discarded == Discarded::Keep {
                    self.far.push(*found);
                }
                continue;
            }
            self.queue.push(Reverse(Candidate::scored(found)));
            if !found.live {
                continue;
            }
            let at = self.window.partition_point(|other| other > found);
            if full {
                // The farthest makes way: those before the place move up.
                let evicted = self.window[0];
                self.window.copy_within(1..at, 0);
                self.window[at - 1] = *found;
                if self.discarded == Discarded::Keep {
                    self.evicted.push(Reverse(evicted));
                }
            } else {
                self.window.insert(at, *found);
            }
        }
    }
}

/// Inserts into a list that is sorted farthest first.
fn insert_sorted(window: &mut Vec<Found>, found: Found) {
    let at = window.partition_point(|other| *other > found);
    window.insert(at, found);
}
