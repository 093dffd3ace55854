//! Compiles the built-in models into the library's read-only data.
//!
//! `models/builtin.txt` names them; each `models/NAME/model.packed` is included as it is, at a
//! 64-byte boundary, so that every backend of a server shares its pages and none copies it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::{env, fs};

fn main() {
    let root = PathBuf::from(
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| fail("CARGO_MANIFEST_DIR is not set")),
    )
    .join("..")
    .join("models");
    let list = root.join("builtin.txt");
    println!("cargo::rerun-if-changed={}", list.display());
    let names = fs::read_to_string(&list)
        .unwrap_or_else(|error| fail(&format!("{}: {error}", list.display())));
    let mut code = String::from("pub static BUILTIN: &[Builtin] = &[\n");
    for name in
        names.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let packed = packed_file(&root, name);
        println!("cargo::rerun-if-changed={}", packed.display());
        writeln!(
            code,
            "    Builtin {{ name: {name:?}, packed: &Aligned(*include_bytes!({packed:?})).0 }},"
        )
        .unwrap_or_else(|error| fail(&error.to_string()));
    }
    code.push_str("];\n");
    let out = env::var_os("OUT_DIR").map(PathBuf::from);
    let out = out.unwrap_or_else(|| fail("OUT_DIR is not set")).join("builtin_models.rs");
    fs::write(&out, code).unwrap_or_else(|error| fail(&format!("{}: {error}", out.display())));
}

fn packed_file(root: &Path, name: &str) -> PathBuf {
    let packed = root.join(name).join("model.packed");
    match packed.canonicalize() {
        Ok(path) => path,
        Err(_) => fail(&format!(
            "the built-in model models/{name}/model.packed is missing: the default is in the repository, `git checkout models` brings it back"
        )),
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
