//! The core crate's page store over PostgreSQL's shared buffers.
//!
//! - A pin is a buffer pin; a guard is the buffer's content lock in shared mode.
//! - A transaction is one generic WAL record. It takes the content lock exclusively when a page
//!   joins, works on generic WAL's copy of the page, and installs all copies at commit.
//! - A page that PostgreSQL has extended but that no committed transaction filled (a crash came
//!   between) reads as zeros, as the trait says.
//! - While an index is being built nobody else sees it: with [`Logging::Deferred`] pages change in
//!   place and [`SharedBuffers::log_all_pages`] writes them to WAL once at the end.

use super::interrupts;
use distilface_core::page::{
    BlockNumber, LockMode, MAX_TXN_PAGES, PAGE_CONTENT, PAGE_HEADER, PAGE_SIZE, PageError, PagePin,
    PageStore, PageTxn, UpdateLock, Wait,
};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::panicking;

const _: () = assert!(PAGE_SIZE == pg_sys::BLCKSZ as usize);
const _: () = assert!(PAGE_HEADER == std::mem::offset_of!(pg_sys::PageHeaderData, pd_linp));
const _: () = assert!(MAX_TXN_PAGES == pg_sys::MAX_GENERIC_XLOG_PAGES as usize);

/// `P_NEW`: asks `ReadBuffer` to extend the relation.
const NEW_PAGE: BlockNumber = pg_sys::InvalidBlockNumber;

/// The page whose number [`PageStore::lock_updates`] locks.
const METAPAGE: BlockNumber = 0;
/// The page whose number [`PageStore::lock_maintenance`] locks.
const MAINTENANCE_PAGE: BlockNumber = 1;

/// `InvalidSubTransactionId`.
const NO_SUBTRANSACTION: pg_sys::SubTransactionId = 0;

/// When changed pages go to WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logging {
    /// With each transaction.
    Generic,
    /// All at once, by [`SharedBuffers::log_all_pages`]; only while nobody else can see the index.
    Deferred,
}

/// Whether an operation yields to the rest of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it goes.
    Full,
    /// Sleeps as `vacuum_cost_delay` says.
    Vacuum,
}

/// An index relation's pages in PostgreSQL's buffer pool. Borrows an open relation: the caller
/// keeps it open and locked for as long as this lives.
pub struct SharedBuffers {
    relation: pg_sys::Relation,
    fork: pg_sys::ForkNumber::Type,
    logging: Logging,
    pace: Pace,
    strategy: pg_sys::BufferAccessStrategy,
    page_count: Cell<BlockNumber>,
    /// Whether buffers are remembered from one read of a page to the next.
    remembers: bool,
    /// Whether each remembered buffer still held its page.
    buffers_last: Cell<bool>,
    reads: Cell<u32>,
}

impl SharedBuffers {
    /// The main fork of an open index.
    ///
    /// # Safety
    /// `relation` is a valid open relation and stays so while the value lives.
    pub unsafe fn new(relation: pg_sys::Relation, logging: Logging) -> Self {
        Self {
            relation,
            fork: pg_sys::ForkNumber::MAIN_FORKNUM,
            logging,
            pace: Pace::Full,
            strategy: std::ptr::null_mut(),
            page_count: Cell::new(0),
            // SAFETY: the caller's promise.
            remembers: unsafe { !is_temporary(relation) },
            buffers_last: Cell::new(true),
            reads: Cell::new(0),
        }
    }

    /// The init fork of an unlogged index, which a crash restores the main fork from.
    ///
    /// # Safety
    /// As for [`SharedBuffers::new`].
    pub unsafe fn init_fork(relation: pg_sys::Relation) -> Self {
        Self {
            relation,
            fork: pg_sys::ForkNumber::INIT_FORKNUM,
            logging: Logging::Deferred,
            pace: Pace::Full,
            strategy: std::ptr::null_mut(),
            page_count: Cell::new(0),
            remembers: false,
            buffers_last: Cell::new(true),
            reads: Cell::new(0),
        }
    }

    /// The main fork of an open index, for vacuum: reads through its ring of buffers and yields as
    /// `vacuum_cost_delay` says.
    ///
    /// # Safety
    /// As for [`SharedBuffers::new`]; `strategy` is null or lives as long.
    pub unsafe fn for_vacuum(
        relation: pg_sys::Relation,
        strategy: pg_sys::BufferAccessStrategy,
    ) -> Self {
        // SAFETY: the caller's promise.
        let store = unsafe { Self::new(relation, Logging::Generic) };
        // Its ring of buffers is for what passes by.
        Self { pace: Pace::Vacuum, strategy, remembers: false, ..store }
    }

    /// The same, with a number of pages that the index is known to have: asking for it is a system call.
    pub fn with_page_count(self, pages: BlockNumber) -> Self {
        self.page_count.set(pages);
        self
    }

    /// The number of pages that the index is known to have, for [`SharedBuffers::with_page_count`].
    pub fn known_page_count(&self) -> BlockNumber {
        self.page_count.get()
    }

    /// Writes every page of a [`Logging::Deferred`] index to WAL, where it needs one.
    pub fn log_all_pages(&self) {
        // SAFETY: the relation is open; the range is the whole fork; every page has a standard
        // header.
        unsafe {
            let init = self.fork == pg_sys::ForkNumber::INIT_FORKNUM;
            if init || needs_wal(self.relation) {
                let pages = pg_sys::RelationGetNumberOfBlocksInFork(self.relation, self.fork);
                pg_sys::log_newpage_range(self.relation, self.fork, 0, pages, true);
            }
        }
    }

    fn read_buffer(&self, blkno: BlockNumber) -> pg_sys::Buffer {
        // SAFETY: the relation is open, and stays so while the value lives.
        let place = unsafe { RecentBuffer::of(self.relation, blkno) };
        let may_be_recent = self.remembers && !self.reads.get().is_multiple_of(LOOKUP_INTERVAL);
        self.reads.set(self.reads.get().wrapping_add(1));
        if may_be_recent && place.0.load(Ordering::Relaxed) != 0 {
            // SAFETY: as above.
            if let Some(buffer) = unsafe { place.pin(self.relation, self.fork, blkno) } {
                return buffer;
            }
            self.buffers_last.set(false);
        }
        // SAFETY: the relation is open; PostgreSQL raises an error where the page cannot be read.
        let buffer = unsafe {
            pg_sys::ReadBufferExtended(
                self.relation,
                self.fork,
                blkno,
                pg_sys::ReadBufferMode::RBM_NORMAL,
                self.strategy,
            )
        };
        if self.remembers {
            place.remember(buffer);
        }
        buffer
    }

    fn check_range(&self, blkno: BlockNumber) -> Result<(), PageError> {
        if blkno >= self.page_count.get() && blkno >= self.page_count()? {
            let page_count = self.page_count.get();
            return Err(PageError::OutOfRange { blkno, page_count });
        }
        Ok(())
    }
}

/// Places for the buffers that this backend found pages in last, shared by all indexes.
const RECENT_BUFFERS: usize = 1 << 18;
/// One in so many page reads looks the page up as usual, which counts as a use of its buffer: pinning
/// by a remembered number does not, and pages in use must not look unused to the clock sweep.
const LOOKUP_INTERVAL: u32 = 16;

static RECENT: [AtomicI32; RECENT_BUFFERS] = [const { AtomicI32::new(0) }; RECENT_BUFFERS];

/// Where a page's buffer number is remembered. Finding a buffer by its page costs a hash, a partition
/// lock and a few cache misses; pinning one whose number is known costs a look at its tag, which tells
/// whether it still holds the page. Other pages may share the place: then the tag does not match.
struct RecentBuffer(&'static AtomicI32);

impl RecentBuffer {
    /// # Safety
    /// `relation` is open.
    unsafe fn of(relation: pg_sys::Relation, blkno: BlockNumber) -> Self {
        // SAFETY: the caller's promise.
        let relation = unsafe { (*relation).rd_id }.to_u32().wrapping_mul(0x9e37_79b1);
        Self(&RECENT[blkno.wrapping_add(relation) as usize % RECENT_BUFFERS])
    }

    /// Pins the remembered buffer if it holds the page.
    ///
    /// # Safety
    /// `relation` is open and not temporary: pages of temporary tables have tags of their own.
    unsafe fn pin(
        &self,
        relation: pg_sys::Relation,
        fork: pg_sys::ForkNumber::Type,
        blkno: BlockNumber,
    ) -> Option<pg_sys::Buffer> {
        let buffer = self.0.load(Ordering::Relaxed);
        // SAFETY: the number is 0 or that of a shared buffer, since only such are remembered; their
        // count is fixed when the server starts. The relation is open.
        unsafe {
            if buffer == 0 || !pg_sys::ReadRecentBuffer(locator(relation), fork, blkno, buffer) {
                return None;
            }
            count_hit(relation);
        }
        Some(buffer)
    }

    fn remember(&self, buffer: pg_sys::Buffer) {
        self.0.store(buffer, Ordering::Relaxed);
    }
}

#[cfg(feature = "pg15")]
unsafe fn locator(relation: pg_sys::Relation) -> pg_sys::RelFileNode {
    // SAFETY: the caller passes an open relation.
    unsafe { (*relation).rd_node }
}

#[cfg(not(feature = "pg15"))]
unsafe fn locator(relation: pg_sys::Relation) -> pg_sys::RelFileLocator {
    // SAFETY: the caller passes an open relation.
    unsafe { (*relation).rd_locator }
}

/// Counts a page found in its buffer, as `ReadBufferExtended` does.
unsafe fn count_hit(relation: pg_sys::Relation) {
    // SAFETY: the caller passes an open relation; its statistics are null or this backend's own.
    unsafe {
        let Some(statistics) = (*relation).pgstat_info.as_mut() else { return };
        #[cfg(feature = "pg15")]
        {
            statistics.t_counts.t_blocks_fetched += 1;
            statistics.t_counts.t_blocks_hit += 1;
        }
        #[cfg(not(feature = "pg15"))]
        {
            statistics.counts.blocks_fetched += 1;
            statistics.counts.blocks_hit += 1;
        }
    }
}

/// `RelationNeedsWAL`, which is a macro in C.
unsafe fn needs_wal(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller passes an open relation; its catalog row is always there.
    unsafe {
        let permanent = (*(*relation).rd_rel).relpersistence
            == pg_sys::RELPERSISTENCE_PERMANENT as std::ffi::c_char;
        let minimal = pg_sys::wal_level < pg_sys::WalLevel::WAL_LEVEL_REPLICA as i32;
        let skips = minimal
            && ((*relation).rd_createSubid != NO_SUBTRANSACTION
                || first_locator_subid(relation) != NO_SUBTRANSACTION);
        permanent && !skips
    }
}

#[cfg(feature = "pg15")]
unsafe fn first_locator_subid(relation: pg_sys::Relation) -> pg_sys::SubTransactionId {
    // SAFETY: the caller passes an open relation.
    unsafe { (*relation).rd_firstRelfilenodeSubid }
}

#[cfg(not(feature = "pg15"))]
unsafe fn first_locator_subid(relation: pg_sys::Relation) -> pg_sys::SubTransactionId {
    // SAFETY: the caller passes an open relation.
    unsafe { (*relation).rd_firstRelfilelocatorSubid }
}

impl PageStore for SharedBuffers {
    type Pin<'s> = BufferPin;
    type Txn<'s> = BufferTxn<'s>;

    fn page_count(&self) -> Result<BlockNumber, PageError> {
        // SAFETY: the relation is open.
        let pages = unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.relation, self.fork) };
        self.page_count.set(pages);
        Ok(pages)
    }

    fn pin(&self, blkno: BlockNumber) -> Result<BufferPin, PageError> {
        self.check_range(blkno)?;
        Ok(BufferPin { buffer: self.read_buffer(blkno) })
    }

    fn begin(&self) -> Result<BufferTxn<'_>, PageError> {
        let state = match self.logging {
            // SAFETY: the relation is open.
            Logging::Generic => unsafe { pg_sys::GenericXLogStart(self.relation) },
            Logging::Deferred => std::ptr::null_mut(),
        };
        Ok(BufferTxn { store: self, state, pages: [const { None }; MAX_TXN_PAGES] })
    }

    fn prefetch(&self, blknos: &[BlockNumber]) {
        for &blkno in blknos.iter().filter(|&&blkno| blkno < self.page_count.get()) {
            // To ask whether a page is in memory costs as much as to pin it: one that was there when
            // it was last looked for is taken to be there still, unless others proved to be gone.
            if self.buffers_last.get() && !self.last_address(blkno).is_null() {
                continue;
            }
            // SAFETY: the relation is open and the page exists.
            unsafe { pg_sys::PrefetchBuffer(self.relation, self.fork, blkno) };
        }
    }

    fn last_address(&self, blkno: BlockNumber) -> *const u8 {
        // SAFETY: the relation is open.
        let buffer = unsafe { RecentBuffer::of(self.relation, blkno) }.0.load(Ordering::Relaxed);
        if !self.remembers || buffer == 0 {
            return std::ptr::null();
        }
        // SAFETY: the number is that of a shared buffer, whose page has a fixed address.
        unsafe { pg_sys::BufferGetPage(buffer).cast_const().cast::<u8>().add(PAGE_HEADER) }
    }

    /// An equal share of the buffers for each process that may exist, so that scans of all of them
    /// together cannot pin the whole pool.
    fn pin_budget(&self) -> usize {
        // SAFETY: both are fixed when the server starts.
        let (buffers, backends) = unsafe { (pg_sys::NBuffers, pg_sys::MaxBackends) };
        usize::try_from(buffers / backends.max(1)).unwrap_or(0).clamp(16, 512)
    }

    fn reuse_stamp(&self) -> u64 {
        // SAFETY: reads shared memory under PostgreSQL's own lock.
        unsafe { pg_sys::ReadNextFullTransactionId() }.value
    }

    fn is_reusable(&self, stamp: u64) -> bool {
        let xid = pg_sys::FullTransactionId { value: stamp };
        // SAFETY: without a relation PostgreSQL answers for the most careful horizon.
        unsafe { pg_sys::GlobalVisCheckRemovableFullXid(std::ptr::null_mut(), xid) }
    }

    fn lock_updates(&self, mode: LockMode) -> Result<UpdateLock<'_>, PageError> {
        if self.logging == Logging::Deferred {
            return Ok(UpdateLock::none());
        }
        let lockmode = match mode {
            LockMode::Shared => pg_sys::ShareLock,
            LockMode::Exclusive => pg_sys::ExclusiveLock,
        };
        let relation = self.relation;
        // SAFETY: the relation is open; the lock manager raises an error on a deadlock or cancel.
        unsafe { pg_sys::LockPage(relation, METAPAGE, lockmode as pg_sys::LOCKMODE) };
        let lockmode = lockmode as pg_sys::LOCKMODE;
        Ok(UpdateLock::held(HeldPageLock { relation, page: METAPAGE, lockmode }))
    }

    fn lock_maintenance(&self, wait: Wait) -> Result<Option<UpdateLock<'_>>, PageError> {
        if self.logging == Logging::Deferred {
            return Ok(Some(UpdateLock::none()));
        }
        let (relation, page) = (self.relation, MAINTENANCE_PAGE);
        let lockmode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
        // SAFETY: the relation is open; the lock manager raises an error on a deadlock or cancel.
        let held = unsafe {
            match wait {
                Wait::Yes => {
                    pg_sys::LockPage(relation, page, lockmode);
                    true
                }
                Wait::No => pg_sys::ConditionalLockPage(relation, page, lockmode),
            }
        };
        Ok(held.then(|| UpdateLock::held(HeldPageLock { relation, page, lockmode })))
    }

    #[cfg(feature = "failpoints")]
    fn failpoint(&self, name: &'static str) -> Result<(), PageError> {
        super::failpoint::reached(name);
        Ok(())
    }

    fn check_interrupts(&self) -> Result<(), PageError> {
        interrupts::check();
        if self.pace == Pace::Vacuum {
            // SAFETY: called between pages with no content lock held, as vacuum code must.
            unsafe { vacuum_delay_point() };
        }
        Ok(())
    }
}

#[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17"))]
unsafe fn vacuum_delay_point() {
    // SAFETY: the caller holds no content lock.
    unsafe { pg_sys::vacuum_delay_point() }
}

#[cfg(feature = "pg18")]
unsafe fn vacuum_delay_point() {
    // SAFETY: the caller holds no content lock.
    unsafe { pg_sys::vacuum_delay_point(false) }
}

/// A heavyweight lock on a page's number.
struct HeldPageLock {
    relation: pg_sys::Relation,
    page: BlockNumber,
    lockmode: pg_sys::LOCKMODE,
}

impl Drop for HeldPageLock {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: taken by `lock_updates`; the store that borrowed the relation outlives this.
            unsafe { pg_sys::UnlockPage(self.relation, self.page, self.lockmode) };
        }
    }
}

/// A pinned buffer.
pub struct BufferPin {
    buffer: pg_sys::Buffer,
}

impl Drop for BufferPin {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: this value owns one pin on the buffer.
            unsafe { pg_sys::ReleaseBuffer(self.buffer) };
        }
    }
}

impl PagePin for BufferPin {
    type Guard<'p> = BufferGuard<'p>;

    fn lock_shared(&self) -> BufferGuard<'_> {
        // SAFETY: the buffer is pinned for as long as the guard lives.
        unsafe { pg_sys::LockBuffer(self.buffer, pg_sys::BUFFER_LOCK_SHARE as i32) };
        BufferGuard { pin: self }
    }
}

/// A buffer's content under a shared lock.
pub struct BufferGuard<'p> {
    pin: &'p BufferPin,
}

impl Deref for BufferGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: pinned and share-locked, so the bytes stay in place and nobody changes them
        // while the guard lives.
        unsafe { content(pg_sys::BufferGetPage(self.pin.buffer)) }
    }
}

impl Drop for BufferGuard<'_> {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: this value holds the content lock.
            unsafe { pg_sys::LockBuffer(self.pin.buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32) };
        }
    }
}

unsafe fn content<'a>(page: pg_sys::Page) -> &'a [u8] {
    // SAFETY: the caller passes a page of BLCKSZ bytes that it may read for 'a.
    unsafe { std::slice::from_raw_parts(page.cast::<u8>().add(PAGE_HEADER), PAGE_CONTENT) }
}

unsafe fn content_mut<'a>(page: pg_sys::Page) -> &'a mut [u8] {
    // SAFETY: the caller passes a page of BLCKSZ bytes that only it may touch for 'a.
    unsafe { std::slice::from_raw_parts_mut(page.cast::<u8>().add(PAGE_HEADER), PAGE_CONTENT) }
}

struct TxnPage {
    blkno: BlockNumber,
    buffer: pg_sys::Buffer,
    /// What the transaction changes: generic WAL's copy, or the buffer itself when deferred.
    image: pg_sys::Page,
}

/// One generic WAL record under way.
pub struct BufferTxn<'s> {
    store: &'s SharedBuffers,
    state: *mut pg_sys::GenericXLogState,
    pages: [Option<TxnPage>; MAX_TXN_PAGES],
}

impl BufferTxn<'_> {
    /// Adds an exclusively locked buffer. A page that was never initialized gets a header whose
    /// hole is empty (`pd_lower = pd_upper`), so that WAL keeps every content byte.
    fn register(
        &mut self,
        blkno: BlockNumber,
        buffer: pg_sys::Buffer,
    ) -> Result<&mut TxnPage, PageError> {
        let Some(free) = self.pages.iter_mut().find(|page| page.is_none()) else {
            unreachable!("a transaction changes at most {MAX_TXN_PAGES} pages")
        };
        // SAFETY: the buffer is pinned and exclusively locked by this transaction; the image is
        // either the buffer's page or generic WAL's private copy of it, both BLCKSZ long.
        let image = unsafe {
            let page = pg_sys::BufferGetPage(buffer);
            let is_new = (*page.cast::<pg_sys::PageHeaderData>()).pd_upper == 0;
            let image = if self.state.is_null() {
                page
            } else {
                let flags = if is_new { pg_sys::GENERIC_XLOG_FULL_IMAGE as i32 } else { 0 };
                pg_sys::GenericXLogRegisterBuffer(self.state, buffer, flags)
            };
            if is_new {
                pg_sys::PageInit(image, PAGE_SIZE, 0);
                (*image.cast::<pg_sys::PageHeaderData>()).pd_lower = PAGE_SIZE as u16;
            }
            image
        };
        Ok(free.insert(TxnPage { blkno, buffer, image }))
    }

    fn release_buffers(&mut self) {
        for page in self.pages.iter_mut().filter_map(Option::take) {
            // SAFETY: the transaction holds this buffer's pin and exclusive lock.
            unsafe { pg_sys::UnlockReleaseBuffer(page.buffer) };
        }
    }
}

impl PageTxn for BufferTxn<'_> {
    fn page(&mut self, blkno: BlockNumber) -> Result<&mut [u8], PageError> {
        let known = self.pages.iter().flatten().find(|page| page.blkno == blkno);
        let image = match known {
            Some(page) => page.image,
            None => {
                self.store.check_range(blkno)?;
                let buffer = self.store.read_buffer(blkno);
                // SAFETY: the buffer was pinned by the line above.
                unsafe { pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32) };
                self.register(blkno, buffer)?.image
            }
        };
        // SAFETY: the image belongs to this transaction alone, and the slice borrows it mutably.
        Ok(unsafe { content_mut(image) })
    }

    fn extend(&mut self) -> Result<BlockNumber, PageError> {
        let relation = self.store.relation;
        // SAFETY: the relation is open; PostgreSQL asks that the extension lock be held around
        // reading P_NEW unless the relation is this backend's own.
        let (blkno, buffer) = unsafe {
            let shared = !is_local(relation);
            if shared {
                pg_sys::LockRelationForExtension(relation, pg_sys::ExclusiveLock as i32);
            }
            let buffer = pg_sys::ReadBufferExtended(
                relation,
                self.store.fork,
                NEW_PAGE,
                pg_sys::ReadBufferMode::RBM_ZERO_AND_LOCK,
                std::ptr::null_mut(),
            );
            if shared {
                pg_sys::UnlockRelationForExtension(relation, pg_sys::ExclusiveLock as i32);
            }
            (pg_sys::BufferGetBlockNumber(buffer), buffer)
        };
        self.store.page_count.set(self.store.page_count.get().max(blkno + 1));
        self.register(blkno, buffer)?;
        Ok(blkno)
    }

    fn commit(mut self) -> Result<(), PageError> {
        let state = std::mem::replace(&mut self.state, std::ptr::null_mut());
        // SAFETY: `state` is this transaction's own and is not used again; every changed buffer is
        // pinned and exclusively locked.
        unsafe {
            if state.is_null() {
                for page in self.pages.iter().flatten() {
                    pg_sys::MarkBufferDirty(page.buffer);
                }
            } else {
                pg_sys::GenericXLogFinish(state);
            }
        }
        self.release_buffers();
        Ok(())
    }
}

impl Drop for BufferTxn<'_> {
    fn drop(&mut self) {
        if panicking() {
            return;
        }
        if !self.state.is_null() {
            // SAFETY: `commit` takes the state, so it is still unfinished here.
            unsafe { pg_sys::GenericXLogAbort(self.state) };
        }
        self.release_buffers();
    }
}

/// Whether the relation's pages lie in this backend's own buffers.
unsafe fn is_temporary(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller passes an open relation; its catalog row is always there.
    unsafe {
        (*(*relation).rd_rel).relpersistence == pg_sys::RELPERSISTENCE_TEMP as std::ffi::c_char
    }
}

/// `RELATION_IS_LOCAL`, which is a macro in C.
unsafe fn is_local(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller passes an open relation.
    unsafe { (*relation).rd_islocaltemp || (*relation).rd_createSubid != NO_SUBTRANSACTION }
}
