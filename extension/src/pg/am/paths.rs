//! Clauses on filter columns that PostgreSQL leaves out of an ordered index path.
//!
//! Before version 17 the planner takes `= ANY` on any but an index's first column for something that
//! only unordered scans can use, as it is for a B-tree. Here it is a condition like any other, so that
//! every ordered path over an index of ours is offered once more with these clauses. And a path that
//! this extension builds itself takes all clauses that the filter columns can decide.

use crate::pg::index_am::is_access_method;
use crate::pg::list::elements;
use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag::{T_IndexPath, T_NullTest, T_OpExpr, T_ScalarArrayOpExpr};

/// Offers every ordered path over an index of ours again, with the clauses that it lacks.
///
/// # Safety
/// The arguments are those of `set_rel_pathlist_hook`.
pub unsafe fn offer_with_all_clauses(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) {
    // SAFETY: the planner's own structures; what is made here is palloc'd in its memory context. The
    // paths are listed first, as each that is added may remove others.
    unsafe {
        let paths: Vec<_> = elements::<pg_sys::Path>((*rel).pathlist)
            .filter(|&path| (*path).type_ == T_IndexPath)
            .map(|path| path.cast::<pg_sys::IndexPath>())
            .filter(|&path| {
                !(*path).indexorderbys.is_null()
                    && is_access_method((*(*path).indexinfo).relam, c"distilface_hnsw")
            })
            .collect();
        for path in paths {
            let index = (*path).indexinfo;
            let clauses = filter_clauses(root, index, (*path).indexclauses);
            if list_length(clauses) == list_length((*path).indexclauses) {
                continue;
            }
            let outer = match (*path).path.param_info.as_ref() {
                Some(info) => info.ppi_req_outer,
                None => std::ptr::null_mut(),
            };
            let with_all = pg_sys::create_index_path(
                root,
                index,
                clauses,
                (*path).indexorderbys,
                (*path).indexorderbycols,
                (*path).path.pathkeys,
                pg_sys::ScanDirection::ForwardScanDirection,
                false,
                outer,
                1.0,
                false,
            );
            pg_sys::add_path(rel, with_all.cast());
        }
    }
}

/// The index clauses in `present`, and for the table's other restrictions on filter columns new ones,
/// in the order of the columns.
///
/// # Safety
/// The arguments are the planner's own; `present` is null or a list of index clauses of the index.
pub unsafe fn filter_clauses(
    root: *mut pg_sys::PlannerInfo,
    index: *mut pg_sys::IndexOptInfo,
    present: *mut pg_sys::List,
) -> *mut pg_sys::List {
    // SAFETY: the caller's promise.
    unsafe {
        let known: Vec<_> = elements::<pg_sys::IndexClause>(present).collect();
        let mut clauses = std::ptr::null_mut();
        for column in 0..(*index).nkeycolumns {
            for &clause in known.iter().filter(|&&clause| i32::from((*clause).indexcol) == column) {
                clauses = pg_sys::lappend(clauses, clause.cast());
            }
            if column == 0 {
                continue;
            }
            for rinfo in elements::<pg_sys::RestrictInfo>((*index).indrestrictinfo) {
                if known.iter().any(|&clause| (*clause).rinfo == rinfo)
                    || (*rinfo).pseudoconstant
                    || !pg_sys::restriction_is_securely_promotable(rinfo, (*index).rel)
                    || !is_decided_by(root, index, column, (*rinfo).clause.cast())
                {
                    continue;
                }
                let mut clause =
                    pgrx::PgBox::<pg_sys::IndexClause, pgrx::AllocatedByRust>::alloc_node(
                        pg_sys::NodeTag::T_IndexClause,
                    );
                clause.rinfo = rinfo;
                clause.indexquals = pg_sys::lappend(std::ptr::null_mut(), rinfo.cast());
                clause.lossy = false;
                clause.indexcol = column as pg_sys::AttrNumber;
                clause.indexcols = std::ptr::null_mut();
                clauses = pg_sys::lappend(clauses, clause.into_pg().cast());
            }
        }
        clauses
    }
}

/// Whether the clause compares the index's column with something that is the same for every row, by an
/// operator that the column's class has.
unsafe fn is_decided_by(
    root: *mut pg_sys::PlannerInfo,
    index: *mut pg_sys::IndexOptInfo,
    column: i32,
    clause: *mut pg_sys::Node,
) -> bool {
    // SAFETY: the planner's own structures, each read as its tag says.
    unsafe {
        let is_column = |node| pg_sys::match_index_to_operand(node, column, index);
        let (operator, collation, args) = match (*clause).type_ {
            T_NullTest => {
                let test = clause.cast::<pg_sys::NullTest>();
                return !(*test).argisrow && is_column((*test).arg.cast());
            }
            T_OpExpr => {
                let call = clause.cast::<pg_sys::OpExpr>();
                ((*call).opno, (*call).inputcollid, (*call).args)
            }
            T_ScalarArrayOpExpr => {
                let call = clause.cast::<pg_sys::ScalarArrayOpExpr>();
                if !(*call).useOr {
                    return false;
                }
                ((*call).opno, (*call).inputcollid, (*call).args)
            }
            _ => return false,
        };
        let mut args = elements::<pg_sys::Node>(args);
        let (Some(left), Some(right)) = (args.next(), args.next()) else { return false };
        let at = column as usize;
        let expected = *(*index).indexcollations.add(at);
        is_column(left)
            && (expected == pg_sys::InvalidOid || expected == collation)
            && pg_sys::op_in_opfamily(operator, *(*index).opfamily.add(at))
            && !pg_sys::bms_is_member(
                (*(*index).rel).relid as i32,
                pg_sys::pull_varnos(root, right),
            )
            && !pg_sys::contain_volatile_functions(right)
    }
}

unsafe fn list_length(list: *mut pg_sys::List) -> i32 {
    // SAFETY: null or a list.
    unsafe { list.as_ref() }.map_or(0, |list| list.length)
}
