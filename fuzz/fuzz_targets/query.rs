//! Any text as a full text query, strict and lenient, compiled and run on a small index.
#![no_main]

use distilface_core::bm25::{
    Bm25Params, Highlight, Query, Scope, View, create, highlight, insert, HeapTid,
};
use distilface_core::page::MemoryStore;
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

static VIEW: LazyLock<Arc<View<MemoryStore>>> = LazyLock::new(|| {
    let store = Arc::new(MemoryStore::new());
    create(&*store, &params()).expect("a store in memory");
    for (row, text) in (1..).zip(["the quick brown fox", "a wi-fi router", "", "fox fox foxes"]) {
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
        if let Ok(hits) = VIEW.search(&query, scope, 3) {
            assert!(hits.len() <= 3);
        }
        let marked = highlight(text, &query, &params(), scope, 0, &Highlight::default());
        if let Ok(marked) = marked {
            assert!(marked.len() >= text.len());
        }
    }
});
