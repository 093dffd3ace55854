//! Crash loops: writers that note what the server acknowledged, a server that is killed under them.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;

use crate::cluster::Cluster;
use crate::session::Session;

/// The keys whose commit the server acknowledged to a writer.
pub type Acknowledged = BTreeSet<u64>;

/// Kills the server `rounds` times under `writers` clients and restarts it. `write` is called with a session
/// and a key that is new in the whole loop; it returns `true` once its commit is acknowledged and `false`
/// when the connection broke on the way. After each crash recovery, `check` sees the server and every key
/// acknowledged so far.
pub fn crash_loop(
    cluster: &mut Cluster,
    rounds: usize,
    writers: usize,
    write: impl Fn(&mut Session, u64) -> bool + Sync,
    mut check: impl FnMut(&Cluster, &Acknowledged),
) {
    let next = AtomicU64::new(1);
    let acknowledged = Mutex::new(Acknowledged::new());
    for _ in 0..rounds {
        let sessions: Vec<Session> = (0..writers).map(|_| cluster.session()).collect();
        std::thread::scope(|scope| {
            for mut session in sessions {
                let (next, acknowledged, write) = (&next, &acknowledged, &write);
                scope.spawn(move || {
                    loop {
                        let key = next.fetch_add(1, Ordering::Relaxed);
                        if !write(&mut session, key) {
                            return;
                        }
                        acknowledged.lock().expect("no writer panics with the lock").insert(key);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(rand::rng().random_range(50..800)));
            // The server is a child of this thread and dies here; the writers then see broken connections.
            cluster.kill9();
        });
        cluster.restart();
        check(cluster, &acknowledged.lock().expect("no writer panics with the lock"));
    }
}
