//! What both access methods do alike between PostgreSQL's callbacks and the core crate.

use distilface_core::page::HeapTid;
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};
use std::ffi::CStr;

/// An open relation's name, for messages.
///
/// # Safety
/// `relation` is open.
pub unsafe fn relation_name(relation: pg_sys::Relation) -> String {
    // SAFETY: an open relation's catalog row is there, its name NUL-terminated.
    unsafe { CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}

/// Whether an access method's oid is that of the one so called.
pub fn is_access_method(am: pg_sys::Oid, name: &CStr) -> bool {
    // SAFETY: reads the catalog's caches; the name is palloc'd or null.
    unsafe {
        let found = pg_sys::get_am_name(am);
        !found.is_null() && CStr::from_ptr(found) == name
    }
}

/// A heap TID in the core crate's form.
pub fn heap_tid(tid: pg_sys::ItemPointerData) -> HeapTid {
    let (block, offset) = pgrx::itemptr::item_pointer_get_both(tid);
    HeapTid { block, offset }
}

/// A heap TID in PostgreSQL's form.
pub fn item_pointer(tid: HeapTid) -> pg_sys::ItemPointerData {
    let mut out = pg_sys::ItemPointerData::default();
    pgrx::itemptr::item_pointer_set_all(&mut out, tid.block, tid.offset);
    out
}

/// One entry of an access method's table of options.
pub fn option(
    name: &'static CStr,
    kind: pg_sys::relopt_type::Type,
    offset: usize,
) -> pg_sys::relopt_parse_elt {
    // PostgreSQL 18 has one field more.
    #[allow(clippy::needless_update)]
    pg_sys::relopt_parse_elt {
        optname: name.as_ptr(),
        opttype: kind,
        offset: offset as i32,
        ..Default::default()
    }
}

/// Parses and checks the options of `CREATE INDEX` and `ALTER INDEX` into a `T`.
///
/// # Safety
/// `reloptions` is what PostgreSQL passed to `amoptions`; `table` describes the fields of `T`, which
/// begins with a length word.
pub unsafe fn parse_options<T>(
    reloptions: pg_sys::Datum,
    validate: bool,
    kind: pg_sys::relopt_kind::Type,
    table: &[pg_sys::relopt_parse_elt],
) -> *mut pg_sys::bytea {
    // SAFETY: the caller's promise.
    unsafe {
        let (entries, count) = (table.as_ptr(), table.len() as i32);
        pg_sys::build_reloptions(reloptions, validate, kind, size_of::<T>(), entries, count).cast()
    }
}

/// Share of the table's rows that an index path's clauses let through.
///
/// # Safety
/// Both are the planner's own.
pub unsafe fn clauses_selectivity(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
) -> f64 {
    // SAFETY: the caller's promise.
    unsafe {
        let clauses = pg_sys::get_quals_from_indexclauses((*path).indexclauses);
        let relid = (*(*(*path).indexinfo).rel).relid as i32;
        let (inner, no_join) = (pg_sys::JoinType::JOIN_INNER, std::ptr::null_mut());
        pg_sys::clauselist_selectivity(root, clauses, relid, inner, no_join)
    }
}

/// What a page of a tablespace costs, (read at random, read in sequence).
pub fn page_costs(tablespace: pg_sys::Oid) -> (f64, f64) {
    let (mut random, mut sequential) = (0.0, 0.0);
    // SAFETY: reads the catalog's caches and settings into both places.
    unsafe { pg_sys::get_tablespace_page_costs(tablespace, &mut random, &mut sequential) };
    (random, sequential)
}

/// A scan that keeps `state` in `opaque`, with room for the ORDER BY values. The state lives in the
/// executor's context, which drops it where an error skips `amendscan`.
///
/// # Safety
/// The arguments are those of `ambeginscan`.
pub unsafe fn begin_scan<T>(
    index: pg_sys::Relation,
    nkeys: i32,
    norderbys: i32,
    state: T,
) -> pg_sys::IndexScanDesc {
    // SAFETY: the caller's promise; the allocations have an entry for each ORDER BY key.
    unsafe {
        let scan = pg_sys::RelationGetIndexScan(index, nkeys, norderbys);
        (*scan).opaque =
            PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(state).cast();
        if norderbys > 0 {
            let count = norderbys as usize;
            (*scan).xs_orderbyvals = pg_sys::palloc0(count * size_of::<pg_sys::Datum>()).cast();
            (*scan).xs_orderbynulls = pg_sys::palloc0(count * size_of::<bool>()).cast();
        }
        scan
    }
}

/// Keeps the keys that a scan starts with.
///
/// # Safety
/// The arguments are those of `amrescan`: arrays of that many keys (which may be the scan's own), or
/// null.
pub unsafe fn keep_keys(
    scan: pg_sys::IndexScanDesc,
    keys: pg_sys::ScanKey,
    nkeys: i32,
    orderbys: pg_sys::ScanKey,
    norderbys: i32,
) {
    // SAFETY: the caller's promise; the scan has room for as many keys as it was made for.
    unsafe {
        if !keys.is_null() && nkeys > 0 {
            std::ptr::copy(keys, (*scan).keyData, nkeys as usize);
        }
        if !orderbys.is_null() && norderbys > 0 {
            std::ptr::copy(orderbys, (*scan).orderByData, norderbys as usize);
        }
    }
}

/// What `ambuild` returns, in the current memory context.
pub fn build_result(heap_tuples: f64, index_tuples: u64) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: a zeroed allocation of the result's size, whose fields may all be zero.
    let mut result = unsafe { PgBox::<pg_sys::IndexBuildResult>::alloc0() };
    result.heap_tuples = heap_tuples;
    result.index_tuples = index_tuples as f64;
    result.into_pg()
}

/// What a vacuum has done so far, with this much more.
///
/// # Safety
/// `stats` is null or what an earlier call of the same vacuum returned.
pub unsafe fn vacuum_result(
    stats: *mut pg_sys::IndexBulkDeleteResult,
    pages: u32,
    kept: u64,
    removed: u64,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: the caller's promise; a new one is zeroed, in the current memory context.
    unsafe {
        let stats = if stats.is_null() {
            PgBox::<pg_sys::IndexBulkDeleteResult>::alloc0().into_pg()
        } else {
            stats
        };
        (*stats).num_pages = pages;
        (*stats).estimated_count = false;
        (*stats).num_index_tuples = kept as f64;
        (*stats).tuples_removed += removed as f64;
        stats
    }
}
