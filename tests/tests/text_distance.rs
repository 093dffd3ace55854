//! A scan of an index on text gives its distances to the whole plan: no row that it returns is embedded again.

use distilface_tests::{Cluster, Session, words};

const QUERY: &str = "how a bill becomes law";

/// Texts of which every one is longer than the model reads, and an index over them. From here on, to
/// embed one of them is an error.
fn fill(session: &mut Session, table: &str) {
    session.sql("SET distilface.on_overflow = silent");
    let rows: Vec<String> =
        (1..=60).map(|id| format!("({id}, {}, '{}')", id % 2, words(id, 400))).collect();
    session.sql(&format!(
        "INSERT INTO {table} VALUES {}; SET distilface.on_overflow = error; SET enable_seqscan = off",
        rows.join(",")
    ));
    let error = session.error(&format!("SELECT body <=> '{QUERY}' FROM {table} WHERE id = 1"));
    assert!(error.message.contains("longer"), "{}", error.message);
}

fn docs(session: &mut Session) {
    session.sql("CREATE TABLE docs (id int PRIMARY KEY, part int, body text)");
    fill(session, "docs");
    session.sql("SET distilface.on_overflow = silent; CREATE INDEX meaning ON docs USING distilface_hnsw (body); SET distilface.on_overflow = error");
}

fn numbers(rows: &[String]) -> Vec<f64> {
    rows.iter().map(|row| row.parse().expect("a number")).collect()
}

#[test]
fn no_row_of_a_text_index_is_embedded_again() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session);
    // A new session's first plan, too: it is made before the library is loaded.
    let mut session = cluster.session();
    session
        .client()
        .batch_execute(
            "SET distilface.on_overflow = error; SET enable_seqscan = off; SET enable_sort = off",
        )
        .expect("set");
    let count = |session: &mut Session, query: &str| session.column(query).len();
    for query in [
        format!("SELECT id FROM docs ORDER BY body <=> '{QUERY}' LIMIT 20"),
        format!("SELECT body <=> '{QUERY}' FROM docs ORDER BY 1 LIMIT 20"),
        format!("SELECT 1 - (body <=> '{QUERY}') FROM docs ORDER BY body <=> '{QUERY}' LIMIT 20"),
        format!(
            "SELECT id FROM docs WHERE body <=> '{QUERY}' < 2 ORDER BY body <=> '{QUERY}' LIMIT 20"
        ),
        format!("SELECT id FROM docs WHERE part = 1 ORDER BY body <=> '{QUERY}' LIMIT 20"),
        format!(
            "SELECT distilface_similarity(body, '{QUERY}') FROM docs ORDER BY body <=> '{QUERY}' LIMIT 20"
        ),
        format!(
            "SELECT id FROM docs ORDER BY distilface_similarity(body, '{QUERY}') DESC LIMIT 20"
        ),
        format!(
            "SELECT id FROM docs ORDER BY distilface_similarity('{QUERY}', body) DESC NULLS LAST LIMIT 20"
        ),
        format!(
            "SELECT rank() OVER (ORDER BY d) FROM (SELECT body <=> '{QUERY}' AS d FROM docs ORDER BY 1 LIMIT 20) s"
        ),
        format!(
            "WITH best AS MATERIALIZED (SELECT id, body <=> '{QUERY}' AS d FROM docs ORDER BY d LIMIT 20) SELECT id FROM best WHERE d < 2"
        ),
    ] {
        assert_eq!(count(&mut session, &query), 20, "{query}");
    }
    session.sql(
        "SET plan_cache_mode = force_generic_plan;
         PREPARE ask(text) AS SELECT id, body <=> $1 FROM docs ORDER BY body <=> $1 LIMIT 20",
    );
    for _ in 0..3 {
        assert_eq!(count(&mut session, &format!("EXECUTE ask('{QUERY}')")), 20);
    }
    session.sql(&format!(
        "BEGIN; DECLARE a CURSOR FOR SELECT body <=> '{QUERY}' FROM docs ORDER BY 1;
         DECLARE b CURSOR FOR SELECT body <=> '{QUERY}' FROM docs ORDER BY 1"
    ));
    for _ in 0..5 {
        let (a, b) = (session.one("FETCH a"), session.one("FETCH b"));
        assert_eq!(a, b, "two scans under way do not take each other's rows");
    }
    session.sql("COMMIT");
}

#[test]
fn a_varchar_or_domain_column_is_not_embedded_again_either() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE DOMAIN note AS text");
    docs(&mut session);
    for kind in ["varchar", "note"] {
        session.sql(&format!(
            "SET distilface.on_overflow = silent; ALTER TABLE docs ALTER body TYPE {kind};
             SET distilface.on_overflow = error; SET enable_seqscan = off; SET enable_sort = off"
        ));
        for query in [
            format!("SELECT id, body <=> '{QUERY}' FROM docs ORDER BY body <=> '{QUERY}' LIMIT 20"),
            format!(
                "SELECT id FROM docs ORDER BY distilface_similarity(body, '{QUERY}') DESC NULLS LAST LIMIT 20"
            ),
            format!(
                "SELECT id, distilface_similarity('{QUERY}', body) FROM docs WHERE body IS NOT NULL
                 ORDER BY distilface_similarity('{QUERY}', body) DESC LIMIT 20"
            ),
        ] {
            assert_eq!(session.column(&query).len(), 20, "{kind}: {query}");
        }
    }
}

#[test]
fn a_partitioned_table_is_merged_by_the_distances_of_its_indexes() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (id int, part int, body text) PARTITION BY LIST (part);
         CREATE TABLE docs_0 PARTITION OF docs FOR VALUES IN (0);
         CREATE TABLE docs_1 PARTITION OF docs FOR VALUES IN (1)",
    );
    fill(&mut session, "docs");
    session.sql("SET distilface.on_overflow = silent; CREATE INDEX ON docs USING distilface_hnsw (body); SET distilface.on_overflow = error");
    let query = format!("SELECT body <=> '{QUERY}' FROM docs ORDER BY 1 LIMIT 30");
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(plan.contains("Merge Append"), "{plan}");
    let distances = numbers(&session.column(&query));
    assert_eq!(distances.len(), 30);
    assert!(distances.is_sorted(), "{distances:?}");
}

#[test]
fn distances_shown_are_in_order_and_those_of_the_model() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE docs (id int PRIMARY KEY, body text); SET enable_seqscan = off");
    let rows: Vec<String> = (1..=200).map(|id| format!("({id}, '{}')", words(id, 12))).collect();
    session.sql(&format!("INSERT INTO docs VALUES {}, (201, ' '), (202, NULL)", rows.join(",")));
    session.sql("CREATE INDEX meaning ON docs USING distilface_hnsw (body)");
    let shown = session.rows(&format!(
        "SELECT id, body <=> '{QUERY}', distilface_similarity(body, '{QUERY}') FROM docs ORDER BY body <=> '{QUERY}'"
    ));
    assert_eq!(shown.len(), 202);
    let mut last = -1.0;
    for row in &shown {
        let id = row[0].as_deref().expect("a key");
        // Without the index's order there is no scan to ask.
        let exact = session.rows(&format!("SELECT body <=> '{QUERY}' FROM docs WHERE id = {id}"));
        let exact = exact[0][0].as_deref().map(|text| text.parse::<f64>().expect("a number"));
        let number =
            |at: usize| row[at].as_deref().map(|text| text.parse::<f64>().expect("a number"));
        assert_eq!(number(1).is_some(), exact.is_some(), "{row:?}");
        let (Some(distance), Some(exact)) = (number(1), exact) else { continue };
        assert!((distance - exact).abs() < 0.005, "{distance} beside {exact}");
        assert!((1.0 - distance - number(2).expect("a similarity")).abs() < 1e-6, "{row:?}");
        assert!(distance >= last, "{distance} after {last}");
        last = distance;
    }
}

/// Under READ COMMITTED, a row lock checks a row's newest version, which no scan returned.
#[test]
fn a_row_changed_by_another_session_is_measured_anew() {
    let cluster = Cluster::start();
    let (mut one, mut other) = (cluster.session(), cluster.session());
    one.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text);
         INSERT INTO docs VALUES (1, 'The cat purrs.'), (2, 'Interest rates went up.'), (3, 'A dog barks.');
         CREATE INDEX meaning ON docs USING distilface_hnsw (body)",
    );
    one.sql("BEGIN; UPDATE docs SET body = 'A kitten meows.' WHERE id = 1");
    let waiting = std::thread::spawn(move || {
        other.sql("SET enable_seqscan = off");
        other.rows("SELECT id, body <=> 'cats' < 0.7 FROM docs WHERE body <=> 'cats' < 0.7 ORDER BY body <=> 'cats' LIMIT 1 FOR UPDATE")
    });
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    while cluster.one(blocked) == "0" {
        std::thread::yield_now();
    }
    one.sql("COMMIT");
    let rows = waiting.join().expect("the other session answers");
    assert_eq!(rows, [[Some("1".to_owned()), Some("t".to_owned())]]);
}

#[test]
fn only_plans_ask_a_scan() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (body text); CREATE INDEX meaning ON docs USING distilface_hnsw (body)",
    );
    let error = session.error(
        "SELECT distilface.scan_distance('meaning'::regclass, '(0,1)', 'a text', 'a query')",
    );
    assert_eq!(error.code.code(), "55000", "{error}");
    assert!(error.hint.is_some());
}
