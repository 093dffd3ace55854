//! The index beside its table: every live row is in it, with the filter columns that the row has.
//!
//! As amcheck's `heapallindexed`: the table is scanned as for a build, under a snapshot taken before the
//! index is read, so that writers may go on. A row that the snapshot sees was in the index by then.

use super::filter::FilterColumns;
use super::index::IndexRelation;
use super::raise;
use crate::pg::buffers::SharedBuffers;
use crate::pg::index_am::heap_tid;
use crate::pg::{interrupts, owner};
use distilface_core::hnsw::{self, HeapTid};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::HashMap;

/// Differences named; the rest is counted.
const MAX_NAMED: usize = 100;

struct Comparison {
    filters: FilterColumns,
    /// Filter columns by row; nothing for rows without a place in the graph.
    indexed: HashMap<HeapTid, Option<Box<[u8]>>>,
    problems: Vec<String>,
    count: u64,
}

/// What is wrong between the table and its index, in words.
///
/// # Safety
/// The caller holds a lock on the index and has checked that the user may look into it.
pub unsafe fn differences(index: IndexRelation, store: &SharedBuffers) -> Vec<String> {
    // SAFETY: an open index's catalog row; its table is opened under the lock that a query takes, the
    // scan ends with the build scan, and the snapshot outlives it.
    unsafe {
        let form = (*index.as_raw()).rd_index;
        // An index that a failed CREATE INDEX CONCURRENTLY left is not complete and need not be.
        if !(*form).indisvalid {
            return Vec::new();
        }
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let heap = pg_sys::table_open((*form).indrelid, lock);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot());
        let mut comparison = Comparison {
            filters: FilterColumns::of(index),
            indexed: HashMap::new(),
            problems: Vec::new(),
            count: 0,
        };
        let indexed = &mut comparison.indexed;
        hnsw::each_row(store, &mut |tid, attrs| {
            indexed.insert(tid, attrs.map(Box::from));
        })
        .unwrap_or_else(|error| raise(&index, error));
        owner::as_table_owner((*(*heap).rd_rel).relowner, || {
            let info = pg_sys::BuildIndexInfo(index.as_raw());
            // The scan sees what the snapshot sees, and reports nothing of others' transactions.
            (*info).ii_Concurrent = true;
            let none = std::ptr::null_mut();
            let scan = pg_sys::table_beginscan_strat(heap, snapshot, 0, none, true, true);
            pg_sys::table_index_build_scan(
                heap,
                index.as_raw(),
                info,
                true,
                false,
                Some(compare_row),
                (&raw mut comparison).cast(),
                scan,
            );
        });
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::table_close(heap, lock);
        let unnamed = comparison.count - comparison.problems.len() as u64;
        let rest = (unnamed > 0).then(|| format!("and {unnamed} more rows"));
        comparison.problems.into_iter().chain(rest).collect()
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn compare_row(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    _tuple_is_alive: bool,
    state: *mut std::ffi::c_void,
) {
    // SAFETY: `state` is the comparison that `differences` passed, borrowed by nobody else during the
    // scan; the arrays have an entry for each column of the index; the tid is valid.
    let (comparison, attrs, has_vector, tid) = unsafe {
        let comparison = &mut *state.cast::<Comparison>();
        let attrs = comparison.filters.encode(values, is_null);
        (comparison, attrs, !*is_null, heap_tid(*tid))
    };
    interrupts::check();
    let problem = match comparison.indexed.get(&tid) {
        Some(Some(indexed)) if **indexed != *attrs => "its filter columns differ from the index's",
        Some(_) => return,
        // An index without declared dimensions has no pages before its first vector.
        None if !has_vector => return,
        None => "it is not in the index",
    };
    comparison.count += 1;
    if comparison.problems.len() < MAX_NAMED {
        let HeapTid { block, offset } = tid;
        comparison.problems.push(format!("row ({block},{offset}) of the table: {problem}"));
    }
}
