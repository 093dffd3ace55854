//! Datums of the type `embedding`: a length word, the dimensions and a zero (int16 both), floats.
//! The layout is that of pgvector's `vector`, and both types may be read by this module.

use std::ops::Deref;

use distilface_core::vector::{self, MAX_DIMS};
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::{Datum, FromDatum};
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;

use super::report::Report;
use super::varlena::{Plain, argument_from_datum, names_sql_type};
use crate::embedding::errors;

#[repr(C)]
struct Head {
    length_word: u32,
    dims: i16,
    reserved: i16,
}

const HEAD: usize = size_of::<Head>();
const _: () = assert!(HEAD == 8 && align_of::<Head>() == align_of::<f32>());
const _: () = assert!(MAX_DIMS <= i16::MAX as usize);

/// An embedding that belongs to the caller or, where it was toasted, a copy: a slice of floats.
pub struct EmbeddingRef<'a> {
    plain: Plain<'a>,
    dims: usize,
}

/// An embedding in the current memory context, ready to be returned.
pub struct Embedding(pg_sys::Datum);

impl EmbeddingRef<'_> {
    /// Reads a datum of type `embedding` or pgvector's `vector`.
    ///
    /// # Errors
    /// Raises XX001 where the bytes are not such a value.
    ///
    /// # Safety
    /// `datum` is a non-null datum of one of the types that stays valid for `'a`.
    #[inline]
    pub unsafe fn new(datum: pg_sys::Datum) -> Self {
        // SAFETY: the caller's promise.
        let plain = unsafe { Plain::from_datum(datum) };
        let bytes = plain.bytes();
        let dims = match bytes.get(4..6) {
            Some(&[low, high]) => i16::from_ne_bytes([low, high]),
            _ => 0,
        };
        let dims = usize::try_from(dims).unwrap_or(0);
        if dims == 0 || bytes.len() != HEAD + dims * size_of::<f32>() {
            raise_corrupted(bytes.len(), dims);
        }
        Self { plain, dims }
    }
}

impl Deref for EmbeddingRef<'_> {
    type Target = [f32];

    #[inline]
    fn deref(&self) -> &[f32] {
        // SAFETY: `new` checked that `dims` floats follow the head; the type is aligned to 4 bytes,
        // and so are copies.
        unsafe {
            let floats = self.plain.start().cast::<u8>().add(HEAD).cast::<f32>();
            std::slice::from_raw_parts(floats, self.dims)
        }
    }
}

#[cold]
fn raise_corrupted(size: usize, dims: usize) -> ! {
    Report::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, "invalid embedding value")
        .detail(format!("The value claims {dims} dimensions in {size} bytes."))
        .raise()
}

impl Embedding {
    /// A value with these numbers.
    ///
    /// # Errors
    /// Raises 22000 where they do not make a vector: none, too many, or one that is not finite.
    pub fn new(x: &[f32]) -> Self {
        if let Err(error) = vector::check(x) {
            errors::raise_invalid(error);
        }
        let size = HEAD + size_of_val(x);
        // SAFETY: `check` bounds the size, far below palloc's limit; the allocation is aligned to 8
        // bytes and filled to its end.
        unsafe {
            let start = pg_sys::palloc(size).cast::<u8>();
            pgrx::set_varsize_4b(start.cast(), size as i32);
            let head = start.cast::<Head>();
            (*head).dims = x.len() as i16;
            (*head).reserved = 0;
            start.add(HEAD).cast::<f32>().copy_from_nonoverlapping(x.as_ptr(), x.len());
            Self(pg_sys::Datum::from(start))
        }
    }

    /// The value as a datum.
    pub fn into_datum(self) -> pg_sys::Datum {
        self.0
    }
}

impl From<EmbeddingRef<'_>> for Embedding {
    /// Hands an argument back unchanged.
    fn from(argument: EmbeddingRef<'_>) -> Self {
        Self(argument.plain.into_datum())
    }
}

impl FromDatum for EmbeddingRef<'_> {
    #[inline]
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: not null, and of the type that the caller vouches for.
        (!is_null).then(|| unsafe { Self::new(datum) })
    }
}

argument_from_datum!(EmbeddingRef);

// SAFETY: the datum is an embedding in the memory context of the call that returns it.
unsafe impl BoxRet for Embedding {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: made in this very call, or one of its arguments.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

names_sql_type!(EmbeddingRef<'_>, "embedding");
names_sql_type!(Embedding, "embedding");

/// Appends the numbers of a datum of pgvector's type `halfvec` (same head, half-precision numbers).
///
/// # Errors
/// Raises XX001 where the bytes are not such a value.
///
/// # Safety
/// `datum` is a non-null, valid datum of that type.
pub unsafe fn read_halfvec(datum: pg_sys::Datum, out: &mut Vec<f32>) {
    // SAFETY: the caller's promise.
    let plain = unsafe { Plain::from_datum(datum) };
    let bytes = plain.bytes();
    let dims = match bytes.get(4..6) {
        Some(&[low, high]) => usize::try_from(i16::from_ne_bytes([low, high])).unwrap_or(0),
        _ => 0,
    };
    if dims == 0 || bytes.len() != HEAD + dims * size_of::<u16>() {
        raise_corrupted(bytes.len(), dims);
    }
    let halves = bytes[HEAD..].as_chunks::<2>().0;
    out.extend(halves.iter().map(|&half| vector::f16_to_f32(u16::from_ne_bytes(half))));
}

/// The rest of a binary message, as a receive function gets it; consumes it.
pub struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

impl FromDatum for Message<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: a receive function's argument, declared internal, is a StringInfo; PostgreSQL keeps
        // cursor ≤ len and the buffer alive during the call.
        unsafe {
            let buffer = datum.cast_mut_ptr::<pg_sys::StringInfoData>();
            let start = usize::try_from((*buffer).cursor).ok()?;
            let length = usize::try_from((*buffer).len - (*buffer).cursor).ok()?;
            (*buffer).cursor = (*buffer).len;
            Some(Self(std::slice::from_raw_parts((*buffer).data.add(start).cast(), length)))
        }
    }
}

argument_from_datum!(Message);
names_sql_type!(Message<'_>, "internal");
