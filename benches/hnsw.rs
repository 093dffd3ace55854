//! The index in memory: build time, and recall against time and page accesses per query.
//!
//! `cargo bench -p distilface-core --bench hnsw -- DIR [NAME]` reads `DIR/NAME.f32` (rows of 384
//! little-endian floats) and `DIR/1k_queries.f32`; without DIR it makes clustered random vectors.
//! `THREADS`, `METRIC` and `STORAGE` (`plain`, `sketched`) in the environment choose what is built,
//! `PARTS` what is measured (`search,insert,vacuum`, or `grow`: nine tenths in bulk, the rest one by one), `EF` the points of the curve, `ROUNDS` how often
//! each is measured; `INDEX` names a file that keeps the pages from one run to the next.
//! Rows are reranked as PostgreSQL's executor does it: a row waits until the scan's bound has passed
//! its exact distance.

mod vectors;

use distilface_core::hnsw::*;
use distilface_core::page::{MemoryStore, PAGE_CONTENT, PagePin, PageStore, PageTxn};
use distilface_core::vector::Metric;
use std::time::Instant;
use vectors::{DIMS, K, clustered, exact, read};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let (rows, queries) = match args.first() {
        Some(dir) => {
            let name = args.get(1).map_or("100k", String::as_str);
            (read(&format!("{dir}/{name}.f32")), read(&format!("{dir}/1k_queries.f32")))
        }
        None => (clustered(20_000, 1), clustered(200, 2)),
    };
    let threads = std::env::var("THREADS").map_or(1, |t| t.parse().expect("a number"));
    let metric: Metric =
        std::env::var("METRIC").map_or(Metric::Cosine, |m| m.parse().expect("a metric"));
    let params = HnswParams::parse(DIMS, metric, DEFAULT_M.into(), DEFAULT_EF_CONSTRUCTION.into())
        .expect("valid parameters");
    let params = match std::env::var("STORAGE").as_deref() {
        Ok("plain") => params.with_storage(Storage::Plain).expect("fits"),
        _ => params,
    };
    println!("storage {}", params.storage().name());
    let rows: Vec<&[f32]> = rows.chunks(DIMS).collect();
    let queries: Vec<&[f32]> = queries.chunks(DIMS).collect();
    let truth: Vec<Vec<u32>> = queries.iter().map(|q| exact(metric, &rows, q)).collect();
    let parts = std::env::var("PARTS").unwrap_or_else(|_| "search,insert,vacuum".into());
    let does = |part: &str| parts.split(',').any(|p| p == part);

    let file = std::env::var("INDEX").ok();
    if does("grow") {
        // A tenth of the rows come one by one: what that costs, and what it does to recall.
        let store = build(&rows[..rows.len() / 10 * 9], params, threads);
        let started = thread_seconds();
        for (i, row) in rows.iter().enumerate().skip(rows.len() / 10 * 9) {
            insert(&store, row, HeapTid { block: i as u32, offset: 1 }).expect("inserted");
        }
        let each = (thread_seconds() - started) / (rows.len() / 10) as f64;
        println!("insert of the last tenth {:.0} us of CPU each", each * 1e6);
        curve(&store, metric, &rows, &queries, &truth);
        return;
    }
    let store = match file.as_ref().filter(|file| std::fs::exists(file).unwrap_or(false)) {
        Some(file) => load(file),
        None => build(&rows, params, threads),
    };
    if let Some(file) = file {
        save(&store, &file);
    }

    if does("insert") || does("vacuum") {
        changes(&store, &queries, does("insert"), does("vacuum"));
    }
    if does("search") {
        curve(&store, metric, &rows, &queries, &truth);
    }
}

fn build(rows: &[&[f32]], params: HnswParams, threads: usize) -> MemoryStore {
    let store = MemoryStore::new();
    let (started, cpu_before) = (Instant::now(), process_seconds());
    let mut builder = Builder::new(params, BuildOptions { threads, ..BuildOptions::default() });
    for (i, row) in rows.iter().enumerate() {
        let tid = HeapTid { block: i as u32, offset: 1 };
        assert_eq!(builder.add(row, tid).expect("fits"), Added::Kept);
    }
    println!("add {:.3} s", started.elapsed().as_secs_f64());
    let mut phases = Phases { last: None, started: Instant::now() };
    let stats = builder.finish(&store, &mut phases).expect("builds");
    println!(
        "build {:.3} s ({:.3} s of CPU), {threads} threads, {stats:?}",
        started.elapsed().as_secs_f64(),
        process_seconds() - cpu_before
    );
    store
}

/// The pages as they were when [`save`] wrote them.
fn load(file: &str) -> MemoryStore {
    let store = MemoryStore::new();
    for content in std::fs::read(file).expect("readable").chunks(PAGE_CONTENT) {
        let mut txn = store.begin().expect("begins");
        let blkno = txn.extend().expect("extends");
        txn.page(blkno).expect("there").copy_from_slice(content);
        txn.commit().expect("commits");
    }
    store
}

fn save(store: &MemoryStore, file: &str) {
    let mut bytes = Vec::new();
    for blkno in 0..store.page_count().expect("counts") {
        bytes.extend_from_slice(&store.pin(blkno).expect("there").lock_shared());
    }
    std::fs::write(file, bytes).expect("writable");
}

/// Inserts the queries into a copy, then vacuums a tenth of its rows.
fn changes(store: &MemoryStore, queries: &[&[f32]], inserts: bool, vacuums: bool) {
    let copy = store.snapshot();
    if inserts {
        let started = thread_seconds();
        for (i, query) in queries.iter().enumerate() {
            let tid = HeapTid { block: 10_000_000 + i as u32, offset: 1 };
            insert(&copy, query, tid).expect("inserted");
        }
        let each = (thread_seconds() - started) / queries.len() as f64;
        println!("insert {:.0} us of CPU each", each * 1e6);
    }
    if vacuums {
        let started = thread_seconds();
        bulk_delete(&copy, &mut |tid| tid.block % 10 == 0).expect("deleted");
        let cleaned = cleanup(&copy).expect("cleaned");
        println!("vacuum of a tenth {:.1} s of CPU, {cleaned:?}", thread_seconds() - started);
    }
}

fn curve(
    store: &MemoryStore,
    metric: Metric,
    rows: &[&[f32]],
    queries: &[&[f32]],
    truth: &[Vec<u32>],
) {
    let points = std::env::var("EF").unwrap_or_else(|_| "10,20,30,40,50,60,80,100,120,160".into());
    let rounds: usize = std::env::var("ROUNDS").map_or(3, |n| n.parse().expect("a number"));
    println!("ef    recall@10  cpu us/q  pages  nodes  rows");
    for ef_search in points.split(',').map(|ef| ef.parse().expect("a number")) {
        let options = ScanOptions { ef_search, ..ScanOptions::default() };
        let mut best = f64::MAX;
        let (mut found, mut pages, mut nodes, mut fetched) = (0, 0, 0, 0);
        for round in 0..rounds {
            let started = thread_seconds();
            for (query, truth) in queries.iter().zip(truth) {
                let mut scan = Scan::open(store, query, options).expect("opens");
                let mut queue: Vec<(f64, u32)> = Vec::new();
                let mut output: Vec<u32> = Vec::new();
                while let Some(hit) = scan.next().expect("scans") {
                    while output.len() < K
                        && let Some(&(distance, id)) = queue.last()
                        && distance <= f64::from(hit.lower_bound)
                    {
                        output.push(id);
                        queue.pop();
                    }
                    if output.len() == K {
                        break;
                    }
                    let id = hit.heap_tid.block;
                    let distance = metric.distance(query, rows[id as usize]);
                    assert!(distance >= f64::from(hit.lower_bound), "bound");
                    let at = queue.partition_point(|other| other.0 > distance);
                    queue.insert(at, (distance, id));
                }
                if round == 0 {
                    found += output.iter().filter(|id| truth.contains(id)).count();
                    let stats = scan.stats();
                    pages += stats.pages;
                    nodes += stats.visited_nodes;
                    fetched += stats.rows;
                }
            }
            best = best.min(thread_seconds() - started);
        }
        let n = queries.len() as f64;
        println!(
            "{ef_search:<5} {:.4}     {:>7.1}  {:>6.1}  {:>6.1}  {:>5.1}",
            found as f64 / n / K as f64,
            best / n * 1e6,
            pages as f64 / n,
            nodes as f64 / n,
            fetched as f64 / n
        );
    }
}

/// CPU time of this process with the threads that have ended, in hundredths of a second; or 0 where the
/// system does not tell.
fn process_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

/// CPU time of this thread, in nanoseconds.
fn thread_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

struct Phases {
    last: Option<BuildPhase>,
    started: Instant,
}

impl Progress for Phases {
    fn report(&mut self, phase: BuildPhase, _done: u64, _total: u64) {
        if self.last != Some(phase) {
            println!("{:?} at {:.3} s", phase, self.started.elapsed().as_secs_f64());
            self.last = Some(phase);
        }
    }
}
