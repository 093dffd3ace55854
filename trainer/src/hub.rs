//! Models from the Hugging Face hub, file by file over its HTTP interface.
//!
//! `import owner/name` downloads into `OUT.download`, imports that directory as any other and
//! removes it. `HF_ENDPOINT` names another server (a mirror), `HF_TOKEN` opens private models and
//! is sent to that server only, never to where it redirects; `HF_HUB_OFFLINE=1` forbids it all. A
//! large file's sha256, which the hub announces, is compared. Files that a model may lack
//! (`modules.json`, a pooling's settings) are skipped where the hub has none. Where there is a
//! `distilface.json`, the model is one of ours, and its manifest says which files it has.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::time::Duration;

use distilface_core::model::MANIFEST_FILE;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use crate::error::Error;
use crate::import;

const PUBLIC: &str = "https://huggingface.co";

/// Redirects that are followed from one file.
const MOST_REDIRECTS: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

const CONFIG_FILE: &str = "config.json";

/// What `import` reads beside it of a model that is not ours.
const FILES: [(&str, Need); 9] = [
    ("tokenizer.json", Need::Optional),
    ("vocab.txt", Need::Optional),
    ("tokenizer_config.json", Need::Optional),
    ("special_tokens_map.json", Need::Optional),
    ("modules.json", Need::Optional),
    ("sentence_bert_config.json", Need::Optional),
    ("config_sentence_transformers.json", Need::Optional),
    ("1_Pooling/config.json", Need::Optional),
    ("model.safetensors", Need::Required),
];

/// Where models come from.
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    offline: bool,
    agent: Agent,
}

impl Hub {
    /// As the environment says.
    pub fn from_environment() -> Hub {
        let value = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let offline = value("HF_HUB_OFFLINE")
            .is_some_and(|value| !["0", "no", "off", "false"].contains(&&*value.to_lowercase()));
        let endpoint = value("HF_ENDPOINT").unwrap_or_else(|| PUBLIC.to_owned());
        Hub::new(&endpoint, value("HF_TOKEN"), offline)
    }

    fn new(endpoint: &str, token: Option<String>, offline: bool) -> Hub {
        let config = Agent::config_builder()
            // Redirects are followed by hand: the first answer holds the sum, and the token must
            // not travel on.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .user_agent(concat!("distilface-train/", env!("CARGO_PKG_VERSION")))
            .build();
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Hub { endpoint, token, offline, agent: config.into() }
    }

    /// Downloads a model's files of one revision (`main`, a tag or a commit) into a directory.
    ///
    /// # Errors
    /// [`Error::Hub`] names the address and what went wrong; [`Error::Io`] where nothing can be
    /// written.
    pub fn download(&self, model: &str, revision: &str, directory: &Path) -> Result<(), Error> {
        let fetch = |file: &str, need: Need| {
            let address = format!("{}/{model}/resolve/{revision}/{file}", self.endpoint);
            self.file(&address, need, &directory.join(file))
        };
        // Both kinds have it: a model that is not there is missed here.
        fetch(CONFIG_FILE, Need::Required)?;
        fetch(MANIFEST_FILE, Need::Optional)?;
        match import::manifest(directory)? {
            None => FILES.into_iter().try_for_each(|(file, need)| fetch(file, need)),
            Some(manifest) => {
                let mut others = manifest.files.keys().filter(|file| *file != CONFIG_FILE);
                others.try_for_each(|file| fetch(file, Need::Required))
            }
        }
    }

    fn file(&self, address: &str, need: Need, path: &Path) -> Result<(), Error> {
        let failed = |got: String| Error::Hub { address: address.to_owned(), got };
        if self.offline {
            return Err(failed("HF_HUB_OFFLINE forbids the network".to_owned()));
        }
        let (mut next, mut announced) = (address.to_owned(), None);
        for _ in 0..=MOST_REDIRECTS {
            let mut response = self.get(&next).map_err(|error| failed(error.to_string()))?;
            announced = announced.or_else(|| sum(response.headers()));
            match response.status().as_u16() {
                200 => {
                    let got = save(&mut response, path, &failed)?;
                    return match announced {
                        Some(sum) if sum != got => {
                            // A half or changed file must not be taken for the model's.
                            let _ = std::fs::remove_file(path);
                            Err(failed(format!("sha256 {got} instead of {sum}")))
                        }
                        _ => Ok(()),
                    };
                }
                301 | 302 | 303 | 307 | 308 => {
                    let to = response.headers().get("location").and_then(|to| to.to_str().ok());
                    let to = to.ok_or_else(|| failed("a redirect to nowhere".to_owned()))?;
                    next = absolute(&next, to);
                }
                404 if need == Need::Optional => {
                    // One of an earlier try, perhaps of another revision, is not the model's.
                    return match std::fs::remove_file(path) {
                        Err(error) if error.kind() != ErrorKind::NotFound => {
                            Err(Error::io(path, error))
                        }
                        _ => Ok(()),
                    };
                }
                status => {
                    let why = match status {
                        401 | 403 => ": private, gated or misspelled; HF_TOKEN opens it",
                        404 => ": no such model, revision or file; weights must be safetensors",
                        429 => ": too many requests, try later",
                        _ => "",
                    };
                    return Err(failed(format!("HTTP status {status}{why}")));
                }
            }
        }
        Err(failed(format!("more than {MOST_REDIRECTS} redirects")))
    }

    fn get(&self, address: &str) -> Result<Response<Body>, ureq::Error> {
        let own = address.strip_prefix(&self.endpoint).is_some_and(|rest| rest.starts_with('/'));
        let request = self.agent.get(address);
        match &self.token {
            Some(token) if own => request.header("authorization", format!("Bearer {token}")).call(),
            _ => request.call(),
        }
    }
}

/// Whether an argument names a model of the hub: `owner/name` or `name`, and no path.
pub fn is_model_id(argument: &str) -> bool {
    let part = |part: &str| {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(letters)
    };
    let parts: Vec<&str> = argument.split('/').collect();
    parts.len() <= 2 && parts.into_iter().all(part)
}

/// The sha256 that the hub announces of a large file. A small file's tag is git's sum: no sha256.
fn sum(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get("x-linked-etag")?.to_str().ok()?;
    let tag = tag.trim_start_matches("W/").trim_matches('"').to_lowercase();
    (tag.len() == 64 && tag.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(tag)
}

/// A redirect's target, seen from where it came.
fn absolute(from: &str, to: &str) -> String {
    if to.contains("://") {
        return to.to_owned();
    }
    let host = from.find("://").map_or(0, |at| at + 3);
    let end = from[host..].find('/').map_or(from.len(), |at| host + at);
    format!("{}/{}", &from[..end], to.trim_start_matches('/'))
}

/// Writes a body and gives its sha256.
fn save(
    response: &mut Response<Body>,
    path: &Path,
    failed: &impl Fn(String) -> Error,
) -> Result<String, Error> {
    let len = response.body().content_length();
    let bar = ProgressBar::new(len.unwrap_or(0));
    bar.set_style(
        ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|source| Error::io(parent, source))?;
    }
    let mut file = File::create(path).map_err(|source| Error::io(path, source))?;
    let mut reader = response.body_mut().as_reader();
    let (mut buffer, mut hash, mut total) = (vec![0; 1 << 16], Sha256::new(), 0);
    loop {
        let count = reader.read(&mut buffer).map_err(|error| failed(error.to_string()))?;
        if count == 0 {
            break;
        }
        file.write_all(&buffer[..count]).map_err(|source| Error::io(path, source))?;
        hash.update(&buffer[..count]);
        total += count as u64;
        bar.inc(count as u64);
    }
    bar.finish_and_clear();
    match len {
        Some(len) if len != total => Err(failed(format!("{total} bytes instead of {len}"))),
        _ => Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_no_model_ids() {
        for id in ["distilbert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"] {
            assert!(is_model_id(id), "{id}");
        }
        for path in ["./model", "../model", "/model", "a/b/c", "a/", "", "a b", "C:\\model"] {
            assert!(!is_model_id(path), "{path}");
        }
    }

    #[test]
    fn redirects_may_be_relative() {
        let from = "https://hub.example/a/b/resolve/main/c";
        assert_eq!(absolute(from, "/api/x?y"), "https://hub.example/api/x?y");
        assert_eq!(absolute(from, "https://other.example/z"), "https://other.example/z");
    }
}
