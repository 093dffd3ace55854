//! What every vector that enters must hold, whatever form it comes in.

use super::MAX_DIMS;

/// Why numbers do not make a vector.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum InvalidVector {
    /// No dimension at all.
    #[error("expected at least 1 dimension, got 0")]
    NoDimension,
    /// More than [`MAX_DIMS`] dimensions.
    #[error("expected at most {MAX_DIMS} dimensions, got {got}")]
    TooManyDims {
        /// The count; a parser that stops early says the least that it can be.
        got: usize,
    },
    /// NaN or infinite.
    #[error("expected a finite number in dimension {dim}, got {got}")]
    NotFinite {
        /// Counted from 1.
        dim: usize,
        /// The number.
        got: f32,
    },
}

/// Checks the number of dimensions: 1 to [`MAX_DIMS`].
///
/// # Errors
/// [`InvalidVector::NoDimension`], [`InvalidVector::TooManyDims`].
pub fn check_dims(dims: usize) -> Result<(), InvalidVector> {
    match dims {
        0 => Err(InvalidVector::NoDimension),
        1..=MAX_DIMS => Ok(()),
        got => Err(InvalidVector::TooManyDims { got }),
    }
}

/// Checks the dimensions and that every number is finite.
///
/// # Errors
/// [`InvalidVector`].
pub fn check(x: &[f32]) -> Result<(), InvalidVector> {
    check_dims(x.len())?;
    match x.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => Err(InvalidVector::NotFinite { dim: at + 1, got: x[at] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_numbers_in_allowed_dimensions_pass() {
        assert_eq!(check(&[]), Err(InvalidVector::NoDimension));
        assert_eq!(check(&[1.0; MAX_DIMS]), Ok(()));
        assert_eq!(check(&[1.0; MAX_DIMS + 1]), Err(InvalidVector::TooManyDims { got: 16_001 }));
        let error = check(&[0.0, f32::NEG_INFINITY]).unwrap_err();
        assert_eq!(error.to_string(), "expected a finite number in dimension 2, got -inf");
    }
}
