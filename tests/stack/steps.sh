# The user's path. Sourced by run.sh; every step ends the test when it does not hold.

fail() { echo "test-stack: $*" >&2; exit 1; }
now_ms() { date +%s%3N; }
rows=()
row() { echo "    $1: $2"; rows+=("| $1 | $2 |"); }
seconds_since() { awk -v ms=$(($(now_ms) - $1)) 'BEGIN {printf "%.1f s", ms / 1000}'; }
# until_true WHAT SECONDS COMMAND...
until_true() {
  local what=$1 end=$((SECONDS + $2)); shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || fail "$what: not in time"
    sleep 0.2
  done
}
id_of() { compose ps -a -q "$1"; }
in_edge2() { compose exec -T edge-2 "$@"; }
# json EXPRESSION: of the document on standard input, `d`.
json() { python3 -c "import json, sys; d = json.load(sys.stdin); print($1)"; }
query() { curl -fsS -m 20 -G --data-urlencode "query=$1" "http://127.0.0.1:$KUBEEDGE_PROMETHEUS_PORT/api/v1/query"; }
value() { query "$1" | json 'd["data"]["result"][0]["value"][1]'; }
is_value() { [ "$(value "$1")" = "$2" ]; }

images_are_built() {
  local begin
  begin=$(now_ms)
  compose build > "$dir/build.log" 2>&1 || { tail -n 40 "$dir/build.log" >&2; fail "the images are not built"; }
  row "building the images" "$(seconds_since "$begin")"
}

everything_comes_up() {
  local begin
  begin=$(now_ms)
  compose up --wait --wait-timeout 300 > "$dir/up.log" 2>&1 || { tail -n 40 "$dir/up.log" >&2; fail "not everything became healthy"; }
  row "\`up\` to all healthy, images there" "$(seconds_since "$begin")"
  compose logs setup | grep 'Where to look' >/dev/null || fail "setup does not say where to look"
  [ "$(stat -c %a "$run/admin.conf")" = 600 ] || fail "the kubeconfig can be read by others"
  local service
  for service in cloudcore plc mosquitto lamp prometheus; do
    compose exec -T "$service" sh -c 'touch /usr/written 2>/dev/null' && fail "$service can write to its image"
    [ "$(compose exec -T "$service" id -u)" != 0 ] || fail "$service runs as root"
  done
}

is_ready() { [ "$(kubectl get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]; }
is_away() { [ "$(kubectl get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" != True ]; }
nodes_and_pods() {
  until_true "edge-1 is Ready" 60 is_ready edge-1
  until_true "edge-2 is Ready" 60 is_ready edge-2
  kubectl wait --for=condition=Ready pod --all --timeout=90s >/dev/null || fail "not all pods are Ready"
  kubectl get nodes,pods -o wide
  [ "$(kubectl get pods -o name | wc -l)" -ge 3 ] || fail "fewer than three pods"
  local ip
  ip=$(kubectl get pod hello-2 -o 'jsonpath={.status.podIP}')
  in_edge2 bash -c "exec 3<>/dev/tcp/$ip/8080; printf 'GET / HTTP/1.0\r\n\r\n' >&3; cat <&3" | grep 'hello from pod hello-2 on node edge-2' >/dev/null \
    || fail "the pod of edge-2 does not answer"
}

# Each device and its reported values, one a line.
reported() {
  kubectl get devicestatuses -o json | json '"\n".join(sorted(i["metadata"]["name"] + " " + json.dumps([t["reported"].get("value") for t in i["status"].get("twins", []) if t.get("reported")]) for i in d["items"] if i.get("status")))'
}
moving() { # moving: names of devices of which two looks differ
  local first second
  first=$(reported); sleep "${1:-4}"; second=$(reported)
  { diff <(echo "$first") <(echo "$second") || true; } | sed -n 's/^> \([^ ]*\).*/\1/p' | sort -u
}
twelve_report() { [ "$(kubectl get devicestatuses -o name | wc -l)" -ge 12 ]; }
devices_move() {
  until_true "twelve devices report" 60 twelve_report
  local names count
  names=$(moving 12)
  count=$(wc -w <<< "$names")
  [ "$count" -ge 12 ] || { reported; fail "only $count devices move: ${names//$'\n'/ }"; }
  row "devices whose values move" "$count"
  # A wish reaches the PLC, and the plant follows.
  kubectl patch device boiler --type json -p '[{"op":"replace","path":"/spec/properties/0/desired/value","value":"70"}]' >/dev/null
  kubectl wait devicestatus/boiler --timeout=30s --for 'jsonpath={.status.twins[?(@.propertyName=="setpoint")].reported.value}=70' >/dev/null || fail "the boiler does not take its set point"
  kubectl patch device lamp-1 --type json -p '[{"op":"replace","path":"/spec/properties/0/desired/value","value":"off"}]' >/dev/null
  kubectl wait devicestatus/lamp-1 --timeout=30s --for 'jsonpath={.status.twins[?(@.propertyName=="power")].reported.value}=off' >/dev/null || fail "the lamp does not go off"
}

targets_up() { curl -fsS -m 10 "http://127.0.0.1:$KUBEEDGE_PROMETHEUS_PORT/api/v1/targets" | json 'sum(t["health"] == "up" for t in d["data"]["activeTargets"]) >= 2 and all(t["health"] == "up" for t in d["data"]["activeTargets"])' | grep -q True; }
both_edges() { query 'count by (node) ({job="edges", node=~"edge-.*"}) > 20' | json 'sorted(r["metric"]["node"] for r in d["data"]["result"]) == ["edge-1", "edge-2"]' | grep -q True; }
prometheus_sees_all() {
  until_true "all targets are up" 60 targets_up
  until_true "both edges have series" 60 both_edges
  until_true "both edges are said to be up" 60 is_value 'sum(kubeedge_federate_edge_up)' 2
  row "series of cloudcore, edge-1, edge-2 in Prometheus" "$(value 'count({job="cloudcore"})'), $(value 'count({job="edges", node="edge-1"})'), $(value 'count({job="edges", node="edge-2"})')"
}

boards_answer() {
  local base=http://127.0.0.1:$KUBEEDGE_GRAFANA_PORT uid
  for uid in kubeedge-fleet kubeedge-node kubeedge-devices kubeedge-cloud kubeedge-actors; do
    curl -fsS -m 20 "$base/api/dashboards/uid/$uid" | json 'd["dashboard"]["title"]' || fail "board $uid is not there"
    curl -fsS -m 20 -o /dev/null "$base/d/$uid" || fail "board $uid does not open"
  done
  [ -z "${own_daemon:-}" ] || echo "    (by the stand-in: no Grafana was here)"
}

# sign_in URL SERVICE: with the token that keadm prints there; a wrong one is refused.
sign_in() {
  local url=$1 token jar=$dir/cookies
  curl -fsS -m 10 -o /dev/null -L "$url/" || fail "$2's console does not answer"
  token=$(compose exec -T "$2" keadm console --quiet) || fail "$2 gives no token"
  [ "$(curl -sS -m 10 -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' -d '{"token":"wrong"}' "$url/console/session")" = 401 ] || fail "$2's console lets in a wrong token"
  [ "$(curl -sS -m 10 -o /dev/null -w '%{http_code}' -c "$jar" -H 'Content-Type: application/json' -d "{\"token\":\"$token\"}" "$url/console/session")" = 204 ] || fail "$2's console refuses its token"
  # The stream has no end: what came within two seconds counts.
  { curl -sS -N -m 2 -b "$jar" "$url/console/stream" || true; } 2>/dev/null | grep -c '^data:' > "$dir/stream" || true
  [ "$(cat "$dir/stream")" -gt 0 ] || fail "$2's console streams nothing"
}
console_lets_in() {
  sign_in "http://127.0.0.1:$KUBEEDGE_CONSOLE_PORT" cloudcore
  sign_in "http://127.0.0.1:$KUBEEDGE_EDGE_CONSOLE_PORT" edge-1
}

actors_are_shown() {
  compose exec -T cloudcore keadm health http://127.0.0.1:9091/actors | grep CloudHub >/dev/null || fail "cloudcore shows no actors"
  in_edge2 keadm health http://127.0.0.1:9092/actors | grep Edged >/dev/null || fail "edge-2 shows no actors"
}

tasks_of_edge2() { in_edge2 ctr -n k8s.io tasks ls -q | sort; }
restarts() { kubectl get pods -o 'jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].containerID}{"\n"}{end}'; }
last_tick() { in_edge2 bash -c 'cat /var/lib/kubeedge/pod-logs/default_clock_*/clock/*.log' | tail -n 1 | sed 's/.*tick //'; }
# The lamp's count in each document edge-2 published, in order.
counts() {
  python3 -c 'import json, sys
for line in open(sys.argv[1]):
    if line.endswith("\n"):
        print(json.loads(line)["twin"]["messages"]["current"]["actual"]["value"])' "$dir/documents"
}
no_own_series() { query 'count({job="edges", node="edge-2", __name__!="kubeedge_federate_edge_up"})' | json 'd["data"]["result"] == []' | grep -q True; }
an_edge_is_cut_off() {
  local uplink=${project}_uplink-2 edge=$project-edge-2-1 container before tasks tick begin wanted
  container=$(id_of edge-2) before=$(restarts) tasks=$(tasks_of_edge2)
  docker exec "$(id_of mosquitto)" mosquitto_sub -W 900 -q 1 -c -i "proof-$$" -t '$hw/events/device/default/lamp-1/twin/update/document' > "$dir/documents" 2>/dev/null &
  listener=$!
  until_true "edge-2 publishes the lamp's documents" 30 test -s "$dir/documents"

  begin=$(now_ms)
  docker network disconnect "$uplink" "$edge"
  until_true "the cloud says edge-2 is away" 90 is_away edge-2
  row "cut to NotReady in kubectl" "$(seconds_since "$begin")"
  until_true "Prometheus says edge-2 is away" 60 is_value 'kubeedge_federate_edge_up{node="edge-2"}' 0
  row "cut to \`kubeedge_federate_edge_up\` 0 in Prometheus, at most" "$(seconds_since "$begin")"
  until_true "edge-2's own series end" 60 no_own_series
  kubectl get nodes

  [ "$(tasks_of_edge2)" = "$tasks" ] || fail "a container of edge-2 ended while it was cut off"
  tick=$(last_tick)
  wanted=$(counts | tail -n 1)
  sleep 5
  [ "$(last_tick)" -gt "$tick" ] || fail "the pod of edge-2 stood still while it was cut off"
  [ "$(counts | tail -n 1)" -gt "$wanted" ] || fail "the devices of edge-2 stood still while it was cut off"
  is_ready edge-1 || fail "edge-1 suffered too"

  begin=$(now_ms)
  docker network connect "$uplink" "$edge"
  until_true "edge-2 is Ready again" 60 is_ready edge-2
  row "network back to Ready" "$(seconds_since "$begin")"
  wanted=$(counts | tail -n 1)
  lamp_told() { [ "$(kubectl get devicestatus lamp-1 -o 'jsonpath={.status.twins[?(@.propertyName=="messages")].reported.value}')" -ge "$wanted" ]; }
  until_true "the cloud knows what the lamp says now" 30 lamp_told
  row "network back to the newest reading in the cloud" "$(seconds_since "$begin")"
  until_true "Prometheus sees edge-2 again" 60 is_value 'kubeedge_federate_edge_up{node="edge-2"}' 1
  until_true "and its series" 60 both_edges

  kill "$listener" 2>/dev/null || true
  listener=
  counts | awk 'NR > 1 && $1 != last + 1 {bad = bad " " last "->" $1} {last = $1; n++} END {if (bad || n < 20) {print "gaps:" bad " of " n; exit 1} print "    " n " counts of the lamp, none missing"}' \
    || fail "messages of the lamp are missing"
  [ "$(id_of edge-2)" = "$container" ] || fail "edge-2 is another container"
  [ "$(restarts)" = "$before" ] || { diff <(echo "$before") <(restarts) >&2 || true; fail "containers of pods changed"; }
}

healthy() {
  local state
  state=$(docker inspect -f '{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}' "$(id_of "$1")")
  [ "$state" = "running healthy" ] || [ "$state" = "running " ]
}
every_service_restarts() {
  local service begin
  for service in $(compose config --services | sort); do
    begin=$(now_ms)
    compose restart --timeout 20 "$service" >/dev/null 2>&1 || fail "$service does not restart"
    until_true "$service is healthy after its restart" 90 healthy "$service"
    echo "    $service: $(seconds_since "$begin")"
  done
  until_true "edge-1 is Ready" 90 is_ready edge-1
  until_true "edge-2 is Ready" 90 is_ready edge-2
  kubectl wait --for=condition=Ready pod --all --timeout=120s >/dev/null || fail "not all pods came back"
  until_true "all targets are up" 60 targets_up
  until_true "both edges have series" 60 both_edges
  local names
  names=$(moving 12)
  [ "$(wc -w <<< "$names")" -ge 12 ] || fail "after the restarts only these devices move: ${names//$'\n'/ }"
  kubectl get pods -o wide
}

started_at() { docker inspect -f '{{.State.StartedAt}}' "$(id_of "$1")"; }
started_anew() { [ "$(started_at edge-1)" != "$1" ] && healthy edge-1; }
what_dies_inside_comes_back() {
  local program before
  for program in containerd edgecore; do
    before=$(started_at edge-1)
    compose exec -T edge-1 bash -c "kill -KILL \$(pidof $program)" || true
    until_true "edge-1 starts anew when $program dies" 60 started_anew "$before"
  done
  before=$(started_at edge-1)
  compose exec -T edge-1 bash -c 'kill -KILL $(pidof mapper-sim)'
  until_true "mapper-sim is started again" 20 compose exec -T edge-1 pidof mapper-sim
  [ "$(started_at edge-1)" = "$before" ] || fail "a mapper took its node down"
  until_true "edge-1 is Ready" 60 is_ready edge-1
  kubectl wait --for=condition=Ready pod/hello-1 --timeout=60s >/dev/null || fail "the pod of edge-1 did not come back"
}

second_up_changes_nothing() {
  local before after
  before=$(compose ps -a -q | sort)
  compose up --wait --wait-timeout 120 >/dev/null 2>&1 || fail "the second up fails"
  after=$(compose ps -a -q | sort)
  [ "$before" = "$after" ] || fail "the second up made other containers"
  is_ready edge-1 && is_ready edge-2 || fail "the second up hurt a node"
  # What users did stays: the boiler was set to 70 above.
  [ "$(kubectl get device boiler -o 'jsonpath={.spec.properties[0].desired.value}')" = 70 ] || fail "a restart took a user's change back"
}

signals_end_in_order() {
  local begin service code
  begin=$(now_ms)
  compose stop > "$dir/stop.log" 2>&1 || fail "stop fails"
  row "\`stop\` of everything" "$(seconds_since "$begin")"
  for service in cloudcore edge-1 edge-2 plc setup; do
    code=$(docker inspect -f '{{.State.ExitCode}}' "$(id_of "$service")")
    [ "$code" = 0 ] || fail "$service ended with code $code"
  done
  compose logs --tail 40 edge-1 | grep 'edgecore ends' >/dev/null || fail "edgecore of edge-1 was not let end"
}

sizes() {
  local base target image
  printf 'services: {it: {image: kubeedge-rs/edgecore:test, build: {context: "%s", dockerfile: deploy/Dockerfile, target: edgecore}}}\n' "$repo" > "$dir/edgecore.yaml"
  if [ -z "${KUBEEDGE_STACK_OVERRIDE:-}" ]; then
    "$compose_bin" --progress quiet -p kubeedge-standins -f "$dir/edgecore.yaml" build
  fi
  has_image "$(image_of debian)" || docker pull -q "$(image_of debian)" >/dev/null
  base=$(compressed "$(image_of debian)")
  row "$(image_of debian), compressed" "$(megabytes "$base")"
  for target in cloudcore edgecore edge-node tools; do
    image=kubeedge-rs/$target:test
    has_image "$image" || continue
    row "image $target, compressed; of it on top of the base" "$(megabytes "$(compressed "$image")"); $(megabytes $(($(compressed "$image") - base)))"
  done
}
compressed() { docker save "$1" | gzip -6 | wc -c; }
megabytes() { awk -v bytes="$1" 'BEGIN {printf "%.1f MB", bytes / 1e6}'; }

report() {
  echo
  echo "| what | measured |"
  echo "|---|---|"
  printf '%s\n' "${rows[@]}"
  [ -z "${own_daemon:-}" ] || echo "(stand-in images, no registry; the board's page stood where Grafana stands)"
}
