#!/usr/bin/env bash
# Starts the demo: cloudcore with its embedded Kubernetes API, a containerd of its own and one edge
# node, each kept alive by a small loop as a service manager would, and the hello pod.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
dir=${KUBEEDGE_DEMO_DIR:-/var/lib/kubeedge-demo}
bin=${KUBEEDGE_BIN_DIR:-${CARGO_TARGET_DIR:-$repo/target}/release}
kubectl=$("$repo/deploy/tools.sh" kubectl)
node=edge-1
# The API's, CloudHub's, the join server's, and the monitors of cloudcore and edgecore.
read -r api hub join cloud edge <<< "${KUBEEDGE_DEMO_PORTS:-6443 10000 10002 9091 9092}"
# The network of the demo's pods. (down.sh removes the bridge.)
read -r bridge subnet <<< "${KUBEEDGE_DEMO_NETWORK:-kubeedge0 10.88.64.0/24}"

fail() { echo "demo: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "containers need root: run it as root"
[ "${#dir}" -le 60 ] || fail "the folder's name is too long for unix sockets: $dir"
for program in cloudcore edgecore keadm; do [ -x "$bin/$program" ] || fail "$bin/$program is missing: run make build"; done
[ ! -e "$dir/pids" ] || fail "it is running already, or was not stopped: run make demo-down first"
for port in "$api" "$hub" "$join" "$cloud" "$edge"; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then fail "port $port is in use (KUBEEDGE_DEMO_PORTS names five others)"; fi
done

mkdir -p "$dir/cni/net.d" "$dir/images" "$dir/log"
chmod 700 "$dir"
: > "$dir/pids"
echo "$bridge" > "$dir/bridge"

# keep NAME COMMAND...: runs it in the background and again a second after it ends.
keep() {
  local name=$1; shift
  setsid bash "$here/keep.sh" "$dir/log/$name.log" "$@" </dev/null >/dev/null 2>&1 &
  echo "$! $name" >> "$dir/pids"
}
# wait_for WHAT SECONDS COMMAND...
wait_for() {
  local what=$1 seconds=$2; shift 2
  for _ in $(seq $((seconds * 10))); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  echo "--- last lines of the logs ---" >&2; tail -n 15 "$dir"/log/*.log >&2 || true
  fail "$what: not within $seconds seconds (logs in $dir/log)"
}

echo "images        made here, no registry is asked"
"$here/mkimage.sh" "$dir/images"

echo "containerd    its own, in $dir"
sysctl -qw net.ipv4.ip_forward=1
sed "s#@D@#$dir#g" "$here/containerd.toml" > "$dir/containerd.toml"
sed "s#@D@#$dir#g; s#kubeedge0#$bridge#; s#10.88.64.0/24#$subnet#" "$here/cni.conflist" > "$dir/cni/net.d/10-kubeedge.conflist"
keep containerd containerd --config "$dir/containerd.toml"
wait_for "containerd answers" 20 ctr --address "$dir/containerd.sock" --connect-timeout 1s version
for image in pause hello; do
  ctr --address "$dir/containerd.sock" -n k8s.io image import "$dir/images/$image.tar" >/dev/null
done

echo "cloudcore     Kubernetes API on https://127.0.0.1:$api"
monitor=commonConfig.monitorServer.bindAddress
"$bin/keadm" init --root "$dir" --advertise-address 127.0.0.1 --set "modules.apiServer.port=$api" \
  --set "modules.cloudHub.websocket.port=$hub" --set "modules.cloudHub.https.port=$join" \
  --set "$monitor=127.0.0.1:$cloud" >/dev/null
config=$dir/etc/kubeedge/config
keep cloudcore "$bin/cloudcore" --config "$config/cloudcore.yaml"
wait_for "cloudcore is ready" 20 curl -fsS "http://127.0.0.1:$cloud/readyz"
export KUBECONFIG=$dir/etc/kubeedge/admin.conf
wait_for "the admin kubeconfig is there" 10 test -s "$KUBECONFIG"

echo "edgecore      joins as $node"
"$bin/keadm" join --root "$dir" --cloudcore-ipport "127.0.0.1:$hub" --certport "$join" --edgenode-name "$node" \
  --set "$monitor=127.0.0.1:$edge" \
  --token "$("$bin/keadm" gettoken --root "$dir")" \
  --remote-runtime-endpoint "unix://$dir/containerd.sock" >/dev/null
keep edgecore "$bin/edgecore" --config "$config/edgecore.yaml"
wait_for "node $node is Ready" 30 "$kubectl" wait --for=condition=Ready "node/$node" --timeout=2s

echo "pod           config/examples/hello-pod.yaml"
"$kubectl" apply -f "$repo/config/examples/hello-pod.yaml" >/dev/null
wait_for "the pod is Ready" 30 "$kubectl" wait --for=condition=Ready pod/hello --timeout=2s
ip=$("$kubectl" get pod hello -o 'jsonpath={.status.podIP}')

echo
"$kubectl" get nodes,pods -o wide
[ "$(command -v kubectl)" = "$kubectl" ] || alias=$'\n'"  alias kubectl=$kubectl"
cat <<TEXT

It runs. Look around:

  export KUBECONFIG=$KUBECONFIG${alias:-}
  kubectl get nodes
  kubectl describe node $node
  kubectl describe pod hello
  curl http://$ip:8080
  tail $dir/var/log/pods/default_hello_*/hello/0.log

Break it, and watch it come back (kubectl get pods,nodes):

  kill -9 \$(cat $dir/log/edgecore.pid)     the container does not notice
  kill -9 \$(cat $dir/log/cloudcore.pid)    the edge finds it again by itself
  pkill -9 -f '[h]ttpd -p 8080'    the container is started again: RESTARTS goes up

See inside: http://127.0.0.1:$cloud/actors (cloud), http://127.0.0.1:$edge/actors (edge), /metrics, /readyz.
Logs: $dir/log. Stop and remove it all: make demo-down
TEXT
