//! Where new slots come from: freed ones first, then the page being filled, then a new page.
//!
//! Pages with freed slots form a list that starts in the metapage. Only its head is used; a head
//! without a free slot leaves the list, a head whose slots cannot be reused yet is passed by. All of
//! it happens in transactions that lock the metapage before any node page, and those in ascending
//! order; each re-reads under its locks what it decided from.

use super::HnswError;
use super::layout::{
    FreeList, Layout, METAPAGE, Meta, NIL, PageMut, PageView, SlotState, SlotView, write_attributes,
};
use crate::page::{BlockNumber, PageError, PagePin, PageStore, PageTxn};

/// Heads of the list of pages with freed slots that one allocation drops before it extends.
const MAX_DROPPED_HEADS: usize = 16;

/// Slots that a transaction has locked for the caller to fill.
pub(crate) struct Allocation<T> {
    pub(crate) txn: T,
    /// Free slots' ids and generations, in the order they were asked for.
    pub(crate) slots: Vec<(u32, u8)>,
}

/// Locks the page with a node's attributes, last of all pages in the transaction, and writes them.
pub(crate) fn put_attributes<T: PageTxn>(
    txn: &mut T,
    layout: &Layout,
    id: u32,
    attrs: &[u8],
) -> Result<(), PageError> {
    if !attrs.is_empty() {
        let (group, place) = layout.attribute_place(id);
        write_attributes(layout, txn.page(layout.attribute_page(group))?, place, attrs);
    }
    Ok(())
}

/// Finds `count` free slots, on one page where pages have that many. `pages` are further pages that
/// the caller will change in the same transaction, at most two; they are locked in ascending order
/// with the others.
pub(crate) fn allocate<'s, S: PageStore>(
    store: &'s S,
    layout: &Layout,
    count: usize,
    pages: &[BlockNumber],
) -> Result<Allocation<S::Txn<'s>>, HnswError> {
    let mut dropped = 0;
    loop {
        store.check_interrupts()?;
        let meta = super::search::read_meta(store)?;
        for blkno in [meta.free_head, meta.tail] {
            if blkno == NIL {
                continue;
            }
            let usable = usable_slots(store, layout, blkno)?;
            if usable.reusable >= count {
                let mut txn = lock_pages(store, pages, Some(blkno))?;
                let view = PageView::new(layout, blkno, txn.page(blkno)?)?;
                let slots = free_slots(store, layout, blkno, &view, count)?;
                if slots.len() == count {
                    return Ok(Allocation { txn, slots });
                }
            } else if blkno == meta.free_head && usable.free == 0 && dropped < MAX_DROPPED_HEADS {
                drop_head(store, layout, blkno)?;
                dropped += 1;
                break;
            } else if blkno == meta.tail
                && let Some(allocation) = extend(store, layout, count, pages, blkno)?
            {
                return Ok(allocation);
            }
        }
        if meta.tail == NIL
            && let Some(allocation) = extend(store, layout, count, pages, NIL)?
        {
            return Ok(allocation);
        }
    }
}

struct Usable {
    /// Free slots.
    free: usize,
    /// Of these, the ones that no running scan can still come to.
    reusable: usize,
}

fn usable_slots<S: PageStore>(
    store: &S,
    layout: &Layout,
    blkno: BlockNumber,
) -> Result<Usable, PageError> {
    let stamps: Vec<u64> = {
        let pin = store.pin(blkno)?;
        let guard = pin.lock_shared();
        let mut stamps = Vec::new();
        for slot in PageView::new(layout, blkno, &guard)?.slots() {
            let (_, slot) = slot?;
            if slot.state() == SlotState::Free {
                stamps.push(slot.stamp());
            }
        }
        stamps
    };
    let reusable = stamps.iter().filter(|&&stamp| is_reusable(store, stamp)).count();
    Ok(Usable { free: stamps.len(), reusable })
}

/// A slot that never held anything has stamp 0.
fn is_reusable<S: PageStore>(store: &S, stamp: u64) -> bool {
    stamp == 0 || store.is_reusable(stamp)
}

fn free_slots<S: PageStore>(
    store: &S,
    layout: &Layout,
    blkno: BlockNumber,
    page: &PageView<'_>,
    count: usize,
) -> Result<Vec<(u32, u8)>, HnswError> {
    let mut slots = Vec::with_capacity(count);
    for slot in page.slots() {
        let (at, slot): (usize, SlotView<'_>) = slot?;
        if slots.len() < count
            && slot.state() == SlotState::Free
            && is_reusable(store, slot.stamp())
        {
            slots.push((layout.id(blkno, at).ok_or(HnswError::Full)?, slot.generation()));
        }
    }
    Ok(slots)
}

fn lock_pages<'s, S: PageStore>(
    store: &'s S,
    pages: &[BlockNumber],
    more: Option<BlockNumber>,
) -> Result<S::Txn<'s>, PageError> {
    let mut all: Vec<BlockNumber> = pages.iter().copied().chain(more).collect();
    all.sort_unstable();
    all.dedup();
    let mut txn = store.begin()?;
    for blkno in all {
        txn.page(blkno)?;
    }
    Ok(txn)
}

/// Takes a page without free slots off the list, where it still is its head.
fn drop_head<S: PageStore>(
    store: &S,
    layout: &Layout,
    blkno: BlockNumber,
) -> Result<(), PageError> {
    let mut txn = store.begin()?;
    let mut meta = Meta::read(txn.page(METAPAGE)?)?;
    if meta.free_head != blkno {
        return Ok(());
    }
    let mut page = PageMut::new(layout, blkno, txn.page(blkno)?)?;
    for slot in page.view().slots() {
        if slot?.1.state() == SlotState::Free {
            return Ok(());
        }
    }
    let list = page.view().free_list();
    page.set_free_list(FreeList { listed: false, next: NIL, ..list });
    meta.free_head = list.next;
    meta.write(txn.page(METAPAGE)?);
    txn.commit()
}

/// Appends pages with room for `count` slots, unless another insert moved the tail meanwhile.
fn extend<'s, S: PageStore>(
    store: &'s S,
    layout: &Layout,
    count: usize,
    pages: &[BlockNumber],
    tail: u32,
) -> Result<Option<Allocation<S::Txn<'s>>>, HnswError> {
    let mut txn = store.begin()?;
    let mut meta = Meta::read(txn.page(METAPAGE)?)?;
    if meta.tail != tail {
        return Ok(None);
    }
    let mut sorted = pages.to_vec();
    sorted.sort_unstable();
    for blkno in sorted {
        txn.page(blkno)?;
    }
    let mut slots = Vec::with_capacity(count);
    while slots.len() < count {
        let blkno = txn.extend()?;
        if layout.is_attribute_page(blkno) {
            // Its bytes stay zeros until a node behind it has attributes. A transaction has no room
            // for it besides two pages of nodes: these come after it when the caller asks again.
            if count > layout.slots_per_page() {
                return Ok(None);
            }
            continue;
        }
        PageMut::format(layout, blkno, txn.page(blkno)?);
        for slot in 0..layout.slots_per_page().min(count - slots.len()) {
            slots.push((layout.id(blkno, slot).ok_or(HnswError::Full)?, 0));
        }
        meta.tail = blkno;
        meta.page_end = blkno + 1;
    }
    meta.write(txn.page(METAPAGE)?);
    Ok(Some(Allocation { txn, slots }))
}

/// Puts a page with freed slots on the list, in the caller's transaction, which has locked the
/// metapage and then the page.
pub(crate) fn list_page(meta: &mut Meta, page: &mut PageMut<'_>, blkno: BlockNumber, stamp: u64) {
    let list = page.view().free_list();
    let next = if list.listed { list.next } else { std::mem::replace(&mut meta.free_head, blkno) };
    page.set_free_list(FreeList { listed: true, next, newest_stamp: stamp });
}
