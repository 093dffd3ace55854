//! The pending list: rows that are in no segment yet.
//!
//! An insert copies its row to the end of the list's last page, one page write; every scan also
//! searches the list; a merge closes the list, turns its rows into a segment and starts the list
//! anew behind them. A row that is longer than a page lies in overflow pages, written before the
//! list points to them.
//!
//! Locks: the tail page alone, or the metapage first and then the tail and the new page. Rows go
//! to a page only while it is open, which is checked under the page's own lock.

use super::alloc::{allocate, write_page};
use super::error::Bm25Error;
use super::layout::{
    Filling, HEADER_LEN, Header, Kind, Link, METAPAGE, Meta, NIL, ROOM, TID_LEN, get_u32, get_u64,
    put_u32, put_u64, tid_from_bytes, tid_to_bytes, with_page,
};
use crate::page::{BlockNumber, HeapTid, PageError, PagePin, PageStore, PageTxn};

/// Longest row that can be indexed, in bytes of its texts.
pub const MAX_ROW_BYTES: usize = 512 << 20;

/// Length that stands for NULL, and for a row in overflow pages.
const MARK: u32 = u32::MAX;
/// A row in overflow pages: the mark, their first page, owner, and the row's length.
const STUB_LEN: usize = 4 + 4 + 8 + 4;

/// A row as the list holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) tid: HeapTid,
    pub(crate) texts: Vec<Option<String>>,
}

fn encode(texts: &[Option<&str>], tid: HeapTid) -> Result<Vec<u8>, Bm25Error> {
    let bytes: usize = texts.iter().flatten().map(|text| text.len()).sum();
    if bytes > MAX_ROW_BYTES {
        return Err(Bm25Error::TooLong { max: MAX_ROW_BYTES, got: bytes });
    }
    let mut row = Vec::with_capacity(TID_LEN + bytes + texts.len() * 4);
    row.extend_from_slice(&tid_to_bytes(tid));
    for text in texts {
        match text {
            Some(text) => {
                row.extend_from_slice(&(text.len() as u32).to_le_bytes());
                row.extend_from_slice(text.as_bytes());
            }
            None => row.extend_from_slice(&MARK.to_le_bytes()),
        }
    }
    Ok(row)
}

fn decode(row: &[u8], columns: usize) -> Option<Row> {
    let (tid, mut rest) = row.split_first_chunk::<TID_LEN>()?;
    let mut texts = Vec::with_capacity(columns);
    for _ in 0..columns {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len);
        if len == MARK {
            texts.push(None);
            rest = tail;
        } else {
            let (text, tail) = tail.split_at_checked(len as usize)?;
            texts.push(Some(std::str::from_utf8(text).ok()?.to_owned()));
            rest = tail;
        }
    }
    rest.is_empty().then(|| Row { tid: tid_from_bytes(*tid), texts })
}

/// Appends a row. Returns the pages of the list, for the caller to see when a merge is due.
pub(crate) fn append<S: PageStore>(
    store: &S,
    texts: &[Option<&str>],
    tid: HeapTid,
) -> Result<u32, Bm25Error> {
    let row = encode(texts, tid)?;
    let mut meta = Meta::load(store)?;
    let expected = meta.params.columns().len();
    if texts.len() != expected {
        return Err(Bm25Error::Columns { expected, got: texts.len() });
    }
    let (item, overflow_pages) = if row.len() + 4 <= ROOM {
        let mut item = Vec::with_capacity(row.len() + 4);
        item.extend_from_slice(&(row.len() as u32).to_le_bytes());
        item.extend_from_slice(&row);
        (item, 0)
    } else {
        let written = write_overflow(store, &row)?;
        store.failpoint("text insert wrote overflow pages")?;
        written
    };
    loop {
        if overflow_pages == 0 && append_to_tail(store, meta.pending_tail, &item)? {
            return Ok(meta.pending_pages);
        }
        match append_page(store, meta.pending_tail, &item, overflow_pages)? {
            Appended::To { pages } => return Ok(pages),
            Appended::TailMoved => meta = Meta::load(store)?,
        }
    }
}

/// Puts an item on the tail page where it has room; one page write.
fn append_to_tail<S: PageStore>(store: &S, tail: Link, item: &[u8]) -> Result<bool, Bm25Error> {
    let mut txn = store.begin()?;
    let page = txn.page(tail.blkno)?;
    let mut header = Header::read(tail.blkno, page)?;
    let is_tail = header.kind == Kind::Pending
        && header.owner == tail.owner
        && header.filling == Filling::Open
        && header.next == NIL;
    if !is_tail || usize::from(header.used) + item.len() > ROOM {
        return Ok(false);
    }
    put_item(page, &mut header, item);
    txn.commit()?;
    Ok(true)
}

fn put_item(page: &mut [u8], header: &mut Header, item: &[u8]) {
    let at = HEADER_LEN + usize::from(header.used);
    page[at..at + item.len()].copy_from_slice(item);
    header.used += item.len() as u16;
    header.items += 1;
    header.seal(page);
}

enum Appended {
    To { pages: u32 },
    TailMoved,
}

/// Puts an item on the tail page or, where it has no room, on a new one behind it, under the
/// metapage's lock.
fn append_page<S: PageStore>(
    store: &S,
    seen: Link,
    item: &[u8],
    overflow_pages: u32,
) -> Result<Appended, Bm25Error> {
    let mut txn = store.begin()?;
    let mut meta = Meta::parse(txn.page(METAPAGE)?)?;
    if meta.pending_tail != seen {
        return Ok(Appended::TailMoved);
    }
    let page = txn.page(seen.blkno)?;
    let mut header = expect_tail(seen, page)?;
    meta.pending_pages = meta.pending_pages.saturating_add(overflow_pages);
    if usize::from(header.used) + item.len() <= ROOM {
        put_item(page, &mut header, item);
    } else {
        let new = grow(store, &mut txn, &mut meta)?;
        let page = txn.page(new.blkno)?;
        let mut header = Header::new(Kind::Pending, new.owner, 0);
        put_item(page, &mut header, item);
    }
    let pages = meta.pending_pages;
    meta.write(txn.page(METAPAGE)?);
    txn.commit()?;
    Ok(Appended::To { pages })
}

fn expect_tail(link: Link, page: &[u8]) -> Result<Header, Bm25Error> {
    let header = Header::read(link.blkno, page)?;
    if (header.kind, header.owner, header.next) == (Kind::Pending, link.owner, NIL) {
        return Ok(header);
    }
    Err(PageError::Corrupt {
        blkno: link.blkno,
        offno: 0,
        expected: "the last page of the pending list",
        got: format!("{header:?}"),
    }
    .into())
}

/// Links an empty page behind the list's last one. The caller writes the new page's header and the
/// metapage.
fn grow<S: PageStore, T: PageTxn>(
    store: &S,
    txn: &mut T,
    meta: &mut Meta,
) -> Result<Link, Bm25Error> {
    let old = meta.pending_tail;
    let blkno = allocate(store, txn, meta)?;
    let new = Link { blkno, owner: meta.draw_serial() };
    let page = txn.page(old.blkno)?;
    let mut header = expect_tail(old, page)?;
    header.next = new.blkno;
    header.next_owner = new.owner;
    header.filling = Filling::Closed;
    header.seal(page);
    meta.pending_tail = new;
    meta.pending_pages = meta.pending_pages.saturating_add(1);
    Ok(new)
}

/// Starts a new page behind the list, so that what stands before it does not change any more.
/// Returns the new page, or nothing where no row waits.
pub(crate) fn close<S: PageStore>(store: &S) -> Result<Option<Link>, Bm25Error> {
    let mut txn = store.begin()?;
    let mut meta = Meta::parse(txn.page(METAPAGE)?)?;
    let tail = meta.pending_tail;
    let header = expect_tail(tail, txn.page(tail.blkno)?)?;
    if header.items == 0 {
        return Ok((meta.pending_head != tail).then_some(tail));
    }
    let new = grow(store, &mut txn, &mut meta)?;
    Header::new(Kind::Pending, new.owner, 0).seal(txn.page(new.blkno)?);
    meta.write(txn.page(METAPAGE)?);
    txn.commit()?;
    Ok(Some(new))
}

/// Writes a long row's overflow pages, back to front, and returns the item that points to them.
fn write_overflow<S: PageStore>(store: &S, row: &[u8]) -> Result<(Vec<u8>, u32), Bm25Error> {
    let mut txn = store.begin()?;
    let mut meta = Meta::parse(txn.page(METAPAGE)?)?;
    let owner = meta.draw_serial();
    meta.write(txn.page(METAPAGE)?);
    txn.commit()?;
    let mut next = NIL;
    let pages = row.len().div_ceil(ROOM) as u32;
    for (ordinal, chunk) in row.chunks(ROOM).enumerate().rev() {
        store.check_interrupts()?;
        next = write_page(store, |payload| {
            payload[..chunk.len()].copy_from_slice(chunk);
            let mut header = Header::new(Kind::Overflow, owner, ordinal as u32);
            header.next = next;
            header.next_owner = if next == NIL { 0 } else { owner };
            header.used = chunk.len() as u16;
            header
        })?;
    }
    let mut item = vec![0; STUB_LEN];
    put_u32(&mut item, 0, MARK);
    put_u32(&mut item, 4, next);
    put_u64(&mut item, 8, owner);
    put_u32(&mut item, 16, row.len() as u32);
    Ok((item, pages))
}

/// The state of the pending list's end, by which a scan knows whether rows came in: the last page's
/// header, its checksum included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TailMark {
    blkno: BlockNumber,
    header: [u8; HEADER_LEN],
}

impl TailMark {
    /// Reads the mark of the list's end.
    pub(crate) fn read<S: PageStore>(store: &S, meta: &Meta) -> Result<Self, Bm25Error> {
        let Link { blkno, owner } = meta.pending_tail;
        let pin = store.pin(blkno)?;
        let guard = pin.lock_shared();
        Header::expect(blkno, &guard, Kind::Pending, owner, 0)?;
        Ok(Self { blkno, header: header_bytes(&guard) })
    }

    /// Whether the page is as it was.
    pub(crate) fn still_holds<S: PageStore>(&self, store: &S) -> Result<bool, PageError> {
        let pin = store.pin(self.blkno)?;
        let guard = pin.lock_shared();
        Ok(header_bytes(&guard) == self.header)
    }
}

fn header_bytes(page: &[u8]) -> [u8; HEADER_LEN] {
    *page.first_chunk().expect("a page is longer than its header")
}

/// The list's rows and pages.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) rows: Vec<Row>,
    pub(crate) blocks: Vec<BlockNumber>,
}

/// How far [`read`] goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// To the page that was the last one when the metapage was read, with all that it holds by now.
    Whole,
    /// Up to, not including, this page.
    Before(Link),
}

/// Reads the list from its head on.
///
/// Others append to the list, free its first pages and use them again at its end while this walks
/// it, so neither the number of pages nor a page number met twice tells a cycle. Owners do: a
/// page's serial number is drawn when it is linked, and so is greater than that of the page before.
pub(crate) fn read<S: PageStore>(
    store: &S,
    meta: &Meta,
    extent: Extent,
) -> Result<Pending, Bm25Error> {
    let columns = meta.params.columns().len();
    let mut pending = Pending::default();
    let mut at = meta.pending_head;
    while Extent::Before(at) != extent {
        store.check_interrupts()?;
        let (header, payload) =
            with_page(store, at.blkno, Kind::Pending, at.owner, 0, |header, payload| {
                (*header, payload.to_vec())
            })?;
        pending.blocks.push(at.blkno);
        read_items(store, at.blkno, &payload, header.items, columns, &mut pending)?;
        if extent == Extent::Whole && at == meta.pending_tail {
            break;
        }
        let next = Link { blkno: header.next, owner: header.next_owner };
        if next.blkno == NIL || next.owner <= at.owner || next.owner > meta.pending_tail.owner {
            return Err(corrupt(
                at.blkno,
                "a link on to the list's last page",
                format!("{next:?}"),
            ));
        }
        at = next;
    }
    Ok(pending)
}

fn read_items<S: PageStore>(
    store: &S,
    blkno: BlockNumber,
    payload: &[u8],
    items: u16,
    columns: usize,
    pending: &mut Pending,
) -> Result<(), Bm25Error> {
    let bad = |item: u16| corrupt(blkno, "a pending row", format!("item {item} is malformed"));
    let mut rest = payload;
    for item in 0..items {
        if rest.len() < 4 {
            return Err(bad(item));
        }
        let len = get_u32(rest, 0);
        if len == MARK {
            if rest.len() < STUB_LEN {
                return Err(bad(item));
            }
            let (first, owner, len) = (get_u32(rest, 4), get_u64(rest, 8), get_u32(rest, 16));
            let row = read_overflow(store, first, owner, len as usize, &mut pending.blocks)?;
            pending.rows.push(decode(&row, columns).ok_or_else(|| bad(item))?);
            rest = &rest[STUB_LEN..];
        } else {
            let (row, tail) = rest[4..].split_at_checked(len as usize).ok_or_else(|| bad(item))?;
            pending.rows.push(decode(row, columns).ok_or_else(|| bad(item))?);
            rest = tail;
        }
    }
    Ok(())
}

fn read_overflow<S: PageStore>(
    store: &S,
    first: BlockNumber,
    owner: u64,
    len: usize,
    blocks: &mut Vec<BlockNumber>,
) -> Result<Vec<u8>, Bm25Error> {
    if len > MAX_ROW_BYTES + (1 << 20) {
        return Err(corrupt(first, "a row of at most 512 MiB", format!("{len} bytes")));
    }
    let mut row = Vec::new();
    let (mut at, mut ordinal) = (first, 0);
    while at != NIL && row.len() < len {
        at = with_page(store, at, Kind::Overflow, owner, ordinal, |header, payload| {
            blocks.push(at);
            row.extend_from_slice(payload);
            header.next
        })?;
        ordinal += 1;
    }
    if row.len() != len {
        let got = format!("{} bytes", row.len());
        return Err(corrupt(first, "a row of the length that its item tells", got));
    }
    Ok(row)
}

fn corrupt(blkno: BlockNumber, expected: &'static str, got: String) -> Bm25Error {
    PageError::Corrupt { blkno, offno: 0, expected, got }.into()
}
