//! `WITH (m = …, ef_construction = …)`.

use distilface_core::hnsw::{DEFAULT_EF_CONSTRUCTION, DEFAULT_M, EF_CONSTRUCTION_RANGE, M_RANGE};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
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
}

impl Options {
    /// What an index without a `WITH` clause gets.
    pub const DEFAULT: Self =
        Self { vl_len: 0, m: DEFAULT_M as i32, ef_construction: DEFAULT_EF_CONSTRUCTION as i32 };
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
    }
}

/// Parses and checks the options of `CREATE INDEX` and `ALTER INDEX`.
#[pg_guard]
pub unsafe extern "C-unwind" fn amoptions(
    reloptions: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    // PostgreSQL 18 has one field more.
    #[allow(clippy::needless_update)]
    let int = |optname: &std::ffi::CStr, offset: usize| pg_sys::relopt_parse_elt {
        optname: optname.as_ptr(),
        opttype: pg_sys::relopt_type::RELOPT_TYPE_INT,
        offset: offset as i32,
        ..Default::default()
    };
    let table = [
        int(c"m", offset_of!(Options, m)),
        int(c"ef_construction", offset_of!(Options, ef_construction)),
    ];
    // SAFETY: `table` describes the fields of `Options`, whose size is passed with it.
    unsafe {
        pg_sys::build_reloptions(
            reloptions,
            validate,
            KIND.get(),
            size_of::<Options>(),
            table.as_ptr(),
            table.len() as i32,
        )
        .cast()
    }
}
