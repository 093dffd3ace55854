//! Shared buffers in a form that outlives one call.
//!
//! tantivy's readers keep the store that they read from, and ask that it be usable on any thread. A
//! backend has one thread, and the relation behind its buffers is open only during calls. So the
//! store is a place that each call fills with the open relation ([`BackendStore::attach`]) and empties
//! when it ends; between calls, and on any other thread, reading is an error.

use crate::pg::buffers::{BufferPin, BufferTxn, SharedBuffers};
use distilface_core::page::{BlockNumber, LockMode, PageError, PageStore, UpdateLock, Wait};
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The place of an index's buffers.
pub struct BackendStore {
    buffers: UnsafeCell<Option<Box<SharedBuffers>>>,
    /// Pages that the index had when it was read last: it never has fewer.
    pages: AtomicU32,
    thread: usize,
}

thread_local! {
    static HERE: u8 = const { 0 };
}

/// Tells threads apart, faster than their ids do.
fn this_thread() -> usize {
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

// SAFETY: every access checks that it is on the thread that made the store.
unsafe impl Send for BackendStore {}
// SAFETY: as above.
unsafe impl Sync for BackendStore {}

/// Keeps buffers in their place; dropping it puts back what was there before.
pub struct Attached {
    store: Arc<BackendStore>,
    before: Option<Box<SharedBuffers>>,
}

impl BackendStore {
    /// An empty place.
    pub fn new() -> Arc<Self> {
        let (buffers, pages) = (UnsafeCell::new(None), AtomicU32::new(0));
        Arc::new(Self { buffers, pages, thread: this_thread() })
    }

    /// Puts an open relation's buffers in the place until the result is dropped.
    pub fn attach(self: &Arc<Self>, buffers: SharedBuffers) -> Attached {
        assert!(self.is_own_thread(), "a backend's store is attached on its own thread");
        let buffers = Box::new(buffers.with_page_count(self.pages.load(Ordering::Relaxed)));
        // SAFETY: on the only thread. References into the old box stay valid: it moves into the
        // guard, not out of its allocation.
        let before = unsafe { (*self.buffers.get()).replace(buffers) };
        Attached { store: Arc::clone(self), before }
    }

    fn is_own_thread(&self) -> bool {
        this_thread() == self.thread
    }

    fn attached(&self) -> Result<&SharedBuffers, PageError> {
        let message = if self.is_own_thread() {
            // SAFETY: on the only thread; the box stays where it is for as long as its guard lives,
            // which is longer than the call that reads.
            match unsafe { (*self.buffers.get()).as_deref() } {
                Some(buffers) => return Ok(buffers),
                None => "the index is not open",
            }
        } else {
            "the index was read on a foreign thread"
        };
        Err(PageError::Io(std::io::Error::other(message)))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.store.is_own_thread() {
            // SAFETY: on the only thread; calls nest, so nobody reads through this guard's box now.
            let buffers =
                unsafe { std::mem::replace(&mut *self.store.buffers.get(), self.before.take()) };
            if let Some(buffers) = buffers {
                self.store.pages.fetch_max(buffers.known_page_count(), Ordering::Relaxed);
            }
        }
    }
}

impl PageStore for BackendStore {
    type Pin<'s> = BufferPin;
    type Txn<'s> = BufferTxn<'s>;

    fn page_count(&self) -> Result<BlockNumber, PageError> {
        self.attached()?.page_count()
    }

    fn pin(&self, blkno: BlockNumber) -> Result<BufferPin, PageError> {
        self.attached()?.pin(blkno)
    }

    fn begin(&self) -> Result<BufferTxn<'_>, PageError> {
        self.attached()?.begin()
    }

    fn prefetch(&self, blknos: &[BlockNumber]) {
        if let Ok(buffers) = self.attached() {
            buffers.prefetch(blknos);
        }
    }

    fn reuse_stamp(&self) -> u64 {
        // Without buffers there is nothing to stamp: the transaction that asked fails.
        self.attached().map_or(u64::MAX, PageStore::reuse_stamp)
    }

    fn is_reusable(&self, stamp: u64) -> bool {
        self.attached().is_ok_and(|buffers| buffers.is_reusable(stamp))
    }

    fn lock_updates(&self, mode: LockMode) -> Result<UpdateLock<'_>, PageError> {
        self.attached()?.lock_updates(mode)
    }

    fn lock_maintenance(&self, wait: Wait) -> Result<Option<UpdateLock<'_>>, PageError> {
        self.attached()?.lock_maintenance(wait)
    }

    fn failpoint(&self, name: &'static str) -> Result<(), PageError> {
        self.attached()?.failpoint(name)
    }

    fn check_interrupts(&self) -> Result<(), PageError> {
        self.attached()?.check_interrupts()
    }
}
