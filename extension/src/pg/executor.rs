//! The executor's hook of both access methods: what a plan need not compute, because an index scan in it
//! knows it already, and how many rows a scan will be asked for, which the plan knows.
//!
//! What a query is ordered by is a column of the plan, shown or not, and PostgreSQL computes it for every
//! row that an index scan returns in that order. Before a plan runs, the access methods put something
//! cheaper in its place ([`scan_distance`], [`scan_score`]), which asks the scan that has just returned
//! the row.
//!
//! The hook is that of the executor's start, not the planner's: a session's first plan is made before
//! this library is loaded. It changes a plan once; a cached plan keeps the change.

use super::am::scan_distance;
use super::bm25::scan_score;
use super::index_am::heap_tid;
use super::limits;
use super::list::elements;
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};
use std::cell::RefCell;
use std::ffi::{CStr, c_int};

thread_local! {
    /// Scans that have started and not ended.
    static OPEN: RefCell<Vec<pg_sys::IndexScanDesc>> = const { RefCell::new(Vec::new()) };
}

static mut PREVIOUS: pg_sys::ExecutorStart_hook_type = None;

/// Installs the hook; called once, when the library is loaded.
pub fn install() {
    // SAFETY: the library is loaded once, on the backend's only thread.
    unsafe {
        PREVIOUS = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
    }
}

/// Lets [`ask`] ask a scan for as long as this is kept.
pub struct Opened(pg_sys::IndexScanDesc);

impl Opened {
    /// # Safety
    /// The scan has one ORDER BY key and room for its value, and outlives this.
    pub unsafe fn new(scan: pg_sys::IndexScanDesc) -> Self {
        OPEN.with_borrow_mut(|open| open.push(scan));
        Self(scan)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        OPEN.with_borrow_mut(|open| open.retain(|&other| other != self.0));
    }
}

/// What the open scans know of a row.
pub enum Answer {
    /// Its distance from the query; `None` for NULL.
    Distance(Option<f64>),
    /// The index is scanned, but this is not the row where the scan is.
    OtherRow,
    NoScan,
}

/// Asks the scan of an index, whose ORDER BY key's query `is_asked` knows, for the distance of the row
/// that it returned last.
pub fn ask(
    index: pg_sys::Oid,
    row: pg_sys::ItemPointerData,
    is_asked: impl Fn(pg_sys::Datum) -> bool,
) -> Answer {
    OPEN.with_borrow(|open| {
        let mut answer = Answer::NoScan;
        for &scan in open {
            // SAFETY: an open scan has not ended, and has one ORDER BY key, whose argument outlives it.
            unsafe {
                if (*(*scan).indexRelation).rd_id != index {
                    continue;
                }
                let key = &*(*scan).orderByData;
                let is_null = key.sk_flags & pg_sys::SK_ISNULL as i32 != 0;
                // The executor puts there which version of the row the snapshot saw.
                if heap_tid((*scan).xs_heaptid) == heap_tid(row)
                    && !(*scan).xs_recheckorderby
                    && !is_null
                    && is_asked(key.sk_argument)
                {
                    let unknown = *(*scan).xs_orderbynulls;
                    let distance = f64::from_bits((*(*scan).xs_orderbyvals).value() as u64);
                    return Answer::Distance((!unknown).then_some(distance));
                }
            }
            answer = Answer::OtherRow;
        }
        answer
    })
}

#[pg_guard]
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    // SAFETY: PostgreSQL's own argument, a finished plan that nothing runs yet. What is put into it lives
    // as long as the plan does.
    unsafe {
        let plan = (*query).plannedstmt;
        PgMemoryContexts::For(pg_sys::GetMemoryChunkContext(plan.cast())).switch_to(|_| {
            visit((*plan).planTree);
            elements::<pg_sys::Plan>((*plan).subplans).for_each(|plan| visit(plan));
        });
        match PREVIOUS {
            Some(previous) => previous(query, eflags),
            None => pg_sys::standard_ExecutorStart(query, eflags),
        }
        limits::note(query);
    }
}

/// Looks for scans in a plan, from the top down: a node above a scan is matched with the scan as planned.
unsafe fn visit(plan: *mut pg_sys::Plan) {
    // SAFETY: null or a node of a finished plan; a node's tag says what it is.
    unsafe {
        if plan.is_null() {
            return;
        }
        pg_sys::check_stack_depth();
        let each = |list| elements::<pg_sys::Plan>(list).for_each(|plan| visit(plan));
        match (*plan).type_ {
            pg_sys::NodeTag::T_IndexScan => {
                scan_distance::in_scan(plan.cast());
                scan_score::in_scan(plan.cast());
            }
            pg_sys::NodeTag::T_Result => scan_distance::above_scan(plan),
            pg_sys::NodeTag::T_Append => each((*plan.cast::<pg_sys::Append>()).appendplans),
            pg_sys::NodeTag::T_MergeAppend => {
                each((*plan.cast::<pg_sys::MergeAppend>()).mergeplans)
            }
            pg_sys::NodeTag::T_SubqueryScan => {
                visit((*plan.cast::<pg_sys::SubqueryScan>()).subplan);
            }
            pg_sys::NodeTag::T_CustomScan => {
                each((*plan.cast::<pg_sys::CustomScan>()).custom_plans)
            }
            _ => {}
        }
        visit((*plan).lefttree);
        visit((*plan).righttree);
    }
}

/// What an index scan of a plan is ordered by.
pub struct ScanOrder {
    pub scan: *mut pg_sys::IndexScan,
    pub clause: *mut pg_sys::OpExpr,
    /// The clause's sides: of the row, and the query.
    pub row: *mut pg_sys::Node,
    pub query: *mut pg_sys::Node,
}

impl ScanOrder {
    /// The order, and what `of_index` says of the open index; `None` where the scan has no order or
    /// `of_index` gives nothing.
    ///
    /// # Safety
    /// A scan of a finished plan.
    pub unsafe fn of<T>(
        scan: *mut pg_sys::IndexScan,
        of_index: impl FnOnce(pg_sys::Relation) -> Option<T>,
    ) -> Option<(Self, T)> {
        // SAFETY: the caller's scan, whose index its statement has locked; it is closed again.
        unsafe {
            let clause = elements::<pg_sys::OpExpr>((*scan).indexorderbyorig).next()?;
            if (*clause).xpr.type_ != pg_sys::NodeTag::T_OpExpr {
                return None;
            }
            let mut args = elements::<pg_sys::Node>((*clause).args);
            let (row, query) = (args.next()?, args.next()?);
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let index = pg_sys::index_open((*scan).indexid, lock);
            let known = of_index(index);
            pg_sys::index_close(index, lock);
            Some((Self { scan, clause, row, query }, known?))
        }
    }
}

/// A call of a function of schema `distilface` with the index and the row's `ctid` before other
/// arguments; `None` where the extension's SQL lacks it.
///
/// # Safety
/// A scan of a finished plan; `others` are expressions of it, which are copied.
pub unsafe fn call_for_row(
    scan: *mut pg_sys::IndexScan,
    function: &CStr,
    others: &[*mut pg_sys::Node],
    result: pg_sys::Oid,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: makes nodes in the current memory context.
    unsafe {
        let mut types = vec![pg_sys::OIDOID, pg_sys::TIDOID];
        types.extend(others.iter().map(|&other| pg_sys::exprType(other)));
        let mut name = std::ptr::null_mut();
        for part in [c"distilface", function] {
            let part = pg_sys::makeString(pg_sys::pstrdup(part.as_ptr()));
            name = pg_sys::lappend(name, part.cast());
        }
        let function = pg_sys::LookupFuncName(name, types.len() as c_int, types.as_ptr(), true);
        if function == pg_sys::InvalidOid {
            return None;
        }
        let none = pg_sys::InvalidOid;
        let (index, size) = ((*scan).indexid.into_datum()?, size_of::<pg_sys::Oid>() as c_int);
        let index = pg_sys::makeConst(pg_sys::OIDOID, -1, none, size, index, false, true);
        let ctid = pg_sys::SelfItemPointerAttributeNumber as i16;
        let table = (*scan).scan.scanrelid as c_int;
        let row = pg_sys::makeVar(table, ctid, pg_sys::TIDOID, -1, none, 0);
        let mut args = pg_sys::lappend(std::ptr::null_mut(), index.cast());
        args = pg_sys::lappend(args, row.cast());
        for &other in others {
            args = pg_sys::lappend(args, pg_sys::copyObjectImpl(other.cast()));
        }
        let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
        Some(pg_sys::makeFuncExpr(function, result, args, none, none, form).cast())
    }
}
