//! Numbers and arrays of them: arguments of the casts, `real[]` results, the running sums of the
//! aggregates, PostgreSQL's own digits.

use distilface_core::vector;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, FromDatum};
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;

use super::report::Report;
use super::varlena::{Plain, argument_from_datum, names_sql_type};
use crate::embedding::errors;

/// Bytes before the elements of a one-dimensional array without nulls.
const ARRAY_HEAD: usize = 24;
const _: () = assert!(size_of::<pg_sys::ArrayType>() + 2 * size_of::<i32>() == ARRAY_HEAD);

/// An argument of type `real[]`, `double precision[]`, `integer[]` or `numeric[]`.
pub struct NumberArray<'a>(Plain<'a>);

impl NumberArray<'_> {
    /// An array that is no argument.
    ///
    /// # Safety
    /// `datum` is a non-null array of one of the types, which outlives the value.
    pub unsafe fn from_plain_datum(datum: pg_sys::Datum) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Plain::from_datum(datum) })
    }

    /// The elements as a vector that a distance can be computed of.
    ///
    /// # Errors
    /// As [`NumberArray::to_f32`]; 22000 where one is not finite.
    pub fn to_vector(&self) -> Vec<f32> {
        let numbers = self.to_f32();
        if let Err(error) = vector::check(&numbers) {
            errors::raise_invalid(error);
        }
        numbers
    }

    /// The elements in single precision.
    ///
    /// # Errors
    /// Raises 22004 for a null element, 22003 for a number beyond single precision, 22000 for more
    /// than one dimension or an element count that no embedding has.
    pub fn to_f32(&self) -> Vec<f32> {
        let array = self.0.start().cast::<pg_sys::ArrayType>();
        // SAFETY: the argument is a plain array; its element type is the one in its head.
        unsafe {
            match (*array).ndim {
                0 => errors::raise_invalid(vector::InvalidVector::NoDimension),
                1 => {}
                ndim => Report::new(
                    PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                    "array must be one-dimensional",
                )
                .detail(format!("The array has {ndim} dimensions."))
                .raise(),
            }
            if pg_sys::array_contains_nulls(array) {
                Report::new(
                    PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                    "array must not contain nulls",
                )
                .hint("Remove them first: array_remove(a, NULL).")
                .raise()
            }
            let mut elements: *mut pg_sys::Datum = std::ptr::null_mut();
            let mut count = 0;
            let element_type = (*array).elemtype;
            let (mut length, mut by_value, mut align) = (0i16, false, 0);
            pg_sys::get_typlenbyvalalign(element_type, &mut length, &mut by_value, &mut align);
            pg_sys::deconstruct_array(
                array,
                element_type,
                length.into(),
                by_value,
                align,
                &mut elements,
                std::ptr::null_mut(),
                &mut count,
            );
            let count = usize::try_from(count).unwrap_or(0);
            if let Err(error) = vector::check_dims(count) {
                errors::raise_invalid(error);
            }
            let elements = std::slice::from_raw_parts(elements, count);
            let numbers = elements.iter().map(|&element| to_f32(element, element_type)).collect();
            pg_sys::pfree(elements.as_ptr().cast_mut().cast());
            numbers
        }
    }
}

/// # Safety
/// `element` is a non-null datum of type `element_type`.
unsafe fn to_f32(element: pg_sys::Datum, element_type: pg_sys::Oid) -> f32 {
    // SAFETY: the caller's promise; FLOAT8PASSBYVAL holds on 64-bit systems.
    let wide = unsafe {
        match element_type {
            pg_sys::FLOAT4OID => return f32::from_bits(element.value() as u32),
            pg_sys::INT4OID => return element.value() as i32 as f32,
            pg_sys::FLOAT8OID => f64::from_bits(element.value() as u64),
            pg_sys::NUMERICOID => {
                // Raises 22003 itself where the number is too large.
                let number =
                    pgrx::direct_function_call::<f32>(pg_sys::numeric_float4, &[Some(element)]);
                return number.unwrap_or(f32::NAN);
            }
            _ => Report::new(PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH, "unsupported array type")
                .hint("Cast it to real[] first.")
                .raise(),
        }
    };
    let narrow = wide as f32;
    if narrow.is_infinite() && wide.is_finite() {
        errors::raise_out_of_range(&format!("{wide:e}"));
    }
    narrow
}

impl FromDatum for NumberArray<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: not null, and an array as the caller vouches.
        (!is_null).then(|| Self(unsafe { Plain::from_datum(datum) }))
    }
}

argument_from_datum!(NumberArray);
names_sql_type!(NumberArray<'_>, "real[]");

/// An array result.
pub struct ArrayDatum(pg_sys::Datum);

impl ArrayDatum {
    /// A `real[]` in the current memory context.
    pub fn reals(x: &[f32]) -> Self {
        let elements = x.iter().map(|v| pg_sys::Datum::from(v.to_bits())).collect();
        Self(construct(elements, pg_sys::FLOAT4OID, 4, b'i'))
    }

    fn doubles(x: impl Iterator<Item = f64>) -> Self {
        let elements = x.map(|v| pg_sys::Datum::from(v.to_bits())).collect();
        Self(construct(elements, pg_sys::FLOAT8OID, 8, b'd'))
    }
}

fn construct(
    mut elements: Vec<pg_sys::Datum>,
    element_type: pg_sys::Oid,
    length: i32,
    align: u8,
) -> pg_sys::Datum {
    let count = i32::try_from(elements.len()).unwrap_or(i32::MAX);
    // SAFETY: `count` datums of a pass-by-value type of that length and alignment.
    let array = unsafe {
        pg_sys::construct_array(
            elements.as_mut_ptr(),
            count,
            element_type,
            length,
            true,
            align as std::ffi::c_char,
        )
    };
    pg_sys::Datum::from(array)
}

// SAFETY: the datum is an array in the memory context of the call that returns it, or its argument.
unsafe impl BoxRet for ArrayDatum {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

names_sql_type!(ArrayDatum, "real[]");

/// The state of `avg` and `sum`, a `double precision[]`: the count, then one sum per dimension;
/// the count alone before the first value.
pub struct Sums<'a>(Plain<'a>);

impl Sums<'_> {
    /// How many embeddings were added.
    pub fn count(&self) -> f64 {
        self.values()[0]
    }

    /// The sums, empty before the first value.
    pub fn sums(&self) -> &[f64] {
        &self.values()[1..]
    }

    /// The state after `count` more embeddings whose sums are `terms`, one per dimension of the state
    /// or of the first value. Changes the array in place where an aggregate owns it.
    pub fn add(
        self,
        count: f64,
        terms: impl ExactSizeIterator<Item = f64>,
        fcinfo: pg_sys::FunctionCallInfo,
    ) -> ArrayDatum {
        if self.sums().is_empty() {
            return ArrayDatum::doubles(std::iter::once(self.count() + count).chain(terms));
        }
        // SAFETY: the running call's.
        let in_aggregate = unsafe {
            pg_sys::AggCheckCallContext(fcinfo, std::ptr::null_mut()) != 0 && self.0.is_borrowed()
        };
        if !in_aggregate {
            let sums = self.sums().iter().zip(terms).map(|(sum, term)| sum + term);
            return ArrayDatum::doubles(std::iter::once(self.count() + count).chain(sums));
        }
        let length = self.values().len();
        // SAFETY: the aggregate's transition value is ours to change (as in float8_accum); it is
        // palloc'd, so aligned to 8 bytes, and holds `length` doubles as `from_datum` checked.
        let values = unsafe {
            let start = self.0.start().cast::<u8>().add(ARRAY_HEAD).cast::<f64>();
            std::slice::from_raw_parts_mut(start, length)
        };
        values[0] += count;
        for (sum, term) in values[1..].iter_mut().zip(terms) {
            *sum += term;
        }
        ArrayDatum(self.0.into_datum())
    }

    /// The state unchanged.
    pub fn unchanged(self) -> ArrayDatum {
        ArrayDatum(self.0.into_datum())
    }

    fn values(&self) -> &[f64] {
        // SAFETY: `from_datum` checked the length; the array type is aligned to 8 bytes.
        unsafe {
            let start = self.0.start().cast::<u8>().add(ARRAY_HEAD).cast::<f64>();
            std::slice::from_raw_parts(start, (self.0.bytes().len() - ARRAY_HEAD) / 8)
        }
    }
}

impl FromDatum for Sums<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: not null, and an array as the caller vouches.
        let plain = unsafe { Plain::from_datum(datum) };
        let array = plain.start().cast::<pg_sys::ArrayType>();
        let size = plain.bytes().len();
        // SAFETY: a plain array has at least its head.
        let well_formed = unsafe {
            (*array).ndim == 1
                && (*array).dataoffset == 0
                && (*array).elemtype == pg_sys::FLOAT8OID
                && size >= ARRAY_HEAD + 8
                && size.is_multiple_of(8)
                && (size - ARRAY_HEAD) / 8 <= vector::MAX_DIMS + 1
        };
        if !well_formed {
            Report::new(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, "invalid aggregate state")
                .hint("Call avg(embedding) or sum(embedding) instead of their parts.")
                .raise()
        }
        Some(Self(plain))
    }
}

argument_from_datum!(Sums);
names_sql_type!(Sums<'_>, "double precision[]");

/// Bytes that `float_to_shortest_decimal_bufn` fills at most.
const FLOAT_SHORTEST_DECIMAL_LEN: usize = 16;

unsafe extern "C" {
    // Raises no error, so that no guard is needed around it.
    fn float_to_shortest_decimal_bufn(number: f32, out: *mut std::ffi::c_char) -> i32;
}

/// Appends a number as the output function of `real` prints it.
pub fn append_real(number: f32, out: &mut Vec<u8>) {
    let mut digits = [0u8; FLOAT_SHORTEST_DECIMAL_LEN];
    // SAFETY: the buffer has the length that PostgreSQL asks for; the function returns how much of it
    // was filled, without a terminating zero.
    let length = unsafe { float_to_shortest_decimal_bufn(number, digits.as_mut_ptr().cast()) };
    out.extend_from_slice(&digits[..usize::try_from(length).unwrap_or(0)]);
}

/// The modifiers of a type as its input function gets them.
pub struct TypeModifiers(Vec<i32>);

impl TypeModifiers {
    /// The integers in parentheses after the type's name.
    pub fn integers(&self) -> &[i32] {
        &self.0
    }
}

// SAFETY: the argument of a type modifier input function is a cstring[].
unsafe impl<'fcx> ArgAbi<'fcx> for TypeModifiers {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller's promise; PostgreSQL raises 22P02 or 22023 for what is no integer.
        unsafe {
            let Some(array) = arg.unbox_arg_using_from_datum::<NumberArray>() else {
                errors::raise_null()
            };
            let mut count = 0;
            let modifiers = pg_sys::ArrayGetIntegerTypmods(array.0.start().cast(), &mut count);
            let count = usize::try_from(count).unwrap_or(0);
            Self(std::slice::from_raw_parts(modifiers, count).to_vec())
        }
    }
}

names_sql_type!(TypeModifiers, "cstring[]");
