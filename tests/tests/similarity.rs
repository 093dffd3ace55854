//! `ORDER BY distilface_similarity(…) DESC` is served by a cosine index, in the order of a sort.

use distilface_tests::{Cluster, Session, random_vector};

const DIMS: usize = 24;

fn fill(session: &mut Session) {
    session.sql(&format!("CREATE TABLE t (id int PRIMARY KEY, e embedding({DIMS}), body text)"));
    let rows: Vec<String> =
        (1..=400).map(|id| format!("({id}, '{}')", random_vector(id, DIMS))).collect();
    session.sql(&format!("INSERT INTO t (id, e) VALUES {}", rows.join(",")));
}

/// The query's rows by the index and by a sort.
fn both_ways(session: &mut Session, query: &str) -> (Vec<String>, Vec<String>) {
    session.sql("SET enable_seqscan = off");
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(plan.contains("Order By:"), "no ordered index scan for {query}:\n{plan}");
    // In the index's order: a full sort above it would read every row.
    assert!(!plan.contains("->  Sort "), "sorted again, {query}:\n{plan}");
    let by_index = session.column(query);
    session.sql("SET enable_seqscan = on; SET enable_indexscan = off");
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(!plan.contains("Order By:"), "{plan}");
    let by_sort = session.column(query);
    session.sql("RESET enable_indexscan");
    (by_index, by_sort)
}

#[test]
fn falling_similarity_uses_the_index_and_keeps_the_order_of_a_sort() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e)");
    let q = random_vector(1000, DIMS);
    for call in [
        format!("distilface_similarity(e, '{q}')"),
        format!("distilface_similarity('{q}'::embedding, e)"),
        "distilface_similarity(e, (SELECT e FROM t WHERE id = 5))".to_owned(),
    ] {
        for nulls in ["", "NULLS LAST"] {
            let query = format!("SELECT id FROM t ORDER BY {call} DESC {nulls} LIMIT 15");
            let (by_index, by_sort) = both_ways(&mut session, &query);
            let same = by_index.iter().zip(&by_sort).filter(|(a, b)| a == b).count();
            assert!(same >= 14, "{query}\n{by_index:?}\n{by_sort:?}");
        }
    }
    // A tie-breaker after it.
    let query =
        format!("SELECT id FROM t ORDER BY distilface_similarity(e, '{q}') DESC, id LIMIT 5");
    let (by_index, by_sort) = both_ways(&mut session, &query);
    assert_eq!(by_index, by_sort);
    // The other way round is another order.
    session.sql("SET enable_seqscan = off");
    let rising = session.column(&format!(
        "EXPLAIN SELECT id FROM t ORDER BY distilface_similarity(e, '{q}') LIMIT 5"
    ));
    assert!(!rising.join("\n").contains("Order By:"), "{rising:?}");
}

#[test]
fn rows_without_a_similarity_come_where_a_sort_puts_them() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e)");
    session.sql(&format!("INSERT INTO t VALUES (501, NULL), (502, array_fill(0, ARRAY[{DIMS}])::embedding), (503, NULL)"));
    let q = random_vector(1001, DIMS);
    let undefined = |ids: &[String]| {
        let mut found: Vec<String> =
            ids.iter().filter(|id| id.as_str() > "500" && id.len() == 3).cloned().collect();
        found.sort();
        found
    };
    for (order, first) in [
        (format!("distilface_similarity(e, '{q}') DESC"), true),
        (format!("distilface_similarity(e, '{q}') DESC NULLS LAST"), false),
        (format!("e <=> '{q}'"), false),
    ] {
        let (by_index, by_sort) =
            both_ways(&mut session, &format!("SELECT id FROM t ORDER BY {order}"));
        assert_eq!(by_index.len(), 403, "{order}");
        let place = |ids: &[String]| undefined(if first { &ids[..3] } else { &ids[400..] });
        assert_eq!(place(&by_index), ["501", "502", "503"], "{order}");
        assert_eq!(place(&by_sort), ["501", "502", "503"], "{order}");
    }
    session.sql("DELETE FROM t WHERE id > 500");
    session.sql("VACUUM t");
    assert_eq!(session.one("SELECT heap_tids FROM distilface_index_info('i')"), "400");
    let broken = session.column("SELECT distilface_index_check('i')");
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn the_text_form_uses_an_index_on_text() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE d (id int, body text);
         INSERT INTO d VALUES (1, 'a loaf of bread'), (2, 'the stock market'), (3, NULL), (4, ' '), (5, 'a cake with cream');
         CREATE INDEX i ON d USING distilface_hnsw (body)",
    );
    let query = "SELECT id FROM d ORDER BY distilface_similarity(body, 'something from the bakery') DESC NULLS LAST LIMIT 3";
    let (by_index, by_sort) = both_ways(&mut session, query);
    assert_eq!(by_index, by_sort);
    let query =
        "SELECT id FROM d ORDER BY distilface_similarity(body, 'something from the bakery') DESC";
    let (by_index, by_sort) = both_ways(&mut session, query);
    assert_eq!(by_index[2..], by_sort[2..]);
    assert_eq!(by_index.len(), 5);
}
