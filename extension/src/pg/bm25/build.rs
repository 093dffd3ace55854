//! `CREATE INDEX` and `REINDEX`: segments made in memory while this backend scans the heap, written
//! to pages when they outgrow `maintenance_work_mem`, and merged into one at the end.

use super::index::{IndexRelation, with_texts};
use super::store::{Attached, BackendStore};
use crate::pg::buffers::{Logging, SharedBuffers};
use crate::pg::index_am::{build_result, heap_tid};
use crate::pg::interrupts;
use distilface_core::bm25::{self, Builder};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::sync::Arc;

/// `PROGRESS_CREATEIDX_SUBPHASE` of commands/progress.h.
const PROGRESS_SUBPHASE: i32 = 10;
/// Subphase 1 is PostgreSQL's own, "initializing".
const PHASE_INDEX: i64 = 2;
const PHASE_MERGE: i64 = 3;

/// Names the phases in `pg_stat_progress_create_index`.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambuildphasename(phase: i64) -> *mut std::ffi::c_char {
    let name = match phase {
        1 => c"initializing",
        PHASE_INDEX => c"indexing texts",
        PHASE_MERGE => c"writing and merging segments",
        _ => return std::ptr::null_mut(),
    };
    name.as_ptr().cast_mut()
}

struct Build {
    index: IndexRelation,
    builder: Option<Builder<BackendStore>>,
}

/// Builds the index of a filled or empty table.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambuild(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    index_info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: PostgreSQL keeps the new index open and locked during the call.
    let index = unsafe { IndexRelation::new(index) };
    let (store, _attached): (Arc<BackendStore>, Attached) = index.store(Logging::Deferred);
    // SAFETY: reads a setting.
    let kilobytes = unsafe { pg_sys::maintenance_work_mem };
    let memory = usize::try_from(kilobytes).unwrap_or(0).saturating_mul(1024);
    let builder = index.check(Builder::new(store, index.params(), memory));
    let mut build = Build { index, builder: Some(builder) };
    progress(PHASE_INDEX);
    // SAFETY: heap, index and index_info are PostgreSQL's own; the callback's state outlives the
    // scan.
    let heap_tuples = unsafe {
        pg_sys::table_index_build_scan(
            heap,
            index.as_raw(),
            index_info,
            true,
            true,
            Some(build_callback),
            (&raw mut build).cast(),
            std::ptr::null_mut(),
        )
    };
    progress(PHASE_MERGE);
    let rows = match build.builder.take() {
        Some(builder) => index.check(builder.finish()),
        None => unreachable!("only this function takes the builder"),
    };
    index.buffers(Logging::Deferred).log_all_pages();
    build_result(heap_tuples, rows)
}

/// Makes the init fork of an unlogged index: an index without rows.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambuildempty(index: pg_sys::Relation) {
    // SAFETY: PostgreSQL keeps the index open and locked during the call.
    let (index, store) = unsafe { (IndexRelation::new(index), SharedBuffers::init_fork(index)) };
    index.check(bm25::create(&store, &index.params()));
    store.log_all_pages();
}

#[pg_guard]
unsafe extern "C-unwind" fn build_callback(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    _tuple_is_alive: bool,
    state: *mut std::ffi::c_void,
) {
    // SAFETY: `state` is the `Build` that `ambuild` passed, borrowed by nobody else during the
    // scan; the arrays have an entry for each of the index's columns, all of type text; the tid is
    // valid.
    unsafe {
        let build = &mut *state.cast::<Build>();
        let Some(builder) = &mut build.builder else { return };
        let added =
            with_texts(build.index, values, is_null, |texts| builder.add(texts, heap_tid(*tid)));
        build.index.check(added);
    }
    interrupts::check();
}

fn progress(phase: i64) {
    // SAFETY: sets a slot of this backend's own progress report.
    unsafe { pg_sys::pgstat_progress_update_param(PROGRESS_SUBPHASE, phase) };
}
