//! Reliability promise 1: a committed row is found after any crash, an aborted one never is.

use std::collections::BTreeSet;

use distilface_tests::{Cluster, DIMS, Session, crash_loop, random_vector, size};

/// Every key of the table by a scan through the index, nearest to the origin first.
fn keys_by_index(session: &mut Session) -> BTreeSet<u64> {
    session.sql("SET enable_seqscan = off; SET enable_sort = off");
    let origin = format!("array_fill(0, ARRAY[{DIMS}])::real[]::embedding");
    let query = format!("SELECT k FROM t ORDER BY e <-> {origin}");
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(plan.contains("Index Scan using t_e"), "{plan}");
    let keys = session.column(&query);
    let set: BTreeSet<u64> = keys.iter().map(|k| k.parse().expect("a key is a number")).collect();
    assert_eq!(keys.len(), set.len(), "a row came twice");
    set
}

/// Test 1: `kill -9` under writing clients. Each key is one transaction; some add rows and abort.
#[test]
fn kill9_under_writers_loses_no_committed_row() {
    let mut cluster = Cluster::start();
    cluster.vector_table();
    cluster.sql("CREATE INDEX t_e ON t USING distilface_hnsw (e embedding_l2_ops) WITH (m = 8)");
    crash_loop(
        &mut cluster,
        size(4, 100),
        8,
        |session, key| {
            let vector = random_vector(key, DIMS);
            let aborted = u64::MAX / 4 + key;
            session.acknowledged(&format!(
                "BEGIN; INSERT INTO t VALUES ({aborted}, '{vector}'); ROLLBACK"
            )) && session.acknowledged(&format!("INSERT INTO t VALUES ({key}, '{vector}')"))
        },
        |cluster, acknowledged| {
            let mut session = cluster.session();
            let heap = session.column("SELECT k FROM t");
            let heap: BTreeSet<u64> =
                heap.iter().map(|k| k.parse().expect("a key is a number")).collect();
            let lost: Vec<_> = acknowledged.difference(&heap).collect();
            assert!(lost.is_empty(), "acknowledged and gone from the table: {lost:?}");
            let indexed = keys_by_index(&mut session);
            let unreachable: Vec<_> = heap.difference(&indexed).collect();
            assert!(
                unreachable.is_empty(),
                "in the table, not found by the index: {unreachable:?}"
            );
            assert!(indexed.is_subset(&heap), "an aborted row was found");
            cluster.assert_sound("t_e");
        },
    );
}

/// A build that dies leaves nothing behind that a scan would meet.
#[test]
fn kill9_during_a_build_leaves_no_index() {
    let mut cluster = Cluster::start();
    cluster.vector_table();
    cluster.insert_vectors(0..4000);
    let mut builder = cluster.session();
    std::thread::scope(|scope| {
        let build = scope
            .spawn(move || builder.acknowledged("CREATE INDEX t_e ON t USING distilface_hnsw (e)"));
        let mut watcher = cluster.session();
        while watcher.one("SELECT count(*) FROM pg_stat_progress_create_index") == "0"
            && !build.is_finished()
        {
            std::thread::yield_now();
        }
        drop(watcher);
        cluster.kill9();
        build.join().expect("the builder sees a broken connection, not an error");
    });
    cluster.restart();
    assert_eq!(cluster.one("SELECT count(*) FROM t"), "4000");
    cluster.sql("DROP INDEX IF EXISTS t_e; CREATE INDEX t_e ON t USING distilface_hnsw (e)");
    cluster.assert_sound("t_e");
}
