//! Text files, plain or gzip, line by line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::error::Error;

/// The lines of a text file, plain or gzip, with their numbers from 1; [`Error::Data`] for one that is
/// no UTF-8, after which the next is read.
pub fn lines(path: &Path) -> Result<impl Iterator<Item = Result<(usize, String), Error>>, Error> {
    let file = File::open(path).map_err(|source| Error::io(path, source))?;
    let reader: Box<dyn BufRead> = match path.extension() {
        Some(extension) if extension == "gz" => {
            Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file)))
        }
        _ => Box::new(BufReader::new(file)),
    };
    let path = path.to_owned();
    Ok(reader.split(b'\n').enumerate().map(move |(at, line)| {
        let mut line = line.map_err(|source| Error::io(&path, source))?;
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        match String::from_utf8(line) {
            Ok(line) => Ok((at + 1, line)),
            Err(error) => {
                let got = String::from_utf8_lossy(error.as_bytes());
                Err(Error::data(&path, at + 1, "UTF-8", &got))
            }
        }
    }))
}
