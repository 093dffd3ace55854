//! A segment: tantivy's files and the rows' heap TIDs, one byte stream cut into pages.
//!
//! The stream is the concatenation of the files of [`Part`], in that order; data page `n` holds
//! the bytes from `n * ROOM` on. The first map page tells the files' lengths, the map pages list
//! the data pages and, after them, the pages of the dead list. Everything but the dead list is
//! immutable. tantivy's document store is left out: nothing is stored in it.

use super::alloc::{MAP_FIXED, mapped_blocks, write_map, write_page};
use super::error::Bm25Error;
use super::layout::{
    DEAD_PER_PAGE, HEADER_LEN, Header, Kind, METAPAGE, Meta, NIL, ROOM, SegmentEntry, TID_LEN,
    get_u32, get_u64, put_u32, put_u64, tid_from_bytes, tid_to_bytes, with_page,
};
use crate::page::{BlockNumber, HeapTid, PageError, PageStore, PageTxn};
use std::ops::Range;

/// A file of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Terms,
    Postings,
    Positions,
    FieldNorms,
    FastFields,
    HeapTids,
}

impl Part {
    pub(crate) const ALL: [Self; 6] = [
        Self::Terms,
        Self::Postings,
        Self::Positions,
        Self::FieldNorms,
        Self::FastFields,
        Self::HeapTids,
    ];

    /// The part whose file tantivy gives this extension.
    pub(crate) fn from_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.extension() == extension)
    }

    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Terms => "term",
            Self::Postings => "idx",
            Self::Positions => "pos",
            Self::FieldNorms => "fieldnorm",
            Self::FastFields => "fast",
            Self::HeapTids => "tid",
        }
    }
}

/// Where a segment's pages are.
#[derive(Debug, Clone)]
pub(crate) struct SegmentMap {
    pub(crate) entry: SegmentEntry,
    /// The parts' places in the stream.
    parts: [Range<u64>; 6],
    data: Vec<BlockNumber>,
    dead: Vec<BlockNumber>,
    pub(crate) map_pages: Vec<BlockNumber>,
}

/// Writes a segment's pages; the caller puts the entry into the metapage.
pub(crate) fn write_segment<S: PageStore>(
    store: &S,
    id: u64,
    files: [&[u8]; 5],
    tids: &[HeapTid],
) -> Result<SegmentEntry, Bm25Error> {
    let docs = u32::try_from(tids.len())
        .map_err(|_| Bm25Error::TooLong { max: u32::MAX as usize, got: tids.len() })?;
    let tid_bytes: Vec<u8> = tids.iter().flat_map(|&tid| tid_to_bytes(tid)).collect();
    let [terms, postings, positions, norms, fast] = files;
    let parts = [terms, postings, positions, norms, fast, &tid_bytes[..]];
    let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
    let mut blocks = Vec::with_capacity((bytes as usize).div_ceil(ROOM));
    let mut stream = Stream { parts: &parts, part: 0, at: 0 };
    let mut left = bytes as usize;
    while left > 0 {
        store.check_interrupts()?;
        let used = left.min(ROOM);
        let ordinal = blocks.len() as u32;
        blocks.push(write_page(store, |payload| {
            stream.fill(&mut payload[..used]);
            Header { used: used as u16, ..Header::new(Kind::Data, id, ordinal) }
        })?);
        left -= used;
    }
    let data_pages = blocks.len() as u32;
    for ordinal in 0..tids.len().div_ceil(DEAD_PER_PAGE) {
        blocks.push(write_page(store, |payload| {
            payload.fill(0);
            Header { used: ROOM as u16, ..Header::new(Kind::Dead, id, ordinal as u32) }
        })?);
    }
    let mut fixed = [0; MAP_FIXED];
    for (number, part) in parts.iter().enumerate() {
        put_u64(&mut fixed, number * 8, part.len() as u64);
    }
    put_u32(&mut fixed, 48, data_pages);
    put_u32(&mut fixed, 52, docs);
    let (map, _, _) = write_map(store, id, &blocks, &fixed)?;
    Ok(SegmentEntry { id, map, docs, dead: 0, bytes })
}

/// Bytes of several parts, one after the other.
struct Stream<'a> {
    parts: &'a [&'a [u8]],
    part: usize,
    at: usize,
}

impl Stream<'_> {
    /// Copies the next bytes; the caller asks for no more than there are.
    fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            let rest = &self.parts[self.part][self.at..];
            let len = rest.len().min(out.len());
            out[..len].copy_from_slice(&rest[..len]);
            out = &mut out[len..];
            self.at += len;
            if len == rest.len() && !out.is_empty() {
                self.part += 1;
                self.at = 0;
            }
        }
    }
}

impl SegmentMap {
    /// Reads a segment's map pages.
    pub(crate) fn load<S: PageStore>(store: &S, entry: SegmentEntry) -> Result<Self, Bm25Error> {
        let page_count = store.page_count()?;
        let corrupt = |blkno, expected, got| {
            Bm25Error::from(PageError::Corrupt { blkno, offno: 0, expected, got })
        };
        let mut map_pages = Vec::new();
        let mut blocks: Vec<BlockNumber> = Vec::new();
        let mut fixed = [0_u8; MAP_FIXED];
        let mut at = entry.map;
        while at != NIL {
            let ordinal = map_pages.len() as u32;
            let (next, part) =
                with_page(store, at, Kind::Map, entry.id, ordinal, |header, payload| {
                    if ordinal == 0 && payload.len() >= MAP_FIXED {
                        fixed.copy_from_slice(&payload[..MAP_FIXED]);
                    }
                    Ok((header.next, mapped_blocks(at, header, payload, page_count)?))
                })?
                .map_err(|error: PageError| error)?;
            blocks.extend(part);
            map_pages.push(at);
            if blocks.len() > page_count as usize {
                return Err(corrupt(at, "each page once", format!("{} pages", blocks.len())));
            }
            at = next;
        }
        let data_pages = get_u32(&fixed, 48) as usize;
        let docs = get_u32(&fixed, 52);
        let mut start = 0_u64;
        let mut parts: [Range<u64>; 6] = std::array::from_fn(|_| 0..0);
        for (number, part) in parts.iter_mut().enumerate() {
            let len = get_u64(&fixed, number * 8);
            let end = start.checked_add(len).filter(|end| end.div_ceil(ROOM as u64) <= 1 << 32);
            let end = end.ok_or_else(|| {
                corrupt(entry.map, "files that fit into pages", format!("{len} bytes"))
            })?;
            *part = start..end;
            start = end;
        }
        let dead_pages = (docs as usize).div_ceil(DEAD_PER_PAGE);
        let consistent = docs == entry.docs
            && start == entry.bytes
            && start.div_ceil(ROOM as u64) == data_pages as u64
            && parts[5].end - parts[5].start == u64::from(docs) * TID_LEN as u64
            && blocks.len() == data_pages + dead_pages
            && entry.dead <= docs;
        if !consistent {
            let got = format!(
                "{docs} documents in {start} bytes, {} pages, {data_pages} with data",
                blocks.len()
            );
            return Err(corrupt(entry.map, "sizes that agree with the metapage", got));
        }
        let dead = blocks.split_off(data_pages);
        Ok(Self { entry, parts, data: blocks, dead, map_pages })
    }

    /// All its pages but those of the map.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = BlockNumber> + '_ {
        self.data.iter().chain(&self.dead).copied()
    }

    /// Length of a part.
    pub(crate) fn part_len(&self, part: Part) -> usize {
        let range = &self.parts[part as usize];
        (range.end - range.start) as usize
    }

    /// Reads bytes of a part; the range lies within it.
    pub(crate) fn read<S: PageStore>(
        &self,
        store: &S,
        part: Part,
        range: Range<usize>,
    ) -> Result<Vec<u8>, Bm25Error> {
        let base = self.parts[part as usize].start as usize;
        let (mut at, end) = (base + range.start, base + range.end);
        let mut out = Vec::with_capacity(end - at);
        while at < end {
            let page = at / ROOM;
            let from = at % ROOM;
            let to = (from + end - at).min(ROOM);
            let blkno = self.data[page];
            let copied =
                with_page(store, blkno, Kind::Data, self.entry.id, page as u32, |_, payload| {
                    match payload.get(from..to) {
                        Some(bytes) => {
                            out.extend_from_slice(bytes);
                            true
                        }
                        None => false,
                    }
                })?;
            if !copied {
                let got = "a shorter page".to_owned();
                return Err(
                    PageError::Corrupt { blkno, offno: 0, expected: "a full page", got }.into()
                );
            }
            at += to - from;
        }
        Ok(out)
    }

    /// The heap TIDs of all documents, in their order.
    pub(crate) fn tids<S: PageStore>(&self, store: &S) -> Result<Vec<HeapTid>, Bm25Error> {
        let bytes = self.read(store, Part::HeapTids, 0..self.part_len(Part::HeapTids))?;
        let (tids, _) = bytes.as_chunks::<TID_LEN>();
        Ok(tids.iter().map(|&bytes| tid_from_bytes(bytes)).collect())
    }

    /// A bit a document, set for the dead ones; nothing where all live.
    pub(crate) fn dead_bits<S: PageStore>(&self, store: &S) -> Result<Option<DeadBits>, Bm25Error> {
        if self.entry.dead == 0 {
            return Ok(None);
        }
        let mut bits = Vec::with_capacity(self.dead.len() * ROOM);
        for (ordinal, &blkno) in self.dead.iter().enumerate() {
            let page = ordinal as u32;
            with_page(store, blkno, Kind::Dead, self.entry.id, page, |_, payload| {
                bits.extend_from_slice(payload);
            })?;
        }
        bits.resize(self.dead.len() * ROOM, 0);
        Ok(Some(DeadBits(bits)))
    }

    /// Marks documents dead, a transaction a page of bits, and counts them in the metapage.
    /// `docs` ascends. Returns how many were not dead before.
    pub(crate) fn mark_dead<S: PageStore>(
        &self,
        store: &S,
        docs: &[u32],
    ) -> Result<u32, Bm25Error> {
        let mut marked = 0;
        for run in docs.chunk_by(|&a, &b| same_dead_page(a, b)) {
            store.check_interrupts()?;
            let ordinal = run[0] as usize / DEAD_PER_PAGE;
            let blkno = self.dead[ordinal];
            let mut txn = store.begin()?;
            let mut meta = Meta::parse(txn.page(METAPAGE)?)?;
            let Some(entry) = meta.segments.iter_mut().find(|entry| entry.id == self.entry.id)
            else {
                return Err(Bm25Error::Recycled(blkno));
            };
            let page = txn.page(blkno)?;
            let header = Header::expect(blkno, page, Kind::Dead, self.entry.id, ordinal as u32)?;
            let mut fresh = 0;
            for &doc in run {
                let bit = doc as usize % DEAD_PER_PAGE;
                let byte = &mut page[HEADER_LEN + bit / 8];
                fresh += u32::from(*byte & (1 << (bit % 8)) == 0);
                *byte |= 1 << (bit % 8);
            }
            header.seal(page);
            entry.dead = entry.dead.saturating_add(fresh).min(entry.docs);
            meta.version += 1;
            meta.write(txn.page(METAPAGE)?);
            txn.commit()?;
            marked += fresh;
        }
        Ok(marked)
    }
}

fn same_dead_page(a: u32, b: u32) -> bool {
    a as usize / DEAD_PER_PAGE == b as usize / DEAD_PER_PAGE
}

/// A bit a document, set for the dead ones.
#[derive(Debug, Clone)]
pub(crate) struct DeadBits(Vec<u8>);

impl DeadBits {
    #[inline]
    pub(crate) fn contains(&self, doc: u32) -> bool {
        self.0[doc as usize / 8] & (1 << (doc % 8)) != 0
    }
}
