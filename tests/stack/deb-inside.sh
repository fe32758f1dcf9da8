#!/usr/bin/env bash
# The part of deb.sh that runs inside the other Debian.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
deb=/root/kubeedge-rs.deb
say() { echo "== $*"; }
check() { "$@" || { echo "FAILED: $*" >&2; exit 1; }; }
owner() { [ "$(stat -c '%U %a' "$1")" = "$2" ] || { echo "FAILED: $1 is $(stat -c '%U %a' "$1"), not $2" >&2; exit 1; }; }
get() { # get PORT PATH: first line of the answer
  exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3 && head -1 <&3
}
ip link set lo up

say "installs, and starts nothing"
find / -xdev -name '*kubeedge*' ! -path '/root/*' ! -path '/proc/*' | sort > /root/before
check dpkg -i "$deb" >/dev/null
check test -x /usr/bin/cloudcore -a -x /usr/bin/edgecore -a -x /usr/bin/keadm
for program in cloudcore edgecore keadm; do check "$program" --version; done
check getent passwd kubeedge >/dev/null
owner /etc/kubeedge "root 1775"; owner /etc/kubeedge/config "root 755"; owner /etc/kubeedge/edge "root 700"
check test -z "$(find /etc/systemd/system -name '*core*' -o -name 'mapper@*')"
check test -z "$(find /etc/kubeedge -type f)"

say "cloudcore runs as its user on what root has prepared"
check keadm init --advertise-address 127.0.0.1 >/dev/null
# As the unit does.
check systemd-tmpfiles --create /usr/lib/kubeedge/cloudcore.tmpfiles
install -d -o kubeedge -g kubeedge -m 700 /var/lib/kubeedge/cloud
owner /etc/kubeedge/ca/rootCA.key "kubeedge 600"
setpriv --reuid=kubeedge --regid=kubeedge --clear-groups --bounding-set=-all --no-new-privs \
  cloudcore --config /etc/kubeedge/config/cloudcore.yaml >/root/cloudcore.log 2>&1 &
cloudcore=$!
for _ in $(seq 300); do [[ "$(get 9091 /readyz 2>/dev/null || true)" == *" 200 "* ]] && break; sleep 0.1; done
[[ "$(get 9091 /readyz)" == *" 200 "* ]] || { tail -20 /root/cloudcore.log >&2; exit 1; }
owner /etc/kubeedge/admin.conf "kubeedge 600"
check keadm gettoken >/dev/null
check keadm ca prepare >/dev/null
check test -z "$(find /etc/kubeedge/ca /var/lib/kubeedge/cloud ! -user kubeedge)"
kill "$cloudcore"; wait "$cloudcore" || { echo "FAILED: cloudcore ended with $?" >&2; exit 1; }

say "an upgrade keeps everything"
sum() { find /etc/kubeedge /var/lib/kubeedge -type f -exec sha256sum {} + | sort | sha256sum; }
before=$(sum)
check dpkg -i "$deb" >/dev/null
check test "$before" = "$(sum)"

say "remove keeps configuration, keys and data"
check dpkg -r kubeedge-rs >/dev/null
check test ! -e /usr/bin/cloudcore -a ! -e /usr/lib/systemd/system/cloudcore.service
check test "$before" = "$(sum)"

say "purge does not reach behind a mount"
check dpkg -i "$deb" >/dev/null
mkdir -p /var/lib/kubeedge/edge/volume /root/precious
echo precious > /root/precious/file
mount --bind /root/precious /var/lib/kubeedge/edge/volume
check dpkg -P kubeedge-rs 2>/root/purge.log >/dev/null
check grep -q "something is mounted below" /root/purge.log
check test -s /root/precious/file
umount /var/lib/kubeedge/edge/volume

say "purge removes all of it"
check dpkg -i "$deb" >/dev/null
check dpkg -P kubeedge-rs >/dev/null
find / -xdev -name '*kubeedge*' ! -path '/root/*' ! -path '/proc/*' | sort > /root/after
check diff /root/before /root/after
! getent passwd kubeedge >/dev/null || { echo "FAILED: the user is still there" >&2; exit 1; }
say "the package installs, works, upgrades and goes as it should"
