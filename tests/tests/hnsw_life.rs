//! The access method over a life of changes: concurrency, churn, vacuum, rebuilds beside writers.
//! Numbers in parentheses are those of the reliability plan's tests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use distilface_tests::{Cluster, Session, random_vector, size};

const DIMS: usize = 32;

fn insert_rows(session: &mut Session, ids: std::ops::Range<u64>) {
    let rows: Vec<String> =
        ids.map(|id| format!("({id}, 0, '{}')", random_vector(id, DIMS))).collect();
    for chunk in rows.chunks(500) {
        session.sql(&format!("INSERT INTO t VALUES {}", chunk.join(",")));
    }
}

fn create(session: &mut Session, rows: u64) {
    session.sql(&format!("CREATE TABLE t (id bigint PRIMARY KEY, n int, e embedding({DIMS}))"));
    insert_rows(session, 0..rows);
}

/// Share of the true ten nearest that the index finds, over rows of the table as queries.
fn recall(session: &mut Session, operator: &str, queries: &[u64]) -> f64 {
    let mut found = 0;
    for id in queries {
        let query = format!(
            "SELECT id FROM t ORDER BY e {operator} '{}' LIMIT 10",
            random_vector(1_000_000 + id, DIMS)
        );
        session.sql("SET enable_seqscan = off; SET enable_indexscan = on");
        let near = session.column(&query);
        session.sql("SET enable_seqscan = on; SET enable_indexscan = off");
        let exact = session.column(&query);
        session.sql("RESET enable_indexscan");
        found += near.iter().filter(|id| exact.contains(id)).count();
    }
    found as f64 / (10 * queries.len()) as f64
}

#[test]
fn rows_that_many_clients_insert_at_once_are_found() {
    // (9)
    let cluster = Cluster::builder().set("max_connections", "60").start();
    let (clients, each) = (size(12, 32) as u64, size(80, 500) as u64);
    let mut session = cluster.session();
    create(&mut session, 10);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e embedding_l2_ops)");
    thread::scope(|scope| {
        for client in 0..clients {
            let mut session = cluster.session();
            scope.spawn(move || {
                for row in 0..each {
                    let id = 1000 + client * 10_000 + row;
                    session.sql(&format!(
                        "INSERT INTO t VALUES ({id}, 0, '{}')",
                        random_vector(id, DIMS)
                    ));
                }
            });
        }
    });
    session.assert_sound("i");
    session.sql("SET enable_seqscan = off");
    let total = clients * each;
    let missing = (0..clients)
        .flat_map(|client| (0..each).map(move |row| 1000 + client * 10_000 + row))
        .filter(|id| {
            let nearest =
                format!("SELECT id FROM t ORDER BY e <-> '{}' LIMIT 1", random_vector(*id, DIMS));
            session.one(&nearest) != id.to_string()
        })
        .count() as u64;
    assert!(missing * 1000 <= total * 3, "{missing} of {total} not found by their own vector");
}

#[test]
fn a_mixed_load_with_vacuum_makes_no_error_and_keeps_recall() {
    // (8)
    let cluster = Cluster::start();
    let mut session = cluster.session();
    create(&mut session, 1500);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e embedding_l2_ops)");
    let (clients, rounds) = (6, size(120, 5000) as u64);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..clients)
            .map(|client| {
                let mut session = cluster.session();
                scope.spawn(move || {
                    session.sql("SET enable_seqscan = off");
                    for round in 0..rounds {
                        let new = 10_000 + client * 100_000 + round;
                        let old = (client * 271 + round * 7) % 1500;
                        let v = random_vector(new, DIMS);
                        session.sql(&match round % 4 {
                            0 => format!("INSERT INTO t VALUES ({new}, 1, '{v}')"),
                            1 => format!("UPDATE t SET e = '{v}' WHERE id = {old}"),
                            2 => format!("DELETE FROM t WHERE id = {}", old + 1),
                            _ => format!("SELECT id FROM t ORDER BY e <-> '{v}' LIMIT 10"),
                        });
                    }
                })
            })
            .collect();
        let mut vacuum = cluster.session();
        let over = &over;
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                vacuum.sql("VACUUM t");
            }
        });
        for worker in workers {
            worker.join().expect("no statement of the load fails");
        }
        over.store(true, Ordering::Relaxed);
    });
    session.assert_sound("i");
    let queries: Vec<u64> = (0..30).collect();
    let lived = recall(&mut session, "<->", &queries);
    session.sql("REINDEX INDEX i");
    let fresh = recall(&mut session, "<->", &queries);
    assert!(lived >= fresh - 0.02, "recall {lived} after the load, {fresh} of a fresh build");
}

#[test]
fn equal_vectors_and_updates_do_not_swell_the_index() {
    // (10)
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let equal = size(2500, 10_000);
    session.sql(&format!(
        "CREATE TABLE same (id int, e embedding({DIMS}));
         INSERT INTO same SELECT i, '{}' FROM generate_series(1, {}) i;
         CREATE INDEX same_i ON same USING distilface_hnsw (e);
         INSERT INTO same SELECT i, '{}' FROM generate_series({} + 1, {equal}) i;
         SET enable_seqscan = off",
        random_vector(1, DIMS),
        equal / 2,
        random_vector(1, DIMS),
        equal / 2
    ));
    session.assert_sound("same_i");
    let all = format!(
        "SELECT count(DISTINCT id) FROM (SELECT id FROM same ORDER BY e <=> '{}') s",
        random_vector(2, DIMS)
    );
    assert_eq!(session.one(&all), equal.to_string());

    create(&mut session, size(600, 10_000) as u64);
    session.sql("CREATE INDEX churn ON t USING distilface_hnsw (e)");
    for _ in 0..size(6, 20) {
        // n is indexed by nothing, e is: the update writes a new index entry.
        session.sql("UPDATE t SET e = e + e, n = n + 1");
        session.sql("VACUUM t");
    }
    session.assert_sound("churn");
    let lived: u64 = session.one("SELECT pg_relation_size('churn')").parse().unwrap();
    session.sql("REINDEX INDEX churn");
    let fresh: u64 = session.one("SELECT pg_relation_size('churn')").parse().unwrap();
    assert!(
        lived <= 2 * fresh + 16 * 8192,
        "{lived} bytes after the updates, {fresh} when rebuilt"
    );
}

#[test]
fn deleting_three_rows_of_four_keeps_recall_with_each_metric() {
    // (11)
    let cluster = Cluster::start();
    for (opclass, operator) in [
        ("embedding_l2_ops", "<->"),
        ("embedding_ip_ops", "<#>"),
        ("embedding_cosine_ops", "<=>"),
        ("embedding_l1_ops", "<+>"),
    ] {
        let mut session = cluster.session();
        create(&mut session, size(1600, 20_000) as u64);
        session.sql(&format!("CREATE INDEX i ON t USING distilface_hnsw (e {opclass})"));
        session.sql("DELETE FROM t WHERE id % 4 <> 0");
        session.sql("VACUUM t");
        session.assert_sound("i");
        session.sql("SET distilface.ef_search = 100");
        let recall = recall(&mut session, operator, &(0..20).collect::<Vec<_>>());
        assert!(recall >= 0.95, "{operator}: recall {recall}");
        session.sql("DROP TABLE t");
    }
}

#[test]
fn an_insert_after_vacuum_touches_about_as_many_pages_as_before() {
    // (12)
    let cluster = Cluster::start();
    let mut session = cluster.session();
    create(&mut session, 2000);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e)");
    let buffers = |session: &mut Session, ids: std::ops::Range<u64>| {
        let count = ids.end - ids.start;
        let total: u64 = ids
            .map(|id| {
                let v = random_vector(id, DIMS);
                let plan = session
                    .column(&format!(
                        "EXPLAIN (ANALYZE, BUFFERS, FORMAT TEXT) INSERT INTO t VALUES ({id}, 0, '{v}')"
                    ))
                    .join("\n");
                let line = plan.lines().find(|l| l.contains("Buffers: shared")).unwrap_or("");
                line.split_whitespace()
                    .filter_map(|word| word.strip_prefix("hit=").or(word.strip_prefix("read=")))
                    .map(|number| number.trim_end_matches(',').parse::<u64>().unwrap_or(0))
                    .sum::<u64>()
            })
            .sum();
        total as f64 / count as f64
    };
    let before = buffers(&mut session, 100_000..100_060);
    session.sql("DELETE FROM t WHERE id % 10 = 3");
    session.sql("VACUUM t");
    let after = buffers(&mut session, 200_000..200_060);
    assert!(before > 10.0, "{before} buffers an insert: not what the test means to count");
    assert!(after <= 1.5 * before, "{after} buffers an insert after vacuum, {before} before");
}

#[test]
fn indexes_built_beside_an_updater_miss_no_row() {
    // (13)
    let cluster = Cluster::start();
    let mut session = cluster.session();
    create(&mut session, 800);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut updater = cluster.session();
        let over_seen = &over;
        scope.spawn(move || {
            let mut round = 0u64;
            while !over_seen.load(Ordering::Relaxed) {
                round += 1;
                let v = random_vector(round, DIMS);
                updater.sql(&format!(
                    "UPDATE t SET e = '{v}' WHERE id = {}; INSERT INTO t VALUES ({}, 1, '{v}'); DELETE FROM t WHERE id = {}",
                    round * 13 % 800,
                    50_000 + round,
                    50_000 + round.saturating_sub(5)
                ));
            }
        });
        session.sql("CREATE INDEX CONCURRENTLY i ON t USING distilface_hnsw (e)");
        for _ in 0..size(3, 20) {
            session.sql("REINDEX INDEX CONCURRENTLY i");
        }
        over.store(true, Ordering::Relaxed);
    });
    session.assert_sound("i");
    session.sql("SET enable_seqscan = off");
    let by_index = session.column(&format!(
        "SELECT id FROM (SELECT id FROM t ORDER BY e <=> '{}') s ORDER BY id",
        random_vector(3, DIMS)
    ));
    assert_eq!(by_index, session.column("SELECT id FROM t ORDER BY id"));
}
