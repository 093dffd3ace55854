//! `distilface_rerank`: a cross-encoder's scores are those of the plain forward pass in f32, written
//! out below from BERT's own tensors.

use std::collections::HashMap;
use std::fs;

use distilface_tests::{Cluster, TinyModel};

const HEADS: usize = 4;

/// BERT with a classification head, one pair at a time, as the paper has it.
struct Plain {
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
    vocab: Vec<String>,
    layers: usize,
}

impl Plain {
    fn get(&self, name: &str) -> &[f32] {
        &self.tensors[name].1
    }

    fn linear(&self, name: &str, x: &[f32]) -> Vec<f32> {
        let (weight, bias) =
            (self.get(&format!("{name}.weight")), self.get(&format!("{name}.bias")));
        let dot = |row: &[f32]| row.iter().zip(x).map(|(a, b)| a * b).sum::<f32>();
        weight.chunks(x.len()).zip(bias).map(|(row, bias)| dot(row) + bias).collect()
    }

    fn norm(&self, name: &str, x: &mut [f32]) {
        let (weight, bias) =
            (self.get(&format!("{name}.weight")), self.get(&format!("{name}.bias")));
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / x.len() as f32;
        for ((x, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
            *x = (*x - mean) / (variance + 1e-12).sqrt() * weight + bias;
        }
    }

    fn id(&self, word: &str) -> usize {
        self.vocab
            .iter()
            .position(|known| known == word)
            .expect("the test's words are whole tokens")
    }

    fn logit(&self, query: &str, document: &str) -> f32 {
        let mut ids = vec![self.id("[CLS]")];
        ids.extend(query.split(' ').map(|word| self.id(word)));
        ids.push(self.id("[SEP]"));
        let second = ids.len();
        ids.extend(document.split(' ').map(|word| self.id(word)));
        ids.push(self.id("[SEP]"));
        let n = self.tensors["bert.embeddings.LayerNorm.weight"].0[0];
        let row = |name: &str, at: usize| {
            &self.get(&format!("bert.embeddings.{name}_embeddings.weight"))[at * n..][..n]
        };
        let mut x: Vec<Vec<f32>> = (0..ids.len())
            .map(|at| {
                let (word, position) = (row("word", ids[at]), row("position", at));
                let kind = row("token_type", usize::from(at >= second));
                let mut x: Vec<f32> = (0..n).map(|i| word[i] + position[i] + kind[i]).collect();
                self.norm("bert.embeddings.LayerNorm", &mut x);
                x
            })
            .collect();
        for layer in 0..self.layers {
            let at = format!("bert.encoder.layer.{layer}");
            let part = |name: &str| -> Vec<Vec<f32>> {
                x.iter().map(|x| self.linear(&format!("{at}.attention.self.{name}"), x)).collect()
            };
            let (q, k, v) = (part("query"), part("key"), part("value"));
            let width = n / HEADS;
            let mut next = Vec::new();
            for i in 0..x.len() {
                let mut context = vec![0.0; n];
                for head in 0..HEADS {
                    let of = |x: &[f32]| x[head * width..][..width].to_vec();
                    let score = |j: usize| {
                        let dot: f32 = of(&q[i]).iter().zip(of(&k[j])).map(|(a, b)| a * b).sum();
                        (dot / (width as f32).sqrt()).exp()
                    };
                    let sum: f32 = (0..x.len()).map(score).sum();
                    for j in 0..x.len() {
                        for (c, v) in context[head * width..].iter_mut().zip(of(&v[j])) {
                            *c += score(j) / sum * v;
                        }
                    }
                }
                let mut y = self.linear(&format!("{at}.attention.output.dense"), &context);
                y.iter_mut().zip(&x[i]).for_each(|(y, x)| *y += x);
                self.norm(&format!("{at}.attention.output.LayerNorm"), &mut y);
                let mut inner = self.linear(&format!("{at}.intermediate.dense"), &y);
                inner.iter_mut().for_each(|v| *v = *v * 0.5 * (1.0 + erf(*v / 2f32.sqrt())));
                let mut out = self.linear(&format!("{at}.output.dense"), &inner);
                out.iter_mut().zip(&y).for_each(|(out, y)| *out += y);
                self.norm(&format!("{at}.output.LayerNorm"), &mut out);
                next.push(out);
            }
            x = next;
        }
        let pooled: Vec<f32> =
            self.linear("bert.pooler.dense", &x[0]).iter().map(|v| v.tanh()).collect();
        self.linear("classifier", &pooled)[0]
    }
}

/// By its Taylor series, which converges quickly for what the tests have.
fn erf(x: f32) -> f32 {
    let x = f64::from(x);
    if x.abs() > 4.0 {
        return x.signum() as f32;
    }
    let (mut sum, mut term) = (x, x);
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    (sum * 2.0 / std::f64::consts::PI.sqrt()) as f32
}

#[test]
fn scores_are_those_of_the_plain_forward_pass() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let model = TinyModel { head: true, ..TinyModel::seed(5) };
    let dir = model.write(cluster.host());
    session.sql(&format!("SELECT distilface_model_load('cross', '{}')", dir.display()));
    assert_eq!(
        session.one("SELECT kind FROM distilface.models WHERE name = 'cross'"),
        "cross-encoder"
    );
    let vocab: Vec<String> =
        fs::read_to_string(dir.join("vocab.txt")).unwrap().lines().map(str::to_owned).collect();
    let tensors = model.tensors(vocab.len()).into_iter();
    let tensors = tensors.map(|t| (t.name, (t.shape, t.values.into_owned()))).collect();
    let plain = Plain { tensors, vocab, layers: model.layers };

    let query = "the cat";
    let documents = [
        "the dog",
        "a river stone",
        "bread",
        "the bank rate ?",
        "house tree house tree the cat",
        "the cat",
    ];
    let rows = session.rows(&format!(
        "SELECT ord, score FROM distilface_rerank('{query}', ARRAY['{}', NULL, ' '], 'cross')",
        documents.join("','")
    ));
    assert_eq!(rows.len(), documents.len() + 2);
    let mut last = f32::INFINITY;
    for row in &rows[..documents.len()] {
        let ord: usize = row[0].as_deref().unwrap().parse().unwrap();
        let score: f32 = row[1].as_deref().unwrap().parse().unwrap();
        assert!(score <= last, "{rows:?}");
        last = score;
        // Without a word of the configuration, the sigmoid; undone, because it hides differences.
        let logit = (score / (1.0 - score)).ln();
        let expected = plain.logit(query, documents[ord - 1]);
        eprintln!("{}: {logit} expected {expected}", documents[ord - 1]);
        assert!((logit - expected).abs() < 0.05 * expected.abs().max(0.5), "{logit} {expected}");
    }
    assert!(rows[documents.len()..].iter().all(|row| row[1].is_none()), "{rows:?}");
    // The segments matter: a pair is not its reverse.
    assert!((plain.logit("the cat", "bread") - plain.logit("bread", "the cat")).abs() > 0.01);

    // The same alone as in company.
    let alone =
        session.one("SELECT score FROM distilface_rerank('the cat', ARRAY['bread'], 'cross')");
    assert!(
        rows.iter().any(|row| row[0].as_deref() == Some("3") && row[1].as_deref() == Some(&*alone))
    );
    // Too long is cut, and a blank query scores nothing.
    assert_eq!(
        session.one("SELECT score IS NOT NULL FROM distilface_rerank(repeat('cat ', 500), ARRAY[repeat('dog ', 500)], 'cross')"),
        "t"
    );
    assert_eq!(
        session.one("SELECT score IS NULL FROM distilface_rerank(' ', ARRAY['a'], 'cross')"),
        "t"
    );

    // Each kind of model does its own work.
    assert_eq!(session.error("SELECT distilface_embed('x', 'cross')").code.code(), "42809");
    assert_eq!(
        session.error("SELECT distilface_model_alias('default', 'cross')").code.code(),
        "42809"
    );
    let error = session.error("SELECT distilface_rerank('x', ARRAY['y'], 'distilface-small')");
    assert_eq!(error.code.code(), "42809", "{error}");
    session.sql("CREATE TABLE t (body text); INSERT INTO t VALUES ('a')");
    let error =
        session.error("CREATE INDEX ON t USING distilface_hnsw (body) WITH (model = 'cross')");
    assert_eq!(error.code.code(), "42809", "{error}");
}

#[test]
fn scores_are_logits_where_the_model_says_so_and_two_outputs_are_refused() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let model = TinyModel { head: true, ..TinyModel::seed(6) };
    let dir = model.write(cluster.host());
    let load = |name: &str| format!("SELECT distilface_model_load('{name}', '{}')", dir.display());
    session.sql(&load("sigmoid"));
    let config = fs::read_to_string(dir.join("config.json")).unwrap();
    let with = |more: &str| {
        fs::write(dir.join("config.json"), config.replacen('{', &format!("{{{more}, "), 1)).unwrap()
    };
    with(r#""sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}"#);
    session.sql(&load("logit"));
    let close = "SELECT abs(1 / (1 + exp(-l.score)) - s.score) < 1e-6
        FROM distilface_rerank('the cat', ARRAY['bread'], 'logit') l, distilface_rerank('the cat', ARRAY['bread'], 'sigmoid') s";
    assert_eq!(session.one(close), "t");
    with(r#""sbert_ce_default_activation_function": "torch.nn.modules.activation.Softmax""#);
    assert_eq!(session.error(&load("other")).code.code(), "0A000");

    let mut tensors =
        model.tensors(fs::read_to_string(dir.join("vocab.txt")).unwrap().lines().count());
    for tensor in &mut tensors {
        if tensor.name.starts_with("classifier.") {
            let twice = [&tensor.values[..], &tensor.values[..]].concat();
            tensor.shape[0] = 2;
            tensor.values = twice.into();
        }
    }
    fs::write(dir.join("config.json"), config).unwrap();
    let bytes = distilface_core::model::write_safetensors(&tensors).unwrap();
    fs::write(dir.join("model.safetensors"), bytes).unwrap();
    let error = session.error(&load("two"));
    assert_eq!(error.code.code(), "22023", "{error}");
    assert!(error.message.contains("classifier.weight"), "{error}");
}

#[test]
fn a_search_is_reranked_by_the_model_that_it_names() {
    let cluster = Cluster::start();
    let mut session = cluster.session();
    let dir = TinyModel { head: true, ..TinyModel::seed(5) }.write(cluster.host());
    session.sql(&format!("SELECT distilface_model_load('cross', '{}')", dir.display()));
    session.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, body text);
         INSERT INTO docs VALUES (1, 'the cat'), (2, 'the cat house tree'), (3, 'a river cat stone'),
           (4, 'the dog'), (5, 'cat bread'), (6, 'cat ?');
         CREATE INDEX ON docs USING distilface_bm25 (body)",
    );
    let best = session.rows(
        "SELECT d.id, r.score FROM distilface_rerank('cat',
           ARRAY(SELECT body FROM docs WHERE body LIKE '%cat%' ORDER BY id), 'cross') r
         JOIN (SELECT id, row_number() OVER (ORDER BY id) AS ord FROM docs WHERE body LIKE '%cat%') d USING (ord)
         ORDER BY r.score DESC LIMIT 3",
    );
    let arguments = "'docs', 'cat', k => 3, mode => 'lexical', rerank => 'cross'";
    let found = session.rows(&format!(
        "SELECT d.id, s.score::real FROM distilface_search({arguments}) s JOIN docs d ON d.ctid = s.ctid
         ORDER BY s.score DESC"
    ));
    assert_eq!(found, best, "the score is the cross-encoder's, and so is the order");
    let by_words =
        session.rows("SELECT * FROM distilface_search('docs', 'cat', k => 3, mode => 'lexical')");
    let by_model = session.rows(&format!("SELECT * FROM distilface_search({arguments})"));
    assert_ne!(by_words, by_model);
    let printed = session.one(&format!("SELECT distilface_search_sql({arguments})"));
    assert_eq!(session.rows(&printed), by_model);

    // Only the first of the fused rows are read by the model.
    let first =
        session.one("SELECT ctid FROM distilface_search('docs', 'cat', k => 1, mode => 'lexical')");
    let arguments =
        "'docs', 'cat', k => 1, mode => 'lexical', rerank => 'cross', rerank_depth => 1";
    assert_eq!(session.one(&format!("SELECT ctid FROM distilface_search({arguments})")), first);

    // The index that is searched has vectors; the text is another index's.
    session.sql(
        "CREATE TABLE both_ways AS SELECT *, distilface_embed(body) AS e FROM docs;
         CREATE INDEX ON both_ways USING distilface_hnsw (e)",
    );
    let semantic = "SELECT * FROM distilface_search('both_ways', 'cat', k => 3, mode => 'semantic', rerank => 'cross'";
    let error = session.error(&format!("{semantic})"));
    assert_eq!(error.code.code(), "42703", "no index on text: {error}");
    let named = session.rows(&format!("{semantic}, columns => '{{body}}')"));
    session.sql("CREATE INDEX ON both_ways USING distilface_hnsw (body)");
    assert_eq!(session.rows(&format!("{semantic})")), named);

    for (arguments, code) in [
        ("rerank => 'nothing'", "42704"),
        ("rerank => 'distilface-small'", "42809"),
        ("rerank => 'cross', rerank_depth => 0", "22023"),
    ] {
        let error =
            session.error(&format!("SELECT * FROM distilface_search('docs', 'cat', {arguments})"));
        assert_eq!(error.code.code(), code, "{error}");
    }
}
