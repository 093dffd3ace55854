//! Dropping a model while somebody else makes what uses it: one of the two waits for the other, and no
//! object comes to name a model that is gone.

use distilface_tests::{Cluster, Session, TinyModel};

/// Statements that make something of the model "tiny", and what the thing is called.
const MAKERS: [(&str, &str); 9] = [
    (
        "CREATE INDEX by_expression ON docs USING distilface_hnsw ((distilface_embed(body, 'tiny')::embedding(32)))",
        "index public.by_expression",
    ),
    (
        "CREATE INDEX by_text ON docs USING distilface_hnsw (body) WITH (model = 'tiny')",
        "index public.by_text",
    ),
    (
        "CREATE INDEX by_tokens ON docs (distilface_token_count(body, 'tiny'))",
        "index public.by_tokens",
    ),
    (
        "CREATE VIEW v AS SELECT distilface_similarity(body, 'cat', 'tiny') AS s FROM docs",
        "rule _RETURN on view public.v",
    ),
    (
        "ALTER TABLE docs ADD e embedding DEFAULT distilface_embed('a cat', 'tiny')",
        "column public.docs.e",
    ),
    (
        "CREATE TABLE others (e embedding DEFAULT distilface_embed('a cat', 'tiny'))",
        "column public.others.e",
    ),
    (
        "CREATE FUNCTION f() RETURNS embedding BEGIN ATOMIC SELECT distilface_embed('a', 'tiny'); END",
        "function public.f()",
    ),
    (
        "CREATE POLICY p ON docs USING (distilface_similarity(body, 'cat', 'tiny') > 0)",
        "policy p on table public.docs",
    ),
    ("SELECT distilface_model_alias('default', 'tiny')", "alias 'default'"),
];

const DROP: &str = "SELECT distilface_model_drop('tiny')";

fn start() -> Cluster {
    let cluster = Cluster::start();
    let dir = TinyModel::default().write(cluster.host());
    cluster.sql(&format!(
        "SELECT distilface_model_load('tiny', '{}');
         CREATE TABLE docs (id int, body text); INSERT INTO docs VALUES (1, 'the cat'), (2, 'a river')",
        dir.display()
    ));
    cluster
}

/// Runs `first` in a transaction and `second` in another one, which waits; then ends the first by `end`.
fn meet(cluster: &Cluster, first: &str, end: &str, second: &str) -> Result<(), String> {
    let mut holder = cluster.session();
    holder.sql(&format!("BEGIN; {first}"));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut session = cluster.session();
            session.try_sql(second).map(|_| ()).map_err(|error| error.to_string())
        });
        let mut watcher = cluster.session();
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        while !other.is_finished() && watcher.one(waits) == "0" {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(!other.is_finished(), "{second} does not wait for {first}");
        holder.sql(end);
        other.join().expect("the statement ends")
    })
}

#[test]
fn a_drop_waits_for_what_comes_to_use_the_model() {
    let cluster = start();
    for (make, used_by) in MAKERS {
        let refused = meet(&cluster, make, "COMMIT", DROP).expect_err(make);
        assert!(refused.starts_with("2BP01") && refused.contains(used_by), "{make}: {refused}");
        cluster.sql(
            "DROP INDEX IF EXISTS by_expression, by_text, by_tokens; DROP VIEW IF EXISTS v;
             ALTER TABLE docs DROP COLUMN IF EXISTS e; DROP TABLE IF EXISTS others;
             DROP FUNCTION IF EXISTS f; DROP POLICY IF EXISTS p ON docs",
        );
    }
}

#[test]
fn what_is_rolled_back_lets_the_drop_go_on() {
    for (make, _) in &MAKERS[..2] {
        let cluster = start();
        meet(&cluster, make, "ROLLBACK", DROP).expect(make);
        assert_eq!(cluster.one("SELECT count(*) FROM distilface.models WHERE name = 'tiny'"), "0");
    }
}

#[test]
fn nothing_comes_to_use_a_model_that_is_being_dropped() {
    let cluster = start();
    let pipeline = ("CALL distilface_vectorize('docs', 'body', model => 'tiny')", "pipeline");
    for (make, used_by) in MAKERS.into_iter().chain([pipeline]) {
        let refused = meet(&cluster, DROP, "COMMIT", make).expect_err(make);
        assert!(refused.starts_with("42704"), "{make}: {refused}");
        let dir = TinyModel::default().write(cluster.host());
        cluster.sql(&format!("SELECT distilface_model_load('tiny', '{}')", dir.display()));
        let uses = cluster.one("SELECT used_by::text FROM distilface.models WHERE name = 'tiny'");
        assert_eq!(uses, "{}", "{used_by}");
        assert_eq!(cluster.one("SELECT count(*) FROM distilface.pipelines"), "0");
    }
    cluster.sql(DROP);
    // Also without a second session.
    let late = cluster.error(MAKERS[3].0);
    assert_eq!(late.code.code(), "42704", "{late}");
    assert_eq!(late.detail.as_deref(), Some("It was dropped."), "{late}");
}

const CONCURRENTLY: &str = "CREATE INDEX CONCURRENTLY by_expression ON docs USING distilface_hnsw ((distilface_embed(body, 'tiny')::embedding(32)))";
const IS_THERE: &str = "SELECT count(*) FROM pg_class WHERE relname = 'by_expression'";

/// It commits its index, as one that does not serve yet, before it computes anything. A drop that looked for
/// uses before that commit went through, and over a table without rows the index became valid.
#[test]
fn a_drop_waits_for_an_index_that_is_created_concurrently() {
    let cluster = start();
    for rows in ["SELECT", "TRUNCATE docs"] {
        cluster.sql(rows);
        let mut holder = cluster.session();
        holder.sql("BEGIN; LOCK TABLE docs IN SHARE UPDATE EXCLUSIVE MODE");
        std::thread::scope(|scope| {
            // Waits until so many statements wait for a lock, or the last one has ended.
            let wait_for = |count: &str, ended: &dyn Fn() -> bool| {
                let locks = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
                while !ended() && cluster.one(locks) != count {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            };
            // Held up in its first transaction, before the index has its row in the catalogs.
            let create = scope.spawn(|| cluster.session().try_sql(CONCURRENTLY));
            wait_for("1", &|| create.is_finished());
            let drop = scope.spawn(|| cluster.session().try_sql(DROP));
            wait_for("2", &|| drop.is_finished());
            holder.sql("COMMIT");
            let (create, drop) = (create.join(), drop.join());
            let refused = drop.expect("the statement ends").expect_err(rows);
            assert_eq!(refused.code.code(), "2BP01", "{refused}");
            create.expect("the statement ends").expect("the index is made");
        });
        cluster.session().assert_sound("by_expression");
        cluster.sql("INSERT INTO docs VALUES (3, 'a stone')");
        assert_eq!(
            cluster.one("SELECT nodes > 0 FROM distilface_index_info('by_expression')"),
            "t"
        );
        cluster.sql("DROP INDEX by_expression");
    }
}

#[test]
fn no_index_is_created_concurrently_by_a_model_that_is_being_dropped() {
    let cluster = start();
    for rows in ["SELECT", "TRUNCATE docs"] {
        cluster.sql(rows);
        let refused = meet(&cluster, DROP, "COMMIT", CONCURRENTLY).expect_err(rows);
        assert!(refused.starts_with("42704"), "{refused}");
        assert_eq!(cluster.one(IS_THERE), "0");
        // Nor by one that is gone, while its name may be used for other things.
        assert_eq!(cluster.error(CONCURRENTLY).code.code(), "42704");
        assert_eq!(cluster.one(IS_THERE), "0");
        cluster.sql("CREATE INDEX CONCURRENTLY other ON docs USING distilface_hnsw (body) WHERE body <> 'tiny'");
        let dir = TinyModel::default().write(cluster.host());
        cluster.sql(&format!(
            "DROP INDEX other; SELECT distilface_model_load('tiny', '{}')",
            dir.display()
        ));
        meet(&cluster, DROP, "ROLLBACK", CONCURRENTLY).expect(rows);
        assert_eq!(cluster.one(IS_THERE), "1");
        cluster.sql("DROP INDEX by_expression");
    }
}

#[test]
fn a_transaction_with_an_old_snapshot_does_not_drop() {
    let cluster = start();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let mut session: Session = cluster.session();
        session.sql(&format!("BEGIN ISOLATION LEVEL {level}"));
        let error = session.error(DROP);
        assert_eq!(error.code.code(), "25000", "{error}");
        assert!(error.hint.is_some(), "{error}");
    }
}
