#!/usr/bin/env bash
# Makes dist/kubeedge-rs-VERSION-TARGET.tar.gz: programs, units, configuration, CRDs, examples, manifests, boards,
# rules, documents, checksums and a bill of materials (CycloneDX). The same commit and programs give the same bytes.
#   deploy/release.sh            programs from target/release; KUBEEDGE_BIN_DIR names another folder
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${KUBEEDGE_BIN_DIR:-${CARGO_TARGET_DIR:-target}/release}
out=${KUBEEDGE_DIST_DIR:-dist}
cache=${KUBEEDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubeedge-rs}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export LC_ALL=C
umask 022

fail() { echo "release: $*" >&2; exit 1; }
mapfile -t programs < <(sed -n '/^\[\[bin\]\]/,/^path/s/^name = "\(.*\)"/\1/p' Cargo.toml)
for program in "${programs[@]}"; do [ -x "$bin/$program" ] || fail "$bin/$program is missing: run make build"; done
[ -x "$cache/bin/cargo-cyclonedx" ] || fail "cargo-cyclonedx is missing: run deploy/tools.sh release"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
name=kubeedge-rs-$version-$(rustc -vV | sed -n 's/^host: //p')
work=$(mktemp -d)
trap 'rm -rf "$work" ./kubeedge-rs.sbom.json' EXIT
dir=$work/$name

# put FOLDER FILE...: what is in git, nothing else.
put() { local to=$dir/$1; shift; install -d "$to"; install -m 644 "$@" "$to"; }
# put_tree FOLDER TREE
put_tree() {
  local to=$1 tree=$2 file
  git ls-files "$tree" | while read -r file; do put "$to/$(dirname "${file#"$tree"/}")" "$file"; done
}
install -d "$dir/bin"
install -m 755 "${programs[@]/#/$bin/}" "$dir/bin"
put . README.md LICENSE CHANGELOG.md deploy/INSTALL.md
put_tree docs docs
put config config/cloudcore.yaml config/edgecore.yaml
put_tree config/crds config/crds
put_tree config/examples config/examples
put_tree config/prometheus config/prometheus
put_tree grafana grafana
put_tree systemd deploy/systemd
put_tree kubernetes deploy/kubernetes

# What was linked in. Its serial number and paths would differ on each machine.
"$cache/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --override-filename kubeedge-rs.sbom
sed -e "s#path+file://$PWD#pkg:cargo/kubeedge-rs#g" -e "s#file://$PWD#.#g" -e "s#$PWD#.#g" kubeedge-rs.sbom.json > "$dir/sbom.cdx.json"
! grep -q "$PWD" "$dir/sbom.cdx.json" || fail "the bill of materials names this machine's folders"

# What has to be there where it runs (Debian 12 and anything newer has it).
needs() { objdump -p "$1" | awk '$1 == "NEEDED" { print $2 }' | sort; }
glibc() { objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1; }
{
  echo "kubeedge-rs $version, commit $(git rev-parse HEAD), $(rustc -V)"
  echo "Linked in: everything but the C library and the compiler's runtime (the C++ library, RocksDB, LZ4 and TLS are inside)."
  for program in "${programs[@]}"; do
    echo "$program: $(needs "$bin/$program" | paste -sd' '); oldest C library: $(glibc "$bin/$program")"
  done
} > "$dir/BUILD.txt"

(cd "$dir" && find . -type f ! -name SHA256SUMS -printf '%P\n' | sort | xargs -d '\n' sha256sum > SHA256SUMS)
mkdir -p "$out"
tar -C "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w \
  --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -cf - "$name" | gzip -n -9 > "$out/$name.tar.gz"
(cd "$out" && sha256sum "$name.tar.gz" > "$name.tar.gz.sha256")
cat "$dir/BUILD.txt"
echo "$out/$name.tar.gz $(stat -c %s "$out/$name.tar.gz") bytes"
