//! `WITH (text_config = …, k1 = …, b = …, boosts = …)`.
//!
//! `text_config` is a configuration for all columns, or several: `english; title = simple` analyzes
//! the column `title` in another way. `boosts` multiplies columns' scores: `title = 3, body = 1`.

use crate::pg::index_am::{option, parse_options};
use crate::pg::report::Report;
use distilface_core::bm25::{
    Bm25Error, Bm25Params, Column, DEFAULT_B, DEFAULT_K1, ParamsError, TextConfig,
};
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::CStr;
use std::mem::offset_of;

thread_local! {
    static KIND: Cell<pg_sys::relopt_kind::Type> = const { Cell::new(0) };
}

/// The options as PostgreSQL keeps them with the relation: strings follow the fixed part, at the
/// offsets given (0 for the default).
#[repr(C)]
struct Stored {
    vl_len: i32,
    text_config: i32,
    boosts: i32,
    k1: f64,
    b: f64,
}

/// The options, read.
pub struct Options {
    text_config: String,
    boosts: String,
    k1: f64,
    b: f64,
}

/// Registers the options; called once, when the library is loaded.
pub fn define() {
    // SAFETY: PostgreSQL copies the names and descriptions; the validators live for ever.
    unsafe {
        let kind = pg_sys::add_reloption_kind();
        KIND.set(kind);
        let lock = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
        pg_sys::add_string_reloption(
            kind,
            c"text_config".as_ptr(),
            c"How texts are cut into terms".as_ptr(),
            c"simple".as_ptr(),
            Some(check_text_config),
            lock,
        );
        pg_sys::add_string_reloption(
            kind,
            c"boosts".as_ptr(),
            c"What columns' scores are multiplied by".as_ptr(),
            c"".as_ptr(),
            Some(check_boosts),
            lock,
        );
        pg_sys::add_real_reloption(
            kind,
            c"k1".as_ptr(),
            c"BM25's saturation of term frequencies".as_ptr(),
            f64::from(DEFAULT_K1),
            0.0,
            10.0,
            lock,
        );
        pg_sys::add_real_reloption(
            kind,
            c"b".as_ptr(),
            c"BM25's normalization by length".as_ptr(),
            f64::from(DEFAULT_B),
            0.0,
            1.0,
            lock,
        );
    }
}

/// Parses and checks the options of `CREATE INDEX` and `ALTER INDEX`.
#[pg_guard]
pub unsafe extern "C-unwind" fn amoptions(
    reloptions: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    use pg_sys::relopt_type::{RELOPT_TYPE_REAL, RELOPT_TYPE_STRING};
    let table = [
        option(c"text_config", RELOPT_TYPE_STRING, offset_of!(Stored, text_config)),
        option(c"boosts", RELOPT_TYPE_STRING, offset_of!(Stored, boosts)),
        option(c"k1", RELOPT_TYPE_REAL, offset_of!(Stored, k1)),
        option(c"b", RELOPT_TYPE_REAL, offset_of!(Stored, b)),
    ];
    // SAFETY: `table` describes the fields of `Stored`; the rest is PostgreSQL's own.
    unsafe { parse_options::<Stored>(reloptions, validate, KIND.get(), &table) }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_text_config(value: *const std::ffi::c_char) {
    // SAFETY: PostgreSQL passes the option's value, NUL-terminated, or null.
    let Some(value) = (unsafe { value.as_ref().map(|value| CStr::from_ptr(value)) }) else {
        return;
    };
    let value = value.to_string_lossy();
    for (_, config) in split_configs(&value) {
        if let Err(error) = TextConfig::parse(config) {
            Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, error.to_string())
                .hint("A configuration is simple, whitespace, ngram(2,3), cjk or a language, then options such as ascii_folding. \"english; title = simple\" sets another for a column.")
                .raise()
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_boosts(value: *const std::ffi::c_char) {
    // SAFETY: as above.
    let Some(value) = (unsafe { value.as_ref().map(|value| CStr::from_ptr(value)) }) else {
        return;
    };
    if let Err(item) = split_boosts(&value.to_string_lossy()) {
        Report::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("malformed boost \"{item}\""),
        )
        .hint("Boosts are given as in \"title = 3, body = 1\", from 0 to 1000.")
        .raise()
    }
}

/// The default's configuration (without a name) and those of columns.
fn split_configs(value: &str) -> impl Iterator<Item = (Option<&str>, &str)> {
    value.split(';').map(str::trim).filter(|item| !item.is_empty()).map(|item| {
        match item.split_once('=') {
            Some((column, config)) => (Some(column.trim()), config.trim()),
            None => (None, item),
        }
    })
}

fn split_boosts(value: &str) -> Result<Vec<(&str, f32)>, String> {
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| {
            let (column, boost) = item.split_once('=').ok_or(item)?;
            let boost: f32 = boost.trim().parse().map_err(|_| item)?;
            if (0.0..=1000.0).contains(&boost) { Ok((column.trim(), boost)) } else { Err(item) }
        })
        .collect::<Result<_, &str>>()
        .map_err(str::to_owned)
}

impl Options {
    /// The options of an open index.
    ///
    /// # Safety
    /// `relation` is an open index of this access method.
    pub unsafe fn of(relation: pg_sys::Relation) -> Self {
        // SAFETY: `rd_options` is null or what `amoptions` built: the fixed part, then the strings
        // at the offsets that it names.
        unsafe {
            let stored = (*relation).rd_options.cast::<Stored>();
            let Some(options) = stored.as_ref() else {
                return Self {
                    text_config: "simple".to_owned(),
                    boosts: String::new(),
                    k1: f64::from(DEFAULT_K1),
                    b: f64::from(DEFAULT_B),
                };
            };
            let string = |offset: i32, default: &str| match usize::try_from(offset) {
                Ok(offset) if offset > 0 => {
                    let start = stored.cast::<std::ffi::c_char>().add(offset);
                    CStr::from_ptr(start).to_string_lossy().into_owned()
                }
                _ => default.to_owned(),
            };
            Self {
                text_config: string(options.text_config, "simple"),
                boosts: string(options.boosts, ""),
                k1: options.k1,
                b: options.b,
            }
        }
    }

    /// The parameters for these columns.
    ///
    /// # Errors
    /// [`Bm25Error`] where a configuration is not understood; raises 42703 for a column that the
    /// index does not have.
    pub fn params(&self, columns: &[String]) -> Result<Bm25Params, Bm25Error> {
        let mut default = TextConfig::default();
        let mut configs: Vec<Option<TextConfig>> = vec![None; columns.len()];
        for (column, config) in split_configs(&self.text_config) {
            let config = TextConfig::parse(config)?;
            match column {
                None => default = config,
                Some(name) => configs[position(columns, name)] = Some(config),
            }
        }
        let mut boosts = vec![1.0; columns.len()];
        for (column, boost) in split_boosts(&self.boosts).unwrap_or_default() {
            boosts[position(columns, column)] = boost;
        }
        let columns = configs
            .into_iter()
            .zip(boosts)
            .map(|(config, boost)| Column {
                config: config.unwrap_or_else(|| default.clone()),
                boost,
            })
            .collect();
        let params: Result<Bm25Params, ParamsError> =
            Bm25Params::new(columns, self.k1 as f32, self.b as f32);
        Ok(params?)
    }
}

fn position(columns: &[String], name: &str) -> usize {
    columns.iter().position(|column| column == name).unwrap_or_else(|| {
        Report::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!("the index has no column \"{name}\""),
        )
        .detail(format!("Its columns are {}.", columns.join(", ")))
        .raise()
    })
}
