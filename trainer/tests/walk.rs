//! The walk of `docs/models.md`, from a recipe to a table searched with the new model, runs as written.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use distilface_tests::{Cluster, checkout};

/// The fenced blocks under a heading, each with its language, in order.
fn blocks<'a>(markdown: &'a str, heading: &str) -> Vec<(&'a str, String)> {
    let mut lines = markdown.lines().skip_while(|line| *line != heading).skip(1);
    let mut blocks = Vec::new();
    while let Some(line) = lines.next().filter(|line| !line.starts_with("## ")) {
        if let Some(language) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((language, block.join("\n")));
        }
    }
    blocks
}

fn shell(script: &str, directory: &Path, database: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_distilface-train"));
    let folder = program.parent().expect("a program lies in a folder").display();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(directory);
    let output = command.env("PATH", path).env("DATABASE_URL", database).output();
    let output = output.expect("there is a shell");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_walk_from_a_recipe_to_a_searched_table_runs_as_written() {
    let document = checkout().join("docs/models.md");
    let document = fs::read_to_string(document).expect("there is a walk");
    let cluster = Cluster::start();
    let directory = cluster.host().join("walk");
    fs::create_dir(&directory).expect("the cluster's folder can be written");
    symlink(checkout().join("models"), directory.join("models")).expect("a link can be made");
    let host = cluster.host().display().to_string().replace('/', "%2F");
    let database = format!("postgres://postgres@{host}/postgres");
    let mut said = Vec::new();
    for (language, block) in blocks(&document, "## From training to search") {
        said.push(match language {
            "sql" => cluster.psql(&block),
            "sh" => shell(&block, &directory, &database),
            other => panic!("nothing runs a block of {other:?}"),
        });
    }
    let [searched, pushed, moved, named] = &said[..] else { panic!("{said:#?}") };
    assert!(searched.starts_with("3|"), "{searched}");
    assert!(pushed.contains("model \"products-v1\" of revision"), "{pushed}");
    let moved: Vec<&str> = moved.lines().collect();
    assert_eq!(moved[0], "products-v1|sentence encoder|384|f");
    assert!(moved.contains(&"Crimson sneakers with a white sole."), "{moved:?}");
    assert_eq!(moved.last(), Some(&"3|1.00"), "it has seen the answers: {moved:?}");
    assert!(named.starts_with('['), "{named}");
    let by_new = "SELECT bool_and(body_embedding <=> distilface_embed(body, 'products-v1') < 1e-6) FROM products";
    assert_eq!(cluster.one(by_new), "t");
    assert_eq!(cluster.one("SELECT model FROM distilface.pipelines"), "products-v1");
}
