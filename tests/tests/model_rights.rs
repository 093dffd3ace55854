//! Test 21, for models: what a plain role must not get at.

use distilface_core::encoder::pack_model;
use distilface_core::model::{ImportOptions, open_any};
use distilface_tests::{Cluster, TinyModel};

#[test]
fn a_plain_role_gets_at_no_model_that_is_not_granted() {
    let cluster = Cluster::start();
    let dir = TinyModel::default().write(cluster.host());
    let mut owner = cluster.session();
    owner.sql(
        "CREATE ROLE plain LOGIN; CREATE ROLE team; CREATE ROLE member LOGIN IN ROLE team;
         CREATE ROLE loader LOGIN IN ROLE pg_read_server_files;
         GRANT CREATE ON DATABASE postgres TO plain; GRANT CREATE ON SCHEMA public TO plain, loader",
    );
    let mut loader = cluster.session_as("loader", "postgres");
    loader.sql(&format!("SELECT distilface_model_load('tiny', '{}')", dir.display()));
    let mut plain = cluster.session_as("plain", "postgres");
    let mut member = cluster.session_as("member", "postgres");
    let use_it = "SELECT embedding_dims(distilface_embed('the cat', 'tiny'))";

    // Loading, changing, reading and writing are denied, by whatever path.
    let load = |path: &str| format!("SELECT distilface_model_load('mine', '{path}')");
    for denied in [
        load(&dir.display().to_string()),
        load("/etc"),
        load("../../../etc"),
        load("/proc/self"),
        "SELECT distilface_model_import('mine', 1)".to_owned(),
        "SELECT distilface_model_alias('default', 'tiny')".to_owned(),
        "SELECT distilface_model_drop('tiny')".to_owned(),
        "SELECT distilface_model_grant('tiny', 'plain')".to_owned(),
        "SELECT distilface_model_grant('tiny', 'public')".to_owned(),
        "SELECT distilface_model_revoke('tiny', 'loader')".to_owned(),
        "SELECT * FROM distilface.model".to_owned(),
        "SELECT * FROM distilface.model_part".to_owned(),
        "SELECT * FROM distilface.model_role".to_owned(),
        "INSERT INTO distilface.model_role VALUES ('tiny', 'plain', true)".to_owned(),
        "INSERT INTO distilface.model_alias VALUES ('default', 'tiny')".to_owned(),
        "UPDATE distilface.model SET builtin = true".to_owned(),
        "DELETE FROM distilface.model_part".to_owned(),
        "TRUNCATE distilface.model_part".to_owned(),
        "COPY distilface.model_part TO STDOUT".to_owned(),
        "ALTER TABLE distilface.model DISABLE TRIGGER ALL".to_owned(),
        "CREATE TABLE distilface.mine ()".to_owned(),
        "CREATE FUNCTION distilface.mine() RETURNS int LANGUAGE sql RETURN 1".to_owned(),
        "SELECT distilface.put_model('a', 'b', 'c', true, 1, '', '{}', 10::oid, false)".to_owned(),
        "SELECT distilface.drop_model('tiny')".to_owned(),
        "SELECT * FROM distilface.model_calls()".to_owned(),
        "SELECT * FROM distilface.model_uses(true)".to_owned(),
        "SELECT distilface.index_revision(1, true)".to_owned(),
        "CREATE INDEX ON t USING distilface_hnsw (body) WITH (model = 'tiny')".to_owned(),
        use_it.to_owned(),
        "SELECT distilface_similarity('a', 'b', 'tiny')".to_owned(),
        "SELECT distilface_token_count('a', 'tiny')".to_owned(),
        "SELECT distilface_chunk('a', 10, 0, 'tiny')".to_owned(),
        "SELECT distilface_rerank('a', ARRAY['b'], 'tiny')".to_owned(),
        "SELECT distilface.keep_model('tiny')".to_owned(),
    ] {
        plain.sql("CREATE TABLE IF NOT EXISTS t (body text)");
        let error = plain.error(&denied);
        assert_eq!(error.code.code(), "42501", "{denied}: {error}");
    }
    // Names that would be paths.
    for name in ["../x", "a/b", "", ".", "A", "default", "x\ny"] {
        let error =
            loader.error(&format!("SELECT distilface_model_load('{name}', '{}')", dir.display()));
        assert_eq!(error.code.code(), "42602", "{name}: {error}");
    }
    // A search path of traps is not walked with anybody else's rights.
    plain.sql(
        "CREATE SCHEMA trap;
         GRANT USAGE ON SCHEMA trap TO PUBLIC",
    );
    plain.sql(
        "CREATE FUNCTION trap.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             IF current_user <> 'plain' AND current_user <> 'loader' THEN RAISE EXCEPTION 'trapped %', current_user; END IF; RETURN true; END $$;
         CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, PROCEDURE = trap.eq)",
    );
    loader.sql("SET search_path = trap, pg_catalog, public");
    loader.sql(
        "SELECT distilface_model_grant('tiny', 'plain'), distilface_model_revoke('tiny', 'plain')",
    );
    loader.sql(&format!(
        "SELECT distilface_model_load('other', '{}')",
        TinyModel::seed(2).write(cluster.host()).display()
    ));
    loader.sql(
        "SELECT * FROM distilface.models; SELECT distilface_model_drop('other'); RESET search_path",
    );

    // What is granted can be used: by the role, by its members, by everybody; until it is revoked.
    loader.sql("SELECT distilface_model_grant('tiny', 'team')");
    assert_eq!(member.one(use_it), "32");
    assert_eq!(plain.error(use_it).code.code(), "42501");
    owner.sql("REVOKE team FROM member");
    assert_eq!(member.error(use_it).code.code(), "42501");
    loader.sql("SELECT distilface_model_grant('tiny', 'public')");
    assert_eq!(plain.one(use_it), "32");
    plain.sql("CREATE INDEX ON t USING distilface_hnsw (body) WITH (model = 'tiny'); INSERT INTO t VALUES ('a')");
    loader.sql("SELECT distilface_model_revoke('tiny', 'public')");
    assert_eq!(plain.error(use_it).code.code(), "42501");
    // An index serves whoever may use it, as its function does.
    plain.sql("INSERT INTO t VALUES ('b')");
    // The owner cannot lock himself out, and a role that is gone leaves nothing.
    loader.sql("SELECT distilface_model_revoke('tiny', 'loader')");
    assert_eq!(loader.one(use_it), "32");
    assert_eq!(
        loader.error("SELECT distilface_model_grant('tiny', 'nobody')").code.code(),
        "42704"
    );
    assert_eq!(
        loader.error("SELECT distilface_model_grant('distilface-small', 'plain')").code.code(),
        "42809"
    );
    // Everybody sees that the model is there.
    assert_eq!(plain.one("SELECT owner FROM distilface.models WHERE name = 'tiny'"), "loader");
}

#[test]
fn a_large_object_is_taken_only_whole_and_from_who_may_read_it() {
    let cluster = Cluster::start();
    let dir = TinyModel::default().write(cluster.host());
    let options = ImportOptions { name: Some("tiny".to_owned()), ..ImportOptions::default() };
    let model = open_any(&dir, &options, &mut |_| ()).expect("the directory is sound");
    let block = pack_model(&model).expect("it packs");
    let mut session = cluster.session();
    let mut import = |name: &str, bytes: &[u8]| {
        let put = "SELECT lo_from_bytea(0, $1)";
        let oid: u32 = session.client().query_one(put, &[&bytes]).unwrap().get(0);
        session.try_sql(&format!("SELECT distilface_model_import('{name}', {oid})"))
    };
    import("tiny", &block).expect("the block is whole");
    let other = TinyModel::seed(2).write(cluster.host());
    let other = pack_model(&open_any(&other, &options, &mut |_| ()).unwrap()).unwrap();

    let sign = |mut block: Vec<u8>| {
        use sha2::{Digest, Sha256};
        let digest = Sha256::new().chain_update(&block[..24]).chain_update(&block[64..]).finalize();
        block[24..56].copy_from_slice(&digest);
        block
    };
    let mut flipped = other.clone();
    flipped[other.len() / 2] ^= 1;
    // The last layer's last norm is floats; NaN, signed by its maker.
    let mut not_finite = other.clone();
    let end = not_finite.len() - 8;
    not_finite[end - 4..end].copy_from_slice(&f32::NAN.to_le_bytes());
    // Another model's weights under the revision of the first.
    let (mine, theirs) = (model.manifest().revision.clone(), {
        let packed = distilface_core::model::Packed::open(&other).unwrap();
        packed.manifest().unwrap().to_json()
    });
    assert_eq!(theirs.windows(64).filter(|w| *w == mine.as_bytes()).count(), 0);
    let mut stolen = other.clone();
    let at = other.windows(theirs.len()).position(|w| w == theirs).unwrap();
    let own = model.manifest().to_json();
    assert_eq!(own.len(), theirs.len(), "manifests of equal length, for the test");
    stolen[at..at + own.len()].copy_from_slice(&own);

    for (what, bytes) in [
        ("flipped", flipped),
        ("truncated", other[..other.len() - 64].to_vec()),
        ("longer", [other.clone(), vec![0; 64]].concat()),
        ("header only", other[..64].to_vec()),
        ("empty", Vec::new()),
        ("text", b"hello".to_vec()),
        ("not finite", sign(not_finite)),
        ("stolen revision", sign(stolen)),
    ] {
        let error = import("other", &bytes).expect_err(what);
        let expected = if what == "stolen revision" { "42710" } else { "22023" };
        assert_eq!(error.code.code(), expected, "{what}: {error}");
        assert!(!error.message.contains('\n'), "{what}: {error}");
    }
    import("other", &other).expect("the block is whole");

    let mut session = cluster.session();
    session.sql(
        "CREATE ROLE loader LOGIN IN ROLE pg_read_server_files; SELECT lo_from_bytea(4711, 'x')",
    );
    let mut loader = cluster.session_as("loader", "postgres");
    let error = loader.error("SELECT distilface_model_import('mine', 4711)");
    assert_eq!(error.code.code(), "42501", "{error}");
    assert_eq!(loader.error("SELECT distilface_model_import('mine', 4712)").code.code(), "42704");
}
