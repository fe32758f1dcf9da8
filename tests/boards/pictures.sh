#!/usr/bin/env bash
# pictures.sh: makes docs/boards/*.png again, from real data: a demo of its own with three edge nodes,
# a dozen devices, MQTT clients and some trouble, watched by a real Prometheus for about ten minutes,
# drawn by the page of serve.mjs in headless Chromium. Wants root, and what deploy/tools.sh pictures installs.
# KUBEEDGE_BIN_DIR: where the programs are (target/release).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
export KUBEEDGE_DEMO_DIR=/var/lib/kubeedge-pictures
export KUBEEDGE_DEMO_PORTS="36443 36000 36002 36091 36092 36884 36493 36494" KUBEEDGE_DEMO_NETWORK="kubeedgep1 10.88.121.0/24"
export KUBEEDGE_BIN_DIR=${KUBEEDGE_BIN_DIR:-$repo/target/release}
export KUBECONFIG=$KUBEEDGE_DEMO_DIR/etc/kubeedge/admin.conf
dir=$KUBEEDGE_DEMO_DIR bin=$KUBEEDGE_BIN_DIR prometheus=127.0.0.1:36090 page=36300
kubectl=$("$repo/deploy/tools.sh" kubectl)
work=$(mktemp -d)

load=()
stop() {
  for pid in "${load[@]}"; do kill -CONT -- "-$pid" 2>/dev/null || true; kill -- "-$pid" 2>/dev/null || true; done
  [ ! -s "$dir/nodes/edge-3/log/edgecore.pid" ] || kill -CONT "$(cat "$dir/nodes/edge-3/log/edgecore.pid")" || true
  "$repo/deploy/demo/down.sh" || true
  for number in 2 3; do ip link delete "kubeedgep$number" 2>/dev/null || true; done
  rm -rf "$work"
}
trap stop EXIT
# in_background COMMAND...: in a process group of its own, ended with this script.
in_background() { setsid "$@" </dev/null >>"$work/log" 2>&1 & load+=("$!"); }
until_ready() { for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done; echo "pictures: not in time: $*" >&2; exit 1; }
edge() { # edge NUMBER: one more node with a containerd, broker and mapper of its own
  local name=edge-$1 own=$dir/nodes/edge-$1
  mkdir -p "$own/cni/net.d" "$own/log"
  keep() { setsid bash "$repo/deploy/demo/keep.sh" "$own/log/$1.log" "${@:2}" </dev/null >/dev/null 2>&1 & echo "$! $name/$1" >> "$dir/pids"; }
  sed "s#@D@#$own#g" "$repo/deploy/demo/containerd.toml" > "$own/containerd.toml"
  sed "s#@D@#$own#g; s#kubeedge0#kubeedgep$1#; s#10.88.64.0/24#10.88.12$1.0/24#" "$repo/deploy/demo/cni.conflist" > "$own/cni/net.d/10-kubeedge.conflist"
  keep containerd containerd --config "$own/containerd.toml"
  until_ready ctr --address "$own/containerd.sock" --connect-timeout 1s version
  for image in pause hello; do ctr --address "$own/containerd.sock" -n k8s.io image import "$dir/images/$image.tar" >/dev/null; done
  "$bin/keadm" join --root "$own" --cloudcore-ipport 127.0.0.1:36000 --certport 36002 --edgenode-name "$name" \
    --token "$("$bin/keadm" gettoken --root "$dir")" --remote-runtime-endpoint "unix://$own/containerd.sock" \
    --set "commonConfig.monitorServer.bindAddress=127.0.0.1:3609$(($1 + 1))" --set commonConfig.monitorServer.enableFaultInjection=true \
    --set "modules.eventBus.mqttServerInternal=tcp://127.0.0.1:3688$(($1 + 3))" --set modules.edgeHub.reportIntervalSecs=5 \
    --set modules.console.bindAddress=127.0.0.1:0 >/dev/null
  keep edgecore "$bin/edgecore" --config "$own/etc/kubeedge/config/edgecore.yaml"
  keep mapper-sim "$bin/mapper-sim" --dmi-socket "$own/etc/kubeedge/dmi.sock"
}
thermometer() { # thermometer NAME NODE LOW
  cat <<YAML
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: { name: $1, annotations: { devices.kubeedge.io/export-metrics: "*" } }
spec:
  deviceModelRef: { name: thermometer }
  nodeName: $2
  protocol: { protocolName: simulated, configData: {} }
  properties:
    - { name: temperature, collectCycle: 1000, reportCycle: 1000, reportToCloud: true, visitors: { protocolName: simulated, configData: { shape: day, low: $3, high: $(($3 + 8)) } } }
YAML
}
pod() { # pod NAME NAMESPACE NODE SCRIPT
  cat <<YAML
---
apiVersion: v1
kind: Pod
metadata: { name: $1, namespace: $2 }
spec:
  nodeName: $3
  terminationGracePeriodSeconds: 2
  containers:
    - { name: main, image: "registry.local/hello:1", imagePullPolicy: IfNotPresent, command: [/bin/sh, -c, "$4"] }
YAML
}
panic() { curl -fsS -X POST "http://127.0.0.1:$1/actors/$2/panic" >/dev/null; }

"$repo/deploy/demo/up.sh" >/dev/null
sed -i 's/^  edgeHub:/&\n    reportIntervalSecs: 5/' "$dir/etc/kubeedge/config/edgecore.yaml"
kill -9 "$(cat "$dir/log/edgecore.pid")"
for number in 2 3; do edge "$number"; done
for number in 1 2 3; do until_ready "$kubectl" wait --for=condition=Ready "node/edge-$number" --timeout=1s; done

sed "s#cloudcore:9091#127.0.0.1:36091#; s#localhost:9090#$prometheus#; s#evaluation_interval: 15s#evaluation_interval: 5s#; s#rules/#$repo/config/prometheus/rules/#" \
  "$repo/config/prometheus/prometheus.yml" > "$work/prometheus.yml"
in_background prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" --web.listen-address="$prometheus"

"$kubectl" create namespace shop >/dev/null
{
  for n in $(seq 2 12); do thermometer "thermometer-$n" "edge-$((n % 3 + 1))" "$((n * 2))"; done
  for n in 1 2 3; do pod "web-$n" default "edge-$n" "httpd -f -p 8080 & wait"; pod "till-$n" shop "edge-$n" "sleep 100000 & wait"; done
  pod crash shop edge-2 "sleep 8; exit 7"
} | "$kubectl" apply -f - >/dev/null
for port in 36884 36885 36886; do
  in_background bash -c "while sleep 1; do mosquitto_sub -p $port -q 1 -t 'plant/#'; done"
  in_background bash -c "while sleep 1; do mosquitto_sub -p $port -t '\$hw/events/device/#'; done"
  in_background bash -c "while sleep 1; do mosquitto_pub -p $port -q $((port % 3)) -t plant/line -m running --repeat 1000 --repeat-delay 0.0$((port % 7 + 3)); done"
  in_background bash -c "i=0; while sleep 5; do mosquitto_pub -p $port -q 1 -r -t plant/setting/\$((i++ % 20)) -m \$i; done"
done
lamp='$hw/events/device/default/lamp-1'
in_background bash -c "while sleep 2; do mosquitto_pub -p 36884 -q 1 -t '$lamp/state/update' -m '{\"state\":\"online\"}'; mosquitto_pub -p 36884 -q 1 -t '$lamp/twin/update' -m '{\"twin\":{\"power\":{\"actual\":{\"value\":\"on\"}}}}'; done"
in_background bash -c "while sleep 4; do '$kubectl' get pods,nodes -A; '$kubectl' get devicestatuses; '$kubectl' get pod nope; done"
in_background bash -c "while sleep 40; do '$kubectl' run once-\$RANDOM --image registry.local/hello:1 --restart=Never --image-pull-policy=IfNotPresent -- sh -c 'sleep 5'; done"
in_background node "$here/serve.mjs" --prometheus "http://$prometheus" --port "$page" --scrape 5

edge3() { kill "-$1" "$(cat "$dir/nodes/edge-3/log/edgecore.pid")"; }
echo "it runs; the pictures are taken in eleven minutes"
sleep 150; edge3 STOP          # edge-3 does not answer
sleep 80;  edge3 CONT
sleep 70;  panic 36093 DeviceTwin; panic 36091 Scheduler
sleep 60;  kill -9 "$(cat "$dir/nodes/edge-2/log/edgecore.pid")"
sleep 60;  panic 36092 Edged
sleep 40;  edge3 STOP          # and again, until the end
sleep 200
mkdir -p "$repo/docs/boards"
for board in fleet node devices cloud actors; do
  url="http://127.0.0.1:$page/d/kubeedge-$board?from=now-11m&to=now"
  [ "$board" != node ] || url+="&var-node=edge-2"
  tall=$(node -p "Math.max(...require('$repo/grafana/dashboards/$board.json').panels.map((p) => p.gridPos.y + p.gridPos.h)) * 38 + 90")
  chromium=(chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --hide-scrollbars --window-size="1500,$tall" --virtual-time-budget=30000)
  "${chromium[@]}" --user-data-dir="$(mktemp -d -p "$work")" --dump-dom "$url" 2>/dev/null | grep -q 'data-failures="\[\]" data-ready="true"' ||
    { echo "pictures: $board: not every panel was drawn" >&2; exit 1; }
  "${chromium[@]}" --user-data-dir="$(mktemp -d -p "$work")" --screenshot="$work/$board.png" "$url" >/dev/null 2>&1
  pngquant --force --strip --output "$repo/docs/boards/$board.png" 64 "$work/$board.png"
done
ls -l "$repo/docs/boards"
