#!/bin/sh
# A lamp that speaks MQTT itself: tells once a second how it is, and does what it is told. `messages`
# counts what it has said, so that a lost one shows. Any POSIX shell and Mosquitto's clients will do.
set -eu
broker=${MQTT_HOST:-mosquitto} device=${DEVICE:-default/lamp-1}
topic="\$hw/events/device/$device"
state=/tmp/power
echo off > "$state"
# Its children end with it.
trap 'trap "" TERM; kill -TERM 0; exit 0' TERM INT

# What is wanted of it: {"delta":{"power":"on"},..}
listen() {
  while :; do
    mosquitto_sub -h "$broker" -q 1 -t "$topic/twin/update/delta" | while read -r delta; do
      wanted=$(printf %s "$delta" | sed -n 's/.*"delta":{[^}]*"power":"\([a-z]*\)".*/\1/p')
      [ -z "$wanted" ] || { echo "$wanted" > "$state"; echo "lamp: switched $wanted"; }
    done
    sleep 1
  done
}
say() {
  messages=0
  while :; do
    power=$(cat "$state")
    case $power in on) watts=$((38 + messages % 5)) ;; *) watts=0 ;; esac
    messages=$((messages + 1))
    printf '{"twin":{"power":{"actual":{"value":"%s"}},"watts":{"actual":{"value":"%s"}},"messages":{"actual":{"value":"%s"}}}}\n' "$power" "$watts" "$messages"
    sleep 1
  done
}
online() {
  while :; do
    mosquitto_pub -h "$broker" -q 1 -t "$topic/state/update" -m '{"state":"online"}' || true
    sleep 10
  done
}
listen &
online &
echo "lamp: speaks for $device on $broker"
say | mosquitto_pub -h "$broker" -q 1 -l -t "$topic/twin/update" &
wait $!
echo "lamp: the broker is gone"
exit 1
