//! `VACUUM`: forgets dead rows, repairs the graph around them, frees their space.

use super::index::IndexRelation;
use super::raise;
use crate::pg::buffers::SharedBuffers;
use crate::pg::index_am::{item_pointer, vacuum_result};
use distilface_core::hnsw;
use distilface_core::page::PageStore;
use pgrx::pg_sys;
use pgrx::prelude::*;

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
    let (index, store) = unsafe { open(info) };
    let mut is_dead = |tid| {
        let mut item = item_pointer(tid);
        // SAFETY: calls back into vacuum with the state that it passed along.
        unsafe { callback(&mut item, callback_state) }
    };
    if has_pages(index, &store) {
        let done =
            hnsw::bulk_delete(&store, &mut is_dead).unwrap_or_else(|error| raise(&index, error));
        // SAFETY: `stats` is null or what an earlier call of this vacuum returned.
        return unsafe {
            vacuum_result(stats, page_count(index, &store), done.remaining, done.removed)
        };
    }
    stats
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
    let (index, store) = unsafe { open(info) };
    if has_pages(index, &store) {
        hnsw::cleanup(&store).unwrap_or_else(|error| raise(&index, error));
    }
    stats
}

/// An index without pages has not met its first row yet.
fn has_pages(index: IndexRelation, store: &SharedBuffers) -> bool {
    page_count(index, store) > 0
}

fn page_count(index: IndexRelation, store: &SharedBuffers) -> u32 {
    store.page_count().unwrap_or_else(|error| raise(&index, error.into()))
}

unsafe fn open(info: *mut pg_sys::IndexVacuumInfo) -> (IndexRelation, SharedBuffers) {
    // SAFETY: the caller passes vacuum's own description of an open index.
    unsafe {
        let relation = (*info).index;
        (IndexRelation::new(relation), SharedBuffers::for_vacuum(relation, (*info).strategy))
    }
}
