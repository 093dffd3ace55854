//! Text into vectors through SQL: what `distilface_embed` and its siblings promise.

use std::time::Duration;

use distilface_tests::{Cluster, skip, words};

const MODEL: &str = "distilface-small";

/// Texts of one to ninety words.
fn texts(count: usize) -> Vec<String> {
    (0..count).map(|i| words(i as u64, 1 + i * 7 % 90)).collect()
}

fn array(texts: &[String]) -> String {
    let quoted: Vec<String> =
        texts.iter().map(|t| format!("'{}'", t.replace('\'', "''"))).collect();
    format!("ARRAY[{}]::text[]", quoted.join(","))
}

#[test]
fn a_new_database_embeds_text_with_nothing_but_the_extension() {
    let cluster = Cluster::start();
    assert_eq!(cluster.one("SELECT embedding_dims(distilface_embed('hello'))"), "384");
    let norm: f64 =
        cluster.one("SELECT embedding_norm(distilface_embed('hello'))").parse().unwrap();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    let near = "distilface_similarity('How do I bake bread?', 'a recipe for a loaf')";
    let far = "distilface_similarity('How do I bake bread?', 'the stock market fell')";
    assert_eq!(cluster.one(&format!("SELECT {near} > {far} + 0.2")), "t");
}

/// A model in a database against PyTorch's vectors of it.
#[test]
fn vectors_match_the_reference_implementation() {
    let fixture = "../../shared/data/fixtures/minilm-l6-parity.json";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture);
    let Ok(json) = std::fs::read_to_string(path) else {
        skip!("no {fixture} beside the project");
    };
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let Ok(packed) = std::fs::read(top.join("models/all-minilm-l6-v2/model.packed")) else {
        skip!("no models/all-minilm-l6-v2 (`make model`)");
    };
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("SET distilface.on_overflow = silent");
    session.sql("CREATE TEMP TABLE block (bytes bytea)");
    let insert = session.client().prepare("INSERT INTO block VALUES ($1)").unwrap();
    session.client().execute(&insert, &[&packed]).unwrap();
    session.sql("SELECT distilface_model_import('minilm', lo_from_bytea(0, bytes)) FROM block");
    // The longest cases are cut at 512 tokens there and at 256 by the model.
    session.sql("CREATE TEMP TABLE fixture (j json)");
    let insert = session.client().prepare("INSERT INTO fixture VALUES ($1::text::json)").unwrap();
    session.client().execute(&insert, &[&json]).unwrap();
    let rows = session.rows(
        "WITH c AS (SELECT json_array_elements(j->'fixtures') c FROM fixture)
         SELECT distilface_token_count(c->>'text', 'minilm') = (c->>'n_tokens')::int,
                1 - (distilface_embed(c->>'text', 'minilm') <=> (c->>'embedding')::embedding)
           FROM c WHERE (c->>'n_tokens')::int <= 256 AND distilface_embed(c->>'text', 'minilm') IS NOT NULL",
    );
    assert!(rows.len() >= 20, "only {} cases", rows.len());
    for row in rows {
        assert_eq!(row[0].as_deref(), Some("t"));
        let cosine: f64 = row[1].as_deref().unwrap().parse().unwrap();
        assert!(cosine >= 0.9995, "cosine {cosine}");
    }
}

#[test]
fn null_and_blank_texts_have_no_vector() {
    let cluster = Cluster::start();
    assert_eq!(cluster.one("SELECT distilface_embed(NULL::text) IS NULL"), "t");
    assert_eq!(cluster.one("SELECT distilface_embed('') IS NULL"), "t");
    assert_eq!(cluster.one("SELECT distilface_embed(E' \\t\\n') IS NULL"), "t");
    assert_eq!(cluster.one("SELECT distilface_similarity('a', ' ') IS NULL"), "t");
    let nulls = "SELECT array_positions(array_agg(v IS NULL), true) \
                 FROM unnest(distilface_embed(ARRAY['a', NULL, 'b', ' '])) v";
    assert_eq!(cluster.one(nulls), "{2,4}");

    let mut session = cluster.session();
    session.sql("SET distilface.on_empty = error");
    let error = session.error("SELECT distilface_embed(' ')");
    assert_eq!(error.code.code(), "22023", "{error}");
    assert!(error.hint.as_deref().is_some_and(|h| h.contains("distilface.on_empty")), "{error}");
    assert_eq!(session.error("SELECT distilface_embed(ARRAY['a', ''])").code.code(), "22023");
    // A pinned call depends on its arguments alone.
    assert_eq!(session.one(&format!("SELECT distilface_embed(' ', '{MODEL}') IS NULL")), "t");
}

#[test]
fn a_text_has_the_same_bits_alone_in_a_batch_and_on_any_number_of_threads() {
    let cluster = Cluster::start();
    let texts = texts(200);
    let mut session = cluster.session();
    session.sql(&format!(
        "CREATE TABLE t AS SELECT i, body FROM unnest({}) WITH ORDINALITY AS u(body, i)",
        array(&texts)
    ));
    session.sql("CREATE TABLE alone AS SELECT i, distilface_embed(body) AS e FROM t");
    for (threads, order) in [(1, "i"), (2, "i"), (2, "-i"), (7, "body")] {
        session.sql(&format!("SET distilface.threads = {threads}"));
        let differing = session.one(&format!(
            "WITH o AS (SELECT array_agg(body ORDER BY {order}) b, array_agg(i ORDER BY {order}) i FROM t),
                  v AS (SELECT unnest(i) i, unnest(distilface_embed(b)) e FROM o)
             SELECT count(*) FROM v JOIN alone USING (i) WHERE embedding_send(v.e) <> embedding_send(alone.e)"
        ));
        assert_eq!(differing, "0", "{threads} threads, order by {order}");
    }
    assert_eq!(session.one("SELECT count(*) FROM alone WHERE e IS NOT NULL"), "200");
}

#[test]
fn a_named_model_is_pinned_and_an_unknown_one_is_named() {
    let cluster = Cluster::start();
    let same = format!("SELECT distilface_embed('x y', '{MODEL}') = distilface_embed('x y')");
    assert_eq!(cluster.one(&same), "t");
    let error = cluster.error("SELECT distilface_embed('x', 'foo')");
    assert_eq!(error.code.code(), "42704");
    assert_eq!(error.message, "model \"foo\" does not exist");
    assert!(error.hint.as_deref().is_some_and(|h| h.contains("distilface.models")), "{error}");
    assert_eq!(cluster.error("SELECT distilface_embed('x', 'default')").code.code(), "42704");
    assert_eq!(
        cluster.one("SELECT string_agg(name, ',') FROM distilface.models WHERE is_default AND dimensions = 384 AND length(revision) = 64"),
        MODEL
    );
    // IMMUTABLE: fit for a generated column and an expression index.
    cluster.sql(&format!(
        "CREATE TABLE g (body text, e embedding(384) GENERATED ALWAYS AS (distilface_embed(body, '{MODEL}')) STORED);
         INSERT INTO g VALUES ('a text'), (NULL)"
    ));
    assert_eq!(cluster.one("SELECT count(e) FROM g WHERE e = distilface_embed('a text')"), "1");
}

#[test]
fn an_overlong_text_is_cut_and_one_warning_a_statement_says_how_many() {
    let cluster = Cluster::start();
    let script = "\\set VERBOSITY terse\n\
        SELECT count(distilface_embed(repeat('word ', 500) || i)) FROM generate_series(1, 3) i;\n\
        SELECT 1;\n\
        SET distilface.on_overflow = silent;\n\
        SELECT count(distilface_embed(repeat('word ', 500)));";
    let mut psql = cluster.program("psql");
    psql.args(["-X", "-q", "-A", "-t", "-d", "postgres", "-c", ""]);
    let output = psql
        .args(script.lines().filter(|l| !l.starts_with('\\')).flat_map(|l| ["-c", l]))
        .output()
        .expect("psql can be started");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.matches("WARNING").count(), 1, "{stderr}");
    assert!(stderr.contains("3 texts were longer than the model reads"), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "3\n1\n1");

    let mut session = cluster.session();
    session.sql("SET distilface.on_overflow = error");
    let error = session.error("SELECT distilface_embed(repeat('word ', 500))");
    assert_eq!(error.code.code(), "22001", "{error}");
    assert_eq!(session.one("SELECT distilface_token_count(repeat('word ', 500))"), "502");
    // The head alone decides the vector.
    session.sql("SET distilface.on_overflow = silent");
    let same =
        "SELECT distilface_embed(repeat('word ', 500)) = distilface_embed(repeat('word ', 254))";
    assert_eq!(session.one(same), "t");
}

#[test]
fn a_hundred_megabytes_of_text_cost_no_more_than_their_head() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("SET distilface.on_overflow = silent");
    assert_eq!(
        session.one("SELECT embedding_dims(distilface_embed(repeat('lorem ipsum ', 8700000)))"),
        "384"
    );
    assert_eq!(session.one("SELECT distilface_embed(repeat('x', 100000000)) IS NULL"), "f");
    assert_eq!(session.one("SELECT distilface_embed(repeat(' ', 100000000)) IS NULL"), "t");
}

#[test]
fn cancel_ends_a_long_batch_and_the_session_goes_on() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql("CREATE TABLE t AS SELECT repeat('some words in a row ', 40) || i AS body FROM generate_series(1, 200000) i");
    for statement in [
        "SELECT cardinality(distilface_embed(array_agg(body))) FROM t",
        "SELECT count(distilface_embed(body)) FROM t",
        "SELECT sum(distilface_token_count(body || repeat(' word', 5000))) FROM t",
    ] {
        for milliseconds in [300, 700] {
            let canceler = session.canceler();
            let thread = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(milliseconds));
                canceler.cancel();
            });
            let error = session.error(statement);
            thread.join().unwrap();
            assert_eq!(error.code.code(), "57014", "{error}");
            assert_eq!(session.one("SELECT embedding_dims(distilface_embed('still here'))"), "384");
        }
        session.sql("SET statement_timeout = '300ms'");
        assert_eq!(session.error(statement).code.code(), "57014");
        session.sql("RESET statement_timeout");
    }
}

#[test]
fn a_plain_role_embeds_and_no_search_path_is_needed() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE plain LOGIN");
    let mut session = cluster.session_as("plain", "postgres");
    session.sql("SET search_path = ''");
    assert_eq!(session.one("SELECT public.embedding_dims(public.distilface_embed('x'))"), "384");
    assert_eq!(session.one("SELECT cardinality(public.distilface_embed(ARRAY['x', 'y']))"), "2");
    assert_eq!(session.one("SELECT count(*) > 0 FROM distilface.models"), "t");
}

#[test]
fn a_database_in_another_encoding_gives_the_same_vectors() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    );
    let mut latin = cluster.session_as("postgres", "latin");
    latin.sql("CREATE EXTENSION distilface");
    let text = "SELECT distilface_embed('ein schönes Café über der Straße')";
    assert_eq!(latin.one(text), cluster.one(text));
}

#[test]
fn parallel_workers_embed_too() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    session.sql(
        "CREATE TABLE t AS SELECT 'text number ' || i AS body FROM generate_series(1, 300) i;
         SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET max_parallel_workers_per_gather = 2",
    );
    let query = "SELECT count(distilface_embed(body)) FROM t";
    let plan = session.column(&format!("EXPLAIN {query}")).join("\n");
    assert!(plan.contains("Gather"), "{plan}");
    assert_eq!(session.one(query), "300");
}

#[test]
fn without_a_cuda_device_the_cpu_embeds_and_one_notice_a_session_says_so() {
    let cluster = Cluster::start();
    let told = |device: &str| {
        let mut psql = cluster.program("psql");
        psql.args(["-XqAt", "-d", "postgres", "-c", &format!("SET distilface.device = {device}")]);
        let statement = "SELECT distilface_embed('a text') <=> (distilface_embed(ARRAY['a text']))[1] < 1e-6, embedding_dims(distilface_embed('more'))";
        let output = psql.args(["-c", statement, "-c", statement]).output().expect("psql starts");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "t|384\nt|384");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(told("cpu"), "");
    assert_eq!(told("auto"), "");
    let notices = told("cuda");
    assert_eq!(notices.matches("NOTICE").count(), 1, "{notices}");
    assert!(notices.contains("built without the cargo feature cuda"), "{notices}");
    let error =
        cluster.session().error("SELECT distilface_embed('a'); SET distilface.device = gpu");
    assert_eq!(error.code.code(), "22023");
}
