//! Test 15 of the reliability plan: the disk fills up under a build and under inserts, on a small file system that
//! holds a tablespace. The statement fails cleanly; the index is whole, and usable once there is room.

use std::path::Path;
use std::process::Command;

use distilface_tests::{Cluster, DIMS, Session, random_vector, size, skip};

/// A file system of its own in memory, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this process may not mount.
    fn mount(megabytes: usize) -> Option<Self> {
        let dir =
            tempfile::Builder::new().prefix("dfd").tempdir_in("/tmp").expect("/tmp can be written");
        let options = format!("size={megabytes}m,mode=0777");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may still have a file open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

fn insert_until_full(session: &mut Session, from: u64) -> u64 {
    for k in from.. {
        let insert = format!("INSERT INTO t VALUES ({k}, '{}', 1)", random_vector(k, DIMS));
        if let Err(error) = session.try_sql(&insert) {
            assert_eq!(error.code.code(), "53100", "{error}");
            return k;
        }
    }
    unreachable!("the disk is small")
}

#[test]
fn a_full_disk_fails_the_statement_and_not_the_index() {
    let Some(disk) = SmallDisk::mount(1) else {
        skip!("this user may not mount a small file system");
    };
    let cluster = Cluster::start();
    let mut session = cluster.session();
    cluster.vector_table();
    let owned =
        Command::new("chown").arg("--reference").arg(cluster.data()).arg(disk.path()).status();
    assert!(owned.expect("chown can be started").success(), "the server's user owns the directory");
    session.sql("ALTER TABLE t ADD tenant int");
    session.sql(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.path().display()));
    session.sql("INSERT INTO t SELECT k, array_agg(random())::embedding, 1 FROM generate_series(1, 6000) k, generate_series(1, 32) GROUP BY k");
    for _ in 0..size(2, 20) {
        let error = session
            .error("CREATE INDEX t_e ON t USING distilface_hnsw (e, tenant) TABLESPACE small");
        assert_eq!(error.code.code(), "53100", "{error}");
    }
    session.sql("DELETE FROM t WHERE k > 3000");
    session.sql("CREATE INDEX t_e ON t USING distilface_hnsw (e, tenant) TABLESPACE small");
    let mut key = 100_000;
    for _ in 0..size(2, 20) {
        key = insert_until_full(&mut session, key) + 1;
        session.assert_sound("t_e");
        let count = session.one("SELECT count(*) FROM t");
        session.sql("SET enable_seqscan = off; SET enable_sort = off");
        let found =
            session.column(&format!("SELECT k FROM t ORDER BY e <=> '{}'", random_vector(1, DIMS)));
        session.sql("RESET ALL");
        assert_eq!(found.len().to_string(), count);
        // Room within the index: vacuum needs none of the disk.
        session.sql("DELETE FROM t WHERE k IN (SELECT k FROM t ORDER BY k LIMIT 300)");
        session.sql("VACUUM (INDEX_CLEANUP on) t");
        session.assert_sound("t_e");
        // A slot is filled again when the transactions that ran when it was freed have ended.
        session.sql("SELECT txid_current()");
        session.sql(&format!("INSERT INTO t VALUES ({key}, '{}', 1)", random_vector(key, DIMS)));
        key += 1;
    }
    session.sql("DROP INDEX t_e");
    session.sql("DROP TABLESPACE small");
}
