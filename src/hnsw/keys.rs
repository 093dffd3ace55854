//! Which node a row's source has: a table from 64-bit keys to node ids, on pages of the index.
//!
//! Where vectors are made from something else, as an index on text makes them, a row's key is a hash of
//! that source. A row whose source is in the index already then joins its node or takes its code
//! ([`super::insert_known`]), and no vector is made again.
//!
//! Linear hashing (Litwin 1980): `count` buckets of a page each, one more whenever one is nearly full,
//! the oldest unsplit bucket being shared out between itself and the new one. A root page lists the map
//! pages, a map page lists buckets.
//!
//! The table is a hint. An entry may be missing (lost to a race, or dropped from a full bucket) or tell a
//! node that has another source by now, so whoever looks up compares the sources of the rows. Hence no
//! lock is held from one page to the next, and a crash between two writes does no harm.

use super::HnswError;
use super::layout::{
    FORMAT_VERSION, Layout, METAPAGE, Meta, PAGE_HEADER_LEN, get_u32, get_u64, put_u32, put_u64,
};
use super::search::read_meta;
use crate::page::{BlockNumber, PAGE_CONTENT, PageError, PagePin, PageStore, PageTxn};

const KEYS_MAGIC: u32 = u32::from_le_bytes(*b"DFHK");
const ENTRY_LEN: usize = 12;
/// Entries that a bucket has room for.
const BUCKET_ENTRIES: usize = (PAGE_CONTENT - PAGE_HEADER_LEN) / ENTRY_LEN;
/// A bucket with more entries makes the table grow.
const NEARLY_FULL: usize = BUCKET_ENTRIES * 9 / 10;
/// Entries a bucket of a new table has on average.
const BUILD_ENTRIES: usize = BUCKET_ENTRIES * 6 / 10;
/// Block numbers that a root or map page has room for.
const PLACES: usize = (PAGE_CONTENT - PAGE_HEADER_LEN) / 4;
/// Nodes that a look-up gives at most.
const MAX_FOUND: usize = 8;

/// A hash of what a row's vector is made from.
#[derive(Debug, Clone, Copy)]
pub struct SourceKey {
    hash: u64,
    /// The hash's bucket, once it was looked up.
    bucket: Option<Bucket>,
}

impl SourceKey {
    /// Of a hash.
    pub fn new(hash: u64) -> Self {
        Self { hash, bucket: None }
    }
}

/// A bucket and where it lies; it stays there.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    root: BlockNumber,
    number: u32,
    blkno: BlockNumber,
}

/// What a page of the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Root = 1,
    Map = 2,
    Bucket = 3,
}

/// Whether a page belongs to the table.
pub(crate) fn is_keys_page(bytes: &[u8]) -> bool {
    get_u32(bytes, 0) == KEYS_MAGIC
}

fn format(bytes: &mut [u8], kind: Kind) {
    put_u32(bytes, 0, KEYS_MAGIC);
    bytes[4] = FORMAT_VERSION;
    bytes[5] = kind as u8;
}

fn check_kind(blkno: BlockNumber, bytes: &[u8], kind: Kind) -> Result<(), PageError> {
    if is_keys_page(bytes) && bytes[4] == FORMAT_VERSION && bytes[5] == kind as u8 {
        return Ok(());
    }
    let expected = match kind {
        Kind::Root => "the root of the keys",
        Kind::Map => "a map of keys",
        Kind::Bucket => "a bucket of keys",
    };
    let got = format!("magic {:#010x}, version {}, kind {}", get_u32(bytes, 0), bytes[4], bytes[5]);
    Err(PageError::Corrupt { blkno, offno: 0, expected, got })
}

/// Buckets of a root; block numbers of a root or map; 0 where there is none.
fn bucket_count(root: &[u8]) -> u32 {
    get_u32(root, 8)
}

fn place(bytes: &[u8], at: usize) -> BlockNumber {
    get_u32(bytes, PAGE_HEADER_LEN + 4 * at)
}

fn set_place(bytes: &mut [u8], at: usize, blkno: BlockNumber) {
    put_u32(bytes, PAGE_HEADER_LEN + 4 * at, blkno);
}

fn entries(bucket: &[u8]) -> impl Iterator<Item = (u64, u32)> {
    let count = (get_u32(bucket, 8) as usize).min(BUCKET_ENTRIES);
    bucket[PAGE_HEADER_LEN..][..count * ENTRY_LEN]
        .chunks_exact(ENTRY_LEN)
        .map(|entry| (get_u64(entry, 0), get_u32(entry, 8)))
}

fn set_entries(bucket: &mut [u8], entries: &[(u64, u32)]) {
    put_u32(bucket, 8, entries.len() as u32);
    for (at, &(key, id)) in entries.iter().enumerate() {
        put_u64(bucket, PAGE_HEADER_LEN + at * ENTRY_LEN, key);
        put_u32(bucket, PAGE_HEADER_LEN + at * ENTRY_LEN + 8, id);
    }
    bucket[PAGE_HEADER_LEN + entries.len() * ENTRY_LEN..].fill(0);
}

/// The bucket of a key in a table of `count`.
fn bucket_of(key: u64, count: u32) -> u32 {
    let round = count.next_power_of_two();
    let bucket = key as u32 & (round - 1);
    if bucket < count { bucket } else { bucket & (round / 2 - 1) }
}

/// The bucket that shares its entries with bucket `new`; `new` is not 0.
fn parent_of(new: u32) -> u32 {
    new - (1 << new.ilog2())
}

/// Reads a page of the table under a shared lock.
fn read<S: PageStore, T>(
    store: &S,
    blkno: BlockNumber,
    kind: Kind,
    read: impl FnOnce(&[u8]) -> T,
) -> Result<T, PageError> {
    let pin = store.pin(blkno)?;
    let guard = pin.lock_shared();
    check_kind(blkno, &guard, kind)?;
    Ok(read(&guard))
}

/// The page of a bucket; `None` where the table has none yet.
fn bucket_page<S: PageStore>(
    store: &S,
    root: BlockNumber,
    bucket: impl FnOnce(u32) -> u32,
) -> Result<Option<BlockNumber>, PageError> {
    let (map, at) = read(store, root, Kind::Root, |root| match bucket_count(root) {
        0 => (0, 0),
        count => {
            let bucket = bucket(count) as usize;
            (place(root, bucket / PLACES), bucket % PLACES)
        }
    })?;
    if map == METAPAGE {
        return Ok(None);
    }
    let blkno = read(store, map, Kind::Map, |map| place(map, at))?;
    Ok((blkno != METAPAGE).then_some(blkno))
}

/// The bucket that a hash has; `None` where the table has none yet.
fn bucket_with<S: PageStore>(
    store: &S,
    root: BlockNumber,
    hash: u64,
) -> Result<Option<Bucket>, PageError> {
    let mut number = 0;
    let blkno = bucket_page(store, root, |count| {
        number = bucket_of(hash, count);
        number
    })?;
    Ok(blkno.map(|blkno| Bucket { root, number, blkno }))
}

/// Nodes that rows with this key may have, the latest first.
pub(crate) fn find<S: PageStore>(
    store: &S,
    meta: &Meta,
    key: &mut SourceKey,
) -> Result<Vec<u32>, HnswError> {
    let Some(root) = meta.keys else { return Ok(Vec::new()) };
    let Some(bucket) = bucket_with(store, root, key.hash)? else { return Ok(Vec::new()) };
    key.bucket = Some(bucket);
    let mut found: Vec<u32> = read(store, bucket.blkno, Kind::Bucket, |bytes| {
        entries(bytes).filter(|entry| entry.0 == key.hash).map(|entry| entry.1).collect()
    })?;
    found.reverse();
    found.truncate(MAX_FOUND);
    Ok(found)
}

/// Adds a key's node. The update lock is held shared.
pub(crate) fn remember<S: PageStore>(
    store: &S,
    layout: &Layout,
    meta: &Meta,
    key: SourceKey,
    id: u32,
) -> Result<(), HnswError> {
    let SourceKey { hash: key, bucket: found } = key;
    let bucket = match found {
        // Unless it was split meanwhile, the key is still its own.
        Some(bucket)
            if bucket_of(key, read(store, bucket.root, Kind::Root, bucket_count)?)
                == bucket.number =>
        {
            bucket
        }
        _ => {
            let root = match meta.keys {
                Some(root) => root,
                None => create(store, layout)?,
            };
            match bucket_with(store, root, key)? {
                Some(bucket) => bucket,
                None => {
                    grow(store, layout, root)?;
                    let Some(bucket) = bucket_with(store, root, key)? else { return Ok(()) };
                    bucket
                }
            }
        }
    };
    let Bucket { root, blkno: bucket, .. } = bucket;
    let mut txn = store.begin()?;
    let bytes = txn.page(bucket)?;
    check_kind(bucket, bytes, Kind::Bucket)?;
    let mut all: Vec<(u64, u32)> = entries(bytes).collect();
    if all.contains(&(key, id)) {
        return Ok(());
    }
    if all.len() < BUCKET_ENTRIES {
        let at = all.len();
        put_u64(bytes, PAGE_HEADER_LEN + at * ENTRY_LEN, key);
        put_u32(bytes, PAGE_HEADER_LEN + at * ENTRY_LEN + 8, id);
        put_u32(bytes, 8, at as u32 + 1);
    } else {
        let at = (key >> 32) as usize % all.len();
        all[at] = (key, id);
        set_entries(bytes, &all);
    }
    txn.commit()?;
    if all.len() >= NEARLY_FULL {
        grow(store, layout, root)?;
    }
    Ok(())
}

/// Takes the entries of nodes that are about to go out of the table.
pub(crate) fn forget<S: PageStore>(
    store: &S,
    is_gone: &dyn Fn(u32) -> bool,
) -> Result<(), HnswError> {
    let Some(root) = read_meta(store)?.keys else { return Ok(()) };
    let count = read(store, root, Kind::Root, bucket_count)?;
    for bucket in 0..count {
        store.check_interrupts()?;
        let Some(blkno) = bucket_page(store, root, |_| bucket)? else { continue };
        let concerned =
            read(store, blkno, Kind::Bucket, |bucket| entries(bucket).any(|(_, id)| is_gone(id)))?;
        if !concerned {
            continue;
        }
        let mut txn = store.begin()?;
        let bytes = txn.page(blkno)?;
        check_kind(blkno, bytes, Kind::Bucket)?;
        let kept: Vec<(u64, u32)> = entries(bytes).filter(|&(_, id)| !is_gone(id)).collect();
        set_entries(bytes, &kept);
        txn.commit()?;
        store.failpoint("cleanup forgot keys")?;
    }
    Ok(())
}

/// Appends a page of the table in a transaction that has locked the metapage, and then all others
/// but new ones.
fn append<T: PageTxn>(
    txn: &mut T,
    layout: &Layout,
    meta: &mut Meta,
    kind: Kind,
) -> Result<BlockNumber, PageError> {
    let mut blkno = txn.extend()?;
    if layout.is_attribute_page(blkno) {
        // Its bytes stay zeros until a node behind it has attributes.
        blkno = txn.extend()?;
    }
    format(txn.page(blkno)?, kind);
    meta.page_end = blkno + 1;
    Ok(blkno)
}

/// Makes a table without buckets, unless another insert did.
fn create<S: PageStore>(store: &S, layout: &Layout) -> Result<BlockNumber, HnswError> {
    let mut txn = store.begin()?;
    let mut meta = Meta::read(txn.page(METAPAGE)?)?;
    if let Some(root) = meta.keys {
        return Ok(root);
    }
    let root = append(&mut txn, layout, &mut meta, Kind::Root)?;
    meta.keys = Some(root);
    meta.write(txn.page(METAPAGE)?);
    txn.commit()?;
    Ok(root)
}

/// Adds a bucket, unless another insert does at the same time or the table has no room for more.
fn grow<S: PageStore>(store: &S, layout: &Layout, root: BlockNumber) -> Result<(), HnswError> {
    let (count, map) = read(store, root, Kind::Root, |root| {
        let count = bucket_count(root);
        (count, (count as usize / PLACES < PLACES).then(|| place(root, count as usize / PLACES)))
    })?;
    let Some(mut map) = map else { return Ok(()) };
    if map == METAPAGE {
        let mut txn = store.begin()?;
        let mut meta = Meta::read(txn.page(METAPAGE)?)?;
        txn.page(root)?;
        map = append(&mut txn, layout, &mut meta, Kind::Map)?;
        let bytes = txn.page(root)?;
        if place(bytes, count as usize / PLACES) != METAPAGE {
            return Ok(());
        }
        set_place(bytes, count as usize / PLACES, map);
        meta.write(txn.page(METAPAGE)?);
        txn.commit()?;
    }
    let at = count as usize % PLACES;
    let mut new = read(store, map, Kind::Map, |map| place(map, at))?;
    if new == METAPAGE {
        let mut txn = store.begin()?;
        let mut meta = Meta::read(txn.page(METAPAGE)?)?;
        txn.page(map)?;
        new = append(&mut txn, layout, &mut meta, Kind::Bucket)?;
        let bytes = txn.page(map)?;
        if place(bytes, at) != METAPAGE {
            return Ok(());
        }
        set_place(bytes, at, new);
        meta.write(txn.page(METAPAGE)?);
        txn.commit()?;
    }
    store.failpoint("keys have a new bucket")?;
    let parent = match count {
        0 => None,
        _ => bucket_page(store, root, |_| parent_of(count))?,
    };
    let mut pages = vec![root, new];
    pages.extend(parent);
    pages.sort_unstable();
    let mut txn = store.begin()?;
    for blkno in pages {
        txn.page(blkno)?;
    }
    let bytes = txn.page(root)?;
    if bucket_count(bytes) != count {
        return Ok(());
    }
    put_u32(bytes, 8, count + 1);
    if let Some(parent) = parent {
        let bytes = txn.page(parent)?;
        check_kind(parent, bytes, Kind::Bucket)?;
        let (moved, kept): (Vec<_>, Vec<_>) =
            entries(bytes).partition(|entry| bucket_of(entry.0, count + 1) == count);
        set_entries(bytes, &kept);
        let bytes = txn.page(new)?;
        check_kind(new, bytes, Kind::Bucket)?;
        set_entries(bytes, &moved);
    }
    txn.commit()?;
    Ok(())
}

/// Writes a table of all `keys` behind the pages of a bulk build, which alone has the index, and notes it
/// in `meta`, which the caller writes.
pub(crate) fn write_all<S: PageStore>(
    store: &S,
    layout: &Layout,
    meta: &mut Meta,
    mut keys: Vec<(u64, u32)>,
) -> Result<(), HnswError> {
    let count = keys.len().div_ceil(BUILD_ENTRIES).clamp(1, PLACES * PLACES) as u32;
    let mut append_one =
        |kind, fill: &mut dyn FnMut(&mut [u8])| -> Result<BlockNumber, HnswError> {
            store.check_interrupts()?;
            let mut txn = store.begin()?;
            let blkno = append(&mut txn, layout, meta, kind)?;
            fill(txn.page(blkno)?);
            txn.commit()?;
            Ok(blkno)
        };
    keys.sort_unstable_by_key(|&(key, id)| (bucket_of(key, count), key, id));
    keys.dedup();
    let mut rest = &keys[..];
    let mut buckets = Vec::with_capacity(count as usize);
    for bucket in 0..count {
        let len = rest.partition_point(|&(key, _)| bucket_of(key, count) <= bucket);
        let (own, others) = rest.split_at(len);
        rest = others;
        let own = &own[..len.min(BUCKET_ENTRIES)];
        buckets.push(append_one(Kind::Bucket, &mut |bytes| set_entries(bytes, own))?);
    }
    let mut maps = Vec::new();
    for part in buckets.chunks(PLACES) {
        maps.push(append_one(Kind::Map, &mut |bytes| {
            part.iter().enumerate().for_each(|(at, &blkno)| set_place(bytes, at, blkno));
        })?);
    }
    let root = append_one(Kind::Root, &mut |bytes| {
        put_u32(bytes, 8, count);
        maps.iter().enumerate().for_each(|(at, &blkno)| set_place(bytes, at, blkno));
    })?;
    meta.keys = Some(root);
    Ok(())
}

/// What the verifier says of the table: a sentence for each thing wrong, and how many entries there are.
pub(crate) fn check<S: PageStore>(
    store: &S,
    meta: &Meta,
    violation: &mut dyn FnMut(String),
) -> Result<u64, HnswError> {
    let Some(root) = meta.keys else { return Ok(0) };
    let mut total = 0;
    let mut wrong = |error: PageError| -> Result<(), HnswError> {
        match error {
            PageError::Corrupt { .. } | PageError::OutOfRange { .. } => {
                violation(error.to_string())
            }
            error => return Err(error.into()),
        }
        Ok(())
    };
    let count = match read(store, root, Kind::Root, bucket_count) {
        Ok(count) => count.min((PLACES * PLACES) as u32),
        Err(error) => return wrong(error).map(|()| 0),
    };
    let layout = Layout::new(&meta.params);
    let mut outside = Vec::new();
    for bucket in 0..count {
        store.check_interrupts()?;
        let found = bucket_page(store, root, |_| bucket).and_then(|blkno| {
            let Some(blkno) = blkno else { return Ok(None) };
            let all =
                read(store, blkno, Kind::Bucket, |bucket| entries(bucket).collect::<Vec<_>>());
            all.map(Some)
        });
        match found {
            Ok(Some(all)) => {
                total += all.len() as u64;
                let is_outside = |id: u32| layout.block_of(id) >= meta.page_end;
                outside.extend(all.iter().map(|entry| entry.1).filter(|&id| is_outside(id)));
            }
            Ok(None) => outside.push(bucket),
            Err(error) => wrong(error)?,
        }
    }
    for id in outside {
        violation(format!("keys: {id} is no node's id, or no bucket"));
    }
    Ok(total)
}
