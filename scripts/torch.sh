#!/usr/bin/env bash
# PyTorch, transformers and sentence-transformers from PyPI, in target/torch, for what is measured or checked
# beside them. PyPI's torch for Linux brings CUDA's libraries with it: some 6 GB. DISTILFACE_TORCH names a venv
# that is there already.
. "$(dirname "$0")/common.sh"

venv=${DISTILFACE_TORCH:-target/torch}
if ! "$venv/bin/python" -c 'import torch, transformers, sentence_transformers' 2>/dev/null; then
  say "fetching PyTorch and sentence-transformers from PyPI into $venv (6 GB)"
  python3 -m venv "$venv"
  "$venv/bin/pip" --disable-pip-version-check install -q torch transformers sentence-transformers
fi
note "$("$venv/bin/python" -c 'import sentence_transformers as s, torch as t; print("torch", t.__version__, "and sentence-transformers", s.__version__)')"
exec "$venv/bin/python" "$@"
