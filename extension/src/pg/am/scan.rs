//! `ORDER BY e <=> q`: rows in ascending order of a lower bound; the executor makes the order exact.
//!
//! A scan holds neither pins nor locks between two rows, so an open cursor keeps nobody waiting and
//! an error leaves nothing behind.

use super::explain::Work;
use super::filter::{Decides, FilterColumns};
use super::index::IndexRelation;
use super::raise;
use super::similarity::UNDEFINED_FIRST;
use super::vectors::Source;
use crate::guc;
use crate::pg::buffers::{Logging, SharedBuffers};
use crate::pg::executor::Opened;
use crate::pg::index_am::{begin_scan, item_pointer, keep_keys};
use crate::pg::limits::rows_wanted;
use crate::pg::report::Report;
use distilface_core::hnsw::{self, Iterative, Ranking, Scan, ScanOptions, Turn, UnplacedRows};
use distilface_core::page::PageStore;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;

/// What a scan keeps in `opaque`.
struct State {
    /// Lets the executor ask for a row's distance, where the index is on text.
    open: Option<Opened>,
    /// Borrows `store`, so it goes first.
    scan: Option<Scan<'static, SharedBuffers>>,
    store: *mut SharedBuffers,
    /// What the executor is told of each row's distance.
    claim: Claim,
    /// What it is told of a row that has no distance; `None` is NULL.
    unplaced: Option<f64>,
    /// Who decides whether a row meets the scan's clauses.
    decides: Decides,
    /// What its scans did that have ended.
    work: Work,
    phase: Phase,
}

impl State {
    /// Ends the scan under way, if there is one.
    fn end(&mut self) {
        if let Some(scan) = self.scan.take() {
            self.work.add(scan.stats());
        }
    }
}

/// What the scans of a descriptor did, the one under way included.
///
/// # Safety
/// The descriptor is one that [`ambeginscan`] made and that has not ended.
#[cfg(feature = "pg18")]
pub unsafe fn work(scan: pg_sys::IndexScanDesc) -> Work {
    // SAFETY: the caller's promise.
    let state = unsafe { &*(*scan).opaque.cast::<State>() };
    let mut work = state.work;
    if let Some(scan) = &state.scan {
        work.add(scan.stats());
    }
    work
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    NotStarted,
    Running,
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// The lower bound that the index has; the executor computes the distance itself.
    LowerBound,
    /// The distance of the index's code: to compute a text's own would mean to embed it again.
    Distance,
    /// The query is NULL, and so is every distance.
    Null,
    /// The query has no direction, and every distance is NaN.
    Nan,
}

impl Drop for State {
    fn drop(&mut self) {
        self.scan = None;
        // SAFETY: made by `Box::into_raw` in `ambeginscan`; the scan that borrowed it is gone.
        drop(unsafe { Box::from_raw(self.store) });
    }
}

/// Prepares a scan.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambeginscan(
    index: pg_sys::Relation,
    nkeys: i32,
    norderbys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: PostgreSQL's own arguments; the index stays open until the scan has ended. The state
    // lives in the executor's context, which drops it where an error skips `amendscan`.
    unsafe {
        let store = IndexRelation::new(index).store(Logging::Generic);
        let state = State {
            open: None,
            scan: None,
            store: Box::into_raw(Box::new(store)),
            claim: Claim::LowerBound,
            unplaced: None,
            decides: Decides::Index,
            work: Work::default(),
            phase: Phase::NotStarted,
        };
        begin_scan(index, nkeys, norderbys, state)
    }
}

/// Starts a scan, or starts it again with another query.
#[pg_guard]
pub unsafe extern "C-unwind" fn amrescan(
    scan: pg_sys::IndexScanDesc,
    keys: pg_sys::ScanKey,
    nkeys: i32,
    orderbys: pg_sys::ScanKey,
    norderbys: i32,
) {
    // SAFETY: PostgreSQL's own arguments; both arrays have the scan's count of ORDER BY keys, and
    // may be the same one.
    unsafe {
        let state = &mut *(*scan).opaque.cast::<State>();
        state.end();
        state.phase = Phase::NotStarted;
        keep_keys(scan, keys, nkeys, orderbys, norderbys);
    }
}

/// Gives the next row; false when there are no more.
#[pg_guard]
pub unsafe extern "C-unwind" fn amgettuple(
    scan: pg_sys::IndexScanDesc,
    _direction: pg_sys::ScanDirection::Type,
) -> bool {
    // SAFETY: PostgreSQL's own argument, with the state that `ambeginscan` put there.
    let (index, state) = unsafe {
        (IndexRelation::new((*scan).indexRelation), &mut *(*scan).opaque.cast::<State>())
    };
    if state.phase == Phase::NotStarted {
        // SAFETY: as above.
        unsafe { start(scan, index, state) };
    }
    // Out of the state while it runs: where an error unwinds, it is dropped right then, while its
    // pins know that the transaction's end releases them.
    let Some(mut running) = state.scan.take() else { return false };
    let next = running.next().unwrap_or_else(|error| raise(&index, error));
    state.scan = Some(running);
    let Some(hit) = next else {
        state.end();
        state.phase = Phase::Ended;
        return false;
    };
    // SAFETY: the scan has one ORDER BY key, for which `ambeginscan` made room.
    unsafe {
        (*scan).xs_heaptid = item_pointer(hit.heap_tid);
        // Rows without a vector have no filter columns in the index.
        (*scan).xs_recheck = state.decides == Decides::Executor
            || hit.turn == Turn::Unplaced && (*scan).numberOfKeys > 0;
        (*scan).xs_recheckorderby = matches!(state.claim, Claim::LowerBound | Claim::Nan);
        let bound = match state.claim {
            _ if hit.turn == Turn::Unplaced => state.unplaced,
            Claim::LowerBound | Claim::Distance => Some(f64::from(hit.lower_bound)),
            Claim::Nan => Some(f64::NAN),
            Claim::Null => None,
        };
        *(*scan).xs_orderbynulls = bound.is_none();
        *(*scan).xs_orderbyvals =
            bound.map_or(pg_sys::Datum::null(), |b| pg_sys::Datum::from(b.to_bits()));
    }
    true
}

/// Ends a scan.
#[pg_guard]
pub unsafe extern "C-unwind" fn amendscan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: PostgreSQL's own argument; the executor's memory context drops the state itself.
    unsafe {
        let state = &mut *(*scan).opaque.cast::<State>();
        state.end();
        state.open = None;
        state.work.publish((*(*scan).indexRelation).rd_id);
    }
}

unsafe fn start(scan: pg_sys::IndexScanDesc, index: IndexRelation, state: &mut State) {
    // SAFETY: the caller passes a scan with its state; `orderByData` has `numberOfOrderBys` keys.
    let (orders, key, mvcc) = unsafe {
        let snapshot = (*scan).xs_snapshot;
        ((*scan).numberOfOrderBys, (*scan).orderByData, is_mvcc(snapshot))
    };
    if orders != 1 {
        Report::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("index \"{}\" can be scanned by one ORDER BY distance only", index.name()),
        )
        .raise()
    }
    if !mvcc {
        Report::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("index \"{}\" can be scanned with an MVCC snapshot only", index.name()),
        )
        .raise()
    }
    state.phase = Phase::Running;
    // SAFETY: the store is freed after the scan that borrows it, see `State::drop`.
    let store: &'static SharedBuffers = unsafe { &*state.store };
    if store.page_count().unwrap_or_else(|error| raise(&index, error.into())) == 0 {
        state.phase = Phase::Ended;
        return;
    }
    let source = Source::of(index, store);
    // SAFETY: the key is initialized; its argument is the query, of the column's type, and outlives
    // this call.
    let (query, is_null) = unsafe {
        if (*key).sk_flags & pg_sys::SK_ISNULL as i32 != 0 {
            (None, true)
        } else {
            (source.query((*key).sk_argument, (*key).sk_subtype), false)
        }
    };
    let claim = match (&query, source) {
        (Some(_), Source::Vectors(_)) => Claim::LowerBound,
        (Some(_), Source::Text(..)) => Claim::Distance,
        // The distance from a blank text is NULL, as the text's vector is.
        (None, Source::Text(..)) => Claim::Null,
        (None, Source::Vectors(_)) if is_null => Claim::Null,
        (None, Source::Vectors(_)) => Claim::Nan,
    };
    let query = query.unwrap_or_else(|| {
        let params = hnsw::read_params(store).unwrap_or_else(|error| raise(&index, error));
        any_direction(params.dims())
    });
    // SAFETY: as above.
    let undefined_first = unsafe { (*key).sk_strategy } == UNDEFINED_FIRST;
    state.unplaced = match source {
        _ if undefined_first => Some(f64::NEG_INFINITY),
        // NaN is no more than what the executor computes: NaN for a zero vector, NULL for NULL.
        Source::Vectors(_) => Some(f64::NAN),
        Source::Text(..) => None,
    };
    let options = ScanOptions {
        unplaced: if undefined_first { UnplacedRows::First } else { UnplacedRows::Last },
        ef_search: u32::try_from(guc::EF_SEARCH.get()).unwrap_or(1),
        iterative: match guc::ITERATIVE_SCAN.get() {
            guc::IterativeScan::strict_order => Iterative::StrictOrder,
            guc::IterativeScan::relaxed_order => Iterative::RelaxedOrder,
            guc::IterativeScan::off => Iterative::Off,
        },
        max_scan_tuples: u64::try_from(guc::MAX_SCAN_TUPLES.get()).unwrap_or(0),
        ranking: match source {
            Source::Vectors(_) => Ranking::LowerBound,
            Source::Text(..) => Ranking::Codes,
        },
        expected_rows: rows_wanted(scan).unwrap_or(0),
    };
    if matches!(source, Source::Text(..)) {
        // SAFETY: the scan has one ORDER BY key; its state goes with it.
        state.open.get_or_insert_with(|| unsafe { Opened::new(scan) });
    }
    // SAFETY: the scan has `numberOfKeys` keys, which `amrescan` kept.
    let wanted = unsafe {
        let (keys, count) = ((*scan).keyData, (*scan).numberOfKeys as usize);
        let keys = if count == 0 { &[] } else { std::slice::from_raw_parts(keys, count) };
        FilterColumns::of(index).wanted(keys)
    };
    state.decides = wanted.decides;
    state.claim = claim;
    let opened = match wanted.filter {
        Some(filter) => Scan::open_filtered(store, &query, options, filter),
        None => Scan::open(store, &query, options),
    };
    state.scan = Some(opened.unwrap_or_else(|error| raise(&index, error)));
}

/// A query that no row is nearer to than the claim says, for queries without a place.
fn any_direction(dims: usize) -> Vec<f32> {
    let mut query = vec![0.0; dims];
    query[0] = 1.0;
    query
}

unsafe fn is_mvcc(snapshot: pg_sys::Snapshot) -> bool {
    // SAFETY: null or PostgreSQL's own snapshot.
    unsafe {
        !snapshot.is_null()
            && matches!(
                (*snapshot).snapshot_type,
                pg_sys::SnapshotType::SNAPSHOT_MVCC | pg_sys::SnapshotType::SNAPSHOT_HISTORIC_MVCC
            )
    }
}
