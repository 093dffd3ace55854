//! Vectors with clusters, exact answers, and recall.

use distilface_core::hnsw::*;
use distilface_core::page::PageStore;
use distilface_core::vector::Metric;
use rand::prelude::*;
use std::collections::BTreeMap;

/// Wide enough for sketches with L2 and cosine; inner product and L1 are stored plain.
pub const DIMS: usize = 128;

/// Live rows by heap TID, what an index is compared with.
pub type Rows = BTreeMap<HeapTid, Vec<f32>>;

pub fn params(metric: Metric) -> HnswParams {
    HnswParams::parse(DIMS, metric, 8, 40).expect("valid parameters")
}

pub fn tid(number: u32) -> HeapTid {
    HeapTid { block: number / 50, offset: (number % 50 + 1) as u16 }
}

/// Points around a few centers, as embeddings lie.
pub fn vectors(count: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = StdRng::seed_from_u64(99);
    let centers: Vec<Vec<f32>> = (0..20).map(|_| point(&mut rng)).collect();
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count)
        .map(|_| {
            let center = &centers[rng.random_range(0..centers.len())];
            center.iter().zip(point(&mut rng)).map(|(c, noise)| c + noise).collect()
        })
        .collect()
}

fn point(rng: &mut StdRng) -> Vec<f32> {
    // Variances fall off, as those of embeddings do.
    (0..DIMS).map(|i| rng.random_range(-1.0..1.0) / (1.0 + i as f32 / 8.0)).collect()
}

pub fn rows(count: usize, seed: u64) -> Rows {
    vectors(count, seed).into_iter().enumerate().map(|(i, v)| (tid(i as u32), v)).collect()
}

pub fn build<S: PageStore>(store: &S, metric: Metric, rows: &Rows, threads: usize) {
    let options = BuildOptions { threads, ..BuildOptions::default() };
    let mut builder = Builder::new(params(metric), options);
    for (&tid, vector) in rows {
        assert_eq!(builder.add(vector, tid).expect("added"), Added::Kept);
    }
    builder.finish(store, &mut ()).expect("built");
}

/// The first `k` rows in exact order, as PostgreSQL's executor makes it of the bounds.
pub fn search<S: PageStore>(
    store: &S,
    metric: Metric,
    rows: &Rows,
    query: &[f32],
    k: usize,
    options: ScanOptions,
) -> Vec<HeapTid> {
    take_exact(&mut Scan::open(store, query, options).expect("opened"), metric, rows, query, k)
}

/// The first `k` rows of a scan in exact order.
pub fn take_exact<S: PageStore>(
    scan: &mut Scan<'_, S>,
    metric: Metric,
    rows: &Rows,
    query: &[f32],
    k: usize,
) -> Vec<HeapTid> {
    let mut waiting: Vec<(f64, HeapTid)> = Vec::new();
    let mut output = Vec::new();
    while let Some(hit) = scan.next().expect("scanned") {
        let ready = waiting.partition_point(|row| row.0 <= hit.lower_bound.into());
        output.extend(waiting.drain(..ready).map(|row| row.1));
        if output.len() >= k {
            output.truncate(k);
            return output;
        }
        let Some(vector) = rows.get(&hit.heap_tid) else {
            panic!("{:?} was handed out, which is not a live row", hit.heap_tid)
        };
        let distance = metric.distance(query, vector);
        assert!(f64::from(hit.lower_bound) <= distance, "bound {hit:?} above {distance}");
        let at = waiting.partition_point(|row| row.0 <= distance);
        waiting.insert(at, (distance, hit.heap_tid));
    }
    output.extend(waiting.into_iter().map(|row| row.1));
    output.truncate(k);
    output
}

pub fn exact(metric: Metric, rows: &Rows, query: &[f32], k: usize) -> Vec<HeapTid> {
    let mut all: Vec<(f64, HeapTid)> =
        rows.iter().map(|(&tid, vector)| (metric.distance(query, vector), tid)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.truncate(k);
    all.into_iter().map(|row| row.1).collect()
}

/// Share of the true nearest 10 that scans find.
pub fn recall<S: PageStore>(store: &S, metric: Metric, rows: &Rows, ef_search: u32) -> f64 {
    let queries = vectors(50, 4242);
    let options = ScanOptions { ef_search, ..ScanOptions::default() };
    let mut found = 0;
    for query in &queries {
        let truth = exact(metric, rows, query, 10);
        let answer = search(store, metric, rows, query, 10, options);
        found += answer.iter().filter(|tid| truth.contains(tid)).count();
    }
    found as f64 / 500.0
}

pub fn assert_sound<S: PageStore>(store: &S, rows: usize) -> CheckReport {
    let report = check(store).expect("readable");
    assert!(report.is_ok(), "{:#?}", report.violations);
    assert_eq!(report.heap_tids, rows as u64, "heap TIDs in the index");
    report
}

/// Every row that a scan without a limit hands out.
pub fn all_rows<S: PageStore>(store: &S, query: &[f32]) -> Vec<HeapTid> {
    let mut scan = Scan::open(store, query, ScanOptions::default()).expect("opened");
    let mut tids = Vec::new();
    while let Some(hit) = scan.next().expect("scanned") {
        tids.push(hit.heap_tid);
    }
    tids.sort_unstable();
    tids
}
