//! Vacuum: heap TIDs of dead rows go, nodes without any are cut out of the graph, their slots freed.
//!
//! [`bulk_delete`] sweeps all pages once and removes the heap TIDs that the caller calls dead; a node
//! that loses its last one is marked dead. Dead nodes are passed through by searches, but neither
//! handed out nor linked to. [`cleanup`] then
//! 1. waits, by the update lock, for the inserts that began before the marks were there: no new
//!    links to marked nodes can appear from then on,
//! 2. lists the dead, and moves the entry point if it is one of them,
//! 3. sweeps the pages and repairs the nodes that link to dead ones, no others: the live nodes that
//!    the dead ones link to become candidates beside the remaining neighbors, and Algorithm 4 picks
//!    among them (as in FreshDiskANN, Singh et al. 2021, Algorithm 4),
//! 4. gives every live node that no link leads to any more a link from its nearest neighbors,
//! 5. takes the dead out of the table of keys,
//! 6. frees the dead nodes' slots, stamped so that they are filled again only when no running scan
//!    can come to them, and puts their pages on the list that inserts allocate from.
//!
//! Each step changes a page at a time and leaves a valid graph; an interrupted vacuum is finished by
//! the next one. One vacuum runs at a time on an index, beside any number of scans and inserts.

use super::HnswError;
use super::candidates::Candidates;
use super::code::Code;
use super::insert::Links;
use super::keys;
use super::layout::{Entry, Layout, Link, METAPAGE, Meta, NIL, PageMut, PageView, SlotState};
use super::search::{MAX_CHAIN, read_meta};
use super::space::list_page;
use crate::page::{BlockNumber, HeapTid, LockMode, PageError, PagePin, PageStore, PageTxn};
use std::collections::HashSet;

/// Neighbors of dead neighbors that one repair looks at.
const MAX_SPLICED: usize = 96;
/// Pages that a repair may keep in its cache before it starts a new one.
const CACHE_PAGES: u32 = 64;

/// What [`bulk_delete`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeleteStats {
    /// Heap TIDs removed.
    pub removed: u64,
    /// Heap TIDs left.
    pub remaining: u64,
    /// Nodes that lost their last heap TID.
    pub dead_nodes: u64,
}

/// What [`cleanup`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanupStats {
    /// Live nodes, as far as this cleanup counted them.
    pub nodes: u64,
    /// Lists of links that lost dead nodes.
    pub repaired: u64,
    /// Nodes that no link led to and that have one again.
    pub relinked: u64,
    /// Slots freed.
    pub freed: u64,
}

/// Removes the heap TIDs for which `is_dead` holds.
///
/// # Errors
/// What the store raises, damaged pages, [`PageError::Interrupted`]; the index is valid after each.
pub fn bulk_delete<S: PageStore>(
    store: &S,
    is_dead: &mut dyn FnMut(HeapTid) -> bool,
) -> Result<DeleteStats, HnswError> {
    let meta = read_meta(store)?;
    let layout = Layout::new(&meta.params);
    let mut stats = DeleteStats::default();
    let mut hollow = Vec::new();
    let mut blkno = 1;
    // Pages that inserts append meanwhile are swept as well: they cost little and are few.
    while blkno < read_end(store, blkno)? {
        store.check_interrupts()?;
        delete_from_page(store, &layout, blkno, is_dead, &mut hollow, &mut stats)?;
        store.failpoint("vacuum swept a page")?;
        blkno += 1;
    }
    hollow.sort_unstable();
    hollow.dedup();
    if !hollow.is_empty() {
        mark_dead_pending(store)?;
    }
    store.failpoint("vacuum marked the dead")?;
    for node in hollow {
        store.check_interrupts()?;
        stats.dead_nodes += u64::from(compact_postings(store, &layout, node)?);
    }
    Ok(stats)
}

/// The end of the index; asked for again only where `blkno` has come to the end known so far.
fn read_end<S: PageStore>(store: &S, blkno: BlockNumber) -> Result<BlockNumber, PageError> {
    if blkno % 256 == 1 || blkno + 1 >= store.page_count()? {
        return Ok(read_meta(store)?.page_end.min(store.page_count()?));
    }
    Ok(blkno + 1)
}

fn delete_from_page<S: PageStore>(
    store: &S,
    layout: &Layout,
    blkno: BlockNumber,
    is_dead: &mut dyn FnMut(HeapTid) -> bool,
    hollow: &mut Vec<u32>,
    stats: &mut DeleteStats,
) -> Result<(), HnswError> {
    let mut tids = Vec::new();
    {
        let pin = store.pin(blkno)?;
        let guard = pin.lock_shared();
        let Some(page) = PageView::new_if_filled(layout, blkno, &guard)? else { return Ok(()) };
        for slot in page.slots() {
            let (at, slot) = slot?;
            match slot.state() {
                SlotState::Live => {
                    tids.extend(slot.tid());
                    // A vacuum that was interrupted before it came to its hollow nodes leaves these.
                    if slot.tid().is_none() {
                        hollow.push(layout.id(blkno, at).ok_or(HnswError::Full)?);
                    }
                }
                SlotState::Posting => {
                    tids.extend(slot.tids());
                    if slot.tids().next().is_none() {
                        hollow.push(slot.owner());
                    }
                }
                _ => {}
            }
        }
    }
    let dead: HashSet<HeapTid> = tids.iter().copied().filter(|&tid| is_dead(tid)).collect();
    stats.remaining += (tids.len() - dead.len()) as u64;
    if dead.is_empty() {
        return Ok(());
    }
    mark_dead_pending(store)?;
    let mut txn = store.begin()?;
    let mut page = PageMut::new(layout, blkno, txn.page(blkno)?)?;
    for at in 0..layout.slots_per_page() {
        let slot = page.view().slot(at)?;
        match slot.state() {
            SlotState::Live if slot.tid().is_some_and(|tid| dead.contains(&tid)) => {
                stats.removed += 1;
                let has_posting = slot.posting() != NIL;
                let mut slot = page.slot(at)?;
                slot.set_tid(None);
                if has_posting {
                    hollow.push(layout.id(blkno, at).ok_or(HnswError::Full)?);
                } else {
                    slot.set_state(SlotState::Dead);
                    stats.dead_nodes += 1;
                }
            }
            SlotState::Posting => {
                let before: Vec<HeapTid> = slot.tids().collect();
                let owner = slot.owner();
                let kept: Vec<HeapTid> =
                    before.iter().copied().filter(|tid| !dead.contains(tid)).collect();
                if kept.len() < before.len() {
                    stats.removed += (before.len() - kept.len()) as u64;
                    page.slot(at)?.set_tids(&kept);
                    hollow.push(owner);
                }
            }
            _ => {}
        }
    }
    txn.commit()?;
    Ok(())
}

/// Before the first mark, so that a crash in between leaves no mark that nobody looks for.
fn mark_dead_pending<S: PageStore>(store: &S) -> Result<(), HnswError> {
    if read_meta(store)?.dead_pending {
        return Ok(());
    }
    let mut txn = store.begin()?;
    let mut meta = Meta::read(txn.page(METAPAGE)?)?;
    meta.dead_pending = true;
    meta.write(txn.page(METAPAGE)?);
    txn.commit()?;
    Ok(())
}

/// Takes empty slots out of a node's chain of postings, or out of the metapage's where `owner` is
/// [`NIL`], and gives a node without its own heap TID one from there; whether the node has none at
/// all and is marked dead.
///
/// Inserts change a chain at its head only, with the page locked that leads to it; the rest is
/// vacuum's.
fn compact_postings<S: PageStore>(
    store: &S,
    layout: &Layout,
    owner: u32,
) -> Result<bool, HnswError> {
    let stamp = store.reuse_stamp();
    // The posting slot before the one looked at; none before the head.
    let mut before = None;
    let mut steps = 0usize;
    while steps < MAX_CHAIN {
        steps += 1;
        if steps.is_multiple_of(64) {
            store.check_interrupts()?;
        }
        let before_blkno = match before {
            Some(slot) => layout.block_of(slot),
            None if owner == NIL => METAPAGE,
            None => layout.block_of(owner),
        };
        let here = {
            let pin = store.pin(before_blkno)?;
            let guard = pin.lock_shared();
            next_posting(layout, owner, before, before_blkno, &guard)?
        };
        let Some(here) = here else { return Ok(false) };
        if here == NIL {
            break;
        }
        let here_blkno = layout.block_of(here);
        let mut txn = store.begin()?;
        txn.page(before_blkno.min(here_blkno))?;
        txn.page(before_blkno.max(here_blkno))?;
        let slot =
            PageView::new(layout, here_blkno, txn.page(here_blkno)?)?.slot(layout.slot_of(here))?;
        if slot.state() != SlotState::Posting || slot.owner() != owner {
            return Ok(false);
        }
        if slot.tids().next().is_some() {
            before = Some(here);
            continue;
        }
        let next = slot.next();
        let page = txn.page(before_blkno)?;
        if next_posting(layout, owner, before, before_blkno, page)? != Some(here) {
            // An insert put a new head before it: start over from there.
            before = None;
            continue;
        }
        match before {
            None if owner == NIL => {
                let mut meta = Meta::read(page)?;
                meta.unplaced = next;
                meta.write(page);
            }
            None => PageMut::new(layout, before_blkno, page)?
                .slot(layout.slot_of(owner))?
                .set_posting(next),
            Some(slot) => {
                PageMut::new(layout, before_blkno, page)?.slot(layout.slot_of(slot))?.set_next(next)
            }
        }
        PageMut::new(layout, here_blkno, txn.page(here_blkno)?)?
            .slot(layout.slot_of(here))?
            .free(stamp);
        txn.commit()?;
        list_freed_page(store, layout, here_blkno, stamp)?;
    }
    if owner == NIL { Ok(false) } else { adopt_tid(store, layout, owner) }
}

/// The posting slot that follows `before`, or the head; `None` where `before` is no longer part of
/// the chain.
fn next_posting(
    layout: &Layout,
    owner: u32,
    before: Option<u32>,
    blkno: BlockNumber,
    page: &[u8],
) -> Result<Option<u32>, PageError> {
    if before.is_none() && owner == NIL {
        return Ok(Some(Meta::read(page)?.unplaced));
    }
    let page = PageView::new(layout, blkno, page)?;
    let slot = page.slot(layout.slot_of(before.unwrap_or(owner)))?;
    Ok(match (before, slot.state()) {
        (None, SlotState::Live) => Some(slot.posting()),
        (Some(_), SlotState::Posting) if slot.owner() == owner => Some(slot.next()),
        _ => None,
    })
}

/// Gives a live node without a heap TID of its own one of its postings', or marks it dead.
fn adopt_tid<S: PageStore>(store: &S, layout: &Layout, node: u32) -> Result<bool, HnswError> {
    let (blkno, at) = (layout.block_of(node), layout.slot_of(node));
    loop {
        let head = {
            let pin = store.pin(blkno)?;
            let guard = pin.lock_shared();
            let slot = PageView::new(layout, blkno, &guard)?.slot(at)?;
            if slot.state() != SlotState::Live || slot.tid().is_some() {
                return Ok(false);
            }
            slot.posting()
        };
        let head_blkno = if head == NIL { blkno } else { layout.block_of(head) };
        let mut txn = store.begin()?;
        txn.page(blkno.min(head_blkno))?;
        txn.page(blkno.max(head_blkno))?;
        let slot = PageView::new(layout, blkno, txn.page(blkno)?)?.slot(at)?;
        if slot.posting() != head || slot.state() != SlotState::Live {
            continue;
        }
        if head == NIL {
            PageMut::new(layout, blkno, txn.page(blkno)?)?.slot(at)?.set_state(SlotState::Dead);
            txn.commit()?;
            return Ok(true);
        }
        let mut page = PageMut::new(layout, head_blkno, txn.page(head_blkno)?)?;
        let slot = page.view().slot(layout.slot_of(head))?;
        let mut tids: Vec<HeapTid> = slot.tids().collect();
        if slot.state() != SlotState::Posting || slot.owner() != node {
            return Ok(false);
        }
        let Some(tid) = tids.pop() else { return Ok(false) };
        page.slot(layout.slot_of(head))?.set_tids(&tids);
        PageMut::new(layout, blkno, txn.page(blkno)?)?.slot(at)?.set_tid(Some(tid));
        txn.commit()?;
        return Ok(false);
    }
}

fn list_freed_page<S: PageStore>(
    store: &S,
    layout: &Layout,
    blkno: BlockNumber,
    stamp: u64,
) -> Result<(), HnswError> {
    let mut txn = store.begin()?;
    let mut meta = Meta::read(txn.page(METAPAGE)?)?;
    list_page(&mut meta, &mut PageMut::new(layout, blkno, txn.page(blkno)?)?, blkno, stamp);
    meta.write(txn.page(METAPAGE)?);
    txn.commit()?;
    Ok(())
}

/// Cuts the nodes that [`bulk_delete`] marked dead out of the graph and frees their slots. Does
/// nothing where there are none.
///
/// # Errors
/// What the store raises, damaged pages, [`PageError::Interrupted`]; the index is valid after each,
/// and the next cleanup goes on.
pub fn cleanup<S: PageStore>(store: &S) -> Result<CleanupStats, HnswError> {
    let meta = read_meta(store)?;
    if !meta.dead_pending {
        return Ok(CleanupStats { nodes: meta.nodes.into(), ..CleanupStats::default() });
    }
    drop(store.lock_updates(LockMode::Exclusive)?);
    store.failpoint("cleanup waited for inserts")?;
    let layout = Layout::new(&meta.params);
    let mut cleanup = Cleanup {
        store,
        layout,
        links: Links::new(store, layout, &meta),
        dead: NodeSet::default(),
        linked: NodeSet::default(),
        stats: CleanupStats::default(),
    };
    let best = cleanup.list_dead()?;
    store.failpoint("cleanup listed the dead")?;
    cleanup.move_entry(best)?;
    store.failpoint("cleanup moved the entry point")?;
    cleanup.repair()?;
    store.failpoint("cleanup repaired all lists")?;
    keys::forget(store, &|id| cleanup.dead.contains(id))?;
    cleanup.free()?;
    store.failpoint("cleanup freed all slots")?;
    cleanup.finish()?;
    Ok(cleanup.stats)
}

/// A set of ids as a bitmap.
#[derive(Default)]
struct NodeSet {
    words: Vec<u64>,
    count: u64,
}

impl NodeSet {
    fn insert(&mut self, id: u32) {
        let word = id as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (id % 64);
        self.count += u64::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }
}

struct Cleanup<'s, S: PageStore> {
    store: &'s S,
    layout: Layout,
    links: Links<'s, S>,
    dead: NodeSet,
    /// Live nodes that a live node links to on level 0.
    linked: NodeSet,
    stats: CleanupStats,
}

/// A list of links on one page.
struct LinkList {
    node: Link,
    level: u8,
    links: Vec<Link>,
}

impl<S: PageStore> Cleanup<'_, S> {
    fn page_end(&self) -> Result<BlockNumber, PageError> {
        Ok(read_meta(self.store)?.page_end.min(self.store.page_count()?))
    }

    /// Shows `read` each node page; pages are pinned one at a time.
    fn each_page(
        &self,
        mut read: impl FnMut(BlockNumber, &PageView<'_>) -> Result<(), PageError>,
    ) -> Result<(), PageError> {
        for blkno in 1..self.page_end()? {
            self.store.check_interrupts()?;
            let pin = self.store.pin(blkno)?;
            let guard = pin.lock_shared();
            if let Some(page) = PageView::new_if_filled(&self.layout, blkno, &guard)? {
                read(blkno, &page)?;
            }
        }
        Ok(())
    }

    /// Lists dead nodes; gives the live node of the highest level.
    fn list_dead(&mut self) -> Result<Option<Entry>, PageError> {
        let layout = self.layout;
        let mut dead = std::mem::take(&mut self.dead);
        let (mut best, mut live): (Option<Entry>, u64) = (None, 0);
        self.each_page(|blkno, page| {
            for slot in page.slots() {
                let (at, slot) = slot?;
                let Some(id) = layout.id(blkno, at) else { continue };
                match slot.state() {
                    SlotState::Dead => dead.insert(id),
                    SlotState::Live => {
                        live += 1;
                        let (generation, level) = (slot.generation(), slot.level());
                        if best.is_none_or(|best| level > best.level) {
                            best = Some(Entry { id, generation, level });
                        }
                    }
                    _ => {}
                }
            }
            Ok(())
        })?;
        self.dead = dead;
        self.stats.nodes = live;
        Ok(best)
    }

    /// Moves the entry point where it is dead.
    fn move_entry(&mut self, best: Option<Entry>) -> Result<(), HnswError> {
        let entry = read_meta(self.store)?.entry;
        if !entry.is_some_and(|entry| self.dead.contains(entry.id)) {
            return Ok(());
        }
        // Without a live node the index becomes empty, which must not pass by an insert that links
        // its node to dead ones only: none is under way while the lock is held.
        let locked = best.is_none().then(|| self.store.lock_updates(LockMode::Exclusive));
        let _locked = locked.transpose()?;
        let best = if best.is_none() { self.list_dead()? } else { best };
        let mut txn = self.store.begin()?;
        let mut meta = Meta::read(txn.page(METAPAGE)?)?;
        if meta.entry == entry {
            meta.entry = best;
            meta.write(txn.page(METAPAGE)?);
            txn.commit()?;
        }
        Ok(())
    }

    /// Repairs the lists of links that dead nodes are on.
    fn repair(&mut self) -> Result<(), HnswError> {
        let mut blkno = 1;
        let mut unlinked: Vec<LinkList> = Vec::new();
        while blkno < self.page_end()? {
            self.store.check_interrupts()?;
            if blkno.is_multiple_of(CACHE_PAGES) {
                self.links.reader.release_pins();
            }
            for list in self.link_lists(blkno)? {
                let current = self.repair_list(&list)?;
                if list.level == 0 {
                    for link in &current {
                        self.linked.insert(link.id);
                    }
                    unlinked.push(LinkList { links: Vec::new(), ..list });
                }
            }
            blkno += 1;
        }
        self.links.reader.release_pins();
        unlinked.retain(|list| !self.linked.contains(list.node.id));
        for list in unlinked {
            self.store.check_interrupts()?;
            self.relink(list.node)?;
            self.links.reader.release_pins();
        }
        Ok(())
    }

    /// The lists on a page that belong to live nodes.
    fn link_lists(&self, blkno: BlockNumber) -> Result<Vec<LinkList>, HnswError> {
        let layout = self.layout;
        let pin = self.store.pin(blkno)?;
        let guard = pin.lock_shared();
        let mut lists = Vec::new();
        let Some(page) = PageView::new_if_filled(&layout, blkno, &guard)? else { return Ok(lists) };
        for slot in page.slots() {
            let (at, slot) = slot?;
            let id = layout.id(blkno, at).ok_or(HnswError::Full)?;
            match slot.state() {
                SlotState::Live => lists.push(LinkList {
                    node: Link::new(id, slot.generation()),
                    level: 0,
                    links: slot.links().collect(),
                }),
                SlotState::Upper if !self.dead.contains(slot.owner()) => {
                    for level in slot.first_level()..slot.first_level() + slot.level_count() {
                        let links: Vec<Link> = slot.upper_links(level).collect();
                        if links.iter().any(|link| self.dead.contains(link.id)) {
                            // The owner's generation is looked up when the list is repaired.
                            let node = Link::new(slot.owner(), 0);
                            lists.push(LinkList { node, level, links });
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(lists)
    }

    /// Takes dead nodes off the list; gives the list as it is then.
    fn repair_list(&mut self, list: &LinkList) -> Result<Vec<Link>, HnswError> {
        if !list.links.iter().any(|link| self.dead.contains(link.id)) {
            return Ok(list.links.clone());
        }
        let mut node = list.node;
        if list.level > 0 {
            let read = |slot: &super::layout::SlotView<'_>| slot.generation();
            node.generation = self.links.reader.slot(node.id, read)?;
        }
        let mut current = Vec::new();
        loop {
            self.store.check_interrupts()?;
            let place = self.links.read_links(node, list.level, &mut current)?;
            let (Some(place), Some(code)) = (place, self.links.copy_code(node)?) else {
                return Ok(Vec::new());
            };
            let wanted = self.splice(node, &code, list.level, &current)?;
            if self.links.replace_links(node, place, list.level, &current, &wanted)? {
                self.stats.repaired += 1;
                self.store.failpoint("cleanup repaired a list")?;
                return Ok(wanted);
            }
        }
    }

    /// The links of a node when its dead neighbors' neighbors step in for these.
    fn splice(
        &mut self,
        node: Link,
        code: &Code,
        level: u8,
        current: &[Link],
    ) -> Result<Vec<Link>, HnswError> {
        let scorer = *self.links.scorer();
        let mut candidates = Candidates::default();
        let mut dead_neighbors: Vec<Link> = Vec::new();
        for &link in current {
            if self.dead.contains(link.id) {
                dead_neighbors.push(link);
            } else {
                candidates.add(&mut self.links.reader, link, |_, other| {
                    scorer.distance(code.as_ref(), other)
                })?;
            }
        }
        let limit = candidates.len() + MAX_SPLICED;
        let mut theirs = Vec::new();
        let mut next = 0;
        // Dead neighbors of dead neighbors are looked behind too, until there are candidates enough.
        while next < dead_neighbors.len() && candidates.len() < limit {
            let dead = dead_neighbors[next];
            next += 1;
            self.links.reader.links(dead, level, &mut theirs)?;
            for &link in &theirs {
                if link.id == node.id || candidates.contains(link.id) || candidates.len() >= limit {
                    continue;
                }
                if self.dead.contains(link.id) {
                    let enough = candidates.len() >= self.links.max_links(level);
                    if !enough
                        && dead_neighbors.len() < MAX_SPLICED
                        && !dead_neighbors.contains(&link)
                    {
                        dead_neighbors.push(link);
                    }
                    continue;
                }
                candidates.add(&mut self.links.reader, link, |_, other| {
                    scorer.distance(code.as_ref(), other)
                })?;
            }
        }
        let max = self.links.max_links(level);
        Ok(candidates.select(&scorer, max, self.links.sketch_base(level, code.as_ref())))
    }

    /// Makes the nearest neighbors of a node that nothing leads to link to it.
    fn relink(&mut self, node: Link) -> Result<(), HnswError> {
        let mut neighbors = Vec::new();
        if self.links.read_links(node, 0, &mut neighbors)?.is_none() {
            return Ok(());
        }
        let linked = self.links.link_from_any(&neighbors, node)?;
        self.stats.relinked += u64::from(linked);
        Ok(())
    }

    /// Frees the slots of dead nodes and of their upper-level links.
    fn free(&mut self) -> Result<(), HnswError> {
        let layout = self.layout;
        for blkno in 1..self.page_end()? {
            self.store.check_interrupts()?;
            let slots = self.dead_slots(blkno)?;
            if slots.is_empty() {
                continue;
            }
            let stamp = self.store.reuse_stamp();
            let mut txn = self.store.begin()?;
            let mut meta = Meta::read(txn.page(METAPAGE)?)?;
            let mut page = PageMut::new(&layout, blkno, txn.page(blkno)?)?;
            for &at in &slots {
                page.slot(at)?.free(stamp);
            }
            list_page(&mut meta, &mut page, blkno, stamp);
            meta.write(txn.page(METAPAGE)?);
            txn.commit()?;
            self.stats.freed += slots.len() as u64;
            self.store.failpoint("cleanup freed a page")?;
        }
        Ok(())
    }

    fn dead_slots(&self, blkno: BlockNumber) -> Result<Vec<usize>, PageError> {
        let pin = self.store.pin(blkno)?;
        let guard = pin.lock_shared();
        let mut slots = Vec::new();
        let Some(page) = PageView::new_if_filled(&self.layout, blkno, &guard)? else {
            return Ok(slots);
        };
        for slot in page.slots() {
            let (at, slot) = slot?;
            let owner = match slot.state() {
                SlotState::Dead => self.layout.id(blkno, at),
                SlotState::Upper | SlotState::Posting => Some(slot.owner()),
                _ => None,
            };
            if owner.is_some_and(|owner| self.dead.contains(owner)) {
                slots.push(at);
            }
        }
        Ok(slots)
    }

    fn finish(&mut self) -> Result<(), HnswError> {
        let mut txn = self.store.begin()?;
        let mut meta = Meta::read(txn.page(METAPAGE)?)?;
        meta.dead_pending = false;
        meta.nodes = u32::try_from(self.stats.nodes).unwrap_or(u32::MAX);
        meta.write(txn.page(METAPAGE)?);
        txn.commit()?;
        Ok(())
    }
}
