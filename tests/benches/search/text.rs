//! Full text beside GIN and tantivy: build, size, top 10, single-row inserts.

use super::corpus::{self, Query};
use super::peer::Tantivy;
use super::{Targets, exists, median, number, seconds};
use distilface_tests::Session;
use std::collections::BTreeMap;

const ROUNDS: usize = 5;
const INSERTS: usize = 10_000;
/// Added to the ids of inserted rows, by which they are removed again.
const MORE: usize = 100_000_000;

pub fn run(session: &mut Session, sentences: &[String], targets: &mut Targets) {
    if !exists(session, "ours") {
        session.sql("CREATE TABLE ours (id int, body text)");
        corpus::copy(session, "ours", sentences.iter().map(String::as_str));
    }
    let rows = number(session, "SELECT count(*) FROM ours");
    assert_eq!(rows as usize, sentences.len(), "the rows of an earlier run are as many");
    session.sql(
        "DROP TABLE IF EXISTS theirs;
         CREATE TABLE theirs (id int, body text,
           ts tsvector GENERATED ALWAYS AS (to_tsvector('simple', body)) STORED);
         INSERT INTO theirs SELECT id, body FROM ours",
    );
    session.sql("VACUUM (FREEZE, ANALYZE) ours");
    session.sql("VACUUM (FREEZE, ANALYZE) theirs");
    let tantivy = build(session, sentences, targets);
    top_ten(session, &tantivy, &corpus::queries(sentences), targets);
    inserts(session, sentences, targets);
}

fn build(session: &mut Session, sentences: &[String], targets: &mut Targets) -> Tantivy {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        session.sql("DROP INDEX IF EXISTS ours_body; DROP INDEX IF EXISTS theirs_ts; CHECKPOINT");
        ours.push(seconds(session, "CREATE INDEX ours_body ON ours USING distilface_bm25 (body)"));
        session.sql("CHECKPOINT");
        theirs.push(seconds(session, "CREATE INDEX theirs_ts ON theirs USING gin (ts)"));
    }
    let tantivy = Tantivy::build(sentences).expect("tantivy indexes");
    let (ours, theirs) = (median(ours), median(theirs));
    let sizes = [
        number(session, "SELECT pg_relation_size('ours_body') / 1e6"),
        number(session, "SELECT pg_relation_size('theirs_ts') / 1e6"),
    ];
    println!("{:<12}{:>10}{:>10}", "", "build, s", "size, MB");
    println!("{:<12}{ours:>10.2}{:>10.1}", "distilface", sizes[0]);
    println!("{:<12}{theirs:>10.2}{:>10.1}", "gin", sizes[1]);
    println!("{:<12}{:>10.2}{:>10.1}\n", "tantivy", tantivy.build_seconds, tantivy.megabytes);
    targets.at_most("build_time_vs_gin", ours / theirs, 0.5);
    targets.at_most("size_vs_gin", sizes[0] / sizes[1], 0.7);
    tantivy
}

fn top_ten(session: &mut Session, tantivy: &Tantivy, queries: &[Query], targets: &mut Targets) {
    session.sql("DROP TABLE IF EXISTS queries; CREATE TABLE queries (id int, q text, ts tsquery)");
    for (id, query) in queries.iter().enumerate() {
        let (words, ts) = (query.terms.join(" "), query.terms.join(" | "));
        session.sql(&format!("INSERT INTO queries VALUES ({id}, '{words}', '{ts}')"));
    }
    session.sql(
        "CREATE OR REPLACE FUNCTION ask_ours(OUT id int, OUT spent float8, OUT best float8) RETURNS SETOF record
         LANGUAGE plpgsql AS $$
         DECLARE r record; began timestamptz; got float8[];
         BEGIN
           FOR r IN SELECT * FROM queries q ORDER BY q.id LOOP
             began := clock_timestamp();
             got := ARRAY(SELECT o.body <@> r.q FROM ours o ORDER BY o.body <@> r.q LIMIT 10);
             spent := extract(epoch FROM clock_timestamp() - began); id := r.id; best := got[1];
             RETURN NEXT;
           END LOOP;
         END $$;
         CREATE OR REPLACE FUNCTION ask_theirs(OUT id int, OUT spent float8, OUT best float8) RETURNS SETOF record
         LANGUAGE plpgsql AS $$
         DECLARE r record; began timestamptz; got float8[];
         BEGIN
           FOR r IN SELECT * FROM queries q ORDER BY q.id LOOP
             began := clock_timestamp();
             got := ARRAY(SELECT ts_rank(t.ts, r.ts) FROM theirs t WHERE t.ts @@ r.ts
                           ORDER BY ts_rank(t.ts, r.ts) DESC LIMIT 10);
             spent := extract(epoch FROM clock_timestamp() - began); id := r.id; best := got[1];
             RETURN NEXT;
           END LOOP;
         END $$",
    );
    let mut times = [(); 3].map(|()| vec![Vec::new(); queries.len()]);
    for round in 0..=ROUNDS {
        let [ours, gin, peer] = &mut times;
        for (side, table) in [(ours, "ours"), (gin, "theirs")] {
            let rows = session.rows(&format!("SELECT id, spent, best FROM ask_{table}()"));
            for (id, row) in rows.iter().enumerate() {
                let spent: f64 =
                    row[1].as_deref().unwrap_or("NaN").parse().expect("a time is a number");
                // The first round fills caches.
                if round > 0 {
                    side[id].push(spent);
                }
                if table == "ours" && round == 0 {
                    let best: f64 =
                        row[2].as_deref().unwrap_or("NaN").parse().expect("a score is a number");
                    let (_, scores) = tantivy.ask(&queries[id]).expect("tantivy searches");
                    let theirs = f64::from(scores.first().copied().unwrap_or(0.0));
                    assert!((best + theirs).abs() <= 1e-4 * theirs, "{best} against {theirs}");
                }
            }
        }
        for (id, query) in queries.iter().enumerate() {
            let (spent, _) = tantivy.ask(query).expect("tantivy searches");
            if round > 0 {
                peer[id].push(spent);
            }
        }
    }
    let times = times.map(|side| side.into_iter().map(median).collect::<Vec<f64>>());
    let mut kinds: BTreeMap<&str, [Vec<f64>; 3]> = BTreeMap::new();
    for (id, query) in queries.iter().enumerate() {
        let kind = kinds.entry(&query.kind).or_default();
        (0..3).for_each(|side| kind[side].push(times[side][id]));
    }
    println!(
        "{:<12}{:>14}{:>12}{:>12}{:>10}{:>12}",
        "top 10, µs", "distilface", "gin", "tantivy", "vs gin", "vs tantivy"
    );
    for (kind, sides) in kinds {
        let [ours, gin, peer] = sides.map(|times| median(times) * 1e6);
        println!(
            "{kind:<12}{ours:>14.0}{gin:>12.0}{peer:>12.0}{:>10.1}{:>12.2}",
            gin / ours,
            peer / ours
        );
    }
    let [ours, gin, peer] = times.each_ref().map(|side| side.iter().sum::<f64>());
    let per_second = |total: f64| queries.len() as f64 / total;
    println!(
        "{:<12}{:>14.0}{:>12.0}{:>12.0}\n",
        "all, q/s",
        per_second(ours),
        per_second(gin),
        per_second(peer)
    );
    targets.at_least("top10_vs_gin", gin / ours, 10.0);
    targets.at_least("top10_vs_tantivy", peer / ours, 0.7);
    let [_, _, by_kind] = [0, 1, 2].map(|side| {
        times[0].iter().zip(&times[side]).map(|(ours, other)| other / ours).collect::<Vec<f64>>()
    });
    targets.at_least("top10_vs_tantivy_median_query", median(by_kind), 0.7);
}

/// Rows one by one, in the same transaction; both sides pay for what they put off meanwhile.
fn inserts(session: &mut Session, sentences: &[String], targets: &mut Targets) {
    session.sql("DROP TABLE IF EXISTS more; CREATE UNLOGGED TABLE more (id int, body text)");
    let few = sentences.iter().rev().take(INSERTS).map(String::as_str);
    corpus::copy(session, "more", few);
    session.sql(&format!(
        "CREATE OR REPLACE FUNCTION add_to(target text, low int, high int) RETURNS float8 LANGUAGE plpgsql AS $$
         DECLARE r record; began timestamptz; spent float8 := 0;
         BEGIN
           FOR r IN SELECT * FROM more m WHERE m.id >= low AND m.id < high ORDER BY m.id LOOP
             began := clock_timestamp();
             IF target = 'ours' THEN INSERT INTO ours VALUES (r.id + {MORE}, r.body);
             ELSE INSERT INTO theirs (id, body) VALUES (r.id + {MORE}, r.body); END IF;
             spent := spent + extract(epoch FROM clock_timestamp() - began);
           END LOOP;
           RETURN spent;
         END $$"
    ));
    let mut spent = [0.0, 0.0];
    for low in (0..INSERTS).step_by(1000) {
        for (side, table) in ["ours", "theirs"].into_iter().enumerate() {
            let high = low + 1000;
            spent[side] += number(session, &format!("SELECT add_to('{table}', {low}, {high})"));
        }
    }
    session.sql(&format!("DELETE FROM ours WHERE id >= {MORE}"));
    session.sql("VACUUM ours");
    let [ours, theirs] = spent.map(|seconds| INSERTS as f64 / seconds);
    println!("single-row inserts a second: {ours:.0} against {theirs:.0}\n");
    targets.at_least("inserts_vs_gin", ours / theirs, 1.0);
}
