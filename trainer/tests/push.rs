//! `distilface-train push`: from a directory on a client into the database.

use std::process::Command;

use distilface_tests::{Cluster, TinyModel};

#[test]
fn a_client_pushes_a_model_into_the_database() {
    let cluster = Cluster::start();
    let source = TinyModel::default().write(cluster.host());
    let out = cluster.host().join("imported");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_distilface-train"))
            .args(arguments)
            .output()
            .expect("it can be started");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let path = |path: &std::path::Path| path.display().to_string();
    let (done, said) = run(&["import", &path(&source), "--out", &path(&out), "--name", "tiny-v1"]);
    assert!(done, "{said}");
    let host = path(cluster.host()).replace('/', "%2F");
    let url = |user: &str| format!("postgres://{user}@{host}/postgres");
    let (done, said) =
        run(&["push", &path(&out), &url("postgres"), "--grant", "public", "--default"]);
    assert!(done, "{said}");
    let mut session = cluster.session();
    assert_eq!(session.one("SELECT embedding_dims(distilface_embed('the cat'))"), "32");
    assert_eq!(session.one("SELECT count(*) FROM pg_largeobject_metadata"), "0");
    // The same as what the server makes of the directory itself.
    session.sql(&format!("SELECT distilface_model_load('tiny-loaded', '{}')", source.display()));
    let same = "SELECT distilface_embed('the cat', 'tiny-v1') = distilface_embed('the cat', 'tiny-loaded')";
    assert_eq!(session.one(same), "t");

    session.sql("CREATE ROLE plain LOGIN");
    let (done, said) = run(&["push", &path(&out), &url("plain"), "--name", "mine"]);
    assert!(!done && said.contains("permission denied to load a model"), "{said}");
    assert_eq!(session.one("SELECT count(*) FROM pg_largeobject_metadata"), "0");
    let (done, said) = run(&["push", &path(&source), &url("postgres")]);
    assert!(!done && said.contains("distilface.json"), "{said}");
}
