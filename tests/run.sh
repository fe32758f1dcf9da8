#!/usr/bin/env bash
# `cargo test` with these arguments; what failed is said once more at the end, where it is found.
set -euo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if cargo test --locked "$@" 2>&1 | tee "$log"; then
  exit 0
fi
echo
echo "What failed:"
grep -A 3 "^thread '.*' .*panicked at " "$log" | grep -v '^stack backtrace' | cut -c 1-500 || true
exit 101
