//! The page abstraction under every index: fixed 8 KiB pages, read under a shared lock, changed in
//! atomic transactions of at most [`MAX_TXN_PAGES`] pages.
//!
//! PostgreSQL's buffer manager with generic WAL is one implementation (in the extension); memory,
//! file and fault stores are the others. A page's first [`PAGE_HEADER`] bytes belong to the store
//! (PostgreSQL's `PageHeaderData`); the algorithms see the [`PAGE_CONTENT`] bytes after it.
//!
//! A page that was appended by a transaction which never committed reads as zeros. No byte of the
//! content is a hole: a store that drops unused space (PostgreSQL between `pd_lower` and
//! `pd_upper`) has to mark all of it as used.
//!
//! A transaction is all or nothing, also across a crash. Since it covers four pages at most (the
//! limit of one generic WAL record), an algorithm that changes more must leave a valid structure
//! after each commit.

mod fault;
mod file;
mod memory;

pub use fault::FaultStore;
pub use file::FileStore;
pub use memory::MemoryStore;

use std::ops::Deref;

/// A page's number within its index, counted from 0.
pub type BlockNumber = u32;

/// Bytes in a page, PostgreSQL's default `BLCKSZ`.
pub const PAGE_SIZE: usize = 8192;
/// Bytes at the start of a page that belong to the store.
pub const PAGE_HEADER: usize = 24;
/// Bytes of a page that the algorithms read and write.
pub const PAGE_CONTENT: usize = PAGE_SIZE - PAGE_HEADER;
/// Pages that one transaction can change (`MAX_GENERIC_XLOG_PAGES`).
pub const MAX_TXN_PAGES: usize = 4;

/// A row's place in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeapTid {
    /// Page of the table.
    pub block: BlockNumber,
    /// Line pointer in the page, counted from 1.
    pub offset: u16,
}

/// What went wrong below an algorithm.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The page does not hold what its place in the structure calls for.
    #[error("corrupt page {blkno}, item {offno}: expected {expected}, got {got}")]
    Corrupt { blkno: BlockNumber, offno: u16, expected: &'static str, got: String },
    /// The page number is past the end of the index.
    #[error("page {blkno} is past the end of the index, which has {page_count} pages")]
    OutOfRange { blkno: BlockNumber, page_count: BlockNumber },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The medium failed.
    #[error("page store: {0}")]
    Io(#[from] std::io::Error),
    /// A fault store was told to fail here.
    #[error("injected fault at write {0}")]
    Injected(u64),
}

/// An index's pages.
///
/// Content locks are held by the guards: a [`PagePin::lock_shared`] guard and a transaction that
/// has the same page must not be alive at once on one thread (it deadlocks on itself).
pub trait PageStore {
    /// A page kept in memory, not locked.
    type Pin<'s>: PagePin
    where
        Self: 's;
    /// A transaction under way.
    type Txn<'s>: PageTxn
    where
        Self: 's;

    /// Pages in the index now.
    fn page_count(&self) -> Result<BlockNumber, PageError>;

    /// Pins a page: one buffer access in PostgreSQL.
    fn pin(&self, blkno: BlockNumber) -> Result<Self::Pin<'_>, PageError>;

    /// Starts a transaction.
    fn begin(&self) -> Result<Self::Txn<'_>, PageError>;

    /// Tells the store that these pages will be pinned soon. A hint: it may do nothing.
    fn prefetch(&self, _blknos: &[BlockNumber]) {}

    /// Where the page's content was when it was last pinned, for prefetching it into the CPU's cache:
    /// nothing may be read there, since another page may have come in its place. Null where the store
    /// does not know.
    fn last_address(&self, _blkno: BlockNumber) -> *const u8 {
        std::ptr::null()
    }

    /// Pages that one operation may have pinned at a time.
    fn pin_budget(&self) -> usize {
        512
    }

    /// A stamp of now for space that was just freed. PostgreSQL: the next full transaction id.
    fn reuse_stamp(&self) -> u64 {
        0
    }

    /// Whether space freed at `stamp` may be filled again: no scan that began before is still
    /// running. PostgreSQL: no snapshot can need it (`GlobalVisCheckRemovableFullXid`). A scan on a
    /// standby may still meet reused space, so readers check generations in any case.
    fn is_reusable(&self, _stamp: u64) -> bool {
        true
    }

    /// Takes the lock that every insert holds in shared mode from its first read to its last
    /// write, and that vacuum takes exclusively for a moment, to wait out the inserts which began
    /// before it marked nodes dead. Taken with no content lock held; released on drop.
    /// PostgreSQL: `LockPage` on the metapage. A store with one writer at a time needs none.
    fn lock_updates(&self, _mode: LockMode) -> Result<UpdateLock<'_>, PageError> {
        Ok(UpdateLock::none())
    }

    /// Takes the lock of whoever rearranges the index as a whole (merges segments), one at a time;
    /// inserts go on beside it. Nothing where another has it and the caller does not wait. Taken
    /// before [`PageStore::lock_updates`], with no content lock held; released on drop.
    /// PostgreSQL: `LockPage` on page 1. A store with one writer at a time needs none.
    fn lock_maintenance(&self, _wait: Wait) -> Result<Option<UpdateLock<'_>>, PageError> {
        Ok(Some(UpdateLock::none()))
    }

    /// A named moment between two writes, for tests to fail, stop or wait at; see the callers. Called
    /// with no content lock held.
    fn failpoint(&self, _name: &'static str) -> Result<(), PageError> {
        Ok(())
    }

    /// Ends the operation with [`PageError::Interrupted`] (or, in PostgreSQL, by raising its own
    /// error) where the user asked for it. Never called with a content lock held.
    fn check_interrupts(&self) -> Result<(), PageError>;
}

/// How [`PageStore::lock_updates`] is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// By inserts, many at once.
    Shared,
    /// By vacuum, alone.
    Exclusive,
}

/// Whether [`PageStore::lock_maintenance`] waits for another's work to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Yes,
    No,
}

/// The lock of [`PageStore::lock_updates`] or [`PageStore::lock_maintenance`]; dropping it releases
/// it.
pub struct UpdateLock<'s> {
    _held: Option<Box<dyn Held + 's>>,
}

impl<'s> UpdateLock<'s> {
    /// A lock that a store with a single writer hands out.
    pub fn none() -> Self {
        Self { _held: None }
    }

    /// A lock that dropping `guard` releases.
    pub fn held(guard: impl Sized + 's) -> Self {
        Self { _held: Some(Box::new(guard)) }
    }
}

/// Anything that is held until dropped.
trait Held {}
impl<T> Held for T {}

/// A pinned page: it stays in memory until dropped, and may change whenever it is not locked.
pub trait PagePin {
    /// The page's content under a shared lock.
    type Guard<'p>: Deref<Target = [u8]>
    where
        Self: 'p;

    /// Locks the content for reading; [`PAGE_CONTENT`] bytes.
    fn lock_shared(&self) -> Self::Guard<'_>;
}

/// An atomic change of up to [`MAX_TXN_PAGES`] pages.
///
/// [`PageTxn::commit`] makes it durable; dropping it instead leaves every page as it was, except
/// that pages which it appended stay behind, zeroed.
pub trait PageTxn: Sized {
    /// Locks the page exclusively, adds it to the transaction (once) and gives its content as
    /// changed so far. Callers lock in ascending page order.
    fn page(&mut self, blkno: BlockNumber) -> Result<&mut [u8], PageError>;

    /// Appends a zeroed page to the index and adds it to the transaction.
    fn extend(&mut self) -> Result<BlockNumber, PageError>;

    /// Applies all changes at once.
    fn commit(self) -> Result<(), PageError>;
}
