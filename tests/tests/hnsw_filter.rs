//! Filter columns of `distilface_hnsw`, `USING distilface_hnsw (e, tenant_id, lang)`: whatever is asked of
//! them, the rows are those that a sequential scan gives.

use distilface_tests::{Cluster, Session, random_vector, size};
use rand::prelude::*;

const DIMS: usize = 32;

/// A column of each type that filters, the type, and a value of a number; NULL for every ninth row.
const COLUMNS: [(&str, &str, &str); 10] = [
    ("b", "boolean", "{n} % 3 = 0"),
    ("i2", "smallint", "{n} % 50 - 25"),
    ("i4", "integer", "{n} % 40 - 20"),
    ("i8", "bigint", "({n} % 30 - 15) * 10000000000"),
    ("t", "text", "'word ' || {n} % 25"),
    ("tc", "text COLLATE \"C\"", "'a longer word ' || {n} % 25"),
    ("u", "uuid", "md5(({n} % 20)::text)::uuid"),
    ("d", "date", "date '2020-01-01' + ({n} % 60 - 30)"),
    ("ts", "timestamp", "timestamp '1999-12-30' + {n} % 45 * interval '7 hours'"),
    ("tz", "timestamptz", "timestamptz '2024-02-28 UTC' + {n} % 45 * interval '1 day'"),
];

fn value(column: usize, number: &str) -> String {
    format!("({})", COLUMNS[column].2.replace("{n}", number))
}

/// Keys from `from` to `to` into the table, whose columns are all of [`COLUMNS`].
fn insert(session: &mut Session, table: &str, from: u32, to: u32) {
    let values: Vec<String> = (0..COLUMNS.len())
        .map(|c| {
            format!(
                "CASE WHEN (k + {c}) % 9 > 0 THEN {} END",
                value(c, &format!("(k / {})", c + 1))
            )
        })
        .collect();
    session.sql(&format!(
        "INSERT INTO {table} SELECT k, (SELECT array_agg(random() - 0.5)::embedding
           FROM generate_series(1, {DIMS}) i WHERE k % 97 > 0), {} FROM generate_series({from}, {to} - 1) k",
        values.join(",")
    ));
}

fn create(session: &mut Session, table: &str, rest: &str) {
    let columns: Vec<String> = COLUMNS.iter().map(|(name, ty, _)| format!("{name} {ty}")).collect();
    session.sql(&format!(
        "CREATE TABLE {table} (k int, e embedding({DIMS}), {}) {rest}",
        columns.join(",")
    ));
}

fn names() -> String {
    COLUMNS.map(|(name, ..)| name).join(",")
}

/// A clause on one column, as users write them.
fn clause(rng: &mut StdRng) -> String {
    let column = rng.random_range(0..COLUMNS.len());
    let name = COLUMNS[column].0;
    let literal = |rng: &mut StdRng| value(column, &rng.random_range(0..70).to_string());
    match rng.random_range(0..10) {
        0 => format!("{name} IS NULL"),
        1 => format!("{name} IS NOT NULL"),
        2 | 3 => {
            let ty = COLUMNS[column].1.split(' ').next().expect("a type's name");
            let literals: Vec<String> = (0..rng.random_range(0..4)).map(|_| literal(rng)).collect();
            format!(
                "{name} = ANY (ARRAY[{}, NULL]::{ty}[])",
                [&literals[..], &["NULL".into()]].concat().join(",")
            )
        }
        4 | 5 => format!("{name} = {}", literal(rng)),
        6 => {
            let (low, high) = (literal(rng), literal(rng));
            format!("{name} BETWEEN {low} AND {high}")
        }
        _ => {
            let operator = ["<", "<=", ">=", ">"].choose(rng).expect("there are four");
            format!("{name} {operator} {}", literal(rng))
        }
    }
}

/// What the index gives and what a sequential scan gives, sorted.
fn by_index_and_by_scan(session: &mut Session, query: &str) -> (Vec<String>, Vec<String>) {
    session.sql("SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off");
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(plan.contains("Index Scan") && plan.contains("Order By"), "{query}:\n{plan}");
    let mut found = session.column(query);
    session.sql("RESET ALL; SET enable_indexscan = off");
    let mut expected = session.column(query);
    session.sql("RESET ALL");
    found.sort();
    expected.sort();
    (found, expected)
}

/// Random conditions, each read to its end and with a limit that leaves some.
fn compare(session: &mut Session, table: &str, rng: &mut StdRng, queries: usize) {
    let (mut hits, mut asked) = (0, 0);
    for round in 0..queries {
        let clauses: Vec<String> = (0..rng.random_range(1..=3)).map(|_| clause(rng)).collect();
        let condition = clauses.join(" AND ");
        let q = random_vector(rng.random(), DIMS);
        let all = format!("SELECT k FROM {table} WHERE {condition} ORDER BY e <=> '{q}'");
        session.sql(&format!("SET distilface.ef_search = {}", [5, 40][round % 2]));
        let (found, expected) = by_index_and_by_scan(session, &all);
        assert_eq!(found, expected, "{condition}");
        let (found, expected) = by_index_and_by_scan(session, &format!("{all} LIMIT 7"));
        assert_eq!(found.len(), expected.len(), "{condition} LIMIT 7");
        // Five candidates are fewer than the seven rows asked for: these come from resumed searches.
        if round % 2 == 1 {
            hits += found.iter().filter(|k| expected.contains(k)).count();
            asked += expected.len();
        }
    }
    assert!(hits * 100 >= asked * 95, "{hits} of {asked}");
}

#[test]
fn any_condition_gives_the_rows_of_a_sequential_scan() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let mut rng = StdRng::seed_from_u64(1);
    create(&mut session, "t", "");
    insert(&mut session, "t", 0, 1500);
    session.sql(&format!("CREATE INDEX i ON t USING distilface_hnsw (e, {})", names()));
    session.assert_sound("i");
    insert(&mut session, "t", 1500, 2000);
    compare(&mut session, "t", &mut rng, size(25, 500));
    // Updates of filter columns alone, of vectors alone, and of neither; deletes and vacuum.
    session.sql(
        "UPDATE t SET i4 = 99, t = 'word 3' WHERE k % 11 = 0; UPDATE t SET e = e + e WHERE k % 13 = 0;
         UPDATE t SET k = k WHERE k % 17 = 0; DELETE FROM t WHERE k % 5 = 0",
    );
    session.sql("VACUUM t");
    session.assert_sound("i");
    insert(&mut session, "t", 2000, 2400);
    session.assert_sound("i");
    compare(&mut session, "t", &mut rng, size(25, 500));
    session.sql("REINDEX INDEX CONCURRENTLY i");
    session.assert_sound("i");
    compare(&mut session, "t", &mut rng, size(10, 100));
}

#[test]
fn constants_of_other_integer_types_compare_as_their_values() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE t (k int, e embedding(2), i2 smallint, i4 int, i8 bigint);
         INSERT INTO t SELECT k, ARRAY[k, 1]::real[]::embedding, k, k, k FROM generate_series(-20, 20) k;
         INSERT INTO t VALUES (100, '[1,1]', 32767, 2147483647, 9223372036854775807),
           (101, '[1,2]', -32768, -2147483648, -9223372036854775808);
         CREATE INDEX ON t USING distilface_hnsw (e, i2, i4, i8)",
    );
    for condition in [
        "i2 = 7",
        "i2 = 7::bigint",
        "i8 = 7::smallint",
        "i4 < 3000000000",
        "i2 < 40000",
        "i2 > 40000",
        "i4 >= -3000000000",
        "i2 = 65543",
        "i4 = 4294967303",
        "i8 > 9223372036854775806",
        "i8 >= 9223372036854775807",
        "i8 > 9223372036854775807",
        "i8 < -9223372036854775808",
        "i4 < (-2147483648)::int",
        "i2 <= -32768",
        "i2 = ANY ('{7,40000,-40000}'::int[])",
        "i8 < ANY ('{3,5}'::int[])",
        "i4 = NULL",
        "i4 = ANY (NULL::int[])",
        "i4 = ANY ('{}'::int[])",
    ] {
        let query = format!("SELECT k FROM t WHERE {condition} ORDER BY e <=> '[3,1]'");
        if condition == "i4 = NULL" || condition.contains("NULL::int[]") {
            assert!(session.column(&query).is_empty(), "{condition}");
            continue;
        }
        let (found, expected) = by_index_and_by_scan(&mut session, &query);
        assert_eq!(found, expected, "{condition}");
    }
}

#[test]
fn texts_are_equal_as_their_collation_says() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE t (k int, e embedding(2), w varchar, x text);
        INSERT INTO t SELECT k, ARRAY[k, 1]::real[]::embedding, repeat(chr(97 + k % 5), k), repeat('x', k * 500) || k % 3
          FROM generate_series(0, 60) k;
        INSERT INTO t VALUES (100, '[1,3]', '', ''), (101, '[1,3]', 'naïve', 'naïve');
        CREATE INDEX ON t USING distilface_hnsw (e, w, x)");
    for condition in [
        "w = 'bbbbbb'",
        "w = ''",
        "w = 'naïve'",
        "w > 'cc'",
        "w = ANY ('{aaaaa,dddddddd,e}'::text[])",
        "w = ANY ('{aaaaa,b}'::varchar[])",
        "x = repeat('x', 6000) || 0",
        "x < 'xxxxxxxxxxxxxxx2'",
        "x LIKE 'na%'",
    ] {
        let query = format!("SELECT k FROM t WHERE {condition} ORDER BY e <=> '[3,1]'");
        let (found, expected) = by_index_and_by_scan(&mut session, &query);
        assert_eq!(found, expected, "{condition}");
        assert!(!found.is_empty(), "{condition}");
    }
    let error = session.error("CREATE INDEX ON t USING distilface_hnsw (k, e)");
    assert_eq!(error.code.code(), "0A000", "{error}");
    assert!(error.hint.as_deref().unwrap_or_default().contains("follow"), "{error:?}");
    let error = session.error("CREATE INDEX ON t USING distilface_hnsw (e, (e + e))");
    assert!(error.message.contains("cannot filter"), "{error}");
    let error = session.error("CREATE INDEX ON t USING distilface_hnsw (e) INCLUDE (k)");
    assert_eq!(error.code.code(), "0A000", "{error}");
}

#[test]
fn a_text_index_filters_too() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE t (k int, body text, tenant int, lang text);
        INSERT INTO t SELECT k, (ARRAY['a dog in the park','stock markets fell','how to bake bread'])[k % 3 + 1] || ' ' || k,
          k % 10, (ARRAY['en','de'])[k % 2 + 1] FROM generate_series(1, 120) k;
        INSERT INTO t VALUES (500, NULL, 3, 'de'), (501, '', 3, 'de');
        CREATE INDEX i ON t USING distilface_hnsw (body, tenant, lang)");
    session.assert_sound("i");
    session.sql("INSERT INTO t VALUES (600, 'a puppy on the lawn', 3, 'de')");
    for condition in [
        "tenant = 3",
        "tenant = 3 AND lang = 'de'",
        "tenant > 7",
        "lang IS NOT NULL AND body = 'stock markets fell 1'",
    ] {
        let query = format!("SELECT k FROM t WHERE {condition} ORDER BY body <=> 'dogs'");
        let (found, expected) = by_index_and_by_scan(&mut session, &query);
        assert_eq!(found, expected, "{condition}");
    }
    session.sql("SET enable_seqscan = off; SET enable_sort = off");
    // The best of the tenant, though the other tenants have better ones.
    let nearest =
        session.column("SELECT body FROM t WHERE tenant = 3 ORDER BY body <=> 'a puppy' LIMIT 5");
    assert_eq!(nearest[0], "a puppy on the lawn");
    assert!(
        nearest.iter().all(|body| body.contains("dog") || body.contains("puppy")),
        "{nearest:?}"
    );
    // Only the first column is ordered by.
    session.sql("RESET ALL");
    let plan = session.column("EXPLAIN SELECT k FROM t ORDER BY lang <=> 'x' LIMIT 3").join("\n");
    assert!(!plan.contains("Index Scan"), "{plan}");
}

#[test]
fn joins_parameters_and_rescans_filter_by_the_value_of_the_moment() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    create(&mut session, "t", "");
    insert(&mut session, "t", 0, 1200);
    session.sql(&format!("CREATE INDEX i ON t USING distilface_hnsw (e, {}); ANALYZE t", names()));
    let q = random_vector(5, DIMS);
    let lateral = format!(
        "SELECT g || ':' || k FROM generate_series(-20, 25) g, LATERAL
           (SELECT k FROM t WHERE i4 = g AND b ORDER BY e <=> '{q}') x"
    );
    let (found, expected) = by_index_and_by_scan(&mut session, &lateral);
    assert_eq!(found, expected);
    session.sql(&format!(
        "PREPARE p(int[], text) AS SELECT k FROM t WHERE i4 = ANY ($1) AND t = $2 ORDER BY e <=> '{q}';
         SET plan_cache_mode = force_generic_plan"
    ));
    session.sql("SET enable_seqscan = off; SET enable_sort = off");
    for numbers in ["{1,2,3}", "{}", "{5,NULL}", "{-20,-19,-18,-17,-16,-15,0,7}"] {
        let mut found = session.column(&format!("EXECUTE p('{numbers}', 'word 3')"));
        let mut expected = session.column(&format!(
            "SELECT k FROM t WHERE i4 = ANY ('{numbers}'::int[]) AND t = 'word 3' ORDER BY k"
        ));
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{numbers}");
    }
    // A cursor goes on while rows come and go.
    session.sql(&format!(
        "BEGIN; DECLARE c CURSOR FOR SELECT k FROM t WHERE i2 > 0 ORDER BY e <=> '{q}'"
    ));
    let mut seen = session.column("FETCH 20 FROM c").len();
    session.sql("DELETE FROM t WHERE k % 2 = 0");
    insert(&mut session, "t", 3000, 3200);
    seen += session.column("FETCH ALL FROM c").len();
    session.sql("ROLLBACK");
    assert_eq!(seen.to_string(), session.one("SELECT count(*) FROM t WHERE i2 > 0"));
}

#[test]
fn partitions_partial_indexes_dumps_and_standbys_filter_alike() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let mut rng = StdRng::seed_from_u64(3);
    create(&mut session, "p", "PARTITION BY RANGE (k)");
    session.sql("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (400); CREATE TABLE p2 PARTITION OF p DEFAULT");
    session.sql(&format!("CREATE INDEX ON p USING distilface_hnsw (e, {})", names()));
    insert(&mut session, "p", 0, 900);
    compare(&mut session, "p", &mut rng, size(8, 100));
    create(&mut session, "h", "");
    insert(&mut session, "h", 0, 900);
    session.sql("CREATE INDEX hi ON h USING distilface_hnsw (e, i4, t) WHERE i2 > 0");
    let q = random_vector(6, DIMS);
    let query = format!("SELECT k FROM h WHERE i2 > 0 AND i4 > 3 ORDER BY e <=> '{q}'");
    let (found, expected) = by_index_and_by_scan(&mut session, &query);
    assert_eq!(found, expected);
    let standby = cluster.standby();
    insert(&mut session, "h", 900, 1100);
    session.sql("DELETE FROM h WHERE k % 4 = 0");
    session.sql("VACUUM h");
    standby.wait_for(&cluster);
    let mut replica = standby.session();
    let (found, expected) = by_index_and_by_scan(&mut replica, &query);
    assert_eq!(found, expected);
    replica.assert_sound("hi");
    let dump = cluster.dump("postgres");
    cluster.restore(&dump, "copy");
    let mut copy = cluster.session_as("postgres", "copy");
    copy.assert_sound("hi");
    copy.sql("ANALYZE");
    compare(&mut copy, "p", &mut rng, size(4, 50));
}

#[test]
fn the_planner_weighs_filter_columns_against_other_ways() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE t (k int PRIMARY KEY, tenant int, e embedding(128));
         INSERT INTO t SELECT k, k % 200, array_agg(random())::embedding
           FROM generate_series(1, 20000) k, generate_series(1, 128) GROUP BY k;
         CREATE INDEX i ON t USING distilface_hnsw (e, tenant); ANALYZE t",
    );
    let q = random_vector(1, 128);
    let mut plan =
        |rest: &str| session.column(&format!("EXPLAIN SELECT k FROM t {rest}")).join("\n");
    for condition in
        ["tenant = 7", "tenant < 100", "tenant = ANY ('{1,2,3}')", "tenant IS NOT NULL"]
    {
        let text = plan(&format!("WHERE {condition} ORDER BY e <=> '{q}' LIMIT 10"));
        assert!(text.contains("Index Scan using i ") && text.contains("Index Cond"), "{text}");
    }
    // The order by falling similarity is offered with the same clauses.
    let text = plan(&format!(
        "WHERE tenant = ANY ('{{1,2}}') AND e IS NOT NULL ORDER BY distilface_similarity(e, '{q}') DESC NULLS LAST LIMIT 5"
    ));
    assert!(text.contains("Index Scan using i ") && text.contains("Index Cond"), "{text}");
    // One row: the primary key finds it at once.
    let text = plan(&format!("WHERE tenant = 7 AND k = 207 ORDER BY e <=> '{q}' LIMIT 10"));
    assert!(text.contains("t_pkey"), "{text}");
    // No order, no graph.
    let text = plan("WHERE tenant = 7");
    assert!(text.contains("Seq Scan"), "{text}");
    // A second order is a sort's within the first.
    let other = random_vector(2, 128);
    let text = plan(&format!("ORDER BY e <=> '{q}', e <=> '{other}' LIMIT 5"));
    assert!(text.contains("Sort"), "{text}");
}

#[test]
fn an_index_with_the_column_that_is_asked_for_is_chosen_over_one_without() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE t (k int, tenant int, e embedding(128));
         INSERT INTO t SELECT k, k % 100, array_agg(random())::embedding
           FROM generate_series(1, 20000) k, generate_series(1, 128) GROUP BY k;
         CREATE INDEX bare ON t USING distilface_hnsw (e);
         CREATE INDEX filtered ON t USING distilface_hnsw (e, tenant); ANALYZE t;
         SET enable_seqscan = off",
    );
    let q = random_vector(1, 128);
    for condition in ["tenant = 7", "tenant < 3"] {
        let query = format!("SELECT k FROM t WHERE {condition} ORDER BY e <=> '{q}' LIMIT 10");
        let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
        assert!(plan.contains("Index Scan using filtered "), "{plan}");
    }
}
