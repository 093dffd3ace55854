//! The embedded index: time of a bulk build, then recall against queries a second, on one thread.
//!
//! `benches/embedded.sh` (`make bench-embedded`) runs it in turns with hnswlib and usearch on the same data,
//! which `prepare` writes: the vectors of `make bench-index` where it made some, or of the folder that
//! `DISTILFACE_BENCH_VECTORS` names, or else 20,000 clustered random ones.

mod vectors;

use distilface_core::hnsw::{BuildOptions, HnswParams, ScanOptions};
use distilface_core::index::Index;
use distilface_core::vector::Metric;
use std::path::{Path, PathBuf};
use std::time::Instant;
use vectors::{DIMS, K, clustered, exact, read};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    match &args[..] {
        [what, dir] if what == "prepare" => prepare(Path::new(dir)),
        [what, dir] if what == "run" => run(Path::new(dir)),
        // `cargo test` starts every bench without arguments.
        _ => println!("usage: embedded prepare|run DIR"),
    }
}

/// Writes `rows.f32`, `queries.f32` and `truth.u32`, the ten nearest rows of each query.
fn prepare(dir: &Path) {
    let (rows, queries) =
        real_vectors().unwrap_or_else(|| (clustered(20_000, 1), clustered(500, 2)));
    let list: Vec<&[f32]> = rows.chunks(DIMS).collect();
    let truth: Vec<u32> =
        queries.chunks(DIMS).flat_map(|query| exact(Metric::Cosine, &list, query)).collect();
    let write = |name: &str, bytes: Vec<u8>| {
        std::fs::write(dir.join(name), bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    };
    write("rows.f32", rows.iter().flat_map(|x| x.to_le_bytes()).collect());
    write("queries.f32", queries.iter().flat_map(|x| x.to_le_bytes()).collect());
    write("truth.u32", truth.iter().flat_map(|x| x.to_le_bytes()).collect());
    println!("{} rows, {} queries of {DIMS} dimensions", list.len(), queries.len() / DIMS);
}

fn real_vectors() -> Option<(Vec<f32>, Vec<f32>)> {
    if let Some(dir) = std::env::var_os("DISTILFACE_BENCH_VECTORS") {
        let path = |name: &str| Path::new(&dir).join(name).display().to_string();
        return Some((read(&path("100k.f32")), read(&path("1k_queries.f32"))));
    }
    // The last thousand are the queries.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-index");
    let mut kept: Vec<PathBuf> =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    kept.retain(|path| path.extension().is_some_and(|extension| extension == "f32"));
    let largest = kept.into_iter().max_by_key(|path| path.metadata().map_or(0, |m| m.len()))?;
    let mut rows = read(&largest.display().to_string());
    let queries = rows.split_off(rows.len().checked_sub(1000 * DIMS)?);
    Some((rows, queries))
}

fn run(dir: &Path) {
    let path = |name: &str| dir.join(name).display().to_string();
    let (rows, queries) = (read(&path("rows.f32")), read(&path("queries.f32")));
    let bytes = std::fs::read(path("truth.u32")).expect("prepare wrote it");
    let truth: Vec<u64> =
        bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b).into()).collect();
    let place = dir.join("index");
    let _ = std::fs::remove_dir_all(&place);
    let params = HnswParams::parse(DIMS, Metric::Cosine, 16, 64).expect("valid parameters");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = BuildOptions { threads, ..BuildOptions::default() };
    let started = Instant::now();
    let list = rows.chunks(DIMS).enumerate().map(|(id, row)| (id as u64, row));
    let index = Index::create_with(&place, params, options, list).expect("created");
    println!("distilface build {:.1} s on {threads} threads", started.elapsed().as_secs_f64());
    for ef_search in [10, 20, 40, 80, 160, 320] {
        let options = ScanOptions { ef_search, ..ScanOptions::default() };
        let mut seconds = Vec::new();
        let mut found = 0;
        for _ in 0..3 {
            let started = Instant::now();
            found = 0;
            for (query, truth) in queries.chunks(DIMS).zip(truth.chunks(K)) {
                let nearest = index.search_with(query, K, options, |_| true).expect("searched");
                found += nearest.iter().filter(|near| truth.contains(&near.id)).count();
            }
            seconds.push(started.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let count = queries.len() / DIMS;
        println!(
            "distilface ef {ef_search} recall {:.4} queries/s {:.0}",
            found as f64 / (count * K) as f64,
            count as f64 / seconds[1]
        );
    }
    drop(index);
    let _ = std::fs::remove_dir_all(&place);
}
