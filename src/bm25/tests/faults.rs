//! Failing writes, crashes and damaged pages.

use super::super::{
    Bm25Error, MergeExtent, Query, View, bulk_delete, check, cleanup, create, insert, merge,
};
use super::{BODY, inserted, number, params, random, search, size, sound, texts, tid};
use crate::page::{
    BlockNumber, FaultStore, LockMode, MemoryStore, PageError, PageStore, UpdateLock, Wait,
};
use rand::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    let flips = size(400, 10_000);
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

/// How an operation is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Error,
    Panic,
    Cancel,
}

/// A store on memory that stops its user at the `n`-th of its steps: a page read, the beginning of a
/// change, a look at the interrupt flag.
struct Stopping {
    inner: MemoryStore,
    steps: AtomicU64,
    at: u64,
    how: Stop,
}

impl Stopping {
    fn new(inner: MemoryStore, at: u64, how: Stop) -> Arc<Self> {
        Arc::new(Self { inner, steps: AtomicU64::new(0), at, how })
    }

    fn step(&self) -> Result<(), PageError> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        match self.how {
            _ if step != self.at => Ok(()),
            Stop::Error => Err(PageError::Injected(step)),
            Stop::Cancel => Err(PageError::Interrupted),
            Stop::Panic => resume_unwind(Box::new("stopped")),
        }
    }
}

impl PageStore for Stopping {
    type Pin<'s> = <MemoryStore as PageStore>::Pin<'s>;
    type Txn<'s> = <MemoryStore as PageStore>::Txn<'s>;

    fn page_count(&self) -> Result<BlockNumber, PageError> {
        self.inner.page_count()
    }

    fn pin(&self, blkno: BlockNumber) -> Result<Self::Pin<'_>, PageError> {
        self.step()?;
        self.inner.pin(blkno)
    }

    fn begin(&self) -> Result<Self::Txn<'_>, PageError> {
        self.step()?;
        self.inner.begin()
    }

    fn lock_updates(&self, mode: LockMode) -> Result<UpdateLock<'_>, PageError> {
        self.step()?;
        self.inner.lock_updates(mode)
    }

    fn lock_maintenance(&self, wait: Wait) -> Result<Option<UpdateLock<'_>>, PageError> {
        self.step()?;
        self.inner.lock_maintenance(wait)
    }

    fn check_interrupts(&self) -> Result<(), PageError> {
        self.step()?;
        self.inner.check_interrupts()
    }
}

type Operation = fn(&Arc<Stopping>) -> Result<(), Bm25Error>;

#[test]
fn an_error_a_panic_or_a_cancel_at_any_step_leaves_no_lock_and_a_sound_index() {
    let texts = texts(15, 150);
    let base = inserted(&texts, &params());
    for at in 0..20 {
        insert(&base, &[Some(&texts[at as usize])], tid(200 + at)).expect("inserts");
        merge(&base, MergeExtent::Pending).expect("merges");
    }
    insert(&base, &[Some("w0 pending")], tid(300)).expect("inserts");
    let operations: [(&str, Operation); 6] = [
        ("insert", |store| insert(store, &[Some("another")], tid(500))),
        ("long insert", |store| insert(store, &[Some(&"long ".repeat(4000))], tid(500))),
        ("merge", |store| merge(store, MergeExtent::Everything)),
        ("delete", |store| {
            bulk_delete(store, &mut |tid| number(tid).is_multiple_of(2)).map(|_| ())
        }),
        ("vacuum", |store| cleanup(store).map(|_| ())),
        ("search", |store| {
            let view = Arc::new(View::open(Arc::clone(store), 0)?);
            let query = Query::parse("w0 w1 \"w1 w0\" w2*").expect("parses");
            view.search(&query, BODY, 1000).map(|_| ())
        }),
    ];
    let mut points = 0;
    for (name, operation) in operations {
        let whole = Stopping::new(base.snapshot(), u64::MAX, Stop::Error);
        operation(&whole).unwrap_or_else(|error| panic!("{name}: {error}"));
        let steps = whole.steps.load(Ordering::SeqCst);
        let stride = (steps / size(25, 1000)).max(1) as usize;
        for at in (0..steps).step_by(stride) {
            for how in [Stop::Error, Stop::Panic, Stop::Cancel] {
                points += 1;
                let store = Stopping::new(base.snapshot(), at, how);
                let stopped = catch_unwind(AssertUnwindSafe(|| operation(&store)));
                assert_eq!(stopped.is_err(), how == Stop::Panic, "{name}, step {at}");
                // A lock that is still held would keep these waiting for ever.
                insert(&store, &[Some("the next row")], tid(900)).expect("inserts");
                merge(&store, MergeExtent::Pending).expect("merges");
                cleanup(&store).expect("cleans up");
                assert_eq!(sound(&store).lost_pages, 0, "{name}, step {at}, {how:?}");
                assert_eq!(search(&store, "next", 5).len(), 1, "{name}, step {at}, {how:?}");
            }
        }
    }
    assert!(points >= 200, "{points} points");
}

#[test]
fn hand_made_cycles_and_wild_links_are_errors() {
    use super::super::layout::{Header, Kind};
    // Links with a valid checksum, as a bug would write them: to the page itself, to the metapage, to
    // any other page, past the end.
    let base = inserted(&texts(16, 500), &params());
    merge(&base, MergeExtent::Everything).expect("merges");
    for at in 0..400 {
        insert(&base, &[Some(&"pending ".repeat(60))], tid(1000 + at)).expect("inserts");
    }
    let pages = base.page_count().expect("a count");
    let (mut refused, mut links) = (0, 0);
    for blkno in 1..pages {
        for target in [blkno, 0, 1, pages / 2, pages - 1, pages, u32::MAX - 1] {
            for owner in [0_u64, 1, 2, u64::MAX] {
                let store = Arc::new(base.snapshot());
                let mut linked = false;
                let change = |page: &mut [u8]| {
                    if let Ok(mut header) = Header::read(blkno, page)
                        && matches!(header.kind, Kind::Pending | Kind::Map | Kind::Overflow)
                    {
                        (header.next, header.next_owner) = (target, owner);
                        header.seal(page);
                        linked = true;
                    }
                };
                store.tamper(blkno, change).expect("a page");
                if !linked {
                    continue;
                }
                links += 1;
                let view = View::open(Arc::clone(&store), 0).map(Arc::new);
                let query = Query::parse("w0 pending").expect("parses");
                refused += u32::from(view.and_then(|view| view.search(&query, BODY, 5)).is_err());
                // Each ends, with an error or without.
                let _ = check(&store).map(|report| report.problem_count);
                let _ = insert(&store, &[Some("w0")], tid(5000));
                let _ = cleanup(&store);
            }
        }
    }
    assert!(links > 100 && refused > 20, "{refused} of {links} links refused");
}
