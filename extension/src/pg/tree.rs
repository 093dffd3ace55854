//! Walks over PostgreSQL's expression trees, with closures.

use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::c_void;

type Found<'a> = &'a mut dyn FnMut(*mut pg_sys::Node) -> bool;
type InsteadOf<'a> = &'a mut dyn FnMut(*mut pg_sys::Node) -> Option<*mut pg_sys::Node>;

/// Whether a node of an expression, or of a list of them, is one that `found` knows. It sees a node before
/// what is below it.
///
/// # Safety
/// `node` is null or an expression of a finished plan.
pub unsafe fn any(node: *mut pg_sys::Node, mut found: Found<'_>) -> bool {
    // SAFETY: the caller's promise; the closure outlives the walk.
    unsafe { walker(node, (&raw mut found).cast()) }
}

#[pg_guard]
unsafe extern "C-unwind" fn walker(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
    // SAFETY: called by [`any`] and by PostgreSQL's walk with what that passes along.
    unsafe {
        if node.is_null() {
            return false;
        }
        (*found.cast::<Found<'_>>())(node)
            || pg_sys::expression_tree_walker(node, Some(walker), found)
    }
}

/// A copy of an expression, or of a list of them, with what `instead_of` says in the place of nodes.
///
/// # Safety
/// As for [`any`].
pub unsafe fn replace(node: *mut pg_sys::Node, mut instead_of: InsteadOf<'_>) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise; the closure outlives the walk.
    unsafe { mutator(node, (&raw mut instead_of).cast()) }
}

#[pg_guard]
unsafe extern "C-unwind" fn mutator(
    node: *mut pg_sys::Node,
    instead_of: *mut c_void,
) -> *mut pg_sys::Node {
    // SAFETY: called by [`replace`] and by PostgreSQL's walk with what that passes along.
    unsafe {
        if node.is_null() {
            return node;
        }
        match (*instead_of.cast::<InsteadOf<'_>>())(node) {
            Some(other) => other,
            None => descend(node, instead_of),
        }
    }
}

#[cfg(feature = "pg15")]
unsafe fn descend(node: *mut pg_sys::Node, instead_of: *mut c_void) -> *mut pg_sys::Node {
    // SAFETY: PostgreSQL 15 declares the callback without its arguments and calls it with these two.
    unsafe {
        let callback: unsafe extern "C-unwind" fn() -> *mut pg_sys::Node =
            std::mem::transmute(mutator as *const ());
        pg_sys::expression_tree_mutator(node, Some(callback), instead_of)
    }
}

#[cfg(not(feature = "pg15"))]
unsafe fn descend(node: *mut pg_sys::Node, instead_of: *mut c_void) -> *mut pg_sys::Node {
    // SAFETY: the caller's arguments.
    unsafe { pg_sys::expression_tree_mutator_impl(node, Some(mutator), instead_of) }
}

/// A copy of a node.
///
/// # Safety
/// As for [`any`].
pub unsafe fn copy<T>(node: *mut T) -> *mut T {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::copyObjectImpl(node.cast()).cast() }
}
