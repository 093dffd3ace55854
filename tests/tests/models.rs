//! Models as database objects: what `distilface_model_load` and its siblings promise.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use distilface_tests::{Cluster, Session, TinyModel};

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
    assert_eq!(session.one(&EMBED.replace("a river", "the river")) == first, false);
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
