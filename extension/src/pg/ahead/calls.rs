//! Calls in a plan's expressions that embed a text, and which of their texts may be computed early.

use crate::model::registry::{self, ModelId};
use crate::pg::list::elements;
use crate::pg::tree::copy;
use distilface_core::encoder::InputKind;
use pgrx::pg_sys;
use std::ffi::CStr;

use InputKind::{Passage, Query};
use ModelFrom::{Argument, Default};

/// Where a function takes its model from.
#[derive(Clone, Copy)]
enum ModelFrom {
    /// It is the default model.
    Default,
    /// The argument of that number.
    Argument(usize),
}

/// The model that a call will use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Model {
    Default,
    Name(String),
    /// An index's.
    Revision(String),
}

impl Model {
    /// As a plan keeps it; [`Model::read`] is the inverse.
    pub fn write(&self) -> String {
        match self {
            Self::Default => "default".into(),
            Self::Name(name) => format!("name {name}"),
            Self::Revision(revision) => format!("revision {revision}"),
        }
    }

    pub fn read(written: &str) -> Self {
        match written.split_once(' ') {
            Some(("name", name)) => Self::Name(name.into()),
            Some(("revision", revision)) => Self::Revision(revision.into()),
            _ => Self::Default,
        }
    }

    /// The model, where a call has opened it: nothing is looked up, and nothing raised.
    pub fn opened(&self) -> Option<ModelId> {
        match self {
            Self::Default => registry::opened_default(),
            Self::Name(name) => registry::opened_by_name(name),
            Self::Revision(revision) => registry::opened_by_revision(revision),
        }
    }
}

/// A function of this library's that embeds one text or two: its symbol, and which arguments are texts.
type Function = (&'static CStr, &'static [(usize, InputKind)], ModelFrom);

const FUNCTIONS: [Function; 10] = [
    (c"distilface_embed_default_wrapper", &[(0, Passage)], Default),
    (c"distilface_embed_model_wrapper", &[(0, Passage)], Argument(1)),
    (c"distilface_embed_dims_wrapper", &[(0, Passage)], Argument(1)),
    (c"distilface_embed_query_default_wrapper", &[(0, Query)], Default),
    (c"distilface_embed_query_model_wrapper", &[(0, Query)], Argument(1)),
    (c"distilface_embed_query_dims_wrapper", &[(0, Query)], Argument(1)),
    (c"distilface_similarity_default_wrapper", &[(0, Passage), (1, Passage)], Default),
    (c"distilface_similarity_model_wrapper", &[(0, Passage), (1, Passage)], Argument(2)),
    (c"distilface_distance_wrapper", &[(0, Passage), (1, Query)], Default),
    (c"distilface_distance_undefined_first_wrapper", &[(0, Passage), (1, Query)], Default),
];

/// PostgreSQL's own functions that may be called early: they raise nothing, whatever the text, and
/// have no effect but their result. `||`, casts from `char(n)` and `name`, `lower`, `upper`, `btrim`,
/// `ltrim` and `rtrim` of white space, `left`.
const HARMLESS: [u32; 9] = [
    pg_sys::F_TEXTCAT,
    pg_sys::F_TEXT_BPCHAR,
    pg_sys::F_TEXT_NAME,
    pg_sys::F_LOWER_TEXT,
    pg_sys::F_UPPER_TEXT,
    pg_sys::F_BTRIM_TEXT,
    pg_sys::F_LTRIM_TEXT,
    pg_sys::F_RTRIM_TEXT,
    pg_sys::F_LEFT,
];

/// Types whose values become text just as harmlessly.
const INTEGERS: [pg_sys::Oid; 3] = [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID];

/// A text that will be embedded for every row.
#[derive(Clone)]
pub struct Call {
    pub text: *mut pg_sys::Node,
    pub input: InputKind,
    pub model: Model,
}

/// Adds the calls in an expression that are made whenever the expression is evaluated: none in the
/// branches of CASE, AND, OR, and behind the first argument of COALESCE.
///
/// # Safety
/// `node` is null or an expression of a finished plan.
pub unsafe fn collect(node: *mut pg_sys::Node, calls: &mut Vec<Call>) {
    // SAFETY: the caller's promise; a node's tag says what it is.
    unsafe {
        if node.is_null() {
            return;
        }
        pg_sys::check_stack_depth();
        match (*node).type_ {
            pg_sys::NodeTag::T_TargetEntry => {
                collect((*node.cast::<pg_sys::TargetEntry>()).expr.cast(), calls);
            }
            pg_sys::NodeTag::T_FuncExpr => {
                let call = node.cast::<pg_sys::FuncExpr>();
                of_function((*call).funcid, (*call).args, calls);
                collect_each((*call).args, calls);
            }
            pg_sys::NodeTag::T_OpExpr | pg_sys::NodeTag::T_DistinctExpr => {
                let call = node.cast::<pg_sys::OpExpr>();
                of_function((*call).opfuncid, (*call).args, calls);
                collect_each((*call).args, calls);
            }
            pg_sys::NodeTag::T_RelabelType => {
                collect((*node.cast::<pg_sys::RelabelType>()).arg.cast(), calls);
            }
            pg_sys::NodeTag::T_CoerceViaIO => {
                collect((*node.cast::<pg_sys::CoerceViaIO>()).arg.cast(), calls);
            }
            pg_sys::NodeTag::T_NullTest => {
                collect((*node.cast::<pg_sys::NullTest>()).arg.cast(), calls);
            }
            pg_sys::NodeTag::T_ArrayExpr => {
                collect_each((*node.cast::<pg_sys::ArrayExpr>()).elements, calls);
            }
            pg_sys::NodeTag::T_RowExpr => {
                collect_each((*node.cast::<pg_sys::RowExpr>()).args, calls);
            }
            pg_sys::NodeTag::T_CoalesceExpr => {
                let args = (*node.cast::<pg_sys::CoalesceExpr>()).args;
                if let Some(first) = elements(args).next() {
                    collect(first, calls);
                }
            }
            _ => {}
        }
    }
}

/// [`collect`] for every expression of a list.
///
/// # Safety
/// As for [`collect`].
pub unsafe fn collect_each(list: *mut pg_sys::List, calls: &mut Vec<Call>) {
    // SAFETY: the caller's promise.
    unsafe { elements(list).for_each(|node| collect(node, calls)) }
}

unsafe fn of_function(function: pg_sys::Oid, args: *mut pg_sys::List, calls: &mut Vec<Call>) {
    // SAFETY: the caller's call of a function.
    unsafe {
        let Some((_, texts, model)) = known(function) else { return };
        let args: Vec<*mut pg_sys::Node> = elements(args).collect();
        let model = match model {
            Default => Model::Default,
            Argument(at) => match args.get(at).and_then(|&arg| constant(arg)) {
                Some(name) => Model::Name(name),
                None => return,
            },
        };
        for &(at, input) in texts {
            if let Some(&text) = args.get(at) {
                calls.push(Call { text, input, model: model.clone() });
            }
        }
    }
}

fn known(function: pg_sys::Oid) -> Option<Function> {
    if u32::from(function) < pg_sys::FirstNormalObjectId {
        return None;
    }
    // SAFETY: reads a row of the catalog's cache, which is released; the symbol is copied out of it.
    unsafe {
        let key = pg_sys::Datum::from(function);
        let row = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::PROCOID as i32, key);
        if row.is_null() {
            return None;
        }
        let mut is_null = false;
        let source = pg_sys::SysCacheGetAttr(
            pg_sys::SysCacheIdentifier::PROCOID as i32,
            row,
            pg_sys::Anum_pg_proc_prosrc as i16,
            &raw mut is_null,
        );
        let symbol =
            (!is_null).then(|| pg_sys::text_to_cstring(source.cast_mut_ptr::<pg_sys::text>()));
        pg_sys::ReleaseSysCache(row);
        let symbol = CStr::from_ptr(symbol?);
        FUNCTIONS.into_iter().find(|(own, ..)| *own == symbol)
    }
}

/// A constant text.
unsafe fn constant(node: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: the caller's node; a constant of type text has a text.
    unsafe {
        let value = node.cast::<pg_sys::Const>();
        let is_text = (*node).type_ == pg_sys::NodeTag::T_Const
            && (*value).consttype == pg_sys::TEXTOID
            && !(*value).constisnull;
        if !is_text {
            return None;
        }
        let name = pg_sys::text_to_cstring((*value).constvalue.cast_mut_ptr());
        CStr::from_ptr(name).to_str().ok().map(str::to_owned)
    }
}

/// A copy of a text's expression in terms of other columns, where it may be computed early: it is made of
/// columns, constants, integers as text and [`HARMLESS`] functions, and of one column at least. `column` says what stands
/// for a column.
///
/// # Safety
/// As for [`collect`].
pub unsafe fn early(
    text: *mut pg_sys::Node,
    column: &mut dyn FnMut(*mut pg_sys::Node) -> Option<*mut pg_sys::Node>,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise.
    unsafe {
        let text = translated(text, column)?;
        pg_sys::contain_var_clause(text).then_some(text)
    }
}

/// As [`early`], of no column too.
///
/// # Safety
/// As for [`collect`].
pub unsafe fn translated(
    node: *mut pg_sys::Node,
    column: &mut dyn FnMut(*mut pg_sys::Node) -> Option<*mut pg_sys::Node>,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's node; its copies are changed, never itself.
    unsafe {
        pg_sys::check_stack_depth();
        match (*node).type_ {
            pg_sys::NodeTag::T_Const => Some(copy(node)),
            pg_sys::NodeTag::T_RelabelType => {
                let other = copy(node.cast::<pg_sys::RelabelType>());
                (*other).arg = translated((*other).arg.cast(), column)?.cast();
                Some(other.cast())
            }
            pg_sys::NodeTag::T_FuncExpr => {
                let other = copy(node.cast::<pg_sys::FuncExpr>());
                (*other).args = arguments((*other).funcid, (*other).args, column)?;
                Some(other.cast())
            }
            pg_sys::NodeTag::T_OpExpr => {
                let other = copy(node.cast::<pg_sys::OpExpr>());
                (*other).args = arguments((*other).opfuncid, (*other).args, column)?;
                Some(other.cast())
            }
            pg_sys::NodeTag::T_CoerceViaIO => {
                let other = copy(node.cast::<pg_sys::CoerceViaIO>());
                let from = pg_sys::exprType((*other).arg.cast());
                let is_text = (*other).resulttype == pg_sys::TEXTOID;
                if !is_text || !INTEGERS.contains(&from) {
                    return None;
                }
                (*other).arg = translated((*other).arg.cast(), column)?.cast();
                Some(other.cast())
            }
            pg_sys::NodeTag::T_CoalesceExpr => {
                let other = copy(node.cast::<pg_sys::CoalesceExpr>());
                (*other).args = translate_each((*other).args, column)?;
                Some(other.cast())
            }
            _ => column(node),
        }
    }
}

/// The arguments of a call of a function, where it is one of [`HARMLESS`].
unsafe fn arguments(
    function: pg_sys::Oid,
    args: *mut pg_sys::List,
    column: &mut dyn FnMut(*mut pg_sys::Node) -> Option<*mut pg_sys::Node>,
) -> Option<*mut pg_sys::List> {
    // SAFETY: the caller's list of expressions.
    unsafe { HARMLESS.contains(&function.into()).then(|| translate_each(args, column))? }
}

unsafe fn translate_each(
    list: *mut pg_sys::List,
    column: &mut dyn FnMut(*mut pg_sys::Node) -> Option<*mut pg_sys::Node>,
) -> Option<*mut pg_sys::List> {
    // SAFETY: the caller's list of expressions; a list in the current memory context is made.
    unsafe {
        let mut others = std::ptr::null_mut();
        for node in elements(list) {
            others = pg_sys::lappend(others, translated(node, column)?.cast());
        }
        Some(others)
    }
}
