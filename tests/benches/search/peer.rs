//! tantivy itself: its own writer, its own files, memory-mapped, one segment.

use super::corpus::Query;
use std::time::Instant;
use tantivy::collector::TopDocs;
use tantivy::directory::MmapDirectory;
use tantivy::query::{BooleanQuery, Occur, TermQuery};
use tantivy::schema::{FAST, Field, IndexRecordOption, Schema, TEXT};
use tantivy::{Index, IndexWriter, Searcher, TantivyDocument, Term};
use tempfile::TempDir;

pub struct Tantivy {
    searcher: Searcher,
    field: Field,
    /// Seconds from the first document to one merged segment on disk.
    pub build_seconds: f64,
    pub megabytes: f64,
    _dir: TempDir,
}

impl Tantivy {
    pub fn build(sentences: &[String]) -> tantivy::Result<Self> {
        let dir = tempfile::tempdir()?;
        let began = Instant::now();
        let mut schema = Schema::builder();
        let field = schema.add_text_field("body", TEXT);
        let row = schema.add_u64_field("row", FAST);
        let index = Index::open_or_create(MmapDirectory::open(dir.path())?, schema.build())?;
        let mut writer: IndexWriter = index.writer_with_num_threads(1, 1 << 30)?;
        for (number, sentence) in (0_u64..).zip(sentences) {
            let mut document = TantivyDocument::new();
            document.add_text(field, sentence);
            document.add_u64(row, number);
            writer.add_document(document)?;
        }
        writer.commit()?;
        let segments = index.searchable_segment_ids()?;
        if segments.len() > 1 {
            writer.merge(&segments).wait()?;
        }
        writer.garbage_collect_files().wait()?;
        writer.wait_merging_threads()?;
        let build_seconds = began.elapsed().as_secs_f64();
        let files = std::fs::read_dir(dir.path())?;
        let bytes: u64 = files.flatten().filter_map(|file| Some(file.metadata().ok()?.len())).sum();
        let searcher = index.reader()?.searcher();
        assert_eq!(searcher.segment_readers().len(), 1, "one segment");
        Ok(Self { searcher, field, build_seconds, megabytes: bytes as f64 / 1e6, _dir: dir })
    }

    /// Seconds for the ten best rows of a query, and their scores.
    pub fn ask(&self, query: &Query) -> tantivy::Result<(f64, Vec<f32>)> {
        let began = Instant::now();
        let clauses = query
            .terms
            .iter()
            .map(|term| {
                let term = Term::from_field_text(self.field, term);
                let query = TermQuery::new(term, IndexRecordOption::WithFreqs);
                (Occur::Should, Box::new(query) as Box<dyn tantivy::query::Query>)
            })
            .collect();
        let top = TopDocs::with_limit(10).order_by_score();
        let found = self.searcher.search(&BooleanQuery::new(clauses), &top)?;
        // A program wants its row's number, not tantivy's: as a heap TID is to PostgreSQL.
        let rows = self.searcher.segment_reader(0).fast_fields().u64("row")?;
        let numbers: Vec<_> = found.iter().map(|(_, address)| rows.first(address.doc_id)).collect();
        let seconds = began.elapsed().as_secs_f64();
        assert!(numbers.iter().all(Option::is_some), "every row has a number");
        Ok((seconds, found.into_iter().map(|(score, _)| score).collect()))
    }
}
