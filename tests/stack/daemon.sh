# A Docker daemon of the test's own, and stand-ins for the images of the registry. Sourced by run.sh.

daemon_start() {
  unset own_daemon
  if docker info >/dev/null 2>&1; then
    echo "using the Docker daemon of this machine"
    return
  fi
  [ "$(id -u)" = 0 ] || { echo "no Docker daemon answers, and only root can start one" >&2; exit 1; }
  own_daemon=1
  export DOCKER_HOST=unix://$dir/docker.sock
  if docker info >/dev/null 2>&1; then
    echo "using the daemon an earlier run has left (KUBEEDGE_STACK_KEEP)"
    return
  fi
  echo "starting a Docker daemon in $dir"
  # Root may lack CAP_SYS_RESOURCE, in a container or a small virtual machine. What containers ask of it is
  # left out then; a Docker host of the usual kind has it.
  cat > "$dir/runc-here" <<'RUNC'
#!/bin/bash
a=("$@")
for ((i = 0; i < $#; i++)); do
  case ${a[$i]} in
    --bundle | -b) file=${a[$((i + 1))]}/config.json ;;
    --process | -p) file=${a[$((i + 1))]} ;;
    *) continue ;;
  esac
  [ ! -f "$file" ] || sed -i 's/"CAP_SYS_RESOURCE",//g; s/,"CAP_SYS_RESOURCE"//g' "$file"
done
exec runc "$@"
RUNC
  chmod +x "$dir/runc-here"
  local runtime=()
  capsh_has_sys_resource || runtime=(--add-runtime "here=$dir/runc-here" --default-runtime here)
  setsid dockerd -H "$DOCKER_HOST" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/dockerd.pid" \
    --bip 10.88.78.1/24 --default-address-pool base=10.88.80.0/20,size=24 "${runtime[@]}" \
    >> "$dir/dockerd.log" 2>&1 < /dev/null &
  for _ in $(seq 300); do
    docker info >/dev/null 2>&1 && return
    sleep 0.1
  done
  tail -n 20 "$dir/dockerd.log" >&2
  echo "the Docker daemon does not answer" >&2
  exit 1
}
capsh_has_sys_resource() {
  local bounding=$((16#$(sed -n 's/^CapBnd:\s*//p' /proc/self/status)))
  (((bounding >> 24 & 1) == 1))
}

daemon_stop() {
  [ -n "${own_daemon:-}" ] && [ -z "${KUBEEDGE_STACK_KEEP:-}" ] || return 0
  local pid
  pid=$(cat "$dir/dockerd.pid" 2>/dev/null || true)
  if [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then
    kill -TERM "$pid"
    for _ in $(seq 300); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
  fi
  rm -rf --one-file-system "$dir"
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }
# image_of PATTERN: the reference that compose.yaml or the Dockerfile uses.
image_of() { grep -hoE "$1:[A-Za-z0-9._-]+" "$repo/deploy/compose.yaml" "$repo/deploy/Dockerfile" | head -1; }

stand_ins() {
  local debian name target
  debian=$(image_of debian)
  echo
  echo "!! No registry is asked. The images $debian, $(image_of rust), $(image_of eclipse-mosquitto),"
  echo "!! $(image_of prom/prometheus) and $(image_of grafana/grafana) are stand-ins made of Debian's packages under these names."
  echo "!! GRAFANA IS NOT HERE: its stand-in is tests/boards/serve.mjs, which reads the same boards and asks the same"
  echo "!! Prometheus. Nothing in this run shows that Grafana itself takes the provisioning and draws the boards."
  echo
  if ! has_image "$debian"; then
    echo "making $debian with debootstrap"
    debootstrap --variant=minbase bookworm "$dir/debian" > "$dir/debootstrap.log" 2>&1 || { tail -n 20 "$dir/debootstrap.log" >&2; exit 1; }
    # What the slim images leave out too.
    rm -rf "$dir"/debian/usr/share/{doc,man,info,locale,lintian}/* "$dir"/debian/var/lib/apt/lists/* "$dir"/debian/var/cache/apt/*
    printf 'path-exclude /usr/share/%s/*\n' doc man info locale > "$dir/debian/etc/dpkg/dpkg.cfg.d/slim"
    tar -C "$dir/debian" -c . | docker import -c 'CMD ["bash"]' - "$debian" >/dev/null
    rm -rf "$dir/debian"
  fi
  for target in mosquitto prometheus grafana rust; do
    case $target in
      mosquitto) name=$(image_of eclipse-mosquitto) ;;
      prometheus) name=$(image_of prom/prometheus) ;;
      grafana) name=$(image_of grafana/grafana) ;;
      rust)
        [ -z "${KUBEEDGE_STACK_OVERRIDE:-}" ] || continue
        name=kubeedge-test/rust-base
        ;;
    esac
    has_image "$name" && continue
    echo "making $name"
    printf 'services: {it: {image: "%s", build: {context: "%s", dockerfile: "%s", target: %s}}}\n' \
      "$name" "$repo/tests" "$here/standins.Dockerfile" "$target" > "$dir/standin.yaml"
    "$compose_bin" --progress quiet -p kubeedge-standins -f "$dir/standin.yaml" build
  done
  [ -n "${KUBEEDGE_STACK_OVERRIDE:-}" ] || rust_stand_in "$(image_of rust)"
}

# The toolchain of this machine, its crates, RocksDB if it is compiled, and KUBEEDGE_STACK_SEED.
rust_stand_in() {
  has_image "$1" && return
  echo "making $1 of this machine's toolchain"
  local box registry rocksdb
  (cd "$repo" && cargo fetch --quiet --locked)
  registry=${CARGO_HOME:-$HOME/.cargo}
  rocksdb=${KUBEEDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubeedge-rs}
  box=$(docker create kubeedge-test/rust-base)
  tar -C "$(rustc --print sysroot)" --exclude share/doc -c bin lib | docker cp - "$box:/usr/local/"
  tar -C "$registry" -c registry | docker cp - "$box:/usr/local/cargo/"
  for folder in "$rocksdb"/rocksdb-*; do
    [ ! -e "$folder/librocksdb.a" ] || tar -C "$rocksdb" -c "${folder##*/}" | docker cp - "$box:/var/cache/kubeedge-rs/"
  done
  # cargo takes what was compiled before only where the crates have the same path.
  local home=$dir/cargo-home
  rm -rf "$home"
  mkdir -p "$home$registry"
  ln -s /usr/local/cargo/registry "$home$registry/registry"
  tar -C "$home" -c ".${registry}" | docker cp - "$box:/"
  if [ -n "${KUBEEDGE_STACK_SEED:-}" ]; then
    tar -C "$KUBEEDGE_STACK_SEED" --exclude incremental --exclude 'libkubeedge-*' --exclude '*.rcgu.o' -c release | docker cp - "$box:/var/cache/kubeedge-target/"
  fi
  docker commit -c "ENV CARGO_NET_OFFLINE=true CARGO_HOME=$registry" "$box" "$1" >/dev/null
  docker rm "$box" >/dev/null
}
