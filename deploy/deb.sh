#!/usr/bin/env bash
# Makes dist/kubeedge-rs_VERSION_ARCH.deb from what is built (Cargo.toml, [package.metadata.deb]).
#   deploy/deb.sh [cargo-deb's options, such as --profile dev]
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${KUBEEDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubeedge-rs}
out=${KUBEEDGE_DIST_DIR:-dist}
[ -x "$cache/bin/cargo-deb" ] || { echo "deb: cargo-deb is missing: run deploy/tools.sh release" >&2; exit 1; }
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
umask 022
mkdir -p "$out"
"$cache/bin/cargo-deb" --no-build --locked --output "$out/" "$@"
