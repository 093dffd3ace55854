//! The access method `distilface_bm25` through SQL: what a query may rely on.

use std::collections::BTreeSet;

use distilface_tests::{Cluster, Session, crash_loop, size, words};

/// A table `d (id, grp, title, body)` of English words.
fn fill(session: &mut Session, rows: u64) {
    session.sql("CREATE TABLE d (id int PRIMARY KEY, grp int, title text, body text)");
    insert(session, 0..rows);
}

fn insert(session: &mut Session, ids: std::ops::Range<u64>) {
    let rows: Vec<String> = ids
        .map(|id| {
            let (title, body) = (words(id * 2, 3), words(id * 2 + 1, 5 + id as usize % 30));
            format!("({id}, {}, '{title}', '{body} number{id}')", id % 10)
        })
        .collect();
    session.sql(&format!("INSERT INTO d VALUES {}", rows.join(",")));
}

fn common_word(session: &mut Session) -> String {
    session.one(
        "SELECT w FROM d, regexp_split_to_table(body, ' ') w WHERE w ~ '^[a-z]+$'
         GROUP BY w ORDER BY count(*) DESC, w LIMIT 1",
    )
}

/// Rows of `query` by index scan and by sequential scan.
fn both_ways(session: &mut Session, query: &str) -> (Vec<String>, Vec<String>) {
    session.sql("SET enable_seqscan = off; SET enable_bitmapscan = off");
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(plan.contains("Index Scan using"), "no index scan for {query}:\n{plan}");
    let by_index = session.column(query);
    session.sql("SET enable_seqscan = on; SET enable_indexscan = off");
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(plan.contains("Seq Scan"), "no sequential scan for {query}:\n{plan}");
    let by_sequence = session.column(query);
    session.sql("RESET ALL");
    (by_index, by_sequence)
}

#[test]
fn an_index_scan_gives_what_a_sequential_scan_gives() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 400);
    session.sql(
        "CREATE INDEX d_i ON d USING distilface_bm25 (title, body) WITH (text_config = 'english')",
    );
    insert(&mut session, 400..600);
    session.assert_sound("d_i");
    let word = common_word(&mut session);
    for query in [
        format!("SELECT id FROM d WHERE body @@@ '{word}' ORDER BY id"),
        format!("SELECT id FROM d WHERE body @@@ '{word} AND NOT number1*' ORDER BY id"),
        format!("SELECT id FROM d WHERE title @@@ '{word}' AND body @@@ 'number5*' ORDER BY id"),
        "SELECT id FROM d WHERE body @@@ 'number77~1' ORDER BY id".to_owned(),
        // Scores to five digits: a float's last bits depend on the order of a sum.
        format!(
            "SELECT score || ' ' || count(*)
               FROM (SELECT round((body <@> '{word} number7')::numeric, 5) AS score
                       FROM d ORDER BY body <@> '{word} number7') s
              GROUP BY score ORDER BY score"
        ),
    ] {
        session.sql("SET enable_seqscan = off");
        let by_index = session.column(&query);
        session.sql(
            "SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off",
        );
        let by_sequence = session.column(&query);
        session.sql("RESET ALL");
        assert_eq!(by_index, by_sequence, "{query}");
        assert!(!by_index.is_empty(), "{query}");
    }
    let ranked = format!(
        "SELECT round((body <@> '{word}')::numeric, 5) FROM d ORDER BY body <@> '{word}' LIMIT 30"
    );
    let (by_index, by_sequence) = both_ways(&mut session, &ranked);
    assert_eq!(by_index, by_sequence);
    // Rows that do not match come last, with a score of 0: LIMIT gets its rows.
    let rare = "SELECT id FROM d ORDER BY body <@> 'number123' LIMIT 5";
    session.sql("SET enable_seqscan = off");
    let rows = session.column(rare);
    assert_eq!((rows.len(), rows[0].as_str()), (5, "123"));
    let all = session.column("SELECT id FROM d ORDER BY body <@> 'number123'");
    assert_eq!(all.len(), 600);
    // A filter of another column, and one that leaves few rows.
    let filtered = format!(
        "SELECT id FROM d WHERE grp = 3 AND body @@@ '{word}' ORDER BY body <@> '{word}' LIMIT 3"
    );
    assert_eq!(session.column(&filtered).len(), 3);
}

#[test]
fn bitmaps_combine_with_other_indexes() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 2000);
    session.sql(
        "CREATE INDEX d_i ON d USING distilface_bm25 (body);
         CREATE INDEX d_g ON d (grp);
         ANALYZE d; SET enable_seqscan = off; SET enable_indexscan = off",
    );
    let word = common_word(&mut session);
    let query = format!("SELECT id FROM d WHERE body @@@ '{word}' AND grp IN (1, 2) ORDER BY id");
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(plan.contains("Bitmap Index Scan on d_i"), "{plan}");
    let rows = session.column(&query);
    let expected = session.column(&format!(
        "SELECT id FROM d WHERE body ~ '\\m{word}\\M' AND grp IN (1, 2) ORDER BY id"
    ));
    assert_eq!(rows, expected);
}

#[test]
fn updates_deletes_and_vacuum_keep_the_index_true() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 1000);
    session.sql("CREATE INDEX d_i ON d USING distilface_bm25 (body) WITH (text_config = 'simple')");
    for round in 0..4 {
        session.sql(&format!(
            "DELETE FROM d WHERE id % 10 = {round};
             UPDATE d SET body = body || ' changed{round}' WHERE id % 10 = {round} + 5"
        ));
        session.sql("VACUUM d");
        session.assert_sound("d_i");
        insert(&mut session, 1000 + round * 500..1500 + round * 500);
    }
    session.sql("SELECT distilface_bm25_merge('d_i')");
    session.assert_sound("d_i");
    session.sql("SET enable_seqscan = off");
    let found = session.column("SELECT id FROM d WHERE body @@@ 'changed2' ORDER BY id");
    let expected = session.column("SELECT id FROM d WHERE body ~ 'changed2' ORDER BY id");
    assert_eq!(found, expected);
    assert_eq!(session.one("SELECT segments FROM distilface_bm25_info('d_i')"), "1");
    session.sql("REINDEX INDEX CONCURRENTLY d_i");
    session.assert_sound("d_i");
    let again = session.column("SELECT id FROM d WHERE body @@@ 'changed2' ORDER BY id");
    assert_eq!(again, expected);
}

#[test]
fn expressions_partial_unlogged_and_partitioned_indexes_work() {
    let mut cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("SET enable_seqscan = off");
    fill(&mut session, 200);
    session.sql(
        "CREATE INDEX d_e ON d USING distilface_bm25 ((title || ' ' || body));
         CREATE INDEX d_p ON d USING distilface_bm25 (body) WHERE grp = 1;
         CREATE UNLOGGED TABLE u (t text);
         CREATE INDEX u_t ON u USING distilface_bm25 (t);
         INSERT INTO u VALUES ('one fish'), ('two fish');
         CREATE TABLE p (id int, t text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
         CREATE INDEX p_t ON p USING distilface_bm25 (t);
         INSERT INTO p SELECT i, 'row number' || i FROM generate_series(0, 199) i",
    );
    let by_expression =
        session.column("SELECT id FROM d WHERE (title || ' ' || body) @@@ 'number17'");
    assert_eq!(by_expression, ["17"]);
    let partial = session.column("SELECT id FROM d WHERE body @@@ 'number21' AND grp = 1");
    assert_eq!(partial, ["21"]);
    let parts = session.column("SELECT id FROM p WHERE t @@@ 'number5 OR number150' ORDER BY id");
    assert_eq!(parts, ["5", "150"]);
    let ranked = session.column("SELECT id FROM p2 ORDER BY t <@> 'number150' LIMIT 1");
    assert_eq!(ranked, ["150"]);
    assert_eq!(session.column("SELECT t FROM u WHERE t @@@ 'two'"), ["two fish"]);
    drop(session);
    cluster.kill9_and_restart();
    let mut session = cluster.session();
    session.sql("SET enable_seqscan = off; INSERT INTO u VALUES ('after the crash')");
    assert_eq!(session.column("SELECT t FROM u WHERE t @@@ 'two OR crash'"), ["after the crash"]);
    session.assert_sound("u_t");
}

#[test]
fn prepared_queries_joins_and_scores_in_the_select_list_work() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 300);
    session.sql(
        "CREATE INDEX d_i ON d USING distilface_bm25 (body);
         SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;
         PREPARE q(text) AS
           SELECT id FROM d WHERE body @@@ $1 ORDER BY body <@> $1 LIMIT 3;
         CREATE TABLE q (q text); INSERT INTO q VALUES ('number4'), ('number99')",
    );
    assert_eq!(session.column("EXECUTE q('number42')"), ["42"]);
    assert_eq!(session.column("EXECUTE q('number43')"), ["43"]);
    let joined = session.column("SELECT id FROM q JOIN d ON body @@@ q ORDER BY id");
    assert_eq!(joined, ["4", "99"]);
    let score = session.one("SELECT body <@> 'number7' < -1 FROM d WHERE id = 7");
    assert_eq!(score, "t");
    assert_eq!(session.one("SELECT count(*) FROM d WHERE body @@@ NULL"), "0");
    assert_eq!(session.column("SELECT id FROM d ORDER BY body <@> NULL LIMIT 2").len(), 2);
    let explicit = session.column("SELECT id FROM d WHERE body @@@ bm25query('number8', 'd_i')");
    assert_eq!(explicit, ["8"]);
    assert_eq!(session.one("SELECT bm25query('a b', 'd_i')"), "d_i:a b");
}

#[test]
fn errors_say_what_to_do() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 10);
    let error = session.error("SELECT id FROM d WHERE body @@@ 'x'");
    assert!(error.message.contains("needs a distilface_bm25 index"), "{error:?}");
    session.sql("CREATE INDEX d_i ON d USING distilface_bm25 (title, body)");
    let error = session.error("SELECT id FROM d WHERE body @@@ 'a (b'");
    assert!(
        error.message.contains("expected a closing parenthesis, got the end at character 5"),
        "{error:?}"
    );
    let error = session.error("SELECT id FROM d WHERE body @@@ 'nope:x'");
    assert!(error.message.contains("unknown column \"nope\" at character 1"), "{error:?}");
    assert_eq!(session.column("SELECT id FROM d ORDER BY body <@> 'a (b' LIMIT 2").len(), 2);
    for (options, complaint) in [
        ("text_config = 'klingon'", "unknown text configuration \"klingon\""),
        ("text_config = 'simple; nope = simple'", "the index has no column \"nope\""),
        ("boosts = 'title'", "malformed boost \"title\""),
        ("k1 = 11", "value 11 out of bounds for option \"k1\""),
    ] {
        let error = session
            .error(&format!("CREATE INDEX ON d USING distilface_bm25 (title) WITH ({options})"));
        assert!(error.message.contains(complaint), "{options}: {error:?}");
    }
    let error = session.error("SELECT bm25query('a', 'd_pkey')");
    assert!(error.message.contains("is not a distilface_bm25 index"), "{error:?}");
}

#[test]
fn functions_show_terms_and_mark_words() {
    let cluster = Cluster::start();
    let terms = cluster.column("SELECT term FROM distilface_tokenize('The dogs ran', 'english')");
    assert_eq!(terms, ["dog", "ran"]);
    let marked = cluster.one("SELECT distilface_highlight('Dogs ran', 'dog', 'english')");
    assert_eq!(marked, "<b>Dogs</b> ran");
    assert_eq!(cluster.one("SELECT distilface_query('a AND (b')"), "a b");
}

#[test]
fn kill9_under_writers_loses_no_row_of_the_text_index() {
    let mut cluster = Cluster::start();
    cluster.sql(
        "CREATE TABLE d (k bigint PRIMARY KEY, body text);
         CREATE INDEX d_i ON d USING distilface_bm25 (body)",
    );
    crash_loop(
        &mut cluster,
        size(3, 100),
        4,
        |session, key| {
            let text = words(key, 40);
            let aborted = u64::MAX / 4 + key;
            session.acknowledged(&format!(
                "BEGIN; INSERT INTO d VALUES ({aborted}, 'all {text}'); ROLLBACK"
            )) && session
                .acknowledged(&format!("INSERT INTO d VALUES ({key}, 'all key{key} {text}')"))
        },
        |cluster, acknowledged| {
            let mut session = cluster.session();
            session.sql("SET enable_seqscan = off");
            let found = session.column("SELECT k FROM d WHERE body @@@ 'all'");
            let found: BTreeSet<u64> =
                found.iter().map(|k| k.parse().expect("a key is a number")).collect();
            let lost: Vec<_> = acknowledged.difference(&found).collect();
            assert!(lost.is_empty(), "acknowledged and not found by the index: {lost:?}");
            session.assert_sound("d_i");
            session.sql("VACUUM d");
            session.assert_sound("d_i");
        },
    );
}

#[test]
fn a_standby_answers_as_its_primary_and_takes_over_the_text_index() {
    let primary = Cluster::builder().set("wal_consistency_checking", "generic").start();
    let mut session = primary.session();
    fill(&mut session, 500);
    session.sql("CREATE INDEX d_i ON d USING distilface_bm25 (body)");
    let word = common_word(&mut session);
    let standby = primary.standby();
    let query = format!(
        "SET enable_seqscan = off; SELECT id FROM d WHERE body @@@ '{word} number1*'
          ORDER BY body <@> '{word} number1*', id LIMIT 50"
    );
    for round in 0..size(3, 20) as u64 {
        insert(&mut session, 500 + round * 300..800 + round * 300);
        session.sql(&format!("DELETE FROM d WHERE id % 13 = {round} % 13"));
        session.sql("VACUUM d");
        standby.wait_for(&primary);
        assert_eq!(standby.column(&query), primary.column(&query), "round {round}");
        standby.assert_sound("d_i");
    }
    drop(session);
    drop(primary);
    standby.promote();
    standby.sql("INSERT INTO d VALUES (1000000, 1, 'x', 'written afterwards')");
    let found =
        standby.column("SET enable_seqscan = off; SELECT id FROM d WHERE body @@@ 'afterwards'");
    assert_eq!(found, ["1000000"]);
    standby.assert_sound("d_i");
    assert!(!standby.log().contains("inconsistent page found"), "replay made another page");
}

#[test]
fn a_dump_restores_the_index() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 50);
    session.sql(
        "CREATE INDEX d_i ON d USING distilface_bm25 (title, body)
           WITH (text_config = 'english; title = simple', boosts = 'title = 2', k1 = 1.5, b = 0.5)",
    );
    let dump = cluster.dump("postgres");
    cluster.restore(&dump, "restored");
    let mut restored = cluster.session_as("postgres", "restored");
    let info = "SELECT text_configs, k1, b FROM distilface_bm25_info('d_i')";
    assert_eq!(restored.rows(info), session.rows(info));
    restored.sql("SET enable_seqscan = off");
    assert_eq!(restored.column("SELECT id FROM d WHERE body @@@ 'number9'"), ["9"]);
}

#[test]
fn partitions_are_ranked_as_one_table_would_be() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 600);
    session.sql(
        "CREATE INDEX d_i ON d USING distilface_bm25 (body);
         CREATE TABLE p (id int, grp int, title text, body text) PARTITION BY LIST (grp);
         CREATE TABLE p_few PARTITION OF p FOR VALUES IN (0);
         CREATE TABLE p_some PARTITION OF p FOR VALUES IN (1, 2, 3);
         CREATE TABLE p_rest PARTITION OF p DEFAULT PARTITION BY RANGE (id);
         CREATE TABLE p_low PARTITION OF p_rest FOR VALUES FROM (0) TO (200);
         CREATE TABLE p_high PARTITION OF p_rest FOR VALUES FROM (200) TO (100000);
         CREATE INDEX p_b ON p USING distilface_bm25 (body);
         INSERT INTO p SELECT * FROM d",
    );
    let word = common_word(&mut session);
    for query in [word.clone(), format!("{word} number7"), format!("\"{word}\" -number1*")] {
        let ask = |table: &str| {
            format!(
                "SELECT id, round((body <@> '{query}')::numeric, 4) FROM {table}
                  ORDER BY round((body <@> '{query}')::numeric, 4), id LIMIT 40"
            )
        };
        let expected = session.rows(&ask("d"));
        assert_eq!(session.rows(&ask("p")), expected, "{query}, sorted");
        // The best scores by merging the partitions' indexes.
        let best = |table: &str| {
            format!(
                "SELECT round((body <@> '{query}')::numeric, 4) FROM {table} ORDER BY body <@> '{query}' LIMIT 25"
            )
        };
        session.sql("SET enable_seqscan = off; SET enable_sort = off");
        let plan = session.column(&format!("EXPLAIN {}", best("p"))).join("\n");
        assert!(plan.contains("Merge Append") && plan.contains("Index Scan using p_few"), "{plan}");
        assert_eq!(session.column(&best("p")), session.column(&best("d")), "{query}");
        session.sql("RESET ALL");
    }
    session
        .sql("PREPARE q(text) AS SELECT id FROM p WHERE body @@@ $1 ORDER BY body <@> $1 LIMIT 3");
    session.sql("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off");
    assert_eq!(session.column("EXECUTE q('number42')"), ["42"]);
    let explicit =
        session.column("SELECT id FROM p ORDER BY body <@> bm25query('number9', 'p_b') LIMIT 1");
    assert_eq!(explicit, ["9"]);
    session.sql("CREATE TABLE none (t text) PARTITION BY LIST (t); CREATE INDEX ON none USING distilface_bm25 (t)");
    assert!(session.column("SELECT t FROM none ORDER BY t <@> 'x'").is_empty());
}

#[test]
fn a_query_may_look_into_several_columns_in_every_plan() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 500);
    session.sql(
        "INSERT INTO d VALUES (9001, 1, 'needle haystack', NULL), (9002, 1, NULL, 'needle'),
           (9003, 1, 'needle', 'needle hay');
         CREATE INDEX d_i ON d USING distilface_bm25 (title, body) WITH (boosts = 'title = 2')",
    );
    let word = common_word(&mut session);
    for query in [
        "title:needle OR body:needle".to_owned(),
        "title:needle needle".to_owned(),
        "needle -title:needle".to_owned(),
        format!("title:{word} body:{word} number3*"),
        "title:\"needle haystack\" hay~1".to_owned(),
    ] {
        let matching = format!("SELECT id FROM d WHERE body @@@ '{query}' ORDER BY id");
        session.sql("SET enable_seqscan = off");
        let plan = session.column(&format!("EXPLAIN {matching}")).join("\n");
        assert!(plan.contains("d_i"), "{plan}");
        let by_index = session.column(&matching);
        assert!(!by_index.is_empty(), "{query}");
        session.sql(
            "SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off",
        );
        assert_eq!(session.column(&matching), by_index, "{query}");
        session.sql("RESET ALL");
        let ranked = format!(
            "SELECT round((body <@> '{query}')::numeric, 4) FROM d ORDER BY body <@> '{query}' LIMIT 30"
        );
        let (by_index, by_sequence) = both_ways(&mut session, &ranked);
        assert_eq!(by_index, by_sequence, "{query}");
    }
    session.sql(
        "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan;
        PREPARE q(text) AS SELECT id FROM d WHERE body @@@ $1 ORDER BY body <@> $1, id LIMIT 3",
    );
    assert_eq!(session.column("EXECUTE q('title:needle needle')"), ["9003", "9001", "9002"]);
    assert_eq!(session.column("EXECUTE q('number42')"), ["42"]);
    // A query that names a column reads it.
    session.sql("CREATE ROLE reader LOGIN; GRANT SELECT (id, body) ON d TO reader");
    let mut reader = cluster.session_as("reader", "postgres");
    assert_eq!(reader.column("SELECT id FROM d WHERE body @@@ 'number42'"), ["42"]);
    let error = reader.error("SELECT id FROM d WHERE body @@@ 'title:needle'");
    assert_eq!(error.code.code(), "42501", "{error:?}");
}

#[test]
fn of_two_indexes_on_a_column_the_one_that_the_query_is_bound_to_is_scanned() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE d (id int, body text); INSERT INTO d VALUES (1, 'running'), (2, 'runs');
         CREATE INDEX d_simple ON d USING distilface_bm25 (body);
         CREATE INDEX d_english ON d USING distilface_bm25 (body) WITH (text_config = 'english');
         SET enable_seqscan = off",
    );
    let bound = |index: &str| {
        format!("SELECT id FROM d WHERE body @@@ bm25query('running', '{index}') ORDER BY id")
    };
    assert_eq!(session.column(&bound("d_simple")), ["1"]);
    assert_eq!(session.column(&bound("d_english")), ["1", "2"]);
    session.sql("SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off");
    assert_eq!(session.column(&bound("d_simple")), ["1"]);
    assert_eq!(session.column(&bound("d_english")), ["1", "2"]);
}

#[test]
fn what_a_user_types_ranks_rows_and_never_fails() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 50);
    session.sql("CREATE INDEX d_i ON d USING distilface_bm25 (body)");
    for typed in ["number7: what is it", "a AND (", "-", "\"number7", "NOT", "title:", "~~^^"] {
        for setting in ["on", "off"] {
            session.sql(&format!("SET enable_seqscan = {setting}"));
            let query = format!("SELECT id FROM d ORDER BY body <@> '{typed}', id LIMIT 1");
            let first = session.one(&query);
            assert!(!typed.contains("number7") || first == "7", "{typed}: {first}");
        }
    }
    assert_eq!(session.one("SELECT distilface_query('though: a cat')"), "though a cat");
    assert_eq!(session.one("SELECT distilface_query('body:cat', '{body}')"), "body:cat");
}

#[test]
fn a_row_that_was_updated_meanwhile_is_looked_at_again_with_all_its_columns() {
    // An index scan's condition is evaluated again on the new row, outside the scan, where the operator
    // sees one column: a query of several was an error then.
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let plans = [
        ("Index Scan", "enable_seqscan = off; SET enable_bitmapscan = off"),
        ("Bitmap Heap Scan", "enable_seqscan = off; SET enable_indexscan = off"),
        ("Seq Scan", "enable_indexscan = off; SET enable_bitmapscan = off"),
    ];
    let condition = "WHERE body @@@ 'title:needle AND hay'";
    for (plan, settings) in plans {
        for statement in [
            format!("UPDATE d SET grp = grp + 1 {condition}"),
            format!("DELETE FROM d {condition}"),
            format!("SELECT id FROM d {condition} FOR UPDATE"),
        ] {
            for form in ["plain", "prepared"] {
                session.sql(
                    "DROP TABLE IF EXISTS d;
                     CREATE TABLE d (id int PRIMARY KEY, grp int, title text, body text);
                     INSERT INTO d SELECT i, 0, CASE WHEN i <= 3 THEN 'needle' ELSE 'pin' END, 'hay'
                       FROM generate_series(1, 200) i;
                     CREATE INDEX d_i ON d USING distilface_bm25 (title, body)",
                );
                session.sql(
                    "BEGIN;
                     UPDATE d SET title = 'pin' WHERE id = 1;
                     UPDATE d SET title = 'a needle', body = 'more hay' WHERE id = 2",
                );
                let mut other = cluster.session();
                other.sql(&format!("SET {settings}; SET plan_cache_mode = force_generic_plan"));
                let shown = other.column(&format!("EXPLAIN {statement}")).join("\n");
                assert!(shown.contains(plan), "{shown}");
                let returning = if statement.starts_with("SELECT") { "" } else { " RETURNING id" };
                let run = match form {
                    "plain" => format!("{statement}{returning}"),
                    _ => {
                        let unknown = statement.replace("'title:needle AND hay'", "$1");
                        other.sql(&format!("PREPARE p (text) AS {unknown}{returning}"));
                        "EXECUTE p('title:needle AND hay')".to_owned()
                    }
                };
                let found = std::thread::scope(|scope| {
                    let waiting = scope.spawn(move || other.column(&run));
                    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
                    while session.one(waits) == "0" {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                    session.sql("COMMIT");
                    waiting.join().expect("the statement ends")
                });
                let found: BTreeSet<String> = found.into_iter().collect();
                let expected = BTreeSet::from(["2".to_owned(), "3".to_owned()]);
                assert_eq!(found, expected, "{form} {statement}: {shown}");
            }
        }
    }
}
