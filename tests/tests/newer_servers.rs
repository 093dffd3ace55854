//! Models and pipelines on the other server versions that this machine has: one walk through each.

use distilface_tests::{Cluster, Session, TinyModel, skip};

/// Clusters of PostgreSQL 16 and 18, with the background worker.
fn clusters() -> Vec<Cluster> {
    [16, 18]
        .into_iter()
        .filter_map(|version| {
            let builder = Cluster::builder().version(version);
            builder.set("shared_preload_libraries", "distilface").try_start()
        })
        .collect()
}

fn load(cluster: &Cluster, session: &mut Session, name: &str, seed: u64) {
    let dir = TinyModel::seed(seed).write(cluster.host());
    session.sql(&format!("SELECT distilface_model_load('{name}', '{}')", dir.display()));
}

#[test]
fn models_and_text_indexes() {
    let clusters = clusters();
    if clusters.is_empty() {
        skip!("no PostgreSQL 16 or 18 here");
    }
    for cluster in clusters {
        let mut session = cluster.session();
        load(&cluster, &mut session, "tiny", 1);
        session.sql(
            "CREATE TABLE docs (id int PRIMARY KEY, lang text, body text);
             INSERT INTO docs SELECT i, 'en', 'report number ' || i FROM generate_series(1, 200) i;
             INSERT INTO docs VALUES (201, 'en', NULL), (202, 'de', 'a cat');
             CREATE INDEX by_text ON docs USING distilface_hnsw (body, lang) WITH (model = 'tiny');
             CREATE INDEX by_expression ON docs USING distilface_hnsw ((distilface_embed(body, 'tiny')::embedding(32)));
             SET enable_seqscan = off",
        );
        let nearest = "SELECT id FROM docs WHERE lang = 'de' ORDER BY body <=> 'the cat' LIMIT 1";
        assert_eq!(session.one(nearest), "202");
        let by_similarity = "SELECT id FROM docs WHERE body IS NOT NULL ORDER BY distilface_similarity(body, 'report number 7', 'tiny') DESC LIMIT 1";
        assert_eq!(session.one(by_similarity), "7");
        let error = session.error("SELECT distilface_model_drop('tiny')");
        let used = error.detail.expect("it says by what");
        assert!(used.contains("by_text") && used.contains("by_expression"), "{used}");
        session.sql("REINDEX INDEX CONCURRENTLY by_text");
        session.sql("SELECT distilface_model_alias('default', 'tiny')");
        session.sql("UPDATE docs SET body = 'the cat sleeps' WHERE id = 3; DELETE FROM docs WHERE id BETWEEN 100 AND 150");
        session.sql("VACUUM docs");
        for index in ["by_text", "by_expression"] {
            session.assert_sound(index);
        }
        let standby = cluster.standby();
        let mut replica = standby.session();
        replica.sql("SET enable_seqscan = off");
        let again = "SELECT id FROM docs ORDER BY body <=> 'the cat sleeps' LIMIT 3";
        assert_eq!(replica.column(again), session.column(again));
        cluster.restore(&cluster.dump("postgres"), "restored");
        let mut restored = cluster.session_as("postgres", "restored");
        restored.sql("SET enable_seqscan = off");
        assert_eq!(restored.column(again), session.column(again));
    }
}

#[test]
fn pipelines_and_their_worker() {
    let clusters = clusters();
    if clusters.is_empty() {
        skip!("no PostgreSQL 16 or 18 here");
    }
    for cluster in clusters {
        let mut session = cluster.session();
        load(&cluster, &mut session, "first", 1);
        load(&cluster, &mut session, "second", 2);
        session.sql(
            "CREATE TABLE docs (id int PRIMARY KEY, body text);
             INSERT INTO docs SELECT i, 'the cat ' || i FROM generate_series(1, 120) i",
        );
        for call in [
            "'docs', 'body', 'e', model => 'first'",
            "'docs', 'body', 'q', form => 'queue', model => 'first'",
            "'docs', 'body', 'parts', chunk_tokens => 8, model => 'first'",
            "'docs', 'body', 'g', form => 'generated'",
        ] {
            session.sql(&format!("CALL distilface_vectorize({call})"));
        }
        session.sql("UPDATE docs SET body = body || ' on a river' WHERE id < 20; INSERT INTO docs VALUES (500, 'the dog'); DELETE FROM docs WHERE id = 30");
        let waiting = "SELECT count(*) FROM distilface.queue";
        for _ in 0..3600 {
            if session.one(waiting) == "0" {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let stale = "SELECT count(*) FROM docs WHERE NOT coalesce(e = distilface_embed(body, 'first') AND q = e AND g <=> distilface_embed(body) < 1e-6, false)";
        assert_eq!(session.one(stale), "0");
        let whole = "SELECT count(*) FROM docs d WHERE body IS DISTINCT FROM (SELECT string_agg(chunk, '' ORDER BY seq) FROM parts p WHERE p.id = d.id)";
        assert_eq!(session.one(whole), "0");
        session.sql("CALL distilface_revectorize('docs', 'second', 'q')");
        assert_eq!(
            session.one("SELECT bool_and(q = distilface_embed(body, 'second')) FROM docs"),
            "t"
        );
        let live = "SELECT string_agg(state || failed, ' ') FROM distilface.progress";
        assert_eq!(session.one(live), "live0 live0 live0 live0");
        for index in ["docs_e_idx", "docs_q_idx", "parts_e_idx", "docs_g_idx"] {
            session.assert_sound(index);
        }
        assert_eq!(session.one("SELECT distilface_unvectorize('docs')"), "4");
    }
}
