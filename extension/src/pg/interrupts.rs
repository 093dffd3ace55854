//! Cancellation: how long operations of the core crate notice that the user wants them to stop.

use pgrx::pg_sys;

/// Whether a cancel, a termination or a timeout waits to be served. Costs one load; touches
/// nothing of PostgreSQL's state, so the core crate may ask in its inner loops.
#[inline]
pub fn pending() -> bool {
    // SAFETY: a volatile read of a `sig_atomic_t` that signal handlers of this process set.
    unsafe { std::ptr::read_volatile(&raw const pg_sys::InterruptPending) != 0 }
}

/// Serves a waiting interrupt: raises the error that ends the statement where one is due.
///
/// Never called with a buffer content lock held (PostgreSQL would hold the interrupt off).
#[inline]
pub fn check() {
    if pending() {
        pgrx::check_for_interrupts!();
    }
}
