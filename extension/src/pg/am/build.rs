//! `CREATE INDEX` and `REINDEX`: the graph is built in memory by several threads while this
//! backend scans the heap, then written to pages at once. A graph that outgrows
//! `maintenance_work_mem` is written out early, and the rest of the heap goes in by page inserts.

use super::index::{Column, IndexRelation, heap_tid};
use super::raise;
use crate::guc;
use crate::pg::buffers::{Logging, SharedBuffers};
use crate::pg::interrupts;
use crate::pg::report::Report;
use distilface_core::hnsw::{self, Added, BuildOptions, BuildPhase, Builder, Progress};
use nix::sys::signal::{SigSet, SigmaskHow};
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;

/// `PROGRESS_CREATEIDX_SUBPHASE` of commands/progress.h.
const PROGRESS_SUBPHASE: i32 = 10;
/// `PROGRESS_CREATEIDX_TUPLES_TOTAL` and `_DONE`.
const PROGRESS_TUPLES_TOTAL: i32 = 11;
const PROGRESS_TUPLES_DONE: i32 = 12;
/// Subphase 1 is PostgreSQL's own, "initializing".
const PHASE_SCAN: i64 = 2;
const PHASE_LINK: i64 = 3;
const PHASE_PLACE: i64 = 4;
const PHASE_WRITE: i64 = 5;
const PHASE_INSERT: i64 = 6;

/// The same graph for the same rows in the same order, with one thread.
const SEED: u64 = 0x6469_7374_696c;

/// Names the phases in `pg_stat_progress_create_index`.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambuildphasename(phase: i64) -> *mut std::ffi::c_char {
    let name = match phase {
        1 => c"initializing",
        PHASE_SCAN => c"scanning table",
        PHASE_LINK => c"linking nodes in memory",
        PHASE_PLACE => c"placing nodes on pages",
        PHASE_WRITE => c"writing pages",
        PHASE_INSERT => c"inserting into pages",
        _ => return std::ptr::null_mut(),
    };
    name.as_ptr().cast_mut()
}

enum Phase {
    /// No row seen yet, and the column's type does not tell the dimensions.
    Start,
    Memory(Box<Builder>),
    Pages,
}

struct Build {
    index: IndexRelation,
    column: Column,
    store: SharedBuffers,
    phase: Phase,
    indexed: u64,
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
    let mut build = Build {
        index,
        column: index.column(),
        store: index.store(Logging::Deferred),
        phase: Phase::Start,
        indexed: 0,
    };
    if let Some(dims) = index.declared_dims() {
        build.phase = Phase::Memory(Box::new(new_builder(index, dims)));
    }
    progress(PROGRESS_SUBPHASE, PHASE_SCAN);
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
    build.write_graph();
    build.store.log_all_pages();
    // SAFETY: a zeroed allocation of the result's size in the caller's memory context.
    unsafe {
        let result = PgBox::<pg_sys::IndexBuildResult>::alloc0();
        let result = result.into_pg();
        (*result).heap_tuples = heap_tuples;
        (*result).index_tuples = build.indexed as f64;
        result
    }
}

/// Makes the init fork of an unlogged index: an index without a page is an empty one.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambuildempty(index: pg_sys::Relation) {
    // SAFETY: PostgreSQL keeps the index open and locked during the call.
    let (index, store) = unsafe { (IndexRelation::new(index), SharedBuffers::init_fork(index)) };
    if let Some(dims) = index.declared_dims() {
        hnsw::create_empty(&store, index.params(dims)).unwrap_or_else(|error| raise(&index, error));
        store.log_all_pages();
    }
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
    // scan; the arrays have one entry, as the index has one column; the tid is valid.
    let (build, is_null, value, tid) =
        unsafe { (&mut *state.cast::<Build>(), *is_null, *values, heap_tid(*tid)) };
    if is_null {
        return;
    }
    let column = build.column;
    // SAFETY: the value is of the column's type.
    unsafe {
        column.with_vector(value, |vector| {
            if !column.leaves_out(vector) {
                build.add(vector, tid);
                build.indexed += 1;
            }
        });
    }
    interrupts::check();
}

impl Build {
    /// Puts a row's vector into the graph.
    fn add(&mut self, vector: &[f32], tid: hnsw::HeapTid) {
        let index = self.index;
        if let Phase::Start = self.phase {
            self.phase = Phase::Memory(Box::new(new_builder(index, vector.len())));
        }
        if let Phase::Memory(builder) = &mut self.phase {
            match builder.add(vector, tid).unwrap_or_else(|error| raise(&index, error)) {
                Added::Kept => return,
                Added::MemoryFull => {}
            }
            let detail = format!("{} rows are linked in memory.", builder.rows());
            self.write_graph();
            Report::new(
                PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
                "the graph no longer fits into maintenance_work_mem",
            )
            .detail(format!("{detail} The rest is inserted into pages, which takes longer."))
            .hint("Raise maintenance_work_mem to build faster.")
            .notice();
            progress(PROGRESS_SUBPHASE, PHASE_INSERT);
        }
        hnsw::insert(&self.store, vector, tid).unwrap_or_else(|error| raise(&index, error));
    }

    /// Writes the graph that is in memory to pages.
    fn write_graph(&mut self) {
        let Phase::Memory(builder) = std::mem::replace(&mut self.phase, Phase::Pages) else {
            return;
        };
        let index = self.index;
        builder
            .finish(&self.store, &mut Reporter::default())
            .unwrap_or_else(|error| raise(&index, error));
    }
}

/// Shows the build's phases and counts, and keeps PostgreSQL's signals away from worker threads.
#[derive(Default)]
struct Reporter {
    phase: Option<BuildPhase>,
    signals: Option<SigSet>,
}

impl Progress for Reporter {
    fn report(&mut self, phase: BuildPhase, done: u64, total: u64) {
        if self.phase.replace(phase) != Some(phase) {
            progress(
                PROGRESS_SUBPHASE,
                match phase {
                    BuildPhase::Linking => PHASE_LINK,
                    BuildPhase::Placing => PHASE_PLACE,
                    BuildPhase::Writing => PHASE_WRITE,
                },
            );
            progress(PROGRESS_TUPLES_TOTAL, total as i64);
        }
        progress(PROGRESS_TUPLES_DONE, done as i64);
    }

    fn before_spawn(&mut self) {
        self.signals = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).ok();
    }

    fn after_spawn(&mut self) {
        if let Some(signals) = self.signals.take() {
            // Restores what was there; only an invalid argument could make it fail.
            let _ = signals.thread_set_mask();
        }
    }
}

fn new_builder(index: IndexRelation, dims: usize) -> Builder {
    // SAFETY: reads a setting.
    let kilobytes = unsafe { pg_sys::maintenance_work_mem };
    let options = BuildOptions {
        threads: guc::threads(),
        memory_limit: usize::try_from(kilobytes).unwrap_or(0).saturating_mul(1024),
        seed: SEED,
    };
    Builder::new(index.params(dims), options)
}

fn progress(what: i32, value: i64) {
    // SAFETY: sets a slot of this backend's own progress report.
    unsafe { pg_sys::pgstat_progress_update_param(what, value) };
}
