//! The extension's own tables, read by key past SQL: no operator of the user's search path is
//! called, no privilege of the user's is asked, and the newest committed row is seen whatever the
//! query's snapshot, as with PostgreSQL's catalogs.

use super::varlena::Plain;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};
use std::ops::ControlFlow;

const SCHEMA: &CStr = c"distilface";

/// What a leading column of the index must equal.
#[derive(Clone, Copy)]
pub enum Key<'a> {
    /// A `text` column of collation "C".
    Text(&'a str),
    Int(i32),
}

/// A row, as long as the callback runs.
pub struct Row {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Row {
    fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        (!self.nulls[column]).then(|| self.values[column])
    }

    /// A `text` column, counted from 0.
    pub fn text(&self, column: usize) -> Option<String> {
        Some(String::from_utf8_lossy(&self.bytes(column)?).into_owned())
    }

    /// A `text` or `bytea` column's bytes.
    pub fn bytes(&self, column: usize) -> Option<Vec<u8>> {
        // SAFETY: the column is a varlena; the scan that holds its tuple and snapshot is open.
        let plain = unsafe { Plain::from_datum(self.datum(column)?) };
        Some(plain.bytes()[size_of::<u32>()..].to_vec())
    }

    pub fn bool(&self, column: usize) -> bool {
        self.datum(column).is_some_and(|datum| datum.value() != 0)
    }

    pub fn oid(&self, column: usize) -> pg_sys::Oid {
        let value = self.datum(column).map_or(0, |datum| datum.value() as u32);
        pg_sys::Oid::from(value)
    }
}

/// The oid of one of the extension's tables or indexes; none where the extension is not in this
/// database (yet).
pub fn oid_of(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: both look-ups read the catalog's caches.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true);
        if schema == pg_sys::InvalidOid {
            return None;
        }
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// Who owns one of the extension's tables.
pub fn owner_of(table: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: opens and closes a table by its oid; an open relation's catalog row is there.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(table, lock);
        let owner = (*(*relation).rd_rel).relowner;
        pg_sys::table_close(relation, lock);
        owner
    }
}

/// Locks a table until the transaction's end.
pub fn lock(table: pg_sys::Oid, mode: u32) {
    // SAFETY: waits for and takes a lock of this backend.
    unsafe { pg_sys::LockRelationOid(table, mode as pg_sys::LOCKMODE) }
}

/// As [`lock`], where nobody has to be waited for.
pub fn try_lock(table: pg_sys::Oid, mode: u32) -> bool {
    // SAFETY: takes a lock of this backend, or does nothing.
    unsafe { pg_sys::ConditionalLockRelationOid(table, mode as pg_sys::LOCKMODE) }
}

/// Hands the rows whose leading index columns equal `keys` to `each` until it breaks. No rows where
/// the table is not there.
pub fn find<T>(
    table: &CStr,
    index: &CStr,
    columns: &[i16],
    keys: &[Key<'_>],
    mut each: impl FnMut(&Row) -> ControlFlow<T>,
) -> Option<T> {
    let (table, index) = (oid_of(table)?, oid_of(index)?);
    let texts: Vec<pg_sys::Datum> = keys.iter().map(|key| argument(*key)).collect();
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: table and index are open during the scan; the keys are as many as said, of the
    // columns' types; the description has as many columns as both vectors have places.
    unsafe {
        let relation = pg_sys::table_open(table, lock);
        let mut scan_keys: Vec<pg_sys::ScanKeyData> =
            vec![pg_sys::ScanKeyData::default(); keys.len()];
        for (at, key) in keys.iter().enumerate() {
            let equal = match key {
                Key::Text(_) => pg_sys::F_TEXTEQ,
                Key::Int(_) => pg_sys::F_INT4EQ,
            };
            pg_sys::ScanKeyInit(
                &mut scan_keys[at],
                columns[at],
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::Oid::from(equal),
                texts[at],
            );
        }
        let scan = pg_sys::systable_beginscan(
            relation,
            index,
            true,
            std::ptr::null_mut(),
            scan_keys.len() as i32,
            scan_keys.as_mut_ptr(),
        );
        let description = (*relation).rd_att;
        let width = (*description).natts as usize;
        let mut found = None;
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let mut row =
                Row { values: vec![pg_sys::Datum::null(); width], nulls: vec![true; width] };
            pg_sys::heap_deform_tuple(
                tuple,
                description,
                row.values.as_mut_ptr(),
                row.nulls.as_mut_ptr(),
            );
            if let ControlFlow::Break(value) = each(&row) {
                found = Some(value);
                break;
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
        found
    }
}

fn argument(key: Key<'_>) -> pg_sys::Datum {
    match key {
        Key::Int(value) => pg_sys::Datum::from(value),
        Key::Text(text) => {
            // What no stored name can hold finds nothing.
            let text = CString::new(text).unwrap_or_default();
            // SAFETY: copies a NUL-terminated string into a palloc'd text.
            pg_sys::Datum::from(unsafe { pg_sys::cstring_to_text(text.as_ptr()) })
        }
    }
}

/// Tells every backend, once this transaction commits, that what it remembers of `table` is old.
pub fn invalidate(table: pg_sys::Oid) {
    // SAFETY: PostgreSQL raises an error where there is no such table.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table) }
}
