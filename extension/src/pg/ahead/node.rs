//! The node that reads ahead, as PostgreSQL's custom scan.
//!
//! It keeps a batch of rows in a tuple store, which spills beyond `work_mem`, and their texts only until
//! they are embedded. Row, text and token counts of a batch are bounded.

use super::calls::{Call, Model};
use crate::embed::ahead::Owner;
use crate::embed::session;
use crate::guc;
use crate::model::registry::ModelId;
use crate::pg::list::elements;
use crate::pg::text::if_utf8;
use crate::pg::varlena::Plain;
use distilface_core::encoder::InputKind;
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::null_mut;

/// Rows of a batch at most.
const MAX_ROWS: usize = 1024;
/// Batches of the encoder's own, on each thread, that one batch of rows is long enough for.
const ENCODER_BATCHES: usize = 16;
/// A longer text is left to its own call: it fills a batch alone.
const MAX_TEXT: usize = 8 << 10;
/// Bytes of texts and vectors that a batch holds, for each text beside its own.
const TEXT_OVERHEAD: usize = 4 << 10;
/// Batches of so many texts that are hardly asked for end the reading ahead.
const TELLING: usize = 8;

const NAME: &CStr = c"Distilface Embed";

/// PostgreSQL's tables of callbacks hold pointers, to what never changes.
struct Callbacks<T>(T);
// SAFETY: read only; the pointers are to constants.
unsafe impl<T> Sync for Callbacks<T> {}

static PLAN: Callbacks<pg_sys::CustomScanMethods> = Callbacks(pg_sys::CustomScanMethods {
    CustomName: NAME.as_ptr(),
    CreateCustomScanState: Some(create),
});

static EXECUTION: Callbacks<pg_sys::CustomExecMethods> = Callbacks(pg_sys::CustomExecMethods {
    CustomName: NAME.as_ptr(),
    BeginCustomScan: Some(begin),
    ExecCustomScan: Some(next),
    EndCustomScan: Some(end),
    ReScanCustomScan: Some(rescan),
    MarkPosCustomScan: None,
    RestrPosCustomScan: None,
    EstimateDSMCustomScan: None,
    InitializeDSMCustomScan: None,
    ReInitializeDSMCustomScan: None,
    InitializeWorkerCustomScan: None,
    ShutdownCustomScan: None,
    ExplainCustomScan: None,
});

/// Makes the node known by name, as a parallel worker looks it up.
pub fn register() {
    // SAFETY: called once; the table lives for ever.
    unsafe { pg_sys::RegisterCustomScanMethods(&raw const PLAN.0) }
}

/// A plan node that embeds these texts ahead; the caller sets its columns and what is below it.
///
/// # Safety
/// The texts are expressions on the columns of [`pg_sys::CustomScan::custom_scan_tlist`].
pub unsafe fn plan(texts: &[Call]) -> *mut pg_sys::CustomScan {
    // SAFETY: makes nodes in the current memory context; zeros are a custom scan's defaults.
    unsafe {
        let scan = pg_sys::palloc0(size_of::<pg_sys::CustomScan>()).cast::<pg_sys::CustomScan>();
        (*scan).scan.plan.type_ = pg_sys::NodeTag::T_CustomScan;
        (*scan).methods = &raw const PLAN.0;
        for call in texts {
            (*scan).custom_exprs = pg_sys::lappend((*scan).custom_exprs, call.text.cast());
            let input = match call.input {
                InputKind::Passage => c"passage",
                InputKind::Query => c"query",
            };
            // A text of PostgreSQL's has no zero byte.
            let model = CString::new(call.model.write()).unwrap_or_default();
            for word in [input, model.as_c_str()] {
                let word = pg_sys::makeString(pg_sys::pstrdup(word.as_ptr()));
                (*scan).custom_private = pg_sys::lappend((*scan).custom_private, word.cast());
            }
        }
        scan
    }
}

/// The node's state, as PostgreSQL sees it, and what is behind it.
#[repr(C)]
struct State {
    scan: pg_sys::CustomScanState,
    /// Null where the node reads one row at a time.
    batches: *mut Batches,
}

/// A text that is embedded ahead.
struct Text {
    value: *mut pg_sys::ExprState,
    input: InputKind,
    model: Model,
}

struct Batches {
    owner: Owner,
    texts: Vec<Text>,
    /// Rows read and not handed on; made with the first batch.
    rows: *mut pg_sys::Tuplestorestate,
    /// Where a row of `rows` is looked at.
    row: *mut pg_sys::TupleTableSlot,
    waiting: usize,
    /// Rows of the next batch.
    size: usize,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Reading,
    /// There are no more rows below.
    AtEnd,
    /// What was embedded ahead was not asked for.
    GivenUp,
}

impl Drop for Batches {
    /// Runs with the query's memory, after an error too; the rows are in that memory.
    fn drop(&mut self) {
        session::retire(self.owner);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn create(_scan: *mut pg_sys::CustomScan) -> *mut pg_sys::Node {
    // SAFETY: zeros are the state's defaults; PostgreSQL fills in the rest.
    unsafe {
        let state = pg_sys::palloc0(size_of::<State>()).cast::<State>();
        (*state).scan.ss.ps.type_ = pg_sys::NodeTag::T_CustomScanState;
        (*state).scan.methods = &raw const EXECUTION.0;
        state.cast()
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn begin(
    node: *mut pg_sys::CustomScanState,
    estate: *mut pg_sys::EState,
    eflags: c_int,
) {
    // SAFETY: PostgreSQL's own arguments; the node is one that `create` made.
    unsafe {
        let state = &mut (*node).ss.ps;
        let plan = state.plan.cast::<pg_sys::CustomScan>();
        state.lefttree = pg_sys::ExecInitNode((*plan).scan.plan.lefttree, estate, eflags);
        let only_explains = eflags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int != 0;
        if only_explains || !(*estate).es_epq_active.is_null() {
            return;
        }
        let mut words = elements::<pg_sys::Node>((*plan).custom_private).map(|word| text_of(word));
        let texts = elements::<pg_sys::Expr>((*plan).custom_exprs).map(|expr| {
            let input = match words.next().as_deref() {
                Some("query") => InputKind::Query,
                _ => InputKind::Passage,
            };
            let model = Model::read(&words.next().unwrap_or_default());
            Text { value: pg_sys::ExecInitExpr(expr, state), input, model }
        });
        let columns = (*(*node).ss.ss_ScanTupleSlot).tts_tupleDescriptor;
        let batches = Batches {
            owner: Owner::new(),
            texts: texts.collect(),
            rows: null_mut(),
            row: pg_sys::ExecInitExtraTupleSlot(
                estate,
                columns,
                &raw const pg_sys::TTSOpsMinimalTuple,
            ),
            waiting: 0,
            size: 1,
            phase: Phase::Reading,
        };
        let mut context = PgMemoryContexts::For((*estate).es_query_cxt);
        (*node.cast::<State>()).batches = context.leak_and_drop_on_delete(batches);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn next(
    node: *mut pg_sys::CustomScanState,
) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: a node that has begun.
    unsafe {
        let state = &mut (*node).ss.ps;
        pg_sys::MemoryContextReset((*state.ps_ExprContext).ecxt_per_tuple_memory);
        let row = match (*node.cast::<State>()).batches.as_mut() {
            Some(batches) => batches.next(node),
            None => below(node),
        };
        let slot = (*node).ss.ss_ScanTupleSlot;
        let projection = state.ps_ProjInfo;
        if row.is_null() {
            let result = if projection.is_null() { slot } else { state.ps_ResultTupleSlot };
            return pg_sys::ExecClearTuple(result);
        }
        show(row, slot);
        if projection.is_null() {
            return slot;
        }
        (*state.ps_ExprContext).ecxt_scantuple = slot;
        pg_sys::ExecProject(projection)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn rescan(node: *mut pg_sys::CustomScanState) {
    // SAFETY: a node that has begun.
    unsafe {
        if let Some(batches) = (*node.cast::<State>()).batches.as_mut() {
            batches.restart();
        }
        let below = (*node).ss.ps.lefttree;
        // With changed parameters, its first row does it.
        if (*below).chgParam.is_null() {
            pg_sys::ExecReScan(below);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn end(node: *mut pg_sys::CustomScanState) {
    // SAFETY: a node that has begun, and is not used again.
    unsafe {
        if let Some(batches) = (*node.cast::<State>()).batches.as_mut() {
            batches.restart();
            if !batches.rows.is_null() {
                pg_sys::tuplestore_end(batches.rows);
                batches.rows = null_mut();
            }
        }
        pg_sys::ExecEndNode((*node).ss.ps.lefttree);
    }
}

impl Batches {
    /// The next row; null at the end.
    unsafe fn next(&mut self, node: *mut pg_sys::CustomScanState) -> *mut pg_sys::TupleTableSlot {
        // SAFETY: the caller's node, of which this is the state.
        unsafe {
            if self.waiting == 0 {
                match self.phase {
                    Phase::AtEnd => return null_mut(),
                    Phase::GivenUp => {}
                    Phase::Reading => self.judge(),
                }
                // The first row's calls find the models, and raise what there is to raise about them.
                if self.size == 1 || self.phase == Phase::GivenUp {
                    self.size = 2;
                    let row = below(node);
                    if row.is_null() {
                        self.phase = Phase::AtEnd;
                    }
                    return row;
                }
                self.read(node);
            }
            if self.waiting == 0 {
                return null_mut();
            }
            self.waiting -= 1;
            pg_sys::tuplestore_gettupleslot(self.rows, true, false, self.row);
            self.row
        }
    }

    /// Puts the last batch away, and gives up where it was for nothing.
    fn judge(&mut self) {
        let used = session::retire(self.owner);
        if used.embedded >= TELLING && used.asked_for * 2 < used.embedded {
            self.phase = Phase::GivenUp;
        }
    }

    /// Reads a batch of rows and embeds its texts.
    unsafe fn read(&mut self, node: *mut pg_sys::CustomScanState) {
        // SAFETY: the caller's node, of which this is the state.
        unsafe {
            let context = (*node).ss.ps.ps_ExprContext;
            if self.rows.is_null() {
                let memory = (*(*node).ss.ps.state).es_query_cxt;
                self.rows = PgMemoryContexts::For(memory)
                    .switch_to(|_| pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem));
            }
            pg_sys::tuplestore_clear(self.rows);
            let mut batch = Batch::new(self.texts.iter().map(Text::model));
            while self.waiting < self.size && !batch.is_full() {
                let row = below(node);
                if row.is_null() {
                    self.phase = Phase::AtEnd;
                    break;
                }
                pg_sys::tuplestore_puttupleslot(self.rows, row);
                self.waiting += 1;
                let slot = (*node).ss.ss_ScanTupleSlot;
                show(row, slot);
                (*context).ecxt_scantuple = slot;
                for (text, column) in self.texts.iter().zip(&mut batch.columns) {
                    if column.model.is_some() {
                        let mut is_null = false;
                        let datum = pg_sys::ExecEvalExprSwitchContext(
                            text.value,
                            context,
                            &raw mut is_null,
                        );
                        if !is_null && let Some(text) = short_text(datum) {
                            batch.bytes += text.len() + TEXT_OVERHEAD;
                            batch.tokens += text.len() / 4 + 2;
                            column.texts.push(text);
                        }
                    }
                }
                pg_sys::ExecClearTuple(slot);
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
            for (text, column) in self.texts.iter().zip(batch.columns) {
                if let Some(model) = column.model {
                    session::embed_ahead(self.owner, model, text.input, &column.texts);
                }
            }
            self.size = (self.size * 2).min(MAX_ROWS);
        }
    }

    /// Forgets what was read.
    fn restart(&mut self) {
        session::retire(self.owner);
        self.waiting = 0;
        self.size = 1;
        if self.phase == Phase::AtEnd {
            self.phase = Phase::Reading;
        }
    }
}

impl Text {
    /// The model, where a call has opened it and it embeds.
    fn model(&self) -> Option<ModelId> {
        self.model.opened().filter(|model| model.manifest().head.is_none())
    }
}

/// The texts of a batch of rows.
struct Batch {
    columns: Vec<Column>,
    bytes: usize,
    tokens: usize,
    max_bytes: usize,
    max_tokens: usize,
}

/// The texts of one expression.
struct Column {
    model: Option<ModelId>,
    texts: Vec<String>,
}

impl Batch {
    fn new(models: impl Iterator<Item = Option<ModelId>>) -> Self {
        // SAFETY: reads a setting of this backend.
        let work_mem = unsafe { pg_sys::work_mem };
        let unsigned = |value: i32| usize::try_from(value).unwrap_or(0);
        Self {
            columns: models.map(|model| Column { model, texts: Vec::new() }).collect(),
            bytes: 0,
            tokens: 0,
            max_bytes: unsigned(work_mem) << 10,
            max_tokens: ENCODER_BATCHES * guc::threads() * unsigned(guc::MAX_BATCH_TOKENS.get()),
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= self.max_bytes || self.tokens >= self.max_tokens
    }
}

/// The next row of the node below; null at the end.
unsafe fn below(node: *mut pg_sys::CustomScanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the caller's node.
    unsafe {
        let row = pg_sys::ExecProcNode((*node).ss.ps.lefttree);
        let is_empty = row.is_null() || u32::from((*row).tts_flags) & pg_sys::TTS_FLAG_EMPTY != 0;
        if is_empty { null_mut() } else { row }
    }
}

/// Lets a slot show the columns of another one, for as long as that holds its row. Both have the same columns.
unsafe fn show(row: *mut pg_sys::TupleTableSlot, slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: the caller's slots; a slot has as many values as its descriptor columns.
    unsafe {
        pg_sys::slot_getallattrs(row);
        pg_sys::ExecClearTuple(slot);
        let columns = usize::try_from((*(*slot).tts_tupleDescriptor).natts).unwrap_or(0);
        (*slot).tts_values.copy_from_nonoverlapping((*row).tts_values, columns);
        (*slot).tts_isnull.copy_from_nonoverlapping((*row).tts_isnull, columns);
        pg_sys::ExecStoreVirtualTuple(slot);
    }
}

/// A text that is worth a batch.
unsafe fn short_text(datum: pg_sys::Datum) -> Option<String> {
    // SAFETY: the caller's datum is a text.
    unsafe {
        if pg_sys::toast_raw_datum_size(datum) > MAX_TEXT {
            return None;
        }
        let text = Plain::from_datum(datum);
        if_utf8(&text.bytes()[size_of::<u32>()..]).map(str::to_owned)
    }
}

/// What a node of a string says.
unsafe fn text_of(node: *mut pg_sys::Node) -> String {
    // SAFETY: the caller's node, which `plan` made, or PostgreSQL of its written form.
    unsafe {
        let word: *mut c_char = (*node.cast::<pg_sys::String>()).sval;
        CStr::from_ptr(word).to_string_lossy().into_owned()
    }
}
