//! `ORDER BY` expressions that nobody reads.
//!
//! PostgreSQL computes the expression of an `ORDER BY` for every row that a scan gives, also where the
//! scan's own order serves and the value is thrown away. For vectors that is a distance; for text it
//! would run the encoder over each row, which costs a search for ten rows eleven times its query. So
//! before a plan starts, such values become NULL in it: where an index scan of ours is all that is
//! below the top of a query or a subquery, but for a LIMIT and row locks, which hand rows through, and
//! a result, which computes values above such a LIMIT. A value that is selected is no such one, and
//! `WITH TIES` compares what it orders by.
//!
//! The change is made in place, as often as a plan is run: a plan that is kept is changed once.

use crate::pg::index_am::is_access_method;
use crate::pg::list::elements;
use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag::{
    T_Append, T_Const, T_IndexScan, T_Limit, T_LockRows, T_MergeAppend, T_Result, T_SubqueryScan,
};
use pgrx::prelude::*;
use std::cell::Cell;

static mut PREVIOUS: pg_sys::ExecutorStart_hook_type = None;

thread_local! {
    /// NULL as a `double precision` and as a `real`, which live as long as the backend.
    static NULLS: [Cell<*mut pg_sys::Const>; 2] =
        const { [Cell::new(std::ptr::null_mut()), Cell::new(std::ptr::null_mut())] };
}

/// Where a plan's node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing above reads more than what the query selects.
    Top,
    Below,
}

/// Installs the hook; called once, when the library is loaded.
pub fn install() {
    // SAFETY: the library is loaded once, on the backend's only thread.
    unsafe {
        PREVIOUS = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: the executor's own arguments: a query with its plan, which nothing has started.
    unsafe {
        let statement = (*query).plannedstmt;
        visit((*statement).planTree, Place::Top);
        for subplan in elements::<pg_sys::Plan>((*statement).subplans) {
            visit(subplan, Place::Top);
        }
        match PREVIOUS {
            Some(previous) => previous(query, flags),
            None => pg_sys::standard_ExecutorStart(query, flags),
        }
    }
}

/// Goes through a plan.
///
/// # Safety
/// `plan` is null or the root of a finished plan.
unsafe fn visit(plan: *mut pg_sys::Plan, place: Place) {
    // SAFETY: the caller's promise; each node is of the type that its tag says.
    unsafe {
        if plan.is_null() {
            return;
        }
        match (*plan).type_ {
            T_Limit => {
                let ties = (*plan.cast::<pg_sys::Limit>()).limitOption
                    == pg_sys::LimitOption::LIMIT_OPTION_WITH_TIES;
                visit((*plan).lefttree, if ties { Place::Below } else { place });
            }
            T_LockRows => visit((*plan).lefttree, place),
            T_IndexScan | T_Result if place == Place::Top && gives_our_order(plan) => {
                forget_order((*plan).targetlist);
            }
            T_SubqueryScan => visit((*plan.cast::<pg_sys::SubqueryScan>()).subplan, Place::Top),
            T_Append => visit_all((*plan.cast::<pg_sys::Append>()).appendplans),
            T_MergeAppend => visit_all((*plan.cast::<pg_sys::MergeAppend>()).mergeplans),
            _ => {
                visit((*plan).lefttree, Place::Below);
                visit((*plan).righttree, Place::Below);
            }
        }
    }
}

unsafe fn visit_all(plans: *mut pg_sys::List) {
    // SAFETY: the caller passes a node's list of plans.
    unsafe {
        for plan in elements::<pg_sys::Plan>(plans) {
            visit(plan, Place::Below);
        }
    }
}

/// Whether a plan's rows come in the order of an index of ours.
unsafe fn gives_our_order(plan: *mut pg_sys::Plan) -> bool {
    // SAFETY: the caller passes null or the root of a finished plan.
    unsafe {
        let Some(node) = plan.as_ref() else { return false };
        match node.type_ {
            T_Limit | T_Result => gives_our_order(node.lefttree),
            T_IndexScan => {
                let scan = plan.cast::<pg_sys::IndexScan>();
                !(*scan).indexorderby.is_null() && is_ours((*scan).indexid)
            }
            _ => false,
        }
    }
}

/// Makes NULL of what a node computes for the `ORDER BY` alone.
unsafe fn forget_order(targets: *mut pg_sys::List) {
    // SAFETY: the caller passes the list of a node of a finished plan.
    unsafe {
        for entry in elements::<pg_sys::TargetEntry>(targets) {
            // What locks rows is thrown away too, but not what is sorted by.
            let sorted_by = (*entry).resjunk && (*entry).ressortgroupref != 0;
            if sorted_by && (*(*entry).expr).type_ != T_Const {
                let node = (*entry).expr.cast::<pg_sys::Node>();
                if let Some(null) = null_of(pg_sys::exprType(node)) {
                    (*entry).expr = null.cast();
                }
            }
        }
    }
}

unsafe fn is_ours(index: pg_sys::Oid) -> bool {
    // SAFETY: the planner has locked the index's table; null where the index is gone.
    unsafe {
        let relation = pg_sys::RelationIdGetRelation(index);
        if relation.is_null() {
            return false;
        }
        let ours = is_access_method((*(*relation).rd_rel).relam, c"distilface_hnsw");
        pg_sys::RelationClose(relation);
        ours
    }
}

/// NULL of a distance's or a similarity's type.
fn null_of(kind: pg_sys::Oid) -> Option<*mut pg_sys::Const> {
    let at = [pg_sys::FLOAT8OID, pg_sys::FLOAT4OID].iter().position(|&known| known == kind)?;
    NULLS.with(|nulls| {
        if nulls[at].get().is_null() {
            // SAFETY: a node in a memory context that is never reset: a plan may outlive any other.
            unsafe {
                let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
                nulls[at].set(pg_sys::makeNullConst(kind, -1, pg_sys::InvalidOid));
                pg_sys::MemoryContextSwitchTo(before);
            }
        }
        Some(nulls[at].get())
    })
}
