//! Training on the rows of a query, from a throwaway server.

#[path = "../../tests/common_model/mod.rs"]
mod common_model;

use std::path::Path;
use std::process::{Command, Output};

use common_model::{TempDir, read_json, write_bert};
use distilface_tests::Cluster;

fn train(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_distilface-train"));
    command.args(arguments).output().expect("the program starts")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

#[test]
fn a_query_gives_the_rows_that_are_trained_on() {
    let temp = TempDir::new("from-database");
    let (source, base) = (temp.path().join("source"), temp.path().join("base"));
    write_bert(&source);
    let imported = train(&["import", path(&source), "--out", path(&base)]);
    assert!(imported.status.success(), "{imported:?}");
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE TABLE texts (id int, body text);
         INSERT INTO texts SELECT i, 'the cat ' || i FROM generate_series(1, 20) AS i;
         INSERT INTO texts VALUES (21, NULL), (22, '  '), (23, 'the cat 1')",
    );
    let address = format!("postgres://postgres:s3cret@/postgres?host={}", cluster.host().display());
    let run = |out: &Path, query: &str| {
        let arguments = ["train", "--preset", "distilface", "--base", path(&base), "--batch", "4"];
        let more = ["--steps", "2", "--from", &address, "--query", query, "--out", path(out)];
        train(&[&arguments[..], &more[..]].concat())
    };
    let (one, other) = (temp.path().join("one"), temp.path().join("other"));
    let output = run(&one, "SELECT body FROM texts ORDER BY id");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("20 rows of 23 lines (0 of other sources, 1 duplicates, 2 malformed)"),
        "{text}"
    );
    assert!(text.contains("malformed lines: [21, 22]"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    let kept =
        std::fs::read_to_string(temp.path().join("one.run/config.toml")).expect("it is kept");
    assert!(kept.contains("postgres://postgres@/postgres?host=") && !kept.contains("s3cret"));
    // The same rows in another order give the same model.
    let output = run(&other, "SELECT body FROM texts ORDER BY id DESC");
    assert!(output.status.success(), "{output:?}");
    let revision = |out: &Path| read_json(&out.join("distilface.json"))["revision"].clone();
    assert_eq!(revision(&one), revision(&other));

    let fails = |query: &str, expected: &str| {
        let output = run(&temp.path().join("none"), query);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(expected) && !text.contains("s3cret"), "{text}");
        std::fs::remove_dir_all(temp.path().join("none.run")).unwrap_or_default();
    };
    fails("SELECT id FROM texts", "expected text or text[]; write ::text after it, got int4");
    fails("SELECT body FROM nowhere", "relation \"nowhere\" does not exist");
    fails("DELETE FROM texts RETURNING body", "read-only transaction");
    assert_eq!(cluster.one("SELECT count(*) FROM texts"), "23");
}
