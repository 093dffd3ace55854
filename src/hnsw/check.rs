//! The verifier and the figures of an index.
//!
//! [`check`] reads every page and reports each broken invariant. A link to a slot of another
//! generation is none: such links are left behind on purpose and lead nowhere; they are counted.
//! It expects that nobody writes meanwhile; with writers it may report what was true for a moment.

use super::HnswError;
use super::keys;
use super::layout::{
    FORMAT_VERSION, Layout, Link, Meta, NIL, PageView, SlotState, read_attributes,
};
use super::params::HnswParams;
use super::search::{Reader, read_meta};
use crate::page::{BlockNumber, HeapTid, PagePin, PageStore};
use std::collections::{HashMap, HashSet};

/// Violations reported by name; the rest is counted.
const MAX_REPORTED: usize = 100;
/// Share of live nodes that links must lead to on level 0, in percent.
const REACHABLE_PERCENT: u64 = 99;
/// Nodes that may be out of reach besides: a crash leaves the nodes that inserts were writing just
/// then without links to them, for the sweep of scans to find.
const UNLINKED_BY_CRASH: u64 = 8;

/// What [`check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Broken invariants in words, the first hundred.
    pub violations: Vec<String>,
    /// How many there are in all.
    pub violation_count: u64,
    /// Live nodes.
    pub nodes: u64,
    /// Nodes marked dead.
    pub dead_nodes: u64,
    /// Heap TIDs, those of unplaced rows included.
    pub heap_tids: u64,
    /// Rows without a place in the graph.
    pub unplaced: u64,
    /// Live nodes that links lead to from the entry point on level 0.
    pub reachable: u64,
    /// Links that lead nowhere since their node's slot was freed.
    pub stale_links: u64,
    /// Entries in the table of keys.
    pub keys: u64,
}

impl CheckReport {
    /// Whether every invariant holds.
    pub fn is_ok(&self) -> bool {
        self.violation_count == 0
    }

    fn violation(&mut self, text: String) {
        self.violation_count += 1;
        if self.violations.len() < MAX_REPORTED {
            self.violations.push(text);
        }
    }
}

/// Figures of an index.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexInfo {
    /// Version of the page format.
    pub format_version: u8,
    /// What it was made with.
    pub params: HnswParams,
    /// Pages, the metapage included.
    pub pages: u64,
    /// Live nodes.
    pub nodes: u64,
    /// Nodes marked dead that await cleanup.
    pub dead_nodes: u64,
    /// Free slots.
    pub free_slots: u64,
    /// Heap TIDs, those of unplaced rows included.
    pub heap_tids: u64,
    /// Rows without a place in the graph: NULLs, and zero vectors under cosine.
    pub unplaced: u64,
    /// Nodes by their highest level, from 0 up.
    pub levels: Vec<u64>,
    /// Level-0 links, all nodes together.
    pub links: u64,
    /// Bytes of a slot; a node takes one, and one more for every few levels above 0.
    pub bytes_per_node: u64,
    /// Share of links whose node is on the same page.
    pub page_locality: f64,
}

/// Verifies the whole index.
///
/// # Errors
/// Only where pages cannot be read at all; what is wrong in them is part of the report.
pub fn check<S: PageStore>(store: &S) -> Result<CheckReport, HnswError> {
    let meta = read_meta(store)?;
    let mut checker = Checker {
        layout: Layout::new(&meta.params),
        meta,
        report: CheckReport::default(),
        nodes: HashMap::new(),
        chains: HashMap::new(),
        tids: HashSet::new(),
        without_attributes: Vec::new(),
    };
    checker.read_pages(store)?;
    checker.check_attributes();
    checker.check_chains();
    checker.check_links();
    checker.check_entry();
    checker.check_reachability();
    checker.check_free_list(store)?;
    checker.check_keys(store)?;
    Ok(checker.report)
}

/// Counts what an index has, page by page.
///
/// # Errors
/// What the store raises, damaged pages.
pub fn info<S: PageStore>(store: &S) -> Result<IndexInfo, HnswError> {
    let meta = read_meta(store)?;
    let layout = Layout::new(&meta.params);
    let mut info = IndexInfo {
        format_version: FORMAT_VERSION,
        params: meta.params,
        pages: store.page_count()?.into(),
        nodes: 0,
        dead_nodes: 0,
        free_slots: 0,
        heap_tids: 0,
        unplaced: 0,
        levels: Vec::new(),
        links: 0,
        bytes_per_node: layout.slot_size() as u64,
        page_locality: 0.0,
    };
    let mut local = 0u64;
    for blkno in 1..meta.page_end.min(store.page_count()?) {
        store.check_interrupts()?;
        let pin = store.pin(blkno)?;
        let guard = pin.lock_shared();
        let Some(page) = PageView::new_if_filled(&layout, blkno, &guard)? else { continue };
        for slot in page.slots() {
            let (_, slot) = slot?;
            match slot.state() {
                SlotState::Free => info.free_slots += 1,
                SlotState::Dead => info.dead_nodes += 1,
                SlotState::Posting => {
                    let tids = slot.tids().count() as u64;
                    info.heap_tids += tids;
                    info.unplaced += if slot.owner() == NIL { tids } else { 0 };
                }
                SlotState::Upper => {}
                SlotState::Live => {
                    info.nodes += 1;
                    info.heap_tids += u64::from(slot.tid().is_some());
                    let level = usize::from(slot.level());
                    if info.levels.len() <= level {
                        info.levels.resize(level + 1, 0);
                    }
                    info.levels[level] += 1;
                    for link in slot.links() {
                        info.links += 1;
                        local += u64::from(layout.block_of(link.id) == blkno);
                    }
                }
            }
        }
    }
    if info.links > 0 {
        info.page_locality = local as f64 / info.links as f64;
    }
    Ok(info)
}

/// Calls `each` for every heap TID in the index.
///
/// # Errors
/// What the store raises, damaged pages.
pub fn each_tid<S: PageStore>(store: &S, each: &mut dyn FnMut(HeapTid)) -> Result<(), HnswError> {
    let meta = read_meta(store)?;
    let layout = Layout::new(&meta.params);
    for blkno in 1..meta.page_end.min(store.page_count()?) {
        store.check_interrupts()?;
        let pin = store.pin(blkno)?;
        let guard = pin.lock_shared();
        let Some(page) = PageView::new_if_filled(&layout, blkno, &guard)? else { continue };
        for slot in page.slots() {
            let (_, slot) = slot?;
            match slot.state() {
                SlotState::Live => slot.tid().into_iter().for_each(&mut *each),
                SlotState::Posting => slot.tids().for_each(&mut *each),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Calls `each` for every heap TID in the index with its filter columns; with none for rows that have
/// no place in the graph.
///
/// # Errors
/// What the store raises, damaged pages.
pub fn each_row<S: PageStore>(
    store: &S,
    each: &mut dyn FnMut(HeapTid, Option<&[u8]>),
) -> Result<(), HnswError> {
    let meta = read_meta(store)?;
    let mut reader = Reader::new(store, Layout::new(&meta.params));
    let len = meta.params.attr_len();
    for blkno in 1..meta.page_end.min(store.page_count()?) {
        store.check_interrupts()?;
        reader.release_pins();
        let mut rows: Vec<(u32, HeapTid)> = Vec::new();
        let layout = reader.layout;
        reader.page_if_filled(blkno, |page| {
            for slot in page.slots() {
                let (at, slot) = slot?;
                let id = layout.id(blkno, at).unwrap_or(NIL);
                match slot.state() {
                    SlotState::Live => rows.extend(slot.tid().map(|tid| (id, tid))),
                    SlotState::Posting => rows.extend(slot.tids().map(|tid| (slot.owner(), tid))),
                    _ => {}
                }
            }
            Ok(())
        })?;
        for (id, tid) in rows {
            if id == NIL {
                each(tid, None);
            } else if len == 0 {
                each(tid, Some(&[]));
            } else {
                let (group, place) = layout.attribute_place(id);
                reader.attributes(group, |all| each(tid, all.chunks_exact(len).nth(place)))?;
            }
        }
    }
    Ok(())
}

struct Checker {
    layout: Layout,
    meta: Meta,
    report: CheckReport,
    nodes: HashMap<u32, Node>,
    chains: HashMap<u32, Chain>,
    tids: HashSet<HeapTid>,
    /// Attribute pages without content.
    without_attributes: Vec<BlockNumber>,
}

struct Node {
    live: bool,
    generation: u8,
    level: u8,
    upper: u32,
    posting: u32,
    has_tid: bool,
    /// Links by level, as far as their slots were found.
    links: Vec<Vec<Link>>,
}

struct Chain {
    state: SlotState,
    owner: u32,
    next: u32,
    first_level: u8,
    links: Vec<Vec<Link>>,
    tids: usize,
    used: bool,
}

impl Checker {
    fn read_pages<S: PageStore>(&mut self, store: &S) -> Result<(), HnswError> {
        let page_count = store.page_count()?;
        if self.meta.page_end > page_count {
            let text = format!(
                "the index ends at page {}, the store has {page_count}",
                self.meta.page_end
            );
            self.report.violation(text);
        }
        for blkno in 1..self.meta.page_end.min(page_count) {
            store.check_interrupts()?;
            let pin = store.pin(blkno)?;
            let guard = pin.lock_shared();
            let layout = self.layout;
            if layout.is_attribute_page(blkno) {
                match read_attributes(&layout, blkno, &guard) {
                    Ok([]) => self.without_attributes.push(blkno),
                    Ok(_) => {}
                    Err(error) => self.report.violation(error.to_string()),
                }
                continue;
            }
            match PageView::new_if_filled(&layout, blkno, &guard) {
                Ok(Some(page)) => self.read_page(blkno, &page),
                Ok(None) => {}
                Err(error) => self.report.violation(error.to_string()),
            }
        }
        Ok(())
    }

    fn read_page(&mut self, blkno: BlockNumber, page: &PageView<'_>) {
        for at in 0..self.layout.slots_per_page() {
            let slot = match page.slot(at) {
                Ok(slot) => slot,
                Err(error) => {
                    self.report.violation(error.to_string());
                    continue;
                }
            };
            let Some(id) = self.layout.id(blkno, at) else { continue };
            match slot.state() {
                SlotState::Free => {}
                SlotState::Live | SlotState::Dead => {
                    let live = slot.state() == SlotState::Live;
                    self.report.nodes += u64::from(live);
                    self.report.dead_nodes += u64::from(!live);
                    if let Some(tid) = slot.tid() {
                        self.add_tid(id, tid);
                    }
                    for (what, value) in
                        [("scale", slot.scale()), ("norm", slot.norm()), ("error", slot.error())]
                    {
                        if !(value >= 0.0 && value.is_finite()) {
                            self.report.violation(format!("node {id}: {what} is {value}"));
                        }
                    }
                    let node = Node {
                        live,
                        generation: slot.generation(),
                        level: slot.level(),
                        upper: slot.upper(),
                        posting: slot.posting(),
                        has_tid: slot.tid().is_some(),
                        links: vec![slot.links().collect()],
                    };
                    self.nodes.insert(id, node);
                }
                SlotState::Upper | SlotState::Posting => {
                    let levels =
                        slot.first_level()..slot.first_level().saturating_add(slot.level_count());
                    let is_upper = slot.state() == SlotState::Upper;
                    let chain = Chain {
                        state: slot.state(),
                        owner: slot.owner(),
                        next: slot.next(),
                        first_level: slot.first_level(),
                        links: levels
                            .filter(|_| is_upper)
                            .map(|level| slot.upper_links(level).collect())
                            .collect(),
                        tids: if is_upper { 0 } else { slot.tids().count() },
                        used: false,
                    };
                    if !is_upper {
                        for tid in slot.tids() {
                            self.add_tid(id, tid);
                        }
                    }
                    self.chains.insert(id, chain);
                }
            }
        }
    }

    fn add_tid(&mut self, id: u32, tid: HeapTid) {
        self.report.heap_tids += 1;
        if tid.offset == 0 {
            self.report.violation(format!("slot {id}: heap TID ({},0)", tid.block));
        }
        if !self.tids.insert(tid) {
            let text = format!("slot {id}: heap TID ({},{}) is there twice", tid.block, tid.offset);
            self.report.violation(text);
        }
    }

    fn check_attributes(&mut self) {
        let empty: HashSet<BlockNumber> = self.without_attributes.iter().copied().collect();
        if empty.is_empty() {
            return;
        }
        let page_of = |id| self.layout.attribute_page(self.layout.attribute_place(id).0);
        let bare: Vec<u32> =
            self.nodes.keys().copied().filter(|&id| empty.contains(&page_of(id))).collect();
        for id in bare {
            self.report.violation(format!("node {id}: attribute page {} is empty", page_of(id)));
        }
    }

    /// Follows every node's chains of upper and posting slots.
    fn check_chains(&mut self) {
        let ids: Vec<u32> = self.nodes.keys().copied().collect();
        for id in ids {
            let node = &self.nodes[&id];
            let (level, upper, posting) = (node.level, node.upper, node.posting);
            let (live, has_tid) = (node.live, node.has_tid);
            let mut links = Vec::new();
            for slot in self.follow(id, upper, SlotState::Upper) {
                let chain = &self.chains[&slot];
                if usize::from(chain.first_level) != links.len() + 1 {
                    let got = chain.first_level;
                    self.report
                        .violation(format!("node {id}: upper slot {slot} begins at level {got}"));
                }
                links.extend(self.chains[&slot].links.iter().cloned());
            }
            if links.len() != usize::from(level) {
                let got = links.len();
                self.report
                    .violation(format!("node {id}: level {level}, links on {got} upper levels"));
            }
            self.nodes.get_mut(&id).expect("listed above").links.extend(links);
            let slots = self.follow(id, posting, SlotState::Posting);
            let tids: usize = slots.iter().map(|slot| self.chains[slot].tids).sum();
            if live && tids == 0 && !has_tid {
                self.report.violation(format!("node {id}: live without a heap TID"));
            }
            if !live && (has_tid || tids > 0) {
                self.report.violation(format!("node {id}: dead with heap TIDs"));
            }
        }
        let unplaced = self.follow(NIL, self.meta.unplaced, SlotState::Posting);
        self.report.unplaced = unplaced.iter().map(|slot| self.chains[slot].tids as u64).sum();
        let unused: Vec<u32> =
            self.chains.iter().filter(|(_, chain)| !chain.used).map(|(&slot, _)| slot).collect();
        for slot in unused {
            let owner = self.chains[&slot].owner;
            self.report.violation(format!("slot {slot}: its node {owner} does not lead to it"));
        }
    }

    fn follow(&mut self, node: u32, head: u32, state: SlotState) -> Vec<u32> {
        let mut slots = Vec::new();
        let mut next = head;
        while next != NIL {
            let Some(chain) = self.chains.get_mut(&next) else {
                self.report.violation(format!("node {node}: slot {next} of its chain is none"));
                break;
            };
            if chain.state != state || chain.owner != node {
                let (state, owner) = (chain.state, chain.owner);
                self.report.violation(format!(
                    "node {node}: slot {next} of its chain is {state:?} of node {owner}"
                ));
                break;
            }
            if std::mem::replace(&mut chain.used, true) {
                self.report.violation(format!("node {node}: its chain meets slot {next} twice"));
                break;
            }
            slots.push(next);
            next = chain.next;
        }
        slots
    }

    fn check_links(&mut self) {
        let mut found = Vec::new();
        let mut stale = 0;
        for (id, node) in &self.nodes {
            for (level, links) in node.links.iter().enumerate() {
                if links.len() > self.meta.params.max_links(level as u8) {
                    found.push(format!("node {id}: {} links on level {level}", links.len()));
                }
                let mut seen = HashSet::new();
                for link in links {
                    if !seen.insert(link.id) {
                        found.push(format!(
                            "node {id}: links to {} twice on level {level}",
                            link.id
                        ));
                    }
                    if link.id == *id {
                        found.push(format!("node {id}: links to itself on level {level}"));
                    }
                    if self.layout.block_of(link.id) >= self.meta.page_end {
                        found.push(format!("node {id}: link to {} is out of range", link.id));
                    }
                    match self.nodes.get(&link.id) {
                        Some(other) if other.generation == link.generation => {
                            if usize::from(other.level) < level {
                                found.push(format!(
                                    "node {id}: links to {} on level {level}, which is of level {}",
                                    link.id, other.level
                                ));
                            }
                        }
                        _ => stale += 1,
                    }
                }
            }
        }
        self.report.stale_links = stale;
        for text in found {
            self.report.violation(text);
        }
    }

    fn check_entry(&mut self) {
        let Some(entry) = self.meta.entry else {
            if self.report.nodes > 0 {
                self.report.violation("no entry point, but live nodes".into());
            }
            return;
        };
        match self.nodes.get(&entry.id) {
            Some(node) if node.generation == entry.generation => {
                if node.level != entry.level {
                    let (expected, got) = (node.level, entry.level);
                    self.report
                        .violation(format!("entry point: level {got}, its node has {expected}"));
                }
                if !node.live && !self.meta.dead_pending {
                    self.report.violation(format!("entry point: node {} is dead", entry.id));
                }
            }
            _ => self.report.violation(format!("entry point: {} is no node", entry.id)),
        }
    }

    fn check_reachability(&mut self) {
        let mut seen: HashSet<u32> = HashSet::new();
        let mut queue: Vec<u32> = Vec::new();
        // Searches start where a descent ends, so every node of level 1 and above is a start.
        let starts = self.nodes.iter().filter(|(_, node)| node.level > 0).map(|(&id, _)| id);
        for id in starts.chain(self.meta.entry.map(|entry| entry.id)) {
            if seen.insert(id) {
                queue.push(id);
            }
        }
        while let Some(id) = queue.pop() {
            let Some(node) = self.nodes.get(&id) else { continue };
            self.report.reachable += u64::from(node.live);
            for link in &node.links[0] {
                let leads =
                    self.nodes.get(&link.id).is_some_and(|n| n.generation == link.generation);
                if leads && seen.insert(link.id) {
                    queue.push(link.id);
                }
            }
        }
        let (reachable, nodes) = (self.report.reachable, self.report.nodes);
        if (reachable + UNLINKED_BY_CRASH) * 100 < nodes * REACHABLE_PERCENT {
            self.report.violation(format!("links lead to {reachable} of {nodes} nodes"));
        }
    }

    fn check_keys<S: PageStore>(&mut self, store: &S) -> Result<(), HnswError> {
        let report = &mut self.report;
        report.keys = keys::check(store, &self.meta, &mut |text| report.violation(text))?;
        Ok(())
    }

    fn check_free_list<S: PageStore>(&mut self, store: &S) -> Result<(), HnswError> {
        let mut reader = Reader::new(store, self.layout);
        let mut seen = HashSet::new();
        let mut next = self.meta.free_head;
        while next != NIL {
            if next == 0 || next >= self.meta.page_end || !seen.insert(next) {
                self.report.violation(format!("list of free pages: page {next} out of place"));
                break;
            }
            let list = reader.page(next, |page| Ok(page.free_list()));
            match list {
                Ok(list) if list.listed => next = list.next,
                Ok(_) => {
                    self.report.violation(format!("list of free pages: page {next} is not marked"));
                    break;
                }
                Err(error) => {
                    self.report.violation(error.to_string());
                    break;
                }
            }
        }
        Ok(())
    }
}
