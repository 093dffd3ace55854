//! `distilface_bm25` under many clients, concurrent rebuilds, cancels and damaged files.

use distilface_tests::{Cluster, Session, size, words};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn text(key: u64) -> String {
    format!("all key{key} {}", words(key, 5 + key as usize % 20))
}

fn make_table(cluster: &Cluster, rows: u64) {
    cluster.sql("CREATE TABLE d (k bigint PRIMARY KEY, body text)");
    let rows: Vec<String> = (0..rows).map(|k| format!("({k}, '{}')", text(k))).collect();
    cluster.sql(&format!("INSERT INTO d VALUES {}", rows.join(",")));
}

/// Whether the index gives the rows that the table has.
fn assert_complete(session: &mut Session) {
    session.sql("SET enable_seqscan = off");
    let by_index = session.column("SELECT k FROM d WHERE body @@@ 'all' ORDER BY k");
    session.sql("RESET enable_seqscan");
    assert_eq!(by_index, session.column("SELECT k FROM d ORDER BY k"));
}

/// Changes rows until told to stop: inserts, updates, deletes and searches by turns.
fn change_rows(cluster: &Cluster, client: u64, rounds: usize, done: &AtomicBool) {
    let mut session = cluster.session();
    session.sql("SET enable_seqscan = off");
    for round in 0..rounds as u64 {
        if done.load(Ordering::SeqCst) {
            break;
        }
        let key = 1_000_000 * (client + 1) + round;
        session.sql(&format!("INSERT INTO d VALUES ({key}, '{}')", text(key)));
        let found = session.column(&format!("SELECT k FROM d WHERE body @@@ 'key{key}'"));
        assert_eq!(found, [key.to_string()], "its own row at once");
        match round % 3 {
            0 => session.sql(&format!("UPDATE d SET body = body || ' changed' WHERE k = {key}")),
            1 => session.sql(&format!("DELETE FROM d WHERE k = {key}")),
            _ => {
                let best = "SELECT count(*) FROM (SELECT FROM d ORDER BY body <@> 'all changed' LIMIT 10) s";
                assert_eq!(session.one(best), "10");
            }
        }
    }
}

#[test]
fn clients_that_write_search_and_vacuum_at_once_see_no_error() {
    let cluster = Cluster::start();
    make_table(&cluster, 300);
    cluster.sql("CREATE INDEX d_i ON d USING distilface_bm25 (body)");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..size(4, 16) as u64)
            .map(|client| {
                let (cluster, done) = (&cluster, &done);
                scope.spawn(move || change_rows(cluster, client, size(60, 20_000), done))
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let mut session = cluster.session();
                session.sql("VACUUM d");
                session.sql("SELECT distilface_bm25_merge('d_i')");
                session.assert_sound("d_i");
                std::thread::sleep(Duration::from_millis(size(100, 5000) as u64));
            }
        });
        for client in clients {
            client.join().expect("no client fails");
        }
        done.store(true, Ordering::SeqCst);
    });
    cluster.assert_sound("d_i");
    assert_complete(&mut cluster.session());
}

#[test]
fn concurrent_builds_and_rebuilds_miss_no_row() {
    let cluster = Cluster::start();
    make_table(&cluster, 300);
    for round in 0..size(2, 20) as u64 {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut session = cluster.session();
                let mut key = 10_000 * (round + 1);
                while !done.load(Ordering::SeqCst) {
                    session.sql(&format!("INSERT INTO d VALUES ({key}, '{}')", text(key)));
                    session.sql(&format!("UPDATE d SET body = body || ' x' WHERE k = {}", key / 2));
                    key += 1;
                }
            });
            let mut session = cluster.session();
            session.sql("DROP INDEX IF EXISTS d_i");
            session.sql("CREATE INDEX CONCURRENTLY d_i ON d USING distilface_bm25 (body)");
            session.assert_sound("d_i");
            session.sql("REINDEX INDEX CONCURRENTLY d_i");
            done.store(true, Ordering::SeqCst);
            client.join().expect("the writer sees no error");
        });
        let mut session = cluster.session();
        session.assert_sound("d_i");
        assert_complete(&mut session);
    }
}

#[test]
fn a_cancel_at_any_moment_leaves_the_index_usable() {
    let cluster = Cluster::start();
    make_table(&cluster, 4000);
    cluster.sql("CREATE INDEX d_i ON d USING distilface_bm25 (body)");
    let statements = [
        "REINDEX INDEX d_i",
        "VACUUM d",
        "SELECT distilface_bm25_merge('d_i')",
        "INSERT INTO d SELECT k + 5000000, body FROM d WHERE k < 2000",
        "SELECT sum(body <@> '\"all key1\" key2* w~1') FROM d",
    ];
    let mut canceled = 0;
    for round in 0..size(15, 200) {
        let statement = statements[round % statements.len()];
        let mut session = cluster.session();
        let (canceler, after) = (session.canceler(), Duration::from_millis(round as u64 * 7 % 40));
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(after);
            canceler.cancel();
            Instant::now()
        });
        let result = session.try_sql(statement);
        stopper.join().expect("the cancel is sent");
        match result {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.code.code(), "57014", "{statement}: {error}");
                canceled += 1;
            }
        }
        // No lock is stuck and no pin leaked: another session writes and verifies.
        let key = 9_000_000 + round as u64;
        cluster.sql(&format!("INSERT INTO d VALUES ({key}, '{}')", text(key)));
        cluster.assert_sound("d_i");
        cluster.sql("DELETE FROM d WHERE k >= 5000000");
    }
    assert!(canceled > 0, "some statement was canceled");
    assert_complete(&mut cluster.session());
    assert!(!cluster.log().contains("leak"), "{}", cluster.log());
}

#[test]
fn damaged_pages_of_the_file_are_errors_or_harmless() {
    let mut cluster = Cluster::start();
    make_table(&cluster, 1500);
    let mut session = cluster.session();
    session.sql("CREATE INDEX d_i ON d USING distilface_bm25 (body)");
    session.sql("INSERT INTO d SELECT k + 10000, body FROM d WHERE k < 100; CHECKPOINT");
    let path = cluster.data().join(session.one("SELECT pg_relation_filepath('d_i')"));
    let expected = session.column("SELECT k FROM d WHERE k < 10000 ORDER BY k");
    drop(session);
    cluster.stop();
    let whole = std::fs::read(&path).expect("the index's file");
    cluster.restart();
    let mut state = 5_u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut errors, rounds) = (0, size(4, 100));
    for _ in 0..rounds {
        cluster.stop();
        let mut file =
            std::fs::File::options().read(true).write(true).open(&path).expect("the index's file");
        file.write_all(&whole).expect("written");
        for _ in 0..30 {
            let at = random(whole.len()) as u64;
            let mut byte = [0];
            file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut byte)).expect("read");
            byte[0] ^= 1 << random(8);
            file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&byte)).expect("written");
        }
        drop(file);
        cluster.restart();
        let mut session = cluster.session();
        session.sql("SET enable_seqscan = off");
        match session.try_sql("SELECT k FROM d WHERE body @@@ 'all' AND k < 10000 ORDER BY k") {
            Ok(rows) => assert_eq!(rows.len(), expected.len()),
            Err(error) => {
                assert!(["XX002", "XX001"].contains(&error.code.code()), "{error}");
                errors += 1;
            }
        }
        // Each of these ends with an error or with success; the session lives on.
        let _ = session.try_sql("SELECT * FROM distilface_index_check('d_i')");
        let _ = session.try_sql("INSERT INTO d VALUES (77777, 'all new')");
        let _ = session.try_sql("VACUUM d");
        assert_eq!(session.one("SELECT 1"), "1");
        session.sql("DELETE FROM d WHERE k = 77777");
    }
    assert!(errors > 0, "no damage was met in {rounds} rounds");
    let mut session = cluster.session();
    session.sql("REINDEX INDEX d_i");
    session.assert_sound("d_i");
    assert_complete(&mut session);
}
