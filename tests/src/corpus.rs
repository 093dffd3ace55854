//! Real texts for the benches.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// What follows the first tab of every `step`-th line of a compressed TSV, `rows` of them at most; the
/// first line is its head.
///
/// # Panics
/// Where gzip is not to be had.
pub fn second_column(data: &Path, step: usize, rows: usize) -> Vec<String> {
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .arg(data)
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip can be started");
    let lines = BufReader::new(gzip.stdout.take().expect("standard output was piped")).lines();
    let texts = lines
        .skip(1)
        .step_by(step)
        .filter_map(|line| Some(line.ok()?.split_once('\t')?.1.replace(['\\', '\t'], " ")))
        .take(rows)
        .collect();
    // Only its first part may have been read.
    let _ = gzip.kill();
    let _ = gzip.wait();
    texts
}
