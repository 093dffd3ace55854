//! `CREATE INDEX … USING distilface_hnsw (body)`: text indexed directly, embedded by the index.

use distilface_tests::{Cluster, Session, words};

/// A table of short texts with a few rows that a query must find.
fn fill(session: &mut Session) {
    session.sql("CREATE TABLE docs (id int PRIMARY KEY, lang text, body text)");
    let noise: Vec<String> =
        (10..300).map(|id| format!("({id}, 'en', '{}')", words(id, 12))).collect();
    session.sql(&format!(
        "INSERT INTO docs VALUES
           (1, 'en', 'The cat sat on the mat and purred.'),
           (2, 'en', 'A kitten sleeps on a warm rug.'),
           (3, 'de', 'The central bank raised its interest rates.'),
           (4, 'en', 'Inflation fell after the rates went up.'),
           (5, 'en', NULL), (6, 'en', '   '), {}",
        noise.join(",")
    ));
}

fn nearest(session: &mut Session, rest: &str) -> Vec<String> {
    let query = format!("SELECT id FROM docs {rest}");
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(plan.contains("Index Scan using"), "{plan}");
    session.column(&query)
}

#[test]
fn text_is_searched_by_meaning_without_a_vector_column() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session);
    session
        .sql("CREATE INDEX meaning ON docs USING distilface_hnsw (body); SET enable_seqscan = off");
    session.assert_sound("meaning");
    // NULL and blank texts have no place in the graph; they come last.
    assert_eq!(
        session.one("SELECT heap_tids || ' ' || unplaced FROM distilface_index_info('meaning')"),
        "296 2"
    );
    let all = nearest(&mut session, "ORDER BY body <=> 'x'");
    assert_eq!(all.len(), 296);
    assert!(all[294..].iter().all(|id| id == "5" || id == "6"), "{:?}", &all[294..]);

    let cats = nearest(&mut session, "ORDER BY body <=> 'young cats' LIMIT 2");
    assert_eq!(cats.iter().filter(|id| ["1", "2"].contains(&id.as_str())).count(), 2, "{cats:?}");
    let money =
        nearest(&mut session, "WHERE lang = 'de' ORDER BY body <=> 'monetary policy' LIMIT 5");
    assert_eq!(money, ["3"], "a filter gets the rows that match");

    // The same rows as by an explicit vector column.
    session.sql("ALTER TABLE docs ADD e embedding(384); UPDATE docs SET e = distilface_embed(body); CREATE INDEX ON docs USING distilface_hnsw (e)");
    let by_text = nearest(&mut session, "ORDER BY body <=> 'young cats' LIMIT 10");
    let by_vector =
        nearest(&mut session, "ORDER BY e <=> distilface_embed_query('young cats') LIMIT 10");
    let same = by_text.iter().filter(|id| by_vector.contains(id)).count();
    assert!(same >= 9, "{by_text:?} {by_vector:?}");
    assert_eq!(by_text[..2], by_vector[..2]);
}

#[test]
fn inserts_and_updates_keep_the_index_fresh() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, lang text, body text);
        CREATE INDEX meaning ON docs USING distilface_hnsw (body); SET enable_seqscan = off",
    );
    assert_eq!(nearest(&mut session, "ORDER BY body <=> 'x' LIMIT 5"), Vec::<String>::new());
    session.sql("INSERT INTO docs VALUES (1, 'en', 'bread and butter'), (2, 'en', 'quantum physics'), (3, 'en', ''), (4, 'en', NULL)");
    assert_eq!(nearest(&mut session, "ORDER BY body <=> 'breakfast' LIMIT 1"), ["1"]);
    session.sql("UPDATE docs SET body = 'a treatise on breakfast' WHERE id = 2; UPDATE docs SET body = 'the moons of Jupiter' WHERE id = 1");
    assert_eq!(nearest(&mut session, "ORDER BY body <=> 'breakfast' LIMIT 1"), ["2"]);
    session.sql("DELETE FROM docs WHERE id = 2");
    session.sql("VACUUM docs");
    assert_eq!(nearest(&mut session, "ORDER BY body <=> 'breakfast'"), ["1", "3", "4"]);
    session.assert_sound("meaning");
}

#[test]
fn an_index_on_text_knows_its_model() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session);
    session.sql("CREATE INDEX named ON docs USING distilface_hnsw (body) WITH (model = 'all-minilm-l6-v2', m = 8)");
    session.assert_sound("named");
    let error =
        session.error("CREATE INDEX ON docs USING distilface_hnsw (body) WITH (model = 'foo')");
    assert_eq!(error.code.code(), "42704", "{error}");
    assert_eq!(error.message, "model \"foo\" does not exist");
    // A blank query has no place; its distance is NULL, and the rows still come.
    session.sql("SET enable_seqscan = off");
    assert_eq!(nearest(&mut session, "ORDER BY body <=> '  ' LIMIT 3").len(), 3);
}

#[test]
fn an_index_on_text_survives_crash_standby_dump_and_concurrent_builds() {
    let mut cluster = Cluster::builder().durable().start();
    let mut session = cluster.session();
    fill(&mut session);
    session.sql("CREATE INDEX CONCURRENTLY meaning ON docs USING distilface_hnsw (body)");
    session.sql("REINDEX INDEX CONCURRENTLY meaning");
    session.sql("CREATE UNLOGGED TABLE scratch (id int, body text); CREATE INDEX scratch_meaning ON scratch USING distilface_hnsw (body)");
    let query = "ORDER BY body <=> 'what the economy does' LIMIT 5";
    session.sql("SET enable_seqscan = off");
    let before = nearest(&mut session, query);

    let standby = cluster.standby();
    let mut replica = standby.session();
    replica.sql("SET enable_seqscan = off");
    assert_eq!(nearest(&mut replica, query), before);
    drop(replica);
    drop(standby);

    cluster.kill9_and_restart();
    let mut session = cluster.session();
    session.sql("SET enable_seqscan = off");
    assert_eq!(nearest(&mut session, query), before);
    session.assert_sound("meaning");
    session.sql("INSERT INTO scratch VALUES (1, 'after the crash')");
    assert_eq!(session.one("SELECT id FROM scratch ORDER BY body <=> 'crash' LIMIT 1"), "1");

    cluster.restore(&cluster.dump("postgres"), "restored");
    let mut restored = cluster.session_as("postgres", "restored");
    restored.sql("SET enable_seqscan = off");
    assert_eq!(nearest(&mut restored, query), before);
}

#[test]
fn without_an_index_the_operator_gives_the_same_order() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session);
    let query = "SELECT id FROM docs WHERE id <= 20 ORDER BY body <=> 'young cats' LIMIT 2";
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(!plan.contains("Order By:"), "{plan}");
    let ids = session.column(query);
    assert_eq!(ids.iter().filter(|id| ["1", "2"].contains(&id.as_str())).count(), 2, "{ids:?}");
    assert_eq!(session.one("SELECT (body <=> NULL) IS NULL FROM docs WHERE id = 1"), "t");
}
