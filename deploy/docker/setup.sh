#!/usr/bin/env bash
# The last step of `up`: gives the host the kubeconfig, says where to look, and keeps the kubeconfig
# current: cloudcore writes a new one when it starts and when its authorities change.
set -euo pipefail
from=/var/lib/kubeedge-admin/admin.conf to=/host/admin.conf
trap 'exit 0' TERM INT

# It belongs to whoever owns the folder on the host, and nobody else reads it.
give() {
  install -m 600 /dev/null "$to.new"
  sed "s#server: https://127.0.0.1:6443#server: https://127.0.0.1:${KUBEEDGE_API_PORT:-6443}#" "$from" > "$to.new"
  chown "$(stat -c %u:%g /host)" "$to.new"
  mv "$to.new" "$to"
}
[ -s "$from" ] || { echo "setup: cloudcore has not written $from" >&2; exit 1; }
give

compose='docker compose -f deploy/compose.yaml'
cat <<TEXT

It runs: a cloud, two edge nodes, their pods and devices. Where to look:

  Grafana      http://127.0.0.1:${KUBEEDGE_GRAFANA_PORT:-3000}
  Console      http://127.0.0.1:${KUBEEDGE_CONSOLE_PORT:-9443}   its token: $compose exec cloudcore keadm console -q
  edge-1's     http://127.0.0.1:${KUBEEDGE_EDGE_CONSOLE_PORT:-9444}   its token: $compose exec edge-1 keadm console -q
  Prometheus   http://127.0.0.1:${KUBEEDGE_PROMETHEUS_PORT:-9090}

  export KUBECONFIG=\$PWD/deploy/run/admin.conf
  kubectl get nodes,pods,devices,devicestatuses

Switch the lamp of edge-2 off, heat the boiler of edge-1 to 70 degrees:

  kubectl patch device lamp-1 --type json -p '[{"op":"replace","path":"/spec/properties/0/desired/value","value":"off"}]'
  kubectl patch device boiler --type json -p '[{"op":"replace","path":"/spec/properties/0/desired/value","value":"70"}]'

Cut edge-2 off, watch it go offline while its pods and devices go on, and let it come back:

  docker network disconnect kubeedge_uplink-2 kubeedge-edge-2-1
  docker network connect kubeedge_uplink-2 kubeedge-edge-2-1

End it: $compose down (with -v it forgets everything)
TEXT
touch /tmp/done
while true; do
  [ "$from" -ot "$to" ] || give
  sleep 5 & wait $!
done
