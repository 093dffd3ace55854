//! Malformed input of the type `embedding`: an error of class 22 each time, and the session goes on.
//! The core's parsers, which have tests of their own, say what is malformed.

use std::io::Write;

use distilface_core::vector::{binary, literal};
use distilface_tests::{Cluster, Session, size};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A literal that was right before up to three of its characters were changed.
fn mutated_literal(rng: &mut StdRng) -> String {
    const PIECES: [&str; 24] = [
        "[",
        "]",
        ",",
        "",
        " ",
        "\t",
        "-",
        "+",
        ".",
        "e",
        "E",
        "e99",
        "NaN",
        "inf",
        "-Infinity",
        "nan",
        "1e39",
        "x",
        "0x1",
        "é",
        "[]",
        "{1}",
        "1_0",
        "\u{2212}1",
    ];
    let dims = *[0, 1, 1, 2, 3, 5, 8, 100, 16_000, 16_001].choose(rng).expect("there are some");
    let dims = if dims > 1000 && rng.random_range(0..20) > 0 { 4 } else { dims };
    let numbers: Vec<String> =
        (0..dims).map(|_| format!("{}", rng.random_range(-1e3..1e3f32))).collect();
    let mut text = format!("[{}]", numbers.join(","));
    for _ in 0..rng.random_range(0..4) {
        let chars: Vec<char> = text.chars().collect();
        let at = rng.random_range(0..=chars.len());
        let until = (at + rng.random_range(0..3)).min(chars.len());
        let piece = *PIECES.choose(rng).expect("there are some");
        text = chars[..at]
            .iter()
            .chain(&piece.chars().collect::<Vec<_>>())
            .chain(&chars[until..])
            .collect();
    }
    text
}

/// The bytes of a value that was right before something was done to it.
fn mutated_message(rng: &mut StdRng) -> Vec<u8> {
    let numbers: Vec<f32> =
        (0..rng.random_range(1..20)).map(|_| rng.random_range(-1e3..1e3f32)).collect();
    let mut bytes = Vec::new();
    binary::encode(&numbers, &mut bytes);
    match rng.random_range(0..8) {
        0 => bytes.truncate(rng.random_range(0..bytes.len())),
        1 => bytes.extend((0..rng.random_range(1..9)).map(|_| rng.random::<u8>())),
        2 => bytes[..2].copy_from_slice(
            &[0i16, -1, i16::MIN, i16::MAX, 16_001, 16_000]
                .choose(rng)
                .expect("some")
                .to_be_bytes(),
        ),
        3 => bytes[2..4].copy_from_slice(&rng.random_range(1..=i16::MAX).to_be_bytes()),
        4 => {
            let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN];
            let at = 4 * rng.random_range(1..=numbers.len());
            bytes[at..at + 4].copy_from_slice(&bad.choose(rng).expect("some").to_be_bytes());
        }
        5 => bytes = [&16_001i16.to_be_bytes()[..], &[0; 2 + 4 * 16_001]].concat(),
        6 => bytes = (0..rng.random_range(0..40)).map(|_| rng.random()).collect(),
        _ => {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
    }
    bytes
}

fn copy_binary(session: &mut Session, value: &[u8]) -> Result<u64, postgres::Error> {
    let mut copy = session.client().copy_in("COPY t FROM STDIN (FORMAT binary)")?;
    let mut stream = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    stream.extend(1i16.to_be_bytes());
    stream.extend((value.len() as i32).to_be_bytes());
    stream.extend(value);
    stream.extend((-1i16).to_be_bytes());
    copy.write_all(&stream).expect("the client buffers rows");
    copy.finish()
}

#[track_caller]
fn assert_class_22(error: &postgres::Error, what: &dyn std::fmt::Debug) {
    let code = error.code().unwrap_or_else(|| panic!("the connection broke: {error}: {what:?}"));
    assert!(code.code().starts_with("22"), "{}: {error}: {what:?}", code.code());
}

#[test]
fn malformed_literals_are_errors_and_the_session_goes_on() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let pid = session.pid();
    let mut rng = StdRng::seed_from_u64(18);
    let statement = session.client().prepare("SELECT $1::text::embedding::text").expect("SQL");
    let (mut malformed, mut valid) = (0, 0);
    while malformed < size(2_000, 20_000) {
        let text = mutated_literal(&mut rng);
        let result = session.client().query_one(&statement, &[&text]);
        match (literal::parse(text.as_bytes()), result) {
            (Ok(x), Ok(row)) => {
                let printed: String = row.get(0);
                assert_eq!(literal::parse(printed.as_bytes()), Ok(x));
                valid += 1;
            }
            (Err(_), Err(error)) => {
                assert_class_22(&error, &text);
                malformed += 1;
            }
            (core, server) => panic!("{text:?}: {core:?}, but the server: {server:?}"),
        }
    }
    assert!(valid > malformed / 10, "only {valid} valid literals beside {malformed}");
    assert_eq!(session.pid(), pid);
}

#[test]
fn malformed_binary_copy_rows_are_errors_and_the_session_goes_on() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let pid = session.pid();
    session.sql("CREATE TABLE t (e embedding)");
    let mut rng = StdRng::seed_from_u64(18);
    let (mut malformed, mut valid) = (0, 0);
    while malformed < size(2_000, 20_000) {
        let value = mutated_message(&mut rng);
        match (binary::decode(&value), copy_binary(&mut session, &value)) {
            (Ok(_), Ok(1)) => valid += 1,
            (Err(_), Err(error)) => {
                assert_class_22(&error, &value);
                malformed += 1;
            }
            (core, server) => panic!("{value:?}: {core:?}, but the server: {server:?}"),
        }
    }
    assert!(valid > malformed / 30, "only {valid} valid values beside {malformed}");
    assert_eq!(session.one("SELECT count(*) FROM t"), valid.to_string());
    assert_eq!(session.pid(), pid);
}
