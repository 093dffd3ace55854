//! Building arrays: a function's `embedding[]`, and a statement's `text[]`.

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::{Datum, IntoDatum};
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};

/// A finished one-dimensional array, ready to be returned.
pub struct ArrayResult(pg_sys::Datum);

/// An array under construction: its elements are datums of the type that the running function
/// returns an array of.
pub struct ArrayBuilder {
    element: pg_sys::Oid,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl ArrayBuilder {
    /// An array for the call that `fcinfo` describes, with room for `capacity` elements.
    pub fn new(fcinfo: pg_sys::FunctionCallInfo, capacity: usize) -> Self {
        // SAFETY: `fcinfo` is the running call's, so its function is set; both look-ups read the
        // catalog's caches.
        let element = unsafe {
            let result = pg_sys::get_func_rettype((*(*fcinfo).flinfo).fn_oid);
            pg_sys::get_element_type(result)
        };
        Self::of(element, capacity)
    }

    fn of(element: pg_sys::Oid, capacity: usize) -> Self {
        Self { element, values: Vec::with_capacity(capacity), nulls: Vec::with_capacity(capacity) }
    }

    /// Appends an element; `None` is NULL.
    pub fn push(&mut self, value: Option<pg_sys::Datum>) {
        self.nulls.push(value.is_none());
        self.values.push(value.unwrap_or(pg_sys::Datum::from(0usize)));
    }

    /// Makes the array in the current memory context.
    pub fn finish(mut self) -> ArrayResult {
        let length = i32::try_from(self.values.len()).unwrap_or(i32::MAX);
        let (mut dims, mut lower) = ([length], [1]);
        let (mut typlen, mut typbyval, mut typalign) = (0i16, false, 0);
        // SAFETY: the element type is the catalog's; both vectors have `length` entries; PostgreSQL
        // copies the elements and raises an error where the array would be too large.
        unsafe {
            pg_sys::get_typlenbyvalalign(self.element, &mut typlen, &mut typbyval, &mut typalign);
            let array = if length == 0 {
                pg_sys::construct_empty_array(self.element)
            } else {
                pg_sys::construct_md_array(
                    self.values.as_mut_ptr(),
                    self.nulls.as_mut_ptr(),
                    1,
                    dims.as_mut_ptr(),
                    lower.as_mut_ptr(),
                    self.element,
                    i32::from(typlen),
                    typbyval,
                    typalign,
                )
            };
            ArrayResult(pg_sys::Datum::from(array))
        }
    }
}

/// An array of texts in the database's encoding.
pub struct TextArray(ArrayResult);

impl TextArray {
    /// An array in the current memory context, of `text` datums.
    pub fn new(texts: impl ExactSizeIterator<Item = Option<pg_sys::Datum>>) -> Self {
        let mut array = ArrayBuilder::of(pg_sys::TEXTOID, texts.len());
        texts.for_each(|text| array.push(text));
        Self(array.finish())
    }
}

impl IntoDatum for TextArray {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTARRAYOID
    }
}

// SAFETY: the datum is an array in the memory context of the call that returns it.
unsafe impl BoxRet for ArrayResult {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: made by `finish` in this very call.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

// SAFETY: only names the SQL type; the functions that return it are declared by hand in sql/.
unsafe impl SqlTranslatable for ArrayResult {
    const TYPE_IDENT: &'static str = "embedding_array";
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
        Err(ArgumentError::NotValidAsArgument("ArrayResult"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("embedding[]")));
}
