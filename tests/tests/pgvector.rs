//! Beside pgvector in one database, on the PostgreSQL 18 that carries it.

use distilface_tests::{Cluster, random_vector, skip};

fn with_pgvector() -> Option<Cluster> {
    let cluster = Cluster::builder().version(18).try_start()?;
    cluster.sql("CREATE EXTENSION vector");
    Some(cluster)
}

#[test]
fn both_types_live_in_one_database_and_mix_once_enabled() {
    let Some(cluster) = with_pgvector() else {
        skip!("no PostgreSQL 18 with pgvector here");
    };
    // Neither gets in the other's way before.
    assert_eq!(cluster.one("SELECT '[1,2]'::vector <-> '[1,4]'"), "2");
    assert_eq!(cluster.one("SELECT '[1,2]'::embedding <-> '[1,4]'"), "2");
    assert_eq!(cluster.error("SELECT '[1,2]'::embedding::vector").code.code(), "42846");

    cluster.sql("SELECT distilface_enable_pgvector()");
    cluster.sql("SELECT distilface_enable_pgvector()");
    assert_eq!(cluster.one("SELECT l2_distance('[1,2]'::embedding, '[1,4]'::vector)"), "2");
    assert_eq!(cluster.one("SELECT '[1,2]'::embedding <=> '[2,4]'::vector"), "0");
    for operator in ["<->", "<#>", "<=>", "<+>"] {
        let pair = |left: &str, right: &str| {
            cluster.one(&format!("SELECT '[1,2]'::{left} {operator} '[2,5]'::{right}"))
        };
        let same = pair("embedding", "embedding");
        assert_eq!(pair("embedding", "vector"), same, "{operator}");
        assert_eq!(pair("vector", "embedding"), same, "{operator}");
    }
    cluster.sql("CREATE TABLE t (e embedding(2), v vector(2))");
    cluster.sql("INSERT INTO t VALUES ('[1,2]'::vector, '[3,4]'::embedding)");
    cluster.sql("UPDATE t SET e = v, v = e");
    assert_eq!(cluster.one("SELECT e::text || ' ' || v::text FROM t"), "[3,4] [1,2]");
    // Not implicit that way.
    assert_eq!(cluster.error("SELECT embedding_dims(v) FROM t").code.code(), "42883");
    // The cast makes no copy and still checks the column's dimensions.
    let error = cluster.error("INSERT INTO t (e) VALUES ('[1,2,3]'::vector)");
    assert_eq!(error.message, "expected 2 dimensions, not 3");
    let error = cluster.error("INSERT INTO t (v) VALUES ('[1,2,3]'::embedding)");
    assert_eq!(error.message, "expected 2 dimensions, not 3");
}

#[test]
fn both_types_have_one_binary_form_one_text_form_and_one_order() {
    let Some(cluster) = with_pgvector() else {
        skip!("no PostgreSQL 18 with pgvector here");
    };
    cluster.sql("CREATE TABLE t (id int, e embedding, v vector)");
    for batch in 0..4u64 {
        let rows: Vec<String> = (0..100)
            .map(|i| batch * 100 + i)
            .map(|i| (i, random_vector(i / 2, 1 + i as usize % 40)))
            .map(|(i, x)| format!("({i}, '{x}', '{x}')"))
            .collect();
        cluster.sql(&format!("INSERT INTO t VALUES {}", rows.join(",")));
    }
    cluster.sql("INSERT INTO t SELECT 1000 + i, x, x::real[] FROM (SELECT i, \
                 ARRAY[random() * power(10, random() * 70 - 38), -i]::real[] x FROM generate_series(1, 400) i) s");
    let differ = "embedding_send(e) <> vector_send(v) OR e::text <> v::text OR abs(embedding_norm(e) / vector_norm(v) - 1) > 1e-14";
    assert_eq!(cluster.one(&format!("SELECT count(*) FROM t WHERE {differ}")), "0");
    let order = |column: &str| cluster.column(&format!("SELECT id FROM t ORDER BY {column}, id"));
    assert_eq!(order("e"), order("v"));
    let pairs = "FROM t a JOIN t b ON b.id = a.id + 80 WHERE a.id < 400 AND b.id < 400";
    for operator in ["<->", "<#>", "<=>", "<+>"] {
        let (ours, theirs) = (format!("(a.e {operator} b.e)"), format!("(a.v {operator} b.v)"));
        let off = cluster.one(&format!("SELECT max(abs({ours} - {theirs})) < 1e-5 {pairs}"));
        assert_eq!(off, "t", "{operator}");
    }
    for operator in ["+", "-", "*", "||"] {
        let same = format!("(a.e {operator} b.e)::text = (a.v {operator} b.v)::text");
        assert_eq!(cluster.one(&format!("SELECT bool_and({same}) {pairs}")), "t", "{operator}");
    }
    // Literals too: what one refuses, the other refuses.
    for literal in [
        "[1, 2]", " [1]", "[1] ", "[1,]", "[,1]", "[]", "1", "[1 2]", "[[1]]", "[1]]", "[nan]",
        "[1e39]", "[1e-50]", "[+1]", "[.5]", "[5.]", "[1,2", "", "[ ]", "[--1]", "[1e5]", "[1e]",
        "[\t1\n]", "[1;2]",
    ] {
        let accepts = |type_name: &str| {
            cluster.session().try_sql(&format!("SELECT '{literal}'::{type_name}")).is_ok()
        };
        assert_eq!(accepts("embedding"), accepts("vector"), "{literal:?}");
    }
}

#[test]
fn an_index_of_distilface_serves_columns_of_pgvector() {
    let Some(cluster) = with_pgvector() else {
        skip!("no PostgreSQL 18 with pgvector here");
    };
    cluster.sql("SELECT distilface_enable_pgvector()");
    let classes = "SELECT opcname || CASE WHEN opcdefault THEN ' default' ELSE '' END FROM pg_opclass c \
                   JOIN pg_am a ON a.oid = c.opcmethod WHERE amname = 'distilface_hnsw' \
                   AND opcintype IN ('vector'::regtype, 'halfvec'::regtype) ORDER BY 1";
    assert_eq!(
        cluster.column(classes),
        [
            "halfvec_cosine_ops default",
            "halfvec_ip_ops",
            "halfvec_l1_ops",
            "halfvec_l2_ops",
            "vector_cosine_ops default",
            "vector_ip_ops",
            "vector_l1_ops",
            "vector_l2_ops"
        ]
    );
    cluster.sql("CREATE TABLE t (id int, v vector(16), h halfvec(16))");
    for batch in 0..10u64 {
        let rows: Vec<String> = (0..100)
            .map(|i| batch * 100 + i)
            .map(|i| format!("({i}, '{x}', '{x}')", x = random_vector(i, 16)))
            .collect();
        cluster.sql(&format!("INSERT INTO t VALUES {}", rows.join(",")));
    }
    for (column, metric, operator) in [
        ("v", "cosine", "<=>"),
        ("v", "l2", "<->"),
        ("v", "ip", "<#>"),
        ("v", "l1", "<+>"),
        ("h", "cosine", "<=>"),
        ("h", "l2", "<->"),
        ("h", "ip", "<#>"),
        ("h", "l1", "<+>"),
    ] {
        let type_name = if column == "v" { "vector" } else { "halfvec" };
        let class = format!("{type_name}_{metric}_ops");
        cluster.sql(&format!(
            "CREATE INDEX i ON t USING distilface_hnsw ({column} {class}); ANALYZE t"
        ));
        cluster.sql(&format!(
            "INSERT INTO t VALUES (5000, '{x}', '{x}')",
            x = random_vector(5000, 16)
        ));
        let query = format!(
            "SELECT id FROM t ORDER BY {column} {operator} '{}'::{type_name} LIMIT 10",
            random_vector(77, 16)
        );
        let mut session = cluster.session();
        session.sql("SET enable_indexscan = off");
        let exact = session.column(&query);
        session.sql(
            "SET enable_indexscan = on; SET enable_seqscan = off; SET distilface.ef_search = 400",
        );
        let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
        assert!(plan.contains("Index Scan using i"), "{plan}");
        let found = session.column(&query);
        let hits = found.iter().filter(|id| exact.contains(id)).count();
        assert!(found.len() == 10 && hits >= 9, "{class}: {found:?} instead of {exact:?}");
        cluster.sql("DROP INDEX i; DELETE FROM t WHERE id = 5000");
    }
}

#[test]
fn the_casts_and_classes_are_dumped_and_go_with_pgvector() {
    let Some(cluster) = with_pgvector() else {
        skip!("no PostgreSQL 18 with pgvector here");
    };
    cluster.sql("SELECT distilface_enable_pgvector()");
    cluster.restore(&cluster.dump("postgres"), "restored");
    let mut restored = cluster.session_as("postgres", "restored");
    assert_eq!(restored.one("SELECT '[1,2]'::embedding <=> '[2,4]'::vector"), "0");
    let classes = "SELECT count(*) FROM pg_opclass c JOIN pg_am a ON a.oid = c.opcmethod \
                   WHERE amname = 'distilface_hnsw'";
    let all: u32 = restored.one(classes).parse().expect("a count");
    restored.sql("DROP EXTENSION vector CASCADE");
    let left: u32 = restored.one(classes).parse().expect("a count");
    assert_eq!(all - left, 8);
    assert_eq!(restored.one("SELECT '[1,2]'::embedding <=> '[2,4]'"), "0");
}

#[test]
fn enabling_says_what_is_missing() {
    let Some(cluster) = Cluster::builder().version(18).try_start() else {
        skip!("no PostgreSQL 18 here");
    };
    let error = cluster.error("SELECT distilface_enable_pgvector()");
    assert_eq!(
        (error.code.code(), &*error.message),
        ("42704", r#"extension "vector" does not exist"#)
    );
    assert_eq!(error.hint.as_deref(), Some("Run CREATE EXTENSION vector first."));
    cluster.sql(
        "CREATE ROLE plain LOGIN; GRANT EXECUTE ON FUNCTION distilface_enable_pgvector() TO plain",
    );
    let error =
        cluster.session_as("plain", "postgres").error("SELECT distilface_enable_pgvector()");
    assert_eq!(error.code.code(), "42501");
    // Another schema, and a search path that holds neither.
    cluster.sql("CREATE SCHEMA \"Odd one\"; CREATE EXTENSION vector SCHEMA \"Odd one\"");
    cluster.sql("SET search_path = ''; SELECT public.distilface_enable_pgvector()");
    assert_eq!(
        cluster
            .one("SELECT '[1,2]'::embedding OPERATOR(\"Odd one\".<=>) '[2,4]'::\"Odd one\".vector"),
        "0"
    );
}
