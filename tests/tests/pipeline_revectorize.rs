//! A table's move to another model: what goes over to the new vectors, what is refused by name, and who
//! may come between.

use distilface_tests::{Cluster, Session, TinyModel};

/// A model of 32 dimensions beside the built-in one of 384, and a role to grant to.
fn start() -> (Cluster, Session) {
    let cluster = Cluster::start();
    let dir = TinyModel::default().write(cluster.host());
    let mut session = cluster.session();
    session.sql(&format!(
        "SET client_min_messages = error; CREATE ROLE app;
         SELECT distilface_model_load('tiny', '{}')",
        dir.display()
    ));
    (cluster, session)
}

fn docs(session: &mut Session) {
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text);
         INSERT INTO docs SELECT i, 'the number ' || i || ' in a list' FROM generate_series(1, 30) i",
    );
}

/// Begins a move, fills the new vectors and leaves the exchange to the test.
fn fill_beside(session: &mut Session, model: &str) -> String {
    let pipeline = session.one(&format!("SELECT distilface.shadow('docs', '{model}', NULL)"));
    while session.one(&format!("SELECT filled AND NOT again FROM distilface.step({pipeline})"))
        != "t"
    {}
    pipeline
}

/// Rows whose vector is not the model's.
fn wrong(session: &mut Session, table: &str, source: &str, target: &str, model: &str) -> String {
    session.one(&format!(
        "SELECT count(*) FROM {table} t WHERE coalesce(NOT (t.{target} <=> distilface_embed(t.{source}, '{model}')) < 1e-6, true)"
    ))
}

const INDEXES: &str =
    "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'docs'::regclass ORDER BY 1";
const PIPELINES: &str = "SELECT name || ' ' || model || ' ' || (replaces IS NULL) FROM distilface.describe() ORDER BY id";

/// Grants, comments, settings, and every index but plain ones were dropped with the old column; names
/// that need quotes were not found in predicates.
#[test]
fn what_hangs_on_a_column_goes_over_to_the_new_model() {
    let (_cluster, mut session) = start();
    docs(&mut session);
    session.sql("CALL distilface_vectorize('docs', 'body', 'E v', index_options => 'm = 12')");
    session.sql(
        r#"CREATE INDEX partial ON docs USING distilface_hnsw ("E v" embedding_l2_ops) WHERE "E v" IS NOT NULL AND body <> 'E v';
           CREATE INDEX tree ON docs (id) WHERE "E v" IS NOT NULL;
           CREATE UNIQUE INDEX covering ON docs (id) INCLUDE ("E v");
           CREATE INDEX expression ON docs USING distilface_hnsw ((l2_normalize("E v")));
           CREATE INDEX other ON docs (body);
           COMMENT ON INDEX partial IS 'of the index'; COMMENT ON COLUMN docs."E v" IS 'of the column';
           GRANT SELECT ("E v") ON docs TO app WITH GRANT OPTION; GRANT UPDATE ("E v") ON docs TO PUBLIC;
           ALTER TABLE docs ALTER "E v" SET STORAGE EXTENDED, ALTER "E v" SET COMPRESSION pglz,
             ALTER "E v" SET STATISTICS 7, ALTER "E v" SET (n_distinct = 5);
           ALTER TABLE docs REPLICA IDENTITY USING INDEX covering, CLUSTER ON covering"#,
    );
    let column = r#"SELECT concat_ws(' ', attacl, col_description(attrelid, attnum), attstorage, attcompression, attstattarget,
            (SELECT option_value FROM pg_options_to_table(attoptions) WHERE option_name = 'n_distinct'))
        FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attname = 'E v'"#;
    let indexes = "SELECT indexrelid::regclass || ' ' || indisclustered || indisreplident || coalesce(obj_description(indexrelid), '')
        FROM pg_index WHERE indrelid = 'docs'::regclass ORDER BY 1";
    let before = (session.column(INDEXES), session.column(indexes), session.column(column));
    for model in ["tiny", "distilface-small"] {
        session.sql(&format!("CALL distilface_revectorize('docs', '{model}')"));
        let after = (session.column(INDEXES), session.column(indexes), session.column(column));
        assert_eq!(after, before, "{model}");
        assert_eq!(wrong(&mut session, "docs", "body", "\"E v\"", model), "0");
        for index in ["\"docs_E v_idx\"", "partial", "expression"] {
            session.assert_sound(index);
        }
    }
}

/// A column `e_next` was taken over with the values in it, and an index `…_next` renamed.
#[test]
fn names_of_the_users_are_left_alone() {
    let (_cluster, mut session) = start();
    docs(&mut session);
    session.sql(
        "ALTER TABLE docs ADD e_next embedding(32); UPDATE docs SET e_next = distilface_embed('mine', 'tiny');
         CREATE INDEX mine_next ON docs (body); CREATE INDEX docs_e_idx_next ON docs (body)",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("CALL distilface_vectorize('docs', 'body', 'parts', chunk_tokens => 32)");
    session.sql("CREATE TABLE parts_next AS SELECT 1 AS mine");
    let names = "SELECT attname FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attnum > 0 AND NOT attisdropped
         UNION ALL SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
         UNION ALL SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1";
    let before = session.column(names);
    session.sql("CALL distilface_revectorize('docs', 'tiny', 'e')");
    session.sql("CALL distilface_revectorize('docs', 'tiny', 'parts')");
    assert_eq!(session.column(names), before);
    assert_eq!(
        session.one(
            "SELECT count(*) FROM docs WHERE e_next <=> distilface_embed('mine', 'tiny') < 1e-6"
        ),
        "30"
    );
    assert_eq!(session.one("SELECT mine FROM parts_next"), "1");
    assert_eq!(wrong(&mut session, "docs", "body", "e", "tiny"), "0");
    assert_eq!(wrong(&mut session, "parts", "chunk", "e", "tiny"), "0");
}

/// The new table of chunks had no grants, comments, indexes or policies, names of its own, and lay where
/// the table was.
#[test]
fn what_hangs_on_a_chunk_table_goes_over_to_the_new_model() {
    let (_cluster, mut session) = start();
    docs(&mut session);
    session.sql("CALL distilface_vectorize('docs', 'body', 'parts', chunk_tokens => 32)");
    session.sql(
        "CREATE INDEX words ON parts (tokens) WHERE tokens > 1; COMMENT ON TABLE parts IS 'of the table';
         COMMENT ON COLUMN parts.chunk IS 'of the column'; COMMENT ON CONSTRAINT parts_pkey ON parts IS 'of the key';
         ALTER TABLE parts RENAME CONSTRAINT parts_id_fkey TO of_a_doc;
         GRANT SELECT ON parts TO app; GRANT UPDATE (chunk) ON parts TO app; REVOKE TRUNCATE ON parts FROM postgres;
         ALTER TABLE parts SET (fillfactor = 80, toast.autovacuum_enabled = false);
         ALTER TABLE parts ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY, REPLICA IDENTITY FULL;
         CREATE POLICY first ON parts AS RESTRICTIVE FOR SELECT TO app
           USING (EXISTS (SELECT FROM parts o WHERE o.id = parts.id AND o.seq = 0));
         COMMENT ON POLICY first ON parts IS 'of the policy';
         ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
         CREATE SCHEMA away; ALTER TABLE docs SET SCHEMA away",
    );
    let table = "SELECT concat(relacl, ' ', reloptions, (SELECT t.reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid),
            relrowsecurity, relforcerowsecurity, relreplident, obj_description(oid, 'pg_class'))
          FROM pg_class c WHERE oid = 'public.parts'::regclass
        UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'parts'::regclass
        UNION ALL SELECT conname || pg_get_constraintdef(oid) || coalesce(obj_description(oid, 'pg_constraint'), '')
          FROM pg_constraint WHERE conrelid = 'parts'::regclass
        UNION ALL SELECT attname || coalesce(attacl::text, '') || coalesce(col_description(attrelid, attnum), '')
          FROM pg_attribute WHERE attrelid = 'parts'::regclass AND attnum > 0
        UNION ALL SELECT concat(polname, polpermissive, polcmd, polroles, pg_get_expr(polqual, polrelid), obj_description(oid, 'pg_policy'))
          FROM pg_policy WHERE polrelid = 'parts'::regclass
        ORDER BY 1";
    let before = session.column(table);
    assert!(before.len() >= 14, "{before:?}");
    let pipeline = session.one("SELECT distilface.shadow('away.docs', 'tiny', NULL)");
    assert_eq!(
        session.one(&format!("SELECT has_table_privilege('app', chunk_table, 'SELECT') FROM distilface.pipelines WHERE id = {pipeline}")),
        "f",
        "the new chunks are nobody's to read before their policies are there"
    );
    session.sql("CALL distilface_revectorize('away.docs', 'tiny')");
    assert_eq!(session.column(table), before);
    assert_eq!(wrong(&mut session, "parts", "chunk", "e", "tiny"), "0");
    assert_eq!(session.one("SELECT count(*) FROM pg_class WHERE relname LIKE '%next%'"), "0");
}

#[test]
fn partitions_keep_what_each_has_of_its_own() {
    let (_cluster, mut session) = start();
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
         CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (15);
         CREATE TABLE docs_2 (junk int, body text, id int NOT NULL); ALTER TABLE docs_2 DROP junk;
         ALTER TABLE docs ATTACH PARTITION docs_2 FOR VALUES FROM (15) TO (99);
         INSERT INTO docs SELECT i, 'the number ' || i FROM generate_series(1, 30) i",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql(
        "CREATE INDEX own ON docs_1 (id) WHERE e IS NOT NULL; COMMENT ON INDEX docs_2_e_idx IS 'of one';
         GRANT SELECT (e) ON docs_1 TO app; ALTER TABLE docs_2 ALTER e SET STATISTICS 9",
    );
    let state = "SELECT pg_get_indexdef(indexrelid) || coalesce(obj_description(indexrelid), '')
          FROM pg_index i JOIN pg_partition_tree('docs') t ON t.relid = i.indrelid
        UNION ALL SELECT attrelid::regclass || coalesce(attacl::text, '') || coalesce(attstattarget, -1)
          FROM pg_attribute a JOIN pg_partition_tree('docs') t ON t.relid = a.attrelid WHERE attname = 'e' ORDER BY 1";
    let before = session.column(state);
    session.sql("CALL distilface_revectorize('docs', 'tiny')");
    assert_eq!(session.column(state), before);
    assert_eq!(wrong(&mut session, "docs", "body", "e", "tiny"), "0");
}

/// An index made after the first call was dropped with the old column.
#[test]
fn an_index_made_during_a_move_goes_over() {
    let (_cluster, mut session) = start();
    docs(&mut session);
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("SELECT distilface.shadow('docs', 'tiny', NULL)");
    session.sql("CREATE INDEX early ON docs USING distilface_hnsw (e embedding_l2_ops)");
    let pipeline = fill_beside(&mut session, "tiny");
    session.sql("CREATE INDEX late ON docs USING distilface_hnsw (e embedding_ip_ops)");
    let before = session.column(INDEXES);
    assert_eq!(
        session.one(&format!("SELECT distilface.swap('docs', {pipeline})")),
        "f",
        "an index is not built while nobody can read the table"
    );
    session.sql("CALL distilface_revectorize('docs', 'tiny')");
    assert_eq!(session.column(PIPELINES), ["e tiny true"]);
    let after = session.column(INDEXES);
    assert_eq!(
        after.iter().filter(|index| !index.contains("_next")).collect::<Vec<_>>(),
        before.iter().filter(|index| !index.contains("_next")).collect::<Vec<_>>()
    );
    assert_eq!(after.len(), 4, "{after:?}");
    for index in ["docs_e_idx", "early", "late"] {
        session.assert_sound(index);
    }
}

/// Where the old vectors were not indexed yet, the successor was never indexed.
#[test]
fn a_pipeline_that_moves_before_it_is_filled_has_its_index() {
    let (_cluster, mut session) = start();
    docs(&mut session);
    for (call, index) in [("'e'", "docs_e_idx"), ("'parts', chunk_tokens => 32", "parts_e_idx")] {
        session.sql(&format!(
            "CALL distilface_vectorize('docs', 'body', {call}, index_options => 'm = 9', backfill => false)"
        ));
        session.sql("CALL distilface_revectorize('docs', 'tiny')");
        let options =
            session.one(&format!("SELECT reloptions FROM pg_class WHERE relname = '{index}'"));
        assert_eq!(options, "{m=9}");
        session.assert_sound(index);
        session.sql("SELECT distilface_unvectorize('docs')");
    }
}

#[test]
fn what_cannot_go_over_is_named_before_the_fill_and_before_the_exchange() {
    let (_cluster, mut session) = start();
    docs(&mut session);
    session.sql("CALL distilface_vectorize('docs', 'body', 'e', build_index => 'none')");
    let refused = |session: &mut Session, statement: &str, named: &str| {
        let error = session.error(statement);
        assert_eq!(error.code.code(), "2BP01", "{named}: {error}");
        assert!(error.hint.is_some(), "{error}");
        let text = format!("{error} {}", error.detail.as_deref().unwrap_or_default());
        assert!(text.contains(named), "{named}: {text}");
    };
    let hanging = [
        ("CREATE VIEW near AS SELECT e FROM docs", "view public.near", "DROP VIEW near"),
        (
            "CREATE RULE r AS ON UPDATE TO docs WHERE old.e IS NULL DO INSTEAD NOTHING",
            "rule r",
            "DROP RULE r ON docs",
        ),
        ("CREATE POLICY p ON docs USING (e IS NOT NULL)", "policy p", "DROP POLICY p ON docs"),
        (
            "ALTER TABLE docs ADD size int GENERATED ALWAYS AS (embedding_dims(e)) STORED",
            "size",
            "ALTER TABLE docs DROP size",
        ),
        (
            "ALTER TABLE docs ADD CONSTRAINT k CHECK (e IS NOT NULL)",
            "constraint k",
            "ALTER TABLE docs DROP CONSTRAINT k",
        ),
        (
            "ALTER TABLE docs ALTER e SET NOT NULL",
            "column e",
            "ALTER TABLE docs ALTER e DROP NOT NULL",
        ),
        (
            "ALTER TABLE docs ALTER e SET DEFAULT NULL",
            "default value",
            "ALTER TABLE docs ALTER e DROP DEFAULT",
        ),
        (
            "CREATE TRIGGER t AFTER UPDATE OF e ON docs EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "trigger t",
            "DROP TRIGGER t ON docs",
        ),
        ("CREATE PUBLICATION pub FOR TABLE docs (id, e)", "publication", "DROP PUBLICATION pub"),
        ("CREATE STATISTICS st ON id, e FROM docs", "statistics object", "DROP STATISTICS st"),
        // Room for 384 numbers and no others.
        (
            "CREATE INDEX fits ON docs USING distilface_hnsw ((l2_normalize(e)::embedding(384)))",
            "index public.fits",
            "DROP INDEX fits",
        ),
    ];
    for (make, named, drop) in hanging {
        session.sql(make);
        refused(&mut session, "CALL distilface_revectorize('docs', 'tiny')", named);
        assert_eq!(session.column(PIPELINES), ["e distilface-small true"], "nothing is begun");
        session.sql(drop);
    }
    let pipeline = fill_beside(&mut session, "tiny");
    for (make, named, drop) in hanging {
        session.sql(make);
        if !named.starts_with("index") {
            refused(&mut session, &format!("SELECT distilface.swap('docs', {pipeline})"), named);
        }
        refused(&mut session, "CALL distilface_revectorize('docs', 'tiny')", named);
        session.sql(drop);
    }
    session.sql("INSERT INTO docs VALUES (99, 'meanwhile')");
    assert_eq!(wrong(&mut session, "docs", "body", "e", "distilface-small"), "0");
    session.sql("CALL distilface_revectorize('docs', 'tiny')");
    assert_eq!(wrong(&mut session, "docs", "body", "e", "tiny"), "0");

    session.sql("CALL distilface_vectorize('docs', 'body', 'parts', chunk_tokens => 32)");
    for (make, named, drop) in [
        ("ALTER TABLE parts ADD note text", "column note", "ALTER TABLE parts DROP note"),
        (
            "ALTER TABLE parts ALTER chunk TYPE varchar",
            "column chunk",
            "ALTER TABLE parts ALTER chunk TYPE text",
        ),
        ("CREATE VIEW near AS SELECT parts FROM parts", "view public.near", "DROP VIEW near"),
        (
            "CREATE FUNCTION f(parts) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "function public.f",
            "DROP FUNCTION f",
        ),
        ("CREATE RULE r AS ON DELETE TO parts DO ALSO SELECT 1", "rule r", "DROP RULE r ON parts"),
        (
            "CREATE TRIGGER t AFTER UPDATE ON parts EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "trigger t",
            "DROP TRIGGER t ON parts",
        ),
        (
            "ALTER TABLE parts ADD CONSTRAINT k CHECK (tokens > 0)",
            "constraint k",
            "ALTER TABLE parts DROP CONSTRAINT k",
        ),
        (
            "ALTER TABLE parts DROP CONSTRAINT parts_id_fkey, ADD CONSTRAINT mine FOREIGN KEY (id) REFERENCES docs ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE",
            "constraint mine",
            "ALTER TABLE parts DROP CONSTRAINT mine, ADD CONSTRAINT parts_id_fkey FOREIGN KEY (id) REFERENCES docs ON UPDATE CASCADE ON DELETE CASCADE",
        ),
        (
            "ALTER TABLE parts ADD CONSTRAINT u UNIQUE (id, seq, tokens)",
            "constraint u",
            "ALTER TABLE parts DROP CONSTRAINT u",
        ),
        (
            "CREATE TABLE marks (id int, seq int, FOREIGN KEY (id, seq) REFERENCES parts)",
            "table public.marks",
            "DROP TABLE marks",
        ),
        ("CREATE PUBLICATION pub FOR TABLE parts", "publication", "DROP PUBLICATION pub"),
        (
            "CREATE STATISTICS st ON chunk, tokens FROM parts",
            "statistics object",
            "DROP STATISTICS st",
        ),
        ("CREATE TABLE heir () INHERITS (parts)", "table public.heir", "DROP TABLE heir"),
    ] {
        session.sql(make);
        refused(
            &mut session,
            "CALL distilface_revectorize('docs', 'distilface-small', 'parts')",
            named,
        );
        session.sql(drop);
    }
    session.sql("CALL distilface_revectorize('docs', 'distilface-small', 'parts')");
    assert_eq!(session.column(PIPELINES), ["e tiny true", "parts distilface-small true"]);
}

/// The column of the unfinished move stayed, and its trigger embedded every write.
#[test]
fn unvectorize_ends_the_move_as_well() {
    let (_cluster, mut session) = start();
    for keep in [false, true] {
        docs(&mut session);
        session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
        session.sql("CALL distilface_vectorize('docs', 'body', 'f')");
        session.sql("SELECT distilface.shadow('docs', 'tiny', 'e')");
        session.sql(&format!("SELECT distilface_unvectorize('docs', 'e', {keep})"));
        assert_eq!(session.column(PIPELINES), ["f distilface-small true"]);
        let columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attnum > 0 AND NOT attisdropped";
        let left = if keep { vec!["id", "body", "e", "f"] } else { vec!["id", "body", "f"] };
        assert_eq!(session.column(columns), left);
        session.sql("DROP TABLE docs");
    }
}

/// They ended in errors about NULLs inside the extension, or never.
#[test]
fn a_move_ended_or_made_by_another_session_says_so() {
    let (cluster, mut session) = start();
    docs(&mut session);
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    for call in ["NULL, 'tiny'", "'docs', NULL", "'docs', 'tiny', judgments => 'docs', k => NULL"] {
        let error = session.error(&format!("CALL distilface_revectorize({call})"));
        assert_eq!(error.code.code(), "22004", "{call}: {error}");
        assert!(error.hint.is_some(), "{error}");
    }
    for ended in
        ["SELECT distilface_revectorize_abort('docs')", "SELECT distilface_unvectorize('docs')"]
    {
        let mut other = cluster.session();
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                // Slow enough to be met on its way.
                let waits = "SELECT count(*) FROM distilface.pipelines WHERE replaces IS NOT NULL";
                while other.one(waits) == "0" {
                    std::thread::yield_now();
                }
                other.sql(ended);
            });
            session.sql("SET distilface.backfill_rows_per_second = 10; SET distilface.backfill_batch_tokens = 64");
            session.error("CALL distilface_revectorize('docs', 'tiny')")
        });
        assert_eq!(error.code.code(), "55000", "{ended}: {error}");
        assert!(error.hint.is_some(), "{error}");
    }
    session.sql("RESET ALL; SET client_min_messages = error");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    // The second session finds that the first one has done it, and does not do it again.
    let newest = session.one("SELECT distilface.newest()");
    let pipeline = fill_beside(&mut session, "tiny");
    for _ in 0..2 {
        assert_eq!(session.one(&format!("SELECT distilface.swap('docs', {pipeline})")), "t");
        let again = format!("SELECT distilface.shadow('docs', 'tiny', NULL, {newest})");
        assert_eq!(session.one(&again), pipeline);
    }
    assert_eq!(session.column(PIPELINES), ["e tiny true"]);
    // What was to be replaced goes: nothing takes its place.
    let pipeline = fill_beside(&mut session, "distilface-small");
    session.sql("ALTER TABLE docs DROP COLUMN e CASCADE");
    let error = session.error(&format!("SELECT distilface.swap('docs', {pipeline})"));
    assert_eq!(error.code.code(), "55000", "{error}");
    assert_eq!(session.one("SELECT distilface_revectorize_abort('docs')"), "1");
    assert_eq!(session.column(PIPELINES).len(), 0);
}

/// They met half-made names, deadlocks, or made the move once each.
#[test]
fn sessions_that_move_a_table_at_once_move_it_once() {
    let (cluster, mut session) = start();
    docs(&mut session);
    session.sql("INSERT INTO docs SELECT i, 'the number ' || i FROM generate_series(1000, 4000) i");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql(
        "CALL distilface_vectorize('docs', 'body', 'parts', form => 'queue', chunk_tokens => 32)",
    );
    std::thread::scope(|scope| {
        for target in ["e", "parts"].repeat(3) {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut session = cluster.session();
                session.sql(&format!("CALL distilface_revectorize('docs', 'tiny', '{target}')"));
            });
        }
        for id in 100..130 {
            session.sql(&format!(
                "INSERT INTO docs VALUES ({id}, 'new'); UPDATE docs SET body = 'changed {id}' WHERE id = {id} - 99"
            ));
        }
    });
    session.sql("CALL distilface_run()");
    assert_eq!(
        session.one("SELECT string_agg(id || model, ' ' ORDER BY id) FROM distilface.pipelines"),
        "3tiny 4tiny"
    );
    assert_eq!(wrong(&mut session, "docs", "body", "e", "tiny"), "0");
    assert_eq!(wrong(&mut session, "parts", "chunk", "e", "tiny"), "0");
    assert_eq!(session.one("SELECT count(*) FROM docs d WHERE d.body NOT IN (SELECT chunk FROM parts WHERE id = d.id)"), "0");
}

/// A NULL query divided by zero, and blank ones found any row.
#[test]
fn judgments_that_measure_nothing_are_refused() {
    let (_cluster, mut session) = start();
    docs(&mut session);
    let error = session.error("SELECT distilface_eval('docs', 'docs')");
    assert_eq!(error.code.code(), "42704", "{error}");
    session.sql("CALL distilface_vectorize('docs', 'body', 'e')");
    session.sql("CREATE TABLE judged (query text, key int, gain real)");
    for (row, code) in [
        ("NULL, 5, 1", "22004"),
        ("'a list', NULL, 1", "22004"),
        ("'', 5, 1", "22023"),
        ("E' \\t', 5, 1", "22023"),
        ("'a list', 5, 'NaN'", "22023"),
        ("'a list', 5, 'Infinity'", "22023"),
        ("'a list', 5, '-Infinity'", "22023"),
    ] {
        session.sql(&format!("TRUNCATE judged; INSERT INTO judged VALUES ({row})"));
        for call in [
            "SELECT distilface_eval('docs', 'judged')",
            "CALL distilface_revectorize('docs', 'tiny', judgments => 'judged')",
        ] {
            let error = session.error(call);
            assert_eq!(error.code.code(), code, "{call} {row}: {error}");
            assert!(error.hint.is_some(), "{error}");
        }
    }
    session.sql("TRUNCATE judged; INSERT INTO judged SELECT body, id, 1 FROM docs");
    for (arguments, code) in [
        ("k => NULL", "22004"),
        ("k => 0", "22023"),
        ("k => 1001", "22023"),
        ("target => 'f'", "42704"),
    ] {
        let error =
            session.error(&format!("SELECT distilface_eval('docs', 'judged', {arguments})"));
        assert_eq!(error.code.code(), code, "{arguments}: {error}");
        assert!(error.hint.is_some(), "{error}");
    }
    let error = session.error("SELECT distilface_eval('docs', 'judged', target => 'f')");
    assert!(
        error.hint.as_deref().unwrap_or_default().contains("'e'"),
        "the hint names what there is: {error}"
    );
    // What is found in the best order scores 1, not a little more.
    session.sql("TRUNCATE judged; INSERT INTO judged SELECT 'a list', id, 1 FROM docs");
    assert_eq!(session.one("SELECT ndcg FROM distilface_eval('docs', 'judged')"), "1");
}
