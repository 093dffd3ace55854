//! Build, insert, delete and vacuum, each checked against the exact answer and the verifier.

use crate::common::*;
use distilface_core::hnsw::*;
use distilface_core::page::{MemoryStore, PageStore};
use distilface_core::vector::Metric;
use std::collections::HashSet;

#[test]
fn a_bulk_build_finds_the_true_neighbors_for_every_metric() {
    for metric in Metric::ALL {
        for threads in [1, 3] {
            let (store, rows) = (MemoryStore::new(), rows(3000, 1));
            build(&store, metric, &rows, threads);
            assert_sound(&store, rows.len());
            let recall = recall(&store, metric, &rows, 60);
            assert!(recall >= 0.95, "{metric}, {threads} threads: recall {recall}");
        }
    }
}

#[test]
fn inserted_rows_are_found_as_built_ones_are() {
    for metric in Metric::ALL {
        let (store, rows) = (MemoryStore::new(), rows(2000, 2));
        create_empty(&store, params(metric)).expect("created");
        for (&tid, vector) in &rows {
            assert_eq!(insert(&store, vector, tid).expect("inserted"), Inserted::Node);
        }
        assert_sound(&store, rows.len());
        let recall = recall(&store, metric, &rows, 60);
        assert!(recall >= 0.95, "{metric}: recall {recall}");
    }
}

#[test]
fn a_scan_without_limit_hands_out_every_row_once() {
    let (store, rows) = (MemoryStore::new(), rows(1500, 3));
    build(&store, Metric::L2, &rows, 2);
    let expected: Vec<HeapTid> = rows.keys().copied().collect();
    assert_eq!(all_rows(&store, &vectors(1, 9)[0]), expected);
}

#[test]
fn a_scan_that_knows_how_many_rows_are_asked_for_searches_once_and_finds_as_many() {
    const K: usize = 150;
    let (store, rows) = (MemoryStore::new(), rows(4000, 10));
    build(&store, Metric::Cosine, &rows, 2);
    let ask = |expected_rows| {
        let options = ScanOptions { expected_rows, ..ScanOptions::default() };
        let (mut right, mut pages, mut resumes) = (0, 0, 0);
        for query in vectors(20, 11) {
            let truth = exact(Metric::Cosine, &rows, &query, K);
            let mut scan = Scan::open(&store, &query, options).expect("opened");
            let found = take_exact(&mut scan, Metric::Cosine, &rows, &query, K);
            right += found.iter().filter(|tid| truth.contains(tid)).count();
            (pages, resumes) = (pages + scan.stats().pages, resumes + scan.stats().resumes);
        }
        (right as f64 / (20 * K) as f64, pages, resumes)
    };
    let (by_rounds, pages_by_rounds, rounds) = ask(0);
    let (recall, pages, resumes) = ask(K as u32);
    assert!(rounds >= 40, "{rounds} rounds of those that do not know");
    assert_eq!(resumes, 0);
    assert!(pages < pages_by_rounds, "{pages} pages where {pages_by_rounds} were read in rounds");
    assert!(recall >= 0.95 && recall >= by_rounds - 0.02, "recall {recall}, {by_rounds} in rounds");
}

#[test]
fn a_scan_that_is_asked_for_more_than_it_knew_hands_out_every_row_once() {
    let (store, rows) = (MemoryStore::new(), rows(1500, 3));
    build(&store, Metric::L2, &rows, 2);
    let options = ScanOptions { expected_rows: 100, ..ScanOptions::default() };
    let mut scan = Scan::open(&store, &vectors(1, 9)[0], options).expect("opened");
    let mut tids = Vec::new();
    while let Some(hit) = scan.next().expect("scanned") {
        tids.push(hit.heap_tid);
    }
    tids.sort_unstable();
    assert_eq!(tids, rows.keys().copied().collect::<Vec<_>>());
}

#[test]
fn one_thread_and_one_seed_make_the_same_pages() {
    let rows = rows(1000, 4);
    let built = || {
        let store = MemoryStore::new();
        build(&store, Metric::Cosine, &rows, 1);
        page_bytes(&store)
    };
    assert!(built() == built());
}

fn page_bytes(store: &MemoryStore) -> Vec<Vec<u8>> {
    use distilface_core::page::PagePin;
    let pages = store.page_count().expect("counted");
    let read = |blkno| store.pin(blkno).expect("pinned").lock_shared().to_vec();
    (0..pages).map(read).collect()
}

#[test]
fn vectors_quantized_by_many_threads_make_the_same_pages() {
    let rows = rows(1000, 6);
    let vectors: Vec<Option<&[f32]>> = rows.values().map(|v| Some(&v[..])).collect();
    let builder = |threads| {
        let options = BuildOptions { threads, ..BuildOptions::default() };
        Builder::new(params(Metric::Cosine), options)
    };
    let quantized = builder(3).quantize(&vectors, &mut ()).expect("of the index's length");
    let stores = [MemoryStore::new(), MemoryStore::new()];
    let (mut by_code, mut by_vector) = (builder(1), builder(1));
    for ((&tid, vector), code) in rows.iter().zip(&quantized) {
        let code = code.as_ref().expect("as many as vectors");
        assert_eq!(by_code.add_quantized(code, &[], tid, 7).expect("added"), Added::Kept);
        assert_eq!(by_vector.add_with_key(vector, &[], tid, 7).expect("added"), Added::Kept);
    }
    for (builder, store) in [by_code, by_vector].into_iter().zip(&stores) {
        builder.finish(store, &mut ()).expect("built");
    }
    assert!(page_bytes(&stores[0]) == page_bytes(&stores[1]));
    let few = builder(3).quantize(&[None, Some(&[1.0][..])], &mut ());
    assert!(matches!(few, Err(HnswError::Dims { .. })), "{few:?}");
}

#[test]
fn deleted_rows_are_gone_and_recall_stays_after_vacuum() {
    for metric in Metric::ALL {
        let (store, mut rows) = (MemoryStore::new(), rows(4000, 5));
        build(&store, metric, &rows, 2);
        let dead: HashSet<HeapTid> =
            rows.keys().enumerate().filter(|(i, _)| i % 4 != 0).map(|(_, &tid)| tid).collect();
        let deleted = bulk_delete(&store, &mut |tid| dead.contains(&tid)).expect("deleted");
        assert_eq!((deleted.removed, deleted.remaining), (3000, 1000));
        rows.retain(|tid, _| !dead.contains(tid));
        assert_sound(&store, rows.len());
        let cleaned = cleanup(&store).expect("cleaned");
        assert_eq!(cleaned.nodes, 1000);
        let report = assert_sound(&store, rows.len());
        assert_eq!((report.dead_nodes, report.stale_links), (0, 0));
        let recall = recall(&store, metric, &rows, 100);
        assert!(recall >= 0.95, "{metric}: recall {recall}");
        let expected: Vec<HeapTid> = rows.keys().copied().collect();
        assert_eq!(all_rows(&store, &vectors(1, 8)[0]), expected);
    }
}

#[test]
fn freed_space_is_filled_again_when_no_scan_can_need_it() {
    let (store, rows) = (MemoryStore::new(), rows(1000, 6));
    build(&store, Metric::L2, &rows, 1);
    let before = store.page_count().expect("counted");
    let dead: HashSet<HeapTid> = rows.keys().copied().take(500).collect();
    bulk_delete(&store, &mut |tid| dead.contains(&tid)).expect("deleted");
    cleanup(&store).expect("cleaned");
    for &tid in &dead {
        insert(&store, &rows[&tid], tid).expect("inserted");
    }
    assert_sound(&store, rows.len());
    let after = store.page_count().expect("counted");
    assert!(after <= before + 2, "{before} pages, then {after}");
    assert!(recall(&store, Metric::L2, &rows, 60) >= 0.95);
}

#[test]
fn ten_thousand_equal_vectors_share_a_node() {
    let store = MemoryStore::new();
    create_empty(&store, params(Metric::L2)).expect("created");
    let vector = &vectors(1, 7)[0];
    for i in 0..5000 {
        insert(&store, vector, tid(i)).expect("inserted");
    }
    let report = assert_sound(&store, 5000);
    assert_eq!(report.nodes, 1);
    assert_eq!(all_rows(&store, vector).len(), 5000);
    bulk_delete(&store, &mut |tid| tid.offset % 2 == 0).expect("deleted");
    cleanup(&store).expect("cleaned");
    assert_sound(&store, 2500);
    assert_eq!(all_rows(&store, vector).len(), 2500);
    bulk_delete(&store, &mut |_| true).expect("deleted");
    cleanup(&store).expect("cleaned");
    assert_sound(&store, 0);
    assert!(all_rows(&store, vector).is_empty());
}

/// A graph linked by inner product had no way to a tenth of the vectors, those of small norm.
#[test]
fn vectors_of_different_norms_are_all_reachable() {
    let scaled: Rows = rows(3000, 40)
        .into_iter()
        .enumerate()
        .map(|(i, (tid, vector))| {
            let scale = 0.1 + (i % 17) as f32 / 4.0;
            (tid, vector.iter().map(|v| v * scale).collect())
        })
        .collect();
    for metric in Metric::ALL {
        let store = MemoryStore::new();
        build(&store, metric, &scaled, 2);
        let report = assert_sound(&store, scaled.len());
        assert_eq!(report.reachable, 3000, "{metric}: built");
        let recall = recall(&store, metric, &scaled, 100);
        assert!(recall >= 0.95, "{metric}: recall {recall}");
        let store = MemoryStore::new();
        create_empty(&store, params(metric)).expect("created");
        for (&tid, vector) in scaled.iter().take(1500) {
            insert(&store, vector, tid).expect("inserted");
        }
        let report = assert_sound(&store, 1500);
        assert!(report.reachable >= 1490, "{metric}: inserted, {} reachable", report.reachable);
    }
}

#[test]
fn a_scan_holds_no_more_pages_than_its_budget() {
    let (store, rows) = (MemoryStore::new(), rows(2000, 41));
    build(&store, Metric::L2, &rows, 1);
    store.set_pin_budget(3);
    assert!(recall(&store, Metric::L2, &rows, 60) >= 0.95);
    assert_eq!(all_rows(&store, &vectors(1, 42)[0]).len(), rows.len());
    insert(&store, &vectors(1, 43)[0], tid(90_000)).expect("inserted");
}

#[test]
fn rows_without_a_place_come_last_and_go_with_vacuum() {
    let (store, rows) = (MemoryStore::new(), rows(500, 44));
    let mut builder = Builder::new(params(Metric::Cosine), BuildOptions::default());
    for (&tid, vector) in &rows {
        assert_eq!(builder.add(vector, tid).expect("added"), Added::Kept);
    }
    for i in 0..300 {
        assert_eq!(builder.add_unplaced(tid(10_000 + i)), Added::Kept);
    }
    builder.finish(&store, &mut ()).expect("built");
    for i in 300..700 {
        insert_unplaced(&store, tid(10_000 + i)).expect("inserted");
    }
    let report = assert_sound(&store, 1200);
    assert_eq!((report.unplaced, info(&store).expect("counted").unplaced), (700, 700));
    let last_turns = || {
        let query = &vectors(1, 45)[0];
        let mut scan = Scan::open(&store, query, ScanOptions::default()).expect("opened");
        let mut turns = Vec::new();
        while let Some(hit) = scan.next().expect("scanned") {
            turns.push(hit.turn);
        }
        let placed = turns.iter().take_while(|&&turn| turn != Turn::Unplaced).count();
        assert!(turns[placed..].iter().all(|&turn| turn == Turn::Unplaced));
        (placed, turns.len() - placed)
    };
    assert_eq!(last_turns(), (500, 700));
    bulk_delete(&store, &mut |tid| tid.block >= 200 && tid.offset % 10 != 1).expect("deleted");
    cleanup(&store).expect("cleaned");
    assert_sound(&store, 570);
    assert_eq!(last_turns(), (500, 70));
    bulk_delete(&store, &mut |tid| tid.block >= 200).expect("deleted");
    cleanup(&store).expect("cleaned");
    assert_sound(&store, 500);
    insert_unplaced(&store, tid(20_000)).expect("inserted");
    assert_eq!(last_turns(), (500, 1));
}
