//! `WITH (m = …, ef_construction = …, storage = …, model = …)`.

use crate::model::registry;
use crate::pg::index_am::{option, parse_options};
use crate::pg::report::Report;
use crate::pg::restoring;
use distilface_core::hnsw::{
    DEFAULT_EF_CONSTRUCTION, DEFAULT_M, EF_CONSTRUCTION_RANGE, M_RANGE, Storage,
};
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::pg_sys::relopt_type::{RELOPT_TYPE_INT, RELOPT_TYPE_STRING};
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::CStr;
use std::mem::offset_of;

thread_local! {
    static KIND: Cell<pg_sys::relopt_kind::Type> = const { Cell::new(0) };
}

/// The options as PostgreSQL keeps them with the relation.
#[repr(C)]
pub struct Options {
    vl_len: i32,
    pub m: i32,
    pub ef_construction: i32,
    /// Where the model's name starts, counted from the struct; 0 for none.
    model: i32,
    /// The same of the storage's name.
    storage: i32,
}

impl Options {
    /// What an index without a `WITH` clause gets.
    pub const DEFAULT: Self = Self {
        vl_len: 0,
        m: DEFAULT_M as i32,
        ef_construction: DEFAULT_EF_CONSTRUCTION as i32,
        model: 0,
        storage: 0,
    };

    /// The model that `WITH (model = …)` names.
    pub fn model(&self) -> Option<&str> {
        self.string(self.model)
    }

    /// The storage that `WITH (storage = …)` names; without one, the faster that the column can have.
    pub fn storage(&self) -> Option<Storage> {
        self.string(self.storage).and_then(Storage::by_name)
    }

    fn string(&self, offset: i32) -> Option<&str> {
        if offset <= 0 {
            return None;
        }
        // SAFETY: PostgreSQL put a NUL-terminated string there, in the struct's own allocation.
        let name = unsafe {
            let start = std::ptr::from_ref(self).cast::<std::ffi::c_char>();
            CStr::from_ptr(start.add(offset as usize))
        };
        name.to_str().ok().filter(|name| !name.is_empty())
    }
}

/// Registers the options; called once, when the library is loaded.
pub fn define() {
    // SAFETY: PostgreSQL copies the names and descriptions.
    unsafe {
        let kind = pg_sys::add_reloption_kind();
        KIND.set(kind);
        pg_sys::add_int_reloption(
            kind,
            c"m".as_ptr(),
            c"Neighbors that a node keeps on each upper level; twice as many on level 0".as_ptr(),
            Options::DEFAULT.m,
            i32::from(*M_RANGE.start()),
            i32::from(*M_RANGE.end()),
            pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE,
        );
        pg_sys::add_int_reloption(
            kind,
            c"ef_construction".as_ptr(),
            c"Candidates that are kept while a node's neighbors are searched".as_ptr(),
            Options::DEFAULT.ef_construction,
            i32::from(*EF_CONSTRUCTION_RANGE.start()),
            i32::from(*EF_CONSTRUCTION_RANGE.end()),
            pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE,
        );
        pg_sys::add_string_reloption(
            kind,
            c"model".as_ptr(),
            c"Model that embeds the text of an index on text".as_ptr(),
            std::ptr::null(),
            Some(validate_model),
            pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE,
        );
        pg_sys::add_string_reloption(
            kind,
            c"storage".as_ptr(),
            c"sketched: sketches beside the links, faster; plain: half the size".as_ptr(),
            std::ptr::null(),
            Some(validate_storage),
            pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE,
        );
    }
}

/// Refuses a model that is not here when the option is set, not when the index is built. While `pg_upgrade`
/// restores the schema none is here yet, and in a restore by several jobs it may still come.
#[pg_guard]
unsafe extern "C-unwind" fn validate_model(name: *const std::ffi::c_char) {
    // SAFETY: set when the server starts.
    let later = unsafe { pg_sys::IsBinaryUpgrade } || restoring::is_restoring();
    if !name.is_null() && !later {
        // SAFETY: PostgreSQL passes a NUL-terminated string.
        registry::by_name(&unsafe { CStr::from_ptr(name) }.to_string_lossy());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn validate_storage(name: *const std::ffi::c_char) {
    if name.is_null() {
        return;
    }
    // SAFETY: PostgreSQL passes a NUL-terminated string.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    if Storage::by_name(&name).is_none() {
        Report::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("storage \"{name}\" does not exist"),
        )
        .hint("There are plain and sketched.")
        .raise()
    }
}

/// Parses and checks the options of `CREATE INDEX` and `ALTER INDEX`.
#[pg_guard]
pub unsafe extern "C-unwind" fn amoptions(
    reloptions: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    let table = [
        option(c"m", RELOPT_TYPE_INT, offset_of!(Options, m)),
        option(c"ef_construction", RELOPT_TYPE_INT, offset_of!(Options, ef_construction)),
        option(c"model", RELOPT_TYPE_STRING, offset_of!(Options, model)),
        option(c"storage", RELOPT_TYPE_STRING, offset_of!(Options, storage)),
    ];
    // SAFETY: `table` describes the fields of `Options`; the rest is PostgreSQL's own.
    unsafe { parse_options::<Options>(reloptions, validate, KIND.get(), &table) }
}
