//! Scores that a statement shows: an index scan ordered by `<@>` gives its own, and they are those of any other
//! plan.

use distilface_tests::{Cluster, Session, words};

fn fill(session: &mut Session) {
    let rows: Vec<String> = (0..400)
        .map(|id| format!("({id}, '{}', '{} item{id}')", words(id * 2, 3), words(id, 12)))
        .collect();
    session.sql(&format!(
        "CREATE TABLE d (id int PRIMARY KEY, title text, body text);
         INSERT INTO d VALUES {};
         INSERT INTO d VALUES (1000, 'untitled', NULL), (1001, NULL, 'of nothing that is asked for')",
        rows.join(",")
    ));
}

/// A statement's rows by the index scan, each time that a prepared statement runs, and by a sequential one.
fn compare(session: &mut Session, columns: &str, query: &str) {
    let select = format!("SELECT {columns} FROM d ORDER BY body <@> '{query}' LIMIT 1000");
    let sorted = |mut rows: Vec<Vec<Option<String>>>| {
        rows.sort();
        rows
    };
    session.sql("SET enable_indexscan = off");
    let expected = sorted(session.rows(&select));
    session.sql("RESET enable_indexscan; SET enable_seqscan = off");
    session.sql(&format!("PREPARE p AS {select}"));
    for _ in 0..3 {
        assert_eq!(sorted(session.rows("EXECUTE p")), expected, "{columns} by {query}");
    }
    let plan = session.column("EXPLAIN (VERBOSE) EXECUTE p").join("\n");
    assert!(plan.contains("Index Scan using d_i") && plan.contains("scan_score"), "{plan}");
    assert!(!plan.contains("COALESCE(COALESCE"), "a cached plan is changed once:\n{plan}");
    session.sql("DEALLOCATE p; RESET ALL");
}

#[test]
fn shown_scores_are_those_of_any_other_plan() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session);
    session.sql("CREATE INDEX d_i ON d USING distilface_bm25 (title, body)");
    let (word, other) = (words(5, 1), words(9, 1));
    let score = |query: &str| format!("round((body <@> '{query}')::numeric, 4)");
    for query in [word.clone(), format!("{word} {other}"), format!("title:{word} {other}")] {
        let columns = format!("id, {0}, -{0}, {0} IS NULL", score(&query));
        compare(&mut session, &columns, &query);
        // Another query's score is not what the scan has.
        compare(&mut session, &format!("id, {}, {}", score(&query), score("item7")), &query);
    }
}

#[test]
fn two_scans_of_an_index_at_once_give_each_its_own_scores() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session);
    session.sql("CREATE INDEX d_i ON d USING distilface_bm25 (body); SET enable_seqscan = off");
    let (word, other) = (words(5, 1), words(9, 1));
    let leg = |query: &str| {
        format!(
            "SELECT id, body <@> '{query}' AS score FROM d ORDER BY body <@> '{query}' LIMIT 50"
        )
    };
    let alone = |session: &mut Session, query: &str| session.rows(&leg(query));
    let (ones, others) = (alone(&mut session, &word), alone(&mut session, &other));
    session.sql("SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off");
    let joined = session.rows(&format!(
        "SELECT a.id, a.score, b.id, b.score FROM ({}) a, ({}) b",
        leg(&word),
        leg(&other)
    ));
    assert_eq!(joined.len(), ones.len() * others.len());
    for (place, row) in joined.iter().enumerate() {
        assert_eq!(row[..2], ones[place / others.len()], "row {place}");
        assert_eq!(row[2..], others[place % others.len()], "row {place}");
    }
    // Two cursors, by turns.
    session.sql(&format!(
        "BEGIN; DECLARE a CURSOR FOR {}; DECLARE b CURSOR FOR {}",
        leg(&word),
        leg(&other)
    ));
    for place in 0..ones.len().min(others.len()) {
        assert_eq!(session.rows("FETCH a")[0], ones[place]);
        assert_eq!(session.rows("FETCH b")[0], others[place]);
    }
    session.sql("COMMIT");
}

#[test]
fn a_row_that_a_lock_waited_for_has_the_score_of_its_new_text() {
    let cluster = Cluster::start();
    let mut one = cluster.session();
    fill(&mut one);
    one.sql("CREATE INDEX d_i ON d USING distilface_bm25 (body)");
    one.sql("BEGIN; UPDATE d SET body = 'item7 item7 item7' WHERE id = 7");
    let mut other = cluster.session();
    other.sql("SET enable_seqscan = off; SET enable_bitmapscan = off");
    let waiting = std::thread::spawn(move || {
        let rows = other.rows(
            "SELECT id, round((body <@> 'item7')::numeric, 2) FROM d WHERE body @@@ 'item7'
              ORDER BY body <@> 'item7' LIMIT 1 FOR UPDATE",
        );
        (rows, other)
    });
    while cluster.one("SELECT count(*) FROM pg_locks WHERE NOT granted") == "0" {
        std::thread::yield_now();
    }
    let before = one.one("SELECT round((body <@> 'item7')::numeric, 2) FROM d WHERE id = 7");
    one.sql("COMMIT");
    let (rows, _) = waiting.join().expect("the other session answers");
    assert_eq!(rows[0][0].as_deref(), Some("7"));
    let shown: f64 = rows[0][1].as_deref().expect("a score").parse().expect("a number");
    let new: f64 = before.parse().expect("a number");
    // By statistics that are a row apart.
    assert!((shown - new).abs() < 0.5 && shown < -5.0, "{shown} where {new} was expected");
}

#[test]
fn nothing_but_a_scan_under_way_knows_a_score() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session);
    session.sql("CREATE INDEX d_i ON d USING distilface_bm25 (body)");
    let ask =
        "SELECT distilface.scan_score('d_i'::regclass, '(0,1)', bm25query('item7', 'd_i')) IS NULL";
    assert_eq!(session.one(ask), "t");
}
