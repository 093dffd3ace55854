//! Models as database objects: what `distilface_model_load` and its siblings promise.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use distilface_core::encoder::pack_model;
use distilface_core::model::{ImportOptions, open_any};
use distilface_tests::{Cluster, Session, TinyModel, skip};

const BUILTIN: &str = "distilface-small";

/// Loads a tiny model; gives its revision.
fn load(cluster: &Cluster, session: &mut Session, name: &str, model: &TinyModel) -> String {
    let dir = model.write(cluster.host());
    session.one(&format!("SELECT distilface_model_load('{name}', '{}')", dir.display()))
}

fn copies(cluster: &Cluster) -> Vec<PathBuf> {
    let Ok(files) = fs::read_dir(cluster.data().join("base/pgsql_tmp")) else { return Vec::new() };
    files.flatten().map(|file| file.path()).collect()
}

const EMBED: &str = "SELECT distilface_embed('the cat on a river', 'tiny')::text";

#[test]
fn a_loaded_model_embeds_for_every_backend_through_one_copy() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let revision = load(&cluster, &mut session, "tiny", &TinyModel::default());
    let first = session.one(EMBED);
    assert_eq!(cluster.one(EMBED), first);
    assert_ne!(session.one(&EMBED.replace("a river", "the river")), first);
    let row = "SELECT concat_ws(' ', revision, architecture, dimensions, max_tokens, pooling, builtin, owner, is_default, used_by::text) \
               FROM distilface.models WHERE name = 'tiny'";
    assert_eq!(session.one(row), format!("{revision} distilbert 32 64 mean f postgres f {{}}"));
    assert_eq!(session.one("SELECT embedding_dims(distilface_embed('a', 'tiny'))"), "32");
    assert_eq!(session.one("SELECT distilface_token_count('a cat', 'tiny')"), "4");

    let copies = copies(&cluster);
    assert_eq!(copies.len(), 1, "{copies:?}");
    let mode = fs::metadata(&copies[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Loading the same again changes nothing; another model does not get the name.
    assert_eq!(load(&cluster, &mut session, "tiny", &TinyModel::default()), revision);
    let other = TinyModel::seed(2).write(cluster.host());
    let error =
        session.error(&format!("SELECT distilface_model_load('tiny', '{}')", other.display()));
    assert_eq!(error.code.code(), "42710", "{error}");
    assert!(error.hint.is_some(), "{error}");
    assert_eq!(session.one(EMBED), first);
}

/// What is in the repository of our own models, and what a client that built one may copy alone.
#[test]
fn a_directory_that_holds_a_packed_model_alone_loads_as_its_weights_do() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let revision = load(&cluster, &mut session, "tiny", &TinyModel::default());
    let (packed, manifest) = packed(&cluster, &TinyModel::default());
    let dir = cluster.host().join("packed");
    fs::create_dir(&dir).unwrap();
    let (block, beside) = (dir.join("model.packed"), dir.join("distilface.json"));
    let load = |name: &str| format!("SELECT distilface_model_load('{name}', '{}')", dir.display());
    fs::write(&block, &packed).unwrap();
    fs::write(dir.join("README.md"), "a card").unwrap();
    assert_eq!(session.one(&load("alone")), revision);
    let embed = |name: &str| EMBED.replace("'tiny'", &format!("'{name}'"));
    let vector = session.one(&embed("alone"));
    assert_eq!(vector, session.one(EMBED));
    let row = "SELECT source FROM distilface.models WHERE name = 'alone'";
    assert_eq!(session.one(row), format!("directory {}", dir.display()));
    fs::write(&beside, &manifest).unwrap();
    assert_eq!(session.one(&load("described")), revision);

    let refused = |session: &mut Session, code: &str, message: &str| {
        let error = session.error(&load("refused"));
        assert_eq!(error.code.code(), code, "{error}");
        assert!(error.message.contains(message) && error.hint.is_some(), "{error}");
    };
    let (_, other) = self::packed(&cluster, &TinyModel::seed(2));
    fs::write(&beside, &other).unwrap();
    refused(&mut session, "22023", "distilface.json, revision");
    fs::remove_file(&beside).unwrap();
    let mut damaged = packed.clone();
    damaged[packed.len() / 2] ^= 1;
    fs::write(&block, &damaged).unwrap();
    refused(&mut session, "22023", "content of the stored sha256");
    fs::write(&block, &packed[..packed.len() - 1]).unwrap();
    refused(&mut session, "22023", "the stated length");
    fs::remove_file(&block).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&block).status().unwrap();
    assert!(made.success());
    refused(&mut session, "58P01", "not a regular file");
}

/// A tiny model's packed form and its manifest.
fn packed(cluster: &Cluster, model: &TinyModel) -> (Vec<u8>, Vec<u8>) {
    let options = ImportOptions { name: Some("tiny".to_owned()), ..ImportOptions::default() };
    let model = open_any(&model.write(cluster.host()), &options, &mut |_| ()).unwrap();
    (pack_model(&model).unwrap(), model.manifest().to_json())
}

#[test]
fn a_missing_or_damaged_copy_is_made_again() {
    let mut cluster = Cluster::start();
    load(&cluster, &mut cluster.session(), "tiny", &TinyModel::default());
    let mut old = cluster.session();
    let first = old.one(EMBED);
    let copy = copies(&cluster).remove(0);
    let good = fs::read(&copy).unwrap();

    // Gone, under a backend that has it mapped.
    fs::remove_file(&copy).unwrap();
    assert_eq!(old.one(&EMBED.replace("cat", "dog").replace("dog", "cat")), first);
    assert_eq!(cluster.one(EMBED), first);
    assert_eq!(fs::read(&copy).unwrap(), good);

    let damages: [&dyn Fn(); 4] = [
        &|| fs::write(&copy, &good[..good.len() / 2]).unwrap(),
        &|| fs::write(&copy, b"").unwrap(),
        &|| fs::write(&copy, vec![0; good.len()]).unwrap(),
        &|| {
            let file = fs::OpenOptions::new().write(true).open(&copy).unwrap();
            file.write_all_at(&[good[good.len() / 3] ^ 1], (good.len() / 3) as u64).unwrap();
        },
    ];
    for (which, damage) in damages.iter().enumerate() {
        // A new file: what a backend has mapped is never written to.
        fs::remove_file(&copy).unwrap();
        fs::write(&copy, &good).unwrap();
        damage();
        assert_eq!(cluster.one(EMBED), first, "damage {which}");
        assert_eq!(fs::read(&copy).unwrap(), good, "damage {which}");
    }

    // PostgreSQL removes copies and even the folder may be gone.
    cluster.stop();
    fs::remove_dir_all(cluster.data().join("base/pgsql_tmp")).unwrap();
    cluster.restart();
    assert_eq!(cluster.one(EMBED), first);
    assert_eq!(fs::read(&copy).unwrap(), good);
}

#[test]
fn backends_that_want_a_copy_at_once_make_one() {
    let cluster = Cluster::start();
    let model = TinyModel { hidden: 128, ..TinyModel::default() };
    load(&cluster, &mut cluster.session(), "tiny", &model);
    for _ in 0..3 {
        for copy in copies(&cluster) {
            fs::remove_file(copy).unwrap();
        }
        let barrier = std::sync::Barrier::new(12);
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    let mut session = cluster.session();
                    barrier.wait();
                    assert_eq!(session.one(&EMBED.replace("::text", " IS NULL")), "f");
                });
            }
        });
        assert_eq!(copies(&cluster).len(), 1, "{:?}", copies(&cluster));
    }
}

/// A tmpfs over the folder of copies is too small for one.
#[test]
fn a_full_disk_is_an_error_and_nothing_is_left_behind() {
    let cluster = Cluster::start();
    let model = TinyModel { hidden: 256, ..TinyModel::default() };
    load(&cluster, &mut cluster.session(), "tiny", &model);
    let folder = cluster.data().join("base/pgsql_tmp");
    fs::create_dir_all(&folder).unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k,mode=0777", "none"])
        .arg(&folder)
        .output();
    if !mount.is_ok_and(|mount| mount.status.success()) {
        skip!("this machine lets nobody mount a tmpfs");
    }
    let mut session = cluster.session();
    let error = session.try_sql(EMBED);
    let left = copies(&cluster);
    let unmounted = std::process::Command::new("umount").arg(&folder).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    let error = error.expect_err("the disk is full");
    assert_eq!(error.code.code(), "53100", "{error}");
    assert!(left.is_empty(), "{left:?}");
    fs::remove_dir(&folder).unwrap();
    assert_eq!(session.one(EMBED), cluster.one(EMBED));
}

#[test]
fn the_default_alias_moves_for_every_session_and_pinned_calls_stay() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let mut other = cluster.session();
    assert_eq!(other.one("SELECT embedding_dims(distilface_embed('a cat'))"), "384");
    load(&cluster, &mut session, "tiny", &TinyModel::default());
    session.sql("BEGIN; SELECT distilface_model_alias('default', 'tiny')");
    assert_eq!(session.one("SELECT embedding_dims(distilface_embed('a cat'))"), "32");
    assert_eq!(other.one("SELECT embedding_dims(distilface_embed('a cat'))"), "384");
    session.sql("ROLLBACK");
    assert_eq!(session.one("SELECT embedding_dims(distilface_embed('a cat'))"), "384");
    session.sql("SELECT distilface_model_alias('default', 'tiny')");
    assert_eq!(other.one("SELECT embedding_dims(distilface_embed('a cat'))"), "32");
    assert_eq!(
        other.one(&format!("SELECT embedding_dims(distilface_embed('x', '{BUILTIN}'))")),
        "384"
    );
    assert_eq!(other.one("SELECT name FROM distilface.models WHERE is_default"), "tiny");
    // Only a model's own name is fit for what must not change.
    assert_eq!(other.error("SELECT distilface_embed('x', 'default')").code.code(), "42704");
    assert_eq!(session.error("SELECT distilface_model_alias('prod', 'tiny')").code.code(), "42602");
    assert_eq!(
        session.error("SELECT distilface_model_alias('default', 'no')").code.code(),
        "42704"
    );
    let error = session.error("SELECT distilface_model_drop('tiny')");
    assert_eq!(error.code.code(), "2BP01", "{error}");
    // Back to the built-in one, which the tables then have.
    session.sql(&format!("SELECT distilface_model_alias('default', '{BUILTIN}')"));
    assert_eq!(other.one("SELECT embedding_dims(distilface_embed('a cat'))"), "384");
    assert_eq!(other.one("SELECT name FROM distilface.model WHERE builtin"), BUILTIN);
    session.sql("SELECT distilface_model_drop('tiny')");
    assert_eq!(other.error(EMBED).code.code(), "42704");
}

#[test]
fn a_model_in_use_is_not_dropped_and_a_dropped_name_keeps_its_revision() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let revision = load(&cluster, &mut session, "tiny", &TinyModel::default());
    session.sql("CREATE TABLE docs (id int, body text); INSERT INTO docs VALUES (1, 'the cat'), (2, 'a river')");
    for (make, drop, used_by) in [
        (
            "CREATE INDEX by_text ON docs USING distilface_hnsw (body) WITH (model = 'tiny')",
            "DROP INDEX by_text",
            "index public.by_text",
        ),
        (
            "CREATE INDEX by_expression ON docs USING distilface_hnsw ((distilface_embed(body, 'tiny')::embedding(32)))",
            "DROP INDEX by_expression",
            "index public.by_expression",
        ),
        (
            "CREATE VIEW v AS SELECT distilface_similarity(body, 'cat', 'tiny') AS s FROM docs",
            "DROP VIEW v",
            "rule _RETURN on view public.v",
        ),
        (
            "ALTER TABLE docs ADD e embedding DEFAULT distilface_embed('a cat', 'tiny')",
            "ALTER TABLE docs DROP e",
            "column public.docs.e",
        ),
        (
            "CREATE TABLE pipe (model text COLLATE \"C\" REFERENCES distilface.model); INSERT INTO pipe VALUES ('tiny')",
            "DROP TABLE pipe",
            "1 rows of table public.pipe",
        ),
        (
            "CREATE FUNCTION f() RETURNS embedding BEGIN ATOMIC SELECT distilface_embed('a', 'tiny'); END",
            "DROP FUNCTION f",
            "function public.f()",
        ),
    ] {
        session.sql(make);
        let error = session.error("SELECT distilface_model_drop('tiny')");
        assert_eq!(error.code.code(), "2BP01", "{error}");
        assert_eq!(error.detail.as_deref(), Some(&*format!("It is used by {used_by}.")), "{error}");
        if !used_by.contains("pipe") {
            let seen =
                session.one("SELECT used_by::text FROM distilface.models WHERE name = 'tiny'");
            assert!(seen.contains(used_by), "{seen}");
        }
        session.sql(drop);
    }
    let before = session.one(EMBED);
    session.sql("SELECT distilface_model_drop('tiny')");
    assert!(copies(&cluster).is_empty());
    assert_eq!(session.one("SELECT count(*) FROM distilface.model_part"), "0");
    assert_eq!(session.error(EMBED).code.code(), "42704");
    assert_eq!(session.one("SELECT count(*) FROM distilface.models WHERE name = 'tiny'"), "0");
    let other = TinyModel::seed(2).write(cluster.host());
    let again = format!("SELECT distilface_model_load('tiny', '{}')", other.display());
    assert_eq!(session.error(&again).code.code(), "42710");
    assert_eq!(load(&cluster, &mut session, "tiny", &TinyModel::default()), revision);
    assert_eq!(session.one(EMBED), before);
    let error = session.error(&format!("SELECT distilface_model_drop('{BUILTIN}')"));
    assert_eq!(error.code.code(), "42809", "{error}");
}

#[test]
fn generated_columns_and_constraints_take_builtin_models_only() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    load(&cluster, &mut session, "tiny", &TinyModel::default());
    let column = |model: &str| {
        format!("e embedding GENERATED ALWAYS AS (distilface_embed(body, '{model}')) STORED")
    };
    session.sql("CREATE TABLE plain (body text)");
    for (statement, code) in [
        (format!("CREATE TABLE t (body text, {})", column("tiny")), "0A000"),
        (format!("ALTER TABLE plain ADD {}", column("tiny")), "0A000"),
        (format!("CREATE TABLE t (body text, {})", column("unknown")), "42704"),
        (
            "CREATE TABLE t (body text CHECK (distilface_token_count(body, 'tiny') < 9))"
                .to_owned(),
            "0A000",
        ),
        (
            "ALTER TABLE plain ADD CHECK (distilface_similarity(body, 'x', 'tiny') > 0)".to_owned(),
            "0A000",
        ),
    ] {
        // A backend that has not loaded the library yet.
        let error = cluster.error(&statement);
        assert_eq!(error.code.code(), code, "{statement}: {error}");
        assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("built")), "{error}");
    }
    session.sql(&format!("CREATE TABLE t (body text, {})", column(BUILTIN)));
    session.sql("INSERT INTO t VALUES ('a cat')");
    assert_eq!(session.one("SELECT embedding_dims(e) FROM t"), "384");
    // Those that the trigger has not seen are found when the model comes.
    session.sql(&format!(
        "SET session_replication_role = replica; CREATE TABLE unseen (body text, {}); RESET session_replication_role",
        column("later")
    ));
    let later = TinyModel::seed(2).write(cluster.host());
    let error =
        session.error(&format!("SELECT distilface_model_load('later', '{}')", later.display()));
    assert_eq!(error.code.code(), "0A000", "{error}");
}

#[test]
fn a_dump_brings_models_aliases_rights_and_what_uses_them() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    load(&cluster, &mut session, "tiny", &TinyModel::default());
    // The schema sorts before ours, in every restore order by name.
    session.sql(&format!(
        "CREATE ROLE reader LOGIN; SELECT distilface_model_grant('tiny', 'reader');
         CREATE SCHEMA a_first;
         CREATE TABLE a_first.docs (id int, body text, e embedding(384) GENERATED ALWAYS AS (distilface_embed(body, '{BUILTIN}')) STORED);
         INSERT INTO a_first.docs SELECT i, 'the cat ' || i FROM generate_series(1, 40) i;
         CREATE INDEX by_vector ON a_first.docs USING distilface_hnsw (e);
         CREATE INDEX by_expression ON a_first.docs USING distilface_hnsw ((distilface_embed(body, 'tiny')::embedding(32)));
         CREATE INDEX by_text ON a_first.docs USING distilface_hnsw (body) WITH (model = 'tiny');
         CREATE INDEX by_default ON a_first.docs USING distilface_hnsw (body);
         SELECT distilface_model_alias('default', 'tiny')"
    ));
    let file = cluster.host().join("dump");
    let dump = cluster.program("pg_dump").args(["-Fc", "-d", "postgres", "-f"]).arg(&file).output();
    assert!(dump.expect("pg_dump runs").status.success());
    cluster.sql("CREATE DATABASE restored TEMPLATE template0");
    let restore = cluster
        .program("pg_restore")
        .args(["-d", "restored", "--exit-on-error", "-j", "4"])
        .arg(&file)
        .output()
        .expect("pg_restore runs");
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    let mut restored = cluster.session_as("postgres", "restored");
    for query in [
        "SELECT id, e::text FROM a_first.docs ORDER BY id",
        "SELECT name, revision, sha256, builtin FROM distilface.model ORDER BY name",
        "SELECT alias, name FROM distilface.model_alias",
        "SELECT name, role::text, owns FROM distilface.model_role ORDER BY 1, 2",
        "SELECT distilface_embed('the cat')::text, distilface_embed('the cat', 'tiny')::text",
    ] {
        assert_eq!(restored.rows(query), session.rows(query), "{query}");
    }
    restored.sql("SET enable_seqscan = off");
    let nearest = "SELECT id FROM a_first.docs ORDER BY body <=> 'the cat 7' LIMIT 1";
    assert_eq!(restored.one(nearest), "7");
    for index in ["by_vector", "by_expression", "by_text", "by_default"] {
        restored.assert_sound(&format!("a_first.{index}"));
    }
    let uses = restored.one("SELECT used_by::text FROM distilface.models WHERE name = 'tiny'");
    for index in ["by_expression", "by_text", "alias"] {
        assert!(uses.contains(index), "{uses}");
    }
    let mut reader = cluster.session_as("reader", "restored");
    assert_eq!(reader.one("SELECT embedding_dims(distilface_embed('a', 'tiny'))"), "32");
}

#[test]
fn a_standby_embeds_with_what_its_primary_imported() {
    let primary = Cluster::start();
    let standby = primary.standby();
    let mut replica = standby.session();
    assert_eq!(replica.one("SELECT embedding_dims(distilface_embed('x'))"), "384");
    let mut session = primary.session();
    load(&primary, &mut session, "tiny", &TinyModel::default());
    session.sql("SELECT distilface_model_alias('default', 'tiny')");
    let vector = session.one(EMBED);
    standby.wait_for(&primary);
    assert!(copies(&standby).is_empty());
    assert_eq!(replica.one(EMBED), vector);
    assert_eq!(replica.one("SELECT embedding_dims(distilface_embed('x'))"), "32");
    assert_eq!(copies(&standby).len(), 1);
    session.sql(&format!("SELECT distilface_model_alias('default', '{BUILTIN}')"));
    standby.wait_for(&primary);
    assert_eq!(replica.one("SELECT embedding_dims(distilface_embed('x'))"), "384");
    assert_eq!(replica.error("SELECT distilface_model_drop('tiny')").code.code(), "25006");
    // A base backup leaves copies out.
    assert_eq!(copies(&primary).len(), 1);
    let second = primary.standby();
    assert!(copies(&second).is_empty());
    assert_eq!(second.one(EMBED), vector);
}

#[test]
fn prompts_and_shorter_vectors_are_the_manifests() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let model = TinyModel { prompts: Some(("query: ", "passage: ")), ..TinyModel::seed(3) };
    load(&cluster, &mut session, "prompted", &model);
    load(&cluster, &mut session, "plain", &TinyModel { hidden: 48, ..TinyModel::seed(3) });
    let dir = TinyModel::seed(3).write(&{
        let parent = cluster.host().join("without");
        fs::create_dir_all(&parent).unwrap();
        parent
    });
    // As MatryoshkaLoss takes them: the longest, which is the whole vector, first.
    let settings = r#"{"matryoshka_dims": [32, 16, 8]}"#;
    fs::write(dir.join("config_sentence_transformers.json"), settings).unwrap();
    session.sql(&format!("SELECT distilface_model_load('bare', '{}')", dir.display()));
    for (call, text) in
        [("distilface_embed_query", "query: the cat"), ("distilface_embed", "passage: the cat")]
    {
        assert_eq!(
            session.one(&format!(
                "SELECT {call}('the cat', 'prompted') = distilface_embed('{text}', 'bare')"
            )),
            "t"
        );
    }
    assert_eq!(
        session.one(
            "SELECT query_prompt || passage_prompt FROM distilface.models WHERE name = 'prompted'"
        ),
        "query: passage: "
    );
    assert_eq!(
        session.one("SELECT matryoshka_dims FROM distilface.models WHERE name = 'bare'"),
        "[8, 16]"
    );
    let same = "SELECT max(abs(a - b)) < 1e-6 FROM unnest(
        distilface_embed('the cat', 'bare', 8)::real[],
        l2_normalize(subvector(distilface_embed('the cat', 'bare'), 1, 8))::real[]) u(a, b)";
    assert_eq!(session.one(same), "t");
    assert_eq!(session.one("SELECT embedding_dims(distilface_embed_query('x', 'bare', 16))"), "16");
    assert_eq!(
        session.one("SELECT distilface_embed('x', 'bare', 32) = distilface_embed('x', 'bare')"),
        "t"
    );
    let error = session.error("SELECT distilface_embed('x', 'bare', 9)");
    assert_eq!(error.code.code(), "22023", "{error}");
    assert_eq!(error.detail.as_deref(), Some("It was trained for 8, 16, 32."));
}
