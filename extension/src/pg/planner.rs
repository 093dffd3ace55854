//! The planner's hook of both access methods: paths that the planner does not find by itself.
//!
//! It matches an index's order to ascending operators only, and keeps from a scan the clauses that the
//! operator classes leave to a filter. For each table with indexes, where the statement is ordered,
//! the hook offers what is missing: scans of `distilface_hnsw` with all their filter clauses, and
//! scans in the order of a function call that an index knows, `distilface_similarity(e, q) DESC` and
//! the row form of `<@>`.

use super::am::{paths, similarity};
use super::bm25::order;
use super::list::elements;
use pgrx::pg_sys;
use pgrx::prelude::*;

static mut PREVIOUS: pg_sys::set_rel_pathlist_hook_type = None;

/// Installs the hook; called once, when the library is loaded.
pub fn install() {
    // SAFETY: the library is loaded once, on the backend's only thread.
    unsafe {
        PREVIOUS = pg_sys::set_rel_pathlist_hook;
        pg_sys::set_rel_pathlist_hook = Some(set_rel_pathlist);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn set_rel_pathlist(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    rti: pg_sys::Index,
    rte: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the planner's own arguments, valid during the call.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(root, rel, rti, rte);
        }
        let is_table = (*rte).rtekind == pg_sys::RTEKind::RTE_RELATION
            && (*rel).reloptkind != pg_sys::RelOptKind::RELOPT_UPPER_REL;
        if !is_table || (*rel).indexlist.is_null() {
            return;
        }
        let Some(pathkey) = elements::<pg_sys::PathKey>((*root).query_pathkeys).next() else {
            return;
        };
        paths::offer_with_all_clauses(root, rel);
        if (*(*pathkey).pk_eclass).ec_has_volatile {
            return;
        }
        for call in calls((*pathkey).pk_eclass, rel) {
            match direction(pathkey) {
                Direction::Ascending => order::offer_order(root, rel, pathkey, call),
                Direction::Descending => similarity::offer_order(root, rel, pathkey, call),
            }
        }
    }
}

/// Which way a path's key sorts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ascending,
    Descending,
}

unsafe fn direction(pathkey: *mut pg_sys::PathKey) -> Direction {
    // SAFETY: the planner's own structure.
    match unsafe { is_descending(pathkey) } {
        true => Direction::Descending,
        false => Direction::Ascending,
    }
}

#[cfg(not(feature = "pg18"))]
unsafe fn is_descending(pathkey: *mut pg_sys::PathKey) -> bool {
    // SAFETY: the planner's own structure.
    unsafe { (*pathkey).pk_strategy == pg_sys::BTGreaterStrategyNumber as i32 }
}

#[cfg(feature = "pg18")]
unsafe fn is_descending(pathkey: *mut pg_sys::PathKey) -> bool {
    // SAFETY: the planner's own structure.
    unsafe { (*pathkey).pk_cmptype == pg_sys::CompareType::COMPARE_GT }
}

/// The function calls that the order is known to be equal to, on this table.
unsafe fn calls(
    class: *mut pg_sys::EquivalenceClass,
    rel: *mut pg_sys::RelOptInfo,
) -> Vec<*mut pg_sys::FuncExpr> {
    // SAFETY: the planner's own structures.
    unsafe {
        elements::<pg_sys::EquivalenceMember>(members(class, rel))
            .filter(|&member| pg_sys::bms_equal((*member).em_relids, (*rel).relids))
            .map(|member| (*member).em_expr)
            .filter(|&expr| (*expr.cast::<pg_sys::Node>()).type_ == pg_sys::NodeTag::T_FuncExpr)
            .map(|expr| expr.cast())
            .collect()
    }
}

#[cfg(not(feature = "pg18"))]
unsafe fn members(
    class: *mut pg_sys::EquivalenceClass,
    _rel: *mut pg_sys::RelOptInfo,
) -> *mut pg_sys::List {
    // SAFETY: the planner's own structure; partitions' members are in the same list.
    unsafe { (*class).ec_members }
}

#[cfg(feature = "pg18")]
unsafe fn members(
    class: *mut pg_sys::EquivalenceClass,
    rel: *mut pg_sys::RelOptInfo,
) -> *mut pg_sys::List {
    // SAFETY: the planner's own structures; a partition's members are in a list of its own.
    unsafe {
        let is_partition = (*rel).reloptkind == pg_sys::RelOptKind::RELOPT_OTHER_MEMBER_REL;
        let size = usize::try_from((*class).ec_childmembers_size).unwrap_or(0);
        let relid = (*rel).relid as usize;
        match is_partition && !(*class).ec_childmembers.is_null() && relid < size {
            true => *(*class).ec_childmembers.add(relid),
            false => (*class).ec_members,
        }
    }
}
