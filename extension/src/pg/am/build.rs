//! `CREATE INDEX` and `REINDEX`: the graph is built in memory by several threads while this
//! backend scans the heap, then written to pages at once. A graph that outgrows
//! `maintenance_work_mem` is written out early, and the rest of the heap goes in by page inserts.

use super::filter::FilterColumns;
use super::index::{Element, IndexRelation};
use super::raise;
use super::vectors::{Source, TextDatum};
use crate::embed::session::{self, Strictness};
use crate::guc;
use crate::model::registry::{self, ModelId};
use crate::model::{self, restore::Outcome};
use crate::pg::buffers::{Logging, SharedBuffers};
use crate::pg::index_am::{build_result, heap_tid};
use crate::pg::interrupts;
use crate::pg::report::Report;
use crate::pg::restoring;
use distilface_core::encoder::{Done, InputKind};
use distilface_core::hnsw::{
    self, Added, BuildOptions, BuildPhase, Builder, HeapTid, Progress, Quantized, SourceKey,
};
use distilface_core::page::PageStore;
use nix::sys::signal::{SigSet, SigmaskHow};
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;

/// `PROGRESS_CREATEIDX_SUBPHASE` of commands/progress.h.
const PROGRESS_SUBPHASE: i32 = 10;
/// `PROGRESS_CREATEIDX_TUPLES_TOTAL` and `_DONE`.
const PROGRESS_TUPLES_TOTAL: i32 = 11;
const PROGRESS_TUPLES_DONE: i32 = 12;
/// Places that PostgreSQL leaves free in a `CREATE INDEX`'s report; `distilface.index_progress` shows them.
const PROGRESS_ROWS: i32 = 17;
const PROGRESS_TOKENS: i32 = 18;
/// Microseconds since 2000, PostgreSQL's own count.
const PROGRESS_BEGAN: i32 = 19;
/// Rows between two reports of a scan that embeds nothing.
const REPORT_ROWS: u64 = 1024;
/// Subphase 1 is PostgreSQL's own, "initializing".
const PHASE_SCAN: i64 = 2;
const PHASE_LINK: i64 = 3;
const PHASE_PLACE: i64 = 4;
const PHASE_WRITE: i64 = 5;
const PHASE_INSERT: i64 = 6;

/// Rows and bytes of text that wait to be embedded together.
const MAX_WAITING: usize = 2048;
const MAX_WAITING_BYTES: usize = 1 << 20;

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

/// A row whose text is to be embedded.
struct Waiting {
    tid: HeapTid,
    text: String,
    /// The text's hash; see `known.rs`.
    key: u64,
    attrs: Vec<u8>,
}

/// What belongs to a vector that a text was embedded to.
#[derive(Clone, Copy)]
struct OfText<'a> {
    /// The text's hash; see `known.rs`.
    key: u64,
    /// The vector as the graph in memory keeps it.
    quantized: Option<&'a Quantized>,
}

struct Build {
    index: IndexRelation,
    source: Source,
    filters: FilterColumns,
    store: SharedBuffers,
    phase: Phase,
    indexed: u64,
    tokens: usize,
    /// Rows whose texts are embedded together.
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    /// Rows without a vector that came before the first vector.
    early: Vec<HeapTid>,
}

/// Builds the index of a filled or empty table.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambuild(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    index_info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: set when the server starts.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        // `pg_upgrade` puts the old index's file in the place of this one's, and the models that it loaded
        // are not there yet.
        return build_result(0.0, 0);
    }
    // SAFETY: PostgreSQL keeps the new index open and locked during the call.
    let index = unsafe { IndexRelation::new(index) };
    // SAFETY: PostgreSQL's own description of the index.
    let (may_wait, computed, oid) = unsafe {
        let oid = (*index.as_raw()).rd_id;
        let rebuilt = pg_sys::ReindexIsProcessingIndex(oid) || (*index_info).ii_Concurrent;
        let computed =
            !(*index_info).ii_Expressions.is_null() || !(*index_info).ii_Predicate.is_null();
        (!rebuilt && restoring::is_restoring(), computed, oid)
    };
    let on_text = index.column().element == Element::Text;
    if !may_wait || !on_text && !computed {
        // SAFETY: PostgreSQL's own arguments.
        return unsafe { build(heap, index, index_info, model::keep) };
    }
    let follows_default = on_text && index.options().model().is_none();
    let outcome = model::restore::build(oid, follows_default, || {
        // SAFETY: PostgreSQL's own arguments.
        unsafe { build(heap, index, index_info, model::keep_if_free) }
    });
    match outcome {
        Outcome::Built(result) => result,
        Outcome::Waits => {
            Report::new(
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("index \"{}\" waits for a model that is not here yet", index.name()),
            )
            .detail(
                "It is filled when the model is restored or loaded; until then no scan uses it.",
            )
            .warn();
            // The table's count of rows stays unknown.
            build_result(-1.0, 0)
        }
    }
}

/// # Safety
/// The arguments are those of `ambuild`.
unsafe fn build(
    heap: pg_sys::Relation,
    index: IndexRelation,
    index_info: *mut pg_sys::IndexInfo,
    keep: fn(ModelId),
) -> *mut pg_sys::IndexBuildResult {
    let mut build = Build {
        index,
        source: Source::for_build(index),
        filters: FilterColumns::of(index),
        store: index.store(Logging::Deferred),
        phase: Phase::Start,
        indexed: 0,
        tokens: 0,
        waiting: Vec::new(),
        waiting_bytes: 0,
        early: Vec::new(),
    };
    if let Some(dims) = build.source.dims(index) {
        build.phase = Phase::Memory(Box::new(new_builder(index, dims)));
    }
    if let Source::Text(_, model) = build.source {
        // Who drops the model meanwhile waits, and then finds this index.
        model::hold(model);
        // The row may be that of another name of the same revision.
        index.options().model().map(|name| registry::for_everybody(Some(name)));
    }
    progress(PROGRESS_SUBPHASE, PHASE_SCAN);
    // SAFETY: the heap is open; reads the clock.
    let (rows, now) = unsafe { (estimated_rows(heap), pg_sys::GetCurrentTimestamp()) };
    progress(PROGRESS_TUPLES_TOTAL, rows as i64);
    progress(PROGRESS_BEGAN, now);
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
    if let Source::Text(_, model) = build.source {
        build.embed_waiting(model);
    }
    build.report_rows();
    build.write_graph();
    if let Some(tag) = build.source.tag() {
        hnsw::write_tag(&build.store, tag.as_bytes()).unwrap_or_else(|error| raise(&index, error));
    }
    build.store.log_all_pages();
    if let Source::Text(_, model) = build.source {
        // A built-in one last, because that keeps others from loading models until this transaction commits.
        keep(model);
    }
    build_result(heap_tuples, build.indexed)
}

/// Makes the init fork of an unlogged index: an index without a page is an empty one.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambuildempty(index: pg_sys::Relation) {
    // SAFETY: PostgreSQL keeps the index open and locked during the call.
    let (index, store) = unsafe { (IndexRelation::new(index), SharedBuffers::init_fork(index)) };
    // SAFETY: set when the server starts.
    if unsafe { pg_sys::IsBinaryUpgrade } && index.column().element == Element::Text {
        // `pg_upgrade` takes no init fork over, and neither the models that it loaded nor what `default`
        // stands for are there yet: the first row after a crash finds the model, see `insert.rs`.
        return;
    }
    if index.column().element == Element::Text && is_empty(index) {
        // It waits for its model, and so will its first row after a crash.
        return;
    }
    let source = Source::for_build(index);
    if let Some(dims) = source.dims(index) {
        let tag = source.tag().unwrap_or_default().as_bytes();
        hnsw::create_tagged(&store, index.params(dims), tag)
            .unwrap_or_else(|error| raise(&index, error));
        store.log_all_pages();
    }
}

fn is_empty(index: IndexRelation) -> bool {
    let pages = index.store(Logging::Deferred).page_count();
    pages.unwrap_or_else(|error| raise(&index, error.into())) == 0
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
    // scan; the arrays have an entry for each column of the index; the tid is valid.
    let (build, attrs, is_null, value, tid) = unsafe {
        let build = &mut *state.cast::<Build>();
        let attrs = build.filters.encode(values, is_null);
        (build, attrs, *is_null, *values, heap_tid(*tid))
    };
    if is_null {
        build.add(None, &attrs, tid, None);
        return;
    }
    match build.source {
        Source::Vectors(_) => {
            // SAFETY: the value is of the column's type.
            unsafe {
                build.source.with_passage(value, |vector| build.add(vector, &attrs, tid, None));
            }
            if build.indexed.is_multiple_of(REPORT_ROWS) {
                build.report_rows();
            }
        }
        Source::Text(_, model) => {
            // SAFETY: the value is of the column's type.
            let text = unsafe { TextDatum::new(value) };
            let (text, key) = (text.to_utf8().into_owned(), text.key());
            build.waiting_bytes += text.len();
            build.waiting.push(Waiting { tid, text, key, attrs });
            if build.waiting.len() >= MAX_WAITING || build.waiting_bytes >= MAX_WAITING_BYTES {
                build.embed_waiting(model);
            }
        }
    }
    interrupts::check();
}

impl Build {
    /// Embeds the texts that wait, in one batch, and puts them into the graph in their order.
    fn embed_waiting(&mut self, model: ModelId) {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let texts: Vec<&str> = waiting.iter().map(|row| row.text.as_str()).collect();
        let (rows, tokens) = (self.indexed as usize, self.tokens);
        let watch = move |done: Done| show_done(rows + done.texts, tokens + done.tokens);
        let embedded = session::watched(watch, || {
            session::embed_batch(model, InputKind::Passage, &texts, Strictness::Pinned)
        });
        let vectors: Vec<_> = embedded.vectors().collect();
        let quantized = match &self.phase {
            Phase::Memory(builder) => builder
                .quantize(&vectors, &mut Reporter::default())
                .unwrap_or_else(|error| raise(&self.index, error)),
            Phase::Start | Phase::Pages => Vec::new(),
        };
        for (at, (row, vector)) in waiting.iter().zip(vectors).enumerate() {
            let quantized = quantized.get(at).and_then(Option::as_ref);
            self.add(vector, &row.attrs, row.tid, Some(OfText { key: row.key, quantized }));
        }
        self.tokens += embedded.tokens;
        self.report_rows();
    }

    fn report_rows(&self) {
        show_done(self.indexed as usize, self.tokens);
    }

    /// Puts a row's vector into the graph, or the row alone where it has none.
    fn add(
        &mut self,
        vector: Option<&[f32]>,
        attrs: &[u8],
        tid: HeapTid,
        text: Option<OfText<'_>>,
    ) {
        self.indexed += 1;
        let index = self.index;
        if let Phase::Start = self.phase {
            let Some(vector) = vector else {
                self.early.push(tid);
                return;
            };
            self.phase = Phase::Memory(Box::new(new_builder(index, vector.len())));
            for tid in std::mem::take(&mut self.early) {
                self.add(None, &[], tid, None);
                self.indexed -= 1;
            }
        }
        if let Phase::Memory(builder) = &mut self.phase {
            let added = match (vector, text) {
                (Some(_), Some(OfText { key, quantized: Some(vector) })) => {
                    builder.add_quantized(vector, attrs, tid, key)
                }
                (Some(vector), Some(OfText { key, quantized: None })) => {
                    builder.add_with_key(vector, attrs, tid, key)
                }
                (Some(vector), None) => builder.add_with_attributes(vector, attrs, tid),
                (None, _) => Ok(builder.add_unplaced(tid)),
            };
            match added.unwrap_or_else(|error| raise(&index, error)) {
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
        let store = &self.store;
        match (vector, text) {
            (Some(vector), Some(OfText { key, .. })) => {
                hnsw::insert_with_key(store, vector, attrs, tid, SourceKey::new(key)).map(|_| ())
            }
            (Some(vector), None) => {
                hnsw::insert_with_attributes(store, vector, attrs, tid).map(|_| ())
            }
            (None, _) => hnsw::insert_unplaced(store, tid),
        }
        .unwrap_or_else(|error| raise(&index, error));
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

/// The planner's estimate of a table's rows, which needs no statistics.
///
/// # Safety
/// The table is open.
unsafe fn estimated_rows(heap: pg_sys::Relation) -> f64 {
    let (mut pages, mut rows, mut visible) = (0, 0.0, 0.0);
    let widths = std::ptr::null_mut();
    // SAFETY: the caller's promise; without widths they are computed, the other places are written to.
    unsafe {
        pg_sys::estimate_rel_size(heap, widths, &mut pages, &mut rows, &mut visible);
    }
    rows
}

/// Shows rows that are embedded or scanned, and tokens.
fn show_done(rows: usize, tokens: usize) {
    progress(PROGRESS_TUPLES_DONE, rows as i64);
    progress(PROGRESS_ROWS, rows as i64);
    progress(PROGRESS_TOKENS, tokens as i64);
}

fn progress(what: i32, value: i64) {
    // SAFETY: sets a slot of this backend's own progress report.
    unsafe { pg_sys::pgstat_progress_update_param(what, value) };
}
