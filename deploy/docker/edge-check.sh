#!/usr/bin/env bash
# Can containers run inside this container? Says what is missing, one line each, and what to do.
# Leaves cgroups so that containerd can use them.
set -euo pipefail
fail() { echo "edge: cannot start: $*" >&2; exit 1; }
first_line() { head -n 1 <<< "$1"; }

capabilities=$((16#$(sed -n 's/^CapEff:\s*//p' /proc/self/status)))
if (((capabilities >> 21 & 1) == 0 || (capabilities >> 12 & 1) == 0)); then
  fail "no privileges: containers inside a container need them; keep 'privileged: true' in compose.yaml (docker run --privileged)"
fi

# Images are layers on top of each other.
mkdir -p /var/lib/containerd
folder=$(mktemp -d -p /var/lib/containerd .check.XXXXXX)
mkdir "$folder"/{lower,upper,work,merged}
layers=lowerdir=$folder/lower,upperdir=$folder/upper,workdir=$folder/work
if ! why=$(mount -t overlay overlay -o "$layers" "$folder/merged" 2>&1); then
  rm -rf "$folder"
  grep -qw overlay /proc/filesystems || fail "this kernel has no overlayfs (CONFIG_OVERLAY_FS; 'modprobe overlay' on the host)"
  fail "overlayfs does not work on /var/lib/containerd: mount a volume there, as compose.yaml does ($(first_line "$why"))"
fi
umount "$folder/merged"
rm -rf "$folder"

# Limits of containers. Version 2 has one tree, and a group with processes cannot divide what it has.
groups=/sys/fs/cgroup
if [ -e "$groups/cgroup.controllers" ]; then
  for controller in cpu memory pids; do
    grep -qw "$controller" "$groups/cgroup.controllers" || fail "the host gives this container no cgroup controller '$controller'"
  done
  mkdir -p "$groups/init" 2>/dev/null || fail "$groups cannot be written: keep 'privileged: true' and 'cgroup: private' in compose.yaml"
  for _ in 1 2 3; do
    while read -r pid; do echo "$pid" > "$groups/init/cgroup.procs" 2>/dev/null || true; done < "$groups/cgroup.procs"
    sed 's/^/+/; s/ / +/g' "$groups/cgroup.controllers" > "$groups/cgroup.subtree_control" 2>/dev/null && break
    sleep 0.2
  done
  grep -qw memory "$groups/cgroup.subtree_control" || fail "cgroup controllers cannot be handed on to containers"
else
  for controller in cpu memory pids devices; do
    [ -d "$groups/$controller" ] || fail "cgroups: $groups/$controller is missing; the kernel needs controller '$controller', mounted on the host"
    mkdir "$groups/$controller/.check" 2>/dev/null || fail "cgroups: $groups/$controller cannot be written; keep 'privileged: true' in compose.yaml"
    rmdir "$groups/$controller/.check"
  done
fi

# Networks of pods.
for kind in bridge "veth peer name kecheck1"; do
  # shellcheck disable=SC2086 # the words of kind are words
  why=$(ip link add kecheck0 type $kind 2>&1) || fail "this kernel makes no ${kind%% *} ('modprobe ${kind%% *}' on the host): $(first_line "$why")"
  ip link delete kecheck0
done
why=$(iptables -t nat -S 2>&1 >/dev/null) || fail "iptables' table nat does not work here: $(first_line "$why")"
