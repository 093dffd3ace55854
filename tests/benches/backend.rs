//! `make bench-backend`: what embedding costs inside a backend, beside the bare encoder in this process.
//!
//! Texts are the demo's passages; one thread on both sides. Each statement runs between two runs of the bare
//! encoder, since a machine's speed may change within seconds; medians of times and of ratios. Cold start is a new
//! connection to its first vector, at the client. Memory is read from `/proc` while 50 backends hold a
//! vector each. PostgreSQL 15, the built-in model.

use std::fs;
use std::path::Path;
use std::time::Instant;

use distilface_core::encoder::{Context, InputKind, SentenceEncoder};
use distilface_tests::{Cluster, Session};

const ROUNDS: usize = 5;
const BACKENDS: usize = 50;

/// What the bare encoder does beside a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Batch,
    OneByOne,
}

/// A name, the statement, what it is compared with, and the share of its speed that is asked for.
const STATEMENTS: [(&str, &str, Beside, f64); 6] = [
    (
        "distilface_embed(text[])",
        "SELECT count(distilface_embed(bodies)) FROM (SELECT array_agg(body ORDER BY id) AS bodies FROM passages) b",
        Beside::Batch,
        0.9,
    ),
    (
        "SELECT count(distilface_embed(body))",
        "SELECT count(distilface_embed(body)) FROM passages",
        Beside::Batch,
        0.9,
    ),
    (
        "INSERT … SELECT distilface_embed(body)",
        "INSERT INTO filled SELECT id, distilface_embed(body) FROM passages",
        Beside::Batch,
        0.9,
    ),
    (
        "INSERT into a generated column's table",
        "INSERT INTO generated SELECT id, body FROM passages",
        Beside::Batch,
        0.9,
    ),
    (
        "CREATE INDEX on text, graph included",
        "CREATE INDEX body_semantic ON passages USING distilface_hnsw (body)",
        Beside::Batch,
        0.9,
    ),
    (
        "distilface_embed(text), look_ahead off",
        "SET distilface.look_ahead = off; SELECT count(distilface_embed(body)) FROM passages",
        Beside::OneByOne,
        0.7,
    ),
];

/// What a statement took, and the bare encoder's time over it: the mean of a run just before and one just after.
#[derive(Default)]
struct Turns {
    times: Vec<f64>,
    ratios: Vec<f64>,
}

fn main() {
    // `cargo nextest` and `cargo test` ask bench targets for their tests; there are none.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return;
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let block = aligned(
        &fs::read(top.join("models/distilface-small/model.packed"))
            .expect("it is in the repository"),
    );
    let bare = SentenceEncoder::from_packed(bytes_of(&block)).expect("the model opens");
    let cluster = Cluster::builder()
        .set("max_connections", "100")
        .set("autovacuum", "off")
        .set("distilface.threads", "1")
        .start();
    let mut session = cluster.session();
    let texts = load(&cluster, &mut session, &top.join("demo/corpus.tsv.gz"));
    let tokens: u64 = session
        .one("SELECT sum(distilface_token_count(body)) FROM passages")
        .parse()
        .expect("a count");
    println!(
        "{}, {} passages, {tokens} tokens, one thread\n",
        session.one("SHOW server_version"),
        texts.len()
    );

    let mut report = Report::default();
    report.at_most("cold start, ms", cold_start(&cluster), 25.0);

    let mut cx = Context::new(1);
    let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut batch = || {
        ms(|| {
            bare.embed(&borrowed, InputKind::Passage, &mut cx).expect("embeds");
        })
    };
    let mut each_cx = Context::new(1);
    let mut one_by_one = || {
        ms(|| {
            for text in &borrowed {
                bare.embed(&[text], InputKind::Passage, &mut each_cx).expect("embeds");
            }
        })
    };
    let (mut batches, mut singles) = (Vec::new(), Vec::new());
    let mut turns: [Turns; STATEMENTS.len()] = Default::default();
    for _ in 0..ROUNDS {
        let mut last: Option<(Beside, f64)> = None;
        for (&(_, statement, beside, _), turns) in STATEMENTS.iter().zip(&mut turns) {
            let mut bare = || {
                let (time, all) = match beside {
                    Beside::Batch => (batch(), &mut batches),
                    Beside::OneByOne => (one_by_one(), &mut singles),
                };
                all.push(time);
                time
            };
            let before = last.filter(|last| last.0 == beside).map_or_else(&mut bare, |last| last.1);
            // A session of its own for each: no vector comes from the cache of an earlier statement.
            let mut fresh = cluster.session();
            fresh.sql("SELECT distilface_embed('warm'); TRUNCATE filled, generated; DROP INDEX IF EXISTS body_semantic");
            let time = ms(|| fresh.sql(statement));
            let after = bare();
            turns.times.push(time);
            turns.ratios.push((before + after) / 2.0 / time);
            last = Some((beside, after));
        }
    }
    let line = |what: &str, time: f64| {
        println!("{what:<40} {time:>8.0} ms {:>9.0} tokens/s", tokens as f64 / time * 1e3);
    };
    line("bare encoder, one batch", median(batches));
    line("bare encoder, text by text", median(singles));
    for ((what, _, beside, asked), turns) in STATEMENTS.into_iter().zip(turns) {
        line(what, median(turns.times));
        let beside = match beside {
            Beside::Batch => "batch",
            Beside::OneByOne => "text by text",
        };
        report.at_least(&format!("{what} over bare {beside}"), median(turns.ratios), asked);
    }

    let memory = memory(&cluster);
    println!(
        "\n{BACKENDS} backends that hold a vector: {:.1} MB each in proportion, {:.1} MB of its own at most",
        memory.0, memory.1
    );
    report.at_most("private memory of a backend, MB", memory.1, 16.0);
    println!("\n{}", report.lines);
}

/// `target NAME got X asked Y ok|short`, a line each.
#[derive(Default)]
struct Report {
    lines: String,
}

impl Report {
    fn at_least(&mut self, name: &str, got: f64, asked: f64) {
        self.line(name, got, asked, got >= asked);
    }

    fn at_most(&mut self, name: &str, got: f64, asked: f64) {
        self.line(name, got, asked, got <= asked);
    }

    fn line(&mut self, name: &str, got: f64, asked: f64, met: bool) {
        let verdict = if met { "ok" } else { "short" };
        self.lines += &format!("target {name} got {got:.2} asked {asked} {verdict}\n");
    }
}

fn load(cluster: &Cluster, session: &mut Session, corpus: &Path) -> Vec<String> {
    session.sql("CREATE TABLE passages (id int PRIMARY KEY, body text NOT NULL); CREATE TABLE filled (id int, e embedding);
         CREATE TABLE generated (id int, body text, e embedding GENERATED ALWAYS AS (distilface_embed(body, 'distilface-small')) STORED)");
    cluster.psql(&format!(
        "\\copy passages FROM PROGRAM 'gzip -dc {}'\n",
        corpus.canonicalize().expect("the corpus is in the tree").display()
    ));
    session.sql("VACUUM ANALYZE passages");
    session.column("SELECT body FROM passages ORDER BY id")
}

/// Milliseconds from connecting to the first vector, median.
fn cold_start(cluster: &Cluster) -> f64 {
    median(
        (0..21)
            .map(|i| {
                ms(|| {
                    cluster
                        .session()
                        .sql(&format!("SELECT distilface_embed('a first question, number {i}')"))
                })
            })
            .collect(),
    )
}

/// Megabytes of a backend in proportion (shared pages divided by their users), and its own, the largest.
fn memory(cluster: &Cluster) -> (f64, f64) {
    let mut sessions: Vec<Session> = (0..BACKENDS).map(|_| cluster.session()).collect();
    for session in &mut sessions {
        session.sql(
            "SELECT count(distilface_embed(body)) FROM (SELECT body FROM passages LIMIT 64) p",
        );
    }
    let read = |pid: i32, what: &str| -> f64 {
        let rollup =
            fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the backend runs");
        let kb: f64 = rollup
            .lines()
            .filter(|line| line.starts_with(what))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
            .sum();
        kb / 1024.0
    };
    let pids: Vec<i32> = sessions.iter_mut().map(Session::pid).collect();
    let proportional = pids.iter().map(|&pid| read(pid, "Pss:")).sum::<f64>() / BACKENDS as f64;
    let private = pids.iter().map(|&pid| read(pid, "Private_")).fold(0.0, f64::max);
    (proportional, private)
}

fn ms(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64() * 1e3
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A packed model lies at a multiple of 64.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Line([u8; 64]);

fn aligned(bytes: &[u8]) -> Vec<Line> {
    let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64)];
    bytes_of_mut(&mut lines)[..bytes.len()].copy_from_slice(bytes);
    lines
}

fn bytes_of(lines: &[Line]) -> &[u8] {
    bytemuck::cast_slice(lines)
}

fn bytes_of_mut(lines: &mut [Line]) -> &mut [u8] {
    bytemuck::cast_slice_mut(lines)
}
