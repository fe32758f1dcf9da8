#!/usr/bin/env bash
# Stops the demo and removes what it made. Touches only its own folder, processes and pods.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
dir=${KUBEEDGE_DEMO_DIR:-/var/lib/kubeedge-demo}
[ -e "$dir/pids" ] || { echo "demo: nothing runs in $dir"; exit 0; }

export KUBECONFIG=$dir/etc/kubeedge/admin.conf
if kubectl=$("$repo/deploy/tools.sh" kubectl) && [ -s "$KUBECONFIG" ]; then
  timeout 20 "$kubectl" delete pods --all --all-namespaces --wait=true --timeout=15s >/dev/null 2>&1
fi
stop() { # stop NAME: ends the loop and its program
  local pid
  pid=$(awk -v name="$1" '$2 == name {print $1}' "$dir/pids")
  [ -n "$pid" ] && kill -TERM "$pid" 2>/dev/null || return 0
  for _ in $(seq 150); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
  kill -9 -- "-$pid" 2>/dev/null
}
for more in $(awk '$2 ~ "/" {print $2}' "$dir/pids" | sort -r); do stop "$more"; done # of join.sh, edgecore first
stop mapper-sim
stop mapper-modbus
stop edgecore
stop cloudcore
# Pods that could not be deleted over the API: their tasks go with the runtime.
ctr --address "$dir/containerd.sock" --connect-timeout 2s -n k8s.io tasks ls -q 2>/dev/null | while read -r task; do
  ctr --address "$dir/containerd.sock" -n k8s.io tasks kill -s SIGKILL "$task" >/dev/null 2>&1
  ctr --address "$dir/containerd.sock" -n k8s.io tasks delete -f "$task" >/dev/null 2>&1
done
stop containerd
sleep 0.5
for mount in $(awk -v d="$dir/" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r); do umount "$mount" 2>/dev/null; done
ip link delete "$(cat "$dir/bridge" 2>/dev/null || echo kubeedge0)" 2>/dev/null
# Should a mount still be there, what it shows is not the demo's.
rm -rf --one-file-system "$dir" || { echo "demo: stopped, but $dir could not be removed" >&2; exit 1; }
echo "demo: stopped and removed"
