//! tantivy's segments in memory: made from rows, merged, and read through a directory that serves
//! pages of a [`PageStore`] as files.
//!
//! tantivy writes on this thread only, into memory, and never opens a file, a thread or a watch:
//! [`SegmentBuilder`] is its single-threaded writer, [`PageDirectory`] is read-only. What goes wrong
//! below tantivy passes through it as an I/O error; the directory keeps the real error, which
//! [`PageDirectory::failure`] hands out.

use super::error::Bm25Error;
use super::layout::{TID_LEN, tid_from_bytes};
use super::params::Bm25Params;
use super::segment::{Part, SegmentMap};
use crate::page::{HeapTid, PageError, PageStore};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    Directory, DirectoryLock, FileHandle, Lock, OwnedBytes, RamDirectory, WatchCallback,
    WatchHandle, WritePtr,
};
use tantivy::schema::Field;
use tantivy::{HasLen, Index, IndexSettings, SingleSegmentIndexWriter, TantivyDocument};

/// Heap TIDs that are read, and kept, together: 3 KiB, on one page or two.
const TIDS_AT_ONCE: u32 = 512;
/// Memory that a builder of few rows starts with.
pub(crate) const SMALL_BUDGET: usize = 1 << 20;
/// Memory that a builder of one row starts with; tantivy asks for no less.
pub(crate) const TINY_BUDGET: usize = 100_000;

/// Settings of every segment: no compression thread, as tantivy's own default has for its store.
fn settings() -> IndexSettings {
    IndexSettings { docstore_compress_dedicated_thread: false, ..IndexSettings::default() }
}

/// A finished segment in memory.
pub(crate) struct MemorySegment {
    directory: RamDirectory,
    /// tantivy's name of it.
    uuid: String,
    pub(crate) tids: Vec<HeapTid>,
}

impl MemorySegment {
    fn new(index: &Index, directory: RamDirectory, tids: Vec<HeapTid>) -> Result<Self, Bm25Error> {
        let metas = index.searchable_segment_metas()?;
        let uuid = match metas.first() {
            Some(meta) => meta.id().uuid_string(),
            None => return Err(Bm25Error::Engine("a segment without a name".to_owned())),
        };
        Ok(Self { directory, uuid, tids })
    }

    /// A file's bytes.
    pub(crate) fn file(&self, part: Part) -> Result<OwnedBytes, Bm25Error> {
        let path = PathBuf::from(format!("{}.{}", self.uuid, part.extension()));
        let slice = self.directory.open_read(&path).map_err(tantivy::TantivyError::from)?;
        slice.read_bytes().map_err(|error| Bm25Error::Engine(error.to_string()))
    }
}

/// Makes a segment from rows.
pub(crate) struct SegmentBuilder {
    writer: SingleSegmentIndexWriter,
    directory: RamDirectory,
    fields: Vec<Field>,
    tids: Vec<HeapTid>,
}

impl SegmentBuilder {
    /// An empty segment. `budget` sizes the term table, in bytes.
    pub(crate) fn new(params: &Bm25Params, budget: usize) -> Result<Self, Bm25Error> {
        let (schema, fields) = (params.schema(), params.fields());
        let directory = RamDirectory::create();
        let writer = Index::builder()
            .schema(schema)
            .settings(settings())
            .tokenizers(params.tokenizers())
            .single_segment_index_writer(directory.clone(), budget)?;
        Ok(Self { writer, directory, fields, tids: Vec::new() })
    }

    /// Adds a row; the caller gives a text or nothing for each column.
    pub(crate) fn add<'t>(
        &mut self,
        texts: impl Iterator<Item = Option<&'t str>>,
        tid: HeapTid,
    ) -> Result<(), Bm25Error> {
        let mut document = TantivyDocument::new();
        for (&field, text) in self.fields.iter().zip(texts) {
            if let Some(text) = text {
                document.add_text(field, text);
            }
        }
        self.writer.add_document(document)?;
        self.tids.push(tid);
        Ok(())
    }

    /// Rows so far.
    pub(crate) fn len(&self) -> usize {
        self.tids.len()
    }

    /// Bytes in use.
    pub(crate) fn memory(&self) -> usize {
        self.writer.mem_usage() + self.tids.len() * size_of::<HeapTid>()
    }

    /// The segment as an index of its own.
    pub(crate) fn finish_index(self) -> Result<Index, Bm25Error> {
        Ok(self.writer.finalize()?)
    }

    pub(crate) fn finish(self) -> Result<MemorySegment, Bm25Error> {
        let index = self.writer.finalize()?;
        MemorySegment::new(&index, self.directory, self.tids)
    }
}

/// Merges segments of a directory, in their order, without the documents whose bits are set.
pub(crate) fn merge<S: PageStore + Send + Sync + 'static>(
    directory: &PageDirectory<S>,
    index: &Index,
    dead: Vec<Option<tantivy::fastfield::AliveBitSet>>,
    tids: Vec<HeapTid>,
) -> Result<MemorySegment, Bm25Error> {
    let segments = index.searchable_segments()?;
    let output = RamDirectory::create();
    let merged =
        tantivy::indexer::merge_filtered_segments(&segments, settings(), dead, output.clone())
            .map_err(|error| directory.explain(error))?;
    MemorySegment::new(&merged, output, tids)
}

/// The raw bytes of a document store without documents, which every segment shares.
fn empty_store() -> Result<&'static [u8], Bm25Error> {
    static EMPTY: OnceLock<Vec<u8>> = OnceLock::new();
    if let Some(bytes) = EMPTY.get() {
        return Ok(bytes);
    }
    let params = Bm25Params::single("simple")?;
    let builder = SegmentBuilder::new(&params, SMALL_BUDGET)?;
    let directory = builder.directory.clone();
    let segment = builder.finish()?;
    let path = PathBuf::from(format!("{}.store", segment.uuid));
    let slice = directory.open_read(&path).map_err(tantivy::TantivyError::from)?;
    let bytes = slice.read_bytes().map_err(|error| Bm25Error::Engine(error.to_string()))?;
    Ok(EMPTY.get_or_init(|| bytes.to_vec()))
}

/// What a directory's segments share.
struct Shared<S> {
    store: Arc<S>,
    cache: Mutex<Cache>,
    failure: Mutex<Option<Bm25Error>>,
}

/// A byte range of a segment's part.
type RangeKey = (u64, u8, usize, usize);

/// Byte ranges that were read, kept up to a limit: a repeated query then reads no page twice. There
/// are two generations: when the young one has half of the limit it becomes the old one, and what
/// nobody asked for since is dropped.
struct Cache {
    limit: usize,
    young_bytes: usize,
    young: HashMap<RangeKey, OwnedBytes>,
    old: HashMap<RangeKey, OwnedBytes>,
}

enum Source {
    Pages(Arc<SegmentMap>),
    Memory(Arc<MemorySegment>),
}

/// A tantivy directory over pages, read-only.
pub(crate) struct PageDirectory<S> {
    shared: Arc<Shared<S>>,
    segments: Arc<HashMap<String, Source>>,
    meta: Arc<Vec<u8>>,
}

impl<S> Clone for PageDirectory<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            segments: Arc::clone(&self.segments),
            meta: Arc::clone(&self.meta),
        }
    }
}

impl<S> std::fmt::Debug for PageDirectory<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageDirectory({} segments)", self.segments.len())
    }
}

impl<S: PageStore + Send + Sync + 'static> PageDirectory<S> {
    /// A directory of these segments, in this order; the one in memory comes last. `cache_limit`
    /// bounds the bytes that stay in memory.
    pub(crate) fn new(
        store: Arc<S>,
        params: &Bm25Params,
        pages: &[Arc<SegmentMap>],
        memory: Option<Arc<MemorySegment>>,
        cache_limit: usize,
    ) -> Result<Self, Bm25Error> {
        let cache = Cache::new(cache_limit);
        let shared = Shared { store, cache: Mutex::new(cache), failure: Mutex::new(None) };
        Self::assemble(Arc::new(shared), params, pages, memory)
    }

    /// A directory of other segments that shares what this one has read.
    pub(crate) fn with_segments(
        &self,
        params: &Bm25Params,
        pages: &[Arc<SegmentMap>],
        memory: Option<Arc<MemorySegment>>,
    ) -> Result<Self, Bm25Error> {
        Self::assemble(Arc::clone(&self.shared), params, pages, memory)
    }

    fn assemble(
        shared: Arc<Shared<S>>,
        params: &Bm25Params,
        pages: &[Arc<SegmentMap>],
        memory: Option<Arc<MemorySegment>>,
    ) -> Result<Self, Bm25Error> {
        empty_store()?;
        let mut segments = HashMap::new();
        let mut metas = Vec::new();
        for map in pages {
            let uuid = format!("{:032x}", map.entry.id);
            metas.push(segment_meta(&uuid, map.entry.docs as usize));
            segments.insert(uuid, Source::Pages(Arc::clone(map)));
        }
        if let Some(memory) = memory {
            metas.push(segment_meta(&memory.uuid, memory.tids.len()));
            segments.insert(memory.uuid.clone(), Source::Memory(memory));
        }
        let meta = tantivy::IndexMeta {
            index_settings: settings(),
            persisted_custom_extensions: Vec::new(),
            segments: Vec::new(),
            schema: params.schema(),
            opstamp: 0,
            payload: None,
        };
        let mut meta =
            serde_json::to_value(&meta).map_err(|error| Bm25Error::Engine(error.to_string()))?;
        meta["segments"] = serde_json::Value::Array(metas);
        Ok(Self {
            shared,
            segments: Arc::new(segments),
            meta: Arc::new(meta.to_string().into_bytes()),
        })
    }

    /// Opens it as a tantivy index.
    pub(crate) fn open(&self, params: &Bm25Params) -> Result<Index, Bm25Error> {
        let mut index = Index::open(self.clone()).map_err(|error| self.explain(error))?;
        index.set_tokenizers(params.tokenizers());
        Ok(index)
    }

    /// The heap TID of a document of one of the segments.
    pub(crate) fn tid(&self, map: &SegmentMap, doc: u32) -> Result<HeapTid, Bm25Error> {
        let (first, at) = (doc / TIDS_AT_ONCE * TIDS_AT_ONCE, doc % TIDS_AT_ONCE);
        let first = first.min(map.entry.docs);
        let last = first.saturating_add(TIDS_AT_ONCE).min(map.entry.docs);
        let range = first as usize * TID_LEN..last as usize * TID_LEN;
        let bytes = self.shared.read(map, Part::HeapTids, range)?;
        let bytes = bytes.get(at as usize * TID_LEN..).and_then(|bytes| bytes.first_chunk());
        bytes.map(|bytes| tid_from_bytes(*bytes)).ok_or_else(|| {
            let expected = "postings of documents that the segment has";
            let got = format!("document {doc} of {}", map.entry.docs);
            PageError::Corrupt { blkno: map.entry.map, offno: 0, expected, got }.into()
        })
    }

    /// The error behind one of tantivy's.
    pub(crate) fn explain(&self, error: tantivy::TantivyError) -> Bm25Error {
        self.failure().unwrap_or_else(|| error.into())
    }

    /// What went wrong below tantivy since the last call, if anything did.
    pub(crate) fn failure(&self) -> Option<Bm25Error> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn segment_meta(uuid: &str, docs: usize) -> serde_json::Value {
    serde_json::json!({ "segment_id": uuid, "max_doc": docs, "deletes": null })
}

/// A file of a segment in pages.
struct PageFile<S> {
    shared: Arc<Shared<S>>,
    map: Arc<SegmentMap>,
    part: Part,
}

impl<S> std::fmt::Debug for PageFile<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageFile({:032x}.{})", self.map.entry.id, self.part.extension())
    }
}

impl<S> HasLen for PageFile<S> {
    fn len(&self) -> usize {
        self.map.part_len(self.part)
    }
}

impl<S: PageStore + Send + Sync + 'static> FileHandle for PageFile<S> {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        if range.start > range.end || range.end > self.len() {
            let message = format!("range {range:?} of {} bytes", self.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.shared.read(&self.map, self.part, range).map_err(|error| {
            let message = error.to_string();
            *self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            io::Error::other(message)
        })
    }
}

impl<S: PageStore> Shared<S> {
    /// Reads bytes of a part; the range lies within it.
    fn read(
        &self,
        map: &SegmentMap,
        part: Part,
        range: Range<usize>,
    ) -> Result<OwnedBytes, Bm25Error> {
        let key = (map.entry.id, part as u8, range.start, range.end);
        let known = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(key);
        if let Some(bytes) = known {
            return Ok(bytes);
        }
        let bytes = OwnedBytes::new(map.read(&*self.store, part, range)?);
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).put(key, bytes.clone());
        Ok(bytes)
    }
}

impl Cache {
    fn new(limit: usize) -> Self {
        Self { limit, young_bytes: 0, young: HashMap::new(), old: HashMap::new() }
    }

    fn get(&mut self, key: RangeKey) -> Option<OwnedBytes> {
        if let Some(bytes) = self.young.get(&key) {
            return Some(bytes.clone());
        }
        let bytes = self.old.remove(&key)?;
        self.put(key, bytes.clone());
        Some(bytes)
    }

    fn put(&mut self, key: RangeKey, bytes: OwnedBytes) {
        let half = self.limit / 2;
        if bytes.len() > half {
            return;
        }
        if self.young_bytes + bytes.len() > half {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes.len();
        self.young.insert(key, bytes);
    }
}

impl<S: PageStore + Send + Sync + 'static> Directory for PageDirectory<S> {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let missing = || OpenReadError::FileDoesNotExist(path.to_owned());
        let name = path.file_stem().and_then(|stem| stem.to_str()).ok_or_else(missing)?;
        let extension = path.extension().and_then(|ext| ext.to_str()).ok_or_else(missing)?;
        match (self.segments.get(name).ok_or_else(missing)?, extension) {
            (Source::Memory(memory), _) => memory.directory.get_file_handle(path),
            (Source::Pages(_), "store") => {
                let bytes = empty_store().map_err(|error| {
                    OpenReadError::wrap_io_error(
                        io::Error::other(error.to_string()),
                        path.to_owned(),
                    )
                })?;
                Ok(Arc::new(bytes))
            }
            (Source::Pages(map), extension) => {
                let part = Part::from_extension(extension).ok_or_else(missing)?;
                let (shared, map) = (Arc::clone(&self.shared), Arc::clone(map));
                Ok(Arc::new(PageFile { shared, map, part }))
            }
        }
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        match self.get_file_handle(path) {
            Ok(_) => Ok(true),
            Err(OpenReadError::FileDoesNotExist(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        if path == Path::new("meta.json") {
            Ok(self.meta.to_vec())
        } else {
            Err(OpenReadError::FileDoesNotExist(path.to_owned()))
        }
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        Err(DeleteError::IoError { io_error: Arc::new(read_only()), filepath: path.to_owned() })
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        Err(OpenWriteError::wrap_io_error(read_only(), path.to_owned()))
    }

    fn atomic_write(&self, _path: &Path, _data: &[u8]) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn acquire_lock(&self, _lock: &Lock) -> Result<DirectoryLock, LockError> {
        // Nothing collects the files of a read-only directory, so nothing needs the lock.
        Ok(DirectoryLock::from(Box::new(())))
    }

    fn watch(&self, _watch_callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "segments are immutable")
}
