//! Settings under `distilface.`, read on the main thread and passed on as values.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::num::NonZeroUsize;
use std::sync::OnceLock;

/// What `distilface_embed` does with a blank text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types)]
pub enum OnEmpty {
    null,
    error,
}

/// What happens to a text that is longer than the model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types)]
pub enum OnOverflow {
    warn,
    silent,
    error,
}

/// How an index scan goes on when its first candidates are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types)]
pub enum IterativeScan {
    strict_order,
    relaxed_order,
    off,
}

/// What embeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types)]
pub enum Device {
    /// A CUDA device where there is one.
    auto,
    cpu,
    cuda,
}

pub static DEVICE: GucSetting<Device> = GucSetting::<Device>::new(Device::cpu);
pub static ON_EMPTY: GucSetting<OnEmpty> = GucSetting::<OnEmpty>::new(OnEmpty::null);
pub static ON_OVERFLOW: GucSetting<OnOverflow> = GucSetting::<OnOverflow>::new(OnOverflow::warn);
pub static ITERATIVE_SCAN: GucSetting<IterativeScan> =
    GucSetting::<IterativeScan>::new(IterativeScan::strict_order);
pub static EF_SEARCH: GucSetting<i32> = GucSetting::<i32>::new(40);
pub static MAX_SCAN_TUPLES: GucSetting<i32> = GucSetting::<i32>::new(0);
pub static THREADS: GucSetting<i32> = GucSetting::<i32>::new(0);
pub static MAX_BATCH_TOKENS: GucSetting<i32> = GucSetting::<i32>::new(512);
pub static LOOK_AHEAD: GucSetting<bool> = GucSetting::<bool>::new(true);
pub static WORKER: GucSetting<bool> = GucSetting::<bool>::new(true);
pub static BACKFILL_ROWS_PER_SECOND: GucSetting<i32> = GucSetting::<i32>::new(0);
pub static BACKFILL_BATCH_TOKENS: GucSetting<i32> = GucSetting::<i32>::new(16_384);

/// Registers every setting; called once, when the library is loaded.
pub fn define() {
    GucRegistry::define_enum_guc(
        c"distilface.on_empty",
        c"What embedding a blank text gives.",
        c"null gives NULL; error raises an error. Applies to the functions that follow the default model.",
        &ON_EMPTY,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"distilface.on_overflow",
        c"What happens to a text that is longer than the model reads.",
        c"warn cuts it and raises one warning a statement; silent cuts it; error raises an error.",
        &ON_OVERFLOW,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"distilface.iterative_scan",
        c"How an index scan goes on when its first candidates are used up.",
        c"strict_order keeps the distances ascending; relaxed_order may return a late row out of order; off stops.",
        &ITERATIVE_SCAN,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"distilface.ef_search",
        c"Candidates that an index scan keeps while it walks the graph.",
        c"More candidates raise recall and cost time.",
        &EF_SEARCH,
        1,
        10_000,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"distilface.max_scan_tuples",
        c"Index entries after which an iterative scan gives up.",
        c"0 means no limit: the scan returns as many rows as match.",
        &MAX_SCAN_TUPLES,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"distilface.device",
        c"What embeds texts: the CPU, or a CUDA device.",
        c"auto takes a CUDA device where there is one. cuda falls back to the CPU with a notice. Needs a library built with the feature cuda.",
        &DEVICE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"distilface.threads",
        c"Threads that a backend uses to embed batches and to build an index.",
        c"0 means as many as the machine has cores, at most 8. A single short text uses no thread.",
        &THREADS,
        0,
        256,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"distilface.max_batch_tokens",
        c"Tokens that are computed together when texts are embedded in batches.",
        c"Bounds the memory of a backend; larger batches are hardly faster.",
        &MAX_BATCH_TOKENS,
        32,
        65_536,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"distilface.look_ahead",
        c"Whether a statement that embeds row by row reads rows ahead to embed them in batches.",
        c"The results are the same; off reads and embeds one row at a time.",
        &LOOK_AHEAD,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"distilface.worker",
        c"Whether a background worker embeds what waits.",
        c"Needs the library in shared_preload_libraries; CALL distilface_run() does the same work without.",
        &WORKER,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"distilface.backfill_rows_per_second",
        c"Rows a second that the filling of a table's vectors is held to.",
        c"0 means no limit. The pauses lie between transactions.",
        &BACKFILL_ROWS_PER_SECOND,
        0,
        1_000_000,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"distilface.backfill_batch_tokens",
        c"Tokens, estimated by the length of the texts, that a pipeline embeds in one transaction.",
        c"A smaller batch locks fewer rows for a shorter time.",
        &BACKFILL_BATCH_TOKENS,
        64,
        1_048_576,
        GucContext::Userset,
        GucFlags::default(),
    );
}

/// [`THREADS`], resolved.
pub fn threads() -> usize {
    // Asked for every text; the answer reads files of the kernel's.
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(8);
    match usize::try_from(THREADS.get()) {
        Ok(0) | Err(_) => *CORES.get_or_init(cores),
        Ok(threads) => threads,
    }
}
