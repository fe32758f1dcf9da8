#!/usr/bin/env bash
# cloudcore in a container: CA and keys where there are none yet, for each node of KUBEEDGE_NODES a
# fresh join token in the folder it shares with that node alone, then the program.
set -euo pipefail
umask 077
config=/etc/kubeedge/config/cloudcore.yaml

keadm init --config "$config" >/dev/null
for node in ${KUBEEDGE_NODES:-}; do
  # Good for one machine of that name; a node that has joined has no use for it.
  keadm gettoken --config "$config" --node "$node" --ttl 1h > "/join/$node/token.new"
  mv "/join/$node/token.new" "/join/$node/token"
done
exec cloudcore --config "$config"
