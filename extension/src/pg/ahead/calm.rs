//! Which plans may be read ahead: those where nobody can tell when a row was read.
//!
//! They are made of the nodes named here, and of expressions without volatile functions. So nothing that
//! writes, locks rows, draws from a sequence or asks another server runs earlier, or for more rows, than
//! it would have.

use crate::pg::list::elements;
use pgrx::pg_sys;

/// Whether all that runs below a node's own columns is calm.
///
/// # Safety
/// `plan` is a node of a finished plan.
pub unsafe fn is_calm_below(plan: *mut pg_sys::Plan) -> bool {
    // SAFETY: the caller's node; a node's tag says what it is.
    unsafe {
        pg_sys::check_stack_depth();
        if !is_steady((*plan).qual) {
            return false;
        }
        let each = |list| elements::<pg_sys::Plan>(list).all(|plan| is_calm(plan));
        let of_the_node = match (*plan).type_ {
            pg_sys::NodeTag::T_SeqScan
            | pg_sys::NodeTag::T_BitmapIndexScan
            | pg_sys::NodeTag::T_Hash
            | pg_sys::NodeTag::T_Material
            | pg_sys::NodeTag::T_Sort
            | pg_sys::NodeTag::T_IncrementalSort
            | pg_sys::NodeTag::T_Agg
            | pg_sys::NodeTag::T_Group
            | pg_sys::NodeTag::T_Unique
            | pg_sys::NodeTag::T_Gather
            | pg_sys::NodeTag::T_GatherMerge
            | pg_sys::NodeTag::T_CteScan => true,
            pg_sys::NodeTag::T_SampleScan => {
                let sample = (*plan.cast::<pg_sys::SampleScan>()).tablesample;
                is_steady((*sample).args) && is_steady((*sample).repeatable)
            }
            pg_sys::NodeTag::T_IndexScan => {
                let scan = plan.cast::<pg_sys::IndexScan>();
                is_steady((*scan).indexqualorig) && is_steady((*scan).indexorderbyorig)
            }
            pg_sys::NodeTag::T_IndexOnlyScan => {
                let scan = plan.cast::<pg_sys::IndexOnlyScan>();
                is_steady((*scan).indexqual) && is_steady((*scan).indexorderby)
            }
            pg_sys::NodeTag::T_BitmapHeapScan => {
                // The scans of indexes below have the same conditions.
                return is_steady((*plan.cast::<pg_sys::BitmapHeapScan>()).bitmapqualorig);
            }
            pg_sys::NodeTag::T_TidScan => is_steady((*plan.cast::<pg_sys::TidScan>()).tidquals),
            pg_sys::NodeTag::T_TidRangeScan => {
                is_steady((*plan.cast::<pg_sys::TidRangeScan>()).tidrangequals)
            }
            pg_sys::NodeTag::T_SubqueryScan => {
                is_calm((*plan.cast::<pg_sys::SubqueryScan>()).subplan)
            }
            pg_sys::NodeTag::T_FunctionScan => {
                let functions = (*plan.cast::<pg_sys::FunctionScan>()).functions;
                elements::<pg_sys::RangeTblFunction>(functions)
                    .all(|function| is_steady((*function).funcexpr))
            }
            pg_sys::NodeTag::T_ValuesScan => {
                is_steady((*plan.cast::<pg_sys::ValuesScan>()).values_lists)
            }
            pg_sys::NodeTag::T_Result => {
                is_steady((*plan.cast::<pg_sys::Result>()).resconstantqual)
            }
            pg_sys::NodeTag::T_Limit => {
                let limit = plan.cast::<pg_sys::Limit>();
                is_steady((*limit).limitOffset) && is_steady((*limit).limitCount)
            }
            pg_sys::NodeTag::T_NestLoop
            | pg_sys::NodeTag::T_MergeJoin
            | pg_sys::NodeTag::T_HashJoin => {
                // The clauses that a join merges or hashes by are operators of index families.
                is_steady((*plan.cast::<pg_sys::Join>()).joinqual)
            }
            pg_sys::NodeTag::T_Append => each((*plan.cast::<pg_sys::Append>()).appendplans),
            pg_sys::NodeTag::T_MergeAppend => {
                each((*plan.cast::<pg_sys::MergeAppend>()).mergeplans)
            }
            _ => false,
        };
        of_the_node
            && ((*plan).lefttree.is_null() || is_calm((*plan).lefttree))
            && ((*plan).righttree.is_null() || is_calm((*plan).righttree))
    }
}

/// [`is_calm_below`], and the node's own columns are steady too.
///
/// # Safety
/// As for [`is_calm_below`].
pub unsafe fn is_calm(plan: *mut pg_sys::Plan) -> bool {
    // SAFETY: the caller's node.
    unsafe { is_steady((*plan).targetlist) && is_calm_below(plan) }
}

/// Whether an expression, or a list of them, has no volatile function.
///
/// # Safety
/// `node` is null or an expression of a finished plan.
pub unsafe fn is_steady<T>(node: *mut T) -> bool {
    // SAFETY: the caller's promise.
    unsafe { !pg_sys::contain_volatile_functions(node.cast()) }
}
