//! Pages: recycling, long rows, snapshots, concurrency.

use super::super::{
    Bm25Error, MergeExtent, Prepared, Query, RankedScan, View, bulk_delete, cleanup, insert, merge,
};
use super::{BODY, inserted, number, params, search, sound, texts, tid};
use crate::page::{MemoryStore, PageStore};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[test]
fn long_rows_and_nulls_are_found() {
    let store = Arc::new(MemoryStore::new());
    super::create(&*store, &params()).expect("creates");
    let long = format!("start {} finish", "filler ".repeat(50_000));
    insert(&store, &[Some("short start")], tid(0)).expect("inserts");
    insert(&store, &[Some(&long)], tid(1)).expect("inserts");
    insert(&store, &[None], tid(2)).expect("inserts");
    insert(&store, &[Some("")], tid(3)).expect("inserts");
    for _ in 0..2 {
        assert_eq!(search(&store, "finish", 5).iter().map(|hit| hit.0).collect::<Vec<_>>(), [1]);
        assert_eq!(search(&store, "start", 5).len(), 2);
        let report = sound(&store);
        assert_eq!((report.live_rows, report.lost_pages), (4, 0));
        merge(&store, MergeExtent::Everything).expect("merges");
    }
}

#[test]
fn freed_pages_are_used_again() {
    let texts = texts(2, 3000);
    let store = inserted(&texts, &params());
    merge(&store, MergeExtent::Everything).expect("merges");
    let settled = store.page_count().expect("a count");
    for round in 0..10 {
        for (at, text) in (0..).zip(&texts) {
            insert(&store, &[Some(text)], tid(10_000 * (round + 1) + at)).expect("inserts");
        }
        let keep = 10_000 * (round + 1);
        bulk_delete(&store, &mut |tid| number(tid) < keep).expect("deletes");
        cleanup(&store).expect("cleans up");
        assert_eq!(sound(&store).lost_pages, 0);
    }
    let grown = store.page_count().expect("a count");
    assert!(grown <= settled * 4, "{settled} pages became {grown}");
    assert_eq!(sound(&store).live_rows, 3000);
}

#[test]
fn an_open_scan_survives_merges_and_vacuum() {
    let texts = texts(3, 1500);
    let store = inserted(&texts, &params());
    let view = Arc::new(View::open(Arc::clone(&store), 0).expect("opens"));
    let prepared =
        Prepared::new(&view, &Query::parse("w0 w1").expect("parses"), BODY).expect("compiles");
    let expected = view.search(&Query::parse("w0 w1").expect("parses"), BODY, 5000).expect("all");
    let mut scan = RankedScan::new(Arc::clone(&view), &prepared, 8, None).expect("starts");
    store.hold_reuse(true);
    let mut got = vec![scan.next().expect("goes on").expect("a first row")];
    bulk_delete(&store, &mut |tid| number(tid).is_multiple_of(2)).expect("deletes");
    cleanup(&store).expect("cleans up");
    merge(&store, MergeExtent::Everything).expect("merges");
    for at in 0..500 {
        insert(&store, &[Some("w0 fresh")], tid(90_000 + at)).expect("inserts");
    }
    while let Some(hit) = scan.next().expect("goes on") {
        got.push(hit);
    }
    got.sort_by_key(|hit| hit.tid);
    let mut expected = expected;
    expected.sort_by_key(|hit| hit.tid);
    let tids = |hits: &[super::super::Hit]| hits.iter().map(|hit| hit.tid).collect::<Vec<_>>();
    assert_eq!(tids(&got), tids(&expected));
    sound(&store);
}

#[test]
fn a_recycled_page_is_noticed_and_a_new_view_is_right() {
    let texts = texts(4, 1500);
    let store = inserted(&texts, &params());
    merge(&store, MergeExtent::Everything).expect("merges");
    let view = Arc::new(View::open(Arc::clone(&store), 0).expect("opens"));
    // As on a standby: pages are reused under the scan.
    for at in 0..3000 {
        insert(&store, &[Some(&texts[at as usize % 1500])], tid(50_000 + at)).expect("inserts");
        if at % 500 == 0 {
            merge(&store, MergeExtent::Everything).expect("merges");
        }
    }
    let query = Query::parse("w0 w1 w2").expect("parses");
    match view.search(&query, BODY, 10) {
        Err(Bm25Error::Recycled(_)) => {}
        other => panic!("{other:?}"),
    }
    let view = Arc::new(view.renew().expect("renews").expect("the index has changed"));
    assert_eq!(view.search(&query, BODY, 10).expect("searches").len(), 10);
    assert_eq!(view.docs(), 4500);
}

#[test]
fn a_view_notices_changes_and_keeps_what_is_still_true() {
    let store = inserted(&texts(8, 300), &params());
    let view = View::open(Arc::clone(&store), 1 << 20).expect("opens");
    assert!(view.is_current().expect("reads"));
    insert(&store, &[Some("fresh")], tid(9000)).expect("inserts");
    assert!(!view.is_current().expect("reads"));
    let view = Arc::new(view.renew().expect("renews").expect("the index has changed"));
    let hits = view.search(&Query::parse("fresh").expect("parses"), BODY, 5).expect("searches");
    assert_eq!(hits.len(), 1);
}

#[test]
fn inserts_scans_merges_and_vacuum_go_on_at_once() {
    let store = Arc::new(MemoryStore::new());
    super::create(&*store, &params()).expect("creates");
    let rows = 6000_u32;
    let (done, next) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let row = next.fetch_add(1, Ordering::SeqCst);
                        if row >= rows {
                            break;
                        }
                        let text = format!("all row{row} w{}", row % 7);
                        insert(&store, &[Some(&text)], tid(row)).expect("inserts");
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    // Without snapshots, as on a standby: a page may be recycled under the scan.
                    let view = Arc::new(View::open(Arc::clone(&store), 0).expect("opens"));
                    let query = Query::parse("all w3").expect("parses");
                    match view.search(&query, BODY, 20) {
                        Ok(hits) => assert!(hits.len() <= 20),
                        Err(Bm25Error::Recycled(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                bulk_delete(&store, &mut |tid| number(tid) % 10 == 9).expect("deletes");
                cleanup(&store).expect("cleans up");
            }
        });
        for writer in writers {
            writer.join().expect("writes");
        }
        done.store(true, Ordering::SeqCst);
    });
    bulk_delete(&store, &mut |tid| number(tid) % 10 == 9).expect("deletes");
    cleanup(&store).expect("cleans up");
    let report = sound(&store);
    assert_eq!(report.live_rows, u64::from(rows) * 9 / 10);
    assert_eq!(report.lost_pages, 0);
    for row in (0..rows).filter(|row| row % 10 != 9).step_by(97) {
        let hits = search(&store, &format!("row{row}"), 5);
        assert_eq!(hits.iter().map(|hit| hit.0).collect::<Vec<_>>(), [row]);
    }
}
