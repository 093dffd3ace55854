//! The text form: `[1,2.5,-3e4]`, read as strictly as pgvector reads it.
//!
//! White space (the six ASCII kinds) may stand around brackets and numbers and nowhere else. A
//! number is what PostgreSQL's `real` takes in decimal form; one too small for single precision
//! becomes 0, one too large is an error, NaN and the infinities are errors of their own. The
//! hexadecimal numbers that pgvector takes because C's `strtof` does are refused.

use std::fmt;

use super::{MAX_DIMS, invalid::InvalidVector};

/// Why text is not a vector.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LiteralError {
    /// The first thing is not `[`.
    #[error("expected \"[\" at the start, got {got}")]
    NoOpeningBracket {
        /// What stands there.
        got: Excerpt,
    },
    /// Not a number where one must be.
    #[error("expected a number in dimension {dim}, got {got}")]
    NotANumber {
        /// Counted from 1.
        dim: usize,
        /// What stands there.
        got: Excerpt,
    },
    /// A number beyond single precision.
    #[error("expected a number of at most 3.4028235e+38 in dimension {dim}, got {got}")]
    OutOfRange {
        /// Counted from 1.
        dim: usize,
        /// The number.
        got: Excerpt,
    },
    /// Neither a comma nor the closing bracket after a number.
    #[error("expected \",\" or \"]\" after dimension {dim}, got {got}")]
    NoDelimiter {
        /// Counted from 1.
        dim: usize,
        /// What stands there.
        got: Excerpt,
    },
    /// Something after the closing bracket.
    #[error("expected nothing after \"]\", got {got}")]
    TrailingText {
        /// What stands there.
        got: Excerpt,
    },
    /// Well formed, but not a vector.
    #[error(transparent)]
    Invalid(#[from] InvalidVector),
}

/// The head of some input, short enough for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt(String);

impl Excerpt {
    /// The head of `rest` in quotes; what is not printable ASCII is escaped, as the input may be in
    /// any encoding.
    pub fn new(rest: &[u8]) -> Excerpt {
        const MAX_BYTES: usize = 40;
        if rest.is_empty() {
            return Excerpt("the end of the input".into());
        }
        let mut text = String::from("\"");
        for &byte in &rest[..rest.len().min(MAX_BYTES)] {
            match byte {
                b' '..=b'~' => text.push(byte.into()),
                _ => text.extend(byte.escape_ascii().map(char::from)),
            }
        }
        text.push_str(if rest.len() > MAX_BYTES { "...\"" } else { "\"" });
        Excerpt(text)
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a vector; `text` may be in any encoding that contains ASCII.
///
/// # Errors
/// [`LiteralError`], at the first thing that is wrong.
pub fn parse(text: &[u8]) -> Result<Vec<f32>, LiteralError> {
    let Some((b'[', rest)) = skip_space(text).split_first() else {
        return Err(LiteralError::NoOpeningBracket { got: Excerpt::new(skip_space(text)) });
    };
    let mut rest = skip_space(rest);
    if rest.first() == Some(&b']') {
        return Err(InvalidVector::NoDimension.into());
    }
    let mut x = Vec::new();
    loop {
        let dim = x.len() + 1;
        if dim > MAX_DIMS {
            return Err(InvalidVector::TooManyDims { got: dim }.into());
        }
        let (value, after) = parse_number(rest, dim)?;
        x.push(value);
        rest = skip_space(after);
        match rest.split_first() {
            Some((b',', after)) => rest = skip_space(after),
            Some((b']', after)) => {
                let after = skip_space(after);
                if !after.is_empty() {
                    return Err(LiteralError::TrailingText { got: Excerpt::new(after) });
                }
                return Ok(x);
            }
            _ => return Err(LiteralError::NoDelimiter { dim, got: Excerpt::new(rest) }),
        }
    }
}

/// The number at the start of `rest` and what follows it.
fn parse_number(rest: &[u8], dim: usize) -> Result<(f32, &[u8]), LiteralError> {
    let end = rest
        .iter()
        .position(|&b| matches!(b, b',' | b'[' | b']') || is_space(b))
        .unwrap_or(rest.len());
    let (token, after) = rest.split_at(end);
    let value = str::from_utf8(token).ok().and_then(|token| token.parse::<f32>().ok());
    match value {
        None => Err(LiteralError::NotANumber {
            dim,
            got: Excerpt::new(if end == 0 { rest } else { token }),
        }),
        Some(v) if v.is_finite() => Ok((v, after)),
        // Infinite for its digits or by its name.
        Some(_) if token.iter().any(u8::is_ascii_digit) => {
            Err(LiteralError::OutOfRange { dim, got: Excerpt::new(token) })
        }
        Some(got) => Err(InvalidVector::NotFinite { dim, got }.into()),
    }
}

fn skip_space(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&b| !is_space(b)).unwrap_or(text.len());
    &text[start..]
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::check, *};

    fn message(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_pgvector_takes_is_taken() {
        for (text, want) in [
            ("[1,2,3]", vec![1.0, 2.0, 3.0]),
            (" [ 1,\t2 ,\n3\r]\x0b\x0c ", vec![1.0, 2.0, 3.0]),
            ("[.5,5.,+1,-0,1e2,1E-2]", vec![0.5, 5.0, 1.0, -0.0, 100.0, 0.01]),
            ("[1e-60,-1e-60]", vec![0.0, -0.0]),
            ("[3.4028235e38]", vec![f32::MAX]),
            ("[1.00000017881393432617187499]", vec![1.0000001]),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(want), "{text}");
        }
        let long = format!("[{}]", vec!["1"; MAX_DIMS].join(","));
        assert_eq!(parse(long.as_bytes()).map(|x| x.len()), Ok(MAX_DIMS));
    }

    #[test]
    fn what_pgvector_refuses_is_refused_with_the_place() {
        assert_eq!(message(""), r#"expected "[" at the start, got the end of the input"#);
        assert_eq!(message("1,2"), r#"expected "[" at the start, got "1,2""#);
        assert_eq!(message("[]"), "expected at least 1 dimension, got 0");
        assert_eq!(message("[ ]"), "expected at least 1 dimension, got 0");
        assert_eq!(message("["), "expected a number in dimension 1, got the end of the input");
        assert_eq!(message("[1,"), "expected a number in dimension 2, got the end of the input");
        assert_eq!(message("[1,]"), r#"expected a number in dimension 2, got "]""#);
        assert_eq!(message("[,1]"), r#"expected a number in dimension 1, got ",1]""#);
        assert_eq!(message("[[1]]"), r#"expected a number in dimension 1, got "[1]]""#);
        assert_eq!(message("[a]"), r#"expected a number in dimension 1, got "a""#);
        assert_eq!(message("[0x10]"), r#"expected a number in dimension 1, got "0x10""#);
        assert_eq!(message("[1e]"), r#"expected a number in dimension 1, got "1e""#);
        assert_eq!(message("[1 2]"), r#"expected "," or "]" after dimension 1, got "2]""#);
        assert_eq!(
            message("[1"),
            r#"expected "," or "]" after dimension 1, got the end of the input"#
        );
        assert_eq!(message("[1]x"), r#"expected nothing after "]", got "x""#);
        assert_eq!(message("[1]]"), r#"expected nothing after "]", got "]""#);
        assert_eq!(message("[1,NaN]"), "expected a finite number in dimension 2, got NaN");
        assert_eq!(message("[-Infinity]"), "expected a finite number in dimension 1, got -inf");
        assert_eq!(
            message("[1e39]"),
            r#"expected a number of at most 3.4028235e+38 in dimension 1, got "1e39""#
        );
        let long = format!("[{}]", vec!["1"; MAX_DIMS + 1].join(","));
        assert_eq!(message(&long), "expected at most 16000 dimensions, got 16001");
        let token = message(&format!("[{}]", "z".repeat(1_000_000)));
        assert!(token.len() < 120 && token.ends_with("...\""), "{token}");
        assert!(parse(b"[\xff\xfe]").is_err());
    }

    proptest! {
        #[test]
        fn finite_numbers_come_back_bit_by_bit(bits in prop::collection::vec(any::<u32>(), 1..50)) {
            let x: Vec<f32> =
                bits.iter().map(|&b| f32::from_bits(b)).filter(|v| v.is_finite()).collect();
            prop_assume!(!x.is_empty());
            let digits: Vec<String> = x.iter().map(|v| format!("{v:e}")).collect();
            let y = parse(format!("[{}]", digits.join(",")).as_bytes()).unwrap();
            prop_assert!(x.iter().zip(&y).all(|(x, y)| x.to_bits() == y.to_bits()), "{x:?}");
        }

        #[test]
        fn any_bytes_give_finite_numbers_or_an_error(
            bytes in prop::collection::vec(
                prop::sample::select(b"[],. \t+-0123456789eEnNaAiIfFxX_\x0b\xff".to_vec()), 0..40)
        ) {
            if let Ok(x) = parse(&bytes) {
                prop_assert!(check(&x).is_ok());
            }
        }
    }
}
