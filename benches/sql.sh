#!/usr/bin/env bash
# Embedding and search through SQL on the demo's corpus, beside pgvector in the same server and the same session,
# in turns. Wants the PostgreSQL 18 tree, whose wheel has pgvector; without it, ours alone on PostgreSQL 15.
. "$(dirname "$0")/../scripts/common.sh"

bin=$(sed -n 's/^18 //p' target/pg-trees)
bin=${bin:-$(sed -n 's/^15 //p' target/pg-trees)}
home=$(mktemp -d /tmp/distilface-bench-XXXXXX)
[ "$(id -u)" != 0 ] || chown postgres:postgres "$home"
cleanup() {
  as_postgres "$bin/pg_ctl" stop -s -m immediate -D "$home/data" 2>/dev/null || true
  rm -rf "$home"
}
trap cleanup EXIT

say "measuring on $("$bin/postgres" --version), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n1), $(git rev-parse --short HEAD)"
as_postgres "$bin/initdb" --no-locale -E UTF8 -U postgres -A trust --no-sync -D "$home/data" >/dev/null
as_postgres "$bin/pg_ctl" start -s -w -D "$home/data" -l "$home/log" -o \
  "-c listen_addresses= -c unix_socket_directories=$home -c shared_buffers=512MB -c maintenance_work_mem=512MB -c autovacuum=off"
gzip -dc demo/corpus.tsv.gz >"$home/corpus.tsv"
chmod a+r "$home/corpus.tsv"
# shellcheck disable=SC2016 # psql's shell expands $PID
"$bin/psql" -X -q -h "$home" -U postgres -d postgres -v ON_ERROR_STOP=1 \
  -v corpus="$home/corpus.tsv" -v cpu="${BENCH_CPU:-$(($(nproc) - 1))}" -f benches/sql.sql
