//! The two vectors of a distance, the one that stays the same read once.
//!
//! The executor computes `e <=> q` for row after row with one q. Where q comes from a table, as in
//! `ORDER BY e <=> (SELECT e FROM docs WHERE id = 42)`, and does not fit into its row, it is a pointer into
//! a TOAST table, from which each call would read it anew: six buffer accesses, more than the row itself
//! costs. So a call site keeps the value of a pointer that comes a second time. A TOAST value never
//! changes, and its number is not given to another while a transaction that can see it runs.

use super::embedding::EmbeddingRef;
use super::varlena::names_sql_type;
use crate::embedding::errors;
use pgrx::callconv::{Arg, ArgAbi};
use pgrx::{PgMemoryContexts, pg_sys};
use std::ops::Deref;
use std::ptr::null_mut;

/// Bytes of a pointer into a TOAST table: two of a head, then sizes, value and table.
const POINTER: usize = 2 + size_of::<pg_sys::varatt_external>();

/// What a call site remembers of each operand.
#[derive(Default)]
struct Site([Seen; 2]);

struct Seen {
    /// The last one that came; zeros at first, which is no pointer.
    pointer: [u8; POINTER],
    /// Its value, in the call site's memory; null where it came once only.
    value: *mut pg_sys::varlena,
}

impl Default for Seen {
    fn default() -> Self {
        Self { pointer: [0; POINTER], value: null_mut() }
    }
}

/// An embedding that a distance is computed with.
pub struct Operand<'a>(EmbeddingRef<'a>);

impl Deref for Operand<'_> {
    type Target = [f32];

    #[inline]
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

// SAFETY: a declared argument is a datum that lives as long as the call, a kept value as long as its site.
unsafe impl<'fcx> ArgAbi<'fcx> for Operand<'fcx> {
    #[inline]
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        let at = arg.index();
        // SAFETY: the caller's promise; an argument knows its call.
        unsafe {
            let call = arg.unbox_unchecked::<pg_sys::FunctionCallInfo>();
            let argument = &(*call).args.as_slice(at + 1)[at];
            if argument.isnull {
                errors::raise_null();
            }
            Self(EmbeddingRef::new(match is_pointer(argument.value) {
                true => kept(call, at, argument.value),
                false => argument.value,
            }))
        }
    }
}

names_sql_type!(Operand<'_>, "embedding");

/// Whether the datum is a pointer into a TOAST table.
#[inline]
unsafe fn is_pointer(datum: pg_sys::Datum) -> bool {
    let start = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the caller passes a varlena; one with this head has a tag after it.
    unsafe {
        pgrx::varatt_is_1b_e(start)
            && u32::from(*start.cast::<u8>().add(1)) == pg_sys::vartag_external::VARTAG_ONDISK
    }
}

/// The value that the pointer stands for where this call site keeps it, or else the pointer. The operand
/// is one of the first two.
#[cold]
unsafe fn kept(call: pg_sys::FunctionCallInfo, at: usize, datum: pg_sys::Datum) -> pg_sys::Datum {
    // SAFETY: the call's own structures; `fn_extra` is this function's to use, null at first. Kept values
    // are in the call site's memory, which goes when it does.
    unsafe {
        let Some(function) = (*call).flinfo.as_mut() else { return datum };
        if function.fn_mcxt.is_null() {
            return datum;
        }
        let mut memory = PgMemoryContexts::For(function.fn_mcxt);
        if function.fn_extra.is_null() {
            function.fn_extra = memory.leak_and_drop_on_delete(Site::default()).cast();
        }
        let seen = &mut (*function.fn_extra.cast::<Site>()).0[at];
        let start = datum.cast_mut_ptr::<pg_sys::varlena>();
        let pointer = start.cast::<[u8; POINTER]>().read_unaligned();
        if seen.pointer != pointer {
            let former = std::mem::replace(&mut seen.value, null_mut());
            seen.pointer = pointer;
            if !former.is_null() {
                pg_sys::pfree(former.cast());
            }
            return datum;
        }
        if seen.value.is_null() {
            seen.value = memory.switch_to(|_| pg_sys::pg_detoast_datum(start));
        }
        seen.value.into()
    }
}
