#!/usr/bin/env bash
# Makes the demo's two container images without a registry, as docker archives:
#   deploy/demo/mkimage.sh FOLDER    ->  FOLDER/pause.tar (registry.local/pause:3.9)
#                                        FOLDER/hello.tar (registry.local/hello:1, busybox)
# Same input, same bytes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac
plain=(--sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --format=gnu)

image() { # image NAME ROOTFS ENTRYPOINT-JSON TAR
  local name=$1 rootfs=$2 entrypoint=$3 tar=$4 box layer config
  box=$(mktemp -d -p "$work")
  mkdir "$box/layer"
  tar "${plain[@]}" -C "$rootfs" -cf "$box/layer/layer.tar" .
  layer=$(sha256sum "$box/layer/layer.tar" | cut -d' ' -f1)
  printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Env":["PATH=/bin"],"Entrypoint":%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"mkimage.sh"}]}' \
    "$arch" "$entrypoint" "$layer" > "$box/config.json"
  config=$(sha256sum "$box/config.json" | cut -d' ' -f1)
  mv "$box/config.json" "$box/$config.json"
  printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["layer/layer.tar"]}]' "$config" "$name" > "$box/manifest.json"
  tar "${plain[@]}" -C "$box" -cf "$tar" manifest.json "$config.json" layer/layer.tar
}

mkdir -p "$work/pause" "$work/hello"/{bin,etc,tmp,root,www}
gcc -Os -static -o "$work/pause/pause" "$here/pause.c"
strip "$work/pause/pause"
image registry.local/pause:3.9 "$work/pause" '["/pause"]' "$out/pause.tar"

cp /bin/busybox "$work/hello/bin/busybox"
for tool in sh cat cp date echo env false grep head hostname httpd id kill ls mkdir mount nc ps rm sleep sync tail test touch true wc; do
  ln -s busybox "$work/hello/bin/$tool"
done
echo 'root:x:0:0:root:/root:/bin/sh' > "$work/hello/etc/passwd"
echo 'root:x:0:' > "$work/hello/etc/group"
chmod 1777 "$work/hello/tmp"
image registry.local/hello:1 "$work/hello" 'null' "$out/hello.tar"
