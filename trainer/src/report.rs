//! `report.html` of a run: curves, settings and neighbors, in one file that opens offline.

use std::fmt::Write;
use std::path::Path;

use distilface_core::encoder::{InputKind, SentenceEncoder, pack_model};
use distilface_core::model::{Manifest, ModelDir};
use serde_json::Value;

use crate::embedder::{AlignedBlock, Embedder, dot};
use crate::error::Error;
use crate::eval::sts;
use crate::train::config::RunConfig;
use crate::train::{METRICS, Trained};

/// Texts among which neighbors are looked for, and texts whose neighbors are shown.
const POOL: usize = 1_000;
const SHOWN: usize = 6;

/// What `eval` says of the STS tasks, before and after.
pub struct StsScores {
    pub base: Value,
    pub own: Value,
}

/// Writes the report of a finished run into its directory; gives the scores, where the recipe has
/// pairs to score.
///
/// # Errors
/// Where the metrics cannot be read, a model not opened or the report not written.
pub fn write(
    directory: &Path,
    config: &RunConfig,
    trained: &Trained,
    base: &ModelDir,
    out: &Path,
    manifest: &Manifest,
) -> Result<Option<StsScores>, Error> {
    let path = directory.join(METRICS);
    let metrics = std::fs::read_to_string(&path).map_err(|source| Error::io(&path, source))?;
    let steps: Vec<Value> =
        metrics.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let series = |field: &str| -> Vec<(f64, f64)> {
        steps
            .iter()
            .filter_map(|step| Some((step["step"].as_f64()?, step[field].as_f64()?)))
            .collect()
    };
    let mut html = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>{name}</title>\n<style>{STYLE}</style>\n\
         <h1>{name}</h1>\n<p>Revision {revision}. {count} steps in {seconds:.0} s.</p>\n",
        name = escape(&manifest.name),
        revision = &manifest.revision,
        count = steps.len(),
        seconds = spent(&series("seconds")),
    );
    for (title, field) in [
        ("Loss", "loss"),
        ("Norm of the gradient before clipping", "norm"),
        ("Spearman × 100 on STS-B dev", "dev"),
    ] {
        let points = series(field);
        if points.len() > 1 {
            html.push_str(&curve(title, &points));
        }
    }
    if let Some((last, best)) = last_and_best(&series("dev")) {
        let _ = writeln!(html, "<p>STS-B dev: last {last:.2}, best {best:.2}.</p>");
    }
    let mut scores = None;
    if let Some(path) = &config.dev {
        let scores = scores.insert(sts_scores(path, base, &ModelDir::open(out)?)?);
        html.push_str(&sts_table(scores));
    }
    html.push_str(
        "<h2>Data</h2>\n<table><tr><th>source<th>kept<th>lines<th>duplicates<th>malformed\n",
    );
    for (source, read) in config.sources.iter().zip(&trained.reads) {
        let name = source.path.file_name().map(|name| name.to_string_lossy().into_owned());
        let only =
            source.only.as_ref().map_or(String::new(), |only| format!(" ({})", only.join(", ")));
        let _ = writeln!(
            html,
            "<tr><td>{}{}<td>{}<td>{}<td>{}<td>{}",
            escape(&name.unwrap_or_default()),
            escape(&only),
            read.kept,
            read.lines,
            read.duplicates,
            read.malformed
        );
    }
    html.push_str("</table>\n<h2>Nearest neighbors before and after</h2>\n");
    html.push_str(&neighbors(trained, base, &ModelDir::open(out)?)?);
    let recipe = config.to_toml()?;
    let _ = writeln!(html, "<h2>Recipe</h2>\n<pre>{}</pre>", escape(&recipe));
    let path = directory.join("report.html");
    std::fs::write(&path, html).map_err(|source| Error::io(&path, source))?;
    Ok(scores)
}

/// Of scores by step; the metrics hold them all, whichever call took the steps.
fn last_and_best(scores: &[(f64, f64)]) -> Option<(f64, f64)> {
    let (_, last) = *scores.last()?;
    Some((last, scores.iter().fold(last, |best, (_, score)| best.max(*score))))
}

/// What the steps took, of the seconds since the start of the call that took each.
fn spent(seconds: &[(f64, f64)]) -> f64 {
    let mut before = 0.0;
    let step = |(_, now): &(f64, f64)| {
        let own = if *now < before { *now } else { now - before };
        before = *now;
        own
    };
    seconds.iter().map(step).sum()
}

/// The five-task mean that Lim, Ng, Lim 2024 report.
const PAPER_FIVE: &str = "72.1";

/// Scores of the base and of the result on all tasks that the dev file holds.
fn sts_scores(path: &Path, base: &ModelDir, own: &ModelDir) -> Result<StsScores, Error> {
    let scores = |what: &str, model: &ModelDir| -> Result<Value, Error> {
        println!("{what}: {}", model.manifest().name);
        let block = AlignedBlock::new(&pack_model(model)?);
        let encoder = SentenceEncoder::from_packed(block.bytes())?;
        sts::evaluate(path, &mut Embedder::new(&encoder, None))
    };
    Ok(StsScores { base: scores("base", base)?, own: scores("trained", own)? })
}

fn sts_table(StsScores { base: before, own: after }: &StsScores) -> String {
    let mut html = String::from(
        "<h2>STS, Spearman × 100</h2>\n<table><tr><th>task<th>base<th>this model<th>the paper\n",
    );
    let mut row = |name: &str, before: &Value, after: &Value, paper: &str| {
        if let (Some(before), Some(after)) = (before.as_f64(), after.as_f64()) {
            let _ = writeln!(html, "<tr><td>{name}<td>{before:.2}<td>{after:.2}<td>{paper}");
        }
    };
    for (task, _) in sts::TASKS {
        let score = |all: &Value| all["tasks"][task]["spearman"].clone();
        row(task, &score(before), &score(after), "");
    }
    row("mean of five (STS12–15, STS-B)", &before["five"], &after["five"], PAPER_FIVE);
    row("mean of seven", &before["seven"], &after["seven"], "");
    row("STS-B dev", &before["stsb_dev"], &after["stsb_dev"], "");
    html.push_str("</table>\n");
    html
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
padding:0 1rem;color:#222;background:#fff}table{border-collapse:collapse}td,th{padding:.2rem .8rem;\
border-bottom:1px solid #ddd;text-align:left;vertical-align:top}svg{width:100%;height:auto}\
pre{background:#f4f4f4;padding:1rem;overflow-x:auto}.axis{font-size:12px;fill:#555}";

/// A curve as SVG; many points are thinned to means.
fn curve(title: &str, points: &[(f64, f64)]) -> String {
    let group = points.len().div_ceil(400);
    let mean = |chunk: &[(f64, f64)], f: fn(&(f64, f64)) -> f64| {
        chunk.iter().map(f).sum::<f64>() / chunk.len() as f64
    };
    let thin: Vec<(f64, f64)> = points
        .chunks(group)
        .map(|chunk| (mean(chunk, |point| point.0), mean(chunk, |point| point.1)))
        .collect();
    let bounds = |f: fn(&(f64, f64)) -> f64| {
        let low = thin.iter().map(f).fold(f64::INFINITY, f64::min);
        let high = thin.iter().map(f).fold(f64::NEG_INFINITY, f64::max);
        (low, if high > low { high } else { low + 1.0 })
    };
    let ((left, right), (low, high)) = (bounds(|point| point.0), bounds(|point| point.1));
    let mut line = String::new();
    for (x, y) in &thin {
        let x = 60.0 + 720.0 * (x - left) / (right - left);
        let y = 220.0 - 190.0 * (y - low) / (high - low);
        let _ = write!(line, "{x:.1},{y:.1} ");
    }
    format!(
        "<h2>{title}</h2>\n<svg viewBox=\"0 0 800 250\" role=\"img\" aria-label=\"{title}\">\
         <path d=\"M60 30V220H780\" fill=\"none\" stroke=\"#999\"/>\
         <polyline points=\"{line}\" fill=\"none\" stroke=\"#0b6\" stroke-width=\"2\"/>\
         <text class=\"axis\" x=\"4\" y=\"34\">{high:.3}</text>\
         <text class=\"axis\" x=\"4\" y=\"222\">{low:.3}</text>\
         <text class=\"axis\" x=\"60\" y=\"240\">step {left:.0}</text>\
         <text class=\"axis\" x=\"780\" y=\"240\" text-anchor=\"end\">{right:.0}</text></svg>\n"
    )
}

/// For a few training texts, the nearest other one by the base and by the result.
fn neighbors(trained: &Trained, base: &ModelDir, own: &ModelDir) -> Result<String, Error> {
    let texts: Vec<&str> = trained.sample.iter().take(POOL).map(String::as_str).collect();
    let mut html = String::from("<table><tr><th>text<th>before<th>after\n");
    let before = nearest(base, &texts)?;
    let after = nearest(own, &texts)?;
    // Those whose neighbor changed say more.
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|at| before[*at].0 == after[*at].0);
    for at in order.into_iter().take(SHOWN) {
        let cell =
            |(other, cosine): (usize, f64)| format!("{} ({cosine:.3})", escape(texts[other]));
        let _ = writeln!(
            html,
            "<tr><td>{}<td>{}<td>{}",
            escape(texts[at]),
            cell(before[at]),
            cell(after[at])
        );
    }
    html.push_str("</table>\n");
    Ok(html)
}

fn nearest(model: &ModelDir, texts: &[&str]) -> Result<Vec<(usize, f64)>, Error> {
    let block = AlignedBlock::new(&pack_model(model)?);
    let encoder = SentenceEncoder::from_packed(block.bytes())?;
    let vectors = Embedder::new(&encoder, None).embed("neighbors", texts, InputKind::Passage)?;
    let cosine = |i: usize, j: usize| dot(vectors.row(i), vectors.row(j));
    Ok((0..texts.len())
        .map(|i| {
            let others = (0..texts.len()).filter(|j| *j != i).map(|j| (j, cosine(i, j)));
            others.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((i, 1.0))
        })
        .collect())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_score_may_lie_before_the_last() {
        assert_eq!(last_and_best(&[(1.0, 81.0), (3.0, 83.0), (5.0, 82.0)]), Some((82.0, 83.0)));
        assert_eq!(last_and_best(&[]), None);
    }

    #[test]
    fn a_run_that_went_on_took_as_long_as_all_its_calls() {
        let seconds = [(0.0, 1.0), (1.0, 3.0), (2.0, 0.5), (3.0, 2.0)];
        assert_eq!(spent(&seconds), 5.0);
    }
}
