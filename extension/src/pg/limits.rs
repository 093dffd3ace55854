//! How many rows an index scan will be asked for: an access method is not told of a LIMIT.
//!
//! Once a statement's plan is ready to run, the limits in it are noted for the ordered index scans below
//! them; a scan that begins looks itself up. It is a hint: a filter may drop rows, a join may want
//! fewer.

use super::list::elements;
use pgrx::{PgMemoryContexts, pg_sys};
use std::cell::RefCell;

thread_local! {
    static WANTED: RefCell<Vec<Wanted>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Copy)]
struct Wanted {
    scan: *mut pg_sys::IndexScanState,
    rows: u32,
}

/// Rows that a LIMIT asks of the scan; `None` where there is none, or it is no constant.
pub fn rows_wanted(scan: pg_sys::IndexScanDesc) -> Option<u32> {
    WANTED.with_borrow(|wanted| {
        // SAFETY: a state is noted for as long as its statement's memory is there.
        let of_scan = |wanted: &&Wanted| unsafe { (*wanted.scan).iss_ScanDesc } == scan;
        wanted.iter().find(of_scan).map(|wanted| wanted.rows)
    })
}

/// Forgets a statement's scans with its memory.
struct Noted(Vec<Wanted>);

impl Drop for Noted {
    fn drop(&mut self) {
        let is_here = |other: &Wanted| self.0.iter().any(|own| own.scan == other.scan);
        WANTED.with_borrow_mut(|wanted| wanted.retain(|other| !is_here(other)));
    }
}

/// Notes what the limits of a statement ask of its scans.
///
/// # Safety
/// `ExecutorStart` has prepared the statement.
pub unsafe fn note(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut found = Vec::new();
        visit((*query).planstate, None, &mut found);
        let estate = (*query).estate;
        elements::<pg_sys::PlanState>((*estate).es_subplanstates)
            .for_each(|state| visit(state, None, &mut found));
        if !found.is_empty() {
            WANTED.with_borrow_mut(|wanted| wanted.extend(&found));
            PgMemoryContexts::For((*estate).es_query_cxt).leak_and_drop_on_delete(Noted(found));
        }
    }
}

/// `rows` is what is asked of the node, where that is known.
unsafe fn visit(state: *mut pg_sys::PlanState, rows: Option<u32>, found: &mut Vec<Wanted>) {
    // SAFETY: null or a node of a prepared plan; a node's tag says what it is, and its arrays are as
    // long as it says.
    unsafe {
        if state.is_null() {
            return;
        }
        pg_sys::check_stack_depth();
        let mut each = |states: *mut *mut pg_sys::PlanState, count: i32| {
            (0..count as usize).for_each(|at| visit(*states.add(at), rows, found));
        };
        // What the nodes below are asked for: those that pass on each of their rows ask for no more.
        let below = match (*state).type_ {
            pg_sys::NodeTag::T_IndexScanState => {
                let scan = state.cast::<pg_sys::IndexScanState>();
                if let Some(rows) = rows.filter(|_| (*scan).iss_NumOrderByKeys > 0) {
                    found.push(Wanted { scan, rows });
                }
                None
            }
            pg_sys::NodeTag::T_AppendState => {
                let append = state.cast::<pg_sys::AppendState>();
                each((*append).appendplans, (*append).as_nplans);
                None
            }
            pg_sys::NodeTag::T_MergeAppendState => {
                let append = state.cast::<pg_sys::MergeAppendState>();
                each((*append).mergeplans, (*append).ms_nplans);
                None
            }
            pg_sys::NodeTag::T_SubqueryScanState => {
                visit((*state.cast::<pg_sys::SubqueryScanState>()).subplan, rows, found);
                None
            }
            pg_sys::NodeTag::T_CustomScanState => {
                elements::<pg_sys::PlanState>((*state.cast::<pg_sys::CustomScanState>()).custom_ps)
                    .for_each(|state| visit(state, rows, found));
                None
            }
            pg_sys::NodeTag::T_LimitState => of_limit((*state).plan.cast(), rows),
            pg_sys::NodeTag::T_ResultState
            | pg_sys::NodeTag::T_NestLoopState
            | pg_sys::NodeTag::T_LockRowsState
            | pg_sys::NodeTag::T_IncrementalSortState => rows,
            _ => None,
        };
        visit((*state).lefttree, below, found);
        visit((*state).righttree, None, found);
    }
}

/// The rows that a limit lets through and those that it skips; `above` is what is asked of itself, all that
/// counts for one without a count (`similarity` makes such).
unsafe fn of_limit(limit: *mut pg_sys::Limit, above: Option<u32>) -> Option<u32> {
    // SAFETY: the caller's node.
    unsafe {
        if (*limit).limitCount.is_null() && (*limit).limitOffset.is_null() {
            return above;
        }
        let count = constant((*limit).limitCount)?;
        let offset =
            if (*limit).limitOffset.is_null() { 0 } else { constant((*limit).limitOffset)? };
        u32::try_from(count.checked_add(offset)?).ok()
    }
}

unsafe fn constant(node: *mut pg_sys::Node) -> Option<i64> {
    // SAFETY: null or an expression; that of a limit is an int8.
    unsafe {
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_Const {
            return None;
        }
        let value = node.cast::<pg_sys::Const>();
        (!(*value).constisnull).then(|| (*value).constvalue.value() as i64)
    }
}
