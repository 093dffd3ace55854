//! A graph's pages with any bytes changed: every operation ends with an error or without, none panics or goes on for
//! ever. The first byte of input tells which index, of three; then four are a change: a page, a place on it (two
//! bytes), what the byte there becomes.
#![no_main]

use distilface_core::hnsw::{
    Added, BuildOptions, Builder, Condition, Filter, HeapTid, HnswError, HnswParams, Scan,
    ScanOptions, SourceKey, Storage, bulk_delete, check, cleanup, info, insert_known,
    insert_unplaced, insert_with_key,
};
use distilface_core::page::{MemoryStore, PAGE_CONTENT, PageStore};
use distilface_core::vector::Metric;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const DIMS: usize = 128;
/// Rows that any scan may return of a damaged index: each page holds a few dozen.
const MOST_ROWS: usize = 100_000;
const MOST_CHANGES: usize = 64;

/// Storage, and bytes of filter columns.
const KINDS: [(Storage, u16); 3] =
    [(Storage::Plain, 0), (Storage::Sketched, 0), (Storage::Sketched, 2)];

/// A column of one byte that is not NULL.
const ATTRS: [u8; 2] = [1, 7];

static SOUND: LazyLock<[MemoryStore; 3]> = LazyLock::new(|| KINDS.map(sound));

fn sound((storage, attr_len): (Storage, u16)) -> MemoryStore {
    let store = MemoryStore::new();
    let params = HnswParams::parse(DIMS, Metric::L2, 4, 16)
        .and_then(|params| params.with_storage(storage))
        .and_then(|params| params.with_attr_len(attr_len))
        .expect("valid parameters");
    let mut builder = Builder::new(params, BuildOptions::default());
    let attrs = &ATTRS[..usize::from(attr_len)];
    for row in 0..60 {
        let added = builder.add_with_key(&vector(row), attrs, tid(row), u64::from(row));
        assert_eq!(added.expect("valid"), Added::Kept);
    }
    builder.finish(&store, &mut ()).expect("a store in memory");
    for row in 60..120 {
        // Half of them equal: rows that share a node.
        let key = SourceKey::new(u64::from(row));
        insert_with_key(&store, &vector(row / 2), attrs, tid(row), key).expect("a store in memory");
    }
    insert_unplaced(&store, tid(120)).expect("a store in memory");
    bulk_delete(&store, &mut |tid| tid.offset % 7 == 0).expect("a store in memory");
    store
}

fn vector(row: u16) -> [f32; DIMS] {
    std::array::from_fn(|at| f32::from((row * 31 + at as u16 * 17) % 64) - 32.0)
}

fn tid(row: u16) -> HeapTid {
    HeapTid { block: u32::from(row / 50), offset: row % 50 + 1 }
}

fn read_all(scan: Result<Scan<'_, MemoryStore>, HnswError>) {
    let Ok(mut scan) = scan else { return };
    let mut rows = 0;
    while let Ok(Some(_)) = scan.next() {
        rows += 1;
        assert!(rows < MOST_ROWS, "an endless scan");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, changes)) = bytes.split_first() else { return };
    let which = usize::from(*which) % KINDS.len();
    let attrs = &ATTRS[..usize::from(KINDS[which].1)];
    let store = SOUND[which].snapshot();
    let pages = store.page_count().expect("a store in memory");
    for change in changes.chunks_exact(4).take(MOST_CHANGES) {
        let blkno = u32::from(change[0]) % pages;
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % PAGE_CONTENT;
        store.tamper(blkno, |page| page[at] = change[3]).expect("a page of the store");
    }
    read_all(Scan::open(&store, &vector(3), ScanOptions::default()));
    if !attrs.is_empty() {
        let filter = Filter::new(vec![Condition::new(0, 2, &[(vec![1, 0], vec![1, 9])])]);
        read_all(Scan::open_filtered(&store, &vector(3), ScanOptions::default(), filter));
    }
    let mut key = SourceKey::new(30);
    let known = insert_known(&store, attrs, tid(500), &mut key, &mut |_| false);
    if known.is_ok() {
        let _ = insert_with_key(&store, &vector(500), attrs, tid(500), key);
    }
    let _ = insert_known(&store, attrs, tid(501), &mut SourceKey::new(40), &mut |_| true);
    let _ = insert_unplaced(&store, tid(502));
    let _ = bulk_delete(&store, &mut |tid| tid.offset % 2 == 0);
    let _ = cleanup(&store);
    let _ = check(&store);
    let _ = info(&store);
});
