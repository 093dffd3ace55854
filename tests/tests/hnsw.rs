//! The access method `distilface_hnsw` through SQL: what a query may rely on.

use distilface_tests::{Cluster, Session, random_vector, size};

const DIMS: usize = 48;

/// A table `t (id, grp, e)` of random vectors in clusters, as real embeddings lie.
fn fill(session: &mut Session, rows: usize) {
    session.sql(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, grp int, e embedding({DIMS}));
         ALTER TABLE t ALTER e SET STORAGE PLAIN;
         SELECT setseed(0.5);
         CREATE TEMP TABLE centers AS
           SELECT c, array_agg(random() * 2 - 1)::embedding AS v
             FROM generate_series(0, 49) c, generate_series(1, {DIMS}) GROUP BY c;
         INSERT INTO t
           SELECT i, i % 100, v + noise
             FROM (SELECT i, array_agg((random() - 0.5) * 0.8)::embedding AS noise
                     FROM generate_series(1, {rows}) i, generate_series(1, {DIMS}) GROUP BY i) n
             JOIN centers ON c = i % 50 ORDER BY i"
    ));
}

const OPERATORS: [(&str, &str); 4] = [
    ("embedding_l2_ops", "<->"),
    ("embedding_ip_ops", "<#>"),
    ("embedding_cosine_ops", "<=>"),
    ("embedding_l1_ops", "<+>"),
];

/// Runs `query` by index scan and by sort.
fn both_ways(session: &mut Session, query: &str) -> (Vec<String>, Vec<String>) {
    session.sql("SET enable_seqscan = off");
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(plan.contains("Index Scan"), "no index scan for {query}:\n{plan}");
    let by_index = session.column(query);
    session.sql("SET enable_seqscan = on; SET enable_indexscan = off");
    let by_sort = session.column(query);
    session.sql("RESET enable_indexscan");
    (by_index, by_sort)
}

#[test]
fn the_index_finds_what_a_sort_finds_in_the_same_order_with_each_metric() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 3000);
    for (opclass, operator) in OPERATORS {
        session.sql(&format!("CREATE INDEX i ON t USING distilface_hnsw (e {opclass})"));
        session.assert_sound("i");
        let (mut found, mut asked) = (0, 0);
        for query in 1..=20 {
            let statement = format!(
                "SELECT id FROM t ORDER BY e {operator} (SELECT e FROM t WHERE id = {query} * 7) LIMIT 10"
            );
            let (by_index, by_sort) = both_ways(&mut session, &statement);
            assert_eq!(by_index.len(), 10);
            found += by_index.iter().filter(|id| by_sort.contains(id)).count();
            asked += 10;
            // Whatever is found comes in the order of the exact distance.
            let order = format!(
                "SELECT id FROM t WHERE id IN ({}) ORDER BY e {operator} (SELECT e FROM t WHERE id = {query} * 7)",
                by_index.join(",")
            );
            session.sql("SET enable_indexscan = off");
            assert_eq!(by_index, session.column(&order), "{operator}");
            session.sql("RESET enable_indexscan");
        }
        assert!(found * 100 >= asked * 97, "{operator}: {found} of {asked}");
        session.sql("DROP INDEX i");
    }
}

#[test]
fn the_planner_takes_the_index_when_it_is_the_fastest_way() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 20_000);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e); ANALYZE t");
    let q = random_vector(1, DIMS);
    let mut plan =
        |rest: &str| session.column(&format!("EXPLAIN SELECT id FROM t {rest}")).join("\n");
    let nearest = plan(&format!("ORDER BY e <=> '{q}' LIMIT 10"));
    assert!(nearest.contains("Index Scan using i"), "{nearest}");
    for rest in [
        // One row qualifies: its own index finds it at once.
        format!("WHERE id = 7 ORDER BY e <=> '{q}' LIMIT 10"),
        // The whole table in order is a sort.
        format!("ORDER BY e <=> '{q}'"),
        // Another metric, the wrong way round, no order at all.
        format!("ORDER BY e <-> '{q}' LIMIT 10"),
        format!("ORDER BY e <=> '{q}' DESC LIMIT 10"),
        format!("WHERE e <=> '{q}' < 0.5 LIMIT 10"),
    ] {
        let other = plan(&rest);
        assert!(!other.contains("using i"), "{rest}:\n{other}");
    }
    session.sql("CREATE TABLE small AS SELECT * FROM t WHERE id <= 40; CREATE INDEX si ON small USING distilface_hnsw (e)");
    session.sql("VACUUM ANALYZE small");
    let few =
        session.column(&format!("EXPLAIN SELECT id FROM small ORDER BY e <=> '{q}' LIMIT 10"));
    assert!(few.join("\n").contains("Seq Scan"), "{few:#?}");
}

#[test]
fn a_filter_gets_as_many_rows_as_match() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 4000);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e)");
    let q = random_vector(3, DIMS);
    for (condition, limit, matching) in
        [("grp = 17", 10, 10), ("grp = 17", 100, 40), ("id = 1234", 10, 1), ("id < 0", 10, 0)]
    {
        session.sql("ALTER TABLE t DROP CONSTRAINT IF EXISTS t_pkey");
        let query =
            format!("SELECT id FROM t WHERE {condition} ORDER BY e <=> '{q}' LIMIT {limit}");
        let (by_index, by_sort) = both_ways(&mut session, &query);
        assert_eq!(by_index.len(), matching, "{condition} LIMIT {limit}");
        // All of them are few: the index must have found every one, in order.
        if limit > matching {
            assert_eq!(by_index, by_sort, "{condition} LIMIT {limit}");
        }
    }
    let everything = format!("SELECT id FROM t ORDER BY e <=> '{q}'");
    let (by_index, by_sort) = both_ways(&mut session, &everything);
    assert_eq!(by_index.len(), by_sort.len(), "a scan without LIMIT gives every row");
}

#[test]
fn inserts_updates_deletes_and_vacuum_keep_the_index_true() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 2000);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e)");
    for round in 0..3 {
        session.sql(&format!(
            "INSERT INTO t SELECT id + 10000 * ({round} + 1), grp, e + '{}'::embedding FROM t WHERE id <= 500;
             UPDATE t SET e = e + '{}'::embedding WHERE id % 3 = {round} AND id <= 2000;
             UPDATE t SET grp = grp + 1 WHERE id % 5 = {round};
             DELETE FROM t WHERE id % 7 = {round} AND id > 10000",
            random_vector(round, DIMS),
            random_vector(round + 10, DIMS)
        ));
        if round != 1 {
            session.sql("VACUUM t");
        }
        session.assert_sound("i");
        let q = random_vector(round + 20, DIMS);
        let (by_index, by_sort) =
            both_ways(&mut session, &format!("SELECT id FROM t ORDER BY e <=> '{q}'"));
        let (mut left, mut right) = (by_index.clone(), by_sort.clone());
        left.sort();
        right.sort();
        assert_eq!(left, right, "every live row once");
        let mut found = 0;
        for id in 1..=10 {
            let query = format!(
                "SELECT id FROM t ORDER BY e <=> (SELECT e FROM t WHERE id = {id} * 101) LIMIT 10"
            );
            let (near, exact) = both_ways(&mut session, &query);
            found += near.iter().filter(|id| exact.contains(id)).count();
        }
        assert!(found >= 95, "{found} of 100 after round {round}");
    }
    session.sql("DELETE FROM t");
    session.sql("VACUUM t");
    session.assert_sound("i");
    session.sql(&format!(
        "SET enable_seqscan = off; INSERT INTO t VALUES (1, 1, '{}')",
        random_vector(1, DIMS)
    ));
    assert_eq!(
        session.column(&format!(
            "SELECT id FROM t ORDER BY e <=> '{}' LIMIT 3",
            random_vector(2, DIMS)
        )),
        ["1"]
    );
}

#[test]
fn a_crash_loses_no_committed_row_and_the_index_answers_as_before() {
    let mut cluster = Cluster::builder().durable().start();
    let mut session = cluster.session();
    fill(&mut session, 1500);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e); CHECKPOINT");
    session.sql(&format!("INSERT INTO t SELECT id + 10000, grp, e + '{}'::embedding FROM t WHERE id <= 700; DELETE FROM t WHERE id BETWEEN 100 AND 300", random_vector(5, DIMS)));
    session.sql("VACUUM t");
    let mut open = cluster.session();
    open.sql(&format!("BEGIN; INSERT INTO t VALUES (-1, 0, '{}')", random_vector(6, DIMS)));
    let q = random_vector(7, DIMS);
    let query = format!("SELECT id FROM t ORDER BY e <=> '{q}' LIMIT 20");
    session.sql("SET enable_seqscan = off");
    let before = session.column(&query);
    cluster.kill9_and_restart();
    let mut session = cluster.session();
    session.sql("SET enable_seqscan = off");
    assert_eq!(session.column(&query), before);
    assert_eq!(session.one("SELECT count(*) FROM t WHERE id = -1"), "0");
    session.assert_sound("i");
    let (by_index, by_sort) =
        both_ways(&mut session, &format!("SELECT id FROM t ORDER BY e <=> '{q}'"));
    assert_eq!(by_index.len(), by_sort.len());
}

#[test]
fn a_standby_answers_as_its_primary_and_takes_over() {
    let primary = Cluster::start();
    let mut session = primary.session();
    fill(&mut session, 1000);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e)");
    let standby = primary.standby();
    for round in 0..size(3, 20) as u64 {
        session.sql(&format!(
            "INSERT INTO t SELECT id + 1000 * ({round} + 1), grp, e + '{}'::embedding FROM t WHERE id <= 200;
             DELETE FROM t WHERE id % 11 = {round}",
            random_vector(round, DIMS)
        ));
        session.sql("VACUUM t");
        standby.wait_for(&primary);
        let mut replica = standby.session();
        for session in [&mut session, &mut replica] {
            session.sql("SET enable_seqscan = off");
        }
        for query in 0..size(10, 50) as u64 {
            let query = format!(
                "SELECT id FROM t ORDER BY e <=> '{}' LIMIT 10",
                random_vector(query, DIMS)
            );
            assert_eq!(session.column(&query), replica.column(&query));
        }
    }
    standby.promote();
    let mut promoted = standby.session();
    promoted.sql(&format!("INSERT INTO t VALUES (-5, 1, '{}')", random_vector(77, DIMS)));
    promoted.sql("SET enable_seqscan = off");
    let nearest = format!("SELECT id FROM t ORDER BY e <=> '{}' LIMIT 1", random_vector(77, DIMS));
    assert_eq!(promoted.one(&nearest), "-5");
    promoted.assert_sound("i");
}

#[test]
fn queries_without_a_place_have_an_answer_or_a_clear_error() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 300);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e); SET enable_seqscan = off");
    assert_eq!(session.column("SELECT id FROM t ORDER BY e <=> NULL LIMIT 5").len(), 5);
    let zero = format!("array_fill(0, ARRAY[{DIMS}])::embedding");
    assert_eq!(session.column(&format!("SELECT id FROM t ORDER BY e <=> {zero} LIMIT 5")).len(), 5);
    let error = session.error("SELECT id FROM t ORDER BY e <=> '[1,2,3]' LIMIT 5");
    assert_eq!(error.code.code(), "22000", "{error}");
    assert!(error.message.contains("dimensions"), "{error}");
    let error = session.error("CREATE INDEX ON t USING distilface_hnsw (e) WITH (m = 1)");
    assert_eq!(error.code.code(), "22023", "{error}");
    let error = session
        .error("CREATE INDEX ON t USING distilface_hnsw (e) WITH (m = 50, ef_construction = 60)");
    assert!(error.message.contains("ef_construction"), "{error}");
    let error = session.error("CREATE INDEX ON t USING distilface_hnsw (id)");
    assert_eq!(error.code.code(), "0A000", "{error}");
    // NULL rows and rows without a direction come last.
    session.sql(&format!("INSERT INTO t VALUES (-1, 0, NULL), (-2, 0, {zero})"));
    session.assert_sound("i");
    assert_eq!(
        session.one("SELECT heap_tids || ' ' || unplaced FROM distilface_index_info('i')"),
        "302 2"
    );
    let all =
        session.column(&format!("SELECT id FROM t ORDER BY e <=> '{}'", random_vector(1, DIMS)));
    assert_eq!(all.len(), 302);
    assert!(all[300..].iter().all(|id| id.starts_with('-')), "{:?}", &all[300..]);
}

#[test]
fn every_way_to_make_an_index_makes_a_sound_one() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 1200);
    let q = random_vector(9, DIMS);
    session.sql("CREATE INDEX CONCURRENTLY ci ON t USING distilface_hnsw (e)");
    session.sql("REINDEX INDEX CONCURRENTLY ci");
    session.assert_sound("ci");
    session.sql("DROP INDEX ci; CREATE INDEX part ON t USING distilface_hnsw (e) WHERE grp < 50");
    let (by_index, by_sort) = both_ways(
        &mut session,
        &format!("SELECT id FROM t WHERE grp < 50 ORDER BY e <=> '{q}' LIMIT 5"),
    );
    assert_eq!(by_index, by_sort);
    session.sql("DROP INDEX part; CREATE INDEX expr ON t USING distilface_hnsw ((l2_normalize(e)) embedding_l2_ops)");
    let (by_index, by_sort) = both_ways(
        &mut session,
        &format!("SELECT id FROM t ORDER BY l2_normalize(e) <-> '{q}' LIMIT 5"),
    );
    assert_eq!(by_index, by_sort);
    session.sql(
        "DROP INDEX expr; CREATE TABLE p (id int, e embedding) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (600);
        CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (600) TO (100000);
        CREATE INDEX ON p USING distilface_hnsw (e);
        INSERT INTO p SELECT id, e FROM t",
    );
    session.assert_sound("p1_e_idx");
    let (by_index, by_sort) =
        both_ways(&mut session, &format!("SELECT id FROM p ORDER BY e <=> '{q}' LIMIT 5"));
    assert_eq!(by_index, by_sort);
    // A table that was empty and told no dimensions: the first row does.
    session.sql("CREATE UNLOGGED TABLE u (id int, e embedding); CREATE INDEX ui ON u USING distilface_hnsw (e); INSERT INTO u SELECT id, e FROM t");
    session.assert_sound("ui");
    assert_eq!(session.one("SELECT dimensions FROM distilface_index_info('ui')"), DIMS.to_string());
    session.sql("CREATE TEMP TABLE tmp AS SELECT id, e FROM t; CREATE INDEX ti ON tmp USING distilface_hnsw (e); DELETE FROM tmp WHERE id < 500");
    session.sql("VACUUM tmp");
    session.assert_sound("ti");
}

#[test]
fn an_unlogged_index_is_empty_and_usable_after_a_crash() {
    let mut cluster = Cluster::builder().durable().start();
    let mut session = cluster.session();
    fill(&mut session, 300);
    session.sql(&format!("CREATE UNLOGGED TABLE u (id int, e embedding({DIMS})); CREATE INDEX ui ON u USING distilface_hnsw (e);
        CREATE UNLOGGED TABLE v (id int, e embedding); CREATE INDEX vi ON v USING distilface_hnsw (e);
        INSERT INTO u SELECT id, e FROM t; INSERT INTO v SELECT id, e FROM t; CHECKPOINT"));
    cluster.kill9_and_restart();
    let mut session = cluster.session();
    session.sql("SET enable_seqscan = off");
    for table in ["u", "v"] {
        let query =
            format!("SELECT id FROM {table} ORDER BY e <=> '{}' LIMIT 5", random_vector(1, DIMS));
        assert_eq!(session.column(&query).len(), 0);
        session.sql(&format!("INSERT INTO {table} SELECT id, e FROM t"));
        assert_eq!(session.column(&query).len(), 5);
        session.assert_sound(&format!("{table}i"));
    }
}

#[test]
fn cursors_rescans_and_joins_scan_right() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    fill(&mut session, 1000);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e); SET enable_seqscan = off");
    let q = random_vector(11, DIMS);
    let mut all = session.column(&format!("SELECT id FROM t ORDER BY e <=> '{q}'"));
    all.truncate(300);
    session.sql(&format!("BEGIN; DECLARE c CURSOR FOR SELECT id FROM t ORDER BY e <=> '{q}'"));
    let mut fetched = Vec::new();
    for _ in 0..30 {
        fetched.extend(session.column("FETCH 10 FROM c"));
        session.sql("SAVEPOINT s; INSERT INTO t SELECT id + 100000, grp, e FROM t WHERE id = 1; ROLLBACK TO s");
    }
    session.sql("COMMIT");
    assert_eq!(fetched, all);
    // The index is scanned again for each outer row.
    let joined = session.rows(
        "SELECT o.id, n.id FROM (SELECT * FROM t WHERE id <= 20) o,
            LATERAL (SELECT id FROM t i WHERE i.id <> o.id ORDER BY i.e <=> o.e LIMIT 1) n ORDER BY 1",
    );
    session.sql("SET enable_indexscan = off; SET enable_seqscan = on");
    let exact = session.rows(
        "SELECT o.id, n.id FROM (SELECT * FROM t WHERE id <= 20) o,
            LATERAL (SELECT id FROM t i WHERE i.id <> o.id ORDER BY i.e <=> o.e LIMIT 1) n ORDER BY 1",
    );
    let same = joined.iter().zip(&exact).filter(|(a, b)| a == b).count();
    assert!(same >= 19, "{same} of {}", exact.len());
}

#[test]
fn a_build_beyond_maintenance_work_mem_goes_on_in_pages() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("SET maintenance_work_mem = '1MB'");
    fill(&mut session, 6000);
    session.sql("CREATE INDEX i ON t USING distilface_hnsw (e)");
    assert!(
        cluster.log().contains("no longer fits into maintenance_work_mem")
            || session.one("SELECT heap_tids FROM distilface_index_info('i')") == "6000"
    );
    session.assert_sound("i");
    let mut found = 0;
    for id in 1..=20 {
        let (near, exact) = both_ways(
            &mut session,
            &format!(
                "SELECT id FROM t ORDER BY e <=> (SELECT e FROM t WHERE id = {id} * 31) LIMIT 10"
            ),
        );
        found += near.iter().filter(|id| exact.contains(id)).count();
    }
    assert!(found >= 190, "{found} of 200");
}
