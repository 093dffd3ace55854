//! What `make bench-index` and `make bench-filters` share: a server with pgvector, and the vectors.
//!
//! The vectors are those of every tenth sentence of `../shared/data/train/sentences.tsv.gz`, embedded by the
//! project's own encoder, the last thousand of them queries; they are kept in `target/bench-index/` for the
//! next run. `DISTILFACE_BENCH_VECTORS` names a folder to take them from instead: `100k.f32` and
//! `1k_queries.f32`, rows of 384 little-endian floats.
//!
//! More than 100,000 rows, or more dimensions, are made up of these: a row is one real vector and half
//! another one for each 384 dimensions, scaled to length 1, so that the spectrum is the real one's.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use distilface_core::vector::l2_normalize;
use distilface_tests::{Cluster, Kept, Session, second_column};
use rand::prelude::*;

/// Rows of real vectors.
pub const REAL: usize = 100_000;
const REAL_DIMS: usize = 384;
const QUERIES: usize = 1000;

/// Rows and dimensions as the environment asks for them, the table where it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub rows: usize,
    pub dims: usize,
}

impl Size {
    /// `DISTILFACE_BENCH_ROWS` and `DISTILFACE_BENCH_DIMS`, a multiple of 384.
    pub fn from_environment() -> Self {
        let number = |name: &str, default| match std::env::var(name) {
            Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name}: {e}")),
            Err(_) => default,
        };
        let size = Self {
            rows: number("DISTILFACE_BENCH_ROWS", REAL),
            dims: number("DISTILFACE_BENCH_DIMS", REAL_DIMS),
        };
        assert!(size.dims.is_multiple_of(REAL_DIMS), "DISTILFACE_BENCH_DIMS: a multiple of 384");
        size
    }

    /// Whether the vectors are made up.
    pub fn is_synthetic(self) -> bool {
        self.rows > REAL || self.dims > REAL_DIMS
    }

    /// What the vectors are, for a heading.
    pub fn describe(self) -> String {
        let kind = if self.is_synthetic() { "made up of sentence vectors" } else { "of sentences" };
        format!("{} vectors of {} dimensions, {kind}", self.rows, self.dims)
    }
}

/// A PostgreSQL 18 with pgvector, whose data the next run finds again; `None` where there is none.
pub fn server(name: &str, size: Size, kept: Kept) -> Option<Cluster> {
    // An index of synthetic rows is to be four times the buffers, the real ones' fits them.
    let (buffers, memory) = if size.is_synthetic() {
        (format!("{}MB", (size.rows * size.dims * 3 / 4) >> 20), "4GB")
    } else {
        ("1GB".to_owned(), "1GB")
    };
    Cluster::builder()
        .version(18)
        .set("shared_buffers", &buffers)
        .set("maintenance_work_mem", memory)
        .set("max_wal_size", "8GB")
        .keep(&format!("{name}-{}-{}", size.rows, size.dims), kept)
        .try_start()
}

/// Rows and queries, one after the other.
pub struct Vectors {
    dims: usize,
    rows: Vec<f32>,
    queries: Vec<f32>,
}

impl Vectors {
    /// Embeds the sentences, or takes what an earlier run with the same encoder made of them; `None` where the
    /// sentences are missing.
    pub fn load(session: &mut Session, size: Size) -> Option<Self> {
        let real = size.rows.min(REAL);
        let (rows, queries) = match std::env::var_os("DISTILFACE_BENCH_VECTORS") {
            Some(dir) => {
                let mut rows = read_floats(&Path::new(&dir).join("100k.f32"));
                rows.truncate(real * REAL_DIMS);
                (rows, read_floats(&Path::new(&dir).join("1k_queries.f32")))
            }
            None => {
                let mut rows = embedded(session, real + QUERIES)?;
                let queries = rows.split_off(real * REAL_DIMS);
                (rows, queries)
            }
        };
        if !size.is_synthetic() {
            return Some(Self { dims: REAL_DIMS, rows, queries });
        }
        let mut rng = StdRng::seed_from_u64(1);
        Some(Self {
            dims: size.dims,
            rows: mixtures(&rows, size.rows, size.dims, &mut rng),
            queries: mixtures(&queries, QUERIES, size.dims, &mut rng),
        })
    }

    pub fn queries(&self) -> impl Iterator<Item = &[f32]> {
        self.queries.chunks_exact(self.dims)
    }

    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.rows.chunks_exact(self.dims)
    }

    /// Fills `vectors` (id, e): the rows from id 0 on, then the queries.
    pub fn copy(&self, session: &mut Session) {
        session.sql(&format!(
            "DROP TABLE IF EXISTS vectors; CREATE UNLOGGED TABLE vectors (id int, e embedding({}))",
            self.dims
        ));
        let copy = "COPY vectors FROM STDIN (FORMAT binary)";
        let copy = session.client().copy_in(copy).expect("COPY starts");
        let mut copy = std::io::BufWriter::with_capacity(1 << 20, copy);
        let mut put = |bytes: &[u8]| copy.write_all(bytes).expect("COPY takes bytes");
        put(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        for (id, vector) in self.rows().chain(self.queries()).enumerate() {
            put(&2i16.to_be_bytes());
            put(&4i32.to_be_bytes());
            put(&(id as i32).to_be_bytes());
            put(&(4 + 4 * self.dims as i32).to_be_bytes());
            put(&(self.dims as i16).to_be_bytes());
            put(&0i16.to_be_bytes());
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_be_bytes()).collect();
            put(&bytes);
        }
        put(&(-1i16).to_be_bytes());
        copy.into_inner().ok().expect("COPY takes the rest").finish().expect("COPY ends");
    }
}

fn read_floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn mixtures(real: &[f32], count: usize, dims: usize, rng: &mut StdRng) -> Vec<f32> {
    let mut mixed = Vec::with_capacity(count * dims);
    for _ in 0..count {
        let start = mixed.len();
        for _ in 0..dims / REAL_DIMS {
            let [a, b] = [(); 2].map(|()| {
                let at = rng.random_range(0..real.len() / REAL_DIMS) * REAL_DIMS;
                &real[at..at + REAL_DIMS]
            });
            mixed.extend(a.iter().zip(b).map(|(a, b)| a + b / 2.0));
        }
        l2_normalize(&mut mixed[start..]);
    }
    mixed
}

/// The vectors of the first `count` sentences that have one.
fn embedded(session: &mut Session, count: usize) -> Option<Vec<f32>> {
    let top = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let encoder = session.one("SELECT md5(distilface_embed('which encoder is this?')::text)");
    let folder = top.join("target/bench-index");
    std::fs::create_dir_all(&folder).expect("target/ can be written");
    let kept = folder.join(format!("{count}-{encoder}.f32"));
    if kept.exists() {
        return Some(read_floats(&kept));
    }
    let data = top.join("../shared/data/train/sentences.tsv.gz");
    if !data.exists() {
        return None;
    }
    eprintln!("embedding {count} sentences");
    copy_sentences(session, &data, count);
    session.sql(
        "SET distilface.on_overflow = silent;
         CREATE UNLOGGED TABLE embedded AS
           SELECT unnest(ids) AS id, unnest(distilface_embed(bodies)) AS e
             FROM (SELECT array_agg(id) ids, array_agg(body) bodies FROM texts GROUP BY id / 1024) b;
         DROP TABLE texts",
    );
    let copy = format!(
        "COPY (SELECT e FROM embedded WHERE e IS NOT NULL ORDER BY id LIMIT {count}) TO STDOUT (FORMAT binary)"
    );
    let mut bytes = Vec::new();
    let mut copy = session.client().copy_out(&copy).expect("COPY starts");
    copy.read_to_end(&mut bytes).expect("COPY gives the table");
    drop(copy);
    session.sql("DROP TABLE embedded");
    // A header of 19 bytes; then for each row the count of columns (2), the length (4), dimensions and flags (4)
    // and the numbers, the highest byte first.
    let vectors: Vec<f32> = bytes[19..]
        .chunks_exact(10 + 4 * REAL_DIMS)
        .flat_map(|row| row[10..].as_chunks::<4>().0.iter().map(|&x| f32::from_be_bytes(x)))
        .collect();
    assert_eq!(vectors.len(), count * REAL_DIMS, "a vector for each sentence");
    let unfinished = kept.with_extension("new");
    let bytes: Vec<u8> = vectors.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(&unfinished, bytes).expect("target/ can be written");
    std::fs::rename(unfinished, kept).expect("target/ can be written");
    Some(vectors)
}

/// Every tenth sentence, and some to stand in for those without a vector.
fn copy_sentences(session: &mut Session, data: &Path, count: usize) {
    session.sql("CREATE UNLOGGED TABLE texts (id int, body text)");
    let mut copy = session.client().copy_in("COPY texts FROM STDIN").expect("COPY starts");
    for (id, sentence) in second_column(data, 10, count + 100).iter().enumerate() {
        writeln!(copy, "{id}\t{sentence}").expect("COPY takes a line");
    }
    copy.finish().expect("COPY ends");
}

pub fn number(session: &mut Session, sql: &str) -> f64 {
    session.one(sql).parse().unwrap_or_else(|e| panic!("{sql}: {e}"))
}
