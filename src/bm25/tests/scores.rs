//! Scores: tantivy's own, and those of the formula.

use super::super::{
    Bm25Params, Column, MergeExtent, Prepared, Query, RankedScan, Scope, TextConfig, TextScorer,
    Together, Unranked, View, bulk_delete, insert, merge, set_constants, tokenize,
};
use super::{BODY, built, inserted, number, params, random, search, size, sound, texts, tid};
use rand::Rng;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tantivy::collector::TopDocs;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::query::QueryParser;
use tantivy::schema::{STORED, Schema, TEXT, Value};
use tantivy::{Index, TantivyDocument};

/// BM25 by the formula, over all documents, with lengths of one byte as tantivy has them.
pub(super) struct BruteForce {
    docs: Vec<HashMap<String, f32>>,
    lengths: Vec<f32>,
    average: f32,
}

impl BruteForce {
    pub(super) fn new(texts: &[String]) -> Self {
        let mut docs = Vec::new();
        let (mut lengths, mut total) = (Vec::new(), 0);
        for text in texts {
            let terms = tokenize(text, &TextConfig::default());
            total += terms.len();
            let id = FieldNormReader::fieldnorm_to_id(terms.len() as u32);
            lengths.push(FieldNormReader::id_to_fieldnorm(id) as f32);
            let mut counts: HashMap<String, f32> = HashMap::new();
            for term in terms {
                *counts.entry(term.text).or_default() += 1.0;
            }
            docs.push(counts);
        }
        let average = total as f32 / texts.len() as f32;
        Self { docs, lengths, average }
    }

    fn idf(&self, term: &str) -> f32 {
        let n = self.docs.iter().filter(|doc| doc.contains_key(term)).count() as f32;
        (1.0 + (self.docs.len() as f32 - n + 0.5) / (n + 0.5)).ln()
    }

    /// Scores of the documents that have any of the terms, best first.
    pub(super) fn search(&self, terms: &[&str], k1: f32, b: f32) -> Vec<(u32, f32)> {
        let idfs: Vec<f32> = terms.iter().map(|term| self.idf(term)).collect();
        let mut scores = Vec::new();
        for (doc, counts) in self.docs.iter().enumerate() {
            let norm = k1 * (1.0 - b + b * self.lengths[doc] / self.average);
            let mut score = None;
            for (term, idf) in terms.iter().zip(&idfs) {
                if let Some(tf) = counts.get(*term) {
                    *score.get_or_insert(0.0) += idf * (1.0 + k1) * tf / (tf + norm);
                }
            }
            scores.extend(score.map(|score| (doc as u32, score)));
        }
        scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        scores
    }
}

/// Same documents and scores, up to rounding; equal scores may stand in any order.
pub(super) fn assert_same(got: &[(u32, f32)], all: &[(u32, f32)], k: usize, context: &str) {
    assert_eq!(got.len(), all.len().min(k), "{context}");
    let scores: HashMap<u32, f32> = all.iter().copied().collect();
    let mut seen = HashSet::new();
    for (place, &(doc, score)) in got.iter().enumerate() {
        let expected = all[place].1;
        let own = scores.get(&doc).copied().unwrap_or(f32::NAN);
        assert!(
            (score - expected).abs() <= 2e-5 * expected,
            "{context}: place {place}: {score} {expected}"
        );
        assert!((score - own).abs() <= 2e-5 * own, "{context}: document {doc}: {score} {own}");
        assert!(seen.insert(doc), "{context}: document {doc} twice");
    }
}

#[test]
fn scores_equal_tantivys_own() {
    let texts = texts(1, 3000);
    let mut schema = Schema::builder();
    let field = schema.add_text_field("body", TEXT);
    let row = schema.add_u64_field("row", STORED);
    let index = Index::create_in_ram(schema.build());
    let mut writer = index.writer_with_num_threads(1, 50_000_000).expect("a writer");
    for (number, text) in (0_u64..).zip(&texts) {
        let mut document = TantivyDocument::new();
        document.add_text(field, text);
        document.add_u64(row, number);
        writer.add_document(document).expect("adds");
    }
    writer.commit().expect("commits");
    let searcher = index.reader().expect("a reader").searcher();
    let parser = QueryParser::for_index(&index, vec![field]);
    let stores = [built(&texts, &params()), {
        let store = inserted(&texts, &params());
        merge(&store, MergeExtent::Everything).expect("merges");
        store
    }];
    for query in [
        "w1",
        "w1 w5",
        "w0 w1 w2 w100",
        "w150",
        "w1 AND w2",
        "+w1 w2 -w3",
        "\"w1 w0\"",
        "\"w1 w0\"~3",
        "w3 AND (w1 OR w180)",
        "w190 w191 w192",
        "\"w0 w1 w2\" w7",
    ] {
        let theirs = parser.parse_query(query).expect("parses");
        let top =
            searcher.search(&theirs, &TopDocs::with_limit(50).order_by_score()).expect("searches");
        let theirs: Vec<(u32, f32)> = top
            .into_iter()
            .map(|(score, address)| {
                let document: TantivyDocument = searcher.doc(address).expect("stored");
                let value = document.get_first(row).and_then(|value| value.as_u64());
                (value.expect("a row") as u32, score)
            })
            .collect();
        for store in &stores {
            let ours = search(store, query, 50);
            assert_eq!(ours.len(), theirs.len(), "{query}");
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert!(
                    (ours.1 - theirs.1).abs() <= 1e-6 * theirs.1,
                    "{query}: {ours:?} {theirs:?}"
                );
            }
        }
    }
}

#[test]
fn top_k_equals_brute_force_on_random_corpora() {
    for seed in 0..size(60, 1000) {
        let mut random = random(seed);
        let count = random.random_range(1..400);
        let texts = texts(seed + 10_000, count);
        let (k1, b) = match seed % 3 {
            0 | 1 => (1.2, 0.75),
            _ => (random.random_range(0.2..3.0), random.random_range(0.0..1.0)),
        };
        let store = inserted(&texts, &params());
        set_constants(&*store, k1, b).expect("valid constants");
        // Several segments of very different average lengths, and a pending list.
        let long = texts.len() / 2;
        let store2 = built(&texts[..long], &params());
        set_constants(&*store2, k1, b).expect("valid constants");
        for (at, text) in texts.iter().enumerate().skip(long) {
            insert(&store2, &[Some(text)], tid(at as u32)).expect("inserts");
            if at % 50 == 0 {
                merge(&store2, MergeExtent::Pending).expect("merges");
            }
        }
        let brute = BruteForce::new(&texts);
        for _ in 0..8 {
            let terms: Vec<String> = (0..random.random_range(1..5))
                .map(|_| format!("w{}", random.random_range(0..200) / random.random_range(1..10)))
                .collect::<HashSet<_>>()
                .into_iter()
                .collect();
            let terms: Vec<&str> = terms.iter().map(String::as_str).collect();
            let all = brute.search(&terms, k1, b);
            let k = random.random_range(1..30);
            let context = format!("seed {seed}, {terms:?}, k {k}, k1 {k1}, b {b}");
            assert_same(&search(&store, &terms.join(" "), k), &all, k, &context);
            assert_same(&search(&store2, &terms.join(" "), k), &all, k, &context);
        }
    }
}

#[test]
fn a_scan_goes_on_until_every_match_was_returned_once() {
    let texts = texts(5, 2000);
    let store = inserted(&texts, &params());
    let view = Arc::new(View::open(Arc::clone(&store), 1 << 20).expect("opens"));
    let prepared =
        Prepared::new(&view, &Query::parse("w0 w3").expect("parses"), BODY).expect("compiles");
    let mut scan = RankedScan::new(Arc::clone(&view), &prepared, 4, None).expect("starts");
    let mut hits = Vec::new();
    while let Some(hit) = scan.next().expect("goes on") {
        hits.push((number(hit.tid), hit.score));
    }
    assert!(hits.windows(2).all(|pair| pair[0].1 >= pair[1].1), "scores descend");
    let all = BruteForce::new(&texts).search(&["w0", "w3"], 1.2, 0.75);
    assert_same(&hits, &all, usize::MAX, "all matches");
    let (mut at, mut rest) = (Unranked::default(), Vec::new());
    while let Some(tids) = scan.unranked(None, &mut at).expect("goes on") {
        rest.extend(tids.into_iter().map(number));
    }
    rest.extend(hits.iter().map(|hit| hit.0));
    rest.sort_unstable();
    assert_eq!(rest, (0..2000).collect::<Vec<u32>>(), "each row once");
    let mut matched = Vec::new();
    let count = view.matches(&prepared, &mut |tid| matched.push(number(tid))).expect("matches");
    matched.sort_unstable();
    let mut expected: Vec<u32> = all.iter().map(|hit| hit.0).collect();
    expected.sort_unstable();
    assert_eq!(matched, expected);
    assert_eq!(count as usize, expected.len());
}

#[test]
fn one_text_scores_as_its_row_does() {
    let texts = texts(6, 500);
    for (k1, b) in [(1.2, 0.75), (0.9, 0.4)] {
        let store = inserted(&texts, &params());
        set_constants(&*store, k1, b).expect("valid constants");
        let view = Arc::new(View::open(Arc::clone(&store), 0).expect("opens"));
        for query in [
            "w0 w1",
            "w0^2 (w5 w9)",
            "w1 AND w2",
            "\"w1 w0\"",
            "w1*",
            "w12~1",
            "[w1 TO w2]",
            "NOT w1",
            "\"w0 w0\"",
            "\"w1 w0 w0\"^3 w4",
            "+w0 w1 -w2",
            "w7 OR (w1 AND w2* AND NOT \"w0 w1\")",
            "w8 *",
        ] {
            let prepared = Prepared::new(&view, &Query::parse(query).expect("parses"), BODY)
                .expect("compiles");
            let mut scorer = TextScorer::new(Arc::clone(&view), &prepared, None).expect("compiles");
            let rows: HashMap<u32, f32> = search(&store, query, 1000).into_iter().collect();
            for (row, text) in (0..).zip(&texts) {
                let score = scorer.score(&[Some(text)]).expect("scores");
                match (score, rows.get(&row)) {
                    (Some(a), Some(b)) => assert!((a - b).abs() <= 1e-5 * b, "{query}: {a} {b}"),
                    (None, None) => {}
                    other => panic!("{query}, row {row}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn the_query_language_means_what_it_says() {
    let texts: Vec<String> = [
        "the quick brown fox",
        "a quick red fox",
        "brown bears sleep",
        "foxes run quickly",
        "wi-fi router",
        "fi wi",
        "Jürgen Müller",
        "part AB-1234",
    ]
    .map(str::to_owned)
    .to_vec();
    let store = inserted(&texts, &params());
    let rows = |query: &str| {
        let mut rows: Vec<u32> = search(&store, query, 100).into_iter().map(|hit| hit.0).collect();
        rows.sort_unstable();
        rows
    };
    for (query, expected) in [
        ("quick", &[0, 1][..]),
        ("quick AND brown", &[0]),
        ("quick brown", &[0, 1, 2]),
        ("brown AND NOT quick", &[2]),
        ("NOT quick", &[2, 3, 4, 5, 6, 7]),
        ("+quick -red", &[0]),
        ("\"quick fox\"", &[]),
        ("\"quick fox\"~1", &[0, 1]),
        ("fox*", &[0, 1, 3]),
        ("QUICK*", &[0, 1, 3]),
        ("quikc~1", &[0, 1]),
        ("brwn~", &[0, 2]),
        ("wi-fi", &[4]),
        ("body:router", &[4]),
        ("body:(router OR bears)", &[2, 4]),
        ("[bears TO brown]", &[0, 2]),
        ("{bears TO brown}", &[]),
        (">=wi", &[4, 5]),
        ("*", &[0, 1, 2, 3, 4, 5, 6, 7]),
        ("ab-1234", &[7]),
        ("müller", &[6]),
        ("", &[]),
        ("fox^3 bears", &[0, 1, 2]),
    ] {
        assert_eq!(rows(query), expected, "{query}");
    }
    assert_eq!(search(&store, "fox^3 bears^0.1", 1)[0].0, 0, "of equal rows the first");
    assert_eq!(search(&store, "fox^0.1 bears^3", 1)[0].0, 2);
    let view = Arc::new(View::open(Arc::clone(&store), 0).expect("opens"));
    let unknown = Query::parse("nope:x").expect("parses");
    let error = view.search(&unknown, BODY, 1).expect_err("an unknown column").to_string();
    assert_eq!(error, "unknown column \"nope\" at character 1 of the query");
}

#[test]
fn columns_have_their_own_analyzers_boosts_and_names() {
    let column =
        |config: &str, boost| Column { config: TextConfig::parse(config).expect("valid"), boost };
    let params = Bm25Params::new(vec![column("simple", 3.0), column("english", 1.0)], 1.2, 0.75)
        .expect("valid");
    let store = Arc::new(crate::page::MemoryStore::new());
    super::create(&*store, &params).expect("creates");
    let rows = [
        (Some("running"), Some("about a race")),
        (None, Some("they were running")),
        (Some("racing"), None),
    ];
    for (row, (title, body)) in (0..).zip(rows) {
        insert(&store, &[title, body], tid(row)).expect("inserts");
    }
    let view = Arc::new(View::open(Arc::clone(&store), 0).expect("opens"));
    let both = Scope { names: &["title", "body"], defaults: &[0, 1] };
    let rows = |query: &str| -> Vec<u32> {
        let query = Query::parse(query).expect("parses");
        view.search(&query, both, 10).expect("searches").iter().map(|hit| number(hit.tid)).collect()
    };
    assert_eq!(rows("running"), [0, 1], "the boosted title first");
    assert_eq!(rows("body:runs"), [1], "stemmed");
    assert_eq!(rows("title:runs"), [0; 0], "not stemmed");
    assert_eq!(rows("races"), [0]);
}

#[test]
fn dead_rows_leave_results_and_scores() {
    let texts = texts(9, 1000);
    let store = inserted(&texts, &params());
    let dead = |row: u32| row.is_multiple_of(3);
    let stats = bulk_delete(&store, &mut |tid| dead(number(tid))).expect("deletes");
    assert_eq!((stats.removed, stats.kept), (334, 666));
    assert!(search(&store, "w0", 1000).iter().all(|hit| !dead(hit.0)));
    super::super::cleanup(&store).expect("cleans up");
    let report = sound(&store);
    assert_eq!((report.live_rows, report.dead_rows), (666, 0));
    let living: Vec<String> =
        (0..).zip(&texts).filter(|(row, _)| !dead(*row)).map(|(_, t)| t.clone()).collect();
    let rows: Vec<u32> = (0..1000).filter(|&row| !dead(row)).collect();
    let brute = BruteForce::new(&living).search(&["w0", "w7"], 1.2, 0.75);
    let brute: Vec<(u32, f32)> =
        brute.into_iter().map(|(at, score)| (rows[at as usize], score)).collect();
    assert_same(&search(&store, "w0 w7", 20), &brute, 20, "after vacuum");
}

#[test]
fn highlights_mark_what_matched() {
    use super::super::{Highlight, highlight};
    let mark = |text: &str, query: &str, max_chars| {
        let style = Highlight {
            start: "[".to_owned(),
            end: "]".to_owned(),
            max_chars,
            ellipsis: "…".to_owned(),
        };
        let params = Bm25Params::single("english").expect("valid");
        let query = Query::lenient(query, &["body"]);
        highlight(text, &query, &params, BODY, 0, &style).expect("a known column")
    };
    assert_eq!(mark("Dogs run, a dog ran", "dog", 0), "[Dogs] run, a [dog] ran");
    assert_eq!(mark("red fox, red dog", "\"red dog\"", 0), "red fox, [red] [dog]");
    assert_eq!(mark("foxes and foxgloves", "foxg*", 0), "foxes and [foxgloves]");
    assert_eq!(mark("quick brown", "quikc~1 -brown", 0), "[quick] brown");
    assert_eq!(mark("Über Müller", "müller", 0), "Über [Müller]");
    assert_eq!(mark("nothing here", "(((", 0), "nothing here");
    let long = format!("{} needle {}", "hay ".repeat(100), "straw ".repeat(100));
    let short = mark(&long, "needle", 30);
    assert!(short.contains("[needle]") && short.chars().count() <= 34, "{short}");
    assert!(short.starts_with('…') && short.ends_with('…'), "{short}");
}

#[test]
fn what_a_user_types_is_never_an_error() {
    let store = inserted(&texts(31, 50), &params());
    let view = Arc::new(View::open(Arc::clone(&store), 0).expect("opens"));
    for typed in ["w0: really", "though: i am not", "((\"", "a AND", "body:w0", "-", "w0 ^ ~ *", ""]
    {
        let query = Query::lenient(typed, &["body"]);
        view.search(&query, BODY, 5).unwrap_or_else(|error| panic!("{typed}: {error}"));
    }
    assert_eq!(Query::lenient("body:w0", &["body"]).names(), ["body"]);
    assert!(Query::lenient("nope:w0", &["body"]).names().is_empty());
}

#[test]
fn several_indexes_together_score_as_one_over_all_rows() {
    let all = texts(32, 900);
    let whole = inserted(&all, &params());
    let parts: Vec<_> = [0..500_usize, 500..520, 520..900]
        .map(|rows| {
            let store = Arc::new(crate::page::MemoryStore::new());
            super::create(&*store, &params()).expect("creates");
            for row in rows {
                insert(&store, &[Some(&all[row])], tid(row as u32)).expect("inserts");
            }
            Arc::new(View::open(store, 0).expect("opens"))
        })
        .into();
    let together = Together::new(&params(), &parts).expect("adds up");
    for query in ["w0 w7", "\"w1 w0\"", "w3 AND w1", "w0 -w2", "w150 w1*"] {
        let parsed = Query::parse(query).expect("parses");
        let mut found = Vec::new();
        for view in &parts {
            let prepared = Prepared::new(view, &parsed, BODY).expect("compiles");
            if !together.knows(&prepared) {
                together.learn(&parts, &prepared).expect("looks up");
            }
            let mut scan =
                RankedScan::new(Arc::clone(view), &prepared, 10, Some(&together)).expect("starts");
            let mut scorer =
                TextScorer::new(Arc::clone(view), &prepared, Some(&together)).expect("compiles");
            // The best of a part are the best whatever its own average length is.
            while let Some(hit) = scan.next().expect("goes on") {
                let row = number(hit.tid);
                let score = scorer.score(&[Some(&all[row as usize])]).expect("scores");
                let score = score.expect("matches");
                assert!((score - hit.score).abs() <= 1e-5 * score, "{query}: {score} {hit:?}");
                found.push((row, hit.score));
            }
        }
        found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let expected = search(&whole, query, 1000);
        assert_same(&found, &expected, usize::MAX, query);
    }
}
