//! Failing writes, crashes and damaged pages.

use super::super::{
    Bm25Error, MergeExtent, Query, View, bulk_delete, check, cleanup, create, insert, merge,
};
use super::{BODY, inserted, number, params, random, search, sound, texts, tid};
use crate::page::{FaultStore, MemoryStore, PageStore};
use rand::Rng;
use std::sync::Arc;

/// Rows found through the index.
fn rows<S: PageStore + Send + Sync + 'static>(store: &Arc<S>) -> Vec<u32> {
    let mut rows: Vec<u32> = search(store, "*", 100_000).into_iter().map(|hit| hit.0).collect();
    rows.sort_unstable();
    rows
}

/// Runs `work` once for each of its writes, failing that write, and checks that the index is sound
/// afterwards, that the rows are those `expected` allows, and that the same work then succeeds.
fn fail_every_write(
    prepare: &dyn Fn() -> MemoryStore,
    work: &dyn Fn(&Arc<FaultStore>) -> Result<(), Bm25Error>,
    expected: &dyn Fn(&[u32]) -> bool,
) -> u64 {
    let base = prepare();
    let store = Arc::new(FaultStore::new(base.snapshot()));
    store.fail_at(u64::MAX);
    work(&store).expect("works without faults");
    let writes = store.writes();
    for nth in 0..writes {
        let store = Arc::new(FaultStore::new(base.snapshot()));
        store.fail_at(nth);
        work(&store).expect_err("the fault comes through");
        store.heal();
        sound(&store);
        let found = rows(&store);
        assert!(expected(&found), "write {nth}: {found:?}");
        work(&store).expect("works once healed");
        cleanup(&store).expect("cleans up");
        assert_eq!(sound(&store).lost_pages, 0, "write {nth}");
    }
    writes
}

#[test]
fn any_failing_write_leaves_the_old_rows_readable() {
    let texts = texts(11, 120);
    let base = || inserted(&texts, &params()).snapshot();
    let all: Vec<u32> = (0..120).collect();
    let long = "long ".repeat(10_000);
    let mut points = 0;
    points += fail_every_write(
        &base,
        &|store| insert(store, &[Some("another row")], tid(500)),
        &|found| found == all,
    );
    points += fail_every_write(&base, &|store| insert(store, &[Some(&long)], tid(500)), &|found| {
        found == all
    });
    points += fail_every_write(&base, &|store| merge(store, MergeExtent::Everything), &|found| {
        found == all
    });
    let segments = || {
        let store = inserted(&texts, &params());
        for at in 0..20 {
            insert(&store, &[Some(&texts[at as usize])], tid(200 + at)).expect("inserts");
            merge(&store, MergeExtent::Pending).expect("merges");
        }
        store.snapshot()
    };
    let more: Vec<u32> = (0..120).chain(200..220).collect();
    points +=
        fail_every_write(&segments, &|store| merge(store, MergeExtent::Everything), &|found| {
            found == more
        });
    let dead = |row: u32| row.is_multiple_of(2);
    points += fail_every_write(
        &segments,
        &|store| {
            bulk_delete(store, &mut |tid| dead(number(tid)))?;
            cleanup(store).map(|_| ())
        },
        &|found| {
            more.iter().filter(|row| !dead(**row)).all(|row| found.contains(row))
                && found.iter().all(|row| more.contains(row))
        },
    );
    assert!(points > 100, "{points} points of failure");
}

#[test]
fn every_prefix_of_writes_is_a_sound_index() {
    // A crash keeps a prefix of the commits: fail a write, and all after it.
    let texts = texts(12, 200);
    let run = |store: &Arc<FaultStore>| -> (u32, Result<(), Bm25Error>) {
        let mut committed = 0;
        let result = (|| {
            for (row, text) in (0..).zip(&texts) {
                insert(store, &[Some(text)], tid(row))?;
                committed = row + 1;
                if row % 60 == 59 {
                    merge(store, MergeExtent::Pending)?;
                }
            }
            merge(store, MergeExtent::Everything)
        })();
        (committed, result)
    };
    let fresh = || {
        let store = MemoryStore::new();
        create(&store, &params()).expect("creates");
        Arc::new(FaultStore::new(store))
    };
    let store = fresh();
    store.fail_at(u64::MAX);
    run(&store).1.expect("works without faults");
    let writes = store.writes();
    let mut random = random(12);
    for _ in 0..60 {
        let store = fresh();
        store.fail_at(random.random_range(0..writes));
        let (committed, result) = run(&store);
        result.expect_err("the fault comes through");
        let crashed = Arc::new(store.inner().snapshot());
        sound(&crashed);
        let found = rows(&crashed);
        assert!(found.len() as u32 >= committed, "{committed} rows, found {}", found.len());
        assert!(found.iter().zip(0..).all(|(&row, at)| row == at), "{found:?}");
        insert(&crashed, &[Some("after the crash")], tid(900)).expect("inserts");
        cleanup(&crashed).expect("cleans up");
        assert_eq!(sound(&crashed).lost_pages, 0);
    }
}

#[test]
fn any_flipped_bit_is_an_error_or_harmless() {
    let texts = texts(13, 400);
    let base = inserted(&texts, &params());
    merge(&base, MergeExtent::Everything).expect("merges");
    for at in 0..30 {
        insert(&base, &[Some(&texts[at as usize])], tid(600 + at)).expect("inserts");
    }
    bulk_delete(&base, &mut |tid| number(tid).is_multiple_of(50)).expect("deletes");
    insert(&base, &[Some("w0 pending")], tid(700)).expect("inserts");
    let expected = search(&base, "w0 w1 \"w1 w0\"", 50);
    let pages = base.page_count().expect("a count");
    let mut random = random(13);
    let flips = if std::env::var_os("DISTILFACE_FULL_TESTS").is_some() { 10_000 } else { 600 };
    let (mut errors, mut harmless) = (0, 0);
    for flip in 0..flips {
        let store = Arc::new(base.snapshot());
        let blkno = random.random_range(0..pages);
        let (at, bit) = (random.random_range(0..crate::page::PAGE_CONTENT), flip % 8);
        store.tamper(blkno, |page| page[at] ^= 1 << bit).expect("a page");
        let view = View::open(Arc::clone(&store), 0).map(Arc::new);
        let query = Query::parse("w0 w1 \"w1 w0\"").expect("parses");
        let found = view.and_then(|view| view.search(&query, BODY, 50));
        match found {
            Ok(hits) => {
                harmless += 1;
                let hits: Vec<(u32, f32)> =
                    hits.into_iter().map(|hit| (number(hit.tid), hit.score)).collect();
                assert_eq!(hits, expected, "page {blkno}, byte {at}, bit {bit}");
            }
            Err(Bm25Error::Page(_) | Bm25Error::Recycled(_)) => errors += 1,
            Err(error) => panic!("page {blkno}, byte {at}, bit {bit}: {error}"),
        }
        // Whatever is damaged, maintenance ends with an error or with success, never otherwise.
        let _ = check(&store).map(|report| report.problem_count);
        let _ = insert(&store, &[Some("w0")], tid(800));
        let _ = cleanup(&store);
    }
    assert!(errors > 0 && harmless > 0, "{errors} errors, {harmless} harmless");
}

#[test]
fn an_interrupt_ends_a_scan_and_a_merge() {
    let store = inserted(&texts(14, 9000), &params());
    store.interrupt(true);
    let error = merge(&store, MergeExtent::Everything).expect_err("interrupted");
    assert_eq!(error.to_string(), "interrupted");
    store.interrupt(false);
    let view = Arc::new(View::open(Arc::clone(&store), 0).expect("opens"));
    store.interrupt(true);
    let query = Query::parse("w0 w1 w2 w3 w4 w5 w6").expect("parses");
    let error = view.search(&query, BODY, 100_000).expect_err("interrupted");
    assert_eq!(error.to_string(), "interrupted");
}
