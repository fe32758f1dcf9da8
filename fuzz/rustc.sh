#!/usr/bin/env bash
# RUSTC_WRAPPER of `make fuzz`: our own crates get what libFuzzer reads its way from (which branches ran, what was compared),
# by flags that stable Rust knows. Dependencies stay as they are for the tests, and are taken from there.
set -euo pipefail
case ${CARGO_PKG_NAME:-} in
  kubeedge-rs | kubeedge-fuzz)
    exec "$@" --cfg fuzzing -Cdebug-assertions=on -Coverflow-checks=on -Cpasses=sancov-module \
      -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
      -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
  *) exec "$@" ;;
esac
