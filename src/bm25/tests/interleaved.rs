//! One thread's reads with another's writes in between, at every page read in turn.
//!
//! A race that a loop of threads meets once in ten runs happens here each time: the store runs the
//! other side's work when this side is about to take its `n`-th page or to begin a transaction, for
//! every `n`.

use super::super::{
    Bm25Error, MergeExtent, Query, View, bulk_delete, check, cleanup, create, insert, merge,
};
use super::{BODY, inserted, number, params, search, size, sound, texts, tid};
use crate::page::{BlockNumber, LockMode, MemoryStore, PageError, PageStore, UpdateLock, Wait};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type Work = Box<dyn FnMut(&Arc<MemoryStore>) + Send>;

/// A store on memory that runs `work` before chosen steps of its own user. Like a standby it
/// lets freed pages be used again at once.
struct Interleaved {
    inner: Arc<MemoryStore>,
    /// What runs, and before which steps.
    work: Mutex<(Work, Before)>,
    steps: AtomicU64,
    /// Whether the user holds the lock that the work's inserts would wait for.
    inserts_wait: Arc<AtomicBool>,
}

struct InsertsWait<'s> {
    _lock: UpdateLock<'s>,
    flag: Arc<AtomicBool>,
}

impl Drop for InsertsWait<'_> {
    fn drop(&mut self) {
        self.flag.store(false, Ordering::SeqCst);
    }
}

#[derive(Clone, Copy)]
enum Before {
    Nth(u64),
    EachUpTo(u64),
}

impl Interleaved {
    fn new(inner: MemoryStore, before: Before, work: Work) -> Arc<Self> {
        let work = Mutex::new((work, before));
        Arc::new(Self {
            inner: Arc::new(inner),
            work,
            steps: AtomicU64::new(0),
            inserts_wait: Arc::default(),
        })
    }

    fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    fn step(&self) {
        let nth = self.steps.fetch_add(1, Ordering::SeqCst);
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match work.1 {
            Before::Nth(chosen) => nth == chosen,
            Before::EachUpTo(last) => nth <= last,
        };
        if now && !self.inserts_wait.load(Ordering::SeqCst) {
            (work.0)(&self.inner);
        }
    }
}

impl PageStore for Interleaved {
    type Pin<'s> = <MemoryStore as PageStore>::Pin<'s>;
    type Txn<'s> = <MemoryStore as PageStore>::Txn<'s>;

    fn page_count(&self) -> Result<BlockNumber, PageError> {
        self.inner.page_count()
    }

    fn pin(&self, blkno: BlockNumber) -> Result<Self::Pin<'_>, PageError> {
        self.step();
        self.inner.pin(blkno)
    }

    fn begin(&self) -> Result<Self::Txn<'_>, PageError> {
        self.step();
        self.inner.begin()
    }

    fn lock_updates(&self, mode: LockMode) -> Result<UpdateLock<'_>, PageError> {
        let lock = self.inner.lock_updates(mode)?;
        if mode == LockMode::Shared {
            return Ok(lock);
        }
        self.inserts_wait.store(true, Ordering::SeqCst);
        let flag = Arc::clone(&self.inserts_wait);
        Ok(UpdateLock::held(InsertsWait { _lock: lock, flag }))
    }

    fn lock_maintenance(&self, wait: Wait) -> Result<Option<UpdateLock<'_>>, PageError> {
        self.inner.lock_maintenance(wait)
    }

    fn check_interrupts(&self) -> Result<(), PageError> {
        self.inner.check_interrupts()
    }
}

/// The rows found by `query` in a view that is taken while `work` runs; nothing where the scan has
/// to start over.
fn scan(store: &Arc<Interleaved>, query: &str) -> Option<BTreeSet<u32>> {
    let view = Arc::new(View::open(Arc::clone(store), 0).expect("opens"));
    let query = Query::parse(query).expect("parses");
    match view.search(&query, BODY, 100_000) {
        Ok(hits) => Some(hits.into_iter().map(|hit| number(hit.tid)).collect()),
        Err(Bm25Error::Recycled(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_scan_follows_the_pending_list_while_it_grows_and_its_pages_come_back() {
    // Counted once: pages of the list against pages of the index, which grew meanwhile. A scan of
    // a short list in a small index, with busy writers, took that for a cycle.
    let store = MemoryStore::new();
    create(&store, &params()).expect("creates");
    let store = Arc::new(store);
    for row in 0..3 {
        insert(&store, &[Some(&format!("all {}", "filler ".repeat(900)))], tid(row)).expect("fits");
    }
    for (merging, last) in [(false, 200), (true, 6)] {
        let mut next = 100;
        let work = move |store: &Arc<MemoryStore>| {
            for _ in 0..3 {
                let text = format!("all {}", "filler ".repeat(900));
                insert(store, &[Some(&text)], tid(next)).expect("inserts");
                next += 1;
            }
            if merging {
                merge(store, MergeExtent::Pending).expect("merges");
            }
        };
        let store = Interleaved::new(store.snapshot(), Before::EachUpTo(last), Box::new(work));
        if let Some(found) = scan(&store, "all") {
            assert!(found.is_superset(&BTreeSet::from([0, 1, 2])), "{found:?}");
        }
        sound(&store.inner);
    }
}

#[test]
fn a_scan_is_right_whatever_runs_between_two_of_its_page_reads() {
    let rows = texts(21, 150);
    let base = inserted(&rows, &params());
    merge(&base, MergeExtent::Everything).expect("merges");
    for row in 150..260 {
        insert(&base, &[Some(&format!("w0 {}", "w1 ".repeat(200)))], tid(row)).expect("inserts");
    }
    let kept = |row: u32| !row.is_multiple_of(5);
    let works: [fn(&Arc<MemoryStore>); 3] = [
        |store| merge(store, MergeExtent::Pending).expect("merges"),
        |store| {
            bulk_delete(store, &mut |tid| number(tid).is_multiple_of(5)).expect("deletes");
            cleanup(store).expect("cleans up");
        },
        |store| {
            // Frees the pages of the list and of the segment and fills them again.
            merge(store, MergeExtent::Everything).expect("merges");
            for row in 0..150 {
                let text = format!("other {}", "straw ".repeat(300));
                insert(store, &[Some(&text)], tid(5000 + row)).expect("inserts");
            }
            merge(store, MergeExtent::Everything).expect("merges");
        },
    ];
    let quiet = Interleaved::new(base.snapshot(), Before::Nth(u64::MAX), Box::new(|_| ()));
    let before = scan(&quiet, "w0 w1").expect("nothing is recycled");
    let living: BTreeSet<u32> = before.iter().copied().filter(|&row| kept(row)).collect();
    let (mut restarts, mut scans) = (0, 0);
    for work in works {
        for nth in (0..quiet.steps()).step_by(size(3, 1) as usize) {
            let store = Interleaved::new(base.snapshot(), Before::Nth(nth), Box::new(work));
            scans += 1;
            match scan(&store, "w0 w1") {
                Some(found) => {
                    assert!(found.is_superset(&living), "read {nth}: {found:?}");
                    assert!(found.is_subset(&before), "read {nth}: {found:?}");
                }
                None => restarts += 1,
            }
        }
    }
    assert!(restarts > 0 && restarts < scans, "{restarts} of {scans} scans started over");
}

#[test]
fn a_check_finds_nothing_wrong_whatever_is_inserted_meanwhile() {
    let base = inserted(&texts(22, 100), &params());
    merge(&base, MergeExtent::Everything).expect("merges");
    for (row, text) in (100..).zip(texts(23, 600)) {
        insert(&base, &[Some(&text)], tid(row)).expect("inserts");
    }
    // The list's pages are free from here on, and the next inserts take them.
    merge(&base, MergeExtent::Pending).expect("merges");
    let quiet = Interleaved::new(base.snapshot(), Before::Nth(u64::MAX), Box::new(|_| ()));
    sound(&quiet);
    for nth in 0..quiet.steps().min(40) {
        let mut row = 1000;
        let work = move |store: &Arc<MemoryStore>| {
            for _ in 0..20 {
                insert(store, &[Some(&"long ".repeat(300))], tid(row)).expect("inserts");
                row += 1;
            }
        };
        let store = Interleaved::new(base.snapshot(), Before::Nth(nth), Box::new(work));
        let report = check(&store).expect("checks");
        assert!(report.is_ok(), "read {nth}: {:?}", report.problems);
        assert_eq!(report.lost_pages, 0, "read {nth}");
    }
}

#[test]
fn a_row_is_kept_whatever_happens_to_the_pending_list_while_it_is_inserted() {
    // An insert that adds to the page which it took for the last one, when a merge has closed that page
    // and read it, loses its row.
    let base = inserted(&texts(24, 30), &params());
    fn grow(store: &Arc<MemoryStore>, from: u32) {
        for row in from..from + 60 {
            insert(store, &[Some(&"straw ".repeat(300))], tid(row)).expect("inserts");
        }
    }
    let works: [fn(&Arc<MemoryStore>); 3] = [
        |store| merge(store, MergeExtent::Pending).expect("merges"),
        |store| grow(store, 1000),
        |store| {
            // The page becomes another one's, and may be the list's last again.
            for from in [1000, 2000, 3000] {
                grow(store, from);
                merge(store, MergeExtent::Everything).expect("merges");
            }
        },
    ];
    let needle = "needle ".repeat(5);
    let long = "needle ".repeat(4000);
    for text in [&needle, &long] {
        let quiet = Interleaved::new(base.snapshot(), Before::Nth(u64::MAX), Box::new(|_| ()));
        insert(&quiet, &[Some(text)], tid(777)).expect("inserts");
        assert!(quiet.steps() > 1);
        for work in works {
            for nth in 0..quiet.steps() {
                let store = Interleaved::new(base.snapshot(), Before::Nth(nth), Box::new(work));
                insert(&store, &[Some(text)], tid(777)).expect("inserts");
                for _ in 0..2 {
                    let found = search(&store.inner, "needle", 10);
                    let rows: Vec<u32> = found.into_iter().map(|(row, _)| row).collect();
                    assert_eq!(rows, [777], "step {nth}");
                    sound(&store.inner);
                    merge(&store.inner, MergeExtent::Pending).expect("merges");
                }
            }
        }
    }
}
