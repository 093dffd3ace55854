//! Values of type `jsonb` that are handed on unread, in whatever encoding the database has.

use super::varlena::names_sql_type;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, FromDatum, IntoDatum};
use pgrx::pg_sys;

/// A value in a memory context that outlives its use: the call's, or the transaction's.
pub struct Jsonb(pg_sys::Datum);

impl FromDatum for Jsonb {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: not null, and of the type that the caller vouches for; the copy is in the context that he
        // has switched to.
        (!is_null).then(|| unsafe {
            Self(pg_sys::Datum::from(pg_sys::pg_detoast_datum_copy(datum.cast_mut_ptr())))
        })
    }
}

impl IntoDatum for Jsonb {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

// SAFETY: a declared argument of strict functions is a datum that lives as long as the call.
unsafe impl<'fcx> ArgAbi<'fcx> for Jsonb {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller's promise.
        match unsafe { arg.unbox_arg_using_from_datum() } {
            Some(value) => value,
            None => crate::embedding::errors::raise_null(),
        }
    }
}

// SAFETY: the datum outlives the call that returns it.
unsafe impl BoxRet for Jsonb {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

names_sql_type!(Jsonb, "jsonb");
