//! `report.html` of a run: one file that opens offline, with curves, an STS table and neighbors.

#[path = "../../tests/common_model/mod.rs"]
mod common_model;

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output};

use common_model::{TempDir, write_bert};

fn train(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_distilface-train"));
    let output = command.args(arguments).output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    output
}

fn path(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// Tags as (name, attributes), text left out.
fn tags(html: &str) -> Vec<(String, String)> {
    html.split('<')
        .skip(1)
        .map(|part| {
            let (tag, _) = part.split_once('>').expect("every tag ends");
            let (name, attributes) = tag.split_once([' ', '\n']).unwrap_or((tag, ""));
            (name.to_owned(), attributes.to_owned())
        })
        .collect()
}

/// An attribute's value.
fn value<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = attributes.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// In the small model's letters.
const WORDS: [&str; 7] = ["cat", "dog", "sunflower", "a", "morning", "ship", "zoo"];

#[test]
fn the_report_of_a_run_opens_offline_and_shows_curves_scores_and_neighbors() {
    let temp = TempDir::new("report");
    let (source, base) = (temp.path().join("source"), temp.path().join("base"));
    write_bert(&source);
    train(&["import", path(&source), "--out", path(&base)]);
    let texts: String = (0..36usize).fold(String::new(), |mut all, at| {
        let word = WORDS[at % 6];
        let _ = writeln!(all, "the <b>{word}</b> & \"cat\" {}", WORDS[at / 6 % 6]);
        all
    });
    std::fs::write(temp.path().join("texts.txt"), format!("{texts}\n\n")).expect("written");
    let mut sts = String::from("task\tsubset\tsplit\tscore\tsentence1\tsentence2\n");
    for (task, split) in ["STS12", "STS13", "STS14", "STS15", "STS16", "STSB", "SICK-R"]
        .map(|task| (task, "test"))
        .into_iter()
        .chain([("STSB", "dev")])
    {
        for at in 0..6usize {
            let (one, other) = (WORDS[at], WORDS[at * 5 % 7]);
            let _ = writeln!(sts, "{task}\tx\t{split}\t{at}\tthe {one}\t{other}ing");
        }
    }
    std::fs::write(temp.path().join("sts.tsv"), sts).expect("written");
    let recipe = temp.path().join("recipe.toml");
    let text = "base = \"base\"\nsteps = 6\nmax_tokens = 8\ndev = \"sts.tsv\"\ndev_every = 2\n\
                [[source]]\npath = \"texts.txt\"\nkind = \"sentences\"\nbatch = 8\n";
    std::fs::write(&recipe, text).expect("written");
    let out = temp.path().join("model");
    train(&["train", "--config", path(&recipe), "--out", path(&out)]);
    let html = std::fs::read_to_string(temp.path().join("model.run/report.html"));
    let html = html.expect("a run leaves a report");

    assert!(html.starts_with("<!doctype html>"), "{}", &html[..100]);
    let tags = tags(&html);
    let count = |name: &str| tags.iter().filter(|(tag, _)| tag == name).count();
    // Text of the data is no markup, and nothing is loaded from elsewhere.
    let known = [
        "!doctype", "meta", "title", "/title", "style", "/style", "h1", "/h1", "h2", "/h2", "p",
        "/p", "svg", "/svg", "path", "polyline", "text", "/text", "table", "/table", "tr", "th",
        "td", "pre", "/pre",
    ];
    for (name, attributes) in &tags {
        assert!(known.contains(&name.as_str()), "a tag {name}");
        for loaded in ["src=", "href=", "url("] {
            assert!(!attributes.contains(loaded), "{name} {attributes}");
        }
    }
    for name in ["svg", "table", "style", "h2", "p", "pre"] {
        assert_eq!(count(name), count(&format!("/{name}")), "{name} is closed");
    }
    let curves: Vec<&str> = tags
        .iter()
        .filter(|(name, _)| name == "svg")
        .filter_map(|(_, attributes)| value(attributes, "aria-label"))
        .collect();
    assert_eq!(
        curves,
        ["Loss", "Norm of the gradient before clipping", "Spearman × 100 on STS-B dev"]
    );
    for (_, attributes) in tags.iter().filter(|(name, _)| name == "polyline") {
        for point in value(attributes, "points").expect("a curve has points").split(' ') {
            let (x, y) = match point.split_once(',') {
                Some((x, y)) => (x.parse::<f64>(), y.parse::<f64>()),
                None if point.is_empty() => continue,
                None => panic!("a point {point}"),
            };
            let (x, y) = (x.expect("a number"), y.expect("a number"));
            assert!((60.0..=780.0).contains(&x) && (30.0..=220.0).contains(&y), "{x}, {y}");
        }
    }
    for row in ["STS12", "STS16", "SICK-R", "mean of seven", "STS-B dev"] {
        assert!(html.contains(&format!("<tr><td>{row}<td>")), "the table has no {row}");
    }
    let five = html.lines().find(|line| line.starts_with("<tr><td>mean of five"));
    let cells: Vec<&str> = five.expect("the paper's mean").split("<td>").skip(2).collect();
    assert!(cells[..2].iter().all(|cell| cell.parse::<f64>().is_ok()), "{cells:?}");
    assert_eq!(cells[2], "72.1");
    assert!(html.contains("the &lt;b&gt;") && html.contains("&amp; &quot;cat&quot;"));
    assert!(html.contains("<th>text<th>before<th>after"));
}
