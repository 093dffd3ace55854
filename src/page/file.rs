//! Pages in a file, with a write-ahead log: what the embedded index stands on.
//!
//! All pages are kept in memory (a [`MemoryStore`]); the file is what they are read from when the
//! store is opened. A transaction is appended to the log as one record of whole pages with a
//! checksum before its pages change in memory. [`FileStore::sync`] makes every transaction up to now
//! durable, [`FileStore::checkpoint`] moves the log's pages into the page file. Opening replays the
//! log up to the first record that is not whole, so that after a crash the pages are those of some
//! moment at or after the last sync.
//!
//! Page file: pages of [`PAGE_SIZE`] bytes, whose first [`PAGE_HEADER`] are: magic `DFPG` (4), CRC-32
//! of the content (4), zeros. Log record: magic `DFWL` (4), page count (4), then for each page its
//! number (4) and content, then the CRC-32 of all that (4). Integers are little-endian.
//!
//! One process at a time has a store open, by a lock on the log file.

use super::memory::MemoryTxn;
use super::{
    BlockNumber, LockMode, MAX_TXN_PAGES, MemoryStore, PAGE_CONTENT, PAGE_HEADER, PAGE_SIZE,
    PageError, PagePin, PageStore, PageTxn, UpdateLock, Wait,
};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

const PAGE_MAGIC: [u8; 4] = *b"DFPG";
const LOG_MAGIC: [u8; 4] = *b"DFWL";
/// Log bytes past which a commit moves the pages into the page file.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// Pages in a file.
///
/// Transactions hold `gate` shared; a checkpoint holds it alone, so that no page is locked then.
pub struct FileStore {
    memory: MemoryStore,
    files: Mutex<Files>,
    gate: RwLock<()>,
}

struct Files {
    pages: File,
    log: File,
    log_len: u64,
    /// Pages in the log that are not in the page file yet.
    dirty: BTreeSet<BlockNumber>,
    /// A log that could not be brought back to its last whole record takes no more.
    broken: bool,
}

impl FileStore {
    /// Opens `path` and its log `path` + `.wal`, and makes them where they are missing.
    ///
    /// # Errors
    /// [`PageError::Io`] where another process has it open or the files cannot be read;
    /// [`PageError::Corrupt`] where a page's checksum is wrong.
    pub fn open(path: &Path) -> Result<Self, PageError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut log_path = path.as_os_str().to_owned();
        log_path.push(".wal");
        let log = options.open(&log_path)?;
        log.try_lock().map_err(std::io::Error::from)?;
        let pages = options.open(path)?;
        let mut files = Files { pages, log, log_len: 0, dirty: BTreeSet::new(), broken: false };
        let mut contents = files.read_pages()?;
        let logged = files.replay(&mut contents)?;
        let memory = MemoryStore::new();
        for (blkno, page) in contents.into_iter().enumerate() {
            if let Some(got) = page.problem {
                let (blkno, expected) = (blkno as BlockNumber, "a whole page");
                return Err(PageError::Corrupt { blkno, offno: 0, expected, got });
            }
            memory.push(*page.content);
        }
        files.dirty = logged;
        let store = Self { memory, files: Mutex::new(files), gate: RwLock::new(()) };
        store.checkpoint()?;
        Ok(store)
    }

    /// Makes every transaction committed so far durable.
    ///
    /// # Errors
    /// What the file system raises.
    pub fn sync(&self) -> Result<(), PageError> {
        let files = self.files.lock();
        files.check_broken()?;
        files.log.sync_data()?;
        Ok(())
    }

    /// Moves the pages of the log into the page file and empties the log. Waits for the
    /// transactions under way and holds up new ones.
    ///
    /// # Errors
    /// What the file system raises; the log then still has all of it.
    pub fn checkpoint(&self) -> Result<(), PageError> {
        let _no_transactions = self.gate.write();
        let mut files = self.files.lock();
        files.check_broken()?;
        // The log first: a page file that is torn by a crash is mended from it.
        files.log.sync_data()?;
        for blkno in std::mem::take(&mut files.dirty) {
            let written = files.write_page(blkno, &self.memory.pin(blkno)?.lock_shared());
            if let Err(error) = written {
                files.dirty.insert(blkno);
                return Err(error.into());
            }
        }
        files.pages.sync_data()?;
        files.truncate_log(0)?;
        Ok(())
    }
}

impl Files {
    fn check_broken(&self) -> Result<(), PageError> {
        if self.broken {
            return Err(PageError::Io(std::io::Error::other("the log failed earlier")));
        }
        Ok(())
    }

    /// Reads the page file; checksums are looked at when the log has been replayed.
    fn read_pages(&mut self) -> Result<Vec<FilePage>, PageError> {
        let mut bytes = Vec::new();
        self.pages.read_to_end(&mut bytes)?;
        Ok(bytes.chunks(PAGE_SIZE).map(FilePage::read).collect())
    }

    /// Puts the log's whole records into `pages`; gives the pages' numbers.
    fn replay(&mut self, pages: &mut Vec<FilePage>) -> Result<BTreeSet<BlockNumber>, PageError> {
        let mut bytes = Vec::new();
        self.log.read_to_end(&mut bytes)?;
        let mut replayed = BTreeSet::new();
        let mut rest = &bytes[..];
        while let Some((record, after)) = split_record(rest) {
            for change in record.chunks(4 + PAGE_CONTENT) {
                let (blkno, content) = change.split_at(4);
                let blkno = u32::from_le_bytes(blkno.try_into().expect("four bytes"));
                while pages.len() <= blkno as usize {
                    pages.push(FilePage::read(&[]));
                }
                pages[blkno as usize] = FilePage {
                    content: Box::new(content.try_into().expect("a page's content")),
                    problem: None,
                };
                replayed.insert(blkno);
            }
            rest = after;
        }
        self.log_len = (bytes.len() - rest.len()) as u64;
        self.truncate_log(self.log_len)?;
        Ok(replayed)
    }

    fn append<'a>(
        &mut self,
        changes: impl Iterator<Item = (BlockNumber, &'a [u8])>,
    ) -> Result<(), PageError> {
        self.check_broken()?;
        let mut record = Vec::with_capacity(16 + 2 * PAGE_SIZE);
        record.extend_from_slice(&LOG_MAGIC);
        record.extend_from_slice(&[0; 4]);
        let mut count = 0u32;
        let mut numbers = Vec::new();
        for (blkno, content) in changes {
            record.extend_from_slice(&blkno.to_le_bytes());
            record.extend_from_slice(content);
            numbers.push(blkno);
            count += 1;
        }
        record[4..8].copy_from_slice(&count.to_le_bytes());
        let checksum = crc32fast::hash(&record);
        record.extend_from_slice(&checksum.to_le_bytes());
        if let Err(error) = self.log.write_all(&record) {
            // Half a record must not stay in front of later ones.
            self.broken = self.truncate_log(self.log_len).is_err();
            return Err(error.into());
        }
        self.log_len += record.len() as u64;
        self.dirty.extend(numbers);
        Ok(())
    }

    fn truncate_log(&mut self, len: u64) -> std::io::Result<()> {
        self.log.set_len(len)?;
        self.log.seek(SeekFrom::Start(len))?;
        self.log_len = len;
        Ok(())
    }

    fn write_page(&mut self, blkno: BlockNumber, content: &[u8]) -> std::io::Result<()> {
        let mut page = [0; PAGE_SIZE];
        page[..4].copy_from_slice(&PAGE_MAGIC);
        page[4..8].copy_from_slice(&crc32fast::hash(content).to_le_bytes());
        page[PAGE_HEADER..].copy_from_slice(content);
        self.pages.seek(SeekFrom::Start(u64::from(blkno) * PAGE_SIZE as u64))?;
        self.pages.write_all(&page)
    }
}

/// A page as it lies in the file.
struct FilePage {
    content: Box<[u8; PAGE_CONTENT]>,
    problem: Option<String>,
}

impl FilePage {
    /// `bytes` are a page's, or the rest of a file that ends within one. A page of zeros lies where
    /// only later pages were written.
    fn read(bytes: &[u8]) -> Self {
        let mut content = Box::new([0; PAGE_CONTENT]);
        if bytes.iter().all(|&byte| byte == 0) {
            return Self { content, problem: None };
        }
        if bytes.len() < PAGE_SIZE {
            let problem = Some(format!("a page of {} bytes", bytes.len()));
            return Self { content, problem };
        }
        content.copy_from_slice(&bytes[PAGE_HEADER..]);
        let checksum = crc32fast::hash(&content[..]).to_le_bytes();
        let whole = bytes[..4] == PAGE_MAGIC && bytes[4..8] == checksum;
        Self { content, problem: (!whole).then(|| "another checksum".to_owned()) }
    }
}

/// The first whole record's changes and what comes after it.
fn split_record(log: &[u8]) -> Option<(&[u8], &[u8])> {
    let (magic, rest) = log.split_at_checked(4)?;
    let (count, rest) = rest.split_at_checked(4)?;
    let count = u32::from_le_bytes(count.try_into().expect("four bytes")) as usize;
    if magic != LOG_MAGIC || count > MAX_TXN_PAGES {
        return None;
    }
    let (changes, rest) = rest.split_at_checked(count * (4 + PAGE_CONTENT))?;
    let (checksum, rest) = rest.split_at_checked(4)?;
    let expected = crc32fast::hash(&log[..8 + changes.len()]).to_le_bytes();
    (checksum == expected).then_some((changes, rest))
}

impl PageStore for FileStore {
    type Pin<'s> = <MemoryStore as PageStore>::Pin<'s>;
    type Txn<'s> = FileTxn<'s>;

    fn page_count(&self) -> Result<BlockNumber, PageError> {
        self.memory.page_count()
    }

    fn pin(&self, blkno: BlockNumber) -> Result<Self::Pin<'_>, PageError> {
        self.memory.pin(blkno)
    }

    fn begin(&self) -> Result<FileTxn<'_>, PageError> {
        let gate = self.gate.read();
        Ok(FileTxn { store: self, inner: self.memory.begin()?, gate })
    }

    fn last_address(&self, blkno: BlockNumber) -> *const u8 {
        self.memory.last_address(blkno)
    }

    fn pin_budget(&self) -> usize {
        self.memory.pin_budget()
    }

    fn reuse_stamp(&self) -> u64 {
        self.memory.reuse_stamp()
    }

    fn lock_updates(&self, mode: LockMode) -> Result<UpdateLock<'_>, PageError> {
        self.memory.lock_updates(mode)
    }

    fn lock_maintenance(&self, wait: Wait) -> Result<Option<UpdateLock<'_>>, PageError> {
        self.memory.lock_maintenance(wait)
    }

    fn check_interrupts(&self) -> Result<(), PageError> {
        self.memory.check_interrupts()
    }
}

/// A transaction on a [`FileStore`].
pub struct FileTxn<'s> {
    store: &'s FileStore,
    inner: MemoryTxn<'s>,
    gate: RwLockReadGuard<'s, ()>,
}

impl PageTxn for FileTxn<'_> {
    fn page(&mut self, blkno: BlockNumber) -> Result<&mut [u8], PageError> {
        self.inner.page(blkno)
    }

    fn extend(&mut self) -> Result<BlockNumber, PageError> {
        self.inner.extend()
    }

    fn commit(self) -> Result<(), PageError> {
        let Self { store, inner, gate } = self;
        // Records of one page come in the order of its changes: its lock is held meanwhile.
        let log_len = {
            let mut files = store.files.lock();
            files.append(inner.changes())?;
            files.log_len
        };
        inner.commit()?;
        drop(gate);
        if log_len > CHECKPOINT_BYTES {
            store.checkpoint()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(std::path::PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let dir =
                std::env::temp_dir().join(format!("distilface-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a directory");
            Self(dir)
        }

        fn pages(&self) -> std::path::PathBuf {
            self.0.join("pages")
        }

        fn log(&self) -> std::path::PathBuf {
            self.0.join("pages.wal")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn write(store: &FileStore, blkno: Option<BlockNumber>, value: u8) -> BlockNumber {
        let mut txn = store.begin().expect("begun");
        let blkno = blkno.unwrap_or_else(|| txn.extend().expect("extended"));
        txn.page(blkno).expect("locked").fill(value);
        txn.commit().expect("committed");
        blkno
    }

    fn value(store: &FileStore, blkno: BlockNumber) -> u8 {
        let pin = store.pin(blkno).expect("pinned");
        let page = pin.lock_shared();
        assert!(page.iter().all(|&byte| byte == page[0]));
        page[0]
    }

    #[test]
    fn a_log_cut_anywhere_gives_a_prefix_of_the_transactions() {
        let place = Place::new("cut");
        let store = FileStore::open(&place.pages()).expect("opened");
        let page = write(&store, None, 1);
        store.checkpoint().expect("moved");
        for value in 2..6 {
            write(&store, Some(page), value);
        }
        drop(store);
        let log = std::fs::read(place.log()).expect("a log");
        let record = log.len() / 4;
        for cut in (0..=log.len()).step_by(997) {
            std::fs::write(place.log(), &log[..cut]).expect("written");
            let pages = std::fs::read(place.pages()).expect("pages");
            let store = FileStore::open(&place.pages()).expect("opened");
            assert_eq!(usize::from(value(&store, page)), 1 + cut / record, "cut at {cut}");
            drop(store);
            std::fs::write(place.pages(), pages).expect("written");
        }
    }

    #[test]
    fn a_torn_page_is_mended_from_the_log_and_an_error_without_it() {
        let place = Place::new("torn");
        let store = FileStore::open(&place.pages()).expect("opened");
        let page = write(&store, None, 7);
        drop(store);
        let log = std::fs::read(place.log()).expect("a log");
        drop(FileStore::open(&place.pages()).expect("opened, which moves the log's pages"));
        let mut pages = std::fs::read(place.pages()).expect("pages");
        pages[4000..].fill(0);
        std::fs::write(place.pages(), &pages).expect("written");
        assert!(matches!(FileStore::open(&place.pages()), Err(PageError::Corrupt { .. })));
        std::fs::write(place.log(), log).expect("written");
        assert_eq!(value(&FileStore::open(&place.pages()).expect("opened"), page), 7);
    }

    #[test]
    fn a_second_opening_is_refused() {
        let place = Place::new("twice");
        let _store = FileStore::open(&place.pages()).expect("opened");
        assert!(matches!(FileStore::open(&place.pages()), Err(PageError::Io(_))));
    }
}
