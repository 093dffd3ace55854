//! Rows in a file without a name, so that a source may be larger than memory.
//!
//! Reading a source writes its rows one after another; what stays in memory is where each row lies
//! and, until reading ends, a fingerprint of it (by which duplicates are found and a database's
//! rows get an order). The file is unlinked from the start: it goes with the process.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use distilface_core::training::mix;

use crate::error::Error;

/// Bytes of a row: each text's length (u32, little-endian), then the text.
#[derive(Clone, Copy)]
struct Place {
    at: u64,
    len: u32,
}

/// Rows as they come.
pub struct SpoolWriter {
    file: BufWriter<File>,
    directory: PathBuf,
    places: Vec<Place>,
    fingerprints: Vec<u64>,
    end: u64,
    bytes: Vec<u8>,
}

/// Rows that can be read in any order.
pub struct Spool {
    file: File,
    directory: PathBuf,
    places: Vec<Place>,
}

/// 64 bits that tell rows apart, the same on every machine.
pub fn fingerprint(row: &[String]) -> u64 {
    row.iter().fold(0, |key, text| {
        let key = mix(key ^ text.len() as u64);
        text.as_bytes().chunks(8).fold(key, |key, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(key ^ u64::from_le_bytes(word))
        })
    })
}

impl SpoolWriter {
    /// A new file in a directory.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn new(directory: &Path) -> Result<SpoolWriter, Error> {
        let file = tempfile::tempfile_in(directory).map_err(|e| Error::io(directory, e))?;
        Ok(SpoolWriter {
            file: BufWriter::with_capacity(1 << 18, file),
            directory: directory.to_owned(),
            places: Vec::new(),
            fingerprints: Vec::new(),
            end: 0,
            bytes: Vec::new(),
        })
    }

    /// Adds a row, whose fingerprint the caller knows.
    ///
    /// # Errors
    /// [`Error::Io`], as where the disk is full.
    pub fn push(&mut self, row: &[String], fingerprint: u64) -> Result<(), Error> {
        self.bytes.clear();
        for text in row {
            self.bytes.extend((text.len() as u32).to_le_bytes());
            self.bytes.extend(text.as_bytes());
        }
        let io = |source| Error::io(&self.directory, source);
        let len = u32::try_from(self.bytes.len());
        let len = len.map_err(|_| io(std::io::Error::other("a row of 4 GiB or more")))?;
        self.file.write_all(&self.bytes).map_err(io)?;
        self.places.push(Place { at: self.end, len });
        self.fingerprints.push(fingerprint);
        self.end += u64::from(len);
        Ok(())
    }

    /// Ends writing; rows keep their order, or get one that depends on the rows alone.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn finish(self, order: RowOrder) -> Result<Spool, Error> {
        let SpoolWriter { file, directory, mut places, fingerprints, .. } = self;
        let file = file.into_inner().map_err(|e| Error::io(&directory, e.into_error()))?;
        if order == RowOrder::ByContent {
            let mut sorted: Vec<(u64, Place)> = fingerprints.into_iter().zip(places).collect();
            sorted.sort_unstable_by_key(|(fingerprint, _)| *fingerprint);
            places = sorted.into_iter().map(|(_, place)| place).collect();
        }
        places.shrink_to_fit();
        Ok(Spool { file, directory, places })
    }
}

/// In which order rows are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    AsTheyCame,
    ByContent,
}

impl Spool {
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Keeps some rows, in the order of `which`.
    pub fn keep(&mut self, which: &[usize]) {
        self.places = which.iter().map(|at| self.places[*at]).collect();
    }

    /// The texts of row `at`.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn row(&self, at: usize) -> Result<Vec<String>, Error> {
        let Place { at, len } = self.places[at];
        let mut bytes = vec![0; len as usize];
        let io = |source| Error::io(&self.directory, source);
        self.file.read_exact_at(&mut bytes, at).map_err(io)?;
        let damaged = || io(std::io::Error::other("the rows' file was changed"));
        let (mut texts, mut rest) = (Vec::new(), &bytes[..]);
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let text = tail.split_at_checked(u32::from_le_bytes(*len) as usize);
            let (text, tail) = text.ok_or_else(damaged)?;
            texts.push(String::from_utf8(text.to_vec()).map_err(|_| damaged())?);
            rest = tail;
        }
        Ok(texts)
    }
}
