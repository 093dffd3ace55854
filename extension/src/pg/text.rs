//! Text datums as UTF-8, whatever the database's encoding.

use super::report::Report;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::borrow::Cow;

/// The bytes of a detoasted `text`, borrowed where the datum is plain, as valid UTF-8.
///
/// # Errors
/// Raises 22021 where the bytes are not UTF-8 and the database's encoding (SQL_ASCII) cannot say
/// what they are instead.
pub fn to_utf8(bytes: &[u8]) -> Cow<'_, str> {
    let utf8 = pg_sys::pg_enc::PG_UTF8 as i32;
    if is_same_in_utf8(bytes) {
        match std::str::from_utf8(bytes) {
            Ok(text) => return Cow::Borrowed(text),
            Err(error) => Report::new(
                PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
                "text is not valid UTF-8",
            )
            .detail(format!("The first bad byte is at offset {}.", error.valid_up_to()))
            .hint("Create the database with ENCODING 'UTF8', or convert the text first.")
            .raise(),
        }
    }
    let Ok(length) = i32::try_from(bytes.len()) else {
        unreachable!("a datum is at most 1 GB long")
    };
    // SAFETY: `bytes` is valid for `length`; PostgreSQL returns either the same pointer or a
    // NUL-terminated palloc'd copy, which the memory context owns.
    let converted = unsafe {
        let out = pg_sys::pg_server_to_any(bytes.as_ptr().cast(), length, utf8);
        if out.cast_const().cast::<u8>() == bytes.as_ptr() {
            bytes
        } else {
            std::ffi::CStr::from_ptr(out).to_bytes()
        }
    };
    match std::str::from_utf8(converted) {
        Ok(text) => Cow::Owned(text.to_owned()),
        Err(_) => unreachable!("PostgreSQL's conversion to UTF-8 yields UTF-8"),
    }
}

/// [`to_utf8`] where nothing has to be converted and no error can be raised.
pub fn if_utf8(bytes: &[u8]) -> Option<&str> {
    is_same_in_utf8(bytes).then(|| std::str::from_utf8(bytes).ok()).flatten()
}

/// Whether the database's encoding has the same bytes for these characters.
fn is_same_in_utf8(bytes: &[u8]) -> bool {
    // SAFETY: reads a setting of the connected database.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    let utf8 = pg_sys::pg_enc::PG_UTF8 as i32;
    let ascii = pg_sys::pg_enc::PG_SQL_ASCII as i32;
    encoding == utf8 || encoding == ascii || bytes.is_ascii()
}

/// Whether a UTF-8 text is in the database's encoding as it is.
pub fn server_takes(text: &str) -> bool {
    is_same_in_utf8(text.as_bytes())
}

/// Text in the database's encoding, the inverse of [`to_utf8`].
///
/// # Errors
/// Raises PostgreSQL's own error where the encoding lacks a character, which cannot be where the
/// text came from [`to_utf8`].
pub fn to_server(text: &str) -> Vec<u8> {
    let utf8 = pg_sys::pg_enc::PG_UTF8 as i32;
    if is_same_in_utf8(text.as_bytes()) {
        return text.as_bytes().to_vec();
    }
    let Ok(length) = i32::try_from(text.len()) else {
        unreachable!("a part of a datum is at most 1 GB long")
    };
    // SAFETY: `text` is valid for `length`; PostgreSQL returns either the same pointer or a
    // NUL-terminated palloc'd copy, which the memory context owns.
    unsafe {
        let out = pg_sys::pg_any_to_server(text.as_ptr().cast(), length, utf8);
        if out.cast_const().cast::<u8>() == text.as_ptr() {
            text.as_bytes().to_vec()
        } else {
            std::ffi::CStr::from_ptr(out).to_bytes().to_vec()
        }
    }
}
