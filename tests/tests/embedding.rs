//! The type `embedding` in SQL: forms, casts, operators, order, indexes, aggregates.

use std::io::{Read, Write};

use distilface_tests::{Cluster, random_vector};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Finite numbers of every magnitude.
fn any_numbers(rng: &mut StdRng, dims: usize) -> Vec<f32> {
    std::iter::repeat_with(|| f32::from_bits(rng.random()))
        .filter(|v| v.is_finite())
        .take(dims)
        .collect()
}

/// A row of binary COPY with an `int` and an `embedding` column.
fn copy_row(id: i32, x: &[f32]) -> Vec<u8> {
    let mut value = Vec::new();
    distilface_core::vector::binary::encode(x, &mut value);
    let id = [2i16.to_be_bytes().as_slice(), &4i32.to_be_bytes(), &id.to_be_bytes()].concat();
    [&id[..], &(value.len() as i32).to_be_bytes(), &value].concat()
}

#[test]
fn text_is_read_strictly_and_printed_as_postgresql_prints_reals() {
    let cluster = Cluster::start();
    for (given, want) in [
        ("[1,2,3]", "[1,2,3]"),
        (" [ 1.50 , -2e3,\t3e-7 ] ", "[1.5,-2000,3e-07]"),
        ("[1e6,123456,0.0001,0.00001,-0]", "[1e+06,123456,0.0001,1e-05,-0]"),
    ] {
        assert_eq!(cluster.one(&format!("SELECT '{given}'::embedding")), want);
    }
    for (given, code, message) in [
        ("[1,2", "22P02", r#"invalid input syntax for type embedding: "[1,2""#),
        ("1,2", "22P02", r#"invalid input syntax for type embedding: "1,2""#),
        ("[1,2]x", "22P02", r#"invalid input syntax for type embedding: "[1,2]x""#),
        ("[]", "22000", "embedding must have at least 1 dimension"),
        ("[NaN]", "22000", "NaN not allowed in embedding"),
        ("[1,-inf]", "22000", "infinite value not allowed in embedding"),
        ("[4e38]", "22003", r#""4e38" is out of range for type embedding"#),
    ] {
        let error = cluster.error(&format!("SELECT '{given}'::embedding"));
        assert_eq!((error.code.code(), &*error.message), (code, message), "{given}");
    }
    let error = cluster.error("SELECT '[1,x]'::embedding");
    assert_eq!(error.detail.as_deref(), Some(r#"Expected a number in dimension 2, got "x"."#));
    assert_eq!(error.hint.as_deref(), Some("Write it as [0.1,-2,3e-4]."));
    let error = cluster.error("SELECT ('[' || repeat('1,', 16000) || '1]')::embedding");
    assert_eq!(
        (error.code.code(), &*error.message),
        ("22000", "embedding cannot have more than 16000 dimensions")
    );
}

#[test]
fn a_type_modifier_fixes_the_dimensions() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (e embedding(3)); INSERT INTO t VALUES ('[1,2,3]')");
    for statement in [
        "INSERT INTO t VALUES ('[1,2]')",
        "INSERT INTO t SELECT '[1,2]'::embedding",
        "INSERT INTO t VALUES (ARRAY[1,2])",
        "UPDATE t SET e = e || e",
        "COPY t FROM PROGRAM 'echo [1,2]'",
    ] {
        let error = cluster.error(statement);
        assert_eq!(error.code.code(), "22000", "{statement}");
        assert!(error.message.starts_with("expected 3 dimensions, not "), "{error}");
    }
    assert_eq!(
        cluster
            .one("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'e'"),
        "embedding(3)"
    );
    for (modifier, message) in [
        ("0", "dimensions for type embedding must be at least 1"),
        ("16001", "dimensions for type embedding cannot exceed 16000"),
        ("1,2", "invalid type modifier"),
    ] {
        let error = cluster.error(&format!("CREATE TABLE bad (e embedding({modifier}))"));
        assert_eq!((error.code.code(), &*error.message), ("22023", message));
    }
    cluster.sql("CREATE TABLE wide (e embedding(16000))");
    cluster.sql("INSERT INTO wide SELECT array_agg(i::real) FROM generate_series(1, 16000) i");
    assert_eq!(cluster.one("SELECT embedding_dims(e) FROM wide"), "16000");
}

#[test]
fn values_come_back_bit_by_bit_through_text_binary_copy_and_dump() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE t (id int, e embedding); ALTER TABLE t ALTER e SET STORAGE extended");
    let mut rng = StdRng::seed_from_u64(1);
    let rows: Vec<Vec<u8>> = (0..400)
        .map(|i| (i, if i == 0 { 16_000 } else { 1 + i * 3 % 700 }))
        .map(|(i, dims)| copy_row(i as i32, &any_numbers(&mut rng, dims)))
        .collect();
    let mut stream = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    stream.extend(rows.concat());
    stream.extend((-1i16).to_be_bytes());

    let mut copy = session.client().copy_in("COPY t FROM STDIN (FORMAT binary)").expect("COPY");
    copy.write_all(&stream).expect("the server takes rows");
    assert_eq!(copy.finish().expect("the rows are valid"), 400);
    let mut back = Vec::new();
    session
        .client()
        .copy_out("COPY (SELECT * FROM t ORDER BY id) TO STDOUT (FORMAT binary)")
        .expect("COPY")
        .read_to_end(&mut back)
        .expect("the server sends rows");
    let differs = back.iter().zip(&stream).position(|(a, b)| a != b);
    assert!(back == stream, "byte {differs:?} of {} is not as sent ({})", stream.len(), back.len());

    // The array's output function is PostgreSQL's own for real.
    let differ = "e::text <> '[' || array_to_string(e::real[], ',') || ']'";
    assert_eq!(session.column(&format!("SELECT id FROM t WHERE {differ}")), Vec::<String>::new());
    let differ = "embedding_send(e::text::embedding) <> embedding_send(e)";
    assert_eq!(session.one(&format!("SELECT count(*) FROM t WHERE {differ}")), "0");

    let hash = "SELECT md5(string_agg(embedding_send(e), '' ORDER BY e)) FROM t";
    let want = session.one(hash);
    cluster.restore(&cluster.dump("postgres"), "restored");
    assert_eq!(cluster.session_as("postgres", "restored").one(hash), want);
}

#[test]
fn casts_are_those_of_the_surface() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (e embedding(2))");
    cluster.sql(
        "INSERT INTO t VALUES (ARRAY[1.5,2]::real[]), (ARRAY[1.5,2]::float8[]), (ARRAY[1,2]::int[]), \
         (ARRAY[1.5,2]::numeric[])",
    );
    assert_eq!(cluster.column("SELECT e FROM t"), ["[1.5,2]", "[1.5,2]", "[1,2]", "[1.5,2]"]);
    // Implicit: a function of real[] takes an embedding.
    cluster.sql("CREATE FUNCTION first(real[]) RETURNS real LANGUAGE sql AS 'SELECT $1[1]'");
    assert_eq!(cluster.one("SELECT first('[1.5,2,3]'::embedding)"), "1.5");
    assert_eq!(cluster.one("SELECT '[1,2.5]'::embedding::real[]"), "{1,2.5}");
    for (expression, code, message) in [
        ("'{}'::real[]", "22000", "embedding must have at least 1 dimension"),
        ("ARRAY[1,NULL]::real[]", "22004", "array must not contain nulls"),
        ("'{{1,2},{3,4}}'::int[]", "22000", "array must be one-dimensional"),
        ("ARRAY['NaN']::real[]", "22000", "NaN not allowed in embedding"),
        ("ARRAY['Infinity']::float8[]", "22000", "infinite value not allowed in embedding"),
        ("ARRAY['NaN']::numeric[]", "22000", "NaN not allowed in embedding"),
        ("ARRAY[-1e300]::float8[]", "22003", "-1e300 is out of range for type embedding"),
        (
            "ARRAY[1e60]::numeric[]",
            "22003",
            r#""1000000000000000000000000000000000000000000000000000000000000" is out of range for type real"#,
        ),
        (
            "array_fill(1, ARRAY[16001])",
            "22000",
            "embedding cannot have more than 16000 dimensions",
        ),
    ] {
        let error = cluster.error(&format!("SELECT ({expression})::embedding"));
        assert_eq!((error.code.code(), &*error.message), (code, message), "{expression}");
    }
    assert_eq!(
        cluster.error("SELECT ARRAY[1,2]::embedding(3)").message,
        "expected 3 dimensions, not 2"
    );
}

#[test]
fn distances_are_right_for_stored_toasted_and_short_values() {
    let cluster = Cluster::start();
    let one = |sql: &str| cluster.one(&format!("SELECT {sql}"));
    assert_eq!(one("'[1,2,3]'::embedding <-> '[4,6,3]'"), "5");
    assert_eq!(one("'[1,2,3]'::embedding <#> '[4,6,3]'"), "-25");
    assert_eq!(one("'[1,2,3]'::embedding <+> '[4,6,3]'"), "7");
    assert_eq!(one("'[1,1]'::embedding <=> '[-2,-2]'"), "2");
    assert_eq!(one("'[1,1]'::embedding <=> '[0,0]'"), "NaN");
    assert_eq!(one("'[3e38]'::embedding <-> '[-3e38]'"), "6.0000000109955115e+38");
    assert_eq!(one("distilface_similarity('[1,1]'::embedding, '[3,3]')"), "1");
    assert_eq!(one("pg_typeof(distilface_similarity('[1]'::embedding, '[3]'))"), "real");
    for operator in ["<->", "<#>", "<=>", "<+>", "+", "-", "*"] {
        let error = cluster.error(&format!("SELECT '[1,2]'::embedding {operator} '[1,2,3]'"));
        assert_eq!(error.code.code(), "22000");
        assert_eq!(error.message, "different embedding dimensions 2 and 3");
        assert_eq!(one(&format!("('[1]'::embedding {operator} NULL) IS NULL")), "t");
    }

    // Two dimensions have a one-byte header on disk, 300 lie inline, 3,000 and 16,000 are toasted, out
    // of line or compressed.
    cluster.sql("CREATE TABLE t (n int, e embedding, c embedding, x real[])");
    cluster.sql("ALTER TABLE t ALTER c SET STORAGE extended");
    cluster.sql(
        "INSERT INTO t SELECT n, a, a, a FROM (SELECT n, (SELECT array_agg((i % 7)::real) \
         FROM generate_series(1, n) i) a FROM unnest(ARRAY[2, 300, 3000, 16000]) n) s",
    );
    let expected = "(SELECT sum(v * v) FROM unnest(x) v)";
    let rows = cluster.rows(&format!(
        "SELECT n, -(e <#> c) = {expected}, e <-> c = 0, e <+> c = 0, abs(e <=> c) < 1e-6, \
         abs(embedding_norm(c) ^ 2 - {expected}) < 1e-6 * {expected}, embedding_dims(e) = n, e::real[] = x \
         FROM t ORDER BY n"
    ));
    assert_eq!(rows.len(), 4);
    for row in rows {
        assert!(row[1..].iter().all(|v| v.as_deref() == Some("t")), "{row:?}");
    }
}

#[test]
fn a_toasted_operand_that_stays_the_same_is_read_once() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE TABLE toasted (n int, e embedding(1000));
         INSERT INTO toasted SELECT n, array_agg(random() - 0.5)::embedding
           FROM generate_series(1, 300) n, generate_series(1, 1000) GROUP BY n;
         CREATE TABLE plain (n int, e embedding(1000));
         ALTER TABLE plain ALTER e SET STORAGE plain;
         INSERT INTO plain SELECT * FROM toasted; ANALYZE",
    );
    let mut session = cluster.session();
    session.sql("SET max_parallel_workers_per_gather = 0; SET work_mem = '1MB'");
    for operator in ["<->", "<#>", "<=>", "<+>"] {
        // Either operand changes in every row, every few rows, or never.
        for join in ["true", "b.n % 40 = 0", "a.n % 40 = 0"] {
            let distances = |table: &str| {
                format!(
                    "SELECT a.n, b.n, a.e {operator} b.e FROM {table} a, {table} b WHERE a.n < 60 AND {join} ORDER BY 1, 2"
                )
            };
            let rows = session.rows(&distances("toasted"));
            assert!(rows == session.rows(&distances("plain")), "{operator}, {join}");
        }
        let fixed = "(SELECT e FROM toasted WHERE n = 7)";
        for (a, b) in [("plain.e", fixed), (fixed, "plain.e")] {
            let query = format!("SELECT sum({a} {operator} {b}) FROM plain");
            let plan = session.column(&format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {query}"));
            let line = plan.iter().find(|line| line.contains("shared hit=")).expect("a line");
            let buffers: u32 =
                line.split(['=', ' ']).filter_map(|word| word.parse::<u32>().ok()).sum();
            // A page for two rows of `plain` and a few for the other table; 300 reads take 1,800.
            assert!((150..300).contains(&buffers), "{query}: {line}");
        }
    }
}

#[test]
fn arithmetic_works_by_element_and_reports_overflow() {
    let cluster = Cluster::start();
    let one = |sql: &str| cluster.one(&format!("SELECT {sql}"));
    assert_eq!(one("'[1,2]'::embedding + '[3,4]'"), "[4,6]");
    assert_eq!(one("'[1,2]'::embedding - '[3,4]'"), "[-2,-2]");
    assert_eq!(one("'[1,2]'::embedding * '[3,4]'"), "[3,8]");
    assert_eq!(one("'[1,2]'::embedding || '[3]'::embedding"), "[1,2,3]");
    assert_eq!(one("embedding_norm('[3,4]')"), "5");
    assert_eq!(one("l2_normalize('[3,4]'::embedding)"), "[0.6,0.8]");
    assert_eq!(one("l2_normalize('[0,0]'::embedding)"), "[0,0]");
    for (arguments, want) in [("2, 2", "[2,3]"), ("-1, 3", "[1]"), ("3, 2147483647", "[3,4,5]")] {
        assert_eq!(one(&format!("subvector('[1,2,3,4,5]'::embedding, {arguments})")), want);
    }
    for arguments in ["1, 0", "6, 1", "-5, 3", "2, -1", "-2147483648, -2147483648"] {
        let sql = format!("SELECT subvector('[1,2,3,4,5]'::embedding, {arguments})");
        assert_eq!(cluster.error(&sql).message, "embedding must have at least 1 dimension");
    }
    for (expression, message) in [
        ("'[3e38]'::embedding + '[3e38]'", "value out of range: overflow"),
        ("'[3e38]'::embedding - '[-3e38]'", "value out of range: overflow"),
        ("'[1e20]'::embedding * '[1e20]'", "value out of range: overflow"),
        ("'[1e-30]'::embedding * '[1e-30]'", "value out of range: underflow"),
    ] {
        let error = cluster.error(&format!("SELECT {expression}"));
        assert_eq!((error.code.code(), &*error.message), ("22003", message));
    }
    let long = "array_fill(1, ARRAY[9000])::embedding";
    assert_eq!(cluster.error(&format!("SELECT {long} || {long}")).code.code(), "22000");
}

#[test]
fn order_is_by_element_then_length_and_both_index_types_follow_it() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (id int, e embedding)");
    cluster.sql(
        "INSERT INTO t VALUES (1, '[2]'), (2, '[1,2]'), (3, '[1]'), (4, '[1,-5]'), (5, '[-1]'), (6, '[0]'), (7, '[-0]')",
    );
    assert_eq!(
        cluster.column("SELECT e FROM t ORDER BY e, id"),
        ["[-1]", "[0]", "[-0]", "[1]", "[1,-5]", "[1,2]", "[2]"]
    );
    assert_eq!(cluster.one("SELECT count(DISTINCT e) FROM t"), "6");
    assert_eq!(cluster.one("SELECT embedding_hash('[0,1]') = embedding_hash('[-0,1]')"), "t");
    for (comparison, want) in [
        ("'[1]'::embedding < '[1,0]'", "t"),
        ("'[1]'::embedding <= '[1]'", "t"),
        ("'[1]'::embedding = '[1,0]'", "f"),
        ("'[1]'::embedding <> '[1,0]'", "t"),
        ("'[2]'::embedding >= '[1,9]'", "t"),
        ("'[2]'::embedding > '[2]'", "f"),
    ] {
        assert_eq!(cluster.one(&format!("SELECT {comparison}")), want, "{comparison}");
    }
    // Short vectors: an index row holds a third of a page.
    cluster.sql("TRUNCATE t");
    for batch in 0..20u64 {
        let rows: Vec<String> = (0..100)
            .map(|i| {
                format!("({}, '{}')", batch * 100 + i, random_vector((batch * 100 + i) / 2, 8))
            })
            .collect();
        cluster.sql(&format!("INSERT INTO t VALUES {}", rows.join(",")));
    }
    for kind in ["btree", "hash"] {
        cluster.sql(&format!(
            "CREATE INDEX i ON t USING {kind} (e); SET enable_seqscan = off; ANALYZE t"
        ));
        let mut session = cluster.session();
        session.sql("SET enable_seqscan = off; SET enable_bitmapscan = off");
        let query = format!("SELECT count(*) FROM t WHERE e = '{}'", random_vector(77, 8));
        let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
        assert!(plan.contains("using i on t"), "{plan}");
        assert_eq!(session.one(&query), "2");
        cluster.sql("DROP INDEX i");
    }
    cluster.sql("SET enable_hashjoin = on");
    assert_eq!(cluster.one("SELECT count(*) FROM t a JOIN t b USING (e)"), "4000");
}

#[test]
fn aggregates_sum_in_double_precision_alone_and_in_parallel() {
    let cluster = Cluster::start();
    let one = |sql: &str| cluster.one(&format!("SELECT {sql}"));
    let of = |values: &str| format!("FROM unnest(ARRAY[{values}]::embedding[]) e");
    assert_eq!(one(&format!("avg(e) {}", of("'[1,2]','[3,5]',NULL"))), "[2,3.5]");
    assert_eq!(one(&format!("sum(e) {}", of("'[1,2]','[3,5]',NULL"))), "[4,7]");
    assert_eq!(one(&format!("avg(e) IS NULL AND sum(e) IS NULL {}", of(""))), "t");
    assert_eq!(one(&format!("avg(e) IS NULL {}", of("NULL,NULL"))), "t");
    // Neither loses the small term nor overflows on the way.
    assert_eq!(one(&format!("sum(e) {}", of("'[16777216]','[1]','[-16777216]'"))), "[1]");
    assert_eq!(one(&format!("avg(e) {}", of("'[3e38]','[3e38]','[3e38]'"))), "[3e+38]");
    let error = cluster.error(&format!("SELECT sum(e) {}", of("'[3e38]','[3e38]'")));
    assert_eq!((error.code.code(), &*error.message), ("22003", "value out of range: overflow"));
    let error = cluster.error(&format!("SELECT avg(e) {}", of("'[1]','[1,2]'")));
    assert_eq!(error.message, "different embedding dimensions 1 and 2");
    // A window evaluates the result of one state many times.
    assert_eq!(
        cluster.column(
            "SELECT avg(e) OVER (ORDER BY i) FROM (VALUES (1, '[2]'::embedding), (2, '[4]'), (3, '[9]')) t(i, e)"
        ),
        ["[2]", "[3]", "[5]"]
    );
    // Outside of an aggregate a state is a constant like any other.
    for state in ["{0}", "{1,2}"] {
        let call = format!("embedding_accum('{state}', '[3]')");
        let twice = format!("SELECT {call} = {call} FROM generate_series(1, 2)");
        assert_eq!(cluster.column(&twice), ["t", "t"]);
    }
    assert_eq!(one("embedding_accum('{1,2}', '[3]')"), "{2,5}");
    for state in ["'{}'", "'{NULL}'", "'{{1}}'"] {
        let sql = format!("SELECT embedding_accum({state}::float8[], '[1]'::embedding)");
        assert_eq!(cluster.error(&sql).message, "invalid aggregate state");
    }

    cluster.sql("CREATE TABLE t (g int, e embedding); ALTER TABLE t SET (parallel_workers = 2)");
    cluster.sql(
        "INSERT INTO t SELECT i % 10, ARRAY[i, -i, i % 3, 1] FROM generate_series(1, 20000) i; ANALYZE t",
    );
    let mut session = cluster.session();
    let query = "SELECT g, avg(e), sum(e) FROM t GROUP BY g ORDER BY g";
    let alone = session.rows(query);
    session.sql("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0");
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(plan.contains("Partial"), "{plan}");
    assert_eq!(session.rows(query), alone);
}

#[test]
fn the_type_works_under_any_search_path_and_for_any_role() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE ROLE plain LOGIN; CREATE TABLE t (e public.embedding); GRANT SELECT ON t TO plain",
    );
    cluster.sql("INSERT INTO t VALUES ('[1,2]')");
    let mut session = cluster.session_as("plain", "postgres");
    session.sql("SET search_path = ''");
    assert_eq!(session.one("SELECT e OPERATOR(public.<->) '[1,3]' FROM public.t"), "1");
    assert_eq!(session.one("SELECT public.avg(e) FROM public.t"), "[1,2]");
    assert_eq!(session.error("SELECT public.distilface_enable_pgvector()").code.code(), "42501");
}
