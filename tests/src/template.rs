//! The data directory that every cluster of a run is a copy of: `initdb`, then `CREATE EXTENSION` in
//! `template1` and `postgres`. `initdb` takes seconds, a copy takes a fraction of one.
//!
//! nextest runs each test in a process of its own, so the template lives on disk, named by the installed
//! library's time stamp, and a file lock lets one process make it while the others wait.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server::{Server, give_to_postgres, run};

/// Copies the template of `server` to `data`, which must not exist.
pub(crate) fn copy_to(server: &Server, data: &Path) {
    let template = ensure(server);
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(template).arg(data));
}

fn ensure(server: &Server) -> PathBuf {
    let dir = server.trees().join("templates");
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let lock = File::create(dir.join("lock")).expect("the lock file can be made beside the trees");
    lock.lock().expect("a file lock works beside the trees");

    let name = server.library_stamp();
    let template = dir.join(&name);
    if template.exists() {
        return template;
    }
    // Templates of an earlier library serve nobody any more.
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let old = entry.file_name().to_string_lossy().starts_with(&format!("{}-", server.version));
        if old {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let making = dir.join(format!("making-{name}"));
    let _ = fs::remove_dir_all(&making);
    fs::create_dir(&making).unwrap_or_else(|e| panic!("{}: {e}", making.display()));
    give_to_postgres(&making);
    let data = making.join("data");
    run(server
        .command("initdb")
        .args(["--no-locale", "-E", "UTF8", "-U", "postgres", "-A", "trust", "--no-sync", "-D"])
        .arg(&data));
    // A server in single-user mode hands out object ids from initdb's range, whose objects pg_dump takes
    // for built in and leaves out: start it where a running server's ids start (FirstNormalObjectId).
    run(server.command("pg_resetwal").args(["-o", "16384", "-D"]).arg(&data));
    for database in ["template1", "postgres"] {
        create_extension(server, &data, database);
    }
    fs::rename(&data, &template).unwrap_or_else(|e| panic!("{}: {e}", template.display()));
    let _ = fs::remove_dir_all(&making);
    template
}

/// Single-user mode needs no socket and leaves a cleanly stopped cluster.
fn create_extension(server: &Server, data: &Path, database: &str) {
    let script = data.with_file_name("create-extension.sql");
    fs::write(&script, "CREATE EXTENSION IF NOT EXISTS distilface;\n")
        .expect("a file can be written");
    let mut command = server.command("postgres");
    command.args(["--single", "-F", "-c", "exit_on_error=on", "-D"]).arg(data).arg(database);
    command.stdin(File::open(&script).expect("the file was just written"));
    run(&mut command);
}
