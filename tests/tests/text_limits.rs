//! Test 20 through SQL: no text, however long or odd, takes a backend down, hangs it or fills its memory.

use std::fs;

use distilface_tests::{Cluster, Session};

/// The most memory a backend has ever held, in megabytes.
fn peak_mb(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the backend runs");
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).expect("Linux counts it");
    let kb: u64 =
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("it is a number");
    kb / 1024
}

fn session_with_a_loaded_model(cluster: &Cluster) -> Session {
    let mut session = cluster.session();
    session.sql("SET distilface.on_overflow = silent; SELECT distilface_embed('warm')");
    session
}

/// The text itself is the statement's: a value of 100 MB and its copies. Embedding adds at most 200 MB to that.
fn embeds_within_memory(text_sql: &str) {
    let cluster = Cluster::start();
    let mut bare = session_with_a_loaded_model(&cluster);
    let pid = bare.pid();
    bare.sql(&format!("SELECT length({text_sql})"));
    let without = peak_mb(pid);

    let mut session = session_with_a_loaded_model(&cluster);
    let pid = session.pid();
    assert_eq!(session.one(&format!("SELECT embedding_dims(distilface_embed({text_sql}))")), "384");
    let with = peak_mb(pid);
    assert!(with <= without + 200, "embedding took {} MB", with - without);
    assert_eq!(session.one("SELECT 1"), "1");
}

#[test]
fn a_text_of_100_mb() {
    embeds_within_memory("repeat('ten bytes ', 10 * 1000 * 1000)");
}

#[test]
fn a_megabyte_without_a_space() {
    embeds_within_memory("repeat('abcdefghij', 100 * 1000)");
}

#[test]
fn a_megabyte_of_combining_marks() {
    embeds_within_memory("'a' || repeat(U&'\\0301\\0323', 250 * 1000)");
}

#[test]
fn a_megabyte_of_han_characters() {
    embeds_within_memory("repeat(U&'\\4E2D\\6587', 170 * 1000)");
}

#[test]
fn every_unicode_scalar_can_be_embedded() {
    let cluster = Cluster::start();
    let mut session = session_with_a_loaded_model(&cluster);
    // Zero is no character in PostgreSQL; surrogates are none in Unicode. A hundred to a text.
    let dims = session.column(
        "SELECT DISTINCT coalesce(embedding_dims(distilface_embed(body)), 384) FROM (
             SELECT string_agg(chr(c), ' ') AS body FROM generate_series(1, 1114111) c
              WHERE c NOT BETWEEN 55296 AND 57343 GROUP BY c / 2000) texts",
    );
    assert_eq!(dims, ["384"]);
    let tokens = session.one(
        "SELECT sum(distilface_token_count(body)) > 900000 FROM (
             SELECT string_agg(chr(c), ' ') AS body FROM generate_series(1, 1114111) c
              WHERE c NOT BETWEEN 55296 AND 57343 GROUP BY c / 2000) texts",
    );
    assert_eq!(tokens, "t");
}
