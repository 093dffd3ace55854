//! Test 22: random queries over tables with our types, functions and indexes. An error is a fine answer to a
//! random query; a lost connection or a dead backend is not.

use std::process::{Command, Stdio};

use distilface_tests::{Cluster, size, skip};

#[test]
fn random_queries_never_take_a_backend_down() {
    let there = Command::new("sqlsmith")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if there.is_err() {
        skip!("no sqlsmith here (Debian package `sqlsmith`, which `make test` installs)");
    }
    let cluster = Cluster::builder()
        .set("statement_timeout", "1s")
        .set("distilface.on_overflow", "silent")
        .start();
    cluster.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text, e embedding(3), wide embedding);
         INSERT INTO docs
         SELECT i, 'text ' || i, ARRAY[sin(i), cos(i), i]::real[]::embedding,
                array_fill(i, ARRAY[1 + i % 5])::real[]::embedding
           FROM generate_series(1, 200) i;
         CREATE INDEX ON docs USING distilface_hnsw (e);
         CREATE INDEX ON docs USING distilface_hnsw (e embedding_l2_ops);
         CREATE ROLE smith LOGIN;
         GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO smith;
         ANALYZE docs",
    );
    // A plain role: a superuser's random query may rightly stop the server.
    let target = format!("host={} port=5432 dbname=postgres user=smith", cluster.host().display());
    let queries = size(2_000, 100_000);
    // In rounds, so that a new seed begins where PostgreSQL's own grammar has run dry.
    for seed in 1..=4 {
        let output = Command::new("sqlsmith")
            .arg(format!("--target={target}"))
            .arg(format!("--max-queries={}", queries / 4))
            .arg(format!("--seed={seed}"))
            .output()
            .expect("sqlsmith was there a moment ago");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "seed {seed}: sqlsmith lost the server:\n{said}");
    }
    let ours =
        cluster.log().matches("distilface").count() + cluster.log().matches("embedding").count();
    eprintln!("{queries} random queries; {ours} errors in the log name us");
    cluster.sql("VACUUM docs");
    for index in ["docs_e_idx", "docs_e_idx1"] {
        cluster.assert_sound(index);
    }
}
