//! What the README shows works as it stands there, and so does the demo.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use distilface_tests::{Cluster, bindir, checkout};

/// The fenced blocks of a language.
fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        if line.trim_end() == format!("```{language}") {
            blocks.push(
                lines.by_ref().take_while(|l| l.trim_end() != "```").collect::<Vec<_>>().join("\n"),
            );
        }
    }
    blocks
}

#[test]
fn every_sql_block_of_the_readme_runs_as_written() {
    let readme = fs::read_to_string(checkout().join("README.md")).expect("there is a README");
    let blocks = blocks(&readme, "sql");
    assert!(!blocks.is_empty(), "the README shows SQL");
    let cluster = Cluster::start();
    // As a reader has it: a database without the extension.
    cluster.sql("CREATE DATABASE reader TEMPLATE template0");
    let mut said = String::new();
    for block in &blocks {
        said.push_str(&cluster.psql_in("reader", block));
    }
    let animals = ["A cat sleeps on the sofa.", "The dog ran after the ball."];
    let first: Vec<&str> =
        said.lines().take(2).map(|l| l.split('|').next().unwrap_or_default()).collect();
    assert!(
        animals.iter().all(|a| first.contains(a)),
        "a search for pets finds both animals: {said}"
    );
}

#[test]
fn the_walk_through_pipelines_runs_as_written() {
    let walk = fs::read_to_string(checkout().join("docs/pipelines.md")).expect("there is a walk");
    let cluster = Cluster::start();
    let said: String = blocks(&walk, "sql").iter().map(|block| cluster.psql(block)).collect();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[..2].contains(&"Cats"), "{said}");
    assert!(lines.contains(&"body|e|trigger|live|4|0|0"), "{said}");
    assert!(lines.contains(&"title|title_vector|queue|live|4|0|0"), "{said}");
    assert!(said.contains("Rates|The central bank"), "{said}");
    assert!(lines.contains(&"2|1.00") && lines.contains(&"1|1"), "nDCG before and after: {said}");
}

#[test]
fn every_make_target_of_the_readme_exists() {
    let readme = fs::read_to_string(checkout().join("README.md")).expect("there is a README");
    let makefile = fs::read_to_string(checkout().join("Makefile")).expect("there is a Makefile");
    let commands =
        readme.lines().filter_map(|l| l.strip_prefix("make ")?.split_whitespace().next());
    let named: Vec<&str> = commands.collect();
    assert!(named.contains(&"demo") && named.contains(&"test"));
    for target in named {
        let rule = format!("{target}:");
        assert!(
            makefile.lines().any(|l| l.starts_with(&rule)),
            "make {target} is not in the Makefile"
        );
    }
}

/// Every tracked markdown file.
fn documents() -> Vec<PathBuf> {
    let listed = Command::new("git").args(["ls-files", "*.md"]).current_dir(checkout()).output();
    let listed = listed.expect("git is there").stdout;
    String::from_utf8_lossy(&listed).lines().map(|file| checkout().join(file)).collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut dead = Vec::new();
    let documents = documents();
    assert!(!documents.is_empty(), "this is a git checkout");
    for document in documents {
        let text = fs::read_to_string(&document).expect("a tracked file can be read");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next()) {
            let elsewhere = link.is_empty() || link.contains("://") || link.starts_with("mailto:");
            if !elsewhere && !document.with_file_name(link).exists() {
                dead.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere: {dead:#?}");
}

/// Runs `demo/run.sh` with a state directory of its own; stops its server when dropped.
struct Demo {
    state: tempfile::TempDir,
}

impl Demo {
    fn run(&self, argument: Option<&str>) -> String {
        let mut command = Command::new(checkout().join("demo/run.sh"));
        command.args(argument).env("DEMO_STATE", self.state.path().join("state"));
        command.env("DEMO_BINDIR", bindir(15).expect("`make pg-trees` makes 15"));
        let output = command.output().expect("bash is there");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        said
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.run(Some("stop"));
    }
}

#[test]
fn the_demo_answers_its_questions_and_can_be_run_again() {
    let demo = Demo { state: tempfile::tempdir().expect("a temporary directory can be made") };
    let first = demo.run(None);
    assert!(first.contains("Index Scan using passages_e"), "{first}");
    let moon = first.split("people who walked on the moon").nth(1).expect("the question is asked");
    let answers: String = moon.lines().take_while(|l| !l.starts_with("Time:")).collect();
    assert!(answers.contains("astronaut") || answers.contains("walk on the Moon"), "{answers}");
    let again = demo.run(None);
    assert!(again.contains("psql -h"), "it says how to open psql: {again}");
}
