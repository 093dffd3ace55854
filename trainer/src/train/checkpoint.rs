//! The state of a run between two steps, in one file that is replaced whole.
//!
//! Bytes: the magic `DFTRAIN1`; the length of a JSON header (u64, little-endian); the header, with
//! the step, the best dev score and the lengths; then the vectors' f32 values, end to end; then the
//! sha256 of everything before. Nothing else is state: what a step draws and drops is a function
//! of the seed and its number.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;

const MAGIC: [u8; 8] = *b"DFTRAIN1";
const MAX_HEADER: u64 = 1 << 20;

/// What goes on after a kill.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checkpoint {
    /// Steps done.
    pub step: usize,
    /// The best dev score so far.
    pub best: Option<f64>,
    /// Weights, moments, average, best weights: in the order of the run.
    pub vectors: Vec<Vec<f32>>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    step: usize,
    best: Option<f64>,
    lengths: Vec<usize>,
}

impl Checkpoint {
    /// Writes beside `path` and renames, so that a kill leaves the old one or the new one.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn write(
        path: &Path,
        step: usize,
        best: Option<f64>,
        vectors: &[&[f32]],
    ) -> Result<(), Error> {
        let io = |source| Error::io(path, source);
        let lengths = vectors.iter().map(|vector| vector.len()).collect();
        let header =
            serde_json::to_vec(&Header { step, best, lengths }).map_err(|e| io(e.into()))?;
        let partial = path.with_extension("partial");
        let mut file = File::create(&partial).map_err(io)?;
        let mut hasher = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            file.write_all(bytes)
        };
        put(&MAGIC).map_err(io)?;
        put(&(header.len() as u64).to_le_bytes()).map_err(io)?;
        put(&header).map_err(io)?;
        let mut bytes = Vec::new();
        for block in vectors.iter().flat_map(|vector| vector.chunks(1 << 16)) {
            bytes.clear();
            bytes.extend(block.iter().flat_map(|x| x.to_le_bytes()));
            put(&bytes).map_err(io)?;
        }
        let digest = hasher.finalize();
        file.write_all(&digest).and_then(|()| file.sync_all()).map_err(io)?;
        std::fs::rename(&partial, path).map_err(io)
    }

    /// Reads and checks one.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Missing`] where it is damaged.
    pub fn read(path: &Path) -> Result<Checkpoint, Error> {
        let mut bytes = Vec::new();
        let mut file = File::open(path).map_err(|source| Error::io(path, source))?;
        file.read_to_end(&mut bytes).map_err(|source| Error::io(path, source))?;
        let damaged = || Error::missing(path, "a whole checkpoint");
        let (content, digest) = bytes.split_last_chunk::<32>().ok_or_else(damaged)?;
        if Sha256::digest(content)[..] != digest[..] {
            return Err(damaged());
        }
        let (head, rest) = content.split_first_chunk::<16>().ok_or_else(damaged)?;
        let (magic, len) = head.split_first_chunk::<8>().ok_or_else(damaged)?;
        let len = len.first_chunk().map(|len| u64::from_le_bytes(*len)).ok_or_else(damaged)?;
        if *magic != MAGIC || len > MAX_HEADER {
            return Err(damaged());
        }
        let (header, mut rest) = rest.split_at_checked(len as usize).ok_or_else(damaged)?;
        let header: Header = serde_json::from_slice(header).map_err(|_| damaged())?;
        let mut vectors = Vec::new();
        for len in header.lengths {
            let size = len.checked_mul(4).ok_or_else(damaged)?;
            let (own, others) = rest.split_at_checked(size).ok_or_else(damaged)?;
            vectors.push(own.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect());
            rest = others;
        }
        Ok(Checkpoint { step: header.step, best: header.best, vectors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_back_and_damage_is_refused() {
        let name = format!("distilface-checkpoint-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let vectors = [vec![1.5, -2.0], vec![], vec![0.25; 70_000]];
        let slices: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
        Checkpoint::write(&path, 7, Some(80.5), &slices).expect("it is written");
        let read = Checkpoint::read(&path).expect("it is whole");
        assert_eq!(read, Checkpoint { step: 7, best: Some(80.5), vectors: vectors.to_vec() });
        let mut bytes = std::fs::read(&path).expect("it is there");
        bytes[200] ^= 1;
        std::fs::write(&path, &bytes).expect("it is written");
        assert!(Checkpoint::read(&path).is_err());
        std::fs::write(&path, &bytes[..100]).expect("it is written");
        assert!(Checkpoint::read(&path).is_err());
        std::fs::remove_file(&path).expect("it was there");
    }
}
