//! `distilface_chunk`: parts that are the text again, within the model's own count of tokens.

use distilface_tests::{Cluster, words};

const MODEL: &str = "distilface-small";

/// Sentences of words, paragraphs of sentences, some of it beyond ASCII.
fn article(sentences: u64) -> String {
    let sentence = |i: u64| {
        let end = if i % 7 == 6 { ".\n\n" } else { ". " };
        let accent = if i.is_multiple_of(3) { " naïve 東京" } else { "" };
        format!("{}{accent}{end}", words(i, 4 + (i as usize * 5) % 30))
    };
    (0..sentences).map(sentence).collect()
}

#[test]
fn chunks_are_the_text_again_and_no_longer_than_asked() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(&format!("CREATE TEMP TABLE doc AS SELECT $${}$$::text AS body", article(60)));
    let chunks = "doc, distilface_chunk(body, 64) c";
    assert_eq!(
        session.one(&format!(
            "SELECT string_agg(chunk, '' ORDER BY seq) = min(body) AND count(*) > 5
                AND min(seq) = 1 AND max(seq) = count(*) FROM {chunks}"
        )),
        "t"
    );
    assert_eq!(
        session.one(&format!(
            "SELECT bool_and(tokens <= 64 AND tokens = distilface_token_count(chunk)
                AND chunk = substr(body, start_char, end_char - start_char + 1)) FROM {chunks}"
        )),
        "t"
    );
    // Most chunks end where a sentence does.
    assert_eq!(
        session.one(&format!("SELECT avg((chunk ~ '[.]\\s+$')::int) > 0.9 FROM {chunks}")),
        "t"
    );
}

#[test]
fn an_overlap_repeats_the_end_of_the_last_chunk() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(&format!("CREATE TEMP TABLE doc AS SELECT $${}$$::text AS body", article(60)));
    let row = session.rows(&format!(
        "SELECT bool_and(start_char <= last + 1 AND start_char > last_start), bool_or(start_char <= last),
                bool_and(distilface_token_count(substr(body, start_char, last - start_char + 1)) <= 18)
           FROM (SELECT body, start_char, lag(end_char) OVER w AS last, lag(start_char) OVER w AS last_start
                   FROM doc, distilface_chunk(body, 64, 16, '{MODEL}') WINDOW w AS (ORDER BY seq)) c
          WHERE last IS NOT NULL"
    ));
    assert_eq!(row, [vec![Some("t".to_owned()); 3]]);
}

#[test]
fn null_and_blank_text_have_no_chunks_and_bad_limits_are_errors() {
    let cluster = Cluster::start();
    assert_eq!(cluster.one("SELECT count(*) FROM distilface_chunk(NULL, 64)"), "0");
    assert_eq!(cluster.one("SELECT count(*) FROM distilface_chunk(E' \\n\\t', 64)"), "0");
    for call in ["'a', 7", "'a', -1", "'a', 64, -1", "'a', 64, 32"] {
        let error = cluster.error(&format!("SELECT * FROM distilface_chunk({call})"));
        assert_eq!(error.code.code(), "22023", "{call}: {error:?}");
    }
    let error = cluster.error("SELECT * FROM distilface_chunk('a', 64, 0, 'no such model')");
    assert!(error.message.contains("does not exist"), "{error:?}");
}

#[test]
fn a_large_text_is_cut_and_a_cancel_ends_it() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let count = session
        .one("SELECT count(*) FROM distilface_chunk(repeat('The end is near. ', 600000), 128)");
    assert!(count.parse::<u64>().expect("a count") > 20_000, "{count}");
    session.sql("SET statement_timeout = '20ms'");
    let error = session
        .error("SELECT count(*) FROM distilface_chunk(repeat('The end is near. ', 6000000), 128)");
    assert_eq!(error.code.code(), "57014", "{error:?}");
}

#[test]
fn a_database_of_another_encoding_gets_its_own_back() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    );
    let mut session = cluster.session_as("postgres", "latin");
    session.sql("CREATE EXTENSION distilface");
    assert_eq!(
        session.one(
            "SELECT string_agg(chunk, '' ORDER BY seq) = t AND count(*) > 1
               FROM (SELECT repeat('Une tasse de café. ', 20) AS t) s, distilface_chunk(t, 32) GROUP BY t"
        ),
        "t"
    );
}
