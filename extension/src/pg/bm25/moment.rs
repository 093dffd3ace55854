//! When something was computed, so that it is kept for as long as its snapshot sees the same rows.

use pgrx::pg_sys;

/// What tells two snapshots apart. Equal ones see the same rows, and no transaction has ended
/// between them, so that no page which the first could see was given to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    xmin: u32,
    xmax: u32,
    command: u32,
    completed: u64,
}

impl Moment {
    /// That of the statement's snapshot; nothing where there is none.
    pub fn now() -> Option<Self> {
        // SAFETY: reads this backend's own active snapshot.
        unsafe {
            if !pg_sys::ActiveSnapshotSet() {
                return None;
            }
            let snapshot = &*pg_sys::GetActiveSnapshot();
            Some(Self {
                xmin: xid(snapshot.xmin),
                xmax: xid(snapshot.xmax),
                command: snapshot.curcid,
                completed: snapshot.snapXactCompletionCount,
            })
        }
    }
}

fn xid(xid: pg_sys::TransactionId) -> u32 {
    xid.into_inner()
}
