//! PostgreSQL's lists.

use pgrx::pg_sys;

/// A list's pointers.
///
/// # Safety
/// `list` is null or a list of pointers to `T`, which stays unchanged while it is read.
pub unsafe fn elements<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: the caller's promise.
    let length = unsafe { list.as_ref() }.map_or(0, |list| list.length);
    (0..length).map(move |at| {
        // SAFETY: the caller's promise, and `at` is below the length.
        unsafe { pg_sys::list_nth(list, at).cast::<T>() }
    })
}

/// A list of one pointer.
///
/// # Safety
/// There is a current memory context, as always in a backend.
pub unsafe fn list_of(element: *mut std::ffi::c_void) -> *mut pg_sys::List {
    // SAFETY: makes a list in the current memory context.
    unsafe { pg_sys::lappend(std::ptr::null_mut(), element) }
}
