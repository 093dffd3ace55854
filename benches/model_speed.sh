#!/usr/bin/env bash
# distilface-tiny's time beside distilface-small's, in turns in one run, one thread: W1 a query of 12 tokens, W2 64 sentences of
# 6 to 40, W3 64 texts of 128, W4 16 of 512. Any tokens will do.
. "$(dirname "$0")/../scripts/common.sh"

bench=${ENCODER_BENCH:-cargo bench -q --locked -p distilface-core --bench encoder --}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
awk 'BEGIN {
  srand(1)
  split("1 64 64 16", texts); split("12 6 128 512", low); split("12 40 128 512", high)
  for (w = 1; w <= 4; w++) {
    printf "%s\"W%d\":[", (w == 1 ? "{" : "],"), w
    for (t = 1; t <= texts[w]; t++) {
      printf "%s", (t == 1 ? "[" : ",[")
      tokens = low[w] + (t * 7) % (high[w] - low[w] + 1)
      for (i = 1; i <= tokens; i++) printf "%s%d", (i == 1 ? "" : ","), 1000 + int(rand() * 29000)
      printf "]"
    }
  }
  print "]}"
}' >"$place/work.json"

for turn in 1 2 3 4 5; do
  for model in small tiny; do
    $bench --packed models/distilface-$model/model.packed --work "$place/work.json" --rounds 21 |
      awk -v model=$model 'match($0, /"median_ms":[0-9.]+/) {
        ms = substr($0, RSTART + 12, RLENGTH - 12)
        match($0, /"work":"W[0-9]/); print substr($0, RSTART + 8, 2), model, ms
      }' >>"$place/times"
  done
done
sort -k1,2 -k3,3n "$place/times" | awk '
  { count[$1 $2]++; ms[$1 $2, count[$1 $2]] = $3 }
  function middle(key) { return ms[key, int((count[key] + 1) / 2)] }
  END {
    for (w = 1; w <= 4; w++) {
      small = middle("W" w "small"); tiny = middle("W" w "tiny")
      printf "W%d: distilface-small %.3f ms, distilface-tiny %.3f ms\n", w, small, tiny
      printf "target tiny-W%d got %.2f asked 2 %s\n", w, small / tiny, (small / tiny >= 2 ? "ok" : "short")
    }
  }'
