//! `WHERE body @@@ 'q'` and `ORDER BY body <@> 'q'`: rows of a view, with the query's keys combined
//! into one search.
//!
//! A scan holds neither pins nor locks between two rows. Heap visibility is the executor's: an MVCC
//! snapshot never sees a row that took a dead one's place after the scan began. Where a standby's
//! replay gives a page to others under a scan, it starts over on a new view and leaves out the rows
//! that it has returned.

use super::index::IndexRelation;
use super::query::BoundQuery;
use super::store::BackendStore;
use super::views::OpenView;
use super::{DISTANCE_BOUND, DISTANCE_TEXT, MATCH_BOUND, MATCH_TEXT, partitions, raise};
use crate::pg::executor::Opened;
use crate::pg::index_am::{begin_scan, item_pointer, keep_keys};
use crate::pg::limits::rows_wanted;
use crate::pg::report::Report;
use crate::pg::text::to_utf8;
use crate::pg::varlena::Plain;
use distilface_core::bm25::{
    Bm25Error, FIRST_BATCH, HeapTid, Prepared, Query, RankedScan, Scope, Unranked,
};
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use std::collections::HashSet;

/// Times that a scan starts over when pages are recycled under it, on a standby.
const ATTEMPTS: usize = 8;
/// Most rows that a scan's first round looks for, whatever the LIMIT.
const MOST_EXPECTED: usize = 16_384;

/// What a scan keeps in `opaque`.
struct State {
    phase: Phase,
    /// On a standby, the rows returned in order, for a scan that starts over.
    returned: HashSet<HeapTid>,
    /// The last distance returned: later ones are not below it.
    floor: f64,
    /// Lets the executor ask for a row's distance.
    open: Option<Opened>,
}

impl Default for State {
    fn default() -> Self {
        let (phase, returned) = (Phase::NotStarted, HashSet::new());
        Self { phase, returned, floor: f64::NEG_INFINITY, open: None }
    }
}

enum Phase {
    NotStarted,
    /// Rows that match, best first.
    Ranked {
        open: OpenView,
        scan: Box<RankedScan<BackendStore>>,
        rest: Rest,
    },
    /// Rows that do not match, after the ranked ones.
    Unranked {
        open: OpenView,
        scan: Box<RankedScan<BackendStore>>,
        rest: Rest,
        at: Unranked,
        tids: std::vec::IntoIter<HeapTid>,
    },
    /// Rows in no order.
    Listed {
        tids: std::vec::IntoIter<HeapTid>,
        distance: Distance,
    },
    Ended,
}

/// The rows that match no clause of the order.
enum Rest {
    /// There are none: what the scan is for is to match the order's query.
    None,
    /// All others.
    All(Distance),
    /// Those of the conditions.
    Of(Box<Prepared>, Distance),
}

impl Rest {
    fn distance(&self) -> Distance {
        match self {
            Self::None => Distance::None,
            Self::All(distance) | Self::Of(_, distance) => *distance,
        }
    }
}

/// What the executor is told of a listed row's distance.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Distance {
    /// There is no ORDER BY.
    None,
    /// At least 0; the executor finds out whether it is NULL.
    ZeroOrNull,
    /// 0, whatever the left operand is: the query looks into other columns as well.
    Zero,
    /// The query is NULL, and so is every distance.
    Null,
}

/// A key's query and column.
struct Key {
    query: Query,
    column: usize,
    /// The index that the planner bound the query to: this one or that of a partitioned table.
    bound: Option<pg_sys::Oid>,
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
        *(*scan).opaque.cast::<State>() = State::default();
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
        // SAFETY: as above; a scan that has an ORDER BY key asks for no others.
        unsafe {
            state.phase = start(scan, index);
            state.open = ((*scan).numberOfOrderBys == 1).then(|| Opened::new(scan));
        }
    }
    // SAFETY: a scan with an ORDER BY key has room for its value.
    unsafe {
        (*scan).xs_recheck = false;
        (*scan).xs_recheckorderby = false;
    }
    let mut attempt = 1;
    loop {
        // Out of the state while it runs: where an error unwinds, it is dropped right then.
        match std::mem::replace(&mut state.phase, Phase::Ended) {
            Phase::NotStarted | Phase::Ended => return false,
            Phase::Ranked { open, scan: mut ranked, rest } => {
                let attached = open.attach(index);
                let next = ranked.next();
                drop(attached);
                match next {
                    Ok(Some(hit)) => {
                        state.phase = Phase::Ranked { open, scan: ranked, rest };
                        if !state.is_new(hit.tid) {
                            continue;
                        }
                        state.floor = state.floor.max(-f64::from(hit.score));
                        // SAFETY: as above.
                        unsafe { emit(scan, hit.tid, Some(state.floor)) };
                        return true;
                    }
                    Ok(None) => {
                        let (at, tids) = (Unranked::default(), Vec::new().into_iter());
                        state.phase = Phase::Unranked { open, scan: ranked, rest, at, tids };
                    }
                    Err(error) => {
                        // SAFETY: as above.
                        state.phase = unsafe { start_over(scan, index, error, &mut attempt) };
                    }
                }
            }
            Phase::Unranked { open, scan: mut ranked, rest, mut at, mut tids } => {
                let Some(tid) = tids.next() else {
                    let attached = open.attach(index);
                    let more = match &rest {
                        Rest::None => return false,
                        Rest::All(_) => ranked.unranked(None, &mut at),
                        Rest::Of(filter, _) => ranked.unranked(Some(filter), &mut at),
                    };
                    drop(attached);
                    match more {
                        Ok(Some(more)) => {
                            let tids = more.into_iter();
                            state.phase = Phase::Unranked { open, scan: ranked, rest, at, tids };
                        }
                        Ok(None) => return false,
                        Err(error) => {
                            // SAFETY: as above.
                            state.phase = unsafe { start_over(scan, index, error, &mut attempt) };
                        }
                    }
                    continue;
                };
                let distance = rest.distance();
                state.phase = Phase::Unranked { open, scan: ranked, rest, at, tids };
                if state.is_new(tid) {
                    // SAFETY: as above.
                    unsafe { emit_unmatched(scan, tid, distance) };
                    return true;
                }
            }
            Phase::Listed { mut tids, distance } => {
                let Some(tid) = tids.next() else { return false };
                state.phase = Phase::Listed { tids, distance };
                // SAFETY: as above.
                unsafe { emit_unmatched(scan, tid, distance) };
                return true;
            }
        }
    }
}

impl State {
    /// Whether the scan has not returned the row before it started over.
    fn is_new(&mut self, tid: HeapTid) -> bool {
        // SAFETY: reads a flag of shared memory.
        !unsafe { pg_sys::RecoveryInProgress() } || self.returned.insert(tid)
    }
}

/// Searches again where a page was recycled under the scan, and ends the statement where that does
/// not help or something else is wrong.
unsafe fn start_over(
    scan: pg_sys::IndexScanDesc,
    index: IndexRelation,
    error: Bm25Error,
    attempt: &mut usize,
) -> Phase {
    if !matches!(error, Bm25Error::Recycled(_)) || *attempt == ATTEMPTS {
        raise(&index.name(), error)
    }
    *attempt += 1;
    // SAFETY: the caller's scan.
    unsafe { start(scan, index) }
}

unsafe fn emit_unmatched(scan: pg_sys::IndexScanDesc, tid: HeapTid, distance: Distance) {
    // SAFETY: the caller's scan, with an ORDER BY key unless there is no distance.
    unsafe {
        match distance {
            Distance::None => (*scan).xs_heaptid = item_pointer(tid),
            Distance::Null => emit(scan, tid, None),
            Distance::Zero => emit(scan, tid, Some(0.0)),
            Distance::ZeroOrNull => {
                emit(scan, tid, Some(0.0));
                (*scan).xs_recheckorderby = true;
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
    unsafe {
        let state = &mut *(*scan).opaque.cast::<State>();
        state.phase = Phase::Ended;
        state.open = None;
    }
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
    let first =
        rows_wanted(scan).map_or(FIRST_BATCH, |rows| (rows as usize).clamp(1, MOST_EXPECTED));
    let mut attempt = 1;
    loop {
        match search(index, &keys, first) {
            Ok(phase) => return phase,
            Err(Bm25Error::Recycled(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => raise(&index.name(), error),
        }
    }
}

/// `first` is how many rows a ranked scan looks for at first.
fn search(index: IndexRelation, keys: &Keys, first: usize) -> Result<Phase, Bm25Error> {
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
            // The same query as a condition adds nothing, and without it the search ends early.
            let is_same = |filter: &Key| filter.query == key.query && filter.column == key.column;
            let only_order = filters.iter().all(is_same);
            let conditions = if only_order { &[][..] } else { &scoped[..] };
            let prepared = Prepared::combined(&open.view, Some((&key.query, scope)), conditions)?;
            let together = partitions::statistics(key.bound, index, &prepared)?;
            let view = open.view.clone();
            let ranked = RankedScan::new(view, &prepared, first, together.as_deref())?;
            drop(attached);
            let others = prepared.all_columns().iter().any(|&other| other != key.column);
            let unmatched = if others { Distance::Zero } else { Distance::ZeroOrNull };
            let rest = match filter {
                None => Rest::All(unmatched),
                Some(_) if only_order => Rest::None,
                Some(filter) => Rest::Of(Box::new(filter), unmatched),
            };
            return Ok(Phase::Ranked { open, scan: Box::new(ranked), rest });
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
    let (text, bound) = unsafe {
        match key.sk_strategy {
            MATCH_TEXT | DISTANCE_TEXT => {
                let plain = Plain::from_datum(key.sk_argument);
                (to_utf8(plain.bytes().get(4..).unwrap_or(&[])).into_owned(), None)
            }
            MATCH_BOUND | DISTANCE_BOUND => {
                let query = BoundQuery::new(key.sk_argument);
                (query.text().into_owned(), Some(query.index()))
            }
            other => Report::new(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("index \"{}\" knows no strategy {other}", index.name()),
            )
            .raise(),
        }
    };
    let columns = index.columns();
    let names: Vec<&str> = columns.iter().map(String::as_str).collect();
    let query = index.check(parse(&text, key.sk_strategy, &names));
    Key { query, column, bound }
}

/// A condition has to be a query; an order takes whatever a user typed.
pub fn parse(text: &str, strategy: u16, columns: &[&str]) -> Result<Query, Bm25Error> {
    match strategy {
        MATCH_TEXT | MATCH_BOUND => Ok(Query::parse(text)?),
        _ => Ok(Query::lenient(text, columns)),
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
