//! Times the encoder on the workloads of a JSON file, by itself or in turns with its peers.
//!
//! `encoder --packed MODEL.packed --work WORK.json [--threads N] [--kernel NAME] [--rounds N]`
//! prints one line of JSON for each workload: its name, tokens, the median and least of the rounds
//! in ms. With `--serve` it answers requests on standard input instead, so that a driver can take
//! turns: a line `time NAME` gives milliseconds, `vectors NAME` the vectors as JSON, `stream BYTES` the
//! milliseconds in which so many bytes of the model pass by one core. `--peak` prints AMX's TFLOP/s in
//! registers.
//! WORK.json is an object of workloads, each a list of texts, each a list of token ids. Without
//! arguments (`cargo bench`) it hands over to `benches/encoder/run.sh`, the whole comparison.

mod peak;

use distilface_core::encoder::{Context, Encoder, Kernel, Normalization, TokenBatch, Weights};
use distilface_core::model::{Packed, WEIGHTS};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::BufRead;
use std::process::{Command, ExitCode};
use std::time::Instant;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if arguments == ["--peak"] {
        println!("{}", peak::amx_tflops().unwrap_or(0.0));
        return ExitCode::SUCCESS;
    }
    let result = match Options::parse(&arguments) {
        Ok(Some(options)) => run(&options).map(|()| ExitCode::SUCCESS),
        Ok(None) => compare(),
        Err(error) => Err(error.into()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

struct Options {
    packed: String,
    work: String,
    threads: usize,
    rounds: usize,
    kernel: Kernel,
    max_batch_tokens: Option<usize>,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Report,
    Serve,
}

impl Options {
    /// `None` where there are no arguments.
    fn parse(arguments: &[String]) -> Result<Option<Options>, String> {
        if arguments.is_empty() {
            return Ok(None);
        }
        let mut options = Options {
            packed: String::new(),
            work: String::new(),
            threads: 1,
            rounds: 20,
            kernel: Kernel::best(),
            max_batch_tokens: None,
            mode: Mode::Report,
        };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            if name == "--serve" {
                options.mode = Mode::Serve;
                continue;
            }
            let value = rest.next().ok_or(format!("{name} wants a value"))?;
            let number = || value.parse::<usize>().map_err(|e| format!("{name} {value}: {e}"));
            match name.as_str() {
                "--packed" => options.packed = value.clone(),
                "--work" => options.work = value.clone(),
                "--threads" => options.threads = number()?,
                "--rounds" => options.rounds = number()?,
                "--max-batch-tokens" => options.max_batch_tokens = Some(number()?),
                "--kernel" => {
                    let found = Kernel::ALL.into_iter().find(|k| k.name() == value);
                    options.kernel = found.ok_or(format!("no kernel is called {value}"))?;
                }
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(Some(options))
    }
}

/// The whole comparison is a script, since the peers are Python packages.
fn compare() -> Result<ExitCode, Box<dyn Error>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/encoder/run.sh");
    let binary = std::env::current_exe()?;
    let status = Command::new("bash").arg(script).env("ENCODER_BENCH", binary).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A cache line: a packed model lies at a multiple of 64.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let bytes = std::fs::read(&options.packed)?;
    let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64)];
    for (line, chunk) in lines.iter_mut().zip(bytes.chunks(64)) {
        line.0[..chunk.len()].copy_from_slice(chunk);
    }
    drop(bytes);
    let packed = Packed::open(bytemuck::cast_slice(&lines))?;
    let manifest = packed.manifest()?;
    let weights = Weights::from_bytes(packed.section(WEIGHTS)?)?;
    let encoder = Encoder::new(weights, manifest.pooling, Normalization::L2)
        .with_kernel(options.kernel)
        .ok_or(format!("this CPU lacks {}", options.kernel.name()))?;
    let work: BTreeMap<String, Vec<Vec<u32>>> =
        serde_json::from_slice(&std::fs::read(&options.work)?)?;
    let work: BTreeMap<String, TokenBatch> = work
        .into_iter()
        .map(|(name, texts)| {
            let mut batch = TokenBatch::new();
            texts.iter().for_each(|text| batch.push(text));
            (name, batch)
        })
        .collect();
    let mut cx = Context::new(options.threads);
    if let Some(tokens) = options.max_batch_tokens {
        cx = cx.with_max_batch_tokens(tokens);
    }
    match options.mode {
        Mode::Report => report(options, &encoder, &work, &mut cx),
        Mode::Serve => serve(&encoder, &work, &mut cx, bytemuck::cast_slice(&lines)),
    }
}

fn report(
    options: &Options,
    encoder: &Encoder<'_>,
    work: &BTreeMap<String, TokenBatch>,
    cx: &mut Context,
) -> Result<(), Box<dyn Error>> {
    for (name, batch) in work {
        let (mut times, mut busy) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            let before = processor_ms();
            times.push(time(encoder, batch, cx)?);
            busy.push(processor_ms() - before);
        }
        times.sort_by(f64::total_cmp);
        busy.sort_by(f64::total_cmp);
        let line = serde_json::json!({
            "work": name,
            "kernel": encoder.kernel().name(),
            "threads": options.threads,
            "tokens": batch.tokens(),
            "median_ms": times[times.len() / 2],
            "least_ms": times[0],
            "median_processor_ms": busy[busy.len() / 2],
            "least_processor_ms": busy[0],
            "tokens_per_s": batch.tokens() as f64 / times[times.len() / 2] * 1e3,
        });
        println!("{line}");
    }
    Ok(())
}

fn serve(
    encoder: &Encoder<'_>,
    work: &BTreeMap<String, TokenBatch>,
    cx: &mut Context,
    packed: &[u8],
) -> Result<(), Box<dyn Error>> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (verb, name) = line.split_once(' ').ok_or("a request is a verb and a workload")?;
        if verb == "stream" {
            let bytes = name.parse::<usize>()?.min(packed.len());
            println!("{}", peak::stream_ms(&packed[packed.len() - bytes..]));
            continue;
        }
        let batch = work.get(name).ok_or(format!("no workload is called {name}"))?;
        match verb {
            "time" => {
                let before = processor_ms();
                let ms = time(encoder, batch, cx)?;
                let processor_ms = processor_ms() - before;
                println!("{}", serde_json::json!({ "ms": ms, "processor_ms": processor_ms }));
            }
            "vectors" => {
                let width = encoder.weights().dimensions();
                let vectors = encoder.encode(batch, cx)?;
                let rows: Vec<&[f32]> = vectors.chunks(width).collect();
                println!("{}", serde_json::to_string(&rows)?);
            }
            _ => return Err(format!("unknown request {verb}").into()),
        }
    }
    Ok(())
}

/// Processor time of the main thread so far, which a busy machine does not stretch.
fn processor_ms() -> f64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
    now.map_or(0.0, |t| t.tv_sec() as f64 * 1e3 + t.tv_nsec() as f64 / 1e6)
}

/// Milliseconds of one call.
fn time(
    encoder: &Encoder<'_>,
    batch: &TokenBatch,
    cx: &mut Context,
) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    std::hint::black_box(encoder.encode(batch, cx)?);
    Ok(start.elapsed().as_secs_f64() * 1e3)
}
