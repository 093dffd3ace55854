//! `distilface_search`: one call over both indexes.

use distilface_tests::{Cluster, Session};

fn library(session: &mut Session) {
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, lang text, year int, body text,
           e embedding(384) GENERATED ALWAYS AS (distilface_embed(body, 'distilface-small')) STORED);
         INSERT INTO docs VALUES
           (1, 'en', 2019, 'The cat sat on the mat.'),
           (2, 'en', 2021, 'A kitten was sleeping on the rug.'),
           (3, 'en', 2022, 'Replace part AB-1234 before restarting the pump.'),
           (4, 'de', 2022, 'Die Katze schläft auf dem Teppich.'),
           (5, 'en', 2023, 'Stock markets fell sharply on Monday.'),
           (6, 'en', 2020, NULL);
         CREATE INDEX docs_e ON docs USING distilface_hnsw (e);
         CREATE INDEX docs_body ON docs USING distilface_bm25 (body) WITH (text_config = 'english')",
    );
}

const SEARCH: &str = "SELECT d.id FROM distilface_search('docs', ";
const JOIN: &str =
    ") s JOIN docs d ON (d.tableoid, d.ctid) = (s.tableoid, s.ctid) ORDER BY s.score DESC, d.id";

#[test]
fn both_legs_are_fused_in_one_call() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    library(&mut session);
    let mut ids = |arguments: &str| session.column(&format!("{SEARCH}{arguments}{JOIN}"));
    assert_eq!(ids("'AB-1234', k => 1"), ["3"], "a part number is found by its words");
    assert_eq!(ids("'cat', k => 2, mode => 'lexical'"), ["1"]);
    let semantic = ids("'a sleeping cat', k => 3, mode => 'semantic'");
    assert!(semantic.contains(&"2".to_owned()), "{semantic:?}");
    assert_eq!(ids("'a cat sleeping', k => 5").len(), 5);
    assert_eq!(ids("'cat', k => 5, filter => '{\"lang\": \"de\"}'"), ["4"]);
    let years = ids("'cat', k => 5, filter => '{\"year\": {\"gte\": 2021, \"lt\": 2023}}'");
    assert_eq!(years.len(), 3, "{years:?}");
    assert_eq!(ids("'(((\"', k => 2, mode => 'lexical'"), [""; 0], "raw text is no error");
    assert_eq!(ids("'cat', k => 2, fusion => 'normalized'").len(), 2);
}

#[test]
fn the_sql_that_it_prints_returns_the_same_rows() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    library(&mut session);
    let arguments = "'docs', 'cat on a rug', k => 4, filter => '{\"lang\": [\"en\", \"de\"]}'";
    let printed = session.one(&format!("SELECT distilface_search_sql({arguments})"));
    let by_call = session.rows(&format!("SELECT * FROM distilface_search({arguments})"));
    assert_eq!(session.rows(&printed), by_call);
    assert_eq!(by_call.len(), 4);
    let plan = session.column(&format!("EXPLAIN {printed}")).join("\n");
    assert!(plan.contains("docs"), "{plan}");
}

#[test]
fn row_level_security_and_privileges_are_the_callers() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    library(&mut session);
    session.sql(
        "CREATE ROLE reader LOGIN;
         ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON docs USING (lang = 'de')",
    );
    let mut reader = cluster.session_as("reader", "postgres");
    let error = reader.error("SELECT * FROM distilface_search('docs', 'cat')");
    assert!(error.message.contains("permission denied"), "{error:?}");
    session.sql("GRANT SELECT ON docs TO reader");
    let ids = reader.column(&format!("{SEARCH}'cat Katze', k => 10{JOIN}"));
    assert_eq!(ids, ["4"]);
}

#[test]
fn one_index_is_enough_and_none_is_an_error() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    library(&mut session);
    session.sql("DROP INDEX docs_e; SET client_min_messages = error");
    assert_eq!(session.column(&format!("{SEARCH}'cat', k => 3{JOIN}")), ["1"]);
    session.sql("DROP INDEX docs_body");
    let error = session.error("SELECT * FROM distilface_search('docs', 'cat')");
    assert!(error.message.contains("no index of public.docs can answer"), "{error:?}");
    for (arguments, complaint) in [
        ("k => 0", "k must be from 1 to 10000"),
        ("mode => 'x'", "unknown mode"),
        ("filter => '[1]'", "filter must be a JSON object"),
        ("filter => '{\"nope\": 1}'", "column \"nope\" of filter does not exist"),
        ("filter => '{\"year\": {\"like\": 1}}'", "unknown condition \"like\""),
        ("weights => '{1}'", "weights must be two numbers"),
    ] {
        let error =
            session.error(&format!("SELECT * FROM distilface_search('docs', 'x', {arguments})"));
        assert!(error.message.contains(complaint), "{arguments}: {error:?}");
    }
}

#[test]
fn large_k_ties_and_pages_of_results_are_stable() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE t (id int, body text, e embedding(3));
         INSERT INTO t SELECT i, 'same words here', '[1,0,0]' FROM generate_series(1, 12000) i;
         CREATE INDEX ON t USING distilface_bm25 (body);
         CREATE INDEX ON t USING distilface_hnsw (e);
         SET client_min_messages = error",
    );
    let ask = |k: u32| {
        format!(
            "SELECT ctid, score FROM distilface_search('t', 'same', k => {k}, mode => 'lexical')"
        )
    };
    let all = session.rows(&ask(10_000));
    assert_eq!(all.len(), 10_000);
    let distinct: std::collections::HashSet<_> = all.iter().map(|row| row[0].clone()).collect();
    assert_eq!(distinct.len(), 10_000, "no row twice");
    assert_eq!(session.rows(&ask(10_000)), all, "equal scores in the same order each time");
    let tids = session.column(
        "SELECT array_agg(ctid) = array_agg(ctid ORDER BY score DESC, ctid)
           FROM distilface_search('t', 'same', k => 10000, mode => 'lexical')",
    );
    assert_eq!(tids, ["t"], "ties by place");
}

#[test]
fn text_is_searched_by_meaning_and_words_without_an_embedding_column() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE d (id int, title text, body text);
         INSERT INTO d VALUES
           (1, 'pets', 'The cat sat on the mat.'), (2, 'pets', 'A kitten was sleeping on the rug.'),
           (3, 'parts', 'Replace part AB-1234 before restarting the pump.'),
           (4, 'cat', 'Nothing about it in the text.'), (5, NULL, 'Stock markets fell on Monday.');
         CREATE INDEX ON d USING distilface_hnsw (body);
         CREATE INDEX ON d USING distilface_bm25 (title, body) WITH (text_config = 'english')",
    );
    let ids = |session: &mut Session, arguments: &str| {
        session.column(&format!(
            "SELECT d.id FROM distilface_search('d', {arguments}) s JOIN d ON d.ctid = s.ctid
              ORDER BY s.score DESC, d.id"
        ))
    };
    let both = ids(&mut session, "'a small cat', k => 5");
    assert!(both.contains(&"1".to_owned()) && both.contains(&"2".to_owned()), "{both:?}");
    let mut lexical = ids(&mut session, "'cat', mode => 'lexical'");
    lexical.sort_unstable();
    assert_eq!(lexical, ["1", "4"], "in either column");
    assert_eq!(ids(&mut session, "'cat', mode => 'lexical', columns => '{body}'"), ["1"]);
    assert_eq!(ids(&mut session, "'title:parts', mode => 'lexical'"), ["3"]);
    let row = session.rows(
        "SELECT snippet, semantic_rank IS NULL, lexical_rank, semantic_distance IS NULL, lexical_score > 0
           FROM distilface_search('d', 'AB-1234', k => 1, mode => 'lexical', columns => '{body}')",
    );
    let row: Vec<&str> = row[0].iter().map(|v| v.as_deref().unwrap_or("NULL")).collect();
    assert_eq!(row[1..], ["t", "1", "t", "t"]);
    assert!(row[0].contains("<b>AB</b>-<b>1234</b>"), "{}", row[0]);
}

#[test]
fn filters_are_values_of_the_columns_types() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE d (id int, body text, at timestamptz, price numeric, tags text[], ok boolean, u uuid, \"odd name\" text);
         INSERT INTO d SELECT i, 'word', timestamptz '2024-01-01' + i * interval '1 day', i * 1.5,
           ARRAY['a' || i], i % 2 = 0, ('00000000-0000-0000-0000-00000000000' || i)::uuid, 'it''s ' || i
           FROM generate_series(1, 9) i;
         INSERT INTO d (id, body) VALUES (10, 'word');
         CREATE INDEX ON d USING distilface_bm25 (body);
         SET client_min_messages = error",
    );
    for (filter, expected) in [
        (r#"{"at": {"gte": "2024-01-09"}}"#, &["8", "9"][..]),
        (r#"{"price": {"lt": 3}}"#, &["1"]),
        (r#"{"price": {"gt": 3, "lte": 6.0}}"#, &["3", "4"]),
        (r#"{"ok": true, "id": {"in": [1, 2, 3]}}"#, &["2"]),
        (r#"{"ok": null}"#, &["10"]),
        (r#"{"u": "00000000-0000-0000-0000-000000000005"}"#, &["5"]),
        (r#"{"odd name": "it''s 7"}"#, &["7"]),
        (r#"{"id": {"ne": 1}, "price": {"lte": 4.5}}"#, &["2", "3"]),
        (r#"{"id": []}"#, &[]),
        ("{}", &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]),
    ] {
        let found = session.column(&format!(
            "SELECT d.id FROM distilface_search('d', 'word', k => 20, filter => '{filter}') s
               JOIN d ON d.ctid = s.ctid ORDER BY d.id"
        ));
        assert_eq!(found, expected, "{filter}");
    }
    // Values, never SQL.
    let error = session
        .error(r#"SELECT * FROM distilface_search('d', 'x', filter => '{"id": "1) OR (1=1"}')"#);
    assert_eq!(error.code.code(), "22P02", "{error}");
}

#[test]
fn a_missing_half_is_told_once_and_bad_input_by_name() {
    let cluster = Cluster::builder().set("log_min_messages", "notice").start();
    let mut session = cluster.session();
    library(&mut session);
    session.sql("DROP INDEX docs_e; SELECT * FROM distilface_search('docs', 'cat')");
    let told = cluster.log().matches("search of public.docs is lexical only").count();
    assert_eq!(told, 1, "{}", cluster.log());
    for (arguments, code, hint) in [
        ("'docs', 'x', k => 0", "22023", "10"),
        ("'docs', 'x', k => 10001", "22023", "10"),
        ("'docs', 'x', mode => 'fuzzy'", "22023", "hybrid"),
        ("'docs', 'x', fusion => 'sum'", "22023", "rrf"),
        ("'docs', 'x', weights => '{1}'", "22023", "{1,1}"),
        ("'docs', 'x', weights => '{-1,1}'", "22023", "{1,1}"),
        ("'docs', 'x', weights => '{NaN,1}'", "22023", "{1,1}"),
        ("'docs', 'x', rrf_k => -1", "22023", "60"),
        ("'docs', 'x', candidates => 0", "22023", "200"),
        ("'docs', 'x', columns => '{nope}'", "42703", "columns"),
        ("'docs', 'x', filter => '[1]'", "22023", "lang"),
        ("'docs', 'x', filter => '{\"nope\": 1}'", "42703", "columns"),
        ("'docs', 'x', filter => '{\"year\": {\"like\": 1}}'", "22023", "eq"),
        ("'docs', 'x', mode => 'semantic'", "42704", "distilface_hnsw"),
        ("'pg_class', 'x'", "42704", "distilface_bm25"),
    ] {
        let error = session.error(&format!("SELECT * FROM distilface_search({arguments})"));
        assert_eq!(error.code.code(), code, "{arguments}: {error}");
        let told = error.hint.unwrap_or_default();
        assert!(told.contains(hint), "{arguments}: hint \"{told}\"");
    }
    assert!(session.rows("SELECT * FROM distilface_search('docs', NULL)").is_empty());
    assert!(session.rows("SELECT * FROM distilface_search('docs', '')").is_empty());
}

#[test]
fn a_snippet_is_of_the_column_that_matched() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE pages (id int, title text, body text);
         INSERT INTO pages VALUES (1, 'About pumps', 'Replace the valve first.'),
           (2, 'Valve list', 'All of them.'), (3, NULL, 'A valve.'), (4, 'Nothing', NULL);
         CREATE INDEX ON pages USING distilface_bm25 (title, body) WITH (text_config = 'english')",
    );
    let ask = |columns: &str| {
        format!(
            "SELECT p.id, s.snippet FROM distilface_search('pages', 'valves'{columns}, mode => 'lexical') s
               JOIN pages p ON p.ctid = s.ctid ORDER BY p.id"
        )
    };
    let row = |id: &str, snippet: &str| vec![Some(id.to_owned()), Some(snippet.to_owned())];
    let expected = [
        row("1", "Replace the <b>valve</b> first."),
        row("2", "<b>Valve</b> list"),
        row("3", "A <b>valve</b>."),
    ];
    assert_eq!(session.rows(&ask("")), expected);
    assert_eq!(session.rows(&ask(", columns => '{title}'")), expected[1..2]);
}
