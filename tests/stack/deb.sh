#!/usr/bin/env bash
# Installs, uses, upgrades, removes and purges the Debian package in a Debian of its own, without a network.
#   tests/stack/deb.sh [PACKAGE]      default: the one in dist/
# Needs root and debootstrap; its base system is kept in $KUBEEDGE_CACHE.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
cache=${KUBEEDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubeedge-rs}
package=${1:-$(ls -t "$repo"/dist/kubeedge-rs_*.deb 2>/dev/null | head -1)}

fail() { echo "deb test: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "it makes a system in a folder: run it as root"
[ -f "$package" ] || fail "there is no package: run make deb"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"

base=$cache/bookworm.tar
if [ ! -s "$base" ]; then
  echo "making a base system (once, some minutes)"
  made=$(mktemp -d)
  debootstrap --variant=minbase --include=systemd,iproute2 bookworm "$made/root" >"$made/log" 2>&1 || fail "debootstrap: $(tail -3 "$made/log")"
  mkdir -p "$cache"
  tar -C "$made/root" --exclude='./var/cache/apt/*' -cf "$base.part" . && mv "$base.part" "$base"
  rm -rf "$made"
fi
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
mkdir "$work/root"
tar -C "$work/root" -xf "$base"
cp "$package" "$work/root/root/kubeedge-rs.deb"
cp "$repo/tests/stack/deb-inside.sh" "$work/root/root/inside.sh"
# Its mounts, processes and sockets are its own, and end with it.
unshare --mount --pid --net --fork bash -c '
  mount -t proc proc "$0/proc" && exec chroot "$0" /bin/bash /root/inside.sh' "$work/root"
