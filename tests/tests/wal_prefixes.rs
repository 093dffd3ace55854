//! Test 2 of the reliability plan: the index is whole after every prefix of the WAL. A standby is stopped at
//! random records while its primary works, and looked at there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use distilface_tests::{Cluster, DIMS, random_vector, size};
use rand::Rng;

#[test]
fn the_index_is_whole_after_every_prefix_of_the_wal() {
    let primary = Cluster::start();
    primary.vector_table();
    primary.insert_vectors(0..400);
    primary.sql("ALTER TABLE t ADD tenant int; UPDATE t SET tenant = k % 5; CREATE INDEX t_e ON t USING distilface_hnsw (e, tenant)");
    let standby = primary.standby();
    let (done, key) = (AtomicBool::new(false), AtomicU64::new(1000));
    let next = || key.fetch_add(1, Ordering::Relaxed);
    thread::scope(|scope| {
        let stop = StopOnDrop(&done);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut session = primary.session();
                while !done.load(Ordering::Relaxed) {
                    let k = next();
                    session.sql(&format!(
                        "INSERT INTO t VALUES ({k}, '{}', {}); UPDATE t SET tenant = tenant + 1 WHERE k = {k} - 100;
                         DELETE FROM t WHERE k = {k} - 300",
                        random_vector(k, DIMS),
                        k % 5
                    ));
                }
            });
        }
        scope.spawn(|| {
            let mut session = primary.session();
            while !done.load(Ordering::Relaxed) {
                session.sql("VACUUM (INDEX_CLEANUP on) t");
            }
        });
        let mut session = standby.session();
        let mut stops = std::collections::HashSet::new();
        for _ in 0..size(25, 1000) {
            thread::sleep(Duration::from_millis(rand::rng().random_range(0..25)));
            session.sql("SELECT pg_wal_replay_pause()");
            while session.one("SELECT pg_get_wal_replay_pause_state()") != "paused" {
                thread::sleep(Duration::from_millis(1));
            }
            stops.insert(session.one("SELECT pg_last_wal_replay_lsn()"));
            session.assert_sound("t_e");
            session.sql("SET enable_seqscan = off; SET enable_sort = off");
            for condition in ["true", "tenant = 3"] {
                let mut found = session.column(&format!(
                    "SELECT k FROM t WHERE {condition} ORDER BY e <=> '{}'",
                    random_vector(7, DIMS)
                ));
                found.sort();
                let expected = session.column(&format!(
                    "SELECT k FROM t WHERE {condition} ORDER BY k::text COLLATE \"C\""
                ));
                assert_eq!(found, expected);
            }
            session.sql("RESET enable_seqscan; RESET enable_sort; SELECT pg_wal_replay_resume()");
        }
        drop(stop);
        assert!(stops.len() > size(10, 500), "{} different prefixes", stops.len());
    });
    standby.wait_for(&primary);
    standby.assert_sound("t_e");
}

/// Ends the writers also where an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
