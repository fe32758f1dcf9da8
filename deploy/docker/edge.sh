#!/usr/bin/env bash
# An edge node in one container: containerd, edgecore and the mappers of KUBEEDGE_MAPPERS.
# SIGTERM ends them in order: mappers, edgecore, pods, containerd. A mapper that ends is started
# again here; when containerd or edgecore ends, the container does, for Docker to start it anew.
set -euo pipefail
state=/var/lib/kubeedge
config=/etc/kubeedge/config/edgecore.yaml
say() { echo "edge: $*"; }
fail() { echo "edge: cannot start: $*" >&2; exit 1; }

/usr/local/lib/kubeedge/edge-check.sh
[ -r "$config" ] || fail "$config is missing: mount the node's configuration there"

# The first start joins with the token cloudcore left for this node.
mkdir -p -m 700 "$state/certs"
if [ ! -s "$state/certs/server.crt" ]; then
  [ -s /join/token ] || fail "no join token in /join/token: is cloudcore running? (docker compose restart cloudcore makes a new one)"
  install -m 600 /join/token "$state/bootstrap"
fi

# Nothing of an earlier life runs now: its addresses are free again.
rm -rf /run/kubeedge-ipam
mkdir -p /etc/cni/net.d
sed "s#@SUBNET@#${KUBEEDGE_POD_SUBNET:-10.244.0.0/24}#" /usr/local/lib/kubeedge/cni.conflist > /etc/cni/net.d/10-kubeedge.conflist
echo 1 > /proc/sys/net/ipv4/ip_forward

containerd=  edgecore=  keepers=()
running() { kill -0 "$1" 2>/dev/null; }
tasks() { ctr --connect-timeout 2s -n k8s.io tasks ls -q 2>/dev/null || true; }
# end PID SECONDS: SIGTERM, and SIGKILL when that does not help.
end() {
  [ -n "$1" ] && running "$1" || return 0
  kill -TERM "$1" 2>/dev/null || true
  for _ in $(seq $((10 * $2))); do running "$1" || return 0; sleep 0.1; done
  say "process $1 did not end within $2 s"
  kill -KILL "$1" 2>/dev/null || true
}
stop() {
  trap '' TERM INT
  for keeper in "${keepers[@]}"; do end "$keeper" 3; done
  end "$edgecore" 10
  # The pods would be killed with this container: they may finish first.
  if [ -n "$containerd" ] && running "$containerd"; then
    for task in $(tasks); do ctr -n k8s.io tasks kill -s SIGTERM "$task" 2>/dev/null || true; done
    for _ in $(seq 20); do [ -n "$(tasks)" ] || break; sleep 0.1; done
  fi
  end "$containerd" 5
}
trap 'say "ends"; stop; exit 0' TERM INT

containerd &
containerd=$!
for _ in $(seq 300); do
  ctr --connect-timeout 1s version >/dev/null 2>&1 && break
  running "$containerd" || fail "containerd ended, see above"
  sleep 0.1
done
present=$(ctr -n k8s.io images ls -q)
for image in /usr/local/share/kubeedge/images/*.tar; do
  name=$(tar -xOf "$image" manifest.json | sed 's/.*"RepoTags":\["\([^"]*\)".*/\1/')
  grep -qxF "$name" <<< "$present" || ctr -n k8s.io images import "$image" >/dev/null
done

# keep COMMAND...: again a second after it ends.
keep() {
  local child=
  trap 'kill -TERM "$child" 2>/dev/null; wait "$child" || true; exit 0' TERM
  while true; do
    "$@" &
    child=$!
    wait "$child" || true
    say "$1 ended, starting it again"
    sleep 1 & wait $!
  done
}
say "starts edgecore"
edgecore --config "$config" &
edgecore=$!
for mapper in ${KUBEEDGE_MAPPERS:-}; do
  keep "$mapper" --dmi-socket /run/kubeedge-dmi/dmi.sock &
  keepers+=($!)
done

wait -n "$containerd" "$edgecore" || true
if running "$containerd"; then say "edgecore ended"; else say "containerd ended"; fi
stop
exit 1
