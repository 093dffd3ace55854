//! `make bench-pipeline`: what keeping a table embedded costs beside the bare encoder.
//!
//! Sentences of `../shared/data/train/sentences.tsv.gz` (every tenth line) where there is one, or else the
//! demo's passages. The bare encoder runs in this process, on as many threads, over the same texts, before and
//! after each statement on all of them, since a machine's speed may change within seconds; medians of rates and
//! of ratios. Memory is that of 50 connections each of which has embedded
//! with three models: the built-in one, and two loaded ones of its layers' size.
//! `DISTILFACE_BENCH_ROWS` (5,000) makes it larger or smaller.

use std::fs;
use std::io::Write as _;
use std::sync::Barrier;
use std::time::Instant;

use distilface_core::encoder::{Context, InputKind, SentenceEncoder};
use distilface_tests::{Cluster, Session, TinyModel, checkout, second_column};

const ROUNDS: usize = 5;
const THREADS: usize = 2;
/// Rows of the measurements of single inserts.
const SINGLE: usize = 500;
const CONNECTIONS: usize = 50;
/// What goes before, and the statement that is measured.
const BATCHES: [(&str, &str); 3] = [
    ("SELECT", "SELECT cardinality(distilface_embed(array_agg(body))) FROM texts"),
    (
        "DROP INDEX IF EXISTS texts_body",
        "CREATE INDEX texts_body ON texts USING distilface_hnsw (body)",
    ),
    (
        "DROP INDEX texts_body; DROP TABLE IF EXISTS docs; CREATE TABLE docs AS TABLE texts",
        "CALL distilface_vectorize('docs', 'body', 'e', build_index => 'none')",
    ),
];
/// Single inserts: by hand, and into a table with a trigger.
const SINGLES: [&str; 2] = [
    "INSERT INTO by_hand VALUES ($1, $2, distilface_embed($2))",
    "INSERT INTO docs VALUES ($1, $2)",
];
/// Texts that a connection embeds in one call while memory is measured.
const TEXTS_AT_ONCE: usize = 32;

fn main() {
    // `cargo nextest` and `cargo test` ask bench targets for their tests; there are none.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return;
    }
    let rows = std::env::var("DISTILFACE_BENCH_ROWS").ok().and_then(|n| n.parse().ok());
    let (from, texts) = corpus(rows.unwrap_or(5_000));
    let packed = Packed::read();
    let encoder = SentenceEncoder::from_packed(packed.bytes()).expect("`make model` packed it");
    let cluster = Cluster::builder()
        .set("shared_buffers", "512MB")
        .set("maintenance_work_mem", "512MB")
        .set("max_wal_size", "8GB")
        .start();
    let mut session = cluster.session();
    session
        .sql(&format!("SET distilface.threads = {THREADS}; SET distilface.on_overflow = silent"));
    load(&mut session, &texts);
    println!("{}", session.one("SELECT version()"));
    println!("{} texts of {from}, {THREADS} threads\n", texts.len());

    let mut rates: [Vec<f64>; 4] = Default::default();
    let mut ratios: [Vec<f64>; 3] = Default::default();
    let mut single_ratios: [Vec<f64>; 2] = Default::default();
    let mut single: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        let mut bare = bare_rate(&encoder, &texts, THREADS);
        for (at, (prepare, measured)) in BATCHES.into_iter().enumerate() {
            session.sql(prepare);
            let rate = texts.len() as f64 / statement(&mut session, measured);
            let after = bare_rate(&encoder, &texts, THREADS);
            rates[0].push(after);
            rates[at + 1].push(rate);
            ratios[at].push(rate * 2.0 / (bare + after));
            bare = after;
        }

        let mut alone = one_by_one_rate(&encoder, &texts[..SINGLE]);
        session.sql("DROP TABLE IF EXISTS by_hand; CREATE TABLE by_hand (id int, body text, e embedding(384))");
        // Backends that embedded nothing yet: a backend remembers what it embedded lately.
        for (at, sql) in SINGLES.into_iter().enumerate() {
            let rate = insert_rate(&mut cluster.session(), &texts[..SINGLE], sql);
            let after = one_by_one_rate(&encoder, &texts[..SINGLE]);
            single[0].push(after);
            single[at + 1].push(rate);
            single_ratios[at].push(rate * 2.0 / (alone + after));
            alone = after;
        }
    }
    let [bare, array, index, backfill] = rates.map(median);
    let ratios = ratios.map(median);
    let single_ratios = single_ratios.map(median);
    let [alone, by_hand, trigger] = single.map(median);
    println!("rows/s             beside the bare encoder");
    for (name, rate, ratio) in [
        ("bare encoder", bare, 1.0),
        ("distilface_embed(text[])", array, ratios[0]),
        ("CREATE INDEX on text", index, ratios[1]),
        ("vectorize, backfill", backfill, ratios[2]),
        ("bare encoder, one text at a time", alone, 1.0),
        ("INSERT … distilface_embed($2)", by_hand, single_ratios[0]),
        ("INSERT, trigger form", trigger, single_ratios[1]),
    ] {
        println!("{rate:>8.0} {ratio:>6.2}   {name}");
    }
    let mut models = vec![session.one("SELECT name FROM distilface.models WHERE is_default")];
    for seed in [1, 2] {
        let model = TinyModel { hidden: 384, layers: 6, positions: 512, ..TinyModel::seed(seed) };
        let (name, directory) = (format!("loaded-{seed}"), model.write(cluster.host()));
        session.sql(&format!("SELECT distilface_model_load('{name}', '{}')", directory.display()));
        models.push(name);
    }
    let (most, mean, shared) = memory(&cluster, &texts, &models);
    println!(
        "\n{CONNECTIONS} connections, each embedding with {} models: at most {most:.1} MB private, \
         {mean:.1} MB on average; with their shares of shared pages {shared:.1} MB\n",
        models.len()
    );
    target("index_on_text_of_bare_encoder", ratios[1], 0.85, ratios[1] >= 0.85);
    target("backfill_of_bare_encoder", ratios[2], 0.85, ratios[2] >= 0.85);
    target("backfill_of_one_insert_a_row", backfill / by_hand, 1.0, backfill >= by_hand);
    target("insert_by_trigger_of_bare_encoder", single_ratios[1], 0.85, single_ratios[1] >= 0.85);
    target("insert_by_trigger_of_one_by_hand", trigger / by_hand, 0.85, trigger / by_hand >= 0.85);
    target("private_mb_a_connection", most, 16.0, most <= 16.0);
}

fn target(name: &str, got: f64, asked: f64, reached: bool) {
    println!("target {name} got {got:.2} asked {asked} {}", if reached { "ok" } else { "short" });
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn statement(session: &mut Session, sql: &str) -> f64 {
    let began = Instant::now();
    session.sql(sql);
    began.elapsed().as_secs_f64()
}

fn bare_rate(encoder: &SentenceEncoder, texts: &[String], threads: usize) -> f64 {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut context = Context::new(threads).with_max_batch_tokens(512);
    let began = Instant::now();
    for batch in texts.chunks(1024) {
        encoder.embed(batch, InputKind::Passage, &mut context).expect("sentences embed");
    }
    texts.len() as f64 / began.elapsed().as_secs_f64()
}

fn one_by_one_rate(encoder: &SentenceEncoder, texts: &[String]) -> f64 {
    let mut context = Context::new(1);
    let began = Instant::now();
    for text in texts {
        encoder.embed(&[text], InputKind::Passage, &mut context).expect("a sentence embeds");
    }
    texts.len() as f64 / began.elapsed().as_secs_f64()
}

/// One INSERT, one transaction and one round trip a row.
fn insert_rate(session: &mut Session, texts: &[String], sql: &str) -> f64 {
    let client = session.client();
    let insert = client.prepare(sql).expect("the statement is good");
    let began = Instant::now();
    for (id, text) in texts.iter().enumerate() {
        let id = i32::try_from(id).expect("few rows");
        client.execute(&insert, &[&id, text]).expect("a row goes in");
    }
    texts.len() as f64 / began.elapsed().as_secs_f64()
}

/// Memory in MB of many connections while all of them embed: the most that one holds for itself, what one
/// holds on average, and that with its share of what they share.
fn memory(cluster: &Cluster, texts: &[String], models: &[String]) -> (f64, f64, f64) {
    let barrier = Barrier::new(CONNECTIONS);
    let all = std::thread::scope(|scope| {
        let connections: Vec<_> = texts
            .chunks(TEXTS_AT_ONCE)
            .cycle()
            .take(CONNECTIONS)
            .map(|texts| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut session = cluster.session();
                    let pid = session.pid();
                    barrier.wait();
                    for model in models {
                        let embed = "SELECT cardinality(distilface_embed($1::text[], $2))";
                        session.client().query(embed, &[&texts, model]).expect("texts embed");
                    }
                    // A shared page counts as private once nobody else maps it.
                    barrier.wait();
                    let rollup =
                        fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
                    barrier.wait();
                    (megabytes(&rollup, "Private_"), megabytes(&rollup, "Pss:"))
                })
            })
            .collect();
        connections.into_iter().map(|c| c.join().expect("it gets through")).collect::<Vec<_>>()
    });
    let mean = |of: fn(&(f64, f64)) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
    (all.iter().map(|one| one.0).fold(0.0, f64::max), mean(|one| one.0), mean(|one| one.1))
}

/// The sum of the lines of an smaps file that begin so.
fn megabytes(smaps: &str, prefix: &str) -> f64 {
    let lines = smaps.lines().filter(|line| line.starts_with(prefix));
    let kb = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kb.sum::<f64>() / 1024.0
}

fn load(session: &mut Session, texts: &[String]) {
    session.sql("CREATE TABLE texts (id int, body text)");
    let mut copy = session.client().copy_in("COPY texts FROM STDIN").expect("COPY starts");
    for (id, text) in texts.iter().enumerate() {
        writeln!(copy, "{id}\t{text}").expect("COPY takes a line");
    }
    copy.finish().expect("COPY ends");
}

/// Texts, and where they are from.
fn corpus(rows: usize) -> (&'static str, Vec<String>) {
    let shared = checkout().join("../shared/data/train/sentences.tsv.gz");
    if shared.exists() {
        ("the shared sentences", second_column(&shared, 10, rows))
    } else {
        ("the demo's corpus", second_column(&checkout().join("demo/corpus.tsv.gz"), 1, rows))
    }
}

/// The built-in model, at the boundary that the kernels read from.
struct Packed {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Packed {
    fn read() -> Packed {
        let models = checkout().join("models");
        let list = fs::read_to_string(models.join("builtin.txt")).expect("it is in the repository");
        let name = list.lines().find(|line| !line.starts_with('#')).expect("there is a model");
        let file = fs::read(models.join(name).join("model.packed")).expect("`make model` packs it");
        let mut bytes = vec![0; file.len() + 64];
        let start = bytes.as_ptr().align_offset(64);
        bytes[start..start + file.len()].copy_from_slice(&file);
        Packed { bytes, start, length: file.len() }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}
