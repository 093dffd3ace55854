//! The harness keeps its own promises; without the extension's SQL, so that a failure here is the harness's.

use std::panic::{AssertUnwindSafe, catch_unwind};

use distilface_tests::{Cluster, crash_loop, size, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_cluster_has_the_extension_and_speaks_sql() {
    let cluster = Cluster::start();
    assert_eq!(
        cluster.one("SELECT extname FROM pg_extension WHERE extname = 'distilface'"),
        "distilface"
    );
    assert_eq!(cluster.rows("SELECT 1, NULL"), [[Some("1".to_owned()), None]]);
    assert_eq!(cluster.psql("\\echo hi\nSELECT 2;"), "hi\n2\n");
    let error = cluster.error("SELECT 1/0");
    assert_eq!((error.code.code(), &*error.message), ("22012", "division by zero"));
}

#[test]
fn kill9_keeps_what_was_committed_and_nothing_else() {
    let mut cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (k bigint)");
    cluster.session().sql("INSERT INTO t VALUES (0)");
    let mut open = cluster.session();
    open.sql("BEGIN; INSERT INTO t VALUES (-1)");
    cluster.kill9_and_restart();
    assert_eq!(cluster.column("SELECT k FROM t"), ["0"]);
}

#[test]
fn a_crash_loop_loses_no_acknowledged_commit() {
    let mut cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (k bigint)");
    crash_loop(
        &mut cluster,
        size(3, 20),
        4,
        |session, key| session.acknowledged(&format!("INSERT INTO t VALUES ({key})")),
        |cluster, acknowledged| {
            assert!(!acknowledged.is_empty());
            let kept = cluster.column("SELECT k FROM t");
            let kept: std::collections::BTreeSet<u64> =
                kept.iter().map(|k| k.parse().expect("keys are numbers")).collect();
            let lost: Vec<_> = acknowledged.difference(&kept).collect();
            assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
        },
    );
}

#[test]
fn a_standby_follows_its_primary_and_takes_writes_once_promoted() {
    let primary = Cluster::start();
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let standby = primary.standby();
    primary.sql("DELETE FROM t WHERE i > 400");
    standby.wait_for(&primary);
    assert_eq!(standby.one("SELECT count(*) FROM t"), "400");
    assert_eq!(standby.error("INSERT INTO t VALUES (1)").code.code(), "25006");
    standby.promote();
    standby.sql("INSERT INTO t VALUES (1)");
}

#[test]
fn a_dump_restores_into_a_new_database() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 10) i");
    cluster.restore(&cluster.dump("postgres"), "restored");
    assert_eq!(cluster.session_as("postgres", "restored").one("SELECT sum(i) FROM t"), "55");
}

fn runs_beside(version: u32) {
    let Some(cluster) = Cluster::builder().version(version).try_start() else {
        skip!(
            "no PostgreSQL {version} here (`make pg-trees` makes 15 and 18, `make reliability` 16 too)"
        );
    };
    let server = cluster.one("SHOW server_version_num");
    assert_eq!(server[..2].parse(), Ok(version));
    assert_eq!(cluster.one("SELECT count(*) FROM pg_extension WHERE extname = 'distilface'"), "1");
}

#[test]
fn postgresql_16_runs_beside() {
    runs_beside(16);
}

#[test]
fn postgresql_18_runs_beside() {
    runs_beside(18);
}

/// A crash that the client does not see, in a background worker say, must not pass.
#[test]
fn a_backend_that_died_of_a_signal_fails_the_test() {
    let died = catch_unwind(AssertUnwindSafe(|| {
        let cluster = Cluster::start();
        let pid = cluster.session().one("SELECT pg_backend_pid() FROM pg_sleep(0)");
        let mut victim = cluster.session();
        let victim_pid = victim.pid();
        assert_ne!(pid, victim_pid.to_string());
        kill(Pid::from_raw(victim_pid), Signal::SIGSEGV).expect("the backend runs");
        // The postmaster reaps it and restarts; the log has it by then.
        while !cluster.log().contains("was terminated by signal") {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }));
    let message = died.expect_err("the drop judges the log");
    let message = message.downcast_ref::<String>().expect("a panic with a message");
    assert!(message.contains("a backend died"), "{message}");
}
