//! `body <=> 'q'` where an index scan knows it already.
//!
//! An index on text holds the vectors, so its scan knows each row's distance. The executor does not, and
//! would embed the text of every row that the scan returns. So `distilface.scan_distance(index, ctid, body, 'q')`
//! stands in the place of the expression ([`crate::pg::executor`]), in the columns and conditions of every
//! scan that is ordered by it; likewise for `distilface_similarity(body, 'q')`. The function asks the scan
//! that has just returned the row. For any other row (a version that a row lock rechecks) it embeds the
//! text by the index's model.

use super::index::{Element, IndexRelation};
use super::similarity;
use super::vectors::Source;
use crate::embed::session::{self, Strictness};
use crate::pg::buffers::Logging;
use crate::pg::executor::{Answer, ScanOrder, ask, call_for_row};
use crate::pg::list::elements;
use crate::pg::report::Report;
use crate::pg::text::to_utf8;
use crate::pg::tree;
use crate::pg::varlena::Plain;
use distilface_core::encoder::InputKind;
use distilface_core::vector::Metric;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use std::ffi::{CStr, c_int, c_void};

const SHARED: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// The operator that orders by distance.
const DISTANCE: i16 = 1;

/// The distance that a scan of the index gave to the row.
#[pg_extern(sql = false)]
fn scan_distance(
    index: pg_sys::Oid,
    row: pg_sys::ItemPointerData,
    passage: &[u8],
    query: &[u8],
) -> Option<f64> {
    distance_by(index, row, passage, query)
}

/// The similarity that a scan of the index gave to the row.
#[pg_extern(sql = false)]
fn scan_similarity(
    index: pg_sys::Oid,
    row: pg_sys::ItemPointerData,
    passage: &[u8],
    query: &[u8],
) -> Option<f32> {
    distance_by(index, row, passage, query).map(|distance| (1.0 - distance) as f32)
}

fn distance_by(
    index: pg_sys::Oid,
    row: pg_sys::ItemPointerData,
    passage: &[u8],
    query: &[u8],
) -> Option<f64> {
    match ask(index, row, |asked| is_text(asked, query)) {
        Answer::Distance(distance) => distance.filter(|distance| distance.is_finite()),
        Answer::OtherRow => computed(index, passage, query),
        Answer::NoScan => Report::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "no scan of this index is under way",
        )
        .hint("Only plans call this function. Write body <=> 'query' or distilface_similarity(body, 'query').")
        .raise(),
    }
}

/// Whether a scan's query is this text.
fn is_text(asked: pg_sys::Datum, query: &[u8]) -> bool {
    // SAFETY: scans of indexes on text alone are open under such an index's name, with a text as query.
    unsafe { Plain::from_datum(asked).bytes()[size_of::<u32>()..] == *query }
}

/// The distance by the index's model.
fn computed(index: pg_sys::Oid, passage: &[u8], query: &[u8]) -> Option<f64> {
    // SAFETY: opened with a lock, and closed again.
    let source = unsafe {
        let relation = pg_sys::index_open(index, SHARED);
        let index = IndexRelation::new(relation);
        let source = Source::of(index, &index.store(Logging::Generic));
        pg_sys::index_close(relation, SHARED);
        source
    };
    let Source::Text(_, model) = source else {
        unreachable!("only scans of indexes on text are open")
    };
    let embed = |input, text| session::embed_one(model, input, &to_utf8(text), Strictness::Pinned);
    let query = embed(InputKind::Query, query)?;
    let passage = embed(InputKind::Passage, passage)?;
    Some(Metric::Cosine.distance(&passage, &query))
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
        let mut place = Place::Scan(&order);
        let mut instead = |node| place.instead_of(node);
        plan.targetlist = tree::replace(plan.targetlist.cast(), &mut instead).cast();
        plan.qual = tree::replace(plan.qual.cast(), &mut instead).cast();
    }
}

/// In the columns of a node above the limit without a count that `similarity` puts over a scan: the
/// scan gets one column more.
///
/// # Safety
/// As [`in_scan`].
pub unsafe fn above_scan(plan: *mut pg_sys::Plan) {
    // SAFETY: the caller's node.
    unsafe {
        let limit = (*plan).lefttree.cast::<pg_sys::Limit>();
        if limit.is_null() || (*limit).plan.type_ != pg_sys::NodeTag::T_Limit {
            return;
        }
        let scan = (*limit).plan.lefttree.cast::<pg_sys::IndexScan>();
        let is_whole = (*limit).limitCount.is_null() && (*limit).limitOffset.is_null();
        if !is_whole || (*scan).scan.plan.type_ != pg_sys::NodeTag::T_IndexScan {
            return;
        }
        let Some(order) = Order::of(scan) else { return };
        let mut place = Place::Above { order: &order, limit, scan, column: None };
        let mut instead = |node| place.instead_of(node);
        (*plan).targetlist = tree::replace((*plan).targetlist.cast(), &mut instead).cast();
        (*plan).qual = tree::replace((*plan).qual.cast(), &mut instead).cast();
    }
}

/// What a scan of an index on text is ordered by.
struct Order {
    by: ScanOrder,
    /// `<=>` of the index's operator class.
    operator: pg_sys::Oid,
}

impl Order {
    /// `None` where the scan is of another kind of index or has no order.
    unsafe fn of(scan: *mut pg_sys::IndexScan) -> Option<Self> {
        // SAFETY: the caller's node of a finished plan.
        unsafe {
            let (by, family) = ScanOrder::of(scan, |relation| {
                let index = IndexRelation::new(relation);
                let is_on_text = index.is_ours() && index.column().element == Element::Text;
                is_on_text.then(|| *(*relation).rd_opfamily)
            })?;
            let text = pg_sys::TEXTOID;
            let operator = pg_sys::get_opfamily_member(family, text, text, DISTANCE);
            (pg_sys::exprType(by.row) == text).then_some(Self { by, operator })
        }
    }

    /// A call of one of the functions above; `None` where the extension's SQL lacks it.
    unsafe fn call(&self, function: &CStr, result: pg_sys::Oid) -> Option<*mut pg_sys::Node> {
        // SAFETY: the scan's own expressions.
        unsafe { call_for_row(self.by.scan, function, &[self.by.row, self.by.query], result) }
    }

    /// Whether an expression is the distance that the scan is ordered by.
    unsafe fn is_distance(&self, node: *mut pg_sys::Node) -> bool {
        // SAFETY: the caller's node.
        unsafe {
            if (*node).type_ != pg_sys::NodeTag::T_OpExpr {
                return false;
            }
            let expr = node.cast::<pg_sys::OpExpr>();
            (*expr).opno == self.operator && self.sides((*expr).args) == Some(Sides::AsIndexed)
        }
    }

    /// Whether an expression is the similarity that belongs to that distance. `args` are the arguments
    /// in terms of the scan's table.
    unsafe fn is_similarity(&self, call: *mut pg_sys::FuncExpr, args: *mut pg_sys::List) -> bool {
        // SAFETY: the caller's nodes.
        unsafe {
            similarity::is_similarity(call)
                && pg_sys::get_func_namespace((*call).funcid)
                    == pg_sys::get_func_namespace(pg_sys::get_opcode(self.operator))
                && self.sides(args).is_some()
                && similarity::same_model((*self.by.scan).indexid)
        }
    }

    unsafe fn sides(&self, args: *mut pg_sys::List) -> Option<Sides> {
        // SAFETY: the caller's list of expressions.
        unsafe {
            let mut args = elements::<c_void>(args);
            let (left, right) = (args.next()?, args.next()?);
            let (passage, query) = (self.by.row.cast(), self.by.query.cast());
            if pg_sys::equal(left, passage) && pg_sys::equal(right, query) {
                return Some(Sides::AsIndexed);
            }
            let is_turned = pg_sys::equal(left, query) && pg_sys::equal(right, passage);
            is_turned.then_some(Sides::Turned)
        }
    }
}

/// Which way round a passage and a query stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sides {
    AsIndexed,
    Turned,
}

/// Where expressions are replaced.
enum Place<'a> {
    Scan(&'a Order),
    Above {
        order: &'a Order,
        limit: *mut pg_sys::Limit,
        scan: *mut pg_sys::IndexScan,
        /// The column with the similarity, once it is there.
        column: Option<i16>,
    },
}

impl Place<'_> {
    /// What stands in the place of an expression; `None` for the expression itself.
    unsafe fn instead_of(&mut self, node: *mut pg_sys::Node) -> Option<*mut pg_sys::Node> {
        // SAFETY: the caller's node.
        unsafe {
            let is_call = (*node).type_ == pg_sys::NodeTag::T_FuncExpr;
            let call = node.cast::<pg_sys::FuncExpr>();
            match self {
                Self::Scan(order) if order.is_distance(node) => {
                    order.call(c"scan_distance", pg_sys::FLOAT8OID)
                }
                Self::Scan(order) if is_call && order.is_similarity(call, (*call).args) => {
                    order.call(c"scan_similarity", pg_sys::FLOAT4OID)
                }
                Self::Above { order, limit, scan, column } if is_call => {
                    let args = in_terms_of_the_table((*call).args, *limit, *scan)?;
                    if !order.is_similarity(call, args) {
                        return None;
                    }
                    let at = match *column {
                        Some(at) => at,
                        None => {
                            let value = order.call(c"scan_similarity", pg_sys::FLOAT4OID)?;
                            let at = append_column(&mut (*(*scan)).scan.plan, value.cast());
                            append_column(&mut (*(*limit)).plan, below(at))
                        }
                    };
                    *column = Some(at);
                    Some(below(at).cast())
                }
                _ => None,
            }
        }
    }
}

/// A column of the node below.
unsafe fn below(at: i16) -> *mut pg_sys::Expr {
    // SAFETY: makes a node in the current memory context.
    unsafe {
        pg_sys::makeVar(
            pg_sys::OUTER_VAR as c_int,
            at,
            pg_sys::FLOAT4OID,
            -1,
            pg_sys::InvalidOid,
            0,
        )
        .cast()
    }
}

unsafe fn append_column(plan: &mut pg_sys::Plan, value: *mut pg_sys::Expr) -> i16 {
    // SAFETY: appends to the plan's own list.
    unsafe {
        let at = elements::<c_void>(plan.targetlist).count() as i16 + 1;
        let entry = pg_sys::makeTargetEntry(value, at, std::ptr::null_mut(), false);
        plan.targetlist = pg_sys::lappend(plan.targetlist, entry.cast());
        at
    }
}

/// Arguments of a node above, with the scan's expressions for the columns that they read; `None` where one
/// reads a column that the scan does not have.
unsafe fn in_terms_of_the_table(
    args: *mut pg_sys::List,
    limit: *mut pg_sys::Limit,
    scan: *mut pg_sys::IndexScan,
) -> Option<*mut pg_sys::List> {
    // SAFETY: the caller's nodes.
    unsafe {
        let mut is_whole = true;
        let resolved = tree::replace(args.cast(), &mut |node| {
            let at = column_below(node.cast())?;
            let of_scan = column(&(*limit).plan, at)
                .and_then(|through| column(&(*scan).scan.plan, column_below(through)?));
            is_whole &= of_scan.is_some();
            of_scan.map(|expr| expr.cast())
        });
        is_whole.then(|| resolved.cast())
    }
}

/// Which column of the node below an expression is.
unsafe fn column_below(expr: *mut pg_sys::Expr) -> Option<i16> {
    // SAFETY: the caller's node.
    unsafe {
        let var = expr.cast::<pg_sys::Var>();
        let is_column = (*expr).type_ == pg_sys::NodeTag::T_Var
            && i64::from((*var).varno) == i64::from(pg_sys::OUTER_VAR);
        is_column.then(|| (*var).varattno)
    }
}

unsafe fn column(plan: &pg_sys::Plan, at: i16) -> Option<*mut pg_sys::Expr> {
    let place = usize::try_from(at).ok()?.checked_sub(1)?;
    // SAFETY: a plan's columns are target entries.
    unsafe {
        elements::<pg_sys::TargetEntry>(plan.targetlist).nth(place).map(|entry| (*entry).expr)
    }
}
