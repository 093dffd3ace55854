//! The table that most tests of an index work on: `t (k bigint PRIMARY KEY, e embedding(32))`, where the vector of
//! a key is a function of the key.

use std::ops::Range;

use crate::cluster::Cluster;
use crate::random::random_vector;
use crate::session::Session;

/// Dimensions of `t.e`.
pub const DIMS: usize = 32;

/// Query vectors are drawn from seeds that no key has.
const QUERY_SEEDS: u64 = 1 << 40;

impl Cluster {
    /// Makes the empty table `t`.
    pub fn vector_table(&self) {
        self.sql(&format!("CREATE TABLE t (k bigint PRIMARY KEY, e embedding({DIMS}))"));
    }

    /// Inserts rows with these keys into `t`.
    pub fn insert_vectors(&self, keys: Range<u64>) {
        let rows: Vec<String> =
            keys.map(|k| format!("({k}, '{}')", random_vector(k, DIMS))).collect();
        self.sql(&format!("INSERT INTO t VALUES {}", rows.join(",")));
    }

    /// The keys nearest by cosine distance to each of `queries` vectors, through the index.
    pub fn nearest(&self, seed: u64, queries: u64) -> Vec<Vec<String>> {
        let mut session = self.session();
        session.sql("SET enable_seqscan = off");
        (0..queries)
            .map(|q| {
                let query = random_vector(QUERY_SEEDS + (seed << 20) + q, DIMS);
                session.column(&format!("SELECT k FROM t ORDER BY e <=> '{query}' LIMIT 10"))
            })
            .collect()
    }

    /// Fails with every broken invariant that the verifier finds in an index.
    pub fn assert_sound(&self, index: &str) {
        self.session().assert_sound(index);
    }
}

impl Session {
    /// Rows whose vector is not that of their text, by the default model, or is missing.
    pub fn stale(&mut self, table: &str, source: &str, target: &str) -> String {
        self.one(&format!(
            "SELECT count(*) FROM {table} WHERE coalesce(NOT ({target} <=> distilface_embed({source}::text)) < 1e-6, \
               ({target} IS NULL) <> (distilface_embed({source}::text) IS NULL))"
        ))
    }

    /// [`Cluster::assert_sound`] in this session's database.
    pub fn assert_sound(&mut self, index: &str) {
        let broken = self.rows(&format!("SELECT * FROM distilface_index_check('{index}')"));
        assert!(broken.is_empty(), "{index} is broken: {broken:?}");
    }
}
