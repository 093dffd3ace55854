//! Test 24: hundreds of connections, dozens of which embed at once. All of them get on, none of them pays for
//! a copy of the model.

use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use distilface_tests::{Cluster, Session, size, words};

/// Megabytes that belong to a process alone.
fn private_mb(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the backend runs");
    let kb: u64 = rollup
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    kb / 1024
}

#[test]
fn many_connections_embed_at_once() {
    let (idle, active, quota) = (size(60, 300), size(20, 50), 20);
    let cluster = Cluster::builder().set("max_connections", "400").start();
    let idle: Vec<Session> = (0..idle).map(|_| cluster.session()).collect();
    let barrier = Barrier::new(active);
    let done: Vec<AtomicUsize> = (0..active).map(|_| AtomicUsize::new(0)).collect();
    let outcomes: Vec<(u64, usize)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..active)
            .map(|worker| {
                let (cluster, barrier, done) = (&cluster, &barrier, &done);
                scope.spawn(move || {
                    let mut session = cluster.session();
                    let pid = session.pid();
                    barrier.wait();
                    for i in 0..quota {
                        let text = words((worker * quota + i) as u64, 200);
                        let dims = session
                            .one(&format!("SELECT embedding_dims(distilface_embed('{text}'))"));
                        assert_eq!(dims, "384");
                        done[worker].fetch_add(1, Ordering::Relaxed);
                    }
                    // What the slowest has done by the time this one is through.
                    let slowest = done.iter().map(|n| n.load(Ordering::Relaxed)).min();
                    // A shared page counts as private once nobody else maps it: all stay connected
                    // until all are measured.
                    barrier.wait();
                    let private = private_mb(pid);
                    barrier.wait();
                    (private, slowest.expect("there are workers"))
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().expect("every worker gets through")).collect()
    });
    let memory = outcomes.iter().map(|o| o.0).max().expect("there are workers");
    let slowest = outcomes.iter().map(|o| o.1).min().expect("there are workers");
    eprintln!(
        "{active} at once: at most {memory} MB private; the slowest had done {slowest} of {quota} when the first was through"
    );
    assert!(memory <= 16, "a backend that embeds holds {memory} MB of its own");
    assert!(slowest >= quota / 4, "one connection starved: {slowest} of {quota}");
    drop(idle);
}
