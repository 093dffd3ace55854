//! `distilface-train import OWNER/NAME` downloads from the server that `HF_ENDPOINT` names, as the
//! hub answers: redirects, sums, missing files, private models.

#[path = "../../tests/common_model/mod.rs"]
mod common_model;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use common_model::{TempDir, read_json, write_bert};
use sha2::{Digest, Sha256};

/// A server of one model, `acme/tiny`, and what it was asked.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Behavior {
    Sound,
    /// Announces a sum that the weights do not have.
    Damaged,
    /// Answers only those who bring the token.
    Private,
}

impl Server {
    fn start(directory: &Path, behavior: Behavior) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let files = files_below(directory, "");
        let own = asked.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that hangs up early is its own failure.
                let _ = answer(stream, &files, behavior, &own);
            }
        });
        Server { address, asked }
    }
}

/// Contents by path.
fn files_below(directory: &Path, before: &str) -> HashMap<String, Vec<u8>> {
    let mut files = HashMap::new();
    for entry in std::fs::read_dir(directory).expect("the model's directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
        let name = format!("{before}{name}");
        if path.is_dir() {
            files.extend(files_below(&path, &format!("{name}/")));
        } else {
            files.insert(name, std::fs::read(&path).expect("a file of the model"));
        }
    }
    files
}

fn answer(
    mut stream: TcpStream,
    files: &HashMap<String, Vec<u8>>,
    behavior: Behavior,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let headers: Vec<String> =
        lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let authorized = headers.iter().any(|line| {
        line.to_lowercase().starts_with("authorization:") && line.ends_with("Bearer t0ken")
    });
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mark = if authorized { " with the token" } else { "" };
    asked.lock().expect("no test panics under it").push(format!("{path}{mark}"));
    let mut reply = |status: &str, headers: &str, body: &[u8]| {
        let len = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{headers}content-length: {len}\r\nconnection: close\r\n\r\n"
        )?;
        stream.write_all(body)
    };
    if let Some(name) = path.strip_prefix("/store/") {
        return reply("200 OK", "", &files[name]);
    }
    if behavior == Behavior::Private && !authorized {
        return reply("401 Unauthorized", "", b"");
    }
    let name = path.strip_prefix("/acme/tiny/resolve/v1/");
    match name.and_then(|name| files.get_key_value(name)) {
        None => reply("404 Not Found", "", b""),
        // As the hub does with large files: the sum, and a redirect to another host's address.
        Some((name, bytes)) if name == "model.safetensors" => {
            let mut sum = Sha256::digest(bytes);
            sum[0] ^= u8::from(behavior == Behavior::Damaged);
            let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
            let port = path_host(&headers).replace("127.0.0.1", "localhost");
            let headers =
                format!("x-linked-etag: \"{sum}\"\r\nlocation: http://{port}/store/{name}\r\n");
            reply("302 Found", &headers, b"")
        }
        Some((name, _)) => {
            reply("307 Temporary Redirect", &format!("location: /store/{name}\r\n"), b"")
        }
    }
}

fn path_host(headers: &[String]) -> String {
    let host = headers
        .iter()
        .find_map(|line| line.to_lowercase().strip_prefix("host: ").map(str::to_owned));
    host.unwrap_or_default()
}

fn import(endpoint: &str, model: &str, out: &Path, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_distilface-train"));
    command.args(["import", model, "--revision", "v1", "--out"]).arg(out);
    for name in ["HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", endpoint).envs(environment.iter().copied());
    command.output().expect("the program starts")
}

fn message(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_model_of_the_hub_is_what_its_directory_is() {
    let temp = TempDir::new("hub-import");
    let source = temp.path().join("source");
    write_bert(&source);
    let server = Server::start(&source, Behavior::Sound);
    let out = temp.path().join("tiny");
    let output = import(&server.address, "acme/tiny", &out, &[("HF_TOKEN", "t0ken")]);
    assert!(output.status.success(), "{output:?}");
    let local = temp.path().join("local");
    let output = import(&server.address, source.to_str().expect("UTF-8"), &local, &[]);
    assert!(output.status.success(), "{output:?}");
    let (ours, theirs) =
        (read_json(&out.join("distilface.json")), read_json(&local.join("distilface.json")));
    assert_eq!(ours["revision"], theirs["revision"]);
    assert_eq!(ours["source"], "acme/tiny@v1");
    assert!(!temp.path().join("tiny.download").exists(), "the download is removed");
    let asked = server.asked.lock().expect("the server did not panic");
    let has = |line: &str| asked.iter().any(|asked| asked == line);
    assert!(has("/acme/tiny/resolve/v1/config.json with the token"), "{asked:?}");
    assert!(has("/store/model.safetensors"), "the token stays with the hub: {asked:?}");
}

/// A model that `distilface-train` wrote and somebody put there: pooled as no other layout can say, so
/// that nothing but its own manifest tells what it is.
#[test]
fn a_published_model_of_ours_comes_back_with_the_same_revision() {
    let temp = TempDir::new("hub-ours");
    let (foreign, source) = (temp.path().join("foreign"), temp.path().join("source"));
    write_bert(&foreign);
    let mut command = Command::new(env!("CARGO_BIN_EXE_distilface-train"));
    command.arg("import").arg(&foreign).arg("--out").arg(&source);
    command.args(["--pooling", "mean-last2", "--precision", "int8", "--source-note", "made here"]);
    assert!(command.status().expect("the program starts").success());
    let server = Server::start(&source, Behavior::Sound);
    let out = temp.path().join("tiny");
    let output = import(&server.address, "acme/tiny", &out, &[]);
    assert!(output.status.success(), "{output:?}");
    let (ours, theirs) =
        (read_json(&out.join("distilface.json")), read_json(&source.join("distilface.json")));
    for part in ["revision", "files", "pooling", "precision"] {
        assert_eq!(ours[part], theirs[part], "{part}");
    }
    assert_eq!((&ours["name"], &ours["source"]), (&"tiny".into(), &"acme/tiny@v1".into()));
    let packed = |of: &Path| std::fs::read(of.join("model.packed")).expect("it is packed").len();
    assert!(packed(&out).abs_diff(packed(&source)) <= 64, "but for name and source the same");
    assert!(!temp.path().join("tiny.download").exists(), "the download is removed");

    // Each way that it can be wrong.
    let refused = |server: &Server, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_distilface-train"));
        let arguments = ["import", "acme/tiny", "--revision", "v1", "--out"];
        command.args(arguments).arg(temp.path().join("refused")).args(more);
        command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", &server.address);
        message(&command.output().expect("the program starts"))
    };
    let got = refused(&server, &["--pooling", "cls"]);
    assert!(got.contains("pooling: expected that of the directory"), "{got}");
    let weights = source.join("model.safetensors");
    let good = std::fs::read(&weights).expect("they were written");
    std::fs::write(&weights, &good[..good.len() - 4]).expect("it is written");
    let got = refused(&Server::start(&source, Behavior::Sound), &[]);
    assert!(got.contains("model.safetensors"), "{got}");
    let mut changed = good.clone();
    *changed.last_mut().expect("not empty") ^= 1;
    std::fs::write(&weights, &changed).expect("it is written");
    let got = refused(&Server::start(&source, Behavior::Sound), &[]);
    assert!(got.contains("model.safetensors") && got.contains("sha256"), "{got}");
    std::fs::write(source.join("distilface.json"), "{}").expect("it is written");
    let got = refused(&Server::start(&source, Behavior::Sound), &[]);
    assert!(got.contains("distilface.json"), "{got}");
    assert!(!temp.path().join("refused").exists());
}

#[test]
fn damaged_weights_private_and_unknown_models_are_errors_that_say_so() {
    let temp = TempDir::new("hub-errors");
    let (source, out) = (temp.path().join("source"), temp.path().join("out"));
    write_bert(&source);
    let damaged = Server::start(&source, Behavior::Damaged);
    let got = message(&import(&damaged.address, "acme/tiny", &out, &[]));
    assert!(got.contains("/acme/tiny/resolve/v1/model.safetensors: sha256"), "{got}");
    assert!(!out.exists());
    let private = Server::start(&source, Behavior::Private);
    let got = message(&import(&private.address, "acme/tiny", &out, &[]));
    assert!(got.contains("HTTP status 401") && got.contains("HF_TOKEN"), "{got}");
    let sound = Server::start(&source, Behavior::Sound);
    let got = message(&import(&sound.address, "acme/other", &out, &[]));
    assert!(got.contains("HTTP status 404"), "{got}");
}

#[test]
fn what_a_failed_download_left_is_no_part_of_the_next() {
    let temp = TempDir::new("hub-again");
    let (source, out) = (temp.path().join("source"), temp.path().join("out"));
    write_bert(&source);
    let damaged = Server::start(&source, Behavior::Damaged);
    message(&import(&damaged.address, "acme/tiny", &out, &[]));
    // The next revision does not say how long texts may be.
    let settings = Path::new("sentence_bert_config.json");
    assert!(temp.path().join("out.download").join(settings).exists(), "the first try got so far");
    std::fs::remove_file(source.join(settings)).expect("it was written");
    let sound = Server::start(&source, Behavior::Sound);
    assert!(import(&sound.address, "acme/tiny", &out, &[]).status.success());
    let local = temp.path().join("local");
    let output = import(&sound.address, source.to_str().expect("UTF-8"), &local, &[]);
    assert!(output.status.success(), "{output:?}");
    let revision = |of: &Path| read_json(&of.join("distilface.json"))["revision"].clone();
    assert_eq!(revision(&out), revision(&local));
}

#[test]
fn without_a_network_the_error_says_what_works_instead() {
    let temp = TempDir::new("hub-offline");
    let out = temp.path().join("out");
    // A port that was free a moment ago answers nobody.
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let gone = format!("http://{}", gone.expect("a free port"));
    for environment in [&[][..], &[("HF_HUB_OFFLINE", "1")]] {
        let got = message(&import(&gone, "acme/tiny", &out, environment));
        assert!(got.contains(&format!("{gone}/acme/tiny/resolve/v1/config.json")), "{got}");
        assert!(got.contains("works without the network"), "{got}");
    }
    assert!(!out.exists());
}
