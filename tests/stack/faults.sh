# What can be wrong on a user's machine: each must be said clearly. Sourced by run.sh.

# says WHAT PATTERN COMMAND...: it fails, and its output matches.
says() {
  local what=$1 pattern=$2 output; shift 2
  if output=$("$@" 2>&1); then fail "$what: it did not fail: $output"; fi
  grep -qE "$pattern" <<< "$output" || fail "$what: it only said: $output"
  echo "    $what: $(grep -E "$pattern" <<< "$output" | tail -n 1)"
}

port_taken() {
  python3 -c 'import socket, sys, time
holder = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(600)' "$KUBEEDGE_API_PORT" &
  holder=$!
  until_true "the port is taken" 10 bash -c "exec 3<>/dev/tcp/127.0.0.1/$KUBEEDGE_API_PORT"
  says "port taken" "address already in use|port is already allocated" compose up -d cloudcore
  kill "$holder"; wait "$holder" 2>/dev/null || true
  holder=
  compose up --wait --wait-timeout 120 cloudcore >/dev/null 2>&1 || fail "cloudcore does not start when the port is free again"
  compose stop cloudcore >/dev/null 2>&1
}

edge_image=kubeedge-rs/edge-node:test
no_privileges() {
  says "no privileges" "edge: cannot start: no privileges: .*privileged: true" timeout 60 docker run --rm "$edge_image"
}

missing_kernel_features() {
  local volume=(-v kubeedge-test-check:/var/lib/containerd) empty=$dir/empty
  mkdir -p "$empty"
  # Overlayfs on overlayfs is refused as overlayfs is where there is none.
  says "no overlayfs" "edge: cannot start: overlayfs does not work on /var/lib/containerd: mount a volume" \
    timeout 60 docker run --rm --privileged "$edge_image"
  says "no cgroups" "edge: cannot start: .*(cgroup|controller).*" \
    timeout 60 docker run --rm --privileged "${volume[@]}" -v "$empty:/sys/fs/cgroup:ro" "$edge_image"
  # What ip says on a kernel without bridges; no container can be given such a kernel.
  printf '#!/bin/sh\n[ "$2" = add ] || exit 0\necho "Error: Unknown device type." >&2\nexit 2\n' > "$dir/ip-without-bridges"
  chmod +x "$dir/ip-without-bridges"
  says "no bridge" "edge: cannot start: this kernel makes no bridge .*Unknown device type" \
    timeout 60 docker run --rm --privileged -v "$dir/ip-without-bridges:/usr/local/sbin/ip:ro" "${volume[@]}" "$edge_image"
  says "no configuration" "edge: cannot start: /etc/kubeedge/config/edgecore.yaml is missing" \
    timeout 60 docker run --rm --privileged "${volume[@]}" "$edge_image"
  says "no token" "edge: cannot start: no join token in /join/token.*restart cloudcore" \
    timeout 60 docker run --rm --privileged "${volume[@]}" -v "$repo/deploy/docker/edge-1.yaml:/etc/kubeedge/config/edgecore.yaml:ro" "$edge_image"
  docker volume rm kubeedge-test-check >/dev/null
}

down_leaves_nothing() {
  compose down -v > "$dir/down.log" 2>&1 || fail "down -v fails"
  local left
  left=$(docker ps -a -q --filter "label=com.docker.compose.project=$project"
    docker volume ls -q --filter "label=com.docker.compose.project=$project"
    docker network ls -q --filter "label=com.docker.compose.project=$project")
  [ -z "$left" ] || fail "down -v left: $left"
}
