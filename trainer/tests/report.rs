//! `report.html` of a run: one file that opens offline, with curves, an STS table and neighbors; and
//! the card that lies beside the model.

#[path = "../../tests/common_model/mod.rs"]
mod common_model;

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

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

/// A run on a small model; its report's path.
fn report(place: &Path) -> PathBuf {
    let (source, base) = (place.join("source"), place.join("base"));
    write_bert(&source);
    train(&["import", path(&source), "--out", path(&base)]);
    let texts: String = (0..36usize).fold(String::new(), |mut all, at| {
        let word = WORDS[at % 6];
        let _ = writeln!(all, "the <b>{word}</b> & \"cat\" {}", WORDS[at / 6 % 6]);
        all
    });
    std::fs::write(place.join("texts.txt"), format!("{texts}\n\n")).expect("written");
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
    std::fs::write(place.join("sts.tsv"), sts).expect("written");
    let recipe = place.join("recipe.toml");
    let text = "base = \"base\"\nsteps = 6\nmax_tokens = 8\ndev = \"sts.tsv\"\ndev_every = 2\n\
                license = \"CC0-1.0\"\ndims = [8, 4]\n\
                [[source]]\npath = \"texts.txt\"\nkind = \"sentences\"\nbatch = 8\n\
                license = \"CC BY 4.0\"\n";
    std::fs::write(&recipe, text).expect("written");
    let out = place.join("model");
    train(&["train", "--config", path(&recipe), "--out", path(&out)]);
    place.join("model.run/report.html")
}

#[test]
fn the_report_of_a_run_opens_offline_and_shows_curves_scores_and_neighbors() {
    let temp = TempDir::new("report");
    let html = std::fs::read_to_string(report(temp.path()));
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

    let card = std::fs::read_to_string(temp.path().join("model/README.md")).expect("a card");
    for line in ["license: \"CC0-1.0\"\n", "| texts.txt | 36 | Contrastive | CC BY 4.0 |\n"] {
        assert!(card.contains(line), "no {line:?} in {card}");
    }
    let row = |name: &str| card.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    let bf16 = row("| Bf16 |").expect("the packed form's fidelity");
    let mean: f64 = bf16.split(" | ").nth(2).expect("a mean").parse().expect("a number");
    assert!((0.99..=1.000_01).contains(&mean), "{bf16}");
    assert!(row("| mean of seven |").is_some() && row("| Int8 |").is_some(), "{card}");
    let manifest = common_model::read_json(&temp.path().join("model/distilface.json"));
    assert_eq!(manifest["matryoshka_dims"], serde_json::json!([4, 8]), "{manifest}");
}

/// A kill between the last checkpoint and the model once left a report of a dev score of 0.
#[test]
fn a_finished_run_whose_model_is_made_again_reports_the_same_scores() {
    let temp = TempDir::new("again");
    let page = report(temp.path());
    let score = || {
        let html = std::fs::read_to_string(&page).expect("a report");
        html.lines().find(|line| line.starts_with("<p>STS-B dev: last")).map(str::to_owned)
    };
    let first = score().expect("the recipe has dev pairs");
    let metrics = std::fs::read_to_string(temp.path().join("model.run/metrics.jsonl"));
    let scores: Vec<f64> = metrics
        .expect("a run leaves metrics")
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["dev"].as_f64())
        .collect();
    let best = scores.iter().copied().fold(f64::MIN, f64::max);
    let last = scores.last().expect("a score");
    assert_eq!(first, format!("<p>STS-B dev: last {last:.2}, best {best:.2}.</p>"));
    let out = temp.path().join("model");
    std::fs::remove_dir_all(&out).expect("it was written");
    train(&["train", "--config", path(&temp.path().join("recipe.toml")), "--out", path(&out)]);
    assert_eq!(score().expect("the recipe has dev pairs"), first);
}

/// First lines of what came to a proxy.
fn requests(proxy: &TcpListener) -> Vec<String> {
    let mut lines = Vec::new();
    while let Ok((stream, _)) = proxy.accept() {
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout above 0");
        let mut line = String::new();
        // A browser opens connections ahead on which it then asks for nothing: an empty line.
        let _ = BufReader::new(stream).read_line(&mut line);
        lines.push(line.trim().to_owned());
    }
    lines
}

/// What a browser makes of it: no word on the console, nothing asked of the network, and a picture
/// with the curves in it.
#[test]
fn a_browser_shows_the_report_without_a_complaint_or_a_request() {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let version = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
    let Some(browser) = names.iter().find(version) else {
        eprintln!("skipped: no Chromium or Chrome among {names:?}");
        return;
    };
    let temp = TempDir::new("browser");
    let page = report(temp.path());
    // All that the browser asks of the network comes here.
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a free port");
    proxy.set_nonblocking(true).expect("it may look without waiting");
    let picture = temp.path().join("report.png");
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
        .args(["--disable-component-update", "--disable-default-apps", "--enable-logging=stderr"])
        .args(["--disable-domain-reliability", "--disable-client-side-phishing-detection"])
        .arg(
            "--disable-features=OptimizationHints,MediaRouter,Translate,NetworkTimeServiceQuerying",
        )
        .arg(format!("--proxy-server={}", proxy.local_addr().expect("it is bound")))
        .args(["--proxy-bypass-list=<-loopback>", "--window-size=1000,1400"])
        .arg(format!("--user-data-dir={}", path(&temp.path().join("profile"))))
        .arg(format!("--screenshot={}", path(&picture)))
        .arg(format!("file://{}", path(&page)))
        .output()
        .expect("the browser starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let complaints: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    // A browser of Google's asks its maker's servers for things of its own.
    let asked: Vec<String> = requests(&proxy)
        .into_iter()
        .filter(|line| {
            !line.is_empty() && !["google", "gvt1.com"].iter().any(|own| line.contains(own))
        })
        .collect();
    assert!(asked.is_empty(), "the page asked the network: {asked:?}");
    let picture = std::fs::read(&picture).expect("a picture");
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000, "{} bytes", picture.len());
    if let Ok(kept) = std::env::var("DISTILFACE_KEEP_SCREENSHOT") {
        std::fs::write(kept, picture).expect("it is written where it is asked for");
    }
}
