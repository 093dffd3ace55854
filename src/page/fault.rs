//! A store that fails on demand: every transaction's commit, extension or page lock counts as one
//! write, and the n-th fails as a full disk would, leaving all pages as they were.

use super::{BlockNumber, LockMode, MemoryStore, PageError, PageStore, PageTxn, UpdateLock, Wait};
use std::sync::atomic::{AtomicU64, Ordering};

/// Never fail.
const NEVER: u64 = u64::MAX;

/// Wraps a [`MemoryStore`] and injects [`PageError::Injected`] at a chosen write.
pub struct FaultStore {
    inner: MemoryStore,
    writes: AtomicU64,
    fail_at: AtomicU64,
}

impl FaultStore {
    /// Wraps `inner`; nothing fails until [`FaultStore::fail_at`] says so.
    pub fn new(inner: MemoryStore) -> Self {
        Self { inner, writes: AtomicU64::new(0), fail_at: AtomicU64::new(NEVER) }
    }

    /// Restarts the count and fails the `nth` write from now (counted from 0), once.
    pub fn fail_at(&self, nth: u64) {
        self.writes.store(0, Ordering::SeqCst);
        self.fail_at.store(nth, Ordering::SeqCst);
    }

    /// Stops failing.
    pub fn heal(&self) {
        self.fail_at.store(NEVER, Ordering::SeqCst);
    }

    /// Writes counted since the last [`FaultStore::fail_at`].
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// The pages as they are.
    pub fn inner(&self) -> &MemoryStore {
        &self.inner
    }

    fn count_write(&self) -> Result<(), PageError> {
        let write = self.writes.fetch_add(1, Ordering::SeqCst);
        if write == self.fail_at.load(Ordering::SeqCst) {
            return Err(PageError::Injected(write));
        }
        Ok(())
    }
}

impl PageStore for FaultStore {
    type Pin<'s> = <MemoryStore as PageStore>::Pin<'s>;
    type Txn<'s> = FaultTxn<'s>;

    fn page_count(&self) -> Result<BlockNumber, PageError> {
        self.inner.page_count()
    }

    fn pin(&self, blkno: BlockNumber) -> Result<Self::Pin<'_>, PageError> {
        self.inner.pin(blkno)
    }

    fn begin(&self) -> Result<FaultTxn<'_>, PageError> {
        Ok(FaultTxn { store: self, inner: self.inner.begin()? })
    }

    fn last_address(&self, blkno: BlockNumber) -> *const u8 {
        self.inner.last_address(blkno)
    }

    fn pin_budget(&self) -> usize {
        self.inner.pin_budget()
    }

    fn reuse_stamp(&self) -> u64 {
        self.inner.reuse_stamp()
    }

    fn is_reusable(&self, stamp: u64) -> bool {
        self.inner.is_reusable(stamp)
    }

    fn lock_updates(&self, mode: LockMode) -> Result<UpdateLock<'_>, PageError> {
        self.inner.lock_updates(mode)
    }

    fn lock_maintenance(&self, wait: Wait) -> Result<Option<UpdateLock<'_>>, PageError> {
        self.inner.lock_maintenance(wait)
    }

    fn check_interrupts(&self) -> Result<(), PageError> {
        self.inner.check_interrupts()
    }
}

/// A transaction on a [`FaultStore`].
pub struct FaultTxn<'s> {
    store: &'s FaultStore,
    inner: <MemoryStore as PageStore>::Txn<'s>,
}

impl PageTxn for FaultTxn<'_> {
    fn page(&mut self, blkno: BlockNumber) -> Result<&mut [u8], PageError> {
        self.store.count_write()?;
        self.inner.page(blkno)
    }

    fn extend(&mut self) -> Result<BlockNumber, PageError> {
        self.store.count_write()?;
        self.inner.extend()
    }

    fn commit(self) -> Result<(), PageError> {
        self.store.count_write()?;
        self.inner.commit()
    }
}
