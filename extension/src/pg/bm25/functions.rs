//! Functions beside the operators: tokens, highlighting, merging, figures.

use super::index::IndexRelation;
use super::query::open_checked;
use super::views::OpenView;
use crate::pg::buffers::Logging;
use crate::pg::report::Report;
use distilface_core::bm25::{
    self, Bm25Error, Bm25Params, CheckReport, Highlight, MergeExtent, Query, Scope, TextConfig,
};
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;

/// The terms of a text.
#[pg_extern(sql = false)]
fn distilface_tokenize(
    text: &str,
    config: &str,
) -> TableIterator<
    'static,
    (name!(term, String), name!(place, i32), name!(start_byte, i32), name!(end_byte, i32)),
> {
    let rows: Vec<_> = bm25::tokenize(text, &parse_config(config))
        .into_iter()
        .map(|term| (term.text, term.position as i32, term.start as i32, term.end as i32))
        .collect();
    TableIterator::new(rows)
}

/// A text with the words marked that match a query.
#[pg_extern(sql = false)]
fn distilface_highlight(
    text: &str,
    query: &str,
    config: &str,
    start_mark: &str,
    end_mark: &str,
    max_chars: i32,
    ellipsis: &str,
) -> String {
    let style = Highlight {
        start: start_mark.to_owned(),
        end: end_mark.to_owned(),
        max_chars: usize::try_from(max_chars).unwrap_or(0),
        ellipsis: ellipsis.to_owned(),
    };
    let params = Bm25Params::single(config).unwrap_or_else(|error| refuse_config(config, &error));
    // The text is of one column, whatever column a clause names.
    let query = Query::parse(query).unwrap_or_else(|_| Query::words(query)).without_columns();
    let scope = Scope { names: &[""], defaults: &[0] };
    match bm25::highlight(text, &query, &params, scope, 0, &style) {
        Ok(marked) => marked,
        Err(error) => {
            Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, error.to_string()).raise()
        }
    }
}

fn parse_config(config: &str) -> TextConfig {
    TextConfig::parse(config).unwrap_or_else(|error| refuse_config(config, &error))
}

fn refuse_config(config: &str, error: &bm25::TextConfigError) -> ! {
    Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, error.to_string())
        .detail(format!("The text configuration is \"{config}\"."))
        .hint("A configuration is simple, whitespace, ngram(2,3), cjk or a language, then options such as ascii_folding.")
        .raise()
}

/// A query of any text: what is a query that names no column but these stays one, of anything else
/// the words.
#[pg_extern(sql = false)]
fn distilface_query(text: &str, columns: Vec<Option<String>>) -> String {
    let is_known = |name: &&str| columns.iter().flatten().any(|column| column == name);
    match Query::parse(text) {
        Ok(query) if query.names().iter().all(is_known) => text.to_owned(),
        _ => text
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty() && !matches!(*word, "AND" | "OR" | "NOT" | "TO"))
            .take(512)
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// Merges an index's pending list and all its segments into one, without dead rows.
#[pg_extern(sql = false)]
fn distilface_bm25_merge(index: pg_sys::Oid) {
    open_checked(index, |index| {
        require_owner(index);
        let (store, _attached) = index.store(Logging::Generic);
        index.check(bm25::merge(&store, MergeExtent::Everything));
    });
}

/// Figures of an index, one row.
#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns are the function's interface")]
fn distilface_bm25_info(
    index: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(rows, i64),
        name!(segments, i32),
        name!(pending_rows, i64),
        name!(k1, f64),
        name!(b, f64),
        name!(columns, Vec<String>),
        name!(text_configs, Vec<String>),
    ),
> {
    let row = open_checked(index, |index| {
        let view = OpenView::current(index).view;
        let params = view.params();
        let (segments, pending) = view.shape();
        (
            view.docs() as i64,
            segments as i32,
            pending as i64,
            f64::from(params.k1()),
            f64::from(params.b()),
            index.columns(),
            params.columns().iter().map(|column| column.config.to_string()).collect(),
        )
    });
    TableIterator::once(row)
}

/// Every broken invariant of an index, in words; `None` for one of another access method.
///
/// # Errors
/// Raises 42501 for somebody else's index.
pub fn check_if_ours(oid: pg_sys::Oid) -> Option<Vec<String>> {
    // SAFETY: opens by oid under a lock that lets reads and writes go on; closed before the index is
    // opened again by those who use it.
    let ours = unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::index_open(oid, lock);
        let ours = IndexRelation::new(relation).is_ours();
        pg_sys::index_close(relation, lock);
        ours
    };
    ours.then(|| {
        open_checked(oid, |index| {
            require_owner(index);
            check(index)
        })
    })
}

fn check(index: IndexRelation) -> Vec<String> {
    let (store, _attached) = index.store(Logging::Generic);
    let report: CheckReport = match bm25::check(&store) {
        Ok(report) => report,
        Err(error @ Bm25Error::Page(_)) => return vec![error.to_string()],
        Err(error) => index.check(Err(error)),
    };
    let unsaid = report.problem_count.saturating_sub(report.problems.len() as u64);
    let rest = (unsaid > 0).then(|| format!("and {unsaid} more"));
    report.problems.into_iter().chain(rest).collect()
}

fn require_owner(index: IndexRelation) {
    if !owned_by_user(index.oid()) {
        Report::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of index {}", index.name()),
        )
        .raise()
    }
}

#[cfg(feature = "pg15")]
fn owned_by_user(index: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog's caches.
    unsafe { pg_sys::pg_class_ownercheck(index, pg_sys::GetUserId()) }
}

#[cfg(not(feature = "pg15"))]
fn owned_by_user(index: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog's caches.
    unsafe { pg_sys::object_ownercheck(pg_sys::RelationRelationId, index, pg_sys::GetUserId()) }
}
