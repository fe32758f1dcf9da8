#!/usr/bin/env bash
# RocksDB's C++ takes most of a clean build. This compiles the copy bundled with the rocksdb crate
# once for all profiles and checkouts of this machine and prints the folder of librocksdb.a.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${KUBEEDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubeedge-rs}
version=$(sed -n '/^name = "librocksdb-sys"/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
folder=$cache/rocksdb-${version//+/-}
if [ ! -e "$folder/librocksdb.a" ]; then
  echo "compiling RocksDB $version once (about 15 minutes on two cores)" >&2
  mkdir -p "$folder"
  exec 9>"$folder/lock"; flock 9
  if [ ! -e "$folder/librocksdb.a" ]; then
    env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC CARGO_TARGET_DIR="$folder/build" \
      cargo build --quiet --locked --release -p librocksdb-sys >&2
    cp "$folder"/build/release/build/librocksdb-sys-*/out/librocksdb.a "$folder/librocksdb.a.new"
    mv "$folder/librocksdb.a.new" "$folder/librocksdb.a"
    rm -rf "$folder/build"
  fi
fi
echo "$folder"
