//! What happens to a pipeline: renames, drops, dumps, bad rows, cancels, other roles, other models.

use std::time::Duration;

use distilface_tests::{Cluster, Session};

fn docs(session: &mut Session, rows: usize) {
    session.sql(&format!(
        "CREATE TABLE docs (id int PRIMARY KEY, body text, views int DEFAULT 0);
         INSERT INTO docs SELECT i, 'the number ' || i || ' in a list' FROM generate_series(1, {rows}) i"
    ));
}

fn progress(session: &mut Session, table: &str) -> String {
    session.one(&format!(
        "SELECT state || ' ' || done || ' ' || pending || ' ' || failed FROM distilface.progress WHERE \"table\" = '{table}'::regclass"
    ))
}

#[test]
fn a_bad_row_is_noted_counted_and_tried_again() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 300);
    session.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN IF NEW.id IN (13, 14, 200) THEN RAISE 'not %', NEW.id USING ERRCODE = 'P0013'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION refuse();
         INSERT INTO docs VALUES (1000, '   '), (1001, NULL)",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', form => 'queue')");
    assert_eq!(progress(&mut session, "docs"), "live 297 0 3");
    assert_eq!(
        session.column("SELECT key || ' ' || sqlstate || ' ' || error || ' ' || attempts FROM distilface.failures ORDER BY key"),
        ["{13} P0013 not 13 1", "{14} P0013 not 14 1", "{200} P0013 not 200 1"]
    );
    session.sql("SELECT distilface_retry('docs')");
    assert_eq!(progress(&mut session, "docs"), "live 297 3 0");
    session.sql("CALL distilface_run('docs')");
    assert_eq!(session.column("SELECT DISTINCT attempts FROM distilface.failures"), ["2"]);
    session.sql("DROP TRIGGER refuse ON docs; SELECT distilface_retry('docs')");
    session.sql("CALL distilface_run('docs')");
    assert_eq!(progress(&mut session, "docs"), "live 300 0 0");
    assert_eq!(session.one("SELECT count(*) FROM distilface.failures"), "0");
    assert_eq!(session.stale("docs", "body", "e"), "0");
}

#[test]
fn renames_are_followed_and_drops_cleaned_up() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 20);
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("CALL distilface_vectorize('docs', 'body', 'q', form => 'queue')");
    session.sql(
        "ALTER TABLE docs RENAME body TO words; ALTER TABLE docs RENAME e TO vec; ALTER TABLE docs RENAME id TO nr;
         ALTER TABLE docs RENAME TO papers; CREATE SCHEMA s; ALTER TABLE papers SET SCHEMA s;
         UPDATE s.papers SET words = 'else' WHERE nr = 3; INSERT INTO s.papers VALUES (99, 'new')",
    );
    session.sql("CALL distilface_run()");
    assert_eq!(session.stale("s.papers", "words", "vec"), "0");
    assert_eq!(session.stale("s.papers", "words", "q"), "0");
    let error = session.error("ALTER TABLE s.papers DROP COLUMN words");
    assert_eq!(error.code.code(), "2BP01", "{error}");
    session.sql("ALTER TABLE s.papers DROP COLUMN vec CASCADE");
    assert_eq!(session.column("SELECT target FROM distilface.describe()"), ["q"]);
    session.sql("INSERT INTO s.papers VALUES (100, 'newer')");
    session.sql("DROP SCHEMA s CASCADE");
    for table in ["pipelines", "queue", "activity", "backfills", "failed_rows"] {
        assert_eq!(
            session.one(&format!("SELECT count(*) FROM distilface.{table}")),
            "0",
            "{table}"
        );
    }
}

#[test]
fn unvectorize_leaves_the_table_as_it_was() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 20);
    let shape = "SELECT string_agg(attname || attnotnull, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'docs'::regclass AND NOT attisdropped";
    let objects = "SELECT (SELECT count(*) FROM pg_trigger) || ' ' || (SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'i') AND relnamespace = 'public'::regnamespace)";
    let before = (session.one(shape), session.one(objects));
    session.sql("CALL distilface_vectorize('docs', 'body')");
    session.sql("CALL distilface_vectorize('docs', 'body', chunk_tokens => 32, form => 'queue')");
    session.sql("CALL distilface_vectorize('docs', 'body', 'g', form => 'generated')");
    let error = session.error("CALL distilface_vectorize('docs', 'body', 'g')");
    assert_eq!(error.code.code(), "42710", "{error}");
    assert_eq!(session.one("SELECT distilface_unvectorize('docs')"), "3");
    assert_eq!((session.one(shape), session.one(objects)), before);
    let error = session.error("SELECT distilface_unvectorize('docs')");
    assert_eq!(error.code.code(), "42704", "{error}");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("SELECT distilface_unvectorize('docs', keep_data => true)");
    assert_eq!(session.stale("docs", "body", "e"), "0", "the vectors stay as data");
}

#[test]
fn a_dump_restored_by_four_jobs_goes_on() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 60);
    session.sql(
        "ALTER TABLE docs ADD gone int; ALTER TABLE docs DROP gone; ALTER TABLE docs ADD note text",
    );
    for call in [
        "'docs', 'body', 'e'",
        "'docs', 'note', 'n', form => 'queue'",
        "'docs', 'body', 'parts', form => 'queue', chunk_tokens => 32",
        "'docs', 'body', 'g', form => 'generated'",
    ] {
        session.sql(&format!("CALL distilface_vectorize({call})"));
    }
    session.sql("UPDATE docs SET note = 'waits', body = body || ' waits' WHERE id <= 7");
    let file = cluster.host().join("dump");
    let made =
        cluster.program("pg_dump").args(["-Fc", "-Z0", "-d", "postgres", "-f"]).arg(&file).output();
    assert!(made.expect("pg_dump runs").status.success());
    cluster.sql("CREATE DATABASE restored TEMPLATE template0");
    let restored = cluster
        .program("pg_restore")
        .args(["-d", "restored", "--exit-on-error", "-j", "4"])
        .arg(&file)
        .output()
        .expect("pg_restore runs");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let mut there = cluster.session_as("postgres", "restored");
    assert_eq!(
        there.rows(
            "SELECT relation::text, source, target, keys, form, filled FROM distilface.describe()"
        ),
        session.rows(
            "SELECT relation::text, source, target, keys, form, filled FROM distilface.describe()"
        )
    );
    assert_eq!(there.one("SELECT count(*) FROM distilface.queue"), "14");
    there.sql("INSERT INTO docs (id, body, note) VALUES (1000, 'after the restore', 'a note')");
    there.sql("CALL distilface_run()");
    for (source, target) in [("body", "e"), ("note", "n"), ("body", "g")] {
        assert_eq!(there.stale("docs", source, target), "0", "{target}");
    }
    assert_eq!(there.one("SELECT count(*) FROM parts WHERE chunk ~ 'waits'"), "7");
    // The new pipeline's number is none that the dump brought.
    there.sql("CALL distilface_vectorize('docs', 'body', 'another')");
    assert_eq!(there.one("SELECT count(*) FROM distilface.describe()"), "5");
}

#[test]
fn a_canceled_fill_goes_on_where_it_was() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 3000);
    session.sql("SET distilface.backfill_batch_tokens = 512; SET distilface.backfill_rows_per_second = 2000");
    let canceler = session.canceler();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = cluster.session();
            while other.one("SELECT count(*) > 200 FROM pg_attribute a, LATERAL (SELECT count(*) FROM distilface.activity WHERE embedded > 200) n WHERE n.count > 0") != "t" {
                std::thread::sleep(Duration::from_millis(20));
            }
            canceler.cancel();
        });
        session.error("CALL distilface_vectorize('docs', 'body', 'e')")
    });
    assert_eq!(error.code.code(), "57014", "{error}");
    // PostgreSQL signals the backend and its process group: the second signal may come after the error,
    // and would cancel this session's next statement.
    let mut session = cluster.session();
    let half: u32 = session.one("SELECT count(e) FROM docs").parse().expect("a count");
    assert!((201..3000).contains(&half), "what was committed stays: {half}");
    // Writers go on meanwhile.
    session.sql("UPDATE docs SET body = 'changed' WHERE id IN (1, 2999); INSERT INTO docs VALUES (5000, 'new')");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    assert_eq!(session.stale("docs", "body", "e"), "0");
    let embedded: u32 =
        session.one("SELECT embedded FROM distilface.activity").parse().expect("a count");
    assert!(embedded <= 3000, "nothing is embedded twice: {embedded}");
}

/// The hole of pgai and others: a worker that read a text overwrites the vector of a newer one.
#[test]
fn rows_locked_or_changed_by_others_are_neither_waited_for_nor_lost() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 50);
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', form => 'queue')");
    session.sql("UPDATE docs SET body = body || ' once'");
    let mut other = cluster.session();
    other.sql("BEGIN; UPDATE docs SET body = body || ' twice' WHERE id <= 5; UPDATE docs SET views = 1 WHERE id BETWEEN 6 AND 10");
    let step = "SELECT * FROM distilface.step((SELECT id FROM distilface.pipelines))";
    session.sql(step);
    assert_eq!(session.one("SELECT count(*) FROM distilface.queue"), "10", "the locked ones wait");
    other.sql("COMMIT");
    session.sql("CALL distilface_run()");
    assert_eq!(session.one("SELECT count(*) FROM distilface.queue"), "0");
    assert_eq!(session.stale("docs", "body", "e"), "0");
}

#[test]
fn an_unchanged_text_is_not_embedded_again() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 10);
    session.sql("ALTER TABLE docs ALTER body SET STORAGE EXTERNAL; UPDATE docs SET body = repeat(body || '. ', 300)");
    session.sql("SET client_min_messages = error");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("CALL distilface_vectorize('docs', 'body', 'q', form => 'queue')");
    // A vector that no text has shows whether it was touched.
    session.sql("UPDATE docs SET e = distilface_embed('a mark')");
    session.sql("UPDATE docs SET views = views + 1; UPDATE docs SET body = body; UPDATE docs SET body = body || ''");
    assert_eq!(
        session.one("SELECT count(*) FROM docs WHERE e <=> distilface_embed('a mark') < 1e-6"),
        "10"
    );
    assert_eq!(session.one("SELECT count(*) FROM distilface.queue"), "0");
}

#[test]
fn a_partitioned_table_is_filled_and_followed() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (junk int, id int, body text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (100);
         CREATE TABLE docs_2 (body text, id int NOT NULL, junk int);
         ALTER TABLE docs ATTACH PARTITION docs_2 FOR VALUES FROM (100) TO (200);
         INSERT INTO docs (id, body) SELECT i, 'the number ' || i FROM generate_series(1, 199) i",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("CALL distilface_vectorize('docs', 'body', 'q', form => 'queue')");
    session.sql(
        "CREATE TABLE docs_3 PARTITION OF docs FOR VALUES FROM (200) TO (300);
         INSERT INTO docs (id, body) VALUES (250, 'late'); UPDATE docs SET body = 'moved' WHERE id IN (5, 150);
         UPDATE docs SET id = 260 WHERE id = 7",
    );
    session.sql("CALL distilface_run()");
    assert_eq!(session.stale("docs", "body", "e"), "0");
    assert_eq!(session.stale("docs", "body", "q"), "0");
}

/// Of the foreign key to a partitioned table there is a copy for each partition.
#[test]
fn the_chunks_of_a_partitioned_table_move_to_another_model() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
         CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (20);
         CREATE TABLE docs_2 PARTITION OF docs FOR VALUES FROM (20) TO (100);
         INSERT INTO docs SELECT i, 'the number ' || i FROM generate_series(1, 40) i",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'parts', chunk_tokens => 16)");
    let before = session.one("SELECT id FROM distilface.pipelines");
    session.sql("CALL distilface_revectorize('docs', 'distilface-small')");
    assert_ne!(session.one("SELECT id FROM distilface.pipelines"), before);
    session.sql("DELETE FROM docs WHERE id = 30; UPDATE docs SET id = 50 WHERE id = 10");
    assert_eq!(session.one("SELECT count(*) FROM parts JOIN docs USING (id)"), "39");
    assert_eq!(session.one("SELECT count(*) FROM parts"), "39");
    assert_eq!(session.stale("parts", "chunk", "e"), "0");
}

#[test]
fn a_table_moves_to_another_model_while_it_is_in_use() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 400);
    session.sql("CREATE TABLE judged (query text, key int, gain real); INSERT INTO judged VALUES ('number 77', 77, 1), ('the number 78 in a list', 78, 2)");
    for form in ["trigger", "queue"] {
        session.sql(&format!("CALL distilface_vectorize('docs', 'body', 'e', form => '{form}', index_options => 'm = 12')"));
        let before = session.one("SELECT id FROM distilface.pipelines");
        let writer = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut other = cluster.session();
                for i in 0..40 {
                    other.sql(&format!("UPDATE docs SET body = '{form} {i} text' WHERE id = {i} + 1; INSERT INTO docs VALUES ({i} + (SELECT max(id) + 1 FROM docs), 'one more')"));
                }
            });
            // The only model here: what matters is that every vector is computed anew.
            session.sql("SET distilface.backfill_batch_tokens = 512");
            let ndcg = session.rows(
                "CALL distilface_revectorize('docs', 'distilface-small', judgments => 'judged')",
            );
            assert!(ndcg[0].iter().all(Option::is_some), "{ndcg:?}");
            writer.join()
        });
        assert!(writer.is_ok());
        session.sql("CALL distilface_run('docs')");
        assert_ne!(
            session.one("SELECT id FROM distilface.pipelines"),
            before,
            "one pipeline, the new one"
        );
        assert_eq!(session.one("SELECT state FROM distilface.progress"), "live");
        assert_eq!(session.stale("docs", "body", "e"), "0");
        assert_eq!(
            session.one("SELECT relname || ' ' || reloptions::text FROM pg_class WHERE relname = 'docs_e_idx'"),
            "docs_e_idx {m=12}"
        );
        session.assert_sound("docs_e_idx");
        session.sql("SELECT distilface_unvectorize('docs')");
    }
}

#[test]
fn a_move_that_ends_early_leaves_the_old_state_whole() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 100);
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("SELECT distilface.shadow('docs', 'distilface-small', NULL)");
    // A view over the vectors forbids the swap.
    session.sql("CREATE VIEW near AS SELECT id, e FROM docs");
    let call = "CALL distilface_revectorize('docs', 'distilface-small')";
    assert_eq!(session.error(call).code.code(), "2BP01");
    session.sql("INSERT INTO docs VALUES (500, 'meanwhile')");
    assert_eq!(session.stale("docs", "body", "e"), "0", "the old vectors are kept fresh");
    assert_eq!(session.one("SELECT distilface_revectorize_abort('docs')"), "1");
    assert_eq!(session.column("SELECT target FROM distilface.describe()"), ["e"]);
    session.sql("DROP VIEW near");
    session.sql(call);
    assert_eq!(session.stale("docs", "body", "e"), "0");
    assert_eq!(session.column("SELECT target FROM distilface.describe()"), ["e"]);
}

#[test]
fn retrieval_is_measured_from_judgments() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'a cat'), (2, 'a dog'), (3, 'the sea')");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("CREATE TABLE judged (query text, key int, gain real); INSERT INTO judged VALUES ('a cat', 2, 3), ('a cat', 1, 1), ('a dog', 2, 1)");
    // a cat: found 1 then 2, (1 + 3/log2(3)) / (3 + 1/log2(3)); a dog: 1.
    let expected = (1.0 + (1.0 + 3.0 / 3f64.log2()) / (3.0 + 1.0 / 3f64.log2())) / 2.0;
    let got: f64 = session
        .one("SELECT ndcg FROM distilface_eval('docs', 'judged', 2)")
        .parse()
        .expect("a number");
    assert!((got - expected).abs() < 1e-9, "{got} {expected}");
    assert_eq!(session.one("SELECT queries || ' ' || recall || ' ' || mrr FROM distilface_eval('docs', 'judged', 2)"), "2 1 1");
}

#[test]
fn owners_see_and_do_their_own_only() {
    let cluster = Cluster::start();
    let mut admin = cluster.session();
    admin.sql("CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; CREATE SCHEMA a AUTHORIZATION alice; CREATE SCHEMA b AUTHORIZATION bob; GRANT USAGE ON SCHEMA a TO bob");
    let mut alice = cluster.session_as("alice", "postgres");
    let mut bob = cluster.session_as("bob", "postgres");
    alice.sql("CREATE TABLE a.docs (id int PRIMARY KEY, body text); INSERT INTO a.docs VALUES (1, 'one'); GRANT INSERT ON a.docs TO bob");
    alice.sql("CALL distilface_vectorize('a.docs', 'body', 'e', form => 'queue')");
    alice.sql("CALL distilface_vectorize('a.docs', 'body', 'parts', chunk_tokens => 32)");
    bob.sql("CREATE TABLE b.judged AS SELECT 'one' AS query, 1 AS key");
    // A writer needs no right but to write.
    bob.sql("INSERT INTO a.docs (id, body) VALUES (2, 'from bob')");
    assert_eq!(alice.one("SELECT count(*) FROM distilface.queue"), "1");
    assert_eq!(bob.one("SELECT count(*) FROM distilface.queue"), "0");
    assert_eq!(bob.one("SELECT count(*) FROM distilface.progress"), "0");
    for denied in [
        "CALL distilface_vectorize('a.docs', 'body', 'x')",
        "CALL distilface_run('a.docs')",
        "SELECT distilface_unvectorize('a.docs')",
        "SELECT distilface_retry('a.docs')",
        "SELECT distilface.as_owner('a.docs', 'owner_uninstall', '{}')",
        "SELECT * FROM distilface.step((SELECT min(id) FROM distilface.pipelines))",
        "INSERT INTO distilface.queue (pipeline, key) SELECT min(id), '{1}' FROM distilface.pipelines",
        "SELECT * FROM distilface.attempt(1)",
        "SELECT distilface.as_keeper('a.docs', 'keeper_forget', '{\"pipeline\": 1}')",
        "SELECT distilface_eval('a.docs', 'b.judged', target => 'e')",
    ] {
        assert_eq!(bob.error(denied).code.code(), "42501", "{denied}");
    }
    bob.sql("CALL distilface_run()");
    assert_eq!(admin.one("SELECT count(*) FROM distilface.pipelines"), "2");
    // What alice's own code runs as, when the superuser does her table's work.
    alice.sql(
        "CREATE TABLE a.seen (who text);
         CREATE FUNCTION a.spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO a.seen VALUES (current_user); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER spy AFTER UPDATE ON a.docs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION a.spy();
         CREATE FUNCTION a.leave() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('search_path', 'a', false); RETURN NEW; END $$;
         CREATE TRIGGER leave BEFORE UPDATE ON a.docs FOR EACH ROW EXECUTE FUNCTION a.leave()",
    );
    admin.sql("CALL distilface_run('a.docs')");
    assert_eq!(admin.column("SELECT DISTINCT who FROM a.seen"), ["alice"]);
    assert_ne!(admin.one("SHOW search_path"), "a");
    assert_eq!(alice.stale("a.docs", "body", "e"), "0");
}

/// The row of a pipeline named a view of alice's as its chunk table, or her cast made a key's text: a
/// superuser who only looked at the counts ran her function.
#[test]
fn who_looks_at_a_pipeline_lends_its_owner_no_rights() {
    let cluster = Cluster::start();
    let mut admin = cluster.session();
    admin.sql("CREATE ROLE alice LOGIN; CREATE SCHEMA a AUTHORIZATION alice");
    let mut alice = cluster.session_as("alice", "postgres");
    alice.sql(
        "CREATE TABLE a.ran (who text);
         CREATE TYPE a.grade AS ENUM ('a', 'b');
         CREATE FUNCTION a.told(a.grade) RETURNS text LANGUAGE plpgsql AS $$
           BEGIN INSERT INTO a.ran VALUES (current_user); RETURN 'a'; END $$;
         CREATE CAST (a.grade AS text) WITH FUNCTION a.told(a.grade) AS ASSIGNMENT;
         CREATE TABLE a.docs (id a.grade PRIMARY KEY, body text); INSERT INTO a.docs VALUES ('a', 'one');
         CREATE TABLE a.judged (query text, key a.grade); INSERT INTO a.judged VALUES ('one', 'a')",
    );
    alice.sql("CALL distilface_vectorize('a.docs', 'body', 'parts', form => 'queue', chunk_tokens => 16, build_index => 'none')");
    for denied in [
        "INSERT INTO distilface.pipelines SELECT * FROM distilface.pipelines",
        "UPDATE distilface.pipelines SET chunk_table = 'a.judged'",
        "DELETE FROM distilface.pipelines",
        "SELECT distilface.keeper_mark('a.docs', '{}')",
    ] {
        assert_eq!(alice.error(denied).code.code(), "42501", "{denied}");
    }
    // Through the keeper as well, a pipeline's chunks are in a table of its own.
    let foreign = "SELECT distilface.as_keeper('a.docs', 'keeper_add', '{\"form\": \"queue\", \"chunk_table\": \"a.judged\"}')";
    assert_eq!(alice.error(foreign).code.code(), "42809");
    // A rate that no time can be told from, too.
    alice.sql("UPDATE a.docs SET body = 'two'; UPDATE distilface.activity SET rows_per_second = 1e-300; TRUNCATE a.ran");
    admin.sql("SELECT * FROM distilface.progress; SELECT distilface_eval('a.docs', 'a.judged')");
    admin.sql("CALL distilface_run()");
    assert_eq!(admin.column("SELECT DISTINCT who FROM a.ran"), ["alice"]);
    // What keeps one table from being read is told in its own row, and hides no other.
    admin.sql("CREATE TABLE fine (body text); INSERT INTO fine VALUES ('x')");
    admin.sql("CALL distilface_vectorize('fine', 'body', 'e')");
    alice.sql("ALTER TABLE a.docs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY");
    assert_eq!(
        admin.column(
            "SELECT coalesce(done::text, last_error) FROM distilface.progress ORDER BY pipeline"
        ),
        ["table a.docs hides rows from its owner", "1"]
    );
}

#[test]
fn no_search_path_bends_it() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 20);
    session.sql(
        "CREATE SCHEMA evil;
         CREATE FUNCTION evil.trap(anyelement, anyelement) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
         CREATE OPERATOR evil.= (LEFTARG = anyelement, RIGHTARG = anyelement, PROCEDURE = evil.trap);
         CREATE FUNCTION evil.trap(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
         CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, PROCEDURE = evil.trap);
         CREATE OPERATOR evil.> (LEFTARG = int, RIGHTARG = int, PROCEDURE = evil.trap);
         CREATE FUNCTION evil.jsonb_build_object(VARIADIC text[]) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
         CREATE FUNCTION evil.pg_sleep(double precision) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$",
    );
    for (path, target) in [("''", "e1"), ("evil, pg_catalog, public", "e2")] {
        session.sql(&format!("SET search_path = {path}"));
        session.sql(&format!(
            "CALL public.distilface_vectorize('public.docs', 'body', '{target}', form => 'queue')"
        ));
        session.sql(&format!("CALL public.distilface_vectorize('public.docs', 'body', 'c{target}', chunk_tokens => 32)"));
        session.sql("UPDATE public.docs SET body = body || ' again'");
        session.sql("CALL public.distilface_run()");
        session.sql(&format!(
            "CALL public.distilface_revectorize('public.docs', 'distilface-small', '{target}')"
        ));
        session.sql(
            "SELECT * FROM distilface.progress; SELECT public.distilface_retry('public.docs')",
        );
        session.sql("RESET search_path");
        assert_eq!(session.stale("docs", "body", target), "0");
    }
}

#[test]
fn what_cannot_be_vectorized_says_why() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE bare (body text, n int); CREATE VIEW v AS SELECT * FROM bare; CREATE TABLE keyed (id int PRIMARY KEY, body text); CREATE TABLE forced (body text); ALTER TABLE forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY");
    for (call, code) in [
        ("'bare', 'nothing'", "42703"),
        ("'bare', 'n'", "42804"),
        ("'v', 'body'", "42809"),
        ("'forced', 'body'", "55000"),
        ("'bare', 'body', form => 'magic'", "22023"),
        ("'bare', 'body', form => 'queue'", "55000"),
        ("'bare', 'body', chunk_tokens => 32", "55000"),
        ("'bare', 'body', model => 'nobody'", "42704"),
        ("'bare', 'body', 'n'", "42804"),
        ("'bare', 'body', build_index => 'now'", "22023"),
        ("'bare', 'body', form => 'generated', chunk_tokens => 32", "22023"),
        ("'keyed', 'body', chunk_tokens => 1", "22023"),
        ("'keyed', 'body', chunk_tokens => 32, chunk_overlap => 32", "22023"),
    ] {
        let error = session.error(&format!("CALL distilface_vectorize({call})"));
        assert_eq!(error.code.code(), code, "{call}: {error}");
    }
    // Before anything is done: in a block, in one string with others, in a function.
    session.sql("CREATE FUNCTION atomic() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL distilface_vectorize('bare', 'body'); END $$");
    for (statements, code) in [
        ("BEGIN; CALL distilface_vectorize('bare', 'body')", "25001"),
        ("CALL distilface_vectorize('bare', 'body'); SELECT 1", "25001"),
        ("CALL distilface_revectorize('bare', 'x'); SELECT 1", "25001"),
        ("CALL distilface_run(); SELECT 1", "25001"),
        ("SELECT atomic()", "2D000"),
    ] {
        let error = cluster.error(statements);
        assert_eq!(error.code.code(), code, "{statements}: {error}");
    }
    assert_eq!(session.one("SELECT count(*) FROM distilface.pipelines"), "0");
}
