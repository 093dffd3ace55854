//! Reliability promise 2: a physical standby answers as its primary does, and takes writes once promoted.

use distilface_tests::{Cluster, DIMS, random_vector, size};

/// Test 4, with inserts, updates, deletes and a vacuum replayed between the rounds.
#[test]
fn a_standby_answers_as_its_primary_and_goes_on_after_promotion() {
    let primary = Cluster::start();
    primary.vector_table();
    primary.insert_vectors(0..1000);
    primary.sql("CREATE INDEX t_e ON t USING distilface_hnsw (e)");
    let standby = primary.standby();
    for round in 0..size(4, 20) as u64 {
        primary.insert_vectors((1000 + round * 100)..(1100 + round * 100));
        primary.sql(&format!(
            "DELETE FROM t WHERE k % 17 = {round} % 17;
             UPDATE t SET e = e + e WHERE k % 19 = {round} % 19"
        ));
        primary.sql("VACUUM t");
        standby.wait_for(&primary);
        assert_eq!(standby.nearest(round, 50), primary.nearest(round, 50), "round {round}");
        standby.assert_sound("t_e");
    }
    drop(primary);
    standby.promote();
    standby.insert_vectors(1_000_000..1_000_200);
    let found = standby.column(&format!(
        "SET enable_seqscan = off; SELECT k FROM t ORDER BY e <=> '{}' LIMIT 1",
        random_vector(1_000_007, DIMS)
    ));
    assert_eq!(found, ["1000007"], "a row written after the promotion is its own nearest neighbor");
    standby.assert_sound("t_e");
}

/// Test 3: every page that replay makes equals the page that the primary wrote, byte for byte; a difference is
/// a FATAL that ends the standby or the recovery.
#[test]
fn replayed_pages_equal_the_written_ones() {
    let mut primary = Cluster::builder().set("wal_consistency_checking", "generic").start();
    primary.vector_table();
    primary.sql("CREATE INDEX t_e ON t USING distilface_hnsw (e)");
    let standby = primary.standby();
    let rounds = 10;
    let rows = size(1_000, 50_000) as u64 / rounds;
    for round in 0..rounds {
        primary.insert_vectors(round * rows..(round + 1) * rows);
        primary.sql(&format!(
            "UPDATE t SET e = e + e WHERE k % 5 = {round} % 5;
             DELETE FROM t WHERE k % 7 = {round} % 7"
        ));
        primary.sql("VACUUM t");
    }
    standby.wait_for(&primary);
    standby.assert_sound("t_e");
    primary.kill9_and_restart();
    primary.assert_sound("t_e");
    for cluster in [&primary, &standby] {
        assert!(!cluster.log().contains("inconsistent page found"), "replay made another page");
    }
}
