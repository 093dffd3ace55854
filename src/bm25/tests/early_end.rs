//! Searches that end early find what a search of every match finds.

use super::super::{
    MergeExtent, Prepared, Query, RankedScan, Together, View, insert, merge, set_constants,
};
use super::scores::{BruteForce, assert_same};
use super::{BODY, built, inserted, number, params, random, search, size, texts, tid};
use crate::page::MemoryStore;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::HashMap;
use std::sync::Arc;

#[test]
fn segments_of_different_average_lengths_lose_no_row() {
    // One segment of short texts, one of long ones: each block's maximum was computed at another
    // average than the index's.
    let mut random = random(77);
    let short: Vec<String> = (0..2000).map(|_| super::text(&mut random, 3, 20)).collect();
    let long: Vec<String> = (0..2000)
        .map(|_| {
            let words = random.random_range(100..300);
            super::text(&mut random, words, 20)
        })
        .collect();
    let all: Vec<String> = short.iter().chain(&long).cloned().collect();
    let store = built(&short, &params());
    for (at, text) in all.iter().enumerate().skip(short.len()) {
        insert(&store, &[Some(text)], tid(at as u32)).expect("inserts");
    }
    let brute = BruteForce::new(&all);
    for terms in [&["w0"][..], &["w0", "w1"], &["w19"], &["w5", "w10", "w15"]] {
        let expected = brute.search(terms, 1.2, 0.75);
        for k in [1, 10, 100] {
            assert_same(&search(&store, &terms.join(" "), k), &expected, k, &format!("{terms:?}"));
        }
    }
}

#[test]
fn a_block_whose_best_row_depends_on_the_average_length_is_not_skipped() {
    // The block's stored maximum is that of "t y": the best score at its own segment's average length,
    // 6. At the index's, 246, the long row scores more, and more than the row that comes first.
    let filler = |words: usize| "y ".repeat(words);
    let mut texts: Vec<String> = (0..400).map(|_| filler(400)).collect();
    texts[7] = format!("{}{}", "t ".repeat(10), filler(390));
    let store = inserted(&texts, &params());
    merge(&store, MergeExtent::Everything).expect("merges");
    texts.extend((0..256).map(|_| format!("t {}", filler(5))));
    texts[450] = "t y".to_owned();
    texts[460] = format!("{}{}", "t ".repeat(6), filler(54));
    for (at, text) in texts.iter().enumerate().skip(400) {
        insert(&store, &[Some(text)], tid(at as u32)).expect("inserts");
    }
    merge(&store, MergeExtent::Pending).expect("merges");
    let view = View::open(Arc::clone(&store), 0).expect("opens");
    assert_eq!(view.shape(), (2, 0), "each part is a segment");
    let all = BruteForce::new(&texts).search(&["t"], 1.2, 0.75);
    assert_eq!((all[0].0, all[1].0), (460, 7));
    for query in ["t", "t nowhere", "t^2"] {
        assert_eq!(search(&store, query, 1)[0].0, 460, "{query}");
    }
}

/// Texts of several segments, each of another usual length. Within a segment lengths spread over two
/// decades, and the shares of `t` and `u` in a text over three: which row of a block is its best one
/// depends on the average length.
fn drifting(random: &mut StdRng) -> Vec<Vec<String>> {
    let usual_lengths = [3.0_f64, 15.0, 80.0];
    (0..random.random_range(2..5))
        .map(|_| {
            let usual = usual_lengths[random.random_range(0..usual_lengths.len())];
            (0..random.random_range(150..500))
                .map(|_| {
                    let length = usual * 10_f64.powf(random.random_range(-1.0..1.0));
                    let mut words = |often: f64| {
                        let share = 10_f64.powf(random.random_range(-3.0..0.0));
                        if random.random_bool(often) { (length * share).ceil() as usize } else { 0 }
                    };
                    let (t, u) = (words(0.9), words(0.6));
                    let rest = (length as usize).saturating_sub(t + u);
                    "t ".repeat(t) + &"u ".repeat(u) + &"y ".repeat(rest.max(1))
                })
                .collect()
        })
        .collect()
}

/// The rows that have one of two words, or both where it takes both, by the sum of their scores.
fn combined(
    brute: &BruteForce,
    boosts: (f32, f32),
    takes_both: bool,
    (k1, b): (f32, f32),
) -> Vec<(u32, f32)> {
    let mut rows: HashMap<u32, (f32, u32)> = HashMap::new();
    for (word, boost) in [("t", boosts.0), ("u", boosts.1)] {
        for (row, score) in brute.search(&[word], k1, b) {
            let (sum, words) = rows.entry(row).or_default();
            *sum += score * boost;
            *words += 1;
        }
    }
    let mut rows: Vec<(u32, f32)> = rows
        .into_iter()
        .filter(|(_, (_, words))| *words == 2 || !takes_both)
        .map(|(row, (score, _))| (row, score))
        .collect();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    rows
}

#[test]
fn top_k_equals_brute_force_where_the_average_length_drifts_between_segments() {
    for seed in 0..size(60, 1000) {
        let mut random = random(seed);
        let segments = drifting(&mut random);
        let texts: Vec<String> = segments.iter().flatten().cloned().collect();
        let (k1, b) = match seed % 3 {
            0 | 1 => (1.2, 0.75),
            _ => (random.random_range(0.5..2.0), random.random_range(0.0..1.0)),
        };
        // One index of all segments, and one a segment whose rows are scored together.
        let store = inserted(&[], &params());
        set_constants(&*store, k1, b).expect("valid constants");
        let mut parts = Vec::new();
        let mut row = 0;
        for segment in &segments {
            let part = inserted(&[], &params());
            set_constants(&*part, k1, b).expect("valid constants");
            for text in segment {
                insert(&store, &[Some(text)], tid(row)).expect("inserts");
                insert(&part, &[Some(text)], tid(row)).expect("inserts");
                row += 1;
            }
            merge(&store, MergeExtent::Pending).expect("merges");
            merge(&part, MergeExtent::Pending).expect("merges");
            parts.push(Arc::new(View::open(part, 1 << 20).expect("opens")));
        }
        let brute = BruteForce::new(&texts);
        let constants = (k1, b);
        for (query, all) in [
            ("t", brute.search(&["t"], k1, b)),
            ("u^3", combined(&brute, (0.0, 3.0), false, constants)),
            ("t u", brute.search(&["t", "u"], k1, b)),
            ("t^0.3 u^2", combined(&brute, (0.3, 2.0), false, constants)),
            ("t AND u", combined(&brute, (1.0, 1.0), true, constants)),
        ] {
            let all: Vec<(u32, f32)> = all.into_iter().filter(|hit| hit.1 > 0.0).collect();
            let k = random.random_range(1..8);
            let context = format!("seed {seed}, {query}, k {k}, k1 {k1}, b {b}");
            assert_same(&search(&store, query, k), &all, k, &context);
            let query = Query::parse(query).expect("parses");
            let together = Together::new(&params(), &parts).expect("adds up");
            let mut found = Vec::new();
            for view in &parts {
                let prepared = Prepared::new(view, &query, BODY).expect("compiles");
                together.learn(&parts, &prepared).expect("looks up");
                let mut scan = RankedScan::new(Arc::clone(view), &prepared, k, Some(&together))
                    .expect("starts");
                for _ in 0..k {
                    let hit = scan.next().expect("goes on");
                    found.extend(hit.map(|hit| (number(hit.tid), hit.score)));
                }
            }
            found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            found.truncate(k);
            assert_same(&found, &all, k, &format!("{context}, in parts"));
        }
    }
}

/// The ten best rows, and how many were scored for it.
fn first_ten(store: &Arc<MemoryStore>, query: &str) -> (Vec<(u32, f32)>, u64) {
    let view = Arc::new(View::open(Arc::clone(store), 1 << 20).expect("opens"));
    let query = Query::parse(query).expect("parses");
    let prepared = Prepared::new(&view, &query, BODY).expect("compiles");
    let mut scan = RankedScan::new(Arc::clone(&view), &prepared, 10, None).expect("starts");
    let mut hits = Vec::new();
    while let Some(hit) = scan.next().expect("goes on") {
        hits.push((number(hit.tid), hit.score));
        if hits.len() == 10 {
            break;
        }
    }
    (hits, scan.scored())
}

#[test]
fn a_search_ends_early_and_loses_no_row_with_any_constants() {
    let texts = texts(31, size(8000, 100_000) as u32);
    let brute = BruteForce::new(&texts);
    let whole = built(&texts, &params());
    // Three segments and a pending list of about the same average length.
    let parts = built(&texts[..texts.len() / 2], &params());
    for (at, text) in texts.iter().enumerate().skip(texts.len() / 2) {
        insert(&parts, &[Some(text)], tid(at as u32)).expect("inserts");
        if at == texts.len() / 4 * 3 {
            merge(&parts, MergeExtent::Pending).expect("merges");
        }
    }
    // With the most that may be scored, a share of the matches: far constants bound little.
    let constants = [
        (1.2, 0.75, 0.05),
        (0.9, 0.4, 0.5),
        (2.0, 0.75, 0.2),
        (1.2, 0.0, 0.5),
        (1.2, 1.0, 1.0),
        (0.0, 0.5, 1.0),
        (10.0, 0.1, 1.0),
    ];
    for (k1, b, most) in constants {
        for store in [&whole, &parts] {
            set_constants(&**store, k1, b).expect("valid constants");
            let (mut scored, mut matches) = (0, 0);
            for terms in [&["w0"][..], &["w1"], &["w0", "w60"], &["w2", "w30", "w90", "w150"]] {
                let all = brute.search(terms, k1, b);
                let (hits, looked_at) = first_ten(store, &terms.join(" "));
                assert_same(&hits, &all, 10, &format!("{terms:?}, k1 {k1}, b {b}"));
                scored += looked_at;
                matches += all.len() as u64;
            }
            let share = scored as f64 / matches as f64;
            assert!(share <= most, "k1 {k1}, b {b}: {scored} of {matches} scored");
        }
    }
}
