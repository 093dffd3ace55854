//! Variable-length arguments, uncompressed and with a four-byte header, copied only where they must.

use std::marker::PhantomData;

use pgrx::pg_sys;

/// Tells pgrx how a type is called in SQL. The functions that use it are declared by hand in `sql/`,
/// so nothing is generated from it.
macro_rules! names_sql_type {
    ($type:ty, $sql:literal) => {
        // SAFETY: only a name; no SQL is generated from it.
        unsafe impl pgrx::pgrx_sql_entity_graph::metadata::SqlTranslatable for $type {
            const TYPE_IDENT: &'static str = $sql;
            const TYPE_ORIGIN: pgrx::pgrx_sql_entity_graph::metadata::TypeOrigin =
                pgrx::pgrx_sql_entity_graph::metadata::TypeOrigin::External;
            const ARGUMENT_SQL: Result<
                pgrx::pgrx_sql_entity_graph::metadata::SqlMappingRef,
                pgrx::pgrx_sql_entity_graph::metadata::ArgumentError,
            > = Ok(pgrx::pgrx_sql_entity_graph::metadata::SqlMappingRef::literal($sql));
            const RETURN_SQL: Result<
                pgrx::pgrx_sql_entity_graph::metadata::ReturnsRef,
                pgrx::pgrx_sql_entity_graph::metadata::ReturnsError,
            > = Ok(pgrx::pgrx_sql_entity_graph::metadata::ReturnsRef::One(
                pgrx::pgrx_sql_entity_graph::metadata::SqlMappingRef::literal($sql),
            ));
        }
    };
}
pub(super) use names_sql_type;

/// Makes a type that reads a datum an argument of strict functions.
macro_rules! argument_from_datum {
    ($type:ident) => {
        // SAFETY: a declared argument is a datum that lives as long as the call.
        unsafe impl<'fcx> pgrx::callconv::ArgAbi<'fcx> for $type<'fcx> {
            #[inline]
            unsafe fn unbox_arg_unchecked(arg: pgrx::callconv::Arg<'_, 'fcx>) -> Self {
                // SAFETY: the caller's promise.
                match unsafe { arg.unbox_arg_using_from_datum() } {
                    Some(value) => value,
                    None => crate::embedding::errors::raise_null(),
                }
            }
        }
    };
}
pub(super) use argument_from_datum;

/// A varlena value in plain form. Freed on drop where it had to be copied: a comparison function
/// runs in a context that outlives millions of calls, a sort's or an index build's.
pub struct Plain<'a> {
    start: *mut pg_sys::varlena,
    size: usize,
    origin: Origin,
    value: PhantomData<&'a pg_sys::varlena>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The caller's own bytes.
    Borrowed,
    /// Made by detoasting.
    Copied,
}

impl Plain<'_> {
    /// # Safety
    /// `datum` is a non-null datum of a varlena type that stays valid for `'a`.
    #[inline]
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> Self {
        let given = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: the caller's promise; detoasting gives a plain varlena or raises an error.
        unsafe {
            // Plain values, the common case, skip PostgreSQL's function and the guard around it.
            let start = match pgrx::varatt_is_4b_u(given) {
                true => given,
                false => pg_sys::pg_detoast_datum(given),
            };
            let origin = if start == given { Origin::Borrowed } else { Origin::Copied };
            Self { start, size: pgrx::varsize_4b(start), origin, value: PhantomData }
        }
    }

    /// The whole value with its four-byte header.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: a varlena is as long as its header says.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.size) }
    }

    /// Where the value starts: aligned as its type requires.
    #[inline]
    pub fn start(&self) -> *mut pg_sys::varlena {
        self.start
    }

    /// Whether these are the caller's own bytes.
    pub fn is_borrowed(&self) -> bool {
        self.origin == Origin::Borrowed
    }

    /// The value as a datum, valid as long as this is kept.
    pub fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.start)
    }

    /// Gives the value away as a datum; nothing is freed.
    pub fn into_datum(self) -> pg_sys::Datum {
        let datum = pg_sys::Datum::from(self.start);
        std::mem::forget(self);
        datum
    }
}

impl Drop for Plain<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.origin == Origin::Copied && !std::thread::panicking() {
            // SAFETY: detoasting palloc'd it for us alone.
            unsafe { pg_sys::pfree(self.start.cast()) }
        }
    }
}
