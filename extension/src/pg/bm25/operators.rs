//! `@@@` and `<@>` for rows that no index scan brought: a sequential scan's, a select list's, a
//! recheck's. The text is scored by the statistics of the index that the query is bound to.

use super::index::IndexRelation;
use super::query::{BoundQuery, open_checked};
use super::scan::parse;
use super::store::BackendStore;
use super::views::OpenView;
use super::{DISTANCE_BOUND, MATCH_BOUND};
use crate::pg::report::Report;
use distilface_core::bm25::{Bm25Error, Prepared, Scope, TextScorer, View};
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::sync::Arc;

/// Scorers that a backend keeps: a statement may have a condition and an order, or several.
const KEPT: usize = 4;

struct Kept {
    index: pg_sys::Oid,
    column: usize,
    strategy: u16,
    query: String,
    view: Arc<View<BackendStore>>,
    columns: usize,
    scorer: TextScorer<BackendStore>,
}

thread_local! {
    static SCORERS: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

/// `text @@@ text`, where the planner found no index.
#[pg_extern(sql = false)]
fn distilface_bm25_match(_text: &str, _query: &str) -> bool {
    raise_unbound("@@@")
}

/// `text <@> text`, where the planner found no index.
#[pg_extern(sql = false)]
fn distilface_bm25_distance(_text: &str, _query: &str) -> f64 {
    raise_unbound("<@>")
}

/// `text @@@ bm25query`.
#[pg_extern(sql = false)]
fn distilface_bm25_match_bound(text: &str, query: BoundQuery<'_>) -> bool {
    score(text, &query, MATCH_BOUND).is_some()
}

/// `text <@> bm25query`: the negative score; 0 where the text does not match.
#[pg_extern(sql = false)]
fn distilface_bm25_distance_bound(text: &str, query: BoundQuery<'_>) -> f64 {
    score(text, &query, DISTANCE_BOUND).map_or(0.0, |score| -f64::from(score))
}

fn raise_unbound(operator: &str) -> ! {
    Report::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("operator {operator} needs a distilface_bm25 index on its left operand"),
    )
    .detail("Scores depend on the statistics of all rows, which only an index has.")
    .hint(
        "CREATE INDEX ON the table USING distilface_bm25 (the column), or name an index: \
         bm25query('query', 'index').",
    )
    .raise()
}

fn score(text: &str, query: &BoundQuery<'_>, strategy: u16) -> Option<f32> {
    open_checked(query.index(), |index| {
        let open = OpenView::current(index);
        let _attached = open.attach(index);
        let query_text = query.text();
        let known = SCORERS.with_borrow_mut(|scorers| {
            let at = scorers.iter().position(|kept| {
                kept.index == index.oid()
                    && kept.strategy == strategy
                    && query.column().is_none_or(|column| column == kept.column)
                    && kept.query == query_text
            })?;
            Some(scorers.remove(at)).filter(|kept| Arc::ptr_eq(&kept.view, &open.view))
        });
        let mut kept = known.unwrap_or_else(|| {
            let column = column_of(index, query);
            let made = make(&open, index, column, &query_text, strategy);
            index.check(made)
        });
        let mut texts = vec![None; kept.columns];
        texts[kept.column] = Some(text);
        let score = index.check(kept.scorer.score(&texts));
        SCORERS.with_borrow_mut(|scorers| {
            scorers.truncate(KEPT - 1);
            scorers.insert(0, kept);
        });
        score
    })
}

fn make(
    open: &OpenView,
    index: IndexRelation,
    column: usize,
    query: &str,
    strategy: u16,
) -> Result<Kept, Bm25Error> {
    let columns = index.columns();
    let names: Vec<&str> = columns.iter().map(String::as_str).collect();
    let scope = Scope { names: &names, defaults: &[column] };
    let prepared = Prepared::new(&open.view, &parse(query, strategy)?, scope)?;
    if let Some(&other) = prepared.columns().iter().find(|&&other| other != column) {
        raise_other_column(index, &columns[column], &columns[other]);
    }
    Ok(Kept {
        index: index.oid(),
        column,
        strategy,
        query: query.to_owned(),
        view: Arc::clone(&open.view),
        columns: columns.len(),
        scorer: TextScorer::new(Arc::clone(&open.view), &prepared)?,
    })
}

/// The column that the query is bound to, or the only one.
fn column_of(index: IndexRelation, query: &BoundQuery<'_>) -> usize {
    match (query.column(), index.column_count()) {
        (Some(column), count) if column < count => column,
        (None, 1) => 0,
        _ => Report::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("index \"{}\" has several columns", index.name()),
        )
        .detail("The query does not tell which of them the text belongs to.")
        .hint("Put the column itself on the operator's left side.")
        .raise(),
    }
}

fn raise_other_column(index: IndexRelation, own: &str, other: &str) -> ! {
    Report::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("query on \"{own}\" names column \"{other}\", which only an index scan can search"),
    )
    .detail(format!("The plan does not scan index \"{}\" for it.", index.name()))
    .hint("Write the conditions apart, as in title @@@ 'a' AND body @@@ 'b', or SET enable_seqscan = off.")
    .raise()
}
