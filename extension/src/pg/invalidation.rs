//! Whether what this backend remembers of `distilface.model` and of roles is still true.

use super::table;
use pgrx::pg_sys;
use std::cell::Cell;

thread_local! {
    static CHANGED: Cell<bool> = const { Cell::new(true) };
    /// The table whose changes count; unknown until it is first asked for, and after a reset.
    static TABLE: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
}

/// Registers the callbacks; called once, when the library is loaded.
pub fn install() {
    // SAFETY: PostgreSQL calls both on the backend's only thread; neither touches the catalogs.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::null());
        for cache in
            [pg_sys::SysCacheIdentifier::AUTHOID, pg_sys::SysCacheIdentifier::AUTHMEMROLEMEM]
        {
            pg_sys::CacheRegisterSyscacheCallback(
                cache as i32,
                Some(roles_changed),
                pg_sys::Datum::null(),
            );
        }
    }
}

/// Whether anything has changed since the last call.
pub fn take_changed() -> bool {
    CHANGED.replace(false)
}

/// Whether anything has changed since the last [`take_changed`].
pub fn has_changed() -> bool {
    CHANGED.get()
}

/// Makes the callback watch the table of models. Called before what is remembered is read.
pub fn watch() {
    if TABLE.get().is_none() {
        TABLE.set(table::oid_of(c"model"));
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn relation_changed(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let watched = TABLE.get();
    if relation == pg_sys::InvalidOid || watched.is_none() || watched == Some(relation) {
        TABLE.set(None);
        CHANGED.set(true);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn roles_changed(
    _argument: pg_sys::Datum,
    _cache: i32,
    _hash: pg_sys::uint32,
) {
    CHANGED.set(true);
}
