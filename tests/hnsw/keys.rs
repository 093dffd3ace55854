//! Rows whose source the index has already: no vector is needed for them.

use crate::common::*;
use distilface_core::hnsw::*;
use distilface_core::page::{FaultStore, MemoryStore, PageError};
use distilface_core::vector::Metric;
use std::collections::{HashMap, HashSet};

/// A hash of a source, spread as a hash is.
fn key(source: u64) -> u64 {
    let mut z = source.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn source_key(source: u64) -> SourceKey {
    SourceKey::new(key(source))
}

/// Adds a row with the source of the row `like`; whether it went without a vector.
fn insert_again(store: &MemoryStore, source: u64, like: HeapTid, new: HeapTid) -> bool {
    let mut asked = 0;
    let known = insert_known(store, &[], new, &mut source_key(source), &mut |tid| {
        asked += 1;
        tid == like
    });
    assert!(asked <= 12, "{asked} rows were asked");
    known.expect("inserted").is_some()
}

fn filled(rows: &Rows) -> MemoryStore {
    let store = MemoryStore::new();
    create_empty(&store, params(Metric::L2)).expect("created");
    for (source, (&tid, vector)) in rows.iter().enumerate() {
        insert_with_key(&store, vector, &[], tid, source_key(source as u64)).expect("inserted");
    }
    store
}

#[test]
fn every_source_is_known_however_the_rows_came() {
    let rows = rows(3000, 31);
    let mut builder = Builder::new(params(Metric::L2), BuildOptions::default());
    for (source, (&tid, vector)) in rows.iter().enumerate() {
        let added = builder.add_with_key(vector, &[], tid, key(source as u64));
        assert_eq!(added.expect("added"), Added::Kept);
    }
    let built = MemoryStore::new();
    builder.finish(&built, &mut ()).expect("built");
    for store in [built, filled(&rows)] {
        assert_eq!(assert_sound(&store, 3000).keys, 3000);
        let nodes = info(&store).expect("readable").nodes;
        for (source, &like) in rows.keys().enumerate() {
            let new = tid(10_000 + source as u32);
            assert!(insert_again(&store, source as u64, like, new), "source {source}");
            // The latest row is asked too: its text is what an UPDATE finds.
            assert!(insert_again(&store, source as u64, new, tid(20_000 + source as u32)));
        }
        assert_sound(&store, 9000);
        assert_eq!(info(&store).expect("readable").nodes, nodes, "no node more");
    }
}

#[test]
fn another_source_with_the_same_hash_is_not_taken() {
    let rows = rows(50, 32);
    let store = filled(&rows);
    let known =
        insert_known(&store, &[], tid(900), &mut source_key(7), &mut |_| false).expect("looked up");
    assert_eq!(known, None);
    let known = insert_known(&store, &[], tid(900), &mut source_key(7000), &mut |_| true)
        .expect("looked up");
    assert_eq!(known, None, "a source that never was");
    assert_sound(&store, 50);
}

#[test]
fn a_known_source_with_other_filter_columns_is_a_node_of_its_own() {
    let store = MemoryStore::new();
    let params = params(Metric::L2).with_attr_len(1).expect("valid");
    create_empty(&store, params).expect("created");
    let rows = rows(400, 33);
    for (source, (&tid, vector)) in rows.iter().enumerate() {
        insert_with_key(&store, vector, &[1], tid, source_key(source as u64)).expect("inserted");
    }
    for (source, &like) in rows.keys().enumerate() {
        let new = tid(1000 + source as u32);
        let known =
            insert_known(&store, &[2], new, &mut source_key(source as u64), &mut |tid| tid == like);
        assert_eq!(known.expect("inserted"), Some(Inserted::Node));
        let known = insert_known(
            &store,
            &[2],
            tid(2000 + source as u32),
            &mut source_key(source as u64),
            &mut |tid| tid == new,
        );
        assert_eq!(known.expect("inserted"), Some(Inserted::Shared));
    }
    assert_sound(&store, 1200);
    let mut attrs = HashMap::new();
    each_row(&store, &mut |tid, own| {
        attrs.insert(tid, own.map(<[u8]>::to_vec));
    })
    .expect("readable");
    assert!(rows.keys().all(|tid| attrs[tid] == Some(vec![1])));
    assert!((1000..1400).chain(2000..2400).all(|n| attrs[&tid(n)] == Some(vec![2])));
    // Placed by the code alone, each is still found beside its twin.
    let beside = rows.iter().enumerate().filter(|&(source, (&like, vector))| {
        let mut scan = Scan::open(&store, vector, ScanOptions::default()).expect("opened");
        let first: HashSet<HeapTid> =
            (0..3).filter_map(|_| scan.next().expect("scanned")).map(|hit| hit.heap_tid).collect();
        let number = source as u32;
        first == HashSet::from([like, tid(1000 + number), tid(2000 + number)])
    });
    assert!(beside.count() >= 396);
}

#[test]
fn vacuum_forgets_the_sources_of_dead_rows() {
    let rows = rows(2000, 34);
    let store = filled(&rows);
    let is_dead = |tid: HeapTid| tid.offset.is_multiple_of(2);
    for _ in 0..2 {
        bulk_delete(&store, &mut |tid| is_dead(tid)).expect("deleted");
        cleanup(&store).expect("cleaned");
    }
    assert_eq!(assert_sound(&store, 1000).keys, 1000);
    for (source, &like) in rows.keys().enumerate() {
        let new = tid(10_000 + source as u32);
        assert_eq!(insert_again(&store, source as u64, like, new), !is_dead(like));
    }
}

#[test]
fn live_sources_only_are_kept_when_rows_come_and_go() {
    let store = filled(&rows(1000, 35));
    for round in 1..8u32 {
        for (i, vector) in vectors(500, 36).iter().enumerate() {
            let number = round * 1000 + i as u32;
            insert_with_key(&store, vector, &[], tid(number), source_key(number.into()))
                .expect("inserted");
        }
        bulk_delete(&store, &mut |tid| tid.block >= round * 20 && tid.block < round * 20 + 10)
            .expect("deleted");
        cleanup(&store).expect("cleaned");
        assert_eq!(assert_sound(&store, 1000).keys, 1000);
    }
}

#[test]
fn sources_inserted_by_many_threads_at_once_are_known() {
    let store = MemoryStore::new();
    create_empty(&store, params(Metric::L2)).expect("created");
    let rows: Vec<_> = rows(4000, 37).into_iter().collect();
    std::thread::scope(|scope| {
        for (part, rows) in rows.chunks(1000).enumerate() {
            let store = &store;
            scope.spawn(move || {
                for (i, (tid, vector)) in rows.iter().enumerate() {
                    let source = (part * 1000 + i) as u64;
                    insert_with_key(store, vector, &[], *tid, source_key(source))
                        .expect("inserted");
                }
            });
        }
    });
    assert_sound(&store, 4000);
    let known = rows.iter().enumerate().filter(|&(source, &(like, _))| {
        insert_again(&store, source as u64, like, tid(10_000 + source as u32))
    });
    // One that fell between two buckets while they were shared out is embedded again.
    let known = known.count();
    assert!(known >= 3980, "{known} of 4000");
}

#[test]
fn a_source_looked_up_before_its_bucket_was_split_is_known_after() {
    let store = filled(&rows(500, 40));
    let late = vectors(200, 41);
    let mut keys: Vec<_> = (10_000..10_200).map(source_key).collect();
    for key in &mut keys {
        let known = insert_known(&store, &[], tid(0), key, &mut |_| true).expect("looked up");
        assert_eq!(known, None, "not there yet");
    }
    for (i, vector) in vectors(2000, 42).iter().enumerate() {
        let number = 1000 + i as u32;
        insert_with_key(&store, vector, &[], tid(number), source_key(number.into()))
            .expect("inserted");
    }
    for (i, (vector, &key)) in late.iter().zip(&keys).enumerate() {
        insert_with_key(&store, vector, &[], tid(10_000 + i as u32), key).expect("inserted");
    }
    assert_sound(&store, 2700);
    for source in 10_000..10_200 {
        assert!(insert_again(&store, source.into(), tid(source), tid(source + 1000)));
    }
}

#[test]
fn a_failed_write_leaves_a_sound_index_whose_sources_are_asked_for() {
    let before = filled(&rows(650, 38));
    let new = vectors(60, 39);
    for nth in (0..).step_by(7) {
        let store = FaultStore::new(before.snapshot());
        store.fail_at(nth);
        let mut failed = false;
        for (i, vector) in new.iter().enumerate() {
            let number = 2000 + i as u32;
            match insert_with_key(&store, vector, &[], tid(number), source_key(number.into())) {
                Ok(_) => {}
                Err(HnswError::Page(PageError::Injected(_))) => failed = true,
                Err(error) => panic!("write {nth} failed, which gave: {error}"),
            }
        }
        store.heal();
        let report = check(store.inner()).expect("readable");
        assert!(report.is_ok(), "write {nth}: {:#?}", report.violations);
        // Only the row whose insert failed may be missing, and its source is never taken for known.
        let again = |number: u32| {
            let mut is_same = |asked: HeapTid| asked == tid(number);
            insert_known(
                store.inner(),
                &[],
                tid(number + 1000),
                &mut source_key(number.into()),
                &mut is_same,
            )
            .expect("inserted")
        };
        let known = (2000..2060).filter(|&number| again(number).is_some()).count();
        assert!(known >= 59, "write {nth}: {known} of 60");
        if !failed {
            return;
        }
    }
}
