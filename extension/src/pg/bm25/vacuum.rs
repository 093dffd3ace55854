//! `VACUUM`: forgets dead rows, merges the pending list and small segments.

use super::index::IndexRelation;
use super::store::{Attached, BackendStore};
use crate::pg::buffers::SharedBuffers;
use crate::pg::index_am::{item_pointer, vacuum_result};
use distilface_core::bm25::{self, VacuumStats};
use distilface_core::page::PageStore;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::sync::Arc;

/// Removes the entries whose rows the callback calls dead.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambulkdelete(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    callback: pg_sys::IndexBulkDeleteCallback,
    callback_state: *mut std::ffi::c_void,
) -> *mut pg_sys::IndexBulkDeleteResult {
    let Some(callback) = callback else {
        unreachable!("PostgreSQL always passes a bulk-delete callback")
    };
    // SAFETY: PostgreSQL's own argument, valid during the call.
    let (index, store, _attached) = unsafe { open(info) };
    let mut is_dead = |tid| {
        let mut item = item_pointer(tid);
        // SAFETY: calls back into vacuum with the state that it passed along.
        unsafe { callback(&mut item, callback_state) }
    };
    let done = index.check(bm25::bulk_delete(&store, &mut is_dead));
    // SAFETY: `stats` is null or what an earlier call of this vacuum returned.
    unsafe { report(stats, &store, &done) }
}

/// Ends a vacuum; also runs where no row was dead.
#[pg_guard]
pub unsafe extern "C-unwind" fn amvacuumcleanup(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: PostgreSQL's own argument, valid during the call.
    if unsafe { (*info).analyze_only } {
        return stats;
    }
    // SAFETY: as above.
    let (index, store, _attached) = unsafe { open(info) };
    let done = index.check(bm25::cleanup(&store));
    // SAFETY: `stats` is null or what `ambulkdelete` returned.
    unsafe { report(stats, &store, &done) }
}

unsafe fn open(info: *mut pg_sys::IndexVacuumInfo) -> (IndexRelation, Arc<BackendStore>, Attached) {
    // SAFETY: the caller passes vacuum's own description of an open index.
    unsafe {
        let relation = (*info).index;
        let store = BackendStore::new();
        let attached = store.attach(SharedBuffers::for_vacuum(relation, (*info).strategy));
        (IndexRelation::new(relation), store, attached)
    }
}

unsafe fn report(
    stats: *mut pg_sys::IndexBulkDeleteResult,
    store: &BackendStore,
    done: &VacuumStats,
) -> *mut pg_sys::IndexBulkDeleteResult {
    let pages = store.page_count().unwrap_or(0);
    // SAFETY: the caller passes null or what an earlier call of this vacuum returned.
    unsafe {
        let stats = vacuum_result(stats, pages, done.kept, done.removed);
        (*stats).pages_free = u32::try_from(done.free_pages).unwrap_or(u32::MAX);
        stats
    }
}
