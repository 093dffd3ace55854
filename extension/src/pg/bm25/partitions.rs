//! A query that is bound to the index of a partitioned table: scored by the statistics of all
//! partitions together, so that rows of different partitions can be compared.

use super::index::IndexRelation;
use super::moment::Moment;
use super::views::OpenView;
use crate::pg::report::Report;
use distilface_core::bm25::{Bm25Error, Prepared, Together};
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::cell::RefCell;
use std::sync::Arc;

// Two functions of PostgreSQL that pgrx has no bindings for (catalog/partition.h, pg_inherits.h).
unsafe extern "C-unwind" {
    fn get_partition_ancestors(relid: pg_sys::Oid) -> *mut pg_sys::List;
    fn find_all_inheritors(
        parent: pg_sys::Oid,
        lockmode: pg_sys::LOCKMODE,
        numparents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}

struct Kept {
    parent: pg_sys::Oid,
    moment: Moment,
    together: Arc<Together>,
}

thread_local! {
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// Whether an index is that of a partitioned table, which has no rows of its own.
pub fn is_partitioned(index: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog's caches.
    unsafe { pg_sys::get_rel_relkind(index) as u8 == pg_sys::RELKIND_PARTITIONED_INDEX }
}

/// Whether `index` is `parent` or, at some level, a partition of it.
pub fn belongs_to(index: pg_sys::Oid, parent: pg_sys::Oid) -> bool {
    if index == parent {
        return true;
    }
    // SAFETY: reads the catalog.
    unsafe {
        is_partitioned(parent)
            && elements(pg_sys::ffi::pg_guard_ffi_boundary(|| get_partition_ancestors(index)))
                .contains(&parent)
    }
}

/// The first of the indexes of a partitioned table's partitions that have rows.
pub fn first_leaf(parent: pg_sys::Oid) -> pg_sys::Oid {
    leaves(parent).first().copied().unwrap_or_else(|| raise_empty(parent))
}

/// The statistics that a query bound to `bound` is scored by in `index`; nothing where they are the
/// index's own.
pub fn statistics(
    bound: Option<pg_sys::Oid>,
    index: IndexRelation,
    prepared: &Prepared,
) -> Result<Option<Arc<Together>>, Bm25Error> {
    let Some(parent) = bound.filter(|&bound| bound != index.oid() && is_partitioned(bound)) else {
        return Ok(None);
    };
    let moment = Moment::now();
    let kept = KEPT.with_borrow(|kept| {
        let kept = kept.as_ref()?;
        (kept.parent == parent && Some(kept.moment) == moment).then(|| Arc::clone(&kept.together))
    });
    if let Some(together) = &kept
        && together.knows(prepared)
    {
        return Ok(kept);
    }
    let relations: Vec<IndexRelation> = leaves(parent).into_iter().map(open).collect();
    let opened: Vec<OpenView> =
        relations.iter().map(|&relation| OpenView::current(relation)).collect();
    let together = {
        let _attached: Vec<_> =
            opened.iter().zip(&relations).map(|(view, &relation)| view.attach(relation)).collect();
        let views: Vec<_> = opened.iter().map(|open| Arc::clone(&open.view)).collect();
        let together = match kept {
            Some(kept) => kept,
            None => {
                let params = views.first().map(|view| view.params().clone());
                let params = params.unwrap_or_else(|| raise_empty(parent));
                Arc::new(Together::new(&params, &views)?)
            }
        };
        together.learn(&views, prepared)?;
        together
    };
    for relation in relations {
        // SAFETY: opened above; the lock stays until the transaction ends, as a scan's would.
        unsafe { pg_sys::index_close(relation.as_raw(), pg_sys::NoLock as pg_sys::LOCKMODE) };
    }
    if let Some(moment) = moment {
        let kept = Kept { parent, moment, together: Arc::clone(&together) };
        KEPT.set(Some(kept));
    }
    Ok(Some(together))
}

fn open(oid: pg_sys::Oid) -> IndexRelation {
    // SAFETY: a partition's index, under the lock that reading takes.
    unsafe {
        IndexRelation::new(pg_sys::index_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE))
    }
}

fn leaves(parent: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: takes the lock that reading takes on every index below; the list is palloc'd.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let all = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            find_all_inheritors(parent, lock, std::ptr::null_mut())
        });
        elements(all).into_iter().filter(|&oid| !is_partitioned(oid)).collect()
    }
}

unsafe fn elements(list: *mut pg_sys::List) -> Vec<pg_sys::Oid> {
    // SAFETY: null, or a list of oids.
    unsafe {
        let length = list.as_ref().map_or(0, |list| list.length as usize);
        (0..length).map(|at| (*(*list).elements.add(at)).oid_value).collect()
    }
}

fn raise_empty(parent: pg_sys::Oid) -> ! {
    let name = super::query::index_name(parent);
    Report::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("index \"{name}\" has no partitions"),
    )
    .detail("So there are no statistics to score a text with.")
    .raise()
}
