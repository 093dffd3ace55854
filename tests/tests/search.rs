//! `distilface_search`: one call over both indexes.

use distilface_tests::{Cluster, Session};

fn library(session: &mut Session) {
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, lang text, year int, body text,
           e embedding(384) GENERATED ALWAYS AS (distilface_embed(body, 'all-minilm-l6-v2')) STORED);
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
