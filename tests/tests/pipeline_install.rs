//! What `distilface_vectorize` takes, what it refuses, and that what it made stays whole when its table
//! changes: chunk tables, owners, partitions, types that go.

use distilface_tests::{Cluster, Session, TinyModel};

/// Asserts that the call fails with the code and says what to do.
fn refused(session: &mut Session, code: &str, call: &str) -> String {
    let error = session.error(&format!("CALL distilface_vectorize({call})"));
    assert_eq!(error.code.code(), code, "{call}: {error}");
    assert!(error.hint.is_some(), "{call}: {error}");
    error.to_string()
}

fn load(cluster: &Cluster, session: &mut Session, name: &str, model: &TinyModel) {
    let dir = model.write(cluster.host());
    session.sql(&format!("SELECT distilface_model_load('{name}', '{}')", dir.display()));
}

fn pipelines(session: &mut Session) -> String {
    session.one("SELECT count(*) FROM distilface.pipelines")
}

/// A trigger that runs before the row is generated embedded the text of before.
#[test]
fn a_generated_text_is_embedded_as_it_is_or_refused() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, a text, body text GENERATED ALWAYS AS (a || ' on a sofa') STORED);
         INSERT INTO docs VALUES (1, 'a cat')",
    );
    refused(&mut session, "0A000", "'docs', 'body', 'e'");
    refused(&mut session, "0A000", "'docs', 'body', 'e', form => 'generated'");
    assert_eq!(pipelines(&mut session), "0");
    session.sql("CALL distilface_vectorize('docs', 'body', 'q', form => 'queue')");
    session.sql("CALL distilface_vectorize('docs', 'body', 'parts', chunk_tokens => 32)");
    session.sql("UPDATE docs SET a = 'a lion'; INSERT INTO docs VALUES (2, 'a dog')");
    session.sql("CALL distilface_run()");
    assert_eq!(session.stale("docs", "body", "q"), "0");
    assert_eq!(
        session.column("SELECT chunk FROM parts ORDER BY id"),
        ["a lion on a sofa", "a dog on a sofa"]
    );
}

#[test]
fn a_virtual_generated_text_is_refused() {
    let Some(cluster) = Cluster::builder().version(18).try_start() else {
        distilface_tests::skip!("no PostgreSQL 18 here");
    };
    let mut session = cluster.session();
    session.sql("CREATE TABLE docs (id int PRIMARY KEY, a text, body text GENERATED ALWAYS AS (a || ' x') VIRTUAL)");
    for form in ["trigger", "queue", "generated"] {
        refused(&mut session, "0A000", &format!("'docs', 'body', 'e', form => '{form}'"));
    }
}

/// A column of another model's vectors was taken as it was, so that two models were mixed in it.
#[test]
fn a_column_that_holds_vectors_is_not_taken_over() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
         CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (10);
         CREATE TABLE docs_2 PARTITION OF docs FOR VALUES FROM (10) TO (20);
         INSERT INTO docs SELECT i, 'the number ' || i FROM generate_series(1, 15) i",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("SELECT distilface_unvectorize('docs', keep_data => true); UPDATE docs SET e = NULL WHERE id <> 15; UPDATE docs SET body = 'changed'");
    let error = refused(&mut session, "55000", "'docs', 'body', 'e'");
    assert!(error.contains("SET e = NULL"), "{error}");
    assert_eq!(pipelines(&mut session), "0");
    session.sql("UPDATE docs SET e = NULL");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    assert_eq!(session.stale("docs", "body", "e"), "0");
}

#[test]
fn nobody_fills_the_column_between_the_look_and_the_pipeline() {
    let cluster = Cluster::start();
    let mut first = cluster.session();
    first.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text, e embedding(384));
         INSERT INTO docs VALUES (1, 'one')",
    );
    first.sql("BEGIN; UPDATE docs SET e = distilface_embed('another')");
    std::thread::scope(|scope| {
        let mut second = cluster.session();
        let pid = second.pid();
        let call = scope.spawn(move || refused(&mut second, "55000", "'docs', 'body', 'e'"));
        let waits = format!("SELECT wait_event_type FROM pg_stat_activity WHERE pid = {pid}");
        let mut watcher = cluster.session();
        while watcher.one(&waits) != "Lock" {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        first.sql("COMMIT");
        call.join().expect("the second session's call");
    });
}

/// What a chunk had beyond the model's length was in no vector, without a word.
#[test]
fn chunks_longer_than_the_model_reads_are_refused() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let prompts = Some(("query: ", "the house: "));
    load(&cluster, &mut session, "prompted", &TinyModel { prompts, ..TinyModel::seed(3) });
    session.sql("CREATE TABLE docs (id int PRIMARY KEY, body text)");
    for model in ["prompted", "distilface-small"] {
        let most: usize = session
            .one(&format!(
                "SELECT max_tokens - distilface_token_count(passage_prompt, name) + 2 FROM distilface.models WHERE name = '{model}'"
            ))
            .parse()
            .expect("a number");
        // The last word of a text that long counts, and that of a longer one does not.
        for (tokens, counts) in [(most, "t"), (most + 1, "f")] {
            let text = |last: &str| format!("repeat('the ', {}) || '{last}'", tokens - 3);
            let of = |last: &str| format!("distilface_embed({}, '{model}')", text(last));
            assert_eq!(
                session.one(&format!("SELECT distilface_token_count({}, '{model}')", text("cat"))),
                tokens.to_string()
            );
            assert_eq!(
                session.one(&format!("SELECT {} <> {}", of("cat"), of("dog"))),
                counts,
                "{model} {tokens}"
            );
        }
        session.sql(&format!("SELECT distilface_chunk('the cat', {most}, 0, '{model}')"));
        let more = most + 1;
        let error =
            session.error(&format!("SELECT distilface_chunk('the cat', {more}, 0, '{model}')"));
        assert_eq!(error.code.code(), "22023", "{error}");
        assert!(error.hint.expect("a hint").contains(&format!("at most {most} tokens")));
        let call = |tokens| {
            format!("'docs', 'body', 'parts', model => '{model}', chunk_tokens => {tokens}")
        };
        refused(&mut session, "22023", &call(more));
        session.sql(&format!("CALL distilface_vectorize({})", call(most)));
        session.sql("SELECT distilface_unvectorize('docs')");
    }
    let error = session.error("SELECT distilface_chunk('the cat', 257)");
    assert_eq!(error.code.code(), "22023", "of the default model as well: {error}");
}

/// It made a pipeline, and every later write of the text failed.
#[test]
fn a_cross_encoder_is_refused() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    load(&cluster, &mut session, "cross", &TinyModel { head: true, ..TinyModel::seed(4) });
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'the cat')",
    );
    for form in ["'trigger'", "'queue'", "'trigger', chunk_tokens => 16"] {
        let call = format!("'docs', 'body', 'x', model => 'cross', form => {form}");
        refused(&mut session, "42809", &call);
    }
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    let error = session.error("CALL distilface_revectorize('docs', 'cross')");
    assert_eq!(error.code.code(), "42809", "{error}");
    session.sql("UPDATE docs SET body = 'the dog'");
    assert_eq!(session.stale("docs", "body", "e"), "0");
}

/// The statements on a table of chunks named the table's own columns.
#[test]
fn chunks_are_found_by_whatever_the_key_is_called() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (id int, seq int, body text, PRIMARY KEY (seq, id));
         INSERT INTO docs SELECT i, -i, 'the number ' || i FROM generate_series(1, 5) i;
         CREATE TABLE plain (id int PRIMARY KEY, body text); INSERT INTO plain VALUES (1, 'one'), (2, 'two')",
    );
    for (table, target, form) in
        [("docs", "now", "trigger"), ("docs", "later", "queue"), ("plain", "of_plain", "trigger")]
    {
        session.sql(&format!("CALL distilface_vectorize('{table}', 'body', '{target}', form => '{form}', chunk_tokens => 32)"));
    }
    session.sql(
        "ALTER TABLE docs RENAME id TO nr; ALTER TABLE now RENAME key_seq TO place; ALTER TABLE plain RENAME id TO nr;
         CREATE SCHEMA s; ALTER TABLE docs SET SCHEMA s; ALTER TABLE now SET SCHEMA s;
         UPDATE s.docs SET body = 'other ' || nr WHERE nr < 3; INSERT INTO s.docs VALUES (9, 9, 'nine');
         DELETE FROM s.docs WHERE nr = 5; UPDATE s.docs SET nr = 40 WHERE nr = 4;
         UPDATE plain SET body = 'three' WHERE nr = 2; CREATE TABLE judged AS SELECT 'three' AS query, 2 AS key",
    );
    session.sql("CALL distilface_run()");
    let expected =
        ["1 -1 other 1", "2 -2 other 2", "3 -3 the number 3", "9 9 nine", "40 -4 the number 4"];
    for (chunks, seq) in [("s.now", "place"), ("later", "key_seq")] {
        let rows = format!("SELECT id || ' ' || {seq} || ' ' || chunk FROM {chunks} ORDER BY id");
        assert_eq!(session.column(&rows), expected);
    }
    assert_eq!(
        session.column("SELECT done || ' ' || pending FROM distilface.progress ORDER BY pipeline"),
        ["5 0", "5 0", "2 0"]
    );
    assert_eq!(session.one("SELECT mrr FROM distilface_eval('plain', 'judged')"), "1");
    // A fill finds what has its chunks already.
    session.sql("UPDATE distilface.pipelines SET filled = false; DELETE FROM distilface.backfills; UPDATE distilface.activity SET embedded = 0");
    session.sql("CALL distilface_run()");
    assert_eq!(session.one("SELECT sum(embedded) FROM distilface.activity"), "0");
}

#[test]
fn chunks_belong_to_who_owns_their_table() {
    let cluster = Cluster::start();
    let mut admin = cluster.session();
    admin.sql(
        "CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE carol; GRANT CREATE ON SCHEMA public TO alice, bob, carol; GRANT bob TO alice;
         CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'one'); ALTER TABLE docs OWNER TO alice",
    );
    let mut alice = cluster.session_as("alice", "postgres");
    alice.sql("CALL distilface_vectorize('docs', 'body', 'parts', chunk_tokens => 32)");
    let error = alice.error("ALTER TABLE parts OWNER TO bob");
    assert_eq!(error.code.code(), "42809", "{error}");
    alice.sql("ALTER TABLE docs OWNER TO bob");
    let mut bob = cluster.session_as("bob", "postgres");
    bob.sql("UPDATE docs SET body = 'two'; INSERT INTO docs VALUES (2, 'three')");
    assert_eq!(bob.column("SELECT chunk FROM parts ORDER BY id"), ["two", "three"]);
    admin.sql("REASSIGN OWNED BY bob TO carol; UPDATE docs SET body = 'four'");
    assert_eq!(
        admin.column("SELECT tableowner FROM pg_tables WHERE tablename IN ('docs', 'parts')"),
        ["carol", "carol"]
    );
    assert_eq!(admin.column("SELECT DISTINCT chunk FROM parts"), ["four"]);
}

#[test]
fn partitions_of_other_owners_are_refused() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE ROLE alice; CREATE TABLE docs (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
         CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (10); ALTER TABLE docs_1 OWNER TO alice",
    );
    refused(&mut session, "55000", "'docs', 'body', 'e'");
    session.sql("ALTER TABLE docs_1 OWNER TO postgres");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
}

/// The chunks of the row's new place met those of its old one on their way there.
#[test]
fn chunks_follow_a_row_to_another_partition() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (id int, lang text, body text, PRIMARY KEY (id, lang)) PARTITION BY LIST (lang);
         CREATE TABLE docs_en PARTITION OF docs FOR VALUES IN ('en');
         CREATE TABLE docs_de PARTITION OF docs FOR VALUES IN ('de');
         INSERT INTO docs VALUES (1, 'en', 'a cat'), (2, 'en', 'a dog'), (3, 'de', 'a fox'), (4, 'en', 'a cow')",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'now', chunk_tokens => 32)");
    session.sql(
        "CALL distilface_vectorize('docs', 'body', 'later', form => 'queue', chunk_tokens => 32)",
    );
    session.sql(
        "UPDATE docs SET lang = 'de' WHERE id = 1; UPDATE docs SET lang = 'de', body = 'a wolf' WHERE id = 2;
         CREATE TABLE docs_fr PARTITION OF docs FOR VALUES IN ('fr');
         UPDATE docs SET lang = 'fr', id = 30 WHERE id = 3; DELETE FROM docs WHERE id = 4; INSERT INTO docs VALUES (1, 'fr', 'a hen');
         UPDATE docs SET lang = CASE lang WHEN 'de' THEN 'en' ELSE 'de' END WHERE id = 1",
    );
    session.sql("CALL distilface_run()");
    for chunks in ["now", "later"] {
        assert_eq!(
            session.column(&format!(
                "SELECT id || ' ' || lang || ' ' || chunk FROM {chunks} ORDER BY id, lang"
            )),
            ["1 de a hen", "1 en a cat", "2 de a wolf", "30 fr a fox"]
        );
        assert_eq!(session.stale(chunks, "chunk", "e"), "0");
    }
}

/// Options that no index can have were found out after the whole fill, and could not be changed.
#[test]
fn index_options_are_checked_before_the_fill() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'one')",
    );
    for options in ["nonsense = 1", "m = 50, ef_construction = 20"] {
        for more in ["", ", form => 'queue'", ", chunk_tokens => 32", ", form => 'generated'"] {
            let call = format!(
                "CALL distilface_vectorize('docs', 'body', 'e', index_options => '{options}'{more})"
            );
            assert_eq!(session.error(&call).code.code(), "22023", "{call}");
        }
    }
    for no_options in
        ["m = 8) WHERE (false", "m = 8); DROP TABLE docs; --", "m", "storage = ''x\\''"]
    {
        refused(
            &mut session,
            "22023",
            &format!("'docs', 'body', 'e', index_options => '{no_options}'"),
        );
    }
    assert_eq!(pipelines(&mut session), "0");
    assert_eq!(session.one("SELECT count(*) FROM pg_class WHERE relname ~ 'probe'"), "0");
}

#[test]
fn a_repeated_call_changes_what_is_not_settled_and_refuses_the_rest() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'one')",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', index_options => 'm = 8', backfill => false)");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', index_options => 'm = 12, storage = plain')");
    assert_eq!(
        session.one("SELECT reloptions FROM pg_class WHERE relname = 'docs_e_idx'"),
        "{m=12,storage=plain}"
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'parts', chunk_tokens => 32, chunk_overlap => 4)");
    for (call, named) in [
        ("'e', index_options => 'm = 8'", "index_options"),
        ("'e', build_index => 'none'", "build_index"),
        ("'e', chunk_tokens => 32", "form"),
        ("'parts', chunk_tokens => 64", "chunk_tokens"),
        ("'parts', chunk_tokens => 32, chunk_overlap => 8", "chunk_overlap"),
    ] {
        let error = refused(&mut session, "42710", &format!("'docs', 'body', {call}"));
        assert!(error.contains(named), "{call}: {error}");
    }
    // What is left out, or said again, is no other.
    for call in [
        "'e'",
        "'e', index_options => 'm=12,storage=plain', build_index => 'after'",
        "'parts'",
        "'parts', chunk_tokens => 32",
    ] {
        session.sql(&format!("CALL distilface_vectorize('docs', 'body', {call})"));
    }
    assert_eq!(pipelines(&mut session), "2");
}

#[test]
fn a_pipeline_goes_with_its_table_or_column_whatever_takes_it() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    load(&cluster, &mut session, "tiny", &TinyModel::seed(7));
    session.sql(
        "CREATE DOMAIN words AS text; CREATE TABLE docs (id int PRIMARY KEY, body words);
         INSERT INTO docs VALUES (1, 'the cat')",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', model => 'tiny')");
    session.sql("DROP DOMAIN words CASCADE");
    assert_eq!(pipelines(&mut session), "0");
    assert_eq!(
        session.one("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs'::regclass"),
        "0"
    );

    // A temporary table is in no dump, and takes its pipeline along without a word.
    let mut short = cluster.session();
    short.sql("CREATE TEMP TABLE brief (body text); INSERT INTO brief VALUES ('the cat')");
    short.sql("CALL distilface_vectorize('brief', 'body', 'e', model => 'tiny')");
    short.sql("CREATE TABLE kept (body text)");
    short.sql("CALL distilface_vectorize('kept', 'body', 'e')");
    cluster.restore(&cluster.dump("postgres"), "restored");
    let mut restored = cluster.session_as("postgres", "restored");
    assert_eq!(restored.column("SELECT relation FROM distilface.pipelines"), ["kept"]);
    let pid = short.pid();
    drop(short);
    while session.one(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")) != "0" {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(pipelines(&mut session), "2");
    // As where another table got the number of the one that is gone.
    let reused = "CREATE TABLE later (id int);
        UPDATE distilface.pipelines SET relation = 'later'::regclass WHERE model = 'tiny'";
    for number_is in ["", reused] {
        session.sql(&format!(
            "BEGIN; {number_is}; SELECT distilface_model_drop('tiny');
             DO $$ BEGIN ASSERT (SELECT count(*) = 1 FROM distilface.pipelines); END $$; ROLLBACK"
        ));
    }
    session.sql("SELECT distilface_model_drop('tiny')");
    assert_eq!(session.column("SELECT relation FROM distilface.pipelines"), ["kept"]);
}

#[test]
fn keep_data_keeps_a_generated_column() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE docs (body text); INSERT INTO docs VALUES ('one'), ('two')");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', form => 'generated')");
    session.sql("SELECT distilface_unvectorize('docs', 'e', keep_data => true)");
    assert_eq!(session.stale("docs", "body", "e"), "0");
    session.sql("UPDATE docs SET e = NULL");
    assert_eq!(session.one("SELECT count(e) FROM docs"), "0", "a plain column now");
}

/// A dump checks a domain when the rows come, before the loaded models do.
#[test]
fn constraints_of_domains_take_built_in_models_only() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    load(&cluster, &mut session, "tiny", &TinyModel::seed(8));
    session.sql("CREATE DOMAIN plain AS text");
    let check = "CHECK (distilface_embed(VALUE, 'tiny') IS NOT NULL)";
    for statement in
        [format!("CREATE DOMAIN d AS text {check}"), format!("ALTER DOMAIN plain ADD {check}")]
    {
        let error = session.error(&statement);
        assert_eq!(error.code.code(), "0A000", "{error}");
        assert!(error.message.contains("of domain"), "{error}");
    }
    session.sql(
        "CREATE DOMAIN fine AS text CHECK (distilface_embed(VALUE, 'distilface-small') IS NOT NULL);
         CREATE TABLE docs (body fine); INSERT INTO docs VALUES ('one')",
    );
    cluster.restore(&cluster.dump("postgres"), "restored");
    let mut restored = cluster.session_as("postgres", "restored");
    assert_eq!(restored.one("SELECT count(*) FROM docs"), "1");
}

#[test]
fn arguments_that_say_nothing_are_refused() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE docs (id int PRIMARY KEY, body text)");
    for (call, code) in [
        ("NULL, 'body'", "22004"),
        ("'docs', NULL", "22004"),
        ("'docs', 'body', form => NULL", "22004"),
        ("'docs', 'body', backfill => NULL", "22004"),
        ("'docs', ''", "22023"),
        ("'docs', 'body', ''", "22023"),
        ("'docs', 'body', chunk_overlap => 8", "22023"),
    ] {
        refused(&mut session, code, call);
    }
    for call in [
        "distilface_retry(NULL)",
        "distilface_unvectorize(NULL)",
        "distilface_unvectorize('docs', keep_data => NULL)",
    ] {
        let error = session.error(&format!("SELECT {call}"));
        assert_eq!(error.code.code(), "22004", "{call}: {error}");
        assert!(error.hint.is_some(), "{call}: {error}");
    }
    assert_eq!(pipelines(&mut session), "0");
}

#[test]
fn a_table_of_chunks_lasts_as_its_table_does() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE UNLOGGED TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'one')");
    session.sql("CALL distilface_vectorize('docs', 'body', 'parts', chunk_tokens => 32)");
    assert_eq!(session.one("SELECT relpersistence FROM pg_class WHERE relname = 'parts'"), "u");
    assert_eq!(session.one("SELECT chunk FROM parts"), "one");
    session.sql("CREATE TEMP TABLE brief (id int PRIMARY KEY, body text)");
    refused(&mut session, "42809", "'brief', 'body', chunk_tokens => 32");
}
