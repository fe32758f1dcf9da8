#!/usr/bin/env bash
# Proves deploy/compose.yaml: builds the images, starts the whole stack, goes the user's path, cuts an
# edge off and lets it come back, restarts every service, provokes what can go wrong, takes all down.
# It prints a table for BENCHMARKS.md at the end. Run by `make test-stack`.
#
# Where a Docker daemon answers, it is used, with the images of the registry. Where none does, the test
# starts one of its own in a folder of its own, with stand-ins for those images made of Debian's
# packages (tests/stack/standins.Dockerfile); both are gone at the end. For that it needs root.
#
#   KUBEEDGE_STACK_DIR       the folder, short and on a real disk   [/var/tmp/kubeedge-stack]
#   KUBEEDGE_STACK_SEED      a cargo target folder with a release build; saves most of the compiling
#   KUBEEDGE_STACK_OVERRIDE  a further compose file, for developers
#   KUBEEDGE_STACK_STEPS     only these of the steps below, for developers
#   KUBEEDGE_STACK_KEEP      leave the daemon of the test and its images, for the next run
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
dir=${KUBEEDGE_STACK_DIR:-/var/tmp/kubeedge-stack}
project=kubeedge-test
run=$dir/run
compose_bin=$("$repo/deploy/tools.sh" compose)
kubectl_bin=$("$repo/deploy/tools.sh" kubectl)
mkdir -p "$dir" "$run"

# shellcheck source=tests/stack/daemon.sh
. "$here/daemon.sh"
# shellcheck source=tests/stack/steps.sh
. "$here/steps.sh"
# shellcheck source=tests/stack/faults.sh
. "$here/faults.sh"

# Ports nobody uses now, so that other stacks may run beside.
read -r KUBEEDGE_API_PORT KUBEEDGE_CONSOLE_PORT KUBEEDGE_EDGE_CONSOLE_PORT KUBEEDGE_PROMETHEUS_PORT KUBEEDGE_GRAFANA_PORT < <(
  python3 -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
print(*(s.getsockname()[1] for s in sockets))')
export KUBEEDGE_API_PORT KUBEEDGE_CONSOLE_PORT KUBEEDGE_EDGE_CONSOLE_PORT KUBEEDGE_PROMETHEUS_PORT KUBEEDGE_GRAFANA_PORT
export KUBEEDGE_RUN_DIR=$run KUBEEDGE_VERSION=test DOCKER_BUILDKIT=1 COMPOSE_PROJECT_NAME=$project
unset COMPOSE_FILE COMPOSE_PROFILES

compose() {
  local files=(-f "$repo/deploy/compose.yaml")
  [ -z "${KUBEEDGE_STACK_OVERRIDE:-}" ] || files+=(-f "$KUBEEDGE_STACK_OVERRIDE")
  "$compose_bin" --ansi never --progress plain -p "$project" "${files[@]}" "$@"
}
kubectl() { "$kubectl_bin" --kubeconfig "$run/admin.conf" --cache-dir "$dir/kubectl-cache" --request-timeout 20s "$@"; }

finish() {
  local code=$?
  trap - EXIT
  if [ $code -ne 0 ]; then
    echo "--- what ran at the end ---" >&2
    compose ps -a >&2 || true
    compose logs --tail 10 >&2 || true
  fi
  [ -n "${holder:-}" ] && kill "$holder" 2>/dev/null
  [ -n "${listener:-}" ] && kill "$listener" 2>/dev/null
  compose down -v --timeout 10 >/dev/null 2>&1 || true
  daemon_stop
  [ $code -eq 0 ] && echo "test-stack: everything held" || echo "test-stack: FAILED in step: ${step:-start}" >&2
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

daemon_start
[ -n "${own_daemon:-}" ] && stand_ins
all=(images_are_built everything_comes_up nodes_and_pods devices_move prometheus_sees_all boards_answer \
  console_lets_in actors_are_shown an_edge_is_cut_off every_service_restarts what_dies_inside_comes_back second_up_changes_nothing \
  signals_end_in_order port_taken no_privileges missing_kernel_features sizes down_leaves_nothing)
for next in ${KUBEEDGE_STACK_STEPS:-"${all[@]}"}; do
  step=$next
  echo "=== ${next//_/ }"
  "$next"
done
report
