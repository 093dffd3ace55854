//! The planner's part: `body @@@ 'q'` becomes `body @@@ bm25query('q', index)`, so that the query
//! carries its index wherever it is evaluated.
//!
//! It is done by the operators' support function, when constants are folded. The left operand is a
//! column or an expression of a table, the index the first valid one that has it as a key; where there
//! is none, the call is left alone and says so when it is executed.

use super::query::{BoundQuery, NewQuery};
use super::{DISTANCE_BOUND, MATCH_BOUND};
use crate::pg::index_am::is_access_method;
use pgrx::prelude::*;
use pgrx::{Internal, is_a, pg_sys};

/// Answers the planner's request to simplify a call of one of the operators' functions.
#[pg_extern(sql = false)]
fn distilface_bm25_support(request: Internal) -> Internal {
    let Some(node) = request.unwrap() else { return Internal::from(None) };
    let node = node.cast_mut_ptr::<pg_sys::Node>();
    // SAFETY: a support function's argument is a node; its tag tells which.
    let simplified = unsafe {
        if is_a(node, pg_sys::NodeTag::T_SupportRequestSimplify) {
            bind(&*node.cast::<pg_sys::SupportRequestSimplify>())
        } else {
            None
        }
    };
    match simplified {
        Some(node) => Internal::from(Some(pg_sys::Datum::from(node))),
        // A null pointer that is not SQL's NULL: "nothing to say".
        None => Internal::from(Some(pg_sys::Datum::from(0_usize))),
    }
}

/// An index's key that equals an operand.
struct Found {
    index: pg_sys::Oid,
    /// Counted from 1.
    column: u16,
    family: pg_sys::Oid,
}

unsafe fn bind(request: &pg_sys::SupportRequestSimplify) -> Option<*mut pg_sys::Node> {
    // SAFETY: the planner's own nodes, which it does not change while this runs.
    unsafe {
        let call = request.fcall;
        if request.root.is_null() || call.is_null() {
            return None;
        }
        let arguments = (*call).args;
        if arguments.is_null() || (*arguments).length != 2 {
            return None;
        }
        let left = (*(*arguments).elements.add(0)).ptr_value.cast::<pg_sys::Node>();
        let right = (*(*arguments).elements.add(1)).ptr_value.cast::<pg_sys::Node>();
        let (namespace, query_type) = query_type((*call).funcid)?;
        let right_type = pg_sys::exprType(right);
        let found = find_index(request.root, left)?;
        let bound = if right_type == query_type {
            rebind(right, &found)?
        } else if right_type == pg_sys::TEXTOID {
            bind_text(right, &found, namespace, query_type)?
        } else {
            return None;
        };
        let strategy =
            if (*call).funcresulttype == pg_sys::BOOLOID { MATCH_BOUND } else { DISTANCE_BOUND };
        let operator =
            pg_sys::get_opfamily_member(found.family, pg_sys::TEXTOID, query_type, strategy as i16);
        if operator == pg_sys::InvalidOid {
            return None;
        }
        let clause = pg_sys::make_opclause(
            operator,
            (*call).funcresulttype,
            false,
            left.cast(),
            bound.cast(),
            (*call).funccollid,
            (*call).inputcollid,
        );
        pg_sys::set_opfuncid(clause.cast());
        Some(clause.cast())
    }
}

/// The schema of the operators' functions, and the type `bm25query` in it.
unsafe fn query_type(function: pg_sys::Oid) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    // SAFETY: reads the catalog's caches.
    unsafe {
        let namespace = pg_sys::get_func_namespace(function);
        let oid = pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
            pg_sys::Anum_pg_type_oid as i16,
            pg_sys::Datum::from(c"bm25query".as_ptr()),
            pg_sys::Datum::from(namespace),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
        );
        (oid != pg_sys::InvalidOid).then_some((namespace, oid))
    }
}

/// A bound query that does not know its column yet, with it.
unsafe fn rebind(right: *mut pg_sys::Node, found: &Found) -> Option<*mut pg_sys::Node> {
    // SAFETY: a node of the planner; a constant of the type holds a valid value.
    unsafe {
        if !is_a(right, pg_sys::NodeTag::T_Const) {
            return None;
        }
        let constant = &*right.cast::<pg_sys::Const>();
        if constant.constisnull {
            return None;
        }
        let query = BoundQuery::new(constant.constvalue);
        if query.column().is_some() || query.index() != found.index {
            return None;
        }
        let value = NewQuery::new(found.index, found.column, query.raw_text());
        Some(make_constant(constant.consttype, value))
    }
}

/// A text, known or not, as a bound query.
unsafe fn bind_text(
    right: *mut pg_sys::Node,
    found: &Found,
    namespace: pg_sys::Oid,
    query_type: pg_sys::Oid,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: as above; the function is looked up with the types that it is called with.
    unsafe {
        if is_a(right, pg_sys::NodeTag::T_Const) {
            let constant = &*right.cast::<pg_sys::Const>();
            if constant.constisnull {
                return None;
            }
            let text = crate::pg::varlena::Plain::from_datum(constant.constvalue);
            let value = NewQuery::new(found.index, found.column, text.bytes().get(4..)?);
            return Some(make_constant(query_type, value));
        }
        let schema = pg_sys::get_namespace_name(namespace);
        if schema.is_null() {
            return None;
        }
        let name = pg_sys::lappend(
            pg_sys::lappend(std::ptr::null_mut(), pg_sys::makeString(schema).cast()),
            pg_sys::makeString(pg_sys::pstrdup(c"bm25query_bind".as_ptr())).cast(),
        );
        let types = [pg_sys::TEXTOID, pg_sys::REGCLASSOID, pg_sys::INT2OID];
        let function = pg_sys::LookupFuncName(name, 3, types.as_ptr(), true);
        if function == pg_sys::InvalidOid {
            return None;
        }
        let index = by_value(pg_sys::REGCLASSOID, 4, pg_sys::Datum::from(found.index));
        let column = by_value(pg_sys::INT2OID, 2, pg_sys::Datum::from(found.column as i16));
        let arguments = [right, index, column]
            .into_iter()
            .fold(std::ptr::null_mut(), |list, node| pg_sys::lappend(list, node.cast()));
        let call = pg_sys::makeFuncExpr(
            function,
            query_type,
            arguments,
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        );
        Some(call.cast())
    }
}

unsafe fn make_constant(of_type: pg_sys::Oid, value: NewQuery) -> *mut pg_sys::Node {
    // SAFETY: the value is of the type, in the planner's memory context.
    unsafe {
        pg_sys::makeConst(of_type, -1, pg_sys::InvalidOid, -1, value.into_datum(), false, false)
            .cast()
    }
}

unsafe fn by_value(of_type: pg_sys::Oid, len: i32, value: pg_sys::Datum) -> *mut pg_sys::Node {
    // SAFETY: a pass-by-value type of that length.
    unsafe { pg_sys::makeConst(of_type, -1, pg_sys::InvalidOid, len, value, false, true).cast() }
}

/// The first valid index of this access method with the operand as a key.
unsafe fn find_index(root: *mut pg_sys::PlannerInfo, operand: *mut pg_sys::Node) -> Option<Found> {
    // SAFETY: the planner's own nodes; the relations are locked by the query since it was parsed.
    unsafe {
        let operand = strip_relabel(operand);
        let varno = match is_a(operand, pg_sys::NodeTag::T_Var) {
            true => {
                let var = &*operand.cast::<pg_sys::Var>();
                if var.varlevelsup != 0 || var.varattno <= 0 {
                    return None;
                }
                var.varno
            }
            false => only_relation(root, operand)?,
        };
        let table = (*(*root).parse).rtable;
        let at = usize::try_from(varno).ok()?.checked_sub(1)?;
        if table.is_null() || at >= (*table).length as usize {
            return None;
        }
        let entry = &*(*(*table).elements.add(at)).ptr_value.cast::<pg_sys::RangeTblEntry>();
        if entry.rtekind != pg_sys::RTEKind::RTE_RELATION {
            return None;
        }
        let heap = pg_sys::table_open(entry.relid, pg_sys::NoLock as pg_sys::LOCKMODE);
        let indexes = pg_sys::RelationGetIndexList(heap);
        let mut found = None;
        let count = if indexes.is_null() { 0 } else { (*indexes).length as usize };
        for number in 0..count {
            let oid = (*(*indexes).elements.add(number)).oid_value;
            found = key_of(oid, operand, varno);
            if found.is_some() {
                break;
            }
        }
        pg_sys::list_free(indexes);
        pg_sys::table_close(heap, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

unsafe fn strip_relabel(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller passes a node of the planner.
    unsafe {
        while is_a(node, pg_sys::NodeTag::T_RelabelType) {
            node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
        }
        node
    }
}

/// The only relation that an expression is about.
unsafe fn only_relation(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> Option<i32> {
    // SAFETY: the caller passes a node of the planner.
    unsafe {
        let relations = pull_varnos(root, node);
        let mut varno = 0;
        pg_sys::bms_get_singleton_member(relations, &mut varno).then_some(varno)
    }
}

unsafe fn pull_varnos(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> pg_sys::Relids {
    // SAFETY: the caller passes a node of the planner.
    unsafe { pg_sys::pull_varnos(root, node) }
}

unsafe fn key_of(oid: pg_sys::Oid, operand: *mut pg_sys::Node, varno: i32) -> Option<Found> {
    // SAFETY: an index of a table that is locked; closed below. The index's description lives as
    // long as it is open.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::index_open(oid, lock);
        let form = &*(*relation).rd_index;
        let ours = is_access_method((*(*relation).rd_rel).relam, c"distilface_bm25");
        let mut found = None;
        if ours && form.indisvalid {
            let mut expression = 0;
            let expressions = pg_sys::RelationGetIndexExpressions(relation);
            for column in 0..usize::try_from(form.indnkeyatts).unwrap_or(0) {
                let attribute = *form.indkey.values.as_ptr().add(column);
                let equal = if attribute != 0 {
                    is_a(operand, pg_sys::NodeTag::T_Var)
                        && (*operand.cast::<pg_sys::Var>()).varattno == attribute
                } else {
                    let key = (*(*expressions).elements.add(expression)).ptr_value;
                    expression += 1;
                    let key = pg_sys::copyObjectImpl(key).cast::<pg_sys::Node>();
                    pg_sys::ChangeVarNodes(key, 1, varno, 0);
                    pg_sys::equal(strip_relabel(key).cast(), operand.cast())
                };
                if equal {
                    let family = *(*relation).rd_opfamily.add(column);
                    found = Some(Found { index: oid, column: column as u16 + 1, family });
                    break;
                }
            }
        }
        pg_sys::index_close(relation, lock);
        found
    }
}
