//! `ORDER BY distilface_similarity(e, q) DESC` by the index.
//!
//! The planner matches an access method to ascending operators only, so a hook ([`crate::pg::planner`])
//! offers the path. The order of falling similarity is the order of rising cosine distance, but for
//! the rows that have none (NULL, a zero vector, a blank text): their similarity is NULL, and SQL puts
//! NULL first in a descending order. `NULLS LAST` is what strategy 1, the distance, does; for `NULLS
//! FIRST` there is strategy 2, the distance with such rows in front. So the index's order is the
//! sort's in both.
//!
//! The path is an index path in its own order, under a LIMIT without a count that claims the query's
//! order: the executor's index scan needs the operator of the index's order, and of all nodes above one
//! the planner keeps this one and its claim as they are.

use super::index::{Element, IndexRelation};
use super::paths;
use super::vectors::Source;
use crate::model::registry;
use crate::pg::buffers::Logging;
use crate::pg::index_am::is_access_method;
use crate::pg::list::{elements, list_of};
use distilface_core::page::PageStore;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;

/// The operator that orders by distance.
const DISTANCE: i16 = 1;
/// The operator that orders by distance with undefined distances in front.
pub const UNDEFINED_FIRST: u16 = 2;

/// Offers the paths for an order by falling similarity.
///
/// # Safety
/// The planner's own structures; `call` is a member of the order's equivalence class on the table.
pub unsafe fn offer_order(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    pathkey: *mut pg_sys::PathKey,
    call: *mut pg_sys::FuncExpr,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if is_similarity(call) {
            for index in elements::<pg_sys::IndexOptInfo>((*rel).indexlist) {
                offer(root, rel, index, pathkey, call);
            }
        }
    }
}

/// Whether a call is of `distilface_similarity` with two arguments.
///
/// # Safety
/// A call in a plan.
pub unsafe fn is_similarity(call: *mut pg_sys::FuncExpr) -> bool {
    // SAFETY: the caller's node; the name is palloc'd or null.
    unsafe {
        let name = pg_sys::get_func_name((*call).funcid);
        !name.is_null()
            && CStr::from_ptr(name) == c"distilface_similarity"
            && elements::<pg_sys::Node>((*call).args).count() == 2
    }
}

/// Adds the path where the index orders by the similarity that `expr` computes.
unsafe fn offer(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    index: *mut pg_sys::IndexOptInfo,
    pathkey: *mut pg_sys::PathKey,
    expr: *mut pg_sys::FuncExpr,
) {
    // SAFETY: the planner's own structures; what is made here is palloc'd in its memory context.
    unsafe {
        if !is_access_method((*index).relam, c"distilface_hnsw") {
            return;
        }
        if (*index).hypothetical || !(*index).indpred.is_null() && !(*index).predOK {
            return;
        }
        let (opfamily, key_type) = (*(*index).opfamily, *(*index).opcintype);
        let operator =
            |strategy| pg_sys::get_opfamily_member(opfamily, key_type, key_type, strategy);
        let distance = operator(DISTANCE);
        if distance == pg_sys::InvalidOid || !is_cosine(distance) {
            return;
        }
        let schema = pg_sys::get_func_namespace(pg_sys::get_opcode(distance));
        if pg_sys::get_func_namespace((*expr).funcid) != schema {
            return;
        }
        let Some((key, query)) = sides(root, index, expr) else { return };
        if pg_sys::exprType(key) != key_type || pg_sys::exprType(query) != key_type {
            return;
        }
        let order =
            if (*pathkey).pk_nulls_first { operator(UNDEFINED_FIRST as i16) } else { distance };
        if order == pg_sys::InvalidOid || !same_model((*index).indexoid) {
            return;
        }
        let clause = pg_sys::make_opclause(
            order,
            pg_sys::FLOAT8OID,
            false,
            key.cast(),
            query.cast(),
            pg_sys::InvalidOid,
            (*expr).inputcollid,
        );
        pg_sys::set_opfuncid(clause.cast());
        let path = pg_sys::create_index_path(
            root,
            index,
            paths::filter_clauses(root, index, std::ptr::null_mut()),
            list_of(clause.cast()),
            pg_sys::list_make1_impl(pg_sys::NodeTag::T_IntList, pg_sys::ListCell { int_value: 0 }),
            list_of(ascending(pathkey).cast()),
            pg_sys::ScanDirection::ForwardScanDirection,
            false,
            std::ptr::null_mut(),
            1.0,
            false,
        );
        let claimed = pg_sys::create_limit_path(
            root,
            rel,
            path.cast(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            pg_sys::LimitOption::LIMIT_OPTION_COUNT,
            0,
            0,
        );
        (*claimed).path.pathkeys = list_of(pathkey.cast());
        pg_sys::add_path(rel, claimed.cast());
    }
}

/// The function's arguments as (indexed column, query), whichever way round they are; the query
/// depends on no table.
unsafe fn sides(
    root: *mut pg_sys::PlannerInfo,
    index: *mut pg_sys::IndexOptInfo,
    expr: *mut pg_sys::FuncExpr,
) -> Option<(*mut pg_sys::Node, *mut pg_sys::Node)> {
    // SAFETY: the planner's own structures.
    unsafe {
        let mut args = elements::<pg_sys::Node>((*expr).args);
        let (left, right) = (args.next()?, args.next()?);
        [(left, right), (right, left)].into_iter().find(|&(key, query)| {
            pg_sys::match_index_to_operand(key, 0, index)
                && pg_sys::pull_varnos(root, query).is_null()
                && !pg_sys::contain_volatile_functions(query)
        })
    }
}

/// The index path's own order: by rising distance, in the operator family that the query sorts by.
unsafe fn ascending(pathkey: *mut pg_sys::PathKey) -> *mut pg_sys::PathKey {
    // SAFETY: a node of that type, filled from the planner's own one.
    unsafe {
        let mut own =
            PgBox::<pg_sys::PathKey, AllocatedByRust>::alloc_node(pg_sys::NodeTag::T_PathKey);
        own.pk_eclass = (*pathkey).pk_eclass;
        own.pk_opfamily = (*pathkey).pk_opfamily;
        own.pk_nulls_first = false;
        #[cfg(not(feature = "pg18"))]
        {
            own.pk_strategy = pg_sys::BTLessStrategyNumber as i32;
        }
        #[cfg(feature = "pg18")]
        {
            own.pk_cmptype = pg_sys::CompareType::COMPARE_LT;
        }
        own.into_pg()
    }
}

unsafe fn is_cosine(operator: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog's caches; the name is palloc'd or null.
    unsafe {
        let name = pg_sys::get_opname(operator);
        !name.is_null() && CStr::from_ptr(name) == c"<=>"
    }
}

/// Whether the index's vectors are those that `distilface_similarity` computes: it follows the
/// default model and knows no prompts, so an index on text must be of that model, without prompts.
///
/// # Safety
/// There is such an index.
pub unsafe fn same_model(index: pg_sys::Oid) -> bool {
    // SAFETY: opened with a lock, and closed again.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::index_open(index, lock);
        let index = IndexRelation::new(relation);
        let same = index.column().element != Element::Text || {
            let store = index.store(Logging::Generic);
            let is_empty = store.page_count().map_or(true, |pages| pages == 0);
            !is_empty
                && match Source::of(index, &store) {
                    Source::Vectors(_) => true,
                    Source::Text(_, model) => {
                        let prompts = &model.encoder().manifest().prompts;
                        model == registry::default_model() && prompts.query == prompts.passage
                    }
                }
        };
        pg_sys::index_close(relation, lock);
        same
    }
}
