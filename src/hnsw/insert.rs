//! Insert of one row: Malkov & Yashunin 2018, Algorithm 1, on pages.
//!
//! Order of writes, each a transaction that leaves a valid graph behind:
//! 1. the node, with its links, in free slots (one transaction; nothing leads to it yet),
//! 2. links back from its neighbors, in the order of their pages, up to four pages at a time,
//! 3. where its level is the highest, the metapage's entry point.
//!
//! A crash between them leaves a node that fewer links lead to than should; the sweep of a scan
//! finds it. The update lock is held shared throughout, see [`crate::page::PageStore::lock_updates`].
//!
//! A list of links is decided on from a copy and written only where it still reads as the copy did,
//! under the page's exclusive lock; otherwise it is decided anew. So no update is lost, and no page
//! is locked while another is read.

use super::HnswError;
use super::candidates::{Candidates, Codes};
use super::code::{Code, CodeRef, Query, Scorer};
use super::graph::{draw_level, mix};
use super::keys::{self, SourceKey};
use super::layout::{
    Entry, Layout, Link, METAPAGE, Meta, NIL, NodeInit, PageMut, PageView, SlotState, SlotView,
};
use super::params::Storage;
use super::search::{Discarded, Found, Reader, Search, read_meta};
use super::select::makes_way;
use super::sketch::Sketch;
use super::space::{Allocation, allocate, put_attributes};
use crate::page::{BlockNumber, HeapTid, LockMode, MAX_TXN_PAGES, PageStore, PageTxn};

/// The nearest nodes whose codes are compared with the new one's.
const TWINS_TRIED: usize = 4;
/// Rows of a node, besides its first, that are asked whether they have the source of a new one.
const ROWS_ASKED: usize = 4;
/// Times that a list of links is decided on before it is left as others made it.
const MAX_TRIES: usize = 64;

/// How a row got into the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// As a node of its own.
    Node,
    /// At the node of a row with an equal code.
    Shared,
}

/// Adds a row. `vector` holds finite numbers; for [`crate::vector::Metric::Cosine`] it is not all
/// zeros (such rows have no direction and stay out of the index, as in pgvector).
///
/// # Errors
/// [`HnswError::Dims`] where the length is not the index's, [`HnswError::Attributes`] where the index
/// has filter columns; [`HnswError::Full`]; what the store raises. After an error the index is valid;
/// the row is in it or not.
pub fn insert<S: PageStore>(
    store: &S,
    vector: &[f32],
    tid: HeapTid,
) -> Result<Inserted, HnswError> {
    insert_with_attributes(store, vector, &[], tid)
}

/// Adds a row with its filter columns, encoded as [`super::Filter`] compares them.
///
/// # Errors
/// As [`insert`]; [`HnswError::Attributes`] where `attrs` is not as long as the index's.
pub fn insert_with_attributes<S: PageStore>(
    store: &S,
    vector: &[f32],
    attrs: &[u8],
    tid: HeapTid,
) -> Result<Inserted, HnswError> {
    insert_row(store, &Point::Vector(vector), attrs, tid, None)
}

/// Adds a row whose vector was made from a source with that key, for [`insert_known`].
///
/// # Errors
/// As [`insert_with_attributes`].
pub fn insert_with_key<S: PageStore>(
    store: &S,
    vector: &[f32],
    attrs: &[u8],
    tid: HeapTid,
    key: SourceKey,
) -> Result<Inserted, HnswError> {
    insert_row(store, &Point::Vector(vector), attrs, tid, Some(key))
}

/// Adds a row without its vector where a row with the same source is in the index: `is_same`
/// tells whether another row has just this source (it is asked with no lock held, of a few rows). `None`
/// where there is none, or it went meanwhile: then the vector is needed, for [`insert_with_key`] with the
/// key as it is then.
///
/// # Errors
/// As [`insert_with_attributes`].
pub fn insert_known<S: PageStore>(
    store: &S,
    attrs: &[u8],
    tid: HeapTid,
    key: &mut SourceKey,
    is_same: &mut dyn FnMut(HeapTid) -> bool,
) -> Result<Option<Inserted>, HnswError> {
    let meta = read_meta(store)?;
    super::check_attributes(&meta.params, attrs)?;
    let layout = Layout::new(&meta.params);
    for id in keys::find(store, &meta, key)? {
        let mut links = Links::new(store, layout, &meta);
        let Some((node, tids)) = links.latest_rows(id)? else { continue };
        links.reader.release_pins();
        if !tids.into_iter().any(&mut *is_same) {
            continue;
        }
        let Some(code) = links.copy_code(node)? else { continue };
        if links.has_attributes(id, attrs)? {
            let _updating = store.lock_updates(LockMode::Shared)?;
            if links.share_node(node, &code, tid)? {
                return Ok(Some(Inserted::Shared));
            }
            continue;
        }
        links.reader.release_pins();
        return insert_row(store, &Point::Code(&code), attrs, tid, Some(*key)).map(Some);
    }
    Ok(None)
}

/// What a row is placed by.
enum Point<'p> {
    Vector(&'p [f32]),
    /// Another row's code.
    Code(&'p Code),
}

fn insert_row<S: PageStore>(
    store: &S,
    point: &Point<'_>,
    attrs: &[u8],
    tid: HeapTid,
    key: Option<SourceKey>,
) -> Result<Inserted, HnswError> {
    let _updating = store.lock_updates(LockMode::Shared)?;
    loop {
        let meta = read_meta(store)?;
        super::check_attributes(&meta.params, attrs)?;
        let layout = Layout::new(&meta.params);
        let number = mix(u64::from(tid.block) << 16 | u64::from(tid.offset));
        let level = draw_level(meta.seed, number, meta.params.m()).min(layout.max_level());
        let (code, query) = match *point {
            Point::Vector(vector) => {
                super::check_dims(&meta.params, vector)?;
                (Code::new(&meta.params, vector), Query::for_links(&meta.params, vector))
            }
            Point::Code(code) => (code.clone(), Query::of_code(&meta.params, code)),
        };
        let mut insertion = Insertion {
            scorer: Scorer::new(meta.params.link_metric()),
            query,
            links: Links::new(store, layout, &meta),
            meta,
            code,
            attrs,
            level,
            tid,
        };
        if let Some((inserted, id)) = insertion.run()? {
            if let Some(key) = key {
                store.failpoint("insert remembers its key")?;
                keys::remember(store, &layout, &insertion.meta, key, id)?;
            }
            return Ok(inserted);
        }
    }
}

/// Adds a row that no distance places: a NULL, or a zero vector under
/// [`crate::vector::Metric::Cosine`]. Scans hand such rows out after all others.
///
/// # Errors
/// As [`insert`].
pub fn insert_unplaced<S: PageStore>(store: &S, tid: HeapTid) -> Result<(), HnswError> {
    let _updating = store.lock_updates(LockMode::Shared)?;
    loop {
        let meta = read_meta(store)?;
        let layout = Layout::new(&meta.params);
        if meta.unplaced != NIL && push_unplaced(store, &layout, meta.unplaced, tid)? {
            return Ok(());
        }
        let Allocation { mut txn, slots } = allocate(store, &layout, 1, &[METAPAGE])?;
        let mut now = Meta::read(txn.page(METAPAGE)?)?;
        if now.unplaced != meta.unplaced {
            continue;
        }
        let (blkno, at) = (layout.block_of(slots[0].0), layout.slot_of(slots[0].0));
        let mut page = PageMut::new(&layout, blkno, txn.page(blkno)?)?;
        let mut slot = page.slot(at)?;
        slot.init_posting(NIL, now.unplaced);
        slot.set_tids(&[tid]);
        now.unplaced = slots[0].0;
        now.write(txn.page(METAPAGE)?);
        txn.commit()?;
        return Ok(());
    }
}

/// Adds the row to a posting slot of the metapage's chain; whether that is one still, with room.
fn push_unplaced<S: PageStore>(
    store: &S,
    layout: &Layout,
    place: u32,
    tid: HeapTid,
) -> Result<bool, HnswError> {
    let (blkno, at) = (layout.block_of(place), layout.slot_of(place));
    let mut txn = store.begin()?;
    let mut page = PageMut::new(layout, blkno, txn.page(blkno)?)?;
    let slot = page.view().slot(at)?;
    let mut tids: Vec<HeapTid> = slot.tids().collect();
    if slot.state() != SlotState::Posting
        || slot.owner() != NIL
        || tids.len() >= layout.tids_per_slot()
    {
        return Ok(false);
    }
    tids.push(tid);
    page.slot(at)?.set_tids(&tids);
    txn.commit()?;
    Ok(true)
}

struct Insertion<'s, 'a, S: PageStore> {
    meta: Meta,
    scorer: Scorer,
    query: Query,
    code: Code,
    attrs: &'a [u8],
    level: u8,
    tid: HeapTid,
    links: Links<'s, S>,
}

/// Where a row goes.
enum Place {
    /// Among these neighbors, on each level from 0 up.
    Among(Vec<Vec<Link>>),
    /// It has joined this node.
    At(u32),
}

impl<'s, S: PageStore> Insertion<'s, '_, S> {
    /// Also the node's id; `None` where the first node of an empty index came from someone else meanwhile.
    fn run(&mut self) -> Result<Option<(Inserted, u32)>, HnswError> {
        let store = self.links.reader.store;
        store.failpoint("insert begins")?;
        let Some(entry) = self.meta.entry else { return self.insert_first() };
        let neighbors = match self.search(entry)? {
            Place::Among(neighbors) => neighbors,
            Place::At(id) => return Ok(Some((Inserted::Shared, id))),
        };
        store.failpoint("insert has its neighbors")?;
        let node = self.write_node(&neighbors)?;
        store.failpoint("insert wrote its node")?;
        let mut bases = Vec::new();
        let most = self.meta.params.m();
        for (links, level) in neighbors.iter().zip(0u8..) {
            // Those that the heuristic kept come first; the others lead here by way of them.
            bases.extend(links.iter().take(most).map(|&base| (base, level)));
        }
        if !self.links.link_back(bases, node, &self.code)? {
            self.links.link_from_any(&neighbors[0], node)?;
        }
        store.failpoint("insert promotes")?;
        self.promote(node)?;
        Ok(Some((Inserted::Node, node.id)))
    }

    /// Writes the node and makes it the entry point in one transaction: a search scores whole pages,
    /// so another insert may find a node that nothing leads to, and it can never be taken back.
    fn insert_first(&mut self) -> Result<Option<(Inserted, u32)>, HnswError> {
        let no_links = vec![Vec::new(); usize::from(self.level) + 1];
        let (mut txn, node) = self.prepare_node(&no_links, &[METAPAGE])?;
        let mut meta = Meta::read(txn.page(METAPAGE)?)?;
        if meta.entry.is_some() {
            return Ok(None);
        }
        meta.entry = Some(Entry { id: node.id, generation: node.generation, level: self.level });
        meta.write(txn.page(METAPAGE)?);
        put_attributes(&mut txn, &self.links.reader.layout, node.id, self.attrs)?;
        txn.commit()?;
        Ok(Some((Inserted::Node, node.id)))
    }

    /// Finds the row's neighbors, or adds it to an equal one's node.
    fn search(&mut self, entry: Entry) -> Result<Place, HnswError> {
        let params = self.meta.params;
        let mut neighbors = vec![Vec::new(); usize::from(self.level) + 1];
        let top = self.level.min(entry.level);
        let mut search = Search::new(Discarded::Forget);
        search.descend(&mut self.links.reader, &self.query, entry, top)?;
        for level in (0..=top).rev() {
            let ef = params.ef_construction();
            search.run(&mut self.links.reader, &self.query, level, ef)?;
            let nearest_first: Vec<Found> = search.window().iter().rev().copied().collect();
            if level == 0 {
                for found in nearest_first.iter().take(TWINS_TRIED) {
                    // A node's attributes stay the same for as long as it lives.
                    if self.links.has_attributes(found.id, self.attrs)?
                        && self.links.share_node(found.node(), &self.code, self.tid)?
                    {
                        return Ok(Place::At(found.id));
                    }
                }
            }
            let mut candidates = Candidates::default();
            for found in &nearest_first {
                candidates.add(&mut self.links.reader, found.node(), |_, _| found.distance)?;
            }
            neighbors[usize::from(level)] = candidates.select(
                &self.scorer,
                params.max_links(level),
                self.links.sketch_base(level, self.code.as_ref()),
            );
            if level > 0 {
                search.restart(&mut self.links.reader, params.ef_construction());
            }
        }
        Ok(Place::Among(neighbors))
    }

    /// Writes the node and its upper slots, with their links.
    fn write_node(&mut self, neighbors: &[Vec<Link>]) -> Result<Link, HnswError> {
        let (mut txn, node) = self.prepare_node(neighbors, &[])?;
        put_attributes(&mut txn, &self.links.reader.layout, node.id, self.attrs)?;
        txn.commit()?;
        Ok(node)
    }

    /// Fills the node's slots in a transaction that has locked `pages` too and is not committed yet.
    fn prepare_node(
        &mut self,
        neighbors: &[Vec<Link>],
        pages: &[BlockNumber],
    ) -> Result<(S::Txn<'s>, Link), HnswError> {
        let layout = self.links.reader.layout;
        let per_slot = layout.levels_per_slot();
        let upper_slots = usize::from(self.level).div_ceil(per_slot);
        let Allocation { mut txn, slots } =
            allocate(self.links.reader.store, &layout, 1 + upper_slots, pages)?;
        let node = Link::new(slots[0].0, slots[0].1);
        let upper_id = |part: usize| slots.get(part + 1).map_or(NIL, |slot| slot.0);
        for (i, &(id, _)) in slots.iter().enumerate() {
            let blkno = layout.block_of(id);
            let mut page = PageMut::new(&layout, blkno, txn.page(blkno)?)?;
            let mut slot = page.slot(layout.slot_of(id))?;
            if i == 0 {
                slot.init_node(&NodeInit {
                    level: self.level,
                    tid: self.tid,
                    upper: upper_id(0),
                    posting: NIL,
                    scale: self.code.scale,
                    norm: self.code.norm,
                    error: self.code.error,
                    codes: &self.code.codes,
                });
                slot.set_links(&neighbors[0]);
            } else {
                let first = (i - 1) * per_slot + 1;
                let last = (first + per_slot - 1).min(self.level.into());
                slot.init_upper(node.id, upper_id(i), first as u8, (last + 1 - first) as u8);
                for (level, links) in neighbors.iter().enumerate().take(last + 1).skip(first) {
                    slot.set_upper_links(level as u8, links);
                }
            }
        }
        Ok((txn, node))
    }

    /// Makes the node the entry point where no other has as high a level by now.
    fn promote(&mut self, node: Link) -> Result<(), HnswError> {
        if self.meta.entry.is_some_and(|entry| entry.level >= self.level) {
            return Ok(());
        }
        let mut txn = self.links.reader.store.begin()?;
        let mut meta = Meta::read(txn.page(METAPAGE)?)?;
        if meta.entry.is_none_or(|entry| entry.level < self.level) {
            meta.entry =
                Some(Entry { id: node.id, generation: node.generation, level: self.level });
            meta.write(txn.page(METAPAGE)?);
            txn.commit()?;
        }
        Ok(())
    }
}

/// A list of links that is to be replaced.
struct Change {
    base: Link,
    /// The slot that the list lies in.
    place: u32,
    level: u8,
    /// What was read.
    current: Vec<Link>,
    wanted: Vec<Link>,
}

impl Change {
    /// Whether the slot still holds the list that was read.
    fn is_current(&self, slot: &SlotView<'_>) -> bool {
        let (base, links) = (self.base, self.current.iter().copied());
        if self.level == 0 {
            slot.state() == SlotState::Live
                && slot.generation() == base.generation
                && slot.links().eq(links)
        } else {
            slot.state() == SlotState::Upper
                && slot.owner() == base.id
                && slot.upper_links(self.level).eq(links)
        }
    }
}

/// What becomes of a base's links when a new node asks to be one of them.
enum Decision {
    Change(Change),
    /// It is one already.
    Linked,
    /// The base is gone or has nearer neighbors.
    Declined,
}

/// Changes of links and postings, shared by insert and vacuum.
pub(crate) struct Links<'s, S: PageStore> {
    pub(crate) reader: Reader<'s, S>,
    codes: Codes,
    scorer: Scorer,
    max_links: [usize; 2],
}

impl<'s, S: PageStore> Links<'s, S> {
    pub(crate) fn new(store: &'s S, layout: Layout, meta: &Meta) -> Self {
        Self {
            reader: Reader::new(store, layout),
            codes: Codes::default(),
            scorer: Scorer::new(meta.params.link_metric()),
            max_links: [meta.params.max_links(0), meta.params.max_links(1)],
        }
    }

    pub(crate) fn scorer(&self) -> &Scorer {
        &self.scorer
    }

    pub(crate) fn max_links(&self, level: u8) -> usize {
        self.max_links[usize::from(level.min(1))]
    }

    /// The code that links on `level` need sketches of edges from, where they have some.
    pub(crate) fn sketch_base<'c>(&self, level: u8, base: CodeRef<'c>) -> Option<CodeRef<'c>> {
        (self.reader.layout.storage() == Storage::Sketched && level == 0).then_some(base)
    }

    /// A live node and a few of its rows, the latest first.
    fn latest_rows(&mut self, id: u32) -> Result<Option<(Link, Vec<HeapTid>)>, HnswError> {
        if self.reader.layout.block_of(id) >= self.reader.store.page_count()? {
            return Ok(None);
        }
        let head = self.reader.slot(id, |slot| {
            let node = Link::new(id, slot.generation());
            (slot.state() == SlotState::Live).then(|| (node, slot.posting(), slot.tid()))
        })?;
        let Some((node, posting, own)) = head else { return Ok(None) };
        let mut tids = Vec::new();
        if posting != NIL {
            self.reader.slot(posting, |slot| tids.extend(slot.tids()))?;
            tids.reverse();
            tids.truncate(ROWS_ASKED);
        }
        tids.extend(own);
        Ok(Some((node, tids)))
    }

    /// Whether a node's attributes are these.
    fn has_attributes(&mut self, id: u32, attrs: &[u8]) -> Result<bool, HnswError> {
        if attrs.is_empty() {
            return Ok(true);
        }
        let (group, place) = self.reader.layout.attribute_place(id);
        Ok(self.reader.attributes(group, |all| {
            all.chunks_exact(attrs.len()).nth(place).is_some_and(|theirs| theirs == attrs)
        })?)
    }

    /// The link with a sketch of its edge from `base`, where links have some.
    fn sketched(
        &mut self,
        base: Link,
        level: u8,
        node: Link,
        code: CodeRef<'_>,
    ) -> Result<Link, HnswError> {
        if self.reader.layout.storage() == Storage::Plain || level > 0 {
            return Ok(node);
        }
        let scorer = self.scorer;
        let sketch =
            self.reader.slot(base.id, |slot| Sketch::new(&scorer, CodeRef::of_slot(slot), code))?;
        Ok(Link { sketch, ..node })
    }

    /// Adds `node` to the links of each base on its level, by Algorithm 4 where they are full.
    /// Whether one of the bases leads to it on level 0 then.
    fn link_back(
        &mut self,
        mut bases: Vec<(Link, u8)>,
        node: Link,
        code: &Code,
    ) -> Result<bool, HnswError> {
        let mut reachable = false;
        for _ in 0..MAX_TRIES {
            let mut changes = Vec::with_capacity(bases.len());
            for (base, level) in bases.drain(..) {
                match self.decide(base, node, code, level)? {
                    Decision::Change(change) => changes.push(change),
                    Decision::Linked => reachable |= level == 0,
                    Decision::Declined => {}
                }
            }
            // In page order, so that a transaction takes as many as its pages hold.
            changes.sort_unstable_by_key(|change| change.place);
            let mut rest = &changes[..];
            while !rest.is_empty() {
                let (batch, others) = rest.split_at(self.batch_len(rest));
                rest = others;
                let written = self.write(batch)?;
                self.reader.store.failpoint("insert linked back")?;
                for (change, written) in batch.iter().zip(written) {
                    if written {
                        reachable |= change.level == 0 && change.wanted.contains(&node);
                    } else {
                        bases.push((change.base, change.level));
                    }
                }
            }
            if bases.is_empty() {
                break;
            }
        }
        Ok(reachable)
    }

    /// What becomes of the links of `base` on `level` when `node` asks to be one of them.
    fn decide(
        &mut self,
        base: Link,
        node: Link,
        code: &Code,
        level: u8,
    ) -> Result<Decision, HnswError> {
        let mut current = Vec::with_capacity(self.max_links(level));
        let place = self.read_links(base, level, &mut current)?;
        let Some(place) = place else { return Ok(Decision::Declined) };
        if current.contains(&node) {
            return Ok(Decision::Linked);
        }
        let mut wanted = current.clone();
        if current.len() < self.max_links(level) {
            wanted.push(node);
        } else {
            // The new link takes the place of one that goes: a record in WAL is as long as what
            // changed.
            match self.makes_way(base, &current, code)? {
                Some(at) => wanted[at] = node,
                None => return Ok(Decision::Declined),
            }
        }
        for link in wanted.iter_mut().filter(|link| **link == node) {
            *link = self.sketched(base, level, node, code.as_ref())?;
        }
        Ok(Decision::Change(Change { base, place, level, current, wanted }))
    }

    /// How many of the changes, sorted by place, one transaction can make.
    fn batch_len(&self, changes: &[Change]) -> usize {
        let mut pages = 0;
        let mut last = None;
        for (at, change) in changes.iter().enumerate() {
            let blkno = self.reader.layout.block_of(change.place);
            if last != Some(blkno) {
                last = Some(blkno);
                pages += 1;
                if pages > MAX_TXN_PAGES {
                    return at;
                }
            }
        }
        changes.len()
    }

    /// Makes one of `bases` link to `node` on level 0 whatever the heuristic says: the first with
    /// room, or else the first with a link whose target another of its neighbors leads to as well,
    /// which makes way. Without either the node is left to the sweep of scans.
    pub(crate) fn link_from_any(&mut self, bases: &[Link], node: Link) -> Result<bool, HnswError> {
        let Some(code) = self.copy_code(node)? else { return Ok(false) };
        let mut current = Vec::new();
        for replace in [false, true] {
            for &base in bases {
                for _ in 0..MAX_TRIES {
                    let Some(place) = self.read_links(base, 0, &mut current)? else { break };
                    if current.contains(&node) {
                        return Ok(true);
                    }
                    let mut wanted = current.clone();
                    if wanted.len() >= self.max_links(0) {
                        let redundant = if replace { self.redundant_link(&current)? } else { None };
                        let Some(at) = redundant else { break };
                        wanted.remove(at);
                    }
                    wanted.push(self.sketched(base, 0, node, code.as_ref())?);
                    if self.replace_links(base, place, 0, &current, &wanted)? {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// A link whose target another of the linked nodes leads to as well.
    fn redundant_link(&mut self, links: &[Link]) -> Result<Option<usize>, HnswError> {
        let mut theirs = std::collections::HashSet::new();
        let mut list = Vec::new();
        for &link in links {
            self.reader.links(link, 0, &mut list)?;
            theirs.extend(list.iter().copied());
        }
        Ok((0..links.len()).rev().find(|&at| theirs.contains(&links[at])))
    }

    /// Which link of the full list `current` goes for a node with that code, or `None` where the node is
    /// declined. A link to a node that is gone goes first.
    fn makes_way(
        &mut self,
        base: Link,
        current: &[Link],
        code: &Code,
    ) -> Result<Option<usize>, HnswError> {
        let Some(base) = self.codes.find(&mut self.reader, base)? else { return Ok(None) };
        let mut candidates = Vec::with_capacity(current.len() + 1);
        for (at, &link) in current.iter().enumerate() {
            match self.codes.find(&mut self.reader, link)? {
                Some(place) => candidates.push((0.0, (at, Some(place)))),
                None => return Ok(Some(at)),
            }
        }
        candidates.push((0.0, (current.len(), None)));
        let (scorer, codes) = (self.scorer, &self.codes);
        let code_of = |place: Option<u32>| place.map_or(code.as_ref(), |place| codes.code(place));
        for (to_base, (_, place)) in &mut candidates {
            *to_base = scorer.distance(codes.code(base), code_of(*place));
        }
        candidates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let new = candidates.iter().position(|(_, (_, place))| place.is_none());
        let distance =
            |(_, a): (usize, _), (_, b): (usize, _)| scorer.distance(code_of(a), code_of(b));
        let out = makes_way(&candidates, new.expect("pushed above"), distance);
        let at = candidates[out].1.0;
        Ok((at < current.len()).then_some(at))
    }

    /// A copy of a node's code, or `None` where it is gone.
    pub(crate) fn copy_code(&mut self, node: Link) -> Result<Option<Code>, HnswError> {
        Ok(self.reader.slot(node.id, |slot| {
            (slot.state().is_node() && slot.generation() == node.generation).then(|| Code {
                codes: slot.codes().into(),
                scale: slot.scale(),
                norm: slot.norm(),
                error: slot.error(),
            })
        })?)
    }

    /// A live node's links on `level` and the slot they lie in; `None` where it is gone.
    pub(crate) fn read_links(
        &mut self,
        base: Link,
        level: u8,
        links: &mut Vec<Link>,
    ) -> Result<Option<u32>, HnswError> {
        let head = self.reader.slot(base.id, |slot| {
            (slot.state() == SlotState::Live && slot.generation() == base.generation)
                .then(|| slot.upper())
        })?;
        let Some(upper) = head else { return Ok(None) };
        if self.reader.links(base, level, links)?.is_none() {
            return Ok(None);
        }
        if level == 0 {
            return Ok(Some(base.id));
        }
        Ok(self.reader.upper_slot(base.id, upper, level)?)
    }

    /// Writes `wanted` where the slot still reads `current`; whether it did.
    pub(crate) fn replace_links(
        &mut self,
        base: Link,
        place: u32,
        level: u8,
        current: &[Link],
        wanted: &[Link],
    ) -> Result<bool, HnswError> {
        let (current, wanted) = (current.to_vec(), wanted.to_vec());
        Ok(self.write(&[Change { base, place, level, current, wanted }])? == [true])
    }

    /// Makes the changes, sorted by place, in one transaction; which of them found the links as they
    /// were decided on.
    fn write(&self, changes: &[Change]) -> Result<Vec<bool>, HnswError> {
        let layout = self.reader.layout;
        let mut txn = self.reader.store.begin()?;
        let mut written = Vec::with_capacity(changes.len());
        for change in changes {
            let (blkno, at) = layout.place_of(change.place);
            let mut page = PageMut::new(&layout, blkno, txn.page(blkno)?)?;
            let unchanged = change.is_current(&page.view().slot(at)?);
            if unchanged {
                let mut slot = page.slot(at)?;
                match change.level {
                    0 => slot.set_links(&change.wanted),
                    level => slot.set_upper_links(level, &change.wanted),
                }
            }
            written.push(unchanged);
        }
        if written.contains(&true) {
            txn.commit()?;
        }
        Ok(written)
    }

    /// Adds the row to a node whose code is the same; whether there is one still.
    fn share_node(&mut self, node: Link, code: &Code, tid: HeapTid) -> Result<bool, HnswError> {
        let layout = self.reader.layout;
        let (blkno, at) = (layout.block_of(node.id), layout.slot_of(node.id));
        let is_twin = |slot: &SlotView<'_>| {
            slot.state() == SlotState::Live
                && slot.generation() == node.generation
                && code.same_point(slot)
        };
        for _ in 0..MAX_TRIES {
            let head = self.reader.slot(node.id, |slot| is_twin(slot).then(|| slot.posting()))?;
            let Some(head) = head else { return Ok(false) };
            let mut tids = Vec::new();
            if head != NIL {
                self.reader.slot(head, |slot| tids.extend(slot.tids()))?;
            }
            if head == NIL || tids.len() >= layout.tids_per_slot() {
                let Allocation { mut txn, slots } =
                    allocate(self.reader.store, &layout, 1, &[blkno])?;
                let view = PageView::new(&layout, blkno, txn.page(blkno)?)?;
                let slot = view.slot(at)?;
                if !is_twin(&slot) || slot.posting() != head {
                    continue;
                }
                let posting = slots[0].0;
                let posting_blkno = layout.block_of(posting);
                let mut page = PageMut::new(&layout, posting_blkno, txn.page(posting_blkno)?)?;
                let mut slot = page.slot(layout.slot_of(posting))?;
                slot.init_posting(node.id, head);
                slot.set_tids(&[tid]);
                let mut page = PageMut::new(&layout, blkno, txn.page(blkno)?)?;
                let mut slot = page.slot(at)?;
                slot.set_posting(posting);
                slot.widen_error(code.error);
                txn.commit()?;
                return Ok(true);
            }
            let posting_blkno = layout.block_of(head);
            let mut txn = self.reader.store.begin()?;
            txn.page(blkno.min(posting_blkno))?;
            txn.page(blkno.max(posting_blkno))?;
            let slot = PageView::new(&layout, blkno, txn.page(blkno)?)?.slot(at)?;
            if !is_twin(&slot) || slot.posting() != head {
                continue;
            }
            let mut page = PageMut::new(&layout, posting_blkno, txn.page(posting_blkno)?)?;
            let slot = page.view().slot(layout.slot_of(head))?;
            tids.clear();
            tids.extend(slot.tids());
            if slot.state() != SlotState::Posting
                || slot.owner() != node.id
                || tids.len() >= layout.tids_per_slot()
            {
                continue;
            }
            tids.push(tid);
            page.slot(layout.slot_of(head))?.set_tids(&tids);
            let mut page = PageMut::new(&layout, blkno, txn.page(blkno)?)?;
            page.slot(at)?.widen_error(code.error);
            txn.commit()?;
            return Ok(true);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hnsw::{HnswParams, create_empty};
    use crate::page::MemoryStore;
    use crate::vector::Metric;

    #[test]
    fn a_list_decided_on_before_another_wrote_it_is_not_written() {
        let store = MemoryStore::new();
        let params = HnswParams::parse(2, Metric::L2, 8, 40).expect("valid parameters");
        create_empty(&store, params).expect("created");
        let add = |x: f32, number: u16| {
            let tid = HeapTid { block: 0, offset: number };
            insert(&store, &[x, 1.0], tid).expect("inserted");
        };
        add(0.0, 1);
        let meta = read_meta(&store).expect("read");
        let entry = meta.entry.expect("of the row");
        let base = Link::new(entry.id, entry.generation);
        let mut links = Links::new(&store, Layout::new(&params), &meta);
        let code = Code::new(&params, &[-1.0, 1.0]);
        // It need not be there to be linked to.
        let node = Link::new(entry.id + 5, 0);
        for others in [1, 2] {
            let decision = links.decide(base, node, &code, 0).expect("decided");
            let Decision::Change(change) = decision else { panic!("there is room") };
            assert!(change.wanted.contains(&node));
            add(f32::from(others), others + 1);
            assert_eq!(links.write(&[change]).expect("tried"), [false]);
            let mut now = Vec::new();
            links.read_links(base, 0, &mut now).expect("read").expect("it lives");
            assert_eq!(now.len(), usize::from(others), "the others' links, and no more");
        }
        let decision = links.decide(base, node, &code, 0).expect("decided");
        let Decision::Change(change) = decision else { panic!("there is room") };
        assert_eq!(links.write(&[change]).expect("written"), [true]);
    }
}
