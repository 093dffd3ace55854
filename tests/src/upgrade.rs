//! `pg_upgrade`: the same data directory under a later server.

use crate::cluster::{Cluster, socket_dir};
use crate::server::{Server, give_to_postgres, run};

impl Cluster {
    /// Stops this server and brings its data to another major version with `pg_upgrade`.
    ///
    /// # Panics
    /// Where this machine has no such version, or `pg_upgrade` refuses.
    pub fn upgrade(mut self, version: u32) -> Cluster {
        let new = Server::find(version)
            .unwrap_or_else(|| panic!("no PostgreSQL {version} here, run `make pg-trees`"));
        self.stop();
        let dir = socket_dir();
        give_to_postgres(dir.path());
        let data = dir.path().join("data");
        let mut initdb = new.command("initdb");
        initdb.args(["--no-locale", "-E", "UTF8", "-U", "postgres", "-A", "trust", "--no-sync"]);
        if version >= 18 {
            // Both have to agree, and before 18 the default is to have none.
            initdb.arg("--no-data-checksums");
        }
        run(initdb.arg("-D").arg(&data));
        let mut upgrade = new.command("pg_upgrade");
        upgrade.args(["-U", "postgres", "--copy", "-b"]).arg(&self.server.bin);
        upgrade.arg("-B").arg(&new.bin).arg("-d").arg(self.data()).arg("-D").arg(&data);
        // It leaves a script where it was started.
        upgrade.arg("--socketdir").arg(dir.path()).current_dir(dir.path());
        run(&mut upgrade);
        Cluster::launch(new, self.settings.clone(), dir)
    }
}
