#!/usr/bin/env bash
# join.sh NAME TOKEN: one more edge node beside the demo's, with a containerd of its own. It takes no
# pods: it is there to be joined, looked at and revoked. Fails, with the reason, when it is not let in.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
dir=${KUBEEDGE_DEMO_DIR:-/var/lib/kubeedge-demo}
bin=${KUBEEDGE_BIN_DIR:-${CARGO_TARGET_DIR:-$repo/target}/release}
kubectl=$("$repo/deploy/tools.sh" kubectl)
read -r _ hub join _ <<< "${KUBEEDGE_DEMO_PORTS:-6443 10000 10002 9091 9092 1884}"
[ $# = 2 ] || { echo "usage: $0 NAME TOKEN" >&2; exit 2; }
name=$1 token=$2 own=$dir/nodes/$1
[ -e "$dir/pids" ] || { echo "join: the demo does not run: make demo" >&2; exit 1; }
[ ! -e "$own" ] || { echo "join: $own is there already" >&2; exit 1; }
export KUBECONFIG=$dir/etc/kubeedge/admin.conf

mkdir -p "$own/cni/net.d" "$own/log"
keep() { # keep PROGRAM COMMAND...
  local program=$1; shift
  setsid bash "$here/keep.sh" "$own/log/$program.log" "$@" </dev/null >/dev/null 2>&1 &
  echo "$! $name/$program" >> "$dir/pids"
}
leave() { # ends and removes what was begun
  awk -v name="$name/" 'index($2, name) == 1 {print $1}' "$dir/pids" | while read -r pid; do kill -TERM "$pid" 2>/dev/null || true; done
  sed -i "\# $name/#d" "$dir/pids"
  sleep 1
  rm -rf --one-file-system "$own"
}
sed "s#@D@#$own#g" "$here/containerd.toml" > "$own/containerd.toml"
sed "s#@D@#$own#g; s#kubeedge0#kubeedge1#; s#10.88.64.0/24#10.88.65.0/24#" "$here/cni.conflist" > "$own/cni/net.d/10-kubeedge.conflist"
keep containerd containerd --config "$own/containerd.toml"
for _ in $(seq 200); do
  ctr --address "$own/containerd.sock" --connect-timeout 1s version >/dev/null 2>&1 && break
  sleep 0.1
done
"$bin/keadm" join --root "$own" --cloudcore-ipport "127.0.0.1:$hub" --certport "$join" --edgenode-name "$name" \
  --token "$token" --remote-runtime-endpoint "unix://$own/containerd.sock" \
  --set commonConfig.monitorServer.bindAddress=127.0.0.1:0 --set modules.eventBus.enable=false \
  --set modules.console.bindAddress=127.0.0.1:0 \
  --set modules.edged.registerSchedulable=false >/dev/null \
  || { leave; exit 1; }
keep edgecore "$bin/edgecore" --config "$own/etc/kubeedge/config/edgecore.yaml"
for _ in $(seq $((30 * ${KUBEEDGE_DEMO_PATIENCE:-1}))); do
  if "$kubectl" wait --for=condition=Ready "node/$name" --timeout=1s >/dev/null 2>&1; then
    echo "node $name has joined (log: $own/log/edgecore.log)"
    exit
  fi
  if grep -qE 'token (was used|was revoked|expired)|it is for' "$own/log/edgecore.log"; then break; fi
  sleep 0.5
done
echo "join: node $name was not let in:" >&2
grep -E 'WARN|ERROR' "$own/log/edgecore.log" | tail -n 3 >&2
leave
exit 1
