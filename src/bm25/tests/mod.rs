//! The promises of the index, on stores in memory and with faults.

mod early_end;
mod faults;
mod interleaved;
mod scores;
mod storage;

use super::{Bm25Params, Builder, CheckReport, HeapTid, Query, Scope, View, check, create, insert};
use crate::page::{MemoryStore, PageStore};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

pub(super) const BODY: Scope<'static> = Scope { names: &["body"], defaults: &[0] };

/// The larger size under `make reliability`, the smaller one in a plain run.
pub(super) fn size(plain: u64, full: u64) -> u64 {
    if std::env::var_os("DISTILFACE_FULL").is_some_and(|value| value == "1") { full } else { plain }
}

pub(super) fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub(super) fn tid(number: u32) -> HeapTid {
    HeapTid { block: number / 100, offset: (number % 100 + 1) as u16 }
}

pub(super) fn number(tid: HeapTid) -> u32 {
    tid.block * 100 + u32::from(tid.offset) - 1
}

/// A text of words `w0`, `w1`, … of which the first are common.
pub(super) fn text(random: &mut StdRng, words: u32, vocabulary: u32) -> String {
    (0..words)
        .map(|_| {
            let u: f64 = random.random();
            format!("w{}", (f64::from(vocabulary) * u * u * u) as u32)
        })
        .collect::<Vec<_>>()
        .join(" ")
}

pub(super) fn texts(seed: u64, count: u32) -> Vec<String> {
    let mut random = random(seed);
    (0..count)
        .map(|_| {
            let words = random.random_range(1..40);
            text(&mut random, words, 200)
        })
        .collect()
}

pub(super) fn params() -> Bm25Params {
    Bm25Params::single("simple").expect("a valid configuration")
}

pub(super) fn built(texts: &[String], params: &Bm25Params) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    let mut builder = Builder::new(Arc::clone(&store), params.clone(), 0).expect("builds");
    for (number, text) in (0..).zip(texts) {
        builder.add(&[Some(text)], tid(number)).expect("adds");
    }
    builder.finish().expect("finishes");
    store
}

pub(super) fn inserted(texts: &[String], params: &Bm25Params) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    create(&*store, params).expect("creates");
    for (number, text) in (0..).zip(texts) {
        insert(&store, &[Some(text)], tid(number)).expect("inserts");
    }
    store
}

pub(super) fn search<S: PageStore + Send + Sync + 'static>(
    store: &Arc<S>,
    query: &str,
    k: usize,
) -> Vec<(u32, f32)> {
    let view = Arc::new(View::open(Arc::clone(store), 0).expect("opens"));
    let query = Query::parse(query).expect("parses");
    let hits = view.search(&query, BODY, k).expect("searches");
    hits.into_iter().map(|hit| (number(hit.tid), hit.score)).collect()
}

pub(super) fn sound<S: PageStore + Send + Sync + 'static>(store: &Arc<S>) -> CheckReport {
    let report = check(store).expect("the metapage is readable");
    assert!(report.is_ok(), "{:?}", report.problems);
    report
}
