//! Views that a backend keeps from one statement to the next.
//!
//! A view that is still current costs a statement two page reads; one that is not is taken anew,
//! with what the old one has read of the segments that are still there.

use super::index::IndexRelation;
use super::store::{Attached, BackendStore};
use crate::pg::buffers::Logging;
use distilface_core::bm25::View;
use std::cell::RefCell;
use std::sync::Arc;

/// Indexes whose views a backend keeps.
const KEPT: usize = 4;
/// Bytes of segments that a view keeps in memory.
const CACHE_BYTES: usize = 32 << 20;

struct Kept {
    index: u32,
    file: u32,
    view: Arc<View<BackendStore>>,
    store: Arc<BackendStore>,
}

thread_local! {
    static VIEWS: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

/// A view of an open index; it can be read while the second value lives.
pub struct OpenView {
    pub view: Arc<View<BackendStore>>,
    store: Arc<BackendStore>,
}

impl OpenView {
    /// The current view of an index.
    pub fn current(index: IndexRelation) -> Self {
        let (oid, file) = (index.oid().to_u32(), index.file_number());
        let known = VIEWS.with_borrow_mut(|views| {
            let at = views.iter().position(|kept| (kept.index, kept.file) == (oid, file))?;
            Some(views.remove(at))
        });
        let opened = match known {
            Some(Kept { view, store, .. }) => {
                let _attached = store.attach(index.buffers(Logging::Generic));
                let renewed = index.check(view.renew());
                Self { view: renewed.map_or(view, Arc::new), store: Arc::clone(&store) }
            }
            None => {
                let store = BackendStore::new();
                let _attached = store.attach(index.buffers(Logging::Generic));
                let view = index.check(View::open(Arc::clone(&store), CACHE_BYTES));
                Self { view: Arc::new(view), store: Arc::clone(&store) }
            }
        };
        VIEWS.with_borrow_mut(|views| {
            views.truncate(KEPT - 1);
            let (view, store) = (Arc::clone(&opened.view), Arc::clone(&opened.store));
            views.insert(0, Kept { index: oid, file, view, store });
        });
        opened
    }

    /// Makes the view readable by the open relation until the result is dropped.
    pub fn attach(&self, index: IndexRelation) -> Attached {
        self.store.attach(index.buffers(Logging::Generic))
    }
}
