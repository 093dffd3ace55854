#!/usr/bin/env bash
# The committed models scored again, beside the figures that their cards state: STS and SciFact by
# `distilface-train eval` on the packed form. STS figures may differ by 0.05 (processors round differently),
# nDCG@10 by 0.005 (near ties among 5,183 documents). Needs the project's data beside the repository.
. "$(dirname "$0")/../scripts/common.sh"

sts=../shared/data/sts/sts.tsv.gz scifact=../shared/data/retrieval/scifact
[ -f $sts ] && [ -d $scifact ] || die "there is no $sts or $scifact to score the models with"

# The last number of a card's row.
stated() { grep -F "| $2 |" "$1" | head -n1 | grep -oE '[0-9]+\.[0-9]+' | tail -n1; }

failed=0
compare() { # name, got, stated, allowed difference
  local verdict=ok
  awk -v a="$2" -v b="$3" -v most="$4" 'BEGIN { d = a - b; exit !(d <= most && -d <= most) }' ||
    { verdict=short; failed=1; }
  echo "target $1 got $2 asked $3 $verdict"
}

for card in models/*/README.md; do
  model=$(dirname "$card")
  name=$(basename "$model")
  [ -f "$model/model.packed" ] || continue
  git ls-files --error-unmatch "$card" >/dev/null 2>&1 || continue
  say "$name"
  report=$(target/release/distilface-train eval "$model" --sts $sts --retrieval $scifact | tee >(cat >&2))
  field() { awk -v key="$1" '$1 == key { print $2; exit }' <<<"$report"; }
  compare "$name-seven" "$(field seven)" "$(stated "$card" 'seven tasks')" 0.05
  compare "$name-five" "$(field five)" "$(stated "$card" 'five tasks (STS12–15, STS-B)')" 0.05
  ndcg=$(grep -oE 'nDCG@10 [0-9.]+' <<<"$report" | awk '{ print $2 }')
  compare "$name-scifact" "$ndcg" "$(stated "$card" 'SciFact nDCG@10')" 0.005
done
exit $failed
