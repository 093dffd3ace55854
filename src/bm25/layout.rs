//! Bytes of the index's pages, read through checked views; `docs/on-disk-format.md` draws them.
//!
//! Every page but the metapage opens with the same header: what kind of page it is, a checksum of
//! what it holds, and its owner's serial number, which is drawn once and never used again. Whoever
//! follows a page number knows the owner that it expects: another owner on a page that is whole
//! means that the page was recycled, a wrong checksum that it is damaged. So a damaged segment is
//! found before tantivy, which trusts its files, sees a byte of it.

use super::error::Bm25Error;
use super::params::{Bm25Params, Column, MAX_CONFIG_BYTES};
use crate::bm25::analyzer::TextConfig;
use crate::page::{BlockNumber, HeapTid, PAGE_CONTENT, PageError, PagePin, PageStore};

/// The metapage's place.
pub(crate) const METAPAGE: BlockNumber = 0;
/// No page.
pub(crate) const NIL: BlockNumber = BlockNumber::MAX;
/// Version of the format that this code writes and reads.
pub const FORMAT_VERSION: u8 = 1;
/// Segments that the metapage has room for.
pub(crate) const MAX_SEGMENTS: usize = 48;
/// Chains of free pages that the metapage has room for.
pub(crate) const MAX_CHAINS: usize = 96;
/// Bytes of a page before its payload.
pub(crate) const HEADER_LEN: usize = 40;
/// Bytes of a page's payload.
pub(crate) const ROOM: usize = PAGE_CONTENT - HEADER_LEN;
/// Documents whose bits fit into a page of the dead list.
pub(crate) const DEAD_PER_PAGE: usize = ROOM * 8;

const META_MAGIC: u32 = u32::from_le_bytes(*b"DFBI");
const META_FIXED: usize = 64;
const SEGMENT_LEN: usize = 32;
const CHAIN_LEN: usize = 20;
const _: () = assert!(
    META_FIXED + MAX_CONFIG_BYTES + MAX_SEGMENTS * SEGMENT_LEN + MAX_CHAINS * CHAIN_LEN
        <= PAGE_CONTENT
);

/// Bytes of a heap TID.
pub(crate) const TID_LEN: usize = 6;

pub(crate) fn tid_to_bytes(tid: HeapTid) -> [u8; TID_LEN] {
    let [a, b, c, d] = tid.block.to_le_bytes();
    let [e, f] = tid.offset.to_le_bytes();
    [a, b, c, d, e, f]
}

pub(crate) fn tid_from_bytes(bytes: [u8; TID_LEN]) -> HeapTid {
    let [a, b, c, d, e, f] = bytes;
    HeapTid { block: u32::from_le_bytes([a, b, c, d]), offset: u16::from_le_bytes([e, f]) }
}

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Rows that are in no segment yet.
    Pending,
    /// A part of a pending row that is longer than a page.
    Overflow,
    /// A part of a segment's files.
    Data,
    /// Where a segment's pages are; also where free pages are.
    Map,
    /// Which documents of a segment are dead.
    Dead,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Pending, Self::Overflow, Self::Data, Self::Map, Self::Dead];

    fn magic(self) -> u32 {
        u32::from_le_bytes(match self {
            Self::Pending => *b"DFBP",
            Self::Overflow => *b"DFBO",
            Self::Data => *b"DFBD",
            Self::Map => *b"DFBM",
            Self::Dead => *b"DFBX",
        })
    }
}

/// Whether rows may still be added to a pending page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filling {
    Open,
    /// A merge has taken or will take the page's rows.
    Closed,
}

/// A page's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Serial number of the segment, pending page or overflowing row.
    pub(crate) owner: u64,
    /// Place within the owner.
    pub(crate) ordinal: u32,
    pub(crate) next: BlockNumber,
    /// Owner of the next page.
    pub(crate) next_owner: u64,
    /// Bytes of payload in use, which the checksum covers.
    pub(crate) used: u16,
    /// Rows or extents in the payload.
    pub(crate) items: u16,
    pub(crate) filling: Filling,
}

impl Header {
    pub(crate) fn new(kind: Kind, owner: u64, ordinal: u32) -> Self {
        Self {
            kind,
            owner,
            ordinal,
            next: NIL,
            next_owner: 0,
            used: 0,
            items: 0,
            filling: Filling::Open,
        }
    }

    /// Writes the header over a page whose payload is in place, checksum included.
    pub(crate) fn seal(&self, page: &mut [u8]) {
        put_u32(page, 0, self.kind.magic());
        put_u64(page, 8, self.owner);
        put_u32(page, 16, self.ordinal);
        put_u32(page, 20, self.next);
        put_u64(page, 24, self.next_owner);
        put_u16(page, 32, self.used);
        put_u16(page, 34, self.items);
        page[36] = (self.filling == Filling::Closed).into();
        page[37..HEADER_LEN].fill(0);
        put_u32(page, 4, checksum(&page[8..HEADER_LEN + usize::from(self.used)]));
    }

    /// Reads a page's header.
    ///
    /// # Errors
    /// [`PageError::Corrupt`] where the page is none of this index or damaged.
    pub(crate) fn read(blkno: BlockNumber, page: &[u8]) -> Result<Self, PageError> {
        let corrupt = |expected, got| PageError::Corrupt { blkno, offno: 0, expected, got };
        let magic = get_u32(page, 0);
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.magic() == magic)
            .ok_or_else(|| corrupt("a page of a bm25 index", format!("magic {magic:#010x}")))?;
        let used = get_u16(page, 32);
        if usize::from(used) > ROOM {
            return Err(corrupt("a payload within the page", format!("{used} bytes")));
        }
        let (stored, computed) =
            (get_u32(page, 4), checksum(&page[8..HEADER_LEN + usize::from(used)]));
        if stored != computed {
            let got = format!("{computed:#010x} where {stored:#010x} is stored");
            return Err(corrupt("a matching checksum", got));
        }
        Ok(Self {
            kind,
            owner: get_u64(page, 8),
            ordinal: get_u32(page, 16),
            next: get_u32(page, 20),
            next_owner: get_u64(page, 24),
            used,
            items: get_u16(page, 34),
            filling: if page[36] == 0 { Filling::Open } else { Filling::Closed },
        })
    }

    /// Reads the header of a page that should belong to `owner`.
    ///
    /// # Errors
    /// [`Bm25Error::Recycled`] where it belongs to another, [`PageError::Corrupt`] as above.
    pub(crate) fn expect(
        blkno: BlockNumber,
        page: &[u8],
        kind: Kind,
        owner: u64,
        ordinal: u32,
    ) -> Result<Self, Bm25Error> {
        let header = Self::read(blkno, page)?;
        if (header.kind, header.owner, header.ordinal) == (kind, owner, ordinal) {
            Ok(header)
        } else {
            Err(Bm25Error::Recycled(blkno))
        }
    }

    /// The payload in use.
    pub(crate) fn payload<'p>(&self, page: &'p [u8]) -> &'p [u8] {
        &page[HEADER_LEN..HEADER_LEN + usize::from(self.used)]
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// A segment, as the metapage lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    /// Serial number, the owner of its pages.
    pub(crate) id: u64,
    /// First page of its map.
    pub(crate) map: BlockNumber,
    pub(crate) docs: u32,
    /// Documents that vacuum found dead.
    pub(crate) dead: u32,
    /// Bytes of its files.
    pub(crate) bytes: u64,
}

/// Pages that nothing refers to any more: a chain of map pages, which themselves are free too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FreeChain {
    pub(crate) head: BlockNumber,
    pub(crate) tail: BlockNumber,
    /// Pages in the chain when it was freed; tells sizes, bounds nothing.
    pub(crate) pages: u32,
    /// [`PageStore::reuse_stamp`] of when the last reader could have found them.
    pub(crate) stamp: u64,
}

/// A page number together with the serial number of the owner expected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) blkno: BlockNumber,
    pub(crate) owner: u64,
}

/// What the metapage says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Meta {
    pub(crate) params: Bm25Params,
    /// Goes up whenever a segment comes, goes, or loses documents.
    pub(crate) version: u64,
    /// The next owner's serial number.
    pub(crate) next_serial: u64,
    /// First page of the pending list.
    pub(crate) pending_head: Link,
    /// Its last page, which new rows go to.
    pub(crate) pending_tail: Link,
    /// Pages of the pending list, those of overflowing rows included.
    pub(crate) pending_pages: u32,
    pub(crate) segments: Vec<SegmentEntry>,
    pub(crate) chains: Vec<FreeChain>,
}

impl Meta {
    /// Writes the metapage.
    pub(crate) fn write(&self, page: &mut [u8]) {
        page[..META_FIXED].fill(0);
        put_u32(page, 0, META_MAGIC);
        page[8] = FORMAT_VERSION;
        page[9] = self.params.columns().len() as u8;
        page[10] = self.segments.len() as u8;
        page[11] = self.chains.len() as u8;
        put_u32(page, 12, self.params.k1().to_bits());
        put_u32(page, 16, self.params.b().to_bits());
        put_u64(page, 20, self.version);
        put_u64(page, 28, self.next_serial);
        put_u32(page, 36, self.pending_head.blkno);
        put_u64(page, 40, self.pending_head.owner);
        put_u32(page, 48, self.pending_tail.blkno);
        put_u64(page, 52, self.pending_tail.owner);
        put_u32(page, 60, self.pending_pages);
        let mut at = META_FIXED;
        for column in self.params.columns() {
            let config = column.config.to_string();
            put_u16(page, at, config.len() as u16);
            put_u32(page, at + 2, column.boost.to_bits());
            page[at + 6..at + 6 + config.len()].copy_from_slice(config.as_bytes());
            at += 6 + config.len();
        }
        for segment in &self.segments {
            put_u64(page, at, segment.id);
            put_u32(page, at + 8, segment.map);
            put_u32(page, at + 12, segment.docs);
            put_u32(page, at + 16, segment.dead);
            put_u64(page, at + 20, segment.bytes);
            put_u32(page, at + 28, 0);
            at += SEGMENT_LEN;
        }
        for chain in &self.chains {
            put_u32(page, at, chain.head);
            put_u32(page, at + 4, chain.tail);
            put_u32(page, at + 8, chain.pages);
            put_u64(page, at + 12, chain.stamp);
            at += CHAIN_LEN;
        }
        page[at..].fill(0);
        put_u32(page, 4, checksum(&page[8..]));
    }

    /// Reads the metapage.
    ///
    /// # Errors
    /// [`PageError::Corrupt`] where the page is not a metapage of a version that this code reads,
    /// or is damaged.
    pub(crate) fn parse(page: &[u8]) -> Result<Self, PageError> {
        let corrupt =
            |expected, got| PageError::Corrupt { blkno: METAPAGE, offno: 0, expected, got };
        let magic = get_u32(page, 0);
        if magic != META_MAGIC {
            return Err(corrupt("the metapage of a bm25 index", format!("magic {magic:#010x}")));
        }
        if page[8] != FORMAT_VERSION {
            let got = format!("version {}", page[8]);
            return Err(corrupt("format version 1 (REINDEX makes one)", got));
        }
        let (stored, computed) = (get_u32(page, 4), checksum(&page[8..]));
        if stored != computed {
            let got = format!("{computed:#010x} where {stored:#010x} is stored");
            return Err(corrupt("a matching checksum", got));
        }
        let (columns, segments, chains) =
            (usize::from(page[9]), usize::from(page[10]), usize::from(page[11]));
        if segments > MAX_SEGMENTS || chains > MAX_CHAINS {
            let got = format!("{segments} and {chains}");
            return Err(corrupt("at most 48 segments and 96 chains of free pages", got));
        }
        let mut at = META_FIXED;
        let mut parsed = Vec::with_capacity(columns);
        for _ in 0..columns {
            if at + 6 > META_FIXED + MAX_CONFIG_BYTES {
                return Err(corrupt("configurations of at most 2048 bytes", format!("{at}")));
            }
            let (len, boost) = (usize::from(get_u16(page, at)), get_u32(page, at + 2));
            if at + 6 + len > META_FIXED + MAX_CONFIG_BYTES {
                return Err(corrupt("configurations of at most 2048 bytes", format!("{len}")));
            }
            let config = String::from_utf8_lossy(&page[at + 6..at + 6 + len]);
            let config = TextConfig::parse(&config)
                .map_err(|error| corrupt("a text configuration", error.to_string()))?;
            parsed.push(Column { config, boost: f32::from_bits(boost) });
            at += 6 + len;
        }
        let params = Bm25Params::new(
            parsed,
            f32::from_bits(get_u32(page, 12)),
            f32::from_bits(get_u32(page, 16)),
        )
        .map_err(|error| corrupt("valid parameters", error.to_string()))?;
        let segments_at = at;
        let chains_at = segments_at + segments * SEGMENT_LEN;
        Ok(Self {
            params,
            version: get_u64(page, 20),
            next_serial: get_u64(page, 28),
            pending_head: Link { blkno: get_u32(page, 36), owner: get_u64(page, 40) },
            pending_tail: Link { blkno: get_u32(page, 48), owner: get_u64(page, 52) },
            pending_pages: get_u32(page, 60),
            segments: (0..segments)
                .map(|number| {
                    let at = segments_at + number * SEGMENT_LEN;
                    SegmentEntry {
                        id: get_u64(page, at),
                        map: get_u32(page, at + 8),
                        docs: get_u32(page, at + 12),
                        dead: get_u32(page, at + 16),
                        bytes: get_u64(page, at + 20),
                    }
                })
                .collect(),
            chains: (0..chains)
                .map(|number| {
                    let at = chains_at + number * CHAIN_LEN;
                    FreeChain {
                        head: get_u32(page, at),
                        tail: get_u32(page, at + 4),
                        pages: get_u32(page, at + 8),
                        stamp: get_u64(page, at + 12),
                    }
                })
                .collect(),
        })
    }

    /// Reads the metapage of a store.
    pub(crate) fn load(store: &impl PageStore) -> Result<Self, PageError> {
        let pin = store.pin(METAPAGE)?;
        let guard = pin.lock_shared();
        Self::parse(&guard)
    }

    /// Reads the metapage with its mark.
    pub(crate) fn load_marked(store: &impl PageStore) -> Result<(Self, MetaMark), PageError> {
        let pin = store.pin(METAPAGE)?;
        let guard = pin.lock_shared();
        Ok((Self::parse(&guard)?, MetaMark::of(&guard)))
    }

    /// Draws a serial number; the caller writes the metapage.
    pub(crate) fn draw_serial(&mut self) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        serial
    }
}

/// The head of a metapage, the checksum of all of it included: while it stays the same, so does what
/// the metapage says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MetaMark([u8; META_FIXED]);

impl MetaMark {
    fn of(page: &[u8]) -> Self {
        let head = page.first_chunk::<META_FIXED>().expect("a page is longer than the fixed part");
        Self(*head)
    }

    /// Reads the mark alone, which verifies nothing.
    pub(crate) fn read(store: &impl PageStore) -> Result<Self, PageError> {
        let pin = store.pin(METAPAGE)?;
        let guard = pin.lock_shared();
        Ok(Self::of(&guard))
    }
}

/// Reads a page that should belong to `owner` and hands its header and payload to `read`, under
/// the page's shared lock.
pub(crate) fn with_page<S: PageStore, T>(
    store: &S,
    blkno: BlockNumber,
    kind: Kind,
    owner: u64,
    ordinal: u32,
    read: impl FnOnce(&Header, &[u8]) -> T,
) -> Result<T, Bm25Error> {
    let pin = store.pin(blkno)?;
    let guard = pin.lock_shared();
    let header = Header::expect(blkno, &guard, kind, owner, ordinal)?;
    Ok(read(&header, header.payload(&guard)))
}

pub(crate) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from(get_u32(bytes, at)) | u64::from(get_u32(bytes, at + 4)) << 32
}

pub(crate) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
