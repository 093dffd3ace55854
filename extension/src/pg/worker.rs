//! The background worker, where the library is in `shared_preload_libraries`.
//!
//! A launcher, bound to no database, starts a worker in a database that was flagged: a transaction
//! that queued a row, or made a pipeline, flags its database in shared memory when it commits. A
//! worker repeats `distilface.attempt` until nothing waits, lingers for a moment and ends; so a quiet
//! database has no process in it, and `DROP DATABASE` need not wait for more than the moment. Once a
//! minute the launcher looks into every database, for what a crash left. Nothing depends on the
//! flags but how soon the work is done.
//!
//! Neither runs on a standby. A worker's SIGTERM is a backend's: the statement at hand is rolled
//! back, the queue has its rows again.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime,
    DynamicBackgroundWorker, SignalWakeFlags,
};
use pgrx::datum::DatumWithOid;
use pgrx::lwlock::PgLwLock;
use pgrx::prelude::*;
use pgrx::{pg_shmem_init, pg_sys};

use crate::guc;

/// Databases that may be flagged at once. More are looked at all together.
const SLOTS: usize = 64;
/// How often the launcher looks at the flags.
const NAP: Duration = Duration::from_secs(1);
/// How often it looks into every database.
const SWEEP: Duration = Duration::from_secs(60);
/// How long an idle worker stays for more.
const LINGER: Duration = Duration::from_secs(3);
/// How often an idle worker looks.
const IDLE_NAP: Duration = Duration::from_millis(200);

// SAFETY: no other lock has the name.
static FLAGGED: PgLwLock<[u32; SLOTS]> = unsafe { PgLwLock::new(c"distilface_flagged") };

thread_local! {
    static PRELOADED: Cell<bool> = const { Cell::new(false) };
    static WANTED: Cell<bool> = const { Cell::new(false) };
}

/// Registers the launcher and its shared memory; called when the library is loaded.
#[expect(
    unexpected_cfgs,
    reason = "pgrx's macro asks for server versions that we do not build for"
)]
pub fn install() {
    // SAFETY: the library is loaded once, on the only thread.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut());
        if !pg_sys::process_shared_preload_libraries_in_progress {
            return;
        }
    }
    PRELOADED.set(true);
    pg_shmem_init!(FLAGGED = [0; SLOTS]);
    BackgroundWorkerBuilder::new("distilface launcher")
        .set_type("distilface launcher")
        .set_library("distilface")
        .set_function("distilface_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(5)))
        .load();
}

/// Whether a worker will take what waits.
pub fn is_running() -> bool {
    PRELOADED.get() && guc::WORKER.get()
}

/// Flags this database when the transaction commits.
pub fn wake_at_commit() {
    WANTED.set(PRELOADED.get());
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(
    event: pg_sys::XactEvent::Type,
    _arg: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT if WANTED.take() => {
            // SAFETY: reads this backend's own state.
            flag(unsafe { pg_sys::MyDatabaseId }.to_u32());
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT
        | pg_sys::XactEvent::XACT_EVENT_ABORT
        | pg_sys::XactEvent::XACT_EVENT_PREPARE => WANTED.set(false),
        _ => {}
    }
}

fn flag(database: u32) {
    if FLAGGED.share().contains(&database) {
        return;
    }
    let mut flagged = FLAGGED.exclusive();
    // Where no slot is free the next sweep finds it.
    if !flagged.contains(&database)
        && let Some(slot) = flagged.iter_mut().find(|slot| **slot == 0)
    {
        *slot = database;
    }
}

/// Takes the flags down.
fn take_flags() -> Vec<u32> {
    if FLAGGED.share().iter().all(|slot| *slot == 0) {
        return Vec::new();
    }
    let mut flagged = FLAGGED.exclusive();
    flagged.iter_mut().map(std::mem::take).filter(|database| *database != 0).collect()
}

unsafe extern "C-unwind" {
    // PostgreSQL's own signal handlers, without pgrx's guard, which no signal handler may have.
    #[link_name = "die"]
    fn handle_sigterm(signal: i32);
    #[link_name = "SignalHandlerForConfigReload"]
    fn handle_sighup(signal: i32);
}

/// The launcher's process.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn distilface_launcher_main(_arg: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    BackgroundWorker::connect_worker_to_spi(None, None);
    let mut workers: HashMap<u32, DynamicBackgroundWorker> = HashMap::new();
    let mut waiting: Vec<u32> = Vec::new();
    let mut swept: Option<Instant> = None;
    while BackgroundWorker::wait_latch(Some(NAP)) {
        if BackgroundWorker::sighup_received() {
            // SAFETY: rereads the configuration, as PostgreSQL's own workers do.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
        }
        if !guc::WORKER.get() {
            continue;
        }
        waiting.extend(take_flags());
        if swept.is_none_or(|at| at.elapsed() > SWEEP) {
            waiting.extend(BackgroundWorker::transaction(databases));
            swept = Some(Instant::now());
        }
        waiting.sort_unstable();
        waiting.dedup();
        workers.retain(|_, worker| !matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped)));
        // A database whose worker may be about to end stays flagged until it has ended.
        waiting.retain(|database| {
            if workers.contains_key(database) {
                return true;
            }
            match start_worker(*database) {
                Some(worker) => {
                    workers.insert(*database, worker);
                    false
                }
                // All worker slots are taken: again at the next turn.
                None => true,
            }
        });
    }
}

fn start_worker(database: u32) -> Option<DynamicBackgroundWorker> {
    BackgroundWorkerBuilder::new("distilface worker")
        .set_type("distilface worker")
        .set_library("distilface")
        .set_function("distilface_worker_main")
        .set_argument(Some(pg_sys::Datum::from(pg_sys::Oid::from(database))))
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(None)
        .set_notify_pid(i32::try_from(std::process::id()).unwrap_or(0))
        .load_dynamic()
        .ok()
}

/// Every database that takes connections.
fn databases() -> Vec<u32> {
    let mut found = Vec::new();
    // SAFETY: a catalog scan as the autovacuum launcher's, in a transaction, of a shared catalog,
    // which a process without a database may read.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let header = (*tuple).t_data;
            let form = header.byte_add(usize::from((*header).t_hoff));
            let form = form.cast::<pg_sys::FormData_pg_database>();
            // A database that is being dropped has the limit -2.
            if (*form).datallowconn && !(*form).datistemplate && (*form).datconnlimit != -2 {
                found.push((*form).oid.to_u32());
            }
        }
        pg_sys::heap_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
    found
}

/// A worker's process; its argument is the database.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn distilface_worker_main(database: pg_sys::Datum) {
    // SAFETY: the handlers of an ordinary backend: SIGTERM ends the process at the next interrupt
    // check, wherever it is.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        {
            pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(handle_sigterm));
            pg_sys::pqsignal(pg_sys::SIGHUP as i32, Some(handle_sighup));
        }
        #[cfg(feature = "pg18")]
        {
            pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(handle_sigterm));
            pg_sys::pqsignal_be(pg_sys::SIGHUP as i32, Some(handle_sighup));
        }
        pg_sys::BackgroundWorkerUnblockSignals();
    }
    // SAFETY: the launcher passed an oid.
    let database = unsafe { pg_sys::Oid::from_datum(database, false) };
    BackgroundWorker::connect_worker_to_spi_by_oid(database, None);
    let mut resting: HashMap<i32, Instant> = HashMap::new();
    let mut idle_since = Instant::now();
    loop {
        let now = Instant::now();
        resting.retain(|_, until| *until > now);
        let Some(pipelines) = BackgroundWorker::transaction(with_work) else { return };
        let mut again = false;
        for pipeline in pipelines {
            if resting.contains_key(&pipeline) {
                continue;
            }
            let (more, pause) = BackgroundWorker::transaction(|| step(pipeline));
            again |= more && pause == 0.0;
            if more {
                idle_since = Instant::now();
            }
            if pause > 0.0 {
                let pause = Duration::from_secs_f64(pause.clamp(0.0, 60.0));
                resting.insert(pipeline, Instant::now() + pause);
            }
        }
        if again {
            pgrx::check_for_interrupts!();
            continue;
        }
        if idle_since.elapsed() > LINGER && resting.is_empty() {
            return;
        }
        nap(IDLE_NAP);
    }
}

/// The pipelines for which something waits; `None` where the extension is not in this database.
fn with_work() -> Option<Vec<i32>> {
    let here = "SELECT pg_catalog.to_regprocedure('distilface.with_work()') IS NOT NULL";
    if !spi(here, Spi::get_one::<bool>(here))? {
        return None;
    }
    let statement = "SELECT distilface.with_work()";
    Some(spi(statement, Spi::get_one::<Vec<i32>>(statement)).unwrap_or_default())
}

/// One step of a pipeline: whether more waits, and seconds to leave it alone.
fn step(pipeline: i32) -> (bool, f64) {
    let statement = "SELECT s.again, s.pause FROM distilface.attempt($1) s";
    let args = [DatumWithOid::from(pipeline)];
    let (again, pause) = spi(statement, Spi::get_two_with_args::<bool, f64>(statement, &args));
    (again.unwrap_or(false), pause.unwrap_or(0.0))
}

fn spi<T>(statement: &str, result: Result<T, pgrx::spi::Error>) -> T {
    result.unwrap_or_else(|error| {
        crate::pg::report::Report::new(
            pg_sys::errcodes::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "a statement of the background worker failed",
        )
        .detail(format!("{error} in: {statement}"))
        .raise()
    })
}

/// Waits, serving signals.
fn nap(time: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = i64::try_from(time.as_millis()).unwrap_or(1000);
    // SAFETY: this process's own latch.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        if std::ptr::read_volatile(&raw const pg_sys::ConfigReloadPending) != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
    pgrx::check_for_interrupts!();
}
