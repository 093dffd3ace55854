//! Tests 6 and 7 of the reliability plan, for both access methods: a build, an insert, a vacuum and a scan that fail,
//! panic, are canceled or are held at a named moment (`distilface.failpoint`, `extension/src/pg/failpoint.rs`).

use std::cell::Cell;
use std::thread;
use std::time::Duration;

use distilface_tests::{Cluster, DIMS, Session, SqlError, random_vector, size};

/// A moment, and the statement that comes to it.
const MOMENTS: [(&str, Operation); 20] = [
    ("build has an empty index", Operation::Build),
    ("build linked its nodes", Operation::Build),
    ("build wrote pages", Operation::Build),
    ("build writes its metapage", Operation::Build),
    ("insert begins", Operation::Insert),
    ("insert has its neighbors", Operation::Insert),
    ("insert wrote its node", Operation::Insert),
    ("insert linked back", Operation::Insert),
    ("insert promotes", Operation::Insert),
    ("vacuum swept a page", Operation::Vacuum),
    ("vacuum marked the dead", Operation::Vacuum),
    ("cleanup waited for inserts", Operation::Vacuum),
    ("cleanup listed the dead", Operation::Vacuum),
    ("cleanup moved the entry point", Operation::Vacuum),
    ("cleanup repaired a list", Operation::Vacuum),
    ("cleanup repaired all lists", Operation::Vacuum),
    ("cleanup freed a page", Operation::Vacuum),
    ("cleanup freed all slots", Operation::Vacuum),
    ("scan begins", Operation::Scan),
    ("scan resumes", Operation::Scan),
];

#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Build,
    Insert,
    Vacuum,
    Scan,
}

const VACUUM: &str = "VACUUM (INDEX_CLEANUP on) t";

fn table(cluster: &Cluster, rows: u64) {
    cluster.vector_table();
    cluster.insert_vectors(0..rows);
    cluster.sql("ALTER TABLE t ADD tenant int; UPDATE t SET tenant = k % 7");
    cluster.sql(VACUUM);
    cluster.sql("CREATE INDEX t_e ON t USING distilface_hnsw (e, tenant)");
}

fn insert(key: u64) -> String {
    format!("INSERT INTO t VALUES ({key}, '{}', {})", random_vector(key, DIMS), key % 7)
}

/// Every row once, through the index.
fn all_rows(session: &mut Session) -> Vec<String> {
    session.sql("SET enable_seqscan = off; SET enable_sort = off");
    let mut keys =
        session.column(&format!("SELECT k FROM t ORDER BY e <=> '{}'", random_vector(9, DIMS)));
    session.sql("RESET enable_seqscan; RESET enable_sort");
    keys.sort();
    keys
}

fn assert_whole(session: &mut Session, moment: &str) {
    session.assert_sound("t_e");
    let expected = session.column("SELECT k FROM t ORDER BY k::text COLLATE \"C\"");
    assert_eq!(all_rows(session), expected, "after {moment}");
    let locks = session.one("SELECT count(*) FROM pg_locks WHERE locktype IN ('page', 'advisory')");
    assert_eq!(locks, "0", "locks left after {moment}");
}

#[test]
fn whatever_fails_at_any_moment_leaves_a_whole_index_and_no_lock() {
    let cluster = Cluster::start();
    table(&cluster, 400);
    let mut session = cluster.session();
    let mut key = 10_000;
    for (moment, operation) in MOMENTS {
        for (action, code) in [("error", "XX000"), ("panic", "XX000"), ("cancel", "57014")] {
            // A row dead in each round; the entry point among the first.
            session.sql(&format!("DELETE FROM t WHERE k = (SELECT min(k) FROM t) OR k = {key}"));
            session.sql(&insert(key));
            session.sql(&format!("SET distilface.failpoint = '{moment}={action}'"));
            let failed: Result<_, SqlError> = match operation {
                Operation::Build => session.try_sql("REINDEX INDEX t_e"),
                Operation::Insert => session.try_sql(&insert(key + 1)),
                Operation::Vacuum => session.try_sql(VACUUM),
                Operation::Scan => {
                    session.sql("SET enable_seqscan = off; SET enable_sort = off");
                    session.try_sql(&format!(
                        "SELECT k FROM t ORDER BY e <=> '{}'",
                        random_vector(3, DIMS)
                    ))
                }
            };
            let error = failed.expect_err(moment);
            assert_eq!(error.code.code(), code, "{moment}={action}: {error}");
            session.sql("RESET distilface.failpoint; RESET enable_seqscan; RESET enable_sort");
            session.sql(&insert(key + 2));
            assert_whole(&mut session, &format!("{moment}={action}"));
            if operation == Operation::Vacuum {
                // The next one finishes what this one began.
                session.sql(VACUUM);
                assert_whole(&mut session, &format!("{moment}={action} and another vacuum"));
                let dead = session.one("SELECT dead_nodes FROM distilface_index_info('t_e')");
                assert_eq!(dead, "0", "dead nodes after {moment}={action} and another vacuum");
            }
            key += 10;
        }
    }
    assert!(!cluster.log().contains("leak"), "a pin or a lock leaked:\n{}", cluster.log());
}

/// The same of a full text index.
const TEXT_MOMENTS: [(&str, Operation); 18] = [
    ("text build has an empty index", Operation::Build),
    ("text build wrote a segment", Operation::Build),
    ("text build wrote all segments", Operation::Build),
    ("text insert begins", Operation::Insert),
    ("text insert wrote overflow pages", Operation::Insert),
    ("text insert wrote its row", Operation::Insert),
    ("text vacuum begins", Operation::Vacuum),
    ("text vacuum waited for inserts", Operation::Vacuum),
    ("the pending list is closed", Operation::Vacuum),
    ("the pending rows are a segment", Operation::Vacuum),
    ("the pending pages are listed", Operation::Vacuum),
    ("text vacuum merged the pending rows", Operation::Vacuum),
    ("text vacuum marked dead rows", Operation::Vacuum),
    ("text cleanup begins", Operation::Vacuum),
    ("a merged segment is written", Operation::Vacuum),
    ("a merged segment took its place", Operation::Vacuum),
    ("text cleanup merged segments", Operation::Vacuum),
    ("text cleanup swept", Operation::Vacuum),
];

/// Rows of a table of texts; every seventh is longer than a page.
fn insert_texts(from: u64, rows: u64) -> String {
    format!(
        "INSERT INTO d SELECT k, 'common word' || k || repeat(' more of it', CASE WHEN k % 7 = 0 THEN 1000 ELSE 1 END)
           FROM generate_series({from}, {from} + {rows} - 1) k"
    )
}

fn assert_texts_whole(session: &mut Session, moment: &str) {
    session.assert_sound("d_body");
    session.sql("SET enable_seqscan = off");
    let found = session.column("SELECT k FROM d WHERE body @@@ 'common' ORDER BY k");
    session.sql("RESET enable_seqscan");
    assert_eq!(found, session.column("SELECT k FROM d ORDER BY k"), "after {moment}");
    let locks = session.one("SELECT count(*) FROM pg_locks WHERE locktype IN ('page', 'advisory')");
    assert_eq!(locks, "0", "locks left after {moment}");
}

#[test]
fn whatever_fails_at_any_moment_leaves_a_whole_text_index_and_no_lock() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE d (k bigint, body text)");
    session.sql(&insert_texts(0, 300));
    session.sql("CREATE INDEX d_body ON d USING distilface_bm25 (body)");
    let mut key = 1000;
    for (moment, operation) in TEXT_MOMENTS {
        for (action, code) in [("error", "XX000"), ("panic", "XX000"), ("cancel", "57014")] {
            // Rows that wait in the pending list, and a fifth of those in segments dead.
            session.sql(&format!("DELETE FROM d WHERE k % 5 = {}", key / 10 % 5));
            session.sql(&insert_texts(key, 8));
            session.sql(&format!("SET distilface.failpoint = '{moment}={action}'"));
            let failed: Result<_, SqlError> = match operation {
                Operation::Build => session.try_sql("REINDEX INDEX d_body"),
                Operation::Insert => session.try_sql(&insert_texts(key + 1_000_000, 8)),
                Operation::Vacuum => session.try_sql("VACUUM (INDEX_CLEANUP on) d"),
                Operation::Scan => unreachable!("no moment of a text index is a scan's"),
            };
            let error = failed.expect_err(moment);
            assert_eq!(error.code.code(), code, "{moment}={action}: {error}");
            session.sql("RESET distilface.failpoint");
            session.sql(&insert_texts(key + 8, 2));
            assert_texts_whole(&mut session, &format!("{moment}={action}"));
            if operation == Operation::Vacuum {
                // The next one finishes what this one began.
                session.sql("VACUUM (INDEX_CLEANUP on) d");
                assert_texts_whole(&mut session, &format!("{moment}={action} and another vacuum"));
                session.sql(&insert_texts(key + 500_000, 60));
            }
            key += 10;
        }
    }
    assert!(!cluster.log().contains("leak"), "a pin or a lock leaked:\n{}", cluster.log());
}

/// Holds `first` at a moment while `second` runs, or waits for it; then lets it go on.
fn interleave(cluster: &Cluster, moment: &str, first: &str, second: &str) {
    let mut holder = cluster.session();
    holder.sql("SELECT pg_advisory_lock(7391)");
    thread::scope(|scope| {
        let run_first = scope.spawn(|| {
            let mut session = cluster.session();
            session.sql("SET enable_seqscan = off; SET enable_sort = off");
            session.sql(&format!("SET distilface.failpoint = '{moment}=wait'"));
            session.sql(first);
        });
        let waiting = |what: &str| {
            format!(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = '{what}'"
            )
        };
        while holder.one(&waiting("advisory")) == "0" {
            assert!(!run_first.is_finished(), "{first} did not come to: {moment}");
            thread::sleep(Duration::from_millis(2));
        }
        let run_second = scope.spawn(|| cluster.session().sql(second));
        // A vacuum may have to wait for the insert, which then must not wait for it.
        while !run_second.is_finished() && holder.one(&waiting("page")) == "0" {
            thread::sleep(Duration::from_millis(2));
        }
        holder.sql("SELECT pg_advisory_unlock(7391)");
        run_first.join().expect("the first ends well");
        run_second.join().expect("the second ends well");
    });
    assert_whole(&mut cluster.session(), &format!("{first} held at: {moment}, with {second}"));
}

#[test]
fn held_at_any_moment_the_one_does_not_harm_the_other() {
    let cluster = Cluster::start();
    table(&cluster, 300);
    let scan = format!("SELECT k FROM t ORDER BY e <=> '{}'", random_vector(3, DIMS));
    // Statements insert keys from one counter, rows in between from another.
    let (key, filler) = (Cell::new(20_000), Cell::new(1_000_000));
    let next = || {
        key.set(key.get() + 1);
        insert(key.get())
    };
    let fill = |rows: u64| {
        cluster.insert_vectors(filler.get()..filler.get() + rows);
        filler.set(filler.get() + rows);
    };
    for round in 0..size(1, 20) {
        let delete = format!("DELETE FROM t WHERE k % 10 = {}", round % 10);
        // Insert against vacuum, which removes neighbors that the insert has chosen.
        for moment in [
            "insert begins",
            "insert has its neighbors",
            "insert wrote its node",
            "insert linked back",
        ] {
            cluster.sql(&delete);
            interleave(&cluster, moment, &next(), VACUUM);
            fill(30);
        }
        for moment in [
            "vacuum swept a page",
            "cleanup waited for inserts",
            "cleanup listed the dead",
            "cleanup repaired a list",
            "cleanup freed a page",
        ] {
            cluster.sql(&format!("DELETE FROM t WHERE k % 9 = {}", round % 9));
            interleave(&cluster, moment, VACUUM, &next());
            fill(30);
        }
        // Insert against insert, on the same page and as the same vector's neighbor.
        for moment in ["insert has its neighbors", "insert wrote its node", "insert promotes"] {
            interleave(&cluster, moment, &next(), &next());
            // Equal vectors; the one that is held is not yet there for the other to join.
            let vector = random_vector(key.get() + 500_000, DIMS);
            let twin = || {
                next();
                format!("INSERT INTO t VALUES ({}, '{vector}', 1)", key.get())
            };
            interleave(&cluster, moment, &twin(), &twin());
        }
        // Scan against a vacuum that removes what it has not come to, and inserts that fill the space.
        for moment in ["scan begins", "scan resumes"] {
            cluster.sql(&format!("DELETE FROM t WHERE k % 8 = {}", round % 8));
            interleave(&cluster, moment, &scan, VACUUM);
            fill(20);
        }
        // The entry point goes while an insert starts from it, and comes while another is in the way.
        cluster.sql("DELETE FROM t WHERE k > 100");
        interleave(&cluster, "insert begins", &next(), VACUUM);
        cluster.sql("DELETE FROM t");
        interleave(&cluster, "insert begins", &next(), VACUUM);
        fill(50);
        cluster.sql("DELETE FROM t");
        interleave(&cluster, "cleanup listed the dead", VACUUM, &next());
        cluster.sql("DELETE FROM t");
        interleave(&cluster, "cleanup moved the entry point", VACUUM, &next());
        cluster.sql("DELETE FROM t");
        cluster.sql(VACUUM);
        interleave(&cluster, "insert begins", &next(), &next());
        fill(300);
    }
}
