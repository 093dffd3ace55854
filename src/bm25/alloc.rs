//! Where new pages come from: recycled ones first, then the end of the index.
//!
//! Freed pages stand in chains of map pages, each chain with the stamp of when its last reader may
//! have found it. Allocation takes the oldest chain's last page once no scan can need it; a map
//! page whose list is used up becomes the next page itself. Everything happens under the
//! metapage's exclusive lock and inside the transaction that puts the page to use, so a page is
//! always either in a chain, or in use, or (after a crash between a segment's pages and its entry)
//! lost until vacuum's sweep finds it.

use super::error::Bm25Error;
use super::layout::{
    FreeChain, HEADER_LEN, Header, Kind, MAX_CHAINS, METAPAGE, Meta, NIL, ROOM, get_u32, put_u32,
};
use crate::page::{BlockNumber, PageError, PageStore, PageTxn};

/// Bytes at the start of a map page's payload that a segment's first map page uses.
pub(crate) const MAP_FIXED: usize = 64;
/// Extents that fit into a map page.
pub(crate) const EXTENTS_PER_PAGE: usize = (ROOM - MAP_FIXED) / 8;

/// A run of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) start: BlockNumber,
    pub(crate) count: u32,
}

impl Extent {
    pub(crate) fn read(payload: &[u8], number: usize) -> Self {
        let at = MAP_FIXED + number * 8;
        Self { start: get_u32(payload, at), count: get_u32(payload, at + 4) }
    }

    pub(crate) fn write(self, payload: &mut [u8], number: usize) {
        let at = MAP_FIXED + number * 8;
        put_u32(payload, at, self.start);
        put_u32(payload, at + 4, self.count);
    }
}

/// Runs of neighboring pages, in the order given.
pub(crate) fn extents(blocks: &[BlockNumber]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for &block in blocks {
        match extents.last_mut() {
            Some(last) if last.start.checked_add(last.count) == Some(block) => last.count += 1,
            _ => extents.push(Extent { start: block, count: 1 }),
        }
    }
    extents
}

/// The pages of a map page, as a checked list.
///
/// # Errors
/// [`PageError::Corrupt`] where the list leaves the page or names pages past the end.
pub(crate) fn mapped_blocks(
    blkno: BlockNumber,
    header: &Header,
    payload: &[u8],
    page_count: BlockNumber,
) -> Result<Vec<BlockNumber>, PageError> {
    let corrupt = |got: String| PageError::Corrupt {
        blkno,
        offno: 0,
        expected: "extents within the index",
        got,
    };
    let items = usize::from(header.items);
    if payload.len() < MAP_FIXED + items * 8 {
        return Err(corrupt(format!("{items} extents in {} bytes", payload.len())));
    }
    let mut blocks = Vec::new();
    for number in 0..items {
        let extent = Extent::read(payload, number);
        let end = extent.start.checked_add(extent.count).filter(|&end| end <= page_count);
        let Some(end) = end.filter(|_| extent.start != METAPAGE && extent.count > 0) else {
            return Err(corrupt(format!("{extent:?} of {page_count} pages")));
        };
        if blocks.len() + extent.count as usize > page_count as usize {
            return Err(corrupt(format!("more than {page_count} pages")));
        }
        blocks.extend(extent.start..end);
    }
    Ok(blocks)
}

/// Adds a page to the transaction, recycled or appended. The caller holds the metapage in the
/// same transaction, writes `meta` back, and overwrites the page. Takes up to two pages of the
/// transaction.
pub(crate) fn allocate<S: PageStore, T: PageTxn>(
    store: &S,
    txn: &mut T,
    meta: &mut Meta,
) -> Result<BlockNumber, Bm25Error> {
    let Some(chain) = meta.chains.first_mut().filter(|chain| store.is_reusable(chain.stamp)) else {
        return Ok(txn.extend()?);
    };
    let head = chain.head;
    let page_count = store.page_count()?;
    let page = txn.page(head)?;
    let mut header = Header::read(head, page)?;
    let items = usize::from(header.items);
    let payload = &mut page[HEADER_LEN..];
    if header.kind != Kind::Map || items > EXTENTS_PER_PAGE {
        return Err(free_page_corrupt(head, format!("{:?} with {items} items", header.kind)));
    }
    chain.pages = chain.pages.saturating_sub(1);
    let Some(last) = items.checked_sub(1) else {
        if head == chain.tail {
            meta.chains.remove(0);
        } else {
            chain.head = header.next;
        }
        return Ok(head);
    };
    let mut extent = Extent::read(payload, last);
    let block = extent.start.checked_add(extent.count).and_then(|end| end.checked_sub(1));
    let block = block.filter(|&block| block != METAPAGE && block < page_count && block != head);
    let Some(block) = block else {
        return Err(free_page_corrupt(head, format!("{extent:?}")));
    };
    extent.count -= 1;
    if extent.count == 0 {
        header.items -= 1;
        header.used -= 8;
    } else {
        extent.write(payload, last);
    }
    header.seal(page);
    Ok(block)
}

fn free_page_corrupt(blkno: BlockNumber, got: String) -> Bm25Error {
    PageError::Corrupt { blkno, offno: 0, expected: "a list of free pages", got }.into()
}

/// Writes one page in a transaction of its own and returns where; nothing refers to it yet.
pub(crate) fn write_page<S: PageStore>(
    store: &S,
    fill: impl FnOnce(&mut [u8]) -> Header,
) -> Result<BlockNumber, Bm25Error> {
    let may_reuse =
        Meta::load(store)?.chains.first().is_some_and(|chain| store.is_reusable(chain.stamp));
    let mut txn = store.begin()?;
    let blkno = if may_reuse {
        let mut meta = Meta::parse(txn.page(METAPAGE)?)?;
        let blkno = allocate(store, &mut txn, &mut meta)?;
        meta.write(txn.page(METAPAGE)?);
        blkno
    } else {
        txn.extend()?
    };
    let page = txn.page(blkno)?;
    let header = fill(&mut page[HEADER_LEN..]);
    header.seal(page);
    txn.commit()?;
    Ok(blkno)
}

/// Writes map pages that list `blocks`, back to front, and returns the first and the last of them.
/// `fixed` fills the first page's own bytes.
pub(crate) fn write_map<S: PageStore>(
    store: &S,
    owner: u64,
    blocks: &[BlockNumber],
    fixed: &[u8],
) -> Result<(BlockNumber, BlockNumber, u32), Bm25Error> {
    let extents = extents(blocks);
    let pages: Vec<&[Extent]> =
        if extents.is_empty() { vec![&[]] } else { extents.chunks(EXTENTS_PER_PAGE).collect() };
    let (mut next, mut tail) = (NIL, NIL);
    for (ordinal, extents) in pages.iter().enumerate().rev() {
        next = write_page(store, |payload| {
            payload[..MAP_FIXED].fill(0);
            if ordinal == 0 {
                payload[..fixed.len()].copy_from_slice(fixed);
            }
            for (number, extent) in extents.iter().enumerate() {
                extent.write(payload, number);
            }
            let mut header = Header::new(Kind::Map, owner, ordinal as u32);
            header.next = next;
            header.next_owner = if next == NIL { 0 } else { owner };
            header.items = extents.len() as u16;
            header.used = (MAP_FIXED + extents.len() * 8) as u16;
            header
        })?;
        if tail == NIL {
            tail = next;
        }
    }
    Ok((next, tail, pages.len() as u32))
}

/// Room for `chains` more chains in the metapage: joins the oldest ones, a transaction each. A
/// joined chain is free only when its youngest part is.
pub(crate) fn make_room<S: PageStore>(store: &S, chains: usize) -> Result<(), Bm25Error> {
    loop {
        let mut txn = store.begin()?;
        let mut meta = Meta::parse(txn.page(METAPAGE)?)?;
        if meta.chains.len() + chains <= MAX_CHAINS {
            return Ok(());
        }
        let (first, second) = (meta.chains[0], meta.chains[1]);
        let page = txn.page(first.tail)?;
        let mut header = Header::read(first.tail, page)?;
        header.next = second.head;
        header.seal(page);
        meta.chains.splice(
            0..2,
            [FreeChain {
                head: first.head,
                tail: second.tail,
                pages: first.pages.saturating_add(second.pages),
                stamp: first.stamp.max(second.stamp),
            }],
        );
        meta.write(txn.page(METAPAGE)?);
        txn.commit()?;
    }
}
