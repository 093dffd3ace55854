//! Promise 8: `pg_upgrade` keeps working indexes, models and pipelines; a crash after it empties unlogged tables.

use distilface_tests::{Cluster, DIMS, Session, TinyModel, random_vector, skip, words};

const INDEXES: [&str; 12] = [
    "plain",
    "sketched",
    "filtered",
    "by_text",
    "by_expression",
    "words",
    "unlogged_e",
    "loaded_body_idx",
    "builtin_body_idx",
    "default_body_idx",
    "part_a_e",
    "piped_e_idx",
];

fn fill(session: &mut Session) {
    let rows: Vec<String> = (0..400)
        .map(|k| format!("({k}, '{}', '{}')", random_vector(k, DIMS), words(k, 9)))
        .collect();
    session.sql(&format!(
        "CREATE TABLE t (k bigint PRIMARY KEY, e embedding({DIMS}), body text);
         INSERT INTO t VALUES {};
         ALTER TABLE t ADD g embedding(384) GENERATED ALWAYS AS (distilface_embed(body, 'distilface-small')) STORED;
         CREATE INDEX plain ON t USING distilface_hnsw (e embedding_l2_ops) WITH (m = 12);
         CREATE INDEX sketched ON t USING distilface_hnsw (g) WITH (storage = sketched);
         CREATE INDEX filtered ON t USING distilface_hnsw (e, k);
         CREATE INDEX by_text ON t USING distilface_hnsw (body) WITH (model = 'tiny');
         CREATE INDEX by_expression ON t USING distilface_hnsw ((distilface_embed(body, 'tiny')::embedding(32)));
         CREATE INDEX words ON t USING distilface_bm25 (body) WITH (text_config = 'english', k1 = 0.9);
         CREATE UNLOGGED TABLE u AS SELECT k, e FROM t;
         CREATE INDEX unlogged_e ON u USING distilface_hnsw (e);
         CREATE UNLOGGED TABLE loaded AS SELECT k, body FROM t;
         CREATE INDEX loaded_body_idx ON loaded USING distilface_hnsw (body) WITH (model = 'tiny');
         CREATE UNLOGGED TABLE builtin AS SELECT k, body FROM t;
         CREATE INDEX builtin_body_idx ON builtin USING distilface_hnsw (body) WITH (model = 'distilface-small');
         CREATE UNLOGGED TABLE \"default\" AS SELECT k, body FROM t;
         CREATE INDEX default_body_idx ON \"default\" USING distilface_hnsw (body);
         CREATE TABLE parted (k bigint, e embedding({DIMS})) PARTITION BY RANGE (k);
         CREATE TABLE part_a PARTITION OF parted FOR VALUES FROM (0) TO (200);
         CREATE TABLE part_b PARTITION OF parted FOR VALUES FROM (200) TO (10000);
         CREATE INDEX parted_e ON parted USING distilface_hnsw (e);
         ALTER INDEX part_a_e_idx RENAME TO part_a_e;
         INSERT INTO parted SELECT k, e FROM t;
         CREATE TABLE piped (k bigint PRIMARY KEY, body text);
         INSERT INTO piped SELECT k, body FROM t WHERE k < 50",
        rows.join(",")
    ));
    session.sql("CALL distilface_vectorize('piped', 'body', 'e', model => 'tiny')");
    session.sql("DELETE FROM t WHERE k % 9 = 4");
    session.sql("VACUUM t");
    let late = random_vector(1000, DIMS);
    session.sql(&format!("INSERT INTO t VALUES (1000, '{late}', 'the rarest word')"));
}

/// What each index answers, rows that are gone and that came late included.
fn answers(session: &mut Session) -> Vec<Vec<String>> {
    session.sql("SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off");
    let vector = random_vector(7_000, DIMS);
    let queries = [
        format!("SELECT k FROM t ORDER BY e <-> '{vector}' LIMIT 30"),
        "SELECT k FROM t ORDER BY g <=> distilface_embed_query('stone') LIMIT 30".to_owned(),
        format!("SELECT k FROM t WHERE k < 60 ORDER BY e <=> '{vector}' LIMIT 30"),
        "SELECT k FROM t ORDER BY body <=> 'stone' LIMIT 30".to_owned(),
        "SELECT k FROM t ORDER BY distilface_embed(body, 'tiny')::embedding(32) <=> distilface_embed('stone', 'tiny') LIMIT 30".to_owned(),
        "SELECT k FROM t WHERE body @@@ 'rarest' ORDER BY body <@> 'rarest' LIMIT 30".to_owned(),
        format!("SELECT k FROM t ORDER BY body <@> '{}' LIMIT 30", words(3, 9)),
        format!("SELECT k FROM u ORDER BY e <=> '{vector}' LIMIT 30"),
        "SELECT k FROM loaded ORDER BY body <=> 'stone' LIMIT 30".to_owned(),
        "SELECT k FROM builtin ORDER BY body <=> 'stone' LIMIT 30".to_owned(),
        "SELECT k FROM \"default\" ORDER BY body <=> 'stone' LIMIT 30".to_owned(),
        format!("SELECT k FROM parted ORDER BY e <=> '{vector}' LIMIT 30"),
        "SELECT k FROM piped ORDER BY e <=> distilface_embed('stone', 'tiny') LIMIT 30".to_owned(),
        "SELECT tableoid::regclass, ctid FROM distilface_search('t', 'rarest stone', columns => '{body}')".to_owned(),
    ];
    let found = queries.iter().map(|query| {
        let rows = session.rows(query);
        assert!(!rows.is_empty(), "{query}");
        rows.into_iter().flatten().flatten().collect()
    });
    let found = found.collect();
    session.sql("RESET enable_seqscan; RESET enable_sort; RESET enable_bitmapscan");
    found
}

#[test]
fn pg_upgrade_keeps_indexes_models_and_pipelines() {
    let newer = Cluster::builder().version(18).try_start();
    let (Some(old), true) = (Cluster::builder().version(16).try_start(), newer.is_some()) else {
        skip!("no PostgreSQL 16 and 18 here: `make reliability` makes both");
    };
    drop(newer);
    let mut session = old.session();
    let dir = TinyModel::seed(1).write(old.host());
    session.sql(&format!("SELECT distilface_model_load('tiny', '{}')", dir.display()));
    fill(&mut session);
    let expected = answers(&mut session);
    let vectors = "SELECT md5(string_agg(e::text || g::text, '' ORDER BY k)) FROM t";
    let bytes = session.one(vectors);
    let models = "SELECT name, revision FROM distilface.models ORDER BY name, revision";
    let known = session.rows(models);
    drop(session);

    let mut new = old.upgrade(18);
    let mut session = new.session();
    assert!(session.one("SELECT version()").contains("PostgreSQL 18"));
    assert_eq!(session.rows(models), known);
    assert_eq!(session.one(vectors), bytes);
    for index in INDEXES {
        session.assert_sound(index);
    }
    assert_eq!(answers(&mut session), expected);
    // All of them take writes and vacuum.
    session.sql(&format!(
        "INSERT INTO t VALUES (2000, '{0}', 'a newer word');
         UPDATE t SET body = body || ' newer' WHERE k < 30;
         DELETE FROM t WHERE k % 7 = 3;
         INSERT INTO u VALUES (2000, '{0}');
         INSERT INTO parted VALUES (150, '{0}');
         UPDATE piped SET body = 'a newer word' WHERE k = 7",
        random_vector(2_000, DIMS)
    ));
    session.sql("VACUUM (INDEX_CLEANUP on) t");
    for index in INDEXES {
        session.assert_sound(index);
    }
    session.sql("SET enable_seqscan = off");
    let nearest =
        "SELECT k FROM piped ORDER BY e <=> distilface_embed('a newer word', 'tiny') LIMIT 1";
    assert_eq!(session.one(nearest), "7");
    assert_eq!(session.one("SELECT count(*) FROM t WHERE body @@@ 'newer'"), {
        session.sql(
            "SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off",
        );
        session.one("SELECT count(*) FROM t WHERE body ~ 'newer'")
    });
    drop(session);
    new.kill9_and_restart();
    let mut session = new.session();
    session.sql("SELECT distilface_model_alias('default', 'tiny'); SET enable_seqscan = off");
    for (table, dimensions) in [("loaded", "32"), ("builtin", "384"), ("\"default\"", "32")] {
        let found = format!("SELECT k FROM {table} ORDER BY body <=> 'the cat'");
        assert_eq!(session.column(&found), Vec::<String>::new(), "a crash empties {table}");
        session
            .sql(&format!("INSERT INTO {table} VALUES (1, NULL), (2, 'a river'), (3, 'the cat')"));
        assert_eq!(session.column(&found), ["3", "2", "1"]);
        let index = format!("{}_body_idx", table.trim_matches('"'));
        session.assert_sound(&index);
        let info = format!("SELECT dimensions FROM distilface_index_info('{index}')");
        assert_eq!(session.one(&info), dimensions);
    }
}
