//! `make bench-index`: distilface_hnsw beside pgvector's hnsw, in one server, in turns.
//!
//! 100,000 sentence vectors and 1,000 held-out ones as queries (`common/mod.rs`); k = 10, m 16,
//! ef_construction 64, cosine, everything cached, one connection, time taken inside the server. PostgreSQL 18
//! and pgvector come from the wheel of `make pg-trees`. A run is made of parts, each of a few minutes, which
//! `DISTILFACE_BENCH_PARTS` chooses from (`load,build,queries,filter,inserts,vacuum`, in this order; all where
//! it is not set). The server's data and the figures are kept in between: each run ends with the targets that
//! were measured so far, and draws both curves into `docs/bench-index.svg` when they are of a full size.
//!
//! `DISTILFACE_BENCH_ROWS` and `DISTILFACE_BENCH_DIMS` change the size. 1,000,000 rows are synthetic and their
//! index four times as large as the buffers; of these only loading, building and queries are asked for.

mod common;

use std::fmt::Write as _;
use std::path::Path;

use common::{REAL, Size, Vectors, number};
use distilface_core::vector::Metric;
use distilface_tests::{Cluster, Kept, Session, skip};

const EF: [u32; 7] = [10, 20, 40, 80, 120, 160, 320];
/// Where vectors are made up of several, of which more dimensions tell: each has many neighbors about as near.
const EF_WIDE: [u32; 5] = [40, 160, 320, 640, 1000];
/// The queries that are asked with a filter, of which pgvector answers a few dozen a second.
const FILTERED_QUERIES: &str = "id % 5 = 0";
/// Queries on an index that is larger than the buffers.
const SYNTHETIC_QUERIES: usize = 200;

const PARTS: [&str; 6] = ["load", "build", "queries", "filter", "inserts", "vacuum"];

/// One of the two contenders.
struct Side {
    name: &'static str,
    table: &'static str,
    /// The type's name, and of its column in `queries`.
    vector: &'static str,
    query: &'static str,
    index: &'static str,
    create: &'static str,
    ef: &'static str,
}

const SIDES: [Side; 2] = [
    Side {
        name: "distilface",
        table: "ours",
        vector: "embedding",
        query: "e",
        index: "ours_e",
        create: "CREATE INDEX ours_e ON ours USING distilface_hnsw (e) WITH (m = 16, ef_construction = 64)",
        ef: "distilface.ef_search",
    },
    Side {
        name: "pgvector",
        table: "theirs",
        vector: "vector",
        query: "v",
        index: "theirs_e",
        create: "CREATE INDEX theirs_e ON theirs USING hnsw (e vector_cosine_ops) WITH (m = 16, ef_construction = 64)",
        ef: "hnsw.ef_search",
    },
];

/// Whether more is better.
#[derive(Clone, Copy)]
enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

/// What is asked, in the order of the table: ours over pgvector's.
const TARGETS: [(&str, Aim); 12] = [
    ("queries_at_0.95", Aim::AtLeast(5.0)),
    ("queries_at_0.99", Aim::AtLeast(5.0)),
    ("build_time", Aim::AtMost(0.25)),
    ("index_size", Aim::AtMost(0.6)),
    ("buffers_at_0.95", Aim::AtMost(0.25)),
    ("inserts_8_clients", Aim::AtLeast(4.0)),
    ("inserts_1_clients", Aim::AtLeast(4.0)),
    ("vacuum", Aim::AtMost(0.1)),
    ("filter_1_percent", Aim::AtLeast(5.0)),
    ("build_wal", Aim::AtMost(0.5)),
    ("insert_wal_8_clients", Aim::AtMost(0.5)),
    ("insert_wal_1_clients", Aim::AtMost(0.5)),
];

/// The same of synthetic rows.
const SYNTHETIC_TARGETS: [(&str, Aim); 1] = [("queries_at_0.95", Aim::AtLeast(3.0))];

/// A point of the recall/speed curve.
#[derive(Clone, Copy)]
struct Point {
    recall: f64,
    per_second: f64,
    buffers: f64,
}

fn main() {
    // `cargo nextest` and `cargo test` ask bench targets for their tests; there are none.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return;
    }
    let size = Size::from_environment();
    let default = if size.is_synthetic() { "load,build,queries".into() } else { PARTS.join(",") };
    let parts = std::env::var("DISTILFACE_BENCH_PARTS").unwrap_or(default);
    for part in parts.split(',') {
        assert!(PARTS.contains(&part), "DISTILFACE_BENCH_PARTS: no part is called {part}");
    }
    let does = |part: &str| parts.split(',').any(|p| p == part);
    let kept = if does("load") { Kept::Anew } else { Kept::AsItWas };
    let Some(mut cluster) = common::server("bench-index", size, kept) else {
        skip!("no PostgreSQL 18 with pgvector here: `make pg-trees` makes it");
    };
    let mut session = cluster.session();
    if does("load") {
        session.sql("CREATE EXTENSION vector");
        let Some(vectors) = Vectors::load(&mut session, size) else {
            skip!("no shared/data/train/sentences.tsv.gz beside the project");
        };
        load(&mut session, &vectors, size);
    }
    assert_eq!(
        session.one("SELECT count(*) FROM pg_tables WHERE tablename = 'figures'"),
        "1",
        "nothing is loaded yet: begin with DISTILFACE_BENCH_PARTS=load"
    );
    let version = session.one("SELECT version() || ', pgvector ' || extversion FROM pg_extension WHERE extname = 'vector'");
    println!("{}, k = 10\n{version}\n", size.describe());

    if does("build") {
        println!("{:<12}{:>12}{:>12}{:>14}", "", "build, s", "size, MB", "build WAL, MB");
        let built = SIDES.each_ref().map(|side| build(&mut session, side, size));
        session.sql("DELETE FROM figures WHERE name = 'changed'");
        keep(&mut session, "build_time", built.map(|b| b[0]));
        keep(&mut session, "index_size", built.map(|b| b[1]));
        keep(&mut session, "build_wal", built.map(|b| b[2]));
    }
    let reads = does("queries") || does("filter");
    assert!(
        !reads || session.one("SELECT count(*) FROM figures WHERE name = 'changed'") == "0",
        "inserts or vacuum changed the tables: run the part build before queries and filter"
    );
    if does("queries") {
        queries(&mut session, size);
    }
    if does("filter") {
        filter(&mut session);
    }
    if does("inserts") || does("vacuum") {
        keep(&mut session, "changed", [1.0, 1.0]);
    }
    if does("inserts") {
        for clients in [1, 8] {
            let [ours, theirs] =
                SIDES.each_ref().map(|side| inserts(&cluster, side, size.rows, clients));
            println!(
                "single-row inserts, {clients} clients: {:.0} against {:.0} a second, {:.1} against {:.1} kB of WAL each",
                ours[0], theirs[0], ours[1], theirs[1]
            );
            keep(&mut session, &format!("inserts_{clients}_clients"), [ours[0], theirs[0]]);
            keep(&mut session, &format!("insert_wal_{clients}_clients"), [ours[1], theirs[1]]);
        }
    }
    if does("vacuum") {
        let seconds = SIDES.each_ref().map(|side| vacuum(&mut session, side));
        println!("vacuum after deleting 10 %: {:.1} s against {:.1} s", seconds[0], seconds[1]);
        keep(&mut session, "vacuum", seconds);
    }
    report(&mut session, size);
    drop(session);
    cluster.stop();
}

/// Fills `vectors`, `queries` and `truth`.
fn load(session: &mut Session, vectors: &Vectors, size: Size) {
    vectors.copy(session);
    eprintln!("computing the exact answers");
    let wanted = if size.is_synthetic() { SYNTHETIC_QUERIES } else { usize::MAX };
    let mut answers = String::new();
    for (number, query) in vectors.queries().take(wanted).enumerate() {
        let id = size.rows + number;
        for filtered in [false, true] {
            let nearest = nearest(vectors, query, |row| !filtered || row % 100 == id % 100);
            writeln!(answers, "{id}\t{filtered}\t{nearest:?}").expect("a string can be written to");
        }
    }
    // Rust writes a list as [1, 2], PostgreSQL as {1, 2}.
    let answers = answers.replace('[', "{").replace(']', "}");
    session.sql(&format!(
        "CREATE TABLE queries AS
           SELECT id, e, e::real[]::vector AS v FROM vectors WHERE id >= {0} AND id - {0} < {1};
         CREATE TABLE truth (id int, filtered boolean, ids int[]);
         CREATE UNLOGGED TABLE answers (id int, ids int[]);
         CREATE TABLE figures (name text PRIMARY KEY, ours float8, theirs float8);
         CREATE FUNCTION recall(filter boolean) RETURNS float8 LANGUAGE sql AS
           'SELECT avg((SELECT count(*) FROM unnest(a.ids) i WHERE i = ANY (t.ids)) / 10.0)::float8
              FROM answers a JOIN truth t ON t.id = a.id AND t.filtered = filter'",
        size.rows,
        i32::try_from(wanted).unwrap_or(i32::MAX),
    ));
    let mut copy = session.client().copy_in("COPY truth FROM STDIN").expect("COPY starts");
    std::io::Write::write_all(&mut copy, answers.as_bytes()).expect("COPY takes lines");
    copy.finish().expect("COPY ends");
    for side in &SIDES {
        for (suffix, condition, asked) in
            [("", "", "true"), ("_filtered", "WHERE grp = q.id % 100", FILTERED_QUERIES)]
        {
            session.sql(&format!(
                "CREATE FUNCTION ask_{0}{suffix}() RETURNS float8 LANGUAGE plpgsql AS $$
                 DECLARE q record; found int[]; began timestamptz; spent float8 := 0;
                 BEGIN
                   TRUNCATE answers;
                   FOR q IN SELECT id, {1} AS e FROM queries WHERE {asked} LOOP
                     began := clock_timestamp();
                     found := ARRAY(SELECT t.id FROM {0} t {condition} ORDER BY t.e <=> q.e LIMIT 10);
                     spent := spent + extract(epoch FROM clock_timestamp() - began);
                     INSERT INTO answers VALUES (q.id, found);
                   END LOOP;
                   RETURN spent;
                 END $$",
                side.table, side.query
            ));
        }
    }
}

/// The ten rows nearest to a query by cosine distance among those that pass, exactly.
fn nearest(vectors: &Vectors, query: &[f32], passes: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut all: Vec<(f64, usize)> = vectors
        .rows()
        .enumerate()
        .filter(|&(id, _)| passes(id))
        .map(|(id, row)| (Metric::Cosine.distance(query, row), id))
        .collect();
    all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all.into_iter().take(10).map(|(_, id)| id).collect()
}

/// Keeps a figure of both sides for [`report`].
fn keep(session: &mut Session, name: &str, [ours, theirs]: [f64; 2]) {
    session.sql(&format!(
        "INSERT INTO figures VALUES ('{name}', {ours}, {theirs})
         ON CONFLICT (name) DO UPDATE SET ours = excluded.ours, theirs = excluded.theirs"
    ));
}

/// A line for each target of what was measured so far.
fn report(session: &mut Session, size: Size) {
    println!();
    let targets = if size.is_synthetic() { &SYNTHETIC_TARGETS[..] } else { &TARGETS[..] };
    for &(name, aim) in targets {
        let figures =
            session.rows(&format!("SELECT ours / theirs FROM figures WHERE name = '{name}'"));
        let got = figures.first().and_then(|row| row[0].as_ref()?.parse::<f64>().ok());
        let name = if size.is_synthetic() {
            format!("{name}_of_{}_x_{}", size.rows, size.dims)
        } else {
            name.to_owned()
        };
        let (asked, is_met) = match aim {
            Aim::AtLeast(asked) => (asked, got.map(|got| got >= asked)),
            Aim::AtMost(asked) => (asked, got.map(|got| got <= asked)),
        };
        match (got, is_met) {
            (Some(got), Some(is_met)) => {
                let verdict = if is_met { "ok" } else { "short" };
                println!("target {name} got {got:.2} asked {asked:.2} {verdict}");
            }
            _ => println!("target {name} got nothing yet asked {asked:.2} short"),
        }
    }
}

/// Both curves as an SVG: recall to the right, queries a second upwards, each step a doubling.
fn plot(curves: &[Vec<Point>; 2]) -> String {
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 400.0;
    let x = |recall: f64| 60.0 + (recall - 0.8).max(0.0) / 0.2 * (WIDTH - 80.0);
    let y = |per_second: f64| {
        HEIGHT - 40.0 - (per_second / 50.0).log2().max(0.0) / 7.0 * (HEIGHT - 60.0)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut line = |text: String| writeln!(svg, "{text}").expect("a string can be written to");
    for step in 0..=4 {
        let (recall, bottom) = (0.8 + 0.05 * f64::from(step), HEIGHT - 40.0);
        let at = x(recall);
        line(format!(
            "<path d=\"M{at:.0} 20V{bottom}\" stroke=\"#ddd\"/><text x=\"{at:.0}\" y=\"{}\" text-anchor=\"middle\">{recall:.2}</text>",
            bottom + 16.0
        ));
    }
    for step in 0..=7 {
        let per_second = 50 << step;
        let at = y(f64::from(per_second));
        line(format!(
            "<path d=\"M60 {at:.0}H{}\" stroke=\"#ddd\"/><text x=\"54\" y=\"{:.0}\" text-anchor=\"end\">{per_second}</text>",
            WIDTH - 20.0,
            at + 4.0
        ));
    }
    line(format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">recall@10</text><text x=\"60\" y=\"14\">queries a second</text>",
        WIDTH / 2.0,
        HEIGHT - 8.0
    ));
    for ((side, curve), color) in SIDES.iter().zip(curves).zip(["#c0392b", "#2c3e50"]) {
        let points: Vec<String> = curve
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.recall), y(point.per_second)))
            .collect();
        line(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            points.join(" ")
        ));
        if let Some(first) = curve.first() {
            line(format!(
                "<text x=\"{:.0}\" y=\"{:.0}\" fill=\"{color}\">{}</text>",
                x(first.recall) + 6.0,
                y(first.per_second) - 6.0,
                side.name
            ));
        }
    }
    svg + "</svg>\n"
}

fn wal(session: &mut Session) -> f64 {
    number(session, "SELECT pg_current_wal_insert_lsn() - '0/0'")
}

/// Fills the side's table and builds its index: seconds, megabytes of index and megabytes of WAL.
fn build(session: &mut Session, side: &Side, size: Size) -> [f64; 3] {
    session.sql(&format!(
        "DROP TABLE IF EXISTS {0};
         CREATE TABLE {0} (id int, grp int, e {1}({2}));
         INSERT INTO {0} SELECT id, id % 100, e::real[]::{1} FROM vectors WHERE id < {3} ORDER BY id",
        side.table, side.vector, size.dims, size.rows
    ));
    session.sql(&format!("VACUUM ANALYZE {}", side.table));
    session.sql("SET max_parallel_maintenance_workers = 1; SET distilface.threads = 2; CHECKPOINT");
    let before = wal(session);
    let began = number(session, "SELECT extract(epoch FROM clock_timestamp())");
    session.sql(side.create);
    let ended = number(session, "SELECT extract(epoch FROM clock_timestamp())");
    let bytes = number(session, &format!("SELECT pg_relation_size('{}')", side.index));
    let built = [ended - began, bytes / 1e6, (wal(session) - before) / 1e6];
    println!("{:<12}{:>12.1}{:>12.0}{:>14.0}", side.name, built[0], built[1], built[2]);
    built
}

/// Measures both curves.
fn queries(session: &mut Session, size: Size) {
    println!("\n{:<12}{:>6}{:>10}{:>12}{:>10}", "", "ef", "recall", "queries/s", "buffers");
    let wide = size.is_synthetic() && size.dims > 384;
    let curves = curves(session, "", if wide { &EF_WIDE } else { &EF });
    for recall in [0.95, 0.99] {
        match curves.each_ref().map(|curve| at_recall(curve, recall)) {
            [Some(ours), Some(theirs)] => {
                keep(session, &format!("queries_at_{recall}"), [ours.0, theirs.0]);
                keep(session, &format!("buffers_at_{recall}"), [ours.1, theirs.1]);
            }
            _ => println!("recall {recall} is not reached by both"),
        }
    }
    if size == (Size { rows: REAL, dims: 384 }) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bench-index.svg");
        std::fs::write(file, plot(&curves)).expect("docs/ can be written");
    }
}

/// Both curves, each point measured in turns.
fn curves(session: &mut Session, suffix: &str, efs: &[u32]) -> [Vec<Point>; 2] {
    let mut curves = [Vec::new(), Vec::new()];
    session.sql("SET enable_seqscan = off; SET max_parallel_workers_per_gather = 0");
    let asked = if suffix.is_empty() { "true" } else { FILTERED_QUERIES };
    let queries = number(session, &format!("SELECT count(*) FROM queries WHERE {asked}"));
    for ef in efs {
        let mut seconds = [const { Vec::new() }; 2];
        let mut recalls = [0.0; 2];
        let mut touched = [0.0; 2];
        for turn in 0..4 {
            for (at, side) in SIDES.iter().enumerate() {
                session.sql(&format!("SET {} = {ef}", side.ef));
                let before = buffers(session, side);
                let spent = number(session, &format!("SELECT ask_{}{suffix}()", side.table));
                touched[at] = (buffers(session, side) - before) / queries;
                recalls[at] = number(session, &format!("SELECT recall({})", !suffix.is_empty()));
                // The first turn warms up.
                if turn > 0 {
                    seconds[at].push(spent);
                }
            }
        }
        for (at, side) in SIDES.iter().enumerate() {
            seconds[at].sort_by(f64::total_cmp);
            let (recall, buffers) = (recalls[at], touched[at]);
            let per_second = queries / seconds[at][seconds[at].len() / 2];
            println!("{:<12}{ef:>6}{recall:>10.4}{per_second:>12.0}{buffers:>10.0}", side.name);
            curves[at].push(Point { recall, per_second, buffers });
        }
    }
    curves
}

/// Buffer accesses of the table's indexes so far.
fn buffers(session: &mut Session, side: &Side) -> f64 {
    session.one("SELECT pg_stat_force_next_flush()");
    number(
        session,
        &format!(
            "SELECT sum(idx_blks_hit + idx_blks_read) FROM pg_statio_user_indexes WHERE relname = '{}'",
            side.table
        ),
    )
}

/// Queries a second and buffers a query at a recall, interpolated between two points.
fn at_recall(curve: &[Point], recall: f64) -> Option<(f64, f64)> {
    if curve.first()?.recall >= recall {
        return curve.first().map(|point| (point.per_second, point.buffers));
    }
    let pair = curve.windows(2).find(|pair| pair[0].recall < recall && pair[1].recall >= recall)?;
    let share = (recall - pair[0].recall) / (pair[1].recall - pair[0].recall);
    let between = |from: f64, to: f64| (from.ln() + share * (to.ln() - from.ln())).exp();
    Some((
        between(pair[0].per_second, pair[1].per_second),
        between(pair[0].buffers, pair[1].buffers),
    ))
}

/// The fastest point of each side at recall 0.95 under a filter that one row of a hundred passes; ours has the
/// column in an index made for it.
fn filter(session: &mut Session) {
    println!(
        "\n1 % of the rows match{:>7}{:>10}{:>12}{:>10}",
        "ef", "recall", "queries/s", "buffers"
    );
    session.sql(
        "CREATE INDEX ours_filtered ON ours USING distilface_hnsw (e, grp) WITH (m = 16, ef_construction = 64);
         SET hnsw.iterative_scan = strict_order; SET hnsw.max_scan_tuples = 1000000",
    );
    let fastest = curves(session, "_filtered", &[10, 40, 160]).map(|curve| {
        let reached = curve.iter().filter(|point| point.recall >= 0.95);
        let fastest = reached.max_by(|a, b| a.per_second.total_cmp(&b.per_second));
        *fastest.unwrap_or(curve.last().expect("a curve has points"))
    });
    println!(
        "WHERE matching 1 %: {:.0} against {:.0} queries/s, recall {:.3} against {:.3}",
        fastest[0].per_second, fastest[1].per_second, fastest[0].recall, fastest[1].recall
    );
    keep(session, "filter_1_percent", fastest.map(|point| point.per_second));
    session.sql("DROP INDEX ours_filtered");
}

/// Rows a second, and kB of WAL for each, when `clients` insert their shares of half the queries at once.
fn inserts(cluster: &Cluster, side: &Side, rows: usize, clients: usize) -> [f64; 2] {
    let column = side.query;
    // One client inserts the even ones, eight the odd ones.
    let odd = usize::from(clients > 1);
    let mut sessions: Vec<Session> = (0..clients).map(|_| cluster.session()).collect();
    sessions[0].sql(&format!(
        "CREATE OR REPLACE FUNCTION add_rows(client int) RETURNS void LANGUAGE plpgsql AS $$
         DECLARE q record;
         BEGIN
           FOR q IN SELECT id, {column} AS e FROM queries
                    WHERE id % 2 = {odd} AND id / 2 % {clients} = client LOOP
             INSERT INTO {} VALUES (q.id + {rows}, 0, q.e);
           END LOOP;
         END $$;
         CHECKPOINT",
        side.table
    ));
    let before = wal(&mut sessions[0]);
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for (client, session) in sessions.iter_mut().enumerate() {
            scope.spawn(move || session.one(&format!("SELECT add_rows({client})::text")));
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    let added =
        number(&mut sessions[0], &format!("SELECT count(*) FROM queries WHERE id % 2 = {odd}"));
    [added / seconds, (wal(&mut sessions[0]) - before) / 1e3 / added]
}

/// Seconds that a vacuum takes after one row of ten was deleted.
fn vacuum(session: &mut Session, side: &Side) -> f64 {
    session.sql(&format!("DELETE FROM {} WHERE id % 10 = 3", side.table));
    let began = number(session, "SELECT extract(epoch FROM clock_timestamp())");
    session.sql(&format!("VACUUM (PARALLEL 0) {}", side.table));
    number(session, "SELECT extract(epoch FROM clock_timestamp())") - began
}
