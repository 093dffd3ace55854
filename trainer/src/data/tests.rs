use std::io::Write;
use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;

use super::*;
use crate::train::config::RunConfig;

fn source(name: &str, content: &str, kind: Kind, only: Option<&[&str]>) -> Result<Source, Error> {
    let directory = std::env::temp_dir().join(format!("distilface-data-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let path = directory.join(name);
    let file = std::fs::File::create(&path).expect("a temporary file");
    if name.ends_with(".gz") {
        let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gz.write_all(content.as_bytes()).and_then(|()| gz.finish()).expect("it is written");
    } else {
        let mut file = file;
        file.write_all(content.as_bytes()).expect("it is written");
    }
    let only = only.map(|only| only.iter().map(|x| (*x).to_owned()).collect());
    let fields = vec!["a".to_owned(), "b".to_owned()];
    Source::read(&SourceConfig { only, fields, ..SourceConfig::new(path, kind) }, &directory)
}

fn rows(source: &Source) -> Vec<Vec<String>> {
    (0..source.len()).map(|at| source.row(at).expect("it was written")).collect()
}

#[test]
fn malformed_lines_are_counted_with_their_numbers() {
    let content = "x\ta\tb\tc\nx\ta\nx\ta\tb\tc\ny\ta\tb\tc\nx\td\te\t\nx\t\te\tf\n";
    let source =
        source("t.tsv.gz", content, Kind::Triplets, Some(&["x"])).expect("two rows are left");
    let expected = Read {
        lines: 6,
        kept: 2,
        filtered: 1,
        duplicates: 1,
        malformed: 2,
        malformed_lines: vec![2, 6],
    };
    assert_eq!(source.read, expected);
    assert_eq!(rows(&source)[1], ["d", "e"], "an empty third column is no contradiction");
}

/// A single byte of another encoding, as old data has it, once ended the reading.
#[test]
fn a_line_that_is_no_utf8_is_malformed_and_the_next_is_read() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("latin1.txt");
    std::fs::write(&path, b"one\ncaf\xe9\r\ntwo\r\nthree").expect("it is written");
    let source = Source::read(&SourceConfig::new(path, Kind::Sentences), place.path());
    let source = source.expect("three rows");
    assert_eq!(rows(&source), [["one"], ["two"], ["three"]]);
    assert_eq!((source.read.malformed, &source.read.malformed_lines[..]), (1, &[2][..]));
}

#[test]
fn json_lines_and_text_are_read_and_an_empty_source_is_an_error() {
    let content =
        "{\"a\":\"one\",\"b\":\"two\"}\n{\"a\":1}\nno\n{\"b\":[\"x\",\"y\"],\"a\":\"z\"}\n";
    let source_of = source("t.jsonl", content, Kind::Groups, None).expect("two rows");
    assert_eq!(rows(&source_of), [vec!["one", "two"], vec!["z", "x", "y"]]);
    assert_eq!(source_of.read.malformed_lines, [2, 3]);
    let text = source("t.txt", "a\n\nb\na\n", Kind::Sentences, None).expect("two rows");
    assert_eq!(rows(&text), [["a"], ["b"]]);
    assert!(matches!(source("e.txt", "\n", Kind::Sentences, None), Err(Error::Missing { .. })));
}

/// A Parquet file with a column of strings and one of lists of strings.
fn parquet_file(path: &Path, rows: &[(Option<&str>, &[&str])]) {
    let schema = "message rows { optional binary a (UTF8); \
                  required group b (LIST) { repeated group list { \
                  required binary element (UTF8); } } optional int64 id; }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let file = std::fs::File::create(path).expect("a temporary file");
    let mut writer =
        SerializedFileWriter::new(file, schema, Arc::new(properties)).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    let texts =
        |texts: &[&str]| texts.iter().map(|text| ByteArray::from(*text)).collect::<Vec<_>>();
    let a: Vec<&str> = rows.iter().filter_map(|(a, _)| *a).collect();
    let present: Vec<i16> = rows.iter().map(|(a, _)| i16::from(a.is_some())).collect();
    let mut column = group.next_column().expect("it writes").expect("column a");
    let typed = column.typed::<ByteArrayType>();
    typed.write_batch(&texts(&a), Some(&present), None).expect("it is written");
    column.close().expect("it closes");
    let b: Vec<&str> = rows.iter().flat_map(|(_, b)| *b).copied().collect();
    let levels = |level: fn(usize) -> i16| -> Vec<i16> {
        rows.iter().flat_map(|(_, b)| (0..b.len().max(1)).map(level)).collect()
    };
    let filled: Vec<i16> =
        rows.iter().flat_map(|(_, b)| vec![i16::from(!b.is_empty()); b.len().max(1)]).collect();
    let mut column = group.next_column().expect("it writes").expect("column b");
    let typed = column.typed::<ByteArrayType>();
    typed
        .write_batch(&texts(&b), Some(&filled), Some(&levels(|at| i16::from(at > 0))))
        .expect("it is written");
    column.close().expect("it closes");
    let mut column = group.next_column().expect("it writes").expect("column id");
    let ids: Vec<i64> = (0..rows.len() as i64).collect();
    let typed = column.typed::<Int64Type>();
    typed.write_batch(&ids, Some(&vec![1; rows.len()]), None).expect("it is written");
    column.close().expect("it closes");
    group.close().expect("it closes");
    writer.close().expect("it closes");
}

#[test]
fn parquet_columns_give_rows_and_a_null_is_malformed() {
    let directory = std::env::temp_dir().join(format!("distilface-parquet-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let path = directory.join("rows.parquet");
    let written: [(Option<&str>, &[&str]); 5] = [
        (Some("one"), &["eins", "un"]),
        (None, &["zwei"]),
        (Some("three"), &["drei"]),
        (Some("one"), &["eins", "un"]),
        (Some("four"), &[]),
    ];
    parquet_file(&path, &written);
    let read = |fields: &[&str], kind| {
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        Source::read(&SourceConfig { fields, ..SourceConfig::new(path.clone(), kind) }, &directory)
    };
    let source = read(&["b", "a"], Kind::Groups).expect("two rows");
    assert_eq!(rows(&source), [vec!["eins", "un", "one"], vec!["drei", "three"]]);
    assert_eq!(source.read.malformed_lines, [2, 5]);
    assert_eq!((source.read.lines, source.read.duplicates), (5, 1));
    let source = read(&["a"], Kind::Sentences).expect("three rows");
    assert_eq!(rows(&source), [["one"], ["three"], ["four"]]);
    assert_eq!(source.read.malformed_lines, [2]);
    let error = read(&["a", "c"], Kind::Pairs).err().expect("no column c").to_string();
    assert!(error.contains("\"c\"; it has a, b, id"), "{error}");
    let numbers = read(&["id"], Kind::Sentences).err().expect("ids are no texts");
    assert!(matches!(numbers, Error::Missing { .. }), "{numbers}");
    std::fs::write(&path, b"PAR1 but not really").expect("it is written");
    assert!(matches!(read(&["a"], Kind::Sentences), Err(Error::Data { .. })));
    std::fs::remove_dir_all(&directory).expect("it was made above");
}

/// A run's directory is shown around; a password in it would be shown too.
#[test]
fn a_password_does_not_reach_the_run_directory() {
    for (address, kept) in [
        ("postgres://ann:s3cret@host:5433/db", "postgres://ann@host:5433/db"),
        ("postgresql://ann:p@ss@host", "postgresql://ann@host"),
        ("postgres:///db?host=/tmp&password=x&user=ann", "postgres:///db?host=/tmp&user=ann"),
        ("postgres://host/db?password=x", "postgres://host/db"),
        ("postgres://host/a@b:c", "postgres://host/a@b:c"),
    ] {
        assert_eq!(without_password(address), kept);
        let source = SourceConfig {
            query: Some("SELECT body FROM texts".to_owned()),
            ..SourceConfig::new(address.into(), Kind::Sentences)
        };
        let config = RunConfig { sources: vec![source], ..RunConfig::default() };
        config.check().expect("a query with an address");
        assert!(config.to_toml().expect("TOML").contains(&format!("\"{kept}\"")));
    }
    let file = SourceConfig::new("texts.txt".into(), Kind::Sentences);
    let wrong = [
        SourceConfig { query: Some("SELECT 1".to_owned()), ..file.clone() },
        SourceConfig { path: "postgres://host/db".into(), ..file.clone() },
        SourceConfig { only: Some(vec!["x".to_owned()]), ..file },
    ];
    for source in wrong {
        let config = RunConfig { sources: vec![source], ..RunConfig::default() };
        assert!(config.check().is_err());
    }
}

#[test]
fn every_epoch_draws_each_row_once_in_another_order() {
    let mut order = Order::new(50, 3);
    let epochs: Vec<Vec<usize>> =
        (0..3).map(|epoch| (0..50).map(|at| order.row(epoch * 50 + at)).collect()).collect();
    for epoch in &epochs {
        let mut sorted = epoch.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    assert_eq!(Order::new(50, 3).row(120), epochs[2][20], "no state but the number");
}

/// A source of 64 MB once took three times that; now its texts are on disk, and memory holds their
/// places.
#[cfg(target_os = "linux")]
#[test]
fn a_large_source_is_read_in_bounded_memory_and_drawn_in_any_order() {
    const ROWS: usize = 400_000;
    let directory = std::env::temp_dir().join(format!("distilface-large-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let path = directory.join("large.tsv");
    let text = |at: usize| format!("text {at}{}", " of a hundred and sixty bytes".repeat(5));
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).expect("a file"));
    for at in 0..ROWS {
        // Every fourth line came before.
        let at = if at % 4 == 3 { at - 1 } else { at };
        writeln!(file, "{}", text(at)).expect("it is written");
    }
    file.into_inner().expect("it is written");
    let size = std::fs::metadata(&path).expect("it is there").len() as usize;
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("it has a peak");
        let kilobytes = line.split_whitespace().nth(1).expect("a number");
        kilobytes.parse::<usize>().expect("a number") << 10
    };
    let before = peak();
    let source = Source::read(&SourceConfig::new(path, Kind::Sentences), &directory);
    let source = source.expect("many rows");
    let grown = peak() - before;
    assert_eq!((source.len(), source.read.duplicates), (ROWS / 4 * 3, ROWS / 4));
    assert!(grown < size / 2, "{grown} bytes of memory for {size} bytes of text");
    for at in [0, 1, 2, 3, 150_000, ROWS / 4 * 3 - 1] {
        assert_eq!(source.row(at).expect("it was written"), [text(at / 3 * 4 + at % 3)]);
    }
    std::fs::remove_dir_all(&directory).expect("it was made above");
}
