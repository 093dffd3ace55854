//! A lock between all backends of a server, whatever their database, that a standby grants as well.

use pgrx::pg_sys;

/// Runs `work` while no other backend runs it for the same `name`. Waiting can be canceled, and an
/// error releases the lock at the transaction's end.
pub fn exclusively<T>(name: u64, work: impl FnOnce() -> T) -> T {
    let tag = pg_sys::LOCKTAG {
        // No database has this oid, and user-level advisory locks have 1 or 2 in the last field.
        locktag_field1: 0,
        locktag_field2: (name >> 32) as u32,
        locktag_field3: name as u32,
        locktag_field4: 0x6466,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: 2,
    };
    let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: takes and releases a heavyweight lock of this backend.
    unsafe { pg_sys::LockAcquire(&tag, mode, false, false) };
    let result = work();
    // SAFETY: as above.
    unsafe { pg_sys::LockRelease(&tag, mode, false) };
    result
}
