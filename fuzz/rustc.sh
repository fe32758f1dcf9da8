#!/usr/bin/env bash
# RUSTC_WRAPPER of `make fuzz`: our library and the program get what libFuzzer reads its way from (which branches ran, what was
# compared), by flags that stable Rust knows. Build scripts and dependencies stay as they are for the tests.
set -euo pipefail
case " $* " in
  *" --crate-name kubeedge "* | *" --crate-name decoders "*)
    exec "$@" --cfg fuzzing -Cdebug-assertions=on -Coverflow-checks=on -Cpasses=sancov-module \
      -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
      -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
  *) exec "$@" ;;
esac
