//! Filter columns: the key columns after the first, their values as bytes, and `WHERE` clauses on them.
//!
//! A column's key is a byte that is 0 for NULL and then a value of fixed width whose bytes compare as
//! the values do (`docs/on-disk-format.md`), so every clause becomes a set of intervals of keys. What
//! the index cannot decide by its keys is left to the executor, which then looks at each row that
//! comes: all clauses on text, of which the index keeps a hash and, with collation "C", the beginning;
//! and clauses on the first column.

use super::index::IndexRelation;
use crate::pg::report::Report;
use crate::pg::varlena::Plain;
use distilface_core::hnsw::{Condition, Filter};
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::{PgTupleDesc, pg_sys};

/// Strategies 1 and 2 order by a distance; see `sql/hnsw.sql`.
const LESS: u16 = 3;
const LESS_EQUAL: u16 = 4;
const EQUAL: u16 = 5;
const GREATER_EQUAL: u16 = 6;
const GREATER: u16 = 7;

/// Bytes of a text that its key begins with.
const PREFIX_LEN: usize = 8;

/// Inclusive bounds of keys.
type Interval = (Vec<u8>, Vec<u8>);

/// The filter columns of an index.
pub struct FilterColumns(Vec<FilterColumn>);

struct FilterColumn {
    kind: Kind,
    collation: pg_sys::Oid,
    /// Where its key begins among a row's attributes.
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Uuid,
    /// Under a collation that compares bytes the key tells the order as well.
    Text(Order),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Bytes,
    Unknown,
}

/// What a scan's clauses ask for.
pub struct Wanted {
    /// What the index decides by its keys; nothing where there is no clause on filter columns.
    pub filter: Option<Filter>,
    /// Who decides on a row that the index hands out.
    pub decides: Decides,
}

/// Who decides whether a row meets the clauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decides {
    /// The index has.
    Index,
    /// The executor does: the index hands out rows that may not meet them.
    Executor,
}

impl FilterColumns {
    /// The key columns after the first.
    ///
    /// # Errors
    /// Raises 0A000 where a column is of a type that filters nothing: a second vector, or of an
    /// operator class that is none of ours.
    pub fn of(index: IndexRelation) -> Self {
        let mut columns = Vec::new();
        let mut at = 0;
        // SAFETY: an open index's catalog row and arrays have an entry for each key column.
        let count = unsafe { (*(*index.as_raw()).rd_index).indnkeyatts as usize };
        for column in 1..count {
            // SAFETY: as above.
            let (input, collation) = unsafe {
                let relation = &*index.as_raw();
                (*relation.rd_opcintype.add(column), *relation.rd_indcollation.add(column))
            };
            let Some(kind) = Kind::of(input, collation) else { refuse(index, column) };
            columns.push(FilterColumn { kind, collation, at });
            at += 1 + kind.width();
        }
        Self(columns)
    }

    /// Bytes of a row's attributes.
    pub fn len(&self) -> usize {
        self.0.last().map_or(0, |last| last.at + 1 + last.kind.width())
    }

    /// A row's attributes.
    ///
    /// # Safety
    /// Both arrays have an entry for each key column of the index, of the column's type.
    pub unsafe fn encode(&self, values: *const pg_sys::Datum, is_null: *const bool) -> Vec<u8> {
        let mut attrs = Vec::with_capacity(self.len());
        for (i, column) in self.0.iter().enumerate() {
            // SAFETY: the caller's promise; filter columns follow the first.
            let value = unsafe { (!*is_null.add(i + 1)).then(|| *values.add(i + 1)) };
            match value {
                // SAFETY: the caller's promise.
                Some(value) => attrs.extend(unsafe { column.key(value) }),
                None => attrs.extend(column.kind.filled(0, 0)),
            }
        }
        attrs
    }

    /// What the scan keys ask for.
    ///
    /// # Safety
    /// The keys are those of a scan of the index.
    pub unsafe fn wanted(&self, keys: &[pg_sys::ScanKeyData]) -> Wanted {
        let mut wanted = Wanted { filter: None, decides: Decides::Index };
        let mut conditions = Vec::new();
        for key in keys {
            // Attribute numbers begin at 1, filter columns with 2.
            let number = usize::try_from(key.sk_attno).unwrap_or(0);
            let Some(column) = number.checked_sub(2).and_then(|at| self.0.get(at)) else {
                wanted.decides = Decides::Executor;
                continue;
            };
            if matches!(column.kind, Kind::Text(_)) {
                wanted.decides = Decides::Executor;
            }
            // SAFETY: the caller's promise.
            let intervals = unsafe { column.intervals(key) };
            conditions.push(Condition::new(column.at, 1 + column.kind.width(), &intervals));
        }
        wanted.filter = (!conditions.is_empty()).then(|| Filter::new(conditions));
        wanted
    }
}

fn refuse(index: IndexRelation, column: usize) -> ! {
    // SAFETY: an open index's description has an entry for each column.
    let name = unsafe {
        let columns = PgTupleDesc::from_pg_unchecked((*index.as_raw()).rd_att);
        columns.get(column).map_or_else(String::new, |column| column.name().to_owned())
    };
    Report::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("column \"{name}\" cannot filter a distilface_hnsw index"),
    )
    .hint(
        "The vector or text column comes first, one to an index; columns to filter by follow: \
         boolean, integers, text, uuid, date, timestamp.",
    )
    .raise()
}

impl Kind {
    fn of(input: pg_sys::Oid, collation: pg_sys::Oid) -> Option<Self> {
        Some(match input {
            pg_sys::BOOLOID => Self::Bool,
            pg_sys::INT2OID => Self::Int2,
            pg_sys::INT4OID | pg_sys::DATEOID => Self::Int4,
            pg_sys::INT8OID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => Self::Int8,
            pg_sys::UUIDOID => Self::Uuid,
            pg_sys::TEXTOID => Self::Text(Order::of(collation)),
            _ => return None,
        })
    }

    /// Bytes of a value in a key.
    fn width(self) -> usize {
        match self {
            Self::Bool => 1,
            Self::Int2 => 2,
            Self::Int4 => 4,
            Self::Int8 => 8,
            Self::Uuid | Self::Text(_) => 16,
        }
    }

    /// The key with this first byte and nothing but `fill` behind it.
    fn filled(self, null: u8, fill: u8) -> Vec<u8> {
        let mut key = vec![fill; 1 + self.width()];
        key[0] = null;
        key
    }

    /// Every value but NULL.
    fn any_value(self) -> Interval {
        (self.filled(1, 0), self.filled(1, 0xff))
    }

    /// Least and greatest value of a type that is a number.
    fn number_range(self) -> (i64, i64) {
        match self {
            Self::Bool => (0, 1),
            Self::Int2 => (i16::MIN.into(), i16::MAX.into()),
            Self::Int4 => (i32::MIN.into(), i32::MAX.into()),
            _ => (i64::MIN, i64::MAX),
        }
    }

    fn number_key(self, number: i64) -> Vec<u8> {
        let mut key = vec![1];
        match self {
            Self::Bool => key.push(number as u8),
            Self::Int2 => key.extend((number as u16 ^ 1 << 15).to_be_bytes()),
            Self::Int4 => key.extend((number as u32 ^ 1 << 31).to_be_bytes()),
            _ => key.extend((number as u64 ^ 1 << 63).to_be_bytes()),
        }
        key
    }
}

impl Order {
    /// The collations that compare bytes in every version and database.
    fn of(collation: pg_sys::Oid) -> Self {
        const POSIX_COLLATION_OID: u32 = 951;
        match collation == pg_sys::C_COLLATION_OID || collation.to_u32() == POSIX_COLLATION_OID {
            true => Self::Bytes,
            false => Self::Unknown,
        }
    }
}

impl FilterColumn {
    /// # Safety
    /// `value` is a non-null value of the column's type.
    unsafe fn key(&self, value: pg_sys::Datum) -> Vec<u8> {
        match self.kind {
            // SAFETY: the caller's promise.
            Kind::Uuid => unsafe { uuid_key(value) },
            // SAFETY: the caller's promise.
            Kind::Text(order) => unsafe { self.text_key(value, order) },
            kind => kind.number_key(number(kind, value)),
        }
    }

    /// # Safety
    /// `value` is a non-null text.
    unsafe fn text_key(&self, value: pg_sys::Datum, order: Order) -> Vec<u8> {
        // SAFETY: the caller's promise.
        let text = unsafe { Plain::from_datum(value) };
        let mut key = vec![1; 1];
        key.extend(prefix(&text, order));
        // SAFETY: PostgreSQL's own hash function of text, which uses the collation where equal texts
        // may differ in their bytes; the text is plain.
        let hash = unsafe {
            let (text, seed) = (pg_sys::Datum::from(text.start()), pg_sys::Datum::from(0i64));
            let hash = pg_sys::F_HASHTEXTEXTENDED.into();
            pg_sys::OidFunctionCall2Coll(hash, self.collation, text, seed).value() as u64
        };
        key.extend(hash.to_be_bytes());
        key
    }

    /// Keys that may meet the clause; none that cannot be left out.
    ///
    /// # Safety
    /// The key is one of a scan of the index, on this column.
    unsafe fn intervals(&self, key: &pg_sys::ScanKeyData) -> Vec<Interval> {
        let flags = key.sk_flags as u32;
        if flags & pg_sys::SK_SEARCHNULL != 0 {
            return vec![(self.kind.filled(0, 0), self.kind.filled(0, 0))];
        }
        if flags & pg_sys::SK_SEARCHNOTNULL != 0 {
            return vec![self.kind.any_value()];
        }
        // The operators are strict.
        if flags & pg_sys::SK_ISNULL != 0 {
            return Vec::new();
        }
        let (strategy, subtype) = (key.sk_strategy, key.sk_subtype);
        if flags & pg_sys::SK_SEARCHARRAY == 0 {
            // SAFETY: the argument is a value of the operator's right type.
            return unsafe { self.interval(strategy, subtype, key.sk_argument) }
                .into_iter()
                .collect();
        }
        // SAFETY: the argument is an array of the operator's right type.
        unsafe {
            array_elements(key.sk_argument)
                .into_iter()
                .filter_map(|value| self.interval(strategy, subtype, value))
                .collect()
        }
    }

    /// # Safety
    /// `value` is a non-null value of type `subtype`, the operator's right one.
    unsafe fn interval(
        &self,
        strategy: u16,
        subtype: pg_sys::Oid,
        value: pg_sys::Datum,
    ) -> Option<Interval> {
        let kind = self.kind;
        match kind {
            Kind::Text(order) => {
                // SAFETY: the caller's promise.
                unsafe { self.text_interval(strategy, value, order) }
            }
            Kind::Uuid => {
                // SAFETY: the caller's promise.
                let key = unsafe { uuid_key(value) };
                let (first, last) = kind.any_value();
                Some(match strategy {
                    // The bound itself is left to no one: step past it.
                    LESS => (first, step(key, Direction::Down)?),
                    LESS_EQUAL => (first, key),
                    EQUAL => (key.clone(), key),
                    GREATER_EQUAL => (key, last),
                    GREATER => (step(key, Direction::Up)?, last),
                    _ => return Some(kind.any_value()),
                })
            }
            _ => {
                // An operator of two integer types compares with a value of the other one.
                let other = match subtype {
                    pg_sys::INT2OID => Kind::Int2,
                    pg_sys::INT4OID => Kind::Int4,
                    pg_sys::INT8OID => Kind::Int8,
                    _ => kind,
                };
                let (first, last) = kind.number_range();
                let bound = number(other, value);
                let (low, high) = match strategy {
                    LESS => (first, bound.checked_sub(1)?),
                    LESS_EQUAL => (first, bound),
                    EQUAL => (bound, bound),
                    GREATER_EQUAL => (bound, last),
                    GREATER => (bound.checked_add(1)?, last),
                    _ => (first, last),
                };
                let (low, high) = (low.max(first), high.min(last));
                (low <= high).then(|| (kind.number_key(low), kind.number_key(high)))
            }
        }
    }

    /// # Safety
    /// `value` is a non-null text.
    unsafe fn text_interval(
        &self,
        strategy: u16,
        value: pg_sys::Datum,
        order: Order,
    ) -> Option<Interval> {
        let (first, last) = self.kind.any_value();
        if strategy == EQUAL {
            // SAFETY: the caller's promise.
            let key = unsafe { self.text_key(value, order) };
            return Some((key.clone(), key));
        }
        if order == Order::Unknown {
            return Some((first, last));
        }
        // SAFETY: the caller's promise.
        let prefix = prefix(&unsafe { Plain::from_datum(value) }, order);
        let bound = |fill| [&[1][..], &prefix, &[fill; 16 - PREFIX_LEN]].concat();
        match strategy {
            LESS | LESS_EQUAL => Some((first, bound(0xff))),
            GREATER | GREATER_EQUAL => Some((bound(0), last)),
            _ => Some((first, last)),
        }
    }
}

/// The beginning of a text; zeros where the collation does not compare bytes. A text holds no zero
/// byte, so that a shorter text comes before a longer one that begins with it.
fn prefix(text: &Plain<'_>, order: Order) -> [u8; PREFIX_LEN] {
    let mut prefix = [0; PREFIX_LEN];
    if order == Order::Bytes {
        let bytes = &text.bytes()[size_of::<u32>()..];
        let len = bytes.len().min(PREFIX_LEN);
        prefix[..len].copy_from_slice(&bytes[..len]);
    }
    prefix
}

/// A value of a type that is a number; of a date or a time it is its count of days or microseconds,
/// with the infinities at both ends.
fn number(kind: Kind, value: pg_sys::Datum) -> i64 {
    match kind {
        Kind::Bool => i64::from(value.value() as u8 != 0),
        Kind::Int2 => (value.value() as i16).into(),
        Kind::Int4 => (value.value() as i32).into(),
        _ => value.value() as i64,
    }
}

/// # Safety
/// `value` is a uuid.
unsafe fn uuid_key(value: pg_sys::Datum) -> Vec<u8> {
    // SAFETY: a uuid is a pointer to 16 bytes.
    let bytes = unsafe { *value.cast_mut_ptr::<[u8; 16]>() };
    [&[1][..], &bytes].concat()
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

/// The next key up or down, of the same first byte; nothing past the last.
fn step(mut key: Vec<u8>, direction: Direction) -> Option<Vec<u8>> {
    for byte in key[1..].iter_mut().rev() {
        let (next, carries) = match direction {
            Direction::Up => byte.overflowing_add(1),
            Direction::Down => byte.overflowing_sub(1),
        };
        *byte = next;
        if !carries {
            return Some(key);
        }
    }
    None
}

/// The elements of an array but for NULLs: `= ANY` is true for none of these.
///
/// # Safety
/// `array` is a non-null array.
unsafe fn array_elements(array: pg_sys::Datum) -> Vec<pg_sys::Datum> {
    // SAFETY: detoasting gives a plain array; its head names the type of its elements, which the
    // catalog knows.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let (mut length, mut by_value, mut align) = (0i16, false, 0);
        let element = (*array).elemtype;
        pg_sys::get_typlenbyvalalign(element, &mut length, &mut by_value, &mut align);
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            element,
            length.into(),
            by_value,
            align,
            &mut values,
            &mut nulls,
            &mut count,
        );
        (0..usize::try_from(count).unwrap_or(0))
            .filter(|&at| !*nulls.add(at))
            .map(|at| *values.add(at))
            .collect()
    }
}
