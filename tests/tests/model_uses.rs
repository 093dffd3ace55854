//! What uses a model, by which name, and who may.

use distilface_tests::{Cluster, Session, TinyModel};

fn load(cluster: &Cluster, session: &mut Session, name: &str, model: &TinyModel) -> String {
    let dir = model.write(cluster.host());
    session.one(&format!("SELECT distilface_model_load('{name}', '{}')", dir.display()))
}

fn docs(session: &mut Session) {
    session.sql("CREATE TABLE docs AS SELECT i AS id, 'the cat ' || i AS body FROM generate_series(1, 20) i");
}

fn used_by(session: &mut Session, name: &str) -> String {
    session.one(&format!("SELECT used_by FROM distilface.models WHERE name = '{name}'"))
}

/// The details of a drop that is refused.
fn refused(session: &mut Session, name: &str) -> String {
    let error = session.error(&format!("SELECT distilface_model_drop('{name}')"));
    assert_eq!(error.code.code(), "2BP01", "{error}");
    error.detail.expect("it says by what")
}

#[test]
fn an_index_that_names_another_model_is_an_error_until_it_is_reindexed() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    load(&cluster, &mut session, "tiny", &TinyModel::default());
    let other = load(&cluster, &mut session, "other", &TinyModel::seed(2));
    docs(&mut session);
    session.sql(
        "CREATE INDEX by_text ON docs USING distilface_hnsw (body) WITH (model = 'tiny');
         SET enable_seqscan = off; SET enable_sort = off",
    );
    let nearest = "SELECT id FROM docs ORDER BY body <=> 'the cat 7' LIMIT 1";
    let mut another = cluster.session();
    another.sql("SET enable_seqscan = off; SET enable_sort = off");
    assert_eq!(another.one(nearest), "7");
    session.sql("ALTER INDEX by_text SET (model = 'other')");
    for statement in [nearest, "INSERT INTO docs VALUES (21, 'the cat 21')"] {
        for session in [&mut session, &mut another] {
            let error = session.error(statement);
            assert_eq!(error.code.code(), "55000", "{statement}: {error}");
            assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("REINDEX")), "{error}");
        }
    }
    // It holds the one's vectors and will need the other.
    for name in ["tiny", "other"] {
        assert_eq!(used_by(&mut session, name), "{\"index public.by_text\"}");
        assert_eq!(refused(&mut session, name), "It is used by index public.by_text.");
    }
    session.sql("ALTER INDEX by_text RESET (model); INSERT INTO docs VALUES (22, 'the cat 22')");
    session.sql(
        "ALTER INDEX by_text SET (model = 'tiny'); INSERT INTO docs VALUES (23, 'the cat 23')",
    );
    session.sql("BEGIN; ALTER INDEX by_text SET (model = 'other'); REINDEX INDEX by_text; COMMIT");
    session.sql("INSERT INTO docs VALUES (24, 'the cat 24')");
    assert_eq!(session.one("SELECT distilface.index_revision('by_text'::regclass, true)"), other);
    assert_eq!(another.one(nearest), "7");
    session.assert_sound("by_text");
    session.sql("SELECT distilface_model_drop('tiny')");
}

#[test]
fn pipelines_are_named_among_what_uses_a_model() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    load(&cluster, &mut session, "tiny", &TinyModel::default());
    docs(&mut session);
    session.sql("ALTER TABLE docs ADD PRIMARY KEY (id)");
    session.sql(
        "CALL distilface_vectorize('docs', 'body', 'E e', model => 'tiny', build_index => 'none')",
    );
    session.sql("CALL distilface_vectorize('docs', 'body', 'parts', model => 'tiny', chunk_tokens => 16, build_index => 'none')");
    let pipelines =
        ["pipeline of table public.docs into \"E e\"", "pipeline of table public.docs into parts"];
    let listed = "SELECT unnest(used_by) FROM distilface.models WHERE name = 'tiny'";
    assert_eq!(session.column(listed), pipelines);
    assert_eq!(refused(&mut session, "tiny"), format!("It is used by {}.", pipelines.join(", ")));
    session.sql("SELECT distilface_unvectorize('docs')");
    session.sql("SELECT distilface_model_drop('tiny')");
}

#[test]
fn a_name_goes_while_another_of_its_revision_stays() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let model = TinyModel::default();
    for name in ["a", "b", "c"] {
        load(&cluster, &mut session, name, &model);
    }
    docs(&mut session);
    session.sql(
        "SELECT distilface_model_alias('default', 'a');
         CREATE INDEX by_default ON docs USING distilface_hnsw (body);
         SELECT distilface_model_alias('default', 'distilface-small');
         CREATE INDEX by_name ON docs USING distilface_hnsw (body) WITH (model = 'b')",
    );
    assert_eq!(refused(&mut session, "b"), "It is used by index public.by_name.");
    session.sql("SELECT distilface_model_drop('a')");
    session.sql("DROP INDEX by_name; SELECT distilface_model_drop('b')");
    assert_eq!(refused(&mut session, "c"), "It is used by index public.by_default.");
    session.sql("SET enable_seqscan = off");
    assert_eq!(session.one("SELECT id FROM docs ORDER BY body <=> 'the cat 7' LIMIT 1"), "7");
}

/// Each would see the other's name.
#[test]
fn the_last_two_names_of_a_revision_do_not_go_at_once() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let model = TinyModel::default();
    for name in ["a", "b"] {
        load(&cluster, &mut session, name, &model);
    }
    docs(&mut session);
    session.sql(
        "SELECT distilface_model_alias('default', 'a');
         CREATE INDEX by_default ON docs USING distilface_hnsw (body);
         SELECT distilface_model_alias('default', 'distilface-small');
         BEGIN; SELECT distilface_model_drop('a')",
    );
    let mut other = cluster.session();
    let pid = other.pid();
    std::thread::scope(|scope| {
        let drop = scope.spawn(move || other.try_sql("SELECT distilface_model_drop('b')"));
        let blocked = format!("SELECT cardinality(pg_blocking_pids({pid})) > 0");
        let mut watcher = cluster.session();
        while !drop.is_finished() && watcher.one(&blocked) != "t" {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        session.sql("COMMIT");
        let refused = drop.join().expect("the session does not panic").expect_err("it is used");
        assert_eq!(refused.code.code(), "2BP01", "{refused}");
    });
}

#[test]
fn a_role_that_is_gone_has_no_right_and_comes_into_no_dump() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE ROLE keeper; GRANT pg_read_server_files TO keeper; CREATE ROLE gone; CREATE ROLE team;
         CREATE ROLE reader LOGIN; SET ROLE keeper",
    );
    load(&cluster, &mut session, "tiny", &TinyModel::default());
    session.sql("RESET ROLE");
    for role in ["gone", "team", "public"] {
        session.sql(&format!("SELECT distilface_model_grant('tiny', '{role}')"));
    }
    session.sql("DROP ROLE gone; DROP ROLE keeper");
    let owner = "SELECT coalesce(owner, 'none') FROM distilface.models WHERE name = 'tiny'";
    assert_eq!(session.one(owner), "none");
    let dump = cluster.dump("postgres");
    let rights = dump.split("\nCOPY distilface.model_role").nth(1).expect("rights are dumped");
    let rows: Vec<&str> = rights.lines().skip(1).take_while(|line| *line != "\\.").collect();
    assert_eq!(rows, ["tiny\tteam\tf", "tiny\t-\tf"]);

    session.sql("SELECT distilface_model_owner('tiny', 'reader')");
    assert_eq!(session.one(owner), "reader");
    assert_eq!(
        session.column("SELECT concat_ws(' ', role, owns) FROM distilface.model_role ORDER BY 1"),
        ["- f", "reader t", "team f"]
    );
    let mut reader = cluster.session_as("reader", "postgres");
    for (role, code) in [("team", "42501"), ("public", "0LP01"), ("nobody", "42704")] {
        let give = format!("SELECT distilface_model_owner('tiny', '{role}')");
        assert_eq!(reader.error(&give).code.code(), code, "{role}");
    }
    session.sql("GRANT team TO reader");
    reader.sql("SELECT distilface_model_owner('tiny', 'team')");
    assert_eq!(session.one(owner), "team");
    session.sql("REVOKE team FROM reader");
    let error = reader.error("SELECT distilface_model_owner('tiny', 'reader')");
    assert_eq!(error.code.code(), "42501", "{error}");
}
