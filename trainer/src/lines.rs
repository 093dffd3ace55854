//! Text files, plain or gzip, line by line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::error::Error;

/// The lines of a text file, plain or gzip, with their numbers from 1.
pub fn lines(path: &Path) -> Result<impl Iterator<Item = Result<(usize, String), Error>>, Error> {
    let file = File::open(path).map_err(|source| Error::io(path, source))?;
    let reader: Box<dyn BufRead> = match path.extension() {
        Some(extension) if extension == "gz" => {
            Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file)))
        }
        _ => Box::new(BufReader::new(file)),
    };
    let path = path.to_owned();
    Ok(reader.lines().enumerate().map(move |(at, line)| {
        line.map(|line| (at + 1, line)).map_err(|source| Error::io(&path, source))
    }))
}
