//! What a caller keeps between calls: buffers, the number of threads, the hooks.
//!
//! Work comes in units that do not depend on one another (groups of whole texts). One unit runs on
//! the calling thread and starts nothing. More units are shared with helper threads that live for
//! the call: they start with every signal blocked, so that a host's handlers only ever run on the
//! host's own thread, and none is left when the call returns, so that a later `fork` is safe and
//! an idle process costs nothing. The hooks are called on the calling thread only, between
//! stages and, while it waits for the others, every 2 ms; helpers see a flag.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};

use super::forward::Workspace;
use super::{EncodeError, TokenBatch};

/// How often the calling thread looks up while it waits.
const WAIT: Duration = Duration::from_millis(2);
/// Tokens of a pass by default: a panel of weights takes as long to multiply as the next one takes
/// to arrive from the third cache (10 GB/s) at about 320 rows, and needs some to spare.
const BATCH_TOKENS: usize = 512;

/// Buffers, threads and cancel hook of one caller. Not shared: one per thread that embeds.
pub struct Context {
    threads: usize,
    max_batch_tokens: usize,
    cancel: Option<Box<dyn Fn() -> bool>>,
    progress: Option<Box<dyn Fn(Done)>>,
    desks: Vec<Desk>,
}

/// What of a call is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Texts, blank ones included.
    pub texts: usize,
    /// Tokens that the encoder read.
    pub tokens: usize,
}

/// What one thread works with.
#[derive(Default)]
pub(crate) struct Desk {
    pub space: Workspace,
    pub batch: TokenBatch,
}

/// The question whether to stop, as a unit of work asks it.
pub(crate) type Stop<'a> = dyn FnMut() -> bool + 'a;

impl Context {
    /// A context that computes on up to `threads` threads, the caller's included (at least 1).
    /// Allocates and starts nothing yet.
    pub fn new(threads: usize) -> Context {
        let threads = threads.clamp(1, 1024);
        let (cancel, progress) = (None, None);
        Context { threads, max_batch_tokens: BATCH_TOKENS, cancel, progress, desks: Vec::new() }
    }

    /// Sets how many tokens a pass takes at most (32 at least); a longer text is one pass. Sets the
    /// memory in use, about 12 bytes a token and a unit of width on each thread, and never changes
    /// a vector.
    pub fn with_max_batch_tokens(mut self, tokens: usize) -> Context {
        self.max_batch_tokens = tokens.max(32);
        self
    }

    /// Sets a hook that is asked on the calling thread every few milliseconds; once it says true,
    /// the call under way ends with [`EncodeError::Canceled`].
    pub fn with_cancel(mut self, cancel: impl Fn() -> bool + 'static) -> Context {
        self.cancel = Some(Box::new(cancel));
        self
    }

    /// Sets a hook that hears on the calling thread, every few milliseconds, what of the call under way
    /// is done.
    pub fn with_progress(mut self, progress: impl Fn(Done) + 'static) -> Context {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Threads that a call may use.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Tokens of a pass at most.
    pub fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    /// Bytes of buffers held.
    pub fn bytes(&self) -> usize {
        self.desks.iter().map(|d| d.space.bytes()).sum()
    }

    /// Does `units` units of work, results in order. The first error of the lowest unit wins, and
    /// ends the others. `count` tells what a result stands for.
    pub(crate) fn run<T: Send>(
        &mut self,
        units: usize,
        work: impl Fn(usize, &mut Desk, &mut Stop<'_>) -> Result<T, EncodeError> + Sync,
        count: impl Fn(&T) -> Done + Sync,
    ) -> Result<Vec<T>, EncodeError> {
        let threads = self.threads.min(units).max(1);
        self.desks.resize_with(threads.max(self.desks.len()), Desk::default);
        let (cancel, progress) = (self.cancel.as_deref(), self.progress.as_deref());
        let halted = AtomicBool::new(false);
        let so_far = Mutex::new(Done::default());
        let work = |unit, desk: &mut Desk, stop: &mut Stop<'_>| {
            let result = work(unit, desk, stop)?;
            let done = count(&result);
            let mut so_far = so_far.lock().unwrap_or_else(PoisonError::into_inner);
            so_far.texts += done.texts;
            so_far.tokens += done.tokens;
            Ok(result)
        };
        let mut ask = || {
            if let Some(progress) = progress {
                let now = *so_far.lock().unwrap_or_else(PoisonError::into_inner);
                progress(now);
            }
            if cancel.is_some_and(|cancel| cancel()) {
                halted.store(true, Ordering::Relaxed);
            }
            halted.load(Ordering::Relaxed)
        };
        let (own, others) = self.desks.split_first_mut().expect("there is at least one desk");
        let results = Results { next: AtomicUsize::new(0), done: Mutex::new(Vec::new()), units };
        if threads == 1 {
            results.take(own, &work, &mut ask, &halted);
        } else {
            let caller = thread::current();
            thread::scope(|scope| {
                let mut helpers = Vec::with_capacity(threads - 1);
                // Blocked around the start, because a thread inherits its maker's mask.
                let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
                for desk in others.iter_mut().take(threads - 1) {
                    let (results, work, halted, caller) = (&results, &work, &halted, &caller);
                    let body = move || {
                        results.take(desk, work, &mut || halted.load(Ordering::Relaxed), halted);
                        caller.unpark();
                    };
                    // Where no thread is to be had, the others do its share.
                    match thread::Builder::new().name("distilface".into()).spawn_scoped(scope, body)
                    {
                        Ok(helper) => helpers.push(helper),
                        Err(_) => break,
                    }
                }
                if let Ok(mask) = mask {
                    // Restores what was there; only an invalid argument could make it fail.
                    let _ = mask.thread_set_mask();
                }
                results.take(own, &work, &mut ask, &halted);
                while helpers.iter().any(|helper| !helper.is_finished()) {
                    ask();
                    thread::park_timeout(WAIT);
                }
                for helper in helpers {
                    if let Err(panic) = helper.join() {
                        resume_unwind(panic);
                    }
                }
            });
        }
        results.collect()
    }
}

/// The units not yet taken, and what came of the others.
struct Results<T> {
    next: AtomicUsize,
    units: usize,
    done: Mutex<Vec<(usize, Result<T, EncodeError>)>>,
}

impl<T> Results<T> {
    /// Works until no unit is left or one of them fails.
    fn take(
        &self,
        desk: &mut Desk,
        work: &impl Fn(usize, &mut Desk, &mut Stop<'_>) -> Result<T, EncodeError>,
        stop: &mut Stop<'_>,
        halted: &AtomicBool,
    ) {
        loop {
            let unit = self.next.fetch_add(1, Ordering::Relaxed);
            if unit >= self.units {
                return;
            }
            let result = if stop() { Err(EncodeError::Canceled) } else { work(unit, desk, stop) };
            let failed = result.is_err();
            self.done.lock().unwrap_or_else(PoisonError::into_inner).push((unit, result));
            if failed {
                halted.store(true, Ordering::Relaxed);
                return;
            }
        }
    }

    fn collect(self) -> Result<Vec<T>, EncodeError> {
        let mut done = self.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(unit, _)| *unit);
        // A failure stops the others, which then call themselves canceled: the cause goes first.
        let cause = |r: &Result<T, EncodeError>| matches!(r, Err(e) if *e != EncodeError::Canceled);
        if let Some(at) = done.iter().position(|(_, r)| cause(r)) {
            done.swap(0, at);
        }
        done.into_iter().map(|(_, result)| result).collect()
    }
}
