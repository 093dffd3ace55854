//! `body <=> 'q'` where an index scan knows it already.
//!
//! An index on text holds the vectors, so its scan knows each row's distance. The executor does not:
//! what a query is ordered by is a column of the plan, shown or not, and PostgreSQL computes it for
//! every row that a scan returns, which would embed the row's text again. So before a plan runs, a hook
//! puts `distilface.scan_distance(index, ctid, body, 'q')` in the place of the expression, in the
//! columns and conditions of every scan that is ordered by it; likewise for
//! `distilface_similarity(body, 'q')`. The function asks the scan that has just returned the row. For
//! any other row (a version that a row lock rechecks) it embeds the text by the index's model.
//!
//! The hook is that of the executor's start, not the planner's: a session's first plan is made before
//! this library is loaded. It changes a plan once; a cached plan keeps the change.

use super::index::{Element, IndexRelation};
use super::similarity;
use super::vectors::Source;
use crate::embed::session::{self, Strictness};
use crate::pg::buffers::Logging;
use crate::pg::index_am::heap_tid;
use crate::pg::list::elements;
use crate::pg::report::Report;
use crate::pg::text::to_utf8;
use crate::pg::tree::{self, copy};
use crate::pg::varlena::Plain;
use distilface_core::encoder::InputKind;
use distilface_core::vector::Metric;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};
use std::cell::RefCell;
use std::ffi::{CStr, c_int, c_void};

const SHARED: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// The operator that orders by distance.
const DISTANCE: i16 = 1;

thread_local! {
    /// Scans of indexes on text that have started and not ended.
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

/// Lets [`distance_by`] ask a scan. It stays valid until [`close`].
pub fn open(scan: pg_sys::IndexScanDesc) {
    OPEN.with_borrow_mut(|open| {
        if !open.contains(&scan) {
            open.push(scan);
        }
    });
}

/// Forgets a scan; nothing where it was not open.
pub fn close(scan: pg_sys::IndexScanDesc) {
    OPEN.with_borrow_mut(|open| open.retain(|&other| other != scan));
}

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
    match ask(index, row, query) {
        Answer::Distance(distance) => distance,
        Answer::OtherRow => computed(index, passage, query),
        Answer::NoScan => Report::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "no scan of this index is under way",
        )
        .hint("Only plans call this function. Write body <=> 'query' or distilface_similarity(body, 'query').")
        .raise(),
    }
}

/// What the open scans know of a row.
enum Answer {
    /// Its distance from the query; `None` for a row without a vector.
    Distance(Option<f64>),
    /// The index is scanned, but this is not the row where the scan is.
    OtherRow,
    NoScan,
}

fn ask(index: pg_sys::Oid, row: pg_sys::ItemPointerData, query: &[u8]) -> Answer {
    OPEN.with_borrow(|open| {
        let mut answer = Answer::NoScan;
        for &scan in open {
            // SAFETY: an open scan has not ended, and has one ORDER BY key, whose argument outlives it.
            unsafe {
                if (*(*scan).indexRelation).rd_id != index {
                    continue;
                }
                // The executor puts there which version of the row the snapshot saw.
                if heap_tid((*scan).xs_heaptid) == heap_tid(row) && is_asked(scan, query) {
                    let unknown = *(*scan).xs_orderbynulls;
                    let distance = f64::from_bits((*(*scan).xs_orderbyvals).value() as u64);
                    return Answer::Distance(
                        (!unknown && distance.is_finite()).then_some(distance),
                    );
                }
            }
            answer = Answer::OtherRow;
        }
        answer
    })
}

/// Whether a scan's query is this text.
unsafe fn is_asked(scan: pg_sys::IndexScanDesc, query: &[u8]) -> bool {
    // SAFETY: the caller's scan; a key that is not NULL has a text.
    unsafe {
        let key = &*(*scan).orderByData;
        key.sk_flags & pg_sys::SK_ISNULL as i32 == 0
            && Plain::from_datum(key.sk_argument).bytes()[size_of::<u32>()..] == *query
    }
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
            pg_sys::NodeTag::T_IndexScan => in_scan(plan.cast()),
            pg_sys::NodeTag::T_Result => above_scan(plan),
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

/// In a scan's own columns and conditions.
unsafe fn in_scan(scan: *mut pg_sys::IndexScan) {
    // SAFETY: the caller's node.
    unsafe {
        let Some(order) = Order::of(scan) else { return };
        let plan = &mut (*scan).scan.plan;
        let mut place = Place::Scan(&order);
        plan.targetlist = replace(plan.targetlist.cast(), &mut place).cast();
        plan.qual = replace(plan.qual.cast(), &mut place).cast();
    }
}

/// In the columns of a node above the limit without a count that `similarity` puts over a scan: the
/// scan gets one column more.
unsafe fn above_scan(plan: *mut pg_sys::Plan) {
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
        (*plan).targetlist = replace((*plan).targetlist.cast(), &mut place).cast();
        (*plan).qual = replace((*plan).qual.cast(), &mut place).cast();
    }
}

/// What a scan of an index on text is ordered by.
struct Order {
    index: pg_sys::Oid,
    /// The scanned table's place among the plan's relations.
    table: pg_sys::Index,
    passage: *mut pg_sys::Node,
    query: *mut pg_sys::Node,
    /// `<=>` of the index's operator class.
    operator: pg_sys::Oid,
}

impl Order {
    /// `None` where the scan is of another kind of index or has no order.
    unsafe fn of(scan: *mut pg_sys::IndexScan) -> Option<Self> {
        // SAFETY: the caller's node of a finished plan.
        unsafe {
            let clause = elements::<pg_sys::OpExpr>((*scan).indexorderbyorig).next()?;
            if (*clause).xpr.type_ != pg_sys::NodeTag::T_OpExpr {
                return None;
            }
            let mut args = elements::<pg_sys::Node>((*clause).args);
            let (passage, query) = (args.next()?, args.next()?);
            if pg_sys::exprType(passage) != pg_sys::TEXTOID {
                return None;
            }
            let index = (*scan).indexid;
            let relation = pg_sys::index_open(index, SHARED);
            let (family, form) = (*(*relation).rd_opfamily, IndexRelation::new(relation));
            let is_on_text = form.is_ours() && form.column().element == Element::Text;
            pg_sys::index_close(relation, SHARED);
            let text = pg_sys::TEXTOID;
            is_on_text.then(|| Self {
                index,
                table: (*scan).scan.scanrelid,
                passage,
                query,
                operator: pg_sys::get_opfamily_member(family, text, text, DISTANCE),
            })
        }
    }

    /// A call of one of the functions above; `None` where the extension's SQL lacks it.
    unsafe fn call(&self, function: &CStr, result: pg_sys::Oid) -> Option<*mut pg_sys::FuncExpr> {
        // SAFETY: makes nodes in the current memory context, of copies of the plan's own.
        unsafe {
            let types = [pg_sys::OIDOID, pg_sys::TIDOID, pg_sys::TEXTOID, pg_sys::TEXTOID];
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
            let (index, size) = (self.index.into_datum()?, size_of::<pg_sys::Oid>() as c_int);
            let index = pg_sys::makeConst(pg_sys::OIDOID, -1, none, size, index, false, true);
            let ctid = pg_sys::SelfItemPointerAttributeNumber as i16;
            let row = pg_sys::makeVar(self.table as c_int, ctid, pg_sys::TIDOID, -1, none, 0);
            let mut args = pg_sys::lappend(std::ptr::null_mut(), index.cast());
            for arg in [row.cast(), copy(self.passage), copy(self.query)] {
                args = pg_sys::lappend(args, arg.cast());
            }
            let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
            Some(pg_sys::makeFuncExpr(function, result, args, none, none, form))
        }
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
                && similarity::same_model(self.index)
        }
    }

    unsafe fn sides(&self, args: *mut pg_sys::List) -> Option<Sides> {
        // SAFETY: the caller's list of expressions.
        unsafe {
            let mut args = elements::<c_void>(args);
            let (left, right) = (args.next()?, args.next()?);
            let (passage, query) = (self.passage.cast(), self.query.cast());
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
                    Some(order.call(c"scan_distance", pg_sys::FLOAT8OID)?.cast())
                }
                Self::Scan(order) if is_call && order.is_similarity(call, (*call).args) => {
                    Some(order.call(c"scan_similarity", pg_sys::FLOAT4OID)?.cast())
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

/// Arguments of a node above, with the scan's expressions for the columns that they read; `None` where one is
/// neither such a column nor without columns.
unsafe fn in_terms_of_the_table(
    args: *mut pg_sys::List,
    limit: *mut pg_sys::Limit,
    scan: *mut pg_sys::IndexScan,
) -> Option<*mut pg_sys::List> {
    // SAFETY: the caller's nodes.
    unsafe {
        let mut resolved = std::ptr::null_mut();
        for arg in elements::<pg_sys::Expr>(args) {
            let expr = match column_below(arg) {
                None => arg,
                Some(at) => {
                    let through = column(&(*limit).plan, at)?;
                    column(&(*scan).scan.plan, column_below(through)?)?
                }
            };
            resolved = pg_sys::lappend(resolved, expr.cast());
        }
        Some(resolved)
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

/// A copy of an expression or a list of them, with what [`Place::instead_of`] says.
unsafe fn replace(node: *mut pg_sys::Node, place: &mut Place<'_>) -> *mut pg_sys::Node {
    // SAFETY: the caller's node of a finished plan.
    unsafe { tree::replace(node, &mut |node| place.instead_of(node)) }
}
