//! The verifier: walks an index and reports every broken invariant.

use super::engine::PageDirectory;
use super::error::Bm25Error;
use super::layout::Meta;
use super::maintain::pages_in_use;
use super::pending;
use super::segment::SegmentMap;
use crate::page::{HeapTid, LockMode, PageStore, Wait};
use std::collections::HashMap;
use std::sync::Arc;
use tantivy::postings::Postings;
use tantivy::schema::IndexRecordOption;
use tantivy::{DocSet, SegmentReader, TERMINATED};

/// Problems that a report lists before it only counts them.
const MAX_LISTED: usize = 100;

/// What the verifier found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Broken invariants, in words; at most the first hundred.
    pub problems: Vec<String>,
    /// All of them.
    pub problem_count: u64,
    pub segments: u64,
    pub pending_rows: u64,
    /// Rows that are not dead, with the pending ones.
    pub live_rows: u64,
    pub dead_rows: u64,
    pub pages: u64,
    pub free_pages: u64,
    /// Pages that a crash left unused; the next vacuum frees them.
    pub lost_pages: u64,
}

impl CheckReport {
    fn problem(&mut self, problem: String) {
        self.problem_count += 1;
        if self.problems.len() < MAX_LISTED {
            self.problems.push(problem);
        }
    }

    /// Whether no invariant is broken.
    pub fn is_ok(&self) -> bool {
        self.problem_count == 0
    }
}

/// Times that a check starts over when the index changed under it, on a standby.
const ATTEMPTS: usize = 8;

/// Verifies an index: every page reachable once, whole and of the owner expected; every segment
/// readable to its last posting; every heap TID of a living row once.
///
/// Merges and vacuum wait meanwhile; inserts go on, but for the moment in which the pages are
/// counted. Replay on a standby waits for nobody: what looks broken while the metapage changes is
/// looked at again.
///
/// # Errors
/// [`Bm25Error::Page`] where the metapage itself cannot be read, and where the user interrupts.
pub fn check<S: PageStore + Send + Sync + 'static>(
    store: &Arc<S>,
) -> Result<CheckReport, Bm25Error> {
    let _lock = store.lock_maintenance(Wait::Yes)?;
    let mut attempt = 1;
    loop {
        let meta = Meta::load(&**store)?;
        let report = check_as_of(store, &meta)?;
        if report.is_ok() || attempt == ATTEMPTS || Meta::load(&**store)? == meta {
            return Ok(report);
        }
        attempt += 1;
    }
}

fn check_as_of<S: PageStore + Send + Sync + 'static>(
    store: &Arc<S>,
    meta: &Meta,
) -> Result<CheckReport, Bm25Error> {
    let mut report = CheckReport { segments: meta.segments.len() as u64, ..Default::default() };
    {
        // No insert is between taking a page and putting it to use. The metapage is read again:
        // inserts may have moved the list's end since.
        let _lock = store.lock_updates(LockMode::Exclusive)?;
        check_pages(store, &Meta::load(&**store)?, &mut report)?;
    }
    let mut places: HashMap<HeapTid, u32> = HashMap::new();
    match pending::read(&**store, meta, pending::Extent::Whole) {
        Ok(pending) => {
            report.pending_rows = pending.rows.len() as u64;
            report.live_rows += report.pending_rows;
            for row in pending.rows {
                *places.entry(row.tid).or_default() += 1;
            }
        }
        Err(error) => report.problem(error.to_string()),
    }
    for &entry in &meta.segments {
        store.check_interrupts()?;
        let checked = SegmentMap::load(&**store, entry).and_then(|map| {
            let map = Arc::new(map);
            check_segment(store, meta, &map, &mut places, &mut report)
        });
        if let Err(error) = checked {
            report.problem(format!("segment {}: {error}", entry.id));
        }
    }
    for (tid, count) in places.iter().filter(|(_, count)| **count > 1) {
        report.problem(format!("row ({},{}) is indexed {count} times", tid.block, tid.offset));
    }
    Ok(report)
}

fn check_pages<S: PageStore>(
    store: &Arc<S>,
    meta: &Meta,
    report: &mut CheckReport,
) -> Result<(), Bm25Error> {
    let page_count = store.page_count()?;
    let mut uses: Vec<Option<&'static str>> = vec![None; page_count as usize];
    let mut problems = Vec::new();
    let mut free = 0;
    let walked = pages_in_use(&**store, meta, page_count, &mut |blkno, place| {
        free += u64::from(place == "free" || place == "list of free pages");
        match uses.get_mut(blkno as usize) {
            Some(known @ None) => *known = Some(place),
            Some(Some(known)) => {
                problems.push(format!("page {blkno} belongs to a {known} and to a {place}"));
            }
            None => problems.push(format!("page {blkno} of a {place} is past the end")),
        }
    });
    for problem in problems {
        report.problem(problem);
    }
    report.pages = u64::from(page_count);
    report.free_pages = free;
    match walked {
        Ok(()) => report.lost_pages = uses.iter().filter(|place| place.is_none()).count() as u64,
        Err(error) => report.problem(error.to_string()),
    }
    Ok(())
}

fn check_segment<S: PageStore + Send + Sync + 'static>(
    store: &Arc<S>,
    meta: &Meta,
    map: &Arc<SegmentMap>,
    places: &mut HashMap<HeapTid, u32>,
    report: &mut CheckReport,
) -> Result<(), Bm25Error> {
    let dead = map.dead_bits(&**store)?;
    let mut dead_rows = 0;
    for (doc, tid) in (0..).zip(map.tids(&**store)?) {
        if dead.as_ref().is_some_and(|dead| dead.contains(doc)) {
            dead_rows += 1;
        } else {
            *places.entry(tid).or_default() += 1;
            report.live_rows += 1;
        }
    }
    report.dead_rows += u64::from(dead_rows);
    let id = map.entry.id;
    if dead_rows != map.entry.dead {
        let counted = map.entry.dead;
        report.problem(format!("segment {id} counts {counted} dead rows and marks {dead_rows}"));
    }
    let directory =
        PageDirectory::new(Arc::clone(store), &meta.params, &[Arc::clone(map)], None, 0)?;
    let index = directory.open(&meta.params)?;
    for segment in index.searchable_segments().map_err(|error| directory.explain(error))? {
        let reader = SegmentReader::open(&segment).map_err(|error| directory.explain(error))?;
        check_postings(&reader, meta, id, report).map_err(|error| directory.explain(error))?;
    }
    Ok(())
}

fn check_postings(
    reader: &SegmentReader,
    meta: &Meta,
    id: u64,
    report: &mut CheckReport,
) -> tantivy::Result<()> {
    let fields = meta.params.fields();
    for (column, field) in fields.into_iter().enumerate() {
        let index = reader.inverted_index(field)?;
        let mut terms = index.terms().stream()?;
        while terms.advance() {
            let info = terms.value().clone();
            let mut postings = index
                .read_postings_from_terminfo(&info, IndexRecordOption::WithFreqsAndPositions)?;
            let (mut docs, mut last) = (0, None);
            let mut positions = Vec::new();
            while postings.doc() != TERMINATED {
                let doc = postings.doc();
                positions.clear();
                postings.positions(&mut positions);
                let broken = doc >= reader.max_doc()
                    || last.is_some_and(|last| doc <= last)
                    || positions.len() != postings.term_freq() as usize;
                if broken {
                    let term = String::from_utf8_lossy(terms.key()).into_owned();
                    report.problem(format!(
                        "segment {id}, column {column}, term \"{term}\": broken at document {doc}"
                    ));
                    break;
                }
                last = Some(doc);
                docs += 1;
                postings.advance();
            }
            if docs != info.doc_freq {
                let term = String::from_utf8_lossy(terms.key()).into_owned();
                let expected = info.doc_freq;
                report.problem(format!(
                    "segment {id}, column {column}, term \"{term}\": {docs} of {expected} documents"
                ));
            }
        }
    }
    Ok(())
}
