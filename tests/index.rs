//! The embedded index's promises: what was synced is found after a crash, filters get their rows,
//! removed rows stay away.

use distilface_core::hnsw::{self, BuildOptions, Condition, Filter, HnswParams, ScanOptions};
use distilface_core::index::{Index, IndexError};
use distilface_core::vector::Metric;
use rand::prelude::*;
#[cfg(feature = "bm25")]
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const DIMS: usize = 32;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("distilface-index-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn vectors(count: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count).map(|_| (0..DIMS).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
}

fn params() -> HnswParams {
    HnswParams::parse(DIMS, Metric::L2, 8, 40).expect("valid")
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for file in std::fs::read_dir(from).expect("read") {
        let file = file.expect("an entry");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
    }
}

fn assert_sound(index: &Index) {
    let report = hnsw::check(index.graph()).expect("readable");
    assert!(report.is_ok(), "{:#?}", report.violations);
}

#[test]
fn rows_come_back_after_reopening() {
    let place = Place::new("reopen");
    let rows = vectors(600, 1);
    let bulk = rows[..500].iter().enumerate().map(|(i, v)| (i as u64 * 3, &v[..]));
    let index = Index::create_with(&place.at("i"), params(), BuildOptions::default(), bulk)
        .expect("created");
    for (i, vector) in rows.iter().enumerate().skip(500) {
        index.add(i as u64 * 3, vector).expect("added");
    }
    assert!(matches!(index.add(3, &rows[0]), Err(IndexError::Duplicate { id: 3 })));
    assert!(index.remove(9).expect("removed") && !index.remove(9).expect("gone"));
    drop(index);
    assert!(Index::create(&place.at("i"), params()).is_err());
    let index = Index::open(&place.at("i")).expect("opened");
    assert_eq!(index.len(), 599);
    assert_eq!(index.vector(30).expect("read").as_deref(), Some(&rows[10][..]));
    let found = rows.iter().enumerate().filter(|(i, vector)| {
        let nearest = index.search(vector, 1).expect("searched");
        nearest[0].id == *i as u64 * 3 && nearest[0].distance == 0.0
    });
    assert_eq!(found.count(), 599);
    assert_sound(&index);
}

#[test]
fn a_crash_at_any_byte_of_the_logs_keeps_what_was_synced() {
    let place = Place::new("crash");
    let rows = vectors(80, 2);
    let index = Index::create(&place.at("i"), params()).expect("created");
    for (i, vector) in rows.iter().enumerate().take(40) {
        index.add(i as u64, vector).expect("added");
    }
    index.sync().expect("synced");
    copy_dir(&place.at("i"), &place.at("synced"));
    for (i, vector) in rows.iter().enumerate().skip(40) {
        index.add(i as u64, vector).expect("added");
    }
    for id in 30..40 {
        index.remove(id).expect("removed");
    }
    copy_dir(&place.at("i"), &place.at("full"));
    let len =
        |dir: &str, log: &str| std::fs::metadata(place.at(dir).join(log)).expect("a log").len();
    let mut rng = StdRng::seed_from_u64(3);
    for round in 0..12 {
        let dir = place.at(&format!("cut{round}"));
        copy_dir(&place.at("full"), &dir);
        // The two files end at moments of their own.
        for log in ["graph.wal", "rows.wal"] {
            let cut = rng.random_range(len("synced", log)..=len("full", log));
            let file = std::fs::OpenOptions::new().write(true).open(dir.join(log)).expect("a log");
            file.set_len(cut).expect("cut");
        }
        let index = Index::open(&dir).expect("opened");
        assert_sound(&index);
        for (id, vector) in rows.iter().enumerate().take(30) {
            let nearest = index.search(vector, 1).expect("searched");
            assert_eq!((nearest[0].id, nearest[0].distance), (id as u64, 0.0), "round {round}");
        }
        let all = index.search(&rows[0], 200).expect("searched");
        assert_eq!(all.len(), index.len(), "round {round}");
        index.add(1000, &rows[79]).expect("the next row is added");
    }
}

#[test]
fn a_filter_gets_as_many_rows_as_there_are() {
    let place = Place::new("filter");
    let rows = vectors(2000, 4);
    let bulk = rows.iter().enumerate().map(|(i, v)| (i as u64, &v[..]));
    let index = Index::create_with(&place.at("i"), params(), BuildOptions::default(), bulk)
        .expect("created");
    let query = &vectors(1, 5)[0];
    let options = ScanOptions::default();
    let few = index.search_with(query, 10, options, |id| id % 500 == 7).expect("searched");
    assert_eq!(few.len(), 4);
    assert!(few.is_sorted_by(|a, b| a.distance <= b.distance));
    let ten = index.search_with(query, 10, options, |id| id % 20 == 3).expect("searched");
    assert_eq!(ten.len(), 10);
}

#[test]
fn filter_columns_decide_in_bulk_added_and_reopened_rows() {
    let place = Place::new("columns");
    let rows = vectors(2000, 8);
    // One row has no tenant, the others one of twenty.
    let attrs: Vec<[u8; 2]> =
        (0..rows.len()).map(|i| if i == 77 { [0, 0] } else { [1, (i % 20) as u8] }).collect();
    let params = params().with_attr_len(2).expect("fits");
    let all = || rows.iter().zip(&attrs).enumerate();
    let bulk = all().take(1500).map(|(i, (v, a))| (i as u64, &v[..], &a[..]));
    let options = BuildOptions::default();
    let index =
        Index::create_with_attributes(&place.at("i"), params, options, bulk).expect("created");
    for (i, (vector, attrs)) in all().skip(1500) {
        index.add_with_attributes(i as u64, vector, attrs).expect("added");
    }
    let refused = index.add_with_attributes(9999, &rows[0], &[1]);
    assert!(matches!(refused, Err(IndexError::Hnsw(hnsw::HnswError::Attributes { .. }))));
    // What a crash leaves: rows that the graph does not have yet are added with their columns.
    index.sync().expect("synced");
    copy_dir(&place.at("i"), &place.at("torn"));
    let empty = Index::create(&place.at("empty"), params).expect("created");
    drop(empty);
    for file in std::fs::read_dir(place.at("empty")).expect("read") {
        let name = file.expect("an entry").file_name();
        if name.to_string_lossy().starts_with("graph") {
            let (from, to) = (place.at("empty").join(&name), place.at("torn").join(&name));
            std::fs::copy(from, to).expect("copied");
        }
    }
    drop(index);
    for name in ["i", "torn"] {
        let index = Index::open(&place.at(name)).expect("opened");
        assert_sound(&index);
        for (key, expected) in [(vec![1, 3], 100), (vec![0, 0], 1), (vec![1, 20], 0)] {
            let condition = Condition::new(0, 2, &[(key.clone(), key.clone())]);
            let filter = Filter::new(vec![condition]);
            let found = index
                .search_filtered(&rows[0], 200, ScanOptions::default(), filter)
                .expect("searched");
            assert_eq!(found.len(), expected, "{name}: rows with {key:?}");
            assert!(found.iter().all(|found| attrs[found.id as usize][..] == key[..]));
        }
    }
}

#[test]
fn removed_rows_stay_away_and_their_space_is_used_again() {
    let place = Place::new("remove");
    let rows = vectors(3000, 6);
    let bulk = rows.iter().enumerate().map(|(i, v)| (i as u64, &v[..]));
    let index = Index::create_with(&place.at("i"), params(), BuildOptions::default(), bulk)
        .expect("created");
    for id in 0..1500 {
        assert!(index.remove(id).expect("removed"));
    }
    index.vacuum().expect("vacuumed");
    assert_sound(&index);
    index.sync().expect("synced");
    for (id, vector) in rows.iter().enumerate().take(1500) {
        index.add(id as u64 + 10_000, vector).expect("added");
    }
    assert_sound(&index);
    let all = index.search(&rows[0], 4000).expect("searched");
    assert_eq!(all.len(), 3000);
    assert!(all.iter().all(|found| found.id >= 1500));
    let pages = hnsw::info(index.graph()).expect("counted").pages;
    assert!(pages <= 3000 / 20 * 2, "{pages} pages");
}

#[test]
fn bad_vectors_are_refused_by_name() {
    let place = Place::new("bad");
    let params = HnswParams::parse(3, Metric::Cosine, 16, 64).expect("valid");
    let index = Index::create(&place.at("i"), params).expect("created");
    let message = |vector: &[f32]| index.add(1, vector).expect_err("refused").to_string();
    assert_eq!(message(&[1.0, 2.0]), "expected 3 dimensions, got 2");
    assert_eq!(message(&[1.0, f32::NAN, 2.0]), "dimension 1 of the vector is NaN");
    assert_eq!(message(&[0.0; 3]), "a zero vector has no cosine distance");
    assert!(index.is_empty());
}

#[cfg(feature = "bm25")]
mod text {
    use super::*;
    use distilface_core::bm25::{Bm25Params, Query, check};
    use distilface_core::index::Hybrid;

    fn create(place: &Place) -> Index {
        let text = Bm25Params::single("simple").expect("valid");
        Index::create_hybrid(&place.at("i"), params(), &text).expect("created")
    }

    fn words(id: usize) -> String {
        format!("all word{} row{id}", id % 7)
    }

    fn ids(index: &Index, query: &str) -> Vec<u64> {
        let query = Query::parse(query).expect("parses");
        let mut ids: Vec<u64> =
            index.search_text(&query, 10_000).expect("searched").iter().map(|m| m.id).collect();
        ids.sort_unstable();
        ids
    }

    fn assert_texts_sound(index: &Index) {
        let report = check(index.text().expect("a text half")).expect("readable");
        assert!(report.is_ok(), "{:#?}", report.problems);
    }

    #[test]
    fn rows_are_found_by_words_by_nearness_and_by_both() {
        let place = Place::new("hybrid");
        let rows = vectors(300, 21);
        let index = create(&place);
        for (id, vector) in rows.iter().enumerate() {
            index.add_with_text(id as u64, vector, &words(id)).expect("added");
        }
        index.add(1000, &vectors(1, 22)[0]).expect("a row without a text");
        assert_eq!(ids(&index, "row17"), [17]);
        assert_eq!(ids(&index, "all").len(), 300);
        let hybrid = Hybrid::new(&rows[5], "row250");
        let found = index.search_hybrid(&hybrid, 10).expect("searched");
        assert_eq!(found.len(), 10);
        let top: HashSet<u64> = found[..2].iter().map(|m| m.id).collect();
        assert_eq!(top, HashSet::from([5, 250]), "the best of each list");
        assert!(found.is_sorted_by(|a, b| a.score > b.score || a.score == b.score && a.id < b.id));
        let only_words = Hybrid { weights: [0.0, 1.0], ..hybrid };
        assert_eq!(index.search_hybrid(&only_words, 1).expect("searched")[0].id, 250);
        assert!(index.search_hybrid(&Hybrid::new(&rows[5], "what: (is"), 3).is_ok());
        assert!(index.remove(250).expect("removed"));
        assert_eq!(ids(&index, "row250"), [0_u64; 0]);
        index.vacuum().expect("vacuumed");
        index.sync().expect("synced");
        drop(index);
        let index = Index::open(&place.at("i")).expect("opened");
        assert_eq!(ids(&index, "all").len(), 299);
        // The place of a row that is gone goes to another row, with its own text only.
        index.add_with_text(2000, &rows[1], "fresh").expect("added");
        assert_eq!((ids(&index, "fresh"), ids(&index, "row250")), (vec![2000], vec![]));
        assert_texts_sound(&index);
        let plain = Index::create(&place.at("plain"), params()).expect("created");
        assert!(matches!(plain.add_with_text(1, &rows[0], "x"), Err(IndexError::NoText)));
    }

    #[test]
    fn a_crash_keeps_synced_rows_with_their_texts_and_no_row_without() {
        let place = Place::new("hybrid-crash");
        let rows = vectors(80, 23);
        let index = create(&place);
        let add = |range: std::ops::Range<usize>| {
            for id in range {
                index.add_with_text(id as u64, &rows[id], &words(id)).expect("added");
            }
        };
        add(0..40);
        index.sync().expect("synced");
        copy_dir(&place.at("i"), &place.at("synced"));
        add(40..80);
        for id in 30..40 {
            index.remove(id).expect("removed");
        }
        copy_dir(&place.at("i"), &place.at("full"));
        let len =
            |dir: &str, log: &str| std::fs::metadata(place.at(dir).join(log)).expect("a log").len();
        let mut rng = StdRng::seed_from_u64(24);
        for round in 0..20 {
            let dir = place.at(&format!("cut{round}"));
            copy_dir(&place.at("full"), &dir);
            for log in ["graph.wal", "rows.wal", "text.wal"] {
                let cut = rng.random_range(len("synced", log)..=len("full", log));
                let file = std::fs::OpenOptions::new().write(true).open(dir.join(log));
                file.expect("a log").set_len(cut).expect("cut");
            }
            let index = Index::open(&dir).expect("opened");
            assert_sound(&index);
            assert_texts_sound(&index);
            let all = ids(&index, "all");
            assert!((0..30).all(|id| all.contains(&id)), "round {round}: {all:?}");
            assert_eq!(all.len(), index.len(), "round {round}: every row has its text");
            for id in all {
                assert_eq!(ids(&index, &format!("row{id}")), [id], "round {round}");
            }
            index.add_with_text(1000, &rows[79], "afterwards").expect("the next row is added");
            assert_eq!(ids(&index, "afterwards"), [1000]);
        }
    }
}
