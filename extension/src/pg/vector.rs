//! `embedding` datums: read in place, made in the current memory context.
//!
//! The layout is that of pgvector's `vector`: the varlena's 4-byte length word, a 2-byte count of
//! dimensions, 2 zero bytes, then the 4-byte floats.

use super::report::Report;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::thread::panicking;

/// Bytes before the floats: length word, dimensions, zero.
const HEADER: usize = 8;

/// A detoasted `embedding` argument. Borrows the datum where it is stored plain, else owns the
/// detoasted copy and frees it.
pub struct VectorArg {
    detoasted: *mut pg_sys::varlena,
    is_copy: bool,
}

impl VectorArg {
    /// # Safety
    /// `datum` is a non-null value of type `embedding` or of another type with its layout, and
    /// outlives the value.
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> Self {
        let stored = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: a valid varlena by the caller's promise.
        let detoasted = unsafe { pg_sys::pg_detoast_datum(stored) };
        Self { detoasted, is_copy: detoasted != stored }
    }

    /// The floats.
    ///
    /// # Errors
    /// Raises XX001 where the value's length does not fit its count of dimensions.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: a detoasted varlena has a 4-byte header that tells its size; PostgreSQL aligns it
        // to 4 bytes at least (the type's alignment is int4); the size is checked before the count
        // is believed.
        unsafe {
            let size = pgrx::varsize_4b(self.detoasted);
            let bytes = self.detoasted.cast::<u8>();
            let dims = if size < HEADER { 0 } else { usize::from(*bytes.add(4).cast::<u16>()) };
            if dims == 0 || size != HEADER + dims * size_of::<f32>() {
                damaged(size, dims);
            }
            std::slice::from_raw_parts(bytes.add(HEADER).cast::<f32>(), dims)
        }
    }
}

impl Drop for VectorArg {
    fn drop(&mut self) {
        if self.is_copy && !panicking() {
            // SAFETY: PostgreSQL allocated the copy for this value alone.
            unsafe { pg_sys::pfree(self.detoasted.cast()) };
        }
    }
}

/// A new `embedding` datum of these 1 to 16,000 floats, in the current memory context.
pub fn new_datum(values: &[f32]) -> pg_sys::Datum {
    let size = HEADER + size_of_val(values);
    debug_assert!((1..=distilface_core::vector::MAX_DIMS).contains(&values.len()));
    // SAFETY: the allocation has `size` bytes and is aligned to 8; every byte is written.
    unsafe {
        let bytes = pg_sys::palloc(size).cast::<u8>();
        pgrx::set_varsize_4b(bytes.cast(), size as i32);
        bytes.add(4).cast::<u16>().write(values.len() as u16);
        bytes.add(6).cast::<u16>().write(0);
        std::ptr::copy_nonoverlapping(values.as_ptr(), bytes.add(HEADER).cast(), values.len());
        pg_sys::Datum::from(bytes)
    }
}

#[cold]
fn damaged(size: usize, dims: usize) -> ! {
    Report::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, "embedding value is damaged")
        .detail(format!("It has {size} bytes for {dims} dimensions."))
        .raise()
}
