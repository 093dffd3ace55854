//! `WHERE body @@@ 'q'` and `ORDER BY body <@> 'q'`: rows of a view, with the query's keys combined
//! into one search.
//!
//! A scan holds neither pins nor locks between two rows. Heap visibility is the executor's: an MVCC
//! snapshot never sees a row that took a dead one's place after the scan began.

use super::index::IndexRelation;
use super::query::BoundQuery;
use super::store::BackendStore;
use super::views::OpenView;
use super::{DISTANCE_BOUND, DISTANCE_TEXT, MATCH_BOUND, MATCH_TEXT, raise};
use crate::pg::index_am::{begin_scan, item_pointer, keep_keys};
use crate::pg::report::Report;
use crate::pg::text::to_utf8;
use crate::pg::varlena::Plain;
use distilface_core::bm25::{Bm25Error, FIRST_BATCH, HeapTid, Prepared, Query, RankedScan, Scope};
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;

/// Times that a scan starts over when pages are recycled under it, on a standby.
const ATTEMPTS: usize = 8;

/// What a scan keeps in `opaque`.
#[derive(Default)]
struct State {
    phase: Phase,
}

#[derive(Default)]
enum Phase {
    #[default]
    NotStarted,
    /// Rows that match, best first.
    Ranked {
        open: OpenView,
        scan: Box<RankedScan<BackendStore>>,
        filter: Option<Prepared>,
    },
    /// Rows in no order, or those after the ranked ones.
    Listed {
        tids: std::vec::IntoIter<HeapTid>,
        distance: Distance,
    },
    Ended,
}

/// What the executor is told of a listed row's distance.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Distance {
    /// There is no ORDER BY.
    None,
    /// At least 0; the executor finds out whether it is NULL.
    ZeroOrNull,
    /// The query is NULL, and so is every distance.
    Null,
}

/// A key's query and column.
struct Key {
    query: Query,
    column: usize,
}

/// A scan's keys, read.
enum Keys {
    /// A condition is NULL: no row.
    Nothing,
    Some {
        order: Order,
        filters: Vec<Key>,
    },
}

enum Order {
    None,
    Null,
    By(Key),
}

/// Prepares a scan.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambeginscan(
    index: pg_sys::Relation,
    nkeys: i32,
    norderbys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: PostgreSQL's own arguments. The state lives in the executor's context, which drops it
    // where an error skips `amendscan`.
    unsafe {
        let state = State::default();
        begin_scan(index, nkeys, norderbys, state)
    }
}

/// Starts a scan, or starts it again with other keys.
#[pg_guard]
pub unsafe extern "C-unwind" fn amrescan(
    scan: pg_sys::IndexScanDesc,
    keys: pg_sys::ScanKey,
    nkeys: i32,
    orderbys: pg_sys::ScanKey,
    norderbys: i32,
) {
    // SAFETY: PostgreSQL's own arguments; the arrays have the scan's counts of keys, and may be the
    // scan's own.
    unsafe {
        (*(*scan).opaque.cast::<State>()).phase = Phase::NotStarted;
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
    if let Phase::NotStarted = state.phase {
        // SAFETY: as above.
        state.phase = unsafe { start(scan, index) };
    }
    // SAFETY: a scan with an ORDER BY key has room for its value.
    unsafe {
        (*scan).xs_recheck = false;
        (*scan).xs_recheckorderby = false;
    }
    loop {
        // Out of the state while it runs: where an error unwinds, it is dropped right then.
        match std::mem::replace(&mut state.phase, Phase::Ended) {
            Phase::NotStarted | Phase::Ended => return false,
            Phase::Ranked { open, scan: mut ranked, filter } => {
                let _attached = open.attach(index);
                match index.check(ranked.next()) {
                    Some(hit) => {
                        state.phase = Phase::Ranked { open, scan: ranked, filter };
                        // SAFETY: as above.
                        unsafe { emit(scan, hit.tid, Some(-f64::from(hit.score))) };
                        return true;
                    }
                    None => {
                        let tids = index.check(ranked.unranked(filter.as_ref()));
                        let distance = Distance::ZeroOrNull;
                        state.phase = Phase::Listed { tids: tids.into_iter(), distance };
                    }
                }
            }
            Phase::Listed { mut tids, distance } => {
                let Some(tid) = tids.next() else { return false };
                state.phase = Phase::Listed { tids, distance };
                // SAFETY: as above.
                unsafe {
                    match distance {
                        Distance::None => (*scan).xs_heaptid = item_pointer(tid),
                        Distance::Null => emit(scan, tid, None),
                        Distance::ZeroOrNull => {
                            emit(scan, tid, Some(0.0));
                            (*scan).xs_recheckorderby = true;
                        }
                    }
                }
                return true;
            }
        }
    }
}

/// Puts all matching rows into a bitmap.
#[pg_guard]
pub unsafe extern "C-unwind" fn amgetbitmap(
    scan: pg_sys::IndexScanDesc,
    bitmap: *mut pg_sys::TIDBitmap,
) -> i64 {
    // SAFETY: PostgreSQL's own arguments.
    let phase = unsafe {
        let index = IndexRelation::new((*scan).indexRelation);
        start(scan, index)
    };
    let Phase::Listed { tids, .. } = phase else { return 0 };
    let mut items: Vec<_> = tids.map(item_pointer).collect();
    let count = items.len();
    for chunk in items.chunks_mut(1 << 16) {
        // SAFETY: the executor's bitmap, and an array of as many valid TIDs.
        unsafe { pg_sys::tbm_add_tuples(bitmap, chunk.as_mut_ptr(), chunk.len() as i32, false) };
    }
    count as i64
}

/// Ends a scan.
#[pg_guard]
pub unsafe extern "C-unwind" fn amendscan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: PostgreSQL's own argument; the executor's memory context drops the state itself.
    unsafe { (*(*scan).opaque.cast::<State>()).phase = Phase::Ended };
}

unsafe fn emit(scan: pg_sys::IndexScanDesc, tid: HeapTid, distance: Option<f64>) {
    // SAFETY: the caller's scan has an ORDER BY key, for which `ambeginscan` made room.
    unsafe {
        (*scan).xs_heaptid = item_pointer(tid);
        *(*scan).xs_orderbynulls = distance.is_none();
        *(*scan).xs_orderbyvals =
            distance.map_or(pg_sys::Datum::null(), |d| pg_sys::Datum::from(d.to_bits()));
    }
}

/// Reads the keys and searches, again where a standby recycles pages meanwhile.
unsafe fn start(scan: pg_sys::IndexScanDesc, index: IndexRelation) -> Phase {
    // SAFETY: the caller passes a scan with its keys.
    let keys = unsafe {
        require_mvcc(scan, index);
        read_keys(scan, index)
    };
    let mut attempt = 1;
    loop {
        match search(index, &keys) {
            Ok(phase) => return phase,
            Err(Bm25Error::Recycled(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => raise(&index.name(), error),
        }
    }
}

fn search(index: IndexRelation, keys: &Keys) -> Result<Phase, Bm25Error> {
    let Keys::Some { order, filters } = keys else { return Ok(Phase::Ended) };
    let open = OpenView::current(index);
    let attached = open.attach(index);
    let columns = index.columns();
    let names: Vec<&str> = columns.iter().map(String::as_str).collect();
    let defaults: Vec<[usize; 1]> = filters.iter().map(|key| [key.column]).collect();
    let scoped: Vec<(&Query, Scope<'_>)> = filters
        .iter()
        .zip(&defaults)
        .map(|(key, column)| (&key.query, Scope { names: &names, defaults: column }))
        .collect();
    let filter =
        if scoped.is_empty() { None } else { Some(Prepared::combined(&open.view, None, &scoped)?) };
    let distance = match order {
        Order::None => Distance::None,
        Order::Null => Distance::Null,
        Order::By(key) => {
            let scope = Scope { names: &names, defaults: &[key.column] };
            let prepared = Prepared::combined(&open.view, Some((&key.query, scope)), &scoped)?;
            let ranked = RankedScan::new(open.view.clone(), &prepared, FIRST_BATCH)?;
            drop(attached);
            return Ok(Phase::Ranked { open, scan: Box::new(ranked), filter });
        }
    };
    let mut tids = Vec::new();
    let filter = match filter {
        Some(filter) => filter,
        None => {
            let scope = Scope { names: &names, defaults: &[0] };
            Prepared::new(&open.view, &Query::everything(), scope)?
        }
    };
    open.view.matches(&filter, &mut |tid| tids.push(tid))?;
    drop(attached);
    Ok(Phase::Listed { tids: tids.into_iter(), distance })
}

unsafe fn read_keys(scan: pg_sys::IndexScanDesc, index: IndexRelation) -> Keys {
    // SAFETY: the arrays have as many initialized keys as the scan says.
    let (keys, orders) = unsafe {
        (
            slice((*scan).keyData, (*scan).numberOfKeys),
            slice((*scan).orderByData, (*scan).numberOfOrderBys),
        )
    };
    let mut filters = Vec::with_capacity(keys.len());
    for key in keys {
        if is_null(key) {
            return Keys::Nothing;
        }
        // SAFETY: a non-null key of one of the operator class's operators.
        filters.push(unsafe { read_key(key, index) });
    }
    let order = match orders {
        [] => Order::None,
        [key] if is_null(key) => Order::Null,
        // SAFETY: as above.
        [key] => Order::By(unsafe { read_key(key, index) }),
        _ => Report::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("index \"{}\" can be scanned by one ORDER BY distance only", index.name()),
        )
        .hint("One query can name several columns: title:a OR body:b.")
        .raise(),
    };
    Keys::Some { order, filters }
}

fn is_null(key: &pg_sys::ScanKeyData) -> bool {
    key.sk_flags & pg_sys::SK_ISNULL as i32 != 0
}

unsafe fn slice<'a>(keys: pg_sys::ScanKey, count: i32) -> &'a [pg_sys::ScanKeyData] {
    match usize::try_from(count) {
        // SAFETY: the caller passes an array of that many keys.
        Ok(count) if count > 0 && !keys.is_null() => unsafe {
            std::slice::from_raw_parts(keys, count)
        },
        _ => &[],
    }
}

unsafe fn read_key(key: &pg_sys::ScanKeyData, index: IndexRelation) -> Key {
    let column = usize::try_from(key.sk_attno - 1).unwrap_or(0);
    // SAFETY: the strategy tells the argument's type, and the argument is not null.
    let text = unsafe {
        match key.sk_strategy {
            MATCH_TEXT | DISTANCE_TEXT => {
                let plain = Plain::from_datum(key.sk_argument);
                to_utf8(plain.bytes().get(4..).unwrap_or(&[])).into_owned()
            }
            MATCH_BOUND | DISTANCE_BOUND => BoundQuery::new(key.sk_argument).text().into_owned(),
            other => Report::new(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("index \"{}\" knows no strategy {other}", index.name()),
            )
            .raise(),
        }
    };
    let query = index.check(parse(&text, key.sk_strategy));
    Key { query, column }
}

/// A condition has to be a query; an order takes whatever a user typed.
pub fn parse(text: &str, strategy: u16) -> Result<Query, Bm25Error> {
    match strategy {
        MATCH_TEXT | MATCH_BOUND => Ok(Query::parse(text)?),
        _ => Ok(Query::lenient(text)),
    }
}

unsafe fn require_mvcc(scan: pg_sys::IndexScanDesc, index: IndexRelation) {
    // SAFETY: null or PostgreSQL's own snapshot; a bitmap scan's snapshot is set as well.
    let mvcc = unsafe {
        let snapshot = (*scan).xs_snapshot;
        !snapshot.is_null()
            && matches!(
                (*snapshot).snapshot_type,
                pg_sys::SnapshotType::SNAPSHOT_MVCC | pg_sys::SnapshotType::SNAPSHOT_HISTORIC_MVCC
            )
    };
    if !mvcc {
        Report::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("index \"{}\" can be scanned with an MVCC snapshot only", index.name()),
        )
        .raise()
    }
}
