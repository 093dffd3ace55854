//! Rows whose text is in the index already: an UPDATE that moves a row without changing its text, or
//! one more row with the same text. They need no embedding.
//!
//! The index tells rows whose texts have the same hash; here their texts are read from the table, as the
//! statement's snapshot sees them, and compared. A version that the snapshot does not see counts as
//! another text, since parts of it may be gone from the TOAST table.

use crate::pg::index_am::item_pointer;
use crate::pg::varlena::Plain;
use distilface_core::page::HeapTid;
use pgrx::pg_sys;

/// The table's rows, to be compared with one text.
pub struct SameText<'t> {
    heap: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
    text: &'t [u8],
    reading: Option<Reading>,
}

/// What reading a row takes.
#[derive(Clone, Copy)]
struct Reading {
    fetch: *mut pg_sys::IndexFetchTableData,
    slot: *mut pg_sys::TupleTableSlot,
    estate: *mut pg_sys::EState,
}

impl<'t> SameText<'t> {
    /// # Safety
    /// The table is open and locked, and `info` describes an index of it whose first column is a text,
    /// as long as the value is used.
    pub unsafe fn new(
        heap: pg_sys::Relation,
        info: *mut pg_sys::IndexInfo,
        text: &'t Plain<'_>,
    ) -> Self {
        Self { heap, info, text: text_bytes(text), reading: None }
    }

    /// Whether the row has just this text.
    ///
    /// # Errors
    /// Raises what reading the table and evaluating the index's expression raise.
    pub fn has(&mut self, tid: HeapTid) -> bool {
        // SAFETY: the promises of `new`. The block is in the table, whose end cannot move back under the
        // lock; the snapshot is the statement's; there are as many places as an index has columns.
        unsafe {
            let main = pg_sys::ForkNumber::MAIN_FORKNUM;
            if !pg_sys::ActiveSnapshotSet()
                || tid.block >= pg_sys::RelationGetNumberOfBlocksInFork(self.heap, main)
            {
                return false;
            }
            let Reading { fetch, slot, estate } = *self.reading.get_or_insert_with(|| Reading {
                fetch: pg_sys::table_index_fetch_begin(self.heap),
                slot: pg_sys::table_slot_create(self.heap, std::ptr::null_mut()),
                estate: pg_sys::CreateExecutorState(),
            });
            let (mut tid, mut more, mut all_dead) = (item_pointer(tid), false, false);
            let snapshot = pg_sys::GetActiveSnapshot();
            if !pg_sys::table_index_fetch_tuple(
                fetch,
                &mut tid,
                snapshot,
                slot,
                &mut more,
                &mut all_dead,
            ) {
                return false;
            }
            let per_tuple = match (*estate).es_per_tuple_exprcontext {
                none if none.is_null() => pg_sys::MakePerTupleExprContext(estate),
                context => context,
            };
            (*per_tuple).ecxt_scantuple = slot;
            let mut values = [pg_sys::Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
            let mut is_null = [true; pg_sys::INDEX_MAX_KEYS as usize];
            let (to_values, to_nulls) = (values.as_mut_ptr(), is_null.as_mut_ptr());
            pg_sys::FormIndexDatum(self.info, slot, estate, to_values, to_nulls);
            let same = !is_null[0] && text_bytes(&Plain::from_datum(values[0])) == self.text;
            pg_sys::ExecClearTuple(slot);
            same
        }
    }
}

impl Drop for SameText<'_> {
    fn drop(&mut self) {
        // After an error the server takes all of it back itself.
        if let Some(Reading { fetch, slot, estate }) = self.reading
            && !std::thread::panicking()
        {
            // SAFETY: made by `has`, and used by nobody else.
            unsafe {
                pg_sys::table_index_fetch_end(fetch);
                pg_sys::ExecDropSingleTupleTableSlot(slot);
                pg_sys::FreeExecutorState(estate);
            }
        }
    }
}

/// A hash of the text, as it lies in an index.
pub fn key(text: &Plain<'_>) -> u64 {
    crate::pg::hash::hash_extended(text_bytes(text), 0)
}

fn text_bytes<'p>(text: &'p Plain<'_>) -> &'p [u8] {
    &text.bytes()[size_of::<u32>()..]
}
