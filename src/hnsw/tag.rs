//! A few bytes in the metapage that belong to the index's owner: what filled it, for one.
//!
//! The graph never reads them. They are written once, with the metapage or right after the index was built.

use super::build::create_with;
use super::layout::METAPAGE;
use super::search::read_meta;
use super::{HnswError, HnswParams};
use crate::page::{PageError, PagePin, PageStore, PageTxn};

/// Most bytes of a tag.
pub const MAX_TAG: usize = 256;
/// Where the metapage keeps it: a 2-byte length, then the bytes.
const AT: usize = 64;

/// [`create_empty`](super::create_empty) of an index that has its tag from its first record on.
///
/// # Errors
/// What the store raises, and [`HnswError::NotEmpty`].
///
/// # Panics
/// Where the tag is longer than [`MAX_TAG`].
pub fn create_tagged<S: PageStore>(
    store: &S,
    params: HnswParams,
    tag: &[u8],
) -> Result<(), HnswError> {
    create_with(store, params, 0, tag)
}

/// Writes the tag of an index that has its metapage.
///
/// # Errors
/// What the store raises, and a damaged metapage.
///
/// # Panics
/// Where the tag is longer than [`MAX_TAG`].
pub fn write_tag<S: PageStore>(store: &S, tag: &[u8]) -> Result<(), HnswError> {
    read_meta(store)?;
    let mut txn = store.begin()?;
    put(txn.page(METAPAGE)?, tag);
    txn.commit()?;
    Ok(())
}

/// Writes the tag into a metapage.
pub(super) fn put(metapage: &mut [u8], tag: &[u8]) {
    assert!(tag.len() <= MAX_TAG, "a tag has at most {MAX_TAG} bytes, this one {}", tag.len());
    metapage[AT..AT + 2].copy_from_slice(&(tag.len() as u16).to_le_bytes());
    metapage[AT + 2..AT + 2 + tag.len()].copy_from_slice(tag);
}

/// The index's tag; empty where none was written.
///
/// # Errors
/// What the store raises, and a damaged metapage.
pub fn read_tag<S: PageStore>(store: &S) -> Result<Vec<u8>, HnswError> {
    read_meta(store)?;
    let pin = store.pin(METAPAGE)?;
    let page = pin.lock_shared();
    let length = usize::from(u16::from_le_bytes([page[AT], page[AT + 1]]));
    if length > MAX_TAG {
        return Err(HnswError::Page(PageError::Corrupt {
            blkno: METAPAGE,
            offno: 0,
            expected: "a tag of at most 256 bytes",
            got: format!("{length} bytes"),
        }));
    }
    Ok(page[AT + 2..AT + 2 + length].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hnsw::{HeapTid, create_empty, insert};
    use crate::page::MemoryStore;
    use crate::vector::Metric;

    #[test]
    fn a_tag_outlives_changes_of_the_index() {
        let (early, late) = (MemoryStore::new(), MemoryStore::new());
        let params = HnswParams::parse(3, Metric::L2, 4, 16).expect("valid");
        create_tagged(&early, params, b"revision").expect("created");
        create_empty(&late, params).expect("created");
        assert_eq!(read_tag(&late).expect("read"), b"");
        write_tag(&late, b"revision").expect("written");
        for store in [early, late] {
            assert_eq!(read_tag(&store).expect("read"), b"revision");
            for offset in 1..100 {
                let tid = HeapTid { block: 0, offset };
                insert(&store, &[f32::from(offset), 1.0, 2.0], tid).expect("inserted");
            }
            assert_eq!(read_tag(&store).expect("read"), b"revision");
            let again = create_tagged(&store, params, b"another");
            assert!(matches!(again, Err(HnswError::NotEmpty { .. })), "{again:?}");
        }
    }
}
