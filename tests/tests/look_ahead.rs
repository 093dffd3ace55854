//! Calls that come row by row and are embedded in batches: the same results, from fewer runs of the encoder.

use distilface_tests::{Cluster, Session, TinyModel, skip};

const MODEL: &str = "distilface-small";
const NODE: &str = "Custom Scan (Distilface Embed)";
const ROWS: u64 = 300;

/// A table of rows with texts of one to nine words, none twice.
fn docs(session: &mut Session, rows: u64) {
    session.sql(&format!(
        "CREATE TABLE docs (id int PRIMARY KEY, lang text, body text);
         INSERT INTO docs SELECT i, CASE i % 3 WHEN 0 THEN 'de' ELSE 'en' END,
             'note ' || i || repeat(' on the river', i % 5) FROM generate_series(1, {rows}) i;
         ANALYZE docs"
    ));
}

/// What the encoder did in this session: texts and runs.
fn work(session: &mut Session) -> (u64, u64) {
    let row = session.rows("SELECT texts, runs FROM distilface_embedded()").swap_remove(0);
    let number = |at: usize| row[at].as_deref().unwrap().parse().expect("a count");
    (number(0), number(1))
}

/// A statement's rows, and the texts and runs that they took, in a session of its own: a session remembers
/// what it embedded lately.
fn fresh(
    cluster: &Cluster,
    settings: &str,
    statement: &str,
) -> (Vec<Vec<Option<String>>>, u64, u64) {
    let mut session = cluster.session();
    // A worker's work would not be counted.
    session.sql(&format!("SET max_parallel_workers_per_gather = 0; {settings}"));
    // Loads the library: a generated column's plan does not in time.
    assert_eq!(work(&mut session), (0, 0));
    let rows = session.rows(statement);
    let (texts, runs) = work(&mut session);
    (rows, texts, runs)
}

fn plan(session: &mut Session, statement: &str) -> String {
    session.column(&format!("EXPLAIN {statement}")).join("\n")
}

/// Everything that a person may write to embed a table's rows: results as of one row at a time, each text read
/// once, in far fewer runs.
fn every_statement_is_embedded_in_batches(cluster: &Cluster) {
    docs(&mut cluster.session(), ROWS);
    cluster.sql(
        "CREATE TABLE parts (id int, body text) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (150);
         CREATE TABLE high PARTITION OF parts FOR VALUES FROM (150) TO (1000);
         INSERT INTO parts SELECT id, body FROM docs;
         ANALYZE parts;
         CREATE VIEW notes AS SELECT id, distilface_embed(body) AS e FROM docs;
         CREATE FUNCTION filled() RETURNS TABLE (id int, e embedding) LANGUAGE plpgsql AS
           $$ BEGIN RETURN QUERY SELECT d.id, distilface_embed(d.body) FROM docs d; END $$",
    );
    for statement in [
        "SELECT id, distilface_embed(body) FROM docs ORDER BY id",
        "SELECT id, distilface_embed(upper(lang) || ': ' || body) FROM docs ORDER BY id",
        "SELECT id, distilface_embed(coalesce(NULL, body)::varchar, 'distilface-small')::embedding(384) FROM docs ORDER BY id",
        "SELECT id, distilface_embed_query(body), (SELECT count(*) FROM low) FROM docs ORDER BY id",
        "SELECT id, distilface_embed(body), distilface_embed_query(body) FROM docs ORDER BY id",
        "SELECT id, e FROM notes ORDER BY id",
        "SELECT id, e FROM filled() ORDER BY id",
        "SELECT id, distilface_embed(body) FROM parts ORDER BY id",
        "SELECT d.id, distilface_embed(d.body || p.id) FROM docs d JOIN parts p ON p.id = d.id ORDER BY 1",
        "SELECT id, distilface_embed(body) FROM docs WHERE lang = 'de' UNION ALL SELECT id, distilface_embed(body) FROM docs WHERE lang = 'en' ORDER BY 1",
        "WITH d AS MATERIALIZED (SELECT * FROM docs) SELECT id, distilface_embed(body) FROM d ORDER BY id",
        "SELECT i, distilface_embed('number ' || t) FROM unnest(ARRAY(SELECT body FROM docs ORDER BY id)) WITH ORDINALITY u(t, i)",
        "SELECT lang, avg(distilface_embed(body)), count(distilface_embed(body)) FROM docs GROUP BY lang ORDER BY lang",
        "SELECT avg(distilface_embed(body) ORDER BY id) FROM docs HAVING count(*) > 1",
        "SELECT id % 70, distilface_embed(string_agg(body, ' ' ORDER BY id)) FROM docs GROUP BY 1 ORDER BY 1",
        "SELECT id, distilface_similarity(body, 'a boat') FROM docs ORDER BY 2 DESC, 1 LIMIT 20",
        "SELECT id, body <=> 'a boat' FROM docs ORDER BY 2, 1 LIMIT 20",
        "SELECT id, distilface_embed(body) FROM docs ORDER BY id DESC LIMIT 200",
        "SELECT count(*) FROM docs WHERE id IN (SELECT id FROM docs ORDER BY embedding_norm(distilface_embed(body)), id LIMIT 200)",
    ] {
        let (one_by_one, texts, runs) =
            fresh(cluster, "SET distilface.look_ahead = off", statement);
        assert!(runs >= texts, "{statement}: {texts} texts in {runs} runs");
        let (rows, same_texts, batches) = fresh(cluster, "", statement);
        assert_eq!(rows, one_by_one, "{statement}");
        assert!(same_texts <= texts, "{statement}: {same_texts} texts instead of {texts}");
        assert!(batches < texts / 5, "{statement}: {texts} texts in {batches} runs");
    }
}

#[test]
fn a_query_embeds_its_rows_in_batches_and_gives_the_same_rows() {
    every_statement_is_embedded_in_batches(&Cluster::start());
}

#[test]
fn other_servers_embed_rows_in_batches_too() {
    for version in [16, 18] {
        if let Some(cluster) = Cluster::builder().version(version).try_start() {
            every_statement_is_embedded_in_batches(&cluster);
            every_write_is_embedded_in_batches(&cluster);
        }
    }
}

/// Statements that write vectors into `filled`, or into the generated column of `made`.
fn every_write_is_embedded_in_batches(cluster: &Cluster) {
    cluster.sql("DROP TABLE IF EXISTS docs, filled, made CASCADE");
    docs(&mut cluster.session(), ROWS);
    cluster.sql(&format!(
        "CREATE TABLE filled (id bigserial, doc int PRIMARY KEY, note text, e embedding(384));
         CREATE TABLE made (id bigserial, gone int, doc int PRIMARY KEY, body text,
           e embedding(384) GENERATED ALWAYS AS (distilface_embed(body, '{MODEL}')) STORED);
         ALTER TABLE made DROP COLUMN gone;
         CREATE FUNCTION insert_all() RETURNS void LANGUAGE sql AS
           'INSERT INTO filled (doc, e) SELECT id, distilface_embed(body) FROM docs'"
    ));
    let values: Vec<String> =
        (1..=ROWS).map(|i| format!("({i}, 'made by hand, number {i}')")).collect();
    let values = format!("INSERT INTO made (doc, body) VALUES {}", values.join(","));
    for (table, prepare, statement) in [
        ("filled", "", "INSERT INTO filled (doc, e) SELECT id, distilface_embed(body) FROM docs"),
        (
            "filled",
            "",
            "INSERT INTO filled (doc, e) SELECT id, distilface_embed(body) FROM docs ORDER BY id DESC ON CONFLICT DO NOTHING",
        ),
        ("filled", "", "SELECT insert_all()"),
        (
            "filled",
            "",
            "DO $$ BEGIN INSERT INTO filled (doc, e) SELECT id, distilface_embed(body) FROM docs; END $$",
        ),
        (
            "filled",
            "PREPARE p AS INSERT INTO filled (doc, e) SELECT id, distilface_embed(body || $1) FROM docs",
            "EXECUTE p(' and more')",
        ),
        (
            "filled",
            "INSERT INTO filled (doc, note) SELECT id, body FROM docs",
            "UPDATE filled SET e = distilface_embed(note)",
        ),
        (
            "filled",
            "INSERT INTO filled (doc) SELECT id FROM docs",
            "UPDATE filled SET e = distilface_embed(body) FROM docs WHERE docs.id = doc",
        ),
        (
            "filled",
            "",
            "WITH i AS (INSERT INTO filled (doc, e) SELECT id, distilface_embed(body) FROM docs RETURNING doc) SELECT count(*) FROM i",
        ),
        (
            "filled",
            "",
            "MERGE INTO filled USING (SELECT id, distilface_embed(body) AS e FROM docs) d ON d.id = filled.doc WHEN NOT MATCHED THEN INSERT (doc, e) VALUES (d.id, d.e)",
        ),
        ("made", "", "INSERT INTO made (doc, body) SELECT id, body FROM docs"),
        ("made", "", "INSERT INTO made (doc, body) SELECT id, lang || body FROM docs ORDER BY id"),
        ("made", "", &values),
        (
            "made",
            "INSERT INTO made (doc, body) SELECT id, ' ' FROM docs",
            "UPDATE made SET body = docs.body FROM docs WHERE docs.id = doc",
        ),
    ] {
        // Left alone: what writes in WITH, and the actions of MERGE, of which a row takes one.
        let is_left_alone = statement.starts_with("WITH") || statement.starts_with("MERGE");
        let mut results = Vec::new();
        for look_ahead in ["off", "on"] {
            cluster.sql(&format!("TRUNCATE {table} RESTART IDENTITY"));
            let mut session = cluster.session();
            // The rows that prepare the statement are written with nothing embedded in this session.
            cluster.sql(if prepare.starts_with("INSERT") { prepare } else { "" });
            session.sql(if prepare.starts_with("PREPARE") { prepare } else { "" });
            // Loads the library, see `fresh`.
            assert_eq!(work(&mut session), (0, 0));
            session.sql(&format!("SET distilface.look_ahead = {look_ahead}"));
            session.sql(statement);
            let (texts, runs) = work(&mut session);
            assert_eq!(texts, ROWS, "{statement}");
            if look_ahead == "on" && !is_left_alone {
                assert!(runs < ROWS / 5, "{statement}: {texts} texts in {runs} runs");
            } else {
                assert_eq!(runs, ROWS, "{statement}");
            }
            let order = "SELECT *, e IS NULL FROM";
            results.push(cluster.session().rows(&format!("{order} {table} ORDER BY doc")));
        }
        assert_eq!(results[0], results[1], "{statement}");
        assert_eq!(results[0].len(), ROWS as usize);
        assert!(results[0].iter().all(|row| row.last().unwrap().as_deref() == Some("f")));
    }
}

#[test]
fn a_statement_that_writes_embeds_in_batches_and_writes_the_same_rows() {
    every_write_is_embedded_in_batches(&Cluster::start());
}

#[test]
fn the_first_statement_of_a_session_embeds_in_batches() {
    let cluster = Cluster::start();
    docs(&mut cluster.session(), ROWS);
    let mut session = cluster.session();
    assert_eq!(session.one("SELECT count(distilface_embed(body)) FROM docs"), ROWS.to_string());
    let (texts, runs) = work(&mut session);
    assert!(texts == ROWS && runs < ROWS / 5, "{texts} texts in {runs} runs");
}

#[test]
fn a_plan_that_embeds_ahead_is_not_compiled_for_the_encoders_cost() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, ROWS);
    if session.one("SELECT pg_jit_available()") == "f" {
        skip!("no LLVM for this server");
    }
    session.sql("SET jit_above_cost = 0");
    let select = "EXPLAIN (ANALYZE, TIMING OFF) SELECT distilface_embed(body) FROM docs";
    let compiled =
        |session: &mut Session| session.column(select).iter().any(|line| line.contains("JIT"));
    assert!(!compiled(&mut session));
    session.sql("SET distilface.look_ahead = off");
    assert!(compiled(&mut session));
}

#[test]
fn a_limit_is_never_read_past_and_no_consumer_pays_for_twice_its_rows() {
    let cluster = Cluster::start();
    docs(&mut cluster.session(), ROWS);
    let prepared = "PREPARE p(int) AS SELECT distilface_embed(body) FROM docs LIMIT $1; SET plan_cache_mode = force_generic_plan";
    for (settings, statement, most) in [
        ("", "SELECT distilface_embed(body) FROM docs LIMIT 1", 1),
        ("", "SELECT distilface_embed(body) FROM docs LIMIT 21", 21),
        ("", "SELECT distilface_embed(body) FROM docs LIMIT (SELECT 21)", 21),
        (prepared, "EXECUTE p(13)", 13),
        ("", "SELECT distilface_embed(body) FROM docs ORDER BY lang, id LIMIT 9", 9),
        ("", "SELECT distilface_embed(body) FROM docs LIMIT 5 OFFSET 5", 20),
        (
            "",
            "SELECT * FROM (SELECT distilface_embed(body) e, id FROM docs OFFSET 0) d WHERE id > 4 LIMIT 1",
            10,
        ),
        (
            "",
            "SELECT EXISTS (SELECT FROM (SELECT distilface_embed(body) e FROM docs OFFSET 0) d WHERE e IS NOT NULL)",
            2,
        ),
    ] {
        let (rows, texts, _) = fresh(&cluster, settings, statement);
        assert!(texts <= most, "{statement}: {texts} texts for {} rows", rows.len());
    }
}

#[test]
fn blank_overlong_and_missing_texts_are_what_they_are_row_by_row() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs (id int, body text);
         INSERT INTO docs SELECT i, CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN ' ' ELSE 'text ' || i END
           FROM generate_series(1, 100) i;
         UPDATE docs SET body = repeat('word ', 500) || id WHERE id IN (52, 53, 57)",
    );
    let select = "SELECT id, distilface_embed(body) FROM docs";
    let quiet = "SET distilface.on_overflow = silent";
    let (rows, ..) = fresh(&cluster, quiet, select);
    let alone = format!("{quiet}; SET distilface.look_ahead = off");
    assert_eq!(rows, fresh(&cluster, &alone, select).0);
    assert_eq!(rows.iter().filter(|row| row[1].is_some()).count(), 60);

    // Each cut text is counted once, and where its row is asked for.
    let warned = |statement: &str| {
        let output =
            cluster.program("psql").args(["-XqAt", "-d", "postgres", "-c", statement]).output();
        String::from_utf8_lossy(&output.expect("psql can be started").stderr).into_owned()
    };
    let told = warned("SELECT count(distilface_embed(body)) FROM docs");
    assert!(told.contains("3 texts were longer"), "{told}");
    let told = warned("SELECT distilface_embed(body) FROM docs ORDER BY id LIMIT 45 OFFSET 1");
    assert_eq!(told, "");

    // An error is the row's own.
    for (setting, code, first) in [
        ("distilface.on_overflow = error", "22001", 52),
        ("distilface.on_empty = error", "22023", 46),
    ] {
        let mut session = cluster.session();
        session
            .sql(&format!("DELETE FROM docs WHERE id < 42 AND {} ; SET {setting}", "id % 5 = 1"));
        let error = session.error("SELECT id, distilface_embed(body) FROM docs");
        assert_eq!(error.code.code(), code, "{error}");
        let before = format!("id <> 41 AND id < {first}");
        let statement = format!("SELECT count(distilface_embed(body)) FROM docs WHERE {before}");
        session.sql(&statement);
        // Row `first` is read ahead with the rows before it, and never asked for.
        session.sql(&format!("SELECT count(e) FROM (SELECT distilface_embed(body) e FROM docs WHERE id <> 41 OFFSET 2 LIMIT {}) d", first - 40));
    }
}

#[test]
fn a_model_is_refused_when_a_row_asks_for_it_and_not_before() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 50);
    let dir = TinyModel::seed(1).write(cluster.host());
    let head = TinyModel { head: true, hidden: 64, ..TinyModel::seed(2) }.write(cluster.host());
    session.sql(&format!(
        "SELECT distilface_model_load('tiny', '{}'); SELECT distilface_model_load('cross', '{}');
         CREATE ROLE plain LOGIN; GRANT ALL ON docs TO plain",
        dir.display(),
        head.display()
    ));
    let mut plain = cluster.session_as("plain", "postgres");
    for (model, code) in [("foo", "42704"), ("tiny", "42501"), ("cross", "42501")] {
        let select = format!("SELECT distilface_embed(body, '{model}') FROM docs");
        assert_eq!(plain.rows(&format!("{select} WHERE id > 50")).len(), 0);
        assert_eq!(plain.error(&select).code.code(), code, "{model}");
    }
    let cross = "SELECT distilface_embed(body, 'cross') FROM docs";
    assert_eq!(session.error(cross).code.code(), "42809");
    // The owner may: what one role opened, another one may not use.
    let tiny = "SELECT count(distilface_embed(body, 'tiny')) FROM docs";
    assert_eq!(session.one(tiny), "50");
    session.sql("SET ROLE plain");
    assert_eq!(session.error(tiny).code.code(), "42501");
}

#[test]
fn what_runs_below_is_not_run_for_more_rows_than_before() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 100);
    session.sql(
        "CREATE SEQUENCE s;
         CREATE TABLE queue AS SELECT * FROM docs;
         CREATE FUNCTION noted(int) RETURNS int LANGUAGE plpgsql AS
           $$ BEGIN PERFORM nextval('s'); RETURN $1; END $$",
    );
    // A sequence below the columns: no node. One beside them: drawn with its row.
    let below = "SELECT distilface_embed(body), n FROM (SELECT body, nextval('s') AS n FROM docs OFFSET 0) d";
    assert!(!plan(&mut session, below).contains(NODE));
    for (statement, drawn) in [
        (format!("{below} LIMIT 4 OFFSET 2"), "6"),
        (
            "SELECT distilface_embed(body) FROM docs WHERE noted(id) > 0 LIMIT 4 OFFSET 2".into(),
            "6",
        ),
        ("SELECT distilface_embed(body), nextval('s') FROM docs LIMIT 4 OFFSET 2".into(), "6"),
        ("SELECT distilface_embed(body), nextval('s') FROM docs LIMIT 4".into(), "4"),
        ("SELECT distilface_embed(body || nextval('s')) FROM docs LIMIT 4".into(), "4"),
        ("SELECT distilface_embed(body), (SELECT noted(1)) FROM docs".into(), "1"),
    ] {
        session.sql("ALTER SEQUENCE s RESTART");
        session.sql(&statement);
        assert_eq!(session.one("SELECT last_value FROM s"), drawn, "{statement}");
    }
    // Rows are locked as they are taken.
    session.sql("BEGIN; SELECT distilface_embed(body) FROM (SELECT body FROM queue FOR UPDATE SKIP LOCKED) q LIMIT 3 OFFSET 1");
    let free = "SELECT count(*) FROM (SELECT FROM queue FOR UPDATE SKIP LOCKED) q";
    assert_eq!(cluster.one(free), "96");
    session.sql("ROLLBACK");
    // What is written in WITH is written whole and once, whatever is read of it.
    session.sql("WITH gone AS (DELETE FROM queue RETURNING body) SELECT distilface_embed(body) FROM gone LIMIT 2");
    assert_eq!(session.one("SELECT count(*) FROM queue"), "0");
}

#[test]
fn rows_that_a_policy_or_a_barrier_hides_are_not_embedded() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 90);
    session.sql(
        "CREATE ROLE reader LOGIN;
         GRANT SELECT ON docs TO reader;
         ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
         CREATE POLICY german ON docs TO reader USING (lang = 'de');
         CREATE VIEW english WITH (security_barrier) AS SELECT id, body FROM docs WHERE lang = 'en'",
    );
    let mut reader = cluster.session_as("reader", "postgres");
    assert_eq!(reader.one("SELECT count(distilface_embed(body)) FROM docs"), "30");
    let (texts, runs) = work(&mut reader);
    assert!(texts == 30 && runs < 10, "{texts} texts in {runs} runs");
    let (rows, texts, _) = fresh(&cluster, "", "SELECT id, distilface_embed(body) FROM english");
    assert_eq!((rows.len(), texts), (60, 60));
}

#[test]
fn a_call_that_may_not_be_made_is_not_embedded_ahead() {
    let cluster = Cluster::start();
    docs(&mut cluster.session(), 100);
    for (statement, asked) in [
        ("SELECT CASE WHEN id % 10 = 0 THEN distilface_embed(body) END FROM docs", 10),
        (
            "SELECT coalesce(CASE WHEN id % 10 > 0 THEN '[1]'::embedding END, distilface_embed(body)) FROM docs",
            10,
        ),
        ("SELECT count(distilface_embed(body)) FILTER (WHERE id % 10 = 0) FROM docs", 10),
        ("SELECT id % 10 = 0 AND distilface_embed(body) IS NOT NULL FROM docs", 10),
    ] {
        let (_, texts, _) = fresh(&cluster, "", statement);
        assert_eq!(texts, asked, "{statement}");
    }
}

#[test]
fn a_text_that_cannot_be_computed_is_an_error_of_its_own_row() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 60);
    // Row 15 would be read ahead with row 14, the last one asked for.
    let select = "SELECT distilface_embed(body || chr(15 - id)) FROM docs";
    assert_eq!(session.rows(&format!("{select} LIMIT 12 OFFSET 2")).len(), 12);
    assert_eq!(session.error(&format!("{select} LIMIT 13 OFFSET 2")).code.code(), "54000");
}

#[test]
fn a_cached_plan_stays_as_it_was_planned() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 100);
    session.sql(
        "SET plan_cache_mode = force_generic_plan;
         PREPARE p AS SELECT id, distilface_embed(body) FROM docs ORDER BY id",
    );
    let first = session.rows("EXECUTE p");
    for look_ahead in ["off", "on", "off"] {
        session.sql(&format!("SET distilface.look_ahead = {look_ahead}"));
        assert_eq!(plan(&mut session, "EXECUTE p").contains(NODE), look_ahead == "on");
        assert_eq!(session.rows("EXECUTE p"), first);
    }
}

#[test]
fn texts_that_are_never_asked_for_end_the_reading_ahead() {
    let cluster = Cluster::start();
    docs(&mut cluster.session(), 300);
    cluster.sql(&format!(
        "CREATE TABLE made (body text, e embedding GENERATED ALWAYS AS (distilface_embed(body, '{MODEL}')) STORED);
         CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN NEW.body := 'other than ' || NEW.body; RETURN NEW; END $$;
         CREATE TRIGGER other BEFORE INSERT ON made FOR EACH ROW EXECUTE FUNCTION other()"
    ));
    let (_, texts, _) = fresh(&cluster, "", "INSERT INTO made SELECT body FROM docs");
    assert!(texts <= 330, "{texts} texts for 300 rows");
    // What was embedded ahead is of the text that was there, and what is written of the one that is.
    let wrong = format!(
        "SELECT count(*) FROM made WHERE body NOT LIKE 'other than %' OR e <> distilface_embed(body, '{MODEL}')"
    );
    assert_eq!(cluster.one(&wrong), "0");
}

#[test]
fn cursors_stand_where_their_last_row_was() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 40);
    let select = "SELECT id, distilface_embed(body) FROM docs";
    // The same plan, cached: once as a statement, once as a cursor.
    session.sql("SET plan_cache_mode = force_generic_plan");
    session.sql(
        "CREATE FUNCTION third() RETURNS int LANGUAGE plpgsql AS
           $$ DECLARE c CURSOR FOR SELECT id, distilface_embed(body) FROM docs; r record;
              BEGIN OPEN c; FETCH c INTO r; FETCH c INTO r; FETCH c INTO r;
              UPDATE docs SET lang = 'here' WHERE CURRENT OF c; RETURN r.id; END $$",
    );
    for _ in 0..2 {
        assert_eq!(session.rows(select).len(), 40);
        let third = session.one("SELECT third()");
        assert_eq!(session.column("SELECT id FROM docs WHERE lang = 'here'"), [third]);
        session.sql("UPDATE docs SET lang = 'en'");
    }
    session.sql(&format!("BEGIN; DECLARE c SCROLL CURSOR FOR {select}"));
    let first = session.rows("FETCH 3 FROM c");
    session.sql("FETCH 20 FROM c");
    assert_eq!(session.rows("FETCH ABSOLUTE 3 FROM c"), first[2..]);
    assert_eq!(session.rows("FETCH BACKWARD 1 FROM c"), first[1..2]);
    session.sql("ROLLBACK");
    let rows = session.rows(&format!("{select} LIMIT 7"));
    for scroll in ["", "NO SCROLL"] {
        session.sql(&format!("BEGIN; DECLARE c {scroll} CURSOR FOR {select}"));
        session.sql("FETCH 7 FROM c; UPDATE docs SET lang = 'here' WHERE CURRENT OF c");
        let seventh = session.column("SELECT id FROM docs WHERE lang = 'here'");
        assert_eq!(seventh, [rows[6][0].clone().unwrap()]);
        session.sql("ROLLBACK");
    }
}

#[test]
fn a_row_that_another_session_updated_is_embedded_as_it_is_now() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 60);
    session.sql("ALTER TABLE docs ADD e embedding");
    let mut other = cluster.session();
    other.sql("BEGIN; UPDATE docs SET body = 'the other session wrote this ' || id WHERE id IN (1, 20, 50)");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut session = cluster.session();
            session.sql("UPDATE docs SET e = distilface_embed(body)");
        });
        let blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while session.one(blocked) == "0" {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        other.sql("COMMIT");
        waiting.join().unwrap();
    });
    let stale = "SELECT count(*) FROM docs WHERE e IS NULL OR e <> distilface_embed(body)";
    assert_eq!(session.one(stale), "0");
    assert_eq!(session.one("SELECT count(*) FROM docs WHERE body LIKE 'the other%'"), "3");
}

#[test]
fn joins_and_subqueries_that_read_a_plan_again_get_their_own_rows() {
    let cluster = Cluster::start();
    docs(&mut cluster.session(), 120);
    for (settings, statement) in [
        (
            "",
            "SELECT o.id, d.id, d.e FROM generate_series(1, 12) o(id), LATERAL (SELECT id, distilface_embed(body || o.id) e FROM docs WHERE docs.id BETWEEN o.id * 8 AND o.id * 8 + 6 OFFSET 0) d ORDER BY 1, 2",
        ),
        (
            "",
            "SELECT id, (SELECT avg(distilface_embed(body)) FROM docs d WHERE d.id / 10 = docs.id / 10) FROM docs WHERE id % 10 = 0 ORDER BY id",
        ),
        // Left with rows that were read ahead and not asked for.
        (
            "",
            "SELECT o.id, (SELECT d.id FROM (SELECT id, distilface_embed(body) e FROM docs WHERE id > o.id * 5 OFFSET 0) d WHERE e IS NOT NULL LIMIT 1 OFFSET 3) FROM generate_series(1, 12) o(id) ORDER BY 1",
        ),
        // Goes back to a marked row of the node that computes the vectors.
        (
            "CREATE INDEX IF NOT EXISTS by_lang ON docs (lang); SET enable_hashjoin = off; SET enable_nestloop = off; SET enable_sort = off; SET enable_material = off; SET enable_seqscan = off; SET enable_bitmapscan = off",
            "SELECT a.id, b.id, a.e, b.e FROM (SELECT id, lang, coalesce(distilface_embed(body), '[1]') e FROM docs WHERE id % 9 = 0) a FULL JOIN (SELECT id, lang, coalesce(distilface_embed(body), '[1]') e FROM docs WHERE id % 7 = 0) b ON b.lang = a.lang",
        ),
        (
            "SET enable_hashjoin = off; SET enable_nestloop = off",
            "SELECT a.id, b.e FROM docs a JOIN (SELECT id, distilface_embed(body) e FROM docs) b USING (id) ORDER BY 1",
        ),
        (
            "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off",
            "SELECT a.id, b.id, b.e FROM (VALUES (1), (2), (3)) a(id) JOIN (SELECT id, distilface_embed(body) e FROM docs OFFSET 0) b ON b.id % 3 + 1 = a.id ORDER BY 1, 2",
        ),
        (
            "",
            "WITH RECURSIVE r(id, e) AS (SELECT id, distilface_embed(body) FROM docs WHERE id = 1 UNION ALL SELECT d.id, distilface_embed(d.body) FROM r JOIN docs d ON d.id = r.id + 1) SELECT * FROM r ORDER BY id",
        ),
    ] {
        let off = format!("{settings}; SET distilface.look_ahead = off");
        let (alone, ..) = fresh(&cluster, &off, statement);
        assert!(!alone.is_empty());
        assert_eq!(fresh(&cluster, settings, statement).0, alone, "{statement}");
    }
}

#[test]
fn an_error_on_the_way_leaves_the_session_as_it_was() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 200);
    for _ in 0..3 {
        let error = session.error("SELECT distilface_embed(body), 1 / (id - 150) FROM docs");
        assert_eq!(error.code.code(), "22012");
        session.sql(
            "BEGIN; SAVEPOINT s; DO $$ BEGIN PERFORM distilface_embed(body), 1 / (id - 90) FROM docs;
               EXCEPTION WHEN division_by_zero THEN NULL; END $$; ROLLBACK TO s; COMMIT",
        );
        assert_eq!(session.one("SELECT count(distilface_embed(body)) FROM docs"), "200");
    }
    // Rows beyond work_mem, of wide vectors and texts.
    session.sql("SET work_mem = '64kB'; SET distilface.on_overflow = silent");
    let wide = "SELECT count(distilface_embed(docs.body || id)), sum(length(b.body)) FROM docs, LATERAL (SELECT repeat(docs.body, 200) body OFFSET 0) b";
    let (rows, ..) = fresh(&cluster, "SET distilface.look_ahead = off", wide);
    assert_eq!(session.rows(wide), rows);
}

#[test]
fn parallel_workers_embed_in_batches() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    docs(&mut session, 2000);
    session.sql(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET max_parallel_workers_per_gather = 2",
    );
    let query = "SELECT id, distilface_embed(body) FROM docs";
    let shown = session.column(&format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {query}"));
    let at = |what: &str| shown.iter().position(|line| line.contains(what));
    assert!(at("Gather") < at(NODE) && at("Gather").is_some(), "{shown:#?}");
    let mut rows = session.rows(query);
    rows.sort();
    let (mut alone, ..) = fresh(&cluster, "SET distilface.look_ahead = off", query);
    alone.sort();
    assert_eq!(rows, alone);
}

#[test]
fn rows_for_an_index_on_text_are_embedded_in_batches() {
    let cluster = Cluster::start();
    docs(&mut cluster.session(), ROWS);
    for index in [
        "distilface_hnsw (body)".to_owned(),
        format!("distilface_hnsw ((distilface_embed(body, '{MODEL}')::embedding(384)))"),
        "distilface_hnsw (body, lang)".to_owned(),
    ] {
        cluster.sql(&format!(
            "DROP TABLE IF EXISTS indexed; CREATE TABLE indexed (LIKE docs); CREATE INDEX by_meaning ON indexed USING {index}"
        ));
        for (statement, texts) in [
            ("INSERT INTO indexed SELECT * FROM docs", ROWS),
            ("UPDATE indexed SET body = body || ' again'", ROWS),
            (
                "INSERT INTO indexed VALUES (1000, 'en', 'one row'), (1001, 'en', NULL), (1002, 'en', ' ')",
                1,
            ),
        ] {
            let (_, embedded, runs) = fresh(&cluster, "", statement);
            assert_eq!(embedded, texts, "{index}: {statement}");
            assert!(runs <= 1 + texts / 5, "{index}: {texts} texts in {runs} runs");
        }
        cluster.assert_sound("by_meaning");
        let mut session = cluster.session();
        session.sql("SET enable_seqscan = off");
        let order = if index.contains("distilface_embed") {
            format!(
                "distilface_embed(body, '{MODEL}')::embedding(384) <=> distilface_embed('one row', '{MODEL}')"
            )
        } else {
            "body <=> 'one row'".to_owned()
        };
        assert_eq!(
            session.one(&format!("SELECT id FROM indexed ORDER BY {order} LIMIT 1")),
            "1000"
        );
    }
    // A partial index may want few of the rows.
    cluster.sql(
        "CREATE TABLE few (LIKE docs);
         CREATE INDEX ON few USING distilface_hnsw (body) WHERE id % 100 = 0",
    );
    assert_eq!(fresh(&cluster, "", "INSERT INTO few SELECT * FROM docs").1, ROWS / 100);
}
