//! What an index scan costs.
//!
//! A query opens the segments, finds its terms' postings and reads as much of them as the early
//! end of a top-k search leaves; most of it is paid before the first row. A row costs its heap TID's
//! page. A condition's share of the rows is the operator's estimate.

use super::bind::bound_index;
use super::partitions;
use crate::pg::index_am::{clauses_selectivity, page_costs};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Share of an index's pages that a query touches.
const TOUCHED_SHARE: f64 = 0.02;
/// Operators' worth of work for each row that the terms' postings hold.
const WORK_PER_POSTING: f64 = 0.2;

/// Whether the path evaluates a query by the index that the planner bound it to, or by a partition's.
unsafe fn is_bound_here(path: *mut pg_sys::IndexPath) -> bool {
    // SAFETY: the planner's own path: lists of clauses whose operators have two arguments.
    unsafe {
        let index = (*(*path).indexinfo).indexoid;
        let clauses = pg_sys::get_quals_from_indexclauses((*path).indexclauses);
        let fits = |node: *mut pg_sys::Node| {
            if !pgrx::is_a(node, pg_sys::NodeTag::T_OpExpr) {
                return true;
            }
            let arguments = (*node.cast::<pg_sys::OpExpr>()).args;
            let query = pg_sys::list_nth(arguments, 1).cast::<pg_sys::Node>();
            bound_index(query).is_none_or(|bound| partitions::belongs_to(index, bound))
        };
        let all = |list: *mut pg_sys::List, of_restrictions: bool| {
            let length = list.as_ref().map_or(0, |list| list.length);
            (0..length).all(|at| {
                let node = pg_sys::list_nth(list, at).cast::<pg_sys::Node>();
                fits(if of_restrictions && pgrx::is_a(node, pg_sys::NodeTag::T_RestrictInfo) {
                    (*node.cast::<pg_sys::RestrictInfo>()).clause.cast()
                } else {
                    node
                })
            })
        };
        all(clauses, true) && all((*path).indexorderbys, false)
    }
}

/// Estimates the scan that `path` describes.
#[pg_guard]
#[expect(clippy::too_many_arguments, reason = "PostgreSQL's signature")]
pub unsafe extern "C-unwind" fn amcostestimate(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    _loop_count: f64,
    startup_cost: *mut pg_sys::Cost,
    total_cost: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    // SAFETY: the planner's own arguments: a path over an index of this access method and places
    // for the results.
    unsafe {
        let info = (*path).indexinfo;
        let clauses = (*path).indexclauses;
        *correlation = 0.0;
        *pages = f64::from((*info).pages);
        // Neither a condition nor an order: all rows, in no order that anybody asked for.
        let unasked = clauses.is_null() && (*path).indexorderbys.is_null();
        // Another index cuts texts in another way and has other statistics.
        if unasked || !is_bound_here(path) {
            *selectivity = 1.0;
            *startup_cost = f64::INFINITY;
            *total_cost = f64::INFINITY;
            return;
        }
        *selectivity = clauses_selectivity(root, path);
        let (random_page_cost, seq_page_cost) = page_costs((*info).reltablespace);
        let rows = (*info).tuples.max(1.0);
        let found = rows * *selectivity;
        let touched = (f64::from((*info).pages) * TOUCHED_SHARE).clamp(1.0, 200.0);
        let postings = (rows * 0.1).min(1e5);
        let work = pg_sys::cpu_operator_cost * WORK_PER_POSTING * postings;
        *startup_cost = touched * seq_page_cost + random_page_cost + work;
        let tid_pages = (found / 200.0).max(1.0).min(f64::from((*info).pages).max(1.0));
        *total_cost = *startup_cost
            + found * (pg_sys::cpu_index_tuple_cost + pg_sys::cpu_operator_cost)
            + tid_pages * seq_page_cost;
    }
}
