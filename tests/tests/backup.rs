//! A base backup, taken while clients write and vacuum runs, recovers to whole indexes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use distilface_tests::{Cluster, DIMS, Session, random_vector, size, words};

const CLIENTS: u64 = 3;

fn insert(session: &mut Session, key: u64) {
    let vector = random_vector(key, DIMS);
    session.sql(&format!("INSERT INTO t VALUES ({key}, '{vector}', 'all {}')", words(key, 12)));
}

/// All rows, by the sequential scan and through each index.
fn assert_whole(session: &mut Session) {
    for index in ["t_e", "t_body"] {
        session.assert_sound(index);
    }
    let keys = session.column("SELECT k FROM t ORDER BY k");
    session.sql("SET enable_seqscan = off; SET enable_sort = off");
    let vector = random_vector(1, DIMS);
    let mut by_vector: Vec<u64> = session
        .column(&format!("SELECT k FROM t ORDER BY e <=> '{vector}'"))
        .iter()
        .map(|key| key.parse().expect("a key is a number"))
        .collect();
    by_vector.sort_unstable();
    session.sql("RESET enable_sort");
    let by_words = session.column("SELECT k FROM t WHERE body @@@ 'all' ORDER BY k");
    session.sql("RESET enable_seqscan");
    let by_vector: Vec<String> = by_vector.iter().map(u64::to_string).collect();
    assert_eq!(by_vector, keys, "through the graph");
    assert_eq!(by_words, keys, "through the text index");
}

/// Ends the clients, also when the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Inserts keys until told to stop, and deletes some of the even ones.
fn write(primary: &Cluster, next: &AtomicU64, done: &AtomicBool) {
    let mut session = primary.session();
    while !done.load(Ordering::SeqCst) {
        let key = next.fetch_add(1, Ordering::SeqCst);
        insert(&mut session, key);
        if key.is_multiple_of(5) {
            session.sql(&format!("DELETE FROM t WHERE k = {}", key / 4 * 2));
        }
    }
}

#[test]
fn a_base_backup_under_load_recovers_with_every_committed_row() {
    let primary = Cluster::start();
    primary.vector_table();
    primary.sql(
        "ALTER TABLE t ADD body text;
         CREATE INDEX t_e ON t USING distilface_hnsw (e) WITH (m = 8);
         CREATE INDEX t_body ON t USING distilface_bm25 (body)",
    );
    let next = AtomicU64::new(1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Done(&done);
        for _ in 0..CLIENTS {
            scope.spawn(|| write(&primary, &next, &done));
        }
        scope.spawn(|| {
            let mut session = primary.session();
            while !done.load(Ordering::SeqCst) {
                session.sql("VACUUM (INDEX_CLEANUP on) t");
                session.sql("SELECT distilface_bm25_merge('t_body')");
            }
        });
        let mut session = primary.session();
        for round in 1..=size(2, 20) as u64 {
            while next.load(Ordering::SeqCst) < 400 * round {
                std::thread::sleep(Duration::from_millis(5));
            }
            let odd_keys = "SELECT k FROM t WHERE k % 2 = 1";
            let committed = session.column(odd_keys);
            let mut restored = primary.base_backup();
            let mut copy = restored.session();
            let there: HashSet<String> = copy.column(odd_keys).into_iter().collect();
            let lost: Vec<_> = committed.iter().filter(|key| !there.contains(*key)).collect();
            assert!(lost.is_empty(), "committed before the backup began: {lost:?}");
            assert_whole(&mut copy);
            // It crashes in its turn, and takes writes.
            for key in 1_000_000..1_000_050 {
                insert(&mut copy, key);
            }
            restored.kill9_and_restart();
            let mut copy = restored.session();
            assert_whole(&mut copy);
            copy.sql("DELETE FROM t WHERE k % 3 = 0");
            copy.sql("VACUUM (INDEX_CLEANUP on) t");
            assert_whole(&mut copy);
        }
    });
}
