#!/usr/bin/env bash
# Installs what building, running or testing needs and this machine lacks (Debian 12).
#   deploy/tools.sh build        a C++ compiler, protoc, libclang (RocksDB, gRPC)
#   deploy/tools.sh run          containerd, runc, CNI plugins, iptables, kubectl, Mosquitto's clients
#   deploy/tools.sh test         all of it, and openssl, SoftHSM, Prometheus, libfaketime, curl, Mosquitto and its clients, Node.js, Python packages,
#                                Chromium with its driver, npm packages
#   deploy/tools.sh pictures     what test needs, and pngquant
#   deploy/tools.sh bench        Mosquitto and its clients
#   deploy/tools.sh stack        kubectl, python3, debootstrap, Docker and its compose, for `make test-stack`
#   deploy/tools.sh release      cargo-deb and cargo-cyclonedx, into $KUBEEDGE_CACHE/bin; dpkg-dev, binutils
# Nothing that is present is touched. kubectl goes to $KUBEEDGE_CACHE/bin when the machine has none
# of version 1.30 or newer; its path is printed by: deploy/tools.sh kubectl. The Python packages of
# deploy/test-requirements.txt go to $KUBEEDGE_CACHE/venv; its python is printed by: deploy/tools.sh python
# The npm packages of tests/package.json go to a folder in $KUBEEDGE_CACHE; its path is printed by: deploy/tools.sh npm
# A `docker compose` that builds with BuildKit, where Docker brings none, goes to $KUBEEDGE_CACHE/bin; its
# path is printed by: deploy/tools.sh compose
set -euo pipefail

cache=${KUBEEDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubeedge-rs}
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

need=()
want() { # want PACKAGE TEST...: remembers the package unless the test succeeds
  local package=$1; shift
  "$@" >/dev/null 2>&1 || need+=("$package")
}
for_build() {
  want g++ command -v g++
  want make command -v make
  want protobuf-compiler command -v protoc
  want libclang-dev test -e /usr/lib/llvm-14/lib/libclang.so.1
}
for_run() {
  want containerd command -v containerd
  want runc test -x /usr/sbin/runc
  want containernetworking-plugins test -x /usr/lib/cni/bridge
  want iptables command -v iptables
  want iproute2 command -v ip
  want busybox-static test -x /bin/busybox
  want gcc command -v gcc
  want libc6-dev test -e /usr/lib/x86_64-linux-gnu/libc.a -o -e /usr/lib/aarch64-linux-gnu/libc.a
  want procps command -v pkill
  want ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
  want curl command -v curl
  want mosquitto-clients command -v mosquitto_rr
}
for_bench() { # The broker to compare with. Debian starts it when it is installed; we start our own.
  want mosquitto test -x /usr/sbin/mosquitto
  want mosquitto-clients command -v mosquitto_rr
}
for_release() {
  want dpkg-dev command -v dpkg-shlibdeps
  want binutils command -v objdump
}
cargo_tools() { # Each in the version that was tried.
  local tool missing=()
  for tool in cargo-deb@3.8.0 cargo-cyclonedx@0.5.9; do
    grep -q "\"${tool/@/ } " "$cache/.crates.toml" 2>/dev/null || missing+=("$tool")
  done
  [ ${#missing[@]} -eq 0 ] && return
  echo "compiling: ${missing[*]}" >&2
  # Their own build, whatever the project's is told.
  env -u CARGO_TARGET_DIR cargo install --quiet --locked --root "$cache" "${missing[@]}"
}
for_test() {
  for_bench
  want openssl command -v openssl
  want softhsm2 test -e /usr/lib/softhsm/libsofthsm2.so
  want prometheus command -v promtool
  want systemd command -v systemd-analyze
  want libfaketime compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1'
  want e2fsprogs command -v mkfs.ext4
  want mount command -v losetup
  want nodejs command -v node
  want npm command -v npm
  want python3-venv python3 -c 'import ensurepip'
  want chromium command -v chromium
  want chromium-driver command -v chromedriver
}
for_pictures() {
  for_test
  want pngquant command -v pngquant
}
for_stack() { # Debian does not start dockerd before it is told to; the test starts its own.
  want curl command -v curl
  want python3 command -v python3
  want docker.io command -v dockerd
  want debootstrap command -v debootstrap
  want runc test -x /usr/sbin/runc
}
# Peers that are not ours (a Modbus server, a gRPC client), in a folder of their own.
python_venv() {
  local wanted=$(dirname "$0")/test-requirements.txt have=$cache/venv/test-requirements.txt
  cmp -s "$wanted" "$have" && "$cache/venv/bin/python" -c pass 2>/dev/null && return
  echo "fetching the Python packages of $wanted" >&2
  mkdir -p "$cache"
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" install -q -r "$wanted"
  cp "$wanted" "$have"
}
# A folder for each lock file: two checkouts of different age do not take each other's away.
npm_folder() { echo "$cache/npm-$(sha256sum < "$(dirname "$0")/../tests/package-lock.json" | cut -c1-12)"; }
npm_packages() {
  local wanted=$(dirname "$0")/../tests have work; have=$(npm_folder)
  [ -d "$have" ] && return
  echo "fetching the npm packages of $wanted/package.json" >&2
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/npm.XXXXXX")
  cp "$wanted"/package{,-lock}.json "$work"
  (cd "$work" && npm ci --silent --no-audit --no-fund --ignore-scripts) || { rm -rf "$work"; exit 1; }
  mv -T "$work" "$have" 2>/dev/null || rm -rf "$work" # another run was faster
}
install_packages() {
  [ ${#need[@]} -eq 0 ] && return
  echo "installing: ${need[*]}" >&2
  root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive root apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
}

minor_of() { "$1" version --client -o json 2>/dev/null | sed -n 's/.*"minor": *"\([0-9]*\).*/\1/p' | head -1; }
find_kubectl() {
  local candidate
  for candidate in "$cache/bin/kubectl" "$(command -v kubectl || true)"; do
    if [ -x "$candidate" ] && [ "$(minor_of "$candidate")" -ge 30 ] 2>/dev/null; then
      echo "$candidate"; return
    fi
  done
  return 1
}
# from_debian_13 PACKAGE FILE: one file of a package of Debian 13 into $cache/bin. For programs that are
# too old in Debian 12 and need no library but libc.
from_debian_13() {
  local package=$1 file=$2 work uri version
  echo "fetching $package from Debian 13" >&2
  work=$(mktemp -d); chmod 755 "$work"; mkdir -p "$work/lists/partial" "$work/out" "$cache/bin"
  root apt-get update -qq
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | head -1)
  [ -n "$uri" ] || { echo "no Debian mirror in apt's sources: install kubectl 1.30 or newer by hand" >&2; exit 1; }
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie main" > "$work/list"
  local -a apt=(-qq -o "Dir::Etc::sourcelist=$work/list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists")
  root apt-get "${apt[@]}" update 2>/dev/null
  version=$(apt-cache "${apt[@]}" madison "$package" | awk -F'|' '/trixie/ {gsub(/ /, "", $2); print $2; exit}')
  (cd "$work/out" && root apt-get "${apt[@]}" download "$package=$version" 2>/dev/null && dpkg -x "$package"_*.deb x)
  install -m 755 "$work/out/x/$file" "$cache/bin/${file##*/}"
  rm -rf "$work"
}
install_kubectl() {
  find_kubectl >/dev/null && return
  from_debian_13 kubectl usr/bin/kubectl
  find_kubectl >/dev/null || { echo "kubectl was fetched but does not run" >&2; exit 1; }
}
# Version 2.17 of compose knows `build` by target and `up --wait`. Newer ones need the plugin buildx as well.
find_compose() {
  local candidate
  for candidate in "$cache/bin/docker-compose" /usr/libexec/docker/cli-plugins/docker-compose /usr/lib/docker/cli-plugins/docker-compose; do
    [ -x "$candidate" ] && "$candidate" version >/dev/null 2>&1 && { echo "$candidate"; return; }
  done
  return 1
}
install_compose() {
  find_compose >/dev/null && return
  from_debian_13 docker-compose usr/libexec/docker/cli-plugins/docker-compose
  find_compose >/dev/null || { echo "docker-compose was fetched but does not run" >&2; exit 1; }
}

case ${1:-} in
  build) for_build; install_packages ;;
  run) for_build; for_run; install_packages; install_kubectl ;;
  bench) for_bench; install_packages ;;
  release) for_build; for_release; install_packages; cargo_tools ;;
  test) for_build; for_run; for_test; install_packages; install_kubectl; python_venv; npm_packages ;;
  pictures) for_build; for_run; for_pictures; install_packages; install_kubectl ;;
  stack) for_stack; install_packages; install_kubectl; install_compose ;;
  compose) find_compose || { echo "no docker compose: run deploy/tools.sh stack" >&2; exit 1; } ;;
  kubectl) find_kubectl || { echo "no kubectl 1.30 or newer: run deploy/tools.sh run" >&2; exit 1; } ;;
  python) echo "$cache/venv/bin/python" ;;
  npm) npm_folder ;;
  *) echo "usage: deploy/tools.sh build|run|test|pictures|bench|release|stack|kubectl|compose|python|npm" >&2; exit 64 ;;
esac
