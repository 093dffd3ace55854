//! The background worker: it takes what waits, alone, and whatever kills it loses nothing.

use std::time::Duration;

use distilface_tests::{Cluster, Session, size};

fn start() -> Cluster {
    Cluster::builder().set("shared_preload_libraries", "distilface").start()
}

/// Asks again and again until a query gives `expected`, as the worker is another process; a worker that
/// hangs ends the test.
fn wait_for(session: &mut Session, query: &str, expected: &str) {
    let mut got = String::new();
    for _ in 0..3600 {
        got = session.one(query);
        if got == expected {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{query}: {got}, not {expected}");
}

const WAITING: &str = "SELECT count(*) FROM distilface.queue";
const WORKERS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'distilface worker'";
const STALE: &str = "SELECT count(*) FROM docs WHERE coalesce(NOT (e <=> distilface_embed(body)) < 1e-6, e IS NULL)";

#[test]
fn the_worker_fills_embeds_and_leaves() {
    let cluster = start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs SELECT i, 'the number ' || i FROM generate_series(1, 200) i");
    session
        .sql("CALL distilface_vectorize('docs', 'body', 'e', form => 'queue', backfill => false)");
    wait_for(&mut session, "SELECT bool_and(filled) FROM distilface.pipelines", "t");
    session.assert_sound("docs_e_idx");
    session.sql("UPDATE docs SET body = body || ' again' WHERE id < 50; INSERT INTO docs VALUES (1000, 'new')");
    wait_for(&mut session, WAITING, "0");
    assert_eq!(session.one(STALE), "0");
    // An idle database has no worker in it, so it can be dropped.
    wait_for(&mut session, WORKERS, "0");
    session.sql("CREATE DATABASE other");
    let mut other = cluster.session_as("postgres", "other");
    other.sql("CREATE EXTENSION IF NOT EXISTS distilface; CREATE TABLE docs (id int PRIMARY KEY, body text)");
    other.sql("CALL distilface_vectorize('docs', 'body', 'e', form => 'queue')");
    other.sql("INSERT INTO docs VALUES (1, 'one')");
    wait_for(&mut other, WAITING, "0");
    assert_eq!(other.one(STALE), "0");
    drop(other);
    wait_for(&mut session, WORKERS, "0");
    session.sql("DROP DATABASE other");
}

/// Workers and clients die at random moments, also the whole server; changes go on meanwhile.
#[test]
fn nothing_is_lost_or_left_stale_when_workers_die() {
    let mut cluster = start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs SELECT i, 'row ' || i FROM generate_series(1, 100) i");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', form => 'queue')");
    for round in 0..size(6, 100) {
        session.sql(&format!(
            "UPDATE docs SET body = 'row ' || id || ' of round {round}' WHERE id % 5 = {round} % 5;
             INSERT INTO docs VALUES (1000 + {round}, 'added in round {round}'); DELETE FROM docs WHERE id = 1000 + {round} - 7"
        ));
        std::thread::sleep(Duration::from_millis(rand::random_range(0..400)));
        if round % 5 == 4 {
            cluster.kill9_and_restart();
            session = cluster.session();
            continue;
        }
        // Two clients beside the worker, one of which is cut off.
        std::thread::scope(|scope| {
            let mut client = cluster.session();
            let pid = client.pid();
            scope.spawn(move || {
                let _ = client.client().simple_query("CALL distilface_run()");
            });
            std::thread::sleep(Duration::from_millis(rand::random_range(0..60)));
            session.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {pid} OR backend_type = 'distilface worker'"));
        });
    }
    session.sql("CALL distilface_run()");
    wait_for(&mut session, WAITING, "0");
    assert_eq!(session.one(STALE), "0");
    assert_eq!(session.one("SELECT count(*) FROM distilface.failures"), "0");
}

/// A log in the same transaction as the vectors tells how often each change was embedded.
#[test]
fn each_change_is_embedded_once_however_many_workers_die() {
    let cluster = start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs SELECT i, 'row ' || i FROM generate_series(1, 400) i");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', form => 'queue')");
    session.sql(
        "CREATE TABLE done (id int, body text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN INSERT INTO public.done VALUES (NEW.id, NEW.body); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER UPDATE OF e ON docs FOR EACH ROW EXECUTE FUNCTION note()",
    );
    let (kills, mut killed, mut rounds) = (size(4, 100), 0, 0);
    while killed < kills {
        if session.one(WAITING) == "0" {
            rounds += 1;
            session.sql(&format!("UPDATE docs SET body = 'row ' || id || ' of round {rounds}'"));
        }
        std::thread::scope(|scope| {
            let mut client = cluster.session();
            let pid = client.pid();
            scope.spawn(move || {
                let _ = client.client().simple_query("CALL distilface_run()");
            });
            session.sql("SELECT distilface.wake_worker()");
            std::thread::sleep(Duration::from_millis(rand::random_range(0..400)));
            let died: usize = session
                .one("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'distilface worker'")
                .parse()
                .expect("a count");
            killed += died;
            if rand::random() {
                session.sql(&format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {pid}"
                ));
            }
        });
    }
    eprintln!("{killed} workers killed in {rounds} rounds");
    session.sql("CALL distilface_run()");
    wait_for(&mut session, WAITING, "0");
    assert_eq!(session.column("SELECT error FROM distilface.failures LIMIT 1"), [""; 0]);
    assert_eq!(session.one(STALE), "0");
    let twice = "SELECT count(*) FROM (SELECT FROM done GROUP BY id, body HAVING count(*) > 1) d";
    assert_eq!(session.one(twice), "0");
    assert_eq!(session.one("SELECT count(*) FROM done"), (400 * rounds).to_string());
}

#[test]
fn a_standby_has_no_worker_until_it_is_promoted() {
    let cluster = start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE docs (id int PRIMARY KEY, body text)");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', form => 'queue')");
    let standby = cluster.standby();
    let mut replica = standby.session();
    assert_eq!(
        replica.one("SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'distilface'"),
        "0"
    );
    replica.sql("SELECT pg_promote()");
    replica.sql("INSERT INTO docs VALUES (1, 'after the promotion')");
    wait_for(&mut replica, WAITING, "0");
    assert_eq!(replica.one(STALE), "0");
}
