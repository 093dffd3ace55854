//! The rows of an embedded index: ids and exact vectors, in pages of their own.
//!
//! A row has a fixed place. Where a page holds at least one row, it holds as many as fit; a longer
//! row spans the pages that it needs, four at most, so that one transaction writes it. Row: state
//! (1 byte: 0 free, 1 live, 2 removed), 7 zeros, id (8), then the vector's floats, little-endian, then
//! the filter columns where the index has some. Page: magic `DFRW` (4), dims (2), 2 zeros, then rows. The map from ids to rows is made on opening.

use crate::hnsw::{HeapTid, HnswParams};
use crate::page::{
    BlockNumber, FileStore, MAX_TXN_PAGES, PAGE_CONTENT, PageError, PagePin, PageStore, PageTxn,
};
use std::collections::{HashMap, HashSet};

const MAGIC: [u8; 4] = *b"DFRW";
const PAGE_HEADER_LEN: usize = 8;
const PAGE_ROOM: usize = PAGE_CONTENT - PAGE_HEADER_LEN;
const ROW_HEADER_LEN: usize = 16;
const FREE: u8 = 0;
const LIVE: u8 = 1;
const REMOVED: u8 = 2;

/// A row's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Row(u32);

impl Row {
    /// The heap TID that stands for the row in the graph.
    pub(super) fn tid(self) -> HeapTid {
        HeapTid { block: self.0 >> 15, offset: (self.0 & 0x7fff) as u16 + 1 }
    }

    pub(super) fn of(tid: HeapTid) -> Self {
        Self(tid.block << 15 | u32::from(tid.offset.wrapping_sub(1) & 0x7fff))
    }
}

pub(super) struct Rows {
    store: FileStore,
    dims: usize,
    attr_len: usize,
    by_id: HashMap<u64, Row>,
    /// The id of each row that is live.
    ids: Vec<Option<u64>>,
    free: Vec<Row>,
    removed: HashSet<Row>,
}

impl Rows {
    pub(super) fn create(store: FileStore, params: &HnswParams) -> Result<Self, PageError> {
        let rows = Self {
            store,
            dims: params.dims(),
            attr_len: params.attr_len(),
            by_id: HashMap::new(),
            ids: Vec::new(),
            free: Vec::new(),
            removed: HashSet::new(),
        };
        if rows.pages_per_row() > MAX_TXN_PAGES {
            return Err(PageError::Io(std::io::ErrorKind::FileTooLarge.into()));
        }
        Ok(rows)
    }

    pub(super) fn open(store: FileStore, params: &HnswParams) -> Result<Self, PageError> {
        let mut rows = Self::create(store, params)?;
        let pages = rows.store.page_count()? as usize;
        let count = pages / rows.pages_per_row() * rows.rows_per_page();
        for number in 0..u32::try_from(count).unwrap_or(u32::MAX) {
            let row = Row(number);
            let head = rows.read(row, ROW_HEADER_LEN)?;
            let id = u64::from_le_bytes(head[8..16].try_into().expect("eight bytes"));
            rows.ids.push(None);
            match head[0] {
                LIVE if rows.by_id.insert(id, row).is_none() => {
                    rows.ids[number as usize] = Some(id)
                }
                LIVE => return Err(rows.corrupt(row, "an id once", format!("{id} twice"))),
                REMOVED => {
                    rows.removed.insert(row);
                }
                FREE => rows.free.push(row),
                state => return Err(rows.corrupt(row, "a row's state", state.to_string())),
            }
        }
        Ok(rows)
    }

    pub(super) fn store(&self) -> &FileStore {
        &self.store
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn removed(&self) -> usize {
        self.removed.len()
    }

    pub(super) fn removed_rows(&self) -> HashSet<Row> {
        self.removed.clone()
    }

    pub(super) fn row(&self, id: u64) -> Option<Row> {
        self.by_id.get(&id).copied()
    }

    /// The id of a live row.
    pub(super) fn id(&self, row: Row) -> Option<u64> {
        self.ids.get(row.0 as usize).copied().flatten()
    }

    pub(super) fn live_rows(&self) -> impl Iterator<Item = Row> {
        self.ids.iter().enumerate().filter(|(_, id)| id.is_some()).map(|(at, _)| Row(at as u32))
    }

    /// `None` where the id is there already.
    pub(super) fn add(
        &mut self,
        id: u64,
        vector: &[f32],
        attrs: &[u8],
    ) -> Result<Option<Row>, PageError> {
        if self.by_id.contains_key(&id) {
            return Ok(None);
        }
        let row = match self.free.last() {
            Some(&row) => row,
            None => self.extend()?,
        };
        let mut bytes = vec![0; self.row_len()];
        bytes[0] = LIVE;
        bytes[8..16].copy_from_slice(&id.to_le_bytes());
        for (out, value) in bytes[ROW_HEADER_LEN..].chunks_exact_mut(4).zip(vector) {
            out.copy_from_slice(&value.to_le_bytes());
        }
        bytes[ROW_HEADER_LEN + 4 * self.dims..].copy_from_slice(attrs);
        self.write(row, &bytes)?;
        self.free.pop();
        self.by_id.insert(id, row);
        self.ids[row.0 as usize] = Some(id);
        Ok(Some(row))
    }

    /// Whether the id was there.
    pub(super) fn remove(&mut self, id: u64) -> Result<bool, PageError> {
        let Some(row) = self.row(id) else { return Ok(false) };
        self.write(row, &[REMOVED])?;
        self.by_id.remove(&id);
        self.ids[row.0 as usize] = None;
        self.removed.insert(row);
        Ok(true)
    }

    /// Frees removed rows that the graph no longer leads to.
    pub(super) fn free(&mut self, rows: &HashSet<Row>) -> Result<(), PageError> {
        for &row in rows {
            self.write(row, &[FREE])?;
            self.removed.remove(&row);
            self.free.push(row);
        }
        Ok(())
    }

    pub(super) fn vector(&self, row: Row) -> Result<Vec<f32>, PageError> {
        Ok(self.vector_and_attributes(row)?.0)
    }

    pub(super) fn vector_and_attributes(&self, row: Row) -> Result<(Vec<f32>, Vec<u8>), PageError> {
        let bytes = self.read(row, self.row_len())?;
        let (vector, attrs) = bytes[ROW_HEADER_LEN..].split_at(4 * self.dims);
        let floats = vector.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        Ok((floats.collect(), attrs.to_vec()))
    }

    fn row_len(&self) -> usize {
        ROW_HEADER_LEN + 4 * self.dims + self.attr_len
    }

    fn rows_per_page(&self) -> usize {
        (PAGE_ROOM / self.row_len()).max(1)
    }

    fn pages_per_row(&self) -> usize {
        self.row_len().div_ceil(PAGE_ROOM)
    }

    /// The row's first page and the offset there.
    fn place(&self, row: Row) -> (BlockNumber, usize) {
        let (per_page, number) = (self.rows_per_page(), row.0 as usize);
        let blkno = number / per_page * self.pages_per_row();
        (blkno as BlockNumber, PAGE_HEADER_LEN + number % per_page * self.row_len())
    }

    /// Appends the pages for more rows, which become free; gives the first, which stays listed.
    fn extend(&mut self) -> Result<Row, PageError> {
        let mut txn = self.store.begin()?;
        for _ in 0..self.pages_per_row() {
            let blkno = txn.extend()?;
            let page = txn.page(blkno)?;
            page[..4].copy_from_slice(&MAGIC);
            page[4..6].copy_from_slice(&(self.dims as u16).to_le_bytes());
        }
        txn.commit()?;
        let first = self.ids.len() as u32;
        for number in (0..self.rows_per_page() as u32).rev() {
            self.free.push(Row(first + number));
            self.ids.push(None);
        }
        Ok(Row(first))
    }

    /// Writes the first bytes of a row.
    fn write(&self, row: Row, bytes: &[u8]) -> Result<(), PageError> {
        let (mut blkno, mut at) = self.place(row);
        let mut rest = bytes;
        let mut txn = self.store.begin()?;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PAGE_CONTENT - at));
            txn.page(blkno)?[at..at + now.len()].copy_from_slice(now);
            (rest, at, blkno) = (later, PAGE_HEADER_LEN, blkno + 1);
        }
        txn.commit()
    }

    /// Reads the first bytes of a row.
    fn read(&self, row: Row, len: usize) -> Result<Vec<u8>, PageError> {
        let (mut blkno, mut at) = self.place(row);
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let pin = self.store.pin(blkno)?;
            let page = pin.lock_shared();
            // A page of zeros was appended by a write that a crash undid: its rows are free.
            let filled = page[..4] == MAGIC && page[4..6] == (self.dims as u16).to_le_bytes();
            if !filled && page.iter().any(|&byte| byte != 0) {
                return Err(self.corrupt(row, "a page of rows", format!("{:02x?}", &page[..8])));
            }
            let end = PAGE_CONTENT.min(at + len - bytes.len());
            bytes.extend_from_slice(&page[at..end]);
            (at, blkno) = (PAGE_HEADER_LEN, blkno + 1);
        }
        Ok(bytes)
    }

    fn corrupt(&self, row: Row, expected: &'static str, got: String) -> PageError {
        let offno = (row.0 as usize % self.rows_per_page()) as u16;
        PageError::Corrupt { blkno: self.place(row).0, offno, expected, got }
    }
}
