//! A fill is over when no row is left without its vector, whatever happens to rows, partitions and sessions
//! meanwhile; and what could not be filled is told truly.

use std::time::Duration;

use distilface_tests::{Cluster, Session, TinyModel};

fn docs(session: &mut Session, rows: usize) {
    session.sql(&format!(
        "CREATE TABLE docs (id int PRIMARY KEY, body text, other text DEFAULT 'x');
         INSERT INTO docs SELECT i, 'the number ' || i || ' in a list' FROM generate_series(1, {rows}) i"
    ));
}

/// State, done, pending and failed of a table's pipelines.
fn progress(session: &mut Session, table: &str) -> Vec<String> {
    session.column(&format!(
        "SELECT state || ' ' || done || ' ' || pending || ' ' || failed FROM distilface.progress
         WHERE \"table\" = '{table}'::regclass ORDER BY pipeline"
    ))
}

/// Waits until a query gives `t`.
fn wait_until(session: &mut Session, query: &str) {
    for _ in 0..2400 {
        if session.one(query) == "t" {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("{query} never came true");
}

/// An update of another column moved rows to a page that the fill had passed; they never got a vector, and
/// progress said that none was pending.
#[test]
fn a_row_that_moves_behind_the_fill_is_filled() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("SET distilface.backfill_batch_tokens = 1024");
    for (form, chunks, lacking) in [
        ("trigger", "NULL", "e IS NULL"),
        ("queue", "NULL", "e IS NULL"),
        ("trigger", "16", "NOT EXISTS (SELECT FROM e WHERE e.id = docs.id)"),
    ] {
        docs(&mut session, 300);
        session.sql("UPDATE docs SET body = body || repeat(' of many words', 6)");
        session.sql("VACUUM FULL docs");
        let call = format!(
            "CALL distilface_vectorize('docs', 'body', 'e', form => '{form}', chunk_tokens => {chunks}, build_index => 'none'"
        );
        session.sql(&format!("{call}, backfill => false)"));
        for _ in 0..3 {
            session.sql("SELECT distilface.step(id) FROM distilface.pipelines");
        }
        session.sql("DELETE FROM docs WHERE id <= 20");
        session.sql("VACUUM docs");
        session.sql("UPDATE docs SET other = 'y' WHERE id BETWEEN 250 AND 260");
        let passed = session.one(&format!(
            "SELECT count(*) FROM docs WHERE {lacking} AND ctid < (SELECT place FROM distilface.backfills)"
        ));
        assert_ne!(passed, "0", "{form} {chunks}: rows lie behind the fill");
        session.sql(&format!("{call})"));
        assert_eq!(session.one(&format!("SELECT count(*) FROM docs WHERE {lacking}")), "0");
        assert_eq!(progress(&mut session, "docs"), ["live 280 0 0"], "{form} {chunks}");
        session.sql("DROP TABLE docs CASCADE; DROP TABLE IF EXISTS e");
    }
}

#[test]
fn a_vector_that_is_taken_away_is_made_again_or_told_as_pending() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 30);
    session.sql("INSERT INTO docs VALUES (31, '  '), (32, NULL)");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("UPDATE docs SET e = NULL WHERE id <= 10");
    assert_eq!(session.stale("docs", "body", "e"), "0", "the trigger makes it again");
    let untriggered = "ALTER TABLE docs DISABLE TRIGGER USER; UPDATE docs SET e = NULL WHERE id <= 7; ALTER TABLE docs ENABLE TRIGGER USER";
    for heal in ["CALL distilface_run('docs')", "CALL distilface_vectorize('docs', 'body', 'e')"] {
        session.sql(untriggered);
        assert_eq!(progress(&mut session, "docs"), ["live 23 7 0"]);
        session.sql(heal);
        assert_eq!(progress(&mut session, "docs"), ["live 30 0 0"], "{heal}");
        assert_eq!(session.stale("docs", "body", "e"), "0");
    }
    session.sql("SELECT distilface_unvectorize('docs')");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', form => 'queue')");
    session.sql("UPDATE docs SET e = NULL WHERE id <= 10");
    assert_eq!(progress(&mut session, "docs"), ["live 20 10 0"]);
    session.sql("CALL distilface_run()");
    assert_eq!(session.stale("docs", "body", "e"), "0");
}

/// An index that was dropped on purpose came back with every look.
#[test]
fn filling_again_builds_no_second_index() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 10);
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("DROP INDEX docs_e_idx; ALTER TABLE docs DISABLE TRIGGER USER; UPDATE docs SET e = NULL; ALTER TABLE docs ENABLE TRIGGER USER");
    session.sql("CALL distilface_run('docs')");
    assert_eq!(session.stale("docs", "body", "e"), "0");
    assert_eq!(session.one("SELECT to_regclass('docs_e_idx') IS NULL"), "t");
}

/// A row whose UPDATE a trigger swallowed counted as done.
#[test]
fn a_row_that_takes_no_vector_is_a_failure() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 20);
    session.sql(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id IN (3, 4) THEN RETURN NULL; END IF; RETURN NEW; END $$;
         CREATE TRIGGER swallow BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION swallow()",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql(
        "CALL distilface_vectorize('docs', 'body', 'parts', chunk_tokens => 16, backfill => false)",
    );
    session.sql(
        "CREATE TRIGGER swallow BEFORE INSERT ON parts FOR EACH ROW EXECUTE FUNCTION swallow()",
    );
    session.sql("CALL distilface_run()");
    assert_eq!(progress(&mut session, "docs"), ["live 18 0 2", "live 18 0 2"]);
    assert_eq!(
        session.column(
            "SELECT key || ' ' || sqlstate FROM distilface.failures ORDER BY pipeline, key"
        ),
        ["{3} 09000", "{4} 09000", "{3} 09000", "{4} 09000"]
    );
    session.sql("DROP FUNCTION swallow() CASCADE; SELECT distilface_retry('docs')");
    session.sql("CALL distilface_run()");
    assert_eq!(progress(&mut session, "docs"), ["live 20 0 0", "live 20 0 0"]);
}

/// Combining marks alone are text to a regular expression and nothing to a tokenizer; a nondeterministic
/// collation knows no regular expressions.
#[test]
fn blank_is_what_the_model_finds_nothing_in() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE docs (id int PRIMARY KEY, body text COLLATE loose);
         INSERT INTO docs VALUES (1, repeat(U&'\\0301', 500)), (2, 'a cat'), (3, E' \\t\\n'), (4, NULL), (5, U&'\\200B')",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'parts', chunk_tokens => 16)");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', backfill => false)");
    assert_eq!(progress(&mut session, "docs"), ["live 1 0 0", "filling 0 1 0"]);
    session.sql("CALL distilface_run('docs')");
    assert_eq!(progress(&mut session, "docs"), ["live 1 0 0", "live 1 0 0"]);
}

#[test]
fn an_attached_partition_is_filled() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
         CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (100);
         INSERT INTO docs SELECT i, 'the number ' || i FROM generate_series(1, 20) i",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql(
        "CREATE TABLE docs_2 (LIKE docs INCLUDING ALL); INSERT INTO docs_2 (id, body) SELECT i, 'the number ' || i FROM generate_series(101, 120) i;
         ALTER TABLE docs ATTACH PARTITION docs_2 FOR VALUES FROM (100) TO (200)",
    );
    assert_eq!(progress(&mut session, "docs"), ["live 20 20 0"]);
    assert_eq!(
        session.one("SELECT distilface.with_work() = array_agg(id) FROM distilface.pipelines"),
        "t"
    );
    session.sql("CALL distilface_run()");
    assert_eq!(session.stale("docs", "body", "e"), "0");
    assert_eq!(session.one("SELECT distilface.with_work()"), "{}");
    // It comes back with other rows.
    session.sql(
        "ALTER TABLE docs DETACH PARTITION docs_2; TRUNCATE docs_2; INSERT INTO docs_2 (id, body) VALUES (199, 'another');
         ALTER TABLE docs ATTACH PARTITION docs_2 FOR VALUES FROM (100) TO (200)",
    );
    session.sql("CALL distilface_run()");
    assert_eq!(session.stale("docs", "body", "e"), "0");
    // An empty one costs one look.
    session.sql("CREATE TABLE docs_3 PARTITION OF docs FOR VALUES FROM (200) TO (300)");
    assert_eq!(
        session.one("SELECT again FROM distilface.step((SELECT id FROM distilface.pipelines))"),
        "f"
    );
    assert_eq!(session.one("SELECT distilface.with_work()"), "{}");
}

/// Keys were told by a cast to text here and by the types' output there: a row that waited was counted as
/// done.
#[test]
fn a_waiting_row_is_known_by_any_key_in_any_settings() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (yes boolean, five char(5), at timestamptz, raw bytea, price money, ip inet, body text,
           PRIMARY KEY (yes, five, at, raw, price, ip));
         INSERT INTO docs VALUES (true, 'ab', '2024-02-03 04:05:06+00', '\\xdead', '1234.5', '10.0.0.1', 'a cat')",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', form => 'queue')");
    session.sql(
        "CALL distilface_vectorize('docs', 'body', 'parts', form => 'queue', chunk_tokens => 16)",
    );
    session.sql(
        "SET timezone = 'Asia/Tokyo'; SET bytea_output = 'escape'; SET datestyle = 'SQL, DMY'; UPDATE docs SET body = 'a dog'",
    );
    let mut other = cluster.session();
    assert_eq!(progress(&mut other, "docs"), ["live 0 1 0", "live 0 1 0"]);
    assert_eq!(progress(&mut session, "docs"), ["live 0 1 0", "live 0 1 0"]);
    other.sql("CALL distilface_run()");
    assert_eq!(progress(&mut other, "docs"), ["live 1 0 0", "live 1 0 0"]);
    assert_eq!(other.stale("docs", "body", "e"), "0");
    assert_eq!(other.column("SELECT chunk FROM parts"), ["a dog"]);
}

/// The chunks of a row were told by `=` of the search path, which has none for a type of the user's own.
#[test]
fn chunks_are_known_by_keys_of_any_type() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE SCHEMA own; SET client_min_messages = error;
         CREATE TYPE own.nr;
         CREATE FUNCTION own.nr_in(cstring) RETURNS own.nr LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
         CREATE FUNCTION own.nr_out(own.nr) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
         CREATE TYPE own.nr (INPUT = own.nr_in, OUTPUT = own.nr_out, LIKE = int4);
         CREATE FUNCTION own.cmp(own.nr, own.nr) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'btint4cmp'",
    );
    for (name, code) in
        [("<", "int4lt"), ("<=", "int4le"), ("=", "int4eq"), (">=", "int4ge"), (">", "int4gt")]
    {
        session.sql(&format!(
            "CREATE FUNCTION own.{code}(own.nr, own.nr) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS '{code}';
             CREATE OPERATOR own.{name} (FUNCTION = own.{code}, LEFTARG = own.nr, RIGHTARG = own.nr)"
        ));
    }
    session.sql(
        "CREATE OPERATOR CLASS own.nr_ops DEFAULT FOR TYPE own.nr USING btree AS
           OPERATOR 1 own.<, OPERATOR 2 own.<=, OPERATOR 3 own.=, OPERATOR 4 own.>=, OPERATOR 5 own.>, FUNCTION 1 own.cmp(own.nr, own.nr);
         CREATE TABLE docs (id own.nr PRIMARY KEY, body text); INSERT INTO docs VALUES ('1', 'a cat'), ('2', 'a dog')",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'parts', chunk_tokens => 16)");
    assert_eq!(progress(&mut session, "docs"), ["live 2 0 0"]);
    session.sql("DELETE FROM parts WHERE chunk = 'a dog'");
    session.sql("CALL distilface_run('docs')");
    assert_eq!(progress(&mut session, "docs"), ["live 2 0 0"]);
}

/// A changed row that the owner could not see was taken for a deleted one, and its old vector stayed.
#[test]
fn rows_hidden_from_the_owner_stay_in_the_queue() {
    let cluster = Cluster::start();
    let mut admin = cluster.session();
    admin.sql("CREATE ROLE alice LOGIN; CREATE SCHEMA a AUTHORIZATION alice");
    let mut alice = cluster.session_as("alice", "postgres");
    alice.sql("CREATE TABLE a.docs (id int PRIMARY KEY, body text, who text DEFAULT 'alice'); INSERT INTO a.docs VALUES (1, 'one'), (2, 'two')");
    alice.sql("CALL distilface_vectorize('a.docs', 'body', 'e', form => 'queue')");
    alice.sql("ALTER TABLE a.docs ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON a.docs USING (who = current_user)");
    admin.sql("UPDATE a.docs SET body = 'two changed', who = 'bob' WHERE id = 2");
    alice.sql("ALTER TABLE a.docs FORCE ROW LEVEL SECURITY");
    let error = alice.error("CALL distilface_run('a.docs')");
    assert_eq!(error.code.code(), "55000", "{error}");
    assert_eq!(error.hint.as_deref(), Some("ALTER TABLE ... NO FORCE ROW LEVEL SECURITY."));
    assert_eq!(admin.one("SELECT count(*) FROM distilface.queue"), "1");
    assert_eq!(
        alice.column(
            "SELECT done IS NULL AND last_error LIKE '%hides rows%' FROM distilface.progress"
        ),
        ["t"]
    );
    alice.sql("ALTER TABLE a.docs NO FORCE ROW LEVEL SECURITY");
    alice.sql("CALL distilface_run('a.docs')");
    assert_eq!(admin.stale("a.docs", "body", "e"), "0");
}

#[test]
fn a_failure_is_known_by_the_key_and_ends_with_its_cause() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 20);
    session.sql(
        "ALTER TABLE docs ADD CONSTRAINT fine CHECK (id NOT IN (7, 8, 9)) NOT VALID;
         CREATE TABLE loose AS SELECT * FROM docs; ALTER TABLE loose ADD CONSTRAINT fine CHECK (id NOT IN (7, 8, 9)) NOT VALID",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("CALL distilface_vectorize('docs', 'body', 'q', form => 'queue')");
    session.sql("CALL distilface_vectorize('loose', 'body', 'e')");
    let failures = "SELECT pipeline || ' ' || key FROM distilface.failures ORDER BY pipeline, key";
    assert_eq!(
        session.column(failures),
        ["1 {7}", "1 {8}", "1 {9}", "2 {7}", "2 {8}", "2 {9}", "3 (0,7)", "3 (0,8)", "3 (0,9)"]
    );
    // One is mended, one deleted.
    session.sql(
        "ALTER TABLE docs DROP CONSTRAINT fine; ALTER TABLE loose DROP CONSTRAINT fine;
         UPDATE docs SET body = 'mended' WHERE id = 7; UPDATE loose SET body = 'mended' WHERE id = 7;
         DELETE FROM docs WHERE id = 8; DELETE FROM loose WHERE id = 8",
    );
    assert_eq!(
        session.column(failures),
        ["1 {9}", "2 {7}", "2 {9}", "3 (0,9)"],
        "seven waits in the queue"
    );
    for table in ["docs", "loose"] {
        session.sql(&format!("CALL distilface_run('{table}')"));
    }
    assert_eq!(session.column(failures), ["1 {9}", "2 {9}", "3 (0,9)"]);
    assert_eq!(session.one("SELECT count(*) FROM distilface.failed_rows"), "3");
    assert_eq!(session.one("SELECT distilface_retry('docs')"), "2");
    session.sql("SELECT distilface_retry('loose')");
    session.sql("CALL distilface_run()");
    assert_eq!(progress(&mut session, "docs"), ["live 19 0 0", "live 19 0 0"]);
    assert_eq!(progress(&mut session, "loose"), ["live 19 0 0"]);
}

#[test]
fn a_restored_pipeline_tells_of_its_failures_and_its_work() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 20);
    session.sql("CREATE TABLE loose AS SELECT * FROM docs; DELETE FROM loose WHERE id = 1");
    for table in ["docs", "loose"] {
        session.sql(&format!("ALTER TABLE {table} ADD CONSTRAINT fine CHECK (id <> 7) NOT VALID"));
        session.sql(&format!("CALL distilface_vectorize('{table}', 'body', 'e')"));
        session.sql(&format!("ALTER TABLE {table} DROP CONSTRAINT fine"));
    }
    let script = cluster.dump("postgres");
    cluster.restore(&script, "there");
    let mut there = cluster.session_as("postgres", "there");
    assert_eq!(progress(&mut there, "docs"), ["live 19 0 1"]);
    assert_eq!(there.column("SELECT \"table\" || key FROM distilface.failures"), ["docs{7}"]);
    // The place of a row means nothing in a restored table: the row waits.
    assert_eq!(progress(&mut there, "loose"), ["live 18 1 0"]);
    assert_eq!(there.one("SELECT distilface.with_work()"), "{}");
    there.sql("SELECT distilface_retry('docs')");
    there.sql("CALL distilface_run('docs')");
    there.sql("CALL distilface_run('loose')");
    assert_eq!(progress(&mut there, "docs"), ["live 20 0 0"]);
    assert_eq!(progress(&mut there, "loose"), ["live 19 0 0"]);
    assert_eq!(
        there.one(
            "SELECT bool_and(last_run IS NOT NULL AND rows_per_second > 0) FROM distilface.progress"
        ),
        "t"
    );
}

#[test]
fn a_run_goes_on_where_a_pipeline_fails_and_says_so() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 5);
    session.sql("CREATE TABLE more AS SELECT * FROM docs; ALTER TABLE more ADD PRIMARY KEY (id)");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', backfill => false)");
    session.sql("CALL distilface_vectorize('more', 'body', 'e', form => 'queue')");
    session.sql("UPDATE more SET body = 'changed'; ALTER TABLE docs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY");
    // A superuser sees all rows; this owner does not.
    session.sql("CREATE ROLE alice; ALTER TABLE docs OWNER TO alice");
    let error = session.error("CALL distilface_run()");
    assert_eq!(error.code.code(), "55000", "{error}");
    assert_eq!(error.message, "1 of 2 pipelines failed");
    assert!(
        error.detail.as_deref().is_some_and(|detail| detail.contains("public.docs")),
        "{error}"
    );
    assert_eq!(session.stale("more", "body", "e"), "0");
    assert_eq!(
        session.one("SELECT last_error LIKE '%hides rows%' FROM distilface.activity ORDER BY pipeline LIMIT 1"),
        "t"
    );
}

/// The call told of success, or of an internal error.
#[test]
fn a_pipeline_that_is_ended_meanwhile_ends_the_call_in_an_error() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 400);
    for (prepare, call, end) in [
        (
            "SELECT 1",
            "CALL distilface_vectorize('docs', 'body', 'e')",
            "SELECT distilface_unvectorize('docs')",
        ),
        (
            "CALL distilface_vectorize('docs', 'body', 'e')",
            "CALL distilface_revectorize('docs', 'distilface-small')",
            "SELECT distilface_revectorize_abort('docs')",
        ),
    ] {
        session.sql(prepare);
        std::thread::scope(|scope| {
            let mut caller = cluster.session();
            caller.sql("SET distilface.backfill_batch_tokens = 1024; SET distilface.backfill_rows_per_second = 100");
            let ended = scope.spawn(move || caller.error(call));
            wait_until(
                &mut session,
                "SELECT EXISTS (SELECT FROM distilface.pipelines p JOIN distilface.backfills b ON b.pipeline = p.id WHERE NOT p.filled AND b.place > '(0,0)')",
            );
            session.sql(end);
            let error = ended.join().expect("the call ends");
            assert_eq!(error.code.code(), "55000", "{call}: {error}");
            assert_eq!(error.message, "the pipeline was ended meanwhile");
        });
    }
}

#[test]
fn a_standby_refuses_work_by_its_name() {
    let primary = Cluster::start();
    let mut session = primary.session();
    docs(&mut session, 5);
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("CHECKPOINT");
    let standby = primary.standby();
    standby.wait_for(&primary);
    let mut there = standby.session();
    for refused in [
        "CALL distilface_run()",
        "CALL distilface_vectorize('docs', 'body', 'e')",
        "CALL distilface_revectorize('docs', 'distilface-small')",
        "SELECT distilface_retry('docs')",
        "SELECT distilface_unvectorize('docs')",
    ] {
        let error = there.error(refused);
        assert_eq!(error.code.code(), "25006", "{refused}: {error}");
    }
    assert_eq!(progress(&mut there, "docs"), ["live 5 0 0"]);
    assert_eq!(there.column("SELECT key FROM distilface.failures"), [""; 0]);
}

#[test]
fn an_owner_who_may_not_use_the_model_has_no_failed_rows() {
    let cluster = Cluster::start();
    let model = TinyModel::default().write(cluster.host());
    let mut session = cluster.session();
    session.sql(&format!(
        "SELECT distilface_model_load('tiny', '{}'); CREATE ROLE keeper;
         SELECT distilface_model_grant('tiny', 'keeper')",
        model.display()
    ));
    docs(&mut session, 20);
    session.sql("CREATE SCHEMA s AUTHORIZATION keeper; ALTER TABLE docs SET SCHEMA s; ALTER TABLE s.docs OWNER TO keeper");
    session.sql("CALL distilface_vectorize('s.docs', 'body', 'e', form => 'queue', model => 'tiny', backfill => false)");
    session.sql("UPDATE s.docs SET body = 'changed' WHERE id = 1; SELECT distilface_model_revoke('tiny', 'keeper')");
    let error = session.error("CALL distilface_run('s.docs')");
    assert_eq!(error.code.code(), "42501", "{error}");
    assert_eq!(session.one("SELECT last_error FROM distilface.progress"), error.message);
    assert_eq!(progress(&mut session, "s.docs"), ["filling 0 20 0"]);
    session.sql("SELECT distilface_model_grant('tiny', 'keeper')");
    session.sql("CALL distilface_run('s.docs')");
    assert_eq!(progress(&mut session, "s.docs"), ["live 20 0 0"]);
}
