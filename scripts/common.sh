# Sourced by the scripts beside it: where things are, how to say what is going on.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top"

PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
export RUSTFLAGS=${RUSTFLAGS:--C link-arg=-Wl,--no-gc-sections}

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }
note() { printf '    %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Runs a command with root's rights: as it stands when we are root, through sudo otherwise.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "this step needs root and there is no sudo; as root, run: $*"
  fi
}

# Runs a command as a user that may run PostgreSQL, which refuses to run as root; in a directory that any user may
# enter.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then
    (cd / && exec setpriv --reuid=postgres --regid=postgres --init-groups --reset-env "$@")
  else "$@"
  fi
}

# A Python with venv and pip, made once in .venv: Debian's own may not install into itself (PEP 668).
venv_pip() {
  [ -x .venv/bin/pip ] || { note "making .venv for pip"; python3 -m venv .venv; }
  .venv/bin/pip --disable-pip-version-check "$@"
}

sha256_is() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]; }
