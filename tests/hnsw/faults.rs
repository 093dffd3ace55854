//! Writes that fail, pages that rot, operations that are canceled.

use crate::common::*;
use distilface_core::hnsw::*;
use distilface_core::page::{FaultStore, MemoryStore, PAGE_CONTENT, PageError, PageStore};
use distilface_core::vector::Metric;
use rand::prelude::*;
use std::collections::HashSet;

/// 1 for the short run, more under `make reliability`.
fn effort() -> u64 {
    std::env::var("DISTILFACE_EFFORT").ok().and_then(|effort| effort.parse().ok()).unwrap_or(1)
}

/// Runs `change` on copies of `before` with each of its writes failing in turn, and `check` on
/// what each leaves behind. Gives the number of writes.
fn fail_each_write(
    before: &MemoryStore,
    step: u64,
    change: impl Fn(&FaultStore) -> Result<(), HnswError>,
    check: impl Fn(&MemoryStore),
) -> u64 {
    let mut nth = 0;
    loop {
        let store = FaultStore::new(before.snapshot());
        store.fail_at(nth);
        match change(&store) {
            Ok(()) => return nth,
            Err(HnswError::Page(PageError::Injected(_))) => check(store.inner()),
            Err(error) => panic!("write {nth} failed, which gave: {error}"),
        }
        // What failed once works afterwards.
        store.heal();
        nth += step;
    }
}

#[test]
fn a_failed_write_of_an_insert_leaves_every_old_row() {
    let (store, rows) = (MemoryStore::new(), rows(300, 21));
    build(&store, Metric::L2, &rows, 1);
    let new = vectors(60, 22);
    let old: Vec<HeapTid> = rows.keys().copied().collect();
    let writes = fail_each_write(
        &store,
        1 + 9 / effort(),
        |store| {
            for (i, vector) in new.iter().enumerate() {
                insert(store, vector, tid(1000 + i as u32))?;
            }
            Ok(())
        },
        |store| {
            let report = check(store).expect("readable");
            assert!(report.is_ok(), "{:#?}", report.violations);
            let found = all_rows(store, &new[0]);
            assert!(old.iter().all(|tid| found.binary_search(tid).is_ok()));
            insert(store, &new[0], tid(2000)).expect("the next insert works");
        },
    );
    assert!(writes > 500, "{writes} writes");
}

#[test]
fn a_failed_write_of_vacuum_leaves_every_live_row() {
    let (store, mut rows) = (MemoryStore::new(), rows(400, 23));
    build(&store, Metric::L2, &rows, 1);
    // Some nodes have postings to be compacted.
    let twins = vectors(1, 24);
    for i in 0..150 {
        insert(&store, &twins[0], tid(5000 + i)).expect("inserted");
        rows.insert(tid(5000 + i), twins[0].clone());
    }
    let dead: HashSet<HeapTid> = rows.keys().copied().filter(|tid| tid.offset % 3 == 0).collect();
    let live: Vec<HeapTid> = rows.keys().copied().filter(|tid| !dead.contains(tid)).collect();
    let vacuum = |store: &FaultStore| {
        bulk_delete(store, &mut |tid| dead.contains(&tid))?;
        cleanup(store).map(|_| ())
    };
    let writes = fail_each_write(&store, 1 + 6 / effort(), vacuum, |store| {
        let report = check(store).expect("readable");
        assert!(report.is_ok(), "{:#?}", report.violations);
        let found = all_rows(store, &twins[0]);
        assert!(live.iter().all(|tid| found.binary_search(tid).is_ok()));
        // The next vacuum finishes what this one began.
        bulk_delete(store, &mut |tid| dead.contains(&tid)).expect("deleted");
        cleanup(store).expect("cleaned");
        assert_eq!(all_rows(store, &twins[0]), live);
        let report = check(store).expect("readable");
        assert!(report.is_ok() && report.dead_nodes == 0, "{:#?}", report.violations);
    });
    assert!(writes > 300, "{writes} writes");
}

#[test]
fn a_failed_write_of_a_build_leaves_an_empty_index() {
    let rows = rows(600, 25);
    let writes = fail_each_write(
        &MemoryStore::new(),
        1,
        |store| {
            let mut builder = Builder::new(params(Metric::L2), BuildOptions::default());
            for (&tid, vector) in &rows {
                assert_eq!(builder.add(vector, tid)?, Added::Kept);
            }
            builder.finish(store, &mut ()).map(|_| ())
        },
        |store| {
            if store.page_count().expect("counted") > 0
                && let Ok(report) = check(store)
            {
                assert!(report.is_ok() && report.nodes == 0, "{:#?}", report.violations);
                assert!(all_rows(store, &vectors(1, 1)[0]).is_empty());
            }
        },
    );
    assert!(writes > 30, "{writes} writes");
}

#[test]
fn flipped_bits_give_errors_and_never_a_panic_or_an_endless_loop() {
    let (store, rows) = (MemoryStore::new(), rows(300, 26));
    build(&store, Metric::L2, &rows, 1);
    for i in 0..100 {
        insert(&store, &vectors(1, 27)[0], tid(9000 + i)).expect("inserted");
    }
    let pages = store.page_count().expect("counted");
    let mut rng = StdRng::seed_from_u64(28);
    let queries = vectors(4, 29);
    for flip in 0..400 * effort() {
        let store = store.snapshot();
        for _ in 0..rng.random_range(1..20) {
            // Headers of pages and slots are where a flip does most.
            let at = match rng.random_range(0..3) {
                0 => rng.random_range(0..48),
                1 => 32 + rng.random_range(0..15) * 528 + rng.random_range(0..112),
                _ => rng.random_range(0..PAGE_CONTENT),
            };
            let bit = 1u8 << rng.random_range(0..8);
            let blkno = rng.random_range(0..pages);
            store.tamper(blkno, |page| page[at.min(PAGE_CONTENT - 1)] ^= bit).expect("a page");
        }
        let query = &queries[flip as usize % 4];
        if let Ok(mut scan) = Scan::open(&store, query, ScanOptions::default()) {
            let mut rows = 0;
            while let Ok(Some(_)) = scan.next() {
                rows += 1;
                assert!(rows < 100_000, "an endless scan");
            }
        }
        let _ = insert(&store, query, tid(1));
        let _ = bulk_delete(&store, &mut |tid| tid.offset % 2 == 0);
        let _ = cleanup(&store);
        let _ = check(&store);
        let _ = info(&store);
    }
}

#[test]
fn every_operation_stops_when_canceled() {
    let (store, rows) = (MemoryStore::new(), rows(1000, 30));
    let mut builder = Builder::new(params(Metric::L2), BuildOptions::default());
    for (&tid, vector) in &rows {
        assert_eq!(builder.add(vector, tid).expect("added"), Added::Kept);
    }
    store.interrupt(true);
    let interrupted = |result: Result<(), HnswError>| {
        assert!(matches!(result, Err(HnswError::Page(PageError::Interrupted))), "{result:?}");
    };
    interrupted(builder.finish(&store, &mut ()).map(|_| ()));
    let store = MemoryStore::new();
    build(&store, Metric::L2, &rows, 2);
    store.interrupt(true);
    let vector = &vectors(1, 31)[0];
    interrupted(insert(&store, vector, tid(5000)).map(|_| ()));
    interrupted(bulk_delete(&store, &mut |_| false).map(|_| ()));
    let options = ScanOptions { ef_search: 100, ..ScanOptions::default() };
    let mut scan = Scan::open(&store, vector, options).expect("opened");
    interrupted(scan.next().map(|_| ()));
    store.interrupt(false);
    assert_sound(&store, rows.len());
}

/// One planted fault of each kind, to show that the verifier sees it.
#[test]
fn the_verifier_reports_planted_faults() {
    let (store, rows) = (MemoryStore::new(), rows(300, 32));
    build(&store, Metric::L2, &rows, 1);
    assert_sound(&store, rows.len());
    // Offsets as `docs/on-disk-format.md` has them, for 128 dimensions and m = 8.
    const PAGE: u32 = 2;
    const SLOT: usize = 40;
    let plant = |name: &str, expected: &str, change: &dyn Fn(&mut [u8])| {
        let store = store.snapshot();
        store.tamper(PAGE, change).expect("a page");
        let report = check(&store).expect("readable");
        let found = report.violations.iter().any(|text| text.contains(expected));
        assert!(found, "{name}: {:#?}", report.violations);
    };
    plant("link out of range", "out of range", &|page| {
        page[SLOT + 32..SLOT + 36].copy_from_slice(&0x00ff_ffffu32.to_le_bytes());
    });
    plant("link twice", "twice on level 0", &|page| {
        page.copy_within(SLOT + 32..SLOT + 36, SLOT + 36);
    });
    plant("heap TID twice", "is there twice", &|page| {
        page.copy_within(SLOT + 4..SLOT + 10, SLOT + 528 + 4);
    });
    plant("level without links", "links on 0 upper levels", &|page| page[SLOT + 2] = 3);
    plant("slot state", "a slot's state", &|page| page[SLOT] = 77);
    plant("page", "a node page", &|page| page[0] = 0);
    plant("no heap TID", "live without a heap TID", &|page| page[SLOT + 4..SLOT + 10].fill(0));
    plant("scale", "scale is", &|page| {
        page[SLOT + 20..SLOT + 24].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let store = store.snapshot();
    store.tamper(0, |page| page[16..20].copy_from_slice(&9_999u32.to_le_bytes())).expect("a page");
    let report = check(&store).expect("readable");
    assert!(report.violations.iter().any(|text| text.contains("entry point")));
}
