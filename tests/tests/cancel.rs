//! Reliability promise 4: every long operation ends on cancel, and nothing is the worse for it.
//!
//! A test fails when an operation does not end, or ends in another way than it was told to. How long the ends took
//! is printed and judged in no test: the promise is a second, the machine may be busy.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use distilface_tests::{Cluster, size};
use rand::Rng;

/// Ends an operation `rounds` times at random moments; `prepare` runs before each.
fn end_at_random_moments(
    cluster: &Cluster,
    name: &str,
    operation: &str,
    prepare: &str,
    longest_ms: u64,
) {
    let rounds = size(6, 50);
    let mut longest_ms = longest_ms;
    let mut slowest = Duration::ZERO;
    let (mut ended, mut finished) = (0, 0);
    while ended < rounds {
        cluster.sql(prepare);
        let mut session = cluster.session();
        let pid = session.pid();
        // Every third time the backend is told to go altogether.
        let terminate = ended % 3 == 2;
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let result = session.client().simple_query(operation).map(|_| ());
                let _ = sender.send((result, session));
            });
            std::thread::sleep(Duration::from_millis(rand::rng().random_range(1..longest_ms)));
            let asked = Instant::now();
            let function = if terminate { "pg_terminate_backend" } else { "pg_cancel_backend" };
            cluster.sql(&format!("SELECT {function}({pid})"));
            let (result, mut session) = receiver
                .recv_timeout(Duration::from_secs(60))
                .unwrap_or_else(|e| panic!("{name} goes on after {function}: {e}"));
            let Err(error) = result else {
                // It was faster than we: ask earlier.
                finished += 1;
                longest_ms = (longest_ms * 3 / 4).max(2);
                return;
            };
            ended += 1;
            slowest = slowest.max(asked.elapsed());
            // A backend that is told to go may be gone before it said so.
            let code = error.code().map(|code| code.code());
            if terminate {
                assert!(matches!(code, None | Some("57P01")), "{name} ended with {error:?}");
            } else {
                assert_eq!(code, Some("57014"), "{name} ended with {error:?}");
                assert_eq!(session.one("SELECT 1"), "1", "the session goes on");
            }
        });
        assert!(finished <= 4 * rounds, "{name} finishes by itself: there is nothing to cancel");
    }
    eprintln!(
        "{name}: {ended} ended, {finished} finished first; the slowest end {} ms after it was asked",
        slowest.as_millis()
    );
}

fn vectors(cluster: &Cluster, rows: usize) {
    cluster.sql(&format!(
        "CREATE TABLE t (k int PRIMARY KEY, e embedding(128));
         INSERT INTO t SELECT i, array(SELECT sin(i * j + j * j) FROM generate_series(1, 128) j)::real[]::embedding
           FROM generate_series(1, {rows}) i"
    ));
}

#[test]
fn an_index_build_ends_on_cancel() {
    let cluster = Cluster::start();
    vectors(&cluster, 30_000);
    end_at_random_moments(
        &cluster,
        "CREATE INDEX",
        "CREATE INDEX t_e ON t USING distilface_hnsw (e)",
        "DROP INDEX IF EXISTS t_e",
        1500,
    );
    cluster.sql("DROP INDEX IF EXISTS t_e; DELETE FROM t WHERE k > 2000");
    cluster.sql("CREATE INDEX t_e ON t USING distilface_hnsw (e)");
    cluster.assert_sound("t_e");
}

#[test]
fn inserts_end_on_cancel() {
    let cluster = Cluster::start();
    vectors(&cluster, 5_000);
    cluster.sql("CREATE TABLE source AS SELECT k, e FROM t; TRUNCATE t");
    cluster.sql("CREATE INDEX t_e ON t USING distilface_hnsw (e)");
    end_at_random_moments(
        &cluster,
        "INSERT",
        "INSERT INTO t SELECT k, e FROM source",
        "DELETE FROM t",
        600,
    );
    cluster.assert_sound("t_e");
}

#[test]
fn vacuum_ends_on_cancel() {
    let cluster = Cluster::start();
    vectors(&cluster, 15_000);
    cluster.sql("CREATE INDEX t_e ON t USING distilface_hnsw (e)");
    end_at_random_moments(
        &cluster,
        "VACUUM",
        "VACUUM t",
        "UPDATE t SET e = e WHERE k <= 3000",
        150,
    );
    cluster.sql("VACUUM t");
    cluster.assert_sound("t_e");
}

#[test]
fn a_search_ends_on_cancel() {
    let cluster = Cluster::start();
    vectors(&cluster, 15_000);
    cluster.sql("CREATE INDEX t_e ON t USING distilface_hnsw (e)");
    // A lateral join searches again and again; each search goes on until no row is left.
    end_at_random_moments(
        &cluster,
        "SELECT",
        "SET enable_seqscan = off;
         SELECT count(*) FROM t AS q,
                LATERAL (SELECT k FROM t ORDER BY t.e <=> q.e OFFSET 5000 LIMIT 1) AS nearest",
        "SELECT 1",
        800,
    );
}

#[test]
fn embedding_a_batch_ends_on_cancel() {
    let cluster = Cluster::start();
    end_at_random_moments(
        &cluster,
        "distilface_embed(text[])",
        "SELECT distilface_embed(array(SELECT string_agg(md5((i * j)::text), ' ') || i
                                         FROM generate_series(1, 200) j)) FROM generate_series(1, 100) i",
        "SELECT 1",
        1500,
    );
    end_at_random_moments(
        &cluster,
        "distilface_embed(text[]), one array",
        "SELECT array_length(distilface_embed(array(
             SELECT (SELECT string_agg(md5((i * j)::text), ' ') FROM generate_series(1, 200) j)
               FROM generate_series(1, 2000) i)), 1)",
        "SELECT 1",
        2500,
    );
}

#[test]
fn counting_the_tokens_of_a_huge_text_ends_on_cancel() {
    let cluster = Cluster::start();
    end_at_random_moments(
        &cluster,
        "distilface_token_count",
        "SELECT distilface_token_count(repeat('many words and more ', 20 * 1000 * 1000))",
        "SELECT 1",
        900,
    );
}
