#!/usr/bin/env bash
# Makes the release twice: the same bytes; then looks into it.
#   KUBEEDGE_BIN_DIR=... tests/stack/release.sh      default: target/release, after make build
set -euo pipefail
cd "$(dirname "$0")/../.."
fail() { echo "release test: $*" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for time in one two; do KUBEEDGE_DIST_DIR=$work/$time deploy/release.sh >"$work/$time.txt"; done
diff -r "$work/one" "$work/two" || fail "the second time it was another archive"
[ -z "$(git status --porcelain -- kubeedge-rs.sbom.json)" ] || fail "a file was left in the repository"
(cd "$work/one" && sha256sum --quiet --check ./*.sha256)
tar -C "$work" -xzf "$work"/one/*.tar.gz
dir=$(echo "$work"/kubeedge-rs-*/)
(cd "$dir" && sha256sum --quiet --check SHA256SUMS)
[ "$(wc -l < "$dir/SHA256SUMS")" = "$(($(find "$dir" -type f | wc -l) - 1))" ] || fail "SHA256SUMS does not name every file"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
for program in cloudcore edgecore keadm mapper-modbus mapper-sim; do
  [[ "$("$dir/bin/$program" --version)" == *"$version"* ]] || fail "$program does not run"
  grep -q "^$program: .*GLIBC_" "$dir/BUILD.txt" || fail "BUILD.txt says nothing about $program"
done
grep -q '"name": "rocksdb"' "$dir/sbom.cdx.json" || fail "the bill of materials does not know RocksDB"
[ "$(grep -c '"purl": "pkg:cargo/' "$dir/sbom.cdx.json")" -gt 200 ] || fail "the bill of materials is short"
for file in INSTALL.md systemd/cloudcore.service kubernetes/rbac.yaml config/crds/devices.yaml config/prometheus/rules/pods.yml \
  grafana/dashboards/fleet.json docs/RUNBOOK.md README.md LICENSE; do
  [ -s "$dir/$file" ] || fail "$file is missing"
done
if grep -rlF "$PWD" "$dir" --include='*' --exclude-dir=bin | grep .; then fail "this machine's folders are named in it"; fi
cat "$work/one.txt"
echo "the release is whole, and the same twice"
