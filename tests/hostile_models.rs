//! Model directories that were made to hurt: every one is refused with an error that names the
//! fault, and none costs memory worth speaking of (reliability test 19).

mod common_model;

use std::path::Path;

use common_model::{HIDDEN, TempDir, bert_config, bert_tensors, read_json, write_bert, write_json};
use distilface_core::model::{
    ImportOptions, Manifest, ModelDir, Tensors, import, write_safetensors,
};
use serde_json::{Value, json};

/// Memory that all of it together may take, in bytes.
const MAX_GROWTH: u64 = 100 << 20;

type Harm = Box<dyn Fn(&Path)>;

struct Hostile {
    name: &'static str,
    /// Part of the message.
    says: &'static str,
    harm: Harm,
}

fn hostile(name: &'static str, says: &'static str, harm: impl Fn(&Path) + 'static) -> Hostile {
    Hostile { name, says, harm: Box::new(harm) }
}

/// Changes one JSON file of a directory.
fn edit(file: &'static str, change: impl Fn(&mut Value) + 'static) -> impl Fn(&Path) {
    move |directory| {
        let path = directory.join(file);
        let mut value = read_json(&path);
        change(&mut value);
        write_json(&path, &value);
    }
}

fn config(key: &'static str, value: Value) -> impl Fn(&Path) {
    edit("config.json", move |config| config[key] = value.clone())
}

fn tokenizer(pointer: &'static str, value: Value) -> impl Fn(&Path) {
    edit("tokenizer.json", move |file| {
        *file.pointer_mut(pointer).expect("the tokenizer has that part") = value.clone();
    })
}

/// Replaces the weights file.
fn weights(bytes: impl Fn(Vec<u8>) -> Vec<u8> + 'static) -> impl Fn(&Path) {
    move |directory| {
        let path = directory.join("model.safetensors");
        let changed = bytes(std::fs::read(&path).expect("the weights read"));
        std::fs::write(&path, changed).expect("the weights are written");
    }
}

/// Replaces the weights' header and keeps the data.
fn header(change: impl Fn(&mut Value) + 'static) -> impl Fn(&Path) {
    weights(move |bytes| {
        let len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let mut header = serde_json::from_slice(&bytes[8..8 + len]).expect("a JSON header");
        change(&mut header);
        with_header(&header.to_string(), &bytes[8 + len..])
    })
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A file that is long and takes no room.
fn sparse(directory: &Path, file: &str, head: &[u8], len: u64) {
    let path = directory.join(file);
    std::fs::write(&path, head).expect("a file can be written");
    let file = std::fs::File::options().write(true).open(&path).expect("it opens");
    file.set_len(len).expect("a sparse file can be made");
}

const QUERY: &str = "encoder.layer.0.attention.self.query.weight";

fn hostile_sources() -> Vec<Hostile> {
    let mut all = hostile_weights();
    all.extend(hostile_tokenizers());
    all.extend(hostile_configs());
    all
}

fn hostile_weights() -> Vec<Hostile> {
    let side_by_side = "tensors side by side";
    vec![
        hostile(
            "header of 2^63 bytes",
            "header of 2 bytes",
            weights(|mut bytes| {
                bytes[..8].copy_from_slice(&(1u64 << 63).to_le_bytes());
                bytes
            }),
        ),
        hostile(
            "header of no bytes",
            "header of 2 bytes",
            weights(|mut bytes| {
                bytes[..8].fill(0);
                bytes
            }),
        ),
        hostile(
            "header past the end",
            "the whole header",
            weights(|mut bytes| {
                let len = bytes.len() as u64;
                bytes[..8].copy_from_slice(&len.to_le_bytes());
                bytes
            }),
        ),
        hostile(
            "header of 3 MiB of spaces",
            "JSON header",
            weights(|_| with_header(&" ".repeat(3 << 20), &[])),
        ),
        hostile("a sparse file of a terabyte", "expected at most", |directory| {
            sparse(directory, "model.safetensors", &[255; 8], 1 << 40);
        }),
        hostile(
            "100,000 tensors",
            "expected at most",
            weights(|_| {
                let one = |i| {
                    format!("\"t{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}")
                };
                let all: Vec<String> = (0..100_000).map(one).collect();
                with_header(&format!("{{{}}}", all.join(",")), &[])
            }),
        ),
        hostile(
            "60,000 short tensors",
            "at most 8192 tensors",
            weights(|_| {
                let one = |i| {
                    format!("\"{i:x}\":{{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}")
                };
                let all: Vec<String> = (0..60_000).map(one).collect();
                with_header(&format!("{{{}}}", all.join(",")), &[0])
            }),
        ),
        hostile(
            "a shape that overflows",
            side_by_side,
            header(|h| {
                h[QUERY]["shape"] = json!([1u64 << 62, 8]);
            }),
        ),
        hostile(
            "a shape that wraps to the right size",
            side_by_side,
            header(|h| {
                h[QUERY]["shape"] = json!([(1u64 << 63) + HIDDEN as u64 / 2, 2 * HIDDEN]);
            }),
        ),
        hostile(
            "a shape of a thousand dimensions",
            "at most 8 dimensions",
            header(|h| {
                h[QUERY]["shape"] = vec![1; 1_000].into();
            }),
        ),
        hostile(
            "a negative dimension",
            "JSON header",
            header(|h| {
                h[QUERY]["shape"] = json!([-16, -16]);
            }),
        ),
        hostile(
            "a transposed embedding",
            "expected shape",
            header(|h| {
                let name = "embeddings.word_embeddings.weight";
                let shape = h[name]["shape"].as_array().expect("a shape").clone();
                h[name]["shape"] = json!([shape[1], shape[0]]);
            }),
        ),
        hostile(
            "whole numbers for weights",
            "F32, F16 or BF16",
            header(|h| {
                h[QUERY]["dtype"] = "I32".into();
            }),
        ),
        hostile(
            "a type of half the size",
            side_by_side,
            header(|h| {
                h[QUERY]["dtype"] = "F16".into();
            }),
        ),
        hostile(
            "a type that is not known",
            "JSON header",
            header(|h| {
                h[QUERY]["dtype"] = "F8_E4M3".into();
            }),
        ),
        hostile(
            "overlapping tensors without a gap",
            side_by_side,
            weights(|bytes| {
                let len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
                let mut header: Value =
                    serde_json::from_slice(&bytes[8..8 + len]).expect("a JSON header");
                // The file's last tensor takes the place of the one before it, of the same size.
                let norm = |part| format!("encoder.layer.1.output.LayerNorm.{part}");
                let place = header[norm("weight")]["data_offsets"].clone();
                header[norm("bias")]["data_offsets"] = place;
                with_header(&header.to_string(), &bytes[8 + len..bytes.len() - 4 * HIDDEN])
            }),
        ),
        hostile(
            "overlapping tensors",
            side_by_side,
            header(|h| {
                let name = "encoder.layer.0.attention.self.key.weight";
                h[QUERY]["data_offsets"] = h[name]["data_offsets"].clone();
            }),
        ),
        hostile(
            "a place that ends before it starts",
            side_by_side,
            header(|h| {
                let place = h[QUERY]["data_offsets"].clone();
                h[QUERY]["data_offsets"] = json!([place[1], place[0]]);
            }),
        ),
        hostile(
            "a place past the end",
            side_by_side,
            header(|h| {
                h[QUERY]["data_offsets"] = json!([u64::MAX - 1_024, u64::MAX]);
            }),
        ),
        hostile(
            "a tensor that is missing",
            "tensor \"encoder.layer.1",
            weights(|_| {
                let mut tensors = bert_tensors("");
                tensors.retain(|tensor| tensor.name != "encoder.layer.1.output.dense.bias");
                write_safetensors(&tensors).expect("values fit their shapes")
            }),
        ),
        hostile(
            "no token-type row",
            "token_type_embeddings",
            weights(|_| {
                let mut tensors = bert_tensors("");
                tensors.retain(|tensor| !tensor.name.contains("token_type"));
                write_safetensors(&tensors).expect("values fit their shapes")
            }),
        ),
        hostile("not a number", "not finite at index 7", weights(|_| with_value(f32::NAN))),
        hostile("infinity", "not finite at index 7", weights(|_| with_value(f32::INFINITY))),
        hostile(
            "cut by a byte",
            "data inside the file",
            weights(|mut bytes| {
                bytes.pop();
                bytes
            }),
        ),
        hostile(
            "cut in half",
            "data inside the file",
            weights(|mut bytes| {
                bytes.truncate(bytes.len() / 2);
                bytes
            }),
        ),
        hostile(
            "cut in the header",
            "the whole header",
            weights(|mut bytes| {
                bytes.truncate(100);
                bytes
            }),
        ),
        hostile("an empty file", "header length", weights(|_| Vec::new())),
        hostile(
            "trailing bytes",
            "up to the end",
            weights(|mut bytes| {
                bytes.extend([0; 64]);
                bytes
            }),
        ),
        hostile("a header that is no JSON", "JSON header", weights(|_| with_header("{\"a", &[]))),
        hostile(
            "a header nested a million deep",
            "JSON header",
            weights(|_| with_header(&"[".repeat(1_000_000), &[])),
        ),
        hostile(
            "metadata that is no text",
            "JSON header",
            header(|h| {
                h["__metadata__"] = json!({ "format": [1, 2, 3] });
            }),
        ),
        hostile("a directory for a file", "not a regular file", |directory| {
            let path = directory.join("model.safetensors");
            std::fs::remove_file(&path).expect("the file goes");
            std::fs::create_dir(&path).expect("a directory comes");
        }),
        #[cfg(unix)]
        hostile("a device for a file", "not a regular file", |directory| {
            let path = directory.join("model.safetensors");
            std::fs::remove_file(&path).expect("the file goes");
            std::os::unix::fs::symlink("/dev/zero", &path).expect("a link comes");
        }),
        hostile("a pickle", "got pytorch_model.bin", |directory| {
            let from = directory.join("model.safetensors");
            std::fs::rename(from, directory.join("pytorch_model.bin")).expect("it is renamed");
        }),
    ]
}

fn with_value(value: f32) -> Vec<u8> {
    let mut tensors = bert_tensors("");
    let tensor = tensors.iter_mut().find(|tensor| tensor.name == QUERY);
    tensor.expect("the model has it").values.to_mut()[7] = value;
    write_safetensors(&tensors).expect("values fit their shapes")
}

fn hostile_tokenizers() -> Vec<Hostile> {
    let bomb = json!({ "Regex": "(a+)+$" });
    let holes = "without holes";
    vec![
        hostile("a hole in the vocabulary", holes, tokenizer("/model/vocab/the", json!(5_000))),
        hostile("an id twice", holes, tokenizer("/model/vocab/the", json!(7))),
        hostile("an id of four billion", holes, tokenizer("/model/vocab/the", json!(u32::MAX))),
        hostile("a negative id", "tokenizer description", tokenizer("/model/vocab/the", json!(-1))),
        hostile(
            "a token of a megabyte",
            "at most 1024 bytes",
            edit("tokenizer.json", |file| {
                let vocab = file["model"]["vocab"].as_object_mut().expect("a vocabulary");
                let id = vocab.remove("the").expect("the vocabulary has it");
                vocab.insert("x".repeat(1 << 20), id);
            }),
        ),
        hostile(
            "a million tokens",
            "row for each",
            edit("tokenizer.json", |file| {
                let vocab = file["model"]["vocab"].as_object_mut().expect("a vocabulary");
                for id in vocab.len()..300_000 {
                    vocab.insert(format!("t{id}"), id.into());
                }
            }),
        ),
        hostile(
            "NFKC",
            "got Sequence",
            tokenizer(
                "/normalizer",
                json!({ "type": "Sequence", "normalizers": [{ "type": "NFKC" }] }),
            ),
        ),
        hostile(
            "a regular expression in the normalizer",
            "got Replace",
            tokenizer("/normalizer", json!({ "type": "Replace", "pattern": bomb, "content": "" })),
        ),
        hostile(
            "a regular expression in the pre-tokenizer",
            "got Split",
            tokenizer(
                "/pre_tokenizer",
                json!({ "type": "Split", "pattern": bomb, "behavior": "Removed", "invert": false }),
            ),
        ),
        hostile("no normalizer", "got none", tokenizer("/normalizer", Value::Null)),
        hostile("byte pairs", "got BPE", tokenizer("/model/type", json!("BPE"))),
        hostile(
            "another prefix",
            "expected \"##\"",
            tokenizer("/model/continuing_subword_prefix", json!("@@")),
        ),
        hostile(
            "words without limit",
            "max_input_chars_per_word",
            tokenizer("/model/max_input_chars_per_word", json!(1_000_000_000_000u64)),
        ),
        hostile(
            "no such unknown token",
            "in the vocabulary",
            tokenizer("/model/unk_token", json!("<unk>")),
        ),
        hostile(
            "RoBERTa's frame",
            "got RobertaProcessing",
            tokenizer(
                "/post_processor",
                json!({ "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0] }),
            ),
        ),
        hostile(
            "a normalized added token",
            "which is normalized",
            tokenizer("/added_tokens/0/normalized", json!(true)),
        ),
        hostile(
            "an added token that is a letter",
            "ASCII punctuation first",
            edit("tokenizer.json", |file| {
                file["added_tokens"] = json!([{ "id": 5, "content": "a" }])
            }),
        ),
        hostile(
            "an added token of another's id",
            "its own id",
            tokenizer("/added_tokens/0/id", json!(9)),
        ),
        hostile("nesting a million deep", "tokenizer description", |directory| {
            let text = format!("{{\"normalizer\":{}", "[".repeat(1_000_000));
            std::fs::write(directory.join("tokenizer.json"), text).expect("it is written");
        }),
        hostile("a sparse tokenizer of 10 GB", "expected at most", |directory| {
            sparse(directory, "tokenizer.json", b"{", 10 << 30);
        }),
    ]
}

fn hostile_configs() -> Vec<Hostile> {
    vec![
        hostile("a width of 10^9", "encoder hidden", config("hidden_size", json!(1_000_000_000))),
        hostile("10^9 tokens", "encoder vocab_size", config("vocab_size", json!(1_000_000_000))),
        hostile("a million layers", "layers", config("num_hidden_layers", json!(1_000_000))),
        hostile("no layers", "layers", config("num_hidden_layers", json!(0))),
        hostile("no heads", "heads", config("num_attention_heads", json!(0))),
        hostile("heads that do not divide", "a divisor", config("num_attention_heads", json!(3))),
        hostile("2^64 heads", "config.json", config("num_attention_heads", json!(1e20))),
        hostile("too large together", "weights in all", |directory| {
            config("hidden_size", json!(8_192))(directory);
            config("intermediate_size", json!(65_536))(directory);
            config("num_hidden_layers", json!(96))(directory);
        }),
        hostile("an epsilon of nothing", "layer_norm_eps", config("layer_norm_eps", json!(0.0))),
        hostile("another activation", "got relu", config("hidden_act", json!("relu"))),
        hostile("an approximate GELU", "got gelu_new", config("hidden_act", json!("gelu_new"))),
        hostile(
            "relative positions",
            "got relative_key",
            config("position_embedding_type", json!("relative_key")),
        ),
        hostile("a decoder", "got a decoder", config("is_decoder", json!(true))),
        hostile("RoBERTa", "got roberta", config("model_type", json!("roberta"))),
        hostile(
            "quantized weights",
            "quantization_config",
            config("quantization_config", json!({ "bits": 4 })),
        ),
        hostile("a list for a configuration", "got no model_type", |directory| {
            write_json(&directory.join("config.json"), &json!([bert_config()]));
        }),
        hostile(
            "a dense module",
            "got Transformer, Pooling, Dense",
            edit("modules.json", |file| {
                file[2]["type"] = "sentence_transformers.models.Dense".into();
            }),
        ),
        hostile(
            "a module elsewhere",
            "inside the directory",
            edit("modules.json", |file| {
                file[1]["path"] = "../../../../etc".into();
            }),
        ),
        hostile(
            "max pooling",
            "got max_tokens and mean_tokens",
            edit("1_Pooling/config.json", |file| file["pooling_mode_max_tokens"] = true.into()),
        ),
        hostile(
            "text cut past the positions",
            "max_tokens",
            edit("sentence_bert_config.json", |file| file["max_seq_length"] = 1_000_000.into()),
        ),
        hostile(
            "a prompt of a megabyte",
            "prompts.query",
            edit("config_sentence_transformers.json", |file| {
                file["prompts"]["query"] = "x".repeat(1 << 20).into()
            }),
        ),
    ]
}

/// Directories of ours, changed after they were written; what is changed is signed again where
/// the fault lies deeper than a checksum.
fn hostile_models() -> Vec<Hostile> {
    let manifest = |change: &'static dyn Fn(&mut Value)| edit("distilface.json", change);
    vec![
        hostile("no manifest", "distilface.json", |directory| {
            std::fs::remove_file(directory.join("distilface.json")).expect("it goes");
        }),
        hostile("another format", "format: expected 1", manifest(&|m| m["format"] = 2.into())),
        hostile(
            "a name that is a path",
            "name: expected",
            manifest(&|m| {
                m["name"] = "../x".into();
            }),
        ),
        hostile(
            "a file elsewhere",
            "inside the directory",
            manifest(&|m| {
                m["files"]["../../etc/passwd"] = "0".repeat(64).into();
            }),
        ),
        hostile(
            "another revision",
            "revision: expected",
            manifest(&|m| {
                m["revision"] = "0".repeat(64).into();
            }),
        ),
        hostile(
            "a pooling that moves the revision",
            "revision: expected",
            manifest(&|m| {
                m["pooling"] = "cls".into();
            }),
        ),
        hostile(
            "a pooling that is not known",
            "distilface.json",
            manifest(&|m| {
                m["pooling"] = "max".into();
            }),
        ),
        hostile("a field that is not known", "distilface.json", manifest(&|m| m["x"] = 1.into())),
        hostile(
            "a vector of other length",
            "dimensions",
            manifest(&|m| {
                m["dimensions"] = 1_000_000_000.into();
            }),
        ),
        hostile("an encoder of other size", "expected shape", |directory| {
            edit("distilface.json", |m| m["encoder"]["intermediate"] = 25.into())(directory);
            sign(directory);
        }),
        hostile(
            "a flipped bit",
            "expected sha256",
            weights(|mut bytes| {
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                bytes
            }),
        ),
        hostile(
            "another tokenizer",
            "expected sha256",
            tokenizer("/model/unk_token", json!("the")),
        ),
        hostile("a hole in a signed vocabulary", "without holes", |directory| {
            tokenizer("/model/vocab/the", json!(5_000))(directory);
            sign(directory);
        }),
        hostile("a cased manifest of an uncased tokenizer", "lowercase", |directory| {
            edit("distilface.json", |m| m["lowercase"] = false.into())(directory);
            sign(directory);
        }),
        hostile("signed infinity", "not finite", |directory| {
            weights(|mut bytes| {
                let last = bytes.len() - 4;
                bytes[last..].copy_from_slice(&f32::INFINITY.to_le_bytes());
                bytes
            })(directory);
            sign(directory);
        }),
        hostile("a sparse manifest of 10 GB", "expected at most", |directory| {
            sparse(directory, "distilface.json", b"{", 10 << 30);
        }),
    ]
}

/// Makes checksums and revision those of the files as they are now.
fn sign(directory: &Path) {
    use sha2::Digest;
    let path = directory.join("distilface.json");
    let mut value = read_json(&path);
    for (file, sha256) in value["files"].as_object_mut().expect("a map of files") {
        let bytes = std::fs::read(directory.join(file)).expect("the file reads");
        let digest = sha2::Sha256::digest(&bytes);
        *sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    }
    let mut manifest: Manifest = serde_json::from_value(value).expect("a manifest");
    manifest.revision = manifest.compute_revision();
    std::fs::write(path, manifest.to_json()).expect("the manifest is written");
}

#[test]
fn hostile_directories_are_refused_by_name_and_cost_no_memory() {
    let temp = TempDir::new("hostile");
    let options = ImportOptions { name: Some("x".into()), ..ImportOptions::default() };
    let source = temp.path().join("source");
    let out = temp.path().join("out");
    write_bert(&source);
    import(&source, &out, &options, &mut |_| {}).expect("unharmed, it is imported");

    // Reading every tensor, as packing a model does.
    let open = |directory: &Path| {
        let model = ModelDir::open(directory)?;
        let tensors = model.manifest().encoder.tensors();
        tensors.iter().try_for_each(|(name, shape)| model.tensor(name, shape).map(|_| ()))
    };
    open(&out).expect("unharmed, it opens");
    let mut cases = 0;
    let mut slowest = (std::time::Duration::ZERO, "");
    let before = resident("VmRSS");
    let mut check = |case: &Hostile, result: &mut dyn FnMut() -> Option<String>| {
        let start = std::time::Instant::now();
        let message = result();
        slowest = slowest.max((start.elapsed(), case.name));
        let message = message.unwrap_or_else(|| panic!("{}: it was accepted", case.name));
        assert!(message.contains(case.says), "{}: {message}", case.name);
        assert!(message.len() < 2_000, "{}: a message of {} bytes", case.name, message.len());
        cases += 1;
    };
    for case in hostile_sources() {
        let harmed = temp.path().join("harmed");
        copy(&source, &harmed);
        (case.harm)(&harmed);
        let into = temp.path().join("into");
        check(&case, &mut || {
            import(&harmed, &into, &options, &mut |_| {}).err().map(|error| error.to_string())
        });
        assert!(!into.exists(), "{}: something was left behind", case.name);
        std::fs::remove_dir_all(&harmed).expect("the harmed copy goes");
    }
    for case in hostile_models() {
        let harmed = temp.path().join("harmed");
        copy(&out, &harmed);
        (case.harm)(&harmed);
        check(&case, &mut || open(&harmed).err().map(|error| error.to_string()));
        std::fs::remove_dir_all(&harmed).expect("the harmed copy goes");
    }
    eprintln!("{cases} directories refused, the slowest in {:?} ({})", slowest.0, slowest.1);
    assert!(cases >= 50, "{cases} directories");
    if let (Some(before), Some(peak)) = (before, resident("VmHWM")) {
        let growth = peak.saturating_sub(before);
        eprintln!("memory grew by {} MB at most", growth >> 20);
        assert!(growth <= MAX_GROWTH, "memory grew by {growth} bytes");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for entry in std::fs::read_dir(from).expect("the directory reads") {
        let entry = entry.expect("an entry reads");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file is copied");
        }
    }
}

/// Memory of this process, in bytes, where Linux tells it.
fn resident(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim_matches([':', ' ', '\t', 'k', 'B']).trim().parse::<u64>().ok()? << 10)
}
