//! What can be indexed besides embeddings, how large it may be, and what a scan tells of itself.

use distilface_tests::{Cluster, random_vector, skip};

const METRICS: [(&str, &str); 4] = [("l2", "<->"), ("ip", "<#>"), ("cosine", "<=>"), ("l1", "<+>")];

#[test]
fn arrays_are_indexed_with_every_metric() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE t (k int, tenant int, a real[]);
         INSERT INTO t SELECT k, k % 5, array_agg(random() - 0.5)::real[] FROM generate_series(1, 600) k, generate_series(1, 20) GROUP BY k;
         INSERT INTO t VALUES (-1, 1, NULL)",
    );
    let query = "ARRAY(SELECT sin(i) FROM generate_series(1, 20) i)::real[]";
    for (metric, operator) in METRICS {
        session.sql(&format!(
            "CREATE INDEX i ON t USING distilface_hnsw (a real_array_{metric}_ops, tenant)"
        ));
        session.assert_sound("i");
        for condition in ["true", "tenant = 3"] {
            let sql =
                format!("SELECT k FROM t WHERE {condition} ORDER BY a {operator} {query} LIMIT 10");
            session.sql("SET enable_seqscan = off; SET enable_sort = off");
            let plan = session.column(&format!("EXPLAIN {sql}")).join("\n");
            assert!(plan.contains("Index Scan using i"), "{plan}");
            let found = session.column(&sql);
            session.sql("RESET ALL; SET enable_indexscan = off");
            let expected = session.column(&sql);
            session.sql("RESET ALL");
            let hits = found.iter().filter(|k| expected.contains(k)).count();
            assert!(hits >= 9, "{operator} {condition}: {found:?} for {expected:?}");
        }
        session.sql("DROP INDEX i");
    }
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (a)");
    for (bad, message) in [
        ("'{1,2,NULL}'", "nulls"),
        ("'{1,NaN,3}'", "NaN"),
        ("'{{1,2},{3,4}}'", "one-dimensional"),
        ("'{1,2,3}'", "dimensions"),
        ("'{}'", "dimension"),
    ] {
        let error = session.error(&format!("INSERT INTO t VALUES (7, 7, {bad})"));
        assert!(error.to_string().contains(message), "{bad}: {error}");
        assert!(error.code.code().starts_with("22"), "{error}");
    }
    session.assert_sound("i");
}

#[test]
fn an_array_from_a_driver_finds_the_index_of_embeddings() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE t (k int, e embedding(3)); INSERT INTO t SELECT k, ARRAY[k, 1, 2]::real[]::embedding FROM generate_series(1, 500) k;
         CREATE INDEX i ON t USING distilface_hnsw (e); SET enable_seqscan = off; SET enable_sort = off;
         PREPARE p(real[]) AS SELECT k FROM t ORDER BY e <=> $1 LIMIT 3",
    );
    let plan = session.column("EXPLAIN EXECUTE p('{9,1,2}')").join("\n");
    assert!(plan.contains("Index Scan using i"), "{plan}");
    assert_eq!(session.column("EXECUTE p('{9,1,2}')")[0], "9");
    let by_array = session.one("SELECT e <-> '{1,1,1}'::real[] FROM t WHERE k = 4");
    assert_eq!(by_array, session.one("SELECT e <-> '[1,1,1]' FROM t WHERE k = 4"));
}

#[test]
fn what_no_page_can_hold_is_refused_when_the_index_is_made() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE t (e embedding(16000), f embedding(7500), g embedding(1), a int, b text);
         INSERT INTO t SELECT NULL, array_agg(i)::embedding, '[1]', 1, 'x' FROM generate_series(1, 7500) i",
    );
    let error = session.error("CREATE INDEX ON t USING distilface_hnsw (e)");
    assert_eq!(error.code.code(), "22023", "{error}");
    assert!(error.message.contains("16000 dimensions"), "{error}");
    session.sql("CREATE INDEX fi ON t USING distilface_hnsw (f, a, b); CREATE INDEX gi ON t USING distilface_hnsw (g embedding_l2_ops, a)");
    session.assert_sound("fi");
    session.assert_sound("gi");
    session.error("CREATE INDEX ON t USING distilface_hnsw (g) WITH (m = 200)");
}

#[test]
fn storage_is_chosen_by_name_and_refused_where_there_can_be_none() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE t (k int, e embedding(128), s embedding(3));
         INSERT INTO t SELECT k, array_agg(random())::embedding, '[1,2,3]' FROM generate_series(1, 2000) k, generate_series(1, 128) GROUP BY k;
         CREATE INDEX d ON t USING distilface_hnsw (e);
         CREATE INDEX p ON t USING distilface_hnsw (e) WITH (storage = plain);
         CREATE INDEX s ON t USING distilface_hnsw (e) WITH (storage = 'sketched')",
    );
    for index in ["d", "p", "s"] {
        session.assert_sound(index);
    }
    let sizes = session.one(
        "SELECT pg_relation_size('d') = pg_relation_size('s') AND pg_relation_size('p') * 3 < pg_relation_size('s') * 2",
    );
    assert_eq!(sizes, "t");
    session.sql("DROP INDEX d, s; SET enable_seqscan = off; SET enable_sort = off");
    let found =
        session.column("SELECT k FROM t ORDER BY e <=> (SELECT e FROM t WHERE k = 7) LIMIT 1");
    assert_eq!(found, ["7"]);
    let error = session.error("CREATE INDEX ON t USING distilface_hnsw (e) WITH (storage = x)");
    assert_eq!(error.code.code(), "22023", "{error}");
    let error =
        session.error("CREATE INDEX ON t USING distilface_hnsw (s) WITH (storage = sketched)");
    assert!(error.message.contains("at least 128 dimensions"), "{error}");
}

#[test]
fn a_scan_tells_what_it_visited() {
    for version in [15, 18] {
        let Some(cluster) = Cluster::builder().version(version).try_start() else {
            skip!("no PostgreSQL {version} here: `make pg-trees` makes it");
        };
        let mut session = cluster.session();
        assert!(session.rows("SELECT * FROM distilface_last_scan()").is_empty());
        session.sql(
            "CREATE TABLE t (k int, tenant int, e embedding(16));
             INSERT INTO t SELECT k, k % 100, array_agg(random())::embedding FROM generate_series(1, 3000) k, generate_series(1, 16) GROUP BY k;
             CREATE INDEX i ON t USING distilface_hnsw (e, tenant); SET enable_seqscan = off; SET enable_sort = off",
        );
        let q = random_vector(1, 16);
        session.column(&format!("SELECT k FROM t ORDER BY e <=> '{q}' LIMIT 10"));
        let row = session.one("SELECT concat_ws(' ', index, scans, rows >= 10, visited_nodes > 40, visited_nodes < 3000, pages > 2, filtering) FROM distilface_last_scan()");
        assert_eq!(row, "i 1 t t t t none");
        session.column(&format!("SELECT k FROM t WHERE tenant = 5 ORDER BY e <=> '{q}' LIMIT 10"));
        let row = session.one(
            "SELECT concat_ws(' ', index, visited_nodes, filtering) FROM distilface_last_scan()",
        );
        assert_eq!(row, "i 30 exact");
        if version >= 18 {
            let plan = session.column(&format!(
                "EXPLAIN (ANALYZE, COSTS OFF) SELECT k FROM t WHERE tenant = 5 ORDER BY e <=> '{q}' LIMIT 10"
            ));
            let plan = plan.join("\n");
            for line in ["Visited Nodes: 30", "Visited Pages: ", "Filtering: exact"] {
                assert!(plan.contains(line), "{line} in\n{plan}");
            }
            let json = session.column(&format!(
                "EXPLAIN (ANALYZE, FORMAT JSON) SELECT k FROM t ORDER BY e <=> '{q}' LIMIT 10"
            ));
            assert!(json.join("").contains("\"Visited Nodes\""), "{json:?}");
        }
    }
}

#[test]
fn a_scan_searches_once_for_the_rows_of_its_limit() {
    for version in [15, 18] {
        let Some(cluster) = Cluster::builder().version(version).try_start() else {
            skip!("no PostgreSQL {version} here: `make pg-trees` makes it");
        };
        let mut session = cluster.session();
        session.sql(
            "CREATE TABLE t (k int, e embedding(16));
             INSERT INTO t SELECT k, array_agg(random())::embedding FROM generate_series(1, 3000) k, generate_series(1, 16) GROUP BY k;
             CREATE INDEX i ON t USING distilface_hnsw (e);
             CREATE TABLE p (k int, e embedding(16)) PARTITION BY RANGE (k);
             CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10000);
             INSERT INTO p SELECT * FROM t;
             CREATE INDEX p_i ON p USING distilface_hnsw (e);
             SET enable_seqscan = off; SET enable_sort = off; SET plan_cache_mode = force_generic_plan",
        );
        let q = random_vector(1, 16);
        let near = |table: &str, limit: &str| {
            format!("SELECT k FROM {table} ORDER BY e <=> '{q}' {limit}")
        };
        let mut work = |sql: &str, rows: usize| -> (u64, u64) {
            assert_eq!(session.column(sql).len(), rows, "{sql}");
            let last =
                &session.rows("SELECT resumes, visited_nodes FROM distilface_last_scan()")[0];
            let number =
                |at: usize| last[at].as_deref().expect("a number").parse().expect("a number");
            (number(0), number(1))
        };
        for sql in [
            near("t", "LIMIT 100"),
            near("t", "LIMIT 60 OFFSET 40"),
            near("p", "LIMIT 100"),
            format!(
                "WITH x AS MATERIALIZED ({}) SELECT * FROM x ORDER BY k",
                near("t", "LIMIT 100")
            ),
            format!("SELECT count(*) FROM ({}) x GROUP BY k", near("t", "LIMIT 100")),
            format!("SELECT ARRAY({}) FROM generate_series(1, 100)", near("t", "LIMIT 100")),
        ] {
            let rows = if sql.contains("OFFSET") { 60 } else { 100 };
            assert_eq!(work(&sql, rows).0, 0, "{sql}");
        }
        // A plan of its own knows its own limit, whatever was planned or runs meanwhile.
        let few = work(&near("t", "LIMIT 5"), 5);
        work(&format!("PREPARE few AS {}", near("t", "LIMIT 5")), 0);
        for _ in 0..3 {
            work(&near("t", "LIMIT 300"), 300);
            assert_eq!(work("EXECUTE few", 5), few);
        }
        // No limit, or one that is known only when it runs, finds all the same.
        assert!(work(&near("t", ""), 3000).0 > 0);
        work(&format!("PREPARE several(bigint) AS {}", near("t", "LIMIT $1")), 0);
        assert!(work("EXECUTE several(100)", 100).0 > 0);
    }
}
