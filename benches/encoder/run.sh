#!/usr/bin/env bash
# The encoder beside ONNX Runtime and OpenVINO, on one core, in turns: sets up the peers in a virtual
# environment of their own, makes a model of DistilBERT's size, compares outputs, prints the table.
# ENCODER_BENCH is the bench binary; cargo bench sets it.
. "$(dirname "$0")/../../scripts/common.sh"

here=benches/encoder
work=target/bench-encoder
mini=models/all-minilm-l6-v2
[ -f $mini/model.packed ] || die "there is no $mini/model.packed; make model brings it"
mkdir -p $work

if ! cmp -s $here/requirements.txt $work/venv/requirements.txt; then
  say "setting up the peers from PyPI in $work/venv"
  rm -rf $work/venv && python3 -m venv $work/venv
  $work/venv/bin/pip --disable-pip-version-check install -q -r $here/requirements.txt
  cp $here/requirements.txt $work/venv/
fi

import_as() { cargo run --release --locked -p distilface-train -- import "$1" --out "$2" --precision "$3"; }

# The packed form may have changed since.
if ! [ $work/DistilBERT-int8/model.packed -nt src/encoder/weights.rs ]; then
  say "making a model of DistilBERT's size, and both models in int8"
  rm -rf $work/DistilBERT* $work/MiniLM-int8 $work/distilbert-source
  (cd $here && "$top/$work/venv/bin/python" -c \
    "import models; models.write_distilbert('$top/$mini', '$top/$work/distilbert-source')")
  import_as $mini $work/MiniLM-int8 int8
  import_as $work/distilbert-source $work/DistilBERT bf16
  import_as $work/distilbert-source $work/DistilBERT-int8 int8
fi

$work/venv/bin/python $here/compare.py --bench "$ENCODER_BENCH" --work $work \
  --model "MiniLM=$mini" --model "DistilBERT=$work/DistilBERT" "$@"
