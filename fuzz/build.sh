#!/usr/bin/env bash
# Builds all fuzz targets as one program, with stable Rust, in the folder and with the dependencies of the tests.
set -euo pipefail
cd "$(dirname "$0")"
# The versions that everything else has, and libfuzzer-sys.
cat ../Cargo.lock packages.lock >Cargo.lock
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$(cd .. && pwd)/target} CARGO_INCREMENTAL=0 RUSTC_WRAPPER="$PWD/rustc.sh"
cargo build "$@" --bin decoders
