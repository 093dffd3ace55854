//! Inserts, scans and vacuum at once. The page store's locks are real ones, and a deadlock would
//! hang the test.

use crate::common::*;
use distilface_core::hnsw::*;
use distilface_core::page::{BlockNumber, LockMode, MemoryStore, PageError, PageStore, UpdateLock};
use distilface_core::vector::Metric;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[test]
fn rows_inserted_by_many_threads_at_once_are_all_found() {
    let (store, rows) = (MemoryStore::new(), rows(2400, 11));
    create_empty(&store, params(Metric::L2)).expect("created");
    let all: Vec<_> = rows.iter().collect();
    std::thread::scope(|scope| {
        for part in all.chunks(all.len() / 8) {
            let store = &store;
            scope.spawn(move || {
                for &(&tid, vector) in part {
                    insert(store, vector, tid).expect("inserted");
                }
            });
        }
    });
    assert_sound(&store, rows.len());
    assert!(recall(&store, Metric::L2, &rows, 60) >= 0.95);
    // Each row is the nearest to itself.
    let options = ScanOptions::default();
    let found = rows
        .iter()
        .filter(|&(&tid, vector)| search(&store, Metric::L2, &rows, vector, 1, options) == [tid])
        .count();
    assert!(found as f64 >= 0.997 * rows.len() as f64, "{found} of {} found", rows.len());
}

#[test]
fn equal_rows_inserted_by_many_threads_are_kept_once_each() {
    let store = MemoryStore::new();
    create_empty(&store, params(Metric::Cosine)).expect("created");
    let vectors = vectors(3, 12);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (store, vectors) = (&store, &vectors);
            scope.spawn(move || {
                for i in 0..300 {
                    let number = thread * 300 + i;
                    insert(store, &vectors[number as usize % 3], tid(number)).expect("inserted");
                }
            });
        }
    });
    assert_sound(&store, 1800);
    assert_eq!(all_rows(&store, &vectors[0]).len(), 1800);
}

/// The first rows of an empty index, which find no entry point and race to make one: other rows come
/// in before each of an insert's transactions in turn.
#[test]
fn first_rows_inserted_at_once_are_all_kept() {
    let [vector, other] = &vectors(2, 20)[..] else { unreachable!("two vectors") };
    for nth in 0.. {
        let inner = MemoryStore::new();
        create_empty(&inner, params(Metric::Cosine)).expect("created");
        let store =
            Interrupted { inner, begun: AtomicU32::new(0), nth, others: [other, vector, vector] };
        insert(&store, vector, tid(0)).expect("inserted");
        let rows = if store.begun.into_inner() > nth { 4 } else { 1 };
        assert_sound(&store.inner, rows);
        assert_eq!(all_rows(&store.inner, vector).len(), rows, "before transaction {nth}");
        if rows == 1 {
            assert!(nth > 0, "an insert begins a transaction");
            return;
        }
    }
}

/// Rows 1 to 3 go in when the `nth` transaction is about to begin.
struct Interrupted<'v> {
    inner: MemoryStore,
    begun: AtomicU32,
    nth: u32,
    others: [&'v [f32]; 3],
}

impl PageStore for Interrupted<'_> {
    type Pin<'s>
        = <MemoryStore as PageStore>::Pin<'s>
    where
        Self: 's;
    type Txn<'s>
        = <MemoryStore as PageStore>::Txn<'s>
    where
        Self: 's;

    fn page_count(&self) -> Result<BlockNumber, PageError> {
        self.inner.page_count()
    }

    fn pin(&self, blkno: BlockNumber) -> Result<Self::Pin<'_>, PageError> {
        self.inner.pin(blkno)
    }

    fn begin(&self) -> Result<Self::Txn<'_>, PageError> {
        if self.begun.fetch_add(1, Ordering::Relaxed) == self.nth {
            for (vector, number) in self.others.iter().zip(1..) {
                insert(&self.inner, vector, tid(number)).expect("inserted");
            }
        }
        self.inner.begin()
    }

    fn check_interrupts(&self) -> Result<(), PageError> {
        self.inner.check_interrupts()
    }
}

/// An insert is held where it has chosen its neighbors, until a vacuum asks to wait for it or is through.
#[test]
fn vacuum_lets_nodes_go_after_the_inserts_that_may_have_chosen_them() {
    let inner = MemoryStore::new();
    let rows = rows(200, 21);
    build(&inner, Metric::L2, &rows, 1);
    let store = Watched { inner, moments: Mutex::default(), moved: Condvar::new() };
    let vector = &vectors(1, 22)[0];
    let near = exact(Metric::L2, &rows, vector, 1)[0];
    std::thread::scope(|scope| {
        scope.spawn(|| insert(&store, vector, tid(1000)).expect("inserted"));
        store.wait_for(&["insert has its neighbors"]);
        bulk_delete(&store.inner, &mut |tid| tid == near).expect("deleted");
        scope.spawn(|| {
            cleanup(&store).expect("cleaned");
            store.note("cleanup ended");
        });
    });
    let moments = store.moments.into_inner();
    let at = |moment| moments.iter().position(|&m| m == moment).expect("it came");
    // The last moment of an insert that holds its lock.
    assert!(at("insert promotes") < at("cleanup listed the dead"), "{moments:?}");
    assert_sound(&store.inner, 200);
}

/// Notes the moments that are passed. An insert that has chosen its neighbors goes on when a vacuum asks
/// for the lock, or is through.
struct Watched {
    inner: MemoryStore,
    moments: Mutex<Vec<&'static str>>,
    moved: Condvar,
}

impl Watched {
    fn note(&self, moment: &'static str) {
        self.moments.lock().push(moment);
        self.moved.notify_all();
    }

    fn wait_for(&self, one_of: &[&str]) {
        let mut moments = self.moments.lock();
        while !moments.iter().any(|moment| one_of.contains(moment)) {
            self.moved.wait(&mut moments);
        }
    }
}

impl PageStore for Watched {
    type Pin<'s>
        = <MemoryStore as PageStore>::Pin<'s>
    where
        Self: 's;
    type Txn<'s>
        = <MemoryStore as PageStore>::Txn<'s>
    where
        Self: 's;

    fn page_count(&self) -> Result<BlockNumber, PageError> {
        self.inner.page_count()
    }

    fn pin(&self, blkno: BlockNumber) -> Result<Self::Pin<'_>, PageError> {
        self.inner.pin(blkno)
    }

    fn begin(&self) -> Result<Self::Txn<'_>, PageError> {
        self.inner.begin()
    }

    fn check_interrupts(&self) -> Result<(), PageError> {
        self.inner.check_interrupts()
    }

    fn lock_updates(&self, mode: LockMode) -> Result<UpdateLock<'_>, PageError> {
        if mode == LockMode::Exclusive {
            self.note("cleanup asks to wait");
        }
        self.inner.lock_updates(mode)
    }

    fn failpoint(&self, moment: &'static str) -> Result<(), PageError> {
        self.note(moment);
        if moment == "insert has its neighbors" {
            self.wait_for(&["cleanup asks to wait", "cleanup ended"]);
        }
        Ok(())
    }
}

#[test]
fn vacuum_beside_inserts_and_scans_loses_no_live_row() {
    let (store, first) = (MemoryStore::new(), rows(2000, 13));
    build(&store, Metric::L2, &first, 2);
    let later: Vec<(HeapTid, Vec<f32>)> = vectors(1500, 14)
        .into_iter()
        .enumerate()
        .map(|(i, vector)| (tid(100_000 + i as u32), vector))
        .collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let inserters: Vec<_> = later
            .chunks(500)
            .map(|part| {
                let store = &store;
                scope.spawn(move || {
                    for (tid, vector) in part {
                        insert(store, vector, *tid).expect("inserted");
                    }
                })
            })
            .collect();
        let (store, stop) = (&store, &stop);
        scope.spawn(move || {
            let queries = vectors(20, 15);
            while !stop.load(Ordering::Relaxed) {
                for query in &queries {
                    let mut scan =
                        Scan::open(store, query, ScanOptions::default()).expect("opened");
                    for _ in 0..30 {
                        scan.next().expect("scanned").expect("more rows than these");
                    }
                }
            }
        });
        // A tenth of the first rows goes in each round; the entry point will be among them.
        for round in 0..10 {
            let number = |tid: HeapTid| tid.block * 50 + u32::from(tid.offset) - 1;
            let dead = |tid| number(tid) < 100_000 && number(tid) % 10 == round && round < 9;
            bulk_delete(store, &mut |tid| dead(tid)).expect("deleted");
            cleanup(store).expect("cleaned");
        }
        for inserter in inserters {
            inserter.join().expect("no panic");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut rows: Rows = first;
    rows.retain(|tid, _| (tid.block * 50 + u32::from(tid.offset) - 1) % 10 == 9);
    rows.extend(later);
    assert_sound(&store, rows.len());
    let expected: Vec<HeapTid> = rows.keys().copied().collect();
    assert_eq!(all_rows(&store, &vectors(1, 16)[0]), expected);
    assert!(recall(&store, Metric::L2, &rows, 100) >= 0.95);
}

#[test]
fn a_scan_that_meets_refilled_slots_hands_out_only_what_is_there() {
    let (store, rows) = (MemoryStore::new(), rows(1200, 17));
    build(&store, Metric::L2, &rows, 1);
    let query = &vectors(1, 18)[0];
    let mut scan = Scan::open(&store, query, ScanOptions::default()).expect("opened");
    for _ in 0..20 {
        scan.next().expect("scanned").expect("a row");
    }
    // Everything goes and comes back elsewhere, as a standby's scan may see it.
    let dead: HashSet<HeapTid> = rows.keys().copied().filter(|tid| tid.block % 2 == 0).collect();
    bulk_delete(&store, &mut |tid| dead.contains(&tid)).expect("deleted");
    cleanup(&store).expect("cleaned");
    for (i, vector) in vectors(600, 19).iter().enumerate() {
        insert(&store, vector, tid(500_000 + i as u32)).expect("inserted");
    }
    let mut seen = HashSet::new();
    while let Some(hit) = scan.next().expect("scanned") {
        seen.insert(hit.heap_tid);
    }
    let live = rows.keys().filter(|tid| tid.block % 2 == 1).count();
    let found = seen.iter().filter(|tid| tid.block % 2 == 1 && tid.block < 100).count();
    assert!(found >= live - 20, "{found} of {live} live rows");
}

#[test]
fn a_build_by_many_threads_leaves_no_part_of_the_graph_aside() {
    let misses = |rows: &Rows, threads| {
        let store = MemoryStore::new();
        build(&store, Metric::L2, rows, threads);
        let options = ScanOptions { iterative: Iterative::Off, ..ScanOptions::default() };
        let find = |vector| search(&store, Metric::L2, rows, vector, 1, options);
        rows.iter().filter(|&(&tid, vector)| find(vector) != [tid]).count()
    };
    // A small graph of which one node in 128 leads down to level 0: many nodes are linked while such a
    // one is.
    for seed in 0..15 {
        let rows = rows(500, seed);
        assert_eq!(misses(&rows, 1), 0, "seed {seed}, one thread");
        assert_eq!(misses(&rows, 4), 0, "seed {seed}, four threads");
    }
}
