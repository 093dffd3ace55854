//! `distilface_vectorize`: a table keeps itself embedded, in each form.

use distilface_tests::Cluster;

#[test]
fn the_trigger_form_embeds_in_the_writing_transaction() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (body text, views int DEFAULT 0);
         INSERT INTO docs SELECT 'report number ' || i FROM generate_series(1, 300) i;
         INSERT INTO docs VALUES (NULL), ('  ')",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    assert_eq!(session.stale("docs", "body", "e"), "0");
    assert_eq!(session.one("SELECT count(e) FROM docs"), "300", "a table without a key, too");
    session.assert_sound("docs_e_idx");
    session.sql(
        "INSERT INTO docs VALUES ('a new one'), ('another');
         UPDATE docs SET body = 'changed' WHERE body = 'another';
         UPDATE docs SET body = NULL WHERE body = 'report number 7';
         UPDATE docs SET views = views + 1",
    );
    assert_eq!(session.stale("docs", "body", "e"), "0");
    // Calling again is no harm.
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    assert_eq!(session.one("SELECT count(*) FROM distilface.describe('docs')"), "1");
}

#[test]
fn the_queue_form_leaves_the_work_to_a_run() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    // Names that need quotes, two key columns, one of a type whose text depends on settings.
    session.sql(
        r#"CREATE TABLE "My Docs" ("Id" text, day date, "Body" varchar(500), PRIMARY KEY ("Id", day));
           INSERT INTO "My Docs" SELECT 'k"' || i, date '2020-01-01' + i, 'the number ' || i FROM generate_series(1, 300) i"#,
    );
    session.sql(r#"CALL distilface_vectorize('"My Docs"', 'Body', 'The Vector', form => 'queue')"#);
    assert_eq!(session.stale("\"My Docs\"", "\"Body\"", "\"The Vector\""), "0");
    session.sql(
        r#"SET datestyle = 'SQL, DMY';
           UPDATE "My Docs" SET "Body" = "Body" || ' again' WHERE day < '01/03/2020';
           UPDATE "My Docs" SET "Body" = "Body" || ' and again' WHERE day < '01/03/2020';
           INSERT INTO "My Docs" VALUES ('new', '02/03/2024', 'fresh'), ('blank', '02/03/2024', '');
           DELETE FROM "My Docs" WHERE "Id" = 'k"1'"#,
    );
    assert_ne!(session.one("SELECT count(*) FROM distilface.queue"), "0");
    session.sql("CALL distilface_run()");
    assert_eq!(session.one("SELECT count(*) FROM distilface.queue"), "0");
    assert_eq!(session.stale("\"My Docs\"", "\"Body\"", "\"The Vector\""), "0");
}

#[test]
fn chunks_follow_their_row() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (id bigint PRIMARY KEY, body text);
         INSERT INTO docs SELECT i, string_agg('Sentence ' || j || ' about the weather in town ' || i || '.', ' ')
           FROM generate_series(1, 20) i, generate_series(1, 40) j GROUP BY 1",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', chunk_tokens => 64)");
    session.sql(
        "CALL distilface_vectorize('docs', 'body', 'later', form => 'queue', chunk_tokens => 64)",
    );
    session.sql(
        "UPDATE docs SET body = 'short' WHERE id = 3; DELETE FROM docs WHERE id = 4;
         INSERT INTO docs VALUES (21, 'one more'), (22, ' '), (23, NULL); UPDATE docs SET id = 100 WHERE id = 5",
    );
    session.sql("CALL distilface_run('docs')");
    for chunks in ["docs_chunks", "later"] {
        // Without overlap the chunks are the text.
        let whole = format!(
            "SELECT count(*) FROM docs d LEFT JOIN (SELECT id, string_agg(chunk, '' ORDER BY seq) AS body FROM {chunks} GROUP BY id) c
               USING (id) WHERE CASE WHEN btrim(d.body) <> '' THEN c.body IS DISTINCT FROM d.body ELSE c.body IS NOT NULL END"
        );
        assert_eq!(session.one(&whole), "0", "{chunks}");
        assert_eq!(session.one(&format!("SELECT count(*) FROM {chunks} WHERE id = 3")), "1");
        assert_eq!(session.one(&format!("SELECT count(*) FROM {chunks} WHERE id IN (4, 5)")), "0");
        assert_eq!(session.stale(chunks, "chunk", "e"), "0");
        session.assert_sound(&format!("{chunks}_e_idx"));
    }
}

#[test]
fn a_generated_column_is_one_rewrite() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE docs (body text); INSERT INTO docs VALUES ('one'), ('two'), (NULL)");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', form => 'generated')");
    session.sql("UPDATE docs SET body = 'three' WHERE body = 'one'");
    assert_eq!(session.stale("docs", "body", "e"), "0");
    session.assert_sound("docs_e_idx");
}

#[test]
fn two_sessions_that_finish_a_pipeline_build_one_index() {
    let cluster = Cluster::start();
    let mut first = cluster.session();
    first.sql("CREATE TABLE docs (body text); INSERT INTO docs VALUES ('one'), ('two')");
    first.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    // As it is between the last row and the index.
    first.sql(
        "DROP INDEX docs_e_idx; UPDATE distilface.pipelines SET filled = false, made_index = false",
    );
    let id = first.one("SELECT id FROM distilface.pipelines");
    let step = format!("SELECT filled FROM distilface.step({id})");
    first.sql("BEGIN");
    assert_eq!(first.one(&step), "t");
    std::thread::scope(|scope| {
        let mut second = cluster.session();
        let pid = second.pid();
        let waiting = scope.spawn(move || second.one(&step));
        let mut watcher = cluster.session();
        while watcher
            .one(&format!("SELECT wait_event_type FROM pg_stat_activity WHERE pid = {pid}"))
            != "Lock"
        {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        first.sql("COMMIT");
        assert_eq!(waiting.join().expect("the second session's step"), "t");
    });
    assert_eq!(first.one("SELECT count(*) FROM pg_index WHERE indrelid = 'docs'::regclass"), "1");
    first.assert_sound("docs_e_idx");
}

#[test]
fn names_and_keys_may_be_in_any_encoding_of_a_database() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    );
    cluster.sql("CREATE ROLE other");
    let mut session = cluster.session_as("postgres", "latin");
    session.sql(
        r#"CREATE EXTENSION distilface;
           CREATE TABLE "Bücher" ("Schlüssel" text PRIMARY KEY, "für" text);
           INSERT INTO "Bücher" VALUES ('é', 'a cat'), ('ü', 'ein Hund, schön')"#,
    );
    session.sql(r#"CALL distilface_vectorize('"Bücher"', 'für', 'Vektör', form => 'queue')"#);
    session.sql(
        r#"CALL distilface_vectorize('"Bücher"', 'für', 'Stücke', chunk_tokens => 16, build_index => 'none')"#,
    );
    session.sql(r#"UPDATE "Bücher" SET "für" = 'ein schöner Käfer' WHERE "Schlüssel" = 'é'"#);
    session.sql(r#"CALL distilface_run('"Bücher"')"#);
    assert_eq!(session.one("SELECT count(*) FROM distilface.queue"), "0");
    assert_eq!(session.stale(r#""Bücher""#, r#""für""#, r#""Vektör""#), "0");
    assert_eq!(
        session.one(r#"SELECT chunk FROM "Stücke" WHERE "Schlüssel" = 'é'"#),
        "ein schöner Käfer"
    );
    // In messages of our own they are written as PostgreSQL reads them, U&"…".
    session.sql("SET ROLE other");
    let error = session.error(r#"SELECT distilface_unvectorize('"Bücher"')"#);
    assert_eq!(error.code.code(), "42501");
    assert!(error.message.ends_with(r#""B\00FCcher""#), "{}", error.message);
}
