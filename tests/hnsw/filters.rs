//! Filter columns against a filter over the rows themselves.

use crate::common::*;
use distilface_core::hnsw::*;
use distilface_core::page::{FaultStore, MemoryStore, PageStore};
use distilface_core::vector::Metric;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::strategy::ValueTree;
use rand::prelude::*;
use std::collections::BTreeMap;

/// Bytes of a category (1 and 1), of a number (1 and 4) and of nothing asked for, so that a small index
/// has many attribute pages.
const ATTR_LEN: usize = 160;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Attrs {
    category: Option<u8>,
    number: i32,
}

impl Attrs {
    fn random(rng: &mut StdRng) -> Self {
        let category = rng.random_bool(0.9).then(|| rng.random_range(0..20));
        Self { category, number: rng.random_range(-1000..1000) }
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes = vec![self.category.is_some().into(), self.category.unwrap_or(0), 1];
        bytes.extend_from_slice(&encode_number(self.number)[1..]);
        bytes.resize(ATTR_LEN, 7);
        bytes
    }
}

fn encode_number(number: i32) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend_from_slice(&(number as u32 ^ 1 << 31).to_be_bytes());
    bytes
}

/// What a query asks for.
#[derive(Debug, Clone)]
enum Wanted {
    Category(u8),
    NoCategory,
    Categories(Vec<u8>),
    Numbers(i32, i32),
    Both(u8, i32, i32),
}

impl Wanted {
    fn admits(&self, attrs: Attrs) -> bool {
        match self {
            Self::Category(c) => attrs.category == Some(*c),
            Self::NoCategory => attrs.category.is_none(),
            Self::Categories(all) => attrs.category.is_some_and(|c| all.contains(&c)),
            Self::Numbers(low, high) => (*low..=*high).contains(&attrs.number),
            Self::Both(c, low, high) => {
                Self::Category(*c).admits(attrs) && Self::Numbers(*low, *high).admits(attrs)
            }
        }
    }

    fn filter(&self) -> Filter {
        let category = |all: &[u8]| {
            let points: Vec<_> = all.iter().map(|&c| (vec![1, c], vec![1, c])).collect();
            Condition::new(0, 2, &points)
        };
        let numbers =
            |low, high| Condition::new(2, 5, &[(encode_number(low), encode_number(high))]);
        Filter::new(match self {
            Self::Category(c) => vec![category(&[*c])],
            Self::NoCategory => vec![Condition::new(0, 2, &[(vec![0, 0], vec![0, 0])])],
            Self::Categories(all) => vec![category(all)],
            Self::Numbers(low, high) => vec![numbers(*low, *high)],
            Self::Both(c, low, high) => vec![category(&[*c]), numbers(*low, *high)],
        })
    }
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let number = || -1100..1100i32;
    prop_oneof![
        (0..22u8).prop_map(Wanted::Category),
        Just(Wanted::NoCategory),
        proptest::collection::vec(0..22u8, 0..12).prop_map(Wanted::Categories),
        (number(), number()).prop_map(|(a, b)| Wanted::Numbers(a, b)),
        (0..20u8, number(), number()).prop_map(|(c, a, b)| Wanted::Both(c, a, b)),
    ]
}

/// An index, its live rows and their attributes.
struct Table<S> {
    store: S,
    rows: Rows,
    attrs: BTreeMap<HeapTid, Attrs>,
}

fn filtered_params(metric: Metric) -> HnswParams {
    params(metric).with_attr_len(ATTR_LEN as u16).expect("fits")
}

/// Half of the rows by a bulk build, half by inserts, a third of all deleted in between, and a few
/// vectors that many rows share.
fn table(count: usize, seed: u64) -> Table<MemoryStore> {
    let mut rng = StdRng::seed_from_u64(seed);
    let vectors = vectors(count, seed);
    let mut table = Table { store: MemoryStore::new(), rows: Rows::new(), attrs: BTreeMap::new() };
    let mut builder = Builder::new(filtered_params(Metric::Cosine), BuildOptions::default());
    let mut next = 0;
    let mut row = |rng: &mut StdRng| {
        let number = next;
        next += 1;
        let vector = &vectors[if number % 10 == 9 { number % 50 } else { number }];
        (tid(number as u32), vector.clone(), Attrs::random(rng))
    };
    for _ in 0..count / 2 {
        let (tid, vector, attrs) = row(&mut rng);
        let added = builder.add_with_attributes(&vector, &attrs.encode(), tid).expect("added");
        assert_eq!(added, Added::Kept);
        table.rows.insert(tid, vector);
        table.attrs.insert(tid, attrs);
    }
    builder.finish(&table.store, &mut ()).expect("built");
    for part in 0..2 {
        for _ in 0..count / 4 {
            let (tid, vector, attrs) = row(&mut rng);
            insert_with_attributes(&table.store, &vector, &attrs.encode(), tid).expect("inserted");
            table.rows.insert(tid, vector);
            table.attrs.insert(tid, attrs);
        }
        if part == 0 {
            let dead: Vec<HeapTid> =
                table.rows.keys().copied().filter(|_| rng.random_bool(0.3)).collect();
            bulk_delete(&table.store, &mut |tid| dead.contains(&tid)).expect("deleted");
            cleanup(&table.store).expect("cleaned");
            for tid in dead {
                table.rows.remove(&tid);
                table.attrs.remove(&tid);
            }
        }
    }
    table
}

impl<S: PageStore> Table<S> {
    fn admitted(&self, wanted: &Wanted) -> Rows {
        let admits = |tid: &HeapTid| wanted.admits(self.attrs[tid]);
        self.rows.iter().filter(|(tid, _)| admits(tid)).map(|(t, v)| (*t, v.clone())).collect()
    }

    fn scan(&self, wanted: &Wanted, query: &[f32], k: usize, ef_search: u32) -> Vec<HeapTid> {
        let options = ScanOptions { ef_search, ..ScanOptions::default() };
        let scan = Scan::open_filtered(&self.store, query, options, wanted.filter());
        take_exact(&mut scan.expect("opened"), Metric::Cosine, &self.rows, query, k)
    }

    /// Every row's attributes are those that it was added with.
    fn assert_attributes(&self) {
        assert_sound(&self.store, self.rows.len());
        let mut seen = 0;
        each_row(&self.store, &mut |tid, attrs| {
            assert_eq!(attrs, Some(&self.attrs[&tid].encode()[..]), "{tid:?}");
            seen += 1;
        })
        .expect("readable");
        assert_eq!(seen, self.rows.len());
    }
}

#[test]
fn every_filter_gives_the_rows_that_a_filter_over_the_table_gives() {
    let table = table(3000, 5);
    table.assert_attributes();
    let queries = vectors(40, 4243);
    let (mut found, mut asked) = (0, 0);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for query in &queries {
        let wanted = wanted().new_tree(&mut runner).expect("a filter").current();
        let admitted = table.admitted(&wanted);
        let mut all = table.scan(&wanted, query, usize::MAX, 20);
        all.sort_unstable();
        let every: Vec<HeapTid> = admitted.keys().copied().collect();
        assert_eq!(all, every, "{wanted:?}");
        let truth = exact(Metric::Cosine, &admitted, query, 10);
        let answer = table.scan(&wanted, query, 10, 40);
        assert_eq!(answer.len(), truth.len(), "{wanted:?}");
        found += answer.iter().filter(|tid| truth.contains(tid)).count();
        asked += truth.len();
    }
    assert!(found * 100 >= asked * 97, "{found} of {asked}");
}

#[test]
fn few_matches_are_read_directly_and_many_through_the_graph() {
    let table = table(3000, 6);
    let query = &vectors(1, 4244)[0];
    let way = |wanted: &Wanted, ef_search| {
        let options = ScanOptions { ef_search, ..ScanOptions::default() };
        let mut scan =
            Scan::open_filtered(&table.store, query, options, wanted.filter()).expect("opened");
        scan.next().expect("scanned");
        scan.stats().filtering
    };
    assert_eq!(way(&Wanted::Both(3, -100, 100), 40), Filtering::Exact);
    assert_eq!(way(&Wanted::Numbers(-900, 1000), 5), Filtering::Graph);
    // The graph is left where the nodes that pass lie far from the query: here they are none.
    assert_eq!(way(&Wanted::Numbers(2000, 3000), 5), Filtering::Exact);
}

#[test]
fn rows_of_equal_vectors_keep_their_own_attributes() {
    let store = MemoryStore::new();
    create_empty(&store, filtered_params(Metric::Cosine)).expect("created");
    let vector = &vectors(1, 1)[0];
    let mut rng = StdRng::seed_from_u64(3);
    let mut table = Table { store, rows: Rows::new(), attrs: BTreeMap::new() };
    for number in 0..200 {
        let attrs = Attrs { number: number % 4, ..Attrs::random(&mut rng) };
        let tid = tid(number as u32);
        insert_with_attributes(&table.store, vector, &attrs.encode(), tid).expect("inserted");
        table.rows.insert(tid, vector.clone());
        table.attrs.insert(tid, attrs);
    }
    table.assert_attributes();
    for number in 0..4 {
        let rows = table.scan(&Wanted::Numbers(number, number), vector, usize::MAX, 40);
        assert_eq!(rows.len(), 50);
    }
}

#[test]
fn one_wide_node_a_page_leaves_room_for_attributes() {
    // Upper levels then take a page of their own in the transaction of an insert.
    let params = HnswParams::parse(6000, Metric::L2, 4, 16).expect("valid");
    let params = params.with_attr_len(4000).expect("two node pages an attribute page");
    assert!(params.with_attr_len(5000).is_err());
    let store = MemoryStore::new();
    create_empty(&store, params).expect("created");
    for number in 0..80u32 {
        let mut vector = vec![0.0; 6000];
        vector[number as usize] = 1.0;
        let attrs = vec![number as u8 % 5; 4000];
        insert_with_attributes(&store, &vector, &attrs, tid(number)).expect("inserted");
    }
    assert_sound(&store, 80);
    let filter = Filter::new(vec![Condition::new(3990, 2, &[(vec![3, 3], vec![3, 3])])]);
    let query = vec![0.1; 6000];
    let scan = Scan::open_filtered(&store, &query, ScanOptions::default(), filter);
    let mut scan = scan.expect("opened");
    let mut rows = 0;
    while scan.next().expect("scanned").is_some() {
        rows += 1;
    }
    assert_eq!(rows, 16);
    let error = insert(&store, &query, tid(99)).expect_err("no attributes");
    assert_eq!(error.to_string(), "expected 4000 bytes of filter columns, got 0");
}

#[test]
fn an_insert_that_fails_at_any_write_leaves_attributes_true() {
    let table = table(400, 7);
    let mut rng = StdRng::seed_from_u64(8);
    let fresh = vectors(30, 77);
    let mut writes = 0;
    loop {
        let store = FaultStore::new(table.store.snapshot());
        store.fail_at(writes);
        let mut rows = table.rows.clone();
        let mut attrs = table.attrs.clone();
        let mut failed = false;
        for (number, vector) in fresh.iter().enumerate() {
            let (tid, row) = (tid(5000 + number as u32), Attrs::random(&mut rng));
            match insert_with_attributes(&store, vector, &row.encode(), tid) {
                Ok(_) => {
                    rows.insert(tid, vector.clone());
                    attrs.insert(tid, row);
                }
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        each_row(store.inner(), &mut |tid, found| {
            // The row that failed may be there: its node is written before the links to it.
            if let Some(expected) = attrs.get(&tid) {
                assert_eq!(found, Some(&expected.encode()[..]), "{tid:?} after {writes} writes");
            }
        })
        .expect("readable");
        if !failed {
            return;
        }
        writes += size_step(writes);
    }
}

/// Every write of the first few inserts, then fewer.
fn size_step(writes: u64) -> u64 {
    if writes < 60 { 1 } else { 37 }
}
