//! `@@@` and `<@>` for rows that no index scan brought: a sequential scan's, a select list's, a
//! recheck's. The text is scored by the statistics of the index that the query is bound to.
//!
//! A call site keeps its scorer for as long as the statement's snapshot stays the same, so the rows
//! of a statement are scored by the same statistics, and a row costs no look at the index.
//!
//! A query that names several columns needs a row's other texts too; the planner passes them (see
//! [`super::bind`]).

use super::index::IndexRelation;
use super::moment::Moment;
use super::query::{BoundQuery, index_name, open_checked};
use super::scan::parse;
use super::store::BackendStore;
use super::views::OpenView;
use super::{DISTANCE_BOUND, MATCH_BOUND, partitions};
use crate::pg::report::Report;
use distilface_core::bm25::{Bm25Error, Prepared, Scope, TextScorer};
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};

/// Times that a scorer is made anew when pages are recycled meanwhile, on a standby.
const ATTEMPTS: usize = 8;

/// What a call site keeps from one row to the next.
struct Site {
    index: pg_sys::Oid,
    query: Vec<u8>,
    moment: Moment,
    scorer: RowScorer,
}

/// A query's scorer, and where the operator's left operand stands in a row.
struct RowScorer {
    scorer: TextScorer<BackendStore>,
    column: usize,
    columns: usize,
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
fn distilface_bm25_match_bound(
    text: &str,
    query: BoundQuery<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> bool {
    query.is_checked_beside() || score(fcinfo, &query, MATCH_BOUND, Texts::One(text)).is_some()
}

/// `text <@> bm25query`: the negative score; 0 where the text does not match.
#[pg_extern(sql = false)]
fn distilface_bm25_distance_bound(
    text: &str,
    query: BoundQuery<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> f64 {
    distance(score(fcinfo, &query, DISTANCE_BOUND, Texts::One(text)))
}

/// `text @@@ bm25query` where the query may name other columns: with the texts of all columns.
#[pg_extern(sql = false)]
fn distilface_bm25_match_row(
    _text: Option<&str>,
    query: Option<BoundQuery<'_>>,
    row: Vec<Option<String>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Option<bool> {
    Some(score(fcinfo, &query?, MATCH_BOUND, Texts::Row(&row)).is_some())
}

/// `text <@> bm25query`, as above.
#[pg_extern(sql = false)]
fn distilface_bm25_distance_row(
    _text: Option<&str>,
    query: Option<BoundQuery<'_>>,
    row: Vec<Option<String>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Option<f64> {
    Some(distance(score(fcinfo, &query?, DISTANCE_BOUND, Texts::Row(&row))))
}

fn distance(score: Option<f32>) -> f64 {
    score.map_or(0.0, |score| -f64::from(score))
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

/// What a call knows of its row.
#[derive(Clone, Copy)]
enum Texts<'a> {
    /// The left operand only.
    One(&'a str),
    /// The text of each of the index's columns.
    Row(&'a [Option<String>]),
}

fn score(
    fcinfo: pg_sys::FunctionCallInfo,
    query: &BoundQuery<'_>,
    strategy: u16,
    texts: Texts<'_>,
) -> Option<f32> {
    // SAFETY: PostgreSQL's own argument; `fn_extra` is this function's to use, null at first.
    let function = unsafe { fcinfo.as_mut().and_then(|info| info.flinfo.as_mut()) };
    let (Some(function), Some(moment)) = (function, Moment::now()) else {
        return make(query, strategy, texts).score(query, texts);
    };
    if function.fn_extra.is_null() {
        let site: Option<Site> = None;
        // The context lives as long as the call site, and drops what it keeps.
        function.fn_extra =
            PgMemoryContexts::For(function.fn_mcxt).leak_and_drop_on_delete(site).cast();
    }
    // SAFETY: what was put there above, by this or an earlier call of the site.
    let site = unsafe { &mut *function.fn_extra.cast::<Option<Site>>() };
    let keeps = site.as_ref().is_some_and(|site| {
        site.moment == moment && site.index == query.index() && site.query == query.raw_text()
    });
    if !keeps {
        *site = None;
        let scorer = make(query, strategy, texts);
        let (index, raw) = (query.index(), query.raw_text().to_vec());
        *site = Some(Site { index, query: raw, moment, scorer });
    }
    site.as_mut().and_then(|site| site.scorer.score(query, texts))
}

impl RowScorer {
    fn score(&mut self, query: &BoundQuery<'_>, texts: Texts<'_>) -> Option<f32> {
        let mut row: Vec<Option<&str>> = vec![None; self.columns];
        match texts {
            Texts::One(text) => row[self.column] = Some(text),
            Texts::Row(texts) => {
                row.iter_mut().zip(texts).for_each(|(to, text)| *to = text.as_deref());
            }
        }
        self.scorer
            .score(&row)
            .unwrap_or_else(|error| super::raise(&index_name(query.index()), error))
    }
}

fn make(query: &BoundQuery<'_>, strategy: u16, texts: Texts<'_>) -> RowScorer {
    let bound = query.index();
    let index =
        if partitions::is_partitioned(bound) { partitions::first_leaf(bound) } else { bound };
    open_checked(index, |index| {
        let column = column_of(index, query);
        let mut attempt = 1;
        loop {
            match try_make(index, query, column, strategy, texts) {
                Err(Bm25Error::Recycled(_)) if attempt < ATTEMPTS => attempt += 1,
                result => return index.check(result),
            }
        }
    })
}

fn try_make(
    index: IndexRelation,
    query: &BoundQuery<'_>,
    column: usize,
    strategy: u16,
    texts: Texts<'_>,
) -> Result<RowScorer, Bm25Error> {
    let open = OpenView::current(index);
    let _attached = open.attach(index);
    let columns = index.columns();
    let names: Vec<&str> = columns.iter().map(String::as_str).collect();
    let scope = Scope { names: &names, defaults: &[column] };
    let prepared = Prepared::new(&open.view, &parse(&query.text(), strategy, &names)?, scope)?;
    if let (Texts::One(_), Some(&other)) =
        (texts, prepared.all_columns().iter().find(|&&other| other != column))
    {
        raise_other_column(index, &columns[column], &columns[other]);
    }
    let together = partitions::statistics(Some(query.index()), index, &prepared)?;
    let scorer = TextScorer::new(open.view.clone(), &prepared, together.as_deref())?;
    Ok(RowScorer { scorer, column, columns: columns.len() })
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

/// Only where the planner could not pass the row's texts: the left operand is no column of the
/// index's table.
fn raise_other_column(index: IndexRelation, own: &str, other: &str) -> ! {
    Report::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("query on \"{own}\" names column \"{other}\", whose text is not at hand"),
    )
    .detail(format!("The left operand is evaluated outside a scan of index \"{}\".", index.name()))
    .hint("Write the conditions apart, as in title @@@ 'a' AND body @@@ 'b'.")
    .raise()
}
