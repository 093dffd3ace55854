//! Rows of a Parquet file, as data sets on the hub are kept.
//!
//! Only the columns that `fields` names are read, a row group's page at a time. A column holds
//! strings, or lists of strings, which give all their texts. A row with a null or with no text is
//! malformed and counted by its number from 1. Pages may be plain, snappy, gzip or zstd.

use std::fs::File;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::{Type, TypePtr};

use super::{Line, Rows, row};
use crate::error::Error;
use crate::train::config::{Kind, SourceConfig};

pub fn read(config: &SourceConfig, taken: &mut Rows) -> Result<(), Error> {
    let path = &config.path;
    let broken = |line: usize, error: parquet::errors::ParquetError| {
        Error::data(path, line, "a Parquet file", &error.to_string())
    };
    let file = File::open(path).map_err(|source| Error::io(path, source))?;
    let reader = SerializedFileReader::new(file).map_err(|error| broken(0, error))?;
    let schema = reader.metadata().file_metadata().schema();
    let mut columns: Vec<TypePtr> = Vec::new();
    for field in &config.fields {
        let Some(column) = schema.get_fields().iter().find(|column| column.name() == field) else {
            let names: Vec<&str> = schema.get_fields().iter().map(|column| column.name()).collect();
            return Err(Error::Recipe {
                field: format!("source.fields of {}", path.display()),
                expected: "columns of the file",
                got: format!("{field:?}; it has {}", names.join(", ")),
            });
        };
        columns.push(column.clone());
    }
    let projection = Type::group_type_builder(schema.name())
        .with_fields(columns)
        .build()
        .map_err(|error| broken(0, error))?;
    let rows = reader.get_row_iter(Some(projection)).map_err(|error| broken(0, error))?;
    for (at, found) in rows.enumerate() {
        let found = found.map_err(|error| broken(at + 1, error))?;
        // A projection keeps the file's order of columns; the texts go in that of `fields`.
        let texts: Option<Vec<String>> = config
            .fields
            .iter()
            .map(|name| {
                let (_, field) = found.get_column_iter().find(|(column, _)| *column == name)?;
                texts(field, config.kind)
            })
            .collect::<Option<Vec<_>>>()
            .map(|columns| columns.into_iter().flatten().collect());
        taken.take(at + 1, texts.map_or(Line::Malformed, |texts| row(config.kind, &texts)))?;
    }
    Ok(())
}

/// The texts of a value; none where it holds something else.
fn texts(field: &Field, kind: Kind) -> Option<Vec<String>> {
    match field {
        Field::Str(text) => Some(vec![text.clone()]),
        // Writers that do not mark strings as such leave bytes.
        Field::Bytes(bytes) => Some(vec![bytes.as_utf8().ok()?.to_owned()]),
        Field::ListInternal(list) => {
            let texts = list.elements().iter().map(|element| texts(element, kind));
            Some(texts.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
        }
        // A triplet's hard negative may be missing, and a group be shorter than another.
        Field::Null if matches!(kind, Kind::Triplets | Kind::Groups) => Some(vec![String::new()]),
        _ => None,
    }
}
