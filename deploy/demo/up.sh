#!/usr/bin/env bash
# Starts the demo: cloudcore with its embedded Kubernetes API, a containerd of its own, one edge node
# and the mappers, each kept alive by a small loop as a service manager would; then the hello pod, a
# simulated thermometer and a lamp that speaks MQTT itself.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
dir=${KUBEEDGE_DEMO_DIR:-/var/lib/kubeedge-demo}
bin=${KUBEEDGE_BIN_DIR:-${CARGO_TARGET_DIR:-$repo/target}/release}
kubectl=$("$repo/deploy/tools.sh" kubectl)
node=edge-1
# The API's, CloudHub's, the join server's, the monitors of cloudcore and edgecore, and MQTT's; then those of the
# consoles, any free one where KUBEEDGE_DEMO_PORTS names six.
read -r api hub join cloud edge mqtt console edge_console <<< "${KUBEEDGE_DEMO_PORTS:-6443 10000 10002 9091 9092 1884 9443 9444}"
# The network of the demo's pods. (down.sh removes the bridge.)
read -r bridge subnet <<< "${KUBEEDGE_DEMO_NETWORK:-kubeedge0 10.88.64.0/24}"

fail() { echo "demo: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "containers need root: run it as root"
[ "${#dir}" -le 60 ] || fail "the folder's name is too long for unix sockets: $dir"
[ -n "${mqtt:-}" ] || fail "KUBEEDGE_DEMO_PORTS names fewer than six ports"
for program in cloudcore edgecore keadm mapper-sim mapper-modbus; do [ -x "$bin/$program" ] || fail "$bin/$program is missing: run make build"; done
[ ! -e "$dir/pids" ] || fail "it is running already, or was not stopped: run make demo-down first"
for port in "$api" "$hub" "$join" "$cloud" "$edge" "$mqtt" ${console:+"$console"} ${edge_console:+"$edge_console"}; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then fail "port $port is in use (KUBEEDGE_DEMO_PORTS names others)"; fi
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
# wait_for WHAT SECONDS COMMAND... (On a busy machine KUBEEDGE_DEMO_PATIENCE makes the seconds longer, so many times.)
wait_for() {
  local what=$1 seconds=$(( $2 * ${KUBEEDGE_DEMO_PATIENCE:-1} )); shift 2
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
faults=commonConfig.monitorServer.enableFaultInjection # from loopback only
page=modules.console.bindAddress
"$bin/keadm" init --root "$dir" --advertise-address 127.0.0.1 --set "modules.apiServer.port=$api" \
  --set "modules.cloudHub.websocket.port=$hub" --set "modules.cloudHub.https.port=$join" \
  --set "$monitor=127.0.0.1:$cloud" --set "$page=127.0.0.1:${console:-0}" \
  --set "$faults=true" >/dev/null
config=$dir/etc/kubeedge/config
keep cloudcore "$bin/cloudcore" --config "$config/cloudcore.yaml"
wait_for "cloudcore is ready" 20 curl -fsS "http://127.0.0.1:$cloud/readyz"
export KUBECONFIG=$dir/etc/kubeedge/admin.conf
wait_for "the admin kubeconfig is there" 10 test -s "$KUBECONFIG"

echo "edgecore      joins as $node"
"$bin/keadm" join --root "$dir" --cloudcore-ipport "127.0.0.1:$hub" --certport "$join" --edgenode-name "$node" \
  --set "$monitor=127.0.0.1:$edge" --set "$page=127.0.0.1:${edge_console:-0}" --set "$faults=true" --set "modules.eventBus.mqttServerInternal=tcp://127.0.0.1:$mqtt" \
  --token "$("$bin/keadm" gettoken --root "$dir")" \
  --remote-runtime-endpoint "unix://$dir/containerd.sock" >/dev/null
keep edgecore "$bin/edgecore" --config "$config/edgecore.yaml"
wait_for "node $node is Ready" 30 "$kubectl" wait --for=condition=Ready "node/$node" --timeout=2s

echo "pod           config/examples/hello-pod.yaml"
"$kubectl" apply -f "$repo/config/examples/hello-pod.yaml" >/dev/null
wait_for "the pod is Ready" 30 "$kubectl" wait --for=condition=Ready pod/hello --timeout=2s
ip=$("$kubectl" get pod hello -o 'jsonpath={.status.podIP}')

echo "mappers       mapper-sim, mapper-modbus"
for mapper in mapper-sim mapper-modbus; do keep "$mapper" "$bin/$mapper" --dmi-socket "$dir/etc/kubeedge/dmi.sock"; done

echo "devices       config/examples/thermometer.yaml, lamp.yaml"
"$kubectl" apply -f "$repo/config/examples/thermometer.yaml" -f "$repo/config/examples/lamp.yaml" >/dev/null
reported() { [ -n "$("$kubectl" get devicestatus "$1" -o "jsonpath={.status.twins[?(@.propertyName==\"$2\")].reported.value}")" ]; }
wait_for "the thermometer reports a temperature" 30 reported thermometer-1 temperature

echo
"$kubectl" get nodes,pods -o wide
echo
"$kubectl" get devices,devicestatuses
[ "$(command -v kubectl)" = "$kubectl" ] || alias=$'\n'"  alias kubectl=$kubectl"
cat <<TEXT

It runs. Look around:

  export KUBECONFIG=$KUBECONFIG${alias:-}
  kubectl get nodes
  kubectl describe node $node
  kubectl describe pod hello
  curl http://$ip:8080
  tail $dir/var/log/pods/default_hello_*/hello/0.log
  kubectl get devicemodels,devices,devicestatuses
  kubectl get devicestatus thermometer-1 -o yaml

Want 23 degrees, and see the thermostat take it:

  kubectl patch device thermometer-1 --type json -p '[{"op":"replace","path":"/spec/properties/1/desired/value","value":"23"}]'
  kubectl wait devicestatus/thermometer-1 --timeout=30s --for 'jsonpath={.status.twins[?(@.propertyName=="setpoint")].reported.value}=23'
TEXT
cat <<TEXT

Watch all of this in a browser: this prints the console's address and a token to sign in with (edge: that of the edge):

  $bin/keadm console --root $dir
  $bin/keadm console edge --root $dir
TEXT
lamp='$hw/events/device/default/lamp-1'
if command -v mosquitto_rr >/dev/null; then cat <<TEXT

Be the lamp, a device that speaks MQTT itself (mosquitto_rr publishes, and waits for an answer):

  mosquitto_rr -p $mqtt -t '$lamp/twin/update' -e '$lamp/twin/update/delta' -m '{"twin":{"power":{"actual":{"value":"off"}}}}'
  mosquitto_pub -p $mqtt -q 1 -t '$lamp/state/update' -m '{"state":"online"}'
  mosquitto_sub -p $mqtt -W 30 -C 1 -v -t '$lamp/twin/update/delta' &
  kubectl patch device lamp-1 --type json -p '[{"op":"replace","path":"/spec/properties/0/desired/value","value":"dim"}]'
  wait; kubectl get devicestatus lamp-1
TEXT
fi
cat <<TEXT

Break it, and watch it come back (kubectl get pods,nodes,devicestatuses):

  kill -9 \$(cat $dir/log/edgecore.pid)     the container does not notice, no value is lost
  kill -9 \$(cat $dir/log/cloudcore.pid)    the edge finds it again by itself and tells what it missed
  kill -9 \$(cat $dir/log/mapper-sim.pid)    it gets its devices again
  pkill -9 -f '[h]ttpd -p 8080'    the container is started again: RESTARTS goes up

See inside: http://127.0.0.1:$cloud/actors (cloud), http://127.0.0.1:$edge/actors (edge), /metrics, /readyz.
Logs: $dir/log. Stop and remove it all: make demo-down
TEXT
