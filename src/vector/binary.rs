//! The binary form, as pgvector's `vector_send` writes it: dimensions (int16), zero (int16), then
//! one IEEE single-precision number per dimension, everything in network byte order.

use super::invalid::{InvalidVector, check, check_dims};

/// Bytes before the numbers.
const HEADER: usize = 4;

/// Why bytes are not the binary form of a vector.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BinaryError {
    /// The message ends early.
    #[error("expected {expected} bytes, got {got}")]
    Truncated {
        /// Length that the header calls for.
        expected: usize,
        /// Length of the message.
        got: usize,
    },
    /// The message goes on after the last number.
    #[error("expected {expected} bytes, got {got}")]
    TooLong {
        /// Length that the header calls for.
        expected: usize,
        /// Length of the message.
        got: usize,
    },
    /// The count of dimensions is below zero.
    #[error("expected at least 1 dimension, got {got}")]
    NegativeDims {
        /// The count.
        got: i16,
    },
    /// The second word is reserved.
    #[error("expected 0 in the reserved word, got {got}")]
    Reserved {
        /// The word.
        got: i16,
    },
    /// Well formed, but not a vector.
    #[error(transparent)]
    Invalid(#[from] InvalidVector),
}

/// Reads a vector; the message must hold nothing else.
///
/// # Errors
/// [`BinaryError`]; no allocation follows the message's own claims before its length is checked.
pub fn decode(message: &[u8]) -> Result<Vec<f32>, BinaryError> {
    let Some((&[d0, d1, r0, r1], numbers)) = message.split_first_chunk::<HEADER>() else {
        return Err(BinaryError::Truncated { expected: HEADER, got: message.len() });
    };
    let dims = i16::from_be_bytes([d0, d1]);
    let dims = usize::try_from(dims).map_err(|_| BinaryError::NegativeDims { got: dims })?;
    check_dims(dims)?;
    match i16::from_be_bytes([r0, r1]) {
        0 => {}
        got => return Err(BinaryError::Reserved { got }),
    }
    let (expected, got) = (HEADER + dims * size_of::<f32>(), message.len());
    if got < expected {
        return Err(BinaryError::Truncated { expected, got });
    }
    if got > expected {
        return Err(BinaryError::TooLong { expected, got });
    }
    let x: Vec<f32> =
        numbers.as_chunks::<4>().0.iter().map(|&bytes| f32::from_be_bytes(bytes)).collect();
    check(&x)?;
    Ok(x)
}

/// Appends the binary form of `x`, which has at most [`super::MAX_DIMS`] dimensions.
///
/// # Panics
/// When there are more dimensions than an int16 counts.
pub fn encode(x: &[f32], out: &mut Vec<u8>) {
    let dims = i16::try_from(x.len()).expect("at most MAX_DIMS dimensions");
    out.reserve(HEADER + size_of_val(x));
    out.extend_from_slice(&dims.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    for v in x {
        out.extend_from_slice(&v.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(dims: i16, reserved: i16, numbers: &[f32]) -> Vec<u8> {
        let mut bytes = [dims.to_be_bytes(), reserved.to_be_bytes()].concat();
        bytes.extend(numbers.iter().flat_map(|v| v.to_be_bytes()));
        bytes
    }

    #[test]
    fn the_bytes_are_those_of_pgvector() {
        let mut bytes = Vec::new();
        encode(&[1.0, -2.5], &mut bytes);
        assert_eq!(bytes, [0, 2, 0, 0, 0x3f, 0x80, 0, 0, 0xc0, 0x20, 0, 0]);
        assert_eq!(decode(&bytes), Ok(vec![1.0, -2.5]));
    }

    #[test]
    fn every_malformed_message_has_its_own_error() {
        use BinaryError::*;
        assert_eq!(decode(&[]), Err(Truncated { expected: 4, got: 0 }));
        assert_eq!(decode(&message(2, 0, &[1.0])), Err(Truncated { expected: 12, got: 8 }));
        assert_eq!(decode(&message(1, 0, &[1.0, 2.0])), Err(TooLong { expected: 8, got: 12 }));
        assert_eq!(decode(&message(0, 0, &[])), Err(Invalid(InvalidVector::NoDimension)));
        assert_eq!(decode(&message(-1, 0, &[])), Err(NegativeDims { got: -1 }));
        assert_eq!(decode(&message(1, 7, &[1.0])), Err(Reserved { got: 7 }));
        let many = decode(&message(16_001, 0, &[0.0; 16_001]));
        assert_eq!(many, Err(Invalid(InvalidVector::TooManyDims { got: 16_001 })));
        let infinite = decode(&message(1, 0, &[f32::INFINITY]));
        let error = InvalidVector::NotFinite { dim: 1, got: f32::INFINITY };
        assert_eq!(infinite, Err(Invalid(error)));
        let nan = decode(&message(2, 0, &[0.0, f32::NAN])).unwrap_err();
        assert_eq!(nan.to_string(), "expected a finite number in dimension 2, got NaN");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_vector_that_encodes_to_them_or_an_error(bytes: Vec<u8>) {
            if let Ok(x) = decode(&bytes) {
                let mut again = Vec::new();
                encode(&x, &mut again);
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn vectors_come_back_bit_by_bit(x in prop::collection::vec(any::<f32>(), 1..100)) {
            let mut bytes = Vec::new();
            encode(&x, &mut bytes);
            match decode(&bytes) {
                Ok(y) => prop_assert!(x.iter().zip(&y).all(|(x, y)| x.to_bits() == y.to_bits())),
                Err(_) => prop_assert!(!x.iter().all(|v| v.is_finite())),
            }
        }
    }
}
