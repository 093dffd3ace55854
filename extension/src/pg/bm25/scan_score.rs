//! `body <@> 'q'` where an index scan knows it already.
//!
//! A scan that is ordered by the score has it; the executor would tokenize the text of every row that the
//! scan returns and score it again. So in the columns and conditions of such a scan the expression becomes
//! `COALESCE(distilface.scan_score(index, ctid, query), body <@> query)` ([`crate::pg::executor`]): the
//! function asks the scan that has just returned the row, and for any other row (a version that a row lock
//! rechecks, a row whose distance the scan does not know) the expression is computed as ever. The same for
//! the row form of `<@>`.

use super::bind::is_row_form;
use super::query::BoundQuery;
use crate::pg::executor::{Answer, ScanOrder, ask, call_for_row};
use crate::pg::index_am::is_access_method;
use crate::pg::list::{elements, list_of};
use crate::pg::tree;
use pgrx::prelude::*;
use pgrx::{is_a, pg_sys};
use std::ffi::{CStr, c_void};

/// The distance that a scan of the index gave to the row; NULL where there is none, or not this row.
#[pg_extern(sql = false)]
fn scan_score(
    index: pg_sys::Oid,
    row: pg_sys::ItemPointerData,
    query: BoundQuery<'_>,
) -> Option<f64> {
    let is_asked = |asked| {
        // SAFETY: scans of a distilface_bm25 index alone are open under its name, with a bound query.
        let asked = unsafe { BoundQuery::new(asked) };
        asked.column() == query.column() && asked.raw_text() == query.raw_text()
    };
    match ask(index, row, is_asked) {
        Answer::Distance(distance) => distance,
        Answer::OtherRow | Answer::NoScan => None,
    }
}

/// In a scan's own columns and conditions.
///
/// # Safety
/// A node of a finished plan that nothing runs yet, in whose memory context the caller is.
pub unsafe fn in_scan(scan: *mut pg_sys::IndexScan) {
    // SAFETY: the caller's node.
    unsafe {
        let Some(order) = Order::of(scan) else { return };
        let plan = &mut (*scan).scan.plan;
        let mut instead = |node| order.instead_of(node);
        plan.targetlist = tree::replace(plan.targetlist.cast(), &mut instead).cast();
        plan.qual = tree::replace(plan.qual.cast(), &mut instead).cast();
    }
}

/// What a scan of our index is ordered by, whose query is bound.
struct Order(ScanOrder);

impl Order {
    /// `None` where the scan is of another kind of index, has no order, or its query is not bound.
    unsafe fn of(scan: *mut pg_sys::IndexScan) -> Option<Self> {
        // SAFETY: the caller's node of a finished plan.
        unsafe {
            let (order, ()) = ScanOrder::of(scan, |index| {
                is_access_method((*(*index).rd_rel).relam, c"distilface_bm25").then_some(())
            })?;
            (pg_sys::exprType(order.query) != pg_sys::TEXTOID).then_some(Self(order))
        }
    }

    /// What stands in the place of an expression; `None` for the expression itself.
    unsafe fn instead_of(&self, node: *mut pg_sys::Node) -> Option<*mut pg_sys::Node> {
        // SAFETY: the caller's node of the scan's plan.
        unsafe {
            if is_asking(node) {
                // A cached plan that was changed before.
                return Some(node);
            }
            if !self.is_distance(node) {
                return None;
            }
            let result = pg_sys::FLOAT8OID;
            let asks = call_for_row(self.0.scan, c"scan_score", &[self.0.query], result)?;
            let mut either = PgBox::<pg_sys::CoalesceExpr, AllocatedByRust>::alloc_node(
                pg_sys::NodeTag::T_CoalesceExpr,
            );
            either.coalescetype = result;
            either.args = pg_sys::lappend(list_of(asks.cast()), node.cast());
            either.location = -1;
            Some(either.into_pg().cast())
        }
    }

    /// Whether an expression is the distance that the scan is ordered by.
    unsafe fn is_distance(&self, node: *mut pg_sys::Node) -> bool {
        // SAFETY: the caller's node.
        unsafe {
            if is_a(node, pg_sys::NodeTag::T_OpExpr) {
                return pg_sys::equal(node.cast(), self.0.clause.cast());
            }
            if !is_a(node, pg_sys::NodeTag::T_FuncExpr) {
                return false;
            }
            let call = node.cast::<pg_sys::FuncExpr>();
            let mut args = elements::<c_void>((*call).args);
            (*call).funcresulttype == pg_sys::FLOAT8OID
                && args.next().is_some_and(|text| pg_sys::equal(text, self.0.row.cast()))
                && args.next().is_some_and(|query| pg_sys::equal(query, self.0.query.cast()))
                && is_row_form((*call).funcid)
        }
    }
}

/// Whether an expression asks a scan already.
unsafe fn is_asking(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's node; the name is palloc'd or null.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_CoalesceExpr) {
            return false;
        }
        let either = node.cast::<pg_sys::CoalesceExpr>();
        elements::<pg_sys::Node>((*either).args).next().is_some_and(|first| {
            is_a(first, pg_sys::NodeTag::T_FuncExpr) && {
                let name = pg_sys::get_func_name((*first.cast::<pg_sys::FuncExpr>()).funcid);
                !name.is_null() && CStr::from_ptr(name) == c"scan_score"
            }
        })
    }
}
