//! Base backups, and physical standbys: a backup that streams from its primary.

use std::time::Duration;

use crate::cluster::{Cluster, socket_dir};
use crate::server::{give_to_postgres, run};

impl Cluster {
    /// A hot standby of this server, streaming and caught up.
    pub fn standby(&self) -> Cluster {
        let dir = socket_dir();
        give_to_postgres(dir.path());
        run(self
            .program("pg_basebackup")
            .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-D"])
            .arg(dir.path().join("data")));
        let standby = Cluster::launch(self.server.clone(), self.settings.clone(), dir);
        standby.wait_for(self);
        standby
    }

    /// A server of its own on a base backup of this one, which may be written meanwhile: it begins with a
    /// crash recovery from the backup's checkpoint on.
    pub fn base_backup(&self) -> Cluster {
        let dir = socket_dir();
        give_to_postgres(dir.path());
        run(self
            .program("pg_basebackup")
            .args(["--wal-method=stream", "--checkpoint=fast", "--no-sync", "-D"])
            .arg(dir.path().join("data")));
        Cluster::launch(self.server.clone(), self.settings.clone(), dir)
    }

    /// Waits until this standby has replayed all that its primary has done.
    pub fn wait_for(&self, primary: &Cluster) {
        // A vacuum ends without a commit record, so its last WAL may wait in memory: the commit of
        // this message flushes it.
        primary.one("SELECT pg_logical_emit_message(true, 'distilface', 'flush')");
        let target = primary.one("SELECT pg_current_wal_flush_lsn()");
        let mut session = self.session();
        for _ in 0..12_000 {
            let replayed = session
                .one(&format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{target}', false)"));
            if replayed == "t" {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the standby did not reach {target}");
    }

    /// Makes this standby a primary that takes writes.
    pub fn promote(&self) {
        assert_eq!(self.one("SELECT pg_promote(wait => true)"), "t", "the promotion ended in time");
    }
}
