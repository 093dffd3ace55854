use std::io::Write;

use super::*;

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
    Source::read(&SourceConfig {
        only,
        fields: vec!["a".to_owned(), "b".to_owned()],
        ..SourceConfig::new(path, kind)
    })
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
    assert_eq!(source.rows[1], ["d", "e"], "an empty third column is no contradiction");
}

#[test]
fn json_lines_and_text_are_read_and_an_empty_source_is_an_error() {
    let content =
        "{\"a\":\"one\",\"b\":\"two\"}\n{\"a\":1}\nno\n{\"b\":[\"x\",\"y\"],\"a\":\"z\"}\n";
    let source_of = source("t.jsonl", content, Kind::Groups, None).expect("two rows");
    assert_eq!(source_of.rows, [vec!["one", "two"], vec!["z", "x", "y"]]);
    assert_eq!(source_of.read.malformed_lines, [2, 3]);
    let text = source("t.txt", "a\n\nb\na\n", Kind::Sentences, None).expect("two rows");
    assert_eq!(text.rows, [["a"], ["b"]]);
    assert!(matches!(source("e.txt", "\n", Kind::Sentences, None), Err(Error::Missing { .. })));
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
