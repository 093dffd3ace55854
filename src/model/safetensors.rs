//! safetensors files: a little-endian u64 header length, a JSON header that names each tensor's
//! type, shape and place, and the data.
//!
//! Our own reader, because a weights file is the largest input that a stranger can hand us: the
//! header is bounded before it is read, and types, shapes and places are checked against each
//! other and against the file's length before a byte of data is touched. The format's rules are
//! kept: places in order, without gap or overlap, up to the end of the file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;

use super::{ModelError, Tensors};

/// Longest header, in bytes. A 24-layer BERT's has 40 thousand.
pub const MAX_HEADER: usize = 4 << 20;
/// Most tensors in a file.
pub const MAX_TENSORS: usize = 8_192;
/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// Element types that are read, and those that may lie beside (BERT's `position_ids`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum DType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of a single.
    BF16,
    /// Not read as weights.
    I64,
    /// Not read as weights.
    I32,
    /// Not read as weights.
    U8,
    /// Not read as weights.
    BOOL,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::I64 => 8,
            DType::U8 | DType::BOOL => 1,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: DType,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Type, shape and place, counted from the file's start, of every tensor.
pub(super) type Header = BTreeMap<String, (DType, Vec<usize>, Range<usize>)>;

/// A tensor in the file.
#[derive(Debug, Clone)]
pub struct TensorView<'d> {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Little-endian elements.
    pub data: &'d [u8],
}

/// A safetensors file in memory.
pub struct SafeTensors {
    bytes: Vec<u8>,
    tensors: Header,
}

impl SafeTensors {
    /// Takes a whole file.
    ///
    /// # Errors
    /// [`ModelError::SafeTensors`]
    pub fn from_bytes(bytes: Vec<u8>) -> Result<SafeTensors, ModelError> {
        let tensors = read_header(&bytes, bytes.len() as u64)?;
        Ok(SafeTensors { bytes, tensors })
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let (dtype, shape, range) = self.tensors.get(name)?;
        let data = &self.bytes[range.clone()];
        Some(TensorView { dtype: *dtype, shape: shape.clone(), data })
    }
}

impl Tensors for SafeTensors {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError> {
        let missing = || ModelError::MissingTensor(name.to_owned());
        let (dtype, got, range) = self.tensors.get(name).ok_or_else(missing)?;
        if got != shape {
            let (expected, got) = (shape.to_vec(), got.clone());
            return Err(ModelError::Shape { name: name.to_owned(), expected, got });
        }
        let data = &self.bytes[range.clone()];
        let values: Vec<f32> = match dtype {
            DType::F32 => data.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect(),
            DType::F16 => {
                data.as_chunks().0.iter().map(|v| f16_to_f32(u16::from_le_bytes(*v))).collect()
            }
            DType::BF16 => {
                let widen = |v: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*v)) << 16);
                data.as_chunks().0.iter().map(widen).collect()
            }
            other => {
                return Err(ModelError::SafeTensors {
                    expected: "weights of type F32, F16 or BF16",
                    got: format!("{other:?} in \"{name}\""),
                });
            }
        };
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(ModelError::NotFinite { name: name.to_owned(), index }),
            None => Ok(Cow::Owned(values)),
        }
    }
}

/// Reads the header at the start of `head`, the file's first bytes, of a file of `file_len`.
/// Places are given from the file's start.
///
/// # Errors
/// [`ModelError::SafeTensors`]
pub(super) fn read_header(head: &[u8], file_len: u64) -> Result<Header, ModelError> {
    let wrong = |expected, got: String| ModelError::SafeTensors { expected, got };
    let Some(len) = head.first_chunk().map(|len| u64::from_le_bytes(*len)) else {
        return Err(wrong("a header length of 8 bytes", format!("{} bytes", head.len())));
    };
    if len < 2 || len > MAX_HEADER as u64 {
        return Err(wrong("a header of 2 bytes to 4 MiB", format!("{len} bytes")));
    }
    let start = 8 + len as usize;
    let Some(json) = head.get(8..start) else {
        return Err(wrong("the whole header", format!("{len} bytes in a file of {file_len}")));
    };
    let entries = parse_entries(json)?;
    if entries.len() > MAX_TENSORS {
        return Err(wrong("at most 8192 tensors", entries.len().to_string()));
    }
    let mut by_place: Vec<(&String, &Entry)> = entries.iter().collect();
    by_place.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut tensors = Header::new();
    let mut end = 0u64;
    for (name, entry) in by_place {
        let [from, to] = entry.data_offsets;
        if entry.shape.len() > MAX_RANK {
            return Err(wrong("at most 8 dimensions", format!("{}", entry.shape.len())));
        }
        let size = entry
            .shape
            .iter()
            .try_fold(entry.dtype.size() as u64, |size, &dim| size.checked_mul(dim))
            .filter(|&size| to.checked_sub(from) == Some(size));
        let (Some(size), true) = (size, from == end) else {
            let got = format!("{:?} {:?} at {from}..{to}", entry.dtype, entry.shape);
            return Err(wrong("tensors side by side, each of its shape's size", got));
        };
        end += size;
        if end > file_len - start as u64 {
            let got = format!("data up to {end} in a file of {file_len} bytes");
            return Err(wrong("data inside the file", got));
        }
        let shape = entry.shape.iter().map(|&dim| dim as usize).collect();
        let range = start + from as usize..start + to as usize;
        tensors.insert(name.clone(), (entry.dtype, shape, range));
    }
    if end != file_len - start as u64 {
        let got = format!("data up to {end} in a file of {file_len} bytes");
        return Err(wrong("data up to the end of the file", got));
    }
    Ok(tensors)
}

/// The header's entries; `__metadata__` is skipped.
fn parse_entries(json: &[u8]) -> Result<BTreeMap<String, Entry>, ModelError> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default, rename = "__metadata__")]
        _metadata: Option<BTreeMap<String, String>>,
        #[serde(flatten)]
        tensors: BTreeMap<String, Entry>,
    }
    match serde_json::from_slice::<Header>(json) {
        Ok(header) => Ok(header.tensors),
        Err(error) => {
            Err(ModelError::SafeTensors { expected: "a JSON header", got: error.to_string() })
        }
    }
}

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct NamedTensor<'d> {
    /// Its name in the file.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub values: Cow<'d, [f32]>,
}

/// How weights are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightsType {
    /// As they are.
    F32,
    /// Rounded to the nearest bfloat16, ties to even: half the size.
    Bf16,
}

/// Writes f32 tensors as a safetensors file.
///
/// # Errors
/// [`ModelError::Shape`] where values and shape disagree.
pub fn write_safetensors(tensors: &[NamedTensor]) -> Result<Vec<u8>, ModelError> {
    write_safetensors_as(tensors, WeightsType::F32)
}

/// Writes tensors as a safetensors file of that type.
///
/// # Errors
/// [`ModelError::Shape`] where values and shape disagree.
pub fn write_safetensors_as(
    tensors: &[NamedTensor],
    weights: WeightsType,
) -> Result<Vec<u8>, ModelError> {
    let shapes: Vec<_> = tensors.iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
    write_safetensors_of(&shapes, weights, &mut |at| Ok(Cow::Borrowed(&tensors[at].values)))
}

/// The same for tensors that are fetched one by one, by their place in `shapes`, so that no two
/// are held at once.
///
/// # Errors
/// What `fetch` says, and [`ModelError::Shape`] where values and shape disagree.
pub(super) fn write_safetensors_of<'d>(
    shapes: &[(String, Vec<usize>)],
    weights: WeightsType,
    fetch: &mut dyn FnMut(usize) -> Result<Cow<'d, [f32]>, ModelError>,
) -> Result<Vec<u8>, ModelError> {
    let (dtype, size) = match weights {
        WeightsType::F32 => ("F32", 4),
        WeightsType::Bf16 => ("BF16", 2),
    };
    let mut header = serde_json::Map::new();
    // transformers refuses a file that does not say which framework's layout it has.
    header.insert("__metadata__".to_owned(), serde_json::json!({ "format": "pt" }));
    let mut end = 0;
    for (name, shape) in shapes {
        let start = end;
        end += size * shape.iter().product::<usize>();
        let entry =
            serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let mut json = serde_json::Value::Object(header).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + json.len() + end);
    bytes.extend_from_slice(&(json.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&json);
    for (at, (name, shape)) in shapes.iter().enumerate() {
        let values = fetch(at)?;
        if shape.iter().product::<usize>() != values.len() {
            let (expected, got) = (shape.clone(), vec![values.len()]);
            return Err(ModelError::Shape { name: name.clone(), expected, got });
        }
        match weights {
            WeightsType::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            WeightsType::Bf16 => {
                bytes.extend(values.iter().flat_map(|value| to_bf16(*value).to_le_bytes()));
            }
        }
    }
    Ok(bytes)
}

/// The nearest bfloat16 of a finite value, ties to even.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let exponent = u32::from(half >> 10 & 0x1F);
    let fraction = u32::from(half & 0x3FF);
    match exponent {
        // A subnormal is its fraction in units of 2^-24.
        0 => f32::from_bits(sign | (fraction as f32 * 2f32.powi(-24)).to_bits()),
        31 => f32::from_bits(sign | 0x7F80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_their_value() {
        for (half, value) in [
            (0x0000, 0.0),
            (0x8000, -0.0),
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x3555, 0.333_251_95),
            (0x0001, 5.960_464_5e-8),
            (0x03FF, 6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x7BFF, 65_504.0),
            (0x7C00, f32::INFINITY),
        ] {
            assert_eq!(f16_to_f32(half).to_bits(), f32::to_bits(value), "{half:04x}");
        }
        assert!(f16_to_f32(0x7C01).is_nan());
    }
}
