//! Any text as a full text query, strict and lenient, compiled and run on a small index; a row's texts
//! alone score what the index gives the row.
#![no_main]

use distilface_core::bm25::{
    Bm25Params, HeapTid, Highlight, Prepared, Query, Scope, TextScorer, View, create, highlight,
    insert,
};
use distilface_core::page::MemoryStore;
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

const TEXTS: [&str; 4] = ["the quick brown fox", "a wi-fi router", "", "fox fox foxes"];

static VIEW: LazyLock<Arc<View<MemoryStore>>> = LazyLock::new(|| {
    let store = Arc::new(MemoryStore::new());
    create(&*store, &params()).expect("a store in memory");
    for (row, text) in (1..).zip(TEXTS) {
        let tid = HeapTid { block: 0, offset: row };
        insert(&store, &[Some(text)], tid).expect("a store in memory");
    }
    Arc::new(View::open(store, 1 << 20).expect("a sound index"))
});

fn params() -> Bm25Params {
    Bm25Params::single("english").expect("a valid configuration")
}

fuzz_target!(|text: &str| {
    let scope = Scope { names: &["body"], defaults: &[0] };
    for query in Query::parse(text).into_iter().chain([Query::lenient(text, &["body"])]) {
        if let Ok(hits) = VIEW.search(&query, scope, 5) {
            let prepared = Prepared::new(&VIEW, &query, scope).expect("it was compiled before");
            let mut scorer =
                TextScorer::new(Arc::clone(&VIEW), &prepared, None).expect("a sound index");
            for (row, text) in (1..).zip(TEXTS) {
                let by_index = hits.iter().find(|hit| hit.tid.offset == row).map(|hit| hit.score);
                let by_text = scorer.score(&[Some(text)]).expect("a sound index");
                match (by_index, by_text) {
                    (Some(a), Some(b)) => {
                        // tantivy counts a phrase with slop by which of its terms is the rarest.
                        let sloppy = text.contains('~');
                        let same = (a - b).abs() <= 1e-4 * a.abs() || !a.is_finite() || sloppy;
                        assert!(same, "row {row}: {a} {b}");
                    }
                    (None, None) => {}
                    other => panic!("row {row}: {other:?}"),
                }
            }
        }
        let marked = highlight(text, &query, &params(), scope, 0, &Highlight::default());
        if let Ok(marked) = marked {
            assert!(marked.len() >= text.len());
        }
    }
});
