//! Restores that build indexes before the models are there, as those by several jobs do.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use distilface_tests::{Builder, Cluster, Session, TinyModel, skip};

const BUILTIN: &str = "distilface-small";
const INDEXES: [&str; 9] = [
    "s.by_name",
    "s.by_default",
    "s.by_builtin",
    "s.by_expression",
    "s.by_default_where",
    "s.unlogged",
    "s.of_app",
    "s.parts_0_body",
    "s.parts_1_body",
];

/// Says of a session what every dump says at its beginning.
const AS_A_DUMP: &str = "SELECT pg_catalog.set_config('search_path', '', false); \
    SET check_function_bodies = false; SET row_security = off";

fn load(cluster: &Cluster, session: &mut Session, name: &str, model: &TinyModel) {
    let dir = model.write(cluster.host());
    session.sql(&format!("SELECT distilface_model_load('{name}', '{}')", dir.display()));
}

/// Tables of more bytes than the small tables of models, so that pg_restore takes their indexes first.
fn source(builder: Builder) -> Option<Cluster> {
    let cluster = builder.try_start()?;
    let mut session = cluster.session();
    load(&cluster, &mut session, "tiny", &TinyModel::default());
    load(&cluster, &mut session, "other", &TinyModel::seed(2));
    session.sql(&format!(
        "CREATE ROLE app; CREATE SCHEMA s; GRANT ALL ON SCHEMA s TO app;
         SELECT distilface_model_grant('other', 'app'), distilface_model_grant('tiny', 'public');
         SELECT distilface_model_alias('default', 'tiny');
         CREATE TABLE s.docs AS SELECT i AS id, 'the cat ' || i || ' on a river' AS body FROM generate_series(1, 300) i;
         CREATE TABLE s.more AS SELECT * FROM s.docs;
         CREATE TABLE s.few AS SELECT * FROM s.docs WHERE id <= 60;
         CREATE TABLE s.owned AS SELECT * FROM s.docs; ALTER TABLE s.owned OWNER TO app;
         CREATE TABLE s.parts (id int, body text) PARTITION BY HASH (id);
         CREATE TABLE s.parts_0 PARTITION OF s.parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE s.parts_1 PARTITION OF s.parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO s.parts SELECT * FROM s.docs;
         CREATE INDEX by_name ON s.docs USING distilface_hnsw (body) WITH (model = 'other');
         CREATE INDEX by_default ON s.more USING distilface_hnsw (body);
         CREATE TABLE s.some AS SELECT * FROM s.few; CREATE UNLOGGED TABLE s.fast AS SELECT * FROM s.few;
         CREATE INDEX by_default_where ON s.some USING distilface_hnsw (body) WHERE public.distilface_token_count(body, 'tiny') > 1;
         CREATE INDEX unlogged ON s.fast USING distilface_hnsw (body) WITH (model = 'tiny');
         CREATE INDEX by_builtin ON s.few USING distilface_hnsw (body) WITH (model = '{BUILTIN}');
         CREATE INDEX by_expression ON s.docs USING distilface_hnsw ((public.distilface_embed(body, 'tiny')::public.embedding(32)));
         CREATE INDEX of_app ON s.owned USING distilface_hnsw (body) WITH (model = 'other');
         CREATE INDEX parts_body ON s.parts USING distilface_hnsw (body) WITH (model = 'other');
         ALTER INDEX s.parts_0_body_idx RENAME TO parts_0_body; ALTER INDEX s.parts_1_body_idx RENAME TO parts_1_body"
    ));
    Some(cluster)
}

fn this_version() -> Cluster {
    source(Cluster::builder()).expect("the tests' own version is there")
}

fn dump(cluster: &Cluster, format: &str) -> PathBuf {
    let file = cluster.host().join(format!("dump-{format}"));
    let mut command = cluster.program("pg_dump");
    command.arg(format!("-F{format}")).args(["-Z0", "-d", "postgres", "-f"]).arg(&file);
    let made = command.output().expect("pg_dump runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    file
}

/// A new database of a cluster that has no copy of a model, restored.
fn restore(target: &Cluster, database: &str, dump: &Path, options: &[&str]) -> Session {
    if let Ok(copies) = fs::read_dir(target.data().join("base/pgsql_tmp")) {
        for copy in copies.flatten() {
            fs::remove_file(copy.path()).expect("a copy can be removed");
        }
    }
    target.sql(&format!("CREATE DATABASE {database} TEMPLATE template0"));
    restore_into(target, database, dump, options);
    target.session_as("postgres", database)
}

fn restore_into(target: &Cluster, database: &str, dump: &Path, options: &[&str]) {
    let mut command = target.program("pg_restore");
    command.args(["-d", database, "--exit-on-error"]).args(options).arg(dump);
    let restored = command.output().expect("pg_restore runs");
    let said = String::from_utf8_lossy(&restored.stderr);
    assert!(restored.status.success(), "{options:?}: {said}");
}

const MODELS: &str = "SELECT name, revision, sha256, builtin FROM distilface.model ORDER BY name";
const PARTS: &str = "SELECT sha256, part, md5(content) FROM distilface.model_part ORDER BY 1, 2";

/// What the restored database must have in common with its source.
fn assert_same(source: &mut Session, restored: &mut Session, how: &str) {
    for query in [
        MODELS,
        PARTS,
        "SELECT alias, name FROM distilface.model_alias",
        "SELECT name, role::text, owns FROM distilface.model_role ORDER BY 1, 2",
        "SELECT i.indexrelid::regclass::text, i.indisvalid, i.indisready, distilface.index_revision(i.indexrelid, true)
           FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 's'::regnamespace ORDER BY 1",
    ] {
        assert_eq!(restored.rows(query), source.rows(query), "{how}: {query}");
    }
    for index in INDEXES {
        let of = format!(
            "SELECT i.indrelid::regclass, pg_get_indexdef(i.indexrelid, 1, false) FROM pg_index i WHERE i.indexrelid = '{index}'::regclass"
        );
        let row = source.rows(&of).remove(0);
        let (table, column) = (row[0].clone().unwrap(), row[1].clone().unwrap());
        let word = if column == "body" {
            "'the cat 7'"
        } else {
            "distilface_embed_query('the cat 7', 'tiny')"
        };
        let nearest = format!(
            "SELECT id FROM {table} WHERE distilface_token_count(body, 'tiny') > 1 ORDER BY {column} <=> {word} LIMIT 5"
        );
        for session in [&mut *source, &mut *restored] {
            session.sql("SET enable_seqscan = off; SET enable_sort = off");
        }
        assert_eq!(restored.column(&nearest), source.column(&nearest), "{how}: {index}");
        restored.assert_sound(index);
    }
    assert_eq!(restored.one("SELECT count(*) FROM distilface.unfilled WHERE NOT filled"), "0");
}

#[test]
fn several_jobs_bring_every_model_and_every_index_on_text() {
    let source = this_version();
    by_jobs(&source, &Cluster::start(), &[("c", "2"), ("d", "2"), ("d", "4")]);
}

#[test]
fn several_jobs_bring_them_on_postgresql_18_too() {
    let builder = || Cluster::builder().version(18);
    let (Some(source), Some(target)) = (source(builder()), builder().try_start()) else {
        skip!("no PostgreSQL 18");
    };
    by_jobs(&source, &target, &[("c", "2")]);
}

fn by_jobs(source: &Cluster, target: &Cluster, ways: &[(&str, &str)]) {
    let mut there = source.session();
    target.sql("CREATE ROLE app");
    for &(format, jobs) in ways {
        let dump = dump(source, format);
        let database = format!("{format}{jobs}");
        let mut here = restore(target, &database, &dump, &["-j", jobs]);
        assert_same(&mut there, &mut here, &format!("-F{format} -j{jobs}"));
        fs::remove_dir_all(&dump).or_else(|_| fs::remove_file(&dump)).expect("it is there");
    }
}

/// A list for `pg_restore -L` with the tables of models last, in this order; without them where none is
/// named.
fn list(cluster: &Cluster, dump: &Path, models: &[&str]) -> PathBuf {
    let told = cluster.program("pg_restore").arg("-l").arg(dump).output().expect("pg_restore runs");
    let told = String::from_utf8(told.stdout).expect("a list of ASCII");
    let entry = |line: &&str| line.contains(" TABLE DATA distilface model");
    let mut lines: Vec<&str> = told.lines().filter(|line| !entry(line)).collect();
    for table in models {
        let name = format!(" TABLE DATA distilface {table} ");
        lines.extend(told.lines().find(|line| line.contains(&name)));
    }
    let file = cluster.host().join(format!("list-{}", models.join("-")));
    fs::write(&file, lines.join("\n")).expect("the list can be written");
    file
}

#[test]
fn indexes_that_come_before_their_models_are_filled_when_these_come() {
    let source = this_version();
    let mut there = source.session();
    let dump = dump(&source, "c");
    let target = Cluster::start();
    target.sql("CREATE ROLE app");
    for (at, order) in [
        ["model", "model_part", "model_alias", "model_role"],
        ["model_role", "model_alias", "model_part", "model"],
        ["model_alias", "model_part", "model_role", "model"],
        ["model_part", "model_role", "model", "model_alias"],
    ]
    .iter()
    .enumerate()
    {
        let list = list(&source, &dump, order);
        let mut here = restore(&target, &format!("d{at}"), &dump, &["-L", list.to_str().unwrap()]);
        assert_same(&mut there, &mut here, &format!("{order:?}"));
    }
}

#[test]
fn a_table_whose_index_waits_is_in_use_and_a_load_fills_the_index() {
    let source = this_version();
    let dump = dump(&source, "c");
    let target = Cluster::start();
    target.sql("CREATE ROLE app");
    let without = list(&source, &dump, &[]);
    let mut here = restore(&target, "restored", &dump, &["-L", without.to_str().unwrap()]);
    let state = "SELECT string_agg(i.indisvalid::text || i.indisready, ' ') FROM pg_index i WHERE i.indexrelid IN ('s.by_name'::regclass, 's.parts_body'::regclass)";
    assert_eq!(here.one(state), "falsefalse falsetrue");
    here.sql("INSERT INTO s.docs VALUES (1000, 'a river of words'); UPDATE s.docs SET body = body || ' again' WHERE id = 3");
    let nearest = "SELECT id FROM s.docs ORDER BY body <=> 'a river of words' LIMIT 1";
    here.sql("SET enable_seqscan = off");
    assert_eq!(here.one(nearest), "1000");
    here.sql("SET enable_sort = off");
    load(&target, &mut here, "other", &TinyModel::seed(2));
    assert_eq!(here.one(state), "truetrue truetrue");
    assert_eq!(here.one(nearest), "1000");
    for index in ["s.by_name", "s.parts_0_body"] {
        here.assert_sound(index);
    }
    // Those whose model is still missing, and that of somebody who may not use the model.
    let waiting =
        "SELECT index::regclass FROM distilface.unfilled WHERE NOT filled ORDER BY 1::text";
    assert_eq!(
        here.column(waiting),
        ["s.by_default_where", "s.by_expression", "s.of_app", "s.unlogged"]
    );
    here.sql("SELECT distilface_model_grant('other', 'app')");
    load(&target, &mut here, "tiny", &TinyModel::default());
    assert_eq!(here.column(waiting), [""; 0]);
    // What comes by hand is no restore: an index that follows the default keeps the model that filled it.
    here.sql("SELECT distilface_model_alias('default', 'tiny')");
    assert_eq!(here.one("SELECT count(*) FROM distilface.unfilled"), "0");
    let filled = format!(
        "SELECT distilface.index_revision('s.by_default'::regclass, true) = (SELECT revision FROM distilface.models WHERE name = '{BUILTIN}')"
    );
    assert_eq!(here.one(&filled), "t");
    let error =
        here.error("CREATE INDEX ON s.docs USING distilface_hnsw (body) WITH (model = 'none')");
    assert_eq!(error.code.code(), "42704", "{error}");
}

/// As the documents say: nobody gets the rights of another role.
#[test]
fn where_a_role_is_missing_no_right_is_restored_and_no_model_is_lost() {
    let source = this_version();
    let mut there = source.session();
    let dump = dump(&source, "c");
    let target = Cluster::start();
    target.sql("CREATE DATABASE restored TEMPLATE template0");
    let mut command = target.program("pg_restore");
    let done = command.args(["-j", "2", "-d", "restored"]).arg(&dump).output().expect("it runs");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("role \"app\" does not exist"), "{said}");
    let mut here = target.session_as("postgres", "restored");
    for query in [MODELS, PARTS] {
        assert_eq!(here.rows(query), there.rows(query), "{query}");
    }
    assert_eq!(here.one("SELECT count(*) FROM distilface.model_role"), "0");
    here.assert_sound("s.by_name");
}

#[test]
fn a_backup_role_needs_to_read_all_data_and_to_bypass_row_security() {
    let source = this_version();
    source.sql("CREATE ROLE backup LOGIN; GRANT pg_read_all_data TO backup");
    let dump = || {
        let mut command = source.program("pg_dump");
        command.args(["-U", "backup", "-d", "postgres"]).output().expect("pg_dump runs")
    };
    let refused = String::from_utf8_lossy(&dump().stderr).into_owned();
    assert!(refused.contains("row-level security"), "{refused}");
    source.sql("ALTER ROLE backup BYPASSRLS");
    let script = String::from_utf8(dump().stdout).expect("a dump in UTF-8");
    // A line of the newest servers is another one in each dump.
    let lines = |script: &str| -> Vec<String> {
        script.lines().filter(|line| !line.contains("restrict ")).map(str::to_owned).collect()
    };
    assert!(lines(&script) == lines(&source.dump("postgres")), "as a superuser's");
}

#[test]
fn a_restore_says_which_model_is_another_one_here() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    load(&cluster, &mut session, "tiny", &TinyModel::default());
    session.sql("CREATE ROLE app; SELECT distilface_model_alias('default', 'tiny')");
    session.sql(AS_A_DUMP);
    // What is here already is left out.
    session.sql(
        "INSERT INTO distilface.model SELECT * FROM distilface.model;
         INSERT INTO distilface.model_part SELECT * FROM distilface.model_part;
         INSERT INTO distilface.model_alias SELECT * FROM distilface.model_alias;
         INSERT INTO distilface.model_role SELECT * FROM distilface.model_role",
    );
    for insert in [
        "distilface.model SELECT name, repeat('0', 64), sha256, builtin, bytes, source, loaded_at, manifest FROM distilface.model",
        "distilface.model_alias VALUES ('default', 'distilface-small')",
        "distilface.model_role SELECT name, role, NOT owns FROM distilface.model_role",
    ] {
        let error = session.error(&format!("INSERT INTO {insert}"));
        assert_eq!(error.code.code(), "42710", "{insert}: {error}");
        assert!(error.hint.is_some(), "{error}");
    }
    assert_eq!(session.one("SELECT count(*) FROM distilface.model"), "1");
}

/// The build puts the built-in model's rows where the restore puts them too.
#[test]
fn a_build_and_the_restore_of_its_model_wait_for_each_other() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE docs AS SELECT i AS id, 'the cat ' || i AS body FROM generate_series(1, 20) i;
         CREATE INDEX once ON docs USING distilface_hnsw (body);
         CREATE TABLE model AS SELECT * FROM distilface.model; CREATE TABLE part AS SELECT * FROM distilface.model_part;
         DROP INDEX once",
    );
    let forget = "DELETE FROM distilface.model; DELETE FROM distilface.model_part";
    let build = "CREATE INDEX by_text ON public.docs USING distilface_hnsw (body)";
    let rows = [
        "INSERT INTO distilface.model SELECT * FROM public.model",
        "INSERT INTO distilface.model_part SELECT * FROM public.part",
    ];
    for (first, second) in [(build, rows[0]), (build, rows[1]), (rows[0], build), (rows[1], build)]
    {
        session.sql(forget);
        let [mut one, mut two] = [cluster.session(), cluster.session()];
        one.sql(AS_A_DUMP);
        two.sql(AS_A_DUMP);
        one.sql(&format!("BEGIN; {first}"));
        let pid = two.pid();
        std::thread::scope(|scope| {
            let waits = scope.spawn(move || two.try_sql(second).map(|_| ()));
            let blocked = format!("SELECT cardinality(pg_blocking_pids({pid})) > 0");
            while session.one(&blocked) != "t" {
                assert!(!waits.is_finished(), "{second} does not wait for {first}");
                std::thread::sleep(Duration::from_millis(5));
            }
            one.sql("COMMIT");
            let done = waits.join().expect("the session does not panic");
            assert!(done.is_ok(), "{first}, then {second}: {done:?}");
        });
        // The other half of the restore.
        let mut rest = cluster.session();
        rest.sql(AS_A_DUMP);
        for rows in rows {
            rest.sql(rows);
        }
        assert_eq!(session.one("SELECT count(*) FROM distilface.model"), "1");
        assert_eq!(
            session.one("SELECT count(*) FROM distilface.model_part"),
            session.one("SELECT count(*) FROM part")
        );
        assert_eq!(
            session.one("SELECT indisvalid FROM pg_index WHERE indexrelid = 'by_text'::regclass"),
            "t"
        );
        session.assert_sound("by_text");
        session.sql("DROP INDEX by_text");
    }
}
