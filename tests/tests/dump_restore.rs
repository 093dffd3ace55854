//! Test 25 and promise 8: what `pg_dump` wrote comes back, with indexes that answer.

use std::fs;
use std::os::unix::fs::FileExt;

use distilface_tests::{Cluster, DIMS, Session, random_vector, words};

fn fill(session: &mut Session) {
    let rows: Vec<String> =
        (0..300).map(|k| format!("({k}, '{}', '{}')", words(k, 8), random_vector(k, 16))).collect();
    session.sql(&format!(
        "CREATE TABLE docs (k int PRIMARY KEY, body text, e embedding(16));
         INSERT INTO docs VALUES {};
         CREATE INDEX docs_e ON docs USING distilface_hnsw (e embedding_l2_ops) WITH (m = 12, ef_construction = 80);
         CREATE TABLE texts (k int PRIMARY KEY, body text, e embedding(384));
         INSERT INTO texts SELECT k, body, distilface_embed(body) FROM docs WHERE k < 40;
         CREATE INDEX texts_e ON texts USING distilface_hnsw (e)",
        rows.join(",")
    ));
}

fn answers(session: &mut Session) -> Vec<Vec<String>> {
    // Enough candidates for every answer to be the exact one, whatever the graph.
    session.sql("SET enable_seqscan = off; SET distilface.ef_search = 400");
    let mut queries: Vec<String> = (0..20)
        .map(|q| {
            format!("SELECT k FROM docs ORDER BY e <-> '{}' LIMIT 5", random_vector(1000 + q, 16))
        })
        .collect();
    queries.push(
        "SELECT k FROM texts ORDER BY e <=> distilface_embed_query('river stone') LIMIT 5"
            .to_owned(),
    );
    queries.iter().map(|query| session.column(query)).collect()
}

#[test]
fn a_dump_brings_back_vectors_options_and_answers() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session);
    let dump = cluster.dump("postgres");
    cluster.restore(&dump, "restored");
    let mut restored = cluster.session_as("postgres", "restored");
    let rows = "SELECT k, e::text FROM docs ORDER BY k";
    assert_eq!(restored.rows(rows), session.rows(rows));
    assert_eq!(answers(&mut restored), answers(&mut session));
    let options = restored
        .one("SELECT array_to_string(reloptions, ' ') FROM pg_class WHERE relname = 'docs_e'");
    assert_eq!(options, "m=12 ef_construction=80");
    for index in ["docs_e", "texts_e"] {
        restored.assert_sound(index);
    }
}

/// A dump of a dump is the same text: nothing of ours depends on the moment of the restore.
#[test]
fn a_second_dump_equals_the_first() {
    let cluster = Cluster::start();
    fill(&mut cluster.session());
    let first = cluster.dump("postgres");
    cluster.restore(&first, "restored");
    let second = cluster.dump("restored");
    assert_eq!(without_tokens(&second), without_tokens(&first));
}

/// Newer minor versions of pg_dump write `\restrict` with a random token.
fn without_tokens(dump: &str) -> Vec<&str> {
    dump.lines()
        .filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict"))
        .collect()
}

#[test]
fn a_binary_file_survives_pg_restore() {
    let cluster = Cluster::start();
    fill(&mut cluster.session());
    let file = cluster.host().join("dump");
    let made = cluster.program("pg_dump").args(["-Fc", "-d", "postgres", "-f"]).arg(&file).output();
    assert!(made.expect("pg_dump runs").status.success());
    cluster.sql("CREATE DATABASE restored TEMPLATE template0");
    let restored = cluster
        .program("pg_restore")
        .args(["-d", "restored", "--exit-on-error", "-j", "2"])
        .arg(&file)
        .output();
    let restored = restored.expect("pg_restore runs");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let mut there = cluster.session_as("postgres", "restored");
    assert_eq!(
        there.rows("SELECT k, e::text FROM docs ORDER BY k"),
        cluster.rows("SELECT k, e::text FROM docs ORDER BY k")
    );
}

/// Promise 8: an index that this version cannot read is an error that says what to run, and that then works.
#[test]
fn an_index_of_another_format_version_says_reindex() {
    let mut cluster = Cluster::start();
    cluster.vector_table();
    cluster.insert_vectors(0..500);
    cluster.sql("CREATE INDEX t_e ON t USING distilface_hnsw (e); CHECKPOINT");
    let before = cluster.nearest(0, 20);
    let file = cluster.one("SELECT pg_relation_filepath('t_e')");
    cluster.stop();

    // docs/on-disk-format.md: the version is byte 4 of the metapage's content, which follows PostgreSQL's 24.
    let path = cluster.data().join(file);
    let relation = fs::OpenOptions::new().write(true).open(&path).expect("the index has a file");
    relation.write_at(&[255], 24 + 4).expect("a byte can be written");
    cluster.restart();

    let search = format!(
        "SET enable_seqscan = off; SELECT k FROM t ORDER BY e <=> '{}' LIMIT 1",
        random_vector(1, DIMS)
    );
    for statement in [
        &*search,
        "INSERT INTO t SELECT -1, e FROM t LIMIT 1",
        "SELECT * FROM distilface_index_info('t_e')",
    ] {
        let error = cluster.error(statement);
        assert_eq!(error.code.code(), "XX002", "{statement}: {error}");
        assert!(error.hint.as_ref().is_some_and(|h| h.contains("REINDEX")), "{statement}: {error}");
    }
    cluster.sql("REINDEX INDEX t_e");
    assert_eq!(cluster.nearest(0, 20), before);
    cluster.assert_sound("t_e");
}
