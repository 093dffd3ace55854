//! Pages in memory, for tests, benches and as the cache of the file store.
//!
//! Each page has its own reader-writer lock, held by guards and transactions exactly as
//! PostgreSQL's content locks are, so concurrent tests exercise the same lock order.

use super::{
    BlockNumber, LockMode, MAX_TXN_PAGES, PAGE_CONTENT, PageError, PagePin, PageStore, PageTxn,
    UpdateLock, Wait,
};
use parking_lot::{ArcRwLockWriteGuard, RawRwLock, RwLock, RwLockReadGuard};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// In one piece with its lock and its count of references: one place in memory to go to.
type Content = [u8; PAGE_CONTENT];
type SharedPage = Arc<RwLock<Content>>;

/// Pages in memory; usable from many threads at once.
pub struct MemoryStore {
    pages: RwLock<Vec<SharedPage>>,
    updates: Arc<RwLock<()>>,
    maintenance: Arc<RwLock<()>>,
    clock: AtomicU64,
    reuse_held: AtomicBool,
    interrupted: AtomicBool,
    pin_budget: AtomicUsize,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self {
            pages: RwLock::default(),
            updates: Arc::default(),
            maintenance: Arc::default(),
            clock: AtomicU64::new(0),
            reuse_held: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            pin_budget: AtomicUsize::new(512),
        }
    }
}

impl MemoryStore {
    /// A store with no pages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many pages an operation may have pinned at a time.
    pub fn set_pin_budget(&self, pages: usize) {
        self.pin_budget.store(pages, Ordering::Relaxed);
    }

    /// While held, no freed space counts as reusable, as under a long-running snapshot.
    pub fn hold_reuse(&self, held: bool) {
        self.reuse_held.store(held, Ordering::SeqCst);
    }

    /// Makes every following interrupt check fail, as a user's cancel does, until set back.
    pub fn interrupt(&self, interrupted: bool) {
        self.interrupted.store(interrupted, Ordering::SeqCst);
    }

    /// Copies every page; the copy shares nothing with the original.
    pub fn snapshot(&self) -> Self {
        let pages = self.pages.read();
        let copies = pages.iter().map(|page| Arc::new(RwLock::new(*page.read())));
        Self { pages: RwLock::new(copies.collect()), ..Self::default() }
    }

    /// Changes a page behind the algorithms' back, as a failing disk does.
    ///
    /// # Errors
    /// [`PageError::OutOfRange`] past the end.
    pub fn tamper(
        &self,
        blkno: BlockNumber,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), PageError> {
        change(&mut self.page(blkno)?.write()[..]);
        Ok(())
    }

    /// Appends a page read from elsewhere.
    pub(super) fn push(&self, content: [u8; PAGE_CONTENT]) {
        self.pages.write().push(Arc::new(RwLock::new(content)));
    }

    fn page(&self, blkno: BlockNumber) -> Result<SharedPage, PageError> {
        let pages = self.pages.read();
        pages
            .get(blkno as usize)
            .cloned()
            .ok_or(PageError::OutOfRange { blkno, page_count: pages.len() as BlockNumber })
    }
}

impl PageStore for MemoryStore {
    type Pin<'s> = MemoryPin;
    type Txn<'s> = MemoryTxn<'s>;

    fn page_count(&self) -> Result<BlockNumber, PageError> {
        Ok(self.pages.read().len() as BlockNumber)
    }

    fn pin(&self, blkno: BlockNumber) -> Result<MemoryPin, PageError> {
        Ok(MemoryPin(self.page(blkno)?))
    }

    fn begin(&self) -> Result<MemoryTxn<'_>, PageError> {
        Ok(MemoryTxn { store: self, pages: Vec::with_capacity(MAX_TXN_PAGES) })
    }

    fn last_address(&self, blkno: BlockNumber) -> *const u8 {
        let pages = self.pages.read();
        pages
            .get(blkno as usize)
            .map_or(std::ptr::null(), |page| page.data_ptr().cast_const().cast())
    }

    fn pin_budget(&self) -> usize {
        self.pin_budget.load(Ordering::Relaxed)
    }

    fn reuse_stamp(&self) -> u64 {
        // From 1: an algorithm may take 0 for space that never held anything.
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn is_reusable(&self, _stamp: u64) -> bool {
        !self.reuse_held.load(Ordering::SeqCst)
    }

    fn lock_updates(&self, mode: LockMode) -> Result<UpdateLock<'_>, PageError> {
        Ok(match mode {
            LockMode::Shared => UpdateLock::held(self.updates.read_arc()),
            LockMode::Exclusive => UpdateLock::held(self.updates.write_arc()),
        })
    }

    fn lock_maintenance(&self, wait: Wait) -> Result<Option<UpdateLock<'_>>, PageError> {
        Ok(match wait {
            Wait::Yes => Some(UpdateLock::held(self.maintenance.write_arc())),
            Wait::No => self.maintenance.try_write_arc().map(UpdateLock::held),
        })
    }

    fn check_interrupts(&self) -> Result<(), PageError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(PageError::Interrupted);
        }
        Ok(())
    }
}

/// A pin on a page of a [`MemoryStore`].
pub struct MemoryPin(SharedPage);

impl PagePin for MemoryPin {
    type Guard<'p> = MemoryGuard<'p>;

    fn lock_shared(&self) -> MemoryGuard<'_> {
        MemoryGuard(self.0.read())
    }
}

/// A page of a [`MemoryStore`] under its shared lock.
pub struct MemoryGuard<'p>(RwLockReadGuard<'p, Content>);

impl Deref for MemoryGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0[..]
    }
}

/// A transaction on a [`MemoryStore`]: works on copies, which commit installs while it holds every
/// page's lock.
pub struct MemoryTxn<'s> {
    store: &'s MemoryStore,
    pages: Vec<TxnPage>,
}

struct TxnPage {
    blkno: BlockNumber,
    copy: Box<Content>,
    locked: ArcRwLockWriteGuard<RawRwLock, Content>,
}

impl MemoryTxn<'_> {
    /// The pages changed so far with their new content, for a store that logs them first.
    pub(super) fn changes(&self) -> impl Iterator<Item = (BlockNumber, &[u8])> {
        self.pages.iter().map(|page| (page.blkno, &page.copy[..]))
    }

    fn add(&mut self, blkno: BlockNumber, page: &SharedPage) -> &mut [u8] {
        assert!(self.pages.len() < MAX_TXN_PAGES, "a transaction covers {MAX_TXN_PAGES} pages");
        let locked = page.write_arc();
        self.pages.push(TxnPage { blkno, copy: Box::new(*locked), locked });
        let last = self.pages.len() - 1;
        &mut self.pages[last].copy[..]
    }
}

impl PageTxn for MemoryTxn<'_> {
    fn page(&mut self, blkno: BlockNumber) -> Result<&mut [u8], PageError> {
        if let Some(at) = self.pages.iter().position(|page| page.blkno == blkno) {
            return Ok(&mut self.pages[at].copy[..]);
        }
        let page = self.store.page(blkno)?;
        Ok(self.add(blkno, &page))
    }

    fn extend(&mut self) -> Result<BlockNumber, PageError> {
        let page: SharedPage = Arc::new(RwLock::new([0; PAGE_CONTENT]));
        let mut pages = self.store.pages.write();
        let blkno = BlockNumber::try_from(pages.len())
            .map_err(|_| PageError::Io(std::io::ErrorKind::FileTooLarge.into()))?;
        pages.push(Arc::clone(&page));
        drop(pages);
        self.add(blkno, &page);
        Ok(blkno)
    }

    fn commit(self) -> Result<(), PageError> {
        for TxnPage { copy, mut locked, .. } in self.pages {
            locked.copy_from_slice(&copy[..]);
        }
        Ok(())
    }
}
