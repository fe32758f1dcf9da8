#!/usr/bin/env bash
# Installs what building, running or testing needs and this machine lacks (Debian 12).
#   deploy/tools.sh build        a C++ compiler, protoc, libclang (RocksDB, gRPC)
#   deploy/tools.sh run          containerd, runc, CNI plugins, iptables, kubectl, Mosquitto's clients
#   deploy/tools.sh test         all of it, and openssl, SoftHSM, promtool, curl, Mosquitto and its clients, Python packages,
#                                Chromium with its driver, axe-core
#   deploy/tools.sh bench        Mosquitto and its clients
# Nothing that is present is touched. kubectl goes to $KUBEEDGE_CACHE/bin when the machine has none
# of version 1.30 or newer; its path is printed by: deploy/tools.sh kubectl. The Python packages of
# deploy/test-requirements.txt go to $KUBEEDGE_CACHE/venv; its python is printed by: deploy/tools.sh python
# axe-core goes to $KUBEEDGE_CACHE; its path is printed by: deploy/tools.sh axe
set -euo pipefail

cache=${KUBEEDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubeedge-rs}
axe_version=4.14.1
axe=$cache/axe-core-$axe_version.js
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
for_test() {
  for_bench
  want openssl command -v openssl
  want softhsm2 test -e /usr/lib/softhsm/libsofthsm2.so
  want prometheus command -v promtool
  want python3-venv python3 -c 'import ensurepip'
  want chromium command -v chromium
  want chromium-driver command -v chromedriver
  test -s "$axe" || want npm command -v npm
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
# What judges how accessible the console's page is.
install_axe() {
  test -s "$axe" && return
  echo "fetching axe-core $axe_version" >&2
  local work; work=$(mktemp -d); mkdir -p "$cache"
  npm pack --silent --pack-destination "$work" "axe-core@$axe_version" >/dev/null
  tar -xzf "$work/axe-core-$axe_version.tgz" -C "$work" package/axe.min.js
  mv "$work/package/axe.min.js" "$axe"
  rm -rf "$work"
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
# Debian 12's own kubectl (1.20) is too old; Debian 13's is one static file that runs here as well.
install_kubectl() {
  find_kubectl >/dev/null && return
  echo "fetching kubectl 1.32 from Debian 13" >&2
  local work uri version
  work=$(mktemp -d); chmod 755 "$work"; mkdir -p "$work/lists/partial" "$work/out" "$cache/bin"
  root apt-get update -qq
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | head -1)
  [ -n "$uri" ] || { echo "no Debian mirror in apt's sources: install kubectl 1.30 or newer by hand" >&2; exit 1; }
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie main" > "$work/list"
  local -a apt=(-qq -o "Dir::Etc::sourcelist=$work/list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists")
  root apt-get "${apt[@]}" update 2>/dev/null
  version=$(apt-cache "${apt[@]}" madison kubectl | awk -F'|' '/trixie/ {gsub(/ /, "", $2); print $2; exit}')
  (cd "$work/out" && root apt-get "${apt[@]}" download "kubectl=$version" 2>/dev/null && dpkg -x kubectl_*.deb x)
  install -m 755 "$work/out/x/usr/bin/kubectl" "$cache/bin/kubectl"
  rm -rf "$work"
  find_kubectl >/dev/null || { echo "kubectl was fetched but does not run" >&2; exit 1; }
}

case ${1:-} in
  build) for_build; install_packages ;;
  run) for_build; for_run; install_packages; install_kubectl ;;
  bench) for_bench; install_packages ;;
  test) for_build; for_run; for_test; install_packages; install_kubectl; python_venv; install_axe ;;
  kubectl) find_kubectl || { echo "no kubectl 1.30 or newer: run deploy/tools.sh run" >&2; exit 1; } ;;
  python) echo "$cache/venv/bin/python" ;;
  axe) echo "$axe" ;;
  *) echo "usage: deploy/tools.sh build|run|test|bench|kubectl|python|axe" >&2; exit 64 ;;
esac
