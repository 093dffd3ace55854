//! `make bench-search`: full text and hybrid search, in turns with what else one would use.
//!
//! The corpus is the sentences of `../shared/data/train/sentences.tsv.gz`, up to a million; the peers
//! are GIN on a stored `tsvector` with `ts_rank` in the same server, and tantivy itself on files in
//! memory-mapped mode, on this thread. All three cut texts in the same way ("simple"), queries are
//! one to four terms, any of which may match, everything is cached, one connection, time taken inside
//! the server. Then single-row inserts, hybrid search with the query's embedding, and quality on
//! SciFact with the defaults. PostgreSQL 15, whose tree `make pg-trees` makes.
//!
//! `DISTILFACE_BENCH_ROWS` makes it smaller; `DISTILFACE_BENCH_HYBRID_ROWS` bounds the rows that are
//! embedded (all of them, unless said otherwise). `DISTILFACE_BENCH_HOST` is the socket's directory of a
//! server to use instead of a new one: its tables of an earlier run are used again, so that a million
//! rows are embedded once.

mod corpus;
mod hybrid;
mod peer;
mod quality;
mod text;

use distilface_tests::{Cluster, Session, skip};
use std::fmt::Write as _;
use std::path::PathBuf;

/// PostgreSQL's own.
const PORT: u16 = 5432;

fn main() {
    // `cargo nextest` and `cargo test` ask bench targets for their tests; there are none.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return;
    }
    let Some(sentences) = corpus::sentences(rows("DISTILFACE_BENCH_ROWS", 1_000_000)) else {
        skip!("no shared/data/train/sentences.tsv.gz beside the project");
    };
    let host = std::env::var_os("DISTILFACE_BENCH_HOST").map(PathBuf::from);
    let cluster = match &host {
        Some(_) => None,
        None => Some(
            Cluster::builder()
                .set("shared_buffers", "4GB")
                .set("maintenance_work_mem", "1GB")
                .set("max_wal_size", "8GB")
                .set("max_parallel_workers_per_gather", "0")
                .set("jit", "off")
                .start(),
        ),
    };
    let host = host.as_deref().or(cluster.as_ref().map(Cluster::host));
    let host = host.expect("a server is started where none is named");
    let mut session = Session::connect(host, PORT, "postgres", "postgres")
        .unwrap_or_else(|error| panic!("no server at {}: {error}", host.display()));
    println!("{} sentences; {}\n", sentences.len(), session.one("SELECT version()"));
    let mut targets = Targets::default();
    text::run(&mut session, &sentences, &mut targets);
    hybrid::run(&mut session, rows("DISTILFACE_BENCH_HYBRID_ROWS", usize::MAX), &mut targets);
    quality::run(&mut session, &mut targets);
    print!("\n{}", targets.lines);
}

fn rows(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|rows| rows.parse().ok()).unwrap_or(default)
}

/// What was asked and what came out, for the end.
#[derive(Default)]
pub struct Targets {
    lines: String,
}

impl Targets {
    pub fn at_least(&mut self, name: &str, got: f64, asked: f64) {
        self.push(name, got, asked, got >= asked);
    }

    pub fn at_most(&mut self, name: &str, got: f64, asked: f64) {
        self.push(name, got, asked, got <= asked);
    }

    fn push(&mut self, name: &str, got: f64, asked: f64, met: bool) {
        let verdict = if met { "ok" } else { "short" };
        writeln!(self.lines, "target {name} got {got:.3} asked {asked:.3} {verdict}")
            .expect("a string can be written to");
    }
}

pub fn number(session: &mut Session, sql: &str) -> f64 {
    session.one(sql).parse().unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// Whether a table is left from an earlier run.
pub fn exists(session: &mut Session, table: &str) -> bool {
    session.one(&format!("SELECT to_regclass('{table}') IS NOT NULL")) == "t"
}

/// Seconds that a statement takes, by the server's clock.
pub fn seconds(session: &mut Session, sql: &str) -> f64 {
    let clock = "SELECT extract(epoch FROM clock_timestamp())";
    let began = number(session, clock);
    session.sql(sql);
    number(session, clock) - began
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
