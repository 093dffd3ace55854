#!/usr/bin/env bash
# `cargo pgrx install --release` into the server of $PG_CONFIG, through sudo where its directories want that.
. "$(dirname "$0")/common.sh"

sudo=()
if [ ! -w "$("$PG_CONFIG" --pkglibdir)" ] || [ ! -w "$("$PG_CONFIG" --sharedir)/extension" ]; then
  command -v sudo >/dev/null ||
    die "$("$PG_CONFIG" --pkglibdir) is not writable and there is no sudo; run make as root"
  sudo=(--sudo)
fi
cd extension
cargo pgrx install --release -c "$PG_CONFIG" "${sudo[@]}"
