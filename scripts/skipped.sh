#!/usr/bin/env bash
# Lists, from a nextest report, the tests that could not run here and why; a quiet skip would look like a pass.
. "$(dirname "$0")/common.sh"
report=target/nextest/$1/junit.xml
[ -f "$report" ] || exit 0
skipped=$(grep -oiE '(^|>)skip(ped|ping)?\b.*' "$report" | sed 's/^>//' | sort | uniq -c || true)
if [ -n "$skipped" ]; then say "skipped, and why (times, reason)"; printf '%s\n' "$skipped"
else say "nothing was skipped"
fi
