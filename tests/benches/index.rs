//! `make bench-index`: distilface_hnsw beside pgvector's hnsw, in one server, in turns.
//!
//! 100,000 sentences of `../shared/data/train/sentences.tsv.gz` (every tenth line), embedded by the
//! project's own encoder, and 1,000 held-out ones as queries; k = 10, m 16, ef_construction 64, cosine,
//! everything cached, one connection, time taken inside the server. PostgreSQL 18 and pgvector come from
//! the wheel of `make pg-trees`. `DISTILFACE_BENCH_ROWS` makes it smaller. The vectors are kept in
//! `target/bench-index/` for the next run; a whole run draws both curves into `docs/bench-index.svg`.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use distilface_tests::{Cluster, Session, skip};

const QUERIES: usize = 1000;
/// Rows of a run whose figures count.
const WHOLE: usize = 100_000;
const EF: [u32; 6] = [10, 20, 40, 80, 160, 320];

/// One of the two contenders.
struct Side {
    name: &'static str,
    table: &'static str,
    index: &'static str,
    create: &'static str,
    ef: &'static str,
}

const SIDES: [Side; 2] = [
    Side {
        name: "distilface",
        table: "ours",
        index: "ours_e",
        create: "CREATE INDEX ours_e ON ours USING distilface_hnsw (e) WITH (m = 16, ef_construction = 64)",
        ef: "distilface.ef_search",
    },
    Side {
        name: "pgvector",
        table: "theirs",
        index: "theirs_e",
        create: "CREATE INDEX theirs_e ON theirs USING hnsw (e vector_cosine_ops) WITH (m = 16, ef_construction = 64)",
        ef: "hnsw.ef_search",
    },
];

/// A point of the recall/speed curve.
#[derive(Clone, Copy)]
struct Point {
    ef: u32,
    recall: f64,
    per_second: f64,
    buffers: f64,
}

fn main() {
    // `cargo nextest` and `cargo test` ask bench targets for their tests; there are none.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return;
    }
    let data =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/train/sentences.tsv.gz");
    if !data.exists() {
        skip!("no shared/data/train/sentences.tsv.gz beside the project");
    }
    let Some(cluster) = Cluster::builder()
        .version(18)
        .set("shared_buffers", "1GB")
        .set("maintenance_work_mem", "1GB")
        .set("max_wal_size", "8GB")
        .set("autovacuum", "off")
        .try_start()
    else {
        skip!("no PostgreSQL 18 with pgvector here: `make pg-trees` makes it");
    };
    let rows = std::env::var("DISTILFACE_BENCH_ROWS").ok().and_then(|n| n.parse().ok());
    let rows: usize = rows.unwrap_or(WHOLE);
    let mut session = cluster.session();
    load(&mut session, &data, rows);
    let version = session.one("SELECT version() || ', pgvector ' || extversion FROM pg_extension WHERE extname = 'vector'");
    println!("{rows} vectors of 384 dimensions, {QUERIES} queries, k = 10\n{version}\n");

    let mut targets = String::new();
    let mut target = |name: &str, got: f64, asked: f64, more_is_better: bool| {
        let ok = if more_is_better { got >= asked } else { got <= asked };
        let verdict = if ok { "ok" } else { "short" };
        writeln!(targets, "target {name} got {got:.2} asked {asked:.2} {verdict}")
            .expect("a string can be written to");
    };

    let built: Vec<[f64; 3]> = SIDES.iter().map(|side| build(&mut session, side)).collect();
    println!("{:<12}{:>12}{:>12}{:>14}", "", "build, s", "size, MB", "build WAL, MB");
    for (side, [seconds, megabytes, wal]) in SIDES.iter().zip(&built) {
        println!("{:<12}{seconds:>12.1}{megabytes:>12.0}{wal:>14.0}", side.name);
    }
    target("build_time", built[0][0] / built[1][0], 0.25, false);
    target("index_size", built[0][1] / built[1][1], 0.6, false);
    target("build_wal", built[0][2] / built[1][2], 0.5, false);

    let curves = curves(&mut session, "");
    println!("\n{:<12}{:>6}{:>10}{:>12}{:>10}", "", "ef", "recall", "queries/s", "buffers");
    for (side, curve) in SIDES.iter().zip(&curves) {
        for point in curve {
            println!(
                "{:<12}{:>6}{:>10.4}{:>12.0}{:>10.0}",
                side.name, point.ef, point.recall, point.per_second, point.buffers
            );
        }
    }
    for recall in [0.95, 0.99] {
        let [ours, theirs] = [&curves[0], &curves[1]].map(|curve| at_recall(curve, recall));
        match (ours, theirs) {
            (Some(ours), Some(theirs)) => {
                target(&format!("queries_at_{recall}"), ours.0 / theirs.0, 5.0, true);
                if recall == 0.95 {
                    target("buffers_at_0.95", ours.1 / theirs.1, 0.25, false);
                }
            }
            _ => println!("recall {recall} is not reached by both"),
        }
    }

    if rows >= WHOLE {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bench-index.svg");
        std::fs::write(file, plot(&curves)).expect("docs/ can be written");
    }

    println!();
    let filtered = filtered(&mut session);
    println!(
        "WHERE matching 1 %: {:.0} against {:.0} queries/s, recall {:.3} against {:.3}",
        filtered[0].per_second, filtered[1].per_second, filtered[0].recall, filtered[1].recall
    );
    target("filter_1_percent", filtered[0].per_second / filtered[1].per_second, 5.0, true);

    for clients in [1, 8] {
        let [ours, theirs] = SIDES.each_ref().map(|side| inserts(&cluster, side, rows, clients));
        println!(
            "single-row inserts, {clients} clients: {:.0} against {:.0} a second, {:.1} against {:.1} kB of WAL each",
            ours[0], theirs[0], ours[1], theirs[1]
        );
        target(&format!("inserts_{clients}_clients"), ours[0] / theirs[0], 4.0, true);
        target(&format!("insert_wal_{clients}_clients"), ours[1] / theirs[1], 0.5, false);
    }

    let vacuums: Vec<f64> = SIDES.iter().map(|side| vacuum(&mut session, side)).collect();
    println!("vacuum after deleting 10 %: {:.1} s against {:.1} s\n", vacuums[0], vacuums[1]);
    target("vacuum", vacuums[0] / vacuums[1], 0.1, false);
    print!("{targets}");
}

/// Fills `ours`, `theirs`, `queries` and `truth`.
fn load(session: &mut Session, data: &Path, rows: usize) {
    session.sql(
        "CREATE EXTENSION vector;
         CREATE UNLOGGED TABLE texts (id int, body text)",
    );
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .arg(data)
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip can be started");
    let lines = BufReader::new(gzip.stdout.take().expect("standard output was piped")).lines();
    let mut copy = session.client().copy_in("COPY texts FROM STDIN").expect("COPY starts");
    let sentences = lines
        .skip(1)
        .step_by(10)
        .filter_map(|line| line.ok()?.split_once('\t').map(|(_, sentence)| sentence.to_owned()));
    for (id, sentence) in sentences.take(rows + QUERIES).enumerate() {
        let sentence = sentence.replace(['\\', '\t'], " ");
        writeln!(copy, "{id}\t{sentence}").expect("COPY takes a line");
    }
    copy.finish().expect("COPY ends");
    let _ = gzip.kill();
    let _ = gzip.wait();
    embed(session, rows);
    session.sql(&format!(
        "DELETE FROM vectors WHERE e IS NULL;
         CREATE TABLE ours (id int, grp int, e embedding(384));
         CREATE TABLE theirs (id int, grp int, e vector(384));
         INSERT INTO ours SELECT id, id % 100, e FROM vectors WHERE id < {rows} ORDER BY id;
         INSERT INTO theirs SELECT id, grp, e::real[]::vector FROM ours;
         CREATE TABLE queries AS SELECT id, e, e::real[]::vector AS v FROM vectors WHERE id >= {rows};"
    ));
    session.sql("VACUUM ANALYZE ours");
    session.sql("VACUUM ANALYZE theirs");
    eprintln!("computing the exact answers");
    session.sql(
        "CREATE UNLOGGED TABLE answers (id int, ids int[]);
         CREATE TABLE truth AS
           SELECT q.id, false AS filtered, ARRAY(SELECT o.id FROM ours o ORDER BY o.e <=> q.e LIMIT 10) AS ids FROM queries q;
         INSERT INTO truth
           SELECT q.id, true, ARRAY(SELECT o.id FROM ours o WHERE o.grp = q.id % 100 ORDER BY o.e <=> q.e LIMIT 10) FROM queries q;
         CREATE FUNCTION recall(filter boolean) RETURNS float8 LANGUAGE sql AS
           'SELECT avg((SELECT count(*) FROM unnest(a.ids) i WHERE i = ANY (t.ids)) / 10.0)::float8
              FROM answers a JOIN truth t ON t.id = a.id AND t.filtered = filter'",
    );
    for (table, column) in [("ours", "e"), ("theirs", "v")] {
        for (suffix, condition) in [("", ""), ("_filtered", "WHERE grp = q.id % 100")] {
            session.sql(&format!(
                "CREATE FUNCTION ask_{table}{suffix}() RETURNS float8 LANGUAGE plpgsql AS $$
                 DECLARE q record; found int[]; began timestamptz; spent float8 := 0;
                 BEGIN
                   TRUNCATE answers;
                   FOR q IN SELECT id, {column} AS e FROM queries LOOP
                     began := clock_timestamp();
                     found := ARRAY(SELECT t.id FROM {table} t {condition} ORDER BY t.e <=> q.e LIMIT 10);
                     spent := spent + extract(epoch FROM clock_timestamp() - began);
                     INSERT INTO answers VALUES (q.id, found);
                   END LOOP;
                   RETURN spent;
                 END $$"
            ));
        }
    }
}

/// Fills `vectors` from `texts`, or with what an earlier run with the same encoder made of them.
fn embed(session: &mut Session, rows: usize) {
    let encoder = session.one("SELECT md5(distilface_embed('which encoder is this?')::text)");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-index");
    std::fs::create_dir_all(&folder).expect("target/ can be written");
    let kept = folder.join(format!("{rows}-{encoder}.copy"));
    session.sql("CREATE UNLOGGED TABLE vectors (id int, e embedding(384))");
    if let Ok(mut file) = std::fs::File::open(&kept) {
        let copy = "COPY vectors FROM STDIN (FORMAT binary)";
        let mut copy = session.client().copy_in(copy).expect("COPY starts");
        std::io::copy(&mut file, &mut copy).expect("COPY takes the file");
        copy.finish().expect("COPY ends");
        return;
    }
    eprintln!("embedding {} sentences", rows + QUERIES);
    session.sql(
        "SET distilface.on_overflow = silent;
         INSERT INTO vectors
           SELECT unnest(ids), unnest(distilface_embed(bodies))
             FROM (SELECT array_agg(id) ids, array_agg(body) bodies FROM texts GROUP BY id / 1024) b",
    );
    let copy = "COPY vectors TO STDOUT (FORMAT binary)";
    let mut copy = session.client().copy_out(copy).expect("COPY starts");
    let unfinished = kept.with_extension("new");
    let mut file = std::fs::File::create(&unfinished).expect("target/ can be written");
    std::io::copy(&mut copy, &mut file).expect("COPY gives the table");
    std::fs::rename(unfinished, kept).expect("target/ can be written");
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

fn number(session: &mut Session, sql: &str) -> f64 {
    session.one(sql).parse().unwrap_or_else(|e| panic!("{sql}: {e}"))
}

fn wal(session: &mut Session) -> f64 {
    number(session, "SELECT pg_current_wal_insert_lsn() - '0/0'")
}

/// Seconds, megabytes of index and megabytes of WAL.
fn build(session: &mut Session, side: &Side) -> [f64; 3] {
    session.sql("SET max_parallel_maintenance_workers = 1; SET distilface.threads = 2; CHECKPOINT");
    let before = wal(session);
    let began = number(session, "SELECT extract(epoch FROM clock_timestamp())");
    session.sql(side.create);
    let ended = number(session, "SELECT extract(epoch FROM clock_timestamp())");
    let size = number(session, &format!("SELECT pg_relation_size('{}')", side.index));
    [ended - began, size / 1e6, (wal(session) - before) / 1e6]
}

/// Both curves, each point measured in turns.
fn curves(session: &mut Session, suffix: &str) -> [Vec<Point>; 2] {
    let mut curves = [Vec::new(), Vec::new()];
    session.sql("SET enable_seqscan = off; SET max_parallel_workers_per_gather = 0");
    for ef in EF {
        for (side, curve) in SIDES.iter().zip(&mut curves) {
            session.sql(&format!("SET {} = {ef}", side.ef));
            session.one(&format!("SELECT ask_{}{suffix}()", side.table));
            let before = buffers(session, side);
            let mut seconds: Vec<f64> = (0..3)
                .map(|_| number(session, &format!("SELECT ask_{}{suffix}()", side.table)))
                .collect();
            seconds.sort_by(f64::total_cmp);
            let touched = (buffers(session, side) - before) / (3 * QUERIES) as f64;
            let recall = number(session, &format!("SELECT recall({})", !suffix.is_empty()));
            let per_second = QUERIES as f64 / seconds[1];
            curve.push(Point { ef, recall, per_second, buffers: touched });
        }
    }
    curves
}

/// Buffer accesses of the index so far.
fn buffers(session: &mut Session, side: &Side) -> f64 {
    session.one("SELECT pg_stat_force_next_flush()");
    number(
        session,
        &format!(
            "SELECT idx_blks_hit + idx_blks_read FROM pg_statio_user_indexes WHERE indexrelname = '{}'",
            side.index
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

/// The fastest point of each side at recall 0.95 under a filter that one row of a hundred passes.
fn filtered(session: &mut Session) -> [Point; 2] {
    session.sql("SET hnsw.iterative_scan = strict_order; SET hnsw.max_scan_tuples = 1000000");
    curves(session, "_filtered").map(|curve| {
        let reached = curve.iter().filter(|point| point.recall >= 0.95);
        let fastest = reached.max_by(|a, b| a.per_second.total_cmp(&b.per_second));
        *fastest.unwrap_or(curve.last().expect("a curve has points"))
    })
}

/// Rows a second, and kB of WAL for each, when `clients` insert their shares of half the queries at once.
fn inserts(cluster: &Cluster, side: &Side, rows: usize, clients: usize) -> [f64; 2] {
    let column = if side.table == "ours" { "e" } else { "v" };
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
