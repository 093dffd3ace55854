//! `distilface_search` on the same sentences, the query's embedding included.

use super::{Targets, exists, median, number, seconds};
use distilface_tests::Session;

const QUERIES: usize = 200;

pub fn run(session: &mut Session, rows: usize, targets: &mut Targets) {
    session.sql("SET distilface.on_overflow = silent");
    if exists(session, "docs") {
        println!("docs with its indexes is an earlier run's");
    } else {
        prepare(session, rows);
    }
    let rows = number(session, "SELECT count(*) FROM docs");
    measure(session, rows as usize, targets);
}

/// Embeds the sentences and builds both indexes.
fn prepare(session: &mut Session, rows: usize) {
    let rows = rows.min(number(session, "SELECT max(id) + 1 FROM ours") as usize);
    session.sql("CREATE TABLE docs (id int, body text, e embedding(384))");
    eprintln!("embedding {rows} sentences");
    let embedding = seconds(
        session,
        &format!(
            "INSERT INTO docs
               SELECT unnest(ids), unnest(bodies), unnest(distilface_embed(bodies))
                 FROM (SELECT array_agg(id) ids, array_agg(body) bodies
                         FROM ours WHERE id < {rows} GROUP BY id / 1024) b"
        ),
    );
    session.sql("VACUUM ANALYZE docs");
    session.sql("SET max_parallel_maintenance_workers = 1");
    eprintln!("building the indexes");
    let semantic = seconds(session, "CREATE INDEX docs_e ON docs USING distilface_hnsw (e)");
    let lexical = seconds(
        session,
        "CREATE INDEX docs_body ON docs USING distilface_bm25 (body) WITH (text_config = 'english')",
    );
    println!("{rows} rows: embedding {embedding:.0} s, hnsw {semantic:.0} s, bm25 {lexical:.1} s");
}

fn measure(session: &mut Session, rows: usize, targets: &mut Targets) {
    session.sql(&format!(
        "DROP TABLE IF EXISTS questions;
         CREATE TABLE questions AS
           SELECT row_number() OVER () AS id, array_to_string((regexp_split_to_array(body, '\\s+'))[2:9], ' ') AS q
             FROM ours WHERE id % greatest({rows} / {QUERIES}, 1) = 0 LIMIT {QUERIES};
         CREATE OR REPLACE FUNCTION ask(how text) RETURNS SETOF float8 LANGUAGE plpgsql AS $$
         DECLARE r record; began timestamptz; got tid[];
         BEGIN
           FOR r IN SELECT * FROM questions ORDER BY id LOOP
             began := clock_timestamp();
             got := ARRAY(SELECT s.ctid FROM distilface_search('docs', r.q || how, k => 10) s);
             RETURN NEXT extract(epoch FROM clock_timestamp() - began);
           END LOOP;
         END $$"
    ));
    // Another ending each round: the backend remembers a text's embedding.
    let mut times: Vec<f64> = Vec::new();
    for round in 0..3 {
        let spent = session.column(&format!("SELECT ask(' {}')", "abc".repeat(round)));
        if round > 0 {
            times.extend(spent.iter().map(|s| s.parse::<f64>().expect("a time is a number") * 1e3));
        }
    }
    times.sort_by(f64::total_cmp);
    let p95 = times[times.len() * 95 / 100];
    let p50 = median(times);
    println!("hybrid top 10 on {rows} rows: p50 {p50:.2} ms, p95 {p95:.2} ms");
    targets.at_most("hybrid_p50_ms", p50, 10.0);
}
