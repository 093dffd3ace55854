//! Throwaway PostgreSQL clusters for the tests in `tests/tests/`, so that a test of a crash, a standby or
//! another server version costs ten lines:
//!
//! ```no_run
//! # use distilface_tests::Cluster;
//! let mut cluster = Cluster::start();
//! cluster.sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)");
//! cluster.kill9();
//! cluster.restart();
//! assert_eq!(cluster.one("SELECT count(*) FROM t"), "1");
//! ```
//!
//! A cluster is a copy of a template data directory that holds the extension already; the first test of a run
//! makes the template, under a file lock, and a newly installed library makes a new one. The servers are the
//! private trees of `make pg-trees`. PostgreSQL refuses to run as root: then it runs as user `postgres`.
//! It listens on a socket in its own short directory only, and dies with the thread that started it
//! (`setpriv --pdeathsig`), so a cluster is started and dropped on one thread.
//!
//! Every cluster is judged when it is dropped: a backend that died of a signal, a PANIC or a failed assertion
//! in its log fails the test even where the client saw nothing.

mod cluster;
mod corpus;
mod crash;
mod fixture;
mod models;
mod random;
mod server;
mod session;
mod standby;
mod template;
mod upgrade;

pub use cluster::{Builder, Cluster, Kept};
pub use corpus::second_column;
pub use crash::{Acknowledged, crash_loop};
pub use fixture::DIMS;
pub use models::TinyModel;
pub use random::{random_vector, words};
pub use server::{bindir, checkout};
pub use session::{Canceler, Session, SqlError};

/// Says on standard error that a test could not run here and why; `make test` lists these lines at its end.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        eprintln!("skipped: {}", format_args!($($why)*));
        return;
    }};
}

/// The larger size under `make reliability` (`DISTILFACE_FULL=1`), the smaller one in CI.
pub fn size(ci: usize, full: usize) -> usize {
    if std::env::var_os("DISTILFACE_FULL").is_some_and(|v| v == "1") { full } else { ci }
}
