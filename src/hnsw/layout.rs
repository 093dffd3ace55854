//! Bytes of the metapage, of node pages and of their slots, read through checked views.
//!
//! `docs/on-disk-format.md` draws them. All numbers are little-endian. Every node page is an array
//! of equal slots, so that a node's id is a number from which page and slot follow, and a slot holds
//! one of: nothing, a node, the upper-level links of a node, or more heap TIDs of a node.
//!
//! Where an index has filter columns, their values lie in attribute pages of their own: one in front of
//! every few node pages, with a place for each of their slots (`filter.rs`). So an id tells the place
//! of its attributes too, and a scan learns which nodes match from a page for a thousand nodes.
//!
//! A slot's generation goes up by one whenever it is freed, and a link carries the generation it
//! was made for (modulo 256). A link whose generation differs leads nowhere. That is a matter of
//! graph quality only: whoever follows a link scores, and emits, what the slot holds now.

use super::keys::is_keys_page;
use super::params::{HnswParams, Storage};
use super::sketch::{SKETCH_LEN, Sketch};
use crate::page::{BlockNumber, HeapTid, PAGE_CONTENT, PAGE_HEADER, PageError};
use crate::vector::{Metric, prefetch, prefetch_at};

/// The metapage's place.
pub(crate) const METAPAGE: BlockNumber = 0;
/// No node, no slot, no page.
pub(crate) const NIL: u32 = u32::MAX;
/// Version of the format that this code writes and reads.
pub const FORMAT_VERSION: u8 = 2;
/// Most slots in a page, what a scan's set of visited slots has bits for.
pub(crate) const MAX_SLOTS: usize = 256;
/// Highest level of a node.
pub(crate) const MAX_LEVEL: u8 = 15;

const META_MAGIC: u32 = u32::from_le_bytes(*b"DFHM");
const PAGE_MAGIC: u32 = u32::from_le_bytes(*b"DFHN");
const ATTRIBUTE_MAGIC: u32 = u32::from_le_bytes(*b"DFHA");
/// With the store's header 64 bytes, so that slots of whole cache lines begin with one.
pub(crate) const PAGE_HEADER_LEN: usize = 64 - PAGE_HEADER;
const SLOT_HEADER_LEN: usize = 32;
const CHAIN_HEADER_LEN: usize = 12;
const TID_LEN: usize = 6;

/// Where things are in an index's pages; follows from its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    dims: usize,
    m: usize,
    attr_len: usize,
    storage: Storage,
    slot_size: usize,
    slots_per_page: usize,
    /// Node pages behind each attribute page; 0 in an index without filter columns.
    group_pages: usize,
}

impl Layout {
    /// Bytes of a page that slots can fill.
    pub(crate) const PAGE_ROOM: usize = PAGE_CONTENT - PAGE_HEADER_LEN;

    pub(crate) fn new(params: &HnswParams) -> Self {
        let (dims, m, attr_len) = (params.dims(), params.m(), params.attr_len());
        // Wide enough for one level's links as well, which lie in slots of their own.
        let storage = params.storage();
        let sketches = if storage == Storage::Sketched { 2 * m * SKETCH_LEN } else { 0 };
        let node = SLOT_HEADER_LEN + 2 * m * 5 + sketches + dims;
        let slot_size = node.next_multiple_of(8);
        let slots_per_page = (Self::PAGE_ROOM / slot_size).min(MAX_SLOTS);
        let group_pages = match attr_len * slots_per_page {
            0 => 0,
            page_attrs => Self::PAGE_ROOM / page_attrs,
        };
        Self { dims, m, attr_len, storage, slot_size, slots_per_page, group_pages }
    }

    /// Bytes of a node's filter columns.
    pub(crate) fn attr_len(&self) -> usize {
        self.attr_len
    }

    /// Node pages behind each attribute page; 0 in an index without filter columns.
    pub(crate) fn group_pages(&self) -> usize {
        self.group_pages
    }

    /// Nodes whose attributes one attribute page holds.
    pub(crate) fn group_slots(&self) -> usize {
        self.group_pages * self.slots_per_page
    }

    /// Whether the page is one of attributes.
    pub(crate) fn is_attribute_page(&self, blkno: BlockNumber) -> bool {
        self.group_pages > 0
            && blkno > METAPAGE
            && (blkno - 1).is_multiple_of(self.group_pages as u32 + 1)
    }

    /// The attribute page of a group of node pages.
    pub(crate) fn attribute_page(&self, group: u32) -> BlockNumber {
        let blkno = u64::from(group) * (self.group_pages as u64 + 1) + 1;
        BlockNumber::try_from(blkno).unwrap_or(BlockNumber::MAX)
    }

    /// The group that an id belongs to, and its place there.
    #[inline]
    pub(crate) fn attribute_place(&self, id: u32) -> (u32, usize) {
        let group_slots = self.group_slots().max(1) as u32;
        (id / group_slots, (id % group_slots) as usize)
    }

    pub(crate) fn storage(&self) -> Storage {
        self.storage
    }

    /// Where a node's sketches begin, and its code when they are over.
    fn sketches_at(&self) -> usize {
        SLOT_HEADER_LEN + 10 * self.m
    }

    fn codes_at(&self) -> usize {
        match self.storage {
            Storage::Plain => self.sketches_at(),
            Storage::Sketched => self.sketches_at() + 2 * self.m * SKETCH_LEN,
        }
    }

    pub(crate) fn slot_size(&self) -> usize {
        self.slot_size
    }

    pub(crate) fn slots_per_page(&self) -> usize {
        self.slots_per_page
    }

    /// Levels whose links fit in one upper slot.
    pub(crate) fn levels_per_slot(&self) -> usize {
        (self.slot_size - CHAIN_HEADER_LEN) / (1 + 5 * self.m)
    }

    /// Highest level that a node can have: it and its upper slots are written in one transaction,
    /// to one page or to two.
    pub(crate) fn max_level(&self) -> u8 {
        let upper_slots = self.slots_per_page.max(2) - 1;
        (upper_slots * self.levels_per_slot()).min(MAX_LEVEL.into()) as u8
    }

    /// Heap TIDs that fit in one posting slot.
    pub(crate) fn tids_per_slot(&self) -> usize {
        ((self.slot_size - CHAIN_HEADER_LEN) / TID_LEN).min(u8::MAX as usize)
    }

    #[inline]
    pub(crate) fn block_of(&self, id: u32) -> BlockNumber {
        // One more than the quotient, for the metapage; cannot overflow, as a page has ≥ 1 slot and
        // the largest id is NIL − 1.
        let page = id / self.slots_per_page as u32;
        if self.group_pages == 0 {
            return page + 1;
        }
        // And one more for each attribute page. An id past the last block is a damaged link's: it
        // leads to a page that no index has.
        page.saturating_add(page / self.group_pages as u32).saturating_add(2)
    }

    pub(crate) fn slot_of(&self, id: u32) -> usize {
        id as usize % self.slots_per_page
    }

    /// A node's page and its slot there.
    #[inline]
    pub(crate) fn place_of(&self, id: u32) -> (BlockNumber, usize) {
        (self.block_of(id), self.slot_of(id))
    }

    /// The id of a slot; nothing past the last id that 32 bits can hold, and on pages of another
    /// kind.
    pub(crate) fn id(&self, blkno: BlockNumber, slot: usize) -> Option<u32> {
        let mut page = blkno.checked_sub(1)?;
        if self.group_pages > 0 {
            let stride = self.group_pages as u32 + 1;
            page = page / stride * self.group_pages as u32 + (page % stride).checked_sub(1)?;
        }
        let id = u64::from(page) * self.slots_per_page as u64 + slot as u64;
        u32::try_from(id).ok().filter(|&id| id != NIL)
    }

    /// Prefetches what scoring all nodes of a page reads; `page` is its address, or null.
    pub(crate) fn prefetch_codes(&self, page: *const u8) {
        if page.is_null() {
            return;
        }
        prefetch_at(page, PAGE_HEADER_LEN);
        for slot in 0..self.slots_per_page {
            let start = page.wrapping_add(PAGE_HEADER_LEN + slot * self.slot_size);
            prefetch_at(start, SLOT_HEADER_LEN);
            prefetch_at(start.wrapping_add(self.codes_at()), self.dims);
        }
    }

    /// Prefetches a node's links; `page` is its page's address, or null.
    pub(crate) fn prefetch_links(&self, page: *const u8, slot: usize) {
        if page.is_null() {
            return;
        }
        let start = page.wrapping_add(PAGE_HEADER_LEN + slot * self.slot_size);
        prefetch_at(start, self.codes_at());
    }

    fn slot_range(&self, slot: usize) -> std::ops::Range<usize> {
        let start = PAGE_HEADER_LEN + slot * self.slot_size;
        start..start + self.slot_size
    }
}

/// What the metapage says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Meta {
    pub(crate) params: HnswParams,
    /// Where searches start; `None` in an empty index.
    pub(crate) entry: Option<Entry>,
    /// First page of the list of pages with freed slots, or [`NIL`].
    pub(crate) free_head: u32,
    /// The page that new nodes fill, or [`NIL`].
    pub(crate) tail: u32,
    /// Pages that belong to the index; any after them were left by writes that never committed.
    pub(crate) page_end: u32,
    /// Nodes, as of the last build or vacuum.
    pub(crate) nodes: u32,
    /// Whether marked dead nodes wait for repair.
    pub(crate) dead_pending: bool,
    /// Seed of node levels.
    pub(crate) seed: u64,
    /// First posting slot with rows that have no place in the graph, or [`NIL`].
    pub(crate) unplaced: u32,
    /// Root of the table of keys; see `keys.rs`.
    pub(crate) keys: Option<BlockNumber>,
}

/// The entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: u32,
    pub(crate) generation: u8,
    pub(crate) level: u8,
}

impl Meta {
    pub(crate) fn new(params: HnswParams, seed: u64) -> Self {
        Self {
            params,
            entry: None,
            free_head: NIL,
            tail: NIL,
            page_end: 1,
            nodes: 0,
            dead_pending: false,
            seed,
            unplaced: NIL,
            keys: None,
        }
    }

    pub(crate) fn write(&self, page: &mut [u8]) {
        let entry = self.entry.unwrap_or(Entry { id: NIL, generation: 0, level: 0 });
        put_u32(page, 0, META_MAGIC);
        page[4] = FORMAT_VERSION;
        page[5] = self.params.metric().code();
        put_u16(page, 6, self.params.dims() as u16);
        put_u16(page, 8, self.params.m() as u16);
        put_u16(page, 10, self.params.ef_construction() as u16);
        put_u16(page, 12, self.params.attr_len() as u16);
        page[14] = entry.generation;
        page[15] = entry.level;
        put_u32(page, 16, entry.id);
        put_u32(page, 20, self.free_head);
        put_u32(page, 24, self.tail);
        put_u32(page, 28, self.page_end);
        put_u32(page, 32, self.nodes);
        page[36] = self.dead_pending.into();
        page[37] = self.params.storage().code();
        put_u64(page, 40, self.seed);
        put_u32(page, 48, self.unplaced);
        put_u32(page, 52, self.keys.unwrap_or(METAPAGE));
    }

    /// # Errors
    /// [`PageError::Corrupt`] where the page is not a metapage of a version that this code reads.
    pub(crate) fn read(page: &[u8]) -> Result<Self, PageError> {
        let corrupt =
            |expected, got| PageError::Corrupt { blkno: METAPAGE, offno: 0, expected, got };
        let magic = get_u32(page, 0);
        if magic != META_MAGIC {
            return Err(corrupt("the metapage of an hnsw index", format!("magic {magic:#010x}")));
        }
        if page[4] != FORMAT_VERSION {
            return Err(corrupt(
                "format version 2 (REINDEX makes one)",
                format!("version {}", page[4]),
            ));
        }
        let metric =
            Metric::from_code(page[5]).map_err(|e| corrupt("a metric's code", e.to_string()))?;
        let params = HnswParams::parse(
            get_u16(page, 6).into(),
            metric,
            get_u16(page, 8).into(),
            get_u16(page, 10).into(),
        )
        .and_then(|params| params.with_storage(Storage::from_code(page[37])))
        .and_then(|params| params.with_attr_len(get_u16(page, 12)))
        .map_err(|e| corrupt("valid parameters", e.to_string()))?;
        let entry = match get_u32(page, 16) {
            NIL => None,
            id => Some(Entry { id, generation: page[14], level: page[15].min(MAX_LEVEL) }),
        };
        Ok(Self {
            params,
            entry,
            free_head: get_u32(page, 20),
            tail: get_u32(page, 24),
            page_end: get_u32(page, 28),
            nodes: get_u32(page, 32),
            dead_pending: page[36] != 0,
            seed: get_u64(page, 40),
            unplaced: get_u32(page, 48),
            keys: Some(get_u32(page, 52)).filter(|&blkno| blkno != METAPAGE),
        })
    }
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// Nothing.
    Free,
    /// A node with at least one heap TID.
    Live,
    /// A node that lost its last heap TID: still passed through, never emitted nor linked to.
    Dead,
    /// Upper-level links of a node.
    Upper,
    /// More heap TIDs of a node.
    Posting,
}

impl SlotState {
    fn code(self) -> u8 {
        match self {
            Self::Free => 0,
            Self::Live => 1,
            Self::Dead => 2,
            Self::Upper => 3,
            Self::Posting => 4,
        }
    }

    #[inline]
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Free,
            1 => Self::Live,
            2 => Self::Dead,
            3 => Self::Upper,
            4 => Self::Posting,
            _ => return None,
        })
    }

    pub(crate) fn is_node(self) -> bool {
        matches!(self, Self::Live | Self::Dead)
    }
}

/// A link to a node. Two are equal when they lead to the same node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) id: u32,
    pub(crate) generation: u8,
    /// Of the edge that the link stands for; see [`Storage::Sketched`].
    pub(crate) sketch: Sketch,
}

impl Link {
    pub(crate) fn new(id: u32, generation: u8) -> Self {
        Self { id, generation, sketch: Sketch::default() }
    }
}

impl PartialEq for Link {
    fn eq(&self, other: &Self) -> bool {
        (self.id, self.generation) == (other.id, other.generation)
    }
}

impl Eq for Link {}

impl std::hash::Hash for Link {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.id, self.generation).hash(state);
    }
}

/// A node page's content, checked to be one.
#[derive(Clone, Copy)]
pub(crate) struct PageView<'p> {
    layout: &'p Layout,
    blkno: BlockNumber,
    bytes: &'p [u8],
}

impl<'p> PageView<'p> {
    /// # Errors
    /// [`PageError::Corrupt`] where the bytes are not those of a node page.
    pub(crate) fn new(
        layout: &'p Layout,
        blkno: BlockNumber,
        bytes: &'p [u8],
    ) -> Result<Self, PageError> {
        check_page(blkno, bytes)?;
        Ok(Self { layout, blkno, bytes })
    }

    /// The same, or nothing for a page that no committed write has filled and for one of attributes or
    /// keys.
    pub(crate) fn new_if_filled(
        layout: &'p Layout,
        blkno: BlockNumber,
        bytes: &'p [u8],
    ) -> Result<Option<Self>, PageError> {
        if layout.is_attribute_page(blkno)
            || is_keys_page(bytes)
            || get_u32(bytes, 0) == 0 && bytes.iter().all(|&byte| byte == 0)
        {
            return Ok(None);
        }
        Self::new(layout, blkno, bytes).map(Some)
    }

    /// # Errors
    /// [`PageError::Corrupt`] where the slot's state is none that exists.
    pub(crate) fn slot(&self, slot: usize) -> Result<SlotView<'p>, PageError> {
        let bytes = &self.bytes[self.layout.slot_range(slot)];
        let state = slot_state(self.blkno, slot, bytes)?;
        Ok(SlotView { layout: self.layout, bytes, state })
    }

    /// Asks for what scoring the slot reads to be brought into the cache: its header and its code.
    #[inline]
    pub(crate) fn prefetch(&self, slot: usize) {
        let bytes = &self.bytes[self.layout.slot_range(slot)];
        let start = self.layout.codes_at();
        prefetch(&bytes[..SLOT_HEADER_LEN]);
        prefetch(&bytes[start..start + self.layout.dims]);
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = Result<(usize, SlotView<'p>), PageError>> {
        let page = *self;
        (0..self.layout.slots_per_page()).map(move |slot| Ok((slot, page.slot(slot)?)))
    }

    pub(crate) fn free_list(&self) -> FreeList {
        FreeList::read(self.bytes)
    }
}

/// A node page's place in the list of pages with freed slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FreeList {
    /// Whether the page is on the list.
    pub(crate) listed: bool,
    /// The next page on it, or [`NIL`].
    pub(crate) next: u32,
    /// When a slot of the page was last freed.
    pub(crate) newest_stamp: u64,
}

impl FreeList {
    fn read(page: &[u8]) -> Self {
        Self { listed: page[5] & 1 != 0, next: get_u32(page, 8), newest_stamp: get_u64(page, 16) }
    }
}

/// A slot's content.
#[derive(Clone, Copy)]
pub(crate) struct SlotView<'p> {
    layout: &'p Layout,
    bytes: &'p [u8],
    state: SlotState,
}

impl<'p> SlotView<'p> {
    #[inline]
    pub(crate) fn state(&self) -> SlotState {
        self.state
    }

    #[inline]
    pub(crate) fn generation(&self) -> u8 {
        self.bytes[1]
    }

    /// When the slot was freed; of a free slot.
    pub(crate) fn stamp(&self) -> u64 {
        get_u64(self.bytes, 8)
    }

    /// A node's highest level.
    pub(crate) fn level(&self) -> u8 {
        self.bytes[2].min(MAX_LEVEL)
    }

    /// A node's first heap TID.
    #[inline]
    pub(crate) fn tid(&self) -> Option<HeapTid> {
        let tid = HeapTid { block: get_u32(self.bytes, 4), offset: get_u16(self.bytes, 8) };
        (tid.offset != 0).then_some(tid)
    }

    /// A node's first upper slot, or [`NIL`].
    pub(crate) fn upper(&self) -> u32 {
        get_u32(self.bytes, 12)
    }

    /// A node's first posting slot, or [`NIL`].
    #[inline]
    pub(crate) fn posting(&self) -> u32 {
        get_u32(self.bytes, 16)
    }

    #[inline]
    pub(crate) fn scale(&self) -> f32 {
        f32::from_bits(get_u32(self.bytes, 20))
    }

    #[inline]
    pub(crate) fn norm(&self) -> f32 {
        f32::from_bits(get_u32(self.bytes, 24))
    }

    #[inline]
    pub(crate) fn error(&self) -> f32 {
        f32::from_bits(get_u32(self.bytes, 28))
    }

    #[inline]
    pub(crate) fn codes(&self) -> &'p [i8] {
        let start = self.layout.codes_at();
        bytemuck::cast_slice(&self.bytes[start..start + self.layout.dims])
    }

    /// A node's links on level 0.
    pub(crate) fn links(&self) -> impl Iterator<Item = Link> + use<'p> {
        let (bytes, cap) = (self.bytes, 2 * self.layout.m);
        let (start, end) = (self.layout.sketches_at(), self.layout.codes_at());
        let sketches = bytes[start..end].as_chunks::<SKETCH_LEN>().0;
        read_links(&bytes[SLOT_HEADER_LEN..start], cap, bytes[3]).enumerate().map(
            move |(i, link)| {
                let sketch = sketches.get(i).map_or(link.sketch, |bytes| Sketch(*bytes));
                Link { sketch, ..link }
            },
        )
    }

    /// An upper or posting slot's node; [`NIL`] for postings of rows without one.
    pub(crate) fn owner(&self) -> u32 {
        get_u32(self.bytes, 4)
    }

    /// The next slot in an upper or posting chain, or [`NIL`].
    pub(crate) fn next(&self) -> u32 {
        get_u32(self.bytes, 8)
    }

    /// The lowest level of an upper slot's links.
    pub(crate) fn first_level(&self) -> u8 {
        self.bytes[2]
    }

    /// How many levels' links an upper slot has.
    pub(crate) fn level_count(&self) -> u8 {
        self.bytes[3].min(self.layout.levels_per_slot() as u8)
    }

    /// Whether an upper slot has the links of `level`.
    pub(crate) fn holds_level(&self, level: u8) -> bool {
        level.checked_sub(self.first_level()).is_some_and(|at| at < self.level_count())
    }

    /// An upper slot's links on `level`; none where it does not hold that level.
    pub(crate) fn upper_links(&self, level: u8) -> impl Iterator<Item = Link> + use<'p> {
        let at = level.checked_sub(self.first_level()).filter(|&at| at < self.level_count());
        let m = self.layout.m;
        let (area, count): (&'p [u8], u8) = match at {
            Some(at) => {
                let start = CHAIN_HEADER_LEN + usize::from(at) * (1 + 5 * m);
                (&self.bytes[start + 1..start + 1 + 5 * m], self.bytes[start])
            }
            None => (&[], 0),
        };
        read_links(area, m, count)
    }

    /// A posting slot's heap TIDs.
    pub(crate) fn tids(&self) -> impl Iterator<Item = HeapTid> + use<'p> {
        let bytes = self.bytes;
        (0..usize::from(bytes[2]).min(self.layout.tids_per_slot())).map(move |i| {
            let at = CHAIN_HEADER_LEN + i * TID_LEN;
            HeapTid { block: get_u32(bytes, at), offset: get_u16(bytes, at + 4) }
        })
    }
}

/// Links lie as all ids, then all generations.
fn read_links(area: &[u8], cap: usize, count: u8) -> impl Iterator<Item = Link> + use<'_> {
    (0..usize::from(count).min(cap))
        .map(move |i| Link::new(get_u32(area, 4 * i), area[4 * cap + i]))
}

/// A node page's content, to be changed.
pub(crate) struct PageMut<'p> {
    layout: &'p Layout,
    blkno: BlockNumber,
    bytes: &'p mut [u8],
}

impl<'p> PageMut<'p> {
    /// # Errors
    /// [`PageError::Corrupt`] where the bytes are not those of a node page.
    pub(crate) fn new(
        layout: &'p Layout,
        blkno: BlockNumber,
        bytes: &'p mut [u8],
    ) -> Result<Self, PageError> {
        check_page(blkno, bytes)?;
        Ok(Self { layout, blkno, bytes })
    }

    /// Makes zeroed bytes a node page with free slots only.
    pub(crate) fn format(layout: &'p Layout, blkno: BlockNumber, bytes: &'p mut [u8]) -> Self {
        put_u32(bytes, 0, PAGE_MAGIC);
        bytes[4] = FORMAT_VERSION;
        put_u32(bytes, 8, NIL);
        Self { layout, blkno, bytes }
    }

    pub(crate) fn view(&self) -> PageView<'_> {
        PageView { layout: self.layout, blkno: self.blkno, bytes: self.bytes }
    }

    pub(crate) fn set_free_list(&mut self, list: FreeList) {
        self.bytes[5] = self.bytes[5] & !1 | u8::from(list.listed);
        put_u32(self.bytes, 8, list.next);
        put_u64(self.bytes, 16, list.newest_stamp);
    }

    /// # Errors
    /// [`PageError::Corrupt`] where the slot's state is none that exists.
    pub(crate) fn slot(&mut self, slot: usize) -> Result<SlotMut<'_>, PageError> {
        let bytes = &mut self.bytes[self.layout.slot_range(slot)];
        slot_state(self.blkno, slot, bytes)?;
        Ok(SlotMut { layout: self.layout, bytes })
    }
}

/// A slot's content, to be changed.
pub(crate) struct SlotMut<'p> {
    layout: &'p Layout,
    bytes: &'p mut [u8],
}

/// What a new node starts with, besides its links.
pub(crate) struct NodeInit<'a> {
    pub(crate) level: u8,
    pub(crate) tid: HeapTid,
    pub(crate) upper: u32,
    pub(crate) posting: u32,
    pub(crate) scale: f32,
    pub(crate) norm: f32,
    pub(crate) error: f32,
    pub(crate) codes: &'a [i8],
}

impl SlotMut<'_> {
    /// Fills the slot with a live node without links; the generation stays.
    pub(crate) fn init_node(&mut self, node: &NodeInit<'_>) {
        self.clear(SlotState::Live);
        self.bytes[2] = node.level;
        self.set_tid(Some(node.tid));
        self.set_upper(node.upper);
        self.set_posting(node.posting);
        put_u32(self.bytes, 20, node.scale.to_bits());
        put_u32(self.bytes, 24, node.norm.to_bits());
        put_u32(self.bytes, 28, node.error.to_bits());
        let start = self.layout.codes_at();
        let end = start + self.layout.dims;
        self.bytes[start..end].copy_from_slice(bytemuck::cast_slice(node.codes));
    }

    /// Fills the slot with empty upper-level link lists.
    pub(crate) fn init_upper(&mut self, owner: u32, next: u32, first_level: u8, level_count: u8) {
        self.clear(SlotState::Upper);
        self.bytes[2] = first_level;
        self.bytes[3] = level_count;
        put_u32(self.bytes, 4, owner);
        put_u32(self.bytes, 8, next);
    }

    /// Fills the slot with an empty list of heap TIDs.
    pub(crate) fn init_posting(&mut self, owner: u32, next: u32) {
        self.clear(SlotState::Posting);
        put_u32(self.bytes, 4, owner);
        put_u32(self.bytes, 8, next);
    }

    /// Empties the slot: links to it lead nowhere from now on.
    pub(crate) fn free(&mut self, stamp: u64) {
        let generation = self.bytes[1].wrapping_add(1);
        self.clear(SlotState::Free);
        self.bytes[1] = generation;
        put_u64(self.bytes, 8, stamp);
    }

    fn clear(&mut self, state: SlotState) {
        let generation = self.bytes[1];
        self.bytes.fill(0);
        self.bytes[0] = state.code();
        self.bytes[1] = generation;
    }

    pub(crate) fn set_state(&mut self, state: SlotState) {
        self.bytes[0] = state.code();
    }

    pub(crate) fn set_tid(&mut self, tid: Option<HeapTid>) {
        let tid = tid.unwrap_or(HeapTid { block: 0, offset: 0 });
        put_u32(self.bytes, 4, tid.block);
        put_u16(self.bytes, 8, tid.offset);
    }

    pub(crate) fn set_upper(&mut self, upper: u32) {
        put_u32(self.bytes, 12, upper);
    }

    pub(crate) fn set_posting(&mut self, posting: u32) {
        put_u32(self.bytes, 16, posting);
    }

    /// Widens the error bound of a node that another row's vector joins.
    pub(crate) fn widen_error(&mut self, error: f32) {
        let widest = f32::from_bits(get_u32(self.bytes, 28)).max(error);
        put_u32(self.bytes, 28, widest.to_bits());
    }

    pub(crate) fn set_next(&mut self, next: u32) {
        put_u32(self.bytes, 8, next);
    }

    /// Replaces a node's links on level 0; at most 2m.
    pub(crate) fn set_links(&mut self, links: &[Link]) {
        let cap = 2 * self.layout.m;
        self.bytes[3] = links.len() as u8;
        write_links(&mut self.bytes[SLOT_HEADER_LEN..SLOT_HEADER_LEN + 5 * cap], cap, links);
        let (start, end) = (self.layout.sketches_at(), self.layout.codes_at());
        let sketches = self.bytes[start..end].as_chunks_mut::<SKETCH_LEN>().0;
        for (place, link) in sketches.iter_mut().zip(links) {
            *place = link.sketch.0;
        }
    }

    /// Replaces an upper slot's links on `level`, which it holds; at most m.
    pub(crate) fn set_upper_links(&mut self, level: u8, links: &[Link]) {
        let m = self.layout.m;
        let at = usize::from(level.saturating_sub(self.bytes[2]));
        let start = CHAIN_HEADER_LEN + at.min(self.layout.levels_per_slot() - 1) * (1 + 5 * m);
        self.bytes[start] = links.len() as u8;
        write_links(&mut self.bytes[start + 1..start + 1 + 5 * m], m, links);
    }

    /// Replaces a posting slot's heap TIDs; at most [`Layout::tids_per_slot`].
    pub(crate) fn set_tids(&mut self, tids: &[HeapTid]) {
        self.bytes[2] = tids.len() as u8;
        for (i, tid) in tids.iter().enumerate() {
            let at = CHAIN_HEADER_LEN + i * TID_LEN;
            put_u32(self.bytes, at, tid.block);
            put_u16(self.bytes, at + 4, tid.offset);
        }
    }
}

fn write_links(area: &mut [u8], cap: usize, links: &[Link]) {
    area.fill(0);
    for (i, link) in links.iter().enumerate() {
        put_u32(area, 4 * i, link.id);
        area[4 * cap + i] = link.generation;
    }
}

/// The attributes of a group's nodes, [`Layout::attr_len`] bytes each, in the order of their ids;
/// nothing on a page that no committed write has filled, which no node's attributes are on yet.
///
/// # Errors
/// [`PageError::Corrupt`] where the bytes are not those of an attribute page.
pub(crate) fn read_attributes<'p>(
    layout: &Layout,
    blkno: BlockNumber,
    bytes: &'p [u8],
) -> Result<&'p [u8], PageError> {
    match get_u32(bytes, 0) {
        0 => return Ok(&[]),
        ATTRIBUTE_MAGIC if bytes[4] == FORMAT_VERSION => {}
        magic => {
            let (expected, got) = ("an attribute page", format!("magic {magic:#010x}"));
            return Err(PageError::Corrupt { blkno, offno: 0, expected, got });
        }
    }
    let len = layout.group_slots() * layout.attr_len();
    Ok(&bytes[PAGE_HEADER_LEN..PAGE_HEADER_LEN + len])
}

/// Writes the attributes of the node at `place` in its group; formats a page that nothing was written
/// to yet.
pub(crate) fn write_attributes(layout: &Layout, bytes: &mut [u8], place: usize, attrs: &[u8]) {
    put_u32(bytes, 0, ATTRIBUTE_MAGIC);
    bytes[4] = FORMAT_VERSION;
    let start = PAGE_HEADER_LEN + place * layout.attr_len();
    bytes[start..start + layout.attr_len()].copy_from_slice(attrs);
}

fn check_page(blkno: BlockNumber, bytes: &[u8]) -> Result<(), PageError> {
    let corrupt = |expected, got| PageError::Corrupt { blkno, offno: 0, expected, got };
    let magic = get_u32(bytes, 0);
    if magic != PAGE_MAGIC {
        return Err(corrupt("a node page", format!("magic {magic:#010x}")));
    }
    if bytes[4] != FORMAT_VERSION {
        return Err(corrupt("format version 2", format!("version {}", bytes[4])));
    }
    Ok(())
}

fn slot_state(blkno: BlockNumber, slot: usize, bytes: &[u8]) -> Result<SlotState, PageError> {
    SlotState::from_code(bytes[0]).ok_or_else(|| PageError::Corrupt {
        blkno,
        offno: slot as u16,
        expected: "a slot's state (0 to 4)",
        got: bytes[0].to_string(),
    })
}

#[inline]
fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

#[inline]
pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[inline]
pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
