//! `CREATE INDEX … USING distilface_hnsw (body)`: text indexed directly, embedded by the index.

use std::collections::BTreeSet;

use distilface_tests::{Cluster, Session, TinyModel, words};

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
    session.sql("CREATE INDEX named ON docs USING distilface_hnsw (body) WITH (model = 'distilface-small', m = 8)");
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

/// What `pg_upgrade` leaves: it takes the init fork of an unlogged index from a schema that was restored before
/// the models were.
#[test]
fn an_unlogged_index_without_a_page_is_filled_by_its_model() {
    let mut cluster = Cluster::start();
    let mut session = cluster.session();
    let dir = TinyModel::default().write(cluster.host());
    session.sql(&format!(
        "SELECT distilface_model_load('tiny', '{}');
         CREATE UNLOGGED TABLE a (id int, body text); CREATE UNLOGGED TABLE b (id int, body text);
         INSERT INTO a VALUES (7, 'lost'); INSERT INTO b VALUES (7, 'lost');
         CREATE INDEX ON a USING distilface_hnsw (body) WITH (model = 'tiny');
         CREATE INDEX ON b USING distilface_hnsw (body);
         CREATE ROLE clerk; GRANT SELECT, INSERT ON a, b TO clerk",
        dir.display()
    ));
    let forks = ["a_body_idx", "b_body_idx"]
        .map(|index| session.one(&format!("SELECT pg_relation_filepath('{index}') || '_init'")));
    drop(session);
    cluster.stop();
    for fork in forks {
        let fork = std::fs::OpenOptions::new().write(true).open(cluster.data().join(fork));
        fork.and_then(|fork| fork.set_len(0)).expect("the index has an init fork");
    }
    cluster.restart();
    cluster.kill9_and_restart();

    let mut session = cluster.session();
    let used_by = "SELECT used_by::text FROM distilface.models WHERE name = 'tiny'";
    assert_eq!(session.one(used_by), "{\"index public.a_body_idx\"}");
    let kept = session.error("SELECT distilface_model_drop('tiny')");
    assert_eq!(kept.code.code(), "2BP01", "{kept}");
    // What the index without a name is filled by from here on.
    session.sql("SELECT distilface_model_alias('default', 'tiny')");
    for table in ["a", "b"] {
        session.sql("SET enable_seqscan = off; SET ROLE clerk");
        let nearest = format!("SELECT id FROM {table} ORDER BY body <=> 'the cat'");
        assert_eq!(session.column(&nearest), Vec::<String>::new());
        session
            .sql(&format!("INSERT INTO {table} VALUES (1, NULL), (2, 'a river'), (3, 'the cat')"));
        session.sql("RESET ROLE");
        assert_eq!(session.column(&nearest), ["3", "2", "1"]);
        let index = format!("{table}_body_idx");
        session.assert_sound(&index);
        let dimensions = format!("SELECT dimensions FROM distilface_index_info('{index}')");
        assert_eq!(session.one(&dimensions), "32");
    }
    assert!(session.one(used_by).contains("b_body_idx"), "{}", session.one(used_by));
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

#[test]
fn a_build_shows_its_rows_and_tokens() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session);
    let tokens =
        session.one("SELECT sum(distilface_token_count(body)) FROM docs WHERE body ~ '\\S'");
    let mut watcher = cluster.session();
    watcher.sql("SELECT pg_advisory_lock(7391)");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut builder = cluster.session();
            // Every row is embedded, and the graph is not linked yet.
            builder.sql("SET distilface.failpoint = 'build has an empty index=wait'");
            builder.sql("CREATE INDEX meaning ON docs USING distilface_hnsw (body)");
        });
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'";
        while watcher.one(waiting) == "0" {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let shown = watcher.one(
            "SELECT concat_ws(' ', \"table\", phase, rows_done, tokens_done) FROM distilface.index_progress",
        );
        watcher.sql("SELECT pg_advisory_unlock(7391)");
        assert_eq!(shown, format!("docs building index: scanning table 296 {tokens}"));
    });
    assert_eq!(session.one("SELECT count(*) FROM distilface.index_progress"), "0");
    session.assert_sound("meaning");
}

#[test]
fn a_build_shows_what_it_has_embedded_of_a_batch() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE TABLE docs AS SELECT i AS id, repeat('the number ' || i || ' ', 20) AS body FROM generate_series(1, 1500) i",
    );
    let mut watcher = cluster.session();
    std::thread::scope(|scope| {
        let builder = scope.spawn(|| {
            cluster.sql("SET distilface.threads = 1; CREATE INDEX meaning ON docs USING distilface_hnsw (body)");
        });
        let mut seen = BTreeSet::new();
        while !builder.is_finished() {
            seen.extend(watcher.column(
                "SELECT rows_done FROM distilface.index_progress
                 WHERE rows_done BETWEEN 1 AND 1499 AND tokens_done > rows_done AND phase ~ 'scanning'",
            ));
        }
        assert!(seen.len() > 1, "{seen:?}");
    });
}

/// PostgreSQL builds the indexes of an emptied table anew, at a moment without a snapshot.
#[test]
fn a_temporary_table_that_a_commit_empties_keeps_its_index() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TEMPORARY TABLE docs (body text) ON COMMIT DELETE ROWS;
         CREATE INDEX meaning ON docs USING distilface_hnsw (body)",
    );
    for _ in 0..2 {
        session.sql(
            "BEGIN; CREATE TABLE IF NOT EXISTS made (x int);
             INSERT INTO docs SELECT 'the number ' || i FROM generate_series(1, 20) i;
             SET LOCAL enable_seqscan = off",
        );
        assert_eq!(nearest_body(&mut session), "the number 7");
        session.sql("COMMIT");
        assert_eq!(session.one("SELECT count(*) FROM docs"), "0");
    }
    assert_eq!(session.one("SELECT to_regclass('made')"), "made", "the transaction's work is kept");
}

fn nearest_body(session: &mut Session) -> String {
    session.one("SELECT body FROM docs ORDER BY body <=> 'the number 7' LIMIT 1")
}

/// What the encoder read in this session, as texts.
fn embedded(session: &mut Session) -> usize {
    session.one("SELECT texts FROM distilface_embedded()").parse().expect("a count")
}

#[test]
fn a_text_is_embedded_once_when_it_changes() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text, views int, lang text) WITH (fillfactor = 40);
         CREATE INDEX ON docs (lang);
         CREATE INDEX meaning ON docs USING distilface_hnsw (body);
         CREATE INDEX again ON docs USING distilface_hnsw (body) WHERE id > 0",
    );
    // A session each, because a session remembers what it embedded lately.
    let counts = |statement: &str| {
        let mut session = cluster.session();
        session.sql(&format!("SET enable_seqscan = off; {statement}"));
        embedded(&mut session)
    };
    let insert =
        "INSERT INTO docs SELECT i, 'the number ' || i, 0, 'en' FROM generate_series(1, 20) i";
    assert_eq!(counts(insert), 20, "one text, two indexes");
    assert_eq!(counts("INSERT INTO docs VALUES (30, NULL, 0, 'en'), (31, '  ', 0, 'en')"), 0);
    assert_eq!(counts("UPDATE docs SET views = views + 1"), 0, "no row has left its page");
    assert_eq!(counts("UPDATE docs SET body = 'another text' WHERE id = 3"), 1);
    assert_eq!(counts("SELECT id FROM docs ORDER BY body <=> 'the number 7' LIMIT 10"), 1);
    // PostgreSQL gives every index a row that moves, and no index the row that it was.
    assert_eq!(counts("UPDATE docs SET lang = 'de' WHERE id <= 4"), 0);
    assert_eq!(counts("UPDATE docs SET lang = 'fr'; UPDATE docs SET lang = 'en'"), 0);
    assert_eq!(
        counts("UPDATE docs SET body = body, lang = 'pt'"),
        0,
        "as many programs save a row"
    );
    assert_eq!(counts("UPDATE docs SET body = upper(body), lang = 'es' WHERE id < 3"), 2);
    assert_eq!(counts("INSERT INTO docs VALUES (40, 'the number 9', 0, 'en')"), 0);
    assert_eq!(counts("BEGIN; UPDATE docs SET lang = 'el' WHERE id = 5; ROLLBACK"), 0);
    cluster.sql("VACUUM docs");
    assert_eq!(counts("UPDATE docs SET lang = 'sv'"), 0);
    for index in ["meaning", "again"] {
        cluster.session().assert_sound(index);
        cluster.session().sql(&format!("REINDEX INDEX {index}"));
    }
    assert_eq!(counts("UPDATE docs SET lang = 'da'"), 0, "a built index knows its texts too");
    // A column of vectors moves along with its row.
    cluster.sql("DROP INDEX meaning, again");
    cluster.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    assert_eq!(counts("UPDATE docs SET lang = 'fr'"), 0);
    assert_eq!(counts("UPDATE docs SET body = body"), 0);
    assert_eq!(counts("UPDATE docs SET body = 'a third text', lang = 'it' WHERE id = 3"), 1);
    assert_eq!(
        counts("SELECT id FROM docs ORDER BY e <=> distilface_embed_query('seven') LIMIT 10"),
        1
    );
}

#[test]
fn a_search_embeds_its_query_and_no_row() {
    let cluster = Cluster::start();
    fill(&mut cluster.session());
    cluster.sql(
        "CREATE INDEX meaning ON docs USING distilface_hnsw (body);
         CREATE TABLE tags (id int, tag text); INSERT INTO tags SELECT i, 'tag' FROM generate_series(1, 300) i",
    );
    let mut plain = cluster.session();
    plain.sql("SET enable_indexscan = off");
    // A session each, because a session remembers what it embedded lately; the first statement counts.
    for (query, texts) in [
        ("SELECT id FROM docs ORDER BY body <=> 'young cats' LIMIT 2", 1),
        ("SELECT id FROM docs ORDER BY body <=> 'young cats' OFFSET 1 LIMIT 1", 1),
        (
            "SELECT id FROM docs WHERE body IS NOT NULL ORDER BY distilface_similarity(body, 'young cats') DESC LIMIT 2",
            1,
        ),
        ("SELECT id FROM docs ORDER BY body <=> 'young cats' LIMIT 2 FOR UPDATE", 1),
        (
            "SELECT t.id FROM (SELECT id FROM docs ORDER BY body <=> 'young cats' LIMIT 2) d JOIN tags t USING (id)",
            1,
        ),
        ("SELECT unnest(ARRAY(SELECT id FROM docs ORDER BY body <=> 'young cats' LIMIT 2))", 1),
        (
            "WITH d AS MATERIALIZED (SELECT id FROM docs ORDER BY body <=> 'young cats' LIMIT 2) SELECT id FROM d",
            1,
        ),
        // These need the distance itself, which the scan has.
        ("SELECT id FROM docs ORDER BY body <=> 'young cats' FETCH FIRST 2 ROWS WITH TIES", 1),
        (
            "SELECT id FROM (SELECT id, body <=> 'young cats' AS far FROM docs ORDER BY 2 LIMIT 2) d WHERE far < 1",
            1,
        ),
    ] {
        let mut session = cluster.session();
        session.sql("SET enable_seqscan = off; SET enable_sort = off");
        let mut ids = session.column(query);
        assert_eq!(embedded(&mut session), texts, "{query}");
        let mut expected = plain.column(query);
        ids.sort();
        expected.sort();
        assert_eq!(ids, expected, "{query}");
    }
    // A plan that is kept.
    let mut session = cluster.session();
    session.sql("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; PREPARE near(text) AS SELECT id FROM docs ORDER BY body <=> $1 LIMIT 2");
    for times in 1..4 {
        assert_eq!(session.column(&format!("EXECUTE near('query {times}')")).len(), 2);
        assert_eq!(embedded(&mut session), times);
    }
}

#[test]
fn an_index_on_an_expression_knows_its_texts() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, title text, body text, lang text);
         CREATE INDEX ON docs (lang);
         CREATE INDEX meaning ON docs USING distilface_hnsw ((title || ': ' || body), lang);
         INSERT INTO docs SELECT i, 'number ' || i, repeat('a long text, ', 400 * (i % 2)) || i, 'en'
         FROM generate_series(1, 12) i",
    );
    let counts = |statement: &str| {
        let mut session = cluster.session();
        session.sql(statement);
        embedded(&mut session)
    };
    // The filter column makes another node of it, with the vector that is there.
    assert_eq!(counts("UPDATE docs SET lang = 'de'"), 0);
    assert_eq!(counts("UPDATE docs SET lang = 'de', title = title"), 0);
    assert_eq!(counts("UPDATE docs SET title = 'changed' WHERE id < 3"), 2);
    let mut session = cluster.session();
    session.sql("SET enable_seqscan = off");
    session.sql("VACUUM docs");
    session.assert_sound("meaning");
    let by_index = "SELECT id FROM docs WHERE lang = 'de' ORDER BY (title || ': ' || body) <=> 'number 8' LIMIT 3";
    let found = session.column(by_index);
    session.sql("REINDEX INDEX meaning");
    assert_eq!(session.column(by_index), found, "the same order as from vectors just made");
}

#[test]
fn a_text_that_the_snapshot_does_not_see_is_embedded() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text, lang text); CREATE INDEX ON docs (lang);
         CREATE INDEX meaning ON docs USING distilface_hnsw (body);
         INSERT INTO docs VALUES (1, 'a text', 'en')",
    );
    let mut other = cluster.session();
    other.sql("BEGIN; INSERT INTO docs VALUES (2, 'not committed', 'en')");
    let mut session = cluster.session();
    session.sql("INSERT INTO docs VALUES (3, 'not committed', 'en')");
    assert_eq!(embedded(&mut session), 1);
    other.sql("ROLLBACK");
    // Gone from the table, and after the vacuum from the index.
    let mut session = cluster.session();
    session.sql("DELETE FROM docs WHERE id = 1; INSERT INTO docs VALUES (4, 'a text', 'en')");
    assert_eq!(embedded(&mut session), 1);
    session.sql("DELETE FROM docs");
    session.sql("VACUUM docs");
    let mut session = cluster.session();
    session.sql("INSERT INTO docs VALUES (5, 'a text', 'en')");
    assert_eq!(embedded(&mut session), 1);
    session.assert_sound("meaning");
}
