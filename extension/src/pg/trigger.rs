//! A row trigger's call: its arguments, the rows, and the columns that it is about.
//!
//! A trigger's arguments are text and would go stale with `ALTER TABLE … RENAME COLUMN`; attribute
//! numbers would with a dump. So the columns stand where PostgreSQL keeps them true by itself: in
//! the `UPDATE OF` list of a second trigger of the same function, with the same first argument and
//! the second `columns`, which never fires (`WHEN (false)`). It also makes `DROP COLUMN` refuse
//! without `CASCADE`, is copied to every partition, and comes back from a dump.

use std::ffi::CStr;
use std::num::NonZeroUsize;

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;

use super::array::TextArray;
use super::report::Report;
use super::text::to_utf8;
use super::varlena::{Plain, names_sql_type};

/// One call of a row-level trigger on `INSERT` or `UPDATE`, or after a `DELETE`, whose row takes the place
/// of a new one.
pub struct RowTrigger<'a> {
    data: &'a pg_sys::TriggerData,
}

/// What a trigger returns: a row of its table.
pub struct Row(pg_sys::HeapTuple);

// SAFETY: the tuple is one of the trigger's own, or made in its memory context.
unsafe impl BoxRet for Row {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: a trigger's result is a pointer to a tuple.
        unsafe { fcinfo.return_raw_datum(pg_sys::Datum::from(self.0)) }
    }
}

names_sql_type!(Row, "trigger");

/// When a row trigger runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    Before,
    After,
    AfterDelete,
}

impl<'a> RowTrigger<'a> {
    /// # Errors
    /// Raises 39P01 where the function was not called as such a trigger.
    ///
    /// # Safety
    /// `fcinfo` is a running call's, which outlives the value.
    pub unsafe fn from_call(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: the caller's promise; a trigger's context is a TriggerData.
        let data = unsafe {
            pgrx::trigger_support::called_as_trigger(fcinfo)
                .then(|| &*(*fcinfo).context.cast::<pg_sys::TriggerData>())
        };
        let fits = |data: &&pg_sys::TriggerData| {
            let operation = data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
            data.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0
                && data.tg_event & pg_sys::TRIGGER_EVENT_INSTEAD == 0
                && (operation == pg_sys::TRIGGER_EVENT_INSERT
                    || operation == pg_sys::TRIGGER_EVENT_UPDATE
                    || data.tg_event & pg_sys::TRIGGER_EVENT_BEFORE == 0)
        };
        let Some(data) = data.filter(fits) else {
            Report::new(
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "distilface.pipeline_trigger() must be a row trigger on INSERT or UPDATE, or after DELETE",
            )
            .hint("distilface_vectorize makes the triggers of a table.")
            .raise()
        };
        Self { data }
    }

    pub fn timing(&self) -> Timing {
        let deletes =
            self.data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_DELETE;
        match self.data.tg_event & pg_sys::TRIGGER_EVENT_BEFORE {
            0 if deletes => Timing::AfterDelete,
            0 => Timing::After,
            _ => Timing::Before,
        }
    }

    /// The table's owner.
    pub fn owner(&self) -> pg_sys::Oid {
        // SAFETY: PostgreSQL keeps the relation open during the call.
        unsafe { (*(*self.data.tg_relation).rd_rel).relowner }
    }

    /// The trigger's argument of that number.
    pub fn argument(&self, number: usize) -> Option<&'a str> {
        // SAFETY: PostgreSQL's own trigger.
        unsafe { argument(&*self.data.tg_trigger, number) }
    }

    /// Attribute numbers of the columns that the companion trigger lists, in its order; none where
    /// it is gone.
    pub fn columns(&self) -> &'a [i16] {
        // SAFETY: PostgreSQL keeps the relation and its triggers during the call.
        unsafe {
            let own = &*self.data.tg_trigger;
            let all = &*(*self.data.tg_relation).trigdesc;
            let count = usize::try_from(all.numtriggers).unwrap_or(0);
            let companion = std::slice::from_raw_parts(all.triggers, count).iter().find(|other| {
                other.tgfoid == own.tgfoid
                    && other.tgnattr > 0
                    && argument(other, 0) == argument(own, 0)
                    && argument(other, 1) == Some("columns")
            });
            companion.map_or(&[], |trigger| {
                let columns = usize::try_from(trigger.tgnattr).unwrap_or(0);
                std::slice::from_raw_parts(trigger.tgattr, columns)
            })
        }
    }

    /// Whether an update left the column's bytes as they were. A value that stayed where it was out of
    /// line is not fetched for the answer.
    pub fn unchanged(&self, column: i16) -> bool {
        let Some(new) = (!self.data.tg_newtuple.is_null()).then(|| self.new_value(column)) else {
            return false;
        };
        let old = self.value(self.data.tg_trigtuple, column);
        let (Some(old), Some(new)) = (old, new) else {
            return old.is_none() && new.is_none();
        };
        // SAFETY: both values are of the column's type, whose length and kind the catalog gives.
        unsafe {
            let (mut length, mut by_value) = (0, false);
            pg_sys::get_typlenbyval(self.type_of(column), &raw mut length, &raw mut by_value);
            match usize::try_from(length) {
                _ if by_value => old == new,
                Ok(length) => bytes(old, length) == bytes(new, length),
                Err(_) => same_varlena(old, new),
            }
        }
    }

    /// Whether an update makes the column NULL.
    pub fn emptied(&self, column: i16) -> bool {
        !self.data.tg_newtuple.is_null()
            && self.new_value(column).is_none()
            && self.value(self.data.tg_trigtuple, column).is_some()
    }

    /// The new row's text in that column.
    pub fn text(&self, column: i16) -> Option<String> {
        // SAFETY: a column of the text types holds a varlena.
        let text = self.new_value(column).map(|datum| unsafe { Plain::from_datum(datum) })?;
        Some(to_utf8(&text.bytes()[size_of::<u32>()..]).into_owned())
    }

    /// The new row's values as their types write them, in the settings of the moment.
    pub fn written(&self, columns: &[i16]) -> TextArray {
        TextArray::new(columns.iter().map(|&column| {
            let datum = self.new_value(column)?;
            // SAFETY: the output function of the value's own type; its result is a string of PostgreSQL's.
            unsafe {
                let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
                pg_sys::getTypeOutputInfo(
                    self.type_of(column),
                    &raw mut function,
                    &raw mut is_varlena,
                );
                let written = pg_sys::OidOutputFunctionCall(function, datum);
                Some(pg_sys::Datum::from(pg_sys::cstring_to_text(written)))
            }
        }))
    }

    /// The type of a column.
    pub fn type_of(&self, column: i16) -> pg_sys::Oid {
        // SAFETY: reads the catalog's caches.
        unsafe { pg_sys::get_atttype((*self.data.tg_relation).rd_id, column) }
    }

    /// What a trigger that changes nothing returns.
    pub fn row(&self) -> Row {
        Row(self.new_tuple())
    }

    /// What a `BEFORE` trigger returns that sets one column.
    pub fn row_with(&self, column: i16, value: Option<pg_sys::Datum>) -> Row {
        if value.is_none() && self.new_value(column).is_none() {
            return self.row();
        }
        let mut number = i32::from(column);
        let mut is_null = value.is_none();
        let mut value = value.unwrap_or(pg_sys::Datum::null());
        // SAFETY: one column with its value and its NULL mark; the copy lives in the trigger's context.
        let tuple = unsafe {
            pg_sys::heap_modify_tuple_by_cols(
                self.new_tuple(),
                (*self.data.tg_relation).rd_att,
                1,
                &raw mut number,
                &raw mut value,
                &raw mut is_null,
            )
        };
        Row(tuple)
    }

    fn new_tuple(&self) -> pg_sys::HeapTuple {
        match self.data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_UPDATE => self.data.tg_newtuple,
            _ => self.data.tg_trigtuple,
        }
    }

    fn new_value(&self, column: i16) -> Option<pg_sys::Datum> {
        self.value(self.new_tuple(), column)
    }

    fn value(&self, tuple: pg_sys::HeapTuple, column: i16) -> Option<pg_sys::Datum> {
        let column = usize::try_from(column).ok().and_then(NonZeroUsize::new)?;
        // SAFETY: a tuple of the relation and one of its columns.
        unsafe { pgrx::htup::heap_getattr_raw(tuple, column, (*self.data.tg_relation).rd_att) }
    }
}

/// # Safety
/// A value of a type that is passed by reference and is that long.
unsafe fn bytes<'a>(datum: pg_sys::Datum, length: usize) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>(), length) }
}

/// # Safety
/// Two values of a type of variable length (or C strings, which no column holds).
unsafe fn same_varlena(old: pg_sys::Datum, new: pg_sys::Datum) -> bool {
    // SAFETY: the caller's promise; a toast pointer's own bytes say where the value lies, so that equal
    // pointers are equal values.
    unsafe {
        let size = |datum: pg_sys::Datum| pgrx::varsize_any(datum.cast_mut_ptr());
        if size(old) == size(new) && bytes(old, size(old)) == bytes(new, size(new)) {
            return true;
        }
        pg_sys::toast_raw_datum_size(old) == pg_sys::toast_raw_datum_size(new)
            && Plain::from_datum(old).bytes() == Plain::from_datum(new).bytes()
    }
}

/// # Safety
/// PostgreSQL's own trigger.
unsafe fn argument(trigger: &pg_sys::Trigger, number: usize) -> Option<&str> {
    if number >= usize::try_from(trigger.tgnargs).unwrap_or(0) {
        return None;
    }
    // SAFETY: a trigger has as many NUL-terminated arguments as it says.
    unsafe { CStr::from_ptr(*trigger.tgargs.add(number)) }.to_str().ok()
}
